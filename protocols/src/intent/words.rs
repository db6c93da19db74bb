//! A command as words, and a cursor over them.
//!
//! A word is lower case, without the punctuation around it and without a possessive ending; contractions are two
//! words. Something between quotation marks is one word. Every word knows where it stands in the command, so that
//! texts the user dictated are taken as they were written.

/// The most words of a command that is looked at.
pub(super) const WORDS_MAX: usize = 160;

/// One word.
#[derive(Clone, Debug)]
pub(super) struct Word<'a> {
    /// Lower case, bare.
    pub(super) text: String,
    /// As written, without punctuation around it.
    pub(super) raw: &'a str,
    /// Where it starts in the command, in bytes.
    pub(super) start: usize,
    /// Where it ends, punctuation excluded.
    pub(super) end: usize,
    /// It ended in `'s`.
    pub(super) possessive: bool,
    /// It stood between quotation marks and may hold spaces.
    pub(super) quoted: bool,
    /// Punctuation that parts clauses follows it.
    pub(super) stop: bool,
}

/// What a contraction stands for.
const CONTRACTIONS: &[(&str, [&str; 2])] = &[
    ("what's", ["what", "is"]),
    ("whats", ["what", "is"]),
    ("when's", ["when", "is"]),
    ("whens", ["when", "is"]),
    ("where's", ["where", "is"]),
    ("who's", ["who", "is"]),
    ("how's", ["how", "is"]),
    ("there's", ["there", "is"]),
    ("that's", ["that", "is"]),
    ("it's", ["it", "is"]),
    ("i'm", ["i", "am"]),
    ("i've", ["i", "have"]),
    ("i'd", ["i", "would"]),
    ("i'll", ["i", "will"]),
];

/// Days whose possessive people write without its apostrophe.
const BARE_POSSESSIVES: &[(&str, &str)] =
    &[("todays", "today"), ("tomorrows", "tomorrow"), ("tonights", "tonight")];

fn quote_end(open: char) -> Option<char> {
    match open {
        '"' => Some('"'),
        '\u{201c}' => Some('\u{201d}'),
        '\u{ab}' => Some('\u{bb}'),
        _ => None,
    }
}

/// The words of a command; `None` when there are more than [`WORDS_MAX`] or a quotation does not end.
pub(super) fn words(command: &str) -> Option<Vec<Word<'_>>> {
    let mut words = Vec::new();
    let mut at = 0;
    while let Some(start) = command[at..].find(|letter: char| !letter.is_whitespace()).map(|skip| at + skip) {
        let first = command[start..].chars().next()?;
        if let Some(close) = quote_end(first) {
            let inner = start + first.len_utf8();
            let end = inner + command[inner..].find(close)?;
            at = end + close.len_utf8();
            words.push(quoted(command, inner, end, command[at..].starts_with([',', '.', ';', '!', '?'])));
            // What is stuck to a closing mark is punctuation or nothing that is understood.
            let rest = command[at..].find(char::is_whitespace).map_or(command.len(), |skip| at + skip);
            if command[at..rest].chars().any(char::is_alphanumeric) {
                return None;
            }
            at = rest;
        } else {
            let end = command[start..].find(char::is_whitespace).map_or(command.len(), |skip| start + skip);
            plain(command, start, end, &mut words);
            at = end;
        }
        if words.len() > WORDS_MAX {
            return None;
        }
    }
    Some(words)
}

fn quoted(command: &str, start: usize, end: usize, stop: bool) -> Word<'_> {
    let raw = &command[start..end];
    Word { text: raw.to_lowercase(), raw, start, end, possessive: false, quoted: true, stop }
}

fn plain<'a>(command: &'a str, start: usize, end: usize, words: &mut Vec<Word<'a>>) {
    let punctuation = |letter: char| matches!(letter, '.' | ',' | ';' | ':' | '!' | '?' | '(' | ')');
    let token = &command[start..end];
    let front = token.len() - token.trim_start_matches(punctuation).len();
    let raw = token[front..].trim_end_matches(punctuation);
    if raw.is_empty() {
        // A dash or a lone full stop parts clauses as well.
        if let Some(last) = words.last_mut() {
            last.stop = true;
        }
        return;
    }
    let (start, stop) = (start + front, front + raw.len() < token.len());
    let end = start + raw.len();
    let mut text = raw.to_lowercase();
    if text.contains('\u{2019}') {
        text = text.replace('\u{2019}', "'");
    }
    let word = |text: String, possessive: bool, stop: bool| Word {
        text,
        raw,
        start,
        end,
        possessive,
        quoted: false,
        stop,
    };
    if let Some((_, [first, second])) = CONTRACTIONS.iter().find(|(short, _)| *short == text) {
        words.push(word((*first).to_owned(), false, false));
        words.push(word((*second).to_owned(), false, stop));
    } else if let Some((_, day)) = BARE_POSSESSIVES.iter().find(|(bare, _)| *bare == text) {
        words.push(word((*day).to_owned(), true, stop));
    } else if let Some(owner) = text.strip_suffix("'s").filter(|owner| !owner.is_empty()) {
        words.push(word(owner.to_owned(), true, stop));
    } else {
        words.push(word(text, false, stop));
    }
}

impl Word<'_> {
    /// As written, without the possessive ending.
    pub(super) fn bare(&self) -> &str {
        if !self.possessive {
            return self.raw;
        }
        let raw = self.raw;
        ["'s", "\u{2019}s", "'S", "\u{2019}S"].iter().find_map(|end| raw.strip_suffix(end)).unwrap_or(raw)
    }

    pub(super) fn is_any(&self, words: &[&str]) -> bool {
        !self.quoted && words.contains(&self.text.as_str())
    }
}

/// A place among the words. Copies go their own ways.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan<'a> {
    command: &'a str,
    words: &'a [Word<'a>],
    at: usize,
    end: usize,
}

impl<'a> Scan<'a> {
    pub(super) fn new(command: &'a str, words: &'a [Word<'a>]) -> Self {
        Self { command, words, at: 0, end: words.len() }
    }

    /// The words that are left.
    pub(super) fn rest(&self) -> &'a [Word<'a>] {
        &self.words[self.at..self.end]
    }

    pub(super) fn is_done(&self) -> bool {
        self.at >= self.end
    }

    pub(super) fn len(&self) -> usize {
        self.end - self.at
    }

    pub(super) fn peek(&self) -> Option<&'a Word<'a>> {
        self.rest().first()
    }

    pub(super) fn next(&mut self) -> Option<&'a Word<'a>> {
        let word = self.peek()?;
        self.at += 1;
        Some(word)
    }

    pub(super) fn skip(&mut self, count: usize) {
        self.at = (self.at + count).min(self.end);
    }

    /// Leaves out words at the end.
    pub(super) fn cut(&mut self, count: usize) {
        self.end = self.end.saturating_sub(count).max(self.at);
    }

    /// This place with `count` words ahead of it and no more.
    pub(super) fn take(&self, count: usize) -> Self {
        Self { end: (self.at + count).min(self.end), ..*self }
    }

    /// Goes past this word, if it is next.
    pub(super) fn eat(&mut self, text: &str) -> bool {
        let fits = self.peek().is_some_and(|word| !word.quoted && word.text == text);
        self.at += usize::from(fits);
        fits
    }

    /// Goes past one of these words, if it is next.
    pub(super) fn any(&mut self, texts: &[&str]) -> Option<&'a Word<'a>> {
        let word = self.peek().filter(|word| word.is_any(texts))?;
        self.at += 1;
        Some(word)
    }

    /// Goes past the first of these phrases that is next: put the longer ones first.
    pub(super) fn phrase(&mut self, phrases: &[&str]) -> bool {
        let Some(first) = self.peek().filter(|word| !word.quoted) else { return false };
        phrases.iter().any(|phrase| {
            let mut ahead = *self;
            // Most phrases begin with another word: taking them apart is for the few that do not.
            let fits = phrase.starts_with(&first.text) && phrase.split(' ').all(|text| ahead.eat(text));
            if fits {
                *self = ahead;
            }
            fits
        })
    }

    /// Leaves out the first of these phrases that stands at the end.
    pub(super) fn cut_phrase(&mut self, phrases: &[&str]) -> bool {
        phrases.iter().any(|phrase| {
            let count = phrase.split(' ').count();
            if self.len() < count {
                return false;
            }
            let mut tail = *self;
            tail.skip(self.len() - count);
            let fits = phrase.split(' ').all(|text| tail.eat(text));
            if fits {
                self.cut(count);
            }
            fits
        })
    }

    /// Everything from here to the end of the command, as written.
    pub(super) fn raw_rest(&self) -> &'a str {
        match self.peek() {
            // An opening quotation mark belongs to the text.
            Some(word) if word.quoted && self.len() == 1 => word.raw,
            Some(word) if word.quoted => "",
            Some(word) => self.command[word.start..].trim(),
            None => "",
        }
    }

    /// The words up to the end of this scan, as written.
    pub(super) fn raw_span(&self) -> &'a str {
        match self.rest() {
            [] => "",
            [only] => only.bare(),
            [first, .., last] => &self.command[first.start..last.end],
        }
    }
}

/// Words that open a request politely and mean nothing.
const OPENERS: &[&str] = &[
    "please",
    "hey",
    "hi",
    "hello",
    "ok",
    "okay",
    "kindly",
    "so",
    "well",
    "can you please",
    "could you please",
    "would you please",
    "can you",
    "could you",
    "would you",
    "will you",
    "i want you to",
    "i need you to",
    "i would like you to",
    "go ahead and",
    "just",
];

/// The same at the end.
const CLOSERS: &[&str] = &["please", "thanks", "thank you", "for me"];

/// Goes past politeness at both ends.
pub(super) fn polite<'a>(mut scan: Scan<'a>) -> Scan<'a> {
    for _each in 0..6 {
        if !scan.phrase(OPENERS) {
            break;
        }
    }
    scan
}

/// Leaves out politeness at the end: only for commands that do not end in a text of the user's.
pub(super) fn polite_end<'a>(mut scan: Scan<'a>) -> Scan<'a> {
    for _each in 0..3 {
        if !scan.cut_phrase(CLOSERS) {
            break;
        }
    }
    scan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(command: &str) -> Vec<String> {
        words(command).expect("words").into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn contractions_are_two_words_and_possessives_lose_their_ending() {
        assert_eq!(texts("What\u{2019}s on Anna's list?"), ["what", "is", "on", "anna", "list"]);
        assert_eq!(texts("todays events"), ["today", "events"]);
        let words = words("Anna's").expect("words");
        assert_eq!((words[0].possessive, words[0].bare()), (true, "Anna"));
    }

    #[test]
    fn a_quotation_is_one_word_and_must_end() {
        assert_eq!(texts("find \"The Plan\" now"), ["find", "the plan", "now"]);
        assert!(words("find \"the plan").is_none());
        assert!(words("find \"the\"plan").is_none());
    }

    #[test]
    fn dictated_text_is_taken_as_written() {
        let command = "say  Hello,  you!";
        let words = words(command).expect("words");
        let mut scan = Scan::new(command, &words);
        assert!(scan.eat("say"));
        assert_eq!(scan.raw_rest(), "Hello,  you!");
        assert!(scan.peek().is_some_and(|word| word.stop));
    }

    #[test]
    fn politeness_is_passed_over_at_both_ends() {
        let command = "hey, could you please check mail for me please";
        let words = words(command).expect("words");
        let scan = polite_end(polite(Scan::new(command, &words)));
        assert_eq!(scan.raw_span(), "check mail");
    }
}

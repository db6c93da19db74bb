//! A command as words: where they stand in the text, numbers among them, and the
//! vocabulary the rules know.

/// One word or punctuation mark.
#[derive(Debug, Clone)]
pub(super) struct Word {
    /// Lower case, apostrophes straight, without a possessive `'s`.
    pub(super) low: String,
    /// Bytes of the source this stands for.
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) possessive: bool,
    pub(super) capital: bool,
    /// Within quotation marks: belongs to somebody's words, not to the command.
    pub(super) quoted: bool,
}

impl Word {
    pub(super) fn is(&self, word: &str) -> bool {
        self.low == word
    }

    pub(super) fn any(&self, words: &[&str]) -> bool {
        words.contains(&self.low.as_str())
    }

    pub(super) fn is_punctuation(&self) -> bool {
        !self.low.chars().any(char::is_alphanumeric)
    }

    pub(super) fn is_email(&self) -> bool {
        is_email(&self.low)
    }
}

/// An address that any mail server would take.
pub(super) fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else { return false };
    let fine = |part: &str, more: &str, max: usize| {
        (1..=max).contains(&part.len()) && part.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    let label = |label: &str| fine(label, "-", 63) && !label.starts_with('-') && !label.ends_with('-');
    text.len() <= 254
        && local.len() <= 64
        && local.split('.').all(|part| fine(part, "_+-", 64))
        && domain.contains('.')
        && domain.split('.').all(label)
}

/// The word at `index`, in lower case; empty past the end.
pub(super) fn low(words: &[Word], index: usize) -> &str {
    words.get(index).map_or("", |word| word.low.as_str())
}

/// Splits a command into words and punctuation marks.
pub(super) fn words(source: &str) -> Vec<Word> {
    let mut list = Vec::new();
    let mut quoted = false;
    let mut chars = source.char_indices().peekable();
    while let Some((start, c)) = chars.next() {
        if c.is_whitespace() {
            continue;
        }
        if matches!(c, '"' | '\u{201c}' | '\u{201d}') {
            quoted = !quoted;
            push(&mut list, source, start, start + c.len_utf8(), true);
            continue;
        }
        if !is_inner(c) {
            push(&mut list, source, start, start + c.len_utf8(), quoted);
            continue;
        }
        let mut end = start + c.len_utf8();
        while let Some((at, c)) = chars.next_if(|(_, c)| is_inner(*c)) {
            end = at + c.len_utf8();
        }
        chunk(&mut list, source, start, end, quoted);
    }
    list
}

fn is_inner(c: char) -> bool {
    c.is_alphanumeric() || "'\u{2019}@._+-:/&#!".contains(c)
}

/// A run without spaces: a word, and the marks around it.
fn chunk(list: &mut Vec<Word>, source: &str, start: usize, end: usize, quoted: bool) {
    let text = &source[start..end];
    let body = text.trim_end_matches(['.', ':', '!', '\'', '\u{2019}', '-', '/', '&']);
    let body_start =
        body.len() - body.trim_start_matches(['.', ':', '-', '/', '\'', '\u{2019}', '+', '&']).len();
    for (at, c) in text[..body_start].char_indices() {
        push(list, source, start + at, start + at + c.len_utf8(), quoted);
    }
    pieces(list, source, start + body_start, start + body.len(), quoted);
    for (at, c) in text[body.len().max(body_start)..].char_indices() {
        let at = start + body.len().max(body_start) + at;
        push(list, source, at, at + c.len_utf8(), quoted);
    }
}

/// `3pm`, `45min`, `30-minute` and `9-10` are two or three words.
fn pieces(list: &mut Vec<Word>, source: &str, start: usize, end: usize, quoted: bool) {
    let text = &source[start..end];
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == ':' || c == '.')).unwrap_or(text.len());
    let (head, tail) = text.split_at(digits);
    let unit = tail.trim_start_matches('-').to_ascii_lowercase();
    let splits = !head.is_empty()
        && head.starts_with(|c: char| c.is_ascii_digit())
        && (matches!(unit.as_str(), "am" | "pm" | "a.m" | "p.m" | "min" | "mins" | "h" | "hr" | "hrs")
            || (tail.starts_with('-') && tail[1..].starts_with(|c: char| c.is_ascii_alphabetic()))
            || (tail.starts_with('-')
                && tail[1..].bytes().all(|b| b.is_ascii_digit() || b == b':')
                && tail.len() > 1));
    if !splits {
        push(list, source, start, end, quoted);
        return;
    }
    push(list, source, start, start + digits, quoted);
    let rest = start + digits + usize::from(tail.starts_with('-'));
    if tail.starts_with('-') && tail[1..].starts_with(|c: char| c.is_ascii_digit()) {
        push(list, source, rest - 1, rest, quoted);
    }
    push(list, source, rest, end, quoted);
}

fn push(list: &mut Vec<Word>, source: &str, start: usize, end: usize, quoted: bool) {
    if start >= end {
        return;
    }
    let text = &source[start..end];
    let straight = text.to_lowercase().replace('\u{2019}', "'");
    let (low, possessive) = match straight.strip_suffix("'s") {
        Some(low)
            if !matches!(
                low,
                "what" | "when" | "where" | "who" | "it" | "that" | "let" | "there" | "here"
            ) =>
        {
            (low.to_owned(), true)
        }
        _ => (straight, false),
    };
    let low = match low.as_str() {
        "a.m" => "am".to_owned(),
        "p.m" => "pm".to_owned(),
        _ => low,
    };
    let capital = text.chars().next().is_some_and(char::is_uppercase);
    list.push(Word { low, start, end, possessive, capital, quoted });
}

const ONES: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
const ORDINALS: [&str; 20] = [
    "zeroth",
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
    "thirteenth",
    "fourteenth",
    "fifteenth",
    "sixteenth",
    "seventeenth",
    "eighteenth",
    "nineteenth",
];

fn position(list: &[&str], word: &str) -> Option<i64> {
    list.iter().position(|one| *one == word).and_then(|at| i64::try_from(at).ok())
}

/// A cardinal number at `index` and how many words it takes: `10`, `ten`, `twenty five`.
pub(super) fn number(words: &[Word], index: usize) -> Option<(i64, usize)> {
    let word = low(words, index);
    if word.bytes().all(|byte| byte.is_ascii_digit()) {
        return word.parse().ok().filter(|number| (0..10_000).contains(number)).map(|number| (number, 1));
    }
    let (first, rest) = word.split_once('-').unwrap_or((word, ""));
    if let Some(tens) = position(&TENS, first) {
        let tens = (tens + 2) * 10;
        let next = if rest.is_empty() { low(words, index + 1) } else { rest };
        return match position(&ONES, next) {
            Some(one @ 1..=9) => Some((tens + one, if rest.is_empty() { 2 } else { 1 })),
            _ if rest.is_empty() => Some((tens, 1)),
            _ => None,
        };
    }
    position(&ONES, word).map(|number| (number, 1))
}

/// An ordinal number at `index`: `3rd`, `third`, `twenty second`, `twentieth`.
pub(super) fn ordinal(words: &[Word], index: usize) -> Option<(i64, usize)> {
    let word = low(words, index);
    if let Some(number) =
        ["st", "nd", "rd", "th"].iter().find_map(|ending| word.strip_suffix(ending)?.parse().ok())
    {
        return (1..=31).contains(&number).then_some((number, 1));
    }
    if let Some(number) =
        position(&ORDINALS, if word == "twelveth" { "twelfth" } else { word }).filter(|n| *n > 0)
    {
        return Some((number, 1));
    }
    match word {
        "twentieth" => return Some((20, 1)),
        "thirtieth" => return Some((30, 1)),
        _ => {}
    }
    let (first, rest) = word.split_once('-').unwrap_or((word, ""));
    let tens = position(&TENS, first).filter(|tens| *tens < 2).map(|tens| (tens + 2) * 10)?;
    let next = if rest.is_empty() { low(words, index + 1) } else { rest };
    let one = position(&ORDINALS, next).filter(|one| (1..=9).contains(one))?;
    Some((tens + one, if rest.is_empty() { 2 } else { 1 }))
}

pub(super) const MAIL_NOUNS: &[&str] = &[
    "mail", "mails", "email", "emails", "e-mail", "e-mails", "message", "messages", "inbox", "mailbox",
    "gmail",
];
pub(super) const FILE_NOUNS: &[&str] = &[
    "file",
    "files",
    "document",
    "documents",
    "doc",
    "docs",
    "spreadsheet",
    "spreadsheets",
    "sheet",
    "sheets",
    "slides",
    "presentation",
    "presentations",
    "pdf",
    "pdfs",
    "drive",
    "notes",
    "folder",
    "folders",
];
/// Words for the calendar as a whole, or for anything in it.
pub(super) const CALENDAR_NOUNS: &[&str] = &[
    "calendar",
    "agenda",
    "diary",
    "schedule",
    "schedules",
    "meeting",
    "meetings",
    "event",
    "events",
    "appointment",
    "appointments",
    "reminder",
    "reminders",
    "plans",
    "invitation",
    "invite",
];
/// Words for what people put into a calendar.
pub(super) const EVENT_NOUNS: &[&str] = &[
    "call",
    "lunch",
    "dinner",
    "breakfast",
    "brunch",
    "coffee",
    "interview",
    "review",
    "sync",
    "standup",
    "workshop",
    "party",
    "birthday",
    "session",
    "visit",
    "trip",
    "training",
    "demo",
    "conference",
    "catch-up",
    "catchup",
    "1:1",
    "drinks",
    "webinar",
    "class",
    "flight",
    "slot",
    "check-in",
    "retro",
    "retrospective",
    "planning",
    "kickoff",
    "celebration",
    "holiday",
    "vacation",
    "yoga",
    "dentist",
    "doctor",
    "haircut",
    "concert",
    "wedding",
    "anniversary",
    "exam",
    "deadline",
];
/// Things of other trades; a clause with one of them is not about the calendar.
const FOREIGN: &[&str] = &[
    "alarm",
    "alarms",
    "weather",
    "music",
    "song",
    "songs",
    "playlist",
    "podcast",
    "radio",
    "light",
    "lights",
    "lamp",
    "tweet",
    "tweets",
    "twitter",
    "facebook",
    "instagram",
    "taxi",
    "cab",
    "uber",
    "grocery",
    "groceries",
    "shopping",
    "recipe",
    "pizza",
    "takeaway",
    "takeout",
    "order",
    "joke",
    "news",
    "timer",
    "movie",
    "movies",
    "volume",
    "machine",
    "vacuum",
    "traffic",
    "nearby",
    "area",
    "item",
    "items",
    "stock",
    "temperature",
    "clock",
];

/// Whether words name a thing of another trade. A list is one, but not "a list of
/// my meetings" or "list my meetings".
pub(super) fn is_foreign(words: &[Word]) -> bool {
    let list = |at: usize| at > 0 && words[at].any(&["list", "lists"]) && low(words, at + 1) != "of";
    (0..words.len()).any(|at| !words[at].quoted && (words[at].any(FOREIGN) || list(at)))
}

/// Words that carry no topic.
pub(super) const STOP_WORDS: &[&str] = &[
    "a",
    "an",
    "the",
    "my",
    "our",
    "your",
    "his",
    "their",
    "its",
    "me",
    "i",
    "we",
    "you",
    "us",
    "of",
    "in",
    "on",
    "at",
    "for",
    "with",
    "to",
    "from",
    "by",
    "about",
    "regarding",
    "concerning",
    "mentioning",
    "that",
    "this",
    "these",
    "those",
    "it",
    "is",
    "are",
    "was",
    "were",
    "be",
    "been",
    "do",
    "does",
    "did",
    "have",
    "has",
    "had",
    "got",
    "get",
    "gotten",
    "any",
    "anything",
    "something",
    "some",
    "all",
    "every",
    "there",
    "here",
    "what",
    "what's",
    "whats",
    "which",
    "when",
    "when's",
    "where",
    "who",
    "who's",
    "how",
    "many",
    "much",
    "find",
    "search",
    "look",
    "looking",
    "show",
    "list",
    "give",
    "check",
    "see",
    "tell",
    "fetch",
    "bring",
    "pull",
    "up",
    "display",
    "read",
    "open",
    "please",
    "and",
    "or",
    "not",
    "one",
    "ones",
    "new",
    "unread",
    "recent",
    "recently",
    "latest",
    "last",
    "newest",
    "most",
    "first",
    "next",
    "upcoming",
    "coming",
    "now",
    "currently",
    "scheduled",
    "planned",
    "happening",
    "going",
    "will",
    "can",
    "could",
    "would",
    "should",
    "am",
    "i'm",
    "i've",
    "it's",
    "that's",
    "there's",
    "let",
    "know",
    "also",
    "then",
    "out",
    "through",
    "over",
    "again",
    "received",
    "receive",
    "sent",
    "send",
    "came",
    "come",
    "today",
    "say",
    "says",
    "said",
    "write",
    "wrote",
    "written",
    "ever",
    "yet",
    "just",
    "only",
    "still",
    "lately",
    "since",
    "free",
    "busy",
    "available",
    "time",
    "day",
    "date",
    "her",
    "him",
    "them",
    "titled",
    "called",
    "named",
    "subject",
    "attachment",
    "attachments",
    "attached",
    "into",
    "inside",
    "within",
    "so",
    "far",
    "me.",
    "content",
    "contents",
    "summary",
    "summarise",
    "summarize",
    "think",
    "want",
    "need",
    "like",
    "hear",
    "shared",
    "share",
    "saved",
    "stored",
    "dealing",
    "related",
    "containing",
    "contains",
    "starred",
    "important",
    "whole",
    "entire",
    "more",
    "else",
    "if",
    "as",
    "but",
    "set",
    "soon",
    "already",
    "during",
];

/// Names that stand for somebody already spoken of.
pub(super) const PRONOUNS: &[&str] = &["her", "him", "them", "she", "he", "they", "sender"];
/// Words that stand for something already spoken of.
pub(super) const THINGS: &[&str] = &["it", "that", "this", "one"];

pub(super) fn is_noun(word: &Word) -> bool {
    [MAIL_NOUNS, FILE_NOUNS, CALENDAR_NOUNS, EVENT_NOUNS].iter().any(|nouns| word.any(nouns))
}

/// First letter in upper case.
pub(super) fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lows(text: &str) -> Vec<String> {
        words(text).into_iter().map(|word| word.low).collect()
    }

    #[test]
    fn words_lose_their_marks_but_keep_their_place() {
        assert_eq!(
            lows("What\u{2019}s on, Anna's \"day\"?"),
            ["what's", "on", ",", "anna", "\"", "day", "\"", "?"]
        );
        assert_eq!(
            lows("at 3pm for 45min, a 30-minute call 9-10."),
            ["at", "3", "pm", "for", "45", "min", ",", "a", "30", "minute", "call", "9", "-", "10", "."]
        );
        assert_eq!(lows("to ben.o@x.example: hi!"), ["to", "ben.o@x.example", ":", "hi", "!"]);
        let source = "Tell Anna \u{2013} now";
        assert!(words(source).iter().all(|word| !source[word.start..word.end].is_empty()));
        assert!(words("... -- ' \u{e9}'s").len() > 2);
    }

    #[test]
    fn numbers_are_read_as_digits_and_as_words() {
        let number = |text: &str| number(&words(text), 0);
        assert_eq!(number("ten"), Some((10, 1)));
        assert_eq!(number("twenty five"), Some((25, 2)));
        assert_eq!(number("twenty-five"), Some((25, 1)));
        assert_eq!(number("45 minutes"), Some((45, 1)));
        assert_eq!(number("anna"), None);
        let ordinal = |text: &str| ordinal(&words(text), 0);
        assert_eq!(ordinal("second one"), Some((2, 1)));
        assert_eq!(ordinal("twenty second"), Some((22, 2)));
        assert_eq!(ordinal("3rd"), Some((3, 1)));
        assert_eq!(ordinal("thirty first"), Some((31, 2)));
        assert_eq!(ordinal("ten"), None);
    }

    #[test]
    fn an_address_is_told_from_what_only_looks_like_one() {
        assert!(is_email("a.b+c@x-y.example"));
        assert!(
            ["a@b", "@b.c", "a@.c", "a b@c.d", "a@b.c.", "dan@dancom", ".a@b.c", "a..b@c.d", "a@-b.c"]
                .iter()
                .all(|text| !is_email(text))
        );
    }
}

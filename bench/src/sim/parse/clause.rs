//! Cuts a command into clauses: "find the mail and then tell Ben" is two. Words
//! that somebody is to be told are not cut unless a command of ours plainly
//! follows.

use super::words::{FILE_NOUNS, MAIL_NOUNS, Word, is_noun, low};

/// Verbs a clause may begin with.
pub(super) const VERBS: [&str; 59] = [
    "find",
    "search",
    "look",
    "show",
    "list",
    "read",
    "open",
    "send",
    "mail",
    "email",
    "write",
    "tell",
    "reply",
    "answer",
    "respond",
    "put",
    "schedule",
    "create",
    "add",
    "book",
    "set",
    "plan",
    "arrange",
    "move",
    "reschedule",
    "change",
    "shift",
    "postpone",
    "push",
    "rename",
    "cancel",
    "delete",
    "remove",
    "erase",
    "clear",
    "drop",
    "check",
    "get",
    "make",
    "invite",
    "let",
    "ask",
    "remind",
    "summarise",
    "summarize",
    "compose",
    "message",
    "notify",
    "inform",
    "organise",
    "organize",
    "give",
    "fetch",
    "block",
    "forward",
    "share",
    "trash",
    "star",
    "archive",
];
/// Question words a clause may begin with.
const QUESTIONS: [&str; 10] =
    ["what", "what's", "whats", "when", "when's", "which", "how", "do", "did", "is"];
/// Verbs after which the user's own words for somebody else may follow.
const TELLING: [&str; 15] = [
    "send", "mail", "email", "write", "tell", "reply", "answer", "respond", "ask", "let", "message",
    "inform", "notify", "compose", "remind",
];

/// One clause.
#[derive(Debug)]
pub(super) struct Clause {
    pub(super) words: Vec<Word>,
    /// "then": it was to come after the clause before.
    pub(super) then: bool,
}

/// Cuts `words` into clauses, without politeness around them.
pub(super) fn split(words: &[Word]) -> Vec<Clause> {
    let mut clauses = Vec::new();
    let mut begin = 0;
    let mut then = false;
    let mut index = 0;
    while index < words.len() {
        if let Some((next, next_then)) = joint(words, begin, index) {
            push(&mut clauses, &words[begin..index], then);
            (begin, then) = (next, next_then);
            index = next;
        } else {
            index += 1;
        }
    }
    push(&mut clauses, &words[begin..], then);
    clauses
}

fn push(clauses: &mut Vec<Clause>, words: &[Word], then: bool) {
    let words = polite(words);
    if words.iter().any(|word| !word.is_punctuation()) {
        clauses.push(Clause { words: words.to_vec(), then });
    }
}

/// If a new clause begins after `index`, where, and whether it was said to follow.
fn joint(words: &[Word], begin: usize, index: usize) -> Option<(usize, bool)> {
    let word = &words[index];
    if word.quoted || index == begin {
        return None;
    }
    if !word.any(&["and", "then", ";", ",", ".", "!", "?", "also", "afterwards"]) {
        return None;
    }
    let mut next = index;
    let mut then = false;
    while words.get(next).is_some_and(|w| {
        w.any(&["and", "then", ";", ",", ".", "!", "?", "also", "afterwards", "after"]) && !w.quoted
    }) {
        then |= words[next].any(&["then", "afterwards"]);
        next += 1;
    }
    let rest = words.get(next..).map(polite)?;
    let telling = polite(&words[begin..index]).first().is_some_and(|word| word.any(&TELLING));
    let begins = if telling && !word.is(";") { plainly_commands(rest) } else { commands(rest) };
    begins.then_some((next, then))
}

/// Whether a command may begin here.
fn commands(words: &[Word]) -> bool {
    let first = low(words, 0);
    let second = low(words, 1);
    if words.len() < 2 || words[0].quoted {
        return false;
    }
    match first {
        // The nouns: "the file and mail from Anna".
        "mail" | "email" | "message" | "plan" | "answer" => {
            !matches!(second, "from" | "about" | "of" | "for" | "to")
        }
        _ => VERBS.contains(&first) || QUESTIONS.contains(&first),
    }
}

/// Whether this can only be a command: a verb and a noun of ours close behind.
fn plainly_commands(words: &[Word]) -> bool {
    if !commands(words) {
        return false;
    }
    let first = low(words, 0);
    let near = &words[1..words.len().min(7)];
    if matches!(first, "reply" | "reschedule" | "schedule") {
        return true;
    }
    if matches!(first, "what" | "what's" | "is" | "do" | "did" | "when" | "how" | "which") {
        return false;
    }
    near.iter().any(|word| is_noun(word) || word.any(MAIL_NOUNS) || word.any(FILE_NOUNS))
}

/// Without "please", "can you", "I would like to" and the like at either end.
pub(super) fn polite(words: &[Word]) -> &[Word] {
    const OPENINGS: [&[&str]; 37] = [
        &["please"],
        &["hey"],
        &["hi"],
        &["hello"],
        &["ok"],
        &["okay"],
        &["olly"],
        &["alexa"],
        &["sluice"],
        &["kindly"],
        &["just"],
        &["now"],
        &["also"],
        &["then"],
        &["well"],
        &["so"],
        &["and"],
        &[","],
        &["can", "you"],
        &["could", "you"],
        &["would", "you"],
        &["will", "you"],
        &["can", "i"],
        &["i", "want", "you", "to"],
        &["i", "want", "to"],
        &["i'd", "like", "you", "to"],
        &["i'd", "like", "to"],
        &["i", "would", "like", "you", "to"],
        &["i", "would", "like", "to"],
        &["i", "need", "you", "to"],
        &["i", "need", "to"],
        &["go", "ahead", "and"],
        &["go", "and"],
        &["help", "me", "to"],
        &["help", "me"],
        &["let", "me", "know"],
        &["tell", "me"],
    ];
    let mut rest = words;
    'openings: loop {
        for opening in OPENINGS {
            let fits = opening.iter().enumerate().all(|(at, word)| low(rest, at) == *word);
            if fits && rest.len() > opening.len() && !rest[0].quoted {
                rest = &rest[opening.len()..];
                continue 'openings;
            }
        }
        break;
    }
    'closings: loop {
        for closing in
            [&["please"][..], &["thanks"], &["thank", "you"], &["for", "me"], &["."], &["?"], &["!"], &[","]]
        {
            if rest.len() > closing.len() {
                let (head, tail) = rest.split_at(rest.len() - closing.len());
                // "saying thank you": the thanks are for somebody else.
                let said =
                    head.last().is_some_and(|word| word.any(&["saying", "say", "that", "with", "tell", ":"]));
                if !said && tail.iter().zip(closing).all(|(word, wanted)| word.is(wanted)) {
                    rest = head;
                    continue 'closings;
                }
            }
        }
        return rest;
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;

    fn cut(text: &str) -> Vec<String> {
        split(&words(text))
            .into_iter()
            .map(|clause| {
                let text: Vec<_> = clause.words.iter().map(|word| word.low.as_str()).collect();
                format!("{}{}", if clause.then { "then: " } else { "" }, text.join(" "))
            })
            .collect()
    }

    #[test]
    fn clauses_end_where_another_command_begins() {
        assert_eq!(
            cut(
                "Please find the mail from Anna and put a meeting with her on Tuesday, then show my calendar."
            ),
            ["find the mail from anna", "put a meeting with her on tuesday", "then: show my calendar"]
        );
        assert_eq!(cut("mail from Anna and Ben"), ["mail from anna and ben"]);
        assert_eq!(cut("Find the roadmap. Read it!"), ["find the roadmap", "read it"]);
    }

    #[test]
    fn words_for_somebody_else_stay_whole() {
        assert_eq!(
            cut("tell Anna that I am late and read nothing"),
            ["tell anna that i am late and read nothing"]
        );
        assert_eq!(
            cut("tell Anna that I am ill and cancel my meeting with Ben"),
            ["tell anna that i am ill", "cancel my meeting with ben"]
        );
        assert_eq!(cut("send a mail to Ben saying \"find it and send it\"").len(), 1);
    }
}

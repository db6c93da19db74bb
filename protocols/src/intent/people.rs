//! People, and words to search for.

use super::when::is_time_word;
use super::words::{Scan, Word};
use crate::plan::EmailAddress;

/// Someone a command speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// Known by address.
    Address(EmailAddress),
    /// Known by name, as written.
    Name(String),
    /// Known by what they are to the user: "my boss".
    Relation(String),
}

impl Who {
    /// As a search for their mail.
    pub(super) fn sender(&self) -> String {
        match self {
            Self::Address(address) => format!("from:{address}"),
            Self::Name(name) | Self::Relation(name) => {
                let name = name.to_lowercase();
                if name.contains(' ') { format!("from:({name})") } else { format!("from:{name}") }
            }
        }
    }
}

/// The most words in a name.
const NAME_WORDS_MAX: usize = 3;
/// The most words in a topic or title.
const TOPIC_WORDS_MAX: usize = 8;

/// What people are to one another.
const RELATIONS: &[&str] = &[
    "mom",
    "mum",
    "mother",
    "mommy",
    "dad",
    "daddy",
    "father",
    "wife",
    "husband",
    "boss",
    "manager",
    "brother",
    "sister",
    "friend",
    "girlfriend",
    "boyfriend",
    "son",
    "daughter",
    "uncle",
    "aunt",
    "colleague",
    "coworker",
    "grandma",
    "grandpa",
    "doctor",
    "dentist",
    "lawyer",
    "teacher",
    "landlord",
    "accountant",
    "assistant",
];

/// Words that are no part of a name: grammar, things, and what commands are made of.
const NO_NAMES: &[&str] = &[
    "a",
    "an",
    "the",
    "my",
    "your",
    "his",
    "her",
    "him",
    "them",
    "their",
    "our",
    "us",
    "me",
    "i",
    "you",
    "he",
    "she",
    "it",
    "we",
    "they",
    "this",
    "that",
    "these",
    "those",
    "and",
    "or",
    "but",
    "not",
    "no",
    "to",
    "of",
    "in",
    "on",
    "at",
    "by",
    "for",
    "from",
    "with",
    "without",
    "about",
    "regarding",
    "concerning",
    "as",
    "is",
    "are",
    "was",
    "were",
    "be",
    "been",
    "am",
    "do",
    "does",
    "did",
    "have",
    "has",
    "had",
    "can",
    "could",
    "will",
    "would",
    "shall",
    "should",
    "may",
    "might",
    "must",
    "if",
    "when",
    "where",
    "what",
    "which",
    "who",
    "whom",
    "whose",
    "why",
    "how",
    "any",
    "some",
    "all",
    "every",
    "each",
    "both",
    "new",
    "old",
    "recent",
    "latest",
    "unread",
    "read",
    "important",
    "up",
    "down",
    "out",
    "off",
    "over",
    "there",
    "here",
    "then",
    "than",
    "so",
    "too",
    "also",
    "again",
    "please",
    "email",
    "emails",
    "e-mail",
    "mail",
    "mails",
    "message",
    "messages",
    "inbox",
    "subject",
    "body",
    "contact",
    "contacts",
    "person",
    "people",
    "someone",
    "somebody",
    "anyone",
    "anybody",
    "everyone",
    "everybody",
    "nobody",
    "one",
    "ones",
    "number",
    "phone",
    "address",
    "addresses",
    "calendar",
    "schedule",
    "agenda",
    "event",
    "events",
    "meeting",
    "meetings",
    "appointment",
    "appointments",
    "reminder",
    "reminders",
    "file",
    "files",
    "document",
    "documents",
    "folder",
    "saying",
    "says",
    "say",
    "said",
    "tell",
    "telling",
    "asking",
    "ask",
    "send",
    "sent",
    "reply",
    "delete",
    "remove",
    "cancel",
    "create",
    "add",
    "set",
    "make",
    "show",
    "list",
    "find",
    "search",
    "work",
    "home",
    "office",
    "group",
    "team",
    "list",
    "company",
    "family",
    "friends",
    "work's",
    "get",
    "got",
    "received",
    "whether",
    "because",
    "back",
    "same",
    "other",
    "others",
    "another",
    "yet",
    "already",
    "just",
    "only",
    "know",
    "let",
    "give",
    "want",
    "need",
    "like",
    "first",
    "second",
    "third",
    "next",
    "last",
    "hi",
    "hello",
    "unopened",
    "unseen",
    "starred",
    "today",
    "tomorrow",
    "using",
    "via",
    "through",
    "into",
    "onto",
    "client",
    "clients",
    "staff",
    "colleagues",
    "coworkers",
    "workers",
    "employees",
    "details",
    "unknown",
    "something",
    "anything",
    "nothing",
    "everything",
    "answer",
    "respond",
    "check",
    "open",
    "compose",
    "draft",
    "forward",
    "write",
    "start",
    "edit",
    "update",
    "change",
    "move",
    "call",
    "text",
    "use",
    "save",
    "store",
    "look",
    "pull",
    "bring",
    "display",
    "download",
    "print",
    "copy",
    "archive",
    "mark",
];

fn is_name_word(word: &Word<'_>) -> bool {
    let letters =
        |text: &str| text.chars().all(|letter| letter.is_alphabetic() || matches!(letter, '-' | '\'' | '.'));
    !word.quoted
        && letters(&word.text)
        && word.text.chars().any(char::is_alphabetic)
        && !NO_NAMES.contains(&word.text.as_str())
        && !is_time_word(&word.text)
}

/// A mail address, perhaps dictated: "anna at example dot com" is not taken, "anna@example dot com" is.
pub(super) fn address(scan: &mut Scan<'_>) -> Option<EmailAddress> {
    let mut ahead = *scan;
    let mut text = ahead.next().filter(|word| word.text.contains('@'))?.raw.to_owned();
    loop {
        let mut more = ahead;
        if !more.eat("dot") {
            break;
        }
        let Some(label) = more.next() else { break };
        text = format!("{text}.{}", label.raw);
        ahead = more;
    }
    let address = text.parse().ok()?;
    *scan = ahead;
    Some(address)
}

/// The person named here: as many words as can belong to a name.
pub(super) fn who(scan: &mut Scan<'_>) -> Option<Who> {
    if let Some(address) = address(scan) {
        return Some(Who::Address(address));
    }
    let mut ahead = *scan;
    if ahead.eat("my") {
        let relation = ahead.next().filter(|word| word.is_any(RELATIONS))?;
        // "My friend Rachel" and "my boss's wife" are somebody else.
        if relation.possessive || ahead.peek().is_some_and(is_name_word) {
            return None;
        }
        *scan = ahead;
        return Some(Who::Relation(relation.text.clone()));
    }
    let name = name(scan)?;
    let relation = RELATIONS.contains(&name.to_lowercase().as_str());
    Some(if relation { Who::Relation(name.to_lowercase()) } else { Who::Name(name) })
}

/// A name of one to three words, ending where one of them is possessive.
pub(super) fn name(scan: &mut Scan<'_>) -> Option<String> {
    let mut ahead = *scan;
    let mut name = String::new();
    for _each in 0..NAME_WORDS_MAX {
        let Some(word) = ahead.peek().filter(|word| is_name_word(word)) else { break };
        ahead.skip(1);
        if !name.is_empty() {
            name.push(' ');
        }
        name.push_str(word.bare());
        if word.possessive || word.stop {
            break;
        }
    }
    // A name that goes on is longer than is understood.
    let last = ahead.rest().first();
    if name.is_empty()
        || last.is_some_and(|word| name.split(' ').count() == NAME_WORDS_MAX && is_name_word(word))
    {
        return None;
    }
    *scan = ahead;
    Some(name)
}

/// A short name in front of a noun: "Anna's mail". The possessive must be there.
pub(super) fn owner(scan: &mut Scan<'_>) -> Option<Who> {
    let mut ahead = *scan;
    let who = who(&mut ahead)?;
    let passed = scan.len() - ahead.len();
    let possessive = scan.rest().get(passed.checked_sub(1)?).is_some_and(|word| word.possessive);
    if !possessive {
        return None;
    }
    *scan = ahead;
    Some(who)
}

/// Words a topic cannot hold: with them it is a sentence of another kind.
const NO_TOPIC: &[&str] = &[
    "i",
    "me",
    "my",
    "mine",
    "you",
    "your",
    "he",
    "she",
    "it",
    "its",
    "we",
    "us",
    "our",
    "they",
    "them",
    "their",
    "her",
    "him",
    "his",
    "this",
    "that",
    "these",
    "those",
    "and",
    "or",
    "but",
    "then",
    "not",
    "except",
    "without",
    "from",
    "to",
    "with",
    "is",
    "are",
    "was",
    "were",
    "am",
    "be",
    "do",
    "does",
    "did",
    "have",
    "has",
    "had",
    "can",
    "could",
    "will",
    "would",
    "should",
    "who",
    "whom",
    "what",
    "when",
    "where",
    "which",
    "why",
    "how",
    "if",
    "whether",
    "because",
    "again",
    "please",
    "also",
    "all",
    "any",
    "every",
    "each",
    "same",
    "other",
    "another",
    "something",
    "anything",
    "everything",
    "someone",
    "saying",
    "send",
    "delete",
    "remove",
    "cancel",
    "reply",
    "forward",
    "by",
    "dot",
];

fn is_topic_word(word: &Word<'_>) -> bool {
    let letters =
        |letter: char| letter.is_alphanumeric() || matches!(letter, '-' | '\'' | '.' | '_' | '&' | '/');
    word.text.starts_with(char::is_alphanumeric)
        && word.text.chars().all(letters)
        && !NO_TOPIC.contains(&word.text.as_str())
        && !is_time_word(&word.text)
}

/// What something is about, or called: everything that is left, if every word of it can belong to a topic. A
/// quotation is taken whole, and searched for as a phrase.
pub(super) fn topic(scan: &mut Scan<'_>) -> Option<Topic> {
    let mut ahead = *scan;
    if let Some(word) = ahead.peek().filter(|word| word.quoted) {
        ahead.skip(1);
        let phrase = word.raw.trim();
        if phrase.is_empty() || phrase.contains(['"', '\\']) {
            return None;
        }
        *scan = ahead;
        return Some(Topic { said: phrase.to_owned(), search: format!("\"{}\"", phrase.to_lowercase()) });
    }
    while ahead.any(&["the", "a", "an"]).is_some() {}
    let from = ahead;
    let mut words = Vec::new();
    for word in ahead.rest() {
        if !is_topic_word(word) {
            break;
        }
        words.push(word.text.clone());
    }
    if words.is_empty() || words.len() > TOPIC_WORDS_MAX {
        return None;
    }
    ahead.skip(words.len());
    *scan = ahead;
    // Little words narrow nothing.
    let telling: Vec<String> = words
        .iter()
        .filter(|word| !matches!(word.as_str(), "the" | "a" | "an" | "of" | "for" | "in" | "on" | "at"))
        .cloned()
        .collect();
    if telling.is_empty() {
        return None;
    }
    Some(Topic { said: from.take(words.len()).raw_span().to_owned(), search: telling.join(" ") })
}

/// Words to search for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Topic {
    /// As written.
    pub(super) said: String,
    /// As a search holds them.
    pub(super) search: String,
}

/// A text as it should be sent: first letter large, a full stop at the end if there is no mark.
pub(super) fn sentence(text: &str) -> Option<String> {
    let text = text.trim();
    let first = text.chars().next()?;
    let mut sentence: String = first.to_uppercase().collect();
    sentence.push_str(&text[first.len_utf8()..]);
    if sentence.ends_with(|letter: char| letter.is_alphanumeric()) {
        sentence.push('.');
    }
    Some(sentence)
}

/// A title with its first letter large.
pub(super) fn titled(text: &str) -> Option<String> {
    let first = text.chars().next()?;
    let mut title: String = first.to_uppercase().collect();
    title.push_str(&text[first.len_utf8()..]);
    Some(title)
}

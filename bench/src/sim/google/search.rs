//! Gmail's search syntax, as far as people use it.
//!
//! Words, `"phrases"`, `-not`, `OR`, `(groups)`, `{either of these}`, and the
//! operators `from: to: cc: subject: is: in: label: has: filename: newer_than:
//! older_than: after: before: newer: older: rfc822msgid: larger: smaller:
//! category:`. Words match whole words without regard to case, and a plural its
//! singular. Dates are days in the zone of the user.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use crate::sim::world::{Message, index_text};

/// A longer query is refused, as Gmail does.
const QUERY_CHARS_MAX: usize = 2_048;
/// Nesting beyond this is refused, so that a query cannot exhaust the stack.
const DEPTH_MAX: usize = 16;

/// What the words of a query mean to one user now.
pub(super) struct SearchContext<'a> {
    pub(super) now: Timestamp,
    pub(super) zone: &'a TimeZone,
    /// Address that `me` stands for.
    pub(super) owner: &'a str,
}

/// A parsed query.
#[derive(Debug, PartialEq)]
pub(super) enum Query {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Word(String),
    From(String),
    To(String),
    Subject(String),
    Label(String),
    Attachment,
    Filename(String),
    MessageId(String),
    After(Timestamp),
    Before(Timestamp),
    Larger(usize),
    Smaller(usize),
    Nothing,
}

impl Query {
    /// Parses `text`; `None` when it is too long or nested too deeply.
    pub(super) fn parse(text: &str, context: &SearchContext<'_>) -> Option<Self> {
        if text.chars().count() > QUERY_CHARS_MAX {
            return None;
        }
        let mut parser = Parser { rest: text, context };
        parser.sequence(None, 0)
    }

    /// Puts the ids of labels in the place of their names; `id_of` knows them.
    pub(super) fn resolve_labels(&mut self, id_of: &dyn Fn(&str) -> Option<String>) {
        match self {
            Self::All(list) | Self::Any(list) => {
                list.iter_mut().for_each(|query| query.resolve_labels(id_of));
            }
            Self::Not(query) => query.resolve_labels(id_of),
            Self::Label(label) => {
                if let Some(id) = id_of(label) {
                    *label = id;
                }
            }
            _ => {}
        }
    }

    /// Whether the query itself asks for spam or the bin.
    pub(super) fn names_bin(&self) -> bool {
        match self {
            Self::All(list) | Self::Any(list) => list.iter().any(Self::names_bin),
            Self::Label(label) => matches!(label.as_str(), "TRASH" | "SPAM" | "ANYWHERE"),
            _ => false,
        }
    }

    pub(super) fn matches(&self, message: &Message) -> bool {
        let index = &message.index;
        match self {
            Self::All(list) => list.iter().all(|query| query.matches(message)),
            Self::Any(list) => list.iter().any(|query| query.matches(message)),
            Self::Not(query) => !query.matches(message),
            Self::Word(words) => {
                [&index.subject, &index.body, &index.from, &index.to]
                    .into_iter()
                    .any(|field| has_words(field, words))
                    || message.attachments.iter().any(|file| has_words(&index_text(&file.filename), words))
            }
            Self::From(words) => has_words(&index.from, words),
            Self::To(words) => has_words(&index.to, words),
            Self::Subject(words) => has_words(&index.subject, words),
            Self::Label(label) => label == "ANYWHERE" || message.has_label(label),
            Self::Attachment => !message.attachments.is_empty(),
            Self::Filename(words) => {
                message.attachments.iter().any(|file| has_words(&index_text(&file.filename), words))
            }
            Self::MessageId(id) => message.message_id.trim_matches(['<', '>']) == id,
            Self::After(at) => message.date >= *at,
            Self::Before(at) => message.date < *at,
            Self::Larger(bytes) => message.body.len() > *bytes,
            Self::Smaller(bytes) => message.body.len() < *bytes,
            Self::Nothing => false,
        }
    }
}

/// Whether the indexed field holds these words (` one two `) one after another.
pub(crate) fn has_words(field: &str, words: &str) -> bool {
    if words.trim().is_empty() || field.contains(words) {
        return true;
    }
    let word = words.trim();
    if word.contains(' ') || word.len() < 4 {
        return false;
    }
    // Gmail finds "budgets" for "budget" and the other way round.
    match word.strip_suffix('s') {
        Some(singular) => field.contains(&format!(" {singular} ")),
        None => field.contains(&format!(" {word}s ")),
    }
}

struct Parser<'a, 'c> {
    rest: &'a str,
    context: &'c SearchContext<'c>,
}

impl Parser<'_, '_> {
    /// Terms up to `close` or the end; side by side they must all match, with `OR`
    /// between them one is enough.
    fn sequence(&mut self, close: Option<char>, depth: usize) -> Option<Query> {
        if depth > DEPTH_MAX {
            return None;
        }
        let mut all: Vec<Query> = Vec::new();
        let mut either = false;
        loop {
            self.rest = self.rest.trim_start();
            let Some(c) = self.rest.chars().next() else { break };
            if Some(c) == close {
                self.rest = &self.rest[1..];
                break;
            }
            if let Some(after) =
                self.rest.strip_prefix("OR").filter(|after| after.starts_with([' ', '(', '"']))
            {
                self.rest = after;
                either = true;
                continue;
            }
            if let Some(after) = self.rest.strip_prefix("AND ") {
                self.rest = after;
                continue;
            }
            let term = self.term(depth)?;
            let joined = match all.pop() {
                Some(Query::Any(mut list)) if either => {
                    list.push(term);
                    Query::Any(list)
                }
                Some(previous) if either => Query::Any(vec![previous, term]),
                Some(previous) => {
                    all.push(previous);
                    term
                }
                None => term,
            };
            all.push(joined);
            either = false;
        }
        Some(if all.len() == 1 { all.remove(0) } else { Query::All(all) })
    }

    fn term(&mut self, depth: usize) -> Option<Query> {
        if let Some(after) = self.rest.strip_prefix('-') {
            self.rest = after;
            return Some(Query::Not(Box::new(self.term_or_all(depth)?)));
        }
        self.term_or_all(depth)
    }

    fn term_or_all(&mut self, depth: usize) -> Option<Query> {
        if let Some(after) = self.rest.strip_prefix('(') {
            self.rest = after;
            return self.sequence(Some(')'), depth + 1);
        }
        if let Some(after) = self.rest.strip_prefix('{') {
            self.rest = after;
            return Some(match self.sequence(Some('}'), depth + 1)? {
                Query::All(list) => Query::Any(list),
                one => one,
            });
        }
        let (operator, value) = self.word();
        let Some(operator) = operator else { return Some(words_query(&value, Query::Word)) };
        // `from:(anna ben)` is `from:anna from:ben`, with OR and all.
        if value.is_empty() && self.rest.starts_with('(') {
            self.rest = &self.rest[1..];
            let group = self.sequence(Some(')'), depth + 1)?;
            return Some(under(&operator, group, self.context));
        }
        Some(operation(&operator, &value, self.context))
    }

    /// One word or phrase, and the operator before it.
    fn word(&mut self) -> (Option<String>, String) {
        let end =
            self.rest.find(|c: char| c.is_whitespace() || matches!(c, '"' | ')' | '}' | '(' | '{' | ':'));
        let head = &self.rest[..end.unwrap_or(self.rest.len())];
        let operator = self.rest[head.len()..].strip_prefix(':').filter(|_| is_operator(head)).map(|after| {
            self.rest = after;
            head.to_ascii_lowercase()
        });
        (operator, self.value())
    }

    fn value(&mut self) -> String {
        if let Some(after) = self.rest.strip_prefix('"') {
            let (phrase, rest) = after.split_once('"').unwrap_or((after, ""));
            self.rest = rest;
            return format!("\"{phrase}");
        }
        let end = self.rest.find(|c: char| c.is_whitespace() || matches!(c, '"' | ')' | '}' | '(' | '{'));
        let (value, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        // A stray bracket would otherwise never be passed.
        let stuck = value.is_empty() && rest.starts_with([')', '}']);
        self.rest = if stuck { &rest[1..] } else { rest };
        value.to_owned()
    }
}

fn is_operator(word: &str) -> bool {
    const OPERATORS: [&str; 23] = [
        "from",
        "to",
        "cc",
        "bcc",
        "deliveredto",
        "subject",
        "is",
        "in",
        "label",
        "has",
        "filename",
        "newer_than",
        "older_than",
        "after",
        "before",
        "newer",
        "older",
        "rfc822msgid",
        "larger",
        "smaller",
        "size",
        "category",
        "list",
    ];
    OPERATORS.contains(&word.to_ascii_lowercase().as_str())
}

fn words_query(value: &str, make: impl Fn(String) -> Query) -> Query {
    let words = index_text(value);
    if words.trim().is_empty() { Query::All(Vec::new()) } else { make(words) }
}

/// The operator applied to every word of a group.
fn under(operator: &str, group: Query, context: &SearchContext<'_>) -> Query {
    let below = |list: Vec<Query>| list.into_iter().map(|query| under(operator, query, context)).collect();
    match group {
        Query::All(list) => Query::All(below(list)),
        Query::Any(list) => Query::Any(below(list)),
        Query::Not(query) => Query::Not(Box::new(under(operator, *query, context))),
        Query::Word(words) => operation(operator, words.trim(), context),
        other => other,
    }
}

fn operation(operator: &str, value: &str, context: &SearchContext<'_>) -> Query {
    let plain = value.trim_start_matches('"');
    match operator {
        "from" if plain.eq_ignore_ascii_case("me") => words_query(context.owner, Query::From),
        "to" if plain.eq_ignore_ascii_case("me") => words_query(context.owner, Query::To),
        "from" => words_query(plain, Query::From),
        "to" | "cc" | "bcc" | "deliveredto" => words_query(plain, Query::To),
        "subject" => words_query(plain, Query::Subject),
        "filename" => words_query(plain, Query::Filename),
        "rfc822msgid" => Query::MessageId(plain.trim_matches(['<', '>']).to_owned()),
        "has" if plain == "attachment" => Query::Attachment,
        "is" => match plain.to_ascii_lowercase().as_str() {
            "read" => Query::Not(Box::new(Query::Label("UNREAD".to_owned()))),
            "chat" | "muted" | "snoozed" => Query::Nothing,
            label => Query::Label(label.to_ascii_uppercase()),
        },
        "in" | "label" => Query::Label(match plain.to_ascii_lowercase().as_str() {
            "drafts" => "DRAFT".to_owned(),
            "bin" => "TRASH".to_owned(),
            label => label.to_ascii_uppercase(),
        }),
        "category" if plain == "primary" => {
            Query::Not(Box::new(Query::Label("CATEGORY_PROMOTIONS".to_owned())))
        }
        "category" => Query::Label(format!("CATEGORY_{}", plain.to_ascii_uppercase())),
        "newer_than" => ago(plain, context.now).map_or(Query::Nothing, Query::After),
        "older_than" => ago(plain, context.now).map_or(Query::Nothing, Query::Before),
        "after" | "newer" => day(plain, context.zone).map_or(Query::Nothing, Query::After),
        "before" | "older" => day(plain, context.zone).map_or(Query::Nothing, Query::Before),
        "larger" | "size" => bytes(plain).map_or(Query::Nothing, Query::Larger),
        "smaller" => bytes(plain).map_or(Query::Nothing, Query::Smaller),
        _ => Query::Nothing,
    }
}

/// `3d`, `2m`, `1y`, `12h` before now.
fn ago(text: &str, now: Timestamp) -> Option<Timestamp> {
    let unit = text.chars().last()?;
    let count: i64 = text.strip_suffix(unit)?.parse().ok().filter(|count| (0..=100_000).contains(count))?;
    let hours = match unit.to_ascii_lowercase() {
        'h' => count,
        'd' => count * 24,
        'm' => count * 24 * 30,
        'y' => count * 24 * 365,
        _ => return None,
    };
    now.checked_sub(hours.hours()).ok()
}

/// `2026/11/23`, `2026-11-23`, or seconds since 1970.
fn day(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    if let Ok(seconds) = text.parse::<i64>() {
        return Timestamp::from_second(seconds).ok();
    }
    let mut parts = text.split(['/', '-']).map(str::parse::<i16>);
    let (year, month, day) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    let date = Date::new(year, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()?;
    zone.to_timestamp(date.at(0, 0, 0, 0)).ok()
}

fn bytes(text: &str) -> Option<usize> {
    let (digits, factor) = match text.to_ascii_lowercase().strip_suffix(['k', 'm']) {
        None => (text.to_owned(), 1),
        Some(digits) if text.ends_with(['k', 'K']) => (digits.to_owned(), 1 << 10),
        Some(digits) => (digits.to_owned(), 1 << 20),
    };
    digits.parse::<usize>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::chance::Clock;
    use crate::sim::world::World;

    fn found(text: &str) -> Vec<String> {
        let clock = Clock::new(Some(jiff::civil::date(2026, 11, 23)), "Europe/Berlin").unwrap();
        let user = World::new(1, clock.clone()).user("ada");
        let context = SearchContext { now: clock.now(), zone: clock.zone(), owner: &user.person.email };
        let query = Query::parse(text, &context).unwrap();
        let mail = user.mail();
        mail.messages
            .iter()
            .filter(|message| query.matches(message))
            .map(|message| {
                format!("{}: {}", message.from.name.split(' ').next().unwrap_or_default(), message.subject)
            })
            .collect()
    }

    #[test]
    fn operators_narrow_and_words_match_whole_words() {
        assert_eq!(found("from:anna subject:budget"), ["Anna: Q4 budget", "Anna: Re: Q4 budget"]);
        assert_eq!(found("from:anna.berg@example.com budget is:unread"), ["Anna: Re: Q4 budget"]);
        assert_eq!(found("from:\"anna berg\" offsite").len(), 1);
        assert_eq!(found("budgets subject:q4"), found("budget subject:q4"));
        assert!(found("budg").is_empty());
        assert!(found("from:nobody").is_empty());
    }

    #[test]
    fn negation_alternatives_and_groups_combine() {
        let both = found("subject:roadmap (from:ben OR from:anna)");
        assert_eq!(both, ["Ben: Roadmap review", "Ben: Re: Roadmap review"]);
        assert_eq!(found("subject:roadmap -from:me"), both);
        assert_eq!(found("subject:roadmap from:me"), ["Ada: Re: Roadmap review"]);
        assert_eq!(found("{from:ivan from:hannah}"), found("from:(ivan OR hannah)"));
        assert_eq!(found("from:ivan OR from:hannah").len(), 3);
        assert_eq!(found("\"roadmap for next year\"").len(), 1);
        assert!(found("\"year next for roadmap\"").is_empty());
    }

    #[test]
    fn dates_labels_and_attachments_are_understood() {
        assert!(found("newer_than:2d").iter().all(|m| !m.contains("Welcome")));
        assert_eq!(found("").len(), found("older_than:5d").len() + found("newer_than:5d").len());
        assert_eq!(found("after:2026/11/20").len() + found("before:2026/11/20").len(), found("").len());
        assert!(found("in:sent").iter().all(|m| m.starts_with("Ada")));
        assert_eq!(found("has:attachment filename:budget").len(), 1);
        assert_eq!(found("is:unread").len() + found("is:read").len(), found("").len());
        assert!(found("rfc822msgid:nothing@here").is_empty());
        assert!(found("after:never").is_empty());
    }

    #[test]
    fn broken_queries_end() {
        for text in ["(", ")", "\"", "-", "from:", "from:(", "}{", "OR", "a OR", ":", "((((((a"] {
            let _ = found(text);
        }
        let clock = Clock::new(None, "UTC").unwrap();
        let context = SearchContext { now: clock.now(), zone: clock.zone(), owner: "" };
        assert_eq!(Query::parse(&"(".repeat(100), &context), None);
    }
}

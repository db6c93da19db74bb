//! What users ask of their past commands, and how those look.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{LIST_LIMIT_DEFAULT, LIST_LIMIT_MAX, TaskState, fields_problem, pointer};
use crate::http::query::decoded;
use crate::ids::TaskId;
use crate::plan::Service;
use crate::problem::Problem;
use crate::workflow::operation_names;

/// The most characters of `text`.
pub const TEXT_CHARS_MAX: usize = 200;
/// The most words of `text`.
pub const TEXT_WORDS_MAX: usize = 8;
/// The most characters of a cursor that are looked at.
const CURSOR_CHARS_MAX: usize = 256;
/// The most bytes of a value before it is decoded: `text` with every character of four bytes encoded, and room.
const VALUE_BYTES_MAX: usize = TEXT_CHARS_MAX * 12 + 100;

/// What the history is asked for: `?from=&to=&service=&intent=&state=&text=&limit=&cursor=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Only commands that were accepted at this moment or later, in milliseconds since 1970.
    pub from_ms: u64,
    /// Only commands that were accepted before this moment.
    pub to_ms: u64,
    /// Only commands that used this service.
    pub service: Option<Service>,
    /// Only commands with a step of this operation.
    pub intent: Option<&'static str>,
    /// Only commands that ended so.
    pub state: Option<TaskState>,
    /// Only commands that have all of these words, which are folded.
    pub words: Vec<String>,
    /// Entries of a page: 1 to [`LIST_LIMIT_MAX`].
    pub limit: usize,
    /// Where to go on, as an earlier page said.
    pub cursor: Option<String>,
}

impl Default for HistoryQuery {
    fn default() -> Self {
        Self {
            from_ms: 0,
            to_ms: u64::MAX,
            service: None,
            intent: None,
            state: None,
            words: Vec::new(),
            limit: LIST_LIMIT_DEFAULT,
            cursor: None,
        }
    }
}

impl HistoryQuery {
    /// Reads the part of a path behind `?`.
    ///
    /// # Errors
    /// `invalid-field`; unknown parameters and those given twice included, pointers name the parameter.
    pub fn parse(query: &str) -> Result<Self, Problem> {
        let mut read = Self::default();
        let mut given: Vec<&str> = Vec::new();
        let mut errors = Vec::new();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let value = if value.len() <= VALUE_BYTES_MAX { decoded(value, true) } else { None };
            let set = match value {
                _ if given.contains(&name) => Err("is given twice".to_owned()),
                Some(value) => read.set(name, &value),
                None => Err("is too long, or not well encoded".to_owned()),
            };
            given.push(name);
            errors.extend(set.err().map(|fault| (pointer(name), fault)));
        }
        if errors.is_empty() && read.from_ms > read.to_ms {
            errors.push((pointer("from"), "must not be after `to`".to_owned()));
        }
        if errors.is_empty() { Ok(read) } else { Err(fields_problem(errors)) }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "from" => self.from_ms = moment_ms(value)?,
            "to" => self.to_ms = moment_ms(value)?,
            "service" => {
                let services = [Service::Gmail, Service::Calendar, Service::Drive];
                let service = services.into_iter().find(|service| service.name() == value);
                self.service = Some(service.ok_or("must be `gmail`, `calendar` or `drive`")?);
            }
            "intent" => {
                let name = operation_names().find(|name| *name == value);
                self.intent = Some(name.ok_or("must be an operation, such as `gmail.send`")?);
            }
            "state" => {
                let state = TaskState::from_name(value).filter(|state| state.is_final());
                self.state = Some(state.ok_or("must be `done`, `failed`, `declined` or `cancelled`")?);
            }
            "text" => self.words = words_of(value)?,
            "limit" => match value.parse::<usize>() {
                Ok(limit) if (1..=LIST_LIMIT_MAX).contains(&limit) => self.limit = limit,
                _ => return Err(format!("must be a whole number from 1 to {LIST_LIMIT_MAX}")),
            },
            "cursor" if value.len() <= CURSOR_CHARS_MAX => self.cursor = Some(value.to_owned()),
            "cursor" => return Err("is no cursor of this list".to_owned()),
            _ => return Err("there is no such parameter".to_owned()),
        }
        Ok(())
    }

    /// Everything that decides what is in the list, as one text: two queries with the same text go through the same list.
    #[must_use]
    pub fn filter(&self) -> String {
        format!(
            "{}/{}/{}/{}/{}/{}",
            self.from_ms,
            self.to_ms,
            self.service.map_or("", Service::name),
            self.intent.unwrap_or(""),
            self.state.map_or("", TaskState::name),
            self.words.join(" "),
        )
    }

    /// Whether a command has all the words.
    #[must_use]
    pub fn has_words(&self, command: &str) -> bool {
        if self.words.is_empty() {
            return true;
        }
        let folded = command.to_lowercase();
        self.words.iter().all(|wanted| words(&folded).any(|word| word == wanted))
    }
}

/// The words of a text: what stands between blanks and punctuation.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty())
}

fn words_of(text: &str) -> Result<Vec<String>, String> {
    let folded = text.to_lowercase();
    let words: Vec<String> = words(&folded).map(str::to_owned).collect();
    let fits = text.chars().count() <= TEXT_CHARS_MAX && (1..=TEXT_WORDS_MAX).contains(&words.len());
    fits.then_some(words).ok_or_else(|| {
        format!("must have 1 to {TEXT_WORDS_MAX} words and at most {TEXT_CHARS_MAX} characters")
    })
}

/// A moment in whole milliseconds, rounded up, so that what is compared with it falls on its right side.
fn moment_ms(text: &str) -> Result<u64, String> {
    let moment: Timestamp =
        text.parse().map_err(|_| "must be a time with its offset, such as 2026-11-23T09:00:00Z")?;
    let ms = moment.as_nanosecond().div_euclid(1_000_000)
        + i128::from(moment.as_nanosecond().rem_euclid(1_000_000) > 0);
    // Nothing was accepted before 1970.
    Ok(u64::try_from(ms).unwrap_or(0))
}

/// A past command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntryView {
    /// The task that carried it out.
    pub task: TaskId,
    /// When it was accepted (RFC 3339, UTC).
    pub at: Timestamp,
    /// What the user asked, word for word.
    pub command: String,
    /// How it ended.
    pub state: TaskState,
    /// What the user was told.
    pub answer: Option<String>,
    /// The services its steps belong to.
    pub services: Vec<Service>,
    /// The operations of its steps, each once, in the order of the plan.
    pub operations: Vec<String>,
}

/// The reply to `GET /api/v1/history`, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryView {
    /// At most as many as were asked for; a page may be short, even empty, before the end.
    pub entries: Vec<HistoryEntryView>,
    /// How to go on; none at the end.
    pub next: Option<String>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pointers(query: &str) -> Vec<String> {
        let problem = HistoryQuery::parse(query).expect_err("a problem");
        problem.errors().iter().map(|error| error.pointer.clone()).collect()
    }

    #[test]
    fn a_full_query_is_read_whole() {
        let query = "from=2026-11-01T01:00:00%2B01:00&to=2026-11-02T00:00:00.0000001Z&service=gmail&intent=gmail.send\
                     &state=done&text=The+budget%2C%20Anna&limit=100&cursor=abc";
        let read = HistoryQuery::parse(query).expect("valid");
        assert_eq!((read.from_ms, read.to_ms), (1_793_491_200_000, 1_793_577_600_001));
        assert_eq!((read.service, read.intent), (Some(Service::Gmail), Some("gmail.send")));
        assert_eq!(
            (read.state, read.limit, read.cursor.as_deref()),
            (Some(TaskState::Done), 100, Some("abc"))
        );
        assert_eq!(read.words, ["the", "budget", "anna"]);
        assert_eq!(HistoryQuery::parse("").expect("valid"), HistoryQuery::default());
        assert_eq!(HistoryQuery::parse("from=1890-01-01T00:00:00Z").expect("valid").from_ms, 0);
    }

    #[test]
    fn every_wrong_parameter_is_named() {
        let query =
            "from=yesterday&to=2026-11-01&service=mail&intent=send&state=running&text=%21&limit=0&color=red";
        let wrong = ["/color", "/from", "/intent", "/limit", "/service", "/state", "/text", "/to"];
        assert_eq!(pointers(query), wrong);
        assert_eq!(pointers("from=2026-11-02T00:00:00Z&to=2026-11-01T00:00:00Z"), ["/from"]);
        assert_eq!(pointers("text=a&text=b"), ["/text"]);
        assert_eq!(pointers("text=%zz"), ["/text"]);
        assert_eq!(pointers("text=a+b+c+d+e+f+g+h+i"), ["/text"]);
        let long = |chars: usize| format!("text={}", "%F0%9F%98%80a".repeat(chars / 2));
        assert_eq!(pointers(&format!("text={}", "a".repeat(201))), ["/text"]);
        assert!(HistoryQuery::parse(&format!("text={}", "a".repeat(200))).is_ok());
        assert_eq!(pointers(&long(200)), ["/text"], "a hundred words");
    }

    #[test]
    fn all_words_must_be_in_the_command_whole_and_in_any_case() {
        let of =
            |text: &str| HistoryQuery { words: words_of(text).expect("words"), ..HistoryQuery::default() };
        assert!(of("BUDGET anna").has_words("Find the mail from Anna about the budget."));
        assert!(!of("budget bert").has_words("Find the mail from Anna about the budget."));
        assert!(!of("bud").has_words("the budget"));
        assert!(of("\u{e9}t\u{e9}").has_words("\u{c9}T\u{c9}: plans"));
        assert!(HistoryQuery::default().has_words(""));
    }

    #[test]
    fn another_filter_is_another_list_and_another_limit_is_not() {
        let filter = |query: &str| HistoryQuery::parse(query).expect("valid").filter();
        assert_eq!(filter("limit=1&cursor=x&text=A,b"), filter("text=a+B&limit=7"));
        let all = [
            "",
            "text=done",
            "state=done",
            "service=gmail",
            "intent=gmail.send",
            "from=2026-01-01T00:00:00Z",
            "to=2026-01-01T00:00:00Z",
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(all[..index].iter().all(|other| filter(other) != filter(one)), "{one}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_queries_never_panic(query in "\\PC{0,60}", text in "\\PC{0,30}") {
            let _ = HistoryQuery::parse(&query);
            let _ = HistoryQuery::parse(&format!("text={text}&from={text}"));
        }
    }
}

//! References as definitions write them.
//!
//! | text | means |
//! |---|---|
//! | `$input.name` | an input of the run |
//! | `$steps.find.messages[0]` | the first message that step `find` brought; also `events`, `files` |
//! | `$steps.find.messages[0].from` | of it: `id`, `title`, `from`, `when`, `thread_id`, `snippet` |
//! | `$steps.find.count` | how many it brought |
//! | `$steps.read.text` | what it read |

use crate::plan::{ItemKind, LIMIT_MAX};

/// A reference, its step still by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Written<'a> {
    Input(&'a str),
    Step { name: &'a str, what: What },
}

/// What of a step's results is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Item { kind: ItemKind, index: u8, part: Part },
    Count,
    Text,
}

/// What of an item is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The item itself, where an operation works on one. Its `id` means the same there.
    Whole,
    Id,
    Title,
    From,
    When,
    ThreadId,
    Snippet,
}

/// A reference whose step is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reference {
    Input(String),
    Step { step: usize, what: What },
}

/// Reads a reference, dollar and all.
pub(super) fn parse(text: &str) -> Result<Written<'_>, &'static str> {
    const FORM: &str = "a reference is $input.NAME or $steps.STEP.messages[0].FIELD, .count or .text";
    let rest = text.strip_prefix('$').ok_or(FORM)?;
    if let Some(name) = rest.strip_prefix("input.") {
        return if is_identifier(name) { Ok(Written::Input(name)) } else { Err(FORM) };
    }
    let rest = rest.strip_prefix("steps.").ok_or(FORM)?;
    let (name, path) = rest.split_once('.').ok_or(FORM)?;
    if !is_identifier(name) {
        return Err(FORM);
    }
    let what = match path {
        "count" => What::Count,
        "text" => What::Text,
        path => item(path)?,
    };
    Ok(Written::Step { name, what })
}

fn item(path: &str) -> Result<What, &'static str> {
    let (list, part) = path.split_once('.').map_or((path, None), |(list, part)| (list, Some(part)));
    let (name, index) = match list.split_once('[') {
        None => (list, None),
        Some((name, rest)) => (name, Some(rest.strip_suffix(']').ok_or("an index ends with ]")?)),
    };
    let index = match index {
        Some(digits) => index_of(digits).ok_or("an index is a number from 0 to 19")?,
        None if matches!(name, "message" | "event" | "file") => 0,
        None => return Err("messages, events and files need an index, such as messages[0]"),
    };
    let kind = match name {
        "messages" | "message" => ItemKind::Message,
        "events" | "event" => ItemKind::Event,
        "files" | "file" => ItemKind::File,
        _ => return Err("a step has messages, events or files, count, and text"),
    };
    let part = match part {
        None => Part::Whole,
        Some("id") => Part::Id,
        Some("title" | "subject" | "name") => Part::Title,
        Some("from") => Part::From,
        Some("when") => Part::When,
        Some("thread_id") => Part::ThreadId,
        Some("snippet") => Part::Snippet,
        Some(_) => return Err("an item has id, title, from, when, thread_id and snippet"),
    };
    Ok(What::Item { kind, index, part })
}

fn index_of(digits: &str) -> Option<u8> {
    let plain = (1..=2).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|index: &u8| plain && *index < LIMIT_MAX)
}

/// Whether a text can be the name of a step or an input: a letter, then letters, digits and `_`.
pub(super) fn is_identifier(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=super::NAME_CHARS_MAX).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(fits)
}

/// A piece of a text with places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Constant(&'a str),
    /// A reference with its dollar.
    Place(std::borrow::Cow<'a, str>),
}

/// Takes a text apart. A text that begins with `$` and a letter is one reference as a whole; `${...}` is a place
/// anywhere; `$$` is a dollar.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece<'_>>, &'static str> {
    let mut letters = text.chars();
    if letters.next() == Some('$') && letters.next().is_some_and(|second| second.is_ascii_alphabetic()) {
        return Ok(vec![Piece::Place(text.into())]);
    }
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        if !before.is_empty() {
            pieces.push(Piece::Constant(before));
        }
        if let Some(after) = from.strip_prefix("${") {
            let (inner, after) = after.split_once('}').ok_or("a place begins with ${ and ends with }")?;
            pieces.push(Piece::Place(format!("${inner}").into()));
            rest = after;
        } else {
            let width = if from.starts_with("$$") { 2 } else { 1 };
            pieces.push(Piece::Constant("$"));
            rest = &from[width..];
        }
    }
    if !rest.is_empty() {
        pieces.push(Piece::Constant(rest));
    }
    Ok(pieces)
}

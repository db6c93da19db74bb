//! "It", "her", "the second one", "that file": items of the session.
//!
//! Invariant: only what the newest command found or made can be meant, and only when it is one thing, or one place
//! in a list of one kind. Everything else is left to the model.

use super::words::Scan;
use super::{Remembered, Setting};
use crate::plan::{Handle, ItemKind};

/// What a reference leads to, and how sure that is in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meant {
    pub(super) handle: Handle,
    pub(super) thousandths: u16,
}

const MAIL: &[&str] = &["mail", "email", "e-mail", "message"];
const EVENT: &[&str] = &["event", "meeting", "appointment"];
const FILE: &[&str] = &["file", "document", "doc", "spreadsheet", "presentation"];
const PLACES: &[(&str, usize)] = &[
    ("first", 0),
    ("second", 1),
    ("third", 2),
    ("fourth", 3),
    ("fifth", 4),
    ("1st", 0),
    ("2nd", 1),
    ("3rd", 2),
];

fn nouns(kind: ItemKind) -> &'static [&'static str] {
    match kind {
        ItemKind::Message => MAIL,
        ItemKind::Event => EVENT,
        ItemKind::File => FILE,
    }
}

/// Goes past a reference to an item of this kind.
pub(super) fn item(scan: &mut Scan<'_>, kind: ItemKind, setting: &Setting<'_>) -> Option<Meant> {
    let mut ahead = *scan;
    let meant = if ahead.any(&["the", "that"]).is_some()
        && let Some(place) = place(&mut ahead)
    {
        if ahead.any(&["one"]).is_none() && ahead.any(nouns(kind)).is_none() {
            return None;
        }
        let item = newest(setting)?.get(place)?;
        // "The second one" counts in a list of one kind.
        let pure = newest(setting)?.iter().all(|item| item.handle.kind() == kind);
        (pure && newest(setting)?.len() > 1).then_some(Meant { handle: item.handle, thousandths: 980 })?
    } else {
        ahead = *scan;
        let pointing = ahead.any(&["that", "this", "the"]).is_some();
        let fits = if pointing { ahead.any(nouns(kind)).is_some() } else { ahead.any(&["it"]).is_some() };
        let alone = pointing && !fits && scan.clone().any(&["that", "this"]).is_some();
        if !fits && !alone {
            return None;
        }
        only(setting, kind)?
    };
    *scan = ahead;
    Some(meant)
}

fn place(scan: &mut Scan<'_>) -> Option<usize> {
    let word = scan.peek()?;
    let (_, place) = PLACES.iter().find(|(name, _)| *name == word.text)?;
    scan.skip(1);
    Some(*place)
}

/// What the newest command found, if it found anything.
fn newest<'a>(setting: &Setting<'a>) -> Option<&'a [Remembered]> {
    Some(setting.newest.items()).filter(|items| !items.is_empty())
}

fn only(setting: &Setting<'_>, kind: ItemKind) -> Option<Meant> {
    match newest(setting)? {
        [item] if item.handle.kind() == kind => Some(Meant { handle: item.handle, thousandths: 980 }),
        _ => None,
    }
}

/// Goes past "her", "him" or "them": the newest message of the one person the newest command was about.
pub(super) fn message_of_person(scan: &mut Scan<'_>, setting: &Setting<'_>) -> Option<Meant> {
    let mut ahead = *scan;
    ahead.any(&["her", "him", "them"])?;
    let items = newest(setting)?;
    let address = |item: &Remembered| item.item.person.as_ref().map(|person| person.address.to_lowercase());
    let first = items.first().filter(|item| item.handle.kind() == ItemKind::Message)?;
    let person = address(first)?;
    let same = |item: &Remembered| {
        item.handle.kind() == ItemKind::Message && address(item).as_ref() == Some(&person)
    };
    if !items.iter().all(same) {
        return None;
    }
    *scan = ahead;
    // Of several messages the newest is likely, no more.
    let thousandths = if items.len() == 1 { 970 } else { 900 };
    Some(Meant { handle: first.handle, thousandths })
}

//! Commands about files: finding and reading.

use super::people::topic;
use super::words::Scan;
use super::{Guess, Setting, reference};
use crate::plan::{ItemKind, ItemRef, Operation};

/// Files a search brings.
const FILES: u8 = 10;

const NOUNS: &[&str] = &[
    "file",
    "files",
    "document",
    "documents",
    "doc",
    "docs",
    "spreadsheet",
    "spreadsheets",
    "presentation",
    "presentations",
    "slides",
    "pdf",
    "pdfs",
];

pub(super) fn parse(scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    read(scan, setting).or_else(|| search(scan))
}

fn read(mut scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    if !scan.phrase(&["read me", "show me", "read", "open", "show"]) {
        return None;
    }
    let meant = reference::item(&mut scan, ItemKind::File, setting)?;
    if !scan.is_done() {
        return None;
    }
    Guess::new(
        "file.read",
        meant.thousandths,
        vec![Operation::DriveRead { file: ItemRef::Session(meant.handle) }],
    )
}

fn search(mut scan: Scan<'_>) -> Option<Guess> {
    let found = scan.phrase(&[
        "search my drive for",
        "search drive for",
        "search my files for",
        "look in my drive for",
    ]);
    let thousandths = if found {
        // In their drive, everything is a file, and saying so is optional.
        let mut ahead = scan;
        ahead.any(&["the", "a", "my", "all"]);
        if ahead.any(NOUNS).is_some() && ahead.phrase(&["about", "on", "called", "named", "with"]) {
            scan = ahead;
        }
        990
    } else {
        if !scan.phrase(&[
            "search for",
            "look for",
            "look up",
            "find me",
            "get me",
            "show me",
            "give me",
            "find",
            "search",
            "get",
            "show",
            "open",
            "pull up",
            "bring up",
            "where is",
            "locate",
        ]) {
            return None;
        }
        while scan.any(&["the", "a", "my", "all", "any"]).is_some() {}
        scan.any(NOUNS)?;
        scan.phrase(&["in my drive", "on my drive", "in drive"]);
        if !scan.phrase(&["about", "regarding", "called", "named", "titled", "with the name", "on", "for"]) {
            return None;
        }
        970
    };
    let topic = topic(&mut scan)?;
    scan.phrase(&["in my drive", "on my drive", "in drive"]);
    if !scan.is_done() {
        return None;
    }
    let text = topic.search.trim_matches('"').to_owned();
    Guess::new("file.search", thousandths, vec![Operation::DriveSearch { text, limit: FILES }])
}

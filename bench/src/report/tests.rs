//! The reports of a fixed result.

use super::*;
use crate::load::result::tests::example;
use crate::load::result::{ClientLimited, LoadResult};

/// Checks that every tag is closed in order and every attribute quoted, and gives
/// the text between the tags. Not a browser; enough to notice an unescaped name.
fn text_of(page: &str) -> String {
    const VOID: [&str; 1] = ["!doctype"];
    let mut open: Vec<String> = Vec::new();
    let mut text = String::new();
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        text.push_str(&rest[..start]);
        let end = start + rest[start..].find('>').expect("a tag ends");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        let name = tag.split([' ', '/']).next().unwrap_or_default().to_owned();
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(closed), "closed out of order near {rest:.60}");
        } else {
            assert!(name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '!'), "odd tag <{tag}>");
            assert_eq!(tag.matches('"').count() % 2, 0, "an open quote in <{tag}>");
            if !tag.ends_with('/') && !VOID.contains(&name.as_str()) {
                open.push(name);
            }
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    let bare = text.split('&').skip(1).find(|part| part.split(';').next().is_none_or(|name| name.len() >= 8));
    assert_eq!(bare, None, "an ampersand that begins nothing");
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&amp;", "&")
}

#[test]
fn the_page_is_well_formed_and_needs_nothing_else() {
    let page = page(&example());
    let text = text_of(&page);
    for forbidden in ["<script", "src=", "href=", "url(", "@import", "NaN", "inf "] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    for title in [
        "Latency over time",
        "Latency by percentile",
        "Throughput frontier",
        "Latency by load",
        "CPU a request",
        "Memory of the server",
    ] {
        assert!(text.contains(title), "{title}");
    }
    // Machine, build, pinning and figures.
    for shown in
        ["Example <CPU> & co", "0123456789ab", "rustc 1.95.0", "999 /s", "2.50 µs", "rises by 12.0 MiB"]
    {
        assert!(text.contains(shown), "{shown}");
    }
    assert!(text.contains("≥ 8,000") && text.contains("none"), "frontier");
    assert!(page.matches("<svg").count() >= 7, "{}", page.matches("<svg").count());
}

#[test]
fn foreign_names_stay_text() {
    let page = page(&example());
    assert!(!page.contains("<script>"));
    assert!(text_of(&page).contains("<script>alert(\"x\")</script> & 'more'"));
    let mut odd = example();
    odd.scenarios[0].name = "a\u{1b}[2J\nb".into();
    assert!(!table(&odd).contains('\u{1b}'));
}

#[test]
fn an_empty_run_has_a_page_and_a_table_too() {
    let empty = LoadResult::default();
    text_of(&page(&empty));
    assert!(!page(&empty).contains("NaN"));
    assert!(table(&empty).contains("completed"));
}

#[test]
fn the_table_shows_every_part() {
    let mut result = example();
    let shown = table(&result);
    for part in [
        "h3, open loop, steps, mix standard",
        "2 x Example <CPU> & co",
        "client 1; server 0",
        "9,990 requests, 999 /s",
        "1 errors, 9 dropped, of 10000 intended",
        "p99 <= 1 ms   2,000 /s",
        "p99 <= 10 ms  none",
        "at least 8,000 /s",
        "2 turns over 1 ms, 0 over 25 ms; longest ever 1.50 ms",
        "BROKEN        errors<1",
        "held          p99<5ms",
    ] {
        assert!(shown.contains(part), "{part:?} in\n{shown}");
    }
    assert!(!shown.contains("CLIENT WAS THE LIMIT"));
    result.client_limited = ClientLimited { limited: true, evidence: vec!["100 % busy".into()] };
    assert!(table(&result).contains("CLIENT WAS THE LIMIT") && page(&result).contains("100 % busy"));
}

#[test]
fn a_kept_file_is_shown_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| Some(directory.path().join(name));
    let outputs = Outputs { json: file("a.json"), hgrm: file("a.hgrm"), html: file("a.html") };
    outputs.write(&example()).unwrap();
    let again = Outputs { html: file("b.html"), ..Outputs::default() };
    show(&ShowArgs { file: directory.path().join("a.json"), outputs: again }).unwrap();
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
    assert_eq!(read("a.html"), read("b.html"));
    assert!(read("a.hgrm").contains("#[Mean"));
    let missing = ShowArgs { file: directory.path().join("c.json"), outputs: Outputs::default() };
    assert!(show(&missing).unwrap_err().to_string().contains("c.json"));
}

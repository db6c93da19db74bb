//! Context documents and snapshots of them, as callers name, send and see them.

use jiff::Timestamp;
use serde::Serialize;

use super::{Fields, Mode, fields_problem, object_of, pointer};
use crate::ids::SnapshotId;
use crate::problem::Problem;

/// The most characters of a document's key.
pub const CONTEXT_KEY_CHARS_MAX: usize = 128;
/// Where the snapshots stand among the documents, so no document can have this key.
pub const CONTEXT_KEY_RESERVED: &str = "snapshots";
/// The most characters of a snapshot's label.
pub const LABEL_CHARS_MAX: usize = 100;
/// The most bytes of a document's media type: twice what RFC 6838 allows for a name, and a slash.
pub const MEDIA_TYPE_BYTES_MAX: usize = 255;
/// The shortest life that may be asked for, in seconds.
pub const CONTEXT_TTL_S_MIN: u64 = 60;

/// Whether a text can be the key of a document: 1 to [`CONTEXT_KEY_CHARS_MAX`] of `A-Z a-z 0-9 . _ -`, the first a letter
/// or a digit, and not [`CONTEXT_KEY_RESERVED`].
#[must_use]
pub fn is_context_key(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=CONTEXT_KEY_CHARS_MAX).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(fits)
        && text != CONTEXT_KEY_RESERVED
}

/// Whether a text can be a document's media type: `type/subtype`, perhaps with parameters, in visible ASCII and blanks.
#[must_use]
pub fn is_media_type(text: &str) -> bool {
    let is_name = |name: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&^_.+-*".contains(&byte);
        !name.is_empty() && name.bytes().all(fits)
    };
    let essence = text.split(';').next().unwrap_or_default().trim();
    text.len() <= MEDIA_TYPE_BYTES_MAX
        && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        && essence.split_once('/').is_some_and(|(kind, of)| is_name(kind) && is_name(of))
}

/// A life in seconds, from a number of the caller's.
fn ttl_of(found: Option<u64>, ttl_s_max: u64) -> Result<u64, String> {
    let within = |ttl_s: &u64| (CONTEXT_TTL_S_MIN..=ttl_s_max).contains(ttl_s);
    found
        .filter(within)
        .ok_or_else(|| format!("must be a whole number from {CONTEXT_TTL_S_MIN} to {ttl_s_max}"))
}

/// What a document is written with: `?ttl_s=`.
///
/// # Errors
/// `invalid-field`; unknown parameters included, pointers name the parameter.
pub fn parse_put_query(query: &str, ttl_s_max: u64) -> Result<Option<u64>, Problem> {
    let (mut ttl_s, mut errors) = (None, Vec::new());
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let read = match name {
            // `parse` takes a sign as well.
            "ttl_s" => ttl_of(value.parse().ok().filter(|_| !value.starts_with('+')), ttl_s_max),
            _ => Err("there is no such parameter".to_owned()),
        };
        match read {
            Ok(read) => ttl_s = Some(read),
            Err(fault) => errors.push((pointer(name), fault)),
        }
    }
    if errors.is_empty() { Ok(ttl_s) } else { Err(fields_problem(errors)) }
}

/// Refuses parameters where there are none.
///
/// # Errors
/// `invalid-field`, naming each.
pub fn refuse_query(query: &str) -> Result<(), Problem> {
    let names = query.split('&').filter(|part| !part.is_empty());
    let names = names.map(|part| part.split_once('=').map_or(part, |(name, _)| name));
    let errors: Vec<_> = names.map(|name| (pointer(name), "there is no such parameter".to_owned())).collect();
    if errors.is_empty() { Ok(()) } else { Err(fields_problem(errors)) }
}

/// The body of `POST /api/v1/context/snapshots`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotRequest {
    /// What the user calls it: 1 to [`LABEL_CHARS_MAX`] characters.
    pub label: Option<String>,
    /// How long it is kept, in seconds.
    pub ttl_s: Option<u64>,
}

impl SnapshotRequest {
    /// Reads and checks a body.
    ///
    /// # Errors
    /// `invalid-json` or `invalid-field`.
    pub fn parse(body: &[u8], ttl_s_max: u64) -> Result<Self, Problem> {
        let mut fields = Fields { fields: object_of(body)?, errors: Vec::new(), mode: Mode::Sync };
        let label = fields.take("label").map(|label| label.as_str().map(str::to_owned));
        let fits = |label: &String| (1..=LABEL_CHARS_MAX).contains(&label.chars().count());
        let label = match label {
            None => None,
            Some(label) => {
                let label = label.filter(fits);
                if label.is_none() {
                    fields.wrong("label", format!("must be a text of 1 to {LABEL_CHARS_MAX} characters"));
                }
                label
            }
        };
        let ttl_s = fields.take("ttl_s").and_then(|ttl_s| {
            ttl_of(ttl_s.as_u64(), ttl_s_max).map_err(|fault| fields.wrong("ttl_s", fault)).ok()
        });
        let unknown = fields.fields.keys().map(|name| (pointer(name), "there is no such field".to_owned()));
        let errors: Vec<_> = unknown.chain(fields.errors).collect();
        if errors.is_empty() { Ok(Self { label, ttl_s }) } else { Err(fields_problem(errors)) }
    }
}

/// What is told of a document without its content.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DocumentView<'a> {
    /// What the user calls it.
    pub key: &'a str,
    /// Bytes of its content.
    pub bytes: u64,
    /// Bytes that are stored of it, compressed.
    pub stored_bytes: u64,
    /// What the content is, as it was sent.
    pub media_type: &'a str,
    /// Names this state of it.
    pub etag: String,
    /// How long it lives from each time that it is written, in seconds.
    pub ttl_s: u64,
    /// When it was first written.
    pub created: Timestamp,
    /// When this content was written.
    pub changed: Timestamp,
    /// When its time is over.
    pub expires: Timestamp,
}

/// A page of the list of documents.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DocumentListView<'a> {
    /// By key.
    pub documents: Vec<DocumentView<'a>>,
    /// How to go on; none at the end.
    pub next: Option<String>,
    /// Bytes that count: of all documents, and of what snapshots keep besides, each once.
    pub bytes: u64,
    /// The most bytes there may be.
    pub bytes_max: u64,
}

/// What is told of a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SnapshotView<'a> {
    /// Its id.
    pub id: SnapshotId,
    /// What the user calls it.
    pub label: Option<&'a str>,
    /// When it was taken.
    pub created: Timestamp,
    /// When its time is over.
    pub expires: Timestamp,
    /// How many documents it keeps.
    pub count: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What it keeps; left out in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub documents: Option<Vec<DocumentView<'a>>>,
}

/// A page of the list of snapshots.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SnapshotListView<'a> {
    /// Newest first.
    pub snapshots: Vec<SnapshotView<'a>>,
    /// How to go on; none at the end.
    pub next: Option<String>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const MAX: u64 = 1_000;

    #[test]
    fn keys_are_of_the_stated_alphabet() {
        for yes in ["a", "Z9", "notes.md", "a_b-c.d", "0", &"x".repeat(CONTEXT_KEY_CHARS_MAX), "snapshots2"] {
            assert!(is_context_key(yes), "{yes}");
        }
        let long = "x".repeat(CONTEXT_KEY_CHARS_MAX + 1);
        for no in ["", ".", "..", "-a", "_a", "a/b", "a b", "a%20", "\u{e9}", "a\0", "snapshots", &long] {
            assert!(!is_context_key(no), "{no:?}");
        }
    }

    #[test]
    fn media_types_have_a_type_and_a_subtype() {
        for yes in ["text/plain", "application/vnd.x+json; charset=utf-8", "text/html;q=\"a b\"", "*/*"] {
            assert!(is_media_type(yes), "{yes}");
        }
        let long = format!("text/{}", "x".repeat(MEDIA_TYPE_BYTES_MAX));
        for no in
            ["", "text", "text/", "/plain", "te xt/plain", "text/plain\r\nx: y", "text/pl\u{e4}in", &long]
        {
            assert!(!is_media_type(no), "{no:?}");
        }
    }

    #[test]
    fn a_life_is_within_its_bounds() {
        assert_eq!(parse_put_query("", MAX), Ok(None));
        assert_eq!(parse_put_query("ttl_s=60", MAX), Ok(Some(60)));
        assert_eq!(parse_put_query("ttl_s=1000&", MAX), Ok(Some(1_000)));
        for wrong in ["ttl_s=59", "ttl_s=1001", "ttl_s=", "ttl_s=+60", "ttl_s=60.0", "ttl_s=x", "life=60"] {
            let problem = parse_put_query(wrong, MAX).expect_err(wrong);
            assert_eq!(problem.errors().len(), 1, "{wrong}");
        }
        assert_eq!(refuse_query("&"), Ok(()));
        assert_eq!(refuse_query("a=1&b").expect_err("two").errors().len(), 2);
    }

    #[test]
    fn a_snapshot_may_have_a_label_and_a_life() {
        let parse = |body: serde_json::Value| SnapshotRequest::parse(body.to_string().as_bytes(), MAX);
        assert_eq!(parse(json!({})), Ok(SnapshotRequest::default()));
        assert_eq!(parse(json!({"label": null})), Ok(SnapshotRequest::default()));
        let full = SnapshotRequest { label: Some("before".to_owned()), ttl_s: Some(90) };
        assert_eq!(parse(json!({"label": "before", "ttl_s": 90})), Ok(full));
        for (body, at) in [
            (json!({"label": ""}), "/label"),
            (json!({"label": 7}), "/label"),
            (json!({"label": "x".repeat(LABEL_CHARS_MAX + 1)}), "/label"),
            (json!({"ttl_s": 59}), "/ttl_s"),
            (json!({"ttl_s": "90"}), "/ttl_s"),
            (json!({"other": 1}), "/other"),
            (json!([]), ""),
        ] {
            let problem = parse(body.clone()).expect_err("wrong");
            assert_eq!(problem.errors()[0].pointer, at, "{body}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_input_never_panics(text in "\\PC{0,40}", body in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = (is_context_key(&text), is_media_type(&text), parse_put_query(&text, MAX), refuse_query(&text));
            let _ = SnapshotRequest::parse(&body, MAX);
        }
    }
}

//! Google's resumable uploads: a session is opened with what is known of the file, then its content follows in chunks,
//! each answered with how far the upload has come.
//!
//! Invariant: every chunk but the last is a multiple of [`CHUNK_UNIT_BYTES`] long.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::ApiCall;
use crate::plan::Service;

/// Chunks but the last are multiples of this.
pub const CHUNK_UNIT_BYTES: usize = 256 * 1024;

/// The status with which an upload that is not whole yet is answered.
pub const RESUME_INCOMPLETE: u16 = 308;

/// What is known of a new file before its content.
#[must_use]
pub fn resource(name: Option<&str>, parent: Option<&str>, description: Option<&str>) -> Bytes {
    let mut fields = Map::new();
    for (field, text) in [("name", name), ("description", description)] {
        if let Some(text) = text {
            fields.insert(field.to_owned(), text.into());
        }
    }
    if let Some(parent) = parent {
        fields.insert("parents".to_owned(), Value::Array(vec![parent.into()]));
    }
    Value::Object(fields).to_string().into()
}

/// The call that sends a chunk, or none to ask how far it has come, to the address a session has.
#[must_use]
pub fn chunk(session: &str, bytes: Bytes) -> ApiCall {
    ApiCall {
        service: Service::Drive,
        method: "PUT",
        path: session.to_owned(),
        content_type: Some("application/octet-stream"),
        body: bytes,
        if_match: None,
    }
}

/// `Content-Range` of a chunk at `start`; without bytes, the question how far the upload has come. `total` is the
/// length of the whole, where it is known.
#[must_use]
pub fn content_range(start: u64, bytes: usize, total: Option<u64>) -> String {
    let total = total.map_or_else(|| "*".to_owned(), |total| total.to_string());
    match (bytes as u64).checked_sub(1) {
        Some(more) => format!("bytes {start}-{}/{total}", start + more),
        None => format!("bytes */{total}"),
    }
}

/// How many bytes the upload has, by the `Range` of an answer of [`RESUME_INCOMPLETE`]: none without one. `None` for
/// what is no such range.
#[must_use]
pub fn received(range: Option<&str>) -> Option<u64> {
    let Some(range) = range else { return Some(0) };
    let (first, last) = range.trim().strip_prefix("bytes=")?.split_once('-')?;
    let last: u64 = last.parse().ok()?;
    (first == "0").then(|| last.checked_add(1)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_written_and_read_as_google_has_them() {
        assert_eq!(content_range(0, 262_144, Some(2_000_000)), "bytes 0-262143/2000000");
        assert_eq!(content_range(262_144, 1, None), "bytes 262144-262144/*");
        assert_eq!(content_range(9, 0, Some(100)), "bytes */100");
        assert_eq!(content_range(0, 0, None), "bytes */*");
        assert_eq!(received(None), Some(0));
        assert_eq!(received(Some("bytes=0-262143")), Some(262_144));
        for wrong in ["", "bytes=5-9", "bytes=0-", "0-9", "bytes=0--1", "bytes=0-18446744073709551615"] {
            assert_eq!(received(Some(wrong)), None, "{wrong}");
        }
    }

    #[test]
    fn a_new_file_is_described_by_what_was_given() {
        assert_eq!(&resource(None, None, None)[..], b"{}");
        let all: Value = serde_json::from_slice(&resource(Some("a\"b"), Some("p"), Some("d"))).unwrap();
        assert_eq!(all, serde_json::json!({"name": "a\"b", "parents": ["p"], "description": "d"}));
    }
}

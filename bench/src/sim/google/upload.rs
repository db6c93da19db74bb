//! Uploads, for every method that takes media: at once, with a resource beside it (`multipart/related`), or in chunks
//! that can be resumed.
//!
//! Invariant: a resumable upload is carried out once, when its last byte has come; its session is gone then.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use http::Method;
use serde_json::{Value, json};

use super::{Answer, Media, Outcome, Request, fresh_id, object};
use crate::sim::serve::State;
use crate::sim::spec::Route;
use crate::sim::wire::{Call, Params, Reply, google_error};
use crate::sim::world::User;

/// Chunks but the last are multiples of this.
const CHUNK_BYTES: usize = 256 << 10;
/// Content of one upload; the simulator keeps it in memory.
const CONTENT_BYTES_MAX: usize = 64 << 20;
/// Sessions open at once.
const SESSIONS_MAX: usize = 10_000;

/// Uploads that were begun.
#[derive(Debug, Default)]
pub(crate) struct Uploads(Mutex<HashMap<String, Session>>);

impl Uploads {
    pub(crate) fn reset(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// One upload: what was asked for, and what has come so far.
#[derive(Debug)]
struct Session {
    user: String,
    route: Route,
    query: String,
    body: Value,
    content_type: String,
    received: BytesMut,
}

/// Whether this goes on with an upload.
pub(super) fn is_chunk(call: &Call) -> bool {
    call.method == Method::PUT && call.path.starts_with("/upload/") && call.query.get("upload_id").is_some()
}

/// Opens a session and says where its chunks go.
pub(super) fn begin(state: &State, user: &User, route: &Route, call: &Call, body: Value) -> Outcome {
    let declared = call.header("x-upload-content-length");
    if declared.parse::<usize>().is_ok_and(|bytes| bytes > CONTENT_BYTES_MAX) {
        return Err(google_error(413, "uploadTooLarge", "Request entity too large"));
    }
    let id = fresh_id(state);
    let kind = call.header("x-upload-content-type");
    let query: Vec<String> = call
        .query
        .iter()
        .filter(|(name, _)| !matches!(*name, "uploadType" | "upload_id" | "alt"))
        .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
        .collect();
    let session = Session {
        user: user.name.clone(),
        route: route.clone(),
        query: query.join("&"),
        body,
        content_type: if kind.is_empty() { "application/octet-stream" } else { kind }.to_owned(),
        received: BytesMut::new(),
    };
    let mut sessions = state.uploads.0.lock().unwrap_or_else(PoisonError::into_inner);
    if sessions.len() >= SESSIONS_MAX {
        return Err(google_error(503, "backendError", "Too many uploads are open."));
    }
    sessions.insert(id.clone(), session);
    let location = format!("http://{}{}?uploadType=resumable&upload_id={id}", call.header("host"), call.path);
    Ok(Answer::Raw(Reply::empty(200).with("location", location).with("x-guploader-uploadid", id)))
}

fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Takes a chunk; `finish` carries the request out when it was the last.
pub(super) fn chunk(
    state: &State,
    user: &User,
    call: &Call,
    finish: impl FnOnce(&Request<'_>) -> Outcome,
) -> Outcome {
    let id = call.query.get("upload_id").unwrap_or_default();
    let mut sessions = state.uploads.0.lock().unwrap_or_else(PoisonError::into_inner);
    let gone = || google_error(404, "notFound", "The upload session was not found or has expired.");
    let session = sessions.get_mut(id).filter(|session| session.user == user.name).ok_or_else(gone)?;
    let range = Range::parse(call.header("content-range"), call.body.len())
        .ok_or_else(|| google_error(400, "badRequest", "Failed to parse Content-Range header."))?;
    if let Some(start) = range.start {
        if start > session.received.len() {
            return Ok(Answer::Raw(incomplete(session.received.len())));
        }
        if start + call.body.len() > CONTENT_BYTES_MAX {
            return Err(google_error(413, "uploadTooLarge", "Request entity too large"));
        }
        let is_last = range.total == Some(start + call.body.len());
        if !is_last && !call.body.len().is_multiple_of(CHUNK_BYTES) {
            let message = "Chunks must be a multiple of 256 KiB, except for the last.";
            return Err(google_error(400, "badRequest", message));
        }
        // What has come before is passed over.
        let known = session.received.len() - start;
        session.received.extend_from_slice(call.body.get(known..).unwrap_or_default());
    }
    if range.total != Some(session.received.len()) {
        return Ok(Answer::Raw(incomplete(session.received.len())));
    }
    let session = sessions.remove(id).ok_or_else(gone)?;
    drop(sessions);
    let original =
        Call { query: Params::parse(&session.query), headers: call.headers.clone(), ..Call::default() };
    let media = Media { content_type: session.content_type, bytes: session.received.freeze() };
    let request = Request {
        state,
        user,
        route: &session.route,
        call: &original,
        body: session.body,
        media: Some(media),
    };
    finish(&request)
}

/// "Go on": 308, and how far it has come.
fn incomplete(received: usize) -> Reply {
    let reply = Reply::empty(308);
    if received == 0 { reply } else { reply.with("range", format!("bytes=0-{}", received - 1)) }
}

/// What a chunk says it is; no start asks how far the upload has come.
struct Range {
    start: Option<usize>,
    total: Option<usize>,
}

impl Range {
    /// `bytes 0-262143/2000000`, `bytes 0-262143/*`, `bytes */2000000`; nothing is the whole.
    fn parse(text: &str, length: usize) -> Option<Self> {
        if text.is_empty() {
            return Some(Self { start: Some(0), total: Some(length) });
        }
        let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let total = if total == "*" { None } else { Some(total.parse().ok()?) };
        if range == "*" {
            // An upload of nothing ends so, too.
            return Some(Self { start: None, total });
        }
        let (first, last) = range.split_once('-')?;
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        let fits =
            last.checked_sub(first)?.checked_add(1)? == length && total.is_none_or(|total| last < total);
        fits.then_some(Self { start: Some(first), total })
    }
}

/// The resource and the content of an upload that comes at once.
pub(super) fn take_apart(call: &Call) -> Result<(Value, Option<Media>), Reply> {
    let bad = |message: &str| google_error(400, "badRequest", message);
    let content_type = call.header("content-type");
    let media = |content_type: &str, bytes: Bytes| Media { content_type: content_type.to_owned(), bytes };
    match call.query.get("uploadType") {
        Some("media") => Ok((json!({}), Some(media(content_type, call.body.clone())))),
        Some("multipart") => {
            let boundary =
                boundary(content_type).ok_or_else(|| bad("Missing boundary in multipart header."))?;
            let parts = parts_of(&call.body, &boundary).unwrap_or_default();
            let [resource, content] = parts.as_slice() else {
                return Err(bad("Malformed multipart body: two parts are expected."));
            };
            let bytes = match content.header("content-transfer-encoding") {
                "base64" => decode_base64(&content.body).ok_or_else(|| bad("Malformed base64 content."))?,
                _ => content.body.clone(),
            };
            Ok((object(&resource.body)?, Some(media(content.header("content-type"), bytes))))
        }
        _ => Err(bad("Invalid upload request: uploadType must be media, multipart or resumable.")),
    }
}

fn decode_base64(text: &[u8]) -> Option<Bytes> {
    use base64::Engine as _;
    let text: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    base64::engine::general_purpose::STANDARD_NO_PAD_INDIFFERENT.decode(text).ok().map(Bytes::from)
}

/// One part of a multipart body.
pub(super) struct Part {
    headers: Vec<(String, String)>,
    pub(super) body: Bytes,
}

impl Part {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// The boundary that a media type names.
pub(super) fn boundary(content_type: &str) -> Option<String> {
    let parameter = content_type.split(';').map(str::trim).find_map(|text| text.strip_prefix("boundary="))?;
    let text = parameter.trim_matches('"');
    (!text.is_empty()).then(|| text.to_owned())
}

/// The parts between the boundaries; `None` when there is no boundary, or no end.
pub(super) fn parts_of(body: &Bytes, boundary: &str) -> Option<Vec<Part>> {
    let line = format!("--{boundary}");
    let mut at = find(body, line.as_bytes(), 0)? + line.len();
    let mut parts = Vec::new();
    while !body[at..].starts_with(b"--") {
        let end = find(body, format!("\n{line}").as_bytes(), at)?;
        let text = &body[at..end];
        let text = text.strip_prefix(b"\r\n").or_else(|| text.strip_prefix(b"\n")).unwrap_or(text);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let (head, content) = split_head(text);
        let head = String::from_utf8_lossy(head);
        let headers = head.lines().filter_map(|line| line.split_once(':'));
        let headers =
            headers.map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        parts.push(Part { headers: headers.collect(), body: body.slice_ref(content) });
        at = end + 1 + line.len();
    }
    Some(parts)
}

/// What stands before the first empty line, and what stands after it.
pub(super) fn split_head(text: &[u8]) -> (&[u8], &[u8]) {
    if let Some(rest) = text.strip_prefix(b"\r\n").or_else(|| text.strip_prefix(b"\n")) {
        return (&[], rest);
    }
    let crlf = find(text, b"\r\n\r\n", 0).map(|at| (at, 4));
    let lf = find(text, b"\n\n", 0).map(|at| (at, 2));
    match crlf.into_iter().chain(lf).min() {
        Some((at, gap)) => (&text[..at], &text[at + gap..]),
        None => (text, &[]),
    }
}

fn find(text: &[u8], wanted: &[u8], from: usize) -> Option<usize> {
    text.get(from..)?.windows(wanted.len()).position(|window| window == wanted).map(|at| from + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_held_to_their_length() {
        let read = |text, length| Range::parse(text, length).map(|range| (range.start, range.total));
        assert_eq!(read("", 7), Some((Some(0), Some(7))));
        assert_eq!(read("bytes 0-9/100", 10), Some((Some(0), Some(100))));
        assert_eq!(read("bytes 10-19/*", 10), Some((Some(10), None)));
        assert_eq!(read("bytes */100", 0), Some((None, Some(100))));
        for text in ["bytes 0-9/100", "bytes 9-0/100", "bytes 0-8/5", "0-8/9", "bytes a-b/c"] {
            assert!(read(text, 9).is_none(), "{text}");
        }
    }

    #[test]
    fn a_multipart_body_is_taken_apart_without_touching_the_content() {
        let body = Bytes::from_static(
            b"preface\r\n--x\r\nContent-Type: application/json\r\n\r\n{\"name\":\"a\"}\r\n--x\r\ncontent-type: text/plain\r\n\r\n\
              one\r\n\r\n--y\r\ntwo\r\n--x--\r\n",
        );
        let parts = parts_of(&body, "x").expect("parts");
        assert_eq!(parts.len(), 2);
        assert_eq!(
            (parts[0].header("content-type"), &parts[0].body[..]),
            ("application/json", &b"{\"name\":\"a\"}"[..])
        );
        assert_eq!(&parts[1].body[..], b"one\r\n\r\n--y\r\ntwo");
        assert!(
            parts_of(&body, "z").is_none() && parts_of(&Bytes::from_static(b"--x\n\nopen"), "x").is_none()
        );
        assert_eq!(boundary("multipart/related; boundary=\"a b\"").as_deref(), Some("a b"));
    }
}

//! Gmail's batch endpoint: reads in the parts of one `multipart/mixed` request, each answered by itself.
//!
//! Invariants:
//! - Only reads go into a batch, so all of it may be repeated.
//! - What is not answered, or not so that it can be told which part it belongs to, is missing; nothing is guessed.

use bytes::Bytes;

use super::ApiCall;
use crate::plan::Service;
use crate::retry::RetryAfter;

/// The most parts of one batch. A hundred are allowed, fifty advised.
pub const PARTS_MAX: usize = 50;

const PATH: &str = "/batch/gmail/v1";
/// Nothing in a part can look like it: paths are percent-encoded, and reads have no bodies.
const CONTENT_TYPE: &str = "multipart/mixed; boundary=sluice_batch";
const DELIMITER: &str = "--sluice_batch";

/// The answer to one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartAnswer {
    /// Its status.
    pub status: u16,
    /// When to try again, where a field of the part itself says so.
    pub retry_after: Option<RetryAfter>,
    /// Its body.
    pub body: Bytes,
}

/// One call that makes all of these reads of Gmail; `None` when there are none, too many, or one that is no such read.
#[must_use]
pub fn batch(calls: &[ApiCall]) -> Option<ApiCall> {
    let fits =
        |call: &ApiCall| call.service == Service::Gmail && call.method == "GET" && call.body.is_empty();
    if calls.is_empty() || calls.len() > PARTS_MAX || !calls.iter().all(fits) {
        return None;
    }
    let mut body = String::with_capacity(calls.len() * 256);
    for (index, call) in calls.iter().enumerate() {
        body.push_str(DELIMITER);
        body.push_str("\r\nContent-Type: application/http\r\nContent-ID: <part-");
        body.push_str(&index.to_string());
        body.push_str(">\r\n\r\nGET ");
        body.push_str(&call.path);
        body.push_str(" HTTP/1.1\r\n\r\n\r\n");
    }
    body.push_str(DELIMITER);
    body.push_str("--\r\n");
    let (method, path) = ("POST", PATH.to_owned());
    Some(ApiCall {
        service: Service::Gmail,
        method,
        path,
        content_type: Some(CONTENT_TYPE),
        body: body.into(),
        if_match: None,
    })
}

/// The answers to a batch of `parts`, in their order.
#[must_use]
pub fn answers(body: &Bytes, parts: usize) -> Vec<Option<PartAnswer>> {
    let mut found = vec![None; parts];
    // The boundary is the body's first line; what comes before it is no part of a batch's answer.
    let start = if body.starts_with(b"--") { Some(0) } else { find(body, b"\r\n--").map(|at| at + 2) };
    let Some(start) = start else { return found };
    let line_end = find(&body[start..], b"\r\n").map_or(body.len(), |at| start + at);
    let delimiter = [b"\r\n", &body[start..line_end]].concat();
    let mut at = line_end;
    while at < body.len() {
        let rest = &body[at..];
        let Some(length) = find(rest, &delimiter) else { break };
        if let Some((index, answer)) = part(&body.slice(at..at + length))
            && let Some(place) = found.get_mut(index)
        {
            *place = Some(answer);
        }
        at += length + delimiter.len();
    }
    found
}

/// One part, and which it is.
fn part(text: &Bytes) -> Option<(usize, PartAnswer)> {
    let (head, rest) = split_head(text)?;
    let id =
        fields(head).find_map(|(name, value)| name.eq_ignore_ascii_case("content-id").then_some(value))?;
    let index = id.trim_matches(['<', '>']).strip_prefix("response-part-")?.parse().ok()?;
    let (head, body) = split_head(&rest)?;
    let status = std::str::from_utf8(head).ok()?.lines().next()?.split(' ').nth(1)?.parse().ok()?;
    let retry_after = fields(head).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("retry-after").then(|| RetryAfter::from_header(value))?
    });
    // The length is the boundary's business; where it is told and less was sent, the answer broke off.
    let told = fields(head).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
    });
    let body = match told {
        Some(length) if length <= body.len() => body.slice(..length),
        Some(_) => return None,
        None => body,
    };
    Some((index, PartAnswer { status, retry_after, body }))
}

fn split_head(text: &Bytes) -> Option<(&[u8], Bytes)> {
    let end = find(text, b"\r\n\r\n")?;
    Some((&text[..end], text.slice(end + 4..)))
}

fn fields(head: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    let lines = std::str::from_utf8(head).unwrap_or_default().lines();
    lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name.trim(), value.trim()))
}

fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::google::{drive, gmail};

    fn reads(count: usize) -> Vec<ApiCall> {
        (0..count).map(|index| gmail::get_message(&format!("m{index}"), gmail::Format::Metadata)).collect()
    }

    #[test]
    fn reads_of_gmail_are_made_one_call_and_nothing_else_is() {
        let call = batch(&reads(2)).unwrap();
        assert_eq!((call.method, &*call.path), ("POST", "/batch/gmail/v1"));
        let text = std::str::from_utf8(&call.body).unwrap();
        assert!(text.contains("Content-ID: <part-1>\r\n\r\nGET /gmail/v1/users/me/messages/m1?"), "{text}");
        assert!(text.ends_with("\r\n--sluice_batch--\r\n"));
        assert_eq!((batch(&[]), batch(&reads(PARTS_MAX + 1))), (None, None));
        assert!(batch(&reads(PARTS_MAX)).is_some());
        assert_eq!(batch(&[drive::get_file("x")]), None);
        assert_eq!(batch(&[gmail::send_draft("x")]), None);
    }

    #[test]
    fn answers_are_told_apart_by_their_ids_and_what_is_missing_is_missing() {
        let body = Bytes::from_static(
            b"--b1\r\nContent-Type: application/http\r\nContent-ID: <response-part-2>\r\n\r\nHTTP/1.1 404 Not Found\r\n\r\n{\"a\": 1}\r\n\
              --b1\r\ncontent-id: response-part-0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}\r\n\r\n\
              --b1\r\nContent-ID: <response-part-7>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n{}\r\n\
              --b1\r\nContent-ID: <response-part-1>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}\r\n--b1--\r\n",
        );
        let found = answers(&body, 3);
        let answer =
            |status, body: &'static str| Some(PartAnswer { status, retry_after: None, body: body.into() });
        assert_eq!(found, [answer(200, "{}"), None, answer(404, "{\"a\": 1}")]);
    }

    #[test]
    fn a_part_may_say_when_to_try_again() {
        let body = Bytes::from_static(
            b"--b1\r\nContent-ID: <response-part-0>\r\n\r\nHTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\n\r\n{}\r\n--b1--\r\n",
        );
        let said = answers(&body, 1).remove(0).and_then(|part| part.retry_after);
        assert_eq!(said, Some(RetryAfter::Delay(std::time::Duration::from_secs(7))));
    }

    #[test]
    fn what_is_no_batch_answers_nothing() {
        for body in
            ["", "--", "--b", "{\"error\": 1}", "--b\r\n\r\n--b--", "\r\n--", "--b\r\nContent-ID: x\r\n--b--"]
        {
            assert_eq!(answers(&Bytes::from_static(body.as_bytes()), 2), [None, None], "{body:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let text = [b"--b\r\nContent-ID: <response-part-0>\r\n\r\nHTTP/1.1 ", &body[..], b"\r\n--b--"].concat();
            assert_eq!(answers(&text.into(), 1).len(), 1);
            assert_eq!(answers(&body.into(), 1).len(), 1);
        }
    }
}

//! Google's APIs, as far as mail, calendar and files need them: the calls to make, what the replies hold, and
//! what the errors mean.
//!
//! Invariants:
//! - A call is a value; nothing is sent here. Every text that enters a path or a query is percent-encoded by
//!   one function, so no id or search can reach another endpoint.
//! - Replies are read leniently (unknown fields are passed over, most known ones may be absent) and never
//!   trusted: texts are clipped, addresses checked before use.

pub mod batch;
pub mod calendar;
pub mod compose;
pub mod consent;
pub mod drive;
pub mod gmail;
mod html;
pub mod oauth;
pub mod resource;
pub mod rest;
pub mod trace;
pub mod upload;

use std::fmt::{self, Write as _};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::plan::Service;
use crate::problem::ProblemKind;
use crate::retry::RetryAfter;

/// The most bytes of text that reading a message or a file gives.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;

/// One call to a service, relative to its base URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiCall {
    /// The service.
    pub service: Service,
    /// The HTTP method.
    pub method: &'static str,
    /// The path and the query, encoded.
    pub path: String,
    /// The media type of the body; none when there is no body.
    pub content_type: Option<&'static str>,
    /// The body.
    pub body: Bytes,
    /// The tag that what is changed must still have, as `If-Match` names it.
    pub if_match: Option<String>,
}

impl ApiCall {
    fn bare(service: Service, method: &'static str, path: String) -> Self {
        Self { service, method, path, content_type: None, body: Bytes::new(), if_match: None }
    }

    fn json(service: Service, method: &'static str, path: String, body: &impl Serialize) -> Self {
        // The bodies are built from strings, numbers and JSON values; none can fail to serialise.
        let body = Bytes::from(serde_json::to_vec(body).unwrap_or_default());
        Self { service, method, path, content_type: Some("application/json"), body, if_match: None }
    }

    /// The same for what is in the state of this tag alone; in any, where there is no tag.
    #[must_use]
    pub fn only_if(mut self, tag: Option<&str>) -> Self {
        self.if_match = tag.map(str::to_owned);
        self
    }

    /// The path without the query, which may hold what the user looks for: fit to be shown and logged.
    #[must_use]
    pub fn path_only(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }

    /// One pair of a query, encoded.
    #[must_use]
    pub fn query_pair(name: &str, value: &str) -> String {
        format!("{}={}", Encoded(name), Encoded(value))
    }

    /// Whether repeating it changes nothing that the first did not: `GET`, and `DELETE` and `PATCH`, which
    /// set a state.
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        self.method != "POST"
    }

    /// Whether its answer is a file's content, which may be anything; all other answers are JSON, or empty.
    #[must_use]
    pub fn is_content(&self) -> bool {
        self.path.contains("alt=media") || self.path_only().ends_with("/export")
    }
}

/// Everything but unreserved characters (RFC 3986 section 2.3) as `%XX`.
pub(crate) struct Encoded<'a>(pub(crate) &'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_bytes();
        while let Some(at) = rest.iter().position(|byte| !is_unreserved(*byte)) {
            write_unreserved(f, &rest[..at])?;
            write!(f, "%{:02X}", rest[at])?;
            rest = &rest[at + 1..];
        }
        write_unreserved(f, rest)
    }
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn write_unreserved(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    // They are ASCII.
    std::str::from_utf8(bytes).map_or(Err(fmt::Error), |text| f.write_str(text))
}

/// A path segment that came from outside: encoded, and never `.` or `..`, which URL parsers resolve.
pub(crate) struct Segment<'a>(pub(crate) &'a str);

impl fmt::Display for Segment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.bytes().all(|byte| byte == b'.') {
            // An id of dots names nothing; what remains is an id that Google does not know either.
            return f.write_str("_");
        }
        Encoded(self.0).fmt(f)
    }
}

/// A path with a query that grows.
pub(crate) struct PathAndQuery {
    text: String,
    separator: char,
}

impl PathAndQuery {
    pub(crate) fn new(path: impl Into<String>) -> Self {
        Self { text: path.into(), separator: '?' }
    }

    pub(crate) fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        let value = value.to_string();
        // Writing to a String cannot fail.
        let _ = write!(self.text, "{}{}={}", self.separator, Encoded(name), Encoded(&value));
        self.separator = '&';
        self
    }

    pub(crate) fn with_some(self, name: &str, value: Option<impl fmt::Display>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }
}

/// What a reply with an error status means for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamFault {
    /// The access token is no longer good: refresh it and try once more.
    Unauthorized,
    /// The user did not grant what this needs: they must connect again.
    ScopeMissing,
    /// The user may not do this, whatever token they have.
    Forbidden,
    /// Too many requests at the moment: wait, as long as is said where it is said, and try again.
    RateLimited {
        /// When to try again.
        retry_after: Option<RetryAfter>,
    },
    /// The quota of the day is used up: trying again soon does not help.
    QuotaExhausted,
    /// There is no such thing, or not for this user. For a draft that was sent, it means that it was.
    NotFound,
    /// There is one already, or it changed meanwhile. For an insert with an id of ours, it means success.
    Conflict,
    /// It was there and is gone. For a deletion, it means success.
    Gone,
    /// The request is wrong: a fault of ours, or of what the model made of the command.
    Invalid,
    /// The service fails or is too slow: try again.
    Unavailable {
        /// When to try again.
        retry_after: Option<RetryAfter>,
    },
}

impl UpstreamFault {
    /// Whether the same request may succeed later without anyone doing anything.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::RateLimited { .. } | Self::Unavailable { .. })
    }

    /// When to try again, where that was said.
    #[must_use]
    pub const fn retry_after(self) -> Option<RetryAfter> {
        match self {
            Self::RateLimited { retry_after } | Self::Unavailable { retry_after } => retry_after,
            _ => None,
        }
    }

    /// What the caller of our API is told when nothing more can be done.
    #[must_use]
    pub const fn problem_kind(self) -> ProblemKind {
        match self {
            Self::Unauthorized | Self::ScopeMissing => ProblemKind::NeedsReauth,
            Self::RateLimited { .. } | Self::QuotaExhausted => ProblemKind::UpstreamLimited,
            Self::NotFound | Self::Gone => ProblemKind::UnresolvedReference,
            Self::Unavailable { .. } => ProblemKind::UpstreamUnavailable,
            Self::Forbidden | Self::Conflict | Self::Invalid => ProblemKind::UpstreamRefused,
        }
    }
}

/// A reply with an error status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Google answered {status} ({reason}): {message}")]
pub struct GoogleError {
    /// The HTTP status.
    pub status: u16,
    /// What it means.
    pub fault: UpstreamFault,
    /// Google's first reason, such as `rateLimitExceeded`; empty when there is none.
    pub reason: String,
    /// Google's message, clipped and without control characters.
    pub message: String,
}

#[derive(Deserialize)]
struct Body {
    error: ErrorObject,
}

#[derive(Default, Deserialize)]
struct ErrorObject {
    #[serde(default)]
    message: String,
    #[serde(default)]
    errors: Vec<ErrorEntry>,
    #[serde(default)]
    status: String,
    #[serde(default)]
    details: Vec<ErrorDetail>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct ErrorDetail {
    #[serde(default)]
    reason: String,
}

impl GoogleError {
    /// Reads the body of a reply with an error status and its `Retry-After` header. A body that says nothing
    /// leaves the status to judge by.
    #[must_use]
    pub fn classify(status: u16, body: &[u8], retry_after: Option<&str>) -> Self {
        let error = serde_json::from_slice::<Body>(body).map(|body| body.error).unwrap_or_default();
        let wait = || {
            let header = retry_after.and_then(RetryAfter::from_header);
            header.or_else(|| RetryAfter::from_message(&error.message))
        };
        let fault = match status {
            401 => UpstreamFault::Unauthorized,
            403 => forbidden(&error, wait),
            404 => UpstreamFault::NotFound,
            409 | 412 => UpstreamFault::Conflict,
            410 => UpstreamFault::Gone,
            // Some daily limits are reported as 429 too.
            429 if error.has("dailyLimitExceeded") => UpstreamFault::QuotaExhausted,
            429 => UpstreamFault::RateLimited { retry_after: wait() },
            408 | 500..=599 => UpstreamFault::Unavailable { retry_after: wait() },
            _ => UpstreamFault::Invalid,
        };
        let reason = error.reasons().next().unwrap_or(&error.status);
        Self { status, fault, reason: crate::plan::clip(reason), message: crate::plan::clip(&error.message) }
    }
}

impl ErrorObject {
    fn reasons(&self) -> impl Iterator<Item = &str> {
        let entries = self.errors.iter().map(|entry| entry.reason.as_str());
        let details = self.details.iter().map(|detail| detail.reason.as_str());
        entries.chain(details).filter(|reason| !reason.is_empty())
    }

    fn has(&self, reason: &str) -> bool {
        self.reasons().any(|given| given == reason)
    }
}

/// 403 means five things that only the reason tells apart.
fn forbidden(error: &ErrorObject, wait: impl Fn() -> Option<RetryAfter>) -> UpstreamFault {
    const LIMITED: [&str; 4] =
        ["rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED", "concurrentLimitExceeded"];
    const EXHAUSTED: [&str; 3] = ["dailyLimitExceeded", "quotaExceeded", "dailyLimitExceededUnreg"];
    const SCOPE: [&str; 2] = ["ACCESS_TOKEN_SCOPE_INSUFFICIENT", "insufficientPermissions"];
    let any = |reasons: &[&str]| reasons.iter().any(|reason| error.has(reason));
    if any(&EXHAUSTED) {
        UpstreamFault::QuotaExhausted
    } else if any(&LIMITED) || error.status == "RESOURCE_EXHAUSTED" {
        UpstreamFault::RateLimited { retry_after: wait() }
    } else if any(&SCOPE) {
        UpstreamFault::ScopeMissing
    } else {
        UpstreamFault::Forbidden
    }
}

/// At most [`TEXT_BYTES_MAX`] bytes as text, cut between characters; what is no UTF-8 becomes U+FFFD.
#[must_use]
pub fn text_of(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(TEXT_BYTES_MAX)];
    let whole = match std::str::from_utf8(head) {
        // The only fault is that the last character was cut through.
        Err(fault) if fault.error_len().is_none() => &head[..fault.valid_up_to()],
        _ => head,
    };
    let mut text = String::from_utf8_lossy(whole).into_owned();
    truncate(&mut text);
    text
}

/// Cuts a text to [`TEXT_BYTES_MAX`] bytes, between characters.
fn truncate(text: &mut String) {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn body(code: u16, reason: &str, message: &str) -> Vec<u8> {
        json!({"error": {
            "code": code, "message": message, "status": "X",
            "errors": [{"domain": "usageLimits", "reason": reason, "message": message}],
        }})
        .to_string()
        .into_bytes()
    }

    fn fault(status: u16, reason: &str) -> UpstreamFault {
        GoogleError::classify(status, &body(status, reason, "m"), None).fault
    }

    #[test]
    fn the_reason_tells_the_meanings_of_403_apart() {
        let limited = UpstreamFault::RateLimited { retry_after: None };
        assert_eq!(fault(403, "rateLimitExceeded"), limited);
        assert_eq!(fault(403, "userRateLimitExceeded"), limited);
        assert_eq!(fault(403, "dailyLimitExceeded"), UpstreamFault::QuotaExhausted);
        assert_eq!(fault(403, "insufficientPermissions"), UpstreamFault::ScopeMissing);
        assert_eq!(fault(403, "forbiddenForNonOrganizer"), UpstreamFault::Forbidden);
        let details =
            json!({"error": {"code": 403, "details": [{"reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT"}]}});
        let error = GoogleError::classify(403, details.to_string().as_bytes(), None);
        assert_eq!(error.fault, UpstreamFault::ScopeMissing);
        assert_eq!(error.reason, "ACCESS_TOKEN_SCOPE_INSUFFICIENT");
    }

    #[test]
    fn statuses_have_their_meaning_without_a_body() {
        let of = |status| GoogleError::classify(status, b"<html>Error</html>", None).fault;
        assert_eq!(of(401), UpstreamFault::Unauthorized);
        assert_eq!(of(403), UpstreamFault::Forbidden);
        assert_eq!(of(404), UpstreamFault::NotFound);
        assert_eq!(of(409), UpstreamFault::Conflict);
        assert_eq!(of(410), UpstreamFault::Gone);
        assert_eq!(of(400), UpstreamFault::Invalid);
        assert_eq!(of(302), UpstreamFault::Invalid);
        for status in [408, 500, 502, 503, 504] {
            assert_eq!(of(status), UpstreamFault::Unavailable { retry_after: None }, "{status}");
        }
    }

    #[test]
    fn only_limits_and_outages_are_retryable() {
        for (status, retryable) in
            [(429, true), (503, true), (400, false), (401, false), (404, false), (409, false)]
        {
            assert_eq!(GoogleError::classify(status, b"", None).fault.is_retryable(), retryable, "{status}");
        }
        assert!(!fault(403, "dailyLimitExceeded").is_retryable());
    }

    #[test]
    fn the_wait_stands_in_the_header_or_only_in_the_message() {
        let message = "User-rate limit exceeded.  Retry after 2026-11-23T14:04:05.123Z";
        let hidden = GoogleError::classify(429, &body(429, "userRateLimitExceeded", message), None);
        let at = RetryAfter::At("2026-11-23T14:04:05.123Z".parse().expect("a time"));
        assert_eq!(hidden.fault, UpstreamFault::RateLimited { retry_after: Some(at) });
        let both = GoogleError::classify(429, &body(429, "x", message), Some("7"));
        assert_eq!(both.fault.retry_after(), Some(RetryAfter::Delay(Duration::from_secs(7))));
        let outage = GoogleError::classify(503, b"", Some("3"));
        assert_eq!(outage.fault.retry_after(), Some(RetryAfter::Delay(Duration::from_secs(3))));
    }

    #[test]
    fn messages_are_fit_for_logs() {
        let error = GoogleError::classify(400, &body(400, "bad\nreason", &"long\r\n".repeat(200)), None);
        assert!(!error.to_string().contains(['\r', '\n']));
        assert!(error.to_string().len() < 800);
    }

    #[test]
    fn everything_but_unreserved_characters_is_encoded() {
        assert_eq!(Encoded("aZ9-._~").to_string(), "aZ9-._~");
        assert_eq!(Encoded("a b&c=d/e?f#g%\u{e9}+").to_string(), "a%20b%26c%3Dd%2Fe%3Ff%23g%25%C3%A9%2B");
        assert_eq!(Segment("..").to_string(), "_");
        assert_eq!(Segment("../x").to_string(), "..%2Fx");
        assert_eq!(Segment("").to_string(), "_");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let text = "\u{20ac}".repeat(TEXT_BYTES_MAX);
        let cut = text_of(text.as_bytes());
        assert!(cut.len() <= TEXT_BYTES_MAX && cut.len() > TEXT_BYTES_MAX - 4);
        assert!(cut.chars().all(|letter| letter == '\u{20ac}'));
        let broken = text_of(&vec![0xFF; TEXT_BYTES_MAX * 2]);
        assert!(broken.len() <= TEXT_BYTES_MAX);
        assert_eq!(text_of(&vec![0x80; TEXT_BYTES_MAX + 9]).chars().next(), Some('\u{fffd}'));
    }

    proptest! {
        #[test]
        fn arbitrary_error_bodies_never_panic(
            status: u16,
            body in proptest::collection::vec(any::<u8>(), 0..100),
            header in proptest::option::of("\\PC{0,20}"),
        ) {
            let _ = GoogleError::classify(status, &body, header.as_deref());
        }

        #[test]
        fn what_is_encoded_decodes_to_the_same(text in "\\PC{0,30}") {
            let encoded = Encoded(&text).to_string();
            let mut bytes = Vec::new();
            let mut rest = encoded.as_bytes();
            while let [first, tail @ ..] = rest {
                if *first == b'%' {
                    let digits = std::str::from_utf8(&tail[..2]).expect("ascii");
                    bytes.push(u8::from_str_radix(digits, 16).expect("hex"));
                    rest = &tail[2..];
                } else {
                    bytes.push(*first);
                    rest = tail;
                }
            }
            prop_assert_eq!(bytes, text.into_bytes());
        }
    }
}

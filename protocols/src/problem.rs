//! Problem documents (RFC 9457): the one shape of every error a caller sees.
//!
//! Invariants:
//! - `type` is `/problems/<slug>`; a slug, once published, keeps its meaning and its status.
//! - `title` and `status` follow from the kind; only `detail` and the rest speak of the occurrence.
//! - A detail is written for the caller: it carries no secret and nothing of another user.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The media type of a problem document (RFC 9457 section 3).
pub const CONTENT_TYPE: &str = "application/problem+json";

/// At most this many field errors stand in one document: the command object has five fields, and a hostile one
/// may have thousands of unknown ones.
pub const FIELD_ERRORS_MAX: usize = 16;

const TYPE_PREFIX: &str = "/problems/";

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $slug:literal, $status:literal, $retryable:literal, $title:literal;)*) => {
        /// What went wrong, as far as a program needs to know. Retryable kinds may succeed unchanged later.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ProblemKind {
            $($(#[$doc])* $name,)*
        }

        impl ProblemKind {
            /// Every kind there is, for documentation and for label values of counters.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The stable last part of the type URI.
            #[must_use]
            pub const fn slug(self) -> &'static str {
                match self { $(Self::$name => $slug,)* }
            }

            /// The HTTP status that goes with the kind.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// Whether the same request may succeed when it is sent again, unless the problem says otherwise.
            #[must_use]
            pub const fn is_retryable(self) -> bool {
                match self { $(Self::$name => $retryable,)* }
            }

            /// The short summary of the kind; it does not change from one occurrence to the next.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            fn from_slug(slug: &str) -> Option<Self> {
                match slug { $($slug => Some(Self::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    /// The request breaks HTTP or lacks what every request needs.
    BadRequest = "bad-request", 400, false, "The request is malformed";
    /// The body is not JSON.
    InvalidJson = "invalid-json", 400, false, "The body is not valid JSON";
    /// A field is missing, unknown or out of bounds; `errors` names each.
    InvalidField = "invalid-field", 422, false, "A field is not valid";
    /// A step refers to a result or an earlier item that is not there.
    UnresolvedReference = "unresolved-reference", 422, false, "What the command refers to was not found";
    /// No credential, or a wrong one.
    Unauthorized = "unauthorized", 401, false, "A valid credential is needed";
    /// The credential is valid and does not allow this.
    Forbidden = "forbidden", 403, false, "The credential does not allow this";
    /// With the cookie of a browser's session, and not from a page of this gateway.
    CrossSite = "cross-site", 403, false, "The request came from another site";
    /// No such route, task or session, or not this user's.
    NotFound = "not-found", 404, false, "There is nothing here";
    /// The route exists and does not take this method.
    MethodNotAllowed = "method-not-allowed", 405, false, "The method is not allowed here";
    /// The body is larger than the route takes.
    PayloadTooLarge = "payload-too-large", 413, false, "The body is too large";
    /// The header section is larger than 16 KiB or has more than 128 fields.
    HeadersTooLarge = "headers-too-large", 431, false, "The headers are too large";
    /// The body is not declared as JSON.
    UnsupportedMediaType = "unsupported-media-type", 415, false, "The media type is not supported";
    /// The user has not connected a Google account.
    NotConnected = "not-connected", 409, false, "No Google account is connected";
    /// Google no longer accepts the connection; the user must connect again.
    NeedsReauth = "needs-reauth", 409, false, "The Google account must be connected again";
    /// The Google account that a command was accepted for is not this user's any more.
    AccountGone = "account-gone", 409, false, "The Google account of the command was given up";
    /// The thing is in a state in which this cannot be done.
    Conflict = "conflict", 409, false, "This cannot be done now";
    /// What is stored is not what `If-Match` names, or is what `If-None-Match` names.
    PreconditionFailed = "precondition-failed", 412, false, "It is not what the request expects";
    /// Google has forgotten the token from which changes were to be told.
    SyncExpired = "sync-expired", 410, false, "The sync token is not good any more";
    /// No part of what is there is what `Range` asks for.
    RangeNotSatisfiable = "range-not-satisfiable", 416, false, "There is no such part";
    /// A request with the same idempotency key is being carried out.
    IdempotencyInFlight = "idempotency-in-flight", 409, true, "The same request is being carried out";
    /// The idempotency key was used for another request.
    IdempotencyMismatch = "idempotency-mismatch", 422, false, "The idempotency key belongs to another request";
    /// An upstream cannot be reached or fails.
    UpstreamUnavailable = "upstream-unavailable", 502, true, "An upstream service is unavailable";
    /// An upstream answered something that cannot be understood.
    UpstreamInvalid = "upstream-invalid", 502, true, "An upstream service answered nonsense";
    /// An upstream refused a request of ours for a reason the user did not cause.
    UpstreamRefused = "upstream-refused", 502, false, "An upstream service refused the request";
    /// An upstream did not answer in time.
    UpstreamTimeout = "upstream-timeout", 504, true, "An upstream service did not answer in time";
    /// An upstream's limit is used up.
    UpstreamLimited = "upstream-limited", 503, true, "An upstream service is limiting requests";
    /// A limit on requests is used up; `limit` names it.
    RateLimited = "rate-limited", 429, true, "Too many requests";
    /// Too much work is waiting here.
    Overloaded = "overloaded", 503, true, "The server is overloaded";
    /// This process is about to stop.
    ShuttingDown = "shutting-down", 503, true, "The server is shutting down";
    /// The request came in early data and is not safe to replay (RFC 8470).
    TooEarly = "too-early", 425, true, "The request must not be sent as early data";
    /// The command's own deadline passed.
    DeadlineExceeded = "deadline-exceeded", 504, true, "The deadline of the command has passed";
    /// The time that a step of a workflow may take passed, and that of the run did not.
    StepTimeout = "step-timeout", 504, true, "The time of a step has run out";
    /// The storage did not take or give the data; nothing was promised.
    Storage = "storage", 503, true, "The storage is unavailable";
    /// A fault of ours.
    Internal = "internal", 500, false, "The server made a mistake";
}

impl Serialize for ProblemKind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{TYPE_PREFIX}{}", self.slug()))
    }
}

impl<'de> Deserialize<'de> for ProblemKind {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.strip_prefix(TYPE_PREFIX)
            .and_then(Self::from_slug)
            .ok_or_else(|| serde::de::Error::custom("not a problem type of this API"))
    }
}

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// Where it stands in the body, as a JSON pointer (RFC 6901); empty for the whole body.
    pub pointer: String,
    /// What is wrong with it and what is allowed.
    pub detail: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Document {
    #[serde(rename = "type")]
    kind: ProblemKind,
    title: String,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    instance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    request_id: Option<String>,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    retry_after_s: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    limit: Option<std::borrow::Cow<'static, str>>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    errors: Vec<FieldError>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    link: Option<Link>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    task: Option<serde_json::Value>,
}

/// Where a person mends something without another credential than this: it is shown to whoever asked, and in no log.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct Link(String);

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link(..)")
    }
}

/// A problem document. One pointer wide, so that it is cheap as the error of a `Result`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Problem(Box<Document>);

impl Problem {
    /// A problem of this kind; `detail` says what happened this time, in words for the caller.
    #[must_use]
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self(Box::new(Document {
            kind,
            title: kind.title().to_owned(),
            status: kind.status(),
            detail: detail.into(),
            instance: None,
            request_id: None,
            retryable: kind.is_retryable(),
            retry_after_s: None,
            limit: None,
            errors: Vec::new(),
            link: None,
            task: None,
        }))
    }

    /// Names the thing the problem is about, such as the path of a task.
    #[must_use]
    pub fn with_instance(mut self, instance: impl Into<String>) -> Self {
        self.0.instance = Some(instance.into());
        self
    }

    /// Names the request, so that the caller can quote it and the operator find it.
    #[must_use]
    pub fn with_request_id(mut self, request_id: impl Into<String>) -> Self {
        self.0.request_id = Some(request_id.into());
        self
    }

    /// Overrides whether the same request may succeed later: a command that may already have sent mail must
    /// not be repeated blindly, whatever kind of failure ended it.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.0.retryable = retryable;
        self
    }

    /// How many seconds to wait before trying again; goes with a `Retry-After` header.
    #[must_use]
    pub fn with_retry_after_s(mut self, seconds: u32) -> Self {
        self.0.retry_after_s = Some(seconds);
        self
    }

    /// Names the limit that is used up.
    #[must_use]
    pub fn with_limit(mut self, name: &'static str) -> Self {
        self.0.limit = Some(name.into());
        self
    }

    /// Adds a field that is wrong; those past [`FIELD_ERRORS_MAX`] are left out.
    #[must_use]
    pub fn with_error(mut self, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        if self.0.errors.len() < FIELD_ERRORS_MAX {
            self.0.errors.push(FieldError { pointer: pointer.into(), detail: detail.into() });
        }
        self
    }

    /// Adds the page on which a person can mend what is wrong.
    #[must_use]
    pub fn with_link(mut self, link: impl Into<String>) -> Self {
        self.0.link = Some(Link(link.into()));
        self
    }

    /// Carries the task as far as it came: what was done before the failure stays visible.
    #[must_use]
    pub fn with_task(mut self, task: serde_json::Value) -> Self {
        self.0.task = Some(task);
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ProblemKind {
        self.0.kind
    }

    /// The HTTP status to answer with.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.0.status
    }

    /// What happened this time.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The thing the problem is about.
    #[must_use]
    pub fn instance(&self) -> Option<&str> {
        self.0.instance.as_deref()
    }

    /// The request the problem answers.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// Seconds to wait before the next attempt.
    #[must_use]
    pub fn retry_after_s(&self) -> Option<u32> {
        self.0.retry_after_s
    }

    /// The limit that is used up.
    #[must_use]
    pub fn limit(&self) -> Option<&str> {
        self.0.limit.as_deref()
    }

    /// The fields that are wrong.
    #[must_use]
    pub fn errors(&self) -> &[FieldError] {
        &self.0.errors
    }

    /// The page on which a person can mend it.
    #[must_use]
    pub fn link(&self) -> Option<&str> {
        self.0.link.as_ref().map(|link| link.0.as_str())
    }

    /// The task as far as it came.
    #[must_use]
    pub fn task(&self) -> Option<&serde_json::Value> {
        self.0.task.as_ref()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.title, self.0.detail)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bare_problem_has_the_members_every_client_needs() {
        let problem = Problem::new(ProblemKind::NotFound, "there is no task of this id");
        assert_eq!(
            serde_json::to_value(&problem).expect("serialises"),
            json!({
                "type": "/problems/not-found",
                "title": "There is nothing here",
                "status": 404,
                "detail": "there is no task of this id",
                "retryable": false,
            })
        );
    }

    #[test]
    fn a_full_problem_round_trips() {
        let problem = Problem::new(ProblemKind::UpstreamLimited, "Gmail asks to wait")
            .with_instance("/api/v1/tasks/tsk_1")
            .with_request_id("r-1")
            .with_retryable(false)
            .with_retry_after_s(30)
            .with_limit("user-minute")
            .with_error("/command", "too long")
            .with_link("https://example.com/oauth/google/start/x")
            .with_task(json!({"state": "failed"}));
        let text = serde_json::to_string(&problem).expect("serialises");
        let back: Problem = serde_json::from_str(&text).expect("parses");
        assert_eq!(back, problem);
        assert!(!back.is_retryable());
        assert_eq!((back.retry_after_s(), back.limit()), (Some(30), Some("user-minute")));
        assert_eq!(back.errors()[0].pointer, "/command");
        assert_eq!(back.link(), Some("https://example.com/oauth/google/start/x"));
        assert!(!format!("{back:?}").contains("example.com"), "{back:?}");
    }

    #[test]
    fn kinds_have_distinct_slugs_and_error_statuses() {
        let mut slugs: Vec<_> = ProblemKind::ALL.iter().map(|kind| kind.slug()).collect();
        slugs.sort_unstable();
        slugs.dedup();
        assert_eq!(slugs.len(), ProblemKind::ALL.len());
        for kind in ProblemKind::ALL {
            assert!((400..600).contains(&kind.status()), "{kind:?}");
            assert_eq!(ProblemKind::from_slug(kind.slug()), Some(*kind));
        }
    }

    #[test]
    fn field_errors_are_capped() {
        let mut problem = Problem::new(ProblemKind::InvalidField, "many");
        for number in 0..1_000 {
            problem = problem.with_error(format!("/{number}"), "unknown field");
        }
        assert_eq!(problem.errors().len(), FIELD_ERRORS_MAX);
    }

    #[test]
    fn a_foreign_problem_type_is_refused() {
        let text = r#"{"type":"about:blank","title":"t","status":400,"detail":"d","retryable":false}"#;
        assert!(serde_json::from_str::<Problem>(text).is_err());
    }
}

//! Responses we make.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;
use smallvec::SmallVec;

/// What a response becomes when its own body cannot be written as JSON.
const UNWRITABLE: &str = r#"{"type":"/problems/internal","title":"The answer could not be written","status":500,"retryable":false}"#;

/// A response: status, fields and a whole body.
///
/// Framing fields such as `content-length` are added by what sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code, 200 to 599.
    pub status: u16,
    /// Fields in order, names lower case.
    pub fields: SmallVec<[(Cow<'static, str>, Cow<'static, str>); 4]>,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// A response of this status without fields or body.
    #[inline]
    pub fn new(status: u16) -> Self {
        debug_assert!((200..=599).contains(&status));
        Self { status, fields: SmallVec::new(), body: Bytes::new() }
    }

    /// Adds a field. The name must be lower case; encoding the response fails when name or value is invalid.
    #[inline]
    #[must_use]
    pub fn with_field(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    /// Sets the body and its `content-type`.
    #[inline]
    #[must_use]
    pub fn with_body(mut self, content_type: impl Into<Cow<'static, str>>, body: Bytes) -> Self {
        self.fields.retain(|(name, _)| name != "content-type");
        self.fields.push(("content-type".into(), content_type.into()));
        self.body = body;
        self
    }

    /// Sets the body to `value` as `application/json`.
    #[must_use]
    pub fn json(self, value: &impl Serialize) -> Self {
        self.json_as("application/json", value)
    }

    /// Sets the body to `value` as JSON of another media type, such as `application/problem+json`.
    ///
    /// A value that cannot be written (a map whose keys are no strings) turns the response into a 500.
    #[must_use]
    pub fn json_as(self, content_type: impl Into<Cow<'static, str>>, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => self.with_body(content_type, Bytes::from(body)),
            Err(_) => Self::new(500)
                .with_body("application/problem+json", Bytes::from_static(UNWRITABLE.as_bytes())),
        }
    }

    /// The value of the first field of this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().find(|(candidate, _)| *candidate == name).map(|(_, value)| value)
    }

    /// The fields in order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (name.as_ref(), value.as_ref()))
    }
}

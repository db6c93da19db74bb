//! Request and response heads.

use std::fmt;

use super::build::{HeadBuilder, HeadFault, Limits, Pseudo};
use super::fields::{Fields, Span};

/// A request method (RFC 9110 section 9). CONNECT never gets this far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// GET
    Get,
    /// HEAD
    Head,
    /// POST
    Post,
    /// PUT
    Put,
    /// PATCH
    Patch,
    /// DELETE
    Delete,
    /// OPTIONS
    Options,
    /// Any other token; see [`RequestHead::method_str`].
    Other,
}

impl Method {
    /// Whether RFC 9110 section 9.2.1 calls the method safe: what 0-RTT may carry (RFC 8470 section 4).
    pub fn is_safe(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Options)
    }
}

/// The head of a request: method, target and fields, checked.
///
/// Two are equal when they say the same, in whatever order their pseudo-headers came.
#[derive(Clone)]
pub struct RequestHead {
    parts: Box<Parts>,
}

/// What a request's head is made of.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    pub(super) fields: Fields,
    /// [`Method::Other`] until `:method` has come, which is where `pseudo` says so.
    pub(super) method: Method,
    pub(super) pseudo: Pseudo,
    /// Where in the arena the path ends: at its `?`, or at the end of the target.
    pub(super) path_end: u32,
    pub(super) content_length: Option<u64>,
}

impl RequestHead {
    pub(super) fn from_parts(parts: Box<Parts>) -> Self {
        debug_assert!(parts.pseudo.method.is_some(), "the builder requires one");
        Self { parts }
    }

    /// An `https` request head without fields, from parts that are known to be good.
    ///
    /// # Panics
    /// When a part is invalid: use [`RequestHead::try_build`] for parts from outside.
    pub fn build(method: &str, path_and_query: &str, authority: &str) -> Self {
        match Self::try_build(method, path_and_query, authority) {
            Ok(head) => head,
            Err(fault) => {
                panic!("RequestHead::build({method:?}, {path_and_query:?}, {authority:?}): {fault}")
            }
        }
    }

    /// An `https` request head without fields.
    pub fn try_build(method: &str, path_and_query: &str, authority: &str) -> Result<Self, HeadFault> {
        let capacity = 64 + path_and_query.len() + authority.len();
        let mut builder = HeadBuilder::request(&Limits::LOCAL, capacity);
        builder.field(b":method", method.as_bytes())?;
        builder.field(b":scheme", b"https")?;
        builder.field(b":authority", authority.as_bytes())?;
        builder.field(b":path", path_and_query.as_bytes())?;
        builder.finish_request()
    }

    /// The same head with one more field, both parts known to be good. The name may have any case.
    ///
    /// # Panics
    /// When a part is invalid: use [`RequestHead::try_with`] for parts from outside.
    #[must_use]
    pub fn with(self, name: &str, value: &str) -> Self {
        match self.try_with(name, value) {
            Ok(head) => head,
            Err(fault) => panic!("RequestHead::with({name:?}, ..): {fault}"),
        }
    }

    /// The same head with one more field. The name may have any case.
    pub fn try_with(self, name: &str, value: &str) -> Result<Self, HeadFault> {
        let mut builder = HeadBuilder::reopen(self.parts);
        builder.field(name.to_ascii_lowercase().as_bytes(), value.as_bytes())?;
        builder.finish_request()
    }

    /// The method.
    pub fn method(&self) -> Method {
        self.parts.method
    }

    /// The method as it was sent.
    pub fn method_str(&self) -> &str {
        self.pseudo_text(self.parts.pseudo.method)
    }

    /// The path as it was sent, percent-encoding included; begins with `/`, or is `*` for OPTIONS.
    pub fn path(&self) -> &str {
        let span = self.parts.pseudo.path.unwrap_or_default();
        self.parts.fields.text(Span { start: span.start, end: self.parts.path_end })
    }

    /// What follows the first `?` of the target, undecoded.
    pub fn query(&self) -> Option<&str> {
        let span = self.parts.pseudo.path.unwrap_or_default();
        (self.parts.path_end < span.end)
            .then(|| self.parts.fields.text(Span { start: self.parts.path_end + 1, end: span.end }))
    }

    /// Path and query as they were sent.
    pub fn path_and_query(&self) -> &str {
        self.pseudo_text(self.parts.pseudo.path)
    }

    /// The scheme as it was sent: `https` with all usual clients.
    pub fn scheme(&self) -> &str {
        self.pseudo_text(self.parts.pseudo.scheme)
    }

    /// `:authority`, or `host` where that was sent instead.
    pub fn authority(&self) -> Option<&str> {
        self.parts.pseudo.authority.map(|span| self.parts.fields.text(span))
    }

    /// The value of the first field of this lower-case name, if it is UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.parts.fields.get(name)
    }

    /// The fields whose values are UTF-8, in order; [`RequestHead::fields`] has them all.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.parts.fields.iter()
    }

    /// All fields.
    pub fn fields(&self) -> &Fields {
        &self.parts.fields
    }

    /// The announced size of the body in bytes.
    pub fn content_length(&self) -> Option<u64> {
        self.parts.content_length
    }

    fn pseudo_text(&self, span: Option<Span>) -> &str {
        self.parts.fields.text(span.unwrap_or_default())
    }
}

impl PartialEq for RequestHead {
    fn eq(&self, other: &Self) -> bool {
        self.method_str() == other.method_str()
            && self.scheme() == other.scheme()
            && self.authority() == other.authority()
            && self.path_and_query() == other.path_and_query()
            && self.parts.fields == other.parts.fields
    }
}

impl Eq for RequestHead {}

impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &self.method_str())
            .field("scheme", &self.scheme())
            .field("authority", &self.authority())
            .field("target", &self.path_and_query())
            .field("fields", &self.parts.fields)
            .finish()
    }
}

/// The head of a response, as a client receives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    fields: Fields,
    status: u16,
    content_length: Option<u64>,
}

impl ResponseHead {
    pub(super) fn from_parts(fields: Fields, status: u16, content_length: Option<u64>) -> Self {
        Self { fields, status, content_length }
    }

    /// The status code, 100 to 999.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether more heads follow on the stream (RFC 9110 section 15.2).
    pub fn is_interim(&self) -> bool {
        self.status < 200
    }

    /// The value of the first field of this lower-case name, if it is UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.fields.get(name)
    }

    /// The fields whose values are UTF-8, in order; [`ResponseHead::fields`] has them all.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter()
    }

    /// All fields.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// The announced size of the body in bytes.
    pub fn content_length(&self) -> Option<u64> {
        self.content_length
    }
}

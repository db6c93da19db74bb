//! What the engine asks of a protocol.

use std::borrow::Cow;

use bytes::Bytes;
use sluice_protocols::http::ResponseHead;

/// How a connection is to be set up, or was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handshake {
    /// Certificate and key exchange.
    Full,
    /// From a ticket of an earlier connection.
    Resumed,
    /// From a ticket, with the request in the first flight (0-RTT).
    Early,
}

impl Handshake {
    pub(super) const ALL: [Self; 3] = [Self::Full, Self::Resumed, Self::Early];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
            Self::Early => "0-rtt",
        }
    }
}

/// A request or a connection that came to nothing.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// One of few words, to count by.
    pub(super) kind: &'static str,
    pub(super) detail: String,
    /// The connection is of no further use.
    pub(super) is_fatal: bool,
}

impl Failure {
    pub(super) fn new(kind: &'static str, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), is_fatal: false }
    }

    pub(super) fn fatal(kind: &'static str, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), is_fatal: true }
    }
}

/// The head of an answer, as the protocol's library keeps it.
#[derive(Debug)]
pub(super) enum ReplyHead {
    Ours(ResponseHead),
    Hyper(http::HeaderMap),
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) head: ReplyHead,
    pub(super) body: Bytes,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        match &self.head {
            ReplyHead::Ours(head) => head.header(name),
            ReplyHead::Hyper(fields) => fields.get(name)?.to_str().ok(),
        }
    }
}

/// A request's head before it is put into a protocol's form.
#[derive(Debug)]
pub(super) struct HeadParts<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) headers: &'a [(&'a str, Cow<'a, str>)],
}

/// A way to one server, for one thread.
pub(super) trait Transport: 'static {
    /// Whether a connection carries one request at a time.
    const IS_EXCLUSIVE: bool;
    /// A connection; dropping it closes it.
    type Connection: 'static;
    /// A head that may be sent many times.
    type Head: 'static;

    /// Checks the parts and brings them into form.
    fn head(&self, parts: &HeadParts<'_>) -> Result<Self::Head, Failure>;

    /// Connects in the wanted way, or a lesser one where no ticket is at hand, and
    /// says which it became; `Early` may still turn out as refused, see
    /// [`Self::settled`]. `number` spreads connections over the server's cores.
    async fn connect(
        &self,
        wanted: Handshake,
        number: usize,
    ) -> Result<(Self::Connection, Handshake), Failure>;

    /// How the connection came about in the end, known after the first answer.
    fn settled(&self, connection: &Self::Connection, begun: Handshake) -> Handshake;

    /// Sends a request and waits for the whole answer.
    async fn request(
        &self,
        connection: &Self::Connection,
        head: &Self::Head,
        body: Bytes,
    ) -> Result<Reply, Failure>;
}

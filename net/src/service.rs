//! The seam between ingress and what answers requests.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::{Wake, Waker};

use bytes::Bytes;
use crossbeam_queue::SegQueue;
use quinn_proto::StreamId;
use sluice_protocols::http::{RequestHead, Response};

use crate::body::{BodyReader, BodyWriter, body};

/// What answers requests on one core. Called on the reactor: it must not block.
pub trait Service: 'static {
    /// Called when a request's header section is complete: whether its body is
    /// wanted and how long it may be, or the reply at once. `from` is the address
    /// it came from, unless that is not proven: a request in early data may bear
    /// another's.
    fn admit(&self, head: &RequestHead, from: Option<IpAddr>) -> Admit;

    /// Called when the whole request has arrived, or its head where the body is
    /// to come in pieces. The answer goes to `respond`, now or later.
    fn call(&self, request: Request, respond: Responder);

    /// The answer to a request whose header section breaks a limit (431) or
    /// asks for something not spoken (501), given what is wrong with it.
    fn refuse(&self, status: u16, detail: &str) -> Response;
}

/// What to do with a request whose header section is complete.
#[allow(clippy::large_enum_variant, reason = "taken apart at once; a box would cost an allocation")]
#[derive(Debug)]
pub enum Admit {
    /// Take a body of at most this many bytes; a longer one is refused with
    /// status 413 as soon as that shows.
    Body {
        /// Longest body, in bytes.
        bytes_max: usize,
    },
    /// Call at once, and let the body come in pieces as [`Request::stream`]: at
    /// most this many bytes. One that is announced to be longer is refused with
    /// status 413; one that grows longer ends with [`crate::BodyError::TooLong`],
    /// which the service has to answer.
    Stream {
        /// Longest body, in bytes.
        bytes_max: usize,
    },
    /// Answer at once, without waiting for the body.
    Reply(Response),
}

/// A request: whole, or with a body that is still to come.
#[derive(Debug)]
pub struct Request {
    /// Method, target and fields.
    pub head: RequestHead,
    /// The body; empty when there was none, or when it comes in pieces.
    pub body: Bytes,
    /// The body in pieces, for what was admitted with [`Admit::Stream`]. Where
    /// it is not read the client is held back; dropped, the rest is thrown away.
    pub stream: Option<BodyReader>,
    /// Who sent it.
    pub peer: SocketAddr,
    /// Whether it came as 0-RTT data that may be a replay (RFC 8470).
    pub early_data: bool,
}

/// What a request is told that must not be taken from what may be a replay.
pub(crate) const TOO_EARLY: &str = "send the request again when the handshake is complete";

impl Request {
    /// Whether it may be a replay: it came as early data, here or at an intermediary that says so.
    pub fn may_be_replay(&self) -> bool {
        self.early_data || was_early(&self.head)
    }
}

/// Whether an intermediary had the request as early data (RFC 8470 section 5.1): the field means that whatever its
/// value, and however often it is there.
pub(crate) fn was_early(head: &RequestHead) -> bool {
    head.fields().get_bytes("early-data").is_some()
}

/// Names a request stream within an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamRef {
    pub(crate) connection: usize,
    /// Tells a connection from a later one in the same place.
    pub(crate) generation: u32,
    pub(crate) stream: StreamId,
    /// Where the connection keeps what it needs for the answer.
    pub(crate) place: usize,
}

/// An answer: whole, or with a body that is still to come.
#[derive(Debug)]
pub enum Answer {
    /// With its body.
    Whole(Response),
    /// The head (the body in it is empty), and the body in pieces.
    Streamed(Response, BodyReader),
}

impl Answer {
    /// Status and fields, and the body if it is whole.
    pub fn head(&self) -> &Response {
        match self {
            Self::Whole(head) | Self::Streamed(head, _) => head,
        }
    }

    /// The same with a changed head.
    #[must_use]
    pub fn map_head(self, change: impl FnOnce(Response) -> Response) -> Self {
        match self {
            Self::Whole(response) => Self::Whole(change(response)),
            Self::Streamed(head, body) => Self::Streamed(change(head), body),
        }
    }
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Self::Whole(response)
    }
}

/// Answers on their way to the endpoint task.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) ready: RefCell<Vec<(StreamRef, Response)>>,
    /// Those whose bodies are to come.
    pub(crate) streamed: RefCell<Vec<(StreamRef, Response, BodyReader)>>,
    pub(crate) waker: RefCell<Option<Waker>>,
}

impl Outbox {
    fn push(&self, to: StreamRef, answer: Answer) {
        match answer {
            Answer::Whole(response) => self.push_whole(to, response),
            Answer::Streamed(head, body) => {
                self.streamed.borrow_mut().push((to, head, body));
                self.wake();
            }
        }
    }

    // A response has some 250 bytes, and each hand it went through copied them.
    #[inline]
    fn push_whole(&self, to: StreamRef, response: Response) {
        self.ready.borrow_mut().push((to, response));
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ready.borrow().is_empty() && self.streamed.borrow().is_empty()
    }
}

/// A stream on which a body can go on: there is a piece of it, or room for one,
/// or its other end has gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rung {
    pub(crate) connection: usize,
    pub(crate) generation: u32,
    pub(crate) stream: StreamId,
}

/// Collects from any thread which streams can go on, for the endpoint task.
///
/// A body takes a bell with each wait and rings it once, so at most two are in
/// here for each request stream: one for either direction.
#[derive(Debug, Default)]
pub(crate) struct Bells {
    rung: SegQueue<Rung>,
    waker: OnceLock<Waker>,
}

impl Bells {
    /// Who is to be woken; the same task each time.
    pub(crate) fn attend(&self, waker: &Waker) {
        debug_assert!(self.waker.get().is_none_or(|known| known.will_wake(waker)));
        let _ = self.waker.get_or_init(|| waker.clone());
    }

    pub(crate) fn next(&self) -> Option<Rung> {
        self.rung.pop()
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.rung.is_empty()
    }
}

/// Makes the bells of one connection's streams.
#[derive(Clone, Copy)]
pub(crate) struct BellPull<'a> {
    pub(crate) bells: &'a Arc<Bells>,
    pub(crate) connection: usize,
    pub(crate) generation: u32,
}

impl BellPull<'_> {
    pub(crate) fn of(self, stream: StreamId) -> Waker {
        let Self { bells, connection, generation } = self;
        let at = Rung { connection, generation, stream };
        Waker::from(Arc::new(Bell { bells: Arc::clone(bells), at }))
    }
}

struct Bell {
    bells: Arc<Bells>,
    at: Rung,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.bells.rung.push(self.at);
        if let Some(waker) = self.bells.waker.get() {
            waker.wake_by_ref();
        }
    }
}

enum Target {
    Stream { outbox: Rc<Outbox>, to: StreamRef },
    Callback(Box<dyn FnOnce(Answer)>),
}

/// Where the answer to one request goes. Dropped unanswered, it answers 500.
pub struct Responder(Option<Target>);

impl Responder {
    pub(crate) fn new(outbox: Rc<Outbox>, to: StreamRef) -> Self {
        Self(Some(Target::Stream { outbox, to }))
    }

    /// A responder that hands the answer to a function: for requests that came
    /// another way than over HTTP/3.
    pub fn from_fn(f: impl FnOnce(Answer) + 'static) -> Self {
        Self(Some(Target::Callback(Box::new(f))))
    }

    /// Answers. The client may be gone by now, which is no error.
    #[inline]
    pub fn send(mut self, response: Response) {
        match self.0.take() {
            Some(Target::Stream { outbox, to }) => outbox.push_whole(to, response),
            Some(Target::Callback(f)) => f(Answer::Whole(response)),
            None => {}
        }
    }

    /// Answers with `head`, whose body is empty, and gives the end that the body
    /// is written to. It must be let go of as soon as it says that nobody reads
    /// any more; dropped unfinished, the answer is broken off, which the client
    /// sees (H3_INTERNAL_ERROR over HTTP/3).
    ///
    /// The length is told only when `head` has a `content-length`.
    pub fn stream(self, head: Response) -> BodyWriter {
        debug_assert!(head.body.is_empty(), "the body comes by the writer");
        let (writer, reader) = body();
        self.answer(Answer::Streamed(head, reader));
        writer
    }

    /// Answers either way: for answers that come from elsewhere.
    pub fn answer(mut self, answer: Answer) {
        self.finish(answer);
    }

    fn finish(&mut self, answer: Answer) {
        match self.0.take() {
            Some(Target::Stream { outbox, to }) => outbox.push(to, answer),
            Some(Target::Callback(f)) => f(answer),
            None => {}
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.0.is_some() {
            tracing::error!("a request was dropped unanswered");
            self.finish(Response::new(500).into());
        }
    }
}

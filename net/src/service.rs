//! The seam between ingress and what answers requests.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Waker;

use bytes::Bytes;
use sluice_protocols::http::{RequestHead, Response};

/// What answers requests on one core. Called on the reactor: it must not block.
pub trait Service: 'static {
    /// Called when a request's header section is complete: whether its body is
    /// wanted and how long it may be, or the reply at once.
    fn admit(&self, head: &RequestHead) -> Admit;

    /// Called when the whole request has arrived. The answer goes to `respond`,
    /// now or later.
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
    /// Answer at once, without waiting for the body.
    Reply(Response),
}

/// A whole request.
#[derive(Debug)]
pub struct Request {
    /// Method, target and fields.
    pub head: RequestHead,
    /// The body; empty when there was none.
    pub body: Bytes,
    /// Who sent it.
    pub peer: SocketAddr,
    /// Whether it came as 0-RTT data that may be a replay (RFC 8470).
    pub early_data: bool,
}

/// Names a request stream within an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamRef {
    pub(crate) connection: usize,
    /// Tells a connection from a later one in the same place.
    pub(crate) generation: u32,
    pub(crate) stream: quinn_proto::StreamId,
    /// Where the connection keeps what it needs for the answer.
    pub(crate) place: usize,
}

/// Answers on their way to the endpoint task.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) ready: RefCell<Vec<(StreamRef, Response)>>,
    pub(crate) waker: RefCell<Option<Waker>>,
}

impl Outbox {
    fn push(&self, to: StreamRef, response: Response) {
        self.ready.borrow_mut().push((to, response));
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

enum Target {
    Stream { outbox: Rc<Outbox>, to: StreamRef },
    Callback(Box<dyn FnOnce(Response)>),
}

/// Where the answer to one request goes. Dropped unanswered, it answers 500.
pub struct Responder(Option<Target>);

impl Responder {
    pub(crate) fn stream(outbox: Rc<Outbox>, to: StreamRef) -> Self {
        Self(Some(Target::Stream { outbox, to }))
    }

    /// A responder that hands the answer to a function: for requests that came
    /// another way than over HTTP/3.
    pub fn from_fn(f: impl FnOnce(Response) + 'static) -> Self {
        Self(Some(Target::Callback(Box::new(f))))
    }

    /// Answers. The client may be gone by now, which is no error.
    pub fn send(mut self, response: Response) {
        self.finish(response);
    }

    fn finish(&mut self, response: Response) {
        match self.0.take() {
            Some(Target::Stream { outbox, to }) => outbox.push(to, response),
            Some(Target::Callback(f)) => f(response),
            None => {}
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.0.is_some() {
            tracing::error!("a request was dropped unanswered");
            self.finish(Response::new(500));
        }
    }
}

//! Answers that are too large to be held: handed on piece by piece, as fast as they are read.
//!
//! Invariants:
//! - Of an answer in pieces at most `whole_bytes_max` and one read of the connection are in memory beside what waits in
//!   its body ([`crate::BODY_WAITING_BYTES_MAX`]); a reader that rests holds the upstream back by TCP's own means.
//! - A body is only ended as whole when the upstream ended it so; all else breaks it off.
//! - Nothing waits for longer than `idle` for either side, nor for longer than `time_max` in all.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Response;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, LOCATION, RANGE};
use tokio::sync::oneshot;
use tokio::time::{timeout, timeout_at};

use super::EgressError;
use super::dispatch::describe;
use super::stats::Stats;
use crate::body::{BodyError, BodyReader, BodyWriter, body};

/// Request bodies beyond this have connections of their own.
pub(super) const BULK_BYTES: usize = 64 << 10;

/// How the body of an answer is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnswerBody {
    /// Whole; at most the pool's `response_bytes_max`.
    #[default]
    Whole,
    /// That of a success in pieces, when it is large; all else whole.
    Pieces(PieceLimits),
}

impl AnswerBody {
    pub(super) const fn limits(self) -> Option<PieceLimits> {
        match self {
            Self::Whole => None,
            Self::Pieces(limits) => Some(limits),
        }
    }
}

/// The bounds of an answer in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceLimits {
    /// What has at most this many bytes comes whole all the same.
    pub whole_bytes_max: usize,
    /// Most bytes in all. One that says it is longer is refused; one that grows longer breaks off.
    pub bytes_max: u64,
    /// Longest wait for the next piece, and for room to hand it on.
    pub idle: Duration,
    /// Longest time in all, from the head of the answer on.
    pub time_max: Duration,
}

/// Fields of an answer; what is no visible ASCII is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerFields {
    /// `Location`.
    pub location: Option<String>,
    /// `Range`: how far an upload has come.
    pub range: Option<String>,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Content-Range`.
    pub content_range: Option<String>,
}

impl AnswerFields {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let text = |name: HeaderName| Some(headers.get(name)?.to_str().ok()?.to_owned());
        Self {
            location: text(LOCATION),
            range: text(RANGE),
            content_type: text(CONTENT_TYPE),
            content_range: text(CONTENT_RANGE),
        }
    }
}

/// A body in pieces.
#[derive(Debug)]
pub struct Pieces {
    /// Its length, where the upstream told it.
    pub length: Option<u64>,
    /// The pieces. Dropped, the rest is not fetched.
    pub body: BodyReader,
    /// Tells when it was handed on to its end, or how it broke off.
    pub end: End,
}

/// The end of a body in pieces: how many bytes there were.
#[derive(Debug)]
pub struct End(oneshot::Receiver<Result<u64, EgressError>>);

impl Future for End {
    type Output = Result<u64, EgressError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let stopped = |_| Err(EgressError::Broken("the egress pool was stopped".to_owned()));
        Pin::new(&mut self.0).poll(cx).map(|told| told.unwrap_or_else(stopped))
    }
}

/// What of an answer is still to come.
pub(super) struct Rest {
    pub(super) response: Response,
    /// What was read already.
    pub(super) first: Bytes,
    pub(super) limits: PieceLimits,
}

impl Rest {
    /// Both ends: what the caller gets, and what the pool has to do.
    pub(super) fn begin(self) -> (Pieces, Delivery) {
        let length = self.response.content_length();
        // What hyper counts down is what is left of the connection's body.
        let length = length.map(|left| left + self.first.len() as u64);
        let (writer, reader) = body();
        let (told, end) = oneshot::channel();
        (Pieces { length, body: reader, end: End(end) }, Delivery { rest: self, writer, told })
    }
}

/// A body on its way.
pub(super) struct Delivery {
    rest: Rest,
    writer: BodyWriter,
    told: oneshot::Sender<Result<u64, EgressError>>,
}

/// How handing on ended.
enum Ending {
    Whole,
    Left,
    Failed(EgressError, BodyError),
}

impl Delivery {
    /// Hands all pieces on.
    pub(super) async fn run(self, stats: &Stats) {
        let Self { rest, mut writer, told } = self;
        stats.transfers.fetch_add(1, Relaxed);
        let mut bytes = 0;
        let ending = hand_on(rest, &mut writer, &mut bytes, stats).await;
        let end = match ending {
            Ending::Whole => {
                writer.finish();
                Ok(bytes)
            }
            Ending::Left => {
                stats.transfers_left.fetch_add(1, Relaxed);
                Err(EgressError::Broken("nobody reads the answer any more".to_owned()))
            }
            Ending::Failed(error, seen) => {
                stats.transfers_broken.fetch_add(1, Relaxed);
                writer.fail(seen);
                Err(error)
            }
        };
        let _nobody_asks = told.send(end);
    }
}

async fn hand_on(mut rest: Rest, writer: &mut BodyWriter, bytes: &mut u64, stats: &Stats) -> Ending {
    let PieceLimits { bytes_max, idle, time_max, .. } = rest.limits;
    let until = Instant::now() + time_max;
    let late = || Ending::Failed(EgressError::DeadlineExceeded { sent: true }, BodyError::TimedOut);
    let mut piece = std::mem::take(&mut rest.first);
    loop {
        *bytes += piece.len() as u64;
        if *bytes > bytes_max {
            let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
            return Ending::Failed(EgressError::BodyTooLarge { bytes_max }, BodyError::TooLong);
        }
        stats.piece_bytes.fetch_add(piece.len() as u64, Relaxed);
        match timeout(idle, writer.send(piece)).await {
            Ok(Ok(())) => {}
            Ok(Err(_gone)) => return Ending::Left,
            Err(_elapsed) => return late(),
        }
        let next = timeout_at((Instant::now() + idle).min(until).into(), rest.response.chunk());
        let next = tokio::select! {
            next = next => next,
            () = writer.gone() => return Ending::Left,
        };
        piece = match next {
            Ok(Ok(Some(piece))) => piece,
            Ok(Ok(None)) => return Ending::Whole,
            Ok(Err(error)) => return Ending::Failed(EgressError::Broken(describe(error)), BodyError::Broken),
            Err(_elapsed) => return late(),
        };
    }
}

//! Bodies in pieces over TCP: answers as hyper takes them, and requests as it gives them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::connection::Conn;
use super::stats::Refused;
use crate::body::{BodyError, BodyReader, BodyWriter};
use crate::ingress::UNREAD_BYTES_MAX;

/// Bytes of a request's body that must arrive within the body timeout, over and over, as over HTTP/3.
const PACE_BYTES: usize = 256 * 1024;

/// Bytes of a whole answer that hyper is given at a time. Each time it comes for more the client has taken something, so
/// it is also what a client must take within the idle timeout.
const PIECE_BYTES: usize = 16 * 1024;

/// The body of an answer.
pub(super) enum AnswerBody {
    Whole(Whole),
    /// As much waits for the client as may: this answer breaks off where its body begins.
    OverBound,
    Streamed(Streamed),
    /// Nothing, of no known length: the answer to HEAD where that of GET has a body in pieces.
    Left,
}

/// The body of an answer that is there whole. Until hyper has all of it, what is left counts as unread.
///
/// Pieces share the memory of the whole, which is thus held until the last is sent. So what is left moves when it is less
/// than half, as over HTTP/3: no more is held than three times what counts.
pub(super) struct Whole {
    left: Bytes,
    /// Bytes that the memory behind it had when it came or moved.
    held_bytes: usize,
    conn: Arc<Conn>,
}

impl Whole {
    /// `None` where too much already waits for this client. One answer may always wait, however long it is, and so may
    /// those that are a single piece: of them there are no more than streams.
    pub(super) fn new(body: Bytes, conn: &Arc<Conn>) -> Option<Self> {
        let waiting = conn.unread_bytes.fetch_add(body.len(), Relaxed);
        // Made first, so that the count is taken back on refusal.
        let whole = Self { held_bytes: body.len(), left: body, conn: Arc::clone(conn) };
        let is_small = whole.left.len() <= PIECE_BYTES;
        let has_room = is_small || waiting == 0 || waiting + whole.left.len() <= UNREAD_BYTES_MAX;
        has_room.then_some(whole)
    }

    fn next(&mut self) -> Option<Bytes> {
        if self.left.is_empty() {
            return None;
        }
        let piece = self.left.split_to(PIECE_BYTES.min(self.left.len()));
        self.conn.unread_bytes.fetch_sub(piece.len(), Relaxed);
        self.conn.touch();
        if self.left.len() < self.held_bytes / 2 && self.left.len() > PIECE_BYTES {
            self.left = Bytes::copy_from_slice(&self.left);
            self.held_bytes = self.left.len();
        }
        Some(piece)
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.conn.unread_bytes.fetch_sub(self.left.len(), Relaxed);
    }
}

/// The body of an answer in pieces.
///
/// Its connection counts it as a request under way while there is nothing to send, and not while hyper has a piece and
/// does not ask for another: then it is the client that is waited for, and the connection is idle when that takes too
/// long. So a quiet stream stays and one that nobody reads ends.
pub(super) struct Streamed {
    body: BodyReader,
    conn: Arc<Conn>,
    is_waiting: bool,
}

impl Streamed {
    pub(super) fn new(body: BodyReader, conn: Arc<Conn>) -> Self {
        Self { body, conn, is_waiting: false }
    }

    fn set_waiting(&mut self, is_waiting: bool) {
        if is_waiting == self.is_waiting {
            return;
        }
        self.is_waiting = is_waiting;
        match is_waiting {
            true => self.conn.in_flight.fetch_add(1, Relaxed),
            false => self.conn.in_flight.fetch_sub(1, Relaxed),
        };
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        self.conn.touch();
        self.set_waiting(false);
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Whole(whole) => Poll::Ready(whole.next().map(|piece| Ok(Frame::data(piece)))),
            Self::OverBound => Poll::Ready(Some(Err(BodyError::Broken))),
            Self::Left => Poll::Ready(None),
            Self::Streamed(streamed) => {
                streamed.conn.touch();
                let polled = streamed.body.poll_next(cx);
                streamed.set_waiting(polled.is_pending());
                let next = ready!(polled);
                if matches!(next, Some(Err(_))) {
                    streamed.conn.note_broken();
                }
                Poll::Ready(next.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.left.is_empty(),
            Self::Left => true,
            Self::OverBound | Self::Streamed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => SizeHint::with_exact(whole.left.len() as u64),
            Self::Left | Self::OverBound | Self::Streamed(_) => SizeHint::default(),
        }
    }
}

/// Hands a request's body on as it comes, as long as somebody reads it. What is not read holds the client back.
pub(super) async fn hand_on(
    conn: Arc<Conn>,
    mut body: Incoming,
    mut writer: BodyWriter,
    bytes_max: usize,
    timeout: Duration,
) {
    let (mut received, mut paced) = (0, 0);
    let mut left = timeout;
    loop {
        let began = tokio::time::Instant::now();
        let frame = tokio::select! {
            frame = tokio::time::timeout(left, body.frame()) => frame,
            () = writer.gone() => return,
        };
        // The time that the service takes is not the client's.
        left = left.saturating_sub(began.elapsed());
        let piece = match frame {
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            Ok(None) => return writer.finish(),
            Ok(Some(Err(error))) => {
                tracing::debug!(%error, "request body broke off");
                return writer.fail(BodyError::Broken);
            }
            Err(_) => {
                conn.note_refused(Refused::BodyTimeout);
                return writer.fail(BodyError::TimedOut);
            }
        };
        received += piece.len();
        paced += piece.len();
        if received > bytes_max {
            conn.note_refused(Refused::BodyTooLarge);
            return writer.fail(BodyError::TooLong);
        }
        if paced >= PACE_BYTES {
            (paced, left) = (0, timeout);
        }
        if writer.send(piece).await.is_err() {
            return;
        }
    }
}

//! The body of a streamed answer: pieces that leave one by one, each after its pause.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::HttpBody;
use bytes::Bytes;
use hyper::body::Frame;
use tokio::time::Sleep;

use super::conn::Cutter;
use super::wire::Piece;

/// Time for what was written to leave before a connection is cut.
const FLUSH: Duration = Duration::from_millis(20);

/// The pieces still to be written.
pub(crate) struct Pieces {
    rest: std::vec::IntoIter<Piece>,
    /// The piece that waits for its time.
    waiting: Option<(Pin<Box<Sleep>>, Bytes)>,
    /// Cuts the connection after the last piece.
    cutter: Option<Cutter>,
    /// The last piece has been handed over, and is given time to leave.
    ending: bool,
}

impl Pieces {
    pub(crate) fn new(pieces: Vec<Piece>, cutter: Option<Cutter>) -> Self {
        Self { rest: pieces.into_iter(), waiting: None, cutter, ending: false }
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        if this.waiting.is_none() {
            let Some((wait, bytes)) = this.rest.next() else {
                // What was written before must have left; only while the body waits is it flushed.
                if this.cutter.is_some() && !this.ending {
                    this.ending = true;
                    this.waiting = Some((Box::pin(tokio::time::sleep(FLUSH)), Bytes::new()));
                    return self.poll_frame(cx);
                }
                if let Some(cutter) = this.cutter.take() {
                    cutter.cut();
                }
                return Poll::Ready(None);
            };
            if wait.is_zero() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            this.waiting = Some((Box::pin(tokio::time::sleep(wait)), bytes));
        }
        if let Some((sleep, _)) = &mut this.waiting
            && sleep.as_mut().poll(cx).is_pending()
        {
            return Poll::Pending;
        }
        Poll::Ready(this.waiting.take().map(|(_, bytes)| Ok(Frame::data(bytes))))
    }
}

//! A body on its way in pieces: bounded, with one end that writes and one that reads.
//!
//! The same two ends serve every way a body can take: from a service to the HTTP/3 ingress of its own core, to another
//! core (they cross with the request or its answer, and the pieces do not pass the mailboxes, so that a stream cannot
//! crowd out requests), and to and from the runtime of the TCP fallback.
//!
//! Invariants:
//! - At most [`BODY_WAITING_BYTES_MAX`] bytes wait, in pieces of at most [`PIECE_BYTES_MAX`]; a writer that has no room
//!   waits, and is told as soon as there is some.
//! - Each end learns that the other is gone: a reader meets [`BodyError::Broken`] after what was written before, a
//!   writer [`Gone`]. A body that was not finished is never taken for a whole one.
//! - The lock is held for a push or a pop of one piece; wakers are called outside of it.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

/// Bytes of a body that wait between its ends.
pub const BODY_WAITING_BYTES_MAX: usize = 64 * 1024;
/// Longest piece; longer ones are cut. A writer has room when this much fits.
pub const PIECE_BYTES_MAX: usize = 16 * 1024;
/// Pieces that wait, so that tiny ones cannot cost more than their bytes: 8 KiB of handles.
const PIECES_MAX: usize = 256;
const _: () = assert!(PIECE_BYTES_MAX <= BODY_WAITING_BYTES_MAX);

/// Why a body ended before it was whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is longer than was allowed: to be answered with status 413.
    #[error("the body is longer than this resource takes")]
    TooLong,
    /// It did not arrive in time: to be answered with status 408.
    #[error("the body did not arrive in time")]
    TimedOut,
    /// Who wrote it has gone: a client's request is malformed, or nobody waits for its answer.
    #[error("the body broke off")]
    Broken,
}

impl BodyError {
    /// The status that says so.
    pub const fn status(self) -> u16 {
        match self {
            Self::TooLong => 413,
            Self::TimedOut => 408,
            Self::Broken => 400,
        }
    }
}

/// Nobody reads the body any more: the client has gone or does not want it. What is done for it can stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody reads the body any more")]
pub struct Gone;

#[derive(Default)]
struct State {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    /// Set by the writer, once.
    end: Option<Result<(), BodyError>>,
    is_unread: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// The writer waits for room, and not only for the reader's end.
    wants_room: bool,
}

impl State {
    /// Bytes that may be written now; none as long as a piece might not fit.
    fn room(&self) -> usize {
        let room = BODY_WAITING_BYTES_MAX.saturating_sub(self.bytes);
        if room < PIECE_BYTES_MAX || self.pieces.len() >= PIECES_MAX { 0 } else { room }
    }
}

#[derive(Default)]
struct Shared(Mutex<State>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body's two ends.
pub fn body() -> (BodyWriter, BodyReader) {
    let shared = Arc::<Shared>::default();
    (BodyWriter { shared: Arc::clone(&shared) }, BodyReader { shared })
}

/// The end that writes. Dropped before [`BodyWriter::finish`], it breaks the body off.
#[must_use = "dropped unfinished, it breaks the body off"]
pub struct BodyWriter {
    shared: Arc<Shared>,
}

impl BodyWriter {
    /// Writes `bytes`, waiting for room as often as it must.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub async fn send(&mut self, mut bytes: Bytes) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let room = poll_fn(|cx| self.poll_room(cx)).await?;
            self.push(bytes.split_to(room.min(PIECE_BYTES_MAX).min(bytes.len())));
        }
        if self.is_gone() { Err(Gone) } else { Ok(()) }
    }

    /// Ends the body: it is whole.
    pub fn finish(self) {
        self.end(Ok(()));
    }

    /// Waits until nobody reads any more.
    pub async fn gone(&self) {
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            if state.is_unread {
                return Poll::Ready(());
            }
            state.writer = Some(cx.waker().clone());
            state.wants_room = false;
            Poll::Pending
        })
        .await;
    }

    /// Bytes that wait to be read.
    pub fn waiting_bytes(&self) -> usize {
        self.shared.lock().bytes
    }

    /// Whether nobody reads any more.
    pub fn is_gone(&self) -> bool {
        self.shared.lock().is_unread
    }

    /// Bytes that may be written now, 0 for none; then `waker` is called when there is room, and in either case when
    /// nobody reads any more.
    pub(crate) fn room(&self, waker: &Waker) -> Result<usize, Gone> {
        let mut state = self.shared.lock();
        if state.is_unread {
            return Err(Gone);
        }
        let room = state.room();
        state.writer = Some(waker.clone());
        state.wants_room = room == 0;
        Ok(room)
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<Result<usize, Gone>> {
        match self.room(cx.waker()) {
            Ok(0) => Poll::Pending,
            told => Poll::Ready(told),
        }
    }

    /// Writes without looking for room: the caller has had it told.
    pub(crate) fn push(&self, piece: Bytes) {
        let mut state = self.shared.lock();
        if state.is_unread || piece.is_empty() {
            return;
        }
        state.bytes += piece.len();
        debug_assert!(state.bytes <= BODY_WAITING_BYTES_MAX, "written without room");
        state.pieces.push_back(piece);
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
    }

    /// Ends the body short of its end.
    pub(crate) fn fail(self, error: BodyError) {
        self.end(Err(error));
    }

    /// The first end holds.
    fn end(&self, end: Result<(), BodyError>) {
        let mut state = self.shared.lock();
        if state.end.is_some() {
            return;
        }
        state.end = Some(end);
        state.writer = None;
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        self.end(Err(BodyError::Broken));
    }
}

impl fmt::Debug for BodyWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyWriter").field("waiting_bytes", &self.waiting_bytes()).finish()
    }
}

/// The end that reads. Dropped, it tells the writer.
pub struct BodyReader {
    shared: Arc<Shared>,
}

impl BodyReader {
    /// A body that is whole already. It is in memory anyhow, so it is not bounded here.
    pub fn whole(mut bytes: Bytes) -> Self {
        let mut state = State { bytes: bytes.len(), end: Some(Ok(())), ..State::default() };
        while !bytes.is_empty() {
            state.pieces.push_back(bytes.split_to(bytes.len().min(PIECE_BYTES_MAX)));
        }
        Self { shared: Arc::new(Shared(Mutex::new(state))) }
    }

    /// The next piece; `None` when the body is whole. An error comes once, after all that was written before it.
    pub async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Self::next`], for who polls.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let mut state = self.shared.lock();
        if let Some(piece) = state.pieces.pop_front() {
            state.bytes -= piece.len();
            // Not for every piece: half of the handles free, so that a writer of tiny ones does not wake for each.
            let has_room = state.room() > 0 && state.pieces.len() <= PIECES_MAX / 2;
            let writer = if state.wants_room && has_room { state.writer.take() } else { None };
            drop(state);
            writer.into_iter().for_each(Waker::wake);
            return Poll::Ready(Some(Ok(piece)));
        }
        match state.end {
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(error)) => {
                state.end = Some(Ok(()));
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    /// Bytes that wait to be read.
    pub fn waiting_bytes(&self) -> usize {
        self.shared.lock().bytes
    }
}

impl Drop for BodyReader {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_unread = true;
        state.bytes = 0;
        let pieces = std::mem::take(&mut state.pieces);
        let writer = state.writer.take();
        drop(state);
        drop(pieces);
        writer.into_iter().for_each(Waker::wake);
    }
}

impl fmt::Debug for BodyReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyReader").field("waiting_bytes", &self.waiting_bytes()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn counter() -> (Arc<Count>, Waker) {
        let count = Arc::<Count>::default();
        (Arc::clone(&count), Waker::from(count))
    }

    fn next(reader: &mut BodyReader) -> Poll<Option<Result<Bytes, BodyError>>> {
        reader.poll_next(&mut Context::from_waker(Waker::noop()))
    }

    fn piece(len: usize) -> Bytes {
        vec![7; len].into()
    }

    #[test]
    fn a_writer_waits_at_the_bound_and_goes_on_when_there_is_room() {
        let (mut writer, mut reader) = body();
        let (count, waker) = counter();
        let mut cx = Context::from_waker(&waker);
        let all = 3 * BODY_WAITING_BYTES_MAX;
        let mut sent = Box::pin(async move {
            writer.send(piece(all)).await.unwrap();
            writer.finish();
        });
        let mut total = 0;
        while sent.as_mut().poll(&mut cx).is_pending() {
            assert_eq!(reader.waiting_bytes(), BODY_WAITING_BYTES_MAX);
            let before = count.0.load(SeqCst);
            while let Poll::Ready(Some(piece)) = next(&mut reader) {
                let len = piece.unwrap().len();
                assert!(len <= PIECE_BYTES_MAX);
                total += len;
            }
            assert_eq!(count.0.load(SeqCst), before + 1, "told once");
        }
        while let Poll::Ready(Some(piece)) = next(&mut reader) {
            total += piece.unwrap().len();
        }
        assert_eq!((total, next(&mut reader)), (all, Poll::Ready(None)));
    }

    #[test]
    fn tiny_pieces_are_bounded_by_their_number() {
        let (writer, mut reader) = body();
        let mut count = 0;
        while writer.room(Waker::noop()).unwrap() > 0 {
            writer.push(piece(1));
            count += 1;
        }
        assert_eq!(count, PIECES_MAX);
        (0..PIECES_MAX).for_each(|_| assert!(next(&mut reader).is_ready()));
        assert!(next(&mut reader).is_pending());
    }

    #[test]
    fn what_is_not_finished_is_broken_after_what_was_written() {
        let (writer, mut reader) = body();
        let (count, waker) = counter();
        assert!(reader.poll_next(&mut Context::from_waker(&waker)).is_pending());
        writer.push(piece(3));
        assert_eq!(count.0.load(SeqCst), 1);
        drop(writer);
        assert_eq!(next(&mut reader), Poll::Ready(Some(Ok(piece(3)))));
        assert_eq!(next(&mut reader), Poll::Ready(Some(Err(BodyError::Broken))));
        assert_eq!(next(&mut reader), Poll::Ready(None));
    }

    #[test]
    fn a_writer_learns_that_nobody_reads_while_it_waits_or_later() {
        let (mut writer, reader) = body();
        let (count, waker) = counter();
        let mut cx = Context::from_waker(&waker);
        assert!(pin!(writer.gone()).poll(&mut cx).is_pending());
        {
            let mut full = pin!(writer.send(piece(BODY_WAITING_BYTES_MAX + 1)));
            assert!(full.as_mut().poll(&mut cx).is_pending());
            drop(reader);
            assert_eq!(count.0.load(SeqCst), 1);
            assert_eq!(full.poll(&mut cx), Poll::Ready(Err(Gone)));
        }
        assert!(writer.is_gone() && pin!(writer.gone()).poll(&mut cx).is_ready());
        assert_eq!(pin!(writer.send(piece(1))).poll(&mut cx), Poll::Ready(Err(Gone)));
    }
}

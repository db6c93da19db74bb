//! Bodies in pieces on one connection: requests handed to the service at their heads, and answers that go on.
//!
//! Invariants:
//! - Nothing is read of a request for which its [`Upload`] has no room, so the client gets no more credit for it than
//!   the transport's window.
//! - Of an answer one piece at most is outside its body, on its way into the transport; the next is taken when that has
//!   gone.
//! - Time runs against a client only while it is the client that is waited for: an answer of which nothing is there to
//!   be sent is not stalled, and a request that the service does not read is not late.

use std::task::{Context as TaskContext, Poll, Waker};

use bytes::Bytes;
use quinn_proto as qp;
use quinn_proto::StreamId;
use sluice_protocols::h3::{ErrorCode, H3Error};
use sluice_protocols::http::{Method, Response};

use super::answer::{Pieces, Written, len, write_pieces};
use super::{
    Answering, Body, Context, H3Connection, Outcome, Reading, SURPLUS_BYTES_MAX, Surplus, WATCHES_MAX, code,
    peer_of,
};
use crate::body::{BodyError, BodyReader, BodyWriter, Gone, PIECE_BYTES_MAX, body};
use crate::service::Request;

/// Bytes of a request's body that must arrive within the request timeout, over and over. A whole body has that time in
/// all; one in pieces may be long, so it has a slowest pace instead: 256 KiB in 30 s.
const PACE_BYTES: usize = 256 * 1024;
/// Pieces up to this length are copied together: each would hold the whole packet it came in.
const SMALL_BYTES_MAX: usize = 512;

/// A request's body on its way to the service.
pub(super) struct Upload {
    writer: BodyWriter,
    /// Until the service has it.
    reader: Option<BodyReader>,
    /// Rung when there is room again, or nobody reads.
    bell: Waker,
    /// Small pieces of what is being read, copied together.
    small: Vec<u8>,
    received_bytes: usize,
    /// Of these, since time was last given anew.
    paced_bytes: usize,
    is_held: bool,
}

impl Upload {
    pub(super) fn new(bell: Waker) -> Box<Self> {
        let (writer, reader) = body();
        let small = Vec::new();
        Box::new(Self {
            writer,
            reader: Some(reader),
            bell,
            small,
            received_bytes: 0,
            paced_bytes: 0,
            is_held: false,
        })
    }

    pub(super) const fn received_bytes(&self) -> usize {
        self.received_bytes
    }

    /// Whether the service has it.
    pub(super) const fn is_delivered(&self) -> bool {
        self.reader.is_none()
    }

    /// Whether the service must read before the client may go on.
    pub(super) const fn is_held(&self) -> bool {
        self.is_held
    }

    /// Bytes that may be read now; if none, the bell will ring.
    pub(super) fn room(&mut self) -> Result<usize, Gone> {
        // What is copied together is not with the writer yet.
        self.flush();
        let room_bytes = self.writer.room(&self.bell)?;
        self.is_held = room_bytes == 0;
        Ok(room_bytes)
    }

    pub(super) fn push(&mut self, mut piece: Bytes) {
        self.received_bytes += piece.len();
        self.paced_bytes += piece.len();
        if piece.len() <= SMALL_BYTES_MAX {
            self.small.extend_from_slice(&piece);
        } else {
            self.flush();
            while !piece.is_empty() {
                self.writer.push(piece.split_to(piece.len().min(PIECE_BYTES_MAX)));
            }
        }
    }

    pub(super) fn flush(&mut self) {
        if !self.small.is_empty() {
            self.writer.push(std::mem::take(&mut self.small).into());
        }
    }

    pub(super) fn fail(self, error: BodyError) {
        self.writer.fail(error);
    }

    /// Whether enough came for the time to begin anew.
    fn keeps_pace(&mut self) -> bool {
        let keeps = self.paced_bytes >= PACE_BYTES;
        if keeps {
            self.paced_bytes = 0;
        }
        keeps
    }
}

/// An answer whose body comes in pieces.
pub(super) struct Streaming {
    body: BodyReader,
    /// Rung when there is more of it.
    bell: Waker,
    /// What the client has no room for yet.
    pieces: Pieces,
    /// How often it was met since some of it was taken.
    watches: u8,
}

impl Streaming {
    /// Whether there is something that the client must take.
    pub(super) fn waits_for_client(&self) -> bool {
        !self.pieces.is_empty()
    }

    /// Whether the client took nothing for too long. To be asked once a period.
    pub(super) fn is_stalled(&mut self) -> bool {
        self.watches = if self.waits_for_client() { self.watches + 1 } else { 0 };
        self.watches > WATCHES_MAX
    }
}

impl H3Connection {
    /// Does what reading a request led to whose body is handed on in pieces.
    pub(super) fn hand_on(
        &mut self,
        quic: &mut qp::Connection,
        id: StreamId,
        mut reading: Reading,
        outcome: Outcome,
        cx: &mut Context<'_>,
    ) -> Result<(), H3Error> {
        if matches!(outcome, Outcome::Pending | Outcome::Whole) {
            self.deliver_head(quic, id, &mut reading, cx);
        }
        let Body::Streamed(mut upload) = std::mem::take(&mut reading.body) else { return Ok(()) };
        if !upload.is_delivered() {
            // Refused before the service had it: an ordinary refusal.
            return self.settle(quic, id, reading, outcome, cx);
        }
        match outcome {
            Outcome::Pending => {
                if upload.keeps_pace() {
                    reading.watches = 0;
                }
                reading.body = Body::Streamed(upload);
                self.reading.insert(id, reading);
                Ok(())
            }
            Outcome::Whole => {
                upload.writer.finish();
                Ok(())
            }
            Outcome::Cut(error) => {
                if let Some(error) = error {
                    upload.fail(error);
                }
                self.table.cancel(id);
                self.drop_surplus(quic, id, Surplus { left_bytes: SURPLUS_BYTES_MAX, watches: 0 });
                Ok(())
            }
            // The request turned out malformed, or its client broke it off: there is nobody to answer.
            outcome => {
                drop(upload);
                let place = self.answering.iter().find(|(_, due)| due.id == id).map(|(place, _)| place);
                let was_answered = place.map(|place| self.answering.remove(place)).is_some();
                self.writing.remove(&id);
                self.streaming.remove(&id);
                self.add_orphan(was_answered, cx)?;
                self.settle(quic, id, reading, outcome, cx)
            }
        }
    }

    /// Hands the service a request whose body is still to come, once.
    fn deliver_head(
        &mut self,
        quic: &qp::Connection,
        id: StreamId,
        reading: &mut Reading,
        cx: &mut Context<'_>,
    ) {
        let Body::Streamed(upload) = &mut reading.body else { return };
        let (Some(reader), Some(head)) = (upload.reader.take(), reading.head.take()) else { return };
        let place = self.answering.insert(Answering { id, is_head: head.method() == Method::Head });
        cx.stats.requests.add(1);
        cx.stats.requests_streamed.add(1);
        let early_data = quic.is_handshaking();
        cx.stats.requests_early.add(u64::from(early_data));
        let stream = Some(reader);
        let request = Request { head, body: Bytes::new(), stream, peer: peer_of(quic), early_data };
        (cx.deliver)(id, place, request);
    }

    /// Begins the answer to the request delivered with this place, unless the client has given it up.
    pub(crate) fn respond_in_pieces(
        &mut self,
        quic: &mut qp::Connection,
        id: StreamId,
        place: usize,
        answer: (Response, BodyReader),
        cx: &mut Context<'_>,
    ) {
        let (head, body) = answer;
        if self.answering.get(place).is_none_or(|due| due.id != id) {
            self.orphans = self.orphans.saturating_sub(1);
            cx.stats.responses_undeliverable.add(1);
            return;
        }
        let is_head = self.answering.remove(place).is_head;
        if quic.is_closed() {
            cx.stats.responses_undeliverable.add(1);
            return;
        }
        let Some(pieces) = cx.writer.head(&head) else {
            // A field that cannot be sent is a fault of ours, not of the client.
            tracing::error!(status = head.status, "answer with an invalid field");
            return self.write_answer(quic, id, &mut Response::new(500), false, cx);
        };
        // RFC 9110 section 6.4.1: these have no content, whatever the service gives them.
        if is_head || matches!(head.status, 204 | 304) {
            drop(body);
            return self.write_whole(quic, id, pieces, cx);
        }
        cx.stats.responses_streamed.add(1);
        let streaming = Streaming { body, bell: cx.bells.of(id), pieces, watches: 0 };
        self.go_on(quic, id, streaming, cx);
    }

    /// Writes of an answer what there is and the client has room for.
    pub(super) fn go_on(
        &mut self,
        quic: &mut qp::Connection,
        id: StreamId,
        mut streaming: Streaming,
        cx: &mut Context<'_>,
    ) {
        loop {
            let before = len(&streaming.pieces);
            match write_pieces(quic, id, &mut streaming.pieces, false) {
                Written::All => streaming.pieces.clear(),
                Written::Blocked => {
                    if len(&streaming.pieces) < before {
                        streaming.watches = 0;
                    }
                    break;
                }
                Written::Refused => {
                    cx.stats.responses_undeliverable.add(1);
                    return;
                }
            }
            streaming.watches = 0;
            match streaming.body.poll_next(&mut TaskContext::from_waker(&streaming.bell)) {
                Poll::Ready(Some(Ok(piece))) => streaming.pieces = cx.writer.piece(piece),
                Poll::Ready(None) => {
                    // The client may have stopped the stream meanwhile, which is no loss.
                    let _ = quic.send_stream(id).finish();
                    cx.stats.responses.add(1);
                    return;
                }
                Poll::Ready(Some(Err(_))) => {
                    cx.stats.responses_broken.add(1);
                    // RFC 9114 section 4.1.2 and 8.1: what went out must not be taken for the whole.
                    let _ = quic.send_stream(id).reset(code(ErrorCode::H3_INTERNAL_ERROR));
                    return;
                }
                Poll::Pending => break,
            }
        }
        self.streaming.insert(id, streaming);
    }

    /// Goes on with the bodies of a stream whose bell rang.
    pub(crate) fn answer_bell(&mut self, quic: &mut qp::Connection, id: StreamId, cx: &mut Context<'_>) {
        if quic.is_closed() {
            return;
        }
        if let Some(streaming) = self.streaming.remove(&id) {
            self.go_on(quic, id, streaming, cx);
        }
        let Some(reading) = self.reading.remove(&id) else { return };
        if let Err(error) = self.read_request(quic, id, reading, cx) {
            self.fail(quic, error, cx);
        }
    }
}

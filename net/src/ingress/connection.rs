//! HTTP/3 on one server connection (RFC 9114), between the QUIC streams and the
//! [`Service`].
//!
//! Invariants:
//! - A request stream is in `reading` while its request is not whole, then in
//!   `answering` until its answer is known, and in `writing` while that waits for
//!   flow control; in one of them at most. An event on a stream in none is stale:
//!   quinn-proto may report a stream readable that was read in this turn. A
//!   request answered before it was whole is in `surplus` besides. The
//!   usual request comes whole and its answer fits: it is in no table but
//!   `answering`, where its place is known without a search.
//! - Where bodies come and go in pieces ([`streaming`]), reading and answering are independent: a request whose body
//!   still comes is in `reading` and in one of the others besides, and an answer whose body still comes is in
//!   `streaming`. Pieces wait in bounded bodies ([`crate::body`]), not here.
//! - Every bound here is per stream times the stream limit of the transport, and
//!   requests that a client gave up count until the service has let go of them.

mod answer;
mod streaming;
mod uni;
mod unused;

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;
use hashbrown::HashMap;
use quinn_proto as qp;
use quinn_proto::{Dir, StreamId, VarInt};
use slab::Slab;
use sluice_protocols::h3::{
    self, ErrorCode, Event as FrameEvent, FIELD_SECTION_BYTES_MAX, FrameDecoder, H3Error, PeerUniStreams,
    Role, UniStreamTypeDecoder,
};
use sluice_protocols::http::{Method, RequestHead, Response};
use sluice_protocols::qpack::HeadError;

pub(super) use self::answer::Writer;
use self::answer::{Pieces, Written, len, write_pieces};
use self::streaming::{Streaming, Upload};
use self::uni::{Uni, closed_critical, no_control};
pub(super) use self::unused::Sweep;
use self::unused::Usage;
use super::UNREAD_BYTES_MAX;
use super::drain::WindUp;
use super::qpack::Table;
use super::stats::IngressStats;
use crate::body::{BODY_WAITING_BYTES_MAX, BodyError, Gone};
use crate::quic::STREAMS_WIDEN_AT;
use crate::service::{Admit, BellPull, Request, Service, TOO_EARLY, was_early};
use crate::tls::handshake::HandshakeFacts;

/// Times a half-received request, or an answer of which nothing is taken, is
/// passed over before it is given up. The time limit is this many periods, so it
/// is kept to one period, with no clock read and no timer for a request.
pub(crate) const WATCHES_MAX: u8 = 4;
/// Bytes of a request that are taken and thrown away after its answer, before the
/// client is told to stop. RFC 9114 section 4.1 lets a server tell it at once;
/// Chromium then never delivers the answer. So ordinary bodies may run out.
const SURPLUS_BYTES_MAX: usize = 1 << 20;
type FastMap<V> = HashMap<StreamId, V, foldhash::fast::FixedState>;

/// A request on its way in.
struct Reading {
    decoder: FrameDecoder,
    head: Option<RequestHead>,
    body: Body,
    body_bytes_max: usize,
    /// How often it was met half done.
    watches: u8,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            decoder: FrameDecoder::new(Role::Server, FIELD_SECTION_BYTES_MAX),
            head: None,
            body: Body::Empty,
            body_bytes_max: 0,
            watches: 0,
        }
    }
}

#[derive(Default)]
enum Body {
    #[default]
    Empty,
    /// One piece, still in the packet it came in.
    One(Bytes),
    Joined(Vec<u8>),
    /// Handed on as it comes.
    Streamed(Box<Upload>),
}

impl Body {
    /// Bytes that came.
    fn len(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::One(bytes) => bytes.len(),
            Self::Joined(bytes) => bytes.len(),
            Self::Streamed(upload) => upload.received_bytes(),
        }
    }

    fn push(&mut self, piece: Bytes) {
        *self = match std::mem::take(self) {
            Self::Empty => Self::One(piece),
            Self::One(first) => Self::Joined([&first[..], &piece[..]].concat()),
            Self::Joined(mut bytes) => {
                bytes.extend_from_slice(&piece);
                Self::Joined(bytes)
            }
            Self::Streamed(mut upload) => {
                upload.push(piece);
                Self::Streamed(upload)
            }
        };
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Empty | Self::Streamed(_) => Bytes::new(),
            Self::One(bytes) => bytes,
            Self::Joined(bytes) => bytes.into(),
        }
    }
}

/// What waits to be written on a stream.
///
/// What is left of an answer is part of the memory that all of it was in, which a client could thus have us hold by
/// taking all but a few bytes of each. So an answer of which less than half is left moves: no more is held than twice
/// what waits, and in all no more is copied than the answer has bytes.
#[derive(Default)]
struct Unwritten {
    pieces: Pieces,
    /// Bytes that the memory behind the pieces had when they came or moved.
    held_bytes: usize,
    /// How often it was met since some of it was taken.
    watches: u8,
}

impl Unwritten {
    fn len(&self) -> usize {
        len(&self.pieces)
    }

    fn let_go(&mut self) {
        let left = self.len();
        if left < self.held_bytes / 2 {
            for piece in &mut self.pieces {
                *piece = Bytes::copy_from_slice(piece);
            }
            self.held_bytes = left;
        }
    }
}

/// A request whose answer is due.
struct Answering {
    id: StreamId,
    /// The answer must go without a body.
    is_head: bool,
}

/// The rest of a request that has its answer. It is thrown away as it comes.
struct Surplus {
    left_bytes: usize,
    /// How often it was met half done.
    watches: u8,
}

/// What reading a stream led to.
enum Outcome {
    /// More must come.
    Pending,
    /// The request is whole.
    Whole,
    /// Answer now; the rest of the request is not wanted.
    Refuse(Box<Response>),
    /// The rest of a request that the service has is not wanted: it gets this
    /// instead, unless it is the service that does not want it.
    Cut(Option<BodyError>),
    Failed(H3Error),
    Abandoned,
}

/// HTTP/3 state of one connection.
#[derive(Default)]
pub(crate) struct H3Connection {
    control: Option<StreamId>,
    peer: Option<PeerUniStreams>,
    uni: Vec<(StreamId, Uni)>,
    /// Streams of the client's that were for nothing.
    unknown_streams: u64,
    /// The client's dynamic table.
    table: Table,
    reading: FastMap<Reading>,
    answering: Slab<Answering>,
    /// What waits for flow control: answers, and frames on the control stream.
    writing: FastMap<Unwritten>,
    /// Answers whose bodies come in pieces.
    streaming: FastMap<Streaming>,
    /// Requests that were answered before they were whole.
    surplus: FastMap<Surplus>,
    /// Requests that the service still works on and whose client gave them up.
    orphans: usize,
    /// What was told by GOAWAY.
    pub(super) winding_up: WindUp,
    usage: Usage,
    next_request: u64,
    /// Whether it is among those that are looked at again.
    is_watched: bool,
}

/// What the connection's methods need besides its state.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) service: &'a dyn Service,
    pub(crate) stats: &'a IngressStats,
    /// Requests a client may have open, and as many again that it has given up
    /// while they are still worked on: a stream given up is free for the next
    /// request, so without that bound the stream limit would bound nothing.
    pub(crate) streams_max: u32,
    /// Receives each whole request: the stream, the place its answer is due at,
    /// and the request.
    pub(crate) deliver: &'a mut dyn FnMut(StreamId, usize, Request),
    /// Puts answers together.
    pub(crate) writer: &'a mut Writer,
    /// By which bodies in pieces tell that they can go on.
    pub(crate) bells: BellPull<'a>,
}

impl H3Connection {
    /// Whether nothing of any request is left to do, and every answer has
    /// arrived.
    pub(crate) fn is_idle(&self, quic: &mut qp::Connection) -> bool {
        // Streams with bytes the client has not acknowledged; the control stream
        // never ends, so it is always among them.
        let unfinished = quic
            .streams()
            .send_streams()
            .saturating_sub(usize::from(self.control.is_some()) + self.table.streams());
        let has_none = self.reading.is_empty() && self.answering.is_empty();
        unfinished == 0 && has_none && self.writing.is_empty() && self.streaming.is_empty()
    }

    /// Handles one event.
    pub(crate) fn handle(&mut self, quic: &mut qp::Connection, event: qp::Event, cx: &mut Context<'_>) {
        let result = match event {
            qp::Event::ConnectionLost { reason } => {
                tracing::debug!(%reason, peer = %quic.remote_address(), "connection lost");
                if matches!(reason, qp::ConnectionError::TransportError(_)) {
                    cx.stats.connections_invalid.add(1);
                }
                self.abandon(cx.stats);
                return;
            }
            // What came before the close but was not looked at yet.
            _ if quic.is_closed() => return,
            // With the client's hello the keys for what we send are there, before those for what it sends (RFC 9114
            // section 7.2.4.2). A hello that must be said again brings neither keys nor streams: the next one does.
            qp::Event::HandshakeDataReady => {
                self.open_control(quic);
                Ok(())
            }
            qp::Event::Connected => {
                count_handshake(quic, cx.stats);
                self.usage.note(cx.now);
                if self.open_control(quic) { Ok(()) } else { Err(no_control()) }
            }
            qp::Event::Stream(event) => self.handle_stream(quic, event, cx),
            qp::Event::DatagramReceived | qp::Event::DatagramsUnblocked => Ok(()),
        };
        if let Err(error) = result {
            self.fail(quic, error, cx);
        }
    }

    /// Writes what the turn's events made due to the client's encoder, all at
    /// once.
    pub(crate) fn flush_table(&mut self, quic: &mut qp::Connection, now: Instant, stats: &IngressStats) {
        if quic.is_closed() {
            return;
        }
        if let Err(error) = self.table.flush(quic, stats) {
            self.close(quic, error, now, stats);
        }
    }

    /// Lets go of everything: the connection is over.
    fn abandon(&mut self, stats: &IngressStats) {
        stats.streams_abandoned.add((self.reading.len() + self.answering.len()) as u64);
        *self = Self::default();
    }

    fn handle_stream(
        &mut self,
        quic: &mut qp::Connection,
        event: qp::StreamEvent,
        cx: &mut Context<'_>,
    ) -> Result<(), H3Error> {
        match event {
            qp::StreamEvent::Opened { dir } => {
                while let Some(id) = quic.streams().accept(dir) {
                    match dir {
                        Dir::Bi => self.accept_request(quic, id, cx)?,
                        Dir::Uni => {
                            self.uni.push((id, Uni::Type(UniStreamTypeDecoder::default())));
                            self.read_uni(quic, id, cx.stats)?;
                        }
                    }
                }
                widen(quic, cx.streams_max);
                Ok(())
            }
            qp::StreamEvent::Readable { id } if id.dir() == Dir::Bi => match self.reading.remove(&id) {
                Some(reading) => self.read_request(quic, id, reading, cx),
                None => {
                    if let Some(surplus) = self.surplus.remove(&id) {
                        self.drop_surplus(quic, id, surplus);
                    }
                    Ok(())
                }
            },
            qp::StreamEvent::Readable { id } => self.read_uni(quic, id, cx.stats),
            qp::StreamEvent::Writable { id } => {
                self.write(quic, id);
                if let Some(streaming) = self.streaming.remove(&id) {
                    self.go_on(quic, id, streaming, cx);
                }
                Ok(())
            }
            qp::StreamEvent::Stopped { id, .. } => self.give_up(quic, id, cx),
            qp::StreamEvent::Finished { .. } | qp::StreamEvent::Available { .. } => Ok(()),
        }
    }

    /// The client does not want the answer (RFC 9114 section 4.1.1).
    fn give_up(&mut self, quic: &mut qp::Connection, id: StreamId, cx: &Context<'_>) -> Result<(), H3Error> {
        if Some(id) == self.control || self.table.is_stream(id) {
            // RFC 9114 section 6.2.1, RFC 9204 section 4.2: they must not be closed.
            return Err(closed_critical());
        }
        let was_read = self.reading.remove(&id).is_some();
        let had_surplus = self.surplus.remove(&id).is_some();
        let place = self.answering.iter().find(|(_, due)| due.id == id).map(|(place, _)| place);
        let was_answered = place.map(|place| self.answering.remove(place)).is_some();
        let was_written = self.writing.remove(&id).is_some() | self.streaming.remove(&id).is_some();
        let cancelled = code(ErrorCode::H3_REQUEST_CANCELLED);
        // Refused when all was sent and acknowledged, or was reset before.
        let _ = quic.send_stream(id).reset(cancelled);
        if was_read {
            self.table.cancel(id);
        }
        if was_read || had_surplus {
            discard(quic, id, cancelled);
        }
        cx.stats.streams_abandoned.add(u64::from(was_read || was_answered || was_written));
        self.add_orphan(was_answered, cx)
    }

    /// The service works on, perhaps, for a client that has given up.
    fn add_orphan(&mut self, is_one: bool, cx: &Context<'_>) -> Result<(), H3Error> {
        self.orphans += usize::from(is_one);
        if self.orphans > cx.streams_max as usize {
            return Err(H3Error::Connection {
                code: ErrorCode::H3_EXCESSIVE_LOAD,
                reason: "too many requests given up",
            });
        }
        Ok(())
    }

    // ---- requests (RFC 9114 section 4) ----

    fn accept_request(
        &mut self,
        quic: &mut qp::Connection,
        id: StreamId,
        cx: &mut Context<'_>,
    ) -> Result<(), H3Error> {
        if self.winding_up.refuses(id.index()) {
            // RFC 9114 section 5.2: not processed, safe to send elsewhere.
            cx.stats.requests_refused_draining.add(1);
            let rejected = code(ErrorCode::H3_REQUEST_REJECTED);
            let _ = quic.send_stream(id).reset(rejected);
            let _ = quic.recv_stream(id).stop(rejected);
            return Ok(());
        }
        self.next_request = self.next_request.max(id.index() + 1);
        self.usage.note(cx.now);
        self.read_request(quic, id, Reading::default(), cx)
    }

    fn read_request(
        &mut self,
        quic: &mut qp::Connection,
        id: StreamId,
        mut reading: Reading,
        cx: &mut Context<'_>,
    ) -> Result<(), H3Error> {
        let outcome = read_stream(quic, id, &mut reading, &mut self.table, cx);
        if let Body::Streamed(upload) = &mut reading.body {
            upload.flush();
            return self.hand_on(quic, id, reading, outcome, cx);
        }
        self.settle(quic, id, reading, outcome, cx)
    }

    /// Does what reading a stream led to.
    fn settle(
        &mut self,
        quic: &mut qp::Connection,
        id: StreamId,
        reading: Reading,
        outcome: Outcome,
        cx: &mut Context<'_>,
    ) -> Result<(), H3Error> {
        match outcome {
            Outcome::Pending => {
                self.reading.insert(id, reading);
                Ok(())
            }
            Outcome::Whole => {
                self.deliver(quic, id, reading, cx);
                Ok(())
            }
            Outcome::Refuse(mut response) => {
                let is_head = reading.head.as_ref().is_some_and(|head| head.method() == Method::Head);
                self.write_answer(quic, id, &mut response, is_head, cx);
                self.table.cancel(id);
                self.drop_surplus(quic, id, Surplus { left_bytes: SURPLUS_BYTES_MAX, watches: 0 });
                Ok(())
            }
            // Of requests in pieces alone, which are settled elsewhere.
            Outcome::Cut(_) => Ok(()),
            Outcome::Abandoned => {
                cx.stats.streams_abandoned.add(1);
                self.table.cancel(id);
                let _ = quic.send_stream(id).reset(code(ErrorCode::H3_REQUEST_CANCELLED));
                Ok(())
            }
            Outcome::Failed(H3Error::Stream { code: error, reason }) => {
                cx.stats.streams_failed.add(1);
                tracing::debug!(%error, reason, peer = %quic.remote_address(), "request refused");
                self.table.cancel(id);
                let _ = quic.send_stream(id).reset(code(error));
                discard(quic, id, code(error));
                Ok(())
            }
            Outcome::Failed(error) => Err(error),
        }
    }

    /// Throws away what came of a request that has its answer, of which this much
    /// more is taken before the client is told to stop.
    fn drop_surplus(&mut self, quic: &mut qp::Connection, id: StreamId, mut surplus: Surplus) {
        match throw_away(quic, id) {
            Rest::Over => {}
            Rest::ToCome { thrown_bytes } if thrown_bytes >= surplus.left_bytes => {
                // RFC 9114 section 4.1: the rest is not needed for the answer.
                let _ = quic.recv_stream(id).stop(code(ErrorCode::H3_NO_ERROR));
            }
            Rest::ToCome { thrown_bytes } => {
                surplus.left_bytes -= thrown_bytes;
                self.surplus.insert(id, surplus);
            }
        }
    }

    fn deliver(&mut self, quic: &mut qp::Connection, id: StreamId, reading: Reading, cx: &mut Context<'_>) {
        let Some(head) = reading.head else { return };
        let place = self.answering.insert(Answering { id, is_head: head.method() == Method::Head });
        cx.stats.requests.add(1);
        let early_data = quic.is_handshaking();
        cx.stats.requests_early.add(u64::from(early_data));
        let body = reading.body.into_bytes();
        let request = Request { head, body, stream: None, peer: peer_of(quic), early_data };
        (cx.deliver)(id, place, request);
    }

    /// Writes the answer to the request delivered with this place, unless the
    /// client has given it up. Its body is taken out of it.
    pub(crate) fn respond(
        &mut self,
        quic: &mut qp::Connection,
        id: StreamId,
        place: usize,
        response: &mut Response,
        cx: &mut Context<'_>,
    ) {
        // Stream IDs are never used again, so the place tells whose it is now.
        if self.answering.get(place).is_none_or(|due| due.id != id) {
            self.orphans = self.orphans.saturating_sub(1);
            cx.stats.responses_undeliverable.add(1);
            return;
        }
        let is_head = self.answering.remove(place).is_head;
        self.write_answer(quic, id, response, is_head, cx);
    }

    fn write_answer(
        &mut self,
        quic: &mut qp::Connection,
        id: StreamId,
        response: &mut Response,
        is_head: bool,
        cx: &mut Context<'_>,
    ) {
        let pieces = cx.writer.whole(response, is_head);
        self.write_whole(quic, id, pieces, cx);
    }

    /// Writes the frames of a whole answer, and ends the stream behind them.
    fn write_whole(
        &mut self,
        quic: &mut qp::Connection,
        id: StreamId,
        mut pieces: Pieces,
        cx: &mut Context<'_>,
    ) {
        let held_bytes = len(&pieces);
        let written = match quic.is_closed() {
            true => Written::Refused,
            false => write_pieces(quic, id, &mut pieces, true),
        };
        if written == Written::Blocked && !self.wait_for_room(id, pieces, held_bytes) {
            cx.stats.responses_over_bound.add(1);
            let _ = quic.send_stream(id).reset(code(ErrorCode::H3_EXCESSIVE_LOAD));
            return;
        }
        let taken = written != Written::Refused;
        cx.stats.responses.add(u64::from(taken));
        cx.stats.responses_undeliverable.add(u64::from(!taken));
    }

    /// Goes on with what waits for flow control.
    fn write(&mut self, quic: &mut qp::Connection, id: StreamId) {
        let Some(unwritten) = self.writing.get_mut(&id) else { return };
        let before = unwritten.len();
        if write_pieces(quic, id, &mut unwritten.pieces, Some(id) != self.control) != Written::Blocked {
            self.writing.remove(&id);
        } else if unwritten.len() < before {
            unwritten.watches = 0;
            unwritten.let_go();
        }
    }

    /// Keeps what the client has no room for; false where too much waits already.
    fn wait_for_room(&mut self, id: StreamId, pieces: Pieces, held_bytes: usize) -> bool {
        let mut unwritten = Unwritten { pieces, held_bytes, watches: 0 };
        let waiting: usize = self.writing.values().map(Unwritten::len).sum();
        let has_room = waiting + unwritten.len() <= UNREAD_BYTES_MAX;
        if has_room {
            unwritten.let_go();
            self.writing.insert(id, unwritten);
        }
        has_room
    }

    /// Whether something is half done that has not been put under watch yet; it
    /// counts as such from now on.
    pub(crate) fn must_be_watched(&mut self) -> bool {
        if self.is_watched {
            return false;
        }
        // Our control stream waits for as long as it must: it carries nothing
        // that grows.
        self.is_watched = !self.reading.is_empty()
            || !self.surplus.is_empty()
            || self.writing.keys().any(|id| Some(*id) != self.control)
            || self.streaming.values().any(Streaming::waits_for_client);
        self.is_watched
    }

    /// Gives up requests and answers that have been half done for too long. Whether
    /// to come again [`must_be_watched`](Self::must_be_watched) tells.
    pub(crate) fn expire(&mut self, quic: &mut qp::Connection, cx: &mut Context<'_>) {
        self.is_watched = false;
        if quic.is_closed() {
            return;
        }
        let mut late = Vec::new();
        for (id, reading) in &mut self.reading {
            // Who is held back by us is not late.
            let is_held = matches!(&reading.body, Body::Streamed(upload) if upload.is_held());
            reading.watches += u8::from(!is_held);
            if reading.watches > WATCHES_MAX {
                late.push(*id);
            }
        }
        for id in late.drain(..) {
            let reading = self.reading.remove(&id);
            cx.stats.requests_timed_out.add(1);
            if let Some(Reading { body: Body::Streamed(upload), .. }) = reading {
                upload.fail(BodyError::TimedOut);
                self.table.cancel(id);
                discard(quic, id, code(ErrorCode::H3_NO_ERROR));
                continue;
            }
            // RFC 9110 section 15.5.9.
            let mut response = cx.service.refuse(408, "the request did not arrive whole in time");
            self.write_answer(quic, id, &mut response, false, cx);
            self.table.cancel(id);
            discard(quic, id, code(ErrorCode::H3_NO_ERROR));
        }
        for (id, surplus) in &mut self.surplus {
            surplus.watches += 1;
            if surplus.watches > WATCHES_MAX {
                late.push(*id);
            }
        }
        for id in late.drain(..) {
            self.surplus.remove(&id);
            cx.stats.requests_timed_out.add(1);
            discard(quic, id, code(ErrorCode::H3_NO_ERROR));
        }
        let control = self.control;
        for (id, unwritten) in self.writing.iter_mut().filter(|(id, _)| Some(**id) != control) {
            unwritten.watches += 1;
            if unwritten.watches > WATCHES_MAX {
                late.push(*id);
            }
        }
        for (id, streaming) in &mut self.streaming {
            if streaming.is_stalled() {
                late.push(*id);
            }
        }
        for id in late {
            self.writing.remove(&id);
            self.streaming.remove(&id);
            cx.stats.responses_stalled.add(1);
            let _ = quic.send_stream(id).reset(code(ErrorCode::H3_EXCESSIVE_LOAD));
        }
    }

    /// Closes the connection over an error, or resets what it concerns.
    fn fail(&mut self, quic: &mut qp::Connection, error: H3Error, cx: &Context<'_>) {
        self.close(quic, error, cx.now, cx.stats);
    }

    fn close(&mut self, quic: &mut qp::Connection, error: H3Error, now: Instant, stats: &IngressStats) {
        stats.connections_failed.add(1);
        tracing::debug!(%error, peer = %quic.remote_address(), "connection closed over an error");
        let (error, reason) = match error {
            H3Error::Connection { code, reason } | H3Error::Stream { code, reason } => (code, reason),
            H3Error::HeadersTooLarge { .. } => (ErrorCode::H3_EXCESSIVE_LOAD, "header section too large"),
        };
        quic.close(now, code(error), Bytes::from_static(reason.as_bytes()));
        self.abandon(stats);
    }

    /// The index of the request after the last that was taken.
    pub(super) fn next_request(&self) -> u64 {
        self.next_request
    }

    /// Says how far winding up has come, now or as soon as anything can be said.
    pub(super) fn write_goaway(&mut self, quic: &mut qp::Connection) {
        let Some(identifier) = self.winding_up.identifier() else { return };
        let mut frame = Vec::with_capacity(12);
        h3::write_goaway(&mut frame, identifier);
        self.write_control(quic, frame);
    }
}

/// Lets a client that makes use of the streams it has open as many as there are.
fn widen(quic: &mut qp::Connection, streams_max: u32) {
    if quic.streams().send_streams() > STREAMS_WIDEN_AT
        && quic.max_concurrent_streams(Dir::Bi) < u64::from(streams_max)
    {
        quic.set_max_concurrent_streams(Dir::Bi, VarInt::from_u32(streams_max));
    }
}

fn count_handshake(quic: &qp::Connection, stats: &IngressStats) {
    let HandshakeFacts { is_resumed, offers_early_data, .. } = HandshakeFacts::of(quic);
    stats.handshakes_full.add(u64::from(!is_resumed));
    stats.handshakes_resumed.add(u64::from(is_resumed));
    stats.early_data_accepted.add(u64::from(quic.has_0rtt()));
    stats.early_data_rejected.add(u64::from(offers_early_data && !quic.has_0rtt()));
}

fn peer_of(quic: &qp::Connection) -> SocketAddr {
    quic.remote_address()
}

pub(crate) fn code(code: ErrorCode) -> VarInt {
    VarInt::from_u64(code.value()).unwrap_or(VarInt::MAX)
}

/// What is left of a stream.
enum Rest {
    /// Nothing: the client ended it, or we did.
    Over,
    /// More than the bytes that were thrown away.
    ToCome { thrown_bytes: usize },
}

/// Throws away what has arrived of a stream.
fn throw_away(quic: &mut qp::Connection, id: StreamId) -> Rest {
    let mut stream = quic.recv_stream(id);
    let Ok(mut chunks) = stream.read(true) else { return Rest::Over };
    let mut thrown_bytes = 0;
    let rest = loop {
        match chunks.next(usize::MAX) {
            Ok(Some(chunk)) => thrown_bytes += chunk.bytes.len(),
            Ok(None) | Err(qp::ReadError::Reset(_)) => break Rest::Over,
            Err(qp::ReadError::Blocked) => break Rest::ToCome { thrown_bytes },
        }
    };
    let _ = chunks.finalize();
    rest
}

/// Throws away what has arrived of a stream, and asks for no more unless that
/// was all.
fn discard(quic: &mut qp::Connection, id: StreamId, error: VarInt) {
    if let Rest::ToCome { .. } = throw_away(quic, id) {
        let _ = quic.recv_stream(id).stop(error);
    }
}

fn read_stream(
    quic: &mut qp::Connection,
    id: StreamId,
    reading: &mut Reading,
    table: &mut Table,
    cx: &Context<'_>,
) -> Outcome {
    // What comes before the client has finished the handshake may be a replay. Once it has, nobody but the
    // client can have sent it, whatever packet it came in, and its address is proven.
    let from = (!quic.is_handshaking()).then(|| peer_of(quic).ip());
    let mut stream = quic.recv_stream(id);
    // Closed: we stopped it earlier, its last bytes are of no interest.
    let Ok(mut chunks) = stream.read(true) else { return Outcome::Pending };
    let outcome = loop {
        let room_bytes = match &mut reading.body {
            Body::Streamed(upload) => match upload.room() {
                Ok(0) => break Outcome::Pending,
                Ok(room_bytes) => room_bytes,
                Err(Gone) => break Outcome::Cut(None),
            },
            // A body that comes in pieces has this much room when it begins, right behind its head.
            _ => BODY_WAITING_BYTES_MAX,
        };
        match chunks.next(room_bytes) {
            Ok(Some(chunk)) => match feed(reading, &chunk.bytes, from, id, table, cx) {
                Outcome::Pending => {}
                settled => break settled,
            },
            Ok(None) => {
                break match reading.decoder.finish() {
                    Ok(()) => Outcome::Whole,
                    Err(error) => Outcome::Failed(error),
                };
            }
            Err(qp::ReadError::Blocked) => break Outcome::Pending,
            Err(qp::ReadError::Reset(_)) => break Outcome::Abandoned,
        }
    };
    // Flow control credit goes out with the turn's packets.
    let _ = chunks.finalize();
    outcome
}

fn feed(
    reading: &mut Reading,
    bytes: &Bytes,
    from: Option<IpAddr>,
    id: StreamId,
    table: &mut Table,
    cx: &Context<'_>,
) -> Outcome {
    let mut chunk: &[u8] = bytes;
    loop {
        match reading.decoder.next(&mut chunk) {
            Ok(None) => return Outcome::Pending,
            Ok(Some(FrameEvent::Headers(section))) => match table.decode_request(id, section, cx.stats) {
                Ok(head) => {
                    if let Some(bytes) = head.content_length() {
                        reading.decoder.expect_body(bytes);
                    }
                    if !head.method().is_safe() && (from.is_none() || was_early(&head)) {
                        reading.head = Some(head);
                        return refuse_early(cx);
                    }
                    match cx.service.admit(&head, from) {
                        Admit::Reply(response) => {
                            cx.stats.requests_answered_early.add(1);
                            reading.head = Some(head);
                            return Outcome::Refuse(Box::new(response));
                        }
                        Admit::Body { bytes_max } => reading.body_bytes_max = bytes_max,
                        Admit::Stream { bytes_max } => {
                            reading.body_bytes_max = bytes_max;
                            reading.body = Body::Streamed(Upload::new(cx.bells.of(id)));
                        }
                    }
                    let announced = head.content_length();
                    reading.head = Some(head);
                    if announced.is_some_and(|bytes| bytes > reading.body_bytes_max as u64) {
                        return refuse_body(cx);
                    }
                }
                Err(error) => return refuse_head(&error, cx),
            },
            Ok(Some(FrameEvent::Data(piece))) => {
                if reading.body.len() + piece.len() > reading.body_bytes_max {
                    return match &reading.body {
                        Body::Streamed(upload) if upload.is_delivered() => {
                            cx.stats.requests_body_too_large.add(1);
                            Outcome::Cut(Some(BodyError::TooLong))
                        }
                        _ => refuse_body(cx),
                    };
                }
                reading.body.push(bytes.slice_ref(piece));
            }
            // Trailers are checked and carry nothing we use.
            Ok(Some(FrameEvent::Trailers(section))) => {
                if let Err(error) = table.check_trailers(id, section, cx.stats) {
                    return Outcome::Failed(error.h3_error());
                }
            }
            Err(H3Error::HeadersTooLarge { declared_bytes }) => {
                cx.stats.requests_headers_too_large.add(1);
                let detail = format!(
                    "the header section has {declared_bytes} bytes; at most {FIELD_SECTION_BYTES_MAX} are taken"
                );
                return Outcome::Refuse(Box::new(cx.service.refuse(431, &detail)));
            }
            Err(error) => return Outcome::Failed(error),
        }
    }
}

/// A request that does something must not be taken from what may be a replay, nor from an intermediary that had it
/// as such (RFC 8470 sections 4 and 5.1).
fn refuse_early(cx: &Context<'_>) -> Outcome {
    cx.stats.requests_too_early.add(1);
    Outcome::Refuse(Box::new(cx.service.refuse(425, TOO_EARLY)))
}

fn refuse_body(cx: &Context<'_>) -> Outcome {
    cx.stats.requests_body_too_large.add(1);
    Outcome::Refuse(Box::new(cx.service.refuse(413, "the body is longer than this resource takes")))
}

fn refuse_head(error: &HeadError, cx: &Context<'_>) -> Outcome {
    match error.status() {
        Some(status) => {
            let counter = match status {
                431 => &cx.stats.requests_headers_too_large,
                _ => &cx.stats.requests_answered_early,
            };
            counter.add(1);
            Outcome::Refuse(Box::new(cx.service.refuse(status, &error.to_string())))
        }
        None => Outcome::Failed(error.h3_error()),
    }
}

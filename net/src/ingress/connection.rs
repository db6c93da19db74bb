//! HTTP/3 on one server connection (RFC 9114), between the QUIC streams and the
//! [`Service`].
//!
//! Invariants:
//! - A request stream is in `reading` until its request is whole or refused, in
//!   `answering` until its answer is written, and in `writing` while the answer
//!   waits for flow control. It may be in `reading` and `answering` at once when
//!   the answer came before the end of the body.
//! - Every bound here is per stream times the stream limit of the transport.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use hashbrown::HashMap;
use quinn_proto as qp;
use quinn_proto::{Dir, StreamId, VarInt};
use sluice_protocols::h3::{
    self, ControlDecoder, ErrorCode, Event as FrameEvent, FIELD_SECTION_BYTES_MAX, FrameDecoder, H3Error,
    PeerUniStreams, Role, UniStreamType, UniStreamTypeDecoder,
};
use sluice_protocols::http::{Limits, Method, RequestHead, Response};
use sluice_protocols::qpack::{self, DecoderStream, EncoderStream, HeadError};

use super::stats::IngressStats;
use crate::service::{Admit, Request, Service};

/// Bodies up to this length are sent in one piece with their head.
const INLINE_BODY_BYTES_MAX: usize = 4096;

type FastMap<V> = HashMap<StreamId, V, foldhash::fast::FixedState>;

/// A request on its way in.
struct Reading {
    decoder: FrameDecoder,
    head: Option<RequestHead>,
    body: Body,
    body_bytes_max: usize,
    /// The answer is settled: what still comes is thrown away.
    ignore: bool,
}

#[derive(Default)]
enum Body {
    #[default]
    Empty,
    /// One piece, still in the packet it came in.
    One(Bytes),
    Joined(Vec<u8>),
}

impl Body {
    fn len(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::One(bytes) => bytes.len(),
            Self::Joined(bytes) => bytes.len(),
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
        };
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Empty => Bytes::new(),
            Self::One(bytes) => bytes,
            Self::Joined(bytes) => bytes.into(),
        }
    }
}

enum Uni {
    Type(UniStreamTypeDecoder),
    Control(Box<ControlDecoder>),
    QpackEncoder(EncoderStream),
    QpackDecoder(DecoderStream),
}

/// What reading a stream led to.
enum Outcome {
    /// More must come.
    Pending,
    /// The request is whole.
    Whole,
    /// Answer now; the rest of the request is not wanted.
    Refuse(Response),
    Failed(H3Error),
    Abandoned,
}

/// HTTP/3 state of one connection.
#[derive(Default)]
pub(crate) struct H3Connection {
    control: Option<StreamId>,
    peer: Option<PeerUniStreams>,
    uni: Vec<(StreamId, Uni)>,
    reading: FastMap<Reading>,
    /// Streams whose answer is due, and whether it must go without a body.
    answering: FastMap<bool>,
    writing: FastMap<VecDeque<Bytes>>,
    /// Streams from this index on are refused, as announced by GOAWAY.
    goaway_from: Option<u64>,
    next_request: u64,
}

/// What the connection's methods need besides its state.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) service: &'a dyn Service,
    pub(crate) stats: &'a IngressStats,
    /// Receives each whole request: the stream and the request.
    pub(crate) deliver: &'a mut dyn FnMut(StreamId, Request),
}

impl H3Connection {
    /// Requests whose answer is due or still being written.
    pub(crate) fn in_flight(&self) -> usize {
        self.answering.len() + self.writing.len()
    }

    /// Whether nothing of any request is left to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight() == 0 && self.reading.is_empty()
    }

    /// Handles one event; false when the connection was lost.
    pub(crate) fn handle(&mut self, quic: &mut qp::Connection, event: qp::Event, cx: &mut Context<'_>) -> bool {
        let result = match event {
            qp::Event::Connected => self.open_control(quic),
            qp::Event::Stream(event) => self.handle_stream(quic, event, cx),
            qp::Event::ConnectionLost { reason } => {
                tracing::debug!(%reason, peer = %quic.remote_address(), "connection lost");
                cx.stats.streams_abandoned.add(self.reading.len() as u64);
                return false;
            }
            qp::Event::HandshakeDataReady | qp::Event::DatagramReceived | qp::Event::DatagramsUnblocked => Ok(()),
        };
        if let Err(error) = result {
            self.fail(quic, error, cx);
        }
        true
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
                            self.read_uni(quic, id)?;
                        }
                    }
                }
                Ok(())
            }
            qp::StreamEvent::Readable { id } if id.dir() == Dir::Bi => self.read_request(quic, id, cx),
            qp::StreamEvent::Readable { id } => self.read_uni(quic, id),
            qp::StreamEvent::Writable { id } => {
                self.continue_writing(quic, id, cx);
                Ok(())
            }
            qp::StreamEvent::Stopped { id, .. } => {
                if Some(id) == self.control {
                    // RFC 9114 section 6.2.1: the control stream must not be closed.
                    return Err(closed_critical());
                }
                // The client does not want the answer: RFC 9114 section 4.1.1.
                self.writing.remove(&id);
                self.answering.remove(&id);
                let _ = quic.send_stream(id).reset(code(ErrorCode::H3_REQUEST_CANCELLED));
                cx.stats.streams_abandoned.add(1);
                Ok(())
            }
            qp::StreamEvent::Finished { .. } | qp::StreamEvent::Available { .. } => Ok(()),
        }
    }

    // ---- unidirectional streams (RFC 9114 section 6.2) ----

    fn open_control(&mut self, quic: &mut qp::Connection) -> Result<(), H3Error> {
        if self.control.is_some() {
            return Ok(());
        }
        let id = quic.streams().open(Dir::Uni).ok_or(H3Error::Connection {
            code: ErrorCode::H3_STREAM_CREATION_ERROR,
            reason: "the client allows no control stream",
        })?;
        let mut preamble = Vec::with_capacity(32);
        h3::write_control_preamble(&mut preamble);
        self.write_control(quic, id, &preamble);
        self.control = Some(id);
        Ok(())
    }

    /// A client that does not grant the few bytes a control stream needs cannot
    /// be talked to; the idle timeout ends it.
    fn write_control(&self, quic: &mut qp::Connection, id: StreamId, bytes: &[u8]) {
        if !matches!(quic.send_stream(id).write(bytes), Ok(written) if written == bytes.len()) {
            tracing::debug!(peer = %quic.remote_address(), "control stream blocked");
        }
    }

    fn read_uni(&mut self, quic: &mut qp::Connection, id: StreamId) -> Result<(), H3Error> {
        let Some(place) = self.uni.iter().position(|(stream, _)| *stream == id) else { return Ok(()) };
        let mut kind = std::mem::replace(&mut self.uni[place].1, Uni::Type(UniStreamTypeDecoder::default()));
        let peer = self.peer.get_or_insert_with(|| PeerUniStreams::new(Role::Server));
        let mut keep = true;
        let mut ended = false;
        let mut result = Ok(());
        {
            let mut stream = quic.recv_stream(id);
            let Ok(mut chunks) = stream.read(true) else { return Ok(()) };
            while result.is_ok() && keep {
                match chunks.next(usize::MAX) {
                    Ok(Some(chunk)) => match feed_uni(&mut kind, peer, &chunk.bytes) {
                        Ok(still) => keep = still,
                        Err(error) => result = Err(error),
                    },
                    Ok(None) | Err(qp::ReadError::Reset(_)) => {
                        ended = true;
                        break;
                    }
                    Err(qp::ReadError::Blocked) => break,
                }
            }
            let _ = chunks.finalize();
        }
        result?;
        if ended && !matches!(kind, Uni::Type(_)) {
            return Err(closed_critical());
        }
        if ended || !keep {
            // RFC 9114 section 6.2: streams of unknown types are refused without harm.
            let _ = quic.recv_stream(id).stop(code(ErrorCode::H3_STREAM_CREATION_ERROR));
            self.uni.swap_remove(place);
        } else {
            self.uni[place].1 = kind;
        }
        Ok(())
    }

    // ---- requests (RFC 9114 section 4) ----

    fn accept_request(&mut self, quic: &mut qp::Connection, id: StreamId, cx: &mut Context<'_>) -> Result<(), H3Error> {
        if self.goaway_from.is_some_and(|from| id.index() >= from) {
            // RFC 9114 section 5.2: not processed, safe to send elsewhere.
            cx.stats.requests_refused_draining.add(1);
            let rejected = code(ErrorCode::H3_REQUEST_REJECTED);
            let _ = quic.send_stream(id).reset(rejected);
            let _ = quic.recv_stream(id).stop(rejected);
            return Ok(());
        }
        self.next_request = self.next_request.max(id.index() + 1);
        self.read_request(quic, id, cx)
    }

    fn read_request(&mut self, quic: &mut qp::Connection, id: StreamId, cx: &mut Context<'_>) -> Result<(), H3Error> {
        let mut reading = match self.reading.remove(&id) {
            Some(reading) => reading,
            // Readable after we stopped caring, or the first look at a new stream.
            None if self.answering.contains_key(&id) || self.writing.contains_key(&id) => return Ok(()),
            None => Reading {
                decoder: FrameDecoder::new(Role::Server, FIELD_SECTION_BYTES_MAX),
                head: None,
                body: Body::Empty,
                body_bytes_max: 0,
                ignore: false,
            },
        };
        let outcome = read_stream(quic, id, &mut reading, cx);
        match outcome {
            Outcome::Pending => {
                self.reading.insert(id, reading);
                Ok(())
            }
            Outcome::Whole if reading.ignore => Ok(()),
            Outcome::Whole => {
                self.deliver(quic, id, reading, cx);
                Ok(())
            }
            Outcome::Refuse(response) => {
                let is_head = reading.head.as_ref().is_some_and(|head| head.method() == Method::Head);
                self.answering.insert(id, is_head);
                self.respond(quic, id, response, cx);
                // RFC 9114 section 4.1: the rest is not needed for the answer.
                let _ = quic.recv_stream(id).stop(code(ErrorCode::H3_NO_ERROR));
                Ok(())
            }
            Outcome::Abandoned => {
                cx.stats.streams_abandoned.add(1);
                self.answering.remove(&id);
                self.writing.remove(&id);
                let _ = quic.send_stream(id).reset(code(ErrorCode::H3_REQUEST_CANCELLED));
                Ok(())
            }
            Outcome::Failed(H3Error::Stream { code: error, reason }) => {
                cx.stats.streams_failed.add(1);
                tracing::debug!(%error, reason, peer = %quic.remote_address(), "request refused");
                self.answering.remove(&id);
                let _ = quic.send_stream(id).reset(code(error));
                let _ = quic.recv_stream(id).stop(code(error));
                Ok(())
            }
            Outcome::Failed(error) => Err(error),
        }
    }

    fn deliver(&mut self, quic: &mut qp::Connection, id: StreamId, reading: Reading, cx: &mut Context<'_>) {
        let Some(head) = reading.head else { return };
        self.answering.insert(id, head.method() == Method::Head);
        cx.stats.requests.add(1);
        let request = Request {
            head,
            body: reading.body.into_bytes(),
            peer: peer_of(quic),
            early_data: quic.is_handshaking(),
        };
        (cx.deliver)(id, request);
    }

    /// Writes the answer to a request, unless the client has given it up.
    pub(crate) fn respond(&mut self, quic: &mut qp::Connection, id: StreamId, response: Response, cx: &Context<'_>) {
        let Some(is_head) = self.answering.remove(&id) else {
            cx.stats.responses_undeliverable.add(1);
            return;
        };
        cx.stats.responses.add(1);
        let pieces = encode(response, is_head);
        self.write(quic, id, pieces, cx);
    }

    fn write(&mut self, quic: &mut qp::Connection, id: StreamId, mut pieces: VecDeque<Bytes>, cx: &Context<'_>) {
        let mut stream = quic.send_stream(id);
        while let Some(front) = pieces.front_mut() {
            match stream.write_chunks(std::slice::from_mut(front)) {
                Ok(written) if written.chunks == 1 => {
                    pieces.pop_front();
                }
                // `write_chunks` has cut off what it took.
                Ok(_) | Err(qp::WriteError::Blocked) => {
                    self.writing.insert(id, pieces);
                    return;
                }
                Err(qp::WriteError::Stopped(_) | qp::WriteError::ClosedStream) => {
                    cx.stats.responses_undeliverable.add(1);
                    return;
                }
            }
        }
        // The client may have stopped the stream meanwhile, which is no loss.
        let _ = stream.finish();
    }

    fn continue_writing(&mut self, quic: &mut qp::Connection, id: StreamId, cx: &Context<'_>) {
        if let Some(pieces) = self.writing.remove(&id) {
            self.write(quic, id, pieces, cx);
        }
    }

    /// Closes the connection over an error, or resets what it concerns.
    fn fail(&mut self, quic: &mut qp::Connection, error: H3Error, cx: &Context<'_>) {
        cx.stats.connections_failed.add(1);
        tracing::debug!(%error, peer = %quic.remote_address(), "connection closed over an error");
        let (error, reason) = match error {
            H3Error::Connection { code, reason } | H3Error::Stream { code, reason } => (code, reason),
            H3Error::HeadersTooLarge { .. } => (ErrorCode::H3_EXCESSIVE_LOAD, "header section too large"),
        };
        quic.close(cx.now, code(error), Bytes::from_static(reason.as_bytes()));
    }

    /// Announces that no further requests are taken (RFC 9114 section 5.2).
    pub(crate) fn go_away(&mut self, quic: &mut qp::Connection) {
        let (None, Some(control)) = (self.goaway_from, self.control) else { return };
        self.goaway_from = Some(self.next_request);
        let mut frame = Vec::with_capacity(12);
        // Client-initiated bidirectional stream IDs are multiples of four.
        h3::write_goaway(&mut frame, self.next_request * 4);
        self.write_control(quic, control, &frame);
    }
}

fn peer_of(quic: &qp::Connection) -> SocketAddr {
    quic.remote_address()
}

fn closed_critical() -> H3Error {
    H3Error::Connection { code: ErrorCode::H3_CLOSED_CRITICAL_STREAM, reason: "critical stream closed" }
}

pub(crate) fn code(code: ErrorCode) -> VarInt {
    VarInt::from_u64(code.value()).unwrap_or(VarInt::MAX)
}

/// Feeds a unidirectional stream; false when its type is of no interest.
fn feed_uni(kind: &mut Uni, peer: &mut PeerUniStreams, bytes: &[u8]) -> Result<bool, H3Error> {
    let mut chunk = bytes;
    if let Uni::Type(decoder) = kind {
        let Some(found) = decoder.next(&mut chunk) else { return Ok(true) };
        peer.open(found)?;
        *kind = match found {
            UniStreamType::Control => Uni::Control(Box::new(ControlDecoder::new(Role::Server))),
            UniStreamType::QpackEncoder => Uni::QpackEncoder(EncoderStream::default()),
            UniStreamType::QpackDecoder => Uni::QpackDecoder(DecoderStream::default()),
            UniStreamType::Push | UniStreamType::Unknown(_) => return Ok(false),
        };
    }
    match kind {
        Uni::Type(_) => {}
        Uni::QpackEncoder(stream) => stream.feed(chunk)?,
        Uni::QpackDecoder(stream) => stream.feed(chunk)?,
        // The client's settings and GOAWAY ask nothing of a server without push
        // and with no dynamic table; they are checked all the same.
        Uni::Control(decoder) => while decoder.next(&mut chunk)?.is_some() {},
    }
    Ok(true)
}

fn read_stream(quic: &mut qp::Connection, id: StreamId, reading: &mut Reading, cx: &Context<'_>) -> Outcome {
    let mut stream = quic.recv_stream(id);
    // Closed: we stopped it earlier, its last bytes are of no interest.
    let Ok(mut chunks) = stream.read(true) else { return Outcome::Pending };
    let outcome = loop {
        match chunks.next(usize::MAX) {
            Ok(Some(chunk)) => match feed(reading, &chunk.bytes, cx) {
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

fn feed(reading: &mut Reading, bytes: &Bytes, cx: &Context<'_>) -> Outcome {
    let mut chunk: &[u8] = bytes;
    loop {
        match reading.decoder.next(&mut chunk) {
            Ok(None) => return Outcome::Pending,
            Ok(Some(FrameEvent::Headers(section))) => match qpack::decode_request(section, &Limits::DEFAULT) {
                Ok(head) => {
                    if let Some(bytes) = head.content_length() {
                        reading.decoder.expect_body(bytes);
                    }
                    match cx.service.admit(&head) {
                        Admit::Reply(response) => {
                            reading.head = Some(head);
                            return Outcome::Refuse(response);
                        }
                        Admit::Body { bytes_max } => reading.body_bytes_max = bytes_max,
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
                    return refuse_body(cx);
                }
                reading.body.push(bytes.slice_ref(piece));
            }
            // Trailers are checked and carry nothing we use.
            Ok(Some(FrameEvent::Trailers(section))) => {
                if let Err(error) = qpack::decode_trailers(section, &Limits::DEFAULT) {
                    return Outcome::Failed(error.h3_error());
                }
            }
            Err(H3Error::HeadersTooLarge { declared_bytes }) => {
                cx.stats.requests_headers_too_large.add(1);
                let detail = format!(
                    "the header section has {declared_bytes} bytes; at most {FIELD_SECTION_BYTES_MAX} are taken"
                );
                return Outcome::Refuse(cx.service.refuse(431, &detail));
            }
            Err(error) => return Outcome::Failed(error),
        }
    }
}

fn refuse_body(cx: &Context<'_>) -> Outcome {
    cx.stats.requests_body_too_large.add(1);
    Outcome::Refuse(cx.service.refuse(413, "the body is longer than this resource takes"))
}

fn refuse_head(error: &HeadError, cx: &Context<'_>) -> Outcome {
    match error.status() {
        Some(status) => {
            cx.stats.requests_headers_too_large.add(u64::from(status == 431));
            Outcome::Refuse(cx.service.refuse(status, &error.to_string()))
        }
        None => Outcome::Failed(error.h3_error()),
    }
}

/// The frames of an answer, in pieces ready for the stream.
fn encode(response: Response, is_head: bool) -> VecDeque<Bytes> {
    let Response { status, body, .. } = &response;
    // RFC 9110 section 8.6: no content-length where there can be no content.
    let has_length = *status != 204 && *status >= 200 && response.header("content-length").is_none();
    let mut digits = [0; 20];
    let length = has_length.then(|| ("content-length", write_decimal(body.len(), &mut digits)));
    let inline = body.len() <= INLINE_BODY_BYTES_MAX && !is_head;
    let mut out = Vec::with_capacity(160 + if inline { body.len() } else { 0 });
    let fields = response.headers().chain(length);
    if h3::write_headers(&mut out, |out| qpack::encode_response(out, *status, fields)).is_err() {
        // A field that cannot be sent is a fault of ours, not of the client.
        tracing::error!(status, "answer with an invalid field");
        let written = h3::write_headers(&mut out, |out| qpack::encode_response(out, 500, []));
        debug_assert!(written.is_ok(), "a bare status always encodes");
        return VecDeque::from([out.into()]);
    }
    if is_head || body.is_empty() {
        return VecDeque::from([out.into()]);
    }
    h3::write_data_header(&mut out, body.len() as u64);
    if inline {
        out.extend_from_slice(body);
        return VecDeque::from([out.into()]);
    }
    VecDeque::from([out.into(), response.body])
}


fn write_decimal(mut value: usize, buffer: &mut [u8; 20]) -> &str {
    let mut at = buffer.len();
    loop {
        at -= 1;
        #[allow(clippy::cast_possible_truncation, reason = "a single digit")]
        let digit = (value % 10) as u8;
        buffer[at] = b'0' + digit;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    std::str::from_utf8(&buffer[at..]).expect("ASCII digits")
}

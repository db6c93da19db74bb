//! Unidirectional streams (RFC 9114 section 6.2): our control stream, and those of the client.

use quinn_proto as qp;
use quinn_proto::{Dir, StreamId};
use sluice_protocols::h3::{
    self, ControlDecoder, ErrorCode, H3Error, PeerUniStreams, Role, Settings, UniStreamType,
    UniStreamTypeDecoder,
};
use sluice_protocols::qpack::DecoderStream;

use super::answer::{Written, write_pieces};
use super::{H3Connection, code};
use crate::ingress::qpack::Table;
use crate::ingress::stats::IngressStats;

/// Bytes of unknown frames a client may send on its control stream: some to
/// begin with, and some for each request, since extensions such as priorities
/// (RFC 9218) speak of requests there.
const CONTROL_UNKNOWN_BYTES_MAX: u64 = 64 * 1024;
const CONTROL_UNKNOWN_BYTES_PER_REQUEST: u64 = 1024;
/// Streams of unknown types a client may open: some to begin with, for the reserved types that ask whether we mind
/// (RFC 9114 section 6.2.3), and one for each request.
const UNKNOWN_STREAMS_MAX: u64 = 64;

/// A stream of the client's.
pub(super) enum Uni {
    Type(UniStreamTypeDecoder),
    Control(Box<ControlDecoder>),
    QpackEncoder,
    QpackDecoder(DecoderStream),
}

/// What reading a unidirectional stream led to.
enum UniOutcome {
    /// More may come.
    Pending,
    /// The client ended it.
    Ended,
    /// Its type is of no interest.
    Unwanted,
}

impl H3Connection {
    /// Says our settings, once; whether that is done, for the client must allow the stream.
    pub(super) fn open_control(&mut self, quic: &mut qp::Connection) -> bool {
        if self.control.is_none()
            && let Some(id) = quic.streams().open(Dir::Uni)
        {
            self.control = Some(id);
            let mut preamble = Vec::with_capacity(32);
            h3::write_control_preamble(&mut preamble, &Settings::SERVER);
            self.write_control(quic, preamble);
            self.write_goaway(quic);
        }
        self.control.is_some()
    }

    /// Sends on the control stream. It shares the connection's flow control with
    /// the answers, so it may have to wait. Only then is it kept: every connection
    /// has its settings sent, and an idle one would keep the table, 404 bytes.
    pub(super) fn write_control(&mut self, quic: &mut qp::Connection, bytes: Vec<u8>) {
        let Some(id) = self.control else { return };
        let mut unwritten = self.writing.remove(&id).unwrap_or_default();
        unwritten.pieces.push(bytes.into());
        if write_pieces(quic, id, &mut unwritten.pieces, false) == Written::Blocked {
            self.writing.insert(id, unwritten);
        }
    }

    /// Takes in what came on a stream of the client's.
    pub(super) fn read_uni(
        &mut self,
        quic: &mut qp::Connection,
        id: StreamId,
        stats: &IngressStats,
    ) -> Result<(), H3Error> {
        let Some(place) = self.uni.iter().position(|(stream, _)| *stream == id) else { return Ok(()) };
        let kind = &mut self.uni[place].1;
        let peer = self.peer.get_or_insert_with(|| PeerUniStreams::new(Role::Server));
        let table = (&mut self.table, self.next_request);
        let mut stream = quic.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return Ok(()) };
        let outcome = loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => match feed_uni(kind, peer, table.0, table.1, &chunk.bytes) {
                    Ok(UniOutcome::Pending) => {}
                    settled => break settled,
                },
                Ok(None) | Err(qp::ReadError::Reset(_)) => break Ok(UniOutcome::Ended),
                Err(qp::ReadError::Blocked) => break Ok(UniOutcome::Pending),
            }
        };
        let _ = chunks.finalize();
        match outcome? {
            UniOutcome::Pending => self.check_control_load(place),
            UniOutcome::Ended if !matches!(self.uni[place].1, Uni::Type(_)) => Err(closed_critical()),
            UniOutcome::Ended => {
                self.uni.swap_remove(place);
                self.note_unknown(stats)
            }
            UniOutcome::Unwanted => {
                // RFC 9114 section 6.2: streams of unknown types are refused without harm.
                let _ = quic.recv_stream(id).stop(code(ErrorCode::H3_STREAM_CREATION_ERROR));
                self.uni.swap_remove(place);
                self.note_unknown(stats)
            }
        }
    }

    fn check_control_load(&self, place: usize) -> Result<(), H3Error> {
        let Uni::Control(decoder) = &self.uni[place].1 else { return Ok(()) };
        let allowed = CONTROL_UNKNOWN_BYTES_MAX + self.next_request * CONTROL_UNKNOWN_BYTES_PER_REQUEST;
        if decoder.unknown_bytes() > allowed {
            return Err(H3Error::Connection {
                code: ErrorCode::H3_EXCESSIVE_LOAD,
                reason: "too many frames without effect",
            });
        }
        Ok(())
    }

    /// A stream was for nothing. Its place is free again, so that their number at a time bounds nothing.
    fn note_unknown(&mut self, stats: &IngressStats) -> Result<(), H3Error> {
        stats.streams_unknown.add(1);
        self.unknown_streams += 1;
        if self.unknown_streams > UNKNOWN_STREAMS_MAX + self.next_request {
            return Err(H3Error::Connection {
                code: ErrorCode::H3_EXCESSIVE_LOAD,
                reason: "too many streams without effect",
            });
        }
        Ok(())
    }
}

fn feed_uni(
    kind: &mut Uni,
    peer: &mut PeerUniStreams,
    table: &mut Table,
    requests: u64,
    bytes: &[u8],
) -> Result<UniOutcome, H3Error> {
    let mut chunk = bytes;
    if let Uni::Type(decoder) = kind {
        let Some(found) = decoder.next(&mut chunk) else { return Ok(UniOutcome::Pending) };
        peer.open(found)?;
        *kind = match found {
            UniStreamType::Control => Uni::Control(Box::new(ControlDecoder::new(Role::Server))),
            UniStreamType::QpackEncoder => Uni::QpackEncoder,
            UniStreamType::QpackDecoder => Uni::QpackDecoder(DecoderStream::default()),
            UniStreamType::Push | UniStreamType::Unknown(_) => return Ok(UniOutcome::Unwanted),
        };
    }
    match kind {
        Uni::Type(_) => {}
        Uni::QpackEncoder => table.feed(chunk, requests)?,
        Uni::QpackDecoder(stream) => stream.feed(chunk)?,
        // The client's settings and GOAWAY ask nothing of a server without push
        // and without a dynamic table of its own; they are checked all the same.
        Uni::Control(decoder) => while decoder.next(&mut chunk)?.is_some() {},
    }
    Ok(UniOutcome::Pending)
}

pub(super) fn no_control() -> H3Error {
    let reason = "the client allows no control stream";
    H3Error::Connection { code: ErrorCode::H3_STREAM_CREATION_ERROR, reason }
}

pub(super) fn closed_critical() -> H3Error {
    H3Error::Connection { code: ErrorCode::H3_CLOSED_CRITICAL_STREAM, reason: "critical stream closed" }
}

//! The client's dynamic table on a server connection (RFC 9204).
//!
//! Invariants:
//! - A client that uses no table costs nothing: state is made with the first
//!   instruction that comes, our decoder stream is opened with the first byte
//!   that is due on it.
//! - What is due is gathered over a turn and written once, at its end.
//! - What waits for flow control is bounded ([`DUE_BYTES_MAX`]), and so is the
//!   work a client can ask for without sending requests.

use quinn_proto as qp;
use quinn_proto::{Dir, StreamId};
use sluice_protocols::h3::{self, ErrorCode, H3Error, QPACK_TABLE_BYTES_MAX, UniStreamType};
use sluice_protocols::http::{Limits, RequestHead};
use sluice_protocols::qpack::{self, Decoder, HeadError};

use super::stats::IngressStats;

/// Most bytes that wait on our decoder stream for the client to make room. A
/// turn's requests are acknowledged with at most nine bytes each, so a client
/// that gives any credit stays far below.
const DUE_BYTES_MAX: usize = 4096;
/// Bytes of instructions a client may send: some to begin with, and some for
/// each request, since without requests a table is of no use.
const INSTRUCTION_BYTES_MAX: u64 = 64 * 1024;
const INSTRUCTION_BYTES_PER_REQUEST: u64 = 4096;

/// A connection's table, once there is one.
#[derive(Default)]
pub(super) struct Table(Option<Box<State>>);

struct State {
    decoder: Decoder,
    instruction_bytes: u64,
    /// What is to be written on our decoder stream.
    due: Vec<u8>,
    stream: Option<StreamId>,
}

impl Table {
    /// Takes what came on the client's encoder stream, on a connection that has
    /// brought this many requests.
    pub(super) fn feed(&mut self, chunk: &[u8], requests: u64) -> Result<(), H3Error> {
        if chunk.is_empty() {
            return Ok(());
        }
        let state = self.0.get_or_insert_with(|| {
            Box::new(State {
                decoder: Decoder::new(QPACK_TABLE_BYTES_MAX),
                instruction_bytes: 0,
                due: Vec::new(),
                stream: None,
            })
        });
        state.instruction_bytes += chunk.len() as u64;
        let allowed = INSTRUCTION_BYTES_MAX + requests.saturating_mul(INSTRUCTION_BYTES_PER_REQUEST);
        if state.instruction_bytes > allowed {
            return Err(H3Error::Connection {
                code: ErrorCode::H3_EXCESSIVE_LOAD,
                reason: "too many instructions to the dynamic table",
            });
        }
        state.decoder.feed(chunk)
    }

    /// Decodes the head of the request on this stream.
    pub(super) fn decode_request(
        &mut self,
        id: StreamId,
        section: &[u8],
        stats: &IngressStats,
    ) -> Result<RequestHead, HeadError> {
        let Some(state) = &mut self.0 else { return qpack::decode_request(section, &Limits::DEFAULT) };
        let decoded = state.decoder.decode_request(section, &Limits::DEFAULT)?;
        state.acknowledge(id, decoded.refers_to_table, stats);
        Ok(decoded.head)
    }

    /// Checks the trailers of the request on this stream.
    pub(super) fn check_trailers(
        &mut self,
        id: StreamId,
        section: &[u8],
        stats: &IngressStats,
    ) -> Result<(), HeadError> {
        let Some(state) = &mut self.0 else {
            return qpack::decode_trailers(section, &Limits::DEFAULT).map(|_| ());
        };
        let decoded = state.decoder.decode_trailers(section, &Limits::DEFAULT)?;
        state.acknowledge(id, decoded.refers_to_table, stats);
        Ok(())
    }

    /// Notes that a request stream is not read to its end: what it may have
    /// referred to is not needed any more (RFC 9204 section 2.2.2.2).
    pub(super) fn cancel(&mut self, id: StreamId) {
        if let Some(state) = &mut self.0
            && state.decoder.is_in_use()
        {
            state.decoder.write_stream_cancellation(&mut state.due, id.into());
        }
    }

    /// Whether this is our decoder stream, which the client must not stop.
    pub(super) fn is_stream(&self, id: StreamId) -> bool {
        self.0.as_ref().is_some_and(|state| state.stream == Some(id))
    }

    /// Streams of ours that never end: none or one.
    pub(super) fn streams(&self) -> usize {
        usize::from(self.0.as_ref().is_some_and(|state| state.stream.is_some()))
    }

    /// Writes what the turn made due.
    pub(super) fn flush(&mut self, quic: &mut qp::Connection, stats: &IngressStats) -> Result<(), H3Error> {
        match &mut self.0 {
            Some(state) => state.flush(quic, stats),
            None => Ok(()),
        }
    }
}

impl State {
    fn acknowledge(&mut self, id: StreamId, refers_to_table: bool, stats: &IngressStats) {
        if refers_to_table {
            stats.qpack_sections.add(1);
            self.decoder.write_section_acknowledgment(&mut self.due, id.into());
        }
    }

    fn flush(&mut self, quic: &mut qp::Connection, stats: &IngressStats) -> Result<(), H3Error> {
        self.decoder.write_insert_count_increment(&mut self.due);
        if self.due.is_empty() {
            return Ok(());
        }
        if self.stream.is_none()
            && let Some(id) = quic.streams().open(Dir::Uni)
        {
            self.stream = Some(id);
            let mut first = Vec::with_capacity(self.due.len() + 1);
            h3::write_stream_type(&mut first, UniStreamType::QpackDecoder);
            first.append(&mut self.due);
            self.due = first;
        }
        if let Some(id) = self.stream {
            let mut stream = quic.send_stream(id);
            // It is asked until it has no room at all: only then does it tell
            // when there is some. Stopped: an event of its own says so.
            while !self.due.is_empty()
                && let Ok(written) = stream.write(&self.due)
            {
                self.due.drain(..written);
            }
        }
        if self.due.len() > DUE_BYTES_MAX {
            stats.qpack_overdue.add(1);
            return Err(H3Error::Connection {
                code: ErrorCode::H3_EXCESSIVE_LOAD,
                reason: "the client takes no acknowledgements of its dynamic table",
            });
        }
        Ok(())
    }
}

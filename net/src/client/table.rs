//! The dynamic table of a client that repeats itself (RFC 9204): what it sends on
//! its encoder stream.

use quinn_proto as qp;
use quinn_proto::{Dir, StreamId};
use sluice_protocols::h3::{self, H3Error, UniStreamType};
use sluice_protocols::http::RequestHead;
use sluice_protocols::qpack::Encoder;

/// A connection's table, used from when the server has said that it keeps one.
pub(super) struct Table {
    encoder: Encoder,
    /// Our encoder stream.
    stream: Option<StreamId>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self { encoder: Encoder::new(0), stream: None }
    }

    /// Appends the field section of a request.
    pub(super) fn encode(&mut self, out: &mut Vec<u8>, id: StreamId, head: &RequestHead) {
        self.encoder.encode_request(out, id.into(), head);
    }

    /// Takes what has come on the server's decoder stream.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), H3Error> {
        self.encoder.feed(bytes)
    }

    /// Sends what waits on the encoder stream.
    pub(super) fn flush(&mut self, quic: &mut qp::Connection) {
        let Some(id) = self.stream else { return };
        let instructions = self.encoder.instructions();
        let mut stream = quic.send_stream(id);
        while !instructions.is_empty()
            && let Ok(written) = stream.write(instructions)
        {
            instructions.drain(..written);
        }
    }

    /// Begins, where the server has room for a table of ours.
    pub(super) fn begin(&mut self, quic: &mut qp::Connection, capacity_bytes: u64) {
        let mut encoder = Encoder::new(capacity_bytes);
        if encoder.instructions().is_empty() {
            return;
        }
        let Some(id) = quic.streams().open(Dir::Uni) else { return };
        let mut first = Vec::with_capacity(8);
        h3::write_stream_type(&mut first, UniStreamType::QpackEncoder);
        first.append(encoder.instructions());
        *encoder.instructions() = first;
        self.encoder = encoder;
        self.stream = Some(id);
        self.flush(quic);
    }
}

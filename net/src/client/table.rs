//! The dynamic table of a client that repeats itself (RFC 9204): what it learns
//! from the server's streams, and what it sends on its encoder stream.

use quinn_proto as qp;
use quinn_proto::{Dir, StreamId};
use sluice_protocols::h3::{
    self, ControlDecoder, ControlEvent, ErrorCode, H3Error, PeerUniStreams, Role, UniStreamType,
    UniStreamTypeDecoder,
};
use sluice_protocols::http::RequestHead;
use sluice_protocols::qpack::{Encoder, EncoderStream};

enum Uni {
    Type(UniStreamTypeDecoder),
    Control(Box<ControlDecoder>),
    Encoder(EncoderStream),
    Decoder,
    Unknown,
}

/// A connection's table, used from when the server has said that it keeps one.
pub(super) struct Table {
    encoder: Encoder,
    /// Our encoder stream.
    stream: Option<StreamId>,
    peer: PeerUniStreams,
    uni: Vec<(StreamId, Uni)>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            encoder: Encoder::new(0),
            stream: None,
            peer: PeerUniStreams::new(Role::Client),
            uni: Vec::new(),
        }
    }

    /// Appends the field section of a request.
    pub(super) fn encode(
        &mut self,
        quic: &mut qp::Connection,
        out: &mut Vec<u8>,
        id: StreamId,
        head: &RequestHead,
    ) {
        self.encoder.encode_request(out, id.into(), head);
        self.flush(quic);
    }

    /// Takes what has come on one of the server's unidirectional streams.
    /// Streams of unknown types are read and thrown away.
    pub(super) fn read(&mut self, quic: &mut qp::Connection, id: StreamId) -> Result<(), H3Error> {
        let place = self.uni.iter().position(|(stream, _)| *stream == id).unwrap_or_else(|| {
            self.uni.push((id, Uni::Type(UniStreamTypeDecoder::default())));
            self.uni.len() - 1
        });
        let mut stream = quic.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return Ok(()) };
        let mut settings = None;
        let mut result = Ok(());
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            result = self.feed(place, &chunk.bytes, &mut settings);
            if result.is_err() {
                break;
            }
        }
        let _ = chunks.finalize();
        result?;
        if let Some(capacity_bytes) = settings {
            self.begin(quic, capacity_bytes);
        }
        Ok(())
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

    fn begin(&mut self, quic: &mut qp::Connection, capacity_bytes: u64) {
        let mut encoder = Encoder::new(capacity_bytes);
        if encoder.instructions().is_empty() {
            return;
        }
        let Some(id) = quic.streams().open(Dir::Uni) else { return };
        let mut first = Vec::new();
        h3::write_stream_type(&mut first, UniStreamType::QpackEncoder);
        first.append(encoder.instructions());
        *encoder.instructions() = first;
        self.encoder = encoder;
        self.stream = Some(id);
        self.flush(quic);
    }

    fn feed(&mut self, place: usize, bytes: &[u8], settings: &mut Option<u64>) -> Result<(), H3Error> {
        let mut chunk = bytes;
        let kind = &mut self.uni[place].1;
        if let Uni::Type(decoder) = kind {
            let Some(found) = decoder.next(&mut chunk) else { return Ok(()) };
            self.peer.open(found)?;
            *kind = match found {
                UniStreamType::Control => Uni::Control(Box::new(ControlDecoder::new(Role::Client))),
                UniStreamType::QpackEncoder => Uni::Encoder(EncoderStream::default()),
                UniStreamType::QpackDecoder => Uni::Decoder,
                UniStreamType::Push | UniStreamType::Unknown(_) => Uni::Unknown,
            };
        }
        match kind {
            Uni::Type(_) | Uni::Unknown => {}
            Uni::Encoder(stream) => stream.feed(chunk)?,
            Uni::Decoder => self.encoder.feed(chunk)?,
            Uni::Control(decoder) => {
                while let Some(event) = decoder.next(&mut chunk)? {
                    if let ControlEvent::Settings(found) = event {
                        *settings = Some(found.qpack_max_table_capacity);
                    }
                }
            }
        }
        Ok(())
    }
}

/// How to close a connection over an error of its streams.
pub(super) fn close_code(error: &H3Error) -> ErrorCode {
    match error {
        H3Error::Connection { code, .. } | H3Error::Stream { code, .. } => *code,
        H3Error::HeadersTooLarge { .. } => ErrorCode::H3_EXCESSIVE_LOAD,
    }
}

//! The dynamic table of a client that repeats itself (RFC 9204): what it learns
//! from the server's streams, and what it sends on its encoder stream.

use quinn_proto as qp;
use quinn_proto::{Dir, StreamId};
use sluice_protocols::h3::{
    self, ControlDecoder, ControlEvent, H3Error, PeerUniStreams, Role, UniStreamType, UniStreamTypeDecoder,
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
    /// The server's streams; the transport bounds how many it opens.
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
    pub(super) fn encode(&mut self, out: &mut Vec<u8>, id: StreamId, head: &RequestHead) {
        self.encoder.encode_request(out, id.into(), head);
    }

    /// Takes what has come on one of the server's unidirectional streams. What
    /// streams of unknown types bring is thrown away.
    pub(super) fn read(&mut self, quic: &mut qp::Connection, id: StreamId) -> Result<(), H3Error> {
        let place = self.uni.iter().position(|(stream, _)| *stream == id).unwrap_or_else(|| {
            self.uni.push((id, Uni::Type(UniStreamTypeDecoder::default())));
            self.uni.len() - 1
        });
        let mut stream = quic.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return Ok(()) };
        let mut capacity_bytes = None;
        let mut result = Ok(());
        while result.is_ok()
            && let Ok(Some(chunk)) = chunks.next(usize::MAX)
        {
            result = self.feed(place, &chunk.bytes, &mut capacity_bytes);
        }
        let _ = chunks.finalize();
        if let (Ok(()), Some(bytes)) = (result, capacity_bytes) {
            self.begin(quic, bytes);
        }
        result
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
        let mut first = Vec::with_capacity(8);
        h3::write_stream_type(&mut first, UniStreamType::QpackEncoder);
        first.append(encoder.instructions());
        *encoder.instructions() = first;
        self.encoder = encoder;
        self.stream = Some(id);
        self.flush(quic);
    }

    fn feed(&mut self, place: usize, bytes: &[u8], capacity_bytes: &mut Option<u64>) -> Result<(), H3Error> {
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
                    if let ControlEvent::Settings(settings) = event {
                        *capacity_bytes = Some(settings.qpack_max_table_capacity);
                    }
                }
            }
        }
        Ok(())
    }
}

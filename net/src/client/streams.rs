//! The server's unidirectional streams as a client reads them (RFC 9114 section
//! 6.2): its settings, its GOAWAY, and what it says about the dynamic table.

use quinn_proto as qp;
use quinn_proto::StreamId;
use sluice_protocols::h3::{
    ControlDecoder, ControlEvent, H3Error, PeerUniStreams, Role, UniStreamType, UniStreamTypeDecoder,
};
use sluice_protocols::qpack::EncoderStream;

use super::table::Table;

enum Uni {
    Type(UniStreamTypeDecoder),
    Control(Box<ControlDecoder>),
    Encoder(EncoderStream),
    Decoder,
    Unknown,
}

/// What the server said, as far as somebody must act on it.
#[derive(Default)]
pub(super) struct News {
    /// The room it has for a table of ours.
    pub(super) capacity_bytes: Option<u64>,
    /// Requests on streams from this one on are not served, and no further ones
    /// may be made.
    pub(super) goaway: Option<StreamId>,
}

/// See the module.
pub(super) struct ServerStreams {
    peer: PeerUniStreams,
    /// The transport bounds how many there are.
    uni: Vec<(StreamId, Uni)>,
}

impl Default for ServerStreams {
    fn default() -> Self {
        Self { peer: PeerUniStreams::new(Role::Client), uni: Vec::new() }
    }
}

impl ServerStreams {
    /// Takes what has come on one of them. What streams of unknown types bring is
    /// thrown away.
    pub(super) fn read(
        &mut self,
        quic: &mut qp::Connection,
        id: StreamId,
        mut table: Option<&mut Table>,
    ) -> Result<News, H3Error> {
        let place = self.uni.iter().position(|(stream, _)| *stream == id).unwrap_or_else(|| {
            self.uni.push((id, Uni::Type(UniStreamTypeDecoder::default())));
            self.uni.len() - 1
        });
        let mut news = News::default();
        let mut stream = quic.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return Ok(news) };
        let mut result = Ok(());
        while result.is_ok()
            && let Ok(Some(chunk)) = chunks.next(usize::MAX)
        {
            result = self.feed(place, &chunk.bytes, table.as_deref_mut(), &mut news);
        }
        let _ = chunks.finalize();
        result.map(|()| news)
    }

    fn feed(
        &mut self,
        place: usize,
        bytes: &[u8],
        table: Option<&mut Table>,
        news: &mut News,
    ) -> Result<(), H3Error> {
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
        match (kind, table) {
            (Uni::Type(_) | Uni::Unknown, _) | (Uni::Decoder, None) => {}
            (Uni::Encoder(stream), _) => stream.feed(chunk)?,
            (Uni::Decoder, Some(table)) => table.feed(chunk)?,
            (Uni::Control(decoder), _) => {
                while let Some(event) = decoder.next(&mut chunk)? {
                    match event {
                        ControlEvent::Settings(settings) => {
                            news.capacity_bytes = Some(settings.qpack_max_table_capacity);
                        }
                        ControlEvent::GoAway(id) => {
                            news.goaway =
                                Some(StreamId::from(qp::VarInt::from_u64(id).unwrap_or(qp::VarInt::MAX)))
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

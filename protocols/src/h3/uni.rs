//! Unidirectional streams: their types (RFC 9114 section 6.2) and how many of each a peer may open.

use super::Role;
use super::error::{ErrorCode, H3Error};
use super::varint::{read_varint, write_varint};

/// What a unidirectional stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UniStreamType {
    /// Frames about the connection: [`super::ControlDecoder`].
    Control,
    /// A pushed response, which we never allow.
    Push,
    /// Instructions to our QPACK decoder: [`crate::qpack::Decoder`], or [`crate::qpack::EncoderStream`]
    /// where no table is kept.
    QpackEncoder,
    /// Instructions to our QPACK encoder: [`crate::qpack::Encoder`], or [`crate::qpack::DecoderStream`]
    /// where no table is used.
    QpackDecoder,
    /// Anything else, reserved types (0x1f * N + 0x21) among them: stop reading it with
    /// `H3_STREAM_CREATION_ERROR`, or throw away what it brings. It must not end the connection (RFC 9114
    /// sections 6.2 and 6.2.3).
    Unknown(u64),
}

impl UniStreamType {
    /// The type of this number.
    pub const fn from_value(value: u64) -> Self {
        match value {
            0x00 => Self::Control,
            0x01 => Self::Push,
            0x02 => Self::QpackEncoder,
            0x03 => Self::QpackDecoder,
            other => Self::Unknown(other),
        }
    }

    /// The number on the wire.
    pub const fn value(self) -> u64 {
        match self {
            Self::Control => 0x00,
            Self::Push => 0x01,
            Self::QpackEncoder => 0x02,
            Self::QpackDecoder => 0x03,
            Self::Unknown(value) => value,
        }
    }

    /// Whether the connection must be closed with `H3_CLOSED_CRITICAL_STREAM` when it ends (RFC 9114
    /// section 6.2.1, RFC 9204 section 4.2).
    pub const fn is_critical(self) -> bool {
        matches!(self, Self::Control | Self::QpackEncoder | Self::QpackDecoder)
    }

    pub(super) fn write(self, out: &mut Vec<u8>) {
        write_varint(out, self.value());
    }
}

/// Reads the type at the start of a unidirectional stream.
///
/// A stream that ends before its type is whole is not an error (RFC 9114 section 6.2).
#[derive(Debug, Default)]
pub struct UniStreamTypeDecoder {
    partial: [u8; 8],
    filled: u8,
}

impl UniStreamTypeDecoder {
    /// The type, taken off the front of `chunk`, after which this decoder is done. `None`: the chunk is
    /// used up.
    pub fn next(&mut self, chunk: &mut &[u8]) -> Option<UniStreamType> {
        // Eight bytes always hold a whole integer, so `filled` never runs past them.
        while let Some((&byte, rest)) = chunk.split_first() {
            self.partial[usize::from(self.filled)] = byte;
            self.filled += 1;
            *chunk = rest;
            if let Some((value, _)) = read_varint(&self.partial[..usize::from(self.filled)]) {
                self.filled = 0;
                return Some(UniStreamType::from_value(value));
            }
        }
        None
    }
}

/// Which critical streams a peer has opened: one of each is allowed.
#[derive(Debug)]
pub struct PeerUniStreams {
    role: Role,
    control: bool,
    qpack_encoder: bool,
    qpack_decoder: bool,
}

impl PeerUniStreams {
    /// Nothing opened yet by the peer of `role`.
    pub fn new(role: Role) -> Self {
        Self { role, control: false, qpack_encoder: false, qpack_decoder: false }
    }

    /// Notes a stream of this type, or says how to close the connection over it.
    pub fn open(&mut self, kind: UniStreamType) -> Result<(), H3Error> {
        let opened = match (kind, self.role) {
            (UniStreamType::Control, _) => &mut self.control,
            (UniStreamType::QpackEncoder, _) => &mut self.qpack_encoder,
            (UniStreamType::QpackDecoder, _) => &mut self.qpack_decoder,
            (UniStreamType::Unknown(_), _) => return Ok(()),
            // RFC 9114 section 6.2.2: only servers push.
            (UniStreamType::Push, Role::Server) => return Err(creation_error("push stream from a client")),
            // RFC 9114 section 4.6: a push ID beyond what was allowed; we allow none.
            (UniStreamType::Push, Role::Client) => {
                return Err(H3Error::connection(ErrorCode::H3_ID_ERROR, "push stream without MAX_PUSH_ID"));
            }
        };
        // RFC 9114 section 6.2.1, RFC 9204 section 4.2.
        if std::mem::replace(opened, true) {
            return Err(creation_error("second critical stream of a type"));
        }
        Ok(())
    }
}

fn creation_error(reason: &'static str) -> H3Error {
    H3Error::connection(ErrorCode::H3_STREAM_CREATION_ERROR, reason)
}

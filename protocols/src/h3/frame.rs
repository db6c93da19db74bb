//! Frame types and frame headers (RFC 9114 section 7).

use super::varint::read_varint;

/// The type of a frame (RFC 9114 section 7.2 and 11.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameType(u64);

impl FrameType {
    /// A piece of a body.
    pub const DATA: Self = Self(0x00);
    /// A field section.
    pub const HEADERS: Self = Self(0x01);
    /// A push that is no longer wanted.
    pub const CANCEL_PUSH: Self = Self(0x03);
    /// Settings of the connection.
    pub const SETTINGS: Self = Self(0x04);
    /// The announcement of a push.
    pub const PUSH_PROMISE: Self = Self(0x05);
    /// The announcement of the end.
    pub const GOAWAY: Self = Self(0x07);
    /// How many pushes a client takes.
    pub const MAX_PUSH_ID: Self = Self(0x0d);

    /// Any type.
    pub const fn from_value(value: u64) -> Self {
        Self(value)
    }

    /// The number on the wire.
    pub const fn value(self) -> u64 {
        self.0
    }

    /// RFC 9114 section 7.2.8: types of HTTP/2 that have no meaning in HTTP/3 and must be refused.
    pub const fn is_reserved_http2(self) -> bool {
        matches!(self.0, 0x02 | 0x06 | 0x08 | 0x09)
    }
}

/// A decoded frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) kind: FrameType,
    /// Length of the payload in bytes.
    pub(super) payload_bytes: u64,
    /// Length of the header itself in bytes: 2 to 16.
    pub(super) header_bytes: u64,
}

impl FrameHeader {
    fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let (kind, kind_bytes) = read_varint(bytes)?;
        let (payload_bytes, length_bytes) = read_varint(&bytes[kind_bytes..])?;
        let taken = kind_bytes + length_bytes;
        Some((Self { kind: FrameType(kind), payload_bytes, header_bytes: taken as u64 }, taken))
    }
}

/// Puts frame headers together from chunks.
#[derive(Debug, Default)]
pub(super) struct FrameHeaderReader {
    /// Two variable-length integers of at most eight bytes each.
    partial: [u8; 16],
    filled: u8,
}

impl FrameHeaderReader {
    /// Whether a header has begun and not ended.
    pub(super) fn is_partial(&self) -> bool {
        self.filled > 0
    }

    /// The next header, taken off the front of `chunk`. `None`: the chunk is used up.
    #[inline]
    pub(super) fn read(&mut self, chunk: &mut &[u8]) -> Option<FrameHeader> {
        if self.filled == 0
            && let Some((header, taken)) = FrameHeader::parse(chunk)
        {
            *chunk = &chunk[taken..];
            return Some(header);
        }
        self.read_slowly(chunk)
    }

    fn read_slowly(&mut self, chunk: &mut &[u8]) -> Option<FrameHeader> {
        // Sixteen bytes always hold a whole header, so `filled` never runs past them.
        while let Some((&byte, rest)) = chunk.split_first() {
            self.partial[usize::from(self.filled)] = byte;
            self.filled += 1;
            *chunk = rest;
            if let Some((header, _)) = FrameHeader::parse(&self.partial[..usize::from(self.filled)]) {
                self.filled = 0;
                return Some(header);
            }
        }
        None
    }
}

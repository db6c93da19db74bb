//! HTTP/3 framing (RFC 9114), without IO: bytes in, events and bytes out.
//!
//! Invariants:
//! - Nothing a peer sends is buffered before its size was checked. A request stream holds at most one
//!   field section of the configured size and a frame header of 16 bytes; bodies pass through in pieces.
//! - How the bytes are cut into chunks never changes what comes out, apart from where bodies are cut.
//! - A decoder that failed stays failed and says the same again.
//! - Server push is neither offered nor accepted.
//!
//! What a decoder cannot know is left to the caller: which streams exist, that a critical stream was closed
//! (`H3_CLOSED_CRITICAL_STREAM`), and that a server opened a bidirectional stream
//! (`H3_STREAM_CREATION_ERROR`).

mod control;
mod encode;
mod error;
mod frame;
mod request;
#[cfg(test)]
mod tests;
mod uni;
mod varint;

pub use control::{ControlDecoder, ControlEvent, Settings};
pub use encode::{
    write_control_preamble, write_data_header, write_goaway, write_headers, write_headers_header,
    write_settings, write_stream_type,
};
pub use error::{ErrorCode, H3Error};
pub use frame::FrameType;
pub use request::{Event, FrameDecoder};
pub use uni::{PeerUniStreams, UniStreamType, UniStreamTypeDecoder};
pub use varint::{VARINT_MAX, read_varint, varint_len, write_varint};

/// Which end of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// We answer requests.
    Server,
    /// We send requests.
    Client,
}

/// Largest field section that is taken, in bytes on the wire and decoded.
pub const FIELD_SECTION_BYTES_MAX: usize = 16 * 1024;

/// Largest dynamic table a client may keep with us as a server, in bytes (RFC 9204 section 3.2.3): room for
/// a bearer token and a dozen other lines, and a bound on what a connection can make us hold.
pub const QPACK_TABLE_BYTES_MAX: usize = 4096;

/// Most bytes of frames without effect (unknown types, empty DATA) on one request stream.
pub const IDLE_FRAME_BYTES_MAX: u64 = 64 * 1024;

/// Largest SETTINGS frame that is taken, in bytes.
pub const SETTINGS_BYTES_MAX: u64 = 1024;

/// Most settings in one frame: 1 KiB would hold 512, a handful is usual.
pub const SETTINGS_COUNT_MAX: usize = 64;

/// Largest unknown frame that is skipped on a control stream, in bytes.
pub const CONTROL_UNKNOWN_BYTES_MAX: u64 = 16 * 1024;

/// Most interim responses (1xx) a client takes before the final one.
pub const INTERIM_RESPONSES_MAX: u32 = 16;

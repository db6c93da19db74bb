//! Error codes of HTTP/3 and QPACK, and what a decoder asks its caller to do.

use std::fmt;

/// An application error code as QUIC carries it (RFC 9114 section 8.1, RFC 9204 section 6).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(u64);

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        impl ErrorCode {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            /// The name the RFC gives it.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

error_codes! {
    /// No error: the connection or stream ends because it is done with.
    H3_NO_ERROR = 0x100;
    /// A protocol violation no other code fits.
    H3_GENERAL_PROTOCOL_ERROR = 0x101;
    /// Our own failure.
    H3_INTERNAL_ERROR = 0x102;
    /// The peer opened a stream that will not be taken.
    H3_STREAM_CREATION_ERROR = 0x103;
    /// A stream the connection cannot do without was closed.
    H3_CLOSED_CRITICAL_STREAM = 0x104;
    /// A frame where it is not allowed.
    H3_FRAME_UNEXPECTED = 0x105;
    /// A frame that is cut short or whose size does not fit its layout.
    H3_FRAME_ERROR = 0x106;
    /// The peer causes more work than it should.
    H3_EXCESSIVE_LOAD = 0x107;
    /// A stream or push identifier used wrongly.
    H3_ID_ERROR = 0x108;
    /// An error in the payload of SETTINGS.
    H3_SETTINGS_ERROR = 0x109;
    /// The control stream did not begin with SETTINGS.
    H3_MISSING_SETTINGS = 0x10a;
    /// The server did no work on the request: it may be sent again.
    H3_REQUEST_REJECTED = 0x10b;
    /// The request or its response is no longer wanted.
    H3_REQUEST_CANCELLED = 0x10c;
    /// The request stream ended before the request was whole.
    H3_REQUEST_INCOMPLETE = 0x10d;
    /// The message is malformed.
    H3_MESSAGE_ERROR = 0x10e;
    /// The connection of a CONNECT request failed.
    H3_CONNECT_ERROR = 0x10f;
    /// Ask again over HTTP/1.1.
    H3_VERSION_FALLBACK = 0x110;
    /// A field section that cannot be decoded.
    QPACK_DECOMPRESSION_FAILED = 0x200;
    /// An instruction on the peer's encoder stream that cannot be followed.
    QPACK_ENCODER_STREAM_ERROR = 0x201;
    /// An instruction on the peer's decoder stream that makes no sense.
    QPACK_DECODER_STREAM_ERROR = 0x202;
}

impl ErrorCode {
    /// A code as received, known or not.
    pub const fn from_value(value: u64) -> Self {
        Self(value)
    }

    /// The number on the wire, below 2^62.
    pub const fn value(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What went wrong on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum H3Error {
    /// Close the connection with this code.
    #[error("{code}: {reason}")]
    Connection {
        /// The code to close with.
        code: ErrorCode,
        /// For the log, and for the close frame.
        reason: &'static str,
    },
    /// Reset this stream, and stop reading it, with this code; the connection goes on.
    #[error("{code} on this stream: {reason}")]
    Stream {
        /// The code to reset with.
        code: ErrorCode,
        /// For the log.
        reason: &'static str,
    },
    /// The peer announced a field section over the limit. A server answers 431 and stops reading with
    /// `H3_NO_ERROR`; a client resets the stream with `H3_EXCESSIVE_LOAD` (RFC 9114 section 4.2.2).
    #[error("a field section of {declared_bytes} bytes is over the limit")]
    HeadersTooLarge {
        /// The length in the frame's header.
        declared_bytes: u64,
    },
}

impl H3Error {
    pub(crate) const fn connection(code: ErrorCode, reason: &'static str) -> Self {
        Self::Connection { code, reason }
    }

    pub(crate) const fn stream(code: ErrorCode, reason: &'static str) -> Self {
        Self::Stream { code, reason }
    }
}

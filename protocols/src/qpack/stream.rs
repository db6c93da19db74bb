//! The peer's encoder and decoder streams (RFC 9204 sections 4.3 and 4.4) where no dynamic table is kept or
//! used, of which next to nothing is allowed. Neither stream may end: close the connection with
//! `H3_CLOSED_CRITICAL_STREAM` if one does.

use super::integer::{Continued, prefix_max};
use crate::h3::{ErrorCode, H3Error};

/// What the peer's encoder tells our decoder.
#[derive(Debug, Default)]
pub struct EncoderStream(());

impl EncoderStream {
    /// Set Dynamic Table Capacity (section 4.3.1: 001, five bits) to 0: the only instruction that fits.
    const SET_CAPACITY_0: u8 = 0b0010_0000;

    /// Checks what came behind the stream type. Errors concern the connection.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<(), H3Error> {
        // Section 3.2.3: a larger capacity than we allow, and then any insert or duplicate (sections 4.3.2
        // to 4.3.4), is QPACK_ENCODER_STREAM_ERROR.
        if chunk.iter().any(|&byte| byte != Self::SET_CAPACITY_0) {
            return Err(H3Error::Connection {
                code: ErrorCode::QPACK_ENCODER_STREAM_ERROR,
                reason: "instruction needs a dynamic table",
            });
        }
        Ok(())
    }
}

/// What the peer's decoder tells our encoder.
#[derive(Debug, Default)]
pub struct DecoderStream {
    /// A stream identifier that goes on in the next byte.
    stream_id: Option<Continued>,
}

impl DecoderStream {
    /// Stream Cancellation (section 4.4.2): 01, six bits of stream identifier.
    const CANCELLATION: u8 = 0b01;
    const ID_PREFIX_BITS: u32 = 6;

    /// Checks what came behind the stream type. Errors concern the connection.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<(), H3Error> {
        for &byte in chunk {
            self.push(byte)?;
        }
        Ok(())
    }

    fn push(&mut self, byte: u8) -> Result<(), H3Error> {
        if let Some(stream_id) = &mut self.stream_id {
            let ended = stream_id.push(byte).map_err(|_| error("stream identifier is too large"))?;
            if ended.is_some() {
                self.stream_id = None;
            }
            return Ok(());
        }
        // Section 4.4.1: we send nothing that could be acknowledged. Section 4.4.3: we insert nothing that
        // could be counted.
        if byte >> Self::ID_PREFIX_BITS != Self::CANCELLATION {
            return Err(error("acknowledges what was never sent"));
        }
        let id_max = prefix_max(Self::ID_PREFIX_BITS);
        if byte & id_max == id_max {
            self.stream_id = Some(Continued::new(id_max));
        }
        Ok(())
    }
}

fn error(reason: &'static str) -> H3Error {
    H3Error::Connection { code: ErrorCode::QPACK_DECODER_STREAM_ERROR, reason }
}

//! QPACK (RFC 9204): static table, literals and Huffman code both ways; the dynamic table for the requests of
//! clients that use one ([`Decoder`], and [`Encoder`] for a client of our own). Responses do without it.
//!
//! Invariants:
//! - Functions without a table are for peers that were not allowed one: there, field sections do not depend
//!   on each other, decoding has no state, and a section that refers to the dynamic table is an error of the
//!   connection (`QPACK_DECOMPRESSION_FAILED`).
//! - Decoding never waits: with a table, too, since 0 blocked streams are announced.
//! - Lines are decoded straight into the arena of the head they make ([`crate::http::HeadBuilder`]), which
//!   holds them to its rules and limits one by one; a section over a limit is given up at the line that
//!   passes it.
//! - What we encode, we can decode, and it is the same (checked by property tests).

mod decode;
mod decoder;
mod encode;
mod encoder;
mod huffman;
mod integer;
mod prepared;
mod static_table;
mod stream;
mod table;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;

pub use decode::{HeadError, decode_request, decode_response, decode_trailers};
pub use decoder::{Decoded, Decoder};
pub use encode::{EncodeError, encode_request, encode_response, encode_trailers};
pub use encoder::{ENCODER_TABLE_BYTES_MAX, Encoder};
pub use prepared::ResponseEncoder;
pub use stream::{DecoderStream, EncoderStream};

pub use crate::http::{Limits, Malformed, TooLarge};

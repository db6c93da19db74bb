//! QPACK (RFC 9204) with a dynamic table of size 0: static table, literals and Huffman code.
//!
//! Invariants:
//! - Without a dynamic table field sections do not depend on each other: decoding has no state, cannot
//!   block, and a section that refers to the dynamic table is an error of the connection
//!   (`QPACK_DECOMPRESSION_FAILED`).
//! - Lines are decoded straight into the arena of the head they make ([`crate::http::HeadBuilder`]), which
//!   holds them to its rules and limits one by one; a section over a limit is given up at the line that
//!   passes it.
//! - What we encode, we can decode, and it is the same (checked by property tests).

mod decode;
mod encode;
mod huffman;
mod integer;
mod static_table;
mod stream;
#[cfg(test)]
mod tests;

pub use decode::{HeadError, decode_request, decode_response, decode_trailers};
pub use encode::{EncodeError, encode_request, encode_response, encode_trailers};
pub use stream::{DecoderStream, EncoderStream};

pub use crate::http::{Limits, Malformed, TooLarge};

//! Field sections into heads (RFC 9204 section 4.5).

use super::table::Line;
use super::{huffman, integer, static_table};
use crate::h3::{ErrorCode, H3Error};
use crate::http::{
    Checked, Fields, HeadBuilder, HeadFault, Limits, Malformed, RequestHead, ResponseHead, TooLarge,
};

/// Why a field section is no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Close the connection with `QPACK_DECOMPRESSION_FAILED` (RFC 9204 section 2.2).
    #[error("QPACK: {0}")]
    Decompression(&'static str),
    /// Reset the stream with `H3_MESSAGE_ERROR` (RFC 9114 section 4.1.2).
    #[error("malformed message: {0}")]
    Malformed(Malformed),
    /// A server answers 431 (RFC 9114 section 4.2.2).
    #[error("header section too large: {0}")]
    TooLarge(TooLarge),
    /// A server answers 501.
    #[error("CONNECT is not supported")]
    ConnectUnsupported,
}

impl HeadError {
    /// What a server answers, where the error is worth an answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::TooLarge(_) => Some(431),
            Self::ConnectUnsupported => Some(501),
            Self::Malformed(_) | Self::Decompression(_) => None,
        }
    }

    /// How to end the stream or connection; for a client, or where there is no [`HeadError::status`].
    pub fn h3_error(&self) -> H3Error {
        match *self {
            Self::Decompression(reason) => {
                H3Error::Connection { code: ErrorCode::QPACK_DECOMPRESSION_FAILED, reason }
            }
            Self::Malformed(_) => {
                H3Error::Stream { code: ErrorCode::H3_MESSAGE_ERROR, reason: "malformed message" }
            }
            Self::TooLarge(_) => {
                H3Error::Stream { code: ErrorCode::H3_EXCESSIVE_LOAD, reason: "header section too large" }
            }
            Self::ConnectUnsupported => {
                H3Error::Stream { code: ErrorCode::H3_REQUEST_REJECTED, reason: "CONNECT is not supported" }
            }
        }
    }
}

impl From<HeadFault> for HeadError {
    fn from(fault: HeadFault) -> Self {
        match fault {
            HeadFault::Malformed(malformed) => Self::Malformed(malformed),
            HeadFault::TooLarge(too_large) => Self::TooLarge(too_large),
            HeadFault::ConnectUnsupported => Self::ConnectUnsupported,
        }
    }
}

/// Decodes the field section of a request's head. Two allocations: the head and its arena.
pub fn decode_request(section: &[u8], limits: &Limits) -> Result<RequestHead, HeadError> {
    let mut builder = HeadBuilder::request(limits, capacity(section));
    decode_section(section, limits, &mut builder)?;
    Ok(builder.finish_request()?)
}

/// Decodes the field section of a response's head, interim or final.
pub fn decode_response(section: &[u8], limits: &Limits) -> Result<ResponseHead, HeadError> {
    let mut builder = HeadBuilder::response(limits, capacity(section));
    decode_section(section, limits, &mut builder)?;
    Ok(builder.finish_response()?)
}

/// Decodes the field section of trailers.
pub fn decode_trailers(section: &[u8], limits: &Limits) -> Result<Fields, HeadError> {
    let mut builder = HeadBuilder::trailers(limits, capacity(section));
    decode_section(section, limits, &mut builder)?;
    Ok(builder.finish_trailers())
}

/// Room for the arena: Huffman code expands to at most 8/5, names from the static table come on top.
pub(super) fn capacity(section: &[u8]) -> usize {
    section.len().min(16 * 1024) * 8 / 5 + 160
}

/// Decodes a section that may not refer to a dynamic table.
pub(super) fn decode_section(
    mut section: &[u8],
    limits: &Limits,
    builder: &mut HeadBuilder,
) -> Result<(), HeadError> {
    check_size(section, limits)?;
    // Section 4.5.1: without a table the Required Insert Count can only be 0, and then a base below it (sign
    // bit 1) would be negative.
    if read_integer(8, &mut section)? != 0 {
        return Err(DYNAMIC);
    }
    let negative = section.first().is_some_and(|byte| byte & 0x80 != 0);
    read_integer(7, &mut section)?;
    if negative {
        return Err(HeadError::Decompression("negative base"));
    }
    decode_lines(section, builder, &NoTable)
}

pub(super) fn check_size(section: &[u8], limits: &Limits) -> Result<(), HeadError> {
    if section.len() > limits.encoded_bytes_max {
        Err(HeadError::TooLarge(TooLarge::Encoded))
    } else {
        Ok(())
    }
}

/// The lines of a dynamic table that a section may refer to.
pub(super) trait References {
    /// The line at this index relative to the base (RFC 9204 section 3.2.5).
    fn relative(&self, index: u64) -> Result<&Line, HeadError>;

    /// The line at this post-base index (RFC 9204 section 3.2.6).
    fn post_base(&self, index: u64) -> Result<&Line, HeadError>;
}

/// None at all.
struct NoTable;

impl References for NoTable {
    #[inline]
    fn relative(&self, _: u64) -> Result<&Line, HeadError> {
        Err(DYNAMIC)
    }

    #[inline]
    fn post_base(&self, _: u64) -> Result<&Line, HeadError> {
        Err(DYNAMIC)
    }
}

const DYNAMIC: HeadError = HeadError::Decompression("reference to the dynamic table");
const CUT_SHORT: HeadError = HeadError::Decompression("field section is cut short");

/// Decodes what follows the prefix of a section.
#[inline]
pub(super) fn decode_lines(
    mut section: &[u8],
    builder: &mut HeadBuilder,
    references: &impl References,
) -> Result<(), HeadError> {
    while let Some(&first) = section.first() {
        decode_line(first, &mut section, builder, references)?;
    }
    Ok(())
}

#[inline]
fn decode_line(
    first: u8,
    section: &mut &[u8],
    builder: &mut HeadBuilder,
    references: &impl References,
) -> Result<(), HeadError> {
    match first >> 4 {
        // Section 4.5.2, indexed field line: 1 T index(6).
        0b1100..=0b1111 => {
            let index = read_integer(6, section)?;
            let (name, value) = static_line(index)?;
            let arena = builder.arena_mut();
            if let Some(pseudo) = static_table::pseudo(index) {
                arena.extend_from_slice(value.as_bytes());
                return Ok(builder.commit_pseudo(pseudo)?);
            }
            arena.extend_from_slice(name.as_bytes());
            let name_end = arena.len();
            arena.extend_from_slice(value.as_bytes());
            Ok(builder.commit(name_end, Checked::Line)?)
        }
        0b1000..=0b1011 => commit_line(references.relative(read_integer(6, section)?)?, builder),
        // Section 4.5.4, literal with name reference: 01 N T index(4).
        0b0101 | 0b0111 => {
            let index = read_integer(4, section)?;
            let (name, _) = static_line(index)?;
            let arena = builder.arena_mut();
            if let Some(pseudo) = static_table::pseudo(index) {
                read_string(7, section, arena)?;
                return Ok(builder.commit_pseudo(pseudo)?);
            }
            arena.extend_from_slice(name.as_bytes());
            let name_end = arena.len();
            read_string(7, section, arena)?;
            Ok(builder.commit(name_end, Checked::Name)?)
        }
        0b0100 | 0b0110 => {
            let name = references.relative(read_integer(4, section)?)?;
            commit_value(name, section, builder)
        }
        // Section 4.5.6, literal with literal name: 001 N H length(3).
        0b0010 | 0b0011 => {
            let arena = builder.arena_mut();
            read_string(3, section, arena)?;
            let name_end = arena.len();
            read_string(7, section, arena)?;
            Ok(builder.commit(name_end, Checked::Nothing)?)
        }
        // Section 4.5.3, indexed with post-base index: 0001 index(4).
        0b0001 => commit_line(references.post_base(read_integer(4, section)?)?, builder),
        // Section 4.5.5, literal with post-base name reference: 0000 N index(3).
        _ => {
            let name = references.post_base(read_integer(3, section)?)?;
            commit_value(name, section, builder)
        }
    }
}

fn commit_line(line: &Line, builder: &mut HeadBuilder) -> Result<(), HeadError> {
    let arena = builder.arena_mut();
    if let Some(pseudo) = line.pseudo() {
        arena.extend_from_slice(line.value());
        return Ok(builder.commit_pseudo(pseudo)?);
    }
    arena.extend_from_slice(line.name());
    let name_end = arena.len();
    arena.extend_from_slice(line.value());
    Ok(builder.commit(name_end, line.checked())?)
}

fn commit_value(name: &Line, section: &mut &[u8], builder: &mut HeadBuilder) -> Result<(), HeadError> {
    let arena = builder.arena_mut();
    if let Some(pseudo) = name.pseudo() {
        read_string(7, section, arena)?;
        return Ok(builder.commit_pseudo(pseudo)?);
    }
    arena.extend_from_slice(name.name());
    let name_end = arena.len();
    read_string(7, section, arena)?;
    Ok(builder.commit(name_end, Checked::Nothing)?)
}

fn static_line(index: u64) -> Result<(&'static str, &'static str), HeadError> {
    // RFC 9204 section 3.1: an index past the end is QPACK_DECOMPRESSION_FAILED.
    static_table::get(index).ok_or(HeadError::Decompression("no such line in the static table"))
}

/// RFC 9204 section 4.1.2: the bit above the prefix says whether the string is Huffman code.
#[inline]
fn read_string(prefix_bits: u32, section: &mut &[u8], out: &mut Vec<u8>) -> Result<(), HeadError> {
    let is_huffman = section.first().is_some_and(|byte| byte >> prefix_bits & 1 == 1);
    let length = usize::try_from(read_integer(prefix_bits, section)?).unwrap_or(usize::MAX);
    let (text, rest) = section.split_at_checked(length).ok_or(CUT_SHORT)?;
    *section = rest;
    if is_huffman {
        return huffman::decode(text, out).map_err(|_| HeadError::Decompression("invalid Huffman code"));
    }
    out.extend_from_slice(text);
    Ok(())
}

#[inline]
pub(super) fn read_integer(prefix_bits: u32, section: &mut &[u8]) -> Result<u64, HeadError> {
    integer::read(prefix_bits, section).map_err(|error| match error {
        integer::IntegerError::CutShort => CUT_SHORT,
        integer::IntegerError::TooLarge => HeadError::Decompression("integer is too large"),
    })
}

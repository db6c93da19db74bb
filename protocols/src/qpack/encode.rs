//! Heads into field sections (RFC 9204 section 4.5).

use super::static_table::Found;
use super::{huffman, integer, static_table};
use crate::http::{RequestHead, is_connection_specific, is_valid_name, is_valid_value};

/// Why a head was not encoded. The fault is ours: the peer would have to refuse it as malformed. Nothing
/// was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The status is not in 100..=999, or is 101 (RFC 9114 section 4.5).
    #[error("invalid status {0}")]
    Status(u16),
    /// A name is no lower-case token.
    #[error("invalid field name")]
    Name,
    /// A value holds a control character.
    #[error("invalid field value")]
    Value,
    /// A field that speaks of a connection, such as `transfer-encoding` (RFC 9114 section 4.2).
    #[error("connection-specific field")]
    ConnectionSpecific,
}

/// RFC 9204 section 4.5.1: Required Insert Count 0, base 0.
const PREFIX: [u8; 2] = [0, 0];

/// Appends the field section of a response's head.
pub fn encode_response<'a>(
    out: &mut Vec<u8>,
    status: u16,
    fields: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<(), EncodeError> {
    let start = out.len();
    write_prefix(out, status)?;
    encode_fields(out, start, fields.into_iter().map(|(name, value)| (name, value.as_bytes())))
}

/// Appends what every response's section begins with.
pub(super) fn write_prefix(out: &mut Vec<u8>, status: u16) -> Result<(), EncodeError> {
    // Nearly every answer's: section 4.5.2, line 25 of the static table.
    if status == 200 {
        out.extend_from_slice(&[0, 0, 0b1100_0000 | 25]);
        return Ok(());
    }
    if !(100..=999).contains(&status) || status == 101 {
        return Err(EncodeError::Status(status));
    }
    let digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b"0123456789"[usize::from(digit)]);
    out.extend_from_slice(&PREFIX);
    encode_line(out, b":status", &digits);
    Ok(())
}

/// Appends a `content-length`.
pub(super) fn encode_content_length(out: &mut Vec<u8>, bytes: usize) {
    let mut digits = [0; 20];
    let value = write_decimal(bytes, &mut digits);
    let found = if bytes == 0 { Found::Line(CONTENT_LENGTH) } else { Found::Name(CONTENT_LENGTH) };
    write_line(out, b"content-length", value, Some(found));
}

/// Line 4 of the static table: `content-length: 0`.
const CONTENT_LENGTH: usize = 4;

fn write_decimal(mut value: usize, buffer: &mut [u8; 20]) -> &[u8] {
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b"0123456789"[value % 10];
        value /= 10;
        if value == 0 {
            return &buffer[at..];
        }
    }
}

/// Appends the field section of a request's head. What a head holds is valid, so this cannot fail.
pub fn encode_request(out: &mut Vec<u8>, head: &RequestHead) {
    out.extend_from_slice(&PREFIX);
    encode_line(out, b":method", head.method_str().as_bytes());
    encode_line(out, b":scheme", head.scheme().as_bytes());
    if let Some(authority) = head.authority() {
        encode_line(out, b":authority", authority.as_bytes());
    }
    encode_line(out, b":path", head.path_and_query().as_bytes());
    for (name, value) in head.fields().iter_bytes() {
        encode_line(out, name.as_bytes(), value);
    }
}

/// Appends the field section of trailers.
pub fn encode_trailers<'a>(
    out: &mut Vec<u8>,
    fields: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.extend_from_slice(&PREFIX);
    encode_fields(out, start, fields.into_iter().map(|(name, value)| (name, value.as_bytes())))
}

fn encode_fields<'a>(
    out: &mut Vec<u8>,
    start: usize,
    fields: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Result<(), EncodeError> {
    for (name, value) in fields {
        if let Err(error) = encode_field(out, name, value) {
            out.truncate(start);
            return Err(error);
        }
    }
    Ok(())
}

/// Appends the line of a field, unless it may not be sent.
pub(super) fn encode_field(out: &mut Vec<u8>, name: &str, value: &[u8]) -> Result<(), EncodeError> {
    if !is_valid_name(name.as_bytes()) {
        return Err(EncodeError::Name);
    }
    if !is_valid_value(value) {
        return Err(EncodeError::Value);
    }
    if is_connection_specific(name.as_bytes()) || name == "te" {
        return Err(EncodeError::ConnectionSpecific);
    }
    encode_line(out, name.as_bytes(), without_blanks(value));
    Ok(())
}

/// RFC 9110 section 5.5: white space around a value is no part of it. A strict peer refuses a message that
/// has some (RFC 9113 section 8.2.1 says so for HTTP/2), and our own decoder takes it off.
fn without_blanks(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().take_while(|byte| blank(byte)).count();
    let end = value.len() - value[start..].iter().rev().take_while(|byte| blank(byte)).count();
    &value[start..end]
}

fn encode_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    write_line(out, name, value, static_table::find(name, value));
}

/// Appends a line, of which this was found in the static table.
pub(super) fn write_line(out: &mut Vec<u8>, name: &[u8], value: &[u8], found: Option<Found>) {
    match found {
        // Section 4.5.2: 1, T = 1, index.
        Some(Found::Line(index)) => integer::write(out, 0b1100_0000, 6, index),
        // Section 4.5.4: 01 N, T = 1, index.
        Some(Found::Name(index)) => {
            integer::write(out, 0b0101_0000 | never_indexed(name, 0b0010_0000), 4, index);
            encode_string(out, 0, 7, value);
        }
        // Section 4.5.6: 001 N H, length of the name.
        None => {
            encode_string(out, 0b0010_0000 | never_indexed(name, 0b0001_0000), 3, name);
            encode_string(out, 0, 7, value);
        }
    }
}

/// The bit N of a literal, where RFC 9204 section 7.1.3 asks for it.
pub(super) fn never_indexed(name: &[u8], bit: u8) -> u8 {
    if is_secret(name) { bit } else { 0 }
}

/// RFC 9204 section 7.1.3: a proxy must not put these into a dynamic table of its own.
fn is_secret(name: &[u8]) -> bool {
    matches!(name, b"authorization" | b"proxy-authorization" | b"cookie" | b"set-cookie")
}

/// RFC 9204 section 4.1.2: Huffman code where that is shorter, marked by the bit above the prefix.
pub(super) fn encode_string(out: &mut Vec<u8>, pattern: u8, prefix_bits: u32, text: &[u8]) {
    let huffman_bytes = huffman::encoded_len(text);
    if huffman_bytes < text.len() {
        integer::write(out, pattern | 1 << prefix_bits, prefix_bits, huffman_bytes);
        huffman::encode(out, text);
    } else {
        integer::write(out, pattern, prefix_bits, text.len());
        out.extend_from_slice(text);
    }
}

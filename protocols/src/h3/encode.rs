//! Frames we send.

use super::control::{MAX_FIELD_SECTION_SIZE, QPACK_BLOCKED_STREAMS, QPACK_MAX_TABLE_CAPACITY, Settings};
use super::frame::FrameType;
use super::uni::UniStreamType;
use super::varint::{varint_len, write_varint};

/// Appends the type that begins a unidirectional stream.
pub fn write_stream_type(out: &mut Vec<u8>, kind: UniStreamType) {
    kind.write(out);
}

/// A setting without a meaning, of the kind that RFC 9114 section 7.2.4.1 reserves so that peers are kept in
/// the habit of ignoring what they do not know: 0x1f * N + 0x21 for N = 27.
pub(super) const GREASE_SETTING: u64 = 0x366;

/// Appends what begins our control stream: its type, our settings and a reserved one.
pub fn write_control_preamble(out: &mut Vec<u8>, settings: &Settings) {
    write_stream_type(out, UniStreamType::Control);
    write_settings_and(out, settings, Some((GREASE_SETTING, 0)));
}

/// Appends a SETTINGS frame.
pub fn write_settings(out: &mut Vec<u8>, settings: &Settings) {
    write_settings_and(out, settings, None);
}

fn write_settings_and(out: &mut Vec<u8>, settings: &Settings, more: Option<(u64, u64)>) {
    let pairs = [
        (QPACK_MAX_TABLE_CAPACITY, Some(settings.qpack_max_table_capacity)),
        (QPACK_BLOCKED_STREAMS, Some(settings.qpack_blocked_streams)),
        (MAX_FIELD_SECTION_SIZE, settings.max_field_section_size),
    ];
    let present = pairs.iter().filter_map(|(id, value)| Some((*id, (*value)?))).chain(more);
    let payload_bytes: usize = present.clone().map(|(id, value)| varint_len(id) + varint_len(value)).sum();
    write_frame_header(out, FrameType::SETTINGS, payload_bytes as u64);
    for (id, value) in present {
        write_varint(out, id);
        write_varint(out, value);
    }
}

/// Appends a GOAWAY frame. A server names the first request stream it will not process, a multiple of four;
/// each following GOAWAY must name the same or a lower one (RFC 9114 section 5.2).
pub fn write_goaway(out: &mut Vec<u8>, id: u64) {
    write_frame_header(out, FrameType::GOAWAY, varint_len(id) as u64);
    write_varint(out, id);
}

/// Appends the header of a DATA frame; its payload follows.
pub fn write_data_header(out: &mut Vec<u8>, payload_bytes: u64) {
    write_frame_header(out, FrameType::DATA, payload_bytes);
}

/// Appends the header of a HEADERS frame; an encoded field section follows.
pub fn write_headers_header(out: &mut Vec<u8>, payload_bytes: u64) {
    write_frame_header(out, FrameType::HEADERS, payload_bytes);
}

/// Appends a HEADERS frame whose field section `encode` appends. When `encode` fails, `out` is as it was.
///
/// The length is written as two bytes and filled in afterwards, so nothing is copied for sections under 16
/// KiB.
pub fn write_headers<E>(
    out: &mut Vec<u8>,
    encode: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let frame_start = out.len();
    write_varint(out, FrameType::HEADERS.value());
    let length_start = out.len();
    out.extend_from_slice(&[0, 0]);
    let payload_start = out.len();
    if let Err(error) = encode(out) {
        out.truncate(frame_start);
        return Err(error);
    }
    let payload_bytes = out.len() - payload_start;
    match u16::try_from(payload_bytes) {
        // RFC 9000 section 16: two bytes, marked by the high bits 01, hold 14 bits.
        Ok(short @ 0..=0x3fff) => {
            out[length_start..payload_start].copy_from_slice(&(0x4000 | short).to_be_bytes());
        }
        _ => {
            let mut length = Vec::with_capacity(8);
            write_varint(&mut length, payload_bytes as u64);
            out.splice(length_start..payload_start, length);
        }
    }
    Ok(())
}

fn write_frame_header(out: &mut Vec<u8>, kind: FrameType, payload_bytes: u64) {
    write_varint(out, kind.value());
    write_varint(out, payload_bytes);
}

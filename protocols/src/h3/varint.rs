//! Variable-length integers (RFC 9000 section 16).

/// Largest number a variable-length integer holds.
pub const VARINT_MAX: u64 = (1 << 62) - 1;

/// The integer at the start of `bytes` and how many of them it takes (1, 2, 4 or 8). `None`: more are needed.
#[inline]
pub fn read_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    // The two high bits say how long it is, the rest belongs to the number.
    match first >> 6 {
        0 => Some((u64::from(first), 1)),
        1 => Some((u64::from(u16::from_be_bytes(*bytes.first_chunk()?) & 0x3fff), 2)),
        2 => Some((u64::from(u32::from_be_bytes(*bytes.first_chunk()?) & 0x3fff_ffff), 4)),
        _ => Some((u64::from_be_bytes(*bytes.first_chunk()?) & VARINT_MAX, 8)),
    }
}

/// Appends `value` in its shortest form.
///
/// # Panics
/// When `value` is over [`VARINT_MAX`], which no length and no stream identifier is.
#[inline]
pub fn write_varint(out: &mut Vec<u8>, value: u64) {
    let bytes = value.to_be_bytes();
    match varint_len(value) {
        1 => out.push(bytes[7]),
        2 => out.extend_from_slice(&[0x40 | bytes[6], bytes[7]]),
        4 => out.extend_from_slice(&[0x80 | bytes[4], bytes[5], bytes[6], bytes[7]]),
        _ => out.extend_from_slice(&(value | 0xc0 << 56).to_be_bytes()),
    }
}

/// How many bytes [`write_varint`] appends.
///
/// # Panics
/// As [`write_varint`].
#[inline]
pub fn varint_len(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => {
            assert!(value <= VARINT_MAX, "{value} does not fit a variable-length integer");
            8
        }
    }
}

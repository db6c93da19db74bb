//! Bytes as hexadecimal digits.

use zeroize::Zeroizing;

/// The digits of these bytes, lower case.
pub(super) fn of(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 0xf)]));
    }
    text
}

/// Fills `out` with the bytes of exactly so many digits; whether they were that.
pub(super) fn read(text: &str, out: &mut [u8]) -> bool {
    let digits = text.as_bytes();
    if digits.len() != 2 * out.len() {
        return false;
    }
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        match (value(pair[0]), value(pair[1])) {
            (Some(high), Some(low)) => *byte = high << 4 | low,
            _ => return false,
        }
    }
    true
}

/// The bytes of exactly `2 * N` digits.
pub(super) fn array<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = Zeroizing::new([0; N]);
    read(text, &mut bytes[..]).then_some(*bytes)
}

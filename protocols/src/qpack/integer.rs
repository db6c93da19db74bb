//! Prefixed integers (RFC 9204 section 4.1.1, RFC 7541 section 5.1).

/// RFC 9204 section 4.1.1: integers of up to 62 bits must be understood. Larger ones are refused.
const INTEGER_MAX: u64 = (1 << 62) - 1;

/// Why an integer cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IntegerError {
    /// The input ends within it.
    CutShort,
    /// It is larger than 62 bits, or spun out with zeros past what 62 bits need.
    TooLarge,
}

/// An integer whose first byte lies at the front of `input`, in the low `prefix_bits` of it.
#[inline]
pub(super) fn read(prefix_bits: u32, input: &mut &[u8]) -> Result<u64, IntegerError> {
    let Some((&first, rest)) = input.split_first() else { return Err(IntegerError::CutShort) };
    *input = rest;
    let prefix_max = prefix_max(prefix_bits);
    let prefix = first & prefix_max;
    if prefix < prefix_max {
        return Ok(u64::from(prefix));
    }
    let mut continued = Continued::new(prefix_max);
    while let Some((&byte, rest)) = input.split_first() {
        *input = rest;
        if let Some(value) = continued.push(byte)? {
            return Ok(value);
        }
    }
    Err(IntegerError::CutShort)
}

/// Appends `value` behind the high bits `pattern` of its first byte.
pub(super) fn write(out: &mut Vec<u8>, pattern: u8, prefix_bits: u32, value: usize) {
    let prefix_max = prefix_max(prefix_bits);
    debug_assert_eq!(pattern & prefix_max, 0);
    match u8::try_from(value) {
        Ok(small) if small < prefix_max => out.push(pattern | small),
        _ => {
            out.push(pattern | prefix_max);
            let mut left = value - usize::from(prefix_max);
            while left >= 0x80 {
                out.push(0x80 | low_7_bits(left));
                left >>= 7;
            }
            out.push(low_7_bits(left));
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "masked to seven bits")]
fn low_7_bits(value: usize) -> u8 {
    (value & 0x7f) as u8
}

/// The bytes of an integer that follow a prefix full of ones.
#[derive(Debug, Clone, Copy)]
pub(super) struct Continued {
    value: u64,
    shift: u32,
}

impl Continued {
    pub(super) fn new(prefix_max: u8) -> Self {
        Self { value: u64::from(prefix_max), shift: 0 }
    }

    /// Takes one byte; the value, if that was the last.
    pub(super) fn push(&mut self, byte: u8) -> Result<Option<u64>, IntegerError> {
        // Nine bytes carry 63 bits, so a tenth can only be too much; and `value` stays below 2^63 + 2^8.
        if self.shift > 56 {
            return Err(IntegerError::TooLarge);
        }
        self.value += u64::from(byte & 0x7f) << self.shift;
        self.shift += 7;
        if self.value > INTEGER_MAX {
            return Err(IntegerError::TooLarge);
        }
        Ok((byte < 0x80).then_some(self.value))
    }
}

/// The largest value of a prefix of this many bits, and the mask of those bits.
pub(super) const fn prefix_max(prefix_bits: u32) -> u8 {
    debug_assert!(prefix_bits >= 1 && prefix_bits <= 8);
    u8::MAX >> (8 - prefix_bits)
}

//! Responses whose field lines are mostly the same, each encoded once.

use std::borrow::Cow;
use std::fmt;

use super::encode::{EncodeError, encode_content_length, encode_field, write_prefix};

/// Lines that are kept; those that share a place take turns.
const PLACES: usize = 64;

/// Longest encoded line that is kept, in bytes.
const LINE_BYTES_MAX: usize = 63;

/// A field of a response. Where both are borrowed they are constants of the program.
type Field = (Cow<'static, str>, Cow<'static, str>);

/// Encodes the heads of responses without a dynamic table. It remembers how lines look whose name and value
/// are constants, which most are, and copies those the next time: nothing is checked, looked up or coded
/// anew. Memory: 6 KiB.
pub struct ResponseEncoder {
    kept: Box<[Kept; PLACES]>,
}

#[derive(Clone, Copy)]
struct Kept {
    name: &'static str,
    value: &'static str,
    length: u8,
    encoded: [u8; LINE_BYTES_MAX],
}

impl Kept {
    /// A place that is free.
    const NONE: Self = Self { name: "", value: "", length: 0, encoded: [0; LINE_BYTES_MAX] };

    /// Whether it is this very line: the same constants, not equal text. What is the same bytes in memory
    /// for as long as the program runs needs no look at them. A place that is free is no line, whatever empty
    /// constants share its address.
    fn is(&self, name: &'static str, value: &'static str) -> bool {
        self.length > 0 && std::ptr::eq(self.name, name) && std::ptr::eq(self.value, value)
    }
}

impl Default for ResponseEncoder {
    fn default() -> Self {
        Self { kept: Box::new([Kept::NONE; PLACES]) }
    }
}

impl fmt::Debug for ResponseEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.kept.iter().filter(|kept| kept.length > 0).count();
        f.debug_struct("ResponseEncoder").field("kept", &kept).finish()
    }
}

impl ResponseEncoder {
    /// Appends the field section of a response's head: status, fields, and `content-length` where it is
    /// given. When it fails, `out` is as it was.
    pub fn encode(
        &mut self,
        out: &mut Vec<u8>,
        status: u16,
        fields: &[Field],
        content_length: Option<usize>,
    ) -> Result<(), EncodeError> {
        let start = out.len();
        write_prefix(out, status)?;
        for field in fields {
            if let Err(error) = self.line(out, field) {
                out.truncate(start);
                return Err(error);
            }
        }
        if let Some(bytes) = content_length {
            encode_content_length(out, bytes);
        }
        Ok(())
    }

    #[inline]
    fn line(&mut self, out: &mut Vec<u8>, (name, value): &Field) -> Result<(), EncodeError> {
        let (Cow::Borrowed(name), Cow::Borrowed(value)) = (name, value) else {
            return encode_field(out, name, value.as_bytes());
        };
        let kept = &mut self.kept[place_of(name, value)];
        if kept.is(name, value) {
            out.extend_from_slice(&kept.encoded[..usize::from(kept.length)]);
            return Ok(());
        }
        let start = out.len();
        encode_field(out, name, value.as_bytes())?;
        let line = &out[start..];
        if let (Some(room), Ok(length)) = (kept.encoded.get_mut(..line.len()), u8::try_from(line.len())) {
            room.copy_from_slice(line);
            (kept.name, kept.value, kept.length) = (name, value, length);
        }
        Ok(())
    }
}

/// By address, as that is what they are told apart by.
#[allow(clippy::cast_possible_truncation, reason = "six bits are left")]
fn place_of(name: &str, value: &str) -> usize {
    /// 2^64 divided by the golden ratio: spreads neighbours over the high bits (Knuth, multiplicative hashing).
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let key = name.as_ptr().addr() as u64 ^ (value.as_ptr().addr() as u64).rotate_left(32);
    (key.wrapping_mul(SPREAD) >> (u64::BITS - PLACES.trailing_zeros())) as usize
}

#[cfg(test)]
mod tests {
    use super::super::encode_response;
    use super::*;

    fn plain(status: u16, fields: &[Field], length: Option<usize>) -> Result<Vec<u8>, EncodeError> {
        let length = length.map(|bytes| bytes.to_string());
        let pairs = fields.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
        let mut out = Vec::new();
        encode_response(&mut out, status, pairs.chain(length.as_deref().map(|text| ("content-length", text))))
            .map(|()| out)
    }

    #[test]
    fn what_is_kept_is_what_would_be_encoded() {
        let long: &'static str = "x".repeat(2 * LINE_BYTES_MAX).leak();
        let fields: Vec<Field> = vec![
            ("content-type".into(), "application/json".into()),
            ("content-type".into(), "application/problem+json".into()),
            ("cache-control".into(), "no-store".into()),
            ("x-request-id".into(), String::from("0191").into()),
            (String::from("etag").into(), "\"a\"".into()),
            ("x-blank".into(), " \tbetween\t".into()),
            ("x-empty".into(), "".into()),
            ("set-cookie".into(), "a=b".into()),
            ("x-long".into(), long.into()),
        ];
        let mut encoder = ResponseEncoder::default();
        for status in [200, 204, 404, 418, 500] {
            for length in [None, Some(0), Some(200), Some(usize::MAX)] {
                for fields in [&fields[..], &fields[..1], &fields[1..2], &[]] {
                    let mut out = b"before".to_vec();
                    encoder.encode(&mut out, status, fields, length).unwrap();
                    assert_eq!(out[6..], plain(status, fields, length).unwrap());
                }
            }
        }
    }

    #[test]
    fn constants_that_fit_are_kept_and_nothing_else() {
        let long: &'static str = "x".repeat(2 * LINE_BYTES_MAX).leak();
        let fields: [(Field, usize); 4] = [
            (("cache-control".into(), "no-store".into()), 1),
            (("cache-control".into(), String::from("no-store").into()), 0),
            ((String::from("cache-control").into(), "no-store".into()), 0),
            (("x-long".into(), long.into()), 0),
        ];
        for (field, kept) in fields {
            let mut encoder = ResponseEncoder::default();
            encoder.encode(&mut Vec::new(), 200, &[field], Some(2)).unwrap();
            assert_eq!(encoder.kept.iter().filter(|kept| kept.length > 0).count(), kept);
        }
    }

    #[test]
    fn constants_that_share_a_place_take_turns() {
        // More lines than places: every place is fought for.
        let values: Vec<&'static str> = (0..4 * PLACES).map(|n| &*n.to_string().leak()).collect();
        let mut encoder = ResponseEncoder::default();
        for _ in 0..3 {
            for value in &values {
                let fields: [Field; 1] = [("x-number".into(), (*value).into())];
                let mut out = Vec::new();
                encoder.encode(&mut out, 200, &fields, None).unwrap();
                assert_eq!(out, plain(200, &fields, None).unwrap());
            }
        }
    }

    #[test]
    fn what_may_not_be_sent_is_refused_each_time_and_nothing_is_left() {
        let faults: [(Field, EncodeError); 6] = [
            ((Kept::NONE.name.into(), Kept::NONE.value.into()), EncodeError::Name),
            (("X-Upper".into(), "a".into()), EncodeError::Name),
            (("".into(), "a".into()), EncodeError::Name),
            (("x-line".into(), "a\nb".into()), EncodeError::Value),
            (("connection".into(), "close".into()), EncodeError::ConnectionSpecific),
            (("te".into(), "trailers".into()), EncodeError::ConnectionSpecific),
        ];
        let mut encoder = ResponseEncoder::default();
        for (field, fault) in faults {
            let fields = [("content-type".into(), "text/plain".into()), field];
            for _ in 0..2 {
                let mut out = vec![1];
                assert_eq!(encoder.encode(&mut out, 200, &fields, Some(1)), Err(fault));
                assert_eq!(out, [1]);
            }
        }
        for status in [0, 99, 101, 1000] {
            let mut out = vec![1];
            assert_eq!(encoder.encode(&mut out, status, &[], None), Err(EncodeError::Status(status)));
            assert_eq!(out, [1]);
        }
    }
}

//! `Range: bytes=...` for one range (RFC 9110 section 14).
//!
//! What a server may ignore is ignored here: other units, several ranges, and what is malformed; the whole is the answer
//! then.

/// A part of a content: offsets of its first and its last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Offset of the first byte.
    pub first: u64,
    /// Offset of the last byte, at least `first`.
    pub last: u64,
}

impl Part {
    /// Bytes of the part, at least 1.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.last - self.first + 1
    }

    /// The `content-range` of the part of a content of `length` bytes.
    #[must_use]
    pub fn content_range(self, length: u64) -> String {
        format!("bytes {}-{}/{length}", self.first, self.last)
    }
}

/// What of a content is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of it.
    Whole,
    /// A part that is there: its last byte lies within the content.
    Part(Part),
    /// Nothing that is there: to be answered with status 416 and [`unsatisfied`].
    Nothing,
}

/// The `content-range` of a refusal (RFC 9110 section 14.4).
#[must_use]
pub fn unsatisfied(length: u64) -> String {
    format!("bytes */{length}")
}

/// Reads a `range` field for a content of `length` bytes.
#[must_use]
pub fn wanted(range: &str, length: u64) -> Wanted {
    let Some((unit, set)) = range.split_once('=') else { return Wanted::Whole };
    let Some((first, last)) = set.trim().split_once('-') else { return Wanted::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Wanted::Whole;
    }
    match (number(first), number(last)) {
        (Some(first), None) if last.is_empty() => within(first, u64::MAX, length),
        (Some(first), Some(last)) if first <= last => within(first, last, length),
        (None, Some(suffix)) if first.is_empty() => match (suffix, length) {
            (0, _) | (_, 0) => Wanted::Nothing,
            _ => within(length.saturating_sub(suffix), u64::MAX, length),
        },
        _ => Wanted::Whole,
    }
}

fn within(first: u64, last: u64, length: u64) -> Wanted {
    if first >= length {
        return Wanted::Nothing;
    }
    Wanted::Part(Part { first, last: last.min(length - 1) })
}

/// Digits alone: `parse` takes a sign as well. What is too large for a number lies behind every content.
fn number(digits: &str) -> Option<u64> {
    let are_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    are_digits.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(first: u64, last: u64) -> Wanted {
        Wanted::Part(Part { first, last })
    }

    #[test]
    fn ranges_are_cut_to_what_is_there() {
        for (range, found) in [
            ("bytes=0-0", part(0, 0)),
            ("bytes=2-5", part(2, 5)),
            ("bytes=2-", part(2, 9)),
            ("Bytes = 2-99999999999999999999999", part(2, 9)),
            ("bytes=-3", part(7, 9)),
            ("bytes=-30", part(0, 9)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=99999999999999999999999-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
        ] {
            assert_eq!(wanted(range, 10), found, "{range}");
        }
        assert_eq!(wanted("bytes=0-", 0), Wanted::Nothing);
        assert_eq!(wanted("bytes=-1", 0), Wanted::Nothing);
    }

    #[test]
    fn what_may_be_ignored_is() {
        for range in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=5-2",
            "bytes=+1-2",
            "bytes=0-1,4-5",
            "lines=1-2",
        ] {
            assert_eq!(wanted(range, 10), Wanted::Whole, "{range}");
        }
    }

    #[test]
    fn a_part_says_where_it_lies() {
        let part = Part { first: 2, last: 5 };
        assert_eq!((part.bytes(), part.content_range(10).as_str()), (4, "bytes 2-5/10"));
        assert_eq!(unsatisfied(10), "bytes */10");
    }

    proptest! {
        #[test]
        fn a_part_always_lies_within(range in "(bytes=)?[0-9]{0,3}-?[0-9]{0,3}|\\PC{0,20}", length in 0u64..200) {
            if let Wanted::Part(part) = wanted(&range, length) {
                prop_assert!(part.first <= part.last && part.last < length);
            }
        }
    }
}

//! Bytes as pairs of hexadecimal digits.

/// Two digits a byte, in lower case.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

/// The bytes of exactly so many digits, of either case; `None` for any other text.
#[must_use]
pub fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn digits_stand_in_their_order() {
        assert_eq!(encode(&[0x01, 0xaf, 0xf0]), "01aff0");
        assert_eq!(encode(&[]), "");
        assert_eq!(decode("01aFf0"), Some([0x01, 0xaf, 0xf0]));
        assert_eq!(decode::<0>(""), Some([]));
    }

    #[test]
    fn what_are_no_digits_of_the_right_number_is_nothing() {
        for text in
            ["", "0", "01af", "01aff", "01aff00", "01afg0", "+1aff0", "01 ff0", "01af\u{e9}", " 1aff0"]
        {
            assert_eq!(decode::<3>(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(bytes: [u8; 32]) {
            let text = encode(&bytes);
            prop_assert_eq!(text.len(), 64);
            prop_assert_eq!(decode(&text), Some(bytes));
            prop_assert_eq!(decode(&text.to_ascii_uppercase()), Some(bytes));
        }
    }
}

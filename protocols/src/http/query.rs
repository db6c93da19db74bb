//! The part of a path behind `?`.

/// Undoes percent-encoding; `None` for what is none, or is no UTF-8, or has control characters.
pub(crate) fn decoded(text: &str, plus_is_blank: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes().iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
                let value = digit(rest.next())? * 16 + digit(rest.next())?;
                u8::try_from(value).ok()?
            }
            b'+' if plus_is_blank => b' ',
            byte => *byte,
        });
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_undone_and_what_is_not_well_encoded_is_none() {
        assert_eq!(decoded("a%20b+c%C3%A9", true).as_deref(), Some("a b c\u{e9}"));
        assert_eq!(decoded("a+b", false).as_deref(), Some("a+b"));
        for wrong in ["%", "%2", "%zz", "%C3", "a%00b", "%0a"] {
            assert_eq!(decoded(wrong, true), None, "{wrong}");
        }
    }
}

//! The part of a path behind `?`, and the same as a body.

use std::collections::BTreeMap;

/// Most fields of a form.
const FORM_FIELDS_MAX: usize = 32;

/// The fields of a body of `application/x-www-form-urlencoded`; of two with one name the last. `None` when it is not well encoded, or
/// has control characters or more than 32 fields.
#[must_use]
pub fn form_fields(body: &[u8]) -> Option<BTreeMap<String, String>> {
    let text = std::str::from_utf8(body).ok()?;
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    if pairs.clone().count() > FORM_FIELDS_MAX {
        return None;
    }
    let read = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decoded(name, true)?, decoded(value, true)?))
    };
    pairs.map(read).collect()
}

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
    fn the_fields_of_a_form_are_those_that_were_sent() {
        let told = |body: &str| form_fields(body.as_bytes());
        let fields = told("key=+a%3Db+&changes&x=1&x=2&&").unwrap();
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(fields, [("changes", ""), ("key", " a=b "), ("x", "2")]);
        assert_eq!(told(""), Some(BTreeMap::new()));
        assert_eq!(told("a=%zz"), None);
        assert_eq!(told("a=b%0Ac"), None);
        assert_eq!(form_fields(b"a=\xff"), None);
        assert_eq!(told(&"a=b&".repeat(FORM_FIELDS_MAX)).map(|fields| fields.len()), Some(1));
        assert_eq!(told(&"a=b&".repeat(FORM_FIELDS_MAX + 1)), None);
    }

    #[test]
    fn what_is_encoded_is_undone_and_what_is_not_well_encoded_is_none() {
        assert_eq!(decoded("a%20b+c%C3%A9", true).as_deref(), Some("a b c\u{e9}"));
        assert_eq!(decoded("a+b", false).as_deref(), Some("a+b"));
        for wrong in ["%", "%2", "%zz", "%C3", "a%00b", "%0a"] {
            assert_eq!(decoded(wrong, true), None, "{wrong}");
        }
    }
}

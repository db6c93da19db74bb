//! QPACK field sections: what is decoded is within the limits and survives being encoded again, and any texts
//! that the encoder takes come back as they went in, through Huffman code or not; an encoder that keeps constant lines
//! gives what one without a memory gives.
//!
//! Input: one byte that chooses, and a field section, or names and values between zero bytes.

use std::borrow::Cow;

use sluice_protocols::http::{Fields, Limits};
use sluice_protocols::qpack::{
    EncodeError, ResponseEncoder, decode_request, decode_response, decode_trailers, encode_request,
    encode_response, encode_trailers,
};

/// Small, so that inputs of a few hundred bytes reach each of them.
const SMALL: Limits = Limits { encoded_bytes_max: 400, decoded_bytes_max: 600, fields_max: 8 };

/// Lines of a program's own, some of which may not be sent.
const CONSTANTS: [(&str, &str); 8] = [
    ("content-type", "application/json"),
    ("content-type", "application/problem+json"),
    ("cache-control", "no-store"),
    ("x-long", "0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789"),
    ("x-empty", ""),
    ("X-Upper", "a"),
    ("x-line", "a\nb"),
    ("connection", "close"),
];

/// Decodes or encodes, and goes back.
pub fn check(data: &[u8]) {
    let [choice, rest @ ..] = data else { return };
    let limits = if choice & 1 == 0 { Limits::DEFAULT } else { SMALL };
    match choice >> 1 & 3 {
        0 => check_request(rest, &limits),
        1 => check_response(rest, &limits),
        2 => check_trailers(rest, &limits),
        _ => check_texts(*choice, rest),
    }
}

fn check_bounds(fields: &Fields, limits: &Limits) {
    let bytes: usize = fields.iter_bytes().map(|(name, value)| name.len() + value.len() + 32).sum();
    assert!(bytes <= limits.decoded_bytes_max, "{bytes} bytes of fields passed");
    assert!(fields.len() <= limits.fields_max, "{} fields passed", fields.len());
}

fn check_request(section: &[u8], limits: &Limits) {
    let decoded = decode_request(section, limits);
    assert_eq!(decoded, decode_request(section, limits), "decoding has a memory");
    let Ok(head) = decoded else { return };
    check_bounds(head.fields(), limits);
    assert!(!head.method_str().is_empty() && !head.path_and_query().is_empty());
    if let Some(query) = head.query() {
        assert_eq!(head.path_and_query(), format!("{}?{query}", head.path()));
    }
    let mut again = Vec::new();
    encode_request(&mut again, &head);
    assert_eq!(decode_request(&again, &Limits::DEFAULT), Ok(head), "{again:?}");
}

fn check_response(section: &[u8], limits: &Limits) {
    let decoded = decode_response(section, limits);
    assert_eq!(decoded, decode_response(section, limits), "decoding has a memory");
    let Ok(head) = decoded else { return };
    check_bounds(head.fields(), limits);
    assert!((100..=999).contains(&head.status()) && head.status() != 101);
    // Values that are no text are skipped by `headers`, and what is left is encoded again.
    let fields: Vec<_> = head.headers().collect();
    let mut again = Vec::new();
    encode_response(&mut again, head.status(), fields.iter().copied()).expect("what was decoded is valid");
    let back = decode_response(&again, &Limits::DEFAULT).expect("what was encoded is valid");
    assert_eq!((back.status(), back.headers().collect::<Vec<_>>()), (head.status(), fields));
}

fn check_trailers(section: &[u8], limits: &Limits) {
    let decoded = decode_trailers(section, limits);
    assert_eq!(decoded, decode_trailers(section, limits), "decoding has a memory");
    let Ok(fields) = decoded else { return };
    check_bounds(&fields, limits);
    let texts: Vec<_> = fields.iter().collect();
    let mut again = Vec::new();
    encode_trailers(&mut again, texts.iter().copied()).expect("what was decoded is valid");
    let back = decode_trailers(&again, &Limits::DEFAULT).expect("what was encoded is valid");
    assert_eq!(back.iter().collect::<Vec<_>>(), texts);
}

fn check_texts(choice: u8, rest: &[u8]) {
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let mut parts = text.split('\0');
    let mut fields = Vec::new();
    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        fields.push((name, value));
    }
    let status = 200 + u16::from(choice >> 3);
    check_memory(status, &fields);
    let mut section = b"before".to_vec();
    match encode_response(&mut section, status, fields.iter().copied()) {
        Err(error) => {
            assert_eq!(section, b"before", "an error left something behind");
            assert!(matches!(
                error,
                EncodeError::Name | EncodeError::Value | EncodeError::ConnectionSpecific
            ));
        }
        // The decoder holds messages to more rules (lengths, connection fields) than the encoder.
        Ok(()) => {
            if let Ok(back) = decode_response(&section[6..], &Limits::DEFAULT) {
                assert_eq!(back.status(), status);
                // White space around a value is no part of it.
                let blank: &[char] = &[' ', '\t'];
                let trimmed: Vec<_> =
                    fields.iter().map(|(name, value)| (*name, value.trim_matches(blank))).collect();
                assert_eq!(back.headers().collect::<Vec<_>>(), trimmed);
            }
        }
    }
}

/// The same answer several times by an encoder with a memory: a name that is missing stands for a constant line.
fn check_memory(status: u16, texts: &[(&str, &str)]) {
    let fields: Vec<(Cow<'static, str>, Cow<'static, str>)> = texts
        .iter()
        .map(|(name, value)| match (*name, value.as_bytes()) {
            ("", [number, ..]) => {
                let (name, value) = CONSTANTS[usize::from(*number) % CONSTANTS.len()];
                (name.into(), value.into())
            }
            _ => ((*name).to_owned().into(), (*value).to_owned().into()),
        })
        .collect();
    let length = texts.first().map(|(_, value)| value.len());
    let length_text = length.map(|length| length.to_string());
    let pairs = fields.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
    let pairs = pairs.chain(length_text.as_deref().map(|text| ("content-length", text)));
    let mut plain = b"before".to_vec();
    let outcome = encode_response(&mut plain, status, pairs);
    let mut encoder = ResponseEncoder::default();
    for _ in 0..3 {
        let mut out = b"before".to_vec();
        assert_eq!(encoder.encode(&mut out, status, &fields, length), outcome);
        assert_eq!(out, plain, "a memory changes what is sent");
    }
}

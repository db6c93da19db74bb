use proptest::prelude::*;

use super::static_table::Found;
use super::*;
use crate::h3::{ErrorCode, H3Error};
use crate::http::{Fields, PseudoName, RequestHead, ResponseHead};

const LIMITS: Limits = Limits::DEFAULT;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
}

/// A section of lines written by hand: literals without Huffman code, names as they are.
fn section(lines: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = vec![0, 0];
    for (name, value) in lines {
        integer::write(&mut out, 0b0010_0000, 3, name.len());
        out.extend_from_slice(name.as_bytes());
        integer::write(&mut out, 0, 7, value.len());
        out.extend_from_slice(value);
    }
    out
}

#[test]
fn the_pseudo_headers_of_the_static_table_are_told_by_their_index() {
    for (index, (name, _)) in static_table::TABLE.iter().enumerate() {
        assert_eq!(static_table::pseudo(index as u64), PseudoName::of(name.as_bytes()), "{index}: {name}");
    }
    assert_eq!(static_table::pseudo(static_table::TABLE.len() as u64), None);
}

const GET: [(&str, &[u8]); 4] =
    [(":method", b"GET"), (":scheme", b"https"), (":authority", b"example.com"), (":path", b"/")];

fn request(extra: &[(&str, &[u8])]) -> Result<RequestHead, HeadError> {
    let mut lines = GET.to_vec();
    lines.extend_from_slice(extra);
    decode_request(&section(&lines), &LIMITS)
}

fn get_without(name: &str, extra: &[(&str, &[u8])]) -> Result<RequestHead, HeadError> {
    let mut lines: Vec<_> = GET.iter().copied().filter(|line| line.0 != name).collect();
    lines.extend_from_slice(extra);
    decode_request(&section(&lines), &LIMITS)
}

fn get_with(name: &'static str, value: &'static [u8]) -> Result<RequestHead, HeadError> {
    let lines = GET.map(|line| if line.0 == name { (name, value) } else { line });
    decode_request(&section(&lines), &LIMITS)
}

fn malformed<T>(why: Malformed) -> Result<T, HeadError> {
    Err(HeadError::Malformed(why))
}

fn fails_to_decompress(bytes: &[u8]) -> bool {
    matches!(decode_request(bytes, &LIMITS), Err(HeadError::Decompression(_)))
}

mod huffman_code {
    use super::*;

    /// RFC 7541 appendix C.4 and C.6.
    const EXAMPLES: [(&str, &str); 9] = [
        ("www.example.com", "f1e3 c2e5 f23a 6ba0 ab90 f4ff"),
        ("no-cache", "a8eb 1064 9cbf"),
        ("custom-key", "25a8 49e9 5ba9 7d7f"),
        ("custom-value", "25a8 49e9 5bb8 e8b4 bf"),
        ("302", "6402"),
        ("private", "aec3 771a 4b"),
        ("Mon, 21 Oct 2013 20:13:21 GMT", "d07a be94 1054 d444 a820 0595 040b 8166 e082 a62d 1bff"),
        ("https://www.example.com", "9d29 ad17 1863 c78f 0b97 c8e9 ae82 ae43 d3"),
        ("307", "640e ff"),
    ];

    fn decoded(code: &[u8]) -> Option<Vec<u8>> {
        let mut out = b"before".to_vec();
        huffman::decode(code, &mut out).ok()?;
        Some(out.split_off(b"before".len()))
    }

    fn encoded(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        huffman::encode(&mut out, text);
        out
    }

    #[test]
    fn matches_the_examples_of_the_rfc() {
        for (text, code) in EXAMPLES {
            assert_eq!(encoded(text.as_bytes()), hex(code), "{text}");
            assert_eq!(decoded(&hex(code)).as_deref(), Some(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn round_trips_every_byte_at_every_bit_position() {
        for byte in 0..=u8::MAX {
            for zeros in 0..16 {
                // '0' has five bits, so that sixteen of them pass every position within a byte.
                let text = [vec![b'0'; zeros], vec![byte; 3]].concat();
                assert_eq!(decoded(&encoded(&text)), Some(text));
            }
        }
    }

    #[test]
    fn refuses_padding_of_a_byte_or_more() {
        assert_eq!(decoded(&hex("6402")), Some(b"302".to_vec()));
        assert_eq!(decoded(&hex("6402 ff")), None);
        assert_eq!(decoded(&hex("ff")), None);
        assert_eq!(decoded(&hex("ffff ffff ffff")), None);
    }

    #[test]
    fn refuses_padding_that_is_not_ones() {
        // "0" is 00000; its padding would be 111.
        assert_eq!(decoded(&[0b0000_0111]), Some(b"0".to_vec()));
        for padding in 0..7 {
            assert_eq!(decoded(&[padding]), None, "{padding:03b}");
        }
    }

    #[test]
    fn refuses_end_of_string() {
        // Thirty ones behind "0" and before another "0", and at the end with its own padding.
        assert_eq!(decoded(&[0b0000_0111, 0xff, 0xff, 0xff, 0b1110_0000]), None);
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0b1111_1100, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn refuses_a_code_cut_short() {
        // '~' is 1111111111101 (13 bits): one byte of it is too long for padding.
        assert_eq!(decoded(&[0b1111_1111, 0b1110_1111]), Some(b"~".to_vec()));
        assert_eq!(decoded(&[0b1111_1111, 0b1110_0000]), None);
    }

    proptest! {
        #[test]
        fn round_trips(text in prop::collection::vec(any::<u8>(), 0..300)) {
            let code = encoded(&text);
            prop_assert_eq!(code.len(), huffman::encoded_len(&text));
            prop_assert_eq!(decoded(&code), Some(text));
        }

        #[test]
        fn whatever_decodes_is_the_code_of_what_it_decodes_to(code in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(text) = decoded(&code) {
                prop_assert_eq!(encoded(&text), code);
            }
        }
    }
}

mod integers {
    use super::*;
    use crate::qpack::integer::{IntegerError, read, write};

    #[test]
    fn match_the_examples_of_the_rfc() {
        // RFC 7541 appendix C.1.
        for (prefix_bits, value, bytes) in
            [(5, 10, vec![0x0a]), (5, 1337, vec![0x1f, 0x9a, 0x0a]), (8, 42, vec![0x2a])]
        {
            let mut out = Vec::new();
            write(&mut out, 0, prefix_bits, value);
            assert_eq!(out, bytes);
            assert_eq!(read(prefix_bits, &mut bytes.as_slice()), Ok(value as u64));
        }
    }

    #[test]
    fn over_62_bits_are_refused() {
        let largest = [0x7f, 0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f];
        assert_eq!(
            read(7, &mut [0x7f].iter().chain(&[0xff; 12]).copied().collect::<Vec<_>>().as_slice()),
            Err(IntegerError::TooLarge)
        );
        assert_eq!(read(7, &mut largest.as_slice()), Ok((1 << 62) - 1));
        assert_eq!(
            read(7, &mut [0x7f, 0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f].as_slice()),
            Err(IntegerError::TooLarge)
        );
    }

    #[test]
    fn spun_out_with_zeros_are_refused() {
        let endless = [vec![0x7f], vec![0x80; 40], vec![0]].concat();
        assert_eq!(read(7, &mut endless.as_slice()), Err(IntegerError::TooLarge));
    }

    #[test]
    fn cut_short_are_refused() {
        assert_eq!(read(7, &mut [].as_slice()), Err(IntegerError::CutShort));
        assert_eq!(read(7, &mut [0x7f, 0x80].as_slice()), Err(IntegerError::CutShort));
    }

    proptest! {
        #[test]
        fn round_trip(value in any::<u32>(), prefix_bits in 1u32..=8, rest in prop::collection::vec(any::<u8>(), 0..4)) {
            let mut out = Vec::new();
            write(&mut out, 0, prefix_bits, value as usize);
            out.extend_from_slice(&rest);
            let mut input = out.as_slice();
            prop_assert_eq!(read(prefix_bits, &mut input), Ok(u64::from(value)));
            prop_assert_eq!(input, rest.as_slice());
        }
    }
}

mod static_lines {
    use super::*;

    #[test]
    fn are_found_by_name_and_value() {
        for (index, (name, value)) in static_table::TABLE.iter().enumerate() {
            assert_eq!(
                static_table::find(name.as_bytes(), value.as_bytes()),
                Some(Found::Line(index)),
                "{name}"
            );
        }
    }

    #[test]
    fn are_found_by_name_alone() {
        for (name, _) in &static_table::TABLE {
            let Some(Found::Name(index)) = static_table::find(name.as_bytes(), b"no such value") else {
                panic!("{name} is not found");
            };
            assert_eq!(static_table::TABLE[index].0, *name);
        }
        assert_eq!(static_table::find(b"x-unknown", b""), None);
        assert_eq!(static_table::find(b"", b""), None);
    }

    #[test]
    fn are_where_the_rfc_has_them() {
        for (index, line) in [
            (0, (":authority", "")),
            (17, (":method", "GET")),
            (25, (":status", "200")),
            (46, ("content-type", "application/json")),
            (63, (":status", "100")),
            (84, ("authorization", "")),
            (98, ("x-frame-options", "sameorigin")),
        ] {
            assert_eq!(static_table::get(index), Some(line));
        }
        assert_eq!(static_table::get(99), None);
    }
}

mod decoding {
    use super::*;

    #[test]
    fn matches_the_example_of_the_rfc() {
        // RFC 9204 appendix B.1: a literal field line with a name reference, ":path" "/index.html".
        let line = hex("510b 2f69 6e64 6578 2e68 746d 6c");
        let bytes = [section(&GET[..3]), line].concat();
        let head = decode_request(&bytes, &LIMITS).unwrap();
        assert_eq!(head.path(), "/index.html");
    }

    #[test]
    fn indexed_static_lines_make_a_request() {
        // GET, https, /, and a literal authority.
        let bytes = [hex("0000 d1 d7 c1 50 0b"), b"example.com".to_vec()].concat();
        let head = decode_request(&bytes, &LIMITS).unwrap();
        assert_eq!(
            (head.method_str(), head.scheme(), head.authority(), head.path()),
            ("GET", "https", Some("example.com"), "/")
        );
    }

    #[test]
    fn references_to_the_dynamic_table_fail() {
        // RFC 9204 appendix B.2 to B.5 have sections with a required insert count.
        assert!(fails_to_decompress(&hex("0381 10 11")));
        assert!(fails_to_decompress(&hex("0500 80 c1 81")));
        // Indexed, name reference, post-base index, post-base name reference, with a required insert count
        // of 0.
        for line in ["80", "4000", "10", "0000"] {
            assert!(fails_to_decompress(&[hex("0000"), hex(line)].concat()), "{line}");
        }
    }

    #[test]
    fn a_negative_base_fails() {
        assert!(fails_to_decompress(&hex("0080 d1")));
    }

    #[test]
    fn a_base_above_the_insert_count_is_of_no_consequence() {
        let mut bytes = section(&GET);
        bytes[1] = 5;
        assert!(decode_request(&bytes, &LIMITS).is_ok());
    }

    #[test]
    fn a_static_index_past_the_end_fails() {
        // Index 98 is the last: 63 + 35.
        assert!(!fails_to_decompress(&hex("0000 ff23")));
        assert!(fails_to_decompress(&hex("0000 ff24")));
        assert!(fails_to_decompress(&hex("0000 5f54 00")));
    }

    #[test]
    fn a_section_cut_anywhere_never_makes_the_same_request() {
        let mut bytes = Vec::new();
        let whole = RequestHead::build("POST", "/a?b", "example.com").with("x-name", "value");
        encode_request(&mut bytes, &whole);
        for end in 0..bytes.len() {
            assert_ne!(decode_request(&bytes[..end], &LIMITS).ok(), Some(whole.clone()), "cut at {end}");
        }
        assert!(fails_to_decompress(&[]));
        assert!(fails_to_decompress(&[0]));
        assert!(fails_to_decompress(&bytes[..bytes.len() - 1]));
    }

    #[test]
    fn invalid_huffman_code_fails() {
        assert!(fails_to_decompress(&hex("0000 51 81 ff")));
    }

    #[test]
    fn decompression_failure_ends_the_connection_malformed_the_stream() {
        let failed = decode_request(&hex("0000 80"), &LIMITS).unwrap_err();
        assert!(matches!(
            failed.h3_error(),
            H3Error::Connection { code: ErrorCode::QPACK_DECOMPRESSION_FAILED, .. }
        ));
        let malformed = request(&[("A", b"")]).unwrap_err();
        assert!(matches!(malformed.h3_error(), H3Error::Stream { code: ErrorCode::H3_MESSAGE_ERROR, .. }));
    }
}

mod limits {
    use super::*;

    #[test]
    fn an_encoded_section_over_the_limit_is_too_large() {
        let bytes = vec![0; LIMITS.encoded_bytes_max + 1];
        assert_eq!(decode_request(&bytes, &LIMITS), Err(HeadError::TooLarge(TooLarge::Encoded)));
    }

    #[test]
    fn a_decoded_section_over_the_limit_is_too_large() {
        let used: usize = GET.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
        let room = LIMITS.decoded_bytes_max - used - 32 - 1;
        let unbounded = Limits { encoded_bytes_max: usize::MAX, ..LIMITS };
        let decode = |value: Vec<u8>| {
            let mut lines = GET.to_vec();
            lines.push(("a", &value));
            decode_request(&section(&lines), &unbounded)
        };
        assert!(decode(vec![b'a'; room]).is_ok());
        assert_eq!(decode(vec![b'a'; room + 1]), Err(HeadError::TooLarge(TooLarge::Decoded)));
    }

    #[test]
    fn one_byte_lines_cannot_blow_a_section_up() {
        // Index 85 (content-security-policy) takes two bytes and stands for 76.
        let bytes = [section(&GET), hex("ff16").repeat(5000)].concat();
        let error = decode_request(&bytes, &LIMITS).unwrap_err();
        assert_eq!(error, HeadError::TooLarge(TooLarge::Fields));
        assert_eq!(error.status(), Some(431));
    }

    #[test]
    fn the_128th_field_fits_and_the_next_does_not() {
        let lines = |count: usize| [GET.to_vec(), vec![("a", b"".as_slice()); count]].concat();
        assert!(decode_request(&section(&lines(124)), &LIMITS).is_ok());
        assert_eq!(
            decode_request(&section(&lines(125)), &LIMITS),
            Err(HeadError::TooLarge(TooLarge::Fields))
        );
    }
}

mod request_rules {
    use super::*;

    #[test]
    fn a_pseudo_header_after_a_field_is_malformed() {
        let lines: [(&str, &[u8]); 5] = [GET[0], GET[1], GET[2], ("a", b"b"), GET[3]];
        assert_eq!(decode_request(&section(&lines), &LIMITS), malformed(Malformed::PseudoAfterField));
    }

    #[test]
    fn a_pseudo_header_twice_is_malformed() {
        for (name, value) in GET {
            assert_eq!(request(&[(name, value)]), malformed(Malformed::PseudoTwice), "{name}");
        }
    }

    #[test]
    fn an_unknown_pseudo_header_is_malformed() {
        for name in [":protocol", ":status", ":", ":Path"] {
            assert_eq!(request(&[(name, b"200")]), malformed(Malformed::PseudoUnknown), "{name}");
        }
    }

    #[test]
    fn a_missing_pseudo_header_is_malformed() {
        for name in [":method", ":scheme", ":path"] {
            assert_eq!(get_without(name, &[]), malformed(Malformed::PseudoMissing), "{name}");
        }
    }

    #[test]
    fn a_method_that_is_no_token_is_malformed() {
        assert_eq!(get_with(":method", b""), malformed(Malformed::Method));
        assert_eq!(get_with(":method", b"GE T"), malformed(Malformed::Method));
    }

    #[test]
    fn a_scheme_that_is_none_is_malformed() {
        for scheme in [b"".as_slice(), b"1http", b"ht tp"] {
            assert_eq!(get_with(":scheme", scheme), malformed(Malformed::Scheme));
        }
    }

    #[test]
    fn a_path_that_is_not_absolute_is_malformed() {
        for path in [b"".as_slice(), b"a", b"*", b"/a b", b"/a#b", b"/\x01", b"/\xc3\xa4", b"?a"] {
            assert_eq!(get_with(":path", path), malformed(Malformed::Path), "{path:?}");
        }
    }

    #[test]
    fn options_may_ask_for_the_server_as_a_whole() {
        let lines: [(&str, &[u8]); 4] = [(":method", b"OPTIONS"), GET[1], GET[2], (":path", b"*")];
        assert_eq!(decode_request(&section(&lines), &LIMITS).unwrap().path(), "*");
    }

    #[test]
    fn connect_is_told_apart_from_malformed() {
        let lines: [(&str, &[u8]); 2] = [(":method", b"CONNECT"), (":authority", b"example.com:443")];
        let error = decode_request(&section(&lines), &LIMITS).unwrap_err();
        assert_eq!(error, HeadError::ConnectUnsupported);
        assert_eq!(error.status(), Some(501));
        // RFC 9114 section 4.4: with scheme or path, or without authority, it is no CONNECT; and the
        // extended one (RFC 9220) is not offered.
        for extra in [(":scheme", b"https".as_slice()), (":path", b"/"), (":protocol", b"websocket")] {
            let lines = [lines[0], lines[1], extra];
            let result = decode_request(&section(&lines), &LIMITS);
            assert_eq!(result, malformed(Malformed::PseudoUnknown), "{}", extra.0);
        }
        assert_eq!(decode_request(&section(&lines[..1]), &LIMITS), malformed(Malformed::PseudoMissing));
    }

    #[test]
    fn crumbs_of_a_cookie_become_one_field() {
        let crumbs = [("cookie", b"a=1".as_slice()), ("x", b"y"), ("cookie", b"b=2"), ("cookie", b"c")];
        let head = request(&crumbs).unwrap();
        assert_eq!(head.headers().collect::<Vec<_>>(), [("cookie", "a=1; b=2; c"), ("x", "y")]);
        assert_eq!((head.authority(), head.path()), (Some("example.com"), "/"));
        let moved = [("cookie", b"a=1".as_slice()), ("cookie", b"b=2"), ("host", b"example.org"), ("z", b"")];
        let head = get_without(":authority", &moved).unwrap();
        assert_eq!((head.authority(), head.header("host")), (Some("example.org"), Some("example.org")));
        assert_eq!(head.header("cookie"), Some("a=1; b=2"));
    }

    #[test]
    fn host_stands_in_for_authority() {
        let head = get_without(":authority", &[("host", b"example.org")]).unwrap();
        assert_eq!(head.authority(), Some("example.org"));
        assert_eq!(get_without(":authority", &[]), malformed(Malformed::Authority));
        assert_eq!(get_without(":authority", &[("host", b"")]), malformed(Malformed::Authority));
    }

    #[test]
    fn host_must_agree_with_authority_and_come_once() {
        assert!(request(&[("host", b"example.com")]).is_ok());
        assert_eq!(request(&[("host", b"example.org")]), malformed(Malformed::HostMismatch));
        let twice = [("host", b"example.com".as_slice()); 2];
        assert_eq!(request(&twice), malformed(Malformed::HostMismatch));
    }

    #[test]
    fn an_authority_with_user_information_is_malformed() {
        for authority in [b"".as_slice(), b"me@example.com", b"example.com/", b"a b"] {
            assert_eq!(get_with(":authority", authority), malformed(Malformed::Authority));
        }
    }

    #[test]
    fn a_name_that_is_no_lower_case_token_is_malformed() {
        for name in ["", "Accept", "a b", "a:b", "a\r\n", "\u{e4}"] {
            assert_eq!(request(&[(name, b"")]), malformed(Malformed::Name), "{name:?}");
        }
    }

    #[test]
    fn a_value_with_a_control_character_is_malformed() {
        for value in
            [b"a\rb".as_slice(), b"a\nb", b"a\0b", b"\x7f", b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x1f"]
        {
            assert_eq!(request(&[("a", value)]), malformed(Malformed::Value), "{value:?}");
        }
    }

    #[test]
    fn a_value_with_a_control_character_in_huffman_code_is_malformed() {
        let mut bytes = section(&GET);
        integer::write(&mut bytes, 0b0101_0000, 4, 84);
        let value = b"Bearer \n";
        integer::write(&mut bytes, 0x80, 7, huffman::encoded_len(value));
        huffman::encode(&mut bytes, value);
        assert_eq!(decode_request(&bytes, &LIMITS), malformed(Malformed::Value));
    }

    #[test]
    fn tabs_and_bytes_over_127_are_values() {
        let head = request(&[("a", b"b\tc"), ("d", b"\xe4"), ("e", "\u{e4}".as_bytes())]).unwrap();
        assert_eq!(head.header("a"), Some("b\tc"));
        assert_eq!(head.header("d"), None);
        assert_eq!(head.fields().get_bytes("d"), Some(b"\xe4".as_slice()));
        assert_eq!(head.header("e"), Some("\u{e4}"));
        assert_eq!(head.headers().count(), 2);
        assert_eq!(head.fields().iter_bytes().count(), 3);
    }

    #[test]
    fn white_space_around_a_value_is_dropped() {
        let head = request(&[("a", b" \tb c\t "), ("d", b"  "), ("e", b"f")]).unwrap();
        assert_eq!(head.headers().collect::<Vec<_>>(), [("a", "b c"), ("d", ""), ("e", "f")]);
    }

    #[test]
    fn connection_specific_fields_are_malformed() {
        for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
            assert_eq!(request(&[(name, b"x")]), malformed(Malformed::ConnectionSpecific), "{name}");
        }
    }

    #[test]
    fn te_may_only_say_trailers() {
        assert!(request(&[("te", b"trailers")]).is_ok());
        assert_eq!(request(&[("te", b"gzip")]), malformed(Malformed::Te));
        assert_eq!(request(&[("te", b"trailers, gzip")]), malformed(Malformed::Te));
        // And only in a request's head.
        let lines = section(&[("te", b"trailers")]);
        assert_eq!(decode_trailers(&lines, &LIMITS), malformed(Malformed::Te));
        let lines = section(&[(":status", b"200"), ("te", b"trailers")]);
        assert_eq!(decode_response(&lines, &LIMITS), malformed(Malformed::Te));
    }

    #[test]
    fn content_length_is_a_decimal_number_that_comes_once() {
        let length = |value: &[u8]| request(&[("content-length", value)]).map(|head| head.content_length());
        assert_eq!(length(b"0"), Ok(Some(0)));
        assert_eq!(length(b"18446744073709551615"), Ok(Some(u64::MAX)));
        for bad in [b"".as_slice(), b"+1", b"-1", b"1,1", b"0x1", b"18446744073709551616", b"1 1"] {
            assert_eq!(length(bad), malformed(Malformed::ContentLength), "{bad:?}");
        }
        let twice = [("content-length", b"1".as_slice()); 2];
        assert_eq!(request(&twice), malformed(Malformed::ContentLength));
    }
}

mod responses {
    use super::*;

    fn response(lines: &[(&str, &[u8])]) -> Result<ResponseHead, HeadError> {
        decode_response(&section(lines), &LIMITS)
    }

    #[test]
    fn need_exactly_one_status() {
        assert_eq!(response(&[(":status", b"404")]).unwrap().status(), 404);
        assert_eq!(response(&[("a", b"b")]), malformed(Malformed::PseudoMissing));
        assert_eq!(response(&[(":status", b"200".as_slice()); 2]), malformed(Malformed::PseudoTwice));
        assert_eq!(response(&[("a", b"b"), (":status", b"200")]), malformed(Malformed::PseudoAfterField));
        assert_eq!(response(&[(":path", b"/")]), malformed(Malformed::PseudoUnknown));
    }

    #[test]
    fn need_a_valid_status() {
        for status in [b"".as_slice(), b"20", b"2000", b"099", b"abc", b"101"] {
            assert_eq!(response(&[(":status", status)]), malformed(Malformed::Status), "{status:?}");
        }
    }

    #[test]
    fn are_interim_below_200() {
        assert!(response(&[(":status", b"103")]).unwrap().is_interim());
        assert!(!response(&[(":status", b"200")]).unwrap().is_interim());
    }

    #[test]
    fn encode_to_static_lines_where_there_are_some() {
        let mut out = Vec::new();
        encode_response(&mut out, 200, [("content-type", "application/json")]).unwrap();
        assert_eq!(out, hex("0000 d9 ee"));
    }

    #[test]
    fn do_not_use_huffman_code_where_it_is_longer() {
        let mut out = Vec::new();
        encode_response(&mut out, 200, [("content-length", "{}")]).unwrap();
        assert_eq!(out, [hex("0000 d9 54 02"), b"{}".to_vec()].concat());
    }

    /// Found by fuzzing: heads were compared by where their parts lay in memory.
    #[test]
    fn heads_are_equal_in_whatever_order_their_pseudo_headers_came() {
        let decode = |lines: &str| {
            decode_request(&[hex("0000"), hex(lines), hex("5001"), b"a".to_vec()].concat(), &LIMITS).unwrap()
        };
        let (usual, swapped) = (decode("d1 d7 c1"), decode("d7 c1 d1"));
        assert_eq!(usual, swapped);
        assert_ne!(usual, decode("d4 d7 c1"));
        assert_ne!(usual, usual.clone().with("x", "1"));
        assert_ne!(usual.clone().with("x", "1"), usual.with("x", "2"));
    }

    /// Found by fuzzing: the decoder takes it off, so a value came back unlike it went in.
    #[test]
    fn white_space_around_a_value_is_not_encoded() {
        for value in [" /\t", "\t /", "/ "] {
            let mut out = Vec::new();
            encode_response(&mut out, 200, [("location", value), ("x-empty", " \t")]).unwrap();
            let mut plain = Vec::new();
            encode_response(&mut plain, 200, [("location", "/"), ("x-empty", "")]).unwrap();
            assert_eq!(out, plain);
        }
    }

    #[test]
    fn with_invalid_parts_are_not_encoded() {
        let mut out = b"before".to_vec();
        for status in [0, 99, 101, 1000] {
            assert_eq!(encode_response(&mut out, status, []), Err(EncodeError::Status(status)));
        }
        assert_eq!(encode_response(&mut out, 200, [("a", "b"), ("A", "b")]), Err(EncodeError::Name));
        assert_eq!(encode_response(&mut out, 200, [(":path", "/")]), Err(EncodeError::Name));
        assert_eq!(encode_response(&mut out, 200, [("location", "/\r\na: b")]), Err(EncodeError::Value));
        for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te"] {
            let encoded = encode_response(&mut out, 200, [("a", "b"), (name, "x")]);
            assert_eq!(encoded, Err(EncodeError::ConnectionSpecific), "{name}");
        }
        assert_eq!(out, b"before");
    }

    #[test]
    fn round_trip_every_status() {
        for status in (100..=999).filter(|status| *status != 101) {
            let mut out = Vec::new();
            encode_response(&mut out, status, []).unwrap();
            assert_eq!(decode_response(&out, &LIMITS).unwrap().status(), status);
        }
    }
}

mod trailer_rules {
    use super::*;

    #[test]
    fn trailers_hold_no_pseudo_header() {
        let bytes = section(&[(":status", b"200")]);
        assert_eq!(decode_trailers(&bytes, &LIMITS), malformed(Malformed::PseudoUnknown));
    }

    #[test]
    fn trailers_are_held_to_the_rules_of_fields() {
        for (name, why) in [("Sum", Malformed::Name), ("upgrade", Malformed::ConnectionSpecific)] {
            assert_eq!(decode_trailers(&section(&[(name, b"1")]), &LIMITS), malformed(why), "{name}");
        }
        assert_eq!(decode_trailers(&section(&[("a", b"\0")]), &LIMITS), malformed(Malformed::Value));
    }

    #[test]
    fn trailers_round_trip() {
        let mut out = Vec::new();
        encode_trailers(&mut out, [("server-timing", "total;dur=1")]).unwrap();
        let fields: Fields = decode_trailers(&out, &LIMITS).unwrap();
        assert_eq!(fields.iter().collect::<Vec<_>>(), [("server-timing", "total;dur=1")]);
    }
}

mod instruction_streams {
    use super::*;

    fn code(result: Result<(), H3Error>) -> Option<ErrorCode> {
        match result {
            Ok(()) => None,
            Err(H3Error::Connection { code, .. }) => Some(code),
            Err(other) => panic!("{other} does not concern the connection"),
        }
    }

    #[test]
    fn an_encoder_may_set_the_capacity_to_0_only() {
        assert_eq!(code(EncoderStream::default().feed(&[0x20, 0x20])), None);
        // Capacity 1 and 220, insert with name reference, insert with literal name, duplicate.
        for instruction in ["21", "3fbd01", "c00f", "4a63", "02"] {
            let result = EncoderStream::default().feed(&hex(instruction));
            assert_eq!(code(result), Some(ErrorCode::QPACK_ENCODER_STREAM_ERROR), "{instruction}");
        }
    }

    #[test]
    fn a_decoder_may_cancel_streams() {
        let mut stream = DecoderStream::default();
        // RFC 9204 appendix B.4 cancels stream 8; then one with a long identifier, byte by byte; then
        // stream 4.
        assert_eq!(code(stream.feed(&hex("48"))), None);
        for byte in hex("7f 80 ff 7f") {
            assert_eq!(code(stream.feed(&[byte])), None);
        }
        assert_eq!(code(stream.feed(&hex("44"))), None);
    }

    #[test]
    fn a_decoder_may_not_acknowledge_or_count() {
        // Acknowledgments of streams 4 and 127, increments by 1, 0 and 63.
        for instruction in ["84", "ff00", "01", "00", "3f00"] {
            let result = DecoderStream::default().feed(&hex(instruction));
            assert_eq!(code(result), Some(ErrorCode::QPACK_DECODER_STREAM_ERROR), "{instruction}");
        }
    }

    #[test]
    fn a_decoder_may_not_spin_an_identifier_out() {
        let result = DecoderStream::default().feed(&[vec![0x7f], vec![0x80; 16]].concat());
        assert_eq!(code(result), Some(ErrorCode::QPACK_DECODER_STREAM_ERROR));
    }
}

fn field_name() -> impl Strategy<Value = String> {
    let known =
        prop::sample::select(vec!["accept", "authorization", "content-type", "user-agent", "x-request-id"]);
    prop_oneof![known.prop_map(str::to_owned), "x-[a-z0-9_-]{0,20}"]
}

fn field_value() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{0,40}", "[A-Za-z0-9_-]{200,400}", "\\PC{0,20}", Just("*/*".to_owned())]
        .prop_map(|value| value.trim().to_owned())
}

fn field_lines() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec((field_name(), field_value()), 0..20)
}

proptest! {
    #[test]
    fn requests_round_trip(
        method in "[A-Z]{1,8}",
        target in "/[a-zA-Z0-9/._-]{0,30}(\\?[a-z=&%0-9?]{0,30})?",
        authority in "[a-z0-9.-]{1,30}(:[0-9]{1,5})?",
        lines in field_lines(),
    ) {
        prop_assume!(method != "CONNECT");
        let head = lines.iter().fold(RequestHead::build(&method, &target, &authority), |head, (name, value)| {
            head.with(name, value)
        });
        let mut bytes = b"before".to_vec();
        encode_request(&mut bytes, &head);
        let decoded = decode_request(&bytes[6..], &LIMITS).unwrap();
        prop_assert_eq!(decoded.method_str(), method);
        prop_assert_eq!(decoded.path_and_query(), &target);
        prop_assert_eq!(decoded.authority(), Some(authority.as_str()));
        prop_assert_eq!(decoded.path(), target.split('?').next().unwrap());
        prop_assert_eq!(decoded.query(), target.split_once('?').map(|(_, query)| query));
        let expected: Vec<_> = lines.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        prop_assert_eq!(decoded.headers().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn responses_round_trip(status in 200u16..=599, lines in field_lines()) {
        let expected: Vec<_> = lines.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut bytes = Vec::new();
        encode_response(&mut bytes, status, expected.iter().copied()).unwrap();
        let head = decode_response(&bytes, &LIMITS).unwrap();
        prop_assert_eq!(head.status(), status);
        prop_assert_eq!(head.headers().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn arbitrary_sections_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = decode_request(&bytes, &LIMITS);
        let _ = decode_response(&bytes, &LIMITS);
        let _ = decode_trailers(&bytes, &LIMITS);
    }

    /// Arbitrary bytes seldom get past the prefix: damage a good section instead.
    #[test]
    fn damaged_sections_never_panic_and_never_break_the_rules(
        lines in field_lines(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let head = lines.iter().fold(RequestHead::build("GET", "/", "a"), |head, (name, value)| head.with(name, value));
        let mut bytes = Vec::new();
        encode_request(&mut bytes, &head);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(head) = decode_request(&bytes, &LIMITS) {
            prop_assert!(head.path().starts_with('/') || head.path() == "*");
            for (name, value) in head.fields().iter_bytes() {
                prop_assert!(!name.is_empty() && !name.starts_with(':') && name == name.to_ascii_lowercase());
                prop_assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
            }
        }
    }
}

//! The dynamic table at both ends.

use proptest::prelude::*;

use super::*;
use crate::h3::{ErrorCode, H3Error};
use crate::http::RequestHead;

const LIMITS: Limits = Limits::DEFAULT;
const CAPACITY: usize = 4096;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
}

fn decoder(instructions: &str) -> Decoder {
    let mut decoder = Decoder::new(CAPACITY);
    decoder.feed(&hex(instructions)).unwrap();
    decoder
}

/// A good request: this prefix, `:method: GET`, `:scheme: https`, and these lines.
fn request(decoder: &mut Decoder, prefix: &str, lines: &str) -> Result<Decoded<RequestHead>, HeadError> {
    decoder.decode_request(&hex(&format!("{prefix} d1 d7 {lines}")), &LIMITS)
}

fn refused(decoder: &mut Decoder, prefix: &str, lines: &str) -> bool {
    matches!(request(decoder, prefix, lines), Err(HeadError::Decompression(_)))
}

/// The code of an error that concerns the connection.
fn code(result: Result<(), H3Error>) -> Option<ErrorCode> {
    match result {
        Ok(()) => None,
        Err(H3Error::Connection { code, .. }) => Some(code),
        Err(other) => panic!("{other} does not concern the connection"),
    }
}

fn feed_code(decoder: &mut Decoder, instructions: &str) -> Option<ErrorCode> {
    code(decoder.feed(&hex(instructions)))
}

const ENCODER_ERROR: Option<ErrorCode> = Some(ErrorCode::QPACK_ENCODER_STREAM_ERROR);

/// RFC 9204 appendix B.2: capacity 220, `:authority: www.example.com`, `:path: /sample/path`.
const B2: &str = "3fbd01 c00f7777772e6578616d706c652e636f6d c10c2f73616d706c652f70617468";
/// B.3: `custom-key: custom-value`.
const B3: &str = "4a637573746f6d2d6b65790c637573746f6d2d76616c7565";
/// B.4: duplicate of relative index 2.
const B4: &str = "02";
/// B.5: `custom-value2` under the name at relative index 1, for which the oldest line goes.
const B5: &str = "810d637573746f6d2d76616c756532";

mod examples_of_the_rfc {
    use super::*;

    #[test]
    fn b2_dynamic_table() {
        let mut decoder = decoder(B2);
        let decoded = request(&mut decoder, "0381", "10 11").unwrap();
        assert_eq!(decoded.head.authority(), Some("www.example.com"));
        assert_eq!(decoded.head.path(), "/sample/path");
        assert!(decoded.refers_to_table);
        let mut out = Vec::new();
        decoder.write_section_acknowledgment(&mut out, 4);
        decoder.write_insert_count_increment(&mut out);
        assert_eq!(out, hex("84"), "the acknowledgment says that both inserts arrived");
    }

    #[test]
    fn b3_speculative_insert() {
        let mut decoder = decoder(B2);
        request(&mut decoder, "0381", "10 11").unwrap();
        decoder.feed(&hex(B3)).unwrap();
        let mut out = Vec::new();
        decoder.write_insert_count_increment(&mut out);
        decoder.write_insert_count_increment(&mut out);
        assert_eq!(out, hex("01"));
    }

    #[test]
    fn b4_duplicate_and_stream_cancellation() {
        let mut decoder = decoder(&[B2, B3, B4].concat());
        let decoded = request(&mut decoder, "0500", "80 c1 81").unwrap();
        assert_eq!(decoded.head.authority(), Some("www.example.com"));
        assert_eq!(decoded.head.path(), "/");
        assert_eq!(decoded.head.header("custom-key"), Some("custom-value"));
        let mut out = Vec::new();
        decoder.write_stream_cancellation(&mut out, 8);
        assert_eq!(out, hex("48"));
    }

    #[test]
    fn b5_insert_and_eviction() {
        let mut decoder = decoder(&[B2, B3, B4, B5].concat());
        // Required Insert Count 5, base 5: 80 is the newest, 83 the oldest that is left.
        let decoded = request(&mut decoder, "0600", "81 83 80 82").unwrap();
        assert_eq!(decoded.head.authority(), Some("www.example.com"));
        assert_eq!(decoded.head.path(), "/sample/path");
        let fields: Vec<_> = decoded.head.headers().collect();
        assert_eq!(fields, [("custom-key", "custom-value2"), ("custom-key", "custom-value")]);
        assert!(refused(&mut decoder, "0600", "84 c1"), "the first line is gone");
    }
}

mod sections {
    use super::*;

    #[test]
    fn without_references_need_no_acknowledgment() {
        let mut decoder = decoder(B2);
        let decoded = request(&mut decoder, "0000", "c1 500161").unwrap();
        assert!(!decoded.refers_to_table);
        assert_eq!(decoded.head.authority(), Some("a"));
    }

    #[test]
    fn take_names_from_the_table_in_both_ways() {
        let mut decoder = decoder(&[B2, B3].concat());
        // Base 2 under a count of 3: 40 is relative index 0 (:path), 00 post-base index 0 (custom-key).
        let decoded = request(&mut decoder, "0480", "81 40022f61 000162 080163 60022f62").err();
        assert_eq!(decoded, Some(HeadError::Malformed(Malformed::PseudoAfterField)));
        let decoded = request(&mut decoder, "0480", "81 40022f61 000162 080163").unwrap();
        assert_eq!(decoded.head.path(), "/a");
        let fields: Vec<_> = decoded.head.headers().collect();
        assert_eq!(fields, [("custom-key", "b"), ("custom-key", "c")]);
    }

    #[test]
    fn refer_to_nothing_at_or_above_their_required_insert_count() {
        let mut decoder = decoder(&[B2, B3].concat());
        assert!(request(&mut decoder, "0381", "10 11").is_ok());
        // Count 2, base 0: post-base index 2 is line 2, which has arrived but was not declared.
        assert!(refused(&mut decoder, "0381", "10 11 12"));
        assert!(refused(&mut decoder, "0381", "10 11 020161"));
        // Count 2, base 3: relative index 0 is line 2.
        assert!(refused(&mut decoder, "0301", "82 81 80"));
        // Count 0.
        for line in ["80", "10", "400161", "000161"] {
            assert!(refused(&mut decoder, "0000", &format!("c1 500161 {line}")), "{line}");
        }
    }

    #[test]
    fn refer_to_nothing_below_index_0_or_far_beyond() {
        let mut decoder = decoder(B2);
        assert!(refused(&mut decoder, "0300", "82"));
        assert!(refused(&mut decoder, "0300", "bf ff ff ff ff ff ff ff 3f"));
        assert!(refused(&mut decoder, "0300", "1f ff ff ff ff ff ff ff 3f"));
        // A base of 2 + 2^62 - 1, from where only post-base indices could lead further.
        assert!(refused(&mut decoder, "03 7f 80 ff ff ff ff ff ff ff 3f", "1f f0 ff ff ff ff ff ff 3f"));
    }

    #[test]
    fn with_a_negative_base_are_refused() {
        let mut decoder = decoder(B2);
        assert!(refused(&mut decoder, "0382", "10"));
        assert!(refused(&mut decoder, "03 ff 80 ff ff ff ff ff ff ff 3f", "10"));
        assert!(refused(&mut decoder, "0080", "c1 500161"));
    }

    #[test]
    fn that_need_inserts_which_have_not_arrived_are_refused() {
        assert!(refused(&mut decoder(""), "0200", "80"));
        assert!(refused(&mut decoder(B2), "0400", "80"));
        // Beyond twice the number of lines, 256, and with a table that may hold none.
        assert!(refused(&mut decoder(B2), "ff02", "80"));
        assert!(refused(&mut Decoder::new(0), "0100", "80"));
        assert!(refused(&mut Decoder::new(0), "0200", "80"));
    }

    #[test]
    fn with_an_encoded_count_that_means_0_are_refused() {
        // 1 encodes a multiple of 256; with two inserts that could only be 0.
        assert!(refused(&mut decoder(B2), "0100", "80"));
    }

    /// RFC 9204 section 4.5.1.1: the count goes around, and the decoder finds it from its own.
    #[test]
    fn find_their_required_insert_count_around_the_wrap() {
        let mut decoder = decoder("3fe11f");
        let mut inserted = 0u64;
        while inserted < 1000 {
            // a: n in four digits.
            decoder.feed(&[&[0x41, b'a', 4], format!("{inserted:04}").as_bytes()].concat()).unwrap();
            inserted += 1;
            // All lines that may be there: 4096 / (32 + 5) = 110.
            for required in [inserted, inserted.saturating_sub(109)] {
                if required == 0 {
                    continue;
                }
                let mut section = Vec::new();
                integer::write(&mut section, 0, 8, usize::try_from(required % 256 + 1).unwrap());
                section.extend(hex("00 d1 d7 c1 500161 80"));
                let decoded = decoder.decode_request(&section, &LIMITS).unwrap();
                assert_eq!(decoded.head.header("a"), Some(format!("{:04}", required - 1).as_str()));
            }
        }
    }

    #[test]
    fn obey_the_limits_of_heads() {
        // One line of 4000 bytes, which takes one byte to refer to.
        let value = vec![b'v'; 4000];
        let mut decoder = decoder("3fe11f");
        let mut insert = vec![0x41, b'a'];
        integer::write(&mut insert, 0, 7, value.len());
        insert.extend(value);
        decoder.feed(&insert).unwrap();
        assert!(request(&mut decoder, "0200", "c1 500161 80 80 80").is_ok());
        let error = request(&mut decoder, "0200", "c1 500161 80 80 80 80 80").unwrap_err();
        assert_eq!(error, HeadError::TooLarge(TooLarge::Decoded));
        let many = "80".repeat(20_000);
        assert_eq!(request(&mut decoder, "0200", &many).unwrap_err(), HeadError::TooLarge(TooLarge::Encoded));
    }

    #[test]
    fn obey_the_rules_of_messages() {
        // x: "a\nb", Connection: "", x: " a ", A: "".
        let mut decoder = decoder("3fe11f 417803610a62 4a636f6e6e656374696f6e00 417803206120 414100");
        let lines = |line: &str| format!("c1 500161 {line}");
        let malformed = |why| Some(HeadError::Malformed(why));
        let error = |decoder: &mut Decoder, line| request(decoder, "0500", &lines(line)).err();
        assert_eq!(error(&mut decoder, "83"), malformed(Malformed::Value));
        assert_eq!(error(&mut decoder, "82"), malformed(Malformed::ConnectionSpecific));
        assert_eq!(error(&mut decoder, "80"), malformed(Malformed::Name));
        let head = request(&mut decoder, "0500", &lines("81")).unwrap().head;
        assert_eq!(head.header("x"), Some("a"));
        // A value under a name from the table is checked as well.
        assert_eq!(error(&mut decoder, "41 03610a62"), malformed(Malformed::Value));
        // :path twice.
        let mut decoder = super::decoder(B2);
        let error = request(&mut decoder, "0300", "81 80 80").unwrap_err();
        assert_eq!(error, HeadError::Malformed(Malformed::PseudoTwice));
    }

    #[test]
    fn of_trailers_use_the_table_too() {
        let mut decoder = decoder(&[B2, B3].concat());
        let decoded = decoder.decode_trailers(&hex("0400 80"), &LIMITS).unwrap();
        assert!(decoded.refers_to_table);
        assert_eq!(decoded.head.get("custom-key"), Some("custom-value"));
        let error = decoder.decode_trailers(&hex("0400 81"), &LIMITS).unwrap_err();
        assert_eq!(error, HeadError::Malformed(Malformed::PseudoUnknown));
    }

    #[test]
    fn that_fail_are_not_acknowledged() {
        let mut decoder = decoder(B2);
        assert!(request(&mut decoder, "0381", "10 11 11").is_err());
        let mut out = Vec::new();
        decoder.write_insert_count_increment(&mut out);
        assert_eq!(out, hex("02"));
    }
}

mod instructions {
    use super::*;

    #[test]
    fn may_not_set_a_capacity_above_the_announced_one() {
        assert_eq!(feed_code(&mut Decoder::new(CAPACITY), "3fe11f"), None);
        assert_eq!(feed_code(&mut Decoder::new(CAPACITY), "3fe21f"), ENCODER_ERROR);
        assert_eq!(feed_code(&mut Decoder::new(CAPACITY), "3f e1 ff ff ff ff ff ff ff 3f"), ENCODER_ERROR);
        assert_eq!(feed_code(&mut Decoder::new(0), "20"), None);
        assert_eq!(feed_code(&mut Decoder::new(0), "21"), ENCODER_ERROR);
    }

    #[test]
    fn may_not_insert_before_there_is_capacity() {
        for insert in ["c00161", "41610162"] {
            assert_eq!(feed_code(&mut Decoder::new(CAPACITY), insert), ENCODER_ERROR, "{insert}");
        }
    }

    #[test]
    fn may_not_insert_what_is_larger_than_the_capacity() {
        // Capacity 36: a name of two bytes and a value of two, but not of three.
        assert_eq!(feed_code(&mut Decoder::new(CAPACITY), "3f05 426161 026262"), None);
        assert_eq!(feed_code(&mut Decoder::new(CAPACITY), "3f05 426161 03626262"), ENCODER_ERROR);
        // Name and value together, though each would fit, and at once: without waiting for the value.
        let mut long = hex("3fe11f");
        integer::write(&mut long, 0b0100_0000, 5, 3000);
        long.extend(vec![b'a'; 3000]);
        let mut decoder = Decoder::new(CAPACITY);
        assert_eq!(code(decoder.feed(&long)), None);
        assert_eq!(feed_code(&mut decoder, "7fa907"), None, "1064 bytes are left");
        let mut decoder = Decoder::new(CAPACITY);
        assert_eq!(code(decoder.feed(&long)), None);
        assert_eq!(feed_code(&mut decoder, "7faa07"), ENCODER_ERROR);
        assert_eq!(feed_code(&mut Decoder::new(CAPACITY), "3fe11f 5fe21f"), ENCODER_ERROR);
        assert_eq!(
            feed_code(&mut Decoder::new(CAPACITY), "3fe11f c0 7f 80 ff ff ff ff ff ff ff 3f"),
            ENCODER_ERROR
        );
    }

    #[test]
    fn may_not_refer_to_lines_that_are_not_there() {
        for instruction in ["00", "800161", "3fe11f 00", "3fe11f 800161", "3fe11f ff250161"] {
            assert_eq!(feed_code(&mut Decoder::new(CAPACITY), instruction), ENCODER_ERROR, "{instruction}");
        }
        // After B.5 four of five lines are left.
        let all = [B2, B3, B4, B5].concat();
        assert_eq!(feed_code(&mut decoder(&all), "03"), None);
        assert_eq!(feed_code(&mut decoder(&all), "04"), ENCODER_ERROR);
        assert_eq!(feed_code(&mut decoder(&all), "840161"), ENCODER_ERROR);
        assert_eq!(feed_code(&mut decoder(&all), "1f ff ff ff ff ff ff ff ff 3f"), ENCODER_ERROR);
    }

    #[test]
    fn may_not_hold_invalid_integers_or_huffman_code() {
        for instruction in
            ["3f 80 80 80 80 80 80 80 80 80 80", "1f ff ff ff ff ff ff ff ff ff", "c081ff", "6100 00"]
        {
            let mut decoder = decoder("3fe11f");
            assert_eq!(feed_code(&mut decoder, instruction), ENCODER_ERROR, "{instruction}");
        }
    }

    #[test]
    fn that_fail_leave_the_decoder_failed() {
        let mut decoder = decoder("3fe11f");
        assert_eq!(feed_code(&mut decoder, "00"), ENCODER_ERROR);
        assert_eq!(feed_code(&mut decoder, "3fe11f"), ENCODER_ERROR);
    }

    #[test]
    fn that_shrink_the_table_drop_the_oldest_lines() {
        let mut decoder = decoder(&[B2, B3].concat());
        // 160 bytes are in use; 54 are the newest line.
        decoder.feed(&hex("3f17")).unwrap();
        assert!(request(&mut decoder, "0400", "c1 500161 80").is_ok());
        assert!(refused(&mut decoder, "0400", "81 500161"));
        decoder.feed(&hex("20 3fbd01")).unwrap();
        assert!(refused(&mut decoder, "0400", "c1 500161 80"));
        decoder.feed(&hex(B3)).unwrap();
        assert!(request(&mut decoder, "0500", "c1 500161 80").is_ok(), "indices go on where they were");
    }

    #[test]
    fn may_refer_to_the_line_they_push_out() {
        // Capacity 36, a: 123, and then a name reference and a duplicate that need all of the room.
        let mut decoder = decoder("3f05 4161 03313233 80 03343536 00");
        let head = request(&mut decoder, "0400", "c1 500161 80").unwrap().head;
        assert_eq!(head.header("a"), Some("456"));
    }

    /// Bytes that come one by one neither pile up nor are parsed again and again: what is kept never holds
    /// more than one instruction.
    #[test]
    fn come_in_any_pieces() {
        let all = hex(&[B2, B3, B4, B5].concat());
        let mut whole = Decoder::new(CAPACITY);
        whole.feed(&all).unwrap();
        for size in 1..all.len() {
            let mut pieces = Decoder::new(CAPACITY);
            for piece in all.chunks(size) {
                pieces.feed(piece).unwrap();
            }
            assert_eq!(format!("{pieces:?}"), format!("{whole:?}"), "{size}");
        }
    }

    #[test]
    fn without_end_keep_the_table_within_its_capacity() {
        let mut decoder = decoder("3fe11f");
        let insert = [&hex("41617f8106")[..], &[b'v'; 896]].concat();
        for _ in 0..1000 {
            decoder.feed(&insert).unwrap();
            decoder.feed(&hex("00 00 00")).unwrap();
        }
        let mut out = Vec::new();
        decoder.write_insert_count_increment(&mut out);
        assert_eq!(out, hex("3f e1 1e"), "4000");
        // Four lines of 929 bytes fit: the count is 4000, 161 modulo 256.
        assert!(request(&mut decoder, "a100", "c1 500161 83").is_ok());
        assert!(refused(&mut decoder, "a100", "c1 500161 84"));
    }
}

mod our_encoder {
    use super::*;

    fn head() -> RequestHead {
        RequestHead::build("POST", "/v1/commands", "gateway.example")
            .with("authorization", &format!("Bearer {}", "t".repeat(300)))
            .with("x-client", "7")
            .with("content-length", "123")
    }

    /// Encodes and decodes; the length of the section.
    fn pass(encoder: &mut Encoder, decoder: &mut Decoder, stream_id: u64, head: &RequestHead) -> usize {
        let mut section = Vec::new();
        encoder.encode_request(&mut section, stream_id, head);
        let decoded = decoder.decode_request(&section, &LIMITS).unwrap();
        assert_eq!(decoded.head.fields(), head.fields());
        assert_eq!(decoded.head.authority(), head.authority());
        assert_eq!(decoded.head.path_and_query(), head.path_and_query());
        let mut answers = Vec::new();
        if decoded.refers_to_table {
            decoder.write_section_acknowledgment(&mut answers, stream_id);
        }
        encoder.feed(&answers).unwrap();
        section.len()
    }

    fn exchange_instructions(encoder: &mut Encoder, decoder: &mut Decoder) {
        decoder.feed(&std::mem::take(encoder.instructions())).unwrap();
        let mut answers = Vec::new();
        decoder.write_insert_count_increment(&mut answers);
        encoder.feed(&answers).unwrap();
    }

    #[test]
    fn makes_repeated_requests_short() {
        let (mut encoder, mut decoder) = (Encoder::new(4096), Decoder::new(CAPACITY));
        let first = pass(&mut encoder, &mut decoder, 0, &head());
        assert_eq!(pass(&mut encoder, &mut decoder, 4, &head()), first, "inserted with the second");
        exchange_instructions(&mut encoder, &mut decoder);
        let third = pass(&mut encoder, &mut decoder, 8, &head());
        // Prefix, method, scheme, authority, path, and three fields: a byte each.
        assert_eq!(third, 2 + 4 + 3);
        assert!(first > 200);
    }

    #[test]
    fn refers_to_nothing_that_is_not_acknowledged() {
        let (mut encoder, mut decoder) = (Encoder::new(4096), Decoder::new(CAPACITY));
        for stream in 0..20 {
            // The instructions never arrive; each section decodes all the same.
            pass(&mut encoder, &mut decoder, stream * 4, &head());
        }
        assert!(!decoder.is_in_use());
    }

    #[test]
    fn does_not_insert_what_changes_with_each_request() {
        let mut encoder = Encoder::new(4096);
        encoder.instructions().clear();
        for stream in 0..200 {
            let head = RequestHead::build("GET", &format!("/{stream}"), &format!("a{stream}.example"));
            encoder.encode_request(&mut Vec::new(), stream * 4, &head);
        }
        assert!(encoder.instructions().is_empty());
    }

    #[test]
    fn takes_names_of_its_own_from_the_table() {
        let (mut encoder, mut decoder) = (Encoder::new(4096), Decoder::new(CAPACITY));
        let head = |value: &str| RequestHead::build("GET", "/", "a").with("x-a-name-of-some-length", value);
        for stream in [0, 4] {
            pass(&mut encoder, &mut decoder, stream, &head("1"));
            exchange_instructions(&mut encoder, &mut decoder);
        }
        // Prefix, method, scheme, authority, path, and name index with a value of one byte.
        assert_eq!(pass(&mut encoder, &mut decoder, 8, &head("2")), 2 + 4 + 3);
        // A second line of that name is inserted by reference to it.
        pass(&mut encoder, &mut decoder, 12, &head("2"));
        assert_eq!(*encoder.instructions(), hex("80 01 32"));
    }

    #[test]
    fn never_drops_a_line() {
        let (mut encoder, mut decoder) = (Encoder::new(4096), Decoder::new(CAPACITY));
        for n in 0..100u64 {
            let head = RequestHead::build("GET", "/", "a").with("x", &format!("{n:0>200}"));
            for stream in [n * 8, n * 8 + 4] {
                pass(&mut encoder, &mut decoder, stream, &head);
                exchange_instructions(&mut encoder, &mut decoder);
            }
        }
        let first = RequestHead::build("GET", "/", "a").with("x", &format!("{:0>200}", 0));
        assert_eq!(pass(&mut encoder, &mut decoder, 4000, &first), 2 + 4 + 1);
    }

    #[test]
    fn does_without_where_the_peer_has_no_table() {
        for capacity in [0, 31, 32] {
            let (mut encoder, mut decoder) = (Encoder::new(capacity), Decoder::new(32));
            for stream in 0..4 {
                pass(&mut encoder, &mut decoder, stream * 4, &head());
            }
            assert!(encoder.instructions().is_empty(), "{capacity}");
        }
    }

    #[test]
    fn does_without_while_too_many_sections_are_not_acknowledged() {
        let (mut encoder, mut decoder) = (Encoder::new(4096), Decoder::new(CAPACITY));
        for stream in [0, 4] {
            pass(&mut encoder, &mut decoder, stream, &head());
            exchange_instructions(&mut encoder, &mut decoder);
        }
        let length = |encoder: &mut Encoder, stream| {
            let mut section = Vec::new();
            encoder.encode_request(&mut section, stream, &head());
            section.len()
        };
        for stream in 0..1024 {
            assert_eq!(length(&mut encoder, 8 + stream * 4), 9);
        }
        assert!(length(&mut encoder, 8000) > 200);
        // One is acknowledged, one cancelled.
        encoder.feed(&hex("88 4c")).unwrap();
        assert_eq!(length(&mut encoder, 8004), 9);
        assert_eq!(length(&mut encoder, 8008), 9);
        assert!(length(&mut encoder, 8012) > 200);
    }

    #[test]
    fn refuses_answers_to_what_was_not_sent() {
        // An acknowledgment, a count of 0, one above what was inserted, and an endless integer.
        for answer in ["80", "00", "01", "ff 80 80 80 80 80 80 80 80 80 80"] {
            let mut encoder = Encoder::new(4096);
            let error = code(encoder.feed(&hex(answer)));
            assert_eq!(error, Some(ErrorCode::QPACK_DECODER_STREAM_ERROR), "{answer}");
        }
        // A cancellation of any stream is fine.
        assert_eq!(code(Encoder::new(4096).feed(&hex("7f 80 01 44"))), None);
    }
}

/// What a peer's encoder may do, in any order.
#[derive(Debug, Clone)]
enum Act {
    Capacity(usize),
    InsertStatic(u8, String, bool),
    InsertLiteral(String, String, bool),
    InsertNamed(prop::sample::Index, String),
    Duplicate(prop::sample::Index),
    /// Lines by index, the base relative to what was inserted, and how many bytes each piece has.
    Section(Vec<(prop::sample::Index, bool)>, i8),
}

fn act() -> impl Strategy<Value = Act> {
    let value = || "[ -~]{0,60}".prop_map(|value| value.trim().to_owned());
    let name = || "x-[a-z]{0,8}";
    prop_oneof![
        1 => (0usize..=512).prop_map(Act::Capacity),
        3 => (6u8..14, value(), any::<bool>()).prop_map(|(index, value, huffman)| Act::InsertStatic(index, value, huffman)),
        3 => (name(), value(), any::<bool>()).prop_map(|(name, value, huffman)| Act::InsertLiteral(name, value, huffman)),
        3 => (any::<prop::sample::Index>(), value()).prop_map(|(line, value)| Act::InsertNamed(line, value)),
        2 => any::<prop::sample::Index>().prop_map(Act::Duplicate),
        4 => (prop::collection::vec(any::<(prop::sample::Index, bool)>(), 1..6), any::<i8>())
            .prop_map(|(lines, base)| Act::Section(lines, base)),
    ]
}

/// A table as section 3.2 describes it, written down once more and without any cleverness.
#[derive(Default)]
struct Model {
    lines: Vec<(String, String)>,
    dropped: usize,
    capacity: usize,
}

impl Model {
    fn shrink(&mut self, room: usize) {
        let size = |lines: &[(String, String)]| -> usize {
            lines.iter().map(|(name, value)| name.len() + value.len() + 32).sum()
        };
        while size(&self.lines[self.dropped..]) > room {
            self.dropped += 1;
        }
    }

    /// Whether it fits; it then is in the table.
    fn insert(&mut self, name: &str, value: &str) -> bool {
        let Some(room) = self.capacity.checked_sub(name.len() + value.len() + 32) else { return false };
        self.shrink(room);
        self.lines.push((name.to_owned(), value.to_owned()));
        true
    }

    fn pick(&self, index: &prop::sample::Index) -> Option<usize> {
        let alive = self.lines.len() - self.dropped;
        (alive > 0).then(|| self.dropped + index.index(alive))
    }
}

fn string(out: &mut Vec<u8>, pattern: u8, bits: u32, text: &str, as_huffman: bool) {
    if as_huffman {
        integer::write(out, pattern | 1 << bits, bits, huffman::encoded_len(text.as_bytes()));
        huffman::encode(out, text.as_bytes());
    } else {
        integer::write(out, pattern, bits, text.len());
        out.extend_from_slice(text.as_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Every instruction and every form of reference, against the model.
    #[test]
    fn decodes_what_any_encoder_may_send(acts in prop::collection::vec(act(), 1..60), piece in 1usize..40) {
        let mut model = Model { capacity: 512, ..Model::default() };
        let mut decoder = Decoder::new(512);
        let mut pending = hex("3fe103");
        for act in acts {
            match act {
                Act::Capacity(capacity) => {
                    model.capacity = capacity;
                    model.shrink(capacity);
                    integer::write(&mut pending, 0b0010_0000, 5, capacity);
                }
                Act::InsertStatic(index, value, as_huffman) => {
                    let (name, _) = static_table::get(u64::from(index)).unwrap();
                    if model.insert(name, &value) {
                        integer::write(&mut pending, 0b1100_0000, 6, usize::from(index));
                        string(&mut pending, 0, 7, &value, as_huffman);
                    }
                }
                Act::InsertLiteral(name, value, as_huffman) => {
                    if model.insert(&name, &value) {
                        string(&mut pending, 0b0100_0000, 5, &name, as_huffman);
                        string(&mut pending, 0, 7, &value, !as_huffman);
                    }
                }
                Act::InsertNamed(line, value) => {
                    let Some(absolute) = model.pick(&line) else { continue };
                    let (name, inserted) = (model.lines[absolute].0.clone(), model.lines.len());
                    if model.insert(&name, &value) {
                        integer::write(&mut pending, 0b1000_0000, 6, inserted - absolute - 1);
                        string(&mut pending, 0, 7, &value, false);
                    }
                }
                Act::Duplicate(line) => {
                    let Some(absolute) = model.pick(&line) else { continue };
                    let ((name, value), inserted) = (model.lines[absolute].clone(), model.lines.len());
                    if model.insert(&name, &value) {
                        integer::write(&mut pending, 0, 5, inserted - absolute - 1);
                    }
                }
                Act::Section(wanted, base) => {
                    for piece in std::mem::take(&mut pending).chunks(piece) {
                        decoder.feed(piece).unwrap();
                    }
                    let lines: Vec<_> =
                        wanted.iter().filter_map(|(line, named)| Some((model.pick(line)?, *named))).collect();
                    let Some(required) = lines.iter().map(|(absolute, _)| absolute + 1).max() else { continue };
                    let base = required.saturating_add_signed(isize::from(base) % 8);
                    let mut section = Vec::new();
                    // 512 / 32 lines.
                    integer::write(&mut section, 0, 8, required % 32 + 1);
                    match base.checked_sub(required) {
                        Some(above) => integer::write(&mut section, 0, 7, above),
                        None => integer::write(&mut section, 0x80, 7, required - base - 1),
                    }
                    section.extend(hex("d1 d7 c1 500161"));
                    for (absolute, named) in &lines {
                        match (absolute.checked_sub(base), named) {
                            (Some(post_base), false) => integer::write(&mut section, 0b0001_0000, 4, post_base),
                            (None, false) => integer::write(&mut section, 0b1000_0000, 6, base - absolute - 1),
                            (Some(post_base), true) => integer::write(&mut section, 0, 3, post_base),
                            (None, true) => integer::write(&mut section, 0b0100_0000, 4, base - absolute - 1),
                        }
                        if *named {
                            string(&mut section, 0, 7, "other", true);
                        }
                    }
                    let decoded = decoder.decode_request(&section, &LIMITS).unwrap();
                    let expected: Vec<_> = lines.iter().map(|(absolute, named)| {
                        let (name, value) = &model.lines[*absolute];
                        (name.as_str(), if *named { "other" } else { value.as_str() })
                    }).collect();
                    prop_assert_eq!(decoded.head.headers().collect::<Vec<_>>(), expected);
                    prop_assert!(decoded.refers_to_table);
                }
            }
        }
    }

    /// Our encoder into our decoder, with instructions and answers on their way for any time.
    #[test]
    fn our_encoder_is_understood(
        requests in prop::collection::vec(
            (0u8..4, prop::collection::vec((0u8..6, 0u8..4), 0..8), any::<bool>(), any::<bool>()), 1..60),
        capacity in 0u64..5000,
        piece in 1usize..30,
    ) {
        let mut decoder = Decoder::new(usize::try_from(capacity).unwrap());
        let mut encoder = Encoder::new(capacity);
        let (mut answers, mut instructions) = (Vec::new(), Vec::new());
        for (at, (path, fields, instructions_arrive, answers_arrive)) in requests.iter().enumerate() {
            let head = fields.iter().fold(RequestHead::build("GET", &format!("/{path}"), "a"), |head, (name, value)| {
                head.with(["accept", "authorization", "x", "x-a", "user-agent", "te"][usize::from(*name)],
                    if *name == 5 { "trailers" } else { ["", "b", "*/*", "Bearer abcdefghijklmnop"][usize::from(*value)] })
            });
            let stream_id = at as u64 * 4;
            let mut section = Vec::new();
            encoder.encode_request(&mut section, stream_id, &head);
            instructions.append(encoder.instructions());
            let decoded = decoder.decode_request(&section, &LIMITS).unwrap();
            prop_assert_eq!(decoded.head.fields(), head.fields());
            if decoded.refers_to_table {
                decoder.write_section_acknowledgment(&mut answers, stream_id);
            }
            if *instructions_arrive {
                for piece in std::mem::take(&mut instructions).chunks(piece) {
                    decoder.feed(piece).unwrap();
                    decoder.write_insert_count_increment(&mut answers);
                }
            }
            if *answers_arrive {
                for piece in std::mem::take(&mut answers).chunks(piece) {
                    encoder.feed(piece).unwrap();
                }
            }
        }
    }

    #[test]
    fn arbitrary_instructions_and_sections_never_panic(
        instructions in prop::collection::vec(any::<u8>(), 0..200),
        section in prop::collection::vec(any::<u8>(), 0..60),
        count in 0u8..8,
        piece in 1usize..20,
    ) {
        let begun = [B2, B3, B4].concat();
        let (mut decoder, mut whole) = (decoder(&begun), decoder(&begun));
        let result = whole.feed(&instructions);
        let mut cut = Ok(());
        for piece in instructions.chunks(piece) {
            cut = cut.and_then(|()| decoder.feed(piece));
        }
        prop_assert_eq!(result, cut);
        let _ = decoder.decode_request(&[&[count], &section[..]].concat(), &LIMITS);
        let _ = decoder.decode_trailers(&[&[count], &section[..]].concat(), &LIMITS);
        let _ = Encoder::new(4096).feed(&instructions);
    }
}

//! The dynamic table of QPACK: our decoder under any instructions and sections gives the same however they are cut,
//! and keeps to its limits; our encoder is understood by our decoder whatever of their talk is still under way, and
//! takes any answers.
//!
//! Input: one byte that chooses the side and the capacity, then acts: a byte with the kind in its two low bits and a
//! length in the others, and so many bytes.

use std::collections::VecDeque;

use sluice_protocols::http::{Limits, RequestHead};
use sluice_protocols::qpack::{Decoder, Encoder};

/// The third is the one that the gateway announces, the second that of RFC 9204 appendix B.
const CAPACITIES: [usize; 4] = [0, 220, 4096, 64];
const NAMES: [&str; 8] =
    ["accept", "x-request-id", "authorization", "user-agent", "x-trace", "priority", "x", "accept-language"];
/// Sections under way at once; beyond it the oldest arrives.
const SECTIONS_MAX: usize = 16;

/// Talks to one of the two sides, or to both.
pub fn check(data: &[u8]) {
    let [choice, acts @ ..] = data else { return };
    let capacity = CAPACITIES[usize::from(choice >> 1 & 3)];
    if choice & 1 == 0 { check_decoder(capacity, acts) } else { check_encoder(capacity, acts) }
}

/// The next act, taken off the front: its kind and its bytes.
fn next<'a>(acts: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&head, rest) = acts.split_first()?;
    let (piece, rest) = rest.split_at(usize::from(head >> 2).min(rest.len()));
    *acts = rest;
    Some((head & 3, piece))
}

fn check_decoder(capacity: usize, mut acts: &[u8]) {
    let mut whole = Decoder::new(capacity);
    let mut cut = Decoder::new(capacity);
    let (mut from_whole, mut from_cut) = (Vec::new(), Vec::new());
    let mut stream_id = 0;
    while let Some((kind, piece)) = next(&mut acts) {
        match kind {
            0 | 1 => {
                let result = whole.feed(piece);
                let results = piece.iter().try_for_each(|&byte| cut.feed(&[byte]));
                assert_eq!(result, results, "cuts change what instructions say");
                if let Err(error) = result {
                    assert_eq!(whole.feed(&[0x20]), Err(error), "a failed decoder recovered");
                    return;
                }
            }
            2 => {
                let decoded =
                    whole.decode_request(piece, &Limits::DEFAULT).map(|it| (it.head, it.refers_to_table));
                let again =
                    cut.decode_request(piece, &Limits::DEFAULT).map(|it| (it.head, it.refers_to_table));
                assert_eq!(decoded, again, "cuts change what a section says");
                let Ok((head, refers_to_table)) = decoded else { continue };
                let bytes: usize =
                    head.fields().iter_bytes().map(|(name, value)| name.len() + value.len() + 32).sum();
                assert!(bytes <= Limits::DEFAULT.decoded_bytes_max, "{bytes} bytes of fields passed");
                assert!(head.fields().len() <= Limits::DEFAULT.fields_max);
                if refers_to_table {
                    assert!(whole.is_in_use(), "a reference to an empty table passed");
                    whole.write_section_acknowledgment(&mut from_whole, stream_id);
                    cut.write_section_acknowledgment(&mut from_cut, stream_id);
                }
                stream_id += 4;
            }
            _ => {
                let decoded = whole.decode_trailers(piece, &Limits::DEFAULT);
                let again = cut.decode_trailers(piece, &Limits::DEFAULT);
                assert_eq!(decoded.map(|it| it.head), again.map(|it| it.head), "cuts change trailers");
                whole.write_insert_count_increment(&mut from_whole);
                cut.write_insert_count_increment(&mut from_cut);
            }
        }
        assert_eq!(from_whole, from_cut, "cuts change what the peer is told");
        assert_eq!(whole.is_in_use(), cut.is_in_use());
    }
}

/// A head made from the bytes, with values of lengths that make lines come and go in a small table.
fn head_of(piece: &[u8]) -> RequestHead {
    piece.iter().fold(RequestHead::build("GET", "/search", "example.com"), |head, byte| {
        head.with(NAMES[usize::from(byte & 7)], &"v".repeat(usize::from(byte >> 3)))
    })
}

fn check_encoder(capacity: usize, mut acts: &[u8]) {
    let mut encoder = Encoder::new(capacity as u64);
    let mut decoder = Decoder::new(capacity);
    let (mut instructions, mut answers) = (VecDeque::new(), Vec::new());
    let mut sections: VecDeque<(u64, Vec<u8>, RequestHead)> = VecDeque::new();
    let mut stream_id = 0;
    // False when the peer has told something of its own.
    let mut is_understood = true;
    while let Some((kind, piece)) = next(&mut acts) {
        match kind {
            0 => {
                let (head, mut section) = (head_of(piece), Vec::new());
                encoder.encode_request(&mut section, stream_id, &head);
                instructions.extend(encoder.instructions().drain(..));
                sections.push_back((stream_id, section, head));
                stream_id += 4;
            }
            // Instructions arrive, up to so many bytes.
            1 => {
                let count = instructions.len().min(piece.iter().map(|byte| usize::from(*byte)).sum());
                let arrived: Vec<u8> = instructions.drain(..count).collect();
                assert_eq!(decoder.feed(&arrived), Ok(()), "our own instructions");
                decoder.write_insert_count_increment(&mut answers);
            }
            // Answers arrive, or the oldest section is given up.
            2 => {
                if piece.first().is_some_and(|byte| byte & 1 == 1)
                    && let Some((stream_id, ..)) = sections.pop_front()
                {
                    decoder.write_stream_cancellation(&mut answers, stream_id);
                }
                let arrived: Vec<u8> = answers.drain(..answers.len().min(1 + piece.len())).collect();
                assert!(encoder.feed(&arrived).is_ok() || !is_understood, "our own answers");
            }
            _ => {
                is_understood = false;
                if encoder.feed(piece).is_err() {
                    return;
                }
            }
        }
        while sections.len() > SECTIONS_MAX || (kind == 2 && !sections.is_empty()) {
            let Some((stream_id, section, head)) = sections.pop_front() else { break };
            if !is_understood {
                continue;
            }
            // Nothing is blocked: a section refers only to what was acknowledged before.
            let decoded = decoder.decode_request(&section, &Limits::DEFAULT).expect("our own section");
            assert_eq!(decoded.head, head);
            if decoded.refers_to_table {
                decoder.write_section_acknowledgment(&mut answers, stream_id);
            }
        }
    }
}

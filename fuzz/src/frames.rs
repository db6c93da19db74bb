//! HTTP/3 streams: however the bytes are cut into chunks, a decoder says the same, and no event is larger than
//! what it promises.
//!
//! Input: one byte that chooses the stream and the role, one that seeds the cuts, and the stream.

use sluice_protocols::h3::{
    ControlDecoder, ControlEvent, Event, FIELD_SECTION_BYTES_MAX, FrameDecoder, H3Error, PeerUniStreams,
    Role, Settings, UniStreamType, UniStreamTypeDecoder, VARINT_MAX, read_varint, write_goaway,
    write_settings, write_varint,
};
use sluice_protocols::qpack::{DecoderStream, EncoderStream};

/// Small, so that inputs of a few hundred bytes reach it.
const SECTION_BYTES_MAX: usize = 256;
const _: () = assert!(SECTION_BYTES_MAX < FIELD_SECTION_BYTES_MAX);

/// Decodes one stream twice and compares.
pub fn check(data: &[u8]) {
    let [choice, seed, stream @ ..] = data else { return };
    let role = if choice & 1 == 0 { Role::Server } else { Role::Client };
    match choice >> 1 & 3 {
        0 | 1 => check_request_stream(role, *choice, *seed, stream),
        2 => check_control_stream(role, *seed, stream),
        _ => check_uni_stream(role, *seed, stream),
    }
}

/// Pieces of 1 to 16 bytes, or the whole for seed 0.
fn cuts(seed: u8, mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut state = u32::from(seed);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let len = if seed == 0 { rest.len() } else { (state >> 24) as usize % 16 + 1 };
        let (piece, left) = rest.split_at(len.min(rest.len()));
        rest = left;
        Some(piece)
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Headers(Vec<u8>),
    Body(Vec<u8>),
    Trailers(Vec<u8>),
}

fn check_request_stream(role: Role, choice: u8, seed: u8, stream: &[u8]) {
    let whole = read_request_stream(role, choice, std::iter::once(stream));
    let cut = read_request_stream(role, choice, cuts(seed, stream));
    assert_eq!(whole, cut, "the cuts changed what came out");
    let body: usize =
        whole.0.iter().map(|seen| if let Seen::Body(body) = seen { body.len() } else { 0 }).sum();
    assert!(body <= stream.len());
}

fn read_request_stream<'a>(
    role: Role,
    choice: u8,
    chunks: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Seen>, Result<(), H3Error>) {
    let mut decoder = FrameDecoder::new(role, SECTION_BYTES_MAX);
    let mut seen = Vec::new();
    let mut heads = 0;
    for mut chunk in chunks {
        loop {
            let before = chunk.len();
            let mut is_head = false;
            match decoder.next(&mut chunk) {
                Ok(Some(Event::Headers(section))) => {
                    assert!(section.len() <= SECTION_BYTES_MAX, "a section over the limit");
                    seen.push(Seen::Headers(section.to_vec()));
                    is_head = true;
                }
                Ok(Some(Event::Trailers(section))) => {
                    assert!(section.len() <= SECTION_BYTES_MAX, "a section over the limit");
                    seen.push(Seen::Trailers(section.to_vec()));
                }
                Ok(Some(Event::Data(piece))) => {
                    assert!(!piece.is_empty() && piece.len() <= before, "data that is not in the chunk");
                    match seen.last_mut() {
                        Some(Seen::Body(body)) => body.extend_from_slice(piece),
                        _ => seen.push(Seen::Body(piece.to_vec())),
                    }
                }
                Ok(None) => {
                    assert!(chunk.is_empty(), "bytes left over without an event or error");
                    break;
                }
                Err(error) => return failed(&mut decoder, seen, error),
            }
            if is_head {
                heads += 1;
                // As a connection would: a length announced, or an interim response.
                if choice & 0x10 != 0 && heads == 1 {
                    decoder.expect_body(u64::from(choice >> 5) * 3);
                } else if choice & 0x08 != 0
                    && heads < 20
                    && let Err(error) = decoder.expect_another_head()
                {
                    return failed(&mut decoder, seen, error);
                }
            }
        }
    }
    let end = decoder.finish();
    assert_eq!(decoder.finish(), end, "the end said twice differs");
    (seen, end)
}

/// A decoder that failed stays failed.
fn failed(decoder: &mut FrameDecoder, seen: Vec<Seen>, error: H3Error) -> (Vec<Seen>, Result<(), H3Error>) {
    assert_eq!(decoder.next(&mut [0u8, 0].as_slice()).err(), Some(error));
    assert_eq!(decoder.finish(), Err(error));
    (seen, Err(error))
}

fn check_control_stream(role: Role, seed: u8, stream: &[u8]) {
    let whole = read_control_stream(role, std::iter::once(stream));
    assert_eq!(whole, read_control_stream(role, cuts(seed, stream)), "the cuts changed what came out");
    let mut goaway_before = u64::MAX;
    for (index, event) in whole.0.iter().enumerate() {
        match event {
            ControlEvent::Settings(settings) => {
                assert_eq!(index, 0, "settings that are not the first event");
                check_settings(settings);
            }
            ControlEvent::GoAway(id) => {
                assert!(index > 0 && *id <= goaway_before, "a GOAWAY that grows");
                goaway_before = *id;
                let mut again = vec![];
                write_settings(&mut again, &Settings::OURS);
                write_goaway(&mut again, *id);
                let (events, end) = read_control_stream(role, std::iter::once(again.as_slice()));
                assert_eq!((events.last(), end), (Some(event), Ok(())), "our own GOAWAY reads otherwise");
            }
        }
    }
}

/// What was read can be written and read again.
fn check_settings(settings: &Settings) {
    let mut bytes = vec![];
    write_settings(&mut bytes, settings);
    let (events, end) = read_control_stream(Role::Server, std::iter::once(bytes.as_slice()));
    assert_eq!((events, end), (vec![ControlEvent::Settings(*settings)], Ok(())));
}

fn read_control_stream<'a>(
    role: Role,
    chunks: impl Iterator<Item = &'a [u8]>,
) -> (Vec<ControlEvent>, Result<(), H3Error>) {
    let mut decoder = ControlDecoder::new(role);
    let mut events = Vec::new();
    for mut chunk in chunks {
        loop {
            match decoder.next(&mut chunk) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => {
                    assert!(matches!(error, H3Error::Connection { .. }), "control streams fail as a whole");
                    assert_eq!(decoder.next(&mut [].as_slice()), Err(error));
                    return (events, Err(error));
                }
            }
        }
        assert!(chunk.is_empty());
    }
    (events, Ok(()))
}

fn check_uni_stream(role: Role, seed: u8, stream: &[u8]) {
    let (kind, rest) = read_type(std::iter::once(stream));
    let (kind_cut, rest_cut) = read_type(cuts(seed, stream));
    assert_eq!((kind, &rest), (kind_cut, &rest_cut), "the cuts changed the stream's type");
    let Some(kind) = kind else { return };
    let (value, _) = read_varint(stream).expect("a type was read");
    assert!(value <= VARINT_MAX && kind == UniStreamType::from_value(value) && kind.value() == value);
    let mut bytes = vec![];
    write_varint(&mut bytes, value);
    assert_eq!(read_varint(&bytes), Some((value, bytes.len())));

    let mut streams = PeerUniStreams::new(role);
    let first = streams.open(kind);
    assert!(first.is_ok() || kind == UniStreamType::Push);
    assert_eq!(
        streams.open(kind).is_ok(),
        matches!(kind, UniStreamType::Unknown(_)),
        "one critical stream each"
    );
    match kind {
        UniStreamType::Control => check_control_stream(role, seed, &rest),
        UniStreamType::QpackEncoder => {
            let (mut whole, mut cut) = (EncoderStream::default(), EncoderStream::default());
            let cut = cuts(seed, &rest).try_for_each(|chunk| cut.feed(chunk));
            assert_eq!(whole.feed(&rest), cut);
        }
        UniStreamType::QpackDecoder => {
            let (mut whole, mut cut) = (DecoderStream::default(), DecoderStream::default());
            let cut = cuts(seed, &rest).try_for_each(|chunk| cut.feed(chunk));
            assert_eq!(whole.feed(&rest), cut);
        }
        UniStreamType::Push | UniStreamType::Unknown(_) => {}
    }
}

fn read_type<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> (Option<UniStreamType>, Vec<u8>) {
    let mut decoder = UniStreamTypeDecoder::default();
    let mut kind = None;
    let mut rest = Vec::new();
    for mut chunk in chunks {
        if kind.is_none() {
            kind = decoder.next(&mut chunk);
        }
        rest.extend_from_slice(chunk);
    }
    (kind, rest)
}

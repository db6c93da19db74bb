use proptest::prelude::*;

use super::*;

const HEADERS_MAX: usize = 100;

/// A frame by hand.
fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_varint(&mut out, kind);
    write_varint(&mut out, payload.len() as u64);
    out.extend_from_slice(payload);
    out
}

fn connection_code<T: std::fmt::Debug>(result: Result<T, H3Error>) -> ErrorCode {
    match result {
        Err(H3Error::Connection { code, .. }) => code,
        other => panic!("{other:?} is no connection error"),
    }
}

fn stream_code<T: std::fmt::Debug>(result: Result<T, H3Error>) -> ErrorCode {
    match result {
        Err(H3Error::Stream { code, .. }) => code,
        other => panic!("{other:?} is no stream error"),
    }
}

mod varints {
    use super::*;

    #[test]
    fn match_the_examples_of_the_rfc() {
        // RFC 9000 appendix A.1.
        let examples: [(&[u8], u64); 4] = [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
        ];
        for (bytes, value) in examples {
            assert_eq!(read_varint(bytes), Some((value, bytes.len())));
            let mut out = Vec::new();
            write_varint(&mut out, value);
            assert_eq!(out, bytes);
        }
        assert_eq!(read_varint(&[0x40, 0x25]), Some((37, 2)));
    }

    #[test]
    fn cut_short_ask_for_more() {
        for bytes in [[].as_slice(), &[0x40], &[0x80, 0, 0], &[0xc0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(read_varint(bytes), None);
        }
    }

    proptest! {
        #[test]
        fn round_trip(value in 0..=VARINT_MAX, shift in 0u32..62) {
            let value = value >> shift;
            let mut out = Vec::new();
            write_varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_len(value));
            prop_assert_eq!(read_varint(&out), Some((value, out.len())));
        }
    }
}

mod request_stream {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Seen {
        Headers(Vec<u8>),
        Body(Vec<u8>),
        Trailers(Vec<u8>),
    }

    /// Runs a decoder over chunks and the end of the stream, with the pieces of the body joined.
    fn decode_chunks<'a>(
        role: Role,
        chunks: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Vec<Seen>, Result<(), H3Error>) {
        let mut decoder = FrameDecoder::new(role, HEADERS_MAX);
        let mut seen = Vec::new();
        for chunk in chunks {
            let mut chunk = chunk;
            loop {
                match decoder.next(&mut chunk) {
                    Ok(Some(Event::Headers(section))) => seen.push(Seen::Headers(section.to_vec())),
                    Ok(Some(Event::Trailers(section))) => seen.push(Seen::Trailers(section.to_vec())),
                    Ok(Some(Event::Data(piece))) => {
                        assert!(!piece.is_empty());
                        match seen.last_mut() {
                            Some(Seen::Body(body)) => body.extend_from_slice(piece),
                            _ => seen.push(Seen::Body(piece.to_vec())),
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return (seen, Err(error)),
                }
            }
            assert!(chunk.is_empty());
        }
        (seen, decoder.finish())
    }

    fn decode(frames: &[Vec<u8>]) -> (Vec<Seen>, Result<(), H3Error>) {
        decode_chunks(Role::Server, [frames.concat().as_slice()])
    }

    fn error_of(frames: &[Vec<u8>]) -> ErrorCode {
        connection_code(decode(frames).1)
    }

    fn headers() -> Vec<u8> {
        frame(0x1, b"head")
    }

    #[test]
    fn brings_head_body_and_trailers() {
        let (seen, end) = decode(&[headers(), frame(0, b"ab"), frame(0, b"c"), frame(1, b"tail")]);
        assert_eq!(end, Ok(()));
        assert_eq!(
            seen,
            [Seen::Headers(b"head".into()), Seen::Body(b"abc".into()), Seen::Trailers(b"tail".into())]
        );
    }

    #[test]
    fn a_section_within_one_chunk_is_borrowed_from_it() {
        let bytes = headers();
        let mut decoder = FrameDecoder::new(Role::Server, HEADERS_MAX);
        let mut chunk = bytes.as_slice();
        let Ok(Some(Event::Headers(section))) = decoder.next(&mut chunk) else { panic!("no headers") };
        assert_eq!(section.as_ptr(), bytes[2..].as_ptr());
    }

    #[test]
    fn unknown_frames_are_skipped_anywhere() {
        let grease = frame(0x21, &[7; 50]);
        let (seen, end) = decode(&[
            grease.clone(),
            headers(),
            grease.clone(),
            frame(0, b"a"),
            frame(1, b"t"),
            grease,
            frame(0x1f * 1000 + 0x21, b""),
        ]);
        assert_eq!(end, Ok(()));
        assert_eq!(seen.len(), 3);
    }

    #[test]
    fn frames_of_other_streams_and_of_http2_end_the_connection() {
        for kind in [0x2, 0x3, 0x4, 0x5, 0x6, 0x7, 0x8, 0x9, 0xd] {
            assert_eq!(error_of(&[headers(), frame(kind, b"")]), ErrorCode::H3_FRAME_UNEXPECTED, "{kind:#x}");
            assert_eq!(error_of(&[frame(kind, b"")]), ErrorCode::H3_FRAME_UNEXPECTED, "{kind:#x}");
        }
    }

    #[test]
    fn data_before_headers_ends_the_connection() {
        assert_eq!(error_of(&[frame(0, b"a")]), ErrorCode::H3_FRAME_UNEXPECTED);
    }

    #[test]
    fn frames_after_the_trailers_end_the_connection() {
        for after in [frame(0, b"a"), frame(1, b"again")] {
            assert_eq!(error_of(&[headers(), headers(), after]), ErrorCode::H3_FRAME_UNEXPECTED);
        }
    }

    #[test]
    fn an_end_within_a_frame_ends_the_connection() {
        let whole = [headers(), frame(0, b"abc"), frame(0x21, b"xyz"), frame(1, b"t")].concat();
        let boundaries = [6, 11, 16, 19];
        for end in 1..whole.len() {
            let (_, result) = decode_chunks(Role::Server, [&whole[..end]]);
            if boundaries.contains(&end) {
                assert_eq!(result, Ok(()), "{end}");
            } else {
                assert_eq!(connection_code(result), ErrorCode::H3_FRAME_ERROR, "{end}");
            }
        }
    }

    #[test]
    fn an_end_before_the_head_is_an_incomplete_request() {
        assert_eq!(stream_code(decode(&[]).1), ErrorCode::H3_REQUEST_INCOMPLETE);
        assert_eq!(stream_code(decode(&[frame(0x21, b"")]).1), ErrorCode::H3_REQUEST_INCOMPLETE);
        assert_eq!(stream_code(decode_chunks(Role::Client, []).1), ErrorCode::H3_MESSAGE_ERROR);
    }

    #[test]
    fn a_section_over_the_limit_is_refused_on_sight_of_its_length() {
        let mut bytes = Vec::new();
        write_headers_header(&mut bytes, HEADERS_MAX as u64 + 1);
        let mut decoder = FrameDecoder::new(Role::Server, HEADERS_MAX);
        assert_eq!(
            decoder.next(&mut bytes.as_slice()),
            Err(H3Error::HeadersTooLarge { declared_bytes: HEADERS_MAX as u64 + 1 })
        );
        let (seen, end) = decode(&[frame(1, &[0; HEADERS_MAX])]);
        assert_eq!((seen.len(), end), (1, Ok(())));
    }

    #[test]
    fn floods_of_frames_without_effect_end_the_connection() {
        let budget = usize::try_from(IDLE_FRAME_BYTES_MAX).unwrap();
        let unknown = frame(0x21, &[0; 98]);
        let fits = vec![unknown.clone(); budget / unknown.len() - 1];
        assert_eq!(decode(&[vec![headers()], fits].concat()).1, Ok(()));
        let flood = vec![unknown.clone(); budget / unknown.len() + 1];
        assert_eq!(error_of(&flood), ErrorCode::H3_EXCESSIVE_LOAD);
        let empty_data = vec![frame(0, b""); budget / 2 + 1];
        assert_eq!(error_of(&[vec![headers()], empty_data].concat()), ErrorCode::H3_EXCESSIVE_LOAD);
    }

    #[test]
    fn an_unknown_frame_over_the_budget_is_refused_on_sight_of_its_length() {
        let mut bytes = Vec::new();
        write_varint(&mut bytes, 0x21);
        write_varint(&mut bytes, VARINT_MAX);
        let (_, result) = decode_chunks(Role::Server, [bytes.as_slice()]);
        assert_eq!(connection_code(result), ErrorCode::H3_EXCESSIVE_LOAD);
    }

    #[test]
    fn a_failed_decoder_stays_failed() {
        let mut decoder = FrameDecoder::new(Role::Server, HEADERS_MAX);
        let error = decoder.next(&mut frame(0, b"a").as_slice()).unwrap_err();
        assert_eq!(decoder.next(&mut headers().as_slice()), Err(error));
        assert_eq!(decoder.finish(), Err(error));
    }

    fn with_announced(bytes: u64, rest: &[Vec<u8>]) -> Result<(), H3Error> {
        let mut decoder = FrameDecoder::new(Role::Server, HEADERS_MAX);
        decoder.next(&mut headers().as_slice())?;
        decoder.expect_body(bytes);
        let rest = rest.concat();
        let mut chunk = rest.as_slice();
        while decoder.next(&mut chunk)?.is_some() {}
        decoder.finish()
    }

    #[test]
    fn a_body_unlike_its_content_length_is_malformed() {
        assert_eq!(with_announced(3, &[frame(0, b"ab"), frame(0, b"c")]), Ok(()));
        assert_eq!(with_announced(0, &[]), Ok(()));
        let long = with_announced(3, &[frame(0, b"ab"), frame(0, b"cd")]);
        assert_eq!(stream_code(long), ErrorCode::H3_MESSAGE_ERROR);
        assert_eq!(stream_code(with_announced(3, &[frame(0, b"ab")])), ErrorCode::H3_MESSAGE_ERROR);
        let short = with_announced(3, &[frame(0, b"ab"), frame(1, b"t")]);
        assert_eq!(stream_code(short), ErrorCode::H3_MESSAGE_ERROR);
    }

    #[test]
    fn a_client_takes_interim_responses_before_the_final_one() {
        let mut decoder = FrameDecoder::new(Role::Client, HEADERS_MAX);
        let bytes = [frame(1, b"103"), frame(1, b"200"), frame(0, b"body"), frame(1, b"t")].concat();
        let mut chunk = bytes.as_slice();
        assert_eq!(decoder.next(&mut chunk), Ok(Some(Event::Headers(b"103"))));
        decoder.expect_another_head().unwrap();
        assert_eq!(decoder.next(&mut chunk), Ok(Some(Event::Headers(b"200"))));
        assert_eq!(decoder.next(&mut chunk), Ok(Some(Event::Data(b"body"))));
        assert_eq!(decoder.next(&mut chunk), Ok(Some(Event::Trailers(b"t"))));
        assert_eq!(decoder.finish(), Ok(()));
    }

    #[test]
    fn an_interim_response_alone_is_malformed() {
        let mut decoder = FrameDecoder::new(Role::Client, HEADERS_MAX);
        decoder.next(&mut headers().as_slice()).unwrap();
        decoder.expect_another_head().unwrap();
        assert_eq!(stream_code(decoder.finish()), ErrorCode::H3_MESSAGE_ERROR);
    }

    #[test]
    fn endless_interim_responses_are_refused() {
        let mut decoder = FrameDecoder::new(Role::Client, HEADERS_MAX);
        for _ in 0..INTERIM_RESPONSES_MAX {
            decoder.next(&mut headers().as_slice()).unwrap();
            decoder.expect_another_head().unwrap();
        }
        decoder.next(&mut headers().as_slice()).unwrap();
        assert_eq!(stream_code(decoder.expect_another_head()), ErrorCode::H3_EXCESSIVE_LOAD);
    }

    #[test]
    fn a_push_promise_to_a_client_names_a_push_it_never_allowed() {
        let (_, result) = decode_chunks(Role::Client, [frame(0x5, b"\0").as_slice()]);
        assert_eq!(connection_code(result), ErrorCode::H3_ID_ERROR);
    }

    fn any_frames() -> impl Strategy<Value = Vec<u8>> {
        let kind = prop_oneof![4 => Just(0u64), 2 => Just(1), 2 => Just(0x21), 1 => Just(0x1234_5678), 1 => 0u64..16];
        let one = (kind, prop::collection::vec(any::<u8>(), 0..120))
            .prop_map(|(kind, payload)| frame(kind, &payload));
        (any::<bool>(), prop::collection::vec(one, 0..8)).prop_map(|(begin, frames)| {
            [if begin { headers() } else { Vec::new() }, frames.concat()].concat()
        })
    }

    proptest! {
        #[test]
        fn chunking_changes_nothing(bytes in any_frames(), sizes in prop::collection::vec(1usize..40, 1..40)) {
            let whole = decode_chunks(Role::Server, [bytes.as_slice()]);
            let by_byte = decode_chunks(Role::Server, bytes.chunks(1));
            prop_assert_eq!(&by_byte, &whole);
            let mut rest = bytes.as_slice();
            let mut sizes = sizes.iter().cycle();
            let mut chunks = Vec::new();
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            prop_assert_eq!(&decode_chunks(Role::Server, chunks), &whole);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), size in 1usize..50) {
            for role in [Role::Server, Role::Client] {
                let _ = decode_chunks(role, bytes.chunks(size));
            }
        }
    }
}

mod control_stream {
    use super::*;

    fn decode_chunks<'a>(
        role: Role,
        chunks: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Vec<ControlEvent>, H3Error> {
        let mut decoder = ControlDecoder::new(role);
        let mut events = Vec::new();
        for mut chunk in chunks {
            while let Some(event) = decoder.next(&mut chunk)? {
                events.push(event);
            }
        }
        Ok(events)
    }

    fn decode(role: Role, frames: &[Vec<u8>]) -> Result<Vec<ControlEvent>, H3Error> {
        decode_chunks(role, [frames.concat().as_slice()])
    }

    fn settings(pairs: &[(u64, u64)]) -> Vec<u8> {
        let mut payload = Vec::new();
        for (id, value) in pairs {
            write_varint(&mut payload, *id);
            write_varint(&mut payload, *value);
        }
        frame(0x4, &payload)
    }

    fn id_frame(kind: u64, id: u64) -> Vec<u8> {
        let mut payload = Vec::new();
        write_varint(&mut payload, id);
        frame(kind, &payload)
    }

    fn error_of(role: Role, frames: &[Vec<u8>]) -> ErrorCode {
        connection_code(decode(role, frames))
    }

    #[test]
    fn our_preamble_reads_as_our_settings() {
        let mut bytes = Vec::new();
        write_control_preamble(&mut bytes, &Settings::OURS);
        let mut chunk = bytes.as_slice();
        assert_eq!(UniStreamTypeDecoder::default().next(&mut chunk), Some(UniStreamType::Control));
        assert_eq!(decode_chunks(Role::Client, [chunk]), Ok(vec![ControlEvent::Settings(Settings::OURS)]));
    }

    #[test]
    fn our_preamble_carries_a_reserved_setting_and_none_of_http2() {
        let mut bytes = Vec::new();
        write_control_preamble(&mut bytes, &Settings::OURS);
        // Behind stream type, frame type and length.
        let mut rest = &bytes[3..];
        assert_eq!(usize::from(bytes[2]), rest.len());
        let mut ids = Vec::new();
        while let Some((id, taken)) = read_varint(rest) {
            let (_, value) = read_varint(&rest[taken..]).unwrap();
            rest = &rest[taken + value..];
            ids.push(id);
        }
        assert!(rest.is_empty());
        assert_eq!(ids.iter().filter(|&&id| id >= 0x21 && (id - 0x21) % 0x1f == 0).count(), 1);
        assert!(ids.iter().all(|id| !matches!(id, 0 | 2..=5)));
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }

    #[test]
    fn settings_of_any_size_that_nobody_knows_are_ignored() {
        let ids = [0x21, 0x1f * 1_000_000 + 0x21, 0x8, 0x33, VARINT_MAX - 1, VARINT_MAX];
        let pairs: Vec<_> = ids.into_iter().map(|id| (id, VARINT_MAX)).collect();
        let event = decode(Role::Server, &[settings(&pairs)]);
        assert_eq!(event, Ok(vec![ControlEvent::Settings(Settings::DEFAULT)]));
    }

    #[test]
    fn unknown_settings_are_ignored() {
        let event = decode(Role::Server, &[settings(&[(0x21, 5), (0x6, 99), (0x33, 1)])]);
        let expected = Settings { max_field_section_size: Some(99), ..Settings::DEFAULT };
        assert_eq!(event, Ok(vec![ControlEvent::Settings(expected)]));
    }

    #[test]
    fn settings_must_come_first() {
        for first in [frame(0x21, b""), id_frame(0x7, 0), frame(0, b"")] {
            assert_eq!(error_of(Role::Server, &[first, settings(&[])]), ErrorCode::H3_MISSING_SETTINGS);
        }
    }

    #[test]
    fn settings_must_come_once() {
        assert_eq!(error_of(Role::Server, &[settings(&[]), settings(&[])]), ErrorCode::H3_FRAME_UNEXPECTED);
    }

    #[test]
    fn settings_of_http2_are_refused() {
        for id in [0x0, 0x2, 0x3, 0x4, 0x5] {
            assert_eq!(error_of(Role::Server, &[settings(&[(id, 0)])]), ErrorCode::H3_SETTINGS_ERROR, "{id}");
        }
    }

    #[test]
    fn a_setting_twice_is_refused_even_if_unknown() {
        for id in [0x1, 0x6, 0x21] {
            let twice = settings(&[(id, 0), (0x99, 1), (id, 0)]);
            assert_eq!(error_of(Role::Server, &[twice]), ErrorCode::H3_SETTINGS_ERROR);
        }
    }

    #[test]
    fn settings_cut_short_are_refused() {
        for payload in [[0x06].as_slice(), &[0x06, 0x40], &[0x40]] {
            assert_eq!(error_of(Role::Server, &[frame(0x4, payload)]), ErrorCode::H3_FRAME_ERROR);
        }
    }

    #[test]
    fn too_many_or_too_large_settings_are_refused() {
        let many: Vec<_> = (0x40..0x40 + SETTINGS_COUNT_MAX as u64 + 1).map(|id| (id, 0)).collect();
        assert_eq!(error_of(Role::Server, &[settings(&many)]), ErrorCode::H3_EXCESSIVE_LOAD);
        let mut bytes = Vec::new();
        write_varint(&mut bytes, 0x4);
        write_varint(&mut bytes, SETTINGS_BYTES_MAX + 1);
        assert_eq!(error_of(Role::Server, &[bytes]), ErrorCode::H3_EXCESSIVE_LOAD);
    }

    #[test]
    fn frames_of_request_streams_and_of_http2_are_refused() {
        for kind in [0x0, 0x1, 0x2, 0x5, 0x6, 0x8, 0x9] {
            let frames = [settings(&[]), frame(kind, b"")];
            assert_eq!(error_of(Role::Server, &frames), ErrorCode::H3_FRAME_UNEXPECTED, "{kind:#x}");
        }
    }

    #[test]
    fn unknown_frames_are_skipped_and_counted() {
        let mut decoder = ControlDecoder::new(Role::Server);
        let bytes = [settings(&[]), frame(0x21, &[0; 60]), id_frame(0x7, 4)].concat();
        let mut chunk = bytes.as_slice();
        assert!(matches!(decoder.next(&mut chunk), Ok(Some(ControlEvent::Settings(_)))));
        assert_eq!(decoder.next(&mut chunk), Ok(Some(ControlEvent::GoAway(4))));
        assert_eq!(decoder.unknown_bytes(), 62);
    }

    #[test]
    fn an_unknown_frame_over_the_limit_is_refused() {
        let mut bytes = settings(&[]);
        write_varint(&mut bytes, 0x21);
        write_varint(&mut bytes, CONTROL_UNKNOWN_BYTES_MAX + 1);
        assert_eq!(error_of(Role::Server, &[bytes]), ErrorCode::H3_EXCESSIVE_LOAD);
    }

    #[test]
    fn goaway_may_repeat_or_shrink_but_not_grow() {
        let frames = [settings(&[]), id_frame(0x7, 8), id_frame(0x7, 8), id_frame(0x7, 4)];
        assert_eq!(decode(Role::Client, &frames).unwrap()[1..], [8, 8, 4].map(ControlEvent::GoAway));
        let frames = [settings(&[]), id_frame(0x7, 4), id_frame(0x7, 8)];
        assert_eq!(error_of(Role::Client, &frames), ErrorCode::H3_ID_ERROR);
    }

    #[test]
    fn goaway_to_a_client_must_name_a_request_stream() {
        let frames = [settings(&[]), id_frame(0x7, 5)];
        assert_eq!(error_of(Role::Client, &frames), ErrorCode::H3_ID_ERROR);
        // To a server it names a push.
        assert!(decode(Role::Server, &frames).is_ok());
    }

    #[test]
    fn goaway_must_be_one_integer() {
        for payload in [[].as_slice(), &[0x40], &[0, 0], &[0; 9]] {
            let frames = [settings(&[]), frame(0x7, payload)];
            assert_eq!(error_of(Role::Server, &frames), ErrorCode::H3_FRAME_ERROR, "{payload:?}");
        }
    }

    #[test]
    fn max_push_id_may_not_shrink() {
        let frames = [settings(&[]), id_frame(0xd, 3), id_frame(0xd, 3), id_frame(0xd, 5)];
        assert_eq!(decode(Role::Server, &frames).unwrap().len(), 1);
        let frames = [settings(&[]), id_frame(0xd, 3), id_frame(0xd, 2)];
        assert_eq!(error_of(Role::Server, &frames), ErrorCode::H3_ID_ERROR);
    }

    #[test]
    fn max_push_id_from_a_server_is_refused() {
        let frames = [settings(&[]), id_frame(0xd, 3)];
        assert_eq!(error_of(Role::Client, &frames), ErrorCode::H3_FRAME_UNEXPECTED);
    }

    #[test]
    fn cancel_push_names_a_push_that_never_was() {
        for role in [Role::Server, Role::Client] {
            assert_eq!(error_of(role, &[settings(&[]), id_frame(0x3, 0)]), ErrorCode::H3_ID_ERROR);
        }
    }

    proptest! {
        #[test]
        fn chunking_changes_nothing(
            pairs in prop::collection::vec((prop_oneof![Just(1u64), Just(6), Just(7), 0x20u64..0x4000], any::<u32>()), 0..6),
            frames in prop::collection::vec((prop_oneof![Just(0x7u64), Just(0xd), Just(0x21), 0u64..16], 0u64..20), 0..6),
            size in 1usize..9,
        ) {
            let pairs: Vec<_> = pairs.into_iter().map(|(id, value)| (id, u64::from(value))).collect();
            let frames: Vec<_> = frames.into_iter().map(|(kind, id)| id_frame(kind, id)).collect();
            let bytes = [settings(&pairs), frames.concat()].concat();
            for role in [Role::Server, Role::Client] {
                prop_assert_eq!(decode_chunks(role, bytes.chunks(size)), decode_chunks(role, [bytes.as_slice()]));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), size in 1usize..50) {
            for role in [Role::Server, Role::Client] {
                let _ = decode_chunks(role, bytes.chunks(size));
                let behind_settings = [settings(&[]), bytes.clone()].concat();
                let _ = decode_chunks(role, behind_settings.chunks(size));
            }
        }
    }
}

mod uni_streams {
    use super::*;

    #[test]
    fn types_are_read_across_chunks() {
        for (value, kind) in [
            (0x0, UniStreamType::Control),
            (0x1, UniStreamType::Push),
            (0x2, UniStreamType::QpackEncoder),
            (0x3, UniStreamType::QpackDecoder),
            (0x21, UniStreamType::Unknown(0x21)),
            (VARINT_MAX, UniStreamType::Unknown(VARINT_MAX)),
        ] {
            let mut bytes = Vec::new();
            write_varint(&mut bytes, value);
            bytes.extend_from_slice(b"rest");
            let mut decoder = UniStreamTypeDecoder::default();
            let (front, back) = bytes.split_at(bytes.len() - 5);
            let mut chunk = front;
            assert_eq!(decoder.next(&mut chunk), None);
            let mut chunk = back;
            assert_eq!(decoder.next(&mut chunk), Some(kind));
            assert_eq!(chunk, b"rest");
            assert_eq!(kind.value(), value);
        }
    }

    #[test]
    fn each_critical_stream_may_be_opened_once() {
        for kind in [UniStreamType::Control, UniStreamType::QpackEncoder, UniStreamType::QpackDecoder] {
            let mut streams = PeerUniStreams::new(Role::Server);
            assert!(kind.is_critical());
            assert_eq!(streams.open(kind), Ok(()));
            assert_eq!(connection_code(streams.open(kind)), ErrorCode::H3_STREAM_CREATION_ERROR);
        }
    }

    #[test]
    fn unknown_streams_may_be_opened_at_will() {
        let mut streams = PeerUniStreams::new(Role::Server);
        for _ in 0..3 {
            assert_eq!(streams.open(UniStreamType::Unknown(0x21)), Ok(()));
        }
    }

    #[test]
    fn push_streams_are_refused() {
        let open = |role| connection_code(PeerUniStreams::new(role).open(UniStreamType::Push));
        assert_eq!(open(Role::Server), ErrorCode::H3_STREAM_CREATION_ERROR);
        assert_eq!(open(Role::Client), ErrorCode::H3_ID_ERROR);
    }
}

mod encoding {
    use super::*;

    fn headers_of(payload_bytes: usize) -> Vec<u8> {
        let mut out = b"before".to_vec();
        let encoded = write_headers(&mut out, |out| {
            out.resize(out.len() + payload_bytes, 7);
            Ok::<(), ()>(())
        });
        assert_eq!(encoded, Ok(()));
        out.split_off(6)
    }

    #[test]
    fn headers_frames_get_the_length_of_their_section() {
        for payload_bytes in [0, 1, 63, 64, 0x3fff, 0x4000, 100_000] {
            let bytes = headers_of(payload_bytes);
            let mut decoder = FrameDecoder::new(Role::Client, usize::MAX);
            let mut chunk = bytes.as_slice();
            let expected = vec![7; payload_bytes];
            assert_eq!(decoder.next(&mut chunk), Ok(Some(Event::Headers(&expected))), "{payload_bytes}");
            assert!(chunk.is_empty());
        }
    }

    #[test]
    fn headers_that_cannot_be_encoded_leave_nothing_behind() {
        let mut out = b"before".to_vec();
        let result = write_headers(&mut out, |out| {
            out.push(1);
            Err("no")
        });
        assert_eq!((result, out.as_slice()), (Err("no"), b"before".as_slice()));
    }

    #[test]
    fn frame_headers_are_as_short_as_they_can_be() {
        let mut out = Vec::new();
        write_data_header(&mut out, 5);
        write_headers_header(&mut out, 64);
        write_goaway(&mut out, 8);
        assert_eq!(out, [0x00, 0x05, 0x01, 0x40, 0x40, 0x07, 0x01, 0x08]);
    }
}

#[test]
fn error_codes_have_the_numbers_and_names_of_the_rfc() {
    for (code, value, name) in [
        (ErrorCode::H3_NO_ERROR, 0x100, "H3_NO_ERROR"),
        (ErrorCode::H3_MESSAGE_ERROR, 0x10e, "H3_MESSAGE_ERROR"),
        (ErrorCode::H3_VERSION_FALLBACK, 0x110, "H3_VERSION_FALLBACK"),
        (ErrorCode::QPACK_DECODER_STREAM_ERROR, 0x202, "QPACK_DECODER_STREAM_ERROR"),
    ] {
        assert_eq!((code.value(), code.name()), (value, Some(name)));
        assert_eq!(ErrorCode::from_value(value), code);
    }
    assert_eq!(ErrorCode::from_value(0x21).to_string(), "0x21");
}

//! What a client may do is understood, down to the parts of HTTP/3 that we make
//! no use of; and what we send is what the RFCs ask of a server.

use quinn::RecvStream;
use sluice_net::tls::{EarlyData, Trust, client_crypto};

use std::sync::Arc;

use crate::common::client::{Client, config, endpoint};
use crate::common::raw::{
    CONTROL, DATA, HEADERS, Raw, SETTINGS, control, frame, frames, get, headers, read, request, status,
    varint,
};
use crate::common::server::{Server, Setup};
use crate::common::{guard, until};

// RFC 9114 section 8.1.
const STREAM_CREATION_ERROR: u64 = 0x103;
const CLOSED_CRITICAL_STREAM: u64 = 0x104;
const FRAME_ERROR: u64 = 0x106;
const ID_ERROR: u64 = 0x108;
const SETTINGS_ERROR: u64 = 0x109;
const MESSAGE_ERROR: u64 = 0x10e;

const QPACK_ENCODER: u64 = 0x02;
const QPACK_DECODER: u64 = 0x03;
const GOAWAY: u64 = 0x07;
const MAX_PUSH_ID: u64 = 0x0d;

/// A reserved number of any kind (0x1f * N + 0x21).
const fn grease(n: u64) -> u64 {
    0x1f * n + 0x21
}

async fn answered(raw: &Raw, bytes: &[u8]) -> Result<Vec<u8>, u64> {
    let (mut send, mut answer) = raw.bi(bytes).await;
    let _ = send.finish();
    read(&mut answer).await
}

async fn is_served(raw: &Raw) {
    assert_eq!(status(&answered(raw, &get("/")).await.unwrap()), 200);
}

/// A connection with a good control stream, that behind it brings `frames`.
async fn told(frames: &[u8]) -> (Server, Raw, quinn::SendStream) {
    let server = Server::start(Setup::default());
    let raw = Raw::connect(server.address()).await;
    let control = raw.uni(&[&control()[..], frames].concat()).await;
    (server, raw, control)
}

/// Sends this on unidirectional streams of their own, all but the last in good order.
async fn streams_close(streams: &[&[u8]], code: u64) {
    let (_server, raw, _control) = told(b"").await;
    let mut open = vec![];
    for bytes in streams {
        open.push(raw.uni(bytes).await);
    }
    assert_eq!(raw.closed().await, code);
}

async fn control_closes(frames: &[u8], code: u64) {
    let (_server, raw, _control) = told(frames).await;
    assert_eq!(raw.closed().await, code);
}

/// The first bytes of the server's control stream: at least its whole SETTINGS.
async fn preamble(raw: &Raw) -> (Vec<u8>, RecvStream) {
    let mut stream = guard(raw.quic.accept_uni()).await.unwrap();
    let mut bytes = vec![];
    while bytes.len() < 3 || bytes.len() < 3 + usize::from(bytes[2]) {
        let chunk = guard(stream.read_chunk(1000, true)).await.unwrap().expect("never ends");
        bytes.extend_from_slice(&chunk.bytes);
    }
    (bytes, stream)
}

// ---- what we send ----

/// Without a word from the client, which opens no stream at all.
#[tokio::test]
async fn our_settings_come_first_and_unasked() {
    let server = Server::start(Setup::default());
    let raw = Raw::connect(server.address()).await;
    let (bytes, _control) = preamble(&raw).await;
    assert_eq!(u64::from(bytes[0]), CONTROL);
    assert_eq!(frames(&bytes[1..])[0].0, SETTINGS);
}

/// Nor do they close it, nor open others: there is no push and no dynamic table.
#[tokio::test]
async fn our_control_stream_is_the_only_one_and_stays_open() {
    let (_server, raw, _control) = told(b"").await;
    let (_, mut ours) = preamble(&raw).await;
    for _ in 0..10 {
        is_served(&raw).await;
    }
    let quiet = std::time::Duration::from_millis(50);
    assert!(tokio::time::timeout(quiet, ours.read_chunk(1000, true)).await.is_err());
    assert!(tokio::time::timeout(quiet, raw.quic.accept_uni()).await.is_err());
}

/// What a client remembers of our settings for 0-RTT holds on every connection.
#[tokio::test]
async fn our_settings_never_change() {
    let server = Server::start(Setup { cores: 2, early_data: EarlyData::On, ..Setup::default() });
    let mut tls = (*client_crypto(Trust::AnyServer).unwrap()).clone();
    tls.enable_early_data = true;
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let first = Raw::connect_with(config.clone(), server.address()).await;
    let (before, _control) = preamble(&first).await;
    is_served(&first).await;
    let endpoint = endpoint(server.address());
    let connecting = endpoint.connect_with(config, server.address(), "localhost").unwrap();
    let (quic, accepted) = connecting.into_0rtt().expect("a session to resume");
    let resumed = Raw::over(endpoint, quic);
    let (after, _control) = preamble(&resumed).await;
    assert!(guard(accepted).await);
    assert_eq!(after, before);
}

/// Every answer ends its stream, whatever became of the request: `read` waits
/// for that end.
#[tokio::test]
async fn every_answer_ends_its_stream() {
    let (server, raw, _control) = told(b"").await;
    for (path, expected) in [("/", 200), ("/denied", 403), ("/empty", 204), ("/big", 200), ("/drop", 500)] {
        assert_eq!(status(&answered(&raw, &get(path)).await.unwrap()), expected, "{path}");
    }
    // And so it does while the rest of the request is still to come.
    let (_open, mut answer) = raw.bi(&request(&[("content-length", "9999999")])).await;
    assert_eq!(status(&read(&mut answer).await.unwrap()), 413);
    assert_eq!(server.sum("streams_failed"), 0);
}

#[tokio::test]
async fn an_answer_to_head_has_no_content() {
    let (_server, raw, _control) = told(b"").await;
    let head = [(":method", "HEAD"), (":scheme", "https"), (":authority", "a"), (":path", "/big")];
    for path in ["/big", "/"] {
        let head = head.map(|(name, value)| if name == ":path" { (name, path) } else { (name, value) });
        let answer = answered(&raw, &headers(&head)).await.unwrap();
        assert_eq!(status(&answer), 200);
        let kinds: Vec<_> = frames(&answer).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [HEADERS], "{path}");
    }
}

// ---- streams ----

/// RFC 9204 section 4.2: allowed, though our settings leave them nothing to say.
#[tokio::test]
async fn qpack_streams_are_taken_though_they_have_no_use() {
    let (_server, raw, _control) = told(b"").await;
    let _encoder = raw.uni(&[varint(QPACK_ENCODER), vec![0x20]].concat()).await;
    let _decoder = raw.uni(&[varint(QPACK_DECODER), vec![0x40 | 4]].concat()).await;
    is_served(&raw).await;
    is_served(&raw).await;
}

#[tokio::test]
async fn second_qpack_streams() {
    for kind in [QPACK_ENCODER, QPACK_DECODER] {
        streams_close(&[&varint(kind), &varint(kind)], STREAM_CREATION_ERROR).await;
    }
}

#[tokio::test]
async fn qpack_streams_that_end() {
    for kind in [QPACK_ENCODER, QPACK_DECODER] {
        for is_reset in [false, true] {
            let (_server, raw, _control) = told(b"").await;
            let mut stream = raw.uni(&varint(kind)).await;
            // Its type must have arrived, or it is a stream of no type that ends.
            is_served(&raw).await;
            if is_reset {
                stream.reset(0u32.into()).unwrap()
            } else {
                stream.finish().unwrap()
            }
            assert_eq!(raw.closed().await, CLOSED_CRITICAL_STREAM);
        }
    }
}

#[tokio::test]
async fn streams_that_end_before_they_have_a_type() {
    let (_server, raw, _control) = told(b"").await;
    for bytes in [b"".as_slice(), &[0x40], &[0xc0, 0, 0]] {
        for is_reset in [false, true] {
            let mut stream = raw.uni(bytes).await;
            if is_reset { stream.reset(0u32.into()).unwrap() } else { stream.finish().unwrap() }
        }
    }
    is_served(&raw).await;
}

/// QUIC may bring a request before the control stream, or without it.
#[tokio::test]
async fn requests_are_served_before_the_client_has_sent_its_settings() {
    let server = Server::start(Setup::default());
    let raw = Raw::connect(server.address()).await;
    is_served(&raw).await;
    let _control = raw.uni(&control()).await;
    is_served(&raw).await;
}

// ---- the client's control stream ----

#[tokio::test]
async fn settings_nobody_knows_are_ignored() {
    let server = Server::start(Setup::default());
    let raw = Raw::connect(server.address()).await;
    let mut payload = vec![];
    for id in [grease(0), grease(1_000_000_000), 0x08, 0x33, (1 << 62) - 1] {
        payload.extend(varint(id));
        payload.extend(varint((1 << 62) - 1));
    }
    let _control = raw.uni(&[varint(CONTROL), frame(SETTINGS, &payload)].concat()).await;
    is_served(&raw).await;
    assert_eq!(server.sum("connections_failed"), 0);
}

#[tokio::test]
async fn a_setting_that_comes_twice() {
    let settings = |payload: &[u8]| [varint(CONTROL), frame(SETTINGS, payload)].concat();
    for id in [0x01, 0x06, 0x21] {
        let server = Server::start(Setup::default());
        let raw = Raw::connect(server.address()).await;
        let _control = raw.uni(&settings(&[id, 0x00, id, 0x00])).await;
        assert_eq!(raw.closed().await, SETTINGS_ERROR);
    }
}

#[tokio::test]
async fn a_client_may_allow_pushes_and_wind_up() {
    let id = |kind, id| frame(kind, &varint(id));
    let frames = [
        id(MAX_PUSH_ID, 3),
        id(MAX_PUSH_ID, 3),
        id(MAX_PUSH_ID, 70_000),
        frame(grease(7), b"padding"),
        id(GOAWAY, 9),
        id(GOAWAY, 0),
    ];
    let (server, raw, _control) = told(&frames.concat()).await;
    // It said that it takes no pushes any more; its requests go on.
    is_served(&raw).await;
    is_served(&raw).await;
    assert_eq!(server.sum("connections_failed"), 0);
}

#[tokio::test]
async fn pushes_allowed_and_then_forbidden() {
    let id = |id| frame(MAX_PUSH_ID, &varint(id));
    control_closes(&[id(3), id(2)].concat(), ID_ERROR).await;
}

#[tokio::test]
async fn frames_whose_length_does_not_fit_what_they_hold() {
    for kind in [GOAWAY, MAX_PUSH_ID, 0x03] {
        for payload in [b"".as_slice(), &[0x40], &[0, 0]] {
            control_closes(&frame(kind, payload), FRAME_ERROR).await;
        }
    }
}

// ---- messages ----

/// RFC 9114 section 4.1: what looks like a second request is no trailers.
#[tokio::test]
async fn a_second_request_on_a_stream() {
    let (_server, raw, _control) = told(b"").await;
    let twice = [request(&[]), frame(DATA, b"a"), request(&[])].concat();
    assert_eq!(answered(&raw, &twice).await, Err(MESSAGE_ERROR));
    is_served(&raw).await;
}

#[tokio::test]
async fn trailers_that_are_no_trailers() {
    for field in [(":path", "/"), ("Sum", "1"), ("sum", "a\nb"), ("connection", "close"), ("te", "trailers")]
    {
        let (server, raw, _control) = told(b"").await;
        let bytes = [request(&[]), frame(DATA, b"a"), headers(&[field])].concat();
        assert_eq!(answered(&raw, &bytes).await, Err(MESSAGE_ERROR), "{field:?}");
        assert_eq!(server.sum("requests"), 0);
        is_served(&raw).await;
    }
}

/// Neither of them is offered: the plain one is answered, the extended one (RFC
/// 9220) has a pseudo-header that is not defined here.
#[tokio::test]
async fn tunnels_are_refused() {
    let (_server, raw, _control) = told(b"").await;
    let plain = headers(&[(":method", "CONNECT"), (":authority", "localhost:1")]);
    assert_eq!(status(&answered(&raw, &plain).await.unwrap()), 501);
    let extended = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", "/"),
    ];
    assert_eq!(answered(&raw, &headers(&extended)).await, Err(MESSAGE_ERROR));
    let mixed = headers(&[extended[0], extended[2], extended[3], extended[4]]);
    assert_eq!(answered(&raw, &mixed).await, Err(MESSAGE_ERROR));
    is_served(&raw).await;
}

#[tokio::test]
async fn options_may_ask_about_the_server_as_a_whole() {
    let (_server, raw, _control) = told(b"").await;
    let options =
        |path| headers(&[(":method", "OPTIONS"), (":scheme", "https"), (":authority", "a"), (":path", path)]);
    assert_eq!(status(&answered(&raw, &options("*")).await.unwrap()), 200);
    assert_eq!(status(&answered(&raw, &options("/")).await.unwrap()), 200);
    // Nobody else may.
    let get = headers(&[(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "*")]);
    assert_eq!(answered(&raw, &get).await, Err(MESSAGE_ERROR));
}

#[tokio::test]
async fn lengths_that_contradict_each_other() {
    let (_server, raw, _control) = told(b"").await;
    for lengths in [["4", "4"], ["4", "5"]] {
        let fields = lengths.map(|length| ("content-length", length));
        let bytes = [request(&fields), frame(DATA, b"four")].concat();
        assert_eq!(answered(&raw, &bytes).await, Err(MESSAGE_ERROR));
    }
    let right = [request(&[("content-length", "4")]), frame(DATA, b"fo"), frame(DATA, b"ur")].concat();
    assert_eq!(status(&answered(&raw, &right).await.unwrap()), 200);
}

// ---- codes nobody knows ----

/// RFC 9114 section 8: they mean no more than that it is over.
#[tokio::test]
async fn codes_nobody_knows_end_only_what_they_concern() {
    let (server, raw, _control) = told(b"").await;
    let code = quinn::VarInt::from_u64(grease(1_000_000)).unwrap();
    let (mut send, _answer) = raw.bi(&request(&[])).await;
    is_served(&raw).await;
    send.reset(code).unwrap();
    let (mut send, mut answer) = raw.bi(&get("/held")).await;
    send.finish().unwrap();
    until("the request is there", || server.sum("requests") == 2).await;
    answer.stop(code).unwrap();
    until("both are given up", || server.sum("streams_abandoned") == 2).await;
    is_served(&raw).await;
    let bystander = Client::connect(server.address()).await;
    raw.quic.close(code, b"grease");
    until("it is gone", || server.sum("connections") == 1).await;
    assert_eq!(bystander.get("/").await.status, 200);
    assert_eq!(server.sum("connections_failed"), 0);
    server.release(1);
}

/// RFC 9114 section 3.2 and RFC 7301: the name `h3`, and none without.
#[tokio::test]
async fn h3_is_what_the_handshake_agrees_on() {
    let server = Server::start(Setup::default());
    let raw = Raw::connect_with(config(), server.address()).await;
    let data = raw.quic.handshake_data().unwrap();
    let data = data.downcast::<quinn::crypto::rustls::HandshakeData>().unwrap();
    assert_eq!(data.protocol.as_deref(), Some(&b"h3"[..]));
}

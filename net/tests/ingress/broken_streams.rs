//! Bodies in pieces: none is lost, taken for whole when it is not, or kept for who does not read it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::Method;

use crate::common::client::{Client, config, receive};
use crate::common::raw::{DATA, PSEUDO, Raw, frame, frames, get, headers, read, status};
use crate::common::server::{BODY_BYTES_MAX, Server, Setup};
use crate::common::{guard, pattern, until};

const NO_ERROR: u64 = 0x100;
const INTERNAL_ERROR: u64 = 0x102;
const EXCESSIVE_LOAD: u64 = 0x107;

/// A client that gives this much room to any answer.
async fn narrow(server: &Server, window_bytes: u32) -> Raw {
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(window_bytes.into());
    let mut config = config();
    config.transport_config(Arc::new(transport));
    Raw::connect_with(config, server.address()).await
}

fn to(path: &'static str) -> Vec<u8> {
    let mut fields = PSEUDO;
    fields[3].1 = path;
    headers(&fields)
}

#[tokio::test]
async fn a_body_goes_through_in_pieces_both_ways() {
    let server = Server::start(Setup::default());
    let client = Client::connect(server.address()).await;
    for length in [0, 1, 70_000, BODY_BYTES_MAX] {
        let body = pattern(length);
        let mut stream = client.open(Method::POST, "/piped", Some(length)).await.unwrap();
        let sent = async {
            stream.send_data(Bytes::from(body.clone())).await.unwrap();
            stream.finish().await.unwrap();
            receive(&mut stream).await.unwrap()
        };
        let answer = guard(sent).await;
        assert_eq!((answer.status, answer.headers.get("content-length")), (200, None));
        assert!(answer.body == body, "{length} bytes came back changed");
    }
    assert_eq!((server.sum("requests_streamed"), server.sum("responses_streamed")), (4, 4));
    assert_eq!((server.sum("responses"), server.sum("responses_broken")), (4, 0));
}

#[tokio::test]
async fn a_service_writes_no_more_than_the_bounds_for_a_client_that_does_not_read() {
    let server = Server::start(Setup::default());
    let raw = narrow(&server, 10_000).await;
    let (mut send, mut receive) = raw.bi(&get("/endless")).await;
    send.finish().unwrap();
    let mut before = 0;
    until("the writer waits", || {
        let now = server.routes.written.load(Relaxed);
        std::thread::sleep(Duration::from_millis(20));
        now > 0 && now == std::mem::replace(&mut before, now)
    })
    .await;
    // What waits, one piece on its way, and the client's window.
    assert!(before <= 64 * 1024 + 16 * 1024 + 10_000, "{before} bytes were taken");
    // The client takes some, and the writer goes on.
    let mut taken = 0;
    while taken < 200_000 {
        taken += guard(receive.read_chunk(50_000, true)).await.unwrap().unwrap().bytes.len();
    }
    until("more is written", || server.routes.written.load(Relaxed) > 200_000).await;
    // It does not want the rest: the writer is told.
    receive.stop(0x10cu32.into()).unwrap();
    until("the writer knows", || server.routes.gone.load(Relaxed) == 1).await;
    assert_eq!(server.sum("streams_abandoned"), 1);
}

#[tokio::test]
async fn a_writer_learns_that_its_clients_connection_is_over() {
    let server = Server::start(Setup::default());
    let raw = Raw::connect(server.address()).await;
    let (mut send, mut receive) = raw.bi(&get("/quiet")).await;
    send.finish().unwrap();
    let (mut send, _unread) = raw.bi(&get("/endless")).await;
    send.finish().unwrap();
    guard(receive.read_chunk(10, true)).await.unwrap();
    raw.quic.close(0u32.into(), b"");
    until("both writers know", || server.routes.gone.load(Relaxed) == 2).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_reset() {
    let server = Server::start(Setup::default());
    let raw = Raw::connect(server.address()).await;
    let (mut send, mut receive) = raw.bi(&get("/broken")).await;
    send.finish().unwrap();
    assert_eq!(read(&mut receive).await, Err(INTERNAL_ERROR));
    until("it is counted", || server.sum("responses_broken") == 1).await;
    assert_eq!(server.sum("responses"), 0);
}

#[tokio::test]
async fn an_answer_to_head_has_no_body_and_ends() {
    let server = Server::start(Setup::default());
    let client = Client::connect(server.address()).await;
    let answer = client.request(Method::HEAD, "/quiet", b"").await.unwrap();
    assert_eq!((answer.status, answer.body.len(), answer.headers.get("content-length")), (200, 0, None));
    until("the writer knows", || server.routes.gone.load(Relaxed) == 1).await;
}

/// Time runs only while the client is waited for.
#[tokio::test]
async fn a_quiet_answer_is_not_stalled_and_one_that_is_not_taken_is() {
    let mut setup = Setup::default();
    setup.ingress.request_timeout = Duration::from_millis(200);
    let server = Server::start(setup);
    let raw = narrow(&server, 10_000).await;
    let (mut send, mut quiet) = raw.bi(&get("/quiet")).await;
    send.finish().unwrap();
    let (mut send, mut unread) = raw.bi(&get("/endless")).await;
    send.finish().unwrap();
    until("the one is given up", || server.sum("responses_stalled") == 1).await;
    assert_eq!(read(&mut unread).await, Err(EXCESSIVE_LOAD));
    until("its writer knows", || server.routes.gone.load(Relaxed) == 1).await;
    server.release(1);
    let answer = frames(&read(&mut quiet).await.unwrap());
    assert_eq!(answer[1..], [(DATA, b"first".to_vec()), (DATA, b"last".to_vec())]);
    assert_eq!(server.sum("responses_stalled"), 1);
}

#[tokio::test]
async fn a_client_is_held_back_while_its_body_is_not_read() {
    let mut setup = Setup::default();
    setup.ingress.request_timeout = Duration::from_millis(200);
    let server = Server::start(setup);
    let raw = Raw::connect(server.address()).await;
    let body = pattern(BODY_BYTES_MAX);
    let message = [to("/unread"), frame(DATA, &body)].concat();
    let (mut send, mut receive) = guard(raw.quic.open_bi()).await.unwrap();
    let mut sent = 0;
    // Ends when there is no room for as long as a request may take, five times over.
    while let Ok(written) = tokio::time::timeout(Duration::from_secs(1), send.write(&message[sent..])).await {
        sent += written.unwrap();
    }
    // What the service was given, and the windows of the stream: of either side.
    assert!(sent <= 64 * 1024 + 256 * 1024 + 16 * 1024, "{sent} bytes were taken");
    server.release(1);
    guard(send.write_all(&message[sent..])).await.unwrap();
    send.finish().unwrap();
    let answer = read(&mut receive).await.unwrap();
    assert_eq!(frames(&answer)[1].1, BODY_BYTES_MAX.to_string().as_bytes());
    assert_eq!(server.sum("requests_timed_out"), 0);
}

#[tokio::test]
async fn a_body_in_pieces_that_is_too_long_or_too_late_ends_with_that() {
    let mut setup = Setup::default();
    setup.ingress.request_timeout = Duration::from_millis(200);
    let server = Server::start(setup);
    server.release(2);
    let raw = Raw::connect(server.address()).await;
    let (mut send, mut receive) = raw.bi(&to("/unread")).await;
    let body = frame(DATA, &vec![0; BODY_BYTES_MAX + 1]);
    let _ = guard(send.write_all(&body)).await;
    let _ = send.finish();
    assert_eq!(status(&read(&mut receive).await.unwrap()), 413);
    let (mut late, mut receive) = raw.bi(&to("/unread")).await;
    assert_eq!(status(&read(&mut receive).await.unwrap()), 408);
    assert_eq!(guard(late.stopped()).await.unwrap().map(quinn::VarInt::into_inner), Some(NO_ERROR));
    let _ = late.finish();
    assert_eq!((server.sum("requests_body_too_large"), server.sum("requests_timed_out")), (1, 1));
    // Announced to be too long, it does not reach the service.
    let client = Client::connect(server.address()).await;
    let mut stream = client.open(Method::POST, "/unread", Some(BODY_BYTES_MAX + 1)).await.unwrap();
    assert_eq!(receive_status(&mut stream).await, 413);
    assert_eq!(server.sum("requests_streamed"), 2);
}

async fn receive_status(stream: &mut crate::common::client::Stream) -> u16 {
    guard(stream.recv_response()).await.unwrap().status().as_u16()
}

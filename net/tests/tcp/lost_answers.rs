//! Answers that clients are owed and could miss: when they are refused in the midst of sending, and at the end.

use std::time::Duration;

use hyper::http::Request;
use sluice_net::tcp::{Cut, Refused};

use crate::client::{
    Client, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, Raw, code, fields, frame, get, status,
};
use crate::server::{Server, Setup, guard, until};

const FOREVER: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let server = Server::start(Setup::default());
    for length in [1_000_000, 100_000_000] {
        let mut raw = Raw::http1(server.address).await;
        let head = format!("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
        raw.write(head.as_bytes()).await;
        // More than the sockets hold, so that some of it is unread when the server is done.
        raw.write(&vec![0; 900_000]).await;
        let (head, _) = raw.answer().await;
        assert_eq!(status(&head), 413);
        assert_eq!(raw.read_to_end().await, b"", "and the connection ends in good order");
    }
}

#[tokio::test]
async fn over_http2_a_refusal_ends_the_stream_and_not_the_connection() {
    let server = Server::start(Setup::default());
    let mut raw = Raw::http2(server.address).await;
    let lines =
        [(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", "/denied")];
    raw.write(&frame(HEADERS, END_HEADERS, 1, &fields(&lines))).await;
    let (flags, stream, _) = raw.frame_of(HEADERS).await;
    assert_eq!((flags & END_STREAM, stream), (END_STREAM, 1));
    // RFC 9113 section 8.1: NO_ERROR, the rest of the body is not needed.
    let (_, stream, reason) = raw.frame_of(RST_STREAM).await;
    assert_eq!((stream, reason), (1, vec![0, 0, 0, 0]));
    raw.write(&get(3, "/empty")).await;
    assert_eq!(raw.frame_of(HEADERS).await.1, 3);
}

#[tokio::test]
async fn a_core_that_ends_tells_whoever_waits_and_whoever_comes() {
    let mut server = Server::start(Setup::default());
    let [mut old, mut new] = Client::both(server.address).await;
    let ending = async {
        server.until_pending(2).await;
        server.end_core(0);
    };
    let ((), old_answer, new_answer) =
        tokio::join!(ending, old.send(Request::get("/held"), ""), new.send(Request::get("/held"), ""));
    for answer in [old_answer.unwrap(), new_answer.unwrap()] {
        // 500 when the service let go of it, 503 when it was still on its way.
        assert!(matches!(answer.status, 500 | 503), "{answer:?}");
    }
    let answer = new.get("/").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.field("content-type"), Some("application/problem+json"));
    assert!(answer.text().contains("/problems/shutting-down"), "{answer:?}");
    assert!(server.refused(Refused::CoreClosed) >= 1);
}

#[tokio::test]
async fn winding_up_finishes_what_is_under_way_and_takes_nothing_new() {
    let mut server = Server::start(Setup::default());
    let mut idle = Raw::http1(server.address).await;
    let mut old = Raw::http1(server.address).await;
    let mut new = Raw::http2(server.address).await;
    assert_eq!(idle.ask("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.0, 200);
    old.write(b"GET /held HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    new.write(&get(1, "/held")).await;
    server.until_pending(2).await;
    let drained = server.drain(FOREVER);
    assert_eq!(idle.read_to_end().await, b"");
    drop(idle);
    // The client is told before the last answer, so that it opens nothing more.
    assert_eq!(code(&new.frame_of(GOAWAY).await.2), 0);
    until("nobody listens", || std::net::TcpStream::connect(server.address).is_err()).await;
    server.release(2);
    let (head, body) = old.answer().await;
    assert!(head.contains("connection: close") && body == "held", "{head}{body}");
    assert_eq!(old.read_to_end().await, b"");
    assert_eq!(new.frame_of(HEADERS).await.1, 1);
    // A client that goes on reading answers PING by itself; this one hangs up instead.
    drop((old, new));
    guard(drained).await.unwrap();
    assert_eq!((server.connections(), server.stats.cut(Cut::Drained)), (0, 0));
}

#[tokio::test]
async fn real_clients_notice_the_end_by_themselves() {
    let mut server = Server::start(Setup::default());
    let [mut old, mut new] = Client::both(server.address).await;
    assert_eq!((old.get("/").await.status, new.get("/").await.status), (200, 200));
    guard(server.drain(FOREVER)).await.unwrap();
    until("both are closed", || old.is_closed() && new.is_closed()).await;
}

#[tokio::test]
async fn what_outlasts_the_grace_is_cut_and_counted() {
    let mut server = Server::start(Setup::default());
    let mut old = Raw::http1(server.address).await;
    old.write(b"GET /held HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    server.until_pending(1).await;
    guard(server.drain(Duration::ZERO)).await.unwrap();
    assert_eq!(old.read_until_gone().await, b"");
    assert_eq!(server.stats.cut(Cut::Drained), 1);
    server.release(1);
    server.until_pending(0).await;
}

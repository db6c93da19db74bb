//! Clients that take their time hold what they have for a while, and no longer.

use std::time::Duration;

use crate::common::client::{Client, config};
use crate::common::raw::{DATA, PSEUDO, Raw, frame, get, headers, read, request, status};
use crate::common::server::{BIG_BYTES, Server, Setup};
use crate::common::{guard, pattern, until};

const EXCESSIVE_LOAD: u64 = 0x107;

fn impatient() -> Server {
    let mut setup = Setup::default();
    setup.ingress.request_timeout = Duration::from_millis(200);
    setup.ingress.handshake_timeout = Duration::from_millis(200);
    Server::start(setup)
}

/// A client that gives little room to any answer, and reads none.
async fn unreading(server: &Server) -> Raw {
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(10_000u32.into());
    let mut config = config();
    config.transport_config(std::sync::Arc::new(transport));
    Raw::connect_with(config, server.address()).await
}

#[tokio::test]
async fn a_request_that_never_becomes_whole_is_answered_408() {
    let server = impatient();
    let raw = Raw::connect(server.address()).await;
    let whole_head = request(&[]);
    for half in [&whole_head[..1], &whole_head[..20], &whole_head, &[&whole_head[..], &[0, 50]].concat()] {
        let (_send, mut receive) = raw.bi(half).await;
        assert_eq!(status(&read(&mut receive).await.unwrap()), 408);
    }
    assert_eq!(server.sum("requests_timed_out"), 4);
    assert_eq!((server.sum("requests"), server.sum("responses")), (0, 4));
    // The connection is as good as before.
    let (mut send, mut receive) = raw.bi(&get("/")).await;
    send.finish().unwrap();
    assert_eq!(status(&read(&mut receive).await.unwrap()), 200);
}

#[tokio::test]
async fn a_body_that_trickles_does_not_outlast_the_limit() {
    let server = impatient();
    let raw = Raw::connect(server.address()).await;
    let (mut send, mut receive) = raw.bi(&headers(&PSEUDO)).await;
    let trickle = async {
        // Ends when the server wants no more of it.
        while send.write_all(&frame(DATA, b"x")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    guard(trickle).await;
    assert_eq!(status(&read(&mut receive).await.unwrap()), 408);
    assert_eq!(server.sum("requests_timed_out"), 1);
}

/// The time that the service takes is not the client's.
#[tokio::test]
async fn a_request_that_is_worked_on_has_all_the_time_it_needs() {
    let server = impatient();
    let client = Client::connect(server.address()).await;
    let held = client.get("/held");
    let other = async {
        let raw = Raw::connect(server.address()).await;
        let (_send, mut receive) = raw.bi(&request(&[])).await;
        assert_eq!(status(&read(&mut receive).await.unwrap()), 408);
        server.release(1);
    };
    assert_eq!(tokio::join!(held, other).0.status, 200);
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_given_up() {
    let mut setup = Setup::default();
    setup.ingress.request_timeout = Duration::from_millis(600);
    let server = Server::start(setup);
    let raw = unreading(&server).await;
    let (mut send, mut receive) = raw.bi(&get("/big")).await;
    send.finish().unwrap();
    until("it is given up", || server.sum("responses_stalled") == 1).await;
    assert_eq!(read(&mut receive).await, Err(EXCESSIVE_LOAD));
    // A client that reads slowly, but does, gets all of it.
    let (mut send, mut receive) = raw.bi(&get("/big")).await;
    send.finish().unwrap();
    let mut answer = vec![];
    while let Some(piece) = guard(receive.read_chunk(50_000, true)).await.unwrap() {
        answer.extend_from_slice(&piece.bytes);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(answer.ends_with(&pattern(BIG_BYTES)), "what moved meanwhile has changed");
    assert_eq!(server.sum("responses_stalled"), 1);
}

/// Sixteen answers of 1 MiB may wait, less the 10,000 bytes of each that went.
#[tokio::test]
async fn answers_that_wait_are_bounded_in_bytes() {
    let server = Server::start(Setup::default());
    let raw = unreading(&server).await;
    let mut streams = vec![];
    for _ in 0..24 {
        let (mut send, receive) = raw.bi(&get("/big")).await;
        send.finish().unwrap();
        streams.push(receive);
    }
    until("all are answered", || server.sum("responses") + server.sum("responses_over_bound") == 24).await;
    assert_eq!(server.sum("responses_over_bound"), 8);
    let mut reset = 0;
    for mut stream in streams {
        match read(&mut stream).await {
            Ok(answer) => assert_eq!(status(&answer), 200),
            Err(code) => {
                assert_eq!(code, EXCESSIVE_LOAD);
                reset += 1;
            }
        }
    }
    assert_eq!(reset, 8);
}

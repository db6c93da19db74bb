//! Every bound on connections holds, and what is refused is counted.

use std::time::Duration;

use crate::common::client::{Client, config};
use crate::common::raw::Raw;
use crate::common::server::{Server, Setup};
use crate::common::{guard, until};

#[tokio::test]
async fn connections_past_the_bound_are_refused_until_one_closes() {
    let mut setup = Setup::default();
    setup.ingress.connections_max = 2;
    let server = Server::start(setup);
    let first = Client::connect(server.address()).await;
    let second = Client::connect(server.address()).await;
    let refused = Client::connect_with(config(), server.address()).await.err().expect("refused");
    match refused {
        quinn::ConnectionError::ConnectionClosed(close) => assert_eq!(u64::from(close.error_code), 0x02),
        other => panic!("{other}"),
    }
    assert_eq!((server.sum("connections_refused"), server.sum("connections_accepted")), (1, 2));
    first.close().await;
    until("its place is free", || server.sum("connections") == 1).await;
    let third = Client::connect(server.address()).await;
    assert_eq!((third.get("/").await.status, second.get("/").await.status), (200, 200));
}

#[tokio::test]
async fn a_flood_of_handshakes_must_prove_its_addresses() {
    let mut setup = Setup::default();
    setup.ingress.handshakes_max = 0;
    let server = Server::start(setup);
    let client = Client::connect(server.address()).await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!((server.sum("connections_retried"), server.sum("connections_accepted")), (1, 1));
}

#[tokio::test]
async fn handshakes_that_are_done_no_longer_count() {
    let mut setup = Setup::default();
    setup.ingress.handshakes_max = 1;
    let server = Server::start(setup);
    for _ in 0..5 {
        let client = Client::connect(server.address()).await;
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(server.sum("connections_retried"), 0);
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let mut setup = Setup::default();
    setup.ingress.idle_timeout = Duration::from_millis(200);
    let server = Server::start(setup);
    let raw = Raw::connect(server.address()).await;
    until("it is gone", || server.sum("connections") == 0).await;
    assert!(matches!(guard(raw.quic.closed()).await, quinn::ConnectionError::TimedOut));
    assert_eq!(server.sum("connections_closed"), 1);
}

#[tokio::test]
async fn the_stream_limit_is_what_was_configured() {
    let mut setup = Setup::default();
    setup.ingress.streams_max = 3;
    let server = Server::start(setup);
    let raw = Raw::connect(server.address()).await;
    let mut open = vec![];
    for _ in 0..3 {
        open.push(guard(raw.quic.open_bi()).await.unwrap());
    }
    let fourth = tokio::time::timeout(Duration::from_millis(100), raw.quic.open_bi()).await;
    assert!(fourth.is_err(), "a fourth stream was allowed");
}

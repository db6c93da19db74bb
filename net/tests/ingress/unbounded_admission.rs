//! Every bound on connections holds, and what is refused is counted.

use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::common::client::{Client, config, endpoint};
use crate::common::raw::{Raw, get, read, status};
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

/// Settings of a client that never falls silent.
fn restless() -> quinn::ClientConfig {
    let mut transport = quinn::TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_millis(50)));
    let mut config = config();
    config.transport_config(Arc::new(transport));
    config
}

#[tokio::test]
async fn a_connection_without_requests_is_ended_whatever_it_sends() {
    let mut setup = Setup::default();
    setup.ingress.idle_timeout = Duration::from_millis(1_500);
    setup.ingress.unused_timeout = Some(Duration::from_millis(1_500));
    let server = Server::start(setup);
    let busy = Raw::connect_with(restless(), server.address()).await;
    let (mut send, mut answer) = busy.bi(&get("/held")).await;
    send.finish().unwrap();
    let idle = Raw::connect_with(restless(), server.address()).await;
    match guard(idle.quic.closed()).await {
        quinn::ConnectionError::ApplicationClosed(close) => assert_eq!(u64::from(close.error_code), 0x100),
        other => panic!("{other}"),
    }
    // The one that began before has a request, however long that takes.
    assert_eq!(server.sum("connections_unused"), 1);
    server.routes.gate.add_permits(1);
    assert_eq!(status(&read(&mut answer).await.unwrap()), 200);
    until("it ends as well", || server.sum("connections_unused") == 2).await;
    assert_eq!(server.sum("connections_failed"), 0);
}

#[tokio::test]
async fn an_address_has_its_share_of_connections() {
    let mut setup = Setup::default();
    setup.ingress.connections_per_address_max = NonZeroU32::new(2);
    let server = Server::start(setup);
    let first = Client::connect(server.address()).await;
    let second = Client::connect(server.address()).await;
    // A client is done with its handshake before the server, which counts it when its address is proven.
    assert_eq!((first.get("/").await.status, second.get("/").await.status), (200, 200));
    let refused = Client::connect_with(config(), server.address()).await.err().expect("refused");
    match refused {
        quinn::ConnectionError::ConnectionClosed(close) => assert_eq!(u64::from(close.error_code), 0x02),
        other => panic!("{other}"),
    }
    assert_eq!((server.sum("connections_crowded"), server.sum("connections_refused")), (1, 0));
    let elsewhere = quinn::Endpoint::client((Ipv4Addr::new(127, 0, 0, 2), 0).into()).unwrap();
    let other = elsewhere.connect_with(config(), server.address(), "localhost").unwrap();
    let _other = guard(other).await.expect("another address has its own");
    first.close().await;
    until("its place is free", || server.sum("connections") == 2).await;
    let third = Client::connect(server.address()).await;
    assert_eq!((third.get("/").await.status, second.get("/").await.status), (200, 200));
    assert_eq!(server.sum("connections_crowded"), 1);
}

/// Whose address is not proven takes no share, or a forger could use up that of another: it shows when they are.
#[tokio::test]
async fn handshakes_at_the_same_moment_do_not_go_beyond_the_share() {
    let mut setup = Setup::default();
    setup.ingress.connections_per_address_max = NonZeroU32::new(1);
    let server = Server::start(setup);
    let endpoint = endpoint(server.address());
    let connect = || endpoint.connect_with(config(), server.address(), "localhost").unwrap();
    let connecting: Vec<_> = std::iter::repeat_with(connect).take(8).collect();
    let mut open = vec![];
    for connecting in connecting {
        open.extend(guard(connecting).await);
    }
    until("all but one are refused or closed", || server.sum("connections_crowded") == 7).await;
    until("and gone", || server.sum("connections") == 1).await;
}

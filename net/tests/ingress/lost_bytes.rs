//! Requests and answers arrive whole, whatever their size and number.

use bytes::Bytes;
use http::Method;
use sluice_net::tls::{EarlyData, Trust, client_crypto};

use crate::common::client::{Client, config, endpoint, receive};
use crate::common::server::{BIG_BYTES, BODY_BYTES_MAX, Server, Setup};
use crate::common::{guard, pattern};

use std::sync::Arc;

async fn round_trips(address: &str) {
    let server = Server::start(Setup { addresses: vec![address.parse().unwrap()], ..Setup::default() });
    let client = Client::connect(server.address()).await;
    let answer = client.get("/hello?x=1").await;
    assert_eq!(answer.headers["content-length"], answer.body.len().to_string());
    let json = answer.json();
    assert_eq!((json["method"].as_str(), json["path"].as_str()), (Some("GET"), Some("/hello")));
    assert_eq!(json["early_data"], false);
    for len in [1, 1200, 20_000, BODY_BYTES_MAX] {
        client.post("/", &pattern(len)).await.assert_echoes(&pattern(len));
    }
    assert_eq!(client.get("/big").await.body, pattern(BIG_BYTES));
}

#[tokio::test]
async fn requests_and_answers_of_all_sizes_cross_ipv4() {
    round_trips("127.0.0.1:0").await;
}

#[tokio::test]
async fn requests_and_answers_of_all_sizes_cross_ipv6() {
    round_trips("[::1]:0").await;
}

#[tokio::test]
async fn one_server_speaks_both_families_on_wildcard_addresses() {
    let addresses = vec!["0.0.0.0:0".parse().unwrap(), "[::]:0".parse().unwrap()];
    let server = Server::start(Setup { addresses, ..Setup::default() });
    for (to, listener) in [("127.0.0.1", 0), ("127.0.0.77", 0), ("::1", 1)] {
        let to = (to.parse::<std::net::IpAddr>().unwrap(), server.addresses[listener].port());
        let client = Client::connect(to.into()).await;
        client.post("/", b"either").await.assert_echoes(b"either");
    }
}

#[tokio::test]
async fn a_body_in_many_pieces_is_joined_in_order() {
    let server = Server::start(Setup::default());
    let client = Client::connect(server.address()).await;
    let body = pattern(30_000);
    let mut stream = client.open(Method::PUT, "/", Some(body.len())).await.unwrap();
    for piece in body.chunks(777) {
        guard(stream.send_data(Bytes::copy_from_slice(piece))).await.unwrap();
        tokio::task::yield_now().await;
    }
    guard(stream.finish()).await.unwrap();
    receive(&mut stream).await.unwrap().assert_echoes(&body);
}

#[tokio::test]
async fn a_body_announced_too_long_is_refused_at_its_head() {
    let server = Server::start(Setup::default());
    let client = Client::connect(server.address()).await;
    let mut stream = client.open(Method::POST, "/", Some(BODY_BYTES_MAX + 1)).await.unwrap();
    // Not a byte of it is sent.
    let answer = receive(&mut stream).await.unwrap();
    assert_eq!(answer.status, 413);
    assert!(!answer.body.is_empty());
    assert_eq!(server.sum("requests_body_too_large"), 1);
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn a_body_that_grows_too_long_is_refused_when_that_shows() {
    let server = Server::start(Setup::default());
    let client = Client::connect(server.address()).await;
    let mut stream = client.open(Method::POST, "/", None).await.unwrap();
    // The server asks to stop: that the write fails then is no fault.
    let _ = guard(stream.send_data(pattern(2 * BODY_BYTES_MAX).into())).await;
    assert_eq!(receive(&mut stream).await.unwrap().status, 413);
    assert_eq!(server.sum("requests"), 0);
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn an_answer_without_content_has_none() {
    let server = Server::start(Setup::default());
    let client = Client::connect(server.address()).await;
    let head = client.request(Method::HEAD, "/big", b"").await.unwrap();
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.headers["content-length"], BIG_BYTES.to_string());
    let empty = client.get("/empty").await;
    assert_eq!((empty.status, empty.body.len()), (204, 0));
    assert!(!empty.headers.contains_key("content-length"));
}

#[tokio::test]
async fn a_hundred_requests_at_once_get_each_its_own_answer() {
    let server = Server::start(Setup::default());
    let client = Client::connect(server.address()).await;
    let mut streams = vec![];
    for n in 0..100 {
        let body = pattern(10 * n + 1);
        let path = if n % 2 == 0 { "/held" } else { "/slow" };
        let mut stream = client.open(Method::POST, path, None).await.unwrap();
        guard(stream.send_data(body.clone().into())).await.unwrap();
        guard(stream.finish()).await.unwrap();
        streams.push((stream, body));
    }
    server.release(50);
    for (stream, body) in streams.iter_mut().rev() {
        receive(stream).await.unwrap().assert_echoes(body);
    }
}

#[tokio::test]
async fn more_requests_than_the_stream_limit_wait_their_turn() {
    let mut setup = Setup::default();
    setup.ingress.streams_max = 4;
    let server = Server::start(setup);
    let client = Client::connect(server.address()).await;
    for _ in 0..100 {
        client.get("/").await;
        client.get("/denied").await;
    }
    assert_eq!(server.sum("responses"), 200);
}

#[tokio::test]
async fn large_answers_side_by_side_are_all_whole() {
    let server = Server::start(Setup::default());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let client = Client::connect(server.address()).await;
        tasks.spawn(async move {
            let (a, b) = tokio::join!(client.get("/big"), client.get("/big"));
            assert_eq!(a.body, pattern(BIG_BYTES));
            assert_eq!(b.body, pattern(BIG_BYTES));
        });
    }
    guard(tasks.join_all()).await;
}

/// A client whose windows are far smaller than the answer: the server waits for
/// room again and again, on the stream and on the connection.
#[tokio::test]
async fn a_large_answer_through_a_small_window_is_whole() {
    let server = Server::start(Setup::default());
    for (stream_window, connection_window) in [(5_000u32, 1_000_000u32), (1_000_000, 5_000), (5_000, 5_000)] {
        let mut transport = quinn::TransportConfig::default();
        transport.stream_receive_window(stream_window.into()).receive_window(connection_window.into());
        let mut config = config();
        config.transport_config(Arc::new(transport));
        let client = Client::connect_with(config, server.address()).await.unwrap();
        let (a, b) = tokio::join!(client.get("/big"), client.get("/big"));
        assert_eq!(a.body, pattern(BIG_BYTES));
        assert_eq!(b.body, pattern(BIG_BYTES));
    }
}

#[tokio::test]
async fn an_answer_on_the_head_alone_needs_no_body() {
    let server = Server::start(Setup::default());
    let client = Client::connect(server.address()).await;
    let mut stream = client.open(Method::POST, "/denied", None).await.unwrap();
    assert_eq!(receive(&mut stream).await.unwrap().status, 403);
    assert_eq!((server.sum("requests"), server.sum("requests_answered_early")), (0, 1));
}

#[tokio::test]
async fn a_request_that_is_dropped_is_answered_500() {
    let server = Server::start(Setup::default());
    let client = Client::connect(server.address()).await;
    assert_eq!(client.get("/drop").await.status, 500);
    assert_eq!(client.get("/invalid").await.status, 500);
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn a_request_in_early_data_is_answered_and_marked() {
    let server = Server::start(Setup { early_data: EarlyData::On, ..Setup::default() });
    let mut tls = (*client_crypto(Trust::AnyServer).unwrap()).clone();
    tls.enable_early_data = true;
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let first = Client::connect_with(config.clone(), server.address()).await.unwrap();
    assert_eq!(first.get("/").await.json()["early_data"], false);
    first.close().await;

    let endpoint = endpoint(server.address());
    let connecting = endpoint.connect_with(config, server.address(), "localhost").unwrap();
    let (quic, accepted) = connecting.into_0rtt().expect("a session to resume");
    let client = Client::over(endpoint, quic).await;
    assert_eq!(client.get("/").await.json()["early_data"], true);
    assert!(guard(accepted).await);
    assert_eq!(client.get("/").await.json()["early_data"], false);
}

//! The counters say what happened, and congestion marks are read and echoed.

use crate::common::client::{Client, config_for};
use crate::common::relay::{Direction, Relay};
use crate::common::server::{BIG_BYTES, Server, Setup};
use crate::common::{guard, pattern, until};

#[tokio::test]
async fn counters_add_up_and_gauges_come_back_to_zero() {
    let server = Server::start(Setup { cores: 2, ..Setup::default() });
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..6 {
        let client = Client::connect_with(config_for(&server, n % 2), server.address()).await.unwrap();
        tasks.spawn(async move {
            for path in ["/", "/slow", "/big", "/drop", "/denied"] {
                client.post(path, b"body").await;
            }
            client.close().await;
        });
    }
    guard(tasks.join_all()).await;
    until("connections are gone", || server.sum("connections") == 0).await;
    let expected = [
        ("connections_accepted", 6),
        ("connections_closed", 6),
        ("connections_refused", 0),
        ("connections_retried", 0),
        ("connections_rejected", 0),
        ("connections_failed", 0),
        ("requests", 24),
        ("requests_answered_early", 6),
        ("requests_in_flight", 0),
        ("responses", 30),
        ("responses_undeliverable", 0),
        ("streams_failed", 0),
        ("streams_abandoned", 0),
        ("requests_headers_too_large", 0),
        ("requests_body_too_large", 0),
        ("requests_refused_draining", 0),
        ("forwarded_out", 0),
        ("forwarded_lost", 0),
        ("datagrams_unroutable", 0),
    ];
    for (counter, value) in expected {
        assert_eq!(server.sum(counter), value, "{counter}");
    }
    for stats in &server.stats {
        assert_eq!(stats.requests.get(), 12);
    }
}

#[tokio::test]
async fn answers_to_a_client_that_has_gone_are_counted_as_such() {
    let server = Server::start(Setup::default());
    let client = Client::connect(server.address()).await;
    let mut stream = client.open(http::Method::GET, "/held", None).await.unwrap();
    guard(stream.finish()).await.unwrap();
    until("the request is there", || server.sum("requests_in_flight") == 1).await;
    client.close().await;
    until("the connection is gone", || server.sum("connections") == 0).await;
    server.release(1);
    until("the answer is dropped", || server.sum("requests_in_flight") == 0).await;
    assert_eq!((server.sum("responses"), server.sum("responses_undeliverable")), (0, 1));
    assert_eq!(server.sum("streams_abandoned"), 1);
}

/// Both sides go on marking only while the other reports what it saw of the
/// marks (RFC 9000 section 13.4.2).
#[tokio::test]
async fn ecn_marks_are_sent_and_reported_both_ways() {
    let server = Server::start(Setup::default());
    let relay = Relay::start(server.address()).await;
    let client = Client::connect(relay.address).await;
    client.post("/", &pattern(100_000)).await;
    client.get("/big").await;
    for direction in [Direction::ToServer, Direction::ToClient] {
        relay.take_counts(direction);
    }
    client.post("/", &pattern(100_000)).await;
    assert_eq!(client.get("/big").await.body, pattern(BIG_BYTES));
    for direction in [Direction::ToServer, Direction::ToClient] {
        let (capable, other) = relay.take_counts(direction);
        assert!(capable > 50 && other == 0, "{capable} marked, {other} not");
    }
}

#[tokio::test]
async fn congestion_marks_are_reported_to_the_client() {
    let server = Server::start(Setup::default());
    let relay = Relay::start(server.address()).await;
    let client = Client::connect(relay.address).await;
    client.get("/").await;
    assert_eq!(client.quic.stats().path.lost_packets, 0);
    let before = client.quic.stats().path.congestion_events;
    relay.mark_ce(3);
    client.post("/", &pattern(100_000)).await;
    assert!(client.quic.stats().path.congestion_events > before);
}

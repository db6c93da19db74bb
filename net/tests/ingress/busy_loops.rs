//! A server with nothing to do sleeps, and one that is woken works.

use std::time::Duration;

use crate::common::client::{Client, config_for};
use crate::common::server::{Server, Setup};
use crate::common::{guard, until};

/// Turns each core may take in a second in which nobody asks for anything: a
/// loop that spins takes tens of thousands.
const IDLE_TURNS_MAX: u64 = 50;

async fn turns_in_a_second(server: &Server) -> Vec<u64> {
    // Acknowledgements and handshake leftovers settle first.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let turns = || server.core_stats.iter().map(|stats| stats.turns.get()).collect::<Vec<_>>();
    let before = turns();
    tokio::time::sleep(Duration::from_secs(1)).await;
    turns().into_iter().zip(before).map(|(after, before)| after - before).collect()
}

#[tokio::test]
async fn idle_connections_cost_no_turns() {
    let server = Server::start(Setup { cores: 2, ..Setup::default() });
    let mut clients = vec![];
    for n in 0..10 {
        let client = Client::connect_with(config_for(&server, n % 2), server.address()).await.unwrap();
        client.get("/big").await;
        clients.push(client);
    }
    for turns in turns_in_a_second(&server).await {
        assert!(turns < IDLE_TURNS_MAX, "{turns} turns");
    }
    // Asleep, not dead.
    for client in &clients {
        assert_eq!(client.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn a_request_that_waits_costs_no_turns() {
    let server = Server::start(Setup::default());
    let client = Client::connect(server.address()).await;
    let held = client.get("/held");
    let watch = async {
        until("the request is there", || server.sum("requests") == 1).await;
        for turns in turns_in_a_second(&server).await {
            assert!(turns < IDLE_TURNS_MAX, "{turns} turns");
        }
        // From another thread, to a core that sleeps.
        server.release(1);
    };
    assert_eq!(tokio::join!(held, watch).0.status, 200);
}

/// A client that reads nothing: what is ready to go cannot, and must not be
/// tried over and over.
#[tokio::test]
async fn an_answer_that_cannot_leave_costs_no_turns() {
    let server = Server::start(Setup::default());
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(10_000u32.into());
    let mut config = crate::common::client::config();
    config.transport_config(std::sync::Arc::new(transport));
    let client = Client::connect_with(config, server.address()).await.unwrap();
    let mut stream = client.open(http::Method::GET, "/big", None).await.unwrap();
    guard(stream.finish()).await.unwrap();
    until("it is answered", || server.sum("responses") == 1).await;
    for turns in turns_in_a_second(&server).await {
        assert!(turns < IDLE_TURNS_MAX, "{turns} turns");
    }
}

#[tokio::test]
async fn winding_up_slowly_costs_few_turns() {
    let mut server = Server::start(Setup::default());
    let client = Client::connect(server.address()).await;
    let held = client.get("/held");
    let watch = async {
        until("the request is there", || server.sum("requests") == 1).await;
        server.begin_drain(Duration::from_secs(60));
        // It looks around now and then.
        for turns in turns_in_a_second(&server).await {
            assert!(turns < 4 * IDLE_TURNS_MAX, "{turns} turns");
        }
        server.release(1);
    };
    assert_eq!(tokio::join!(held, watch).0.status, 200);
    until("it has ended", || server.is_over()).await;
}

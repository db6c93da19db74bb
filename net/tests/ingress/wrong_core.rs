//! A connection lives on the core its IDs name, whatever way its packets take.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use crate::common::client::{Client, config_for};
use crate::common::initial;
use crate::common::relay::Relay;
use crate::common::server::{BIG_BYTES, Server, Setup};
use crate::common::{guard, pattern, until};

fn start(cores: usize) -> Server {
    Server::start(Setup { cores, ..Setup::default() })
}

async fn spreads(cores: usize) {
    let server = start(cores);
    let mut seen = BTreeSet::new();
    // The first IDs are random: that 64 miss one of four cores happens once in
    // 25 million runs.
    for _ in 0..64 {
        let client = Client::connect(server.address()).await;
        seen.insert(client.get("/").await.core());
        assert_eq!(server.sum("forwarded_out"), 0, "the kernel steers, not we");
    }
    assert_eq!(seen, (0..cores).collect());
}

#[tokio::test]
async fn the_shared_port_reaches_both_of_two_cores() {
    spreads(2).await;
}

#[tokio::test]
async fn the_shared_port_reaches_all_of_four_cores() {
    spreads(4).await;
}

async fn obeys_the_first_id(cores: usize) {
    let server = start(cores);
    for core in (0..cores).chain((0..cores).rev()) {
        let client = Client::connect_with(config_for(&server, core), server.address()).await.unwrap();
        for _ in 0..3 {
            assert_eq!(client.get("/").await.core(), core);
        }
    }
}

#[tokio::test]
async fn a_client_picks_one_of_two_cores_by_its_first_id() {
    obeys_the_first_id(2).await;
}

#[tokio::test]
async fn a_client_picks_one_of_four_cores_by_its_first_id() {
    obeys_the_first_id(4).await;
}

#[tokio::test]
async fn an_own_port_leads_to_its_core_whatever_the_first_id() {
    let server = start(4);
    for core in 0..4 {
        for picked in 0..4 {
            let to = server.own_address(core);
            let client = Client::connect_with(config_for(&server, picked), to).await.unwrap();
            assert_eq!(client.get("/").await.core(), core);
            assert_eq!(client.post("/", &pattern(50_000)).await.core(), core);
        }
    }
    assert_eq!(server.sum("forwarded_out"), 0);
}

#[tokio::test]
async fn a_retry_keeps_the_core() {
    let mut setup = Setup { cores: 4, ..Setup::default() };
    setup.ingress.handshakes_max = 0;
    let server = Server::start(setup);
    for core in 0..4 {
        let client = Client::connect_with(config_for(&server, core), server.address()).await.unwrap();
        assert_eq!(client.get("/").await.core(), core);
    }
    assert_eq!(server.sum("connections_retried"), 4);
}

#[tokio::test]
async fn a_client_that_changes_its_address_keeps_its_core() {
    let server = start(4);
    for core in 0..4 {
        let client = Client::connect_with(config_for(&server, core), server.address()).await.unwrap();
        let mut ports = BTreeSet::new();
        for _ in 0..5 {
            let json = client.get("/").await.json();
            assert_eq!(json["core"], core);
            ports.insert(json["peer_port"].as_u64());
            client.endpoint.rebind(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        }
        assert_eq!(client.get("/big").await.body, pattern(BIG_BYTES));
        assert!(ports.len() > 1, "the address never changed: nothing was tested");
    }
    assert_eq!(server.sum("connections_accepted"), 4);
}

/// To another address of the host, with a request and an answer under way that
/// are many times the window.
#[tokio::test]
async fn a_client_that_moves_in_the_middle_of_transfers_keeps_its_core() {
    let server = start(4);
    for core in 0..4 {
        let client = Client::connect_with(config_for(&server, core), server.address()).await.unwrap();
        let body = pattern(500_000);
        let moves = async {
            for host in 2..8 {
                let socket = UdpSocket::bind(format!("127.0.0.{host}:0")).unwrap();
                client.endpoint.rebind(socket).unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let (up, down, ()) = tokio::join!(client.post("/", &body), client.get("/big"), moves);
        up.assert_echoes(&body);
        assert_eq!(up.core(), core);
        assert_eq!(down.body, pattern(BIG_BYTES));
        assert_eq!(client.get("/").await.core(), core);
    }
    assert_eq!((server.sum("connections_accepted"), server.sum("forwarded_out")), (4, 0));
}

/// Every move uses up a connection ID, which the client retires and the server
/// replaces: after many, all that the client began with are long gone.
#[tokio::test]
async fn connection_ids_that_replace_retired_ones_lead_to_the_same_core() {
    let server = start(4);
    for core in 0..4 {
        let client = Client::connect_with(config_for(&server, core), server.address()).await.unwrap();
        for _ in 0..20 {
            assert_eq!(client.get("/").await.core(), core);
            client.endpoint.rebind(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        }
        assert_eq!(client.get("/").await.core(), core);
        let stats = client.quic.stats();
        let (retired, issued) = (stats.frame_tx.retire_connection_id, stats.frame_rx.new_connection_id);
        assert!(retired >= 10 && issued >= 10, "{retired} retired, {issued} issued");
    }
    assert_eq!((server.sum("connections_accepted"), server.sum("forwarded_out")), (4, 0));
}

/// The server's first flight is lost, so the client sends its own again.
#[tokio::test]
async fn a_first_flight_that_is_repeated_meets_the_same_core() {
    let server = start(4);
    for core in 0..4 {
        let relay = Relay::start(server.address()).await;
        relay.cut(true);
        let mut transport = quinn::TransportConfig::default();
        transport.initial_rtt(Duration::from_millis(10));
        let mut config = config_for(&server, core);
        config.transport_config(Arc::new(transport));
        let connecting = Client::connect_with(config, relay.address);
        let healed = async {
            until("it is sent again and again", || relay.handshake_packets() >= 3).await;
            relay.cut(false);
        };
        let (client, ()) = tokio::join!(connecting, healed);
        assert_eq!(client.unwrap().get("/").await.core(), core);
        assert_eq!(server.sum("connections_accepted"), core as u64 + 1);
    }
    assert_eq!(server.sum("forwarded_out"), 0);
}

/// Byte for byte, also from another address: copies made on the way.
#[tokio::test]
async fn a_first_packet_that_is_doubled_makes_one_connection() {
    let server = start(4);
    for round in 1..=8 {
        let datagram = initial(server.address());
        let sockets = [(), ()].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        for _ in 0..3 {
            for socket in &sockets {
                socket.send_to(&datagram, server.address()).unwrap();
            }
        }
        until("it is let in", || server.sum("connections_accepted") >= round).await;
    }
    // Answered after all of the above, on every core.
    for core in 0..4 {
        let client = Client::connect_with(config_for(&server, core), server.address()).await.unwrap();
        assert_eq!(client.get("/").await.core(), core);
    }
    assert_eq!((server.sum("connections_accepted"), server.sum("forwarded_out")), (12, 0));
}

/// The kernel spreads packets by address: three of four land on a wrong core,
/// from the first one on.
#[tokio::test]
async fn without_the_kernels_help_everything_is_forwarded() {
    let server = Server::start(Setup { cores: 4, is_steered: false, ..Setup::default() });
    let mut moves = 0;
    // One address may happen to be spread to the right core, sixteen hardly.
    for n in 0..4 {
        let client = Client::connect_with(config_for(&server, n), server.address()).await.unwrap();
        for _ in 0..4 {
            assert_eq!(client.get("/").await.core(), n);
            client.post("/", &pattern(100_000)).await.assert_echoes(&pattern(100_000));
            client.endpoint.rebind(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
            moves += 1;
        }
        assert_eq!(client.get("/big").await.body, pattern(BIG_BYTES));
        assert_eq!(server.stats[n].connections_accepted.get(), 1, "on core {n}, after {moves} moves");
        guard(client.close()).await;
    }
    assert!(server.sum("forwarded_out") > 100, "{} forwarded", server.sum("forwarded_out"));
    until("all that was forwarded arrives", || server.sum("forwarded_in") == server.sum("forwarded_out"))
        .await;
    assert_eq!(server.sum("connections_accepted"), 4);
}

#[tokio::test]
async fn packets_that_come_to_the_wrong_core_are_forwarded() {
    let server = start(2);
    let relay = Relay::start(server.address()).await;
    let client = Client::connect_with(config_for(&server, 0), relay.address).await.unwrap();
    assert_eq!(client.get("/").await.core(), 0);
    assert_eq!(server.stats[1].forwarded_out.get(), 0);

    relay.lead_astray(Some(server.own_address(1)));
    for _ in 0..5 {
        assert_eq!(client.get("/").await.core(), 0);
    }
    assert_eq!(client.get("/big").await.body, pattern(BIG_BYTES));
    client.post("/", &pattern(300_000)).await.assert_echoes(&pattern(300_000));
    let forwarded = server.stats[1].forwarded_out.get();
    assert!(forwarded > 100, "only {forwarded} were forwarded");
    until("all forwarded packets arrive", || {
        server.stats[0].forwarded_in.get() == server.stats[1].forwarded_out.get()
    })
    .await;

    relay.lead_astray(None);
    assert_eq!(client.get("/").await.core(), 0);
    assert_eq!(client.get("/big").await.body, pattern(BIG_BYTES));
    assert_eq!(server.sum("connections_accepted"), 1);
    assert_eq!(server.stats[0].forwarded_out.get(), 0);
}

#[tokio::test]
async fn every_core_holds_its_own_requests_while_others_are_busy() {
    let server = start(4);
    let mut clients = vec![];
    for core in 0..4 {
        clients.push(Client::connect_with(config_for(&server, core), server.address()).await.unwrap());
    }
    let held = clients[0].get("/held");
    let others = async {
        for _ in 0..10 {
            for (core, client) in clients.iter().enumerate() {
                assert_eq!(client.get("/").await.core(), core);
            }
        }
        server.release(1);
    };
    let (held, ()) = tokio::join!(held, others);
    assert_eq!(held.core(), 0);
}

/// While one core after the other winds up, those left go on: none of the
/// sockets that share the port may close early, or the rest are renumbered.
#[tokio::test]
async fn a_core_that_has_ended_does_not_disturb_the_others() {
    let mut server = start(4);
    let mut clients = vec![];
    for core in 1..4 {
        clients.push(Client::connect_with(config_for(&server, core), server.address()).await.unwrap());
    }
    server.begin_drain_of(0, Duration::from_secs(5));
    until("core 0 has ended", || server.is_core_over(0)).await;
    for (core, client) in clients.iter().enumerate() {
        assert_eq!(client.get("/big").await.body, pattern(BIG_BYTES));
        assert_eq!(client.get("/").await.core(), core + 1);
    }
    let late = Client::connect_with(config_for(&server, 2), server.address()).await.unwrap();
    assert_eq!(late.get("/").await.core(), 2);
    assert_eq!(server.sum("forwarded_out"), 0);
}

/// A lane between cores never blocks and never grows: what does not fit is lost,
/// as it may be on the wire, and is counted. The owner does not come to look at it
/// since one request keeps it busy.
#[tokio::test]
async fn datagrams_for_a_core_that_has_no_time_are_lost_and_counted() {
    const LANE_MAX: usize = 8;
    let server =
        Server::start(Setup { cores: 2, is_steered: false, forward_lane_max: LANE_MAX, ..Setup::default() });
    let client = Client::connect_with(config_for(&server, 0), server.own_address(0)).await.unwrap();
    let stalled = client.get("/stall");
    let flooding = async {
        until("the core is busy", || server.sum("requests") == 1).await;
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        // As if from a connection of core 0, at the port of core 1.
        let datagram = [&[0x40, 0, 0][..], &[7; 60]].concat();
        until("some are lost", || {
            socket.send_to(&datagram, server.own_address(1)).unwrap();
            server.stats[1].forwarded_lost.get() > 0
        })
        .await;
        assert_eq!(server.stats[1].forwarded_out.get(), LANE_MAX as u64);
        // The core in between goes on meanwhile.
        let other = Client::connect_with(config_for(&server, 1), server.own_address(1)).await.unwrap();
        assert_eq!(other.get("/").await.core(), 1);
        server.release(1);
    };
    let (answer, ()) = tokio::join!(stalled, flooding);
    assert_eq!(answer.status, 204);
    until("what fitted has arrived", || server.stats[0].forwarded_in.get() == LANE_MAX as u64).await;
    assert_eq!(client.get("/").await.core(), 0);
}

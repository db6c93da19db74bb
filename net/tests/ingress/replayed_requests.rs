//! Early data that is sent twice: what it asks for is done once at most, and
//! nothing that changes anything is done for it at all (RFC 8446 section 8, RFC
//! 8470 section 4).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use quinn::Endpoint;
use quinn::crypto::rustls::QuicClientConfig;
use sluice_core::CoreId;
use sluice_net::quic::steering::initial_connection_id;
use sluice_net::tls::{EarlyData, Trust, client_crypto};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::common::client::{Client, endpoint};
use crate::common::server::{Server, Setup};
use crate::common::{guard, raw, until};

/// Stands between a client and the server, keeps what the client sends, and lets
/// each direction pass from when it is told to.
struct Tap {
    address: SocketAddr,
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
    to_server: watch::Sender<bool>,
    to_client: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Tap {
    async fn start(server: SocketAddr) -> Self {
        let front = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        let back = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        let address = front.local_addr().unwrap();
        let sent: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let (client, clients) = watch::channel(None);
        let (to_server, server_gate) = watch::channel(false);
        let (to_client, client_gate) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let (from, to, kept) = (Arc::clone(&front), Arc::clone(&back), Arc::clone(&sent));
        tasks.spawn(async move {
            let mut passed = 0;
            let mut gate = server_gate;
            let mut buffer = vec![0; 65_536];
            loop {
                tokio::select! {
                    received = from.recv_from(&mut buffer) => {
                        let (len, source) = received.unwrap();
                        client.send_replace(Some(source));
                        kept.lock().unwrap().push(buffer[..len].to_vec());
                    }
                    _ = gate.changed() => {}
                }
                while *gate.borrow() && passed < kept.lock().unwrap().len() {
                    let datagram = kept.lock().unwrap()[passed].clone();
                    passed += 1;
                    to.send_to(&datagram, server).await.unwrap();
                }
            }
        });
        tasks.spawn(async move {
            let mut gate = client_gate;
            let mut held: Vec<Vec<u8>> = vec![];
            let mut buffer = vec![0; 65_536];
            loop {
                tokio::select! {
                    received = back.recv(&mut buffer) => held.push(buffer[..received.unwrap()].to_vec()),
                    _ = gate.changed() => {}
                }
                let (client, is_open) = (*clients.borrow(), *gate.borrow());
                if let (true, Some(client)) = (is_open, client) {
                    for datagram in held.drain(..) {
                        front.send_to(&datagram, client).await.unwrap();
                    }
                }
            }
        });
        Self { address, sent, to_server, to_client, _tasks: tasks }
    }

    fn open(gate: &watch::Sender<bool>) {
        gate.send_replace(true);
    }

    /// All that the client has sent until now.
    fn flight(&self) -> Vec<Vec<u8>> {
        self.sent.lock().unwrap().clone()
    }
}

/// Sends a flight again; from one address, since a handshake does not move.
async fn replay(socket: &UdpSocket, flight: &[Vec<u8>], to: SocketAddr) {
    for datagram in flight {
        socket.send_to(datagram, to).await.unwrap();
    }
}

/// Settings that remember sessions, for connections to a core's part of the shared port.
fn config_for(server: &Server, crypto: &Arc<QuicClientConfig>, core: u16) -> quinn::ClientConfig {
    let (core, cores) = (CoreId::new(core), server.cores);
    let mut config = quinn::ClientConfig::new(Arc::clone(crypto) as _);
    config.initial_dst_cid_provider(Arc::new(move || initial_connection_id(core, cores)));
    config
}

/// A server of two cores that takes early data, settings with a session there, and an endpoint.
async fn ready() -> (Server, Arc<QuicClientConfig>, Endpoint) {
    let server = Server::start(Setup { cores: 2, early_data: EarlyData::On, ..Setup::default() });
    let mut tls = (*client_crypto(Trust::AnyServer).unwrap()).clone();
    tls.enable_early_data = true;
    let crypto = Arc::new(QuicClientConfig::try_from(tls).unwrap());
    let first = Client::connect_with(config_for(&server, &crypto, 0), server.address()).await.unwrap();
    assert_eq!(first.get("/").await.status, 200);
    first.close().await;
    until("the first connection is gone", || server.sum("connections") == 0).await;
    let endpoint = endpoint(server.address());
    (server, crypto, endpoint)
}

/// One request that only reads, and one that does not.
async fn send_both(quic: &quinn::Connection) -> [quinn::RecvStream; 2] {
    let mut answers = vec![];
    for request in [raw::get("/"), raw::request(&[])] {
        let (mut send, receive) = guard(quic.open_bi()).await.unwrap();
        guard(send.write_all(&request)).await.unwrap();
        send.finish().unwrap();
        answers.push(receive);
    }
    answers.try_into().unwrap()
}

async fn statuses(answers: [quinn::RecvStream; 2]) -> [u16; 2] {
    let [mut read, mut write] = answers;
    [raw::status(&raw::read(&mut read).await.unwrap()), raw::status(&raw::read(&mut write).await.unwrap())]
}

const EARLY: [&str; 4] =
    ["requests_early", "requests_too_early", "early_data_accepted", "early_data_rejected"];

fn early(server: &Server) -> [u64; 4] {
    EARLY.map(|counter| server.sum(counter))
}

#[tokio::test]
async fn a_first_flight_that_is_sent_again_has_no_effect_on_any_core() {
    let (server, crypto, endpoint) = ready().await;
    let tap = Tap::start(server.address()).await;
    Tap::open(&tap.to_server);
    let connecting =
        endpoint.connect_with(config_for(&server, &crypto, 0), tap.address, "localhost").unwrap();
    let (quic, accepted) = connecting.into_0rtt().unwrap_or_else(|_| panic!("no session to resume"));
    let answers = send_both(&quic).await;
    // The client knows of no answer yet, so all it has sent was early.
    until("both requests are judged", || early(&server) == [1, 1, 0, 0]).await;
    let flight = tap.flight();
    Tap::open(&tap.to_client);
    assert_eq!(statuses(answers).await, [200, 425]);
    assert!(guard(accepted).await);
    assert_eq!(statuses(send_both(&quic).await).await, [200, 200], "after the handshake anything goes");
    assert_eq!(early(&server), [1, 1, 1, 0]);
    assert_eq!((server.sum("handshakes_full"), server.sum("handshakes_resumed")), (1, 1));
    quic.close(0x100u32.into(), b"done");
    until("the connection is gone", || server.sum("connections") == 0).await;

    let (requests, connections) = (server.sum("requests"), server.sum("connections_accepted"));
    assert_eq!(requests, 4);
    // The same core, and the other.
    let places = [server.address(), server.own_address(1)];
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    for (count, place) in (1..).zip(places) {
        replay(&socket, &flight, place).await;
        until("the replay is met", || server.sum("connections_accepted") == connections + count).await;
    }
    // Behind the replay on each socket: when these are answered, it has been looked at.
    for place in places {
        let config = crate::common::client::config_for(&server, 0);
        assert_eq!(Client::connect_with(config, place).await.unwrap().get("/").await.status, 200);
    }
    assert_eq!(server.sum("requests"), requests + 2);
    assert_eq!(early(&server), [1, 1, 1, 0]);
}

#[tokio::test]
async fn a_replay_that_overtakes_its_original_gets_nothing_done_either() {
    let (server, crypto, endpoint) = ready().await;
    let tap = Tap::start(server.address()).await;
    let connecting =
        endpoint.connect_with(config_for(&server, &crypto, 0), tap.address, "localhost").unwrap();
    let (quic, accepted) = connecting.into_0rtt().unwrap_or_else(|_| panic!("no session to resume"));
    let _answers = send_both(&quic).await;
    let count = |flight: Vec<Vec<u8>>| flight.iter().map(Vec::len).sum::<usize>();
    until("the flight is out", || count(tap.flight()) > 1_200).await;
    // Retransmissions repeat what is missing, whatever the first datagrams held.
    let other_core = server.own_address(1);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let replayed = async {
        while early(&server)[..2] != [1, 1] {
            replay(&socket, &tap.flight(), other_core).await;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    guard(replayed).await;
    assert_eq!(server.stats[1].requests_early.get(), 1);

    Tap::open(&tap.to_server);
    Tap::open(&tap.to_client);
    assert!(!guard(accepted).await, "the session was used");
    assert_eq!(statuses(send_both(&quic).await).await, [200, 200], "the client asks again");
    assert_eq!(early(&server), [1, 1, 0, 1]);
    assert_eq!(server.stats[0].handshakes_resumed.get(), 0);
    assert_eq!(server.sum("requests"), 4, "two of the client's, its first, and one that only read");
}

#[tokio::test]
async fn what_an_intermediary_had_as_early_data_is_too_early_here_as_well() {
    let server = Server::start(Setup::default());
    let raw = raw::Raw::connect(server.address()).await;
    let early = |value| ("early-data", value);
    // RFC 8470 section 5.1: what is not valid, or there more than once, means the same.
    for (fields, expected) in [
        (vec![early("1")], 425),
        (vec![early("0")], 425),
        (vec![early("")], 425),
        (vec![early("1"), early("1")], 425),
        (vec![], 200),
    ] {
        let (mut send, mut receive) = raw.bi(&raw::request(&fields)).await;
        send.finish().unwrap();
        assert_eq!(raw::status(&raw::read(&mut receive).await.unwrap()), expected, "{fields:?}");
    }
    assert_eq!((server.sum("requests_too_early"), server.sum("requests_early")), (4, 0));
}

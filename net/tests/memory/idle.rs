//! Connections that have been used and now wait.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use sluice_core::{CoreId, Reactor, ReactorConfig, spawn};
use sluice_net::client::{Client, ClientConnection};
use sluice_net::ingress::IngressConfig;
use sluice_net::tls::{Trust, client_crypto};
use sluice_protocols::http::RequestHead;

use crate::server::Server;

/// As many as connect from one address.
const PER_ADDRESS: u16 = 1_000;
/// Handshakes under way at once: few, since a burst would make the core's receive
/// buffers grow, by up to 32 MiB, and those are not what is counted here.
const WORKERS: u16 = 8;
/// What one idle connection may cost, everything counted: QUIC, TLS and HTTP/3
/// state, its place in every table.
const BYTES_PER_CONNECTION_MAX: isize = 25_000;
/// What a connection costs at least; less means that the count is off.
const BYTES_PER_CONNECTION_MIN: isize = 5_000;
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// Opens connections from many loopback addresses, makes requests on each, one
/// after the other, and keeps them open while `measure` runs.
fn with_idle_connections(
    remote: SocketAddr,
    connections: u16,
    requests: u16,
    measure: impl FnOnce() + 'static,
) {
    let reactor = Reactor::new(ReactorConfig::new(CoreId::new(1))).unwrap();
    let connect_all = async move {
        let tls = client_crypto(Trust::AnyServer).unwrap();
        let clients: Rc<[Client]> = (0..connections.div_ceil(PER_ADDRESS))
            .map(|n| {
                let local = Ipv4Addr::new(127, 0, 7, u8::try_from(n + 1).unwrap());
                Client::start_from(tls.clone(), (local, 0).into(), IDLE_TIMEOUT).unwrap()
            })
            .collect();
        let next = Rc::new(Cell::new(0));
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| {
                let (clients, next) = (Rc::clone(&clients), Rc::clone(&next));
                spawn(async move {
                    let mut open = vec![];
                    while next.get() < connections {
                        let number = next.replace(next.get() + 1);
                        let client = &clients[usize::from(number / PER_ADDRESS)];
                        open.push(connect(client, remote, requests).await);
                    }
                    open
                })
            })
            .collect();
        let mut open = vec![];
        for worker in workers {
            open.extend(worker.await);
        }
        // Acknowledgements and probes of the path settle.
        sluice_core::sleep(Duration::from_millis(500)).await;
        measure();
        drop(open);
    };
    reactor.block_on(connect_all).unwrap();
}

async fn connect(client: &Client, remote: SocketAddr, requests: u16) -> ClientConnection {
    let connection = client.connect(remote, "localhost", None).await.unwrap();
    let head = RequestHead::build("GET", "/", "localhost");
    for _ in 0..requests {
        let answer = connection.request(&head, Bytes::new()).await.unwrap();
        assert_eq!(answer.head.status(), 200);
    }
    connection
}

fn assert_cheap(connections: u16, requests: u16) {
    let server = Server::start(IngressConfig { idle_timeout: IDLE_TIMEOUT, ..IngressConfig::default() });
    // What a core has whether or not there are connections is there by now.
    let before = server.balance();
    with_idle_connections(server.address, connections, requests, move || {
        assert_eq!(server.stats.connections.get(), u64::from(connections));
        let each = (server.balance() - before) / isize::try_from(connections).unwrap();
        println!("{connections} connections with {requests} requests made: {each} bytes each");
        assert!(each > BYTES_PER_CONNECTION_MIN, "{each} bytes a connection");
        assert!(each <= BYTES_PER_CONNECTION_MAX, "{each} bytes a connection");
    });
}

#[test]
fn twenty_thousand_idle_connections_stay_within_the_bound() {
    assert_cheap(20_000, 1);
}

/// What was allocated for one request serves the next.
#[test]
fn connections_that_were_used_a_lot_stay_within_the_bound() {
    assert_cheap(3_000, 40);
}

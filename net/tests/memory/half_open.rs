//! Handshakes that are begun and never finished.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{ClientConfig, Endpoint, EndpointConfig};
use sluice_net::ingress::IngressConfig;
use sluice_net::tls::{Trust, client_crypto};

use crate::server::Server;

const HANDSHAKES_MAX: usize = 500;
const ATTEMPTS: usize = 1_500;
/// What a handshake may cost that waits for its client: the state of a
/// connection, and the flight of the server in case it must be sent again.
const BYTES_PER_HANDSHAKE_MAX: usize = 40_000;
/// What may stay behind when all is over: tables that have grown, and pools.
const BYTES_LEFT_MAX: isize = 4 << 20;

/// First datagrams of clients, each with an ID of its own.
fn initials(remote: SocketAddr) -> impl Iterator<Item = Vec<u8>> {
    let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
    let crypto = QuicClientConfig::try_from(client_crypto(Trust::AnyServer).unwrap()).unwrap();
    let config = ClientConfig::new(Arc::new(crypto));
    std::iter::repeat_with(move || {
        let now = Instant::now();
        let (_, mut connection) = endpoint.connect(now, config.clone(), remote, "localhost").unwrap();
        let mut bytes = vec![];
        let size = connection.poll_transmit(now, 1, &mut bytes).unwrap().size;
        bytes.truncate(size);
        bytes
    })
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_flood_of_half_open_handshakes_is_bounded_and_passes() {
    let server = Server::start(IngressConfig {
        handshakes_max: HANDSHAKES_MAX,
        handshake_timeout: Duration::from_secs(3),
        ..IngressConfig::default()
    });
    let before = server.balance();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let stats = &server.stats;
    let settled = || stats.connections_accepted.get() + stats.connections_retried.get();
    for (n, initial) in initials(server.address).take(ATTEMPTS).enumerate() {
        socket.send_to(&initial, server.address).unwrap();
        // No faster than they are taken in, so that none is lost on the way, and no
        // burst makes the receive buffers grow.
        until("all are taken in", || settled() + 16 > n as u64);
    }
    until("each was answered", || settled() == ATTEMPTS as u64);
    let bytes = server.balance() - before;
    assert!(stats.connections_accepted.get() >= HANDSHAKES_MAX as u64);
    assert!(stats.connections_retried.get() > 0, "none had to prove its address");
    assert!(stats.connections.get() <= HANDSHAKES_MAX as u64 + stats.handshakes_timed_out.get());
    println!("{} bytes a handshake", bytes / isize::try_from(HANDSHAKES_MAX).unwrap());
    assert!(bytes <= isize::try_from(HANDSHAKES_MAX * BYTES_PER_HANDSHAKE_MAX).unwrap(), "{bytes} bytes");

    until("all have ended", || stats.connections.get() == 0);
    assert_eq!(stats.handshakes_timed_out.get(), stats.connections_accepted.get());
    let left = server.balance() - before;
    assert!(left < BYTES_LEFT_MAX, "{left} bytes are left");
}

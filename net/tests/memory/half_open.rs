//! Handshakes that are begun and never finished.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{ClientConfig, Connection, DatagramEvent, Endpoint, EndpointConfig};
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

/// A client that proves its address and then says nothing more.
struct Prover {
    endpoint: Endpoint,
    config: ClientConfig,
    socket: UdpSocket,
    remote: SocketAddr,
}

impl Prover {
    fn new(remote: SocketAddr) -> Self {
        let crypto = QuicClientConfig::try_from(client_crypto(Trust::AnyServer).unwrap()).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
        Self { endpoint, config: ClientConfig::new(Arc::new(crypto)), socket, remote }
    }

    fn send(&self, connection: &mut Connection) {
        let mut bytes = vec![];
        let size = connection.poll_transmit(Instant::now(), 1, &mut bytes).unwrap().size;
        self.socket.send_to(&bytes[..size], self.remote).unwrap();
    }

    fn begin(&mut self) -> Connection {
        let (config, now) = (self.config.clone(), Instant::now());
        let (_, mut connection) = self.endpoint.connect(now, config, self.remote, "localhost").unwrap();
        self.send(&mut connection);
        connection
    }

    /// Begins a handshake, and answers the Retry. What the server says then is not looked at.
    fn prove(&mut self) {
        let mut connection = self.begin();
        let mut datagram = [0; 2_000];
        loop {
            let length = self.socket.recv(&mut datagram).expect("it is answered");
            // RFC 9000 section 17.2.5: a long header of type 3. All else is for those before.
            if datagram[0] & 0xf0 != 0xf0 {
                continue;
            }
            let data = (&datagram[..length]).into();
            let event = self.endpoint.handle(Instant::now(), self.remote, None, None, data, &mut vec![]);
            let Some(DatagramEvent::ConnectionEvent(_, event)) = event else { continue };
            connection.handle_event(event);
            return self.send(&mut connection);
        }
    }
}

/// To prove an address costs a packet, and whoever did is let in above the number from which it must be. So there is
/// another number, above which nobody is.
#[test]
fn handshakes_of_those_who_answer_the_retry_and_leave_are_bounded_as_well() {
    const MOST: usize = 100;
    const ATTEMPTS: usize = 150;
    let server = Server::start(IngressConfig {
        handshakes_max: 0,
        handshakes_most: MOST,
        // None ends meanwhile.
        handshake_timeout: Duration::from_secs(600),
        idle_timeout: Duration::from_secs(600),
        ..IngressConfig::default()
    });
    let stats = &server.stats;
    let before = server.balance();
    let mut client = Prover::new(server.address);
    for n in 1..=ATTEMPTS {
        if n <= MOST {
            client.prove();
        } else {
            // Not even asked to prove anything.
            client.begin();
        }
        let settled = || stats.connections_accepted.get() + stats.handshakes_refused.get();
        until("it is let in or refused", || settled() == n as u64);
    }
    assert_eq!(stats.connections_accepted.get(), MOST as u64);
    assert_eq!(stats.connections_retried.get(), MOST as u64);
    assert_eq!(stats.handshakes_refused.get(), (ATTEMPTS - MOST) as u64);
    let bytes = server.balance() - before;
    assert!(bytes <= isize::try_from(MOST * BYTES_PER_HANDSHAKE_MAX).unwrap(), "{bytes} bytes");
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

//! A whole server on real reactors, and clients that share no code with it.

pub(crate) mod client;
pub(crate) mod raw;
pub(crate) mod relay;
pub(crate) mod routes;
pub(crate) mod server;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::{ClientConfig, Endpoint, EndpointConfig, Transmit};

/// A client's first datagram.
pub(crate) fn initial(remote: SocketAddr) -> Vec<u8> {
    let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
    let now = Instant::now();
    let config = ClientConfig::new(client::tls());
    let (_, mut connection) = endpoint.connect(now, config, remote, "localhost").unwrap();
    let mut bytes = vec![];
    let Transmit { size, .. } = connection.poll_transmit(now, 1, &mut bytes).unwrap();
    bytes.truncate(size);
    assert!(bytes.len() >= 1200);
    bytes
}

/// Ends a test that hangs; nothing is measured by it.
pub(crate) async fn guard<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("hangs")
}

/// Waits until a condition holds that another thread brings about.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Bytes in which a lost, doubled or misplaced piece shows.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0u32..).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).take(len).collect()
}

/// A sum that tells any two bodies of a test apart.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

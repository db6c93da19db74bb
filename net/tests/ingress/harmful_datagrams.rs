//! Datagrams that are no QUIC, or nearly, do no harm.

use std::net::UdpSocket;
use std::time::Duration;

use crate::common::client::{Client, config};
use crate::common::relay::Relay;
use crate::common::server::{Server, Setup};
use crate::common::{guard, initial, until};

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

fn noise(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed * 2 + 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[3]
    })
}

/// Everyone can still be served, and nothing is kept for what was no connection.
async fn assert_unharmed(server: &Server, bystander: &Client) {
    assert_eq!(bystander.post("/", b"still here").await.status, 200);
    for core in 0..server.cores.get() {
        let client = Client::connect(server.own_address(core)).await;
        assert_eq!(client.get("/").await.core(), core);
        client.close().await;
    }
    until("only the bystander is left", || server.sum("connections") == 1).await;
}

#[tokio::test]
async fn noise_of_every_length_does_no_harm() {
    let server = Server::start(Setup { cores: 2, ..Setup::default() });
    let bystander = Client::connect(server.address()).await;
    let socket = socket();
    for to in [server.address(), server.own_address(0), server.own_address(1)] {
        for len in (0..80).chain([500, 1199, 1200, 1201, 1472, 9000, 65_000]) {
            for first in [None, Some(0x40), Some(0xc0), Some(0xd0), Some(0xe0), Some(0xf0)] {
                let mut datagram: Vec<u8> = noise(len as u64 + 7).take(len).collect();
                if let (Some(first), Some(byte)) = (first, datagram.first_mut()) {
                    *byte = first;
                }
                if len > 5 && first.is_some_and(|first| first >= 0xc0) {
                    datagram[1..5].copy_from_slice(&[0, 0, 0, 1]);
                }
                socket.send_to(&datagram, to).unwrap();
            }
        }
        assert_unharmed(&server, &bystander).await;
    }
    assert!(server.sum("datagrams_unroutable") > 0);
    assert_eq!(server.sum("requests"), server.sum("responses"));
}

#[tokio::test]
async fn initials_that_are_cut_or_changed_make_no_connection() {
    let server = Server::start(Setup { cores: 2, ..Setup::default() });
    let bystander = Client::connect(server.address()).await;
    let good = initial(server.address());
    let socket = socket();
    for to in [server.address(), server.own_address(1)] {
        for len in (1..good.len()).step_by(13) {
            socket.send_to(&good[..len], to).unwrap();
        }
        // Cut, but padded to the length of a good one.
        for len in (7..good.len()).step_by(97) {
            let mut padded = good[..len].to_vec();
            padded.resize(1200, 0);
            socket.send_to(&padded, to).unwrap();
        }
        // The header is protected by what follows it, so any bit matters; the
        // version is not among them, it is another story.
        for at in (5..200).chain((200..good.len()).step_by(50)) {
            let mut changed = good.clone();
            changed[at] ^= 0x10;
            socket.send_to(&changed, to).unwrap();
        }
        assert_unharmed(&server, &bystander).await;
    }
    assert!(server.sum("connections_rejected") > 0);
}

/// RFC 9000 section 6: it lists version 1, echoes both IDs crosswise, and is not
/// sent to datagrams too small to be a first flight.
#[tokio::test]
async fn an_unknown_version_is_told_the_known_ones() {
    let server = Server::start(Setup { cores: 2, ..Setup::default() });
    let bystander = Client::connect(server.address()).await;
    let mut datagram = initial(server.address());
    datagram[1..5].copy_from_slice(&0x7a7a_7a7a_u32.to_be_bytes());
    for to in [server.address(), server.own_address(0), server.own_address(1)] {
        let socket = socket();
        socket.send_to(&datagram[..600], to).unwrap();
        socket.send_to(&datagram, to).unwrap();
        let mut buffer = [0; 2000];
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(from, to);
        let answer = &buffer[..len];
        assert_eq!((answer[0] & 0x80, &answer[1..5]), (0x80, &[0; 4][..]));
        let (dcid_len, asked_scid) = (usize::from(datagram[5]), 6 + usize::from(datagram[5]));
        let scid = &datagram[asked_scid..][..1 + usize::from(datagram[asked_scid])];
        assert_eq!(&answer[5..][..scid.len()], scid);
        assert_eq!(&answer[5 + scid.len()..][..1 + dcid_len], &datagram[5..][..1 + dcid_len]);
        let versions = &answer[5 + scid.len() + 1 + dcid_len..];
        assert!(versions.chunks(4).any(|version| version == [0, 0, 0, 1]), "{versions:?}");
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(socket.recv_from(&mut buffer).is_err(), "the small one was answered too");
    }
    assert_unharmed(&server, &bystander).await;
}

/// A client whose connection is gone learns so by a stateless reset (RFC 9000 section 10.3), from any core and by any
/// port, since all share the key; also from a server that was started after the one that it spoke to. A reset made
/// with another key is none.
#[tokio::test]
async fn a_connection_unknown_to_the_server_is_reset() {
    let start =
        |secret| Server::start(Setup { cores: 2, node_secret: Some([secret; 32]), ..Setup::default() });
    let (before, after, stranger) = (start(1), start(1), start(2));
    let bystander = Client::connect(after.address()).await;
    for place in [after.address(), after.own_address(0), after.own_address(1)] {
        let relay = Relay::start(before.address()).await;
        let client = Client::connect(relay.address).await;
        let (mut stream, _answer) = guard(client.quic.open_bi()).await.unwrap();
        let sent = stranger.sum("resets_sent");
        relay.lead_astray(Some(stranger.address()));
        stream.write_all(b"is anybody there?").await.unwrap();
        until("the stranger has answered", || stranger.sum("resets_sent") > sent).await;
        relay.lead_astray(None);
        assert_eq!(client.get("/").await.status, 200);

        relay.lead_astray(Some(place));
        stream.write_all(b"and there?").await.unwrap();
        assert_eq!(guard(client.quic.closed()).await, quinn::ConnectionError::Reset);
    }
    assert_unharmed(&after, &bystander).await;
}

#[tokio::test]
async fn a_client_without_http3_is_refused_by_tls() {
    let server = Server::start(Setup::default());
    let bystander = Client::connect(server.address()).await;
    let mut tls = (*sluice_net::tls::client_crypto(sluice_net::tls::Trust::AnyServer).unwrap()).clone();
    tls.alpn_protocols = vec![b"smtp".to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let other = quinn::ClientConfig::new(std::sync::Arc::new(crypto));
    assert!(Client::connect_with(other, server.address()).await.is_err());
    assert!(Client::connect_with(config(), server.address()).await.is_ok());
    assert_unharmed(&server, &bystander).await;
}

//! Packets of someone who only knows addresses and connection IDs lead nothing
//! astray, and get little for their pains.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::common::client::Client;
use crate::common::relay::Relay;
use crate::common::server::{Server, Setup};
use crate::common::{initial, until};

/// Shortest time between two stateless resets of a core.
const RESET_INTERVAL: Duration = Duration::from_millis(1);

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket
}

/// The forger sends by the client's own address, to another port of the server:
/// all but the seal of the packet is right.
#[tokio::test]
async fn an_answer_goes_where_the_client_asked_and_not_where_a_forger_did() {
    let server = Server::start(Setup::default());
    let relay = Relay::start(server.address()).await;
    let client = Client::connect(relay.address).await;
    let held = client.get("/held");
    let forge = async {
        until("the request is there", || server.sum("requests") == 1).await;
        relay.forge(server.own_address(0)).await;
        until("the forgery is found out", || server.sum("datagrams_forged") == 1).await;
        server.release(1);
    };
    assert_eq!(tokio::join!(held, forge).0.status, 200);
    assert_eq!(server.sum("connections_closed"), 0);
}

/// RFC 9000 section 8.1: at most three times what came, until the address is
/// proven. The flight is repeated while the client is silent, and counts, too.
#[tokio::test]
async fn a_client_that_never_answers_gets_three_times_its_bytes_at_most() {
    let mut setup = Setup::default();
    setup.ingress.handshake_timeout = Duration::from_millis(1500);
    let server = Server::start(setup);
    let socket = socket();
    let datagram = initial(server.address());
    socket.send_to(&datagram, server.address()).unwrap();
    let mut buffer = [0; 2000];
    let (mut bytes, mut datagrams) = (0, 0);
    while server.sum("connections") > 0 || server.sum("handshakes_timed_out") == 0 {
        if let Ok((len, _)) = socket.recv_from(&mut buffer) {
            bytes += len;
            datagrams += 1;
        }
    }
    assert!(datagrams > 1 && bytes <= 3 * datagram.len(), "{bytes} bytes for {}", datagram.len());
    assert_eq!((server.sum("connections_accepted"), server.sum("connections")), (1, 0));
}

/// Version negotiation, a demand to prove the address, a refusal: none is worth
/// eliciting in someone else's name.
#[tokio::test]
async fn what_is_answered_without_a_connection_is_no_larger_than_the_question() {
    let mut unknown = initial("127.0.0.1:1".parse().unwrap());
    unknown[1..5].copy_from_slice(&0x7a7a_7a7a_u32.to_be_bytes());
    let known = initial("127.0.0.1:1".parse().unwrap());
    let kinds = [
        (9, &unknown, "versions_told"),
        (9, &known, "connections_retried"),
        (0, &known, "connections_refused"),
    ];
    for (connections_max, datagram, kind) in kinds {
        let mut setup = Setup::default();
        setup.ingress.connections_max = connections_max;
        setup.ingress.handshakes_max = 0;
        let server = Server::start(setup);
        let socket = socket();
        socket.send_to(datagram, server.address()).unwrap();
        let mut buffer = [0; 2000];
        let (len, _) = socket.recv_from(&mut buffer).unwrap();
        assert!(len <= datagram.len() / 3, "{len} bytes");
        assert!(socket.recv_from(&mut buffer).is_err(), "one answer is enough");
        assert_eq!((server.sum("stateless_sent"), server.sum("connections")), (1, 0));
        assert_eq!((server.sum(kind), server.sum("resets_sent")), (1, 0), "{kind}");
    }
}

#[tokio::test]
async fn stateless_resets_are_smaller_than_their_cause_and_few() {
    let server = Server::start(Setup::default());
    let socket = socket();
    let began = Instant::now();
    for n in 0..500u16 {
        let id = n.to_be_bytes();
        let datagram = [&[0x40, id[0], id[1]], &[7; 60][..]].concat();
        socket.send_to(&datagram, server.address()).unwrap();
    }
    let mut resets = 0u64;
    let mut buffer = [0; 2000];
    while let Ok((len, _)) = socket.recv_from(&mut buffer) {
        assert!(len < 63);
        resets += 1;
    }
    let most = began.elapsed().as_millis() / RESET_INTERVAL.as_millis() + 1;
    assert!(resets >= 1 && u128::from(resets) <= most, "{resets} of at most {most}");
    assert_eq!((server.sum("resets_sent"), server.sum("stateless_sent")), (resets, resets));
}

//! What a client keeps in QPACK's dynamic table is read as it was meant, and what
//! it does to the table is answered, bounded, and nobody else's concern.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use sluice_core::{CoreId, Reactor, ReactorConfig};
use sluice_net::client::Client;
use sluice_net::tls::{Trust, client_crypto};
use sluice_protocols::http::RequestHead;

use crate::common::client::config;
use crate::common::raw::{HEADERS, PSEUDO, Raw, control, frame, headers, read, request, status, varint};
use crate::common::server::{Server, Setup};
use crate::common::{guard, until};

const QPACK_ENCODER: u64 = 0x02;
const QPACK_DECODER: u8 = 0x03;
const EXCESSIVE_LOAD: u64 = 0x107;
const REQUEST_CANCELLED: u32 = 0x10c;
const DECOMPRESSION_FAILED: u64 = 0x200;

/// Capacity 4096, and `:authority: localhost`.
const INSERT: [u8; 14] = *b"\x3f\xe1\x1f\xc0\x09localhost";

/// A request whose `:authority` is line 0 of the table: prefix of one insert, POST,
/// https, the line, and `/`.
fn short_request() -> Vec<u8> {
    frame(HEADERS, &[0x02, 0x00, 0xd4, 0xd7, 0x80, 0xc1])
}

/// A connection with its control and encoder streams, which stay open.
struct Peer {
    raw: Raw,
    _control: quinn::SendStream,
    encoder: quinn::SendStream,
    /// The server's other streams: to let go of one is to stop it.
    others: Vec<quinn::RecvStream>,
}

impl Peer {
    async fn connect(server: &Server) -> Self {
        Self::with(Raw::connect(server.address()).await).await
    }

    async fn with(raw: Raw) -> Self {
        let control = raw.uni(&control()).await;
        let encoder = raw.uni(&[&varint(QPACK_ENCODER), &INSERT[..]].concat()).await;
        Self { raw, _control: control, encoder, others: vec![] }
    }

    /// The server's decoder stream, behind its type.
    async fn decoder(&mut self) -> quinn::RecvStream {
        loop {
            let mut stream = guard(self.raw.quic.accept_uni()).await.unwrap();
            let mut kind = [0];
            guard(stream.read_exact(&mut kind)).await.unwrap();
            if kind == [QPACK_DECODER] {
                return stream;
            }
            self.others.push(stream);
        }
    }

    async fn post(&self, message: &[u8]) -> Result<Vec<u8>, u64> {
        let (mut send, mut receive) = self.raw.bi(message).await;
        send.finish().unwrap();
        read(&mut receive).await
    }
}

async fn next(stream: &mut quinn::RecvStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    guard(stream.read_exact(&mut bytes)).await.unwrap();
    bytes
}

#[tokio::test]
async fn inserts_and_sections_are_acknowledged() {
    let server = Server::start(Setup::default());
    let mut peer = Peer::connect(&server).await;
    let mut decoder = peer.decoder().await;
    assert_eq!(next(&mut decoder, 1).await, [0x01], "one insert");
    for id in [0, 4] {
        assert_eq!(status(&peer.post(&short_request()).await.unwrap()), 200);
        assert_eq!(next(&mut decoder, 1).await, [0x80 | id], "the section of stream {id}");
    }
    // Trailers of a request that needed no table: "x: " with the name from line 1.
    guard(peer.encoder.write_all(b"\x41x\x00")).await.unwrap();
    assert_eq!(next(&mut decoder, 1).await, [0x01]);
    let trailers = frame(HEADERS, &[0x03, 0x00, 0x80]);
    let (mut send, mut receive) = peer.raw.bi(&[request(&[]), trailers].concat()).await;
    send.finish().unwrap();
    assert_eq!(status(&read(&mut receive).await.unwrap()), 200);
    assert_eq!(next(&mut decoder, 1).await, [0x88]);
    assert_eq!(server.sum("qpack_sections"), 3);
}

#[tokio::test]
async fn streams_given_up_are_cancelled() {
    let server = Server::start(Setup::default());
    let mut peer = Peer::connect(&server).await;
    let mut decoder = peer.decoder().await;
    assert_eq!(next(&mut decoder, 1).await, [0x01]);
    // Reset by the client in the middle of its head.
    let (mut send, _receive) = peer.raw.bi(&short_request()[..4]).await;
    send.reset(REQUEST_CANCELLED.into()).unwrap();
    assert_eq!(next(&mut decoder, 1).await, [0x40]);
    // Refused by the server over its head: malformed, though it refers to the table.
    let twice = frame(HEADERS, &[0x02, 0x00, 0xd4, 0xd7, 0x80, 0x80, 0xc1]);
    assert!(peer.post(&twice).await.is_err());
    assert_eq!(next(&mut decoder, 1).await, [0x44]);
    // Answered on its head alone: its section is acknowledged, the rest not read.
    let denied = [&[0x02, 0x00, 0xd4, 0xd7, 0x80, 0x51, 0x07], &b"/denied"[..]].concat();
    let (_send, mut receive) = peer.raw.bi(&frame(HEADERS, &denied)).await;
    assert_eq!(status(&read(&mut receive).await.unwrap()), 403);
    assert_eq!(next(&mut decoder, 2).await, [0x88, 0x48]);
}

#[tokio::test]
async fn a_reference_to_what_was_not_inserted() {
    let server = Server::start(Setup::default());
    let bystander = Raw::connect(server.address()).await;
    let mut peer = Peer::connect(&server).await;
    let mut decoder = peer.decoder().await;
    assert_eq!(next(&mut decoder, 1).await, [0x01]);
    let _ = peer.raw.bi(&frame(HEADERS, &[0x03, 0x00, 0xd4, 0xd7, 0x80, 0xc1])).await;
    assert_eq!(peer.raw.closed().await, DECOMPRESSION_FAILED);
    let (mut send, mut receive) = bystander.bi(&headers(&PSEUDO)).await;
    send.finish().unwrap();
    assert_eq!(status(&read(&mut receive).await.unwrap()), 200);
}

#[tokio::test]
async fn instructions_without_end_and_without_requests() {
    let server = Server::start(Setup::default());
    let mut peer = Peer::connect(&server).await;
    // Duplicates of the newest line.
    let _ = guard(peer.encoder.write_all(&vec![0; 70_000])).await;
    assert_eq!(peer.raw.closed().await, EXCESSIVE_LOAD);
    assert_eq!(server.sum("connections_failed"), 1);
}

#[tokio::test]
async fn acknowledgements_that_the_client_makes_no_room_for() {
    let server = Server::start(Setup::default());
    let mut tiny = config();
    let mut transport = quinn::TransportConfig::default();
    // Enough for our SETTINGS; what is not read gives no further credit.
    transport.stream_receive_window(64u32.into());
    tiny.transport_config(transport.into());
    let peer = Peer::with(Raw::connect_with(tiny, server.address()).await).await;
    until("the insert arrives", || server.sum("connections") == 1).await;
    for _ in 0..3000 {
        let Ok(Ok((mut send, mut receive))) =
            tokio::time::timeout(Duration::from_secs(5), peer.raw.quic.open_bi()).await
        else {
            break;
        };
        let _ = send.write_all(&short_request()[..4]).await;
        let _ = send.reset(REQUEST_CANCELLED.into());
        let _ = receive.stop(REQUEST_CANCELLED.into());
    }
    assert_eq!(peer.raw.closed().await, EXCESSIVE_LOAD);
    assert_eq!(server.sum("qpack_overdue"), 1);
}

#[tokio::test]
async fn lines_that_our_client_repeats() {
    let server = Server::start(Setup::default());
    let address = server.address();
    let run = move || {
        let reactor = Reactor::new(ReactorConfig::new(CoreId::new(0))).unwrap();
        reactor
            .block_on(async move {
                let tls = client_crypto(Trust::AnyServer).unwrap();
                let client =
                    Client::start(tls, address, Duration::from_secs(10)).unwrap().with_dynamic_table(true);
                let connection = Rc::new(client.connect(address, "localhost", None).await.unwrap());
                let token = "abcdefghij".repeat(30);
                let mut tasks = vec![];
                for task in 0..8 {
                    let head = RequestHead::build("POST", "/repeated", "localhost")
                        .with("authorization", &format!("Bearer {token}"))
                        .with("x-task", &task.to_string());
                    let connection = Rc::clone(&connection);
                    tasks.push(sluice_core::spawn(async move {
                        for n in 0..25 {
                            let body = Bytes::from(vec![b'b'; n * 10]);
                            let answer = connection.request(&head, body).await.unwrap();
                            assert_eq!(answer.head.status(), 200);
                            let echo: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
                            assert_eq!(echo["path"], "/repeated");
                            assert_eq!(echo["length"], n * 10);
                        }
                    }));
                }
                for task in tasks {
                    task.await;
                }
            })
            .unwrap();
    };
    tokio::task::spawn_blocking(run).await.unwrap();
    assert_eq!(server.sum("requests"), 200);
    assert!(server.sum("qpack_sections") > 100, "{}", server.sum("qpack_sections"));
    assert_eq!(server.sum("connections_failed"), 0);
}

//! What a client can make a core hold by HTTP/3: each attack is carried as far as it goes, and measured there.
//!
//! Bounds are of one connection beyond what an idle one takes, and are those of `docs/limits.md`. Where an attack makes
//! us hold something, it must have come to at least [`Held::least`], or nothing was attacked.

use std::time::Duration;

use quinn::{RecvStream, SendStream};
use sluice_core::Counter;
use sluice_net::ingress::{IngressConfig, IngressStats};
use sluice_net::tls::{Trust, client_crypto};
use sluice_protocols::h3::FIELD_SECTION_BYTES_MAX;

use crate::server::{BIG_BYTES, BODY_BYTES_MAX, Server};
use crate::tampering;
use crate::varint;

/// Requests that a client may have open.
const STREAMS: usize = 128;
/// As many as leave some for requests besides: what a client used up is given back by the eighth of all.
const STREAMS_BUT_SOME: usize = STREAMS - 24;
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// What QUIC and HTTP/3 remember of a stream.
const STREAM_BYTES: usize = 4 * KIB;
/// What a connection takes besides; most of it is its window, which waits to be read when a packet before is lost.
const CONNECTION_BYTES: usize = MIB + 300 * KIB;

/// What all that an attack of little may come to: 2 KiB a stream.
const LITTLE_BYTES: usize = 2 * KIB * STREAMS;

/// What may stay behind when the client has gone: tables that have grown.
const BYTES_LEFT_MAX: isize = 1 << 20;

const DATA: u64 = 0x00;
const HEADERS: u64 = 0x01;
const UNKNOWN: u64 = 0x21;

/// A head without its frame: GET https://localhost/, by the static table.
const HEAD: &[u8] = b"\0\0\xd1\xd7\xc1\x50\x09localhost";
/// The same, but POST.
const POST: &[u8] = b"\0\0\xd4\xd7\xc1\x50\x09localhost";

fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    [varint(kind), varint(payload.len() as u64), payload.to_vec()].concat()
}

/// A whole head that asks for a path, which must be short.
fn get(path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap();
    let path = [&[0x51, length][..], path.as_bytes()].concat();
    frame(HEADERS, &[b"\0\0\xd1\xd7", &path[..], b"\x50\x09localhost"].concat())
}

/// What an attack may make us hold, in bytes.
struct Held {
    least: usize,
    most: usize,
}

impl Held {
    const fn at_most(most: usize) -> Self {
        Self { least: 0, most }
    }
}

/// A client under attack's orders.
struct Hostile {
    quic: quinn::Connection,
    _endpoint: quinn::Endpoint,
    _control: SendStream,
    /// Whatever must stay open.
    open: Vec<(SendStream, RecvStream)>,
}

impl Hostile {
    async fn connect(server: &Server, stream_window: u32) -> Self {
        let tls = client_crypto(Trust::AnyServer).unwrap();
        let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
        let mut config = quinn::ClientConfig::new(std::sync::Arc::new(tls));
        let mut transport = quinn::TransportConfig::default();
        transport.stream_receive_window(stream_window.into());
        transport.keep_alive_interval(Some(Duration::from_secs(1)));
        config.transport_config(std::sync::Arc::new(transport));
        let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
        let quic = endpoint.connect_with(config, server.address, "localhost").unwrap().await.unwrap();
        let mut control = quic.open_uni().await.unwrap();
        control.write_all(&[0, 4, 0]).await.unwrap();
        let mut hostile = Self { quic, _endpoint: endpoint, _control: control, open: vec![] };
        hostile.ask().await;
        hostile
    }

    /// Sends these bytes on a stream of their own, which stays open.
    async fn send(&mut self, bytes: &[u8]) {
        let (mut send, receive) = within(self.quic.open_bi()).await.unwrap();
        // Whoever is closed before the end sees it later.
        let _ = within(send.write_all(bytes)).await;
        self.open.push((send, receive));
    }

    /// Makes a good request. What was sent before, and was not more than is in flight, has been looked at then.
    async fn ask(&mut self) {
        let (mut send, mut receive) = within(self.quic.open_bi()).await.unwrap();
        within(send.write_all(&frame(HEADERS, HEAD))).await.unwrap();
        send.finish().unwrap();
        assert!(!within(receive.read_to_end(1_000)).await.unwrap().is_empty());
    }
}

/// Ends a test that hangs; nothing is measured by it.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("hangs")
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Connects a client, has it attack, and holds what the core held meanwhile against the bound. In the end the client
/// goes, and so must what was held for it.
fn attack(what: &str, held: &Held, act: impl AsyncFnOnce(&Server, &mut Hostile)) {
    let bytes = most_held(what, held.least, act);
    assert!(bytes <= held.most, "{what}: {bytes} bytes, more than {}", held.most);
}

/// The same for what makes us hold next to nothing: then the window, which fills when a packet is lost, is far more than
/// all the rest, and would hide it. On the loopback few are: the bound leaves it out, and one of three tries must keep to it.
fn attack_of_little(what: &str, most: usize, mut act: impl AsyncFnMut(&Server, &mut Hostile)) {
    let within = (0..3).any(|_| most_held(what, 0, &mut act) <= most);
    assert!(within, "{what}: more than {most} bytes each time");
}

/// The most that the core held for an attack, which must have come to `least`.
fn most_held(what: &str, least: usize, act: impl AsyncFnOnce(&Server, &mut Hostile)) -> usize {
    let config = IngressConfig { request_timeout: Duration::from_secs(600), ..IngressConfig::default() };
    let server = Server::start(config);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // What the core has for all its connections, and grows with its work, is there by now.
        let mut bystander = Hostile::connect(&server, MIB.try_into().unwrap()).await;
        for _ in 0..4 {
            bystander.send(&get("/big")).await;
        }
        for (mut send, mut receive) in bystander.open.drain(..) {
            send.finish().unwrap();
            assert!(within(receive.read_to_end(2 * BIG_BYTES)).await.unwrap().len() > BIG_BYTES);
        }
        let mut hostile = Hostile::connect(&server, 20_000).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let before = server.balance();
        let most = server.most_from_now();
        act(&server, &mut hostile).await;
        // What was sent has been looked at by then.
        let least = isize::try_from(least).unwrap();
        until("it has come to anything", || most.so_far().saturating_sub(before) >= least).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let bytes = usize::try_from(most.get() - before).unwrap_or(0);
        println!("{what}: {bytes} bytes at most");
        bystander.ask().await;
        server.let_go();
        hostile.quic.close(0u32.into(), b"");
        drop(hostile);
        until("the connection is over", || server.stats.connections.get() == 1).await;
        until("all is given back", || server.balance_noted() - before < BYTES_LEFT_MAX).await;
        bytes
    })
}

async fn counted(stats: &IngressStats, counter: fn(&IngressStats) -> &Counter, count: u64) {
    until("it is counted", || counter(stats).get() == count).await;
}

/// A section that comes in pieces is collected: in memory of up to twice its size, as it grows.
#[test]
fn heads_that_never_become_whole() {
    let section = FIELD_SECTION_BYTES_MAX;
    let held =
        Held { least: STREAMS * section, most: STREAMS * (2 * section + STREAM_BYTES) + CONNECTION_BYTES };
    attack("heads without their last byte", &held, async |_, hostile| {
        let head = frame(HEADERS, &vec![0; section]);
        for _ in 0..STREAMS {
            hostile.send(&head[..head.len() - 1]).await;
        }
    });
}

/// An entry of the dynamic table that a section names over and over: decoding stops where the head is too large. All
/// sections may be under way at once, and are collected until they are whole.
#[test]
fn heads_that_are_small_and_mean_much() {
    const REFERENCES: usize = 10_000;
    let held = Held::at_most(STREAMS * (2 * REFERENCES + STREAM_BYTES) + CONNECTION_BYTES);
    attack("references to a large entry", &held, async |server, hostile| {
        let mut encoder = hostile.quic.open_uni().await.unwrap();
        // Capacity 4,096; an entry `x` of 3,900 bytes.
        let entry = [&[2, 0x3f, 0xe1, 0x1f, 0x41, b'x', 0x7f, 0xbd, 0x1d][..], &[b'v'; 3_900]].concat();
        within(encoder.write_all(&entry)).await.unwrap();
        hostile.ask().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let bomb = frame(HEADERS, &[b"\x02\0", &HEAD[2..], &[0x80; REFERENCES]].concat());
        for _ in 0..STREAMS_BUT_SOME {
            hostile.send(&bomb).await;
        }
        let count = STREAMS_BUT_SOME as u64;
        counted(&server.stats, |stats| &stats.requests_headers_too_large, count).await;
        assert_eq!(server.stats.connections_failed.get(), 0);
    });
}

/// What is announced is not kept room for.
#[test]
fn frames_that_announce_more_than_ever_comes() {
    attack_of_little("giant frames", LITTLE_BYTES, async |server, hostile| {
        let data = [frame(HEADERS, POST), varint(DATA), varint((1 << 30) - 1), vec![7]].concat();
        for _ in 0..STREAMS_BUT_SOME {
            hostile.send(&data).await;
        }
        hostile.ask().await;
        hostile.send(&[varint(UNKNOWN), varint((1 << 30) - 1)].concat()).await;
        counted(&server.stats, |stats| &stats.connections_failed, 1).await;
    });
}

#[test]
fn unknown_frames_without_end() {
    let held = Held::at_most(STREAMS * STREAM_BYTES + CONNECTION_BYTES);
    attack("unknown frames", &held, async |server, hostile| {
        let before = server.balance();
        let frames = frame(UNKNOWN, &[7; 1_000]).repeat(60);
        for _ in 0..STREAMS_BUT_SOME {
            hostile.send(&frames).await;
        }
        hostile.ask().await;
        // All of it was looked at, and acknowledged a moment later: on each stream a frame is in its midst.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let bytes = server.balance() - before;
        println!("unknown frames: {bytes} bytes stay");
        assert!(bytes <= isize::try_from(STREAMS * STREAM_BYTES).unwrap(), "{bytes} bytes stay");
        assert_eq!(server.stats.connections_failed.get(), 0);
        hostile.send(&frames.repeat(2)).await;
        counted(&server.stats, |stats| &stats.connections_failed, 1).await;
    });
}

/// Bodies without their last byte, in frames of `payload` bytes.
fn bodies_that_never_become_whole(what: &str, payload: usize) {
    let bytes = BODY_BYTES_MAX - payload;
    let most = STREAMS * (2 * BODY_BYTES_MAX + STREAM_BYTES) + CONNECTION_BYTES;
    attack(what, &Held { least: STREAMS * bytes, most }, async |_, hostile| {
        let body = [frame(HEADERS, POST), frame(DATA, &vec![7; payload]).repeat(bytes / payload)].concat();
        for _ in 0..STREAMS {
            hostile.send(&body).await;
        }
    });
}

#[test]
fn bodies_that_stop_before_their_end() {
    bodies_that_never_become_whole("slow bodies", 4 * KIB);
}

#[test]
fn bodies_in_thousands_of_tiny_frames() {
    bodies_that_never_become_whole("tiny frames", 1);
}

#[test]
fn streams_that_are_opened_and_reset_in_a_loop() {
    const TURNS: usize = 2_500;
    /// Of each stream that is over; some tables grow by doubling, and that is all.
    const BYTES_EACH_MAX: isize = 8;
    attack_of_little("streams reset", LITTLE_BYTES, async |server, hostile| {
        let head = frame(HEADERS, POST);
        let mut held = vec![];
        for round in 1..=2 {
            for turn in 0..TURNS {
                hostile.send(&head[..1 + turn % head.len()]).await;
                let (mut send, mut receive) = hostile.open.pop().unwrap();
                send.reset(0x10cu32.into()).unwrap();
                let _ = receive.stop(0x10cu32.into());
            }
            counted(&server.stats, |stats| &stats.streams_abandoned, (round * TURNS) as u64).await;
            // What was sent last is acknowledged.
            tokio::time::sleep(Duration::from_millis(100)).await;
            held.push(server.balance());
        }
        let grown = held[1] - held[0];
        println!("{grown} bytes more after as many again");
        assert!(grown <= BYTES_EACH_MAX * isize::try_from(TURNS).unwrap(), "{grown} bytes more");
    });
}

/// Sixteen answers wait, and of what came before the transport has 1 MiB.
#[test]
fn answers_that_nobody_reads() {
    let held = Held { least: 15 * MIB, most: 18 * MIB + CONNECTION_BYTES };
    attack("answers unread", &held, async |server, hostile| {
        let stats = &server.stats;
        let answered = || stats.responses.get() + stats.responses_over_bound.get();
        let before = answered();
        for count in 1..=64 {
            hostile.send(&get("/big")).await;
            hostile.open.last_mut().unwrap().0.finish().unwrap();
            // One by one: answers of the same turn are all there before any is refused.
            until("it is answered", || answered() == before + count).await;
        }
        assert_eq!(stats.responses_over_bound.get(), 64 - 16);
    });
}

/// What is left of an answer is part of the memory that all of it was in.
#[test]
fn answers_that_are_read_but_for_their_end() {
    let held = Held { least: MIB, most: 34 * MIB + CONNECTION_BYTES };
    attack("ends of answers unread", &held, async |_, hostile| {
        for _ in 0..STREAMS {
            hostile.send(&get("/big")).await;
            let (send, receive) = hostile.open.last_mut().unwrap();
            send.finish().unwrap();
            // With the client's window of 20,000 bytes, more than these are left.
            let mut left = BIG_BYTES - 60_000;
            while left > 0 {
                let piece = within(receive.read_chunk(left.min(16 * KIB), true)).await.unwrap().unwrap();
                left -= piece.bytes.len();
            }
        }
    });
}

/// Whoever reads nothing of answers in pieces is given a piece and what waits behind it.
#[test]
fn answers_in_pieces_that_nobody_reads() {
    let held =
        Held { least: STREAMS * 32 * KIB, most: STREAMS * (96 * KIB + STREAM_BYTES) + CONNECTION_BYTES };
    attack("answers in pieces unread", &held, async |_, hostile| {
        for _ in 0..STREAMS {
            hostile.send(&get("/endless")).await;
            hostile.open.last_mut().unwrap().0.finish().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    });
}

/// 64 KiB wait for the service, in packets that they may share with what is no body; behind them come the windows.
#[test]
fn bodies_in_pieces_that_the_service_does_not_read() {
    let held = Held {
        least: STREAMS * 40 * KIB,
        most: STREAMS * (192 * KIB + STREAM_BYTES) + MIB + CONNECTION_BYTES,
    };
    attack("bodies in pieces", &held, async |_, hostile| {
        let path = [&[0x51, 7][..], b"/unread"].concat();
        let head = frame(HEADERS, &[b"\0\0\xd4\xd7", &path[..], b"\x50\x09localhost"].concat());
        let bytes = [head, frame(DATA, &[7; 520]).repeat(90)].concat();
        for _ in 0..STREAMS {
            hostile.send(&bytes).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    });
}

/// What a connection keeps that had as many requests at once as it may, and a full dynamic table, when it idles: QUIC and
/// QPACK have that for as long as it lives, but our own tables shrink.
#[test]
fn a_connection_that_had_many_requests_at_once_idles_within_its_bound() {
    const BYTES_MAX: isize = 120_000;
    let server = Server::start(IngressConfig {
        // Looked at every five seconds, and there for good.
        idle_timeout: Duration::from_secs(40),
        unused_timeout: None,
        ..IngressConfig::default()
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut bystander = Hostile::connect(&server, MIB.try_into().unwrap()).await;
        let before = server.balance();
        let mut client = Hostile::connect(&server, MIB.try_into().unwrap()).await;
        let mut encoder = client.quic.open_uni().await.unwrap();
        let entry = [&[2, 0x3f, 0xe1, 0x1f, 0x41, b'x', 0x7f, 0xbd, 0x1d][..], &[b'v'; 3_900]].concat();
        within(encoder.write_all(&entry)).await.unwrap();
        let head = frame(HEADERS, HEAD);
        let (half, rest) = head.split_at(head.len() / 2);
        for _ in 0..STREAMS {
            client.send(half).await;
        }
        for (mut send, mut receive) in client.open.drain(..) {
            within(send.write_all(rest)).await.unwrap();
            send.finish().unwrap();
            assert!(!within(receive.read_to_end(1_000)).await.unwrap().is_empty());
        }
        let used = server.balance() - before;
        println!("{used} bytes right after {STREAMS} requests at once");
        // The table of requests that are not whole alone has more than that.
        until("it has let go", || server.balance_noted() - before <= used - 20_000).await;
        let idle = server.balance() - before;
        println!("{idle} bytes when it idles");
        assert!(idle <= BYTES_MAX, "{idle} bytes");
        assert_eq!(server.stats.connections.get(), 2, "it is still there");
        client.ask().await;
        bystander.ask().await;
    });
}

/// Streams that are allowed from the start, and a byte now and then on each, in packets of their own, so that none can
/// be read. quinn-proto keeps up to 2,048 such pieces a stream, each with its packet.
#[test]
fn stream_data_with_gaps() {
    const STREAMS_FIRST: u64 = 12;
    const PIECES: u64 = 2_000;
    const BYTES_PER_STREAM_MAX: usize = 450 * KIB;
    let server = Server::start(IngressConfig::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = tampering::Client::connect(server.address).await;
        let mut occasion = client.quic.open_uni().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.turn_deaf();
        let before = server.balance();
        // A STREAM frame with an offset, to the end of the packet; the padding comes first.
        let piece = |stream: u64, number: u64| {
            [vec![0x0c], varint(4 * stream), varint(2 * number + 1), vec![7]].concat()
        };
        for number in 0..PIECES {
            for stream in 0..STREAMS_FIRST {
                client.send_last(&mut occasion, piece(stream, number)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let bytes = usize::try_from(server.balance() - before).unwrap();
        let each = bytes / usize::try_from(STREAMS_FIRST).unwrap();
        println!("data with gaps: {each} bytes a stream");
        assert!(each <= BYTES_PER_STREAM_MAX, "{each} bytes a stream");
        assert!(each > 100 * KIB, "{each} bytes a stream, that is no attack");
        assert_eq!(server.stats.connections_invalid.get(), 0);
        // And no further.
        for number in PIECES..PIECES + 100 {
            client.send_last(&mut occasion, piece(0, number)).await;
            if server.stats.connections_invalid.get() > 0 {
                break;
            }
        }
        until("it is counted", || server.stats.connections_invalid.get() == 1).await;
        until("it is over", || server.stats.connections.get() == 0).await;
        until("all is given back", || server.balance_noted() - before < BYTES_LEFT_MAX).await;
    });
}

//! Frames of QUIC itself, sent without end by a client that acknowledges nothing.

use std::time::{Duration, Instant};

use sluice_core::Counter;
use sluice_net::ingress::IngressConfig;

use crate::server::Server;
use crate::tampering::{Client, Frames};
use crate::varint;

/// Packets of a flood: some 700 KB of frames.
const PACKETS: usize = 600;
/// What a flood may make a connection keep, beyond what an idle one takes.
const BYTES_MAX: isize = 100_000;
/// The same while a connection copies together what came in many pieces.
const COPYING_BYTES_MAX: isize = 200_000;

fn new_connection_id(sequence: u64, retire_prior_to: u64) -> Vec<u8> {
    let mut frame = [vec![0x18], varint(sequence), varint(retire_prior_to), vec![8]].concat();
    frame.extend(sequence.to_be_bytes());
    frame.extend([7; 16]);
    frame
}

fn retire_connection_id(sequence: u64) -> Vec<u8> {
    [vec![0x19], varint(sequence)].concat()
}

/// How the server came out of a flood.
struct Outcome {
    /// The most that its thread held more than before, at any time.
    bytes_most: isize,
    path_responses: u64,
}

fn flood(server: &Server, write: impl FnMut(&mut Frames<'_>) + Send + 'static) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::connect(server.address).await;
        // The rest of the handshake settles.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = server.balance();
        let most = server.most_from_now();
        client.flood(PACKETS, write).await;
        // Until the last packet has been looked at.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let bytes_most = most.get() - before;
        Outcome { bytes_most, path_responses: client.quic.stats().frame_rx.path_response }
    })
}

/// A server that lets go of a silent connection soon, and then counts what it received.
fn impatient() -> Server {
    Server::start(IngressConfig { idle_timeout: Duration::from_secs(2), ..IngressConfig::default() })
}

fn until_counted(counter: &Counter) {
    let began = Instant::now();
    while counter.get() == 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "never counted");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn assert_bounded(what: &str, outcome: &Outcome) {
    assert_within(what, outcome, BYTES_MAX);
}

fn assert_within(what: &str, outcome: &Outcome, bytes_max: isize) {
    println!("{what}: {} bytes at most", outcome.bytes_most);
    assert!(outcome.bytes_most <= bytes_max, "{what}: {} bytes", outcome.bytes_most);
}

#[test]
fn more_connection_ids_than_were_allowed_end_the_connection() {
    let server = Server::start(IngressConfig::default());
    let mut sequence = 0;
    let outcome = flood(&server, move |frames| {
        while frames.push(&new_connection_id(sequence + 1, 0)) {
            sequence += 1;
        }
    });
    assert_bounded("new connection IDs", &outcome);
    until_counted(&server.stats.connections_invalid);
}

/// Each new one retires those before, so that the limit on their number holds and
/// every frame asks for one to be sent.
#[test]
fn connection_ids_that_replace_each_other_end_the_connection() {
    let server = Server::start(IngressConfig::default());
    let mut sequence = 0;
    let outcome = flood(&server, move |frames| {
        while frames.push(&new_connection_id(sequence + 1, sequence + 1)) {
            sequence += 1;
        }
    });
    assert_bounded("connection IDs that replace each other", &outcome);
    until_counted(&server.stats.connections_invalid);
}

/// The two first stay, so that packets still find the connection; a client of
/// quinn's may have five, and each of the others is replaced as it is retired.
#[test]
fn connection_ids_retired_without_taking_new_ones_end_the_connection() {
    let server = Server::start(IngressConfig::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bytes_most = runtime.block_on(async {
        let client = Client::connect(server.address).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut stream = client.quic.open_uni().await.unwrap();
        let bystander = Client::connect(server.address).await;
        bystander.ask().await;
        client.turn_deaf();
        let before = server.balance();
        let mut bytes_most = 0;
        for first in (2..).step_by(3) {
            client
                .send_one(&mut stream, move |frames| {
                    for sequence in first..first + 3 {
                        assert!(frames.push(&retire_connection_id(sequence)));
                    }
                })
                .await;
            // What came before has been seen to, and replaced, when this is answered.
            bystander.ask().await;
            if server.stats.connection_ids_hoarded.get() > 0 {
                println!("closed after {first} connection IDs");
                break;
            }
            assert!(first < 1_000, "nobody minds");
            if first % 5 == 0 {
                bytes_most = bytes_most.max(server.balance() - before);
            }
        }
        bystander.ask().await;
        bytes_most
    });
    println!("retired connection IDs: {bytes_most} bytes at most");
    assert!(bytes_most <= BYTES_MAX, "{bytes_most} bytes");
    until_counted(&server.stats.connection_ids_hoarded);
    assert_eq!(server.stats.connections_invalid.get(), 0);
}

#[test]
fn connection_ids_that_were_never_issued_end_the_connection() {
    let server = Server::start(IngressConfig::default());
    let outcome = flood(&server, |frames| {
        frames.push(&retire_connection_id(1_000));
    });
    assert_bounded("connection IDs never issued", &outcome);
    until_counted(&server.stats.connections_invalid);
}

#[test]
fn path_challenges_without_end_are_answered_as_far_as_there_is_room() {
    let server = impatient();
    let mut token = 0u64;
    let outcome = flood(&server, move |frames| {
        while frames.push(&[&[0x1a][..], &token.to_be_bytes()].concat()) {
            token += 1;
        }
    });
    assert_bounded("path challenges", &outcome);
    // They are allowed.
    assert!(outcome.path_responses > 0 && server.stats.connections_invalid.get() == 0);
    until_counted(&server.stats.path_challenges);
    let counted = server.stats.path_challenges.get();
    assert!(counted > outcome.path_responses, "{counted} were counted");
}

/// One byte and a gap, over and over, within what handshake data may be ahead.
#[test]
fn handshake_data_with_gaps_is_kept_in_bounds() {
    let server = impatient();
    const PIECES: u64 = 7_000;
    let mut offset = 1;
    let outcome = flood(&server, move |frames| {
        while offset < 16_000 && frames.push(&[vec![0x06], varint(offset), vec![1, 0]].concat()) {
            offset += 2;
        }
        frames.push(&[1]);
    });
    assert_within("handshake data with gaps", &outcome, COPYING_BYTES_MAX);
    until_counted(&server.stats.crypto_frames);
    let counted = server.stats.crypto_frames.get();
    assert!(counted > PIECES, "{counted} were counted");
}

#[test]
fn handshake_data_too_far_ahead_ends_the_connection() {
    let server = Server::start(IngressConfig::default());
    let mut offset = 1;
    let outcome = flood(&server, move |frames| {
        while frames.push(&[vec![0x06], varint(offset), vec![2, 0, 0]].concat()) {
            offset += 1_000;
        }
    });
    assert_bounded("handshake data far ahead", &outcome);
    until_counted(&server.stats.connections_invalid);
}

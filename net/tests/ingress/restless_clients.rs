//! Clients that keep a core busy with what leads nowhere get no more than their
//! share, and leave nothing behind.

use std::time::Duration;

use crate::common::client::Client;
use crate::common::raw::{DATA, PSEUDO, Raw, frame, frames, headers, read, request, status};
use crate::common::server::{Server, Setup};
use crate::common::{digest, guard, until};

/// As fast as they may: the next change is possible once the keys before the last are forgotten, three probe timeouts
/// after it (RFC 9001 section 6.5); until then it is not made.
#[tokio::test]
async fn keys_that_change_all_the_time() {
    const CHANGES: u64 = 6;
    let server = Server::start(Setup::default());
    let client = Client::connect(server.address()).await;
    for _ in 0..CHANGES {
        client.quic.force_key_update();
        client.post("/", &[7; 3000]).await.assert_echoes(&[7; 3000]);
        let probe_timeout = client.quic.rtt() * 3 + Duration::from_millis(26);
        tokio::time::sleep(probe_timeout * 4).await;
    }
    client.post("/", &[7; 3000]).await.assert_echoes(&[7; 3000]);
    assert_eq!(server.sum("connections_closed"), 0);
    client.close().await;
    until("the connection is gone", || server.sum("connections") == 0).await;
    // A busy machine may have held one back until it was none of its own.
    let updates = server.sum("key_updates");
    assert!((CHANGES / 2..=CHANGES).contains(&updates), "{updates} updates were counted");
}

#[tokio::test]
async fn half_requests_reset_in_a_loop() {
    let server = Server::start(Setup::default());
    let bystander = Client::connect(server.address()).await;
    let raw = Raw::connect(server.address()).await;
    let head = request(&[]);
    for n in 0..2000 {
        let (mut send, mut receive) = raw.bi(&head[..1 + n % head.len()]).await;
        send.reset(0x10cu32.into()).unwrap();
        let _ = receive.stop(0x10cu32.into());
    }
    assert_eq!(bystander.get("/").await.status, 200);
    until("nothing is open", || server.sum("requests_in_flight") == 0).await;
    // A reset may overtake its bytes; then the stream is known by its reset alone.
    until("each is counted", || server.sum("streams_abandoned") == 2000).await;
    assert_eq!(server.sum("requests"), 1, "only the bystander's was whole");
}

/// One byte each, and of a request's body as many as it may have.
#[tokio::test]
async fn a_body_of_many_tiny_frames_is_whole() {
    let server = Server::start(Setup::default());
    let raw = Raw::connect(server.address()).await;
    let body: Vec<u8> = (0..50_000u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
    let bytes: Vec<u8> = body.iter().flat_map(|byte| frame(DATA, &[*byte])).collect();
    let (mut send, mut receive) = raw.bi(&[&headers(&PSEUDO)[..], &bytes].concat()).await;
    send.finish().unwrap();
    let answer = read(&mut receive).await.unwrap();
    assert_eq!(status(&answer), 200);
    let [_, (DATA, echo)] = &frames(&answer)[..] else { panic!("an answer of other frames") };
    let echo: serde_json::Value = serde_json::from_slice(echo).unwrap();
    assert_eq!((&echo["length"], &echo["digest"]), (&body.len().into(), &digest(&body).into()));
    assert_eq!(server.sum("requests"), 1);
}

/// A connection starts with few streams, and has all of them as soon as it makes
/// use of those.
#[tokio::test]
async fn a_client_that_wants_many_streams_is_given_them() {
    let server = Server::start(Setup::default());
    let raw = Raw::connect(server.address()).await;
    let mut open = vec![];
    for _ in 0..128 {
        open.push(raw.bi(&request(&[])[..5]).await);
    }
    let more = tokio::time::timeout(Duration::from_millis(100), raw.quic.open_bi()).await;
    assert!(more.is_err(), "more than were configured");
    for (mut send, mut receive) in open {
        guard(send.write_all(&request(&[])[5..])).await.unwrap();
        send.finish().unwrap();
        assert_eq!(status(&read(&mut receive).await.unwrap()), 200);
    }
}

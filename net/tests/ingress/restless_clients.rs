//! Clients that keep a core busy with what leads nowhere get no more than their
//! share, and leave nothing behind.

use crate::common::client::Client;
use crate::common::raw::{DATA, PSEUDO, Raw, frame, headers, read, request, status};
use crate::common::server::{Server, Setup};
use crate::common::{guard, until};

#[tokio::test]
async fn keys_that_change_all_the_time() {
    let server = Server::start(Setup::default());
    let client = Client::connect(server.address()).await;
    for _ in 0..50 {
        client.quic.force_key_update();
        client.post("/", &[7; 3000]).await.assert_echoes(&[7; 3000]);
    }
    assert_eq!(server.sum("connections_closed"), 0);
    client.close().await;
    until("the connection is gone", || server.sum("connections") == 0).await;
    // One that was still under way when the next was asked for is none of its own.
    let updates = server.sum("key_updates");
    assert!((40..=50).contains(&updates), "{updates} updates were counted");
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
    let frames: Vec<u8> = (0..50_000).flat_map(|_| frame(DATA, b"x")).collect();
    let (mut send, mut receive) = raw.bi(&[&headers(&PSEUDO)[..], &frames].concat()).await;
    send.finish().unwrap();
    assert_eq!(status(&read(&mut receive).await.unwrap()), 200);
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
    let more = tokio::time::timeout(std::time::Duration::from_millis(100), raw.quic.open_bi()).await;
    assert!(more.is_err(), "more than were configured");
    for (mut send, mut receive) in open {
        guard(send.write_all(&request(&[])[5..])).await.unwrap();
        send.finish().unwrap();
        assert_eq!(status(&read(&mut receive).await.unwrap()), 200);
    }
}

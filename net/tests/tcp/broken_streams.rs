//! Bodies in pieces over TCP.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hyper::http::Request;
use sluice_net::tcp::{Cut, TcpConfig};

use crate::client::{Client, RST_STREAM, Raw, get};
use crate::server::{BODY_BYTES_MAX, Server, Setup, until};

#[tokio::test]
async fn a_body_goes_through_in_pieces_both_ways() {
    let server = Server::start(Setup::default());
    for mut client in Client::both(server.address).await {
        for length in [0, 1, BODY_BYTES_MAX] {
            let body: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let answer = client.post("/piped", body.clone()).await;
            assert_eq!((answer.status, answer.body == body), (200, true), "{length}");
        }
        let answer = client.send(Request::head("/quiet"), "").await.unwrap();
        assert_eq!((answer.status, answer.field("content-length")), (200, None));
        // Last, since HTTP/1.1 ends its connection rather than read what it refused.
        let answer = client.post("/piped", vec![0; BODY_BYTES_MAX + 1]).await;
        assert_eq!(answer.status, 413, "announced");
    }
    until("writers know", || server.routes.gone.load(Relaxed) == 2).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_taken_for_whole() {
    let server = Server::start(Setup::default());
    for mut client in Client::both(server.address).await {
        assert!(client.send(Request::get("/broken"), "").await.is_err());
    }
    let mut raw = Raw::http2(server.address).await;
    raw.write(&get(1, "/broken")).await;
    assert_eq!(raw.frame_of(RST_STREAM).await.1, 1);
    assert_eq!(server.stats.broken.get(), 3);
}

#[tokio::test]
async fn a_quiet_answer_stays_and_one_that_nobody_reads_ends_with_its_connection() {
    let tcp = TcpConfig { idle_timeout: Duration::from_millis(200), ..TcpConfig::default() };
    let server = Server::start(Setup { tcp, ..Setup::default() });
    let mut quiet = Client::http1(server.address).await;
    let mut unread = Raw::http1(server.address).await;
    unread.write(b"GET /endless HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let held = async {
        server.until_cut(Cut::Idle).await;
        until("its writer knows", || server.routes.gone.load(Relaxed) == 1).await;
        server.release(1);
    };
    let (answer, ()) = tokio::join!(quiet.get("/quiet"), held);
    assert_eq!(&answer.body[..], b"firstlast");
}

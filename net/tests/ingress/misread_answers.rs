//! Our own client against a server written by hand: what RFC 9114 asks of a
//! client is kept by the one we have.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::QuicServerConfig;
use sluice_core::{CoreId, Reactor, ReactorConfig};
use sluice_net::client::{Client, ClientError, ClientResponse};
use sluice_net::tls::{EarlyData, SharedKeys, TlsIdentity, Trust, client_crypto, server_crypto};
use sluice_protocols::http::RequestHead;
use tokio::task::JoinHandle;

use crate::common::guard;
use crate::common::raw::{DATA, control, frame, headers, varint};

/// What the server does with each connection.
#[derive(Clone, Default)]
struct Manners {
    /// Its answer to every request, as it is on the wire.
    answer: Vec<u8>,
    /// Whether it opens a stream for a request of its own.
    asks_back: bool,
}

struct Foreign {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Foreign {
    fn start(manners: Manners) -> Self {
        let home = tempfile::tempdir().unwrap();
        let keys = SharedKeys::generate().unwrap();
        let identity = TlsIdentity::development(home.path()).unwrap();
        let tls = server_crypto(&identity, &keys, EarlyData::Off).unwrap();
        let crypto = QuicServerConfig::try_from(tls).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = endpoint.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                tokio::spawn(serve(incoming, manners.clone()));
            }
        });
        Self { address, task }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(incoming: quinn::Incoming, manners: Manners) {
    let Ok(connection) = incoming.await else { return };
    let mut ours = connection.open_uni().await.unwrap();
    ours.write_all(&control()).await.unwrap();
    let back = if manners.asks_back {
        // Past the number of streams the client allows, and so never opened.
        tokio::time::timeout(Duration::from_millis(50), connection.open_bi()).await.ok()
    } else {
        None
    };
    assert!(back.is_none(), "the client lets a server open request streams");
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        receive.read_to_end(100_000).await.unwrap();
        let _ = send.write_all(&manners.answer).await;
        let _ = send.finish();
    }
}

async fn ask(method: &'static str, manners: Manners) -> Result<ClientResponse, ClientError> {
    let server = Foreign::start(manners);
    let address = server.address;
    let asking = tokio::task::spawn_blocking(move || {
        let reactor = Reactor::new(ReactorConfig::new(CoreId::new(0))).unwrap();
        let asked = async move {
            let client =
                Client::start(client_crypto(Trust::AnyServer).unwrap(), address, Duration::from_secs(5))
                    .unwrap();
            let connection = client.connect(address, "localhost", None).await?;
            connection.request(&RequestHead::build(method, "/", "localhost"), Bytes::new()).await
        };
        reactor.block_on(asked).unwrap()
    });
    guard(asking).await.unwrap()
}

async fn answered_with(frames: &[&[u8]]) -> Result<ClientResponse, ClientError> {
    ask("GET", Manners { answer: frames.concat(), ..Manners::default() }).await
}

fn status(status: &'static str) -> Vec<u8> {
    headers(&[(":status", status)])
}

#[tokio::test]
async fn interim_answers_are_passed_over() {
    let early = headers(&[(":status", "103"), ("link", "</a>; rel=preload"), ("content-length", "99")]);
    let last = headers(&[(":status", "200"), ("content-length", "4"), ("x", "final")]);
    let frames =
        [&status("100")[..], &early, &status("102"), &last, &frame(DATA, b"body"), &headers(&[("t", "1")])];
    let answer = answered_with(&frames).await.unwrap();
    assert_eq!((answer.head.status(), answer.head.header("x")), (200, Some("final")));
    assert_eq!(answer.head.header("link"), None);
    assert_eq!(answer.body, "body");
}

#[tokio::test]
async fn answers_that_are_malformed_are_not_taken() {
    let body = frame(DATA, b"body");
    let cases: [&[&[u8]]; 12] = [
        &[],
        &[&status("103")],
        &[&body],
        &[&headers(&[("x", "1")])],
        &[&headers(&[(":status", "200"), (":status", "200")])],
        &[&headers(&[(":status", "200"), (":path", "/")])],
        &[&headers(&[(":status", "200"), ("X", "1")])],
        &[&headers(&[(":status", "200"), ("connection", "close")])],
        &[&headers(&[(":status", "200"), ("content-length", "3")]), &body],
        &[&headers(&[(":status", "200"), ("content-length", "5")]), &body],
        &[&status("200"), &body, &status("200")],
        &[&status("101")],
    ];
    for (number, frames) in cases.into_iter().enumerate() {
        let error = answered_with(frames).await.expect_err(&number.to_string());
        assert!(matches!(error, ClientError::Invalid(_)), "{number}: {error}");
    }
}

/// RFC 9114 section 7.2.5: we never said that we take any.
#[tokio::test]
async fn a_promise_of_a_push_is_not_taken() {
    let promise = frame(0x05, &[&varint(0)[..], &[0, 0]].concat());
    let error = answered_with(&[&promise, &status("200")]).await.unwrap_err();
    assert!(matches!(error, ClientError::Invalid(_)), "{error}");
}

#[tokio::test]
async fn frames_nobody_knows_are_passed_over() {
    let grease = frame(0x21 + 0x1f * 5, b"anything");
    let frames = [&grease[..], &status("200"), &grease, &frame(DATA, b"a"), &grease];
    assert_eq!(answered_with(&frames).await.unwrap().body, "a");
}

/// RFC 9110 section 8.6: the length of what GET would have brought.
#[tokio::test]
async fn an_answer_to_head_may_announce_what_it_does_not_bring() {
    let answer = headers(&[(":status", "200"), ("content-length", "1000")]);
    let answer = ask("HEAD", Manners { answer, ..Manners::default() }).await.unwrap();
    assert_eq!((answer.head.content_length(), answer.body.len()), (Some(1000), 0));
}

#[tokio::test]
async fn a_server_cannot_ask_back() {
    let manners = Manners { answer: status("200"), asks_back: true };
    assert_eq!(ask("GET", manners).await.unwrap().head.status(), 200);
}

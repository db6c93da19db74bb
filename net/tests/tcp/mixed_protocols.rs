//! HTTP/1.1 and HTTP/2 mean the same: what one answers the other does.

use hyper::http::{Request, request};
use serde_json::json;
use sluice_net::tcp::{Protocol, Refused};

use crate::client::{Answer, Client, tls};
use crate::server::{BODY_BYTES_MAX, Server, Setup};

/// Sends the same over both protocols; the answers must be alike, and are given back once.
async fn both(server: &Server, make: impl Fn() -> request::Builder, body: &[u8]) -> Answer {
    let [mut old, mut new] = Client::both(server.address).await;
    let old = old.send(make(), body.to_vec()).await.unwrap();
    let new = new.send(make(), body.to_vec()).await.unwrap();
    assert_eq!((old.status, &old.body), (new.status, &new.body));
    for name in ["content-length", "content-type", "alt-svc", "retry-after"] {
        assert_eq!(old.headers.get(name), new.headers.get(name), "{name}");
    }
    new
}

#[tokio::test]
async fn every_answer_tells_where_http3_is() {
    let server = Server::start(Setup::default());
    let alt_svc = format!("h3=\":{}\"; ma=86400", server.address.port());
    for path in ["/", "/denied", "/empty", "/invalid", "/drop"] {
        let answer = both(&server, || Request::get(path), b"").await;
        // Also where the service's own answer names another port.
        assert_eq!(answer.headers.get_all("alt-svc").iter().collect::<Vec<_>>(), [&*alt_svc], "{path}");
        assert!(answer.headers.contains_key("date"), "{path}");
    }
}

#[tokio::test]
async fn bodies_up_to_the_limit_arrive_and_longer_ones_are_refused() {
    let server = Server::start(Setup::default());
    let [mut old, mut new] = Client::both(server.address).await;
    for length in [0, 1, 70_000, BODY_BYTES_MAX] {
        for client in [&mut old, &mut new] {
            let json = client.post("/", vec![b'x'; length]).await.json();
            assert_eq!((&json["method"], &json["length"]), (&json!("POST"), &json!(length)));
            assert_eq!(json["early_data"], false);
        }
    }
    let answer = both(&server, || Request::post("/"), &vec![0; BODY_BYTES_MAX + 1]).await;
    assert_eq!((answer.status, answer.text()), (413, "the body is longer than this resource takes"));
    let answer = both(&server, || Request::post("/deaf"), b"x").await;
    assert_eq!(answer.status, 413);
    assert_eq!(both(&server, || Request::post("/deaf"), b"").await.json()["length"], 0);
}

#[tokio::test]
async fn a_head_is_admitted_before_its_body_is_read() {
    let server = Server::start(Setup::default());
    let answer = both(&server, || Request::post("/denied"), &[0; 300_000]).await;
    assert_eq!((answer.status, answer.body.len()), (403, 0));
    assert_eq!(server.refused(Refused::Early), 2);
}

#[tokio::test]
async fn head_answers_carry_the_length_and_not_the_body() {
    let server = Server::start(Setup::default());
    let full = both(&server, || Request::get("/x"), b"").await;
    let head = both(&server, || Request::head("/x"), b"").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    // "HEAD" is one letter longer than "GET".
    let length = full.body.len() + 1;
    assert_eq!(head.field("content-length"), Some(&*length.to_string()));
    assert_eq!(both(&server, || Request::get("/empty"), b"").await.field("content-length"), None);
}

#[tokio::test]
async fn heads_over_the_limits_get_the_services_own_words() {
    let server = Server::start(Setup::default());
    let long = "v".repeat(16 << 10);
    let answer = both(&server, || Request::get("/").header("x-long", &long), b"").await;
    assert_eq!((answer.status, answer.field("content-type")), (431, Some("text/refusal")));
    let many = || (0..130).fold(Request::get("/"), |request, n| request.header(format!("x-{n}"), "1"));
    let answer = both(&server, many, b"").await;
    assert_eq!((answer.status, answer.field("content-type")), (431, Some("text/refusal")));
    assert_eq!(server.refused(Refused::HeadersTooLarge), 4);
    let almost = "v".repeat(15 << 10);
    assert_eq!(both(&server, || Request::get("/").header("x-long", &almost), b"").await.status, 200);
}

#[tokio::test]
async fn requests_go_to_the_core_they_belong_to() {
    let server = Server::start(Setup { cores: 3, ..Setup::default() });
    for core in [2, 0, 1] {
        let json = both(&server, || Request::get("/").header("x-core", core), b"").await.json();
        assert_eq!(json["core"], core);
        let json = both(&server, || Request::post("/").header("x-core", core), b"body").await.json();
        assert_eq!((&json["core"], &json["body"]), (&json!(core), &json!("body")));
    }
    // Those of nobody go to each in turn.
    let mut client = Client::http2(server.address).await;
    let mut seen = vec![];
    for _ in 0..3 {
        seen.push(client.get("/").await.json()["core"].as_u64().unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2]);
}

#[tokio::test]
async fn the_clients_offer_decides_the_protocol() {
    let server = Server::start(Setup::default());
    type Offer = (&'static [&'static [u8]], Option<&'static [u8]>);
    let offers: [Offer; 4] = [
        (&[b"h2", b"http/1.1"], Some(b"h2")),
        (&[b"http/1.1", b"h2"], Some(b"h2")),
        (&[b"http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ];
    for (offer, agreed) in offers {
        let stream = tls(server.address, offer).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed, "{offer:?}");
    }
    // HTTP/3 is not spoken here, and neither is what nobody knows.
    assert!(tls(server.address, &[b"h3"]).await.is_err());
    crate::server::until("counted", || {
        let made = Protocol::ALL.map(|protocol| server.stats.protocol(protocol).connections_total.get());
        made == [2, 2]
    })
    .await;
}

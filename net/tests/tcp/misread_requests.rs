//! Requests of HTTP/1.1 that servers along the way could read differently, and what HTTP/1.1 alone has.

use hyper::Request;
use sluice_net::tcp::{Cut, Refused};

use crate::client::{Client, END_HEADERS, HEADERS, Raw, fields, frame, status};
use crate::server::{Server, Setup};

const HOST: &str = "host: localhost\r\n";

/// Sends bytes on a connection of their own; the status of each answer until the server's end.
async fn statuses(server: &Server, bytes: &str) -> Vec<u16> {
    let mut raw = Raw::http1(server.address).await;
    raw.write(bytes.as_bytes()).await;
    let text = String::from_utf8(raw.read_to_end().await).unwrap();
    text.match_indices("HTTP/1.1 ").map(|(at, _)| status(&text[at..])).collect()
}

#[tokio::test]
async fn requests_that_could_be_read_two_ways_are_refused_or_end_the_connection() {
    let server = Server::start(Setup::default());
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n";
    // RFC 9112 section 6.3: with both, the coding stands and the connection ends; what follows is not a request.
    let both = format!(
        "POST / HTTP/1.1\r\n{HOST}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
    );
    assert_eq!(statuses(&server, &both).await, [200]);
    let both = format!(
        "POST / HTTP/1.1\r\n{HOST}transfer-encoding: chunked\r\ncontent-length: 60\r\n\r\n0\r\n\r\n{smuggled}"
    );
    assert_eq!(statuses(&server, &both).await, [200]);
    for fields in [
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: +5\r\n",
        "content-length: 5, 6\r\n",
        "content-length: 99999999999999999999\r\n",
        "transfer-encoding: identity\r\n",
        "transfer-encoding: chunked, gzip\r\n",
        "transfer-encoding : chunked\r\n",
        "x: a\r\n folded\r\n",
        "x\0y: a\r\n",
        "no-colon\r\n",
    ] {
        let request = format!("POST / HTTP/1.1\r\n{HOST}{fields}\r\nhello{smuggled}");
        assert_eq!(statuses(&server, &request).await, [400], "{fields:?}");
    }
    for fields in [
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
    ] {
        let request = format!("POST / HTTP/1.1\r\n{HOST}{fields}connection: close\r\n\r\n0\r\n\r\n");
        assert_eq!(statuses(&server, &request).await, [501], "{fields:?}");
    }
    for chunk in ["5;x\r\nhelloX\r\n0\r\n\r\n", "zz\r\n", "-1\r\n", "ffffffffffffffffff\r\n"] {
        let request = format!("POST / HTTP/1.1\r\n{HOST}transfer-encoding: chunked\r\n\r\n{chunk}{smuggled}");
        assert_eq!(statuses(&server, &request).await, [400], "{chunk:?}");
    }
}

#[tokio::test]
async fn hosts_are_needed_and_must_be_one() {
    let server = Server::start(Setup::default());
    for fields in ["", "host: a\r\nhost: b\r\n", "host: a\r\nhost: a\r\n", "host: \r\n", "host: a/b\r\n"] {
        let request = format!("GET / HTTP/1.1\r\n{fields}connection: close\r\n\r\n");
        assert_eq!(statuses(&server, &request).await, [400], "{fields:?}");
    }
    assert_eq!(server.refused(Refused::Malformed), 5);
    // RFC 9112 section 3.2.2: the target's authority, whatever Host says.
    let mut raw = Raw::http1(server.address).await;
    let (_, _, body) = raw.ask(&format!("GET https://real:1/x?y HTTP/1.1\r\n{HOST}\r\n")).await;
    assert!(body.contains("\"authority\":\"real:1\"") && body.contains("\"target\":\"/x?y\""), "{body}");
}

#[tokio::test]
async fn what_concerns_the_connection_alone_does_not_reach_the_service() {
    let server = Server::start(Setup::default());
    let mut raw = Raw::http1(server.address).await;
    let hop =
        "connection: keep-alive, upgrade\r\nkeep-alive: timeout=9\r\nupgrade: h2c, websocket\r\nte: gzip\r\n";
    let request = format!("GET / HTTP/1.1\r\n{HOST}{hop}http2-settings: AAMAAABk\r\naccept: */*\r\n\r\n");
    let (status, _, body) = raw.ask(&request).await;
    assert_eq!(status, 200);
    assert!(body.contains("[\"accept: */*\"]"), "{body}");
    // And it is still HTTP/1.1 that is spoken.
    assert_eq!(raw.ask(&format!("GET / HTTP/1.1\r\n{HOST}\r\n")).await.0, 200);
}

#[tokio::test]
async fn methods_that_are_not_spoken() {
    let server = Server::start(Setup::default());
    let mut raw = Raw::http1(server.address).await;
    let (status, _, body) = raw.ask("CONNECT localhost:443 HTTP/1.1\r\nhost: localhost:443\r\n\r\n").await;
    assert_eq!((status, &*body), (501, "CONNECT is not supported"));
    assert_eq!(server.refused(Refused::NotSpoken), 1);
    let mut raw = Raw::http2(server.address).await;
    let lines = [(":method", "CONNECT"), (":authority", "localhost:443")];
    raw.write(&frame(HEADERS, END_HEADERS, 1, &fields(&lines))).await;
    let (flags, stream, head) = raw.frame_of(HEADERS).await;
    // The name `:status` by its place in the table, and a literal.
    assert!(flags & END_HEADERS != 0 && stream == 1 && head[0] & 0x0f == 8, "{head:?}");
    let (plain, coded) = ([3, b'5', b'0', b'1'], [0x82, 0x6c, 0x01]);
    assert!(head[1..].starts_with(&plain) || head[1..].starts_with(&coded), "not 501: {head:?}");
    assert_eq!(server.refused(Refused::NotSpoken), 2);
    let mut raw = Raw::http1(server.address).await;
    let (status, _, body) = raw.ask(&format!("BREW /pot HTTP/1.1\r\n{HOST}\r\n")).await;
    assert!(status == 200 && body.contains("\"method\":\"BREW\""), "{body}");
    let (status, _, body) = raw.ask(&format!("OPTIONS * HTTP/1.1\r\n{HOST}\r\n")).await;
    assert!(status == 200 && body.contains("\"target\":\"*\""), "{body}");
}

#[tokio::test]
async fn requests_in_one_packet_are_answered_in_order() {
    let server = Server::start(Setup::default());
    let mut raw = Raw::http1(server.address).await;
    let post = format!("POST /b HTTP/1.1\r\n{HOST}content-length: 4\r\n\r\nbody");
    let head = format!("HEAD /c HTTP/1.1\r\n{HOST}connection: close\r\n\r\n");
    raw.write(format!("GET /a HTTP/1.1\r\n{HOST}\r\n{post}{head}").as_bytes()).await;
    let text = String::from_utf8(raw.read_to_end().await).unwrap();
    let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("no {part} in {text}"));
    assert!(at("\"target\":\"/a\"") < at("\"body\":\"body\""));
    assert!(!text.contains("\"target\":\"/c\""), "an answer to HEAD has no body");
    assert_eq!(text.matches("HTTP/1.1 200").count(), 3);
}

#[tokio::test]
async fn chunks_and_trailers_make_one_body() {
    let server = Server::start(Setup::default());
    let mut raw = Raw::http1(server.address).await;
    let chunks = "3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nx-trailer: 1\r\n\r\n";
    let request = format!("POST / HTTP/1.1\r\n{HOST}transfer-encoding: chunked\r\n\r\n{chunks}");
    let (_, _, body) = raw.ask(&request).await;
    assert!(body.contains("\"body\":\"abcde\"") && !body.contains("trailer"), "{body}");
    // A length that is not announced is counted as it comes.
    let long = format!("{:x}\r\n", 700_000);
    raw.write(format!("POST / HTTP/1.1\r\n{HOST}transfer-encoding: chunked\r\n\r\n{long}").as_bytes()).await;
    raw.write(&[b'x'; 700_000]).await;
    assert_eq!(status(&raw.answer().await.0), 413);
    assert_eq!(server.refused(Refused::BodyTooLarge), 1);
}

/// Proxies that take early data speak these protocols to what is behind them (RFC 8470 section 5.1).
#[tokio::test]
async fn what_an_intermediary_had_as_early_data_changes_nothing() {
    let server = Server::start(Setup::default());
    for mut client in Client::both(server.address).await {
        for (method, fields, body, expected) in [
            ("POST", &["1"][..], "body", 425),
            ("POST", &["1"], "", 425),
            ("DELETE", &["0"], "", 425),
            ("POST", &["1", "1"], "body", 425),
            ("POST", &[], "body", 200),
            ("GET", &["1"], "", 200),
        ] {
            let request = Request::builder().method(method).uri("/");
            let request = fields.iter().fold(request, |request, value| request.header("early-data", *value));
            let answer = client.send(request, body).await.unwrap();
            assert_eq!(answer.status, expected, "{method} {fields:?}");
        }
    }
    assert_eq!(server.refused(Refused::TooEarly), 8);
}

#[tokio::test]
async fn a_client_that_asks_first_hears_before_it_sends() {
    let server = Server::start(Setup::default());
    let head = format!("{HOST}content-length: 4\r\nexpect: 100-continue\r\n\r\n");
    let mut raw = Raw::http1(server.address).await;
    raw.write(format!("POST / HTTP/1.1\r\n{head}").as_bytes()).await;
    assert_eq!(status(&raw.answer().await.0), 100);
    raw.write(b"body").await;
    assert!(raw.answer().await.1.contains("\"body\":\"body\""));
    // Refused on its head, it need not send at all.
    let (status, _, _) = raw.ask(&format!("POST /denied HTTP/1.1\r\n{head}")).await;
    assert_eq!(status, 403);
}

#[tokio::test]
async fn what_is_not_http_ends_alone() {
    let server = Server::start(Setup::default());
    let mut good = Raw::http1(server.address).await;
    for bytes in [
        "\x16\x03\x01\x02\x00\x01\0\0",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "\r\n\r\n\0\0\0",
    ] {
        let mut raw = Raw::http1(server.address).await;
        raw.write(bytes.as_bytes()).await;
        let answer = String::from_utf8_lossy(&raw.read_until_gone().await).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{bytes:?}: {answer}");
    }
    let mut raw = Raw::http2(server.address).await;
    raw.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    raw.read_until_gone().await;
    server.until_cut(Cut::Broken).await;
    assert_eq!(good.ask(&format!("GET / HTTP/1.1\r\n{HOST}\r\n")).await.0, 200);
}

//! Every bound on what a client may take holds, and what is refused is counted.

use std::num::NonZeroU32;
use std::time::Duration;

use hyper::http::Request;
use sluice_net::entrance::EntranceConfig;
use sluice_net::tcp::{Cut, HEAD_BYTES_MAX, Refused, TcpConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{
    CANCEL, CONTINUATION, Client, END_STREAM, GOAWAY, HEADERS, RST_STREAM, Raw, code, fields, frame, get, tls,
};
use crate::server::{BIG_BYTES, Server, Setup, guard, until};

const SOON: Duration = Duration::from_millis(50);

fn with(tcp: TcpConfig) -> Server {
    Server::start(Setup { tcp, ..Setup::default() })
}

#[tokio::test]
async fn connections_past_the_bound_are_closed_until_one_ends() {
    let server = with(TcpConfig { connections_max: 2, ..TcpConfig::default() });
    let mut first = Client::http1(server.address).await;
    // One that has not come to TLS counts as well.
    let second = guard(TcpStream::connect(server.address)).await.unwrap();
    until("both are accepted", || server.stats.accepted.get() == 2).await;
    assert!(tls(server.address, &[b"h2"]).await.is_err());
    assert_eq!(server.stats.cut(Cut::Full), 1);
    assert_eq!(first.get("/").await.status, 200);
    drop(second);
    server.until_cut(Cut::Handshake).await;
    let mut third = Client::http2(server.address).await;
    assert_eq!(third.get("/").await.status, 200);
}

#[tokio::test]
async fn an_address_has_its_share_of_connections() {
    let server = with(TcpConfig { connections_per_address_max: NonZeroU32::new(2), ..TcpConfig::default() });
    let mut first = Client::http1(server.address).await;
    let second = guard(TcpStream::connect(server.address)).await.unwrap();
    until("both are accepted", || server.stats.accepted.get() == 2).await;
    assert!(tls(server.address, &[b"h2"]).await.is_err());
    assert_eq!((server.stats.cut(Cut::Crowded), server.stats.cut(Cut::Full)), (1, 0));
    let elsewhere = tokio::net::TcpSocket::new_v4().unwrap();
    elsewhere.bind(([127, 0, 0, 2], 0).into()).unwrap();
    let _other = guard(elsewhere.connect(server.address)).await.unwrap();
    until("the other is accepted", || server.stats.accepted.get() == 4).await;
    drop(second);
    server.until_cut(Cut::Handshake).await;
    let mut third = Client::http2(server.address).await;
    assert_eq!((first.get("/").await.status, third.get("/").await.status), (200, 200));
    assert_eq!(server.stats.cut(Cut::Crowded), 1, "another address has its own");
}

/// A socket that gives no connection, as where the process has no more files, is tried again, and others are served.
#[tokio::test]
async fn connections_that_the_kernel_does_not_give_are_counted_and_tried_again() {
    let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    bound.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    // Bound, but never told to listen.
    let server = Server::start_at(Setup::default(), vec![bound.into()]);
    until("it was refused twice", || server.stats.accept_failures.get() >= 2).await;
    assert_eq!(Client::http1(server.address).await.get("/").await.status, 200);
    assert_eq!(server.stats.accepted.get(), 1);
}

#[tokio::test]
async fn handshakes_that_do_not_come_to_an_end_are_ended() {
    let server = with(TcpConfig { handshake_timeout: SOON, ..TcpConfig::default() });
    let mut silent = guard(TcpStream::connect(server.address)).await.unwrap();
    assert_eq!(guard(silent.read(&mut [0; 64])).await.unwrap(), 0);
    assert_eq!(server.stats.cut(Cut::HandshakeTimeout), 1);
}

/// A byte now and then does not put the end off.
#[tokio::test]
async fn handshakes_that_trickle_are_ended() {
    let server = with(TcpConfig { handshake_timeout: 4 * SOON, ..TcpConfig::default() });
    let mut slow = guard(TcpStream::connect(server.address)).await.unwrap();
    // The head of a record with a greeting of 500 bytes.
    let greeting = [&[0x16, 3, 1, 1, 0xf4, 1, 0, 1, 0xf0][..], &[0; 400]].concat();
    let trickle = async {
        for byte in greeting {
            if slow.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(SOON / 5).await;
            if server.stats.cut(Cut::HandshakeTimeout) > 0 {
                break;
            }
        }
    };
    guard(trickle).await;
    assert_eq!((server.stats.cut(Cut::HandshakeTimeout), server.connections()), (1, 0));
}

#[tokio::test]
async fn connections_without_requests_are_ended() {
    let server = with(TcpConfig { idle_timeout: SOON, ..TcpConfig::default() });
    // Nothing at all; the beginning of a head, and no end; a head of HTTP/2 without its end.
    let mut raws = [
        Raw::http1(server.address).await,
        Raw::http1(server.address).await,
        Raw::http2(server.address).await,
        Raw::http2(server.address).await,
    ];
    raws[1].write(b"GET / HTTP/1.1\r\nhost: localhost\r\nx-slow: ").await;
    raws[3].write(&frame(HEADERS, END_STREAM, 1, &fields(&[(":method", "GET")]))).await;
    for mut raw in raws {
        raw.read_until_gone().await;
    }
    until("all are counted", || server.stats.cut(Cut::Idle) == 4).await;
}

#[tokio::test]
async fn a_request_under_way_keeps_its_connection() {
    let server = with(TcpConfig { idle_timeout: 10 * SOON, ..TcpConfig::default() });
    let mut held = Client::http2(server.address).await;
    let release = async {
        // Another connection idles and ends meanwhile.
        Raw::http1(server.address).await.read_until_gone().await;
        server.release(1);
    };
    let (answer, ()) = tokio::join!(held.get("/held"), release);
    assert_eq!(answer.text(), "held");
}

#[tokio::test]
async fn bodies_that_do_not_arrive_in_time_are_refused() {
    let server = with(TcpConfig { body_timeout: SOON, ..TcpConfig::default() });
    let mut raw = Raw::http1(server.address).await;
    raw.write(b"POST /deaf HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let (head, body) = raw.answer().await;
    assert!(head.starts_with("http/1.1 408") && body.contains("in time"), "{head}{body}");
    raw.read_to_end().await;
    assert_eq!(server.refused(Refused::BodyTimeout), 1);
}

#[tokio::test]
async fn answers_nobody_reads_end_with_their_connection() {
    let server = with(TcpConfig { idle_timeout: SOON, ..TcpConfig::default() });
    let mut old = Raw::http1(server.address).await;
    old.write(b"GET /big HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let mut new = Raw::http2(server.address).await;
    new.write(&get(1, "/big")).await;
    until("both are cut", || server.stats.cut(Cut::Idle) == 2).await;
    assert_eq!(server.connections(), 0);
}

/// A client that takes something of a whole answer all the time is not idle, however long that takes.
#[tokio::test]
async fn an_answer_that_is_read_slowly_is_read_to_its_end() {
    let idle_timeout = Duration::from_millis(1_500);
    let server = with(TcpConfig { idle_timeout, ..TcpConfig::default() });
    let mut old = Raw::http1(server.address).await;
    old.write(b"GET /big HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    // Over four times as long as it may be idle.
    let mut piece = vec![0; BIG_BYTES / 64];
    for step in 0..64 {
        assert!(guard(old.0.read_exact(&mut piece)).await.is_ok(), "cut off in step {step}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!old.read_to_end().await.is_empty(), "its head came besides");
    assert_eq!(server.stats.cut(Cut::Idle), 0);
}

/// As over HTTP/3: as many bytes of whole answers wait for a client, and further answers break off.
#[tokio::test]
async fn answers_that_wait_are_bounded_in_bytes() {
    let server = with(TcpConfig::default());
    let mut raw = Raw::http2(server.address).await;
    // Longer than the bound by itself, and the first may wait all the same.
    raw.write(&get(1, "/big")).await;
    raw.frame_of(HEADERS).await;
    for stream in [3, 5, 7] {
        raw.write(&get(stream, "/big")).await;
        raw.frame_of(RST_STREAM).await;
    }
    assert_eq!(server.stats.over_bound.get(), 3);
    // What is small has room.
    raw.write(&get(9, "/")).await;
    raw.frame_of(HEADERS).await;
    assert_eq!(server.stats.over_bound.get(), 3);
}

#[tokio::test]
async fn a_core_with_enough_to_do_sheds() {
    let entrance = EntranceConfig { pending_max: 1, queue_max: 8 };
    let server = Server::start(Setup { entrance, ..Setup::default() });
    let [mut held, mut shed] = Client::both(server.address).await;
    let shedding = async {
        server.until_pending(1).await;
        let answer = shed.send(Request::post("/"), "body").await.unwrap();
        assert_eq!((answer.status, answer.field("retry-after")), (503, Some("1")));
        assert!(answer.text().contains("/problems/overloaded"), "{answer:?}");
        assert_eq!(server.refused(Refused::CoreFull), 1);
        server.release(1);
    };
    let (answer, ()) = tokio::join!(held.get("/held"), shedding);
    assert_eq!(answer.text(), "held");
    assert_eq!(shed.post("/", "body").await.status, 200);
}

#[tokio::test]
async fn requests_given_up_count_until_the_service_lets_go_of_them() {
    let server = with(TcpConfig { streams_max: 4, ..TcpConfig::default() });
    let mut raw = Raw::http2(server.address).await;
    for turn in 0..20 {
        let stream = 2 * turn + 1;
        raw.write(&get(stream, "/held")).await;
        // Once the service has it, so that it is not merely forgotten.
        let requests = u64::from(turn) + 1;
        let began = || server.stats.protocol(sluice_net::tcp::Protocol::Http2).requests.get() >= requests;
        let is_cut = || server.stats.cut(Cut::Load) > 0;
        until("it is taken or the connection cut", || began() || is_cut()).await;
        if is_cut() {
            break;
        }
        raw.write(&frame(RST_STREAM, 0, stream, &CANCEL)).await;
        until("it is given up", || server.stats.abandoned.get() >= requests || is_cut()).await;
    }
    server.until_cut(Cut::Load).await;
    let pending = server.entrance.pending();
    assert!(pending <= 2 * 4 + 1, "{pending} requests of one client");
    server.release(pending);
    server.until_pending(0).await;
}

#[tokio::test]
async fn streams_reset_in_a_loop_end_the_connection() {
    let server = Server::start(Setup::default());
    let mut raw = Raw::http2(server.address).await;
    let loops: Vec<u8> = (0..2_000)
        .flat_map(|n| [get(2 * n + 1, "/"), frame(RST_STREAM, 0, 2 * n + 1, &CANCEL)].concat())
        .collect();
    raw.write(&loops).await;
    raw.read_until_gone().await;
    until("it is over", || server.connections() == 0).await;
    assert!(server.stats.cut(Cut::Broken) + server.stats.cut(Cut::Load) == 1);
}

#[tokio::test]
async fn heads_without_an_end_are_cut_off() {
    let server = Server::start(Setup::default());
    let mut old = Raw::http1(server.address).await;
    old.write(
        format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}", "y".repeat(2 * HEAD_BYTES_MAX)).as_bytes(),
    )
    .await;
    let answer = String::from_utf8(old.read_until_gone().await).unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let mut new = Raw::http2(server.address).await;
    new.write(&frame(HEADERS, END_STREAM, 1, &fields(&[(":method", "GET")]))).await;
    let more = frame(CONTINUATION, 0, 1, &fields(&[("x", "y")]));
    new.write(&more.repeat(1_000)).await;
    assert_ne!(code(&new.frame_of(GOAWAY).await.2), 0);
    new.read_until_gone().await;
    until("both are over", || server.connections() == 0).await;
}

//! Winding up loses no request that was taken, and takes none it would lose.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use quinn::RecvStream;

use crate::common::client::{Client, config, config_for};
use crate::common::raw::{Raw, control, frames, get, read, read_varint, request, status};
use crate::common::relay::Relay;
use crate::common::server::{BIG_BYTES, Server, Setup};
use crate::common::{guard, pattern, until};

const LONG: Duration = Duration::from_secs(60);
const REQUEST_REJECTED: u64 = 0x10b;

async fn settled(server: &Server) {
    until("every core has ended", || server.is_over()).await;
}

/// The first word of the end, which refuses nothing yet.
const ANY: u64 = (1 << 62) - 4;

/// What the server says of its end on its control stream, which must not be stopped.
struct Goaways {
    control: RecvStream,
    bytes: Vec<u8>,
}

impl Goaways {
    async fn of(raw: &Raw) -> Self {
        Self { control: guard(raw.quic.accept_uni()).await.unwrap(), bytes: vec![] }
    }

    fn so_far(&self) -> Vec<u64> {
        // Behind the stream type: SETTINGS, and in the end GOAWAY.
        let frames = if self.bytes.is_empty() { vec![] } else { frames(&self.bytes[1..]) };
        let goaways = frames.into_iter().filter(|(kind, _)| *kind == 0x07);
        goaways.map(|(_, id)| read_varint(&mut &id[..])).collect()
    }

    /// All up to now, once there are `count`: the first streams that will not be served.
    async fn take(&mut self, count: usize) -> Vec<u64> {
        while self.so_far().len() < count {
            let chunk = guard(self.control.read_chunk(1000, true)).await.unwrap().expect("never ends");
            self.bytes.extend_from_slice(&chunk.bytes);
        }
        self.so_far()
    }
}

#[tokio::test]
async fn a_request_in_flight_is_answered_and_others_are_refused() {
    let mut server = Server::start(Setup { cores: 2, ..Setup::default() });
    let raw = Raw::connect_with(config_for(&server, 1), server.address()).await;
    let _control = raw.uni(&control()).await;
    let (mut send, mut answer) = raw.bi(&get("/held")).await;
    send.finish().unwrap();
    until("the request is there", || server.sum("requests") == 1).await;
    server.begin_drain(LONG);

    let mut goaways = Goaways::of(&raw).await;
    assert_eq!(goaways.take(2).await, [ANY, 4]);
    for _ in 0..3 {
        let (mut send, mut refused) = raw.bi(&get("/")).await;
        let _ = send.finish();
        assert_eq!(read(&mut refused).await, Err(REQUEST_REJECTED));
    }
    assert_eq!(server.sum("requests_refused_draining"), 3);
    // Core 0 had nothing to do and has ended; core 1 lets nobody in.
    let late = Client::connect_with(config_for(&server, 1), server.address()).await.err().expect("refused");
    assert!(matches!(late, quinn::ConnectionError::ConnectionClosed(_)), "{late}");
    assert_eq!(server.sum("connections_refused"), 1);

    server.release(1);
    assert_eq!(status(&read(&mut answer).await.unwrap()), 200);
    assert_eq!(raw.closed().await, 0x100);
    settled(&server).await;
    assert_eq!(server.sum("requests_in_flight"), 0);
}

#[tokio::test]
async fn a_client_that_knows_goaway_sends_no_more() {
    let mut server = Server::start(Setup::default());
    let client = Client::connect(server.address()).await;
    let held = async { client.post("/held", &pattern(100_000)).await };
    let draining = async {
        until("the request is there", || server.sum("requests") == 1).await;
        server.begin_drain(LONG);
        loop {
            match client.request(Method::GET, "/", b"").await {
                Ok(answer) => assert_eq!(answer.status, 200),
                Err(_) => break server.release(1),
            }
        }
    };
    let (held, ()) = tokio::join!(held, draining);
    held.assert_echoes(&pattern(100_000));
    assert!(guard(client.driver).await.unwrap().is_h3_no_error());
    settled(&server).await;
}

/// The answer is with the transport but not with the client, whose window is
/// full: GOAWAY has to wait as well, and the connection for both.
#[tokio::test]
async fn an_answer_under_way_is_not_cut_off() {
    let mut server = Server::start(Setup::default());
    let mut transport = quinn::TransportConfig::default();
    transport.receive_window(20_000u32.into());
    let mut config = config();
    config.transport_config(Arc::new(transport));
    let raw = Raw::connect_with(config, server.address()).await;
    let _control = raw.uni(&control()).await;
    let (mut send, mut answer) = raw.bi(&get("/big")).await;
    send.finish().unwrap();
    until("it is answered", || server.sum("responses") == 1).await;
    server.begin_drain(LONG);
    // Let the server look at it many times.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!server.is_over());
    let bytes = read(&mut answer).await.unwrap();
    let (kind, body) = frames(&bytes).pop().unwrap();
    assert_eq!((kind, body.len()), (0, BIG_BYTES));
    assert_eq!(body, pattern(BIG_BYTES));
    let mut goaways = Goaways::of(&raw).await;
    assert_eq!(goaways.take(2).await, [ANY, 4]);
    assert_eq!(raw.closed().await, 0x100);
    settled(&server).await;
}

/// The whole answer has been sent, and lost: the connection must stay until it
/// was sent again and has arrived.
#[tokio::test]
async fn an_answer_lost_on_the_way_is_repeated() {
    let mut server = Server::start(Setup::default());
    let relay = Relay::start(server.address()).await;
    let raw = Raw::connect(relay.address).await;
    let _control = raw.uni(&control()).await;
    let (mut send, mut answer) = raw.bi(&get("/held")).await;
    send.finish().unwrap();
    until("the request is there", || server.sum("requests") == 1).await;
    relay.cut(true);
    server.release(1);
    until("it is answered", || server.sum("responses") == 1).await;
    server.begin_drain(LONG);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!server.is_over());
    relay.cut(false);
    assert_eq!(status(&read(&mut answer).await.unwrap()), 200);
    assert_eq!(raw.closed().await, 0x100);
    settled(&server).await;
}

#[tokio::test]
async fn a_request_half_sent_may_still_finish() {
    let mut server = Server::start(Setup::default());
    let raw = Raw::connect(server.address()).await;
    let _control = raw.uni(&control()).await;
    let (mut send, mut answer) = raw.bi(&request(&[])).await;
    // Answered after the bytes above, so they have arrived.
    let (mut other, mut first) = raw.bi(&get("/")).await;
    other.finish().unwrap();
    assert_eq!(status(&read(&mut first).await.unwrap()), 200);
    server.begin_drain(LONG);
    tokio::time::sleep(Duration::from_millis(100)).await;
    send.finish().unwrap();
    assert_eq!(status(&read(&mut answer).await.unwrap()), 200);
    assert_eq!(raw.closed().await, 0x100);
    settled(&server).await;
}

#[tokio::test]
async fn what_never_ends_is_ended_at_the_deadline() {
    let mut server = Server::start(Setup::default());
    let raw = Raw::connect(server.address()).await;
    let _control = raw.uni(&control()).await;
    let (mut send, mut answer) = raw.bi(&get("/held")).await;
    send.finish().unwrap();
    until("the request is there", || server.sum("requests") == 1).await;
    server.begin_drain(Duration::from_millis(100));
    assert_eq!(raw.closed().await, 0x100);
    assert!(guard(answer.read_chunk(1, true)).await.is_err());
    settled(&server).await;
}

#[tokio::test]
async fn idle_connections_do_not_delay_the_end() {
    let mut server = Server::start(Setup { cores: 2, ..Setup::default() });
    let mut clients = vec![];
    for n in 0..20 {
        let client = Client::connect_with(config_for(&server, n % 2), server.address()).await.unwrap();
        client.get("/").await;
        clients.push(client);
    }
    server.begin_drain(LONG);
    settled(&server).await;
    for client in clients {
        assert!(guard(client.driver).await.unwrap().is_h3_no_error());
    }
}

/// GOAWAY tells which requests may be sent again elsewhere, so it must come even
/// where nothing is in flight as far as the server knows.
#[tokio::test]
async fn an_idle_client_is_told_before_it_is_shut_out() {
    let mut server = Server::start(Setup::default());
    let raw = Raw::connect(server.address()).await;
    let _control = raw.uni(&control()).await;
    let (mut send, mut answer) = raw.bi(&get("/")).await;
    send.finish().unwrap();
    assert_eq!(status(&read(&mut answer).await.unwrap()), 200);
    // Until the server knows that its answer has arrived.
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.begin_drain(LONG);
    let mut goaways = Goaways::of(&raw).await;
    assert_eq!(goaways.take(2).await, [ANY, 4]);
    assert_eq!(raw.closed().await, 0x100);
    settled(&server).await;
}

#[tokio::test]
async fn a_server_without_connections_ends_at_once() {
    let mut server = Server::start(Setup { cores: 4, ..Setup::default() });
    server.begin_drain(LONG);
    settled(&server).await;
}

//! What clients that come over TCP can make us hold, counted on the one thread of the runtime on which their
//! connections live.

#[path = "../tcp/client.rs"]
#[allow(dead_code, reason = "shared with the tests that speak more of it")]
mod client;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use sluice_core::{Reactor, ReactorConfig};
use sluice_net::CoreCount;
use sluice_net::entrance::{EntranceConfig, entrance};
use sluice_net::tcp::{Protocol, TcpConfig, TcpIngress, TcpStats};
use sluice_net::tls::{SharedKeys, TlsIdentity, tcp_server_crypto};
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;

use self::client::{Client, END_HEADERS, HEADERS, Raw, SETTINGS, frame, get};
use crate::counting;
use crate::server::Reply;

/// What one idle connection may cost: TLS, and the state and buffers of its protocol.
const HTTP1_BYTES_MAX: isize = 64_000;
const HTTP2_BYTES_MAX: isize = 64_000;
/// What is less means that the count is off.
const BYTES_MIN: isize = 5_000;
/// What may stay behind when clients have gone: tables that have grown.
const BYTES_LEFT_MAX: isize = 1 << 20;
/// A frame of HTTP/2 (RFC 9113 section 6.7).
const PING: u8 = 6;
/// What a client may make us hold by frames that are owed an answer.
const OWED_BYTES_MAX: isize = 256 << 10;

/// What the shared client's tests need of their server.
mod server {
    /// Ends a test that hangs; nothing is measured by it.
    pub(crate) async fn guard<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(std::time::Duration::from_secs(60), future).await.expect("hangs")
    }
}

struct Server {
    address: SocketAddr,
    stats: Arc<TcpStats>,
    balance: Arc<AtomicIsize>,
    most: Arc<AtomicIsize>,
    stop: Vec<oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let identity = TlsIdentity::development(home.path()).unwrap();
        let tls = tcp_server_crypto(&identity, &SharedKeys::generate().unwrap()).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (entrance, ends) = entrance(CoreCount::new(1).unwrap(), EntranceConfig::default(), |_| None);
        let stats = Arc::<TcpStats>::default();
        let (balance, most) = (Arc::<AtomicIsize>::default(), Arc::<AtomicIsize>::default());
        let mut server = Self {
            address,
            stats: Arc::clone(&stats),
            balance: Arc::clone(&balance),
            most: Arc::clone(&most),
            stop: vec![],
            threads: vec![],
        };
        for end in ends {
            server.spawn(move |stopped| {
                let reactor = Reactor::new(ReactorConfig::new(end.core())).unwrap();
                let serve = async move {
                    let _guard = end.attach(Rc::new(Reply::default()));
                    let _ = stopped.await;
                };
                reactor.block_on(serve).unwrap();
            });
        }
        server.spawn(move |mut stopped| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let config = TcpConfig { idle_timeout: Duration::from_secs(600), ..TcpConfig::default() };
            let ingress =
                TcpIngress::start(runtime.handle(), vec![listener], tls, config, entrance, stats).unwrap();
            runtime.block_on(async {
                while stopped.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
                    balance.store(counting::balance(), Ordering::Relaxed);
                    most.fetch_max(counting::take_most(), Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
            drop(ingress);
        });
        server
    }

    fn spawn(&mut self, run: impl FnOnce(oneshot::Receiver<()>) + Send + 'static) {
        let (stop, stopped) = oneshot::channel();
        self.stop.push(stop);
        self.threads.push(std::thread::spawn(move || run(stopped)));
    }

    /// Bytes allocated on the runtime's thread and not freed, as of a moment ago.
    fn balance(&self) -> isize {
        std::thread::sleep(Duration::from_millis(20));
        self.balance.load(Ordering::Relaxed)
    }

    fn connections(&self) -> u64 {
        Protocol::ALL.iter().map(|protocol| self.stats.protocol(*protocol).connections.get()).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.drain(..).for_each(|stop| {
            let _ = stop.send(());
        });
        for thread in self.threads.drain(..) {
            assert!(thread.join().is_ok() || std::thread::panicking(), "a thread of the server panicked");
        }
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    server::guard(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    assert!(holds(), "{what}");
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

async fn idle_ones_stay_within(name: &str, bytes_max: isize, connect: impl AsyncFn(SocketAddr) -> Client) {
    const CONNECTIONS: u16 = 400;
    let server = Server::start();
    // What the runtime has whether or not there are connections is there by then.
    let mut first = connect(server.address).await;
    assert_eq!(first.get("/").await.status, 200);
    let before = server.balance();
    let mut open = vec![];
    for _ in 0..CONNECTIONS {
        let mut client = connect(server.address).await;
        assert_eq!(client.get("/").await.status, 200);
        open.push(client);
    }
    assert_eq!(server.connections(), u64::from(CONNECTIONS) + 1);
    let each = (server.balance() - before) / isize::try_from(CONNECTIONS).unwrap();
    println!("{name}: {each} bytes each");
    assert!((BYTES_MIN..=bytes_max).contains(&each), "{each} bytes a connection");
    drop(open);
    until("all but one are over", || server.connections() == 1).await;
    let left = || server.balance.load(Ordering::Relaxed) - before;
    until("all is given back", || left() < BYTES_LEFT_MAX).await;
}

#[test]
fn idle_connections_of_http1_stay_within_the_bound() {
    run(idle_ones_stay_within("idle, HTTP/1.1", HTTP1_BYTES_MAX, Client::http1));
}

#[test]
fn idle_connections_of_http2_stay_within_the_bound() {
    run(idle_ones_stay_within("idle, HTTP/2", HTTP2_BYTES_MAX, Client::http2));
}

/// Settings and pings are owed an answer each; a client that reads none gets no more of them read.
#[test]
fn frames_without_effect_are_answered_in_bounded_memory() {
    run(async {
        let server = Server::start();
        let mut bystander = Raw::http2(server.address).await;
        let mut raw = Raw::http2(server.address).await;
        until("both are there", || server.connections() == 2).await;
        let before = server.balance();
        server.most.store(isize::MIN, Ordering::Relaxed);
        let flood = [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[0; 8])].concat().repeat(500);
        let mut sent = 0;
        while let Ok(written) = tokio::time::timeout(Duration::from_secs(1), raw.0.write_all(&flood)).await {
            // The server may have had enough as well.
            if written.is_err() {
                break;
            }
            sent += flood.len();
            assert!(sent < 256 << 20, "it is all read, and nothing is refused");
        }
        let bytes = server.most.load(Ordering::Relaxed).max(server.balance()) - before;
        println!("{sent} bytes of frames without effect: {bytes} bytes at most");
        assert!(bytes <= OWED_BYTES_MAX, "{bytes} bytes");
        bystander.write(&get(1, "/")).await;
        assert_eq!(bystander.frame_of(HEADERS).await.0 & END_HEADERS, END_HEADERS);
        drop(raw);
        until("it is over", || server.connections() == 1).await;
    });
}

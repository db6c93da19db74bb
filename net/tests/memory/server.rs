//! One core that answers requests with 200 bytes unless they ask for something
//! else, on a thread whose memory is counted.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sluice_core::{CoreId, Reactor, ReactorConfig, mailbox};
use sluice_net::ingress::{self, IngressConfig, IngressStats, ServerIdentity};
use sluice_net::tls::{EarlyData, SharedKeys, TlsIdentity, server_crypto};
use sluice_net::{Admit, CoreCount, ListenConfig, Listeners, Request, Responder, Service};
use sluice_protocols::http::{RequestHead, Response};
use tokio::sync::oneshot;

use crate::counting;

static REPLY: [u8; 200] = [b'x'; 200];

/// Longest body that is taken whole.
pub(crate) const BODY_BYTES_MAX: usize = 64 << 10;
/// Bytes of `/big`.
pub(crate) const BIG_BYTES: usize = 1 << 20;

/// `/big` answers 1 MiB that is its own, `/endless` without end, `/unread` takes a
/// body in pieces and reads none of it until it may go.
#[derive(Default)]
pub(crate) struct Reply {
    may_go: Arc<AtomicBool>,
}

impl Service for Reply {
    fn admit(&self, head: &RequestHead, _: Option<IpAddr>) -> Admit {
        match head.path() {
            "/unread" => Admit::Stream { bytes_max: usize::MAX },
            _ => Admit::Body { bytes_max: BODY_BYTES_MAX },
        }
    }

    fn call(&self, request: Request, respond: Responder) {
        match request.head.path() {
            "/big" => {
                let body = Bytes::from(vec![b'x'; BIG_BYTES]);
                respond.send(Response::new(200).with_body("text/plain", body));
            }
            "/endless" => {
                let mut writer = respond.stream(Response::new(200));
                sluice_core::spawn(async move {
                    while writer.send(Bytes::from(vec![b'x'; 10_000])).await.is_ok() {}
                });
            }
            "/unread" => {
                let (body, may_go) = (request.stream.expect("admitted so"), Arc::clone(&self.may_go));
                sluice_core::spawn(async move {
                    while !may_go.load(Ordering::Relaxed) {
                        sluice_core::sleep(Duration::from_millis(5)).await;
                    }
                    drop((body, respond));
                });
            }
            _ => respond.send(Response::new(200).with_body("text/plain", Bytes::from_static(&REPLY))),
        }
    }

    fn refuse(&self, status: u16, _: &str) -> Response {
        Response::new(status)
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) stats: Arc<IngressStats>,
    balance: Arc<AtomicIsize>,
    most: Arc<AtomicIsize>,
    /// Asks the core to begin with `most` anew.
    forget_most: Arc<AtomicBool>,
    may_go: Arc<AtomicBool>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(config: IngressConfig) -> Self {
        let home = tempfile::tempdir().unwrap();
        let keys = SharedKeys::generate().unwrap();
        let identity = TlsIdentity::development(home.path()).unwrap();
        let tls = server_crypto(&identity, &keys, EarlyData::Off).unwrap();
        let listen = ListenConfig {
            addresses: vec![(Ipv4Addr::LOCALHOST, 0).into()],
            core_port_base: None,
            receive_buffer_bytes: 8 << 20,
        };
        let listeners = Listeners::bind(&listen, CoreCount::new(1).unwrap()).unwrap();
        let address = listeners.addresses[0];
        let listeners = listeners.into_cores().pop().unwrap();
        let stats = Arc::new(IngressStats::default());
        let balance = Arc::new(AtomicIsize::new(0));
        let most = Arc::new(AtomicIsize::new(isize::MIN));
        let forget_most = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = oneshot::channel();
        let (stats_inside, balance_inside) = (Arc::clone(&stats), Arc::clone(&balance));
        let (most_inside, forget_inside) = (Arc::clone(&most), Arc::clone(&forget_most));
        let may_go = Arc::<AtomicBool>::default();
        let reply = Reply { may_go: Arc::clone(&may_go) };
        let thread = std::thread::spawn(move || {
            let reactor = Reactor::new(ReactorConfig::new(CoreId::new(0))).unwrap();
            let serve = async move {
                let forward = mailbox::mesh(1, 1).pop().unwrap();
                let identity = ServerIdentity { tls, keys };
                let handle = ingress::start(
                    listeners,
                    &identity,
                    &config,
                    forward,
                    Rc::new(reply),
                    stats_inside,
                    Arc::default(),
                )
                .unwrap();
                let watch = sluice_core::spawn(async move {
                    loop {
                        balance_inside.store(counting::balance(), Ordering::Relaxed);
                        let most = counting::take_most();
                        if forget_inside.load(Ordering::Acquire) {
                            most_inside.store(counting::balance(), Ordering::Relaxed);
                            forget_inside.store(false, Ordering::Release);
                        } else {
                            most_inside.fetch_max(most, Ordering::Relaxed);
                        }
                        sluice_core::sleep(Duration::from_millis(5)).await;
                    }
                });
                let _ = stopped.await;
                drop(watch);
                handle.drain(Instant::now()).await;
            };
            reactor.block_on(serve).unwrap();
        });
        let (stop, thread) = (Some(stop), Some(thread));
        Self { address, stats, balance, most, forget_most, may_go, stop, thread }
    }

    /// Lets bodies go that the service holds.
    pub(crate) fn let_go(&self) {
        self.may_go.store(true, Ordering::Relaxed);
    }

    /// Bytes allocated on the core's thread and not freed, as of a moment ago.
    pub(crate) fn balance(&self) -> isize {
        // Twice the interval at which it is noted.
        std::thread::sleep(Duration::from_millis(10));
        self.balance.load(Ordering::Relaxed)
    }

    /// The same, without waiting for what is done now to show.
    pub(crate) fn balance_noted(&self) -> isize {
        self.balance.load(Ordering::Relaxed)
    }

    /// The largest balance from now on, be it within a turn; what was before is forgotten when this returns.
    pub(crate) fn most_from_now(&self) -> Most<'_> {
        self.forget_most.store(true, Ordering::Release);
        while self.forget_most.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Most(self)
    }
}

pub(crate) struct Most<'a>(&'a Server);

impl Most<'_> {
    /// As far as it is known by now.
    pub(crate) fn so_far(&self) -> isize {
        self.0.most.load(Ordering::Relaxed)
    }

    pub(crate) fn get(&self) -> isize {
        self.0.balance();
        self.0.most.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let result = self.thread.take().map(JoinHandle::join);
        assert!(matches!(result, Some(Ok(()))) || std::thread::panicking(), "the core panicked");
    }
}

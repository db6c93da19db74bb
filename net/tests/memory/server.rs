//! One core that answers every request with 200 bytes, on a thread whose memory
//! is counted.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
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

struct Reply;

impl Service for Reply {
    fn admit(&self, _: &RequestHead, _: Option<IpAddr>) -> Admit {
        Admit::Body { bytes_max: 64 << 10 }
    }

    fn call(&self, _: Request, respond: Responder) {
        respond.send(Response::new(200).with_body("text/plain", Bytes::from_static(&REPLY)));
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
        let most = Arc::new(AtomicIsize::new(0));
        let (stop, stopped) = oneshot::channel();
        let (stats_inside, balance_inside) = (Arc::clone(&stats), Arc::clone(&balance));
        let most_inside = Arc::clone(&most);
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
                    Rc::new(Reply),
                    stats_inside,
                    Arc::default(),
                )
                .unwrap();
                let watch = sluice_core::spawn(async move {
                    loop {
                        balance_inside.store(counting::balance(), Ordering::Relaxed);
                        most_inside.fetch_max(counting::balance(), Ordering::Relaxed);
                        sluice_core::sleep(Duration::from_millis(5)).await;
                    }
                });
                let _ = stopped.await;
                drop(watch);
                handle.drain(Instant::now()).await;
            };
            reactor.block_on(serve).unwrap();
        });
        Self { address, stats, balance, most, stop: Some(stop), thread: Some(thread) }
    }

    /// Bytes allocated on the core's thread and not freed, as of a moment ago.
    pub(crate) fn balance(&self) -> isize {
        // Twice the interval at which it is noted.
        std::thread::sleep(Duration::from_millis(10));
        self.balance.load(Ordering::Relaxed)
    }

    /// The largest [`balance`](Self::balance) from now on, as far as it was noted.
    pub(crate) fn most_from_now(&self) -> Most<'_> {
        self.most.store(isize::MIN, Ordering::Relaxed);
        Most(self)
    }
}

pub(crate) struct Most<'a>(&'a Server);

impl Most<'_> {
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

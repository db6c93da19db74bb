//! The server under test: one reactor a thread, not pinned.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sluice_core::mailbox::{MailboxStats, mesh};
use sluice_core::{CoreId, CoreStats, IO_VARIABLE, IoBackend, Reactor, ReactorConfig, spawn};
use sluice_net::ingress::{self, ForwardEnd, Forwarded, IngressConfig, IngressStats, ServerIdentity};
use sluice_net::quic::listen::CoreListeners;
use sluice_net::tls::{EarlyData, NODE_SECRET_BYTES, SharedKeys, TlsIdentity, server_crypto};
use sluice_net::{Admit, CoreCount, ListenConfig, Listeners, Request, Responder, Service};
use sluice_protocols::http::{RequestHead, Response};
use tokio::sync::oneshot;

use super::routes::{self, Shared};
use super::{digest, pattern};

/// Longest body the test service takes: more than a stream's flow control
/// window, so that it must be extended.
pub(crate) const BODY_BYTES_MAX: usize = 600_000;
pub(crate) const BIG_BYTES: usize = 1 << 20;

/// Beside [`routes`]: `/big` answers 1 MiB, `/slow` late, `/denied` on its head;
/// all else is echoed.
struct Echo {
    core: CoreId,
    shared: Shared,
}

impl Service for Echo {
    fn admit(&self, head: &RequestHead, _: Option<IpAddr>) -> Admit {
        if head.path() == "/denied" {
            return Admit::Reply(Response::new(403));
        }
        let whole = Admit::Body { bytes_max: BODY_BYTES_MAX };
        routes::admit(head.path(), BODY_BYTES_MAX).unwrap_or(whole)
    }

    fn call(&self, request: Request, respond: Responder) {
        let echo_of = |request: &Request| echo(self.core, request);
        let Some((request, respond)) = self.shared.call(request, respond, echo_of) else { return };
        let echo = echo(self.core, &request);
        match request.head.path() {
            "/slow" => {
                spawn(async move {
                    sluice_core::sleep(Duration::from_millis(50)).await;
                    respond.send(echo);
                });
            }
            "/big" => respond
                .send(Response::new(200).with_body("application/octet-stream", pattern(BIG_BYTES).into())),
            _ => respond.send(echo),
        }
    }

    fn refuse(&self, status: u16, detail: &str) -> Response {
        Response::new(status).with_body("text/plain", Bytes::copy_from_slice(detail.as_bytes()))
    }
}

fn echo(core: CoreId, request: &Request) -> Response {
    Response::new(200).json(&serde_json::json!({
        "core": core.get(),
        "method": request.head.method_str(),
        "path": request.head.path(),
        "length": request.body.len(),
        "digest": digest(&request.body),
        "peer_port": request.peer.port(),
        "early_data": request.early_data,
    }))
}

/// The suite runs once for each backend: what was asked for is what it is about.
fn assert_backend(reactor: &Reactor) {
    let asked = std::env::var(IO_VARIABLE).unwrap_or_default();
    if matches!(&*asked, "uring" | "epoll") {
        assert_eq!(reactor.io() == IoBackend::Epoll, asked == "epoll", "{} and not {asked}", reactor.io());
    }
}

/// What a server is made of.
pub(crate) struct Setup {
    pub(crate) cores: usize,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) ingress: IngressConfig,
    pub(crate) early_data: EarlyData,
    /// Whether the kernel knows which core a packet is for.
    pub(crate) is_steered: bool,
    /// Datagrams that may be on their way from one core to another.
    pub(crate) forward_lane_max: usize,
    /// What lasting keys are made from, if they are to be those of another server.
    pub(crate) node_secret: Option<[u8; NODE_SECRET_BYTES]>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            cores: 1,
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            ingress: IngressConfig::default(),
            early_data: EarlyData::Off,
            is_steered: true,
            forward_lane_max: 1024,
            node_secret: None,
        }
    }
}

pub(crate) struct Server {
    /// With the shared port.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) core_ports: Vec<u16>,
    pub(crate) cores: CoreCount,
    pub(crate) stats: Vec<Arc<IngressStats>>,
    pub(crate) core_stats: Vec<Arc<CoreStats>>,
    pub(crate) routes: Shared,
    stop: Vec<Option<oneshot::Sender<Duration>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(setup: Setup) -> Self {
        let cores = CoreCount::new(setup.cores).unwrap();
        let home = tempfile::tempdir().unwrap();
        let mut keys = SharedKeys::generate().unwrap();
        if let Some(secret) = setup.node_secret {
            keys = keys.with_node_secret(&secret);
        }
        let tls =
            server_crypto(&TlsIdentity::development(home.path()).unwrap(), &keys, setup.early_data).unwrap();
        let identity = ServerIdentity { tls, keys };
        let listen =
            ListenConfig { addresses: setup.addresses, core_port_base: None, receive_buffer_bytes: 4 << 20 };
        let mut listeners = Listeners::bind(&listen, cores).unwrap();
        if !setup.is_steered {
            listeners = listeners.without_steering().unwrap();
        }
        let mut server = Self {
            addresses: listeners.addresses.clone(),
            core_ports: listeners.core_ports.clone(),
            cores,
            stats: vec![],
            core_stats: vec![],
            routes: Shared::default(),
            stop: vec![],
            threads: vec![],
        };
        for (listeners, forward) in
            listeners.into_cores().into_iter().zip(mesh::<Forwarded, ()>(cores.get(), setup.forward_lane_max))
        {
            server.add_core(listeners, forward, identity.clone(), setup.ingress.clone());
        }
        server
    }

    fn add_core(
        &mut self,
        listeners: CoreListeners,
        forward: ForwardEnd,
        identity: ServerIdentity,
        config: IngressConfig,
    ) {
        let core = CoreId::new(u16::try_from(self.threads.len()).unwrap());
        let stats = Arc::new(IngressStats::default());
        let core_stats = Arc::new(CoreStats::default());
        self.stats.push(Arc::clone(&stats));
        self.core_stats.push(Arc::clone(&core_stats));
        let (stop, stopped) = oneshot::channel();
        self.stop.push(Some(stop));
        let shared = self.routes.clone();
        self.threads.push(std::thread::spawn(move || {
            let reactor =
                Reactor::new(ReactorConfig { stats: core_stats, ..ReactorConfig::new(core) }).unwrap();
            assert_backend(&reactor);
            let serve = async move {
                let service = Rc::new(Echo { core, shared });
                let forward_stats = Arc::new(MailboxStats::default());
                let handle =
                    ingress::start(listeners, &identity, &config, forward, service, stats, forward_stats)
                        .unwrap();
                let grace = stopped.await.unwrap_or_default();
                handle.drain(Instant::now() + grace).await;
            };
            reactor.block_on(serve).unwrap();
        }));
    }

    /// The first shared address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// A core's own port on the first address.
    pub(crate) fn own_address(&self, core: usize) -> SocketAddr {
        SocketAddr::new(self.address().ip(), self.core_ports[core])
    }

    /// The sum of a counter over all cores.
    pub(crate) fn sum(&self, counter: &str) -> u64 {
        let value = |stats: &Arc<IngressStats>| {
            stats
                .each()
                .find(|(name, _)| *name == counter)
                .unwrap_or_else(|| panic!("no counter {counter}"))
                .1
        };
        self.stats.iter().map(value).sum()
    }

    /// Lets `count` requests to `/held` be answered.
    pub(crate) fn release(&self, count: usize) {
        self.routes.gate.add_permits(count);
    }

    /// Tells every core to wind up within `grace`.
    pub(crate) fn begin_drain(&mut self, grace: Duration) {
        for core in 0..self.stop.len() {
            self.begin_drain_of(core, grace);
        }
    }

    /// Tells one core to wind up within `grace`.
    pub(crate) fn begin_drain_of(&mut self, core: usize, grace: Duration) {
        if let Some(stop) = self.stop[core].take() {
            let _ = stop.send(grace);
        }
    }

    /// Whether a core has wound up and its thread has ended.
    pub(crate) fn is_core_over(&self, core: usize) -> bool {
        self.threads[core].is_finished()
    }

    /// Whether every core has wound up.
    pub(crate) fn is_over(&self) -> bool {
        (0..self.threads.len()).all(|core| self.is_core_over(core))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.begin_drain(Duration::ZERO);
        for thread in self.threads.drain(..) {
            let result = thread.join();
            // A panic of a core must fail the test, but not hide its own.
            assert!(result.is_ok() || std::thread::panicking(), "a core panicked");
        }
    }
}

//! The server under test: one reactor a thread, not pinned.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sluice_core::mailbox::{MailboxStats, mesh};
use sluice_core::{CoreId, CoreStats, Reactor, ReactorConfig, spawn};
use sluice_net::ingress::{self, ForwardEnd, Forwarded, IngressConfig, IngressStats, ServerIdentity};
use sluice_net::quic::listen::CoreListeners;
use sluice_net::tls::{EarlyData, SharedKeys, TlsIdentity, server_crypto};
use sluice_net::{Admit, Answer, CoreCount, ListenConfig, Listeners, Request, Responder, Service};
use sluice_protocols::http::{RequestHead, Response};
use tokio::sync::{Semaphore, oneshot};

use super::{digest, pattern};

/// Longest body the test service takes: more than a stream's flow control
/// window, so that it must be extended.
pub(crate) const BODY_BYTES_MAX: usize = 600_000;
pub(crate) const BIG_BYTES: usize = 1 << 20;

/// `/held` waits for a permit of `gate`, `/drop` answers nothing, `/big` answers
/// 1 MiB, `/invalid` a field that cannot be sent, `/denied` is answered on its
/// head; all else is echoed.
struct Echo {
    core: CoreId,
    gate: Arc<Semaphore>,
    written: Arc<AtomicU64>,
    gone: Arc<AtomicU64>,
}

impl Service for Echo {
    fn admit(&self, head: &RequestHead) -> Admit {
        if matches!(head.path(), "/piped" | "/unread") {
            return Admit::Stream { bytes_max: BODY_BYTES_MAX };
        }
        if head.path() == "/denied" {
            return Admit::Reply(Response::new(403));
        }
        Admit::Body { bytes_max: BODY_BYTES_MAX }
    }

    fn call(&self, request: Request, respond: Responder) {
        let echo = echo(self.core, &request);
        match request.head.path() {
            "/held" => {
                let gate = Arc::clone(&self.gate);
                spawn(async move {
                    gate.acquire_owned().await.expect("never closed").forget();
                    respond.send(echo);
                });
            }
            "/slow" => {
                spawn(async move {
                    sluice_core::sleep(Duration::from_millis(50)).await;
                    respond.send(echo);
                });
            }
            "/big" => respond
                .send(Response::new(200).with_body("application/octet-stream", pattern(BIG_BYTES).into())),
            "/piped" => {
                let body = request.stream.expect("admitted so");
                respond.answer(Answer::Streamed(Response::new(200), body));
            }
            "/endless" => {
                let (written, gone) = (Arc::clone(&self.written), Arc::clone(&self.gone));
                let mut writer = respond.stream(Response::new(200));
                spawn(async move {
                    while writer.send(Bytes::from_static(&[7; 10_000])).await.is_ok() {
                        written.fetch_add(10_000, Ordering::Relaxed);
                    }
                    gone.fetch_add(1, Ordering::Relaxed);
                });
            }
            "/broken" => {
                let mut writer = respond.stream(Response::new(200));
                spawn(async move { writer.send(Bytes::from_static(b"half")).await });
            }
            "/quiet" => {
                let (gate, gone) = (Arc::clone(&self.gate), Arc::clone(&self.gone));
                let mut writer = respond.stream(Response::new(200));
                spawn(async move {
                    let _ = writer.send(Bytes::from_static(b"first")).await;
                    tokio::select! {
                        permit = gate.acquire_owned() => permit.expect("never closed").forget(),
                        () = writer.gone() => {
                            gone.fetch_add(1, Ordering::Relaxed);
                            return;
                        }
                    }
                    let _ = writer.send(Bytes::from_static(b"last")).await;
                    writer.finish();
                });
            }
            "/unread" => {
                let (gate, mut body) = (Arc::clone(&self.gate), request.stream.expect("admitted so"));
                spawn(async move {
                    gate.acquire_owned().await.expect("never closed").forget();
                    let mut length = 0;
                    while let Some(piece) = body.next().await {
                        match piece {
                            Ok(piece) => length += piece.len(),
                            Err(error) => return respond.send(Response::new(error.status())),
                        }
                    }
                    respond.send(Response::new(200).json(&length));
                });
            }
            "/empty" => respond.send(Response::new(204)),
            "/invalid" => respond.send(Response::new(200).with_field("x", "line\nbreak")),
            "/drop" => drop(respond),
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

/// What a server is made of.
pub(crate) struct Setup {
    pub(crate) cores: usize,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) ingress: IngressConfig,
    pub(crate) early_data: EarlyData,
    /// Whether the kernel knows which core a packet is for.
    pub(crate) is_steered: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            cores: 1,
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            ingress: IngressConfig::default(),
            early_data: EarlyData::Off,
            is_steered: true,
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
    pub(crate) gate: Arc<Semaphore>,
    /// Bytes that `/endless` could write.
    pub(crate) written: Arc<AtomicU64>,
    /// Bodies whose clients went.
    pub(crate) gone: Arc<AtomicU64>,
    stop: Vec<Option<oneshot::Sender<Duration>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(setup: Setup) -> Self {
        let cores = CoreCount::new(setup.cores).unwrap();
        let home = tempfile::tempdir().unwrap();
        let keys = SharedKeys::generate().unwrap();
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
            gate: Arc::new(Semaphore::new(0)),
            written: Arc::default(),
            gone: Arc::default(),
            stop: vec![],
            threads: vec![],
        };
        for (listeners, forward) in
            listeners.into_cores().into_iter().zip(mesh::<Forwarded, ()>(cores.get(), 1024))
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
        let (written, gone) = (Arc::clone(&self.written), Arc::clone(&self.gone));
        let gate = Arc::clone(&self.gate);
        self.threads.push(std::thread::spawn(move || {
            let reactor =
                Reactor::new(ReactorConfig { stats: core_stats, ..ReactorConfig::new(core) }).unwrap();
            let serve = async move {
                let service = Rc::new(Echo { core, gate, written, gone });
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
        self.gate.add_permits(count);
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

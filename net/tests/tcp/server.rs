//! The server under test: a reactor a thread, the TCP ingress on the test's own runtime.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sluice_core::{CoreId, Reactor, ReactorConfig};
use sluice_net::entrance::{Entrance, EntranceConfig, EntranceEnd, entrance};
use sluice_net::tcp::{Cut, Protocol, Refused, TcpConfig, TcpIngress, TcpStats};
use sluice_net::tls::{SharedKeys, TlsIdentity, tcp_server_crypto};
use sluice_net::{Admit, CoreCount, Request, Responder, Service};
use sluice_protocols::http::{RequestHead, Response};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::routes::{self, Shared};

/// Longest body the test service takes.
pub(crate) const BODY_BYTES_MAX: usize = 600_000;
/// More than what waits on the way to a client that does not read.
pub(crate) const BIG_BYTES: usize = 32 << 20;

/// Ends a test that hangs; nothing is measured by it.
pub(crate) async fn guard<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("hangs")
}

/// Waits until a condition holds that another task brings about.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Beside [`routes`]: `/deaf` takes no body, `/denied` is answered on its head, `/big` answers much; all else is
/// echoed.
struct Echo {
    core: CoreId,
    shared: Shared,
}

impl Service for Echo {
    fn admit(&self, head: &RequestHead, _: Option<IpAddr>) -> Admit {
        match head.path() {
            "/denied" => Admit::Reply(Response::new(403)),
            "/deaf" => Admit::Body { bytes_max: 0 },
            path => {
                let whole = Admit::Body { bytes_max: BODY_BYTES_MAX };
                routes::admit(path, BODY_BYTES_MAX).unwrap_or(whole)
            }
        }
    }

    fn call(&self, request: Request, respond: Responder) {
        let held = |_: &Request| Response::new(200).with_body("text/plain", Bytes::from_static(b"held"));
        let Some((request, respond)) = self.shared.call(request, respond, held) else { return };
        match request.head.path() {
            "/big" => respond
                .send(Response::new(200).with_body("application/octet-stream", vec![7; BIG_BYTES].into())),
            _ => respond.send(echo(self.core, &request)),
        }
    }

    fn refuse(&self, status: u16, detail: &str) -> Response {
        Response::new(status).with_body("text/refusal", Bytes::copy_from_slice(detail.as_bytes()))
    }
}

fn echo(core: CoreId, request: &Request) -> Response {
    let Request { head, body, .. } = request;
    // Without those that each protocol sends in its own way.
    let is_own = |name: &str| matches!(name, "host" | "content-length");
    let fields = head.headers().filter(|(name, _)| !is_own(name));
    Response::new(200).with_field("alt-svc", "h3=\":1\"; ma=1").json(&serde_json::json!({
        "core": core.get(),
        "method": head.method_str(),
        "authority": head.authority(),
        "target": head.path_and_query(),
        "fields": fields.map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>(),
        "length": body.len(),
        "body": String::from_utf8_lossy(&body[..body.len().min(64)]),
        "early_data": request.early_data,
    }))
}

/// What a server is made of.
pub(crate) struct Setup {
    pub(crate) cores: usize,
    pub(crate) tcp: TcpConfig,
    pub(crate) entrance: EntranceConfig,
}

impl Default for Setup {
    fn default() -> Self {
        Self { cores: 1, tcp: TcpConfig::default(), entrance: EntranceConfig::default() }
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) stats: Arc<TcpStats>,
    pub(crate) entrance: Entrance,
    pub(crate) routes: Shared,
    ingress: Option<TcpIngress>,
    stop: Vec<Option<oneshot::Sender<()>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(setup: Setup) -> Self {
        Self::start_at(setup, vec![])
    }

    /// With these listeners besides its own.
    pub(crate) fn start_at(setup: Setup, mut listeners: Vec<std::net::TcpListener>) -> Self {
        let home = tempfile::tempdir().unwrap();
        let identity = TlsIdentity::development(home.path()).unwrap();
        let tls = tcp_server_crypto(&identity, &SharedKeys::generate().unwrap()).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listeners.push(listener);
        // A request may say whose it is.
        let owner = |head: &RequestHead| head.header("x-core")?.parse().ok().map(CoreId::new);
        let (entrance, ends) = entrance(CoreCount::new(setup.cores).unwrap(), setup.entrance, owner);
        let stats = Arc::new(TcpStats::default());
        let runtime = Handle::current();
        let (entrance_, stats_) = (entrance.clone(), Arc::clone(&stats));
        let ingress = TcpIngress::start(&runtime, listeners, tls, setup.tcp, entrance_, stats_).unwrap();
        let mut server = Self {
            address,
            stats,
            entrance,
            routes: Shared::default(),
            ingress: Some(ingress),
            stop: vec![],
            threads: vec![],
        };
        ends.into_iter().for_each(|end| server.add_core(end));
        server
    }

    fn add_core(&mut self, end: EntranceEnd) {
        let (stop, stopped) = oneshot::channel();
        self.stop.push(Some(stop));
        let shared = self.routes.clone();
        self.threads.push(std::thread::spawn(move || {
            let core = end.core();
            let reactor = Reactor::new(ReactorConfig::new(core)).unwrap();
            let serve = async move {
                let _guard = end.attach(Rc::new(Echo { core, shared }));
                let _ = stopped.await;
            };
            reactor.block_on(serve).unwrap();
        }));
    }

    /// Lets `count` requests to `/held` be answered.
    pub(crate) fn release(&self, count: usize) {
        self.routes.gate.add_permits(count);
    }

    /// Waits until the service has this many requests unanswered.
    pub(crate) async fn until_pending(&self, count: usize) {
        until(&format!("{count} pending"), || self.entrance.pending() == count).await;
    }

    /// Waits until a connection was ended for this reason.
    pub(crate) async fn until_cut(&self, reason: Cut) {
        until(&format!("cut: {reason:?}"), || self.stats.cut(reason) > 0).await;
    }

    /// Connections open, of both protocols.
    pub(crate) fn connections(&self) -> u64 {
        Protocol::ALL.iter().map(|protocol| self.stats.protocol(*protocol).connections.get()).sum()
    }

    pub(crate) fn refused(&self, reason: Refused) -> u64 {
        self.stats.refused(reason)
    }

    /// Winds the ingress up within `grace`; the cores go on.
    pub(crate) fn drain(&mut self, grace: Duration) -> tokio::task::JoinHandle<()> {
        let ingress = self.ingress.take().expect("drained once");
        tokio::spawn(ingress.drain(Instant::now() + grace))
    }

    /// Ends a core, whatever it is doing.
    pub(crate) fn end_core(&mut self, core: usize) {
        if let Some(stop) = self.stop[core].take() {
            let _ = stop.send(());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        (0..self.stop.len()).for_each(|core| self.end_core(core));
        for thread in self.threads.drain(..) {
            let result = thread.join();
            // A panic of a core must fail the test, but not hide its own.
            assert!(result.is_ok() || std::thread::panicking(), "a core panicked");
        }
    }
}

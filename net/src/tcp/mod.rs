//! The TCP fallback: HTTP/2 and HTTP/1.1 over TLS, for clients that cannot speak HTTP/3 or have not heard of it.
//!
//! Connections live on the shared runtime, where there is `hyper` and no hot path; a request goes through the
//! [`Entrance`](crate::entrance) to the core that owns its user, so it needs no further hop, and the same service answers.
//! Every answer carries `Alt-Svc` with the port that all cores share ([`AltSvc`]), so that browsers come back over HTTP/3.
//!
//! ```text
//! accept -> TLS, ALPN -> HTTP/2 or 1.1 -> head --> core: admit -> body -> core: call -> answer, Alt-Svc
//!   |        |                             |                        |
//! full?    in time?                  limits, Host...      limit and time of the body
//! ```
//! Invariants:
//! - Same routes, same answers, same limits as over HTTP/3: a head passes the same builder, a core words every refusal
//!   (only [`Shed`](crate::entrance::Shed) requests are answered here, since no core would take them).
//! - Everything has an end: handshake, the wait for the next request, a body, an answer nobody reads, winding up.
//! - What a client may hold is bounded: connections, heads ([`HEAD_BYTES_MAX`]), streams, flow control windows,
//!   and requests it gave up that the service still works on.
//!
//! axum is not used: routes are the service's own, and what remains of axum without routing and extractors is hyper.
//! The protocol is known from ALPN, so there is nothing to sniff either.

mod closing;
mod connection;
mod listen;
mod message;
mod pieces;
mod stats;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

pub use listen::{BindError, bind};
pub use stats::{Count, Cut, Protocol, ProtocolStats, Refused, TcpStats};

use crate::Network;
use crate::entrance::Entrance;
use crate::quic::networks::Networks;

/// How large the head of a request may be, in bytes, before the connection ends without a word from the service.
/// Up to four times what a core takes, so that heads too large by a usual measure get the core's own answer.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// When the kernel gives no connection: out of files or memory, which does not change in an instant.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// After the deadline of [`TcpIngress::drain`]: how long it may take until every task has noticed.
const DRAIN_SLACK: Duration = Duration::from_secs(1);

/// What answers say of where HTTP/3 is (RFC 7838).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AltSvc {
    /// At the port number that the connection came in by.
    #[default]
    PortAsBound,
    /// At this port, which is another inside.
    Port(NonZeroU16),
    /// They say nothing.
    Nothing,
}

/// Bounds of the TCP ingress of the process.
#[derive(Debug, Clone)]
pub struct TcpConfig {
    /// Connections open at once; further ones are closed at once.
    pub connections_max: usize,
    /// Connections of one client address (of 64 bits of IPv6 addresses); further ones are closed at once. `None`: no
    /// bound.
    pub connections_per_address_max: Option<NonZeroU32>,
    /// Requests a client may have open on an HTTP/2 connection, and as many again that it gave up.
    pub streams_max: u32,
    /// From the connection to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From one request's answer to the next request's whole head; answers must be taken by then, too.
    pub idle_timeout: Duration,
    /// From a request's head to the end of its body.
    pub body_timeout: Duration,
    /// Where answers say HTTP/3 is.
    pub alt_svc: AltSvc,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            connections_per_address_max: NonZeroU32::new(4096),
            streams_max: 128,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            alt_svc: AltSvc::default(),
        }
    }
}

/// The TCP ingress while it runs. Dropped, it ends at once.
pub struct TcpIngress {
    /// Set once: when to have ended. Every task of ours holds a receiver.
    winding: watch::Sender<Option<Instant>>,
}

/// What all connections share.
struct Server {
    config: TcpConfig,
    acceptor: TlsAcceptor,
    entrance: Entrance,
    stats: Arc<TcpStats>,
    open: AtomicUsize,
    /// Who has connections. Locked for a look-up with each that begins and ends.
    networks: Mutex<Networks>,
    began: Instant,
}

/// A connection's place among [`TcpConfig::connections_max`], and its network's.
struct Place {
    server: Arc<Server>,
    network: Option<Network>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(network) = self.network {
            self.server.networks().leave(network);
        }
        self.server.open.fetch_sub(1, Relaxed);
    }
}

impl TcpIngress {
    /// Serves what arrives at `listeners` on `runtime`. `tls` is from [`crate::tls::tcp_server_crypto`].
    ///
    /// # Errors
    /// A listener cannot be used by the runtime.
    pub fn start(
        runtime: &Handle,
        listeners: Vec<TcpListener>,
        tls: Arc<rustls::ServerConfig>,
        config: TcpConfig,
        entrance: Entrance,
        stats: Arc<TcpStats>,
    ) -> io::Result<Self> {
        let _context = runtime.enter();
        let networks = Mutex::new(Networks::new(config.connections_per_address_max));
        let server = Arc::new(Server {
            config,
            networks,
            acceptor: TlsAcceptor::from(tls),
            entrance,
            stats,
            open: AtomicUsize::new(0),
            began: Instant::now(),
        });
        let (winding, wound) = watch::channel(None);
        let listeners: Vec<_> = listeners
            .into_iter()
            .map(|listener| {
                listener.set_nonblocking(true)?;
                Ok((listener.local_addr()?, tokio::net::TcpListener::from_std(listener)?))
            })
            .collect::<io::Result<_>>()?;
        for (address, listener) in listeners {
            runtime.spawn(Arc::clone(&server).accept(listener, address, wound.clone()));
        }
        Ok(Self { winding })
    }

    /// Takes no new connections or requests, tells clients so (GOAWAY, `Connection: close`), lets requests under
    /// way finish until `deadline`, then closes what is left. Resolves when all is closed.
    pub async fn drain(self, deadline: Instant) {
        self.winding.send_replace(Some(deadline));
        let latest = deadline.max(Instant::now()) + DRAIN_SLACK;
        if tokio::time::timeout_at(latest.into(), self.winding.closed()).await.is_err() {
            tracing::warn!("TCP connections left open");
        }
    }
}

impl Server {
    async fn accept(
        self: Arc<Self>,
        listener: tokio::net::TcpListener,
        address: SocketAddr,
        mut winding: watch::Receiver<Option<Instant>>,
    ) {
        let alt_svc = message::alt_svc(self.config.alt_svc, address.port());
        // Connections get copies of this one, which has not seen the change yet.
        let unseen = winding.clone();
        loop {
            let accepted = tokio::select! {
                _ = winding.changed() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    self.stats.accepted.add(1);
                    match self.place(Network::of(peer.ip())) {
                        Ok(place) => {
                            let served =
                                connection::serve(place, stream, peer, alt_svc.clone(), unseen.clone());
                            tokio::spawn(served);
                        }
                        Err(cut) => self.stats.note_cut(cut),
                    }
                }
                Err(error) => {
                    self.stats.accept_failures.add(1);
                    tracing::debug!(%error, "no connection accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    /// Room for one more connection of a network, or why there is none.
    fn place(self: &Arc<Self>, network: Network) -> Result<Place, Cut> {
        let before = self.open.fetch_add(1, Relaxed);
        // Made first, so that the count is taken back on refusal.
        let mut place = Place { server: Arc::clone(self), network: None };
        if before >= self.config.connections_max {
            return Err(Cut::Full);
        }
        if !self.networks().enter(network) {
            return Err(Cut::Crowded);
        }
        place.network = Some(network);
        Ok(place)
    }

    fn networks(&self) -> MutexGuard<'_, Networks> {
        // What it holds is sound after every step.
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

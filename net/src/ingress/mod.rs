//! HTTP/3 ingress of one core: sockets, connections and requests.
//!
//! One task a core. Each turn it takes in what arrived, hands whole requests to
//! the [`Service`], waits for the end of the turn, writes the answers that are
//! ready, and only then sends, so that answers and acknowledgements share
//! packets.

pub(crate) mod connection;
mod drain;
#[cfg(test)]
mod first_words;
pub(crate) mod http3;
mod qpack;
mod stats;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use quinn_proto as qp;
use quinn_proto::crypto::rustls::QuicServerConfig;
use sluice_core::mailbox::{MailboxStats, Mesh, MeshEnd};
use sluice_core::timer::Sleep;
use sluice_core::udp::{ReceiveMeta, UdpSocket};
use sluice_core::{CoreId, JoinHandle, now, quiesce, sleep_until, spawn};

use self::http3::Http3;
pub use self::stats::IngressStats;
use crate::quic::listen::{CoreListeners, ListenerId};
use crate::quic::outlet::Sockets;
use crate::quic::steering::{self, CoreCount, Port, SteeredIds};
use crate::quic::{RESET_INTERVAL, transport};
use crate::service::{Outbox, Service};
use crate::tls::SharedKeys;
use crate::tls::handshake::ObservedServer;

/// Arrivals (each up to 64 KiB of datagrams) taken from one socket before what
/// they led to is sent; the rest comes right after.
const ARRIVALS_MAX: usize = 64;
/// When a train could not leave for want of send slots, or a connection used up
/// its share of a turn: come back after a tick, when completions are reaped.
const RETRY_DELAY: Duration = Duration::from_micros(100);
/// Bytes of whole answers that may wait for the client of one connection, beside
/// the 1 MiB that QUIC holds, or what TCP's socket does: room for sixteen large ones.
pub(crate) const UNREAD_BYTES_MAX: usize = 16 << 20;
/// How long a forwarded datagram is worth delivering.
const FORWARD_DEADLINE: Duration = Duration::from_millis(250);

/// Bounds of one core's ingress.
#[derive(Debug, Clone)]
pub struct IngressConfig {
    /// Connections a core holds; further ones are refused.
    pub connections_max: usize,
    /// Connections of one client address (of 64 bits of IPv6 addresses); further ones are refused. `None`: no bound.
    pub connections_per_address_max: Option<NonZeroU32>,
    /// Unfinished handshakes above which clients must prove their address.
    pub handshakes_max: usize,
    /// Unfinished handshakes above which no other is begun, whoever asks: proving an address costs a client one packet.
    pub handshakes_most: usize,
    /// Requests a client may have open on a connection.
    pub streams_max: u32,
    /// Silence after which a connection is closed.
    pub idle_timeout: Duration,
    /// Time without a request after which a connection is told to go, whatever else it sends, and then closed; to the
    /// eighth part, and no sooner than after `idle_timeout`. `None`: it may stay.
    pub unused_timeout: Option<Duration>,
    /// Time within which a handshake must be done.
    pub handshake_timeout: Duration,
    /// Time within which a request must have arrived whole, and within which a
    /// client must take some of an answer that waits for it. Kept to a quarter.
    pub request_timeout: Duration,
}

impl Default for IngressConfig {
    fn default() -> Self {
        Self {
            connections_max: 100_000,
            connections_per_address_max: NonZeroU32::new(4096),
            handshakes_max: 4096,
            handshakes_most: 8192,
            streams_max: 128,
            idle_timeout: Duration::from_secs(30),
            unused_timeout: Some(Duration::from_secs(30)),
            handshake_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
        }
    }
}

/// A datagram on its way to the core that owns its connection.
pub struct Forwarded {
    listener: ListenerId,
    meta: ReceiveMeta,
    datagram: Box<[u8]>,
}

/// The lanes that carry datagrams between cores.
pub type ForwardEnd = MeshEnd<Forwarded, ()>;

/// What all cores share.
#[derive(Clone)]
pub struct ServerIdentity {
    /// TLS settings, from [`crate::tls::server_crypto`].
    pub tls: Arc<rustls::ServerConfig>,
    /// Reset and token keys.
    pub keys: SharedKeys,
}

/// Ingress could not start.
#[derive(Debug, thiserror::Error)]
pub enum IngressError {
    /// The kernel refused a socket option.
    #[error("cannot set up a UDP socket: {0}")]
    Socket(#[from] io::Error),
    /// The TLS settings do not fit QUIC.
    #[error("TLS settings lack the cipher that QUIC's first packets need (TLS_AES_128_GCM_SHA256)")]
    Cipher,
}

/// What the task and its handle share.
struct Shared {
    drain_until: Cell<Option<Instant>>,
    /// The task has ended: nothing is taken in any more.
    is_over: Cell<bool>,
    outbox: Rc<Outbox>,
}

/// Ends a core's ingress.
pub struct IngressHandle {
    shared: Rc<Shared>,
    task: JoinHandle<()>,
}

impl IngressHandle {
    /// Takes no new connections or requests, lets those in flight finish until
    /// `deadline`, then closes every connection. Resolves when all is sent.
    pub async fn drain(self, deadline: Instant) {
        self.shared.drain_until.set(Some(deadline));
        if let Some(waker) = self.shared.outbox.waker.borrow_mut().take() {
            waker.wake();
        }
        self.task.await;
    }
}

/// Starts ingress on the current reactor.
///
/// # Errors
/// When sockets or TLS settings cannot be used.
pub fn start(
    listeners: CoreListeners,
    identity: &ServerIdentity,
    config: &IngressConfig,
    forward: ForwardEnd,
    service: Rc<dyn Service>,
    stats: Arc<IngressStats>,
    forward_stats: Arc<MailboxStats>,
) -> Result<IngressHandle, IngressError> {
    let (core, cores) = (listeners.core, listeners.cores);
    let endpoint = endpoint(core, cores, identity, config)?;
    let mut sockets = Vec::new();
    for address in 0..listeners.shared.len() {
        for port in [Port::Shared, Port::Own(core)] {
            let id = ListenerId { address, port };
            sockets.push((id, UdpSocket::new(Arc::clone(listeners.fd(id)))?));
        }
    }
    let http3 = Http3::new(endpoint, config, service, Arc::clone(&stats), now());
    let outbox = Rc::clone(&http3.outbox);
    let shared = Rc::new(Shared { drain_until: Cell::new(None), is_over: Cell::new(false), outbox });
    let inbox: Rc<RefCell<VecDeque<Forwarded>>> = Rc::default();
    let mesh = {
        let (inbox, shared, stats) = (Rc::clone(&inbox), Rc::clone(&shared), Arc::clone(&stats));
        forward.attach(forward_stats, move |delivery| {
            if shared.is_over.get() {
                stats.forwarded_lost.add(1);
                return;
            }
            inbox.borrow_mut().push_back(delivery.body);
            if let Some(waker) = shared.outbox.waker.borrow_mut().take() {
                waker.wake();
            }
        })
    };
    let task = spawn(
        Server {
            core,
            cores,
            sockets,
            listeners,
            http3,
            shared: Rc::clone(&shared),
            inbox,
            mesh,
            sleep: None,
        }
        .run(),
    );
    Ok(IngressHandle { shared, task })
}

pub(crate) fn endpoint(
    core: CoreId,
    cores: CoreCount,
    identity: &ServerIdentity,
    config: &IngressConfig,
) -> Result<qp::Endpoint, IngressError> {
    let crypto = QuicServerConfig::try_from(Arc::clone(&identity.tls)).map_err(|_| IngressError::Cipher)?;
    let crypto = ObservedServer(Arc::new(crypto));
    let mut server = qp::ServerConfig::new(Arc::new(crypto), identity.keys.token_key());
    server.transport_config(Arc::new(transport(config.streams_max, config.idle_timeout)));
    let mut endpoint = qp::EndpointConfig::new(identity.keys.reset_key());
    endpoint.min_reset_interval(RESET_INTERVAL);
    endpoint.cid_generator(move || Box::new(SteeredIds::new(core, cores)));
    Ok(qp::Endpoint::new(Arc::new(endpoint), Some(Arc::new(server)), true, None))
}

struct Server {
    core: CoreId,
    cores: CoreCount,
    sockets: Vec<(ListenerId, UdpSocket)>,
    listeners: CoreListeners,
    http3: Http3,
    shared: Rc<Shared>,
    inbox: Rc<RefCell<VecDeque<Forwarded>>>,
    mesh: Rc<Mesh<Forwarded, ()>>,
    sleep: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Server {
    async fn run(mut self) {
        loop {
            std::future::poll_fn(|cx| self.poll_wake(cx)).await;
            let now = now();
            self.take_forwarded(now);
            self.take_arrivals(now);
            self.http3.take_in(now);
            quiesce().await;
            self.http3.write_out(now);
            if let Some(deadline) = self.shared.drain_until.get() {
                self.http3.begin_drain(now, deadline);
            }
            let is_drained = self.http3.drain_step(now);
            let Self { http3, listeners, .. } = &mut self;
            http3.transmit(now, &mut Sockets(|listener| listeners.fd(listener)));
            if is_drained && !http3.is_behind() {
                self.shared.is_over.set(true);
                return;
            }
        }
    }

    fn poll_wake(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        *self.shared.outbox.waker.borrow_mut() = None;
        self.http3.bells.attend(cx.waker());
        let nothing_came = self.inbox.borrow().is_empty() && self.http3.is_quiet();
        let has_arrivals = self.sockets.iter().any(|(_, socket)| socket.poll_arrived(cx).is_ready());
        let must_drain = self.shared.drain_until.get().is_some() && !self.http3.is_draining();
        if !nothing_came || has_arrivals || must_drain || self.poll_timer(cx) {
            return Poll::Ready(());
        }
        *self.shared.outbox.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_timer(&mut self, cx: &mut TaskContext<'_>) -> bool {
        let mut next = self.http3.next_deadline();
        if self.http3.is_behind() {
            let soon = now() + RETRY_DELAY;
            next = Some(next.map_or(soon, |at| at.min(soon)));
        }
        let Some(at) = next else {
            self.sleep = None;
            return false;
        };
        // Deadlines mostly move back, by a packet at a time: a sleep that ends too
        // early costs less than a new one every turn.
        if self.sleep.as_ref().is_none_or(|(set, _)| *set > at) {
            self.sleep = Some((at, Box::pin(sleep_until(at))));
        }
        let is_due = self.sleep.as_mut().is_some_and(|(_, sleep)| sleep.as_mut().poll(cx).is_ready());
        if is_due {
            self.sleep = None;
        }
        is_due
    }

    fn take_arrivals(&mut self, now: Instant) {
        let Self { sockets, http3, mesh, core, cores, .. } = self;
        let Http3 { driver, stats, .. } = http3;
        for (listener, socket) in sockets {
            for _ in 0..ARRIVALS_MAX {
                let arrived = socket.with_arrived(|meta, bytes| {
                    for datagram in bytes.chunks(meta.segment.max(1)) {
                        match steering::owner(datagram, listener.port, *cores) {
                            Some(owner) if owner == *core => driver.receive(now, *listener, meta, datagram),
                            Some(owner) => {
                                let body =
                                    Forwarded { listener: *listener, meta: *meta, datagram: datagram.into() };
                                match mesh.send(owner, now + FORWARD_DEADLINE, body) {
                                    Ok(()) => stats.forwarded_out.add(1),
                                    Err(_) => stats.forwarded_lost.add(1),
                                }
                            }
                            None => stats.datagrams_unroutable.add(1),
                        }
                    }
                });
                if arrived.is_none() {
                    break;
                }
            }
        }
    }

    fn take_forwarded(&mut self, now: Instant) {
        let forwarded = std::mem::take(&mut *self.inbox.borrow_mut());
        self.http3.stats.forwarded_in.add(forwarded.len() as u64);
        for Forwarded { listener, meta, datagram } in forwarded {
            self.http3.driver.receive(now, listener, &meta, &datagram);
        }
    }
}

//! HTTP/3 ingress of one core: sockets, connections and requests.
//!
//! One task a core. Each turn it takes in what arrived, hands whole requests to
//! the [`Service`], waits for the end of the turn, writes the answers that are
//! ready, and only then sends, so that answers and acknowledgements share
//! packets.

pub(crate) mod connection;
mod qpack;
mod stats;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn_proto as qp;
use quinn_proto::crypto::rustls::QuicServerConfig;
use sluice_core::mailbox::{MailboxStats, Mesh, MeshEnd};
use sluice_core::timer::Sleep;
use sluice_core::udp::{ReceiveMeta, UdpSocket};
use sluice_core::{CoreId, JoinHandle, now, quiesce, sleep_until, spawn};
use sluice_protocols::h3::ErrorCode;
use sluice_protocols::http::Response;

use self::connection::{Context, H3Connection, code};
pub use self::stats::IngressStats;
use crate::quic::driver::{AdmissionLimits, Driver};
use crate::quic::listen::{CoreListeners, ListenerId};
use crate::quic::outlet::Sockets;
use crate::quic::steering::{self, CoreCount, Port, SteeredIds};
use crate::quic::transport;
use crate::service::{BellPull, Bells, Outbox, Responder, Rung, Service, StreamRef};
use crate::tls::SharedKeys;
use crate::tls::handshake::ObservedServer;

/// Arrivals (each up to 64 KiB of datagrams) taken from one socket before what
/// they led to is sent; the rest comes right after.
const ARRIVALS_MAX: usize = 64;
/// When a train could not leave for want of send slots, or a connection used up
/// its share of a turn: come back after a tick, when completions are reaped.
const RETRY_DELAY: Duration = Duration::from_micros(100);
/// Connections with something half done that are looked at in one turn; the rest
/// comes right after.
const WATCHED_MAX: usize = 64;
/// Streams that go on with a body in pieces in one turn; the rest comes right
/// after.
const RUNG_MAX: usize = 1_024;
/// How often a core that winds up looks for connections that are done.
const DRAIN_STEP: Duration = Duration::from_millis(20);
/// Round trips a connection stays open after GOAWAY, so that requests which were
/// under way meet a refusal that is safe to repeat rather than a closed door.
const DRAIN_LINGER_ROUND_TRIPS: u32 = 2;
/// How long a forwarded datagram is worth delivering.
const FORWARD_DEADLINE: Duration = Duration::from_millis(250);

/// Bounds of one core's ingress.
#[derive(Debug, Clone)]
pub struct IngressConfig {
    /// Connections a core holds; further ones are refused.
    pub connections_max: usize,
    /// Unfinished handshakes above which clients must prove their address.
    pub handshakes_max: usize,
    /// Requests a client may have open on a connection.
    pub streams_max: u32,
    /// Silence after which a connection is closed.
    pub idle_timeout: Duration,
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
            handshakes_max: 4096,
            streams_max: 128,
            idle_timeout: Duration::from_secs(30),
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
    let limits = AdmissionLimits {
        connections_max: config.connections_max,
        handshakes_max: config.handshakes_max,
        handshake_timeout: Some(config.handshake_timeout),
    };
    let mut sockets = Vec::new();
    for address in 0..listeners.shared.len() {
        for port in [Port::Shared, Port::Own(core)] {
            let id = ListenerId { address, port };
            sockets.push((id, UdpSocket::new(Arc::clone(listeners.fd(id)))?));
        }
    }
    let shared =
        Rc::new(Shared { drain_until: Cell::new(None), is_over: Cell::new(false), outbox: Rc::default() });
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
            driver: Driver::new(endpoint, limits, now()),
            service,
            shared: Rc::clone(&shared),
            bells: Arc::default(),
            inbox,
            mesh,
            stats,
            streams_max: config.streams_max,
            watch_period: config.request_timeout / u32::from(connection::WATCHES_MAX),
            watched: VecDeque::new(),
            scratch: Vec::new(),
            answers: Vec::new(),
            behind: false,
            drain: None,
            sleep: None,
            in_flight: 0,
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
    endpoint.cid_generator(move || Box::new(SteeredIds::new(core, cores)));
    Ok(qp::Endpoint::new(Arc::new(endpoint), Some(Arc::new(server)), true, None))
}

struct Server {
    core: CoreId,
    cores: CoreCount,
    sockets: Vec<(ListenerId, UdpSocket)>,
    listeners: CoreListeners,
    driver: Driver<H3Connection>,
    service: Rc<dyn Service>,
    shared: Rc<Shared>,
    /// Rung by bodies in pieces that can go on.
    bells: Arc<Bells>,
    inbox: Rc<RefCell<VecDeque<Forwarded>>>,
    mesh: Rc<Mesh<Forwarded, ()>>,
    stats: Arc<IngressStats>,
    streams_max: u32,
    watch_period: Duration,
    /// Connections with something half done, in the order of when to look at them
    /// again; each at most once.
    watched: VecDeque<Watched>,
    /// Where answers are put together.
    scratch: Vec<u8>,
    /// Answers taken off the outbox, whose place is used again.
    answers: Vec<(StreamRef, Response)>,
    /// Something was left unsent in the last turn.
    behind: bool,
    drain: Option<Drain>,
    sleep: Option<(Instant, Pin<Box<Sleep>>)>,
    /// Requests delivered and not yet answered.
    in_flight: u64,
}

/// A connection to look at again.
struct Watched {
    at: Instant,
    connection: usize,
    generation: u32,
}

/// Winding up.
struct Drain {
    began: Instant,
    /// When to look again.
    next: Instant,
}

impl Server {
    async fn run(mut self) {
        loop {
            std::future::poll_fn(|cx| self.poll_wake(cx)).await;
            let now = now();
            self.take_forwarded(now);
            self.take_arrivals(now);
            self.driver.expire(now);
            self.take_events(now);
            self.check_watched(now);
            quiesce().await;
            self.take_answers(now);
            self.take_streamed(now);
            self.take_rung(now);
            let is_drained = self.drain_step(now);
            self.send(now);
            self.note_counts();
            if is_drained && !self.behind {
                self.shared.is_over.set(true);
                return;
            }
        }
    }

    fn poll_wake(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        *self.shared.outbox.waker.borrow_mut() = None;
        self.bells.attend(cx.waker());
        let nothing_came =
            self.inbox.borrow().is_empty() && self.shared.outbox.is_empty() && self.bells.is_quiet();
        let has_arrivals = self.sockets.iter().any(|(_, socket)| socket.poll_arrived(cx).is_ready());
        let must_drain = self.shared.drain_until.get().is_some() && self.drain.is_none();
        if !nothing_came || has_arrivals || must_drain || self.poll_timer(cx) {
            return Poll::Ready(());
        }
        *self.shared.outbox.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_timer(&mut self, cx: &mut TaskContext<'_>) -> bool {
        let mut next = self.driver.next_deadline();
        if self.behind {
            let soon = now() + RETRY_DELAY;
            next = Some(next.map_or(soon, |at| at.min(soon)));
        }
        if let Some(watched) = self.watched.front() {
            next = Some(next.map_or(watched.at, |at| at.min(watched.at)));
        }
        if let Some(drain) = &self.drain {
            next = Some(next.map_or(drain.next, |at| at.min(drain.next)));
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
        let Self { sockets, driver, stats, mesh, core, cores, .. } = self;
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
        self.stats.forwarded_in.add(forwarded.len() as u64);
        for Forwarded { listener, meta, datagram } in forwarded {
            self.driver.receive(now, listener, &meta, &datagram);
        }
    }

    fn take_events(&mut self, now: Instant) {
        let Self { driver, service, shared, stats, in_flight, streams_max, scratch, bells, .. } = self;
        let (watched, watch_period) = (&mut self.watched, self.watch_period);
        let mut last = None;
        loop {
            let next = driver.next_event();
            // The events of a connection come one after another: these were all of its
            // turn, and what they made due is written at once.
            let upcoming = next.as_ref().map(|(index, _)| *index);
            if let Some(index) = last
                && upcoming != last
                && let Some(connection) = driver.get_mut(index)
            {
                connection.state.flush_table(&mut connection.quic, now, stats);
            }
            last = upcoming;
            let Some((index, event)) = next else { return };
            let Some(connection) = driver.get_mut(index) else { continue };
            let generation = connection.generation;
            let mut deliver = |stream, place, request| {
                *in_flight += 1;
                let to = StreamRef { connection: index, generation, stream, place };
                service.call(request, Responder::new(Rc::clone(&shared.outbox), to));
            };
            let streams_max = *streams_max;
            let bells = BellPull { bells, connection: index, generation };
            let mut cx = Context {
                now,
                service: &**service,
                stats,
                streams_max,
                deliver: &mut deliver,
                scratch,
                bells,
            };
            connection.state.handle(&mut connection.quic, event, &mut cx);
            if connection.state.must_be_watched() {
                watched.push_back(Watched { at: now + watch_period, connection: index, generation });
            }
        }
    }

    /// Gives up what has been half done for too long, on connections whose turn it
    /// is to be looked at.
    fn check_watched(&mut self, now: Instant) {
        let Self { driver, service, stats, streams_max, scratch, watched, watch_period, bells, .. } = self;
        for _ in 0..WATCHED_MAX {
            if watched.front().is_none_or(|watched| watched.at > now) {
                return;
            }
            let Some(Watched { connection: index, generation, .. }) = watched.pop_front() else { return };
            let Some(connection) = driver.get_generation(index, generation) else { continue };
            let streams_max = *streams_max;
            let mut deliver = |_, _, _| {};
            let bells = BellPull { bells, connection: index, generation };
            let mut cx = Context {
                now,
                service: &**service,
                stats,
                streams_max,
                deliver: &mut deliver,
                scratch,
                bells,
            };
            if connection.state.expire(&mut connection.quic, &mut cx) {
                watched.push_back(Watched { at: now + *watch_period, connection: index, generation });
            }
            connection.state.flush_table(&mut connection.quic, now, stats);
            driver.mark(index);
        }
    }

    fn take_answers(&mut self, now: Instant) {
        let Self { driver, service, shared, stats, in_flight, streams_max, scratch, answers, bells, .. } =
            self;
        let (watched, watch_period) = (&mut self.watched, self.watch_period);
        std::mem::swap(answers, &mut *shared.outbox.ready.borrow_mut());
        for (to, response) in answers.drain(..) {
            *in_flight -= 1;
            let Some(connection) = driver.get_generation(to.connection, to.generation) else {
                stats.responses_undeliverable.add(1);
                continue;
            };
            let mut deliver = |_, _, _| {};
            let streams_max = *streams_max;
            let bells = BellPull { bells, connection: to.connection, generation: to.generation };
            let mut cx = Context {
                now,
                service: &**service,
                stats,
                streams_max,
                deliver: &mut deliver,
                scratch,
                bells,
            };
            connection.state.respond(&mut connection.quic, to.stream, to.place, response, &mut cx);
            if connection.state.must_be_watched() {
                let StreamRef { connection, generation, .. } = to;
                watched.push_back(Watched { at: now + watch_period, connection, generation });
            }
            driver.mark(to.connection);
        }
    }

    /// Begins the answers whose bodies come in pieces.
    fn take_streamed(&mut self, now: Instant) {
        if self.shared.outbox.streamed.borrow().is_empty() {
            return;
        }
        let streamed = std::mem::take(&mut *self.shared.outbox.streamed.borrow_mut());
        for (to, head, body) in streamed {
            self.in_flight -= 1;
            let StreamRef { connection, generation, stream, place } = to;
            let is_there =
                self.go_on_with(now, Rung { connection, generation, stream }, |connection, quic, cx| {
                    connection.respond_in_pieces(quic, stream, place, (head, body), cx);
                });
            self.stats.responses_undeliverable.add(u64::from(!is_there));
        }
    }

    /// Goes on with bodies of which there is more, or for which there is room.
    fn take_rung(&mut self, now: Instant) {
        for _ in 0..RUNG_MAX {
            let Some(rung) = self.bells.next() else { return };
            self.go_on_with(now, rung, |connection, quic, cx| connection.answer_bell(quic, rung.stream, cx));
        }
    }

    /// Does something with the connection of a stream; false when it is gone.
    fn go_on_with(
        &mut self,
        now: Instant,
        at: Rung,
        act: impl FnOnce(&mut H3Connection, &mut qp::Connection, &mut Context<'_>),
    ) -> bool {
        let Self { driver, service, stats, streams_max, scratch, bells, watched, watch_period, .. } = self;
        let Rung { connection: index, generation, .. } = at;
        let Some(connection) = driver.get_generation(index, generation) else { return false };
        let (streams_max, bells) = (*streams_max, BellPull { bells, connection: index, generation });
        let mut deliver = |_, _, _| {};
        let mut cx =
            Context { now, service: &**service, stats, streams_max, deliver: &mut deliver, scratch, bells };
        act(&mut connection.state, &mut connection.quic, &mut cx);
        if connection.state.must_be_watched() {
            watched.push_back(Watched { at: now + *watch_period, connection: index, generation });
        }
        connection.state.flush_table(&mut connection.quic, now, stats);
        driver.mark(index);
        true
    }

    fn send(&mut self, now: Instant) {
        let Self { driver, listeners, .. } = self;
        self.behind = driver.transmit(now, &mut Sockets(|listener| listeners.fd(listener)));
    }

    /// Winds up when asked to; true when every connection is closed.
    fn drain_step(&mut self, now: Instant) -> bool {
        let Some(deadline) = self.shared.drain_until.get() else { return false };
        let began = match &self.drain {
            Some(drain) if now < drain.next => return false,
            Some(drain) => drain.began,
            None => now,
        };
        if self.drain.is_none() {
            self.driver.accepting = false;
        }
        let mut open = 0;
        for index in self.driver.indices() {
            let Some(connection) = self.driver.get_mut(index) else { continue };
            if connection.quic.is_closed() {
                continue;
            }
            connection.state.go_away(&mut connection.quic);
            let linger = connection.quic.rtt() * DRAIN_LINGER_ROUND_TRIPS;
            let is_done = now >= began + linger && connection.state.is_idle(&mut connection.quic);
            if is_done || now >= deadline {
                let reason = Bytes::from_static(b"shutting down");
                connection.quic.close(now, code(ErrorCode::H3_NO_ERROR), reason);
            } else {
                open += 1;
            }
            self.driver.mark(index);
        }
        let next = now + DRAIN_STEP;
        self.drain = Some(Drain { began, next: if now < deadline { next.min(deadline) } else { next } });
        open == 0
    }

    fn note_counts(&mut self) {
        let counts = std::mem::take(&mut self.driver.counts);
        let stats = &self.stats;
        stats.connections.set(self.driver.len() as u64);
        stats.connections_accepted.add(counts.accepted);
        stats.connections_refused.add(counts.refused);
        stats.connections_retried.add(counts.retried);
        stats.connections_rejected.add(counts.rejected);
        stats.connections_closed.add(counts.closed);
        stats.handshakes_timed_out.add(counts.handshakes_timed_out);
        stats.datagrams_forged.add(counts.forged);
        stats.stateless_sent.add(counts.stateless_sent);
        stats.stateless_lost.add(counts.stateless_lost);
        stats.requests_in_flight.set(self.in_flight);
    }
}

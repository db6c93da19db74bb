//! HTTP/3 of one core without sockets and without a clock: connections, their
//! requests and their answers, a turn at a time.
//!
//! A turn: datagrams go to [`Http3::driver`], then [`Http3::take_in`], and, once
//! the service has had its say, [`Http3::write_out`] and [`Http3::transmit`].
//! Whoever drives it brings time and a way out: the task of a core with its
//! sockets, or a test with a path that does not exist.
//!
//! Invariants:
//! - A connection is in `watched` at most once, and only while something of it is
//!   half done.
//! - Every request handed to the service is in `in_flight` until its answer came,
//!   whatever became of its connection.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto as qp;
use sluice_protocols::http::Response;

use super::IngressConfig;
use super::connection::{Context, H3Connection, Sweep, WATCHES_MAX, Writer};
use super::drain::Drain;
use super::stats::IngressStats;
use crate::quic::driver::{AdmissionLimits, Driver};
use crate::quic::outlet::Outlet;
use crate::service::{BellPull, Bells, Outbox, Responder, Rung, Service, StreamRef};

/// Connections with something half done that are looked at in one turn; the rest
/// comes right after.
const WATCHED_MAX: usize = 64;
/// Streams that go on with a body in pieces in one turn; the rest comes right
/// after.
const RUNG_MAX: usize = 1_024;

/// See the module.
pub(crate) struct Http3 {
    pub(crate) driver: Driver<H3Connection>,
    service: Rc<dyn Service>,
    /// Answers that are ready.
    pub(crate) outbox: Rc<Outbox>,
    /// Rung by bodies in pieces that can go on.
    pub(crate) bells: Arc<Bells>,
    pub(crate) stats: Arc<IngressStats>,
    streams_max: u32,
    watch_period: Duration,
    /// Connections with something half done, in the order of when to look at them
    /// again.
    watched: VecDeque<Watched>,
    /// Puts answers together.
    writer: Writer,
    /// Answers taken off the outbox, whose place is used again.
    answers: Vec<(StreamRef, Response)>,
    /// Something was left unsent in the last turn.
    is_behind: bool,
    pub(super) drain: Option<Drain>,
    /// Looks for connections without requests.
    pub(super) sweep: Sweep,
    /// Requests delivered and not yet answered.
    in_flight: u64,
}

/// A connection to look at again.
struct Watched {
    at: Instant,
    connection: usize,
    generation: u32,
}

impl Http3 {
    pub(crate) fn new(
        endpoint: qp::Endpoint,
        config: &IngressConfig,
        service: Rc<dyn Service>,
        stats: Arc<IngressStats>,
        now: Instant,
    ) -> Self {
        let limits = AdmissionLimits {
            connections_max: config.connections_max,
            handshakes_max: config.handshakes_max,
            handshakes_most: config.handshakes_most,
            per_network_max: config.connections_per_address_max,
            handshake_timeout: Some(config.handshake_timeout),
        };
        Self {
            driver: Driver::new(endpoint, limits, now),
            service,
            outbox: Rc::default(),
            bells: Arc::default(),
            stats,
            streams_max: config.streams_max,
            watch_period: config.request_timeout / u32::from(WATCHES_MAX),
            watched: VecDeque::new(),
            writer: Writer::default(),
            answers: Vec::new(),
            is_behind: false,
            drain: None,
            sweep: Sweep::new(config, now),
            in_flight: 0,
        }
    }

    /// Whether something was left unsent in the last turn, so that the next should
    /// come soon.
    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Whether neither an answer nor a body in pieces waits for a turn.
    pub(crate) fn is_quiet(&self) -> bool {
        self.outbox.is_empty() && self.bells.is_quiet()
    }

    /// Requests delivered and not yet answered.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Connections that are to be looked at again.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn watched(&self) -> usize {
        self.watched.len()
    }

    /// When a turn is due though nothing comes; `None`: never.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let watched = self.watched.front().map(|watched| watched.at);
        let drain = self.drain.as_ref().map(Drain::next);
        let sweep = (self.driver.len() > 0 && self.drain.is_none()).then(|| self.sweep.next());
        [self.driver.next_deadline(), watched, drain, sweep].into_iter().flatten().min()
    }

    /// Fires timers and takes in what has come: the first half of a turn, before
    /// the service goes on with what it was given.
    pub(crate) fn take_in(&mut self, now: Instant) {
        self.driver.expire(now);
        self.take_events(now);
        self.check_watched(now);
        self.sweep_unused(now);
    }

    /// Writes the answers there are: the second half.
    pub(crate) fn write_out(&mut self, now: Instant) {
        self.take_answers(now);
        self.take_streamed(now);
        self.take_rung(now);
    }

    /// Sends what the turn came to, and brings the counters up to date.
    pub(crate) fn transmit<O: Outlet>(&mut self, now: Instant, outlet: &mut O) {
        self.is_behind = self.driver.transmit(now, outlet);
        self.note_counts();
    }

    fn take_events(&mut self, now: Instant) {
        let Self { driver, service, outbox, bells, stats, streams_max, writer, in_flight, .. } = self;
        let (watched, watch_period, streams_max) = (&mut self.watched, self.watch_period, *streams_max);
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
                service.call(request, Responder::new(Rc::clone(outbox), to));
            };
            let bells = BellPull { bells, connection: index, generation };
            let service = &**service;
            let mut cx = Context { now, service, stats, streams_max, deliver: &mut deliver, writer, bells };
            connection.state.handle(&mut connection.quic, event, &mut cx);
            if connection.state.must_be_watched() {
                watched.push_back(Watched { at: now + watch_period, connection: index, generation });
            }
        }
    }

    /// Gives up what has been half done for too long, on connections whose turn it
    /// is to be looked at.
    fn check_watched(&mut self, now: Instant) {
        for _ in 0..WATCHED_MAX {
            if self.watched.front().is_none_or(|watched| watched.at > now) {
                return;
            }
            let Some(Watched { connection, generation, .. }) = self.watched.pop_front() else { return };
            self.go_on_with(now, (connection, generation), |state, quic, cx| {
                state.expire(quic, cx);
                state.flush_table(quic, cx.now, cx.stats);
            });
        }
    }

    fn take_answers(&mut self, now: Instant) {
        let mut answers = std::mem::take(&mut self.answers);
        std::mem::swap(&mut answers, &mut *self.outbox.ready.borrow_mut());
        for (to, response) in &mut answers {
            self.in_flight -= 1;
            let is_there = self.go_on_with(now, (to.connection, to.generation), |state, quic, cx| {
                state.respond(quic, to.stream, to.place, response, cx);
            });
            if !is_there {
                self.stats.responses_undeliverable.add(1);
            }
        }
        answers.clear();
        self.answers = answers;
    }

    /// Begins the answers whose bodies come in pieces.
    fn take_streamed(&mut self, now: Instant) {
        if self.outbox.streamed.borrow().is_empty() {
            return;
        }
        let streamed = std::mem::take(&mut *self.outbox.streamed.borrow_mut());
        for (to, head, body) in streamed {
            self.in_flight -= 1;
            let is_there = self.go_on_with(now, (to.connection, to.generation), |state, quic, cx| {
                state.respond_in_pieces(quic, to.stream, to.place, (head, body), cx);
                state.flush_table(quic, cx.now, cx.stats);
            });
            self.stats.responses_undeliverable.add(u64::from(!is_there));
        }
    }

    /// Goes on with bodies of which there is more, or for which there is room.
    fn take_rung(&mut self, now: Instant) {
        for _ in 0..RUNG_MAX {
            let Some(Rung { connection, generation, stream }) = self.bells.next() else { return };
            self.go_on_with(now, (connection, generation), |state, quic, cx| {
                state.answer_bell(quic, stream, cx);
                state.flush_table(quic, cx.now, cx.stats);
            });
        }
    }

    /// Does something with a connection, by index and generation; false when it is
    /// gone.
    #[inline]
    fn go_on_with(
        &mut self,
        now: Instant,
        (index, generation): (usize, u32),
        act: impl FnOnce(&mut H3Connection, &mut qp::Connection, &mut Context<'_>),
    ) -> bool {
        let Self { driver, service, bells, stats, streams_max, writer, watched, watch_period, .. } = self;
        let Some(connection) = driver.get_generation(index, generation) else { return false };
        let (streams_max, bells) = (*streams_max, BellPull { bells, connection: index, generation });
        let service = &**service;
        let mut deliver = |_, _, _| {};
        let mut cx = Context { now, service, stats, streams_max, deliver: &mut deliver, writer, bells };
        act(&mut connection.state, &mut connection.quic, &mut cx);
        if connection.state.must_be_watched() {
            watched.push_back(Watched { at: now + *watch_period, connection: index, generation });
        }
        driver.mark(index);
        true
    }

    fn note_counts(&mut self) {
        let counts = std::mem::take(&mut self.driver.counts);
        let stats = &self.stats;
        stats.connections.set(self.driver.len() as u64);
        stats.connections_accepted.add(counts.accepted);
        stats.connections_refused.add(counts.refused);
        stats.handshakes_refused.add(counts.handshakes_refused);
        stats.connections_crowded.add(counts.crowded);
        stats.connections_retried.add(counts.retried);
        stats.connections_rejected.add(counts.rejected);
        stats.connections_closed.add(counts.closed);
        stats.handshakes_timed_out.add(counts.handshakes_timed_out);
        stats.connection_ids_hoarded.add(counts.ids_hoarded);
        stats.datagrams_forged.add(counts.forged);
        stats.stateless_sent.add(counts.stateless_sent);
        stats.versions_told.add(counts.versions_told);
        stats.resets_sent.add(counts.resets_sent);
        stats.stateless_lost.add(counts.stateless_lost);
        stats.key_updates.add(counts.key_updates);
        stats.path_challenges.add(counts.path_challenges);
        stats.crypto_frames.add(counts.crypto_frames);
        stats.requests_in_flight.set(self.in_flight);
    }
}

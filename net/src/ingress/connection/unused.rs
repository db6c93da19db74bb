//! Connections that have no requests.
//!
//! QUIC gives up who is silent, and each packet renews that, so that a client could keep its place for ever by a PING now
//! and then. As over TCP a connection is idle when it has no request: then it is told that it will end, and closed.
//!
//! Nothing is kept in order for it: now and then all connections are looked at, a few in a turn. Those that were not used
//! since the last time let go of what their tables have grown to.

use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn_proto as qp;
use slab::Slab;
use sluice_protocols::h3::ErrorCode;

use super::{FastMap, H3Connection, code};
use crate::ingress::IngressConfig;
use crate::ingress::http3::Http3;

/// Sweeps in the time that a connection may be unused: it ends by an eighth of it too late at most, and a hundred
/// thousand connections cost some thousands of looks a second.
const SWEEPS: u32 = 8;
/// The least time between two.
const PERIOD_MIN: Duration = Duration::from_millis(20);
/// Connections looked at in one turn; the rest comes right after.
const LOOKED_AT_MAX: usize = 256;
/// Sweeps that a connection is given, once it was told, for answers to arrive that the transport has: four times as long
/// as it was unused, in which a mebibyte passes at 9 KB/s with the usual half minute.
const LAST_SWEEPS_MAX: u8 = 32;

/// Places that a table keeps although it is empty: as many as most connections ever need.
const PLACES_KEPT: usize = 16;

/// Goes over the connections.
pub(in crate::ingress) struct Sweep {
    /// How long a connection may be unused; `None`: for ever.
    timeout: Option<Duration>,
    period: Duration,
    /// When the next begins, or goes on.
    next: Instant,
    /// When the one after that does.
    following: Instant,
    /// The place from which this one goes on.
    cursor: usize,
}

impl Sweep {
    pub(in crate::ingress) fn new(config: &IngressConfig, now: Instant) -> Self {
        let timeout = config.unused_timeout.map(|unused| unused.max(config.idle_timeout));
        let period = (timeout.unwrap_or(config.idle_timeout) / SWEEPS).max(PERIOD_MIN);
        let next = now + period;
        Self { timeout, period, next, following: next, cursor: 0 }
    }

    /// When it goes on.
    pub(in crate::ingress) fn next(&self) -> Instant {
        self.next
    }
}

/// What is known of how a connection is used.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// When it was seen with a request last, or began; `None` during the handshake, which has a limit of its own.
    used_at: Option<Instant>,
    /// Sweeps since it was told to go.
    last_sweeps: u8,
}

impl Usage {
    pub(super) fn note(&mut self, now: Instant) {
        self.used_at = Some(now);
    }
}

impl Http3 {
    /// Looks at some connections, if it is time.
    pub(in crate::ingress) fn sweep_unused(&mut self, now: Instant) {
        // Winding up as a whole ends them all.
        if self.drain.is_some() {
            return;
        }
        let Self { sweep, driver, stats, .. } = self;
        if now < sweep.next {
            return;
        }
        if sweep.cursor == 0 {
            sweep.following = now + sweep.period;
        }
        let end = (sweep.cursor + LOOKED_AT_MAX).min(driver.places());
        for index in sweep.cursor..end {
            let Some(connection) = driver.get_mut(index) else { continue };
            if connection.quic.is_closed() || connection.quic.is_handshaking() {
                continue;
            }
            match connection.state.look(&mut connection.quic, now, sweep) {
                Verdict::Stays => continue,
                Verdict::Goes => {}
                Verdict::Over => {
                    stats.connections_unused.add(1);
                    let reason = Bytes::from_static(b"no requests");
                    connection.quic.close(now, code(ErrorCode::H3_NO_ERROR), reason);
                }
            }
            driver.mark(index);
        }
        sweep.cursor = if end < driver.places() { end } else { 0 };
        if sweep.cursor == 0 {
            sweep.next = sweep.following;
        }
    }
}

/// What becomes of a connection.
enum Verdict {
    Stays,
    /// It is being told to go.
    Goes,
    Over,
}

impl H3Connection {
    /// Whether a request comes, is answered, or has an answer that waits for its client. What the transport has of
    /// answers does not count: that is out of our hands.
    fn has_requests(&self) -> bool {
        let waits = self.writing.keys().any(|id| Some(*id) != self.control);
        waits || !(self.reading.is_empty() && self.answering.is_empty() && self.streaming.is_empty())
    }

    fn look(&mut self, quic: &mut qp::Connection, now: Instant, sweep: &Sweep) -> Verdict {
        if self.has_requests() {
            self.usage.note(now);
        }
        let Some(used_at) = self.usage.used_at else { return Verdict::Stays };
        if now >= used_at + sweep.period {
            self.let_tables_go();
        }
        let is_told = self.winding_up.identifier().is_some();
        if !is_told && sweep.timeout.is_none_or(|timeout| now < used_at + timeout) {
            return Verdict::Stays;
        }
        let is_done = self.wind_up(quic, now);
        self.usage.last_sweeps = self.usage.last_sweeps.saturating_add(1);
        let is_late = self.usage.last_sweeps > LAST_SWEEPS_MAX && !self.has_requests();
        if is_done || is_late { Verdict::Over } else { Verdict::Goes }
    }

    /// Tables grow with the requests that are there at once, and would stay so as long as the connection.
    fn let_tables_go(&mut self) {
        fn let_go<V>(table: &mut FastMap<V>) {
            if table.is_empty() && table.capacity() > PLACES_KEPT {
                *table = FastMap::default();
            }
        }
        let_go(&mut self.reading);
        let_go(&mut self.writing);
        let_go(&mut self.streaming);
        let_go(&mut self.surplus);
        if self.answering.is_empty() && self.answering.capacity() > PLACES_KEPT {
            self.answering = Slab::new();
        }
    }
}

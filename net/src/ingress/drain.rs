//! Winding up (RFC 9114 section 5.2): nothing new is let in, what is under way
//! finishes, and nobody is left in doubt about which is which.
//!
//! Each connection goes through two steps. At once it is told that it will end,
//! with the greatest identifier there is, which refuses nothing yet: a request
//! that is on its way is served. After two round trips, by when a client that
//! listens has stopped sending, it is told which request was the last; later ones
//! are refused, and are safe to send elsewhere. It is closed when all is answered
//! and the answers have arrived, or at the deadline.

use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn_proto as qp;
use sluice_protocols::h3::ErrorCode;

use super::connection::{H3Connection, code};
use super::http3::Http3;

/// How often connections that wind up are looked at.
const STEP: Duration = Duration::from_millis(20);
/// Round trips between the two steps: a request that crossed with the first is
/// here after one, and the measure of it is not exact.
const ANNOUNCED_ROUND_TRIPS: u32 = 2;
/// The most that takes, however slow the path is thought to be.
const ANNOUNCED_MAX: Duration = Duration::from_millis(500);
/// Round trips a connection stays open after the second, so that requests which
/// were under way meet a refusal that is safe to repeat rather than a closed door.
const LINGER_ROUND_TRIPS: u32 = 2;

/// How far a connection has come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum WindUp {
    #[default]
    Not,
    /// Requests are still taken.
    Announced { at: Instant },
    /// Those from this index on are refused.
    Final { at: Instant, from: u64 },
}

impl WindUp {
    /// The identifier that GOAWAY tells, if it is time for one.
    pub(super) fn identifier(self) -> Option<u64> {
        match self {
            Self::Not => None,
            // The greatest of a request stream: those of clients are multiples of four.
            Self::Announced { .. } => Some((1 << 62) - 4),
            Self::Final { from, .. } => Some(from * 4),
        }
    }

    /// Whether the request of this index is refused.
    pub(super) fn refuses(self, index: u64) -> bool {
        matches!(self, Self::Final { from, .. } if index >= from)
    }

    /// The next step if it is time for it; the next request would be `next_request`.
    pub(super) fn next(self, now: Instant, round_trip: Duration, next_request: u64) -> Option<Self> {
        let announced = (round_trip * ANNOUNCED_ROUND_TRIPS).min(ANNOUNCED_MAX);
        match self {
            Self::Not => Some(Self::Announced { at: now }),
            Self::Announced { at } if now >= at + announced => {
                Some(Self::Final { at: now, from: next_request })
            }
            Self::Announced { .. } | Self::Final { .. } => None,
        }
    }

    /// Whether what crossed with the second step has been refused by now.
    pub(super) fn is_over(self, now: Instant, round_trip: Duration) -> bool {
        let linger = round_trip * LINGER_ROUND_TRIPS;
        matches!(self, Self::Final { at, .. } if now >= at + linger)
    }
}

/// The end of a whole core's ingress.
pub(super) struct Drain {
    deadline: Instant,
    /// When to look again.
    next: Instant,
}

impl Drain {
    pub(super) fn next(&self) -> Instant {
        self.next
    }
}

impl Http3 {
    /// Takes no further connections from now on, and tells each there is that it
    /// will end, by `deadline` in any case.
    pub(crate) fn begin_drain(&mut self, now: Instant, deadline: Instant) {
        if self.drain.is_none() {
            self.driver.accepting = false;
            self.drain = Some(Drain { deadline, next: now });
        }
    }

    /// Whether winding up was begun.
    pub(super) fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// Goes on with winding up, where that was begun; true when every connection
    /// is closed. What it came to must be sent.
    pub(crate) fn drain_step(&mut self, now: Instant) -> bool {
        let Some(Drain { deadline, next }) = self.drain else { return false };
        if now < next {
            return false;
        }
        let mut open = 0;
        for index in self.driver.indices() {
            let Some(connection) = self.driver.get_mut(index) else { continue };
            if connection.quic.is_closed() {
                continue;
            }
            let is_done = connection.state.wind_up(&mut connection.quic, now);
            if is_done || now >= deadline {
                close(&mut connection.quic, now);
            } else {
                open += 1;
            }
            self.driver.mark(index);
        }
        let next = now + STEP;
        let next = if now < deadline { next.min(deadline) } else { next };
        self.drain = Some(Drain { deadline, next });
        open == 0
    }
}

fn close(quic: &mut qp::Connection, now: Instant) {
    quic.close(now, code(ErrorCode::H3_NO_ERROR), Bytes::from_static(b"shutting down"));
}

impl H3Connection {
    /// Goes on with winding up; true when nothing is left to do.
    pub(crate) fn wind_up(&mut self, quic: &mut qp::Connection, now: Instant) -> bool {
        if let Some(next) = self.winding_up.next(now, quic.rtt(), self.next_request()) {
            self.winding_up = next;
            self.write_goaway(quic);
        }
        self.winding_up.is_over(now, quic.rtt()) && self.is_idle(quic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(30);

    #[test]
    fn requests_that_cross_with_the_first_word_are_served_and_later_ones_are_not() {
        let began = Instant::now();
        let announced = WindUp::Not.next(began, ROUND_TRIP, 7).unwrap();
        assert_eq!((announced.identifier(), announced.refuses(u64::MAX)), (Some((1 << 62) - 4), false));
        assert_eq!(announced.next(began + ROUND_TRIP, ROUND_TRIP, 8), None);
        let then = began + ROUND_TRIP * 2;
        let last = announced.next(then, ROUND_TRIP, 9).unwrap();
        assert_eq!((last.identifier(), last.refuses(8), last.refuses(9)), (Some(36), false, true));
        assert_eq!(last.next(then + ANNOUNCED_MAX, ROUND_TRIP, 9), None);
        assert!(
            !last.is_over(then + ROUND_TRIP, ROUND_TRIP) && last.is_over(then + ROUND_TRIP * 2, ROUND_TRIP)
        );
    }

    #[test]
    fn a_path_that_is_thought_to_be_slow_does_not_put_the_last_word_off() {
        let began = Instant::now();
        let announced = WindUp::Announced { at: began };
        assert_eq!(announced.next(began + ANNOUNCED_MAX / 2, Duration::from_secs(9), 1), None);
        assert!(announced.next(began + ANNOUNCED_MAX, Duration::from_secs(9), 1).is_some());
    }
}

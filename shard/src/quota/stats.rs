//! Counters of a core's broker, by upstream.

use sluice_core::Counter;
use sluice_net::egress::Upstream;

use super::broker::Denied;

/// Counters of one upstream. Written by the core, read by anyone.
#[derive(Debug, Default)]
pub struct DoorStats {
    /// Calls asked for, repeats not counted.
    pub calls: Counter,
    /// Units spent.
    pub units: Counter,
    /// Calls that had to wait for units or a place.
    pub waited: Counter,
    /// Calls waiting now.
    pub waiting: Counter,
    /// Calls under way now.
    pub under_way: Counter,
    /// Places of commands and requests that it holds now.
    pub places: Counter,
    /// Repeats.
    pub retries: Counter,
    /// Repeats not made, the budget being spent.
    pub retries_over_budget: Counter,
    /// Second copies of slow reads.
    pub hedges: Counter,
    /// Those whose answer came first.
    pub hedges_won: Counter,
    /// Calls that failed in a way that counts against the breaker.
    pub failures: Counter,
    /// Answers that limit the whole project.
    pub limited_project: Counter,
    /// Answers that limit one user.
    pub limited_user: Counter,
    /// Refused here: no units before the deadline.
    pub denied_limited: Counter,
    /// Refused here: the breaker is open.
    pub denied_open: Counter,
    /// Refused here: too many wait.
    pub denied_full: Counter,
    /// Refused here: no place in time.
    pub denied_late: Counter,
    /// Refused here: it holds as many places of commands and requests as it may.
    pub denied_crowded: Counter,
    /// For reads and for writes: how the breaker stands (0 closed, 1 half open, 2 open), and how often it opened.
    pub breakers: [(Counter, Counter); 2],
}

impl DoorStats {
    pub(super) fn denied(&self, denied: Denied) {
        match denied {
            Denied::Limited(_) => &self.denied_limited,
            Denied::Open(_) => &self.denied_open,
            Denied::Full => &self.denied_full,
            Denied::Late => &self.denied_late,
            Denied::Crowded => &self.denied_crowded,
        }
        .add(1);
    }
}

/// Counters of one core's broker.
#[derive(Debug, Default)]
pub struct QuotaStats {
    doors: [DoorStats; Upstream::ALL.len()],
}

impl QuotaStats {
    /// The counters of one upstream.
    pub fn of(&self, upstream: Upstream) -> &DoorStats {
        &self.doors[upstream as usize]
    }
}

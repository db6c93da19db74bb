//! The upstreams as tasks use them: plans from OpenAI, access tokens, and calls to Google.
//!
//! Invariants:
//! - Every call has a deadline, and its time is measured ([`meter`]).
//! - What goes wrong becomes a problem document for the user; what could identify the operator's accounts stays
//!   in the log.

mod batch;
pub(crate) mod bound;
mod call;
mod delegation;
mod google;
pub(crate) mod meter;
pub(crate) mod openai;
mod tokens;
mod upload;

use std::time::{Duration, Instant};

use sluice_net::egress::EgressError;
use sluice_protocols::problem::{Problem, ProblemKind};

use crate::quota::{CROWDED_WAIT, Denied};

pub(crate) use call::Outgoing;
pub use delegation::{Delegation, KeyFileError};
pub(crate) use google::{CallError, Content, Google, Reply, given_up, title};
pub use tokens::TokenCache;
pub(crate) use tokens::{Account, judge as judge_tokens};
pub(crate) use upload::{Sessions as UploadSessions, Source, Upload, UploadError};

/// A call to `name` that brought no answer. `deadline` is the command's own: past it, the command is what is late.
fn lost(name: &str, error: &EgressError, deadline: Instant) -> Problem {
    match error {
        EgressError::Overloaded => {
            Problem::new(ProblemKind::Overloaded, format!("too many calls to {name} are waiting"))
        }
        EgressError::DeadlineExceeded { .. } if sluice_core::now() >= deadline => Problem::new(
            ProblemKind::DeadlineExceeded,
            format!("the time for the command ran out while {name} was asked"),
        ),
        EgressError::DeadlineExceeded { .. } => {
            Problem::new(ProblemKind::UpstreamTimeout, format!("{name} did not answer in time"))
        }
        EgressError::Connect(_) => {
            Problem::new(ProblemKind::UpstreamUnavailable, format!("{name} cannot be reached"))
        }
        EgressError::Broken(_) => {
            Problem::new(ProblemKind::UpstreamUnavailable, format!("the connection to {name} broke off"))
        }
        EgressError::BodyTooLarge { .. } => {
            Problem::new(ProblemKind::UpstreamInvalid, format!("the answer of {name} was too large"))
        }
        EgressError::ShuttingDown => Problem::new(
            ProblemKind::ShuttingDown,
            "the gateway is shutting down; the task goes on after its restart",
        ),
        EgressError::Invalid(why) => {
            tracing::error!(upstream = name, why, "a request of ours was refused by the egress pool");
            Problem::new(ProblemKind::Internal, format!("a request to {name} could not be made"))
        }
    }
}

/// A call to `name` that was not made, for the broker did not let it through.
fn denied(name: &str, denied: Denied) -> Problem {
    match denied {
        Denied::Open(wait) => {
            let detail = format!("{name} is failing and is left alone for a moment");
            with_wait(Problem::new(ProblemKind::UpstreamUnavailable, detail), Some(wait))
        }
        Denied::Limited(wait) => {
            let detail = format!("what may be asked of {name} is used up for now");
            with_wait(Problem::new(ProblemKind::UpstreamLimited, detail), wait)
        }
        Denied::Crowded => {
            let detail = format!("{name} is slow: as many commands and requests wait for it as may");
            with_wait(Problem::new(ProblemKind::UpstreamLimited, detail), Some(CROWDED_WAIT))
        }
        Denied::Full | Denied::Late => {
            Problem::new(ProblemKind::Overloaded, format!("too many calls to {name} are waiting"))
        }
    }
}

/// Adds how long to wait, where that is known; rounded up.
fn with_wait(problem: Problem, wait: Option<Duration>) -> Problem {
    let seconds = wait.map(|wait| wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
    match seconds {
        Some(seconds) if seconds > 0 => {
            problem.with_retry_after_s(u32::try_from(seconds).unwrap_or(u32::MAX))
        }
        _ => problem,
    }
}

/// Waits that grow: 100 ms, doubled each time up to 5 s, of which half is drawn by lot so that those who failed
/// together do not come back together.
pub(crate) struct Backoff {
    next: Duration,
}

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: BACKOFF_FIRST }
    }

    /// The next wait, no less than what was `asked` for.
    fn step(&mut self, asked: Option<Duration>) -> Duration {
        let half = self.next / 2;
        // Without randomness there is no jitter, which is no reason to fail.
        let lot = f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX);
        self.next = (self.next * 2).min(BACKOFF_MAX);
        (half + half.mul_f64(lot)).max(asked.unwrap_or_default())
    }

    /// Waits. `false`, at once, when the wait would not end before `limit`.
    pub(crate) async fn wait(&mut self, asked: Option<Duration>, limit: Instant) -> bool {
        let until = sluice_core::now() + self.step(asked);
        if until >= limit {
            return false;
        }
        sluice_core::sleep_until(until).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_bound_and_never_undercut_what_was_asked() {
        let mut backoff = Backoff::new();
        let waits: Vec<Duration> = (0..12).map(|_| backoff.step(None)).collect();
        assert!(waits[0] >= BACKOFF_FIRST / 2 && waits[0] <= BACKOFF_FIRST);
        assert!(waits.iter().all(|wait| *wait <= BACKOFF_MAX));
        assert!(waits[11] >= BACKOFF_MAX / 2);
        assert!(backoff.step(Some(Duration::from_secs(9))) >= Duration::from_secs(9));
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds_and_never_as_zero() {
        let problem = || Problem::new(ProblemKind::UpstreamLimited, "x");
        assert_eq!(with_wait(problem(), Some(Duration::from_millis(1_001))).retry_after_s(), Some(2));
        assert_eq!(with_wait(problem(), Some(Duration::ZERO)).retry_after_s(), None);
        assert_eq!(with_wait(problem(), None).retry_after_s(), None);
    }
}

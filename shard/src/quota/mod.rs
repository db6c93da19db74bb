//! Spending what upstreams allow: before every call, a core's [`Broker`] sees to units, places, turns and breakers.
//!
//! ```text
//! call -> breaker open? refuse -> units and place? go -> else wait by priority and user, or refuse at once
//!      -> sent -> answer: limits learned, breaker told, tokens corrected, place given on
//! ```
//! What belongs to the project is shared by the cores in [`Quotas`]: budgets by the minute and by the day
//! ([`Ledger`], no locks), and the moment until which an upstream asked all of us to wait. What belongs to a user stays
//! on the user's core. Breakers and budgets of repeats are each core's own.

mod breaker;
mod breakers;
mod broker;
mod config;
mod gate;
mod hedge;
mod ledger;
mod minutes;
mod retry;
mod stats;
mod window;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sluice_net::egress::Upstream;

pub use breaker::BreakerConfig;
pub(crate) use breaker::Verdict;
pub use broker::Broker;
pub(crate) use broker::{CROWDED_WAIT, Denied, Occupied, Permit};
pub use config::{Limits, QuotaConfig, RetryLimits, Units};
pub(crate) use gate::Ask;
use gate::{Budget, COOL_MAX, Gate, GateLimits, Measure};
pub use hedge::HedgeConfig;
pub(crate) use hedge::Operation;
use ledger::Lease;
pub use ledger::{Ledger, Span};
pub use minutes::{Boot, WORDS as MINUTES_WORDS};
use minutes::{Left, Minutes};
pub(crate) use retry::wait as retry_wait;
pub use stats::{DoorStats, QuotaStats};
use window::Slots;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest wait that is believed without asking again. A mistaken `Retry-After` of a day would stop all cores for as
/// long; after this much of it one call finds out.
pub(crate) const BELIEVED_MAX: Duration = Duration::from_secs(5 * 60);
/// A minute is cut into 240 slots: at most 2 % of it lie idle in slots that are half out.
const MINUTE_SLOT: Duration = Duration::from_millis(250);
/// A day is cut into 288.
const DAY_SLOT: Duration = Duration::from_secs(300);

/// What a call does, for the breakers: a service that takes no changes may still be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// It changes nothing.
    Read,
    /// It may.
    Write,
}

/// What all cores share of one upstream.
#[derive(Debug)]
struct Shared {
    /// Milliseconds after the epoch until which all wait.
    cool_until_ms: AtomicU64,
    /// How long the last wait was that a refusal without a time brought, in milliseconds.
    cool_last_ms: AtomicU64,
    /// Until when an upstream said to wait, in milliseconds after the epoch, where that is longer than is believed
    /// unasked; else 0.
    said_until_ms: AtomicU64,
    /// Whether a call was let through to find out if that still holds.
    is_probed: AtomicBool,
    ledgers: Vec<(Measure, Span, Arc<Ledger>)>,
}

/// What all cores share.
#[derive(Debug)]
pub struct Quotas {
    config: QuotaConfig,
    cores: usize,
    epoch: Instant,
    minutes: OnceLock<Minutes>,
    shared: [Shared; Upstream::ALL.len()],
}

impl Quotas {
    /// Budgets for `cores` cores.
    pub fn new(config: QuotaConfig, cores: usize) -> Arc<Self> {
        let epoch = epoch();
        let minute = Span::new(MINUTE, config.slack, MINUTE_SLOT);
        let day = Span::new(DAY, config.slack, DAY_SLOT);
        let shared = Upstream::ALL.map(|upstream| {
            let wanted = match upstream {
                Upstream::OAuth => Vec::new(),
                Upstream::OpenAi => vec![
                    (Measure::Units, minute, config.openai_requests_per_minute),
                    (Measure::Tokens, minute, config.openai_tokens_per_minute),
                ],
                Upstream::Gmail => google(&config.gmail, minute, day),
                Upstream::Calendar => google(&config.calendar, minute, day),
                Upstream::Drive => google(&config.drive, minute, day),
            };
            let made = wanted
                .into_iter()
                .filter(|(.., limit)| *limit > 0)
                .map(|(measure, span, limit)| (measure, span, Arc::new(Ledger::new(limit, span, epoch))));
            Shared {
                cool_until_ms: AtomicU64::new(0),
                cool_last_ms: AtomicU64::new(0),
                said_until_ms: AtomicU64::new(0),
                is_probed: AtomicBool::new(false),
                ledgers: made.collect(),
            }
        });
        Arc::new(Self { config, cores: cores.max(1), epoch, minutes: OnceLock::new(), shared })
    }

    /// Settings.
    pub fn config(&self) -> &QuotaConfig {
        &self.config
    }

    /// How many cores share the budgets.
    pub fn cores(&self) -> usize {
        self.cores
    }

    /// The budgets of an upstream: what it is called, the limit, and what is used of the window that ends now.
    pub fn budgets(&self, upstream: Upstream, now: Instant) -> Vec<(&'static str, u64, u64)> {
        let name = |measure: Measure, span: &Span| match (measure, span.slot == DAY_SLOT) {
            (Measure::Units, false) => "units_minute",
            (Measure::Units, true) => "units_day",
            (Measure::Tokens, _) => "tokens_minute",
        };
        let ledgers = self.shared[upstream as usize].ledgers.iter();
        ledgers
            .map(|(measure, span, ledger)| (name(*measure, span), ledger.limit(), ledger.used(now)))
            .collect()
    }

    /// Goes on with the minutes of earlier processes, as they stand in these words ([`MINUTES_WORDS`] of them), and writes there from
    /// now on. Only for the start, before any core's. Where it is doubtful what was used, all of a minute counts as used.
    pub fn keep_minutes(&self, words: &'static [AtomicU64], boot: Boot) {
        let Some((minutes, left)) = Minutes::open(words, self.epoch, boot) else { return };
        if self.minutes.set(minutes).is_err() {
            return;
        }
        let now = Instant::now();
        for upstream in Upstream::ALL {
            let ledgers = self.shared[upstream as usize].ledgers.iter();
            for (measure, _, ledger) in ledgers.filter(|(_, span, _)| span.slot == MINUTE_SLOT) {
                if let Some(ring) = minutes.ring(upstream, *measure) {
                    ledger.keep_in(ring, now);
                }
                if left == Left::Doubtful {
                    ledger.charge(ledger.limit().saturating_sub(ledger.used(now)), now);
                }
            }
        }
    }

    fn days(&self) -> impl Iterator<Item = (Upstream, &Ledger)> {
        Upstream::ALL.into_iter().flat_map(|upstream| {
            let ledgers = self.shared[upstream as usize].ledgers.iter();
            ledgers
                .filter(|(_, span, _)| span.slot == DAY_SLOT)
                .map(move |(.., ledger)| (upstream, &**ledger))
        })
    }

    /// What is used of the days' budgets: by upstream, when it was (see [`Ledger::history`]), and how much. For [`Self::restore_days`] of a later
    /// process.
    pub fn days_used(&self, now: Instant) -> Vec<(Upstream, Vec<(i64, u64)>)> {
        self.days().map(|(upstream, ledger)| (upstream, ledger.history(now))).collect()
    }

    /// Counts what an earlier process used. Only for the start.
    pub fn restore_days(&self, upstream: Upstream, used: &[(i64, u64)], now: Instant) {
        for (_, ledger) in self.days().filter(|(one, _)| *one == upstream) {
            used.iter().for_each(|(end_s, units)| ledger.restore(*end_s, *units, now));
        }
    }

    /// What an upstream lets a project use in a minute, as far as that is known: with no limit by the minute, a
    /// twenty-fourth of the day's.
    pub fn minute_of_day(&self, upstream: Upstream) -> u64 {
        let limits = match upstream {
            Upstream::Gmail => &self.config.gmail,
            Upstream::Calendar => &self.config.calendar,
            Upstream::Drive => &self.config.drive,
            Upstream::OpenAi | Upstream::OAuth => return 0,
        };
        if limits.project_per_minute > 0 { limits.project_per_minute } else { limits.per_day / 24 }
    }

    fn gate(&self, upstream: Upstream) -> Gate {
        let config = &self.config;
        let shared = &self.shared[upstream as usize];
        let budgets = shared.ledgers.iter().map(|(measure, _, ledger)| {
            let share = |percent: u64| ledger.limit().saturating_mul(percent.min(100)) / 100;
            Budget {
                measure: *measure,
                lease: Lease::new(Arc::clone(ledger), self.cores),
                ceilings: [ledger.limit(), share(config.normal_percent), share(config.batch_percent)],
            }
        });
        let user_per_minute = match upstream {
            Upstream::Gmail => config.gmail.user_per_minute,
            Upstream::Calendar => config.calendar.user_per_minute,
            Upstream::Drive => config.drive.user_per_minute,
            Upstream::OpenAi | Upstream::OAuth => 0,
        };
        let limits = GateLimits {
            concurrent_max: match upstream {
                Upstream::OpenAi => config.openai_concurrent_max,
                _ => config.google_concurrent_max,
            },
            user_concurrent_max: config.user_concurrent_max,
            user_per_minute,
            waiting_max: config.waiting_max,
            users_max: config.users_max,
        };
        let span = Span::new(MINUTE, config.slack, MINUTE_SLOT);
        let gate = Gate::new(limits, Slots { span, epoch: self.epoch }, budgets.collect());
        gate.keeping(self.minutes.get().and_then(|minutes| minutes.cells(upstream)))
    }

    fn ms(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }

    /// How much longer all must wait.
    fn cool_down(&self, upstream: Upstream, now: Instant) -> Duration {
        let until = self.shared[upstream as usize].cool_until_ms.load(Relaxed);
        if until == 0 { Duration::ZERO } else { Duration::from_millis(until.saturating_sub(self.ms(now))) }
    }

    /// Whether so much of a long wait has passed that one call may find out if it still holds.
    fn wants_probe(&self, upstream: Upstream, now: Instant) -> bool {
        let shared = &self.shared[upstream as usize];
        let (said, now_ms) = (shared.said_until_ms.load(Relaxed), self.ms(now));
        said > now_ms && shared.cool_until_ms.load(Relaxed) <= now_ms
    }

    /// Takes the leave for that call: all others wait until it is answered, or for [`COOL_MAX`]. `false` where another core
    /// was first.
    fn begin_probe(&self, upstream: Upstream, now: Instant) -> bool {
        let shared = &self.shared[upstream as usize];
        let (now_ms, until) = (self.ms(now), shared.cool_until_ms.load(Relaxed));
        let next = now_ms.saturating_add(u64::try_from(COOL_MAX.as_millis()).unwrap_or(u64::MAX));
        let is_first =
            until <= now_ms && shared.cool_until_ms.compare_exchange(until, next, Relaxed, Relaxed).is_ok();
        if is_first {
            shared.is_probed.store(true, Relaxed);
        }
        is_first
    }

    /// Gives that leave back: the call was not made.
    fn end_probe(&self, upstream: Upstream, now: Instant) {
        let shared = &self.shared[upstream as usize];
        if shared.is_probed.swap(false, Relaxed) {
            shared.cool_until_ms.store(self.ms(now), Relaxed);
        }
    }

    /// An upstream answered without limiting anybody: where that is what a probe came to, nobody waits any more.
    fn answers(&self, upstream: Upstream) {
        let shared = &self.shared[upstream as usize];
        if shared.is_probed.load(Relaxed) && shared.is_probed.swap(false, Relaxed) {
            shared.said_until_ms.store(0, Relaxed);
            shared.cool_until_ms.store(0, Relaxed);
        }
    }

    /// Makes all cores wait: as long as was said, or longer each time.
    fn cool(&self, upstream: Upstream, said: Option<Duration>, now: Instant) {
        let shared = &self.shared[upstream as usize];
        let (now_ms, until, last) =
            (self.ms(now), shared.cool_until_ms.load(Relaxed), shared.cool_last_ms.load(Relaxed));
        let whole = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
        let wait = match said {
            Some(said) => whole(said),
            // Many answers to calls that left together are one refusal.
            None if now_ms < until => return,
            None if now_ms < until.saturating_add(last) => (last * 2).min(whole(COOL_MAX)),
            None => whole(self.config.cool_down),
        };
        let believed = wait.min(whole(BELIEVED_MAX));
        if believed < wait {
            shared.said_until_ms.fetch_max(now_ms.saturating_add(wait), Relaxed);
        }
        shared.is_probed.store(false, Relaxed);
        let wait = believed;
        shared.cool_last_ms.store(wait, Relaxed);
        shared.cool_until_ms.fetch_max(now_ms.saturating_add(wait), Relaxed);
    }
}

/// The beginning of the day's slot that runs: slots lie alike in every process, so that what is restored keeps its place.
fn epoch() -> Instant {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let into = Duration::from_nanos(u64::try_from(unix.as_nanos() % DAY_SLOT.as_nanos()).unwrap_or(0));
    let now = Instant::now();
    now.checked_sub(into).unwrap_or(now)
}

fn google(limits: &Limits, minute: Span, day: Span) -> Vec<(Measure, Span, u64)> {
    vec![(Measure::Units, minute, limits.project_per_minute), (Measure::Units, day, limits.per_day)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_makes_all_cores_wait_and_the_next_one_longer() {
        let quotas = Quotas::new(QuotaConfig::default(), 2);
        let mut now = Instant::now();
        for seconds in [1, 2, 4, 8] {
            quotas.cool(Upstream::Gmail, None, now);
            quotas.cool(Upstream::Gmail, None, now);
            let wait = quotas.cool_down(Upstream::Gmail, now);
            assert!(
                wait > Duration::from_millis(seconds * 1_000 - 2) && wait <= Duration::from_secs(seconds)
            );
            now += wait;
        }
        assert_eq!(quotas.cool_down(Upstream::Drive, now), Duration::ZERO);
        quotas.cool(Upstream::Gmail, Some(Duration::from_secs(90)), now);
        assert!(quotas.cool_down(Upstream::Gmail, now) > Duration::from_secs(89));
        now += Duration::from_secs(600);
        quotas.cool(Upstream::Gmail, None, now);
        assert!(quotas.cool_down(Upstream::Gmail, now) <= Duration::from_secs(1));
    }

    #[test]
    fn of_a_wait_of_a_day_some_minutes_are_believed_and_then_one_call_finds_out() {
        let quotas = Quotas::new(QuotaConfig::default(), 2);
        let mut now = Instant::now();
        quotas.cool(Upstream::Gmail, Some(DAY), now);
        assert!(!quotas.wants_probe(Upstream::Gmail, now));
        let wait = quotas.cool_down(Upstream::Gmail, now);
        assert!(wait <= BELIEVED_MAX && wait > BELIEVED_MAX - Duration::from_secs(1), "{wait:?}");
        now += wait;
        assert!(quotas.wants_probe(Upstream::Gmail, now) && quotas.begin_probe(Upstream::Gmail, now));
        // All others wait for what it comes to.
        assert!(!quotas.wants_probe(Upstream::Gmail, now) && !quotas.begin_probe(Upstream::Gmail, now));
        assert!(!quotas.cool_down(Upstream::Gmail, now).is_zero());
        // It was not made after all: the next may.
        quotas.end_probe(Upstream::Gmail, now);
        assert!(quotas.wants_probe(Upstream::Gmail, now) && quotas.begin_probe(Upstream::Gmail, now));
        // Refused once more, as before.
        quotas.cool(Upstream::Gmail, Some(DAY), now);
        now += quotas.cool_down(Upstream::Gmail, now);
        assert!(quotas.wants_probe(Upstream::Gmail, now) && quotas.begin_probe(Upstream::Gmail, now));
        // Answered: it is over for all.
        quotas.answers(Upstream::Gmail);
        assert!(
            quotas.cool_down(Upstream::Gmail, now).is_zero() && !quotas.wants_probe(Upstream::Gmail, now)
        );
        // A short wait is believed whole, and nobody asks within.
        quotas.cool(Upstream::Drive, Some(Duration::from_secs(90)), now);
        now += quotas.cool_down(Upstream::Drive, now);
        assert!(!quotas.wants_probe(Upstream::Drive, now));
    }
}

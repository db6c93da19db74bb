//! What one client thread saw, and how the threads' views are put together.
//!
//! Invariants:
//! - A start that lies in the measured time is counted once as intended, and once as
//!   completed, failed or dropped: `intended == completed + errors + dropped` at the end.
//! - Latencies are kept in nanoseconds to three digits; those over a minute count as a
//!   minute, and how many they were is counted.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::timing::{Part, Spent};
use super::transport::{Failure, Handshake};

/// Latencies up to a minute, in nanoseconds.
pub(super) const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Kinds of failure and statuses told apart in one scenario.
const KINDS_MAX: usize = 64;

/// A histogram for whole runs.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_NS_MAX, 3).expect("constant bounds are valid")
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// One kind of request.
#[derive(Debug)]
pub(super) struct ScenarioOutcome {
    pub(super) corrected: Histogram<u64>,
    pub(super) uncorrected: Histogram<u64>,
    /// Where the server says the time went, of the answers that say so: a histogram for each of [`Part::ALL`], or none.
    pub(super) spent: Vec<Histogram<u64>>,
    /// Of the same answers: the corrected latency less what the server waited for others.
    pub(super) beside_upstream: Histogram<u64>,
    pub(super) errors: u64,
    pub(super) statuses: BTreeMap<u16, u64>,
    pub(super) failures: BTreeMap<&'static str, u64>,
}

impl Default for ScenarioOutcome {
    fn default() -> Self {
        Self {
            corrected: histogram(),
            uncorrected: histogram(),
            spent: Vec::new(),
            beside_upstream: histogram(),
            errors: 0,
            statuses: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }
}

impl ScenarioOutcome {
    /// A histogram for each part, from the first answer on that tells of them.
    fn spent(&mut self) -> &mut [Histogram<u64>] {
        if self.spent.is_empty() {
            self.spent = Part::ALL.map(|_| histogram()).into();
        }
        &mut self.spent
    }
}

/// One kind of handshake.
#[derive(Debug)]
pub(super) struct HandshakeOutcome {
    pub(super) count: u64,
    pub(super) failed: u64,
    pub(super) fallbacks: u64,
    pub(super) connect: Histogram<u64>,
    pub(super) first_answer: Histogram<u64>,
}

impl Default for HandshakeOutcome {
    fn default() -> Self {
        Self { count: 0, failed: 0, fallbacks: 0, connect: histogram(), first_answer: histogram() }
    }
}

/// Everything measured; of a thread, or of all.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) intended: u64,
    pub(super) started: u64,
    pub(super) dropped: u64,
    /// Completed within the measured time, whenever they started.
    pub(super) completed_in_time: u64,
    /// Latencies over [`LATENCY_NS_MAX`].
    pub(super) saturated: u64,
    pub(super) scenarios: Vec<ScenarioOutcome>,
    /// In the order of [`Handshake::ALL`].
    pub(super) handshakes: [HandshakeOutcome; 3],
    /// From a start's time to when the client got to it.
    pub(super) lag: Histogram<u64>,
    pub(super) first_error: Option<String>,
    /// CPU time of the threads in the measured time, without waiting in a spin.
    pub(super) client_cpu: Duration,
}

impl Outcome {
    pub(super) fn new(scenarios: usize) -> Self {
        Self {
            intended: 0,
            started: 0,
            dropped: 0,
            completed_in_time: 0,
            saturated: 0,
            scenarios: (0..scenarios).map(|_| ScenarioOutcome::default()).collect(),
            handshakes: std::array::from_fn(|_| HandshakeOutcome::default()),
            lag: histogram(),
            first_error: None,
            client_cpu: Duration::ZERO,
        }
    }

    pub(super) fn completed(&self) -> u64 {
        self.scenarios.iter().map(|scenario| scenario.corrected.len()).sum()
    }

    pub(super) fn errors(&self) -> u64 {
        self.scenarios.iter().map(|scenario| scenario.errors).sum()
    }

    pub(super) fn connections(&self) -> u64 {
        self.handshakes.iter().map(|handshake| handshake.count).sum()
    }

    /// Corrected and uncorrected latency over all scenarios.
    pub(super) fn latencies(&self) -> (Histogram<u64>, Histogram<u64>) {
        let (mut corrected, mut uncorrected) = (histogram(), histogram());
        for scenario in &self.scenarios {
            add(&mut corrected, &scenario.corrected);
            add(&mut uncorrected, &scenario.uncorrected);
        }
        (corrected, uncorrected)
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.intended += other.intended;
        self.started += other.started;
        self.dropped += other.dropped;
        self.completed_in_time += other.completed_in_time;
        self.saturated += other.saturated;
        self.client_cpu += other.client_cpu;
        add(&mut self.lag, &other.lag);
        for (ours, theirs) in self.scenarios.iter_mut().zip(other.scenarios) {
            add(&mut ours.corrected, &theirs.corrected);
            add(&mut ours.uncorrected, &theirs.uncorrected);
            if !theirs.spent.is_empty() {
                ours.spent().iter_mut().zip(&theirs.spent).for_each(|(ours, theirs)| add(ours, theirs));
            }
            add(&mut ours.beside_upstream, &theirs.beside_upstream);
            ours.errors += theirs.errors;
            theirs.statuses.into_iter().for_each(|(status, count)| bump(&mut ours.statuses, status, count));
            theirs.failures.into_iter().for_each(|(kind, count)| bump(&mut ours.failures, kind, count));
        }
        for (ours, theirs) in self.handshakes.iter_mut().zip(other.handshakes) {
            ours.count += theirs.count;
            ours.failed += theirs.failed;
            ours.fallbacks += theirs.fallbacks;
            add(&mut ours.connect, &theirs.connect);
            add(&mut ours.first_answer, &theirs.first_answer);
        }
        self.first_error = self.first_error.take().or(other.first_error);
    }

    /// A request of the measured time was answered as expected.
    pub(super) fn complete(&mut self, scenario: usize, corrected: Duration, uncorrected: Duration) {
        self.saturated += u64::from(nanos(corrected) > LATENCY_NS_MAX);
        let scenario = &mut self.scenarios[scenario];
        scenario.corrected.saturating_record(nanos(corrected));
        scenario.uncorrected.saturating_record(nanos(uncorrected));
    }

    /// What the server said of the time of a request that was answered as expected.
    pub(super) fn note_spent(&mut self, scenario: usize, corrected: Duration, spent: Spent) {
        let scenario = &mut self.scenarios[scenario];
        for (histogram, part) in scenario.spent().iter_mut().zip(spent.parts) {
            histogram.saturating_record(nanos(part));
        }
        scenario.beside_upstream.saturating_record(nanos(corrected.saturating_sub(spent.others())));
    }

    /// A request of the measured time was not.
    pub(super) fn fail(&mut self, scenario: usize, failure: &Failure) {
        let scenario = &mut self.scenarios[scenario];
        scenario.errors += 1;
        // An unexpected status is counted among the statuses.
        if failure.kind != super::engine::STATUS {
            bump(&mut scenario.failures, failure.kind, 1);
        }
        self.first_error.get_or_insert_with(|| failure.detail.clone());
    }

    pub(super) fn note_status(&mut self, scenario: usize, status: u16) {
        bump(&mut self.scenarios[scenario].statuses, status, 1);
    }

    pub(super) fn handshake(&mut self, kind: Handshake) -> &mut HandshakeOutcome {
        &mut self.handshakes[kind as usize]
    }
}

impl HandshakeOutcome {
    pub(super) fn note_connect(&mut self, took: Duration) {
        self.connect.saturating_record(nanos(took));
    }

    pub(super) fn note_first_answer(&mut self, took: Duration) {
        self.first_answer.saturating_record(nanos(took));
    }
}

fn bump<K: Ord>(counts: &mut BTreeMap<K, u64>, key: K, by: u64) {
    if counts.len() < KINDS_MAX || counts.contains_key(&key) {
        *counts.entry(key).or_default() += by;
    }
}

fn add(to: &mut Histogram<u64>, from: &Histogram<u64>) {
    to.add(from).expect("same bounds");
}

/// What one thread did in one second, whatever part of the run it belongs to.
#[derive(Debug)]
pub(super) struct Slice {
    /// Seconds since measuring began; negative while warming up.
    pub(super) at_s: i64,
    pub(super) intended: u64,
    pub(super) completed: u64,
    pub(super) errors: u64,
    pub(super) dropped: u64,
    /// Corrected latency to two digits: a chart needs no more.
    pub(super) latency: Histogram<u64>,
}

impl Slice {
    pub(super) fn new(at_s: i64) -> Self {
        let latency = Histogram::new_with_max(LATENCY_NS_MAX, 2).expect("constant bounds are valid");
        Self { at_s, intended: 0, completed: 0, errors: 0, dropped: 0, latency }
    }

    pub(super) fn complete(&mut self, corrected: Duration) {
        self.completed += 1;
        self.latency.saturating_record(nanos(corrected));
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.intended += other.intended;
        self.completed += other.completed;
        self.errors += other.errors;
        self.dropped += other.dropped;
        add(&mut self.latency, &other.latency);
    }
}

pub(super) fn lag_of(outcome: &mut Outcome, lag: Duration) {
    outcome.lag.saturating_record(nanos(lag));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_add_up() {
        let mut all = Outcome::new(2);
        for scenario in 0..2 {
            let mut one = Outcome::new(2);
            one.intended = 3;
            one.complete(scenario, Duration::from_millis(2), Duration::from_millis(1));
            one.note_status(scenario, 200);
            one.fail(scenario, &Failure::new("timeout", "too slow"));
            one.dropped = 1;
            one.handshake(Handshake::Resumed).count += 1;
            all.merge(one);
        }
        assert_eq!((all.intended, all.completed(), all.errors(), all.dropped), (6, 2, 2, 2));
        assert_eq!(all.connections(), 2);
        assert_eq!(all.scenarios[1].failures["timeout"], 1);
        assert_eq!(all.first_error.as_deref(), Some("too slow"));
        let (corrected, uncorrected) = all.latencies();
        assert!(corrected.min() > uncorrected.max());
    }

    #[test]
    fn what_the_server_tells_adds_up_over_threads_that_were_told_something() {
        let mut spent = Spent::default();
        assert!(spent.add("own;dur=1, google;dur=20, turn;dur=5"));
        let mut told = Outcome::new(1);
        told.note_spent(0, Duration::from_millis(30), spent);
        let mut all = Outcome::new(1);
        all.merge(Outcome::new(1));
        assert!(all.scenarios[0].spent.is_empty());
        all.merge(told);
        all.merge(Outcome::new(1));
        let scenario = &all.scenarios[0];
        let max_ms = |part: Part| scenario.spent[part as usize].max() / 1_000_000;
        assert_eq!([Part::Own, Part::Google, Part::Turn, Part::Quota].map(max_ms), [1, 20, 5, 0]);
        assert_eq!(scenario.beside_upstream.max() / 1_000_000, 5);
    }

    #[test]
    fn latencies_over_the_range_count_as_its_end_and_are_counted() {
        let mut outcome = Outcome::new(1);
        outcome.complete(0, Duration::from_secs(3_600), Duration::from_secs(1));
        assert_eq!((outcome.saturated, outcome.completed()), (1, 1));
        assert!(outcome.scenarios[0].corrected.max() >= LATENCY_NS_MAX);
    }
}

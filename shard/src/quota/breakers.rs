//! The breakers of one upstream: one for each operation, and one for all reads and one for all changes. Pure.
//!
//! An operation that fails is left alone by itself, while the others go on. When different operations of a class fail one
//! after another and nothing succeeds between, it is not the operation that is in trouble: then all of the class is left
//! alone, and what is asked for seldom need not fail ten times to be told so.
//!
//! Invariant: at most [`OPERATIONS_MAX`] operations are told apart; others have the breaker of their class alone.

use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::Class;
use super::breaker::{Breaker, BreakerConfig, BreakerState, Leave, Verdict};
use super::hedge::{OPERATIONS_MAX, Operation};

/// Failures in a row of a whole class.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    failures: u32,
    first: Option<Operation>,
    /// Whether they were of more than one operation.
    is_mixed: bool,
}

impl Row {
    fn add(&mut self, operation: Operation) {
        self.failures = self.failures.saturating_add(1);
        self.is_mixed |= *self.first.get_or_insert(operation) != operation;
    }
}

/// The leave to make a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaves {
    class: Leave,
    operation: Option<Leave>,
}

/// See the module.
pub(crate) struct Breakers {
    config: BreakerConfig,
    classes: [Breaker; 2],
    rows: [Row; 2],
    operations: HashMap<(bool, Operation), Breaker, RandomState>,
    epoch: Instant,
}

const fn key(class: Class, operation: Operation) -> (bool, Operation) {
    (matches!(class, Class::Write), operation)
}

impl Breakers {
    pub(crate) fn new(config: BreakerConfig, now: Instant) -> Self {
        // What makes a row long enough is decided here, and a share says nothing: one operation may be most of the calls.
        let of_class = BreakerConfig { failures_in_a_row: 1, calls_min: u32::MAX, ..config };
        Self {
            config,
            classes: [(); 2].map(|()| Breaker::new(of_class, now)),
            rows: [Row::default(); 2],
            operations: HashMap::default(),
            epoch: now,
        }
    }

    /// How long it lets no such call through yet; `None` when one may be tried.
    pub(crate) fn closed_for(&self, class: Class, operation: Operation, now: Instant) -> Option<Duration> {
        let own = self.operations.get(&key(class, operation)).and_then(|breaker| breaker.closed_for(now));
        own.max(self.classes[class as usize].closed_for(now))
    }

    /// Whether nothing is known against such a call.
    pub(crate) fn is_closed(&self, class: Class, operation: Operation) -> bool {
        let own = self.operations.get(&key(class, operation));
        own.is_none_or(|breaker| breaker.state() == BreakerState::Closed)
            && self.classes[class as usize].state() == BreakerState::Closed
    }

    /// Lets a call through, or says how long to wait before asking again.
    pub(crate) fn begin(
        &mut self,
        class: Class,
        operation: Operation,
        now: Instant,
    ) -> Result<Leaves, Duration> {
        let of_class = self.classes[class as usize].begin(now)?;
        let own = match self.own(class, operation) {
            Some(breaker) => breaker.begin(now).map(Some),
            None => Ok(None),
        };
        match own {
            Ok(operation) => Ok(Leaves { class: of_class, operation }),
            Err(wait) => {
                self.classes[class as usize].end(of_class, Verdict::Nothing, now);
                Err(wait)
            }
        }
    }

    fn own(&mut self, class: Class, operation: Operation) -> Option<&mut Breaker> {
        let key = key(class, operation);
        if self.operations.len() >= OPERATIONS_MAX && !self.operations.contains_key(&key) {
            return None;
        }
        let (config, epoch) = (self.config, self.epoch);
        Some(self.operations.entry(key).or_insert_with(|| Breaker::new(config, epoch)))
    }

    /// A call that was let through ended.
    pub(crate) fn end(
        &mut self,
        (class, operation): (Class, Operation),
        leaves: Leaves,
        verdict: Verdict,
        now: Instant,
    ) {
        if let Some(leave) = leaves.operation
            && let Some(breaker) = self.operations.get_mut(&key(class, operation))
        {
            breaker.end(leave, verdict, now);
        }
        let (row, breaker) = (&mut self.rows[class as usize], &mut self.classes[class as usize]);
        match verdict {
            Verdict::Nothing => {}
            Verdict::Good => *row = Row::default(),
            Verdict::Bad => row.add(operation),
        }
        let is_enough = row.is_mixed && row.failures >= self.config.failures_in_a_row;
        let told = if verdict == Verdict::Bad && !leaves.class.is_probe() && !is_enough {
            Verdict::Nothing
        } else {
            verdict
        };
        let opened = breaker.opened();
        breaker.end(leaves.class, told, now);
        if breaker.opened() > opened {
            *row = Row::default();
        }
    }

    /// How the worst breaker of a class stands; one whose time is over waits to be tried.
    pub(crate) fn state(&self, class: Class, now: Instant) -> BreakerState {
        let state = |breaker: &Breaker| match breaker.state() {
            BreakerState::Open if breaker.closed_for(now).is_none() => BreakerState::HalfOpen,
            state => state,
        };
        let all = self.of(class).map(state);
        all.max().unwrap_or(BreakerState::Closed)
    }

    /// How often breakers of a class opened.
    pub(crate) fn opened(&self, class: Class) -> u64 {
        self.of(class).map(Breaker::opened).sum()
    }

    fn of(&self, class: Class) -> impl Iterator<Item = &Breaker> {
        let is_write = matches!(class, Class::Write);
        let own = self.operations.iter().filter(move |((write, _), _)| *write == is_write);
        own.map(|(_, breaker)| breaker).chain([&self.classes[class as usize]])
    }
}

#[cfg(test)]
mod tests {
    use sluice_protocols::google::gmail;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn list() -> Operation {
        Operation::of(&gmail::list_messages("a", 1))
    }

    fn get() -> Operation {
        Operation::of(&gmail::get_message("a", gmail::Format::Full))
    }

    fn call(breakers: &mut Breakers, operation: Operation, verdict: Verdict, now: Instant) -> bool {
        let Ok(leaves) = breakers.begin(Class::Read, operation, now) else { return false };
        breakers.end((Class::Read, operation), leaves, verdict, now);
        true
    }

    #[test]
    fn an_operation_that_fails_is_left_alone_by_itself() {
        let now = Instant::now();
        let mut breakers = Breakers::new(BreakerConfig::default(), now);
        for _ in 0..10 {
            assert!(call(&mut breakers, list(), Verdict::Bad, now));
        }
        assert!(!call(&mut breakers, list(), Verdict::Bad, now));
        assert_eq!(breakers.closed_for(Class::Read, list(), now), Some(2 * SECOND));
        assert!(call(&mut breakers, get(), Verdict::Good, now));
        assert!(breakers.closed_for(Class::Write, list(), now).is_none());
        let states = (breakers.state(Class::Read, now), breakers.state(Class::Write, now));
        assert_eq!(states, (BreakerState::Open, BreakerState::Closed));
        assert_eq!(breakers.state(Class::Read, now + 2 * SECOND), BreakerState::HalfOpen);
        assert_eq!((breakers.opened(Class::Read), breakers.opened(Class::Write)), (1, 0));
        assert!(breakers.is_closed(Class::Read, get()) && !breakers.is_closed(Class::Read, list()));
    }

    #[test]
    fn when_different_operations_fail_in_a_row_all_are_left_alone_and_any_that_works_heals_them() {
        let mut now = Instant::now();
        let mut breakers = Breakers::new(BreakerConfig::default(), now);
        for _ in 0..5 {
            assert!(call(&mut breakers, list(), Verdict::Bad, now));
            assert!(call(&mut breakers, get(), Verdict::Bad, now));
        }
        let third = Operation::of(&gmail::list_labels());
        assert!(!call(&mut breakers, third, Verdict::Good, now));
        now += 2 * SECOND;
        assert!(
            call(&mut breakers, third, Verdict::Good, now) && call(&mut breakers, third, Verdict::Good, now)
        );
        // Neither of the two had failed often enough by itself.
        assert!(breakers.is_closed(Class::Read, list()) && breakers.is_closed(Class::Read, get()));
    }

    #[test]
    fn a_success_between_ends_the_row() {
        let now = Instant::now();
        let mut breakers = Breakers::new(BreakerConfig::default(), now);
        for _ in 0..4 {
            for verdict in [Verdict::Bad, Verdict::Good] {
                assert!(
                    call(&mut breakers, list(), verdict, now) && call(&mut breakers, get(), verdict, now)
                );
            }
        }
        assert_eq!(breakers.state(Class::Read, now), BreakerState::Closed);
    }

    #[test]
    fn beyond_the_bound_operations_share_the_breaker_of_their_class() {
        let now = Instant::now();
        let mut breakers = Breakers::new(BreakerConfig::default(), now);
        for number in 0..1_000 {
            assert!(call(&mut breakers, Operation::numbered(number), Verdict::Good, now));
        }
        assert_eq!(breakers.operations.len(), OPERATIONS_MAX);
    }
}

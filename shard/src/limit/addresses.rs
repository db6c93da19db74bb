//! The buckets of addresses, which all cores take from: rows of atomic words, and no lock.
//!
//! An address may come in on any core, so its bucket is shared. It is taken from in the place itself, by one
//! compare-and-swap for each request that is admitted, and by loads alone for one that is refused. So the words of an
//! address are written as often as its limit lets requests in, a hundred times a second by default, however many come on
//! however many cores: shares held by the cores would save nothing there, and would have to be wrong by what they hold.
//!
//! How exact that is: each bucket is the exact one ([`super::Rate`]) of the requests in the order of their swaps. The
//! cores read their clocks once a turn, so that order may be off by a turn, which is a clock that goes back: harmless.
//! What is left is a row that changes its owner while another core is about to take from it, or two cores that give one
//! address a row each: a request then counts for the wrong address, one for each core at most, each time an address
//! comes that has no row.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use sluice_net::Network;

use super::gcra::Short;
use super::{Pair, RatePair, Window};

/// Rows of a set.
const WAYS: usize = 8;
/// Sets in which the row of an address may be.
const CHOICES: usize = 2;

struct Row {
    owner: AtomicU64,
    /// When the buckets of the minute and of the hour are full again.
    full_at: [AtomicU64; 2],
}

/// Buckets of addresses. See the module.
pub struct Addresses {
    rows: Box<[Row]>,
    sets: usize,
    used: AtomicUsize,
    rates: RatePair,
    hasher: foldhash::fast::RandomState,
}

/// What became of taking from the buckets of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was taken, and these are the states now.
    Yes(Pair),
    /// No row is free: it is not counted.
    Untracked,
}

impl Addresses {
    /// Room for `rows` addresses: the next power of two; none where there is no limit.
    pub(crate) fn new(rows: usize, rates: RatePair) -> Self {
        let rows = if rates.is_none() { 0 } else { rows.next_power_of_two().max(CHOICES * WAYS) };
        let row = |_| Row { owner: AtomicU64::new(0), full_at: [AtomicU64::new(0), AtomicU64::new(0)] };
        Self {
            rows: (0..rows).map(row).collect(),
            sets: rows / WAYS,
            used: AtomicUsize::new(0),
            rates,
            hasher: foldhash::fast::RandomState::default(),
        }
    }

    /// The limits.
    pub fn rates(&self) -> RatePair {
        self.rates
    }

    /// Rows that were ever given out.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Takes one request out of both buckets, or out of none.
    ///
    /// # Errors
    /// Which of them is short, and until when.
    pub fn take(&self, who: Network, now_ns: u64) -> Result<Taken, (Window, Short)> {
        if self.rates.is_none() {
            return Ok(Taken::Untracked);
        }
        let Some(row) = self.row(who, now_ns) else { return Ok(Taken::Untracked) };
        // Most that are refused are told so by loads alone.
        self.rates.take([row.full_at[0].load(Relaxed), row.full_at[1].load(Relaxed)], now_ns, 1)?;
        let mut pair = [0; 2];
        for (window, rate) in self.rates.each() {
            let cell = &row.full_at[window as usize];
            let mut short = None;
            let taken = cell.fetch_update(Relaxed, Relaxed, |full_at| {
                rate.take(full_at, now_ns, 1).map_err(|error| short = Some(error)).ok()
            });
            match (taken, short) {
                (Ok(before), _) => pair[window as usize] = before.max(now_ns) + rate.interval_ns(),
                (Err(_), short) => {
                    // Another core was quicker, in the second bucket.
                    if let (Window::Hour, Some(minute)) = (window, self.rates.minute) {
                        let given = |full_at| Some(minute.give_back(full_at, 1));
                        let _always = row.full_at[0].fetch_update(Relaxed, Relaxed, given);
                    }
                    return Err((
                        window,
                        short.unwrap_or_else(|| Short { wait_ns: Some(rate.interval_ns()) }),
                    ));
                }
            }
        }
        Ok(Taken::Yes(pair))
    }

    /// Whether one could be taken now. Loads alone, and no row is given out.
    ///
    /// # Errors
    /// As those of [`Self::take`].
    pub fn check(&self, who: Network, now_ns: u64) -> Result<(), (Window, Short)> {
        if self.rates.is_none() {
            return Ok(());
        }
        let Some(row) = self.find(who) else { return Ok(()) };
        self.rates.take([row.full_at[0].load(Relaxed), row.full_at[1].load(Relaxed)], now_ns, 1).map(drop)
    }

    fn find(&self, who: Network) -> Option<&Row> {
        self.sets_of(who).into_iter().find_map(|set| self.find_in(set, who))
    }

    fn row(&self, who: Network, now_ns: u64) -> Option<&Row> {
        if let Some(found) = self.find(who) {
            return Some(found);
        }
        let sets = self.sets_of(who);
        let rooms = sets.map(|set| self.open_in(set, now_ns).count());
        let order = if rooms[1] > rooms[0] { [sets[1], sets[0]] } else { sets };
        order.into_iter().flat_map(|set| self.open_in(set, now_ns)).find_map(|(row, owner)| {
            // Both buckets of the row are full, so its states are those of a newcomer as they are.
            row.owner.compare_exchange(owner, who.to_bits(), Relaxed, Relaxed).ok()?;
            self.used.fetch_add(usize::from(owner == 0), Relaxed);
            Some(row)
        })
    }

    fn sets_of(&self, who: Network) -> [usize; CHOICES] {
        let hash = self.hasher.hash_one(who.to_bits());
        #[allow(clippy::cast_possible_truncation, reason = "either half of the hash picks a set by itself")]
        let (low, high) = (hash as u32 as usize, (hash >> 32) as usize);
        [low & (self.sets - 1), high & (self.sets - 1)]
    }

    fn set(&self, set: usize) -> &[Row] {
        &self.rows[set * WAYS..(set + 1) * WAYS]
    }

    fn find_in(&self, set: usize, who: Network) -> Option<&Row> {
        self.set(set).iter().find(|row| row.owner.load(Relaxed) == who.to_bits())
    }

    /// Rows of a set that may be given out, with whom they belong to now.
    fn open_in(&self, set: usize, now_ns: u64) -> impl Iterator<Item = (&Row, u64)> {
        self.set(set).iter().filter_map(move |row| {
            let owner = row.owner.load(Relaxed);
            let is_full = row.full_at.iter().all(|full_at| full_at.load(Relaxed) <= now_ns);
            (owner == 0 || is_full).then_some((row, owner))
        })
    }
}

impl std::fmt::Debug for Addresses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Addresses")
            .field("rows", &self.rows.len())
            .field("rates", &self.rates)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    fn who(text: &str) -> Network {
        Network::of(text.parse().unwrap())
    }

    #[test]
    fn both_buckets_are_taken_from_or_none() {
        let addresses = Addresses::new(16, RatePair::new(3, 4));
        let (a, b) = (who("192.0.2.1"), who("192.0.2.2"));
        for _ in 0..3 {
            assert!(addresses.take(a, 0).is_ok());
        }
        let refused = addresses.take(a, 0);
        assert_eq!(refused, Err((Window::Minute, Short { wait_ns: Some(20_000_000_000) })));
        assert!(addresses.take(b, 0).is_ok(), "another address is not concerned");
        // The hour had four, and a minute does not bring them back.
        assert!(addresses.take(a, 60_000_000_000).is_ok());
        let state = || addresses.find(a).unwrap().full_at.each_ref().map(|full_at| full_at.load(Relaxed));
        let before = state();
        let checked = addresses.check(a, 60_000_000_000);
        let (window, short) = addresses.take(a, 60_000_000_000).unwrap_err();
        assert_eq!((window, short.wait_ns), (Window::Hour, Some(840_000_000_000)));
        assert_eq!(checked, Err((window, short)));
        // What the hour refused was not taken from the minute.
        assert_eq!(state(), before);
        // A look takes nothing, nor a row.
        assert_eq!((addresses.check(a, 900_000_000_000), addresses.check(b, 0)), (Ok(()), Ok(())));
        assert_eq!((state(), addresses.check(who("192.0.2.3"), 0)), (before, Ok(())));
        assert_eq!(addresses.used(), 2);
    }

    #[test]
    fn addresses_without_a_row_are_let_in_uncounted_and_rows_come_free_by_themselves() {
        let addresses = Addresses::new(16, RatePair::new(1, 0));
        let outcomes: Vec<_> =
            (0..64u8).map(|last| addresses.take(Network::of([192, 0, 2, last].into()), 0).unwrap()).collect();
        let untracked = outcomes.iter().filter(|taken| **taken == Taken::Untracked).count();
        assert!((48..64).contains(&untracked) && addresses.used() == 64 - untracked, "{untracked}");
        let later = addresses.take(who("198.51.100.1"), 60_000_000_000).unwrap();
        assert!(matches!(later, Taken::Yes(_)));
        let off = Addresses::new(16, RatePair::new(0, 0));
        assert_eq!((off.take(who("192.0.2.1"), 0), off.rows.len()), (Ok(Taken::Untracked), 0));
    }

    #[test]
    fn threads_together_admit_what_the_model_admits() {
        const THREADS: u8 = 4;
        const ROUNDS: u64 = 2_000;
        let addresses = Addresses::new(64, RatePair::new(1_000, 0));
        let barrier = Barrier::new(usize::from(THREADS));
        let visitor = who("203.0.113.9");
        // It has its row before they start: two that come first at once may each make one, see the module.
        let first = u64::from(addresses.take(visitor, 0).is_ok());
        // Each round is a moment of its own for all threads, so that the model knows what it admits.
        let admitted: u64 = thread::scope(|scope| {
            let work = |thread: u64| {
                let (addresses, barrier) = (&addresses, &barrier);
                scope.spawn(move || {
                    let mut admitted = 0;
                    for round in 0..ROUNDS {
                        barrier.wait();
                        let tries = 1 + (round + thread) % 3;
                        let taken =
                            (0..tries).filter(|_| addresses.take(visitor, round * 30_000_000).is_ok());
                        admitted += taken.count() as u64;
                        barrier.wait();
                    }
                    admitted
                })
            };
            let all: Vec<_> = (0..u64::from(THREADS)).map(work).collect();
            all.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        let rate = RatePair::new(1_000, 0).minute.unwrap();
        let (mut full_at, mut model) = (rate.take(0, 0, 1).unwrap(), 1);
        for round in 0..ROUNDS {
            let tries: u64 = (0..u64::from(THREADS)).map(|thread| 1 + (round + thread) % 3).sum();
            for _ in 0..tries {
                if let Ok(taken) = rate.take(full_at, round * 30_000_000, 1) {
                    (full_at, model) = (taken, model + 1);
                }
            }
        }
        assert_eq!(first + admitted, model);
        assert!(model < ROUNDS * u64::from(THREADS), "the limit was felt");
    }
}

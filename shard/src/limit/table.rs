//! The buckets of many, in a table whose size is fixed when it is made.
//!
//! A row is a key and two states ([`super::Rate`]): of the minute and of the hour. It may stand in one of two sets of
//! eight, which its hash picks, and goes where there is more room; so a table can be filled to seven tenths before
//! anybody finds no place, nothing is ever moved, and no request pays for the growth of a table. Memory that was never
//! written to is not there: the rows are zeros until then.
//!
//! Invariants:
//! - a row is given to another only when both its buckets are full, by the caller's clock, and nothing is used beyond them: a
//!   bucket that is full again is the same as none, so nothing is forgotten;
//! - a key has at most one row.

use std::hash::BuildHasher;

use hashbrown::HashMap;

use super::RatePair;

/// Rows of a set. Keys of 16 bytes fill two lines of cache.
const WAYS: usize = 8;
/// Set in the second state of a row that is marked; moments stay below it for 292 years.
const MARK: u64 = 1 << 63;

/// Set in the first state of a row whose buckets are of other rates than most: their counts stand beside it.
const OWN: u64 = 1 << 63;

/// States of the minute and of the hour: when each bucket is full again, in nanoseconds.
pub(crate) type Pair = [u64; 2];

/// A table for keys of `K` words.
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Table<const K: usize> {
    keys: Vec<[u64; K]>,
    pairs: Vec<Pair>,
    /// The counts of rows with [`OWN`], by minute and hour; nothing of the others.
    counts: Vec<[u32; 2]>,
    /// What is used beyond the buckets of a row, whose limit was lowered, in the time that it takes to come back once they are
    /// full. At most one of each row; there are as many as limits were lowered in the last while.
    over: HashMap<usize, Pair, foldhash::fast::RandomState>,
    sets: usize,
    used: usize,
    /// Seeded by chance, so that nobody outside can make keys meet in one set.
    hasher: foldhash::fast::RandomState,
}

/// Where a row stands, until another is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowIndex(usize);

impl<const K: usize> Table<K> {
    /// A table of at least `rows` rows: the next power of two, and two sets at least.
    pub(crate) fn new(rows: usize) -> Self {
        let rows = rows.next_power_of_two().max(2 * WAYS);
        Self {
            keys: vec![[0; K]; rows],
            pairs: vec![[0; 2]; rows],
            counts: vec![[0; 2]; rows],
            over: HashMap::default(),
            sets: rows / WAYS,
            used: 0,
            hasher: foldhash::fast::RandomState::default(),
        }
    }

    /// Rows that were ever given out: those of buckets that are full again are among them until they are needed.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Rows there are.
    #[cfg(test)]
    fn rows(&self) -> usize {
        self.keys.len()
    }

    /// The row of a key, if it has one.
    pub(crate) fn find(&self, key: [u64; K]) -> Option<RowIndex> {
        let key = taken_key(key);
        self.sets_of(key).into_iter().find_map(|set| self.find_in(set, key))
    }

    /// The row of a key; a new one has full buckets. `None` when no row of its sets is free or full again.
    pub(crate) fn place(&mut self, key: [u64; K], now_ns: u64) -> Option<RowIndex> {
        let key = taken_key(key);
        let sets = self.sets_of(key);
        if let Some(found) = sets.into_iter().find_map(|set| self.find_in(set, key)) {
            return Some(found);
        }
        let [first, second] = sets.map(|set| self.room(set, now_ns));
        let (_, row) = if second.0 > first.0 { second } else { first };
        let row = row?;
        self.used += usize::from(self.keys[row] == [0; K]);
        self.keys[row] = key;
        self.pairs[row] = [0; 2];
        self.over.remove(&row);
        Some(RowIndex(row))
    }

    /// The states of a row.
    pub(crate) fn get(&self, row: RowIndex) -> Pair {
        let [minute, hour] = self.pairs[row.0];
        [minute & !OWN, hour & !MARK]
    }

    /// Sets the states of a row; a mark stays.
    pub(crate) fn set(&mut self, row: RowIndex, pair: Pair) {
        let pair_of = &mut self.pairs[row.0];
        *pair_of = [pair[0] | (pair_of[0] & OWN), pair[1] | (pair_of[1] & MARK)];
    }

    /// The rates that a row's states are of, where most are of `common`.
    pub(crate) fn rates(&self, row: RowIndex, common: RatePair) -> RatePair {
        if self.pairs[row.0][0] & OWN == 0 {
            return common;
        }
        let [minute, hour] = self.counts[row.0];
        RatePair::new(minute, hour)
    }

    /// The states of a row as buckets of `rates`, which they are from now on; most are of `common`.
    pub(crate) fn get_under(
        &mut self,
        row: RowIndex,
        rates: RatePair,
        common: RatePair,
        now_ns: u64,
    ) -> Pair {
        let (before, pair) = (self.rates(row, common), self.get(row));
        let over = self.over(row, now_ns);
        let (pair, over) = match (before == rates, over) {
            (true, None) => return pair,
            // What came back of it until now is not to come back again.
            (true, Some(over)) => (pair.map(|full_at| full_at.max(now_ns)), over),
            (false, over) => rates.take_over(before, pair, over.unwrap_or_default(), now_ns),
        };
        self.put_under(row, rates, common, pair, over);
        pair
    }

    /// What is used beyond the buckets of a row.
    pub(crate) fn over(&self, row: RowIndex, now_ns: u64) -> Option<Pair> {
        // Most often there is nothing to be looked for.
        if self.over.is_empty() {
            return None;
        }
        let over = self.over.get(&row.0)?;
        let ([minute, hour], [minute_over, hour_over]) = (self.get(row), *over);
        // It begins to come back when the bucket is full.
        let left = |over: u64, full_at: u64| over.saturating_sub(now_ns.saturating_sub(full_at));
        Some([left(minute_over, minute), left(hour_over, hour)])
    }

    /// Sets the states of a row, of what rates they are, and what is used beyond them.
    pub(crate) fn put_under(
        &mut self,
        row: RowIndex,
        rates: RatePair,
        common: RatePair,
        pair: Pair,
        over: Pair,
    ) {
        self.set(row, pair);
        if over == [0; 2] {
            self.over.remove(&row.0);
        } else {
            self.over.insert(row.0, over);
        }
        if rates == common {
            self.pairs[row.0][0] &= !OWN;
        } else {
            self.pairs[row.0][0] |= OWN;
            self.counts[row.0] = rates.counts();
        }
    }

    /// Marks a row; says whether it was not marked.
    pub(crate) fn mark(&mut self, row: RowIndex) -> bool {
        let hour = &mut self.pairs[row.0][1];
        let is_new = *hour & MARK == 0;
        *hour |= MARK;
        is_new
    }

    /// Takes the mark away.
    pub(crate) fn unmark(&mut self, row: RowIndex) {
        self.pairs[row.0][1] &= !MARK;
    }

    fn sets_of(&self, key: [u64; K]) -> [usize; 2] {
        let hash = self.hasher.hash_one(key);
        #[allow(clippy::cast_possible_truncation, reason = "either half of the hash picks a set by itself")]
        let (low, high) = (hash as u32 as usize, (hash >> 32) as usize);
        // The number of sets is a power of two.
        [low & (self.sets - 1), high & (self.sets - 1)]
    }

    fn find_in(&self, set: usize, key: [u64; K]) -> Option<RowIndex> {
        let from = set * WAYS;
        let at = self.keys[from..from + WAYS].iter().position(|held| *held == key)?;
        Some(RowIndex(from + at))
    }

    /// How many rows of a set may be given out, and the first of them.
    fn room(&self, set: usize, now_ns: u64) -> (usize, Option<usize>) {
        let rows = set * WAYS..(set + 1) * WAYS;
        let mut is_open = rows.filter(|row| {
            let [minute, hour] = self.pairs[*row];
            let is_full = minute & !OWN <= now_ns && hour & !MARK <= now_ns;
            self.keys[*row] == [0; K]
                || (is_full && self.over(RowIndex(*row), now_ns).is_none_or(|over| over == [0; 2]))
        });
        let first = is_open.next();
        (usize::from(first.is_some()) + is_open.count(), first)
    }
}

/// A key of zeros would look like an empty row.
fn taken_key<const K: usize>(mut key: [u64; K]) -> [u64; K] {
    if key == [0; K] {
        key[0] = 1;
    }
    key
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_table_can_be_filled_to_six_tenths_and_says_when_it_is_full() {
        let mut table = Table::<2>::new(10_000);
        assert_eq!(table.rows(), 16_384);
        let mut placed = 0;
        for number in 0..16_384u64 {
            if let Some(row) = table.place([number, number], 0) {
                table.set(row, [1, 1]);
                placed += 1;
            }
            if number == 16_384 * 6 / 10 {
                assert_eq!(placed, number + 1, "nobody was left without a row so far");
            }
        }
        assert!(placed < 16_384 && table.used() as u64 == placed);
        // All of them are full again a nanosecond later.
        for number in 100_000..100_100u64 {
            assert!(table.place([number, 1], 1).is_some());
        }
    }

    #[test]
    fn the_key_of_zeros_is_a_key() {
        let mut table = Table::<1>::new(16);
        let row = table.place([0], 0).unwrap();
        table.set(row, [7, 9]);
        assert_eq!(table.find([0]), Some(row));
        assert_eq!((table.get(row), table.used()), ([7, 9], 1));
    }

    #[test]
    fn a_row_knows_of_what_rates_it_is_and_forgets_it_with_its_owner() {
        let (common, own) = (RatePair::new(100, 1_000), RatePair::new(300, 1_000));
        let mut table = Table::<1>::new(16);
        let row = table.place([5], 0).unwrap();
        assert!(table.mark(row));
        let second = 1_000_000_000;
        // All of a hundred are used; of three hundred that leaves two hundred, and of the hour nothing changes.
        table.set(row, [60 * second, 360 * second]);
        assert_eq!(table.get_under(row, common, common, 0), [60 * second, 360 * second]);
        assert_eq!(table.get_under(row, own, common, 0), [20 * second, 360 * second]);
        assert_eq!((table.rates(row, common), table.get(row)), (own, [20 * second, 360 * second]));
        table.set(row, [10 * second, 361 * second]);
        assert_eq!((table.rates(row, common), table.get(row)), (own, [10 * second, 361 * second]));
        assert!(!table.mark(row), "it is marked still");
        assert_eq!(table.get_under(row, common, common, 0), [30 * second, 361 * second]);
        assert_eq!(table.rates(row, common), common);
        // Where there was no limit nothing is used.
        table.put_under(row, RatePair::new(0, 7), common, [0, 9], [0, 0]);
        assert_eq!(table.get_under(row, RatePair::new(5, 0), common, 0), [0, 0]);
        // The next owner of the row has what all have.
        let next = (100..).find(|key| {
            let placed = table.place([*key], 1);
            placed.into_iter().for_each(|row| table.set(row, [2, 2]));
            placed == Some(row)
        });
        assert!(next.is_some() && table.rates(row, common) == common);
    }

    #[test]
    fn what_is_used_beyond_a_lower_limit_is_known_until_it_came_back() {
        let (high, low) = (RatePair::new(100, 0), RatePair::new(10, 0));
        let second = 1_000_000_000;
        let mut table = Table::<1>::new(16);
        let row = table.place([5], 0).unwrap();
        // All of a hundred are used: all of ten, and ninety beyond, which take 540 s to come back.
        table.set(row, [60 * second, 0]);
        assert_eq!(table.get_under(row, low, high, 0), [60 * second, 0]);
        assert_eq!(table.over(row, 60 * second), Some([540 * second, 0]));
        // One that is taken while the bucket is full holds up what comes back beyond it.
        let [minute, _] = table.get_under(row, low, high, 90 * second);
        table.set(row, [minute + 6 * second, 0]);
        assert_eq!(table.over(row, 96 * second), Some([510 * second, 0]));
        // Of the hundred those 85 are used that did not come back in 30 s.
        assert_eq!(table.get_under(row, high, high, 96 * second), [147 * second, 0]);
        assert_eq!(table.over(row, 96 * second), None);
        // The row is nobody else's before all came back.
        assert_eq!(table.get_under(row, low, high, 96 * second), [156 * second, 0]);
        let of_the_set = |table: &mut Table<1>, now: u64| {
            (100..400u64).any(|key| table.place([key], now).is_some_and(|placed| placed == row))
        };
        assert!(!of_the_set(&mut table.clone(), (606 - 1) * second));
        assert!(of_the_set(&mut table, 606 * second));
        assert_eq!(table.over(row, 606 * second), None, "the next owner has nothing of it");
    }

    #[test]
    fn a_mark_is_no_part_of_the_state() {
        let mut table = Table::<1>::new(16);
        let row = table.place([5], 0).unwrap();
        assert!(table.mark(row) && !table.mark(row));
        table.set(row, [3, 4]);
        assert_eq!(table.get(row), [3, 4]);
        assert!(!table.mark(row));
        table.unmark(row);
        assert!(table.mark(row));
    }

    proptest! {
        #[test]
        fn no_bucket_that_is_not_full_is_ever_forgotten(
            steps in proptest::collection::vec((1..60u64, 0..40u64, 0..5u64), 1..400),
        ) {
            let mut table = Table::<1>::new(32);
            let mut model: HashMap<u64, Pair> = HashMap::new();
            let mut now = 0;
            for (key, depth, wait) in steps {
                now += wait;
                model.retain(|_, pair| pair.iter().any(|full_at| *full_at > now));
                let Some(row) = table.place([key], now) else {
                    // Refused only to newcomers, and only where a set is full.
                    prop_assert!(!model.contains_key(&key) && model.len() >= WAYS);
                    continue;
                };
                let known = model.get(&key).copied().unwrap_or_default();
                let found = table.get(row);
                prop_assert!(found == known || (known == [0, 0] && found.iter().all(|at| *at <= now)));
                let pair = [now + depth, now + depth / 2];
                table.set(row, pair);
                model.insert(key, pair);
                for (key, pair) in &model {
                    if pair.iter().any(|at| *at > now) {
                        prop_assert_eq!(table.find([*key]).map(|row| table.get(row)), Some(*pair));
                    }
                }
            }
        }
    }
}

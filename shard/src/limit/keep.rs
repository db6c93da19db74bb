//! What users have used, over restarts.
//!
//! A user who has used some of their limits is written [`SAVE_AFTER`] later, once for all requests in between, and
//! everybody at the end of the process. Written is when the buckets will be full again, by the wall clock; it is read
//! when a key of the user is checked for the first time, within the longest window after the start: later nothing of
//! an earlier process counts any more.
//!
//! With it stands of what limits the buckets are, so that a limit that is raised in between is felt at once as well.
//!
//! What a process that is killed can give back to a user: what was used in the last [`SAVE_AFTER`] and a
//! [`SAVE_EVERY`], and less than [`WORTH_NS`] of each bucket, which is not worth a write. The bucket of the minute can
//! give back no more than it holds, a minute's worth. That of the hour gives at most what the minute let in since: by
//! default 100 at once and 10 in six seconds, and 13 that were not worth it; so a fifth more than a minute's worth.
//!
//! Bounds: the queue has as many places as the table has rows, and a user is in it once; [`SAVES_AT_ONCE_MAX`] are written
//! in a turn, and when more are due than that they wait, oldest first. What is late by that, or finds no place and waits for
//! the user's next request, is counted.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use sluice_protocols::ids::{ShardId, UserId};
use sluice_store::record::{LimitRecord, LimitStateRecord, encode};
use sluice_store::{Batch, Commit, CoreStore, Key, ReadError};

use super::gcra::OVER_NS_MAX;
use super::limiter::{Limiter, words};
use super::table::{Pair, RowIndex, Table};
use super::{Allowance, Rate, RatePair};
use crate::clock::Clock;

const MS_NS: u64 = 1_000_000;
const SECOND_NS: u64 = 1_000 * MS_NS;
/// From the first request that is not written yet to the write.
const SAVE_AFTER: Duration = Duration::from_secs(5);
/// From one look at what is due to the next.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Written later than this after it was due, a state is late.
const LATE_NS: u64 = 2 * SECOND_NS;
/// States written at once; 2,048 of 60 bytes or so are far below what a batch may hold.
const SAVES_AT_ONCE_MAX: usize = 2_048;
/// By minute and hour, how far from full a bucket must be to be written: an eighth of a minute, and as many requests of
/// the hour where that has ten times the minute's.
const WORTH_NS: Pair = [7_500_000_000, 45_000_000_000];
/// How long a bucket can take to fill.
const WINDOWS_NS: Pair = [60 * SECOND_NS, 3_600 * SECOND_NS];

/// A user's buckets.
struct State {
    pair: Pair,
    /// Of what counts they are.
    counts: [u32; 2],
    /// What is used beyond them.
    over: Pair,
}

/// Users whose state is not written yet, and when it is to be, oldest first.
#[derive(Debug)]
pub(super) struct Unsaved {
    queue: VecDeque<(UserId, u64)>,
    max: usize,
}

impl Unsaved {
    pub(super) fn new(max: usize) -> Self {
        Self { queue: VecDeque::new(), max }
    }

    /// Puts a user at the end; false when there is no place.
    pub(super) fn push(&mut self, user: UserId, now_ns: u64) -> bool {
        let has_place = self.queue.len() < self.max;
        if has_place {
            let after_ns = u64::try_from(SAVE_AFTER.as_nanos()).unwrap_or(u64::MAX >> 1);
            self.queue.push_back((user, now_ns + after_ns));
        }
        has_place
    }
}

impl Limiter {
    /// Whether there are states to be written and nobody does it.
    pub(crate) fn wants_saving(&self) -> bool {
        !self.is_saving.get() && !self.unsaved.borrow().queue.is_empty()
    }

    /// Writes states when they are due, until there are none.
    pub(crate) async fn keep_saved(self: Rc<Self>, store: CoreStore, clock: Clock) {
        if self.is_saving.replace(true) {
            return;
        }
        while !self.unsaved.borrow().queue.is_empty() {
            sluice_core::sleep(SAVE_EVERY).await;
            let now_ns = self.limits.ns(sluice_core::now());
            let due = self.due(now_ns, now_ns);
            self.save(due, now_ns, &store, &clock).await;
        }
        self.is_saving.set(false);
    }

    /// Writes all that is not written yet.
    pub(crate) async fn save_all(&self, store: &CoreStore, clock: &Clock) {
        let now_ns = self.limits.ns(sluice_core::now());
        let rounds = self.unsaved.borrow().queue.len().div_ceil(SAVES_AT_ONCE_MAX);
        for _ in 0..rounds {
            let due = self.due(u64::MAX, now_ns);
            self.save(due, now_ns, store, clock).await;
        }
    }

    /// Takes those from the queue that are due at `until_ns`, and gives what is worth to be written.
    fn due(&self, until_ns: u64, now_ns: u64) -> Vec<(UserId, State)> {
        let (mut unsaved, mut users) = (self.unsaved.borrow_mut(), self.users.borrow_mut());
        let mut found = Vec::new();
        for _ in 0..SAVES_AT_ONCE_MAX {
            let Some((user, due_ns)) = unsaved.queue.pop_front_if(|(_, due_ns)| *due_ns <= until_ns) else {
                break;
            };
            let Some(row) = users.find(words(user)) else { continue };
            users.unmark(row);
            let pair = users.get(row);
            let is_worth = |window: usize| pair[window].saturating_sub(now_ns) >= WORTH_NS[window];
            let over = users.over(row, now_ns).unwrap_or_default();
            if is_worth(0) || is_worth(1) || over != [0; 2] {
                self.stats.saves_late.add(u64::from(due_ns.saturating_add(LATE_NS) < now_ns));
                let counts = users.rates(row, self.allowance.rates).counts();
                found.push((user, State { pair, counts, over }));
            }
        }
        self.stats.unsaved.set(unsaved.queue.len() as u64);
        found
    }

    async fn save(&self, mut due: Vec<(UserId, State)>, now_ns: u64, store: &CoreStore, clock: &Clock) {
        let shards = store.store().shard_count();
        let now_ms = clock.unix_ms();
        due.sort_unstable_by_key(|(user, _)| ShardId::of(user, shards).index());
        let by_shard = due.chunk_by(|a, b| ShardId::of(&a.0, shards) == ShardId::of(&b.0, shards));
        let written: Vec<(&[(UserId, State)], Commit)> = by_shard
            .map(|users| {
                let mut batch = Batch::new(ShardId::of(&users[0].0, shards));
                for (user, State { pair, counts: [minute_count, hour_count], over }) in users {
                    let [minute_full_ms, hour_full_ms] = pair
                        .map(|full_at| now_ms.saturating_add(full_at.saturating_sub(now_ns).div_ceil(MS_NS)));
                    let [minute_over_ms, hour_over_ms] = over.map(|over| over.div_ceil(MS_NS));
                    let record = LimitStateRecord {
                        minute_full_ms,
                        hour_full_ms,
                        minute_count: *minute_count,
                        hour_count: *hour_count,
                        minute_over_ms,
                        hour_over_ms,
                    };
                    // Six numbers are never too large.
                    if let Ok(value) = encode(&record) {
                        batch.put(&Key::limit_state(user), value.as_bytes());
                    }
                }
                (users, store.commit(batch))
            })
            .collect();
        for (users, commit) in written {
            let count = users.len() as u64;
            match commit.await {
                Ok(_) => self.stats.saved.add(count),
                Err(error) => {
                    tracing::debug!(%error, count, "states of limits were not written");
                    self.stats.saves_failed.add(count);
                    self.put_back(users);
                }
            }
        }
    }

    /// Puts a user into the queue who is not there yet.
    pub(super) fn note_unsaved(&self, users: &mut Table<2>, row: RowIndex, user: UserId, now_ns: u64) {
        if !users.mark(row) {
            return;
        }
        let mut unsaved = self.unsaved.borrow_mut();
        if unsaved.push(user, now_ns) {
            self.stats.unsaved.set(unsaved.queue.len() as u64);
        } else {
            users.unmark(row);
            self.stats.saves_late.add(1);
        }
    }

    /// They are tried again with the next that come.
    fn put_back(&self, users: &[(UserId, State)]) {
        let mut table = self.users.borrow_mut();
        let now_ns = self.limits.ns(sluice_core::now());
        for (user, _) in users {
            if let Some(row) = table.find(words(*user)) {
                self.note_unsaved(&mut table, row, *user, now_ns);
            }
        }
    }

    /// What a user may do, and what an earlier process let them do already.
    pub(crate) async fn recall(
        &self,
        store: &CoreStore,
        clock: &Clock,
        shard: ShardId,
        user: UserId,
    ) -> Result<Rc<Allowance>, ReadError> {
        let allowance = self.allowance_of(store, shard, user).await?;
        // What is used beyond a limit that was lowered may take longer than any bucket; that is of users with limits of their own.
        let is_late = self.limits.ns(sluice_core::now()) > WINDOWS_NS[1];
        if allowance.rates.is_none() || (is_late && allowance.rates == self.allowance.rates) {
            return Ok(allowance);
        }
        let record = match store.load::<LimitStateRecord>(shard, &Key::limit_state(&user)).await {
            Ok(record) => record,
            // Without its state a user begins anew, which is better than not at all.
            Err(ReadError::Quarantined { .. }) => None,
            Err(error) => return Err(error),
        };
        if let Some(record) = record {
            self.restore(user, allowance.rates, &record.to_record(), clock.unix_ms());
        }
        Ok(allowance)
    }

    fn restore(&self, user: UserId, rates: RatePair, record: &LimitStateRecord, now_ms: u64) {
        let now_ns = self.limits.ns(sluice_core::now());
        let left_ns = |window: usize| {
            let full_ms = [record.minute_full_ms, record.hour_full_ms][window];
            // However far the wall clock was set back, nobody waits longer than a window.
            full_ms.saturating_sub(now_ms).saturating_mul(MS_NS).min(WINDOWS_NS[window])
        };
        let over_ns = |window: usize| {
            let full_ms = [record.minute_full_ms, record.hour_full_ms][window];
            let over_ms = [record.minute_over_ms, record.hour_over_ms][window];
            let left_ms = over_ms.saturating_sub(now_ms.saturating_sub(full_ms));
            left_ms.saturating_mul(MS_NS).min(OVER_NS_MAX)
        };
        if left_ns(0).max(left_ns(1)).max(over_ns(0)).max(over_ns(1)) == 0 {
            return;
        }
        let mut users = self.users.borrow_mut();
        // Who has a row was recalled before, by another key, and has used more since.
        if users.find(words(user)).is_some() {
            return;
        }
        let Some(row) = users.place(words(user), now_ns) else { return self.stats.untracked_users.add(1) };
        // Without a count it is of the limit that there is.
        let before = RatePair {
            minute: Rate::per_minute(record.minute_count).or(rates.minute),
            hour: Rate::per_hour(record.hour_count).or(rates.hour),
        };
        let (pair, over) = ([now_ns + left_ns(0), now_ns + left_ns(1)], [over_ns(0), over_ns(1)]);
        let (pair, over) = match before == rates {
            true => (pair, over),
            false => rates.take_over(before, pair, over, now_ns),
        };
        users.put_under(row, rates, self.allowance.rates, pair, over);
        self.stats.recalled.add(1);
    }

    async fn allowance_of(
        &self,
        store: &CoreStore,
        shard: ShardId,
        user: UserId,
    ) -> Result<Rc<Allowance>, ReadError> {
        let record = match store.load::<LimitRecord>(shard, &Key::limit(&user)).await {
            Ok(record) => record,
            Err(ReadError::Quarantined { .. }) => None,
            Err(error) => return Err(error),
        };
        let Some(record) = record else { return Ok(Rc::clone(&self.allowance)) };
        let own = record.to_record();
        let (rates, concurrent_max) = (self.allowance.rates, self.allowance.concurrent_max);
        let rates = RatePair {
            minute: own.per_minute.map_or(rates.minute, Rate::per_minute),
            hour: own.per_hour.map_or(rates.hour, Rate::per_hour),
        };
        Ok(Rc::new(Allowance::new(rates, own.concurrent_max.unwrap_or(concurrent_max))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sluice_protocols::ids::KeyId;

    use super::super::{Class, LimitConfig, Limits, Who};
    use super::*;

    fn who(allowance: &Allowance) -> Who<'_> {
        Who { user: UserId::from_bytes([1; 16]), key: KeyId::from_bytes([1; 8]), allowance }
    }

    #[test]
    fn what_is_used_beyond_a_lower_limit_is_written_though_nothing_more_is_let_in() {
        let config = LimitConfig { user: RatePair::new(100, 0), users_tracked_max: 64, ..LimitConfig::off() };
        let limiter = Limiter::new(Arc::new(Limits::new(config)), Arc::default());
        let (common, lowered) =
            (limiter.limits().allowance().clone(), Allowance::new(RatePair::new(10, 0), 0));
        for _ in 0..100 {
            assert!(limiter.check(who(&common), Class::Reads, 0));
        }
        assert_eq!(limiter.due(u64::MAX, 0).len(), 1);
        // Refused by what all have, nothing is new.
        assert!(!limiter.check(who(&common), Class::Reads, 0) && !limiter.wants_saving());
        assert!(!limiter.check(who(&lowered), Class::Reads, 0) && limiter.wants_saving());
        let due = limiter.due(u64::MAX, 0);
        let (_, state) = &due[0];
        assert_eq!((state.counts, state.over), ([10, 0], [540 * SECOND_NS, 0]));
    }
}

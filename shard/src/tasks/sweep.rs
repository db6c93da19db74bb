//! Throws away what has had its time: idempotency keys, and tasks that nobody confirmed.
//!
//! A key whose time is over is not believed whether or not it was swept; sweeping only frees its place.

use std::rc::Rc;
use std::time::Duration;

use sluice_protocols::ids::{ShardId, TaskId};
use sluice_store::record::IdempotencyRecord;
use sluice_store::{Batch, CommitError, Key, KeyRange, Kind, Value};

use super::queue::LaneId;
use super::{Idle, Phase, Tasks};

/// From one sweep to the next.
const SWEEP_EVERY: Duration = Duration::from_secs(10 * 60);
/// Keys read at once.
const PAGE_ROWS: usize = 256;

impl Tasks {
    /// Sweeps again and again, until the process ends.
    pub(crate) async fn keep_swept(self: Rc<Self>, shards: Vec<ShardId>) {
        while !self.is_draining.get() {
            self.sweep(&shards).await;
            sluice_core::sleep(SWEEP_EVERY).await;
        }
    }

    pub(super) async fn sweep(self: &Rc<Self>, shards: &[ShardId]) {
        for (lane, task) in self.never_confirmed() {
            let reason = "Cancelled, since it was not confirmed in time.";
            // One that fails is found again next time; one that was confirmed or cancelled meanwhile is left alone.
            drop(self.give_up(lane, task, Idle::Unconfirmed, Some(reason)).await);
        }
        for shard in shards {
            let mut next = Some(KeyRange::kind(Kind::Idempotency));
            while let Some(range) = next.take() {
                let Ok(page) = self.store.scan(*shard, range, PAGE_ROWS, false).await else { break };
                if self.sweep_keys(*shard, page.rows).await.is_err() {
                    break;
                }
                next = page.next;
            }
        }
    }

    /// Throws those of the keys away whose time is over, also by now: each is held while it is looked at again, for it may
    /// have been used anew since the rows were read. What is written of a key after that comes behind its removal.
    pub(super) async fn sweep_keys(
        &self,
        shard: ShardId,
        rows: Vec<(Key, Value)>,
    ) -> Result<(), CommitError> {
        let mut removals = Vec::new();
        for (key, value) in rows {
            let Ok(record) = self.store.validate::<IdempotencyRecord>(shard, &key, value) else { continue };
            if !self.is_forgotten(&record.to_record()) {
                continue;
            }
            // Whoever holds it writes it anew.
            let Some(held) = self.hold_key(key) else { continue };
            if let Ok(None) = self.remembered(shard, &held).await {
                let mut batch = Batch::new(shard);
                batch.delete(held.key());
                removals.push(self.store.commit(batch));
            }
        }
        for removal in removals {
            removal.await?;
        }
        Ok(())
    }

    fn never_confirmed(&self) -> Vec<(LaneId, TaskId)> {
        let life_ms = u64::try_from(self.unconfirmed_life.as_millis()).unwrap_or(u64::MAX);
        let now_ms = self.clock.unix_ms();
        let pending = self.pending.borrow();
        let over = pending.iter().filter(|(task, phase, _)| {
            *phase == Phase::Idle(Idle::Unconfirmed) && task.unix_ms().saturating_add(life_ms) <= now_ms
        });
        over.map(|(task, _, entry)| (entry.lane, *task)).collect()
    }
}

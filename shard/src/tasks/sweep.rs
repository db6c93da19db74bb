//! Throws away what has had its time: idempotency keys, and tasks that nobody confirmed.
//!
//! A key whose time is over is not believed whether or not it was swept; sweeping only frees its place.

use std::rc::Rc;
use std::time::Duration;

use sluice_protocols::ids::{ShardId, TaskId};
use sluice_store::record::IdempotencyRecord;
use sluice_store::{Batch, KeyRange, Kind};

use super::queue::LaneId;
use super::{Phase, Tasks};

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

    async fn sweep(self: &Rc<Self>, shards: &[ShardId]) {
        for (lane, task) in self.never_confirmed() {
            let answer = "Cancelled, since it was not confirmed in time.";
            // One that fails is found again next time.
            drop(self.give_up(lane, task, Phase::Unconfirmed, answer).await);
        }
        for shard in shards {
            let mut next = Some(KeyRange::kind(Kind::Idempotency));
            while let Some(range) = next.take() {
                let Ok(page) = self.store.scan(*shard, range, PAGE_ROWS, false).await else { break };
                let mut batch = Batch::new(*shard);
                for (key, value) in page.rows {
                    let Ok(record) = self.store.validate::<IdempotencyRecord>(*shard, &key, value) else {
                        continue;
                    };
                    if self.is_forgotten(&record.to_record()) {
                        batch.delete(&key);
                    }
                }
                if !batch.is_empty() && self.store.commit(batch).await.is_err() {
                    break;
                }
                next = page.next;
            }
        }
    }

    fn never_confirmed(&self) -> Vec<(LaneId, TaskId)> {
        let life_ms = u64::try_from(self.unconfirmed_life.as_millis()).unwrap_or(u64::MAX);
        let now_ms = self.clock.unix_ms();
        let pending = self.pending.borrow();
        let over = pending.iter().filter(|(task, entry)| {
            entry.phase == Phase::Unconfirmed && task.unix_ms().saturating_add(life_ms) <= now_ms
        });
        over.map(|(task, entry)| (entry.lane, *task)).collect()
    }
}

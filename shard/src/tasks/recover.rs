//! Takes up what an earlier process promised.

use std::rc::Rc;

use sluice_protocols::api::TaskState;
use sluice_protocols::ids::{SessionId, ShardId};
use sluice_store::record::TaskRecord;
use sluice_store::{Key, KeyRange, Kind, ReadError};

use super::complete::Backoff;
use super::queue::{Entry, LaneId};
use super::{Idle, Tasks};
use crate::mint::Mint;
use crate::run::codes;

/// Pending tasks read at once.
const PAGE_ROWS: usize = 128;

/// A pending task on disk: what is needed to queue it. Its record is read when its turn comes.
struct Promised {
    shard: ShardId,
    lane: LaneId,
    entry: Entry,
    idle: Idle,
}

impl Tasks {
    /// Queues every pending task of the shards, by priority and then in the order they were promised. Goes on until the
    /// store answers.
    pub(crate) async fn recover(self: &Rc<Self>, shards: Vec<ShardId>, mint: &Mint) {
        let mut promised = Vec::new();
        for shard in shards {
            self.recover_shard(shard, &mut promised).await;
        }
        promised.sort_unstable_by_key(|promised| (promised.entry.priority, promised.entry.task));
        if let Some(newest) = promised.iter().map(|promised| promised.entry.task).max() {
            mint.pass_task(&newest);
            tracing::info!(tasks = promised.len(), "taking up pending tasks");
        }
        for Promised { shard, lane, entry, idle } in promised {
            self.metrics.tasks_recovered.add(1);
            self.register(shard, lane, entry, idle, None, None);
            if idle == Idle::Queued {
                self.queue.borrow_mut().push_promised(lane, entry);
            }
        }
        self.note_unconfirmed();
        self.start_ready();
    }

    async fn recover_shard(&self, shard: ShardId, promised: &mut Vec<Promised>) {
        let mut next = Some(KeyRange::kind(Kind::TaskPending));
        let mut backoff = Backoff::new();
        while let Some(range) = next.take() {
            match self.store.scan(shard, range.clone(), PAGE_ROWS, false).await {
                Ok(page) => {
                    for (key, value) in page.rows {
                        match self.promised_by(shard, &key, value) {
                            Ok(found) => promised.push(found),
                            Err(error) => {
                                tracing::error!(%error, "a pending task cannot be read and stays where it is");
                                self.metrics.tasks_unreadable.add(1);
                            }
                        }
                    }
                    next = page.next;
                }
                Err(error) => {
                    tracing::error!(%error, %shard, "cannot read pending tasks yet");
                    backoff.wait().await;
                    next = Some(range);
                }
            }
        }
    }

    fn promised_by(
        &self,
        shard: ShardId,
        key: &Key,
        value: sluice_store::Value,
    ) -> Result<Promised, ReadError> {
        let record = self.store.validate::<TaskRecord>(shard, key, value)?;
        let foreign = || ReadError::Foreign { reason: format!("{key:?} is no pending task") };
        let (user, task) = key.user_id().zip(key.task_id()).ok_or_else(foreign)?;
        let record = record.get();
        let session = SessionId::from_bytes(record.session);
        let priority = codes::priority(record.priority);
        let is_unconfirmed = codes::task_state(record.state) == TaskState::AwaitingConfirmation;
        // What is to be cancelled waits for nothing but its turn, in which it ends.
        let (idle, not_before_ms) = match record.cancel_asked {
            true => (Idle::Queued, 0),
            false if is_unconfirmed => (Idle::Unconfirmed, 0),
            false => (Idle::Queued, record.not_before_ms.to_native()),
        };
        Ok(Promised {
            shard,
            lane: LaneId { user, session },
            entry: Entry { task, priority, not_before_ms },
            idle,
        })
    }
}

//! Takes commands in: a place for each, one commit for all, then the queue.

use std::rc::Rc;
use std::time::Instant;

use sluice_protocols::ids::ShardId;
use sluice_store::record::{IdempotencyRecord, TaskRecord, encode};
use sluice_store::{Batch, Key};

use super::queue::{Entry, Full, LaneId};
use super::{Idle, NotAccepted, Outcome, Tasks};
use crate::run::codes;
use crate::signal::Signal;

/// What is written beside the tasks that a request with an idempotency key made.
pub(crate) type Keyed = (Key, IdempotencyRecord);

pub(super) fn lane_of(record: &TaskRecord) -> LaneId {
    LaneId { user: record.user, session: record.session }
}

pub(super) fn entry_of(record: &TaskRecord) -> Entry {
    Entry { task: record.id, priority: codes::priority(record.priority), not_before_ms: record.not_before_ms }
}

impl Tasks {
    /// Keeps a place in the queue for a task. Whoever has one must [`Self::promise`] the task next, without a wait
    /// in between.
    ///
    /// # Errors
    /// [`NotAccepted::Full`]: nothing may be written.
    pub(crate) fn reserve(&self, record: &TaskRecord) -> Result<(), NotAccepted> {
        let reserved = self.queue.borrow_mut().reserve(lane_of(record), codes::priority(record.priority));
        reserved.map_err(|Full| {
            self.metrics.commands_refused_full.add(1);
            NotAccepted::Full
        })
    }

    /// Makes tasks of one user that have their places durable, all or none, and queues them. `Ok` is the promise; the
    /// signals are in the order of the tasks.
    pub(crate) async fn promise(
        self: &Rc<Self>,
        shard: ShardId,
        records: Vec<TaskRecord>,
        keyed: Option<Keyed>,
        arrived: Instant,
    ) -> Result<Vec<Rc<Signal<Outcome>>>, NotAccepted> {
        self.accepting.set(self.accepting.get() + 1);
        let written = self.write_pending(shard, &records, keyed).await;
        self.accepting.set(self.accepting.get() - 1);
        if let Err(error) = written {
            for record in &records {
                self.queue.borrow_mut().release(lane_of(record), codes::priority(record.priority));
            }
            return Err(error);
        }
        let signals = records.into_iter().map(|record| {
            self.metrics.commands_accepted.add(1);
            let (lane, entry) = (lane_of(&record), entry_of(&record));
            let signal = self.register(shard, lane, entry, Idle::Queued, Some((record, arrived)), None);
            self.queue.borrow_mut().push_reserved(lane, entry);
            signal
        });
        let signals = signals.collect();
        self.start_ready();
        Ok(signals)
    }

    /// Queues a task that has its place and whose caller waits for its end. It is begun at once: what it changes waits
    /// for its own entry in the journal, which is written after this one, and the caller is promised nothing before the
    /// end itself is durable.
    pub(crate) fn begin(
        self: &Rc<Self>,
        shard: ShardId,
        record: TaskRecord,
        arrived: Instant,
    ) -> Result<Rc<Signal<Outcome>>, NotAccepted> {
        let (lane, entry) = (lane_of(&record), entry_of(&record));
        let batch = match pending_batch(shard, std::slice::from_ref(&record), None) {
            Ok(batch) => batch,
            Err(error) => {
                self.queue.borrow_mut().release(lane, codes::priority(record.priority));
                return Err(error);
            }
        };
        // Should there be no room for it, the task is refused, see `Tasks::carry_out`.
        let first = self.store.commit(batch);
        let fresh = Some((record, arrived));
        let signal = self.register(shard, lane, entry, Idle::Queued, fresh, Some(first));
        self.queue.borrow_mut().push_reserved(lane, entry);
        self.start_ready();
        Ok(signal)
    }

    async fn write_pending(
        &self,
        shard: ShardId,
        records: &[TaskRecord],
        keyed: Option<Keyed>,
    ) -> Result<(), NotAccepted> {
        let batch = pending_batch(shard, records, keyed)?;
        self.store.commit(batch).await.map(drop).map_err(NotAccepted::Storage)
    }
}

fn pending_batch(shard: ShardId, records: &[TaskRecord], keyed: Option<Keyed>) -> Result<Batch, NotAccepted> {
    let mut batch = Batch::new(shard);
    for record in records {
        let value = encode(record).map_err(|_| NotAccepted::TooLarge)?;
        batch.put_new(&Key::task_pending(&record.user, &record.id), value.as_bytes());
    }
    if let Some((key, record)) = keyed {
        let value = encode(&record).map_err(|_| NotAccepted::TooLarge)?;
        batch.put(&key, value.as_bytes());
    }
    Ok(batch)
}

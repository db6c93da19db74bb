//! Lists of a user's tasks and dead letters, newest first, by bounded scans of the reader pool.

use sluice_protocols::api::{TaskState, TaskSummary};
use sluice_protocols::ids::{ShardId, TaskId, UserId};
use sluice_store::record::TaskRecord;
use sluice_store::{KeyRange, Kind, ReadError};

use super::Tasks;

/// Rows read at once.
const PAGE_ROWS: usize = 64;
/// Most rows looked at for one page: a page of a rare state may be short, and is gone on from there.
const ROWS_MAX: usize = 512;

/// A page of a list.
pub(crate) struct Listed {
    pub(crate) tasks: Vec<TaskSummary>,
    /// Everything up to here was looked at; `None` at the end of the list.
    pub(crate) last: Option<TaskId>,
}

/// Rows of one kind, newest first.
struct Rows {
    tasks: Vec<TaskRecord>,
    /// Where the scan stopped; `None` at the end.
    stopped: Option<TaskId>,
}

impl Tasks {
    /// At most `limit` tasks of a user older than `before`, in one state or in all.
    pub(crate) async fn list(
        &self,
        user: UserId,
        shard: ShardId,
        state: Option<TaskState>,
        limit: usize,
        before: Option<TaskId>,
    ) -> Result<Listed, ReadError> {
        let is_wanted =
            |record: &TaskRecord| state.is_none_or(|state| self.pending_view(record).state == state);
        let (with_pending, with_finished) =
            (state.is_none_or(|state| !state.is_final()), state.is_none_or(TaskState::is_final));
        let none = || Rows { tasks: Vec::new(), stopped: None };
        let pending = match with_pending {
            true => self.rows(user, shard, Kind::TaskPending, before, limit, is_wanted).await?,
            false => none(),
        };
        // Finished after pending: a task that ends between the two is in both, and is taken once.
        let finished = match with_finished {
            true => self.rows(user, shard, Kind::TaskFinished, before, limit, is_wanted).await?,
            false => none(),
        };
        Ok(self.merged(pending, finished, limit))
    }

    /// At most `limit` dead letters of a user older than `before`.
    pub(crate) async fn list_dead(
        &self,
        user: UserId,
        shard: ShardId,
        limit: usize,
        before: Option<TaskId>,
    ) -> Result<Listed, ReadError> {
        let rows = self.rows(user, shard, Kind::DeadLetter, before, limit, |_| true).await?;
        Ok(self.merged(rows, Rows { tasks: Vec::new(), stopped: None }, limit))
    }

    fn merged(&self, one: Rows, other: Rows, limit: usize) -> Listed {
        // What lies beyond where either scan stopped is not known.
        let stopped = one.stopped.max(other.stopped);
        let mut tasks: Vec<_> = one.tasks.into_iter().chain(other.tasks).collect();
        // Of a task in both, the finished record comes later and is kept.
        tasks.reverse();
        tasks.sort_by_key(|task| std::cmp::Reverse(task.id));
        tasks.dedup_by_key(|task| task.id);
        tasks.retain(|task| stopped.is_none_or(|stopped| task.id >= stopped));
        let is_cut = tasks.len() > limit;
        tasks.truncate(limit);
        let last = if is_cut { tasks.last().map(|task| task.id) } else { stopped };
        Listed { tasks: tasks.iter().map(|task| self.pending_view(task).into()).collect(), last }
    }

    async fn rows(
        &self,
        user: UserId,
        shard: ShardId,
        kind: Kind,
        before: Option<TaskId>,
        limit: usize,
        is_wanted: impl Fn(&TaskRecord) -> bool,
    ) -> Result<Rows, ReadError> {
        let mut range = KeyRange::of_user(kind, &user);
        if let Some(before) = before {
            range = range.resume_after(&sluice_store::Key::task_of(kind, &user, &before), true);
        }
        let mut found = Rows { tasks: Vec::new(), stopped: None };
        let (mut next, mut looked_at) = (Some(range), 0);
        while let Some(range) = next.take() {
            let page = self.store.scan(shard, range, PAGE_ROWS.min(limit + 1), true).await?;
            for (key, value) in page.rows {
                looked_at += 1;
                found.stopped = key.task_id();
                // A damaged one is passed over; its bytes are kept in quarantine.
                let Ok(record) = self.store.validate::<TaskRecord>(shard, &key, value) else { continue };
                let record = record.to_record();
                if is_wanted(&record) {
                    found.tasks.push(record);
                }
                if found.tasks.len() > limit {
                    return Ok(found);
                }
            }
            match page.next {
                None => found.stopped = None,
                Some(_) if looked_at >= ROWS_MAX => {}
                Some(rest) => next = Some(rest),
            }
        }
        Ok(found)
    }
}

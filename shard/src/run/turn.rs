//! A task as its session remembers it, and as callers see it.

use hashbrown::HashMap;
use jiff::Timestamp;
use sluice_protocols::api::{CallView, CompensationView, StepState, StepView, TaskState, TaskView, Timing};
use sluice_protocols::ids::ConnectionId;
use sluice_protocols::openai::CONTEXT_ITEMS_MAX;
use sluice_protocols::plan::{Handle, ItemKind};
use sluice_protocols::problem::Problem;
use sluice_protocols::workflow::{Graph, Node};
use sluice_store::record::{ActingAccount, StepRecord, TaskRecord, TurnRecord, WaitsRecord};

use super::brought::Brought;
use super::codes::{self, UndoState};
use super::journal::{items_of, problem_of};
use super::known::record_of;
use super::outlook;
use super::script::Script;
use super::seen::Seen;
use crate::clock::timestamp_of;

/// What the session remembers of a final task, as its turn `number`. The new items get the handles after `last`, the
/// numbers given last to messages, events and files, which then are those of this turn. What `brought` has of them need
/// not be read from the record.
pub fn turn_of(task: &TaskRecord, brought: &Brought, number: u32, last: &mut [u16; 3]) -> TurnRecord {
    let mut handles = Handles(last);
    let items = remembered(task, brought).into_iter().map(|item| {
        let handle = handles.next(item.kind);
        record_of(&item, handle.to_string())
    });
    TurnRecord {
        number,
        task: task.id,
        command: task.command.clone(),
        answer: task.answer.clone(),
        state: task.state,
        at_ms: task.created_ms,
        items: items.collect(),
        account: task.account,
    }
}

/// What a task found or made, in the order of its steps: each thing once, as it was last seen, and at most as many
/// as the model is told of. When there are more, every step keeps its fair share.
fn remembered(task: &TaskRecord, brought: &Brought) -> Vec<Seen> {
    let found: Vec<Vec<Seen>> =
        task.steps.iter().enumerate().map(|(step, record)| brought.items(step, record)).collect();
    let mut of_steps: Vec<Vec<Seen>> = Vec::with_capacity(found.len());
    let mut places: HashMap<(ItemKind, &str), (usize, usize)> = HashMap::new();
    for (step, items) in found.iter().enumerate() {
        let mut own = Vec::with_capacity(items.len());
        for item in items {
            match places.get(&(item.kind, item.id.as_str())) {
                Some((earlier, place)) if *earlier < step => of_steps[*earlier][*place] = item.clone(),
                Some(_) => {}
                None => {
                    places.insert((item.kind, &item.id), (step, own.len()));
                    own.push(item.clone());
                }
            }
        }
        of_steps.push(own);
    }
    let shares = fair_shares(&of_steps.iter().map(Vec::len).collect::<Vec<_>>(), CONTEXT_ITEMS_MAX);
    of_steps.into_iter().zip(shares).flat_map(|(items, share)| items.into_iter().take(share)).collect()
}

/// Deals `places` out one by one, round after round, to those who want more.
fn fair_shares(wanted: &[usize], places: usize) -> Vec<usize> {
    let mut shares = vec![0; wanted.len()];
    let mut left = places.min(wanted.iter().sum());
    while left > 0 {
        for (share, wanted) in shares.iter_mut().zip(wanted) {
            if *share < *wanted && left > 0 {
                *share += 1;
                left -= 1;
            }
        }
    }
    shares
}

/// The numbers last given to each kind.
struct Handles<'a>(&'a mut [u16; 3]);

impl Handles<'_> {
    fn next(&mut self, kind: ItemKind) -> Handle {
        let last = &mut self.0[place(kind)];
        *last = if *last >= Handle::NUMBER_MAX { 1 } else { *last + 1 };
        Handle::new(kind, *last).expect("1 to NUMBER_MAX, by the line above")
    }
}

fn place(kind: ItemKind) -> usize {
    match kind {
        ItemKind::Message => 0,
        ItemKind::Event => 1,
        ItemKind::File => 2,
    }
}

/// A task as callers see it.
pub fn view_of(task: &TaskRecord) -> TaskView {
    let state = codes::task_state(task.state);
    let (plan, intent, workflow, graph) = match Script::of(task) {
        None => (None, None, None, None),
        Some(Script::Plan(plan, intent)) => {
            let graph = Graph::of_plan(&plan);
            (Some(plan), intent, None, Some(graph))
        }
        Some(Script::Workflow(view, graph, _)) => (None, None, Some(*view), Some(graph)),
    };
    let steps = graph.as_ref().map(|graph| step_views(graph, &task.steps)).unwrap_or_default();
    let unconfirmed = graph.as_ref().filter(|_| state == TaskState::AwaitingConfirmation);
    let changes = unconfirmed.map(outlook::changes).unwrap_or_default();
    TaskView {
        id: task.id,
        state,
        mode: codes::mode(task.mode),
        session: task.session,
        account: account_of(task),
        command: task.command.clone(),
        intent,
        plan,
        workflow,
        steps,
        changes,
        // What is said while it runs is for those who follow it.
        answer: task.answer.clone().filter(|_| state.is_final()),
        error: task.error_json.as_deref().map(problem_of),
        priority: codes::priority(task.priority),
        attempts: task.attempts,
        next_attempt: next_attempt_of(task),
        last_error: task.last_error_json.as_deref().map(problem_of),
        timing: state.is_final().then(|| timing(task)),
        created: timestamp_of(task.created_ms),
        finished: task.finished_ms.map(timestamp_of),
    }
}

/// The connected account that a task is carried out with.
pub(super) fn account_of(task: &TaskRecord) -> Option<ConnectionId> {
    match task.account {
        Some(ActingAccount::Connected(id)) => Some(id),
        Some(ActingAccount::Delegated(_)) | None => None,
    }
}

/// When a task that was put back is tried again.
pub(super) fn next_attempt_of(task: &TaskRecord) -> Option<Timestamp> {
    let waits = codes::task_state(task.state) == TaskState::Queued && task.not_before_ms > 0;
    waits.then(|| timestamp_of(task.not_before_ms))
}

/// Where the time of a task went.
pub fn timing(task: &TaskRecord) -> Timing {
    let &TaskRecord { total_us, openai_us, google_us, waits, .. } = task;
    let WaitsRecord { turn_us, queue_us, quota_us, shared_us } = waits;
    let parts = Timing { openai_us, google_us, turn_us, queue_us, quota_us, shared_us, ..Timing::default() };
    parts.of_total(total_us)
}

fn step_views(graph: &Graph, records: &[StepRecord]) -> Vec<StepView> {
    let view = |(node, record): (&Node, &StepRecord)| StepView {
        id: node.id(),
        name: node.name().map(str::to_owned),
        operation: node.call().name().to_owned(),
        state: codes::step_state(record.state),
        calls: calls_of(record),
        items: items_of(record),
        text: record.text.clone(),
        error: record.error_json.as_deref().map(problem_of),
        tries: (record.tries > 1).then_some(record.tries),
        compensation: compensation_of(record),
    };
    graph.nodes().iter().zip(records).map(view).collect()
}

fn compensation_of(record: &StepRecord) -> Option<CompensationView> {
    let state = match codes::undo_state(record.undo) {
        UndoState::Untouched => return None,
        UndoState::Running => StepState::Running,
        UndoState::Done => StepState::Done,
        UndoState::Failed => StepState::Failed,
    };
    Some(CompensationView { state, error: record.undo_error_json.as_deref().map(problem_of) })
}

fn calls_of(record: &StepRecord) -> Vec<CallView> {
    record.calls_json.as_deref().and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}

/// The problem of a failed task, if it has one.
pub fn error_of(task: &TaskRecord) -> Option<Problem> {
    task.error_json.as_deref().map(problem_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_shared_fairly_and_none_is_wasted() {
        assert_eq!(fair_shares(&[20, 20], 20), [10, 10]);
        assert_eq!(fair_shares(&[20, 1, 0, 5], 20), [14, 1, 0, 5]);
        assert_eq!(fair_shares(&[2, 3], 20), [2, 3]);
        assert_eq!(fair_shares(&[], 20), [0; 0]);
    }

    #[test]
    fn handles_go_on_by_kind_and_begin_anew_at_the_end() {
        let mut last = [9999, 1, 0];
        let mut handles = Handles(&mut last);
        let mut next = |kind| handles.next(kind).to_string();
        assert_eq!(
            [next(ItemKind::Message), next(ItemKind::Event), next(ItemKind::File), next(ItemKind::File)],
            ["m1", "e2", "f1", "f2"]
        );
        assert_eq!(last, [1, 2, 2]);
    }
}

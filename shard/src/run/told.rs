//! A task as its caller is told it, written straight from its record: what stands there as JSON is passed on as it is.
//!
//! Invariant: the bytes are those of [`view_of`] written down, which tests hold for every task they run.

use std::borrow::Cow;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sluice_protocols::api::{Mode, Priority, StepState, TaskState, Timing};
use sluice_protocols::ids::{ConnectionId, SessionId, TaskId};
use sluice_store::record::{StepRecord, TaskRecord};

use super::codes;
use super::script::is_workflow;
use super::turn::{account_of, next_attempt_of, timing, view_of};
use crate::clock::timestamp_of;
use crate::tasks::finished::view_json;

/// What is told of a task, and what its history notes.
pub(crate) struct Told {
    /// Its view as JSON.
    pub(crate) body: Bytes,
    /// One bit for each service its steps belong to.
    pub(crate) services: u8,
    /// The operations of its steps, each once, in the order of the plan.
    pub(crate) operations: Vec<String>,
}

/// See the module. Workflows, what waits for a confirmation, and records that were written otherwise go by way of
/// [`view_of`].
pub(crate) fn told(task: &TaskRecord) -> Told {
    directly(task).unwrap_or_else(|| {
        let view = view_of(task);
        let (services, operations) = noted(view.steps.iter().map(|step| step.operation.as_str()));
        Told { body: view_json(&view), services, operations }
    })
}

/// What a history notes of operations.
fn noted<'a>(all: impl Iterator<Item = &'a str> + Clone) -> (u8, Vec<String>) {
    let mut operations: Vec<String> = Vec::new();
    for operation in all.clone() {
        if !operations.iter().any(|known| known == operation) {
            operations.push(operation.to_owned());
        }
    }
    (services(all), operations)
}

/// One bit for each service that operations belong to.
fn services<'a>(operations: impl Iterator<Item = &'a str>) -> u8 {
    let bit = |operation: &str| match operation.split('.').next() {
        Some("gmail") => 1,
        Some("calendar") => 2,
        Some("drive") => 4,
        _ => 0,
    };
    operations.fold(0, |bits, operation| bits | bit(operation))
}

/// A plan with who made it, as it stands in a record.
#[derive(Deserialize)]
struct RawPlanned<'a> {
    #[serde(borrow)]
    intent: &'a RawValue,
    #[serde(borrow)]
    plan: &'a RawValue,
}

/// Of a plan, the names of its operations.
#[derive(Deserialize)]
struct RawPlan<'a> {
    #[serde(borrow)]
    steps: Vec<RawStep<'a>>,
}

#[derive(Deserialize)]
struct RawStep<'a> {
    #[serde(borrow)]
    call: RawCall<'a>,
}

#[derive(Deserialize)]
struct RawCall<'a> {
    #[serde(borrow)]
    operation: Cow<'a, str>,
}

/// As `TaskView`, field by field.
#[derive(Serialize)]
struct TaskOut<'a> {
    id: TaskId,
    state: TaskState,
    mode: Mode,
    session: SessionId,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<ConnectionId>,
    command: &'a str,
    intent: Option<&'a RawValue>,
    plan: Option<&'a RawValue>,
    steps: Vec<StepOut<'a>>,
    answer: Option<&'a str>,
    error: Option<&'a RawValue>,
    priority: Priority,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<&'a RawValue>,
    timing: Option<Timing>,
    created: Timestamp,
    finished: Option<Timestamp>,
}

/// As `StepView` of a plan's step.
#[derive(Serialize)]
struct StepOut<'a> {
    id: &'a str,
    operation: &'a str,
    state: StepState,
    calls: &'a RawValue,
    items: &'a RawValue,
    text: Option<&'a str>,
    error: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tries: Option<u32>,
}

/// JSON that stands in a record; `None` when it is none.
fn raw(json: &str) -> Option<&RawValue> {
    serde_json::from_str(json).ok()
}

/// The same of JSON that may not be there.
fn maybe_raw(json: &Option<String>) -> Option<Option<&RawValue>> {
    json.as_deref().map_or(Some(None), |json| raw(json).map(Some))
}

fn directly(task: &TaskRecord) -> Option<Told> {
    if is_workflow(task) || codes::task_state(task.state) == TaskState::AwaitingConfirmation {
        return None;
    }
    let planned: Option<RawPlanned<'_>> = match &task.plan_json {
        Some(json) => Some(serde_json::from_str(json).ok()?),
        None => None,
    };
    let operations = match &planned {
        Some(planned) => serde_json::from_str::<RawPlan<'_>>(planned.plan.get()).ok()?.steps,
        None => Vec::new(),
    };
    if operations.len() != task.steps.len() {
        return None;
    }
    let none = raw("[]")?;
    let steps = operations.iter().zip(&task.steps).map(|(step, record)| {
        // Of a plan nothing is taken back.
        (record.undo == 0).then_some(())?;
        step_out(&step.call.operation, record, none)
    });
    let steps = steps.collect::<Option<Vec<_>>>()?;
    let state = codes::task_state(task.state);
    let out = TaskOut {
        id: task.id,
        state,
        mode: codes::mode(task.mode),
        session: task.session,
        account: account_of(task),
        command: &task.command,
        intent: planned.as_ref().map(|planned| planned.intent),
        plan: planned.as_ref().map(|planned| planned.plan),
        steps,
        answer: task.answer.as_deref().filter(|_| state.is_final()),
        error: maybe_raw(&task.error_json)?,
        priority: codes::priority(task.priority),
        attempts: task.attempts,
        next_attempt: next_attempt_of(task),
        last_error: maybe_raw(&task.last_error_json)?,
        timing: state.is_final().then(|| timing(task)),
        created: timestamp_of(task.created_ms),
        finished: task.finished_ms.map(timestamp_of),
    };
    let body = serde_json::to_vec(&out).ok()?;
    let (services, operations) = noted(operations.iter().map(|step| &*step.call.operation));
    Some(Told { body: body.into(), services, operations })
}

fn step_out<'a>(operation: &'a str, record: &'a StepRecord, none: &'a RawValue) -> Option<StepOut<'a>> {
    Some(StepOut {
        id: &record.id,
        operation,
        state: codes::step_state(record.state),
        calls: maybe_raw(&record.calls_json)?.unwrap_or(none),
        items: maybe_raw(&record.outcome_json)?.unwrap_or(none),
        text: record.text.as_deref(),
        error: maybe_raw(&record.error_json)?,
        tries: (record.tries > 1).then_some(record.tries),
    })
}

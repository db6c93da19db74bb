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

use super::brought::Brought;
use super::codes;
use super::script::is_workflow;
use super::turn::{account_of, next_attempt_of, timing, view_of};
use crate::clock::timestamp_of;
use crate::tasks::finished::view_json;

/// What a body takes beside the texts of its task.
const BODY_BYTES_USUAL: usize = 1 << 10;
/// Nothing, and no things, as they stand in JSON.
const NULL: &str = "null";
const NONE: &str = "[]";

/// What is told of a task, and what its history notes.
pub(crate) struct Told {
    /// Its view as JSON.
    pub(crate) body: Bytes,
    /// One bit for each service its steps belong to.
    pub(crate) services: u8,
    /// The operations of its steps, each once, in the order of the plan.
    pub(crate) operations: Vec<String>,
}

/// See the module. What `brought` has of it need not be read from the record again. Workflows, what waits for a
/// confirmation, and records that were written otherwise go by way of [`view_of`].
pub(crate) fn told(task: &TaskRecord, brought: &Brought) -> Told {
    at_once(task, brought).or_else(|| directly(task)).unwrap_or_else(|| {
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

/// A task that this run has planned and carried out: all JSON in its record was written by this run.
fn at_once(task: &TaskRecord, brought: &Brought) -> Option<Told> {
    let operations = brought.operations()?;
    let state = codes::task_state(task.state);
    if !state.is_final() || operations.len() != task.steps.len() {
        return None;
    }
    let mut out = Object::with_capacity(BODY_BYTES_USUAL + written_bytes(task));
    out.field("id", &task.id)?;
    out.field("state", &state)?;
    out.field("mode", &codes::mode(task.mode))?;
    out.field("session", &task.session)?;
    if let Some(account) = account_of(task) {
        out.field("account", &account)?;
    }
    out.field("command", &task.command)?;
    // `intent` and `plan`, which stand in the record as they do here.
    out.members(task.plan_json.as_deref()?)?;
    out.name("steps");
    out.list(operations.iter().zip(&task.steps), |out, (operation, record)| {
        step_at_once(out, operation, record)
    })?;
    out.field("answer", &task.answer)?;
    out.raw("error", task.error_json.as_deref().unwrap_or(NULL));
    out.field("priority", &codes::priority(task.priority))?;
    out.field("attempts", &task.attempts)?;
    if let Some(json) = &task.last_error_json {
        out.raw("last_error", json);
    }
    out.field("timing", &timing(task))?;
    out.field("created", &timestamp_of(task.created_ms))?;
    out.field("finished", &task.finished_ms.map(timestamp_of))?;
    let (services, operations) = noted(operations.iter().copied());
    Some(Told { body: out.finish().into(), services, operations })
}

fn step_at_once(out: &mut Object, operation: &str, record: &StepRecord) -> Option<()> {
    // Of a plan nothing is taken back.
    (record.undo == 0).then_some(())?;
    out.field("id", &record.id)?;
    out.field("operation", operation)?;
    out.field("state", &codes::step_state(record.state))?;
    out.raw("calls", record.calls_json.as_deref().unwrap_or(NONE));
    out.raw("items", record.outcome_json.as_deref().unwrap_or(NONE));
    out.field("text", &record.text)?;
    out.raw("error", record.error_json.as_deref().unwrap_or(NULL));
    if record.tries > 1 {
        out.field("tries", &record.tries)?;
    }
    Some(())
}

/// What the texts of a record take that are told as they are, or nearly so.
fn written_bytes(task: &TaskRecord) -> usize {
    let of = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let step = |step: &StepRecord| {
        [&step.calls_json, &step.outcome_json, &step.text].into_iter().map(of).sum::<usize>()
    };
    of(&task.plan_json) + of(&task.answer) + task.command.len() + task.steps.iter().map(step).sum::<usize>()
}

/// An object being written.
struct Object {
    json: Vec<u8>,
}

impl Object {
    fn with_capacity(bytes: usize) -> Self {
        let mut json = Vec::with_capacity(bytes);
        json.push(b'{');
        Self { json }
    }

    /// The name of a member; its value comes next.
    fn name(&mut self, name: &'static str) {
        if self.json.last() != Some(&b'{') {
            self.json.push(b',');
        }
        self.json.push(b'"');
        self.json.extend_from_slice(name.as_bytes());
        self.json.extend_from_slice(b"\":");
    }

    fn field(&mut self, name: &'static str, value: &(impl Serialize + ?Sized)) -> Option<()> {
        self.name(name);
        serde_json::to_writer(&mut self.json, value).ok()
    }

    /// A member whose value is JSON already.
    fn raw(&mut self, name: &'static str, json: &str) {
        self.name(name);
        self.json.extend_from_slice(json.as_bytes());
    }

    /// All members of an object that is JSON already and has some.
    fn members(&mut self, json: &str) -> Option<()> {
        let members = json.strip_prefix('{')?.strip_suffix('}')?;
        self.json.push(b',');
        self.json.extend_from_slice(members.as_bytes());
        Some(())
    }

    /// A list of objects, as the value of the member named last.
    fn list<T>(
        &mut self,
        values: impl Iterator<Item = T>,
        mut write: impl FnMut(&mut Self, T) -> Option<()>,
    ) -> Option<()> {
        self.json.push(b'[');
        for (place, value) in values.enumerate() {
            if place > 0 {
                self.json.push(b',');
            }
            self.json.push(b'{');
            write(self, value)?;
            self.json.push(b'}');
        }
        self.json.push(b']');
        Some(())
    }

    fn finish(mut self) -> Vec<u8> {
        self.json.push(b'}');
        self.json
    }
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

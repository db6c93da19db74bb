//! What a task carries out, as it stands in its record: a plan and who made it, or a workflow and what it was given.
//!
//! Invariant: a record holds all that its run needs. A workflow stands in it whole, so that changing or deleting the
//! stored one changes no run.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sluice_protocols::api::{IntentView, WorkflowRunView};
use sluice_protocols::plan::Plan;
use sluice_protocols::workflow::{Graph, Input, Workflow};
use sluice_store::record::TaskRecord;

/// A plan as it stands in a record, with who made it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Planned {
    intent: Option<IntentView>,
    plan: Plan,
}

/// As [`Planned`], to be written.
#[derive(Serialize)]
struct PlannedRef<'a> {
    intent: IntentView,
    plan: &'a Plan,
}

/// A workflow as it stands in a record.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Called {
    workflow: WorkflowRunView,
    definition: Value,
}

/// How the record of a workflow's run begins; no plan's does.
const CALLED: &str = "{\"workflow\":";

/// What is carried out.
pub(super) enum Script {
    Plan(Plan, Option<IntentView>),
    Workflow(Box<WorkflowRunView>, Graph, Input),
}

impl Script {
    /// What stands in the record, if it is there and can still be read.
    pub(super) fn of(task: &TaskRecord) -> Option<Self> {
        let json = task.plan_json.as_deref()?;
        if is_workflow(task) {
            let Called { workflow: view, definition } = serde_json::from_str(json).ok()?;
            let workflow = Workflow::stored(&definition).ok()?;
            let input = workflow.input(&view.input).ok()?;
            return Some(Self::Workflow(Box::new(view), workflow.graph, input));
        }
        // Before it was noted who made a plan, the plan stood there alone.
        let planned: Option<Planned> = serde_json::from_str(json).ok();
        let planned =
            planned.or_else(|| Some(Planned { intent: None, plan: serde_json::from_str(json).ok()? }));
        planned.map(|planned| Self::Plan(planned.plan, planned.intent))
    }
}

/// Whether a task is a run of a workflow.
pub(crate) fn is_workflow(task: &TaskRecord) -> bool {
    task.plan_json.as_deref().is_some_and(|json| json.starts_with(CALLED))
}

/// The plan in the record, if it is there and can still be read.
pub(crate) fn plan_of(task: &TaskRecord) -> Option<Plan> {
    match Script::of(task)? {
        Script::Plan(plan, _) => Some(plan),
        Script::Workflow(..) => None,
    }
}

/// A plan and who made it, for the record; `None` when it cannot be written down.
pub(super) fn planned_json(plan: &Plan, intent: IntentView) -> Option<String> {
    serde_json::to_string(&PlannedRef { intent, plan }).ok()
}

/// A run of a workflow, for the record; `None` when it cannot be written down.
pub(crate) fn called_json(workflow: WorkflowRunView, definition: Value) -> Option<String> {
    let json = serde_json::to_string(&Called { workflow, definition }).ok();
    debug_assert!(json.as_ref().is_none_or(|json| json.starts_with(CALLED)));
    json
}

//! What a run has at hand of the task that it ended, so that what it wrote into the record is not read out again.

use sluice_protocols::plan::Plan;
use sluice_protocols::workflow::Graph;
use sluice_store::record::StepRecord;

use super::journal::items_of;
use super::known::Known;
use super::seen::Seen;

/// See the module. Empty where the run went another way than from a command by its plan to the end, or began from what
/// an earlier one had written.
#[derive(Debug, Default)]
pub struct Brought(Option<Of>);

#[derive(Debug)]
struct Of {
    /// The operations of the plan, in its order.
    operations: Vec<&'static str>,
    /// What each step found or made; `None` where the record is to be asked.
    items: Vec<Option<Vec<Seen>>>,
}

impl Brought {
    pub(super) fn of(plan: &Plan, graph: &Graph, known: &Known<'_>) -> Self {
        let operations = plan.steps().iter().map(|step| step.call.name()).collect();
        let items = graph.nodes().iter().map(|node| known.items(node.id()).map(<[Seen]>::to_vec)).collect();
        Self(Some(Of { operations, items }))
    }

    /// The operations of the plan that this run made and carried out.
    pub(super) fn operations(&self) -> Option<&[&'static str]> {
        self.0.as_ref().map(|of| of.operations.as_slice())
    }

    /// What the step at `index` found or made.
    pub(super) fn items(&self, index: usize, record: &StepRecord) -> Vec<Seen> {
        let at_hand = self.0.as_ref().and_then(|of| of.items.get(index)?.clone());
        at_hand.unwrap_or_else(|| items_of(record).into_iter().map(Seen::from).collect())
    }
}

//! What an engine carries out: operations, and what must be finished before each. Plans of the model and workflows
//! take the same form.

use super::condition::Condition;
use super::fill::{FillError, Found, Template};
use super::input::Input;
use crate::api::StepState;
use crate::plan::{Operation, Plan, StepId};

/// How often a step is tried, and after what waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    /// At least 1.
    pub max: u8,
    /// The first wait, in milliseconds; each further one is twice as long.
    pub wait_ms: u32,
}

impl Tries {
    /// Once: what may be tried again is the whole task.
    pub const ONCE: Self = Self { max: 1, wait_ms: 0 };
}

/// A step.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub(super) id: StepId,
    pub(super) name: Option<String>,
    pub(super) before: Vec<usize>,
    pub(super) call: Operation,
    pub(super) template: Option<Template>,
    pub(super) when: Option<Condition>,
    pub(super) timeout_ms: Option<u32>,
    pub(super) tries: Tries,
    pub(super) is_undone: bool,
}

impl Node {
    /// Its number.
    #[must_use]
    pub const fn id(&self) -> StepId {
        self.id
    }

    /// What its author calls it; steps of plans have no name but their number.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The places of the steps that must be finished before it, each once.
    #[must_use]
    pub fn before(&self) -> &[usize] {
        &self.before
    }

    /// The operation, with something harmless where something is filled in when it begins: its name, its service, its
    /// results and whether it changes something are the same then.
    #[must_use]
    pub const fn call(&self) -> &Operation {
        &self.call
    }

    /// The longest one try may take, in milliseconds; none leaves it the time of the task.
    #[must_use]
    pub const fn timeout_ms(&self) -> Option<u32> {
        self.timeout_ms
    }

    /// How often it is tried.
    #[must_use]
    pub const fn tries(&self) -> Tries {
        self.tries
    }

    /// Whether the operation has places that are filled in when it begins.
    #[must_use]
    pub const fn has_places(&self) -> bool {
        self.template.is_some()
    }

    /// Whether it is carried out.
    #[must_use]
    pub fn is_wanted(&self, input: &Input, found: &dyn Found) -> bool {
        self.when.as_ref().is_none_or(|when| when.holds(input, found))
    }

    /// The operation with everything filled in.
    ///
    /// # Errors
    /// When an earlier step brought less than what is referred to, or what comes out is none the operation takes.
    pub fn fill(&self, input: &Input, found: &dyn Found) -> Result<Operation, FillError> {
        self.template.as_ref().map_or_else(|| Ok(self.call.clone()), |template| template.fill(input, found))
    }

    /// Whether it is taken back when the graph fails after it was done.
    #[must_use]
    pub const fn is_undone(&self) -> bool {
        self.is_undone
    }
}

/// What the states of others mean for a step that is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It waits for others.
    Waits,
    /// It can never begin.
    IsSkipped,
    /// Everything it depends on is done.
    MayBegin,
}

/// Steps that depend on each other without a cycle.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    pub(super) nodes: Vec<Node>,
    /// Whether nothing more is begun once a step failed.
    pub(super) stops_at_failure: bool,
}

impl Graph {
    /// The graph of a plan, which was checked.
    #[must_use]
    pub fn of_plan(plan: &Plan) -> Self {
        let place = |id: StepId| plan.steps().iter().position(|step| step.id == id);
        let nodes = plan.steps().iter().map(|step| Node {
            id: step.id,
            name: None,
            before: step.dependencies().into_iter().filter_map(place).collect(),
            call: step.call.clone(),
            template: None,
            when: None,
            timeout_ms: None,
            tries: Tries::ONCE,
            is_undone: false,
        });
        Self { nodes: nodes.collect(), stops_at_failure: false }
    }

    /// The steps, in the order of their author.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Whether nothing more is begun once a step failed, and what was done is taken back where that is possible.
    /// Otherwise everything goes on that does not depend on the failed step.
    #[must_use]
    pub const fn stops_at_failure(&self) -> bool {
        self.stops_at_failure
    }

    /// What the states of others mean for a pending step.
    pub fn turn(&self, index: usize, state: impl Fn(usize) -> StepState) -> Turn {
        let mut turn = Turn::MayBegin;
        for before in &self.nodes[index].before {
            match state(*before) {
                StepState::Failed | StepState::Skipped => return Turn::IsSkipped,
                StepState::Pending | StepState::Running => turn = Turn::Waits,
                StepState::Done => {}
            }
        }
        turn
    }

    /// The places of all steps, each behind those it depends on.
    #[must_use]
    pub fn in_order(&self) -> Vec<usize> {
        let mut order = Vec::with_capacity(self.nodes.len());
        let mut placed = vec![false; self.nodes.len()];
        // Without a cycle every round places one more at least.
        for _round in 0..self.nodes.len() {
            for (index, node) in self.nodes.iter().enumerate() {
                if !placed[index] && node.before.iter().all(|before| placed[*before]) {
                    placed[index] = true;
                    order.push(index);
                }
            }
        }
        order
    }
}

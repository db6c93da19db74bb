//! Workflows: explicit graphs of steps that a user stores and runs by name.
//!
//! A definition is JSON: declared inputs, and steps whose parameters are constants, texts with places, or references
//! to inputs (`$input.name`) and to what earlier steps brought (`$steps.find.messages[0].id`). [`Workflow::check`] reads
//! it and says everything that is wrong, each with the step and the place; what it lets pass is a [`Graph`], the same
//! form that plans of the model take ([`Graph::of_plan`]), so that one engine carries out both.
//!
//! Invariants of a [`Workflow`] that was checked:
//! - 1 to [`STEPS_MAX`] steps with distinct names, no cycle, no chain longer than [`DEPTH_MAX`];
//! - every reference names a declared input, or a step that has such results, and fits the type of its place;
//! - whatever a step refers to, in parameters or in its condition, is finished before it begins;
//! - constants are within the bounds that plans have. What is filled in later is checked when it is.

mod check;
mod condition;
mod fill;
mod graph;
mod input;
mod operations;
mod reference;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub use condition::Condition;
pub use fill::{FillError, Found};
pub use graph::{Graph, Node, Tries, Turn};
pub use input::{Input, InputSpec};
pub use operations::operation_names;

use crate::problem::{Problem, ProblemKind};

/// The most steps a workflow may have.
pub const STEPS_MAX: usize = 64;
/// The most steps that may stand one behind the other.
pub const DEPTH_MAX: usize = 32;
/// The most inputs a workflow may declare.
pub const INPUTS_MAX: usize = 32;
/// The most bytes a definition may have as JSON.
pub const DEFINITION_BYTES_MAX: usize = 64 * 1024;
/// The most characters in the name of a workflow, a step or an input.
pub const NAME_CHARS_MAX: usize = 64;
/// The most characters in a description.
pub const DESCRIPTION_CHARS_MAX: usize = 1_000;
/// The most parts a condition may have, all told.
pub const CONDITION_PARTS_MAX: usize = 32;
/// The longest and the shortest time a step may be given, in milliseconds.
pub const TIMEOUT_MS_MAX: u32 = 120_000;
/// See [`TIMEOUT_MS_MAX`].
pub const TIMEOUT_MS_MIN: u32 = 100;
/// The most tries a step may be given.
pub const TRIES_MAX: u8 = 10;
/// How often a step is tried when nothing is said.
pub const TRIES_DEFAULT: u8 = 3;
/// The longest first wait between two tries, in milliseconds.
pub const WAIT_MS_MAX: u32 = 30_000;
/// The first wait between two tries when nothing is said, in milliseconds.
pub const WAIT_MS_DEFAULT: u32 = 200;
/// The most faults that are told of one definition.
pub const FAULTS_MAX: usize = 20;

/// Something that is wrong with a definition, or with the input of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The step at fault, where it is one's.
    pub step: Option<String>,
    /// Where it stands, as a JSON pointer (RFC 6901).
    pub pointer: String,
    /// What is wrong.
    pub detail: String,
}

/// Everything that is wrong, at most [`FAULTS_MAX`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    /// What the caller is told: `invalid-field`, the first fault in its detail.
    #[must_use]
    pub fn to_problem(&self, what: &str) -> Problem {
        let told = |fault: &Fault| match &fault.step {
            Some(step) => format!("step `{step}`: {}", fault.detail),
            None => fault.detail.clone(),
        };
        let first = self.0.first().map(told).unwrap_or_default();
        let problem = Problem::new(ProblemKind::InvalidField, format!("{what} is not valid: {first}"));
        self.0.iter().fold(problem, |problem, fault| problem.with_error(fault.pointer.clone(), told(fault)))
    }
}

/// A definition that passed every check.
#[derive(Clone, Debug)]
pub struct Workflow {
    /// What it is for, in its author's words.
    pub description: Option<String>,
    /// What a run is given.
    pub inputs: Vec<InputSpec>,
    /// What it does.
    pub graph: Graph,
}

impl Workflow {
    /// Reads and checks a definition.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn check(definition: &Value) -> Result<Self, Faults> {
        check::workflow(definition, true)
    }

    /// Reads a definition that passed [`Self::check`] when it was stored, perhaps that of an older version, which asked less.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn stored(definition: &Value) -> Result<Self, Faults> {
        check::workflow(definition, false)
    }

    /// Checks what a run is given, and fills in what it is not.
    ///
    /// # Errors
    /// Everything that is wrong with it: missing, unknown or mistyped.
    pub fn input(&self, given: &Value) -> Result<Input, Faults> {
        Input::check(&self.inputs, given)
    }
}

/// Whether a text can be the name of a workflow: 1 to [`NAME_CHARS_MAX`] of `a-z`, `0-9`, `-` and `_`, a letter or a
/// digit first. `check` is taken.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    (1..=NAME_CHARS_MAX).contains(&name.len())
        && name.bytes().all(fits)
        && !name.starts_with(['-', '_'])
        && name != "check"
}

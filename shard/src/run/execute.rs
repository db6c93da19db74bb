//! Carries out a plan or a workflow: steps whose dependencies are done, side by side.
//!
//! Invariants:
//! - The plan, a step's `running`, and what the steps before it brought are on disk before the first call of a step that
//!   changes something, and of every step of a task that nobody waits for; what came in one turn shares a commit.
//! - A step after a failed one is skipped. In a plan everything else goes on; in a workflow nothing more is begun, what
//!   is under way is brought to its end, and what was done is taken back where it can be, the last first.
//! - At most [`CALLS_AT_ONCE_MAX`] steps are under way.

use std::time::Duration;

use sluice_protocols::api::{Mode, StepState};
use sluice_protocols::plan::Operation;
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_protocols::workflow::{FillError, Graph, Input, Node, Turn};
use sluice_store::record::StepRecord;

use super::answer::compose_so_far;
use super::codes::{self, UndoState};
use super::join::{CALLS_AT_ONCE_MAX, JoinSet};
use super::journal::{items_of, problem_json};
use super::replay::{self, Next};
use super::seen::{Seen, items_json};
use super::step::{Shared, StepEnd, StepRun, deadline_of};
use crate::cancel::Cancel;

/// The time that taking a step back is given at least.
const UNDO_TIME: Duration = Duration::from_secs(10);

/// One plan under way.
pub(super) struct Execution<'a> {
    pub(super) shared: Shared<'a>,
    pub(super) graph: &'a Graph,
    pub(super) input: &'a Input,
    pub(super) cancel: &'a Cancel,
}

/// How far a plan was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// As far as it can be.
    Whole,
    /// It was cancelled: nothing with an effect is under way, and nothing more is begun.
    Cancelled,
}

/// A step that may begin.
struct Ready {
    index: usize,
    /// It was running when an earlier process ended.
    resumed: bool,
}

/// The records of a plan's steps, none begun.
pub(super) fn fresh_steps(graph: &Graph) -> Vec<StepRecord> {
    let pending = codes::of_step_state(StepState::Pending);
    let fresh = |node: &Node| StepRecord::new(node.id().to_string(), pending);
    graph.nodes().iter().map(fresh).collect()
}

/// The operation as it was begun, or will be; where it is filled in when it begins, a likeness of it.
pub(super) fn call_of(node: &Node, record: &StepRecord) -> Operation {
    let filled = record.call_json.as_deref().filter(|_| node.has_places());
    filled.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_else(|| node.call().clone())
}

impl<'a> Execution<'a> {
    /// Runs every step that can be run.
    ///
    /// # Errors
    /// Why the task must be left to the next start: its journal failed, or the process stops.
    pub(super) async fn run(&self) -> Result<Progress, Problem> {
        self.know_what_is_done();
        let mut interrupted = self.steps_in(StepState::Running);
        let mut set = JoinSet::new();
        let mut has_news = false;
        loop {
            let is_cancelled = self.cancel.is_set();
            if is_cancelled && interrupted.is_empty() && !self.has_effect_under_way() && !self.has_stopped() {
                self.leave_the_rest();
                return Ok(Progress::Cancelled);
            }
            // What was under way in an earlier process has to be brought to a known end first.
            let ready = self.begin_ready(&std::mem::take(&mut interrupted), is_cancelled, set.running());
            // What depends on nothing that ended is committed for those alone who look on.
            if !ready.is_empty() || (has_news && set.running() > 0 && self.is_watched()) {
                if std::mem::take(&mut has_news) && self.is_watched() {
                    self.say_so_far();
                }
                if self.must_be_journaled(&ready) {
                    set.go_on_during(self.shared.journal.commit()).await?;
                }
                for step in ready {
                    set.push(self.step(step));
                }
            }
            if let Some(recorded) = &self.shared.env.recorded
                && set.running() > 0
            {
                match recorded.choose(self.graph, |index| self.state(index), is_cancelled) {
                    Next::End => {}
                    Next::Cancel => {
                        self.cancel.set();
                        continue;
                    }
                    Next::Over => return Err(replay::over()),
                }
            }
            let ends = if is_cancelled {
                set.next_done().await
            } else {
                match self.cancel.unless(set.next_done()).await {
                    Some(ends) => ends,
                    None => continue,
                }
            };
            if ends.is_empty() && self.has_stopped() {
                self.take_back().await?;
                return Ok(Progress::Whole);
            }
            if ends.is_empty() {
                return Ok(if is_cancelled { Progress::Cancelled } else { Progress::Whole });
            }
            for end in ends {
                self.stop_if_interrupted(&end)?;
                self.finish(end);
                has_news = true;
            }
        }
    }

    /// Whether anybody looks on.
    fn is_watched(&self) -> bool {
        self.shared.env.watches.is_watched(&self.shared.task)
    }

    /// Puts what the steps have brought so far into words.
    fn say_so_far(&self) {
        let Shared { journal, known, zone, .. } = self.shared;
        let answer = journal.read(|task| compose_so_far(task, self.graph, known, zone));
        if !answer.is_empty() {
            journal.write(|task| task.answer = Some(answer));
        }
    }

    /// Reading again after a crash does no harm, and whoever waits for the answer sees nothing of the steps before it: only
    /// what changes something, and what others may look at meanwhile, is on disk before it begins.
    fn must_be_journaled(&self, ready: &[Ready]) -> bool {
        let is_waited_for = self.shared.journal.read(|task| codes::mode(task.mode) == Mode::Sync);
        let has_effect = |step: &Ready| self.graph.nodes()[step.index].call().is_side_effect();
        !is_waited_for || self.is_watched() || ready.iter().any(has_effect)
    }

    fn state(&self, index: usize) -> StepState {
        self.shared.journal.read(|task| codes::step_state(task.steps[index].state))
    }

    fn set_state(&self, index: usize, state: StepState) {
        self.shared.journal.write_step(index, |step| step.state = codes::of_step_state(state));
    }

    fn steps_in(&self, state: StepState) -> Vec<usize> {
        (0..self.graph.nodes().len()).filter(|index| self.state(*index) == state).collect()
    }

    /// What earlier runs brought.
    fn know_what_is_done(&self) {
        for index in self.steps_in(StepState::Done) {
            let (items, text) = self
                .shared
                .journal
                .read(|task| (items_of(&task.steps[index]), task.steps[index].text.clone()));
            let items = items.into_iter().map(Seen::from).collect();
            self.know(index, items, text);
        }
    }

    fn know(&self, index: usize, items: Vec<Seen>, text: Option<String>) {
        let node = &self.graph.nodes()[index];
        let filled = || self.shared.journal.read(|task| call_of(node, &task.steps[index]));
        let call = node.has_places().then(filled);
        self.shared.known.add(node.id(), call, items, text);
    }

    /// Marks what may begin as running, and what can never begin as skipped.
    fn begin_ready(&self, interrupted: &[usize], is_cancelled: bool, under_way: usize) -> Vec<Ready> {
        let mut ready: Vec<Ready> =
            interrupted.iter().map(|index| Ready { index: *index, resumed: true }).collect();
        if is_cancelled {
            return ready;
        }
        // A skipped step makes those after it skipped, wherever they stand: at most one round for each.
        for _round in 0..self.graph.nodes().len() {
            for index in self.steps_in(StepState::Pending) {
                if self.has_stopped() {
                    self.skip(index);
                    continue;
                }
                match self.graph.turn(index, |other| self.state(other)) {
                    Turn::Waits => {}
                    Turn::IsSkipped => self.skip(index),
                    // Those for whom there is no place now begin when another ends.
                    Turn::MayBegin if ready.len() + under_way >= CALLS_AT_ONCE_MAX => {}
                    Turn::MayBegin => ready.extend(self.begin(index)),
                }
            }
        }
        ready
    }

    /// Whether a failure ends the whole.
    fn has_stopped(&self) -> bool {
        self.graph.stops_at_failure() && !self.steps_in(StepState::Failed).is_empty()
    }

    fn skip(&self, index: usize) {
        self.set_state(index, StepState::Skipped);
        self.shared.env.stats.steps_skipped.add(1);
    }

    /// Fills a step's places and marks it as running, unless its condition does not hold or something is missing.
    fn begin(&self, index: usize) -> Option<Ready> {
        let (node, known) = (&self.graph.nodes()[index], self.shared.known);
        if !node.is_wanted(self.input, known) {
            self.skip(index);
            return None;
        }
        let call = match node.fill(self.input, known) {
            Ok(call) => call,
            Err(error) => {
                let kind = match &error {
                    FillError::Missing { .. } => ProblemKind::UnresolvedReference,
                    FillError::Field { .. } | FillError::Unknown { .. } => ProblemKind::InvalidField,
                };
                let problem = Problem::new(kind, error.to_string());
                self.finish(StepEnd { index, outcome: Err(problem), calls: Vec::new() });
                return None;
            }
        };
        self.shared.journal.write_step(index, |step| {
            step.state = codes::of_step_state(StepState::Running);
            step.tries = 1;
            step.call_json = node.has_places().then(|| serde_json::to_string(&call).ok()).flatten();
        });
        Some(Ready { index, resumed: false })
    }

    /// Whether a step that changes something is running.
    fn has_effect_under_way(&self) -> bool {
        let running = self.steps_in(StepState::Running);
        running.into_iter().any(|index| self.graph.nodes()[index].call().is_side_effect())
    }

    /// Steps that only read and are dropped on their way were not come to.
    fn leave_the_rest(&self) {
        for index in self.steps_in(StepState::Running) {
            self.set_state(index, StepState::Pending);
        }
    }

    fn step(&self, ready: Ready) -> impl Future<Output = StepEnd> + use<'a> {
        let (node, shared, cancel): (&'a Node, _, &'a Cancel) =
            (&self.graph.nodes()[ready.index], self.shared, self.cancel);
        let call = shared.journal.read(|task| call_of(node, &task.steps[ready.index]));
        let deadline = deadline_of((shared.deadline, node.timeout_ms()));
        let google = shared.google(deadline);
        let (index, resumed) = (ready.index, ready.resumed);
        if let Some(recorded) = &shared.env.recorded {
            recorded.begun(index, node, &call, shared.known);
        }
        let run =
            StepRun { shared, index, id: node.id(), resumed, is_undone: node.is_undone(), deadline, google };
        async move {
            match &shared.env.recorded {
                Some(recorded) => recorded.end_of(index).await,
                None => run.run(call, node, cancel).await,
            }
        }
    }

    /// Takes back what was done, the last first, as far as that is possible; each way is journaled before it is gone.
    async fn take_back(&self) -> Result<(), Problem> {
        for index in self.graph.in_order().into_iter().rev() {
            let node = &self.graph.nodes()[index];
            let so_far = self.shared.journal.read(|task| codes::undo_state(task.steps[index].undo));
            let is_open = matches!(so_far, UndoState::Untouched | UndoState::Running);
            let Some(undo) = node.call().undo().filter(|_| node.is_undone() && is_open) else { continue };
            if self.state(index) != StepState::Done {
                continue;
            }
            self.shared
                .journal
                .write_step(index, |step| step.undo = codes::of_undo_state(UndoState::Running));
            self.shared.journal.commit().await?;
            // The task's time may be what ran out; nothing of this is new work.
            let deadline = self.shared.deadline.max(sluice_core::now() + UNDO_TIME);
            let google = self.shared.google(deadline);
            let resumed = so_far == UndoState::Running;
            let run = StepRun {
                shared: self.shared,
                index,
                id: node.id(),
                resumed,
                is_undone: true,
                deadline,
                google,
            };
            let items = self.shared.journal.read(|task| items_of(&task.steps[index]));
            let outcome = match &self.shared.env.recorded {
                Some(recorded) => recorded.way_back(index, node).unwrap_or_else(|| Err(replay::over())),
                None => run.take_back(undo, &items).await,
            };
            if outcome.is_err() && self.shared.env.is_ending() {
                return Err(super::shutting_down());
            }
            let stats = &self.shared.env.stats;
            let state = if outcome.is_ok() { UndoState::Done } else { UndoState::Failed };
            if outcome.is_ok() {
                stats.steps_taken_back.add(1)
            } else {
                stats.steps_not_taken_back.add(1)
            }
            self.shared.journal.write_step(index, |step| {
                step.undo = codes::of_undo_state(state);
                step.undo_error_json = outcome.as_ref().err().map(problem_json);
            });
        }
        Ok(())
    }

    fn stop_if_interrupted(&self, end: &StepEnd) -> Result<(), Problem> {
        if let Some(problem) = self.shared.journal.failure() {
            return Err(problem);
        }
        match &end.outcome {
            Err(_) if self.shared.env.is_ending() => Err(super::shutting_down()),
            _ => Ok(()),
        }
    }

    fn finish(&self, end: StepEnd) {
        if let Some(recorded) = &self.shared.env.recorded {
            recorded.ended(&self.graph.nodes()[end.index], &end.outcome);
        }
        let stats = &self.shared.env.stats;
        let state = match &end.outcome {
            Ok(_) => {
                stats.steps_done.add(1);
                StepState::Done
            }
            Err(problem) => {
                stats.steps_failed.add(1);
                // Its words are for the user, and may name people, accounts, mail and files.
                let kind = problem.kind().slug();
                tracing::info!(task = %self.shared.task, step = end.index + 1, kind, "a step failed");
                StepState::Failed
            }
        };
        self.shared.journal.write_step(end.index, |step| {
            step.state = codes::of_step_state(state);
            step.calls_json = serde_json::to_string(&end.calls).ok();
            match &end.outcome {
                Ok(done) => {
                    step.outcome_json = Some(items_json(&done.items));
                    step.text.clone_from(&done.text);
                }
                Err(problem) => step.error_json = Some(problem_json(problem)),
            }
        });
        if let Ok(done) = end.outcome {
            self.know(end.index, done.items, done.text);
        }
    }
}

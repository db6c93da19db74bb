//! Carries out a plan: steps whose dependencies are done, side by side.
//!
//! Invariants:
//! - The plan, and a step's `running`, are on disk before the step's first call.
//! - What a step brought is on disk before a step that depends on it begins; what came in one turn shares a commit.
//! - A step after a failed one is skipped; everything else goes on.

use sluice_protocols::api::StepState;
use sluice_protocols::plan::{Plan, Step};
use sluice_protocols::problem::Problem;
use sluice_store::record::StepRecord;

use super::codes;
use super::join::JoinSet;
use super::journal::{items_json, items_of, problem_json};
use super::step::{Shared, StepEnd, StepRun};
use crate::cancel::Cancel;
use crate::upstream::Google;
use crate::upstream::meter::Meter;
use sluice_protocols::ids::{ShardId, UserId};

/// One plan under way.
pub(super) struct Execution<'a> {
    pub(super) shared: Shared<'a>,
    pub(super) meter: &'a Meter,
    pub(super) shard: ShardId,
    pub(super) user: UserId,
    pub(super) plan: &'a Plan,
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
pub(super) fn fresh_steps(plan: &Plan) -> Vec<StepRecord> {
    let fresh = |step: &Step| StepRecord {
        id: step.id.to_string(),
        state: codes::of_step_state(StepState::Pending),
        intent: None,
        outcome_json: None,
        text: None,
        error_json: None,
        calls_json: None,
    };
    plan.steps().iter().map(fresh).collect()
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
        loop {
            let is_cancelled = self.cancel.is_set();
            if is_cancelled && interrupted.is_empty() && !self.has_effect_under_way() {
                self.leave_the_rest();
                return Ok(Progress::Cancelled);
            }
            // What was under way in an earlier process has to be brought to a known end first.
            let ready = self.begin_ready(&std::mem::take(&mut interrupted), is_cancelled);
            if !ready.is_empty() {
                set.go_on_during(self.shared.journal.commit()).await?;
                for step in ready {
                    set.push(self.step(&step));
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
            if ends.is_empty() {
                return Ok(if is_cancelled { Progress::Cancelled } else { Progress::Whole });
            }
            for end in ends {
                self.stop_if_interrupted(&end)?;
                self.finish(end);
            }
        }
    }

    fn state(&self, index: usize) -> StepState {
        self.shared.journal.read(|task| codes::step_state(task.steps[index].state))
    }

    fn set_state(&self, index: usize, state: StepState) {
        self.shared.journal.write_step(index, |step| step.state = codes::of_step_state(state));
    }

    fn steps_in(&self, state: StepState) -> Vec<usize> {
        (0..self.plan.steps().len()).filter(|index| self.state(*index) == state).collect()
    }

    /// What earlier runs brought.
    fn know_what_is_done(&self) {
        for index in self.steps_in(StepState::Done) {
            let items = self.shared.journal.read(|task| items_of(&task.steps[index]));
            self.shared.known.add(self.plan.steps()[index].id, items);
        }
    }

    /// Marks what may begin as running, and what can never begin as skipped.
    fn begin_ready(&self, interrupted: &[usize], is_cancelled: bool) -> Vec<Ready> {
        let mut ready: Vec<Ready> =
            interrupted.iter().map(|index| Ready { index: *index, resumed: true }).collect();
        if is_cancelled {
            return ready;
        }
        // A skipped step makes those after it skipped, wherever they stand in the plan: at most one round for each.
        for _round in 0..self.plan.steps().len() {
            for index in self.steps_in(StepState::Pending) {
                let states = self.states_before(index);
                if states.iter().any(|state| matches!(state, StepState::Failed | StepState::Skipped)) {
                    self.set_state(index, StepState::Skipped);
                    self.shared.env.stats.steps_skipped.add(1);
                } else if states.iter().all(|state| *state == StepState::Done) {
                    self.set_state(index, StepState::Running);
                    ready.push(Ready { index, resumed: false });
                }
            }
        }
        ready
    }

    /// Whether a step that changes something is running.
    fn has_effect_under_way(&self) -> bool {
        let running = self.steps_in(StepState::Running);
        running.into_iter().any(|index| self.plan.steps()[index].call.is_side_effect())
    }

    /// Steps that only read and are dropped on their way were not come to.
    fn leave_the_rest(&self) {
        for index in self.steps_in(StepState::Running) {
            self.set_state(index, StepState::Pending);
        }
    }

    fn states_before(&self, index: usize) -> Vec<StepState> {
        let before = self.plan.steps()[index].dependencies();
        let place = |id| self.plan.steps().iter().position(|step| step.id == id);
        // A validated plan depends on its own steps alone.
        before.into_iter().filter_map(place).map(|index| self.state(index)).collect()
    }

    fn step(&self, ready: &Ready) -> impl Future<Output = StepEnd> + use<'a> {
        let step: &'a Step = &self.plan.steps()[ready.index];
        let shared = self.shared;
        let google = Google::new(shared.env, self.meter, self.shard, self.user, shared.deadline);
        let run = StepRun { shared, index: ready.index, id: step.id, resumed: ready.resumed, google };
        run.run(&step.call)
    }

    fn stop_if_interrupted(&self, end: &StepEnd) -> Result<(), Problem> {
        if let Some(problem) = self.shared.journal.failure() {
            return Err(problem);
        }
        match &end.outcome {
            Err(_) if self.shared.env.egress.is_closing() => Err(super::shutting_down()),
            _ => Ok(()),
        }
    }

    fn finish(&self, end: StepEnd) {
        let stats = &self.shared.env.stats;
        let state = match &end.outcome {
            Ok(_) => {
                stats.steps_done.add(1);
                StepState::Done
            }
            Err(problem) => {
                stats.steps_failed.add(1);
                tracing::info!(task = %self.shared.task, step = end.index + 1, %problem, "a step failed");
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
            self.shared.known.add(self.plan.steps()[end.index].id, done.items);
        }
    }
}

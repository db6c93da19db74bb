//! Runs tasks: from a command, or from wherever the journal says, to the end.
//!
//! ```text
//! command --rules, patterns or OpenAI--> plan --commit--> steps (side by side, each committed as running before its first call)
//!         --outcomes, committed before what depends on them--> answer
//! ```
//!
//! Invariants:
//! - A task that was journaled is brought to its end by whichever process finds it, and what it does outside
//!   happens exactly once, whenever a process is killed: see [`mail`] and [`agenda`] for how.
//! - A task ends: after its deadline nothing is begun, and what was sent off is sought for a bounded time.
//! - What an upstream says is never trusted to be what was asked for, and never panics this.

mod agenda;
mod answer;
mod brought;
pub mod codes;
mod execute;
mod files;
mod join;
mod journal;
mod known;
mod labels;
mod mail;
pub(crate) mod marks;
mod moved;
mod outlook;
pub(crate) mod replay;
mod reversal;
mod script;
mod seen;
mod share;
mod step;
#[cfg(test)]
mod tests;
mod told;
mod turn;
mod understand;
mod undo;
mod zones;

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use sluice_protocols::api::{IntentView, Mode, StepState, TaskState, task_path};
use sluice_protocols::ids::ShardId;
use sluice_protocols::plan::{Decision, Plan};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_protocols::workflow::{Graph, Input};
use sluice_store::ReadError;
use sluice_store::record::{StepRecord, TaskRecord};

pub use brought::Brought;
pub(crate) use journal::problem_of;
pub use replay::{Remembered, Replay, ReplayError, replay};
pub(crate) use script::{called_json, is_workflow, plan_of};
pub(crate) use told::{Told, told};
pub use turn::{error_of, timing, turn_of, view_of};
pub(crate) use understand::plan_only;
pub(crate) use zones::Zones;

use crate::cancel::Cancel;
use crate::env::Env;
use crate::preferences::Used;
use crate::sessions::Recent;
use crate::upstream::bound::{self, Bound};
use crate::upstream::meter::Meter;
use execute::{Execution, Progress, fresh_steps};
use journal::{Journal, problem_json};
use known::Known;
use script::Script;
use step::Shared;
use understand::Asked;

/// The longest deadline that is believed.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What is told of a task that was cancelled before anything of it was begun.
pub(crate) const NOT_BEGUN: &str = "Cancelled before anything was done.";

/// How a run of a task ended.
#[derive(Debug)]
pub enum RunEnd {
    /// The task is final (done, failed, declined or cancelled): answer, error, steps and times are filled in. Commit it as
    /// finished, then tell the user.
    Final(TaskRecord, Brought),
    /// The task is planned, which is on disk, and nothing of it is carried out before its user confirms it.
    Unconfirmed(TaskRecord),
    /// The process stops, or its storage fails: the task stays pending in the journal, and the next start takes
    /// it up ([`recovered`]). Commit nothing; whoever waits is told the problem.
    Interrupted(TaskRecord, Problem),
}

/// Marks a task found pending on disk at start: its work was promised, so its deadline begins anew when it runs.
#[must_use]
pub fn recovered(mut task: TaskRecord) -> TaskRecord {
    task.attempts = task.attempts.max(1);
    task
}

/// Runs a task from wherever its journal says it is (fresh, planned, or half done) to its end.
///
/// The record must be on disk under `Key::task_pending` already; its `total_us` holds the time spent before this,
/// if any. `recent` are the turns of its session, oldest first. Dropping the future leaves the task to the next
/// start. Never panics on upstream nonsense. Once `cancel` is set nothing is begun any more, what only reads is dropped,
/// and what changes something is brought to its known end; while that lasts, the wish is journaled.
pub async fn run(env: &Env, shard: ShardId, task: TaskRecord, recent: &Recent, cancel: &Cancel) -> RunEnd {
    if codes::task_state(task.state).is_final() {
        return RunEnd::Final(task, Brought::default());
    }
    let (zone, zone_name) = env.zones.get(&task.time_zone);
    let recent = recent.of_account(task.account);
    let task = taken_up(env, task);
    let left_ms = task.deadline_ms.saturating_sub(env.clock.unix_ms());
    let deadline = sluice_core::now() + Duration::from_millis(left_ms).min(DEADLINE_MAX);
    let meter = Meter::default();
    let journal = Journal::new(env, shard, &meter, cancel, task);
    let outcome = {
        let run = Run {
            env,
            shard,
            recent: &recent,
            zone: &zone,
            zone_name: &zone_name,
            deadline,
            meter: &meter,
            journal: &journal,
            cancel,
        };
        let (mut work, mut wish) = (pin!(run.to_end()), pin!(journal.keep_wish()));
        let mut is_kept = false;
        poll_fn(|cx| {
            // Where the wish ends the task at once there is no need to write it down.
            if let Poll::Ready(outcome) = work.as_mut().poll(cx) {
                return Poll::Ready(outcome);
            }
            is_kept = is_kept || wish.as_mut().poll(cx).is_ready();
            Poll::Pending
        })
        .await
    };
    let task = journal.into_task();
    match outcome {
        Ok(Course::Ended(brought)) => RunEnd::Final(task, brought),
        Ok(Course::Unconfirmed) => RunEnd::Unconfirmed(task),
        Err(problem) => {
            env.stats.tasks_interrupted.add(1);
            tracing::warn!(task = %task.id, kind = problem.kind().slug(), "a task is left to the next start");
            RunEnd::Interrupted(task, problem)
        }
    }
}

fn taken_up(env: &Env, mut task: TaskRecord) -> TaskRecord {
    if task.attempts > 0 {
        env.stats.tasks_resumed.add(1);
        let default_ms = u64::try_from(env.config.command_deadline_default.as_millis()).unwrap_or(u64::MAX);
        if is_given_time_anew(&task) {
            task.deadline_ms = task.deadline_ms.max(env.clock.unix_ms().saturating_add(default_ms));
        }
    }
    task.attempts = task.attempts.saturating_add(1);
    task.state = codes::of_task_state(TaskState::Running);
    task
}

/// Whether a task that was taken up before gets a deadline anew: not one that waited for its next attempt, and not one
/// whose caller set the deadline, unless something was begun whose outcome must be found out.
fn is_given_time_anew(task: &TaskRecord) -> bool {
    let was_begun = || task.steps.iter().any(|step| codes::step_state(step.state) == StepState::Running);
    task.not_before_ms == 0 && (!task.deadline_asked || was_begun())
}

/// How far a run came.
enum Course {
    Ended(Brought),
    Unconfirmed,
}

fn shutting_down() -> Problem {
    Problem::new(
        ProblemKind::ShuttingDown,
        "the gateway is shutting down; the task goes on after its restart",
    )
}

struct Run<'a> {
    env: &'a Env,
    shard: ShardId,
    recent: &'a Recent,
    zone: &'a TimeZone,
    zone_name: &'a str,
    deadline: Instant,
    meter: &'a Meter,
    journal: &'a Journal<'a>,
    cancel: &'a Cancel,
}

impl Run<'_> {
    /// # Errors
    /// Why the task must be left to the next start.
    async fn to_end(&self) -> Result<Course, Problem> {
        if self.journal.read(is_workflow) {
            return self.workflow().await;
        }
        let is_new = self.journal.read(|task| task.plan_json.is_none());
        let Some(planned) = self.cancel.unless(self.plan()).await else {
            self.finish(TaskState::Cancelled, NOT_BEGUN.to_owned(), None);
            return Ok(Course::Ended(Brought::default()));
        };
        let plan = match planned {
            Ok(plan) => plan,
            Err(_) if self.env.is_ending() => return Err(shutting_down()),
            Err(problem) => {
                self.fail(&problem, format!("I could not carry that out: {}.", problem.detail()));
                return Ok(Course::Ended(Brought::default()));
            }
        };
        if let Decision::Decline { reason } = &plan.decision {
            self.decline(reason);
            return Ok(Course::Ended(Brought::default()));
        }
        let graph = Graph::of_plan(&plan);
        self.lay_out(&graph);
        if self.must_be_confirmed(&graph).await? {
            return self.unconfirmed().await;
        }
        let brought =
            |known: &Known<'_>| if is_new { Brought::of(&plan, &graph, known) } else { Brought::default() };
        self.carry_out(&graph, &Input::default(), brought).await.map(Course::Ended)
    }

    /// Has the record a step for each of the graph's.
    fn lay_out(&self, graph: &Graph) {
        self.journal.write(|task| {
            if task.steps.len() != graph.nodes().len() {
                task.steps = fresh_steps(graph);
            }
        });
    }

    async fn workflow(&self) -> Result<Course, Problem> {
        let Some(Script::Workflow(_, graph, input)) = self.journal.read(Script::of) else {
            let problem =
                Problem::new(ProblemKind::Internal, "the workflow in the record cannot be read any more");
            self.fail(&problem, format!("I could not carry that out: {}.", problem.detail()));
            return Ok(Course::Ended(Brought::default()));
        };
        if self.cancel.is_set() && self.journal.read(|task| task.steps.is_empty()) {
            self.finish(TaskState::Cancelled, NOT_BEGUN.to_owned(), None);
            return Ok(Course::Ended(Brought::default()));
        }
        self.lay_out(&graph);
        if self.must_be_confirmed(&graph).await? {
            return self.unconfirmed().await;
        }
        self.carry_out(&graph, &input, |_| Brought::default()).await.map(Course::Ended)
    }

    async fn unconfirmed(&self) -> Result<Course, Problem> {
        self.journal.write(|task| task.state = codes::of_task_state(TaskState::AwaitingConfirmation));
        self.journal.commit().await?;
        Ok(Course::Unconfirmed)
    }

    /// Whether the operator, the user or the command asks for a confirmation that was not given yet. What the user asks
    /// is decided before the first step: a task under way is not stopped by a change of mind.
    ///
    /// # Errors
    /// When the store cannot tell for now what the user asks.
    async fn must_be_confirmed(&self, graph: &Graph) -> Result<bool, Problem> {
        let (confirmed, mode) = self.journal.read(|task| (task.confirmed, codes::mode(task.mode)));
        let has = |always: &[&str]| graph.nodes().iter().any(|node| always.contains(&node.call().name()));
        if confirmed {
            return Ok(false);
        }
        let operators: Vec<&str> = self.env.config.confirm.iter().map(String::as_str).collect();
        if mode == Mode::Preview || has(&operators) {
            return Ok(true);
        }
        let is_begun = |step: &StepRecord| codes::step_state(step.state) != StepState::Pending;
        if self.journal.read(|task| task.steps.iter().any(is_begun)) {
            return Ok(false);
        }
        match self.preferred().await {
            Ok(preferred) => {
                let users: Vec<&str> = preferred.confirm.iter().map(|name| &**name).collect();
                Ok(has(&users))
            }
            // What is asked cannot be told, and waiting does not change that: nothing is changed unasked.
            Err(error @ (ReadError::Quarantined { .. } | ReadError::Newer { .. })) => {
                tracing::error!(%error, "preferences cannot be read: every change has to be confirmed");
                Ok(graph.nodes().iter().any(|node| node.call().is_side_effect()))
            }
            Err(error) => {
                tracing::warn!(%error, "preferences cannot be read yet");
                Err(Problem::new(ProblemKind::Storage, "the storage could not be read"))
            }
        }
    }

    async fn preferred(&self) -> Result<Rc<Used>, ReadError> {
        let user = self.journal.read(|task| task.user);
        self.env.preferences.used(self.shard, user).await
    }

    /// The plan in the journal, or a new one, which then goes there with the first commit.
    async fn plan(&self) -> Result<Plan, Problem> {
        let journaled = self.journal.read(|task| task.plan_json.is_some().then(|| plan_of(task)));
        if let Some(plan) = journaled {
            return plan.ok_or_else(|| {
                Problem::new(ProblemKind::Internal, "the plan made before a restart cannot be read any more")
            });
        }
        if let Some(recorded) = &self.env.recorded {
            return Err(recorded.no_plan());
        }
        let (command, user) = self.journal.read(|task| (task.command.clone(), task.user));
        // Of a language that cannot be told the command's own is the best guess.
        let preferred = self.preferred().await.unwrap_or_default();
        let asked = Asked {
            command: &command,
            user: &user,
            recent: self.recent,
            zone: self.zone,
            zone_name: self.zone_name,
            language: preferred.language.as_deref(),
            priority: self.journal.read(|task| codes::priority(task.priority)),
            deadline: self.deadline,
        };
        let understood = asked.understand(self.env, self.meter).await?;
        let view = IntentView { source: understood.source, confidence: understood.confidence.ratio() };
        let plan = understood.plan;
        let json = script::planned_json(&plan, view)
            .ok_or_else(|| Problem::new(ProblemKind::Internal, "the plan cannot be written down"))?;
        self.journal.write(|task| task.plan_json = Some(json));
        Ok(plan)
    }

    /// Where the account is that the task keeps to; from here on the journal says which that is.
    ///
    /// # Errors
    /// When the store cannot tell for now.
    async fn bound(&self) -> Result<Bound, Problem> {
        if self.env.recorded.is_some() {
            return Ok(Bound::Open);
        }
        let (user, known) = self.journal.read(|task| (task.user, task.account));
        let settled = match known {
            Some(acting) => Some(acting),
            None => bound::default_of(self.env, self.shard, user).await?,
        };
        let Some(acting) = settled else { return Ok(Bound::Open) };
        self.journal.write(|task| task.account = Some(acting));
        bound::bound(self.env, self.shard, user, acting).await
    }

    /// Carries it out, and gives what `brought` makes of what came of it.
    async fn carry_out(
        &self,
        graph: &Graph,
        input: &Input,
        brought: impl FnOnce(&Known<'_>) -> Brought,
    ) -> Result<Brought, Problem> {
        let bound = self.bound().await?;
        let known = Known::new(graph, self.recent);
        let (task, user, created_ms) = self.journal.read(|task| (task.id, task.user, task.created_ms));
        let shared = Shared {
            env: self.env,
            task,
            created_ms,
            zone: self.zone,
            zone_name: self.zone_name,
            known: &known,
            journal: self.journal,
            deadline: self.deadline,
            priority: self.journal.read(|task| codes::priority(task.priority)),
            meter: self.meter,
            shard: self.shard,
            user,
            bound: &bound,
        };
        let execution = Execution { shared, graph, input, cancel: self.cancel };
        let progress = execution.run().await?;
        let answer = self.journal.read(|task| answer::compose(task, graph, &known, self.zone));
        let brought = brought(&known);
        if progress == Progress::Cancelled {
            self.finish(TaskState::Cancelled, format!("Cancelled.\n\n{answer}"), None);
            return Ok(brought);
        }
        match self.first_error(graph) {
            Some(problem) => self.fail(&problem, answer),
            None => {
                self.env.stats.tasks_done.add(1);
                self.finish(TaskState::Done, answer, None);
            }
        }
        Ok(brought)
    }

    /// The problem of the first step, in the order of the plan, that went wrong. When something was done all the
    /// same, the command must not be repeated as it is.
    fn first_error(&self, graph: &Graph) -> Option<Problem> {
        self.journal.read(|task| {
            let failed = task.steps.iter().find(|step| codes::step_state(step.state) == StepState::Failed)?;
            let problem = failed.error_json.as_deref().map_or_else(
                || Problem::new(ProblemKind::Internal, "the error was not recorded"),
                problem_of,
            );
            let acted = graph.nodes().iter().zip(&task.steps).any(|(node, record)| {
                node.call().is_side_effect() && codes::step_state(record.state) == StepState::Done
            });
            Some(if acted { problem.with_retryable(false) } else { problem })
        })
    }

    fn decline(&self, reason: &str) {
        self.env.stats.tasks_declined.add(1);
        self.finish(TaskState::Declined, reason.to_owned(), None);
    }

    fn fail(&self, problem: &Problem, answer: String) {
        self.env.stats.tasks_failed.add(1);
        self.finish(TaskState::Failed, answer, Some(problem));
    }

    fn finish(&self, state: TaskState, answer: String, error: Option<&Problem>) {
        let now_ms = self.env.clock.unix_ms();
        self.journal.write(|task| {
            task.state = codes::of_task_state(state);
            task.answer = Some(answer);
            task.error_json =
                error.map(|error| problem_json(&error.clone().with_instance(task_path(task.id))));
            task.finished_ms = Some(now_ms.max(task.created_ms));
        });
    }
}

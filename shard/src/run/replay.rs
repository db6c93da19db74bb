//! Runs a task again from its record, to see how it came to what it came to.
//!
//! The engine is the one that ran it ([`super::run`]), on a store of its own; what its steps brought, and what became of
//! the ways back, is taken from the record where a run would call upstreams. So everything the engine works out itself is
//! worked out again: which steps begin, how they are filled in, which are skipped, what is told in the end.
//!
//! Invariants:
//! - no upstream is called: where the record has no outcome, the replay ends and says what would be asked;
//! - two replays of a record tell the same: clock and zone are the record's, and steps end one at a time, in the order
//!   the record tells of, or one by which the record can have come about.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::future::poll_fn;
use std::path::Path;
use std::rc::Rc;
use std::task::Poll;

use sluice_core::{CoreId, Reactor, ReactorConfig};
use sluice_net::egress::{Egress, EgressConfig, PerUpstream, UpstreamConfig};
use sluice_protocols::api::{StepState, TaskState};
use sluice_protocols::ids::{ShardCount, ShardId};
use sluice_protocols::plan::{Decision, Operation};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_protocols::workflow::{Graph, Node, Turn};
use sluice_store::record::{StepRecord, TaskRecord, TurnRecord};
use sluice_store::vault::Keyring;
use sluice_store::{CoreStore, Store, StoreConfig, Vault};

use super::codes::{self, UndoState};
use super::journal::{items_of, problem_of};
use super::known::Known;
use super::marks::{Mark, marks};
use super::script::Script;
use super::step::{Done, StepEnd};
use super::{NOT_BEGUN, RunEnd, run};
use crate::cancel::Cancel;
use crate::clock::{Clock, timestamp_of};
use crate::env::{Env, RunConfig};
use crate::sessions::Recent;

/// Where nothing is: a replay calls nobody.
const NOWHERE: &str = "http://replay.invalid";

/// What a replay showed.
#[derive(Debug)]
pub struct Replay {
    /// Each step, its operation and its outcome, in lines.
    pub text: String,
    /// Where the replay came to something else than the record.
    pub divergences: Vec<String>,
}

/// Why a task was not replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The record was cut to fit, or is of a form that is not known here.
    #[error("what the task was to do does not stand in its record any more")]
    NoScript,
    /// The scratch directory cannot be used.
    #[error("the scratch store cannot be opened: {0}")]
    Store(#[from] sluice_store::OpenError),
    /// The host lacks something.
    #[error("the replay cannot run here: {0}")]
    Host(String),
}

/// What a session remembered when a task ran.
#[derive(Debug, Default)]
pub struct Remembered {
    /// Its turns, oldest first.
    pub turns: Vec<TurnRecord>,
    /// Whether these are all that it remembered then.
    pub is_whole: bool,
}

/// Replays a task. `scratch` is an empty directory for the engine's own store; nothing in it is of use afterwards.
///
/// # Errors
/// [`ReplayError`].
pub fn replay(record: TaskRecord, remembered: Remembered, scratch: &Path) -> Result<Replay, ReplayError> {
    let is_final = codes::task_state(record.state).is_final();
    if record.plan_json.is_some() && Script::of(&record).is_none() {
        return Err(ReplayError::NoScript);
    }
    let is_planned_to_no_end =
        matches!(codes::task_state(record.state), TaskState::Done | TaskState::Declined);
    if record.plan_json.is_none() && is_final && is_planned_to_no_end {
        return Err(ReplayError::NoScript);
    }
    let host = |error: &dyn std::fmt::Display| ReplayError::Host(error.to_string());
    let store = Store::open(StoreConfig::new(scratch.join("replay"), ShardCount::new(1).expect("1 is one")))?;
    // The engine's own, with keys of its own: nothing of anybody's is in it.
    let keyring = Keyring::generate().map_err(|error| host(&error))?;
    let vault = Vault::open(&store, keyring).map_err(|error| host(&error))?;
    let upstream = || UpstreamConfig::new(NOWHERE);
    let upstreams = PerUpstream {
        openai: upstream(),
        oauth: upstream(),
        gmail: upstream(),
        calendar: upstream(),
        drive: upstream(),
    };
    let egress = Egress::start(EgressConfig::new(upstreams)).map_err(|error| host(&error))?;
    let reactor = Reactor::new(ReactorConfig::new(CoreId::new(0))).map_err(|error| host(&error))?;
    let ran = reactor.block_on(async move {
        let mut config = RunConfig::new("", "", "", "");
        if codes::task_state(record.state) == TaskState::AwaitingConfirmation {
            config.confirm = operations(&record);
        }
        let clock = Clock::manual(record.created_ms);
        let mut env = Env::new(CoreStore::new(&store), vault, egress, config, clock);
        let recorded = Rc::new(Recorded::new(record.clone()));
        env.recorded = Some(Rc::clone(&recorded));
        let shard = ShardId::of(&record.user, store.shard_count());
        let recent = Recent::from(remembered.turns);
        let end = run(&env, shard, anew(&record), &recent, &Cancel::default()).await;
        recorded.conclude(&end, remembered.is_whole);
        recorded.state.take()
    });
    let State { text, divergences, .. } = ran.map_err(|error| host(&error))?;
    Ok(Replay { text, divergences })
}

/// The task as it was when it was known what to do, and nothing of it was done.
fn anew(record: &TaskRecord) -> TaskRecord {
    TaskRecord {
        state: codes::of_task_state(TaskState::Queued),
        finished_ms: None,
        attempts: 0,
        retries: 0,
        not_before_ms: 0,
        last_error_json: None,
        steps: Vec::new(),
        answer: None,
        error_json: None,
        events: Vec::new(),
        cancel_asked: false,
        ..record.clone()
    }
}

fn operations(record: &TaskRecord) -> Vec<String> {
    let graph = match Script::of(record) {
        Some(Script::Plan(plan, _)) => Graph::of_plan(&plan),
        Some(Script::Workflow(_, graph, _)) => graph,
        None => return Vec::new(),
    };
    graph.nodes().iter().map(|node| node.call().name().to_owned()).collect()
}

/// What happens next in a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A step ends.
    End,
    /// The user cancels.
    Cancel,
    /// The record says no more.
    Over,
}

/// The record that a run follows instead of upstreams.
pub(crate) struct Recorded {
    record: TaskRecord,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// The step that ends now.
    ending: Option<usize>,
    is_over: bool,
    text: String,
    divergences: Vec<String>,
}

/// The first or last line of something.
fn line(out: &mut String, label: &str, text: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "{label:>9}  {}", text.replace('\n', "\n           "));
}

impl Recorded {
    fn new(record: TaskRecord) -> Self {
        let recorded = Self { record, state: RefCell::default() };
        recorded.head();
        recorded
    }

    fn say(&self, label: &str, text: &str) {
        line(&mut self.state.borrow_mut().text, label, text);
    }

    fn diverges(&self, text: String) {
        self.say("DIVERGES", &text);
        self.state.borrow_mut().divergences.push(text);
    }

    fn head(&self) {
        let record = &self.record;
        self.say("task", &record.id.to_string());
        self.say("command", &record.command);
        let accepted = timestamp_of(record.created_ms);
        let attempts = record.attempts;
        self.say("accepted", &format!("{accepted}, in {}; {attempts} attempts", record.time_zone));
        let script = match Script::of(record) {
            None => return self.say("plan", "none yet"),
            Some(Script::Workflow(view, graph, _)) => {
                let steps = graph.nodes().len();
                return self
                    .say("workflow", &format!("{} version {}, {steps} steps", view.name, view.version));
            }
            Some(Script::Plan(plan, intent)) => (plan, intent),
        };
        let (plan, intent) = script;
        let by = intent
            .map_or_else(|| "unknown".to_owned(), |intent| format!("{:?}", intent.source).to_lowercase());
        match &plan.decision {
            Decision::Act(steps) => self.say("plan", &format!("{} steps, by {by}", steps.len())),
            Decision::Decline { reason } => self.say("plan", &format!("decline, by {by}: {reason}")),
        }
    }

    /// Whether the record says no more.
    pub(crate) fn is_over(&self) -> bool {
        self.state.borrow().is_over
    }

    fn state_of(&self, index: usize) -> StepState {
        self.record.steps.get(index).map_or(StepState::Pending, |step| codes::step_state(step.state))
    }

    fn has_outcome(&self, index: usize) -> bool {
        matches!(self.state_of(index), StepState::Done | StepState::Failed)
    }

    fn was_begun(&self, index: usize) -> bool {
        self.has_outcome(index) || self.state_of(index) == StepState::Running
    }

    fn is_cancelled(&self) -> bool {
        codes::task_state(self.record.state) == TaskState::Cancelled
    }

    /// When a step ended, by what was told of the task; those of which nothing was told come in their order.
    fn rank(&self, index: usize) -> (u64, usize) {
        let mut told = marks(&self.record).filter_map(|(id, mark)| match mark {
            Mark::Stepped(step, _) if usize::from(step) == index => Some(id),
            _ => None,
        });
        (told.next_back().unwrap_or(u64::MAX), index)
    }

    /// What the model made of the command, of a task without a plan: the failure that stands in the record.
    pub(super) fn no_plan(&self) -> Problem {
        if let Some(json) = self.record.error_json.as_deref() {
            self.say("understand", "failed");
            return problem_of(json);
        }
        self.say("next", "what the command means: by rules, by a pattern, or by the model");
        self.state.borrow_mut().is_over = true;
        over()
    }

    /// A step is begun, with its operation as it is filled in.
    pub(super) fn begun(&self, index: usize, node: &Node, call: &Operation, known: &Known<'_>) {
        let mut text = told_call(node, call);
        let mut lost = None;
        for reference in call.references() {
            let _ = match known.item(reference) {
                Ok(item) => write!(text, "\n{reference} is the {} {} “{}”", item.kind, item.id, item.title),
                Err(problem) => {
                    lost = Some(problem.detail().to_owned());
                    write!(text, "\n{reference} leads nowhere: {}", problem.detail())
                }
            };
        }
        self.say("begin", &text);
        let is_of_session = call.references().any(|reference| reference.step().is_none());
        if let (Some(why), StepState::Done, false) = (lost, self.state_of(index), is_of_session) {
            self.diverges(format!("{} is done by the record, but {why}", node.id()));
        }
    }

    /// Chooses what happens next to the steps under way.
    pub(super) fn choose(
        &self,
        graph: &Graph,
        state: impl Fn(usize) -> StepState,
        is_cancelled: bool,
    ) -> Next {
        let in_state = |wanted: StepState| -> Vec<usize> {
            (0..graph.nodes().len()).filter(|index| state(*index) == wanted).collect()
        };
        let mut known: Vec<usize> =
            in_state(StepState::Running).into_iter().filter(|index| self.has_outcome(*index)).collect();
        known.sort_by_key(|index| self.rank(*index));
        let pending = in_state(StepState::Pending);
        let waits_for_begun = pending.iter().any(|index| self.was_begun(*index));
        let only_effects = known.iter().all(|index| graph.nodes()[*index].call().is_side_effect());
        if self.is_cancelled() && !is_cancelled && !waits_for_begun && only_effects {
            return Next::Cancel;
        }
        let begins = |index: usize| {
            let then = |other| if other == index { StepState::Done } else { state(other) };
            pending
                .iter()
                .copied()
                .filter(|other| graph.turn(*other, then) == Turn::MayBegin)
                .collect::<Vec<_>>()
        };
        // Where a failure ends the whole, what the record has as begun began before it, and what it has not, after it.
        let fits = |index: &&usize| {
            if !graph.stops_at_failure() {
                return true;
            }
            match self.state_of(**index) {
                StepState::Failed => !waits_for_begun,
                _ => {
                    let begun = begins(**index);
                    begun.is_empty() || begun.iter().any(|other| self.was_begun(*other))
                }
            }
        };
        let ending = known.iter().find(fits).or_else(|| known.first()).copied();
        let mut own = self.state.borrow_mut();
        own.ending = ending;
        own.is_over = ending.is_none();
        if ending.is_some() { Next::End } else { Next::Over }
    }

    /// The end of a step, once it is its turn.
    pub(super) async fn end_of(&self, index: usize) -> StepEnd {
        poll_fn(|_| {
            let mut state = self.state.borrow_mut();
            if state.ending != Some(index) {
                return Poll::Pending;
            }
            state.ending = None;
            Poll::Ready(())
        })
        .await;
        let step = &self.record.steps[index];
        let outcome = match codes::step_state(step.state) {
            StepState::Done => Ok(Done { text: step.text.clone(), ..Done::items(items_of(step)) }),
            _ => Err(step_problem(step)),
        };
        StepEnd { index, outcome, calls: Vec::new() }
    }

    /// A step ended.
    pub(super) fn ended(&self, node: &Node, outcome: &Result<Done, Problem>) {
        let mut text = node.id().to_string();
        let _ = match outcome {
            Err(problem) => write!(text, " failed, {}: {}", problem.kind().slug(), problem.detail()),
            Ok(done) => {
                let _ = write!(text, " done, {} results", done.items.len());
                done.items.iter().for_each(|item| {
                    let _ = write!(text, "\n{} {} “{}”", item.kind, item.id, item.title);
                });
                match &done.text {
                    Some(read) => write!(text, "\na text of {} characters", read.chars().count()),
                    None => Ok(()),
                }
            }
        };
        self.say("end", &text);
    }

    /// What became of the way back of a step; `None` when the record does not say.
    pub(super) fn way_back(&self, index: usize, node: &Node) -> Option<Result<(), Problem>> {
        let step = &self.record.steps[index];
        let outcome = match codes::undo_state(step.undo) {
            UndoState::Done => Some(Ok(())),
            UndoState::Failed => Some(Err(problem_of(step.undo_error_json.as_deref().unwrap_or_default()))),
            UndoState::Running | UndoState::Untouched => None,
        };
        let told = match &outcome {
            Some(Ok(())) => "taken back".to_owned(),
            Some(Err(problem)) => format!("not taken back: {}", problem.detail()),
            None => {
                self.state.borrow_mut().is_over = true;
                self.say("next", &format!("{} {} is taken back", node.id(), node.call().name()));
                return None;
            }
        };
        self.say("undo", &format!("{} {} {told}", node.id(), node.call().name()));
        outcome
    }

    /// Compares what the replay came to with the record.
    fn conclude(&self, end: &RunEnd, is_session_whole: bool) {
        let recorded = codes::task_state(self.record.state);
        let task = match end {
            RunEnd::Final(task, _) | RunEnd::Unconfirmed(task) | RunEnd::Interrupted(task, _) => task,
        };
        match end {
            RunEnd::Interrupted(task, _) => self.tell_open(task, recorded),
            RunEnd::Unconfirmed(_) => {
                self.say("next", "its user confirms it, or cancels it");
                if !matches!(recorded, TaskState::AwaitingConfirmation | TaskState::Cancelled) {
                    self.diverges(format!(
                        "it awaits its confirmation; the record has it as {}",
                        recorded.name()
                    ));
                }
            }
            RunEnd::Final(task, _) => self.compare_end(task, recorded, is_session_whole),
        }
        for (index, (replayed, step)) in task.steps.iter().zip(&self.record.steps).enumerate() {
            self.compare_step(index, replayed, step);
        }
        if task.steps.len() != self.record.steps.len() && !self.record.steps.is_empty() {
            let (ours, theirs) = (task.steps.len(), self.record.steps.len());
            self.diverges(format!("there are {ours} steps; the record has {theirs}"));
        }
        let count = self.state.borrow().divergences.len();
        match count {
            0 => self.say("replay", "agrees with the record"),
            count => self.say("replay", &format!("diverges from the record in {count} places")),
        }
    }

    /// The record ends before the task does.
    fn tell_open(&self, task: &TaskRecord, recorded: TaskState) {
        for (index, replayed) in task.steps.iter().enumerate() {
            if codes::step_state(replayed.state) != StepState::Running {
                continue;
            }
            let Some(step) = self.record.steps.get(index) else { continue };
            let stood = match codes::step_state(step.state) {
                StepState::Running => "it was under way when the record was written",
                _ => "it was not begun when the record was written",
            };
            let noted = step.intent.as_ref().map_or_else(String::new, |intent| format!("; noted: {intent}"));
            self.say("next", &format!("{}: {stood}{noted}", step.id));
        }
        if recorded.is_final() {
            self.diverges(format!(
                "the record has it as {}, but the replay does not come to an end",
                recorded.name()
            ));
        } else {
            self.say("state", recorded.name());
        }
    }

    fn compare_end(&self, task: &TaskRecord, recorded: TaskState, is_session_whole: bool) {
        let state = codes::task_state(task.state);
        let answer = task.answer.as_deref().unwrap_or_default();
        self.say("answer", answer);
        self.say("state", state.name());
        if !recorded.is_final() {
            return self.say("next", "nobody is asked any more: that is its end");
        }
        if state != recorded {
            self.diverges(format!("it ends as {}; the record has it as {}", state.name(), recorded.name()));
        }
        let theirs = self.record.answer.as_deref().unwrap_or_default();
        let is_untold = theirs == NOT_BEGUN && state == TaskState::Cancelled;
        if answer != theirs && !is_untold {
            if is_session_whole {
                self.diverges(format!("the answer of the record is: {theirs}"));
            } else {
                self.say(
                    "note",
                    "the answer differs, but what the session remembered then is not kept any more",
                );
            }
        }
        if task.error_json != self.record.error_json {
            let said = |json: &Option<String>| {
                json.as_deref().map_or_else(|| "none".to_owned(), |json| problem_of(json).to_string())
            };
            let (ours, theirs) = (said(&task.error_json), said(&self.record.error_json));
            self.diverges(format!("the problem is {ours}; of the record {theirs}"));
        }
    }

    fn compare_step(&self, index: usize, replayed: &StepRecord, step: &StepRecord) {
        let (ours, theirs) = (codes::step_state(replayed.state), codes::step_state(step.state));
        let is_open = matches!(ours, StepState::Running | StepState::Pending);
        if ours == StepState::Skipped {
            self.say("skipped", &step.id);
        }
        if ours != theirs && !(is_open && !self.has_outcome(index) && theirs != StepState::Skipped) {
            let (ours, theirs) = (step_state_name(ours), step_state_name(theirs));
            return self.diverges(format!("{} is {ours}; the record has it as {theirs}", step.id));
        }
        let was_begun = matches!(theirs, StepState::Done | StepState::Failed | StepState::Running);
        if was_begun && replayed.call_json != step.call_json {
            let said = |json: &Option<String>| json.clone().unwrap_or_else(|| "nothing".to_owned());
            let (ours, theirs) = (said(&replayed.call_json), said(&step.call_json));
            self.diverges(format!("{} is filled in as {ours}; in the record it is {theirs}", step.id));
        }
        if replayed.error_json != step.error_json && ours == theirs {
            self.diverges(format!(
                "{} fails otherwise than in the record: {}",
                step.id,
                step_problem(replayed)
            ));
        }
        if replayed.undo != step.undo && !self.is_over() {
            self.diverges(format!("{} is taken back otherwise than in the record", step.id));
        }
    }
}

fn step_state_name(state: StepState) -> &'static str {
    match state {
        StepState::Pending => "pending",
        StepState::Running => "running",
        StepState::Done => "done",
        StepState::Failed => "failed",
        StepState::Skipped => "skipped",
    }
}

fn step_problem(step: &StepRecord) -> Problem {
    problem_of(step.error_json.as_deref().unwrap_or_default())
}

/// Why a replay goes no further.
pub(super) fn over() -> Problem {
    Problem::new(ProblemKind::Internal, "the record ends here")
}

fn told_call(node: &Node, call: &Operation) -> String {
    let name = node.name().map_or_else(String::new, |name| format!(" ({name})"));
    format!("{}{name} {}", node.id(), serde_json::to_string(call).unwrap_or_default())
}

//! One step: what every operation needs, and how a call with an effect is brought to a known end.
//!
//! Invariants:
//! - A step runs only after the journal has it as `running`.
//! - A step that fails says so definitely, or says that the outcome is not known; it never guesses.

use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use sluice_net::egress::EgressError;
use sluice_protocols::api::{CallView, Priority};
use sluice_protocols::google::{ApiCall, UpstreamFault};
use sluice_protocols::ids::{ShardId, TaskId, UserId};
use sluice_protocols::plan::{Item, Operation, StepId};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_protocols::workflow::Node;

use super::journal::Journal;
use super::known::Known;
use super::seen::Seen;
use crate::cancel::Cancel;
use crate::env::Env;
use crate::tasks::may_pass;
use crate::upstream::bound::Bound;
use crate::upstream::meter::Meter;
use crate::upstream::{Backoff, CallError, Google, Reply, title};

/// Most rounds in which the outcome of a call is sought: with waits that grow to 5 s, more than the longest
/// deadline and any sensible grace together allow.
pub(super) const ROUNDS_MAX: usize = 100;
/// The longest id of a service that is taken: Calendar allows 1,024 characters.
const ID_BYTES_MAX: usize = 1_024;
/// The longest wait between two tries of a step, unless the upstream asks for more.
const TRY_WAIT_MAX: Duration = Duration::from_secs(30);
/// The longest thread id that is taken.
const THREAD_ID_BYTES_MAX: usize = 256;

/// What a step found or made.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Done {
    pub(super) items: Vec<Seen>,
    /// What it read.
    pub(super) text: Option<String>,
}

impl Done {
    pub(super) fn items(items: impl IntoIterator<Item = impl Into<Seen>>) -> Self {
        let items = items.into_iter().map(Into::into);
        Self { items: items.filter_map(usable).collect(), text: None }
    }
}

/// An item whose ids can be stored and used again.
fn usable(item: Seen) -> Option<Seen> {
    if item.id.is_empty() || item.id.len() > ID_BYTES_MAX {
        return None;
    }
    let is_named = item.thread_id.as_ref().is_none_or(|id| id.len() <= THREAD_ID_BYTES_MAX);
    Some(if is_named { item } else { Item { thread_id: None, ..(*item).clone() }.into() })
}

/// How a step ended.
pub(super) struct StepEnd {
    pub(super) index: usize,
    pub(super) outcome: Result<Done, Problem>,
    pub(super) calls: Vec<CallView>,
}

/// What all steps of a task share.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    pub(super) env: &'a Env,
    pub(super) task: TaskId,
    pub(super) created_ms: u64,
    pub(super) zone: &'a TimeZone,
    pub(super) zone_name: &'a str,
    pub(super) known: &'a Known<'a>,
    pub(super) journal: &'a Journal<'a>,
    /// The task's.
    pub(super) deadline: Instant,
    /// The task's.
    pub(super) priority: Priority,
    pub(super) meter: &'a Meter,
    pub(super) shard: ShardId,
    pub(super) user: UserId,
    /// The account that the task keeps to.
    pub(super) bound: &'a Bound,
}

impl<'a> Shared<'a> {
    /// Google in the name of the task's user, with the account that the task keeps to.
    pub(super) fn google(&self, deadline: Instant) -> Google<'a> {
        let google = Google::new(self.env, self.meter, self.shard, self.user, deadline);
        google.of_task(self.bound).with_priority(self.priority)
    }
}

/// A step under way.
pub(super) struct StepRun<'a> {
    pub(super) shared: Shared<'a>,
    /// Its place in the task's record.
    pub(super) index: usize,
    pub(super) id: StepId,
    /// The journal had it as running before this process began it: its calls may have been made.
    pub(super) resumed: bool,
    /// It is taken back should the whole fail, so that what it changes must be noted first.
    pub(super) is_undone: bool,
    /// When this try must be over.
    pub(super) deadline: Instant,
    pub(super) google: Google<'a>,
}

/// When a try that begins now must be over, by the task's deadline and the step's own time.
pub(super) fn deadline_of((task, timeout_ms): (Instant, Option<u32>)) -> Instant {
    let own = timeout_ms.map(|ms| sluice_core::now() + Duration::from_millis(ms.into()));
    own.map_or(task, |own| own.min(task))
}

impl StepRun<'_> {
    /// Runs the step to its end: as often as its author allows, while what goes wrong may pass.
    pub(super) async fn run(mut self, call: Operation, node: &Node, cancel: &Cancel) -> StepEnd {
        let mut wait = Duration::from_millis(u64::from(node.tries().wait_ms));
        let mut calls = Vec::new();
        loop {
            let outcome = self.perform(&call).await;
            let rest = (self.shared.deadline, node.timeout_ms());
            let next = self.shared.google(deadline_of(rest));
            calls.extend(std::mem::replace(&mut self.google, next).into_calls());
            let Err(problem) = &outcome else { return StepEnd { index: self.index, outcome, calls } };
            if !self.is_tried_again(problem, node) || !self.wait_to_try(wait, problem, cancel).await {
                return StepEnd { index: self.index, outcome, calls };
            }
            wait = wait.saturating_mul(2).min(TRY_WAIT_MAX);
            self.shared.journal.write_step(self.index, |step| step.tries = step.tries.saturating_add(1));
            if let Err(problem) = self.shared.journal.commit().await {
                return StepEnd { index: self.index, outcome: Err(problem), calls };
            }
            self.shared.env.stats.steps_retried.add(1);
            // What the try before did is looked for first.
            self.resumed = call.is_side_effect();
            self.deadline = deadline_of(rest);
            self.google = self.shared.google(self.deadline);
        }
    }

    fn is_tried_again(&self, problem: &Problem, node: &Node) -> bool {
        let tried = self.shared.journal.read(|task| task.steps[self.index].tries);
        let is_late = problem.kind() == ProblemKind::StepTimeout && problem.is_retryable();
        tried < u32::from(node.tries().max)
            && (may_pass(problem) || is_late)
            && !self.shared.env.egress.is_closing()
    }

    /// Waits before the next try. `false` when there is no time for one, or the task is cancelled.
    async fn wait_to_try(&self, wait: Duration, problem: &Problem, cancel: &Cancel) -> bool {
        let asked = Duration::from_secs(problem.retry_after_s().unwrap_or(0).into());
        // Half of it by lot, so that those who failed together do not come back together.
        let lot = f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX);
        let until = sluice_core::now() + (wait / 2 + (wait / 2).mul_f64(lot)).max(asked);
        if until >= self.shared.deadline {
            return false;
        }
        !cancel.is_set() && cancel.unless(sluice_core::sleep_until(until)).await.is_some()
    }

    /// Puts on disk what is about to be done.
    pub(super) async fn note_intent(&self, intent: String) -> Result<(), Problem> {
        self.shared.journal.write_step(self.index, |step| step.intent = Some(intent));
        self.shared.journal.commit().await
    }

    async fn perform(&self, call: &Operation) -> Result<Done, Problem> {
        match call {
            Operation::GmailSearch { query, limit } => self.gmail_search(query, *limit).await,
            Operation::CalendarList { from, to, query, limit } => {
                self.calendar_list(*from, *to, query.as_deref(), *limit).await
            }
            Operation::DriveSearch { text, limit } => self.drive_search(text, *limit).await,
            // Apart, so that a step that is answered from the cache does not carry the room that the sending of a mail needs.
            Operation::GmailRead { message } => Box::pin(self.gmail_read(*message)).await,
            Operation::GmailSend { to, subject, body } => Box::pin(self.gmail_send(to, subject, body)).await,
            Operation::GmailReply { message, body } => Box::pin(self.gmail_reply(*message, body)).await,
            Operation::CalendarCreate { .. } => Box::pin(self.calendar_create(call)).await,
            Operation::CalendarChange { .. } => Box::pin(self.calendar_change(call)).await,
            Operation::CalendarDelete { event } => Box::pin(self.calendar_delete(*event)).await,
            Operation::DriveRead { file } => Box::pin(self.drive_read(*file)).await,
            Operation::GmailDraft { to, subject, body } => {
                Box::pin(self.gmail_draft(to, subject, body)).await
            }
            Operation::GmailForward { message, to, body } => {
                Box::pin(self.gmail_forward(*message, to, body)).await
            }
            Operation::GmailLabel { message, add, remove } => {
                Box::pin(self.gmail_label(*message, add, remove)).await
            }
            Operation::GmailTrash { message } => Box::pin(self.gmail_trash(*message)).await,
            Operation::CalendarFreeBusy { from, to, people } => {
                Box::pin(self.calendar_free_busy(*from, *to, people)).await
            }
            Operation::DriveCreate { name, folder, text } => {
                Box::pin(self.drive_create(name, *folder, text.as_deref())).await
            }
            Operation::DriveShare { file, people, role } => {
                Box::pin(self.drive_share(*file, people, *role)).await
            }
            Operation::DriveExport { file, format } => Box::pin(self.drive_export(*file, *format)).await,
            Operation::DriveMove { file, folder } => Box::pin(self.drive_move(*file, *folder)).await,
            Operation::DriveTrash { file } => Box::pin(self.drive_trash(*file)).await,
        }
    }

    /// The step's deadline, the task's at the latest: nothing is begun after it.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Until when the outcome of something already sent off is sought.
    pub(super) fn limit(&self) -> Instant {
        self.deadline + self.shared.env.config.unknown_outcome_grace
    }

    /// What the user is told of a call that failed for certain.
    pub(super) fn problem(&self, error: &CallError) -> Problem {
        if self.is_over_own_time() {
            let asked = match error {
                CallError::Lost { service, error: EgressError::DeadlineExceeded { .. } } => {
                    Some(title(*service))
                }
                CallError::NoToken(problem) if problem.kind() == ProblemKind::DeadlineExceeded => {
                    Some("Google's token endpoint")
                }
                _ => None,
            };
            if let Some(asked) = asked {
                let detail = format!("the time that the step may take ran out while {asked} was asked");
                return Problem::new(ProblemKind::StepTimeout, detail);
            }
        }
        let problem = error.to_problem(self.deadline());
        // An earlier run may have carried it out, and with the account is gone who could tell.
        match problem.kind() {
            ProblemKind::AccountGone if self.resumed => self.unknown("this was done before", &problem),
            _ => problem,
        }
    }

    /// Whether it is the step's time that ran out, and not that of the task.
    fn is_over_own_time(&self) -> bool {
        self.deadline < self.shared.deadline && sluice_core::now() >= self.deadline
    }

    /// Notes that a call may or may not have been carried out.
    pub(super) fn note_doubt(&self) {
        self.shared.env.stats.outcomes_unknown.add(1);
    }

    /// What the user is told when it stays unknown whether something was done.
    pub(super) fn unknown(&self, whether: &str, last: &Problem) -> Problem {
        self.shared.env.stats.outcomes_unresolved.add(1);
        // Its words are for the user.
        let last_kind = last.kind().slug();
        tracing::warn!(task = %self.shared.task, step = %self.id, last_kind, "the outcome stays unknown");
        let detail = format!("it is not known whether {whether}: {}", last.detail());
        let kind = match last.kind() {
            ProblemKind::UpstreamTimeout | ProblemKind::DeadlineExceeded | ProblemKind::StepTimeout => {
                ProblemKind::UpstreamTimeout
            }
            ProblemKind::AccountGone => ProblemKind::AccountGone,
            _ => ProblemKind::UpstreamUnavailable,
        };
        let problem = Problem::new(kind, detail).with_retryable(false);
        match last.link() {
            Some(link) => problem.with_link(link),
            None => problem,
        }
    }

    /// Makes a call that may safely be repeated, until it is known what became of it. The answer comes with
    /// whether an earlier attempt, in this or an earlier process, may have been carried out before it.
    ///
    /// # Errors
    /// A problem that says that the outcome is unknown, when time is up; or that nothing was done.
    pub(super) async fn settle(
        &self,
        call: &ApiCall,
        whether: &str,
    ) -> Result<(Result<Reply, CallError>, bool), Problem> {
        self.settle_unless(call, whether, async || false).await
    }

    /// As [`Self::settle`]; but before the call is repeated in doubt, `is_done` is asked. When it says so, the
    /// answer is an empty one.
    pub(super) async fn settle_unless(
        &self,
        call: &ApiCall,
        whether: &str,
        is_done: impl AsyncFn() -> bool,
    ) -> Result<(Result<Reply, CallError>, bool), Problem> {
        let mut in_doubt = self.resumed;
        let mut backoff = Backoff::new();
        for _round in 0..ROUNDS_MAX {
            let limit = if in_doubt { self.limit() } else { self.deadline() };
            let error = match self.google.act(call, limit).await {
                Ok(reply) => return Ok((Ok(reply), in_doubt)),
                Err(error) => error,
            };
            if error.outcome_unknown() {
                self.note_doubt();
                in_doubt = true;
            } else if !goes_on(&error, in_doubt) {
                return Ok((Err(error), in_doubt));
            }
            let limit = if in_doubt { self.limit() } else { self.deadline() };
            if !backoff.wait(error.retry_after(), limit).await {
                let problem = self.problem(&error);
                return Err(if in_doubt { self.unknown(whether, &problem) } else { problem });
            }
            if in_doubt && is_done().await {
                return Ok((Ok(Reply::default()), in_doubt));
            }
        }
        let late = Problem::new(ProblemKind::UpstreamTimeout, "no clear answer came");
        Err(self.unknown(whether, &late))
    }
}

/// Whether to try again after an error that means that nothing was done: when Google asks for patience, and, while
/// an earlier attempt is in doubt, whenever that may change.
pub(super) fn goes_on(error: &CallError, in_doubt: bool) -> bool {
    matches!(error.fault(), Some(UpstreamFault::RateLimited { .. })) || (in_doubt && error.is_passing())
}

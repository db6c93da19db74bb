//! Whether a task that failed is tried again, and when. Pure.
//!
//! A task is tried again when everything that failed in it failed in a way that may pass, and nothing of it is in doubt;
//! what was done stays done, for it stands in the journal. The wait is chosen evenly between nothing and a bound that
//! doubles with each attempt (full jitter), but never less than what the upstream asked for.

use std::time::Duration;

use sluice_protocols::api::{Mode, StepState, TaskState};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::record::{StepRecord, TaskRecord};

use crate::config::ShardConfig;
use crate::run::{codes, is_workflow, plan_of, problem_of};

/// How often and after what waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetryLimits {
    attempts_max: u32,
    base: Duration,
    max: Duration,
}

/// What becomes of a task that is final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is over.
    End,
    /// It is over, and set aside: it might have worked.
    DeadLetter,
    /// It is tried again, not before this moment in milliseconds since 1970.
    Again(u64),
}

impl RetryLimits {
    pub(super) fn new(config: &ShardConfig) -> Self {
        Self {
            attempts_max: config.task_attempts_max,
            base: config.task_retry_base,
            max: config.task_retry_max,
        }
    }

    /// Judges a final task; `random` is any number.
    pub(super) fn judge(&self, task: &TaskRecord, now_ms: u64, random: u64) -> Verdict {
        let Some(problem) = passing(task) else { return Verdict::End };
        let asked_ms = u64::from(problem.retry_after_s().unwrap_or(0)) * 1_000;
        let wait_ms = self.wait_ms(task.retries, random).max(asked_ms).max(1);
        let not_before_ms = now_ms.saturating_add(wait_ms);
        if task.retries.saturating_add(1) >= self.attempts_max || not_before_ms >= task.deadline_ms {
            return Verdict::DeadLetter;
        }
        Verdict::Again(not_before_ms)
    }

    fn wait_ms(&self, retries: u32, random: u64) -> u64 {
        let bound = self.base.saturating_mul(1 << retries.min(20)).min(self.max);
        let bound_ms = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX);
        random % bound_ms.saturating_add(1)
    }
}

/// Why a task failed, when all of that may pass and its caller does not stand and wait.
fn passing(task: &TaskRecord) -> Option<Problem> {
    if codes::task_state(task.state) != TaskState::Failed || codes::mode(task.mode) == Mode::Sync {
        return None;
    }
    // The steps of a workflow are tried again one by one, and what it did was taken back.
    if is_workflow(task) {
        return None;
    }
    let mut problems: Vec<Problem> =
        task.steps.iter().filter(is_failed).filter_map(problem_of_step).collect();
    if problems.is_empty() {
        problems.extend(task.error_json.as_deref().map(problem_of));
    }
    let all_pass = !problems.is_empty() && problems.iter().all(may_pass);
    all_pass.then(|| problems.swap_remove(0))
}

fn is_failed(step: &&StepRecord) -> bool {
    codes::step_state(step.state) == StepState::Failed
}

/// A failed step without an error that can be read has one that does not pass.
fn problem_of_step(step: &StepRecord) -> Option<Problem> {
    Some(problem_of(step.error_json.as_deref().unwrap_or_default()))
}

/// Whether what went wrong may go right later, and nothing is in doubt.
pub(crate) fn may_pass(problem: &Problem) -> bool {
    let kind = matches!(
        problem.kind(),
        ProblemKind::UpstreamUnavailable
            | ProblemKind::UpstreamTimeout
            | ProblemKind::UpstreamLimited
            | ProblemKind::UpstreamInvalid
            | ProblemKind::Overloaded
    );
    kind && problem.is_retryable()
}

/// Makes a failed task one that waits for its next attempt. A step that changes something is taken up like one that was
/// interrupted: what it did is looked for first.
pub(super) fn reopen(task: &mut TaskRecord, not_before_ms: u64) {
    let plan = plan_of(task);
    let changes = |index: usize| {
        plan.as_ref().and_then(|plan| plan.steps().get(index)).is_none_or(|step| step.call.is_side_effect())
    };
    for (index, step) in task.steps.iter_mut().enumerate() {
        let state = match codes::step_state(step.state) {
            StepState::Failed if changes(index) => StepState::Running,
            StepState::Failed | StepState::Skipped => StepState::Pending,
            StepState::Pending | StepState::Running | StepState::Done => continue,
        };
        step.state = codes::of_step_state(state);
        step.error_json = None;
    }
    task.state = codes::of_task_state(TaskState::Queued);
    task.last_error_json = task.error_json.take();
    task.answer = None;
    task.finished_ms = None;
    task.retries = task.retries.saturating_add(1);
    task.not_before_ms = not_before_ms;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sluice_protocols::ids::{SessionId, TaskId, UserId};
    use sluice_store::record::WaitsRecord;

    use super::*;

    const NOW_MS: u64 = 1_000_000;

    fn limits() -> RetryLimits {
        let (base, max) = (Duration::from_millis(500), Duration::from_secs(4));
        RetryLimits { attempts_max: 4, base, max }
    }

    fn json(problem: &Problem) -> Option<String> {
        serde_json::to_string(problem).ok()
    }

    fn step(state: StepState, problem: Option<Problem>) -> StepRecord {
        StepRecord {
            error_json: problem.as_ref().and_then(json),
            ..StepRecord::new("s1".to_owned(), codes::of_step_state(state))
        }
    }

    fn failed(problem: &Problem, steps: Vec<StepRecord>) -> TaskRecord {
        TaskRecord {
            id: TaskId::new(1, [1; 10]),
            user: UserId::from_bytes([1; 16]),
            session: SessionId::from_bytes([2; 16]),
            command: "x".to_owned(),
            mode: codes::of_mode(Mode::Async),
            state: codes::of_task_state(TaskState::Failed),
            priority: 2,
            time_zone: "UTC".to_owned(),
            created_ms: NOW_MS,
            deadline_ms: NOW_MS + 60_000,
            deadline_asked: false,
            confirmed: false,
            finished_ms: Some(NOW_MS),
            attempts: 1,
            retries: 0,
            not_before_ms: 0,
            last_error_json: None,
            plan_json: None,
            steps,
            answer: Some("no".to_owned()),
            error_json: json(problem),
            openai_us: 0,
            google_us: 0,
            total_us: 0,
            events: Vec::new(),
            account: None,
            waits: WaitsRecord::default(),
            cancel_asked: false,
        }
    }

    fn unavailable() -> Problem {
        Problem::new(ProblemKind::UpstreamUnavailable, "down")
    }

    #[test]
    fn what_may_pass_is_tried_again_until_attempts_or_time_run_out() {
        let task = failed(&unavailable(), Vec::new());
        assert_eq!(limits().judge(&task, NOW_MS, 499), Verdict::Again(NOW_MS + 499));
        let last = TaskRecord { retries: 3, ..task.clone() };
        assert_eq!(limits().judge(&last, NOW_MS, 0), Verdict::DeadLetter);
        let late = TaskRecord { deadline_ms: NOW_MS + 400, ..task.clone() };
        assert_eq!(limits().judge(&late, NOW_MS, 400), Verdict::DeadLetter);
        let asked = failed(&unavailable().with_retry_after_s(7), Vec::new());
        assert_eq!(limits().judge(&asked, NOW_MS, 400), Verdict::Again(NOW_MS + 7_000));
    }

    #[test]
    fn what_will_not_pass_or_is_in_doubt_or_was_waited_for_is_over() {
        let over = |task: &TaskRecord| limits().judge(task, NOW_MS, 1) == Verdict::End;
        assert!(over(&failed(&Problem::new(ProblemKind::UnresolvedReference, "which?"), Vec::new())));
        assert!(over(&failed(&unavailable().with_retryable(false), Vec::new())));
        let task = failed(&unavailable(), Vec::new());
        assert!(over(&TaskRecord { mode: codes::of_mode(Mode::Sync), ..task.clone() }));
        assert!(over(&TaskRecord { state: codes::of_task_state(TaskState::Cancelled), ..task }));
        // One step that will not pass is enough; the task's own error tells of the first alone.
        let doubt = step(StepState::Failed, Some(unavailable().with_retryable(false)));
        let steps = vec![step(StepState::Failed, Some(unavailable())), doubt];
        assert!(over(&failed(&unavailable(), steps)));
        assert!(over(&failed(&unavailable(), vec![step(StepState::Failed, None)])));
    }

    #[test]
    fn what_was_done_stays_done() {
        let steps = vec![
            step(StepState::Done, None),
            step(StepState::Failed, Some(unavailable())),
            step(StepState::Skipped, None),
        ];
        // The task's own error says that it must not be repeated as a whole; its steps may be.
        let mut task = failed(&unavailable().with_retryable(false), steps);
        assert_eq!(limits().judge(&task, NOW_MS, 1), Verdict::Again(NOW_MS + 1));
        reopen(&mut task, NOW_MS + 1);
        let states: Vec<_> = task.steps.iter().map(|step| codes::step_state(step.state)).collect();
        // Without its plan the failed step may be one that changes something.
        assert_eq!(states, [StepState::Done, StepState::Running, StepState::Pending]);
        assert_eq!((task.retries, task.not_before_ms), (1, NOW_MS + 1));
        assert!(task.last_error_json.is_some() && task.error_json.is_none() && task.answer.is_none());
    }

    proptest! {
        #[test]
        fn waits_are_spread_up_to_a_bound_that_doubles(retries in 0u32..40, random: u64) {
            let bound_ms = [500, 1_000, 2_000, 4_000][usize::try_from(retries.min(3)).unwrap()];
            prop_assert!(limits().wait_ms(retries, random) <= bound_ms);
            prop_assert_eq!(limits().wait_ms(retries, bound_ms), bound_ms);
        }
    }
}

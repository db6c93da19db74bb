//! What has come of a task, as a list that only grows: the events that its user is told.
//!
//! The list stands in the task's record and is written with it, so an event's place in it is an id that survives a
//! restart. It is not kept by whoever changes a task: before a record is written, [`note`] adds what the record shows
//! beyond what was told already.
//!
//! Invariants: `note` only adds, and adds nothing the second time; a list that is full ([`MARKS_MAX`]) stays as it is.

use sluice_protocols::api::{StepState, TaskState};
use sluice_store::record::{StepRecord, TaskRecord};

use super::codes::{self, UndoState};

/// The most events of one task: 64 steps begun, ended and taken back, over more attempts than are made as a rule. 8 KiB.
pub(crate) const MARKS_MAX: usize = 4_096;

/// An event. Steps are told by their place among the task's steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The task is promised, or made a task again.
    Accepted,
    /// It is known what will be done.
    Planned,
    /// A step was begun.
    Started(u8),
    /// A step came to this state: done, failed or skipped.
    Stepped(u8, StepState),
    /// A step was taken back, or could not be.
    Undone(u8),
    /// It failed in a way that may pass, and is tried again.
    Retrying,
    /// It waits for its user to confirm it.
    Unconfirmed,
    /// What it has brought so far was put into words.
    Answered,
    /// It ended.
    Ended(TaskState),
}

impl Mark {
    /// The number in a record: what happened, and to which step or how. They never change their meaning.
    fn number(self) -> u16 {
        let (kind, which) = match self {
            Self::Accepted => (1, 0),
            Self::Planned => (2, 0),
            Self::Started(step) => (3, step),
            Self::Stepped(step, StepState::Done) => (4, step),
            Self::Stepped(step, StepState::Skipped) => (6, step),
            Self::Stepped(step, _) => (5, step),
            Self::Undone(step) => (7, step),
            Self::Retrying => (8, 0),
            Self::Unconfirmed => (9, 0),
            Self::Answered => (10, 0),
            Self::Ended(state) => (11, codes::of_task_state(state)),
        };
        u16::from_be_bytes([kind, which])
    }

    /// The event of a number; `None` for one that a newer process wrote.
    fn of(number: u16) -> Option<Self> {
        let [kind, which] = number.to_be_bytes();
        Some(match kind {
            1 => Self::Accepted,
            2 => Self::Planned,
            3 => Self::Started(which),
            4 => Self::Stepped(which, StepState::Done),
            5 => Self::Stepped(which, StepState::Failed),
            6 => Self::Stepped(which, StepState::Skipped),
            7 => Self::Undone(which),
            8 => Self::Retrying,
            9 => Self::Unconfirmed,
            10 => Self::Answered,
            11 => Self::Ended(codes::task_state(which)),
            _ => return None,
        })
    }

    /// The step it is about, and what it makes of it.
    fn step(self) -> Option<usize> {
        match self {
            Self::Started(step) | Self::Stepped(step, _) | Self::Undone(step) => Some(step.into()),
            _ => None,
        }
    }
}

/// What was told of a task, each with its id, from 1.
pub(crate) fn marks(task: &TaskRecord) -> impl DoubleEndedIterator<Item = (u64, Mark)> + '_ {
    let mark = |(place, number): (usize, &u16)| Mark::of(*number).map(|mark| (place as u64 + 1, mark));
    task.events.iter().enumerate().filter_map(mark)
}

/// Adds what a record shows and what was not told of it yet. To be called before it is written.
pub(crate) fn note(task: &mut TaskRecord) {
    let told = Told::of(task);
    let mut new = Vec::new();
    told.news(task, &mut new);
    let room = MARKS_MAX.saturating_sub(task.events.len());
    task.events.extend(new.into_iter().take(room).map(Mark::number));
}

/// Begins anew: what is told from here on is of another task.
pub(crate) fn forget(task: &mut TaskRecord) {
    task.events.clear();
}

/// What was told of a task.
struct Told {
    last: Option<Mark>,
    is_planned: bool,
    /// Since it was last accepted.
    retries: usize,
    /// Whether a step ended since something was last put into words.
    is_unsaid: bool,
    steps: Vec<Option<Mark>>,
}

impl Told {
    fn of(task: &TaskRecord) -> Self {
        let mut told = Self {
            last: None,
            is_planned: false,
            retries: 0,
            is_unsaid: false,
            steps: vec![None; task.steps.len()],
        };
        for (_, mark) in marks(task) {
            told.last = Some(mark);
            match mark {
                Mark::Accepted => (told.retries, told.is_planned) = (0, false),
                Mark::Planned => told.is_planned = true,
                Mark::Retrying => told.retries += 1,
                Mark::Answered => told.is_unsaid = false,
                Mark::Stepped(..) => told.is_unsaid = true,
                Mark::Started(_) | Mark::Undone(_) | Mark::Unconfirmed | Mark::Ended(_) => {}
            }
            if let Some(place) = mark.step().and_then(|step| told.steps.get_mut(step)) {
                *place = Some(mark);
            }
        }
        told
    }

    /// What is to be told beyond that.
    fn news(&self, task: &TaskRecord, new: &mut Vec<Mark>) {
        let state = codes::task_state(task.state);
        let is_anew = match self.last {
            None => true,
            Some(Mark::Ended(_)) => !state.is_final(),
            Some(_) => false,
        };
        if is_anew {
            new.push(Mark::Accepted);
        }
        if (is_anew || !self.is_planned) && task.plan_json.is_some() && !task.steps.is_empty() {
            new.push(Mark::Planned);
        }
        let mut is_unsaid = self.is_unsaid;
        if state != TaskState::Queued {
            for (index, (step, told)) in (0..=u8::MAX).zip(task.steps.iter().zip(&self.steps)) {
                let before = new.len();
                step_news(index, step, *told, new);
                is_unsaid |= new[before..].iter().any(|mark| matches!(mark, Mark::Stepped(..)));
            }
        }
        let retries = if is_anew { 0 } else { self.retries };
        let asked = usize::try_from(task.retries).unwrap_or(usize::MAX);
        let last = new.last().copied().or(self.last);
        match state {
            TaskState::Queued => {
                let more = asked.saturating_sub(retries).min(MARKS_MAX);
                new.extend(std::iter::repeat_n(Mark::Retrying, more));
            }
            TaskState::AwaitingConfirmation if last != Some(Mark::Unconfirmed) => {
                new.push(Mark::Unconfirmed);
            }
            TaskState::Running if is_unsaid && task.answer.is_some() => new.push(Mark::Answered),
            _ if state.is_final() && last != Some(Mark::Ended(state)) => new.push(Mark::Ended(state)),
            _ => {}
        }
    }
}

fn step_news(index: u8, step: &StepRecord, told: Option<Mark>, new: &mut Vec<Mark>) {
    let state = codes::step_state(step.state);
    let is_undone = matches!(codes::undo_state(step.undo), UndoState::Done | UndoState::Failed)
        && matches!(state, StepState::Done | StepState::Failed);
    let ended = Mark::Stepped(index, state);
    let is_told = match told {
        Some(Mark::Undone(_)) => true,
        other => other == Some(ended),
    };
    match state {
        StepState::Pending => return,
        StepState::Running if told != Some(Mark::Started(index)) => new.push(Mark::Started(index)),
        StepState::Running => {}
        StepState::Skipped if !is_told => new.push(ended),
        StepState::Done | StepState::Failed if !is_told => {
            // What could not even be begun was not begun.
            if told != Some(Mark::Started(index)) && (state == StepState::Done || step.tries > 0) {
                new.push(Mark::Started(index));
            }
            new.push(ended);
        }
        StepState::Done | StepState::Failed | StepState::Skipped => {}
    }
    if is_undone && told != Some(Mark::Undone(index)) {
        new.push(Mark::Undone(index));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sluice_protocols::ids::{SessionId, TaskId, UserId};
    use sluice_store::record::WaitsRecord;

    use super::*;

    fn task(steps: usize) -> TaskRecord {
        let pending = codes::of_step_state(StepState::Pending);
        TaskRecord {
            id: TaskId::from_bytes([1; 16]),
            user: UserId::from_bytes([2; 16]),
            session: SessionId::from_bytes([3; 16]),
            command: "x".to_owned(),
            mode: 3,
            state: codes::of_task_state(TaskState::Queued),
            priority: 2,
            time_zone: "UTC".to_owned(),
            created_ms: 0,
            deadline_ms: 0,
            deadline_asked: false,
            confirmed: false,
            finished_ms: None,
            attempts: 0,
            retries: 0,
            not_before_ms: 0,
            last_error_json: None,
            plan_json: None,
            steps: (0..steps).map(|index| StepRecord::new(format!("s{index}"), pending)).collect(),
            answer: None,
            error_json: None,
            openai_us: 0,
            google_us: 0,
            total_us: 0,
            events: Vec::new(),
            account: None,
            waits: WaitsRecord::default(),
            cancel_asked: false,
        }
    }

    fn set(task: &mut TaskRecord, state: TaskState, steps: &[StepState]) -> Vec<Mark> {
        let before = task.events.len();
        task.state = codes::of_task_state(state);
        for (record, state) in task.steps.iter_mut().zip(steps) {
            record.state = codes::of_step_state(*state);
        }
        note(task);
        marks(task).skip(before).map(|(_, mark)| mark).collect()
    }

    #[test]
    fn a_task_is_told_from_promise_to_end() {
        use StepState::{Done, Pending, Running};
        let mut task = task(2);
        task.steps.clear();
        assert_eq!(set(&mut task, TaskState::Queued, &[]), [Mark::Accepted]);
        assert_eq!(set(&mut task, TaskState::Running, &[]), []);
        task.steps = self::task(2).steps;
        task.plan_json = Some("{}".to_owned());
        let begun = set(&mut task, TaskState::Running, &[Running, Pending]);
        assert_eq!(begun, [Mark::Planned, Mark::Started(0)]);
        task.answer = Some("so far".to_owned());
        let next = set(&mut task, TaskState::Running, &[Done, Running]);
        assert_eq!(next, [Mark::Stepped(0, Done), Mark::Started(1), Mark::Answered]);
        assert_eq!(set(&mut task, TaskState::Running, &[Done, Running]), []);
        let end = set(&mut task, TaskState::Done, &[Done, Done]);
        assert_eq!(end, [Mark::Stepped(1, Done), Mark::Ended(TaskState::Done)]);
        let ids: Vec<u64> = marks(&task).map(|(id, _)| id).collect();
        assert_eq!(ids, (1..=8).collect::<Vec<_>>());
    }

    #[test]
    fn each_new_attempt_and_a_second_life_are_told() {
        use StepState::{Failed, Running};
        let mut task = task(1);
        task.plan_json = Some("{}".to_owned());
        set(&mut task, TaskState::Queued, &[]);
        set(&mut task, TaskState::Running, &[Running]);
        task.retries = 1;
        assert_eq!(set(&mut task, TaskState::Queued, &[Running]), [Mark::Retrying]);
        assert_eq!(set(&mut task, TaskState::Queued, &[Running]), []);
        task.retries = 2;
        assert_eq!(set(&mut task, TaskState::Queued, &[Running]), [Mark::Retrying]);
        let end = set(&mut task, TaskState::Failed, &[Failed]);
        assert_eq!(end, [Mark::Stepped(0, Failed), Mark::Ended(TaskState::Failed)]);
        task.retries = 0;
        let again = set(&mut task, TaskState::Queued, &[Running]);
        assert_eq!(again, [Mark::Accepted, Mark::Planned]);
        assert_eq!(set(&mut task, TaskState::Running, &[Running]), [Mark::Started(0)]);
    }

    #[test]
    fn what_was_taken_back_is_told_once() {
        let mut task = task(1);
        set(&mut task, TaskState::Running, &[StepState::Running]);
        set(&mut task, TaskState::Running, &[StepState::Done]);
        task.steps[0].undo = codes::of_undo_state(UndoState::Running);
        assert_eq!(set(&mut task, TaskState::Running, &[StepState::Done]), []);
        task.steps[0].undo = codes::of_undo_state(UndoState::Done);
        assert_eq!(set(&mut task, TaskState::Running, &[StepState::Done]), [Mark::Undone(0)]);
        assert_eq!(set(&mut task, TaskState::Running, &[StepState::Done]), []);
    }

    proptest! {
        #[test]
        fn the_list_only_grows_is_bounded_and_is_the_same_a_second_time(
            states in proptest::collection::vec((1u8..8, proptest::collection::vec((1u8..6, 0u8..4), 3), 0u32..4), 1..60),
            full: bool,
        ) {
            let mut task = task(3);
            if full {
                task.events = vec![Mark::Started(1).number(); MARKS_MAX - 3];
            }
            for (state, steps, retries) in states {
                (task.state, task.retries) = (state, retries);
                for (record, (state, undo)) in task.steps.iter_mut().zip(steps) {
                    (record.state, record.undo) = (state, undo);
                }
                let before = task.events.clone();
                note(&mut task);
                prop_assert!(task.events.starts_with(&before) && task.events.len() <= MARKS_MAX);
                let after = task.events.clone();
                note(&mut task);
                prop_assert_eq!(&task.events, &after);
            }
        }
    }
}

//! The numbers that stand for states in records. They never change their meaning.

use sluice_protocols::api::{Mode, Priority, StepState, TaskState};
use sluice_protocols::plan::ItemKind;

/// The number of a task's state.
pub fn of_task_state(state: TaskState) -> u8 {
    match state {
        TaskState::Queued => 1,
        TaskState::Running => 2,
        TaskState::Done => 3,
        TaskState::Failed => 4,
        TaskState::Declined => 5,
        TaskState::Cancelled => 6,
        TaskState::AwaitingConfirmation => 7,
    }
}

/// The state of this number; an unknown one counts as failed, for nothing more may happen to such a task.
pub fn task_state(number: u8) -> TaskState {
    match number {
        1 => TaskState::Queued,
        2 => TaskState::Running,
        3 => TaskState::Done,
        5 => TaskState::Declined,
        6 => TaskState::Cancelled,
        7 => TaskState::AwaitingConfirmation,
        _ => TaskState::Failed,
    }
}

/// The number of a task's mode.
pub fn of_mode(mode: Mode) -> u8 {
    match mode {
        Mode::Sync => 1,
        Mode::Async => 2,
        Mode::Stream => 3,
        Mode::Preview => 4,
    }
}

/// The mode of this number.
pub fn mode(number: u8) -> Mode {
    match number {
        2 => Mode::Async,
        3 => Mode::Stream,
        4 => Mode::Preview,
        _ => Mode::Sync,
    }
}

/// The number of a priority.
pub fn of_priority(priority: Priority) -> u8 {
    match priority {
        Priority::High => 1,
        Priority::Normal => 2,
        Priority::Batch => 3,
    }
}

/// The priority of this number; an unknown one counts as the usual.
pub fn priority(number: u8) -> Priority {
    match number {
        1 => Priority::High,
        3 => Priority::Batch,
        _ => Priority::Normal,
    }
}

/// The number of a step's state.
pub fn of_step_state(state: StepState) -> u8 {
    match state {
        StepState::Pending => 1,
        StepState::Running => 2,
        StepState::Done => 3,
        StepState::Failed => 4,
        StepState::Skipped => 5,
    }
}

/// The state of this number; an unknown one counts as failed, so that nothing is done twice.
pub fn step_state(number: u8) -> StepState {
    match number {
        1 => StepState::Pending,
        2 => StepState::Running,
        3 => StepState::Done,
        5 => StepState::Skipped,
        _ => StepState::Failed,
    }
}

/// How far a step is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UndoState {
    /// Nobody set out to.
    Untouched,
    /// Begun.
    Running,
    /// It is taken back.
    Done,
    /// It could not be taken back.
    Failed,
}

/// The number of a step's undoing.
pub fn of_undo_state(state: UndoState) -> u8 {
    match state {
        UndoState::Untouched => 0,
        UndoState::Running => 1,
        UndoState::Done => 2,
        UndoState::Failed => 3,
    }
}

/// The undoing of this number; an unknown one counts as failed, so that nothing is done twice.
pub fn undo_state(number: u8) -> UndoState {
    match number {
        0 => UndoState::Untouched,
        1 => UndoState::Running,
        2 => UndoState::Done,
        _ => UndoState::Failed,
    }
}

/// The number of an item's kind.
pub fn of_item_kind(kind: ItemKind) -> u8 {
    match kind {
        ItemKind::Message => 1,
        ItemKind::Event => 2,
        ItemKind::File => 3,
    }
}

/// The kind of this number.
pub fn item_kind(number: u8) -> Option<ItemKind> {
    match number {
        1 => Some(ItemKind::Message),
        2 => Some(ItemKind::Event),
        3 => Some(ItemKind::File),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_on_disk_are_pinned_and_come_back() {
        use TaskState::{AwaitingConfirmation, Cancelled, Declined, Done, Failed, Queued, Running};
        let states = [Queued, Running, Done, Failed, Declined, Cancelled, AwaitingConfirmation];
        for (number, state) in (1..).zip(states) {
            assert_eq!((of_task_state(state), task_state(number)), (number, state));
        }
        use StepState as S;
        for (number, state) in (1..).zip([S::Pending, S::Running, S::Done, S::Failed, S::Skipped]) {
            assert_eq!((of_step_state(state), step_state(number)), (number, state));
        }
        use UndoState as U;
        for (number, state) in (0..).zip([U::Untouched, U::Running, U::Done, U::Failed]) {
            assert_eq!((of_undo_state(state), undo_state(number)), (number, state));
        }
        for (number, kind) in (1..).zip([ItemKind::Message, ItemKind::Event, ItemKind::File]) {
            assert_eq!((of_item_kind(kind), item_kind(number)), (number, Some(kind)));
        }
        for (number, of) in [(1, Mode::Sync), (2, Mode::Async), (3, Mode::Stream), (4, Mode::Preview)] {
            assert_eq!((of_mode(of), mode(number)), (number, of));
        }
        for (number, of) in (1..).zip(Priority::ALL) {
            assert_eq!((of_priority(of), priority(number)), (number, of));
        }
    }

    #[test]
    fn a_number_that_never_was_stops_work_instead_of_repeating_it() {
        assert_eq!((task_state(0), step_state(99)), (TaskState::Failed, StepState::Failed));
        assert_eq!(item_kind(0), None);
    }
}

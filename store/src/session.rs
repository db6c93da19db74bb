//! A session as a core holds it: its record and, one by one, the turns it remembers, all as validated bytes.
//!
//! Copies share the bytes, so that a turn more costs a turn, not the session anew.
//!
//! Invariant: `turns` are those the record still remembers, oldest first, at most [`SESSION_TURNS_MAX`].

use std::rc::Rc;

use crate::record::{
    ArchivedSessionRecord, ArchivedTurnRecord, Loaded, RecordError, SESSION_TURNS_MAX, SessionRecord,
    TurnRecord,
};

/// See the module.
#[derive(Clone, Debug)]
pub struct Session {
    record: Rc<Loaded<SessionRecord>>,
    turns: Vec<Rc<Loaded<TurnRecord>>>,
}

impl Session {
    /// A session and its turns as they were loaded, in any order; those the record does not remember any more are
    /// left out. A record of schema 1 has its turns inside.
    ///
    /// # Errors
    /// [`RecordError::TooLarge`], of a turn that was inside.
    pub fn new(
        record: Loaded<SessionRecord>,
        turns: impl IntoIterator<Item = Loaded<TurnRecord>>,
    ) -> Result<Self, RecordError> {
        let next = record.get().next_turn.to_native();
        let remembered = crate::record::first_turn(next)..next;
        let mut turns: Vec<_> = turns.into_iter().map(Rc::new).collect();
        if !record.get().turns.is_empty() {
            for turn in record.to_record().turns {
                turns.push(Rc::new(Loaded::of(&TurnRecord::from(turn))?));
            }
        }
        turns.retain(|turn| remembered.contains(&turn.get().number.to_native()));
        turns.sort_by_key(|turn| turn.get().number.to_native());
        Ok(Self { record: Rc::new(record), turns })
    }

    /// The session after one more turn, which `record` counts already.
    #[must_use]
    pub fn with_turn(&self, record: Loaded<SessionRecord>, turn: Loaded<TurnRecord>) -> Self {
        let surplus = (self.turns.len() + 1).saturating_sub(SESSION_TURNS_MAX);
        let mut turns = Vec::with_capacity(self.turns.len() + 1 - surplus);
        turns.extend_from_slice(&self.turns[surplus.min(self.turns.len())..]);
        turns.push(Rc::new(turn));
        Self { record: Rc::new(record), turns }
    }

    /// The record in place.
    pub fn record(&self) -> &ArchivedSessionRecord {
        self.record.get()
    }

    /// The record as it is stored.
    pub fn record_bytes(&self) -> &[u8] {
        self.record.as_bytes()
    }

    /// The record, owned.
    pub fn to_record(&self) -> SessionRecord {
        self.record.to_record()
    }

    /// The turns in place, oldest first.
    pub fn turns(&self) -> impl ExactSizeIterator<Item = &ArchivedTurnRecord> + DoubleEndedIterator {
        self.turns.iter().map(|turn| turn.get())
    }

    /// The turns as they are stored, oldest first.
    pub fn loaded_turns(&self) -> &[Rc<Loaded<TurnRecord>>] {
        &self.turns
    }

    /// Bytes of memory held, shared ones included.
    pub fn bytes(&self) -> usize {
        const SHARED: usize = size_of::<Loaded<TurnRecord>>() + size_of::<Rc<()>>() + 16;
        let turns: usize = self.turns.iter().map(|turn| turn.capacity() + SHARED).sum();
        self.record.capacity() + SHARED + turns
    }
}

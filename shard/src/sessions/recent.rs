//! What a session remembers of its last commands, read in place until somebody needs it whole.

use std::cell::OnceCell;
use std::rc::Rc;

use sluice_store::Session;
use sluice_store::record::{Loaded, TurnRecord};

/// The turns of a session, oldest first. Most commands refer to none of them, so they are made from their bytes when
/// they are first asked for.
#[derive(Debug, Default)]
pub struct Recent {
    stored: Vec<Rc<Loaded<TurnRecord>>>,
    whole: OnceCell<Vec<TurnRecord>>,
}

impl Recent {
    /// What `session` remembers.
    #[must_use]
    pub fn of(session: &Session) -> Self {
        Self { stored: session.loaded_turns().to_vec(), whole: OnceCell::new() }
    }

    /// All turns.
    pub fn turns(&self) -> &[TurnRecord] {
        self.whole.get_or_init(|| self.stored.iter().map(|turn| turn.to_record()).collect())
    }

    /// The newest turn.
    pub fn last(&self) -> Option<TurnRecord> {
        match self.whole.get() {
            Some(turns) => turns.last().cloned(),
            None => self.stored.last().map(|turn| turn.to_record()),
        }
    }

    /// Whether any turn found or made something.
    pub fn has_items(&self) -> bool {
        match self.whole.get() {
            Some(turns) => turns.iter().any(|turn| !turn.items.is_empty()),
            None => self.stored.iter().any(|turn| !turn.get().items.is_empty()),
        }
    }
}

impl From<Vec<TurnRecord>> for Recent {
    fn from(turns: Vec<TurnRecord>) -> Self {
        Self { stored: Vec::new(), whole: OnceCell::from(turns) }
    }
}

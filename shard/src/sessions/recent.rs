//! What a session remembers of its last commands, read in place until somebody needs it whole.

use std::cell::OnceCell;
use std::rc::Rc;

use sluice_store::Session;
use sluice_store::record::{ActingAccount, Loaded, TurnRecord};

/// The turns of a session, oldest first. Most commands refer to none of them, so they are made from their bytes when
/// they are first asked for.
#[derive(Debug, Default)]
pub struct Recent {
    stored: Vec<Rc<Loaded<TurnRecord>>>,
    whole: OnceCell<Vec<TurnRecord>>,
    /// Handles of what is left out, for it is of another account.
    elsewhere: Vec<String>,
}

impl Recent {
    /// What `session` remembers.
    #[must_use]
    pub fn of(session: &Session) -> Self {
        Self { stored: session.loaded_turns().to_vec(), ..Self::default() }
    }

    /// The same for a command of this account: what turns of others found is left out, for an id means something else
    /// there, or the same in another's hands. Where either account is not known, nothing is.
    #[must_use]
    pub(crate) fn of_account(&self, account: Option<ActingAccount>) -> Self {
        let is_foreign = |of: Option<ActingAccount>| of.is_some() && account.is_some() && of != account;
        let is_any = match self.whole.get() {
            Some(turns) => turns.iter().any(|turn| is_foreign(turn.account)),
            None => self
                .stored
                .iter()
                .any(|turn| is_foreign(turn.get().account.as_ref().map(|account| account.to_native()))),
        };
        if !is_any {
            return Self {
                stored: self.stored.clone(),
                whole: self.whole.clone(),
                elsewhere: self.elsewhere.clone(),
            };
        }
        let (mut turns, mut elsewhere) = (self.turns().to_vec(), self.elsewhere.clone());
        for turn in turns.iter_mut().filter(|turn| is_foreign(turn.account)) {
            elsewhere.extend(turn.items.drain(..).map(|item| item.handle));
        }
        Self { stored: Vec::new(), whole: OnceCell::from(turns), elsewhere }
    }

    /// Whether a handle names something that another account's command found.
    pub(crate) fn is_elsewhere(&self, handle: &str) -> bool {
        self.elsewhere.iter().any(|known| known == handle)
    }

    /// All turns.
    pub fn turns(&self) -> &[TurnRecord] {
        self.whole.get_or_init(|| self.stored.iter().map(|turn| turn.to_record()).collect())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self.whole.get() {
            Some(turns) => turns.is_empty(),
            None => self.stored.is_empty(),
        }
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
        Self { whole: OnceCell::from(turns), ..Self::default() }
    }
}

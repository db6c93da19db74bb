//! Users of whom nothing is written any more.
//!
//! What a core holds of a user who is being erased (a task that runs, an upload, a state of limits that is due) may be handed
//! to the commit log at any time later. The writer drops what is put under keys of a fenced user, when it builds a group: the
//! one place that all changes pass in one order. So of a write that comes back after the fence stood, everything before it is
//! on disk to be found, and nothing of the user comes behind it.
//!
//! Invariants:
//! - deletions and audit entries pass, and a batch that lost something is answered like any other: its maker is a moment
//!   behind the erasure, and would be told so by nobody;
//! - ids of users are never used again, so a fence stands until the process ends, when nothing is left that it holds back;
//! - at most [`FENCED_MAX`] stand: some 32 MB.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hashbrown::HashSet;
use sluice_protocols::ids::UserId;

use crate::key::Key;

/// Users that a process erases at most; then it is to be restarted.
pub const FENCED_MAX: usize = 1 << 20;

type Users = HashSet<UserId, foldhash::fast::RandomState>;

/// No further user can be fenced. Restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{FENCED_MAX} users were erased since the start: restart before more are")]
pub struct FenceFull;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Fence {
    /// Spares the lock where nobody was ever erased.
    is_up: AtomicBool,
    users: Mutex<Users>,
}

/// The fence as it stands while a group is built.
pub(crate) struct Standing<'a>(Option<MutexGuard<'a, Users>>);

impl Fence {
    fn users(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From the next group that is built on, nothing is put under keys of this user.
    pub(crate) fn put_up(&self, user: &UserId) -> Result<(), FenceFull> {
        let mut users = self.users();
        if users.len() >= FENCED_MAX && !users.contains(user) {
            return Err(FenceFull);
        }
        users.insert(*user);
        self.is_up.store(true, Ordering::Release);
        Ok(())
    }

    pub(crate) fn standing(&self) -> Standing<'_> {
        Standing(self.is_up.load(Ordering::Acquire).then(|| self.users()))
    }
}

impl Standing<'_> {
    /// Whether a change that puts something under this key is dropped.
    pub(crate) fn holds_back(&self, key: &[u8]) -> bool {
        let Some(users) = &self.0 else { return false };
        Key::from_bytes(key).ok().and_then(|key| key.owner()).is_some_and(|user| users.contains(&user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_fenced_users_is_held_back_also_as_a_copy() {
        let fence = Fence::default();
        let (anna, bert) = (UserId::from_bytes([1; 16]), UserId::from_bytes([2; 16]));
        assert!(!fence.standing().holds_back(Key::user(&anna).as_bytes()));
        fence.put_up(&anna).unwrap();
        fence.put_up(&anna).unwrap();
        let standing = fence.standing();
        for (key, is_held) in [
            (Key::user(&anna), true),
            (Key::limit_state(&anna), true),
            (Key::quarantine(&Key::preferences(&anna), b"x"), true),
            (Key::user(&bert), false),
            (Key::quarantine(&Key::name("anna").unwrap(), b"x"), false),
            (Key::erasure(&anna), false),
            (Key::audit_entry(1), false),
        ] {
            assert_eq!(standing.holds_back(key.as_bytes()), is_held, "{key:?}");
        }
    }
}

//! How the cores are told to forget a user, or what they know of the user's accounts at Google.
//!
//! A core keeps its users' tasks, sessions, answers and tokens in memory that no other thread may touch. An erasure asks
//! every core, and goes on when all have answered or [`WAIT_MAX`] is over: what a core still holds then is not written
//! any more ([`sluice_store::Store::fence`]), and is gone when what uses it ends. Whoever changes from here which account a user
//! is served with asks as well, for what is kept is of the one before: its access token for an hour, what was read with it for
//! minutes.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sluice_protocols::ids::UserId;
use tokio::sync::mpsc as asked;

/// How long the cores have to end a user's tasks: what was sent to an upstream is waited for.
pub(crate) const TASKS_MAX: Duration = Duration::from_secs(10);
/// How long is waited for the cores.
const WAIT_MAX: Duration = Duration::from_secs(15);
/// What a core may have been asked to forget and has not: whoever asks comes one at a time, and gives up waiting late.
const ASKED_MAX: usize = 64;

/// What is to be forgotten of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// All there is: the user is being erased.
    All,
    /// Their access tokens, and what was read with them.
    Accounts,
}

/// A user to be forgotten.
#[derive(Debug)]
pub(crate) struct Forget {
    pub(crate) user: UserId,
    what: What,
    done: mpsc::Sender<()>,
}

impl Forget {
    /// Whether all of the user is to be forgotten, or what is known of their accounts alone.
    pub(crate) fn is_whole(&self) -> bool {
        self.what == What::All
    }

    /// Tells that it is done.
    pub(crate) fn done(self) {
        // Whoever asked may have given up waiting.
        let _ = self.done.send(());
    }
}

/// The ways to the cores.
#[derive(Debug, Default)]
pub(super) struct Memories(Mutex<Vec<asked::Sender<Forget>>>);

impl Memories {
    /// One core's way.
    pub(super) fn attach(&self) -> asked::Receiver<Forget> {
        let (ask, hear) = asked::channel(ASKED_MAX);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(ask);
        hear
    }

    /// Has all cores forget a user, or a part. Says whether all did in time; those that have ended remember nothing.
    pub(super) fn forget_blocking(&self, user: &UserId, what: What) -> bool {
        let (done, answers) = mpsc::channel();
        let mut waiting = 0;
        let mut was_heard = true;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|core| {
            match core.try_send(Forget { user: *user, what, done: done.clone() }) {
                Ok(()) => waiting += 1,
                Err(asked::error::TrySendError::Full(_)) => was_heard = false,
                Err(asked::error::TrySendError::Closed(_)) => return false,
            }
            true
        });
        drop(done);
        let until = Instant::now() + WAIT_MAX;
        while waiting > 0 {
            match answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(()) => waiting -= 1,
                // The others have ended.
                Err(RecvTimeoutError::Disconnected) => return was_heard,
                Err(RecvTimeoutError::Timeout) => return false,
            }
        }
        was_heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_that_have_ended_are_not_waited_for() {
        let memories = Memories::default();
        let user = UserId::from_bytes([1; 16]);
        assert!(memories.forget_blocking(&user, What::All));
        let mut alive = memories.attach();
        drop(memories.attach());
        let core = std::thread::spawn(move || {
            let forget = alive.blocking_recv().expect("it was asked");
            let asked = (forget.user, forget.what);
            forget.done();
            // Asked once more, and gone without an answer.
            drop(alive.blocking_recv());
            asked
        });
        assert!(memories.forget_blocking(&user, What::Accounts));
        assert!(memories.forget_blocking(&user, What::All));
        assert_eq!(core.join().unwrap(), (user, What::Accounts));
    }
}

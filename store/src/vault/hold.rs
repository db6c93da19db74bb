//! Who changes a record that others on other threads may change, too.
//!
//! A user's records are changed by the core that owns the user, with two exceptions that run on threads of their own:
//! administration, and the walk that wraps data keys anew and seals what is left plain. Where both may write the same record, each
//! holds its key from the look at the record until the change is durable. Nobody waits on a lock: a core tries again a
//! moment later.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use hashbrown::HashSet;

use super::{Vault, VaultError};
use crate::key::{Key, Kind};

/// How long the next try waits: some commits.
pub(super) const PAUSE: Duration = Duration::from_millis(1);
/// How long tries go on: far longer than a commit takes on a disk that works.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(5);

/// The keys held.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<HashSet<Key, foldhash::fast::RandomState>>);

impl Holds {
    fn keys(&self) -> MutexGuard<'_, HashSet<Key, foldhash::fast::RandomState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_any(&self, kind: Kind) -> bool {
        self.keys().iter().any(|key| key.kind() == kind)
    }
}

/// A record's key, held until this is dropped.
#[derive(Debug)]
#[must_use = "what is not kept is not held"]
pub struct Hold {
    holds: Arc<Holds>,
    key: Key,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.keys().remove(&self.key);
    }
}

impl Vault {
    /// Holds the record under `key` for a change: from the look at it until the change is durable. `None` while another does.
    pub fn try_hold(&self, key: &Key) -> Option<Hold> {
        let is_new = self.inner.holds.keys().insert(key.clone());
        is_new.then(|| Hold { holds: Arc::clone(&self.inner.holds), key: key.clone() })
    }

    /// As [`Self::try_hold`], but waits. Blocks: not for a reactor.
    ///
    /// # Errors
    /// [`VaultError::Busy`] after 5 s.
    pub fn hold_blocking(&self, key: &Key) -> Result<Hold, VaultError> {
        let limit = Instant::now() + WAIT_MAX;
        loop {
            if let Some(hold) = self.try_hold(key) {
                return Ok(hold);
            }
            if Instant::now() >= limit {
                self.inner.stats.busy.add(1);
                return Err(VaultError::Busy);
            }
            thread::sleep(PAUSE);
        }
    }
}

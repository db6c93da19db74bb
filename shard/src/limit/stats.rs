//! What the limits of one core count.

use sluice_core::Counter;

use super::{Class, LimitKind};

/// Counters of one core. Written by the core, read by anyone.
#[derive(Debug, Default)]
pub struct LimitStats {
    admitted: [Counter; Class::ALL.len()],
    refused: [[Counter; Class::ALL.len()]; LimitKind::ALL.len()],
    /// Requests of users for whom there was no row.
    pub untracked_users: Counter,
    /// Requests with keys for which there was no row.
    pub untracked_keys: Counter,
    /// Requests from addresses for which there was no row.
    pub untracked_addresses: Counter,
    /// Rows of users given out, those of full buckets among them.
    pub users: Counter,
    /// Rows of keys given out.
    pub keys: Counter,
    /// Users whose state is to be written.
    pub unsaved: Counter,
    /// States written.
    pub saved: Counter,
    /// States not written, for the storage failed; they are tried again.
    pub saves_failed: Counter,
    /// States written later than they should have been, for there were too many.
    pub saves_late: Counter,
    /// States read that an earlier process had written.
    pub recalled: Counter,
}

impl LimitStats {
    /// A request was let in by every limit.
    pub(super) fn admit(&self, class: Class) {
        self.admitted[class as usize].add(1);
    }

    /// A request was refused by a limit.
    pub(super) fn refuse(&self, kind: LimitKind, class: Class) {
        self.refused[kind.index()][class as usize].add(1);
    }

    /// Requests of a class that every limit let in.
    pub fn admitted(&self, class: Class) -> u64 {
        self.admitted[class as usize].get()
    }

    /// Requests of a class that a limit refused.
    pub fn refused(&self, kind: LimitKind, class: Class) -> u64 {
        self.refused[kind.index()][class as usize].get()
    }
}

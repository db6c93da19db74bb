//! Whether somebody who is told something for long may be told more: who follows a task, waits for its end, or has what is
//! kept of them brought.
//!
//! Invariants:
//! - nobody is sent away for what was taken back from somebody else. A stamp that moved says that something of those who share
//!   it changed ([`super::revoked`]); so the credential is looked up anew then, as the next request with it would be;
//! - whoever is told on may do no less than when they were let in.

use std::cell::Cell;

use sluice_protocols::access::{Role, Scopes};
use sluice_store::ReadError;

use super::browser::{Browsers, Opened};
use super::tokens::Tokens;
use super::{Credential, Denied, KeyMeans, Principal, Stamp, keys};

/// What looking a credential up again needs of its core.
pub(crate) struct Means<'a> {
    pub(crate) keys: KeyMeans<'a>,
    pub(crate) browsers: &'a Browsers,
    pub(crate) tokens: &'a Tokens,
}

/// What somebody was let in with, as it was last looked at.
pub(crate) struct Standing<'a> {
    who: &'a Principal,
    stamp: Cell<Stamp>,
    expires_ms: Cell<Option<u64>>,
}

impl<'a> Standing<'a> {
    pub(crate) fn of(who: &'a Principal) -> Self {
        Self { who, stamp: Cell::new(who.stamp), expires_ms: Cell::new(who.expires_ms) }
    }

    /// At what stamp it was last found good.
    #[cfg(test)]
    pub(super) fn stamp(&self) -> Stamp {
        self.stamp.get()
    }

    /// Whether what was proven still holds. Costs two loads while nothing of the user changed, and the records of the
    /// credential and its user when something did.
    ///
    /// # Errors
    /// The storage's: it cannot be told.
    pub(crate) async fn holds(&self, means: Means<'_>) -> Result<bool, ReadError> {
        let unix_ms = means.keys.clock.unix_ms();
        let is_over = || self.expires_ms.get().is_some_and(|end| end <= unix_ms);
        if is_over() || self.who.signer.is_some_and(|signer| means.browsers.is_withdrawn(signer)) {
            return Ok(false);
        }
        if means.keys.revocations.is_current(self.stamp.get()) {
            return Ok(true);
        }
        match self.look_again(&means, unix_ms).await {
            Ok(still_may) => Ok(still_may && !is_over()),
            Err(Denied::Storage(error)) => Err(error),
            Err(_) => Ok(false),
        }
    }

    async fn look_again(&self, means: &Means<'_>, unix_ms: u64) -> Result<bool, Denied> {
        let Principal { user, shard, .. } = *self.who;
        Ok(match (self.who.credential, &self.who.token) {
            (Credential::Key(id), _) => {
                let found = keys::find(means.keys, shard, user, &id, None, unix_ms).await?;
                self.renew(found.role, found.scopes, found.expires_ms, found.stamp)
            }
            (Credential::Browser(session), _) => {
                // One without an end is none of a browser.
                let expires_ms = self.expires_ms.get().unwrap_or(0);
                let opened = Opened { user, session, expires_ms };
                let found = means.browsers.look_again(means.keys, &opened, shard).await?;
                self.renew(found.role, found.scopes, found.expires_ms, found.stamp)
            }
            (Credential::Token(..), Some(proven)) => {
                let KeyMeans { store, revocations, .. } = means.keys;
                let found = means.tokens.look_again(proven, &user, store, revocations).await?;
                self.renew(found.role, found.scopes, found.expires_ms, found.stamp)
            }
            // A token without what it proved is none.
            (Credential::Token(..), None) => false,
        })
    }

    /// Goes on with what was found, unless that is less than there was.
    fn renew(&self, role: Role, scopes: Scopes, expires_ms: Option<u64>, stamp: Stamp) -> bool {
        let is_enough = role >= self.who.role && scopes.contains(self.who.scopes);
        if is_enough {
            self.stamp.set(stamp);
            self.expires_ms.set(expires_ms);
        }
        is_enough
    }
}

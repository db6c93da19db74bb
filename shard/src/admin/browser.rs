//! Sessions of browsers: begun with a credential, ended by their user.
//!
//! Invariants:
//! - a user has at most [`BROWSER_SESSIONS_PER_USER_MAX`] records of them, those that are over included; one more takes the place of the
//!   oldest, and where that is younger than an hour nobody signs in. So neither records nor entries in the audit log can be
//!   made without end;
//! - no session is begun beyond what the credential that asks for it holds.

use std::time::Duration;

use sluice_protocols::access::{Role, Scopes};
use sluice_protocols::api::BROWSER_SESSIONS_PER_USER_MAX;
use sluice_protocols::ids::{BrowserSessionId, KeyId, UserId};
use sluice_store::record::BrowserSessionRecord;
use sluice_store::{Key, KeyRange, Kind};

use super::{Admin, AdminError, now_ms, put, random};
use crate::audit::{Act, Object};
use crate::auth::Signer;

/// How old the oldest record must be to give its place away.
const PLACE_LIFE: Duration = Duration::from_secs(60 * 60);

/// What a session is begun with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SignIn {
    /// The API key that asks; `None` where that is a token.
    pub(crate) key: Option<KeyId>,
    /// The provider's key that signed the token that asks.
    pub(crate) signer: Option<Signer>,
    /// The role and scopes of the credential that asks.
    pub(crate) role: Role,
    pub(crate) scopes_max: Scopes,
    /// When that ends, in milliseconds since 1970.
    pub(crate) ends_ms: Option<u64>,
    /// What is wished for.
    pub(crate) scopes: Option<Scopes>,
    /// When it is to end, in milliseconds since 1970.
    pub(crate) expires_ms: Option<u64>,
}

impl Admin {
    /// The same operations, with sessions of browsers that last as long as this at most.
    #[must_use]
    pub fn with_browser_session_life(self, browser_session_life: Duration) -> Self {
        Self { browser_session_life, ..self }
    }

    /// Begins a session.
    ///
    /// # Errors
    /// [`AdminError::Beyond`], [`AdminError::Past`], [`AdminError::SignedInTooOften`], and as the store has it.
    pub(crate) fn begin_browser_session(
        &self,
        user: &UserId,
        wanted: &SignIn,
    ) -> Result<BrowserSessionRecord, AdminError> {
        let _guard = self.lock();
        self.require(user)?;
        let at_ms = now_ms();
        let life_ms = u64::try_from(self.browser_session_life.as_millis()).unwrap_or(u64::MAX);
        let latest_ms = at_ms.saturating_add(life_ms).min(wanted.ends_ms.unwrap_or(u64::MAX));
        let expires_ms = wanted.expires_ms.unwrap_or(latest_ms);
        if expires_ms <= at_ms {
            return Err(AdminError::Past);
        }
        let scopes = wanted.scopes.unwrap_or(wanted.scopes_max);
        if expires_ms > latest_ms || !wanted.scopes_max.contains(scopes) {
            return Err(AdminError::Beyond);
        }
        let session = BrowserSessionRecord {
            id: BrowserSessionId::from_bytes(random()?),
            user: *user,
            key: wanted.key.map(|key| *key.as_bytes()),
            signer: wanted.signer.map(Signer::to_bytes),
            role: wanted.role.number(),
            scopes: scopes.bits(),
            created_ms: at_ms,
            expires_ms,
            ended_ms: 0,
        };
        let mut batch = put(self.shard_of(user), &Key::browser_session(user, &session.id), &session)?;
        let kept = self.browser_sessions_of(user)?;
        for old in kept.iter().skip(BROWSER_SESSIONS_PER_USER_MAX - 1) {
            let place_ms = u64::try_from(PLACE_LIFE.as_millis()).unwrap_or(u64::MAX);
            let free_ms = old.created_ms.saturating_add(place_ms);
            if free_ms > at_ms {
                return Err(AdminError::SignedInTooOften { wait_s: (free_ms - at_ms).div_ceil(1_000) });
            }
            batch.delete(&Key::browser_session(user, &old.id));
        }
        self.author.tell(&mut batch, Act::Login, Object::Browser(user, &session.id), at_ms);
        self.store.write_blocking(vec![batch])?;
        // One that had to go is believed no longer.
        self.revocations.revoke(user);
        Ok(session)
    }

    /// The records of a user's sessions, the newest first; those that are damaged are left out.
    fn browser_sessions_of(&self, user: &UserId) -> Result<Vec<BrowserSessionRecord>, AdminError> {
        let range = KeyRange::of_user(Kind::BrowserSession, user);
        let rows_max = 2 * BROWSER_SESSIONS_PER_USER_MAX;
        let page = self.store.scan_blocking(self.shard_of(user), range, rows_max, false)?;
        let mut sessions = Vec::new();
        for (key, value) in page.rows {
            match sluice_store::record::decode::<BrowserSessionRecord>(value) {
                Ok(session) => sessions.push(session),
                Err(error) => tracing::error!(?key, %error, "a browser's session cannot be read"),
            }
        }
        sessions.sort_by_key(|session| std::cmp::Reverse((session.created_ms, session.id)));
        Ok(sessions)
    }

    /// Ends a session, on every core at once. One that has ended stays so.
    ///
    /// # Errors
    /// [`AdminError::NoSuchBrowserSession`], and as the store has it.
    pub(crate) fn end_browser_session(&self, user: &UserId, id: &BrowserSessionId) -> Result<(), AdminError> {
        let _guard = self.lock();
        let (shard, key) = (self.shard_of(user), Key::browser_session(user, id));
        let found = self.store.load_blocking::<BrowserSessionRecord>(shard, &key)?;
        let old = found.ok_or(AdminError::NoSuchBrowserSession)?.to_record();
        if old.ended_ms > 0 {
            return Ok(());
        }
        let at_ms = now_ms();
        let mut batch = put(shard, &key, &BrowserSessionRecord { ended_ms: at_ms, ..old })?;
        self.author.tell(&mut batch, Act::Logout, Object::Browser(user, id), at_ms);
        self.store.write_blocking(vec![batch])?;
        self.revocations.revoke(user);
        Ok(())
    }
}

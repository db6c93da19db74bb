//! Access tokens that the operator's service account gets for a user who has connected no account of their own.
//!
//! Invariants:
//! - a user who has a connection, also one that must be renewed, is acted for by that alone;
//! - the user is whom their record names at the time of the call: another address ends the token of the one before, and
//!   whoever changes it has the core forget what was read with that;
//! - that the account begins to act for a user is in the audit log before it does, at most once in [`TOLD_EVERY`] for each user
//!   since the start, or since another account became theirs.

use std::cell::RefCell;
use std::hash::BuildHasher;
use std::rc::Rc;
use std::time::Duration;

use sluice_protocols::google::oauth::delegated_body;
use sluice_protocols::ids::UserId;
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::record::{ActingAccount, UserRecord};
use sluice_store::{Batch, Key};
use xxhash_rust::xxh3::xxh3_128;

use super::{Account, Kept, NoToken, Refresh, kept};
use crate::audit::{Act, Author, Object};
use crate::env::Env;
use crate::generations::Generations;
use crate::upstream::Delegation;
use crate::upstream::delegation::NoAssertion;

/// How often the audit log tells that the account acts for a user.
const TOLD_EVERY: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// For whom the account has lately begun to act.
pub(super) struct Told {
    users: RefCell<Generations<(UserId, u64)>>,
    hasher: foldhash::fast::RandomState,
}

impl Told {
    /// Remembers at most `max` users; one that is forgotten is told again.
    pub(super) fn new(max: usize) -> Self {
        Self { users: RefCell::new(Generations::new(max)), hasher: foldhash::fast::RandomState::default() }
    }

    fn is_due(&self, user: &UserId, unix_ms: u64) -> bool {
        let every_ms = u64::try_from(TOLD_EVERY.as_millis()).unwrap_or(u64::MAX);
        let mut users = self.users.borrow_mut();
        let found = users.find(self.hasher.hash_one(user), |(known, _)| known == user);
        found.is_none_or(|(_, at_ms)| unix_ms >= at_ms.saturating_add(every_ms))
    }

    fn note(&self, user: UserId, unix_ms: u64) {
        let hash = self.hasher.hash_one(user);
        self.users.borrow_mut().insert(hash, (user, unix_ms), |(known, _)| *known == user);
    }

    pub(super) fn forget(&self, user: &UserId) {
        self.users.borrow_mut().remove(self.hasher.hash_one(user), |(known, _)| known == user);
    }
}

/// The address that a user's record names.
async fn address_of(env: &Env, &Account { shard, user, .. }: &Account) -> Result<String, Problem> {
    let loaded = env.store.load::<UserRecord>(shard, &Key::user(&user)).await.map_err(|error| {
        tracing::error!(%user, %error, "a user cannot be read");
        Problem::new(ProblemKind::Storage, "the user cannot be read at the moment")
    })?;
    let address = loaded.map(|loaded| loaded.get().email.as_str().to_owned());
    address.ok_or_else(|| Problem::new(ProblemKind::NotConnected, "there is no such user"))
}

/// The account of an address.
fn acting_for(address: &str) -> ActingAccount {
    ActingAccount::Delegated(xxh3_128(address.to_ascii_lowercase().as_bytes()).to_be_bytes())
}

/// The account that the operator's service account would act for; `None` where it does not act for the user.
pub(crate) async fn delegated_of(env: &Env, account: &Account) -> Result<Option<ActingAccount>, Problem> {
    let Some(delegation) = &env.config.delegation else { return Ok(None) };
    let address = address_of(env, account).await?;
    Ok(delegation.is_for(&address).then(|| acting_for(&address)))
}

/// Whether a token that was given for this address is still for its user.
pub(super) async fn is_still_for(env: &Env, account: &Account, address: &str) -> bool {
    address_of(env, account).await.is_ok_and(|now| now == address)
}

impl Refresh {
    /// A token by delegation for a user without a connection, which is told by `unconnected` where there can be none.
    pub(super) async fn delegated(&self, unconnected: Problem) -> Result<Kept, Problem> {
        let Some(delegation) = self.env.config.delegation.clone() else { return Err(unconnected) };
        let address = address_of(&self.env, &self.account).await?;
        if !delegation.is_for(&address) {
            let detail = "connect a Google account first: there is none for this user, and the operator's service account \
                          does not act for addresses of their domain";
            return Err(Problem::new(ProblemKind::NotConnected, detail));
        }
        let assertion = self.assertion(&delegation, &address).await?;
        match self.ask(delegated_body(&assertion)).await {
            Ok(answer) => {
                self.tell().await?;
                self.env.stats.tokens_delegated.add(1);
                let acting = acting_for(&address);
                Ok(Kept { address: Some(Rc::from(address)), ..kept(&self.env, &answer, acting) })
            }
            Err(NoToken::Other(problem)) => Err(problem),
            Err(refused @ (NoToken::Dead(_) | NoToken::Client(_))) => {
                let why = if let NoToken::Client(why) = &refused { why } else { "invalid_grant" };
                tracing::warn!(user = %self.account.user, why, "Google does not let the service account act for a user");
                let detail = "Google does not let the operator's service account act for this user: the domain's administrator \
                              must allow it, and the address must be one of the domain's";
                Err(Problem::new(ProblemKind::UpstreamRefused, detail))
            }
        }
    }

    async fn assertion(
        &self,
        delegation: &Delegation,
        address: &str,
    ) -> Result<zeroize::Zeroizing<String>, Problem> {
        let runtime = self.env.egress.runtime();
        let signed = delegation.assertion(&runtime, address, self.env.clock.unix_ms()).await;
        signed.map_err(|error| match error {
            NoAssertion::Busy => {
                self.env.stats.tokens_unsigned.add(1);
                let detail = "too many users need a token of the operator's service account at once";
                Problem::new(ProblemKind::Overloaded, detail).with_retry_after_s(1)
            }
            NoAssertion::Failed => {
                tracing::error!(user = %self.account.user, "an assertion of the service account could not be signed");
                Problem::new(ProblemKind::Internal, "the operator's service account cannot sign")
            }
        })
    }

    /// Tells the audit log, unless it was told lately. What cannot be told is not done.
    async fn tell(&self) -> Result<(), Problem> {
        let (env, at_ms) = (&self.env, self.env.clock.unix_ms());
        let told = &env.tokens.told;
        if !told.is_due(&self.account.user, at_ms) {
            return Ok(());
        }
        let mut batch = Batch::new(self.account.shard);
        Author::gateway().tell(&mut batch, Act::UserImpersonate, Object::User(&self.account.user), at_ms);
        env.store.commit(batch).await.map_err(|error| {
            tracing::error!(user = %self.account.user, %error, "the audit log does not take that the service account acts for a user");
            Problem::new(ProblemKind::Storage, "what is done cannot be told in the audit log at the moment")
        })?;
        told.note(self.account.user, at_ms);
        Ok(())
    }
}

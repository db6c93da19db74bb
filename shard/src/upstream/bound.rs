//! The account at Google that a task is carried out with: settled when its command is accepted, or by its first step at
//! the latest, and the same from then on.
//!
//! Invariant: nothing that was begun with one account goes on with another. A task whose account is gone asks no other
//! what became of its work: in another mailbox a draft that was never sent is as little to be found as one that was.

use sluice_protocols::access::Scopes;
use sluice_protocols::api::CONNECTIONS_PER_USER_MAX;
use sluice_protocols::ids::{ShardId, UserId};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::record::{ActingAccount, ConnectionRecord, ConnectionState};
use sluice_store::{KeyRange, Kind, ReadError};

use super::tokens::Account;
use super::tokens::delegated::delegated_of;
use crate::env::Env;
use crate::routes::read_problem;

/// Where the account of a task is.
#[derive(Debug)]
pub(crate) enum Bound {
    /// There is none yet: whatever is asked tells so.
    Open,
    At(Spot),
    /// It was given up: what is to be told.
    Gone(Problem),
}

/// An account, and where it stood at some moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    pub(crate) slot: u8,
    pub(crate) acting: ActingAccount,
    /// [`super::TokenCache::changes`] at that moment.
    pub(crate) as_of: u64,
}

/// The account that a user's commands are for where they name none; `None` where there is none, or what is stored of it
/// is damaged.
///
/// # Errors
/// The storage's, where that passes.
pub(crate) async fn default_of(
    env: &Env,
    shard: ShardId,
    user: UserId,
) -> Result<Option<ActingAccount>, Problem> {
    let account = Account { shard, user, slot: 0 };
    if let Some(acting) = env.tokens.connected(&account) {
        return Ok(Some(acting));
    }
    let loaded = env.store.load::<ConnectionRecord>(shard, &account.key()).await;
    match loaded.map(|found| found.map(|loaded| loaded.to_record())) {
        Ok(Some(record)) if is_usable(&record) => Ok(Some(ActingAccount::Connected(record.id))),
        Ok(_) => delegated_of(env, &account).await,
        Err(ReadError::Quarantined { .. } | ReadError::Newer { .. }) => Ok(None),
        Err(error) => Err(read_problem(&error)),
    }
}

/// Where an account stands now.
///
/// # Errors
/// The storage's, where that passes.
pub(crate) async fn bound(
    env: &Env,
    shard: ShardId,
    user: UserId,
    acting: ActingAccount,
) -> Result<Bound, Problem> {
    let as_of = env.tokens.changes();
    if default_of(env, shard, user).await? == Some(acting) {
        return Ok(Bound::At(Spot { slot: 0, acting, as_of }));
    }
    let ActingAccount::Connected(id) = acting else { return Ok(Bound::Gone(gone(acting))) };
    let range = KeyRange::of_user(Kind::Connection, &user);
    let page = env.store.scan(shard, range, 2 * usize::from(CONNECTIONS_PER_USER_MAX), false).await;
    for (key, value) in page.map_err(|error| read_problem(&error))?.rows {
        // A damaged one is nobody's; its bytes are kept in quarantine.
        let Ok(loaded) = env.store.validate::<ConnectionRecord>(shard, &key, value) else { continue };
        let (record, Some(slot)) = (loaded.to_record(), key.connection_slot()) else { continue };
        if record.id != id {
            continue;
        }
        if is_usable(&record) {
            return Ok(Bound::At(Spot { slot, acting, as_of }));
        }
        let link = env.links.mend(&record, Scopes::NONE, env.clock.unix_ms());
        return Ok(Bound::Gone(gone(acting).with_link(link)));
    }
    Ok(Bound::Gone(gone(acting)))
}

fn is_usable(record: &ConnectionRecord) -> bool {
    matches!(record.state, ConnectionState::Active | ConnectionState::NeedsReauth)
}

/// What is told of a task whose account is not its user's any more.
pub(crate) fn gone(acting: ActingAccount) -> Problem {
    let detail = match acting {
        ActingAccount::Connected(id) => format!(
            "the Google account that the command was accepted for ({id}) was given up; connect it again, or send the \
             command anew for another account"
        ),
        ActingAccount::Delegated(_) => "the command was accepted for the account of the user's address in the operator's \
                                        domain, for which the gateway does not act any more; send the command anew for \
                                        another account"
            .to_owned(),
    };
    Problem::new(ProblemKind::AccountGone, detail)
}

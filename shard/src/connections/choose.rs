//! Which of a user's accounts is the default one: the one in the first slot.
//!
//! Where a token belongs is sealed into it, so accounts that change places are sealed anew, both in one write. Meanwhile
//! neither is refreshed: a token that came for one place would not find its account there.
//!
//! Invariant: nothing that was begun with one account goes on with another. Accounts do not change places while tasks of
//! their user are not at their end, and a call knows by its token which account it began with ([`crate::upstream::Google`]).

use sluice_protocols::api::ConnectionView;
use sluice_protocols::ids::{ConnectionId, ShardId, UserId};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::record::{ConnectionRecord, ConnectionState, Provider, RevocationRecord};
use sluice_store::{Batch, Key};

use super::revoke::unstored;
use super::{Connections, Placed};
use crate::audit::{Act, Author, Object};
use crate::routes::read_problem;
use crate::upstream::Account;

impl Connections {
    /// Makes a connection the default one; the one that was takes its place.
    ///
    /// # Errors
    /// `not-found`, `conflict` when it was given up or tasks are under way, or the storage's.
    pub(crate) async fn make_default(
        &self,
        shard: ShardId,
        user: UserId,
        author: Author,
        id: ConnectionId,
        is_busy: impl Fn() -> bool,
    ) -> Result<ConnectionView, Problem> {
        let _turn = self.holds.take(user).await;
        let Placed { account, record } = self.find(shard, &user, id).await?;
        if matches!(record.state, ConnectionState::Revoking | ConnectionState::Revoked) {
            let detail = "the connection was given up; connect the account anew";
            return Err(Problem::new(ProblemKind::Conflict, detail));
        }
        if account.slot != 0 {
            self.exchange_places(&account, &author, is_busy).await?;
        }
        self.get(shard, &user, id).await
    }

    /// Moves an account to the first place, and what is there to its own. For who has the user's turn.
    async fn exchange_places(
        &self,
        second: &Account,
        author: &Author,
        is_busy: impl Fn() -> bool,
    ) -> Result<(), Problem> {
        let first = Account { slot: 0, ..*second };
        let (vault, tokens) = (&self.env.vault, &self.env.tokens);
        let _seized = (tokens.seize(first).await, tokens.seize(*second).await);
        // Now, that nothing new comes by a token: what begins from here on meets the accounts in their new places.
        if is_busy() {
            let detail = "commands are waiting or under way; they keep to the account they began with";
            return Err(Problem::new(ProblemKind::Conflict, detail));
        }
        let hold =
            async |account: &Account| vault.hold(&account.key()).await.map_err(|error| unstored(&error));
        let _held = (hold(&first).await?, hold(second).await?);
        let mut batch = Batch::new(second.shard);
        let mut chosen = ConnectionId::from_bytes([0; 16]);
        for (from, to) in [(&first, second), (second, &first)] {
            let mark =
                |account: &Account| Key::revocation(&account.user, Provider::Google.number(), account.slot);
            let loaded = self.env.store.load::<ConnectionRecord>(from.shard, &from.key()).await;
            let Some(loaded) = loaded.map_err(|error| read_problem(&error))? else {
                batch.delete(&to.key());
                batch.delete(&mark(to));
                continue;
            };
            let mut record = loaded.to_record();
            if to.slot == 0 {
                chosen = record.id;
            }
            let opened = vault.open(&from.place(), &record.refresh_token).await;
            let opened = opened.map_err(|error| unstored(&error))?;
            let sealed = vault.seal(&to.place(), opened.expose()).await;
            record.refresh_token = sealed.map_err(|error| unstored(&error))?;
            batch.put_record(&to.key(), &record).map_err(|error| unstored(&error))?;
            if record.state == ConnectionState::Revoking {
                let since = RevocationRecord { since_ms: record.updated_ms };
                batch.put_record(&mark(to), &since).map_err(|error| unstored(&error))?;
            } else {
                batch.delete(&mark(to));
            }
        }
        let object = Object::Account(&second.user, Provider::Google, &chosen);
        author.tell(&mut batch, Act::ConnectionChange, object, self.env.clock.unix_ms());
        self.env.store.commit(batch).await.map_err(|error| unstored(&error))?;
        // Whoever was about to tell Google of one that was given up does not find it where it was.
        self.untold.ring();
        // What was read is the other account's.
        self.env.reads.forget(second.user);
        Ok(())
    }
}

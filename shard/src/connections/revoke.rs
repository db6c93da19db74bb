//! Giving connections up: here at once, and at Google as soon as Google can be told.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use sluice_net::egress::Retry;
use sluice_protocols::api::ConnectionView;
use sluice_protocols::google::consent::{Revocation, revoke_body};
use sluice_protocols::ids::{ConnectionId, ShardId, UserId};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::record::{ConnectionRecord, ConnectionState, Provider, RevocationRecord};
use sluice_store::vault::VaultError;
use sluice_store::{Batch, Key, KeyRange, Kind};

use super::{Connections, Placed, REASON_UNTOLD, REVOKING_MAX_MS};
use crate::audit::{Act, Author, Object, Outcome};
use crate::routes::read_problem;
use crate::signal::Signal;
use crate::upstream::Account;

/// How long the user waits for Google's answer, before it is told that it is still to come.
const PATIENCE: Duration = Duration::from_secs(5);
/// From one round of telling Google to the next: at first, and at last.
const ROUND_MIN: Duration = Duration::from_secs(1);
const ROUND_MAX: Duration = Duration::from_secs(15 * 60);
/// Marks read at once.
const PAGE_ROWS: usize = 64;

/// Wakes who waits for it; a ring that nobody waits for is kept for the next.
#[derive(Default)]
pub(super) struct Bell(RefCell<Option<Rc<Signal<()>>>>);

impl Bell {
    fn current(&self) -> Rc<Signal<()>> {
        Rc::clone(self.0.borrow_mut().get_or_insert_with(Signal::new))
    }

    pub(super) fn ring(&self) {
        self.current().set(());
    }

    /// Waits for a ring, and takes it.
    async fn heard(&self) {
        self.current().wait().await;
        self.0.borrow_mut().take();
    }
}

/// How far it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// There is nothing more to be told.
    Settled,
    /// Try again.
    NotYet,
}

impl Connections {
    /// Gives a connection up. The view says whether Google knows.
    ///
    /// # Errors
    /// `not-found`, or the storage's; then nothing was changed.
    pub(crate) async fn give_up(
        self: &Rc<Self>,
        shard: ShardId,
        user: UserId,
        author: Author,
        id: ConnectionId,
    ) -> Result<ConnectionView, Problem> {
        let account = {
            let _turn = self.holds.take(user).await;
            let Placed { account, record } = self.find(shard, &user, id).await?;
            match record.state {
                // Google is told already, again and again: not once more for each who asks.
                ConnectionState::Revoked | ConnectionState::Revoking => {
                    return self.get(shard, &user, id).await;
                }
                ConnectionState::Active | ConnectionState::NeedsReauth => {
                    self.mark(&account, &author).await?
                }
            }
            account
        };
        // As a task of its own: whoever goes away tears nothing down.
        let done = Signal::new();
        let (connections, landed) = (Rc::clone(self), Rc::clone(&done));
        sluice_core::spawn(async move {
            let told = connections.tell(&account).await;
            if told == Told::NotYet {
                connections.untold.ring();
            }
            landed.set(());
        });
        let limit: Instant = sluice_core::now() + PATIENCE;
        let _late = sluice_core::timeout_at(limit, done.wait()).await;
        self.get(shard, &user, id).await
    }

    /// Notes that a connection is given up. From then on it is not used.
    async fn mark(&self, account: &Account, author: &Author) -> Result<(), Problem> {
        let key = account.key();
        {
            let _hold = self.env.vault.hold(&key).await.map_err(|error| unstored(&error))?;
            // A refresh may have changed it since.
            let loaded = self.env.store.load::<ConnectionRecord>(account.shard, &key).await;
            let loaded = loaded.map_err(|error| read_problem(&error))?;
            let Some(mut record) = loaded.map(|loaded| loaded.to_record()) else { return Ok(()) };
            let now_ms = self.env.clock.unix_ms();
            (record.state, record.reason, record.updated_ms) = (ConnectionState::Revoking, 0, now_ms);
            // One that an older version left as it is must be sealed to be written.
            if !record.refresh_token.is_sealed() {
                let opened = self.env.vault.open(&account.place(), &record.refresh_token).await;
                let opened = opened.map_err(|error| unstored(&error))?;
                let sealed = self.env.vault.seal(&account.place(), opened.expose()).await;
                record.refresh_token = sealed.map_err(|error| unstored(&error))?;
            }
            let mut batch = Batch::new(account.shard);
            batch.put_record(&key, &record).map_err(|error| unstored(&error))?;
            let told = batch.put_record(&mark_of(account), &RevocationRecord { since_ms: now_ms });
            told.map_err(|error| unstored(&error))?;
            let object = Object::Account(&account.user, Provider::Google, &record.id);
            author.tell_that(&mut batch, Act::ConnectionRevoke, object, Outcome::Begun, now_ms);
            self.env.store.commit(batch).await.map_err(|error| unstored(&error))?;
        }
        self.metrics.connections_given_up.add(1);
        self.env.tokens.settle(account).await;
        self.env.reads.forget(account.user);
        Ok(())
    }

    /// Tells Google of a connection that was given up, once.
    async fn tell(&self, account: &Account) -> Told {
        let _turn = self.holds.take(account.user).await;
        // A refresh that was on its way may still bring the token that is to be revoked.
        self.env.tokens.settle(account).await;
        let key = account.key();
        let record = match self.env.store.load::<ConnectionRecord>(account.shard, &key).await {
            Ok(loaded) => loaded.map(|loaded| loaded.to_record()),
            Err(error) => {
                tracing::error!(user = %account.user, %error, "a connection that is to be revoked cannot be read");
                return Told::NotYet;
            }
        };
        let Some(record) = record.filter(|record| record.state == ConnectionState::Revoking) else {
            // The account was connected anew; or a crash left the mark of one that is done with.
            return self.unmark(account).await;
        };
        let token = match self.env.vault.open(&account.place(), &record.refresh_token).await {
            Ok(token) => token,
            // Nobody can ever tell Google which it was.
            Err(VaultError::Destroyed { .. } | VaultError::Unreadable) => {
                return self.end(account, false).await;
            }
            Err(error) => {
                tracing::error!(user = %account.user, %error, "a token that is to be revoked cannot be opened");
                return Told::NotYet;
            }
        };
        let config = &self.env.config;
        let body = revoke_body(&config.google_client_id, &config.google_client_secret, token.expose());
        let outcome = match self.call(config.connect.revoke_url.clone(), body, Retry::Safe).await {
            Ok(answer) => Revocation::of(answer.status, &answer.body),
            Err(why) => {
                tracing::warn!(user = %account.user, why, "Google could not be told that a connection is given up");
                Revocation::Passing
            }
        };
        let is_over = self.env.clock.unix_ms() >= record.updated_ms.saturating_add(REVOKING_MAX_MS);
        match outcome {
            Revocation::Done => self.end(account, true).await,
            Revocation::Passing | Revocation::Refused if is_over => self.end(account, false).await,
            Revocation::Passing => Told::NotYet,
            Revocation::Refused => {
                tracing::error!(user = %account.user, "Google's revocation endpoint refuses a request of ours");
                Told::NotYet
            }
        }
    }

    /// Wipes what is left of a connection that was given up.
    async fn end(&self, account: &Account, is_known: bool) -> Told {
        match self.wipe(account, is_known).await {
            Ok(()) => {
                if is_known {
                    self.metrics.connections_revoked.add(1);
                } else {
                    self.metrics.connections_untold.add(1);
                    tracing::warn!(user = %account.user, "Google was never told that a connection is given up");
                }
                Told::Settled
            }
            Err(problem) => {
                tracing::error!(user = %account.user, %problem, "a revoked connection could not be marked");
                Told::NotYet
            }
        }
    }

    async fn wipe(&self, account: &Account, is_known: bool) -> Result<(), Problem> {
        let key = account.key();
        let nothing = self.env.vault.seal(&account.place(), "").await.map_err(|error| unstored(&error))?;
        let _hold = self.env.vault.hold(&key).await.map_err(|error| unstored(&error))?;
        let loaded = self.env.store.load::<ConnectionRecord>(account.shard, &key).await;
        let record = loaded.map_err(|error| read_problem(&error))?.map(|loaded| loaded.to_record());
        // An operator, who has no turn, may have connected it anew while Google was told.
        let given_up = record.filter(|record| record.state == ConnectionState::Revoking);
        let Some(mut record) = given_up else { return Ok(()) };
        let now_ms = self.env.clock.unix_ms();
        record.state = ConnectionState::Revoked;
        record.reason = if is_known { 0 } else { REASON_UNTOLD };
        record.refresh_token = nothing;
        record.updated_ms = now_ms;
        let mut batch = Batch::new(account.shard);
        batch.put_record(&key, &record).map_err(|error| unstored(&error))?;
        batch.delete(&mark_of(account));
        let outcome = if is_known { Outcome::Done } else { Outcome::Refused };
        let object = Object::Account(&account.user, Provider::Google, &record.id);
        Author::gateway().tell_that(&mut batch, Act::ConnectionRevoke, object, outcome, now_ms);
        self.env.store.commit(batch).await.map(drop).map_err(|error| unstored(&error))
    }

    async fn unmark(&self, account: &Account) -> Told {
        let mut batch = Batch::new(account.shard);
        batch.delete(&mark_of(account));
        match self.env.store.commit(batch).await {
            Ok(_) => Told::Settled,
            Err(_) => Told::NotYet,
        }
    }

    /// Tells Google what it does not know yet, again and again: at a start, and whenever something could not be told.
    pub(crate) async fn keep_telling(self: Rc<Self>, shards: Vec<ShardId>) {
        let mut wait = ROUND_MIN;
        loop {
            if self.tell_all(&shards).await == Told::Settled {
                wait = ROUND_MIN;
                self.untold.heard().await;
            }
            sluice_core::sleep(wait).await;
            wait = (wait * 2).min(ROUND_MAX);
        }
    }

    /// One round over all marks of the shards.
    pub(super) async fn tell_all(&self, shards: &[ShardId]) -> Told {
        let mut all = Told::Settled;
        for shard in shards {
            let mut next = Some(KeyRange::kind(Kind::Revocation));
            while let Some(range) = next.take() {
                let page = match self.env.store.scan(*shard, range, PAGE_ROWS, false).await {
                    Ok(page) => page,
                    Err(error) => {
                        tracing::warn!(%error, %shard, "what is to be revoked cannot be read yet");
                        all = Told::NotYet;
                        break;
                    }
                };
                for (key, _) in page.rows {
                    let (Some(user), Some(slot)) = (key.user_id(), key.connection_slot()) else { continue };
                    let account = Account { shard: *shard, user, slot };
                    // A consent that is under way may be for this account, and would be revoked as well.
                    let told = match self.is_consenting(*shard, &user).await {
                        true => Told::NotYet,
                        false => self.tell(&account).await,
                    };
                    if told == Told::NotYet {
                        all = Told::NotYet;
                    }
                }
                next = page.next;
            }
        }
        all
    }
}

fn mark_of(account: &Account) -> Key {
    Key::revocation(&account.user, Provider::Google.number(), account.slot)
}

pub(super) fn unstored(error: &dyn std::error::Error) -> Problem {
    tracing::error!(%error, "a connection cannot be changed");
    Problem::new(ProblemKind::Storage, "the connection could not be changed").with_retry_after_s(5)
}

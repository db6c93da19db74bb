//! What users do with their webhooks: make, read, change, delete, rotate, try, and look at attempts.

use sluice_net::egress::{OutwardTarget, TargetError};
use sluice_protocols::api::{
    AttemptView, DisabledReason, EventSet, WebhookEdit, WebhookEvent, WebhookRequest, WebhookView,
    webhook_message,
};
use sluice_protocols::ids::{DeliveryId, ShardId, UserId, WebhookId};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::record::{AttemptRecord, AttemptsRecord, StoredSecret, WebhookRecord};
use sluice_store::vault::Place;
use sluice_store::{Batch, CommitError, Key, KeyRange, Kind};

use super::Webhooks;
use super::deliver::{Fault, outcome};
use super::index::{Full, Subscription};
use super::queue::Entry;
use super::secret::Secret;
use crate::auth::Principal;
use crate::clock::timestamp_of;
use crate::routes::{not_found, read_problem};

/// Messages that go in the batch that deletes their webhook; more go one by one when they are due.
const DELETED_MAX: usize = 1_000;

/// A webhook with a secret that its user has not seen yet.
pub(crate) struct MadeWebhook {
    pub(crate) webhook: WebhookRecord,
    pub(crate) secret: Secret,
}

/// The number of a reason on disk.
pub(super) fn of_reason(reason: DisabledReason) -> u8 {
    match reason {
        DisabledReason::Gone => 1,
        DisabledReason::Failing => 2,
    }
}

fn reason(number: u8) -> Option<DisabledReason> {
    match number {
        1 => Some(DisabledReason::Gone),
        2 => Some(DisabledReason::Failing),
        _ => None,
    }
}

/// A webhook as its user sees it at this moment.
pub(crate) fn view(webhook: &WebhookRecord, now_ms: u64) -> WebhookView {
    let is_rotating = webhook.previous_secret.is_some() && now_ms < webhook.previous_until_ms;
    WebhookView {
        id: webhook.id,
        url: webhook.url.clone(),
        events: EventSet::from_bits(webhook.events).names().into_iter().map(str::to_owned).collect(),
        description: webhook.description.clone(),
        enabled: webhook.enabled,
        disabled_reason: reason(webhook.disabled_reason),
        created: timestamp_of(webhook.created_ms),
        updated: timestamp_of(webhook.updated_ms),
        previous_secret_until: is_rotating.then(|| timestamp_of(webhook.previous_until_ms)),
        secret: None,
    }
}

/// The name of an event that a record has by its number.
pub(crate) fn event_name(number: u8) -> &'static str {
    WebhookEvent::from_number(number).map_or("unknown", WebhookEvent::name)
}

/// An attempt as the webhook's user sees it.
pub(crate) fn attempt_view(attempt: &AttemptRecord) -> AttemptView {
    let event = event_name(attempt.event);
    AttemptView {
        id: attempt.message,
        event: event.to_owned(),
        attempt: attempt.number,
        at: timestamp_of(attempt.at_ms),
        took_ms: attempt.took_ms,
        status: (attempt.status != 0).then_some(attempt.status),
        error: Fault::text(attempt.error).map(str::to_owned),
        outcome: outcome(attempt.outcome),
    }
}

impl Webhooks {
    /// What a webhook is known as from now on.
    pub(super) fn keep(&self, webhook: &WebhookRecord) {
        let events = EventSet::from_bits(webhook.events);
        let subscription = Subscription { id: webhook.id, events, enabled: webhook.enabled };
        self.index.borrow_mut().put(webhook.user, subscription);
        self.note();
    }

    /// Makes a webhook.
    ///
    /// # Errors
    /// `invalid-field`, `conflict` when the user has too many, or the storage's.
    pub(crate) async fn make(
        &self,
        who: &Principal,
        request: WebhookRequest,
    ) -> Result<MadeWebhook, Problem> {
        self.check_url(&request.url)?;
        let _turn = self.holds.take(who.user).await;
        let most = self.config.per_user_max;
        if self.index.borrow().count(&who.user) >= most {
            return Err(Problem::new(
                ProblemKind::Conflict,
                format!("you have {most} webhooks; no more are kept"),
            ));
        }
        let now_ms = self.clock.unix_ms();
        let (id, secret) = (self.mint.webhook(now_ms), Secret::random());
        let webhook = WebhookRecord {
            id,
            user: who.user,
            url: request.url,
            events: request.events.bits(),
            description: request.description,
            secret: self.sealed(&who.user, &id, &secret).await?,
            previous_secret: None,
            previous_until_ms: 0,
            enabled: request.enabled,
            disabled_reason: 0,
            created_ms: now_ms,
            updated_ms: now_ms,
        };
        self.store_webhook(who.shard, &webhook).await?;
        Ok(MadeWebhook { webhook, secret })
    }

    /// A user's webhooks, in the order they were made in.
    ///
    /// # Errors
    /// The storage's.
    pub(crate) async fn list(&self, who: &Principal) -> Result<Vec<WebhookRecord>, Problem> {
        // Each has a record of its attempts beside it.
        let rows_max = 2 * self.index.borrow().count(&who.user).max(self.config.per_user_max);
        let range = KeyRange::of_user(Kind::Webhook, &who.user);
        let page = self.store.scan(who.shard, range, rows_max, false).await;
        let rows = page.map_err(|error| read_problem(&error))?.rows;
        let own = rows.into_iter().filter(|(key, _)| key.webhook_id().is_some());
        // A damaged one is passed over; its bytes are kept in quarantine.
        let read = |(key, value)| self.store.validate::<WebhookRecord>(who.shard, &key, value).ok();
        Ok(own.filter_map(read).map(|webhook| webhook.to_record()).collect())
    }

    /// One webhook.
    ///
    /// # Errors
    /// `not-found`, or the storage's.
    pub(crate) async fn get(&self, who: &Principal, id: WebhookId) -> Result<WebhookRecord, Problem> {
        let loaded = self.store.load::<WebhookRecord>(who.shard, &Key::webhook(&who.user, &id)).await;
        let loaded = loaded.map_err(|error| read_problem(&error))?;
        loaded.map(|webhook| webhook.to_record()).ok_or_else(|| not_found("webhook"))
    }

    /// Changes a webhook.
    ///
    /// # Errors
    /// `not-found`, `invalid-field`, or the storage's.
    pub(crate) async fn edit(
        &self,
        who: &Principal,
        id: WebhookId,
        edit: WebhookEdit,
    ) -> Result<WebhookRecord, Problem> {
        if let Some(url) = &edit.url {
            self.check_url(url)?;
        }
        let _turn = self.holds.take(who.user).await;
        let mut webhook = self.get(who, id).await?;
        webhook.url = edit.url.unwrap_or(webhook.url);
        webhook.events = edit.events.map_or(webhook.events, EventSet::bits);
        webhook.description = edit.description.unwrap_or(webhook.description);
        if let Some(enabled) = edit.enabled {
            (webhook.enabled, webhook.disabled_reason) = (enabled, 0);
        }
        webhook.updated_ms = self.clock.unix_ms();
        self.store_webhook(who.shard, &webhook).await?;
        Ok(webhook)
    }

    /// Gives a webhook a new secret. The old one signs beside it for a while; the one before that does not any more.
    ///
    /// # Errors
    /// `not-found`, or the storage's.
    pub(crate) async fn rotate(&self, who: &Principal, id: WebhookId) -> Result<MadeWebhook, Problem> {
        let _turn = self.holds.take(who.user).await;
        let mut webhook = self.get(who, id).await?;
        let (now_ms, secret) = (self.clock.unix_ms(), Secret::random());
        let overlap_ms = u64::try_from(self.config.overlap.as_millis()).unwrap_or(u64::MAX);
        let sealed = self.sealed(&who.user, &id, &secret).await?;
        let old = std::mem::replace(&mut webhook.secret, sealed);
        webhook.previous_secret = (overlap_ms > 0).then_some(old);
        webhook.previous_until_ms = now_ms.saturating_add(overlap_ms);
        webhook.updated_ms = now_ms;
        self.store_webhook(who.shard, &webhook).await?;
        Ok(MadeWebhook { webhook, secret })
    }

    /// Deletes a webhook with what was still to be delivered to it.
    ///
    /// # Errors
    /// `not-found`, or the storage's.
    pub(crate) async fn delete(&self, who: &Principal, id: WebhookId) -> Result<(), Problem> {
        let _turn = self.holds.take(who.user).await;
        self.get(who, id).await?;
        // From here on nothing is made for it.
        let known = self.index.borrow_mut().remove(&who.user, &id);
        let range = KeyRange::deliveries(&who.user, &id);
        let pending = match self.store.scan(who.shard, range, DELETED_MAX, false).await {
            Ok(page) => page.rows,
            Err(error) => {
                self.restore(who.user, known, Vec::new());
                return Err(read_problem(&error));
            }
        };
        let mut batch = Batch::new(who.shard);
        batch.delete(&Key::webhook(&who.user, &id)).delete(&Key::webhook_attempts(&who.user, &id));
        let mut entries = Vec::with_capacity(pending.len());
        // Nor are the ends of attempts under way written any more.
        for (_, message) in pending.iter().filter_map(|(key, _)| key.delivery_id()) {
            batch.delete(&Key::delivery(&who.user, &id, &message));
            let entry = self.queue.borrow_mut().remove(message);
            entries.extend(entry.map(|entry| (message, entry)));
        }
        if let Err(error) = self.store.commit(batch).await {
            self.restore(who.user, known, entries);
            return Err(unwritten(&error));
        }
        for _ in &entries {
            self.index.borrow_mut().release(&who.user);
        }
        self.start_due();
        Ok(())
    }

    /// Knows a webhook and its messages again that could not be deleted.
    fn restore(&self, user: UserId, known: Option<Subscription>, entries: Vec<(DeliveryId, Entry)>) {
        if let Some(known) = known {
            self.index.borrow_mut().put(user, known);
        }
        for (message, entry) in entries {
            // When it was due is not known any more: it is sent a little early.
            self.queue.borrow_mut().push(message, entry, 0);
        }
        self.start_due();
    }

    /// Sends a ping to a webhook, once, whatever it is subscribed to.
    ///
    /// # Errors
    /// `not-found`, `conflict` when it is disabled, `overloaded` when too many messages wait, or the storage's.
    pub(crate) async fn ping(&self, who: &Principal, id: WebhookId) -> Result<DeliveryId, Problem> {
        let webhook = self.get(who, id).await?;
        if !webhook.enabled {
            return Err(Problem::new(ProblemKind::Conflict, "the webhook is disabled; enable it first"));
        }
        let mut batch = Batch::new(who.shard);
        let mut announced = self.nothing(who.user);
        let event = WebhookEvent::Ping;
        let data = serde_json::json!({ "webhook": id });
        let body = webhook_message(event, self.clock.timestamp(), &data);
        let written = self.write_message(&mut batch, &mut announced, id, event, &body);
        let message = written.map_err(|_: Full| {
            let problem = Problem::new(ProblemKind::Overloaded, "too many messages to webhooks are waiting");
            problem.with_retry_after_s(5)
        })?;
        self.store.commit(batch).await.map_err(|error| unwritten(&error))?;
        announced.take_up();
        Ok(message)
    }

    /// What came of the last attempts at a webhook, newest first.
    ///
    /// # Errors
    /// `not-found`, or the storage's.
    pub(crate) async fn attempts(&self, who: &Principal, id: WebhookId) -> Result<Vec<AttemptView>, Problem> {
        self.get(who, id).await?;
        let key = Key::webhook_attempts(&who.user, &id);
        let loaded = self.store.load::<AttemptsRecord>(who.shard, &key).await;
        let record = loaded.map_err(|error| read_problem(&error))?.map(|record| record.to_record());
        Ok(record.unwrap_or_default().attempts.iter().rev().map(attempt_view).collect())
    }

    fn check_url(&self, url: &str) -> Result<(), Problem> {
        let checked = OutwardTarget::parse(url, &self.config.policy);
        checked.map(drop).map_err(|error: TargetError| {
            let problem = Problem::new(ProblemKind::InvalidField, "one field is not valid");
            problem.with_error("/url", error.to_string())
        })
    }

    async fn sealed(&self, user: &UserId, id: &WebhookId, secret: &Secret) -> Result<StoredSecret, Problem> {
        let sealed = self.vault.seal(&Place::webhook_secret(user, id), &secret.expose()).await;
        sealed.map_err(|error| {
            tracing::error!(%user, %error, "the secret of a webhook was not sealed");
            Problem::new(ProblemKind::Storage, "the secret was not stored").with_retry_after_s(5)
        })
    }

    async fn store_webhook(&self, shard: ShardId, webhook: &WebhookRecord) -> Result<(), Problem> {
        let mut batch = Batch::new(shard);
        let too_large = |_| Problem::new(ProblemKind::PayloadTooLarge, "the webhook is too large");
        batch.put_record(&Key::webhook(&webhook.user, &webhook.id), webhook).map_err(too_large)?;
        self.store.commit(batch).await.map_err(|error| unwritten(&error))?;
        self.keep(webhook);
        Ok(())
    }
}

fn unwritten(error: &CommitError) -> Problem {
    if matches!(error, CommitError::Overloaded) {
        return Problem::new(ProblemKind::Overloaded, "too many changes are waiting").with_retry_after_s(1);
    }
    tracing::error!(%error, "a change of a webhook was not stored");
    Problem::new(ProblemKind::Storage, "the change was not stored").with_retry_after_s(5)
}

//! One attempt at one message, and what is written of it.

use std::time::Duration;

use bytes::Bytes;
use sluice_net::egress::{OutwardAnswer, OutwardError, OutwardMessage, OutwardTarget};
use sluice_protocols::api::{AttemptOutcome, DisabledReason, WebhookEvent};
use sluice_protocols::ids::DeliveryId;
use sluice_store::record::{AttemptRecord, DeliveryRecord, StoredSecret, WebhookRecord};
use sluice_store::vault::{Place, VaultError};
use sluice_store::{Batch, CommitError, Key, ReadError};

use super::Webhooks;
use super::log::Log;
use super::manage::of_reason;
use super::queue::Entry;
use super::secret::Secret;
use super::verdict::Verdict;
use crate::holds::Hold;
use crate::tasks::Backoff;

/// When what could not be done for want of a place here, or of the disk, is tried again.
const SOON: Duration = Duration::from_secs(2);
/// How often the end of an attempt is handed to a full commit queue before the message is sent once more.
const COMMIT_ATTEMPTS_MAX: u32 = 8;

/// What went wrong with an attempt. The number stands on disk and never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Fault {
    /// Nothing, or the status says it.
    None = 0,
    /// There is no address, or none that is allowed: which of the two would tell what names there are within the
    /// gateway's own network.
    NoAddress = 1,
    NoConnection = 2,
    NoTls = 3,
    TimedOut = 4,
    Broken = 5,
    Redirect = 6,
    Gone = 7,
    Disabled = 8,
    Unsigned = 9,
}

impl Fault {
    const ALL: [Self; 10] = [
        Self::None,
        Self::NoAddress,
        Self::NoConnection,
        Self::NoTls,
        Self::TimedOut,
        Self::Broken,
        Self::Redirect,
        Self::Gone,
        Self::Disabled,
        Self::Unsigned,
    ];

    /// What users are told.
    pub(super) fn text(number: u8) -> Option<&'static str> {
        Some(match Self::ALL.into_iter().find(|fault| *fault as u8 == number)? {
            Self::None => return None,
            Self::NoAddress => "the URL leads to no address that messages may go to",
            Self::NoConnection => "no connection could be made",
            Self::NoTls => "no TLS connection could be made: look at the receiver's certificate",
            Self::TimedOut => "there was no answer in time",
            Self::Broken => "the connection broke before there was an answer",
            Self::Redirect => "redirects are not followed",
            Self::Gone => "the receiver is gone; the webhook was disabled",
            Self::Disabled => "the webhook is disabled",
            Self::Unsigned => "the secret cannot be read; rotate it",
        })
    }

    fn of(outcome: &Result<OutwardAnswer, OutwardError>) -> Self {
        match outcome {
            Ok(OutwardAnswer { status: 300..400, .. }) => Self::Redirect,
            Ok(OutwardAnswer { status: 410, .. }) => Self::Gone,
            Ok(_) => Self::None,
            Err(OutwardError::Forbidden | OutwardError::NoName) => Self::NoAddress,
            Err(OutwardError::NoConnection) => Self::NoConnection,
            Err(OutwardError::NoTls) => Self::NoTls,
            Err(OutwardError::TimedOut) => Self::TimedOut,
            Err(
                OutwardError::Broken
                | OutwardError::Invalid
                | OutwardError::Overloaded
                | OutwardError::ShuttingDown,
            ) => Self::Broken,
        }
    }
}

/// The number of an outcome on disk.
pub(super) fn of_outcome(outcome: AttemptOutcome) -> u8 {
    match outcome {
        AttemptOutcome::Delivered => 1,
        AttemptOutcome::Retrying => 2,
        AttemptOutcome::GivenUp => 3,
    }
}

/// The outcome of this number; an unknown one counts as the end.
pub(super) fn outcome(number: u8) -> AttemptOutcome {
    match number {
        1 => AttemptOutcome::Delivered,
        2 => AttemptOutcome::Retrying,
        _ => AttemptOutcome::GivenUp,
    }
}

/// How taking a message up ended.
enum Course {
    /// This process is done with it.
    Over,
    /// It waits, at least for so long.
    Later(Duration),
    /// It waits for its receiver to have a place.
    Parked,
}

/// Why a message was not attempted.
enum Setback {
    /// It may work later.
    Passing,
    /// Not in this process. It stays where it is, for whoever mends it.
    Lasting,
}

impl From<ReadError> for Setback {
    fn from(error: ReadError) -> Self {
        tracing::error!(%error, "a message to a webhook cannot be read");
        match error {
            ReadError::Overloaded | ReadError::Disk { .. } => Self::Passing,
            ReadError::Closed
            | ReadError::Foreign { .. }
            | ReadError::Quarantined { .. }
            | ReadError::Newer { .. } => Self::Lasting,
        }
    }
}

/// An attempt that was made, or that there is no use in.
struct Attempt {
    message: DeliveryRecord,
    verdict: Verdict,
    fault: Fault,
    status: u16,
    took: Duration,
}

impl Webhooks {
    /// Takes up a message that was begun.
    pub(super) async fn deliver(&self, message: DeliveryId, entry: Entry) {
        let course = self.attempt(message, &entry).await.unwrap_or_else(|setback| match setback {
            Setback::Passing => Course::Later(SOON),
            Setback::Lasting => Course::Over,
        });
        match course {
            Course::Over => self.forget(message),
            Course::Later(wait) => {
                let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                let due_ms = self.clock.unix_ms().saturating_add(wait_ms);
                self.queue.borrow_mut().put_back(message, due_ms);
            }
            Course::Parked => {}
        }
        self.start_due();
    }

    async fn attempt(&self, id: DeliveryId, entry: &Entry) -> Result<Course, Setback> {
        let key = Key::delivery(&entry.user, &entry.webhook, &id);
        let Some(message) = self.store.load::<DeliveryRecord>(entry.shard, &key).await? else {
            // Its webhook was deleted in the meantime, and it with that.
            return Ok(Course::Over);
        };
        let message = message.to_record();
        let key = Key::webhook(&entry.user, &entry.webhook);
        let webhook = match self.store.load::<WebhookRecord>(entry.shard, &key).await? {
            Some(webhook) => webhook.to_record(),
            None => return Ok(self.drop_orphan(&message, entry).await),
        };
        let log = self.logs.open(&self.store, entry).await?;
        if !webhook.enabled {
            let attempt = Attempt::useless(message, Fault::Disabled);
            return Ok(self.conclude(attempt, entry, &log).await);
        }
        let Some(fields) = self.fields(&webhook, &message).await? else {
            let attempt = Attempt::useless(message, Fault::Unsigned);
            return Ok(self.conclude(attempt, entry, &log).await);
        };
        let begun = sluice_core::now();
        // What was allowed when the webhook was made may not be any more.
        let outcome = match OutwardTarget::parse(&webhook.url, &self.config.policy) {
            Err(_) => Err(OutwardError::Forbidden),
            Ok(target) => {
                if !self.queue.borrow_mut().enter(id, target.place()) {
                    return Ok(Course::Parked);
                }
                let body = Bytes::from(message.body.clone());
                self.egress.send(OutwardMessage { target, fields, body }).await
            }
        };
        // What fails while the process stops says nothing of the receiver.
        let is_ours = matches!(outcome, Err(OutwardError::Overloaded | OutwardError::ShuttingDown));
        if is_ours || (outcome.is_err() && self.egress.is_closing()) {
            self.metrics.webhook_attempts_postponed.add(1);
            return Ok(Course::Later(SOON));
        }
        let number = message.attempts.saturating_add(1);
        let event = WebhookEvent::from_number(message.event).unwrap_or(WebhookEvent::Ping);
        let attempt = Attempt {
            verdict: self.schedule.judge(event, number, &outcome, self.mint.random()),
            fault: Fault::of(&outcome),
            status: outcome.map_or(0, |answer| answer.status),
            took: sluice_core::now().saturating_duration_since(begun),
            message: DeliveryRecord { attempts: number, ..message },
        };
        Ok(self.conclude(attempt, entry, &log).await)
    }

    /// The fields of Standard Webhooks; `None` when the secret cannot be read any more.
    async fn fields(
        &self,
        webhook: &WebhookRecord,
        message: &DeliveryRecord,
    ) -> Result<Option<Vec<(&'static str, String)>>, Setback> {
        let now_ms = self.clock.unix_ms();
        let unix_s = now_ms / 1_000;
        let Some(secret) = self.opened(webhook, &webhook.secret).await? else { return Ok(None) };
        let mut signature = secret.sign(message.id, unix_s, &message.body);
        let previous = webhook.previous_secret.as_ref().filter(|_| now_ms < webhook.previous_until_ms);
        if let Some(previous) = previous
            && let Some(previous) = self.opened(webhook, previous).await?
        {
            signature.push(' ');
            signature.push_str(&previous.sign(message.id, unix_s, &message.body));
        }
        Ok(Some(vec![
            ("webhook-id", message.id.to_string()),
            ("webhook-timestamp", unix_s.to_string()),
            ("webhook-signature", signature),
        ]))
    }

    /// A secret of a webhook; `None` when it is gone for good.
    async fn opened(
        &self,
        webhook: &WebhookRecord,
        secret: &StoredSecret,
    ) -> Result<Option<Secret>, Setback> {
        let place = Place::webhook_secret(&webhook.user, &webhook.id);
        match self.vault.open(&place, secret).await {
            Ok(text) => Ok(Secret::parse(text.expose())),
            Err(
                error @ (VaultError::NoDataKey { .. }
                | VaultError::Destroyed { .. }
                | VaultError::Unreadable
                | VaultError::Newer { .. }),
            ) => {
                tracing::error!(webhook = %webhook.id, %error, "the secret of a webhook cannot be opened");
                Ok(None)
            }
            Err(error) => {
                tracing::error!(webhook = %webhook.id, %error, "the secret of a webhook cannot be opened yet");
                Err(Setback::Passing)
            }
        }
    }

    /// Makes durable what came of an attempt, and tells how the message goes on.
    async fn conclude(&self, attempt: Attempt, entry: &Entry, log: &Log) -> Course {
        let now_ms = self.clock.unix_ms();
        log.add(attempt.line(now_ms));
        let disabled = match self.end_of_webhook(&attempt, log) {
            Some(reason) => self.disabled(entry, reason, now_ms).await,
            None => None,
        };
        if disabled.is_some() {
            // Enabled again, it is counted anew.
            log.forgive();
        }
        let id = attempt.message.id;
        let key = Key::delivery(&entry.user, &entry.webhook, &id);
        let (mut backoff, mut commits) = (Backoff::new(), 0);
        loop {
            // Deleted with its webhook: what is written now would come back to life.
            if !self.queue.borrow().has(&id) || !self.index.borrow().has(&entry.user, &entry.webhook) {
                return Course::Over;
            }
            let mut batch = Batch::new(entry.shard);
            if let Verdict::Again(wait) = attempt.verdict {
                let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                let not_before_ms = now_ms.saturating_add(wait_ms);
                put(&mut batch, &key, &DeliveryRecord { not_before_ms, ..attempt.message.clone() });
            } else {
                batch.delete(&key);
            }
            put(&mut batch, &Key::webhook_attempts(&entry.user, &entry.webhook), &log.record());
            if let Some((_turn, webhook)) = &disabled {
                put(&mut batch, &Key::webhook(&entry.user, &entry.webhook), webhook);
            }
            commits += 1;
            match self.store.commit(batch).await {
                Ok(_) => break,
                Err(CommitError::Overloaded) if commits < COMMIT_ATTEMPTS_MAX => backoff.wait().await,
                Err(error) => {
                    // It is on disk as it was before the attempt, and will be sent once more: after the next start where
                    // nothing can be written any more, for otherwise it would be sent over and over.
                    tracing::error!(%error, message = %id, "what came of a message could not be written");
                    return match error {
                        CommitError::Overloaded => Course::Later(SOON),
                        _ => Course::Over,
                    };
                }
            }
        }
        if let Some((_turn, webhook)) = disabled {
            self.keep(&webhook);
            self.metrics.webhooks_disabled.add(1);
            tracing::info!(webhook = %webhook.id, "a webhook was disabled: its receiver is gone, or fails");
        }
        self.count(&attempt);
        match attempt.verdict {
            Verdict::Again(wait) => Course::Later(wait),
            Verdict::Delivered | Verdict::GivenUp | Verdict::Gone => Course::Over,
        }
    }

    fn count(&self, attempt: &Attempt) {
        let cell = match attempt.verdict {
            Verdict::Delivered => &self.metrics.webhook_messages_delivered,
            Verdict::Again(_) => &self.metrics.webhook_attempts_failed,
            Verdict::GivenUp | Verdict::Gone => &self.metrics.webhook_messages_given_up,
        };
        cell.add(1);
    }

    /// Counts what an attempt says of its webhook; gives why the webhook is to be disabled, if it is.
    fn end_of_webhook(&self, attempt: &Attempt, log: &Log) -> Option<DisabledReason> {
        match attempt.verdict {
            Verdict::Delivered => log.forgive(),
            Verdict::Gone => return Some(DisabledReason::Gone),
            Verdict::GivenUp if attempt.tells_of_webhook() => {
                return (log.fail() >= self.config.disable_after).then_some(DisabledReason::Failing);
            }
            Verdict::GivenUp | Verdict::Again(_) => {}
        }
        None
    }

    /// The webhook as it will be, disabled, and the turn to change it. `None`: it is gone or disabled already, or cannot be
    /// read just now, and the next message tells again.
    async fn disabled(
        &self,
        entry: &Entry,
        reason: DisabledReason,
        now_ms: u64,
    ) -> Option<(Hold<'_>, WebhookRecord)> {
        let turn = self.holds.take(entry.user).await;
        let key = Key::webhook(&entry.user, &entry.webhook);
        let webhook = self.store.load::<WebhookRecord>(entry.shard, &key).await.ok()??.to_record();
        let disabled_reason = of_reason(reason);
        let disabled = WebhookRecord { enabled: false, disabled_reason, updated_ms: now_ms, ..webhook };
        webhook.enabled.then_some((turn, disabled))
    }

    /// Removes a message that was being written while its webhook was deleted.
    async fn drop_orphan(&self, message: &DeliveryRecord, entry: &Entry) -> Course {
        let mut batch = Batch::new(entry.shard);
        batch.delete(&Key::delivery(&entry.user, &entry.webhook, &message.id));
        if let Err(error) = self.store.commit(batch).await {
            tracing::error!(%error, message = %message.id, "a message without a webhook could not be removed");
            return Course::Later(SOON);
        }
        self.metrics.webhook_messages_given_up.add(1);
        Course::Over
    }
}

impl Attempt {
    /// One that was not made.
    fn useless(message: DeliveryRecord, fault: Fault) -> Self {
        Self { message, verdict: Verdict::GivenUp, fault, status: 0, took: Duration::ZERO }
    }

    /// Whether a message that was given up says something of its webhook: not when it was none of the receiver's doing, nor
    /// when somebody only tried.
    fn tells_of_webhook(&self) -> bool {
        let is_ping = self.message.event == WebhookEvent::Ping.number();
        !is_ping && !matches!(self.fault, Fault::Disabled | Fault::Unsigned)
    }

    fn line(&self, at_ms: u64) -> AttemptRecord {
        AttemptRecord {
            message: self.message.id,
            event: self.message.event,
            number: self.message.attempts,
            at_ms,
            took_ms: u32::try_from(self.took.as_millis()).unwrap_or(u32::MAX),
            status: self.status,
            error: self.fault as u8,
            outcome: of_outcome(self.verdict.outcome()),
        }
    }
}

/// Puts a record that is bounded far below the limit of values.
fn put<R: sluice_store::Record>(batch: &mut Batch, key: &Key, record: &R) {
    let written = batch.put_record(key, record);
    assert!(written.is_ok(), "a {} record is far smaller than a value may be", R::NAME);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_stand_where_their_numbers_say_and_say_what_they_are() {
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(fault as u8), index);
            assert_eq!(Fault::text(fault as u8).is_some(), fault != Fault::None);
        }
        assert_eq!(Fault::text(200), None);
        for ending in [AttemptOutcome::Delivered, AttemptOutcome::Retrying, AttemptOutcome::GivenUp] {
            assert_eq!(outcome(of_outcome(ending)), ending);
        }
    }
}

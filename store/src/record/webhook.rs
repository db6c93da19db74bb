//! Webhooks, the messages they still have to be sent, and what came of the last attempts.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};
use sluice_protocols::ids::{DeliveryId, UserId, WebhookId};

use super::types::Raw;
use super::{Record, StoredSecret};
use crate::key::Kind;

/// A place where a user wants to be told what happens.
#[derive(Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct WebhookRecord {
    #[rkyv(with = Raw)]
    pub id: WebhookId,
    #[rkyv(with = Raw)]
    pub user: UserId,
    pub url: String,
    /// One bit for each event, by its number.
    pub events: u32,
    pub description: Option<String>,
    /// What messages are signed with.
    pub secret: StoredSecret,
    /// The secret before, which signs as well until `previous_until_ms`.
    pub previous_secret: Option<StoredSecret>,
    pub previous_until_ms: u64,
    pub enabled: bool,
    /// Why it is disabled where its user did not do it; 0 for no reason.
    pub disabled_reason: u8,
    pub created_ms: u64,
    pub updated_ms: u64,
}

impl Record for WebhookRecord {
    const NAME: &'static str = "webhook";
    const KINDS: &'static [Kind] = &[Kind::Webhook];
    const SCHEMA: u8 = 1;

    fn is_sealed(&self) -> bool {
        self.secret.is_sealed() && self.previous_secret.as_ref().is_none_or(StoredSecret::is_sealed)
    }
}

impl fmt::Debug for WebhookRecord {
    /// Leaves the secrets out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookRecord")
            .field("id", &self.id)
            .field("user", &self.user)
            .field("url", &self.url)
            .field("events", &self.events)
            .field("enabled", &self.enabled)
            .field("disabled_reason", &self.disabled_reason)
            .field("updated_ms", &self.updated_ms)
            .finish_non_exhaustive()
    }
}

/// A message to a webhook that is still to be delivered.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct DeliveryRecord {
    #[rkyv(with = Raw)]
    pub id: DeliveryId,
    #[rkyv(with = Raw)]
    pub webhook: WebhookId,
    #[rkyv(with = Raw)]
    pub user: UserId,
    pub event: u8,
    /// What is sent, byte for byte the same each time.
    pub body: String,
    pub created_ms: u64,
    /// How often it was sent in vain.
    pub attempts: u32,
    /// It is not sent before this moment; 0 at first.
    pub not_before_ms: u64,
}

impl Record for DeliveryRecord {
    const NAME: &'static str = "delivery";
    const KINDS: &'static [Kind] = &[Kind::Delivery];
    const SCHEMA: u8 = 1;
}

/// What came of the last attempts at a webhook, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct AttemptsRecord {
    /// Messages given up since one was delivered.
    pub failures: u32,
    pub attempts: Vec<AttemptRecord>,
}

impl Record for AttemptsRecord {
    const NAME: &'static str = "attempts";
    const KINDS: &'static [Kind] = &[Kind::Webhook];
    const SCHEMA: u8 = 1;
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct AttemptRecord {
    #[rkyv(with = Raw)]
    pub message: DeliveryId,
    pub event: u8,
    /// Which attempt it was, from 1; 0 for a message that was given up without one.
    pub number: u32,
    /// When it ended.
    pub at_ms: u64,
    pub took_ms: u32,
    /// The HTTP status; 0 for no answer.
    pub status: u16,
    /// What went wrong; 0 for nothing.
    pub error: u8,
    /// What it came to.
    pub outcome: u8,
}

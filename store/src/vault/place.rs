//! Where a secret belongs.

use sluice_protocols::ids::{UserId, WebhookId};

use crate::key::{Key, Kind};
use crate::record::Provider;

/// Which secret of a record. The numbers are bound into what is sealed and never change their meaning.
///
/// To seal another kind of secret: add it here with the next number and the kind of key its record stands under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Field {
    /// The refresh token of a connection.
    RefreshToken = 1,
    /// What messages to a webhook are signed with, the present one and the one before alike: a rotation moves it within its
    /// record.
    WebhookSecret = 2,
    /// What belongs to a consent under way: each is of use for minutes, and with its own state alone.
    ConsentSecret = 3,
}

impl Field {
    /// Under which kind of key the record stands.
    const fn kind(self) -> Kind {
        match self {
            Self::RefreshToken => Kind::Connection,
            Self::WebhookSecret => Kind::Webhook,
            Self::ConsentSecret => Kind::Consent,
        }
    }

    pub(super) fn number(self) -> u8 {
        self as u8
    }
}

/// Where a secret belongs: a field of one record of one user. It opens there and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    user: UserId,
    field: Field,
    key: Key,
}

impl Place {
    /// A field of the record under `key`.
    ///
    /// # Panics
    /// When the field's records do not stand under such keys, or belong to no user.
    pub fn new(field: Field, key: Key) -> Self {
        assert_eq!(key.kind(), field.kind(), "{field:?} is not a secret of such a record");
        let user = key.user_id().expect("a user's secret stands in a user's record");
        Self { user, field, key }
    }

    /// The refresh token of a user's default connection.
    pub fn refresh_token(user: &UserId, provider: Provider) -> Self {
        Self::refresh_token_at(user, provider, 0)
    }

    /// The refresh token of a user's connection in a slot.
    pub fn refresh_token_at(user: &UserId, provider: Provider, slot: u8) -> Self {
        Self::new(Field::RefreshToken, Key::connection_at(user, provider.number(), slot))
    }

    /// What belongs to a consent of a user under way.
    pub fn consent_secret(user: &UserId) -> Self {
        Self::new(Field::ConsentSecret, Key::consents(user))
    }

    /// What messages to a user's webhook are signed with.
    pub fn webhook_secret(user: &UserId, webhook: &WebhookId) -> Self {
        Self::new(Field::WebhookSecret, Key::webhook(user, webhook))
    }

    /// Whose secret it is.
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// Under which key the record stands.
    pub fn key(&self) -> &Key {
        &self.key
    }

    pub(super) fn field(&self) -> Field {
        self.field
    }
}

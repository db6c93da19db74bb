//! Accounts at a provider that users have connected, what they are about to consent to, and what is still to be revoked.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize, rancor};
use sluice_protocols::ids::{ConnectionId, UserId};

use super::types::Raw;
use super::{PlainText, Provider, Record, StoredSecret};
use crate::key::Kind;

/// Whether a connection can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(compare(PartialEq), derive(Clone, Copy, Debug, PartialEq, Eq))]
#[repr(u8)]
pub enum ConnectionState {
    /// The refresh token worked when last used.
    Active = 1,
    /// The provider refused the refresh token: the user must consent again.
    NeedsReauth = 2,
    /// The user gave it up. The provider is still to be told, which takes the token.
    Revoking = 3,
    /// The user gave it up, and nothing of it is left but this record: its token is an empty text.
    Revoked = 4,
}

/// A user's standing permission at a provider.
#[derive(Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ConnectionRecord {
    #[rkyv(with = Raw)]
    pub id: ConnectionId,
    #[rkyv(with = Raw)]
    pub user: UserId,
    pub provider: Provider,
    /// The account as the provider numbers it; empty when an operator connected it.
    pub subject: String,
    /// The account at the provider.
    pub email: String,
    pub refresh_token: StoredSecret,
    /// What was granted, as the provider writes it: names separated by blanks.
    pub scope: String,
    /// What was asked for: one bit for each service and way of use.
    pub wanted: u16,
    pub state: ConnectionState,
    /// Why it cannot be used; 0 for no reason.
    pub reason: u8,
    pub created_ms: u64,
    pub updated_ms: u64,
    /// When the provider ends it, where it said so; 0 where not.
    pub expires_ms: u64,
}

impl ConnectionRecord {
    /// The default account of a user, by a token that was given for it without a consent here.
    pub fn given(user: UserId, email: &str, refresh_token: StoredSecret, scope: &str, at_ms: u64) -> Self {
        ConnectionRecordV2 {
            user,
            provider: Provider::Google,
            email: email.to_owned(),
            refresh_token,
            scope: scope.to_owned(),
            state: ConnectionState::Active,
            updated_ms: at_ms,
        }
        .into()
    }
}

impl Record for ConnectionRecord {
    const NAME: &'static str = "connection";
    const KINDS: &'static [Kind] = &[Kind::Connection];
    const SCHEMA: u8 = 3;

    fn upgrade(schema: u8, archive: &[u8]) -> Option<Result<Self, rancor::Error>> {
        match schema {
            1 => Some(rkyv::from_bytes::<ConnectionRecordV1, rancor::Error>(archive).map(Self::from)),
            2 => Some(rkyv::from_bytes::<ConnectionRecordV2, rancor::Error>(archive).map(Self::from)),
            _ => None,
        }
    }

    fn is_sealed(&self) -> bool {
        self.refresh_token.is_sealed()
    }
}

impl fmt::Debug for ConnectionRecord {
    /// Leaves the token out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionRecord")
            .field("id", &self.id)
            .field("user", &self.user)
            .field("provider", &self.provider)
            .field("email", &self.email)
            .field("scope", &self.scope)
            .field("state", &self.state)
            .field("reason", &self.reason)
            .field("updated_ms", &self.updated_ms)
            .finish_non_exhaustive()
    }
}

/// Schema 2: of a user's only account.
#[derive(Archive, Serialize, Deserialize)]
pub(super) struct ConnectionRecordV2 {
    #[rkyv(with = Raw)]
    pub(super) user: UserId,
    pub(super) provider: Provider,
    pub(super) email: String,
    pub(super) refresh_token: StoredSecret,
    pub(super) scope: String,
    pub(super) state: ConnectionState,
    pub(super) updated_ms: u64,
}

impl From<ConnectionRecordV2> for ConnectionRecord {
    fn from(old: ConnectionRecordV2) -> Self {
        let ConnectionRecordV2 { user, provider, email, refresh_token, scope, state, updated_ms } = old;
        Self {
            // The same each time it is read: there was one of a user.
            id: ConnectionId::from_bytes(*user.as_bytes()),
            user,
            provider,
            subject: String::new(),
            email,
            refresh_token,
            scope,
            wanted: 0,
            state,
            reason: 0,
            created_ms: updated_ms,
            updated_ms,
            expires_ms: 0,
        }
    }
}

/// Schema 1: with its token as it is.
#[derive(Archive, Serialize, Deserialize)]
pub(super) struct ConnectionRecordV1 {
    #[rkyv(with = Raw)]
    pub(super) user: UserId,
    pub(super) provider: Provider,
    pub(super) email: String,
    pub(super) refresh_token: String,
    pub(super) scope: String,
    pub(super) state: ConnectionState,
    pub(super) updated_ms: u64,
}

impl From<ConnectionRecordV1> for ConnectionRecord {
    fn from(old: ConnectionRecordV1) -> Self {
        let ConnectionRecordV1 { user, provider, email, refresh_token, scope, state, updated_ms } = old;
        let refresh_token = StoredSecret::Plain(PlainText::from(refresh_token));
        ConnectionRecordV2 { user, provider, email, refresh_token, scope, state, updated_ms }.into()
    }
}

/// What a user is about to consent to, the oldest first: there are never many, so they stand in one record, and what is
/// too many or too old goes whenever it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ConsentsRecord {
    pub pending: Vec<ConsentRecord>,
}

impl Record for ConsentsRecord {
    const NAME: &'static str = "consents";
    const KINDS: &'static [Kind] = &[Kind::Consent];
    const SCHEMA: u8 = 1;

    fn is_sealed(&self) -> bool {
        self.pending.iter().all(|consent| consent.secret.is_sealed())
    }
}

/// A consent under way.
#[derive(Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ConsentRecord {
    /// SHA-256 of the state that the provider brings back.
    pub state_hash: [u8; 32],
    /// SHA-256 of what the browser shows that it is the one that was sent.
    pub browser_hash: [u8; 32],
    /// What proves to the provider, and by its answer, that the code was asked for here.
    pub secret: StoredSecret,
    /// What is asked for: one bit for each service and way of use.
    pub wanted: u16,
    /// The connection that is made anew; all zero for none in particular.
    pub connection: [u8; 16],
    /// Where the user goes on; empty for nowhere.
    pub return_url: String,
    pub created_ms: u64,
}

impl fmt::Debug for ConsentRecord {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsentRecord")
            .field("wanted", &self.wanted)
            .field("created_ms", &self.created_ms)
            .finish_non_exhaustive()
    }
}

/// Since when the provider of a connection is to be told that it is given up.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct RevocationRecord {
    pub since_ms: u64,
}

impl Record for RevocationRecord {
    const NAME: &'static str = "revocation";
    const KINDS: &'static [Kind] = &[Kind::Revocation];
    const SCHEMA: u8 = 1;
}

//! Users, what they show to prove who they are, and when they were last here.

use rkyv::rancor;
use rkyv::{Archive, Deserialize, Serialize};
use sluice_protocols::ids::{BrowserSessionId, KeyId, UserId};

use super::Record;
use super::types::Raw;
use crate::key::Kind;

/// A person who may give commands.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct UserRecord {
    #[rkyv(with = Raw)]
    pub id: UserId,
    pub name: String,
    pub email: String,
    /// IANA name, such as `Europe/Berlin`.
    pub time_zone: String,
    pub created_ms: u64,
    /// Set: the user is not served, whatever they show.
    pub disabled: bool,
    /// The number of the user's role.
    pub role: u8,
    /// Tokens of identity providers that were issued before this are not accepted; 0 accepts all.
    pub tokens_since_ms: u64,
}

impl Record for UserRecord {
    const NAME: &'static str = "user";
    const KINDS: &'static [Kind] = &[Kind::User];
    const SCHEMA: u8 = 2;

    fn upgrade(schema: u8, archive: &[u8]) -> Option<Result<Self, rancor::Error>> {
        match schema {
            1 => Some(rkyv::from_bytes::<UserRecordV1, rancor::Error>(archive).map(Self::from)),
            _ => None,
        }
    }
}

/// Schema 1: before there were roles.
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub(super) struct UserRecordV1 {
    #[rkyv(with = Raw)]
    pub(super) id: UserId,
    pub(super) name: String,
    pub(super) email: String,
    pub(super) time_zone: String,
    pub(super) created_ms: u64,
    pub(super) disabled: bool,
}

impl From<UserRecordV1> for UserRecord {
    fn from(old: UserRecordV1) -> Self {
        let UserRecordV1 { id, name, email, time_zone, created_ms, disabled } = old;
        Self { id, name, email, time_zone, created_ms, disabled, role: 0, tokens_since_ms: 0 }
    }
}

/// One API key of a user. The secret itself is not kept.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct KeyRecord {
    #[rkyv(with = Raw)]
    pub id: KeyId,
    #[rkyv(with = Raw)]
    pub user: UserId,
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// What the user calls it.
    pub label: String,
    pub created_ms: u64,
    /// What it may be used for, as bits.
    pub scopes: u16,
    /// When it ends; 0 for never.
    pub expires_ms: u64,
    /// How its text begins, so that its owner knows it again; empty where that was not kept.
    pub prefix: String,
}

impl Record for KeyRecord {
    const NAME: &'static str = "key";
    const KINDS: &'static [Kind] = &[Kind::ApiKey];
    const SCHEMA: u8 = 2;

    fn upgrade(schema: u8, archive: &[u8]) -> Option<Result<Self, rancor::Error>> {
        match schema {
            1 => Some(rkyv::from_bytes::<KeyRecordV1, rancor::Error>(archive).map(Self::from)),
            _ => None,
        }
    }
}

/// Schema 1: before keys had scopes and an end.
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub(super) struct KeyRecordV1 {
    #[rkyv(with = Raw)]
    pub(super) id: KeyId,
    #[rkyv(with = Raw)]
    pub(super) user: UserId,
    pub(super) hash: [u8; 32],
    pub(super) label: String,
    pub(super) created_ms: u64,
}

impl From<KeyRecordV1> for KeyRecord {
    fn from(old: KeyRecordV1) -> Self {
        let KeyRecordV1 { id, user, hash, label, created_ms } = old;
        // Such keys did whatever their users may, and go on with that.
        let scopes = sluice_protocols::access::Scopes::USER.bits();
        Self { id, user, hash, label, created_ms, scopes, expires_ms: 0, prefix: String::new() }
    }
}

/// Which user an identity provider means by a subject.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct IdentityRecord {
    pub issuer: String,
    pub subject: String,
    #[rkyv(with = Raw)]
    pub user: UserId,
    pub created_ms: u64,
}

impl Record for IdentityRecord {
    const NAME: &'static str = "identity";
    const KINDS: &'static [Kind] = &[Kind::Identity];
    const SCHEMA: u8 = 1;
}

/// When a user and each of their keys were last here. Written now and then by the core that owns the user, and by
/// nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ActivityRecord {
    pub active_ms: u64,
    pub keys: Vec<KeyUse>,
}

/// That a user is being erased, and how far that has come. Nothing of the user but the id.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ErasureRecord {
    #[rkyv(with = Raw)]
    pub user: UserId,
    pub begun_ms: u64,
    /// How many records of which kinds are gone, by the byte of the kind.
    pub removed: Vec<(u8, u64)>,
    /// Shards that had names or identities which led to the user, so that a resumed erasure rewrites them as well.
    pub homes: Vec<u16>,
    /// Once that was tried: how many accounts the provider took back, and of how many it could not be told.
    pub revoked: Option<(u32, u32)>,
}

impl Record for ErasureRecord {
    const NAME: &'static str = "erasure";
    const KINDS: &'static [Kind] = &[Kind::Erasure];
    const SCHEMA: u8 = 2;

    fn upgrade(schema: u8, archive: &[u8]) -> Option<Result<Self, rancor::Error>> {
        match schema {
            1 => Some(rkyv::from_bytes::<ErasureRecordV1, rancor::Error>(archive).map(Self::from)),
            _ => None,
        }
    }
}

/// Schema 1: before accounts were given back at their provider.
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub(super) struct ErasureRecordV1 {
    #[rkyv(with = Raw)]
    pub(super) user: UserId,
    pub(super) begun_ms: u64,
    pub(super) removed: Vec<(u8, u64)>,
    pub(super) homes: Vec<u16>,
}

impl From<ErasureRecordV1> for ErasureRecord {
    fn from(old: ErasureRecordV1) -> Self {
        let ErasureRecordV1 { user, begun_ms, removed, homes } = old;
        Self { user, begun_ms, removed, homes, revoked: None }
    }
}

/// One sign-in of a user with a browser. Kept when it is over, until a later one takes its place.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct BrowserSessionRecord {
    #[rkyv(with = Raw)]
    pub id: BrowserSessionId,
    #[rkyv(with = Raw)]
    pub user: UserId,
    /// The API key it was made with, without which it is over; `None` where that was a token.
    pub key: Option<[u8; 8]>,
    /// The role that its credential had.
    pub role: u8,
    /// What it may be used for at most, as bits.
    pub scopes: u16,
    pub created_ms: u64,
    pub expires_ms: u64,
    /// When it was signed out; 0 when it was not.
    pub ended_ms: u64,
    /// The provider's key that signed the token it was made with, without which it is over; `None` where that was an API key,
    /// or is not known.
    pub signer: Option<[u8; 16]>,
}

impl Record for BrowserSessionRecord {
    const NAME: &'static str = "browser session";
    const KINDS: &'static [Kind] = &[Kind::BrowserSession];
    const SCHEMA: u8 = 2;

    fn upgrade(schema: u8, archive: &[u8]) -> Option<Result<Self, rancor::Error>> {
        match schema {
            1 => Some(rkyv::from_bytes::<BrowserSessionRecordV1, rancor::Error>(archive).map(Self::from)),
            _ => None,
        }
    }
}

/// Schema 1: before it was kept which key had signed the token.
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub(super) struct BrowserSessionRecordV1 {
    #[rkyv(with = Raw)]
    pub(super) id: BrowserSessionId,
    #[rkyv(with = Raw)]
    pub(super) user: UserId,
    pub(super) key: Option<[u8; 8]>,
    pub(super) role: u8,
    pub(super) scopes: u16,
    pub(super) created_ms: u64,
    pub(super) expires_ms: u64,
    pub(super) ended_ms: u64,
}

impl From<BrowserSessionRecordV1> for BrowserSessionRecord {
    fn from(old: BrowserSessionRecordV1) -> Self {
        let BrowserSessionRecordV1 { id, user, key, role, scopes, created_ms, expires_ms, ended_ms } = old;
        Self { id, user, key, role, scopes, created_ms, expires_ms, ended_ms, signer: None }
    }
}

/// When a key was last used.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct KeyUse {
    #[rkyv(with = Raw)]
    pub key: KeyId,
    pub used_ms: u64,
}

impl Record for ActivityRecord {
    const NAME: &'static str = "activity";
    const KINDS: &'static [Kind] = &[Kind::Activity];
    const SCHEMA: u8 = 1;
}

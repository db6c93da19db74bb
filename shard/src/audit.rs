//! What is told in the audit log, and by whom: the words, and the one function that adds an entry to a batch.
//!
//! An entry stands in the batch of the act it tells of, so that one is never there without the other; the store gives it its
//! place in the shard's chain ([`sluice_store::audit`]). An act on a user stands in that user's shard, one on no user in
//! the first. One that was refused stands in the shard of whoever asked, so that nobody makes another's chain grow; how many of
//! those are told is bounded ([`refused`]).
//!
//! Invariants:
//! - never a secret: objects are ids and names of kinds, not keys, tokens, addresses of people or content;
//! - words do not change their meaning: who searches an old log finds what is meant today.

pub(crate) mod refused;

use std::fmt;
use std::net::IpAddr;

use sluice_protocols::access::Role;
use sluice_protocols::ids::{BrowserSessionId, ConnectionId, KeyId, UserId};
use sluice_store::record::Provider;
use sluice_store::{AuditEvent, Batch, CommitError, Store};

use crate::clock::Clock;

/// Who did something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Whoever may use the administration socket, or the data directory while no gateway runs.
    Operator,
    /// A user, by an API key or a token.
    User(UserId),
    /// The gateway itself.
    Gateway,
    /// Somebody who proved to be an identity that no user here belongs to.
    Nobody,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("operator"),
            Self::User(user) => user.fmt(f),
            Self::Gateway => f.write_str("gateway"),
            Self::Nobody => f.write_str("nobody"),
        }
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Users were looked at. Told when it was refused alone.
    UserRead,
    /// A user was made.
    UserCreate,
    /// A user may be served no more.
    UserDisable,
    /// A user may be served again.
    UserEnable,
    /// A user's address or time zone was changed.
    UserChange,
    /// A user was given another role.
    UserRole,
    /// The tokens that a user was given before some time count no more.
    UserSignOut,
    /// An identity at an identity provider leads to the user from now on.
    IdentityLink,
    /// The operator's service account begins to act for the user at a provider.
    UserImpersonate,
    /// A user's data were given out whole.
    UserExport,
    /// A user's data were erased.
    UserErase,
    /// An API key was made.
    KeyCreate,
    /// An API key was changed: its name, scopes or end.
    KeyChange,
    /// An API key was taken back.
    KeyRevoke,
    /// An account at a provider was connected, or connected anew.
    ConnectionCreate,
    /// Another of a user's connections became the default one.
    ConnectionChange,
    /// An account's connection was taken away.
    ConnectionRevoke,
    /// Somebody began a browser's session with a credential of theirs.
    Login,
    /// A browser's session was ended by its user.
    Logout,
    /// A rotation to the vault's newest master key was begun.
    VaultRotate,
    /// A master key of the vault was given up.
    VaultForget,
    /// What the operator set for a user or the gateway was changed.
    SettingChange,
    /// Something else that is for an office. Told when it was refused alone.
    Administration,
}

impl Act {
    /// The word in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UserRead => "user.read",
            Self::UserCreate => "user.create",
            Self::UserDisable => "user.disable",
            Self::UserEnable => "user.enable",
            Self::UserChange => "user.change",
            Self::UserRole => "user.role",
            Self::UserSignOut => "user.sign-out",
            Self::IdentityLink => "identity.link",
            Self::UserImpersonate => "user.impersonate",
            Self::UserExport => "user.export",
            Self::UserErase => "user.erase",
            Self::KeyCreate => "key.create",
            Self::KeyChange => "key.change",
            Self::KeyRevoke => "key.revoke",
            Self::ConnectionCreate => "connection.create",
            Self::ConnectionChange => "connection.change",
            Self::ConnectionRevoke => "connection.revoke",
            Self::Login => "login",
            Self::Logout => "logout",
            Self::VaultRotate => "vault.rotate",
            Self::VaultForget => "vault.forget",
            Self::SettingChange => "setting.change",
            Self::Administration => "administration",
        }
    }
}

/// To what something was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object<'a> {
    /// A user.
    User(&'a UserId),
    /// A user, with the role that they have from now on.
    Role(&'a UserId, Role),
    /// An API key of a user.
    Key(&'a UserId, &'a KeyId),
    /// A browser's session of a user.
    Browser(&'a UserId, &'a BrowserSessionId),
    /// A user's connection to a provider.
    Connection(&'a UserId, Provider),
    /// One account of a user's at a provider.
    Account(&'a UserId, Provider, &'a ConnectionId),
    /// A user who was erased, and a part of how many records of which kinds that took.
    Erased(&'a UserId, &'a str),
    /// What has a name of its own, such as a setting.
    Named(&'a str),
}

impl fmt::Display for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => user.fmt(f),
            Self::Role(user, role) => write!(f, "{user} {}", role.name()),
            Self::Key(user, key) => write!(f, "{user} {key}"),
            Self::Browser(user, session) => write!(f, "{user} {session}"),
            Self::Connection(user, provider) => write!(f, "{user} {}", provider_name(*provider)),
            Self::Account(user, provider, id) => write!(f, "{user} {} {id}", provider_name(*provider)),
            Self::Erased(user, removed) => write!(f, "{user} {removed}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

const fn provider_name(provider: Provider) -> &'static str {
    match provider {
        Provider::Google => "google",
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was begun, and will be brought to its end.
    Begun,
    /// It was done.
    Done,
    /// It was asked for and refused.
    Refused,
}

impl Outcome {
    /// The word in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Done => "done",
            Self::Refused => "refused",
        }
    }
}

/// Where it came from; empty where that is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin<'a> {
    /// The caller's address.
    pub address: &'a str,
    /// The request's id.
    pub request: &'a str,
}

/// An act as it is told.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Who.
    pub actor: Actor,
    /// Did what.
    pub act: Act,
    /// To what.
    pub object: Object<'a>,
    /// How it ended.
    pub outcome: Outcome,
    /// From where.
    pub origin: Origin<'a>,
}

/// Adds an entry to the audit log of the batch's shard, in the same write as the batch's other changes.
pub fn tell(batch: &mut Batch, told: &Told<'_>) {
    batch.audit(&AuditEvent {
        at_ms: told.at_ms,
        actor: told.actor.to_string(),
        act: told.act.name().to_owned(),
        object: told.object.to_string(),
        outcome: told.outcome.name().to_owned(),
        address: told.origin.address.to_owned(),
        request: told.origin.request.to_owned(),
    });
}

/// On whose word something is done: what the entries of one call have in common. Owned, for it goes along to the thread
/// that does it.
#[derive(Clone, Debug)]
pub struct Author {
    actor: Actor,
    address: String,
    request: String,
}

impl Author {
    /// The operator at the machine.
    pub fn operator() -> Self {
        Self { actor: Actor::Operator, address: String::new(), request: String::new() }
    }

    /// The gateway, of its own accord.
    pub(crate) fn gateway() -> Self {
        Self { actor: Actor::Gateway, address: String::new(), request: String::new() }
    }

    /// Whoever has sent a request, or the gateway because of it.
    pub(crate) fn of_request(actor: Actor, address: IpAddr, request: &str) -> Self {
        Self { actor, address: address.to_canonical().to_string(), request: request.to_owned() }
    }

    /// Adds what was done to the audit log of the batch's shard.
    pub(crate) fn tell(&self, batch: &mut Batch, act: Act, object: Object<'_>, at_ms: u64) {
        self.tell_that(batch, act, object, Outcome::Done, at_ms);
    }

    /// As [`Self::tell`], with another outcome.
    pub(crate) fn tell_that(
        &self,
        batch: &mut Batch,
        act: Act,
        object: Object<'_>,
        outcome: Outcome,
        at_ms: u64,
    ) {
        let origin = Origin { address: &self.address, request: &self.request };
        tell(batch, &Told { at_ms, actor: self.actor, act, object, outcome, origin });
    }
}

/// Tells by itself what the operator did to nobody in particular, where there is no one batch of the act. Blocks until it is
/// durable: not for a reactor.
///
/// # Errors
/// [`CommitError`].
pub fn tell_blocking(store: &Store, act: Act, name: &str) -> Result<(), CommitError> {
    let first = store.shard_count().shards().next().expect("there is at least one shard");
    let mut batch = Batch::new(first);
    let (at_ms, origin) = (Clock::system().unix_ms(), Origin::default());
    let object = Object::Named(name);
    tell(&mut batch, &Told { at_ms, actor: Actor::Operator, act, object, outcome: Outcome::Done, origin });
    store.write_blocking(vec![batch]).map(drop)
}

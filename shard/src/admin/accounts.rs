//! Operations on accounts: users and their roles, the names and identities that lead to them, and their keys.
//!
//! Invariants:
//! - names and e-mail addresses are one space: whichever of them a text is, it leads to at most one user;
//! - an identity leads to one user, and to the same as long as it is there;
//! - what takes something from a user raises their stamp ([`Revocations`]) when it is durable and before it is answered;
//! - no key is made or widened beyond what the credential that asks for it holds;
//! - what is done is told in the audit log of the user's shard, in the same write.

use sluice_protocols::access::{Role, Scopes};
use sluice_protocols::api::{Identity, KEYS_PER_USER_MAX, KeyEdit, NewUser, UserEdit};
use sluice_protocols::ids::{ApiKey, KeyId, UserId};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::key::{identity_shard, name_shard};
use sluice_store::record::{IdentityRecord, KeyRecord, NameRecord, UserRecord};
use sluice_store::{Batch, CommitError, Key, KeyRange, Kind};

use super::{Admin, AdminError, check_email, check_zone, now_ms, put, random};
use crate::audit::{Act, Object};
use crate::auth::tokens::identity_hash;
use crate::auth::{key_id, secret_hash, shown_prefix};
use crate::routes;

/// What a key is made with.
#[derive(Clone, Debug)]
pub struct KeySpec {
    /// What its owner calls it.
    pub label: String,
    /// What it may be used for.
    pub scopes: Scopes,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
}

/// The most that whoever makes or changes a key may give it.
#[derive(Clone, Copy, Debug)]
pub struct KeyLimit {
    /// Scopes.
    pub scopes: Scopes,
    /// The latest end, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
}

impl KeyLimit {
    /// For an operator at the machine itself.
    pub const NONE: Self = Self { scopes: Scopes::ALL, expires_ms: None };

    /// Whether a key of these scopes and this end (0 for none) is within it.
    fn allows(&self, scopes: Scopes, expires_ms: u64) -> bool {
        self.scopes.contains(scopes) && end(expires_ms) <= self.expires_ms.unwrap_or(u64::MAX)
    }
}

/// An end as it is stored, so that none is the latest.
fn end(expires_ms: u64) -> u64 {
    if expires_ms == 0 { u64::MAX } else { expires_ms }
}

/// Somebody whom an identity provider vouches for and who has no user yet.
#[derive(Clone, Debug)]
pub(crate) struct Newcomer {
    pub(crate) issuer: String,
    pub(crate) subject: String,
    pub(crate) email: String,
    pub(crate) time_zone: Option<String>,
    /// Whether the user with this address is meant.
    pub(crate) link: bool,
    /// Whether a user is made where there is none.
    pub(crate) create: bool,
}

impl Admin {
    /// Makes a user.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn make_user(&self, user: &NewUser) -> Result<UserRecord, AdminError> {
        let _guard = self.lock();
        self.make_user_locked(user)
    }

    fn make_user_locked(&self, new: &NewUser) -> Result<UserRecord, AdminError> {
        let (name, email) = (new.name.trim(), new.email.trim());
        let time_zone = new.time_zone.as_deref().unwrap_or("UTC");
        check_email(email)?;
        check_zone(time_zone)?;
        if let Some(user) = self.named(name)? {
            return Err(AdminError::NameTaken { name: name.to_owned(), user: user.id });
        }
        if let Some(user) = self.named(email)? {
            return Err(AdminError::EmailTaken { email: email.to_owned(), user: user.id });
        }
        let record = UserRecord {
            id: UserId::from_bytes(random()?),
            name: name.to_owned(),
            email: email.to_owned(),
            time_zone: time_zone.to_owned(),
            created_ms: now_ms(),
            disabled: false,
            role: new.role.number(),
            tokens_since_ms: 0,
        };
        let mut batches = self.entries(&record)?;
        let mut batch = put(self.shard_of(&record.id), &Key::user(&record.id), &record)?;
        let tell = |batch: &mut Batch, act, object| self.author.tell(batch, act, object, record.created_ms);
        tell(&mut batch, Act::UserCreate, Object::User(&record.id));
        if new.role != Role::User {
            tell(&mut batch, Act::UserRole, Object::Role(&record.id, new.role));
        }
        if let Some(identity) = &new.identity {
            batches.push(self.linked(identity, &record.id)?);
            tell(&mut batch, Act::IdentityLink, Object::User(&record.id));
        }
        batches.push(batch);
        self.store.write_blocking(batches)?;
        Ok(record)
    }

    /// The directory entries of a user: the name, and the address where that is another text.
    pub(super) fn entries(&self, user: &UserRecord) -> Result<Vec<Batch>, AdminError> {
        let entry = NameRecord { user: user.id, created_ms: user.created_ms };
        let (name, email) = (Key::name(&user.name)?, Key::name(&user.email)?);
        let mut batches = vec![put(self.home(&user.name), &name, &entry)?];
        if name != email {
            batches.push(put(self.home(&user.email), &email, &entry)?);
        }
        Ok(batches)
    }

    fn home(&self, name: &str) -> sluice_protocols::ids::ShardId {
        name_shard(name, self.store.shard_count())
    }

    /// The user whom a text leads to, whether it is their name or their address. What it has led to once and does not
    /// any more is free.
    pub(super) fn named(&self, text: &str) -> Result<Option<UserRecord>, AdminError> {
        let key = Key::name(text)?;
        let Some(entry) = self.store.load_blocking::<NameRecord>(self.home(text), &key)? else {
            return Ok(None);
        };
        let user = self.user(&entry.to_record().user)?;
        let leads = |user: &UserRecord| {
            [&user.name, &user.email].into_iter().any(|own| Key::name(own).is_ok_and(|own| own == key))
        };
        Ok(user.filter(leads))
    }

    /// Links an identity; refused when it is another user's.
    fn linked(&self, identity: &Identity, user: &UserId) -> Result<Batch, AdminError> {
        let hash = identity_hash(&identity.issuer, &identity.subject);
        let home = identity_shard(&hash, self.store.shard_count());
        if let Some(known) = self.store.load_blocking::<IdentityRecord>(home, &Key::identity(&hash))? {
            let owner = known.to_record().user;
            if owner != *user && self.user(&owner)?.is_some() {
                return Err(AdminError::IdentityTaken { user: owner });
            }
        }
        let record = IdentityRecord {
            issuer: identity.issuer.clone(),
            subject: identity.subject.clone(),
            user: *user,
            created_ms: now_ms(),
        };
        Ok(put(home, &Key::identity(&hash), &record)?)
    }

    /// The user of an identity that is seen for the first time: linked by the address, or made, as is configured. `None`
    /// when nothing comes of it.
    pub(crate) fn meet(&self, newcomer: &Newcomer) -> Result<Option<UserId>, AdminError> {
        let _guard = self.lock();
        let identity = Identity { issuer: newcomer.issuer.clone(), subject: newcomer.subject.clone() };
        let hash = identity_hash(&identity.issuer, &identity.subject);
        let home = identity_shard(&hash, self.store.shard_count());
        // Somebody was faster.
        if let Some(known) = self.store.load_blocking::<IdentityRecord>(home, &Key::identity(&hash))? {
            return Ok(Some(known.to_record().user));
        }
        let email = newcomer.email.trim();
        check_email(email)?;
        // By the address alone: somebody may be called as another's address.
        let is_address = |user: &UserRecord| user.email.to_lowercase() == email.to_lowercase();
        if newcomer.link
            && let Some(user) = self.named(email)?.filter(is_address)
        {
            let mut batch = Batch::new(self.shard_of(&user.id));
            self.author.tell(&mut batch, Act::IdentityLink, Object::User(&user.id), now_ms());
            self.store.write_blocking(vec![self.linked(&identity, &user.id)?, batch])?;
            tracing::info!(user = %user.id, issuer = identity.issuer, "an identity was linked by its address");
            return Ok(Some(user.id));
        }
        if !newcomer.create {
            return Ok(None);
        }
        let zone = newcomer.time_zone.as_ref().filter(|zone| check_zone(zone).is_ok());
        let issuer = identity.issuer.clone();
        let user = self.make_user_locked(&NewUser {
            name: email.to_owned(),
            email: email.to_owned(),
            time_zone: zone.cloned(),
            role: Role::User,
            identity: Some(identity),
        })?;
        tracing::info!(user = %user.id, issuer, "a user was made for an identity");
        Ok(Some(user.id))
    }

    /// Changes a user. What it takes from them is taken at once, on every core.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn edit_user(&self, user: &UserId, edit: &UserEdit) -> Result<UserRecord, AdminError> {
        let _guard = self.lock();
        let old = self.require(user)?;
        let mut record = old.clone();
        let mut batches = Vec::new();
        if let Some(email) = &edit.email {
            check_email(email)?;
            if let Some(other) = self.named(email)?.filter(|other| other.id != *user) {
                return Err(AdminError::EmailTaken { email: email.clone(), user: other.id });
            }
            record.email.clone_from(email);
            let (before, after) = (Key::name(&old.email)?, Key::name(email)?);
            if before != after && before != Key::name(&old.name)? {
                let mut batch = Batch::new(self.home(&old.email));
                batch.delete(&before);
                batches.push(batch);
            }
            batches.extend(self.entries(&record)?);
        }
        if let Some(zone) = &edit.time_zone {
            check_zone(zone)?;
            record.time_zone.clone_from(zone);
        }
        if let Some(role) = edit.role {
            record.role = role.number();
        }
        if let Some(disabled) = edit.disabled {
            record.disabled = disabled;
        }
        if let Some(since) = edit.tokens_since {
            record.tokens_since_ms =
                since.and_then(|since| u64::try_from(since.as_millisecond()).ok()).unwrap_or(0);
        }
        if let Some(identity) = &edit.identity {
            batches.push(self.linked(identity, user)?);
        }
        let mut batch = put(self.shard_of(user), &Key::user(user), &record)?;
        self.tell_changes(&mut batch, &old, &record);
        if edit.identity.is_some() {
            self.author.tell(&mut batch, Act::IdentityLink, Object::User(user), now_ms());
        }
        batches.push(batch);
        self.store.write_blocking(batches)?;
        self.revocations.revoke(user);
        if record.email != old.email {
            // The operator's service account may act for the address.
            self.forget_accounts(user);
        }
        Ok(record)
    }

    /// Tells the audit log what was changed, each kind of change in an entry of its own.
    fn tell_changes(&self, batch: &mut Batch, old: &UserRecord, new: &UserRecord) {
        let (user, at_ms) = (&new.id, now_ms());
        let mut tell = |is_changed: bool, act, object| {
            if is_changed {
                self.author.tell(batch, act, object, at_ms);
            }
        };
        let is_other = old.email != new.email || old.time_zone != new.time_zone;
        tell(is_other, Act::UserChange, Object::User(user));
        tell(old.role != new.role, Act::UserRole, Object::Role(user, Role::from_number(new.role)));
        let serving = if new.disabled { Act::UserDisable } else { Act::UserEnable };
        tell(old.disabled != new.disabled, serving, Object::User(user));
        tell(old.tokens_since_ms != new.tokens_since_ms, Act::UserSignOut, Object::User(user));
    }

    /// Makes an API key. Its text ([`ApiKey::expose`]) cannot be had again.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn make_key(
        &self,
        user: &UserId,
        spec: &KeySpec,
        limit: &KeyLimit,
    ) -> Result<(ApiKey, KeyRecord), AdminError> {
        let _guard = self.lock();
        self.require(user)?;
        let expires_ms = spec.expires_ms.unwrap_or(0);
        if end(expires_ms) <= now_ms() {
            return Err(AdminError::Past);
        }
        if !limit.allows(spec.scopes, expires_ms) {
            return Err(AdminError::Beyond);
        }
        if self.keys_of(user)?.len() >= KEYS_PER_USER_MAX {
            return Err(AdminError::TooManyKeys);
        }
        let key = ApiKey::new(*user, random()?);
        let record = key_record(&key, spec, now_ms());
        let mut batch = put(self.shard_of(user), &Key::api_key(user, &record.id), &record)?;
        self.author.tell(&mut batch, Act::KeyCreate, Object::Key(user, &record.id), record.created_ms);
        self.store.write_blocking(vec![batch])?;
        Ok((key, record))
    }

    /// The keys of a user, the oldest first; those whose record is damaged are left out.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub fn keys_of(&self, user: &UserId) -> Result<Vec<KeyRecord>, AdminError> {
        let range = KeyRange::of_user(Kind::ApiKey, user);
        // Keys of before there was a bound are shown up to the bound of a scan.
        let page =
            self.store.scan_blocking(self.shard_of(user), range, sluice_store::SCAN_ROWS_MAX, false)?;
        let mut keys = Vec::new();
        for (key, value) in page.rows {
            match sluice_store::record::decode::<KeyRecord>(value) {
                Ok(record) => keys.push(record),
                Err(error) => tracing::error!(?key, %error, "a key cannot be read"),
            }
        }
        keys.sort_by_key(|key| (key.created_ms, key.id));
        Ok(keys)
    }

    /// Changes a key, on every core at once.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn edit_key(
        &self,
        user: &UserId,
        id: &KeyId,
        edit: &KeyEdit,
        limit: &KeyLimit,
    ) -> Result<KeyRecord, AdminError> {
        let _guard = self.lock();
        let (shard, key) = (self.shard_of(user), Key::api_key(user, id));
        let old =
            self.store.load_blocking::<KeyRecord>(shard, &key)?.ok_or(AdminError::NoSuchKey)?.to_record();
        let mut record = old.clone();
        if let Some(name) = &edit.name {
            record.label.clone_from(name);
        }
        if let Some(scopes) = edit.scopes {
            record.scopes = scopes.bits();
        }
        if let Some(expires) = edit.expires {
            let ms = expires.and_then(|at| u64::try_from(at.as_millisecond()).ok());
            if ms.is_some_and(|ms| ms <= now_ms()) {
                return Err(AdminError::Past);
            }
            record.expires_ms = ms.unwrap_or(0);
        }
        let (before, after) = (Scopes::from_bits(old.scopes), Scopes::from_bits(record.scopes));
        let is_widened = !before.contains(after) || end(record.expires_ms) > end(old.expires_ms);
        if is_widened && !limit.allows(after, record.expires_ms) {
            return Err(AdminError::Beyond);
        }
        let mut batch = put(shard, &key, &record)?;
        self.author.tell(&mut batch, Act::KeyChange, Object::Key(user, id), now_ms());
        self.store.write_blocking(vec![batch])?;
        self.revocations.revoke(user);
        Ok(record)
    }

    /// Revokes a key, on every core at once.
    ///
    /// # Errors
    /// [`AdminError::NoSuchKey`], [`AdminError::Read`], [`AdminError::Commit`].
    pub fn revoke_key(&self, user: &UserId, id: &KeyId) -> Result<(), AdminError> {
        let _guard = self.lock();
        let (shard, key) = (self.shard_of(user), Key::api_key(user, id));
        // As bytes: a damaged key is revoked as well.
        self.store.get_blocking(shard, &key)?.ok_or(AdminError::NoSuchKey)?;
        let mut batch = Batch::new(shard);
        batch.delete(&key);
        self.author.tell(&mut batch, Act::KeyRevoke, Object::Key(user, id), now_ms());
        self.store.write_blocking(vec![batch])?;
        self.revocations.revoke(user);
        Ok(())
    }
}

/// The record of a key.
pub(super) fn key_record(key: &ApiKey, spec: &KeySpec, created_ms: u64) -> KeyRecord {
    let hash = secret_hash(key);
    KeyRecord {
        id: key_id(&hash),
        user: key.user(),
        hash,
        label: spec.label.clone(),
        created_ms,
        scopes: spec.scopes.bits(),
        expires_ms: spec.expires_ms.unwrap_or(0),
        prefix: shown_prefix(key),
    }
}

impl AdminError {
    /// The same for whoever asked over the API.
    pub(crate) fn into_problem(self) -> Problem {
        let field = |pointer: &str, detail: String| {
            Problem::new(ProblemKind::InvalidField, "one field is not valid").with_error(pointer, detail)
        };
        let detail = self.to_string();
        match self {
            Self::NameTaken { .. }
            | Self::EmailTaken { .. }
            | Self::IdentityTaken { .. }
            | Self::Erasing { .. }
            | Self::TooManyKeys => Problem::new(ProblemKind::Conflict, detail),
            Self::Name(_) | Self::OtherName => field("/name", detail),
            Self::Past => field("/expires", detail),
            Self::Field { field: name, .. } => match name {
                "time zone" => field("/time_zone", detail),
                "e-mail address" => field("/email", detail),
                _ => field("", detail),
            },
            Self::Beyond => Problem::new(ProblemKind::Forbidden, detail),
            Self::NoSuchKey => routes::not_found("key"),
            Self::NoSuchBrowserSession => routes::not_found("browser's session"),
            Self::SignedInTooOften { wait_s } => Problem::new(ProblemKind::RateLimited, detail)
                .with_limit("sign-in")
                .with_retry_after_s(u32::try_from(wait_s).unwrap_or(u32::MAX)),
            Self::NoSuchUser { .. } => Problem::new(ProblemKind::NotFound, "there is no user of this id"),
            Self::Read(error) => routes::read_problem(&error),
            Self::Commit(CommitError::Overloaded) => {
                Problem::new(ProblemKind::Overloaded, "too many changes are waiting").with_retry_after_s(1)
            }
            error => {
                tracing::error!(%error, "an account was not changed");
                Problem::new(ProblemKind::Storage, "the change was not stored").with_retry_after_s(5)
            }
        }
    }
}

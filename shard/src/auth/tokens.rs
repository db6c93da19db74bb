//! Bearer tokens of the operator's identity providers (JWT, RFC 7519; access tokens as RFC 9068 profiles them).
//!
//! ```text
//! a token was seen before: its SHA-256 is looked up                             every request
//! else: issuer -> provider, header, key by name -> signature and claims         once a core, while it is remembered
//!       (key unknown: ask for newer keys, wait with a bound)
//! issuer and subject -> identity -> user (made or linked at first sight)        again when the belief in the user ends
//! ```
//! It is checked where it lands; the request then goes to the user's core with what was proven, never with the token's
//! word for it.
//!
//! Invariants:
//! - nothing of a token counts before its signature was checked, but to choose whose keys check it and to refuse it early;
//! - a token is remembered no longer than it lives, than the key that checked it is in use, and, as to its user, than
//!   [`ShardConfig::key_life`] and until something is taken back ([`super::revoked`]).

use std::cell::{Cell, RefCell};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jsonwebtoken::{DecodingKey, Header, TokenData};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use sluice_protocols::access::{Role, Scopes};
use sluice_protocols::ids::{KeyId, ShardId, UserId};
use sluice_store::CoreStore;
use sluice_store::key::identity_shard;
use sluice_store::record::{IdentityRecord, UserRecord};
use sluice_store::{Key, ReadError};

use super::clerk::Clerk;
use super::providers::{Provider, Providers, Signer, UserLink, claim};
use super::revoked::Revocations;
use super::{Credential, Denied, Passed, Principal, same};
use crate::admin::Newcomer;
use crate::audit::{Actor, Author};
use crate::config::ShardConfig;
use crate::generations::Generations;

/// Longest token that is looked at; a head has 16 KiB.
pub(crate) const TOKEN_BYTES_MAX: usize = 8 << 10;
/// Longest subject (OpenID Connect Core section 2).
const SUBJECT_BYTES_MAX: usize = 255;
/// Requests of one core that may wait for a key.
const KEY_WAITS_MAX: usize = 1_024;

/// What is wrong with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenFault {
    #[error("it is no signed token of three parts")]
    Shape,
    #[error("tokens of its issuer are not accepted here")]
    Issuer,
    #[error("its algorithm is not allowed")]
    Algorithm,
    #[error("its type is not allowed")]
    Type,
    #[error("its header asks for something that is not understood here")]
    Header,
    #[error("the key it names is not among the provider's")]
    Key,
    #[error("its signature is wrong")]
    Signature,
    #[error("it is not meant for this audience")]
    Audience,
    #[error("it lacks `{0}`, or that is malformed")]
    Claim(&'static str),
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    Early,
    #[error("it was issued before the user was signed out")]
    Withdrawn,
}

/// The fingerprint of a token.
pub(crate) type Fingerprint = [u8; 32];

pub(crate) fn fingerprint(token: &str) -> Fingerprint {
    Sha256::digest(token).into()
}

/// By which an identity is stored: the length tells issuer and subject apart.
pub(crate) fn identity_hash(issuer: &str, subject: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    // An issuer is a URL of the configuration, far below 2^32 bytes.
    hash.update(u32::try_from(issuer.len()).unwrap_or(u32::MAX).to_be_bytes());
    hash.update(issuer);
    hash.update(subject);
    hash.finalize().into()
}

/// What a token proves, without its user.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Proven {
    provider: usize,
    keys_version: u64,
    /// The key that its signature was checked by.
    signer: Signer,
    identity: [u8; 32],
    /// Nothing where the provider gives no roles.
    role: Option<Role>,
    issued_ms: Option<u64>,
    /// With the skew that is allowed.
    expires_ms: u64,
}

struct Remembered {
    fingerprint: Fingerprint,
    proven: Arc<Proven>,
    principal: Rc<Passed>,
    /// When the user is looked up anew.
    until: Instant,
}

/// The tokens one core has checked.
pub(crate) struct Tokens {
    providers: Arc<Providers>,
    remembered: RefCell<Generations<Remembered>>,
    /// Fingerprints are as good as random, but chosen by whoever sends the token.
    hasher: foldhash::fast::RandomState,
    believed_life: Duration,
    waiting: Cell<usize>,
}

/// Principals of tokens on the core that owns their users, wherever the tokens were checked.
pub(crate) struct Welcomed {
    entries: RefCell<Generations<Welcome>>,
    hasher: foldhash::fast::RandomState,
    life: Duration,
}

struct Welcome {
    passed: Passed,
    principal: Rc<Principal>,
    until: Instant,
}

impl Welcomed {
    pub(crate) fn new(config: &ShardConfig) -> Self {
        Self {
            entries: RefCell::new(Generations::new(config.tokens_cached_max)),
            hasher: foldhash::fast::RandomState::default(),
            life: config.key_life,
        }
    }

    /// The principal of somebody who was here lately with the same rights.
    pub(crate) fn find(&self, passed: &Passed, now: Instant) -> Option<Rc<Principal>> {
        let hash = self.hasher.hash_one((passed.user, passed.credential));
        let mut entries = self.entries.borrow_mut();
        let entry = entries.find(hash, |entry| entry.passed == *passed)?;
        (entry.until > now).then(|| Rc::clone(&entry.principal))
    }

    /// Drops what is remembered of a user who is erased.
    pub(crate) fn forget(&self, user: &UserId) {
        self.entries.borrow_mut().retain(|entry| entry.passed.user != *user);
    }

    /// Remembers a principal for a while.
    pub(crate) fn insert(&self, passed: &Passed, principal: &Rc<Principal>, now: Instant) {
        let hash = self.hasher.hash_one((passed.user, passed.credential));
        let entry =
            Welcome { passed: passed.clone(), principal: Rc::clone(principal), until: now + self.life };
        self.entries.borrow_mut().insert(hash, entry, |other| other.passed == *passed);
    }
}

/// What checking a token needs of its core.
pub(crate) struct Means<'a> {
    pub(crate) store: &'a CoreStore,
    pub(crate) clerk: &'a Clerk,
    pub(crate) revocations: &'a Revocations,
    pub(crate) unix_ms: u64,
    /// Where the request came from, and its id: for the audit log, when a user is made or linked.
    pub(crate) address: IpAddr,
    pub(crate) request_id: &'a str,
}

impl Tokens {
    pub(crate) fn new(config: &ShardConfig) -> Self {
        Self {
            providers: Arc::clone(&config.providers),
            remembered: RefCell::new(Generations::new(config.tokens_cached_max)),
            hasher: foldhash::fast::RandomState::default(),
            believed_life: config.key_life,
            waiting: Cell::new(0),
        }
    }

    /// Whose token this is, when it was checked lately.
    pub(crate) fn believed(
        &self,
        fingerprint: &Fingerprint,
        revocations: &Revocations,
        now: Instant,
        unix_ms: u64,
    ) -> Option<Rc<Passed>> {
        let mut remembered = self.remembered.borrow_mut();
        let entry = remembered.find(self.hash(fingerprint), |entry| same(&entry.fingerprint, fingerprint))?;
        let is_believed = entry.until > now
            && self.holds(&entry.proven, unix_ms)
            && revocations.is_current(entry.principal.stamp);
        is_believed.then(|| Rc::clone(&entry.principal))
    }

    /// Drops what is believed of a user who is erased.
    pub(crate) fn forget(&self, user: &UserId) {
        self.remembered.borrow_mut().retain(|entry| entry.principal.user != *user);
    }

    /// Tokens held.
    pub(crate) fn len(&self) -> usize {
        self.remembered.borrow().len()
    }

    fn hash(&self, fingerprint: &Fingerprint) -> u64 {
        self.hasher.hash_one(fingerprint)
    }

    /// Whether what was proven still is: the token lives, and the key that signed it is in use.
    fn holds(&self, proven: &Proven, unix_ms: u64) -> bool {
        unix_ms < proven.expires_ms && self.providers.get(proven.provider).version() == proven.keys_version
    }

    /// Checks a token that is not believed.
    pub(crate) async fn check(
        &self,
        token: &str,
        fingerprint: Fingerprint,
        means: Means<'_>,
    ) -> Result<Rc<Passed>, Denied> {
        let known = self.known(&fingerprint, means.unix_ms);
        let (proven, claims) = match known {
            Some(proven) => (proven, None),
            None => {
                let (proven, claims) = self.prove(token, means.unix_ms).await?;
                (Arc::new(proven), Some(claims))
            }
        };
        let principal = match claims {
            Some(claims) => self.meet(&proven, &claims, &means).await?,
            None => {
                let user = user_of(means.store, &proven.identity).await?.ok_or(Denied::NoUser)?;
                self.principal_of(&proven, user, means.store, means.revocations).await?
            }
        };
        let principal = Rc::new(principal);
        // What was taken back while this was looked up may not be in it.
        if means.revocations.is_current(principal.stamp) {
            let until = sluice_core::now() + self.believed_life;
            let entry = Remembered { fingerprint, proven, principal: Rc::clone(&principal), until };
            let hash = self.hash(&fingerprint);
            self.remembered.borrow_mut().insert(hash, entry, |other| same(&other.fingerprint, &fingerprint));
        }
        Ok(principal)
    }

    /// What an earlier check of the same token proved, its signature included.
    fn known(&self, fingerprint: &Fingerprint, unix_ms: u64) -> Option<Arc<Proven>> {
        let mut remembered = self.remembered.borrow_mut();
        let entry = remembered.find(self.hash(fingerprint), |entry| same(&entry.fingerprint, fingerprint))?;
        self.holds(&entry.proven, unix_ms).then(|| Arc::clone(&entry.proven))
    }

    /// Checks everything about a token but its user.
    pub(super) async fn prove(
        &self,
        token: &str,
        unix_ms: u64,
    ) -> Result<(Proven, Map<String, Value>), Denied> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenFault::Shape)?;
        let said: Map<String, Value> =
            jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| TokenFault::Shape)?;
        let issuer = said.get("iss").and_then(Value::as_str).ok_or(TokenFault::Claim("iss"))?;
        let (index, provider) = self.providers.of_issuer(issuer).ok_or(TokenFault::Issuer)?;
        check_header(provider, &header)?;
        // Before the signature, for it costs least: an old token is refused without waiting for a key.
        check_times(provider, &said, unix_ms)?;
        let (key, signer, keys_version) = self.key_for(provider, &header).await?;
        // The library wants all that is allowed to fit the key: it is the header's algorithm, which was found allowed.
        let demands = provider.demands_with(header.alg);
        let TokenData { claims, .. } = jsonwebtoken::decode::<Map<String, Value>>(token, &key, &demands)
            .map_err(|error| fault_of(&error))?;
        let (issued_ms, expires_ms) = check_times(provider, &claims, unix_ms)?;
        let text = |name: &'static str| {
            let text = claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
            text.ok_or(TokenFault::Claim(name))
        };
        // The library takes a list of issuers, too.
        if text("iss")? != provider.config.issuer {
            return Err(TokenFault::Issuer.into());
        }
        let subject = text("sub")?;
        if subject.len() > SUBJECT_BYTES_MAX {
            return Err(TokenFault::Claim("sub").into());
        }
        let proven = Proven {
            provider: index,
            keys_version,
            signer,
            identity: identity_hash(&provider.config.issuer, subject),
            role: provider.role_of(&claims),
            issued_ms,
            expires_ms,
        };
        Ok((proven, claims))
    }

    /// The key that a header names. When it is unknown newer ones are asked for, at most now and then, and awaited with a
    /// bound.
    async fn key_for(
        &self,
        provider: &Provider,
        header: &Header,
    ) -> Result<(DecodingKey, Signer, u64), Denied> {
        let mut keys = provider.keys();
        let find = |keys: &mut tokio::sync::watch::Receiver<_>| {
            let keys: tokio::sync::watch::Ref<'_, Arc<super::providers::KeySet>> = keys.borrow_and_update();
            let key = keys.find(header.kid.as_deref(), header.alg).map(|key| (key.key.clone(), key.signer));
            (key, keys.version)
        };
        let (found, version) = find(&mut keys);
        if let Some((key, signer)) = found {
            return Ok((key, signer, version));
        }
        let unknown = |version| if version == 0 { Denied::NoKeysYet } else { TokenFault::Key.into() };
        let now = sluice_core::now();
        if !provider.ask_for_newer(now) {
            return Err(unknown(version));
        }
        let _place = Place::take(&self.waiting).ok_or(Denied::Busy)?;
        match sluice_core::timeout_at(now + provider.config.key_wait, keys.changed()).await {
            Ok(Ok(())) => {
                let (found, version) = find(&mut keys);
                found.map(|(key, signer)| (key, signer, version)).ok_or_else(|| unknown(version))
            }
            Ok(Err(_)) | Err(_) => Err(unknown(version)),
        }
    }

    /// The user of a token that is seen for the first time here: known, or made or linked now where that is configured.
    async fn meet(
        &self,
        proven: &Arc<Proven>,
        claims: &Map<String, Value>,
        means: &Means<'_>,
    ) -> Result<Passed, Denied> {
        let user = match user_of(means.store, &proven.identity).await? {
            Some(user) => user,
            None => {
                let newcomer = newcomer(self.providers.get(proven.provider), claims);
                let newcomer = newcomer.ok_or(Denied::NoUser)?;
                let author = Author::of_request(Actor::Gateway, means.address, means.request_id);
                let met = means.clerk.ask(author, move |admin| admin.meet(&newcomer)).await;
                met.map_err(Denied::Clerk)?.ok_or(Denied::NoUser)?
            }
        };
        self.principal_of(proven, user, means.store, means.revocations).await
    }

    /// Looks again for the user of a token that somebody was let in with.
    pub(super) async fn look_again(
        &self,
        proven: &Arc<Proven>,
        user: &UserId,
        store: &CoreStore,
        revocations: &Revocations,
    ) -> Result<Passed, Denied> {
        // Before the identity, too, which may be another user's meanwhile.
        let stamp = revocations.stamp(user);
        let found = user_of(store, &proven.identity).await?.filter(|found| found == user);
        let found = self.principal_of(proven, found.ok_or(Denied::NoUser)?, store, revocations).await?;
        Ok(Passed { stamp, ..found })
    }

    async fn principal_of(
        &self,
        proven: &Arc<Proven>,
        user: UserId,
        store: &CoreStore,
        revocations: &Revocations,
    ) -> Result<Passed, Denied> {
        let stamp = revocations.stamp(&user);
        let shard = ShardId::of(&user, store.store().shard_count());
        let record = store.load::<UserRecord>(shard, &Key::user(&user)).await?.ok_or(Denied::NoUser)?;
        let record = record.get();
        if record.disabled {
            return Err(Denied::Disabled(user));
        }
        let since_ms = record.tokens_since_ms.to_native();
        if since_ms > 0 && proven.issued_ms.is_none_or(|issued| issued < since_ms) {
            return Err(TokenFault::Withdrawn.into());
        }
        let role = proven.role.unwrap_or_else(|| Role::from_number(record.role));
        let scopes: Scopes = self.providers.get(proven.provider).config.scopes.and(role.scopes_max());
        let time_zone = record.time_zone.as_str().into();
        let mut id = [0; 8];
        id.copy_from_slice(&proven.identity[..8]);
        let credential = Credential::Token(KeyId::from_bytes(id), proven.signer);
        Ok(Passed {
            user,
            shard,
            time_zone,
            role,
            scopes,
            credential,
            expires_ms: Some(proven.expires_ms),
            stamp,
            token: Arc::clone(proven),
        })
    }
}

/// One of the places of those who wait.
struct Place<'a>(&'a Cell<usize>);

impl<'a> Place<'a> {
    fn take(waiting: &'a Cell<usize>) -> Option<Self> {
        if waiting.get() >= KEY_WAITS_MAX {
            return None;
        }
        waiting.set(waiting.get() + 1);
        Some(Self(waiting))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// What an identity without a user brings along; `None` where nothing comes of it.
fn newcomer(provider: &Provider, claims: &Map<String, Value>) -> Option<Newcomer> {
    let config = &provider.config;
    if config.link == UserLink::Subject && !config.create_users {
        return None;
    }
    let text = |name: &str| claim(claims, name).and_then(Value::as_str).map(str::to_owned);
    let is_verified = match claims.get("email_verified") {
        // Some providers write it as a text.
        Some(Value::String(text)) => text == "true",
        value => value.and_then(Value::as_bool).unwrap_or(false),
    };
    let email = text(&config.email_claim).filter(|_| is_verified || !config.verified_email);
    Some(Newcomer {
        issuer: config.issuer.clone(),
        subject: text("sub")?,
        email: email?,
        time_zone: text("zoneinfo"),
        link: config.link == UserLink::Email,
        create: config.create_users,
    })
}

fn check_header(provider: &Provider, header: &Header) -> Result<(), TokenFault> {
    if !provider.config.algorithms.contains(&header.alg) {
        return Err(TokenFault::Algorithm);
    }
    // RFC 7515 section 4.1.11: what must be understood and is not; and nothing here is encrypted or compressed.
    if header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
        return Err(TokenFault::Header);
    }
    let kind = header.typ.as_deref().unwrap_or_default();
    // RFC 7515 section 4.1.9: `application/` may be left out.
    let kind = kind.strip_prefix("application/").unwrap_or(kind);
    let is_allowed = provider.config.types.iter().any(|allowed| allowed.eq_ignore_ascii_case(kind));
    if is_allowed { Ok(()) } else { Err(TokenFault::Type) }
}

/// A NumericDate in milliseconds (RFC 7519 section 2: it may have a fraction).
fn date_ms(claims: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, TokenFault> {
    /// The end of the year 9999.
    const SECONDS_MAX: f64 = 253_402_300_799.0;
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within bounds, just seen")]
    let ms = seconds.map(|seconds| (seconds * 1_000.0) as u64);
    ms.map(Some).ok_or(TokenFault::Claim(name))
}

/// When a token was issued, and when it ends.
fn check_times(
    provider: &Provider,
    claims: &Map<String, Value>,
    unix_ms: u64,
) -> Result<(Option<u64>, u64), TokenFault> {
    let skew_ms = u64::try_from(provider.config.skew.as_millis()).unwrap_or(u64::MAX);
    let expires_ms = date_ms(claims, "exp")?.ok_or(TokenFault::Claim("exp"))?.saturating_add(skew_ms);
    if expires_ms <= unix_ms {
        return Err(TokenFault::Expired);
    }
    let begins_ms = date_ms(claims, "nbf")?;
    let issued_ms = date_ms(claims, "iat")?;
    let is_early = |at: Option<u64>| at.is_some_and(|at| at > unix_ms.saturating_add(skew_ms));
    if is_early(begins_ms) || is_early(issued_ms) {
        return Err(TokenFault::Early);
    }
    Ok((issued_ms, expires_ms))
}

fn fault_of(error: &jsonwebtoken::errors::Error) -> TokenFault {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::InvalidSignature => TokenFault::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidKeyFormat => TokenFault::Algorithm,
        ErrorKind::InvalidIssuer => TokenFault::Issuer,
        ErrorKind::InvalidAudience => TokenFault::Audience,
        ErrorKind::InvalidClaimFormat(name) if name == "aud" => TokenFault::Claim("aud"),
        ErrorKind::MissingRequiredClaim(name) if name == "aud" => TokenFault::Claim("aud"),
        ErrorKind::MissingRequiredClaim(name) if name == "sub" => TokenFault::Claim("sub"),
        ErrorKind::MissingRequiredClaim(name) if name == "exp" => TokenFault::Claim("exp"),
        _ => TokenFault::Shape,
    }
}

/// The user an identity leads to.
async fn user_of(store: &CoreStore, identity: &[u8; 32]) -> Result<Option<UserId>, ReadError> {
    let shard = identity_shard(identity, store.store().shard_count());
    let found = store.load::<IdentityRecord>(shard, &Key::identity(identity)).await?;
    Ok(found.map(|record| record.to_record().user))
}

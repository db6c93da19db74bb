//! API keys, checked against the store and then believed for a while, by the core that owns their user.
//!
//! Invariants:
//! - a key that is believed was found in the store, its hash equal, its time not over and its user enabled, at most
//!   `key_life` ago, and nothing of its user was taken back since ([`super::revoked`]);
//! - secrets are compared in constant time, here and in the cache;
//! - a hit in the cache allocates nothing.

use std::cell::RefCell;
use std::hash::BuildHasher;
use std::rc::Rc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use sluice_protocols::access::{Role, Scopes};
use sluice_protocols::ids::{ApiKey, KeyId, ShardId, UserId};
use sluice_store::record::{KeyRecord, UserRecord};
use sluice_store::{CoreStore, Key};

use super::beliefs::Beliefs;
use super::revoked::{Revocations, Stamp};
use super::{Credential, Denied, KeyText, Principal, same};
use crate::clock::Clock;
use crate::config::ShardConfig;
use crate::generations::Generations;
use crate::limit::Limiter;

/// Characters of a key's secret that its owner is shown again, to know it by: 24 of 256 bits.
const SECRET_CHARS_SHOWN: usize = 4;

/// Reads a key's text; nothing is proven by it.
pub(crate) fn parse(text: &KeyText) -> Result<ApiKey, Denied> {
    let text = std::str::from_utf8(text).map_err(|_| Denied::Unknown)?;
    ApiKey::parse(text).map_err(|_| Denied::Unknown)
}

/// SHA-256 of a key's secret: what the store keeps.
pub(crate) fn secret_hash(key: &ApiKey) -> [u8; 32] {
    Sha256::digest(key.secret()).into()
}

/// The public name of a key, from the hash of its secret.
pub(crate) fn key_id(hash: &[u8; 32]) -> KeyId {
    let mut id = [0; 8];
    id.copy_from_slice(&hash[..8]);
    KeyId::from_bytes(id)
}

/// How a key's text begins, to be shown.
pub(crate) fn shown_prefix(key: &ApiKey) -> String {
    let mut text = key.expose();
    let secret_at = text.len() - super::SECRET_CHARS;
    text.truncate(secret_at + SECRET_CHARS_SHOWN);
    text
}

/// What checking a key needs of its core.
#[derive(Clone, Copy)]
pub(crate) struct KeyMeans<'a> {
    pub(crate) store: &'a CoreStore,
    pub(crate) revocations: &'a Revocations,
    pub(crate) limiter: &'a Limiter,
    pub(crate) clock: &'a Clock,
}

struct Refused {
    text: KeyText,
    until: Instant,
}

/// The keys one core has checked.
pub(crate) struct Keys {
    believed: Beliefs<{ size_of::<KeyText>() }>,
    refused: RefCell<Generations<Refused>>,
    /// Seeded by chance, so that nobody outside can make keys meet in one place.
    hasher: foldhash::fast::RandomState,
    refused_life: Duration,
}

impl Keys {
    pub(crate) fn new(config: &ShardConfig) -> Self {
        Self {
            believed: Beliefs::new(config.keys_cached_max, config.key_life),
            refused: RefCell::new(Generations::new(config.keys_refused_max)),
            hasher: foldhash::fast::RandomState::default(),
            refused_life: config.key_refused_life,
        }
    }

    /// Whose key this is, when it was checked lately.
    pub(crate) fn believed(
        &self,
        text: &KeyText,
        revocations: &Revocations,
        now: Instant,
    ) -> Option<Rc<Principal>> {
        self.believed.find(text, revocations, now)
    }

    /// Drops what is believed of a user who is erased.
    pub(crate) fn forget(&self, user: &UserId) {
        self.believed.forget(user);
    }

    /// Keys held, right ones and wrong ones.
    pub(crate) fn len(&self) -> usize {
        self.believed.len() + self.refused.borrow().len()
    }

    /// Checks a key that is not believed, by the store of the core that owns its user.
    pub(crate) async fn check(
        &self,
        means: KeyMeans<'_>,
        text: &KeyText,
        shard: ShardId,
        now: Instant,
    ) -> Result<Rc<Principal>, Denied> {
        let hash = self.hasher.hash_one(text);
        if self.is_refused(hash, text, now) {
            return Err(Denied::Unknown);
        }
        let unix_ms = means.clock.unix_ms();
        match look_up(means, text, shard, unix_ms).await {
            Ok(principal) => {
                let principal = Rc::new(principal);
                let left = principal.expires_ms.map(|end| Duration::from_millis(end.saturating_sub(unix_ms)));
                let left = left.unwrap_or(Duration::MAX);
                self.believed.keep(text, &principal, left, means.revocations, now);
                Ok(principal)
            }
            Err(denied) => {
                if denied == Denied::Unknown {
                    let entry = Refused { text: *text, until: now + self.refused_life };
                    self.refused.borrow_mut().insert(hash, entry, |other| same(&other.text, text));
                }
                Err(denied)
            }
        }
    }

    fn is_refused(&self, hash: u64, text: &KeyText, now: Instant) -> bool {
        let mut refused = self.refused.borrow_mut();
        refused.find(hash, |entry| same(&entry.text, text)).is_some_and(|entry| entry.until > now)
    }
}

async fn look_up(
    means: KeyMeans<'_>,
    text: &KeyText,
    shard: ShardId,
    unix_ms: u64,
) -> Result<Principal, Denied> {
    let key = parse(text)?;
    let (user, hash) = (key.user(), secret_hash(&key));
    let id = key_id(&hash);
    let found = find(means, shard, user, &id, Some(&hash), unix_ms).await?;
    let KeyMeans { store, limiter, clock, .. } = means;
    let allowance = limiter.recall(store, clock, shard, user).await?;
    let Found { role, scopes, expires_ms, stamp, time_zone } = found;
    let credential = Credential::Key(id);
    Ok(Principal {
        user,
        shard,
        allowance,
        time_zone,
        role,
        scopes,
        credential,
        expires_ms,
        stamp,
        signer: None,
        token: None,
    })
}

/// What a key is good for now.
pub(super) struct Found {
    pub(super) role: Role,
    pub(super) scopes: Scopes,
    pub(super) expires_ms: Option<u64>,
    pub(super) stamp: Stamp,
    time_zone: Box<str>,
}

/// Finds a key by its id, which a hash proves; none for one that was proven before.
pub(super) async fn find(
    means: KeyMeans<'_>,
    shard: ShardId,
    user: UserId,
    id: &KeyId,
    hash: Option<&[u8; 32]>,
    unix_ms: u64,
) -> Result<Found, Denied> {
    let KeyMeans { store, revocations, .. } = means;
    let stamp = revocations.stamp(&user);
    let found = store.load::<KeyRecord>(shard, &Key::api_key(&user, id)).await?;
    let found = found.ok_or(Denied::Unknown)?;
    let found = found.get();
    if hash.is_some_and(|hash| !same(&found.hash, hash)) || found.user != *user.as_bytes() {
        return Err(Denied::Unknown);
    }
    let expires_ms = Some(found.expires_ms.to_native()).filter(|end| *end > 0);
    if expires_ms.is_some_and(|end| end <= unix_ms) {
        return Err(Denied::Expired);
    }
    let scopes = Scopes::from_bits(found.scopes.to_native());
    let record = store.load::<UserRecord>(shard, &Key::user(&user)).await?;
    let record = record.ok_or(Denied::Unknown)?;
    let record = record.get();
    if record.disabled {
        return Err(Denied::Disabled(user));
    }
    let role = Role::from_number(record.role);
    let time_zone = record.time_zone.as_str().into();
    Ok(Found { role, scopes: scopes.and(role.scopes_max()), expires_ms, stamp, time_zone })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ApiKey {
        ApiKey::new(UserId::from_bytes([3; 16]), [9; 32])
    }

    #[test]
    fn a_key_id_is_the_start_of_the_hash() {
        let hash = secret_hash(&key());
        assert_eq!(key_id(&hash).as_bytes(), &hash[..8]);
    }

    #[test]
    fn what_is_shown_of_a_key_holds_next_to_nothing_of_its_secret() {
        let (text, shown) = (key().expose(), shown_prefix(&key()));
        assert!(text.starts_with(&shown), "{shown}");
        assert_eq!(text.len() - shown.len(), 39);
    }

    #[test]
    fn what_is_no_key_is_unknown() {
        assert_eq!(parse(&[b' '; super::super::KEY_CHARS]), Err(Denied::Unknown));
    }
}

//! Who is asking: API keys, checked against the store and then believed for a while.
//!
//! Invariants:
//! - a key that is believed was found in the store, its hash equal and its user enabled, at most `key_life` ago;
//! - secrets are compared in constant time, here and in the cache;
//! - a hit in the cache allocates nothing.

use std::cell::RefCell;
use std::hash::BuildHasher;
use std::rc::Rc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use sluice_protocols::access::{Role, Scopes};
use sluice_protocols::http::RequestHead;
use sluice_protocols::ids::{ApiKey, KeyId, ShardId, UserId};
use sluice_store::record::{KeyRecord, UserRecord};
use sluice_store::{CoreStore, Key, ReadError};

use crate::clock::Clock;
use crate::config::ShardConfig;
use crate::generations::Generations;
use crate::limit::{Allowance, Limiter, Who};

/// `sk_`, 26 characters of the user, `_`, 43 characters of the secret.
pub(crate) const KEY_CHARS: usize = 73;

/// A key as it is sent.
type KeyText = [u8; KEY_CHARS];

/// Who asks, proven.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Principal {
    pub(crate) user: UserId,
    pub(crate) shard: ShardId,
    /// The key that was shown.
    pub(crate) key: KeyId,
    /// How much the user may ask.
    pub(crate) allowance: Rc<Allowance>,
    /// The user's own time zone.
    pub(crate) time_zone: Box<str>,
    pub(crate) role: Role,
    /// What the credential is good for.
    pub(crate) scopes: Scopes,
}

impl Principal {
    /// The same, as the limits on requests know it.
    pub(crate) fn who(&self) -> Who<'_> {
        Who { user: self.user, key: self.key, allowance: &self.allowance }
    }
}

/// Why a request is not served in anybody's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// Send `Authorization: Bearer sk_...`: answer 401.
    #[error("an API key is needed: Authorization: Bearer sk_...")]
    Missing,
    /// There is no such key: answer 401. Which part is wrong is not told.
    #[error("the API key is not valid")]
    Unknown,
    /// The key is right, its user is not to be served: answer 403.
    #[error("the user of this API key is disabled")]
    Disabled,
    /// The store could not tell: answer 503.
    #[error("the API key could not be checked: {0}")]
    Storage(#[from] ReadError),
}

/// The text of the key in a request's `Authorization` field.
pub(crate) fn key_text(head: &RequestHead) -> Result<&KeyText, Denied> {
    let field = head.header("authorization").ok_or(Denied::Missing)?;
    let (scheme, key) = field.split_once(' ').ok_or(Denied::Missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Denied::Missing);
    }
    key.trim_start_matches(' ').as_bytes().try_into().map_err(|_| Denied::Unknown)
}

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

struct Believed {
    text: KeyText,
    principal: Rc<Principal>,
    until: Instant,
}

struct Refused {
    text: KeyText,
    until: Instant,
}

/// The keys one core has checked.
pub(crate) struct Keys {
    believed: RefCell<Generations<Believed>>,
    refused: RefCell<Generations<Refused>>,
    /// Seeded by chance, so that nobody outside can make keys meet in one place.
    hasher: foldhash::fast::RandomState,
    believed_life: Duration,
    refused_life: Duration,
}

impl Keys {
    pub(crate) fn new(config: &ShardConfig) -> Self {
        Self {
            believed: RefCell::new(Generations::new(config.keys_cached_max)),
            refused: RefCell::new(Generations::new(config.keys_refused_max)),
            hasher: foldhash::fast::RandomState::default(),
            believed_life: config.key_life,
            refused_life: config.key_refused_life,
        }
    }

    /// Whose key this is, when it was checked lately.
    pub(crate) fn believed(&self, text: &KeyText, now: Instant) -> Option<Rc<Principal>> {
        let hash = self.hasher.hash_one(text);
        let mut believed = self.believed.borrow_mut();
        let entry = believed.find(hash, |entry| same(&entry.text, text))?;
        (entry.until > now).then(|| Rc::clone(&entry.principal))
    }

    /// Keys held, right ones and wrong ones.
    pub(crate) fn len(&self) -> usize {
        self.believed.borrow().len() + self.refused.borrow().len()
    }

    /// Checks a key that is not believed, by the store of the core that owns its user.
    pub(crate) async fn check(
        &self,
        (store, limiter, clock): (&CoreStore, &Limiter, &Clock),
        text: &KeyText,
        shard: ShardId,
        now: Instant,
    ) -> Result<Rc<Principal>, Denied> {
        let hash = self.hasher.hash_one(text);
        if self.is_refused(hash, text, now) {
            return Err(Denied::Unknown);
        }
        match look_up((store, limiter, clock), text, shard).await {
            Ok(principal) => {
                let principal = Rc::new(principal);
                let until = now + self.believed_life;
                let entry = Believed { text: *text, principal: Rc::clone(&principal), until };
                self.believed.borrow_mut().insert(hash, entry, |other| same(&other.text, text));
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
    (store, limiter, clock): (&CoreStore, &Limiter, &Clock),
    text: &KeyText,
    shard: ShardId,
) -> Result<Principal, Denied> {
    let key = parse(text)?;
    let (user, hash) = (key.user(), secret_hash(&key));
    let record = store.load::<KeyRecord>(shard, &Key::api_key(&user, &key_id(&hash))).await?;
    let record = record.ok_or(Denied::Unknown)?;
    if !same(&record.get().hash, &hash) || record.get().user != *user.as_bytes() {
        return Err(Denied::Unknown);
    }
    let record = store.load::<UserRecord>(shard, &Key::user(&user)).await?;
    let record = record.ok_or(Denied::Unknown)?;
    if record.get().disabled {
        return Err(Denied::Disabled);
    }
    let time_zone = record.get().time_zone.as_str().into();
    let allowance = limiter.recall(store, clock, shard, user).await?;
    let key = key_id(&hash);
    Ok(Principal { user, shard, key, allowance, time_zone, role: Role::User, scopes: Scopes::USER })
}

/// Whether two secrets are equal, in a time that does not depend on where they differ.
fn same<const N: usize>(a: &[u8; N], b: &[u8; N]) -> bool {
    let difference = a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b));
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(authorization: &str) -> RequestHead {
        RequestHead::build("GET", "/", "localhost").with("authorization", authorization)
    }

    fn key() -> ApiKey {
        ApiKey::new(UserId::from_bytes([3; 16]), [9; 32])
    }

    #[test]
    fn a_bearer_key_is_found_whatever_the_case_of_its_scheme() {
        let text = key().expose();
        assert_eq!(text.len(), KEY_CHARS);
        for scheme in ["Bearer", "bearer", "BEARER "] {
            let head = head(&format!("{scheme} {text}"));
            assert_eq!(key_text(&head).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn what_is_no_bearer_key_is_told_apart_from_a_wrong_one() {
        assert_eq!(key_text(&RequestHead::build("GET", "/", "localhost")), Err(Denied::Missing));
        assert_eq!(key_text(&head("Basic dTpw")), Err(Denied::Missing));
        assert_eq!(key_text(&head("Bearer")), Err(Denied::Missing));
        assert_eq!(key_text(&head("Bearer sk_short")), Err(Denied::Unknown));
        let blank = [b' '; KEY_CHARS];
        assert_eq!(parse(&blank), Err(Denied::Unknown));
    }

    #[test]
    fn equal_means_every_byte() {
        assert!(same(&[1, 2, 3], &[1, 2, 3]));
        assert!(!same(&[1, 2, 3], &[0, 2, 3]) && !same(&[1, 2, 3], &[1, 2, 4]));
    }

    #[test]
    fn a_key_id_is_the_start_of_the_hash() {
        let hash = secret_hash(&key());
        assert_eq!(key_id(&hash).as_bytes(), &hash[..8]);
    }
}

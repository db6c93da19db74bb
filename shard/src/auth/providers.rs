//! The operator's identity providers: what is demanded of their tokens, and the keys they sign with.
//!
//! The keys come from outside: something on another thread fetches them ([`Provider::install`]) and listens for those who
//! ask for newer ones ([`Provider::wanted`]). Cores read them, and wait for newer ones with a bound.
//!
//! Invariants:
//! - only signatures that need a private key are accepted: no `none`, no shared secrets, whatever a token or a key set says;
//! - a key is used with the algorithms of its own type alone;
//! - cores ask for newer keys at most once in [`ProviderConfig::refetch_after`], however many tokens name unknown ones.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use sluice_protocols::access::{Role, Scopes};
use tokio::sync::{Notify, watch};

/// Most keys of one provider; of more the first are taken.
pub const KEYS_MAX: usize = 64;

/// By what a token names its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserLink {
    /// By `sub` alone: an operator has linked it, or the user is made for it.
    Subject,
    /// By the address in [`ProviderConfig::email_claim`], the first time; from then on by `sub`.
    Email,
}

/// What is demanded of a provider's tokens, and what they give.
#[derive(Clone, Debug)]
pub struct ProviderConfig {
    /// What `iss` must be, byte for byte.
    pub issuer: String,
    /// `aud` must name one of these.
    pub audiences: Vec<String>,
    /// What tokens may be signed with; see [`algorithm`].
    pub algorithms: Vec<Algorithm>,
    /// What the header's `typ` may be, upper and lower case being the same; an empty text allows none.
    pub types: Vec<String>,
    /// How far the provider's clock and ours may be apart.
    pub skew: Duration,
    /// By what the user is found.
    pub link: UserLink,
    /// The claim that holds the e-mail address, by its name or the names that lead to it with points between.
    pub email_claim: String,
    /// Whether an e-mail address counts only with `email_verified`.
    pub verified_email: bool,
    /// Whether a user is made for an identity that has none.
    pub create_users: bool,
    /// The claim that holds roles, named alike; without it the role is the user's own.
    pub roles_claim: Option<String>,
    /// Values of it that make an operator.
    pub operator_roles: Vec<String>,
    /// Values of it that make an auditor.
    pub auditor_roles: Vec<String>,
    /// What tokens may be used for at most.
    pub scopes: Scopes,
    /// The least time between two fetches that unknown keys cause.
    pub refetch_after: Duration,
    /// How long a request waits for the key that its token names.
    pub key_wait: Duration,
}

/// The algorithm of this name, if tokens may be signed with it at all.
#[must_use]
pub fn algorithm(name: &str) -> Option<Algorithm> {
    let algorithm = name.parse().ok()?;
    is_asymmetric(algorithm).then_some(algorithm)
}

const fn is_asymmetric(algorithm: Algorithm) -> bool {
    !matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512)
}

/// A claim by its name, or by the names that lead to it with points between, such as `realm_access.roles`. The name as it
/// stands comes first, for there are claims with points in their names.
pub(super) fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| {
        let (first, rest) = name.split_once('.')?;
        claim(claims.get(first)?.as_object()?, rest)
    })
}

/// Why a key set was not taken; the one before stays.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// It is not `{"keys": [...]}`.
    #[error("it is no set of JSON web keys: {0}")]
    Shape(#[from] serde_json::Error),
    /// None of its keys can check a signature of an allowed algorithm.
    #[error("none of its {0} keys can be used with the allowed algorithms")]
    Unusable(usize),
}

/// The keys of a provider as they were last fetched.
#[derive(Debug, Default)]
pub(crate) struct KeySet {
    /// 0 before the first was fetched.
    pub(crate) version: u64,
    /// Of the document it was read from: what is fetched again and is the same is no new version.
    fingerprint: [u8; 32],
    keys: Vec<SigningKey>,
}

/// Which key of which provider it is, whatever it is called there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Signer([u8; 16]);

impl Signer {
    /// As it was stored.
    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// To be stored.
    pub(crate) const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    fn of(issuer: &str, parameters: &AlgorithmParameters) -> Option<Self> {
        let mut hash = Sha256::new();
        // An issuer is a URL of the configuration, far below 2^32 bytes.
        hash.update(u32::try_from(issuer.len()).unwrap_or(u32::MAX).to_be_bytes());
        hash.update(issuer);
        hash.update(serde_json::to_vec(parameters).ok()?);
        hash.finalize().first_chunk().copied().map(Self)
    }
}

#[derive(Debug)]
pub(crate) struct SigningKey {
    name: Option<String>,
    algorithms: Vec<Algorithm>,
    pub(crate) key: DecodingKey,
    pub(crate) signer: Signer,
}

impl KeySet {
    /// The key for a token's header: by its name, or without one the only key that fits.
    pub(crate) fn find(&self, name: Option<&str>, algorithm: Algorithm) -> Option<&SigningKey> {
        let mut fitting = self.keys.iter().filter(|key| {
            key.algorithms.contains(&algorithm) && (name.is_none() || key.name.as_deref() == name)
        });
        let first = fitting.next()?;
        // Without a name a second one leaves it open which was meant.
        (name.is_some() || fitting.next().is_none()).then_some(first)
    }
}

#[derive(Deserialize)]
struct KeySetDocument {
    keys: Vec<Value>,
}

/// The key of a set's member; `None` for keys of other uses and kinds, which a set may hold as well.
fn signing_key(
    member: &Value,
    ProviderConfig { issuer, algorithms: allowed, .. }: &ProviderConfig,
) -> Option<SigningKey> {
    let jwk: Jwk = serde_json::from_value(member.clone()).ok()?;
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    let of_type: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => &[
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => &[Algorithm::ES256],
            EllipticCurve::P384 => &[Algorithm::ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(_) => &[Algorithm::EdDSA],
        // A shared secret is no public key: whoever could check could also sign.
        _ => return None,
    };
    let own = match jwk.common.key_algorithm {
        None => None,
        Some(named) => Some(Algorithm::try_from(named).ok()?),
    };
    let fits = |algorithm: &&Algorithm| {
        is_asymmetric(**algorithm) && allowed.contains(algorithm) && own.is_none_or(|own| own == **algorithm)
    };
    let algorithms: Vec<_> = of_type.iter().filter(fits).copied().collect();
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    let signer = Signer::of(issuer, &jwk.algorithm)?;
    (!algorithms.is_empty()).then_some(SigningKey { name: jwk.common.key_id, algorithms, key, signer })
}

/// When newer keys were asked for, and how many sets had come by then.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    at: Instant,
    installed: u64,
}

/// One identity provider, shared by all cores and by whatever fetches its keys.
#[derive(Debug)]
pub struct Provider {
    /// What is demanded of its tokens.
    pub config: ProviderConfig,
    /// The same, as far as the library that checks them knows it. Times are checked by our clock.
    demands: Validation,
    keys: watch::Sender<Arc<KeySet>>,
    /// The version of the keys in use, to be compared without a lock.
    version: AtomicU64,
    wanted: Notify,
    last_wanted: Mutex<Option<Wanted>>,
    /// Key sets that came, the same as before or not.
    installed: AtomicU64,
    /// Fetches that unknown keys have caused.
    pub refetches: AtomicU64,
}

impl Provider {
    /// A provider whose keys are not known yet.
    #[must_use]
    pub fn new(config: ProviderConfig) -> Self {
        let mut demands = Validation::default();
        demands.set_audience(&config.audiences);
        demands.set_issuer(&[&config.issuer]);
        demands.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        demands.validate_exp = false;
        Self {
            config,
            demands,
            keys: watch::Sender::default(),
            version: AtomicU64::new(0),
            wanted: Notify::new(),
            last_wanted: Mutex::new(None),
            installed: AtomicU64::new(0),
            refetches: AtomicU64::new(0),
        }
    }

    /// Takes a key set in the place of the one before, and gives the number of keys that can be used.
    ///
    /// # Errors
    /// [`KeySetError`]; the one before stays.
    pub fn install(&self, bytes: &[u8]) -> Result<usize, KeySetError> {
        let document: KeySetDocument = serde_json::from_slice(bytes)?;
        let keys = document.keys.iter().filter_map(|key| signing_key(key, &self.config));
        let keys: Vec<_> = keys.take(KEYS_MAX).collect();
        if keys.is_empty() {
            return Err(KeySetError::Unusable(document.keys.len()));
        }
        let count = keys.len();
        let fingerprint = Sha256::digest(bytes).into();
        self.installed.fetch_add(1, Release);
        // Nobody asks meanwhile: it would be for newer ones than these, or not.
        let mut last = self.last_wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = self.version() == 0;
        // Whoever waits is woken in any case: nothing newer is to be had.
        self.keys.send_modify(|set| {
            if set.version == 0 || set.fingerprint != fingerprint {
                let version = set.version + 1;
                *set = Arc::new(KeySet { version, fingerprint, keys });
                self.version.store(version, Release);
            }
        });
        if is_first {
            // Whoever asked before was not asking for others than those: it keeps nobody from asking for newer ones, and
            // none are fetched for it.
            *last = None;
            pin!(self.wanted.notified()).enable();
        }
        Ok(count)
    }

    /// What is demanded of a token with this algorithm.
    pub(crate) fn demands_with(&self, algorithm: Algorithm) -> Validation {
        Validation { algorithms: vec![algorithm], ..self.demands.clone() }
    }

    /// Waits until a core asks for newer keys.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// The version of the keys in use; 0 for none.
    pub fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    pub(crate) fn keys(&self) -> watch::Receiver<Arc<KeySet>> {
        self.keys.subscribe()
    }

    /// Asks for newer keys, if that was not done lately; says whether some are on their way.
    pub(crate) fn ask_for_newer(&self, now: Instant) -> bool {
        // Held for a comparison, so poison means nothing.
        let mut last = self.last_wanted.lock().unwrap_or_else(PoisonError::into_inner);
        match *last {
            Some(asked) if now.saturating_duration_since(asked.at) < self.config.refetch_after => {
                // Those who come while it is under way wait with whoever asked.
                let is_under_way = self.installed.load(Acquire) == asked.installed;
                is_under_way && now.saturating_duration_since(asked.at) < self.config.key_wait
            }
            _ => {
                *last = Some(Wanted { at: now, installed: self.installed.load(Acquire) });
                self.refetches.fetch_add(1, Relaxed);
                self.wanted.notify_one();
                true
            }
        }
    }

    /// The role that a token's claims give; `None` where the provider does not say.
    pub(crate) fn role_of(&self, claims: &Map<String, Value>) -> Option<Role> {
        let roles = claim(claims, self.config.roles_claim.as_ref()?);
        let values: Vec<&str> = match roles {
            Some(Value::String(text)) => text.split(' ').collect(),
            Some(Value::Array(values)) => values.iter().filter_map(|value| value.as_str()).collect(),
            _ => Vec::new(),
        };
        let has = |wanted: &[String]| values.iter().any(|value| wanted.iter().any(|one| one == value));
        Some(if has(&self.config.operator_roles) {
            Role::Operator
        } else if has(&self.config.auditor_roles) {
            Role::Auditor
        } else {
            Role::User
        })
    }
}

/// All identity providers of the process.
#[derive(Debug, Default)]
pub struct Providers(Vec<Arc<Provider>>);

impl Providers {
    /// These providers.
    #[must_use]
    pub fn new(providers: Vec<Arc<Provider>>) -> Self {
        Self(providers)
    }

    /// Every provider, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Provider>> {
        self.0.iter()
    }

    /// Whether there is none, so that no token is accepted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn of_issuer(&self, issuer: &str) -> Option<(usize, &Arc<Provider>)> {
        self.0.iter().enumerate().find(|(_, provider)| provider.config.issuer == issuer)
    }

    /// A number that is another one once any provider's keys have changed.
    pub(crate) fn version(&self) -> u64 {
        self.0.iter().map(|provider| provider.version()).sum()
    }

    /// Whether a key is one that a provider signs with now; `None` while that cannot be told, for the keys of one are not
    /// known yet.
    pub(crate) fn has_signer(&self, signer: Signer) -> Option<bool> {
        let sets = || self.0.iter().map(|provider| Arc::clone(&provider.keys.borrow()));
        if sets().any(|set| set.keys.iter().any(|key| key.signer == signer)) {
            return Some(true);
        }
        sets().all(|set| set.version > 0).then_some(false)
    }

    pub(crate) fn get(&self, index: usize) -> &Arc<Provider> {
        &self.0[index]
    }
}

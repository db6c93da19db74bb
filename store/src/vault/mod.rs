//! The vault: users' secrets at rest.
//!
//! ```text
//! master key, from outside the data directory, in versions ([`Keyring`])
//!   └ wraps each user's data key, random        Key::data_key(user) -> DataKeyRecord
//!       └ seals each of their secrets           a StoredSecret within some record
//! ```
//! How a message is sealed, and why no nonce can repeat, stands in `cipher.rs`.
//!
//! Whoever has a copy of the data directory and no master key reads no secret. Whoever can write to it cannot make one user's
//! secret open as another's, or in another field, record or store: all of that is bound into what is sealed ([`Place`]).
//! They can put back an older value of the same secret, and, until all are sealed, one that is not: the vault keeps secrets
//! secret, it does not keep a disk from being written to.
//!
//! Rotation makes a new master version current, and wraps every data key anew ([`Vault::walk_blocking`]): secrets
//! themselves are not touched, for they are sealed under data keys, which stay. Destroying a user's data key
//! ([`Vault::destroy_blocking`]) makes all that was ever sealed for them unreadable, wherever copies of it are.
//!
//! Invariants:
//! - a master key is never written to the data directory, nor is a data key that is not wrapped;
//! - a version is remembered in `vault.toml` before anything is wrapped under it, and a process that lacks a remembered
//!   version, or has another key by its number, does not start;
//! - a user has one data key. Whoever makes, wraps or destroys one holds it meanwhile ([`Vault::try_hold`]), and so does
//!   whoever writes a record that the vault may seal on its own;
//! - keys and opened secrets are wiped when dropped; none of them is in any message, nor in `Debug`.

mod blocking;
mod cipher;
mod core_vault;
mod data_key;
mod hex;
mod hold;
mod master;
mod place;
mod state;
mod walk;

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use sluice_protocols::ids::{ShardId, UserId};

pub use core_vault::CoreVault;
pub use data_key::UserKey;
pub use hold::Hold;
pub use master::{Keyring, KeyringError, MASTERS_MAX, MasterVersion};
pub use place::{Field, Place};
pub use state::StoreId;
pub use walk::{Cursor, PART_ROWS_MAX, Part, Survey, UnknownCursor, Work};

use crate::key::{KeyRange, Kind};
use crate::record::RecordError;
use crate::stats::VaultStats;
use crate::{CommitError, ReadError, Store};
use hold::Holds;
use state::State;

/// Longest secret in bytes: some times the longest token that is taken from anybody.
pub const SECRET_BYTES_MAX: usize = 64 << 10;

/// Why a secret could not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// Nothing was ever sealed for the user, or their records are not whole.
    #[error("user {user} has no data key")]
    NoDataKey { user: UserId },
    /// It is gone for good. Ask for the secret anew.
    #[error("the data key of user {user} was destroyed: nothing that was sealed for them can be read")]
    Destroyed { user: UserId },
    /// Give the key back to the place the others come from, and restart.
    #[error("master key version {version} is not at hand: give it back beside the others")]
    NoMaster { version: u32 },
    /// The record is damaged or was moved. Restore it, or ask for the secret anew.
    #[error("a secret does not open: it is damaged, or was sealed for another place or under another key")]
    Unreadable,
    /// Run the version that wrote it.
    #[error("a secret was sealed by a newer Sluice (format {found}): run that version")]
    Newer { found: u8 },
    /// Nothing was sealed. Refuse the secret.
    #[error("a secret of {bytes} bytes is over the limit of {SECRET_BYTES_MAX}")]
    TooLong { bytes: usize },
    /// Nothing was done. Try again.
    #[error("the record is being written by another; try again")]
    Busy,
    /// Nothing was sealed. The host gives no random bytes; nothing can be made without them.
    #[error("the host has no random source")]
    Random,
    /// The store could not be read; see its message.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A data key was not stored; see its message.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A record is too large.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Why a vault cannot be opened. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum VaultOpenError {
    #[error(
        "master key version {version} is another than the one this data directory was used with ({} remembers a check \
         value of it): give that one, and make new ones under new numbers (`sluice vault keygen --add`)", path.display()
    )]
    WrongKey { version: MasterVersion, path: PathBuf },
    #[error(
        "master key version {version} is missing (given: {given}), but users' keys may be wrapped under it: give it back. \
         A version can be left out once `sluice vault rotate` is done and `sluice vault forget {version}` agreed"
    )]
    MissingKey { version: MasterVersion, given: String },
    #[error("{} is damaged ({reason}): restore it; it holds no secret, but no secret opens without it", path.display())]
    State { path: PathBuf, reason: String },
    #[error("{} was written by a newer Sluice (format {found}): run that version", path.display())]
    NewerState { path: PathBuf, found: i64 },
    #[error(
        "{} is missing, but there are users' keys: restore it beside the database; no secret opens without it",
        path.display()
    )]
    LostState { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the host has no random source")]
    Random,
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why a master version is not forgotten. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    #[error(
        "master key version {version} is the current one, which wraps what is new: add a newer one first"
    )]
    Current { version: MasterVersion },
    #[error("master key version {version} is not one this data directory remembers")]
    Unknown { version: MasterVersion },
    #[error("{users} users' keys are still wrapped under version {version}: run `sluice vault rotate` first")]
    InUse { version: MasterVersion, users: u64 },
    #[error(
        "{records} data keys cannot be read, so under which version they are is unknown: restore them first"
    )]
    Unreadable { records: u64 },
    #[error("users' keys are being written just now: try again")]
    Busy,
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    State(#[from] VaultOpenError),
}

/// A store's vault, shared by all threads. Clones are the same vault; it holds the store open.
#[derive(Clone)]
pub struct Vault {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    id: StoreId,
    /// Replaced whole when a new version comes.
    keyring: RwLock<Arc<Keyring>>,
    /// What `vault.toml` says; locked while it is changed.
    state: Mutex<State>,
    holds: Arc<Holds>,
    /// How many data keys were destroyed: a core that kept some looks here before it uses one.
    destroyed: AtomicU64,
    stats: VaultStats,
}

impl Vault {
    /// Opens the vault of a store with the master keys at hand, or makes it when the store has none. Blocks.
    ///
    /// # Errors
    /// [`VaultOpenError`] says what does not fit, and what to do.
    pub fn open(store: &Store, keyring: Keyring) -> Result<Self, VaultOpenError> {
        let directory = store.path();
        let known = match State::read(directory)? {
            Some(state) => state,
            None if has_data_keys(store)? => {
                return Err(VaultOpenError::LostState { path: state::path(directory) });
            }
            None => State::new(random_id()?),
        };
        let state = known.admit(&keyring, directory)?;
        if state != known {
            state.write(directory)?;
        }
        tracing::info!(store = %state.store, current = %keyring.current_version(), masters = keyring.listed(), "vault opened");
        let inner = Inner {
            store: store.clone(),
            id: state.store,
            keyring: RwLock::new(Arc::new(keyring)),
            state: Mutex::new(state),
            holds: Arc::default(),
            destroyed: AtomicU64::new(0),
            stats: VaultStats::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Takes the master keys anew, so that a version that was added becomes current. Blocks.
    ///
    /// # Errors
    /// [`VaultOpenError`]; the keys at hand stay as they were.
    pub fn reload(&self, keyring: Keyring) -> Result<(), VaultOpenError> {
        let mut known = self.state();
        let state = known.admit(&keyring, self.inner.store.path())?;
        if state != *known {
            state.write(self.inner.store.path())?;
            tracing::info!(current = %keyring.current_version(), masters = keyring.listed(), "master keys taken anew");
            *known = state;
        }
        *self.inner.keyring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keyring);
        Ok(())
    }

    /// The store it is of.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// What the store is called in everything sealed.
    pub fn store_id(&self) -> StoreId {
        self.inner.id
    }

    /// The version that wraps what is new.
    pub fn current_version(&self) -> MasterVersion {
        self.keyring().current_version()
    }

    /// The versions that may be in use, oldest first. All of them are at hand.
    pub fn versions(&self) -> Vec<MasterVersion> {
        self.state().masters.iter().map(|(version, _)| *version).collect()
    }

    /// Everything counted since it was opened.
    pub fn stats(&self) -> &VaultStats {
        &self.inner.stats
    }

    fn keyring(&self) -> Arc<Keyring> {
        Arc::clone(&self.inner.keyring.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard_of(&self, user: &UserId) -> ShardId {
        ShardId::of(user, self.inner.store.shard_count())
    }
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vault({})", self.inner.id)
    }
}

fn random_id() -> Result<StoreId, VaultOpenError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| VaultOpenError::Random)?;
    Ok(StoreId::from_bytes(bytes))
}

fn has_data_keys(store: &Store) -> Result<bool, ReadError> {
    for shard in store.shard_count().shards() {
        if !store.scan_blocking(shard, KeyRange::kind(Kind::DataKey), 1, false)?.rows.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

//! The vault as one core sees it. `!Send`; nothing here blocks.
//!
//! Invariants:
//! - at most `keys_max` data keys are kept unwrapped, the oldest goes first, and each is wiped when it goes and nobody uses
//!   it any more;
//! - a key that was destroyed is not used from the next look on: all that are kept are dropped when any was.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use hashbrown::HashMap;
use sluice_protocols::ids::UserId;

use super::hold::{PAUSE, WAIT_MAX};
use super::{Hold, Place, UserKey, Vault, VaultError};
use crate::CoreStore;
use crate::batch::Batch;
use crate::key::Key;
use crate::record::{DataKeyRecord, PlainText, StoredSecret};

/// One core's way to its users' secrets. Clones are the same.
#[derive(Clone)]
pub struct CoreVault {
    core: Rc<Core>,
}

struct Core {
    vault: Vault,
    store: CoreStore,
    kept: RefCell<Kept>,
}

/// Data keys that were used lately.
struct Kept {
    keys: HashMap<UserId, Rc<UserKey>, foldhash::fast::RandomState>,
    /// Every user in `keys` once, in the order they came.
    order: VecDeque<UserId>,
    keys_max: usize,
    /// How many keys had been destroyed when these were taken.
    destroyed: u64,
}

impl CoreVault {
    /// Access for the core of `store`, which keeps at most `keys_max` data keys unwrapped: some 200 bytes each.
    pub fn new(vault: Vault, store: CoreStore, keys_max: usize) -> Self {
        let kept = Kept {
            keys: HashMap::default(),
            order: VecDeque::new(),
            keys_max: keys_max.max(1),
            destroyed: vault.destroyed(),
        };
        Self { core: Rc::new(Core { vault, store, kept: RefCell::new(kept) }) }
    }

    /// The vault all cores share.
    pub fn vault(&self) -> &Vault {
        &self.core.vault
    }

    /// Seals a secret for its place, under the user's data key; makes one when there is none, which costs a commit.
    ///
    /// # Errors
    /// [`VaultError`]; nothing but a data key was written.
    ///
    /// # Panics
    /// Outside a reactor.
    pub async fn seal(&self, place: &Place, secret: &str) -> Result<StoredSecret, VaultError> {
        let key = match self.key(place.user()).await {
            Err(VaultError::NoDataKey { .. } | VaultError::Destroyed { .. }) => {
                self.make(*place.user()).await?
            }
            found => found?,
        };
        self.core.vault.seal_with(&key, place, secret)
    }

    /// Opens a secret as a record holds it.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn open(&self, place: &Place, stored: &StoredSecret) -> Result<PlainText, VaultError> {
        match stored {
            StoredSecret::Sealed(sealed) => {
                let key = self.key(place.user()).await?;
                self.core.vault.open_with(&key, place, sealed)
            }
            StoredSecret::Plain(text) => {
                self.core.vault.stats().opened_plain.add(1);
                Ok(text.clone())
            }
        }
    }

    /// Holds the record under `key` for a change: from the look at it until the change is durable. Whoever writes a record
    /// with a secret in it does: see [`super::hold`].
    ///
    /// # Errors
    /// [`VaultError::Busy`] after 5 s.
    ///
    /// # Panics
    /// Outside a reactor.
    pub async fn hold(&self, key: &Key) -> Result<Hold, VaultError> {
        let limit = sluice_core::now() + WAIT_MAX;
        loop {
            if let Some(hold) = self.core.vault.try_hold(key) {
                return Ok(hold);
            }
            if sluice_core::now() >= limit {
                self.core.vault.stats().busy.add(1);
                return Err(VaultError::Busy);
            }
            sluice_core::sleep(PAUSE).await;
        }
    }

    /// Drops what is kept of a user: they are erased.
    pub fn forget(&self, user: &UserId) {
        let mut kept = self.core.kept.borrow_mut();
        if kept.keys.remove(user).is_some() {
            kept.order.retain(|other| other != user);
        }
    }

    /// How many data keys are kept.
    pub fn len(&self) -> usize {
        self.core.kept.borrow().keys.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    async fn key(&self, user: &UserId) -> Result<Rc<UserKey>, VaultError> {
        let destroyed = self.core.vault.destroyed();
        if let Some(key) = self.core.kept.borrow_mut().get(user, destroyed) {
            return Ok(key);
        }
        let record = self.record(user).await?.ok_or(VaultError::NoDataKey { user: *user })?;
        Ok(self.keep(self.core.vault.unwrap(user, &record)?, user, destroyed))
    }

    /// In a task of its own: a caller who goes away must not let go of the key before it is durable.
    async fn make(&self, user: UserId) -> Result<Rc<UserKey>, VaultError> {
        let this = self.clone();
        sluice_core::spawn(async move { this.make_held(&user).await }).await
    }

    async fn make_held(&self, user: &UserId) -> Result<Rc<UserKey>, VaultError> {
        let place = Key::data_key(user);
        let _hold = self.hold(&place).await?;
        let vault = &self.core.vault;
        let destroyed = vault.destroyed();
        // Another may have made one meanwhile.
        let last = self.record(user).await?;
        if let Some(record) = last.as_ref().filter(|record| record.wrapped.is_some()) {
            return Ok(self.keep(vault.unwrap(user, record)?, user, destroyed));
        }
        let (key, record) = vault.new_key(user, last.as_ref())?;
        let mut batch = Batch::new(vault.shard_of(user));
        batch.put_record(&place, &record)?;
        self.core.store.commit(batch).await?;
        vault.stats().keys_made.add(1);
        Ok(self.keep(key, user, destroyed))
    }

    async fn record(&self, user: &UserId) -> Result<Option<DataKeyRecord>, VaultError> {
        let shard = self.core.vault.shard_of(user);
        let found = self.core.store.load::<DataKeyRecord>(shard, &Key::data_key(user)).await?;
        Ok(found.map(|loaded| loaded.to_record()))
    }

    /// Keeps a key that was read when so many had been destroyed.
    fn keep(&self, key: UserKey, user: &UserId, destroyed: u64) -> Rc<UserKey> {
        let key = Rc::new(key);
        let evicted = self.core.kept.borrow_mut().insert(*user, Rc::clone(&key), destroyed);
        self.core.vault.stats().keys_evicted.add(evicted);
        key
    }
}

impl std::fmt::Debug for CoreVault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CoreVault").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Kept {
    fn get(&mut self, user: &UserId, destroyed: u64) -> Option<Rc<UserKey>> {
        if self.destroyed != destroyed {
            self.keys.clear();
            self.order.clear();
            self.destroyed = destroyed;
        }
        self.keys.get(user).cloned()
    }

    /// Gives how many went for it.
    fn insert(&mut self, user: UserId, key: Rc<UserKey>, destroyed: u64) -> u64 {
        // A key was destroyed since this one was read: it may be this one.
        if self.destroyed != destroyed {
            return 0;
        }
        if self.keys.insert(user, key).is_some() {
            return 0;
        }
        self.order.push_back(user);
        let mut evicted = 0;
        while self.keys.len() > self.keys_max {
            let oldest = self.order.pop_front().expect("every key kept has its place in the order");
            self.keys.remove(&oldest);
            evicted += 1;
        }
        evicted
    }
}

impl Vault {
    /// How many data keys were destroyed since the vault was opened.
    pub(super) fn destroyed(&self) -> u64 {
        self.inner.destroyed.load(Ordering::Acquire)
    }
}

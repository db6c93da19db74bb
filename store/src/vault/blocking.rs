//! The vault for ordinary threads. Everything here blocks: not for a reactor.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use sluice_protocols::ids::UserId;

use super::hold::{PAUSE, WAIT_MAX};
use super::{ForgetError, MasterVersion, PART_ROWS_MAX, Place, UserKey, Vault, VaultError, Work};
use crate::batch::Batch;
use crate::key::{Key, KeyRange, Kind};
use crate::record::{DataKeyRecord, PlainText, StoredSecret};

impl Vault {
    /// Seals a secret for its place, under the user's data key; makes one when there is none.
    ///
    /// # Errors
    /// [`VaultError`]; nothing but a data key was written.
    pub fn seal_blocking(&self, place: &Place, secret: &str) -> Result<StoredSecret, VaultError> {
        let key = self.key_blocking(place.user())?;
        self.seal_with(&key, place, secret)
    }

    /// Opens a secret as a record holds it.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn open_blocking(&self, place: &Place, stored: &StoredSecret) -> Result<PlainText, VaultError> {
        let sealed = match stored {
            StoredSecret::Sealed(sealed) => sealed,
            StoredSecret::Plain(text) => {
                self.inner.stats.opened_plain.add(1);
                return Ok(text.clone());
            }
        };
        let user = place.user();
        let record = self.record_blocking(user)?.ok_or(VaultError::NoDataKey { user: *user })?;
        let key = self.unwrap(user, &record)?;
        self.open_with(&key, place, sealed)
    }

    /// A data key for a user who is made with this batch: nothing of them is in the store yet, so nobody else can be
    /// making one.
    ///
    /// # Errors
    /// [`VaultError::Random`]; the batch is as it was.
    pub fn key_for_new_user(&self, user: &UserId, batch: &mut Batch) -> Result<UserKey, VaultError> {
        let (key, record) = self.new_key(user, None)?;
        batch.put_record(&Key::data_key(user), &record)?;
        self.inner.stats.keys_made.add(1);
        Ok(key)
    }

    /// Destroys a user's data key. From the moment this returns nothing that was sealed for them can be read: not by this
    /// process, not from what is left of the key on this disk, and not from copies of the directory made later.
    /// Copies made before still hold the wrapped key; they are dead once no master key of their time is left.
    ///
    /// The record stays as the mark of what was done; whether there was a key to destroy is told. Rewrites the user's part
    /// of the shard and flushes the whole store, so that no table and no log holds the key any more: some seconds at
    /// worst. The blocks that the file system freed are its own to overwrite.
    ///
    /// # Errors
    /// [`VaultError`]; after [`VaultError::Read`] the key is destroyed, but old files may hold it: try again.
    pub fn destroy_blocking(&self, user: &UserId) -> Result<bool, VaultError> {
        let key = Key::data_key(user);
        let shard = self.shard_of(user);
        let _hold = self.hold_blocking(&key)?;
        let Some(record) = self.record_blocking(user)? else { return Ok(false) };
        let was_there = record.wrapped.is_some();
        if was_there {
            let mut batch = Batch::new(shard);
            batch.put_record(&key, &DataKeyRecord { wrapped: None, ..record })?;
            self.store().write_blocking(vec![batch])?;
            // After it is visible: a core that looks now, or later, finds the mark.
            self.inner.destroyed.fetch_add(1, Ordering::Release);
            self.inner.stats.keys_destroyed.add(1);
            tracing::warn!(%user, "data key destroyed");
        }
        // Also when it was done before: that may have been cut short here.
        self.store().purge_blocking(shard, &KeyRange::of_user(Kind::DataKey, user))?;
        Ok(was_there)
    }

    /// Tells that a user's data key was deleted with its record, for the user is erased: whoever deleted it held it until
    /// that was durable. From the moment this returns no core uses it.
    pub fn note_erased(&self, user: &UserId) {
        self.inner.destroyed.fetch_add(1, Ordering::Release);
        self.inner.stats.keys_destroyed.add(1);
        tracing::warn!(%user, "data key destroyed");
    }

    /// Stops asking for a master version at every start, after making sure that no data key is under it. Then it may be
    /// removed from where the keys are kept.
    ///
    /// # Errors
    /// [`ForgetError`]; nothing was changed.
    pub fn forget_blocking(&self, version: MasterVersion) -> Result<(), ForgetError> {
        if version == self.current_version() {
            return Err(ForgetError::Current { version });
        }
        if !self.versions().contains(&version) {
            return Err(ForgetError::Unknown { version });
        }
        if !self.settled_blocking() {
            return Err(ForgetError::Busy);
        }
        let (mut users, mut unreadable, mut cursor) = (0, 0, None);
        loop {
            let part =
                self.walk_blocking(cursor, PART_ROWS_MAX, Work::Count).map_err(|error| match error {
                    VaultError::Read(error) => ForgetError::Read(error),
                    _ => ForgetError::Busy,
                })?;
            users += part.survey.under.get(&version).copied().unwrap_or(0);
            unreadable += part.survey.unreadable;
            cursor = part.next;
            if cursor.is_none() {
                break;
            }
        }
        if unreadable > 0 {
            return Err(ForgetError::Unreadable { records: unreadable });
        }
        if users > 0 {
            return Err(ForgetError::InUse { version, users });
        }
        let mut state = self.state();
        let mut next = state.clone();
        next.masters.retain(|(known, _)| *known != version);
        next.write(self.store().path())?;
        *state = next;
        tracing::info!(%version, "master key version forgotten");
        Ok(())
    }

    /// Waits until there was a moment in which no data key was being written. Whoever writes one from then on took the
    /// master keys that are current now.
    pub(super) fn settled_blocking(&self) -> bool {
        let limit = Instant::now() + WAIT_MAX;
        while self.inner.holds.has_any(Kind::DataKey) {
            if Instant::now() >= limit {
                return false;
            }
            thread::sleep(PAUSE);
        }
        true
    }

    /// A user's data key; a new one when there is none.
    pub(super) fn key_blocking(&self, user: &UserId) -> Result<UserKey, VaultError> {
        // Most have one, and then nothing need be held.
        if let Some(record) = self.record_blocking(user)?.filter(|record| record.wrapped.is_some()) {
            return self.unwrap(user, &record);
        }
        let _hold = self.hold_blocking(&Key::data_key(user))?;
        let mut batch = Batch::new(self.shard_of(user));
        let key = self.key_within(user, &mut batch)?;
        if !batch.is_empty() {
            self.store().write_blocking(vec![batch])?;
        }
        Ok(key)
    }

    /// A user's data key, for whoever holds it; a new one is put into the batch.
    pub(super) fn key_within(&self, user: &UserId, batch: &mut Batch) -> Result<UserKey, VaultError> {
        let last = self.record_blocking(user)?;
        if let Some(record) = last.as_ref().filter(|record| record.wrapped.is_some()) {
            return self.unwrap(user, record);
        }
        let (key, record) = self.new_key(user, last.as_ref())?;
        batch.put_record(&Key::data_key(user), &record)?;
        self.inner.stats.keys_made.add(1);
        Ok(key)
    }

    fn record_blocking(&self, user: &UserId) -> Result<Option<DataKeyRecord>, VaultError> {
        let found = self.store().load_blocking::<DataKeyRecord>(self.shard_of(user), &Key::data_key(user))?;
        Ok(found.map(|loaded| loaded.to_record()))
    }
}

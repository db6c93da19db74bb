//! A user's data key: made, wrapped, unwrapped, and what it seals and opens.

use sluice_protocols::ids::UserId;
use zeroize::Zeroize;

use super::cipher::{self, Identity, KeyBytes, Purpose};
use super::master::{MasterKey, MasterVersion};
use super::state::StoreId;
use super::{Place, SECRET_BYTES_MAX, Vault, VaultError, unix_ms};
use crate::key::Key;
use crate::record::{DataKeyRecord, PlainText, Sealed, StoredSecret};

/// A user's data key, unwrapped. Wiped when dropped.
pub struct UserKey {
    store: StoreId,
    user: UserId,
    version: u32,
    bytes: KeyBytes,
}

impl UserKey {
    /// Seals a secret for its place. A few microseconds, no IO.
    ///
    /// # Errors
    /// [`VaultError::TooLong`], [`VaultError::Random`].
    ///
    /// # Panics
    /// When the place is another user's.
    pub fn seal(&self, place: &Place, secret: &str) -> Result<StoredSecret, VaultError> {
        if secret.len() > SECRET_BYTES_MAX {
            return Err(VaultError::TooLong { bytes: secret.len() });
        }
        let sealed = cipher::seal(&self.bytes, &self.identity(place), secret.as_bytes())?;
        Ok(StoredSecret::Sealed(Sealed::from_bytes(sealed)))
    }

    /// Opens what was sealed for this very place. A few microseconds, no IO.
    ///
    /// # Errors
    /// [`VaultError::Unreadable`], [`VaultError::Newer`].
    ///
    /// # Panics
    /// When the place is another user's.
    pub fn open(&self, place: &Place, sealed: &Sealed) -> Result<PlainText, VaultError> {
        let mut plain = cipher::open(&self.bytes, &self.identity(place), sealed.as_bytes())?;
        // The buffer becomes the text: there is no second copy.
        String::from_utf8(std::mem::take(&mut *plain)).map(PlainText::from).map_err(|error| {
            error.into_bytes().zeroize();
            VaultError::Unreadable
        })
    }

    fn identity<'a>(&'a self, place: &'a Place) -> Identity<'a> {
        assert_eq!(self.user, *place.user(), "a user's secrets are sealed under their own key");
        Identity {
            purpose: Purpose::Secret,
            store: &self.store,
            master: 0,
            data_key: self.version,
            field: place.field().number(),
            user: &self.user,
            record: place.key(),
        }
    }
}

impl std::fmt::Debug for UserKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UserKey({}, version {})", self.user, self.version)
    }
}

/// Under which master version a data key is; `None` when it was destroyed.
pub(super) fn master_of(record: &DataKeyRecord) -> Result<Option<MasterVersion>, VaultError> {
    let Some(wrapped) = &record.wrapped else { return Ok(None) };
    let version = cipher::key_version(wrapped.as_bytes())?;
    MasterVersion::new(version).map(Some).ok_or(VaultError::Unreadable)
}

impl Vault {
    /// A new data key for a user who has none, or whose last one was destroyed; and its record.
    pub(super) fn new_key(
        &self,
        user: &UserId,
        last: Option<&DataKeyRecord>,
    ) -> Result<(UserKey, DataKeyRecord), VaultError> {
        let version = last.map_or(1, |last| last.version.saturating_add(1));
        let key = UserKey { store: self.inner.id, user: *user, version, bytes: KeyBytes::random()? };
        let wrapped = self.wrap(&key, self.keyring().current())?;
        let record = DataKeyRecord { user: *user, version, wrapped: Some(wrapped), created_ms: unix_ms() };
        Ok((key, record))
    }

    /// Wraps a data key.
    fn wrap(&self, key: &UserKey, master: &MasterKey) -> Result<Sealed, VaultError> {
        let record = Key::data_key(&key.user);
        let identity = self.wrapping(master.version(), &key.user, key.version, &record);
        Ok(Sealed::from_bytes(cipher::seal(master.bytes(), &identity, key.bytes.expose())?))
    }

    /// The data key in a record.
    pub(super) fn unwrap(&self, user: &UserId, record: &DataKeyRecord) -> Result<UserKey, VaultError> {
        let (Some(wrapped), Some(version)) = (&record.wrapped, master_of(record)?) else {
            return Err(VaultError::Destroyed { user: *user });
        };
        let keyring = self.keyring();
        let master = keyring.get(version).ok_or(VaultError::NoMaster { version: version.get() })?;
        let record_key = Key::data_key(user);
        let identity = self.wrapping(version, user, record.version, &record_key);
        let opened = cipher::open(master.bytes(), &identity, wrapped.as_bytes()).inspect_err(|_| {
            self.inner.stats.refused.add(1);
        })?;
        let bytes = KeyBytes::copy_of(&opened).ok_or(VaultError::Unreadable)?;
        self.inner.stats.keys_unwrapped.add(1);
        Ok(UserKey { store: self.inner.id, user: *user, version: record.version, bytes })
    }

    /// The record with its key wrapped under the current master version.
    pub(super) fn wrap_anew(
        &self,
        user: &UserId,
        record: &DataKeyRecord,
    ) -> Result<DataKeyRecord, VaultError> {
        let key = self.unwrap(user, record)?;
        let wrapped = self.wrap(&key, self.keyring().current())?;
        Ok(DataKeyRecord { wrapped: Some(wrapped), ..record.clone() })
    }

    fn wrapping<'a>(
        &'a self,
        master: MasterVersion,
        user: &'a UserId,
        data_key: u32,
        record: &'a Key,
    ) -> Identity<'a> {
        Identity {
            purpose: Purpose::DataKey,
            store: &self.inner.id,
            master: master.get(),
            data_key,
            field: 0,
            user,
            record,
        }
    }

    /// Opens a secret of a user whose key this is, if it is sealed; counts.
    pub(super) fn open_with(
        &self,
        key: &UserKey,
        place: &Place,
        sealed: &Sealed,
    ) -> Result<PlainText, VaultError> {
        self.inner.stats.opened.add(1);
        key.open(place, sealed).inspect_err(|_| self.inner.stats.refused.add(1))
    }

    /// Seals a secret of a user whose key this is; counts.
    pub(super) fn seal_with(
        &self,
        key: &UserKey,
        place: &Place,
        secret: &str,
    ) -> Result<StoredSecret, VaultError> {
        self.inner.stats.sealed.add(1);
        key.seal(place, secret)
    }
}

//! What a data directory remembers of its vault: which store it is, and how its master keys are recognised. No secret.
//!
//! ```text
//! vault.toml   format = 1, store_id = "<32 hexadecimal digits>",
//!              [[master]] version = N, check = "<32 hexadecimal digits>"   for every version that may be in use
//! ```
//! A check value follows from the master key by HKDF, for the store and the version; a key has 256 random bits, so it
//! tells nothing about it. The file is written whole, aside, and renamed. A version stands in it before anything is wrapped under
//! it, until nothing is any more.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::VaultOpenError;
use super::cipher::expand;
use super::hex;
use super::master::{Keyring, MasterKey, MasterVersion};

const FILE: &str = "vault.toml";
const FILE_NEW: &str = "vault.toml.new";
const FORMAT: i64 = 1;
const CHECK_BYTES: usize = 16;

/// Which store it is, bound into everything sealed in it. All nodes that share their data share it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StoreId([u8; 16]);

impl StoreId {
    pub(super) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl std::fmt::Display for StoreId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::of(&self.0))
    }
}

impl std::fmt::Debug for StoreId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoreId({self})")
    }
}

/// The file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) store: StoreId,
    /// Versions that may be in use, oldest first.
    pub(super) masters: Vec<(MasterVersion, [u8; CHECK_BYTES])>,
}

impl State {
    /// A store that begins.
    pub(super) fn new(store: StoreId) -> Self {
        Self { store, masters: Vec::new() }
    }

    /// Reads the file; `None` when there is none.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, VaultOpenError> {
        let path = path(directory);
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text, &path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(VaultOpenError::State { path, reason: "it is no text".to_owned() })
            }
            Err(source) => Err(VaultOpenError::Io { path, source }),
        }
    }

    /// Writes the file; when this returns it is on disk.
    pub(super) fn write(&self, directory: &Path) -> Result<(), VaultOpenError> {
        let new = directory.join(FILE_NEW);
        let write = || -> io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(self.to_text().as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, path(directory))?;
            File::open(directory)?.sync_all()
        };
        write().map_err(|source| VaultOpenError::Io { path: path(directory), source })
    }

    /// Refuses a keyring that is not this store's; gives what is to be remembered with it.
    pub(super) fn admit(&self, keyring: &Keyring, directory: &Path) -> Result<Self, VaultOpenError> {
        for (version, check) in &self.masters {
            let version = *version;
            match keyring.get(version) {
                None => return Err(VaultOpenError::MissingKey { version, given: keyring.listed() }),
                Some(key) if check_value(self.store, key) != *check => {
                    return Err(VaultOpenError::WrongKey { version, path: path(directory) });
                }
                Some(_) => {}
            }
        }
        let mut admitted = self.clone();
        let current = keyring.current();
        // What is neither remembered nor current wraps nothing, so nobody need ask for it at the next start.
        if self.masters.iter().all(|(version, _)| *version != current.version()) {
            admitted.masters.push((current.version(), check_value(self.store, current)));
        }
        Ok(admitted)
    }

    fn to_text(&self) -> String {
        let mut text = format!(
            "# Sluice's vault: which store this is, and how its master keys are recognised. No secret.\n\
             # Keep it with the data: without it nothing that was sealed can be read.\n\
             format = {FORMAT}\nstore_id = \"{}\"\n",
            self.store
        );
        for (version, check) in &self.masters {
            text.push_str(&format!("\n[[master]]\nversion = {version}\ncheck = \"{}\"\n", hex::of(check)));
        }
        text
    }

    fn parse(text: &str, path: &Path) -> Result<Self, VaultOpenError> {
        let damaged =
            |reason: &str| VaultOpenError::State { path: path.to_owned(), reason: reason.to_owned() };
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| damaged(error.message()))?;
        // First of all the format: a newer one may mean anything by the rest.
        match table.get("format").and_then(toml::Value::as_integer) {
            Some(FORMAT) => {}
            Some(found) if found > FORMAT => {
                return Err(VaultOpenError::NewerState { path: path.to_owned(), found });
            }
            _ => return Err(damaged("`format` is missing or no number there ever was")),
        }
        let store = table.get("store_id").and_then(toml::Value::as_str).and_then(hex::array);
        let store =
            StoreId(store.ok_or_else(|| damaged("`store_id` is missing or no 32 hexadecimal digits"))?);
        let mut state = Self::new(store);
        for entry in table.get("master").and_then(toml::Value::as_array).into_iter().flatten() {
            let version = entry.get("version").and_then(toml::Value::as_integer);
            let version = version.and_then(|number| u32::try_from(number).ok()).and_then(MasterVersion::new);
            let check = entry.get("check").and_then(toml::Value::as_str).and_then(hex::array);
            match (version, check) {
                (Some(version), Some(check)) => state.masters.push((version, check)),
                _ => return Err(damaged("a `[[master]]` lacks its `version` or its `check`")),
            }
        }
        if state.masters.is_empty() || !state.masters.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(damaged("there is no `[[master]]`, or they are not in order"));
        }
        Ok(state)
    }
}

pub(super) fn path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

fn check_value(store: StoreId, key: &MasterKey) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    let version = key.version().get().to_be_bytes();
    expand(key.bytes(), &store.0, &[b"sluice vault check", &version], &mut check);
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let admit = |state: State, versions: &[u32]| {
            state.admit(&Keyring::of_versions(versions), Path::new("/data")).unwrap()
        };
        admit(admit(State::new(StoreId([9; 16])), &[1]), &[1, 4])
    }

    #[test]
    fn the_file_reads_back_as_written() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(State::read(directory.path()).unwrap(), None);
        state().write(directory.path()).unwrap();
        assert_eq!(State::read(directory.path()).unwrap(), Some(state()));
    }

    #[test]
    fn check_values_differ_by_store_and_version_and_tell_no_key() {
        let keyring = Keyring::of_versions(&[1, 2]);
        let check = |store: u8, version| {
            check_value(StoreId([store; 16]), keyring.get(MasterVersion::new(version).unwrap()).unwrap())
        };
        assert_ne!(check(1, 1), check(2, 1));
        assert_ne!(check(1, 1), check(1, 2));
        assert_eq!(check(1, 1), check(1, 1));
    }

    #[test]
    fn another_key_and_a_missing_one_are_told_apart() {
        let (state, directory) = (state(), Path::new("/data"));
        let admit = |versions: &[u32]| state.admit(&Keyring::of_versions(versions), directory);
        assert_eq!(admit(&[1, 4]).unwrap(), state);
        let grown = admit(&[1, 3, 4, 5]).unwrap();
        let versions: Vec<_> = grown.masters.iter().map(|(version, _)| version.get()).collect();
        assert_eq!(versions, [1, 4, 5], "version 3 wraps nothing");
        assert_eq!(grown.masters[..2], state.masters[..]);
        let error = admit(&[4, 5]).unwrap_err();
        assert!(matches!(error, VaultOpenError::MissingKey { version, .. } if version.get() == 1), "{error}");
        let error = state.admit(&Keyring::random_of_versions(&[1, 4]), directory).unwrap_err();
        assert!(matches!(&error, VaultOpenError::WrongKey { version, .. } if version.get() == 1), "{error}");
        assert!(error.to_string().contains("/data/vault.toml"), "{error}");
    }

    #[test]
    fn a_damaged_file_says_what_is_wrong_with_it() {
        let good = state().to_text();
        for (text, says) in [
            (String::new(), "`format`"),
            (good.replace("format = 1", "format = 0"), "`format`"),
            (good.replace("format = 1", "format = 2"), "newer"),
            (good.replace("store_id = \"09", "store_id = \"0"), "`store_id`"),
            (good.replace("version = 4", "version = 0"), "`version`"),
            (good.replace("version = 4", "version = 1"), "in order"),
            (good.replace("check = \"", "check = \"x"), "`check`"),
            ("format = 1\nstore_id = \"".to_owned() + &"0".repeat(32) + "\"", "`[[master]]`"),
        ] {
            let error = State::parse(&text, Path::new("/data/vault.toml")).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("/data/vault.toml"), "{text:?}: {error}");
        }
    }
}

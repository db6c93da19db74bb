//! Master keys: what wraps the users' data keys. They come from outside the data directory and are never written to it.
//!
//! ```text
//! keyring := entries parted by commas or line ends; blanks, empty entries and what follows a # are passed over
//! entry   := version (1 to 4294967295) ":" 64 hexadecimal digits
//! ```
//! The highest version is the current one: it wraps what is new. The others stay readable.

use std::fmt;
use std::num::NonZeroU32;

use zeroize::Zeroizing;

use super::VaultError;
use super::cipher::{CipherError, KEY_BYTES, KeyBytes};
use super::hex;

/// Versions a keyring may hold: a rotation needs two, and one that is a year behind needs a few.
pub const MASTERS_MAX: usize = 32;

/// Which master key: a higher number is a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MasterVersion(NonZeroU32);

impl MasterVersion {
    /// Version `number`, from 1.
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for MasterVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a text is no keyring. Quotes nothing of it but versions and line numbers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// Make one: `sluice vault keygen`.
    #[error("there is no key in it: it should have lines like 1:<64 hexadecimal digits>")]
    Empty,
    /// Mend the entry.
    #[error("entry {entry} is no VERSION:KEY, a number from 1 and 64 hexadecimal digits")]
    Entry { entry: usize },
    /// Leave one of them out.
    #[error("version {version} is there twice")]
    Twice { version: MasterVersion },
    /// Take a random one: `sluice vault keygen`.
    #[error("the key of version {version} repeats one byte: it was not made at random")]
    Weak { version: MasterVersion },
    /// Leave out those that nothing uses any more: `sluice vault forget`.
    #[error("it has {found} keys; allowed are {MASTERS_MAX}")]
    TooMany { found: usize },
    /// No version is left above the highest.
    #[error("there is no version above {version}")]
    Last { version: MasterVersion },
    /// The host gives no random bytes; nothing can be made without them.
    #[error("the host has no random source")]
    Random,
}

/// One master key. Wiped when dropped.
pub(super) struct MasterKey {
    version: MasterVersion,
    bytes: KeyBytes,
}

impl MasterKey {
    pub(super) fn version(&self) -> MasterVersion {
        self.version
    }

    pub(super) fn bytes(&self) -> &KeyBytes {
        &self.bytes
    }
}

/// The master keys at hand: at least one. Wiped when dropped.
pub struct Keyring {
    /// By version, oldest first.
    keys: Vec<MasterKey>,
}

impl Keyring {
    /// A keyring of one new key, version 1.
    ///
    /// # Errors
    /// [`KeyringError::Random`].
    pub fn generate() -> Result<Self, KeyringError> {
        let version = MasterVersion(NonZeroU32::MIN);
        Ok(Self { keys: vec![MasterKey { version, bytes: random()? }] })
    }

    /// Adds a new key, which is current from then on; gives its version.
    ///
    /// # Errors
    /// [`KeyringError::Random`], [`KeyringError::TooMany`], [`KeyringError::Last`].
    pub fn add(&mut self) -> Result<MasterVersion, KeyringError> {
        let current = self.current().version;
        if self.keys.len() == MASTERS_MAX {
            return Err(KeyringError::TooMany { found: MASTERS_MAX + 1 });
        }
        let version = MasterVersion(current.0.checked_add(1).ok_or(KeyringError::Last { version: current })?);
        self.keys.push(MasterKey { version, bytes: random()? });
        Ok(version)
    }

    /// Reads a keyring as [`Self::to_text`] writes it.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub fn parse(text: &str) -> Result<Self, KeyringError> {
        let mut keys: Vec<MasterKey> = Vec::new();
        let entries = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default())
            .flat_map(|line| line.split(','))
            .map(str::trim)
            .filter(|entry| !entry.is_empty());
        for (entry, text) in (1..).zip(entries) {
            let key = parse_entry(text).ok_or(KeyringError::Entry { entry })?;
            let version = key.version;
            if keys.iter().any(|other| other.version == version) {
                return Err(KeyringError::Twice { version });
            }
            let bytes = key.bytes.expose();
            if bytes.iter().all(|byte| *byte == bytes[0]) {
                return Err(KeyringError::Weak { version });
            }
            keys.push(key);
        }
        match keys.len() {
            0 => Err(KeyringError::Empty),
            found if found > MASTERS_MAX => Err(KeyringError::TooMany { found }),
            _ => {
                keys.sort_unstable_by_key(|key| key.version);
                Ok(Self { keys })
            }
        }
    }

    /// The keys themselves, for the one file they are kept in.
    pub fn to_text(&self) -> Zeroizing<String> {
        // As long as it gets from the start: growing would leave copies behind.
        let mut text = Zeroizing::new(String::with_capacity(self.keys.len() * (10 + 1 + 2 * KEY_BYTES + 1)));
        for key in &self.keys {
            text.push_str(&key.version.to_string());
            text.push(':');
            text.push_str(&Zeroizing::new(hex::of(key.bytes.expose())));
            text.push('\n');
        }
        text
    }

    /// The version that wraps what is new.
    pub fn current_version(&self) -> MasterVersion {
        self.current().version
    }

    /// The versions, oldest first.
    pub fn versions(&self) -> impl Iterator<Item = MasterVersion> + '_ {
        self.keys.iter().map(|key| key.version)
    }

    #[cfg(test)]
    pub(super) fn keys(&self) -> impl Iterator<Item = &MasterKey> {
        self.keys.iter()
    }

    pub(super) fn current(&self) -> &MasterKey {
        self.keys.last().expect("a keyring has a key")
    }

    pub(super) fn get(&self, version: MasterVersion) -> Option<&MasterKey> {
        self.keys.iter().find(|key| key.version == version)
    }

    /// The versions as people read them.
    pub(super) fn listed(&self) -> String {
        self.versions().map(|version| version.to_string()).collect::<Vec<_>>().join(", ")
    }

    /// Keys that any test can make again.
    #[cfg(test)]
    pub(super) fn of_versions(versions: &[u32]) -> Self {
        let key = |version: &u32| {
            let mut bytes = [0x5a; KEY_BYTES];
            bytes[..4].copy_from_slice(&version.to_be_bytes());
            let version = MasterVersion::new(*version).unwrap();
            MasterKey { version, bytes: KeyBytes::copy_of(&bytes).unwrap() }
        };
        Self { keys: versions.iter().map(key).collect() }
    }

    #[cfg(test)]
    pub(super) fn random_of_versions(versions: &[u32]) -> Self {
        let key = |version: &u32| MasterKey {
            version: MasterVersion::new(*version).unwrap(),
            bytes: KeyBytes::random().unwrap(),
        };
        Self { keys: versions.iter().map(key).collect() }
    }
}

impl fmt::Debug for Keyring {
    /// Tells the versions alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({})", self.listed())
    }
}

fn random() -> Result<KeyBytes, KeyringError> {
    KeyBytes::random().map_err(|_| KeyringError::Random)
}

fn parse_entry(text: &str) -> Option<MasterKey> {
    let (version, digits) = text.split_once(':')?;
    // `parse` would take a sign as well.
    let version = version.trim();
    let version = version.bytes().all(|digit| digit.is_ascii_digit()).then(|| version.parse().ok())??;
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    if !hex::read(digits.trim(), &mut bytes[..]) {
        return None;
    }
    Some(MasterKey { version: MasterVersion::new(version)?, bytes: KeyBytes::copy_of(&bytes[..])? })
}

impl From<CipherError> for VaultError {
    fn from(error: CipherError) -> Self {
        match error {
            CipherError::Random => Self::Random,
            CipherError::Format { found } => Self::Newer { found },
            CipherError::Refused => Self::Unreadable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyring_reads_back_as_written_and_the_highest_version_is_current() {
        let mut keyring = Keyring::generate().unwrap();
        assert_eq!(keyring.add().unwrap().get(), 2);
        let again = Keyring::parse(&keyring.to_text()).unwrap();
        assert_eq!((again.listed(), again.current_version().get()), ("1, 2".to_owned(), 2));
        for (key, other) in keyring.keys().zip(again.keys()) {
            assert_eq!(key.bytes().expose(), other.bytes().expose());
        }
    }

    #[test]
    fn a_keyring_may_be_one_line_or_have_remarks() {
        let (one, two) = ("01".repeat(31) + "02", "A3".repeat(31) + "a4");
        let line = Keyring::parse(&format!("7:{one},2:{two}")).unwrap();
        let lines = Keyring::parse(&format!("# ours\n\n 2 : {two} # old\n7:{one}\n")).unwrap();
        assert_eq!((line.listed(), lines.listed()), ("2, 7".to_owned(), "2, 7".to_owned()));
        assert_eq!(line.current().bytes().expose(), lines.current().bytes().expose());
    }

    #[test]
    fn what_is_no_keyring_is_refused_without_quoting_it() {
        let key = "0123456789abcdef".repeat(4);
        let secret = "5ec4e7";
        for (text, says) in [
            (String::new(), "no key"),
            (" , \n# 1:00".to_owned(), "no key"),
            (key.clone(), "entry 1"),
            (format!("1:{key}\n2:{secret}"), "entry 2"),
            (format!("0:{key}"), "entry 1"),
            (format!("+1:{key}"), "entry 1"),
            (format!(":{key}"), "entry 1"),
            (format!("1:{key}00"), "entry 1"),
            (format!("1:{}", key.replace('f', "g")), "entry 1"),
            (format!("1:{}", "ä".repeat(32)), "entry 1"),
            (format!("1:{key},1:{key}"), "twice"),
            (format!("1:{}", "00".repeat(32)), "repeats one byte"),
            ((1..=33).map(|version| format!("{version}:{key}\n")).collect(), "33 keys"),
        ] {
            let error = Keyring::parse(&text).unwrap_err().to_string();
            assert!(error.contains(says), "{text:?}: {error}");
            assert!(!error.contains("0123") && !error.contains(secret), "{error}");
        }
    }

    #[test]
    fn a_keyring_grows_to_its_bound_and_shows_no_key() {
        let mut keyring = Keyring::generate().unwrap();
        while keyring.add().is_ok() {}
        assert_eq!(keyring.versions().count(), MASTERS_MAX);
        let shown = format!("{keyring:?}");
        for key in keyring.keys() {
            assert!(!shown.contains(&hex::of(key.bytes().expose())));
        }
        let last = Keyring::parse(&format!("4294967295:{}", "0123456789abcdef".repeat(4))).unwrap();
        assert!(matches!({ last }.add(), Err(KeyringError::Last { .. })));
    }
}

//! Where the master keys come from: a file, a credential of systemd's, or the environment; never the data directory.
//!
//! A copy of the data directory must not hold what opens it, so a key in it is refused, whatever links lead there. A file that
//! others may read is refused as well.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sluice_store::vault::{Keyring, MASTERS_MAX, MasterVersion};
use zeroize::Zeroizing;

use crate::config::{Config, Secret};

/// What systemd calls the directory of a unit's credentials (systemd.exec(5)).
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";
/// Longest file read: remarks included, many times what the keys need.
const FILE_BYTES_MAX: u64 = 64 << 10;
const _: () = assert!(FILE_BYTES_MAX > MASTERS_MAX as u64 * 100);
/// Bits of a mode that let others than the owner do anything.
const FOR_OTHERS: u32 = 0o077;
/// The same for a credential: where a unit runs as another user, systemd lets it in by an access list, which shows as the
/// group's bits.
const CREDENTIAL_FOR_OTHERS: u32 = 0o007;

/// The places where master keys may be, by configuration.
#[derive(Clone, Debug)]
pub(crate) struct KeySource {
    data: PathBuf,
    file: Option<PathBuf>,
    credential: String,
    keys: Secret,
    credentials: Option<PathBuf>,
}

impl KeySource {
    /// As configured, and as the environment says.
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            data: config.server.data_dir.clone(),
            file: config.vault.key_file.get().map(Path::to_owned),
            credential: config.vault.credential.clone(),
            keys: config.vault.keys.clone(),
            credentials: std::env::var_os(CREDENTIALS_VARIABLE).map(PathBuf::from),
        }
    }

    /// The files they may be read from, now and whenever they are taken anew.
    pub(crate) fn files(&self) -> impl Iterator<Item = PathBuf> {
        self.file.clone().into_iter().chain(self.credential_file())
    }

    /// Reads the master keys.
    ///
    /// # Errors
    /// There are none, or they are where or what they must not be.
    pub(crate) fn read(&self) -> anyhow::Result<Keyring> {
        if let Some(path) = &self.file {
            return read(path, &self.data, FOR_OTHERS).context("vault.key_file");
        }
        if let Some(text) = self.keys.expose() {
            return Keyring::parse(text).context("vault.keys");
        }
        if let Some(path) = self.credential_file().filter(|path| path.exists()) {
            return read(&path, &self.data, CREDENTIAL_FOR_OTHERS).context("the credential vault.credential");
        }
        bail!(
            "there is no master key for the vault, which seals users' tokens: make one with `sluice vault keygen --out \
             FILE`, outside the data directory, keep a copy of it apart from copies of the data, and name it in \
             vault.key_file; or give it as the systemd credential {:?} or in SLUICE_VAULT__KEYS",
            self.credential
        )
    }

    fn credential_file(&self) -> Option<PathBuf> {
        let directory = self.credentials.as_ref()?;
        (!self.credential.is_empty()).then(|| directory.join(&self.credential))
    }
}

fn read(path: &Path, data: &Path, for_others: u32) -> anyhow::Result<Keyring> {
    // What is opened is the path without links that was looked at.
    let real = fs::canonicalize(path).with_context(|| format!("cannot read {}", path.display()))?;
    refuse_within(&real, path, data)?;
    let file = File::open(&real).with_context(|| format!("cannot read {}", path.display()))?;
    let metadata = file.metadata().with_context(|| format!("cannot read {}", path.display()))?;
    if !metadata.is_file() {
        bail!("{} is no file", path.display());
    }
    let mode = metadata.mode() & 0o777;
    if mode & for_others != 0 {
        bail!("{0} may be read or written by others (mode {mode:03o}): chmod 600 {0}", path.display());
    }
    let text = read_text(file).with_context(|| format!("cannot read {}", path.display()))?;
    Keyring::parse(&text).with_context(|| path.display().to_string())
}

fn read_text(file: File) -> std::io::Result<Zeroizing<String>> {
    let bytes = file.metadata()?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it has {bytes} bytes; allowed are {FILE_BYTES_MAX}")));
    }
    // As long as it gets from the start, and a byte for the reader to find the end: growing would leave copies behind.
    let capacity = usize::try_from(bytes).unwrap_or_default() + 1;
    let mut text = Zeroizing::new(String::with_capacity(capacity));
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// `real` is without links; `path` is how it was named.
fn refuse_within(real: &Path, path: &Path, data: &Path) -> anyhow::Result<()> {
    let data_real = match fs::canonicalize(data) {
        Ok(data) => data,
        // What is not there yet holds nothing, but it may come to lie around the key.
        Err(error) if error.kind() == ErrorKind::NotFound => absolute(data)?,
        Err(error) => return Err(error).with_context(|| format!("cannot look at {}", data.display())),
    };
    if real.starts_with(&data_real) {
        bail!(
            "{} is in the data directory {}: keep master keys elsewhere, or every copy of the data holds what opens it",
            path.display(),
            data.display()
        );
    }
    Ok(())
}

/// A path that does not exist yet, without the links of what does.
fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    let whole = std::path::absolute(path)?;
    for parent in whole.ancestors() {
        if let Ok(real) = fs::canonicalize(parent) {
            return Ok(real.join(whole.strip_prefix(parent)?));
        }
    }
    Ok(whole)
}

/// Makes a file with a new master key, or adds one to a file that is there; gives its version.
///
/// # Errors
/// The file is in the data directory, is there (or is not), or cannot be written; it is then as it was.
pub(crate) fn generate(path: &Path, add: bool, data: &Path) -> anyhow::Result<MasterVersion> {
    refuse_within(&absolute(path)?, path, data)?;
    let keyring = if add {
        let mut keyring = read(path, data, FOR_OTHERS)?;
        keyring.add()?;
        keyring
    } else {
        Keyring::generate()?
    };
    let unwritten = || format!("cannot write {}", path.display());
    if add {
        // Where it stands: a link may lead there. Written aside and renamed, so that there is always a whole one.
        let real = fs::canonicalize(path).with_context(unwritten)?;
        let mut aside = real.file_name().unwrap_or_default().to_owned();
        aside.push(".new");
        let aside = real.with_file_name(aside);
        write_new(&aside, &keyring).and_then(|()| fs::rename(&aside, &real)).with_context(unwritten)?;
        sync_parent(&real).with_context(unwritten)?;
    } else {
        match write_new(path, &keyring) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!("{} is there already: add a newer version to it with --add", path.display())
            }
            written => written.with_context(unwritten)?,
        }
        sync_parent(path).with_context(unwritten)?;
    }
    Ok(keyring.current_version())
}

fn write_new(path: &Path, keyring: &Keyring) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(keyring.to_text().as_bytes())?;
    file.sync_all()
}

fn sync_parent(path: &Path) -> std::io::Result<()> {
    // A bare name's parent is the empty path.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().expect("a directory"));
            fs::create_dir(place.path("data")).expect("made");
            place
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn source(&self, file: Option<&str>) -> KeySource {
            KeySource {
                data: self.path("data"),
                file: file.map(|name| self.path(name)),
                credential: "keys".to_owned(),
                keys: Secret::default(),
                credentials: None,
            }
        }

        fn refused(&self, file: &str) -> String {
            format!("{:#}", self.source(Some(file)).read().expect_err("refused"))
        }
    }

    #[test]
    fn a_file_is_made_for_its_owner_alone_and_grows_by_versions() {
        let place = Place::new();
        let (file, data) = (place.path("keys"), place.path("data"));
        assert_eq!(generate(&file, false, &data).expect("made").get(), 1);
        let first = fs::read_to_string(&file).expect("there");
        assert_eq!(fs::metadata(&file).expect("there").mode() & 0o777, 0o600);
        let again = format!("{:#}", generate(&file, false, &data).expect_err("refused"));
        assert!(again.contains("--add"), "{again}");
        assert_eq!(fs::read_to_string(&file).expect("there"), first);
        assert_eq!(generate(&file, true, &data).expect("added").get(), 2);
        let both = fs::read_to_string(&file).expect("there");
        assert!(both.starts_with(&first) && both.lines().count() == 2);
        assert_eq!(fs::metadata(&file).expect("there").mode() & 0o777, 0o600);
        let keyring = place.source(Some("keys")).read().expect("read");
        assert_eq!(keyring.versions().map(MasterVersion::get).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_key_in_the_data_directory_is_refused_however_it_is_reached() {
        let place = Place::new();
        let data = place.path("data");
        fs::create_dir(data.join("deep")).expect("made");
        for name in ["data/keys", "data/deep/keys"] {
            let error = format!("{:#}", generate(&place.path(name), false, &data).expect_err("refused"));
            assert!(error.contains("in the data directory") && !place.path(name).exists(), "{error}");
        }
        generate(&place.path("keys"), false, &data).expect("made");
        fs::copy(place.path("keys"), data.join("deep/keys")).expect("copied");
        symlink(data.join("deep/keys"), place.path("link")).expect("linked");
        symlink(data.join("deep"), place.path("way")).expect("linked");
        symlink(&data, place.path("other-data")).expect("linked");
        for name in ["data/deep/keys", "link", "way/keys", "data/../data/deep/keys", "other-data/deep/keys"] {
            assert!(place.refused(name).contains("in the data directory"), "{name}");
        }
        // The data directory itself may be named by a link.
        let mut source = place.source(Some("data/deep/keys"));
        source.data = place.path("other-data");
        assert!(source.read().is_err());
        // One that begins alike is another.
        fs::create_dir(place.path("database")).expect("made");
        fs::rename(place.path("keys"), place.path("database/keys")).expect("moved");
        assert!(place.source(Some("database/keys")).read().is_ok());
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_with_what_to_do() {
        let place = Place::new();
        generate(&place.path("keys"), false, &place.path("data")).expect("made");
        for mode in [0o640, 0o604, 0o620, 0o666] {
            fs::set_permissions(place.path("keys"), fs::Permissions::from_mode(mode)).expect("set");
            let error = place.refused("keys");
            assert!(error.contains(&format!("{mode:03o}")) && error.contains("chmod 600"), "{error}");
        }
        fs::set_permissions(place.path("keys"), fs::Permissions::from_mode(0o400)).expect("set");
        assert!(place.source(Some("keys")).read().is_ok());
        assert!(place.refused("none").contains("cannot read"));
        assert!(place.refused("data/..").contains("is no file"));
    }

    #[test]
    fn the_file_comes_before_the_environment_and_that_before_the_credential() {
        let place = Place::new();
        let data = place.path("data");
        let none = format!("{:#}", place.source(None).read().expect_err("refused"));
        assert!(none.contains("sluice vault keygen") && none.contains("vault.key_file"), "{none}");
        fs::create_dir(place.path("credentials")).expect("made");
        let mut source = KeySource { credentials: Some(place.path("credentials")), ..place.source(None) };
        assert!(source.read().is_err(), "there is no such credential");
        for _ in 0..3 {
            let path = place.path("credentials/keys");
            generate(&path, path.exists(), &data).expect("made");
        }
        // As systemd shows one that an access list opens to the unit's user.
        let shown = fs::Permissions::from_mode(0o440);
        fs::set_permissions(place.path("credentials/keys"), shown).expect("set");
        let current = |source: &KeySource| source.read().expect("read").current_version().get();
        assert_eq!(current(&source), 3);
        let mut keyring = Keyring::generate().expect("made");
        keyring.add().expect("added");
        source.keys = Secret::from_text(&keyring.to_text());
        assert_eq!(current(&source), 2);
        generate(&place.path("keys"), false, &data).expect("made");
        source.file = Some(place.path("keys"));
        assert_eq!(current(&source), 1);
        source.file = Some(place.path("elsewhere"));
        assert!(source.read().is_err(), "a file that is missing is not passed over");
    }

    #[test]
    fn what_is_wrong_in_a_file_is_told_without_its_text() {
        let place = Place::new();
        fs::write(place.path("keys"), "1:5ec4e7\n").expect("written");
        fs::set_permissions(place.path("keys"), fs::Permissions::from_mode(0o600)).expect("set");
        let error = place.refused("keys");
        assert!(error.contains("entry 1") && !error.contains("5ec4e7"), "{error}");
    }
}

//! The node's own secret, in the data directory: what it signs with, such as the cursors of lists.
//!
//! Invariants: the file is there whole or not at all, only its owner may read it, and a damaged one is refused rather than
//! replaced: replacing it is the operator's choice, for it ends everything that was signed.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context;
use sluice_protocols::hex;

const FILE: &str = "node.secret";
const FILE_NEW: &str = "node.secret.new";
const SECRET_BYTES: usize = 32;

/// Reads the secret of a data directory that this process has locked, or makes it.
///
/// # Errors
/// The file cannot be read or written, or is damaged.
pub(crate) fn read_or_make(directory: &Path) -> anyhow::Result<[u8; SECRET_BYTES]> {
    let path = directory.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => parse(text.trim()).with_context(|| {
            format!("{} is damaged: restore it, or remove it to get a new one", path.display())
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            make(directory).with_context(|| format!("cannot write {}", path.display()))
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn parse(text: &str) -> anyhow::Result<[u8; SECRET_BYTES]> {
    hex::decode(text).with_context(|| format!("it does not have {} hexadecimal digits", 2 * SECRET_BYTES))
}

fn make(directory: &Path) -> anyhow::Result<[u8; SECRET_BYTES]> {
    let mut secret = [0; SECRET_BYTES];
    getrandom::fill(&mut secret)?;
    let digits = hex::encode(&secret);
    let new = directory.join(FILE_NEW);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    writeln!(file, "{digits}")?;
    file.sync_all()?;
    fs::rename(&new, directory.join(FILE))?;
    File::open(directory)?.sync_all()?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_is_made_once_for_its_owner_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let secret = read_or_make(directory.path()).expect("made");
        assert_eq!(read_or_make(directory.path()).expect("read"), secret);
        let mode = fs::metadata(directory.path().join(FILE)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = tempfile::tempdir().expect("a directory");
        assert_ne!(read_or_make(other.path()).expect("made"), secret);
    }

    #[test]
    fn a_damaged_secret_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        for text in ["", "00", &"x".repeat(64), &"0".repeat(65), &format!("+1{}", "0".repeat(62))] {
            fs::write(directory.path().join(FILE), text).expect("written");
            let error = read_or_make(directory.path()).expect_err("refused");
            assert!(format!("{error:#}").contains("node.secret is damaged"), "{error:#}");
            assert_eq!(fs::read_to_string(directory.path().join(FILE)).expect("there"), text);
        }
    }
}

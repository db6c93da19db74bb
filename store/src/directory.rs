//! The data directory: what makes it ours, who uses it, and when it is refused.
//!
//! ```text
//! SLUICE    marker, TOML: format = 1, shard_count = N, created_ms = T
//! LOCK      held by flock while in use; says the process id of who holds it (or held it last)
//! db/       the RocksDB
//! db.new/   a RocksDB being made; while there is no marker it holds nothing of value
//! ```
//! A directory is made in an order that can stop anywhere: `db.new` whole, then the marker (written aside, synced,
//! renamed, the directory synced), then `db.new` renamed to `db`. So a marker without `db` but with `db.new` only
//! wants the last step, and `db.new` without a marker is made anew.
//!
//! Invariants:
//! - a directory that holds something, but nothing of ours, is not touched;
//! - nothing in the directory is read or written without the lock, the look at its names aside;
//! - the marker never changes once it is there.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sluice_protocols::ids::ShardCount;

use crate::database::Database;

/// The layout this version reads and writes.
pub const FORMAT: u32 = 1;

const MARKER: &str = "SLUICE";
const MARKER_NEW: &str = "SLUICE.new";
const LOCK: &str = "LOCK";
const DATABASE: &str = "db";
const DATABASE_NEW: &str = "db.new";

/// Longest marker read, in bytes; ours has some hundred.
const MARKER_BYTES_MAX: u64 = 4_096;

/// Why a data directory cannot be opened. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "{path} is not empty and is no Sluice data directory (it has no file `{MARKER}`): name an empty directory or \
         one that Sluice made"
    )]
    NotSluice { path: PathBuf },
    #[error("{path} is not a directory: name a directory for the data")]
    NotDirectory { path: PathBuf },
    #[error(
        "{path} was made by a newer Sluice (format {found}, this version reads {FORMAT}): run that version"
    )]
    NewerFormat { path: PathBuf, found: u32 },
    #[error("{path} was made with {made} shards for good, but {configured} are configured: configure {made}")]
    ShardCount { path: PathBuf, made: u16, configured: u16 },
    #[error(
        "{path} is in use by process {}: stop it first, or name another directory",
        .pid.map_or_else(|| "(unknown)".to_owned(), |pid| pid.to_string())
    )]
    Locked { path: PathBuf, pid: Option<u32> },
    #[error(
        "{path} has the marker of a Sluice data directory, but its database (`{DATABASE}`) is missing: restore it"
    )]
    MissingDatabase { path: PathBuf },
    #[error("the marker {path} is damaged ({reason}): restore it")]
    CorruptMarker { path: PathBuf, reason: String },
    #[error("{path} is not writable by this user ({source}): give it the rights, or run as its owner")]
    NotWritable { path: PathBuf, source: io::Error },
    #[error("the database {path} cannot be opened: {reason}")]
    Database { path: PathBuf, reason: String },
    #[error("{setting} is out of bounds: allowed is {allowed}")]
    Setting { setting: &'static str, allowed: String },
    #[error("the storage threads cannot be started: {source}")]
    Threads { source: io::Error },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// A data directory that this process has locked. Unlocked when dropped.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Locks the directory, or makes it when it is missing or empty, and checks that it fits.
    pub(crate) fn open(path: &Path, shard_count: ShardCount) -> Result<Self, OpenError> {
        fs::create_dir_all(path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                OpenError::NotDirectory { path: path.to_owned() }
            }
            _ => io_error(path, source),
        })?;
        refuse_foreign(path)?;
        let directory = Self { path: path.to_owned(), _lock: lock(path)? };
        // Who held the lock before may have made the directory meanwhile.
        refuse_foreign(path)?;
        match read_marker(&path.join(MARKER))? {
            Some(marker) => directory.check(&marker, shard_count)?,
            None => directory.make(shard_count)?,
        }
        Ok(directory)
    }

    pub(crate) fn database_path(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    fn check(&self, marker: &Marker, shard_count: ShardCount) -> Result<(), OpenError> {
        if marker.shard_count != shard_count {
            let (made, configured) = (marker.shard_count.get(), shard_count.get());
            return Err(OpenError::ShardCount { path: self.path.clone(), made, configured });
        }
        let database = self.database_path();
        if database.join("CURRENT").exists() {
            return Ok(());
        }
        if !database.exists() && self.path.join(DATABASE_NEW).exists() {
            return self.finish();
        }
        Err(OpenError::MissingDatabase { path: self.path.clone() })
    }

    fn make(&self, shard_count: ShardCount) -> Result<(), OpenError> {
        let new = self.path.join(DATABASE_NEW);
        if new.exists() {
            fs::remove_dir_all(&new).map_err(|source| io_error(&new, source))?;
        }
        Database::create(&new, shard_count)
            .map_err(|error| OpenError::Database { path: new.clone(), reason: error.into_string() })?;
        sync_directory(&new)?;
        self.write_marker(&Marker { shard_count, created_ms: unix_ms() })?;
        self.finish()
    }

    fn finish(&self) -> Result<(), OpenError> {
        let new = self.path.join(DATABASE_NEW);
        fs::rename(&new, self.database_path()).map_err(|source| io_error(&new, source))?;
        sync_directory(&self.path)
    }

    fn write_marker(&self, marker: &Marker) -> Result<(), OpenError> {
        let new = self.path.join(MARKER_NEW);
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(marker.to_text().as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, self.path.join(MARKER))
        };
        write().map_err(|source| io_error(&new, source))?;
        sync_directory(&self.path)
    }
}

/// Where the database of the directory at `path` is, and how many shards it has, without a lock: for reading alone.
pub(crate) fn look(path: &Path) -> Result<(ShardCount, PathBuf), OpenError> {
    let marker = read_marker(&path.join(MARKER))?;
    let marker = marker.ok_or_else(|| OpenError::NotSluice { path: path.to_owned() })?;
    let database = path.join(DATABASE);
    if !database.join("CURRENT").exists() {
        return Err(OpenError::MissingDatabase { path: path.to_owned() });
    }
    Ok((marker.shard_count, database))
}

/// What the marker says.
#[derive(Debug, PartialEq, Eq)]
struct Marker {
    shard_count: ShardCount,
    created_ms: u64,
}

impl Marker {
    fn to_text(&self) -> String {
        format!(
            "# Sluice data directory. Do not edit: shard_count is fixed for good.\n\
             format = {FORMAT}\nshard_count = {}\ncreated_ms = {}\n",
            self.shard_count.get(),
            self.created_ms
        )
    }

    fn parse(path: &Path, text: &str) -> Result<Self, OpenError> {
        let corrupt = |reason: String| OpenError::CorruptMarker { path: path.to_owned(), reason };
        let table: toml::Table =
            text.parse().map_err(|error: toml::de::Error| corrupt(error.message().to_owned()))?;
        let number = |key: &str| {
            let value =
                table.get(key).and_then(toml::Value::as_integer).and_then(|value| u64::try_from(value).ok());
            value.ok_or_else(|| corrupt(format!("`{key}` is missing or no number")))
        };
        // First of all the format: a newer one may mean anything by the rest.
        let format =
            u32::try_from(number("format")?).map_err(|_| corrupt("`format` is out of bounds".to_owned()))?;
        if format > FORMAT {
            let path = path.parent().unwrap_or(path).to_owned();
            return Err(OpenError::NewerFormat { path, found: format });
        }
        if format == 0 {
            return Err(corrupt("there never was a format 0".to_owned()));
        }
        let shard_count = u16::try_from(number("shard_count")?).ok().and_then(ShardCount::new);
        let shard_count = shard_count.ok_or_else(|| corrupt("`shard_count` is out of bounds".to_owned()))?;
        Ok(Self { shard_count, created_ms: number("created_ms")? })
    }
}

fn read_marker(path: &Path) -> Result<Option<Marker>, OpenError> {
    let mut text = String::new();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error(path, source)),
    };
    match file.take(MARKER_BYTES_MAX).read_to_string(&mut text) {
        Ok(_) => Marker::parse(path, &text).map(Some),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(OpenError::CorruptMarker { path: path.to_owned(), reason: "it is no text".to_owned() })
        }
        Err(source) => Err(io_error(path, source)),
    }
}

/// Refuses a directory without a marker that holds anything but what a making cut short leaves.
fn refuse_foreign(path: &Path) -> Result<(), OpenError> {
    let mut foreign = false;
    for entry in fs::read_dir(path).map_err(|source| io_error(path, source))? {
        let name = entry.map_err(|source| io_error(path, source))?.file_name();
        if name == MARKER {
            return Ok(());
        }
        foreign |= name != LOCK && name != MARKER_NEW && name != DATABASE_NEW;
    }
    if foreign { Err(OpenError::NotSluice { path: path.to_owned() }) } else { Ok(()) }
}

fn lock(directory: &Path) -> Result<File, OpenError> {
    let path = directory.join(LOCK);
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = open.map_err(|source| io_error(&path, source))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(OpenError::Locked { path: directory.to_owned(), pid: read_pid(&file) });
        }
        Err(TryLockError::Error(source)) => return Err(io_error(&path, source)),
    }
    let note = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    note.map_err(|source| io_error(&path, source))?;
    Ok(file)
}

/// Who holds the lock, if that has been written yet.
fn read_pid(file: &File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn sync_directory(path: &Path) -> Result<(), OpenError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|source| io_error(path, source))
}

fn io_error(path: &Path, source: io::Error) -> OpenError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            OpenError::NotWritable { path, source }
        }
        _ => OpenError::Io { path, source },
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Marker, OpenError> {
        Marker::parse(Path::new("/data/SLUICE"), text)
    }

    #[test]
    fn a_marker_reads_back_as_written() {
        let marker = Marker { shard_count: ShardCount::new(256).unwrap(), created_ms: 1_763_900_000_123 };
        assert_eq!(parse(&marker.to_text()).unwrap(), marker);
    }

    #[test]
    fn a_newer_format_is_refused_before_anything_else_is_read() {
        let error = parse("format = 2\nshards = \"many\"").unwrap_err();
        assert!(matches!(&error, OpenError::NewerFormat { found: 2, path } if path == Path::new("/data")));
    }

    #[test]
    fn a_damaged_marker_says_what_is_wrong_with_it() {
        for (text, says) in [
            ("", "`format` is missing"),
            ("format = 1", "`shard_count` is missing"),
            ("format = 0\nshard_count = 4\ncreated_ms = 1", "format 0"),
            ("format = 1\nshard_count = 0\ncreated_ms = 1", "`shard_count` is out of bounds"),
            ("format = 1\nshard_count = 5000\ncreated_ms = 1", "`shard_count` is out of bounds"),
            ("format = 1\nshard_count = 4\ncreated_ms = -1", "`created_ms`"),
            ("format = ", "CorruptMarker"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(format!("{error} {error:?}").contains(says), "{text:?}: {error}");
        }
    }
}

//! A data directory that does not fit is refused, untouched, with a message that says what to do.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use common::{SHARDS, config, open, put, shard, shards, user_key};
use sluice_store::{OpenError, Store, StoreConfig};
use tempfile::tempdir;

fn refusal(config: StoreConfig) -> OpenError {
    Store::open(config).map(|_| ()).unwrap_err()
}

#[test]
fn a_directory_of_someone_else_is_refused_and_not_touched() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("thesis.txt"), "mine").unwrap();
    let error = refusal(config(dir.path()));
    assert!(matches!(error, OpenError::NotSluice { .. }), "{error}");
    assert!(error.to_string().contains("is no Sluice data directory"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_file_is_no_directory() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = refusal(config(&path));
        assert!(matches!(error, OpenError::NotDirectory { .. }), "{error}");
    }
}

#[test]
fn another_shard_count_is_refused_with_the_one_it_was_made_with() {
    let dir = tempdir().unwrap();
    drop(open(dir.path()));
    let error = refusal(StoreConfig { shard_count: shards(8), ..config(dir.path()) });
    assert!(matches!(error, OpenError::ShardCount { made: SHARDS, configured: 8, .. }), "{error}");
    assert!(error.to_string().ends_with("configure 4"));
}

#[test]
fn a_newer_format_is_refused() {
    let dir = tempdir().unwrap();
    drop(open(dir.path()));
    fs::write(dir.path().join("SLUICE"), "format = 2\n").unwrap();
    let error = refusal(config(dir.path()));
    assert!(matches!(error, OpenError::NewerFormat { found: 2, .. }), "{error}");
}

#[test]
fn a_damaged_marker_is_refused() {
    let dir = tempdir().unwrap();
    drop(open(dir.path()));
    for bytes in [b"format = \xff".as_slice(), b"", b"format = 1\nshard_count = 0\n"] {
        fs::write(dir.path().join("SLUICE"), bytes).unwrap();
        let error = refusal(config(dir.path()));
        assert!(matches!(error, OpenError::CorruptMarker { .. }), "{error}");
    }
}

#[test]
fn a_missing_database_is_not_replaced_by_an_empty_one() {
    let dir = tempdir().unwrap();
    drop(open(dir.path()));
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    let error = refusal(config(dir.path()));
    assert!(matches!(error, OpenError::MissingDatabase { .. }), "{error}");
    assert!(!dir.path().join("db").exists());
}

#[test]
fn a_database_without_its_marker_is_refused() {
    let dir = tempdir().unwrap();
    drop(open(dir.path()));
    fs::remove_file(dir.path().join("SLUICE")).unwrap();
    assert!(matches!(refusal(config(dir.path())), OpenError::NotSluice { .. }));
}

#[test]
fn a_damaged_database_is_refused() {
    let dir = tempdir().unwrap();
    drop(open(dir.path()));
    fs::write(dir.path().join("db/CURRENT"), "MANIFEST-000099\n").unwrap();
    assert!(matches!(refusal(config(dir.path())), OpenError::Database { .. }));
}

#[test]
fn a_making_cut_short_anywhere_is_taken_up_again() {
    let dir = tempdir().unwrap();
    drop(open(dir.path()));
    // Before the last step: the marker stands, the database still has its first name.
    fs::rename(dir.path().join("db"), dir.path().join("db.new")).unwrap();
    drop(open(dir.path()));
    // Before the marker, with half a database and half a marker written aside.
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join("db.new")).unwrap();
    fs::write(dir.path().join("db.new/CURRENT"), "half").unwrap();
    fs::write(dir.path().join("SLUICE.new"), "form").unwrap();
    let store = open(dir.path());
    store.write_blocking(vec![put(0, 1, b"x")]).unwrap();
}

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("data");
    let refused = [
        ("reader_threads", StoreConfig { reader_threads: 0, ..config(&path) }),
        ("reader_queue_max", StoreConfig { reader_queue_max: 0, ..config(&path) }),
        ("commit_queue_max", StoreConfig { commit_queue_max: 0, ..config(&path) }),
        ("commit_queue_bytes_max", StoreConfig { commit_queue_bytes_max: 1, ..config(&path) }),
        ("block_cache_bytes", StoreConfig { block_cache_bytes: 0, ..config(&path) }),
        ("write_buffer_bytes", StoreConfig { write_buffer_bytes: 0, ..config(&path) }),
        ("open_files_max", StoreConfig { open_files_max: 1, ..config(&path) }),
        ("background_jobs", StoreConfig { background_jobs: 0, ..config(&path) }),
    ];
    for (name, config) in refused {
        let error = refusal(config);
        assert!(matches!(error, OpenError::Setting { setting, .. } if setting == name), "{error}");
    }
    assert!(!path.exists());
}

#[test]
fn a_store_in_use_is_locked_until_its_last_handle_is_gone() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let other = store.clone();
    drop(store);
    let error = refusal(config(dir.path()));
    let own = std::process::id();
    assert!(matches!(error, OpenError::Locked { pid: Some(pid), .. } if pid == own), "{error}");
    drop(other);
    drop(open(dir.path()));
}

const HOLDER_DIR: &str = "SLUICE_TEST_HOLDER_DIR";

/// Run by the next test in a process of its own; does nothing else.
#[test]
fn holder_process() {
    let Ok(path) = std::env::var(HOLDER_DIR) else { return };
    let _store = open(path.as_ref());
    println!("holding");
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn a_store_in_use_by_another_process_names_that_process() {
    let dir = tempdir().unwrap();
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "holder_process", "--nocapture"])
        .env(HOLDER_DIR, dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("holding")));
    let error = refusal(config(dir.path()));
    assert!(matches!(error, OpenError::Locked { pid: Some(pid), .. } if pid == holder.id()), "{error}");
    assert!(error.to_string().contains(&format!("in use by process {}", holder.id())));
    // Death frees the lock, whatever the file says.
    holder.kill().unwrap();
    holder.wait().unwrap();
    let store = open(dir.path());
    assert_eq!(store.get_blocking(shard(0), &user_key(1)).unwrap(), None);
}

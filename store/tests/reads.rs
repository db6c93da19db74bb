//! Reads: inline where memory can tell, by the pool where only the disk can, never a record that is damaged.

mod common;

use common::{on_core, open, put, shard, user, user_id, user_key};
use sluice_protocols::ids::{SessionId, TaskId};
use sluice_store::record::{UserRecord, encode};
use sluice_store::stats::ReadTotals;
use sluice_store::{Batch, Key, KeyRange, Kind, ReadError, ReadOnlyStore, Store, quarantine};
use tempfile::tempdir;

/// Bytes that do not compress.
fn noise(count: usize) -> Vec<u8> {
    let next = |state: &u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    std::iter::successors(Some(1), next).map(|state| state.to_be_bytes()[0]).take(count).collect()
}

#[test]
fn memory_answers_inline_and_the_disk_through_the_pool() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    store.write_blocking(vec![put(0, 1, b"value")]).unwrap();
    // Opening reads `applied` and the end of the audit log: the key's block, which is full with the next key, must be
    // neither the first nor the last.
    for number in [0, 8, 9] {
        store.write_blocking(vec![put(0, number, &noise(16 << 10))]).unwrap();
    }
    on_core(&store, |core| async move {
        assert_eq!(core.get(shard(0), &user_key(1)).await.unwrap().unwrap().as_bytes(), b"value");
    });
    assert_eq!(store.stats().reads(), ReadTotals { inline: 1, pooled: 0 });
    store.flush_blocking().unwrap();
    drop(store);
    // Now it lies in a table no cache knows.
    let store = open(dir.path());
    on_core(&store, |core| async move {
        for _ in 0..3 {
            assert_eq!(core.get(shard(0), &user_key(1)).await.unwrap().unwrap().as_bytes(), b"value");
        }
        assert_eq!(core.get(shard(0), &user_key(2)).await.unwrap(), None);
    });
    assert_eq!(
        store.stats().reads(),
        ReadTotals { inline: 3, pooled: 1 },
        "the first read of a block goes to the pool, the rest are inline"
    );
    assert_eq!(store.stats().reader.gets.get(), 1);
}

#[test]
fn a_directory_in_use_is_read_beside_its_user_and_left_as_it_is() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let value = encode(&user(1)).unwrap();
    store.write_blocking(vec![put(0, 1, value.as_bytes())]).unwrap();
    let names = || {
        let entries = std::fs::read_dir(dir.path().join("db")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    let beside = ReadOnlyStore::open(dir.path()).unwrap();
    assert_eq!(beside.shard_count(), store.shard_count());
    let read = |number| beside.load::<UserRecord>(shard(0), &user_key(number)).unwrap();
    assert_eq!(read(1).map(|user| user.to_record()), Some(user(1)));
    // What comes later is not seen, and what is in use goes on.
    store.write_blocking(vec![put(0, 2, value.as_bytes())]).unwrap();
    assert!(read(2).is_none());
    assert_eq!(names(), before, "nothing was written");
    drop(beside);
    store.flush_blocking().unwrap();
    let again = ReadOnlyStore::open(dir.path()).unwrap();
    assert!(again.load::<UserRecord>(shard(0), &user_key(2)).unwrap().is_some());
    let page = again.scan(shard(0), KeyRange::of_user(Kind::User, &user_id(2)), 9, false).unwrap();
    assert_eq!(page.rows.len(), 1);
    assert!(ReadOnlyStore::open(tempdir().unwrap().path()).is_err(), "no directory of ours");
}

fn tasks(store: &Store) -> Vec<Key> {
    let keys: Vec<Key> =
        (0..10).map(|ms| Key::task_pending(&user_id(1), &TaskId::new(ms, [0; 10]))).collect();
    let mut batch = Batch::new(shard(0));
    keys.iter().for_each(|key| _ = batch.put(key, b"task"));
    // Neighbours on both sides that a scan must not return.
    batch.put(&Key::session(&user_id(1), &SessionId::from_bytes([255; 16])), b"session");
    batch.put(&Key::task_finished(&user_id(0), &TaskId::new(0, [0; 10])), b"finished");
    batch.put(&Key::task_pending(&user_id(2), &TaskId::new(3, [0; 10])), b"of another");
    store.write_blocking(vec![batch]).unwrap();
    keys
}

#[test]
fn a_scan_gives_a_users_rows_in_either_order_and_goes_on_where_it_stopped() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let keys = tasks(&store);
    on_core(&store, |core| async move {
        for reverse in [false, true] {
            let mut range = Some(KeyRange::of_user(Kind::TaskPending, &user_id(1)));
            let mut found = Vec::new();
            while let Some(next) = range {
                let page = core.scan(shard(0), next, 4, reverse).await.unwrap();
                assert!(page.rows.len() <= 4);
                found.extend(page.rows.into_iter().map(|(key, _)| key));
                range = page.next;
            }
            if reverse {
                found.reverse();
            }
            assert_eq!(found, keys);
        }
        let all = core.scan(shard(0), KeyRange::kind(Kind::TaskPending), 100, false).await.unwrap();
        assert_eq!((all.rows.len(), all.next), (11, None));
        let none = core.scan(shard(1), KeyRange::kind(Kind::TaskPending), 100, true).await.unwrap();
        assert_eq!((none.rows.len(), none.next), (0, None));
    });
    assert_eq!(store.stats().reader.scans.get(), 8);
}

#[test]
fn a_scan_stops_at_its_limit_of_bytes() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    for number in 0..6 {
        store.write_blocking(vec![put(0, number, &vec![7; 2 << 20])]).unwrap();
    }
    let page = store.scan_blocking(shard(0), KeyRange::kind(Kind::User), 100, false).unwrap();
    assert_eq!(page.rows.len(), 4);
    let page = store.scan_blocking(shard(0), page.next.unwrap(), 100, false).unwrap();
    assert_eq!((page.rows.len(), page.next), (2, None));
}

#[test]
fn a_scan_of_no_rows_can_be_taken_up_where_it_began() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    tasks(&store);
    let range = KeyRange::kind(Kind::TaskPending);
    let page = store.scan_blocking(shard(0), range.clone(), 0, false).unwrap();
    assert_eq!((page.rows.len(), page.next), (0, Some(range)));
}

#[test]
fn a_record_is_loaded_as_it_was_put() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let mut batch = Batch::new(shard(0));
    batch.put_record(&user_key(1), &user(1)).unwrap();
    store.write_blocking(vec![batch]).unwrap();
    on_core(&store, |core| async move {
        let loaded = core.load::<UserRecord>(shard(0), &user_key(1)).await.unwrap().unwrap();
        assert_eq!(loaded.get().email.as_str(), "user1@example.com");
        assert_eq!(loaded.to_record(), user(1));
        assert!(core.load::<UserRecord>(shard(0), &user_key(2)).await.unwrap().is_none());
    });
}

/// A user's record whose middle was overwritten.
fn damaged() -> Vec<u8> {
    let mut bytes = encode(&user(1)).unwrap().as_bytes().to_vec();
    let end = bytes.len() - 1;
    bytes[end - 64..end].fill(0xff);
    bytes
}

#[test]
fn a_damaged_record_is_kept_aside_and_neither_trusted_nor_dropped() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    store.write_blocking(vec![put(0, 1, &damaged())]).unwrap();
    on_core(&store, |core| async move {
        for _ in 0..3 {
            let error = core.load::<UserRecord>(shard(0), &user_key(1)).await.unwrap_err();
            assert!(matches!(&error, ReadError::Quarantined { key, .. } if *key == user_key(1)), "{error}");
        }
        // Overwriting the original leaves the copy.
        core.commit(put(0, 1, encode(&user(1)).unwrap().as_bytes())).await.unwrap();
        assert!(core.load::<UserRecord>(shard(0), &user_key(1)).await.unwrap().is_some());
        let page = core.scan(shard(0), quarantine::range(), 10, false).await.unwrap();
        assert_eq!(page.rows.len(), 1);
        assert_eq!(quarantine::original_key(&page.rows[0].0), Some(user_key(1)));
        assert_eq!(page.rows[0].1.as_bytes(), damaged());
    });
    let stats = &store.stats().records;
    assert_eq!((stats.damaged.get(), stats.quarantined.get(), stats.quarantine_failed.get()), (3, 1, 0));
}

#[test]
fn a_damaged_record_is_kept_aside_by_ordinary_threads_too() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    store.write_blocking(vec![put(0, 1, &damaged())]).unwrap();
    let error = store.load_blocking::<UserRecord>(shard(0), &user_key(1)).unwrap_err();
    assert!(matches!(error, ReadError::Quarantined { .. }), "{error}");
    let page = store.scan_blocking(shard(0), quarantine::range(), 10, false).unwrap();
    assert_eq!(page.rows[0].1.as_bytes(), damaged());
}

#[test]
fn a_record_of_a_newer_schema_is_refused_and_left_alone() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let mut bytes = encode(&user(1)).unwrap().as_bytes().to_vec();
    *bytes.last_mut().unwrap() = 200;
    store.write_blocking(vec![put(0, 1, &bytes)]).unwrap();
    on_core(&store, |core| async move {
        let error = core.load::<UserRecord>(shard(0), &user_key(1)).await.unwrap_err();
        assert!(matches!(error, ReadError::Newer { .. }), "{error}");
        assert!(core.scan(shard(0), quarantine::range(), 10, false).await.unwrap().rows.is_empty());
    });
    assert_eq!((store.stats().records.newer.get(), store.stats().records.damaged.get()), (1, 0));
}

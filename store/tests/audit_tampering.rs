//! An audit log at which somebody has been with a tool of their own while the store was closed: what was done is found, and
//! the chain that goes on does not hide it.

use std::path::Path;

use rocksdb::{DB, Options};
use sluice_protocols::ids::{ShardCount, ShardId};
use sluice_store::audit::{page, verify};
use sluice_store::{AuditEvent, AuditFault, AuditHead, Batch, Key, Store, StoreConfig};

const SHARDS: u16 = 4;

fn shard() -> ShardId {
    ShardId::new(2, ShardCount::new(SHARDS).unwrap()).unwrap()
}

fn open(path: &Path) -> Store {
    Store::open(StoreConfig::new(path, ShardCount::new(SHARDS).unwrap())).unwrap()
}

fn tell(store: &Store, act: &str) {
    let mut batch = Batch::new(shard());
    batch.audit(&AuditEvent { at_ms: 1, act: act.to_owned(), ..AuditEvent::default() });
    store.write_blocking(vec![batch]).unwrap();
}

fn acts(store: &Store) -> Vec<String> {
    page(store, shard(), 0).unwrap().entries.into_iter().map(|entry| entry.event.act).collect()
}

/// A log of three entries, then what `tamper` does to it behind the store's back; gives the store, opened again.
fn tampered(path: &Path, tamper: impl FnOnce(&DB, &rocksdb::ColumnFamily)) -> Store {
    let store = open(path);
    ["first", "second", "third"].into_iter().for_each(|act| tell(&store, act));
    store.flush_blocking().unwrap();
    drop(store);
    let database = path.join("db");
    let families = DB::list_cf(&Options::default(), &database).unwrap();
    let raw = DB::open_cf(&Options::default(), &database, &families).unwrap();
    // The family that has the third entry is the shard's.
    let third = Key::audit_entry(3);
    let found = families.iter().filter_map(|name| raw.cf_handle(name));
    let mut found = found.filter(|family| raw.get_cf(family, third.as_bytes()).unwrap().is_some());
    let family = found.next().expect("the shard's family");
    tamper(&raw, family);
    drop(found);
    drop(raw);
    open(path)
}

fn fault(store: &Store) -> Option<AuditFault> {
    verify(store, shard(), &[]).unwrap().fault
}

#[test]
fn a_log_that_nobody_touched_is_whole_over_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let store = tampered(directory.path(), |_, _| {});
    tell(&store, "fourth");
    assert_eq!(acts(&store), ["first", "second", "third", "fourth"]);
    let proof = verify(&store, shard(), &[]).unwrap();
    assert_eq!((proof.head.sequence, proof.fault), (4, None));
}

#[test]
fn an_entry_that_was_changed_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let store = tampered(directory.path(), |raw, family| {
        let key = Key::audit_entry(2);
        let mut value = raw.get_cf(family, key.as_bytes()).unwrap().unwrap();
        let at = value.windows(6).position(|window| window == b"second").unwrap();
        value[at..at + 6].copy_from_slice(b"secret");
        raw.put_cf(family, key.as_bytes(), value).unwrap();
    });
    assert_eq!(fault(&store), Some(AuditFault::Changed { sequence: 2 }));
    tell(&store, "fourth");
    assert_eq!(fault(&store), Some(AuditFault::Changed { sequence: 2 }));
}

#[test]
fn an_entry_that_was_removed_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let store = tampered(directory.path(), |raw, family| {
        raw.delete_cf(family, Key::audit_entry(2).as_bytes()).unwrap();
    });
    assert_eq!(fault(&store), Some(AuditFault::Missing { sequence: 2 }));
}

#[test]
fn a_cut_end_is_found_and_its_numbers_are_not_given_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = tampered(directory.path(), |raw, family| {
        raw.delete_cf(family, Key::audit_entry(3).as_bytes()).unwrap();
    });
    assert_eq!(fault(&store), Some(AuditFault::Truncated { found: 2, expected: 3 }));
    tell(&store, "fourth");
    assert_eq!(acts(&store), ["first", "second", "fourth"]);
    assert_eq!(fault(&store), Some(AuditFault::Missing { sequence: 3 }));
}

#[test]
fn an_end_cut_with_its_head_is_found_by_an_anchor_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut anchor = AuditHead::default();
    let store = tampered(directory.path(), |raw, family| {
        let hash = |sequence| {
            let value = raw.get_cf(family, Key::audit_entry(sequence).as_bytes()).unwrap().unwrap();
            <[u8; 32]>::try_from(&value[..32]).unwrap()
        };
        anchor = AuditHead { sequence: 3, hash: hash(3) };
        let head = [&hash(2)[..], &2_u64.to_be_bytes()].concat();
        raw.delete_cf(family, Key::audit_entry(3).as_bytes()).unwrap();
        raw.put_cf(family, Key::audit_head().as_bytes(), head).unwrap();
    });
    assert_eq!(fault(&store), None, "nothing in the directory tells of it");
    let anchored = |store: &Store| verify(store, shard(), &[anchor]).unwrap().fault;
    assert_eq!(anchored(&store), Some(AuditFault::Truncated { found: 2, expected: 3 }));
    tell(&store, "another third");
    assert_eq!(anchored(&store), Some(AuditFault::Anchor { sequence: 3 }));
}

#[test]
fn a_removed_head_makes_nothing_be_written_over() {
    let directory = tempfile::tempdir().unwrap();
    let store = tampered(directory.path(), |raw, family| {
        raw.delete_cf(family, Key::audit_head().as_bytes()).unwrap();
    });
    assert_eq!(fault(&store), Some(AuditFault::Head { sequence: 3 }));
    tell(&store, "fourth");
    assert_eq!(acts(&store), ["first", "second", "third", "fourth"]);
}

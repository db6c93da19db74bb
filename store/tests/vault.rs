//! Secrets in a store: sealed and opened by threads and by cores at once, moved, rotated, forgotten and destroyed.

mod common;

use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use common::{open, user_id};
use sluice_core::{CoreId, Reactor, ReactorConfig};
use sluice_protocols::ids::{ShardId, UserId};
use sluice_store::key::{Key, KeyRange, Kind};
use sluice_store::record::{ConnectionRecord, DataKeyRecord, Provider, StoredSecret, decode};
use sluice_store::vault::{
    Cursor, ForgetError, Keyring, MasterVersion, Place, Survey, Vault, VaultError, VaultOpenError, Work,
};
use sluice_store::{Batch, CoreStore, CoreVault, Store};
use tempfile::tempdir;

const ONE: &str = "1:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const TWO: &str = "2:202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";
const OTHER_ONE: &str = "1:404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f";
const TOKEN: &str = "1//0-refresh-token-of-a-user";

fn keyring(text: &str) -> Keyring {
    Keyring::parse(text).unwrap()
}

fn version(number: u32) -> MasterVersion {
    MasterVersion::new(number).unwrap()
}

fn vault(store: &Store, keys: &str) -> Vault {
    Vault::open(store, keyring(keys)).unwrap()
}

fn place(user: &UserId) -> Place {
    Place::refresh_token(user, Provider::Google)
}

fn shard_of(store: &Store, user: &UserId) -> ShardId {
    ShardId::of(user, store.shard_count())
}

fn connection(user: &UserId, refresh_token: StoredSecret) -> ConnectionRecord {
    ConnectionRecord::given(*user, "anna@example.com", refresh_token, "mail", 7)
}

fn connect(store: &Store, vault: &Vault, user: &UserId, token: &str) {
    let refresh_token = vault.seal_blocking(&place(user), token).unwrap();
    let mut batch = Batch::new(shard_of(store, user));
    batch.put_record(place(user).key(), &connection(user, refresh_token)).unwrap();
    store.write_blocking(vec![batch]).unwrap();
}

/// A connection as versions before the vault wrote them: the archive of schema 1.
fn connect_as_before(store: &Store, user: &UserId) {
    let mut value = include_bytes!("data/connection_v1.bin").to_vec();
    // The one record holds another user's id; the rest is alike.
    let at = value.windows(16).position(|window| window == [1; 16]).unwrap();
    value[at..at + 16].copy_from_slice(user.as_bytes());
    let mut batch = Batch::new(shard_of(store, user));
    batch.put(place(user).key(), &value);
    store.write_blocking(vec![batch]).unwrap();
}

fn stored(store: &Store, user: &UserId) -> StoredSecret {
    let loaded = store.load_blocking::<ConnectionRecord>(shard_of(store, user), place(user).key());
    loaded.unwrap().unwrap().to_record().refresh_token
}

fn token(store: &Store, vault: &Vault, user: &UserId) -> Result<String, VaultError> {
    vault.open_blocking(&place(user), &stored(store, user)).map(|text| text.expose().to_owned())
}

fn data_key(store: &Store, user: &UserId) -> Option<DataKeyRecord> {
    let loaded = store.load_blocking::<DataKeyRecord>(shard_of(store, user), &Key::data_key(user));
    loaded.unwrap().map(|loaded| loaded.to_record())
}

/// A whole walk, in parts of so many rows; how many parts it took.
fn walk(vault: &Vault, rows: usize, work: Work) -> (Survey, usize) {
    let (mut survey, mut parts, mut cursor) = (Survey::default(), 0, None);
    loop {
        let part = vault.walk_blocking(cursor, rows, work).unwrap();
        survey.add(&part.survey);
        parts += 1;
        // As it crosses the administration's socket.
        cursor = part.next.map(|cursor| cursor.to_string().parse::<Cursor>().unwrap());
        if cursor.is_none() {
            return (survey, parts);
        }
    }
}

/// Every byte of every file of the directory.
fn files(directory: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(std::fs::read(&path).unwrap());
        }
    }
    found
}

fn is_in_a_file(directory: &Path, wanted: &[u8]) -> bool {
    files(directory).iter().any(|bytes| bytes.windows(wanted.len()).any(|window| window == wanted))
}

fn on_a_core<T: 'static, F: Future<Output = T> + 'static>(
    store: &Store,
    vault: &Vault,
    keys_max: usize,
    body: impl FnOnce(CoreStore, CoreVault) -> F + 'static,
) -> T {
    let (store, vault) = (store.clone(), vault.clone());
    let reactor = Reactor::new(ReactorConfig::new(CoreId::new(0))).unwrap();
    let run = async move {
        let store = CoreStore::new(&store);
        let vault = CoreVault::new(vault, store.clone(), keys_max);
        body(store, vault).await
    };
    reactor.block_on(run).unwrap()
}

#[test]
fn a_secret_survives_a_restart_and_is_in_no_file() {
    let dir = tempdir().unwrap();
    let user = user_id(1);
    {
        let store = open(dir.path());
        let vault = vault(&store, ONE);
        connect(&store, &vault, &user, TOKEN);
        store.flush_blocking().unwrap();
    }
    assert!(is_in_a_file(dir.path(), b"anna@example.com"), "the look finds what is there");
    assert!(!is_in_a_file(dir.path(), TOKEN.as_bytes()));
    let master: Vec<u8> = (0..32).collect();
    assert!(!is_in_a_file(dir.path(), &master));
    assert!(!is_in_a_file(dir.path(), ONE.trim_start_matches("1:").as_bytes()));
    let store = open(dir.path());
    let vault = vault(&store, ONE);
    assert_eq!(token(&store, &vault, &user).unwrap(), TOKEN);
    assert_eq!(vault.stats().keys_made.get(), 0);
}

#[test]
fn a_secret_moved_to_another_user_does_not_open() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let vault = vault(&store, ONE);
    let (anna, bert) = (user_id(1), user_id(2));
    connect(&store, &vault, &anna, TOKEN);
    connect(&store, &vault, &bert, "1//bert");
    // Whoever can write to the disk makes Anna's token Bert's, first alone, then with her data key.
    let moved = stored(&store, &anna);
    assert_eq!(vault.open_blocking(&place(&bert), &moved), Err(VaultError::Unreadable));
    let stolen = DataKeyRecord { user: bert, ..data_key(&store, &anna).unwrap() };
    let mut batch = Batch::new(shard_of(&store, &bert));
    batch.put_record(&Key::data_key(&bert), &stolen).unwrap();
    store.write_blocking(vec![batch]).unwrap();
    assert_eq!(vault.open_blocking(&place(&bert), &moved), Err(VaultError::Unreadable));
    assert_eq!(vault.stats().refused.get(), 2);
    assert_eq!(token(&store, &vault, &anna).unwrap(), TOKEN);
}

#[test]
fn another_store_with_the_same_master_key_opens_nothing() {
    let (dir, other_dir) = (tempdir().unwrap(), tempdir().unwrap());
    let (store, other) = (open(dir.path()), open(other_dir.path()));
    let (here, there) = (vault(&store, ONE), vault(&other, ONE));
    assert_ne!(here.store_id(), there.store_id());
    let user = user_id(1);
    connect(&store, &here, &user, TOKEN);
    let mut batch = Batch::new(shard_of(&other, &user));
    batch.put_record(&Key::data_key(&user), &data_key(&store, &user).unwrap()).unwrap();
    other.write_blocking(vec![batch]).unwrap();
    let secret = stored(&store, &user);
    assert_eq!(there.open_blocking(&place(&user), &secret), Err(VaultError::Unreadable));
}

#[test]
fn wrong_and_missing_master_keys_are_refused_and_told_apart() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    drop(vault(&store, ONE));
    let said = |keys: &str| Vault::open(&store, keyring(keys)).unwrap_err();
    let wrong = said(OTHER_ONE);
    assert!(matches!(wrong, VaultOpenError::WrongKey { version, .. } if version.get() == 1), "{wrong}");
    assert!(wrong.to_string().contains("vault.toml") && wrong.to_string().contains("give that one"));
    let missing = said(TWO);
    assert!(matches!(missing, VaultOpenError::MissingKey { version, .. } if version.get() == 1), "{missing}");
    assert!(missing.to_string().contains("sluice vault forget 1"), "{missing}");
    // A refusal changes nothing.
    assert_eq!(vault(&store, &format!("{ONE},{TWO}")).current_version(), version(2));
    assert!(matches!(said(ONE), VaultOpenError::MissingKey { version, .. } if version.get() == 2));
    let same = vault(&store, &format!("{ONE},{TWO}"));
    let refused = same.reload(keyring(&format!("{OTHER_ONE},{TWO}"))).unwrap_err();
    assert!(matches!(refused, VaultOpenError::WrongKey { .. }));
    connect(&store, &same, &user_id(1), TOKEN);
    assert_eq!(token(&store, &same, &user_id(1)).unwrap(), TOKEN);
}

#[test]
fn a_lost_or_damaged_memory_of_the_keys_is_refused_not_made_anew() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let file = dir.path().join("vault.toml");
    drop(vault(&store, ONE));
    // Nothing was sealed yet, so nothing is lost.
    std::fs::remove_file(&file).unwrap();
    connect(&store, &vault(&store, ONE), &user_id(1), TOKEN);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let lost = Vault::open(&store, keyring(ONE)).unwrap_err();
    assert!(matches!(lost, VaultOpenError::LostState { .. }) && lost.to_string().contains("restore it"));
    assert!(!file.exists());
    std::fs::write(&file, &text[..text.len() / 2]).unwrap();
    let damaged = Vault::open(&store, keyring(ONE)).unwrap_err();
    assert!(matches!(damaged, VaultOpenError::State { .. }), "{damaged}");
    std::fs::write(&file, text).unwrap();
    assert_eq!(token(&store, &vault(&store, ONE), &user_id(1)).unwrap(), TOKEN);
}

#[test]
fn a_rotation_wraps_every_key_seals_what_was_plain_and_goes_on_where_it_was_cut_short() {
    let dir = tempdir().unwrap();
    let users: Vec<UserId> = (0..120).map(user_id).collect();
    let (sealed, plain) = users.split_at(80);
    {
        let store = open(dir.path());
        let vault = vault(&store, ONE);
        for user in sealed {
            connect(&store, &vault, user, TOKEN);
        }
        for user in plain {
            connect_as_before(&store, user);
            assert_eq!(token(&store, &vault, user).unwrap(), "1//secret");
        }
        let (survey, _) = walk(&vault, 7, Work::Count);
        assert_eq!((survey.under[&version(1)], survey.plain, survey.unreadable), (80, 40, 0));
        vault.reload(keyring(&format!("{ONE},{TWO}"))).unwrap();
        // Some parts of it, and then the process is gone.
        let mut cursor = None;
        for _ in 0..6 {
            cursor = vault.walk_blocking(cursor, 10, Work::Rotate).unwrap().next;
        }
        assert!(cursor.is_some());
        let (survey, _) = walk(&vault, 1_000, Work::Count);
        assert!(survey.under[&version(1)] > 0 && survey.under[&version(2)] > 0, "{survey:?}");
    }
    let store = open(dir.path());
    let vault = vault(&store, &format!("{ONE},{TWO}"));
    for (users, wanted) in [(sealed, TOKEN), (plain, "1//secret")] {
        for user in users {
            assert_eq!(token(&store, &vault, user).unwrap(), wanted, "old and new are readable meanwhile");
        }
    }
    let before = walk(&vault, 1_000, Work::Count).0;
    assert!(
        matches!(vault.forget_blocking(version(1)), Err(ForgetError::InUse { users, .. }) if users == before.under[&version(1)])
    );
    let (after, parts) = walk(&vault, 10, Work::Rotate);
    assert!(parts > 12);
    assert_eq!((after.under.len(), after.under[&version(2)] >= 80, after.plain), (1, true, 0));
    assert_eq!(after.wrapped, before.under[&version(1)]);
    assert_eq!((after.sealed, after.busy, after.unreadable), (before.plain, 0, 0));
    let (again, _) = walk(&vault, 1_000, Work::Rotate);
    assert_eq!((again.under[&version(2)], again.wrapped, again.sealed, again.plain), (120, 0, 0, 0));
    for user in plain {
        assert!(stored(&store, user).is_sealed());
        assert_eq!(token(&store, &vault, user).unwrap(), "1//secret");
    }
    // Now the old key may go, and only now.
    assert!(matches!(vault.forget_blocking(version(2)), Err(ForgetError::Current { .. })));
    assert!(matches!(vault.forget_blocking(version(3)), Err(ForgetError::Unknown { .. })));
    vault.forget_blocking(version(1)).unwrap();
    drop(vault);
    // Both are at hand still, and nobody asks for the old one the next time.
    drop(Vault::open(&store, keyring(&format!("{ONE},{TWO}"))).unwrap());
    let vault = Vault::open(&store, keyring(TWO)).unwrap();
    for user in &users {
        assert!(token(&store, &vault, user).is_ok());
    }
}

#[test]
fn a_rotation_passes_over_damaged_keys_and_then_no_version_is_forgotten() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let vault = vault(&store, ONE);
    for number in 0..10 {
        connect(&store, &vault, &user_id(number), TOKEN);
    }
    let mut damage = Batch::new(shard_of(&store, &user_id(3)));
    damage.put(&Key::data_key(&user_id(3)), b"no record");
    store.write_blocking(vec![damage]).unwrap();
    vault.reload(keyring(&format!("{ONE},{TWO}"))).unwrap();
    let (survey, _) = walk(&vault, 1_000, Work::Rotate);
    assert_eq!((survey.wrapped, survey.unreadable), (9, 1));
    assert!(matches!(vault.forget_blocking(version(1)), Err(ForgetError::Unreadable { records: 1 })));
}

#[test]
fn a_destroyed_key_leaves_nothing_readable_and_no_trace_of_itself() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let vault = vault(&store, ONE);
    let (anna, bert) = (user_id(1), user_id(2));
    connect(&store, &vault, &anna, TOKEN);
    connect(&store, &vault, &bert, "1//bert");
    store.flush_blocking().unwrap();
    let kept_elsewhere = stored(&store, &anna);
    let record = data_key(&store, &anna).unwrap();
    let wrapped = record.wrapped.unwrap();
    // Without the header, which compression may refer to an equal one before it, nor the few bytes beside it and at the end
    // that may by chance be equal as well.
    let wrapped = wrapped.as_bytes();
    let wrapped = &wrapped[9..wrapped.len() - 4];
    assert!(is_in_a_file(dir.path(), wrapped), "the look finds what is there");
    let opened_by_core = {
        let (kept, vault_there) = (kept_elsewhere.clone(), vault.clone());
        on_a_core(&store, &vault, 10, async move |_, core| {
            // The core has the key unwrapped when another thread destroys it.
            assert_eq!(core.open(&place(&anna), &kept).await.unwrap().expose(), TOKEN);
            assert_eq!(core.len(), 1);
            let destroyed = std::thread::spawn(move || vault_there.destroy_blocking(&anna)).join();
            assert!(destroyed.unwrap().unwrap());
            core.open(&place(&anna), &kept).await
        })
    };
    assert_eq!(opened_by_core, Err(VaultError::Destroyed { user: anna }));
    assert_eq!(token(&store, &vault, &anna), Err(VaultError::Destroyed { user: anna }));
    assert_eq!(token(&store, &vault, &bert).unwrap(), "1//bert");
    assert!(!is_in_a_file(dir.path(), wrapped));
    assert!(!vault.destroy_blocking(&anna).unwrap(), "there is nothing left to destroy");
    assert!(!vault.destroy_blocking(&user_id(9)).unwrap());
    assert_eq!(walk(&vault, 100, Work::Count).0.destroyed, 1);
    // Whoever comes back gets a new key, which does not bring the old secret back.
    connect(&store, &vault, &anna, "1//again");
    assert_eq!(data_key(&store, &anna).unwrap().version, 2);
    assert_eq!(token(&store, &vault, &anna).unwrap(), "1//again");
    assert_eq!(vault.open_blocking(&place(&anna), &kept_elsewhere), Err(VaultError::Unreadable));
}

#[test]
fn threads_and_cores_that_seal_for_one_user_at_once_agree_on_its_key() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let vault = vault(&store, ONE);
    for round in 0..20 {
        let user = user_id(round);
        let mut sealed: Vec<StoredSecret> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..3).map(|_| scope.spawn(|| vault.seal_blocking(&place(&user), TOKEN).unwrap())).collect();
            let of_core = on_a_core(&store, &vault, 10, async move |_, core| {
                let place = Rc::new(place(&user));
                let tasks: Vec<_> = (0..3)
                    .map(|_| {
                        let (core, place) = (core.clone(), Rc::clone(&place));
                        sluice_core::spawn(async move { core.seal(&place, TOKEN).await.unwrap() })
                    })
                    .collect();
                let mut sealed = Vec::new();
                for task in tasks {
                    sealed.push(task.await);
                }
                sealed
            });
            of_core.into_iter().chain(threads.into_iter().map(|thread| thread.join().unwrap())).collect()
        });
        sealed.push(vault.seal_blocking(&place(&user), TOKEN).unwrap());
        for secret in sealed {
            assert_eq!(vault.open_blocking(&place(&user), &secret).unwrap().expose(), TOKEN);
        }
    }
    assert_eq!(vault.stats().keys_made.get(), 20);
}

#[test]
fn a_caller_who_goes_away_leaves_a_whole_key_behind() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let vault = vault(&store, ONE);
    let user = user_id(1);
    let secret = on_a_core(&store, &vault, 10, async move |_, core| {
        let target = place(&user);
        {
            let mut sealing = Box::pin(core.seal(&target, "1//given up"));
            // Given up while the key is being made.
            let begun = std::future::poll_fn(|cx| Poll::Ready(sealing.as_mut().poll(cx))).await;
            assert!(begun.is_pending());
        }
        core.seal(&target, TOKEN).await.unwrap()
    });
    assert_eq!(vault.open_blocking(&place(&user), &secret).unwrap().expose(), TOKEN);
    assert_eq!(vault.stats().keys_made.get(), 1);
}

#[test]
fn a_core_keeps_no_more_keys_than_it_may() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let vault = vault(&store, ONE);
    let kept = on_a_core(&store, &vault, 3, async move |_, core| {
        for number in 0..10 {
            let place = place(&user_id(number));
            let sealed = core.seal(&place, TOKEN).await.unwrap();
            assert_eq!(core.open(&place, &sealed).await.unwrap().expose(), TOKEN);
        }
        core.len()
    });
    assert_eq!(kept, 3);
    assert_eq!(vault.stats().keys_evicted.get(), 7);
}

/// What a user's core writes meanwhile, such as a token that the provider replaced, must not be lost to the walk.
#[test]
fn a_rotation_overwrites_nothing_that_is_written_meanwhile() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let vault = vault(&store, ONE);
    let users: Vec<UserId> = (0..40).map(user_id).collect();
    for user in &users {
        connect_as_before(&store, user);
    }
    vault.reload(keyring(&format!("{ONE},{TWO}"))).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (vault, store, users, is_over) = (&vault, &store, &users, &is_over);
        let walker = scope.spawn(move || {
            let mut sealed = 0;
            while !is_over.load(Ordering::Relaxed) {
                sealed += walk(vault, 13, Work::Rotate).0.sealed;
            }
            sealed + walk(vault, 13, Work::Rotate).0.sealed
        });
        let users = users.clone();
        on_a_core(store, vault, 100, async move |store, core| {
            for round in 0..5 {
                for user in &users {
                    let place = place(user);
                    let sealed = core.seal(&place, &format!("1//round-{round}")).await.unwrap();
                    let _hold = core.hold(place.key()).await.unwrap();
                    let shard = ShardId::of(user, store.store().shard_count());
                    let before = store.load::<ConnectionRecord>(shard, place.key()).await.unwrap().unwrap();
                    let record = ConnectionRecord { refresh_token: sealed, ..before.to_record() };
                    let mut batch = Batch::new(shard);
                    batch.put_record(place.key(), &record).unwrap();
                    store.commit(batch).await.unwrap();
                }
            }
        });
        is_over.store(true, Ordering::Relaxed);
        walker.join().unwrap();
    });
    for user in &users {
        assert_eq!(token(&store, &vault, user).unwrap(), "1//round-4");
    }
    assert_eq!(walk(&vault, 100, Work::Count).0.under[&version(2)], 40);
}

#[test]
fn a_held_record_is_waited_for_and_let_go_in_the_end() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let vault = vault(&store, ONE);
    let key = Key::data_key(&user_id(1));
    let hold = vault.try_hold(&key).unwrap();
    assert!(vault.try_hold(&key).is_none());
    assert!(vault.try_hold(&Key::data_key(&user_id(2))).is_some());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| vault.seal_blocking(&place(&user_id(1)), TOKEN));
        drop(hold);
        waiting.join().unwrap().unwrap();
    });
    assert!(vault.try_hold(&key).is_some());
}

#[test]
fn every_data_key_stands_under_its_own_kind_of_key() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let vault = vault(&store, ONE);
    connect(&store, &vault, &user_id(1), TOKEN);
    let shard = shard_of(&store, &user_id(1));
    let page = store.scan_blocking(shard, KeyRange::kind(Kind::DataKey), 10, false).unwrap();
    let [(key, value)] = &page.rows[..] else { panic!("{page:?}") };
    assert_eq!((key.as_bytes()[0], key.user_id()), (0x14, Some(user_id(1))));
    let record = decode::<DataKeyRecord>(value.clone()).unwrap();
    assert_eq!((record.user, record.version), (user_id(1), 1));
}

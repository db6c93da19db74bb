//! Commits of a core: joined by shard, handed over once a turn, answered once.

mod common;

use common::{config, on_core, open, put, shard, user_key};
use sluice_store::log::{Entry, Submission};
use sluice_store::{Batch, CommitError, CoreStore, Inbox, Store, StoreConfig};
use tempfile::tempdir;

#[test]
fn batches_of_a_turn_are_joined_by_shard_and_written_as_one_group() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    on_core(&store, |core| async move {
        let (a, b, c) =
            (core.commit(put(1, 1, b"a")), core.commit(put(2, 2, b"b")), core.commit(put(1, 1, b"c")));
        let (a, b, c) = (a.await.unwrap(), b.await.unwrap(), c.await.unwrap());
        assert_eq!([a.number(), b.number(), c.number()], [1, 1, 1], "one batch a shard");
        assert_eq!(core.get(shard(1), &user_key(1)).await.unwrap().unwrap().as_bytes(), b"c");
        assert_eq!(core.commit(put(1, 1, b"d")).await.unwrap().number(), 2);
        assert_eq!(core.in_flight(), 0);
    });
    let stats = &store.stats().commit;
    assert_eq!((stats.groups.get(), stats.batches.get()), (2, 3));
    assert_eq!(store.applied_blocking(shard(1)).unwrap().number(), 2);
}

#[test]
fn a_change_whose_answer_nobody_awaits_is_made_all_the_same() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    on_core(&store, |core| async move {
        drop(core.commit(put(0, 1, b"kept")));
        core.commit(put(1, 2, b"later")).await.unwrap();
        assert_eq!(core.get(shard(0), &user_key(1)).await.unwrap().unwrap().as_bytes(), b"kept");
    });
}

#[test]
fn an_empty_batch_is_a_barrier_with_a_sequence() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    on_core(&store, |core| async move {
        assert_eq!(core.commit(Batch::new(shard(0))).await.unwrap().number(), 1);
    });
}

#[test]
fn a_turn_that_outgrows_the_queue_is_refused_from_there_on() {
    let dir = tempdir().unwrap();
    let store = Store::open(StoreConfig { commit_queue_bytes_max: 8 << 20, ..config(dir.path()) }).unwrap();
    on_core(&store, |core| async move {
        let commits: Vec<_> = (0..5).map(|number| core.commit(put(0, number, &vec![1; 2 << 20]))).collect();
        let mut outcomes = Vec::new();
        for commit in commits {
            outcomes.push(commit.await.is_ok());
        }
        assert_eq!(outcomes, [true, true, true, false, false]);
        let mut large = put(0, 9, &vec![1; 2 << 20]);
        (0..4).for_each(|number| _ = large.put(&user_key(number), &vec![1; 2 << 20]));
        assert!(matches!(core.commit(large).await, Err(CommitError::TooLarge { .. })));
    });
    assert_eq!(store.stats().commit.refused_full.get(), 2);
}

#[test]
fn two_cores_and_a_thread_share_the_log() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    std::thread::scope(|scope| {
        for index in 0..2 {
            let store = &store;
            scope.spawn(move || {
                on_core(store, |core| async move {
                    for expected in 1..=50 {
                        assert_eq!(core.commit(put(index, 1, b"x")).await.unwrap().number(), expected);
                    }
                });
            });
        }
        (1..=50).for_each(|expected| {
            assert_eq!(store.write_blocking(vec![put(2, 1, b"x")]).unwrap()[0].number(), expected);
        });
    });
    assert_eq!(store.stats().commit.batches.get(), 150);
}

#[test]
fn a_write_that_fails_stops_the_store() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    // A batch of another shard under this one's name: the log must not apply it, and cannot go on after it.
    let entry = Entry { shard: shard(1), ..Entry::new(put(0, 1, b"x")) };
    store.log().submit(Submission::new(vec![entry], 0, Inbox::new())).unwrap();
    let error = store.write_blocking(vec![put(0, 2, b"y")]).unwrap_err();
    assert!(matches!(error, CommitError::Stopped { .. } | CommitError::Unknown { .. }), "{error}");
    assert!(store.stopped().unwrap().contains("batch is for shard 0"));
    on_core(&store, |core| async move {
        assert!(matches!(core.commit(put(0, 3, b"z")).await, Err(CommitError::Stopped { .. })));
    });
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.applied_blocking(shard(0)).unwrap().number(), 0);
    assert_eq!(store.applied_blocking(shard(1)).unwrap().number(), 0);
    store.write_blocking(vec![put(0, 2, b"y")]).unwrap();
}

#[test]
fn the_driver_ends_with_the_last_handle_and_what_it_handed_over() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let (core, driver) = CoreStore::detached(&store);
    let clone = core.clone();
    drop(clone.commit(put(0, 1, b"x")));
    drop((core, clone));
    // Any executor will do: this one waits for the driver itself.
    let mut driver = std::pin::pin!(driver.run(|| std::future::ready(())));
    let waker = std::task::Waker::noop();
    while driver.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending() {
        std::thread::yield_now();
    }
    assert_eq!(store.applied_blocking(shard(0)).unwrap().number(), 1);
}

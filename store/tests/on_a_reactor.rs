//! The store on the real reactor: tasks of one turn share a hand-over, and answers wake a parked core.

mod common;

use std::cell::Cell;
use std::rc::Rc;

use common::{open, put, shard, user_key};
use sluice_core::{CoreId, Reactor, ReactorConfig};
use sluice_store::{CoreStore, KeyRange, Kind, Store};
use tempfile::tempdir;

const TASKS: u32 = 50;
const ROUNDS: u64 = 20;

/// A core whose tasks all commit to its shard, round by round.
async fn busy_core(store: Store, index: u16) {
    let core = CoreStore::new(&store);
    let done = Rc::new(Cell::new(0));
    for task in 0..TASKS {
        let (core, done) = (core.clone(), Rc::clone(&done));
        // Detached: the loop below waits for them all.
        drop(sluice_core::spawn(async move {
            for _ in 0..ROUNDS {
                core.commit(put(index, task, &index.to_be_bytes())).await.unwrap();
            }
            done.set(done.get() + 1);
        }));
    }
    while done.get() < TASKS {
        core.get(shard(index), &user_key(0)).await.unwrap();
        sluice_core::quiesce().await;
    }
    let page = core.scan(shard(index), KeyRange::kind(Kind::User), 100, false).await.unwrap();
    assert_eq!(page.rows.len(), TASKS as usize);
}

#[test]
fn tasks_of_a_turn_share_one_batch_and_one_answer() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    std::thread::scope(|scope| {
        for index in 0..2 {
            let store = store.clone();
            scope.spawn(move || {
                let reactor = Reactor::new(ReactorConfig::new(CoreId::new(index))).unwrap();
                reactor.block_on(busy_core(store, index)).unwrap();
            });
        }
    });
    for index in 0..2 {
        // All tasks of a core run in step: each round is one turn's batch.
        assert_eq!(store.applied_blocking(shard(index)).unwrap().number(), ROUNDS);
    }
    assert_eq!(store.stats().commit.batches.get(), 2 * ROUNDS);
}

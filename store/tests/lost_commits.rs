//! What was acknowledged is there, whole and counted, after a restart and after a kill at any moment.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use common::{SHARDS, config, open, put, shard, user_key};
use sluice_store::{Batch, Durability, Sequence, Store, StoreConfig};
use tempfile::tempdir;

fn number_at(store: &Store, index: u16, number: u32) -> u64 {
    let value = store.get_blocking(shard(index), &user_key(number)).unwrap();
    value.map_or(0, |value| u64::from_be_bytes(value.as_bytes().try_into().unwrap()))
}

#[test]
fn a_restart_keeps_data_and_goes_on_counting() {
    for durability in [Durability::Fsync, Durability::Os] {
        let dir = tempdir().unwrap();
        let config = StoreConfig { durability, ..config(dir.path()) };
        for round in 1..=3 {
            let store = Store::open(config.clone()).unwrap();
            assert_eq!(store.applied_blocking(shard(1)).unwrap().number(), round - 1);
            let sequences = store.write_blocking(vec![put(1, 7, &round.to_be_bytes())]).unwrap();
            assert_eq!(sequences[0].number(), round);
            assert_eq!(store.applied_blocking(shard(1)).unwrap().number(), round);
            assert_eq!(store.applied_blocking(shard(0)).unwrap(), Sequence::ZERO);
            assert_eq!(number_at(&store, 1, 7), round);
        }
    }
}

#[test]
fn deletes_take_effect_in_the_order_they_were_made() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let mut batch = Batch::new(shard(0));
    batch
        .put(&user_key(1), b"first")
        .delete(&user_key(1))
        .put(&user_key(2), b"x")
        .put(&user_key(2), b"second");
    store.write_blocking(vec![batch]).unwrap();
    assert_eq!(store.get_blocking(shard(0), &user_key(1)).unwrap(), None);
    assert_eq!(store.get_blocking(shard(0), &user_key(2)).unwrap().unwrap().as_bytes(), b"second");
}

#[test]
fn threads_that_write_one_shard_get_each_sequence_once() {
    let dir = tempdir().unwrap();
    let store = Store::open(StoreConfig { durability: Durability::Os, ..config(dir.path()) }).unwrap();
    let sum = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (store, sum) = (&store, &sum);
            scope.spawn(move || {
                for _ in 0..100 {
                    let sequence = store.write_blocking(vec![put(2, thread, b"x")]).unwrap()[0];
                    sum.fetch_add(sequence.number(), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(sum.into_inner(), (1..=400).sum::<u64>());
    assert_eq!(store.applied_blocking(shard(2)).unwrap().number(), 400);
    assert_eq!(store.stats().commit.batches.get(), 400);
}

const WRITER_DIR: &str = "SLUICE_TEST_WRITER_DIR";

/// Run by the next test in a process of its own, until it is killed. Writes `n` to every shard at once, and says
/// `n` once it is acknowledged; meanwhile a second thread keeps the log busy.
#[test]
fn writer_process() {
    let Ok(path) = std::env::var(WRITER_DIR) else { return };
    let store = open(path.as_ref());
    let busy = store.clone();
    std::thread::spawn(move || {
        loop {
            busy.write_blocking(vec![put(3, 99, &[0; 8])]).unwrap();
        }
    });
    let mut number = number_at(&store, 0, 1);
    loop {
        number += 1;
        let batches = (0..SHARDS).map(|index| put(index, 1, &number.to_be_bytes())).collect();
        store.write_blocking(batches).unwrap();
        println!("ack {number}");
        std::io::stdout().flush().unwrap();
    }
}

/// Kills a writer after it acknowledged some more; gives the last number whose acknowledgement arrived.
fn write_and_kill(path: &Path, acks: usize) -> u64 {
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer_process", "--nocapture"])
        .env(WRITER_DIR, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    let mut last = 0;
    let mut seen = 0;
    // To the end of what it wrote: a line is one write to the pipe, so none is cut short.
    for line in lines {
        let line = line.unwrap();
        let Some((_, number)) = line.split_once("ack ") else { continue };
        last = number.parse().unwrap();
        seen += 1;
        if seen == acks {
            writer.kill().unwrap();
        }
    }
    writer.wait().unwrap();
    last
}

#[test]
fn a_killed_process_loses_nothing_acknowledged_and_tears_no_group() {
    let dir = tempdir().unwrap();
    for acks in [1, 3, 40, 7, 120, 2, 61, 23] {
        let acknowledged = write_and_kill(dir.path(), acks);
        let store = open(dir.path());
        let numbers: Vec<u64> = (0..SHARDS).map(|index| number_at(&store, index, 1)).collect();
        assert!(numbers[0] >= acknowledged, "{acknowledged} was acknowledged, found {numbers:?}");
        assert!(numbers.iter().all(|number| *number == numbers[0]), "a group was torn: {numbers:?}");
        for index in 0..3 {
            let applied = store.applied_blocking(shard(index)).unwrap().number();
            assert_eq!(applied, numbers[0], "shard {index} counted another number of batches than it holds");
        }
    }
}

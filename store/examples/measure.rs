//! What a store costs on this machine: memory of idle families, then commits a second by the number of commands in
//! a group, each command three puts of 1 KB in all, synced.
//!
//! `cargo run --release -p sluice-store --example measure [shard_count] [seconds]`

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sluice_protocols::ids::{SessionId, ShardCount, ShardId, TaskId, UserId};
use sluice_store::{Batch, Key, Store, StoreConfig};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let shards: u16 = args.next().map_or(Ok(256), |arg| arg.parse()).context("shard_count")?;
    let seconds: u64 = args.next().map_or(Ok(2), |arg| arg.parse()).context("seconds")?;
    let shards = ShardCount::new(shards).context("shard_count is 1 to 4096")?;
    let dir = tempfile::tempdir()?;
    println!("rss before: {} KiB", rss_kib()?);
    let began = Instant::now();
    let store = Store::open(StoreConfig::new(dir.path(), shards))?;
    println!("made {} families in {:?}, rss: {} KiB", shards.get(), began.elapsed(), rss_kib()?);
    drop(store);
    let began = Instant::now();
    let store = Store::open(StoreConfig::new(dir.path(), shards))?;
    println!("opened again in {:?}, idle rss: {} KiB", began.elapsed(), rss_kib()?);
    for shard in shards.shards() {
        store.write_blocking(vec![command(shard, 0)])?;
    }
    println!("every family written to once, rss: {} KiB, {:?}", rss_kib()?, store.memory_use());
    for group in [1, 4, 16, 64] {
        rate(&store, group, Duration::from_secs(seconds))?;
    }
    println!("rss after: {} KiB, {:?}", rss_kib()?, store.memory_use());
    let commit = &store.stats().commit;
    println!("groups {}, longest write {} us", commit.groups.get(), commit.write_ns_max.get() / 1_000);
    Ok(())
}

fn command(shard: ShardId, number: u64) -> Batch {
    let user = UserId::from_bytes(u128::from(number % 10_000).to_be_bytes());
    let task = TaskId::new(number, [0; 10]);
    let mut batch = Batch::new(shard);
    batch.put(&Key::task_pending(&user, &task), &[1; 500]);
    batch.put(&Key::history(&user, number, &task), &[2; 200]);
    batch.put(&Key::session(&user, &SessionId::from_bytes([3; 16])), &[3; 300]);
    batch
}

fn rate(store: &Store, group: usize, how_long: Duration) -> Result<()> {
    let shards: Vec<ShardId> = store.shard_count().shards().collect();
    let (began, cpu) = (Instant::now(), cpu_us()?);
    let mut number = 0;
    let mut next = shards.iter().copied().cycle();
    while began.elapsed() < how_long {
        store.write_blocking(next.by_ref().take(group).map(|shard| command(shard, number)).collect())?;
        number += group as u64;
    }
    let (took, cpu) = (began.elapsed(), cpu_us()? - cpu);
    let per_second = number as f64 / took.as_secs_f64();
    println!(
        "{group:>3} commands a commit: {per_second:>8.0} commands/s, {:>5.1} us CPU each",
        cpu as f64 / number as f64
    );
    Ok(())
}

/// Resident memory of this process.
fn rss_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
    line.split_whitespace().nth(1).context("VmRSS")?.parse().context("VmRSS")
}

/// CPU time of all threads of this process, in microseconds at the kernel's 100 ticks a second.
fn cpu_us() -> Result<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().context("stat")?.split_whitespace().collect();
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(ticks * 10_000)
}

//! What the vault costs on this machine: sealing and opening a secret, a data key made and wrapped or read and unwrapped, and a
//! rotation of all users' data keys, through the commit log, synced.
//!
//! `cargo run --release --workspace --example vault [users] [seconds]`

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sluice_protocols::ids::{ShardCount, ShardId, UserId};
use sluice_store::record::{ConnectionRecord, Provider, StoredSecret};
use sluice_store::vault::{Keyring, PART_ROWS_MAX, Place, Survey, Work};
use sluice_store::{Batch, Store, StoreConfig, Vault};

/// As long as Google's.
const TOKEN: &str = "1//0e0aBcDeFgHiJkLmNoPqRsTuVwXyZ-L9IrAbCdEfGhIjKlMnOpQrStUvWxYz0123456789abcdefghijklmnopqrstuvwxyz-_ABCD";
/// Users made in one write.
const PART: usize = 2_000;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let users: u64 = args.next().map_or(Ok(100_000), |arg| arg.parse()).context("users")?;
    let seconds: u64 = args.next().map_or(Ok(1), |arg| arg.parse()).context("seconds")?;
    let how_long = Duration::from_secs(seconds);
    let dir = tempfile::tempdir()?;
    let shards = ShardCount::new(256).context("a count")?;
    let store = Store::open(StoreConfig::new(dir.path(), shards))?;
    let mut keyring = Keyring::generate()?;
    let vault = Vault::open(&store, Keyring::parse(&keyring.to_text())?)?;

    let user = user(0);
    let place = Place::refresh_token(&user, Provider::Google);
    let mut batch = Batch::new(ShardId::of(&user, shards));
    let key = vault.key_for_new_user(&user, &mut batch)?;
    store.write_blocking(vec![batch])?;
    let stored = key.seal(&place, TOKEN)?;
    let StoredSecret::Sealed(sealed) = &stored else { unreachable!("just sealed") };
    println!("a token of {} bytes becomes {}", TOKEN.len(), sealed.as_bytes().len());
    each("seal", how_long, || key.seal(&place, black_box(TOKEN)).map(drop))?;
    each("open", how_long, || key.open(&place, black_box(sealed)).map(drop))?;
    each("make and wrap a data key", how_long, || {
        vault.key_for_new_user(&user, &mut Batch::new(ShardId::of(&user, shards))).map(drop)
    })?;
    each("read and unwrap a data key, and open", how_long, || {
        vault.open_blocking(&place, black_box(&stored)).map(drop)
    })?;

    let began = Instant::now();
    connect(&vault, users)?;
    rate("connected", users, began.elapsed());
    keyring.add()?;
    vault.reload(keyring)?;
    let began = Instant::now();
    let survey = walk(&vault, Work::Rotate)?;
    rate("rotated", survey.wrapped, began.elapsed());
    let began = Instant::now();
    let survey = walk(&vault, Work::Count)?;
    rate("counted", survey.under.values().sum(), began.elapsed());
    Ok(())
}

fn user(number: u64) -> UserId {
    UserId::from_bytes((u128::from(number) << 64).to_be_bytes())
}

/// Nanoseconds for one, by the clock, over so long.
fn each<E: std::error::Error + Send + Sync + 'static>(
    what: &str,
    how_long: Duration,
    mut one: impl FnMut() -> Result<(), E>,
) -> Result<()> {
    let (began, mut count) = (Instant::now(), 0u64);
    while began.elapsed() < how_long {
        for _ in 0..100 {
            one()?;
        }
        count += 100;
    }
    println!("{what}: {:.0} ns", began.elapsed().as_secs_f64() * 1e9 / count as f64);
    Ok(())
}

fn rate(what: &str, users: u64, took: Duration) {
    println!("{what} {users} users in {took:.2?}: {:.0} users/s", users as f64 / took.as_secs_f64());
}

fn connect(vault: &Vault, users: u64) -> Result<()> {
    let store = vault.store();
    let numbers: Vec<u64> = (1..=users).collect();
    for part in numbers.chunks(PART) {
        let mut batches = Vec::with_capacity(part.len());
        for number in part {
            let user = user(*number);
            let mut batch = Batch::new(ShardId::of(&user, store.shard_count()));
            let place = Place::refresh_token(&user, Provider::Google);
            let refresh_token = vault.key_for_new_user(&user, &mut batch)?.seal(&place, TOKEN)?;
            let record = ConnectionRecord::given(user, "someone@example.com", refresh_token, "", 0);
            batch.put_record(place.key(), &record)?;
            batches.push(batch);
        }
        store.write_blocking(batches)?;
    }
    Ok(())
}

fn walk(vault: &Vault, work: Work) -> Result<Survey> {
    let (mut survey, mut cursor) = (Survey::default(), None);
    loop {
        let part = vault.walk_blocking(cursor, PART_ROWS_MAX, work)?;
        survey.add(&part.survey);
        cursor = part.next;
        if cursor.is_none() {
            return Ok(survey);
        }
    }
}

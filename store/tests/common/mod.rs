//! What the tests share: small stores, records, and an executor of one future and one driver.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::future::{Future, ready};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use sluice_protocols::ids::{ShardCount, ShardId, UserId};
use sluice_store::record::UserRecord;
use sluice_store::{Batch, CoreStore, Key, Store, StoreConfig};

pub(crate) const SHARDS: u16 = 4;

pub(crate) fn shards(count: u16) -> ShardCount {
    ShardCount::new(count).unwrap()
}

pub(crate) fn shard(index: u16) -> ShardId {
    ShardId::new(index, shards(SHARDS)).unwrap()
}

pub(crate) fn config(path: &Path) -> StoreConfig {
    StoreConfig {
        block_cache_bytes: 8 << 20,
        write_buffer_bytes: 8 << 20,
        ..StoreConfig::new(path, shards(SHARDS))
    }
}

pub(crate) fn open(path: &Path) -> Store {
    Store::open(config(path)).unwrap()
}

pub(crate) fn user_id(number: u32) -> UserId {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    UserId::from_bytes(bytes)
}

pub(crate) fn user_key(number: u32) -> Key {
    Key::user(&user_id(number))
}

pub(crate) fn user(number: u32) -> UserRecord {
    UserRecord {
        id: user_id(number),
        name: format!("User {number}"),
        email: format!("user{number}@example.com"),
        time_zone: "UTC".to_owned(),
        created_ms: 1,
        disabled: false,
        role: 0,
        tokens_since_ms: 0,
    }
}

/// A batch that puts `value` under a user's key.
pub(crate) fn put(index: u16, number: u32, value: &[u8]) -> Batch {
    let mut batch = Batch::new(shard(index));
    batch.put(&user_key(number), value);
    batch
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs `main` as the one task of a core, with the core's driver behind it at the end of each turn.
pub(crate) fn on_core<F: Future>(store: &Store, main: impl FnOnce(CoreStore) -> F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    let (core, driver) = CoreStore::detached(store);
    let mut main = pin!(main(core));
    let mut driver = pin!(driver.run(|| ready(())));
    let mut driver_done = false;
    loop {
        if let Poll::Ready(output) = main.as_mut().poll(&mut cx) {
            return output;
        }
        driver_done = driver_done || driver.as_mut().poll(&mut cx).is_ready();
        std::thread::park();
    }
}

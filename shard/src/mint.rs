//! Makes the names of one core's new tasks, sessions, webhooks, messages and requests.
//!
//! Invariants:
//! - ids of each kind but requests' rise on a core, even within a millisecond or when the wall clock steps back while the
//!   process lives: the order of a user's ids is the order in which they were given out;
//! - ids hold 80 bits from the host's random source, drawn in blocks.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;

use sluice_protocols::ids::{
    ConnectionId, DeliveryId, GenerationId, SessionId, SnapshotId, TaskId, WebhookId,
};

/// Random bytes drawn at once: enough for some 50 ids a system call.
const BLOCK_BYTES: usize = 512;

/// See the module.
pub(crate) struct Mint {
    random: RefCell<Block>,
    task_last: Cell<u128>,
    session_last: Cell<u128>,
    context_last: Cell<u128>,
    webhook_last: Cell<u128>,
    message_last: Cell<u128>,
    connection_last: Cell<u128>,
    request_seed: u64,
    request_count: Cell<u64>,
}

struct Block {
    bytes: [u8; BLOCK_BYTES],
    used: usize,
}

impl Block {
    /// # Panics
    /// When the host has no random source: no id or key can be made then.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        if self.used + N > BLOCK_BYTES {
            getrandom::fill(&mut self.bytes).expect("the host has a random source");
            self.used = 0;
        }
        let taken = &self.bytes[self.used..self.used + N];
        self.used += N;
        taken.try_into().expect("N bytes were taken")
    }
}

impl Mint {
    pub(crate) fn new() -> Self {
        let mut random = Block { bytes: [0; BLOCK_BYTES], used: BLOCK_BYTES };
        let request_seed = u64::from_be_bytes(random.take());
        Self {
            random: RefCell::new(random),
            task_last: Cell::new(0),
            session_last: Cell::new(0),
            context_last: Cell::new(0),
            webhook_last: Cell::new(0),
            message_last: Cell::new(0),
            connection_last: Cell::new(0),
            request_seed,
            request_count: Cell::new(0),
        }
    }

    /// A task made at `unix_ms`.
    pub(crate) fn task(&self, unix_ms: u64) -> TaskId {
        TaskId::from_bytes(self.rising(unix_ms, &self.task_last))
    }

    /// A session that begins at `unix_ms`; [`session_began_ms`] reads that moment back.
    pub(crate) fn session(&self, unix_ms: u64) -> SessionId {
        SessionId::from_bytes(self.rising(unix_ms, &self.session_last))
    }

    /// A state of a context document's content that is written from `unix_ms` on.
    pub(crate) fn generation(&self, unix_ms: u64) -> GenerationId {
        GenerationId::from_bytes(self.rising(unix_ms, &self.context_last))
    }

    /// A snapshot of context documents that is taken at `unix_ms`.
    pub(crate) fn snapshot(&self, unix_ms: u64) -> SnapshotId {
        SnapshotId::from_bytes(self.rising(unix_ms, &self.context_last))
    }

    /// A webhook made at `unix_ms`.
    pub(crate) fn webhook(&self, unix_ms: u64) -> WebhookId {
        WebhookId::from_bytes(self.rising(unix_ms, &self.webhook_last))
    }

    /// A message to a webhook, made at `unix_ms`.
    pub(crate) fn message(&self, unix_ms: u64) -> DeliveryId {
        DeliveryId::from_bytes(self.rising(unix_ms, &self.message_last))
    }

    /// A connection made at `unix_ms`.
    pub(crate) fn connection(&self, unix_ms: u64) -> ConnectionId {
        ConnectionId::from_bytes(self.rising(unix_ms, &self.connection_last))
    }

    /// Makes every later task id greater than `task`, which an earlier process gave out.
    pub(crate) fn pass_task(&self, task: &TaskId) {
        let passed = u128::from_be_bytes(*task.as_bytes());
        self.task_last.set(self.task_last.get().max(passed));
    }

    /// Something random.
    pub(crate) fn random(&self) -> u64 {
        u64::from_be_bytes(self.random.borrow_mut().take())
    }

    fn rising(&self, unix_ms: u64, last: &Cell<u128>) -> [u8; 16] {
        let fresh = TaskId::new(unix_ms, self.random.borrow_mut().take());
        let fresh = u128::from_be_bytes(*fresh.as_bytes());
        let value = fresh.max(last.get().saturating_add(1));
        last.set(value);
        value.to_be_bytes()
    }

    /// The name of a request that brought none: 16 hexadecimal digits that tell it from the others of this and
    /// of other cores, and tell nothing else.
    pub(crate) fn request(&self) -> String {
        let count = self.request_count.get().wrapping_add(1);
        self.request_count.set(count);
        let mut text = String::with_capacity(16);
        let _ = write!(text, "{:016x}", mix(self.request_seed.wrapping_add(count.wrapping_mul(GOLDEN))));
        text
    }
}

/// 2^64 divided by the golden ratio: steps that visit every number.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64: a one-to-one map that hides the counter.
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// When a session of [`Mint::session`] began, in milliseconds since 1970.
pub(crate) fn session_began_ms(session: &SessionId) -> u64 {
    TaskId::from_bytes(*session.as_bytes()).unix_ms()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_within_a_millisecond_and_when_the_clock_steps_back() {
        let mint = Mint::new();
        let tasks: Vec<_> = [5, 5, 5, 9, 3, 3].into_iter().map(|ms| mint.task(ms)).collect();
        assert!(tasks.is_sorted_by(|a, b| a < b), "{tasks:?}");
        assert_eq!(tasks[0].unix_ms(), 5);
    }

    #[test]
    fn ids_rise_above_those_of_an_earlier_process() {
        let mint = Mint::new();
        let earlier = TaskId::new(1_000, [255; 10]);
        mint.pass_task(&earlier);
        assert!(mint.task(7) > earlier);
    }

    #[test]
    fn a_session_tells_when_it_began() {
        assert_eq!(session_began_ms(&Mint::new().session(1_795_000_000_123)), 1_795_000_000_123);
    }

    #[test]
    fn thousands_of_names_are_distinct() {
        let mint = Mint::new();
        let mut names: Vec<_> = (0..5_000).map(|_| mint.request()).collect();
        assert!(names.iter().all(|name| name.len() == 16));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 5_000);
        let mut sessions: Vec<_> = (0..5_000).map(|_| mint.session(1)).collect();
        sessions.dedup();
        assert_eq!(sessions.len(), 5_000);
    }
}

//! The reactor of one core.
//!
//! A [`Reactor`] belongs to one pinned thread. It owns an io_uring (or, where
//! that is forbidden, an epoll instance: [`IoChoice`]), the tasks spawned on that
//! thread, their timers and the core's ends of the mailboxes that join it to the
//! other cores. Everything here is `!Send`; what crosses
//! threads is a [`std::task::Waker`], a [`RemoteWaker`] or a [`mailbox`]
//! message, and nothing else.
//!
//! One turn of the loop:
//!
//! 1. reap completions, foreign wakes and mailboxes; fire due timers;
//! 2. poll ready tasks until none is left (or the turn's budget is spent), then
//!    those that wait for the end of the turn ([`quiesce`]);
//! 3. submit everything and wait, with the next timer's deadline riding along:
//!    one `io_uring_enter`, or a `sendmmsg` a socket and an `epoll_pwait2`.
//!
//! Invariants:
//! - The clock is read once a turn for tasks ([`now`]), and once more before
//!   sleeping, for the stall detector alone.
//! - A buffer that the kernel may write to or read from belongs to its
//!   operation, never to the future that waits for it ([`op`]).
//! - A wake from the same thread is a push to a local queue; a wake from
//!   another thread costs at most one eventfd write until the core has woken.

mod error;
mod executor;
mod io;
pub mod mailbox;
pub mod op;
mod reactor;
mod remote;
pub mod spsc;
mod stall;
mod stats;
pub mod timer;
pub mod udp;
pub mod words;

pub use error::{EnterError, SetupError};
pub use executor::{JoinHandle, now, quiesce, spawn, yield_now};
pub use io::{IO_VARIABLE, IoBackend, IoChoice, UnknownIo};
pub use reactor::{Reactor, ReactorConfig, TurnHook, add_turn_hook, remote_waker};
pub use remote::RemoteWaker;
pub use stats::{CoreStats, Counter};
pub use timer::{Elapsed, sleep, sleep_until, timeout_at};

/// Index of a shard core in this process, `0..cores`.
///
/// It is not a CPU number: which CPU a core's thread is pinned to is the
/// caller's choice ([`ReactorConfig::cpu`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CoreId(u16);

impl CoreId {
    /// Most shard cores a process may have. Connection steering reduces a
    /// 16-bit field modulo the number of cores, so this stays well below 2^16.
    pub const COUNT_MAX: usize = 256;

    /// The core with this index.
    ///
    /// # Panics
    /// If `index` is [`Self::COUNT_MAX`] or more; configuration is checked
    /// before cores are made.
    pub const fn new(index: u16) -> Self {
        assert!((index as usize) < Self::COUNT_MAX);
        Self(index)
    }

    /// Position of this core in arrays that have one entry a core.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The number as it stands in connection IDs and metrics.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl std::fmt::Display for CoreId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

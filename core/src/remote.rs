//! What other threads may do to a core: wake it, and wake tasks on it.
//!
//! A task's waker is a plain number (reactor, slot, generation), so cloning and
//! dropping it costs nothing and it may be sent anywhere. The table in this
//! module turns the reactor's number into the queue its foreign wakes go to.
//!
//! Parking: the core sets `parked`, then looks at every inbound queue once more,
//! then sleeps. A waker pushes first and then swaps `parked`; sequentially
//! consistent fences on both sides make sure that one of them sees the other.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{RawWaker, RawWakerVTable, Waker};

use crate::executor;

/// Reactors that may live in one process at a time: the number has eight bits
/// in a waker, and the highest is kept for the "no reactor" mark.
pub(crate) const REACTORS_MAX: usize = 255;

/// A task as a waker names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TaskRef {
    pub(crate) reactor: u8,
    /// 24 bits; wraps. A stale waker that meets a reused slot and a wrapped
    /// generation causes one needless poll, which futures must bear anyway.
    pub(crate) generation: u32,
    pub(crate) slot: u32,
}

impl TaskRef {
    pub(crate) const GENERATION_MASK: u32 = (1 << 24) - 1;

    #[allow(clippy::cast_possible_truncation, reason = "64-bit targets only, asserted below")]
    fn pack(self) -> usize {
        ((self.reactor as usize) << 56) | ((self.generation as usize) << 32) | self.slot as usize
    }

    #[allow(clippy::cast_possible_truncation, reason = "each part is cut to its width")]
    fn unpack(word: usize) -> Self {
        Self {
            reactor: (word >> 56) as u8,
            generation: (word >> 32) as u32 & Self::GENERATION_MASK,
            slot: word as u32,
        }
    }
}

const _: () = assert!(usize::BITS == 64, "wakers pack three numbers into one 64-bit word");

/// The part of a reactor that other threads see.
#[derive(Debug)]
pub(crate) struct Remote {
    parked: AtomicBool,
    eventfd: OwnedFd,
    /// Bounded by what can be outstanding: every operation that completes on
    /// another thread wakes its task once, and those are bounded by their pools.
    woken: Mutex<Vec<usize>>,
}

impl Remote {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes two integers and returns a descriptor or -1.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just made and nobody else owns it.
        let eventfd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { parked: AtomicBool::new(false), eventfd, woken: Mutex::new(Vec::new()) })
    }

    pub(crate) fn eventfd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }

    fn woken(&self) -> MutexGuard<'_, Vec<usize>> {
        // A push cannot leave the list half done, so a poisoned lock is usable.
        self.woken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_task(&self, word: usize) {
        self.woken().push(word);
        self.wake();
    }

    /// Ends the core's sleep if it sleeps; one system call at most per sleep.
    pub(crate) fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.parked.load(Ordering::Relaxed) && self.parked.swap(false, Ordering::SeqCst) {
            let one = 1u64;
            // SAFETY: writes eight bytes from a live integer to our own eventfd.
            // The only failure is a counter at its maximum, which also wakes.
            unsafe { libc::write(self.eventfd(), (&raw const one).cast(), 8) };
        }
    }

    /// Announces sleep. The caller must look at its inbound queues after this
    /// and, when one is not empty, call [`unpark`](Self::unpark) and not sleep.
    pub(crate) fn park(&self) {
        self.parked.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn unpark(&self) {
        self.parked.store(false, Ordering::Relaxed);
    }

    pub(crate) fn has_woken(&self) -> bool {
        !self.woken().is_empty()
    }

    /// Swaps the list of foreign wakes into `into`, which must be empty.
    pub(crate) fn take_woken(&self, into: &mut Vec<usize>) {
        debug_assert!(into.is_empty());
        let mut woken = self.woken();
        if !woken.is_empty() {
            std::mem::swap(&mut *woken, into);
        }
    }
}

/// Ends a core's sleep from any thread.
#[derive(Clone, Debug)]
pub struct RemoteWaker(pub(crate) Arc<Remote>);

impl RemoteWaker {
    /// Makes the core take another turn. Calls between two turns are one wake.
    pub fn wake(&self) {
        self.0.wake();
    }
}

static TABLE: RwLock<[Option<Arc<Remote>>; REACTORS_MAX]> = RwLock::new([const { None }; REACTORS_MAX]);

/// Enters a reactor into the table and returns its number.
pub(crate) fn register(remote: &Arc<Remote>) -> Option<u8> {
    let mut table = TABLE.write().unwrap_or_else(PoisonError::into_inner);
    let index = table.iter().position(Option::is_none)?;
    table[index] = Some(Arc::clone(remote));
    u8::try_from(index).ok()
}

pub(crate) fn unregister(reactor: u8) {
    TABLE.write().unwrap_or_else(PoisonError::into_inner)[reactor as usize] = None;
}

/// A waker for a task.
pub(crate) fn waker(task: TaskRef) -> Waker {
    // SAFETY: the vtable below never dereferences the data word; it is a number.
    unsafe { Waker::from_raw(raw_waker(task.pack())) }
}

fn raw_waker(word: usize) -> RawWaker {
    RawWaker::new(std::ptr::without_provenance(word), &VTABLE)
}

static VTABLE: RawWakerVTable = RawWakerVTable::new(
    |data| raw_waker(data.addr()),
    |data| wake_word(data.addr()),
    |data| wake_word(data.addr()),
    |_| (),
);

fn wake_word(word: usize) {
    let task = TaskRef::unpack(word);
    if executor::wake_local(task) {
        return;
    }
    // Cloned out so that the table's lock is not held over a system call.
    let remote =
        TABLE.read().unwrap_or_else(PoisonError::into_inner)[task.reactor as usize].as_ref().map(Arc::clone);
    // A reactor that is gone has dropped its tasks: nothing is left to wake.
    if let Some(remote) = remote {
        remote.wake_task(word);
    }
}

pub(crate) fn task_of(word: usize) -> TaskRef {
    TaskRef::unpack(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_survives_the_trip_through_a_word() {
        let task = TaskRef { reactor: 254, generation: TaskRef::GENERATION_MASK, slot: u32::MAX - 7 };
        assert_eq!(TaskRef::unpack(task.pack()), task);
    }
}

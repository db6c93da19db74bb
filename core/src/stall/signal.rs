//! What the stall detector asks of the kernel: a thread's usage, and a signal that has a thread write down its stack.
//!
//! Invariants:
//! - The handler touches a thread-local pointer and the [`StackCell`] behind it, and allocates and locks nothing.
//!   [`hold`] sets the pointer to a cell that lives until [`release`] takes it away on the same thread.

use std::cell::Cell;
use std::ffi::c_int;
use std::io;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Return addresses kept of a stack: enough to get from the reactor's loop to whoever blocks it.
pub(super) const FRAMES_MAX: usize = 64;

/// What a thread has used of its CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Time on a CPU, in user space and in the kernel.
    pub(crate) cpu: Duration,
    /// How often it gave up its CPU by itself, to wait for something.
    pub(crate) switches_own: i64,
}

/// The calling thread's usage since it began. Two system calls.
pub(crate) fn usage() -> Usage {
    // SAFETY: zeroes are valid for both, and the calls write to live memory of their type. Neither can fail for the
    // calling thread.
    let (time, usage) = unsafe {
        let (mut time, mut usage): (libc::timespec, libc::rusage) = (std::mem::zeroed(), std::mem::zeroed());
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time);
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        (time, usage)
    };
    // The times in rusage are those of the last tick or switch, some milliseconds ago: what was used by several turns
    // would be put down to the one in which they are brought up to date.
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
    Usage { cpu: Duration::from_secs(seconds) + Duration::from_nanos(nanos), switches_own: usage.ru_nvcsw }
}

/// Where a thread's stack is written down when it is asked for.
#[derive(Debug)]
pub(super) struct StackCell {
    frames: [AtomicUsize; FRAMES_MAX],
    count: AtomicUsize,
    is_written: AtomicBool,
}

impl Default for StackCell {
    fn default() -> Self {
        Self {
            frames: [const { AtomicUsize::new(0) }; FRAMES_MAX],
            count: AtomicUsize::new(0),
            is_written: AtomicBool::new(false),
        }
    }
}

impl StackCell {
    /// Before the thread is asked.
    pub(super) fn clear(&self) {
        self.is_written.store(false, Ordering::Release);
    }

    /// The addresses, the innermost first, once they are written.
    pub(super) fn written(&self) -> Option<Vec<usize>> {
        if !self.is_written.load(Ordering::Acquire) {
            return None;
        }
        let count = self.count.load(Ordering::Relaxed).min(FRAMES_MAX);
        Some(self.frames[..count].iter().map(|frame| frame.load(Ordering::Relaxed)).collect())
    }

    fn write(&self) {
        let mut count = 0;
        // SAFETY: "unsynchronized" is about resolving symbols, of which there is none here. The unwinder finds its tables
        // by a look-up that takes no lock (glibc 2.35 and later).
        unsafe {
            backtrace::trace_unsynchronized(|frame| {
                self.frames[count].store(frame.ip().addr(), Ordering::Relaxed);
                count += 1;
                count < FRAMES_MAX
            });
        }
        self.count.store(count, Ordering::Relaxed);
        self.is_written.store(true, Ordering::Release);
    }
}

/// A thread, as the kernel numbers it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tid(libc::pid_t);

impl Tid {
    pub(super) fn current() -> Self {
        // SAFETY: takes nothing and cannot fail.
        Self(unsafe { libc::gettid() })
    }
}

thread_local! {
    /// Plain data without a destructor: a handler may read it at any time of the thread's life.
    static CELL: Cell<*const StackCell> = const { Cell::new(ptr::null()) };
}

/// From here on the calling thread writes its stack to `cell` when asked. The caller must keep `cell` until the same
/// thread has called [`release`].
pub(super) fn hold(cell: &StackCell) {
    CELL.set(ptr::from_ref(cell));
}

/// The calling thread writes no stack any more.
pub(super) fn release() {
    CELL.set(ptr::null());
}

/// Real-time signals are ours to choose from; the first few are taken by others more often.
fn signal() -> c_int {
    libc::SIGRTMIN() + 7
}

/// Has `thread`, one of this process, write down its stack.
pub(super) fn ask(thread: Tid) -> io::Result<()> {
    static INSTALLED: OnceLock<Option<i32>> = OnceLock::new();
    if let Some(error) = INSTALLED.get_or_init(install) {
        return Err(io::Error::from_raw_os_error(*error));
    }
    // SAFETY: takes numbers only. A thread that is gone, or a number that another thread of ours took over, is
    // harmless: the handler of a thread without a cell returns at once.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread.0, signal()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The error's number, if there is one.
fn install() -> Option<i32> {
    // SAFETY: zeroes are a valid sigaction, whose fields are then set; the handler keeps to what is allowed in one (module
    // invariant), and the action is installed before any such signal is sent.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = write_stack as *const () as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(signal(), &raw const action, ptr::null_mut())
    };
    (result != 0).then(|| io::Error::last_os_error().raw_os_error().unwrap_or_default())
}

extern "C" fn write_stack(_: c_int) {
    // A failing system call is what the interrupted code may be about to look at.
    // SAFETY: errno belongs to the calling thread and is always there.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let kept = unsafe { *errno };
    // SAFETY: null, or a cell that `hold` was given and that its caller keeps until `release`.
    if let Some(cell) = unsafe { CELL.get().as_ref() } {
        cell.write();
    }
    // SAFETY: as above.
    unsafe { *errno = kept };
}

//! Waiting, as precisely as timers need it.
//!
//! `epoll_pwait2` takes nanoseconds. Where it is missing (kernels before 5.11,
//! containers with an old list of system calls) `ppoll` waits for the epoll
//! instance instead, also by the nanosecond, at one more system call a wait.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Descriptors reported in one turn; the rest is reported in the next.
const EVENTS_MAX: usize = 256;
/// What the wake eventfd's events carry; no descriptor has this number.
const WAKE: u64 = u64::MAX;

const _: () = assert!(size_of::<libc::timespec>() == 16, "as the kernel's on 64-bit targets");

pub(super) struct Poller {
    epoll: OwnedFd,
    has_pwait2: bool,
    events: Vec<libc::epoll_event>,
    /// Events of the last wait, from `taken` on not yet handed out.
    count: usize,
    taken: usize,
}

impl Poller {
    pub(super) fn new(wake_fd: RawFd) -> io::Result<Self> {
        // SAFETY: takes an integer and returns a descriptor or -1.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: `fd` was just made and nobody else owns it.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        let events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
        let mut this = Self { epoll, has_pwait2: true, events, count: 0, taken: 0 };
        // Each write to an eventfd is a new edge, so it needs no reading.
        this.control(libc::EPOLL_CTL_ADD, wake_fd, (libc::EPOLLIN | libc::EPOLLET) as u32, WAKE)?;
        this.has_pwait2 = match this.pwait2(Duration::ZERO) {
            Err(error) => !matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)),
            Ok(_) => true,
        };
        Ok(this)
    }

    #[cfg(test)]
    pub(super) fn forget_pwait2(&mut self) {
        self.has_pwait2 = false;
    }

    /// Changes what is watched of a descriptor, from `before` to `after`; zero is
    /// not at all.
    pub(super) fn register(&self, fd: RawFd, before: u32, after: u32) -> io::Result<()> {
        let operation = match (before, after) {
            (0, _) => libc::EPOLL_CTL_ADD,
            (_, 0) => libc::EPOLL_CTL_DEL,
            _ => libc::EPOLL_CTL_MOD,
        };
        self.control(operation, fd, after, u64::try_from(fd).expect("not negative"))
    }

    fn control(&self, operation: libc::c_int, fd: RawFd, events: u32, data: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: data };
        // SAFETY: the event lives here, and the kernel copies it.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &raw mut event) }).map(drop)
    }

    /// Fills the list of events. Those of the wait before must have been taken:
    /// a wake is not reported twice.
    pub(super) fn wait(&mut self, limit: Option<Duration>) -> io::Result<()> {
        debug_assert_eq!(self.count, self.taken);
        (self.count, self.taken) = (0, 0);
        let result = match limit {
            None => self.wait_ms(-1),
            Some(Duration::ZERO) => self.wait_ms(0),
            Some(limit) if self.has_pwait2 => self.pwait2(limit),
            Some(limit) => self.ppoll(limit).and_then(|()| self.wait_ms(0)),
        };
        match result {
            Ok(count) => {
                self.count = count;
                Ok(())
            }
            // A signal: whatever came with it shows in the next turn.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The next event of the last wait: a descriptor and what it is ready for.
    pub(super) fn next(&mut self) -> Option<(RawFd, u32)> {
        while self.taken < self.count {
            let event = self.events[self.taken];
            self.taken += 1;
            // The wake itself has been the message; its descriptor is not looked at.
            if let Ok(fd) = RawFd::try_from(event.u64) {
                return Some((fd, event.events));
            }
        }
        None
    }

    fn wait_ms(&mut self, timeout_ms: libc::c_int) -> io::Result<usize> {
        let max = libc::c_int::try_from(EVENTS_MAX).expect("256");
        // SAFETY: the list has room for EVENTS_MAX events and lives meanwhile.
        let count = check(unsafe {
            libc::epoll_wait(self.epoll.as_raw_fd(), self.events.as_mut_ptr(), max, timeout_ms)
        })?;
        Ok(usize::try_from(count).expect("checked"))
    }

    fn pwait2(&mut self, limit: Duration) -> io::Result<usize> {
        let timeout = timespec(limit);
        // Not by the C library's name, which Debian 11 does not have.
        // SAFETY: the list has room for EVENTS_MAX events; list and timeout live
        // meanwhile; a null signal mask is left alone, and its size not read.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epoll.as_raw_fd(),
                self.events.as_mut_ptr(),
                EVENTS_MAX,
                &raw const timeout,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    fn ppoll(&self, limit: Duration) -> io::Result<()> {
        let mut watched = libc::pollfd { fd: self.epoll.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let timeout = timespec(limit);
        // SAFETY: one descriptor and the timeout, both live here; no signal mask.
        check(unsafe { libc::ppoll(&raw mut watched, 1, &raw const timeout, std::ptr::null()) }).map(drop)
    }
}

fn timespec(limit: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: libc::time_t::try_from(limit.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(limit.subsec_nanos().cast_signed()),
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

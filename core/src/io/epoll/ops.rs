//! Single operations: tried when `poll(2)` calls their descriptor ready.
//!
//! Invariant: an operation without a result stands in exactly one list, that of
//! the started ones or that of its descriptor.

use std::any::Any;
use std::io;
use std::os::fd::RawFd;
use std::task::Waker;

use super::super::Operation;
use super::{Epoll, READABLE, WRITABLE, find};

/// What a pipe or socket in blocking mode surely takes without blocking, when it
/// is ready for writing (`PIPE_BUF`). Longer writes are done in part.
const BLOCKING_WRITE_MAX: usize = libc::PIPE_BUF;

pub(super) struct Op {
    operation: Operation,
    waker: Option<Waker>,
    result: Option<i32>,
    resource: Box<dyn Any>,
}

impl Op {
    pub(super) fn new(operation: Operation, resource: Box<dyn Any>) -> Self {
        Self { operation, waker: None, result: None, resource }
    }

    pub(super) fn poll(&mut self, waker: &Waker) -> Option<i32> {
        if self.result.is_none() {
            self.waker = Some(waker.clone());
        }
        self.result
    }

    pub(super) fn into_resource(self) -> Box<dyn Any> {
        self.resource
    }

    /// What its descriptor is watched for.
    pub(super) fn direction(&self) -> u32 {
        match self.operation {
            Operation::Read { .. } => READABLE,
            Operation::Write { .. } => WRITABLE,
        }
    }

    fn fd(&self) -> RawFd {
        match self.operation {
            Operation::Read { fd, .. } | Operation::Write { fd, .. } => fd,
        }
    }

    /// Does it if that does not block; whether it has a result now.
    fn attempt(&mut self) -> bool {
        // The descriptor is kept open by the resource.
        let done = is_ready(self.fd(), self.direction())
            .and_then(|ready| if ready { perform(self.operation).map(Some) } else { Ok(None) });
        self.result = match done {
            Ok(count) => count,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => None,
                _ => Some(-error.raw_os_error().unwrap_or(libc::EIO)),
            },
        };
        self.result.is_some()
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Epoll {
    /// Tries what was started in this turn; whether anything is done now.
    pub(super) fn try_started(&mut self) -> bool {
        let mut finished = false;
        for index in std::mem::take(&mut self.started) {
            finished |= self.try_first(index);
        }
        finished
    }

    fn try_first(&mut self, index: usize) -> bool {
        let op = &mut self.ops[index];
        if op.attempt() {
            op.wake();
            return true;
        }
        let fd = op.fd();
        self.watch(fd).ops.push(index);
        let Err(error) = self.update(fd) else { return false };
        self.watch(fd).ops.retain(|&other| other != index);
        let op = &mut self.ops[index];
        op.result = Some(-error.raw_os_error().unwrap_or(libc::EIO));
        op.wake();
        true
    }

    /// Tries the operations that wait for a descriptor about which something was
    /// reported.
    pub(super) fn retry_ops(&mut self, fd: RawFd) {
        let (watches, ops) = (&mut self.watches, &mut self.ops);
        let Some(watch) = find(watches, fd) else { return };
        watch.ops.retain(|&index| {
            let done = ops[index].attempt();
            if done {
                ops[index].wake();
            }
            !done
        });
        self.relax(fd);
    }

    /// Drops an operation, done or not: the kernel holds nothing of it.
    pub(super) fn forget_op(&mut self, index: usize) {
        let op = self.ops.remove(index);
        if op.result.is_none() {
            self.started.retain(|&other| other != index);
            if let Some(watch) = find(&mut self.watches, op.fd()) {
                watch.ops.retain(|&other| other != index);
            }
            // Before the resource goes, and perhaps the descriptor with it.
            self.relax(op.fd());
        }
    }
}

fn is_ready(fd: RawFd, direction: u32) -> io::Result<bool> {
    let events = if direction == READABLE { libc::POLLIN } else { libc::POLLOUT };
    let mut watched = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one descriptor, which lives here; no time to wait.
    let result = unsafe { libc::poll(&raw mut watched, 1, 0) };
    // An error or a hang-up is a readiness, too: the operation tells which.
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(watched.revents != 0) }
}

fn perform(operation: Operation) -> io::Result<i32> {
    let result = match operation {
        // SAFETY: the resource that came with the operation keeps `to` and its
        // `len` bytes where they are, and nobody else touches them meanwhile.
        Operation::Read { fd, to, len } => unsafe { libc::read(fd, to.cast(), count(len)) },
        Operation::Write { fd, from, len } => {
            let len = if may_block(fd)? { count(len).min(BLOCKING_WRITE_MAX) } else { count(len) };
            // SAFETY: as above, for reading.
            unsafe { libc::write(fd, from.cast(), len) }
        }
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).expect("cut below")) }
}

/// Results are told as an `i32`, so no more is asked for.
fn count(len: u32) -> usize {
    len.min(i32::MAX.cast_unsigned()) as usize
}

/// Whether a write to a ready descriptor may block: in blocking mode, unless it
/// is a regular file, which only ever waits for the disk.
fn may_block(fd: RawFd) -> io::Result<bool> {
    // SAFETY: plain queries; the second writes into `status`, which lives here.
    unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        if flags < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut status: libc::stat = std::mem::zeroed();
        if libc::fstat(fd, &raw mut status) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(flags & libc::O_NONBLOCK == 0 && status.st_mode & libc::S_IFMT != libc::S_IFREG)
    }
}

//! The same contract with `epoll`, `recvmmsg` and `sendmmsg`.
//!
//! Invariants:
//! - The kernel holds no memory of ours between two system calls, so nothing
//!   outlives its owner here: a dropped operation is gone at once.
//! - A descriptor is registered for exactly what somebody waits for
//!   ([`Watch::wanted`]), level-triggered, and while it is registered one of its
//!   users keeps it open. The wake eventfd alone is edge-triggered, and so never
//!   has to be read.
//! - No system call here can block: receives and sends say `MSG_DONTWAIT`, and a
//!   single operation is tried only once `poll(2)` has called it ready.
//! - Datagrams handed to one socket leave in order; when its buffer is full they
//!   stay in their slots until it has room.
//!
//! A regular file is always ready and cannot be watched: operations on it are
//! done in the turn they are started in, and take as long as the disk takes.

mod ops;
mod receive;
mod send;
mod wait;

use std::any::Any;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use slab::Slab;

use super::slots::Slots;
use super::{Arrival, Backend, Operation};
use crate::error::{EnterError, SetupError};
use crate::stats::CoreStats;
use crate::udp::SendSlot;
use ops::Op;
use receive::{Pool, ReceiveState};
use send::{Outbox, Sender};
use wait::Poller;

const READABLE: u32 = libc::EPOLLIN as u32;
const WRITABLE: u32 = libc::EPOLLOUT as u32;
/// Reported whether asked for or not; whoever waits has to look.
const BROKEN: u32 = (libc::EPOLLERR | libc::EPOLLHUP) as u32;

pub(crate) struct Epoll {
    poller: Poller,
    /// By descriptor. Descriptors are small numbers: eight bytes for each up to
    /// the highest ever used here.
    watches: Vec<Option<Box<Watch>>>,
    receives: Slab<ReceiveState>,
    pool: Pool,
    sender: Sender,
    slots: Slots,
    ops: Slab<Op>,
    /// Operations started in this turn, tried by the next enter.
    started: Vec<usize>,
    stats: Arc<CoreStats>,
}

/// What is wanted of one descriptor.
#[derive(Default)]
struct Watch {
    /// What the kernel was last told.
    registered: u32,
    receive: Option<usize>,
    /// Whether the receive waits for a buffer, not for datagrams.
    starved: bool,
    outbox: Outbox,
    /// Operations that wait for the descriptor.
    ops: Vec<usize>,
}

impl Watch {
    fn wanted(&self, ops: &Slab<Op>) -> u32 {
        let mut wanted = 0;
        if self.receive.is_some() && !self.starved {
            wanted |= READABLE;
        }
        if self.outbox.is_blocked() {
            wanted |= WRITABLE;
        }
        self.ops.iter().fold(wanted, |wanted, &index| wanted | ops[index].direction())
    }
}

impl Epoll {
    /// An epoll instance that `wake_fd` wakes, an eventfd that outlives it.
    pub(super) fn new(wake_fd: RawFd, stats: Arc<CoreStats>) -> Result<Self, SetupError> {
        let poller = Poller::new(wake_fd).map_err(|source| SetupError::Epoll { source })?;
        Ok(Self {
            poller,
            watches: Vec::new(),
            receives: Slab::new(),
            pool: Pool::new(),
            sender: Sender::default(),
            slots: Slots::new(Arc::clone(&stats)),
            ops: Slab::new(),
            started: Vec::new(),
            stats,
        })
    }

    /// Waits without `epoll_pwait2`, as on kernels and in containers without it.
    #[cfg(test)]
    pub(super) fn without_pwait2(mut self) -> Self {
        self.poller.forget_pwait2();
        self
    }

    fn watch(&mut self, fd: RawFd) -> &mut Watch {
        let at = usize::try_from(fd).expect("open descriptors are not negative");
        if at >= self.watches.len() {
            self.watches.resize_with(at + 1, || None);
        }
        self.watches[at].get_or_insert_with(Box::default)
    }

    /// Tells the kernel when what is wanted of a descriptor has changed.
    fn update(&mut self, fd: RawFd) -> io::Result<()> {
        let Some(watch) = find(&mut self.watches, fd) else { return Ok(()) };
        let wanted = watch.wanted(&self.ops);
        if wanted != watch.registered {
            self.poller.register(fd, watch.registered, wanted)?;
            watch.registered = wanted;
        }
        Ok(())
    }

    /// As [`update`](Self::update) where less is wanted than before, or a
    /// registration is changed: the kernel has no reason to refuse that.
    fn relax(&mut self, fd: RawFd) {
        if let Err(error) = self.update(fd) {
            tracing::error!(%error, fd, "epoll lost track of a descriptor");
        }
    }

    fn handle(&mut self, fd: RawFd, events: u32) {
        let Some(watch) = find(&mut self.watches, fd) else { return };
        let receive = watch.receive.filter(|_| !watch.starved && events & (READABLE | BROKEN) != 0);
        let has_ops = !watch.ops.is_empty();
        if events & (WRITABLE | BROKEN) != 0 && watch.outbox.unblock() {
            self.sender.note(fd);
        }
        if let Some(index) = receive {
            self.receive(index);
        }
        if has_ops {
            self.retry_ops(fd);
        }
    }
}

/// What is known of a descriptor, if it was ever used here.
fn find(watches: &mut [Option<Box<Watch>>], fd: RawFd) -> Option<&mut Watch> {
    watches.get_mut(usize::try_from(fd).ok()?)?.as_deref_mut()
}

impl Backend for Epoll {
    fn enter(&mut self, wait: Option<Duration>) -> Result<(), EnterError> {
        let finished = self.try_started();
        self.flush();
        self.feed_starved();
        self.stats.enters.add(1);
        self.poller.wait(if finished { Some(Duration::ZERO) } else { wait })?;
        Ok(())
    }

    fn reap(&mut self) {
        while let Some((fd, events)) = self.poller.next() {
            self.stats.completions.add(1);
            self.handle(fd, events);
        }
    }

    fn attach(&mut self, fd: Arc<OwnedFd>) -> io::Result<usize> {
        self.attach_receive(fd)
    }

    fn poll_arrived(&mut self, socket: usize, waker: &Waker) -> bool {
        self.receives[socket].poll(waker)
    }

    fn with_arrived<R>(&mut self, socket: usize, f: impl FnOnce(Option<Arrival<'_>>) -> R) -> Option<R> {
        let arrived = self.receives[socket].pop()?;
        Some(self.pool.with(arrived, f))
    }

    fn detach(&mut self, socket: usize) {
        self.detach_receive(socket);
    }

    fn acquire_slot(&mut self) -> Option<Box<SendSlot>> {
        self.slots.acquire()
    }

    fn release_slot(&mut self, slot: Box<SendSlot>) {
        self.slots.release(slot);
    }

    fn send(&mut self, slot: Box<SendSlot>, fd: Arc<OwnedFd>) {
        self.gather(slot, fd);
    }

    fn start(&mut self, operation: Operation, resource: Box<dyn Any>) -> usize {
        let index = self.ops.insert(Op::new(operation, resource));
        self.started.push(index);
        index
    }

    fn poll_op(&mut self, index: usize, waker: &Waker) -> Option<(i32, Box<dyn Any>)> {
        let result = self.ops[index].poll(waker)?;
        Some((result, self.ops.remove(index).into_resource()))
    }

    fn orphan(&mut self, index: usize) {
        self.forget_op(index);
    }

    #[cfg(test)]
    fn ops_held(&self) -> usize {
        self.ops.len()
    }
}

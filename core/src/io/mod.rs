//! What a core asks of the kernel, and the two ways it is done.
//!
//! [`Backend`] is the contract; [`uring`] keeps it with an io_uring, [`epoll`]
//! with `epoll`, `recvmmsg` and `sendmmsg`, for hosts that forbid io_uring and
//! as the measured control. [`Io`] is the one a reactor has: an enum, so that
//! a call is a predicted branch and not a pointer.
//!
//! Invariants, of both:
//! - Nothing is handed to the kernel but by [`Backend::enter`], once a turn, and
//!   nothing is reported but by [`Backend::reap`]: what tasks see between two
//!   turns does not change under them.
//! - Memory the kernel may read or write belongs to the backend until the kernel
//!   has let go. With io_uring that is the operation's completion; with epoll the
//!   kernel holds nothing between turns, so that what is given up goes at once.
//! - Receive buffers are pooled for the whole core, [`BUFFERS_STEP`] at first and
//!   at most [`BUFFERS_MAX`]; a datagram that finds none waits in the socket.
//!   Send slots are pooled likewise, at most [`crate::udp::SEND_SLOTS_MAX`].

mod buffers;
mod bufring;
mod choice;
mod epoll;
mod slots;
#[cfg(test)]
mod tests;
mod uring;

use std::any::Any;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

pub use choice::{IO_VARIABLE, IoBackend, IoChoice, UnknownIo};

use crate::error::{EnterError, SetupError};
use crate::stats::CoreStats;
use crate::udp::SendSlot;
use epoll::Epoll;
use uring::Uring;

/// Receive buffers a core begins with, and how many are added on starvation.
const BUFFERS_STEP: u16 = 64;
/// Receive buffers a core may come to: 512 of 64.5 KiB, 33 MB if all are used.
const BUFFERS_MAX: u16 = 512;

/// Room for the control messages that sockets ask for: GRO size, TOS or traffic
/// class, and packet info, each with its header and padding (24 + 24 + 40).
pub(crate) const CONTROL_BYTES: usize = 128;
/// Room for the address of either family.
pub(crate) const NAME_BYTES: usize = size_of::<libc::sockaddr_in6>();

/// A datagram, or a GRO train of them, as the kernel delivered it.
pub(crate) struct Arrival<'a> {
    /// A `sockaddr`.
    pub(crate) name: &'a [u8],
    /// Control messages, back to back.
    pub(crate) control: &'a [u8],
    /// The datagrams' bytes.
    pub(crate) payload: &'a mut [u8],
}

/// A single operation, as data: what the kernel is to do with which memory.
///
/// The resource that is handed over beside it keeps the descriptor open and the
/// memory in its place.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    /// `read(2)` at the descriptor's position.
    Read { fd: RawFd, to: *mut u8, len: u32 },
    /// `write(2)` at the descriptor's position.
    Write { fd: RawFd, from: *const u8, len: u32 },
}

/// The contract of a backend. See the module for its invariants.
pub(crate) trait Backend {
    /// Hands over everything gathered in this turn and waits until something has
    /// happened: not at all when `wait` is zero, without limit when it is `None`.
    /// Waiting ends early for anything [`reap`](Self::reap) would report, for a
    /// write to the wake eventfd, and for a signal; never more than the kernel's
    /// timer slack after `wait`.
    fn enter(&mut self, wait: Option<Duration>) -> Result<(), EnterError>;

    /// Takes in what has happened, and wakes whoever waits for it.
    fn reap(&mut self);

    /// Starts receiving on a UDP socket whose options are set. The index names
    /// it until [`detach`](Self::detach). A descriptor is attached once at a time.
    fn attach(&mut self, fd: Arc<OwnedFd>) -> io::Result<usize>;

    /// Whether an arrival waits; otherwise `waker` (of the last call) is told of
    /// the next.
    fn poll_arrived(&mut self, socket: usize, waker: &Waker) -> bool;

    /// Hands the oldest arrival to `f`, in place, and takes its buffer back
    /// afterwards. `f` gets `None` when the kernel cut something off. Without an
    /// arrival `f` is not called.
    fn with_arrived<R>(&mut self, socket: usize, f: impl FnOnce(Option<Arrival<'_>>) -> R) -> Option<R>;

    /// Ends a receive. What had arrived is dropped.
    fn detach(&mut self, socket: usize);

    /// A slot to write datagrams into; `None` when all are in flight (counted).
    fn acquire_slot(&mut self) -> Option<Box<SendSlot>>;

    /// Takes a slot back that was not sent.
    fn release_slot(&mut self, slot: Box<SendSlot>);

    /// Gathers a filled slot for this turn's enter; it returns to the pool when
    /// the kernel is done with it. A refusal by the kernel is counted; the
    /// datagrams are lost then, as on the wire.
    fn send(&mut self, slot: Box<SendSlot>, fd: Arc<OwnedFd>);

    /// Starts an operation with this turn's enter. It points into `resource`,
    /// which is kept until the kernel has let go. Descriptors in blocking mode
    /// are fine; a core is never blocked by them.
    fn start(&mut self, operation: Operation, resource: Box<dyn Any>) -> usize;

    /// The result (negative: an errno) and the resource, once it is done. Then
    /// the index is free.
    fn poll_op(&mut self, index: usize, waker: &Waker) -> Option<(i32, Box<dyn Any>)>;

    /// The operation's future is gone: it is cancelled, and its resource is
    /// dropped as soon as the kernel has let go.
    fn orphan(&mut self, index: usize);

    /// Operations that are not forgotten yet.
    #[cfg(test)]
    fn ops_held(&self) -> usize;
}

/// The backend of one reactor.
#[allow(clippy::large_enum_variant, reason = "there is one a core, and a box would cost each call a load")]
pub(crate) enum Io {
    Uring(Uring),
    Epoll(Epoll),
}

macro_rules! forward {
    ($self:ident, $io:ident => $call:expr) => {
        match $self {
            Self::Uring($io) => $call,
            Self::Epoll($io) => $call,
        }
    };
}

impl Io {
    /// Makes the backend that is asked for. `wake_fd` is an eventfd that stays
    /// open for as long as this value lives.
    pub(crate) fn new(choice: IoChoice, wake_fd: RawFd, stats: Arc<CoreStats>) -> Result<Self, SetupError> {
        let refused = match choice {
            IoChoice::Epoll => None,
            IoChoice::Uring => return Ok(Self::Uring(Uring::new(wake_fd, stats)?)),
            IoChoice::Auto => match Uring::new(wake_fd, Arc::clone(&stats)) {
                Ok(uring) => return Ok(Self::Uring(uring)),
                Err(error) => Some(error),
            },
        };
        let epoll = Epoll::new(wake_fd, stats)?;
        if let Some(reason) = refused {
            choice::note_fallback(&reason);
        }
        Ok(Self::Epoll(epoll))
    }

    pub(crate) fn backend(&self) -> IoBackend {
        match self {
            Self::Uring(_) => IoBackend::Uring,
            Self::Epoll(_) => IoBackend::Epoll,
        }
    }
}

impl Backend for Io {
    #[inline]
    fn enter(&mut self, wait: Option<Duration>) -> Result<(), EnterError> {
        forward!(self, io => io.enter(wait))
    }

    #[inline]
    fn reap(&mut self) {
        forward!(self, io => io.reap());
    }

    #[inline]
    fn attach(&mut self, fd: Arc<OwnedFd>) -> io::Result<usize> {
        forward!(self, io => io.attach(fd))
    }

    #[inline]
    fn poll_arrived(&mut self, socket: usize, waker: &Waker) -> bool {
        forward!(self, io => io.poll_arrived(socket, waker))
    }

    #[inline]
    fn with_arrived<R>(&mut self, socket: usize, f: impl FnOnce(Option<Arrival<'_>>) -> R) -> Option<R> {
        forward!(self, io => io.with_arrived(socket, f))
    }

    #[inline]
    fn detach(&mut self, socket: usize) {
        forward!(self, io => io.detach(socket));
    }

    #[inline]
    fn acquire_slot(&mut self) -> Option<Box<SendSlot>> {
        forward!(self, io => io.acquire_slot())
    }

    #[inline]
    fn release_slot(&mut self, slot: Box<SendSlot>) {
        forward!(self, io => io.release_slot(slot));
    }

    #[inline]
    fn send(&mut self, slot: Box<SendSlot>, fd: Arc<OwnedFd>) {
        forward!(self, io => io.send(slot, fd));
    }

    #[inline]
    fn start(&mut self, operation: Operation, resource: Box<dyn Any>) -> usize {
        forward!(self, io => io.start(operation, resource))
    }

    #[inline]
    fn poll_op(&mut self, index: usize, waker: &Waker) -> Option<(i32, Box<dyn Any>)> {
        forward!(self, io => io.poll_op(index, waker))
    }

    #[inline]
    fn orphan(&mut self, index: usize) {
        forward!(self, io => io.orphan(index));
    }

    #[cfg(test)]
    fn ops_held(&self) -> usize {
        forward!(self, io => io.ops_held())
    }
}

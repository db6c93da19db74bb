//! The io_uring of one core: submission, completion, and who owns what the
//! kernel is working on.
//!
//! Invariants:
//! - Everything an in-flight operation points to lives in one of the slabs here
//!   and is removed only when its last completion has been reaped.
//! - On drop, operations are cancelled and waited for; what the kernel does not
//!   give back in time is leaked, never freed.

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use slab::Slab;

use crate::bufring::{self, BufRing};
use crate::error::{RingError, SetupError};
use crate::stats::CoreStats;
use crate::udp::SendSlot;

/// What a completion belongs to; the upper byte of its user data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Kind {
    Wake = 1,
    Receive = 2,
    Send = 3,
    Op = 4,
    Cancel = 5,
}

fn user_data(kind: Kind, index: usize) -> u64 {
    ((kind as u64) << 56) | index as u64
}

const INDEX_MASK: u64 = (1 << 56) - 1;

/// Receive buffers a core begins with, and how many are added on starvation.
const BUFFERS_STEP: u16 = 64;
/// Receive buffers a core may come to: 512 of 64.5 KiB, 33 MB if all are used.
const BUFFERS_MAX: u16 = 512;
/// Room for completions between two reaps: more than all sends and one receive
/// per buffer at once, so that overflow is the exception.
const COMPLETIONS_MAX: u32 = 8192;
const SUBMISSIONS_MAX: u32 = 1024;
/// Turns of waiting for cancelled operations when a ring is dropped.
const DRAIN_TURNS_MAX: usize = 100;

const _: () = assert!(COMPLETIONS_MAX as usize > BUFFERS_MAX as usize + crate::udp::SEND_SLOTS_MAX);

pub(crate) struct ReceiveState {
    fd: Arc<OwnedFd>,
    /// Address and control sizes the kernel is told to reserve; read by it at
    /// every (re)arming, so it keeps its place on the heap.
    header: Box<libc::msghdr>,
    arrived: VecDeque<Arrived>,
    waker: Option<Waker>,
    armed: bool,
    closed: bool,
}

#[derive(Clone, Copy)]
struct Arrived {
    buffer: u16,
    len: usize,
}

enum OpState {
    Waiting {
        waker: Option<Waker>,
        resource: Box<dyn Any>,
    },
    Done {
        result: i32,
        resource: Box<dyn Any>,
    },
    /// The future is gone; the resource stays until the kernel lets go.
    Orphaned {
        _resource: Box<dyn Any>,
    },
}

pub(crate) struct Ring {
    // The ring is closed by `Drop` below before the other fields go.
    uring: Option<IoUring>,
    buffers: Option<BufRing>,
    receives: Slab<ReceiveState>,
    sends: Slab<(Box<SendSlot>, Arc<OwnedFd>)>,
    #[allow(
        clippy::vec_box,
        reason = "slots keep their address for the kernel while they move between lists"
    )]
    free_slots: Vec<Box<SendSlot>>,
    slots_made: usize,
    ops: Slab<OpState>,
    wake_fd: RawFd,
    wake_word: Box<u64>,
    wake_armed: bool,
    reaped: Vec<(u64, i32, u32)>,
    stats: Arc<CoreStats>,
}

impl Ring {
    pub(crate) fn new(wake_fd: RawFd, stats: Arc<CoreStats>) -> Result<Self, SetupError> {
        let uring = build().map_err(|source| SetupError::Ring { source })?;
        if !uring.params().is_feature_nodrop() {
            return Err(SetupError::Feature { feature: "IORING_FEAT_NODROP" });
        }
        if !uring.params().is_feature_ext_arg() {
            return Err(SetupError::Feature { feature: "IORING_FEAT_EXT_ARG" });
        }
        // A gain, not a need: saves a descriptor look-up at each enter.
        if let Err(error) = uring.submitter().register_ring_fd() {
            tracing::debug!(%error, "ring descriptor not registered");
        }
        let buffers = BufRing::new(&uring, BUFFERS_MAX, BUFFERS_STEP)
            .map_err(|source| SetupError::Buffers { source })?;
        Ok(Self {
            uring: Some(uring),
            buffers: Some(buffers),
            receives: Slab::new(),
            sends: Slab::new(),
            free_slots: Vec::new(),
            slots_made: 0,
            ops: Slab::new(),
            wake_fd,
            wake_word: Box::new(0),
            wake_armed: false,
            reaped: Vec::with_capacity(256),
            stats,
        })
    }

    fn uring(&mut self) -> &mut IoUring {
        self.uring.as_mut().expect("the ring is taken only by drop")
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: every caller keeps what the entry points to in a slab of
            // this struct until its completion is reaped (module invariant).
            if unsafe { self.uring().submission().push(entry) }.is_ok() {
                return;
            }
            // The queue is full: hand it to the kernel and go on. Errors show
            // again at the turn's own enter.
            let _ = self.uring().submit();
        }
    }

    /// Submits what is queued and waits for a completion: not at all when
    /// `wait` is zero, without limit when it is `None`.
    pub(crate) fn enter(&mut self, wait: Option<Duration>) -> Result<(), RingError> {
        if !self.wake_armed {
            self.wake_armed = true;
            let word: *mut u64 = &raw mut *self.wake_word;
            let entry = opcode::Read::new(Fd(self.wake_fd), word.cast(), 8).build();
            self.push(&entry.user_data(user_data(Kind::Wake, 0)));
        }
        self.stats.enters.add(1);
        let uring = self.uring();
        let queued = u32::try_from(uring.submission().len()).expect("at most the queue's size");
        const GETEVENTS: u32 = 1;
        let result = match wait {
            // SAFETY: plain flags without an argument; deferred completions are
            // only run by an enter that asks for events.
            Some(Duration::ZERO) => unsafe {
                uring.submitter().enter::<libc::sigset_t>(queued, 0, GETEVENTS, None)
            },
            Some(limit) => {
                let timespec = Timespec::from(limit);
                uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timespec))
            }
            None => uring.submit_and_wait(1),
        };
        match result {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // ETIME: the timer is due. EINTR: a signal. EBUSY, EAGAIN: the
                // kernel wants completions reaped first, which comes next.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error.into()),
            },
        }
    }

    /// Takes every completion there is and passes it on.
    pub(crate) fn reap(&mut self) {
        let mut reaped = std::mem::take(&mut self.reaped);
        loop {
            let overflow = {
                let mut queue = self.uring().completion();
                queue.sync();
                let overflow = queue.overflow();
                reaped.extend(queue.by_ref().map(|cqe| (cqe.user_data(), cqe.result(), cqe.flags())));
                overflow
            };
            self.stats.completion_overflows.raise(u64::from(overflow));
            if reaped.is_empty() {
                break;
            }
            self.stats.completions.add(reaped.len() as u64);
            for (user_data, result, flags) in reaped.drain(..) {
                self.complete(user_data, result, flags);
            }
        }
        self.reaped = reaped;
    }

    fn complete(&mut self, user_data: u64, result: i32, flags: u32) {
        #[allow(clippy::cast_possible_truncation, reason = "indices fit usize on 64-bit targets")]
        let index = (user_data & INDEX_MASK) as usize;
        match user_data >> 56 {
            k if k == Kind::Receive as u64 => self.complete_receive(index, result, flags),
            k if k == Kind::Send as u64 => self.complete_send(index, result),
            k if k == Kind::Op as u64 => self.complete_op(index, result),
            k if k == Kind::Wake as u64 => self.wake_armed = false,
            _ => {}
        }
    }

    // ---- receive ----

    /// Starts a multishot receive on a UDP socket.
    pub(crate) fn attach(&mut self, fd: Arc<OwnedFd>, header: Box<libc::msghdr>) -> usize {
        let index = self.receives.insert(ReceiveState {
            fd,
            header,
            arrived: VecDeque::new(),
            waker: None,
            armed: false,
            closed: false,
        });
        self.arm(index);
        index
    }

    fn arm(&mut self, index: usize) {
        let state = &mut self.receives[index];
        state.armed = true;
        let entry =
            opcode::RecvMsgMulti::new(Fd(state.fd.as_raw_fd()), &raw const *state.header, bufring::GROUP)
                .build()
                .user_data(user_data(Kind::Receive, index));
        self.push(&entry);
    }

    fn complete_receive(&mut self, index: usize, result: i32, flags: u32) {
        let buffers = self.buffers.as_mut().expect("present until drop");
        let state = &mut self.receives[index];
        if let (Ok(len), Some(buffer)) = (usize::try_from(result), cqueue::buffer_select(flags)) {
            if state.closed {
                buffers.recycle(buffer);
            } else {
                state.arrived.push_back(Arrived { buffer, len });
                if let Some(waker) = state.waker.take() {
                    waker.wake();
                }
            }
        }
        if cqueue::more(flags) {
            return;
        }
        state.armed = false;
        if state.closed {
            self.receives.remove(index);
            return;
        }
        if result == -libc::ENOBUFS {
            self.stats.udp_receive_starved.add(1);
            buffers.grow(BUFFERS_STEP);
        }
        self.arm(index);
    }

    /// Whether a datagram waits; otherwise `waker` is told of the next.
    pub(crate) fn poll_arrived(&mut self, index: usize, waker: &Waker) -> bool {
        let state = &mut self.receives[index];
        if state.arrived.is_empty() {
            match &mut state.waker {
                Some(old) => old.clone_from(waker),
                None => state.waker = Some(waker.clone()),
            }
            return false;
        }
        true
    }

    /// Hands the oldest arrival to `f` and gives its buffer back afterwards.
    pub(crate) fn with_arrived<R>(
        &mut self,
        index: usize,
        f: impl FnOnce(&libc::msghdr, &mut [u8]) -> R,
    ) -> Option<R> {
        let state = &mut self.receives[index];
        let arrived = state.arrived.pop_front()?;
        let buffers = self.buffers.as_mut().expect("present until drop");
        let result = f(&state.header, buffers.bytes(arrived.buffer, arrived.len));
        buffers.recycle(arrived.buffer);
        Some(result)
    }

    /// Ends a receive; its state goes when the kernel has let go.
    pub(crate) fn detach(&mut self, index: usize) {
        let state = &mut self.receives[index];
        state.closed = true;
        state.waker = None;
        let arrived = std::mem::take(&mut state.arrived);
        let armed = state.armed;
        for Arrived { buffer, .. } in arrived {
            self.buffers.as_mut().expect("present until drop").recycle(buffer);
        }
        if armed {
            self.cancel(user_data(Kind::Receive, index));
        } else {
            self.receives.remove(index);
        }
    }

    fn cancel(&mut self, target: u64) {
        let entry = opcode::AsyncCancel::new(target).build().user_data(user_data(Kind::Cancel, 0));
        self.push(&entry);
    }

    // ---- send ----

    /// A slot to write datagrams into; `None` when all are in flight.
    pub(crate) fn acquire_slot(&mut self) -> Option<Box<SendSlot>> {
        if let Some(slot) = self.free_slots.pop() {
            return Some(slot);
        }
        if self.slots_made == crate::udp::SEND_SLOTS_MAX {
            self.stats.udp_send_slots_exhausted.add(1);
            return None;
        }
        self.slots_made += 1;
        Some(Box::default())
    }

    pub(crate) fn release_slot(&mut self, mut slot: Box<SendSlot>) {
        slot.clear();
        self.free_slots.push(slot);
    }

    /// Queues a filled slot; it returns to the pool when the kernel is done.
    pub(crate) fn send(&mut self, mut slot: Box<SendSlot>, fd: Arc<OwnedFd>) {
        self.stats.udp_sends.add(1);
        self.stats.udp_bytes_out.add(slot.len() as u64);
        let raw = fd.as_raw_fd();
        let header = slot.header();
        let index = self.sends.insert((slot, fd));
        let entry = opcode::SendMsg::new(Fd(raw), header).build().user_data(user_data(Kind::Send, index));
        self.push(&entry);
    }

    fn complete_send(&mut self, index: usize, result: i32) {
        let (slot, _fd) = self.sends.remove(index);
        if result < 0 {
            self.stats.udp_send_errors.add(1);
            tracing::debug!(error = %io::Error::from_raw_os_error(-result), "datagrams not sent");
        }
        self.release_slot(slot);
    }

    // ---- single operations ----

    /// Starts an operation that points into `resource`.
    pub(crate) fn start(&mut self, resource: Box<dyn Any>, entry: squeue::Entry) -> usize {
        let index = self.ops.insert(OpState::Waiting { waker: None, resource });
        self.push(&entry.user_data(user_data(Kind::Op, index)));
        index
    }

    /// The result and the resource once the kernel is done.
    pub(crate) fn poll_op(&mut self, index: usize, new_waker: &Waker) -> Option<(i32, Box<dyn Any>)> {
        match &mut self.ops[index] {
            OpState::Waiting { waker, .. } => {
                *waker = Some(new_waker.clone());
                None
            }
            OpState::Done { .. } => match self.ops.remove(index) {
                OpState::Done { result, resource } => Some((result, resource)),
                _ => unreachable!("matched above"),
            },
            OpState::Orphaned { .. } => unreachable!("an orphaned operation has no future"),
        }
    }

    /// Called when an operation's future is dropped before its end: the kernel
    /// is asked to stop, and the resource is kept until it has.
    pub(crate) fn orphan(&mut self, index: usize) {
        let state = self.ops.remove(index);
        if let OpState::Waiting { resource, .. } = state {
            let again = self.ops.insert(OpState::Orphaned { _resource: resource });
            // A slab hands the vacancy just made out again.
            assert_eq!(again, index, "an orphan keeps its place");
            self.cancel(user_data(Kind::Op, index));
        }
    }

    fn complete_op(&mut self, index: usize, result: i32) {
        match self.ops.remove(index) {
            OpState::Waiting { waker, resource } => {
                let again = self.ops.insert(OpState::Done { result, resource });
                assert_eq!(again, index, "a finished operation keeps its place");
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            OpState::Done { .. } => unreachable!("an operation completes once"),
            OpState::Orphaned { .. } => {}
        }
    }

    fn in_flight(&self) -> usize {
        self.sends.len()
            + self.receives.iter().filter(|(_, r)| r.armed).count()
            + self.ops.iter().filter(|(_, op)| !matches!(op, OpState::Done { .. })).count()
            + usize::from(self.wake_armed)
    }

    fn drain(&mut self) -> bool {
        for index in self.receives.iter().map(|(i, _)| i).collect::<Vec<_>>() {
            if !self.receives[index].closed {
                self.detach(index);
            }
        }
        // Whatever is still in flight is cancelled in one go.
        let entry = opcode::AsyncCancel2::new(CancelBuilder::any().all()).build();
        self.push(&entry.user_data(user_data(Kind::Cancel, 0)));
        for _ in 0..DRAIN_TURNS_MAX {
            if self.in_flight() == 0 {
                return true;
            }
            if self.submit_for_drain().is_err() {
                return false;
            }
            self.reap();
        }
        self.in_flight() == 0
    }

    /// Unlike [`enter`](Self::enter), does not arm the wake read again.
    fn submit_for_drain(&mut self) -> io::Result<()> {
        let timespec = Timespec::from(Duration::from_millis(10));
        let args = SubmitArgs::new().timespec(&timespec);
        match self.uring().submitter().submit_with_args(1, &args) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY)) => {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    #[cfg(test)]
    pub(crate) fn ops_held(&self) -> usize {
        self.ops.len()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let drained = self.drain();
        drop(self.uring.take());
        if !drained {
            // The kernel may still write to these: giving the memory up is the
            // only safe end.
            self.stats.buffers_leaked.add(self.in_flight() as u64);
            tracing::error!(operations = self.in_flight(), "io_uring did not drain; its buffers are leaked");
            std::mem::forget(std::mem::take(&mut self.sends));
            std::mem::forget(std::mem::take(&mut self.receives));
            std::mem::forget(std::mem::take(&mut self.ops));
            std::mem::forget(self.buffers.take());
            std::mem::forget(std::mem::take(&mut self.wake_word));
        }
    }
}

fn build() -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_submit_all()
        .setup_cqsize(COMPLETIONS_MAX)
        .dontfork();
    // Newer kernels (6.6) go without the submission index array.
    let mut lean = builder.clone();
    match lean.setup_no_sqarray().build(SUBMISSIONS_MAX) {
        Ok(ring) => Ok(ring),
        Err(_) => builder.build(SUBMISSIONS_MAX),
    }
}

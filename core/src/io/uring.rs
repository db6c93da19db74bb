//! The io_uring of one core: submission, completion, and who owns what the
//! kernel is working on.
//!
//! Invariants:
//! - Everything an in-flight operation points to lives in one of the slabs here
//!   and is removed only when its last completion has been reaped.
//! - Sends alone complete in silence. They say `MSG_DONTWAIT`, so that the kernel
//!   tries each while it takes it from the submission queue and keeps none for
//!   later: once that queue is empty, their memory is ours again. One that found
//!   no room in the socket says so, and is then sent as an ordinary operation.
//! - On drop, operations are cancelled and waited for; what the kernel does not
//!   give back in time is leaked, never freed.
//! - A ring does what is written here and nothing else: it is made disabled, and
//!   allowed the operations of [`OPERATIONS`] before it is enabled. Operations pass
//!   no seccomp filter, so whoever took the process over could open files by them.

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use io_uring::register::Restriction;
use io_uring::types::{CancelBuilder, Fd, RecvMsgOut, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use slab::Slab;

use super::bufring::{self, BufRing};
use super::slots::Slots;
use super::{Arrival, BUFFERS_MAX, BUFFERS_STEP, Backend, CONTROL_BYTES, NAME_BYTES, Operation};
use crate::error::{EnterError, SetupError};
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
    QuietSend = 6,
}

fn user_data(kind: Kind, index: usize) -> u64 {
    ((kind as u64) << 56) | index as u64
}

const INDEX_MASK: u64 = (1 << 56) - 1;
/// Of a quiet send's index: its round above, its place in the round below.
const ROUND_SHIFT: u32 = 24;
const ROUND_MASK: u64 = INDEX_MASK >> ROUND_SHIFT;
const PLACE_MASK: u64 = (1 << ROUND_SHIFT) - 1;

/// Room for completions between two reaps: more than all sends and one receive
/// per buffer at once, so that overflow is the exception.
const COMPLETIONS_MAX: u32 = 8192;
const SUBMISSIONS_MAX: u32 = 1024;
/// Turns of waiting for cancelled operations when a ring is dropped.
const DRAIN_TURNS_MAX: usize = 100;

const _: () = assert!(COMPLETIONS_MAX as usize > BUFFERS_MAX as usize + crate::udp::SEND_SLOTS_MAX);

struct ReceiveState {
    fd: Arc<OwnedFd>,
    /// Address and control sizes the kernel is told to reserve; read by it at
    /// every (re)arming, so it keeps its place on the heap.
    header: Box<libc::msghdr>,
    arrived: VecDeque<Arrived>,
    waker: Option<Waker>,
    armed: bool,
    closed: bool,
    /// Not armed, since every buffer is taken and no more may be made.
    starved: bool,
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

pub(crate) struct Uring {
    // The ring is closed by `Drop` below before the other fields go.
    uring: Option<IoUring>,
    buffers: Option<BufRing>,
    receives: Slab<ReceiveState>,
    /// Sends handed over since the submission queue was last seen empty; `None`
    /// for those that failed.
    quiet: Vec<Option<(Box<SendSlot>, Arc<OwnedFd>)>>,
    /// Counts how often `quiet` was emptied, so that a failure which the kernel
    /// held back is not taken for one of a later send.
    round: u64,
    /// Sends that wait for room in their socket.
    sends: Slab<(Box<SendSlot>, Arc<OwnedFd>)>,
    slots: Slots,
    ops: Slab<OpState>,
    wake_fd: RawFd,
    /// Whether each write to `wake_fd` makes a completion.
    wake_armed: bool,
    reaped: Vec<(u64, i32, u32)>,
    /// Receives that wait for a buffer, and whether one came back since.
    starved: usize,
    recycled: bool,
    stats: Arc<CoreStats>,
}

impl Uring {
    /// A ring whose wakes come by `wake_fd`, an eventfd that outlives it.
    pub(super) fn new(wake_fd: RawFd, stats: Arc<CoreStats>) -> Result<Self, SetupError> {
        Self::sized(wake_fd, stats, SUBMISSIONS_MAX, COMPLETIONS_MAX)
    }

    /// Queues of other sizes than ours are for tests of their overflow.
    pub(super) fn sized(
        wake_fd: RawFd,
        stats: Arc<CoreStats>,
        submissions: u32,
        completions: u32,
    ) -> Result<Self, SetupError> {
        let uring = build(submissions, completions).map_err(|source| SetupError::Ring { source })?;
        if !uring.params().is_feature_nodrop() {
            return Err(SetupError::Feature { feature: "IORING_FEAT_NODROP" });
        }
        if !uring.params().is_feature_ext_arg() {
            return Err(SetupError::Feature { feature: "IORING_FEAT_EXT_ARG" });
        }
        if !uring.params().is_feature_skip_cqe_on_success() {
            return Err(SetupError::Feature { feature: "IORING_FEAT_CQE_SKIP" });
        }
        // A gain, not a need: saves a descriptor look-up at each enter.
        if let Err(error) = uring.submitter().register_ring_fd() {
            tracing::debug!(%error, "ring descriptor not registered");
        }
        let buffers = BufRing::new(&uring, BUFFERS_MAX, BUFFERS_STEP)
            .map_err(|source| SetupError::Buffers { source })?;
        restrict(&uring).map_err(|source| SetupError::Ring { source })?;
        // A host may allow to make rings and forbid to use them.
        uring.submit().map_err(|source| SetupError::Ring { source })?;
        Ok(Self {
            uring: Some(uring),
            buffers: Some(buffers),
            receives: Slab::new(),
            quiet: Vec::new(),
            round: 0,
            sends: Slab::new(),
            slots: Slots::new(Arc::clone(&stats)),
            ops: Slab::new(),
            wake_fd,
            wake_armed: false,
            reaped: Vec::with_capacity(256),
            starved: 0,
            recycled: false,
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

    fn complete(&mut self, user_data: u64, result: i32, flags: u32) {
        #[allow(clippy::cast_possible_truncation, reason = "indices fit usize on 64-bit targets")]
        let index = (user_data & INDEX_MASK) as usize;
        match user_data >> 56 {
            k if k == Kind::Receive as u64 => self.complete_receive(index, result, flags),
            k if k == Kind::QuietSend as u64 => self.fail_quiet_send(index as u64, result),
            k if k == Kind::Send as u64 => self.complete_send(index, result),
            k if k == Kind::Op as u64 => self.complete_op(index, result),
            k if k == Kind::Wake as u64 => self.wake_armed = cqueue::more(flags),
            _ => {}
        }
    }

    // ---- receive ----

    fn arm(&mut self, index: usize) {
        let state = &mut self.receives[index];
        state.armed = true;
        state.starved = false;
        let entry =
            opcode::RecvMsgMulti::new(Fd(state.fd.as_raw_fd()), &raw const *state.header, bufring::GROUP)
                .build()
                .user_data(user_data(Kind::Receive, index));
        self.push(&entry);
    }

    /// Arms the receives that ran out of buffers, now that there are some again.
    fn arm_starved(&mut self) {
        if self.starved == 0 {
            return;
        }
        let indices: Vec<_> = self.receives.iter().filter(|(_, r)| r.starved).map(|(i, _)| i).collect();
        self.starved = 0;
        for index in indices {
            self.arm(index);
        }
    }

    fn recycle(&mut self, buffer: u16) {
        self.buffers.as_mut().expect("present until drop").recycle(buffer);
        self.recycled = true;
    }

    /// The kernel could not even remember completions (it was out of memory): the
    /// operations they belong to stay for ever, and their buffers with them.
    fn note_lost(&mut self, lost: u64) {
        if lost > self.stats.completions_lost.get() {
            tracing::error!(lost, "the kernel lost completions; restart");
            self.stats.completions_lost.raise(lost);
        }
    }

    fn complete_receive(&mut self, index: usize, result: i32, flags: u32) {
        let buffers = self.buffers.as_mut().expect("present until drop");
        let state = &mut self.receives[index];
        if let (Ok(len), Some(buffer)) = (usize::try_from(result), cqueue::buffer_select(flags)) {
            if state.closed {
                buffers.recycle(buffer);
                self.recycled = true;
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
            if !buffers.grow(BUFFERS_STEP) {
                // Armed now, it would fail at once and again in every turn.
                state.starved = true;
                self.starved += 1;
                return;
            }
        }
        self.arm(index);
    }

    fn cancel(&mut self, target: u64) {
        let entry = opcode::AsyncCancel::new(target).build().user_data(user_data(Kind::Cancel, 0));
        self.push(&entry);
    }

    // ---- send ----

    fn complete_send(&mut self, index: usize, result: i32) {
        let (slot, _fd) = self.sends.remove(index);
        if result < 0 {
            self.note_unsent(result);
        }
        self.slots.release(slot);
    }

    fn fail_quiet_send(&mut self, index: u64, result: i32) {
        let (round, place) = (index >> ROUND_SHIFT, index & PLACE_MASK);
        let current = round == self.round & ROUND_MASK;
        #[allow(clippy::cast_possible_truncation, reason = "24 bits")]
        let failed = self.quiet.get_mut(place as usize).filter(|_| current).and_then(Option::take);
        match failed {
            Some((mut slot, fd)) if result == -libc::EAGAIN => {
                let (raw, header) = (fd.as_raw_fd(), slot.header());
                let index = self.sends.insert((slot, fd));
                let entry = opcode::SendMsg::new(Fd(raw), header).build();
                self.push(&entry.user_data(user_data(Kind::Send, index)));
            }
            Some((slot, _fd)) => {
                self.note_unsent(result);
                self.slots.release(slot);
            }
            None => self.note_unsent(result),
        }
    }

    /// Takes the memory of quiet sends back, once the kernel has tried them all.
    fn retire_quiet_sends(&mut self) {
        if self.quiet.is_empty() || !self.uring().submission().is_empty() {
            return;
        }
        self.round += 1;
        for (slot, _fd) in self.quiet.drain(..).flatten() {
            self.slots.release(slot);
        }
    }

    fn note_unsent(&self, result: i32) {
        self.stats.udp_send_errors.add(1);
        tracing::debug!(error = %io::Error::from_raw_os_error(-result), "datagrams not sent");
    }

    // ---- single operations ----

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
        self.quiet.iter().flatten().count()
            + self.sends.len()
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

    /// Unlike [`enter`](Self::enter), does not arm the poll for wakes again.
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
}

impl Backend for Uring {
    fn enter(&mut self, wait: Option<Duration>) -> Result<(), EnterError> {
        if self.recycled {
            self.recycled = false;
            self.arm_starved();
        }
        if !self.wake_armed {
            self.wake_armed = true;
            // Once for many wakes: a poll that stays is told of each write to an
            // eventfd, read or not, and its 64 bits never fill up.
            let entry = opcode::PollAdd::new(Fd(self.wake_fd), libc::POLLIN.cast_unsigned().into())
                .multi(true)
                .build();
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

    fn reap(&mut self) {
        let mut reaped = std::mem::take(&mut self.reaped);
        loop {
            let lost = {
                let mut queue = self.uring().completion();
                queue.sync();
                let lost = queue.overflow();
                reaped.extend(queue.by_ref().map(|cqe| (cqe.user_data(), cqe.result(), cqe.flags())));
                lost
            };
            self.note_lost(u64::from(lost));
            if reaped.is_empty() {
                break;
            }
            self.stats.completions.add(reaped.len() as u64);
            for (user_data, result, flags) in reaped.drain(..) {
                self.complete(user_data, result, flags);
            }
        }
        self.reaped = reaped;
        self.retire_quiet_sends();
        // What the kernel holds back comes with the next enter, which does not
        // wait then.
        if self.uring().submission().cq_overflow() {
            self.stats.completion_overflows.add(1);
        }
    }

    fn attach(&mut self, fd: Arc<OwnedFd>) -> io::Result<usize> {
        // SAFETY: all-zero is a valid msghdr: no name, no data, no control.
        let mut header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        header.msg_namelen = libc::socklen_t::try_from(NAME_BYTES).expect("28");
        header.msg_controllen = CONTROL_BYTES as _;
        let index = self.receives.insert(ReceiveState {
            fd,
            header,
            arrived: VecDeque::new(),
            waker: None,
            armed: false,
            closed: false,
            starved: false,
        });
        self.arm(index);
        Ok(index)
    }

    fn poll_arrived(&mut self, index: usize, waker: &Waker) -> bool {
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

    fn with_arrived<R>(&mut self, index: usize, f: impl FnOnce(Option<Arrival<'_>>) -> R) -> Option<R> {
        let state = &mut self.receives[index];
        let Arrived { buffer, len } = state.arrived.pop_front()?;
        let buffers = self.buffers.as_mut().expect("present until drop");
        let result = f(arrival(&state.header, buffers.bytes(buffer, len)));
        self.recycle(buffer);
        Some(result)
    }

    fn detach(&mut self, index: usize) {
        let state = &mut self.receives[index];
        state.closed = true;
        state.waker = None;
        let arrived = std::mem::take(&mut state.arrived);
        let (armed, starved) = (state.armed, state.starved);
        for Arrived { buffer, .. } in arrived {
            self.recycle(buffer);
        }
        self.starved -= usize::from(starved);
        if armed {
            self.cancel(user_data(Kind::Receive, index));
        } else {
            self.receives.remove(index);
        }
    }

    fn acquire_slot(&mut self) -> Option<Box<SendSlot>> {
        self.slots.acquire()
    }

    fn release_slot(&mut self, slot: Box<SendSlot>) {
        self.slots.release(slot);
    }

    fn send(&mut self, mut slot: Box<SendSlot>, fd: Arc<OwnedFd>) {
        self.stats.udp_sends.add(1);
        self.stats.udp_bytes_out.add(slot.len() as u64);
        let place = self.quiet.len() as u64;
        let index = (self.round & ROUND_MASK) << ROUND_SHIFT | place;
        #[allow(clippy::cast_sign_loss, reason = "a flag")]
        let entry = opcode::SendMsg::new(Fd(fd.as_raw_fd()), slot.header())
            .flags(libc::MSG_DONTWAIT as u32)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data((Kind::QuietSend as u64) << 56 | index);
        self.quiet.push(Some((slot, fd)));
        self.push(&entry);
    }

    fn start(&mut self, operation: Operation, resource: Box<dyn Any>) -> usize {
        let index = self.ops.insert(OpState::Waiting { waker: None, resource });
        // An offset of -1 is the descriptor's own position.
        let entry = match operation {
            Operation::Read { fd, to, len } => opcode::Read::new(Fd(fd), to, len).offset(u64::MAX).build(),
            Operation::Write { fd, from, len } => {
                opcode::Write::new(Fd(fd), from, len).offset(u64::MAX).build()
            }
        };
        self.push(&entry.user_data(user_data(Kind::Op, index)));
        index
    }

    fn poll_op(&mut self, index: usize, new_waker: &Waker) -> Option<(i32, Box<dyn Any>)> {
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

    fn orphan(&mut self, index: usize) {
        let state = self.ops.remove(index);
        if let OpState::Waiting { resource, .. } = state {
            let again = self.ops.insert(OpState::Orphaned { _resource: resource });
            // A slab hands the vacancy just made out again.
            assert_eq!(again, index, "an orphan keeps its place");
            self.cancel(user_data(Kind::Op, index));
        }
    }

    #[cfg(test)]
    fn ops_held(&self) -> usize {
        self.ops.len()
    }
}

#[cfg(test)]
impl Uring {
    /// What becomes of an entry that points to nothing of ours.
    pub(super) fn result_of(&mut self, entry: &squeue::Entry) -> i32 {
        let entry = entry.clone().user_data(user_data(Kind::Cancel, 0));
        self.push(&entry);
        self.uring().submit_and_wait(1).expect("the ring is entered");
        let queue = self.uring().completion();
        queue.last().expect("one completion was waited for").result()
    }

    /// Whether the ring can be given files.
    pub(super) fn register_files(&mut self, files: &[RawFd]) -> io::Result<()> {
        self.uring().submitter().register_files(files)
    }
}

/// The parts of what a multishot receive put into a buffer: four lengths, then
/// address and control messages in the room the header reserves, then the payload.
fn arrival<'a>(header: &libc::msghdr, buffer: &'a mut [u8]) -> Option<Arrival<'a>> {
    const HEAD: usize = 16 + NAME_BYTES + CONTROL_BYTES;
    let (name, control, payload) = {
        let out = RecvMsgOut::parse(buffer, header).ok()?;
        if out.is_payload_truncated() || out.is_control_data_truncated() {
            return None;
        }
        (out.name_data().len(), out.control_data().len(), out.payload_data().len())
    };
    let (head, rest) = buffer.split_at_mut_checked(HEAD)?;
    Some(Arrival {
        name: &head[16..16 + name],
        control: &head[16 + NAME_BYTES..16 + NAME_BYTES + control],
        payload: &mut rest[..payload],
    })
}

impl Drop for Uring {
    fn drop(&mut self) {
        let drained = self.drain();
        drop(self.uring.take());
        if !drained {
            // The kernel may still write to these: giving the memory up is the
            // only safe end.
            self.stats.buffers_leaked.add(self.in_flight() as u64);
            tracing::error!(operations = self.in_flight(), "io_uring did not drain; its buffers are leaked");
            std::mem::forget(std::mem::take(&mut self.quiet));
            std::mem::forget(std::mem::take(&mut self.sends));
            std::mem::forget(std::mem::take(&mut self.receives));
            std::mem::forget(std::mem::take(&mut self.ops));
            std::mem::forget(self.buffers.take());
        }
    }
}

/// All that a ring of ours is asked for.
const OPERATIONS: [u8; 6] = [
    opcode::PollAdd::CODE,
    opcode::RecvMsgMulti::CODE,
    opcode::SendMsg::CODE,
    opcode::Read::CODE,
    opcode::Write::CODE,
    opcode::AsyncCancel::CODE,
];

/// Allows a disabled ring our operations alone, no registration ever after, and enables it.
fn restrict(ring: &IoUring) -> io::Result<()> {
    let flags = squeue::Flags::BUFFER_SELECT | squeue::Flags::SKIP_SUCCESS;
    let mut allowed: Vec<_> = OPERATIONS.into_iter().map(Restriction::sqe_op).collect();
    allowed.push(Restriction::sqe_flags_allowed(flags.bits()));
    ring.submitter().register_restrictions(&mut allowed)?;
    ring.submitter().register_enable_rings()
}

fn build(submissions: u32, completions: u32) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_r_disabled()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_submit_all()
        .setup_cqsize(completions)
        .dontfork();
    // Newer kernels (6.6) go without the submission index array.
    let mut lean = builder.clone();
    match lean.setup_no_sqarray().build(submissions) {
        Ok(ring) => Ok(ring),
        Err(_) => builder.build(submissions),
    }
}

//! Receiving by `recvmmsg` into pooled buffers.
//!
//! Invariants:
//! - A buffer is in exactly one place: the free list, a header of the next
//!   receive (loaded), or an arrival that nobody has taken yet.
//! - The first `loaded` headers point to the buffers at the same places of
//!   `in_headers`, and nobody else touches those.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::task::Waker;

use super::super::buffers::{BUFFER_BYTES, Buffers};
use super::super::{Arrival, BUFFERS_MAX, BUFFERS_STEP, CONTROL_BYTES, NAME_BYTES};
use super::Epoll;

/// Datagrams (or trains) taken from one socket in one turn; what is left is
/// reported again by the next wait, so that no socket keeps the others waiting.
const BATCH_MAX: usize = 64;

/// Where control messages and payload begin in a buffer; the address is first.
const CONTROL_AT: usize = NAME_BYTES.next_multiple_of(8);
const PAYLOAD_AT: usize = CONTROL_AT + CONTROL_BYTES;
const PAYLOAD_MAX: usize = BUFFER_BYTES - PAYLOAD_AT;

const _: () = assert!(BATCH_MAX <= BUFFERS_STEP as usize, "growing once fills a batch");
const _: () = assert!(PAYLOAD_MAX >= 65_535, "the longest train fits");

pub(super) struct ReceiveState {
    fd: Arc<OwnedFd>,
    arrived: VecDeque<Arrived>,
    waker: Option<Waker>,
}

/// A filled buffer.
#[derive(Clone, Copy)]
pub(super) struct Arrived {
    buffer: u16,
    name: usize,
    control: usize,
    payload: usize,
    is_cut: bool,
}

impl ReceiveState {
    pub(super) fn poll(&mut self, waker: &Waker) -> bool {
        if !self.arrived.is_empty() {
            return true;
        }
        match &mut self.waker {
            Some(old) => old.clone_from(waker),
            None => self.waker = Some(waker.clone()),
        }
        false
    }

    pub(super) fn pop(&mut self) -> Option<Arrived> {
        self.arrived.pop_front()
    }
}

/// The receive buffers of a core.
pub(super) struct Pool {
    buffers: Buffers,
    free: Vec<u16>,
    headers: Box<[libc::mmsghdr; BATCH_MAX]>,
    iovecs: Box<[libc::iovec; BATCH_MAX]>,
    in_headers: [u16; BATCH_MAX],
    loaded: usize,
    /// Receives that wait for a buffer.
    starved: Vec<RawFd>,
}

impl Pool {
    pub(super) fn new() -> Self {
        // SAFETY: all-zero is a valid header and a valid iovec: null pointers and
        // zero lengths.
        let (headers, iovecs) = unsafe { (Box::new(std::mem::zeroed()), Box::new(std::mem::zeroed())) };
        let mut this = Self {
            buffers: Buffers::default(),
            free: Vec::new(),
            headers,
            iovecs,
            in_headers: [0; BATCH_MAX],
            loaded: 0,
            starved: Vec::new(),
        };
        this.grow();
        this
    }

    /// Adds buffers; false when there are as many as there may be.
    fn grow(&mut self) -> bool {
        let room = usize::from(BUFFERS_MAX) - self.buffers.len();
        let count = room.min(usize::from(BUFFERS_STEP));
        for _ in 0..count {
            let index = self.buffers.add();
            self.free.push(index);
        }
        count > 0
    }

    /// Puts free buffers into headers that have none; false when there is none
    /// to receive into.
    fn load(&mut self) -> bool {
        while self.loaded < BATCH_MAX {
            let Some(buffer) = self.free.pop() else { break };
            self.put(self.loaded, buffer);
            self.loaded += 1;
        }
        self.loaded > 0
    }

    /// Makes a header ready to receive into a buffer.
    fn put(&mut self, at: usize, buffer: u16) {
        self.in_headers[at] = buffer;
        let start = self.buffers.at(buffer);
        // SAFETY: both offsets are within the buffer (asserted above).
        let (control, payload) = unsafe { (start.add(CONTROL_AT), start.add(PAYLOAD_AT)) };
        self.iovecs[at] = libc::iovec { iov_base: payload.cast(), iov_len: PAYLOAD_MAX };
        let header = &mut self.headers[at].msg_hdr;
        header.msg_name = start.cast();
        header.msg_namelen = libc::socklen_t::try_from(NAME_BYTES).expect("28");
        header.msg_iov = &raw mut self.iovecs[at];
        header.msg_iovlen = 1;
        header.msg_control = control.cast();
        header.msg_controllen = CONTROL_BYTES as _;
    }

    /// Receives into the loaded buffers and passes what came to `into`.
    fn receive(&mut self, fd: RawFd, into: &mut VecDeque<Arrived>) -> io::Result<()> {
        // SAFETY: the first `loaded` headers point to buffers that are ours alone
        // (module invariant), with the lengths they have; no timeout.
        let received = unsafe {
            libc::recvmmsg(
                fd,
                self.headers.as_mut_ptr(),
                libc::c_uint::try_from(self.loaded).expect("at most 64"),
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (message, &buffer) in self.headers[..received].iter().zip(&self.in_headers) {
            let header = &message.msg_hdr;
            #[allow(clippy::unnecessary_cast, reason = "the field's type differs between libcs")]
            into.push_back(Arrived {
                buffer,
                // The kernel tells the length it would have liked.
                name: (header.msg_namelen as usize).min(NAME_BYTES),
                control: (header.msg_controllen as usize).min(CONTROL_BYTES),
                payload: (message.msg_len as usize).min(PAYLOAD_MAX),
                is_cut: header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
            });
        }
        self.replace(received);
        Ok(())
    }

    /// The first `count` buffers have been given away: free ones take their
    /// places, or else those behind them move up.
    fn replace(&mut self, count: usize) {
        for at in 0..count {
            let buffer = match self.free.pop() {
                Some(buffer) => buffer,
                None if self.loaded > count => {
                    self.loaded -= 1;
                    self.in_headers[self.loaded]
                }
                None => {
                    self.loaded = at;
                    return;
                }
            };
            self.put(at, buffer);
        }
    }

    /// Passes an arrival's bytes to `f` and takes the buffer back.
    pub(super) fn with<R>(&mut self, arrived: Arrived, f: impl FnOnce(Option<Arrival<'_>>) -> R) -> R {
        let Arrived { buffer, name, control, payload, is_cut } = arrived;
        // SAFETY: the buffer is an arrival's, so nobody else touches it (module
        // invariant), and the borrow of `self` keeps it from being loaded.
        let bytes = unsafe { self.buffers.bytes(buffer, PAYLOAD_AT + payload) };
        let (head, payload) = bytes.split_at_mut(PAYLOAD_AT);
        let arrival =
            Arrival { name: &head[..name], control: &head[CONTROL_AT..CONTROL_AT + control], payload };
        let result = f(if is_cut { None } else { Some(arrival) });
        self.give_back(arrived);
        result
    }

    pub(super) fn give_back(&mut self, arrived: Arrived) {
        self.free.push(arrived.buffer);
    }
}

impl Epoll {
    pub(super) fn attach_receive(&mut self, fd: Arc<OwnedFd>) -> io::Result<usize> {
        let raw = fd.as_raw_fd();
        if self.watch(raw).receive.is_some() {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        let index = self.receives.insert(ReceiveState { fd, arrived: VecDeque::new(), waker: None });
        self.watch(raw).receive = Some(index);
        if let Err(error) = self.update(raw) {
            self.watch(raw).receive = None;
            self.receives.remove(index);
            return Err(error);
        }
        Ok(index)
    }

    pub(super) fn detach_receive(&mut self, index: usize) {
        let state = self.receives.remove(index);
        for arrived in state.arrived {
            self.pool.give_back(arrived);
        }
        let raw = state.fd.as_raw_fd();
        let watch = self.watch(raw);
        watch.receive = None;
        if std::mem::take(&mut watch.starved) {
            self.pool.starved.retain(|&fd| fd != raw);
        }
        // The descriptor may be closed with `state.fd`: it is let go before.
        self.relax(raw);
    }

    /// Takes what a socket has, up to a batch.
    pub(super) fn receive(&mut self, index: usize) {
        let state = &mut self.receives[index];
        let raw = state.fd.as_raw_fd();
        if !self.pool.load() {
            self.stats.udp_receive_starved.add(1);
            if !self.pool.grow() || !self.pool.load() {
                // Watched on, it would end every wait at once and to no avail.
                self.pool.starved.push(raw);
                self.watch(raw).starved = true;
                self.relax(raw);
                return;
            }
        }
        match self.pool.receive(raw, &mut state.arrived) {
            Ok(()) => {
                if let Some(waker) = state.waker.take() {
                    waker.wake();
                }
            }
            // Somebody else's error, such as a peer's port that is closed, or
            // nothing to receive; the next wait tells when there is.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => tracing::debug!(%error, "nothing received"),
        }
    }

    /// Receives again where buffers were missing, once there are some.
    pub(super) fn feed_starved(&mut self) {
        if self.pool.starved.is_empty() || self.pool.free.is_empty() {
            return;
        }
        for raw in std::mem::take(&mut self.pool.starved) {
            self.watch(raw).starved = false;
            if let Err(error) = self.update(raw) {
                tracing::error!(%error, "cannot watch a socket; tried again");
                self.watch(raw).starved = true;
                self.pool.starved.push(raw);
            }
        }
    }
}

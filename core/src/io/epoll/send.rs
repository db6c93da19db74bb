//! Sending by `sendmmsg` what was gathered over a turn.
//!
//! Invariants:
//! - A descriptor stands in `Sender::noted` if and only if its outbox has slots
//!   and is not blocked.
//! - A blocked outbox is watched for room, and keeps its descriptor open.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use super::{Epoll, WRITABLE, find};
use crate::udp::SendSlot;

/// Trains handed over in one system call. All slots of a core take 16 of them.
const BATCH_MAX: usize = 64;

/// What waits to leave by one socket. Bounded by the pool of slots.
#[derive(Default)]
pub(super) struct Outbox {
    /// Open for as long as there is something to send.
    fd: Option<Arc<OwnedFd>>,
    slots: VecDeque<Box<SendSlot>>,
    /// Whether the socket's buffer was full.
    blocked: bool,
}

impl Outbox {
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// The socket may have room; whether there is something to try.
    pub(super) fn unblock(&mut self) -> bool {
        std::mem::take(&mut self.blocked)
    }
}

/// The outboxes to empty with this turn's enter.
#[derive(Default)]
pub(super) struct Sender {
    noted: Vec<RawFd>,
    /// Used anew by each call.
    headers: Vec<libc::mmsghdr>,
}

impl Sender {
    pub(super) fn note(&mut self, fd: RawFd) {
        self.noted.push(fd);
    }
}

impl Epoll {
    pub(super) fn gather(&mut self, slot: Box<SendSlot>, fd: Arc<OwnedFd>) {
        self.stats.udp_sends.add(1);
        self.stats.udp_bytes_out.add(slot.len() as u64);
        let raw = fd.as_raw_fd();
        let outbox = &mut self.watch(raw).outbox;
        outbox.slots.push_back(slot);
        if outbox.fd.is_none() {
            outbox.fd = Some(fd);
            self.sender.note(raw);
        }
    }

    /// Sends everything that was gathered, as far as the sockets have room.
    pub(super) fn flush(&mut self) {
        while let Some(fd) = self.sender.noted.pop() {
            self.empty(fd);
            let Some(watch) = find(&mut self.watches, fd) else { continue };
            let was_blocked = watch.registered & WRITABLE != 0;
            if (watch.outbox.blocked || was_blocked)
                && let Err(error) = self.update(fd)
            {
                // Not watched, nobody would ever send them.
                self.drop_outbox(fd, &error);
            }
            // Only now: the descriptor may be closed with it.
            if let Some(watch) = find(&mut self.watches, fd)
                && watch.outbox.slots.is_empty()
            {
                watch.outbox.fd = None;
            }
        }
    }

    /// Sends until nothing is left or the socket's buffer is full.
    fn empty(&mut self, fd: RawFd) {
        let Some(watch) = find(&mut self.watches, fd) else { return };
        let outbox = &mut watch.outbox;
        while !outbox.slots.is_empty() {
            match send_some(fd, &mut outbox.slots, &mut self.sender.headers) {
                Ok(count) => outbox.slots.drain(..count).for_each(|slot| self.slots.release(slot)),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => {
                        outbox.blocked = true;
                        return;
                    }
                    // The error is the first train's; those behind it have their own try.
                    _ => {
                        self.stats.udp_send_errors.add(1);
                        tracing::debug!(%error, "datagrams not sent");
                        outbox.slots.drain(..1).for_each(|slot| self.slots.release(slot));
                    }
                },
            }
        }
    }

    fn drop_outbox(&mut self, fd: RawFd, error: &io::Error) {
        let Some(watch) = find(&mut self.watches, fd) else { return };
        watch.outbox.blocked = false;
        self.stats.udp_send_errors.add(watch.outbox.slots.len() as u64);
        tracing::debug!(%error, "datagrams not sent: their socket cannot be watched");
        watch.outbox.slots.drain(..).for_each(|slot| self.slots.release(slot));
    }
}

/// Hands the kernel the first slots, and returns how many it took: at least one.
fn send_some(
    fd: RawFd,
    slots: &mut VecDeque<Box<SendSlot>>,
    headers: &mut Vec<libc::mmsghdr>,
) -> io::Result<usize> {
    headers.clear();
    headers.extend(slots.iter_mut().take(BATCH_MAX).map(|slot| {
        // SAFETY: the header was just written and lives in the slot.
        let msg_hdr = unsafe { *slot.header() };
        libc::mmsghdr { msg_hdr, msg_len: 0 }
    }));
    // SAFETY: the headers point into the slots, which stay where they are until
    // the call returns; the kernel keeps nothing.
    let sent = unsafe {
        libc::sendmmsg(
            fd,
            headers.as_mut_ptr(),
            libc::c_uint::try_from(headers.len()).expect("at most 64"),
            (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

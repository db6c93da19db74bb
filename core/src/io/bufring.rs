//! Buffers that the kernel picks from when a datagram arrives.
//!
//! Invariants:
//! - A buffer is either with the kernel (its index was pushed and not yet
//!   reported) or with us (reported and not yet pushed back), never both.
//! - Buffers are freed only by `Drop`, which the owner ([`super::uring::Uring`])
//!   runs after the io_uring is closed.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::buffers::{BUFFER_BYTES, Buffers};

/// The group all receives of a core draw from.
pub(super) const GROUP: u16 = 0;

pub(super) struct BufRing {
    entries: *mut BufRingEntry,
    layout: Layout,
    mask: u16,
    tail: u16,
    buffers: Buffers,
}

impl BufRing {
    /// A ring with room for `capacity` buffers and `initial` of them present.
    pub(super) fn new(ring: &io_uring::IoUring, capacity: u16, initial: u16) -> io::Result<Self> {
        assert!(capacity.is_power_of_two() && initial <= capacity && capacity <= 1 << 15);
        // Page alignment is what the kernel asks of a buffer ring.
        let layout = Layout::array::<BufRingEntry>(capacity as usize)
            .and_then(|l| l.align_to(4096))
            .expect("at most 2^15 entries of 16 bytes");
        // SAFETY: the layout has a non-zero size.
        let entries = unsafe { alloc_zeroed(layout) }.cast::<BufRingEntry>();
        if entries.is_null() {
            handle_alloc_error(layout);
        }
        let mut this = Self { entries, layout, mask: capacity - 1, tail: 0, buffers: Buffers::default() };
        // SAFETY: the memory is live until `Drop`, which runs after the ring is
        // closed (module invariant), and holds `capacity` entries.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(entries as u64, capacity, GROUP, 0)?;
        }
        this.grow(initial);
        Ok(this)
    }

    /// Adds up to `count` buffers; false when the ring is at its capacity.
    pub(super) fn grow(&mut self, count: u16) -> bool {
        let room = self.mask as usize + 1 - self.buffers.len();
        let count = usize::from(count).min(room);
        for _ in 0..count {
            let index = self.buffers.add();
            self.recycle(index);
        }
        count > 0
    }

    /// Gives a buffer (back) to the kernel. The caller must own it.
    pub(super) fn recycle(&mut self, index: u16) {
        let at = (self.tail & self.mask) as usize;
        // SAFETY: `at` is within the ring; the kernel reads entries only below
        // the tail published by the release store that follows.
        unsafe {
            let entry = &mut *self.entries.add(at);
            entry.set_addr(self.buffers.at(index) as u64);
            entry.set_len(u32::try_from(BUFFER_BYTES).expect("64 KiB and a bit"));
            entry.set_bid(index);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(self.entries).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }

    /// The first `len` bytes of a buffer the kernel has reported to us.
    pub(super) fn bytes(&mut self, index: u16, len: usize) -> &mut [u8] {
        // SAFETY: the buffer is ours (module invariant), and the borrow of `self`
        // keeps it from being recycled.
        unsafe { self.buffers.bytes(index, len) }
    }
}

impl Drop for BufRing {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, freed once.
        unsafe { dealloc(self.entries.cast(), self.layout) };
    }
}

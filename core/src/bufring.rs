//! Buffers that the kernel picks from when a datagram arrives.
//!
//! Invariants:
//! - A buffer is either with the kernel (its index was pushed and not yet
//!   reported) or with us (reported and not yet pushed back), never both.
//! - Buffers are freed only by `Drop`, which the owner ([`crate::ring::Ring`])
//!   runs after the io_uring is closed.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

/// The group all receives of a core draw from.
pub(crate) const GROUP: u16 = 0;

/// Room for the largest GRO train (64 KiB) and what recvmsg puts before it.
pub(crate) const BUFFER_BYTES: usize = 64 * 1024 + 512;

pub(crate) struct BufRing {
    entries: *mut BufRingEntry,
    layout: Layout,
    mask: u16,
    tail: u16,
    buffers: Vec<*mut u8>,
}

impl BufRing {
    /// A ring with room for `capacity` buffers and `initial` of them present.
    pub(crate) fn new(ring: &io_uring::IoUring, capacity: u16, initial: u16) -> io::Result<Self> {
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
        let mut this = Self { entries, layout, mask: capacity - 1, tail: 0, buffers: Vec::new() };
        // SAFETY: the memory is live until `Drop`, which runs after the ring is
        // closed (module invariant), and holds `capacity` entries.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(entries as u64, capacity, GROUP, 0)?;
        }
        this.grow(initial);
        Ok(this)
    }

    /// Adds up to `count` buffers; false when the ring is at its capacity.
    pub(crate) fn grow(&mut self, count: u16) -> bool {
        let room = self.mask as usize + 1 - self.buffers.len();
        let count = usize::from(count).min(room);
        for _ in 0..count {
            // Zeroed memory of this size comes from fresh pages: nothing is
            // touched until a datagram lands there.
            // SAFETY: the layout has a non-zero size.
            let memory = unsafe { alloc_zeroed(buffer_layout()) };
            if memory.is_null() {
                handle_alloc_error(buffer_layout());
            }
            let index = u16::try_from(self.buffers.len()).expect("at most 2^15 buffers");
            self.buffers.push(memory);
            self.recycle(index);
        }
        count > 0
    }

    /// Gives a buffer (back) to the kernel. The caller must own it.
    pub(crate) fn recycle(&mut self, index: u16) {
        let at = (self.tail & self.mask) as usize;
        // SAFETY: `at` is within the ring; the kernel reads entries only below
        // the tail published by the release store that follows.
        unsafe {
            let entry = &mut *self.entries.add(at);
            entry.set_addr(self.buffers[index as usize] as u64);
            entry.set_len(u32::try_from(BUFFER_BYTES).expect("64 KiB and a bit"));
            entry.set_bid(index);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(self.entries).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }

    /// The first `len` bytes of a buffer the kernel has reported to us.
    pub(crate) fn bytes(&mut self, index: u16, len: usize) -> &mut [u8] {
        assert!(len <= BUFFER_BYTES);
        // SAFETY: the buffer is ours (module invariant), lives until `Drop`, and
        // was zeroed when made; the borrow of `self` keeps it from being recycled.
        unsafe { std::slice::from_raw_parts_mut(self.buffers[index as usize], len) }
    }
}

fn buffer_layout() -> Layout {
    Layout::from_size_align(BUFFER_BYTES, 64).expect("a small constant layout")
}

impl Drop for BufRing {
    fn drop(&mut self) {
        for &buffer in &self.buffers {
            // SAFETY: allocated in `grow` with this layout, freed once.
            unsafe { dealloc(buffer, buffer_layout()) };
        }
        // SAFETY: allocated in `new` with this layout, freed once.
        unsafe { dealloc(self.entries.cast(), self.layout) };
    }
}

//! The memory of receive buffers.
//!
//! Invariant: a buffer is made once, keeps its address, and is freed by `Drop`.
//! Who may touch its bytes is the owner's affair.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

use super::{CONTROL_BYTES, NAME_BYTES};

/// Room for the largest GRO train (64 KiB) and what comes before it: address and
/// control messages, and with io_uring their lengths.
pub(super) const BUFFER_BYTES: usize = 64 * 1024 + 512;

const _: () = assert!(
    16 + NAME_BYTES + CONTROL_BYTES + 65_535 <= BUFFER_BYTES,
    "a receive buffer holds the largest train and what comes before it"
);

#[derive(Default)]
pub(super) struct Buffers(Vec<*mut u8>);

impl Buffers {
    /// Buffers made so far.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Makes a buffer and returns its index.
    ///
    /// # Panics
    /// When there are 2^16 of them; the owner's bound is far below.
    pub(super) fn add(&mut self) -> u16 {
        let index = u16::try_from(self.0.len()).expect("at most 2^16 buffers");
        // Zeroed memory of this size comes from fresh pages: nothing is touched
        // until a datagram lands there.
        // SAFETY: the layout has a non-zero size.
        let memory = unsafe { alloc_zeroed(layout()) };
        if memory.is_null() {
            handle_alloc_error(layout());
        }
        self.0.push(memory);
        index
    }

    /// Start of a buffer of [`BUFFER_BYTES`] initialised bytes.
    pub(super) fn at(&self, index: u16) -> *mut u8 {
        self.0[index as usize]
    }

    /// The first `len` bytes of a buffer.
    ///
    /// # Safety
    /// Nobody else reads or writes the buffer meanwhile, the kernel included.
    pub(super) unsafe fn bytes(&mut self, index: u16, len: usize) -> &mut [u8] {
        assert!(len <= BUFFER_BYTES);
        // SAFETY: the memory was zeroed when made and lives until `Drop`; the
        // caller promises that it is ours alone.
        unsafe { std::slice::from_raw_parts_mut(self.0[index as usize], len) }
    }
}

fn layout() -> Layout {
    Layout::from_size_align(BUFFER_BYTES, 64).expect("a small constant layout")
}

impl Drop for Buffers {
    fn drop(&mut self) {
        for &buffer in &self.0 {
            // SAFETY: allocated in `add` with this layout, freed once.
            unsafe { dealloc(buffer, layout()) };
        }
    }
}

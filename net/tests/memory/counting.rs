//! An allocator that keeps the balance of each thread.
//!
//! What a core keeps for its connections is allocated and freed on its own
//! thread, so the balance of that thread is what they cost, however much the
//! clients in the same process use. So is the largest balance there was, however
//! short it was there: a look now and then sees nothing of what one turn makes
//! and gives back.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static BYTES: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(isize::MIN) };
}

/// Counts, and leaves the work to the system's allocator.
pub(crate) struct Counting;

fn add(bytes: isize) {
    // A thread that ends frees after its locals are gone; nobody asks by then.
    let total = BYTES.try_with(|total| {
        total.set(total.get() + bytes);
        total.get()
    });
    if let Ok(total) = total {
        let _ = MOST.try_with(|most| most.set(most.get().max(total)));
    }
}

/// What a core receives into (64 KiB and a bit, aligned to a line of the cache) belongs to no client: it grows to 32 MiB
/// with bursts, whoever sends them, and stays.
fn is_receive_buffer(layout: Layout) -> bool {
    layout.align() == 64 && layout.size() == 64 * 1024 + 512
}

fn counted(layout: Layout) -> isize {
    if is_receive_buffer(layout) { 0 } else { signed(layout.size()) }
}

fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

// SAFETY: every call is passed on to the system's allocator as it came; the
// count allocates nothing, since its cell is constant-initialised and needs no
// destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(counted(layout));
        // SAFETY: the caller's promises are those the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        add(-counted(layout));
        // SAFETY: as above; the pointer came from it.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(signed(size) - signed(layout.size()));
        // SAFETY: as above; the pointer came from it.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Bytes this thread has allocated and not freed.
pub(crate) fn balance() -> isize {
    BYTES.with(Cell::get)
}

/// The largest [`balance`] of this thread since this was asked last, at any moment.
pub(crate) fn take_most() -> isize {
    MOST.with(|most| most.replace(balance()))
}

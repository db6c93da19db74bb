//! The pool of send slots of a core.

use std::sync::Arc;

use crate::stats::CoreStats;
use crate::udp::{SEND_SLOTS_MAX, SendSlot};

/// Slots keep their place in memory while they move between lists, and the
/// capacity of their buffers from one use to the next.
pub(super) struct Slots {
    #[allow(clippy::vec_box, reason = "the kernel is given their addresses")]
    free: Vec<Box<SendSlot>>,
    made: usize,
    stats: Arc<CoreStats>,
}

impl Slots {
    pub(super) fn new(stats: Arc<CoreStats>) -> Self {
        Self { free: Vec::new(), made: 0, stats }
    }

    /// An empty slot; `None` when all of [`SEND_SLOTS_MAX`] are in use (counted).
    pub(super) fn acquire(&mut self) -> Option<Box<SendSlot>> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        if self.made == SEND_SLOTS_MAX {
            self.stats.udp_send_slots_exhausted.add(1);
            return None;
        }
        self.made += 1;
        Some(Box::default())
    }

    pub(super) fn release(&mut self, mut slot: Box<SendSlot>) {
        slot.clear();
        self.free.push(slot);
    }
}

//! The dynamic table (RFC 9204 section 3.2), for either end.
//!
//! Invariants:
//! - `size` is the sum of [`Line::size`] over `lines`, and never above `capacity`, which is never above
//!   `capacity_max`.
//! - Lines are named by absolute index: how many were inserted before. The oldest that is left has index
//!   `dropped`, the next to come `inserted()`.
//! - Names and values are shared, not copied, when an instruction refers to a line that is there: a byte on
//!   the wire must not cost kilobytes of copying.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::http::{Checked, PseudoName, is_valid_line};

/// What RFC 9204 section 3.2.1 adds to each line.
pub(super) const LINE_OVERHEAD_BYTES: usize = 32;

/// The name of a line.
#[derive(Debug, Clone)]
pub(super) enum Name {
    Static(&'static str),
    Shared(Rc<[u8]>),
}

impl Name {
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Static(name) => name.as_bytes(),
            Self::Shared(name) => name,
        }
    }
}

/// A line of the table.
#[derive(Debug, Clone)]
pub(super) struct Line {
    name: Name,
    value: Rc<[u8]>,
    /// What was checked when it came, so that it is checked once and not with every reference.
    checked: Checked,
    /// The pseudo-header it is, likewise.
    pseudo: Option<PseudoName>,
}

impl Line {
    pub(super) fn new(name: Name, value: Rc<[u8]>) -> Self {
        let checked = if is_valid_line(name.bytes(), &value) { Checked::Line } else { Checked::Nothing };
        let pseudo = PseudoName::of(name.bytes());
        Self { name, value, checked, pseudo }
    }

    #[inline]
    pub(super) fn name(&self) -> &[u8] {
        self.name.bytes()
    }

    pub(super) fn shared_name(&self) -> Name {
        self.name.clone()
    }

    #[inline]
    pub(super) fn value(&self) -> &[u8] {
        &self.value
    }

    #[inline]
    pub(super) fn checked(&self) -> Checked {
        self.checked
    }

    #[inline]
    pub(super) fn pseudo(&self) -> Option<PseudoName> {
        self.pseudo
    }

    /// RFC 9204 section 3.2.1.
    pub(super) fn size(&self) -> usize {
        line_size(self.name(), self.value())
    }
}

/// What a line counts for in a table, in bytes.
pub(super) fn line_size(name: &[u8], value: &[u8]) -> usize {
    name.len() + value.len() + LINE_OVERHEAD_BYTES
}

/// The instruction asks for more than the table can hold; the table is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoRoom;

#[derive(Debug)]
pub(super) struct DynamicTable {
    lines: VecDeque<Line>,
    size: usize,
    capacity: usize,
    capacity_max: usize,
    dropped: u64,
}

impl DynamicTable {
    /// An empty table of capacity 0, which may be set to at most `capacity_max` bytes.
    pub(super) fn new(capacity_max: usize) -> Self {
        Self { lines: VecDeque::new(), size: 0, capacity: 0, capacity_max, dropped: 0 }
    }

    pub(super) fn capacity_max(&self) -> usize {
        self.capacity_max
    }

    /// How many more bytes of lines fit without any of them being dropped.
    pub(super) fn free(&self) -> usize {
        self.capacity - self.size
    }

    /// How many lines were ever inserted.
    pub(super) fn inserted(&self) -> u64 {
        self.dropped + self.lines.len() as u64
    }

    /// The line of this absolute index, if it came and is still there.
    #[inline]
    pub(super) fn get(&self, absolute: u64) -> Option<&Line> {
        let place = absolute.checked_sub(self.dropped)?;
        self.lines.get(usize::try_from(place).ok()?)
    }

    /// RFC 9204 section 3.2.3; drops what does not fit any more.
    pub(super) fn set_capacity(&mut self, capacity: u64) -> Result<(), NoRoom> {
        let capacity = usize::try_from(capacity).map_err(|_| NoRoom)?;
        if capacity > self.capacity_max {
            return Err(NoRoom);
        }
        self.capacity = capacity;
        self.shrink_to(capacity);
        Ok(())
    }

    /// RFC 9204 section 3.2.2; drops the oldest lines to make room.
    pub(super) fn insert(&mut self, line: Line) -> Result<(), NoRoom> {
        let size = line.size();
        self.shrink_to(self.capacity.checked_sub(size).ok_or(NoRoom)?);
        self.size += size;
        self.lines.push_back(line);
        Ok(())
    }

    fn shrink_to(&mut self, size: usize) {
        while self.size > size {
            let Some(oldest) = self.lines.pop_front() else { return };
            self.size -= oldest.size();
            self.dropped += 1;
        }
    }
}

//! A bounded ring with one producer and one consumer.
//!
//! Invariants:
//! - `tail - head` never exceeds the capacity; both only grow (wrapping).
//! - The slots in `head..tail` are initialised and belong to the consumer; all
//!   others are uninitialised and belong to the producer.
//! - Each end is owned by one thread at a time (`&mut self`); ends are `Send`,
//!   not `Sync`.

use std::cell::{Cell, UnsafeCell};
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Keeps the two indices on cache lines of their own; 128 bytes because
/// adjacent lines are fetched in pairs on x86.
#[repr(align(128))]
struct Padded<T>(T);

struct Shared<T> {
    head: Padded<AtomicUsize>,
    tail: Padded<AtomicUsize>,
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    mask: usize,
}

// SAFETY: slots are handed from the producer to the consumer through the
// release store of `tail` and back through that of `head`; `Producer` and
// `Consumer` are the only users and each exists once, so no slot is reachable
// from two threads at a time. `T: Send` as values cross threads.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: see above; moving the ring moves values of `T`.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let (head, tail) = (*self.head.0.get_mut(), *self.tail.0.get_mut());
        let mut at = head;
        while at != tail {
            // SAFETY: `head..tail` is initialised (module invariant) and both
            // ends are gone, since they hold the `Arc` this value lives in.
            unsafe { self.slots[at & self.mask].get_mut().assume_init_drop() };
            at = at.wrapping_add(1);
        }
    }
}

/// The writing end.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    tail: usize,
    head_seen: Cell<usize>,
}

/// The reading end.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    head: usize,
}

/// Makes a ring that holds at most `capacity` values, rounded up to a power of
/// two.
///
/// # Panics
/// If `capacity` is zero.
pub fn ring<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    assert!(capacity > 0, "a ring holds at least one value");
    let capacity = capacity.next_power_of_two();
    let slots = (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect();
    let shared = Arc::new(Shared {
        head: Padded(AtomicUsize::new(0)),
        tail: Padded(AtomicUsize::new(0)),
        slots,
        mask: capacity - 1,
    });
    (Producer { shared: Arc::clone(&shared), tail: 0, head_seen: Cell::new(0) }, Consumer { shared, head: 0 })
}

impl<T: Send> Producer<T> {
    /// Appends `value`, or gives it back when the ring is full.
    pub fn push(&mut self, value: T) -> Result<(), T> {
        if self.free() == 0 {
            return Err(value);
        }
        let slot = &self.shared.slots[self.tail & self.shared.mask];
        // SAFETY: `free() > 0`, so the slot at `tail` is outside `head..tail`
        // and ours alone (module invariant).
        unsafe { (*slot.get()).write(value) };
        self.tail = self.tail.wrapping_add(1);
        self.shared.tail.0.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// How many more values fit for certain.
    pub fn free(&self) -> usize {
        let capacity = self.shared.mask + 1;
        let used = self.tail.wrapping_sub(self.head_seen.get());
        if used < capacity {
            return capacity - used;
        }
        // The consumer's index is read only when the last known one says full.
        self.head_seen.set(self.shared.head.0.load(Ordering::Acquire));
        capacity - self.tail.wrapping_sub(self.head_seen.get())
    }

    /// Values pushed and not yet taken, by the consumer's latest index.
    pub fn depth(&self) -> usize {
        self.tail.wrapping_sub(self.shared.head.0.load(Ordering::Relaxed))
    }
}

impl<T: Send> Consumer<T> {
    /// Takes the oldest value.
    pub fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let slot = &self.shared.slots[self.head & self.shared.mask];
        // SAFETY: `head != tail`, so the slot is initialised and ours (module
        // invariant); advancing `head` below gives it back exactly once.
        let value = unsafe { (*slot.get()).assume_init_read() };
        self.head = self.head.wrapping_add(1);
        self.shared.head.0.store(self.head, Ordering::Release);
        Some(value)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.head == self.shared.tail.0.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[test]
    fn full_ring_gives_the_value_back() {
        let (mut tx, mut rx) = ring(2);
        assert_eq!(tx.push(1), Ok(()));
        assert_eq!(tx.push(2), Ok(()));
        assert_eq!(tx.push(3), Err(3));
        assert_eq!(rx.pop(), Some(1));
        assert_eq!(tx.push(3), Ok(()));
        assert_eq!((rx.pop(), rx.pop(), rx.pop()), (Some(2), Some(3), None));
    }

    #[test]
    fn values_left_behind_are_dropped_once() {
        let value = Arc::new(());
        let (mut tx, mut rx) = ring(8);
        for _ in 0..5 {
            tx.push(Arc::clone(&value)).unwrap();
        }
        drop(rx.pop());
        drop((tx, rx));
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[test]
    fn order_holds_across_threads() {
        const COUNT: u64 = 200_000;
        let (mut tx, mut rx) = ring(64);
        let producer = std::thread::spawn(move || {
            for mut n in 0..COUNT {
                while let Err(back) = tx.push(n) {
                    n = back;
                    std::thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while expected < COUNT {
            match rx.pop() {
                Some(n) => {
                    assert_eq!(n, expected);
                    expected += 1;
                }
                None => std::thread::yield_now(),
            }
        }
        producer.join().unwrap();
        assert!(rx.is_empty());
    }

    proptest! {
        #[test]
        fn behaves_like_a_bounded_queue(capacity in 1usize..20, ops in prop::collection::vec(any::<Option<u16>>(), 0..400)) {
            let (mut tx, mut rx) = ring(capacity);
            let bound = capacity.next_power_of_two();
            let mut model = VecDeque::new();
            for op in ops {
                match op {
                    Some(value) if model.len() < bound => {
                        prop_assert_eq!(tx.push(value), Ok(()));
                        model.push_back(value);
                    }
                    Some(value) => prop_assert_eq!(tx.push(value), Err(value)),
                    None => prop_assert_eq!(rx.pop(), model.pop_front()),
                }
                prop_assert_eq!(tx.depth(), model.len());
                prop_assert_eq!(rx.is_empty(), model.is_empty());
            }
        }
    }
}

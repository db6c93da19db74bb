//! Counters of one core, written by its thread alone and read by anyone.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Counters of one core.
        ///
        /// The core's thread is the only writer, so an increment is a plain
        /// load and store; readers see a recent value.
        #[derive(Debug, Default)]
        pub struct CoreStats { $($(#[$doc])* pub $name: Counter,)+ }

        impl CoreStats {
            /// Every counter with its name, in declaration order.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
                [$((stringify!($name), self.$name.get()),)+].into_iter()
            }
        }
    };
}

counters! {
    /// Turns of the loop.
    turns,
    /// Calls into the kernel to submit and wait.
    enters,
    /// Tasks polled.
    polls,
    /// Completions reaped (io_uring), or descriptors that were ready (epoll).
    completions,
    /// Turns that took more than 1 ms of work or of waiting within the turn.
    stalls,
    /// Turns of that kind of more than 25 ms.
    stalls_long,
    /// Stacks of such turns that were logged; written by the watchdog alone.
    stall_stacks,
    /// Turns of more than 1 ms in which the kernel gave the CPU to another thread.
    turns_preempted,
    /// Longest stall so far, in microseconds.
    stall_longest_us,
    /// Microseconds the core was busy (not waiting in the kernel).
    busy_us,
    /// Wakes that came from other threads.
    wakes_foreign,
    /// Datagrams received, after GRO was taken apart.
    udp_datagrams_in,
    /// Receives (each may hold many datagrams).
    udp_receives,
    /// Sends submitted (each may hold many datagrams).
    udp_sends,
    /// Bytes handed to the kernel to send.
    udp_bytes_out,
    /// Bytes received.
    udp_bytes_in,
    /// Sends the kernel refused; the datagrams are lost, as on the wire.
    udp_send_errors,
    /// Times a receive found no buffer; the pool grows until its bound, then the
    /// socket waits until one is given back.
    udp_receive_starved,
    /// Datagrams whose address or control data could not be read.
    udp_receive_invalid,
    /// Times a sender found every send slot in flight.
    udp_send_slots_exhausted,
    /// Turns in which the kernel had to hold completions back, since their queue
    /// was full; they come with the next enter.
    completion_overflows,
    /// Completions the kernel lost, being out of memory; their operations hang.
    completions_lost,
    /// Buffers given up at shutdown since the kernel still held them.
    buffers_leaked,
}

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Call it from the owning thread only; a second writer would
    /// lose counts, nothing worse.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Keeps the larger of the present value and `n`.
    pub fn raise(&self, n: u64) {
        if n > self.0.load(Ordering::Relaxed) {
            self.0.store(n, Ordering::Relaxed);
        }
    }

    /// Replaces the value, for gauges.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value as last written.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

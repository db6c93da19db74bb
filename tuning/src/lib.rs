//! The host: which CPUs there are, binding threads to them, whether the system's settings suit us, and giving up what a
//! process has no use for.
//!
//! Invariants:
//! - Knows nothing of the rest: plain CPU numbers and findings go out.
//! - Reads only; nothing on the host is changed but the calling process's own bindings and rights.
//! - What the kernel says is read by pure functions, so that every host can be tried in a test.

mod checks;
mod cpu;
mod dumps;
pub mod sandbox;
mod topology;

pub use checks::{Finding, Severity, checks, open_files_max};
pub use cpu::{allowed_cpus, pin_current_thread};
pub use dumps::forbid_dumps;
pub use topology::{Cpu, Topology};

/// Why the host could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum TuningError {
    /// The kernel refused to tell which CPUs this thread may use.
    #[error("cannot read the CPUs this process may use")]
    Affinity(#[source] std::io::Error),
    /// The kernel refused to bind the thread: the CPU does not exist, or the process may not use it. Run unpinned,
    /// or choose among [`allowed_cpus`].
    #[error("cannot bind the thread to CPU {cpu}")]
    Pin {
        /// Which CPU.
        cpu: usize,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The CPU's number is beyond what the kernel's fixed-size set can hold.
    #[error("CPU {cpu} is out of bounds; allowed is 0 to {max}")]
    NoSuchCpu {
        /// Which CPU.
        cpu: usize,
        /// The highest number.
        max: usize,
    },
}

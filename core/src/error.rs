//! What can go wrong when a reactor is made or enters the kernel.

use std::io;

use crate::io::UnknownIo;

/// A reactor could not be made on this host.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The kernel refused to make a ring with the flags Sluice needs.
    #[error(
        "io_uring is not usable here ({source}); it needs Linux 6.1 or newer, sysctl \
         kernel.io_uring_disabled=0, and a seccomp profile that allows io_uring_setup, \
         io_uring_enter and io_uring_register"
    )]
    Ring {
        /// The refusal as the kernel gave it.
        source: io::Error,
    },
    /// A kernel feature is missing.
    #[error("this kernel lacks {feature}; Linux 6.1 or newer is needed")]
    Feature {
        /// Name of the feature, as in the io_uring manual.
        feature: &'static str,
    },
    /// Provided buffers could not be registered.
    #[error(
        "cannot register receive buffers with io_uring ({source}); allow io_uring_register, raise \
         RLIMIT_MEMLOCK, or free memory"
    )]
    Buffers {
        /// The refusal as the kernel gave it.
        source: io::Error,
    },
    /// The epoll instance could not be made.
    #[error("cannot make an epoll instance ({source}); raise RLIMIT_NOFILE or fs.epoll.max_user_watches")]
    Epoll {
        /// The refusal as the kernel gave it.
        source: io::Error,
    },
    /// The environment names an I/O backend that does not exist.
    #[error("{}: {source}", crate::io::IO_VARIABLE)]
    Choice {
        /// What is there instead.
        #[from]
        source: UnknownIo,
    },
    /// The eventfd that other threads wake the core with could not be made.
    #[error("cannot make an eventfd ({source}); raise RLIMIT_NOFILE")]
    Wake {
        /// The refusal as the kernel gave it.
        source: io::Error,
    },
    /// The thread could not be pinned.
    #[error("cannot pin to CPU {cpu} ({source}); choose CPUs this process may use")]
    Pin {
        /// The CPU asked for.
        cpu: usize,
        /// The refusal as the kernel gave it.
        source: io::Error,
    },
    /// More reactors live in this process than the table of wakers can hold.
    #[error("more than {max} reactors in one process")]
    TooMany {
        /// Size of the table.
        max: usize,
    },
}

/// The kernel refused to wait for events while the reactor ran. The core cannot
/// go on.
#[derive(Debug, thiserror::Error)]
#[error("waiting for events failed: {source}")]
pub struct EnterError {
    /// What the kernel said.
    #[from]
    pub source: io::Error,
}

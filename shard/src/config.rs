//! Settings of the cores: plain data, the same for all of them, every bound stated.

use std::time::Duration;

use sluice_store::session_cache::SessionCacheLimits;

use crate::env::RunConfig;

/// How long a session lives, from its first command.
pub const SESSION_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// Settings of a core. Bounds are per core.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Settings of running tasks.
    pub run: RunConfig,
    /// Largest body of a command in bytes. Default 64 KiB.
    pub body_bytes_max: usize,
    /// Longest time for one command; what a caller asks beyond it is cut to it, and what does not say gets it.
    /// Default 60 s.
    pub command_timeout: Duration,
    /// Tasks that may wait to be run; a command beyond them is refused before anything is written. Default 10,000.
    pub tasks_queued_max: usize,
    /// Tasks that may run at once. Default 1,024.
    pub tasks_running_max: usize,
    /// Tasks of one user that may run at once. Default 8.
    pub tasks_running_per_user_max: usize,
    /// Requests that may wait for the end of a task (`Prefer: wait`); those beyond are answered at once.
    /// Default 10,000.
    pub waits_max: usize,
    /// API keys remembered as checked. Default 65,536 (some 10 MiB).
    pub keys_cached_max: usize,
    /// How long a checked key is believed, and so how long a user who was disabled may still be served.
    /// Default 60 s.
    pub key_life: Duration,
    /// Wrong API keys remembered, so that repeating one costs no read. Default 1,024.
    pub keys_refused_max: usize,
    /// How long a wrong key is remembered. Default 5 s.
    pub key_refused_life: Duration,
    /// Users whose current session is remembered. Default 65,536 (some 4 MiB).
    pub sessions_current_max: usize,
    /// The session cache. Default 64 MiB and 100,000 sessions.
    pub session_cache: SessionCacheLimits,
    /// Finished tasks kept ready to be polled. Default 2,048.
    pub finished_max: usize,
    /// Bytes of those. Default 16 MiB.
    pub finished_bytes_max: usize,
}

impl ShardConfig {
    /// The defaults around the settings of running tasks.
    pub fn new(run: RunConfig) -> Self {
        Self {
            run,
            body_bytes_max: 64 << 10,
            command_timeout: Duration::from_secs(60),
            tasks_queued_max: 10_000,
            tasks_running_max: 1_024,
            tasks_running_per_user_max: 8,
            waits_max: 10_000,
            keys_cached_max: 65_536,
            key_life: Duration::from_secs(60),
            keys_refused_max: 1_024,
            key_refused_life: Duration::from_secs(5),
            sessions_current_max: 65_536,
            session_cache: SessionCacheLimits { bytes_max: 64 << 20, entries_max: 100_000 },
            finished_max: 2_048,
            finished_bytes_max: 16 << 20,
        }
    }
}

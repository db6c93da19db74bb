//! Settings of the cores: plain data, the same for all of them, every bound stated.

use std::sync::Arc;
use std::time::Duration;

use sluice_store::session_cache::SessionCacheLimits;

use crate::auth::providers::Providers;
use crate::context::ContextConfig;
use crate::env::RunConfig;
use crate::limit::{LimitConfig, Limits};
use crate::webhooks::WebhookConfig;

/// How long a session lives, from its first command.
pub const SESSION_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// Settings of a core. Bounds are per core.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Settings of running tasks.
    pub run: RunConfig,
    /// Limits on requests, shared by all cores. Default those of [`LimitConfig`].
    pub limits: Arc<Limits>,
    /// Settings of context documents.
    pub context: ContextConfig,
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
    /// Attempts at one asynchronous command that fails in a way that may pass, the first included; then it becomes a
    /// dead letter. Default 5.
    pub task_attempts_max: u32,
    /// Upper end of the wait before the second attempt; it doubles with each. Default 1 s.
    pub task_retry_base: Duration,
    /// Upper end of any wait between attempts. Default 30 s.
    pub task_retry_max: Duration,
    /// Tasks that may wait for their user's confirmation; one beyond them fails. Default 10,000.
    pub unconfirmed_max: usize,
    /// How long a task waits for its confirmation before it is cancelled. Default 24 h.
    pub unconfirmed_life: Duration,
    /// How long an idempotency key is remembered. Default 24 h.
    pub idempotency_life: Duration,
    /// Webhooks.
    pub webhooks: WebhookConfig,
    /// What the node signs with: cursors of lists. By default random, so that they end with the process; one that is kept
    /// lets them live over a restart.
    pub node_secret: [u8; 32],
    /// Requests that may wait for the end of a task (`Prefer: wait`); those beyond are answered at once.
    /// Default 10,000.
    pub waits_max: usize,
    /// API keys remembered as checked. Default 65,536 (some 10 MiB).
    pub keys_cached_max: usize,
    /// How long a checked key, and the user of a checked token, is believed before it is read anew. What is revoked is
    /// not believed at all from then on. Default 60 s.
    pub key_life: Duration,
    /// Wrong API keys remembered, so that repeating one costs no read. Default 1,024.
    pub keys_refused_max: usize,
    /// How long a wrong key is remembered. Default 5 s.
    pub key_refused_life: Duration,
    /// Tokens of identity providers remembered as checked. Default 16,384 (some 6 MiB).
    pub tokens_cached_max: usize,
    /// The identity providers whose tokens are accepted. Default none.
    pub providers: Arc<Providers>,
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
    ///
    /// # Panics
    /// When the host has no random source.
    pub fn new(run: RunConfig) -> Self {
        let mut node_secret = [0; 32];
        getrandom::fill(&mut node_secret).expect("the host has a random source");
        Self {
            run,
            limits: Arc::new(Limits::new(LimitConfig::default())),
            context: ContextConfig::default(),
            body_bytes_max: 64 << 10,
            command_timeout: Duration::from_secs(60),
            tasks_queued_max: 10_000,
            tasks_running_max: 1_024,
            tasks_running_per_user_max: 8,
            task_attempts_max: 5,
            task_retry_base: Duration::from_secs(1),
            task_retry_max: Duration::from_secs(30),
            unconfirmed_max: 10_000,
            unconfirmed_life: Duration::from_secs(24 * 60 * 60),
            idempotency_life: Duration::from_secs(24 * 60 * 60),
            webhooks: WebhookConfig::default(),
            node_secret,
            waits_max: 10_000,
            keys_cached_max: 65_536,
            key_life: Duration::from_secs(60),
            keys_refused_max: 1_024,
            key_refused_life: Duration::from_secs(5),
            tokens_cached_max: 16_384,
            providers: Arc::default(),
            sessions_current_max: 65_536,
            session_cache: SessionCacheLimits { bytes_max: 64 << 20, entries_max: 100_000 },
            finished_max: 2_048,
            finished_bytes_max: 16 << 20,
        }
    }
}

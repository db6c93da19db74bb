//! Settings of webhooks: plain data, every bound stated.

use std::time::Duration;

use sluice_net::egress::OutwardPolicy;

/// Settings of webhooks. Bounds are a core's unless they say otherwise.
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// Where messages may go; the egress pool must be given the same.
    pub policy: OutwardPolicy,
    /// Webhooks of one user. Default 10.
    pub per_user_max: usize,
    /// Messages of one user that may wait to be delivered; those beyond are not made. Default 1,000.
    pub pending_per_user_max: usize,
    /// Messages that may wait to be delivered; those beyond are not made. Default 50,000.
    pub pending_max: usize,
    /// Attempts at once. Default 128.
    pub running_max: usize,
    /// Attempts at once for one user. Default 8.
    pub running_per_user_max: usize,
    /// Attempts at once at one host and port. Default 8.
    pub running_per_place_max: usize,
    /// Attempts at one message, the first included, before it is given up. Default 10.
    pub attempts_max: u32,
    /// Upper end of the wait before the second attempt; each is four times the one before. Default 5 s.
    pub retry_base: Duration,
    /// Upper end of any wait that the receiver did not ask for. Default 8 h.
    pub retry_max: Duration,
    /// Messages given up in a row after which their webhook is disabled. Default 10.
    pub disable_after: u32,
    /// How long the old secret signs beside a new one. Default 24 h.
    pub overlap: Duration,
}

impl Default for WebhookConfig {
    fn default() -> Self {
        Self {
            policy: OutwardPolicy::default(),
            per_user_max: 10,
            pending_per_user_max: 1_000,
            pending_max: 50_000,
            running_max: 128,
            running_per_user_max: 8,
            running_per_place_max: 8,
            attempts_max: 10,
            retry_base: Duration::from_secs(5),
            retry_max: Duration::from_secs(8 * 60 * 60),
            disable_after: 10,
            overlap: Duration::from_secs(24 * 60 * 60),
        }
    }
}

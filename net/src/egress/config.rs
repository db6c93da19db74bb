//! Settings of the egress pool: plain data, checked once by [`Egress::start`](super::Egress::start).

use std::time::Duration;

use super::outward::OutwardConfig;

/// Most worker threads of the shared runtime. Upstream calls wait far more than they compute;
/// beyond this the threads would only take time from the cores.
pub const THREADS_MAX: usize = 32;
/// Most threads for work of others.
pub const WORK_THREADS_MAX: usize = 256;
/// Most calls at once to one upstream.
pub const CONCURRENCY_MAX: usize = 65_536;

/// Everything the pool needs to start.
#[derive(Clone, Debug)]
pub struct EgressConfig {
    /// Worker threads of the shared runtime, 1 to [`THREADS_MAX`]. Default 1.
    pub threads: usize,
    /// Threads for work of others on the runtime that takes a while, 0 to [`WORK_THREADS_MAX`], beside those that names are
    /// resolved on; each is there while it is used. Default 0.
    pub work_threads: usize,
    /// How many cores get a mailbox of their own (one more is kept for every other thread). Default 0.
    pub cores: usize,
    /// Places in one mailbox; a full mailbox refuses with `Overloaded`. Default 4096.
    pub mailbox_size: usize,
    /// How many calls to one upstream may wait beyond its `concurrency_max`. Default 10,000.
    pub queue_max: usize,
    /// Largest response body kept, in bytes. Default 4 MiB.
    pub response_bytes_max: usize,
    /// When and how often a call is repeated.
    pub retry: RetryConfig,
    /// The `User-Agent` sent upstream.
    pub user_agent: String,
    /// The five upstreams.
    pub upstreams: PerUpstream<UpstreamConfig>,
    /// Messages to users' webhooks.
    pub outward: OutwardConfig,
}

impl EgressConfig {
    /// The defaults around the given upstreams.
    pub fn new(upstreams: PerUpstream<UpstreamConfig>) -> Self {
        Self {
            threads: 1,
            work_threads: 0,
            cores: 0,
            mailbox_size: 4096,
            queue_max: 10_000,
            response_bytes_max: 4 << 20,
            retry: RetryConfig::default(),
            user_agent: concat!("sluice/", env!("CARGO_PKG_VERSION")).to_owned(),
            upstreams,
            outward: OutwardConfig::default(),
        }
    }
}

/// Settings of one upstream.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// `http://` or `https://`, host, and an optional path prefix; requests can go nowhere else.
    pub base_url: String,
    /// Most attempts in flight at once, 1 to [`CONCURRENCY_MAX`]. Default 256.
    pub concurrency_max: usize,
    /// Longest wait for name resolution, TCP and TLS together. Default 3 s.
    pub connect_timeout: Duration,
    /// Longest single attempt of a call that may be repeated; the call's deadline holds beside it.
    /// Default 20 s.
    pub attempt_timeout: Duration,
    /// How long an unused connection is kept. Default 90 s.
    pub idle_timeout: Duration,
}

impl UpstreamConfig {
    /// The defaults for an upstream at `base_url`.
    pub fn new(base_url: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            concurrency_max: 256,
            connect_timeout: Duration::from_secs(3),
            attempt_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(90),
        }
    }
}

/// When a failed call is repeated.
///
/// Waits grow exponentially with full jitter: before retry `n` (from 0) a wait is drawn evenly from
/// zero to `min(backoff_max, backoff_base * 2^n)`.
#[derive(Clone, Debug)]
pub struct RetryConfig {
    /// Attempts in all, the first included, 1 to 10. Default 3.
    pub attempts_max: u32,
    /// Upper end of the first wait. Default 100 ms.
    pub backoff_base: Duration,
    /// Upper end of any wait that the upstream did not ask for. Default 5 s.
    pub backoff_max: Duration,
    /// Retries allowed per hundred requests to an upstream. Default 20.
    pub budget_percent: u32,
    /// Retries allowed each second on top of that, so that a quiet upstream can be retried. Default 10.
    pub budget_per_second: u32,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            attempts_max: 3,
            backoff_base: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            budget_percent: 20,
            budget_per_second: 10,
        }
    }
}

/// Where a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Upstream {
    /// The model's API.
    OpenAi,
    /// Google's token endpoint.
    OAuth,
    /// Gmail v1.
    Gmail,
    /// Calendar v3.
    Calendar,
    /// Drive v3.
    Drive,
}

impl Upstream {
    /// Every upstream, in the order of [`PerUpstream`].
    pub const ALL: [Self; 5] = [Self::OpenAi, Self::OAuth, Self::Gmail, Self::Calendar, Self::Drive];

    /// The name used in logs, metrics and configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::OAuth => "oauth",
            Self::Gmail => "gmail",
            Self::Calendar => "calendar",
            Self::Drive => "drive",
        }
    }
}

/// One `T` for each upstream.
#[derive(Clone, Debug, Default)]
pub struct PerUpstream<T> {
    /// For [`Upstream::OpenAi`].
    pub openai: T,
    /// For [`Upstream::OAuth`].
    pub oauth: T,
    /// For [`Upstream::Gmail`].
    pub gmail: T,
    /// For [`Upstream::Calendar`].
    pub calendar: T,
    /// For [`Upstream::Drive`].
    pub drive: T,
}

impl<T> PerUpstream<T> {
    /// The one that belongs to `upstream`.
    pub fn get(&self, upstream: Upstream) -> &T {
        match upstream {
            Upstream::OpenAi => &self.openai,
            Upstream::OAuth => &self.oauth,
            Upstream::Gmail => &self.gmail,
            Upstream::Calendar => &self.calendar,
            Upstream::Drive => &self.drive,
        }
    }

    /// Makes another set from this one, stopping at the first error.
    ///
    /// # Errors
    /// The first that `make` returns.
    pub fn try_map<U, E>(
        &self,
        mut make: impl FnMut(Upstream, &T) -> Result<U, E>,
    ) -> Result<PerUpstream<U>, E> {
        Ok(PerUpstream {
            openai: make(Upstream::OpenAi, &self.openai)?,
            oauth: make(Upstream::OAuth, &self.oauth)?,
            gmail: make(Upstream::Gmail, &self.gmail)?,
            calendar: make(Upstream::Calendar, &self.calendar)?,
            drive: make(Upstream::Drive, &self.drive)?,
        })
    }
}

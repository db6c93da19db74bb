//! Messages to places that users name: webhooks.
//!
//! They go out by the pool's threads like every call, but nothing else is shared with the calls to the upstreams: a
//! client of their own, bounds of their own, and threads of their own for names.
//!
//! Invariants:
//! - A message goes to no address that the policy does not allow. Names are resolved here, each address is judged after
//!   that and before anything is connected to, and the connection is made to one of the judged addresses: a name that
//!   changes its mind is judged anew. Addresses in place of names are judged before each attempt.
//! - Every message has a connection of its own, which ends with it: so the attempts under way bound the connections, and
//!   no connection outlives the judgement of its address.
//! - HTTP/1.1 alone, no redirects, no proxy, and of the answer nothing but status and `Retry-After` is told.
//! - One message is one attempt. Trying again is the caller's.

mod address;
mod stats;
mod target;
#[cfg(test)]
mod tests;

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use reqwest::Client;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout_at;

pub use ipnet::IpNet;
pub use stats::OutwardSnapshot;
pub use target::{OutwardPolicy, OutwardTarget, TARGET_BYTES_MAX, TargetError};

use super::dispatch::{Gauge, Running, describe};
use super::{EgressStartError, retry};
use stats::OutwardStats;

/// Names that are looked up at once. The lookup of a name whose servers do not answer takes a thread for as long as the
/// system's resolver waits, so these threads are none of those that the upstreams' names need.
pub(super) const LOOKUPS_MAX: usize = 32;
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;
/// After the status: how long the rest of an answer may take before the connection is dropped. Nobody reads it, but a
/// receiver that is cut off while it writes may take that for a failure.
const REST_TIME_MAX: Duration = Duration::from_secs(1);

/// Settings of messages.
#[derive(Clone, Debug)]
pub struct OutwardConfig {
    /// Where they may go.
    pub policy: OutwardPolicy,
    /// Most attempts at once, 1 to [`super::CONCURRENCY_MAX`]. Default 256.
    pub concurrency_max: usize,
    /// Longest wait for name, TCP and TLS together. Default 5 s.
    pub connect_timeout: Duration,
    /// Longest attempt, from name to status. Default 15 s.
    pub attempt_timeout: Duration,
    /// How much of an answer is read (and dropped), in bytes. Default 16 KiB.
    pub response_bytes_max: usize,
}

impl Default for OutwardConfig {
    fn default() -> Self {
        Self {
            policy: OutwardPolicy::default(),
            concurrency_max: 256,
            connect_timeout: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(15),
            response_bytes_max: 16 << 10,
        }
    }
}

/// One attempt: a POST of JSON.
pub struct OutwardMessage {
    /// Where to.
    pub target: OutwardTarget,
    /// Further fields; names in lower case.
    pub fields: Vec<(&'static str, String)>,
    /// The body.
    pub body: Bytes,
}

/// What a receiver answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutwardAnswer {
    /// HTTP status. Redirects are not followed.
    pub status: u16,
    /// What it asked us to wait, at most a day.
    pub retry_after: Option<Duration>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutwardError {
    /// Too many messages are on their way, or a queue was full; nothing was sent. Try again soon.
    #[error("too many messages are on their way")]
    Overloaded,
    /// The pool is stopping; nothing was sent.
    #[error("the gateway is shutting down")]
    ShuttingDown,
    /// A field cannot be put into HTTP: a mistake of the caller.
    #[error("the message is not valid")]
    Invalid,
    /// No allowed address is behind the name; nothing was sent.
    #[error("the name leads to no address that is allowed")]
    Forbidden,
    /// The name leads nowhere; nothing was sent.
    #[error("the name was not found")]
    NoName,
    /// No connection; nothing was sent.
    #[error("no connection")]
    NoConnection,
    /// The receiver did not prove who it is, or speaks no TLS that we do; nothing was sent.
    #[error("no TLS connection")]
    NoTls,
    /// No status in time; the message may have arrived.
    #[error("no answer in time")]
    TimedOut,
    /// The connection broke, or the answer is no HTTP; the message may have arrived.
    #[error("the connection broke")]
    Broken,
}

impl OutwardError {
    /// Every error, in declaration order.
    pub const ALL: [Self; 9] = [
        Self::Overloaded,
        Self::ShuttingDown,
        Self::Invalid,
        Self::Forbidden,
        Self::NoName,
        Self::NoConnection,
        Self::NoTls,
        Self::TimedOut,
        Self::Broken,
    ];

    /// The label value in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Overloaded => "overloaded",
            Self::ShuttingDown => "shutting_down",
            Self::Invalid => "invalid",
            Self::Forbidden => "forbidden",
            Self::NoName => "no_name",
            Self::NoConnection => "no_connection",
            Self::NoTls => "no_tls",
            Self::TimedOut => "timed_out",
            Self::Broken => "broken",
        }
    }
}

type Outcome = Result<OutwardAnswer, OutwardError>;

/// A message on its way from a core to the pool.
pub(super) struct OutwardJob {
    pub(super) message: OutwardMessage,
    pub(super) reply: oneshot::Sender<Outcome>,
}

/// A message under way. Resolves to what came of it; dropping it breaks the attempt off.
#[derive(Debug)]
#[must_use = "dropping it breaks the attempt off"]
pub struct OutwardCall(pub(super) Stage);

#[derive(Debug)]
pub(super) enum Stage {
    Refused(OutwardError),
    Waiting(oneshot::Receiver<Outcome>),
}

impl Future for OutwardCall {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        match &mut self.0 {
            Stage::Refused(error) => Poll::Ready(Err(*error)),
            // The sender is lost only when the runtime was torn down under the attempt.
            Stage::Waiting(outcome) => {
                Pin::new(outcome).poll(cx).map(|received| received.unwrap_or(Err(OutwardError::Broken)))
            }
        }
    }
}

/// Client, limits and counters of messages.
pub(super) struct OutwardState {
    client: Client,
    places: Semaphore,
    config: OutwardConfig,
    pub(super) stats: OutwardStats,
}

impl OutwardState {
    pub(super) fn new(config: &OutwardConfig, user_agent: &str) -> Result<Self, EgressStartError> {
        Self::asking(config, user_agent, Arc::new(system_lookup))
    }

    /// As [`Self::new`], with names looked up by `lookup`.
    fn asking(
        config: &OutwardConfig,
        user_agent: &str,
        lookup: Arc<Lookup>,
    ) -> Result<Self, EgressStartError> {
        let places = Arc::new(Semaphore::new(LOOKUPS_MAX));
        let resolver = Resolver { policy: Arc::new(config.policy.clone()), places, lookup };
        let client = Client::builder()
            .user_agent(user_agent)
            .dns_resolver(Arc::new(resolver))
            .connect_timeout(config.connect_timeout)
            .http1_only()
            .pool_max_idle_per_host(0)
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .retry(reqwest::retry::never())
            .build()
            .map_err(|error| EgressStartError::Client { upstream: "webhooks", problem: describe(error) })?;
        Ok(Self {
            client,
            places: Semaphore::new(config.concurrency_max),
            config: config.clone(),
            stats: OutwardStats::default(),
        })
    }

    async fn attempt(&self, message: &OutwardMessage) -> Outcome {
        // The cores have bounds of their own, so that nobody need wait here.
        let _place = self.places.try_acquire().map_err(|_| OutwardError::Overloaded)?;
        let _in_flight = Gauge::enter(&self.stats.in_flight);
        if message.target.address().is_some_and(|address| !self.config.policy.allows(address)) {
            return Err(OutwardError::Forbidden);
        }
        let mut request = self
            .client
            .post(message.target.url().clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(message.body.clone());
        for (name, text) in &message.fields {
            let value = HeaderValue::try_from(text.as_str()).map_err(|_| OutwardError::Invalid)?;
            request = request.header(HeaderName::from_static(name), value);
        }
        let until = Instant::now() + self.config.attempt_timeout;
        let sent = timeout_at(until.into(), request.send()).await.map_err(|_| OutwardError::TimedOut)?;
        let mut response = sent.map_err(|error| failure(&error))?;
        let answer = OutwardAnswer {
            status: response.status().as_u16(),
            retry_after: retry::asked_wait(response.headers(), SystemTime::now()),
        };
        let rest = async {
            let mut left = self.config.response_bytes_max;
            while let Ok(Some(piece)) = response.chunk().await {
                let Some(less) = left.checked_sub(piece.len()) else { break };
                left = less;
            }
        };
        let _whole_or_not = timeout_at(until.min(Instant::now() + REST_TIME_MAX).into(), rest).await;
        Ok(answer)
    }
}

/// One message from the mailbox to its answer, broken off when its caller goes away or the pool must stop.
pub(super) async fn run(me: Running, job: OutwardJob) {
    let shared = me.shared();
    let state = &shared.outward;
    let OutwardJob { message, mut reply } = job;
    let mut abort = shared.abort.subscribe();
    let outcome = tokio::select! {
        biased;
        () = reply.closed() => {
            state.stats.cancelled.fetch_add(1, Relaxed);
            return;
        }
        // It may have arrived.
        _ = abort.wait_for(|abort| *abort) => Err(OutwardError::Broken),
        outcome = state.attempt(&message) => outcome,
    };
    state.stats.count(&outcome);
    let _gone = reply.send(outcome);
}

/// No address behind a name is allowed.
#[derive(Debug, thiserror::Error)]
#[error("no allowed address")]
struct ForbiddenAddress;

/// A name leads nowhere.
#[derive(Debug, thiserror::Error)]
#[error("not found")]
struct NotFound;

/// Looks names up and lets only allowed addresses through.
struct Resolver {
    policy: Arc<OutwardPolicy>,
    places: Arc<Semaphore>,
    lookup: Arc<Lookup>,
}

/// Gives the addresses of a name; may block.
type Lookup = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

fn system_lookup(name: &str) -> io::Result<Vec<SocketAddr>> {
    (name, 0).to_socket_addrs().map(Iterator::collect)
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, places) = (Arc::clone(&self.policy), Arc::clone(&self.places));
        let lookup = Arc::clone(&self.lookup);
        Box::pin(async move {
            let place = places.acquire_owned().await?;
            let lookup = move || {
                // With the lookup, not with whoever waits for it: that may go, and the thread is still taken.
                let _place = place;
                lookup(name.as_str())
            };
            let found = tokio::task::spawn_blocking(lookup).await?.map_err(|_| NotFound)?;
            let mut allowed: Vec<_> =
                found.into_iter().filter(|address| policy.allows(address.ip())).collect();
            allowed.truncate(ADDRESSES_MAX);
            if allowed.is_empty() {
                return Err(ForbiddenAddress.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// What an error of the client means. What it says in words names addresses, which are nobody's business.
fn failure(error: &reqwest::Error) -> OutwardError {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<ForbiddenAddress>() {
            return OutwardError::Forbidden;
        }
        if error.is::<NotFound>() {
            return OutwardError::NoName;
        }
        if is_tls(error) {
            return OutwardError::NoTls;
        }
        cause = error.source();
    }
    match error {
        error if error.is_timeout() => OutwardError::TimedOut,
        error if error.is_connect() => OutwardError::NoConnection,
        _ => OutwardError::Broken,
    }
}

/// An IO error shows what it was made of by other means than errors do, and may be made of another.
fn is_tls(error: &(dyn StdError + 'static)) -> bool {
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    error.is::<rustls::Error>() || inner.is_some_and(|inner| is_tls(inner))
}

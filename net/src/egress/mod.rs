//! The egress pool: every call to OpenAI and Google, and every message to a user's webhook, made on one small shared runtime.
//!
//! A core hands a request over through its own bounded mailbox and gets a future back; the pool's threads
//! do names, TCP, TLS, HTTP/2, waiting and repeating, and wake the core once with the answer.
//!
//! Invariants:
//! - No call blocks a core: handing over is a push on a bounded queue, and at most one wake for a batch.
//! - Nothing waits without bound: mailbox, waiting calls, attempts at once, body and time each have a maximum,
//!   and every refusal is counted under a [`Reason`].
//! - A request that must not be done twice ([`Retry::Never`]) leaves at most once; when its outcome is not known,
//!   the error says so ([`EgressError::outcome_unknown`]).
//! - A bearer token only ever goes to the origin configured for its upstream; redirects and proxies are not followed.
//! - Dropping a [`Call`] cancels it: an attempt under way is broken off.
//! - What is large passes in pieces ([`AnswerBody::Pieces`]), bounded as every body in pieces is ([`crate::body`]), and
//!   over connections of its own: a slow reader can hold up nobody's call.

mod config;
mod dispatch;
mod outward;
mod retry;
mod stats;
#[cfg(test)]
mod tests;
mod transfer;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_queue::ArrayQueue;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Notify, oneshot, watch};

pub use config::{
    CONCURRENCY_MAX, EgressConfig, PerUpstream, RetryConfig, THREADS_MAX, Upstream, UpstreamConfig,
    WORK_THREADS_MAX,
};
pub use outward::{
    IpNet, OutwardAnswer, OutwardCall, OutwardConfig, OutwardError, OutwardMessage, OutwardPolicy,
    OutwardSnapshot, OutwardTarget, TARGET_BYTES_MAX, TargetError,
};
pub use stats::{LATENCY_BOUNDS_MS, Reason, UpstreamSnapshot};
pub use transfer::{AnswerBody, AnswerFields, End, PieceLimits, Pieces};

use dispatch::UpstreamState;
use outward::{LOOKUPS_MAX, OutwardJob, OutwardState, Stage as OutwardStage};

/// After the grace period of a shutdown, how long aborted calls get to hand in their answers.
const ABORT_GRACE: Duration = Duration::from_secs(1);
/// Threads for name resolution, which blocks: those of the upstreams, whose answers are reused through kept connections, and
/// those of messages, so that no receiver's name can take the others' threads.
const BLOCKING_THREADS_MAX: usize = 8 + LOOKUPS_MAX;

/// Whether a call may be done more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Repeatable: tried again on connection errors, timeouts, 408, 429 and 5xx.
    Safe,
    /// Repeatable, but by whoever calls: tried again here only when the request was provably not sent. Every attempt
    /// has the attempt's time limit.
    ByCaller,
    /// Has an effect: tried again only when the request was provably not sent (no connection).
    Never,
}

/// One call.
pub struct EgressRequest {
    /// Whose limits apply, and where `url` is resolved.
    pub upstream: Upstream,
    /// HTTP method, upper case.
    pub method: &'static str,
    /// Path and query below the upstream's base URL (`/gmail/v1/...`), empty for the base URL itself, or an
    /// absolute URL of the same origin.
    pub url: String,
    /// Token for `Authorization: Bearer`.
    pub bearer: Option<String>,
    /// `Content-Type` of `body`.
    pub content_type: Option<&'static str>,
    /// Further fields; names in lower case. With any, the answer's are told too ([`EgressResponse::fields`]).
    pub fields: Vec<(&'static str, String)>,
    /// Request body; may be empty.
    pub body: Bytes,
    /// How the body of the answer is wanted.
    pub answer: AnswerBody,
    /// When the caller gives up, all attempts and waits included.
    pub deadline: Instant,
    /// Whether it may be repeated.
    pub retry: Retry,
}

impl fmt::Debug for EgressRequest {
    /// Without token, query and body: those are the user's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EgressRequest")
            .field("upstream", &self.upstream)
            .field("method", &self.method)
            .field("path", &self.url.split('?').next().unwrap_or_default())
            .field("body_bytes", &self.body.len())
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

/// The upstream's last answer, whatever its status.
#[derive(Debug)]
pub struct EgressResponse {
    /// HTTP status.
    pub status: u16,
    /// What the upstream asked callers to wait, if it did; OpenAI may do so with a success, when nothing is left.
    pub retry_after: Option<Duration>,
    /// Body, at most `response_bytes_max`; empty when it comes in pieces.
    pub body: Bytes,
    /// The body of a success that is too large to come whole, where pieces were asked for.
    pub pieces: Option<Pieces>,
    /// Fields of the answer, for a call with fields of its own or an answer in pieces.
    pub fields: AnswerFields,
    /// Attempts made, at least 1.
    pub attempts: u32,
    /// From the call to this answer, waits included.
    pub elapsed: Duration,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// A queue on our side was full; nothing was sent. Shed load and let the client come again.
    #[error("too many calls are waiting for this upstream")]
    Overloaded,
    /// The deadline passed; `sent` says whether an attempt was under way. Answer 504.
    #[error("the deadline passed {}", if *.sent { "during the call" } else { "before the call was sent" })]
    DeadlineExceeded {
        /// Whether the upstream may have received the request.
        sent: bool,
    },
    /// No connection could be made; nothing was sent. The upstream is down or unreachable.
    #[error("no connection: {0}")]
    Connect(String),
    /// The connection broke after the request may have been sent; the outcome is unknown. Find out before repeating.
    #[error("the call broke off: {0}")]
    Broken(String),
    /// The upstream answered with a body over the limit; what was asked for was probably done.
    #[error("the answer is larger than {bytes_max} bytes")]
    BodyTooLarge {
        /// The limit.
        bytes_max: usize,
    },
    /// The pool is stopping; nothing was sent. Try again after the restart.
    #[error("the gateway is shutting down")]
    ShuttingDown,
    /// The request cannot be put into HTTP or leaves its upstream's origin: a mistake of the caller.
    #[error("the request is not valid: {0}")]
    Invalid(String),
}

impl EgressError {
    /// Whether the upstream may have carried the request out.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Broken(_) | Self::BodyTooLarge { .. } => true,
            Self::DeadlineExceeded { sent } => *sent,
            Self::Overloaded | Self::Connect(_) | Self::ShuttingDown | Self::Invalid(_) => false,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::Overloaded => Reason::QueueFull,
            Self::DeadlineExceeded { .. } => Reason::Deadline,
            Self::Connect(_) => Reason::Connect,
            Self::Broken(_) => Reason::Broken,
            Self::BodyTooLarge { .. } => Reason::BodyTooLarge,
            Self::ShuttingDown => Reason::ShuttingDown,
            Self::Invalid(_) => Reason::Invalid,
        }
    }
}

/// Why the pool did not start. All need a change of configuration or host.
#[derive(Debug, thiserror::Error)]
pub enum EgressStartError {
    /// A figure is out of bounds.
    #[error("egress: {name} is {found}, allowed is {allowed}")]
    OutOfBounds {
        /// Which setting.
        name: &'static str,
        /// What it is.
        found: usize,
        /// What it may be.
        allowed: &'static str,
    },
    /// A base URL cannot be used.
    #[error("egress: the base URL of {upstream} is {found:?}: {problem}")]
    BaseUrl {
        /// Which upstream.
        upstream: &'static str,
        /// The text given.
        found: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The HTTP client could not be made (user agent, TLS roots).
    #[error("egress: no HTTP client for {upstream}: {problem}")]
    Client {
        /// Which upstream.
        upstream: &'static str,
        /// What went wrong.
        problem: String,
    },
    /// The runtime's threads could not be started.
    #[error("egress: cannot start threads")]
    Threads(#[source] std::io::Error),
}

type Answer = Result<EgressResponse, EgressError>;

/// What is on its way from a core to the pool.
enum Job {
    Call(CallJob),
    Message(OutwardJob),
}

/// A call to an upstream.
struct CallJob {
    request: Arc<EgressRequest>,
    called_at: Instant,
    reply: oneshot::Sender<Answer>,
}

/// What callers and the pool's threads share.
struct Shared {
    /// One for each core, and a last one for all other threads.
    mailboxes: Box<[ArrayQueue<Job>]>,
    /// Whether the dispatcher sleeps and must be woken.
    parked: AtomicBool,
    bell: Notify,
    /// No new calls.
    closing: AtomicBool,
    /// Turns true when calls under way must end at once.
    abort: watch::Sender<bool>,
    /// Tasks not yet finished, the dispatcher included.
    running: AtomicUsize,
    idle: Notify,
    upstreams: PerUpstream<UpstreamState>,
    outward: OutwardState,
    config: EgressConfig,
}

/// Keeps the runtime alive as long as a handle to the pool exists.
struct Owner {
    shared: Arc<Shared>,
    handle: Handle,
    runtime: Mutex<Option<Runtime>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        let runtime = self.runtime.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }
}

/// A handle to the pool; cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Egress {
    owner: Arc<Owner>,
    mailbox_index: usize,
}

impl Egress {
    /// Starts the shared runtime and one HTTP client for each upstream.
    ///
    /// # Errors
    /// A setting is out of its bounds, or the threads cannot be started.
    pub fn start(config: EgressConfig) -> Result<Self, EgressStartError> {
        check(&config)?;
        let upstreams =
            config.upstreams.try_map(|upstream, settings| UpstreamState::new(upstream, settings, &config))?;
        let outward = OutwardState::new(&config.outward, &config.user_agent)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.threads)
            .max_blocking_threads(BLOCKING_THREADS_MAX + config.work_threads)
            .thread_name("sluice-egress")
            .enable_all()
            .build()
            .map_err(EgressStartError::Threads)?;
        let shared = Arc::new(Shared {
            mailboxes: (0..=config.cores).map(|_| ArrayQueue::new(config.mailbox_size)).collect(),
            parked: AtomicBool::new(false),
            bell: Notify::new(),
            closing: AtomicBool::new(false),
            abort: watch::Sender::new(false),
            running: AtomicUsize::new(1),
            idle: Notify::new(),
            upstreams,
            outward,
            config,
        });
        runtime.spawn(dispatch::dispatch(Arc::clone(&shared)));
        let mailbox_index = shared.config.cores;
        let owner = Owner { shared, handle: runtime.handle().clone(), runtime: Mutex::new(Some(runtime)) };
        Ok(Self { owner: Arc::new(owner), mailbox_index })
    }

    /// The same pool through the mailbox of core `core_index`; an index beyond the configured cores gets the
    /// mailbox that all other threads share.
    #[must_use]
    pub fn for_core(&self, core_index: usize) -> Self {
        let mailbox_index = core_index.min(self.owner.shared.config.cores);
        Self { owner: Arc::clone(&self.owner), mailbox_index }
    }

    /// Hands a request over at once; the answer comes with the returned future, which any executor can wait for.
    ///
    /// Costs the calling core one allocation or two, a push, and now and then one wake. Who may make the call again
    /// hands over an `Arc` and keeps one.
    pub fn call(&self, request: impl Into<Arc<EgressRequest>>) -> Call {
        let request = request.into();
        let shared = &*self.owner.shared;
        let stats = &shared.upstreams.get(request.upstream).stats;
        stats.requests.fetch_add(1, Relaxed);
        if shared.closing.load(SeqCst) {
            stats.fail(Reason::ShuttingDown);
            return Call(Stage::Refused(Some(EgressError::ShuttingDown)));
        }
        let (reply, answer) = oneshot::channel();
        if !self.push(Job::Call(CallJob { request, called_at: Instant::now(), reply })) {
            stats.fail(Reason::MailboxFull);
            return Call(Stage::Refused(Some(EgressError::Overloaded)));
        }
        Call(Stage::Waiting(answer))
    }

    /// Hands a message over at once: one attempt, as [`Self::call`].
    pub fn send(&self, message: OutwardMessage) -> OutwardCall {
        let shared = &*self.owner.shared;
        let refuse = |error| {
            shared.outward.stats.fail(error);
            OutwardCall(OutwardStage::Refused(error))
        };
        if shared.closing.load(SeqCst) {
            return refuse(OutwardError::ShuttingDown);
        }
        let (reply, outcome) = oneshot::channel();
        if !self.push(Job::Message(OutwardJob { message, reply })) {
            return refuse(OutwardError::Overloaded);
        }
        OutwardCall(OutwardStage::Waiting(outcome))
    }

    /// Puts a job into this handle's mailbox; `false` when that is full.
    fn push(&self, job: Job) -> bool {
        let shared = &*self.owner.shared;
        if shared.mailboxes[self.mailbox_index].push(job).is_err() {
            return false;
        }
        shared.ring();
        // Either this sees the pool closing, or the dispatcher's last look at the mailboxes sees the job.
        if shared.closing.load(SeqCst) {
            shared.refuse_waiting();
        }
        true
    }

    /// Whether [`Self::shutdown`] has begun: calls that fail from then on say nothing about their upstream.
    pub fn is_closing(&self) -> bool {
        self.owner.shared.closing.load(SeqCst)
    }

    /// The shared runtime, for what else lives off the cores (admin server, metrics).
    pub fn runtime(&self) -> Handle {
        self.owner.handle.clone()
    }

    /// The counters of one upstream.
    pub fn stats(&self, upstream: Upstream) -> UpstreamSnapshot {
        self.owner.shared.upstreams.get(upstream).stats.snapshot()
    }

    /// The counters of messages.
    pub fn outward_stats(&self) -> OutwardSnapshot {
        self.owner.shared.outward.stats.snapshot()
    }

    /// Calls and messages now in the mailboxes, not yet taken by the pool.
    pub fn mailbox_depth(&self) -> usize {
        self.owner.shared.mailboxes.iter().map(ArrayQueue::len).sum()
    }

    /// Stops the pool and its runtime: refuses new calls, lets those under way end within `grace`, then breaks
    /// them off. Everything else on the runtime is dropped. Blocks; a second call does nothing.
    ///
    /// # Panics
    /// When called on a thread of the runtime itself.
    pub fn shutdown(&self, grace: Duration) {
        let shared = &self.owner.shared;
        shared.closing.store(true, SeqCst);
        shared.bell.notify_one();
        let runtime = self.owner.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(runtime) = runtime else { return };
        runtime.block_on(async {
            if tokio::time::timeout(grace, shared.drained()).await.is_err() {
                shared.abort.send_replace(true);
                let _late = tokio::time::timeout(ABORT_GRACE, shared.drained()).await;
            }
        });
        runtime.shutdown_timeout(ABORT_GRACE);
    }
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress").field("mailbox_index", &self.mailbox_index).finish_non_exhaustive()
    }
}

impl Shared {
    /// Wakes the dispatcher if it sleeps: of all pushes while it is still waking up, only the first pays.
    fn ring(&self) {
        if self.parked.load(SeqCst) && self.parked.swap(false, SeqCst) {
            self.bell.notify_one();
        }
    }

    /// Answers everything in the mailboxes with `ShuttingDown`.
    fn refuse_waiting(&self) {
        for job in self.mailboxes.iter().flat_map(|mailbox| std::iter::from_fn(|| mailbox.pop())) {
            match job {
                Job::Call(job) => {
                    self.upstreams.get(job.request.upstream).stats.fail(Reason::ShuttingDown);
                    let _gone = job.reply.send(Err(EgressError::ShuttingDown));
                }
                Job::Message(job) => {
                    self.outward.stats.fail(OutwardError::ShuttingDown);
                    let _gone = job.reply.send(Err(OutwardError::ShuttingDown));
                }
            }
        }
    }

    async fn drained(&self) {
        while self.running.load(SeqCst) > 0 {
            self.idle.notified().await;
        }
    }
}

/// A call under way. Resolves to the answer; dropping it cancels the call.
#[derive(Debug)]
#[must_use = "dropping a call cancels it"]
pub struct Call(Stage);

#[derive(Debug)]
enum Stage {
    Refused(Option<EgressError>),
    Waiting(oneshot::Receiver<Answer>),
}

impl Future for Call {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        match &mut self.0 {
            Stage::Refused(error) => Poll::Ready(Err(error.take().unwrap_or(EgressError::Overloaded))),
            // The sender is lost only when the runtime was torn down under the call.
            Stage::Waiting(answer) => Pin::new(answer).poll(cx).map(|received| {
                received.unwrap_or_else(|_lost| {
                    Err(EgressError::Broken("the egress pool was stopped".to_owned()))
                })
            }),
        }
    }
}

fn check(config: &EgressConfig) -> Result<(), EgressStartError> {
    let bounded = |name, found: usize, max: usize, allowed| {
        if (1..=max).contains(&found) {
            Ok(())
        } else {
            Err(EgressStartError::OutOfBounds { name, found, allowed })
        }
    };
    bounded("threads", config.threads, THREADS_MAX, "1 to 32")?;
    if config.work_threads > WORK_THREADS_MAX {
        let (name, found, allowed) = ("work_threads", config.work_threads, "0 to 256");
        return Err(EgressStartError::OutOfBounds { name, found, allowed });
    }
    bounded("mailbox_size", config.mailbox_size, 1 << 20, "1 to 1048576")?;
    bounded("queue_max", config.queue_max, 1 << 20, "1 to 1048576")?;
    bounded("response_bytes_max", config.response_bytes_max, 1 << 30, "1 to 1073741824")?;
    bounded("retry.attempts_max", config.retry.attempts_max as usize, 10, "1 to 10")?;
    for upstream in Upstream::ALL {
        let concurrency_max = config.upstreams.get(upstream).concurrency_max;
        bounded("concurrency_max", concurrency_max, CONCURRENCY_MAX, "1 to 65536")?;
    }
    bounded("outward.concurrency_max", config.outward.concurrency_max, CONCURRENCY_MAX, "1 to 65536")?;
    Ok(())
}

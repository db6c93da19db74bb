//! What runs on the pool's threads: the dispatcher that empties the mailboxes, and one task for each call.
//!
//! Invariants:
//! - A call holds one place from admission to answer, so waiting, sending and backing off together never
//!   exceed `concurrency_max + queue_max` for an upstream.
//! - A permit is held only while an attempt is under way, not while backing off.
//! - The dispatcher sleeps only after it announced so and then found every mailbox empty.
//! - An answer in pieces keeps its place and its permit until its last piece was handed on.

use std::error::Error as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Client, Method, Url};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout_at;

use super::outward;
use super::retry::{RetryBudget, is_retryable_answer, retry_after};
use super::stats::Stats;
use super::transfer::{self, AnswerBody, AnswerFields, Rest};
use super::{
    CallJob, EgressConfig, EgressError, EgressRequest, EgressResponse, EgressStartError, Job, Retry, Shared,
    Upstream, UpstreamConfig,
};

/// Jobs taken from one mailbox before the next has its turn.
const BATCH_JOBS_MAX: usize = 64;
/// HTTP/2 connections are probed this often while calls are open, so that a dead one is found in time.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// One upstream: its client, its limits and its counters.
pub(super) struct UpstreamState {
    upstream: Upstream,
    client: Client,
    /// For what is large: HTTP/1.1, so that each transfer has a connection of its own.
    bulk_client: Client,
    base: Url,
    base_text: String,
    attempt_timeout: Duration,
    permits: Semaphore,
    places: AtomicUsize,
    places_max: usize,
    budget: Mutex<RetryBudget>,
    pub(super) stats: Stats,
}

impl UpstreamState {
    pub(super) fn new(
        upstream: Upstream,
        settings: &UpstreamConfig,
        config: &EgressConfig,
    ) -> Result<Self, EgressStartError> {
        let base = parse_base(upstream, &settings.base_url)?;
        let client = || {
            Client::builder()
                .user_agent(&config.user_agent)
                .connect_timeout(settings.connect_timeout)
                .pool_idle_timeout(settings.idle_timeout)
                .pool_max_idle_per_host(settings.concurrency_max)
                .tcp_nodelay(true)
                .redirect(reqwest::redirect::Policy::none())
                .referer(false)
                .no_proxy()
                // Every attempt is ours to count and to judge.
                .retry(reqwest::retry::never())
        };
        let built = |client: reqwest::ClientBuilder| {
            client.build().map_err(|error| EgressStartError::Client {
                upstream: upstream.name(),
                problem: describe(error),
            })
        };
        let shared = client()
            .http2_adaptive_window(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .http2_keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        Ok(Self {
            upstream,
            client: built(shared)?,
            bulk_client: built(client().http1_only())?,
            base,
            base_text: settings.base_url.trim_end_matches('/').to_owned(),
            attempt_timeout: settings.attempt_timeout,
            permits: Semaphore::new(settings.concurrency_max),
            places: AtomicUsize::new(0),
            places_max: settings.concurrency_max + config.queue_max,
            budget: Mutex::new(RetryBudget::new(&config.retry, Instant::now())),
            stats: Stats::default(),
        })
    }

    /// Takes a place for a whole call, or refuses.
    fn admit(&self) -> Result<Place<'_>, EgressError> {
        let place = Place(&self.places);
        if self.places.fetch_add(1, SeqCst) >= self.places_max {
            drop(place);
            return Err(EgressError::Overloaded);
        }
        Ok(place)
    }

    /// Resolves a request's target; nothing but the configured origin passes.
    fn target(&self, url: &str) -> Result<Url, EgressError> {
        let invalid = |problem: &str| EgressError::Invalid(problem.to_owned());
        if url.is_empty() {
            return Ok(self.base.clone());
        }
        let absolute = if url.starts_with('/') { format!("{}{url}", self.base_text) } else { url.to_owned() };
        let target = Url::parse(&absolute).map_err(|error| invalid(&format!("URL: {error}")))?;
        if target.origin() != self.base.origin() {
            return Err(invalid("URL: not of this upstream's origin"));
        }
        Ok(target)
    }

    fn may_retry(&self) -> bool {
        let allowed = self.budget.lock().unwrap_or_else(PoisonError::into_inner).withdraw(Instant::now());
        let counter = if allowed { &self.stats.retries } else { &self.stats.retries_over_budget };
        counter.fetch_add(1, Relaxed);
        allowed
    }
}

fn parse_base(upstream: Upstream, text: &str) -> Result<Url, EgressStartError> {
    let refuse = |problem: String| EgressStartError::BaseUrl {
        upstream: upstream.name(),
        found: text.to_owned(),
        problem,
    };
    let base = Url::parse(text).map_err(|error| refuse(error.to_string()))?;
    if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
        return Err(refuse("allowed is http:// or https:// and a host".to_owned()));
    }
    if base.query().is_some() || base.fragment().is_some() || !base.username().is_empty() {
        return Err(refuse("it must have no user name, query or fragment".to_owned()));
    }
    Ok(base)
}

/// A call's place; given back on drop.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Counts one more in a gauge for as long as it lives.
pub(super) struct Gauge<'a>(&'a AtomicU64);

impl<'a> Gauge<'a> {
    pub(super) fn enter(gauge: &'a AtomicU64) -> Self {
        gauge.fetch_add(1, Relaxed);
        Self(gauge)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A task of the pool; the last one to end tells a waiting shutdown.
pub(super) struct Running(Arc<Shared>);

impl Running {
    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, SeqCst) == 1 {
            self.0.idle.notify_one();
        }
    }
}

/// Empties the mailboxes until the pool closes. The caller has counted it in `running`.
pub(super) async fn dispatch(shared: Arc<Shared>) {
    let me = Running(shared);
    let shared = &me.0;
    while !shared.closing.load(SeqCst) {
        if take_batch(shared) {
            tokio::task::yield_now().await;
            continue;
        }
        shared.parked.store(true, SeqCst);
        let idle = shared.mailboxes.iter().all(crossbeam_queue::ArrayQueue::is_empty);
        if idle && !shared.closing.load(SeqCst) {
            shared.bell.notified().await;
        }
        shared.parked.store(false, SeqCst);
    }
    shared.refuse_waiting();
}

/// Starts a bounded number of jobs; whether there were any.
fn take_batch(shared: &Arc<Shared>) -> bool {
    let mut any = false;
    for mailbox in &shared.mailboxes {
        for _ in 0..BATCH_JOBS_MAX {
            let Some(job) = mailbox.pop() else { break };
            any = true;
            shared.running.fetch_add(1, SeqCst);
            let running = Running(Arc::clone(shared));
            match job {
                Job::Call(job) => drop(tokio::spawn(run(running, job))),
                Job::Message(job) => drop(tokio::spawn(outward::run(running, job))),
            }
        }
    }
    any
}

/// One call from admission to answer, broken off when its caller goes away or the pool must stop.
async fn run(me: Running, job: CallJob) {
    let shared = &*me.0;
    let CallJob { request, called_at, mut reply } = job;
    let state = shared.upstreams.get(request.upstream);
    let sent = AtomicBool::new(false);
    let mut abort = shared.abort.subscribe();
    let (answer, rest) = tokio::select! {
        biased;
        () = reply.closed() => {
            state.stats.cancelled.fetch_add(1, Relaxed);
            return;
        }
        _ = abort.wait_for(|abort| *abort) => (Err(aborted(sent.load(Relaxed))), None),
        performed = perform(shared, state, &request, called_at, &sent) => match performed {
            Ok((response, rest)) => (Ok(response), rest),
            Err(error) => (Err(error), None),
        },
    };
    match &answer {
        Ok(response) => state.stats.respond(response.status, response.elapsed),
        Err(error) => state.stats.fail(error.reason()),
    }
    let _gone = reply.send(answer);
    if let Some(rest) = rest {
        rest.hand_on(&state.stats, &mut abort).await;
    }
}

fn aborted(sent: bool) -> EgressError {
    if sent {
        EgressError::Broken("the gateway is shutting down".to_owned())
    } else {
        EgressError::ShuttingDown
    }
}

/// What one attempt came to.
enum Outcome<'a> {
    Answer(Reply<'a>),
    /// Nothing was sent.
    NoConnection(String),
    /// Something may have been sent.
    Broken(String),
    TimedOut,
    BodyTooLarge,
}

impl Outcome<'_> {
    /// This outcome of a call of which an earlier attempt may have been `sent`: then "nothing was sent" is not true.
    fn after(self, sent: bool) -> Self {
        match self {
            Self::NoConnection(problem) if sent => Self::Broken(problem),
            other => other,
        }
    }
}

struct Reply<'a> {
    status: u16,
    retry_after: Option<Duration>,
    body: Bytes,
    fields: AnswerFields,
    rest: Option<Box<(Rest, Held<'a>)>>,
}

/// What an attempt holds while it is under way.
struct Held<'a> {
    _permit: SemaphorePermit<'a>,
    _in_flight: Gauge<'a>,
}

/// The pieces of an answer that are still to be handed on, with all that the call holds until then.
struct Remainder<'a> {
    delivery: transfer::Delivery,
    _held: Held<'a>,
    _place: Place<'a>,
}

impl Remainder<'_> {
    async fn hand_on(self, stats: &Stats, abort: &mut tokio::sync::watch::Receiver<bool>) {
        tokio::select! {
            biased;
            _ = abort.wait_for(|abort| *abort) => {}
            () = self.delivery.run(stats) => {}
        }
    }
}

async fn perform<'a>(
    shared: &Shared,
    state: &'a UpstreamState,
    request: &EgressRequest,
    called_at: Instant,
    sent: &AtomicBool,
) -> Result<(EgressResponse, Option<Remainder<'a>>), EgressError> {
    let prepared = Prepared::new(state, request)?;
    let place = state.admit()?;
    state.budget.lock().unwrap_or_else(PoisonError::into_inner).deposit();
    let mut attempts = 0;
    let mut last = None;
    loop {
        let Some(outcome) = attempt(shared, state, &prepared, sent).await else { break };
        attempts += 1;
        let outcome = outcome.after(sent.load(Relaxed));
        let wait = retry_wait(shared, state, request, &outcome, attempts);
        last = Some(outcome);
        let Some(wait) = wait else { break };
        tracing::debug!(upstream = state.upstream.name(), attempts, ?wait, "upstream call is repeated");
        tokio::time::sleep(wait).await;
    }
    conclude(shared, last, attempts, called_at, place)
}

/// How long to wait before the next attempt, or `None` when this outcome stands.
fn retry_wait(
    shared: &Shared,
    state: &UpstreamState,
    request: &EgressRequest,
    outcome: &Outcome<'_>,
    attempts: u32,
) -> Option<Duration> {
    let config = &shared.config.retry;
    if attempts >= config.attempts_max || !is_repeatable(request, outcome) {
        return None;
    }
    let asked = match outcome {
        Outcome::Answer(reply) => reply.retry_after,
        _ => None,
    };
    // Without randomness there is no jitter, which is no reason to fail a call.
    let random = getrandom::u64().unwrap_or(u64::MAX);
    let wait = config.wait(attempts - 1, random, asked);
    let fits = Instant::now().checked_add(wait).is_some_and(|then| then < request.deadline);
    (fits && state.may_retry()).then_some(wait)
}

fn is_repeatable(request: &EgressRequest, outcome: &Outcome<'_>) -> bool {
    match outcome {
        Outcome::NoConnection(_) => true,
        Outcome::BodyTooLarge => false,
        Outcome::Broken(_) | Outcome::TimedOut => request.retry == Retry::Safe,
        Outcome::Answer(reply) => {
            request.retry == Retry::Safe && is_retryable_answer(request.upstream, reply.status, &reply.body)
        }
    }
}

fn conclude<'a>(
    shared: &Shared,
    last: Option<Outcome<'a>>,
    attempts: u32,
    called_at: Instant,
    place: Place<'a>,
) -> Result<(EgressResponse, Option<Remainder<'a>>), EgressError> {
    match last {
        Some(Outcome::Answer(Reply { status, retry_after, body, fields, rest })) => {
            let (pieces, remainder) = match rest {
                None => (None, None),
                Some(rest) => {
                    let (rest, held) = *rest;
                    let (pieces, delivery) = rest.begin();
                    (Some(pieces), Some(Remainder { delivery, _held: held, _place: place }))
                }
            };
            let elapsed = called_at.elapsed();
            let response = EgressResponse { status, retry_after, body, pieces, fields, attempts, elapsed };
            Ok((response, remainder))
        }
        Some(Outcome::NoConnection(problem)) => Err(EgressError::Connect(problem)),
        Some(Outcome::Broken(problem)) => Err(EgressError::Broken(problem)),
        Some(Outcome::TimedOut) => Err(EgressError::DeadlineExceeded { sent: true }),
        Some(Outcome::BodyTooLarge) => {
            Err(EgressError::BodyTooLarge { bytes_max: shared.config.response_bytes_max })
        }
        None => Err(EgressError::DeadlineExceeded { sent: false }),
    }
}

/// A request in the client's terms, made once for all attempts.
struct Prepared {
    method: Method,
    target: Url,
    authorization: Option<HeaderValue>,
    content_type: Option<HeaderValue>,
    fields: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
    answer: AnswerBody,
    deadline: Instant,
    /// Longest single attempt; a call that is not repeated has the whole deadline for its one attempt.
    attempt_max: Option<Duration>,
}

impl Prepared {
    fn new(state: &UpstreamState, request: &EgressRequest) -> Result<Self, EgressError> {
        let invalid = |problem: &str| EgressError::Invalid(problem.to_owned());
        let method = Method::from_bytes(request.method.as_bytes()).map_err(|_| invalid("method"))?;
        let authorization = match &request.bearer {
            Some(token) => {
                let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                    .map_err(|_| invalid("bearer token: not visible ASCII"))?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let field = |(name, text): &(&'static str, String)| {
            let value = HeaderValue::try_from(text.as_str()).map_err(|_| invalid(name))?;
            Ok((HeaderName::from_static(name), value))
        };
        Ok(Self {
            fields: request.fields.iter().map(field).collect::<Result<_, EgressError>>()?,
            answer: request.answer,
            method,
            target: state.target(&request.url)?,
            authorization,
            content_type: request.content_type.map(HeaderValue::from_static),
            body: request.body.clone(),
            deadline: request.deadline,
            attempt_max: (request.retry != Retry::Never).then_some(state.attempt_timeout),
        })
    }

    fn build(&self, state: &UpstreamState) -> reqwest::RequestBuilder {
        let is_bulk = self.answer != AnswerBody::Whole || self.body.len() > transfer::BULK_BYTES;
        let client = if is_bulk { &state.bulk_client } else { &state.client };
        let mut builder = client.request(self.method.clone(), self.target.clone());
        for (name, value) in &self.fields {
            builder = builder.header(name.clone(), value.clone());
        }
        if let Some(value) = &self.authorization {
            builder = builder.header(AUTHORIZATION, value.clone());
        }
        if let Some(value) = &self.content_type {
            builder = builder.header(CONTENT_TYPE, value.clone());
        }
        if self.body.is_empty() { builder } else { builder.body(self.body.clone()) }
    }

    fn attempt_deadline(&self) -> Instant {
        let own = self.attempt_max.and_then(|max| Instant::now().checked_add(max));
        own.map_or(self.deadline, |own| own.min(self.deadline))
    }
}

/// One attempt, or `None` when the deadline passed before a permit was free.
async fn attempt<'a>(
    shared: &Shared,
    state: &'a UpstreamState,
    prepared: &Prepared,
    sent: &AtomicBool,
) -> Option<Outcome<'a>> {
    // An expired deadline sends nothing, even when a permit is free.
    if Instant::now() >= prepared.deadline {
        return None;
    }
    let queued = Gauge::enter(&state.stats.queued);
    let permit = timeout_at(prepared.deadline.into(), state.permits.acquire()).await.ok()?.ok()?;
    drop(queued);
    let held = Held { _permit: permit, _in_flight: Gauge::enter(&state.stats.in_flight) };
    state.stats.attempts.fetch_add(1, Relaxed);
    let sent_before = sent.swap(true, Relaxed);
    let exchange = exchange(state, prepared, shared.config.response_bytes_max, held);
    let outcome = timeout_at(prepared.attempt_deadline().into(), exchange).await.unwrap_or(Outcome::TimedOut);
    if matches!(outcome, Outcome::NoConnection(_)) {
        sent.store(sent_before, Relaxed);
    }
    Some(outcome)
}

async fn exchange<'a>(
    state: &'a UpstreamState,
    prepared: &Prepared,
    bytes_max: usize,
    held: Held<'a>,
) -> Outcome<'a> {
    let mut response = match prepared.build(state).send().await {
        Ok(response) => response,
        Err(error) if error.is_connect() => return Outcome::NoConnection(describe(error)),
        Err(error) => return Outcome::Broken(describe(error)),
    };
    let status = response.status().as_u16();
    let retry_after = retry_after(state.upstream, response.headers(), SystemTime::now());
    let length = response.content_length().map_or(0, |length| usize::try_from(length).unwrap_or(usize::MAX));
    let wants_fields = prepared.answer != AnswerBody::Whole || !prepared.fields.is_empty();
    let fields = if wants_fields { AnswerFields::of(response.headers()) } else { AnswerFields::default() };
    let reply = |body, rest| Outcome::Answer(Reply { status, retry_after, body, fields, rest });
    let limits = prepared.answer.limits().filter(|_| (200..300).contains(&status));
    let whole_max = limits.map_or(bytes_max, |limits| limits.whole_bytes_max.min(bytes_max));
    match limits {
        Some(limits) if length as u64 > limits.bytes_max => return Outcome::BodyTooLarge,
        Some(limits) if length > whole_max => {
            let rest = Rest { response, first: Bytes::new(), limits };
            return reply(Bytes::new(), Some(Box::new((rest, held))));
        }
        None if length > whole_max => return Outcome::BodyTooLarge,
        _ => {}
    }
    let mut body = BytesMut::with_capacity(length);
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > whole_max => {
                let Some(limits) = limits else { return Outcome::BodyTooLarge };
                body.extend_from_slice(&chunk);
                let rest = Rest { response, first: body.freeze(), limits };
                return reply(Bytes::new(), Some(Box::new((rest, held))));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return reply(body.freeze(), None),
            Err(error) => return Outcome::Broken(describe(error)),
        }
    }
}

/// The error with its causes, without the URL: that holds what a user searched for.
pub(super) fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

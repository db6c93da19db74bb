//! One request from the socket to its answer: who asks, what goes wrong, how long
//! it takes, and in between the side effect. A batch is its parts, one after another.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use tokio::net::TcpListener;

use super::chance::{Clock, Luck};
use super::conn::{CuttableListener, Cutter};
use super::fault::{Fault, FaultKind, Faults, Mishap, Struck, mishap};
use super::google::{self, Identity};
use super::parse::Annotations;
use super::plan::Plan;
use super::quota::Quotas;
use super::spec::{self, Route};
use super::stream::Pieces;
use super::wire::{Call, Params, Reply, Service};
use super::world::World;
use super::{SimConfig, control, openai};

/// A body beyond this is refused; Gmail's own limit for a message is 35 MB.
const BODY_BYTES_MAX: usize = 36 << 20;

/// Of the simulated latency, this part passes before the side effect. The rest is
/// the time in which a client that dies has been served without knowing it.
const LATENCY_BEFORE_EFFECT: f64 = 0.7;

/// Answers that do not fit their schema which are remembered.
const UNFIT_MAX: usize = 20;

/// Everything a request may need.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: SimConfig,
    pub(crate) clock: Clock,
    pub(crate) luck: Luck,
    pub(crate) world: World,
    pub(crate) faults: Faults,
    pub(crate) annotations: Annotations,
    pub(crate) counts: Counts,
    pub(crate) quotas: Quotas,
    pub(crate) oauth: google::Grants,
    pub(crate) service_account: Option<google::ServiceAccount>,
    pub(crate) uploads: google::Uploads,
    pub(crate) account: openai::Account,
    plan: RwLock<Arc<Plan>>,
}

impl State {
    pub(crate) fn new(
        config: SimConfig,
        service_account: Option<google::ServiceAccount>,
    ) -> anyhow::Result<Self> {
        let clock = Clock::new(config.today, &config.time_zone)?;
        let (plan, faults) = match &config.plan {
            Some(text) => Plan::read(text, &config)?,
            None => (Plan::plain(&config), Vec::new()),
        };
        let state = Self {
            luck: Luck::new(config.seed),
            world: World::new(config.seed, clock.clone()),
            faults: Faults::new(),
            annotations: Annotations::load(&config.annotations)?,
            counts: Counts::default(),
            quotas: Quotas::default(),
            oauth: google::Grants::default(),
            service_account,
            uploads: google::Uploads::default(),
            account: openai::Account::default(),
            plan: RwLock::new(Arc::new(plan)),
            clock,
            config,
        };
        for fault in faults {
            state.faults.add(fault).map_err(anyhow::Error::msg)?;
        }
        Ok(state)
    }

    /// The plan now in force.
    pub(crate) fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a plan in the place of the one before; its faults are added to those that are set.
    pub(crate) fn set_plan(&self, text: &str) -> anyhow::Result<()> {
        let (plan, faults) = Plan::read(text, &self.config)?;
        for fault in faults {
            self.faults.add(fault).map_err(anyhow::Error::msg)?;
        }
        *self.plan.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(plan);
        Ok(())
    }
}

/// Seconds since 1970, of the real world.
pub(crate) fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Totals over all users.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Requests by endpoint, such as `gmail.messages.list`.
    endpoints: Mutex<BTreeMap<&'static str, u64>>,
    /// Answers by status.
    statuses: Mutex<BTreeMap<u16, u64>>,
    pub(crate) mishaps_before: AtomicU64,
    pub(crate) mishaps_after: AtomicU64,
    pub(crate) connections_cut: AtomicU64,
    /// Requests whose client went away before they were answered.
    pub(crate) abandoned: AtomicU64,
    /// Plans that did not fit the schema the request asked for.
    pub(crate) plans_unfit: AtomicU64,
    /// Answers that were not as the discovery documents say, with their number; only the first are kept.
    answers_unfit: Mutex<(u64, Vec<String>)>,
    /// Requests taken but not yet answered. Not a total: a reset leaves it.
    pub(crate) under_way: AtomicU64,
    /// Of these, those to the token endpoint, and the most of them at once.
    tokens_under_way: AtomicU64,
    tokens_peak: AtomicU64,
}

impl Counts {
    fn token_begins(&self) {
        let now = self.tokens_under_way.fetch_add(1, Ordering::Relaxed) + 1;
        self.tokens_peak.fetch_max(now, Ordering::Relaxed);
    }

    fn token_ends(&self) {
        self.tokens_under_way.fetch_sub(1, Ordering::Relaxed);
    }

    /// The most requests to the token endpoint at once, since the start or [`Self::forget_peaks`].
    pub(crate) fn tokens_peak(&self) -> u64 {
        self.tokens_peak.load(Ordering::Relaxed)
    }

    /// Begins anew to look for the most.
    pub(crate) fn forget_peaks(&self) {
        self.tokens_peak.store(self.tokens_under_way.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn endpoint(&self, name: &'static str) {
        *self.endpoints.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
    }

    fn status(&self, status: u16) {
        *self.statuses.lock().unwrap_or_else(PoisonError::into_inner).entry(status).or_default() += 1;
    }

    /// Notes an answer that does not fit its schema.
    pub(crate) fn answer_unfit(&self, why: String) {
        let mut unfit = self.answers_unfit.lock().unwrap_or_else(PoisonError::into_inner);
        unfit.0 += 1;
        if unfit.1.len() < UNFIT_MAX {
            unfit.1.push(why);
        }
    }

    pub(crate) fn answers_unfit(&self) -> (u64, Vec<String>) {
        self.answers_unfit.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn endpoints(&self) -> BTreeMap<&'static str, u64> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn statuses(&self) -> BTreeMap<u16, u64> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn reset(&self) {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).clear();
        *self.answers_unfit.lock().unwrap_or_else(PoisonError::into_inner) = Default::default();
        for count in [
            &self.mishaps_before,
            &self.mishaps_after,
            &self.connections_cut,
            &self.abandoned,
            &self.plans_unfit,
        ] {
            count.store(0, Ordering::Relaxed);
        }
    }
}

/// Serves connections until the listener fails.
pub(crate) async fn listen(listener: TcpListener, state: Arc<State>) -> io::Result<()> {
    let app = Router::new()
        .fallback(move |ConnectInfo(cutter): ConnectInfo<Cutter>, request: Request| {
            handle(Arc::clone(&state), cutter, request)
        })
        .into_make_service_with_connect_info::<Cutter>();
    axum::serve(CuttableListener(listener), app).await
}

async fn handle(state: Arc<State>, cutter: Cutter, request: Request) -> Response {
    let Some((call, target)) = receive(request).await else {
        return respond(Reply::empty(413), &cutter);
    };
    if let Some(action) = call.path.strip_prefix("/_sim/") {
        return respond(control::serve(&state, action, &call), &cutter);
    }
    // Its own task: the effect must not be cancelled when the client goes away.
    let worker = Arc::clone(&state);
    let client = Client { state: &state, is_answered: false };
    state.counts.under_way.fetch_add(1, Ordering::Relaxed);
    let reply = tokio::spawn(async move {
        let is_token = call.path == "/token";
        if is_token {
            worker.counts.token_begins();
        }
        let reply = carry_out(&worker, &call, &target).await;
        if is_token {
            worker.counts.token_ends();
        }
        worker.counts.under_way.fetch_sub(1, Ordering::Relaxed);
        reply
    })
    .await;
    client.answered();
    match reply {
        Ok(Some(reply)) => {
            state.counts.status(reply.status);
            respond(reply, &cutter)
        }
        Ok(None) => {
            state.counts.connections_cut.fetch_add(1, Ordering::Relaxed);
            cutter.cut();
            respond(Reply::empty(500), &cutter)
        }
        Err(error) => {
            let body = Bytes::from(format!("the simulator failed: {error}"));
            respond(Reply { body, ..Reply::empty(500) }, &cutter)
        }
    }
}

/// Whoever waits for an answer; dropped before it came, they have gone away.
struct Client<'a> {
    state: &'a State,
    is_answered: bool,
}

impl Client<'_> {
    fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.state.counts.abandoned.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Takes a request apart; `None` when its body is too large or broken off.
async fn receive(request: Request) -> Option<(Call, String)> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, BODY_BYTES_MAX).await.ok()?;
    let bearer = parts
        .headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("bearer ")))
        .map(str::to_owned);
    let target = parts.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let call = Call {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: Params::parse(parts.uri.query().unwrap_or_default()),
        bearer,
        headers: parts.headers,
        body,
    };
    Some((call, target))
}

/// What is known of a request before anything happens to it.
struct Prepared {
    service: Service,
    route: Option<Route>,
    operation: &'static str,
    identity: Identity,
    fault: Option<Fault>,
    mishap: Option<Mishap>,
    latency: Duration,
}

/// Who asks for what, and what is to go wrong; `None` when no service has the path.
fn prepare(state: &State, plan: &Plan, call: &Call, target: &str) -> Option<Prepared> {
    let service = Service::of(&call.path)?;
    let route = spec::route(&call.method, &call.path);
    let operation = match service {
        Service::OpenAi => openai::operation(call),
        _ => google::operation(service, route.as_ref(), call),
    };
    let identity = google::identify(state, service, call);
    let struck = Struck { service, operation, user: identity.user(), method: call.method.as_str(), target };
    let fault = state.faults.strike(&struck, &state.luck);
    let mishap = mishap(&state.luck, plan.error_rate, service);
    let (median, sigma) = plan.latency(service, operation);
    let latency = state.luck.latency(median, sigma);
    Some(Prepared { service, route, operation, identity, fault, mishap, latency })
}

/// The whole of one upstream request; `None` cuts the connection.
async fn carry_out(state: &State, call: &Call, target: &str) -> Option<Reply> {
    let plan = state.plan();
    if spec::is_batch(&call.path) {
        return batch(state, &plan, call).await;
    }
    let Some(prepared) = prepare(state, &plan, call, target) else {
        state.counts.endpoint("unknown");
        return Some(google::unknown_path(&call.path));
    };
    let limits = plan.limits(prepared.service);
    let _slot = match prepared.identity.user().map(|user| state.quotas.enter(prepared.service, user, limits))
    {
        Some(Err(refusal)) => {
            state.counts.endpoint("over_quota");
            return Some(refusal.reply(limits, state.clock.now()));
        }
        Some(Ok(slot)) => slot,
        None => None,
    };
    let before = prepared.latency.mul_f64(LATENCY_BEFORE_EFFECT);
    pause(before + delay_of(&prepared)).await;
    let after = prepared.latency - before;
    match effect(state, &plan, prepared, call) {
        Effect::Reply(reply) => {
            pause(after).await;
            Some(reply)
        }
        Effect::Struck(fault, reply) => {
            if reply.is_some() {
                pause(after).await;
            }
            struck(state, &fault, reply).await
        }
    }
}

fn delay_of(prepared: &Prepared) -> Duration {
    prepared.fault.as_ref().map_or(Duration::ZERO, Fault::delay)
}

/// The parts of a batch, one after another; each counts as a request. The slowest part sets the time.
async fn batch(state: &State, plan: &Plan, call: &Call) -> Option<Reply> {
    let parts = match google::batch_parts(call) {
        Ok(parts) => parts,
        Err(refusal) => {
            state.counts.endpoint("unknown");
            return Some(refusal);
        }
    };
    let prepared: Vec<_> = parts
        .into_iter()
        .map(|(id, call, target)| (id, prepare(state, plan, &call, &target), call))
        .collect();
    let ready = || prepared.iter().filter_map(|(_, prepared, _)| prepared.as_ref());
    let latency = ready().map(|prepared| prepared.latency).max().unwrap_or_default();
    let delay = ready().map(delay_of).max().unwrap_or_default();
    let user = ready().find_map(|prepared| Some((prepared.service, prepared.identity.user()?.to_owned())));
    let _slot = match user {
        None => None,
        Some((service, user)) => match state.quotas.enter(service, &user, plan.limits(service)) {
            Ok(slot) => slot,
            Err(refusal) => {
                state.counts.endpoint("over_quota");
                return Some(refusal.reply(plan.limits(service), state.clock.now()));
            }
        },
    };
    let before = latency.mul_f64(LATENCY_BEFORE_EFFECT);
    pause(before + delay).await;
    let mut replies = Vec::with_capacity(prepared.len());
    for (id, prepared, call) in prepared {
        let effect = match prepared {
            Some(prepared) => effect(state, plan, prepared, &call),
            None => {
                state.counts.endpoint("unknown");
                Effect::Reply(google::unknown_path(&call.path))
            }
        };
        let reply = match effect {
            Effect::Reply(reply) => reply,
            // What cuts or holds a connection does so to the whole batch.
            Effect::Struck(fault, reply) => struck(state, &fault, reply).await?,
        };
        replies.push((id, reply));
    }
    pause(latency - before).await;
    Some(google::batch_reply(replies))
}

/// What came of a request at the instant of its effect.
enum Effect {
    Reply(Reply),
    /// A fault struck: before the effect, or after it, with the answer that is lost.
    Struck(Box<Fault>, Option<Reply>),
}

/// The side effect and its answer, at one instant.
fn effect(state: &State, plan: &Plan, prepared: Prepared, call: &Call) -> Effect {
    let Prepared { service, route, operation, identity, fault, mishap, .. } = prepared;
    let (fault_before, fault_after) = match fault {
        Some(fault) if fault.kind == FaultKind::Slow => (None, None),
        Some(fault) if fault.after_effect || fault.kind == FaultKind::Cut => (None, Some(fault)),
        other => (other, None),
    };
    let (mishap_before, mishap_after) = match mishap {
        Some(mishap) if mishap.after_effect => (None, Some(mishap)),
        other => (other, None),
    };
    if let Some(fault) = fault_before {
        state.counts.endpoint("failed_before_effect");
        return Effect::Struck(Box::new(fault), None);
    }
    if let Some(mishap) = mishap_before {
        state.counts.endpoint("failed_before_effect");
        state.counts.mishaps_before.fetch_add(1, Ordering::Relaxed);
        return Effect::Reply(mishap.reply);
    }
    let limits = plan.limits(service);
    if let Identity::Known { user, .. } = &identity {
        let units = limits.units_of(operation);
        if let Err(refusal) = state.quotas.spend(service, &user.name, units, limits, unix_s()) {
            state.counts.endpoint("over_quota");
            return Effect::Reply(refusal.reply(limits, state.clock.now()));
        }
    }
    let (endpoint, reply) = match service {
        Service::OpenAi => (operation, openai::serve(state, plan, call)),
        _ => google::serve(state, plan, &identity, operation, route, call),
    };
    state.counts.endpoint(endpoint);
    match (fault_after, mishap_after) {
        (Some(fault), _) => Effect::Struck(Box::new(fault), Some(reply)),
        (None, Some(mishap)) => {
            state.counts.mishaps_after.fetch_add(1, Ordering::Relaxed);
            Effect::Reply(mishap.reply)
        }
        (None, None) => Effect::Reply(reply),
    }
}

async fn struck(state: &State, fault: &Fault, reply: Option<Reply>) -> Option<Reply> {
    match fault.kind {
        FaultKind::Down => None,
        FaultKind::Hang => {
            state.faults.hang(fault).await;
            None
        }
        FaultKind::Cut => {
            let mut reply = reply.filter(|reply| !reply.pieces.is_empty())?;
            reply.pieces.truncate(fault.events.unwrap_or(reply.pieces.len() / 2));
            reply.cut = true;
            Some(reply)
        }
        FaultKind::Status | FaultKind::Slow | FaultKind::Garbage => Some(fault.reply()),
    }
}

async fn pause(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}

fn respond(reply: Reply, cutter: &Cutter) -> Response {
    let mut builder = Response::builder().status(reply.status);
    if !reply.content_type.is_empty() {
        builder = builder.header(CONTENT_TYPE, reply.content_type);
    }
    for (name, value) in reply.headers {
        builder = builder.header(name, value);
    }
    let body = if reply.pieces.is_empty() && !reply.cut {
        Body::from(reply.body)
    } else {
        Body::new(Pieces::new(reply.pieces, reply.cut.then(|| cutter.clone())))
    };
    builder.body(body).unwrap_or_default()
}

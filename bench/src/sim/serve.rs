//! One request from the socket to its answer: who asks, what goes wrong, how long
//! it takes, and in between the side effect.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use tokio::net::TcpListener;

use super::chance::{Clock, Luck};
use super::conn::{CuttableListener, Cutter};
use super::fault::{FaultKind, Faults, mishap};
use super::google::{self, Identity};
use super::parse::Annotations;
use super::wire::{Call, Params, Reply, Service};
use super::world::World;
use super::{SimConfig, control, openai};

/// A body beyond this is refused; Gmail's own limit for a message is 35 MB.
const BODY_BYTES_MAX: usize = 36 << 20;

/// Of the simulated latency, this part passes before the side effect. The rest is
/// the time in which a client that dies has been served without knowing it.
const LATENCY_BEFORE_EFFECT: f64 = 0.7;

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
}

impl State {
    pub(crate) fn new(config: SimConfig) -> anyhow::Result<Self> {
        let clock = Clock::new(config.today, &config.time_zone)?;
        Ok(Self {
            luck: Luck::new(config.seed),
            world: World::new(config.seed, clock.clone()),
            faults: Faults::new(),
            annotations: Annotations::load(&config.annotations)?,
            counts: Counts::default(),
            clock,
            config,
        })
    }

    fn median(&self, service: Service) -> Duration {
        let latencies = &self.config.latencies;
        match service {
            Service::OpenAi => latencies.openai,
            Service::OAuth => latencies.oauth,
            Service::Gmail => latencies.gmail,
            Service::Calendar => latencies.calendar,
            Service::Drive => latencies.drive,
        }
    }
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
    /// Plans that did not fit the schema the request asked for.
    pub(crate) plans_unfit: AtomicU64,
    /// Requests taken but not yet answered. Not a total: a reset leaves it.
    pub(crate) under_way: AtomicU64,
}

impl Counts {
    fn endpoint(&self, name: &'static str) {
        *self.endpoints.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
    }

    fn status(&self, status: u16) {
        *self.statuses.lock().unwrap_or_else(PoisonError::into_inner).entry(status).or_default() += 1;
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
        for count in [&self.mishaps_before, &self.mishaps_after, &self.connections_cut, &self.plans_unfit] {
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
        return respond(Reply::empty(413));
    };
    if let Some(action) = call.path.strip_prefix("/_sim/") {
        return respond(control::serve(&state, action, &call));
    }
    // Its own task: the effect must not be cancelled when the client goes away.
    let worker = Arc::clone(&state);
    state.counts.under_way.fetch_add(1, Ordering::Relaxed);
    let reply = tokio::spawn(async move {
        let reply = carry_out(&worker, &call, &target).await;
        worker.counts.under_way.fetch_sub(1, Ordering::Relaxed);
        reply
    })
    .await;
    match reply {
        Ok(Some(reply)) => {
            state.counts.status(reply.status);
            respond(reply)
        }
        Ok(None) => {
            state.counts.connections_cut.fetch_add(1, Ordering::Relaxed);
            cutter.cut();
            respond(Reply::empty(500))
        }
        Err(error) => respond(Reply {
            body: Bytes::from(format!("the simulator failed: {error}")),
            ..Reply::empty(500)
        }),
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
        body,
    };
    Some((call, target))
}

/// The whole of one upstream request; `None` cuts the connection.
async fn carry_out(state: &State, call: &Call, target: &str) -> Option<Reply> {
    let Some(service) = Service::of(&call.path) else {
        state.counts.endpoint("unknown");
        return Some(google::unknown_path(&call.path));
    };
    let identity = google::identify(state, service, call);
    let user = identity.user();
    let fault = state.faults.strike(service, user, call.method.as_str(), target);
    let mishap = mishap(&state.luck, state.config.error_rate, service);

    let latency = state.luck.latency(state.median(service), state.config.latency_sigma);
    let before = latency.mul_f64(LATENCY_BEFORE_EFFECT);
    pause(before + fault.as_ref().map_or(Duration::ZERO, |fault| fault.delay())).await;

    let (fault_before, fault_after) = match fault {
        Some(fault) if fault.kind == FaultKind::Slow => (None, None),
        Some(fault) if fault.after_effect => (None, Some(fault)),
        other => (other, None),
    };
    let (mishap_before, mishap_after) = match mishap {
        Some(mishap) if mishap.after_effect => (None, Some(mishap)),
        other => (other, None),
    };

    let reply = if let Some(fault) = fault_before {
        state.counts.endpoint("failed_before_effect");
        return struck(state, &fault).await;
    } else if let Some(mishap) = mishap_before {
        state.counts.endpoint("failed_before_effect");
        state.counts.mishaps_before.fetch_add(1, Ordering::Relaxed);
        mishap.reply
    } else {
        dispatch(state, service, &identity, call)
    };
    pause(latency - before).await;
    if let Some(fault) = fault_after {
        return struck(state, &fault).await;
    }
    if let Some(mishap) = mishap_after {
        state.counts.mishaps_after.fetch_add(1, Ordering::Relaxed);
        return Some(mishap.reply);
    }
    Some(reply)
}

/// The side effect and its answer, at one instant.
fn dispatch(state: &State, service: Service, identity: &Identity, call: &Call) -> Reply {
    let (endpoint, reply) = match service {
        Service::OpenAi => openai::serve(state, call),
        _ => google::serve(state, service, identity, call),
    };
    state.counts.endpoint(endpoint);
    reply
}

async fn struck(state: &State, fault: &super::fault::Fault) -> Option<Reply> {
    match fault.kind {
        FaultKind::Down => None,
        FaultKind::Hang => {
            state.faults.hang(fault).await;
            None
        }
        FaultKind::Status | FaultKind::Slow | FaultKind::Garbage => Some(fault.reply()),
    }
}

async fn pause(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}

fn respond(reply: Reply) -> Response {
    let mut builder = Response::builder().status(reply.status);
    if !reply.content_type.is_empty() {
        builder = builder.header(CONTENT_TYPE, reply.content_type);
    }
    for (name, value) in reply.headers {
        builder = builder.header(name, value);
    }
    builder.body(Body::from(reply.body)).unwrap_or_default()
}

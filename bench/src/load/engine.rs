//! The loops of one client thread, whatever protocol and runtime it uses.
//!
//! Invariants:
//! - In an open loop the starts follow the clock alone. One that finds
//!   `in_flight_max` requests under way is dropped and counted; every other is
//!   answered, fails, or is given up at the end of the run, and counted as such.
//! - Corrected latency runs from the intended start, so that waiting for room on a
//!   connection, or for a client that is late, is charged; uncorrected latency runs
//!   from the moment the request had a place.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;

use super::plan::{Load, Plan};
use super::pool::Pool;
use super::record::{Outcome, Slice, lag_of};
use super::rng::Rng;
use super::runtime::Runtime;
use super::scenario::{RequestPlan, Source, Values};
use super::schedule::{Arrivals, Segment};
use super::timing::Spent;
use super::transport::{Failure, Handshake, HeadParts, Reply, Transport};
use crate::cpu;

/// The kind of failure that an unexpected status is.
pub(super) const STATUS: &str = "status";
/// Heads kept ready, for runs of few users.
const HEADS_MAX: usize = 65_536;
/// Starts before everything else gets a turn, when the client is late.
const STARTS_AT_ONCE_MAX: u32 = 32;
/// A loop that failed comes back after this, lest it does nothing but fail.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);
const DRAIN_POLL: Duration = Duration::from_millis(1);
/// Of an unexpected answer, this much is shown.
const BODY_SHOWN_BYTES: usize = 300;

/// What of the time is measured.
#[derive(Debug, Clone, Copy)]
struct Window {
    start: Instant,
    end: Instant,
    /// Requests that are not done by then are given up.
    give_up: Instant,
}

impl Window {
    fn holds(&self, at: Instant) -> bool {
        at >= self.start && at < self.end
    }
}

/// What one start is to be.
struct Choice {
    scenario: usize,
    user: usize,
    text: usize,
    number: u64,
    /// Brings a connection of its own.
    fresh: Option<Handshake>,
}

/// Heads by request and user.
type Heads<H> = HashMap<(usize, usize), Rc<H>>;

/// One client thread.
pub(super) struct Worker<T: Transport> {
    plan: Arc<Plan>,
    index: usize,
    transport: T,
    pool: Rc<Pool<T::Connection>>,
    heads: RefCell<Heads<T::Head>>,
    rng: RefCell<Rng>,
    /// Starts so far, for `{n}`.
    number: Cell<u64>,
    /// Requests on each place's connection, for `requests_per_connection`.
    uses: RefCell<Vec<u64>>,
    in_flight: Cell<usize>,
    /// Anything that happened, so that a spin knows whether it was idle.
    events: Cell<u64>,
    idle: Cell<Duration>,
    client_cpu: Cell<Option<Duration>>,
    window: Cell<Window>,
    outcome: RefCell<Outcome>,
    slice: RefCell<Slice>,
}

impl<T: Transport> Worker<T> {
    pub(super) fn new(plan: Arc<Plan>, index: usize, transport: T) -> Rc<Self> {
        let places = plan.share(plan.clients, index);
        let streams = if T::IS_EXCLUSIVE { 1 } else { plan.streams };
        let now = Instant::now();
        Rc::new(Self {
            index,
            transport,
            pool: Pool::new(places, streams),
            heads: RefCell::default(),
            rng: RefCell::new(Rng::new(plan.seed, index as u64)),
            number: Cell::new(0),
            uses: RefCell::new(vec![0; places]),
            in_flight: Cell::new(0),
            events: Cell::new(0),
            idle: Cell::new(Duration::ZERO),
            client_cpu: Cell::new(None),
            window: Cell::new(Window { start: now, end: now, give_up: now }),
            outcome: RefCell::new(Outcome::new(plan.mix.scenarios.len())),
            slice: RefCell::new(Slice::new(0)),
            plan,
        })
    }

    /// Connects every place, so that the run begins with what it is to have.
    pub(super) async fn prepare<R: Runtime>(self: &Rc<Self>) -> Result<(), Failure> {
        for place in 0..self.pool.len() {
            let connect = async { Ok(self.connect::<R>(Handshake::Full, place, false).await?.connection) };
            self.pool.connection(place, connect).await?;
        }
        Ok(())
    }

    /// Runs the trial, whose warm-up begins at `base`, and returns when every request
    /// has ended. `flush` is given what happened in each second.
    pub(super) async fn run<R: Runtime>(
        self: Rc<Self>,
        base: Instant,
        flush: impl Fn(Slice) + 'static,
    ) -> Outcome {
        let start = base + self.plan.warmup;
        let end = start + self.plan.duration;
        self.window.set(Window { start, end, give_up: end + self.plan.timeout });
        R::spawn(Rc::clone(&self).tick::<R>(base, flush));
        R::spawn(Rc::clone(&self).meter::<R>());
        R::sleep_until(base).await;
        match &self.plan.load {
            Load::Open { segments, is_random } => {
                self.open_loop::<R>(base, segments.clone(), *is_random).await;
            }
            Load::Closed => self.closed_loop::<R>(),
        }
        R::sleep_until(end).await;
        while self.in_flight.get() > 0 || self.client_cpu.get().is_none() {
            R::sleep_until(R::now() + DRAIN_POLL).await;
        }
        let mut outcome = self.outcome.replace(Outcome::new(0));
        outcome.client_cpu = self.client_cpu.take().unwrap_or_default();
        outcome
    }

    /// Hands on what happened in each second, and last the rest of the measured time.
    async fn tick<R: Runtime>(self: Rc<Self>, base: Instant, flush: impl Fn(Slice)) {
        const SECOND: Duration = Duration::from_secs(1);
        let Window { start, end, .. } = self.window.get();
        let mut at_s = 0i64;
        let mut from = start;
        while from > base {
            (at_s, from) = (at_s - 1, from.checked_sub(SECOND).unwrap_or(base));
        }
        self.slice.replace(Slice::new(at_s));
        while from < end {
            from = (from + SECOND).min(end);
            at_s += 1;
            R::sleep_until(from).await;
            flush(self.slice.replace(Slice::new(at_s)));
        }
    }

    /// The thread's CPU time over the measured time, without idle spinning.
    async fn meter<R: Runtime>(self: Rc<Self>) {
        let Window { start, end, .. } = self.window.get();
        R::sleep_until(start).await;
        let before = (cpu::thread_time(), self.idle.get());
        R::sleep_until(end).await;
        let used = cpu::thread_time().saturating_sub(before.0);
        self.client_cpu.set(Some(used.saturating_sub(self.idle.get() - before.1)));
    }

    async fn open_loop<R: Runtime>(self: &Rc<Self>, base: Instant, segments: Vec<Segment>, is_random: bool) {
        let plan = &self.plan;
        let first = segments.first().map_or(0.0, |segment| segment.from);
        let warmup = (!plan.warmup.is_zero()).then(|| Segment::constant(plan.warmup, first));
        let segments = warmup.into_iter().chain(segments).collect();
        let random = is_random.then(|| Rng::new(plan.seed ^ 0x5eed, self.index as u64));
        let in_flight_max = plan.share(plan.in_flight_max, self.index).max(1);
        let mut at_once = 0;
        for at in Arrivals::new(segments, self.index, plan.threads, random) {
            let intended = base + at;
            if self.wait_until::<R>(intended).await {
                at_once = 0;
            } else if at_once == STARTS_AT_ONCE_MAX {
                R::next_turn().await;
                at_once = 0;
            }
            at_once += 1;
            self.intend(intended);
            let is_measured = self.window.get().holds(intended);
            if is_measured {
                lag_of(&mut self.outcome.borrow_mut(), R::now().saturating_duration_since(intended));
            }
            if self.in_flight.get() >= in_flight_max {
                self.slice.borrow_mut().dropped += 1;
                self.outcome.borrow_mut().dropped += u64::from(is_measured);
                continue;
            }
            self.in_flight.set(self.in_flight.get() + 1);
            let worker = Rc::clone(self);
            R::spawn(async move {
                worker.perform::<R>(intended, None).await;
                worker.in_flight.set(worker.in_flight.get() - 1);
            });
        }
    }

    /// Waits for a moment as exactly as it can; false when it had passed already.
    async fn wait_until<R: Runtime>(&self, at: Instant) -> bool {
        let mut now = R::now();
        if now >= at {
            return false;
        }
        if !self.plan.spin {
            R::sleep_until(at).await;
            return true;
        }
        if at - now > R::TICK {
            R::sleep_until(at - R::TICK).await;
            now = R::now();
        }
        while now < at {
            let events = self.events.get();
            R::next_turn().await;
            let after = R::now();
            if events == self.events.get() {
                self.idle.set(self.idle.get() + (after - now));
            }
            now = after;
        }
        true
    }

    fn closed_loop<R: Runtime>(self: &Rc<Self>) {
        let streams = if T::IS_EXCLUSIVE { 1 } else { self.plan.streams };
        for place in (0..self.pool.len()).flat_map(|place| std::iter::repeat_n(place, streams)) {
            self.in_flight.set(self.in_flight.get() + 1);
            let worker = Rc::clone(self);
            R::spawn(async move {
                let end = worker.window.get().end;
                loop {
                    let now = R::now();
                    if now >= end {
                        break;
                    }
                    worker.intend(now);
                    if !worker.perform::<R>(now, Some(place)).await {
                        R::sleep_until(R::now() + PAUSE_AFTER_FAILURE).await;
                    }
                }
                worker.in_flight.set(worker.in_flight.get() - 1);
            });
        }
    }

    fn intend(&self, at: Instant) {
        self.slice.borrow_mut().intended += 1;
        self.outcome.borrow_mut().intended += u64::from(self.window.get().holds(at));
    }

    /// One start from beginning to end, with its bookkeeping; whether all went well.
    async fn perform<R: Runtime>(self: &Rc<Self>, intended: Instant, place: Option<usize>) -> bool {
        let is_measured = self.window.get().holds(intended);
        let choice = self.choose(place);
        let result = self.work::<R>(&choice, place, is_measured).await;
        let ended = R::now();
        self.events.set(self.events.get() + 1);
        let mut outcome = self.outcome.borrow_mut();
        let mut slice = self.slice.borrow_mut();
        match result {
            Ok(Answered { started, spent }) => {
                let corrected = ended.saturating_duration_since(intended);
                slice.complete(corrected);
                outcome.completed_in_time += u64::from(self.window.get().holds(ended));
                if is_measured {
                    outcome.complete(choice.scenario, corrected, ended - started);
                    if let Some(spent) = spent {
                        outcome.note_spent(choice.scenario, corrected, spent);
                    }
                }
                true
            }
            Err(failure) => {
                slice.errors += 1;
                if is_measured {
                    outcome.fail(choice.scenario, &failure);
                }
                false
            }
        }
    }

    fn choose(&self, place: Option<usize>) -> Choice {
        let plan = &self.plan;
        let mut rng = self.rng.borrow_mut();
        let scenario = plan.mix.draw(&mut rng);
        let number = self.number.get();
        self.number.set(number + 1);
        let number = number * plan.threads as u64 + self.index as u64;
        let user = match plan.in_turn {
            true => usize::try_from(number % plan.users.count() as u64).unwrap_or(0),
            false => plan.zipf.draw(&mut rng),
        };
        let texts = plan.mix.scenarios[scenario].texts.len();
        let text = if texts > 1 { rng.below(texts) } else { 0 };
        let mut fresh = rng.chance(plan.shares.new_connection).then(|| {
            let point = rng.unit();
            let is_safe = plan.mix.scenarios[scenario].requests[0].is_safe;
            match plan.shares {
                // What must not be replayed resumes without it (RFC 8470 section 4).
                shares if point < shares.early_data && is_safe => Handshake::Early,
                shares if point < shares.early_data + shares.resumption => Handshake::Resumed,
                _ => Handshake::Full,
            }
        });
        if let (Some(limit), Some(place)) = (plan.requests_per_connection, place) {
            let uses = &mut self.uses.borrow_mut()[place];
            *uses += 1;
            if *uses > limit {
                *uses = 1;
                fresh = Some(Handshake::Full);
            }
        }
        Choice { scenario, user, text, number, fresh }
    }

    /// Finds a connection and sends the scenario's requests over it.
    async fn work<R: Runtime>(
        self: &Rc<Self>,
        choice: &Choice,
        place: Option<usize>,
        is_measured: bool,
    ) -> Result<Answered, Failure> {
        let give_up = self.window.get().give_up;
        let unfinished = || Failure::new("unfinished", "the run ended before the request could be sent");
        let room = match place {
            Some(place) => self.pool.take(place),
            None => R::timeout_at(give_up, self.pool.room()).await.ok_or_else(unfinished)?,
        };
        let started = R::now();
        if started >= give_up {
            return Err(unfinished());
        }
        self.outcome.borrow_mut().started += u64::from(is_measured);
        let place = room.place;
        let made = match choice.fresh {
            Some(wanted) => {
                let made = self.connect::<R>(wanted, place, is_measured).await?;
                self.pool.replace(place, Rc::clone(&made.connection));
                Some(made)
            }
            None => None,
        };
        let connection = match &made {
            Some(made) => Rc::clone(&made.connection),
            None => {
                let connect =
                    async { Ok(self.connect::<R>(Handshake::Full, place, is_measured).await?.connection) };
                self.pool.connection(place, connect).await?
            }
        };
        let result = self.exchange_all::<R>(&connection, choice, made.as_ref(), is_measured).await;
        if let Err(failure) = &result
            && failure.is_fatal
        {
            self.pool.forget(place, &connection);
        }
        result.map(|spent| Answered { started, spent })
    }

    async fn exchange_all<R: Runtime>(
        &self,
        connection: &T::Connection,
        choice: &Choice,
        made: Option<&Made<T::Connection>>,
        is_measured: bool,
    ) -> Result<Option<Spent>, Failure> {
        let mut spent = None;
        let scenario = &self.plan.mix.scenarios[choice.scenario];
        let mut captured = vec![String::new(); scenario.captures_count];
        let mut made = made;
        for request in &scenario.requests {
            let reply = self.exchange::<R>(connection, request, choice, &mut captured, is_measured).await?;
            if let Some(field) = reply.header("server-timing") {
                let mut sum: Spent = spent.unwrap_or_default();
                if sum.add(field) {
                    spent = Some(sum);
                }
            }
            if let Some(made) = made.take()
                && is_measured
            {
                let kind = self.transport.settled(&made.connection, made.handshake);
                let took = R::now() - made.begun;
                let mut outcome = self.outcome.borrow_mut();
                outcome.handshake(kind).note_first_answer(took);
                if kind != made.handshake {
                    // It was counted as what it began as.
                    outcome.handshake(made.handshake).count -= 1;
                    outcome.handshake(kind).count += 1;
                    outcome.handshake(kind).fallbacks += 1;
                }
            }
        }
        Ok(spent)
    }

    async fn exchange<R: Runtime>(
        &self,
        connection: &T::Connection,
        request: &RequestPlan,
        choice: &Choice,
        captured: &mut [String],
        is_measured: bool,
    ) -> Result<Reply, Failure> {
        let mut repeats = 0;
        loop {
            let (head, body) = self.prepare_request(request, choice, captured)?;
            let deadline = R::now() + self.plan.timeout;
            let sent = R::timeout_at(deadline, self.transport.request(connection, &head, body)).await;
            let reply = sent.unwrap_or_else(|| {
                let detail = format!("no answer within {:?}", self.plan.timeout);
                // A connection that carries one request at a time is still busy with it.
                Err(Failure { kind: "timeout", detail, is_fatal: T::IS_EXCLUSIVE })
            })?;
            self.events.set(self.events.get() + 1);
            if is_measured {
                self.outcome.borrow_mut().note_status(choice.scenario, reply.status);
            }
            if !request.expect.contains(&reply.status) {
                let body = &reply.body[..reply.body.len().min(BODY_SHOWN_BYTES)];
                let detail = format!("status {}: {}", reply.status, String::from_utf8_lossy(body));
                return Err(Failure::new(STATUS, detail));
            }
            if request.captures.is_empty() && request.repeat.is_none() {
                return Ok(reply);
            }
            let Some(repeat) = read_answer(request, &reply, captured)? else { return Ok(reply) };
            repeats += 1;
            if repeats > repeat.max {
                let detail = format!("{} did not change in {} repetitions", repeat.pointer, repeat.max);
                return Err(Failure::new("repeats", detail));
            }
            R::sleep_until(R::now() + Duration::from_millis(repeat.pause_ms)).await;
        }
    }

    fn prepare_request(
        &self,
        request: &RequestPlan,
        choice: &Choice,
        captured: &[String],
    ) -> Result<(Rc<T::Head>, Bytes), Failure> {
        let scenario = &self.plan.mix.scenarios[choice.scenario];
        let values = Values {
            user: choice.user,
            key: self.plan.users.key(choice.user).unwrap_or_default(),
            number: choice.number,
            text: &scenario.texts[choice.text],
            captured,
        };
        let body = request.body.as_ref().map_or_else(Bytes::new, |body| body.render(&values).into());
        let place = (request.index, choice.user);
        if request.is_head_per_user
            && let Some(head) = self.heads.borrow().get(&place)
        {
            return Ok((Rc::clone(head), body));
        }
        let path = request.path.render(&values);
        let headers: Vec<_> = request
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), Cow::Owned(value.render(&values))))
            .collect();
        let parts = HeadParts { method: &request.method, path: &path, headers: &headers };
        let head = Rc::new(self.transport.head(&parts)?);
        let mut heads = self.heads.borrow_mut();
        if request.is_head_per_user && heads.len() < HEADS_MAX {
            heads.insert(place, Rc::clone(&head));
        }
        Ok((head, body))
    }

    async fn connect<R: Runtime>(
        &self,
        wanted: Handshake,
        place: usize,
        is_measured: bool,
    ) -> Result<Made<T::Connection>, Failure> {
        let begun = R::now();
        let number = self.index + place * self.plan.threads;
        let result = R::timeout_at(begun + self.plan.timeout, self.transport.connect(wanted, number)).await;
        let result = result.unwrap_or_else(|| Err(Failure::new("connect", "no connection in time")));
        self.events.set(self.events.get() + 1);
        let mut outcome = self.outcome.borrow_mut();
        match result {
            Ok((connection, handshake)) => {
                if is_measured {
                    let counts = outcome.handshake(handshake);
                    counts.count += 1;
                    counts.fallbacks += u64::from(handshake != wanted && wanted != Handshake::Full);
                    counts.note_connect(R::now() - begun);
                }
                Ok(Made { connection: Rc::new(connection), handshake, begun })
            }
            Err(failure) => {
                outcome.handshake(wanted).failed += u64::from(is_measured);
                Err(Failure { kind: "connect", ..failure })
            }
        }
    }
}

/// A start that went well.
struct Answered {
    /// When its first request had a place.
    started: Instant,
    /// What the server said of its time, where it did.
    spent: Option<Spent>,
}

/// A connection just made.
struct Made<C> {
    connection: Rc<C>,
    handshake: Handshake,
    begun: Instant,
}

/// Takes what is to be captured from an answer; what to repeat for, if anything.
fn read_answer<'a>(
    request: &'a RequestPlan,
    reply: &Reply,
    captured: &mut [String],
) -> Result<Option<&'a super::scenario::Repeat>, Failure> {
    let needs_body = request.repeat.is_some()
        || request.captures.iter().any(|(_, source)| matches!(source, Source::Pointer(_)));
    let document: Value = if needs_body {
        serde_json::from_slice(&reply.body).map_err(|error| Failure::new("body", error.to_string()))?
    } else {
        Value::Null
    };
    for (number, source) in &request.captures {
        let (found, place) = match source {
            Source::Header(name) => (reply.header(name).map(str::to_owned), name),
            Source::Pointer(pointer) => (document.pointer(pointer).map(text_of), pointer),
        };
        captured[*number] =
            found.ok_or_else(|| Failure::new("capture", format!("the answer has no {place}")))?;
    }
    let again = request.repeat.as_ref().filter(|repeat| {
        let found = document.pointer(&repeat.pointer).map(text_of).unwrap_or_default();
        repeat.values.contains(&found)
    });
    Ok(again)
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests;

//! Calls to Gmail, Calendar and Drive for one user, with token, measure and error meaning.
//!
//! Invariants:
//! - A call that Google refuses for its token is made once more with a fresh one; such a refusal means that
//!   nothing was done.
//! - Every call is noted for the step it belongs to, with its path but without its query.
//! - What is read to be shown may come from the core's cache ([`crate::cache`]); what decides about an effect never.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::de::{DeserializeOwned, IgnoredAny};
use sluice_net::egress::{
    AnswerBody, EgressError, EgressRequest, EgressResponse, PieceLimits, Pieces, Retry, Upstream,
};
use sluice_protocols::access::{Scope, Scopes};
use sluice_protocols::api::{CallView, Priority};
use sluice_protocols::google::{ApiCall, GoogleError, UpstreamFault};
use sluice_protocols::ids::{ConnectionId, ShardId, UserId};
use sluice_protocols::plan::Service;
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::record::{ActingAccount, ConnectionRecord};
use smallvec::SmallVec;

use super::batch::judge_parts;
use super::bound::{Bound, Spot, gone};
use super::call::{Ended, Judged, Limited, Outgoing, Unanswered};
use super::lost;
use super::meter::{Meter, Wait, micros};
use super::tokens::{AccessToken, Account};
use crate::cache::{Joined, Kept, Made, Read, ReadBody, Ticket};
use crate::env::{Env, TransferConfig};
use crate::quota::{Ask, CROWDED_WAIT, Class, Denied, Occupied, Operation, Permit};

/// Most calls noted for one step: a search makes 21, a hard-fought side effect some dozens.
const CALLS_NOTED_MAX: usize = 128;

/// Once the quota of a day is used up: how long nothing is asked, unless the answer says.
pub(super) const EXHAUSTED_WAIT: Duration = Duration::from_secs(60);
/// Bodies up to this are checked in full: some 50 microseconds.
const CHECKED_BYTES_MAX: usize = 64 << 10;
/// How often a read that waits for another's looks again when that one brought nothing.
const JOINS_MAX: usize = 3;

/// Calls for one step.
pub(crate) struct Google<'a> {
    env: &'a Env,
    meter: &'a Meter,
    shard: ShardId,
    user: UserId,
    /// Which of the user's accounts; what is read of one that is not the default one is not remembered.
    slot: u8,
    /// Whose it is, from the first call on.
    acting: Cell<Option<ActingAccount>>,
    /// How it came to be this account.
    choice: Choice,
    /// The command's own.
    deadline: Instant,
    priority: Priority,
    calls: RefCell<Vec<CallView>>,
    /// The places that the services it asks hold, from the first call of each to its own end: a step that asks again and
    /// again until it is clear what became of a change holds its place between the calls, too.
    places: RefCell<SmallVec<[Occupied; 1]>>,
}

/// How it came that calls are for a certain account.
#[derive(Clone, Debug)]
enum Choice {
    /// It is the default one.
    Default,
    /// The request names it.
    Named,
    /// The task has none to keep to: what is asked tells why, and nothing is begun with one that comes only now.
    Unbound,
    /// The task keeps to it; it was found in its place when [`super::TokenCache::changes`] was this.
    Bound(u64),
    /// The task keeps to it, and it is gone: what is to be told.
    Gone(Problem),
}

/// A successful answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) body: Bytes,
}

/// What a call may have beside what it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Extra {
    pub(super) fields: Vec<(&'static str, String)>,
    pub(super) answer: AnswerBody,
    /// A status that is no error either.
    pub(super) accepts: Option<u16>,
    /// How many reads it makes at once; 0 for a call that is no batch.
    pub(super) parts: usize,
    /// What it costs, where that does not follow from the call.
    pub(super) units: Option<u64>,
}

impl Extra {
    fn is_accepted(&self, status: u16) -> bool {
        (200..300).contains(&status) || self.accepts == Some(status)
    }
}

/// An answer that is no error, and its place among the calls under way when it comes in pieces.
pub(super) struct Answered {
    pub(super) response: EgressResponse,
    place: Option<Permit>,
}

/// The body of a successful answer to a read.
pub(crate) enum Answer {
    /// As it came.
    Fresh(Bytes),
    /// Out of the core's cache.
    Kept(Kept),
}

impl Answer {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Fresh(body) => body,
            Self::Kept(kept) => kept.bytes(),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Fresh(body) => body,
            Self::Kept(kept) => kept.into_bytes(),
        }
    }
}

/// The content of a file.
#[derive(Default)]
pub(crate) struct Content {
    /// Which part it is, when it is one.
    pub(crate) range: Option<String>,
    /// All of it, unless it comes in pieces.
    pub(crate) body: Bytes,
    /// The pieces, and the place to be kept until they end.
    pub(crate) pieces: Option<(Pieces, Option<Permit>)>,
}

/// Why a call brought no successful answer.
#[derive(Clone, Debug)]
pub(crate) enum CallError {
    /// Google answered with an error status.
    Refused { service: Service, error: GoogleError, retry_after: Option<Duration> },
    /// There is no answer.
    Lost { service: Service, error: EgressError },
    /// A success whose body cannot be understood.
    Nonsense { service: Service },
    /// The broker did not let it through; nothing was sent.
    Denied { service: Service, denied: Denied },
    /// There is no token to call with; nothing was sent.
    NoToken(Problem),
}

impl CallError {
    /// Whether what was asked for may have been done all the same.
    pub(crate) fn outcome_unknown(&self) -> bool {
        match self {
            // A server that fails may do so after it has done its work.
            Self::Refused { error, .. } => matches!(error.fault, UpstreamFault::Unavailable { .. }),
            Self::Lost { error, .. } => error.outcome_unknown(),
            Self::Nonsense { .. } => true,
            Self::Denied { .. } | Self::NoToken(_) => false,
        }
    }

    /// Whether the same call may succeed a little later.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Refused { error, .. } => error.fault.is_retryable(),
            Self::Lost { error, .. } => !matches!(error, EgressError::ShuttingDown | EgressError::Invalid(_)),
            Self::Nonsense { .. } | Self::Denied { .. } => true,
            Self::NoToken(problem) => problem.is_retryable() && problem.kind() != ProblemKind::ShuttingDown,
        }
    }

    /// What Google's error status means, when there is one.
    pub(crate) fn fault(&self) -> Option<UpstreamFault> {
        match self {
            Self::Refused { error, .. } => Some(error.fault),
            _ => None,
        }
    }

    /// How long Google, or our own broker, asked callers to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Denied { denied: Denied::Open(wait) | Denied::Limited(Some(wait)), .. } => Some(*wait),
            Self::Denied { denied: Denied::Crowded, .. } => Some(CROWDED_WAIT),
            _ => None,
        }
    }

    /// Whether the thing that was asked for is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self.fault(), Some(UpstreamFault::NotFound | UpstreamFault::Gone))
    }

    /// Whether what was to be changed is not as `If-Match` wanted it.
    pub(crate) fn is_other_state(&self) -> bool {
        matches!(self, Self::Refused { error, .. } if error.status == 412)
    }

    /// What the user is told. `deadline` is the command's own.
    pub(crate) fn to_problem(&self, deadline: Instant) -> Problem {
        match self {
            Self::Refused { service, error, retry_after } => {
                let problem = Problem::new(error.fault.problem_kind(), refusal(*service, error));
                let problem = problem.with_retryable(error.fault.is_retryable());
                super::with_wait(problem, *retry_after)
            }
            Self::Lost { service, error } => lost(title(*service), error, deadline),
            Self::Nonsense { service } => Problem::new(
                ProblemKind::UpstreamInvalid,
                format!("{} answered something that cannot be understood", title(*service)),
            ),
            Self::Denied { service, denied } => super::denied(title(*service), *denied),
            Self::NoToken(problem) => problem.clone(),
        }
    }
}

/// What is told of an account that is named and was given up.
pub(crate) fn given_up() -> Problem {
    Problem::new(ProblemKind::NotConnected, "the account was given up; connect it anew")
}

/// A service as people call it.
pub(crate) fn title(service: Service) -> &'static str {
    match service {
        Service::Gmail => "Gmail",
        Service::Calendar => "Google Calendar",
        Service::Drive => "Google Drive",
    }
}

fn refusal(service: Service, error: &GoogleError) -> String {
    let name = title(service);
    match error.fault {
        UpstreamFault::Unauthorized => {
            format!("{name} does not accept the connection; connect the account again")
        }
        UpstreamFault::ScopeMissing => {
            format!("the connection does not allow this in {name}; connect the account again")
        }
        UpstreamFault::Forbidden => format!("{name} does not allow this: {}", error.message),
        UpstreamFault::RateLimited { .. } => format!("{name} is limiting requests"),
        UpstreamFault::QuotaExhausted => format!("the daily quota of {name} is used up"),
        UpstreamFault::NotFound => format!("{name} has no such thing any more"),
        UpstreamFault::Gone => format!("it was deleted in {name}"),
        UpstreamFault::Conflict => format!("{name} reports a conflict: {}", error.message),
        UpstreamFault::Invalid => format!("{name} refused the request: {}", error.message),
        UpstreamFault::Unavailable { .. } => format!("{name} is failing at the moment"),
    }
}

fn upstream(service: Service) -> Upstream {
    match service {
        Service::Gmail => Upstream::Gmail,
        Service::Calendar => Upstream::Calendar,
        Service::Drive => Upstream::Drive,
    }
}

/// Whether a limit is one user's own: other users may go on.
pub(super) fn concerns_user(error: &GoogleError) -> bool {
    error.reason == "userRateLimitExceeded" || error.message.to_ascii_lowercase().contains("user")
}

fn parse<T: DeserializeOwned>(call: &ApiCall, body: &[u8]) -> Result<T, CallError> {
    // The words of an error may quote what stands there.
    serde_json::from_slice(body).map_err(|error| {
        nonsense(call, &format!("{:?} at line {} column {}", error.classify(), error.line(), error.column()))
    })
}

fn nonsense(call: &ApiCall, error: &str) -> CallError {
    let (service, method) = (title(call.service), call.method);
    tracing::warn!(service, method, error, "Google's answer cannot be understood");
    // Ids of calendars are addresses of people.
    tracing::debug!(path = call.path_only(), "what was asked");
    CallError::Nonsense { service: call.service }
}

/// Whether a success that came whole is not what such calls are answered with. It must neither be passed on nor kept.
fn is_nonsense(call: &ApiCall, response: &EgressResponse) -> bool {
    let is_success = (200..300).contains(&response.status);
    is_success && response.pieces.is_none() && !call.is_content() && !is_json(&response.body)
}

/// Whether a body is JSON, or empty. Of one that is too long to be read here, only the ends are looked at.
fn is_json(body: &[u8]) -> bool {
    let (Some(first), Some(last)) = (body.trim_ascii().first(), body.trim_ascii().last()) else {
        return true;
    };
    if body.len() > CHECKED_BYTES_MAX {
        return matches!((first, last), (b'{', b'}') | (b'[', b']'));
    }
    std::str::from_utf8(body).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// A call with an effect under way; when it ends, what it may have changed is no longer known.
struct Change<'a> {
    google: &'a Google<'a>,
    call: &'a ApiCall,
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if self.call.is_question() {
            return;
        }
        let google = self.google;
        google.env.reads.changed(google.user, self.call.dirt(), sluice_core::now());
    }
}

impl<'a> Google<'a> {
    pub(crate) fn new(
        env: &'a Env,
        meter: &'a Meter,
        shard: ShardId,
        user: UserId,
        deadline: Instant,
    ) -> Self {
        let (slot, priority, calls) = (0, Priority::Normal, RefCell::default());
        let (acting, choice, places) = (Cell::new(None), Choice::Default, RefCell::default());
        Self { env, meter, shard, user, slot, acting, choice, deadline, priority, calls, places }
    }

    /// The same with this account, which stands in this slot.
    pub(crate) fn of_account(mut self, slot: u8, connection: ConnectionId) -> Self {
        self.slot = slot;
        self.acting.set(Some(ActingAccount::Connected(connection)));
        self.choice = Choice::Named;
        self
    }

    /// The same with the account that a task keeps to.
    pub(crate) fn of_task(mut self, bound: &Bound) -> Self {
        match bound {
            Bound::Open => self.choice = Choice::Unbound,
            Bound::At(Spot { slot, acting, as_of }) => {
                self.slot = *slot;
                self.acting.set(Some(*acting));
                self.choice = Choice::Bound(*as_of);
            }
            Bound::Gone(problem) => self.choice = Choice::Gone(problem.clone()),
        }
        self
    }

    /// The same with calls as urgent as this.
    pub(crate) fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// The calls made so far, each with its measure.
    pub(crate) fn into_calls(self) -> Vec<CallView> {
        self.calls.into_inner()
    }

    /// Reads something to be shown: from the core's cache, or within the command's deadline from Google, repeating
    /// as seems fit.
    pub(crate) async fn read<T: DeserializeOwned>(&self, call: &ApiCall) -> Result<T, CallError> {
        parse(call, self.answer(call).await?.bytes())
    }

    /// As [`Self::read`], and what is made of it. An answer that comes from the core's cache brings what was made of it
    /// before, if that was of the same type: for each call, one function makes one type.
    pub(crate) async fn read_made<T: DeserializeOwned, M: Made>(
        &self,
        call: &ApiCall,
        make: impl FnOnce(T) -> M,
    ) -> Result<Rc<M>, CallError> {
        let answer = self.answer(call).await?;
        self.made(call, &answer, make)
    }

    /// What [`Self::read_made`] makes, of an answer that is there.
    pub(crate) fn made<T: DeserializeOwned, M: Made>(
        &self,
        call: &ApiCall,
        answer: &Answer,
        make: impl FnOnce(T) -> M,
    ) -> Result<Rc<M>, CallError> {
        let kept = match answer {
            Answer::Fresh(body) => return Ok(Rc::new(make(parse(call, body)?))),
            Answer::Kept(kept) => kept,
        };
        if let Some(made) = kept.made() {
            return Ok(made);
        }
        let made = Rc::new(make(parse(call, kept.bytes())?));
        self.env.reads.keep_made(kept, &made);
        Ok(made)
    }

    /// Reads what something with an effect is decided by: always from Google.
    pub(crate) async fn read_fresh<T: DeserializeOwned>(
        &self,
        call: &ApiCall,
        limit: Instant,
    ) -> Result<T, CallError> {
        parse(call, &self.send(call, Retry::Safe, limit).await?.body)
    }

    /// As [`Self::read_fresh`], as they come.
    pub(crate) async fn bytes_fresh(&self, call: &ApiCall, limit: Instant) -> Result<Bytes, CallError> {
        self.send(call, Retry::Safe, limit).await.map(|reply| reply.body)
    }

    /// Until when its calls may take.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// As [`Self::read`], as they come.
    /// A call that may be repeated although it changes something goes to Google, and what it changed is forgotten.
    pub(crate) async fn bytes(&self, call: &ApiCall) -> Result<Bytes, CallError> {
        self.answer(call).await.map(Answer::into_bytes)
    }

    async fn answer(&self, call: &ApiCall) -> Result<Answer, CallError> {
        if call.method != "GET" {
            let _change = Change { google: self, call };
            let reply = self.send(call, Retry::Safe, self.deadline).await;
            return reply.map(|reply| Answer::Fresh(reply.body));
        }
        // Calls that are made are kept apart, so that what is answered from the cache does not carry their room.
        if !self.remembers() {
            return Box::pin(self.make(call, None)).await.map(Answer::Fresh);
        }
        for _round in 0..JOINS_MAX {
            match self.env.reads.read(self.user, call, sluice_core::now()) {
                Read::Kept(body, refresh) => {
                    if let Some(ticket) = refresh {
                        self.read_anew(call, ticket);
                    }
                    return Ok(Answer::Kept(body));
                }
                Read::Make(ticket) => {
                    return Box::pin(self.make(call, Some(ticket))).await.map(Answer::Fresh);
                }
                Read::Join(joined) => {
                    if let Some(answer) = self.join(call.service, joined).await? {
                        return answer.map(|body| Answer::Fresh(body.into_bytes()));
                    }
                    // Whoever made the read could not say; it may be our turn now.
                }
            }
        }
        Box::pin(self.make(call, None)).await.map(Answer::Fresh)
    }

    async fn make(&self, call: &ApiCall, ticket: Option<Ticket>) -> Result<Bytes, CallError> {
        let answer = self.send(call, Retry::Safe, self.deadline).await;
        let Some(ticket) = ticket else { return answer.map(|reply| reply.body) };
        let (answer, body) = match answer {
            Ok(reply) => match ReadBody::of(call, reply.body.clone()) {
                Some(body) => (Ok(body), reply.body),
                None => return Ok(reply.body),
            },
            Err(error) => (Err(error), Bytes::new()),
        };
        ticket.land(&answer, sluice_core::now());
        answer.map(|_| body)
    }

    async fn join(
        &self,
        service: Service,
        joined: Joined,
    ) -> Result<Option<Result<ReadBody, CallError>>, CallError> {
        // Behind another's read it is the service that is waited for as well.
        self.occupy(service)?;
        let landing = sluice_core::timeout_at(self.deadline, joined.land());
        let landed = self.meter.during(Wait::Shared, landing).await;
        landed.map_err(|_| CallError::Lost { service, error: EgressError::DeadlineExceeded { sent: false } })
    }

    /// Sees to it that what this asks of a service counts among what the service holds; refuses where that is all it may.
    fn occupy(&self, service: Service) -> Result<(), CallError> {
        let (mut places, upstream) = (self.places.borrow_mut(), upstream(service));
        if places.iter().all(|place| place.upstream() != upstream) {
            let occupied = self.env.broker.occupy(upstream);
            places.push(occupied.map_err(|denied| CallError::Denied { service, denied })?);
        }
        Ok(())
    }

    /// Whether reads are remembered: what is kept is known by its user alone, and is the default account's.
    pub(super) fn remembers(&self) -> bool {
        let is_in_place = match self.choice {
            Choice::Default | Choice::Named => true,
            // Otherwise its token tells, which nothing that is kept asks for.
            Choice::Bound(as_of) => as_of == self.env.tokens.changes(),
            Choice::Unbound | Choice::Gone(_) => false,
        };
        self.slot == 0 && is_in_place
    }

    /// What the core's cache has of a read.
    pub(super) fn remembered(&self, call: &ApiCall) -> Read {
        self.env.reads.read(self.user, call, sluice_core::now())
    }

    /// What these calls cost in all.
    pub(super) fn units_of(&self, calls: &[ApiCall]) -> u64 {
        let units = &self.env.broker.quotas().config().units;
        calls.iter().map(|call| units.of(call)).sum()
    }

    /// Reads what is stale again, in a task of its own.
    pub(super) fn read_anew(&self, call: &ApiCall, ticket: Ticket) {
        let (env, call, shard, user) = (self.env.clone(), call.clone(), self.shard, self.user);
        sluice_core::spawn(async move {
            let meter = Meter::default();
            let deadline = sluice_core::now() + env.config.call_timeout;
            let google = Google::new(&env, &meter, shard, user, deadline).with_priority(Priority::Batch);
            if let Err(error) = google.make(&call, Some(ticket)).await {
                tracing::debug!(path = call.path_only(), ?error, "a stale read was not renewed");
            }
        });
    }

    /// Does something once: it is on its way at most once when this returns.
    pub(crate) async fn act(&self, call: &ApiCall, limit: Instant) -> Result<Reply, CallError> {
        // Told when it ends, however it ends: this future may be dropped while the call is on its way.
        let _change = Change { google: self, call };
        self.send(call, Retry::Never, limit).await
    }

    async fn send(&self, call: &ApiCall, retry: Retry, limit: Instant) -> Result<Reply, CallError> {
        let limit = limit.min(sluice_core::now() + self.env.config.call_timeout);
        let answered = self.exchange(call, retry, limit, &Extra::default()).await?;
        Ok(Reply { body: answered.response.body })
    }

    /// Makes a call, with a fresh token where the one at hand is refused.
    pub(super) async fn exchange(
        &self,
        call: &ApiCall,
        retry: Retry,
        limit: Instant,
        extra: &Extra,
    ) -> Result<Answered, CallError> {
        // In this order: who waits for a token holds no place of the service's.
        let token = self.token(limit).await?;
        self.occupy(call.service)?;
        let answered = match self.once(call, retry, &token, limit, extra).await {
            Err(error) if error.fault() == Some(UpstreamFault::Unauthorized) => {
                self.env.stats.tokens_rejected.add(1);
                self.env.tokens.reject(&self.account(), &token);
                let token = self.token(limit).await?;
                self.once(call, retry, &token, limit, extra).await
            }
            other => other,
        };
        match answered {
            Err(error)
                if matches!(
                    error.fault(),
                    Some(UpstreamFault::Unauthorized | UpstreamFault::ScopeMissing)
                ) =>
            {
                Err(self.mendable(call, &error).await)
            }
            other => other,
        }
    }

    /// The same refusal with the link by which the user mends it: by consenting anew, and to what this call needs.
    async fn mendable(&self, call: &ApiCall, error: &CallError) -> CallError {
        let problem = error.to_problem(self.deadline);
        let account = self.account();
        let Ok(Some(loaded)) = self.env.store.load::<ConnectionRecord>(self.shard, &account.key()).await
        else {
            return CallError::NoToken(problem);
        };
        let scope = match call.service {
            Service::Gmail => Scope::Mail,
            Service::Calendar => Scope::Calendar,
            Service::Drive => Scope::Drive,
        };
        let needed = Scopes::NONE.with(if call.method == "GET" { scope.reading() } else { scope });
        let link = self.env.links.mend(&loaded.to_record(), needed, self.env.clock.unix_ms());
        CallError::NoToken(problem.with_link(link))
    }

    /// Reads content: whole where it is small or kept, else in pieces; the part of it that `range` names, where one is
    /// given.
    pub(crate) async fn content(&self, call: &ApiCall, range: Option<&str>) -> Result<Content, CallError> {
        let mut ticket = None;
        if range.is_none() && self.remembers() {
            match self.env.reads.read(self.user, call, sluice_core::now()) {
                Read::Kept(body, refresh) => {
                    if let Some(ticket) = refresh {
                        self.read_anew(call, ticket);
                    }
                    return Ok(Content { body: body.into_bytes(), ..Content::default() });
                }
                Read::Make(made) => ticket = Some(made),
                // It may turn out too large to be shared.
                Read::Join(_) => {}
            }
        }
        let transfer = self.env.config.transfer;
        let limits = PieceLimits {
            whole_bytes_max: transfer.whole_bytes_max,
            bytes_max: transfer.bytes_max,
            idle: transfer.idle,
            time_max: transfer.time_max,
        };
        let fields = range.map(|range| ("range", range.to_owned())).into_iter().collect();
        let extra = Extra { fields, answer: AnswerBody::Pieces(limits), ..Extra::default() };
        let answered = self.exchange(call, Retry::Safe, self.deadline, &extra).await;
        let Answered { response, place } = match answered {
            Ok(answered) => answered,
            Err(error) => {
                if let Some(ticket) = ticket {
                    ticket.land(&Err(error.clone()), sluice_core::now());
                }
                return Err(error);
            }
        };
        if let (Some(ticket), None) = (ticket, &response.pieces)
            && let Some(body) = ReadBody::of(call, response.body.clone())
        {
            ticket.land(&Ok(body), sluice_core::now());
        }
        Ok(Content {
            range: response.fields.content_range,
            body: response.body,
            pieces: response.pieces.map(|pieces| (pieces, place)),
        })
    }

    /// The core's settings of what is large.
    pub(super) fn transfer(&self) -> &TransferConfig {
        &self.env.config.transfer
    }

    /// What is told when something is changed in a way that takes many calls: hold it until they ended.
    pub(super) fn change<'c>(&'c self, call: &'c ApiCall) -> impl Drop + use<'c, 'a> {
        Change { google: self, call }
    }

    /// Whether the budget of repeats has one more.
    pub(super) fn may_repeat(&self, service: Service) -> bool {
        self.env.broker.may_retry(upstream(service))
    }

    fn account(&self) -> Account {
        Account { shard: self.shard, user: self.user, slot: self.slot }
    }

    async fn token(&self, limit: Instant) -> Result<AccessToken, CallError> {
        if let Choice::Gone(problem) = &self.choice {
            return Err(CallError::NoToken(problem.clone()));
        }
        // One that is not at hand is Google's to give, whoever asked for it first.
        let granting = self.env.tokens.get(self.env, self.account(), limit, self.deadline);
        let granted = self.meter.during(Wait::Google, granting).await;
        granted.calls.into_iter().for_each(|call| self.note(call));
        let token = granted.token.map_err(|problem| {
            CallError::NoToken(match (&self.choice, self.acting.get()) {
                _ if problem.kind() != ProblemKind::NotConnected => problem,
                // Given up since the task was taken up.
                (Choice::Bound(_), Some(acting)) => gone(acting),
                (Choice::Named, _) => given_up(),
                _ => problem,
            })
        })?;
        match self.acting.get() {
            None if matches!(self.choice, Choice::Unbound) => {
                let detail = "an account was connected while the command was begun; send it anew";
                Err(CallError::NoToken(Problem::new(ProblemKind::Conflict, detail)))
            }
            Some(acting) if acting != token.acting() => {
                Err(CallError::NoToken(self.displaced(acting, &token)))
            }
            Some(_) => Ok(token),
            None => {
                self.acting.set(Some(token.acting()));
                Ok(token)
            }
        }
    }

    /// What is told when a token is another account's than the one that is meant.
    fn displaced(&self, meant: ActingAccount, token: &AccessToken) -> Problem {
        match (&self.choice, token.acting()) {
            (Choice::Bound(_), _) => gone(meant),
            // Nobody but the user's own connections can be named.
            (Choice::Named, ActingAccount::Delegated(_)) => given_up(),
            _ => Problem::new(
                ProblemKind::Conflict,
                "accounts have just changed places; what was begun with one does not go on with another",
            ),
        }
    }

    async fn once(
        &self,
        call: &ApiCall,
        retry: Retry,
        token: &AccessToken,
        limit: Instant,
        extra: &Extra,
    ) -> Result<Answered, CallError> {
        let mut fields = extra.fields.clone();
        fields.extend(call.if_match.iter().map(|tags| ("if-match", tags.clone())));
        let request = EgressRequest {
            upstream: upstream(call.service),
            method: call.method,
            url: call.path.clone(),
            bearer: Some(token.expose().to_owned()),
            content_type: call.content_type,
            body: call.body.clone(),
            fields,
            answer: extra.answer,
            deadline: limit,
            retry,
        };
        let changes = retry == Retry::Never || !matches!(call.method, "GET" | "POST");
        let class = if changes { Class::Write } else { Class::Read };
        let units = extra.units.unwrap_or_else(|| self.env.broker.quotas().config().units.of(call));
        let ask = Ask { user: Some(self.user), units, tokens: 0, priority: self.priority };
        let began = Instant::now();
        let judge = |response: &EgressResponse| {
            if !extra.is_accepted(response.status) {
                self.judge(call.service, response)
            } else if extra.parts > 0 {
                judge_parts(response, extra.parts, self.env.clock.timestamp())
            } else if is_nonsense(call, response) {
                Judged { is_passing: true, is_failure: true, ..Judged::good() }
            } else {
                Judged::good()
            }
        };
        let Ended { answer, attempts, place } = Outgoing {
            env: self.env,
            request,
            class,
            operation: Operation::of(call),
            is_hedged: call.method == "GET",
            ask,
            judge: &judge,
            told: Some((self.meter, Wait::Google)),
        }
        .run()
        .await;
        self.note(CallView {
            service: call.service.into(),
            method: call.method.to_owned(),
            path: call.path_only().to_owned(),
            status: answer.as_ref().ok().map(|response| response.status),
            duration_us: micros(began.elapsed()),
            attempts: attempts.max(1),
        });
        match answer {
            Ok(response) if extra.is_accepted(response.status) => {
                if extra.parts == 0 && is_nonsense(call, &response) {
                    return Err(nonsense(call, "it is no JSON"));
                }
                Ok(Answered { response, place })
            }
            Ok(response) => Err(self.refused(call.service, &response)),
            Err(Unanswered::Lost(error)) => Err(CallError::Lost { service: call.service, error }),
            Err(Unanswered::Denied(denied)) => Err(CallError::Denied { service: call.service, denied }),
        }
    }

    /// What an answer says about calls to come.
    fn judge(&self, service: Service, response: &EgressResponse) -> Judged {
        if (200..300).contains(&response.status) {
            return Judged::good();
        }
        let CallError::Refused { error, retry_after, .. } = self.refused(service, response) else {
            return Judged::good();
        };
        let limited = match error.fault {
            UpstreamFault::RateLimited { .. } if concerns_user(&error) => Limited::User,
            UpstreamFault::RateLimited { .. } | UpstreamFault::QuotaExhausted => Limited::Project,
            _ => Limited::Nobody,
        };
        let wait = match error.fault {
            UpstreamFault::QuotaExhausted => retry_after.or(Some(EXHAUSTED_WAIT)),
            _ => retry_after,
        };
        Judged {
            is_passing: error.fault.is_retryable(),
            is_failure: matches!(error.fault, UpstreamFault::Unavailable { .. }),
            limited,
            wait,
            tokens: None,
        }
    }

    fn refused(&self, service: Service, response: &EgressResponse) -> CallError {
        let error = GoogleError::classify(response.status, &response.body, None);
        // The header was read by the egress pool; Gmail may say the moment in its message alone.
        let said = || error.fault.retry_after().map(|after| after.delay(self.env.clock.timestamp()));
        let retry_after = response.retry_after.or_else(said);
        CallError::Refused { service, error, retry_after }
    }

    fn note(&self, call: CallView) {
        let mut calls = self.calls.borrow_mut();
        if calls.len() < CALLS_NOTED_MAX {
            calls.push(call);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_json_is_told_from_what_is() {
        let long = format!("[{}0]", "0,".repeat(CHECKED_BYTES_MAX));
        for text in ["", " \n", "{}", " [1, 2]\n", "\"a\"", &long] {
            assert!(is_json(text.as_bytes()), "{text}");
        }
        for text in ["<html>", "{\"id\": ", "{} {}", &long[1..], &long[..long.len() - 1]] {
            assert!(!is_json(text.as_bytes()), "{text}");
        }
        assert!(!is_json(b"{\"id\": \"\xff\"}"));
    }
}

//! `POST /api/v1/command`: makes a task of a command, promises it, and in mode `sync` waits for its end.

use std::rc::Rc;
use std::time::Duration;

use sluice_net::Request;
use sluice_protocols::api::{AcceptedView, CommandRequest, Mode, TaskState, Timing, task_path};
use sluice_protocols::http::{RequestHead, Response};
use sluice_protocols::ids::{ConnectionId, SessionId, TaskId};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::CommitError;
use sluice_store::record::{ActingAccount, IdempotencyRecord, TaskRecord, WaitsRecord};

use super::exchange::{Context, Exchange, server_timing};
use super::keyed::{self, Held, Keyed};
use super::{events, not_found, read_problem};
use crate::auth::Principal;
use crate::clock::timestamp_of;
use crate::preferences::Used;
use crate::run::{codes, marks};
use crate::service::Core;
use crate::signal::Signal;
use crate::tasks::finished::{Finished, view_json};
use crate::tasks::{Found, NotAccepted, Outcome};
use crate::upstream::bound;

/// How long a caller is kept waiting beyond the last moment the task itself may use.
pub(crate) const REPLY_GRACE: Duration = Duration::from_secs(5);

/// Answers a command.
pub(crate) async fn serve(core: Rc<Core>, exchange: Exchange, who: Rc<Principal>, request: Request) {
    let key = keyed::key_of(&request.head);
    let answer = carry(&core, &exchange.context, &who, key.as_deref(), &request.body).await;
    settle(core, exchange, who, &request.head, answer).await;
}

impl From<Response> for Reply {
    fn from(response: Response) -> Self {
        Self::Whole(Box::new(response))
    }
}

/// How a command is answered.
pub(crate) enum Reply {
    Whole(Box<Response>),
    /// By what becomes of a task.
    Events(TaskId),
}

/// Answers a command, or tells what becomes of its task until it has ended or the client has gone.
pub(crate) async fn settle(
    core: Rc<Core>,
    exchange: Exchange,
    who: Rc<Principal>,
    head: &RequestHead,
    answer: Result<Reply, Refusal>,
) {
    match answer {
        Ok(Reply::Whole(response)) => exchange.reply(*response),
        Ok(Reply::Events(task)) => {
            let seen = events::last_seen(head);
            events::serve(core, exchange, who, task, seen).await;
        }
        Err(refusal) => refusal.answer(exchange),
    }
}

/// A problem with the fields that go beside it.
pub(crate) struct Refusal {
    pub(crate) problem: Problem,
    fields: Vec<(std::borrow::Cow<'static, str>, std::borrow::Cow<'static, str>)>,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self { problem, fields: Vec::new() }
    }
}

impl Refusal {
    pub(crate) fn answer(self, exchange: Exchange) {
        let mut response = exchange.context.problem(self.problem);
        response.fields.extend(self.fields);
        exchange.reply(response);
    }

    /// Of a command that was promised: where to ask for it, and where the time went.
    fn of_task(problem: Problem, task: TaskId, timing: Option<&Timing>) -> Self {
        let mut fields = vec![("location".into(), task_path(task).into())];
        fields.extend(timing.map(|timing| ("server-timing".into(), server_timing(timing))));
        Self { problem, fields }
    }
}

async fn carry(
    core: &Rc<Core>,
    context: &Context,
    who: &Principal,
    key: Option<&str>,
    body: &[u8],
) -> Result<Reply, Refusal> {
    let held = match keyed::begin(core, who, key, "/api/v1/command", body).await? {
        Keyed::Unkeyed => None,
        Keyed::First(held) => Some(held),
        Keyed::Known(record) => return known(core, who, &record).await,
    };
    let request = CommandRequest::parse(body)?;
    check_zone(request.time_zone.as_deref())?;
    let session = core.sessions.resolve(who, request.session).await;
    let session = session.map_err(|error| read_problem(&error))?.ok_or_else(|| not_found("session"))?;
    let preferred = preferred(core, who).await?;
    let account = account_for(core, who, request.account).await?;
    let (mode, record) = (request.mode, task_record(core, who, request, session, &preferred, account));
    start(core, context, who, held, mode, record).await
}

/// Promises a task and answers as its mode wants it.
pub(crate) async fn start(
    core: &Rc<Core>,
    context: &Context,
    who: &Principal,
    held: Option<Held<'_>>,
    mode: Mode,
    record: TaskRecord,
) -> Result<Reply, Refusal> {
    if mode == Mode::Stream && !core.event_streams.has_place() {
        return Err(events::refused(core).into());
    }
    let session = record.session;
    let (task, created_ms, deadline_ms) = (record.id, record.created_ms, record.deadline_ms);
    core.tasks.reserve(&record).map_err(refused)?;
    if let (Mode::Sync, None) = (mode, &held) {
        let signal = core.tasks.begin(who.shard, record, context.arrived()).map_err(refused)?;
        return finished(task, &signal, longest(core, created_ms, deadline_ms)).await.map(Reply::from);
    }
    let record = vec![record];
    let written = held.as_ref().map(|held| held.record(core, &record, None));
    let promised = core.tasks.promise(who.shard, record, written, context.arrived()).await;
    let signal = promised.map_err(refused)?.pop().expect("one signal for one task");
    // From here on the record tells what the key stands for.
    drop(held);
    match mode {
        Mode::Async => Ok(accepted(context, task, session, created_ms).into()),
        Mode::Stream => Ok(Reply::Events(task)),
        Mode::Sync | Mode::Preview => {
            finished(task, &signal, longest(core, created_ms, deadline_ms)).await.map(Reply::from)
        }
    }
}

/// How long the answer to a command is waited for.
fn longest(core: &Core, created_ms: u64, deadline_ms: u64) -> Duration {
    let allowed = Duration::from_millis(deadline_ms.saturating_sub(created_ms));
    allowed + core.config.run.unknown_outcome_grace + REPLY_GRACE
}

/// The answer to a command that was given before with the same key.
pub(crate) async fn known(
    core: &Rc<Core>,
    who: &Principal,
    record: &IdempotencyRecord,
) -> Result<Reply, Refusal> {
    if let Some(task) = record.tasks.first().filter(|task| codes::mode(task.mode) == Mode::Stream) {
        return Ok(Reply::Events(task.id));
    }
    known_whole(core, who, record).await.map(|response| keyed::replayed(response).into())
}

async fn known_whole(
    core: &Rc<Core>,
    who: &Principal,
    record: &IdempotencyRecord,
) -> Result<Response, Refusal> {
    let nothing = || Problem::new(ProblemKind::Internal, "what the key stands for was not kept");
    let task = record.tasks.first().ok_or_else(nothing)?;
    if codes::mode(task.mode) == Mode::Async {
        let view = AcceptedView::new(task.id, task.session, timestamp_of(task.created_ms));
        let response = Response::new(202).json(&view);
        return Ok(response.with_field("location", view.location));
    }
    match core.tasks.find(who.user, who.shard, task.id).await.map_err(|error| read_problem(&error))? {
        Some(Found::Finished(finished)) => end_of(task.id, &finished),
        Some(Found::Pending(view)) if view.state == TaskState::AwaitingConfirmation => {
            let response = Response::new(200).with_body("application/json", view_json(&view));
            Ok(response.with_field("location", task_path(task.id)))
        }
        Some(Found::Pending(_)) => Err(Refusal::of_task(keyed::in_flight(), task.id, None)),
        None => Err(nothing().into()),
    }
}

/// A zone that is not known here would silently be another one.
pub(crate) fn check_zone(time_zone: Option<&str>) -> Result<(), Problem> {
    let Some(name) = time_zone else { return Ok(()) };
    // The database is in memory.
    if jiff::tz::TimeZone::get(name).is_ok() {
        return Ok(());
    }
    let problem = Problem::new(ProblemKind::InvalidField, "one field is not valid");
    Err(problem.with_error("/time_zone", "no IANA time zone of this name is known here"))
}

/// What holds for a user's commands where they do not say.
pub(crate) async fn preferred(core: &Core, who: &Principal) -> Result<Rc<Used>, Problem> {
    core.env.preferences.used(who.shard, who.user).await.map_err(|error| read_problem(&error))
}

/// The account that a command is for, from then on: the one it names, or the default one; `None` where none is connected.
///
/// # Errors
/// As of the plain surface for an account that is not the user's or was given up, and the storage's.
pub(crate) async fn account_for(
    core: &Core,
    who: &Principal,
    named: Option<ConnectionId>,
) -> Result<Option<ActingAccount>, Problem> {
    match named {
        Some(id) => core.connections.usable(who, id).await.map(Some),
        None => bound::default_of(&core.env, who.shard, who.user).await,
    }
}

pub(crate) fn task_record(
    core: &Core,
    who: &Principal,
    request: CommandRequest,
    session: SessionId,
    preferred: &Used,
    account: Option<ActingAccount>,
) -> TaskRecord {
    let created_ms = core.clock.unix_ms();
    let longest_ms = u64::try_from(core.config.command_timeout.as_millis()).unwrap_or(u64::MAX);
    let allowed_ms = request.deadline_ms.map_or(longest_ms, |asked| u64::from(asked).min(longest_ms));
    let mut record = TaskRecord {
        id: core.mint.task(created_ms),
        user: who.user,
        session,
        command: request.command,
        mode: codes::of_mode(request.mode),
        state: codes::of_task_state(TaskState::Queued),
        priority: codes::of_priority(request.priority.or(preferred.priority).unwrap_or_default()),
        time_zone: request.time_zone.unwrap_or_else(|| zone_of(who, preferred).to_owned()),
        created_ms,
        deadline_ms: created_ms.saturating_add(allowed_ms),
        deadline_asked: request.deadline_ms.is_some(),
        confirmed: false,
        finished_ms: None,
        attempts: 0,
        retries: 0,
        not_before_ms: 0,
        last_error_json: None,
        plan_json: None,
        steps: Vec::new(),
        answer: None,
        error_json: None,
        openai_us: 0,
        google_us: 0,
        total_us: 0,
        events: Vec::new(),
        account,
        waits: WaitsRecord::default(),
        cancel_asked: false,
    };
    marks::note(&mut record);
    record
}

/// The zone that a user's times are meant in where a command names none.
pub(crate) fn zone_of<'a>(who: &'a Principal, preferred: &'a Used) -> &'a str {
    preferred.time_zone.as_deref().unwrap_or(&who.time_zone)
}

fn accepted(context: &Context, task: TaskId, session: SessionId, created_ms: u64) -> Response {
    let view = AcceptedView::new(task, session, timestamp_of(created_ms));
    let own_us = u64::try_from(context.arrived().elapsed().as_micros()).unwrap_or(u64::MAX);
    let response = Response::new(202).json(&view);
    let timing = Timing::default().of_total(own_us);
    response.with_field("location", view.location).with_field("server-timing", server_timing(&timing))
}

/// Waits for the end of a task that was promised.
async fn finished(
    task: TaskId,
    signal: &Rc<Signal<Outcome>>,
    longest: Duration,
) -> Result<Response, Refusal> {
    let deadline = sluice_core::now() + longest;
    match sluice_core::timeout_at(deadline, signal.wait()).await {
        Ok(Outcome::Finished(finished)) => end_of(task, &finished),
        Ok(Outcome::Left(problem)) => Err(Refusal::of_task(problem, task, None)),
        Ok(Outcome::Refused) => Err(refused(NotAccepted::Storage(CommitError::Overloaded))),
        Err(_) => {
            let detail = "the command is still being carried out; ask for its task";
            let problem = Problem::new(ProblemKind::DeadlineExceeded, detail).with_retryable(false);
            Err(Refusal::of_task(problem, task, None))
        }
    }
}

/// A task that failed is a problem with the task inside; one that is done or was declined is the answer.
fn end_of(task: TaskId, finished: &Finished) -> Result<Response, Refusal> {
    let timing = &finished.timing;
    if finished.state != TaskState::Failed {
        let response = Response::new(200).with_body("application/json", finished.body.clone());
        return Ok(response
            .with_field("location", task_path(task))
            .with_field("server-timing", server_timing(timing)));
    }
    let unknown = || Problem::new(ProblemKind::Internal, "the command failed for a reason that was not kept");
    let problem = finished.error.clone().unwrap_or_else(unknown);
    let view = serde_json::from_slice(&finished.body).unwrap_or_default();
    Err(Refusal::of_task(problem.with_task(view), task, Some(timing)))
}

pub(crate) fn refused(error: NotAccepted) -> Refusal {
    let problem = match error {
        NotAccepted::Full | NotAccepted::Storage(CommitError::Overloaded) => {
            Problem::new(ProblemKind::Overloaded, "too many commands are waiting").with_retry_after_s(1)
        }
        NotAccepted::TooLarge => Problem::new(ProblemKind::PayloadTooLarge, "the command is too large"),
        NotAccepted::Storage(error) => {
            tracing::error!(%error, "a command was not stored");
            let problem =
                Problem::new(ProblemKind::Storage, "the command was not stored").with_retry_after_s(5);
            // After a write of unknown outcome the command may be carried out after all, once restarted.
            problem.with_retryable(!matches!(error, CommitError::Unknown { .. }))
        }
    };
    problem.into()
}

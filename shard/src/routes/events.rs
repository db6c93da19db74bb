//! `GET /api/v1/tasks/{id}/events`, and commands of mode `stream`: what becomes of a task, as server-sent events (WHATWG
//! HTML section 9.2).
//!
//! ```text
//! accepted               the promise, as an asynchronous command is answered
//! plan                   what will be done, and who worked that out
//! step.started           a step
//! step.done              a step that was done, failed or was skipped, which its state tells
//! step.undone            a step with how it was taken back
//! answer                 what the steps have brought so far, in words; instead of the `answer` before
//! retrying               the task, which is tried again
//! awaiting_confirmation  the task, which goes on when it is confirmed
//! done, failed, declined, cancelled   the task as it ended; the stream ends
//! left                   this process will not end it, or whoever asked may not be told any more; the stream ends, ask again. It has no id
//! ```
//! The events are those of [`crate::run::marks`], read from the task's record when there is room to send them.
//!
//! Invariants: an event is told when it is on disk, so its id is the same after a restart; ids grow by one from 1, and only
//! an `answer` that a newer one replaces is passed over; nothing queues up for a slow client; at most [`Streams`] are
//! open on a core, each bounded in memory ([`sluice_net::body`]); a stream ends with its client, and its task does not; it ends within
//! a second of its caller's credential being taken back, whether there is something to be told or the client reads or not.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use sluice_net::{BodyWriter, Gone};
use sluice_protocols::api::{AcceptedView, TaskView, task_path};
use sluice_protocols::http::{RequestHead, Response};
use sluice_protocols::ids::TaskId;
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::record::TaskRecord;

use super::exchange::Exchange;
use super::{not_found, read_problem};
use crate::auth::{Principal, Standing};
use crate::clock::timestamp_of;
use crate::run::marks::{Mark, marks};
use crate::run::{self, codes};
use crate::service::Core;
use crate::watch::Watch;

/// How often a quiet stream says that it is alive: well within the idle timeouts of clients and of what may stand
/// between.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often who waits for long looks whether its caller may still be told: so what was taken back counts within a second,
/// with half of one to spare.
///
/// That is a timer and two or three loads for each twice a second, whether anything was taken back or not: with all of
/// [`crate::ShardConfig::waits_max`] streams and as many polls open, 2 x 10,000 x 2 = 40,000 a second on a core.
pub(super) const STANDING_LOOK: Duration = Duration::from_millis(500);

/// Why a stream ends before its task.
enum Cut {
    /// There is nobody to tell.
    Gone,
    /// The caller's credential was taken back, or is over.
    Withdrawn,
    /// The same, in the midst of an event that the client does not read.
    Stuck,
}

impl From<Gone> for Cut {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

/// Counts the open streams of one core.
pub(crate) struct Streams {
    open: Rc<Cell<usize>>,
    max: usize,
}

impl Streams {
    pub(crate) fn new(max: usize) -> Self {
        Self { open: Rc::default(), max }
    }

    /// Whether another stream may be opened now.
    pub(crate) fn has_place(&self) -> bool {
        self.open.get() < self.max
    }

    fn enter(&self) -> Option<Place> {
        if !self.has_place() {
            return None;
        }
        self.open.set(self.open.get() + 1);
        Some(Place(Rc::clone(&self.open)))
    }
}

struct Place(Rc<Cell<usize>>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The last event a client has seen; what is no id of ours is none.
pub(crate) fn last_seen(head: &RequestHead) -> u64 {
    head.header("last-event-id").and_then(|id| id.trim().parse().ok()).unwrap_or(0)
}

/// There is no place for another stream. Counts that.
pub(crate) fn refused(core: &Core) -> Problem {
    core.metrics().event_streams_refused.add(1);
    Problem::new(ProblemKind::Overloaded, "too many clients wait for events").with_retry_after_s(1)
}

/// Answers, and stays until the task has ended or the client has gone. Events up to `seen` are not told again.
pub(crate) async fn serve(core: Rc<Core>, exchange: Exchange, who: Rc<Principal>, id: TaskId, seen: u64) {
    let Some(place) = core.event_streams.enter() else {
        return exchange.refuse(refused(&core));
    };
    let seen = match core.tasks.record(who.user, who.shard, id).await {
        Ok(Some(record)) => match Story::of(&record) {
            // An id that was never given is none.
            story if seen > story.last => 0,
            // Everything was told, and a client that is told so does not connect again.
            story if story.is_over && seen == story.last => return exchange.reply(Response::new(204)),
            _ => seen,
        },
        Ok(None) => return exchange.refuse(not_found("task")),
        Err(error) => return exchange.refuse(read_problem(&error)),
    };
    let head = Response::new(200)
        .with_field("content-type", "text/event-stream")
        .with_field("cache-control", "no-store")
        .with_field("location", task_path(id));
    let (writer, _at_once) = exchange.stream(head);
    let standing = Standing::of(&who);
    let mut stream = EventStream { core: &core, who: &who, standing: &standing, writer, seen };
    core.metrics().event_streams.set(core.event_streams.open.get() as u64);
    match stream.follow(id).await {
        Ok(()) => stream.writer.finish(),
        Err(Cut::Gone) => core.metrics().event_streams_left.add(1),
        Err(Cut::Withdrawn) => {
            core.metrics().event_streams_withdrawn.add(1);
            // A client that does not read is not waited for: its stream breaks off.
            let limit = sluice_core::now() + STANDING_LOOK / 2;
            if let Ok(Ok(())) = sluice_core::timeout_at(limit, stream.writer.send(left(id))).await {
                stream.writer.finish();
            }
        }
        Err(Cut::Stuck) => core.metrics().event_streams_withdrawn.add(1),
    }
    drop(place);
    core.metrics().event_streams.set(core.event_streams.open.get() as u64);
}

/// What there is to tell of a task.
struct Story {
    marks: Vec<(u64, Mark)>,
    last: u64,
    is_over: bool,
}

impl Story {
    fn of(record: &TaskRecord) -> Self {
        let mut marks: Vec<_> = marks(record).collect();
        let state = codes::task_state(record.state);
        // A record of an earlier process, from before events were kept, or one with more of them than are kept.
        if marks.is_empty() {
            marks.push((1, Mark::Accepted));
        }
        let mut last = marks.last().map_or(0, |(id, _)| *id);
        if state.is_final() && !marks.iter().any(|(id, mark)| *id == last && *mark == Mark::Ended(state)) {
            last += 1;
            marks.push((last, Mark::Ended(state)));
        }
        Self { marks, last, is_over: state.is_final() }
    }
}

struct EventStream<'a> {
    core: &'a Core,
    who: &'a Principal,
    standing: &'a Standing<'a>,
    writer: BodyWriter,
    seen: u64,
}

impl EventStream<'_> {
    /// Tells what becomes of the task until it has ended.
    async fn follow(&mut self, id: TaskId) -> Result<(), Cut> {
        let (core, who) = (self.core, self.who);
        let mut watch = core.env.watches.watch(id);
        loop {
            let in_hand = core.tasks.is_in_hand(who.user, &id);
            let Ok(Some(record)) = core.tasks.record(who.user, who.shard, id).await else {
                // It cannot be told what became of it: the client must ask again.
                return self.send(left(id)).await;
            };
            if self.tell(&record).await? {
                return Ok(());
            }
            if !in_hand {
                return self.send(left(id)).await;
            }
            self.wait(&mut watch).await?;
        }
    }

    /// Waits for news of the task, and shows meanwhile that the stream is alive.
    async fn wait(&mut self, watch: &mut Watch) -> Result<(), Cut> {
        let mut heartbeat = sluice_core::now() + HEARTBEAT;
        loop {
            let look = heartbeat.min(sluice_core::now() + STANDING_LOOK);
            if until_gone(&self.writer, sluice_core::timeout_at(look, watch.changed())).await?.is_ok() {
                return Ok(());
            }
            self.check().await?;
            if sluice_core::now() >= heartbeat {
                self.send(Bytes::from_static(b": alive\n\n")).await?;
                heartbeat = sluice_core::now() + HEARTBEAT;
            }
        }
    }

    /// Whether the caller may still be told. Whoever was signed out is not; with another credential the stream goes on where
    /// it ended.
    async fn check(&self) -> Result<(), Cut> {
        // Nor is anybody of whom it cannot be told.
        if matches!(self.core.holds(self.standing).await, Ok(true)) { Ok(()) } else { Err(Cut::Withdrawn) }
    }

    /// Sends something to a caller who may be told, and looks again while the client does not read.
    async fn send(&mut self, bytes: Bytes) -> Result<(), Cut> {
        // Also between two events that are told together: a client that reads slowly has them long one after the other.
        self.check().await?;
        let (core, standing) = (self.core, self.standing);
        let mut sent = pin!(self.writer.send(bytes));
        loop {
            let look = sluice_core::now() + STANDING_LOOK;
            match sluice_core::timeout_at(look, sent.as_mut()).await {
                Ok(sent) => return Ok(sent?),
                Err(_) if matches!(core.holds(standing).await, Ok(true)) => {}
                Err(_) => return Err(Cut::Stuck),
            }
        }
    }

    /// Tells what was not told yet; whether that was all there will ever be.
    async fn tell(&mut self, record: &TaskRecord) -> Result<bool, Cut> {
        let story = Story::of(record);
        let last_answer = story.marks.iter().rev().find(|(_, mark)| *mark == Mark::Answered);
        let last_answer = last_answer.map_or(0, |(id, _)| *id);
        let view = run::view_of(record);
        for (id, mark) in story.marks {
            if id <= self.seen {
                continue;
            }
            self.seen = id;
            if mark == Mark::Answered && (id < last_answer || record.answer.is_none() || story.is_over) {
                self.core.metrics().events_overtaken.add(1);
                continue;
            }
            let Some((name, data)) = event_of(mark, record, &view) else { continue };
            // `data` has no line breaks, as serde writes it.
            self.send(format!("id: {id}\nevent: {name}\ndata: {data}\n\n").into()).await?;
            self.core.metrics().events_sent.add(1);
        }
        Ok(story.is_over)
    }
}

/// The event that tells that no more will be told here.
fn left(id: TaskId) -> Bytes {
    let data = json!({ "task": id });
    format!("event: left\ndata: {data}\n\n").into()
}

/// The name and the data of an event. They show the task as it is now, which may be later than the event.
fn event_of(mark: Mark, record: &TaskRecord, view: &TaskView) -> Option<(&'static str, Value)> {
    let step = |index: u8| view.steps.get(usize::from(index)).cloned();
    let stepped = |step| json!({ "task": record.id, "step": step });
    Some(match mark {
        Mark::Accepted => {
            let accepted = AcceptedView::new(record.id, record.session, timestamp_of(record.created_ms));
            ("accepted", json!(accepted))
        }
        Mark::Planned => {
            let data = json!({
                "task": record.id, "intent": view.intent, "plan": view.plan, "workflow": view.workflow,
            });
            ("plan", data)
        }
        Mark::Started(index) => {
            let step = step(index)?;
            let data =
                json!({"id": step.id, "name": step.name, "operation": step.operation, "state": "running"});
            ("step.started", stepped(data))
        }
        Mark::Stepped(index, state) => {
            let mut step = step(index)?;
            step.state = state;
            ("step.done", stepped(json!(step)))
        }
        Mark::Undone(index) => ("step.undone", stepped(json!(step(index)?))),
        Mark::Answered => ("answer", json!({ "task": record.id, "answer": record.answer })),
        Mark::Retrying => ("retrying", json!(view)),
        Mark::Unconfirmed => ("awaiting_confirmation", json!(view)),
        Mark::Ended(state) => (state.name(), json!(view)),
    })
}

/// Waits for something, or for the client to go.
async fn until_gone<T>(writer: &BodyWriter, what: impl Future<Output = T>) -> Result<T, Gone> {
    let (mut gone, mut what) = (pin!(writer.gone()), pin!(what));
    poll_fn(|cx| match what.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Ok(done)),
        Poll::Pending => gone.as_mut().poll(cx).map(|()| Err(Gone)),
    })
    .await
}

//! `GET /api/v1/tasks/{id}/events`: what becomes of a task, as server-sent events (WHATWG HTML section 9.2).
//!
//! ```text
//! accepted   the task as it is when the stream begins
//! state      the task, when it is seen to have changed
//! done       the task as it ended, whatever its end; the stream ends
//! left       this process will not end it; the stream ends, ask again
//! ```
//! Invariants: every event carries the whole task document on one `data` line, and an `id` that counts from 1; at most
//! [`Streams`] are open on a core, each bounded in memory ([`sluice_net::body`]); a stream ends with its client.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sluice_net::{BodyWriter, Gone};
use sluice_protocols::http::Response;
use sluice_protocols::ids::TaskId;
use sluice_protocols::problem::{Problem, ProblemKind};

use super::exchange::Exchange;
use super::{not_found, read_problem};
use crate::auth::Principal;
use crate::service::Core;
use crate::tasks::finished::view_json;
use crate::tasks::{Found, Outcome};

/// How often a quiet stream says that it is alive, and looks at its task: well within the idle timeouts of clients and
/// of what may stand between.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Counts the open streams of one core.
pub(crate) struct Streams {
    open: Rc<Cell<usize>>,
    max: usize,
}

impl Streams {
    pub(crate) fn new(max: usize) -> Self {
        Self { open: Rc::default(), max }
    }

    fn enter(&self) -> Option<Place> {
        if self.open.get() >= self.max {
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

/// Answers, and stays until the task has ended or the client has gone.
pub(crate) async fn serve(core: Rc<Core>, exchange: Exchange, who: Rc<Principal>, id: TaskId) {
    let Some(_place) = core.event_streams.enter() else {
        core.count_wait_refused();
        let problem = Problem::new(ProblemKind::Overloaded, "too many clients wait for events");
        return exchange.refuse(problem.with_retry_after_s(1));
    };
    let found = match core.tasks.find(who.user, who.shard, id).await {
        Ok(Some(found)) => found,
        Ok(None) => return exchange.refuse(not_found("task")),
        Err(error) => return exchange.refuse(read_problem(&error)),
    };
    let head = Response::new(200)
        .with_field("content-type", "text/event-stream")
        .with_field("cache-control", "no-store");
    let mut stream = EventStream { writer: exchange.stream(head), sent: 0 };
    // Gone before the end: there is nobody to tell.
    if follow(&core, &who, id, found, &mut stream).await.is_ok() {
        stream.writer.finish();
    }
}

/// Tells what becomes of a task until it has ended.
async fn follow(
    core: &Core,
    who: &Principal,
    id: TaskId,
    mut found: Found,
    stream: &mut EventStream,
) -> Result<(), Gone> {
    let mut seen: Option<Bytes> = None;
    loop {
        let state = match found {
            Found::Finished(finished) => {
                if seen.is_none() {
                    stream.event("accepted", &finished.body).await?;
                }
                return stream.event("done", &finished.body).await;
            }
            Found::Pending(view) => view_json(&view),
        };
        match seen.replace(state.clone()) {
            None => stream.event("accepted", &state).await?,
            Some(before) if before != state => stream.event("state", &state).await?,
            Some(_) => stream.heartbeat().await?,
        }
        let deadline = sluice_core::now() + HEARTBEAT;
        match until_gone(&stream.writer, end_or(core, who, id, deadline)).await? {
            Some(Outcome::Finished(finished)) => return stream.event("done", &finished.body).await,
            Some(Outcome::Left(_)) => return stream.event("left", &state).await,
            None => {}
        }
        found = match core.tasks.find(who.user, who.shard, id).await {
            Ok(Some(found)) => found,
            // It cannot be told what became of it: the client must ask again.
            Ok(None) | Err(_) => return stream.event("left", &state).await,
        };
    }
}

/// The end of the task; `None` not before `deadline`, unless it ended in between.
async fn end_or(core: &Core, who: &Principal, id: TaskId, deadline: Instant) -> Option<Outcome> {
    let end = core.tasks.wait(who.user, &id, deadline).await;
    if end.is_none() && core.tasks.recent(who.user, &id).is_none() {
        // Also where there is no place to wait in: then it is looked at every heartbeat.
        sluice_core::sleep_until(deadline).await;
    }
    end
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

struct EventStream {
    writer: BodyWriter,
    sent: u64,
}

impl EventStream {
    /// `json` has no line breaks, as serde writes it.
    async fn event(&mut self, name: &str, json: &[u8]) -> Result<(), Gone> {
        self.sent += 1;
        let mut text = format!("id: {}\nevent: {name}\ndata: ", self.sent).into_bytes();
        text.extend_from_slice(json);
        text.extend_from_slice(b"\n\n");
        self.writer.send(text.into()).await
    }

    async fn heartbeat(&mut self) -> Result<(), Gone> {
        self.writer.send(Bytes::from_static(b": alive\n\n")).await
    }
}

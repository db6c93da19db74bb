//! `GET /api/v1/tasks/{id}`, with `Prefer: wait=N` as a long poll (RFC 7240 section 4.3).

use std::rc::Rc;
use std::time::{Duration, Instant};

use sluice_protocols::api::prefer_wait;
use sluice_protocols::http::{RequestHead, Response};
use sluice_protocols::ids::TaskId;
use sluice_protocols::problem::Problem;

use super::exchange::task_timing;
use super::{not_found, read_problem};
use crate::auth::Principal;
use crate::tasks::finished::{Finished, view_json};
use crate::tasks::{Found, Outcome, Tasks};

/// What the caller asked of the wait.
pub(crate) fn wait_of(head: &RequestHead) -> Option<Duration> {
    head.header("prefer").and_then(prefer_wait)
}

/// The answer to a poll of a task that ended lately.
pub(crate) fn get_recent(
    tasks: &Tasks,
    who: &Principal,
    task: TaskId,
    wait: Option<Duration>,
) -> Option<Response> {
    tasks.recent(who.user, &task).map(|finished| with_preference(ended(&finished), wait))
}

/// The answer to a poll.
pub(crate) async fn get(
    tasks: &Tasks,
    who: &Principal,
    task: TaskId,
    wait: Option<Duration>,
) -> Result<Response, Problem> {
    let Some(wait) = wait else { return now(tasks, who, task, None).await };
    let deadline = sluice_core::now() + wait;
    match tasks.wait(who.user, &task, deadline).await {
        Some(Outcome::Finished(finished)) => Ok(with_preference(ended(&finished), Some(wait))),
        // This process will not end the task; or too many wait, it is not pending, or the time ran out.
        Some(Outcome::Left(_)) | None => now(tasks, who, task, Some((wait, deadline))).await,
    }
}

/// How a task stands now. The preference for a wait was heeded when its time ran out or the task has ended.
async fn now(
    tasks: &Tasks,
    who: &Principal,
    task: TaskId,
    waited: Option<(Duration, Instant)>,
) -> Result<Response, Problem> {
    let found = tasks.find(who.user, who.shard, task).await.map_err(|error| read_problem(&error))?;
    let has_ended = matches!(found, Some(Found::Finished(_)));
    let applied = waited.filter(|(_, deadline)| has_ended || sluice_core::now() >= *deadline);
    answer(found, applied.map(|(wait, _)| wait))
}

fn answer(found: Option<Found>, applied: Option<Duration>) -> Result<Response, Problem> {
    let response = match found {
        Some(Found::Finished(finished)) => ended(&finished),
        Some(Found::Pending(view)) => {
            let response = Response::new(200).with_body("application/json", view_json(&view));
            response.with_field("retry-after", "1")
        }
        None => return Err(not_found("task")),
    };
    Ok(with_preference(response, applied))
}

/// A finished task as a response.
pub(crate) fn ended(finished: &Rc<Finished>) -> Response {
    Response::new(200)
        .with_body("application/json", finished.body.clone())
        .with_field("server-timing", task_timing(&finished.timing))
}

fn with_preference(response: Response, applied: Option<Duration>) -> Response {
    match applied {
        Some(wait) => response.with_field("preference-applied", format!("wait={}", wait.as_secs())),
        None => response,
    }
}

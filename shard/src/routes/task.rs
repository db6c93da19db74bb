//! `GET /api/v1/tasks/{id}`, with `Prefer: wait=N` as a long poll (RFC 7240 section 4.3).

use std::rc::Rc;
use std::time::{Duration, Instant};

use sluice_protocols::api::{AcceptedView, ListQuery, TaskListView, TaskState, prefer_wait, task_path};
use sluice_protocols::http::{RequestHead, Response};
use sluice_protocols::ids::TaskId;
use sluice_protocols::problem::{Problem, ProblemKind};

use super::events::STANDING_LOOK;
use super::exchange::server_timing;
use super::{not_found, read_problem, unchanged_problem};
use crate::auth::{Principal, Standing};
use crate::clock::timestamp_of;
use crate::cursor::Cursors;
use crate::service::Core;
use crate::tasks::finished::{Finished, view_json};
use crate::tasks::{Cancelled, Found, Outcome, Tasks};

/// What cursors of the list of tasks are signed for.
const LIST: &str = "tasks";

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
    core: &Core,
    who: &Principal,
    task: TaskId,
    wait: Option<Duration>,
) -> Result<Response, Problem> {
    let tasks = &core.tasks;
    let Some(wait) = wait else { return now(tasks, who, task, None).await };
    let (deadline, standing) = (sluice_core::now() + wait, Standing::of(who));
    loop {
        let look = deadline.min(sluice_core::now() + STANDING_LOOK);
        let outcome = tasks.wait(who.user, &task, look).await;
        if !core.holds(&standing).await.map_err(|error| read_problem(&error))? {
            let detail = "the credential was taken back, or ended, while the answer was waited for";
            return Err(Problem::new(ProblemKind::Unauthorized, detail));
        }
        match outcome {
            Some(Outcome::Finished(finished)) => return Ok(with_preference(ended(&finished), Some(wait))),
            None if look < deadline && sluice_core::now() >= look => {}
            // This process will not end the task; or too many wait, it is not pending, or the time ran out.
            Some(Outcome::Left(_) | Outcome::Refused) | None => {
                return now(tasks, who, task, Some((wait, deadline))).await;
            }
        }
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

/// The answer to `GET /api/v1/tasks`.
pub(crate) async fn list(
    tasks: &Tasks,
    cursors: &Cursors,
    who: &Principal,
    query: Option<&str>,
) -> Result<Response, Problem> {
    let query = ListQuery::parse(query.unwrap_or_default())?;
    // A cursor goes on with the list it was given for: the state is part of that.
    let list = format!("{LIST}/{}", query.state.map_or("", TaskState::name));
    let before = match &query.cursor {
        Some(cursor) => {
            Some(cursors.read_task(&who.user, &list, cursor).ok_or_else(ListQuery::foreign_cursor)?)
        }
        None => None,
    };
    let found = tasks.list(who.user, who.shard, query.state, query.limit, before).await;
    let found = found.map_err(|error| read_problem(&error))?;
    let next = found.last.map(|last| cursors.make(&who.user, &list, last.as_bytes()));
    Ok(Response::new(200).json(&TaskListView { tasks: found.tasks, next }))
}

/// The answer to `POST /api/v1/tasks/{id}/cancel`.
pub(crate) async fn cancel(tasks: &Rc<Tasks>, who: &Principal, task: TaskId) -> Result<Response, Problem> {
    match tasks.cancel(who.user, who.shard, task).await {
        Ok(Cancelled::Ended(finished)) => Ok(ended(&finished)),
        Ok(Cancelled::Asked(found)) => {
            let body = match found {
                Found::Pending(view) => view_json(&view),
                Found::Finished(finished) => finished.body.clone(),
            };
            let response = Response::new(202).with_body("application/json", body);
            Ok(response.with_field("location", task_path(task)).with_field("retry-after", "1"))
        }
        Err(error) => Err(unchanged_problem(error, "task")),
    }
}

/// The answer to `POST /api/v1/tasks/{id}/confirm`.
pub(crate) async fn confirm(tasks: &Rc<Tasks>, who: &Principal, task: TaskId) -> Result<Response, Problem> {
    match tasks.confirm(who.user, task).await {
        Ok(record) => {
            let view = AcceptedView::new(task, record.session, timestamp_of(record.created_ms));
            let response = Response::new(202).json(&view);
            Ok(response.with_field("location", view.location))
        }
        Err(crate::tasks::Unchanged::NotFound) => {
            // A task that is there and not pending has ended.
            let found = tasks.find(who.user, who.shard, task).await.map_err(|error| read_problem(&error))?;
            let error = match found {
                Some(_) => crate::tasks::Unchanged::Conflict("the task has ended"),
                None => crate::tasks::Unchanged::NotFound,
            };
            Err(unchanged_problem(error, "task"))
        }
        Err(error) => Err(unchanged_problem(error, "task")),
    }
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
        .with_field("server-timing", server_timing(&finished.timing))
}

fn with_preference(response: Response, applied: Option<Duration>) -> Response {
    match applied {
        Some(wait) => response.with_field("preference-applied", format!("wait={}", wait.as_secs())),
        None => response,
    }
}

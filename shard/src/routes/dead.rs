//! `/api/v1/dead-letters`: a user's commands that failed for good although they might have worked.

use std::rc::Rc;

use sluice_protocols::api::{
    AcceptedView, DeadLetterEdit, DeadLetterListView, DeadLetterView, ListQuery, TaskState,
};
use sluice_protocols::http::Response;
use sluice_protocols::ids::TaskId;
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::record::TaskRecord;

use super::{read_problem, unchanged_problem};
use crate::auth::Principal;
use crate::clock::timestamp_of;
use crate::cursor::Cursors;
use crate::run::{error_of, view_of};
use crate::tasks::{Tasks, Unchanged, dead};

/// What cursors of this list are signed for.
const LIST: &str = "dead-letters";

/// A dead letter as callers see it.
pub(crate) fn view(record: &TaskRecord) -> DeadLetterView {
    let edited = dead::is_edited(record);
    let mut task = view_of(record);
    // It has failed all the same; that it was edited stands beside it.
    task.state = TaskState::Failed;
    DeadLetterView { task, reason: error_of(record), at: record.finished_ms.map(timestamp_of), edited }
}

fn refused(error: Unchanged) -> Problem {
    unchanged_problem(error, "dead letter")
}

/// The answer to `GET /api/v1/dead-letters`.
pub(crate) async fn list(
    tasks: &Tasks,
    cursors: &Cursors,
    who: &Principal,
    query: Option<&str>,
) -> Result<Response, Problem> {
    let query = ListQuery::parse(query.unwrap_or_default())?;
    if query.state.is_some() {
        let problem = Problem::new(ProblemKind::InvalidField, "one field is not valid");
        return Err(problem.with_error("/state", "there is no such parameter"));
    }
    let before = match &query.cursor {
        Some(cursor) => {
            Some(cursors.read_task(&who.user, LIST, cursor).ok_or_else(ListQuery::foreign_cursor)?)
        }
        None => None,
    };
    let found = tasks.list_dead(who.user, who.shard, query.limit, before).await;
    let mut found = found.map_err(|error| read_problem(&error))?;
    found.tasks.iter_mut().for_each(|task| task.state = TaskState::Failed);
    let next = found.last.map(|last| cursors.make(&who.user, LIST, last.as_bytes()));
    Ok(Response::new(200).json(&DeadLetterListView { dead_letters: found.tasks, next }))
}

/// The answer to `GET /api/v1/dead-letters/{id}`.
pub(crate) async fn get(tasks: &Tasks, who: &Principal, task: TaskId) -> Result<Response, Problem> {
    let record = tasks.dead_letter(who.user, who.shard, task).await.map_err(refused)?;
    Ok(Response::new(200).json(&view(&record)))
}

/// The answer to `PATCH /api/v1/dead-letters/{id}`.
pub(crate) async fn edit(
    tasks: &Tasks,
    who: &Principal,
    task: TaskId,
    body: &[u8],
) -> Result<Response, Problem> {
    let changes = DeadLetterEdit::parse(body)?;
    let record = tasks.edit_dead(who.user, who.shard, task, changes).await.map_err(refused)?;
    Ok(Response::new(200).json(&view(&record)))
}

/// The answer to `DELETE /api/v1/dead-letters/{id}`.
pub(crate) async fn purge(tasks: &Tasks, who: &Principal, task: TaskId) -> Result<Response, Problem> {
    tasks.purge_dead(who.user, who.shard, task).await.map_err(refused)?;
    Ok(Response::new(204))
}

/// The answer to `POST /api/v1/dead-letters/{id}/redrive`.
pub(crate) async fn redrive(tasks: &Rc<Tasks>, who: &Principal, task: TaskId) -> Result<Response, Problem> {
    let record = tasks.redrive_dead(who.user, who.shard, task).await.map_err(refused)?;
    let view = AcceptedView::new(record.id, record.session, timestamp_of(record.created_ms));
    let response = Response::new(202).json(&view);
    Ok(response.with_field("location", view.location))
}

//! `GET` and `POST /api/v1/sessions`, `GET` and `DELETE /api/v1/sessions/{id}`.

use bytes::Bytes;
use sluice_protocols::api::{ListQuery, SessionListView, session_path};
use sluice_protocols::http::{RequestHead, Response};
use sluice_protocols::ids::SessionId;
use sluice_protocols::problem::{Problem, ProblemKind};

use super::conditions::paged;
use super::{not_found, read_problem};
use crate::auth::Principal;
use crate::cursor::Cursors;
use crate::sessions::{BeginError, EndError, Sessions};
use crate::tasks::queue::LaneId;

/// What cursors of the list are signed for.
const LIST: &str = "sessions";

fn lane(who: &Principal, session: SessionId) -> LaneId {
    LaneId { user: who.user, session }
}

fn found(json: Bytes) -> Response {
    Response::new(200).with_body("application/json", json)
}

/// The answer to GET when the session is in the cache.
pub(crate) fn get_cached(sessions: &Sessions, who: &Principal, session: SessionId) -> Option<Response> {
    sessions.cached_json(lane(who, session)).map(found)
}

/// The answer to GET.
pub(crate) async fn get(
    sessions: &Sessions,
    who: &Principal,
    session: SessionId,
) -> Result<Response, Problem> {
    match sessions.json(who.shard, lane(who, session)).await {
        Ok(Some(json)) => Ok(found(json)),
        Ok(None) => Err(not_found("session")),
        Err(error) => Err(read_problem(&error)),
    }
}

/// The answer to `POST /api/v1/sessions`.
pub(crate) async fn begin(sessions: &Sessions, who: &Principal) -> Result<Response, Problem> {
    match sessions.begin(who).await {
        Ok((session, json)) => {
            let response = Response::new(201).with_body("application/json", json);
            Ok(response.with_field("location", session_path(session)))
        }
        Err(error @ BeginError::TooMany) => Err(Problem::new(ProblemKind::Conflict, error.to_string())),
        Err(BeginError::Read(error)) => Err(read_problem(&error)),
        Err(error @ (BeginError::Commit(_) | BeginError::Record(_))) => {
            tracing::error!(%error, "a session was not begun");
            Err(Problem::new(ProblemKind::Storage, "the session was not stored").with_retry_after_s(5))
        }
    }
}

/// The answer to `GET /api/v1/sessions`.
pub(crate) async fn list(
    sessions: &Sessions,
    cursors: &Cursors,
    who: &Principal,
    head: &RequestHead,
) -> Result<Response, Problem> {
    let query = ListQuery::parse(head.query().unwrap_or_default())?;
    if query.state.is_some() {
        let problem = Problem::new(ProblemKind::InvalidField, "one field is not valid");
        return Err(problem.with_error("/state", "there is no such parameter"));
    }
    let before = match &query.cursor {
        Some(cursor) => {
            let position = cursors.read(&who.user, LIST, cursor).ok_or_else(ListQuery::foreign_cursor)?;
            Some(SessionId::from_bytes(position))
        }
        None => None,
    };
    let mut living = sessions.living(who).await.map_err(|error| read_problem(&error))?;
    living.retain(|session| before.is_none_or(|before| session.id < before));
    let is_cut = living.len() > query.limit;
    living.truncate(query.limit);
    let last = living.last().filter(|_| is_cut);
    let next = last.map(|last| cursors.make(&who.user, LIST, last.id.as_bytes()));
    let view = SessionListView { sessions: living, next };
    Ok(paged(Response::new(200).json(&view), head, view.next.as_deref()))
}

/// Ends a session, durably.
pub(crate) async fn delete(
    sessions: &Sessions,
    who: &Principal,
    session: SessionId,
) -> Result<Response, Problem> {
    match sessions.end(who.shard, lane(who, session)).await {
        Ok(true) => Ok(Response::new(204)),
        Ok(false) => Err(not_found("session")),
        Err(EndError::Read(error)) => Err(read_problem(&error)),
        Err(EndError::Commit(error)) => {
            tracing::error!(%error, "a session was not ended");
            Err(Problem::new(ProblemKind::Storage, "the end of the session was not stored")
                .with_retry_after_s(5))
        }
    }
}

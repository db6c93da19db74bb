//! `GET` and `DELETE /api/v1/sessions/{id}`.

use bytes::Bytes;
use sluice_protocols::http::Response;
use sluice_protocols::ids::SessionId;
use sluice_protocols::problem::{Problem, ProblemKind};

use super::{not_found, read_problem};
use crate::auth::Principal;
use crate::sessions::{EndError, Sessions};
use crate::tasks::queue::LaneId;

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

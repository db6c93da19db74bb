//! `GET` and `PATCH /api/v1/preferences`.

use sluice_net::Request;
use sluice_protocols::api::PreferencesView;
use sluice_protocols::http::{RequestHead, Response};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::CommitError;
use xxhash_rust::xxh3::xxh3_64;

use super::command::check_zone;
use super::{conditions, read_problem};
use crate::auth::Principal;
use crate::preferences::Unchanged;
use crate::service::Core;

/// A strong tag: of all that is shown, the moment of the last change included.
fn tag(view: &PreferencesView) -> String {
    // Texts, numbers and times: there is nothing that could fail to serialise.
    let text = serde_json::to_vec(view).unwrap_or_default();
    format!("\"{:016x}\"", xxh3_64(&text))
}

fn shown(view: &PreferencesView) -> Response {
    Response::new(200)
        .json(view)
        .with_field("etag", tag(view))
        .with_field("cache-control", "private, no-cache")
}

/// The answer to `GET`.
pub(crate) async fn get(core: &Core, who: &Principal, head: &RequestHead) -> Result<Response, Problem> {
    let view = core.env.preferences.view(who.shard, who.user).await.map_err(|error| read_problem(&error))?;
    let tag = tag(&view);
    if conditions::is_known(head, &tag) {
        return Ok(Response::new(304).with_field("etag", tag));
    }
    Ok(shown(&view))
}

/// The answer to `PATCH`.
pub(crate) async fn patch(core: &Core, who: &Principal, request: &Request) -> Result<Response, Problem> {
    let changed = core.env.preferences.change(who.shard, who.user, core.clock.unix_ms(), |before| {
        let next = before.preferences.patched(&request.body)?;
        check_zone(next.time_zone.as_deref())?;
        // Last: what would be refused without conditions is refused alike with them (RFC 9110 section 13.2.1).
        conditions::check(&request.head, &tag(before))?;
        Ok(next)
    });
    match changed.await {
        Ok(view) => Ok(shown(&view)),
        Err(Unchanged::Refused(problem)) => Err(problem),
        Err(Unchanged::Read(error)) => Err(read_problem(&error)),
        Err(Unchanged::Commit(CommitError::Overloaded)) => {
            Err(Problem::new(ProblemKind::Overloaded, "too many changes are waiting").with_retry_after_s(1))
        }
        Err(Unchanged::Commit(error)) => {
            tracing::error!(%error, "preferences were not stored");
            Err(Problem::new(ProblemKind::Storage, "the preferences were not stored").with_retry_after_s(5))
        }
    }
}

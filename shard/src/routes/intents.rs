//! `POST /api/v1/intents/parse`: what a command means, without doing any of it.
//!
//! Invariant: nothing is stored and nothing but the model is asked, and that only where rules and patterns do not do.

use sluice_protocols::api::CommandRequest;
use sluice_protocols::http::Response;
use sluice_protocols::plan::Decision;
use sluice_protocols::problem::{Problem, ProblemKind};

use super::command::{account_for, check_zone, preferred, zone_of};
use super::{not_found, read_problem};
use crate::auth::Principal;
use crate::run::plan_only;
use crate::service::Core;
use crate::sessions::Recent;
use crate::tasks::queue::LaneId;

/// Answers with the plan.
pub(crate) async fn parse(core: &Core, who: &Principal, body: &[u8]) -> Result<Response, Problem> {
    let request = CommandRequest::parse(body)?;
    check_zone(request.time_zone.as_deref())?;
    let _place = core.calls.begin(who.user)?;
    let session = core.sessions.resolve(who, request.session).await;
    let session = session.map_err(|error| read_problem(&error))?.ok_or_else(|| not_found("session"))?;
    let lane = LaneId { user: who.user, session };
    let remembered = core.sessions.for_task(who.shard, lane, core.clock.unix_ms()).await;
    let remembered = remembered.map_err(|error| read_problem(&error))?;
    let account = account_for(core, who, request.account).await?;
    let recent = remembered.as_ref().map(Recent::of).unwrap_or_default().of_account(account);
    let preferred = preferred(core, who).await?;
    let time_zone = request.time_zone.as_deref().unwrap_or_else(|| zone_of(who, &preferred));
    let allowed = request.deadline_ms.map_or(core.config.command_timeout, |ms| {
        std::time::Duration::from_millis(u64::from(ms)).min(core.config.command_timeout)
    });
    let deadline = sluice_core::now() + allowed;
    let language = preferred.language.as_deref();
    let view =
        plan_only(&core.env, &request.command, &who.user, &recent, (time_zone, language), deadline).await?;
    if let Decision::Decline { reason } = &view.plan.decision {
        let problem = Problem::new(ProblemKind::InvalidField, "this is no command that could be carried out");
        return Err(problem.with_error("/command", reason.clone()));
    }
    Ok(Response::new(200).json(&view))
}

//! `POST /api/v1/commands`: up to a hundred commands, promised by one commit.
//!
//! Invariant: a command that has no place, or is not valid, is refused by itself; all others are written together, and
//! when that fails none is promised.

use std::rc::Rc;

use bytes::Bytes;
use sluice_protocols::api::{AcceptedView, BatchItem, BatchRequest, BatchView, CommandRequest};
use sluice_protocols::http::Response;
use sluice_protocols::ids::SessionId;
use sluice_protocols::problem::Problem;
use sluice_store::record::TaskRecord;

use super::command::{Refusal, account_for, check_zone, preferred, refused, task_record};
use super::exchange::Exchange;
use super::keyed::{self, Keyed};
use super::{not_found, read_problem};
use crate::auth::Principal;
use crate::clock::timestamp_of;
use crate::limit::Class;
use crate::service::Core;

/// Answers a batch.
pub(crate) async fn serve(
    core: Rc<Core>,
    mut exchange: Exchange,
    who: Rc<Principal>,
    key: Option<String>,
    body: Bytes,
) {
    match carry(&core, &mut exchange, &who, key.as_deref(), &body).await {
        Ok(response) => exchange.reply(response),
        Err(refusal) => refusal.answer(exchange),
    }
}

async fn carry(
    core: &Rc<Core>,
    exchange: &mut Exchange,
    who: &Principal,
    key: Option<&str>,
    body: &[u8],
) -> Result<Response, Refusal> {
    let held = match keyed::begin(core, who, key, "/api/v1/commands", body).await? {
        Keyed::First(held) => Some(held),
        Keyed::Unkeyed => None,
        Keyed::Known(record) => {
            let body = record.answer_json.unwrap_or_default();
            return Ok(keyed::replayed(Response::new(207).with_body("application/json", body.into())));
        }
    };
    let request = BatchRequest::parse(body)?;
    count(core, exchange, who, request.commands.len())?;
    let mut tasks = Vec::new();
    for command in request.commands {
        tasks.push(match command {
            Ok(command) => made(core, who, command).await,
            Err(problem) => Err(problem),
        });
    }
    // No wait from here to the promise: the places are ours meanwhile.
    let (mut items, mut accepted) = (Vec::with_capacity(tasks.len()), Vec::new());
    for task in tasks {
        let placed = task.and_then(|task| {
            core.tasks.reserve(&task).map(|()| task).map_err(|error| refused(error).problem)
        });
        items.push(match placed {
            Ok(task) => {
                let created = timestamp_of(task.created_ms);
                let view = AcceptedView::new(task.id, task.session, created);
                accepted.push(task);
                BatchItem::accepted(view)
            }
            Err(problem) => BatchItem::refused(problem),
        });
    }
    let view = BatchView { items };
    let response = Response::new(207).json(&view);
    if accepted.is_empty() {
        return Ok(response);
    }
    let answer = String::from_utf8(response.body.to_vec()).ok();
    let keyed = held.as_ref().map(|held| held.record(core, &accepted, answer));
    let promised = core.tasks.promise(who.shard, accepted, keyed, exchange.context.arrived()).await;
    promised.map_err(refused)?;
    Ok(response)
}

/// Counts every command as a request, the first of which the request itself was.
fn count(core: &Core, exchange: &mut Exchange, who: &Principal, commands: usize) -> Result<(), Problem> {
    let units = u32::try_from(commands.saturating_sub(1)).unwrap_or(u32::MAX);
    if units == 0 {
        return Ok(());
    }
    let now_ns = core.limiter.limits().ns(sluice_core::now());
    let (told, result) = match core.limiter.take_more(who.who(), Class::Commands, now_ns, units) {
        Ok(fields) => (fields, Ok(())),
        Err(refused) => {
            let (problem, fields) = refused.told();
            (fields, Err(problem))
        }
    };
    exchange.tell_limits(told);
    result
}

/// The task of one command.
async fn made(core: &Rc<Core>, who: &Principal, command: CommandRequest) -> Result<TaskRecord, Problem> {
    check_zone(command.time_zone.as_deref())?;
    let session: Option<SessionId> =
        core.sessions.resolve(who, command.session).await.map_err(|error| read_problem(&error))?;
    let session = session.ok_or_else(|| not_found("session"))?;
    let preferred = preferred(core, who).await?;
    let account = account_for(core, who, command.account).await?;
    Ok(task_record(core, who, command, session, &preferred, account))
}

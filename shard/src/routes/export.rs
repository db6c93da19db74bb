//! `GET /api/v1/users/me/export` and `GET /api/v1/users/{id}/export`: everything of one user, as it is read.
//!
//! A page is read and sent before the next one is: that, and what waits in the answer's body, is all that an export
//! holds. The audit log is told before the first line leaves.

use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use sluice_net::{Answer, BodyReader, BodyWriter};
use sluice_protocols::access::Scope;
use sluice_protocols::http::{Method, RequestHead, Response};
use sluice_protocols::ids::UserId;
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::record::UserRecord;
use sluice_store::{Batch, Key};

use super::events::STANDING_LOOK;
use super::exchange::Exchange;
use super::google::Transfer;
use super::read_problem;
use crate::audit::{Act, Author, Object};
use crate::auth::{Principal, Standing};
use crate::export::{self, Extent};
use crate::service::Core;

/// JSON lines.
const MEDIA_TYPE: &str = "application/x-ndjson";

/// Answers, and stays until all is sent or the client has gone.
pub(crate) async fn serve(
    core: Rc<Core>,
    exchange: Exchange,
    who: Rc<Principal>,
    author: Author,
    whose: Option<UserId>,
    head: RequestHead,
) {
    let user = whose.unwrap_or(who.user);
    // Operators are let in by a scope of their own; to oneself what came of commands is told if it may be read.
    let extent = match whose {
        None if !who.scopes.allows(Scope::CommandsRead) => Extent::Account,
        _ => Extent::Everything,
    };
    let place = match begin(&core, &author, user, head.method()).await {
        Ok(place) => place,
        Err(problem) => return exchange.refuse(problem),
    };
    let response = Response::new(200)
        .with_field("content-type", MEDIA_TYPE)
        .with_field("cache-control", "no-store")
        .with_field("content-disposition", "attachment; filename=\"export.ndjson\"")
        .with_field("x-content-type-options", "nosniff");
    if head.method() == Method::Head {
        return exchange.answer(Answer::Streamed(response, BodyReader::whole(Bytes::new())));
    }
    let (mut writer, request) = exchange.stream(response);
    if send(&core, &who, &user, extent, &mut writer).await {
        core.metrics().exports_sent.add(1);
        writer.finish();
    } else {
        // Dropped unfinished, the answer is broken off; its last line is missing as well.
        core.metrics().exports_broken.add(1);
    }
    drop((place, request));
}

/// Finds the user and a place, and tells the audit log.
async fn begin(core: &Rc<Core>, author: &Author, user: UserId, method: Method) -> Result<Transfer, Problem> {
    let shard = core.shard_of(&user);
    let found = core.store.load::<UserRecord>(shard, &Key::user(&user)).await;
    if found.map_err(|error| read_problem(&error))?.is_none() {
        return Err(Problem::new(ProblemKind::NotFound, "there is no user of this id"));
    }
    let place = core.transfers.begin()?;
    if method != Method::Head {
        let mut batch = Batch::new(shard);
        author.tell(&mut batch, Act::UserExport, Object::User(&user), core.clock.unix_ms());
        core.store.commit(batch).await.map_err(|error| {
            tracing::error!(%error, "an export was not told to the audit log, and so not begun");
            Problem::new(ProblemKind::Storage, "the export was not begun").with_retry_after_s(5)
        })?;
    }
    Ok(place)
}

/// Whether all of it went. Who does not read on holds it up for no longer than files, and whose credential is taken back
/// meanwhile is told no more.
async fn send(core: &Core, who: &Principal, user: &UserId, extent: Extent, writer: &mut BodyWriter) -> bool {
    let settings = core.config.run.transfer;
    let until = sluice_core::now() + settings.time_max;
    let (mut place, standing) = (None, Standing::of(who));
    let holds = async || matches!(core.holds(&standing).await, Ok(true));
    loop {
        let page = match export::page(&core.store, user, extent, place, core.clock.unix_ms()).await {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(%error, "an export broke off");
                return false;
            }
        };
        let limit = until.min(sluice_core::now() + settings.idle);
        if sluice_core::now() >= until || !holds().await {
            return false;
        }
        let mut sent = pin!(writer.send(Bytes::from(page.lines)));
        loop {
            let look = limit.min(sluice_core::now() + STANDING_LOOK);
            match sluice_core::timeout_at(look, sent.as_mut()).await {
                Ok(Ok(())) => break,
                Err(_) if sluice_core::now() < limit && holds().await => {}
                Ok(Err(_)) | Err(_) => return false,
            }
        }
        place = match page.next {
            Some(next) => Some(next),
            None => return true,
        };
    }
}

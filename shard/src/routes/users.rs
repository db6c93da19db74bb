//! `/api/v1/users`: users as operators keep them, and everybody's own.
//!
//! Invariant: a page of the list costs at most [`SCANS_MAX`] scans and as many look-ups as it shows users, whatever the
//! number of shards and users; a page that found little says where to go on.

use std::ops::ControlFlow;

use sluice_protocols::access::Role;
use sluice_protocols::api::{
    ErasedView, Erasure, ListQuery, NewUser, UserEdit, UserListView, UserView, user_path,
};
use sluice_protocols::http::Response;
use sluice_protocols::ids::{ShardId, UserId};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::record::UserRecord;
use sluice_store::{Key, KeyRange, Kind};

use super::read_problem;
use crate::admin::Revoked;
use crate::audit::Author;
use crate::auth::{Principal, activity};
use crate::clock::timestamp_of;
use crate::service::Core;

/// Scans for one page.
const SCANS_MAX: usize = 64;
/// What cursors behind a user are signed for.
const LIST: &str = "users";
/// What cursors at the beginning of a shard are signed for.
const SHARDS: &str = "users/shards";

fn view(user: UserRecord, active_ms: Option<u64>) -> UserView {
    UserView {
        id: user.id,
        name: user.name,
        email: user.email,
        time_zone: user.time_zone,
        role: Role::from_number(user.role).name().to_owned(),
        disabled: user.disabled,
        created: timestamp_of(user.created_ms),
        last_active: active_ms.filter(|at| *at > 0).map(timestamp_of),
        tokens_since: Some(user.tokens_since_ms).filter(|at| *at > 0).map(timestamp_of),
    }
}

async fn with_activity(core: &Core, user: UserRecord) -> Result<UserView, Problem> {
    let shard = core.shard_of(&user.id);
    let written = activity::written(&core.store, shard, &user.id).await;
    let written = written.map_err(|error| read_problem(&error))?;
    Ok(view(user, written.map(|record| record.active_ms)))
}

fn nobody() -> Problem {
    Problem::new(ProblemKind::NotFound, "there is no user of this id")
}

/// The answer to `GET /api/v1/users/{id}`, and for oneself to `GET /api/v1/users/me`.
pub(crate) async fn get(core: &Core, id: UserId) -> Result<Response, Problem> {
    Ok(Response::new(200).json(&view_of(core, id).await?))
}

/// A user as they are shown.
pub(crate) async fn view_of(core: &Core, id: UserId) -> Result<UserView, Problem> {
    let found = core.store.load::<UserRecord>(core.shard_of(&id), &Key::user(&id)).await;
    let found = found.map_err(|error| read_problem(&error))?.ok_or_else(nobody)?;
    with_activity(core, found.to_record()).await
}

/// The answer to `POST /api/v1/users`.
pub(crate) async fn make(core: &Core, author: Author, body: &[u8]) -> Result<Response, Problem> {
    let wanted = NewUser::parse(body)?;
    let user = core.clerk.ask(author, move |admin| admin.make_user(&wanted)).await?;
    let path = user_path(user.id);
    Ok(Response::new(201).json(&view(user, None)).with_field("location", path))
}

/// The answer to `PATCH /api/v1/users/{id}`.
pub(crate) async fn edit(
    core: &Core,
    who: &Principal,
    author: Author,
    id: UserId,
    body: &[u8],
) -> Result<Response, Problem> {
    change(core, who, author, id, UserEdit::parse(body)?).await
}

/// The answer to `DELETE /api/v1/users/{id}`: the user is disabled. What is theirs stays.
pub(crate) async fn disable(
    core: &Core,
    who: &Principal,
    author: Author,
    id: UserId,
) -> Result<Response, Problem> {
    change(core, who, author, id, UserEdit { disabled: Some(true), ..UserEdit::default() }).await?;
    Ok(Response::new(204))
}

/// The answer to `POST /api/v1/users/{id}/erase`, when nothing of the user is left.
pub(crate) async fn erase(
    core: &Core,
    who: &Principal,
    author: Author,
    id: UserId,
    body: &[u8],
) -> Result<Response, Problem> {
    let Erasure { name } = Erasure::parse(body)?;
    if id == who.user {
        let detail = "you cannot erase yourself; another operator can";
        return Err(Problem::new(ProblemKind::Conflict, detail));
    }
    let erased = core.clerk.ask(author, move |admin| admin.erase_user(&id, &name)).await?;
    let removed = erased.removed.iter().map(|(kind, count)| (kind.word().to_owned(), *count)).collect();
    let begun = timestamp_of(erased.begun_ms);
    let Revoked { done, failed } = erased.revoked;
    let view = ErasedView { user: erased.user, begun, removed, revoked: done, unrevoked: failed };
    Ok(Response::new(200).json(&view))
}

async fn change(
    core: &Core,
    who: &Principal,
    author: Author,
    id: UserId,
    edit: UserEdit,
) -> Result<Response, Problem> {
    // So that the last operator cannot lock everybody out by a slip.
    let loses = edit.disabled == Some(true) || edit.role.is_some_and(|role| role != Role::Operator);
    if id == who.user && loses {
        let detail = "you cannot disable yourself or give up your own role; another operator can";
        return Err(Problem::new(ProblemKind::Conflict, detail));
    }
    let user = core.clerk.ask(author, move |admin| admin.edit_user(&id, &edit)).await?;
    Ok(Response::new(200).json(&with_activity(core, user).await?))
}

/// Where a list goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Behind this user, in the user's shard.
    Behind(UserId),
    /// At the beginning of this shard.
    At(ShardId),
}

/// A shard's number in the form that cursors sign.
fn of_shard(shard: ShardId) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[14..].copy_from_slice(&shard.index().to_be_bytes());
    bytes
}

impl Place {
    fn cursor(self, core: &Core, who: &Principal) -> String {
        match self {
            Self::Behind(user) => core.cursors.make(&who.user, LIST, user.as_bytes()),
            Self::At(shard) => core.cursors.make(&who.user, SHARDS, &of_shard(shard)),
        }
    }

    fn read(core: &Core, who: &Principal, cursor: &str) -> Option<Self> {
        if let Some(user) = core.cursors.read(&who.user, LIST, cursor) {
            return Some(Self::Behind(UserId::from_bytes(user)));
        }
        let shard = core.cursors.read::<16>(&who.user, SHARDS, cursor)?;
        let index = u16::from_be_bytes([shard[14], shard[15]]);
        ShardId::new(index, core.store.store().shard_count()).map(Self::At)
    }
}

/// The answer to `GET /api/v1/users`: in the order of shards, and of ids within one.
pub(crate) async fn list(core: &Core, who: &Principal, query: Option<&str>) -> Result<Response, Problem> {
    let query = ListQuery::parse(query.unwrap_or_default())?;
    if query.state.is_some() {
        let problem = Problem::new(ProblemKind::InvalidField, "one field is not valid");
        return Err(problem.with_error("/state", "there is no such parameter"));
    }
    let place = match &query.cursor {
        Some(cursor) => Some(Place::read(core, who, cursor).ok_or_else(ListQuery::foreign_cursor)?),
        None => None,
    };
    let (found, next) = page(core, place, query.limit).await?;
    let mut users = Vec::with_capacity(found.len());
    for user in found {
        users.push(with_activity(core, user).await?);
    }
    let next = next.map(|place| place.cursor(core, who));
    Ok(Response::new(200).json(&UserListView { users, next }))
}

/// At most `limit` users from a place on, and where the next page begins.
async fn page(
    core: &Core,
    place: Option<Place>,
    limit: usize,
) -> Result<(Vec<UserRecord>, Option<Place>), Problem> {
    let (first, mut behind) = match place {
        None => (0, None),
        Some(Place::At(shard)) => (shard.index(), None),
        Some(Place::Behind(user)) => (core.shard_of(&user).index(), Some(user)),
    };
    let mut users = Vec::new();
    let shards = core.store.store().shard_count().shards().skip(usize::from(first));
    for (scans, shard) in shards.enumerate() {
        if scans == SCANS_MAX || users.len() >= limit {
            return Ok((users, Some(Place::At(shard))));
        }
        let mut range = KeyRange::kind(Kind::User);
        if let Some(user) = behind.take() {
            range = range.resume_after(&Key::user(&user), false);
        }
        match rows(core, shard, range, limit, &mut users).await? {
            ControlFlow::Continue(()) => {}
            ControlFlow::Break(last) => return Ok((users, Some(Place::Behind(last)))),
        }
    }
    Ok((users, None))
}

/// Takes users of a range up to the limit; breaks with the last one looked at when it stopped there.
async fn rows(
    core: &Core,
    shard: ShardId,
    range: KeyRange,
    limit: usize,
    users: &mut Vec<UserRecord>,
) -> Result<ControlFlow<UserId>, Problem> {
    let page = core.store.scan(shard, range, limit - users.len(), false).await;
    let page = page.map_err(|error| read_problem(&error))?;
    let last = page.rows.last().and_then(|(key, _)| key.user_id());
    for (key, value) in page.rows {
        // A damaged one is passed over; its bytes are kept in quarantine.
        if let Ok(user) = core.store.validate::<UserRecord>(shard, &key, value) {
            users.push(user.to_record());
        }
    }
    match (page.next, last) {
        (Some(_), Some(last)) => Ok(ControlFlow::Break(last)),
        _ => Ok(ControlFlow::Continue(())),
    }
}

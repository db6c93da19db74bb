//! `/api/v1/workflows/...`: stores workflows, version by version, and runs them.
//!
//! Invariants:
//! - What is stored passed every check; a run holds its workflow whole, so storing and deleting change no run.
//! - The newest version and its copy among the versions are written by one batch. Of one user, one request at a time
//!   changes workflows, so a count, a version and a precondition that were checked still hold when it is written.
//! - A user has at most [`WORKFLOWS_MAX`] workflows, each with its last [`VERSIONS_MAX`] versions.

use std::rc::Rc;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use sluice_net::Request;
use sluice_protocols::api::{CommandRequest, ListQuery, WorkflowRunView};
use sluice_protocols::http::{Method, RequestHead, Response};
use sluice_protocols::ids::{TaskId, UserId};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_protocols::workflow::{Workflow, is_name};
use sluice_store::record::{Loaded, WorkflowRecord, encode};
use sluice_store::{Batch, CommitError, Key, KeyRange, Kind};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::command::{self, Refusal, Reply, account_for, check_zone, known, preferred, start, task_record};
use super::exchange::Exchange;
use super::keyed::{self, Keyed};
use super::{not_found, read_problem};
use crate::auth::Principal;
use crate::clock::timestamp_of;
use crate::run::called_json;
use crate::service::Core;

/// The most workflows a user may store.
const WORKFLOWS_MAX: usize = 100;
/// The most versions that are kept of a workflow; the oldest go.
const VERSIONS_MAX: u32 = 20;
/// What cursors of the list are signed for.
const LIST: &str = "workflows";
/// Where everything here stands.
pub(crate) const ROOT: &str = "/api/v1/workflows";

/// A path under [`ROOT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    All,
    Check,
    One(&'a str),
    Versions(&'a str),
    Version(&'a str, u32),
    Runs(&'a str),
}

impl<'a> Place<'a> {
    /// The place of a path, if it is one.
    pub(crate) fn of(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix(ROOT)?;
        if rest.is_empty() {
            return Some(Self::All);
        }
        let mut parts = rest.strip_prefix('/')?.split('/');
        let name = parts.next()?;
        let below = (parts.next(), parts.next(), parts.next());
        if name == "check" {
            return (below.0.is_none()).then_some(Self::Check);
        }
        if name.is_empty() {
            return None;
        }
        match below {
            (None, ..) => Some(Self::One(name)),
            (Some("versions"), None, _) => Some(Self::Versions(name)),
            (Some("versions"), Some(version), None) => {
                let is_plain = !version.starts_with(['0', '+']);
                version.parse().ok().filter(|_| is_plain).map(|version| Self::Version(name, version))
            }
            (Some("runs"), None, _) => Some(Self::Runs(name)),
            _ => None,
        }
    }

    /// The methods it takes.
    pub(crate) const fn allow(self) -> &'static str {
        match self {
            Self::All | Self::Versions(_) | Self::Version(..) => "GET, HEAD, OPTIONS",
            Self::Check | Self::Runs(_) => "POST, OPTIONS",
            Self::One(_) => "GET, HEAD, PUT, DELETE, OPTIONS",
        }
    }

    /// Whether it makes work.
    pub(crate) const fn is_run(self) -> bool {
        matches!(self, Self::Runs(_))
    }

    /// Whether this method changes anything there; a check stores nothing.
    pub(crate) fn changes(self, method: Method) -> bool {
        !matches!(self, Self::Check) && !matches!(method, Method::Get | Method::Head)
    }

    /// Whether it takes this method, and whether a body comes with it.
    pub(crate) fn takes(self, method: Method) -> Option<bool> {
        let is_read = matches!(method, Method::Get | Method::Head);
        match self {
            Self::All | Self::Versions(_) | Self::Version(..) => is_read.then_some(false),
            Self::Check | Self::Runs(_) => (method == Method::Post).then_some(true),
            Self::One(_) if method == Method::Put => Some(true),
            Self::One(_) => (is_read || method == Method::Delete).then_some(false),
        }
    }
}

/// Answers a request.
pub(crate) async fn serve(core: Rc<Core>, exchange: Exchange, who: Rc<Principal>, request: Request) {
    let answer = carry(&core, &exchange, &who, &request).await;
    command::settle(core, exchange, who, &request.head, answer).await;
}

async fn carry(
    core: &Rc<Core>,
    exchange: &Exchange,
    who: &Principal,
    request: &Request,
) -> Result<Reply, Refusal> {
    let head = &request.head;
    let place = Place::of(head.path()).ok_or_else(|| not_found("workflow"))?;
    if let Place::One(name) | Place::Versions(name) | Place::Version(name, _) | Place::Runs(name) = place
        && !is_name(name)
    {
        return Err(not_found("workflow").into());
    }
    let response = match (place, head.method()) {
        (Place::All, _) => list(core, who, head.query()).await?,
        (Place::Check, _) => {
            let workflow = checked(&parsed(&request.body)?)?;
            Response::new(200).json(&json!({"valid": true, "steps": workflow.graph.nodes().len()}))
        }
        (Place::One(name), Method::Put) => put(core, who, name, request).await?,
        (Place::One(name), Method::Delete) => delete(core, who, name, head).await?,
        (Place::One(name), _) => shown(&newest(core, who, name).await?, head),
        (Place::Versions(name), _) => versions(core, who, name).await?,
        (Place::Version(name, version), _) => shown(&stored(core, who, name, Some(version)).await?, head),
        (Place::Runs(name), _) => return run(core, exchange, who, name, request).await,
    };
    Ok(response.into())
}

fn parsed(body: &Bytes) -> Result<Value, Problem> {
    serde_json::from_slice(body)
        .map_err(|error| Problem::new(ProblemKind::InvalidJson, format!("the body is not JSON: {error}")))
}

fn checked(definition: &Value) -> Result<Workflow, Problem> {
    Workflow::check(definition).map_err(|faults| faults.to_problem("the workflow"))
}

/// A tag of a version: its number alone could come back after a deletion.
fn tag(record: &WorkflowRecord) -> String {
    format!("\"{}-{:016x}\"", record.version, xxh3_64(record.definition_json.as_bytes()))
}

fn view(record: &WorkflowRecord) -> Value {
    json!({
        "name": record.name,
        "version": record.version,
        "created": timestamp_of(record.created_ms),
        "updated": timestamp_of(record.updated_ms),
    })
}

fn shown(record: &WorkflowRecord, head: &RequestHead) -> Response {
    let tag = tag(record);
    let is_known = head.header("if-none-match").is_some_and(|known| names(known, &tag));
    if is_known {
        return Response::new(304).with_field("etag", tag);
    }
    let mut view = view(record);
    view["definition"] = serde_json::from_str(&record.definition_json).unwrap_or_default();
    Response::new(200).json(&view).with_field("etag", tag)
}

/// Whether a list of tags names this one. What is weak names none that must be the same byte for byte, but tags here
/// never are.
fn names(list: &str, tag: &str) -> bool {
    list.split(',').map(|one| one.trim().trim_start_matches("W/")).any(|one| one == "*" || one == tag)
}

async fn loaded(core: &Core, who: &Principal, key: &Key) -> Result<Option<WorkflowRecord>, Problem> {
    let loaded = core.store.load::<WorkflowRecord>(who.shard, key).await;
    Ok(loaded.map_err(|error| read_problem(&error))?.map(|loaded: Loaded<_>| loaded.to_record()))
}

async fn newest(core: &Core, who: &Principal, name: &str) -> Result<WorkflowRecord, Problem> {
    stored(core, who, name, None).await
}

async fn stored(
    core: &Core,
    who: &Principal,
    name: &str,
    version: Option<u32>,
) -> Result<WorkflowRecord, Problem> {
    let key = match version {
        None => Key::workflow(&who.user, name),
        Some(version) => Key::workflow_version(&who.user, name, version),
    };
    let key = key.map_err(|_| not_found("workflow"))?;
    loaded(core, who, &key).await?.ok_or_else(|| not_found("workflow"))
}

/// One user's right to change workflows.
struct Held<'a> {
    core: &'a Core,
    user: UserId,
}

impl<'a> Held<'a> {
    fn take(core: &'a Core, user: UserId) -> Result<Self, Problem> {
        if core.workflows_held.borrow_mut().insert(user) {
            return Ok(Self { core, user });
        }
        Err(Problem::new(ProblemKind::Conflict, "your workflows are being changed by another request"))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.core.workflows_held.borrow_mut().remove(&self.user);
    }
}

fn precondition(head: &RequestHead, record: Option<&WorkflowRecord>) -> Result<(), Problem> {
    let failed = |detail: &str| Err(Problem::new(ProblemKind::PreconditionFailed, detail));
    if let Some(wanted) = head.header("if-match")
        && !record.is_some_and(|record| names(wanted, &tag(record)))
    {
        return failed("the workflow is another version than `If-Match` names");
    }
    if let (Some(unwanted), Some(record)) = (head.header("if-none-match"), record)
        && names(unwanted, &tag(record))
    {
        return failed("there is what `If-None-Match` names");
    }
    Ok(())
}

async fn put(core: &Core, who: &Principal, name: &str, request: &Request) -> Result<Response, Problem> {
    let definition = parsed(&request.body)?;
    checked(&definition)?;
    let _held = Held::take(core, who.user)?;
    let key = Key::workflow(&who.user, name).map_err(|_| not_found("workflow"))?;
    let earlier = loaded(core, who, &key).await?;
    precondition(&request.head, earlier.as_ref())?;
    if earlier.is_none() && all(core, who).await?.len() >= WORKFLOWS_MAX {
        let detail = format!("you have {WORKFLOWS_MAX} workflows; no more are kept");
        return Err(Problem::new(ProblemKind::Conflict, detail));
    }
    let now_ms = core.clock.unix_ms();
    let version = earlier.as_ref().map_or(1, |earlier| earlier.version.saturating_add(1));
    let record = WorkflowRecord {
        user: who.user,
        name: name.to_owned(),
        version,
        created_ms: earlier.as_ref().map_or(now_ms, |earlier| earlier.created_ms),
        updated_ms: now_ms,
        definition_json: definition.to_string(),
    };
    let too_large = |_| Problem::new(ProblemKind::PayloadTooLarge, "the workflow is too large");
    let value = encode(&record).map_err(too_large)?;
    let mut batch = Batch::new(who.shard);
    batch.put(&key, value.as_bytes());
    batch.put(&version_key(who, name, version)?, value.as_bytes());
    if let Some(oldest) = version.checked_sub(VERSIONS_MAX).filter(|oldest| *oldest > 0) {
        batch.delete(&version_key(who, name, oldest)?);
    }
    commit(core, batch).await?;
    let status = if earlier.is_none() { 201 } else { 200 };
    let response = Response::new(status).json(&view(&record)).with_field("etag", tag(&record));
    Ok(response.with_field("location", format!("{ROOT}/{name}")))
}

fn version_key(who: &Principal, name: &str, version: u32) -> Result<Key, Problem> {
    Key::workflow_version(&who.user, name, version).map_err(|_| not_found("workflow"))
}

async fn delete(core: &Core, who: &Principal, name: &str, head: &RequestHead) -> Result<Response, Problem> {
    let _held = Held::take(core, who.user)?;
    let record = newest(core, who, name).await?;
    precondition(head, Some(&record))?;
    let mut batch = Batch::new(who.shard);
    batch.delete(&Key::workflow(&who.user, name).map_err(|_| not_found("workflow"))?);
    for version in record.version.saturating_sub(VERSIONS_MAX - 1).max(1)..=record.version {
        batch.delete(&version_key(who, name, version)?);
    }
    commit(core, batch).await?;
    Ok(Response::new(204))
}

async fn commit(core: &Core, batch: Batch) -> Result<(), Problem> {
    match core.store.commit(batch).await {
        Ok(_) => Ok(()),
        Err(CommitError::Overloaded) => {
            Err(Problem::new(ProblemKind::Overloaded, "too many changes are waiting").with_retry_after_s(1))
        }
        Err(error) => {
            tracing::error!(%error, "a workflow was not stored");
            Err(Problem::new(ProblemKind::Storage, "the workflow was not stored").with_retry_after_s(5))
        }
    }
}

/// All of a user's workflows, by name: there are never many.
async fn all(core: &Core, who: &Principal) -> Result<Vec<WorkflowRecord>, Problem> {
    let range = KeyRange::of_user(Kind::Workflow, &who.user);
    let page = core.store.scan(who.shard, range, WORKFLOWS_MAX, false).await;
    let page = page.map_err(|error| read_problem(&error))?;
    // A damaged one is passed over; its bytes are kept in quarantine.
    let read = |(key, value)| core.store.validate::<WorkflowRecord>(who.shard, &key, value).ok();
    Ok(page.rows.into_iter().filter_map(read).map(|loaded| loaded.to_record()).collect())
}

/// Where a page ended, in the form that cursors sign.
fn position(name: &str) -> TaskId {
    TaskId::from_bytes(xxh3_128(name.as_bytes()).to_be_bytes())
}

async fn list(core: &Core, who: &Principal, query: Option<&str>) -> Result<Response, Problem> {
    let query = ListQuery::parse(query.unwrap_or_default())?;
    if query.state.is_some() {
        let problem = Problem::new(ProblemKind::InvalidField, "one field is not valid");
        return Err(problem.with_error("/state", "there is no such parameter"));
    }
    let all = all(core, who).await?;
    let from = match &query.cursor {
        None => 0,
        Some(cursor) => {
            let last =
                core.cursors.read_task(&who.user, LIST, cursor).ok_or_else(ListQuery::foreign_cursor)?;
            let last = all.iter().position(|record| position(&record.name) == last);
            last.ok_or_else(ListQuery::foreign_cursor)? + 1
        }
    };
    let page = &all[from..all.len().min(from.saturating_add(query.limit))];
    let is_cut = from + page.len() < all.len();
    let last = page.last().filter(|_| is_cut);
    let next = last.map(|last| core.cursors.make(&who.user, LIST, position(&last.name).as_bytes()));
    let views: Vec<Value> = page.iter().map(view).collect();
    Ok(Response::new(200).json(&json!({"workflows": views, "next": next})))
}

async fn versions(core: &Core, who: &Principal, name: &str) -> Result<Response, Problem> {
    let newest = newest(core, who, name).await?;
    let mut views = Vec::new();
    for version in (newest.version.saturating_sub(VERSIONS_MAX - 1).max(1)..=newest.version).rev() {
        if let Some(record) = loaded(core, who, &version_key(who, name, version)?).await? {
            views.push(view(&record));
        }
    }
    Ok(Response::new(200).json(&json!({"versions": views})))
}

async fn run(
    core: &Rc<Core>,
    exchange: &Exchange,
    who: &Principal,
    name: &str,
    request: &Request,
) -> Result<Reply, Refusal> {
    let (head, body) = (&request.head, &request.body);
    let key = keyed::key_of(head);
    let held = match keyed::begin(core, who, key.as_deref(), head.path(), body).await? {
        Keyed::Unkeyed => None,
        Keyed::First(held) => Some(held),
        Keyed::Known(record) => return known(core, who, &record).await,
    };
    let wrong = |pointer: &str, detail: &str| {
        Problem::new(ProblemKind::InvalidField, "one field is not valid").with_error(pointer, detail)
    };
    let Value::Object(mut fields) = parsed(body)? else {
        return Err(wrong("", "must be an object").into());
    };
    let input = fields.remove("input").unwrap_or(Value::Null);
    let version = match fields.remove("version").filter(|version| !version.is_null()) {
        None => None,
        Some(version) => {
            let number = version.as_u64().and_then(|number| u32::try_from(number).ok());
            Some(number.ok_or_else(|| wrong("/version", "must be the number of a version"))?)
        }
    };
    let request = options(name, fields)?;
    check_zone(request.time_zone.as_deref())?;
    let stored = stored(core, who, name, version).await?;
    let broken = || Problem::new(ProblemKind::Internal, "the workflow cannot be read any more");
    let definition: Value = serde_json::from_str(&stored.definition_json).map_err(|_| broken())?;
    let workflow = Workflow::stored(&definition).map_err(|_| broken())?;
    let input = workflow.input(&input).map_err(|faults| faults.to_problem("the input"))?;
    let view = WorkflowRunView { name: stored.name, version: stored.version, input: input.to_value() };
    let session = core.sessions.resolve(who, request.session).await;
    let session = session.map_err(|error| read_problem(&error))?.ok_or_else(|| not_found("session"))?;
    let mode = request.mode;
    let preferred = preferred(core, who).await?;
    let account = account_for(core, who, request.account).await?;
    let mut record = task_record(core, who, request, session, &preferred, account);
    record.plan_json = Some(called_json(view, definition).ok_or_else(broken)?);
    start(core, &exchange.context, who, held, mode, record).await
}

/// What else a run takes: what a command takes but for its text.
fn options(name: &str, mut fields: Map<String, Value>) -> Result<CommandRequest, Problem> {
    if fields.contains_key("command") {
        let problem = Problem::new(ProblemKind::InvalidField, "one field is not valid");
        return Err(problem.with_error("/command", "there is no such field"));
    }
    fields.insert("command".to_owned(), Value::from(format!("Run the workflow {name}")));
    CommandRequest::parse(Value::Object(fields).to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_their_places_and_nothing_else_does() {
        let of = |rest: &str| Place::of(Box::leak(format!("{ROOT}{rest}").into_boxed_str()));
        assert_eq!(of(""), Some(Place::All));
        assert_eq!(of("/check"), Some(Place::Check));
        assert_eq!(of("/digest"), Some(Place::One("digest")));
        assert_eq!(of("/digest/versions"), Some(Place::Versions("digest")));
        assert_eq!(of("/digest/versions/3"), Some(Place::Version("digest", 3)));
        assert_eq!(of("/digest/runs"), Some(Place::Runs("digest")));
        for rest in
            ["/", "s", "/check/x", "/a/b", "/a/versions/", "/a/versions/03", "/a/versions/1/2", "/a/runs/1"]
        {
            assert_eq!(of(rest), None, "{rest}");
        }
    }
}

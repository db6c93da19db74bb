//! `/api/v1/context/...`: documents in and out, and snapshots of them.

use std::rc::Rc;

use bytes::Bytes;
use sluice_net::{Answer, BodyError, BodyReader, BodyWriter, Request};
use sluice_protocols::api::ListQuery;
use sluice_protocols::api::context::{
    DocumentListView, DocumentView, MEDIA_TYPE_BYTES_MAX, SnapshotListView, SnapshotRequest, SnapshotView,
    is_context_key, is_media_type, parse_put_query, refuse_query,
};
use sluice_protocols::http::conditional::{self, Condition};
use sluice_protocols::http::range::{self, Part, Wanted};
use sluice_protocols::http::{Method, RequestHead, Response};
use sluice_protocols::ids::SnapshotId;
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::CommitError;
use sluice_store::record::{ContextDocumentRecord, ContextSnapshotRecord};

use super::conditions::paged;
use super::exchange::{Context, Exchange};
use super::google::BYTES_TYPE;
use super::{conditions, not_found, read_problem};
use crate::auth::Principal;
use crate::clock::timestamp_of;
use crate::context::{
    CHUNK_BYTES, ChunkError, ContextError, DOCUMENTS_MAX, Owner, Pin, Refused, SNAPSHOTS_MAX, Transfer,
};
use crate::service::{Core, settle};
use crate::upstream::Source;

/// Where everything here stands.
pub(crate) const ROOT: &str = "/api/v1/context";
/// What cursors of the lists are signed for.
const DOCUMENTS: &str = "context";
const SNAPSHOTS: &str = "context-snapshots";

/// A path under [`ROOT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    All,
    One(&'a str),
    Snapshots,
    Snapshot(&'a str),
    Restore(&'a str),
}

/// What comes with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Brings {
    Nothing,
    Json,
    Content,
}

impl<'a> Place<'a> {
    /// The place of a path, if it is one.
    pub(crate) fn of(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix(ROOT)?;
        if rest.is_empty() {
            return Some(Self::All);
        }
        let mut parts = rest.strip_prefix('/')?.split('/');
        match (parts.next()?, parts.next(), parts.next(), parts.next()) {
            ("snapshots", None, ..) => Some(Self::Snapshots),
            ("snapshots", Some(id), None, _) if !id.is_empty() => Some(Self::Snapshot(id)),
            ("snapshots", Some(id), Some("restore"), None) if !id.is_empty() => Some(Self::Restore(id)),
            (key, None, ..) if !key.is_empty() => Some(Self::One(key)),
            _ => None,
        }
    }

    /// The methods it takes.
    pub(crate) const fn allow(self) -> &'static str {
        match self {
            Self::All => "GET, HEAD, OPTIONS",
            Self::One(_) => "GET, HEAD, PUT, DELETE, OPTIONS",
            Self::Snapshots => "GET, HEAD, POST, OPTIONS",
            Self::Snapshot(_) => "GET, HEAD, DELETE, OPTIONS",
            Self::Restore(_) => "POST, OPTIONS",
        }
    }

    /// Whether it takes this method, and what comes with it.
    pub(crate) fn takes(self, method: Method) -> Option<Brings> {
        match (self, method) {
            (Self::Restore(_), Method::Post) => Some(Brings::Nothing),
            (Self::Restore(_), _) => None,
            (_, Method::Get | Method::Head) => Some(Brings::Nothing),
            (Self::One(_), Method::Put) => Some(Brings::Content),
            (Self::Snapshots, Method::Post) => Some(Brings::Json),
            (Self::One(_) | Self::Snapshot(_), Method::Delete) => Some(Brings::Nothing),
            _ => None,
        }
    }
}

/// Answers a request.
pub(crate) async fn serve(core: Rc<Core>, exchange: Exchange, who: Rc<Principal>, request: Request) {
    let path = request.head.path().to_owned();
    let method = request.head.method();
    if let (Some(Place::One(key)), Method::Get | Method::Head) = (Place::of(&path), method) {
        return download(&core, exchange, &who, key, &request.head).await;
    }
    settle(exchange, carry(&core, &who, &path, request).await);
}

async fn carry(core: &Core, who: &Principal, path: &str, request: Request) -> Result<Response, Problem> {
    let place = Place::of(path).ok_or_else(|| not_found("context document"))?;
    let method = request.head.method();
    let query = request.head.query().unwrap_or_default().to_owned();
    let is_list = matches!(place, Place::All | Place::Snapshots) && method != Method::Post;
    if !is_list && method != Method::Put {
        refuse_query(&query)?;
    }
    match (place, method) {
        (Place::All, _) => list(core, who, &request.head).await,
        (Place::One(key), Method::Put) => put(core, who, key, &query, request).await,
        (Place::One(key), _) => delete(core, who, key, &request.head).await,
        (Place::Snapshots, Method::Post) => keep(core, who, &request.body).await,
        (Place::Snapshots, _) => list_snapshots(core, who, &request.head).await,
        (Place::Snapshot(id), Method::Delete) => forget(core, who, id).await,
        (Place::Snapshot(id), _) => snapshot(core, who, id).await,
        (Place::Restore(id), _) => restore(core, who, id).await,
    }
}

/// Names one state of a document. No generation is used twice, so it is a strong validator.
fn tag(document: &ContextDocumentRecord) -> String {
    format!("\"{}\"", document.generation)
}

fn view(document: &ContextDocumentRecord) -> DocumentView<'_> {
    DocumentView {
        key: &document.key,
        bytes: document.bytes,
        stored_bytes: document.stored_bytes,
        media_type: &document.media_type,
        etag: tag(document),
        ttl_s: document.ttl_s,
        created: timestamp_of(document.created_ms),
        changed: timestamp_of(document.changed_ms),
        expires: timestamp_of(document.expires_ms),
    }
}

fn snapshot_view(snapshot: &ContextSnapshotRecord, is_whole: bool) -> SnapshotView<'_> {
    SnapshotView {
        id: snapshot.id,
        label: snapshot.label.as_deref(),
        created: timestamp_of(snapshot.created_ms),
        expires: timestamp_of(snapshot.expires_ms),
        count: snapshot.documents.len(),
        bytes: snapshot.documents.iter().map(|document| document.bytes).sum(),
        documents: is_whole.then(|| snapshot.documents.iter().map(view).collect()),
    }
}

fn problem_of(error: &ContextError, what: &str, bytes_max: u64) -> Problem {
    match error {
        ContextError::Read(error) => read_problem(error),
        ContextError::Commit(CommitError::Overloaded) => {
            Problem::new(ProblemKind::Overloaded, "too many changes are waiting").with_retry_after_s(1)
        }
        ContextError::Commit(_) | ContextError::Record(_) => {
            tracing::error!(%error, "a context document was not stored");
            Problem::new(ProblemKind::Storage, "it was not stored").with_retry_after_s(5)
        }
        ContextError::Crowded(_) => {
            Problem::new(ProblemKind::Overloaded, error.to_string()).with_retry_after_s(1)
        }
        ContextError::Chunk(_) => {
            let detail = "the content is damaged; write it again, or restore a backup";
            Problem::new(ProblemKind::Storage, detail).with_retryable(false)
        }
        ContextError::Body(BodyError::TooLong) => too_large(bytes_max),
        ContextError::Body(error) => Problem::new(ProblemKind::BadRequest, error.to_string()),
        ContextError::Condition(detail) => Problem::new(ProblemKind::PreconditionFailed, *detail),
        ContextError::Refused(Refused::NotFound) => not_found(what),
        ContextError::Refused(Refused::Bytes { bytes }) => {
            let detail = format!(
                "your documents, and what snapshots keep besides, would have {bytes} bytes; at most {bytes_max} are kept"
            );
            Problem::new(ProblemKind::PayloadTooLarge, detail)
        }
        ContextError::Refused(Refused::Documents) => {
            let detail = format!("you have {DOCUMENTS_MAX} documents; no more are kept");
            Problem::new(ProblemKind::Conflict, detail)
        }
        ContextError::Refused(Refused::Snapshots) => {
            let detail = format!("you have {SNAPSHOTS_MAX} snapshots; no more are kept");
            Problem::new(ProblemKind::Conflict, detail)
        }
    }
}

fn too_large(bytes_max: u64) -> Problem {
    let detail = format!("context documents have at most {bytes_max} bytes, all of yours together");
    Problem::new(ProblemKind::PayloadTooLarge, detail)
}

impl Core {
    fn context_problem(&self, error: &ContextError, what: &str) -> Problem {
        if matches!(
            error,
            ContextError::Refused(Refused::Bytes { .. }) | ContextError::Body(BodyError::TooLong)
        ) {
            self.metrics().context_refused_full.add(1);
        }
        problem_of(error, what, self.shelves.config.bytes_max)
    }
}

/// The life of what is written now, in seconds, and its end.
fn life(core: &Core, ttl_s: Option<u64>, now_ms: u64) -> (u64, u64) {
    let ttl_s = ttl_s.unwrap_or_else(|| core.shelves.config.ttl.as_secs());
    (ttl_s, now_ms.saturating_add(ttl_s.saturating_mul(1_000)))
}

fn check(head: &RequestHead, document: Option<&ContextDocumentRecord>) -> Result<(), ContextError> {
    conditions::hold(head, document.map(tag).as_deref()).map_err(ContextError::Condition)
}

/// The media type of what is sent.
fn media_type(head: &RequestHead) -> Result<String, Problem> {
    if head.header("content-range").is_some() {
        let detail = "a document is written whole: leave `content-range` out";
        return Err(Problem::new(ProblemKind::BadRequest, detail));
    }
    if head.header("content-encoding").is_some_and(|coding| !coding.trim().eq_ignore_ascii_case("identity")) {
        let detail = "send the content without a content coding";
        return Err(Problem::new(ProblemKind::UnsupportedMediaType, detail));
    }
    let media_type = head.header("content-type").unwrap_or(BYTES_TYPE);
    if is_media_type(media_type) {
        return Ok(media_type.to_owned());
    }
    let detail = format!("a media type is `type/subtype`, at most {MEDIA_TYPE_BYTES_MAX} bytes of ASCII");
    Err(Problem::new(ProblemKind::UnsupportedMediaType, detail))
}

async fn put(
    core: &Core,
    who: &Principal,
    key: &str,
    query: &str,
    request: Request,
) -> Result<Response, Problem> {
    const WHAT: &str = "context document";
    if !is_context_key(key) {
        return Err(not_found(WHAT));
    }
    let shelves = &core.shelves;
    let told = |error: ContextError| core.context_problem(&error, WHAT);
    let Request { head, body, stream, .. } = request;
    let ttl_s = parse_put_query(query, shelves.config.ttl_max.as_secs())?;
    let media_type = media_type(&head)?;
    let owner = Owner::from(who);
    let bytes_max = shelves.config.bytes_max;
    let announced = head.content_length().unwrap_or(0);
    // What shows already is refused before anything is written; it is checked again when all is there.
    {
        let turn = shelves.desks.turn(owner.user).await.map_err(|error| told(error.into()))?;
        let shelf = shelves.shelf(owner).await.map_err(|error| told(error.into()))?;
        drop(turn);
        let now_ms = core.clock.unix_ms();
        check(&head, shelf.document(key, now_ms)).map_err(told)?;
        let bytes = shelf.bytes_but(Some(key), now_ms).saturating_add(announced);
        if bytes > bytes_max {
            return Err(told(Refused::Bytes { bytes }.into()));
        }
    }
    let _transfer = core.transfers.begin()?;
    let _place = shelves.desks.transfer(owner.user).map_err(|error| told(error.into()))?;
    let generation = core.mint.generation(core.clock.unix_ms());
    let pin = shelves.desks.pin(owner.user, generation);
    let settings = core.config.run.transfer;
    let until = sluice_core::now() + settings.time_max;
    let mut source = Source::new(stream.unwrap_or_else(|| BodyReader::whole(body)), settings.idle);
    let written =
        sluice_core::timeout_at(until, shelves.write_content(owner, generation, &mut source, bytes_max));
    let written = written.await.unwrap_or(Err(ContextError::Body(BodyError::TimedOut)));
    let mut stored = None;
    let done = match written {
        Err(error) => Err(error),
        Ok(written) => {
            let head = &head;
            let stored = &mut stored;
            let change = shelves.change(owner, move |shelf, now_ms| {
                let earlier = shelf.document(key, now_ms);
                check(head, earlier)?;
                let (ttl_s, expires_ms) = life(core, ttl_s, now_ms);
                let document = ContextDocumentRecord {
                    user: owner.user,
                    key: key.to_owned(),
                    generation,
                    bytes: written.bytes,
                    stored_bytes: written.stored_bytes,
                    chunk_bytes: u32::try_from(CHUNK_BYTES).unwrap_or(u32::MAX),
                    media_type,
                    ttl_s,
                    created_ms: earlier.map_or(now_ms, |earlier| earlier.created_ms),
                    changed_ms: now_ms,
                    expires_ms,
                };
                *stored = Some((document.clone(), earlier.is_none()));
                Ok(shelf.put(document, bytes_max, now_ms)?)
            });
            change.await
        }
    };
    drop(pin);
    if let Err(error) = done {
        shelves.remove(owner, &generation).await;
        return Err(told(error));
    }
    let Some((document, is_new)) = stored else {
        return Err(Problem::new(ProblemKind::Internal, "the document was lost"));
    };
    core.metrics().context_documents_written.add(1);
    let response = Response::new(if is_new { 201 } else { 200 }).json(&view(&document));
    Ok(response.with_field("etag", tag(&document)).with_field("location", format!("{ROOT}/{key}")))
}

async fn delete(core: &Core, who: &Principal, key: &str, head: &RequestHead) -> Result<Response, Problem> {
    let change = core.shelves.change(Owner::from(who), |shelf, now_ms| {
        let document = shelf.document(key, now_ms).ok_or(Refused::NotFound)?;
        check(head, Some(document))?;
        Ok(shelf.remove(key, now_ms)?)
    });
    change.await.map_err(|error| core.context_problem(&error, "context document"))?;
    Ok(Response::new(204))
}

async fn list(core: &Core, who: &Principal, head: &RequestHead) -> Result<Response, Problem> {
    let query = plain_query(head.query().unwrap_or_default())?;
    let from = match &query.cursor {
        None => None,
        Some(cursor) => {
            let last = core.cursors.read_text(&who.user, DOCUMENTS, cursor);
            Some(last.ok_or_else(ListQuery::foreign_cursor)?)
        }
    };
    let shelf = core.shelves.shelf(Owner::from(who)).await.map_err(|error| read_problem(&error))?;
    let now_ms = core.clock.unix_ms();
    let mut documents =
        shelf.live(now_ms).filter(|document| from.as_ref().is_none_or(|from| document.key > *from));
    let page: Vec<_> = documents.by_ref().take(query.limit).collect();
    let last = page.last().filter(|_| documents.next().is_some());
    let view = DocumentListView {
        next: last.map(|last| core.cursors.make_text(&who.user, DOCUMENTS, &last.key)),
        documents: page.iter().map(|document| view(document)).collect(),
        bytes: shelf.bytes(now_ms),
        bytes_max: core.shelves.config.bytes_max,
    };
    Ok(paged(Response::new(200).json(&view), head, view.next.as_deref()))
}

fn plain_query(query: &str) -> Result<ListQuery, Problem> {
    let query = ListQuery::parse(query)?;
    if query.state.is_some() {
        let problem = Problem::new(ProblemKind::InvalidField, "one field is not valid");
        return Err(problem.with_error("/state", "there is no such parameter"));
    }
    Ok(query)
}

async fn keep(core: &Core, who: &Principal, body: &Bytes) -> Result<Response, Problem> {
    let shelves = &core.shelves;
    let asked = SnapshotRequest::parse(body, shelves.config.ttl_max.as_secs())?;
    let owner = Owner::from(who);
    let mut kept = None;
    let change = shelves.change(owner, |shelf, now_ms| {
        let (_, expires_ms) = life(core, asked.ttl_s, now_ms);
        let id = core.mint.snapshot(now_ms);
        let snapshot = ContextSnapshotRecord {
            id,
            user: owner.user,
            label: asked.label,
            created_ms: now_ms,
            expires_ms,
            documents: shelf.live(now_ms).cloned().collect(),
        };
        let changes = shelf.keep(snapshot.clone(), now_ms)?;
        kept = Some(snapshot);
        Ok(changes)
    });
    change.await.map_err(|error| core.context_problem(&error, "snapshot"))?;
    let Some(snapshot) = kept else {
        return Err(Problem::new(ProblemKind::Internal, "the snapshot was lost"));
    };
    core.metrics().context_snapshots_taken.add(1);
    let location = format!("{ROOT}/snapshots/{}", snapshot.id);
    Ok(Response::new(201).json(&snapshot_view(&snapshot, true)).with_field("location", location))
}

async fn list_snapshots(core: &Core, who: &Principal, head: &RequestHead) -> Result<Response, Problem> {
    let query = plain_query(head.query().unwrap_or_default())?;
    let before = match &query.cursor {
        None => None,
        Some(cursor) => {
            let last = core.cursors.read(&who.user, SNAPSHOTS, cursor);
            Some(SnapshotId::from_bytes(last.ok_or_else(ListQuery::foreign_cursor)?))
        }
    };
    let shelf = core.shelves.shelf(Owner::from(who)).await.map_err(|error| read_problem(&error))?;
    let newest = shelf.live_snapshots(core.clock.unix_ms()).rev();
    let mut newest = newest.filter(|snapshot| before.is_none_or(|before| snapshot.id < before));
    let page: Vec<_> = newest.by_ref().take(query.limit).collect();
    let last = page.last().filter(|_| newest.next().is_some());
    let view = SnapshotListView {
        next: last.map(|last| core.cursors.make(&who.user, SNAPSHOTS, last.id.as_bytes())),
        snapshots: page.iter().map(|snapshot| snapshot_view(snapshot, false)).collect(),
    };
    Ok(paged(Response::new(200).json(&view), head, view.next.as_deref()))
}

fn snapshot_id(id: &str) -> Result<SnapshotId, Problem> {
    id.parse().map_err(|_| not_found("snapshot"))
}

async fn snapshot(core: &Core, who: &Principal, id: &str) -> Result<Response, Problem> {
    let id = snapshot_id(id)?;
    let shelf = core.shelves.shelf(Owner::from(who)).await.map_err(|error| read_problem(&error))?;
    let snapshot = shelf.snapshot(&id, core.clock.unix_ms()).ok_or_else(|| not_found("snapshot"))?;
    Ok(Response::new(200).json(&snapshot_view(snapshot, true)))
}

async fn forget(core: &Core, who: &Principal, id: &str) -> Result<Response, Problem> {
    let id = snapshot_id(id)?;
    let change = core.shelves.change(Owner::from(who), |shelf, now_ms| Ok(shelf.forget(&id, now_ms)?));
    change.await.map_err(|error| core.context_problem(&error, "snapshot"))?;
    Ok(Response::new(204))
}

async fn restore(core: &Core, who: &Principal, id: &str) -> Result<Response, Problem> {
    let id = snapshot_id(id)?;
    let mut restored = None;
    let change = core.shelves.change(Owner::from(who), |shelf, now_ms| {
        let changes = shelf.restore(&id, now_ms)?;
        restored = shelf.snapshot(&id, now_ms).cloned();
        Ok(changes)
    });
    change.await.map_err(|error| core.context_problem(&error, "snapshot"))?;
    let snapshot = restored.ok_or_else(|| not_found("snapshot"))?;
    core.metrics().context_snapshots_restored.add(1);
    Ok(Response::new(200).json(&snapshot_view(&snapshot, true)))
}

/// Answers with content, in pieces when there is more than one chunk of it.
async fn download(core: &Rc<Core>, exchange: Exchange, who: &Principal, key: &str, head: &RequestHead) {
    let owner = Owner::from(who);
    let (response, download) = match begin(core, owner, key, head, &exchange.context).await {
        Err(problem) => return exchange.refuse(problem),
        Ok(Begun::Answered(answer)) => return exchange.answer(answer),
        Ok(Begun::Pieces(response, download)) => (response, download),
    };
    // Content that passes is a request under way until its end.
    let (mut writer, request) = exchange.stream(response);
    if send(core, owner, &download, &mut writer).await {
        writer.finish();
    } else {
        // Dropped unfinished, the answer is broken off: no wrong byte is ever taken for the content.
        core.metrics().context_downloads_broken.add(1);
        drop(writer);
    }
    let generation = download.document.generation;
    drop((download, request));
    core.shelves.remove(owner, &generation).await;
}

/// What a read comes to.
enum Begun {
    /// All of the answer.
    Answered(Answer),
    /// The head of one whose content is still to be sent.
    Pieces(Response, Box<Download>),
}

/// A content on its way out, with its first chunk, and what it holds.
struct Download {
    document: ContextDocumentRecord,
    part: Part,
    first: Bytes,
    _pin: Pin,
    _places: (super::google::Transfer, Transfer),
}

/// Sends what is wanted of a content; whether all of it went. Who does not read on holds it up for no longer than files.
async fn send(core: &Core, owner: Owner, download: &Download, writer: &mut BodyWriter) -> bool {
    let Download { document, part, first, .. } = download;
    let settings = core.config.run.transfer;
    let until = sluice_core::now() + settings.time_max;
    let chunk_bytes = u64::from(document.chunk_bytes.max(1));
    let (begin, end) = (part.first / chunk_bytes, part.last / chunk_bytes);
    for index in begin..=end {
        let content = if index == begin {
            Ok(first.clone())
        } else {
            core.shelves.read_chunk(owner, document, u32::try_from(index).unwrap_or(u32::MAX)).await
        };
        let Some(piece) = content.ok().and_then(|content| cut(&content, index * chunk_bytes, *part)) else {
            return false;
        };
        let bytes = piece.len() as u64;
        let limit = until.min(sluice_core::now() + settings.idle);
        if !matches!(sluice_core::timeout_at(limit, writer.send(piece)).await, Ok(Ok(()))) {
            return false;
        }
        core.metrics().context_bytes_sent.add(bytes);
        sluice_core::yield_now().await;
    }
    true
}

/// What of a chunk that begins at `offset` belongs to a part; none when the chunk is shorter than it must be.
fn cut(chunk: &Bytes, offset: u64, part: Part) -> Option<Bytes> {
    let first = usize::try_from(part.first.saturating_sub(offset)).ok()?;
    let last = usize::try_from(part.last.saturating_sub(offset)).ok()?.min(chunk.len().checked_sub(1)?);
    (first <= last).then(|| chunk.slice(first..=last))
}

async fn begin(
    core: &Rc<Core>,
    owner: Owner,
    key: &str,
    head: &RequestHead,
    context: &Context,
) -> Result<Begun, Problem> {
    const WHAT: &str = "context document";
    refuse_query(head.query().unwrap_or_default())?;
    let shelves = &core.shelves;
    let told = |error: ContextError| core.context_problem(&error, WHAT);
    let turn = shelves.desks.turn(owner.user).await.map_err(|error| told(error.into()))?;
    let document = shelves.document(owner, key).await.map_err(told)?;
    let tag = tag(&document);
    match conditional::check(head, Some(&tag)) {
        Condition::Holds => {}
        Condition::Match => return Ok(Begun::Answered(Response::new(304).with_field("etag", tag).into())),
        Condition::NoMatch => {
            return Err(told(ContextError::Condition("the document is not as `If-Match` names it")));
        }
    }
    let wanted = match head.header("range") {
        Some(range) if head.method() == Method::Get && conditional::may_be_part(head, &tag) => {
            range::wanted(range, document.bytes)
        }
        _ => Wanted::Whole,
    };
    let (status, part) = match wanted {
        Wanted::Whole => (200, Part { first: 0, last: document.bytes.saturating_sub(1) }),
        Wanted::Part(part) => (206, part),
        Wanted::Nothing => {
            let detail = format!("the document has {} bytes", document.bytes);
            let refused = context.problem(Problem::new(ProblemKind::RangeNotSatisfiable, detail));
            // RFC 9110 section 15.5.17: so that the next one is within bounds.
            let refused = refused.with_field("content-range", range::unsatisfied(document.bytes));
            return Ok(Begun::Answered(refused.into()));
        }
    };
    let length = if document.bytes == 0 { 0 } else { part.bytes() };
    let mut response = Response::new(status)
        .with_field("content-type", document.media_type.clone())
        .with_field("content-length", length.to_string())
        .with_field("etag", tag)
        .with_field("cache-control", "private, no-cache")
        .with_field("accept-ranges", "bytes")
        // What it is said to be comes from whoever wrote it: a browser must not act on it.
        .with_field("content-disposition", "attachment")
        .with_field("x-content-type-options", "nosniff");
    if status == 206 {
        response = response.with_field("content-range", part.content_range(document.bytes));
    }
    if head.method() == Method::Head || length == 0 {
        return Ok(Begun::Answered(Answer::Streamed(response, BodyReader::whole(Bytes::new()))));
    }
    let pin = shelves.desks.pin(owner.user, document.generation);
    drop(turn);
    let chunk_bytes = u64::from(document.chunk_bytes.max(1));
    let index = part.first / chunk_bytes;
    let first = shelves.read_chunk(owner, &document, u32::try_from(index).unwrap_or(u32::MAX));
    let first = first.await.map_err(told)?;
    if part.last / chunk_bytes == index {
        let Some(piece) = cut(&first, index * chunk_bytes, part).filter(|piece| piece.len() as u64 == length)
        else {
            return Err(told(ChunkError::Malformed.into()));
        };
        drop(pin);
        shelves.remove(owner, &document.generation).await;
        core.metrics().context_bytes_sent.add(length);
        return Ok(Begun::Answered(Answer::Streamed(response, BodyReader::whole(piece))));
    }
    let places =
        (core.transfers.begin()?, shelves.desks.transfer(owner.user).map_err(|error| told(error.into()))?);
    let download = Download { document, part, first, _pin: pin, _places: places };
    Ok(Begun::Pieces(response, Box::new(download)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_their_places_and_nothing_else_does() {
        assert_eq!(Place::of("/api/v1/context"), Some(Place::All));
        assert_eq!(Place::of("/api/v1/context/notes.md"), Some(Place::One("notes.md")));
        assert_eq!(Place::of("/api/v1/context/snapshots"), Some(Place::Snapshots));
        assert_eq!(Place::of("/api/v1/context/snapshots/x"), Some(Place::Snapshot("x")));
        assert_eq!(Place::of("/api/v1/context/snapshots/x/restore"), Some(Place::Restore("x")));
        for path in
            ["/", "s", "/a/b", "/snapshots/", "/snapshots/x/", "/snapshots/x/y", "/snapshots//restore"]
        {
            assert_eq!(Place::of(&format!("{ROOT}{path}")), None, "{path}");
        }
    }

    #[test]
    fn a_part_is_cut_out_of_its_chunks() {
        let chunk = Bytes::from_static(b"abcd");
        let part = Part { first: 2, last: 9 };
        assert_eq!(cut(&chunk, 0, part).unwrap(), "cd");
        assert_eq!(cut(&chunk, 4, part).unwrap(), "abcd");
        assert_eq!(cut(&chunk, 8, part).unwrap(), "ab");
        assert_eq!(cut(&Bytes::new(), 0, part), None);
        assert_eq!(cut(&chunk, 0, Part { first: 5, last: 6 }), None);
    }
}

//! `/api/v1/gmail/...`, `/api/v1/calendar/...`, `/api/v1/drive/...`: mail, calendar and files as they are, without a
//! command.
//!
//! Invariants:
//! - A call that a repeat would do again is sent at most once. When its outcome is not known, the answer says so.
//! - At most so many calls are under way on a core, and of one user ([`Calls`]); beyond that they are refused. Content
//!   in pieces counts until its end, and has a bound of its own, so that it leaves places to other calls.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hashbrown::HashMap;
use sha2::{Digest as _, Sha256};
use sluice_net::{BodyReader, Request};
use sluice_protocols::api::is_idempotency_key;
use sluice_protocols::google::compose::{MailDraft, Purpose};
use sluice_protocols::google::gmail::{self, Draft, Format, Message};
use sluice_protocols::google::resource::Tag;
use sluice_protocols::google::rest::{self, Answer, Body, Captures, Effect, Endpoint, MailAct};
use sluice_protocols::google::upload;
use sluice_protocols::google::{ApiCall, UpstreamFault};
use sluice_protocols::http::{Method, RequestHead, Response};
use sluice_protocols::ids::UserId;
use sluice_protocols::plan::Service;
use sluice_protocols::problem::{Problem, ProblemKind};
use xxhash_rust::xxh3::xxh3_128;

use super::cache;
use super::exchange::server_timing;
use super::keyed;
use crate::auth::Principal;
use crate::service::Core;
use crate::upstream::meter::{Meter, micros};
use crate::upstream::{CallError, Content, Google, KnownUpload, Source, Upload, UploadError, UploadSessions};

/// The media types that content is passed on as; what else a file says it is, a browser must not act on.
const BYTES_TYPE: &str = "application/octet-stream";

/// Calls under way.
pub(crate) struct Calls {
    by_user: RefCell<HashMap<UserId, usize, foldhash::fast::RandomState>>,
    all: Cell<usize>,
    all_max: usize,
    by_user_max: usize,
}

impl Calls {
    pub(crate) fn new(all_max: usize, by_user_max: usize) -> Self {
        Self { by_user: RefCell::default(), all: Cell::new(0), all_max, by_user_max }
    }

    /// Takes one of the places, until what is given is dropped.
    pub(crate) fn begin(self: &Rc<Self>, user: UserId) -> Result<Call, Problem> {
        let mut by_user = self.by_user.borrow_mut();
        let own = by_user.get(&user).copied().unwrap_or(0);
        let refused = if self.all.get() >= self.all_max {
            Some("too many calls to Google are under way".to_owned())
        } else if own >= self.by_user_max {
            Some(format!("{} calls of yours are under way; no more run at once", self.by_user_max))
        } else {
            None
        };
        if let Some(detail) = refused {
            return Err(Problem::new(ProblemKind::Overloaded, detail).with_retry_after_s(1));
        }
        by_user.insert(user, own + 1);
        self.all.set(self.all.get() + 1);
        Ok(Call { calls: Rc::clone(self), user })
    }
}

/// One of the places.
pub(crate) struct Call {
    calls: Rc<Calls>,
    user: UserId,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.calls.all.set(self.calls.all.get() - 1);
        let mut by_user = self.calls.by_user.borrow_mut();
        match by_user.get_mut(&self.user) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                by_user.remove(&self.user);
            }
        }
    }
}

/// The methods that a path of the surface takes.
pub(crate) fn allow(path: &str) -> &'static str {
    let takes = |method| rest::at_path(path).any(|endpoint| endpoint.method == method);
    let [get, post, put, patch, delete] =
        [Method::Get, Method::Post, Method::Put, Method::Patch, Method::Delete].map(takes);
    match (get, post, put, patch, delete) {
        (true, false, false, false, false) => "GET, HEAD, OPTIONS",
        (true, true, false, false, false) => "GET, HEAD, POST, OPTIONS",
        (true, false, true, false, false) => "GET, HEAD, PUT, OPTIONS",
        (true, false, false, true, false) => "GET, HEAD, PATCH, OPTIONS",
        (true, false, false, false, true) => "GET, HEAD, DELETE, OPTIONS",
        (true, false, false, true, true) => "GET, HEAD, PATCH, DELETE, OPTIONS",
        (false, true, false, false, false) => "POST, OPTIONS",
        (false, false, false, true, false) => "PATCH, OPTIONS",
        (false, false, false, false, true) => "DELETE, OPTIONS",
        (false, false, false, true, true) => "PATCH, DELETE, OPTIONS",
        _ => "OPTIONS",
    }
}

/// Answers a request of the surface.
pub(crate) async fn serve(
    core: &Rc<Core>,
    who: &Principal,
    endpoint: &'static Endpoint,
    request: Request,
) -> Result<sluice_net::Answer, Problem> {
    let place = core.calls.begin(who.user)?;
    let began = Instant::now();
    let head = request.head.clone();
    let deadline = sluice_core::now() + core.config.run.call_timeout;
    let meter = Meter::default();
    let google = Google::new(&core.env, &meter, who.shard, who.user, deadline);
    let captures = endpoint.captures(request.head.path()).unwrap_or_default();
    let told = |error: &CallError| problem_of(endpoint, error, deadline);
    let body = match endpoint.body {
        Body::Mail(act) => {
            check_query(endpoint, &captures, &request.head)?;
            write_mail(core, &google, endpoint, act, &captures, &request.body, deadline).await?
        }
        Body::SentDraft => {
            check_query(endpoint, &captures, &request.head)?;
            let draft = captures.get("id").unwrap_or_default();
            google.act(&gmail::send_draft(draft), deadline).await.map_err(|error| told(&error))?.body
        }
        Body::Bytes => {
            upload_content(core, who, &google, endpoint, &captures, request_parts(request)).await?
        }
        Body::None if endpoint.answer == Answer::Bytes => {
            let call = endpoint.call(&captures, request.head.query(), None, Bytes::new())?;
            if cache::asks_anew(&request.head) {
                core.env.reads.invalidate(who.user, &[Tag::whole(call.service)]);
            }
            let range = request.head.header("range");
            let content = google.content(&call, range).await.map_err(|error| told(&error))?;
            let began = (began, meter.google.total_us());
            return download(core, endpoint, &request.head, content, place, began);
        }
        Body::None | Body::Json => {
            let (content_type, body) = checked_body(endpoint, &request)?;
            let call = endpoint.call(&captures, request.head.query(), content_type, body)?;
            if cache::asks_anew(&request.head) {
                core.env.reads.invalidate(who.user, &[Tag::whole(call.service)]);
            }
            let reply = if endpoint.effect == Effect::Once {
                google.act(&call, deadline).await.map(|reply| reply.body)
            } else {
                google.bytes(&call).await
            };
            reply.map_err(|error| told(&error))?
        }
    };
    let response = answer(endpoint, &head, body);
    let google_us = meter.google.total_us();
    let total_us = micros(began.elapsed());
    drop(place);
    let timing = server_timing(total_us.saturating_sub(google_us), 0, google_us);
    Ok(response.with_field("server-timing", timing).into())
}

/// Refuses parameters that there are not.
fn check_query(endpoint: &Endpoint, captures: &Captures, head: &RequestHead) -> Result<(), Problem> {
    endpoint.call(captures, head.query(), None, Bytes::new()).map(|_| ())
}

/// Answers with content, and keeps the places it takes until its last piece was handed on.
fn download(
    core: &Core,
    endpoint: &Endpoint,
    head: &RequestHead,
    content: Content,
    place: Call,
    (began, google_us): (Instant, u64),
) -> Result<sluice_net::Answer, Problem> {
    let timing = server_timing(micros(began.elapsed()).saturating_sub(google_us), 0, google_us);
    let Some((pieces, permit)) = content.pieces else {
        let response = match content.range {
            None => answer(endpoint, head, content.body),
            Some(range) => part(range).with_body(BYTES_TYPE, content.body),
        };
        return Ok(response.with_field("server-timing", timing).into());
    };
    // Dropped here, the content is not fetched.
    let transfer = core.transfers.begin()?;
    let mut response = match content.range {
        None => Response::new(200).with_field("cache-control", "private, no-cache"),
        Some(range) => part(range),
    };
    response = response
        .with_field("content-type", BYTES_TYPE)
        .with_field("x-content-type-options", "nosniff")
        .with_field("server-timing", timing);
    if let Some(length) = pieces.length {
        response = response.with_field("content-length", length.to_string());
    }
    sluice_core::spawn(async move {
        let _places = (place, permit, transfer);
        if let Err(error) = pieces.end.await {
            tracing::debug!(%error, "content was not read to its end");
        }
    });
    Ok(sluice_net::Answer::Streamed(response, pieces.body))
}

fn part(range: String) -> Response {
    Response::new(206).with_field("content-range", range).with_field("x-content-type-options", "nosniff")
}

/// Content on its way through a core, in pieces.
pub(crate) struct Transfers {
    open: Rc<Cell<usize>>,
    max: usize,
    /// Uploads by the keys of their requests.
    pub(crate) sessions: UploadSessions,
}

/// The place of one.
struct Transfer(Rc<Cell<usize>>);

impl Drop for Transfer {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Transfers {
    pub(crate) fn new(max: usize) -> Self {
        Self { open: Rc::default(), max, sessions: UploadSessions::default() }
    }

    fn begin(&self) -> Result<Transfer, Problem> {
        if self.open.get() >= self.max {
            let problem = Problem::new(ProblemKind::Overloaded, "too many files are on their way");
            return Err(problem.with_retry_after_s(1));
        }
        self.open.set(self.open.get() + 1);
        Ok(Transfer(Rc::clone(&self.open)))
    }
}

fn request_parts(request: Request) -> UploadRequest {
    let Request { head, body, stream, .. } = request;
    UploadRequest { head, body: stream.unwrap_or_else(|| BodyReader::whole(body)) }
}

/// What an upload needs of its request.
struct UploadRequest {
    head: RequestHead,
    body: BodyReader,
}

/// How long the session of an upload is remembered by its key. Google keeps it for a week.
const SESSION_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// Ends what a key holds, however the request ends.
struct Leaving<'a>(&'a UploadSessions, Option<(UserId, [u8; 32])>);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.1 {
            self.0.leave(name);
        }
    }
}

/// Takes content of any length to Drive. A repeat with the same `Idempotency-Key` goes on where the first stopped.
async fn upload_content(
    core: &Core,
    who: &Principal,
    google: &Google<'_>,
    endpoint: &Endpoint,
    captures: &Captures,
    request: UploadRequest,
) -> Result<Bytes, Problem> {
    let _transfer = core.transfers.begin()?;
    let UploadRequest { head, body } = request;
    let settings = core.config.run.transfer;
    let until = sluice_core::now() + settings.time_max;
    let given = |name| endpoint.given(head.query(), name);
    let resource = match endpoint.effect {
        Effect::Once => upload::resource(
            given("name")?.as_deref(),
            given("parent")?.as_deref(),
            given("description")?.as_deref(),
        ),
        _ => upload::resource(None, None, None),
    };
    let begin = endpoint.call(captures, head.query(), Some("application/json"), resource)?;
    let content_type = head.header("content-type").unwrap_or(BYTES_TYPE).to_owned();
    let length = head.content_length();
    let name = match head.header("idempotency-key") {
        None => None,
        Some(key) if is_idempotency_key(key) => Some((who.user, <[u8; 32]>::from(Sha256::digest(key)))),
        Some(_) => {
            let detail = "an Idempotency-Key has 1 to 255 visible ASCII characters";
            return Err(Problem::new(ProblemKind::BadRequest, detail));
        }
    };
    let fingerprint: [u8; 32] = Sha256::new_with_prefix(begin.path.as_bytes())
        .chain_update(&begin.body)
        .chain_update(content_type.as_bytes())
        .chain_update(length.unwrap_or(u64::MAX).to_be_bytes())
        .finalize()
        .into();
    let sessions = &core.transfers.sessions;
    let mut leaving = Leaving(sessions, None);
    let mut session = None;
    if let Some(name) = name {
        match sessions.find(name, &fingerprint, sluice_core::now()) {
            KnownUpload::New => {}
            KnownUpload::Session(known) => {
                leaving.1 = Some(name);
                session = Some(known);
            }
            KnownUpload::Done(file) => return Ok(file),
            KnownUpload::UnderWay => return Err(keyed::in_flight()),
            KnownUpload::Other => {
                let detail = "the key was used for a request with another path, type or length";
                return Err(Problem::new(ProblemKind::IdempotencyMismatch, detail));
            }
        }
        leaving.1 = Some(name);
    }
    let opened = |session: &str| {
        if let Some(name) = name {
            sessions.keep(name, fingerprint, session, sluice_core::now() + SESSION_LIFE);
        }
    };
    let wanted = Upload { begin: &begin, content_type: &content_type, length, session, until };
    let mut source = Source::new(body, settings.idle);
    let uploaded = google.upload(wanted, &mut source, opened).await;
    if let (Some(name), Ok(file)) = (&name, &uploaded) {
        sessions.done(name, file);
    }
    uploaded.map_err(|error| match error {
        UploadError::Call(error) => problem_of(endpoint, &error, until),
        UploadError::Body(error) => body_problem(error, settings.bytes_max),
        UploadError::Shorter => {
            let detail = "less was sent than the first request with this key had brought already";
            Problem::new(ProblemKind::IdempotencyMismatch, detail)
        }
    })
}

fn body_problem(error: sluice_net::BodyError, bytes_max: u64) -> Problem {
    match error {
        sluice_net::BodyError::TooLong => {
            Problem::new(ProblemKind::PayloadTooLarge, format!("a body has at most {bytes_max} bytes"))
        }
        sluice_net::BodyError::TimedOut => {
            Problem::new(ProblemKind::BadRequest, "the body did not arrive in time")
        }
        sluice_net::BodyError::Broken => Problem::new(ProblemKind::BadRequest, "the body broke off"),
    }
}

fn checked_body(endpoint: &Endpoint, request: &Request) -> Result<(Option<&'static str>, Bytes), Problem> {
    match endpoint.body {
        Body::None | Body::Mail(_) | Body::SentDraft | Body::Bytes => Ok((None, Bytes::new())),
        Body::Json => {
            rest::check_object(&request.body).map_err(|error| {
                if error.is_data() {
                    let problem = Problem::new(ProblemKind::InvalidField, "the body must be a JSON object");
                    return problem.with_error("", "must be an object");
                }
                Problem::new(ProblemKind::InvalidJson, format!("the body is not JSON: {error}"))
            })?;
            Ok((Some("application/json"), request.body.clone()))
        }
    }
}

/// Writes a draft and, unless that was all, sends it. A draft is sent once by Gmail, however often it is asked to.
async fn write_mail(
    core: &Core,
    google: &Google<'_>,
    endpoint: &'static Endpoint,
    act: MailAct,
    captures: &Captures,
    body: &[u8],
    deadline: Instant,
) -> Result<Bytes, Problem> {
    let told = |error: CallError| problem_of(endpoint, &error, deadline);
    let id = captures.get("id").unwrap_or_default();
    let draft = MailDraft::parse(body)?;
    let original: Option<Message> = match act {
        MailAct::Reply => Some(google.read(&gmail::get_message(id, Format::Metadata)).await.map_err(told)?),
        MailAct::Forward => Some(google.read(&gmail::get_message(id, Format::Full)).await.map_err(told)?),
        MailAct::Send | MailAct::Draft => None,
    };
    let purpose = match &original {
        None => Purpose::New,
        Some(original) if act == MailAct::Forward => Purpose::Forward(original),
        Some(original) => Purpose::Reply(original),
    };
    let mail = draft.into_mail(purpose, core.mint.task(core.clock.unix_ms()), core.clock.timestamp())?;
    let made = google.act(&gmail::create_draft(&mail), deadline).await.map_err(told)?;
    if act == MailAct::Draft {
        return Ok(made.body);
    }
    let draft: Draft = serde_json::from_slice(&made.body)
        .map_err(|_| told(CallError::Nonsense { service: Service::Gmail }))?;
    match google.act(&gmail::send_draft(&draft.id), deadline).await {
        Ok(sent) => Ok(sent.body),
        Err(error) if error.outcome_unknown() => was_sent(google, &draft.id, &error, deadline, told).await,
        Err(error) => Err(told(error)),
    }
}

/// Whether a draft whose sending brought no answer was sent: then it is not there any more.
async fn was_sent(
    google: &Google<'_>,
    draft: &str,
    error: &CallError,
    deadline: Instant,
    told: impl Fn(CallError) -> Problem,
) -> Result<Bytes, Problem> {
    match google.read_fresh::<serde_json::Value>(&gmail::get_draft(draft), deadline).await {
        Err(gone) if gone.is_not_found() => Ok(Bytes::from_static(b"{}")),
        Ok(_) => Err(told(error.clone())),
        Err(_) => Err(told(error.clone()).with_retryable(false)),
    }
}

/// What the caller is told. What is wrong with the request itself is theirs to mend, so it is no fault of Google's.
fn problem_of(endpoint: &Endpoint, error: &CallError, deadline: Instant) -> Problem {
    let problem = error.to_problem(deadline);
    let kind = match error.fault() {
        Some(UpstreamFault::NotFound | UpstreamFault::Gone) => ProblemKind::NotFound,
        Some(UpstreamFault::Invalid) => ProblemKind::BadRequest,
        Some(UpstreamFault::Forbidden) => ProblemKind::Forbidden,
        _ => {
            // A repeat might do it twice.
            let is_unsafe = endpoint.effect == Effect::Once && error.outcome_unknown();
            return if is_unsafe { problem.with_retryable(false) } else { problem };
        }
    };
    Problem::new(kind, problem.detail().to_owned())
}

fn answer(endpoint: &Endpoint, head: &RequestHead, body: Bytes) -> Response {
    if endpoint.answer == Answer::Empty || body.is_empty() {
        return Response::new(204);
    }
    if endpoint.effect != Effect::Read {
        return Response::new(200).with_body("application/json", body);
    }
    let tag = format!("\"{:032x}\"", xxh3_128(&body));
    let is_known = head.header("if-none-match").is_some_and(|known| has_tag(known, &tag));
    let next = match endpoint.answer {
        Answer::Json if endpoint.is_paged() => rest::next_page_token(&body),
        _ => None,
    };
    let mut response = if is_known {
        Response::new(304)
    } else if endpoint.answer == Answer::Bytes {
        // What a file is said to be comes from whoever made it.
        Response::new(200).with_body(BYTES_TYPE, body).with_field("x-content-type-options", "nosniff")
    } else {
        Response::new(200).with_body("application/json", body)
    };
    response = response.with_field("etag", tag).with_field("cache-control", "private, no-cache");
    match next {
        Some(next) => response.with_field("link", next_link(head, &next)),
        None => response,
    }
}

/// Whether a tag is in the list of `If-None-Match`, compared weakly (RFC 9110 section 13.1.2).
fn has_tag(known: &str, tag: &str) -> bool {
    known.split(',').map(|one| one.trim().trim_start_matches("W/")).any(|one| one == "*" || one == tag)
}

/// The same request for the next page (RFC 8288).
fn next_link(head: &RequestHead, token: &str) -> String {
    let kept = head.query().unwrap_or_default().split('&');
    let kept = kept.filter(|pair| !pair.is_empty() && !pair.starts_with("page_token="));
    let mut query: Vec<String> = kept.map(str::to_owned).collect();
    query.push(ApiCall::query_pair("page_token", token));
    format!("<{}?{}>; rel=\"next\"", head.path(), query.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str) -> &'static Endpoint {
        rest::ENDPOINTS.iter().find(|endpoint| endpoint.name == name).unwrap()
    }

    #[test]
    fn places_are_bounded_by_user_and_in_all_and_come_back() {
        let calls = Rc::new(Calls::new(3, 2));
        let user = |number| UserId::from_bytes([number; 16]);
        let (_first, second) = (calls.begin(user(1)).unwrap(), calls.begin(user(1)).unwrap());
        assert!(calls.begin(user(1)).is_err());
        let third = calls.begin(user(2)).unwrap();
        assert!(calls.begin(user(3)).is_err());
        drop((second, third));
        assert!(calls.begin(user(1)).is_ok());
        assert_eq!(calls.by_user.borrow().len(), 1);
    }

    #[test]
    fn every_path_names_the_methods_it_takes() {
        for endpoint in rest::ENDPOINTS {
            let path = endpoint.path.replace("{id}", "x").replace("{permission}", "y");
            let method = format!("{:?}", endpoint.method).to_uppercase();
            assert!(
                allow(&path).split(", ").any(|allowed| allowed == method),
                "{method} {path}: {}",
                allow(&path)
            );
        }
    }

    #[test]
    fn what_has_not_changed_is_not_sent_again() {
        let list = endpoint("gmail.labels.list");
        let body = Bytes::from_static(b"{\"labels\":[]}");
        let first = answer(list, &RequestHead::build("GET", "/api/v1/gmail/labels", "h"), body.clone());
        let tag = first.header("etag").unwrap().to_owned();
        assert_eq!(first.status, 200);
        for (known, status) in
            [(tag.clone(), 304), (format!("\"x\", W/{tag}"), 304), ("\"x\"".to_owned(), 200)]
        {
            let head = RequestHead::build("GET", "/api/v1/gmail/labels", "h").with("if-none-match", &known);
            let again = answer(list, &head, body.clone());
            assert_eq!((again.status, again.body.is_empty()), (status, status == 304), "{known}");
        }
    }

    #[test]
    fn the_next_page_has_a_link_that_keeps_the_rest_of_the_query() {
        let head =
            RequestHead::build("GET", "/api/v1/gmail/messages?q=a%20b&page_token=old&max_results=2", "h");
        let body = Bytes::from_static(b"{\"messages\":[],\"nextPageToken\":\"n w\"}");
        let link = answer(endpoint("gmail.messages.list"), &head, body);
        let wanted = "</api/v1/gmail/messages?q=a%20b&max_results=2&page_token=n%20w>; rel=\"next\"";
        assert_eq!(link.header("link"), Some(wanted));
    }

    #[test]
    fn a_file_is_never_what_a_browser_would_run() {
        let head = RequestHead::build("GET", "/api/v1/drive/files/x/content", "h");
        let file = answer(endpoint("drive.files.content"), &head, Bytes::from_static(b"<script>"));
        assert_eq!(file.header("content-type"), Some(BYTES_TYPE));
        assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
    }
}

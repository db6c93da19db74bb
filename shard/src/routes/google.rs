//! `/api/v1/gmail/...`, `/api/v1/calendar/...`, `/api/v1/drive/...`: mail, calendar and files as they are, without a
//! command.
//!
//! Invariants:
//! - What changes something goes by [`super::write`], what only reads stays here.
//! - At most so many calls are under way on a core, and of one user ([`Calls`]); beyond that they are refused. Content
//!   in pieces counts until its end, and has a bound of its own, so that it leaves places to other calls.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use hashbrown::HashMap;
use sluice_net::Request;
use sluice_protocols::api::Timing;
use sluice_protocols::google::resource::Tag;
use sluice_protocols::google::rest::{self, Answer, Effect, Endpoint};
use sluice_protocols::google::{ApiCall, UpstreamFault};
use sluice_protocols::http::{Method, RequestHead, Response};
use sluice_protocols::ids::UserId;
use sluice_protocols::problem::{Problem, ProblemKind};
use xxhash_rust::xxh3::xxh3_128;

use super::cache;
use super::exchange::server_timing;
use super::once::{Begun, Once};
use super::write::{Writing, checked_body};
use crate::auth::Principal;
use crate::service::Core;
use crate::upstream::meter::Meter;
use crate::upstream::{CallError, Content, Google, UploadSessions};

/// The media types that content is passed on as; what else a file says it is, a browser must not act on.
pub(super) const BYTES_TYPE: &str = "application/octet-stream";
/// The longest tag of Google's that is passed on.
const TAG_BYTES_MAX: usize = 256;

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
    let mut google = Google::new(&core.env, &meter, who.shard, who.user, deadline);
    if let Some(id) = rest::account_of(request.head.query())? {
        google = google.of_account(core.connections.slot_of(who, id).await?, id);
    }
    let captures = endpoint.captures(request.head.path()).unwrap_or_default();
    let told = |error: &CallError| match error.fault() {
        Some(UpstreamFault::Gone) if endpoint.takes_sync_token() => Problem::new(
            ProblemKind::SyncExpired,
            "Google does not know any more what has changed since; list everything anew without the token",
        ),
        _ => problem_of(error, deadline),
    };
    let response = if endpoint.effect == Effect::Read {
        let (content_type, body) = checked_body(endpoint, &request)?;
        let call = endpoint.call(&captures, request.head.query(), content_type, body)?;
        if cache::asks_anew(&request.head) {
            core.env.reads.invalidate(who.user, &[Tag::whole(call.service)]);
        }
        if endpoint.answer == Answer::Bytes {
            let range = request.head.header("range");
            let content = google.content(&call, range).await.map_err(|error| told(&error))?;
            return download(core, endpoint, &request.head, content, place, &meter.timing(began));
        }
        answer(endpoint, &head, google.bytes(&call).await.map_err(|error| told(&error))?)
    } else {
        let once = match Once::begin(core, who, endpoint, &request).await? {
            Begun::Known(response) => return Ok(response.into()),
            Begun::Go(once) => once,
        };
        let writing = Writing { core, google: &google, endpoint, captures, once: &once };
        let done = writing.run(request).await.map(|body| answer(endpoint, &head, body));
        drop(writing);
        once.end(done).await?
    };
    let timing = meter.timing(began);
    drop(place);
    Ok(response.with_field("server-timing", server_timing(&timing)).into())
}

/// Answers with content, and keeps the places it takes until its last piece was handed on.
fn download(
    core: &Core,
    endpoint: &Endpoint,
    head: &RequestHead,
    content: Content,
    place: Call,
    timing: &Timing,
) -> Result<sluice_net::Answer, Problem> {
    let timing = server_timing(timing);
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
    /// Those that may go on.
    pub(crate) sessions: UploadSessions,
}

/// The place of one.
pub(crate) struct Transfer(Rc<Cell<usize>>);

impl Drop for Transfer {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Transfers {
    pub(crate) fn new(max: usize) -> Self {
        Self { open: Rc::default(), max, sessions: UploadSessions::default() }
    }

    pub(super) fn begin(&self) -> Result<Transfer, Problem> {
        if self.open.get() >= self.max {
            let problem = Problem::new(ProblemKind::Overloaded, "too many files are on their way");
            return Err(problem.with_retry_after_s(1));
        }
        self.open.set(self.open.get() + 1);
        Ok(Transfer(Rc::clone(&self.open)))
    }
}

/// What the caller is told. What is wrong with the request itself is theirs to mend, so it is no fault of Google's.
pub(super) fn problem_of(error: &CallError, deadline: Instant) -> Problem {
    let problem = error.to_problem(deadline);
    let kind = match error.fault() {
        Some(UpstreamFault::NotFound | UpstreamFault::Gone) => ProblemKind::NotFound,
        Some(UpstreamFault::Invalid) => ProblemKind::BadRequest,
        Some(UpstreamFault::Forbidden) => ProblemKind::Forbidden,
        Some(UpstreamFault::Conflict) => ProblemKind::Conflict,
        _ => return problem,
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
    let tag = tag_of(endpoint, &body);
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

/// The tag of what is answered: of an event Google's own, by which a change can be bound to it, where it is told.
fn tag_of(endpoint: &Endpoint, body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Tagged {
        etag: String,
    }
    let is_event = endpoint.name == "calendar.events.get";
    let own = is_event.then(|| serde_json::from_slice::<Tagged>(body).ok()).flatten();
    match own {
        Some(Tagged { etag }) if is_strong_tag(&etag) => etag,
        _ => format!("\"{:032x}\"", xxh3_128(body)),
    }
}

/// Whether it is one strong entity tag (RFC 9110 section 8.8.3) that a header can hold.
fn is_strong_tag(text: &str) -> bool {
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.is_some_and(|inner| {
        inner.len() <= TAG_BYTES_MAX && inner.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x7e))
    })
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
    fn the_tag_of_an_event_is_googles_where_it_is_told_and_one() {
        let event = endpoint("calendar.events.get");
        let tag = |endpoint, body: &str| tag_of(endpoint, body.as_bytes());
        assert_eq!(tag(event, r#"{"id": "e", "etag": "\"3181\""}"#), "\"3181\"");
        for other in
            [r#"{"id": "e"}"#, r#"{"etag": "x"}"#, r#"{"etag": "W/\"x\""}"#, r#"{"etag": "\"a b\""}"#]
        {
            assert_eq!(tag(event, other).len(), 34, "{other}");
        }
        assert_eq!(tag(endpoint("calendar.events.list"), r#"{"etag": "\"3181\""}"#).len(), 34);
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

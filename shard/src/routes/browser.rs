//! `/api/v1/browser-sessions` and `/sign-in`: sessions of browsers, begun with a bearer credential, and the page for people.

use std::collections::BTreeMap;

use sluice_net::Request;
use sluice_protocols::access::{Access, Scope, Scopes};
use sluice_protocols::api::{
    BROWSER_SESSIONS_PER_USER_MAX, BrowserSessionListView, BrowserSessionView, CurrentSessionView,
    NewBrowserSession, browser_session_path,
};
use sluice_protocols::http::{Method, RequestHead, Response, form_fields};
use sluice_protocols::ids::{BrowserSessionId, KeyId, UserId};
use sluice_protocols::openapi::page;
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::record::BrowserSessionRecord;
use sluice_store::{Key, KeyRange, Kind};

use super::{docs, not_found, read_problem, users};
use crate::admin::browser::SignIn;
use crate::audit::Author;
use crate::auth::browser::{Opened, is_from_here, set_cookie, unset_cookie};
use crate::auth::{Credential, Principal};
use crate::clock::timestamp_of;
use crate::service::Core;

/// Where sessions stand.
pub(crate) const ROOT: &str = "/api/v1/browser-sessions";
/// The page with the form.
pub(crate) const SIGN_IN: &str = "/sign-in";
/// Where the form leads when it was right.
const AFTER_SIGN_IN: &str = "/docs";
const FORM: &str = "application/x-www-form-urlencoded";
/// Longest body of the form: a token has 8 KiB at most.
pub(crate) const FORM_BYTES_MAX: usize = 12 << 10;

/// A path of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    All,
    /// The one of the cookie.
    Current,
    /// With the id as it was sent.
    One(&'a str),
    SignIn,
}

/// What a request asks for, its id as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask<'a> {
    Page,
    /// The form of the page.
    Form,
    Begin,
    List,
    Current,
    EndCurrent,
    Get(&'a str),
    End(&'a str),
}

/// What is asked for in a user's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Form,
    Begin,
    List,
    Current,
    EndCurrent,
    Get(BrowserSessionId),
    End(BrowserSessionId),
}

impl<'a> Place<'a> {
    /// The place of a path, if it is one.
    pub(crate) fn of(path: &'a str) -> Option<Self> {
        if path == SIGN_IN {
            return Some(Self::SignIn);
        }
        match path.strip_prefix(ROOT)? {
            "" => Some(Self::All),
            "/current" => Some(Self::Current),
            below => below.strip_prefix('/').filter(|id| !id.is_empty() && !id.contains('/')).map(Self::One),
        }
    }

    /// The methods it takes.
    pub(crate) const fn allow(self) -> &'static str {
        match self {
            Self::All | Self::SignIn => "GET, HEAD, POST, OPTIONS",
            Self::Current | Self::One(_) => "GET, HEAD, DELETE, OPTIONS",
        }
    }

    /// What is asked for, if it takes the method.
    pub(crate) fn ask(self, method: Method) -> Option<Ask<'a>> {
        match (self, method) {
            (Self::All, Method::Get | Method::Head) => Some(Ask::List),
            (Self::All, Method::Post) => Some(Ask::Begin),
            (Self::Current, Method::Get | Method::Head) => Some(Ask::Current),
            (Self::Current, Method::Delete) => Some(Ask::EndCurrent),
            (Self::One(id), Method::Get | Method::Head) => Some(Ask::Get(id)),
            (Self::One(id), Method::Delete) => Some(Ask::End(id)),
            (Self::SignIn, Method::Get | Method::Head) => Some(Ask::Page),
            (Self::SignIn, Method::Post) => Some(Ask::Form),
            _ => None,
        }
    }
}

impl Ask<'_> {
    /// Who may do it. Whoever may read who they are may begin a session, which gives them nothing new, and end the one they are in.
    pub(crate) const fn access(self) -> Access {
        match self {
            // The credential is in the form.
            Self::Page | Self::Form => Access::Public,
            Self::Begin | Self::List | Self::Current | Self::EndCurrent | Self::Get(_) => {
                Access::Own(Scope::AccountRead)
            }
            Self::End(_) => Access::Own(Scope::Account),
        }
    }

    /// The same with its id read; `None` for the page, and when the id is none.
    pub(crate) fn wish(self) -> Option<Wish> {
        Some(match self {
            Self::Page => return None,
            Self::Form => Wish::Form,
            Self::Begin => Wish::Begin,
            Self::List => Wish::List,
            Self::Current => Wish::Current,
            Self::EndCurrent => Wish::EndCurrent,
            Self::Get(id) => Wish::Get(id.parse().ok()?),
            Self::End(id) => Wish::End(id.parse().ok()?),
        })
    }
}

/// The page with the form, and above it what went wrong with the last one.
pub(crate) fn sign_in_page(status: u16, message: Option<&str>) -> Response {
    let body = page::sign_in(message);
    docs::fenced(Response::new(status).with_body("text/html; charset=utf-8", body.into()), None, "'self'")
        .with_field("cache-control", "no-store")
}

/// A form as a request with the credential that is in it; the form stays its body.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn signed(mut request: Request) -> Result<Request, Problem> {
    let key = match form_of(&request)?.remove("key") {
        Some(key) if !key.trim().is_empty() => key.trim().to_owned(),
        _ => {
            let problem = Problem::new(ProblemKind::InvalidField, "one field is not valid");
            return Err(problem.with_error("/key", "give an API key"));
        }
    };
    // Nobody is to be signed in as somebody else by another site's page.
    if !is_from_here(&request.head) {
        let detail = "sign in by the page of this gateway";
        return Err(Problem::new(ProblemKind::CrossSite, detail));
    }
    let head = RequestHead::try_build("POST", SIGN_IN, request.head.authority().unwrap_or("localhost"));
    // All that counts of it, also on the core that owns the user.
    let head = head.and_then(|head| head.try_with("content-type", FORM));
    let head = head.and_then(|head| head.try_with("sec-fetch-site", "same-origin"));
    let head = head.and_then(|head| match request.head.header("x-request-id") {
        Some(id) => head.try_with("x-request-id", id),
        None => Ok(head),
    });
    let head = head.and_then(|head| head.try_with("authorization", &format!("Bearer {key}")));
    request.head = head.map_err(|_| Problem::new(ProblemKind::Unauthorized, "this is no API key"))?;
    Ok(request)
}

/// The fields of a form.
fn form_of(request: &Request) -> Result<BTreeMap<String, String>, Problem> {
    let media_type = request.head.header("content-type").and_then(|value| value.split(';').next());
    if !media_type.unwrap_or_default().trim().eq_ignore_ascii_case(FORM) {
        let detail = "the body is a form: send content-type: application/x-www-form-urlencoded";
        return Err(Problem::new(ProblemKind::UnsupportedMediaType, detail));
    }
    form_fields(&request.body)
        .ok_or_else(|| Problem::new(ProblemKind::InvalidField, "the form is not well encoded"))
}

/// Answers what is asked in a user's name.
pub(crate) async fn serve(
    core: &Core,
    who: &Principal,
    author: Author,
    wish: Wish,
    request: &Request,
) -> Result<Response, Problem> {
    match wish {
        Wish::Form => {
            // The rule of the form is nobody's: its credential is held to that of the route beside it.
            if let Err(forbidden) = Ask::Begin.access().check(who.role, who.scopes) {
                return Err(Problem::new(ProblemKind::Forbidden, forbidden.to_string()));
            }
            let may_change = form_of(request)?.contains_key("changes");
            let scopes = if may_change { who.scopes } else { who.scopes.reading() };
            let wanted = NewBrowserSession { scopes: Some(scopes), expires: None };
            let (_, cookie) = begin(core, who, author, wanted).await?;
            let response = Response::new(303).with_field("location", AFTER_SIGN_IN);
            Ok(response.with_field("set-cookie", cookie).with_field("cache-control", "no-store"))
        }
        Wish::Begin => {
            let (session, cookie) =
                begin(core, who, author, NewBrowserSession::parse(&request.body)?).await?;
            let response = Response::new(201).json(&view(&session));
            let response = response.with_field("location", browser_session_path(session.id));
            Ok(response.with_field("set-cookie", cookie).with_field("cache-control", "no-store"))
        }
        Wish::List => list(core, who).await,
        Wish::Current => {
            let session = get(core, who, current(who)?).await?;
            let user = users::view_of(core, who.user).await?;
            Ok(Response::new(200).json(&CurrentSessionView { session, user }))
        }
        Wish::EndCurrent => {
            let id = current(who)?;
            end(core, who.user, author, id).await.map(|done| done.with_field("set-cookie", unset_cookie()))
        }
        Wish::Get(id) => Ok(Response::new(200).json(&get(core, who, id).await?)),
        Wish::End(id) => end(core, who.user, author, id).await,
    }
}

/// Begins a session; gives its record and the field that sets its cookie.
async fn begin(
    core: &Core,
    who: &Principal,
    author: Author,
    wanted: NewBrowserSession,
) -> Result<(BrowserSessionRecord, String), Problem> {
    let (key, signer) = match who.credential {
        Credential::Key(key) => (Some(key), None),
        Credential::Token(_, signer) => (None, Some(signer)),
        // It would never end.
        Credential::Browser(_) => {
            let detail = "a session is begun with an API key or a token, not with another session";
            return Err(Problem::new(ProblemKind::Forbidden, detail));
        }
    };
    let sign_in = SignIn {
        key,
        signer,
        role: who.role,
        scopes_max: who.scopes,
        ends_ms: who.expires_ms,
        scopes: wanted.scopes,
        expires_ms: wanted.expires.map(|at| u64::try_from(at.as_millisecond()).unwrap_or(0)),
    };
    let user = who.user;
    let session = core.clerk.ask(author, move |admin| admin.begin_browser_session(&user, &sign_in)).await?;
    let cookie = core.browsers.make(&Opened { user, session: session.id, expires_ms: session.expires_ms });
    let life_ms = session.expires_ms.saturating_sub(core.clock.unix_ms());
    Ok((session, set_cookie(&cookie, std::time::Duration::from_millis(life_ms))))
}

async fn end(core: &Core, user: UserId, author: Author, id: BrowserSessionId) -> Result<Response, Problem> {
    core.clerk.ask(author, move |admin| admin.end_browser_session(&user, &id)).await?;
    Ok(Response::new(204))
}

/// The session a request was made in.
fn current(who: &Principal) -> Result<BrowserSessionId, Problem> {
    match who.credential {
        Credential::Browser(session) => Ok(session),
        Credential::Key(_) | Credential::Token(..) => {
            Err(Problem::new(ProblemKind::NotFound, "the request was made in no session of a browser"))
        }
    }
}

async fn get(core: &Core, who: &Principal, id: BrowserSessionId) -> Result<BrowserSessionView, Problem> {
    let key = Key::browser_session(&who.user, &id);
    let found = core.store.load::<BrowserSessionRecord>(who.shard, &key).await;
    let found = found.map_err(|error| read_problem(&error))?.ok_or_else(|| not_found("browser's session"))?;
    Ok(view(&found.to_record()))
}

async fn list(core: &Core, who: &Principal) -> Result<Response, Problem> {
    let range = KeyRange::of_user(Kind::BrowserSession, &who.user);
    let page = core.store.scan(who.shard, range, 2 * BROWSER_SESSIONS_PER_USER_MAX, false).await;
    let page = page.map_err(|error| read_problem(&error))?;
    // A damaged one is passed over; its bytes are kept in quarantine.
    let read = |(key, value)| core.store.validate::<BrowserSessionRecord>(who.shard, &key, value).ok();
    let mut sessions: Vec<BrowserSessionRecord> =
        page.rows.into_iter().filter_map(read).map(|loaded| loaded.to_record()).collect();
    sessions.sort_by_key(|session| std::cmp::Reverse((session.created_ms, session.id)));
    let sessions = sessions.iter().map(view).collect();
    Ok(Response::new(200).json(&BrowserSessionListView { sessions }))
}

fn view(session: &BrowserSessionRecord) -> BrowserSessionView {
    BrowserSessionView {
        id: session.id,
        key: session.key.map(KeyId::from_bytes),
        scopes: Scopes::from_bits(session.scopes).names().map(str::to_owned).collect(),
        created: timestamp_of(session.created_ms),
        expires: timestamp_of(session.expires_ms),
        ended: Some(session.ended_ms).filter(|at| *at > 0).map(timestamp_of),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(body: &'static str, fields: &[(&str, &str)]) -> Request {
        let head = RequestHead::build("POST", SIGN_IN, "example.com")
            .with("content-type", "application/x-www-form-urlencoded");
        Request {
            head: fields.iter().fold(head, |head, (name, value)| head.with(name, value)),
            body: body.into(),
            stream: None,
            peer: "192.0.2.1:5".parse().unwrap(),
            early_data: false,
        }
    }

    #[test]
    fn a_form_is_a_request_with_the_key_in_it() {
        let ours = [("sec-fetch-site", "same-origin"), ("x-request-id", "r1"), ("cookie", "a=b")];
        let request = signed(form("key=+sk_x%5Fy+&changes=1", &ours)).unwrap();
        // Another core does the same with what this one passes on.
        let request = signed(request).unwrap();
        assert_eq!(request.head.header("authorization"), Some("Bearer sk_x_y"));
        assert_eq!(request.head.header("x-request-id"), Some("r1"));
        assert_eq!(request.head.header("cookie"), None);
        let kind = |request| signed(request).unwrap_err().kind();
        assert_eq!(kind(form("key=", &ours)), ProblemKind::InvalidField);
        assert_eq!(kind(form("", &ours)), ProblemKind::InvalidField);
        assert_eq!(kind(form("key=a%0Ab", &ours)), ProblemKind::InvalidField);
        assert_eq!(kind(form("key=sk_x", &[])), ProblemKind::CrossSite);
        assert_eq!(kind(form("key=sk_x", &[("sec-fetch-site", "cross-site")])), ProblemKind::CrossSite);
        let mut json = form("{}", &ours);
        json.head =
            RequestHead::build("POST", SIGN_IN, "example.com").with("content-type", "application/json");
        assert_eq!(kind(json), ProblemKind::UnsupportedMediaType);
    }
}

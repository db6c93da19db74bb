//! Google's side: who asks, what a request must look like, and the services behind it.
//!
//! Every request to a method of a discovery document passes the same gate here: token, scope, parameters, upload,
//! body, field mask. What a service returns passes the mask on its way out.
//! Unknown parameters and fields are refused for all services, also where Google would pass over them: a witness
//! that is too strict finds more.

mod batch;
mod calendar;
mod delegation;
mod drive;
mod drive_query;
mod gmail;
mod oauth;
mod search;
mod upload;

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};

use super::plan::Plan;
use super::serve::State;
use super::spec::{Misfit, Route};
use super::wire::{Call, Mask, Reply, Service, google_error, google_error_at, invalid_fields};
use super::world::User;

pub(crate) use batch::{parts as batch_parts, reply as batch_reply};
pub(crate) use delegation::ServiceAccount;
pub(crate) use oauth::Grants;
pub(crate) use upload::Uploads;

/// Who a request comes from.
#[derive(Debug)]
pub(crate) enum Identity {
    /// The service does not know users.
    Nobody,
    /// A name said, not proven (a refresh token).
    Said(String),
    /// A valid access token.
    Known { user: Arc<User>, scopes: String },
    /// No access token, or one that is not valid.
    Refused(&'static str),
}

impl Identity {
    /// The user's name, as faults match it.
    pub(crate) fn user(&self) -> Option<&str> {
        match self {
            Self::Said(name) => Some(name),
            Self::Known { user, .. } => Some(&user.name),
            Self::Nobody | Self::Refused(_) => None,
        }
    }
}

/// `Err` is an answer too: a refusal.
type Outcome = Result<Answer, Reply>;

/// What a method returns.
enum Answer {
    /// A resource, still to pass the field mask.
    Json(Value),
    /// Bytes, or a status with headers.
    Raw(Reply),
}

impl From<Value> for Answer {
    fn from(value: Value) -> Self {
        Self::Json(value)
    }
}

/// Nothing to say: 204.
fn done() -> Outcome {
    Ok(Answer::Raw(Reply::empty(204)))
}

/// Content that came with a request.
struct Media {
    content_type: String,
    bytes: bytes::Bytes,
}

/// A request that passed the gate.
struct Request<'a> {
    state: &'a State,
    user: &'a User,
    route: &'a Route,
    call: &'a Call,
    /// The resource sent; an empty object when there was none.
    body: Value,
    media: Option<Media>,
}

impl Request<'_> {
    fn param(&self, name: &str) -> Option<&str> {
        self.call.query.get(name)
    }

    fn flag(&self, name: &str) -> bool {
        self.call.query.flag(name)
    }

    /// The method without its service: `messages.list`.
    fn method(&self) -> &'static str {
        self.route.method.name.split_once('.').map_or("", |(_, method)| method)
    }
}

/// The name a request is counted under.
pub(crate) fn operation(service: Service, route: Option<&Route>, call: &Call) -> &'static str {
    match route {
        Some(route) if route.method.name == "drive.files.get" && call.query.get("alt") == Some("media") => {
            "drive.files.download"
        }
        Some(route) => &route.method.name,
        None if upload::is_chunk(call) => "upload.chunk",
        None if service == Service::OAuth => oauth::operation(call),
        None => "unknown",
    }
}

/// Finds out who asks.
pub(crate) fn identify(state: &State, service: Service, call: &Call) -> Identity {
    let bearer = call.bearer.as_deref().or_else(|| call.query.get("access_token"));
    match service {
        Service::OpenAi => Identity::Nobody,
        Service::OAuth if !call.path.contains("/userinfo") => oauth::said(state, call),
        Service::OAuth | Service::Gmail | Service::Calendar | Service::Drive => match bearer {
            None => Identity::Refused("required"),
            Some(token) => match oauth::read_access(state, token) {
                Some((name, scopes)) => Identity::Known { user: state.world.user(&name), scopes },
                None => Identity::Refused("authError"),
            },
        },
    }
}

/// Answers a request to the token endpoint or to one of the services, and names
/// the endpoint.
pub(crate) fn serve(
    state: &State,
    plan: &Plan,
    identity: &Identity,
    operation: &'static str,
    route: Option<Route>,
    call: &Call,
) -> (&'static str, Reply) {
    let (user, scopes) = match identity {
        Identity::Known { user, scopes } => (user, scopes),
        Identity::Refused(reason) => return ("google.unauthorized", unauthorized(reason)),
        Identity::Nobody | Identity::Said(_) => return (operation, oauth::serve(state, plan, call)),
    };
    let outcome = match route {
        Some(route) => gate(state, user, scopes, &route, call),
        None if upload::is_chunk(call) => upload::chunk(state, user, call, finish),
        None => Err(unknown_path(&call.path)),
    };
    let reply = match outcome {
        Ok(Answer::Raw(reply)) | Err(reply) => reply,
        Ok(Answer::Json(value)) => Reply::json(200, &value),
    };
    (operation, reply)
}

/// The checks that all methods share, then the method.
fn gate(state: &State, user: &Arc<User>, scopes: &str, route: &Route, call: &Call) -> Outcome {
    let method = route.method;
    if !method.is_granted(scopes.split(' ')) {
        return Err(scope_missing(&method.scopes()));
    }
    method.check_query(&call.query).map_err(refusal)?;
    if route.upload && call.query.get("uploadType") == Some("resumable") {
        let body = object(&call.body)?;
        method.check_body(&body).map_err(refusal)?;
        return upload::begin(state, user, route, call, body);
    }
    let (body, media) = if route.upload {
        upload::take_apart(call)?
    } else if method.takes_body() {
        (object(&call.body)?, None)
    } else {
        (json!({}), None)
    };
    method.check_body(&body).map_err(refusal)?;
    finish(&Request { state, user, route, call, body, media })
}

/// Carries a checked request out, and masks what comes of it.
fn finish(request: &Request<'_>) -> Outcome {
    let mask = mask_of(request)?;
    let answer = match request.route.method.service {
        Service::Gmail => gmail::serve(request),
        Service::Calendar => calendar::serve(request),
        Service::Drive => drive::serve(request),
        Service::OAuth | Service::OpenAi => Ok(oauth::userinfo(request).into()),
    }?;
    if request.route.method.changes() {
        request.user.count_change(&request.route.method.name);
    }
    let Answer::Json(value) = answer else { return Ok(answer) };
    if request.state.config.check_answers
        && let Err(misfit) = request.route.method.check_answer(&value)
    {
        request.state.counts.answer_unfit(format!("{}: {}", request.route.method.name, misfit.message));
    }
    Ok(Answer::Json(mask.apply(value)))
}

/// The field mask asked for, or the one Drive has when none is.
fn mask_of(request: &Request<'_>) -> Result<Mask, Reply> {
    let text = match request.param("fields").filter(|text| !text.is_empty()) {
        Some(text) => text,
        None => match drive::usual_fields(&request.route.method.name) {
            Some(text) => text,
            None => return Ok(Mask::default()),
        },
    };
    let mask = Mask::parse(text).ok_or_else(|| invalid_fields(text))?;
    match request.route.method.unknown_field(&mask) {
        Some(name) => Err(invalid_fields(&name)),
        None => Ok(mask),
    }
}

/// The answer to a path no service has.
pub(crate) fn unknown_path(path: &str) -> Reply {
    google_error(404, "notFound", &format!("The requested URL {path} was not found on this server."))
}

fn refusal(misfit: Misfit) -> Reply {
    let reason = if misfit.missing { "required" } else { "invalidParameter" };
    google_error_at(400, reason, &misfit.message, Some(&misfit.place))
}

/// The body as a JSON object; nothing at all is an empty one.
fn object(body: &[u8]) -> Result<Value, Reply> {
    if body.is_empty() {
        return Ok(json!({}));
    }
    match serde_json::from_slice::<Value>(body) {
        Ok(value) if value.is_object() => Ok(value),
        _ => Err(google_error(400, "parseError", "Invalid JSON payload received. Parse Error")),
    }
}

fn unauthorized(reason: &str) -> Reply {
    let message = if reason == "required" {
        "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or \
         other valid authentication credential."
    } else {
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other \
         valid authentication credential."
    };
    google_error(401, reason, message)
        .with("www-authenticate", "Bearer realm=\"https://accounts.google.com/\", error=\"invalid_token\"")
}

fn scope_missing(scopes: &str) -> Reply {
    let realm = "Bearer realm=\"https://accounts.google.com/\"";
    google_error(403, "insufficientPermissions", "Request had insufficient authentication scopes.")
        .with("www-authenticate", format!("{realm}, error=\"insufficient_scope\", scope=\"{scopes}\""))
}

/// A random-looking id of lower-case letters and digits.
fn fresh_id(state: &State) -> String {
    format!("{:013x}{:013x}", state.luck.next() >> 12, state.luck.next() >> 12)
}

fn is_get(call: &Call) -> bool {
    call.method == Method::GET
}

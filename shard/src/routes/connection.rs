//! `/api/v1/connections/...`: accounts that users have connected; and `/oauth/google/...`, where people's browsers come by.

use std::rc::Rc;

use sluice_net::Request;
use sluice_protocols::api::{ConnectRequest, ConnectionEdit, ConnectionListView, RevocationView};
use sluice_protocols::google::consent::Callback;
use sluice_protocols::http::{Method, RequestHead, Response};
use sluice_protocols::ids::{ConnectionId, UserId};
use sluice_protocols::problem::Problem;

use super::not_found;
use crate::audit::Author;
use crate::auth::Principal;
use crate::connections::{CALLBACK_PATH, Links, START_PATH, Step};
use crate::service::Core;

/// Where the accounts stand.
pub(crate) const ROOT: &str = "/api/v1/connections";
/// Where browsers come by.
pub(crate) const PAGES: &str = "/oauth/google/";

/// What body a request about connections has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionBody {
    None,
    Json,
    /// A merge patch.
    Patch,
}

/// A path under [`ROOT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    All,
    Google,
    /// With the id as it was sent.
    One(&'a str),
}

impl<'a> Place<'a> {
    /// The place of a path, if it is one.
    pub(crate) fn of(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix(ROOT)?;
        if rest.is_empty() {
            return Some(Self::All);
        }
        match rest.strip_prefix('/')? {
            "google" => Some(Self::Google),
            id if !id.is_empty() && !id.contains('/') => Some(Self::One(id)),
            _ => None,
        }
    }

    /// The methods it takes.
    pub(crate) const fn allow(self) -> &'static str {
        match self {
            Self::All => "GET, HEAD, OPTIONS",
            Self::Google => "POST, OPTIONS",
            Self::One(_) => "GET, HEAD, PATCH, DELETE, OPTIONS",
        }
    }

    /// Which body comes with a method that it takes.
    pub(crate) const fn body(self, method: Method) -> ConnectionBody {
        match (self, method) {
            (Self::Google, _) => ConnectionBody::Json,
            (Self::One(_), Method::Patch) => ConnectionBody::Patch,
            _ => ConnectionBody::None,
        }
    }

    /// Whether it takes this method.
    pub(crate) const fn takes(self, method: Method) -> bool {
        match self {
            Self::All => matches!(method, Method::Get | Method::Head),
            Self::Google => matches!(method, Method::Post),
            Self::One(_) => matches!(method, Method::Get | Method::Head | Method::Patch | Method::Delete),
        }
    }
}

/// A page under [`PAGES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page<'a> {
    /// With the ticket as it was sent.
    Start(&'a str),
    Callback,
}

impl<'a> Page<'a> {
    /// The page of a path, if it is one.
    pub(crate) fn of(path: &'a str) -> Option<Self> {
        if path == CALLBACK_PATH {
            return Some(Self::Callback);
        }
        let ticket = path.strip_prefix(START_PATH)?;
        (!ticket.is_empty() && !ticket.contains('/')).then_some(Self::Start(ticket))
    }

    /// The methods it takes.
    pub(crate) const fn allow(self) -> &'static str {
        match self {
            Self::Start(_) => "GET, HEAD, POST, OPTIONS",
            Self::Callback => "GET, HEAD, OPTIONS",
        }
    }

    /// What a browser asks for by a method; `HEAD` looks, and ends nothing.
    pub(crate) const fn visit(self, method: Method) -> Option<Visit<'a>> {
        match (self, method) {
            (Self::Start(ticket), Method::Get | Method::Head) => Some(Visit::Look(ticket)),
            (Self::Start(ticket), Method::Post) => Some(Visit::Go(ticket)),
            (Self::Callback, Method::Get) => Some(Visit::Back),
            (Self::Callback, Method::Head) => Some(Visit::Peek),
            _ => None,
        }
    }
}

/// What a browser asks for, unchecked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visit<'a> {
    Look(&'a str),
    Go(&'a str),
    Back,
    /// Something looks whether there is a page.
    Peek,
}

impl Visit<'_> {
    /// Whether it may come twice although its method is safe. Google's answer uses up what was asked, and stores what
    /// the account is used with.
    pub(crate) const fn is_repeatable(self) -> bool {
        !matches!(self, Self::Back)
    }
}

/// A visit of which it is known whose it is, or what is wrong with it.
pub(crate) enum Checked {
    Of(UserId, Step),
    Wrong(&'static str),
}

/// Whose visit it is.
pub(crate) fn check(links: &Links, visit: Visit<'_>, head: &RequestHead) -> Checked {
    let started = |ticket: &str| links.ticket(ticket).map(Box::new);
    let forged = "This link is not complete, or was not made here.";
    match visit {
        Visit::Look(ticket) => match started(ticket) {
            Ok(ticket) => Checked::Of(ticket.user, Step::Look(ticket)),
            Err(_) => Checked::Wrong(forged),
        },
        Visit::Go(ticket) => match started(ticket) {
            Ok(ticket) => Checked::Of(ticket.user, Step::Go(ticket)),
            Err(_) => Checked::Wrong(forged),
        },
        Visit::Back => {
            let callback = Callback::parse(head.query().unwrap_or_default());
            match links.user_of_state(&callback.state) {
                Some(user) => Checked::Of(user, Step::Back(Box::new(callback))),
                None => Checked::Wrong("This is no answer to anything that was asked from here."),
            }
        }
        Visit::Peek => Checked::Wrong("This is where Google sends browsers back to."),
    }
}

/// Answers a request of a user.
pub(crate) async fn serve(
    core: &Rc<Core>,
    who: &Principal,
    author: Author,
    request: &Request,
) -> Result<Response, Problem> {
    let place = Place::of(request.head.path()).ok_or_else(|| not_found("connection"))?;
    let id = |text: &str| text.parse::<ConnectionId>().map_err(|_| not_found("connection"));
    let connections = &core.connections;
    match (place, request.head.method()) {
        (Place::Google, _) => {
            let view = connections.begin(who, ConnectRequest::parse(&request.body)?).await?;
            // Whoever has the link can consent in the user's place.
            Ok(Response::new(200).json(&view).with_field("cache-control", "no-store"))
        }
        (Place::All, _) => {
            let connections = connections.list(who).await?;
            let response = Response::new(200).json(&ConnectionListView { connections });
            Ok(response.with_field("cache-control", "no-store"))
        }
        (Place::One(text), Method::Delete) => {
            let view = connections.give_up(who.shard, who.user, author, id(text)?).await?;
            let status = if view.revocation == Some(RevocationView::Pending) { 202 } else { 200 };
            Ok(Response::new(status).json(&view))
        }
        (Place::One(text), Method::Patch) => {
            ConnectionEdit::parse(&request.body)?;
            let is_busy = || core.tasks.has_any_of(&who.user);
            let view = connections.make_default(who.shard, who.user, author, id(text)?, is_busy).await?;
            Ok(Response::new(200).json(&view))
        }
        (Place::One(text), _) => {
            let view = connections.get(who.shard, &who.user, id(text)?).await?;
            Ok(Response::new(200).json(&view).with_field("cache-control", "no-store"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_their_places_and_nothing_else_does() {
        assert_eq!(Place::of("/api/v1/connections"), Some(Place::All));
        assert_eq!(Place::of("/api/v1/connections/google"), Some(Place::Google));
        assert_eq!(Place::of("/api/v1/connections/con_1"), Some(Place::One("con_1")));
        for path in ["/api/v1/connections/", "/api/v1/connectionsx", "/api/v1/connections/a/b"] {
            assert_eq!(Place::of(path), None, "{path}");
        }
        assert_eq!(Page::of("/oauth/google/callback"), Some(Page::Callback));
        assert_eq!(Page::of("/oauth/google/start/x.y"), Some(Page::Start("x.y")));
        for path in
            ["/oauth/google/", "/oauth/google/start/", "/oauth/google/start/a/b", "/oauth/google/callback/"]
        {
            assert_eq!(Page::of(path), None, "{path}");
        }
    }
}

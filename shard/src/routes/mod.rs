//! The routes of the API: which there are, what each takes, and how it answers.

pub(crate) mod cache;
pub(crate) mod command;
pub(crate) mod events;
pub(crate) mod exchange;
pub(crate) mod google;
pub(crate) mod health;
pub(crate) mod session;
pub(crate) mod task;

use sluice_protocols::google::rest::{self, Endpoint};
use sluice_protocols::http::Method;
use sluice_protocols::ids::{SessionId, TaskId};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::ReadError;

use crate::metrics::RouteLabel;

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    Command,
    CacheInvalidate,
    /// With the id as it was sent.
    Task(&'a str),
    TaskEvents(&'a str),
    Session(&'a str),
    /// Mail, calendar and files as they are: a path of [`rest::ENDPOINTS`].
    Google(&'a str),
    Livez,
    Readyz,
    Metrics,
    OpenApi,
    /// `OPTIONS *`: the server itself.
    Server,
}

impl<'a> Route<'a> {
    /// The route of a path, if there is one.
    pub(crate) fn of(path: &'a str) -> Option<Self> {
        match path {
            "/api/v1/command" => Some(Self::Command),
            "/api/v1/cache/invalidate" => Some(Self::CacheInvalidate),
            "/livez" => Some(Self::Livez),
            "/readyz" => Some(Self::Readyz),
            "/metrics" => Some(Self::Metrics),
            "/openapi.json" => Some(Self::OpenApi),
            "*" => Some(Self::Server),
            _ => {
                let (kind, id) = path.strip_prefix("/api/v1/")?.split_once('/')?;
                let (id, part) = id.split_once('/').map_or((id, None), |(id, part)| (id, Some(part)));
                match kind {
                    "gmail" | "calendar" | "drive" => {
                        rest::at_path(path).next().is_some().then_some(Self::Google(path))
                    }
                    _ if id.is_empty() => None,
                    "tasks" if part == Some("events") => Some(Self::TaskEvents(id)),
                    _ if part.is_some() => None,
                    "tasks" => Some(Self::Task(id)),
                    "sessions" => Some(Self::Session(id)),
                    _ => None,
                }
            }
        }
    }

    /// The methods the route takes (RFC 9110 section 10.2.1).
    pub(crate) fn allow(self) -> &'static str {
        match self {
            Self::Command | Self::CacheInvalidate => "POST, OPTIONS",
            Self::Google(path) => google::allow(path),
            Self::Session(_) => "GET, HEAD, DELETE, OPTIONS",
            Self::Task(_)
            | Self::TaskEvents(_)
            | Self::Livez
            | Self::Readyz
            | Self::Metrics
            | Self::OpenApi => "GET, HEAD, OPTIONS",
            Self::Server => "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
        }
    }

    /// What the request asks for, if the route takes its method.
    pub(crate) fn action(self, method: Method) -> Option<Action<'a>> {
        let is_read = matches!(method, Method::Get | Method::Head);
        match self {
            _ if method == Method::Options => Some(Action::Options),
            Self::Command if method == Method::Post => Some(Action::Command),
            Self::CacheInvalidate if method == Method::Post => Some(Action::CacheInvalidate),
            Self::Task(id) if is_read => Some(Action::TaskGet(id)),
            Self::TaskEvents(id) if is_read => Some(Action::TaskEvents(id)),
            Self::Session(id) if is_read => Some(Action::SessionGet(id)),
            Self::Session(id) if method == Method::Delete => Some(Action::SessionDelete(id)),
            Self::Google(path) => {
                let asked = if method == Method::Head { Method::Get } else { method };
                rest::at_path(path).find(|endpoint| endpoint.method == asked).map(Action::Google)
            }
            Self::Livez if is_read => Some(Action::Livez),
            Self::Readyz if is_read => Some(Action::Readyz),
            Self::Metrics if is_read => Some(Action::Metrics),
            Self::OpenApi if is_read => Some(Action::OpenApi),
            _ => None,
        }
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action<'a> {
    Command,
    CacheInvalidate,
    TaskGet(&'a str),
    TaskEvents(&'a str),
    SessionGet(&'a str),
    SessionDelete(&'a str),
    Google(&'static Endpoint),
    Livez,
    Readyz,
    Metrics,
    OpenApi,
    Options,
}

impl Action<'_> {
    pub(crate) fn label(self) -> RouteLabel {
        match self {
            Self::Command => RouteLabel::Command,
            Self::CacheInvalidate => RouteLabel::CacheInvalidate,
            Self::TaskGet(_) => RouteLabel::TaskGet,
            Self::TaskEvents(_) => RouteLabel::TaskEvents,
            Self::SessionGet(_) => RouteLabel::SessionGet,
            Self::SessionDelete(_) => RouteLabel::SessionDelete,
            Self::Google(endpoint) => RouteLabel::of_service(endpoint.service),
            Self::Livez | Self::Readyz => RouteLabel::Health,
            Self::Metrics => RouteLabel::Metrics,
            Self::OpenApi | Self::Options => RouteLabel::Other,
        }
    }

    /// The same with its id read; `None` when the id is none, so that there is nothing under it.
    pub(crate) fn target(self) -> Option<Target> {
        Some(match self {
            Self::Command => Target::Command,
            Self::CacheInvalidate => Target::CacheInvalidate,
            Self::TaskGet(id) => Target::TaskGet(id.parse().ok()?),
            Self::TaskEvents(id) => Target::TaskEvents(id.parse().ok()?),
            Self::SessionGet(id) => Target::SessionGet(id.parse().ok()?),
            Self::SessionDelete(id) => Target::SessionDelete(id.parse().ok()?),
            Self::Google(endpoint) => Target::Google(endpoint),
            Self::Livez | Self::Readyz | Self::Metrics | Self::OpenApi | Self::Options => {
                return None;
            }
        })
    }
}

/// What is asked for in a user's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Command,
    CacheInvalidate,
    TaskGet(TaskId),
    TaskEvents(TaskId),
    SessionGet(SessionId),
    SessionDelete(SessionId),
    Google(&'static Endpoint),
}

/// Whether a `content-type` says JSON in UTF-8 (RFC 8259 section 11: there are no other parameters to heed).
pub(crate) fn is_json(content_type: Option<&str>) -> bool {
    let media_type = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

/// There is no such thing, or it is another user's: which of both is not told.
pub(crate) fn not_found(what: &str) -> Problem {
    Problem::new(ProblemKind::NotFound, format!("you have no {what} of this id"))
}

/// The store could not be read.
pub(crate) fn read_problem(error: &ReadError) -> Problem {
    if matches!(error, ReadError::Overloaded) {
        return Problem::new(ProblemKind::Overloaded, "too many reads are waiting").with_retry_after_s(1);
    }
    tracing::error!(%error, "a request failed on the store");
    Problem::new(ProblemKind::Storage, "the storage could not be read").with_retry_after_s(5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_their_routes_and_nothing_else_does() {
        assert_eq!(Route::of("/api/v1/command"), Some(Route::Command));
        assert_eq!(Route::of("/api/v1/cache/invalidate"), Some(Route::CacheInvalidate));
        assert_eq!(Route::of("/api/v1/tasks/tsk_1"), Some(Route::Task("tsk_1")));
        assert_eq!(Route::of("/api/v1/tasks/tsk_1/events"), Some(Route::TaskEvents("tsk_1")));
        assert_eq!(Route::of("/api/v1/sessions/x"), Some(Route::Session("x")));
        let message = "/api/v1/gmail/messages/x";
        assert_eq!(Route::of(message), Some(Route::Google(message)));
        for path in [
            "/",
            "",
            "/api/v1/command/",
            "/api/v1/tasks",
            "/api/v1/tasks/",
            "/api/v1/tasks/a/b",
            "/api/v1/tasks//events",
            "/api/v1/tasks/a/events/b",
            "/api/v1/sessions/a/events",
            "/api/v1/users/x",
            "/api/v1/gmail/",
            "/api/v1/gmail/messages/",
            "/api/v1/gmail/settings",
        ] {
            assert_eq!(Route::of(path), None, "{path}");
        }
    }

    #[test]
    fn each_route_takes_exactly_the_methods_it_allows() {
        use Method::{Delete, Get, Head, Options, Other, Patch, Post, Put};
        let methods = [
            (Get, "GET"),
            (Head, "HEAD"),
            (Post, "POST"),
            (Put, "PUT"),
            (Patch, "PATCH"),
            (Delete, "DELETE"),
            (Options, "OPTIONS"),
            (Other, "BREW"),
        ];
        for route in [
            Route::Command,
            Route::CacheInvalidate,
            Route::Task("x"),
            Route::TaskEvents("x"),
            Route::Session("x"),
            Route::Google("/api/v1/gmail/labels/x"),
            Route::Google("/api/v1/drive/files/x"),
            Route::Google("/api/v1/drive/files/x/content"),
            Route::Livez,
            Route::Readyz,
            Route::Metrics,
            Route::OpenApi,
        ] {
            for (method, name) in methods {
                let is_allowed = route.allow().split(", ").any(|allowed| allowed == name);
                assert_eq!(route.action(method).is_some(), is_allowed, "{name} {route:?}");
            }
        }
    }

    #[test]
    fn json_is_recognised_with_and_without_parameters() {
        for yes in ["application/json", "Application/JSON; charset=utf-8", "application/json;"] {
            assert!(is_json(Some(yes)), "{yes}");
        }
        for no in ["text/plain", "application/jsonp", "application/problem+json", ""] {
            assert!(!is_json(Some(no)), "{no}");
        }
        assert!(!is_json(None));
    }
}

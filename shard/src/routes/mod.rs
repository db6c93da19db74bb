//! The routes of the API: which there are, what each takes, and how it answers.

pub(crate) mod batch;
pub(crate) mod browser;
pub(crate) mod cache;
pub(crate) mod command;
mod conditions;
pub(crate) mod connection;
pub(crate) mod context;
pub(crate) mod dead;
pub(crate) mod described;
pub(crate) mod docs;
pub(crate) mod events;
pub(crate) mod exchange;
pub(crate) mod export;
pub(crate) mod google;
pub(crate) mod health;
pub(crate) mod history;
pub(crate) mod intents;
pub(crate) mod keyed;
pub(crate) mod keys;
pub(crate) mod once;
pub(crate) mod preferences;
pub(crate) mod session;
pub(crate) mod task;
pub(crate) mod users;
pub(crate) mod webhook;
pub(crate) mod workflow;
mod write;

use sluice_protocols::access::{Access, Scope};
use sluice_protocols::google::rest::{self, Effect, Endpoint};

use sluice_protocols::http::Method;
use sluice_protocols::ids::{KeyId, SessionId, TaskId, UserId};
use sluice_protocols::plan::Service;
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::ReadError;

use crate::audit::Act;
use crate::limit::Class;
use crate::metrics::RouteLabel;
use crate::tasks::Unchanged;

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    Command,
    Commands,
    Tasks,
    /// With the id as it was sent.
    Task(&'a str),
    TaskCancel(&'a str),
    TaskConfirm(&'a str),
    DeadLetters,
    DeadLetter(&'a str),
    DeadLetterRedrive(&'a str),
    CacheInvalidate,
    Workflows(workflow::Place<'a>),
    Context(context::Place<'a>),
    Webhooks(webhook::Place<'a>),
    Browser(browser::Place<'a>),
    Connections(connection::Place<'a>),
    /// Where people consent.
    Consent(connection::Page<'a>),
    IntentParse,
    Keys,
    Key(&'a str),
    Users,
    /// `/api/v1/users/me`
    Me,
    User(&'a str),
    UserErase(&'a str),
    /// `/api/v1/users/me/export`
    MyExport,
    UserExport(&'a str),
    TaskEvents(&'a str),
    Sessions,
    Session(&'a str),
    Preferences,
    History,
    /// Mail, calendar and files as they are: a path of [`rest::ENDPOINTS`].
    Google(&'a str),
    Livez,
    Readyz,
    Metrics,
    OpenApi,
    Docs,
    /// `OPTIONS *`: the server itself.
    Server,
}

impl<'a> Route<'a> {
    /// The route of a path, if there is one.
    pub(crate) fn of(path: &'a str) -> Option<Self> {
        match path {
            "/api/v1/command" => Some(Self::Command),
            "/api/v1/commands" => Some(Self::Commands),
            "/api/v1/tasks" => Some(Self::Tasks),
            "/api/v1/dead-letters" => Some(Self::DeadLetters),
            "/api/v1/cache/invalidate" => Some(Self::CacheInvalidate),
            "/api/v1/intents/parse" => Some(Self::IntentParse),
            "/api/v1/sessions" => Some(Self::Sessions),
            "/api/v1/preferences" => Some(Self::Preferences),
            "/api/v1/history" => Some(Self::History),
            "/api/v1/keys" => Some(Self::Keys),
            "/api/v1/users" => Some(Self::Users),
            "/api/v1/users/me" => Some(Self::Me),
            _ if path == browser::SIGN_IN || path.starts_with(browser::ROOT) => {
                browser::Place::of(path).map(Self::Browser)
            }
            _ if path.starts_with(webhook::ROOT) => webhook::Place::of(path).map(Self::Webhooks),
            _ if path.starts_with(connection::ROOT) => connection::Place::of(path).map(Self::Connections),
            _ if path.starts_with(connection::PAGES) => connection::Page::of(path).map(Self::Consent),
            "/api/v1/users/me/export" => Some(Self::MyExport),
            _ if path.starts_with(workflow::ROOT) => workflow::Place::of(path).map(Self::Workflows),
            _ if path.starts_with(context::ROOT) => context::Place::of(path).map(Self::Context),
            "/livez" => Some(Self::Livez),
            "/readyz" => Some(Self::Readyz),
            "/metrics" => Some(Self::Metrics),
            "/openapi.json" => Some(Self::OpenApi),
            "/docs" => Some(Self::Docs),
            "*" => Some(Self::Server),
            _ => {
                let (kind, below) = path.strip_prefix("/api/v1/")?.split_once('/')?;
                if matches!(kind, "gmail" | "calendar" | "drive") {
                    return rest::at_path(path).next().is_some().then_some(Self::Google(path));
                }
                let (id, verb) = below.split_once('/').map_or((below, None), |(id, verb)| (id, Some(verb)));
                match (kind, verb) {
                    _ if id.is_empty() => None,
                    ("tasks", None) => Some(Self::Task(id)),
                    ("tasks", Some("events")) => Some(Self::TaskEvents(id)),
                    ("tasks", Some("cancel")) => Some(Self::TaskCancel(id)),
                    ("tasks", Some("confirm")) => Some(Self::TaskConfirm(id)),
                    ("dead-letters", None) => Some(Self::DeadLetter(id)),
                    ("dead-letters", Some("redrive")) => Some(Self::DeadLetterRedrive(id)),
                    ("sessions", None) => Some(Self::Session(id)),
                    ("keys", None) => Some(Self::Key(id)),
                    ("users", None) => Some(Self::User(id)),
                    ("users", Some("erase")) => Some(Self::UserErase(id)),
                    ("users", Some("export")) => Some(Self::UserExport(id)),
                    _ => None,
                }
            }
        }
    }

    /// The methods the route takes (RFC 9110 section 10.2.1).
    pub(crate) fn allow(self) -> &'static str {
        match self {
            Self::Command
            | Self::Commands
            | Self::CacheInvalidate
            | Self::IntentParse
            | Self::TaskCancel(_)
            | Self::TaskConfirm(_)
            | Self::UserErase(_)
            | Self::DeadLetterRedrive(_) => "POST, OPTIONS",
            Self::Google(path) => google::allow(path),
            Self::Workflows(place) => place.allow(),
            Self::Webhooks(place) => place.allow(),
            Self::Browser(place) => place.allow(),
            Self::Connections(place) => place.allow(),
            Self::Consent(page) => page.allow(),
            Self::Context(place) => place.allow(),
            Self::DeadLetter(_) | Self::Key(_) | Self::User(_) => "GET, HEAD, PATCH, DELETE, OPTIONS",
            Self::Keys | Self::Users => "GET, HEAD, POST, OPTIONS",
            Self::Session(_) => "GET, HEAD, DELETE, OPTIONS",
            Self::Sessions => "GET, HEAD, POST, OPTIONS",
            Self::Preferences => "GET, HEAD, PATCH, OPTIONS",
            Self::Tasks
            | Self::History
            | Self::DeadLetters
            | Self::Task(_)
            | Self::TaskEvents(_)
            | Self::Me
            | Self::MyExport
            | Self::UserExport(_)
            | Self::Livez
            | Self::Readyz
            | Self::Metrics
            | Self::OpenApi
            | Self::Docs => "GET, HEAD, OPTIONS",
            Self::Server => "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
        }
    }

    /// What the request asks for, if the route takes its method.
    pub(crate) fn action(self, method: Method) -> Option<Action<'a>> {
        let is_read = matches!(method, Method::Get | Method::Head);
        match self {
            _ if method == Method::Options => Some(Action::Options),
            Self::Command if method == Method::Post => Some(Action::Command),
            Self::Commands if method == Method::Post => Some(Action::Commands),
            Self::Tasks if is_read => Some(Action::TaskList),
            Self::Task(id) if is_read => Some(Action::TaskGet(id)),
            Self::TaskCancel(id) if method == Method::Post => Some(Action::TaskCancel(id)),
            Self::TaskConfirm(id) if method == Method::Post => Some(Action::TaskConfirm(id)),
            Self::DeadLetters if is_read => Some(Action::DeadList),
            Self::DeadLetter(id) if is_read => Some(Action::DeadGet(id)),
            Self::DeadLetter(id) if method == Method::Patch => Some(Action::DeadEdit(id)),
            Self::DeadLetter(id) if method == Method::Delete => Some(Action::DeadPurge(id)),
            Self::DeadLetterRedrive(id) if method == Method::Post => Some(Action::DeadRedrive(id)),
            Self::CacheInvalidate if method == Method::Post => Some(Action::CacheInvalidate),
            Self::Workflows(place) => {
                let changes = place.changes(method);
                place.takes(method).map(|has_body| Action::Workflows {
                    has_body,
                    runs: place.is_run(),
                    changes,
                })
            }
            Self::Context(place) => {
                place.takes(method).map(|brings| Action::Context { brings, changes: !is_read })
            }
            Self::Webhooks(place) => {
                let changes = !is_read;
                place.takes(method).map(|body| Action::Webhooks { body, changes })
            }
            Self::Browser(place) => place.ask(method).map(Action::Browser),
            Self::Connections(place) => {
                let body = place.body(method);
                place.takes(method).then_some(Action::Connections { body, changes: !is_read })
            }
            Self::Consent(page) => page.visit(method).map(Action::Consent),
            Self::IntentParse if method == Method::Post => Some(Action::IntentParse),
            Self::Keys if is_read => Some(Action::KeyList),
            Self::Keys if method == Method::Post => Some(Action::KeyMake),
            Self::Key(id) if is_read => Some(Action::KeyGet(id)),
            Self::Key(id) if method == Method::Patch => Some(Action::KeyEdit(id)),
            Self::Key(id) if method == Method::Delete => Some(Action::KeyRevoke(id)),
            Self::Users if is_read => Some(Action::UserList),
            Self::Users if method == Method::Post => Some(Action::UserMake),
            Self::Me if is_read => Some(Action::Me),
            Self::User(id) if is_read => Some(Action::UserGet(id)),
            Self::User(id) if method == Method::Patch => Some(Action::UserEdit(id)),
            Self::User(id) if method == Method::Delete => Some(Action::UserDisable(id)),
            Self::UserErase(id) if method == Method::Post => Some(Action::UserErase(id)),
            Self::MyExport if is_read => Some(Action::MyExport),
            Self::UserExport(id) if is_read => Some(Action::UserExport(id)),
            Self::TaskEvents(id) if is_read => Some(Action::TaskEvents(id)),
            Self::Sessions if is_read => Some(Action::SessionList),
            Self::Sessions if method == Method::Post => Some(Action::SessionBegin),
            Self::Preferences if is_read => Some(Action::PreferencesGet),
            Self::Preferences if method == Method::Patch => Some(Action::PreferencesPatch),
            Self::History if is_read => Some(Action::History),
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
            Self::Docs if is_read => Some(Action::Docs),
            _ => None,
        }
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action<'a> {
    Command,
    Commands,
    TaskList,
    TaskGet(&'a str),
    TaskCancel(&'a str),
    TaskConfirm(&'a str),
    DeadList,
    DeadGet(&'a str),
    DeadEdit(&'a str),
    DeadPurge(&'a str),
    DeadRedrive(&'a str),
    CacheInvalidate,
    /// What exactly stands in the path.
    Workflows {
        has_body: bool,
        runs: bool,
        changes: bool,
    },
    /// What exactly stands in the path.
    Context {
        brings: context::Brings,
        changes: bool,
    },
    /// As above.
    Webhooks {
        body: webhook::WebhookBody,
        changes: bool,
    },
    Browser(browser::Ask<'a>),
    /// As above.
    Connections {
        body: connection::ConnectionBody,
        changes: bool,
    },
    Consent(connection::Visit<'a>),
    IntentParse,
    KeyList,
    KeyMake,
    KeyGet(&'a str),
    KeyEdit(&'a str),
    KeyRevoke(&'a str),
    UserList,
    UserMake,
    Me,
    UserGet(&'a str),
    UserEdit(&'a str),
    UserDisable(&'a str),
    UserErase(&'a str),
    MyExport,
    UserExport(&'a str),
    TaskEvents(&'a str),
    SessionGet(&'a str),
    SessionDelete(&'a str),
    SessionList,
    SessionBegin,
    PreferencesGet,
    PreferencesPatch,
    History,
    Google(&'static Endpoint),
    Livez,
    Readyz,
    Metrics,
    OpenApi,
    Docs,
    Options,
}

impl Action<'_> {
    /// Whether it may come twice if its method is safe, as it may where it came as early data (RFC 8470).
    pub(crate) const fn is_repeatable(self) -> bool {
        match self {
            Self::Consent(visit) => visit.is_repeatable(),
            _ => true,
        }
    }

    /// Who may do it. Beside each route, so that none comes to be without a rule; the description of the API shows it.
    pub(crate) const fn access(self) -> Access {
        match self {
            Self::Livez | Self::Readyz | Self::Metrics | Self::OpenApi | Self::Docs | Self::Options => {
                Access::Public
            }
            Self::Browser(ask) => ask.access(),
            // A browser shows no credential. What is asked for is signed here, and a consent belongs to its browser.
            Self::Consent(_) => Access::Public,
            Self::Command
            | Self::Commands
            | Self::TaskCancel(_)
            | Self::TaskConfirm(_)
            | Self::DeadEdit(_)
            | Self::DeadPurge(_)
            | Self::DeadRedrive(_)
            | Self::SessionDelete(_)
            | Self::SessionBegin
            // They change nothing, but may cost a call to the model, or reads anew.
            | Self::IntentParse
            | Self::CacheInvalidate
            | Self::Workflows { changes: true, .. }
            | Self::Context { changes: true, .. } => Access::Own(Scope::Commands),
            Self::TaskList
            | Self::TaskGet(_)
            | Self::TaskEvents(_)
            | Self::DeadList
            | Self::DeadGet(_)
            | Self::SessionGet(_)
            | Self::SessionList
            | Self::History
            | Self::Workflows { changes: false, .. }
            | Self::Context { changes: false, .. } => Access::Own(Scope::CommandsRead),
            // What came of commands is in it for those who may read that.
            Self::MyExport => Access::Own(Scope::AccountRead),
            Self::PreferencesGet | Self::Webhooks { changes: false, .. } | Self::Connections { changes: false, .. } | Self::KeyList | Self::KeyGet(_) | Self::Me => {
                Access::Own(Scope::AccountRead)
            }
            Self::PreferencesPatch | Self::Webhooks { changes: true, .. } | Self::Connections { changes: true, .. } | Self::KeyMake | Self::KeyEdit(_) | Self::KeyRevoke(_) => {
                Access::Own(Scope::Account)
            }
            Self::UserList | Self::UserGet(_) => Access::Read(Scope::AdminRead),
            // To read all that is somebody's is for those who may also change it.
            Self::UserMake
            | Self::UserEdit(_)
            | Self::UserDisable(_)
            | Self::UserErase(_)
            | Self::UserExport(_) => Access::Manage(Scope::Admin),
            Self::Google(endpoint) => {
                let scope = match endpoint.service {
                    Service::Gmail => Scope::Mail,
                    Service::Calendar => Scope::Calendar,
                    Service::Drive => Scope::Drive,
                };
                Access::Own(if matches!(endpoint.effect, Effect::Read) { scope.reading() } else { scope })
            }
        }
    }

    pub(crate) fn label(self) -> RouteLabel {
        match self {
            Self::Command => RouteLabel::Command,
            Self::Commands => RouteLabel::Commands,
            Self::TaskList => RouteLabel::TaskList,
            Self::TaskGet(_) => RouteLabel::TaskGet,
            Self::TaskCancel(_) | Self::TaskConfirm(_) => RouteLabel::TaskChange,
            Self::DeadList
            | Self::DeadGet(_)
            | Self::DeadEdit(_)
            | Self::DeadPurge(_)
            | Self::DeadRedrive(_) => RouteLabel::DeadLetters,
            Self::CacheInvalidate => RouteLabel::CacheInvalidate,
            Self::Workflows { .. } => RouteLabel::Workflows,
            Self::Context { .. } => RouteLabel::Context,
            Self::Webhooks { .. } => RouteLabel::Webhooks,
            Self::Browser(_) => RouteLabel::BrowserSessions,
            Self::Connections { .. } | Self::Consent(_) => RouteLabel::Connections,
            Self::IntentParse => RouteLabel::IntentParse,
            Self::KeyList | Self::KeyMake | Self::KeyGet(_) | Self::KeyEdit(_) | Self::KeyRevoke(_) => {
                RouteLabel::Keys
            }
            Self::UserList
            | Self::UserMake
            | Self::Me
            | Self::UserGet(_)
            | Self::UserEdit(_)
            | Self::UserDisable(_)
            | Self::UserErase(_)
            | Self::MyExport
            | Self::UserExport(_) => RouteLabel::Users,
            Self::TaskEvents(_) => RouteLabel::TaskEvents,
            Self::SessionGet(_) => RouteLabel::SessionGet,
            Self::SessionDelete(_) => RouteLabel::SessionDelete,
            Self::SessionList | Self::SessionBegin => RouteLabel::Sessions,
            Self::PreferencesGet | Self::PreferencesPatch => RouteLabel::Preferences,
            Self::History => RouteLabel::History,
            Self::Google(endpoint) => RouteLabel::of_service(endpoint.service),
            Self::Livez | Self::Readyz => RouteLabel::Health,
            Self::Metrics => RouteLabel::Metrics,
            Self::OpenApi | Self::Docs | Self::Options => RouteLabel::Other,
        }
    }

    /// The same with its id read; `None` when the id is none, so that there is nothing under it.
    pub(crate) fn target(self) -> Option<Target> {
        Some(match self {
            Self::Command => Target::Command,
            Self::Commands => Target::Commands,
            Self::TaskList => Target::TaskList,
            Self::TaskGet(id) => Target::TaskGet(id.parse().ok()?),
            Self::TaskCancel(id) => Target::TaskCancel(id.parse().ok()?),
            Self::TaskConfirm(id) => Target::TaskConfirm(id.parse().ok()?),
            Self::DeadList => Target::DeadList,
            Self::DeadGet(id) => Target::DeadGet(id.parse().ok()?),
            Self::DeadEdit(id) => Target::DeadEdit(id.parse().ok()?),
            Self::DeadPurge(id) => Target::DeadPurge(id.parse().ok()?),
            Self::DeadRedrive(id) => Target::DeadRedrive(id.parse().ok()?),
            Self::CacheInvalidate => Target::CacheInvalidate,
            Self::Workflows { has_body, runs, .. } => Target::Workflows { has_body, runs },
            Self::Context { brings, changes } => Target::Context { brings, changes },
            Self::Webhooks { body, .. } => Target::Webhooks { body },
            Self::Browser(ask) => Target::Browser(ask.wish()?),
            Self::Connections { body, .. } => Target::Connections { body },
            Self::IntentParse => Target::IntentParse,
            Self::KeyList => Target::Account(Account::KeyList),
            Self::KeyMake => Target::Account(Account::KeyMake),
            Self::KeyGet(id) => Target::Account(Account::KeyGet(id.parse().ok()?)),
            Self::KeyEdit(id) => Target::Account(Account::KeyEdit(id.parse().ok()?)),
            Self::KeyRevoke(id) => Target::Account(Account::KeyRevoke(id.parse().ok()?)),
            Self::UserList => Target::Account(Account::UserList),
            Self::UserMake => Target::Account(Account::UserMake),
            Self::Me => Target::Account(Account::Me),
            Self::UserGet(id) => Target::Account(Account::UserGet(id.parse().ok()?)),
            Self::UserEdit(id) => Target::Account(Account::UserEdit(id.parse().ok()?)),
            Self::UserDisable(id) => Target::Account(Account::UserDisable(id.parse().ok()?)),
            Self::UserErase(id) => Target::Account(Account::UserErase(id.parse().ok()?)),
            Self::MyExport => Target::Export(None),
            Self::UserExport(id) => Target::Export(Some(id.parse().ok()?)),
            Self::TaskEvents(id) => Target::TaskEvents(id.parse().ok()?),
            Self::SessionGet(id) => Target::SessionGet(id.parse().ok()?),
            Self::SessionDelete(id) => Target::SessionDelete(id.parse().ok()?),
            Self::SessionList => Target::SessionList,
            Self::SessionBegin => Target::SessionBegin,
            Self::PreferencesGet => Target::PreferencesGet,
            Self::PreferencesPatch => Target::PreferencesPatch,
            Self::History => Target::History,
            Self::Google(endpoint) => Target::Google(endpoint),
            Self::Livez
            | Self::Readyz
            | Self::Metrics
            | Self::OpenApi
            | Self::Docs
            | Self::Options
            | Self::Consent(_) => return None,
        })
    }
}

/// What a body is; all are JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyKind {
    Command,
    Batch,
    Edit,
    Workflow,
}

/// What is asked for in a user's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Command,
    Commands,
    TaskList,
    TaskGet(TaskId),
    TaskCancel(TaskId),
    TaskConfirm(TaskId),
    DeadList,
    DeadGet(TaskId),
    DeadEdit(TaskId),
    DeadPurge(TaskId),
    DeadRedrive(TaskId),
    CacheInvalidate,
    Workflows {
        has_body: bool,
        runs: bool,
    },
    Context {
        brings: context::Brings,
        changes: bool,
    },
    Webhooks {
        body: webhook::WebhookBody,
    },
    Browser(browser::Wish),
    Connections {
        body: connection::ConnectionBody,
    },
    IntentParse,
    Account(Account),
    /// Of the user named, or of whoever asks.
    Export(Option<UserId>),
    TaskEvents(TaskId),
    SessionGet(SessionId),
    SessionDelete(SessionId),
    SessionList,
    SessionBegin,
    PreferencesGet,
    PreferencesPatch,
    History,
    Google(&'static Endpoint),
}

/// What is asked of keys and users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    KeyList,
    KeyMake,
    KeyGet(KeyId),
    KeyEdit(KeyId),
    KeyRevoke(KeyId),
    UserList,
    UserMake,
    Me,
    UserGet(UserId),
    UserEdit(UserId),
    UserDisable(UserId),
    UserErase(UserId),
}

impl Target {
    /// As which act the audit log tells it when it is for an office and refused, and the user it was meant for.
    pub(crate) const fn act(self) -> (Act, Option<UserId>) {
        match self {
            Self::Account(Account::UserList) => (Act::UserRead, None),
            Self::Account(Account::UserGet(user)) => (Act::UserRead, Some(user)),
            Self::Account(Account::UserMake) => (Act::UserCreate, None),
            Self::Account(Account::UserEdit(user)) => (Act::UserChange, Some(user)),
            Self::Account(Account::UserDisable(user)) => (Act::UserDisable, Some(user)),
            Self::Account(Account::UserErase(user)) => (Act::UserErase, Some(user)),
            Self::Export(Some(user)) => (Act::UserExport, Some(user)),
            _ => (Act::Administration, None),
        }
    }

    /// Whether it makes work: a core that drains does not take it.
    pub(crate) const fn makes_work(self) -> bool {
        matches!(
            self,
            Self::Command
                | Self::Commands
                | Self::IntentParse
                | Self::TaskConfirm(_)
                | Self::DeadRedrive(_)
                | Self::Google(_)
                | Self::Workflows { runs: true, .. }
                | Self::Context { brings: context::Brings::Content, .. }
        )
    }

    /// What the limits on requests count it under.
    pub(crate) const fn class(self) -> Class {
        match self {
            Self::Command
            | Self::Commands
            | Self::IntentParse
            | Self::TaskConfirm(_)
            | Self::DeadRedrive(_)
            | Self::Workflows { runs: true, .. } => Class::Commands,
            Self::TaskList
            | Self::TaskGet(_)
            | Self::TaskEvents(_)
            | Self::SessionGet(_)
            | Self::SessionList
            | Self::PreferencesGet
            | Self::History
            | Self::DeadList
            | Self::DeadGet(_)
            | Self::Account(
                Account::KeyList | Account::KeyGet(_) | Account::UserList | Account::Me | Account::UserGet(_),
            )
            | Self::Browser(browser::Wish::List | browser::Wish::Current | browser::Wish::Get(_))
            | Self::Context { changes: false, .. } => Class::Reads,
            Self::Google(_) => Class::Google,
            Self::TaskCancel(_)
            | Self::DeadEdit(_)
            | Self::DeadPurge(_)
            | Self::SessionDelete(_)
            | Self::SessionBegin
            | Self::PreferencesPatch
            | Self::CacheInvalidate
            | Self::Account(_)
            // It reads all there is.
            | Self::Export(_)
            | Self::Workflows { runs: false, .. }
            | Self::Webhooks { .. }
            | Self::Browser(_)
            | Self::Connections { .. }
            | Self::Context { changes: true, .. } => Class::Administration,
        }
    }

    /// The kind of body it needs.
    pub(crate) const fn body(self) -> Option<BodyKind> {
        match self {
            Self::Command
            | Self::CacheInvalidate
            | Self::IntentParse
            | Self::Browser(browser::Wish::Begin)
            | Self::Context { brings: context::Brings::Json, .. } => Some(BodyKind::Command),
            Self::Commands => Some(BodyKind::Batch),
            Self::Webhooks { body: webhook::WebhookBody::Json }
            | Self::Connections { body: connection::ConnectionBody::Json } => Some(BodyKind::Command),
            Self::DeadEdit(_)
            | Self::PreferencesPatch
            | Self::Webhooks { body: webhook::WebhookBody::Patch }
            | Self::Connections { body: connection::ConnectionBody::Patch }
            | Self::Account(Account::KeyEdit(_) | Account::UserEdit(_)) => Some(BodyKind::Edit),
            Self::Account(Account::KeyMake | Account::UserMake | Account::UserErase(_)) => {
                Some(BodyKind::Command)
            }
            Self::Workflows { has_body: true, .. } => Some(BodyKind::Workflow),
            _ => None,
        }
    }
}

/// Whether a `content-type` says JSON in UTF-8 (RFC 8259 section 11: there are no other parameters to heed).
pub(crate) fn is_json(content_type: Option<&str>) -> bool {
    let media_type = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

/// Whether a `content-type` says a merge patch (RFC 7396).
pub(crate) fn is_merge_patch(content_type: Option<&str>) -> bool {
    let media_type = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/merge-patch+json")
}

/// Why a task or a dead letter was not changed.
pub(crate) fn unchanged_problem(error: Unchanged, what: &str) -> Problem {
    match error {
        Unchanged::NotFound => not_found(what),
        Unchanged::Conflict(why) => Problem::new(ProblemKind::Conflict, why),
        Unchanged::Full => {
            Problem::new(ProblemKind::Overloaded, "too many commands are waiting").with_retry_after_s(1)
        }
        Unchanged::Storage(problem) => problem,
    }
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
        assert_eq!(Route::of("/api/v1/sessions"), Some(Route::Sessions));
        let message = "/api/v1/gmail/messages/x";
        assert_eq!(Route::of(message), Some(Route::Google(message)));
        for path in [
            "/",
            "",
            "/api/v1/command/",
            "/api/v1/tasks/",
            "/api/v1/tasks/a/b",
            "/api/v1/tasks//cancel",
            "/api/v1/tasks/a/cancel/b",
            "/api/v1/sessions/a/cancel",
            "/api/v1/sessions/",
            "/api/v1/preferences/a",
            "/api/v1/history/a",
            "/api/v1/tasks//events",
            "/api/v1/tasks/a/events/b",
            "/api/v1/sessions/a/events",
            "/api/v1/users/x/y",
            "/api/v1/keys/",
            "/api/v1/browser-sessions/",
            "/api/v1/browser-sessions/current/x",
            "/api/v1/browser-sessionsx",
            "/sign-in/",
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
            Route::Commands,
            Route::Tasks,
            Route::Task("x"),
            Route::TaskCancel("x"),
            Route::TaskConfirm("x"),
            Route::DeadLetters,
            Route::DeadLetter("x"),
            Route::DeadLetterRedrive("x"),
            Route::CacheInvalidate,
            Route::Workflows(workflow::Place::All),
            Route::Workflows(workflow::Place::Check),
            Route::Workflows(workflow::Place::One("x")),
            Route::Workflows(workflow::Place::Runs("x")),
            Route::Context(context::Place::All),
            Route::Context(context::Place::One("x")),
            Route::Context(context::Place::Snapshots),
            Route::Context(context::Place::Snapshot("x")),
            Route::Context(context::Place::Restore("x")),
            Route::Webhooks(webhook::Place::All),
            Route::Webhooks(webhook::Place::One("x")),
            Route::Webhooks(webhook::Place::Test("x")),
            Route::Browser(browser::Place::All),
            Route::Browser(browser::Place::Current),
            Route::Browser(browser::Place::One("x")),
            Route::Browser(browser::Place::SignIn),
            Route::Connections(connection::Place::All),
            Route::Connections(connection::Place::Google),
            Route::Connections(connection::Place::One("x")),
            Route::Consent(connection::Page::Start("x")),
            Route::Consent(connection::Page::Callback),
            Route::IntentParse,
            Route::Keys,
            Route::Key("x"),
            Route::Users,
            Route::Me,
            Route::User("x"),
            Route::TaskEvents("x"),
            Route::Session("x"),
            Route::Sessions,
            Route::Preferences,
            Route::History,
            Route::Google("/api/v1/gmail/labels/x"),
            Route::Google("/api/v1/drive/files/x"),
            Route::Google("/api/v1/drive/files/x/content"),
            Route::Livez,
            Route::Readyz,
            Route::Metrics,
            Route::OpenApi,
            Route::Docs,
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

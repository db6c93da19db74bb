//! The description of the API with the rule of each route: what is declared beside the routes is what is shown.

use serde_json::{Value, json};
use sluice_protocols::access::Access;
use sluice_protocols::http::Method;
use sluice_protocols::openapi;

use super::Route;

/// What stands in a path for each of its places.
const PLACES: [(&str, &str); 6] = [
    ("{key}", "x"),
    ("{id}", "x"),
    ("{permission}", "x"),
    ("{name}", "x"),
    ("{version}", "1"),
    ("{ticket}", "x"),
];
const METHODS: [(&str, Method); 5] = [
    ("get", Method::Get),
    ("post", Method::Post),
    ("put", Method::Put),
    ("patch", Method::Patch),
    ("delete", Method::Delete),
];

/// The whole document.
pub(crate) fn document() -> Value {
    let mut document = openapi::document(env!("CARGO_PKG_VERSION"));
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    for (path, operations) in paths {
        for (name, method) in METHODS {
            if let (Some(operation), Some(access)) = (operations.get_mut(name), access_of(path, method)) {
                show(access, operation);
            }
        }
    }
    document
}

/// The rule of a path of the description; `None` when no route serves it.
fn access_of(path: &str, method: Method) -> Option<Access> {
    let filled = PLACES.iter().fold(path.to_owned(), |path, (place, text)| path.replace(place, text));
    Some(Route::of(&filled)?.action(method)?.access())
}

/// OpenAPI 3.1 lets a requirement of any scheme name what it must hold; `x-access` says it for people and for tests.
fn show(access: Access, operation: &mut Value) {
    let roles: Vec<&str> = access.roles().iter().map(|role| role.name()).collect();
    match access.scope() {
        None => operation["security"] = json!([]),
        Some(scope) => {
            operation["security"] = json!([{"key": [scope.name()]}, {"cookie": [scope.name()]}]);
        }
    }
    operation["x-access"] = json!({"scope": access.scope().map(|scope| scope.name()), "roles": roles});
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a route's path stands in the description, or why it does not. Without a default: a new route must say.
    fn place_of(route: Route<'_>) -> Result<String, &'static str> {
        use crate::routes::{browser, connection, context, webhook, workflow};
        let path = match route {
            Route::Metrics => {
                return Err("it is for the operator's scraper, and OpenMetrics says what it is");
            }
            Route::Server => return Err("`*` is no path"),
            Route::Google(path) => {
                let endpoint = sluice_protocols::google::rest::at_path(path).next().expect("a route of it");
                return Ok(endpoint.path.to_owned());
            }
            Route::Command => "/api/v1/command",
            Route::Commands => "/api/v1/commands",
            Route::Tasks => "/api/v1/tasks",
            Route::Task(_) => "/api/v1/tasks/{id}",
            Route::TaskCancel(_) => "/api/v1/tasks/{id}/cancel",
            Route::TaskConfirm(_) => "/api/v1/tasks/{id}/confirm",
            Route::TaskEvents(_) => "/api/v1/tasks/{id}/events",
            Route::DeadLetters => "/api/v1/dead-letters",
            Route::DeadLetter(_) => "/api/v1/dead-letters/{id}",
            Route::DeadLetterRedrive(_) => "/api/v1/dead-letters/{id}/redrive",
            Route::CacheInvalidate => "/api/v1/cache/invalidate",
            Route::Workflows(workflow::Place::All) => "/api/v1/workflows",
            Route::Workflows(workflow::Place::Check) => "/api/v1/workflows/check",
            Route::Workflows(workflow::Place::One(_)) => "/api/v1/workflows/{name}",
            Route::Workflows(workflow::Place::Versions(_)) => "/api/v1/workflows/{name}/versions",
            Route::Workflows(workflow::Place::Version(..)) => "/api/v1/workflows/{name}/versions/{version}",
            Route::Workflows(workflow::Place::Runs(_)) => "/api/v1/workflows/{name}/runs",
            Route::Context(context::Place::All) => "/api/v1/context",
            Route::Context(context::Place::One(_)) => "/api/v1/context/{key}",
            Route::Context(context::Place::Snapshots) => "/api/v1/context/snapshots",
            Route::Context(context::Place::Snapshot(_)) => "/api/v1/context/snapshots/{id}",
            Route::Context(context::Place::Restore(_)) => "/api/v1/context/snapshots/{id}/restore",
            Route::Webhooks(webhook::Place::All) => "/api/v1/webhooks",
            Route::Webhooks(webhook::Place::One(_)) => "/api/v1/webhooks/{id}",
            Route::Webhooks(webhook::Place::Test(_)) => "/api/v1/webhooks/{id}/test",
            Route::Webhooks(webhook::Place::Deliveries(_)) => "/api/v1/webhooks/{id}/deliveries",
            Route::Webhooks(webhook::Place::Rotate(_)) => "/api/v1/webhooks/{id}/rotate",
            Route::Browser(browser::Place::All) => "/api/v1/browser-sessions",
            Route::Browser(browser::Place::Current) => "/api/v1/browser-sessions/current",
            Route::Browser(browser::Place::One(_)) => "/api/v1/browser-sessions/{id}",
            Route::Browser(browser::Place::SignIn) => "/sign-in",
            Route::Connections(connection::Place::All) => "/api/v1/connections",
            Route::Connections(connection::Place::Google) => "/api/v1/connections/google",
            Route::Connections(connection::Place::One(_)) => "/api/v1/connections/{id}",
            Route::Consent(connection::Page::Start(_)) => "/oauth/google/start/{ticket}",
            Route::Consent(connection::Page::Callback) => "/oauth/google/callback",
            Route::IntentParse => "/api/v1/intents/parse",
            Route::Keys => "/api/v1/keys",
            Route::Key(_) => "/api/v1/keys/{id}",
            Route::Users => "/api/v1/users",
            Route::Me => "/api/v1/users/me",
            Route::User(_) => "/api/v1/users/{id}",
            Route::UserErase(_) => "/api/v1/users/{id}/erase",
            Route::MyExport => "/api/v1/users/me/export",
            Route::UserExport(_) => "/api/v1/users/{id}/export",
            Route::Sessions => "/api/v1/sessions",
            Route::Session(_) => "/api/v1/sessions/{id}",
            Route::Preferences => "/api/v1/preferences",
            Route::History => "/api/v1/history",
            Route::Livez => "/livez",
            Route::Readyz => "/readyz",
            Route::OpenApi => "/openapi.json",
            Route::Docs => "/docs",
        };
        Ok(path.to_owned())
    }

    #[test]
    fn every_route_is_described_with_all_its_methods_or_says_why_not() {
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        let filled =
            |path: &str| PLACES.iter().fold(path.to_owned(), |path, (place, text)| path.replace(place, text));
        for (path, operations) in paths {
            let example = filled(path);
            let route = Route::of(&example).unwrap_or_else(|| panic!("{path} is served by no route"));
            // Two places may be called otherwise, but not stand elsewhere.
            assert_eq!(place_of(route).map(|place| filled(&place)), Ok(example.clone()), "{path}");
            for (name, method) in METHODS {
                let is_served = route.action(method).is_some();
                assert_eq!(operations.get(name).is_some(), is_served, "{name} {path}");
            }
        }
        let undescribed = ["/metrics", "*"];
        for path in undescribed {
            assert!(place_of(Route::of(path).unwrap()).is_err(), "{path}");
        }
        // By the list above there is no third.
        for route in [
            Route::Workflows(crate::routes::workflow::Place::Versions("x")),
            Route::Webhooks(crate::routes::webhook::Place::Deliveries("x")),
            Route::Webhooks(crate::routes::webhook::Place::Rotate("x")),
            Route::Context(crate::routes::context::Place::Restore("x")),
            Route::Browser(crate::routes::browser::Place::SignIn),
            Route::UserErase("x"),
            Route::MyExport,
            Route::UserExport("x"),
        ] {
            let place = place_of(route).unwrap();
            assert!(paths.contains_key(&place), "{place} is not described");
        }
    }

    #[test]
    fn every_operation_that_is_described_shows_its_rule() {
        let document = document();
        let mut public = Vec::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (name, operation) in
                operations.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters")
            {
                assert!(METHODS.iter().any(|(known, _)| known == name), "{name} {path}");
                let access = &operation["x-access"];
                assert!(access.is_object(), "{name} {path} is served by no route");
                match access["scope"].as_str() {
                    None => public.push(path.as_str()),
                    Some(scope) => {
                        let either = json!([{"key": [scope]}, {"cookie": [scope]}]);
                        assert_eq!(operation["security"], either, "{name} {path}");
                    }
                }
                // Whoever may only read changes nothing: but for what changes nothing and is a POST for its body.
                let reads = access["scope"].as_str().is_some_and(|scope| scope.ends_with(":read"));
                let is_question = matches!(&**path, "/api/v1/calendar/free-busy" | "/api/v1/workflows/check");
                // The link that leads there, or what is in the form, is the credential.
                let is_question =
                    is_question || matches!(&**path, "/oauth/google/start/{ticket}" | "/sign-in");
                // All that is another's is given to those alone who could change it.
                let is_given = &**path == "/api/v1/users/{id}/export";
                // A session gives nothing new, and whoever is in one may leave it.
                let is_passing = matches!(
                    (&**name, &**path),
                    ("post", "/api/v1/browser-sessions") | ("delete", "/api/v1/browser-sessions/current")
                );
                let is_reading = (name == "get" && !is_given) || is_question || is_passing;
                assert_eq!(reads || access["scope"].is_null(), is_reading, "{name} {path}");
            }
        }
        public.sort_unstable();
        assert_eq!(
            public,
            [
                "/docs",
                "/livez",
                "/oauth/google/callback",
                "/oauth/google/start/{ticket}",
                "/oauth/google/start/{ticket}",
                "/openapi.json",
                "/readyz",
                "/sign-in",
                "/sign-in"
            ],
            "{public:?} ask for no credential"
        );
    }
}

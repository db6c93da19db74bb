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
                // The link that leads there is the credential.
                let is_question = is_question || path == "/oauth/google/start/{ticket}";
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
                "/readyz"
            ],
            "{public:?} ask for no credential"
        );
    }
}

//! What the gateway's description of its API says there is to ask for.

use super::scene::Caller;

/// A route of the description, below `/api/v1`.
pub struct Route {
    pub method: String,
    pub template: String,
}

impl Route {
    /// The path with `name` in the place of each parameter.
    pub fn path(&self, mut name: impl FnMut() -> String) -> String {
        let parts = self.template.split(['{', '}']).enumerate();
        parts.map(|(number, part)| if number % 2 == 0 { part.to_owned() } else { name() }).collect()
    }
}

/// All routes that the description has.
pub async fn routes(caller: &Caller) -> Vec<Route> {
    let description = caller.send("GET", "/openapi.json", &[], "").await.value();
    let mut routes = Vec::new();
    for (path, operations) in description["paths"].as_object().expect("paths") {
        let Some(path) = path.strip_prefix("/api/v1") else { continue };
        for method in operations.as_object().expect("operations").keys() {
            let method = method.to_uppercase();
            if ["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&&*method) {
                routes.push(Route { method, template: path.to_owned() });
            }
        }
    }
    assert!(routes.len() > 40, "{}", routes.len());
    routes
}

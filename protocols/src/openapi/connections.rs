//! Connected accounts in the description of the API, and the pages on which people consent.

use serde_json::{Map, Value, json};

use super::{body, responses};
use crate::api::{
    ConnectionReason, ConnectionStatus, LOGIN_HINT_CHARS_MAX, RETURN_URL_CHARS_MAX, service_names,
};

/// What a page may be answered with that is none of its own doing.
const PAGE_PROBLEMS: &[u16] = &[413, 425, 431, 500, 503];

fn schema(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// The answers of a page: what is told to people is told as a page.
pub(super) fn pages(statuses: &[(u16, &str)]) -> Value {
    let mut all = responses(&[], PAGE_PROBLEMS);
    for (status, description) in statuses {
        let page =
            json!({"description": description, "content": {"text/html": {"schema": {"type": "string"}}}});
        all[status.to_string()] = page;
    }
    // A page as well where the gateway knows why.
    for status in ["500", "503"] {
        all[status] = json!({"description": "Not now", "content": {
            "text/html": {"schema": {"type": "string"}},
            "application/problem+json": {"schema": schema("Problem")},
        }});
    }
    all
}

/// The paths, by themselves.
pub(super) fn paths() -> Map<String, Value> {
    let id = json!({"name": "id", "in": "path", "required": true, "schema": schema("ConnectionId")});
    let ticket = json!({"name": "ticket", "in": "path", "required": true, "schema": {"type": "string"}});
    let query = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string"}});
    let paths = json!({
        "/api/v1/connections": {"get": {
            "operationId": "connections",
            "tags": ["connections"],
            "summary": "List the accounts you have connected, the default one first",
            "responses": responses(&[(200, "All of them", Some("ConnectionList"))], &[401, 403, 431, 503]),
        }},
        "/api/v1/connections/google": {"post": {
            "operationId": "connection.google",
            "tags": ["connections"],
            "summary": "Begin to connect a Google account, or to give a connected one more services",
            "description": "The answer names a page for the user's browser. It shows for whom the account will be connected, \
                and leads to Google, which is asked for no more than the services need.",
            "requestBody": body("application/json", &schema("ConnectRequest")),
            "responses": responses(
                &[(200, "Where the user's browser goes", Some("Authorization"))],
                &[400, 401, 403, 404, 408, 409, 413, 415, 422, 425, 431, 503],
            ),
        }},
        "/api/v1/connections/{id}": {
            "parameters": [id],
            "get": {
                "operationId": "connection",
                "tags": ["connections"],
                "summary": "Read how a connection is",
                "responses": responses(&[(200, "The connection", Some("Connection"))], &[401, 403, 404, 431, 503]),
            },
            "patch": {
                "operationId": "connection.change",
                "tags": ["connections"],
                "summary": "Make an account the default one, by a merge patch (RFC 7396)",
                "requestBody": body("application/merge-patch+json", &schema("ConnectionPatch")),
                "responses": responses(
                    &[(200, "The connection as it is now", Some("Connection"))],
                    &[400, 401, 403, 404, 408, 409, 413, 415, 422, 425, 431, 503],
                ),
            },
            "delete": {
                "operationId": "connection.revoke",
                "tags": ["connections"],
                "summary": "Give a connection up, here at once and at Google",
                "responses": responses(
                    &[
                        (200, "It is given up, and Google knows", Some("Connection")),
                        (202, "It is given up; Google could not be told yet and will be", Some("Connection")),
                    ],
                    &[401, 403, 404, 425, 431, 503],
                ),
            },
        },
        "/oauth/google/start/{ticket}": {
            "parameters": [ticket],
            "get": {
                "operationId": "consent",
                "tags": ["connections"],
                "summary": "The page that shows for whom an account will be connected",
                "security": [],
                "responses": pages(&[(200, "The page"), (400, "The link is wrong, or too old"), (404, "There is no such user")]),
            },
            "post": {
                "operationId": "consent.begin",
                "tags": ["connections"],
                "summary": "What the button of that page does: binds the consent to the browser and leads to Google",
                "security": [],
                "responses": pages(&[
                    (303, "To Google, with a cookie"),
                    (400, "The link is wrong, or too old"),
                    (403, "The button of another page was pressed"),
                    (404, "There is no such user"),
                ]),
            },
        },
        "/oauth/google/callback": {"get": {
            "operationId": "consent.end",
            "tags": ["connections"],
            "summary": "Where Google sends the browser back to",
            "security": [],
            "parameters": [query("state"), query("code"), query("error"), query("scope")],
            "responses": pages(&[
                (200, "The account is connected"),
                (400, "It is not, and the page says why"),
                (409, "It is not, for something stands against it"),
                (502, "It is not, for Google did not answer as it should"),
            ]),
        }},
    });
    match paths {
        Value::Object(paths) => paths,
        _ => Map::new(),
    }
}

/// The schemas of what is told here.
pub(super) fn schemas() -> Map<String, Value> {
    let text = json!({"type": "string"});
    let time = json!({"type": "string", "format": "date-time"});
    let names: Vec<_> = service_names().collect();
    let services = json!({"type": "array", "items": {"type": "string", "enum": names}});
    let statuses: Vec<_> = ConnectionStatus::ALL.iter().map(|status| status.name()).collect();
    let mut reasons: Vec<Value> = ConnectionReason::ALL.iter().map(|reason| json!(reason.name())).collect();
    reasons.push(Value::Null);
    let schemas = json!({
        "ConnectionId": {"type": "string", "pattern": "^con_[0-9a-z]{26}$"},
        "ConnectRequest": {
            "type": "object",
            "additionalProperties": false,
            "anyOf": [{"required": ["services"]}, {"required": ["connection"]}],
            "properties": {
                "services": {
                    "type": "array", "minItems": 1, "items": {"type": "string", "enum": names},
                    "description": "What is wanted of the account; may be left out when a connection is made anew",
                },
                "connection": schema("ConnectionId"),
                "login_hint": {"type": ["string", "null"], "maxLength": LOGIN_HINT_CHARS_MAX},
                "return_url": {
                    "type": ["string", "null"], "maxLength": RETURN_URL_CHARS_MAX,
                    "description": "Where the last page leads on to; of an origin that the operator allows",
                },
            },
        },
        "ConnectionPatch": {
            "type": "object",
            "additionalProperties": false,
            "required": ["is_default"],
            "properties": {"is_default": {"const": true}},
        },
        "Authorization": {
            "type": "object",
            "required": ["authorization_url", "expires"],
            "properties": {"authorization_url": {"type": "string", "format": "uri"}, "expires": time},
        },
        "Connection": {
            "type": "object",
            "required": [
                "id", "provider", "account", "is_default", "status", "reason", "services", "missing", "created",
                "updated", "expires", "link", "revocation",
            ],
            "properties": {
                "id": schema("ConnectionId"),
                "provider": {"const": "google"},
                "account": text,
                "is_default": {"type": "boolean"},
                "status": {"type": "string", "enum": statuses},
                "reason": {"enum": reasons},
                "services": services,
                "missing": services,
                "created": time,
                "updated": time,
                "expires": {"type": ["string", "null"], "format": "date-time"},
                "link": {"type": ["string", "null"], "format": "uri"},
                "revocation": {"enum": ["pending", "done", "failed", null]},
            },
        },
        "ConnectionList": {
            "type": "object",
            "required": ["connections"],
            "properties": {"connections": {"type": "array", "items": schema("Connection")}},
        },
    });
    match schemas {
        Value::Object(schemas) => schemas,
        _ => Map::new(),
    }
}

//! Sessions of browsers in the description of the API.

use serde_json::{Map, Value, json};

use super::connections::pages;
use super::{body, responses};
use crate::access::Scope;

const READ: &[u16] = &[401, 403, 404, 431, 503];
const ENDED: &[u16] = &[401, 403, 404, 425, 431, 500, 503];

fn schema(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// With the field that gives the cookie, or takes it away.
fn with_cookie(mut answers: Value, status: &str) -> Value {
    answers[status]["headers"] = json!({"set-cookie": {"required": true, "schema": {"type": "string"}}});
    answers
}

pub(super) fn paths() -> Map<String, Value> {
    let begun = responses(
        &[(201, "The session; its cookie is in `Set-Cookie`", Some("BrowserSession"))],
        &[400, 401, 403, 408, 413, 415, 422, 425, 431, 500, 503],
    );
    let paths = json!({
        "/api/v1/browser-sessions": {
            "get": {
                "operationId": "browser_sessions",
                "tags": ["account"],
                "summary": "List your sessions of browsers",
                "responses": responses(&[(200, "Those that are kept, the newest first", Some("BrowserSessionList"))], READ),
            },
            "post": {
                "operationId": "browser_session.begin",
                "tags": ["account"],
                "summary": "Begin a session that a browser proves by a cookie, with no more than the credential that asks has",
                "requestBody": body("application/json", &schema("NewBrowserSession")),
                "responses": with_cookie(begun, "201"),
            },
        },
        "/api/v1/browser-sessions/current": {
            "get": {
                "operationId": "browser_session.current",
                "tags": ["account"],
                "summary": "Read who is signed in by the cookie",
                "responses": responses(&[(200, "The session and its user", Some("CurrentSession"))], READ),
            },
            "delete": {
                "operationId": "browser_session.sign_out",
                "tags": ["account"],
                "summary": "End the session of the cookie, at once",
                "responses": with_cookie(responses(&[(204, "It is over", None)], ENDED), "204"),
            },
        },
        "/api/v1/browser-sessions/{id}": {
            "parameters": [{"name": "id", "in": "path", "required": true, "schema": schema("BrowserSessionId")}],
            "get": {
                "operationId": "browser_session",
                "tags": ["account"],
                "summary": "Read a session of a browser",
                "responses": responses(&[(200, "The session", Some("BrowserSession"))], READ),
            },
            "delete": {
                "operationId": "browser_session.end",
                "tags": ["account"],
                "summary": "End a session of a browser, at once",
                "responses": responses(&[(204, "It is over", None)], ENDED),
            },
        },
        "/sign-in": {
            "get": {
                "operationId": "sign_in.page",
                "tags": ["account"],
                "summary": "The page by which people begin a session of their browser",
                "security": [],
                "responses": pages(&[(200, "The page")]),
            },
            "post": {
                "operationId": "sign_in",
                "tags": ["account"],
                "summary": "What the form of that page does; the credential is in it",
                "security": [],
                "requestBody": body("application/x-www-form-urlencoded", &json!({
                    "type": "object",
                    "required": ["key"],
                    "properties": {
                        "key": {"type": "string", "minLength": 1, "description": "An API key, or a token of an identity provider"},
                        "changes": {"type": "string", "description": "Given, the session may also change things"},
                    },
                })),
                "responses": with_cookie(pages(&[
                    (303, "To the description of the API, with the session's cookie"),
                    (401, "The credential is wrong"),
                    (403, "It does not allow this, or the form came from another site"),
                    (415, "It is no form"),
                    (422, "No credential is in it"),
                    (429, "Too often, or too many wrong ones"),
                ]), "303"),
            },
        },
    });
    match paths {
        Value::Object(paths) => paths,
        _ => Map::new(),
    }
}

/// The schemas of what is told here.
pub(super) fn schemas() -> Map<String, Value> {
    let time = json!({"type": "string", "format": "date-time"});
    let maybe_time = json!({"type": ["string", "null"], "format": "date-time"});
    let names = json!({"type": "string", "enum": Scope::ALL.map(Scope::name)});
    let schemas = json!({
        "BrowserSessionId": {"type": "string", "pattern": "^bws_[0-9a-z]{26}$"},
        "NewBrowserSession": {
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "scopes": {"type": ["array", "null"], "minItems": 1, "items": names},
                "expires": maybe_time,
            },
        },
        "BrowserSession": {
            "type": "object",
            "required": ["id", "key", "scopes", "created", "expires", "ended"],
            "properties": {
                "id": schema("BrowserSessionId"), "key": {"type": ["string", "null"], "pattern": "^key_[0-9a-z]{13}$"},
                "scopes": {"type": "array", "items": names}, "created": time, "expires": time, "ended": maybe_time,
            },
        },
        "BrowserSessionList": {
            "type": "object",
            "required": ["sessions"],
            "properties": {"sessions": {"type": "array", "items": schema("BrowserSession")}},
        },
        "CurrentSession": {
            "type": "object",
            "required": ["session", "user"],
            "properties": {"session": schema("BrowserSession"), "user": schema("User")},
        },
    });
    match schemas {
        Value::Object(schemas) => schemas,
        _ => Map::new(),
    }
}

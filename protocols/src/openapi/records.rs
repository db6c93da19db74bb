//! Sessions, preferences and past commands.

use serde_json::{Map, Value, json};

use super::{body, listing, located, page_of, responses, tagged};
use crate::api::{LANGUAGE_CHARS_MAX, LIST_LIMIT_MAX, TEXT_CHARS_MAX, TIME_ZONE_CHARS_MAX, TaskState};
use crate::workflow::operation_names;

/// The paths, by themselves.
pub(super) fn paths() -> Map<String, Value> {
    let if_match = json!({
        "name": "if-match",
        "in": "header",
        "description": "Change what has this `ETag`, and nothing else",
        "schema": {"type": "string"},
    });
    let preferences =
        body("application/merge-patch+json", &json!({"$ref": "#/components/schemas/PreferencesPatch"}));
    let paths = json!({
        "/api/v1/sessions": {
            "get": {
                "operationId": "sessions",
                "tags": ["sessions"],
                "summary": "List the sessions that are not over, newest first",
                "parameters": listing(false),
                "responses": page_of("SessionList"),
            },
            "post": {
                "operationId": "session.begin",
                "tags": ["sessions"],
                "summary": "Begin a session, which commands that name none go on with",
                "responses": located(responses(
                    &[(201, "It has begun", Some("Session"))],
                    &[401, 403, 409, 413, 425, 431, 503],
                )),
            },
        },
        "/api/v1/preferences": {
            "get": {
                "operationId": "preferences",
                "tags": ["account"],
                "summary": "Read your preferences",
                "responses": tagged(responses(
                    &[(200, "The preferences", Some("Preferences")), (304, "They are what `If-None-Match` names", None)],
                    &[401, 403, 431, 503],
                )),
            },
            "patch": {
                "operationId": "preferences.change",
                "tags": ["account"],
                "summary": "Change your preferences by a merge patch (RFC 7396)",
                "parameters": [if_match],
                "requestBody": preferences,
                "responses": tagged(responses(
                    &[(200, "The preferences as they are now", Some("Preferences"))],
                    &[400, 401, 403, 408, 412, 413, 415, 422, 425, 431, 503],
                )),
            },
        },
        "/api/v1/history": {"get": {
            "operationId": "history",
            "tags": ["commands"],
            "summary": "List past commands, newest first",
            "parameters": history(),
            "responses": page_of("History"),
        }},
    });
    match paths {
        Value::Object(paths) => paths,
        _ => Map::new(),
    }
}

/// What the history can be asked for.
fn history() -> Value {
    let states: Vec<&str> =
        TaskState::ALL.iter().filter(|state| state.is_final()).map(|state| state.name()).collect();
    let operations: Vec<&str> = operation_names().collect();
    let parameter = |name: &str, description: &str, schema: Value| json!({"name": name, "in": "query", "description": description, "schema": schema});
    let time = || json!({"type": "string", "format": "date-time"});
    json!([
        parameter("from", "Accepted at this moment or later", time()),
        parameter("to", "Accepted before this moment", time()),
        parameter(
            "service",
            "Used this service",
            json!({"type": "string", "enum": ["gmail", "calendar", "drive"]})
        ),
        parameter("intent", "Had a step of this operation", json!({"type": "string", "enum": operations})),
        parameter("state", "Ended so", json!({"type": "string", "enum": states})),
        parameter(
            "text",
            "Has all of these words, in any case",
            json!({"type": "string", "maxLength": TEXT_CHARS_MAX}),
        ),
        parameter(
            "limit",
            "Entries of a page",
            json!({"type": "integer", "minimum": 1, "maximum": LIST_LIMIT_MAX})
        ),
        parameter("cursor", "`next` of the page before", json!({"type": "string"})),
    ])
}

/// The schemas of what is told here.
pub(super) fn schemas() -> Map<String, Value> {
    let time = json!({"type": "string", "format": "date-time"});
    let maybe_text = json!({"type": ["string", "null"]});
    let operations: Vec<&str> = operation_names().collect();
    let operation = json!({"type": "string", "enum": operations});
    let mut patch = json!({
        "time_zone": {"type": ["string", "null"], "maxLength": TIME_ZONE_CHARS_MAX, "examples": ["Europe/Berlin"]},
        "language": {
            "type": ["string", "null"],
            "maxLength": LANGUAGE_CHARS_MAX,
            "pattern": "^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$",
        },
        "priority": {"type": ["string", "null"], "enum": ["high", "normal", "batch", null]},
        "confirm": {"type": ["array", "null"], "items": operation},
        "custom": {"type": ["object", "null"]},
    });
    let patched = json!({"type": "object", "additionalProperties": false, "properties": patch.clone()});
    patch["confirm"]["type"] = json!("array");
    patch["custom"]["type"] = json!("object");
    patch["updated"] = json!({"type": ["string", "null"], "format": "date-time"});
    let schemas = json!({
        "PreferencesPatch": patched,
        "Preferences": {
            "type": "object",
            "required": ["time_zone", "language", "priority", "confirm", "custom", "updated"],
            "properties": patch,
        },
        "SessionList": {
            "type": "object",
            "required": ["sessions", "next"],
            "properties": {
                "sessions": {"type": "array", "items": {
                    "type": "object",
                    "required": ["id", "created", "expires", "commands"],
                    "properties": {
                        "id": {"$ref": "#/components/schemas/SessionId"},
                        "created": time,
                        "expires": time,
                        "commands": {"type": "integer", "minimum": 0},
                    },
                }},
                "next": maybe_text,
            },
        },
        "History": {
            "type": "object",
            "required": ["entries", "next"],
            "properties": {
                "entries": {"type": "array", "items": {
                    "type": "object",
                    "required": ["task", "at", "command", "state", "answer", "services", "operations"],
                    "properties": {
                        "task": {"$ref": "#/components/schemas/TaskId"},
                        "at": time,
                        "command": {"type": "string"},
                        "state": {"type": "string"},
                        "answer": maybe_text,
                        "services": {"type": "array", "items": {"type": "string"}},
                        "operations": {"type": "array", "items": {"type": "string"}},
                    },
                }},
                "next": maybe_text,
            },
        },
    });
    match schemas {
        Value::Object(schemas) => schemas,
        _ => Map::new(),
    }
}

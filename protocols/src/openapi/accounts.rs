//! Keys and users in the description of the API.

use serde_json::{Map, Value, json};

use super::{body, listing, responses};
use crate::access::{Role, Scope};
use crate::api::{
    ISSUER_CHARS_MAX, KEY_NAME_CHARS_MAX, SUBJECT_CHARS_MAX, TIME_ZONE_CHARS_MAX, USER_NAME_CHARS_MAX,
};

const READ: &[u16] = &[401, 403, 404, 431, 503];
const WRITTEN: &[u16] = &[400, 401, 403, 404, 408, 409, 413, 415, 422, 425, 431, 500, 503];

fn schema(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn patch(name: &str) -> Value {
    json!({"required": true, "content": {
        "application/merge-patch+json": {"schema": schema(name)},
        "application/json": {"schema": schema(name)},
    }})
}

fn exported() -> Value {
    let mut all = responses(&[(200, "A line for each record; the last one has the kind `end`", None)], READ);
    all["200"]["content"] = json!({"application/x-ndjson": {"schema": {"type": "string"}}});
    all
}

pub(super) fn paths() -> Map<String, Value> {
    let id = |name: &str| json!({"name": "id", "in": "path", "required": true, "schema": schema(name)});
    let paths = json!({
        "/api/v1/keys": {
            "get": {
                "operationId": "keys",
                "tags": ["account"],
                "summary": "List your API keys",
                "responses": responses(&[(200, "All of them", Some("KeyList"))], READ),
            },
            "post": {
                "operationId": "key.make",
                "tags": ["account"],
                "summary": "Make an API key with no more than the credential that asks has",
                "requestBody": body("application/json", &schema("NewKey")),
                "responses": responses(&[(201, "The key, with its text this once", Some("Key"))], WRITTEN),
            },
        },
        "/api/v1/keys/{id}": {
            "parameters": [id("KeyId")],
            "get": {
                "operationId": "key",
                "tags": ["account"],
                "summary": "Read what is known of a key",
                "responses": responses(&[(200, "The key", Some("Key"))], READ),
            },
            "patch": {
                "operationId": "key.edit",
                "tags": ["account"],
                "summary": "Change a key's name, scopes or end (RFC 7396)",
                "requestBody": patch("KeyEdit"),
                "responses": responses(&[(200, "The key", Some("Key"))], WRITTEN),
            },
            "delete": {
                "operationId": "key.revoke",
                "tags": ["account"],
                "summary": "Revoke a key, at once",
                "responses": responses(&[(204, "It is revoked", None)], &[401, 403, 404, 425, 431, 500, 503]),
            },
        },
        "/api/v1/users": {
            "get": {
                "operationId": "users",
                "tags": ["users"],
                "summary": "List users",
                "parameters": listing(false),
                "responses": responses(&[(200, "A page", Some("UserList"))], &[401, 403, 422, 431, 503]),
            },
            "post": {
                "operationId": "user.make",
                "tags": ["users"],
                "summary": "Make a user",
                "requestBody": body("application/json", &schema("NewUser")),
                "responses": responses(&[(201, "The user", Some("User"))], WRITTEN),
            },
        },
        "/api/v1/users/me": {"get": {
            "operationId": "user.me",
            "tags": ["account"],
            "summary": "Read your own user",
            "responses": responses(&[(200, "You", Some("User"))], READ),
        }},
        "/api/v1/users/{id}": {
            "parameters": [id("UserId")],
            "get": {
                "operationId": "user",
                "tags": ["users"],
                "summary": "Read a user",
                "responses": responses(&[(200, "The user", Some("User"))], READ),
            },
            "patch": {
                "operationId": "user.edit",
                "tags": ["users"],
                "summary": "Change a user (RFC 7396)",
                "requestBody": patch("UserEdit"),
                "responses": responses(&[(200, "The user", Some("User"))], WRITTEN),
            },
            "delete": {
                "operationId": "user.disable",
                "tags": ["users"],
                "summary": "Disable a user, at once; nothing of theirs is deleted",
                "responses": responses(&[(204, "The user is disabled", None)], &[401, 403, 404, 409, 425, 431, 500, 503]),
            },
        },
        "/api/v1/users/{id}/erase": {
            "parameters": [id("UserId")],
            "post": {
                "operationId": "user.erase",
                "tags": ["users"],
                "summary": "Erase a user and everything of theirs, for good",
                "requestBody": body("application/json", &schema("Erasure")),
                "responses": responses(&[(200, "Nothing of the user is left", Some("Erased"))], WRITTEN),
            },
        },
        "/api/v1/users/{id}/export": {
            "parameters": [id("UserId")],
            "get": {
                "operationId": "user.export",
                "tags": ["users"],
                "summary": "Export everything of a user, as JSON lines",
                "responses": exported(),
            },
        },
        "/api/v1/users/me/export": {"get": {
            "operationId": "user.me.export",
            "tags": ["account"],
            "summary": "Export everything of yours, as JSON lines",
            "description": "What came of commands is in it when the credential holds `commands:read` as well",
            "responses": exported(),
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
    let maybe_time = json!({"type": ["string", "null"], "format": "date-time"});
    let roles = Role::ALL.map(Role::name);
    let scopes = json!({"type": "array", "items": {"type": "string", "enum": Scope::ALL.map(Scope::name)}});
    let mut some_scopes = scopes.clone();
    some_scopes["minItems"] = json!(1);
    some_scopes["type"] = json!(["array", "null"]);
    let named = |chars_max: usize| json!({"type": "string", "minLength": 1, "maxLength": chars_max, "pattern": "\\S"});
    let email = json!({"type": "string", "format": "email"});
    let zone =
        json!({"type": ["string", "null"], "maxLength": TIME_ZONE_CHARS_MAX, "examples": ["Europe/Berlin"]});
    let identity = json!({
        "type": ["object", "null"],
        "required": ["issuer", "subject"],
        "additionalProperties": false,
        "properties": {"issuer": named(ISSUER_CHARS_MAX), "subject": named(SUBJECT_CHARS_MAX)},
    });
    let schemas = json!({
        "KeyId": {"type": "string", "pattern": "^key_[0-9a-z]{13}$"},
        "UserId": {"type": "string", "pattern": "^usr_[0-9a-z]{26}$"},
        "Erasure": {
            "type": "object",
            "required": ["name"],
            "additionalProperties": false,
            "properties": {"name": named(USER_NAME_CHARS_MAX)},
        },
        "Erased": {
            "type": "object",
            "required": ["user", "begun", "removed", "revoked", "unrevoked"],
            "properties": {
                "user": schema("UserId"), "begun": time,
                "removed": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 1}},
                "revoked": {"type": "integer", "minimum": 0}, "unrevoked": {"type": "integer", "minimum": 0},
            },
        },
        "Key": {
            "type": "object",
            "required": ["id", "name", "prefix", "scopes", "created", "expires", "last_used"],
            "properties": {
                "id": schema("KeyId"), "name": text, "prefix": text, "scopes": scopes, "created": time,
                "expires": maybe_time, "last_used": maybe_time, "key": text,
            },
        },
        "KeyList": {
            "type": "object",
            "required": ["keys"],
            "properties": {"keys": {"type": "array", "items": schema("Key")}},
        },
        "NewKey": {
            "type": "object",
            "required": ["name"],
            "additionalProperties": false,
            "properties": {"name": named(KEY_NAME_CHARS_MAX), "scopes": some_scopes, "expires": maybe_time},
        },
        "KeyEdit": {
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "name": {"type": ["string", "null"], "minLength": 1, "maxLength": KEY_NAME_CHARS_MAX, "pattern": "\\S"},
                "scopes": some_scopes,
                "expires": maybe_time,
            },
        },
        "User": {
            "type": "object",
            "required": ["id", "name", "email", "time_zone", "role", "disabled", "created", "last_active", "tokens_since"],
            "properties": {
                "id": schema("UserId"), "name": text, "email": text, "time_zone": text,
                "role": {"type": "string", "enum": roles}, "disabled": {"type": "boolean"}, "created": time,
                "last_active": maybe_time, "tokens_since": maybe_time,
            },
        },
        "UserList": {
            "type": "object",
            "required": ["users", "next"],
            "properties": {
                "users": {"type": "array", "items": schema("User")}, "next": {"type": ["string", "null"]},
            },
        },
        "NewUser": {
            "type": "object",
            "required": ["name", "email"],
            "additionalProperties": false,
            "properties": {
                "name": named(USER_NAME_CHARS_MAX), "email": email, "time_zone": zone,
                "role": {"type": ["string", "null"], "enum": [roles[0], roles[1], roles[2], null]}, "identity": identity,
            },
        },
        "UserEdit": {
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "email": {"type": ["string", "null"], "format": "email"}, "time_zone": zone,
                "role": {"type": ["string", "null"], "enum": [roles[0], roles[1], roles[2], null]},
                "disabled": {"type": ["boolean", "null"]}, "tokens_since": maybe_time, "identity": identity,
            },
        },
    });
    match schemas {
        Value::Object(schemas) => schemas,
        _ => Map::new(),
    }
}

//! Webhooks: the routes, and what is sent.

use serde_json::{Map, Value, json};

use super::{body, responses};
use crate::api::{WEBHOOK_DESCRIPTION_CHARS_MAX, WEBHOOK_URL_CHARS_MAX, WebhookEvent};

/// The paths, by themselves.
pub(super) fn paths() -> Map<String, Value> {
    let id = json!({"name": "id", "in": "path", "required": true, "schema": {"$ref": "#/components/schemas/WebhookId"}});
    let paths = json!({
        "/api/v1/webhooks": {
            "get": {
                "operationId": "webhooks",
                "tags": ["webhooks"],
                "summary": "List your webhooks, in the order they were made in",
                "responses": responses(&[(200, "All of them", Some("WebhookList"))], &[401, 403, 431, 503]),
            },
            "post": {
                "operationId": "webhook.make",
                "tags": ["webhooks"],
                "summary": "Make a webhook; its secret is shown this once",
                "requestBody": body("application/json", &json!({"$ref": "#/components/schemas/WebhookRequest"})),
                "responses": located(201, responses(
                    &[(201, "The webhook with its secret", Some("WebhookWithSecret"))],
                    &[400, 401, 403, 408, 409, 413, 415, 422, 425, 431, 503],
                )),
            },
        },
        "/api/v1/webhooks/{id}": {
            "parameters": [id],
            "get": {
                "operationId": "webhook",
                "tags": ["webhooks"],
                "summary": "Read a webhook",
                "responses": responses(&[(200, "The webhook", Some("Webhook"))], &[401, 403, 404, 431, 503]),
            },
            "patch": {
                "operationId": "webhook.change",
                "tags": ["webhooks"],
                "summary": "Change a webhook by a merge patch (RFC 7396)",
                "requestBody": body(
                    "application/merge-patch+json",
                    &json!({"$ref": "#/components/schemas/WebhookPatch"}),
                ),
                "responses": responses(
                    &[(200, "The webhook as it is now", Some("Webhook"))],
                    &[400, 401, 403, 404, 408, 413, 415, 422, 425, 431, 503],
                ),
            },
            "delete": {
                "operationId": "webhook.delete",
                "tags": ["webhooks"],
                "summary": "Delete a webhook with the messages that wait for it",
                "responses": responses(&[(204, "It is gone", None)], &[401, 403, 404, 425, 431, 503]),
            },
        },
        "/api/v1/webhooks/{id}/rotate": {"post": {
            "operationId": "webhook.rotate",
            "tags": ["webhooks"],
            "summary": "Give a webhook a new secret; the old one signs beside it for a while",
            "parameters": [id],
            "responses": responses(
                &[(200, "The webhook with its new secret", Some("WebhookWithSecret"))],
                &[401, 403, 404, 413, 425, 431, 503],
            ),
        }},
        "/api/v1/webhooks/{id}/test": {"post": {
            "operationId": "webhook.test",
            "tags": ["webhooks"],
            "summary": "Send a ping to a webhook, once",
            "parameters": [id],
            "responses": located(202, responses(
                &[(202, "It will be sent", Some("WebhookPing"))],
                &[401, 403, 404, 409, 413, 425, 431, 503],
            )),
        }},
        "/api/v1/webhooks/{id}/deliveries": {"get": {
            "operationId": "webhook.deliveries",
            "tags": ["webhooks"],
            "summary": "List the last attempts at a webhook, newest first",
            "parameters": [id],
            "responses": responses(&[(200, "The attempts", Some("WebhookDeliveries"))], &[401, 403, 404, 431, 503]),
        }},
    });
    match paths {
        Value::Object(paths) => paths,
        _ => Map::new(),
    }
}

fn located(status: u16, mut all: Value) -> Value {
    all[status.to_string()]["headers"] =
        json!({"location": {"required": true, "schema": {"type": "string"}}});
    all
}

/// The schemas of what is told here.
pub(super) fn schemas() -> Map<String, Value> {
    let text = json!({"type": "string"});
    let time = json!({"type": "string", "format": "date-time"});
    let subscribable: Vec<_> = WebhookEvent::subscribable().map(WebhookEvent::name).collect();
    let all: Vec<_> = WebhookEvent::ALL.into_iter().map(WebhookEvent::name).collect();
    let url = json!({"type": "string", "format": "uri", "minLength": 1, "maxLength": WEBHOOK_URL_CHARS_MAX, "examples": ["https://example.com/hook"]});
    let events = json!({"type": "array", "minItems": 1, "uniqueItems": true, "items": {"type": "string", "enum": subscribable}});
    let description = json!({"type": ["string", "null"], "maxLength": WEBHOOK_DESCRIPTION_CHARS_MAX});
    let given =
        json!({"url": url, "events": events, "description": description, "enabled": {"type": "boolean"}});
    let mut shown = given.clone();
    shown["id"] = json!({"$ref": "#/components/schemas/WebhookId"});
    shown["disabled_reason"] = json!({"type": ["string", "null"], "enum": ["gone", "failing", null]});
    shown["created"] = time.clone();
    shown["updated"] = time.clone();
    shown["previous_secret_until"] = json!({"type": ["string", "null"], "format": "date-time"});
    let mut with_secret = shown.clone();
    with_secret["secret"] = json!({"type": "string", "pattern": "^whsec_[A-Za-z0-9+/]{43}=$"});
    let mut required = vec![
        "id",
        "url",
        "events",
        "description",
        "enabled",
        "disabled_reason",
        "created",
        "updated",
        "previous_secret_until",
    ];
    let webhook = json!({"type": "object", "required": required, "properties": shown});
    required.push("secret");
    let schemas = json!({
        "WebhookId": {"type": "string", "pattern": "^whk_[0-9a-z]{26}$"},
        "WebhookRequest": {
            "type": "object",
            "required": ["url", "events"],
            "additionalProperties": false,
            "properties": given,
        },
        "WebhookPatch": {"type": "object", "additionalProperties": false, "properties": given},
        "Webhook": webhook,
        "WebhookWithSecret": {"type": "object", "required": required, "properties": with_secret},
        "WebhookList": {
            "type": "object",
            "required": ["webhooks"],
            "properties": {"webhooks": {"type": "array", "items": {"$ref": "#/components/schemas/Webhook"}}},
        },
        "WebhookPing": {
            "type": "object",
            "required": ["id", "event", "location"],
            "properties": {"id": text, "event": text, "location": text},
        },
        "WebhookDeliveries": {
            "type": "object",
            "required": ["deliveries"],
            "properties": {"deliveries": {"type": "array", "items": {
                "type": "object",
                "required": ["id", "event", "attempt", "at", "took_ms", "status", "error", "outcome"],
                "properties": {
                    "id": text,
                    "event": {"type": "string", "enum": all},
                    "attempt": {"type": "integer", "minimum": 0},
                    "at": time,
                    "took_ms": {"type": "integer", "minimum": 0},
                    "status": {"type": ["integer", "null"]},
                    "error": {"type": ["string", "null"]},
                    "outcome": {"type": "string", "enum": ["delivered", "retrying", "given_up"]},
                },
            }}},
        },
    });
    match schemas {
        Value::Object(schemas) => schemas,
        _ => Map::new(),
    }
}

//! Context documents and snapshots of them.

use serde_json::{Map, Value, json};

use super::{body, listing, located, page_of, responses, tagged};
use crate::api::context::{CONTEXT_KEY_CHARS_MAX, CONTEXT_KEY_RESERVED, CONTEXT_TTL_S_MIN, LABEL_CHARS_MAX};

/// The longest life that may be asked for unless the operator says otherwise, in seconds.
const CONTEXT_TTL_S_SHOWN: u64 = 2_592_000;

/// The paths, by themselves.
pub(super) fn paths() -> Map<String, Value> {
    let context_key = json!({
        "name": "key", "in": "path", "required": true,
        "description": format!("Any but `{CONTEXT_KEY_RESERVED}`"),
        "schema": {"type": "string", "pattern": format!("^[A-Za-z0-9][A-Za-z0-9._-]{{0,{}}}$", CONTEXT_KEY_CHARS_MAX - 1)},
    });
    let snapshot_id = json!({"name": "id", "in": "path", "required": true, "schema": {"$ref": "#/components/schemas/SnapshotId"}});
    let content = |description: &str| json!({"description": description, "content": {"*/*": {"schema": {}}}});
    let mut document = responses(
        &[(304, "It is what `If-None-Match` names", None)],
        &[401, 403, 404, 412, 416, 422, 431, 503],
    );
    document["200"] = content("The content, with its media type");
    document["206"] = content("The part that `Range` asks for");
    document["200"]["headers"] = json!({"etag": {"required": true, "schema": {"type": "string"}}});
    document["206"]["headers"] = document["200"]["headers"].clone();
    document["206"]["headers"]["content-range"] = json!({"required": true, "schema": {"type": "string"}});
    let mut written = tagged(located(responses(
        &[(200, "It is written", Some("Document")), (201, "It is new", Some("Document"))],
        &[400, 401, 403, 404, 408, 409, 412, 413, 415, 422, 425, 431, 503],
    )));
    written["201"]["headers"]["etag"] = written["200"]["headers"]["etag"].clone();
    let header = |name: &str, description: &str| json!({"name": name, "in": "header", "description": description, "schema": {"type": "string"}});
    let if_match = header("if-match", "Only what has this `ETag`, or `*` for anything that is there");
    let if_none_match = header("if-none-match", "Not what has this `ETag`, or `*` for nothing that is there");
    let range = header("range", "The part that is wanted: `bytes=0-99`, `bytes=100-` or `bytes=-100`");
    let ttl_s = json!({"name": "ttl_s", "in": "query", "description": "How long it lives, in seconds", "schema": {
        "type": "integer", "minimum": CONTEXT_TTL_S_MIN, "maximum": CONTEXT_TTL_S_SHOWN,
    }});
    // Nothing is content as well.
    let mut sent = body("application/octet-stream", &json!({}));
    sent["required"] = json!(false);
    let paths = json!({
        "/api/v1/context": {"get": {
            "operationId": "context",
            "tags": ["context"],
            "summary": "List context documents by key",
            "parameters": listing(false),
            "responses": page_of("DocumentList"),
        }},
        "/api/v1/context/{key}": {
            "parameters": [context_key],
            "get": {
                "operationId": "context.read",
                "tags": ["context"],
                "summary": "Read a document",
                "parameters": [range, if_none_match.clone()],
                "responses": document,
            },
            "put": {
                "operationId": "context.write",
                "tags": ["context"],
                "summary": "Write a document; its media type is kept",
                "parameters": [ttl_s, if_match.clone(), if_none_match.clone()],
                "requestBody": sent,
                "responses": written,
            },
            "delete": {
                "operationId": "context.delete",
                "tags": ["context"],
                "summary": "Delete a document",
                "parameters": [if_match.clone()],
                "responses": responses(&[(204, "It is gone", None)], &[401, 403, 404, 412, 422, 425, 431, 503]),
            },
        },
        "/api/v1/context/snapshots": {
            "get": {
                "operationId": "context.snapshots",
                "tags": ["context"],
                "summary": "List snapshots, newest first",
                "parameters": listing(false),
                "responses": page_of("SnapshotList"),
            },
            "post": {
                "operationId": "context.snapshots.take",
                "tags": ["context"],
                "summary": "Keep the state of all documents",
                "requestBody": body("application/json", &json!({
                    "type": "object",
                    "additionalProperties": false,
                    "properties": {
                        "label": {"type": ["string", "null"], "minLength": 1, "maxLength": LABEL_CHARS_MAX},
                        "ttl_s": {"type": ["integer", "null"], "minimum": CONTEXT_TTL_S_MIN, "maximum": CONTEXT_TTL_S_SHOWN},
                    },
                })),
                "responses": located(responses(
                    &[(201, "It is kept", Some("Snapshot"))],
                    &[400, 401, 403, 408, 409, 413, 415, 422, 425, 431, 503],
                )),
            },
        },
        "/api/v1/context/snapshots/{id}": {
            "parameters": [snapshot_id.clone()],
            "get": {
                "operationId": "context.snapshot",
                "tags": ["context"],
                "summary": "Tell what a snapshot keeps",
                "responses": responses(&[(200, "The snapshot", Some("Snapshot"))], &[401, 403, 404, 422, 431, 503]),
            },
            "delete": {
                "operationId": "context.snapshot.delete",
                "tags": ["context"],
                "summary": "Delete a snapshot",
                "responses": responses(&[(204, "It is gone", None)], &[401, 403, 404, 422, 425, 431, 503]),
            },
        },
        "/api/v1/context/snapshots/{id}/restore": {"post": {
            "operationId": "context.snapshot.restore",
            "tags": ["context"],
            "summary": "Bring back the documents of a snapshot, and no others",
            "parameters": [snapshot_id],
            "responses": responses(&[(200, "They are back", Some("Snapshot"))], &[401, 403, 404, 422, 425, 431, 503]),
        }},
    });
    match paths {
        Value::Object(paths) => paths,
        _ => Map::new(),
    }
}

/// The schemas of what is told here.
pub(super) fn schemas() -> Map<String, Value> {
    let time = json!({"type": "string", "format": "date-time"});
    let text = json!({"type": "string"});
    let maybe_text = json!({"type": ["string", "null"]});
    let count = json!({"type": "integer", "minimum": 0});
    let schemas = json!({
        "SnapshotId": {"type": "string", "pattern": "^snp_[0-9a-z]{26}$"},
        "Document": {
            "type": "object",
            "required": ["key", "bytes", "stored_bytes", "media_type", "etag", "ttl_s", "created", "changed", "expires"],
            "properties": {
                "key": text, "bytes": count, "stored_bytes": count, "media_type": text, "etag": text, "ttl_s": count,
                "created": time, "changed": time, "expires": time,
            },
        },
        "DocumentList": {
            "type": "object",
            "required": ["documents", "next", "bytes", "bytes_max"],
            "properties": {
                "documents": {"type": "array", "items": {"$ref": "#/components/schemas/Document"}},
                "next": maybe_text, "bytes": count, "bytes_max": count,
            },
        },
        "Snapshot": {
            "type": "object",
            "required": ["id", "label", "created", "expires", "count", "bytes"],
            "properties": {
                "id": {"$ref": "#/components/schemas/SnapshotId"},
                "label": maybe_text, "created": time, "expires": time, "count": count, "bytes": count,
                "documents": {"type": "array", "items": {"$ref": "#/components/schemas/Document"}},
            },
        },
        "SnapshotList": {
            "type": "object",
            "required": ["snapshots", "next"],
            "properties": {
                "snapshots": {"type": "array", "items": {"$ref": "#/components/schemas/Snapshot"}}, "next": maybe_text,
            },
        },
    });
    match schemas {
        Value::Object(schemas) => schemas,
        _ => Map::new(),
    }
}

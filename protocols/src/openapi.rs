//! The description of the API (OpenAPI 3.1), made from the same tables and bounds that the gateway works by.
//!
//! Invariant: the plain surface is described from [`rest::ENDPOINTS`] itself, so a route that is not described does not
//! exist; tests walk the description against a gateway.

mod accounts;
mod browser;
mod connections;
mod context;
pub mod page;
mod records;
mod webhooks;

use serde_json::{Map, Value, json};

use crate::api::{
    COMMAND_CHARS_MAX, DEADLINE_MS_MAX, DEADLINE_MS_MIN, IDEMPOTENCY_KEY_CHARS_MAX, LIST_LIMIT_MAX,
    TIME_ZONE_CHARS_MAX, TaskState, WAIT_MAX,
};
use crate::google::resource::TAG_BYTES_MAX;
use crate::google::rest::{self, Answer, Body, Endpoint, Kind, MailAct, PARAMETER_BYTES_MAX, Parameter};
use crate::http::Method;
use crate::plan::{BODY_CHARS_MAX, Plan, RECIPIENTS_MAX, TITLE_CHARS_MAX};
use crate::problem::ProblemKind;

/// The whole document, for this version of the API's implementation.
#[must_use]
pub fn document(version: &str) -> Value {
    let mut paths = own_paths();
    paths.extend(accounts::paths());
    paths.extend(browser::paths());
    paths.extend(connections::paths());
    paths.extend(records::paths());
    paths.extend(context::paths());
    paths.extend(webhooks::paths());
    for endpoint in rest::ENDPOINTS {
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        path[method(endpoint.method)] = operation(endpoint);
    }
    for (path, operations) in &mut paths {
        let operations = operations.as_object_mut().into_iter().flatten();
        operations.for_each(|(_, operation)| limited(path, operation));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sluice",
            "version": version,
            "summary": "Mail, calendar and files by plain-language commands",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "tags": [
            {"name": "commands", "description": "Plain-language commands and the tasks they become"},
            {"name": "workflows", "description": "Graphs of steps, stored and run by name"},
            {"name": "context", "description": "Documents kept for some days, and snapshots of them"},
            {"name": "sessions", "description": "Conversations"},
            {"name": "connections", "description": "Google accounts, connected by their users' consent"},
            {"name": "webhooks", "description": "Places that are told when tasks end and connections fail, by Standard Webhooks"},
            {"name": "gmail", "description": "Mail as it is"},
            {"name": "calendar", "description": "Events as they are"},
            {"name": "drive", "description": "Files as they are"},
            {"name": "account", "description": "Your own user, your API keys, and what you set for yourself"},
            {"name": "users", "description": "Users, for operators and auditors"},
            {"name": "server", "description": "The gateway itself"},
        ],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key (`sk_...`), or a token of an identity provider that the operator trusts"}, "cookie": {"type": "apiKey", "in": "cookie", "name": "__Host-sluice", "description": "The session of a browser (`/api/v1/browser-sessions`). What changes something counts from this gateway's own pages alone"}},
            "schemas": all_schemas(),
            "responses": {
                "RateLimited": {
                    "description": "A limit on requests is used up, which `limit` names",
                    "headers": {
                        "retry-after": {"required": true, "schema": {"type": "integer", "minimum": 1}},
                        "ratelimit-policy": {"schema": {"type": "string", "examples": ["\"user-minute\";q=100;w=60"]}},
                        "ratelimit": {"schema": {"type": "string", "examples": ["\"user-minute\";r=0;t=1"]}},
                    },
                    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
                },
                "Problem": {
                    "description": "What went wrong (RFC 9457)",
                    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
                },
            },
        },
    })
}

/// Adds what the limits on requests make of every answer. Those that ask whether the server lives are always answered.
fn limited(path: &str, operation: &mut Value) {
    if matches!(path, "/livez" | "/readyz") {
        return;
    }
    // What an item has beside its operations has no answers.
    let Some(responses) = operation.get_mut("responses") else { return };
    // A page tells it as a page.
    if responses["429"].is_null() {
        responses["429"] = json!({"$ref": "#/components/responses/RateLimited"});
    }
}

fn method(method: Method) -> &'static str {
    match method {
        Method::Get => "get",
        Method::Head => "head",
        Method::Post => "post",
        Method::Put => "put",
        Method::Patch => "patch",
        Method::Delete => "delete",
        Method::Options | Method::Other => "options",
    }
}

fn own_paths() -> Map<String, Value> {
    let task_id = json!({"name": "id", "in": "path", "required": true, "schema": {"$ref": "#/components/schemas/TaskId"}});
    let session_id = json!({"name": "id", "in": "path", "required": true, "schema": {"$ref": "#/components/schemas/SessionId"}});
    let workflow_name = json!({
        "name": "name", "in": "path", "required": true,
        "schema": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,63}$"},
    });
    let prefer = json!({
        "name": "prefer",
        "in": "header",
        "description": format!("`wait=N`: answer when the task has ended, or after N seconds, at most {}", WAIT_MAX.as_secs()),
        "schema": {"type": "string", "examples": ["wait=10"]},
    });
    let last_event_id = json!({
        "name": "last-event-id",
        "in": "header",
        "description": "The last event seen: those after it are told",
        "schema": {"type": "string", "examples": ["3"]},
    });
    let told =
        [(200, "Events until the task has ended", None), (204, "The task has ended and all was told", None)];
    let mut events = responses(&told, &[401, 403, 404, 431, 503]);
    // Readers of descriptions differ in what they hold against this: the whole text, or each event taken apart.
    let event = json!({"schema": {
        "type": ["string", "object"],
        "description": "Events as https://html.spec.whatwg.org/#server-sent-events has them; taken apart, each is an object",
        "properties": {"id": {"type": "string"}, "event": {"type": "string"}, "data": {"type": "string"}},
    }});
    events["200"]["content"] = json!({"text/event-stream": event.clone()});
    let mut carried_out = responses(
        &[
            (200, "The finished task, or events until it has ended", Some("Task")),
            (202, "The task is on disk and will be carried out", Some("Accepted")),
        ],
        &[400, 401, 403, 404, 408, 409, 413, 415, 422, 425, 431, 500, 502, 503, 504],
    );
    carried_out["200"]["content"]["text/event-stream"] = event;
    let paths = json!({
        "/api/v1/command": {"post": {
            "operationId": "command",
            "tags": ["commands"],
            "summary": "Carry out a command",
            "requestBody": body("application/json", &json!({"$ref": "#/components/schemas/Command"})),
            "responses": carried_out.clone(),
        }},
        "/api/v1/cache/invalidate": {"post": {
            "operationId": "cache.invalidate",
            "tags": ["server"],
            "summary": "Forget what is remembered of your reads",
            "requestBody": body("application/json", &json!({
                "type": "object",
                "required": ["tags"],
                "additionalProperties": false,
                "properties": {"tags": {
                    "type": "array", "minItems": 1, "maxItems": 100,
                    "items": {"type": "string", "pattern": "^(gmail|calendar|drive)(:[^:/].*)?$", "maxLength": TAG_BYTES_MAX},
                }},
            })),
            "responses": responses(
                &[(200, "How many reads were forgotten", Some("Dropped"))],
                &[400, 401, 403, 408, 413, 415, 422, 425, 431, 503],
            ),
        }},
        "/api/v1/intents/parse": {"post": {
            "operationId": "intents.parse",
            "tags": ["commands"],
            "summary": "Tell what a command means, without doing it",
            "requestBody": body("application/json", &json!({"$ref": "#/components/schemas/Command"})),
            "responses": responses(
                &[(200, "The plan", Some("IntentPlan"))],
                &[400, 401, 403, 404, 408, 409, 413, 415, 422, 425, 431, 500, 502, 503, 504],
            ),
        }},
        "/api/v1/tasks/{id}": {"get": {
            "operationId": "task",
            "tags": ["commands"],
            "summary": "Read a task",
            "parameters": [task_id.clone(), prefer],
            "responses": responses(&[(200, "The task", Some("Task"))], &[401, 403, 404, 431, 503]),
        }},
        "/api/v1/tasks/{id}/events": {"get": {
            "operationId": "task.events",
            "tags": ["commands"],
            "summary": "Follow a task by server-sent events",
            "parameters": [task_id, last_event_id],
            "responses": events,
        }},
        "/api/v1/commands": {"post": {
            "operationId": "commands",
            "tags": ["commands"],
            "summary": "Queue up to 100 commands by one write",
            "requestBody": body("application/json", &json!({
                "type": "object",
                "required": ["commands"],
                "additionalProperties": false,
                "properties": {"commands": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 100,
                    "description": "Commands as `/api/v1/command` takes them; each is judged by itself",
                }},
            })),
            "responses": responses(&[(207, "What became of each", Some("Batch"))], &[400, 401, 403, 404, 408, 409, 413, 415, 422, 425, 431, 500, 503]),
        }},
        "/api/v1/tasks": {"get": {
            "operationId": "tasks",
            "tags": ["commands"],
            "summary": "List tasks, newest first",
            "parameters": listing(true),
            "responses": responses(&[(200, "A page", Some("TaskList"))], &[401, 403, 422, 431, 503]),
        }},
        "/api/v1/tasks/{id}/cancel": {"post": {
            "operationId": "task.cancel",
            "tags": ["commands"],
            "summary": "Cancel a task",
            "parameters": [task_id],
            "responses": responses(
                &[(200, "It is cancelled", Some("Task")), (202, "It is asked to end", Some("Task"))],
                &[401, 403, 404, 409, 425, 431, 503],
            ),
        }},
        "/api/v1/tasks/{id}/confirm": {"post": {
            "operationId": "task.confirm",
            "tags": ["commands"],
            "summary": "Run a task that awaits its confirmation",
            "parameters": [task_id],
            "responses": responses(&[(202, "It runs", Some("Task"))], &[401, 403, 404, 409, 425, 431, 503]),
        }},
        "/api/v1/dead-letters": {"get": {
            "operationId": "dead-letters",
            "tags": ["commands"],
            "summary": "List tasks that were given up",
            "parameters": listing(false),
            "responses": responses(&[(200, "A page", Some("TaskList"))], &[401, 403, 422, 431, 503]),
        }},
        "/api/v1/dead-letters/{id}": {
            "parameters": [task_id],
            "get": {
                "operationId": "dead-letter",
                "tags": ["commands"],
                "summary": "Read a dead letter",
                "responses": responses(&[(200, "The dead letter", Some("Object"))], &[401, 403, 404, 431, 503]),
            },
            "patch": {
                "operationId": "dead-letter.edit",
                "tags": ["commands"],
                "summary": "Edit command, plan or priority (RFC 7396)",
                "requestBody": {"required": true, "content": {
                    "application/merge-patch+json": {"schema": {"type": "object"}},
                    "application/json": {"schema": {"type": "object"}},
                }},
                "responses": responses(
                    &[(200, "The dead letter", Some("Object"))],
                    &[400, 401, 403, 404, 408, 409, 413, 415, 422, 425, 431, 503],
                ),
            },
            "delete": {
                "operationId": "dead-letter.purge",
                "tags": ["commands"],
                "summary": "Throw a dead letter away",
                "responses": responses(&[(204, "It is gone", None)], &[401, 403, 404, 409, 425, 431, 503]),
            },
        },
        "/api/v1/dead-letters/{id}/redrive": {"post": {
            "operationId": "dead-letter.redrive",
            "tags": ["commands"],
            "summary": "Make a dead letter a task again",
            "parameters": [task_id],
            "responses": responses(&[(202, "It waits", Some("Object"))], &[401, 403, 404, 409, 425, 431, 503]),
        }},
        "/api/v1/workflows": {"get": {
            "operationId": "workflows",
            "tags": ["workflows"],
            "summary": "List workflows by name",
            "parameters": listing(false),
            "responses": responses(&[(200, "A page", Some("WorkflowList"))], &[401, 403, 422, 431, 503]),
        }},
        "/api/v1/workflows/check": {"post": {
            "operationId": "workflow.check",
            "tags": ["workflows"],
            "summary": "Check a definition and store nothing",
            "requestBody": body("application/json", &json!({"$ref": "#/components/schemas/WorkflowDefinition"})),
            "responses": responses(
                &[(200, "It is valid", Some("Object"))],
                &[400, 401, 403, 408, 413, 415, 422, 425, 431, 503],
            ),
        }},
        "/api/v1/workflows/{name}": {
            "parameters": [workflow_name],
            "get": {
                "operationId": "workflow",
                "tags": ["workflows"],
                "summary": "Read the newest version of a workflow",
                "responses": responses(
                    &[(200, "The workflow", Some("Workflow")), (304, "It is what `If-None-Match` names", None)],
                    &[401, 403, 404, 431, 503],
                ),
            },
            "put": {
                "operationId": "workflow.store",
                "tags": ["workflows"],
                "summary": "Store a new version of a workflow",
                "requestBody": body("application/json", &json!({"$ref": "#/components/schemas/WorkflowDefinition"})),
                "responses": responses(
                    &[(200, "It is stored", Some("Workflow")), (201, "It is new", Some("Workflow"))],
                    &[400, 401, 403, 404, 408, 409, 412, 413, 415, 422, 425, 431, 503],
                ),
            },
            "delete": {
                "operationId": "workflow.delete",
                "tags": ["workflows"],
                "summary": "Delete a workflow with all its versions",
                "responses": responses(&[(204, "It is gone", None)], &[401, 403, 404, 409, 412, 425, 431, 503]),
            },
        },
        "/api/v1/workflows/{name}/versions": {"get": {
            "operationId": "workflow.versions",
            "tags": ["workflows"],
            "summary": "List the versions that are kept, newest first",
            "parameters": [workflow_name.clone()],
            "responses": responses(&[(200, "The versions", Some("Object"))], &[401, 403, 404, 431, 503]),
        }},
        "/api/v1/workflows/{name}/versions/{version}": {"get": {
            "operationId": "workflow.version",
            "tags": ["workflows"],
            "summary": "Read one version of a workflow",
            "parameters": [
                workflow_name.clone(),
                {"name": "version", "in": "path", "required": true, "schema": {"type": "integer", "minimum": 1}},
            ],
            "responses": responses(
                &[(200, "The workflow", Some("Workflow")), (304, "It is what `If-None-Match` names", None)],
                &[401, 403, 404, 431, 503],
            ),
        }},
        "/api/v1/workflows/{name}/runs": {"post": {
            "operationId": "workflow.run",
            "tags": ["workflows"],
            "summary": "Run a workflow",
            "parameters": [workflow_name.clone()],
            "requestBody": body("application/json", &json!({"$ref": "#/components/schemas/WorkflowRun"})),
            "responses": carried_out,
        }},
        "/api/v1/sessions/{id}": {
            "parameters": [session_id],
            "get": {
                "operationId": "session",
                "tags": ["sessions"],
                "summary": "Read a session",
                "responses": responses(&[(200, "The session", Some("Session"))], &[401, 403, 404, 431, 503]),
            },
            "delete": {
                "operationId": "session.end",
                "tags": ["sessions"],
                "summary": "End a session",
                "responses": responses(&[(204, "It is over", None)], &[401, 403, 404, 431, 503]),
            },
        },
        "/livez": {"get": public("livez", "Whether the process lives", &[(200, "It does", Some("Health"))])},
        "/readyz": {"get": public(
            "readyz",
            "Whether the gateway should be sent requests",
            &[(200, "It should", Some("Health")), (503, "Not now", Some("Health"))],
        )},
        "/docs": {"get": {
            "operationId": "docs",
            "tags": ["server"],
            "summary": "This document as a page for people",
            "security": [],
            "responses": {
                "200": {"description": "It", "content": {"text/html": {"schema": {"type": "string"}}}},
                "304": {"description": "It is what `If-None-Match` names"},
            },
        }},
        "/openapi.json": {"get": {
            "operationId": "openapi",
            "tags": ["server"],
            "summary": "This document",
            "security": [],
            "responses": {"200": {"description": "It", "content": {"application/json": {"schema": {"type": "object"}}}}},
        }},
    });
    match paths {
        Value::Object(paths) => paths,
        _ => Map::new(),
    }
}

/// The parameters of a list.
fn listing(has_state: bool) -> Value {
    let mut parameters = vec![
        json!({"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": LIST_LIMIT_MAX}}),
        json!({"name": "cursor", "in": "query", "description": "`next` of the page before", "schema": {"type": "string"}}),
    ];
    if has_state {
        let states: Vec<&str> = TaskState::ALL.iter().map(|state| state.name()).collect();
        parameters
            .push(json!({"name": "state", "in": "query", "schema": {"type": "string", "enum": states}}));
    }
    Value::Array(parameters)
}

fn public(id: &str, summary: &str, answers: &[(u16, &str, Option<&str>)]) -> Value {
    json!({
        "operationId": id,
        "tags": ["server"],
        "summary": summary,
        "security": [],
        "responses": responses(answers, &[]),
    })
}

fn body(media_type: &str, schema: &Value) -> Value {
    json!({"required": true, "content": {media_type: {"schema": schema}}})
}

fn responses(answers: &[(u16, &str, Option<&str>)], problems: &[u16]) -> Value {
    let mut all = Map::new();
    for (status, description, schema) in answers {
        let mut response = json!({"description": description});
        if let Some(name) = schema {
            let reference = format!("#/components/schemas/{name}");
            response["content"] = json!({"application/json": {"schema": {"$ref": reference}}});
        }
        all.insert(status.to_string(), response);
    }
    for status in problems {
        all.insert(status.to_string(), json!({"$ref": "#/components/responses/Problem"}));
    }
    Value::Object(all)
}

/// The answers of a list that is told page by page.
fn page_of(schema: &str) -> Value {
    let mut all = responses(&[(200, "A page", Some(schema))], &[401, 403, 422, 431, 503]);
    let description = "The next page, as `rel=\"next\"` (RFC 8288); none at the end";
    all["200"]["headers"] = json!({"link": {"description": description, "schema": {"type": "string"}}});
    all
}

/// With `Location` where something was made.
fn located(mut all: Value) -> Value {
    all["201"]["headers"] = json!({"location": {"required": true, "schema": {"type": "string"}}});
    all
}

/// With `ETag` where something is told.
fn tagged(mut all: Value) -> Value {
    all["200"]["headers"] = json!({"etag": {"required": true, "schema": {"type": "string"}}});
    all
}

fn operation(endpoint: &Endpoint) -> Value {
    let in_path = endpoint.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_path = in_path.map(|name| {
        json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "minLength": 1, "maxLength": rest::ID_BYTES_MAX}})
    });
    let in_query = endpoint.parameters.iter().map(parameter);
    let mut parameters: Vec<Value> = in_path.chain(in_query).collect();
    parameters.push(json!({
        "name": rest::ACCOUNT, "in": "query", "schema": {"$ref": "#/components/schemas/ConnectionId"},
        "description": "Which of your accounts is meant; the default one where none is named",
    }));
    if endpoint.effect != rest::Effect::Read {
        parameters.push(idempotency_key());
    }
    if endpoint.heeds_if_match() {
        parameters.push(json!({
            "name": "if-match",
            "in": "header",
            "description": "The event's `ETag` as it was read: it is changed only if it is that still",
            "schema": {"type": "string", "pattern": "^(\\*|\"[!#-~]{1,256}\")$"},
        }));
    }
    let answer = match endpoint.answer {
        Answer::Empty => json!({"204": {"description": "Done"}}),
        Answer::Json => json!({
            "200": {
                "description": "Google's document",
                "content": {"application/json": {"schema": {"type": "object"}}},
            },
            "204": {"description": "Done; there is nothing to show"},
        }),
        Answer::Bytes => json!({"200": {
            "description": "The content",
            "content": {"application/octet-stream": {"schema": {}}},
        }, "206": {
            "description": "The part that `Range` asks for",
            "content": {"application/octet-stream": {"schema": {}}},
        }, "204": {"description": "There is no content"}}),
    };
    let mut all = answer;
    let mut problems = vec![400, 401, 403, 404, 409, 422, 425, 431, 500, 502, 503, 504];
    if endpoint.body.is_some() {
        problems.extend([408, 413, 415]);
    }
    if endpoint.effect != rest::Effect::Read {
        problems.push(412);
    }
    if endpoint.takes_sync_token() {
        problems.push(410);
    }
    if endpoint.effect == rest::Effect::Read && endpoint.method == Method::Get {
        all["304"] = json!({"description": "It is what `If-None-Match` names"});
    }
    for status in problems {
        all[status.to_string()] = json!({"$ref": "#/components/responses/Problem"});
    }
    let mut operation = json!({
        "operationId": endpoint.name,
        "tags": [endpoint.name.split('.').next()],
        "summary": endpoint.summary,
        "parameters": parameters,
        "responses": all,
    });
    if let Some(why) = endpoint.why_unconditional() {
        operation["description"] = json!(format!("`If-Match` is refused (412): {why}."));
    }
    match endpoint.body {
        Body::None | Body::SentDraft => {}
        Body::Json => operation["requestBody"] = body("application/json", &json!({"type": "object"})),
        Body::Bytes => operation["requestBody"] = body("application/octet-stream", &json!({})),
        Body::Mail(act) => operation["requestBody"] = body("application/json", &mail(act)),
    }
    operation
}

fn idempotency_key() -> Value {
    json!({
        "name": "idempotency-key",
        "in": "header",
        "description": "The same key with the same request is answered alike, and the change is made once",
        "schema": {"type": "string", "pattern": format!("^[!-~]{{1,{IDEMPOTENCY_KEY_CHARS_MAX}}}$")},
    })
}

fn parameter(parameter: &Parameter) -> Value {
    let schema = match parameter.kind {
        Kind::Text => json!({"type": "string", "maxLength": PARAMETER_BYTES_MAX}),
        Kind::Integer { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
        Kind::Boolean => json!({"type": "boolean"}),
        Kind::Time => json!({"type": "string", "format": "date-time"}),
        Kind::OneOf(texts) => json!({"type": "string", "enum": texts}),
    };
    json!({"name": parameter.name, "in": "query", "required": parameter.is_required, "schema": schema})
}

fn mail(act: MailAct) -> Value {
    let addresses =
        json!({"type": "array", "maxItems": RECIPIENTS_MAX, "items": {"type": "string", "format": "email"}});
    let mut properties = json!({
        "cc": addresses,
        "bcc": addresses,
        "body": {"type": "string", "maxLength": BODY_CHARS_MAX},
    });
    let mut required = Vec::new();
    if act != MailAct::Reply {
        let mut to = addresses;
        to["minItems"] = json!(1);
        properties["to"] = to;
        required.push("to");
    }
    if matches!(act, MailAct::Send | MailAct::Draft) {
        properties["subject"] = json!({"type": ["string", "null"], "maxLength": TITLE_CHARS_MAX});
    }
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn all_schemas() -> Value {
    let mut all = schemas();
    if let Value::Object(all) = &mut all {
        all.extend(accounts::schemas());
        all.extend(browser::schemas());
        all.extend(connections::schemas());
        all.extend(records::schemas());
        all.extend(context::schemas());
        all.extend(webhooks::schemas());
    }
    all
}

fn schemas() -> Value {
    let time = json!({"type": "string", "format": "date-time"});
    let maybe_time = json!({"type": ["string", "null"], "format": "date-time"});
    let text = json!({"type": "string"});
    let maybe_text = json!({"type": ["string", "null"]});
    let count = json!({"type": "integer", "minimum": 0});
    let kinds: Vec<String> =
        ProblemKind::ALL.iter().map(|kind| format!("/problems/{}", kind.slug())).collect();
    let mut all = json!({
        "TaskId": {"type": "string", "pattern": "^tsk_[0-9a-z]{26}$"},
        "SessionId": {"type": "string", "pattern": "^ses_[0-9a-z]{26}$"},
        "IntentPlan": {
            "type": "object",
            "required": ["intent", "plan", "references", "questions", "time_zone"],
            "properties": {
                "intent": {"type": "object"},
                "plan": {"type": "object"},
                "references": {"type": "array", "items": {"type": "object", "required": ["reference", "item"]}},
                "questions": {"type": "array", "items": {"type": "string"}},
                "time_zone": {"type": "string"},
            },
        },
        "Dropped": {
            "type": "object",
            "required": ["dropped"],
            "properties": {"dropped": {"type": "integer", "minimum": 0}},
        },
        "Command": {
            "type": "object",
            "required": ["command"],
            "additionalProperties": false,
            "properties": {
                "command": {"type": "string", "minLength": 1, "maxLength": COMMAND_CHARS_MAX, "pattern": "\\S"},
                "mode": {"type": ["string", "null"], "enum": ["sync", "async", "stream", "preview", null], "default": "sync"},
                "priority": {"type": ["string", "null"], "enum": ["high", "normal", "batch", null]},
                "session": {"anyOf": [{"$ref": "#/components/schemas/SessionId"}, {"type": "null"}]},
                "account": {"anyOf": [{"$ref": "#/components/schemas/ConnectionId"}, {"type": "null"}]},
                "time_zone": {"type": ["string", "null"], "maxLength": TIME_ZONE_CHARS_MAX, "examples": ["Europe/Berlin"]},
                "deadline_ms": {"type": ["integer", "null"], "minimum": DEADLINE_MS_MIN, "maximum": DEADLINE_MS_MAX},
            },
        },
        "Plan": Plan::json_schema(),
        "Accepted": {
            "type": "object",
            "required": ["id", "state", "session", "location", "created"],
            "properties": {
                "id": {"$ref": "#/components/schemas/TaskId"},
                "state": {"type": "string"},
                "session": {"$ref": "#/components/schemas/SessionId"},
                "location": {"type": "string"},
                "created": time,
            },
        },
        "Task": {
            "type": "object",
            "required": ["id", "state", "mode", "session", "command", "plan", "steps", "answer", "error", "created"],
            "properties": {
                "id": {"$ref": "#/components/schemas/TaskId"},
                "state": {"type": "string"},
                "mode": {"type": "string"},
                "session": {"$ref": "#/components/schemas/SessionId"},
                "account": {"$ref": "#/components/schemas/ConnectionId"},
                "command": text,
                "intent": {"anyOf": [{"$ref": "#/components/schemas/Intent"}, {"type": "null"}]},
                "plan": {"anyOf": [{"$ref": "#/components/schemas/Plan"}, {"type": "null"}]},
                "steps": {"type": "array", "items": {"$ref": "#/components/schemas/Step"}},
                "answer": maybe_text,
                "error": {"anyOf": [{"$ref": "#/components/schemas/Problem"}, {"type": "null"}]},
                "timing": {"anyOf": [{"$ref": "#/components/schemas/Timing"}, {"type": "null"}]},
                "created": time,
                "finished": maybe_time,
            },
        },
        "Intent": {
            "type": "object",
            "required": ["source", "confidence"],
            "properties": {
                "source": {"type": "string", "enum": ["local", "pattern", "model"]},
                "confidence": {"type": "number", "minimum": 0, "maximum": 1},
            },
        },
        "Step": {
            "type": "object",
            "required": ["id", "operation", "state"],
            "properties": {
                "id": {"type": "string", "pattern": "^s[1-9][0-9]?$"},
                "operation": text,
                "state": {"type": "string", "enum": ["pending", "running", "done", "failed", "skipped"]},
                "calls": {"type": "array", "items": {"type": "object"}},
                "items": {"type": "array", "items": {"type": "object"}},
                "text": maybe_text,
                "error": {"anyOf": [{"$ref": "#/components/schemas/Problem"}, {"type": "null"}]},
            },
        },
        "Object": {"type": "object"},
        "Workflow": {
            "type": "object",
            "required": ["name", "version", "created", "updated"],
            "properties": {
                "name": text, "version": {"type": "integer", "minimum": 1}, "created": time, "updated": time,
                "definition": {"type": "object"},
            },
        },
        "WorkflowList": {
            "type": "object",
            "required": ["workflows", "next"],
            "properties": {
                "workflows": {"type": "array", "items": {"$ref": "#/components/schemas/Workflow"}}, "next": maybe_text,
            },
        },
        "WorkflowDefinition": {
            "type": "object",
            "required": ["steps"],
            "additionalProperties": false,
            "properties": {
                "description": maybe_text,
                "input": {"type": ["object", "null"]},
                "steps": {"type": "array", "minItems": 1, "maxItems": crate::workflow::STEPS_MAX, "items": {
                    "type": "object",
                    "required": ["id", "operation"],
                }},
                "on_failure": {"type": "string", "enum": ["compensate", "keep"], "default": "compensate"},
            },
        },
        "WorkflowRun": {
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "input": {"type": ["object", "null"]},
                "version": {"type": ["integer", "null"], "minimum": 1, "maximum": u32::MAX},
                "mode": {"type": ["string", "null"], "enum": ["sync", "async", "stream", "preview", null], "default": "sync"},
                "priority": {"type": ["string", "null"], "enum": ["high", "normal", "batch", null]},
                "session": {"anyOf": [{"$ref": "#/components/schemas/SessionId"}, {"type": "null"}]},
                "account": {"anyOf": [{"$ref": "#/components/schemas/ConnectionId"}, {"type": "null"}]},
                "time_zone": {"type": ["string", "null"], "maxLength": TIME_ZONE_CHARS_MAX, "examples": ["Europe/Berlin"]},
                "deadline_ms": {"type": ["integer", "null"], "minimum": DEADLINE_MS_MIN, "maximum": DEADLINE_MS_MAX},
            },
        },
        "Batch": {
            "type": "object",
            "required": ["items"],
            "properties": {"items": {"type": "array", "items": {
                "type": "object",
                "required": ["status"],
                "properties": {"status": {"type": "integer"}},
            }}},
        },
        "TaskList": {
            "type": "object",
            "required": ["next"],
            "properties": {"tasks": {"type": "array", "items": {"type": "object"}}, "next": maybe_text},
        },
        "Timing": {
            "type": "object",
            "required": ["total_us", "own_us", "openai_us", "google_us"],
            "properties": {
                "total_us": count,
                "own_us": count,
                "openai_us": count,
                "google_us": count,
                "turn_us": count,
                "queue_us": count,
                "quota_us": count,
                "shared_us": count,
            },
        },
        "Session": {
            "type": "object",
            "required": ["id", "created", "expires", "turns"],
            "properties": {
                "id": {"$ref": "#/components/schemas/SessionId"},
                "created": time,
                "expires": time,
                "turns": {"type": "array", "items": {"type": "object"}},
            },
        },
        "Health": {
            "type": "object",
            "required": ["status"],
            "properties": {
                "status": {"type": "string", "enum": ["ok", "starting", "draining", "failing"]},
                "checks": {"type": "array", "items": {"type": "object"}},
            },
        },
    });
    all["Problem"] = json!({
        "type": "object",
        "required": ["type", "title", "status", "detail", "retryable"],
        "properties": {
            "type": {"type": "string", "enum": kinds},
            "title": text,
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": text,
            "instance": text,
            "request_id": text,
            "retryable": {"type": "boolean"},
            "retry_after_s": count,
            "limit": text,
            "link": {"type": "string", "format": "uri"},
            "errors": {"type": "array", "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {"pointer": text, "detail": text},
            }},
            "task": {"type": "object"},
        },
    });
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(reference)) = fields.get("$ref") {
                    found.insert(reference.clone());
                }
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_operation_has_a_name_of_its_own() {
        let document = document("1.2.3");
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for reference in &found {
            assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
        }
        let mut names = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in
                item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters")
            {
                let name = operation["operationId"].as_str().unwrap();
                assert!(names.insert(name.to_owned()), "{method} {path}: {name}");
                assert!(operation["responses"].as_object().is_some_and(|all| !all.is_empty()), "{name}");
            }
        }
        assert!(rest::ENDPOINTS.iter().all(|endpoint| names.contains(endpoint.name)));
    }

    #[test]
    fn a_change_takes_a_condition_or_says_that_it_takes_none() {
        let document = document("1.2.3");
        let page = page::page(&document);
        for endpoint in rest::ENDPOINTS {
            let operation = &document["paths"][endpoint.path][method(endpoint.method)];
            let mut parameters = operation["parameters"].as_array().unwrap().iter();
            let takes = parameters.any(|parameter| parameter["name"] == "if-match");
            let says = operation["description"]
                .as_str()
                .is_some_and(|text| text.starts_with("`If-Match` is refused"));
            let changes = endpoint.effect != rest::Effect::Read;
            assert_eq!((takes || says, takes && says), (changes, false), "{}", endpoint.name);
        }
        assert!(page.contains("Google Drive makes no change on a condition"));
    }

    #[test]
    fn what_a_path_fills_in_is_described() {
        let document = document("1.2.3");
        for endpoint in rest::ENDPOINTS {
            let operation = &document["paths"][endpoint.path][method(endpoint.method)];
            let described = operation["parameters"].as_array().unwrap().iter();
            let in_path = described.filter(|parameter| parameter["in"] == "path").count();
            assert_eq!(in_path, endpoint.path.matches('{').count(), "{}", endpoint.name);
        }
    }
}

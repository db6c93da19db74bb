//! The JSON Schema of a plan, strict as structured outputs ask for.
//!
//! Only keywords of the supported subset stand here: limits of length do not belong to it and are checked
//! after the answer.

use serde_json::{Map, Value, json};

use super::{ExportFormat, LABELS_MAX, LIMIT_MAX, RECIPIENTS_MAX, STEPS_MAX, ShareRole};

const ITEM: &str = r"\$s[1-8]\[[0-9]{1,2}\]|#[mef][0-9]{1,4}";
const TIME: &str = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2})?$";

pub(super) fn plan() -> Value {
    object([
        ("decision", json!({"type": "string", "enum": ["act", "decline"]})),
        ("reason", nullable("For `decline`: one polite sentence to the user. For `act`: null.")),
        (
            "steps",
            json!({"type": "array", "maxItems": STEPS_MAX, "description": "Empty for `decline`.", "items": step()}),
        ),
    ])
}

fn step() -> Value {
    object([
        ("id", step_id()),
        (
            "after",
            json!({
                "type": "array",
                "maxItems": STEPS_MAX,
                "description": "Steps to wait for beyond those whose results are used.",
                "items": step_id(),
            }),
        ),
        ("call", json!({"anyOf": operations()})),
    ])
}

fn operations() -> [Value; 20] {
    [
        operation("gmail.search", [("query", string("Gmail search syntax.")), ("limit", limit())]),
        operation("gmail.read", [("message", item("m"))]),
        operation(
            "gmail.send",
            [
                ("to", recipients(1)),
                ("subject", string("One line.")),
                ("body", string("The whole message as plain text.")),
            ],
        ),
        operation("gmail.reply", [("message", item("m")), ("body", string("The reply as plain text."))]),
        operation(
            "gmail.forward",
            [
                ("message", item("m")),
                ("to", recipients(1)),
                ("body", string("Plain text before the message; may be empty.")),
            ],
        ),
        operation(
            "gmail.draft",
            [
                ("to", recipients(1)),
                ("subject", string("One line.")),
                ("body", string("The whole message as plain text.")),
            ],
        ),
        operation("gmail.label", [("message", item("m")), ("add", labels()), ("remove", labels())]),
        operation("gmail.trash", [("message", item("m"))]),
        operation(
            "calendar.list",
            [
                ("from", time_or_null("Null: from now.")),
                ("to", time_or_null("The end; a date includes that day. Null: open.")),
                ("query", nullable("Words that must occur in the event, or null.")),
                ("limit", limit()),
            ],
        ),
        operation(
            "calendar.create",
            [
                ("title", string("What the event is called.")),
                (
                    "start",
                    json!({"type": "string", "pattern": TIME, "description": "A date makes it all day."}),
                ),
                ("end", time_or_null("For all-day events the last day. Null: one hour, or one day.")),
                ("attendees", recipients(0)),
                ("location", nullable("Where, or null.")),
                ("description", nullable("More about it, or null.")),
            ],
        ),
        operation(
            "calendar.change",
            [
                ("event", item("e")),
                ("title", nullable("Null: unchanged.")),
                ("start", time_or_null("Null: unchanged.")),
                ("end", time_or_null("Null: the duration stays.")),
                ("location", nullable("Null: unchanged.")),
                ("add_attendees", recipients(0)),
            ],
        ),
        operation("calendar.delete", [("event", item("e"))]),
        operation(
            "calendar.free_busy",
            [
                ("from", json!({"type": "string", "pattern": TIME})),
                (
                    "to",
                    json!({"type": "string", "pattern": TIME, "description": "A date includes that day."}),
                ),
                ("people", recipients(0)),
            ],
        ),
        operation("drive.search", [("text", string("Plain words to look for.")), ("limit", limit())]),
        operation("drive.read", [("file", item("f"))]),
        operation(
            "drive.export",
            [
                ("file", item("f")),
                ("format", json!({"type": "string", "enum": ExportFormat::ALL.map(ExportFormat::name)})),
            ],
        ),
        operation(
            "drive.create",
            [
                ("name", string("What it is called.")),
                ("folder", json!({"type": "boolean"})),
                ("text", nullable("What stands in it, or null; null for a folder.")),
            ],
        ),
        operation(
            "drive.share",
            [
                ("file", item("f")),
                ("people", recipients(1)),
                ("role", json!({"type": "string", "enum": ShareRole::ALL.map(ShareRole::name)})),
            ],
        ),
        operation("drive.move", [("file", item("f")), ("folder", item("f"))]),
        operation("drive.trash", [("file", item("f"))]),
    ]
}

fn object<const N: usize>(properties: [(&str, Value); N]) -> Value {
    let required: Vec<&str> = properties.iter().map(|(name, _)| *name).collect();
    let required = json!(required);
    let properties: Map<String, Value> =
        properties.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn operation<const N: usize>(name: &str, fields: [(&str, Value); N]) -> Value {
    let mut schema = object(fields);
    schema["properties"]["operation"] = json!({"type": "string", "enum": [name]});
    if let Some(required) = schema["required"].as_array_mut() {
        required.insert(0, json!("operation"));
    }
    schema
}

fn string(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

fn nullable(description: &str) -> Value {
    json!({"type": ["string", "null"], "description": description})
}

fn time_or_null(description: &str) -> Value {
    json!({"type": ["string", "null"], "pattern": TIME, "description": description})
}

fn limit() -> Value {
    json!({"type": "integer", "minimum": 1, "maximum": LIMIT_MAX})
}

fn labels() -> Value {
    json!({"type": "array", "maxItems": LABELS_MAX, "items": {"type": "string"}})
}

fn step_id() -> Value {
    json!({"type": "string", "enum": ["s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8"]})
}

/// A reference to an item of the kind whose handles start with `letter`.
fn item(letter: &str) -> Value {
    let pattern = format!("^({})$", ITEM.replace("[mef]", letter));
    json!({"type": "string", "pattern": pattern, "description": "$sN[i] or a handle with #."})
}

fn recipients(count_min: usize) -> Value {
    let pattern = format!(r"^(({ITEM})\.from|[^\s@<>,;:()$#]+@[^\s@<>,;:()$#]+)$");
    json!({
        "type": "array",
        "minItems": count_min,
        "maxItems": RECIPIENTS_MAX,
        "items": {"type": "string", "pattern": pattern, "description": "An e-mail address, $sN[i].from or #m1.from."},
    })
}

//! OpenAI's Responses API, with a parser of rules in place of a model.
//! <https://platform.openai.com/docs/api-reference/responses/create>
//!
//! Requests are checked as strictly as the real service does. The user's words
//! `!refuse`, `!nonsense` and `!incomplete` ask for those outcomes.

use serde_json::{Value, json};

use std::sync::atomic::Ordering;

use crate::sim::chance::mix;
use crate::sim::parse::{self, Context};
use crate::sim::plan::Plan;
use crate::sim::schema;
use crate::sim::serve::State;
use crate::sim::wire::{Call, Reply, openai_error};

/// Parameters that the real endpoint takes; others are refused by name.
const PARAMETERS: [&str; 28] = [
    "background",
    "conversation",
    "include",
    "input",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "model",
    "parallel_tool_calls",
    "previous_response_id",
    "prompt",
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning",
    "safety_identifier",
    "service_tier",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "truncation",
    "user",
];
/// `safety_identifier` and `prompt_cache_key` may have this many characters.
const IDENTIFIER_CHARS_MAX: usize = 64;
/// What the user's messages begin with when they carry the session.
const CONTEXT_PREFIX: &str = "Context: ";

/// Answers `POST /v1/responses`.
pub(super) fn respond(state: &State, plan: &Plan, call: &Call, draw: u64) -> Result<(Reply, u64), Reply> {
    let body: Value = serde_json::from_slice(&call.body)
        .map_err(|_| invalid(None, "We could not parse the JSON body of your request."))?;
    let request = Request::read(&body)?;
    let refused = plan.openai.refusal_rate > 0.0 && state.luck.unit() < plan.openai.refusal_rate;
    let (status, content) = if refused { ("completed", refusal()) } else { outcome(state, &request)? };
    let whole = response(&body, status, Some(content), state.clock.now().as_second(), draw);
    let tokens = whole["usage"]["total_tokens"].as_u64().unwrap_or(0);
    let reply = if body["stream"] == true {
        Reply::stream(super::stream::events(&whole, plan.openai.piece()))
    } else {
        Reply::json(200, &whole)
    };
    Ok((reply, tokens))
}

pub(super) fn invalid(param: Option<&str>, message: &str) -> Reply {
    openai_error(400, "invalid_request_error", None, param, message)
}

/// What a model says to the user's `text`, with what the developer's messages carry: the state and the words, which
/// for a refusal are in the second.
pub(super) fn words(
    state: &State,
    messages: &[(String, String)],
    schema: Option<&Value>,
) -> Result<(&'static str, Result<String, String>), Reply> {
    let request =
        Request::new(messages, schema).ok_or_else(|| invalid(Some("messages"), "No user message."))?;
    let (status, content) = outcome(state, &request)?;
    Ok((
        status,
        match content["refusal"].as_str() {
            Some(refusal) => Err(refusal.to_owned()),
            None => Ok(content["text"].as_str().unwrap_or_default().to_owned()),
        },
    ))
}

/// What of the request matters here.
pub(super) struct Request<'a> {
    /// The last message of the user.
    text: String,
    /// The session, from the last message that carries it.
    context: Option<Value>,
    /// The schema of `text.format`.
    schema: Option<&'a Value>,
}

impl<'a> Request<'a> {
    fn read(body: &'a Value) -> Result<Self, Reply> {
        let map = body.as_object().ok_or_else(|| invalid(None, "The body must be a JSON object."))?;
        if let Some(name) = map.keys().find(|name| !PARAMETERS.contains(&name.as_str())) {
            let message = format!("Unknown parameter: '{name}'.");
            return Err(openai_error(
                400,
                "invalid_request_error",
                Some("unknown_parameter"),
                Some(name),
                &message,
            ));
        }
        match body["model"].as_str() {
            Some(model) if !model.is_empty() => {}
            _ => return Err(missing("model")),
        }
        check_scalars(body)?;
        let messages = read_input(&body["input"])?;
        let schema = read_format(&body["text"])?;
        Self::new(&messages, schema).ok_or_else(|| invalid(Some("input"), "No user message."))
    }

    fn new(messages: &[(String, String)], schema: Option<&'a Value>) -> Option<Self> {
        let text = messages.iter().rev().find(|(role, _)| role == "user").map(|(_, text)| text.clone())?;
        let context = messages
            .iter()
            .rev()
            .filter(|(role, _)| role == "developer" || role == "system")
            .find_map(|(_, text)| serde_json::from_str(text.strip_prefix(CONTEXT_PREFIX)?).ok());
        Some(Self { text, context, schema })
    }
}

pub(super) fn missing(name: &str) -> Reply {
    let message = format!("Missing required parameter: '{name}'.");
    openai_error(400, "invalid_request_error", Some("missing_required_parameter"), Some(name), &message)
}

pub(super) fn wrong_type(name: &str, wanted: &str) -> Reply {
    let message = format!("Invalid type for '{name}': expected {wanted}.");
    openai_error(400, "invalid_request_error", Some("invalid_type"), Some(name), &message)
}

fn check_scalars(body: &Value) -> Result<(), Reply> {
    for name in ["store", "stream", "background", "parallel_tool_calls"] {
        if !(body[name].is_null() || body[name].is_boolean()) {
            return Err(wrong_type(name, "a boolean"));
        }
    }
    for name in ["instructions", "prompt_cache_key", "safety_identifier", "user", "previous_response_id"] {
        if !(body[name].is_null() || body[name].is_string()) {
            return Err(wrong_type(name, "a string"));
        }
    }
    for name in ["prompt_cache_key", "safety_identifier"] {
        if body[name].as_str().is_some_and(|text| text.chars().count() > IDENTIFIER_CHARS_MAX) {
            let message =
                format!("Invalid '{name}': string too long. Expected a string with maximum length 64.");
            return Err(openai_error(
                400,
                "invalid_request_error",
                Some("string_above_max_length"),
                Some(name),
                &message,
            ));
        }
    }
    if body["background"] == true {
        return Err(invalid(Some("background"), "The simulator has no background mode."));
    }
    if !(body["max_output_tokens"].is_null() || body["max_output_tokens"].as_u64().is_some_and(|n| n >= 16)) {
        return Err(wrong_type("max_output_tokens", "an integer of at least 16"));
    }
    if !(body["temperature"].is_null()
        || body["temperature"].as_f64().is_some_and(|t| (0.0..=2.0).contains(&t)))
    {
        return Err(wrong_type("temperature", "a decimal from 0 to 2"));
    }
    Ok(())
}

/// The messages of `input` as role and text.
fn read_input(input: &Value) -> Result<Vec<(String, String)>, Reply> {
    let list = match input {
        Value::Null => return Err(missing("input")),
        Value::String(text) => return Ok(vec![("user".to_owned(), text.clone())]),
        Value::Array(list) if !list.is_empty() => list,
        _ => return Err(wrong_type("input", "a string or a list of input items")),
    };
    let mut messages = Vec::with_capacity(list.len());
    for (index, item) in list.iter().enumerate() {
        let place = format!("input[{index}]");
        if !(item["type"].is_null() || item["type"] == "message") {
            return Err(wrong_type(&format!("{place}.type"), "'message'"));
        }
        let role = match item["role"].as_str() {
            Some(role) if matches!(role, "user" | "assistant" | "system" | "developer") => role,
            _ => {
                let message = format!(
                    "Invalid value for '{place}.role'. Supported values are: 'assistant', 'system', 'developer', and 'user'."
                );
                let param = format!("{place}.role");
                return Err(openai_error(
                    400,
                    "invalid_request_error",
                    Some("invalid_value"),
                    Some(&param),
                    &message,
                ));
            }
        };
        let text = match &item["content"] {
            Value::String(text) => text.clone(),
            Value::Array(parts) => read_parts(parts, role, &place)?,
            _ => return Err(missing(&format!("{place}.content"))),
        };
        messages.push((role.to_owned(), text));
    }
    Ok(messages)
}

fn read_parts(parts: &[Value], role: &str, place: &str) -> Result<String, Reply> {
    let wanted = if role == "assistant" { "output_text" } else { "input_text" };
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        match part["text"].as_str() {
            Some(piece) if part["type"] == wanted => text.push_str(piece),
            _ => return Err(wrong_type(&format!("{place}.content[{index}]"), wanted)),
        }
    }
    Ok(text)
}

/// The schema of a strict `json_schema` format; `None` for plain text.
fn read_format(text: &Value) -> Result<Option<&Value>, Reply> {
    let Some(format) = text.get("format").filter(|format| !format.is_null()) else { return Ok(None) };
    match format["type"].as_str() {
        Some("text") => return Ok(None),
        Some("json_schema") => {}
        _ => return Err(wrong_type("text.format.type", "'text' or 'json_schema'")),
    }
    let name = format["name"].as_str().unwrap_or_default();
    let is_name_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.is_empty() {
        return Err(missing("text.format.name"));
    }
    if name.len() > 64 || !name.chars().all(is_name_char) {
        return Err(invalid(
            Some("text.format.name"),
            "Invalid 'text.format.name': expected ^[a-zA-Z0-9_-]+$, at most 64.",
        ));
    }
    let schema = format.get("schema").ok_or_else(|| missing("text.format.schema"))?;
    if format["strict"] != true {
        // The real service would answer without a promise; nothing here can use that.
        return Err(invalid(
            Some("text.format.strict"),
            "Only strict schemas are simulated: set 'strict' to true.",
        ));
    }
    schema::check_strict(schema).map_err(|reason| {
        let message = format!("Invalid schema for response_format '{name}': {reason}");
        openai_error(
            400,
            "invalid_request_error",
            Some("invalid_json_schema"),
            Some("text.format.schema"),
            &message,
        )
    })?;
    Ok(Some(schema))
}

fn refusal() -> Value {
    json!({"type": "refusal", "refusal": "I'm sorry, but I can't help with that."})
}

/// The state of the response and its content.
fn outcome(state: &State, request: &Request<'_>) -> Result<(&'static str, Value), Reply> {
    let text = |text: String| json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []});
    if request.text.contains("!refuse") {
        return Ok(("completed", refusal()));
    }
    if request.text.contains("!nonsense") {
        return Ok((
            "completed",
            text("{\"decision\":\"act\",\"steps\":[{\"id\":\"s1\",\"call\":{".to_owned()),
        ));
    }
    if request.text.contains("!incomplete") {
        return Ok(("incomplete", text("{\"decision\":\"act\",\"reason\":null,\"st".to_owned())));
    }
    let Some(schema) = request.schema else {
        return Ok(("completed", text(format!("You said: {}", request.text))));
    };
    let context = match &request.context {
        Some(context) => Context::from_json(context),
        None => Context::at(state.clock.now_civil().datetime()),
    };
    let plan = state
        .annotations
        .plan(&request.text, &context)
        .unwrap_or_else(|| parse::plan(&request.text, &context));
    let plan = plan.to_json();
    // A real model is held to the schema while it writes; here a plan that does not
    // fit shows that the two sides disagree about plans, and must not pass unseen.
    let fits = parse::check(&plan).and_then(|()| schema::check_value(schema, &plan));
    fits.map_err(|reason| {
        state.counts.plans_unfit.fetch_add(1, Ordering::Relaxed);
        openai_error(500, "server_error", None, None, &format!("The simulated plan does not fit: {reason}"))
    })?;
    Ok(("completed", text(plan.to_string())))
}

fn response(request: &Value, status: &str, content: Option<Value>, created_at: i64, draw: u64) -> Value {
    let tokens = |value: &Value| value.to_string().len().div_ceil(4);
    let id = |prefix: &str, salt: u64| {
        format!("{prefix}_{:016x}{:016x}", mix(draw ^ salt), mix(draw ^ salt ^ 0xffff))
    };
    let input_tokens = tokens(&request["input"]) + tokens(&request["instructions"]);
    let output_tokens = content.as_ref().map_or(0, tokens);
    let or = |name: &str, usual: Value| request.get(name).cloned().unwrap_or(usual);
    let incomplete =
        if status == "incomplete" { json!({"reason": "max_output_tokens"}) } else { Value::Null };
    let message = content.map(|content| {
        json!({"id": id("msg", 1), "type": "message", "status": status, "role": "assistant", "content": [content]})
    });
    json!({
        "id": id("resp", 0), "object": "response", "created_at": created_at, "status": status, "background": false,
        "error": null, "incomplete_details": incomplete, "instructions": or("instructions", Value::Null),
        "max_output_tokens": or("max_output_tokens", Value::Null), "model": request["model"],
        "output": message.into_iter().collect::<Vec<_>>(), "parallel_tool_calls": or("parallel_tool_calls", json!(true)),
        "previous_response_id": or("previous_response_id", Value::Null),
        "prompt_cache_key": or("prompt_cache_key", Value::Null),
        "reasoning": or("reasoning", json!({"effort": null, "summary": null})),
        "safety_identifier": or("safety_identifier", Value::Null), "service_tier": "default",
        "store": or("store", json!(true)), "temperature": or("temperature", json!(1.0)),
        "text": or("text", json!({"format": {"type": "text"}})), "tool_choice": or("tool_choice", json!("auto")),
        "tools": or("tools", json!([])), "top_p": or("top_p", json!(1.0)), "truncation": or("truncation", json!("disabled")),
        "usage": {"input_tokens": input_tokens, "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": output_tokens, "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": input_tokens + output_tokens},
        "user": or("user", Value::Null), "metadata": or("metadata", json!({})),
    })
}

//! Chat completions, as much of them as a plain client uses: messages in, text out, at once or in chunks.

use bytes::Bytes;
use serde_json::{Value, json};

use super::responses::{invalid, missing, words, wrong_type};
use crate::sim::chance::mix;
use crate::sim::plan::Plan;
use crate::sim::serve::State;
use crate::sim::wire::{Call, Piece, Reply};

/// `GET /v1/models`.
pub(super) fn models() -> Reply {
    let model =
        |id: &str| json!({"id": id, "object": "model", "created": 1_750_000_000, "owned_by": "simulated"});
    Reply::json(200, &json!({"object": "list", "data": [model("gpt-5-mini"), model("gpt-5")]}))
}

/// Answers `POST /v1/chat/completions`; the second are its tokens.
pub(super) fn complete(state: &State, plan: &Plan, call: &Call, draw: u64) -> Result<(Reply, u64), Reply> {
    let body: Value = serde_json::from_slice(&call.body)
        .map_err(|_| invalid(None, "We could not parse the JSON body of your request."))?;
    let model = body["model"].as_str().filter(|model| !model.is_empty()).ok_or_else(|| missing("model"))?;
    let messages = messages(&body["messages"])?;
    let format = &body["response_format"];
    let schema = match format["type"].as_str() {
        Some("json_schema") if format["json_schema"]["strict"] == true => {
            let schema = format["json_schema"].get("schema");
            Some(schema.ok_or_else(|| missing("response_format.json_schema.schema"))?)
        }
        None | Some("text" | "json_schema" | "json_object") => None,
        Some(_) => return Err(wrong_type("response_format.type", "'text', 'json_object' or 'json_schema'")),
    };
    let (status, said) = words(state, &messages, schema)?;
    let text = said.as_ref().map_or_else(|refusal| refusal.as_str(), String::as_str);
    let count = |text: &str| u64::try_from(text.len().div_ceil(4)).unwrap_or(0);
    let prompt = messages.iter().map(|(_, text)| count(text)).sum::<u64>();
    let usage = json!({"prompt_tokens": prompt, "completion_tokens": count(text), "total_tokens": prompt + count(text)});
    let finish = if status == "incomplete" { "length" } else { "stop" };
    let head = json!({"id": format!("chatcmpl-{:016x}", mix(draw)), "created": state.clock.now().as_second(),
        "model": model, "service_tier": "default", "system_fingerprint": "fp_simulated"});
    let tokens = prompt + count(text);
    if body["stream"] == true {
        let with_usage = body["stream_options"]["include_usage"] == true;
        let pieces = chunks(&head, &said, finish, with_usage.then_some(&usage), plan.openai.piece());
        return Ok((Reply::stream(pieces), tokens));
    }
    let mut answer = head;
    let content = said.as_ref().ok();
    answer["object"] = "chat.completion".into();
    answer["choices"] = json!([{"index": 0, "finish_reason": finish, "logprobs": null, "message":
        {"role": "assistant", "content": content, "refusal": said.as_ref().err(), "annotations": []}}]);
    answer["usage"] = usage;
    Ok((Reply::json(200, &answer), tokens))
}

fn messages(value: &Value) -> Result<Vec<(String, String)>, Reply> {
    let list = value.as_array().filter(|list| !list.is_empty()).ok_or_else(|| missing("messages"))?;
    let read = |(index, item): (usize, &Value)| {
        let place = format!("messages[{index}]");
        let role = item["role"].as_str().ok_or_else(|| missing(&format!("{place}.role")))?;
        if !matches!(role, "system" | "developer" | "user" | "assistant" | "tool") {
            return Err(invalid(Some(&format!("{place}.role")), "Invalid value: the role is not known."));
        }
        let text = match &item["content"] {
            Value::String(text) => text.clone(),
            Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
            _ => return Err(wrong_type(&format!("{place}.content"), "a string or a list of parts")),
        };
        Ok((role.to_owned(), text))
    };
    list.iter().enumerate().map(read).collect()
}

/// The chunks of an answer, and the end of the stream.
fn chunks(
    head: &Value,
    said: &Result<String, String>,
    finish: &str,
    usage: Option<&Value>,
    pace: std::time::Duration,
) -> Vec<Piece> {
    let chunk = |choices: Value| {
        let mut chunk = head.clone();
        chunk["object"] = "chat.completion.chunk".into();
        chunk["choices"] = choices;
        if usage.is_some() {
            chunk["usage"] = Value::Null;
        }
        chunk
    };
    let delta = |delta: Value, finish: Value| {
        chunk(json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]))
    };
    let (field, text) = match said {
        Ok(text) => ("content", text),
        Err(refusal) => ("refusal", refusal),
    };
    let none = std::time::Duration::ZERO;
    let mut all = vec![(none, delta(json!({"role": "assistant", "content": ""}), Value::Null))];
    for piece in super::stream::pieces_of(text) {
        let mut said = json!({});
        said[field] = piece.into();
        all.push((pace, delta(said, Value::Null)));
    }
    all.push((none, delta(json!({}), finish.into())));
    if let Some(usage) = usage {
        let mut last = chunk(json!([]));
        last["usage"] = usage.clone();
        all.push((none, last));
    }
    let written = all.into_iter().map(|(wait, value)| (wait, Bytes::from(format!("data: {value}\n\n"))));
    written.chain([(none, Bytes::from_static(b"data: [DONE]\n\n"))]).collect()
}

//! A response as a stream of typed events, numbered, in the order the real service sends them.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::sim::wire::Piece;

/// Characters of a piece of text; about one token.
const PIECE_CHARS: usize = 4;

/// The text in pieces of about a token.
pub(super) fn pieces_of(text: &str) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    letters.chunks(PIECE_CHARS).map(|chunk| chunk.iter().collect()).collect()
}

/// The events of a response that is finished in `whole`.
pub(super) fn events(whole: &Value, pace: Duration) -> Vec<Piece> {
    let mut events: Vec<(Duration, Value)> = Vec::new();
    let mut begun = whole.clone();
    begun["status"] = "in_progress".into();
    begun["output"] = json!([]);
    begun["usage"] = Value::Null;
    begun["incomplete_details"] = Value::Null;
    let at_once = Duration::ZERO;
    events.push((at_once, json!({"type": "response.created", "response": begun})));
    events.push((at_once, json!({"type": "response.in_progress", "response": begun})));
    let items = whole["output"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (index, item) in items.iter().enumerate() {
        let mut blank = item.clone();
        blank["status"] = "in_progress".into();
        blank["content"] = json!([]);
        events.push((
            at_once,
            json!({"type": "response.output_item.added", "output_index": index, "item": blank}),
        ));
        let parts = item["content"].as_array().map(Vec::as_slice).unwrap_or_default();
        for (content_index, part) in parts.iter().enumerate() {
            let place = json!({"item_id": item["id"], "output_index": index, "content_index": content_index});
            events.extend(part_events(&place, part, pace));
        }
        events.push((
            at_once,
            json!({"type": "response.output_item.done", "output_index": index, "item": item}),
        ));
    }
    let end = if whole["status"] == "incomplete" { "response.incomplete" } else { "response.completed" };
    events.push((at_once, json!({"type": end, "response": whole})));
    let numbered = events.into_iter().enumerate();
    numbered
        .map(|(number, (wait, mut event))| {
            event["sequence_number"] = json!(number);
            let name = event["type"].as_str().unwrap_or_default();
            (wait, Bytes::from(format!("event: {name}\ndata: {event}\n\n")))
        })
        .collect()
}

fn part_events(place: &Value, part: &Value, pace: Duration) -> Vec<(Duration, Value)> {
    let (field, kind) = match part["type"].as_str() {
        Some("refusal") => ("refusal", "response.refusal"),
        _ => ("text", "response.output_text"),
    };
    let event = |kind: String, more: Value| {
        let mut event = place.clone();
        event["type"] = kind.into();
        if let (Some(event), Value::Object(more)) = (event.as_object_mut(), more) {
            event.extend(more);
        }
        event
    };
    let text = part[field].as_str().unwrap_or_default();
    let is_text = field == "text";
    let mut blank = part.clone();
    blank[field] = "".into();
    let mut events =
        vec![(Duration::ZERO, event("response.content_part.added".to_owned(), json!({"part": blank})))];
    for piece in pieces_of(text) {
        let mut delta = json!({"delta": piece});
        if is_text {
            delta["logprobs"] = json!([]);
        }
        events.push((pace, event(format!("{kind}.delta"), delta)));
    }
    let mut whole = json!({});
    whole[field] = text.into();
    if is_text {
        whole["logprobs"] = json!([]);
    }
    events.push((Duration::ZERO, event(format!("{kind}.done"), whole)));
    events.push((Duration::ZERO, event("response.content_part.done".to_owned(), json!({"part": part}))));
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_text_again_and_numbers_have_no_gap() {
        let whole = json!({"id": "r", "status": "completed", "output": [{"id": "m", "type": "message",
            "status": "completed", "content": [{"type": "output_text", "text": "h\u{e9}llo, world", "annotations": []}]}]});
        let events = events(&whole, Duration::from_millis(3));
        let read = |bytes: &Bytes| -> Value {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            serde_json::from_str(text.split_once("data: ").unwrap().1).unwrap()
        };
        let values: Vec<Value> = events.iter().map(|(_, bytes)| read(bytes)).collect();
        assert!(values.iter().enumerate().all(|(at, event)| event["sequence_number"] == at));
        let text: String = values.iter().filter_map(|event| event["delta"].as_str()).collect();
        assert_eq!(text, "h\u{e9}llo, world");
        assert_eq!(values.last().unwrap()["response"], whole);
        let waits: Duration = events.iter().map(|(wait, _)| *wait).sum();
        assert_eq!(waits, Duration::from_millis(9));
    }
}

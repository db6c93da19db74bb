use proptest::prelude::*;

use super::*;
use crate::plan::Person;

fn context() -> Context {
    let item = Item {
        kind: ItemKind::Message,
        id: "18c".to_owned(),
        title: "Budget".to_owned(),
        person: Some(Person { name: Some("Anna Berg".to_owned()), address: "anna@example.com".to_owned() }),
        when: Some("2026-11-20T09:12:00Z".to_owned()),
        thread_id: None,
        message_id_header: None,
        snippet: Some("private".to_owned()),
    };
    let turn = ContextTurn {
        turn: 1,
        command: "find the mail from Anna".to_owned(),
        items: vec![ContextItem::new("m1".parse().expect("a handle"), &item)],
    };
    Context::new("2026-11-23T15:04".parse().expect("a time"), "Europe/Berlin", vec![turn])
}

#[test]
fn a_request_is_strict_and_unstored() {
    let request = PlanRequest::new("gpt-x", "reply \"yes\" to her", &context(), "ab12").to_json();
    let request: Value = serde_json::from_str(&request).expect("json");
    assert_eq!(request["model"], "gpt-x");
    assert_eq!(request["store"], false);
    assert_eq!(request["instructions"], INSTRUCTIONS);
    assert_eq!(request["prompt_cache_key"], "sluice-plan-v4");
    assert_eq!(request["safety_identifier"], "ab12");
    assert_eq!(request["input"][1], json!({"role": "user", "content": "reply \"yes\" to her"}));
    let format = &request["text"]["format"];
    assert_eq!(
        (&format["type"], &format["name"], &format["strict"]),
        (&json!("json_schema"), &json!("plan"), &json!(true))
    );
    assert_eq!(format["schema"], Plan::json_schema());
}

#[test]
fn the_context_is_told_as_json_by_the_developer() {
    let request = json!(PlanRequest::new("gpt-x", "x", &context(), "ab12"));
    assert_eq!(request["input"][0]["role"], "developer");
    let content = request["input"][0]["content"].as_str().expect("a text");
    let told: Value =
        serde_json::from_str(content.strip_prefix("Context: ").expect("the prefix")).expect("json");
    assert_eq!(
        told,
        json!({
            "now": "2026-11-23T15:04", "weekday": "Monday", "time_zone": "Europe/Berlin",
            "recent": [{
                "turn": 1, "command": "find the mail from Anna",
                "items": [{
                    "handle": "m1", "kind": "message", "title": "Budget",
                    "person": "Anna Berg <anna@example.com>", "when": "2026-11-20T09:12:00Z",
                }],
            }],
        })
    );
    assert_eq!(serde_json::from_value::<Context>(told).expect("parses"), context());
}

#[test]
fn the_context_keeps_the_newest_turns_and_the_first_items() {
    let item = context().recent[0].items[0].clone();
    let turns =
        (1..=15).map(|turn| ContextTurn { turn, command: String::new(), items: vec![item.clone(); 30] });
    let context = Context::new("2026-11-23".parse().expect("a day"), "UTC", turns.collect());
    let numbers: Vec<u32> = context.recent.iter().map(|turn| turn.turn).collect();
    assert_eq!(numbers, (6..=15).collect::<Vec<_>>());
    assert!(context.recent.iter().all(|turn| turn.items.len() == CONTEXT_ITEMS_MAX));
}

#[test]
fn the_instructions_name_every_operation() {
    let schema = Plan::json_schema();
    let calls =
        schema["properties"]["steps"]["items"]["properties"]["call"]["anyOf"].as_array().expect("choices");
    for call in calls {
        let name = call["properties"]["operation"]["enum"][0].as_str().expect("a name");
        assert!(INSTRUCTIONS.contains(&format!("\n- {name}: ")), "{name}");
    }
}

fn response(status: &str, output: &Value) -> Vec<u8> {
    json!({"id": "resp_1", "object": "response", "status": status, "output": output}).to_string().into_bytes()
}

#[test]
fn the_text_of_the_message_is_the_answer() {
    let output = json!([
        {"type": "reasoning", "summary": []},
        {"type": "message", "role": "assistant", "content": [
            {"type": "output_text", "text": "{\"a\":", "annotations": []},
            {"type": "output_text", "text": "1}"},
        ]},
    ]);
    assert_eq!(
        parse_response(&response("completed", &output)),
        Ok(ModelAnswer::Text("{\"a\":1}".to_owned()))
    );
}

#[test]
fn a_refusal_is_no_text() {
    let output = json!([{"type": "message", "content": [{"type": "refusal", "refusal": "I cannot."}]}]);
    assert_eq!(
        parse_response(&response("completed", &output)),
        Ok(ModelAnswer::Refusal("I cannot.".to_owned()))
    );
}

#[test]
fn unfinished_responses_are_errors() {
    let cut =
        json!({"status": "incomplete", "output": [], "incomplete_details": {"reason": "max_output_tokens"}});
    let error = parse_response(cut.to_string().as_bytes()).expect_err("incomplete");
    assert_eq!(error, ResponseError::Incomplete("max_output_tokens".to_owned()));
    assert!(!error.is_retryable());
    let failed =
        json!({"status": "failed", "output": [], "error": {"code": "server_error", "message": "oops\n"}});
    let error = parse_response(failed.to_string().as_bytes()).expect_err("failed");
    assert_eq!(error, ResponseError::Failed("oops ".to_owned()));
    assert!(error.is_retryable());
    assert_eq!(parse_response(&response("completed", &json!([]))), Err(ResponseError::Empty));
    let silent = json!([{"type": "message", "content": [{"type": "output_text", "text": " "}]}]);
    assert_eq!(parse_response(&response("completed", &silent)), Err(ResponseError::Empty));
    let odd = parse_response(&response("in_progress", &json!([])));
    assert_eq!(odd, Err(ResponseError::Incomplete("in_progress".to_owned())));
}

#[test]
fn nonsense_is_malformed() {
    for body in ["", "<html>", "[]", "{}", "{\"status\": 5}", "{\"status\": \"completed\", \"output\": [{}]}"]
    {
        assert!(matches!(parse_response(body.as_bytes()), Err(ResponseError::Malformed(_))), "{body}");
    }
}

fn error_body(code: &str, kind: &str) -> Vec<u8> {
    json!({"error": {"code": code, "type": kind, "message": "Too many\r\nrequests", "param": null}})
        .to_string()
        .into_bytes()
}

#[test]
fn limits_are_retryable_and_an_empty_account_is_not() {
    let limited = OpenAiError::classify(429, &error_body("rate_limit_exceeded", "requests"));
    assert_eq!((limited.fault, limited.retryable), (OpenAiFault::RateLimited, true));
    assert_eq!(limited.code.as_deref(), Some("rate_limit_exceeded"));
    assert_eq!(limited.message, "Too many  requests");
    for (code, kind) in [("insufficient_quota", "x"), ("x", "insufficient_quota")] {
        let empty = OpenAiError::classify(429, &error_body(code, kind));
        assert_eq!((empty.fault, empty.retryable), (OpenAiFault::QuotaExhausted, false));
    }
}

#[test]
fn a_status_is_enough_when_the_body_says_nothing() {
    let of = |status| {
        let error = OpenAiError::classify(status, b"<html>");
        (error.fault, error.retryable)
    };
    for status in [408, 409, 500, 502, 503, 529] {
        assert_eq!(of(status), (OpenAiFault::Unavailable, true), "{status}");
    }
    assert_eq!(of(401), (OpenAiFault::Unauthorized, false));
    assert_eq!(of(400), (OpenAiFault::Invalid, false));
    assert_eq!(of(404), (OpenAiFault::Invalid, false));
    assert_eq!(of(429), (OpenAiFault::RateLimited, true));
}

#[test]
fn the_most_precise_wait_wins() {
    let headers = |pairs: &'static [(&str, &str)]| {
        retry_after(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| *value))
    };
    let delay = |ms| Some(RetryAfter::Delay(Duration::from_millis(ms)));
    assert_eq!(headers(&[("retry-after", "2"), ("retry-after-ms", "1500")]), delay(1_500));
    assert_eq!(headers(&[("retry-after", "2")]), delay(2_000));
    assert_eq!(headers(&[("retry-after", "2"), ("retry-after-ms", "soon")]), delay(2_000));
    let exhausted: &[(&str, &str)] = &[
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-requests", "12ms"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-reset-tokens", "6m0s"),
    ];
    assert_eq!(headers(exhausted), delay(360_000));
    assert_eq!(
        headers(&[("x-ratelimit-remaining-requests", "5"), ("x-ratelimit-reset-requests", "1s")]),
        None
    );
    assert_eq!(headers(&[]), None);
}

#[test]
fn reset_durations_are_read() {
    let ms = |value| parse_reset(value).map(|duration| duration.as_millis());
    assert_eq!(ms("12ms"), Some(12));
    assert_eq!(ms("1s"), Some(1_000));
    assert_eq!(ms("6m0s"), Some(360_000));
    assert_eq!(ms("1h2m3.5s"), Some(3_723_500));
    assert_eq!(ms("0s"), Some(0));
    assert_eq!(ms("999999h"), Some(DELAY_MAX.as_millis()));
    for value in ["", "s", "5", "5x", "-5s", "1e9s", "infs", "1.2.3s", ".s", "5s5"] {
        assert_eq!(parse_reset(value), None, "{value}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200), status: u16) {
        let _ = parse_response(&body);
        let _ = OpenAiError::classify(status, &body);
    }

    #[test]
    fn arbitrary_durations_stay_within_the_cap(value in "[0-9.hmsun\u{b5}]{0,30}") {
        prop_assert!(parse_reset(&value).is_none_or(|duration| duration <= DELAY_MAX));
    }
}

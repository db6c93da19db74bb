//! The simulator's plans against the gateway's: the two are written apart, and
//! here they must agree about what a plan is.

use serde_json::{Value, json};
use sluice_bench::sim::{self, SimConfig};
use sluice_protocols::plan::{Decision, Plan};

fn context() -> Value {
    json!({"now": "2026-11-23T15:04", "weekday": "Monday", "time_zone": "Europe/Berlin", "recent": [
        {"turn": 1, "command": "find mail and files", "items": [
            {"handle": "m1", "kind": "message", "title": "Budget", "person": "Anna Berg <anna.berg@example.com>", "when": "2026-11-21T09:12:00Z"},
            {"handle": "f1", "kind": "file", "title": "Roadmap", "person": null, "when": null},
            {"handle": "e1", "kind": "event", "title": "Sync", "person": null, "when": "2026-11-24T10:00:00+01:00"}]}]})
}

/// One sentence for each operation, and some that need several.
const COMMANDS: [&str; 12] = [
    "find the mail from Anna about the budget and put a meeting with her on Tuesday at ten",
    "read the first mail",
    "send a mail to Ben saying that I am late",
    "reply to her saying thank you",
    "what's on my calendar this week",
    "schedule lunch tomorrow at 12:30 for 45 minutes",
    "create an event called Freeze on 2026-12-01",
    "move it to 3pm and invite Anna to the meeting",
    "cancel that meeting then tell Ben that I am ill",
    "find the file about the roadmap and read it",
    "rename the meeting to Release sync",
    "play some jazz",
];

#[tokio::test]
async fn the_gateways_schema_is_strict_and_the_plans_fit_it() {
    let sim = sim::start(SimConfig::default()).await.unwrap();
    let client = reqwest::Client::new();
    for command in COMMANDS {
        let body = json!({"model": "gpt-5-mini", "store": false,
            "input": [{"role": "developer", "content": format!("Context: {}", context())}, {"role": "user", "content": command}],
            "text": {"format": {"type": "json_schema", "name": "plan", "schema": Plan::json_schema(), "strict": true}}});
        let url = format!("{}/v1/responses", sim.base_url());
        let answer = client.post(url).bearer_auth("sk-test").json(&body).send().await.unwrap();
        let status = answer.status();
        let answer: Value = answer.json().await.unwrap();
        assert!(status.is_success(), "{command}: {answer}");
        let plan = Plan::from_model_json(answer["output"][0]["content"][0]["text"].as_str().unwrap());
        let plan = plan.unwrap_or_else(|error| panic!("{command}: {error}"));
        let declined = matches!(plan.decision, Decision::Decline { .. });
        assert_eq!(declined, command == "play some jazz", "{command}");
    }
}

#[test]
fn whatever_is_said_the_gateway_takes_the_plan() {
    let words: Vec<&str> = COMMANDS.iter().flat_map(|command| command.split(' ')).collect();
    let context = context();
    // A fixed sequence, so that a failure comes again.
    let mut state = 1_usize;
    for _ in 0..5_000 {
        let mut command = String::new();
        for _ in 0..8 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            command.push_str(words[(state >> 33) % words.len()]);
            command.push(if state >> 40 & 31 == 0 { '\n' } else { ' ' });
        }
        let plan = sim::plan(&command, &context);
        if let Err(error) = Plan::from_model_json(&plan.to_string()) {
            panic!("{command:?}: {error}: {plan}");
        }
    }
}

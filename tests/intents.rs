//! What is understood without the model: by rules, by patterns learned from it, and what never is.

mod common;

use common::scene::{Caller, Effects, Scene};
use serde_json::{Value, json};

struct Stage {
    scene: Scene,
    caller: Caller,
    key: String,
}

impl Stage {
    async fn start(options: &[&str]) -> Self {
        // One core, so that what is learned is learned for all.
        let scene = Scene::start(1, options);
        let key = scene.gateway.user("ada");
        let caller = scene.caller().await;
        Self { scene, caller, key }
    }

    async fn asked(&self) -> u64 {
        self.scene.sim.asked("openai.responses").await
    }

    /// Who made the plan of a command that must be done.
    async fn source(&self, text: &str) -> Value {
        let task = self.caller.done(&self.key, text).await;
        let confidence = task["intent"]["confidence"].as_f64().expect("a number");
        assert!((0.9..=1.0).contains(&confidence), "{task:#}");
        task["intent"]["source"].clone()
    }
}

const LOCAL: &[&str] = &["intent.local=true"];
const PATTERNS: &[&str] = &["intent.pattern_ttl_s=86400"];

#[tokio::test]
async fn a_plan_that_is_only_asked_for_resolves_references_and_does_nothing() {
    let stage = Stage::start(LOCAL).await;
    let parse = async |text: &str| {
        let authorization = format!("Bearer {}", stage.key);
        let fields = [("authorization", &*authorization), ("content-type", "application/json")];
        let body = json!({ "command": text }).to_string();
        stage.caller.send("POST", "/api/v1/intents/parse", &fields, body).await
    };
    stage.caller.done(&stage.key, "Find the mail from Anna about the budget").await;
    let before = stage.caller.get("/api/v1/tasks", &stage.key).await.value();
    let answer = parse("reply to her saying thank you, that helps").await;
    let view = answer.value();
    assert_eq!(answer.status.as_u16(), 200, "{view:#}");
    assert_eq!(view["plan"]["steps"][0]["call"]["operation"], "gmail.reply", "{view:#}");
    assert_eq!(view["references"][0]["reference"], view["plan"]["steps"][0]["call"]["message"], "{view:#}");
    assert_eq!(view["references"][0]["item"]["person"]["address"], "anna.berg@example.com", "{view:#}");
    assert_eq!((&view["questions"], view["intent"]["source"].is_string()), (&json!([]), true), "{view:#}");
    let problem = parse("what is the meaning of life?").await.problem(422, "invalid-field");
    assert_eq!(problem["errors"][0]["pointer"], "/command");
    assert_eq!(stage.caller.get("/api/v1/tasks", &stage.key).await.value(), before);
    assert_eq!(stage.scene.sim.effects("ada").await.0, Effects::default());
}

#[tokio::test]
async fn common_commands_are_carried_out_without_asking_the_model() {
    let stage = Stage::start(LOCAL).await;
    for text in [
        "Find the mail from Anna about the budget",
        "how many unread emails do i have",
        "what's on my calendar tomorrow?",
        "find the file about the roadmap",
        "open my calendar for next week",
        "create an event called Budget freeze on 2031-03-04",
        "cancel it",
        "send an email to ben@x.example with subject Lunch and body See you at noon!",
    ] {
        assert_eq!(stage.source(text).await, "local", "{text}");
    }
    assert_eq!(stage.asked().await, 0);
    let (effects, record) = stage.scene.sim.effects("ada").await;
    assert_eq!(effects, Effects { sends: 1, inserts: 1, deletes: 1, ..Effects::default() }, "{record:#}");
    assert_eq!(record["deletes"][0]["id"], record["inserts"][0]["id"]);
    assert_eq!(record["sends"][0]["to"], json!(["ben@x.example"]));
}

#[tokio::test]
async fn the_same_is_found_as_with_the_plan_of_the_model() {
    let local = Stage::start(LOCAL).await;
    let model = Stage::start(&[]).await;
    for text in [
        "Find the mail from Anna about the budget",
        "read Anna's mail about the offsite",
        "what's on my calendar tomorrow?",
        "find the file about the roadmap",
    ] {
        let found = |task: &Value| {
            let steps = task["steps"].as_array().expect("steps");
            let titles = |step: &Value| -> Vec<Value> {
                step["items"].as_array().expect("items").iter().map(|item| item["title"].clone()).collect()
            };
            steps.iter().map(|step| (step["operation"].clone(), titles(step))).collect::<Vec<_>>()
        };
        let (ours, theirs) =
            (local.caller.done(&local.key, text).await, model.caller.done(&model.key, text).await);
        assert_eq!(
            (&ours["intent"]["source"], &theirs["intent"]["source"]),
            (&json!("local"), &json!("model"))
        );
        assert_eq!(found(&ours), found(&theirs), "{text}");
    }
}

#[tokio::test]
async fn what_is_not_wholly_understood_goes_to_the_model() {
    let stage = Stage::start(LOCAL).await;
    for (count, text) in
        (1..).zip(["put a meeting with Anna on Tuesday at ten", "tell Anna that the figures are ready"])
    {
        assert_eq!(stage.source(text).await, "model", "{text}");
        assert_eq!(stage.asked().await, count);
    }
    let task = stage.caller.command(&stage.key, "delete all my meetings").await;
    assert_eq!((&task["state"], &task["intent"]["source"]), (&json!("declined"), &json!("model")));
}

#[tokio::test]
async fn a_pattern_learned_from_one_user_serves_another_with_values_of_their_own() {
    let stage = Stage::start(PATTERNS).await;
    assert_eq!(stage.source("Find the mail from Anna about the budget").await, "model");
    let bob = stage.scene.gateway.user("bob");
    let task = stage.caller.done(&bob, "Find the mail from Ben about the budget").await;
    assert_eq!(task["intent"], json!({"source": "pattern", "confidence": 1.0}), "{task:#}");
    let query = task["plan"]["steps"][0]["call"]["query"].as_str().expect("a query").to_lowercase();
    assert!(query.contains("ben") && query.contains("budget") && !query.contains("anna"), "{query}");
    assert_eq!(stage.asked().await, 1);
}

#[tokio::test]
async fn only_the_first_command_of_a_session_teaches_a_pattern() {
    let stage = Stage::start(PATTERNS).await;
    assert_eq!(stage.source("find the file about the roadmap").await, "model");
    // The model sees the first command now, so that its plan may say something of it.
    assert_eq!(stage.source("Find the mail from Anna about the budget").await, "model");
    let (bob, cleo) = (stage.scene.gateway.user("bob"), stage.scene.gateway.user("cleo"));
    let task = stage.caller.done(&bob, "Find the mail from Ben about the budget").await;
    assert_eq!(task["intent"]["source"], "model", "{task:#}");
    let task = stage.caller.done(&cleo, "Find the mail from Anna about the budget").await;
    assert_eq!(task["intent"]["source"], "pattern", "{task:#}");
    // What was learned serves sessions that go on as well.
    assert_eq!(stage.source("Find the mail from Ben about the budget").await, "pattern");
}

#[tokio::test]
async fn without_rules_and_patterns_the_model_is_asked_every_time() {
    let stage = Stage::start(&[]).await;
    for count in 1..=2 {
        assert_eq!(stage.source("Find the mail from Anna about the budget").await, "model");
        assert_eq!(stage.asked().await, count);
    }
}

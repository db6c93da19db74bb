//! What a user sees of the queue, through the real binary: tasks, previews, dead letters, batches and repeated requests.
//!
//! Faults of the simulator hold tasks where a test wants them, so nothing here depends on how fast anything is.

mod common;

use std::collections::BTreeSet;

use common::Sim;
use common::asker::{Asker, text};
use common::scene::{Effects, Scene};
use serde_json::{Value, json};

const MAIL: &str = "send an email to ben@x.example with subject Lunch and body See you at noon!";
const READ: &str = "find the mail from Anna about the budget";
const NONE: Value = Value::Null;

struct Stage {
    scene: Scene,
    ada: Asker,
}

impl Stage {
    async fn start(options: &[&str]) -> Self {
        let scene = Scene::start(2, options);
        let key = scene.gateway.user("ada");
        let ada = Asker::of(&scene.gateway, &key).await;
        Self { scene, ada }
    }

    /// Holds the next `count` calls of a service (-1: all of them) until faults are cleared.
    async fn hold(&self, service: &str, count: i64) {
        self.scene.sim.fault(json!({"service": service, "kind": "hang", "count": count})).await;
    }

    /// Waits until so many faults have struck.
    async fn until_struck(&self, fired: u64) {
        self.until("faults_fired", fired).await;
    }

    /// Waits until a number of the simulator's state has come to this.
    async fn until(&self, what: &str, least: u64) {
        for _ in 0..2_000 {
            if self.scene.sim.state().await[what].as_u64() >= Some(least) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("{what} does not come to {least}: {:#}", self.scene.sim.state().await);
    }

    async fn assert_effects(&self, expected: Effects) {
        let (effects, record) = self.scene.sim.effects("ada").await;
        assert_eq!(effects, expected, "{record:#}");
    }

    /// Kills the gateway and starts it again.
    async fn crash(self) -> Self {
        let Self { scene, ada } = self;
        let Scene { gateway, sim, directory } = scene;
        let gateway = gateway.crash_and_restart();
        let ada = Asker::of(&gateway, &ada.key).await;
        Self { scene: Scene { gateway, sim, directory }, ada }
    }
}

fn ids(tasks: &[Value]) -> Vec<&str> {
    tasks.iter().map(|task| text(&task["id"])).collect()
}

fn one_send() -> Effects {
    Effects { sends: 1, ..Effects::default() }
}

// ---- the list of tasks ----

#[tokio::test]
async fn tasks_are_listed_by_state_page_after_page_newest_first() {
    let stage = Stage::start(&["limits.tasks_running_per_user_max=1"]).await;
    stage.hold("openai", -1).await;
    let mut promised = Vec::new();
    for _ in 0..7 {
        promised.push(text(&stage.ada.queue(&json!({"command": READ})).await["id"]).to_owned());
    }
    stage.until_struck(1).await;
    stage.ada.until(&json!(promised[0]), "running").await;
    promised.reverse();
    let (running, _) = stage.ada.pages("/tasks?state=running", "tasks").await;
    assert_eq!(ids(&running), promised[6..]);
    let (queued, pages) = stage.ada.pages("/tasks?state=queued&limit=2", "tasks").await;
    assert_eq!((ids(&queued), pages), (promised[..6].iter().map(String::as_str).collect(), 3));
    let (all, _) = stage.ada.pages("/tasks?limit=3", "tasks").await;
    assert_eq!(ids(&all), promised);

    let first = stage.ada.get("/tasks?state=queued&limit=2").await;
    let cursor = text(&first["next"]);
    let other = format!("/tasks?state=done&cursor={cursor}");
    stage.ada.ask("GET", &other, &NONE).await.problem(422, "invalid-field");
    let bob = Asker::of(&stage.scene.gateway, &stage.scene.gateway.user("bob")).await;
    let stolen = format!("/tasks?state=queued&cursor={cursor}");
    bob.ask("GET", &stolen, &NONE).await.problem(422, "invalid-field");
    assert_eq!(bob.get("/tasks").await, json!({"tasks": [], "next": null}));

    stage.scene.sim.clear_faults().await;
    for id in &promised {
        assert_eq!(stage.ada.ended(&json!(id)).await["state"], "done");
    }
    let (done, _) = stage.ada.pages("/tasks?state=done&limit=4", "tasks").await;
    assert_eq!(ids(&done), promised);
    assert_eq!(stage.ada.get("/tasks?state=queued").await["tasks"], json!([]));
}

// ---- cancelling ----

#[tokio::test]
async fn a_task_that_waits_is_cancelled_at_once_and_never_begun() {
    let stage = Stage::start(&["limits.tasks_running_per_user_max=1"]).await;
    stage.hold("openai", 1).await;
    let first = stage.ada.queue(&json!({"command": READ})).await["id"].clone();
    let second = stage.ada.queue(&json!({"command": MAIL})).await["id"].clone();
    stage.until_struck(1).await;
    let path = format!("/tasks/{}/cancel", text(&second));
    let cancelled = stage.ada.expect(200, "POST", &path, &NONE).await;
    assert_eq!((&cancelled["state"], &cancelled["steps"]), (&json!("cancelled"), &json!([])));
    // To cancel it again changes nothing.
    assert_eq!(stage.ada.expect(200, "POST", &path, &NONE).await, cancelled);
    stage.scene.sim.clear_faults().await;
    assert_eq!(stage.ada.ended(&first).await["state"], "done");
    stage.ada.ask("POST", &format!("/tasks/{}/cancel", text(&first)), &NONE).await.problem(409, "conflict");
    let stage = stage.crash().await;
    assert_eq!(stage.ada.task(&second).await, cancelled);
    stage.assert_effects(Effects::default()).await;
}

#[tokio::test]
async fn cancelling_a_task_that_reads_breaks_off_its_call_upstream() {
    for service in ["openai", "gmail"] {
        let stage = Stage::start(&[]).await;
        stage.hold(service, 1).await;
        let id = stage.ada.queue(&json!({"command": READ})).await["id"].clone();
        stage.until_struck(1).await;
        assert_eq!(stage.scene.sim.state().await["abandoned"], 0, "{service}");
        let answer = stage.ada.ask("POST", &format!("/tasks/{}/cancel", text(&id)), &NONE).await;
        assert_eq!(answer.status.as_u16(), 202, "{:?}", answer.body);
        // Nobody answers the call, so only breaking it off can end the task.
        let ended = stage.ada.ended(&id).await;
        assert_eq!(ended["state"], "cancelled", "{service}: {ended:#}");
        stage.until("abandoned", 1).await;
        let page = stage.scene.gateway.page().await;
        let under_way = page.sum("sluice_quota_under_way", &[("upstream", service)]);
        assert_eq!(under_way, 0, "its place at {service} is free again");
    }
}

/// What is promised: an effect that may have happened is brought to its known end, and told.
#[tokio::test]
async fn cancelling_a_task_in_the_middle_of_an_effect_tells_what_became_of_it() {
    let stage = Stage::start(&[]).await;
    stage
        .scene
        .sim
        .fault(
            json!({"service": "gmail", "kind": "hang", "path_contains": "/drafts/send", "after_effect": true,
            "count": 1}),
        )
        .await;
    let id = stage.ada.queue(&json!({"command": MAIL})).await["id"].clone();
    stage.until_struck(1).await;
    let path = format!("/tasks/{}/cancel", text(&id));
    assert_eq!(stage.ada.ask("POST", &path, &NONE).await.status.as_u16(), 202);
    assert_eq!(stage.ada.task(&id).await["state"], "running", "it is not given up in the middle");
    stage.scene.sim.clear_faults().await;
    let ended = stage.ada.ended(&id).await;
    assert_eq!((&ended["state"], &ended["steps"][0]["state"]), (&json!("cancelled"), &json!("done")));
    stage.assert_effects(one_send()).await;
}

/// What was answered with 202 is a promise like any other: whoever takes the task up begins nothing more of it.
#[tokio::test]
async fn a_wish_to_cancel_a_task_that_runs_outlives_a_crash() {
    let last = "send a mail to kim@example.com saying code zebra is valid";
    // What only reads is dropped, and the task ends; what changes something hangs on, and has to be looked for.
    let firsts = [
        ("find the mail from Anna about the budget", "gmail", "/messages", 0),
        ("create an event called Review tomorrow at ten", "calendar", "/events", 1),
    ];
    for (first, service, path, inserts) in firsts {
        let stage = Stage::start(&[]).await;
        let hang = json!({"service": service, "kind": "hang", "path_contains": path, "after_effect": true, "count": 1});
        stage.scene.sim.fault(hang).await;
        let id = stage.ada.queue(&json!({"command": format!("{first} and then {last}")})).await["id"].clone();
        stage.until_struck(1).await;
        let asked = stage.ada.ask("POST", &format!("/tasks/{}/cancel", text(&id)), &NONE).await;
        assert_eq!(asked.status.as_u16(), 202, "{:?}", asked.body);
        let stage = stage.crash().await;
        stage.scene.sim.clear_faults().await;
        let ended = stage.ada.ended(&id).await;
        assert_eq!(ended["state"], "cancelled", "{service}: {ended:#}");
        assert_eq!(ended["steps"].as_array().map(Vec::len), Some(2), "{ended:#}");
        stage.assert_effects(Effects { inserts, ..Effects::default() }).await;
    }
}

// ---- previews ----

#[tokio::test]
async fn a_preview_does_nothing_until_it_is_confirmed_also_after_a_crash() {
    let stage = Stage::start(&[]).await;
    let preview = json!({"command": MAIL, "mode": "preview"});
    let shown = stage.ada.expect(200, "POST", "/command", &preview).await;
    assert_eq!(shown["state"], "awaiting_confirmation", "{shown:#}");
    assert_eq!(shown["plan"]["steps"][0]["call"]["operation"], "gmail.send");
    let change = &shown["changes"][0];
    assert_eq!(
        (&change["operation"], &change["reversible"]),
        (&json!("gmail.send"), &json!(false)),
        "{shown:#}"
    );
    assert!(text(&change["what"]).starts_with("send the mail “"), "{shown:#}");
    let refused = stage.ada.expect(200, "POST", "/command", &preview).await;
    let stage = stage.crash().await;
    stage.assert_effects(Effects::default()).await;
    let (waiting, _) = stage.ada.pages("/tasks?state=awaiting_confirmation", "tasks").await;
    assert_eq!(ids(&waiting), [text(&refused["id"]), text(&shown["id"])]);

    let cancel = format!("/tasks/{}/cancel", text(&refused["id"]));
    assert_eq!(stage.ada.expect(200, "POST", &cancel, &NONE).await["state"], "cancelled");
    let confirm = format!("/tasks/{}/confirm", text(&refused["id"]));
    stage.ada.ask("POST", &confirm, &NONE).await.problem(409, "conflict");

    let confirm = format!("/tasks/{}/confirm", text(&shown["id"]));
    stage.ada.expect(202, "POST", &confirm, &NONE).await;
    assert_eq!(stage.ada.ended(&shown["id"]).await["state"], "done");
    stage.ada.ask("POST", &confirm, &NONE).await.problem(409, "conflict");
    stage.assert_effects(one_send()).await;
}

// ---- deadlines ----

#[tokio::test]
async fn a_command_fails_when_its_deadline_passes_and_is_no_dead_letter() {
    let stage = Stage::start(&[]).await;
    stage.hold("openai", -1).await;
    let late = json!({"command": MAIL, "deadline_ms": 200});
    let answer = stage.ada.ask("POST", "/command", &late).await;
    let problem = answer.problem(504, "deadline-exceeded");
    assert_eq!(problem["task"]["state"], "failed", "{problem:#}");
    let id = stage.ada.queue(&late).await["id"].clone();
    let ended = stage.ada.ended(&id).await;
    assert_eq!(ended["error"]["type"], "/problems/deadline-exceeded", "{ended:#}");
    assert_eq!(stage.ada.get("/dead-letters").await["dead_letters"], json!([]));
    stage.assert_effects(Effects::default()).await;
}

// ---- dead letters ----

/// A command that fails for good in a way that might have passed: what is asked to wait longer than it may take.
async fn dead_letter(stage: &Stage, command: &str) -> Value {
    let wait = json!({"service": "drive", "kind": "status", "status": 503, "retry_after_s": 30, "count": 1});
    stage.scene.sim.fault(wait).await;
    let id = stage.ada.queue(&json!({"command": command, "deadline_ms": 5_000})).await["id"].clone();
    let ended = stage.ada.ended(&id).await;
    assert_eq!(ended["state"], "failed", "{ended:#}");
    id
}

#[tokio::test]
async fn dead_letters_are_listed_shown_edited_redriven_and_thrown_away() {
    let stage = Stage::start(&[]).await;
    let ada = &stage.ada;
    let find = "find the file about the roadmap";
    let mut dead = Vec::new();
    for _ in 0..3 {
        dead.push(dead_letter(&stage, find).await);
    }
    let (listed, pages) = ada.pages("/dead-letters?limit=2", "dead_letters").await;
    assert_eq!((ids(&listed), pages), (dead.iter().rev().map(text).collect(), 2));
    let path = |id: &Value| format!("/dead-letters/{}", text(id));

    let shown = ada.get(&path(&dead[0])).await;
    assert_eq!(shown["reason"]["type"], "/problems/upstream-unavailable", "{shown:#}");
    assert_eq!((&shown["task"]["id"], &shown["edited"]), (&dead[0], &json!(false)));

    // As it was: it keeps its id.
    let redriven = ada.expect(202, "POST", &format!("{}/redrive", path(&dead[0])), &NONE).await;
    assert_eq!(redriven["id"], dead[0]);
    assert_eq!(ada.ended(&dead[0]).await["state"], "done");
    ada.ask("GET", &path(&dead[0]), &NONE).await.problem(404, "not-found");

    // Edited: a new task, of the new command.
    let patch = json!({"command": MAIL, "priority": "high"});
    let merge = [("content-type", "application/merge-patch+json")];
    let edited = ada.with("PATCH", &path(&dead[1]), &merge, &patch).await;
    assert_eq!((edited.status.as_u16(), &edited.value()["edited"]), (200, &json!(true)));
    let redriven = ada.expect(202, "POST", &format!("{}/redrive", path(&dead[1])), &NONE).await;
    assert_ne!(redriven["id"], dead[1]);
    assert_eq!(ada.ended(&redriven["id"]).await["state"], "done");
    assert_eq!(ada.task(&dead[1]).await["state"], "failed", "what failed is still told");
    stage.assert_effects(one_send()).await;

    let stage = stage.crash().await;
    let ada = &stage.ada;
    assert_eq!(ids(&ada.pages("/dead-letters?limit=5", "dead_letters").await.0), [text(&dead[2])]);
    ada.expect(204, "DELETE", &path(&dead[2]), &NONE).await;
    ada.ask("DELETE", &path(&dead[2]), &NONE).await.problem(404, "not-found");
    ada.ask("POST", &format!("{}/redrive", path(&dead[2])), &NONE).await.problem(404, "not-found");
    assert_eq!(ada.get("/dead-letters").await["dead_letters"], json!([]));
}

#[tokio::test]
async fn dead_letters_are_handled_by_the_command_line() {
    let stage = Stage::start(&[]).await;
    let mut dead = Vec::new();
    for _ in 0..3 {
        dead.push(dead_letter(&stage, "find the file about the roadmap").await);
    }
    let [first, second, third] = [text(&dead[0]), text(&dead[1]), text(&dead[2])];
    let gateway = &stage.scene.gateway;
    let (url, ca) = (format!("https://{}", gateway.address), gateway.ca());
    let key = gateway.admin(&["key", "add", "ada"]);
    let common = ["--key", &key, "--url", &url, "--ca", ca.to_str().expect("UTF-8")];
    let run = |arguments: &[&str]| gateway.admin(&[&["deadletter"], arguments, &common].concat());

    let listed = run(&["list"]);
    let listed: Vec<&str> = listed.lines().map(|line| &line[..first.len()]).collect();
    assert_eq!(listed, [third, second, first]);
    let shown = run(&["show", first]);
    assert!(shown.contains("upstream-unavailable") && shown.contains("roadmap"), "{shown}");

    assert!(run(&["redrive", first]).contains(&format!("/api/v1/tasks/{first}")));
    assert_eq!(stage.ada.ended(&dead[0]).await["state"], "done");
    assert!(run(&["edit", second, "--command", MAIL]).contains("it is a new task"));
    run(&["redrive", second]);
    assert_eq!(run(&["purge", "--all"]), format!("{third} is gone"));
    assert_eq!(run(&["list"]), "");
    let said = gateway.refused(&[&["deadletter", "purge", third], &common[..]].concat());
    assert!(said.contains("404"), "{said}");
}

// ---- batches, keys, restarts ----

#[tokio::test]
async fn a_hundred_commands_are_promised_together_and_a_bad_one_is_refused_alone() {
    let stage = Stage::start(&["limits.tasks_running_per_user_max=1"]).await;
    stage.hold("openai", -1).await;
    let mut commands: Vec<Value> = (0..100).map(|_| json!({"command": READ, "priority": "batch"})).collect();
    commands[41] = json!({"command": "   "});
    let view = stage.ada.expect(207, "POST", "/commands", &json!({"commands": commands})).await;
    let items = view["items"].as_array().expect("items");
    let statuses: Vec<u64> = items.iter().filter_map(|item| item["status"].as_u64()).collect();
    assert_eq!((statuses.len(), statuses[41]), (100, 422), "{view:#}");
    assert_eq!(statuses.iter().filter(|status| **status == 202).count(), 99);
    commands.push(json!({"command": READ}));
    let over = stage.ada.ask("POST", "/commands", &json!({"commands": commands})).await;
    over.problem(422, "invalid-field");

    // All of them are on disk: they are there after a crash, in their order.
    let stage = stage.crash().await;
    stage.scene.sim.clear_faults().await;
    let promised: Vec<&Value> =
        items.iter().filter_map(|item| item.get("task").filter(|task| !task.is_null())).collect();
    for task in &promised {
        assert_eq!(stage.ada.ended(&task["id"]).await["state"], "done");
    }
    let (listed, _) = stage.ada.pages("/tasks?limit=100", "tasks").await;
    let mut expected: Vec<&str> = promised.iter().map(|task| text(&task["id"])).collect();
    expected.reverse();
    assert_eq!(ids(&listed), expected);
}

#[tokio::test]
async fn what_is_beyond_the_bound_is_refused_before_anything_of_it_is_written() {
    let stage =
        Stage::start(&["limits.tasks_queued_per_core_max=8", "limits.tasks_running_per_user_max=1"]).await;
    stage.hold("openai", -1).await;
    let (mut promised, mut refused) = (Vec::new(), 0);
    for _ in 0..30 {
        let answer = stage.ada.ask("POST", "/command", &json!({"command": READ, "mode": "async"})).await;
        if answer.status.as_u16() == 202 {
            promised.push(answer.value()["id"].clone());
            continue;
        }
        assert_eq!(answer.problem(503, "overloaded")["retryable"], true);
        assert!(answer.field("retry-after").is_some());
        refused += 1;
    }
    assert!(promised.len() >= 7 && refused >= 20, "{} promised, {refused} refused", promised.len());
    let stage = stage.crash().await;
    let (listed, _) = stage.ada.pages("/tasks?limit=100", "tasks").await;
    let mut expected: Vec<&str> = promised.iter().map(text).collect();
    expected.reverse();
    assert_eq!(ids(&listed), expected);
    stage.scene.sim.clear_faults().await;
    for task in &promised {
        assert_eq!(stage.ada.ended(task).await["state"], "done");
    }
}

#[tokio::test]
async fn an_idempotency_key_stands_for_one_task_whatever_happens() {
    let stage = Stage::start(&[]).await;
    let key = [("idempotency-key", "the-one")];
    let body = json!({"command": MAIL});
    // In flight: the first one does not end before it is let go.
    stage.hold("openai", 1).await;
    let first = stage.ada.with("POST", "/command", &key, &body);
    let second = async {
        stage.until_struck(1).await;
        let refused = stage.ada.with("POST", "/command", &key, &body).await;
        refused.problem(409, "idempotency-in-flight");
        assert!(refused.field("retry-after").is_some());
        stage.scene.sim.clear_faults().await;
    };
    let (first, ()) = tokio::join!(first, second);
    assert_eq!((first.status.as_u16(), first.field("idempotency-replayed")), (200, None));
    let again = stage.ada.with("POST", "/command", &key, &body).await;
    assert_eq!((again.status.as_u16(), again.field("idempotency-replayed")), (200, Some("true")));
    assert_eq!(again.value(), first.value());
    let other = json!({"command": READ});
    stage.ada.with("POST", "/command", &key, &other).await.problem(422, "idempotency-mismatch");
    let batch = json!({"commands": [body]});
    stage.ada.with("POST", "/commands", &key, &batch).await.problem(422, "idempotency-mismatch");
    // Another user's key of the same name is another key.
    let bob = Asker::of(&stage.scene.gateway, &stage.scene.gateway.user("bob")).await;
    assert_eq!(bob.with("POST", "/command", &key, &other).await.field("idempotency-replayed"), None);

    let stage = stage.crash().await;
    let again = stage.ada.with("POST", "/command", &key, &body).await;
    assert_eq!(again.field("idempotency-replayed"), Some("true"));
    assert_eq!(again.value(), first.value());
    stage.assert_effects(one_send()).await;
}

#[tokio::test]
async fn a_batch_with_a_key_is_promised_once() {
    let stage = Stage::start(&[]).await;
    let key = [("idempotency-key", "all of them")];
    let body = json!({"commands": [{"command": MAIL}, {"command": READ}]});
    stage.ada.with("POST", "/commands", &key, &body).await.problem(400, "bad-request");
    let key = [("idempotency-key", "all-of-them")];
    let first = stage.ada.with("POST", "/commands", &key, &body).await;
    assert_eq!(first.status.as_u16(), 207);
    let stage = stage.crash().await;
    let again = stage.ada.with("POST", "/commands", &key, &body).await;
    assert_eq!((again.field("idempotency-replayed"), again.value()), (Some("true"), first.value()));
    for item in first.value()["items"].as_array().expect("items") {
        assert_eq!(stage.ada.ended(&item["task"]["id"]).await["state"], "done");
    }
    assert_eq!(stage.ada.get("/tasks").await["tasks"].as_array().map(Vec::len), Some(2));
    stage.assert_effects(one_send()).await;
}

#[tokio::test]
async fn after_a_crash_a_session_goes_on_in_the_order_of_its_promises() {
    let sim = Sim::start(&[]);
    let scene = Scene::with_sim(sim, 2, &[]);
    let key = scene.gateway.user("ada");
    let ada = Asker::of(&scene.gateway, &key).await;
    let stage = Stage { scene, ada };
    stage.hold("openai", -1).await;
    let (mut promised, mut sessions) = (Vec::new(), BTreeSet::new());
    for number in 0..8 {
        let command = format!("create an event called Review q{number}x tomorrow at ten");
        // Urgency does not change the order within a session.
        let priority = ["batch", "high", "normal"][number % 3];
        let accepted = stage.ada.queue(&json!({"command": command, "priority": priority})).await;
        sessions.insert(text(&accepted["session"]).to_owned());
        promised.push(accepted["id"].clone());
    }
    assert_eq!(sessions.len(), 1);
    stage.until_struck(1).await;
    let stage = stage.crash().await;
    stage.scene.sim.clear_faults().await;
    for id in &promised {
        assert_eq!(stage.ada.ended(id).await["state"], "done");
    }
    let (effects, record) = stage.scene.sim.effects("ada").await;
    assert_eq!(effects, Effects { inserts: 8, ..Effects::default() });
    let made = record["inserts"].as_array().expect("inserts");
    let order: Vec<&str> = made.iter().map(|event| text(&event["summary"])).collect();
    let expected: Vec<String> = (0..8).map(|number| format!("Review q{number}x")).collect();
    assert_eq!(order, expected);
}

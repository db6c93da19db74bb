//! Priorities, cancelling, trying again, dead letters, confirmation, lists and idempotency keys, on a real core and store.

use std::time::Duration;

use crate::common::{DAY_MS, Gateway, START_MS, User, World, body, config, problem};
use serde_json::{Value, json};
use sluice_protocols::http::Response;
use sluice_protocols::problem::ProblemKind;
use sluice_shard::ShardConfig;
use sluice_shard::run::codes;
use sluice_store::Kind;

impl Gateway {
    async fn post(&self, user: &User, path: &str) -> Response {
        self.send(user.head("POST", path), "").await
    }

    async fn with_json(&self, user: &User, method: &str, path: &str, fields: Value) -> Response {
        let head = user.head(method, path).with("content-type", "application/json");
        self.send(head, &fields.to_string()).await
    }

    async fn keyed(&self, user: &User, path: &str, key: &str, fields: &Value) -> Response {
        let head = user.head("POST", path).with("content-type", "application/json");
        self.send(head.with("idempotency-key", key), &fields.to_string()).await
    }

    async fn state(&self, user: &User, task: &str) -> Value {
        body(&self.get(user, &format!("/api/v1/tasks/{task}")).await)["state"].clone()
    }

    /// A command of a session of its own.
    async fn alone(&self, user: &User, command: &str, priority: &str) -> String {
        let fields = json!({"command": command, "mode": "async", "priority": priority});
        let response = self.command(user, fields).await;
        assert_eq!(response.status, 202, "{response:?}");
        body(&response)["id"].as_str().unwrap().to_owned()
    }

    /// Waits for the clock of the queue to be looked at.
    async fn advance(&self, ms: u64) {
        self.clock.set(self.clock.unix_ms() + ms);
        sluice_core::sleep(Duration::from_millis(5)).await;
        self.settle().await;
    }
}

/// Attempts come again within a few milliseconds.
fn hasty() -> ShardConfig {
    let task_retry_base = Duration::from_millis(1);
    ShardConfig { task_retry_base, task_retry_max: task_retry_base, task_attempts_max: 3, ..config() }
}

#[test]
fn a_high_command_passes_batch_work_that_fills_the_core() {
    let world = World::new();
    let users: Vec<_> = (0..12).map(|number| world.user(&format!("user{number}"))).collect();
    let urgent = world.user("urgent");
    let config = ShardConfig { tasks_running_max: 4, ..config() };
    world.run(config, |gateway| async move {
        for user in &users {
            gateway.alone(user, "hold it", "batch").await;
        }
        gateway.settle().await;
        assert_eq!(gateway.metric("sluice_tasks_running{core=\"0\"}"), 3);
        assert_eq!(gateway.metric("sluice_tasks_waiting{core=\"0\",priority=\"batch\"}"), 9);
        let done = gateway.command(&urgent, json!({"command": "now", "priority": "high"})).await;
        assert_eq!((done.status, &body(&done)["priority"]), (200, &json!("high")));
        gateway.script.is_released.set(true);
        gateway.settle().await;
        assert_eq!(gateway.metric("sluice_tasks_ended_total{core=\"0\",state=\"done\"}"), 13);
    });
}

#[test]
fn pending_tasks_are_taken_up_by_priority_and_then_in_their_order() {
    let world = World::new();
    let users: Vec<_> = (0..6).map(|number| world.user(&format!("user{number}"))).collect();
    let priorities = ["batch", "normal", "high", "batch", "normal", "high"];
    let config = || ShardConfig { tasks_running_max: 1, ..config() };
    let again = world.user("again");
    world.run(config(), move |gateway| async move {
        gateway.alone(&again, "hold first", "normal").await;
        for (number, (user, priority)) in users.iter().zip(priorities).enumerate() {
            gateway.alone(user, &format!("{priority} {number}"), priority).await;
        }
    });
    world.run(config(), |gateway| async move {
        gateway.script.is_released.set(true);
        for _ in 0..10 {
            gateway.settle().await;
        }
        let started: Vec<_> =
            gateway.script.log().into_iter().filter(|line| line.starts_with("start")).collect();
        let expected = ["high 2", "high 5", "hold first", "normal 1", "normal 4", "batch 0", "batch 3"];
        assert_eq!(started, expected.map(|command| format!("start {command}")));
    });
}

#[test]
fn a_task_that_waits_is_cancelled_durably_and_one_that_runs_is_told() {
    let world = World::new();
    let (anna, bert) = (world.user("anna"), world.user("bert"));
    world.run(config(), |gateway| async move {
        let (running, _) = gateway.accepted(&anna, "hold one").await;
        let (waiting, _) = gateway.accepted(&anna, "two").await;
        let (last, _) = gateway.accepted(&anna, "three").await;
        gateway.settle().await;
        let path = |task: &str| format!("/api/v1/tasks/{task}/cancel");
        assert_eq!(gateway.post(&bert, &path(&waiting)).await.status, 404);
        let cancelled = gateway.post(&anna, &path(&waiting)).await;
        assert_eq!((cancelled.status, &body(&cancelled)["state"]), (200, &json!("cancelled")));
        // Once more is the same.
        assert_eq!(gateway.post(&anna, &path(&waiting)).await.status, 200);
        let asked = gateway.post(&anna, &path(&running)).await;
        assert_eq!(asked.status, 202);
        assert_eq!(gateway.finished(&anna, &running).await["state"], "cancelled");
        assert_eq!(gateway.finished(&anna, &last).await["state"], "done");
        let late = gateway.post(&anna, &path(&last)).await;
        assert_eq!(problem(&late).kind(), ProblemKind::Conflict);
        assert_eq!(gateway.metric("sluice_tasks_ended_total{core=\"0\",state=\"cancelled\"}"), 2);
        assert!(!gateway.script.log().contains(&"start two".to_owned()));
    });
    assert!(world.tasks_on_disk(Kind::TaskPending).is_empty());
    let states: Vec<_> = world.tasks_on_disk(Kind::TaskFinished).iter().map(|task| task.state).collect();
    assert_eq!(states.iter().filter(|state| **state == 6).count(), 2);
}

#[test]
fn a_failure_that_may_pass_is_tried_again_and_then_set_aside() {
    let world = World::new();
    let (anna, bert) = (world.user("anna"), world.user("bert"));
    world.run(hasty(), |gateway| async move {
        let (task, _) = gateway.accepted(&anna, "fail it").await;
        gateway.settle().await;
        // The clock stands still: the second attempt is not due.
        let view = body(&gateway.get(&anna, &format!("/api/v1/tasks/{task}")).await);
        assert_eq!((&view["state"], &view["attempts"]), (&json!("queued"), &json!(1)));
        assert_eq!(view["last_error"]["type"], "/problems/upstream-unavailable");
        assert!(view["next_attempt"].is_string());
        gateway.advance(1).await;
        gateway.advance(1).await;
        let end = gateway.finished(&anna, &task).await;
        assert_eq!((&end["state"], &end["attempts"]), (&json!("failed"), &json!(3)));

        let list = body(&gateway.get(&anna, "/api/v1/dead-letters").await);
        assert_eq!(list["dead_letters"][0]["id"], json!(task));
        let path = format!("/api/v1/dead-letters/{task}");
        assert_eq!(gateway.get(&bert, &path).await.status, 404);
        assert_eq!(
            body(&gateway.get(&anna, &path).await)["reason"]["type"],
            "/problems/upstream-unavailable"
        );
        assert_eq!(gateway.metric("sluice_dead_letters_made_total{core=\"0\"}"), 1);
    });
    assert_eq!(world.tasks_on_disk(Kind::DeadLetter).len(), 1);
}

#[test]
fn a_task_that_waits_for_its_next_attempt_still_waits_after_a_restart() {
    let world = World::new();
    let anna = world.user("anna");
    let slow = || ShardConfig { task_retry_base: Duration::from_secs(8), ..hasty() };
    let again = || ShardConfig { task_retry_max: Duration::from_secs(8), ..slow() };
    let (id, key) = (anna.id, anna.key.clone());
    world.run(again(), |gateway| async move {
        gateway.accepted(&anna, "fail it").await;
        gateway.settle().await;
        assert_eq!(gateway.script.log().len(), 2);
    });
    let pending = world.tasks_on_disk(Kind::TaskPending);
    let (not_before_ms, deadline_ms) = (pending[0].not_before_ms, pending[0].deadline_ms);
    assert!(not_before_ms >= START_MS && pending[0].retries == 1);
    let anna = User { id, key };
    world.run_at(not_before_ms - 1, again(), |gateway| async move {
        gateway.settle().await;
        assert!(gateway.script.log().is_empty());
        let _ = &anna;
        gateway.advance(1).await;
        assert_eq!(gateway.script.log()[0], "start fail it");
    });
    // Neither the restart nor the attempts move the deadline.
    let all = [world.tasks_on_disk(Kind::TaskPending), world.tasks_on_disk(Kind::TaskFinished)].concat();
    assert_eq!(all[0].deadline_ms, deadline_ms);
}

#[test]
fn what_will_not_pass_is_neither_tried_again_nor_set_aside() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(hasty(), |gateway| async move {
        let (task, _) = gateway.accepted(&anna, "wrong from the start").await;
        assert_eq!(gateway.finished(&anna, &task).await["attempts"], 1);
        // Who waits for the answer is told of the failure, and may decide.
        assert_eq!(gateway.command(&anna, json!({"command": "fail it"})).await.status, 502);
    });
    assert!(world.tasks_on_disk(Kind::DeadLetter).is_empty());
}

#[test]
fn a_dead_letter_is_edited_redriven_and_purged() {
    let world = World::new();
    let anna = world.user("anna");
    let config = ShardConfig { task_attempts_max: 1, ..config() };
    world.run(config, |gateway| async move {
        let (first, _) = gateway.accepted(&anna, "fail one").await;
        let (second, _) = gateway.accepted(&anna, "fail two").await;
        gateway.finished(&anna, &second).await;
        let path = |task: &str| format!("/api/v1/dead-letters/{task}");

        // As it is, it keeps its name, and ends as a dead letter once more.
        let redriven = gateway.post(&anna, &format!("{}/redrive", path(&first))).await;
        assert_eq!((redriven.status, &body(&redriven)["id"]), (202, &json!(first)));
        assert_eq!(gateway.finished(&anna, &first).await["attempts"], 2);
        assert_eq!(gateway.get(&anna, &path(&first)).await.status, 200);

        let edited = json!({"command": "do two", "priority": "high"});
        let edited = body(&gateway.with_json(&anna, "PATCH", &path(&second), edited).await);
        assert_eq!((&edited["edited"], &edited["task"]["command"]), (&json!(true), &json!("do two")));
        let redriven = gateway.post(&anna, &format!("{}/redrive", path(&second))).await;
        let fresh = body(&redriven)["id"].as_str().unwrap().to_owned();
        assert_ne!(fresh, second);
        let end = gateway.finished(&anna, &fresh).await;
        assert_eq!((&end["state"], &end["priority"]), (&json!("done"), &json!("high")));
        assert_eq!(gateway.state(&anna, &second).await, "failed");
        assert_eq!(gateway.get(&anna, &path(&second)).await.status, 404);

        assert_eq!(gateway.send(anna.head("DELETE", &path(&first)), "").await.status, 204);
        assert_eq!(gateway.send(anna.head("DELETE", &path(&first)), "").await.status, 404);
        assert_eq!(gateway.post(&anna, &format!("{}/redrive", path(&first))).await.status, 404);
        let nothing = gateway.with_json(&anna, "PATCH", &path(&first), json!({"command": "x"})).await;
        assert_eq!(nothing.status, 404);
    });
    assert!(world.tasks_on_disk(Kind::DeadLetter).is_empty());
}

#[test]
fn a_preview_runs_only_once_it_is_confirmed_also_after_a_restart() {
    let world = World::new();
    let anna = world.user("anna");
    let (id, key) = (anna.id, anna.key.clone());
    world.run(config(), |gateway| async move {
        let preview = |command: &str| gateway.command(&anna, json!({"command": command, "mode": "preview"}));
        let planned = preview("one").await;
        assert_eq!((planned.status, &body(&planned)["state"]), (200, &json!("awaiting_confirmation")));
        let one = body(&planned)["id"].as_str().unwrap().to_owned();
        let two = body(&preview("two").await)["id"].as_str().unwrap().to_owned();
        preview("three").await;
        assert_eq!(gateway.metric("sluice_tasks_unconfirmed{core=\"0\"}"), 3);
        let path = |task: &str, verb: &str| format!("/api/v1/tasks/{task}/{verb}");
        assert_eq!(gateway.post(&anna, &path(&one, "confirm")).await.status, 202);
        assert_eq!(gateway.finished(&anna, &one).await["state"], "done");
        let again = gateway.post(&anna, &path(&one, "confirm")).await;
        assert_eq!(problem(&again).kind(), ProblemKind::Conflict);
        assert_eq!(body(&gateway.post(&anna, &path(&two, "cancel")).await)["state"], "cancelled");
        assert_eq!(gateway.script.log().len(), 5);
    });
    let anna = User { id, key };
    world.run(config(), |gateway| async move {
        gateway.settle().await;
        assert!(gateway.script.log().is_empty());
        let list = body(&gateway.get(&anna, "/api/v1/tasks?state=awaiting_confirmation").await);
        let three = list["tasks"][0]["id"].as_str().unwrap().to_owned();
        assert_eq!(gateway.post(&anna, &format!("/api/v1/tasks/{three}/confirm")).await.status, 202);
        assert_eq!(gateway.finished(&anna, &three).await["state"], "done");
    });
}

#[test]
fn tasks_are_listed_by_state_page_by_page() {
    let world = World::new();
    let (anna, bert) = (world.user("anna"), world.user("bert"));
    world.run(config(), |gateway| async move {
        let mut expected = Vec::new();
        for number in 0..7 {
            let (task, _) = gateway.accepted(&anna, &format!("do {number}")).await;
            gateway.finished(&anna, &task).await;
            expected.insert(0, task);
        }
        let (held, _) = gateway.accepted(&anna, "hold it").await;
        gateway.settle().await;
        let mut path = "/api/v1/tasks?state=done&limit=3".to_owned();
        let mut listed = Vec::new();
        let mut cursors = Vec::new();
        for _ in 0..3 {
            let page = body(&gateway.get(&anna, &path).await);
            listed.extend(page["tasks"].as_array().unwrap().iter().map(|task| task["id"].clone()));
            let Some(next) = page["next"].as_str() else { break };
            cursors.push(next.to_owned());
            path = format!("/api/v1/tasks?state=done&limit=3&cursor={next}");
        }
        assert_eq!((listed, cursors.len()), (expected.iter().map(|task| json!(task)).collect(), 2));
        let running = body(&gateway.get(&anna, "/api/v1/tasks?state=running").await);
        assert_eq!(
            (&running["tasks"][0]["id"], running["tasks"].as_array().unwrap().len()),
            (&json!(held), 1)
        );
        let all = body(&gateway.get(&anna, "/api/v1/tasks?limit=2").await);
        assert_eq!((&all["tasks"][0]["id"], &all["tasks"][1]["id"]), (&json!(held), &json!(expected[0])));

        assert_eq!(body(&gateway.get(&bert, "/api/v1/tasks").await)["tasks"], json!([]));
        for (user, query) in [(&bert, "state=done&"), (&anna, "state=failed&"), (&anna, "")] {
            let foreign = gateway.get(user, &format!("/api/v1/tasks?{query}cursor={}", cursors[0])).await;
            assert_eq!(problem(&foreign).kind(), ProblemKind::InvalidField);
        }
        assert_eq!(gateway.get(&anna, "/api/v1/tasks?colour=red").await.status, 422);
        gateway.script.is_released.set(true);
    });
}

#[test]
fn a_key_gives_the_same_task_and_is_good_for_one_request() {
    let world = World::new();
    let (anna, bert) = (world.user("anna"), world.user("bert"));
    let (id, key) = (anna.id, anna.key.clone());
    world.run(config(), |gateway| async move {
        let path = "/api/v1/command";
        let fields = json!({"command": "do it", "mode": "async"});
        let first = gateway.keyed(&anna, path, "k-1", &fields).await;
        let again = gateway.keyed(&anna, path, "k-1", &fields).await;
        assert_eq!((first.status, again.status, &first.body), (202, 202, &again.body));
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        let other = gateway.keyed(&anna, path, "k-1", &json!({"command": "something else"})).await;
        assert_eq!(problem(&other).kind(), ProblemKind::IdempotencyMismatch);
        assert_eq!(gateway.keyed(&anna, path, "not one", &fields).await.status, 400);
        // Another user's key is another key.
        assert_ne!(gateway.keyed(&bert, path, "k-1", &fields).await.body, first.body);

        let held = json!({"command": "hold it"});
        let waiting = gateway.send(
            anna.head("POST", path).with("content-type", "application/json").with("idempotency-key", "k-2"),
            &held.to_string(),
        );
        let at_once = gateway.keyed(&anna, path, "k-2", &held).await;
        assert_eq!(problem(&at_once).kind(), ProblemKind::IdempotencyInFlight);
        gateway.settle().await;
        let meanwhile = gateway.keyed(&anna, path, "k-2", &held).await;
        assert_eq!(problem(&meanwhile).kind(), ProblemKind::IdempotencyInFlight);
        gateway.script.is_released.set(true);
        let done = waiting.await;
        let replayed = gateway.keyed(&anna, path, "k-2", &held).await;
        assert_eq!((done.status, replayed.status, &done.body), (200, 200, &replayed.body));
    });
    let anna = User { id, key };
    let fields = json!({"command": "do it", "mode": "async"});
    let count = world.tasks_on_disk(Kind::TaskFinished).len();
    world.run_at(START_MS + DAY_MS - 1, config(), {
        let fields = fields.clone();
        let anna = User { id, key: anna.key.clone() };
        |gateway| async move {
            let again = gateway.keyed(&anna, "/api/v1/command", "k-1", &fields).await;
            assert_eq!(again.header("idempotency-replayed"), Some("true"));
        }
    });
    assert_eq!(world.tasks_on_disk(Kind::TaskFinished).len(), count);
    world.run_at(START_MS + DAY_MS, config(), |gateway| async move {
        let again = gateway.keyed(&anna, "/api/v1/command", "k-1", &fields).await;
        assert_eq!((again.status, again.header("idempotency-replayed")), (202, None));
    });
}

#[test]
fn a_batch_is_answered_item_by_item_and_repeated_with_its_key() {
    let world = World::new();
    let anna = world.user("anna");
    let config = ShardConfig { tasks_queued_max: 2, ..config() };
    world.run(config, |gateway| async move {
        let fields = json!({"commands": [
            {"command": "hold one", "priority": "high"}, {"command": ""}, {"command": "two", "priority": "high"},
            {"command": "three", "priority": "high"},
        ]});
        let answer = gateway.keyed(&anna, "/api/v1/commands", "b-1", &fields).await;
        assert_eq!(answer.status, 207, "{answer:?}");
        let items = body(&answer)["items"].clone();
        let statuses: Vec<_> = items.as_array().unwrap().iter().map(|item| item["status"].clone()).collect();
        assert_eq!(statuses, [json!(202), json!(422), json!(202), json!(503)]);
        let again = gateway.keyed(&anna, "/api/v1/commands", "b-1", &fields).await;
        assert_eq!((again.status, &again.body), (207, &answer.body));
        gateway.script.is_released.set(true);
        let two = items[2]["task"]["id"].as_str().unwrap();
        assert_eq!(gateway.finished(&anna, two).await["answer"], "after [hold one]");
    });
    assert_eq!(world.tasks_on_disk(Kind::TaskFinished).len(), 2);
}

#[test]
fn a_deadline_of_the_callers_is_kept_by_what_is_on_disk() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        gateway.command(&anna, json!({"command": "one", "deadline_ms": 500})).await;
        gateway.command(&anna, json!({"command": "two"})).await;
    });
    let asked: Vec<_> = world
        .tasks_on_disk(Kind::TaskFinished)
        .iter()
        .map(|task| (task.deadline_ms - START_MS, task.deadline_asked, codes::priority(task.priority).name()))
        .collect();
    assert!(
        asked.contains(&(500, true, "normal")) && asked.contains(&(60_000, false, "normal")),
        "{asked:?}"
    );
}

#[test]
fn a_wait_for_the_command_before_and_one_for_a_place_are_told_apart() {
    let world = World::new();
    let (anna, bert) = (world.user("anna"), world.user("bert"));
    let config = ShardConfig { tasks_running_max: 1, ..config() };
    world.run(config, |gateway| async move {
        let (held, _) = gateway.accepted(&anna, "hold it").await;
        let (after, _) = gateway.accepted(&anna, "after it").await;
        let (other, _) = gateway.accepted(&bert, "another").await;
        gateway.settle().await;
        gateway.script.is_released.set(true);
        let us = |task: &Value, part: &str| task["timing"][format!("{part}_us")].as_u64().expect("a number");
        let held = gateway.finished(&anna, &held).await;
        assert_eq!((us(&held, "turn"), us(&held, "queue")), (0, 0), "{held}");
        let after = gateway.finished(&anna, &after).await;
        assert!(us(&after, "turn") > 0, "{after}");
        let other = gateway.finished(&bert, &other).await;
        assert!(us(&other, "queue") > 0 && us(&other, "turn") == 0, "{other}");
        let path = format!("/api/v1/tasks/{}", after["id"].as_str().expect("an id"));
        let told = gateway.get(&anna, &path).await;
        assert!(
            told.header("server-timing").is_some_and(|timing| timing.contains(", turn;dur=")),
            "{told:?}"
        );
    });
}

#[test]
fn a_wait_behind_one_that_is_cancelled_before_it_is_tried_again_is_for_the_turn() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(hasty(), |gateway| async move {
        let (failed, _) = gateway.accepted(&anna, "fail it").await;
        gateway.settle().await;
        // The clock stands still: the second attempt is not due, and holds its session.
        let (after, _) = gateway.accepted(&anna, "after it").await;
        gateway.settle().await;
        assert_eq!(gateway.state(&anna, &after).await, "queued");
        assert_eq!(gateway.post(&anna, &format!("/api/v1/tasks/{failed}/cancel")).await.status, 200);
        let after = gateway.finished(&anna, &after).await;
        assert!(after["timing"]["turn_us"].as_u64().is_some_and(|turn_us| turn_us > 0), "{after}");
    });
}

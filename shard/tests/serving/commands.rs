//! Commands: promised only when durable, done in order, told only when ended.

use crate::common::{START_MS, World, body, config, problem};
use serde_json::{Value, json};
use sluice_protocols::problem::ProblemKind;
use sluice_shard::ShardConfig;
use sluice_store::Kind;

#[test]
fn a_synchronous_command_is_answered_with_its_finished_task() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        let done = gateway.command(&anna, json!({"command": "note it"})).await;
        assert_eq!(done.status, 200, "{done:?}");
        assert_eq!(done.header("server-timing"), Some("own;dur=1.000, openai;dur=1.500, google;dur=2.500"));
        let task = body(&done);
        assert_eq!((&task["state"], &task["mode"]), (&json!("done"), &json!("sync")));
        let path = done.header("location").unwrap().to_owned();
        assert_eq!(path, format!("/api/v1/tasks/{}", task["id"].as_str().unwrap()));
        assert_eq!(body(&gateway.get(&anna, &path).await), task);

        let declined = gateway.command(&anna, json!({"command": "decline this"})).await;
        assert_eq!((declined.status, &body(&declined)["state"]), (200, &json!("declined")));
        let failed = gateway.command(&anna, json!({"command": "fail this"})).await;
        let told = problem(&failed);
        assert_eq!((failed.status, told.kind()), (502, ProblemKind::UpstreamUnavailable));
        assert_eq!(told.task().unwrap()["state"], "failed");
        assert!(failed.header("location").is_some() && failed.header("server-timing").is_some());
    });
    assert_eq!(world.tasks_on_disk(Kind::TaskFinished).len(), 3);
    assert!(world.tasks_on_disk(Kind::TaskPending).is_empty());
}

#[test]
fn the_defaults_of_a_command_are_the_users_and_the_configurations() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        gateway.command(&anna, json!({"command": "one"})).await;
        gateway
            .command(&anna, json!({"command": "two", "time_zone": "Asia/Tokyo", "deadline_ms": 500}))
            .await;
        gateway.command(&anna, json!({"command": "three", "deadline_ms": 120_000})).await;
    });
    let mut tasks = world.tasks_on_disk(Kind::TaskFinished);
    tasks.sort_by_key(|task| task.id);
    let zones: Vec<_> = tasks.iter().map(|task| task.time_zone.as_str()).collect();
    assert_eq!(zones, ["Europe/Berlin", "Asia/Tokyo", "Europe/Berlin"]);
    let deadlines: Vec<_> = tasks.iter().map(|task| task.deadline_ms - START_MS).collect();
    assert_eq!(deadlines, [60_000, 500, 60_000]);
}

#[test]
fn a_command_beyond_the_bound_leaves_no_record() {
    let world = World::new();
    let anna = world.user("anna");
    let config = ShardConfig { tasks_queued_max: 1, ..config() };
    world.run(config, |gateway| async move {
        gateway.accepted(&anna, "hold one").await;
        gateway.settle().await;
        gateway.accepted(&anna, "hold two").await;
        let full = gateway.command(&anna, json!({"command": "three", "mode": "async"})).await;
        assert_eq!(problem(&full).kind(), ProblemKind::Overloaded);
        assert_eq!(full.header("retry-after"), Some("1"));
        assert_eq!(gateway.metric("sluice_commands_refused_full_total{core=\"0\"}"), 1);
        assert_eq!(gateway.metric("sluice_tasks_queued{core=\"0\"}"), 1);
        assert_eq!(gateway.metric("sluice_tasks_running{core=\"0\"}"), 1);
    });
    let mut commands: Vec<_> =
        world.tasks_on_disk(Kind::TaskPending).into_iter().map(|task| task.command).collect();
    commands.sort();
    assert_eq!(commands, ["hold one", "hold two"]);
}

#[test]
fn commands_of_a_session_run_in_order_and_see_what_came_before() {
    let world = World::new();
    let (anna, bert) = (world.user("anna"), world.user("bert"));
    world.run(config(), |gateway| async move {
        gateway.accepted(&anna, "hold a1").await;
        gateway.accepted(&anna, "a2").await;
        let (last, _) = gateway.accepted(&anna, "a3").await;
        let (theirs, _) = gateway.accepted(&bert, "b1").await;
        // Another user's session does not wait.
        assert_eq!(gateway.finished(&bert, &theirs).await["answer"], "after []");
        assert_eq!(gateway.script.log(), ["start hold a1", "start b1", "end b1"]);
        gateway.script.is_released.set(true);
        assert_eq!(gateway.finished(&anna, &last).await["answer"], "after [hold a1, a2]");
        let expected = ["end hold a1", "start a2", "end a2", "start a3", "end a3"];
        assert_eq!(gateway.script.log()[3..], expected);
    });
}

#[test]
fn a_poll_that_prefers_to_wait_is_answered_at_the_end() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        let (task, _) = gateway.accepted(&anna, "hold it").await;
        let poll = |prefer: &str| {
            gateway.send(anna.head("GET", &format!("/api/v1/tasks/{task}")).with("prefer", prefer), "")
        };
        let at_once = poll("wait=0").await;
        assert_eq!(body(&at_once)["state"], "running");
        assert_eq!(at_once.header("preference-applied"), Some("wait=0"));
        let waiting = poll("wait=60");
        gateway.settle().await;
        assert!(!waiting.is_there());
        assert_eq!(gateway.metric("sluice_waits{core=\"0\"}"), 1);
        gateway.script.is_released.set(true);
        let end = waiting.await;
        assert_eq!(body(&end)["state"], "done");
        assert_eq!(end.header("preference-applied"), Some("wait=60"));
        assert_eq!(gateway.metric("sluice_waits{core=\"0\"}"), 0);
        assert!(poll("nonsense").await.header("preference-applied").is_none());
    });
}

#[test]
fn who_waits_beyond_the_bound_is_answered_at_once() {
    let world = World::new();
    let anna = world.user("anna");
    let config = ShardConfig { waits_max: 1, ..config() };
    world.run(config, |gateway| async move {
        let (task, _) = gateway.accepted(&anna, "hold it").await;
        let poll =
            || gateway.send(anna.head("GET", &format!("/api/v1/tasks/{task}")).with("prefer", "wait=60"), "");
        let _first = poll();
        gateway.settle().await;
        let second = poll().await;
        assert_eq!((second.status, second.header("preference-applied")), (200, None));
        assert_eq!(gateway.metric("sluice_waits_refused_total{core=\"0\"}"), 1);
    });
}

#[test]
fn a_finished_task_is_found_again_after_a_restart() {
    let world = World::new();
    let anna = world.user("anna");
    let task = std::rc::Rc::new(std::cell::RefCell::new(Value::Null));
    let seen = std::rc::Rc::clone(&task);
    let again = crate::common::User { id: anna.id, key: anna.key.clone() };
    world.run(config(), |gateway| async move {
        *seen.borrow_mut() = body(&gateway.command(&anna, json!({"command": "note it"})).await);
    });
    world.run(config(), |gateway| async move {
        let task = task.take();
        let path = format!("/api/v1/tasks/{}", task["id"].as_str().unwrap());
        assert_eq!(body(&gateway.get(&again, &path).await), task);
        assert_eq!(body(&gateway.get(&again, &path).await), task);
        assert_eq!(gateway.metric("sluice_finished_hits_total{core=\"0\"}"), 1);
    });
}

#[test]
fn a_task_that_stumbles_over_the_storage_is_taken_up_again() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        gateway.script.stumbles.set(2);
        let response = gateway.command(&anna, json!({"command": "stumble on"})).await;
        assert_eq!((response.status, &body(&response)["state"]), (200, &json!("done")));
        let log = ["start stumble on", "start stumble on", "start stumble on", "end stumble on"];
        assert_eq!(gateway.script.log(), log);
        assert_eq!(gateway.metric("sluice_tasks_retried_total{core=\"0\"}"), 2);
    });
}

#[test]
fn what_was_promised_is_done_after_a_kill_in_the_order_it_was_promised() {
    let world = World::new();
    let (anna, bert) = (world.user("anna"), world.user("bert"));
    let config = || ShardConfig { tasks_running_max: 1, ..config() };
    let again = crate::common::User { id: anna.id, key: anna.key.clone() };
    let last = std::rc::Rc::new(std::cell::RefCell::new(String::new()));
    let seen = std::rc::Rc::clone(&last);
    world.run(config(), |gateway| async move {
        gateway.accepted(&anna, "hold a1").await;
        gateway.accepted(&bert, "b1").await;
        gateway.accepted(&anna, "a2").await;
        *seen.borrow_mut() = gateway.accepted(&anna, "a3").await.0;
        gateway.settle().await;
        assert_eq!(gateway.script.log(), ["start hold a1"]);
    });
    assert_eq!(world.tasks_on_disk(Kind::TaskPending).len(), 4);
    world.run(config(), |gateway| async move {
        assert_eq!(gateway.metric("sluice_tasks_recovered_total{core=\"0\"}"), 4);
        gateway.script.is_released.set(true);
        let end = gateway.finished(&again, &last.take()).await;
        assert_eq!(end["answer"], "after [hold a1, a2]");
        let starts: Vec<_> =
            gateway.script.log().into_iter().filter(|line| line.starts_with("start")).collect();
        assert_eq!(starts, ["start hold a1", "start b1", "start a2", "start a3"]);
        // A new command comes behind the old ones, and its name says so.
        let (new, _) = gateway.accepted(&again, "a4").await;
        assert!(new.as_str() > end["id"].as_str().unwrap());
        assert_eq!(gateway.finished(&again, &new).await["answer"], "after [hold a1, a2, a3]");
    });
    assert!(world.tasks_on_disk(Kind::TaskPending).is_empty());
    assert_eq!(world.tasks_on_disk(Kind::TaskFinished).len(), 5);
}

#[test]
fn a_server_that_drains_takes_nothing_new_and_keeps_what_it_promised() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        gateway.accepted(&anna, "hold one").await;
        gateway.settle().await;
        let waiting = gateway.command(&anna, json!({"command": "two"}));
        gateway.settle().await;
        assert!(!waiting.is_there());
        assert_eq!(gateway.service.drain(sluice_core::now()).await, 1);
        let left = waiting.await;
        assert_eq!(problem(&left).kind(), ProblemKind::ShuttingDown);
        assert!(!problem(&left).is_retryable() && left.header("location").is_some());
        let refused = gateway.command(&anna, json!({"command": "three"})).await;
        assert_eq!(problem(&refused).kind(), ProblemKind::ShuttingDown);
        assert!(problem(&refused).is_retryable() && refused.header("retry-after").is_some());
        let ready = sluice_protocols::http::RequestHead::build("GET", "/readyz", "localhost");
        let ready = gateway.send(ready, "").await;
        assert_eq!((ready.status, &body(&ready)["status"]), (503, &json!("draining")));
    });
    assert_eq!(world.tasks_on_disk(Kind::TaskPending).len(), 2);
}

#[test]
fn a_drain_waits_for_what_runs() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        let held = gateway.command(&anna, json!({"command": "hold one"}));
        gateway.settle().await;
        let service = std::rc::Rc::clone(&gateway.service);
        let far = sluice_core::now() + std::time::Duration::from_secs(60);
        let drained = sluice_core::spawn(async move { service.drain(far).await });
        gateway.settle().await;
        assert!(!drained.is_finished());
        gateway.script.is_released.set(true);
        assert_eq!((drained.await, held.await.status), (0, 200));
    });
}

#[test]
fn a_pending_task_that_cannot_be_read_stops_nobody() {
    let world = World::new();
    let (anna, bert) = (world.user("anna"), world.user("bert"));
    let again = crate::common::User { id: bert.id, key: bert.key.clone() };
    let theirs = std::rc::Rc::new(std::cell::RefCell::new(String::new()));
    let seen = std::rc::Rc::clone(&theirs);
    world.run(config(), |gateway| async move {
        *seen.borrow_mut() = gateway.accepted(&bert, "hold b1").await.0;
    });
    let shard = sluice_protocols::ids::ShardId::of(&anna.id, world.store.shard_count());
    let task = sluice_protocols::ids::TaskId::new(START_MS - 1, [7; 10]);
    let mut damage = sluice_store::Batch::new(shard);
    damage.put(&sluice_store::Key::task_pending(&anna.id, &task), b"no record");
    world.store.write_blocking(vec![damage]).unwrap();
    world.run(config(), move |gateway| async move {
        gateway.script.is_released.set(true);
        assert_eq!(gateway.finished(&again, &theirs.take()).await["state"], "done");
        assert_eq!(gateway.metric("sluice_tasks_unreadable_total{core=\"0\"}"), 1);
        let asked = gateway.get(&anna, &format!("/api/v1/tasks/{task}")).await;
        assert_eq!(problem(&asked).kind(), ProblemKind::Storage);
    });
}

#[test]
fn nobody_is_served_before_old_commands_are_taken_up() {
    let world = World::new();
    let anna = world.user("anna");
    world.run_unready(config(), |gateway| async move {
        assert!(!gateway.service.is_ready());
        let early = gateway.command(&anna, json!({"command": "x"})).await;
        assert_eq!(problem(&early).kind(), ProblemKind::Overloaded);
        assert!(early.header("retry-after").is_some());
        let ready = sluice_protocols::http::RequestHead::build("GET", "/readyz", "localhost");
        assert_eq!(body(&gateway.send(ready, "").await)["status"], "starting");
        gateway.service.ready().await;
        assert_eq!(gateway.command(&anna, json!({"command": "x"})).await.status, 200);
    });
}

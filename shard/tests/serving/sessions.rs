//! Sessions: which one a command belongs to, how long it lasts, and that an ended one stays ended.

use crate::common::{DAY_MS, START_MS, User, World, body, config, problem};
use serde_json::json;
use sluice_protocols::problem::ProblemKind;
use sluice_store::Kind;

fn copy(user: &User) -> User {
    User { id: user.id, key: user.key.clone() }
}

fn path(session: &str) -> String {
    format!("/api/v1/sessions/{session}")
}

#[test]
fn a_session_remembers_its_last_ten_commands() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        let mut session = String::new();
        for number in 1..=12 {
            let response = gateway.command(&anna, json!({"command": format!("c{number}")})).await;
            body(&response)["session"].as_str().unwrap().clone_into(&mut session);
        }
        let view = body(&gateway.get(&anna, &path(&session)).await);
        assert_eq!(view["id"], session);
        let numbers: Vec<_> =
            view["turns"].as_array().unwrap().iter().map(|turn| turn["number"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (3..=12).collect::<Vec<_>>());
        assert_eq!(view["turns"][9]["command"], "c12");
        assert!(gateway.metric("sluice_session_cache_hits_total{core=\"0\"}") > 0);
    });
}

#[test]
fn a_session_just_begun_is_there_before_its_first_command_ends() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        let (_, session) = gateway.accepted(&anna, "hold it").await;
        let response = gateway.get(&anna, &path(&session)).await;
        assert_eq!((response.status, &body(&response)["turns"]), (200, &json!([])));
        let more = gateway.command(&anna, json!({"command": "x", "session": session, "mode": "async"})).await;
        assert_eq!((more.status, &body(&more)["session"]), (202, &json!(session)));
    });
}

#[test]
fn a_session_lasts_a_day_and_the_next_command_begins_another() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        let first = body(&gateway.command(&anna, json!({"command": "one"})).await);
        let session = first["session"].as_str().unwrap();
        gateway.clock.set(START_MS + DAY_MS - 1);
        let same = body(&gateway.command(&anna, json!({"command": "two"})).await);
        assert_eq!((&same["session"], &same["answer"]), (&json!(session), &json!("after [one]")));
        assert_eq!(gateway.get(&anna, &path(session)).await.status, 200);
        gateway.clock.set(START_MS + DAY_MS);
        assert_eq!(problem(&gateway.get(&anna, &path(session)).await).kind(), ProblemKind::NotFound);
        let named = gateway.command(&anna, json!({"command": "three", "session": session})).await;
        assert_eq!(problem(&named).kind(), ProblemKind::NotFound);
        let next = body(&gateway.command(&anna, json!({"command": "three"})).await);
        assert_ne!(next["session"], session);
        assert_eq!(next["answer"], "after []");
    });
}

#[test]
fn the_current_session_is_found_after_a_restart_and_those_that_are_over_are_removed() {
    let world = World::new();
    let anna = world.user("anna");
    let users = [copy(&anna), copy(&anna)];
    world.run(config(), |gateway| async move {
        gateway.command(&anna, json!({"command": "old"})).await;
        gateway.clock.set(START_MS + DAY_MS);
        gateway.command(&anna, json!({"command": "new"})).await;
    });
    let on_disk = || {
        let shards = world.store.shard_count().shards();
        let rows = shards.map(|shard| {
            world.store.scan_blocking(shard, sluice_store::KeyRange::kind(Kind::Session), 9, false).unwrap()
        });
        rows.map(|page| page.rows.len()).sum::<usize>()
    };
    let [second, third] = users;
    world.run_at(START_MS + DAY_MS + 1, config(), |gateway| async move {
        let response = gateway.command(&second, json!({"command": "newer"})).await;
        assert_eq!(body(&response)["answer"], "after [new]");
        gateway.settle().await;
    });
    assert_eq!(on_disk(), 1);
    world.run_at(START_MS + 3 * DAY_MS, config(), |gateway| async move {
        let response = gateway.command(&third, json!({"command": "newest"})).await;
        assert_eq!(body(&response)["answer"], "after []");
        gateway.settle().await;
    });
    assert_eq!(on_disk(), 1);
}

#[test]
fn commands_at_the_same_moment_begin_one_session() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        let answers: Vec<_> = (0..5)
            .map(|n| gateway.command(&anna, json!({"command": format!("c{n}"), "mode": "async"})))
            .collect();
        let mut sessions = Vec::new();
        for answer in answers {
            sessions.push(body(&answer.await)["session"].as_str().unwrap().to_owned());
        }
        sessions.dedup();
        assert_eq!(sessions.len(), 1);
        assert_eq!(gateway.metric("sluice_sessions_created_total{core=\"0\"}"), 1);
    });
}

#[test]
fn an_ended_session_is_gone_at_once_and_for_good() {
    let world = World::new();
    let anna = world.user("anna");
    let again = copy(&anna);
    let ended = std::rc::Rc::new(std::cell::RefCell::new(String::new()));
    let seen = std::rc::Rc::clone(&ended);
    world.run(config(), |gateway| async move {
        let first = body(&gateway.command(&anna, json!({"command": "one"})).await);
        let session = first["session"].as_str().unwrap();
        let end = || gateway.send(anna.head("DELETE", &path(session)), "");
        assert_eq!(end().await.status, 204);
        assert_eq!(end().await.status, 404);
        assert_eq!(gateway.get(&anna, &path(session)).await.status, 404);
        let next = body(&gateway.command(&anna, json!({"command": "two"})).await);
        assert_ne!(next["session"], session);
        assert_eq!(next["answer"], "after []");
        session.clone_into(&mut seen.borrow_mut());
    });
    world.run(config(), |gateway| async move {
        assert_eq!(gateway.get(&again, &path(&ended.take())).await.status, 404);
    });
}

#[test]
fn a_session_ended_while_its_commands_run_is_not_brought_back_by_them() {
    let world = World::new();
    let anna = world.user("anna");
    let again = copy(&anna);
    let ended = std::rc::Rc::new(std::cell::RefCell::new((String::new(), String::new())));
    let seen = std::rc::Rc::clone(&ended);
    world.run(config(), |gateway| async move {
        let (first, session) = gateway.accepted(&anna, "hold one").await;
        let (second, _) = gateway.accepted(&anna, "hold two").await;
        gateway.settle().await;
        assert_eq!(gateway.send(anna.head("DELETE", &path(&session)), "").await.status, 204);
        let (other, elsewhere) = gateway.accepted(&anna, "three").await;
        assert_ne!(elsewhere, session);
        assert_eq!(gateway.finished(&anna, &other).await["answer"], "after []");
        assert_eq!(gateway.get(&anna, &path(&session)).await.status, 404);
        gateway.script.is_released.set(true);
        assert_eq!(gateway.finished(&anna, &first).await["state"], "done");
        assert_eq!(gateway.get(&anna, &path(&session)).await.status, 404);
        gateway.script.is_released.set(false);
        *seen.borrow_mut() = (second, session);
    });
    // Killed with the second command on its way: its end does not bring the session back either.
    world.run(config(), |gateway| async move {
        let (second, session) = ended.take();
        gateway.script.is_released.set(true);
        assert_eq!(gateway.finished(&again, &second).await["answer"], "after []");
        assert_eq!(gateway.get(&again, &path(&session)).await.status, 404);
        assert_ne!(gateway.accepted(&again, "four").await.1, session);
    });
}

//! Requests that must be refused are, each with its problem; those in order are answered.

use crate::common::{Answer, World, body, config, problem};
use serde_json::json;
use sluice_net::{Admit, Service};
use sluice_protocols::http::RequestHead;
use sluice_protocols::ids::ApiKey;
use sluice_protocols::problem::ProblemKind;

#[test]
fn a_request_without_a_valid_key_is_refused() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        let path = "/api/v1/sessions/ses_00000000000000000000000000";
        let bare = gateway.send(RequestHead::build("GET", path, "localhost"), "").await;
        assert_eq!(problem(&bare).kind(), ProblemKind::Unauthorized);
        assert!(bare.header("www-authenticate").unwrap().starts_with("Bearer"));
        let wrong = crate::common::User { id: anna.id, key: ApiKey::new(anna.id, [1; 32]) };
        for _ in 0..3 {
            assert_eq!(problem(&gateway.get(&wrong, path).await).kind(), ProblemKind::Unauthorized);
        }
        // The command's body is not even taken.
        let head = RequestHead::build("POST", "/api/v1/command", "localhost");
        let head = head.with("content-type", "application/json");
        assert!(matches!(gateway.service.admit(&head, None), Admit::Reply(reply) if reply.status == 401));
        assert_eq!(problem(&gateway.get(&anna, path).await).kind(), ProblemKind::NotFound);
        assert_eq!(gateway.metric("sluice_keys_refused_total{core=\"0\"}"), 5);
    });
}

#[test]
fn a_checked_key_is_believed_and_a_new_key_of_a_disabled_user_is_not() {
    let world = World::new();
    let anna = world.user("anna");
    let admin = world.admin.clone();
    world.run(config(), |gateway| async move {
        let path = "/api/v1/tasks/tsk_00000000000000000000000000";
        for _ in 0..3 {
            assert_eq!(gateway.get(&anna, path).await.status, 404);
        }
        let hits = gateway.metric("sluice_keys_hits_total{core=\"0\"}");
        assert_eq!((hits, gateway.metric("sluice_keys_misses_total{core=\"0\"}")), (2, 1));
        admin.set_disabled(&anna.id, true).unwrap();
        let late = crate::common::User { id: anna.id, key: admin.create_key(&anna.id, "late").unwrap() };
        assert_eq!(problem(&gateway.get(&late, path).await).kind(), ProblemKind::Forbidden);
    });
}

#[test]
fn a_belief_in_a_key_ends() {
    let world = World::new();
    let anna = world.user("anna");
    let admin = world.admin.clone();
    let config = sluice_shard::ShardConfig { key_life: std::time::Duration::ZERO, ..config() };
    world.run(config, |gateway| async move {
        let path = "/api/v1/tasks/tsk_00000000000000000000000000";
        assert_eq!(gateway.get(&anna, path).await.status, 404);
        admin.set_disabled(&anna.id, true).unwrap();
        assert_eq!(gateway.get(&anna, path).await.status, 403);
    });
}

#[test]
fn what_is_another_users_is_not_there() {
    let world = World::new();
    let (anna, bert) = (world.user("anna"), world.user("bert"));
    world.run(config(), |gateway| async move {
        let (held, session) = gateway.accepted(&anna, "hold it").await;
        let (done, _) = gateway.accepted(&anna, "note it").await;
        gateway.settle().await;
        for path in [
            format!("/api/v1/tasks/{held}"),
            format!("/api/v1/tasks/{done}"),
            format!("/api/v1/sessions/{session}"),
        ] {
            assert_eq!(gateway.get(&anna, &path).await.status, 200, "{path}");
            assert_eq!(problem(&gateway.get(&bert, &path).await).kind(), ProblemKind::NotFound, "{path}");
        }
        gateway.script.is_released.set(true);
        gateway.finished(&anna, &done).await;
        assert_eq!(gateway.get(&bert, &format!("/api/v1/tasks/{done}")).await.status, 404);
        assert_eq!(gateway.get(&bert, &format!("/api/v1/sessions/{session}")).await.status, 404);
        let end = bert.head("DELETE", &format!("/api/v1/sessions/{session}"));
        assert_eq!(gateway.send(end, "").await.status, 404);
        let into_theirs = gateway.command(&bert, json!({"command": "x", "session": session})).await;
        assert_eq!(problem(&into_theirs).kind(), ProblemKind::NotFound);
        assert_eq!(gateway.get(&anna, &format!("/api/v1/sessions/{session}")).await.status, 200);
    });
}

#[test]
fn unknown_paths_and_methods_are_told_what_there_is() {
    let world = World::new();
    world.run(config(), |gateway| async move {
        let send = |method: &str, path: &str| gateway.send(RequestHead::build(method, path, "localhost"), "");
        assert_eq!(problem(&send("GET", "/api/v2/command").await).kind(), ProblemKind::NotFound);
        let wrong = send("PUT", "/api/v1/command").await;
        assert_eq!(problem(&wrong).kind(), ProblemKind::MethodNotAllowed);
        assert_eq!(wrong.header("allow"), Some("POST, OPTIONS"));
        let options = send("OPTIONS", "/api/v1/sessions/x").await;
        assert_eq!((options.status, options.header("allow")), (204, Some("GET, HEAD, DELETE, OPTIONS")));
        assert_eq!(send("HEAD", "/livez").await.status, 200);
        assert_eq!(body(&send("GET", "/livez").await)["status"], "ok");
        assert_eq!(body(&send("GET", "/readyz").await), json!({"status": "ok"}));
        let verbose = body(&send("GET", "/readyz?verbose").await);
        assert_eq!(verbose["checks"][0], json!({"name": "core 0", "ok": true}));
    });
}

#[test]
fn a_command_that_is_no_json_or_too_long_is_refused() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        let head = || anna.head("POST", "/api/v1/command");
        let json = || head().with("content-type", "application/json");
        let plain = gateway.send(head().with("content-type", "text/plain"), "{}").await;
        assert_eq!(problem(&plain).kind(), ProblemKind::UnsupportedMediaType);
        let broken = gateway.send(json(), "{").await;
        assert_eq!(problem(&broken).kind(), ProblemKind::InvalidJson);
        let wrong = gateway.send(json(), r#"{"command":"x","colour":1}"#).await;
        assert_eq!(problem(&wrong).errors()[0].pointer, "/colour");
        let nowhere = gateway.send(json(), r#"{"command":"x","time_zone":"Mars/Olympus"}"#).await;
        assert_eq!(problem(&nowhere).errors()[0].pointer, "/time_zone");
        let long = gateway.send(json(), &" ".repeat(65_537)).await;
        assert_eq!(problem(&long).kind(), ProblemKind::PayloadTooLarge);
        let announced = gateway.send(json().with("content-length", "65537"), "").await;
        assert_eq!(problem(&announced).kind(), ProblemKind::PayloadTooLarge);
    });
    assert!(world.tasks_on_disk(sluice_store::Kind::TaskPending).is_empty());
}

#[test]
fn a_command_in_early_data_is_too_early() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        let answer = Answer::default();
        let head = anna.head("POST", "/api/v1/command").with("content-type", "application/json");
        gateway.call(head, r#"{"command":"x"}"#, true, &answer);
        assert_eq!(problem(&answer.await).kind(), ProblemKind::TooEarly);
        let answer = Answer::default();
        gateway.call(RequestHead::build("GET", "/livez", "localhost"), "", true, &answer);
        assert_eq!(answer.await.status, 200);
        // A safe method, by which Google's answer is used up all the same.
        for (method, is_early, status) in [("GET", true, 425), ("GET", false, 400), ("HEAD", true, 400)] {
            let answer = Answer::default();
            let head = RequestHead::build(method, "/oauth/google/callback?state=x&code=y", "localhost");
            gateway.call(head, "", is_early, &answer);
            assert_eq!(answer.await.status, status, "{method}, {is_early}");
        }
    });
}

#[test]
fn the_ingress_gets_a_problem_for_whatever_it_refuses() {
    let world = World::new();
    world.run(config(), |gateway| async move {
        let refuse = |status| gateway.service.refuse(status, "why");
        assert_eq!(problem(&refuse(431)).kind(), ProblemKind::HeadersTooLarge);
        assert_eq!(problem(&refuse(413)).kind(), ProblemKind::PayloadTooLarge);
        let unspoken = refuse(501);
        assert_eq!((unspoken.status, &body(&unspoken)["type"]), (501, &json!("about:blank")));
        assert!(unspoken.header("x-request-id").is_some());
    });
}

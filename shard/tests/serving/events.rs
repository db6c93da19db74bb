//! `GET /api/v1/tasks/{id}/events`.

use serde_json::json;
use sluice_protocols::problem::ProblemKind;

use crate::common::{World, config, problem, read_all, read_one};

#[test]
fn a_stream_tells_acceptance_and_the_end_of_a_task() {
    let world = World::new();
    let user = world.user("ann");
    world.run(config(), |gateway| async move {
        let (task, _) = gateway.accepted(&user, "hold it").await;
        let path = format!("/api/v1/tasks/{task}/events");
        let (head, mut events) = gateway.get(&user, &path).streamed().await;
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
        assert_eq!((head.header("cache-control"), head.header("content-length")), (Some("no-store"), None));
        let accepted = read_one(&mut events).await;
        assert!(accepted.starts_with("id: 1\nevent: accepted\ndata: {"), "{accepted}");
        assert!(accepted.contains(&task) && accepted.ends_with("}\n\n"), "{accepted}");
        gateway.script.is_released.set(true);
        let rest = read_all(events).await;
        assert!(rest.starts_with("id: 2\nevent: done\ndata: {") && rest.contains("\"done\""), "{rest}");
        assert_eq!(rest.matches("event:").count(), 1);
        // Of a task that has ended there is as much to tell.
        let (_, events) = gateway.get(&user, &path).streamed().await;
        let whole = read_all(events).await;
        assert!(whole.contains("event: accepted") && whole.ends_with("}\n\n"), "{whole}");
    });
}

#[test]
fn events_of_strangers_and_of_nothing_are_not_found() {
    let world = World::new();
    let (ann, bob) = (world.user("ann"), world.user("bob"));
    world.run(config(), |gateway| async move {
        let (task, _) = gateway.accepted(&ann, "do it").await;
        for path in [&*task, "tsk_00000000000000000000000000", "nonsense"] {
            let answer = gateway.get(&bob, &format!("/api/v1/tasks/{path}/events")).await;
            assert_eq!(problem(&answer).kind(), ProblemKind::NotFound);
        }
    });
}

#[test]
fn streams_are_bounded_and_a_client_that_goes_gives_its_place_back() {
    let world = World::new();
    let user = world.user("ann");
    let mut bounded = config();
    bounded.waits_max = 2;
    world.run(bounded, |gateway| async move {
        let (task, _) = gateway.accepted(&user, "hold it").await;
        let path = format!("/api/v1/tasks/{task}/events");
        let (_, mut first) = gateway.get(&user, &path).streamed().await;
        let (_, _second) = gateway.get(&user, &path).streamed().await;
        read_one(&mut first).await;
        assert_eq!(problem(&gateway.get(&user, &path).await).kind(), ProblemKind::Overloaded);
        drop(first);
        gateway.settle().await;
        let (head, _third) = gateway.get(&user, &path).streamed().await;
        assert_eq!(head.status, 200);
    });
}

#[test]
fn a_core_that_winds_up_ends_its_streams() {
    let world = World::new();
    let user = world.user("ann");
    world.run(config(), |gateway| async move {
        let (task, _) = gateway.accepted(&user, "hold it").await;
        let (_, mut events) = gateway.get(&user, &format!("/api/v1/tasks/{task}/events")).streamed().await;
        read_one(&mut events).await;
        gateway.service.drain(sluice_core::now()).await;
        // It has no id: whoever comes again is told all that follows.
        assert!(read_all(events).await.starts_with("event: left\n"));
    });
}

#[test]
fn a_stream_goes_on_behind_the_last_event_its_client_has_seen() {
    let world = World::new();
    let user = world.user("ann");
    world.run(config(), |gateway| async move {
        let (task, _) = gateway.accepted(&user, "do it").await;
        gateway.finished(&user, &task).await;
        let ask = |seen: &str| {
            let head = user.head("GET", &format!("/api/v1/tasks/{task}/events"));
            gateway.send(head.with("last-event-id", seen), "")
        };
        let (_, events) = ask("1").streamed().await;
        let rest = read_all(events).await;
        assert!(rest.starts_with("id: 2\nevent: done\n") && rest.matches("event:").count() == 1, "{rest}");
        // All was told: clients stop to connect again.
        assert_eq!(ask("2").await.status, 204);
        for never_given in ["3", "x", "-1", ""] {
            let (_, events) = ask(never_given).streamed().await;
            assert!(read_all(events).await.starts_with("id: 1\n"), "{never_given}");
        }
    });
}

#[test]
fn a_streamed_command_is_answered_by_events_and_outlives_its_client() {
    let world = World::new();
    let user = world.user("ann");
    world.run(config(), |gateway| async move {
        let command = json!({"command": "hold it", "mode": "stream"});
        let (head, mut events) = gateway.command(&user, command).streamed().await;
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
        let path = head.header("location").unwrap().to_owned();
        assert!(read_one(&mut events).await.starts_with("id: 1\nevent: accepted\n"));
        drop(events);
        gateway.settle().await;
        assert_eq!(gateway.metric("sluice_event_streams_left_total{core=\"0\"}"), 1);
        gateway.script.is_released.set(true);
        let task = path.rsplit('/').next().unwrap();
        assert_eq!(gateway.finished(&user, task).await["state"], "done");
    });
}

#[test]
fn a_streamed_command_sent_again_with_its_key_is_one_task() {
    let world = World::new();
    let user = world.user("ann");
    world.run(config(), |gateway| async move {
        let mut tasks = Vec::new();
        for _ in 0..2 {
            let head = user.head("POST", "/api/v1/command").with("content-type", "application/json");
            let head = head.with("idempotency-key", "k1");
            let body = json!({"command": "do it", "mode": "stream"}).to_string();
            let (head, events) = gateway.send(head, &body).streamed().await;
            assert!(read_all(events).await.contains("event: done\n"));
            tasks.push(head.header("location").unwrap().to_owned());
        }
        assert_eq!(tasks[0], tasks[1]);
        assert_eq!(gateway.script.log(), ["start do it", "end do it"]);
    });
}

#[test]
fn a_streamed_command_without_a_place_for_its_stream_is_not_accepted() {
    let world = World::new();
    let user = world.user("ann");
    let mut none = config();
    none.waits_max = 0;
    world.run(none, |gateway| async move {
        let answer = gateway.command(&user, json!({"command": "do it", "mode": "stream"})).await;
        assert_eq!(problem(&answer).kind(), ProblemKind::Overloaded);
        assert!(gateway.script.log().is_empty());
    });
}

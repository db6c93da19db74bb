//! `GET /api/v1/tasks/{id}/events`.

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
        assert!(read_all(events).await.starts_with("id: 2\nevent: left\n"));
    });
}

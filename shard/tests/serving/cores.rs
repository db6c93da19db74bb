//! Several cores: whichever a request lands on, its user's own core answers it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::{Gateway, START_MS, World, body, config, problem, read_all, read_one};
use serde_json::json;
use sluice_core::{CoreId, Reactor, ReactorConfig};
use sluice_protocols::http::RequestHead;
use sluice_protocols::problem::ProblemKind;
use sluice_shard::clock::Clock;
use sluice_shard::peer::PeerEnd;
use sluice_shard::{CoreParts, Metrics, peer};

fn parts(world: &World, core: u16, cores: usize, peers: PeerEnd, metrics: &Arc<Metrics>) -> CoreParts {
    CoreParts {
        core: CoreId::new(core),
        cores,
        store: world.store.clone(),
        vault: world.vault.clone(),
        egress: world.egress.clone(),
        admin: world.admin.clone(),
        config: Arc::new(config()),
        peers,
        metrics: Arc::clone(metrics),
        alt_svc_ports: vec![5001, 5002],
    }
}

fn reactor(core: u16) -> Reactor {
    Reactor::new(ReactorConfig::new(CoreId::new(core))).unwrap()
}

#[test]
fn a_request_on_the_wrong_core_is_answered_by_the_owner_and_told_its_port() {
    let world = World::new();
    let (ours, theirs) = (world.user_of_core(0, 2), world.user_of_core(1, 2));
    let metrics = world.metrics(2);
    let mut ends = peer::mesh(2);
    let (other_parts, first_parts) = (
        parts(&world, 1, 2, ends.pop().unwrap(), &metrics),
        parts(&world, 0, 2, ends.pop().unwrap(), &metrics),
    );
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let other = std::thread::spawn(move || {
        let serve = async move {
            let gateway = Gateway::start(other_parts, Clock::manual(START_MS));
            while !stopped.load(Ordering::Relaxed) {
                sluice_core::sleep(Duration::from_millis(1)).await;
            }
            gateway.script.log().len()
        };
        reactor(1).block_on(serve).unwrap()
    });
    let first = async move {
        let gateway = Gateway::start(first_parts, Clock::manual(START_MS));
        let ready = RequestHead::build("GET", "/readyz", "localhost");
        while gateway.send(ready.clone(), "").await.status != 200 {
            sluice_core::sleep(Duration::from_millis(1)).await;
        }
        let own = gateway.command(&ours, json!({"command": "mine"})).await;
        assert_eq!((own.status, own.header("alt-svc")), (200, None));
        let hopped = gateway.command(&theirs, json!({"command": "yours"})).await;
        assert_eq!(hopped.status, 200, "{hopped:?}");
        assert_eq!(hopped.header("alt-svc"), Some("h3=\":5002\"; ma=3600"));
        let task = format!("/api/v1/tasks/{}", body(&hopped)["id"].as_str().unwrap());
        assert_eq!(body(&gateway.get(&theirs, &task).await)["command"], "yours");
        let named = gateway.send(theirs.head("GET", &task).with("x-request-id", "mine-7"), "").await;
        assert_eq!(named.header("x-request-id"), Some("mine-7"));
        let (head, events) = gateway.get(&theirs, &format!("{task}/events")).streamed().await;
        assert_eq!(head.header("alt-svc"), Some("h3=\":5002\"; ma=3600"));
        let events = read_all(events).await;
        assert!(events.contains("event: done\ndata: {") && events.contains("yours"), "{events}");
        let held = gateway.command(&theirs, json!({"command": "hold on", "mode": "async"})).await;
        let held = format!("/api/v1/tasks/{}", body(&held)["id"].as_str().unwrap());
        let (_, mut events) = gateway.get(&theirs, &format!("{held}/events")).streamed().await;
        assert!(read_one(&mut events).await.starts_with("id: 1\nevent: accepted\n"));
        drop(events);
        // A key that only looks like theirs is refused by the owner.
        let key = sluice_protocols::ids::ApiKey::new(theirs.id, [1; 32]);
        let wrong = gateway.get(&crate::common::User { id: theirs.id, key }, &task).await;
        assert_eq!(problem(&wrong).kind(), ProblemKind::Unauthorized);
        assert_eq!(gateway.script.log(), ["start mine", "end mine"]);
        let seen = |name: &str| gateway.metric(&format!("sluice_{name}"));
        assert_eq!((seen("hops_sent_total{core=\"0\"}"), seen("hops_served_total{core=\"1\"}")), (7, 7));
        assert_eq!(seen("requests_total{core=\"1\",route=\"command\",status=\"2xx\"}"), 2);
        assert_eq!(seen("requests_total{core=\"0\",route=\"command\",status=\"2xx\"}"), 1);
        assert_eq!(seen("mailbox_received_total{core=\"1\",lane=\"requests\"}"), 7);
        stop.store(true, Ordering::Relaxed);
    };
    reactor(0).block_on(first).unwrap();
    assert_eq!(other.join().unwrap(), 3);
}

#[test]
fn a_full_mailbox_sheds_at_once() {
    let world = World::new();
    let theirs = world.user_of_core(1, 2);
    let metrics = world.metrics(2);
    let mut ends = peer::mesh(2);
    // The owner never starts: its end is kept, and nothing is taken out of it.
    let _absent = ends.pop().unwrap();
    let first_parts = parts(&world, 0, 2, ends.pop().unwrap(), &metrics);
    let first = async move {
        let gateway = Gateway::start(first_parts, Clock::manual(START_MS));
        gateway.service.ready().await;
        let path = "/api/v1/tasks/tsk_00000000000000000000000000";
        let waiting: Vec<_> = (0..peer::LANE_REQUESTS_MAX).map(|_| gateway.get(&theirs, path)).collect();
        let shed = gateway.get(&theirs, path).await;
        assert_eq!(problem(&shed).kind(), ProblemKind::Overloaded);
        assert_eq!(shed.header("retry-after"), Some("1"));
        assert!(waiting.iter().all(|answer| !answer.is_there()));
        assert_eq!(gateway.metric("sluice_hops_refused_total{core=\"0\"}"), 1);
    };
    reactor(0).block_on(first).unwrap();
}

#[test]
fn each_core_takes_up_the_tasks_of_its_own_shards_alone() {
    let world = World::new();
    let (first, second) = (world.user_of_core(0, 2), world.user_of_core(1, 2));
    world.run(config(), |gateway| async move {
        gateway.accepted(&first, "hold first").await;
        gateway.accepted(&second, "hold second").await;
    });
    let metrics = world.metrics(2);
    for (core, (peers, expected)) in (0..2).zip(peer::mesh(2).into_iter().zip(["hold first", "hold second"]))
    {
        let parts = parts(&world, core, 2, peers, &metrics);
        let one = async move {
            let gateway = Gateway::start(parts, Clock::manual(START_MS));
            gateway.service.ready().await;
            gateway.settle().await;
            assert_eq!(gateway.script.log(), [format!("start {expected}")]);
        };
        reactor(core).block_on(one).unwrap();
    }
}

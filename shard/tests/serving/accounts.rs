//! Keys and users on one core: what is believed, taken back, and written of their use.

use std::time::Duration;

use serde_json::json;
use sluice_protocols::access::{Role, Scopes};
use sluice_protocols::api::KEYS_PER_USER_MAX;
use sluice_protocols::http::RequestHead;
use sluice_protocols::ids::{ApiKey, ShardId, TaskId};
use sluice_protocols::problem::ProblemKind;
use sluice_shard::{KeyLimit, KeySpec, ShardConfig};
use sluice_store::record::{ActivityRecord, HistoryRecord, Loaded};
use sluice_store::{Batch, Key, KeyRange, Kind};

use crate::common::{Gateway, START_MS, User, World, body, config, problem, read_all, read_one};

const LIST: &str = "/api/v1/tasks";

fn spec(scopes: Scopes, expires_ms: Option<u64>) -> KeySpec {
    KeySpec { label: "test".to_owned(), scopes, expires_ms }
}

fn with(anna: &User, key: ApiKey) -> User {
    User { id: anna.id, key }
}

/// What is written of the use of all users, read from the disk.
fn activity(world: &World) -> Vec<ActivityRecord> {
    let shards = world.store.shard_count().shards();
    let rows = shards.flat_map(|shard| {
        world.store.scan_blocking(shard, KeyRange::kind(Kind::Activity), 1_000, false).unwrap().rows
    });
    rows.map(|(_, value)| Loaded::<ActivityRecord>::new(value).unwrap().to_record()).collect()
}

#[test]
fn what_was_believed_is_not_any_more_when_it_was_taken_back() {
    let world = World::new();
    let anna = world.user("anna");
    let admin = world.admin.clone();
    world.run(config(), |gateway| async move {
        let (key, record) = admin.make_key(&anna.id, &spec(Scopes::USER, None), &KeyLimit::NONE).unwrap();
        let second = with(&anna, key);
        assert_eq!(gateway.get(&second, LIST).await.status, 200);
        admin.revoke_key(&anna.id, &record.id).unwrap();
        assert_eq!(gateway.get(&second, LIST).await.status, 401);
        assert_eq!(gateway.get(&anna, LIST).await.status, 200);
        admin.set_disabled(&anna.id, true).unwrap();
        assert_eq!(problem(&gateway.get(&anna, LIST).await).kind(), ProblemKind::Forbidden);
        admin.set_disabled(&anna.id, false).unwrap();
        assert_eq!(gateway.get(&anna, LIST).await.status, 200);
    });
}

#[test]
fn keys_are_made_up_to_the_bound_and_no_further() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        let make = || {
            let head = anna.head("POST", "/api/v1/keys").with("content-type", "application/json");
            gateway.send(head, &json!({ "name": "one more" }).to_string())
        };
        // Her first was made with her.
        for _ in 1..KEYS_PER_USER_MAX {
            assert_eq!(make().await.status, 201);
        }
        assert_eq!(problem(&make().await).kind(), ProblemKind::Conflict);
        let listed = body(&gateway.get(&anna, "/api/v1/keys").await);
        assert_eq!(listed["keys"].as_array().map(Vec::len), Some(KEYS_PER_USER_MAX));
    });
}

#[test]
fn a_key_ends_when_its_time_is_over_though_it_is_believed() {
    let world = World::new();
    let anna = world.user("anna");
    // Far in the future of the host's clock, by which keys are made.
    let (key, _) = world
        .admin
        .make_key(&anna.id, &spec(Scopes::USER, Some(4_000_000_000_000)), &KeyLimit::NONE)
        .unwrap();
    let timed = with(&anna, key);
    world.run_at(3_999_999_999_000, config(), |gateway| async move {
        assert_eq!(gateway.get(&timed, LIST).await.status, 200);
        gateway.clock.set(4_000_000_000_000);
        // The belief ends by the clock that does not jump.
        sluice_core::sleep(Duration::from_millis(1_050)).await;
        let refused = gateway.get(&timed, LIST).await;
        assert_eq!(problem(&refused).kind(), ProblemKind::Unauthorized);
        assert!(problem(&refused).detail().contains("expired"));
    });
}

#[test]
fn a_use_is_written_once_in_a_while_and_shown_as_it_is() {
    let world = World::new();
    let anna = world.user("anna");
    let again = User { id: anna.id, key: anna.key.clone() };
    world.run(config(), |gateway| async move {
        for second in 0..50 {
            gateway.clock.set(START_MS + second * 1_000);
            assert_eq!(gateway.get(&anna, LIST).await.status, 200);
        }
        gateway.settle().await;
        let listed = body(&gateway.get(&anna, "/api/v1/keys").await);
        let used = listed["keys"][0]["last_used"].as_str().unwrap().to_owned();
        assert_eq!(used, sluice_shard::clock::timestamp_of(START_MS + 49_000).to_string());
    });
    // The first use was written, and none of those soon after.
    let written = activity(&world);
    assert_eq!(written.len(), 1);
    assert_eq!((written[0].active_ms, written[0].keys[0].used_ms), (START_MS, START_MS));
    let later_ms = START_MS + 60 * 60 * 1_000;
    world.run_at(later_ms, config(), |gateway| async move {
        let me = body(&gateway.get(&again, "/api/v1/users/me").await);
        assert_eq!(me["name"], json!("anna"));
        gateway.settle().await;
    });
    assert_eq!(activity(&world)[0].active_ms, later_ms);
}

#[test]
fn a_route_is_served_to_the_scopes_it_is_for() {
    let world = World::new();
    let anna = world.user("anna");
    let admin = world.admin.clone();
    world.run(config(), |gateway| async move {
        let reader = "commands:read".parse().unwrap();
        let (key, _) = admin.make_key(&anna.id, &spec(reader, None), &KeyLimit::NONE).unwrap();
        let reader = with(&anna, key);
        assert_eq!(gateway.get(&reader, LIST).await.status, 200);
        let refused = gateway.command(&reader, json!({"command": "note it"})).await;
        assert_eq!(problem(&refused).kind(), ProblemKind::Forbidden);
        assert!(problem(&refused).detail().contains("`commands`"));
        assert_eq!(gateway.metric("sluice_requests_forbidden_total{core=\"0\"}"), 1);
        assert!(gateway.script.log().is_empty());
    });
}

#[test]
fn a_token_is_refused_where_no_provider_is_trusted() {
    let world = World::new();
    world.run(config(), |gateway| async move {
        let head = RequestHead::build("GET", LIST, "localhost");
        // {"alg":"RS256","typ":"JWT"} and {"iss":"x"}
        let token = "Bearer eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJ4In0.c2ln";
        let refused = gateway.send(head.with("authorization", token), "").await;
        assert_eq!(problem(&refused).kind(), ProblemKind::Unauthorized);
        assert!(problem(&refused).detail().contains("issuer"));
        assert_eq!(gateway.metric("sluice_tokens_refused_total{core=\"0\"}"), 1);
    });
}

/// More than an answer holds that nobody reads.
fn fill_history(world: &World, anna: &User) {
    let shard = ShardId::of(&anna.id, world.store.shard_count());
    let mut batch = Batch::new(shard);
    for number in 0..100 {
        let record = HistoryRecord {
            task: TaskId::new(START_MS + number, [0; 10]),
            at_ms: START_MS + number,
            command: "x".repeat(8_000),
            state: 2,
            answer: None,
            services: 0,
            operations: Vec::new(),
        };
        batch.put_record(&Key::history(&anna.id, record.at_ms, &record.task), &record).unwrap();
    }
    world.store.write_blocking(vec![batch]).unwrap();
}

/// Waits for whoever does not read an export.
fn patient() -> ShardConfig {
    let mut patient = config();
    patient.run.transfer.idle = Duration::from_secs(86_400);
    patient
}

/// Waits until an export was broken off.
async fn one_broken_export(gateway: &Gateway) {
    let broken = "sluice_exports_broken_total{core=\"0\"}";
    for _ in 0..3_000 {
        if gateway.metric(broken) > 0 {
            return;
        }
        sluice_core::sleep(Duration::from_millis(10)).await;
    }
    panic!("{broken} stays 0");
}

/// What others who share the stamp change takes nothing from whoever is told for long; what is taken from them does.
#[test]
fn what_takes_long_goes_on_while_other_credentials_come_and_go_and_ends_with_its_own() {
    let world = World::new();
    let anna = world.user("anna");
    let admin = world.admin.clone();
    let make = || admin.make_key(&anna.id, &spec(Scopes::USER, None), &KeyLimit::NONE).unwrap();
    let ((kept, _), (key, record), (_, other)) = (make(), make(), make());
    let (kept, lost) = (with(&anna, kept), with(&anna, key));
    fill_history(&world, &anna);
    world.run(patient(), move |gateway| async move {
        let (task, _) = gateway.accepted(&anna, "hold it").await;
        let path = format!("/api/v1/tasks/{task}");
        let mut under_way = Vec::new();
        for who in [&kept, &lost] {
            let (_, mut events) = gateway.get(who, &format!("{path}/events")).streamed().await;
            read_one(&mut events).await;
            let polled = gateway.send(who.head("GET", &path).with("prefer", "wait=60"), "");
            let (head, mut export) = gateway.get(who, "/api/v1/users/me/export").streamed().await;
            assert_eq!(head.status, 200);
            export.next().await.unwrap().unwrap();
            under_way.push((events, polled, export));
        }
        gateway.settle().await;
        let ((events, polled, mut export), (kept_events, kept_polled, kept_export)) =
            (under_way.pop().unwrap(), under_way.pop().unwrap());
        // The stamp is raised by what concerns none of them, and each looks more than once.
        let sign_in = anna.head("POST", "/api/v1/browser-sessions").with("content-type", "application/json");
        assert_eq!(gateway.send(sign_in, "{}").await.status, 201);
        sluice_core::sleep(Duration::from_millis(1_100)).await;
        admin.revoke_key(&anna.id, &other.id).unwrap();
        sluice_core::sleep(Duration::from_millis(1_100)).await;
        assert!(!polled.is_there() && !kept_polled.is_there());
        assert_eq!(gateway.metric("sluice_event_streams_withdrawn_total{core=\"0\"}"), 0);
        assert_eq!(gateway.metric("sluice_exports_broken_total{core=\"0\"}"), 0);
        // One of the two is taken back.
        admin.revoke_key(&anna.id, &record.id).unwrap();
        let rest = read_all(events).await;
        assert!(rest.starts_with("event: left\n"), "{rest}");
        assert_eq!(problem(&polled.await).kind(), ProblemKind::Unauthorized);
        one_broken_export(&gateway).await;
        let last = loop {
            match export.next().await {
                Some(Ok(_)) => {}
                last => break last,
            }
        };
        assert!(matches!(last, Some(Err(_))), "{last:?}");
        // The other goes on to its end.
        assert!(read_all(kept_export).await.contains("\"kind\":\"end\""));
        gateway.script.is_released.set(true);
        assert_eq!(kept_polled.await.status, 200);
        assert!(read_all(kept_events).await.contains("event: done\n"));
        assert_eq!(gateway.metric("sluice_event_streams_withdrawn_total{core=\"0\"}"), 1);
        assert_eq!(gateway.metric("sluice_exports_broken_total{core=\"0\"}"), 1);
    });
}

/// A moment of its own: whoever was let in before is still under way.
#[test]
fn what_takes_long_ends_with_the_credential_that_began_it() {
    // Keys are made by the clock of the machine.
    const END_MS: u64 = 4_000_000_000_000;
    let world = World::new();
    let anna = world.user("anna");
    let scopes = Role::User.scopes_max();
    let (key, _) = world.admin.make_key(&anna.id, &spec(scopes, Some(END_MS)), &KeyLimit::NONE).unwrap();
    let short = with(&anna, key);
    fill_history(&world, &anna);
    world.run(patient(), |gateway| async move {
        let (task, _) = gateway.accepted(&anna, "hold it").await;
        let path = format!("/api/v1/tasks/{task}");
        let (_, mut events) = gateway.get(&short, &format!("{path}/events")).streamed().await;
        read_one(&mut events).await;
        let polled = gateway.send(short.head("GET", &path).with("prefer", "wait=60"), "");
        let (head, mut export) = gateway.get(&short, "/api/v1/users/me/export").streamed().await;
        assert_eq!(head.status, 200);
        export.next().await.unwrap().unwrap();
        gateway.settle().await;
        gateway.clock.set(END_MS + 1);
        // Nothing happens to the task, and nobody reads: it is the credential alone that ends all three.
        let rest = read_all(events).await;
        assert!(rest.starts_with("event: left\n") && !rest.contains("alive"), "{rest}");
        assert_eq!(problem(&polled.await).kind(), ProblemKind::Unauthorized);
        one_broken_export(&gateway).await;
        let last = loop {
            match export.next().await {
                Some(Ok(_)) => {}
                last => break last,
            }
        };
        assert!(matches!(last, Some(Err(_))), "it is not taken for a whole one: {last:?}");
        assert_eq!(gateway.metric("sluice_event_streams_withdrawn_total{core=\"0\"}"), 1);
        // With another credential all goes on.
        assert_eq!(gateway.get(&anna, &path).await.status, 200);
    });
}

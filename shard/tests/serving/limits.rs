//! Limits on requests, in a core without a network: what survives a restart, and what comes back on every path.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sluice_protocols::http::Response;
use sluice_protocols::ids::ShardId;
use sluice_protocols::problem::ProblemKind;
use sluice_shard::ShardConfig;
use sluice_shard::limit::{Class, LimitConfig, LimitKind, Limits, RatePair, Window};
use sluice_store::record::{LimitRecord, LimitStateRecord};
use sluice_store::{Batch, Key};

use crate::common::{Gateway, START_MS, User, World, config, problem};

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

fn limited(limits: LimitConfig) -> ShardConfig {
    ShardConfig { limits: Arc::new(Limits::new(limits)), ..config() }
}

/// So many an hour: none comes back while a test runs.
fn hourly(count: u32) -> LimitConfig {
    LimitConfig { user: RatePair::new(0, count), ..LimitConfig::off() }
}

async fn read(gateway: &Gateway, user: &User) -> Response {
    gateway.get(user, "/api/v1/tasks").await
}

/// How many of `tries` requests are let in.
async fn let_in(gateway: &Gateway, user: &User, tries: usize) -> usize {
    let mut count = 0;
    for _ in 0..tries {
        count += usize::from(read(gateway, user).await.status == 200);
    }
    count
}

async fn drain(gateway: &Gateway) {
    gateway.service.drain(sluice_core::now() + Duration::from_secs(5)).await;
}

#[test]
fn the_answer_to_a_request_too_many_says_which_limit_and_when_to_come_again() {
    let world = World::new();
    let (ada, bob) = (world.user("ada"), world.user("bob"));
    world.run(limited(hourly(3)), move |gateway| async move {
        for left in [2, 1, 0] {
            let answer = read(&gateway, &ada).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("ratelimit-policy"), Some("\"user-hour\";q=3;w=3600"));
            let state = answer.header("ratelimit").unwrap();
            assert!(state.starts_with(&format!("\"user-hour\";r={left};t=")), "{state}");
        }
        let refused = read(&gateway, &ada).await;
        let told = problem(&refused);
        assert_eq!(
            (refused.status, told.kind(), told.limit()),
            (429, ProblemKind::RateLimited, Some("user-hour"))
        );
        assert!(told.is_retryable());
        let wait = told.retry_after_s().unwrap();
        assert!((1_190..=1_200).contains(&wait), "{wait}");
        assert_eq!(refused.header("retry-after"), Some(&*wait.to_string()));
        assert_eq!(refused.header("ratelimit"), Some(&*format!("\"user-hour\";r=0;t={wait}")));
        assert_eq!(refused.header("ratelimit-policy"), Some("\"user-hour\";q=3;w=3600"));
        assert_eq!(let_in(&gateway, &bob, 5).await, 3, "each user has limits of their own");
        let stats = gateway.metrics.core(sluice_core::CoreId::new(0)).limits().clone();
        assert_eq!(stats.admitted(Class::Reads), 6);
        assert_eq!(stats.refused(LimitKind::User(Window::Hour), Class::Reads), 3);
        // What is in nobody's name tells nothing of limits, and has none.
        for _ in 0..10 {
            let answer = gateway.get(&ada, "/openapi.json").await;
            assert_eq!((answer.status, answer.header("ratelimit")), (200, None));
        }
    });
}

#[test]
fn what_was_used_before_the_end_of_the_process_is_used_after_it() {
    let world = World::new();
    let ada = Arc::new(world.user("ada"));
    let again = Arc::clone(&ada);
    world.run(limited(hourly(8)), move |gateway| async move {
        assert_eq!(let_in(&gateway, &again, 5).await, 5);
        drain(&gateway).await;
    });
    let again = Arc::clone(&ada);
    world.run_at(START_MS + 1, limited(hourly(8)), move |gateway| async move {
        assert_eq!(let_in(&gateway, &again, 10).await, 3);
        assert_eq!(gateway.metric("sluice_limit_recalled_total{core=\"0\"}"), 1);
        drain(&gateway).await;
    });
    // One comes back in 450 s, over the end of a process, too.
    let again = Arc::clone(&ada);
    world.run_at(START_MS + 15 * MINUTE_MS + 10_000, limited(hourly(8)), move |gateway| async move {
        assert_eq!(let_in(&gateway, &again, 10).await, 2);
        drain(&gateway).await;
    });
    let again = Arc::clone(&ada);
    world.run_at(START_MS + 2 * HOUR_MS, limited(hourly(8)), move |gateway| async move {
        assert_eq!(let_in(&gateway, &again, 10).await, 8, "after an hour all of it is there");
        drain(&gateway).await;
    });
    // A wall clock that was set back by a year makes nobody wait for longer than the window.
    world.run_at(START_MS - 365 * 24 * HOUR_MS, limited(hourly(8)), move |gateway| async move {
        let refused = read(&gateway, &ada).await;
        let wait = problem(&refused).retry_after_s().unwrap();
        assert!(refused.status == 429 && u64::from(wait) <= 450, "{wait}");
    });
}

#[test]
fn what_was_used_is_written_while_the_process_runs() {
    let world = World::new();
    let ada = Arc::new(world.user("ada"));
    let again = Arc::clone(&ada);
    world.run(limited(hourly(8)), move |gateway| async move {
        assert_eq!(let_in(&gateway, &again, 5).await, 5);
        while gateway.metric("sluice_limit_saved_total{core=\"0\"}") == 0 {
            sluice_core::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(gateway.metric("sluice_limit_unsaved{core=\"0\"}"), 0);
        // No drain: the world lets the core go as it stands, as by a kill.
    });
    world.run(limited(hourly(8)), move |gateway| async move {
        assert_eq!(let_in(&gateway, &ada, 10).await, 3);
    });
}

#[test]
fn an_operator_gives_one_user_other_limits() {
    let world = World::new();
    let (ada, bob) = (world.user("ada"), world.user("bob"));
    let more = LimitRecord { per_hour: Some(5), ..LimitRecord::default() };
    world.admin.set_limit(&ada.id, &more).unwrap();
    assert_eq!(world.admin.limit(&ada.id).unwrap(), more);
    let none = LimitRecord { per_minute: Some(0), per_hour: Some(0), concurrent_max: None };
    world.admin.set_limit(&bob.id, &none).unwrap();
    let high = LimitRecord { per_minute: Some(10_000_001), ..LimitRecord::default() };
    assert!(world.admin.set_limit(&bob.id, &high).is_err());
    world.run(limited(hourly(2)), move |gateway| async move {
        assert_eq!(let_in(&gateway, &ada, 10).await, 5);
        assert_eq!(let_in(&gateway, &bob, 200).await, 200);
        let answer = read(&gateway, &bob).await;
        assert_eq!((answer.header("ratelimit"), answer.header("ratelimit-policy")), (None, None));
    });
}

#[test]
fn a_limit_that_is_raised_between_two_processes_leaves_used_what_was_and_no_more() {
    let world = World::new();
    let ada = Arc::new(world.user("ada"));
    let again = Arc::clone(&ada);
    world.run(limited(hourly(8)), move |gateway| async move {
        assert_eq!(let_in(&gateway, &again, 7).await, 7);
        drain(&gateway).await;
    });
    let more = LimitRecord { per_hour: Some(100), ..LimitRecord::default() };
    world.admin.set_limit(&ada.id, &more).unwrap();
    let again = Arc::clone(&ada);
    world.run_at(START_MS + 1, limited(hourly(8)), move |gateway| async move {
        assert_eq!(let_in(&gateway, &again, 120).await, 93);
        drain(&gateway).await;
    });
    // Now for all: what was written says that it is of a hundred.
    world.admin.set_limit(&ada.id, &LimitRecord::default()).unwrap();
    world.run_at(START_MS + 2, limited(hourly(200)), move |gateway| async move {
        assert_eq!(let_in(&gateway, &ada, 220).await, 100);
    });
}

#[test]
fn what_was_used_beyond_a_lower_limit_is_known_over_restarts() {
    let world = World::new();
    let ada = Arc::new(world.user("ada"));
    // Ten an hour, none of them used; and five beyond them, which half an hour would bring back.
    let state = LimitStateRecord {
        minute_full_ms: 0,
        hour_full_ms: START_MS,
        minute_count: 0,
        hour_count: 10,
        minute_over_ms: 0,
        hour_over_ms: HOUR_MS / 2,
    };
    let mut batch = Batch::new(ShardId::of(&ada.id, world.store.shard_count()));
    batch.put_record(&Key::limit_state(&ada.id), &state).unwrap();
    world.store.write_blocking(vec![batch]).unwrap();
    let lower = LimitRecord { per_hour: Some(10), ..LimitRecord::default() };
    world.admin.set_limit(&ada.id, &lower).unwrap();
    let again = Arc::clone(&ada);
    world.run(limited(hourly(100)), move |gateway| async move {
        assert_eq!(let_in(&gateway, &again, 20).await, 10, "they keep nobody from what there is");
        drain(&gateway).await;
    });
    world.admin.set_limit(&ada.id, &LimitRecord::default()).unwrap();
    world.run_at(START_MS + 1, limited(hourly(100)), move |gateway| async move {
        assert_eq!(let_in(&gateway, &ada, 120).await, 85);
    });
}

#[test]
fn places_of_requests_come_back_when_they_are_answered_refused_or_left_by_their_clients() {
    let world = World::new();
    let (ada, bob) = (world.user("ada"), world.user("bob"));
    let limits = LimitConfig { user_concurrent_max: 2, ..LimitConfig::off() };
    world.run(limited(limits), move |gateway| async move {
        let (task, _) = gateway.accepted(&ada, "hold it").await;
        let events = format!("/api/v1/tasks/{task}/events");
        let waiting = gateway.command(&ada, json!({"command": "hold another"}));
        gateway.settle().await;
        assert!(!waiting.is_there());
        let (head, stream) = gateway.get(&ada, &events).streamed().await;
        assert_eq!(head.status, 200);
        let refused = read(&gateway, &ada).await;
        let told = problem(&refused);
        assert_eq!(
            (refused.status, told.limit(), told.retry_after_s()),
            (429, Some("user-concurrent"), Some(1))
        );
        assert_eq!(read(&gateway, &bob).await.status, 200);
        // The client goes in the midst of its stream.
        drop(stream);
        gateway.settle().await;
        assert_eq!(read(&gateway, &ada).await.status, 200);
        assert_eq!(gateway.get(&ada, "/api/v1/tasks/tsk_00000000000000000000000000").await.status, 404);
        gateway.script.is_released.set(true);
        assert_eq!(waiting.await.status, 200);
        // Both places are free: two can be held again.
        gateway.script.is_released.set(false);
        let held: Vec<_> = (0..2).map(|_| gateway.command(&ada, json!({"command": "hold again"}))).collect();
        gateway.settle().await;
        assert_eq!(read(&gateway, &ada).await.status, 429);
        gateway.script.is_released.set(true);
        for answer in held {
            assert_eq!(answer.await.status, 200);
        }
    });
}

#[test]
fn a_batch_counts_as_many_requests_as_it_has_commands() {
    let world = World::new();
    let ada = world.user("ada");
    world.run(limited(hourly(5)), move |gateway| async move {
        let batch = |count: usize| {
            let commands = vec![json!({"command": "x"}); count];
            let head = ada.head("POST", "/api/v1/commands").with("content-type", "application/json");
            gateway.send(head, &json!({ "commands": commands }).to_string())
        };
        let answer = batch(3).await;
        assert_eq!(answer.status, 207);
        let state = answer.header("ratelimit").unwrap();
        assert!(state.starts_with("\"user-hour\";r=2;"), "{state}");
        let refused = batch(3).await;
        assert_eq!((refused.status, problem(&refused).limit()), (429, Some("user-hour")));
        assert_eq!(refused.headers().filter(|(name, _)| *name == "ratelimit").count(), 1);
        // The request itself was counted, none of its commands was.
        let answer = read(&gateway, &ada).await;
        assert!(answer.header("ratelimit").unwrap().starts_with("\"user-hour\";r=0;"), "{answer:?}");
        assert_eq!(gateway.metric("sluice_commands_accepted_total{core=\"0\"}"), 3);
    });
    let bob = world.user("bob");
    world.run(limited(hourly(5)), move |gateway| async move {
        let commands = vec![json!({"command": "x"}); 7];
        let head = bob.head("POST", "/api/v1/commands").with("content-type", "application/json");
        let answer = gateway.send(head, &json!({ "commands": commands }).to_string()).await;
        assert_eq!(problem(&answer).kind(), ProblemKind::InvalidField, "no wait would help");
    });
}

#[test]
fn keys_are_not_looked_at_from_an_address_that_showed_too_many_wrong_ones() {
    let world = World::new();
    let (ada, bob, eve) = (world.user("ada"), world.user("bob"), world.user("eve"));
    let limits = LimitConfig { unauthorized: RatePair::new(0, 6), ..LimitConfig::off() };
    world.run(limited(limits), move |gateway| async move {
        assert_eq!(read(&gateway, &ada).await.status, 200);
        // Each way to have no key: none at all, with a body and without, no key of ours, and one that is wrong.
        let wrong =
            |number: u8| User { id: eve.id, key: sluice_protocols::ids::ApiKey::new(eve.id, [number; 32]) };
        let bare =
            |method| sluice_protocols::http::RequestHead::build(method, "/api/v1/command", "localhost");
        let posted = || bare("POST").with("content-type", "application/json");
        assert_eq!(gateway.send(posted(), "{}").await.status, 401);
        let list = sluice_protocols::http::RequestHead::build("GET", "/api/v1/tasks", "localhost");
        assert_eq!(gateway.send(list, "").await.status, 401);
        let other = sluice_protocols::http::RequestHead::build("GET", "/api/v1/tasks", "localhost");
        assert_eq!(gateway.send(other.with("authorization", "Bearer sk_x"), "").await.status, 401);
        for number in 0..3 {
            assert_eq!(read(&gateway, &wrong(number)).await.status, 401, "{number}");
        }
        let misses = gateway.metric("sluice_keys_misses_total{core=\"0\"}");
        for refused in [read(&gateway, &wrong(9)).await, gateway.send(posted(), "{}").await] {
            assert_eq!((refused.status, problem(&refused).limit()), (429, Some("unauthorized-hour")));
        }
        // A right one that was not shown before cannot be told from a wrong one.
        assert_eq!(read(&gateway, &bob).await.status, 429);
        assert_eq!(gateway.metric("sluice_keys_misses_total{core=\"0\"}"), misses, "none was looked at");
        // One that was right before still is.
        assert_eq!(read(&gateway, &ada).await.status, 200);
    });
}

#[test]
fn requests_from_an_address_are_limited_before_anything_else_and_signs_of_life_are_not() {
    let world = World::new();
    let ada = world.user("ada");
    let limits = LimitConfig { address: RatePair::new(0, 4), ..LimitConfig::off() };
    world.run(limited(limits), move |gateway| async move {
        assert_eq!(let_in(&gateway, &ada, 3).await, 3);
        assert_eq!(gateway.get(&ada, "/metrics").await.status, 200);
        let refused = read(&gateway, &ada).await;
        assert_eq!((refused.status, problem(&refused).limit()), (429, Some("address-hour")));
        assert_eq!(refused.header("ratelimit-policy"), Some("\"address-hour\";q=4;w=3600"));
        assert_eq!(gateway.get(&ada, "/metrics").await.status, 429);
        assert_eq!(gateway.get(&ada, "/no/such/path").await.status, 429);
        for _ in 0..10 {
            assert_eq!(gateway.get(&ada, "/livez").await.status, 200);
            assert_eq!(gateway.get(&ada, "/readyz").await.status, 200);
        }
        let stats = gateway.metrics.core(sluice_core::CoreId::new(0)).limits().clone();
        assert_eq!(stats.refused(LimitKind::Address(Window::Hour), Class::Other), 2);
        assert_eq!(stats.refused(LimitKind::Address(Window::Hour), Class::Reads), 1);
    });
}

//! What is remembered of reads from Google, through the real gateway: the simulator counts what it was asked.
//!
//! Nothing here depends on how fast anything is: where something must be under way, the simulator holds it.

mod common;

use std::sync::Arc;

use common::asker::{Asker, text};
use common::scene::{Scene, guard};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const NONE: Value = Value::Null;
const MAIL: &str = "/gmail/messages?q=from%3Aanna&max_results=2";
const EVENTS: &str = "/calendar/events?max_results=2";
const LIST: &str = "gmail.messages.list";
const GET: &str = "gmail.messages.get";
const AGENDA: &str = "calendar.events.list";

async fn user(scene: &Scene, name: &str) -> Asker {
    Asker::of(&scene.gateway, &scene.gateway.user(name)).await
}

/// How often each of these was asked of Google.
async fn asked<const N: usize>(scene: &Scene, operations: [&str; N]) -> [u64; N] {
    let state = scene.sim.state().await;
    operations.map(|operation| state["requests"][operation].as_u64().unwrap_or(0))
}

/// Waits until a request hangs, which is not among those that were asked.
async fn until_it_hangs(scene: &Scene) {
    let come = async {
        while scene.sim.state().await["faults_fired"] != 1 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    guard(come).await;
}

/// How many reads came to this.
async fn reads(scene: &Scene, event: &str) -> u64 {
    scene.gateway.page().await.sum("sluice_cache_reads_total", &[("event", event)])
}

async fn hang(scene: &Scene, operation: &str) {
    scene.sim.fault(json!({"service": "gmail", "kind": "hang", "operation": operation, "count": 1})).await;
}

#[tokio::test]
async fn a_read_is_made_once_for_its_user_until_its_tag_is_named_or_it_is_asked_for_anew() {
    let scene = Scene::start(2, &[]);
    let (ada, bob) = (user(&scene, "ada").await, user(&scene, "bob").await);
    let first = ada.get(MAIL).await;
    assert_eq!(ada.get(MAIL).await, first);
    assert_eq!(asked(&scene, [LIST]).await, [1]);
    assert!(reads(&scene, "hit").await >= 1);
    // What another user asks for in the same words is another read.
    bob.get(MAIL).await;
    assert_eq!(asked(&scene, [LIST]).await, [2]);

    let drop = async |tags: Value| {
        ada.expect(200, "POST", "/cache/invalidate", &json!({ "tags": tags })).await["dropped"].clone()
    };
    ada.get(EVENTS).await;
    assert_eq!(drop(json!(["drive", "gmail:labels", "gmail:message"])).await, 0);
    ada.get(MAIL).await;
    assert_eq!(asked(&scene, [LIST, AGENDA]).await, [2, 1]);
    assert_eq!(drop(json!(["gmail:messages"])).await, 1);
    ada.get(MAIL).await;
    ada.get(EVENTS).await;
    bob.get(MAIL).await;
    assert_eq!(asked(&scene, [LIST, AGENDA]).await, [3, 1]);

    let anew = ada.with("GET", MAIL, &[("cache-control", "no-cache")], &NONE).await;
    assert_eq!(anew.status.as_u16(), 200);
    ada.get(EVENTS).await;
    assert_eq!(asked(&scene, [LIST, AGENDA]).await, [4, 1]);
    let wrong = ada.ask("POST", "/cache/invalidate", &json!({"tags": ["gmail", "mail"]})).await;
    assert_eq!(wrong.problem(422, "invalid-field")["errors"][0]["pointer"], "/tags/1");
}

#[tokio::test]
async fn reads_that_are_the_same_at_the_same_time_are_one() {
    const READERS: u64 = 4;
    let scene = Scene::start(1, &[]);
    let ada = Arc::new(user(&scene, "ada").await);
    hang(&scene, LIST).await;
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let ada = Arc::clone(&ada);
        readers.spawn(async move { ada.get(MAIL).await });
    }
    let all_wait = |page: &common::metrics::Metrics| {
        page.sum("sluice_cache_reads_total", &[("event", "joined")]) == READERS - 1
    };
    scene.gateway.until("all but one wait for that one", all_wait).await;
    until_it_hangs(&scene).await;
    assert_eq!(asked(&scene, [LIST]).await, [0]);
    scene.sim.clear_faults().await;
    let mut answers = Vec::new();
    while let Some(answer) = guard(readers.join_next()).await {
        answers.push(answer.expect("an answer"));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0] && answer["messages"][0]["id"].is_string()));
    // The one that hung was cut off and made once more, for all.
    assert_eq!(asked(&scene, [LIST]).await, [1]);
}

#[tokio::test]
async fn what_is_stale_is_answered_at_once_and_read_anew_meanwhile() {
    let scene = Scene::start(1, &["cache.read_fresh_ms=1", "cache.read_stale_ms=600000"]);
    let ada = user(&scene, "ada").await;
    let first = ada.get(MAIL).await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    hang(&scene, LIST).await;
    // Gmail says nothing, and yet there is an answer.
    assert_eq!(ada.get(MAIL).await, first);
    assert_eq!(ada.get(MAIL).await, first);
    until_it_hangs(&scene).await;
    assert_eq!(reads(&scene, "stale").await, 2, "the second found the renewal under way");
    scene.sim.clear_faults().await;
}

#[tokio::test]
async fn what_is_too_old_is_not_answered() {
    let scene = Scene::start(1, &["cache.read_fresh_ms=1", "cache.read_stale_ms=0"]);
    let ada = user(&scene, "ada").await;
    ada.get(MAIL).await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    ada.get(MAIL).await;
    assert_eq!((asked(&scene, [LIST]).await, reads(&scene, "expired").await), ([2], 1));
}

/// Searches are dropped, and what does not change stays: messages that were read, and other services.
#[tokio::test]
async fn who_sends_a_mail_sees_it_in_the_next_search() {
    let scene = Scene::start(2, &["cache.settle_ms=0"]);
    let (ada, bob) = (user(&scene, "ada").await, user(&scene, "bob").await);
    const SENT: &str = "/gmail/messages?q=in%3Asent%20subject%3Azebra";
    let message = ada.get(MAIL).await["messages"][0]["id"].clone();
    let message = format!("/gmail/messages/{}?format=metadata", text(&message));
    let look = async || {
        ada.get(EVENTS).await;
        ada.get(&message).await;
        bob.get(SENT).await;
        let found = ada.get(SENT).await;
        found["messages"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(look().await, 0);
    assert_eq!(asked(&scene, [LIST, GET, AGENDA]).await, [3, 1, 1]);
    let mail = json!({"to": ["carl@example.com"], "subject": "Zebra one", "body": "Soon."});
    ada.expect(200, "POST", "/gmail/messages", &mail).await;
    assert_eq!(look().await, 1);
    assert_eq!(asked(&scene, [LIST, GET, AGENDA]).await, [4, 1, 1]);
    let command = json!({"command": "send an email to ben@x.example with subject Zebra two and body Later"});
    assert_eq!(ada.expect(200, "POST", "/command", &command).await["state"], "done");
    assert_eq!(look().await, 2);
    let [list, _, agenda] = asked(&scene, [LIST, GET, AGENDA]).await;
    assert_eq!((list, agenda), (5, 1));
}

//! Searches of mail read what they found in one request, and each part of it stands for itself.

mod common;

use common::scene::{Caller, Scene};
use serde_json::{Value, json};

const COMMAND: &str = "Find the mail from Anna";

/// What a search found, and the calls it took.
async fn search(caller: &Caller, key: &str) -> (usize, Vec<String>) {
    let answer = caller.post(key, &json!({"command": COMMAND})).await;
    let task = answer.value();
    assert_eq!(task["state"], "done", "{task:#}");
    let step = &task["steps"][0];
    // Without that for a token.
    let is_mail = |call: &&Value| call["path"].as_str().is_some_and(|path| path.contains("gmail"));
    let calls = step["calls"].as_array().expect("calls").iter().filter(is_mail);
    let calls =
        calls.map(|call| format!("{} {}", call["method"].as_str().expect("a method"), call["status"]));
    (step["items"].as_array().map_or(0, Vec::len), calls.collect())
}

#[tokio::test]
async fn what_a_search_found_is_read_in_one_request() {
    let scene = Scene::start(1, &[]);
    let key = scene.gateway.user("ada");
    let caller = scene.caller().await;
    let (found, calls) = search(&caller, &key).await;
    assert!(found > 1, "{found}");
    assert_eq!(calls, ["GET 200", "POST 200"]);
    assert_eq!(scene.sim.asked("gmail.messages.get").await, found as u64);
    // It is remembered as if it had been read one by one.
    let list = caller.get("/api/v1/gmail/messages?q=from%3Aanna&max_results=5", &key).await.value();
    let id = list["messages"][0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(search(&caller, &key).await, (found, Vec::new()));
    let whole = caller.get(&format!("/api/v1/gmail/messages/{id}?format=full"), &key).await;
    assert_eq!(whole.value()["id"], json!(id));
}

#[tokio::test]
async fn a_part_that_fails_is_read_by_itself_and_one_that_is_gone_is_left_out() {
    let scene = Scene::start(1, &["quota.cool_down_ms=10"]);
    let caller = scene.caller().await;
    let all = search(&caller, &scene.gateway.user("ada")).await.0;
    let part = |status: u16, count: usize| json!({"service": "gmail", "kind": "status", "status": status, "operation": "gmail.messages.get", "count": count});
    for (user, status, count, found, singles) in [
        ("bob", 503, 2, all, 2),
        ("cleo", 429, 1, all, 1),
        ("dan", 404, 1, all - 1, 0),
        ("eve", 403, all, 0, 0),
    ] {
        scene.sim.fault(part(status, count)).await;
        let key = scene.gateway.user(user);
        if status == 403 {
            let answer = caller.post(&key, &json!({"command": COMMAND})).await;
            assert_eq!(answer.value()["type"], "/problems/needs-reauth", "{:?}", answer.body);
            continue;
        }
        let (items, calls) = search(&caller, &key).await;
        assert_eq!(items, found, "{status}: {calls:?}");
        assert_eq!(calls[..2], ["GET 200", "POST 200"], "{status}");
        assert_eq!(calls.len(), 2 + singles, "{status}: {calls:?}");
    }
}

#[tokio::test]
async fn a_batch_that_brings_nothing_is_replaced_by_single_reads() {
    let scene = Scene::start(1, &[]);
    let caller = scene.caller().await;
    let all = search(&caller, &scene.gateway.user("ada")).await.0;
    let kinds = [json!({"kind": "garbage"}), json!({"kind": "status", "status": 404})];
    for (user, kind) in ["bob", "cleo"].into_iter().zip(kinds) {
        let mut fault = json!({"service": "gmail", "path_contains": "/batch/", "count": 1});
        fault.as_object_mut().expect("an object").extend(kind.as_object().expect("an object").clone());
        scene.sim.fault(fault).await;
        let key = scene.gateway.user(user);
        let (found, _) = search(&caller, &key).await;
        assert_eq!(found, all, "{kind:#}");
    }
}

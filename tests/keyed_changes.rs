//! Changes of mail, calendar and files with an `Idempotency-Key`, through the real gateway: done once, answered alike, over
//! crashes, too.

mod common;

use common::h3::Answer;
use common::scene::{Caller, Scene, guard};
use serde_json::{Value, json};

async fn send(caller: &Caller, user: &str, key: Option<&str>, change: &Change) -> Answer {
    let bearer = format!("Bearer {user}");
    let mut fields = vec![("authorization", bearer.as_str()), ("cache-control", "no-cache")];
    fields.extend(key.map(|key| ("idempotency-key", key)));
    let body = if change.body.is_null() { String::new() } else { change.body.to_string() };
    if !body.is_empty() {
        fields.push(("content-type", "application/json"));
    }
    caller.send(change.method, &format!("/api/v1{}", change.path), &fields, body).await
}

async fn read(caller: &Caller, user: &str, path: &str) -> Value {
    let answer =
        send(caller, user, None, &Change { method: "GET", path: path.to_owned(), body: Value::Null }).await;
    assert_eq!(answer.status.as_u16(), 200, "{path}: {:?}", answer.body);
    answer.value()
}

struct Change {
    method: &'static str,
    path: String,
    body: Value,
}

fn change(method: &'static str, path: impl Into<String>, body: Value) -> Change {
    Change { method, path: path.into(), body }
}

fn mail() -> Change {
    change("POST", "/gmail/messages", json!({"to": ["carl@example.com"], "subject": "Keys", "body": "Here."}))
}

fn event() -> Change {
    let body = json!({
        "summary": "Once",
        "start": {"dateTime": "2031-03-04T10:00:00Z"},
        "end": {"dateTime": "2031-03-04T11:00:00Z"},
    });
    change("POST", "/calendar/events?send_updates=none", body)
}

fn file() -> Change {
    change("POST", "/drive/files?fields=id,name", json!({"name": "once.txt", "mimeType": "text/plain"}))
}

/// Changes that leave something to count, each with the operation of the simulator that has the effect.
fn changes(file_id: &str) -> Vec<(Change, &'static str)> {
    let share = json!({"type": "user", "role": "reader", "emailAddress": "carl@example.com"});
    vec![
        (mail(), "gmail.drafts.send"),
        (event(), "calendar.events.insert"),
        (file(), "drive.files.create"),
        (change("POST", "/gmail/labels", json!({"name": "Once"})), "gmail.labels.create"),
        (
            change(
                "POST",
                "/gmail/drafts",
                json!({"to": ["carl@example.com"], "subject": "D", "body": "D."}),
            ),
            "gmail.drafts.create",
        ),
        (
            change("POST", format!("/drive/files/{file_id}/permissions?notify=false"), share),
            "drive.permissions.create",
        ),
    ]
}

/// That each of [`changes`] was done exactly once.
async fn assert_done_once(scene: &Scene, caller: &Caller, user: &str, file_id: &str) {
    let (effects, record) = scene.sim.effects("ada").await;
    assert_eq!((effects.sends, effects.inserts), (1, 1), "{record:#}");
    let files = read(caller, user, "/drive/files?q=name%20%3D%20'once.txt'").await;
    assert_eq!(files["files"].as_array().map(Vec::len), Some(1), "{files:#}");
    let labels = read(caller, user, "/gmail/labels").await;
    let labels = labels["labels"].as_array().expect("labels").iter().filter(|label| label["name"] == "Once");
    assert_eq!(labels.count(), 1);
    let drafts = read(caller, user, "/gmail/drafts").await;
    assert_eq!(drafts["drafts"].as_array().map(Vec::len), Some(1), "{drafts:#}");
    let path = format!("/drive/files/{file_id}/permissions?fields=permissions(role,emailAddress)");
    let shared = read(caller, user, &path).await;
    let shared = shared["permissions"].as_array().expect("permissions").iter();
    assert_eq!(shared.filter(|one| one["emailAddress"] == "carl@example.com").count(), 1);
}

/// Requests of an operation that have come, to their effect or to a fault.
async fn come(scene: &Scene, operation: &str) -> u64 {
    scene.sim.asked(operation).await + scene.sim.asked("failed_before_effect").await
}

/// A file of the user's own, and nothing else done.
async fn own_file(caller: &Caller, user: &str) -> String {
    let own = change("POST", "/drive/files", json!({"name": "own.txt", "mimeType": "text/plain"}));
    let own = send(caller, user, None, &own).await;
    assert_eq!(own.status.as_u16(), 200, "{:?}", own.body);
    own.value()["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_repeat_is_given_the_first_answer_over_a_crash_too() {
    let mut scene = Scene::start(2, &[]);
    let user = scene.gateway.user("ada");
    let mut caller = scene.caller().await;
    let own = own_file(&caller, &user).await;
    let mut unkeyed = event();
    unkeyed.body["summary"] = json!("Another");
    let event_id =
        send(&caller, &user, None, &unkeyed).await.value()["id"].as_str().expect("an id").to_owned();
    let gone = change("DELETE", format!("/calendar/events/{event_id}"), Value::Null);
    let renamed = change("PATCH", format!("/drive/files/{own}"), json!({"name": "renamed.txt"}));
    let mut all: Vec<Change> = changes(&own).into_iter().map(|(change, _)| change).collect();
    all.extend([gone, renamed]);
    let mut first = Vec::new();
    for (number, change) in all.iter().enumerate() {
        let key = format!("key-{number}");
        let answer = send(&caller, &user, Some(&key), change).await;
        assert!(answer.status.is_success(), "{}: {:?}", change.path, answer.body);
        assert_eq!(answer.field("idempotency-replayed"), None);
        first.push(answer);
    }
    for round in 0..2 {
        for (number, change) in all.iter().enumerate() {
            let key = format!("key-{number}");
            let again = send(&caller, &user, Some(&key), change).await;
            assert_eq!(again.field("idempotency-replayed"), Some("true"), "{} {:?}", change.path, again.body);
            assert_eq!((again.status, &again.body), (first[number].status, &first[number].body));
            let other =
                Change { method: change.method, path: change.path.clone(), body: json!({"other": 1}) };
            if !change.body.is_null() {
                send(&caller, &user, Some(&key), &other).await.problem(422, "idempotency-mismatch");
            }
        }
        if round == 0 {
            let Scene { gateway, sim, directory } = scene;
            scene = Scene { gateway: gateway.crash_and_restart(), sim, directory };
            caller = scene.caller().await;
        }
    }
    let (effects, record) = scene.sim.effects("ada").await;
    // One event was made without a key.
    assert_eq!((effects.sends, effects.inserts, effects.deletes), (1, 2, 1), "{record:#}");
}

#[tokio::test]
async fn what_a_crash_interrupted_is_not_done_again_by_its_repeat() {
    for after_effect in [true, false] {
        let mut scene = Scene::start(1, &[]);
        let user = scene.gateway.user("ada");
        let mut caller = scene.caller().await;
        let own = own_file(&caller, &user).await;
        for (number, (change, operation)) in changes(&own).into_iter().enumerate() {
            let key = format!("key-{number}");
            let service = operation.split('.').next();
            let asked = come(&scene, operation).await;
            scene
                .sim
                .fault(json!({"service": service, "kind": "hang", "operation": operation, "count": 1,
                "after_effect": after_effect}))
                .await;
            let second = scene.caller().await;
            let hangs = send(&caller, &user, Some(&key), &change);
            let crash = async {
                while come(&scene, operation).await == asked {
                    tokio::task::yield_now().await;
                }
                send(&second, &user, Some(&key), &change).await.problem(409, "idempotency-in-flight");
            };
            tokio::select! {
                answer = hangs => panic!("{operation} is answered: {:?}", answer.body),
                () = guard(crash) => {}
            }
            let Scene { gateway, sim, directory } = scene;
            scene = Scene { gateway: gateway.crash_and_restart(), sim, directory };
            scene.sim.clear_faults().await;
            caller = scene.caller().await;
            let done = send(&caller, &user, Some(&key), &change).await;
            assert!(done.status.is_success(), "{operation} {after_effect}: {} {:?}", done.status, done.body);
            assert!(done.value()["id"].is_string(), "{operation} {after_effect}: {:?}", done.body);
            let again = send(&caller, &user, Some(&key), &change).await;
            assert_eq!((again.status, &again.body), (done.status, &done.body), "{operation}");
        }
        assert_done_once(&scene, &caller, &user, &own).await;
    }
}

#[tokio::test]
async fn a_key_is_free_again_when_nothing_was_done_and_kept_when_nobody_knows() {
    let scene = Scene::start(1, &[]);
    let user = scene.gateway.user("ada");
    let caller = scene.caller().await;
    let limited =
        json!({"service": "calendar", "kind": "status", "status": 403, "reason": "forbidden", "count": 1});
    scene.sim.fault(limited).await;
    let refused = send(&caller, &user, Some("a"), &event()).await;
    refused.problem(403, "forbidden");
    let other = change("POST", "/calendar/events", event().body);
    assert_eq!(send(&caller, &user, Some("a"), &other).await.status.as_u16(), 200, "the key was not used");
    let quick = change("POST", "/calendar/quick-add?text=Lunch%20tomorrow%20at%20noon", Value::Null);
    scene
        .sim
        .fault(json!({"service": "calendar", "kind": "down", "operation": "calendar.events.quickAdd",
        "after_effect": true, "count": 1}))
        .await;
    let lost = send(&caller, &user, Some("b"), &quick).await.problem(502, "upstream-unavailable");
    assert_eq!(lost["retryable"], false, "{lost:#}");
    let asked = scene.sim.asked("calendar.events.quickAdd").await;
    let unknown = send(&caller, &user, Some("b"), &quick).await.problem(504, "upstream-timeout");
    assert_eq!(unknown["retryable"], false, "{unknown:#}");
    assert_eq!(scene.sim.asked("calendar.events.quickAdd").await, asked, "it is not done a second time");
    send(&caller, &user, Some(&"x".repeat(256)), &event()).await.problem(400, "bad-request");
}

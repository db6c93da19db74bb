//! Two users and every route there is: whatever one of them asks for, by whatever ids, nothing of the other is told.
//!
//! All of Ada's data carries a mark. Bob walks the description of the API and fills in what Ada was answered: ids of her
//! tasks, sessions, messages, events, files, dead letters, her cursors and her idempotency keys. No answer to him may hold
//! her mark, and nothing of hers may change. Routes that are added to the description are walked as well.
//!
//! `SLUICE_TEST_SEED` chooses what Bob draws.

mod common;

use std::collections::BTreeSet;

use common::Sim;
use common::asker::{Asker, text};
use common::lot::Lot;
use common::scene::Scene;
use serde_json::{Value, json};

/// In every text of Ada's.
const MARK: &str = "zqxsecretzqx";
/// Requests of Bob's.
const REQUESTS: usize = 600;

/// What Ada has, and by what names: every text of an answer that could be an id, a key or a cursor.
fn harvest(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            let is_name = |c: char| c.is_ascii_alphanumeric() || "_-.=".contains(c);
            if (4..=200).contains(&text.len()) && text.chars().all(is_name) {
                found.insert(text.clone());
            }
        }
        Value::Array(items) => items.iter().for_each(|item| harvest(item, found)),
        Value::Object(members) => members.values().for_each(|member| harvest(member, found)),
        _ => {}
    }
}

/// Fills Ada's accounts, and gives every name in her answers.
async fn plant(ada: &Asker, sim: &Sim) -> BTreeSet<String> {
    let (mut names, mut number) = (BTreeSet::new(), 0);
    let mut plant = async |method: &str, path: &str, body: Value| {
        number += 1;
        let key = format!("key-{MARK}-{number}");
        let answer = ada.with(method, path, &[("idempotency-key", &key)], &body).await;
        assert!(answer.status.is_success(), "{method} {path}: {:?}", answer.body);
        let value = answer.json().unwrap_or_default();
        harvest(&value, &mut names);
        names.insert(key);
        value
    };
    let time = |hour| json!({"dateTime": format!("2031-03-04T{hour}:00:00Z")});
    plant("POST", "/gmail/messages", json!({"to": ["kim@example.com"], "subject": MARK, "body": MARK})).await;
    plant("POST", "/gmail/drafts", json!({"to": ["kim@example.com"], "subject": MARK, "body": MARK})).await;
    plant("POST", "/gmail/labels", json!({"name": MARK})).await;
    plant("POST", "/calendar/events", json!({"summary": MARK, "start": time(10), "end": time(11)})).await;
    plant("POST", "/drive/files", json!({"name": MARK, "mimeType": "text/plain"})).await;
    for mode in ["sync", "async", "preview"] {
        let command = format!("send a mail to kim@example.com saying code {MARK} is {mode}");
        plant("POST", "/command", json!({"command": command, "mode": mode})).await;
    }
    let search = json!({"commands": [{"command": format!("find mails about {MARK}")}]});
    let batch = plant("POST", "/commands", search).await;
    ada.ended(&batch["items"][0]["task"]["id"]).await;
    // A dead letter: it is asked to wait for longer than it may take.
    let wait = json!({"service": "drive", "kind": "status", "status": 503, "retry_after_s": 30, "count": 1});
    sim.fault(wait).await;
    let command =
        json!({"command": format!("find the file about {MARK}"), "mode": "async", "deadline_ms": 5_000});
    let dead = plant("POST", "/command", command).await;
    assert_eq!(ada.ended(&dead["id"]).await["state"], "failed");
    for path in [
        "/tasks?limit=1",
        "/tasks?limit=100",
        "/dead-letters?limit=100",
        "/gmail/messages?max_results=2",
        "/gmail/threads?max_results=2",
        "/gmail/drafts",
        "/gmail/labels",
        "/calendar/events?max_results=2",
        "/drive/files?page_size=2",
    ] {
        plant("GET", path, Value::Null).await;
    }
    names
}

/// What Ada has at the simulator and in her lists, to be compared.
async fn holdings(ada: &Asker, sim: &Sim) -> Value {
    let state = sim.state().await["users"]["ada"].clone();
    let tasks = ada.pages("/tasks?limit=100", "tasks").await.0;
    let dead = ada.pages("/dead-letters?limit=100", "dead_letters").await.0;
    json!({"state": state, "tasks": tasks, "dead": dead})
}

#[tokio::test]
async fn no_sequence_of_requests_shows_one_user_what_another_has() {
    let settings =
        ["quota.gmail_user_units_per_minute=1000000", "quota.calendar_user_units_per_minute=10000"];
    let scene = Scene::start(2, &settings);
    let (ada, bob) = (scene.gateway.user("ada"), scene.gateway.user("bob"));
    let (ada, bob) = (Asker::of(&scene.gateway, &ada).await, Asker::of(&scene.gateway, &bob).await);
    let names = plant(&ada, &scene.sim).await;
    assert!(names.len() > 40, "little was harvested: {names:?}");
    let before = holdings(&ada, &scene.sim).await;
    assert!(before.to_string().matches(MARK).count() > 8, "{before:#}");

    let description = bob.caller.send("GET", "/openapi.json", &[], "").await.value();
    let mut routes: Vec<(String, String)> = Vec::new();
    for (path, operations) in description["paths"].as_object().expect("paths") {
        let Some(path) = path.strip_prefix("/api/v1") else { continue };
        for method in operations.as_object().expect("operations").keys() {
            let method = method.to_uppercase();
            if ["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&&*method) {
                routes.push((method, path.to_owned()));
            }
        }
    }
    assert!(routes.len() > 40, "{routes:?}");
    let names: Vec<&str> = names.iter().map(String::as_str).filter(|name| !name.contains(MARK)).collect();
    let mut lot = Lot::new();
    let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
    for turn in 0..REQUESTS.max(2 * routes.len()) {
        // Each route at least twice, then by lot.
        let index = if turn < 2 * routes.len() { turn % routes.len() } else { lot.index(routes.len()) };
        let (method, template) = &routes[index];
        let mut path = String::new();
        for (number, part) in template.split(['{', '}']).enumerate() {
            path.push_str(if number % 2 == 0 { part } else { names[lot.index(names.len())] });
        }
        if method == "GET" {
            let name = names[lot.index(names.len())];
            path.push_str(&match lot.below(4) {
                0 => format!("?cursor={name}"),
                1 => format!("?page_token={name}"),
                _ => String::new(),
            });
        }
        let name = names[lot.index(names.len())];
        let body = match (&**method, &**template) {
            ("GET" | "DELETE", _) => Value::Null,
            ("POST", "/command") => {
                json!({"command": "show my mails", "session": name, "deadline_ms": 2_000})
            }
            ("POST", "/commands") => json!({"commands": [{"command": "show my mails", "session": name}]}),
            ("PATCH", path) if path.starts_with("/dead-letters") => json!({"priority": "high"}),
            _ => json!({"id": name, "threadId": name, "tags": [name], "addLabelIds": [name]}),
        };
        let merge =
            method == "PATCH" && !template.starts_with("/gmail") && !template.starts_with("/calendar");
        let kind = if merge && !template.starts_with("/drive") {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let key = format!("key-{}-{}", "of-ada", lot.below(4));
        let fields = [("content-type", kind), ("idempotency-key", &*key), ("last-event-id", "0")];
        let answer = bob.with(method, &path, &fields, &body).await;
        let said = format!("{:?} {}", answer.fields, String::from_utf8_lossy(&answer.body));
        assert!(!said.contains(MARK), "{method} {path} {body} told: {said}");
        assert_ne!(answer.status.as_u16(), 500, "{method} {path} {body}: {said}");
        *statuses.entry(answer.status.as_u16()).or_default() += 1;
    }
    println!("{} routes, {} names, answers by status: {statuses:?}", routes.len(), names.len());
    assert!(statuses.contains_key(&404) && statuses.contains_key(&200), "{statuses:?}");
    // The same key of Ada's means nothing for Bob.
    let stolen = format!("key-{MARK}-6");
    let body = json!({"command": "show my mails"});
    let answer = bob.with("POST", "/command", &[("idempotency-key", &stolen)], &body).await;
    assert_eq!(answer.field("idempotency-replayed"), None);
    assert!(!String::from_utf8_lossy(&answer.body).contains(MARK));
    assert_eq!(holdings(&ada, &scene.sim).await, before, "Bob has changed something of Ada's");
    // The test can fail: Ada herself is told.
    let task = text(&before["tasks"][0]["id"]).to_owned();
    assert!(ada.get(&format!("/tasks/{task}")).await.to_string().contains(MARK));
}

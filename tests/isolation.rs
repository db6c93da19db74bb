//! Two users and every route there is: whatever one of them asks for, by whatever ids and in whatever order, nothing of the
//! other is told.
//!
//! All data of each user carries a mark of theirs. Both walk the description of the API and fill in what the other was
//! answered: ids of tasks, sessions, messages, events, files, dead letters, workflows, documents, snapshots, cursors and idempotency keys; what they
//! are answered on the way is taken up as well. No answer may hold the other's mark, and nothing of the other's may change.
//! Routes that are added to the description are walked as well.
//!
//! First one of them alone walks every route, so that what the other has can be compared; then they change parts; then both
//! go on together, in sequences of requests drawn by lot. `SLUICE_TEST_SEED` chooses what is drawn; the seed is printed.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use axum::{Json, Router};
use common::Sim;
use common::asker::{Asker, text};
use common::lot::Lot;
use common::routes::{Route, routes};
use common::scene::{Caller, Scene};
use serde_json::{Value, json};

/// In every text of Ada's, and of Bob's.
const MARKS: [&str; 2] = ["zqxsecretzqx", "wvyprivatewvy"];
/// Requests that one of them makes alone.
const REQUESTS: usize = 400;
/// Sequences of both, and the requests of each.
const SEQUENCES: usize = 20;
const SEQUENCE_REQUESTS: usize = 25;
/// Looks at tasks until they have ended: far more than it takes.
const LOOKS_MAX: usize = 1_800;
/// Names that are kept of one of them.
const NAMES_MAX: usize = 2_000;

/// What somebody has, and by what names: every text of an answer that could be an id, a key or a cursor.
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

/// Somebody who asks.
struct Party {
    asker: Asker,
    account: &'static str,
    mark: &'static str,
    /// Every name in their answers.
    names: BTreeSet<String>,
    /// The API key they ask with. Asked for by lot, they would revoke it and ask nothing more.
    own_key: String,
    /// The account they have connected. Given up by lot, nothing could be asked of Google any more.
    own_connection: String,
}

impl Party {
    async fn of(scene: &Scene, account: &'static str, mark: &'static str) -> Self {
        let key = scene.gateway.user(account);
        let asker = Asker::of(&scene.gateway, &key).await;
        let own_key = text(&asker.get("/keys").await["keys"][0]["id"]).to_owned();
        let own_connection = text(&asker.get("/connections").await["connections"][0]["id"]).to_owned();
        Self { asker, account, mark, names: BTreeSet::new(), own_key, own_connection }
    }

    async fn put(&mut self, method: &str, path: &str, body: Value) -> Value {
        let key = format!("key-{}-{}", self.mark, self.names.len());
        let answer = self.asker.with(method, path, &[("idempotency-key", &key)], &body).await;
        assert!(answer.status.is_success(), "{method} {path}: {:?}", answer.body);
        let value = answer.json().unwrap_or_default();
        self.learn(&value);
        self.names.insert(key);
        value
    }

    fn learn(&mut self, value: &Value) {
        harvest(value, &mut self.names);
        self.names.remove(&self.own_key);
    }

    /// Fills the accounts.
    async fn plant(&mut self, sim: &Sim) {
        let mark = self.mark;
        let time = |hour| json!({"dateTime": format!("2031-03-04T{hour}:00:00Z")});
        let mail = json!({"to": ["kim@example.com"], "subject": mark, "body": mark});
        self.put("POST", "/gmail/messages", mail.clone()).await;
        self.put("POST", "/gmail/drafts", mail).await;
        self.put("POST", "/gmail/labels", json!({"name": mark})).await;
        self.put("POST", "/calendar/events", json!({"summary": mark, "start": time(10), "end": time(11)}))
            .await;
        self.put("POST", "/drive/files", json!({"name": mark, "mimeType": "text/plain"})).await;
        let steps = json!([{"id": "find", "operation": "gmail.search", "with": {"query": mark}}]);
        let definition = json!({"description": mark, "steps": steps});
        let name = format!("flow-of-{}", self.account);
        self.put("PUT", &format!("/workflows/{name}"), definition).await;
        self.put("POST", &format!("/workflows/{name}/runs"), json!({})).await;
        for mode in ["sync", "async", "preview"] {
            let command = format!("send a mail to kim@example.com saying code {mark} is {mode}");
            self.put("POST", "/command", json!({"command": command, "mode": mode})).await;
        }
        // Disabled, so that nothing is sent to anybody.
        let webhook = json!({
            "url": "https://example.com/hook", "events": ["task.done"], "description": mark, "enabled": false,
        });
        self.put("POST", "/webhooks", webhook).await;
        self.put("POST", "/sessions", Value::Null).await;
        for key in ["notes", "plan"] {
            self.put("PUT", &format!("/context/{}-{key}", self.account), json!({"about": mark})).await;
        }
        self.put("POST", "/context/snapshots", json!({"label": mark})).await;
        self.put("POST", "/keys", json!({"name": mark})).await;
        let preferences = json!({"custom": {"note": mark}});
        let head = [("content-type", "application/merge-patch+json")];
        let preferred = self.asker.with("PATCH", "/preferences", &head, &preferences).await;
        assert_eq!(preferred.status.as_u16(), 200, "{:?}", preferred.body);
        let search = json!({"commands": [{"command": format!("find mails about {mark}")}]});
        let batch = self.put("POST", "/commands", search).await;
        self.asker.ended(&batch["items"][0]["task"]["id"]).await;
        // A dead letter: it is asked to wait for longer than it may take.
        let wait =
            json!({"service": "drive", "kind": "status", "status": 503, "retry_after_s": 30, "count": 1});
        sim.fault(wait).await;
        let command =
            json!({"command": format!("find the file about {mark}"), "mode": "async", "deadline_ms": 5_000});
        let dead = self.put("POST", "/command", command).await;
        assert_eq!(self.asker.ended(&dead["id"]).await["state"], "failed");
        for path in [
            "/tasks?limit=1",
            "/tasks?limit=100",
            "/dead-letters?limit=100",
            "/sessions?limit=1",
            "/history?limit=1",
            "/history?limit=100",
            "/preferences",
            "/context?limit=1",
            "/context/snapshots?limit=1",
            "/keys",
            "/users/me",
            "/workflows",
            "/webhooks",
            "/connections",
            "/gmail/messages?max_results=2",
            "/gmail/threads?max_results=2",
            "/gmail/drafts",
            "/gmail/labels",
            "/calendar/events?max_results=2",
            "/drive/files?page_size=2",
        ] {
            self.put("GET", path, Value::Null).await;
        }
        assert!(self.names.len() > 40, "little was harvested: {:?}", self.names);
    }

    /// All tasks, once none of them goes on by itself.
    async fn settled_tasks(&self) -> Vec<Value> {
        for _ in 0..LOOKS_MAX {
            let tasks = self.asker.pages("/tasks?limit=100", "tasks").await.0;
            let goes_on = |task: &Value| matches!(task["state"].as_str(), Some("queued" | "running"));
            if !tasks.iter().any(goes_on) {
                return tasks;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("the tasks of {} do not end", self.account);
    }

    /// What they have at the simulator and in their lists, to be compared.
    async fn holdings(&self, sim: &Sim) -> Value {
        let tasks = self.settled_tasks().await;
        let state = sim.state().await["users"][self.account].clone();
        let dead = self.asker.pages("/dead-letters?limit=100", "dead_letters").await.0;
        let workflows = self.asker.get("/workflows").await;
        let sessions = self.asker.pages("/sessions?limit=100", "sessions").await.0;
        let history = self.asker.pages("/history?limit=100", "entries").await.0;
        let preferences = self.asker.get("/preferences").await;
        let webhooks = self.asker.get("/webhooks").await;
        let connections = self.asker.get("/connections").await;
        let documents = self.asker.pages("/context?limit=100", "documents").await.0;
        let snapshots = self.asker.pages("/context/snapshots?limit=100", "snapshots").await.0;
        let notes = self.asker.get(&format!("/context/{}-notes", self.account)).await;
        let mut keys = self.asker.get("/keys").await;
        // That they are used is to be expected.
        keys["keys"]
            .as_array_mut()
            .expect("a list")
            .iter_mut()
            .for_each(|key| key["last_used"] = Value::Null);
        let user = self.asker.get("/users/me").await;
        let held = json!({
            "state": state, "tasks": tasks, "dead": dead, "workflows": workflows, "sessions": sessions,
            "history": history, "preferences": preferences, "documents": documents, "snapshots": snapshots,
            "notes": notes, "webhooks": webhooks, "connections": connections,
            "keys": keys,
            "user": [user["id"], user["email"], user["time_zone"], user["role"], user["disabled"]],
        });
        assert!(held.to_string().matches(self.mark).count() > 8, "{held:#}");
        held
    }

    /// Makes one request by the other's names; gives its status.
    async fn ask(&mut self, lot: &mut Lot, route: &Route, other: &Self, is_alone: bool) -> u16 {
        // What the other's mark stands in would be told back.
        let theirs: Vec<&str> =
            other.names.iter().map(String::as_str).filter(|name| !name.contains(other.mark)).collect();
        let own: Vec<&str> =
            self.names.iter().filter(|name| **name != self.own_connection).map(String::as_str).collect();
        let name = |lot: &mut Lot| {
            // Together, one's own names come in between, so that there is something to be mixed up.
            let names = if is_alone || lot.below(4) > 0 || own.is_empty() { &theirs } else { &own };
            names[lot.index(names.len())].to_owned()
        };
        let Route { method, template } = route;
        let mut path = route.path(|| name(lot));
        if method == "GET" {
            let name = name(lot);
            path.push_str(&match lot.below(4) {
                0 => format!("?cursor={name}"),
                1 => format!("?page_token={name}"),
                _ => String::new(),
            });
        }
        let name = name(lot);
        let body = match (&**method, &**template) {
            ("GET" | "DELETE", _) | ("POST", "/sessions") => Value::Null,
            ("POST", "/command") => {
                json!({"command": "show my mails", "session": name, "deadline_ms": 2_000})
            }
            ("POST", "/commands") => json!({"commands": [{"command": "show my mails", "session": name}]}),
            ("PATCH", path) if path.starts_with("/dead-letters") => json!({"priority": "high"}),
            ("POST", "/connections/google") => json!({"connection": name, "services": ["mail"]}),
            ("PATCH", "/preferences") => json!({"custom": {"note": name}}),
            ("POST", "/keys") => json!({"name": "another"}),
            ("PATCH", path) if path.starts_with("/keys") => json!({"name": "renamed"}),
            ("PATCH", path) if path.starts_with("/users") => json!({"disabled": true}),
            ("PATCH", "/webhooks/{id}") => json!({"description": name}),
            _ => json!({"id": name, "threadId": name, "tags": [name], "addLabelIds": [name]}),
        };
        let services = ["/gmail", "/calendar", "/drive"];
        let is_merge = method == "PATCH" && !services.iter().any(|service| template.starts_with(service));
        let kind = if is_merge { "application/merge-patch+json" } else { "application/json" };
        // The same keys for both: each means another thing to each.
        let key = format!("key-of-both-{}", lot.below(4));
        let fields = [("content-type", kind), ("idempotency-key", &*key), ("last-event-id", "0")];
        let answer = self.asker.with(method, &path, &fields, &body).await;
        let said = format!("{:?} {}", answer.fields, String::from_utf8_lossy(&answer.body));
        assert!(!said.contains(other.mark), "{}: {method} {path} {body} told: {said}", self.account);
        assert_ne!(answer.status.as_u16(), 500, "{method} {path} {body}: {said}");
        if answer.status.is_success() && self.names.len() < NAMES_MAX {
            self.learn(&answer.json().unwrap_or_default());
        }
        answer.status.as_u16()
    }
}

#[tokio::test]
async fn no_sequence_of_requests_shows_one_user_what_another_has() {
    let settings = [
        // As it comes: a pattern that one of them taught is used for the other.
        "intent.local=true",
        "intent.pattern_ttl_s=86400",
        "quota.gmail_user_units_per_minute=1000000",
        "quota.calendar_user_units_per_minute=10000",
    ];
    let scene = Scene::start(2, &settings);
    let mut lot = Lot::new();
    let mut ada = Party::of(&scene, "ada", MARKS[0]).await;
    let mut bob = Party::of(&scene, "bob", MARKS[1]).await;
    ada.plant(&scene.sim).await;
    bob.plant(&scene.sim).await;
    let routes = routes(&ada.asker.caller).await;
    let mut statuses = BTreeMap::<u16, usize>::new();
    // Each route at least twice, then by lot; once by Bob, then by Ada.
    for _ in 0..2 {
        let before = ada.holdings(&scene.sim).await;
        for turn in 0..REQUESTS.max(2 * routes.len()) {
            let index = if turn < 2 * routes.len() { turn % routes.len() } else { lot.index(routes.len()) };
            let status = bob.ask(&mut lot, &routes[index], &ada, true).await;
            *statuses.entry(status).or_default() += 1;
        }
        let after = ada.holdings(&scene.sim).await;
        assert_eq!(after, before, "{} has changed something of {}'s", bob.account, ada.account);
        std::mem::swap(&mut ada, &mut bob);
    }
    for _ in 0..SEQUENCES * SEQUENCE_REQUESTS {
        let index = lot.index(routes.len());
        let (one, other) = if lot.below(2) == 0 { (&mut ada, &bob) } else { (&mut bob, &ada) };
        let status = one.ask(&mut lot, &routes[index], other, false).await;
        *statuses.entry(status).or_default() += 1;
    }
    println!(
        "{} routes, {} and {} names, answers by status: {statuses:?}",
        routes.len(),
        ada.names.len(),
        bob.names.len()
    );
    assert!(statuses.contains_key(&404) && statuses.contains_key(&200), "{statuses:?}");
    // A key of one's means nothing for the other.
    let stolen = ada.names.iter().find(|name| name.starts_with(&format!("key-{}", ada.mark))).expect("a key");
    let body = json!({"command": "show my mails"});
    let answer = bob.asker.with("POST", "/command", &[("idempotency-key", stolen)], &body).await;
    assert_eq!(answer.field("idempotency-replayed"), None);
    assert!(!String::from_utf8_lossy(&answer.body).contains(ada.mark));
    // The test can fail: each of them is told of their own.
    for party in [&ada, &bob] {
        let held = party.holdings(&scene.sim).await;
        let tasks = held["tasks"].as_array().expect("tasks");
        let marked =
            tasks.iter().find(|task| task.to_string().contains(party.mark)).expect("a task of theirs");
        let told = party.asker.get(&format!("/tasks/{}", text(&marked["id"]))).await;
        assert!(told.to_string().contains(party.mark));
    }
}

/// A model that declines everything, and whose words quote what it was shown of Ada.
async fn model_that_quotes() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let app = Router::new().fallback(move |body: String| async move {
        let reason =
            if body.contains(MARKS[0]) { format!("You spoke of {}.", MARKS[0]) } else { "Never.".to_owned() };
        let plan = json!({"decision": "decline", "reason": reason, "steps": []}).to_string();
        let content = json!([{"type": "output_text", "text": plan, "annotations": []}]);
        let message =
            json!({"type": "message", "role": "assistant", "status": "completed", "content": content});
        Json(json!({"status": "completed", "error": null, "output": [message]}))
    });
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

#[tokio::test]
async fn what_the_model_was_shown_of_one_user_is_told_to_no_other() {
    let model = model_that_quotes().await;
    // One core, so that what is learned would be learned for all.
    let scene = Scene::start(1, &[&format!("openai.base_url={model}"), "intent.pattern_ttl_s=86400"]);
    let caller = Caller::of(&scene.gateway).await;
    let [ada, bob, cleo, dora] = ["ada", "bob", "cleo", "dora"].map(|name| scene.gateway.user(name));
    let told = async |key: &str, command: &str| {
        let task = caller.command(key, command).await;
        assert_eq!(task["state"], "declined", "{task:#}");
        (task["intent"]["source"].clone(), text(&task["answer"]).to_owned())
    };
    told(&ada, &format!("tell my doctor about the {}", MARKS[0])).await;
    let (source, answer) = told(&ada, "play some music").await;
    // The test can fail: Ada is told of what she said, in her own session.
    assert!(source == "model" && answer.contains(MARKS[0]), "{answer}");
    // The model is asked anew for Bob, and his is the first answer that may be learned: that it is a refusal, without its words.
    assert_eq!(told(&bob, "play some music").await, (json!("model"), "Never.".to_owned()));
    let (source, answer) = told(&cleo, "play some music").await;
    assert_eq!(source, "pattern");
    assert!(!answer.contains(MARKS[0]) && !answer.contains("Never"), "{answer}");
    // A session that only refusals were told in is one with turns all the same.
    assert_eq!(told(&bob, "sing me a song").await.0, "model");
    assert_eq!(told(&dora, "sing me a song").await.0, "model");
}

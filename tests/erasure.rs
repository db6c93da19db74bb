//! All of a user out, and all of it away, through the real binary: an export that has everything and no secret, an erasure
//! that leaves nothing in memory, in the store or in any file and touches nobody else, and kills in its midst.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::Gateway;
use common::asker::{Asker, text};
use common::scene::Scene;
use serde_json::{Value, json};

/// In every text of the user's that stands in a value.
const MARK: &str = "zqxmarkzqx";
/// In every name of theirs that stands in a key.
const NAME_MARK: &str = "wvynamewvy";
const NONE: Value = Value::Null;
/// What the gateway keeps of a user who has done everything.
const KINDS: [&str; 20] = [
    "user",
    "key",
    "connection",
    "session",
    "turn",
    "task",
    "task-pending",
    "dead-letter",
    "history",
    "idempotency",
    "workflow",
    "workflow-version",
    "chunk",
    "document",
    "snapshot",
    "preferences",
    "webhook",
    "delivery",
    "activity",
    "browser-session",
];

async fn operator(gateway: &Gateway) -> Asker {
    gateway.user("olga");
    gateway.admin(&["user", "set", "olga", "--role", "operator"]);
    let key = gateway.admin(&["key", "add", "olga", "--scopes", "account,admin"]);
    Asker::of(gateway, &key).await
}

/// Fills an account with everything there is.
async fn plant(scene: &Scene, asker: &Asker, mark: &str, name: &str) {
    let command = |mode: &str| json!({"command": format!("send a mail to kim@example.com saying code {mark} is {mode}"), "mode": mode});
    // Nobody is there, so what it is told waits.
    let url = format!("https://nobody.invalid/{mark}");
    let hook = json!({"url": url, "description": mark, "events": ["task.done"]});
    let hook = asker.expect(201, "POST", "/webhooks", &hook).await;
    let keyed = [("idempotency-key", "once")];
    let sent = asker.with("POST", "/command", &keyed, &command("sync")).await;
    assert_eq!(sent.status.as_u16(), 200, "{:?}", sent.body);
    asker.expect(200, "POST", "/command", &command("preview")).await;
    let steps = json!([{"id": "find", "operation": "gmail.search", "with": {"query": mark}}]);
    let flow = format!("flow-{name}");
    asker
        .expect(201, "PUT", &format!("/workflows/{flow}"), &json!({"description": mark, "steps": steps}))
        .await;
    asker.expect(200, "POST", &format!("/workflows/{flow}/runs"), &json!({})).await;
    let patch = [("content-type", "application/merge-patch+json")];
    let preferences = json!({"custom": {"note": mark}});
    assert_eq!(asker.with("PATCH", "/preferences", &patch, &preferences).await.status.as_u16(), 200);
    // More than a chunk.
    let content = json!({"about": mark, "rest": "0123456789abcdef".repeat(5_000)});
    asker.expect(201, "PUT", &format!("/context/doc-{name}"), &content).await;
    asker.expect(201, "POST", "/context/snapshots", &json!({"label": mark})).await;
    asker.expect(201, "POST", "/keys", &json!({"name": mark})).await;
    asker.expect(201, "POST", "/browser-sessions", &json!({})).await;
    let wait = json!({"service": "drive", "kind": "status", "status": 503, "retry_after_s": 30, "count": 1});
    scene.sim.fault(wait).await;
    let dead = json!({"command": format!("find the file about {mark}"), "deadline_ms": 5_000});
    let dead = asker.queue(&dead).await;
    assert_eq!(asker.ended(&dead["id"]).await["state"], "failed");
    // From the first attempt on there are as many records as there will be.
    let attempts = format!("/webhooks/{}/deliveries", text(&hook["id"]));
    for look in 0.. {
        if asker.get(&attempts).await["deliveries"] != json!([]) {
            break;
        }
        assert!(look < 1_000, "nothing is ever tried");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

fn by_kind(lines: &[Value]) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    lines.iter().for_each(|line| *kinds.entry(text(&line["kind"]).to_owned()).or_default() += 1);
    kinds
}

/// The files in which one of these texts stands.
fn files_with(directory: &Path, texts: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files_with(&path, texts));
        } else if let Ok(bytes) = fs::read(&path) {
            for text in texts {
                if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                    found.push(format!("{text} in {}", path.display()));
                }
            }
        }
    }
    found
}

/// What somebody has, to be compared.
async fn holdings(asker: &Asker) -> Value {
    let mut all = json!({});
    for (path, member) in [
        ("/tasks?limit=100", "tasks"),
        ("/dead-letters?limit=100", "dead_letters"),
        ("/sessions?limit=100", "sessions"),
        ("/history?limit=100", "entries"),
        ("/context?limit=100", "documents"),
        ("/context/snapshots?limit=100", "snapshots"),
    ] {
        all[member] = asker.pages(path, member).await.0.into();
    }
    all["workflows"] = asker.get("/workflows").await;
    all["preferences"] = asker.get("/preferences").await;
    all["document"] = asker.get("/context/doc-bob").await;
    all
}

#[tokio::test]
async fn a_user_is_exported_whole_and_erased_without_a_trace() {
    let scene = Scene::start(2, &["quota.gmail_user_units_per_minute=1000000"]);
    let key = scene.gateway.user("ada");
    let ada = Asker::of(&scene.gateway, &key).await;
    let bob = Asker::of(&scene.gateway, &scene.gateway.user("bob")).await;
    let olga = operator(&scene.gateway).await;
    plant(&scene, &ada, MARK, NAME_MARK).await;
    plant(&scene, &bob, "bobs", "bob").await;
    let id = text(&ada.get("/users/me").await["id"]).to_owned();

    // By oneself, by an operator, and at the machine.
    let exported = ada.ask("GET", "/users/me/export", &NONE).await;
    assert_eq!(
        (exported.status.as_u16(), exported.field("content-type")),
        (200, Some("application/x-ndjson"))
    );
    let own = String::from_utf8(exported.body.to_vec()).expect("UTF-8");
    let told = lines(&own);
    let kinds = by_kind(&told);
    for kind in KINDS {
        assert!(kinds.contains_key(kind), "no {kind} in {kinds:?}");
    }
    assert_eq!((&told[0]["kind"], &told[0]["user"]), (&json!("export"), &json!(id)));
    assert_eq!(told.last(), Some(&json!({"kind": "end"})));
    assert!(own.matches(MARK).count() > 8 && !own.contains("bobs") && !own.contains("\"unreadable\""));
    for secret in [&key[key.len() - 43..], "sim-refresh-", "refresh_token", "whsec_"] {
        assert!(!own.contains(secret), "{secret} is in the export");
    }
    let mut chunks: Vec<_> = told.iter().filter(|line| line["kind"] == "chunk").collect();
    chunks.sort_by_key(|chunk| chunk["index"].as_u64());
    let content = chunks.iter().flat_map(|chunk| STANDARD.decode(text(&chunk["content"])).expect("base64"));
    let content: Value = serde_json::from_slice(&content.collect::<Vec<u8>>()).expect("the document");
    assert_eq!(content["about"], MARK);
    let by_olga = olga.ask("GET", &format!("/users/{id}/export"), &NONE).await;
    assert_eq!(by_kind(&lines(std::str::from_utf8(&by_olga.body).expect("UTF-8"))), kinds);
    let out = scene.directory.path().with_extension("export");
    let path = out.to_str().expect("UTF-8");
    scene.gateway.admin(&["user", "export", "ada", "--out", path]);
    assert_eq!(by_kind(&lines(&fs::read_to_string(&out).expect("written"))), kinds);
    assert!(scene.gateway.refused(&["user", "export", "ada", "--out", path]).contains("cannot make"));
    fs::remove_file(&out).expect("removed");
    ada.ask("GET", &format!("/users/{id}/export"), &NONE).await.problem(403, "forbidden");
    let narrow = scene.gateway.admin(&["key", "add", "ada", "--scopes", "account:read"]);
    let narrow = Asker::of(&scene.gateway, &narrow).await;
    let narrow = narrow.ask("GET", "/users/me/export", &NONE).await;
    let narrow = lines(std::str::from_utf8(&narrow.body).expect("UTF-8"));
    assert!(text(&narrow.last().expect("lines")["left_out"]).contains("commands:read"), "{narrow:?}");
    let kinds: BTreeSet<String> = by_kind(&narrow).into_keys().collect();
    let of_account = [
        "activity",
        "browser-session",
        "connection",
        "end",
        "export",
        "key",
        "preferences",
        "user",
        "webhook",
    ];
    assert_eq!(kinds, of_account.map(str::to_owned).into());

    // Not by accident.
    let erase = format!("/users/{id}/erase");
    let named = json!({"name": "ADA"});
    ada.ask("POST", &erase, &named).await.problem(403, "forbidden");
    olga.ask("POST", &erase, &json!({})).await.problem(422, "invalid-field");
    olga.ask("POST", &erase, &json!({"name": "bob"})).await.problem(422, "invalid-field");
    let olgas = olga.get("/users/me").await["id"].clone();
    olga.ask("POST", &format!("/users/{}/erase", text(&olgas)), &json!({"name": "olga"}))
        .await
        .problem(409, "conflict");
    assert!(scene.gateway.refused(&["user", "erase", "ada"]).contains("--yes"));
    assert_eq!(ada.get("/users/me").await["disabled"], false);

    let ids = [
        ("/tasks/", told.iter().find(|line| line["kind"] == "task").expect("a task")["task"]["id"].clone()),
        (
            "/dead-letters/",
            told.iter().find(|line| line["kind"] == "dead-letter").expect("one")["task"]["id"].clone(),
        ),
        ("/sessions/", told.iter().find(|line| line["kind"] == "session").expect("one")["id"].clone()),
        ("/keys/", told.iter().find(|line| line["kind"] == "key").expect("one")["id"].clone()),
        (
            "/browser-sessions/",
            told.iter().find(|line| line["kind"] == "browser-session").expect("one")["id"].clone(),
        ),
        ("/users/", json!(id)),
        ("/connections/", json!("con_00000000000000000000000000")),
    ];
    let before = holdings(&bob).await;
    let erased = olga.expect(200, "POST", &erase, &named).await;
    assert_eq!(erased["user"], id);
    // The record of a task that waits goes with the end that its core makes of it.
    for kind in KINDS.iter().filter(|kind| **kind != "task-pending").chain(&["name", "data-key"]) {
        assert!(erased["removed"][kind].as_u64() > Some(0), "no {kind} in {erased:#}");
    }

    // Nobody, for every route there is.
    let description = ada.caller.send("GET", "/openapi.json", &[], "").await.value();
    let mut asked = 0;
    for (path, operations) in description["paths"].as_object().expect("paths") {
        let Some(path) = path.strip_prefix("/api/v1") else { continue };
        let known = ids.iter().find(|(prefix, _)| path.starts_with(prefix)).map_or("x", |(_, id)| text(id));
        let mut filled = String::new();
        for (number, part) in path.split(['{', '}']).enumerate() {
            let value = if part == "version" { "1" } else { known };
            filled.push_str(if number % 2 == 0 { part } else { value });
        }
        for (method, operation) in operations.as_object().expect("operations") {
            let method = method.to_uppercase();
            if ["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&&*method) {
                // What takes none is refused for it before anybody is asked who they are.
                let body = if operation["requestBody"].is_null() { NONE } else { json!({}) };
                let answer = ada.ask(&method, &filled, &body).await;
                assert_eq!(answer.status.as_u16(), 401, "{method} {filled}: {:?}", answer.body);
                asked += 1;
            }
        }
    }
    assert!(asked > 60, "{asked}");
    olga.ask("GET", &format!("/users/{id}"), &NONE).await.problem(404, "not-found");
    olga.ask("GET", &format!("/users/{id}/export"), &NONE).await.problem(404, "not-found");
    olga.ask("POST", &erase, &named).await.problem(404, "not-found");
    assert!(!scene.gateway.admin(&["user", "list"]).contains("ada"));
    assert_eq!(holdings(&bob).await, before);
    bob.expect(200, "POST", "/command", &json!({"command": "find the mail from Anna about the budget"}))
        .await;

    // What was connected is given back before the tokens are destroyed.
    assert_eq!((&erased["revoked"], &erased["unrevoked"]), (&json!(1), &json!(0)), "{erased:#}");
    let given_back = scene.sim.asked("oauth.revoke").await;
    assert_eq!(given_back, 1);

    // The proof, without a word of the user's.
    assert!(scene.gateway.admin(&["audit", "verify"]).contains("are as they were written"));
    let log = scene.gateway.admin(&["audit", "export"]);
    // What was asked for and refused before is told as well.
    let of_act = |act: &str| -> Vec<Value> {
        let is_it = |entry: &Value| entry["act"] == act && entry["outcome"] != "refused";
        lines(&log).into_iter().filter(is_it).collect()
    };
    let of_erasure = of_act("user.erase");
    let outcomes: Vec<&str> = of_erasure.iter().map(|entry| text(&entry["outcome"])).collect();
    assert_eq!(outcomes[0], "begun");
    assert!(outcomes[1..].iter().all(|outcome| *outcome == "done") && outcomes.len() > 1, "{outcomes:?}");
    assert!(
        of_erasure.iter().all(|entry| text(&entry["object"]).starts_with(&id) && entry["actor"] == olgas)
    );
    let proof: String = of_erasure[1..].iter().map(|entry| format!(" {}", text(&entry["object"]))).collect();
    for (kind, count) in erased["removed"].as_object().expect("counts") {
        assert!(proof.contains(&format!(" {kind}={count}")), "{kind} in {proof}");
    }
    assert_eq!(of_act("user.export").len(), 4);
    for word in [MARK, NAME_MARK, "example.com"] {
        assert!(!log.contains(word), "{word} is in the log");
    }

    let Scene { gateway, sim, directory } = scene;
    gateway.stop();
    assert_eq!(files_with(directory.path(), &[MARK]), [""; 0]);
    // Names may stand at the edge of a table, and so in the manifest, which a start writes anew.
    Scene::gateway(&sim, directory.path(), 2, &[]).stop();
    assert_eq!(files_with(directory.path(), &[MARK, NAME_MARK, "ada@example.com"]), [""; 0]);
    assert!(!files_with(directory.path(), &["bob@example.com"]).is_empty(), "the test can fail");
}

#[tokio::test]
async fn an_erasure_that_is_killed_at_any_moment_ends_erased() {
    let mut scene = Scene::start(2, &[]);
    let olga_key = operator(&scene.gateway).await.key;
    let mut erased = BTreeSet::new();
    // The kill comes so long after the mark is seen, or the end.
    for (round, after_ms) in [0, 10, 30, 90, 270].into_iter().enumerate() {
        let name = format!("user-{round}");
        let ada = Asker::of(&scene.gateway, &scene.gateway.user(&name)).await;
        plant(&scene, &ada, MARK, NAME_MARK).await;
        let id = text(&ada.get("/users/me").await["id"]).to_owned();
        let (olga, looks) =
            (Asker::of(&scene.gateway, &olga_key).await, Asker::of(&scene.gateway, &olga_key).await);
        let path = format!("/api/v1/users/{id}/erase");
        let (http, key, body) = (olga.caller.http.clone(), olga_key.clone(), json!({"name": name}));
        let asking = tokio::spawn(async move { http.post(&path, &key, &body).await });
        for look in 0.. {
            assert!(look < 10_000, "the erasure does not begin");
            let answer = looks.ask("GET", &format!("/users/{id}"), &NONE).await;
            if answer.status.as_u16() == 404 || answer.value()["disabled"] == true {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        scene.gateway = scene.gateway.crash_and_restart();
        // Nobody answers any more; the connection would be given up late.
        asking.abort();
        let olga = Asker::of(&scene.gateway, &olga_key).await;
        olga.ask("GET", &format!("/users/{id}"), &NONE).await.problem(404, "not-found");
        let ada = Asker::of(&scene.gateway, &ada.key).await;
        ada.ask("GET", "/users/me", &NONE).await.problem(401, "unauthorized");
        erased.insert(id);
    }
    assert!(scene.gateway.admin(&["audit", "verify"]).contains("are as they were written"));
    let log = lines(&scene.gateway.admin(&["audit", "export"]));
    let done: Vec<&Value> =
        log.iter().filter(|entry| entry["act"] == "user.erase" && entry["outcome"] == "done").collect();
    let resumed = done.iter().filter(|entry| entry["actor"] == "gateway").count();
    println!("{} erasures, {resumed} entries of those that a start brought to their end", erased.len());
    assert!(resumed > 0, "no kill came in the midst");
    for id in &erased {
        assert!(
            done.iter().any(|entry| text(&entry["object"]).starts_with(id.as_str())),
            "no proof for {id}"
        );
    }
    let Scene { gateway, sim, directory } = scene;
    gateway.stop();
    Scene::gateway(&sim, directory.path(), 2, &[]).stop();
    assert_eq!(files_with(directory.path(), &[MARK, NAME_MARK]), [""; 0]);
}

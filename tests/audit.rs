//! The audit log through the real binary: what is told of administration, that an export can be proved without us, and that
//! a chain is held to what was kept of it elsewhere.

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::asker::Asker;
use common::scene::Scene;
use common::{Gateway, Sim};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The lines of an export.
fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

fn field<'a>(entry: &'a Value, name: &str) -> &'a str {
    entry[name].as_str().expect("a text")
}

fn number(entry: &Value, name: &str) -> u64 {
    entry[name].as_u64().expect("a number")
}

/// Works out each hash anew from the fields of an export, by what docs/security.md says.
fn prove(export: &[Value]) -> BTreeMap<u64, (u64, String)> {
    let mut heads: BTreeMap<u64, (u64, String)> = BTreeMap::new();
    let mut before = [0_u8; 32];
    for entry in export {
        let (shard, sequence) = (number(entry, "shard"), number(entry, "sequence"));
        let last = heads.get(&shard).map_or(0, |head| head.0);
        assert_eq!(sequence, last + 1, "{entry}");
        if last == 0 {
            before = [0; 32];
        }
        let mut canonical = vec![1];
        canonical.extend(u16::try_from(shard).expect("a shard").to_be_bytes());
        canonical.extend(sequence.to_be_bytes());
        canonical.extend(number(entry, "at_ms").to_be_bytes());
        for name in ["actor", "act", "object", "outcome", "address", "request"] {
            let text = field(entry, name);
            canonical.extend(u16::try_from(text.len()).expect("short").to_be_bytes());
            canonical.extend(text.as_bytes());
        }
        let hash = Sha256::digest([&before[..], &canonical].concat());
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(field(entry, "hash"), hex, "{entry}");
        before.copy_from_slice(&hash);
        heads.insert(shard, (sequence, hex));
    }
    heads
}

#[tokio::test]
async fn administration_is_told_and_an_export_proves_itself() {
    let scene = Scene::start(2, &[]);
    let key = scene.gateway.user("anna");
    let ben = scene.gateway.user("ben");
    scene.gateway.admin(&["user", "seed", "--count", "20", "--keys-out", "/dev/null"]);
    let text = scene.gateway.admin(&["audit", "export"]);
    for secret in [&*key, &ben, "sim-refresh-", "example.com"] {
        assert!(!text.contains(secret), "{secret} is in the log");
    }
    let export = lines(&text);
    let count = |act: &str| export.iter().filter(|entry| field(entry, "act") == act).count();
    assert_eq!((count("user.create"), count("key.create"), count("connection.create")), (22, 22, 2));
    assert!(export.iter().all(|entry| field(entry, "actor") == "operator"));
    let heads = prove(&export);
    assert!(heads.len() > 3, "the users are in several shards");

    // The same whether a gateway runs or not, and after one that was killed.
    let verified = scene.gateway.admin(&["audit", "verify"]);
    assert_eq!(verified, "46 entries in 16 chains are as they were written");
    let ends = lines(&scene.gateway.admin(&["audit", "head"]));
    let told: BTreeMap<_, _> = ends
        .iter()
        .map(|end| (number(end, "shard"), (number(end, "sequence"), field(end, "hash").to_owned())))
        .collect();
    assert_eq!(told, heads);
    let gateway = scene.gateway.crash_and_restart();
    gateway.admin(&["key", "add", "anna"]);
    assert_eq!(gateway.admin(&["audit", "verify"]), "47 entries in 16 chains are as they were written");
    gateway.stop();
    let mut direct = Gateway::command(&scene.sim, scene.directory.path(), &["server.shards=16"]);
    let output = direct.args(["audit", "export"]).output().expect("it runs");
    let export = lines(&String::from_utf8(output.stdout).expect("UTF-8"));
    assert_eq!(export.len(), 47);
    prove(&export);
}

/// The routes that are for an office, with a user's id in their paths and the act each is told as.
async fn office_routes(asker: &Asker, user: &str) -> Vec<(String, String, &'static str)> {
    let document = asker.caller.send("GET", "/openapi.json", &[], "").await.value();
    let mut routes = Vec::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            let roles = operation["x-access"]["roles"].as_array();
            if roles.is_none_or(|roles| roles.contains(&json!("user"))) {
                continue;
            }
            let act = match (&**method, path.strip_prefix("/api/v1/users").unwrap_or_default()) {
                ("get", "" | "/{id}") => "user.read",
                ("post", "") => "user.create",
                ("patch", "/{id}") => "user.change",
                ("delete", "/{id}") => "user.disable",
                ("post", "/{id}/erase") => "user.erase",
                ("get", "/{id}/export") => "user.export",
                _ => panic!("{method} {path} has no act of its own"),
            };
            routes.push((method.to_uppercase(), path.replace("{id}", user), act));
        }
    }
    routes
}

/// The entries of the log about what was refused.
fn refusals(scene: &Scene) -> Vec<Value> {
    let export = lines(&scene.gateway.admin(&["audit", "export"]));
    export.into_iter().filter(|entry| field(entry, "outcome") == "refused").collect()
}

#[tokio::test]
async fn who_is_refused_what_is_for_an_office_is_told_and_cannot_fill_the_log() {
    let scene = Scene::start(2, &[]);
    let mut askers = Vec::new();
    for name in ["ada", "bob"] {
        askers.push(Asker::of(&scene.gateway, &scene.gateway.user(name)).await);
    }
    let [ada, bob] = &askers[..] else { panic!("two") };
    let id = async |asker: &Asker| asker.get("/users/me").await["id"].as_str().expect("an id").to_owned();
    let (ada_id, bob_id) = (id(ada).await, id(bob).await);
    let routes = office_routes(ada, &bob_id).await;
    assert!((7..=10).contains(&routes.len()), "{routes:?}");
    for (number, (method, path, act)) in routes.iter().enumerate() {
        let request = format!("try-{number}");
        let path = path.strip_prefix("/api/v1").expect("below it");
        let body = if matches!(&**method, "POST" | "PATCH") { json!({}) } else { Value::Null };
        let answer = ada.with(method, path, &[("x-request-id", &request)], &body).await;
        answer.problem(403, "forbidden");
        // It is there when the answer is.
        let told = refusals(&scene);
        let entry = told.iter().find(|entry| field(entry, "request") == request).expect("it is told");
        assert_eq!((field(entry, "actor"), field(entry, "act")), (&*ada_id, *act), "{entry}");
        let object = if path.contains(&bob_id) { &*bob_id } else { "" };
        assert_eq!((field(entry, "object"), field(entry, "address")), (object, "127.0.0.1"), "{entry}");
    }
    // What is one's own is no administration, whatever the credential lacks.
    let narrow = ada.expect(201, "POST", "/keys", &json!({"name": "narrow", "scopes": ["mail:read"]})).await;
    let narrow = Asker::of(&scene.gateway, narrow["key"].as_str().expect("a key")).await;
    narrow.expect(403, "GET", "/tasks", &Value::Null).await;
    assert_eq!(refusals(&scene).len(), routes.len());

    // Ten an hour of a user are told; the hour of the clock may turn once meanwhile.
    for _ in 0..50 {
        ada.expect(403, "GET", "/users", &Value::Null).await;
    }
    let told = refusals(&scene).len();
    assert!((10..=20).contains(&told), "{told}");
    let page = scene.gateway.page().await;
    let sum = |name: &str| page.sum(&format!("sluice_audit_refusals_{name}_total"), &[]);
    let all = u64::try_from(routes.len() + 50).expect("few");
    assert_eq!((sum("told"), sum("left_out_user")), (told as u64, all - told as u64));
    assert_eq!((sum("left_out_core"), sum("left_out_storage")), (0, 0));

    // Nobody else's are left out for it; a disabled user's are told as well.
    bob.expect(403, "GET", "/users", &Value::Null).await;
    scene.gateway.admin(&["user", "set", "bob", "--disabled", "true"]);
    bob.expect(403, "GET", &format!("/users/{ada_id}"), &Value::Null).await;
    let told = refusals(&scene);
    let of_bob: Vec<_> = told.iter().filter(|entry| field(entry, "actor") == bob_id).collect();
    assert_eq!(of_bob.len(), 2, "{of_bob:?}");
    assert!(of_bob.iter().any(|entry| field(entry, "object") == ada_id), "{of_bob:?}");
    prove(&lines(&scene.gateway.admin(&["audit", "export"])));
}

#[tokio::test]
async fn an_export_has_the_entries_of_a_time() {
    let scene = Scene::start(1, &[]);
    scene.gateway.user("anna");
    let all = lines(&scene.gateway.admin(&["audit", "export"]));
    let times: Vec<u64> = all.iter().map(|entry| number(entry, "at_ms")).collect();
    let last = all.iter().find(|entry| number(entry, "at_ms") == times[2]).expect("the last");
    let from = scene.gateway.admin(&["audit", "export", "--from", field(last, "at")]);
    let expected = times.iter().filter(|at| **at >= times[2]).count();
    assert_eq!(lines(&from).len(), expected);
    let to = scene.gateway.admin(&["audit", "export", "--to", field(last, "at")]);
    assert_eq!(lines(&to).len(), 3 - expected);
    let refused = scene.gateway.refused(&["audit", "export", "--from", "yesterday"]);
    assert!(refused.contains("--from"), "{refused}");
}

#[tokio::test]
async fn a_chain_is_held_to_what_was_kept_elsewhere() {
    let scene = Scene::start(1, &[]);
    scene.gateway.user("anna");
    let kept = tempfile::tempdir().expect("a directory");
    let (anchor, wrong, other) =
        (kept.path().join("anchor"), kept.path().join("wrong"), kept.path().join("other"));
    let text = scene.gateway.admin(&["audit", "head"]);
    fs::write(&anchor, &text).expect("written");
    scene.gateway.admin(&["key", "add", "anna"]);
    let verify = ["audit", "verify", "--anchor"];
    let arguments = |path: &'static str| [&verify[..], &[path]].concat();
    let leak = |path: &std::path::Path| -> &'static str { path.to_str().expect("UTF-8").to_owned().leak() };
    assert!(scene.gateway.admin(&arguments(leak(&anchor))).starts_with("4 entries"));

    // A chain that was written anew from its beginning is whole, but not the one of the anchor.
    let end: Value = serde_json::from_str(&text).expect("one line");
    let hash = field(&end, "hash");
    fs::write(&wrong, text.replace(hash, &"0".repeat(64))).expect("written");
    let said = scene.gateway.refused(&arguments(leak(&wrong)));
    assert!(said.contains("1 of 16 chains are broken"), "{said}");
    fs::write(&other, text.replace("\"sequence\":3", "\"sequence\":9")).expect("written");
    scene.gateway.refused(&arguments(leak(&other)));
    fs::write(&other, "nonsense\n").expect("written");
    let said = scene.gateway.refused(&arguments(leak(&other)));
    assert!(said.contains("line 1 is no anchor"), "{said}");

    // A directory that knows nothing of the anchored past, such as one put in its place.
    scene.gateway.stop();
    let (sim, fresh) = (Sim::start(&[]), tempfile::tempdir().expect("a directory"));
    let gateway = Scene::gateway(&sim, fresh.path(), 1, &[]);
    let said = gateway.refused(&arguments(leak(&anchor)));
    assert!(said.contains("1 of 16 chains are broken"), "{said}");
    gateway.stop();
}

//! The audit log through the real binary: what is told of administration, that an export can be proved without us, and that
//! a chain is held to what was kept of it elsewhere.

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::scene::Scene;
use common::{Gateway, Sim};
use serde_json::Value;
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

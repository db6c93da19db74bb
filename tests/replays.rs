//! Tasks run again from their records by the real binary, beside a running gateway and after a crash.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::Gateway;
use common::asker::{Asker, text};
use common::scene::Scene;
use serde_json::{Value, json};
use sluice_protocols::ids::{ShardCount, ShardId, TaskId};
use sluice_store::key::name_shard;
use sluice_store::record::{NameRecord, TaskRecord, encode};
use sluice_store::{Batch, Key, Store, StoreConfig};

/// Far more than it takes.
const LOOKS_MAX: usize = 4_000;

/// Makes an event and a draft, and then reads a mail that nobody wrote.
fn doomed() -> Value {
    json!({"steps": [
        {"id": "book", "operation": "calendar.create", "with": {"title": "Talk", "start": "2031-03-04T10:00"}},
        {"id": "find", "operation": "gmail.search", "with": {"query": "from:nobody.at.all"}},
        {"id": "read", "operation": "gmail.read", "after": ["book"], "with": {"message": "$steps.find.messages[0]"}},
        {"id": "last", "operation": "drive.search", "with": {"text": "x"}, "after": ["read"]},
    ]})
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What a replay prints, which must be the same a second time.
fn replay(scene: &Scene, directory: &Path, id: &Value) -> Output {
    let once = || {
        let mut command: Command = Gateway::command(&scene.sim, directory, &[]);
        command.args(["task", "replay", text(id), "--user", "ada"]).output().expect("the binary runs")
    };
    let (first, second) = (once(), once());
    assert_eq!(String::from_utf8_lossy(&first.stdout), String::from_utf8_lossy(&second.stdout));
    first
}

fn agrees(scene: &Scene, task: &Value) -> String {
    let output = replay(scene, scene.directory.path(), &task["id"]);
    let told = told(&output);
    assert!(output.status.success() && told.contains("agrees with the record"), "{told}");
    for step in task["steps"].as_array().into_iter().flatten() {
        let (id, state) = (text(&step["id"]), text(&step["state"]));
        let line = match state {
            "skipped" => format!("skipped  {id}\n"),
            state => format!("  {id} {state}"),
        };
        assert!(told.contains(&line), "{line}: {told}");
    }
    if let Some(answer) = task["answer"].as_str().and_then(|answer| answer.lines().next()) {
        assert!(told.contains(answer), "{answer}: {told}");
    }
    told
}

/// Changes the record of a task in a data directory that nobody uses.
fn tamper(directory: &Path, id: &Value, change: impl FnOnce(&mut TaskRecord)) {
    let shards = ShardCount::new(common::scene::SHARDS).expect("a count");
    let store = Store::open(StoreConfig::new(directory, shards)).expect("the copy");
    let home = name_shard("ada", shards);
    let name = store.load_blocking::<NameRecord>(home, &Key::name("ada").expect("a name")).expect("read");
    let user = name.expect("ada").to_record().user;
    let task: TaskId = text(id).parse().expect("an id");
    let (shard, key) = (ShardId::of(&user, shards), Key::task_finished(&user, &task));
    let mut record =
        store.load_blocking::<TaskRecord>(shard, &key).expect("read").expect("there").to_record();
    change(&mut record);
    let mut batch = Batch::new(shard);
    batch.put(&key, encode(&record).expect("encoded").as_bytes());
    store.write_blocking(vec![batch]).expect("written");
}

#[tokio::test]
async fn a_replay_agrees_with_the_record_unless_that_was_changed() {
    let scene = Scene::start(2, &[]);
    let key = scene.gateway.user("ada");
    let ada = Asker::of(&scene.gateway, &key).await;
    let found = ada.caller.done(&key, "find the mail from Anna about the budget").await;
    let replied = ada.caller.done(&key, "reply to her saying thanks").await;
    let many = "what's on my calendar tomorrow and find the file about the roadmap and show my unread mails";
    let fault = json!({"service": "drive", "kind": "status", "status": 403, "count": 1});
    scene.sim.fault(fault).await;
    let failed = ada.queue(&json!({"command": many})).await;
    let failed = ada.ended(&failed["id"]).await;
    assert_eq!(failed["state"], "failed", "{failed:#}");
    ada.expect(201, "PUT", "/workflows/doomed", &doomed()).await;
    let run = ada.ask("POST", "/workflows/doomed/runs", &json!({"mode": "async"})).await;
    let doomed = ada.ended(&run.value()["id"]).await;
    assert_eq!(doomed["state"], "failed", "{doomed:#}");
    // Beside the gateway, which goes on.
    for task in [&found, &replied, &failed, &doomed] {
        agrees(&scene, task);
    }
    assert!(agrees(&scene, &doomed).contains("undo  s1 calendar.create taken back"));
    assert!(agrees(&scene, &replied).contains("is the message"));
    let shown = Gateway::command(&scene.sim, scene.directory.path(), &[])
        .args(["task", "show", text(&found["id"]), "--key", &key, "--url"])
        .arg(format!("https://{}", scene.gateway.address))
        .output()
        .expect("the binary runs");
    assert!(shown.status.success() && told(&shown).contains("from:anna"), "{}", told(&shown));
    let Scene { gateway, sim, directory } = scene;
    gateway.stop();
    let copy = tempfile::tempdir().expect("a directory");
    let copied = Command::new("cp").arg("-a").arg(directory.path()).arg(copy.path().join("data")).status();
    assert!(copied.expect("cp runs").success());
    let copy = copy.path().join("data");
    tamper(&copy, &found["id"], |record| record.steps[0].outcome_json = Some("[]".to_owned()));
    tamper(&copy, &doomed["id"], |record| record.steps[3].state = 3);
    let command = |id: &Value| {
        let mut command = Gateway::command(&sim, &copy, &[]);
        command.args(["task", "replay", text(id), "--user", "ada"]).output().expect("the binary runs")
    };
    for id in [&found["id"], &doomed["id"]] {
        let output = command(id);
        let told = told(&output);
        assert!(output.status.code() == Some(1) && told.contains("DIVERGES"), "{told}");
    }
    // The others of the copy were left alone.
    assert!(command(&replied["id"]).status.success());
}

#[tokio::test]
async fn a_task_that_was_killed_shows_what_would_be_asked_next() {
    let scene = Scene::start(1, &[]);
    let key = scene.gateway.user("ada");
    let ada = Asker::of(&scene.gateway, &key).await;
    let fault = json!({"service": "gmail", "kind": "hang", "path_contains": "drafts/send"});
    scene.sim.fault(fault).await;
    let task =
        ada.queue(&json!({"command": "send a mail to kim@example.com saying the offer is ready"})).await;
    for look in 0.. {
        if scene.sim.state().await["faults_fired"].as_u64() > Some(0) {
            break;
        }
        assert!(look < LOOKS_MAX, "it never comes to be sent");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let Scene { gateway, sim, directory } = scene;
    drop(gateway); // SIGKILL, then wait
    let gateway = Gateway::command(&sim, directory.path(), &[]);
    let mut command = gateway;
    let output =
        command.args(["task", "replay", text(&task["id"]), "--user", "ada"]).output().expect("it runs");
    let told = told(&output);
    assert!(output.status.success(), "{told}");
    let next = "next  s1: it was under way when the record was written; noted: draft:";
    assert!(told.contains(next) && told.contains("agrees with the record"), "{told}");
}

//! Commands that real people gave, run end to end: whatever becomes of each, it is never a fault of ours.
//!
//! The file that `SLUICE_TEST_COMMANDS` names holds one annotated command a line; the simulator plans by its
//! annotations. Without it the test says that it was skipped.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::Sim;
use common::scene::{Caller, Scene};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Commands that are run, spread over the file.
const COMMANDS: usize = 200;
/// Users who give them in turn, each in a session of their own.
const USERS: usize = 8;
/// Commands under way at once.
const AT_ONCE: usize = 16;

/// What the commands say, as they were typed where that is known.
fn commands(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    assert!(lines.len() >= COMMANDS, "{} has {} commands", file.display(), lines.len());
    let of = |number: usize| {
        let line: Value = serde_json::from_str(lines[number * lines.len() / COMMANDS]).expect("JSON");
        let said = line["raw"].as_str().or_else(|| line["text"].as_str());
        said.expect("a command").to_owned()
    };
    (0..COMMANDS).map(of).collect()
}

/// How a command ended: its state, and for a failure the kind of problem.
fn outcome(status: u16, body: &Value) -> String {
    match status {
        200 => body["state"].as_str().unwrap_or("no state").to_owned(),
        _ => format!("failed {status} {}", body["type"].as_str().unwrap_or("no problem document")),
    }
}

/// Whether an outcome is the gateway's own fault: the upstreams here are well and the commands are valid, so what
/// may go wrong is that somebody or something the command speaks of is not there.
fn is_ours(outcome: &str) -> bool {
    !matches!(outcome, "done" | "declined" | "failed 422 /problems/unresolved-reference")
}

#[tokio::test]
async fn commands_of_real_people_end_without_an_internal_error() {
    let Some(file) = std::env::var_os("SLUICE_TEST_COMMANDS").filter(|file| Path::new(file).exists()) else {
        eprintln!("SKIPPED: SLUICE_TEST_COMMANDS names no file of commands");
        return;
    };
    let sim = Sim::start(&["--annotations", file.to_str().expect("UTF-8")]);
    let scene = Scene::with_sim(sim, 2, &[]);
    let keys: Vec<String> = (0..USERS).map(|number| scene.gateway.user(&format!("user{number}"))).collect();
    let caller = Arc::new(Caller::of(&scene.gateway).await);
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut calls = JoinSet::new();
    for (number, command) in commands(Path::new(&file)).into_iter().enumerate() {
        let (caller, places, key) = (Arc::clone(&caller), Arc::clone(&places), keys[number % USERS].clone());
        calls.spawn(async move {
            let _place = places.acquire_owned().await.expect("open");
            let answer = caller.post(&key, &json!({ "command": command })).await;
            (command, answer.status.as_u16(), answer.value())
        });
    }
    let mut breakdown: BTreeMap<String, usize> = BTreeMap::new();
    let mut faults = Vec::new();
    while let Some(ended) = calls.join_next().await {
        let (command, status, body) = ended.expect("no panic");
        let outcome = outcome(status, &body);
        if is_ours(&outcome) {
            faults.push(format!("{command:?}: {outcome}: {}", body["detail"]));
        }
        *breakdown.entry(outcome).or_default() += 1;
    }
    println!("{COMMANDS} commands:");
    for (outcome, count) in &breakdown {
        println!("{count:5}  {outcome}");
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert_eq!(breakdown.values().sum::<usize>(), COMMANDS);
    assert_eq!(scene.sim.state().await["plans_unfit"], 0, "simulator and gateway disagree about plans");
    let page = scene.gateway.page().await;
    assert_eq!(page.sum("sluice_problems_total", &[("kind", "internal")]), 0);
    assert_eq!(page.sum("sluice_commands_accepted_total", &[]), COMMANDS as u64);
}

//! The simulator driven by the clients that Google and OpenAI publish, and its tables held against Google's discovery
//! documents. What is asserted stands in `tests/python`; here it is run.

#[path = "../../tests/common/python.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the suites of the gateway, which use more of it")]
mod python;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sluice_bench::sim::{SimConfig, start};

/// This crate's directory, asked for when the test runs: the binary may have been built in another checkout.
fn here() -> PathBuf {
    env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

fn program(name: &str) -> PathBuf {
    here().join("../tests/python").join(name)
}

/// Runs a program of `tests/python` and gives what it printed.
fn run(python: &Path, name: &str, argument: &str) -> String {
    let output =
        Command::new(python).arg(program(name)).arg(argument).output().expect("the interpreter runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a client against a simulator of its own.
fn drive(module: &str, name: &str) -> Option<Value> {
    let python = python::interpreter(module)?;
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let config = SimConfig { check_answers: true, ..SimConfig::default() };
    let sim = runtime.block_on(start(config)).expect("a simulator");
    let printed = run(&python, name, &sim.base_url());
    runtime.block_on(sim.stop());
    Some(serde_json::from_str(&printed).expect("a report"))
}

#[test]
fn googles_client_is_served_by_every_method_it_is_promised() {
    let Some(report) = drive("googleapiclient", "google_client.py") else { return };
    assert!(report["methods"].as_u64() >= Some(60), "{report}");
}

#[test]
fn openais_client_is_served() {
    let Some(report) = drive("openai", "openai_client.py") else { return };
    assert!(report["events"].as_u64() > Some(10) && report["cut_after"].as_u64() <= Some(4), "{report}");
}

#[test]
fn the_tables_are_what_the_discovery_documents_say() {
    let Some(python) = python::interpreter("googleapiclient") else { return };
    let tables = here().join("src/sim/spec");
    run(&python, "discovery.py", &tables.to_string_lossy());
}

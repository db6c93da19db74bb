//! `compare h3` with a server of others: found, started, measured, and stopped again. How fast it was is not judged.

#[path = "../../tests/common/python.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the suites of the gateway, which use more of it")]
mod programs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sluice-bench");

/// Processes that run in this directory or below it.
fn running_in(directory: &Path) -> Vec<PathBuf> {
    let processes = fs::read_dir("/proc").expect("procfs");
    let directories = processes.filter_map(|entry| fs::read_link(entry.ok()?.path().join("cwd")).ok());
    directories.filter(|working| working.starts_with(directory)).collect()
}

#[test]
fn caddy_is_started_measured_and_stopped_again() {
    let Some(caddy) = programs::caddy() else { return };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    if cpus < 2 {
        eprintln!("SKIPPED: the server and the load want a CPU each");
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let output = Command::new(PROGRAM)
        .args(["compare", "h3", "--json", "--case", "1x1", "--runs", "1", "--duration-s", "1", "--caddy"])
        .arg(caddy)
        .env("TMPDIR", directory.path())
        .output()
        .expect("the program runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.lines().any(|line| line.starts_with("caddy: v") || line.starts_with("caddy: 2")), "{said}");
    let table: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let [row] = &table["rows"].as_array().expect("a list")[..] else { panic!("one case: {table:#}") };
    let peers = row["peers"].as_array().expect("a list");
    let caddy = peers.iter().find(|peer| peer["server"] == "caddy").expect("caddy was measured");
    for figure in ["cpu_us", "requests_per_s", "p50_us", "p99_us"] {
        for server in [&row["sluice"], caddy] {
            assert!(server[figure].as_f64().is_some_and(|value| value > 0.0), "{figure}: {server:#}");
        }
    }
    let cpu_us = |server: &Value| server["cpu_us"].as_f64().expect("a number");
    let ratio = caddy["cpu_ratio"].as_f64().expect("a number");
    assert!((ratio - cpu_us(&row["sluice"]) / cpu_us(caddy)).abs() < 1e-9, "{row:#}");
    let left: Vec<_> = fs::read_dir(directory.path()).expect("readable").collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(running_in(directory.path()), Vec::<PathBuf>::new());
}

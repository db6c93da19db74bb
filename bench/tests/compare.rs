//! `compare h3` with servers of others: found, started, measured, and stopped again; one that will not do is told of. How
//! fast they were is not judged.

#[path = "../../tests/common/python.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the suites of the gateway, which use more of it")]
mod programs;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sluice-bench");

/// Processes that run in this directory or below it.
fn running_in(directory: &Path) -> Vec<PathBuf> {
    let processes = fs::read_dir("/proc").expect("procfs");
    let directories = processes.filter_map(|entry| fs::read_link(entry.ok()?.path().join("cwd")).ok());
    directories.filter(|working| working.starts_with(directory)).collect()
}

/// Whether the server and the load have a CPU each; says so where they have not.
fn has_cpus() -> bool {
    let has = std::thread::available_parallelism().map_or(1, usize::from) >= 2;
    if !has {
        eprintln!("SKIPPED: the server and the load want a CPU each");
    }
    has
}

fn compare(options: &[&str], directory: &Path) -> Output {
    Command::new(PROGRAM)
        .args(["compare", "h3", "--json", "--runs", "1", "--duration-s", "1"])
        .args(options)
        .env("TMPDIR", directory)
        .output()
        .expect("the program runs")
}

/// Compares with this program in one case, and holds what is printed to what it must have.
fn is_started_measured_and_stopped(name: &str, program: &Path, case: &str, says: impl Fn(&str) -> bool) {
    let directory = tempfile::tempdir().expect("a directory");
    let program = program.to_str().expect("a name in UTF-8");
    let output = compare(&["--case", case, &format!("--{name}"), program], directory.path());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let version = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    assert!(version.is_some_and(says), "{said}");
    let table: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let [row] = &table["rows"].as_array().expect("a list")[..] else { panic!("one case: {table:#}") };
    let peers = row["peers"].as_array().expect("a list");
    let peer = peers.iter().find(|peer| peer["server"] == name).expect("it was measured");
    for figure in ["cpu_us", "requests_per_s", "p50_us", "p99_us"] {
        for server in [&row["sluice"], peer] {
            assert!(server[figure].as_f64().is_some_and(|value| value > 0.0), "{figure}: {server:#}");
        }
    }
    let cpu_us = |server: &Value| server["cpu_us"].as_f64().expect("a number");
    let ratio = peer["cpu_ratio"].as_f64().expect("a number");
    assert!((ratio - cpu_us(&row["sluice"]) / cpu_us(peer)).abs() < 1e-9, "{row:#}");
    let left: Vec<_> = fs::read_dir(directory.path()).expect("readable").collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(running_in(directory.path()), Vec::<PathBuf>::new());
}

#[test]
fn caddy_is_started_measured_and_stopped_again() {
    let Some(caddy) = programs::caddy() else { return };
    if has_cpus() {
        let says = |version: &str| version.starts_with('v') || version.starts_with('2');
        is_started_measured_and_stopped("caddy", &caddy, "1x1", says);
    }
}

/// Also with more streams at once than it has places for connections by default.
#[test]
fn nginx_is_started_measured_and_stopped_again() {
    let Some(nginx) = programs::nginx() else { return };
    if has_cpus() {
        is_started_measured_and_stopped("nginx", &nginx, "64x64", |version| version.starts_with("nginx/"));
    }
}

/// A program that does what `lines` say.
fn script(path: &Path, lines: &str) {
    fs::write(path, format!("#!/bin/sh\n{lines}\n")).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("set");
}

#[test]
fn a_peer_that_does_not_start_is_told_of_and_the_others_are_measured() {
    if !has_cpus() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let (nginx, own) = (directory.path().join("nginx"), directory.path().join("own"));
    fs::create_dir(&own).expect("made");
    script(
        &nginx,
        "if [ \"$1\" = -V ]; then echo 'nginx version: nginx/1.28.9'; echo --with-http_v3_module; exit; fi\n\
         echo 'no such luck' >&2; exit 3",
    );
    let output = compare(&["--case", "1x1", "--nginx", nginx.to_str().expect("UTF-8")], &own);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the failure is the peer's: {said}");
    assert!(said.contains("1x1: nginx failed: ") && said.contains("no such luck"), "{said}");
    let table: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let row = &table["rows"][0];
    let of = |name: &str| {
        let peers = row["peers"].as_array().expect("a list");
        peers.iter().find(|peer| peer["server"] == name).expect("it stands in the table").clone()
    };
    assert!(row["sluice"]["cpu_us"].as_f64() > Some(0.0), "{row:#}");
    assert!(of("quinn-h3")["cpu_ratio"].as_f64() > Some(0.0), "{row:#}");
    let failed = of("nginx");
    assert!(failed["failed"].as_str().is_some_and(|reason| reason.contains("no such luck")), "{failed:#}");
    assert!(failed.get("cpu_us").is_none() && failed.get("cpu_ratio").is_none(), "{failed:#}");
    assert_eq!(fs::read_dir(&own).expect("readable").count(), 0);
}

#[test]
fn an_h2o_without_http3_is_refused_by_its_version_before_anything_is_started() {
    if !has_cpus() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let h2o = directory.path().join("h2o");
    let asked = directory.path().join("asked");
    script(
        &h2o,
        &format!(
            "echo \"$@\" >> '{}'\necho 'h2o version 2.2.5'\necho 'OpenSSL: OpenSSL 3.0.19'",
            asked.display()
        ),
    );
    let output = compare(&["--h2o", h2o.to_str().expect("UTF-8")], directory.path());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("h2o 2.2.5 has no HTTP/3"), "{said}");
    assert!(output.stdout.is_empty());
    assert_eq!(fs::read_to_string(asked).expect("it was asked"), "--version\n");
}

//! What a gateway gives up: that it really cannot do it any more, that every thread has given it up, and that a host which
//! lacks some of it is told so. That all else still works, the other tests show: their gateways run confined.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use common::scene::{Caller, guard};
use common::{Gateway, Sim, forbid, is_confined};

const OPTIONS: [&str; 2] = ["server.cores=2", "server.shards=16"];
/// Needs no call to Google.
const COMMAND: &str = "tell me a joke";

/// Says that a host lacks something, which is all that can be shown there.
fn is_skipped() -> bool {
    let is_skipped = !is_confined();
    if is_skipped {
        eprintln!("skipped: this host has no Landlock or no seccomp filters");
    }
    is_skipped
}

async fn answers(gateway: &Gateway) {
    let key = gateway.user("anna");
    let answer = guard(Caller::of(gateway).await.command(&key, COMMAND)).await;
    assert_eq!(answer["state"], "declined", "{answer}");
}

/// The fields of every thread's status, by the thread's name and number.
fn threads(pid: u32) -> BTreeMap<String, BTreeMap<String, String>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    let status = |path: &Path| fs::read_to_string(path.join("status")).ok();
    let fields = |text: String| -> BTreeMap<String, String> {
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
    };
    // A thread may end while it is looked at.
    let texts = tasks.filter_map(|task| status(&task.expect("an entry").path()));
    let all = texts.map(fields);
    all.map(|fields| (format!("{} {}", fields["Name"], fields["Pid"]), fields)).collect()
}

/// The same of a thread of this process, which the gateway's began like.
fn own_status() -> BTreeMap<String, String> {
    threads(std::process::id()).into_values().next().expect("this thread")
}

#[test]
fn what_is_given_up_is_refused_and_what_is_needed_works() {
    if is_skipped() {
        return;
    }
    let (sim, directory) = (Sim::start(&[]), tempfile::tempdir().expect("a temporary directory"));
    let data = directory.path().join("data");
    Gateway::start(&sim, &data, &OPTIONS).stop();
    let outside = directory.path().join("elsewhere");
    fs::write(&outside, "none of its business").expect("written");
    let mut command = Gateway::command(&sim, &data, &OPTIONS);
    let output = command.args(["sandbox", "check", "--outside"]).arg(&outside).output().expect("it runs");
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{wrong}");
    let verdicts: BTreeMap<&str, Vec<&str>> = said
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, rest)| (name, rest.split('\t').collect()))
        .collect();
    for name in ["start a program", "trace a process", "mount a file system"] {
        assert_eq!(verdicts[name], ["kills", "as it should", "SIGSYS"], "{said}");
    }
    for (name, error) in [
        ("open a packet socket", "Function not implemented"),
        ("make an io_uring", "Function not implemented"),
        ("read a file elsewhere", "Permission denied"),
        ("read another process's environment", "Permission denied"),
        ("write beside the allowed", "Permission denied"),
    ] {
        assert_eq!(verdicts[name][0], "fails", "{said}");
        assert!(verdicts[name][2].starts_with(error), "{name}: {said}");
    }
    assert_eq!(fs::read_dir(directory.path()).expect("there").count(), 2, "nothing was left beside the data");
}

/// The same attempts without a sandbox, so that the ones above fail for its sake.
#[test]
fn without_a_sandbox_the_file_elsewhere_can_be_read() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let outside = directory.path().join("elsewhere");
    fs::write(&outside, "x").expect("written");
    let ground =
        sluice_tuning::sandbox::Ground { writable: directory.path().to_owned(), outside: outside.clone() };
    for name in [
        "read a file elsewhere",
        "write beside the allowed",
        "list the root directory",
        "make memory executable",
        "signal another process",
        "write, rename and remove a file",
        "resolve a name",
        "name the functions of a backtrace",
    ] {
        let probe = sluice_tuning::sandbox::Probe::named(name).expect("a probe");
        probe.attempt(&ground).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[tokio::test]
async fn every_thread_of_a_gateway_is_confined_and_one_line_says_so() {
    if is_skipped() {
        return;
    }
    let (sim, directory) = (Sim::start(&[]), tempfile::tempdir().expect("a temporary directory"));
    let log = directory.path().join("log");
    let gateway = Gateway::start_with(&sim, &directory.path().join("data"), &OPTIONS, &[], |command| {
        command.stderr(File::create(&log).expect("a file"));
    });
    answers(&gateway).await;
    let threads = threads(gateway.pid());
    for expected in ["sluice ", "sluice-egress", "core-0", "core-1", "commit", "storage"] {
        assert!(
            threads.keys().any(|name| name.starts_with(expected)),
            "{expected} is not in {:?}",
            threads.keys()
        );
    }
    // What kills, what is not there, what the start may, what service may; above what a container may have put on us as well.
    let filters = 4 + own_status()["Seccomp_filters"].parse::<u32>().expect("a number");
    for (thread, fields) in &threads {
        assert_eq!((&*fields["NoNewPrivs"], &*fields["Seccomp"]), ("1", "2"), "{thread}");
        assert_eq!(fields["Seccomp_filters"], filters.to_string(), "{thread}");
        for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&fields[set], 16), Ok(0), "{thread}: {set}");
        }
    }
    gateway.stop();
    let log = fs::read_to_string(&log).expect("a log");
    let lines: Vec<_> = log.lines().filter(|line| line.contains("sandbox in force")).collect();
    let [line] = lines[..] else { panic!("not one line about the sandbox: {log}") };
    for part in ["INFO", "paths, ABI", "allowed", "capabilities"] {
        assert!(line.contains(part), "{part:?} is not in: {line}");
    }
}

#[tokio::test]
async fn upstreams_are_found_by_name() {
    if is_skipped() {
        return;
    }
    let (mut sim, directory) = (Sim::start(&[]), tempfile::tempdir().expect("a temporary directory"));
    sim.url = sim.url.replace("127.0.0.1", "localhost");
    let gateway = Gateway::start(&sim, directory.path(), &OPTIONS);
    answers(&gateway).await;
    gateway.stop();
}

#[tokio::test]
async fn a_sandbox_that_is_off_gives_up_nothing() {
    let (sim, directory) = (Sim::start(&[]), tempfile::tempdir().expect("a temporary directory"));
    let options = [&OPTIONS[..], &["server.sandbox=off"]].concat();
    let gateway = Gateway::start(&sim, directory.path(), &options);
    let own = own_status();
    for (thread, fields) in threads(gateway.pid()) {
        for field in ["NoNewPrivs", "Seccomp", "CapEff"] {
            assert_eq!(fields[field], own[field], "{thread}: {field}");
        }
    }
    gateway.stop();
}

fn forbid_landlock(command: &mut Command) {
    forbid::calls(command, libc::SYS_landlock_create_ruleset, libc::ENOSYS);
}

#[tokio::test]
async fn where_the_host_lacks_a_layer_auto_serves_with_a_warning() {
    let (sim, directory) = (Sim::start(&[]), tempfile::tempdir().expect("a temporary directory"));
    let log = directory.path().join("log");
    let options = [&OPTIONS[..], &["server.sandbox=auto"]].concat();
    let gateway = Gateway::start_with(&sim, &directory.path().join("data"), &options, &[], |command| {
        forbid_landlock(command.stderr(File::create(&log).expect("a file")));
    });
    answers(&gateway).await;
    gateway.stop();
    let log = fs::read_to_string(&log).expect("a log");
    let line = log.lines().find(|line| line.contains("sandbox in force in part")).unwrap_or_default();
    for part in ["WARN", "missing (this kernel does not have it)"] {
        assert!(line.contains(part), "{part:?} is not in: {log}");
    }
}

#[test]
fn who_requires_the_sandbox_gets_no_start_without_all_of_it() {
    let (sim, directory) = (Sim::start(&[]), tempfile::tempdir().expect("a temporary directory"));
    let options = [&OPTIONS[..], &["server.sandbox=require"]].concat();
    let mut command = Gateway::command(&sim, directory.path(), &options);
    forbid_landlock(command.arg("serve"));
    let output = command.output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["server.sandbox", "landlock is missing", "does not have it", "\"auto\""] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert!(!directory.path().join("SLUICE").exists(), "it stopped before it made anything");
}

//! A disk that takes no more: nothing is acknowledged that is not on it, and a restart finds all that was.
//!
//! The limit on file sizes (`RLIMIT_FSIZE`) makes every write of the running gateway to a file fail with EFBIG, as a full or
//! broken disk would with another code; the signal that goes with it is ignored from the start.

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use common::asker::{Asker, text};
use common::scene::{Effects, SHARDS};
use common::{Gateway, SLUICE, Sim};
use serde_json::{Value, json};

const MAIL: &str = "send an email to ben@x.example with subject MARK and body See you at noon!";

fn mail(mark: &str) -> Value {
    json!({"command": MAIL.replace("MARK", mark), "mode": "async"})
}

/// The same command by way of a shell that has the gateway ignore SIGXFSZ; its log goes to `log`, if there is one.
fn ignore_the_signal(command: &mut Command, log: Option<&Path>) {
    let mut wrapped = Command::new("sh");
    wrapped.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", SLUICE]).args(command.get_args());
    for (name, value) in command.get_envs() {
        wrapped.env(name, value.expect("nothing is taken out of the environment"));
    }
    if let Some(log) = log {
        wrapped.stderr(File::create(log).expect("a log"));
    }
    *command = wrapped;
}

/// From now on no file of the gateway's can be written, or all can.
fn set_writable(gateway: &Gateway, is_writable: bool) {
    let limit = if is_writable { "unlimited" } else { "0" };
    let pid = gateway.pid().to_string();
    let status = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={limit}:")]).status();
    assert!(status.is_ok_and(|status| status.success()), "prlimit --pid {pid}");
}

#[tokio::test]
async fn nothing_is_promised_that_could_not_be_written_and_nothing_promised_is_lost() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    a_disk_that_takes_no_more(directory.path(), None).await;
}

/// The log is on the same disk: it is lost for a while, and that is all.
#[tokio::test]
async fn a_log_that_cannot_be_written_ends_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let logs = tempfile::tempdir().expect("a temporary directory");
    let log = logs.path().join("log");
    a_disk_that_takes_no_more(directory.path(), Some(&log)).await;
    let log = fs::read_to_string(&log).expect("a log");
    assert!(log.contains("store opened") && log.contains("a command was not stored"), "{log}");
}

async fn a_disk_that_takes_no_more(directory: &Path, log: Option<&Path>) {
    let sim = Sim::start(&[]);
    let shards = format!("server.shards={SHARDS}");
    let settings = ["server.cores=2", &shards];
    let gateway =
        Gateway::start_with(&sim, directory, &settings, &[], |command| ignore_the_signal(command, log));
    let ada = Asker::of(&gateway, &gateway.user("ada")).await;
    let kept = ada.queue(&mail("kept")).await["id"].clone();
    let done = ada.ended(&kept).await;
    assert_eq!(done["state"], "done");

    set_writable(&gateway, false);
    // Whether the first write took effect is not known: to send the command again might do it twice.
    let first = ada.ask("POST", "/command", &mail("doubtful")).await.problem(503, "storage");
    assert_eq!(first["retryable"], false, "{first:#}");
    // From then on nothing is written, and it says so.
    for path in ["/command", "/commands"] {
        let body = if path == "/command" { mail("refused") } else { json!({"commands": [mail("refused")]}) };
        let next = ada.ask("POST", path, &body).await;
        let problem = next.problem(503, "storage");
        assert_eq!(problem["retryable"], true, "{path}: {problem:#}");
        assert!(next.field("retry-after").is_some());
    }
    // What was promised can still be read.
    assert_eq!(ada.task(&kept).await, done);
    let page = gateway.page().await;
    assert_eq!(page.sum("sluice_commit_failures_total", &[]), 1);

    // A disk that has come back does not make the gateway believe it.
    set_writable(&gateway, true);
    ada.ask("POST", "/command", &mail("refused")).await.problem(503, "storage");

    let gateway = gateway.crash_and_restart();
    let ada = Asker::of(&gateway, &ada.key).await;
    assert_eq!(ada.task(&kept).await, done);
    let after = ada.queue(&mail("after")).await["id"].clone();
    assert_eq!(ada.ended(&after).await["state"], "done");
    let (_, record) = sim.effects("ada").await;
    let sent = |mark: &str| {
        let sends = record["sends"].as_array().expect("sends");
        sends.iter().filter(|send| text(&send["subject"]).eq_ignore_ascii_case(mark)).count()
    };
    assert_eq!((sent("kept"), sent("refused"), sent("after")), (1, 0, 1), "{record:#}");
    assert!(sent("doubtful") <= 1);
    let effects = sim.effects("ada").await.0;
    assert_eq!(effects, Effects { sends: 2 + sent("doubtful"), ..Effects::default() });
    gateway.stop();
}

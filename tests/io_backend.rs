//! Which I/O backend a gateway runs on: what is asked for, and epoll where io_uring is forbidden, as containers forbid
//! it: by a seccomp filter.

mod common;

use std::fs::{self, File};
use std::process::Command;

use common::scene::{Caller, guard};
use common::{Gateway, Sim, forbid};

/// Needs no call to Google.
const COMMAND: &str = "tell me a joke";
const OPTIONS: [&str; 2] = ["server.cores=2", "server.shards=16"];

fn forbid_to(command: &mut Command) {
    forbid::calls(command, libc::SYS_io_uring_setup, libc::EPERM);
}

async fn answers(gateway: &Gateway) {
    let key = gateway.user("anna");
    let caller = Caller::of(gateway).await;
    let answer = guard(caller.command(&key, COMMAND)).await;
    assert_eq!(answer["state"], "declined", "{answer}");
}

#[tokio::test]
async fn where_io_uring_is_forbidden_epoll_serves_and_one_line_says_so() {
    let (sim, directory) = (Sim::start(&[]), tempfile::tempdir().expect("a temporary directory"));
    let log = directory.path().join("log");
    let gateway =
        Gateway::start_with(&sim, &directory.path().join("data"), &OPTIONS, &["--io", "auto"], |command| {
            forbid_to(command.stderr(File::create(&log).expect("a file")));
        });
    assert_eq!(gateway.io, "epoll");
    answers(&gateway).await;
    gateway.stop();
    let log = fs::read_to_string(log).expect("a log");
    let lines: Vec<_> = log.lines().filter(|line| line.contains("io_uring")).collect();
    let [line] = lines[..] else { panic!("not one line about io_uring for both cores: {log}") };
    for part in ["WARN", "using epoll", "Operation not permitted", "seccomp"] {
        assert!(line.contains(part), "{part:?} is not in: {line}");
    }
}

#[tokio::test]
async fn epoll_serves_when_it_is_asked_for_and_nothing_is_said_of_io_uring() {
    let (sim, directory) = (Sim::start(&[]), tempfile::tempdir().expect("a temporary directory"));
    let log = directory.path().join("log");
    let gateway =
        Gateway::start_with(&sim, &directory.path().join("data"), &OPTIONS, &["--io", "epoll"], |command| {
            command.stderr(File::create(&log).expect("a file"));
        });
    assert_eq!(gateway.io, "epoll");
    answers(&gateway).await;
    gateway.stop();
    let log = fs::read_to_string(log).expect("a log");
    assert!(!log.contains("io_uring"), "{log}");
}

#[test]
fn who_insists_on_io_uring_gets_no_start_without_it() {
    let (sim, directory) = (Sim::start(&[]), tempfile::tempdir().expect("a temporary directory"));
    let mut command = Gateway::command(&sim, directory.path(), &OPTIONS);
    forbid_to(command.args(["serve", "--io", "uring"]));
    let output = command.output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("io_uring is not usable here (Operation not permitted"), "{said}");
}

#[test]
fn a_backend_that_does_not_exist_is_refused_with_those_that_do() {
    let (sim, directory) = (Sim::start(&[]), tempfile::tempdir().expect("a temporary directory"));
    let mut command = Gateway::command(&sim, directory.path(), &OPTIONS);
    let output = command.args(["serve", "--io", "kqueue"]).output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["server.io", "kqueue", "uring", "epoll", "auto"] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

//! Which I/O backend a gateway runs on: what is asked for, and epoll where io_uring is forbidden, as containers forbid
//! it: by a seccomp filter.

mod common;

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use common::scene::{Caller, guard};
use common::{Gateway, Sim};

/// Needs no call to Google.
const COMMAND: &str = "tell me a joke";
const OPTIONS: [&str; 2] = ["server.cores=2", "server.shards=16"];

/// What the process and its threads get from `io_uring_setup` from now on: EPERM.
#[allow(clippy::cast_possible_truncation, reason = "codes of BPF have one byte, numbers of system calls two")]
fn forbid_io_uring() -> io::Result<()> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const SETUP: u32 = libc::SYS_io_uring_setup as u32;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        // The number of the system call is the first word of what a filter sees.
        step(LOAD, 0, 0, 0),
        step(JUMP_IF_EQUAL, 0, 1, SETUP),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned()),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the program, which lives here meanwhile.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) != 0
    };
    if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn forbid_to(command: &mut Command) {
    // SAFETY: between fork and exec it makes two system calls and allocates nothing.
    unsafe { command.pre_exec(forbid_io_uring) };
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

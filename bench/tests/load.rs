//! The harness against a real server in a process of its own, over each protocol.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use clap::Parser;
use sluice_bench::load::result::LoadResult;
use sluice_bench::load::{LoadOptions, measure};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sluice-bench");
const PROTOCOLS: [(&str, &str); 3] = [("3", "h3"), ("2", "h2"), ("1.1", "h1")];

/// The harness's own small server; ended when dropped.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(http: &str) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["serve-load", "--http", http])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it was asked for");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
        Self { child, url: format!("https://{}", line.trim()) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: LoadOptions,
}

fn run(server: &Server, http: &str, line: &str) -> LoadResult {
    let line = format!(
        "x --quiet --warm-up 100ms --url {} --http {http} --pid {} {line}",
        server.url,
        server.child.id()
    );
    let options = Cli::try_parse_from(line.split_whitespace()).expect("the options are known").options;
    let result = measure(options).expect("the run succeeds");
    let totals = &result.totals;
    assert_eq!(
        totals.intended,
        totals.completed + totals.errors + totals.dropped,
        "none is lost: {totals:?}"
    );
    assert_eq!(result.latency.corrected.count, totals.completed);
    result
}

#[test]
fn an_open_loop_starts_what_the_clock_says_and_loses_nothing() {
    for (http, name) in PROTOCOLS {
        let server = Server::start(http);
        let result = run(&server, http, "--path / --rate 400 --duration 1 --clients 8 --cores 2");
        assert_eq!(result.run.protocol, name);
        assert_eq!(result.totals.intended, 400);
        assert_eq!((result.totals.errors, result.totals.dropped), (0, 0), "{name}: {:?}", result.totals);
        assert_eq!(result.scenarios[0].statuses, [(200, 400)].into());
        assert!(result.cpu.server_us_per_request.is_some() && result.memory.is_some());
        let uncorrected = &result.latency.uncorrected;
        assert!(result.latency.corrected.max_us >= uncorrected.max_us, "what is corrected is never less");
    }
}

#[test]
fn a_closed_loop_keeps_the_server_busy() {
    for (http, name) in PROTOCOLS {
        let server = Server::start(http);
        let result = run(&server, http, "--path / --duration 500ms --clients 4 --streams 4");
        assert!(result.totals.completed > 50, "{name}: {:?}", result.totals);
        assert_eq!(result.totals.errors, 0, "{name}: {:?}", result.totals);
    }
}

#[test]
fn connections_come_as_often_as_asked() {
    for (http, name) in PROTOCOLS {
        let server = Server::start(http);
        let shares = "--new-connection-share 0.5 --resumption-share 0.5";
        let line = format!("--path / --rate 200 --duration 1 --clients 4 {shares}");
        let result = run(&server, http, &line);
        assert_eq!(result.totals.errors, 0, "{name}: {:?}", result.totals);
        assert!((60..140).contains(&result.totals.connections), "{name}: {}", result.totals.connections);
        let resumed = result.handshakes.iter().find(|row| row.kind == "resumed");
        assert!(resumed.is_some_and(|row| row.count > 20), "{name}: {:?}", result.handshakes);
    }
}

#[test]
fn unexpected_answers_are_errors() {
    for (http, _) in PROTOCOLS {
        let server = Server::start(http);
        let result = run(&server, http, "--path / --expect 404 --rate 100 --duration 500ms --clients 1");
        assert_eq!((result.totals.completed, result.totals.errors), (0, 50));
        assert!(result.totals.first_error.is_some_and(|error| error.contains("status 200")));
    }
}

#[test]
fn a_server_that_goes_away_fails_every_request_and_ends_the_run() {
    for (http, name) in PROTOCOLS {
        let mut server = Server::start(http);
        let url = server.url.clone();
        let ended = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(600));
            server.child.kill().expect("it was running");
            server.child.wait().expect("it was started");
        });
        let line = format!(
            "x --quiet --warm-up 0 --timeout 500ms --url {url} --http {http} --path / --rate 100 --duration 1 --clients 2"
        );
        let options = Cli::try_parse_from(line.split_whitespace()).expect("the options are known").options;
        let totals = measure(options).expect("the run ends").totals;
        ended.join().expect("the server was ended");
        assert_eq!(totals.intended, 100, "{name}");
        assert!(totals.errors > 0, "{name}: {totals:?}");
        assert_eq!(totals.completed + totals.errors + totals.dropped, 100, "{name}: {totals:?}");
    }
}

#[test]
fn one_command_tries_it_and_thresholds_set_the_exit_status() {
    let run = |condition: &str| {
        Command::new(PROGRAM)
            .args(["load", "--self", "--quiet", "--warm-up", "0", "--duration", "300ms", "--rate", "100"])
            .args(["--threshold", condition])
            .output()
            .expect("the program runs")
    };
    let good = run("errors<=0");
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    assert!(!good.stdout.is_empty());
    let bad = run("rate>1000000");
    assert!(!bad.status.success());
    assert!(String::from_utf8_lossy(&bad.stderr).contains("rate>1000000"), "the condition is named");
}

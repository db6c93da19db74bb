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
        Self::start_with(http, &[])
    }

    fn start_with(http: &str, more: &[&str]) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["serve-load", "--http", http])
            .args(more)
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
fn requests_go_as_early_data_where_the_server_takes_them() {
    let line = "--path / --rate 200 --duration 1 --clients 4 --new-connection-share 0.5 --early-data-share 1";
    let early = |result: &LoadResult| {
        assert_eq!(result.totals.errors, 0, "{:?}", result.totals);
        let count =
            |kind: &str| result.handshakes.iter().find(|row| row.kind == kind).map_or(0, |row| row.count);
        (count("0-rtt"), result.handshakes.iter().map(|row| row.fallbacks).sum::<u64>())
    };
    let (taken, _) = early(&run(&Server::start_with("3", &["--early-data"]), "3", line));
    assert!(taken > 20, "{taken} were taken");
    let (taken, _) = early(&run(&Server::start("3"), "3", line));
    assert_eq!(taken, 0, "a server that takes none");
}

/// What each profile is made of, over real connections; how fast anything was is not judged.
#[test]
fn rates_that_change_start_what_they_call_for() {
    let server = Server::start("3");
    let intended = |profile: &str| {
        let result = run(&server, "3", &format!("--path / --clients 2 --profile {profile}"));
        assert_eq!(result.run.profile, profile.split(' ').next().unwrap());
        assert_eq!(result.totals.errors, 0, "{profile}: {:?}", result.totals);
        (result.totals.intended, result)
    };
    let (ramp, _) = intended("ramp --ramp 100..300 --duration 500ms");
    assert!((98..=102).contains(&ramp), "{ramp}");
    // A sixth of the time at five times the rate.
    let (spike, _) = intended("spike --rate 120 --duration 600ms");
    assert!((118..=122).contains(&spike), "{spike}");
    let (soak, result) = intended("soak --rate 100 --duration 2");
    assert_eq!((soak, result.seconds.len()), (200, 2));
    let memory = result.memory.expect("the server's process is known");
    assert!(memory.rss_bytes.len() >= 3 && memory.rss_bytes.iter().all(|(_, bytes)| *bytes > 0));
    assert!(memory.slope_ci95_bytes_per_min.is_some());
    let (steps, result) = intended("steps --ramp 100..300 --steps 3 --duration 600ms");
    assert_eq!(steps, 120);
    assert_eq!(result.steps.iter().map(|step| step.rate_per_s).collect::<Vec<_>>(), [100.0, 200.0, 300.0]);
    assert!(result.steps.iter().all(|step| step.lost == 0 && step.p50_us > 0.0), "{:?}", result.steps);
}

#[test]
fn the_most_is_looked_for_and_its_shares_are_measured() {
    let server = Server::start("3");
    let result = run(&server, "3", "--path / --profile levels --duration 300ms --clients 2 --streams 4");
    let percents: Vec<f64> = result.levels.iter().map(|level| level.percent).collect();
    assert_eq!((result.run.mode.as_str(), percents), ("closed", vec![20.0, 50.0, 80.0]));
    assert!(result.levels.iter().all(|level| level.latency.count > 0), "{:?}", result.levels);
    let result = run(&server, "3", "--path / --profile frontier --rate 20000 --duration 200ms --clients 4");
    let limits: Vec<f64> = result.frontier.iter().map(|point| point.p99_limit_ms).collect();
    assert_eq!(limits, [1.0, 5.0, 10.0, 50.0]);
    assert!(result.steps.is_sorted_by(|a, b| a.rate_per_s <= b.rate_per_s), "{:?}", result.steps);
    for point in &result.frontier {
        assert_eq!(point.requests_per_s.is_some(), point.p99_us.is_some());
        assert!(point.p99_us.is_none_or(|p99_us| p99_us <= point.p99_limit_ms * 1e3), "{point:?}");
    }
    // A wider limit allows no less.
    let most = |point: &sluice_bench::load::result::FrontierPoint| point.requests_per_s.unwrap_or(0.0);
    assert!(result.frontier.is_sorted_by(|a, b| most(a) <= most(b)), "{:?}", result.frontier);
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

/// A whole run from the command line: it says how it goes, and what it leaves is one and the same result.
#[test]
fn a_run_tells_how_it_goes_and_leaves_what_its_options_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str| directory.path().join(name).display().to_string();
    let command =
        |arguments: &[&str]| Command::new(PROGRAM).args(arguments).output().expect("the program runs");
    let (json, hgrm, html) = (file("a.json"), file("a.hgrm"), file("a.html"));
    let run = ["load", "--self", "--warm-up", "0", "--duration", "1", "--rate", "50"];
    let outputs = ["--json", &*json, "--hgrm", &*hgrm, "--html", &*html];
    let output = command(&[&run[..], &outputs].concat());
    let progress = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{progress}");
    let of_the_second = |line: &&str| line.contains(" 1/1 s ") && line.contains(" 0 errors  0 dropped");
    assert_eq!(progress.lines().filter(of_the_second).count(), 1, "{progress}");

    let read = |name: &str| std::fs::read_to_string(name).expect("it was written");
    let result = LoadResult::from_json(&read(&json)).expect("a result");
    assert_eq!((result.totals.intended, result.totals.completed), (50, 50));
    assert_eq!(result.run.command[1..9], run);
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("50 requests"), "{table}");
    // Whichever it was on this machine, the table says so exactly when the result does.
    assert_eq!(table.contains("CLIENT WAS THE LIMIT"), result.client_limited.limited, "{table}");
    assert_eq!(result.client_limited.limited, !result.client_limited.evidence.is_empty());
    assert!(read(&hgrm).contains("#[Mean"));
    let page = read(&html);
    assert!(page.contains("<svg") && page.trim_end().ends_with("</html>"));

    let again = file("b.html");
    let shown = command(&["load-show", &json, "--html", &again]);
    assert!(shown.status.success() && shown.stdout == output.stdout);
    assert_eq!(read(&again), page);
    let gates = |gate: &str| command(&["load-diff", &json, &json, "--gate", gate]).status.code();
    assert_eq!((gates("p99:+0%"), gates("colour:+1")), (Some(0), Some(2)));
    let quiet = command(&[&run[..], &["--quiet"]].concat());
    assert!(quiet.status.success() && !String::from_utf8_lossy(&quiet.stderr).contains("/1 s"));
}

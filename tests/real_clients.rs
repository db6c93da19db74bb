//! Clients that people use, each with a QUIC stack of its own: niquests (qh3), curl (ngtcp2) and Chromium. Each must
//! say itself that what it spoke was HTTP/3: when it is told to, and when nobody tells it and it finds out by `Alt-Svc`.

mod common;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::metrics::Metrics;
use common::python;
use common::scene::{Scene, assert_problem};
use serde_json::{Value, json};

/// Requests each client sends at least: four alone and twenty at once.
const REQUESTS: u64 = 24;

/// Answers over HTTP/3 after which a client has moved there (`MOVED_COUNT` of the clients).
const MOVED_REQUESTS: u64 = 6;

/// Runs a client of tests/python that is told where HTTP/3 is, against a gateway of its own.
fn report(program: &str, interpreter: PathBuf) -> Value {
    let scene = Scene::start(2, &[]);
    let report = run(&scene, program, interpreter, &[]);
    // What the ingress counts came by HTTP/3.
    let served = page(&scene).sum("sluice_ingress_responses_total", &[]);
    assert!(served >= REQUESTS, "the gateway answered {served} requests over HTTP/3");
    report
}

/// Runs one that is told nothing. It must come over HTTP/2 at first, and over HTTP/3 in the end.
fn report_moving(program: &str, interpreter: PathBuf) -> Value {
    let scene = Scene::start(2, &[]);
    let report = run(&scene, program, interpreter, &["--move"]);
    let answers = report["answers"].as_array().expect("a list");
    // A browser's first answer is the page, from which it asks for the rest.
    let page_protocol = report["page_protocols"].as_array().map(|protocols| protocols[0].as_str());
    let of_answers = answers.iter().map(|answer| answer["protocol"].as_str());
    let protocols: Vec<_> = page_protocol.into_iter().chain(of_answers).collect();
    let over = |version| protocols.iter().filter(|protocol| **protocol == Some(version)).count() as u64;
    assert_eq!((protocols[0], protocols[protocols.len() - 1]), (Some("h2"), Some("h3")), "{protocols:?}");
    assert_eq!(over("h2") + over("h3"), protocols.len() as u64, "{protocols:?}");
    assert_eq!(over("h3"), MOVED_REQUESTS, "{protocols:?}");
    let alternative = format!("h3=\":{}\"; ma=86400", scene.gateway.address.port());
    for answer in answers {
        assert_eq!((&answer["status"], &answer["body"]), (&json!(200), &json!({"status": "ok"})));
        let told = answer["fields"]["alt-svc"].as_str();
        assert!(answer["protocol"] == "h3" || told == Some(&*alternative), "{answer:#}");
    }
    // The gateway saw it likewise.
    let page = page(&scene);
    let (over_tcp, over_quic) = (
        page.sum("sluice_tcp_requests_total", &[("protocol", "h2")]),
        page.sum("sluice_ingress_responses_total", &[]),
    );
    assert!(over_tcp >= over("h2"), "the gateway answered {over_tcp} requests over HTTP/2");
    assert!(over_quic >= MOVED_REQUESTS, "the gateway answered {over_quic} requests over HTTP/3");
    report
}

fn page(scene: &Scene) -> Metrics {
    tokio::runtime::Runtime::new().expect("a runtime").block_on(scene.gateway.page())
}

fn run(scene: &Scene, program: &str, interpreter: PathBuf, more: &[&str]) -> Value {
    let key = scene.gateway.user("ada");
    let certificate = scene.gateway.ca().with_file_name("server.pem");
    let mut command = Command::new(interpreter);
    command.arg(python::program(program));
    command.args(["--port", &scene.gateway.address.port().to_string(), "--key", &key]);
    command.arg("--ca").arg(scene.gateway.ca()).arg("--certificate").arg(certificate).args(more);
    let output = command.stdin(Stdio::null()).output().expect("the interpreter runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("a report")
}

/// What every client must have got.
fn assert_served(report: &Value) {
    assert_eq!((&report["get"]["status"], &report["get"]["body"]), (&json!(200), &json!({"status": "ok"})));
    for name in ["command", "large"] {
        let answer = &report[name];
        assert_eq!(
            (&answer["status"], &answer["body"]["state"]),
            (&json!(200), &json!("done")),
            "{answer:#}"
        );
        assert!(
            answer["body"]["answer"].as_str().is_some_and(|text| text.contains("Q4 budget")),
            "{answer:#}"
        );
    }
    let parallel = report["parallel"].as_array().expect("a list");
    assert_eq!(parallel.len(), 20);
    for answer in parallel {
        match answer["path"].as_str().expect("a path") {
            "/livez" | "/readyz" => assert_eq!(answer["body"]["status"], "ok", "{answer:#}"),
            // A path, and a session, that do not exist.
            _ => assert_problem(&answer["body"], 404, "not-found"),
        }
    }
    assert_problem(&report["too_large"]["body"], 413, "payload-too-large");
    assert_eq!(report["no_key"]["status"], 401);
    assert_eq!(report["no_key"]["fields"]["content-type"], "application/problem+json");
    assert_problem(&report["no_key"]["body"], 401, "unauthorized");
}

/// Each answer by itself came over HTTP/3.
fn assert_each_over_http3(report: &Value) {
    let alone = ["get", "command", "large", "too_large", "no_key"].map(|name| &report[name]);
    let parallel = report["parallel"].as_array().expect("a list");
    for answer in alone.into_iter().chain(parallel) {
        assert_eq!(answer["protocol"], "h3", "{answer:#}");
    }
}

#[test]
fn niquests_is_served_over_http3() {
    let Some(interpreter) = python::interpreter("niquests") else { return };
    let report = report("niquests_client", interpreter);
    assert_served(&report);
    assert_each_over_http3(&report);
}

#[test]
fn curl_is_served_over_http3() {
    let Some(interpreter) = python::interpreter("curl_cffi") else { return };
    let report = report("curl_client", interpreter);
    assert_served(&report);
    assert_each_over_http3(&report);
}

#[test]
fn chromium_is_served_over_http3() {
    let (Some(interpreter), Some(_)) = (python::interpreter("cryptography"), python::chromium()) else {
        return;
    };
    let report = report("chromium_client", interpreter);
    assert_served(&report);
    // The page and all it fetched, as the page sees it and as the debugger does.
    for protocols in ["page_protocols", "network_protocols"] {
        let seen = report[protocols].as_array().expect("a list");
        assert!(seen.len() as u64 >= REQUESTS, "{protocols}: {seen:?}");
        assert!(seen.iter().all(|protocol| protocol == "h3"), "{protocols}: {seen:?}");
    }
}

#[test]
fn niquests_moves_to_http3_by_itself() {
    let Some(interpreter) = python::interpreter("niquests") else { return };
    report_moving("niquests_client", interpreter);
}

#[test]
fn curl_moves_to_http3_by_itself() {
    let Some(interpreter) = python::interpreter("curl_cffi") else { return };
    report_moving("curl_client", interpreter);
}

#[test]
fn chromium_moves_to_http3_by_itself() {
    let (Some(interpreter), Some(_)) = (python::interpreter("cryptography"), python::chromium()) else {
        return;
    };
    let report = report_moving("chromium_client", interpreter);
    // What each answer came by is told by the debugger; the page sees the last one likewise.
    let seen = report["page_protocols"].as_array().expect("a list");
    assert_eq!(seen.last(), Some(&json!("h3")), "{seen:?}");
}

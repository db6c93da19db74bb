//! A client in another language, on a QUIC and HTTP/3 stack that has nothing in common with ours: aioquic.

mod common;

use std::process::{Command, Stdio};

use common::python;
use common::scene::{Scene, assert_problem};
use serde_json::{Value, json};

/// Runs the client and gives its report; `None` when it was skipped.
fn report() -> Option<Value> {
    let python = python::interpreter("aioquic")?;
    let scene = Scene::start(2, &[]);
    let key = scene.gateway.user("ada");
    // An authority of the same kind that knows nothing of this gateway.
    let stranger = Scene::start(1, &[]);
    let mut command = Command::new(python);
    command.arg(python::program("client")).args([
        "--host",
        "127.0.0.1",
        "--port",
        &scene.gateway.address.port().to_string(),
    ]);
    command
        .arg("--ca")
        .arg(scene.gateway.ca())
        .arg("--wrong-ca")
        .arg(stranger.gateway.ca())
        .args(["--key", &key]);
    let output = command.stdin(Stdio::null()).output().expect("the interpreter runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let state = tokio::runtime::Runtime::new().expect("a runtime").block_on(scene.sim.effects("ada"));
    assert_eq!(state.0.sends, 1, "{:#}", state.1);
    Some(serde_json::from_slice(&output.stdout).expect("a report"))
}

#[test]
fn a_python_client_is_served() {
    let Some(report) = report() else { return };

    let command = &report["command"];
    assert_eq!((&command["status"], &command["body"]["state"]), (&json!(200), &json!("done")), "{command:#}");
    assert!(command["body"]["answer"].as_str().is_some_and(|answer| answer.contains("Q4 budget")));
    assert!(command["fields"]["server-timing"].is_string() && command["fields"]["x-request-id"].is_string());

    let accepted = &report["accepted"];
    assert_eq!((&accepted["status"], &accepted["body"]["state"]), (&json!(202), &json!("queued")));
    assert_eq!(accepted["fields"]["location"], accepted["body"]["location"]);
    let polled = &report["polled"];
    assert_eq!((&polled["status"], &polled["body"]["state"]), (&json!(200), &json!("done")), "{polled:#}");
    assert_eq!(polled["body"]["id"], accepted["body"]["id"]);
    assert_eq!(polled["fields"]["preference-applied"], "wait=30");

    assert_eq!(
        (&report["big_header"]["status"], &report["big_header"]["body"]["status"]),
        (&json!(200), &json!("ok"))
    );
    let too_big = &report["too_big_header"];
    assert_eq!(
        (&too_big["status"], &too_big["fields"]["content-type"]),
        (&json!(431), &json!("application/problem+json"))
    );
    assert_problem(&too_big["body"], 431, "headers-too-large");

    let parallel = report["parallel"].as_array().expect("a list");
    assert_eq!(parallel.len(), 20);
    for answer in parallel {
        match answer["path"].as_str().expect("a path") {
            "/nowhere" => assert_problem(&answer["body"], 404, "not-found"),
            "/livez" | "/readyz" => assert_eq!(answer["body"]["status"], "ok", "{answer:#}"),
            _ => assert_eq!(answer["body"], command["body"], "{answer:#}"),
        }
    }

    let options = &report["options"];
    assert_eq!((&options["status"], &options["fields"]["allow"]), (&json!(204), &json!("POST, OPTIONS")));
    assert_problem(&report["no_key"]["body"], 401, "unauthorized");
    let refused = report["wrong_authority"].as_str().expect("no connection");
    assert!(refused.contains("ConnectionError"), "{refused}");
}

//! From start to stop through the real binary: what is refused and in which words, administration with and without
//! a running gateway, an orderly end, and what a restart finds again.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::front::Front;
use common::h3::Client;
use common::metrics::Metrics;
use common::scene::{Caller, Effects, Scene, guard};
use common::{Gateway, MASTER_KEYS, SLUICE};
use serde_json::{Value, json};
use tempfile::TempDir;

const SEARCH_MAIL: &str = "Find the mail from Anna about the budget";

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// The binary with nothing set but this, and a master key.
fn sluice(environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(SLUICE);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SLUICE_") {
            command.env_remove(name);
        }
    }
    command.env("SLUICE_VAULT__KEYS", MASTER_KEYS);
    command.envs(environment.iter().copied()).args(arguments).output().expect("the binary runs")
}

/// What the binary said on refusing.
fn refused(environment: &[(&str, &str)], arguments: &[&str]) -> String {
    let output = sluice(environment, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    said
}

/// Settings with which a gateway would start on this directory, but for what is added.
fn arguments<'a>(data: &'a str, added: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["--data-dir", data];
    let settings = [
        "listen.port=0",
        "listen.addresses=127.0.0.1",
        "admin.listen=127.0.0.1:0",
        "server.cores=2",
        "server.shards=16",
        "server.pin=false",
        "openai.api_key=sk-x",
        "google.client_id=x",
        "google.client_secret=x",
    ];
    for setting in settings.iter().chain(added) {
        all.extend(["--set", setting]);
    }
    all
}

/// What a start on this directory is refused with.
fn start_refused(data: &Path, added: &[&str]) -> String {
    let data = data.to_str().expect("UTF-8");
    refused(&[], &[&arguments(data, added)[..], &["serve"]].concat())
}

fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

// ---- configuration ----

#[test]
fn a_refused_configuration_names_file_key_and_what_is_allowed() {
    let directory = directory();
    let path = directory.path().join("sluice.toml");
    let file = path.to_str().expect("UTF-8");
    let cases: [(&str, &[&str]); 9] = [
        ("[listen]\nprot = 1\n", &["listen.prot: unknown key", "keys in [listen] are addresses, port"]),
        ("[listn]\nport = 1\n", &["listn: unknown section", "sections are server, listen"]),
        ("[listen]\nport = 70000\n", &["listen.port", "0 to 65535"]),
        ("[listen]\naddresses = ['nowhere']\n", &["listen.addresses", "IP addresses"]),
        ("[store]\ndurability = 'maybe'\n", &["store.durability", "fsync", "os"]),
        (
            "[limits]\nstreams_max = 5000\n",
            &["limits.streams_max: 5000 is out of bounds; allowed is 1 to 1024"],
        ),
        ("[server]\ncores = 8\nshards = 4\n", &["server.cores", "at most one core a shard"]),
        ("[tls]\ncertificate = 'a.pem'\n", &["tls.certificate: needs tls.key"]),
        ("[google]\ngmail_url = 'gmail'\n", &["google.gmail_url", "allowed is http:// or https://"]),
    ];
    for (text, parts) in cases {
        fs::write(&path, text).expect("writable");
        for command in [&["config", "check"][..], &["serve"], &["user", "list"]] {
            let said = refused(&[], &[&["--config", file][..], command].concat());
            assert_says(&said, &[&[file][..], parts].concat());
        }
    }
    fs::write(&path, "[openai]\napi_key = 'sk-secret\n").expect("writable");
    let said = refused(&[], &["--config", file, "config", "check"]);
    assert_says(&said, &[file, "line 2"]);
    assert!(!said.contains("sk-secret"), "{said}");
    let missing = directory.path().join("none.toml");
    let missing = missing.to_str().expect("UTF-8");
    assert_says(&refused(&[], &["--config", missing, "config", "check"]), &[missing]);
}

#[test]
fn a_refusal_names_variable_or_flag_when_it_came_from_there() {
    let said = refused(&[("SLUICE_LIMITS__STREAMS_MAX", "0")], &["config", "check"]);
    assert_says(&said, &["SLUICE_LIMITS__STREAMS_MAX: limits.streams_max", "allowed is 1 to 1024"]);
    let said = refused(&[("SLUICE_LISTEN__PROT", "1")], &["config", "check"]);
    assert_says(&said, &["SLUICE_LISTEN__PROT", "unknown key"]);
    let said = refused(&[], &["--set", "egress.threads=99", "config", "check"]);
    assert_says(&said, &["command line: egress.threads", "allowed is 1 to 32"]);
    // All that is wrong, not only the first.
    let both =
        refused(&[], &["--set", "egress.threads=99", "--set", "store.reader_threads=0", "config", "check"]);
    assert_says(&both, &["egress.threads", "store.reader_threads"]);
}

#[test]
fn the_printed_configuration_is_a_configuration_and_shows_no_secret() {
    let directory = directory();
    let path = directory.path().join("sluice.toml");
    let settings = ["--set", "openai.api_key=sk-secret", "--set", "listen.port=4455"];
    let output = sluice(&[("SLUICE_VAULT__KEYS", "")], &[&settings[..], &["config", "print"]].concat());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success() && text.contains("port = 4455") && !text.contains("sk-secret"), "{text}");
    fs::write(&path, &text).expect("writable");
    let again = sluice(&[], &["--config", path.to_str().expect("UTF-8"), "config", "check"]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
}

#[test]
fn a_start_without_credentials_names_each_that_is_missing() {
    let directory = directory();
    let data = directory.path().to_str().expect("UTF-8");
    let said = refused(&[], &["--data-dir", data, "--set", "listen.port=0", "serve"]);
    assert_says(&said, &["openai.api_key", "google.client_id", "google.client_secret"]);
}

// ---- data directory ----

#[tokio::test]
async fn a_directory_in_use_is_refused_and_its_user_named() {
    let scene = Scene::start(2, &[]);
    let said = scene.gateway.refused(&["serve"]);
    assert_says(&said, &[&format!("in use by process {}", scene.gateway.pid())]);
    assert_eq!(scene.caller().await.send("GET", "/livez", &[], "").await.status.as_u16(), 200);
}

#[test]
fn a_directory_of_another_shard_count_is_refused_and_both_are_named() {
    let scene = Scene::start(2, &[]);
    let Scene { gateway, directory, .. } = scene;
    gateway.stop();
    let said = start_refused(directory.path(), &["server.shards=8"]);
    assert_says(&said, &["16 shards", "8", "server.shards"]);
}

#[test]
fn a_directory_of_somebody_else_is_refused_and_left_as_it_was() {
    let directory = directory();
    fs::write(directory.path().join("letters.txt"), "Dear all").expect("writable");
    let said = start_refused(directory.path(), &[]);
    assert_says(&said, &[directory.path().to_str().expect("UTF-8"), "no Sluice data directory"]);
    let names: Vec<_> =
        fs::read_dir(directory.path()).expect("readable").map(|e| e.expect("readable").file_name()).collect();
    assert_eq!(names, ["letters.txt"]);
    let said = start_refused(&directory.path().join("letters.txt"), &[]);
    assert_says(&said, &["letters.txt", "not a directory"]);
}

#[test]
fn a_damaged_marker_is_refused_by_name() {
    let Scene { gateway, directory, .. } = Scene::start(2, &[]);
    gateway.stop();
    fs::write(directory.path().join("SLUICE"), "format = 99\n").expect("writable");
    assert_says(&start_refused(directory.path(), &[]), &["newer Sluice (format 99"]);
    fs::write(directory.path().join("SLUICE"), "format = 1\n").expect("writable");
    assert_says(&start_refused(directory.path(), &[]), &["SLUICE", "damaged", "shard_count"]);
}

// ---- addresses ----

/// Even though cores share a port, gateways do not: each would get some of the other's packets.
#[tokio::test]
async fn a_port_in_use_by_another_gateway_is_refused_and_its_clients_notice_nothing() {
    let scene = Scene::start(2, &[]);
    let caller = scene.caller().await;
    let port = format!("listen.port={}", scene.gateway.address.port());
    for cores in ["server.cores=1", "server.cores=4"] {
        let data = directory();
        let said = start_refused(data.path(), &[&port, "listen.core_port_base=60001", cores]);
        assert_says(&said, &["cannot listen on", &scene.gateway.address.to_string(), "another program"]);
        for caller in [&caller, &scene.caller().await] {
            assert_eq!(caller.send("GET", "/livez", &[], "").await.status.as_u16(), 200);
        }
    }
    let admin = scene.gateway.metrics.strip_prefix("http://").expect("a URL");
    let data = directory();
    let said = start_refused(data.path(), &[&format!("admin.listen={admin}")]);
    assert_says(&said, &["cannot listen on admin.listen", admin]);
}

// ---- users and keys ----

fn admin(data: &Path, command: &[&str]) -> String {
    let output = sluice(&[], &[&arguments(data.to_str().expect("UTF-8"), &[])[..], command].concat());
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

#[tokio::test]
async fn users_and_keys_made_without_a_gateway_are_there_when_it_runs() {
    let (sim, directory) = (common::Sim::start(&[]), directory());
    let data = directory.path();
    assert_eq!(admin(data, &["user", "list"]), "");
    let ada = admin(data, &["user", "add", "ada", "--email", "ada@example.com", "--time-zone", "Asia/Tokyo"]);
    assert_says(&ada, &["usr_", "ada", "ada@example.com", "Asia/Tokyo"]);
    admin(data, &["user", "connect", "ada", "--refresh-token", "sim-refresh-ada"]);
    let key = admin(data, &["key", "add", "ada"]);
    let gateway = Scene::gateway(&sim, data, 2, &[]);
    assert_eq!(gateway.admin(&["user", "list"]), ada);
    Caller::of(&gateway).await.done(&key, SEARCH_MAIL).await;
}

#[tokio::test]
async fn users_and_keys_made_beside_a_running_gateway_work_at_once_and_stay() {
    let scene = Scene::start(2, &[]);
    let caller = scene.caller().await;
    let keys = [scene.gateway.user("ada"), scene.gateway.admin(&["key", "add", "ada", "--label", "second"])];
    for key in &keys {
        caller.done(key, SEARCH_MAIL).await;
    }
    let socket = fs::metadata(scene.directory.path().join("admin.sock")).expect("the socket is there");
    assert_eq!(socket.permissions().mode() & 0o777, 0o600, "for the owner alone");
    let Scene { gateway, directory, .. } = scene;
    let listed = gateway.admin(&["user", "list"]);
    gateway.stop();
    assert!(!directory.path().join("admin.sock").exists(), "the socket is gone");
    assert_eq!(admin(directory.path(), &["user", "list"]), listed);
}

#[test]
fn what_cannot_be_administered_is_refused_the_same_with_and_without_a_gateway() {
    let scene = Scene::start(2, &[]);
    scene.gateway.admin(&["user", "add", "ada", "--email", "ada@example.com"]);
    let cases: [(&[&str], &str); 6] = [
        (&["user", "add", "ada", "--email", "other@example.com"], "already"),
        (&["user", "add", "bob", "--email", "nobody"], "e-mail address"),
        (
            &["user", "add", "bob", "--email", "bob@example.com", "--time-zone", "Mars/Olympus"],
            "Mars/Olympus",
        ),
        (&["user", "add", "", "--email", "bob@example.com"], "name"),
        (&["key", "add", "eve"], "no user called \"eve\""),
        (&["user", "connect", "eve", "--refresh-token", "x"], "no user called \"eve\""),
    ];
    let beside: Vec<String> = cases.iter().map(|(command, _)| scene.gateway.refused(command)).collect();
    let Scene { gateway, directory, .. } = scene;
    gateway.stop();
    let data = directory.path().to_str().expect("UTF-8");
    for ((command, part), beside) in cases.iter().zip(beside) {
        assert_says(&beside, &[part]);
        let alone = refused(&[], &[&arguments(data, &[])[..], command].concat());
        assert_eq!(last_line(&alone), last_line(&beside));
    }
}

fn last_line(said: &str) -> &str {
    said.trim().lines().last().unwrap_or_default()
}

// ---- certificates ----

#[test]
fn certificates_that_cannot_be_used_are_refused_by_file() {
    let (made, other) = (Scene::start(1, &[]), Scene::start(1, &[]));
    let tls = |scene: &Scene, name: &str| scene.directory.path().join("tls").join(name);
    let (certificate, key) = (tls(&made, "server.pem"), tls(&made, "server-key.pem"));
    let text = made.directory.path().join("text.pem");
    fs::write(&text, "no certificate at all").expect("writable");
    let missing = made.directory.path().join("missing.pem");
    for (certificate, key, named, why) in [
        (&missing, &key, &missing, "cannot access"),
        (&certificate, &missing, &missing, "cannot access"),
        (&text, &key, &text, "no certificate"),
        (&certificate, &text, &text, "no private key"),
        (&certificate, &tls(&other, "server-key.pem"), &certificate, "does not belong"),
    ] {
        let data = directory();
        let show = |path: &PathBuf| path.to_str().expect("UTF-8").to_owned();
        let settings = [format!("tls.certificate={}", show(certificate)), format!("tls.key={}", show(key))];
        let said = start_refused(data.path(), &[&settings[0], &settings[1]]);
        assert_says(&said, &[&show(named), why]);
    }
}

#[tokio::test]
async fn a_certificate_of_the_operators_own_is_used() {
    let made = Scene::start(1, &[]);
    let tls = made.directory.path().join("tls");
    let settings = ["certificate", "key"].map(|what| {
        let name = if what == "key" { "server-key.pem" } else { "server.pem" };
        format!("tls.{what}={}", tls.join(name).display())
    });
    let own = Scene::start(2, &[&settings[0], &settings[1]]);
    assert!(!own.gateway.ca().exists(), "no development authority is made beside it");
    let client = Client::trusting(&made.gateway.ca()).expect("a client");
    let http = guard(client.connect(own.gateway.address)).await.expect("a connection");
    assert_eq!(guard(http.get("/livez", "-")).await.expect("an answer").status.as_u16(), 200);
    // And a client that trusts somebody else is not taken in.
    let stranger = Scene::start(1, &[]);
    let client = Client::trusting(&stranger.gateway.ca()).expect("a client");
    assert!(guard(client.connect(own.gateway.address)).await.is_err());
}

// ---- the end, and after it ----

async fn stopped(gateway: Gateway) {
    tokio::task::spawn_blocking(move || gateway.stopped()).await.expect("no panic");
}

async fn restarted(gateway: Gateway) -> Gateway {
    tokio::task::spawn_blocking(move || gateway.stop_and_restart()).await.expect("no panic")
}

fn is_running(page: &Metrics) -> bool {
    page.sum("sluice_tasks_running", &[]) == 1
}

/// The core of two that owns the user of this key: the one whose answers do not hop.
async fn owner(gateway: &Gateway, key: &str) -> usize {
    let caller = Caller::at(gateway, gateway.core_address(0)).await;
    let reply = caller.get("/api/v1/tasks/tsk_00000000000000000000000000", key).await;
    usize::from(reply.field("alt-svc").is_some())
}

/// Waits until the gateway has heard that it is to stop.
async fn until_draining(gateway: &Gateway) {
    gateway.until("it winds up", |page| page.sum("sluice_core_ready", &[]) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_gateway_stops_with_success_though_clients_are_connected() {
    let scene = Scene::start(2, &[]);
    let caller = scene.caller().await;
    assert_eq!(caller.send("GET", "/livez", &[], "").await.status.as_u16(), 200);
    scene.gateway.ask_to_stop();
    stopped(scene.gateway).await;
    // The client was told, and did not have to wait for its own patience to end.
    let closed = guard(caller.http.quic.closed()).await;
    assert!(matches!(closed, quinn::ConnectionError::ApplicationClosed(_)), "{closed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_under_way_is_finished_before_the_end_and_new_ones_are_refused() {
    let scene = Scene::start(2, &[]);
    let key = scene.gateway.user("ada");
    // The core that carries the command out keeps its connection; the other has nothing to do and winds up.
    let owner = owner(&scene.gateway, &key).await;
    let caller = Caller::at(&scene.gateway, scene.gateway.core_address(owner)).await;
    let far = Caller::at(&scene.gateway, scene.gateway.core_address(1 - owner)).await;
    scene.sim.fault(json!({"service": "gmail", "kind": "hang", "count": 1})).await;
    let ending = async {
        scene.gateway.until("the command runs", is_running).await;
        scene.gateway.ask_to_stop();
        until_draining(&scene.gateway).await;
        let command = json!({"command": SEARCH_MAIL});
        for caller in [&caller, &far] {
            // Told by GOAWAY, a client takes its request elsewhere; a request that crossed with it is answered.
            while let Ok(late) = guard(caller.http.post("/api/v1/command", &key, &command)).await {
                assert_eq!(late.problem(503, "shutting-down")["retryable"], true);
            }
        }
        let refused = guard(caller.client.connect(scene.gateway.core_address(owner))).await;
        assert!(refused.is_err(), "a new connection is let in");
        assert_eq!(scene.gateway.admin_get("/readyz").await.0, 503);
        assert_eq!(scene.gateway.admin_get("/livez").await.0, 200);
        scene.sim.clear_faults().await;
    };
    let (task, ()) = tokio::join!(caller.done(&key, SEARCH_MAIL), ending);
    assert_eq!(task["steps"][0]["state"], "done");
    stopped(scene.gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_outlasts_the_grace_goes_on_after_the_restart() {
    let scene = Scene::start(2, &["server.shutdown_grace_ms=200"]);
    let Scene { gateway, sim, directory } = scene;
    let (waiting, queued) = (gateway.user("ada"), gateway.user("bob"));
    let caller = Caller::of(&gateway).await;
    sim.fault(json!({"service": "gmail", "kind": "hang"})).await;
    let text = "send an email to ben@x.example with subject Late and body Better late.";
    let path = caller.queue(&queued, text).await;
    let stopping = async {
        gateway.until("both run", |page| page.sum("sluice_tasks_running", &[]) == 2).await;
        restarted(gateway).await
    };
    // Whoever waits is told that the command is kept, and that sending it again would do it twice.
    let command = json!({ "command": text });
    let (told, gateway) = tokio::join!(caller.post(&waiting, &command), stopping);
    let problem = told.problem(503, "shutting-down");
    assert_eq!(problem["retryable"], false);
    let kept = told.field("location").expect("where to ask").to_owned();
    sim.clear_faults().await;
    let caller = Caller::of(&gateway).await;
    for (user, key, path) in [("ada", &waiting, kept), ("bob", &queued, path)] {
        let task = caller.finished(key, &path).await;
        assert_eq!(task["state"], "done", "{task:#}");
        let (effects, record) = sim.effects(user).await;
        assert_eq!(effects, Effects { sends: 1, ..Effects::default() }, "{record:#}");
    }
    let page = gateway.page().await;
    assert_eq!(page.sum("sluice_tasks_recovered_total", &[]), 2);
    drop((gateway, directory));
}

/// The operator who asks twice does not want to wait; what was promised is kept all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_the_gateway_at_once_and_loses_nothing() {
    let Scene { gateway, sim, directory } = Scene::start(2, &["server.shutdown_grace_ms=600000"]);
    let key = gateway.user("ada");
    let caller = Caller::of(&gateway).await;
    sim.fault(json!({"service": "gmail", "kind": "hang"})).await;
    let text = "send an email to ben@x.example with subject Late and body Better late.";
    let path = caller.queue(&key, text).await;
    gateway.until("the command runs", is_running).await;
    gateway.ask_to_stop();
    until_draining(&gateway).await;
    gateway.ask_to_stop();
    let code = tokio::task::spawn_blocking(move || gateway.exit_code()).await.expect("no panic");
    assert_eq!(code, Some(1));
    sim.clear_faults().await;
    let gateway = Scene::gateway(&sim, directory.path(), 2, &[]);
    let task = Caller::of(&gateway).await.finished(&key, &path).await;
    assert_eq!(task["state"], "done", "{task:#}");
    let (effects, record) = sim.effects("ada").await;
    assert_eq!(effects, Effects { sends: 1, ..Effects::default() }, "{record:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_finds_sessions_tasks_and_keys_again() {
    let Scene { gateway, sim, directory } = Scene::start(2, &[]);
    let key = gateway.user("ada");
    let caller = Caller::of(&gateway).await;
    let task = caller.done(&key, SEARCH_MAIL).await;
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let paths = [
        format!("/api/v1/tasks/{}", text(&task["id"])),
        format!("/api/v1/sessions/{}", text(&task["session"])),
    ];
    let before = [caller.get(&paths[0], &key).await.value(), caller.get(&paths[1], &key).await.value()];
    let gateway = restarted(gateway).await;
    let caller = Caller::of(&gateway).await;
    let after = [caller.get(&paths[0], &key).await.value(), caller.get(&paths[1], &key).await.value()];
    assert_eq!(after, before);
    // And what was said before the restart is still what "her" refers to.
    let reply = caller.done(&key, "reply to her saying thank you, that helps").await;
    assert_eq!(reply["session"], task["session"]);
    let (_, record) = sim.effects("ada").await;
    assert_eq!(record["sends"][0]["in_reply_to"], task["steps"][0]["items"][0]["message_id_header"]);
    drop((gateway, directory));
}

/// Its packets bear the ID of a connection that nobody has; what the next process answers must be what the one before
/// promised for that ID (RFC 9000 section 10.3).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_a_killed_gateway_learns_from_the_next_one_that_its_connection_is_gone() {
    let Scene { gateway, sim: _sim, directory: _directory } = Scene::start(2, &[]);
    let front = Front::start(gateway.address).await;
    let client = Client::trusting(&gateway.ca()).expect("a client");
    let http = guard(client.connect(front.address)).await.expect("a connection");
    assert_eq!(guard(http.get("/livez", "none")).await.expect("an answer").status.as_u16(), 200);
    let gateway = tokio::task::spawn_blocking(|| gateway.crash_and_restart()).await.expect("no panic");
    front.lead_to(gateway.address);
    let (answer, reason) =
        guard(async { tokio::join!(http.get("/livez", "none"), http.quic.closed()) }).await;
    assert_eq!(reason, quinn::ConnectionError::Reset);
    assert!(answer.is_err());
    let again = guard(client.connect(front.address)).await.expect("a connection");
    assert_eq!(guard(again.get("/livez", "none")).await.expect("an answer").status.as_u16(), 200);
}

/// As many cores as before or others: the same users, the same data.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_with_another_number_of_cores_serves_the_same_users() {
    let Scene { gateway, sim, directory } = Scene::start(4, &[]);
    let keys: Vec<String> = (0..6).map(|number| gateway.user(&format!("user{number}"))).collect();
    let caller = Caller::of(&gateway).await;
    let mut sessions = Vec::new();
    for key in &keys {
        let task = caller.done(key, SEARCH_MAIL).await;
        sessions.push(format!("/api/v1/sessions/{}", task["session"].as_str().expect("an id")));
    }
    gateway.ask_to_stop();
    stopped(gateway).await;
    let gateway = Scene::gateway(&sim, directory.path(), 3, &[]);
    let caller = Caller::of(&gateway).await;
    for (key, session) in keys.iter().zip(&sessions) {
        let view = caller.get(session, key).await.value();
        assert_eq!(view["turns"].as_array().map(Vec::len), Some(1), "{view:#}");
        caller.done(key, "reply to her saying thank you, that helps").await;
    }
}

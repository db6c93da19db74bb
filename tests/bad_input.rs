//! Whatever a client sends or an upstream answers: it gets its problem document or the right HTTP/3 error, the
//! process lives on, and so do the requests of everybody else. The last is checked after each case.

mod common;

use axum::Router;
use axum::http::StatusCode;
use bytes::Bytes;
use common::h3::Answer;
use common::raw::{CONTROL, DATA, End, HEADERS, Raw, SETTINGS, control, frame, head, headers, varint};
use common::scene::{Caller, Effects, Scene, assert_problem};
use common::{Gateway, Sim};
use serde_json::{Value, json};

const COMMAND_PATH: &str = "/api/v1/command";
const SEARCH_MAIL: &str = "Find the mail from Anna about the budget";
const SEARCH_FILES: &str = "find the file about the roadmap";

// RFC 9114 section 8.1, RFC 9204 section 6.
const STREAM_CREATION_ERROR: u64 = 0x103;
const FRAME_UNEXPECTED: u64 = 0x105;
const FRAME_ERROR: u64 = 0x106;
const MISSING_SETTINGS: u64 = 0x10a;
const REQUEST_INCOMPLETE: u64 = 0x10d;
const MESSAGE_ERROR: u64 = 0x10e;
const DECOMPRESSION_FAILED: u64 = 0x200;

/// A user who meets trouble, and one who does not.
struct Stage {
    scene: Scene,
    /// The connection on which trouble is made.
    caller: Caller,
    key: String,
    bystander: Caller,
    bystander_key: String,
}

impl Stage {
    async fn start() -> Self {
        Self::with(&[]).await
    }

    async fn with(options: &[&str]) -> Self {
        let scene = Scene::start(2, options);
        let (key, bystander_key) = (scene.gateway.user("ada"), scene.gateway.user("bob"));
        let (caller, bystander) = (scene.caller().await, scene.caller().await);
        Self { scene, caller, key, bystander, bystander_key }
    }

    /// The other user's requests go on, on the connection they had and on a new one, and the process is the same.
    async fn others_go_on(&mut self) {
        self.bystander.done(&self.bystander_key, SEARCH_FILES).await;
        let fresh = self.scene.caller().await;
        fresh.done(&self.bystander_key, SEARCH_FILES).await;
        assert!(self.scene.gateway.is_alive());
    }

    async fn post(&self, fields: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        self.caller.send("POST", COMMAND_PATH, fields, body).await
    }

    /// The fields of a good request and this body.
    async fn post_body(&self, body: impl Into<Bytes>) -> Answer {
        let bearer = format!("Bearer {}", self.key);
        self.post(&[("authorization", &bearer), ("content-type", "application/json")], body).await
    }

    async fn fault(&self, fault: Value) {
        self.scene.sim.fault(fault).await;
    }

    /// A command that must fail with this kind of problem, task and all; then all is well again.
    async fn fails(&mut self, command: &Value, status: u16, slug: &str) -> Value {
        let answer = self.caller.post(&self.key, command).await;
        let problem = answer.problem(status, slug);
        assert_eq!(problem["task"]["state"], "failed", "{problem:#}");
        assert_eq!(problem["task"]["error"]["type"], problem["type"]);
        // Asked for later, the task tells the same.
        let path = answer.field("location").expect("a location").to_owned();
        let task = self.caller.get(&path, &self.key).await.value();
        assert_eq!(task, problem["task"]);
        self.others_go_on().await;
        problem
    }
}

// ---- requests ----

#[tokio::test]
async fn bodies_that_are_not_json() {
    let mut stage = Stage::start().await;
    for body in ["", "{", "{\"command\": \"x\"", "command=x", "\u{feff}{}", "{\"command\": \"\\ud800\"}"] {
        let problem = stage.post_body(body.as_bytes().to_vec()).await.problem(400, "invalid-json");
        assert_eq!(problem["retryable"], false);
    }
    stage.post_body(&b"{\"command\": \"\xff\"}"[..]).await.problem(400, "invalid-json");
    // Deeper than any reader should follow.
    stage.post_body("[".repeat(60_000)).await.problem(400, "invalid-json");
    stage.others_go_on().await;
}

#[tokio::test]
async fn fields_that_are_wrong_are_each_named() {
    let mut stage = Stage::start().await;
    let body = json!({"command": " ", "mode": "later", "session": "ses_1", "time_zone": "../etc", "deadline_ms": 1,
        "colour": "red", "a/b~": 1});
    let problem = stage.post_body(body.to_string()).await.problem(422, "invalid-field");
    let pointers: Vec<&str> = problem["errors"]
        .as_array()
        .expect("errors")
        .iter()
        .map(|e| e["pointer"].as_str().expect("a text"))
        .collect();
    assert_eq!(
        pointers,
        ["/a~1b~0", "/colour", "/command", "/deadline_ms", "/mode", "/session", "/time_zone"]
    );
    for body in [
        json!([]),
        json!("x"),
        json!(null),
        json!({}),
        json!({"command": 1}),
        json!({"command": "x".repeat(2_001)}),
    ] {
        stage.post_body(body.to_string()).await.problem(422, "invalid-field");
    }
    stage.others_go_on().await;
}

#[tokio::test]
async fn content_types_other_than_json() {
    let mut stage = Stage::start().await;
    let bearer = format!("Bearer {}", stage.key);
    let body = json!({"command": SEARCH_FILES}).to_string();
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/json-seq", ""] {
        let fields = [("authorization", &*bearer), ("content-type", content_type)];
        stage.post(&fields, body.clone()).await.problem(415, "unsupported-media-type");
    }
    stage.post(&[("authorization", &bearer)], body).await.problem(415, "unsupported-media-type");
    stage.others_go_on().await;
}

#[tokio::test]
async fn bodies_that_are_too_large() {
    let mut stage = Stage::with(&["limits.body_bytes_max=4096"]).await;
    let body = json!({"command": "x".repeat(5_000)}).to_string();
    let bearer = format!("Bearer {}", stage.key);
    let length = body.len().to_string();
    let fields = [("authorization", &*bearer), ("content-type", "application/json")];
    // Known from its first byte, and found out only on the way.
    let announced = [&fields[..], &[("content-length", &length)]].concat();
    stage.post(&announced, body.clone()).await.problem(413, "payload-too-large");
    stage.post(&fields, body).await.problem(413, "payload-too-large");
    stage.post(&fields, vec![b' '; 1 << 20]).await.problem(413, "payload-too-large");
    // Routes that take no body take none.
    let reply = stage.caller.send("GET", "/livez", &[], "x").await;
    reply.problem(413, "payload-too-large");
    stage.others_go_on().await;
}

#[tokio::test]
async fn paths_that_lead_nowhere() {
    let mut stage = Stage::start().await;
    let long = format!("/{}", "x".repeat(8_000));
    for path in ["/", "/api", "/api/v1/", "/api/v2/command", "/api/v1/command/", "/api/v1/tasks/", &long] {
        stage.caller.get(path, &stage.key).await.problem(404, "not-found");
        stage.caller.send("POST", path, &[], "{}").await.problem(404, "not-found");
    }
    for path in [
        "/api/v1/tasks/1",
        "/api/v1/tasks/ses_00000000000000000000000000",
        "/api/v1/sessions/%00",
        "/api/v1/sessions/..",
    ] {
        stage.caller.get(path, &stage.key).await.problem(404, "not-found");
    }
    stage.others_go_on().await;
}

#[tokio::test]
async fn keys_that_are_missing_malformed_or_wrong() {
    let mut stage = Stage::start().await;
    let body = json!({"command": SEARCH_FILES}).to_string();
    let (user, secret) = (&stage.key[3..29], &stage.key[30..]);
    // Somebody else's name with one's own secret.
    let borrowed = format!("sk_{}_{secret}", &stage.bystander_key[3..29]);
    let unknown_user = format!("sk_{}_{secret}", "0".repeat(26));
    let wrong_secret = format!("sk_{user}_{}", "A".repeat(43));
    let (good, long) = (format!("Bearer {}", stage.key), format!("Bearer {}", "x".repeat(10_000)));
    let shown = |key: &str| format!("Bearer {key}");
    let cases = [
        None,
        Some(String::new()),
        Some("Bearer".to_owned()),
        Some("Bearer ".to_owned()),
        Some(good.replace("Bearer", "Basic")),
        Some(stage.key.clone()),
        Some(long),
        Some(shown("sk_x")),
        Some(shown(&stage.key[..72])),
        Some(shown(&stage.key.to_uppercase())),
        Some(format!("{good}x")),
        Some(shown(&borrowed)),
        Some(shown(&unknown_user)),
        Some(shown(&wrong_secret)),
    ];
    // Twice: what was refused once is refused again, from memory.
    for key in cases.iter().chain(&cases) {
        let mut fields = vec![("content-type", "application/json")];
        fields.extend(key.as_deref().map(|key| ("authorization", key)));
        let reply = stage.post(&fields, body.clone()).await;
        let problem = reply.problem(401, "unauthorized");
        assert!(reply.field("www-authenticate").is_some_and(|value| value.starts_with("Bearer")), "{key:?}");
        assert!(!problem.to_string().contains(secret), "a key is never told back");
        let task = "/api/v1/tasks/tsk_00000000000000000000000000";
        stage.caller.send("GET", task, &fields[1..], "").await.problem(401, "unauthorized");
    }
    stage.caller.done(&stage.key, SEARCH_FILES).await;
    stage.others_go_on().await;
}

// ---- HTTP/3 ----

#[tokio::test]
async fn header_sections_that_are_too_large() {
    let mut stage = Stage::start().await;
    let raw = Raw::connect(&stage.scene.gateway).await;
    let _control = raw.uni(&control()).await;
    let long = "v".repeat(17_000);
    let many = vec![("x", "1"); 200];
    let announced = [varint(HEADERS), varint(1 << 40)].concat();
    for bytes in [head("GET", "/livez", &[("x-long", &long)]), head("GET", "/livez", &many), announced] {
        let End::Answer(status, body) = raw.request(&bytes).await else { panic!("no answer") };
        let problem: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(status, 431);
        assert_problem(&problem, 431, "headers-too-large");
        assert!(problem["request_id"].is_string());
        // The connection goes on.
        assert!(matches!(raw.request(&head("GET", "/livez", &[])).await, End::Answer(200, _)));
    }
    stage.others_go_on().await;
}

#[tokio::test]
async fn requests_that_break_http_fail_alone() {
    let mut stage = Stage::start().await;
    let raw = Raw::connect(&stage.scene.gateway).await;
    let _control = raw.uni(&control()).await;
    let bearer = format!("Bearer {}", stage.key);
    let fields = [("authorization", &*bearer), ("content-type", "application/json"), ("content-length", "3")];
    let cut_short = [head("POST", COMMAND_PATH, &fields), frame(DATA, b"{}")].concat();
    for (bytes, code) in [
        (Vec::new(), REQUEST_INCOMPLETE),
        (head("GET", "/livez", &[("X-Upper", "1")]), MESSAGE_ERROR),
        (head("GET", "/livez", &[("connection", "close")]), MESSAGE_ERROR),
        (headers(&[(":method", "GET"), (":scheme", "https"), (":authority", "localhost")]), MESSAGE_ERROR),
        (cut_short, MESSAGE_ERROR),
    ] {
        assert_eq!(raw.request(&bytes).await, End::Reset(code), "{bytes:x?}");
        assert!(matches!(raw.request(&head("GET", "/livez", &[])).await, End::Answer(200, _)));
    }
    stage.others_go_on().await;
}

#[tokio::test]
async fn connections_that_break_http3_are_closed_with_its_code() {
    let mut stage = Stage::start().await;
    let good = head("GET", "/livez", &[]);
    for (bytes, code) in [
        (frame(DATA, b"early"), FRAME_UNEXPECTED),
        (frame(SETTINGS, &[]), FRAME_UNEXPECTED),
        (good[..good.len() - 1].to_vec(), FRAME_ERROR),
        (frame(HEADERS, &[0xff; 64]), DECOMPRESSION_FAILED),
        (frame(HEADERS, &[0, 0, 0x80]), DECOMPRESSION_FAILED),
    ] {
        let raw = Raw::connect(&stage.scene.gateway).await;
        let _control = raw.uni(&control()).await;
        assert_eq!(raw.request(&bytes).await, End::Closed(code), "{bytes:x?}");
        stage.others_go_on().await;
    }
    for (streams, code) in [
        (vec![[varint(CONTROL), frame(0x21, b"x")].concat()], MISSING_SETTINGS),
        (vec![control(), control()], STREAM_CREATION_ERROR),
        (vec![[control(), frame(DATA, b"x")].concat()], FRAME_UNEXPECTED),
    ] {
        let raw = Raw::connect(&stage.scene.gateway).await;
        let mut open = Vec::new();
        for bytes in &streams {
            open.push(raw.uni(bytes).await);
        }
        assert_eq!(raw.closed().await, End::Closed(code), "{streams:x?}");
        stage.others_go_on().await;
    }
}

#[tokio::test]
async fn datagrams_that_are_no_quic_are_dropped() {
    let mut stage = Stage::start().await;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let ports = stage.scene.gateway.core_ports.iter().copied().chain([stage.scene.gateway.address.port()]);
    for port in ports {
        for length in [0, 1, 2, 20, 1_200, 1_472, 9_000] {
            for first in [0x00, 0x40, 0x80, 0xc0, 0xff] {
                let mut datagram = vec![0x5a; length];
                datagram.iter_mut().take(1).for_each(|byte| *byte = first);
                socket.send_to(&datagram, ("127.0.0.1", port)).expect("sent");
            }
        }
    }
    stage.others_go_on().await;
}

// ---- the model ----

#[tokio::test]
async fn a_model_that_answers_nonsense() {
    let mut stage = Stage::start().await;
    for text in ["!nonsense", "!incomplete"] {
        let problem = stage.fails(&json!({ "command": text }), 502, "upstream-invalid").await;
        assert_eq!(problem["retryable"], true);
    }
    stage.fault(json!({"service": "openai", "kind": "garbage", "count": 2})).await;
    stage.fails(&json!({"command": SEARCH_MAIL}), 502, "upstream-invalid").await;
    // One bad answer is asked for again, and nobody hears of it.
    stage.fault(json!({"service": "openai", "kind": "garbage", "count": 1})).await;
    stage.caller.done(&stage.key, SEARCH_MAIL).await;
}

#[tokio::test]
async fn a_model_that_fails_is_asked_again_and_given_up_in_the_end() {
    let mut stage = Stage::start().await;
    for fault in [
        json!({"service": "openai", "kind": "down"}),
        json!({"service": "openai", "kind": "status", "status": 500}),
    ] {
        let with = |count: u64| {
            let mut fault = fault.clone();
            fault["count"] = json!(count);
            fault
        };
        // Three attempts are made.
        stage.fault(with(3)).await;
        let problem = stage.fails(&json!({"command": SEARCH_MAIL}), 502, "upstream-unavailable").await;
        assert_eq!(problem["retryable"], true);
        stage.fault(with(2)).await;
        stage.caller.done(&stage.key, SEARCH_MAIL).await;
    }
}

#[tokio::test]
async fn a_model_that_limits_requests_says_when_to_come_back() {
    let stage = Stage::start().await;
    let limit =
        json!({"service": "openai", "kind": "status", "status": 429, "retry_after_s": 30, "count": 1});
    stage.fault(limit).await;
    let command = json!({"command": SEARCH_MAIL, "deadline_ms": 5_000});
    let problem = stage.caller.post(&stage.key, &command).await.problem(503, "upstream-limited");
    assert_eq!((&problem["retryable"], &problem["retry_after_s"]), (&json!(true), &json!(30)));
    // Until then nobody asks, and who would have to is told at once.
    let asked = stage.scene.sim.asked("openai.responses").await;
    stage.caller.post(&stage.key, &command).await.problem(503, "upstream-limited");
    assert_eq!(stage.scene.sim.asked("openai.responses").await, asked);
    // A wait that fits is waited for.
    let stage = Stage::start().await;
    let soon = json!({"service": "openai", "kind": "status", "status": 429, "retry_after_s": 1, "count": 1});
    stage.fault(soon).await;
    stage.caller.done(&stage.key, SEARCH_MAIL).await;
}

#[tokio::test]
async fn a_model_that_does_not_take_our_key() {
    let mut stage = Stage::start().await;
    stage.fault(json!({"service": "openai", "kind": "status", "status": 401, "count": 1})).await;
    let problem = stage.fails(&json!({"command": SEARCH_MAIL}), 502, "upstream-refused").await;
    assert_eq!(problem["retryable"], false);
    assert!(!problem.to_string().contains("sk-simulated"));
}

#[tokio::test]
async fn a_model_that_is_slower_than_the_commands_deadline() {
    let mut stage = Stage::start().await;
    stage.fault(json!({"service": "openai", "kind": "hang", "count": 1})).await;
    let problem =
        stage.fails(&json!({"command": SEARCH_MAIL, "deadline_ms": 300}), 504, "deadline-exceeded").await;
    assert_eq!(problem["retryable"], true);
    stage.scene.sim.clear_faults().await;
}

#[tokio::test]
async fn a_service_that_never_answers_in_time() {
    let mut stage = Stage::with(&["egress.attempt_timeout_ms=100"]).await;
    stage.fault(json!({"service": "gmail", "kind": "hang", "user": "ada"})).await;
    let problem = stage.fails(&json!({"command": SEARCH_MAIL}), 504, "upstream-timeout").await;
    assert_eq!(problem["task"]["steps"][0]["error"]["type"], "/problems/upstream-timeout");
    stage.scene.sim.clear_faults().await;
    stage.caller.done(&stage.key, SEARCH_MAIL).await;
}

/// An upstream that gives everybody the same answer.
async fn upstream_that_says(status: u16, content_type: &'static str, body: &'static str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let status = StatusCode::from_u16(status).expect("a status");
    let app = Router::new().fallback(move || async move { (status, [("content-type", content_type)], body) });
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

/// The gateway of a model whose address is this; Google's services are the simulator's.
fn gateway_with_model(sim: &Sim, directory: &tempfile::TempDir, url: &str) -> Gateway {
    Scene::gateway(sim, directory.path(), 2, &[&format!("openai.base_url={url}")])
}

#[tokio::test]
async fn a_model_behind_a_proxy_that_answers_html() {
    const PAGE: &str = "<!doctype html><html><body><h1>Bad gateway</h1></body></html>";
    let sim = Sim::start(&[]);
    for (answer, status, slug) in [
        ((502, "text/html", PAGE), 502, "upstream-unavailable"),
        ((200, "text/html", PAGE), 502, "upstream-invalid"),
        ((403, "text/html", PAGE), 502, "upstream-refused"),
        (
            (200, "application/json", "{\"status\":\"failed\",\"error\":null,\"output\":[]}"),
            502,
            "upstream-invalid",
        ),
        ((200, "application/json", "{\"output\":{\"a\":[1,2]},\"status\":7}"), 502, "upstream-invalid"),
        ((302, "text/html", PAGE), 502, "upstream-refused"),
    ] {
        let url = upstream_that_says(answer.0, answer.1, answer.2).await;
        let directory = tempfile::tempdir().expect("a directory");
        let mut gateway = gateway_with_model(&sim, &directory, &url);
        let key = gateway.user("ada");
        let caller = Caller::of(&gateway).await;
        let problem = caller.post(&key, &json!({"command": SEARCH_MAIL})).await.problem(status, slug);
        assert!(!problem["detail"].to_string().contains("doctype"), "{problem:#}");
        assert_eq!(caller.send("GET", "/livez", &[], "").await.status.as_u16(), 200);
        assert!(gateway.is_alive());
    }
}

#[tokio::test]
async fn a_model_that_cannot_be_reached() {
    let sim = Sim::start(&[]);
    let directory = tempfile::tempdir().expect("a directory");
    // A port that other tests cannot be given meanwhile, and on which nobody listens.
    let mut gateway = gateway_with_model(&sim, &directory, "http://127.0.0.1:1");
    let key = gateway.user("ada");
    let caller = Caller::of(&gateway).await;
    let reply = caller.post(&key, &json!({"command": SEARCH_MAIL})).await;
    reply.problem(502, "upstream-unavailable");
    assert_eq!(caller.send("GET", "/livez", &[], "").await.status.as_u16(), 200);
    assert!(gateway.is_alive());
}

// ---- Google ----

#[tokio::test]
async fn a_service_that_is_down_fails_its_own_step_alone() {
    let mut stage = Stage::start().await;
    stage.fault(json!({"service": "gmail", "kind": "status", "status": 503, "user": "ada"})).await;
    let both = json!({"command": "what's on my calendar tomorrow and show unread mail"});
    let problem = stage.fails(&both, 502, "upstream-unavailable").await;
    let states: Vec<&Value> =
        problem["task"]["steps"].as_array().expect("steps").iter().map(|step| &step["state"]).collect();
    assert_eq!(states, ["done", "failed"], "{problem:#}");
    let answer = problem["task"]["answer"].as_str().expect("an answer");
    assert!(answer.contains("Project sync") && answer.contains("I could not search your mail"), "{answer}");
    stage.scene.sim.clear_faults().await;
    stage.caller.done(&stage.key, SEARCH_MAIL).await;
}

#[tokio::test]
async fn a_service_that_answers_nonsense() {
    let mut stage = Stage::start().await;
    for (service, text) in
        [("gmail", SEARCH_MAIL), ("calendar", "what's on my calendar tomorrow?"), ("drive", SEARCH_FILES)]
    {
        stage.fault(json!({"service": service, "kind": "garbage", "user": "ada"})).await;
        stage.fails(&json!({ "command": text }), 502, "upstream-invalid").await;
        stage.scene.sim.clear_faults().await;
    }
    // And the one that gives tokens, for somebody who has none yet.
    stage.key = stage.scene.gateway.user("eve");
    stage.fault(json!({"service": "oauth", "kind": "garbage", "user": "eve"})).await;
    stage.fails(&json!({"command": SEARCH_MAIL}), 502, "upstream-invalid").await;
    stage.scene.sim.clear_faults().await;
    stage.caller.done(&stage.key, SEARCH_MAIL).await;
}

#[tokio::test]
async fn a_service_that_refuses_the_request() {
    let mut stage = Stage::start().await;
    stage
        .fault(json!({"service": "drive", "kind": "status", "status": 400, "user": "ada", "count": 1}))
        .await;
    let problem = stage.fails(&json!({"command": SEARCH_FILES}), 502, "upstream-refused").await;
    assert_eq!(problem["retryable"], false);
}

/// The mail went out, its answer was lost: it is found out, and not sent again.
#[tokio::test]
async fn an_answer_lost_after_the_effect_does_not_repeat_it() {
    let mut stage = Stage::start().await;
    for kind in
        [json!({"kind": "down"}), json!({"kind": "status", "status": 503}), json!({"kind": "garbage"})]
    {
        stage.scene.sim.reset().await;
        let mut fault = json!({"service": "gmail", "user": "ada", "path_contains": "/drafts/send", "count": 1, "after_effect": true});
        fault.as_object_mut().expect("an object").extend(kind.as_object().expect("an object").clone());
        stage.fault(fault).await;
        let text = "send an email to ben@x.example with subject Once and body Only once.";
        stage.caller.done(&stage.key, text).await;
        let (effects, record) = stage.scene.sim.effects("ada").await;
        assert_eq!(effects, Effects { sends: 1, ..Effects::default() }, "{kind}: {record:#}");
        stage.others_go_on().await;
    }
}

#[tokio::test]
async fn a_user_without_a_google_account() {
    let mut stage = Stage::start().await;
    stage.scene.gateway.admin(&["user", "add", "eve", "--email", "eve@example.com"]);
    stage.key = stage.scene.gateway.admin(&["key", "add", "eve"]);
    let problem = stage.fails(&json!({"command": SEARCH_MAIL}), 409, "not-connected").await;
    assert_eq!(problem["retryable"], false);
    // What needs no account works.
    assert_eq!(stage.caller.command(&stage.key, "tell me a joke").await["state"], "declined");
    stage.scene.gateway.admin(&["user", "connect", "eve", "--refresh-token", "sim-refresh-eve"]);
    stage.caller.done(&stage.key, SEARCH_MAIL).await;
}

#[tokio::test]
async fn a_user_whose_grant_was_revoked() {
    // What was read before would still be shown.
    let mut stage = Stage::with(&["cache.read_bytes_per_core=0"]).await;
    // With a token in the cache, and then with a dead connection on disk.
    stage.caller.done(&stage.key, SEARCH_MAIL).await;
    stage.scene.sim.revoke("ada").await;
    for _ in 0..2 {
        let problem = stage.fails(&json!({"command": SEARCH_MAIL}), 409, "needs-reauth").await;
        assert_eq!(problem["retryable"], false);
    }
    stage.scene.sim.reset().await;
    stage.fails(&json!({"command": SEARCH_MAIL}), 409, "needs-reauth").await;
    stage.scene.gateway.admin(&["user", "connect", "ada", "--refresh-token", "sim-refresh-ada"]);
    stage.caller.done(&stage.key, SEARCH_MAIL).await;
}

// ---- too much ----

#[tokio::test]
async fn more_commands_than_the_queue_takes() {
    let options = ["limits.tasks_queued_per_core_max=1", "limits.tasks_running_per_user_max=1"];
    let mut stage = Stage::with(&options).await;
    stage.fault(json!({"service": "gmail", "kind": "hang", "user": "ada"})).await;
    let first = stage.caller.queue(&stage.key, SEARCH_MAIL).await;
    let running = |page: &common::metrics::Metrics| page.sum("sluice_tasks_running", &[]) == 1;
    stage.scene.gateway.until("the first runs", running).await;
    let second = stage.caller.queue(&stage.key, SEARCH_MAIL).await;
    let third = stage.caller.post(&stage.key, &json!({"command": SEARCH_MAIL})).await;
    let problem = third.problem(503, "overloaded");
    assert_eq!(problem["retryable"], true);
    assert!(problem["retry_after_s"].as_u64().is_some_and(|seconds| seconds > 0), "{problem:#}");
    stage.scene.sim.clear_faults().await;
    for path in [first, second] {
        assert_eq!(stage.caller.finished(&stage.key, &path).await["state"], "done");
    }
    stage.others_go_on().await;
}

//! A simulator, a gateway on a directory of its own, and callers whose calls must be answered.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::h3::{Answer, Client, Http};
use super::{Gateway, Sim};

/// Shards of every gateway in these tests.
pub const SHARDS: u16 = 16;
/// Far longer than anything takes; only so that a hang is a failure.
const HANG: Duration = Duration::from_secs(100);

/// Waits for what must come.
pub async fn guard<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(HANG, future).await.expect("it does not hang")
}

/// Everything a test needs; ended and removed when dropped.
pub struct Scene {
    pub gateway: Gateway,
    pub sim: Sim,
    pub directory: TempDir,
}

impl Scene {
    /// A gateway with this many cores and these settings.
    pub fn start(cores: usize, options: &[&str]) -> Self {
        Self::with_sim(Sim::start(&[]), cores, options)
    }

    /// As [`Scene::start`], with a simulator of the caller's.
    pub fn with_sim(sim: Sim, cores: usize, options: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let gateway = Self::gateway(&sim, directory.path(), cores, options);
        Self { gateway, sim, directory }
    }

    /// Another gateway.
    pub fn gateway(sim: &Sim, directory: &Path, cores: usize, options: &[&str]) -> Gateway {
        let (cores, shards) = (format!("server.cores={cores}"), format!("server.shards={SHARDS}"));
        let all = [&[&*cores, &*shards], options].concat();
        Gateway::start(sim, directory, &all)
    }

    /// A caller on the shared port.
    pub async fn caller(&self) -> Caller {
        Caller::of(&self.gateway).await
    }
}

impl Gateway {
    /// Asks it to stop, without waiting.
    pub fn ask_to_stop(&self) {
        self.process.signal("TERM");
    }

    /// Waits for the end of a gateway that was asked to stop, which must be in good order.
    pub fn stopped(mut self) {
        let status = self.process.child.wait().expect("it was started");
        assert!(status.success(), "the gateway stopped with {status}");
    }

    /// Waits for the end of a gateway, whatever it is, and gives the exit code.
    pub fn exit_code(mut self) -> Option<i32> {
        self.process.child.wait().expect("it was started").code()
    }

    /// Stops it in good order and starts it again on the same directory.
    pub fn stop_and_restart(self) -> Self {
        let settings = self.settings.clone();
        self.stop();
        Self::launch(settings)
    }

    /// Runs an administrative command that must fail, and returns what it said.
    pub fn refused(&self, arguments: &[&str]) -> String {
        let output = self.settings.command().args(arguments).output().expect("the command line runs");
        assert!(!output.status.success(), "{arguments:?} was not refused");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Whether the process is still there.
    pub fn is_alive(&mut self) -> bool {
        self.process.child.try_wait().expect("it was started").is_none()
    }

    /// The own port of a core.
    pub fn core_address(&self, core: usize) -> SocketAddr {
        SocketAddr::new(self.address.ip(), self.core_ports[core])
    }
}

/// What was done to one simulated account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effects {
    pub sends: usize,
    pub inserts: usize,
    pub patches: usize,
    pub deletes: usize,
}

impl Sim {
    /// Everything that was done.
    pub async fn state(&self) -> Value {
        let response = reqwest::get(format!("{}/_sim/state", self.url)).await.expect("the simulator answers");
        response.json().await.expect("JSON")
    }

    /// What was done to one account; nothing may have been done twice to any.
    pub async fn effects(&self, user: &str) -> (Effects, Value) {
        let state = self.state().await;
        assert_eq!(state["duplicates"]["messages"], json!([]), "a message was sent twice");
        assert_eq!(state["duplicates"]["events"], json!([]), "an event was made twice");
        assert_eq!(state["plans_unfit"], 0, "simulator and gateway disagree about plans");
        let of = &state["users"][user];
        let count = |what: &str| of[what].as_array().map_or(0, Vec::len);
        let effects = Effects {
            sends: count("sends"),
            inserts: count("inserts"),
            patches: count("patches"),
            deletes: count("deletes"),
        };
        (effects, of.clone())
    }

    /// How often an endpoint was asked.
    pub async fn asked(&self, endpoint: &str) -> u64 {
        self.state().await["requests"][endpoint].as_u64().unwrap_or(0)
    }

    /// Sets a fault.
    pub async fn fault(&self, fault: Value) {
        self.control("faults", &fault).await;
    }

    /// Ends all faults; what hangs is cut off.
    pub async fn clear_faults(&self) {
        let url = format!("{}/_sim/faults", self.url);
        let response = reqwest::Client::new().delete(url).send().await.expect("the simulator answers");
        assert_eq!(response.status().as_u16(), 200);
    }

    /// Takes the grant of a user back.
    pub async fn revoke(&self, user: &str) {
        self.control("revoke", &json!({ "user": user })).await;
    }

    /// Has Google forget what it could tell changes from: sync tokens and the like.
    pub async fn expire(&self, user: &str) {
        self.control("expire", &json!({ "user": user })).await;
    }

    /// Forgets users, effects, faults and revocations.
    pub async fn reset(&self) {
        self.control("reset", &json!({})).await;
    }

    async fn control(&self, action: &str, body: &Value) {
        let url = format!("{}/_sim/{action}", self.url);
        let response =
            reqwest::Client::new().post(url).json(body).send().await.expect("the simulator answers");
        assert_eq!(response.status().as_u16(), 200, "{body}");
    }
}

/// A client with one connection.
pub struct Caller {
    pub client: Client,
    pub http: Http,
}

impl Caller {
    /// Connects to the shared port.
    pub async fn of(gateway: &Gateway) -> Self {
        Self::at(gateway, gateway.address).await
    }

    /// Connects to one of the gateway's ports.
    pub async fn at(gateway: &Gateway, to: SocketAddr) -> Self {
        let client = Client::trusting(&gateway.ca()).expect("a client");
        let http = guard(client.connect(to)).await.expect("a connection");
        Self { client, http }
    }

    /// Sends a request with these fields.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("https://localhost{path}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a valid request");
        guard(self.http.send(request, body.into())).await.expect("an answer")
    }

    /// `GET` with an API key.
    pub async fn get(&self, path: &str, key: &str) -> Answer {
        guard(self.http.get(path, key)).await.expect("an answer")
    }

    /// `POST /api/v1/command` with an API key.
    pub async fn post(&self, key: &str, body: &Value) -> Answer {
        guard(self.http.post("/api/v1/command", key, body)).await.expect("an answer")
    }

    /// Carries out a command and gives the finished task.
    pub async fn command(&self, key: &str, text: &str) -> Value {
        let answer = self.post(key, &json!({ "command": text })).await;
        assert_eq!(answer.status.as_u16(), 200, "{text}: {:?}", answer.body);
        answer.value()
    }

    /// Carries out a command that must be done.
    pub async fn done(&self, key: &str, text: &str) -> Value {
        let task = self.command(key, text).await;
        assert_eq!(task["state"], "done", "{text}: {task:#}");
        task
    }

    /// Queues a command and gives its task's path.
    pub async fn queue(&self, key: &str, text: &str) -> String {
        let answer = self.post(key, &json!({ "command": text, "mode": "async" })).await;
        assert_eq!(answer.status.as_u16(), 202, "{text}: {:?}", answer.body);
        answer.field("location").expect("a location").to_owned()
    }

    /// Polls a task to its end.
    pub async fn finished(&self, key: &str, path: &str) -> Value {
        for _ in 0..10 {
            let answer = guard(self.http.get_waiting(path, key, 10)).await.expect("an answer");
            assert_eq!(answer.status.as_u16(), 200, "{:?}", answer.body);
            let task = answer.value();
            if !matches!(task["state"].as_str(), Some("queued" | "running")) {
                return task;
            }
        }
        panic!("{path} does not end");
    }
}

impl Answer {
    /// A field, if it is there.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|value| value.to_str().expect("visible ASCII"))
    }

    /// The body, which must be JSON.
    pub fn value(&self) -> Value {
        self.json().expect("JSON")
    }

    /// Checks that it is a complete problem document of this kind, and gives it.
    pub fn problem(&self, status: u16, slug: &str) -> Value {
        let problem = self.value();
        assert_eq!(self.status.as_u16(), status, "{problem:#}");
        assert_eq!(self.field("content-type"), Some("application/problem+json"));
        assert_problem(&problem, status, slug);
        assert_eq!(problem["request_id"].as_str(), self.field("x-request-id"), "{problem:#}");
        assert!(problem["request_id"].is_string(), "{problem:#}");
        let wait = problem["retry_after_s"].as_u64().map(|seconds| seconds.to_string());
        assert_eq!(wait.as_deref(), self.field("retry-after"), "{problem:#}");
        problem
    }
}

/// Checks what every problem document has.
pub fn assert_problem(problem: &Value, status: u16, slug: &str) {
    assert_eq!(problem["type"], format!("/problems/{slug}"), "{problem:#}");
    assert_eq!(problem["status"], status, "{problem:#}");
    assert!(problem["retryable"].is_boolean(), "{problem:#}");
    for member in ["title", "detail"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {problem:#}");
    }
}

//! Streams of events through the real binary: what a client sees of a task, also over a crash.
//!
//! Faults of the simulator hold tasks where a test wants them, so nothing here depends on how fast anything is.

mod common;

use bytes::Bytes;
use common::Gateway;
use common::h3::Body;
use common::scene::{Caller, Effects, Scene, guard};
use http::Request;
use serde_json::{Value, json};

const READ: &str = "find the mail from Anna about the budget";
const MAIL: &str = "send an email to ben@x.example with subject Lunch and body See you at noon!";

/// Opens a stream: of a new command, or of a task behind an event.
async fn open(caller: &Caller, key: &str, ask: Result<&str, (&str, &str)>) -> (String, Body) {
    let request = match ask {
        Ok(_) => Request::post("https://localhost/api/v1/command").header("content-type", "application/json"),
        Err((path, seen)) => {
            Request::get(format!("https://localhost{path}/events")).header("last-event-id", seen)
        }
    };
    let body = ask.map_or(Bytes::new(), |text| json!({"command": text, "mode": "stream"}).to_string().into());
    let request = request.header("authorization", format!("Bearer {key}")).body(()).expect("a request");
    let (head, events) = guard(caller.http.open(request, body)).await.expect("an answer");
    assert_eq!(head["content-type"], "text/event-stream", "{head:?}");
    (head["location"].to_str().expect("a path").to_owned(), events)
}

/// The ids and names of events up to one of this name, and the data of that.
async fn until(events: &mut Body, last: &str) -> (Vec<(u64, String)>, Value) {
    let mut seen = Vec::new();
    loop {
        let (id, name, data) =
            guard(events.event()).await.unwrap_or_else(|| panic!("no {last} after {seen:?}"));
        seen.push((id.parse().expect("a number"), name.clone()));
        if name == last {
            return (seen, data);
        }
    }
}

#[tokio::test]
async fn a_stream_goes_on_after_a_crash_without_loss_or_repeat() {
    let Scene { gateway, sim, directory } = Scene::start(2, &[]);
    let key = gateway.user("ada");
    let caller = Caller::of(&gateway).await;
    sim.fault(json!({"service": "gmail", "kind": "hang", "count": 1})).await;
    let (path, mut events) = open(&caller, &key, Ok(MAIL)).await;
    let (before, data) = until(&mut events, "step.started").await;
    assert_eq!(data["step"]["operation"], "gmail.send", "{data:#}");
    let names: Vec<&str> = before.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, ["accepted", "plan", "step.started"]);

    let gateway = gateway.crash_and_restart();
    let caller = Caller::of(&gateway).await;
    let seen = before.last().map(|(id, _)| id.to_string()).unwrap_or_default();
    let (_, mut events) = open(&caller, &key, Err((&path, &seen))).await;
    let (after, task) = until(&mut events, "done").await;
    assert!(guard(events.event()).await.is_none(), "the stream ends");
    assert_eq!(task["state"], "done", "{task:#}");
    let all: Vec<(u64, String)> = before.into_iter().chain(after).collect();
    assert_eq!(all.iter().map(|(id, _)| *id).collect::<Vec<_>>(), (1..=all.len() as u64).collect::<Vec<_>>());
    // Whoever has seen nothing is told the same.
    let (_, mut events) = open(&caller, &key, Err((&path, "0"))).await;
    let (whole, _) = until(&mut events, "done").await;
    assert_eq!(whole, all);
    let (effects, record) = sim.effects("ada").await;
    assert_eq!(effects, Effects { sends: 1, ..Effects::default() }, "{record:#}");
    drop(directory);
}

#[tokio::test]
async fn events_come_from_the_core_that_owns_the_user_to_whichever_is_asked() {
    let scene = Scene::start(2, &[]);
    let key = scene.gateway.user("ada");
    let bearer = format!("Bearer {key}");
    // One of both cores does not own the user.
    for core in 0..2 {
        let caller = Caller::at(&scene.gateway, scene.gateway.core_address(core)).await;
        scene.sim.fault(json!({"service": "gmail", "kind": "hang", "count": 1})).await;
        let (path, mut events) = open(&caller, &key, Ok(READ)).await;
        let (told, _) = until(&mut events, "step.started").await;
        assert_eq!(told.len(), 3, "{told:?}");
        let cancel = format!("{path}/cancel");
        let cancelled = caller.send("POST", &cancel, &[("authorization", &bearer)], "").await;
        assert!(cancelled.status.is_success(), "{:?}", cancelled.body);
        let (told, task) = until(&mut events, "cancelled").await;
        assert_eq!((told.len(), &task["state"]), (1, &json!("cancelled")), "{told:?}");
        assert!(guard(events.event()).await.is_none(), "the stream ends");
        scene.sim.clear_faults().await;
    }
}

/// A stream over TCP, as far as it was read.
struct Tcp {
    response: reqwest::Response,
    text: String,
}

impl Tcp {
    async fn open(gateway: &Gateway, is_http2: bool, path: &str, credential: (&str, &str)) -> Self {
        let pem = std::fs::read(gateway.ca()).expect("the authority");
        let authority = reqwest::Certificate::from_pem(&pem).expect("PEM");
        let client =
            reqwest::Client::builder().tls_certs_only([authority]).resolve("localhost", gateway.address);
        let client = if is_http2 { client } else { client.http1_only() };
        let url = format!("https://localhost:{}{path}/events", gateway.address.port());
        let request = client.build().expect("a client").get(url).header(credential.0, credential.1);
        let response = guard(request.send()).await.expect("an answer");
        let version = if is_http2 { reqwest::Version::HTTP_2 } else { reqwest::Version::HTTP_11 };
        assert_eq!((response.status().as_u16(), response.version()), (200, version));
        Self { response, text: String::new() }
    }

    async fn read(&mut self) -> bool {
        let piece = guard(self.response.chunk()).await.expect("a whole body");
        let text = piece.as_ref().map(|piece| std::str::from_utf8(piece).expect("ASCII"));
        self.text.push_str(text.unwrap_or_default());
        piece.is_some()
    }

    async fn until(&mut self, what: &str) {
        loop {
            let told = self.text.split_once(what).and_then(|(_, rest)| rest.split_once("\n\n"));
            if let Some((_, rest)) = told {
                self.text = rest.to_owned();
                return;
            }
            assert!(self.read().await, "no {what} in {}", self.text);
        }
    }

    async fn rest(mut self) -> String {
        while self.read().await {}
        self.text
    }
}

/// What was taken back ends a stream when it is looked at next, and not when there is something to be told or a sign of life is
/// due: so there is none of either before the end.
fn assert_cut(rest: &str, what: &str) {
    assert!(rest.starts_with("event: left\n") && rest.ends_with("\n\n"), "{what}: {rest:?}");
    assert_eq!(rest.matches("\n\n").count(), 1, "{what}: {rest:?}");
}

#[tokio::test]
async fn a_stream_ends_with_what_its_caller_has_shown_over_every_protocol() {
    let scene = Scene::start(2, &common::PATIENT);
    let (gateway, key) = (&scene.gateway, scene.gateway.user("ada"));
    let owner = Caller::of(gateway).await;
    scene.sim.fault(json!({"service": "gmail", "kind": "hang", "count": 1})).await;
    let path = owner.queue(&key, READ).await;
    let bearer = |key: &str| format!("Bearer {key}");
    let begin = async || {
        let fields = [("authorization", &*bearer(&key)), ("content-type", "application/json")];
        let begun = owner.send("POST", "/api/v1/browser-sessions", &fields, "{}").await;
        let cookie = begun.field("set-cookie").expect("a cookie").split(';').next().expect("a part");
        (cookie.to_owned(), begun.value()["id"].as_str().expect("an id").to_owned())
    };
    let end = async |what: &str| {
        let ended = owner.send("DELETE", what, &[("authorization", &*bearer(&key))], "").await;
        assert!(ended.status.is_success(), "{what}: {:?}", ended.body);
    };
    let new_key = async || {
        let fields = [("authorization", &*bearer(&key)), ("content-type", "application/json")];
        let made = owner.send("POST", "/api/v1/keys", &fields, r#"{"name": "other"}"#).await.value();
        let text = |name: &str| made[name].as_str().unwrap_or_else(|| panic!("{name}: {made:#}")).to_owned();
        (text("key"), text("id"))
    };
    let withdrawn = || async { gateway.page().await.sum("sluice_event_streams_withdrawn_total", &[]) };

    // A key, at the core that owns the user and at the one that does not.
    for core in 0..2 {
        let (other, id) = new_key().await;
        let caller = Caller::at(gateway, gateway.core_address(core)).await;
        let (_, mut events) = open(&caller, &other, Err((&path, "0"))).await;
        until(&mut events, "step.started").await;
        end(&format!("/api/v1/keys/{id}")).await;
        assert_cut(&guard(events.rest()).await, "a key over HTTP/3");
    }
    for is_http2 in [false, true] {
        let (other, id) = new_key().await;
        let mut events = Tcp::open(gateway, is_http2, &path, ("authorization", &bearer(&other))).await;
        events.until("step.started").await;
        end(&format!("/api/v1/keys/{id}")).await;
        assert_cut(&events.rest().await, "a key over TCP");
    }
    // A session of a browser.
    let (cookie, id) = begin().await;
    let mut events = Tcp::open(gateway, true, &path, ("cookie", &cookie)).await;
    events.until("step.started").await;
    end(&format!("/api/v1/browser-sessions/{id}")).await;
    assert_cut(&events.rest().await, "a session");
    // A poll that waits is answered, and not with the task.
    let (other, id) = new_key().await;
    let waiting = owner.http.get_waiting(&path, &other, 60);
    let ((), waited) = tokio::join!(
        async {
            let waits = async {
                while gateway.page().await.sum("sluice_waits", &[]) == 0 {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            };
            guard(waits).await;
            end(&format!("/api/v1/keys/{id}")).await;
        },
        async { guard(waiting).await.expect("an answer") }
    );
    waited.problem(401, "unauthorized");
    // A user who is disabled.
    let (_, mut events) = open(&owner, &key, Err((&path, "0"))).await;
    until(&mut events, "step.started").await;
    gateway.admin(&["user", "set", "ada", "--disabled", "true"]);
    assert_cut(&guard(events.rest()).await, "a disabled user");
    assert_eq!(withdrawn().await, 6);
}

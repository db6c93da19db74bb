//! Streams of events through the real binary: what a client sees of a task, also over a crash.
//!
//! Faults of the simulator hold tasks where a test wants them, so nothing here depends on how fast anything is.

mod common;

use bytes::Bytes;
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

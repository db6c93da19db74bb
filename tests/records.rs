//! What users keep, through the real binary: sessions they begin, preferences that every command obeys, and the history of
//! their commands, over kills of the gateway and from another core.

mod common;

use common::asker::{Asker, text};
use common::h3::Answer;
use common::scene::{Caller, Effects, Scene, guard};
use http::Request;
use serde_json::{Value, json};

const NONE: Value = Value::Null;

async fn prefer(asker: &Asker, patch: &Value) -> Answer {
    asker.with("PATCH", "/preferences", &[("content-type", "application/merge-patch+json")], patch).await
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_kill() {
    let scene = Scene::start(2, &[]);
    let key = scene.gateway.user("ada");
    let ada = Asker::of(&scene.gateway, &key).await;
    let begun = ada.ask("POST", "/sessions", &NONE).await;
    assert_eq!(begun.status.as_u16(), 201);
    let session = begun.value()["id"].clone();
    assert_eq!(begun.field("location"), Some(&*format!("/api/v1/sessions/{}", text(&session))));
    let set = prefer(
        &ada,
        &json!({"time_zone": "Asia/Tokyo", "confirm": ["gmail.send"], "custom": {"a": [1, null]}}),
    )
    .await;
    assert_eq!(set.status.as_u16(), 200, "{:?}", set.body);
    let tag = set.field("etag").expect("a tag").to_owned();
    let done = ada
        .expect(200, "POST", "/command", &json!({"command": "find the mail from Anna about the budget"}))
        .await;
    assert_eq!((&done["state"], &done["session"]), (&json!("done"), &session), "{done:#}");

    let gateway = scene.gateway.crash_and_restart();
    let ada = Asker::of(&gateway, &key).await;
    let known = ada.with("GET", "/preferences", &[("if-none-match", &tag)], &NONE).await;
    assert_eq!(known.status.as_u16(), 304, "{:?}", known.body);
    assert_eq!(ada.get("/preferences").await["custom"], json!({"a": [1, null]}));
    let sessions = ada.get("/sessions").await;
    assert_eq!((&sessions["sessions"][0]["id"], &sessions["sessions"][0]["commands"]), (&session, &json!(1)));
    let entry = &ada.get("/history?text=BUDGET&service=gmail&intent=gmail.search").await["entries"][0];
    assert_eq!((&entry["task"], &entry["answer"]), (&done["id"], &done["answer"]));
    assert_eq!(ada.get("/history?text=budgets").await["entries"], json!([]));
    assert_eq!(ada.get("/history?intent=gmail.send").await["entries"], json!([]));
}

#[tokio::test]
async fn nothing_a_user_wants_to_confirm_is_done_before_in_any_mode() {
    let scene = Scene::start(2, &["tasks.confirm=calendar.create"]);
    let ada = Asker::of(&scene.gateway, &scene.gateway.user("ada")).await;
    assert_eq!(prefer(&ada, &json!({"confirm": ["gmail.send"]})).await.status.as_u16(), 200);
    let send = |mark: &str| format!("send a mail to kim@example.com saying the code is {mark}");
    let mut waiting = Vec::new();
    for mode in ["sync", "preview"] {
        let task = ada.expect(200, "POST", "/command", &json!({"command": send(mode), "mode": mode})).await;
        assert_eq!(task["state"], "awaiting_confirmation", "{mode}: {task:#}");
        waiting.push(task["id"].clone());
    }
    waiting.push(ada.queue(&json!({"command": send("async")})).await["id"].clone());
    let batch = json!({"commands": [{"command": send("batch")}]});
    waiting.push(ada.expect(207, "POST", "/commands", &batch).await["items"][0]["task"]["id"].clone());
    let stream = Request::post("https://localhost/api/v1/command")
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {}", ada.key))
        .body(())
        .expect("a request");
    let body = json!({"command": send("stream"), "mode": "stream"}).to_string();
    let (head, _events) = guard(ada.caller.http.open(stream, body.into())).await.expect("an answer");
    let location = head["location"].to_str().expect("a path");
    waiting.push(json!(location.strip_prefix("/api/v1/tasks/").expect("a task")));
    let step = json!({"id": "tell", "operation": "gmail.send",
        "with": {"to": ["kim@example.com"], "subject": "x", "body": "the code is workflow"}});
    ada.expect(201, "PUT", "/workflows/tell", &json!({"steps": [step]})).await;
    waiting.push(ada.expect(200, "POST", "/workflows/tell/runs", &json!({})).await["id"].clone());
    for task in &waiting {
        ada.until(task, "awaiting_confirmation").await;
    }
    // What the operator wants to be confirmed cannot be taken away.
    prefer(&ada, &json!({"confirm": ["gmail.read"]})).await;
    let meet = json!({"command": "put a meeting with Anna on Tuesday at ten"});
    let task = ada.expect(200, "POST", "/command", &meet).await;
    assert_eq!(task["state"], "awaiting_confirmation", "{task:#}");
    assert_eq!(scene.sim.effects("ada").await.0, Effects::default());
    // A plan that waits still waits for its user; confirmed, it is done, and without the preference so is the next.
    ada.expect(202, "POST", &format!("/tasks/{}/confirm", text(&waiting[2])), &NONE).await;
    assert_eq!(ada.ended(&waiting[2]).await["state"], "done");
    let free = ada.expect(200, "POST", "/command", &json!({"command": send("free")})).await;
    assert_eq!(free["state"], "done", "{free:#}");
    assert_eq!(scene.sim.effects("ada").await.0.sends, 2);
}

#[tokio::test]
async fn times_of_a_command_are_meant_in_the_zone_its_user_prefers() {
    let scene = Scene::start(2, &[]);
    let ada = Asker::of(&scene.gateway, &scene.gateway.user("ada")).await;
    let command = json!({"command": "put a meeting with Anna on Tuesday at ten"});
    let zone = async |body: &Value| {
        let plan = ada.expect(200, "POST", "/intents/parse", body).await;
        plan["time_zone"].clone()
    };
    assert_eq!(zone(&command).await, "Europe/Berlin");
    assert_eq!(prefer(&ada, &json!({"time_zone": "Asia/Tokyo"})).await.status.as_u16(), 200);
    assert_eq!(zone(&command).await, "Asia/Tokyo");
    let mut said = command.clone();
    said["time_zone"] = json!("UTC");
    assert_eq!(zone(&said).await, "UTC");
    ada.expect(200, "POST", "/command", &command).await;
    let (_, state) = scene.sim.effects("ada").await;
    // Ten in Tokyo, which has no summer time.
    let start = text(&state["inserts"][0]["start"]);
    assert!(start.ends_with("T01:00:00Z"), "{start}");
    assert_eq!(prefer(&ada, &json!({"time_zone": null})).await.status.as_u16(), 200);
    assert_eq!(zone(&command).await, "Europe/Berlin");
}

#[tokio::test]
async fn lists_go_on_where_they_stopped_after_a_restart_and_on_every_core() {
    let scene = Scene::start(2, &[]);
    let key = scene.gateway.user("ada");
    let ada = Asker::of(&scene.gateway, &key).await;
    for _ in 0..3 {
        ada.expect(201, "POST", "/sessions", &NONE).await;
    }
    for number in 0..3 {
        let command = json!({"command": format!("find the mail from Anna about budget {number}")});
        ada.expect(200, "POST", "/command", &command).await;
    }
    let first = |list: &str| format!("/{list}?limit=2");
    let (sessions, history) = (ada.get(&first("sessions")).await, ada.get(&first("history")).await);
    let gateway = scene.gateway.stop_and_restart();
    for core in 0..2 {
        let caller = Caller::at(&gateway, gateway.core_address(core)).await;
        let ada = Asker { caller, key: key.clone() };
        for (list, member, page) in [("sessions", "sessions", &sessions), ("history", "entries", &history)] {
            let path = format!("/{list}?limit=2&cursor={}", text(&page["next"]));
            let rest = ada.get(&path).await;
            assert_eq!((rest[member].as_array().map(Vec::len), &rest["next"]), (Some(1), &NONE), "{rest:#}");
            assert!(!page[member].as_array().expect("a list").contains(&rest[member][0]));
        }
    }
}

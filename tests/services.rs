//! Mail, calendar and files as plain resources, over the real gateway and the simulated accounts.

mod common;

use common::h3::Answer;
use common::scene::{Caller, Scene};
use serde_json::{Value, json};

struct Stage {
    scene: Scene,
    caller: Caller,
    key: String,
}

impl Stage {
    async fn start() -> Self {
        let scene = Scene::start(2, &[]);
        let key = scene.gateway.user("ada");
        let caller = scene.caller().await;
        Self { scene, caller, key }
    }

    async fn ask(&self, method: &str, path: &str, fields: &[(&str, &str)], body: &Value) -> Answer {
        let bearer = format!("Bearer {}", self.key);
        let mut all = vec![("authorization", bearer.as_str())];
        all.extend_from_slice(fields);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        if !body.is_empty() {
            all.push(("content-type", "application/json"));
        }
        self.caller.send(method, &format!("/api/v1{path}"), &all, body).await
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.ask("GET", path, &[], &Value::Null).await;
        assert_eq!(answer.status.as_u16(), 200, "{path}: {:?}", answer.body);
        answer.value()
    }
}

#[tokio::test]
async fn messages_are_searched_read_and_not_sent_again_when_known() {
    let stage = Stage::start().await;
    let list = stage.get("/gmail/messages?q=from%3Aanna&max_results=2").await;
    let id = list["messages"][0]["id"].as_str().expect("a message").to_owned();
    let path = format!("/gmail/messages/{id}?format=metadata");
    let first = stage.ask("GET", &path, &[], &Value::Null).await;
    assert_eq!(first.value()["id"], json!(id));
    assert!(first.field("server-timing").is_some_and(|timing| timing.contains("google;dur=")));
    let tag = first.field("etag").expect("a tag").to_owned();
    let again = stage.ask("GET", &path, &[("if-none-match", &tag)], &Value::Null).await;
    assert_eq!((again.status.as_u16(), again.body.len()), (304, 0));
    // HEAD is GET without the body.
    let head = stage.ask("HEAD", &path, &[], &Value::Null).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    assert_eq!(head.field("etag"), Some(&*tag));
}

#[tokio::test]
async fn pages_follow_one_another_by_their_links() {
    let stage = Stage::start().await;
    let first = stage.ask("GET", "/gmail/messages?max_results=2", &[], &Value::Null).await;
    let link = first.field("link").expect("there are more").to_owned();
    let next =
        link.strip_prefix("</api/v1").and_then(|rest| rest.strip_suffix(">; rel=\"next\"")).expect("a link");
    assert!(next.contains("max_results=2"), "{next}");
    let second = stage.get(next).await;
    assert_ne!(first.value()["messages"], second["messages"]);
    assert_eq!(second["messages"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_mail_is_sent_and_answered_once() {
    let stage = Stage::start().await;
    let mail = json!({"to": ["carl@example.com"], "subject": "Keys", "body": "They are here."});
    let sent = stage.ask("POST", "/gmail/messages", &[], &mail).await;
    assert_eq!(sent.status.as_u16(), 200, "{:?}", sent.body);
    assert!(sent.value()["id"].is_string());
    let list = stage.get("/gmail/messages?q=from%3Aanna&max_results=1").await;
    let id = list["messages"][0]["id"].as_str().expect("a message");
    let reply =
        stage.ask("POST", &format!("/gmail/messages/{id}/reply"), &[], &json!({"body": "Yes."})).await;
    assert_eq!(reply.status.as_u16(), 200, "{:?}", reply.body);
    let forward = json!({"to": ["carl@example.com"], "body": "For you."});
    let forward = stage.ask("POST", &format!("/gmail/messages/{id}/forward"), &[], &forward).await;
    assert_eq!(forward.status.as_u16(), 200, "{:?}", forward.body);
    let (effects, record) = stage.scene.sim.effects("ada").await;
    assert_eq!(effects.sends, 3, "{record:#}");
}

#[tokio::test]
async fn a_mail_whose_sending_breaks_off_is_told_as_sent_when_it_was() {
    let stage = Stage::start().await;
    let fault = json!({"service": "gmail", "kind": "down", "path_contains": "drafts/send", "after_effect": true, "count": 1});
    stage.scene.sim.fault(fault).await;
    let mail = json!({"to": ["carl@example.com"], "subject": "Keys", "body": "They are here."});
    let sent = stage.ask("POST", "/gmail/messages", &[], &mail).await;
    assert!(sent.status.is_success(), "{} {:?}", sent.status, sent.body);
    let (effects, record) = stage.scene.sim.effects("ada").await;
    assert_eq!(effects.sends, 1, "{record:#}");
}

#[tokio::test]
async fn an_event_is_made_changed_found_and_deleted() {
    let stage = Stage::start().await;
    let event = json!({
        "summary": "Review",
        "start": {"dateTime": "2031-03-04T10:00:00Z"},
        "end": {"dateTime": "2031-03-04T11:00:00Z"},
    });
    let made = stage.ask("POST", "/calendar/events?send_updates=none", &[], &event).await;
    assert_eq!(made.status.as_u16(), 200, "{:?}", made.body);
    let id = made.value()["id"].as_str().expect("an id").to_owned();
    let path = format!("/calendar/events/{id}");
    let changed = stage.ask("PATCH", &path, &[], &json!({"summary": "Second review"})).await;
    assert_eq!(changed.value()["summary"], "Second review");
    let query = "/calendar/events?from=2031-03-04T00:00:00Z&to=2031-03-05T00:00:00Z&single_events=true&order_by=startTime";
    let found = stage.get(query).await;
    assert_eq!(found["items"][0]["summary"], "Second review", "{found:#}");
    let deleted = stage.ask("DELETE", &path, &[], &Value::Null).await;
    assert_eq!(deleted.status.as_u16(), 204, "{:?}", deleted.body);
    let (effects, record) = stage.scene.sim.effects("ada").await;
    assert_eq!((effects.inserts, effects.patches, effects.deletes), (1, 1, 1), "{record:#}");
}

#[tokio::test]
async fn files_are_searched_and_read() {
    let stage = Stage::start().await;
    let list = stage.get("/drive/files?page_size=5").await;
    let files = list["files"].as_array().expect("files");
    assert!(!files.is_empty());
    let id = files[0]["id"].as_str().expect("an id");
    let file = stage.get(&format!("/drive/files/{id}?fields=id,name,mimeType")).await;
    assert_eq!(file["id"], json!(id));
}

#[tokio::test]
async fn what_is_not_right_is_refused_before_google_is_asked() {
    let stage = Stage::start().await;
    let none = Value::Null;
    let unknown =
        stage.ask("GET", "/gmail/messages?alt=media", &[], &none).await.problem(422, "invalid-field");
    assert_eq!(unknown["errors"][0]["pointer"], "?alt", "{unknown:#}");
    stage.ask("GET", "/gmail/messages?max_results=0", &[], &none).await.problem(422, "invalid-field");
    stage.ask("GET", "/gmail/filters", &[], &none).await.problem(404, "not-found");
    let wrong = stage.ask("PUT", "/gmail/labels", &[], &none).await;
    assert_eq!(wrong.field("allow"), Some("GET, HEAD, POST, OPTIONS"));
    wrong.problem(405, "method-not-allowed");
    stage
        .ask("POST", "/gmail/messages", &[], &json!({"to": ["no address"]}))
        .await
        .problem(422, "invalid-field");
    stage.ask("POST", "/calendar/events", &[], &json!([1])).await.problem(422, "invalid-field");
    let bearer = format!("Bearer {}", stage.key);
    let fields = [("authorization", bearer.as_str()), ("content-type", "text/plain")];
    stage
        .caller
        .send("POST", "/api/v1/gmail/labels", &fields, "{}")
        .await
        .problem(415, "unsupported-media-type");
    stage.caller.send("GET", "/api/v1/gmail/messages", &[], "").await.problem(401, "unauthorized");
    let (effects, record) = stage.scene.sim.effects("ada").await;
    assert_eq!(effects, common::scene::Effects::default(), "{record:#}");
    assert_eq!(stage.scene.sim.state().await["requests"]["gmail.messages.list"].as_u64().unwrap_or(0), 0);
}

#[tokio::test]
async fn what_google_does_not_have_is_not_found_and_what_fails_there_is_its_fault() {
    let stage = Stage::start().await;
    stage.ask("GET", "/gmail/messages/0000000000000000", &[], &Value::Null).await.problem(404, "not-found");
    stage.scene.sim.fault(json!({"service": "calendar", "kind": "status", "status": 503})).await;
    let event = json!({
        "summary": "x",
        "start": {"dateTime": "2031-03-04T10:00:00Z"},
        "end": {"dateTime": "2031-03-04T11:00:00Z"},
    });
    let failed =
        stage.ask("POST", "/calendar/events", &[], &event).await.problem(502, "upstream-unavailable");
    // It may have been made all the same: sending it again could make two.
    assert_eq!(failed["retryable"], false, "{failed:#}");
}

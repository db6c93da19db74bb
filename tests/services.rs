//! Mail, calendar and files as plain resources, over the real gateway and the simulated accounts.

mod common;

use common::asker::{Asker, text};
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

    /// Makes an event from ten to eleven on 4 March 2031; gives its id.
    async fn event(&self, summary: &str) -> String {
        let (start, end) = ("2031-03-04T10:00:00Z", "2031-03-04T11:00:00Z");
        let event = json!({"summary": summary, "start": {"dateTime": start}, "end": {"dateTime": end}});
        let made = self.ask("POST", "/calendar/events?send_updates=none", &[], &event).await;
        assert_eq!(made.status.as_u16(), 200, "{:?}", made.body);
        text(&made.value()["id"]).to_owned()
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
async fn an_event_that_was_changed_meanwhile_is_neither_changed_nor_deleted_by_its_old_tag() {
    let stage = Stage::start().await;
    let path = format!("/calendar/events/{}", stage.event("Review").await);
    let first = stage.ask("GET", &path, &[], &Value::Null).await;
    let old = first.field("etag").expect("a tag").to_owned();
    assert_eq!(json!(old), first.value()["etag"]);
    let change = json!({"summary": "Second review"});
    let changed = stage.ask("PATCH", &path, &[("if-match", &old)], &change).await;
    assert_eq!(changed.value()["summary"], "Second review", "{:?}", changed.body);
    let late = [("if-match", old.as_str())];
    stage.ask("PATCH", &path, &late, &json!({"summary": "Lost"})).await.problem(412, "precondition-failed");
    stage.ask("DELETE", &path, &late, &Value::Null).await.problem(412, "precondition-failed");
    let now = stage.ask("GET", &path, &[], &Value::Null).await;
    assert_eq!(now.value()["summary"], "Second review");
    let new = now.field("etag").expect("a tag").to_owned();
    let known = stage.ask("GET", &path, &[("if-none-match", &new)], &Value::Null).await;
    assert_eq!(known.status.as_u16(), 304);
    let deleted = stage.ask("DELETE", &path, &[("if-match", &new)], &Value::Null).await;
    assert_eq!(deleted.status.as_u16(), 204, "{:?}", deleted.body);
    let (effects, record) = stage.scene.sim.effects("ada").await;
    assert_eq!((effects.inserts, effects.patches, effects.deletes), (1, 1, 1), "{record:#}");
    // Where Google does not heed it, a condition is refused, not passed over, and by the name of what was asked for.
    let label = json!({"name": "Deals"});
    let file = stage.get("/drive/files?page_size=1").await["files"][0]["id"].clone();
    let file = format!("/drive/files/{}", text(&file));
    let change = json!({"name": "Other"});
    for (method, path, body, says) in [
        (
            "POST",
            "/gmail/labels",
            &label,
            "gmail.labels.create takes no If-Match: Gmail makes no change on a condition",
        ),
        (
            "PATCH",
            &*file,
            &change,
            "drive.files.change takes no If-Match: Google Drive makes no change on a condition",
        ),
        (
            "POST",
            "/calendar/events",
            &change,
            "calendar.events.create takes no If-Match: Google Calendar heeds it only",
        ),
    ] {
        let refused =
            stage.ask(method, path, &[("if-match", "*")], body).await.problem(412, "precondition-failed");
        assert!(text(&refused["detail"]).starts_with(says), "{refused:#}");
    }
    let asked = ["gmail.labels.create", "drive.files.update", "calendar.events.insert"];
    for (endpoint, times) in asked.into_iter().zip([0, 0, 1]) {
        assert_eq!(stage.scene.sim.asked(endpoint).await, times, "{endpoint}");
    }
}

#[tokio::test]
async fn a_list_of_events_goes_on_from_its_sync_token_until_that_is_forgotten() {
    let stage = Stage::start().await;
    let all = stage.get("/calendar/events?max_results=2500").await;
    let since = format!("/calendar/events?sync_token={}", text(&all["nextSyncToken"]));
    let id = stage.event("Review").await;
    let fresh = [("cache-control", "no-cache")];
    let changes = stage.ask("GET", &since, &fresh, &Value::Null).await.value();
    let changed: Vec<&str> =
        changes["items"].as_array().expect("items").iter().map(|event| text(&event["id"])).collect();
    assert_eq!(changed, [id]);
    stage.scene.sim.expire("ada").await;
    stage.ask("GET", &since, &fresh, &Value::Null).await.problem(410, "sync-expired");
}

#[tokio::test]
async fn calendars_and_busy_times_are_told_and_a_sentence_becomes_an_event() {
    let stage = Stage::start().await;
    let calendars = stage.get("/calendar/calendars").await;
    let team = calendars["items"].as_array().expect("calendars").iter().find(|one| one["primary"].is_null());
    let team = text(&team.expect("a second one")["id"]).to_owned();
    stage.event("Review").await;
    let span = json!({"timeMin": "2031-03-04T00:00:00Z", "timeMax": "2031-03-05T00:00:00Z", "items": [{"id": "primary"}, {"id": team}]});
    let busy = stage.ask("POST", "/calendar/free-busy", &[], &span).await.value();
    let taken = json!([{"start": "2031-03-04T10:00:00Z", "end": "2031-03-04T11:00:00Z"}]);
    assert_eq!(busy["calendars"]["primary"]["busy"], taken, "{busy:#}");
    assert_eq!(busy["calendars"][&team]["busy"], json!([]), "{busy:#}");
    let add = format!("/calendar/quick-add?text=Lunch%20with%20Ben%20tomorrow%20at%2012:30&calendar={team}");
    let made = stage.ask("POST", &add, &[], &Value::Null).await.value();
    assert!(text(&made["start"]["dateTime"]).contains("T12:30"), "{made:#}");
    let there = stage.get(&format!("/calendar/events/{}?calendar={team}", text(&made["id"]))).await;
    assert_eq!(there["summary"], made["summary"]);
}

#[tokio::test]
async fn labels_threads_drafts_and_the_trash_do_what_they_say() {
    let stage = Stage::start().await;
    let list = stage.get("/gmail/messages?q=from%3Aanna&max_results=1").await;
    let (id, thread) = (text(&list["messages"][0]["id"]), text(&list["messages"][0]["threadId"]));
    let message = format!("/gmail/messages/{id}");
    let label = stage.ask("POST", "/gmail/labels", &[], &json!({"name": "Deals"})).await.value();
    let label = text(&label["id"]).to_owned();
    let again = stage.ask("POST", "/gmail/labels", &[], &json!({"name": "Deals"})).await;
    again.problem(409, "conflict");
    let renamed = stage.ask("PATCH", &format!("/gmail/labels/{label}"), &[], &json!({"name": "Wins"})).await;
    assert_eq!(renamed.value()["name"], "Wins");
    let add = json!({"addLabelIds": [label], "removeLabelIds": ["UNREAD"]});
    stage.ask("PATCH", &format!("{message}/labels"), &[], &add).await;
    let labelled = stage.get(&format!("/gmail/messages?label={label}")).await;
    assert_eq!(labelled["messages"].as_array().map(Vec::len), Some(1), "{labelled:#}");
    assert_eq!(labelled["messages"][0]["id"], json!(id));
    let threads = stage.get(&format!("/gmail/threads?label={label}")).await;
    assert_eq!(threads["threads"][0]["id"], json!(thread));
    let whole = stage.get(&format!("/gmail/threads/{thread}?format=minimal")).await;
    assert!(whole["messages"].as_array().is_some_and(|all| all.iter().any(|one| one["id"] == json!(id))));

    let in_trash = async || {
        let message = stage.get(&format!("{message}?format=minimal&fields=labelIds")).await;
        assert_eq!(message.as_object().map(serde_json::Map::len), Some(1), "{message:#}");
        message["labelIds"].as_array().expect("labels").contains(&json!("TRASH"))
    };
    for (verb, wanted) in [("trash", true), ("untrash", false)] {
        let done = stage.ask("POST", &format!("{message}/{verb}"), &[], &Value::Null).await;
        assert_eq!((done.status.as_u16(), in_trash().await), (200, wanted));
    }
    let gone = stage.ask("DELETE", &format!("/gmail/labels/{label}"), &[], &Value::Null).await;
    assert_eq!(gone.status.as_u16(), 204);
    let labels = stage.get("/gmail/labels").await;
    assert!(!labels["labels"].as_array().expect("labels").iter().any(|one| one["id"] == json!(label)));

    let mail = json!({"to": ["carl@example.com"], "subject": "Zebra crossing", "body": "Soon."});
    let draft = stage.ask("POST", "/gmail/drafts", &[], &mail).await.value();
    let path = format!("/gmail/drafts/{}", text(&draft["id"]));
    let found = stage.get("/gmail/drafts?q=subject%3Azebra").await;
    assert_eq!(found["drafts"][0]["id"], draft["id"]);
    assert_eq!(stage.get(&path).await["message"]["id"], draft["message"]["id"]);
    let deleted = stage.ask("DELETE", &path, &[], &Value::Null).await;
    assert_eq!(deleted.status.as_u16(), 204);
    stage.ask("GET", &path, &[], &Value::Null).await.problem(404, "not-found");
    let (effects, record) = stage.scene.sim.effects("ada").await;
    assert_eq!(effects.sends, 0, "{record:#}");
}

#[tokio::test]
async fn files_are_found_exported_moved_shared_and_thrown_away() {
    let stage = Stage::start().await;
    let list =
        stage.get("/drive/files?page_size=5&q=mimeType%3D%27application/vnd.google-apps.document%27").await;
    let document = text(&list["files"][0]["id"]);
    let known = stage.get(&format!("/drive/files/{document}?fields=id,modifiedTime")).await;
    let fields: Vec<&str> = known.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(fields, ["id", "modifiedTime"]);
    let export = format!("/drive/files/{document}/export?mime_type=text/plain");
    let exported = stage.ask("GET", &export, &[], &Value::Null).await;
    assert_eq!((exported.status.as_u16(), exported.body.starts_with("\u{feff}".as_bytes())), (200, true));

    let folder = json!({"name": "Trips", "mimeType": "application/vnd.google-apps.folder"});
    let folder = stage.ask("POST", "/drive/files", &[], &folder).await.value();
    let file =
        stage.ask("POST", "/drive/files", &[], &json!({"name": "a.txt", "mimeType": "text/plain"})).await;
    let (folder, file) = (text(&folder["id"]).to_owned(), text(&file.value()["id"]).to_owned());
    let path = format!("/drive/files/{file}");
    let into = format!("{path}?add_parents={folder}&remove_parents=root&fields=parents");
    assert_eq!(stage.ask("PATCH", &into, &[], &json!({})).await.value()["parents"], json!([folder]));
    let inside = stage.get(&format!("/drive/files?q=%27{folder}%27%20in%20parents&fields=files(id)")).await;
    assert_eq!(inside, json!({"files": [{"id": file}]}));

    let share = json!({"type": "user", "role": "writer", "emailAddress": "carl@example.com"});
    let shared = stage.ask("POST", &format!("{path}/permissions?notify=false"), &[], &share).await.value();
    let with = async || {
        let all = stage.get(&format!("{path}/permissions?fields=permissions(id,role)")).await;
        let all = all["permissions"].as_array().expect("a list").clone();
        all.into_iter().find(|one| one["id"] == shared["id"]).map(|one| one["role"].clone())
    };
    assert_eq!(with().await, Some(json!("writer")));
    let no_more = format!("{path}/permissions/{}", text(&shared["id"]));
    assert_eq!(stage.ask("DELETE", &no_more, &[], &Value::Null).await.status.as_u16(), 204);
    assert_eq!(with().await, None);

    stage.ask("PATCH", &path, &[], &json!({"trashed": true})).await;
    assert_eq!(stage.get(&format!("{path}?fields=trashed")).await, json!({"trashed": true}));
}

#[tokio::test]
async fn a_shared_file_is_found_by_whom_it_is_shared_with_who_may_do_what_the_role_says() {
    let stage = Stage::start().await;
    let bob = Asker::of(&stage.scene.gateway, &stage.scene.gateway.user("bob")).await;
    let made =
        stage.ask("POST", "/drive/files", &[], &json!({"name": "plan.txt", "mimeType": "text/plain"})).await;
    let path = format!("/drive/files/{}", text(&made.value()["id"]));
    bob.ask("GET", &path, &Value::Null).await.problem(404, "not-found");
    let reader = json!({"type": "user", "role": "reader", "emailAddress": "bob@example.com"});
    let shared = stage.ask("POST", &format!("{path}/permissions?notify=false"), &[], &reader).await;
    assert_eq!(shared.status.as_u16(), 200, "{:?}", shared.body);
    let found =
        bob.get("/drive/files?q=sharedWithMe%20and%20name%3D%27plan.txt%27&fields=files(id,ownedByMe)").await;
    assert_eq!(found, json!({"files": [{"id": made.value()["id"], "ownedByMe": false}]}));
    let change = json!({"name": "mine.txt"});
    let refused = bob.ask("PATCH", &path, &change).await.problem(403, "forbidden");
    assert!(text(&refused["detail"]).contains("does not have sufficient permissions"), "{refused:#}");
    assert_eq!(stage.get(&path).await["name"], "plan.txt");
    let writer = json!({"type": "user", "role": "writer", "emailAddress": "bob@example.com"});
    stage.ask("POST", &format!("{path}/permissions?notify=false"), &[], &writer).await;
    assert_eq!(bob.expect(200, "PATCH", &path, &change).await["name"], "mine.txt");
}

#[tokio::test]
async fn files_in_shared_drives_are_found_read_and_changed() {
    const SHARED: &str = "0AAshared";
    let stage = Stage::start().await;
    let upload = format!("/api/v1/drive/uploads?name=handbook.txt&parent={SHARED}&fields=id,driveId");
    let bearer = format!("Bearer {}", stage.key);
    let fields = [("authorization", bearer.as_str()), ("content-type", "text/plain")];
    let made = stage.caller.send("POST", &upload, &fields, "Zebras cross here.").await.value();
    assert_eq!(made["driveId"], SHARED, "{made:#}");
    let id = text(&made["id"]);
    let own = stage.get("/drive/files?q=name%3D%27handbook.txt%27").await;
    assert_eq!(own["files"], json!([]));
    for query in ["shared_drives=true".to_owned(), format!("shared_drives=true&corpora=drive&drive={SHARED}")]
    {
        let found = stage.get(&format!("/drive/files?q=name%3D%27handbook.txt%27&{query}")).await;
        assert_eq!(found["files"][0]["id"], json!(id), "{query}");
    }
    let content = stage.ask("GET", &format!("/drive/files/{id}/content"), &[], &Value::Null).await;
    assert_eq!(&content.body[..], b"Zebras cross here.");
    let path = format!("/drive/files/{id}?fields=name");
    let renamed = stage.ask("PATCH", &path, &[], &json!({"name": "rules.txt"})).await;
    assert_eq!(renamed.value(), json!({"name": "rules.txt"}));
    assert_eq!(stage.get(&path).await, json!({"name": "rules.txt"}));
    let share = json!({"type": "user", "role": "reader", "emailAddress": "carl@example.com"});
    let shared = stage.ask("POST", &format!("/drive/files/{id}/permissions"), &[], &share).await;
    assert_eq!(shared.status.as_u16(), 200, "{:?}", shared.body);
    // Commands find them as well.
    let task = stage.caller.done(&stage.key, "find the file about zebras").await;
    assert_eq!(task["steps"][0]["items"][0]["id"], json!(id), "{task:#}");
    let task = stage.caller.done(&stage.key, "open that file").await;
    assert!(text(&task["steps"][0]["text"]).contains("Zebras cross here."), "{task:#}");
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

//! Every operation from a plain sentence to the simulated account and back, and what every answer carries.

mod common;

use std::collections::BTreeSet;

use common::scene::{Caller, Effects, Scene, guard};
use serde_json::{Value, json};

const ANNA: &str = "anna.berg@example.com";

/// A scene with one user, who is also an account of the simulator.
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

    async fn done(&self, text: &str) -> Value {
        self.caller.done(&self.key, text).await
    }

    async fn assert_effects(&self, expected: Effects) -> Value {
        let (effects, record) = self.scene.sim.effects("ada").await;
        assert_eq!(effects, expected, "{record:#}");
        record
    }
}

fn operations(task: &Value) -> Vec<&str> {
    let steps = task["steps"].as_array().expect("steps");
    assert!(steps.iter().all(|step| step["state"] == "done"), "{task:#}");
    steps.iter().map(|step| step["operation"].as_str().expect("a name")).collect()
}

/// What the last step found or made.
fn items(task: &Value) -> &[Value] {
    let last = task["steps"].as_array().and_then(|steps| steps.last()).expect("a step");
    last["items"].as_array().expect("items")
}

fn text_of<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("a text at {pointer}: {value:#}"))
}

fn answer(task: &Value) -> &str {
    text_of(task, "/answer")
}

// ---- mail ----

#[tokio::test]
async fn mail_is_searched() {
    let stage = Stage::start().await;
    let task = stage.done("Find the mail from Anna about the budget").await;
    assert_eq!(operations(&task), ["gmail.search"]);
    assert!(items(&task).len() >= 2, "{task:#}");
    for item in items(&task) {
        assert_eq!((text_of(item, "/kind"), text_of(item, "/person/address")), ("message", ANNA));
        assert!(text_of(item, "/title").contains("budget"));
    }
    assert!(answer(&task).contains("Q4 budget"), "{}", answer(&task));
    stage.assert_effects(Effects::default()).await;
}

#[tokio::test]
async fn mail_is_read() {
    let stage = Stage::start().await;
    let task = stage.done("read Anna's mail about the offsite").await;
    assert_eq!(operations(&task), ["gmail.search", "gmail.read"]);
    assert!(text_of(&task, "/steps/1/text").contains("Please tell me about allergies"));
    assert!(answer(&task).contains("Please tell me about allergies"), "{}", answer(&task));
    stage.assert_effects(Effects::default()).await;
}

#[tokio::test]
async fn mail_is_sent_once() {
    let stage = Stage::start().await;
    let text = "send an email to ben@x.example with subject Lunch and body See you at noon!";
    let task = stage.done(text).await;
    assert_eq!(operations(&task), ["gmail.send"]);
    let record = stage.assert_effects(Effects { sends: 1, ..Effects::default() }).await;
    let sent = &record["sends"][0];
    assert_eq!((&sent["to"], text_of(sent, "/subject")), (&json!(["ben@x.example"]), "Lunch"));
    assert_eq!(text_of(sent, "/body").trim(), "See you at noon!");
    assert_eq!((&record["drafts_created"], &record["drafts_left"]), (&json!(1), &json!(0)));
    assert!(answer(&task).contains("ben@x.example"), "{}", answer(&task));
}

#[tokio::test]
async fn mail_goes_to_the_person_an_earlier_step_found() {
    let stage = Stage::start().await;
    let task = stage.done("tell Anna that the figures are ready").await;
    assert_eq!(operations(&task), ["gmail.search", "gmail.send"]);
    let record = stage.assert_effects(Effects { sends: 1, ..Effects::default() }).await;
    assert_eq!(record["sends"][0]["to"], json!([ANNA]));
}

#[tokio::test]
async fn a_reply_goes_to_her_and_into_the_thread() {
    let stage = Stage::start().await;
    let found = stage.done("Find the mail from Anna about the budget").await;
    let task = stage.done("reply to her saying thank you, that helps").await;
    assert_eq!(operations(&task), ["gmail.reply"]);
    assert_eq!(task["session"], found["session"]);
    let record = stage.assert_effects(Effects { sends: 1, ..Effects::default() }).await;
    let (sent, meant) = (&record["sends"][0], &items(&found)[0]);
    assert_eq!(sent["to"], json!([ANNA]));
    assert_eq!(sent["in_reply_to"], meant["message_id_header"]);
    assert_eq!(sent["thread_id"], meant["thread_id"]);
    assert!(text_of(sent, "/subject").starts_with("Re: "));
    assert_eq!(text_of(sent, "/body").trim(), "Thank you, that helps.");
}

#[tokio::test]
async fn the_second_one_is_the_second_of_the_list_shown() {
    let stage = Stage::start().await;
    let found = stage.done("emails from anna").await;
    stage.done("reply to the second one that I will come").await;
    let record = stage.assert_effects(Effects { sends: 1, ..Effects::default() }).await;
    assert_eq!(record["sends"][0]["in_reply_to"], items(&found)[1]["message_id_header"]);
    assert_ne!(items(&found)[0]["message_id_header"], items(&found)[1]["message_id_header"]);
}

// ---- calendar ----

#[tokio::test]
async fn the_calendar_is_listed() {
    let stage = Stage::start().await;
    let task = stage.done("what's on my calendar tomorrow?").await;
    assert_eq!(operations(&task), ["calendar.list"]);
    let titles: Vec<&str> = items(&task).iter().map(|item| text_of(item, "/title")).collect();
    assert!(titles.contains(&"Project sync") && titles.contains(&"Call with Anna"), "{titles:?}");
    stage.assert_effects(Effects::default()).await;
}

#[tokio::test]
async fn an_event_is_created_changed_and_deleted_each_once() {
    let stage = Stage::start().await;
    let mut expected = Effects::default();
    let created = stage.done("create an event called Budget freeze on 2031-03-04").await;
    assert_eq!(operations(&created), ["calendar.create"]);
    expected.inserts = 1;
    let record = stage.assert_effects(expected).await;
    let event = &record["inserts"][0];
    assert_eq!((text_of(event, "/summary"), text_of(event, "/start")), ("Budget freeze", "2031-03-04"));
    assert_eq!(event["id"], items(&created)[0]["id"]);

    let changed = stage.done("rename the meeting to Release sync").await;
    assert_eq!(operations(&changed), ["calendar.change"]);
    expected.patches = 1;
    let record = stage.assert_effects(expected).await;
    assert_eq!(
        (&record["patches"][0]["id"], &record["patches"][0]["summary"]),
        (&event["id"], &json!("Release sync"))
    );

    let deleted = stage.done("cancel it").await;
    assert_eq!(operations(&deleted), ["calendar.delete"]);
    expected.deletes = 1;
    let record = stage.assert_effects(expected).await;
    assert_eq!(record["deletes"][0]["id"], event["id"]);
}

#[tokio::test]
async fn an_event_with_somebody_invites_their_address() {
    let stage = Stage::start().await;
    let task = stage.done("put a meeting with Anna on Tuesday at ten").await;
    assert_eq!(operations(&task), ["gmail.search", "calendar.create"]);
    let record = stage.assert_effects(Effects { inserts: 1, ..Effects::default() }).await;
    let invited = record["inserts"][0]["attendees"].as_array().expect("a list");
    assert!(invited.contains(&json!(ANNA)), "{record:#}");
}

#[tokio::test]
async fn the_second_event_of_the_list_is_the_one_cancelled() {
    let stage = Stage::start().await;
    let listed = stage.done("what's on my calendar tomorrow?").await;
    stage.done("delete the second meeting").await;
    let record = stage.assert_effects(Effects { deletes: 1, ..Effects::default() }).await;
    assert_eq!(record["deletes"][0]["id"], items(&listed)[1]["id"]);
}

#[tokio::test]
async fn times_are_meant_in_the_zone_of_the_request_or_else_of_the_user() {
    let stage = Stage::start().await;
    let text = "add the dentist to my calendar on the 3rd of december at half past four";
    for (zone, start) in [
        (Value::Null, "-12-03T15:30:00Z"), // the user's own, Europe/Berlin
        (json!("America/New_York"), "-12-03T21:30:00Z"),
        (json!("Asia/Kolkata"), "-12-03T11:00:00Z"),
    ] {
        stage.scene.sim.reset().await;
        let reply = stage.caller.post(&stage.key, &json!({"command": text, "time_zone": zone})).await;
        assert_eq!(reply.value()["state"], "done", "{:#}", reply.value());
        let record = stage.assert_effects(Effects { inserts: 1, ..Effects::default() }).await;
        assert!(text_of(&record, "/inserts/0/start").ends_with(start), "{zone}: {record:#}");
    }
}

// ---- files ----

#[tokio::test]
async fn files_are_searched_and_read() {
    let stage = Stage::start().await;
    let found = stage.done("find the file about the roadmap").await;
    assert_eq!(operations(&found), ["drive.search"]);
    let titles: Vec<&str> = items(&found).iter().map(|item| text_of(item, "/title")).collect();
    assert!(titles.contains(&"Product roadmap"), "{titles:?}");
    let read = stage.done("open that file").await;
    assert_eq!(operations(&read), ["drive.read"]);
    assert_eq!(items(&read)[0]["id"], items(&found)[0]["id"]);
    assert!(!text_of(&read, "/steps/0/text").is_empty());
    stage.assert_effects(Effects::default()).await;
}

// ---- what is done to mail and files besides ----

impl Stage {
    async fn get(&self, path: &str) -> Value {
        let answer = self.caller.get(&format!("/api/v1{path}"), &self.key).await;
        assert_eq!(answer.status.as_u16(), 200, "{path}: {:?}", answer.body);
        answer.value()
    }

    /// The ids of a message's labels.
    async fn labels_of(&self, id: &str) -> BTreeSet<String> {
        let message = self.get(&format!("/gmail/messages/{id}?format=minimal")).await;
        let labels = message["labelIds"].as_array().expect("labels");
        labels.iter().map(|label| label.as_str().expect("an id").to_owned()).collect()
    }

    /// With whom a file is shared, and what they may do, without its owner.
    async fn shared_with(&self, id: &str) -> BTreeSet<(String, String)> {
        let path = format!("/drive/files/{id}/permissions?fields=permissions(emailAddress,role)");
        let all = self.get(&path).await;
        let one = |one: &Value| (text_of(one, "/emailAddress").to_owned(), text_of(one, "/role").to_owned());
        let all: BTreeSet<_> = all["permissions"].as_array().expect("a list").iter().map(one).collect();
        all.into_iter().filter(|(_, role)| role != "owner").collect()
    }
}

#[tokio::test]
async fn a_message_is_labelled_forwarded_and_thrown_away() {
    let stage = Stage::start().await;
    let found = stage.done("Find the mail from Anna about the budget").await;
    let id = text_of(&items(&found)[0], "/id").to_owned();
    let before = stage.labels_of(&id).await;
    let task = stage.done("star it").await;
    assert_eq!(operations(&task), ["gmail.label"]);
    assert!(answer(&task).contains("STARRED"), "{}", answer(&task));
    stage.done("mark it as unread").await;
    let starred: BTreeSet<String> =
        before.iter().cloned().chain(["STARRED", "UNREAD"].map(str::to_owned)).collect();
    assert_eq!(stage.labels_of(&id).await, starred);
    stage.done("mark it as read").await;
    // A label that there is not is made, once.
    for _ in 0..2 {
        stage.done("label it as Travel").await;
    }
    let labels = stage.get("/gmail/labels").await;
    let travel: Vec<&Value> = labels["labels"]
        .as_array()
        .expect("labels")
        .iter()
        .filter(|label| label["name"] == "Travel")
        .collect();
    assert_eq!(travel.len(), 1, "{labels:#}");
    let now = stage.labels_of(&id).await;
    assert!(now.contains(text_of(travel[0], "/id")) && !now.contains("UNREAD"), "{now:?}");

    let task = stage.done("forward it to ben@x.example saying please have a look").await;
    assert_eq!(operations(&task), ["gmail.forward"]);
    let record = stage.assert_effects(Effects { sends: 1, ..Effects::default() }).await;
    let sent = &record["sends"][0];
    assert_eq!(sent["to"], json!(["ben@x.example"]));
    assert!(text_of(sent, "/subject").starts_with("Fwd: "), "{sent:#}");
    let body = text_of(sent, "/body");
    assert!(body.starts_with("Please have a look.") && body.contains("Forwarded message"), "{body}");
    assert!(body.contains(ANNA), "{body}");

    let task = stage.done("delete the mail from Anna about the offsite").await;
    assert_eq!(operations(&task), ["gmail.search", "gmail.trash"]);
    assert!(stage.labels_of(text_of(&items(&task)[0], "/id")).await.contains("TRASH"));
    assert!(!stage.labels_of(&id).await.contains("TRASH"));
}

#[tokio::test]
async fn a_draft_is_written_and_not_sent() {
    let stage = Stage::start().await;
    let task = stage.done("draft a mail to ben@x.example saying the offer is ready").await;
    assert_eq!(operations(&task), ["gmail.draft"]);
    let record = stage.assert_effects(Effects::default()).await;
    assert_eq!((&record["drafts_created"], &record["drafts_left"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn somebody_elses_calendar_is_asked_for_when_they_are_free() {
    let stage = Stage::start().await;
    let task = stage.done("is kim@example.com free tomorrow").await;
    assert_eq!(operations(&task), ["calendar.free_busy"]);
    assert_eq!(answer(&task), "kim@example.com: this calendar cannot be seen");
    let team = stage.get("/calendar/calendars").await;
    let team = team["items"].as_array().expect("calendars").iter().find(|one| one["primary"].is_null());
    let team = text_of(team.expect("a second one"), "/id").to_owned();
    let event = json!({"summary": "x", "start": {"dateTime": "2031-03-04T10:00:00Z"}, "end": {"dateTime": "2031-03-04T11:30:00Z"}});
    let bearer = format!("Bearer {}", stage.key);
    let fields = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    for calendar in ["primary", &team] {
        let path = format!("/api/v1/calendar/events?calendar={calendar}");
        let made = stage.caller.send("POST", &path, &fields, event.to_string()).await;
        assert_eq!(made.status.as_u16(), 200, "{:?}", made.body);
    }
    let ask = json!({"steps": [
        {"id": "own", "operation": "calendar.free_busy", "with": {"from": "2031-03-04", "to": "2031-03-04"}},
        {"id": "team", "operation": "calendar.free_busy",
         "with": {"from": "2031-03-04T11:30", "to": "2031-03-05", "people": [team]}},
        {"id": "none", "operation": "calendar.free_busy",
         "with": {"from": "2031-03-04T13:00", "to": "2031-03-04T14:00", "people": [team]}},
    ]});
    let put = stage.caller.send("PUT", "/api/v1/workflows/busy", &fields, ask.to_string()).await;
    assert_eq!(put.status.as_u16(), 201, "{:?}", put.body);
    let run = stage.caller.send("POST", "/api/v1/workflows/busy/runs", &fields, "{}").await.value();
    let told = |index: usize| text_of(&run["steps"][index], "/text");
    assert_eq!(told(0), "You: busy Tue 4 Mar 2031, 11:00 to 12:30");
    assert_eq!(told(1), format!("{team}: busy Tue 4 Mar 2031, 11:30 to 12:30"));
    assert_eq!(told(2), format!("{team}: free"));
}

#[tokio::test]
async fn files_are_made_shared_with_each_once_and_thrown_away() {
    let stage = Stage::start().await;
    let task = stage.done("make a file called zebras.txt saying zebras are striped").await;
    assert_eq!(operations(&task), ["drive.create"]);
    let id = text_of(&items(&task)[0], "/id").to_owned();
    let read = stage.done("open that file").await;
    assert_eq!(text_of(&read, "/steps/0/text").trim(), "Zebras are striped.");

    let task = stage.done("share it with ben@x.example and kim@example.com").await;
    assert_eq!(operations(&task), ["drive.share"]);
    assert!(
        answer(&task).contains("ben@x.example and kim@example.com, who can read it"),
        "{}",
        answer(&task)
    );
    let with = |people: [(&str, &str); 2]| {
        BTreeSet::from(people.map(|(who, role)| (who.to_owned(), role.to_owned())))
    };
    assert_eq!(
        stage.shared_with(&id).await,
        with([("ben@x.example", "reader"), ("kim@example.com", "reader")])
    );
    // Who has it is not told again; who may do more keeps that.
    stage.done("share it with ben@x.example so that he can edit it").await;
    stage.done("share it with ben@x.example and kim@example.com").await;
    assert_eq!(
        stage.shared_with(&id).await,
        with([("ben@x.example", "writer"), ("kim@example.com", "reader")])
    );
    assert_eq!(stage.scene.sim.asked("drive.permissions.create").await, 3);

    let task = stage.done("create a folder called Trips").await;
    let folder = text_of(&items(&task)[0], "/id").to_owned();
    let folder = stage.get(&format!("/drive/files/{folder}?fields=name,mimeType")).await;
    assert_eq!(folder, json!({"name": "Trips", "mimeType": "application/vnd.google-apps.folder"}));
    // Into a folder, once: a file that is there already is left alone. What is no folder takes nothing in.
    let folder_id = text_of(&items(&task)[0], "/id").to_owned();
    for _ in 0..2 {
        let task = stage.done("move the zebras file to the folder Trips").await;
        assert_eq!(operations(&task), ["drive.search", "drive.search", "drive.move"]);
        assert!(answer(&task).contains("Moved “zebras.txt” to “Trips”."), "{}", answer(&task));
        let placed = stage.get(&format!("/drive/files/{id}?fields=parents")).await;
        assert_eq!(placed, json!({"parents": [folder_id]}));
    }
    assert_eq!(stage.scene.sim.asked("drive.files.update").await, 1);
    let body = json!({"command": "move the zebras file to the folder roadmap"});
    let problem = stage.caller.post(&stage.key, &body).await.problem(422, "unresolved-reference");
    assert!(text_of(&problem, "/detail").contains("is not a folder"), "{problem:#}");
    let task = stage.done("delete the zebras file").await;
    assert_eq!(operations(&task), ["drive.search", "drive.trash"]);
    assert_eq!(stage.get(&format!("/drive/files/{id}?fields=trashed")).await, json!({"trashed": true}));
}

#[tokio::test]
async fn a_document_is_exported_by_a_link_that_brings_it() {
    let stage = Stage::start().await;
    let task = stage.done("export the roadmap document as PDF").await;
    assert_eq!(operations(&task), ["drive.search", "drive.export"]);
    let path = text_of(&task, "/steps/1/text");
    assert!(answer(&task).ends_with(&format!("as pdf is to be had at {path}")), "{}", answer(&task));
    let exported = stage.caller.get(path, &stage.key).await;
    assert_eq!((exported.status.as_u16(), exported.body.starts_with(b"%PDF")), (200, true), "{path}");
    // A form into which Google does not convert it is no form of it.
    let body = json!({"command": "export that file as csv"});
    let problem = stage.caller.post(&stage.key, &body).await.problem(422, "unresolved-reference");
    assert!(text_of(&problem, "/detail").contains("cannot be had as csv"), "{problem:#}");
}

#[tokio::test]
async fn sending_on_sharing_and_throwing_away_can_be_held_until_they_are_confirmed() {
    let scene =
        Scene::start(1, &["tasks.confirm=gmail.forward,gmail.trash,drive.share,drive.move,drive.trash"]);
    let key = scene.gateway.user("ada");
    let stage = Stage { caller: scene.caller().await, scene, key };
    stage.done("find the file about the roadmap").await;
    stage.done("Find the mail from Anna about the budget").await;
    for text in [
        "forward it to ben@x.example",
        "delete the mail from Anna about the offsite",
        "share that file with ben@x.example",
        "move that file to the folder Trips",
        "delete that file",
    ] {
        let task = stage.caller.command(&stage.key, text).await;
        assert_eq!(task["state"], "awaiting_confirmation", "{text}: {task:#}");
    }
    stage.assert_effects(Effects::default()).await;
    let state = stage.scene.sim.state().await;
    for changed in ["gmail.messages.trash", "drive.permissions.create", "drive.files.update"] {
        assert_eq!(state["requests"][changed], Value::Null, "{changed}");
    }
}

// ---- several steps ----

/// While Gmail does not answer at all, the other two steps are asked for and done.
#[tokio::test]
async fn steps_that_do_not_need_each_other_run_side_by_side() {
    let stage = Stage::start().await;
    stage.scene.sim.fault(json!({"service": "gmail", "kind": "hang", "count": 1})).await;
    let text = "show unread mail and what's on my calendar tomorrow and find the file about the roadmap";
    let others = async {
        loop {
            let requests = &stage.scene.sim.state().await["requests"];
            let asked = |service: &str| {
                let counts = requests.as_object().expect("counts").iter();
                counts
                    .filter(|(name, _)| name.starts_with(service))
                    .any(|(_, count)| count.as_u64() > Some(0))
            };
            if asked("calendar.") && asked("drive.") {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        stage.scene.sim.clear_faults().await;
    };
    let (task, ()) = tokio::join!(stage.done(text), guard(others));
    let operations: BTreeSet<&str> = operations(&task).into_iter().collect();
    assert_eq!(operations, BTreeSet::from(["calendar.list", "drive.search", "gmail.search"]));
}

#[tokio::test]
async fn a_step_runs_after_the_one_it_needs() {
    let stage = Stage::start().await;
    let text = "find the roadmap document, then read it and tell anna that it looks good";
    let task = stage.done(text).await;
    assert_eq!(operations(&task), ["drive.search", "drive.read", "gmail.search", "gmail.send"]);
    let record = stage.assert_effects(Effects { sends: 1, ..Effects::default() }).await;
    assert_eq!(record["sends"][0]["to"], json!([ANNA]));
}

#[tokio::test]
async fn what_is_none_of_its_business_is_declined_without_a_call_to_google() {
    let stage = Stage::start().await;
    for text in
        ["what's the weather like tomorrow", "send a mail to Anna", "delete all my meetings", "!refuse"]
    {
        let task = stage.caller.command(&stage.key, text).await;
        assert_eq!((text_of(&task, "/state"), &task["error"]), ("declined", &Value::Null), "{task:#}");
        assert!(answer(&task).len() > 10, "a reason: {task:#}");
        assert_eq!(task["steps"], json!([]));
    }
    stage.assert_effects(Effects::default()).await;
    let requests = stage.scene.sim.state().await["requests"].clone();
    let asked: Vec<&String> = requests.as_object().expect("counts").keys().collect();
    assert_eq!(asked, ["openai.responses"]);
}

// ---- tasks and sessions ----

#[tokio::test]
async fn a_queued_command_is_polled_to_its_end() {
    let stage = Stage::start().await;
    let (key, text) =
        (&*stage.key, "send an email to ben@x.example with subject Later and body Hello there!");
    stage.scene.sim.fault(json!({"service": "openai", "kind": "hang", "count": 1})).await;
    let reply = stage.caller.post(key, &json!({"command": text, "mode": "async"})).await;
    let accepted = reply.value();
    assert_eq!((reply.status.as_u16(), text_of(&accepted, "/state")), (202, "queued"));
    let path = format!("/api/v1/tasks/{}", text_of(&accepted, "/id"));
    assert_eq!((reply.field("location"), text_of(&accepted, "/location")), (Some(&*path), &*path));
    assert!(text_of(&accepted, "/session").starts_with("ses_"));

    let early = stage.caller.get(&path, key).await;
    assert!(matches!(text_of(&early.value(), "/state"), "queued" | "running"));
    assert_eq!(early.field("retry-after"), Some("1"));
    let waited = guard(stage.caller.http.get_waiting(&path, key, 0)).await.expect("an answer");
    assert_eq!(waited.field("preference-applied"), Some("wait=0"));

    let (end, ()) =
        tokio::join!(guard(stage.caller.http.get_waiting(&path, key, 60)), stage.scene.sim.clear_faults());
    let end = end.expect("an answer");
    let task = end.value();
    assert_eq!((end.status.as_u16(), end.field("preference-applied")), (200, Some("wait=60")), "{task:#}");
    assert_eq!((text_of(&task, "/state"), text_of(&task, "/mode")), ("done", "async"));
    assert_eq!(stage.caller.get(&path, key).await.value(), task);
    stage.assert_effects(Effects { sends: 1, ..Effects::default() }).await;
}

#[tokio::test]
async fn a_session_remembers_its_turns_until_it_is_ended() {
    let stage = Stage::start().await;
    let key = &*stage.key;
    let first = stage.done("find the file about the roadmap").await;
    let path = format!("/api/v1/sessions/{}", text_of(&first, "/session"));
    stage.caller.command(key, "tell me a joke").await;
    let session = stage.caller.get(&path, key).await;
    let view = session.value();
    let states: Vec<&str> =
        view["turns"].as_array().expect("turns").iter().map(|turn| text_of(turn, "/state")).collect();
    assert_eq!((session.status.as_u16(), &*states), (200, &["done", "declined"][..]));
    assert_eq!(text_of(&view, "/turns/0/task"), text_of(&first, "/id"));
    assert_eq!(text_of(&view, "/turns/0/items/0/handle"), "f1");

    let bearer = format!("Bearer {key}");
    let fields = [("authorization", &*bearer)];
    let ended = stage.caller.send("DELETE", &path, &fields, "").await;
    assert_eq!((ended.status.as_u16(), ended.body.len()), (204, 0));
    stage.caller.get(&path, key).await.problem(404, "not-found");
    stage.caller.send("DELETE", &path, &fields, "").await.problem(404, "not-found");
    let id = &first["session"];
    stage
        .caller
        .post(key, &json!({"command": "open that file", "session": id}))
        .await
        .problem(404, "not-found");
    // The next command begins a new one, which knows nothing of the old.
    let task = stage.caller.command(key, "open that file").await;
    assert_eq!(text_of(&task, "/state"), "declined");
    assert_ne!(task["session"], *id);
}

#[tokio::test]
async fn tasks_and_sessions_of_others_are_not_there() {
    let stage = Stage::start().await;
    let stranger = stage.scene.gateway.user("bob");
    let task = stage.done("find the file about the roadmap").await;
    let paths = [
        format!("/api/v1/tasks/{}", text_of(&task, "/id")),
        format!("/api/v1/sessions/{}", text_of(&task, "/session")),
    ];
    let bearer = format!("Bearer {stranger}");
    for path in &paths {
        let seen = stage.caller.get(path, &stranger).await.problem(404, "not-found");
        // The same as for one that never was.
        let (kind, id) = path.rsplit_once('/').expect("an id");
        let never = format!("{kind}/{}{}", &id[..4], "0".repeat(26));
        let unseen = stage.caller.get(&never, &stranger).await.problem(404, "not-found");
        assert_eq!(seen["detail"], unseen["detail"]);
    }
    stage
        .caller
        .send("DELETE", &paths[1], &[("authorization", &*bearer)], "")
        .await
        .problem(404, "not-found");
    let command = json!({"command": "open that file", "session": task["session"]});
    stage.caller.post(&stranger, &command).await.problem(404, "not-found");
    for path in &paths {
        assert_eq!(stage.caller.get(path, &stage.key).await.status.as_u16(), 200);
    }
}

// ---- what every answer carries ----

#[tokio::test]
async fn a_commands_answer_says_where_the_time_went_and_which_request_it_is() {
    let stage = Stage::start().await;
    let bearer = format!("Bearer {}", stage.key);
    let body = json!({"command": "find the file about the roadmap"}).to_string();
    let fields =
        [("authorization", &*bearer), ("content-type", "application/json"), ("x-request-id", "mine-1")];
    let reply = stage.caller.send("POST", "/api/v1/command", &fields, body.clone()).await;
    let timing = &reply.value()["timing"];
    assert_eq!(reply.field("x-request-id"), Some("mine-1"));
    let header = reply.field("server-timing").expect("the field");
    let parts: Vec<(&str, f64)> = header
        .split(", ")
        .map(|part| part.split_once(";dur=").expect("a duration"))
        .map(|(name, ms)| (name, ms.parse().expect("a number")))
        .collect();
    let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["own", "openai", "google"]);
    for (name, ms) in parts {
        let us = timing[format!("{name}_us")].as_u64().expect("a number");
        assert_eq!(format!("{ms:.3}"), format!("{}.{:03}", us / 1_000, us % 1_000));
        assert!(us > 0, "{name}");
        assert!(us <= timing["total_us"].as_u64().expect("a number"));
    }
    let calls = reply.value()["steps"][0]["calls"].clone();
    assert!(
        calls
            .as_array()
            .expect("calls")
            .iter()
            .any(|call| call["service"] == "drive" && call["status"] == 200)
    );

    let own = stage.caller.send("POST", "/api/v1/command", &fields[..2], body).await;
    let again = stage.caller.get("/livez", &stage.key).await;
    let ids = [own.field("x-request-id").expect("an id"), again.field("x-request-id").expect("an id")];
    assert!(ids.iter().all(|id| id.len() >= 16) && ids[0] != ids[1], "{ids:?}");
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let stage = Stage::start().await;
    let task = stage.done("find the file about the roadmap").await;
    let bearer = format!("Bearer {}", stage.key);
    let paths = [
        format!("/api/v1/tasks/{}", text_of(&task, "/id")),
        format!("/api/v1/sessions/{}", text_of(&task, "/session")),
        "/livez".to_owned(),
        "/readyz".to_owned(),
    ];
    for path in &paths {
        let get = stage.caller.get(path, &stage.key).await;
        let head = stage.caller.send("HEAD", path, &[("authorization", &*bearer)], "").await;
        assert_eq!((head.status, head.body.len()), (get.status, 0), "{path}");
        for name in ["content-type", "content-length"] {
            assert_eq!(head.field(name), get.field(name), "{path}");
        }
        assert_eq!(get.field("content-length"), Some(&*get.body.len().to_string()), "{path}");
    }
    let head = stage.caller.send("HEAD", "/metrics", &[], "").await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
}

#[tokio::test]
async fn each_route_tells_the_methods_it_takes_and_refuses_others() {
    let stage = Stage::start().await;
    let bearer = format!("Bearer {}", stage.key);
    for (path, allow, wrong) in [
        ("/api/v1/command", "POST, OPTIONS", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "BREW"]),
        ("/api/v1/tasks/tsk_x", "GET, HEAD, OPTIONS", ["POST", "PUT", "DELETE", "PATCH", "BREW", "TRACE"]),
        (
            "/api/v1/sessions/ses_x",
            "GET, HEAD, DELETE, OPTIONS",
            ["POST", "PUT", "PATCH", "BREW", "TRACE", "LINK"],
        ),
        ("/livez", "GET, HEAD, OPTIONS", ["POST", "PUT", "DELETE", "PATCH", "BREW", "TRACE"]),
        ("/readyz", "GET, HEAD, OPTIONS", ["POST", "PUT", "DELETE", "PATCH", "BREW", "TRACE"]),
        ("/metrics", "GET, HEAD, OPTIONS", ["POST", "PUT", "DELETE", "PATCH", "BREW", "TRACE"]),
    ] {
        let options = stage.caller.send("OPTIONS", path, &[], "").await;
        assert_eq!((options.status.as_u16(), options.field("allow")), (204, Some(allow)), "{path}");
        for method in wrong {
            let reply = stage.caller.send(method, path, &[("authorization", &*bearer)], "").await;
            assert_eq!(reply.field("allow"), Some(allow), "{method} {path}");
            if method == "HEAD" {
                assert_eq!((reply.status.as_u16(), reply.body.len()), (405, 0));
            } else {
                reply.problem(405, "method-not-allowed");
            }
        }
    }
}

// ---- health and metrics ----

#[tokio::test]
async fn health_is_told_over_http3_and_on_the_administrative_address() {
    let stage = Stage::start().await;
    for path in ["/livez", "/readyz", "/readyz?verbose"] {
        let reply = stage.caller.send("GET", path, &[], "").await;
        assert_eq!((reply.status.as_u16(), text_of(&reply.value(), "/status")), (200, "ok"), "{path}");
        assert_eq!(stage.scene.gateway.admin_get(path).await.0, 200, "{path}");
    }
    let verbose = stage.caller.send("GET", "/readyz?verbose", &[], "").await.value();
    let names: Vec<&str> =
        verbose["checks"].as_array().expect("checks").iter().map(|c| text_of(c, "/name")).collect();
    assert_eq!(names.len(), 3, "two cores and the store: {names:?}");
    let (_, _, text) = stage.scene.gateway.admin_get("/readyz?verbose").await;
    assert!(text.contains("core 1: Ready") && text.contains("store: ok"), "{text}");
}

#[tokio::test]
async fn the_metrics_page_has_every_family_once() {
    let stage = Stage::start().await;
    stage.done("find the file about the roadmap").await;
    let over_http3 = stage.caller.send("GET", "/metrics", &[], "").await;
    let text = String::from_utf8(over_http3.body.to_vec()).expect("UTF-8");
    let (status, content_type, admin) = stage.scene.gateway.admin_get("/metrics").await;
    assert_eq!((status, over_http3.status.as_u16()), (200, 200));
    assert_eq!(over_http3.field("content-type"), Some(&*content_type));
    assert!(content_type.starts_with("application/openmetrics-text"), "{content_type}");
    let families = |page: &str| -> Vec<String> {
        let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        types.map(|rest| rest.split(' ').next().unwrap_or_default().to_owned()).collect()
    };
    let listed = families(&text);
    assert_eq!(listed, families(&admin), "both places show the same page");
    let once: BTreeSet<&String> = listed.iter().collect();
    let twice: Vec<&String> =
        once.iter().copied().filter(|name| listed.iter().filter(|n| n == name).count() > 1).collect();
    assert!(twice.is_empty(), "declared twice: {twice:?}");
    for name in [
        "requests",
        "request_duration_seconds",
        "problems",
        "tasks_queued",
        "tasks_running",
        "tasks_ended",
        "commands_accepted",
        "sessions_active",
        "core_turns",
        "core_stalls",
        "core_ready",
        "mailbox_depth",
        "mailbox_sent",
        "commit_groups",
        "commit_batches",
        "commit_duration_seconds",
        "ingress_connections",
        "ingress_requests",
        "egress_requests",
        "egress_duration_seconds",
        "hops_sent",
    ] {
        assert!(once.contains(&format!("sluice_{name}")), "{name} is missing from {listed:?}");
    }
    assert!(text.ends_with("# EOF\n"));
    let page = stage.scene.gateway.page().await;
    assert_eq!(page.sum("sluice_requests_total", &[("route", "command"), ("status", "2xx")]), 1);
    assert_eq!(page.sum("sluice_request_duration_seconds_count", &[("route", "command")]), 1);
    assert_eq!(page.sum("sluice_sessions_active", &[]), 1);
    assert_eq!(page.sum("sluice_ingress_connections", &[]), 1);
    for name in ["sluice_core_turns_total", "sluice_commit_batches_total", "sluice_egress_requests_total"] {
        assert!(page.sum(name, &[]) > 0, "{name}");
    }
}

// ---- the command line ----

#[tokio::test]
async fn the_command_line_carries_out_commands() {
    let stage = Stage::start().await;
    let (url, ca) = (format!("https://{}", stage.scene.gateway.address), stage.scene.gateway.ca());
    let ca = ca.to_str().expect("UTF-8");
    let run = |arguments: &[&str]| {
        let common = ["command", "--key", &stage.key, "--url", &url, "--ca", ca];
        stage.scene.gateway.admin(&[&common[..], arguments].concat())
    };
    let found = run(&["find the mail from Anna about the budget", "--json", "--expect", "done"]);
    let task: Value = serde_json::from_str(&found).expect("JSON");
    assert_eq!(operations(&task), ["gmail.search"]);
    let shown = run(&["reply to her saying thanks", "--mode", "async"]);
    assert!(shown.contains("gmail.reply") && shown.contains("queued: /api/v1/tasks/tsk_"), "{shown}");
    // Nothing of a preview is carried out.
    let mail = "send an email to ben@x.example with subject Lunch and body See you at noon!";
    let planned = run(&[mail, "--mode", "preview", "--priority", "high", "--deadline", "30000", "--json"]);
    let task: Value = serde_json::from_str(&planned).expect("JSON");
    assert_eq!((&task["state"], &task["priority"]), (&json!("awaiting_confirmation"), &json!("high")));
    // Events are printed as they come, one a line, and the last is the task.
    let told = run(&["find the mail from Anna about the budget", "--mode", "stream", "--json"]);
    let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let names: Vec<&Value> = told.iter().map(|event| &event["event"]).collect();
    assert_eq!(names, ["accepted", "plan", "step.started", "step.done", "done"], "{told:#?}");
    assert_eq!(told[4]["data"]["state"], "done");
    let shown = run(&["find the mail from Anna about the budget", "--mode", "stream"]);
    assert!(shown.contains("step.done  s1 gmail.search done") && shown.contains("answer  "), "{shown}");
    run(&["tell me a joke", "--expect", "declined"]);
    stage.assert_effects(Effects { sends: 1, ..Effects::default() }).await;
    let common = ["command", "tell me a joke", "--key", &stage.key, "--url", &url, "--ca", ca];
    let said = stage.scene.gateway.refused(&[&common[..], &["--expect", "done"]].concat());
    assert!(said.contains("another state"), "{said}");
}

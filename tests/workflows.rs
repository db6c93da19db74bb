//! Workflows through the real binary: stored and versioned, refused with the step at fault, run once whenever the
//! gateway is killed, and taken back once when they fail.

mod common;

use common::asker::{Asker, text};
use common::scene::Scene;
use common::{Gateway, Sim};
use serde_json::{Value, json};

const NONE: Value = Value::Null;

/// Finds a mail, makes an event and a file side by side, and tells of both.
fn welcome() -> Value {
    json!({
        "description": "Book a talk about the newest mail of somebody, with notes",
        "input": {"who": {"type": "text", "default": "anna"}, "mark": {"type": "text"}, "start": {"type": "time"}},
        "steps": [
            {"id": "find", "operation": "gmail.search", "with": {"query": "from:${input.who}", "limit": 3}},
            {"id": "book", "operation": "calendar.create",
             "with": {"title": "Talk ${input.mark}: ${steps.find.messages[0].subject}", "start": "$input.start"},
             "when": {"greater": ["$steps.find.count", 0]}},
            {"id": "note", "operation": "drive.create", "with": {"name": "Notes ${input.mark}"}},
            {"id": "tell", "operation": "gmail.send", "after": ["book", "note"],
             "with": {"to": ["kim@example.com"], "subject": "Talk ${input.mark}",
                      "body": "About ${steps.find.messages[0].subject}, see ${steps.note.files[0].title}."}},
            {"id": "never", "operation": "gmail.trash", "with": {"message": "$steps.find.messages[0]"},
             "when": {"equals": ["$input.who", "nobody"]}},
        ],
    })
}

/// Makes an event, a draft and a file, and then reads a mail that nobody wrote.
fn doomed() -> Value {
    json!({
        "input": {"mark": {"type": "text"}, "start": {"type": "time"}},
        "steps": [
            {"id": "book", "operation": "calendar.create", "with": {"title": "Talk ${input.mark}", "start": "$input.start"}},
            {"id": "draft", "operation": "gmail.draft", "after": ["book"],
             "with": {"to": ["kim@example.com"], "subject": "Talk ${input.mark}", "body": "See you."}},
            {"id": "note", "operation": "drive.create", "after": ["draft"], "with": {"name": "Notes ${input.mark}"}},
            {"id": "find", "operation": "gmail.search", "with": {"query": "from:nobody.at.all ${input.mark}"}},
            {"id": "read", "operation": "gmail.read", "after": ["note"], "with": {"message": "$steps.find.messages[0]"}},
            {"id": "last", "operation": "gmail.send", "after": ["read"],
             "with": {"to": ["kim@example.com"], "subject": "Never ${input.mark}", "body": "."}},
        ],
    })
}

fn input(mark: &str) -> Value {
    json!({"mark": mark, "start": "2031-03-04T10:00"})
}

fn step<'a>(task: &'a Value, name: &str) -> &'a Value {
    let steps = task["steps"].as_array().expect("steps");
    steps.iter().find(|step| step["name"] == name).unwrap_or_else(|| panic!("no {name}: {task:#}"))
}

fn step_of(task: &Value, index: usize) -> &Value {
    &task["steps"][index]
}

fn states(task: &Value) -> Vec<(&str, &str)> {
    let steps = task["steps"].as_array().expect("steps");
    steps.iter().map(|step| (text(&step["name"]), text(&step["state"]))).collect()
}

/// How often the simulator carried something out for a user, by Google's name of it.
fn changes(state: &Value, user: &str, method: &str) -> u64 {
    state["users"][user]["changes"][method].as_u64().unwrap_or(0)
}

const INSERT: &str = "calendar.events.insert";
const DELETE: &str = "calendar.events.delete";
const CREATE: &str = "drive.files.create";
const TRASH: &str = "drive.files.update";
const SEND: &str = "gmail.drafts.send";
const DRAFT: &str = "gmail.drafts.create";
const DROP: &str = "gmail.drafts.delete";

/// A moment at which the gateway is killed: a call that hangs, before it was carried out or after.
struct Moment {
    service: &'static str,
    method: &'static str,
    path: &'static str,
    /// What was carried out before it hangs.
    done: Option<&'static str>,
}

const fn before(service: &'static str, method: &'static str, path: &'static str) -> Moment {
    Moment { service, method, path, done: None }
}

const fn after(
    service: &'static str,
    method: &'static str,
    path: &'static str,
    done: &'static str,
) -> Moment {
    Moment { service, method, path, done: Some(done) }
}

struct Stage {
    gateway: Gateway,
    sim: Sim,
    directory: tempfile::TempDir,
}

impl Stage {
    fn start() -> Self {
        let scene = Scene::start(2, &[]);
        Self { gateway: scene.gateway, sim: scene.sim, directory: scene.directory }
    }

    async fn user(&self, name: &str) -> Asker {
        Asker::of(&self.gateway, &self.gateway.user(name)).await
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..3_000 {
            let state = self.sim.state().await;
            if is_so(&state) {
                return state;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("it does not come to this: {what}: {:#}", self.sim.state().await);
    }

    /// Runs a workflow, kills the gateway at the moment, and gives the task's end and what was done by then.
    async fn killed_at(self, index: usize, definition: &Value, moment: &Moment) -> (Self, Value, Value) {
        let Moment { service, method, path, done } = *moment;
        let (user, mark) = (format!("user-{index}"), format!("q{index:04}x"));
        let asker = self.user(&user).await;
        asker.expect(201, "PUT", "/workflows/trial", definition).await;
        let fired = self.sim.state().await["faults_fired"].as_u64().expect("a count") + 1;
        let fault = json!({"service": service, "kind": "hang", "method": method, "path_contains": path,
            "after_effect": done.is_some(), "count": 1});
        self.sim.fault(fault).await;
        let run = json!({"input": input(&mark), "mode": "async"});
        let promise = asker.expect(202, "POST", "/workflows/trial/runs", &run).await;
        self.until("the moment", |state| {
            state["faults_fired"].as_u64() >= Some(fired)
                && done.is_none_or(|method| changes(state, &user, method) == 1)
        })
        .await;
        let Self { gateway, sim, directory } = self;
        let gateway = gateway.crash_and_restart();
        sim.clear_faults().await;
        let stage = Self { gateway, sim, directory };
        let asker = Asker::of(&stage.gateway, &asker.key).await;
        let task = asker.ended(&promise["id"]).await;
        let state = stage.until("an idle simulator", |state| state["under_way"] == 0).await;
        assert_eq!(state["duplicates"], json!({"messages": [], "events": []}));
        (stage, task, state)
    }
}

#[tokio::test]
async fn a_run_that_is_killed_in_its_midst_goes_on_and_does_nothing_twice() {
    let mut stage = Stage::start();
    let moments = [
        before("calendar", "POST", "/events"),
        after("calendar", "POST", "/events", INSERT),
        before("drive", "POST", "/files"),
        after("drive", "POST", "/files", CREATE),
        after("gmail", "POST", "/drafts", DRAFT),
        before("gmail", "POST", "/drafts/send"),
        after("gmail", "POST", "/drafts/send", SEND),
    ];
    for (index, moment) in moments.iter().enumerate() {
        let (next, task, state) = stage.killed_at(index, &welcome(), moment).await;
        stage = next;
        assert_eq!(task["state"], "done", "{task:#}");
        let expected =
            [("find", "done"), ("book", "done"), ("note", "done"), ("tell", "done"), ("never", "skipped")];
        assert_eq!(states(&task), expected);
        let user = format!("user-{index}");
        let done = [INSERT, CREATE, SEND, DRAFT].map(|method| changes(&state, &user, method));
        assert_eq!(done, [1; 4], "{index}: {:#}", state["users"][&user]);
        assert_eq!(state["users"][&user]["drafts_left"], 0);
        // What was found is in what was made of it.
        let subject = text(&step(&task, "find")["items"][0]["title"]);
        assert_eq!(
            state["users"][&user]["inserts"][0]["summary"],
            format!("Talk q{index:04}x: {subject}"),
            "{task:#}"
        );
        assert_eq!(task["workflow"]["name"], "trial");
        assert!(task["attempts"].as_u64() >= Some(2), "{task:#}");
    }
}

#[tokio::test]
async fn what_a_failed_run_did_is_taken_back_once_even_over_a_kill() {
    let mut stage = Stage::start();
    let moments = [
        after("drive", "POST", "/files", CREATE),
        before("drive", "PATCH", "/files"),
        after("drive", "PATCH", "/files", TRASH),
        after("gmail", "DELETE", "/drafts", DROP),
        before("calendar", "DELETE", "/events"),
        after("calendar", "DELETE", "/events", DELETE),
    ];
    for (index, moment) in moments.iter().enumerate() {
        let (next, task, state) = stage.killed_at(index, &doomed(), moment).await;
        stage = next;
        assert_eq!(task["state"], "failed", "{task:#}");
        assert_eq!(task["error"]["type"], "/problems/unresolved-reference", "{task:#}");
        let sought = format!("no message from Nobody.at.all matching “q{index:04}x” was found");
        assert_eq!(task["error"]["detail"], sought);
        // Something was done, so the run must not simply be repeated.
        assert_eq!(task["error"]["retryable"], false);
        for name in ["book", "draft", "note"] {
            let step = step(&task, name);
            assert_eq!((&step["state"], &step["compensation"]["state"]), (&json!("done"), &json!("done")));
        }
        assert_eq!(
            (&step(&task, "read")["state"], &step(&task, "last")["state"]),
            (&json!("failed"), &json!("skipped"))
        );
        assert!(text(&task["answer"]).contains("back."), "{task:#}");
        let user = format!("user-{index}");
        let done = [INSERT, DELETE, CREATE, DRAFT, DROP, SEND].map(|method| changes(&state, &user, method));
        assert_eq!(done, [1, 1, 1, 1, 1, 0], "{index}: {:#}", state["users"][&user]);
        // Going to the trash is a state that is set, so a second time would only set it again.
        assert!(changes(&state, &user, TRASH) >= 1);
        assert_eq!(state["users"][&user]["drafts_left"], 0);
        assert_eq!(state["users"][&user]["deletes"][0]["summary"], format!("Talk q{index:04}x"));
    }
}

/// Makes a file, gives it to two people, one of whom is named twice, and labels a mail.
fn handed() -> Value {
    json!({
        "input": {"mark": {"type": "text"}, "start": {"type": "time"}},
        "steps": [
            {"id": "note", "operation": "drive.create", "with": {"name": "Notes ${input.mark}", "text": "For ${input.mark}."}},
            {"id": "share", "operation": "drive.share",
             "with": {"file": "$steps.note.files[0]", "people": ["kim@example.com", "ben@x.example", "Kim@example.com"], "role": "writer"}},
            {"id": "find", "operation": "gmail.search", "with": {"query": "from:anna", "limit": 1}, "after": ["share"]},
            {"id": "label", "operation": "gmail.label",
             "with": {"message": "$steps.find.messages[0]", "add": ["STARRED", "Trips"], "remove": "INBOX"}},
        ],
    })
}

const SHARE: &str = "drive.permissions.create";
const UNSHARE: &str = "drive.permissions.delete";
const SET_ROLE: &str = "drive.permissions.update";
const LABEL: &str = "gmail.messages.modify";

#[tokio::test]
async fn a_file_is_shared_with_each_once_whichever_call_a_kill_falls_on() {
    let mut stage = Stage::start();
    let moments = [
        after("drive", "POST", "/upload", CREATE),
        before("drive", "POST", "/permissions"),
        after("drive", "POST", "/permissions", SHARE),
        after("gmail", "POST", "/labels", "gmail.labels.create"),
        after("gmail", "POST", "/modify", LABEL),
    ];
    for (index, moment) in moments.iter().enumerate() {
        let (next, task, state) = stage.killed_at(index, &handed(), moment).await;
        stage = next;
        assert_eq!(task["state"], "done", "{task:#}");
        let done = [CREATE, SHARE, "gmail.labels.create"]
            .map(|method| changes(&state, &format!("user-{index}"), method));
        assert_eq!(done, [1, 2, 1], "{index}: {task:#}");
    }
}

#[tokio::test]
async fn a_failed_run_takes_back_what_it_gave_and_no_more() {
    let mut stage = Stage::start();
    // Ben can read the file before, and one of the labels is there before: both stay as they were.
    let mut definition = handed();
    let steps = definition["steps"].as_array_mut().expect("steps");
    steps.insert(
        1,
        json!({"id": "before", "operation": "drive.share", "compensate": false,
        "with": {"file": "$steps.note.files[0]", "people": "ben@x.example"}}),
    );
    steps[2]["after"] = json!(["before"]);
    steps.insert(
        4,
        json!({"id": "star", "operation": "gmail.label", "compensate": false,
        "with": {"message": "$steps.find.messages[0]", "add": "STARRED"}}),
    );
    steps[5]["after"] = json!(["star"]);
    // Finds what it would change done, so there is nothing to be taken back.
    steps.insert(
        6,
        json!({"id": "again", "operation": "gmail.label", "after": ["star"],
        "with": {"message": "$steps.find.messages[0]", "add": "STARRED"}}),
    );
    steps.push(json!({"id": "none", "operation": "gmail.search", "with": {"query": "from:nobody.at.all"}}));
    steps.push(json!({"id": "read", "operation": "gmail.read", "after": ["label", "again"], "with": {"message": "$steps.none.messages[0]"}}));
    let moments = [
        after("gmail", "POST", "/modify", LABEL),
        before("drive", "DELETE", "/permissions"),
        after("drive", "DELETE", "/permissions", UNSHARE),
        before("drive", "PATCH", "/permissions"),
        after("drive", "PATCH", "/permissions", SET_ROLE),
    ];
    for (index, moment) in moments.iter().enumerate() {
        let (next, task, state) = stage.killed_at(index, &definition, moment).await;
        stage = next;
        assert_eq!(task["state"], "failed", "{task:#}");
        for name in ["note", "share", "label", "again"] {
            assert_eq!(step(&task, name)["compensation"]["state"], "done", "{name}: {task:#}");
        }
        let user = format!("user-{index}");
        assert_eq!([SHARE, UNSHARE].map(|method| changes(&state, &user, method)), [3, 1], "{task:#}");
        let asker = Asker::of(&stage.gateway, &stage.gateway.admin(&["key", "add", &user])).await;
        let message = text(&step(&task, "find")["items"][0]["id"]).to_owned();
        let labels =
            asker.get(&format!("/gmail/messages/{message}?format=minimal")).await["labelIds"].clone();
        let labels = labels.as_array().expect("labels").clone();
        assert!(labels.contains(&json!("STARRED")) && labels.contains(&json!("INBOX")), "{labels:?}");
        let own = asker.get("/gmail/labels").await["labels"].clone();
        let trips = own.as_array().expect("labels").iter().find(|label| label["name"] == "Trips").cloned();
        assert!(!labels.contains(&trips.expect("it was made")["id"]), "{labels:?}");
        let file = text(&step(&task, "note")["items"][0]["id"]).to_owned();
        let path = format!("/drive/files/{file}/permissions?fields=permissions(emailAddress,role)");
        assert!(changes(&state, &user, SET_ROLE) >= 1, "{task:#}");
        let people = asker.get(&path).await["permissions"].as_array().expect("a list").clone();
        assert_eq!(people.len(), 2, "its owner and Ben");
        let ben = people.iter().find(|one| one["emailAddress"] == "ben@x.example").expect("Ben");
        assert_eq!(ben["role"], "reader", "he had been made a writer");
    }
}

/// Makes a file and a folder, and moves the one into the other.
fn moved() -> Value {
    json!({
        "input": {"mark": {"type": "text"}, "start": {"type": "time"}},
        "steps": [
            {"id": "note", "operation": "drive.create", "with": {"name": "Notes ${input.mark}"}},
            {"id": "box", "operation": "drive.create", "with": {"name": "Box ${input.mark}", "folder": true}},
            {"id": "move", "operation": "drive.move", "with": {"file": "$steps.note.files[0]", "folder": "$steps.box.files[0]"}},
        ],
    })
}

/// The folders that a file of a run is in.
async fn parents(stage: &Stage, user: &str, task: &Value) -> Value {
    let asker = Asker::of(&stage.gateway, &stage.gateway.admin(&["key", "add", user])).await;
    let file = text(&step(task, "note")["items"][0]["id"]).to_owned();
    asker.get(&format!("/drive/files/{file}?fields=parents")).await["parents"].clone()
}

#[tokio::test]
async fn a_file_is_moved_once_and_back_once_whichever_call_a_kill_falls_on() {
    const MOVE: &str = "drive.files.update";
    let mut stage = Stage::start();
    for (index, moment) in
        [before("drive", "PATCH", "/files/"), after("drive", "PATCH", "/files/", MOVE)].iter().enumerate()
    {
        let (next, task, state) = stage.killed_at(index, &moved(), moment).await;
        stage = next;
        let user = format!("user-{index}");
        assert_eq!(task["state"], "done", "{task:#}");
        assert_eq!(changes(&state, &user, MOVE), 1, "{task:#}");
        let folder = step(&task, "box")["items"][0]["id"].clone();
        assert_eq!(parents(&stage, &user, &task).await, json!([folder]));
    }
    // Killed while it is moved, and while it is moved back.
    let mut definition = moved();
    let steps = definition["steps"].as_array_mut().expect("steps");
    steps.push(json!({"id": "none", "operation": "gmail.search", "with": {"query": "from:nobody.at.all"}}));
    steps.push(json!({"id": "read", "operation": "gmail.read", "after": ["move"], "with": {"message": "$steps.none.messages[0]"}}));
    let moment = after("drive", "PATCH", "/files/", MOVE);
    let (stage, task, state) = stage.killed_at(2, &definition, &moment).await;
    assert_eq!(task["state"], "failed", "{task:#}");
    for name in ["note", "box", "move"] {
        assert_eq!(step(&task, name)["compensation"]["state"], "done", "{name}: {task:#}");
    }
    // There, back, and both that were made to the trash.
    assert_eq!(changes(&state, "user-2", MOVE), 4, "{task:#}");
    let folder = step(&task, "box")["items"][0]["id"].clone();
    let parents = parents(&stage, "user-2", &task).await;
    let list = parents.as_array().expect("a list");
    assert!(list.len() == 1 && !list.contains(&folder), "{list:?}");
}

/// Changes an event, cancels another, throws a mail and a file away (the file twice), and then fails. What it works on stays.
fn altered() -> Value {
    let kept = |mut step: Value| {
        step["compensate"] = json!(false);
        step
    };
    let make = |id: &str| {
        kept(
            json!({"id": id, "operation": "calendar.create", "with": {"title": format!("{id} ${{input.mark}}"),
            "start": "$input.start", "location": "Room 1", "attendees": ["kim@example.com"]}}),
        )
    };
    json!({
        "input": {"mark": {"type": "text"}, "start": {"type": "time"}},
        "steps": [
            make("talk"),
            make("lunch"),
            kept(json!({"id": "note", "operation": "drive.create", "with": {"name": "Notes ${input.mark}"}})),
            {"id": "find", "operation": "gmail.search", "with": {"query": "in:inbox from:anna", "limit": 1}},
            {"id": "change", "operation": "calendar.change", "with": {"event": "$steps.talk.events[0]", "title": "Moved",
                "start": "2031-03-05T12:00", "location": "Room 2", "add_attendees": ["ben@x.example"]}},
            {"id": "cancel", "operation": "calendar.delete", "with": {"event": "$steps.lunch.events[0]"}, "after": ["change"]},
            {"id": "trash", "operation": "gmail.trash", "with": {"message": "$steps.find.messages[0]"}, "after": ["cancel"]},
            {"id": "bin", "operation": "drive.trash", "with": {"file": "$steps.note.files[0]"}, "after": ["trash"]},
            {"id": "again", "operation": "drive.trash", "with": {"file": "$steps.note.files[0]"}, "after": ["bin"]},
            {"id": "none", "operation": "gmail.search", "with": {"query": "from:nobody.at.all"}},
            {"id": "read", "operation": "gmail.read", "after": ["again"], "with": {"message": "$steps.none.messages[0]"}},
        ],
    })
}

#[tokio::test]
async fn what_was_changed_cancelled_and_thrown_away_is_as_it_was_even_over_a_kill() {
    const CHANGE: &str = "calendar.events.patch";
    const RESTORE: &str = "calendar.events.update";
    let mut stage = Stage::start();
    let moments = [
        after("calendar", "PATCH", "/events/", CHANGE),
        after("calendar", "DELETE", "/events/", DELETE),
        before("calendar", "PUT", "/events/"),
        after("calendar", "PUT", "/events/", RESTORE),
        after("gmail", "POST", "/untrash", "gmail.messages.untrash"),
        after("gmail", "POST", "/modify", LABEL),
    ];
    for (index, moment) in moments.iter().enumerate() {
        let (next, task, state) = stage.killed_at(index, &altered(), moment).await;
        stage = next;
        assert_eq!(task["state"], "failed", "{task:#}");
        for name in ["change", "cancel", "trash", "bin", "again"] {
            assert_eq!(step(&task, name)["compensation"]["state"], "done", "{name}: {task:#}");
        }
        let user = format!("user-{index}");
        let done = [CHANGE, DELETE, RESTORE].map(|method| changes(&state, &user, method));
        assert_eq!(done, [2, 1, 1], "{index}: {task:#}");
        let asker = Asker::of(&stage.gateway, &stage.gateway.admin(&["key", "add", &user])).await;
        for (name, title) in [("talk", "talk"), ("lunch", "lunch")] {
            let id = text(&step(&task, name)["items"][0]["id"]).to_owned();
            let event = asker.get(&format!("/calendar/events/{id}?time_zone=UTC")).await;
            assert_eq!(event["summary"], format!("{title} q{index:04}x"), "{event:#}");
            assert_eq!((&event["status"], &event["location"]), (&json!("confirmed"), &json!("Room 1")));
            assert!(text(&event["start"]["dateTime"]).starts_with("2031-03-04T"), "{event:#}");
            let invited = event["attendees"].as_array().expect("attendees");
            assert!(invited.len() == 1 && invited[0]["email"] == "kim@example.com", "{event:#}");
        }
        let message = text(&step(&task, "find")["items"][0]["id"]).to_owned();
        let labels =
            asker.get(&format!("/gmail/messages/{message}?format=minimal")).await["labelIds"].clone();
        let labels = labels.as_array().expect("labels").clone();
        assert!(labels.contains(&json!("INBOX")) && !labels.contains(&json!("TRASH")), "{labels:?}");
        let file = text(&step(&task, "note")["items"][0]["id"]).to_owned();
        assert_eq!(asker.get(&format!("/drive/files/{file}?fields=trashed")).await["trashed"], false);
    }
}

#[tokio::test]
async fn one_occurrence_of_a_series_is_cancelled_and_comes_back() {
    let stage = Stage::start();
    let ada = stage.user("ada").await;
    let at =
        |hour: u8| json!({"dateTime": format!("2031-03-03T{hour:02}:00:00"), "timeZone": "Europe/Berlin"});
    let series = json!({"summary": "Standup", "start": at(10), "end": at(11), "recurrence": ["RRULE:FREQ=DAILY;COUNT=3"]});
    ada.expect(200, "POST", "/calendar/events?send_updates=none", &series).await;
    let listed = async || {
        let path = "/calendar/events?q=standup&single_events=true&order_by=startTime\
                    &from=2031-03-01T00:00:00Z&to=2031-03-09T00:00:00Z&fields=items(id,status)";
        ada.with("GET", path, &[("cache-control", "no-cache")], &NONE).await.value()["items"].clone()
    };
    let before = listed().await;
    assert_eq!(before.as_array().expect("a list").len(), 3, "{before:#}");
    let definition = json!({"steps": [
        {"id": "find", "operation": "calendar.list", "with": {"query": "standup", "from": "2031-03-04", "to": "2031-03-04", "limit": 1}},
        {"id": "cancel", "operation": "calendar.delete", "with": {"event": "$steps.find.events[0]"}},
        {"id": "none", "operation": "gmail.search", "with": {"query": "from:nobody.at.all"}},
        {"id": "read", "operation": "gmail.read", "after": ["cancel"], "with": {"message": "$steps.none.messages[0]"}},
    ]});
    ada.expect(201, "PUT", "/workflows/skip", &definition).await;
    let problem =
        ada.ask("POST", "/workflows/skip/runs", &json!({})).await.problem(422, "unresolved-reference");
    assert_eq!(step(&problem["task"], "cancel")["compensation"]["state"], "done", "{problem:#}");
    assert_eq!(listed().await, before);
    let state = stage.sim.state().await;
    let done = [DELETE, "calendar.events.patch", "calendar.events.update"];
    assert_eq!(done.map(|method| changes(&state, "ada", method)), [1, 1, 0]);
}

#[tokio::test]
async fn what_was_given_by_reference_is_checked_when_it_is_known() {
    let stage = Stage::start();
    let ada = stage.user("ada").await;
    let definition = json!({
        "input": {"role": {"type": "text"}, "label": {"type": "text", "default": "Trips"}},
        "steps": [
            {"id": "find", "operation": "gmail.search", "with": {"query": "from:anna", "limit": 1}},
            {"id": "label", "operation": "gmail.label", "with": {"message": "$steps.find.messages[0]", "add": ["$input.label", "STARRED"]}},
            {"id": "note", "operation": "drive.create", "with": {"name": "Notes", "text": "x"}, "after": ["label"]},
            {"id": "share", "operation": "drive.share",
             "with": {"file": "$steps.note.files[0]", "people": "kim@example.com", "role": "$input.role"}},
        ],
    });
    ada.expect(201, "PUT", "/workflows/hand", &definition).await;
    let run = |role: &str| json!({"input": {"role": role}});
    let done = ada.expect(200, "POST", "/workflows/hand/runs", &run("Writer")).await;
    assert_eq!(done["state"], "done", "{done:#}");
    let own = ada.get("/gmail/labels").await["labels"].clone();
    assert!(own.as_array().expect("labels").iter().any(|label| label["name"] == "Trips"), "{own:#}");
    let file = text(&step(&done, "note")["items"][0]["id"]).to_owned();
    let people = ada.get(&format!("/drive/files/{file}/permissions?fields=permissions(role)")).await;
    assert!(
        people["permissions"].as_array().expect("a list").contains(&json!({"role": "writer"})),
        "{people:#}"
    );
    // No role: the step says so, nobody is given the file, and what was done before is taken back.
    let answer = ada.ask("POST", "/workflows/hand/runs", &run("boss")).await;
    let problem = answer.problem(422, "invalid-field");
    let share = step(&problem["task"], "share");
    let told = "role came out as “boss”, which is none of reader, commenter, writer";
    assert_eq!((&share["state"], &share["error"]["detail"]), (&json!("failed"), &json!(told)), "{problem:#}");
    for name in ["label", "note"] {
        assert_eq!(step(&problem["task"], name)["compensation"]["state"], "done", "{problem:#}");
    }
    assert_eq!(changes(&stage.sim.state().await, "ada", SHARE), 1);
    // What is written out is checked when it is stored; so is what is promised to be taken back.
    let mut wrong = definition.clone();
    wrong["steps"][3]["with"]["role"] = json!("boss");
    let refused = ada.ask("PUT", "/workflows/hand", &wrong).await.problem(422, "invalid-field");
    assert_eq!(refused["errors"][0]["pointer"], "/steps/3/with/role", "{refused:#}");
    let mut promised = definition;
    promised["steps"][0]["compensate"] = json!(true);
    let refused = ada.ask("POST", "/workflows/check", &promised).await.problem(422, "invalid-field");
    assert!(text(&refused["detail"]).contains("step `find`"), "{refused:#}");
    assert_eq!(refused["errors"][0]["pointer"], "/steps/0/compensate", "{refused:#}");
}

#[tokio::test]
async fn what_is_cyclic_unknown_or_mistyped_is_refused_with_the_step_named() {
    let stage = Stage::start();
    let ada = stage.user("ada").await;
    let search = |id: &str, query: &str, after: Value| json!({"id": id, "operation": "gmail.search", "with": {"query": query}, "after": after});
    let cases = [
        (
            json!([
                search("one", "x", json!(["two"])),
                search("two", "x", json!(["three"])),
                search("three", "x", json!(["one"]))
            ]),
            ["one", "depends on itself: one -> two -> three -> one"],
            "/steps/0",
        ),
        (json!([search("one", "x", json!(["four"]))]), ["one", "four"], "/steps/0/after"),
        (
            json!([{"id": "one", "operation": "gmail.fly", "with": {}}]),
            ["one", "there is no such operation"],
            "/steps/0/operation",
        ),
        (
            json!([search("one", "x", json!([])), {"id": "two", "operation": "drive.read", "with": {"file": "$steps.one.messages[0]"}}]),
            ["two", "file"],
            "/steps/1/with/file",
        ),
        (json!([search("one", "${input.nobody}", json!([]))]), ["one", "nobody"], "/steps/0/with/query"),
    ];
    for (steps, words, place) in cases {
        let definition = json!({ "steps": steps });
        for (method, path) in [("PUT", "/workflows/bad"), ("POST", "/workflows/check")] {
            let problem = ada.ask(method, path, &definition).await.problem(422, "invalid-field");
            let error = &problem["errors"][0];
            for word in words {
                assert!(text(&error["detail"]).contains(word), "{word}: {problem:#}");
                assert!(text(&problem["detail"]).contains(words[0]), "{problem:#}");
            }
            assert!(text(&error["pointer"]).starts_with(place), "{place}: {problem:#}");
        }
    }
    assert_eq!(ada.get("/workflows").await["workflows"], json!([]), "nothing refused is stored");
    // An input is checked before anything is promised.
    ada.expect(201, "PUT", "/workflows/good", &welcome()).await;
    for input in
        [json!({}), json!({"mark": 7, "start": "2031-03-04T10:00"}), json!({"mark": "x", "start": "soon"})]
    {
        let run = json!({ "input": input });
        ada.ask("POST", "/workflows/good/runs", &run).await.problem(422, "invalid-field");
    }
    assert_eq!(ada.get("/tasks").await["tasks"], json!([]));
}

#[tokio::test]
async fn a_workflow_has_versions_that_outlive_a_restart_and_runs_keep_theirs() {
    let stage = Stage::start();
    let ada = stage.user("ada").await;
    let ask = |query: &str| json!({"steps": [{"id": "find", "operation": "gmail.search", "with": {"query": query, "limit": 1}}]});
    let first = ada.ask("PUT", "/workflows/look", &ask("from:anna")).await;
    let tag = first.field("etag").expect("a tag").to_owned();
    // Whoever changes what they have not seen is told so.
    let unseen = [("if-match", "\"9-0000000000000000\"")];
    ada.with("PUT", "/workflows/look", &unseen, &ask("x")).await.problem(412, "precondition-failed");
    ada.with("PUT", "/workflows/look", &[("if-none-match", "*")], &ask("x"))
        .await
        .problem(412, "precondition-failed");
    let second = ada.with("PUT", "/workflows/look", &[("if-match", &tag)], &ask("from:ben")).await;
    assert_eq!((second.status.as_u16(), &second.value()["version"]), (200, &json!(2)));
    let unchanged = [("if-none-match", second.field("etag").expect("a tag"))];
    assert_eq!(ada.with("GET", "/workflows/look", &unchanged, &NONE).await.status.as_u16(), 304);
    for name in ["a", "b", "c"] {
        ada.expect(201, "PUT", &format!("/workflows/{name}"), &ask("x")).await;
    }
    let Stage { gateway, sim, directory } = stage;
    let gateway = gateway.crash_and_restart();
    let ada = Asker::of(&gateway, &ada.key).await;
    let (all, pages) = ada.pages("/workflows?limit=2", "workflows").await;
    let names: Vec<&str> = all.iter().map(|one| text(&one["name"])).collect();
    assert_eq!((names, pages), (vec!["a", "b", "c", "look"], 2));
    let versions = ada.get("/workflows/look/versions").await;
    let numbers: Vec<&Value> =
        versions["versions"].as_array().expect("a list").iter().map(|one| &one["version"]).collect();
    assert_eq!(numbers, [2, 1]);
    assert_eq!(ada.get("/workflows/look/versions/1").await["definition"], ask("from:anna"));

    let one = ada.expect(200, "POST", "/workflows/look/runs", &json!({"version": 1})).await;
    assert_eq!((&one["workflow"]["version"], &one["state"]), (&json!(1), &json!("done")), "{one:#}");
    let keyed = [("idempotency-key", "only-once")];
    let body = json!({"mode": "async"});
    let newest = ada.with("POST", "/workflows/look/runs", &keyed, &body).await.value();
    assert_eq!(ada.with("POST", "/workflows/look/runs", &keyed, &body).await.value(), newest);
    assert_eq!(ada.ended(&newest["id"]).await["workflow"]["version"], 2);

    // Another user has no such workflow; nor has its owner, once it is deleted. Runs stay.
    let bob = Asker::of(&gateway, &gateway.user("bob")).await;
    bob.ask("GET", "/workflows/look", &NONE).await.problem(404, "not-found");
    bob.ask("POST", "/workflows/look/runs", &json!({})).await.problem(404, "not-found");
    ada.expect(204, "DELETE", "/workflows/look", &NONE).await;
    ada.ask("POST", "/workflows/look/runs", &json!({})).await.problem(404, "not-found");
    ada.ask("GET", "/workflows/look/versions/1", &NONE).await.problem(404, "not-found");
    assert_eq!(ada.task(&newest["id"]).await["state"], "done");
    drop(gateway);
    drop((sim, directory));
}

#[tokio::test]
async fn a_step_is_given_up_at_its_time_and_tried_as_often_as_it_may_be() {
    let stage = Stage::start();
    let ada = stage.user("ada").await;
    let step = |attempts: u8| {
        json!({"steps": [
            {"id": "find", "operation": "gmail.search", "with": {"query": "from:anna", "limit": 1},
             "timeout_ms": 400, "retry": {"attempts": attempts, "wait_ms": 1}},
            {"id": "read", "operation": "gmail.read", "with": {"message": "$steps.find.messages[0]"}},
        ]})
    };
    ada.expect(201, "PUT", "/workflows/patient", &step(2)).await;
    ada.expect(201, "PUT", "/workflows/hasty", &step(1)).await;
    let hang = json!({"service": "gmail", "kind": "hang", "operation": "gmail.messages.list", "count": 1});
    stage.sim.fault(hang.clone()).await;
    let answer = ada.ask("POST", "/workflows/hasty/runs", &json!({})).await;
    let problem = answer.problem(504, "step-timeout");
    assert_eq!(problem["detail"], "the time that the step may take ran out while Gmail was asked");
    assert_eq!(problem["task"]["state"], "failed", "{problem:#}");
    let (find, read) = (step_of(&problem["task"], 0), step_of(&problem["task"], 1));
    // More than one would be told.
    assert_eq!((&find["state"], &find["tries"]), (&json!("failed"), &NONE), "{problem:#}");
    assert_eq!(find["error"]["type"], "/problems/step-timeout", "{problem:#}");
    assert_eq!(read["state"], "skipped", "{problem:#}");
    // What hangs is not among what is asked.
    let counts = async || {
        let state = stage.sim.state().await;
        (state["faults_fired"].as_u64(), state["requests"]["gmail.messages.list"].as_u64())
    };
    assert_eq!(counts().await, (Some(1), None));
    // The same search hangs again, and the second try finds it.
    stage.sim.fault(hang).await;
    let run = ada.expect(200, "POST", "/workflows/patient/runs", &json!({})).await;
    assert_eq!(run["state"], "done", "{run:#}");
    assert_eq!((&step_of(&run, 0)["tries"], &step_of(&run, 1)["tries"]), (&json!(2), &NONE), "{run:#}");
    assert_eq!(counts().await, (Some(2), Some(1)));
    // When it is the run's time that is over, that is said.
    let slow = json!({"steps": [
        {"id": "find", "operation": "gmail.search", "with": {"query": "from:anna late"}, "timeout_ms": 60_000},
    ]});
    ada.expect(201, "PUT", "/workflows/slow", &slow).await;
    let hang = json!({"service": "gmail", "kind": "hang", "operation": "gmail.messages.list", "count": -1});
    stage.sim.fault(hang).await;
    let answer = ada.ask("POST", "/workflows/slow/runs", &json!({"deadline_ms": 1_000})).await;
    let problem = answer.problem(504, "deadline-exceeded");
    assert_eq!(step_of(&problem["task"], 0)["error"]["type"], "/problems/deadline-exceeded", "{problem:#}");
    stage.sim.clear_faults().await;
    let never = json!({"steps": [{"id": "find", "operation": "gmail.search", "with": {"query": "x"}, "timeout_ms": 99}]});
    let refused = ada.ask("POST", "/workflows/check", &never).await.problem(422, "invalid-field");
    assert_eq!(refused["errors"][0]["pointer"], "/steps/0/timeout_ms", "{refused:#}");
}

#[tokio::test]
async fn a_run_in_preview_changes_nothing_before_it_is_confirmed() {
    let stage = Stage::start();
    let ada = stage.user("ada").await;
    ada.expect(201, "PUT", "/workflows/welcome", &welcome()).await;
    let run = json!({"input": input("q1"), "mode": "preview"});
    let shown = ada.expect(200, "POST", "/workflows/welcome/runs", &run).await;
    assert_eq!(shown["state"], "awaiting_confirmation", "{shown:#}");
    assert!(states(&shown).iter().all(|(_, state)| *state == "pending"), "{shown:#}");
    let told = shown["changes"].as_array().expect("changes").iter();
    let told: Vec<&str> = told.map(|change| text(&change["what"])).collect();
    assert!(
        ["make an event", "make a file", "send a mail"].iter().all(|what| told.contains(what)),
        "{told:?}"
    );
    assert_eq!(stage.sim.state().await["users"], json!({}));
    let Stage { gateway, sim, directory } = stage;
    let gateway = gateway.crash_and_restart();
    let ada = Asker::of(&gateway, &ada.key).await;
    ada.expect(202, "POST", &format!("/tasks/{}/confirm", text(&shown["id"])), &NONE).await;
    assert_eq!(ada.ended(&shown["id"]).await["state"], "done");
    let state = sim.state().await;
    assert_eq!([INSERT, CREATE, SEND].map(|method| changes(&state, "ada", method)), [1; 3]);
    drop(gateway);
    drop(directory);
}

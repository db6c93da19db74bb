//! Workflows by the engine that carries out plans.

use sluice_protocols::api::WorkflowRunView;

use super::fake::{Kill, World};
use super::*;

fn call(rig: &Rig, steps: Value, input: Value) -> TaskRecord {
    let mut task = rig.accept(1);
    let view = WorkflowRunView { name: "test".to_owned(), version: 1, input };
    let definition = json!({"input": {"who": {"type": "text", "default": "anna"}}, "steps": steps});
    task.plan_json = called_json(view, definition);
    let mut batch = Batch::new(rig.shard);
    batch.put(&Key::task_pending(&task.user, &task.id), encode(&task).expect("encoded").as_bytes());
    rig.store.write_blocking(vec![batch]).expect("written");
    task
}

fn node(id: &str, operation: &str, with: Value) -> Value {
    json!({"id": id, "operation": operation, "with": with, "retry": {"attempts": 3, "wait_ms": 1}})
}

fn meet(id: &str) -> Value {
    node(id, "calendar.create", json!({"title": "Meeting", "start": "2026-11-24T10:00"}))
}

/// Makes an event, a draft and a file, then reads a mail that is not there.
fn doomed() -> Value {
    let mut read = node("read", "gmail.read", json!({"message": "$steps.find.messages[0]"}));
    read["after"] = json!(["meet", "draft", "file"]);
    json!([
        node("find", "gmail.search", json!({"query": "from:${input.who}"})),
        meet("meet"),
        node("draft", "gmail.draft", json!({"to": ["a@example.com"], "subject": "S", "body": "B"})),
        node("file", "drive.create", json!({"name": "Notes"})),
        read,
        {"id": "last", "operation": "drive.search", "with": {"text": "x"}, "after": ["read"]},
    ])
}

fn assert_taken_back_once(rig: &Rig, task: &TaskRecord, what: &str) {
    let view = view_of(task);
    assert_eq!(view.state, TaskState::Failed, "{what}: {:?}", view.steps);
    let by_name =
        |name: &str| view.steps.iter().find(|step| step.name.as_deref() == Some(name)).expect("a step");
    for name in ["meet", "draft", "file"] {
        let step = by_name(name);
        assert_eq!(step.state, StepState::Done, "{what}: {name} {:?}", step.error);
        let back = step.compensation.as_ref().map(|back| back.state);
        assert_eq!(back, Some(StepState::Done), "{what}: {name} {step:?}");
    }
    assert_eq!(
        (by_name("read").state, by_name("last").state),
        (StepState::Failed, StepState::Skipped),
        "{what}"
    );
    let world = rig.fake.world();
    assert_eq!((world.inserts, world.made_files.len()), (1, 1), "{what}");
    // The event and the draft; a file goes to the trash, which a repeat would only set again.
    assert_eq!(world.deletes, 2, "{what}: {:?}", world.log);
    assert!(world.drafts.is_empty() && world.sends.is_empty(), "{what}");
    assert!(world.trashed >= 1, "{what}");
}

#[test]
fn references_carry_results_from_step_to_step() {
    let rig = Rig::new();
    rig.fake.world().receive("Anna <anna@example.com>", "Budget", "the figures");
    let task = call(
        &rig,
        json!([
            node("find", "gmail.search", json!({"query": "from:${input.who}"})),
            node("read", "gmail.read", json!({"message": "$steps.find.messages[0].id"})),
            node(
                "tell",
                "gmail.send",
                json!({
            "to": ["$steps.find.messages[0].from"], "subject": "Re: ${steps.find.messages[0].subject}",
            "body": "You said: ${steps.read.text}"})
            ),
        ]),
        json!({}),
    );
    let view = view_of(&rig.run_after(task, Vec::new()));
    assert_eq!((view.state, states(&view)), (TaskState::Done, vec![StepState::Done; 3]), "{:?}", view.error);
    let world = rig.fake.world();
    let sent = world.sent();
    assert_eq!((sent[0].to.as_str(), sent[0].subject.as_str()), ("<anna@example.com>", "Re: Budget"));
    assert_eq!(sent[0].body, "You said: the figures");
    assert!(world.plan_requests.is_empty(), "no model is asked");
}

#[test]
fn a_condition_that_does_not_hold_skips_its_step_and_those_behind_it() {
    let rig = Rig::new();
    let mut tell = node("tell", "gmail.send", json!({"to": ["a@example.com"], "subject": "S", "body": "B"}));
    tell["when"] = json!({"greater": ["$steps.find.count", 0]});
    let mut behind = meet("behind");
    behind["after"] = json!(["tell"]);
    let task = call(
        &rig,
        json!([node("find", "gmail.search", json!({"query": "x"})), tell, behind, meet("beside"),]),
        json!({}),
    );
    let view = view_of(&rig.run_after(task, Vec::new()));
    use StepState::{Done, Skipped};
    assert_eq!((view.state, states(&view)), (TaskState::Done, vec![Done, Skipped, Skipped, Done]));
    let world = rig.fake.world();
    assert_eq!((world.sends.len(), world.inserts), (0, 1));
}

#[test]
fn branches_that_do_not_depend_on_each_other_run_side_by_side() {
    let rig = Rig::new();
    // None of them is answered before all have arrived.
    rig.fake.fault("POST /calendar", 3, Fault::Together(3));
    let view =
        view_of(&rig.run_after(call(&rig, json!([meet("a"), meet("b"), meet("c")]), json!({})), Vec::new()));
    assert_eq!((view.state, rig.fake.world().inserts), (TaskState::Done, 3));
}

#[test]
fn more_steps_than_may_run_at_once_are_all_carried_out() {
    let rig = Rig::new();
    let steps = Value::Array((0..25).map(|index| meet(&format!("m{index}"))).collect());
    let view = view_of(&rig.run_after(call(&rig, steps, json!({})), Vec::new()));
    assert_eq!((view.state, rig.fake.world().inserts), (TaskState::Done, 25));
}

#[test]
fn a_step_is_tried_as_often_as_its_author_says() {
    let unavailable = || Fault::Status(400, json!({"error": {"code": 400}}));
    let limited = json!({"error": {"code": 503, "message": "backend error"}});
    let rig = Rig::new();
    rig.fake.fault("GET /gmail", 1, unavailable());
    let view = view_of(&rig.run_after(
        call(&rig, json!([node("find", "gmail.search", json!({"query": "x"}))]), json!({})),
        Vec::new(),
    ));
    // What will not pass is not tried again.
    assert_eq!((view.state, rig.fake.count("GET /gmail")), (TaskState::Failed, 1));
    let rig = Rig::new();
    rig.fake.fault("GET /gmail", 4, Fault::Status(503, limited));
    let view = view_of(&rig.run_after(
        call(&rig, json!([node("find", "gmail.search", json!({"query": "x"}))]), json!({})),
        Vec::new(),
    ));
    assert_eq!(view.state, TaskState::Done, "{:?}", view.error);
    assert!(view.steps[0].tries.is_some_and(|tries| tries > 1), "{:?}", view.steps[0]);
}

#[test]
fn what_a_failed_workflow_did_is_taken_back() {
    let rig = Rig::new();
    let task = rig.run_after(call(&rig, doomed(), json!({})), Vec::new());
    assert_taken_back_once(&rig, &task, "undisturbed");
    let answer = task.answer.expect("an answer");
    assert!(answer.contains("Took the event “Meeting” back."), "{answer}");
    let order: Vec<String> = rig
        .fake
        .world()
        .log
        .iter()
        .filter(|line| line.starts_with("DELETE") || line.starts_with("PATCH"))
        .map(|line| line.split('/').nth(1).unwrap_or_default().to_owned())
        .collect();
    assert_eq!(order, ["drive", "gmail", "calendar"], "the last first");
}

#[test]
fn killed_at_any_request_it_is_done_once_and_taken_back_once() {
    let rig = Rig::new();
    rig.run_after(call(&rig, doomed(), json!({})), Vec::new());
    let requests = rig.fake.world().log.len();
    assert!(requests >= 9, "{requests}");
    for at in 0..requests {
        for done in [false, true] {
            let rig = Rig::new();
            let task = call(&rig, doomed(), json!({}));
            rig.fake.kill_at(Kill { at, done });
            assert!(rig.run_until_killed(task.clone()).is_none(), "{at} {done}");
            rig.fake.revive();
            let task = rig.run_after(recovered(rig.journaled(&task)), Vec::new());
            assert_taken_back_once(&rig, &task, &format!("killed at {at}, done {done}"));
        }
    }
}

/// Two events that are there before.
fn agenda(rig: &Rig) {
    for (id, title) in [("talk", "Talk"), ("lunch", "Lunch")] {
        let event = json!({
            "id": id, "etag": "\"0\"", "status": "confirmed", "summary": title, "location": "Room 1",
            "start": {"dateTime": "2026-11-24T10:00:00+01:00", "timeZone": "Europe/Berlin"},
            "end": {"dateTime": "2026-11-24T10:45:00+01:00", "timeZone": "Europe/Berlin"},
        });
        rig.fake.world().events.insert(id.to_owned(), event);
    }
}

/// Changes one event and cancels another, then reads a mail that is not there.
fn altered() -> Value {
    let mut read = node("read", "gmail.read", json!({"message": "$steps.none.messages[0]"}));
    read["after"] = json!(["change", "cancel"]);
    json!([
        node("find", "calendar.list", json!({"from": "2026-11-24", "limit": 5})),
        node(
            "change",
            "calendar.change",
            json!({"event": "$steps.find.events[1]", "title": "Moved",
            "start": "2026-11-25T12:00", "location": "Room 2", "add_attendees": ["ben@x.example"]})
        ),
        node("cancel", "calendar.delete", json!({"event": "$steps.find.events[0]"})),
        node("none", "gmail.search", json!({"query": "from:nobody"})),
        read,
    ])
}

fn assert_as_it_was(rig: &Rig, task: &TaskRecord, what: &str) {
    let view = view_of(task);
    assert_eq!(view.state, TaskState::Failed, "{what}: {:?}", view.steps);
    for step in &view.steps[1..3] {
        let back = step.compensation.as_ref().map(|back| back.state);
        assert_eq!((step.state, back), (StepState::Done, Some(StepState::Done)), "{what}: {step:?}");
    }
    let world = rig.fake.world();
    for (id, title) in [("talk", "Talk"), ("lunch", "Lunch")] {
        let event = &world.events[id];
        assert_eq!((&event["summary"], &event["status"]), (&json!(title), &json!("confirmed")), "{what}");
        assert_eq!(event["location"], "Room 1", "{what}");
        assert_eq!(event["start"]["dateTime"], "2026-11-24T10:00:00+01:00", "{what}");
        assert_eq!(event["end"]["dateTime"], "2026-11-24T10:45:00+01:00", "{what}");
        assert!(event["attendees"].as_array().is_none_or(Vec::is_empty), "{what}: {event}");
    }
    // There and back, each once: nobody who is invited is told of anything twice.
    assert_eq!((world.patches, world.deletes, world.restored), (2, 1, 1), "{what}: {:?}", world.log);
}

#[test]
fn events_that_were_changed_and_cancelled_are_as_they_were() {
    let rig = Rig::new();
    agenda(&rig);
    let task = rig.run_after(call(&rig, altered(), json!({})), Vec::new());
    assert_as_it_was(&rig, &task, "undisturbed");
    let answer = task.answer.expect("an answer");
    for told in ["Took the change of the event “Moved” back.", "Took the cancellation of the event back."]
    {
        assert!(answer.contains(told), "{answer}");
    }
}

#[test]
fn killed_at_any_request_events_are_changed_once_and_changed_back_once() {
    let rig = Rig::new();
    agenda(&rig);
    rig.run_after(call(&rig, altered(), json!({})), Vec::new());
    let requests = rig.fake.world().log.len();
    assert!(requests >= 10, "{requests}");
    for at in 0..requests {
        for done in [false, true] {
            let rig = Rig::new();
            agenda(&rig);
            let task = call(&rig, altered(), json!({}));
            rig.fake.kill_at(Kill { at, done });
            assert!(rig.run_until_killed(task.clone()).is_none(), "{at} {done}");
            rig.fake.revive();
            let task = rig.run_after(recovered(rig.journaled(&task)), Vec::new());
            assert_as_it_was(&rig, &task, &format!("killed at {at}, done {done}"));
        }
    }
}

#[test]
fn what_somebody_else_changed_since_is_not_overwritten() {
    // A step that is kept stands for another person: it sets the title after us.
    let rig = Rig::new();
    agenda(&rig);
    rig.fake.world().events.get_mut("lunch").expect("an event")["status"] = json!("cancelled");
    let theirs = json!([
        node(
            "change",
            "calendar.change",
            json!({"event": "$steps.find.events[0]", "title": "Ours", "location": "Room 2"})
        ),
        node("theirs", "calendar.change", json!({"event": "$steps.find.events[0]", "title": "Theirs"})),
    ]);
    let mut steps = vec![node("find", "calendar.list", json!({"from": "2026-11-24", "limit": 5}))];
    steps.extend(theirs.as_array().expect("steps").clone());
    steps[2]["after"] = json!(["change"]);
    steps[2]["compensate"] = json!(false);
    steps.push(node("none", "gmail.search", json!({"query": "from:nobody"})));
    let mut read = node("read", "gmail.read", json!({"message": "$steps.none.messages[0]"}));
    read["after"] = json!(["theirs"]);
    steps.push(read);
    let task = rig.run_after(call(&rig, Value::Array(steps), json!({})), Vec::new());
    let view = view_of(&task);
    let back = view.steps[1].compensation.as_ref().expect("it was tried");
    assert_eq!(back.state, StepState::Failed);
    let why = back.error.as_ref().expect("a reason").detail().to_owned();
    assert_eq!(why, "the event “Ours” stays: its summary was changed again since");
    let event = rig.fake.world().events["talk"].clone();
    assert_eq!((&event["summary"], &event["location"]), (&json!("Theirs"), &json!("Room 2")));
}

const LUNCH: &str = "/calendar/v3/calendars/primary/events/lunch";

/// Does one thing to what was found, then reads a mail that is not there.
fn doomed_by(find: Value, operation: &str, with: Value) -> Value {
    let mut read = node("read", "gmail.read", json!({"message": "$steps.none.messages[0]"}));
    read["after"] = json!(["act"]);
    json!([
        find,
        node("act", operation, with),
        node("none", "gmail.search", json!({"query": "from:nobody"})),
        read
    ])
}

/// The same for one event.
fn doomed_lunch(operation: &str, mut with: Value) -> Value {
    with["event"] = json!("$steps.find.events[0]");
    doomed_by(node("find", "calendar.list", json!({"from": "2026-11-24", "limit": 5})), operation, with)
}

/// Kills the gateway at a request, has something happen meanwhile, and runs the task to its end.
fn interrupted(rig: &Rig, task: &TaskRecord, (at, done): (&str, bool), act: fn(&mut World)) -> TaskRecord {
    rig.fake.fault(at, 1, Fault::Kill { done });
    assert!(rig.run_until_killed(task.clone()).is_none(), "{at}");
    rig.fake.revive();
    act(&mut rig.fake.world());
    rig.run_after(recovered(rig.journaled(task)), Vec::new())
}

/// How the step in question was taken back, or why it was not.
fn way_back(task: &TaskRecord) -> (StepState, String) {
    let view = view_of(task);
    assert_eq!((view.state, view.steps[1].state), (TaskState::Failed, StepState::Done), "{:?}", view.steps);
    let back = view.steps[1].compensation.as_ref().expect("it was tried");
    (back.state, back.error.as_ref().map_or_else(String::new, |error| error.detail().to_owned()))
}

fn lunch(world: &mut World) -> &mut Value {
    world.events.get_mut("lunch").expect("an event")
}

/// Somebody else gives the event a title.
fn rename(world: &mut World) {
    let tag = format!("\"{}\"", 100 + world.log.len());
    let event = lunch(world);
    (event["summary"], event["etag"]) = (json!("Theirs"), json!(tag));
}

#[test]
fn what_a_step_taken_up_again_finds_so_is_not_said_to_be_taken_back() {
    const AGAIN: &str = "it was so already when the step was taken up again";
    // Each process had noted nothing, as those of older versions did of what they found done.
    let rig = Rig::new();
    agenda(&rig);
    let task = call(&rig, doomed_lunch("calendar.delete", json!({})), json!({}));
    let at = format!("GET {LUNCH}");
    let task = interrupted(&rig, &task, (&at, false), |world| lunch(world)["status"] = json!("cancelled"));
    let (state, why) = way_back(&task);
    assert!(state == StepState::Failed && why.contains(AGAIN), "{state:?} {why}");
    assert_eq!(lunch(&mut rig.fake.world())["status"], "cancelled");

    let rig = Rig::new();
    agenda(&rig);
    let task = call(&rig, doomed_lunch("calendar.change", json!({"title": "Ours"})), json!({}));
    let task = interrupted(&rig, &task, (&at, false), |world| lunch(world)["summary"] = json!("Ours"));
    let (state, why) = way_back(&task);
    assert!(state == StepState::Failed && why.contains(AGAIN), "{state:?} {why}");
    assert_eq!(lunch(&mut rig.fake.world())["summary"], "Ours");

    let rig = Rig::new();
    let mut made = node("file", "drive.create", json!({"name": "Notes"}));
    made["compensate"] = json!(false);
    let steps = doomed_by(made, "drive.trash", json!({"file": "$steps.file.files[0]"}));
    let task = call(&rig, steps, json!({}));
    let task = interrupted(&rig, &task, ("GET /drive/v3/files/file", false), |world| {
        world.made_files.values_mut().for_each(|file| file["trashed"] = json!(true));
    });
    let (state, why) = way_back(&task);
    assert!(state == StepState::Failed && why.contains(AGAIN), "{state:?} {why}");
    assert!(rig.fake.world().made_files.values().all(|file| file["trashed"] == true));
}

#[test]
fn what_was_so_before_a_step_is_on_disk_before_it_acts() {
    let rig = Rig::new();
    agenda(&rig);
    let task = call(&rig, doomed_lunch("calendar.delete", json!({})), json!({}));
    rig.fake.fault(
        &format!("GET {LUNCH}"),
        1,
        Fault::Meanwhile(|world| lunch(world)["status"] = json!("cancelled")),
    );
    rig.fake.fault(&format!("DELETE {LUNCH}"), 1, Fault::Kill { done: false });
    assert!(rig.run_until_killed(task.clone()).is_none());
    rig.fake.revive();
    let journaled = rig.journaled(&task);
    assert_eq!(journaled.steps[1].intent.as_deref(), Some("cancel:gone"));
    let task = rig.run_after(recovered(journaled), Vec::new());
    // It was cancelled before, by somebody else: nothing of it is ours.
    assert_eq!(way_back(&task), (StepState::Done, String::new()));
    assert_eq!(lunch(&mut rig.fake.world())["status"], "cancelled");
}

#[test]
fn what_is_too_long_to_be_noted_is_said_to_stay() {
    let rig = Rig::new();
    agenda(&rig);
    lunch(&mut rig.fake.world())["summary"] = json!("T".repeat(9 << 10));
    let task = call(&rig, doomed_lunch("calendar.change", json!({"title": "Ours"})), json!({}));
    let task = interrupted(&rig, &task, (&format!("PATCH {LUNCH}"), true), |_| {});
    let why = "the event “Ours” stays as it is: what stood there before is too long to be noted";
    assert_eq!(way_back(&task), (StepState::Failed, why.to_owned()));
    assert_eq!(lunch(&mut rig.fake.world())["summary"], "Ours");
}

#[test]
fn a_change_is_made_of_the_state_that_was_noted_alone() {
    let with = || json!({"title": "Ours", "location": "Room 2"});
    let rig = Rig::new();
    agenda(&rig);
    rig.fake.fault(&format!("PATCH {LUNCH}"), 1, Fault::Meanwhile(rename));
    let task = rig.run_after(call(&rig, doomed_lunch("calendar.change", with()), json!({})), Vec::new());
    assert_eq!(way_back(&task), (StepState::Done, String::new()));
    let event = lunch(&mut rig.fake.world()).clone();
    assert_eq!((&event["summary"], &event["location"]), (&json!("Theirs"), &json!("Room 1")));
    // The one that came too late, the change, and its way back.
    assert_eq!(rig.fake.count(&format!("PATCH {LUNCH}")), 3);

    // Nobody outpaces somebody who changes it each time.
    let rig = Rig::new();
    agenda(&rig);
    rig.fake.fault(&format!("PATCH {LUNCH}"), 100, Fault::Meanwhile(rename));
    let view =
        view_of(&rig.run_after(call(&rig, doomed_lunch("calendar.change", with()), json!({})), Vec::new()));
    assert_eq!((view.state, view.steps[1].state), (TaskState::Failed, StepState::Failed));
    assert_eq!(rig.fake.count(&format!("PATCH {LUNCH}")), 5);
    assert_eq!(rig.fake.world().patches, 0);
}

#[test]
fn a_change_made_twice_over_a_crash_is_taken_back_to_what_others_left() {
    let rig = Rig::new();
    agenda(&rig);
    let with = json!({"title": "Ours", "location": "Room 2"});
    let task = call(&rig, doomed_lunch("calendar.change", with), json!({}));
    let task = interrupted(&rig, &task, (&format!("PATCH {LUNCH}"), true), rename);
    assert_eq!(way_back(&task), (StepState::Done, String::new()));
    let event = lunch(&mut rig.fake.world()).clone();
    assert_eq!((&event["summary"], &event["location"]), (&json!("Theirs"), &json!("Room 1")));
}

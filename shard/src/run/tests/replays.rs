//! Tasks run again from their records.

use sluice_protocols::api::WorkflowRunView;

use super::codes::UndoState;
use super::fake::Kill;
use super::*;

fn replayed(task: &TaskRecord, turns: Vec<TurnRecord>) -> Replay {
    let scratch = || tempfile::tempdir().expect("a directory");
    let once = |turns: Vec<TurnRecord>| {
        let (scratch, remembered) = (scratch(), Remembered { turns, is_whole: true });
        replay(task.clone(), remembered, scratch.path()).expect("replayed")
    };
    let (first, second) = (once(turns.clone()), once(turns));
    assert_eq!((&first.text, &first.divergences), (&second.text, &second.divergences), "twice the same");
    first
}

fn assert_agrees(task: &TaskRecord) -> String {
    let replay = replayed(task, Vec::new());
    assert_eq!(replay.divergences, [""; 0], "{}", replay.text);
    replay.text
}

fn node(id: &str, operation: &str, with: Value) -> Value {
    json!({"id": id, "operation": operation, "with": with})
}

/// Finds a mail, tells of it, and fails in between when the mail is not there.
fn called(rig: &Rig, steps: Value) -> TaskRecord {
    let mut task = rig.accept(1);
    let view = WorkflowRunView { name: "test".to_owned(), version: 3, input: json!({}) };
    task.plan_json = called_json(view, json!({"steps": steps}));
    task
}

fn telling() -> Value {
    let body = "You said: ${steps.read.text}";
    json!([
        node("find", "gmail.search", json!({"query": "from:anna"})),
        node("read", "gmail.read", json!({"message": "$steps.find.messages[0].id"})),
        node(
            "tell",
            "gmail.send",
            json!({"to": ["$steps.find.messages[0].from"], "subject": "Re", "body": body})
        ),
    ])
}

#[test]
fn a_plan_comes_to_the_same_again_without_its_upstreams() {
    let rig = Rig::planning(json!([
        search("s1", "from:anna", 5),
        send("s2", &[], "$s1[0].from"),
        create("s3", &[])
    ]));
    rig.fake.world().receive("Anna <anna@example.com>", "Budget", "the figures");
    let task = rig.run_after(rig.accept(1), Vec::new());
    let asked = rig.fake.world().log.len();
    let text = assert_agrees(&task);
    assert!(text.contains("$s1[0] is the message mail1 “Budget”"), "{text}");
    assert!(text.contains("done\n") && text.contains("agrees with the record"), "{text}");
    assert_eq!(rig.fake.world().log.len(), asked, "nobody was asked");
}

#[test]
fn what_was_filled_in_is_filled_in_alike_and_a_changed_outcome_shows() {
    let rig = Rig::new();
    rig.fake.world().receive("Anna <anna@example.com>", "Budget", "the figures");
    let task = rig.run_after(called(&rig, telling()), Vec::new());
    let text = assert_agrees(&task);
    assert!(text.contains("You said: the figures"), "{text}");
    let mut tampered = task.clone();
    tampered.steps[1].text = Some("other figures".to_owned());
    let replay = replayed(&tampered, Vec::new());
    assert!(replay.divergences.iter().any(|what| what.starts_with("s3 is filled in as")), "{}", replay.text);
    let mut tampered = task.clone();
    tampered.steps[0].outcome_json = Some("[]".to_owned());
    assert!(!replayed(&tampered, Vec::new()).divergences.is_empty());
    let tampered = TaskRecord { state: codes::of_task_state(TaskState::Failed), ..task.clone() };
    assert!(!replayed(&tampered, Vec::new()).divergences.is_empty());
    let tampered = TaskRecord { answer: Some("All is well.".to_owned()), ..task };
    assert_eq!(replayed(&tampered, Vec::new()).divergences, ["the answer of the record is: All is well."]);
}

#[test]
fn a_workflow_that_failed_is_taken_back_again() {
    let rig = Rig::new();
    let mut read = node("read", "gmail.read", json!({"message": "$steps.find.messages[0]"}));
    read["after"] = json!(["meet"]);
    let meet = node("meet", "calendar.create", json!({"title": "Meeting", "start": "2026-11-24T10:00"}));
    let find = node("find", "gmail.search", json!({"query": "from:nobody"}));
    let mut last = node("last", "drive.search", json!({"text": "x"}));
    last["after"] = json!(["read"]);
    let task = rig.run_after(called(&rig, json!([find, meet, read, last])), Vec::new());
    assert_eq!(codes::task_state(task.state), TaskState::Failed);
    let text = assert_agrees(&task);
    for line in ["undo  s2 calendar.create taken back", "skipped  s4", "state  failed"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let mut tampered = task;
    tampered.steps[1].undo = codes::of_undo_state(UndoState::Failed);
    assert!(!replayed(&tampered, Vec::new()).divergences.is_empty());
}

#[test]
fn whenever_it_was_killed_the_journal_shows_what_would_be_asked_next() {
    let mut seen = Vec::new();
    for at in 0..20 {
        let rig = Rig::new();
        rig.fake.world().receive("Anna <anna@example.com>", "Budget", "the figures");
        let task = TaskRecord { mode: codes::of_mode(Mode::Async), ..called(&rig, telling()) };
        rig.fake.kill_at(Kill { at, done: true });
        if rig.run_until_killed(task.clone()).is_some() {
            break;
        }
        seen.push(assert_agrees(&rig.journaled(&task)));
    }
    let next = |what: &str| seen.iter().any(|text| text.contains(what));
    assert!(next("next  s1: it was under way"), "{seen:#?}");
    assert!(next("next  s3: it was under way when the record was written; noted: draft:"), "{seen:#?}");
    // Of a task that nothing is known of yet, it is what it means.
    assert!(assert_agrees(&Rig::new().accept(2)).contains("next  what the command means"));
}

#[test]
fn a_record_that_was_cut_is_not_replayed() {
    let rig = Rig::new();
    let task = TaskRecord { state: codes::of_task_state(TaskState::Done), ..rig.accept(1) };
    let scratch = tempfile::tempdir().expect("a directory");
    let lost = replay(task, Remembered::default(), scratch.path());
    assert!(matches!(lost, Err(ReplayError::NoScript)));
}

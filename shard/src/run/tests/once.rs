//! Exactly once: whenever the process is killed and whatever answers get lost.

use super::fake::Kill;
use super::*;

/// Everything with an effect, and something to depend on.
fn everything() -> Value {
    json!([
        search("s1", "from:anna", 1),
        send("s2", &[], "$s1[0].from"),
        step("s3", &[], json!({"operation": "gmail.reply", "message": "$s1[0]", "body": "Thanks"})),
        create("s4", &[]),
        step(
            "s5",
            &[],
            json!({"operation": "calendar.change", "event": "$s4[0]", "title": "Review", "start": null, "end": null,
                              "location": "Room 1", "add_attendees": ["anna@example.com"]})
        ),
        create("s6", &["s5"]),
        step("s7", &[], json!({"operation": "calendar.delete", "event": "$s6[0]"})),
    ])
}

fn rig() -> Rig {
    let rig = Rig::planning(everything());
    rig.fake.world().receive("Anna <anna@example.com>", "Budget", "x");
    rig
}

/// One new mail, one reply, two events of which one is changed and one cancelled: no more, no less.
fn assert_done_once(rig: &Rig, task: &TaskRecord, what: &str) {
    let view = view_of(task);
    assert_eq!(view.state, TaskState::Done, "{what}: {:?} {:?}", view.error, view.steps);
    let world = rig.fake.world();
    assert!(world.drafts.is_empty(), "{what}: a draft was left behind");
    assert_eq!(world.sends.len(), 2, "{what}: {:?}", world.sends);
    assert!(world.sends.values().all(|count| *count == 1), "{what}: {:?}", world.sends);
    assert_eq!((world.inserts, world.deletes, world.events.len()), (2, 1, 2), "{what}");
    let changed = world.events.values().find(|event| event["summary"] == "Review").expect("changed");
    assert_eq!(changed["attendees"].as_array().map(Vec::len), Some(1), "{what}");
    let with_items: Vec<u8> =
        view.steps.iter().filter(|step| step.items.len() == 1).map(|step| step.id.number()).collect();
    assert_eq!(with_items, [1, 2, 3, 4, 5, 6], "{what}");
}

/// How many requests the whole takes when nothing goes wrong.
fn requests() -> usize {
    let rig = rig();
    let task = rig.run_after(rig.accept(1), Vec::new());
    assert_done_once(&rig, &task, "undisturbed");
    let count = rig.fake.world().log.len();
    assert!(count >= 13, "{count}");
    count
}

#[test]
fn killed_at_any_request_everything_still_happens_once() {
    for at in 0..requests() {
        for done in [false, true] {
            let kill = Kill { at, done };
            let rig = rig();
            let task = rig.accept(1);
            rig.fake.kill_at(kill);
            let ended = rig.run_until_killed(task.clone());
            assert!(ended.is_none(), "{kill:?}: it was to be killed");
            rig.fake.revive();
            let task = rig.run_after(recovered(rig.journaled(&task)), Vec::new());
            assert_done_once(&rig, &task, &format!("{kill:?}"));
            assert!(task.attempts >= 2);
        }
    }
}

#[test]
fn killed_again_and_again_everything_still_happens_once() {
    for seed in 0..12 {
        let rig = rig();
        let mut task = rig.accept(1);
        let mut ended = None;
        // Two requests further each time, so that it comes to an end.
        for round in 0..40 {
            rig.fake
                .kill_at(Kill { at: (seed + 5 * round) % (3 + 2 * round), done: (seed + round) % 2 == 0 });
            ended = rig.run_until_killed(task.clone());
            if ended.is_some() {
                break;
            }
            rig.fake.revive();
            task = recovered(rig.journaled(&task));
        }
        assert_done_once(&rig, &ended.expect("it ends"), &format!("seed {seed}"));
    }
}

#[test]
fn a_lost_answer_is_found_out_and_nothing_is_done_twice() {
    let unavailable = || json!({"error": {"code": 503, "message": "backend error"}});
    for target in [
        "POST /gmail/v1/users/me/drafts/send",
        "POST /gmail/v1/users/me/drafts",
        "POST /calendar",
        "PATCH /calendar",
        "DELETE /calendar",
    ] {
        for fault in [
            Fault::BreakAfter,
            Fault::Break,
            Fault::StatusAfter(503, unavailable()),
            Fault::Status(503, unavailable()),
            Fault::Status(429, unavailable()),
        ] {
            let rig = rig();
            rig.fake.fault(target, 1, fault.clone());
            let task = rig.run_after(rig.accept(1), Vec::new());
            assert_done_once(&rig, &task, &format!("{target} {fault:?}"));
        }
    }
}

#[test]
fn a_change_whose_answer_was_lost_is_not_made_again() {
    for (fault, made) in [(Fault::BreakAfter, 1), (Fault::StatusAfter(503, json!({})), 1), (Fault::Break, 2)]
    {
        let rig = rig();
        rig.fake.fault("PATCH /calendar", 1, fault.clone());
        let task = rig.run_after(rig.accept(1), Vec::new());
        assert_done_once(&rig, &task, &format!("{fault:?}"));
        assert_eq!(rig.fake.count("PATCH /calendar"), made, "{fault:?}");
    }
}

#[test]
fn a_mail_of_unknown_fate_is_looked_after_until_it_is_known() {
    let rig = Rig::planning(json!([send("s1", &[], "a@example.com")]));
    rig.fake.fault("POST /gmail/v1/users/me/drafts/send", 1, Fault::BreakAfter);
    // The look at the draft fails as well, for a while.
    rig.fake.fault("GET /gmail/v1/users/me/drafts/", 4, Fault::Status(503, json!({})));
    let view = rig.run();
    assert_eq!(view.state, TaskState::Done, "{:?}", view.error);
    assert_eq!(rig.fake.world().sent().len(), 1);
    assert_eq!(rig.fake.count("POST /gmail/v1/users/me/drafts/send"), 1);
    let (item, world) = (&view.steps[0].items[0], rig.fake.world());
    assert_eq!((item.title.as_str(), item.id.as_str()), ("Hello", world.sent()[0].id.as_str()));
}

#[test]
fn what_stays_unknown_is_said_to_be_unknown() {
    for (steps, target, look) in [
        (json!([send("s1", &[], "a@example.com")]), "POST /gmail/v1/users/me/drafts/send", "GET /gmail"),
        (json!([create("s1", &[])]), "POST /calendar", "GET /calendar"),
    ] {
        let mut rig = Rig::planning(steps);
        rig.config.unknown_outcome_grace = Duration::from_millis(300);
        rig.fake.fault(target, 1_000, Fault::BreakAfter);
        rig.fake.fault(look, 1_000, Fault::Status(503, json!({})));
        let mut task = rig.accept(1);
        task.deadline_ms = NOW_MS + 700;
        let view = view_of(&rig.run_after(task, Vec::new()));
        let error = view.error.expect("an error");
        assert_eq!(view.state, TaskState::Failed);
        assert!(error.detail().starts_with("it is not known whether"), "{error}");
        assert!(!error.is_retryable(), "it may have been done");
        let world = rig.fake.world();
        assert_eq!(world.sent().len() + world.inserts, 1);
    }
}

#[test]
fn a_draft_that_was_deleted_before_it_was_sent_was_not_sent() {
    let rig = Rig::planning(json!([send("s1", &[], "a@example.com")]));
    rig.fake.fault("POST /gmail/v1/users/me/drafts/send", 1, Fault::Status(404, json!({})));
    let view = rig.run();
    assert_eq!(view.state, TaskState::Failed);
    assert_eq!(
        view.error.expect("an error").detail(),
        "the draft of the mail was deleted before it could be sent"
    );
    assert!(rig.fake.world().sent().is_empty());
}

#[test]
fn a_resumed_step_finds_the_draft_that_nobody_noted() {
    let rig = Rig::planning(json!([send("s1", &[], "a@example.com")]));
    let task = rig.accept(1);
    // Killed when the draft is made and its id is not yet known here.
    let creates = |log: &[String]| log.iter().position(|line| line == "POST /gmail/v1/users/me/drafts");
    let at = {
        let probe = Rig::planning(json!([send("s1", &[], "a@example.com")]));
        probe.run();
        let log = probe.fake.world().log.clone();
        creates(&log).expect("a draft was made")
    };
    rig.fake.kill_at(Kill { at, done: true });
    assert!(rig.run_until_killed(task.clone()).is_none());
    rig.fake.revive();
    assert_eq!(rig.fake.world().drafts.len(), 1);
    let task = rig.run_after(recovered(rig.journaled(&task)), Vec::new());
    assert_eq!(codes::task_state(task.state), TaskState::Done);
    assert_eq!(rig.fake.count("POST /v1/responses"), 1, "the plan was in the journal");
    let world = rig.fake.world();
    assert_eq!((world.drafts.len(), world.sent().len()), (0, 1));
}

#[test]
fn a_task_taken_up_again_gets_a_new_deadline() {
    let rig = Rig::planning(json!([search("s1", "", 1)]));
    let mut task = rig.accept(1);
    task.deadline_ms = NOW_MS - 1_000;
    let task = rig.run_after(recovered(task), Vec::new());
    assert_eq!(codes::task_state(task.state), TaskState::Done);
    assert_eq!(task.deadline_ms, NOW_MS + 60_000);
}

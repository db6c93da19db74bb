//! Plans: from the model, in order, side by side, with references, and what happens when a step fails.

use super::*;
use StepState::{Done, Failed, Skipped};

fn kind(view: &TaskView) -> ProblemKind {
    view.error.as_ref().expect("an error").kind()
}

#[test]
fn a_search_brings_items_calls_times_and_an_answer() {
    let rig = Rig::planning(json!([search("s1", "from:anna", 5)]));
    rig.fake.world().receive("Anna Berg <anna@example.com>", "Budget", "The numbers");
    rig.fake.world().receive("Anna Berg <anna@example.com>", "Lunch", "At noon?");
    rig.fake.world().receive("Bob <bob@example.com>", "Other", "x");
    let view = rig.run();
    assert_eq!((view.state, states(&view)), (TaskState::Done, vec![Done]));
    let titles: Vec<&str> = view.steps[0].items.iter().map(|item| item.title.as_str()).collect();
    assert_eq!(titles, ["Lunch", "Budget"]);
    assert_eq!(
        view.answer.as_deref(),
        Some(
            "Found 2 messages:\n1. “Lunch” from Anna Berg, Mon 23 Nov 2026, 13:05: At noon?\n\
             2. “Budget” from Anna Berg, Mon 23 Nov 2026, 13:05: The numbers"
        )
    );
    let calls: Vec<String> =
        view.steps[0].calls.iter().map(|call| format!("{} {}", call.method, call.path)).collect();
    assert_eq!(calls, ["POST /token", "GET /gmail/v1/users/me/messages", "POST /batch/gmail/v1"]);
    assert!(!calls.iter().any(|call| call.contains('?')), "{calls:?}");
    let timing = view.timing.expect("times");
    assert!(timing.google_us > 0 && timing.openai_us > 0);
    let waits_us = timing.turn_us + timing.queue_us + timing.quota_us + timing.shared_us;
    assert_eq!(timing.total_us, timing.own_us + timing.openai_us + timing.google_us + waits_us);
}

#[test]
fn the_model_is_told_the_time_the_zone_and_the_turns_before() {
    let rig = Rig::planning(json!([search("s1", "", 1)]));
    rig.fake.world().receive("Anna <anna@example.com>", "Budget", "x");
    let first = rig.run_after(rig.accept(1), Vec::new());
    let turn = turn_of(&first, &Brought::default(), 1, &mut [0; 3]);
    rig.run_after(rig.accept(2), vec![turn]);
    let requests = std::mem::take(&mut rig.fake.world().plan_requests);
    let context = requests[1]["input"][0]["content"].as_str().expect("a context").to_owned();
    let context: Value =
        serde_json::from_str(context.strip_prefix("Context: ").expect("a prefix")).expect("json");
    assert_eq!(context["now"], "2026-11-23T15:05");
    assert_eq!(context["time_zone"], "Europe/Berlin");
    assert_eq!(context["recent"][0]["items"][0]["handle"], "m1");
    assert_eq!(context["recent"][0]["items"][0]["person"], "Anna <anna@example.com>");
    assert_eq!(requests[1]["store"], false);
    assert_eq!(requests[1]["safety_identifier"].as_str().map(str::len), Some(64));
}

#[test]
fn independent_steps_start_together() {
    let rig = Rig::planning(json!([
        search("s1", "", 1),
        step(
            "s2",
            &[],
            json!({"operation": "calendar.list", "from": null, "to": null, "query": null, "limit": 5})
        ),
        step("s3", &[], json!({"operation": "drive.search", "text": "plan", "limit": 5})),
    ]));
    // Each is answered only once all three have arrived.
    for target in ["GET /gmail/v1/users/me/messages", "GET /calendar", "GET /drive"] {
        rig.fake.fault(target, 1, Fault::Together(3));
    }
    let view = rig.run();
    assert_eq!(states(&view), [Done, Done, Done]);
    assert_eq!(rig.fake.count("POST /token"), 1, "one refresh serves all");
}

#[test]
fn the_messages_of_a_search_are_fetched_together() {
    let rig = Rig::planning(json!([search("s1", "", 20)]));
    for number in 0..20 {
        rig.fake.world().receive("a@example.com", &format!("Mail {number}"), "x");
    }
    rig.fake.fault("GET /gmail/v1/users/me/messages/", 10, Fault::Together(10));
    let view = rig.run();
    assert_eq!(view.steps[0].items.len(), 20);
    assert_eq!(
        (view.steps[0].items[0].title.as_str(), view.steps[0].items[19].title.as_str()),
        ("Mail 19", "Mail 0")
    );
}

#[test]
fn a_step_waits_for_what_it_uses_and_for_what_it_comes_after() {
    let rig = Rig::planning(json!([
        send("s1", &["s3"], "$s2[0].from"),
        search("s2", "from:anna", 1),
        create("s3", &["s2"])
    ]));
    rig.fake.world().receive("Anna <anna@example.com>", "Budget", "x");
    let view = rig.run();
    assert_eq!(states(&view), [Done, Done, Done]);
    let log = rig.fake.world().log.clone();
    let place = |target: &str| log.iter().position(|line| line.starts_with(target)).expect("called");
    assert!(place("GET /gmail/v1/users/me/messages/") < place("POST /calendar"));
    assert!(place("POST /calendar") < place("POST /gmail/v1/users/me/drafts"));
    assert!(rig.fake.world().sent()[0].to.contains("anna@example.com"));
    assert_eq!(
        view.answer.as_deref(),
        Some("Sent “Hello” to anna@example.com.\n\nCreated “Meeting” on Tuesday, 24 November 2026 at 10:00.")
    );
}

/// The states of both steps on disk, as seen from each call that searches for a message and then writes to its sender.
fn on_disk_at_each_call(mode: Mode) -> Vec<String> {
    let rig = Rig::planning(json!([search("s1", "from:anna", 1), send("s2", &[], "$s1[0].from")]));
    rig.fake.world().receive("Anna <anna@example.com>", "Budget", "x");
    let task = TaskRecord { mode: codes::of_mode(mode), ..rig.accept(1) };
    let (store, shard, key) = (rig.store.clone(), rig.shard, Key::task_pending(&task.user, &task.id));
    rig.fake.world().watch = Some(Box::new(move || {
        let task = store.load_blocking::<TaskRecord>(shard, &key).expect("read").expect("there").to_record();
        task.steps.iter().map(|step| step.state.to_string()).collect()
    }));
    rig.run_after(task, Vec::new());
    std::mem::take(&mut rig.fake.world().watched)
}

#[test]
fn outcomes_are_on_disk_before_what_depends_on_them_begins() {
    // Running and pending while it is searched; done and running from the first call of the sending on.
    assert_eq!(on_disk_at_each_call(Mode::Async), ["21", "21", "32", "32"]);
    // Where somebody waits, what only reads needs no entry; what changes something does, with what came before.
    assert_eq!(on_disk_at_each_call(Mode::Sync), ["", "", "32", "32"]);
}

#[test]
fn a_failed_step_skips_what_depends_on_it_and_nothing_else() {
    let rig = Rig::planning(json!([
        search("s1", "from:anna", 1),
        send("s2", &[], "$s1[0].from"),
        send("s3", &["s2"], "bob@example.com"),
        create("s4", &[]),
    ]));
    let view = rig.run();
    assert_eq!((view.state, states(&view)), (TaskState::Failed, vec![Done, Failed, Skipped, Done]));
    assert_eq!(kind(&view), ProblemKind::UnresolvedReference);
    let error = view.error.as_ref().expect("an error");
    assert_eq!(error.detail(), "no message from Anna was found");
    assert!(!error.is_retryable(), "an event was made");
    {
        let world = rig.fake.world();
        assert_eq!((world.sent().len(), world.inserts), (0, 1));
    }
    assert_eq!(
        view.answer.as_deref(),
        Some(
            "No message from Anna was found.\n\n\
             I could not send the mail “Hello”: no message from Anna was found.\n\n\
             I did not send the mail “Hello”, because something it depends on went wrong.\n\n\
             Created “Meeting” on Tuesday, 24 November 2026 at 10:00."
        )
    );
}

#[test]
fn items_of_earlier_turns_are_reached_by_their_handles() {
    let rig = Rig::planning(json!([search("s1", "from:anna", 2)]));
    rig.fake.world().receive("Anna <anna@example.com>", "Budget", "The numbers");
    rig.fake.world().receive("Anna <anna@example.com>", "Lunch", "x");
    let first = rig.run_after(rig.accept(1), Vec::new());
    let turns = vec![turn_of(&first, &Brought::default(), 1, &mut [0; 3])];
    assert_eq!(turns[0].items.iter().map(|item| item.handle.as_str()).collect::<Vec<_>>(), ["m1", "m2"]);
    rig.fake.world().plans = vec![act(json!([
        step("s1", &[], json!({"operation": "gmail.reply", "message": "#m2", "body": "Thanks"})),
        step("s2", &[], json!({"operation": "gmail.read", "message": "#m2"})),
        step("s3", &[], json!({"operation": "gmail.read", "message": "#m9"})),
    ]))];
    let second = rig.run_after(rig.accept(2), turns.clone());
    let view = view_of(&second);
    assert_eq!(states(&view), [Done, Done, Failed]);
    assert_eq!(view.steps[1].text.as_deref(), Some("The numbers"));
    let reply = rig.fake.world().sent()[0].clone();
    assert_eq!(
        (reply.subject.as_str(), reply.body.as_str(), reply.thread.as_str()),
        ("Re: Budget", "Thanks", "thread-mail1")
    );
    assert!(reply.to.contains("anna@example.com"));
    // The reply is new; what was read again keeps no second name in this turn.
    let turn = turn_of(&second, &Brought::default(), 2, &mut [2, 0, 0]);
    assert_eq!(turn.items.iter().map(|item| item.handle.as_str()).collect::<Vec<_>>(), ["m3", "m4"]);
    assert!(view.answer.expect("an answer").starts_with("Replied to anna@example.com: “Re: Budget”."));
}

#[test]
fn events_are_changed_moved_and_cancelled() {
    let rig = Rig::planning(json!([
        create("s1", &[]),
        step(
            "s2",
            &[],
            json!({"operation": "calendar.change", "event": "$s1[0]", "title": "Review", "start": "2026-11-25T09:30",
                              "end": null, "location": null, "add_attendees": ["anna@example.com"]})
        ),
        step("s3", &["s2"], json!({"operation": "calendar.delete", "event": "$s1[0]"})),
    ]));
    let view = rig.run();
    assert_eq!(states(&view), [Done, Done, Done], "{:?}", view.error);
    let world = rig.fake.world();
    let event = world.events.values().next().expect("an event");
    assert_eq!((event["summary"].as_str(), event["status"].as_str()), (Some("Review"), Some("cancelled")));
    assert_eq!(event["end"]["dateTime"], "2026-11-25T10:30:00+01:00");
    let answer = view.answer.expect("an answer");
    assert!(
        answer.contains(
            "Changed “Review”: now Wednesday, 25 November 2026 at 09:30, inviting anna@example.com."
        ),
        "{answer}"
    );
    assert!(answer.contains("Cancelled “Meeting”"), "{answer}");
}

#[test]
fn what_is_cancelled_already_is_cancelled_and_what_never_was_is_not_found() {
    let rig = Rig::planning(json!([create("s1", &[])]));
    let first = rig.run_after(rig.accept(1), Vec::new());
    let turns = vec![turn_of(&first, &Brought::default(), 1, &mut [0; 3])];
    rig.fake.world().plans =
        vec![act(json!([step("s1", &[], json!({"operation": "calendar.delete", "event": "#e1"}))]))];
    for number in 2..4 {
        let view = view_of(&rig.run_after(rig.accept(number), turns.clone()));
        assert_eq!(view.state, TaskState::Done, "{:?}", view.error);
    }
    rig.fake.world().events.clear();
    let view = view_of(&rig.run_after(rig.accept(4), turns));
    assert_eq!((view.state, kind(&view)), (TaskState::Failed, ProblemKind::UnresolvedReference));
}

#[test]
fn texts_are_read_and_pictures_are_linked() {
    let read = |id: &str, index: u8| {
        step(id, &[], json!({"operation": "drive.read", "file": format!("$s1[{index}]")}))
    };
    let rig = Rig::planning(json!([
        step("s1", &[], json!({"operation": "drive.search", "text": "x", "limit": 3})),
        read("s2", 0),
        read("s3", 1),
        read("s4", 2),
    ]));
    rig.fake.world().files = vec![
        ("notes", "text/plain", "plain words"),
        ("report", "application/vnd.google-apps.document", "exported words"),
        ("photo", "image/png", "bytes"),
    ];
    let view = rig.run();
    assert_eq!(view.state, TaskState::Done, "{:?}", view.error);
    let texts: Vec<&str> =
        view.steps[1..].iter().map(|step| step.text.as_deref().unwrap_or_default()).collect();
    assert_eq!(texts[..2], ["plain words", "exported words"]);
    assert_eq!(
        texts[2],
        "“photo” cannot be shown here: the file has no text that can be read. \
         It can be opened at https://drive.example.com/photo"
    );
    assert_eq!(rig.fake.count("GET /drive/v3/files/report/export"), 1);
}

#[test]
fn refusals_and_declined_plans_end_politely() {
    let rig = Rig::new();
    rig.fake.world().plans = vec![
        json!("I will not do that."),
        json!({"decision": "decline", "reason": "No music here.", "steps": []}),
    ];
    for (number, reason) in [(1, "I will not do that."), (2, "No music here.")] {
        let view = view_of(&rig.run_after(rig.accept(number), Vec::new()));
        assert_eq!((view.state, view.answer.as_deref()), (TaskState::Declined, Some(reason)));
        assert!(view.error.is_none() && view.steps.is_empty());
    }
}

#[test]
fn nonsense_is_asked_for_once_more_and_then_given_up() {
    let rig = Rig::new();
    let cyclic = act(json!([send("s1", &["s1"], "a@example.com")]));
    rig.fake.world().plans = vec![cyclic.clone(), act(json!([search("s1", "", 1)]))];
    assert_eq!(rig.run().state, TaskState::Done);
    rig.fake.world().plans = vec![cyclic];
    let view = view_of(&rig.run_after(rig.accept(2), Vec::new()));
    assert_eq!((view.state, kind(&view)), (TaskState::Failed, ProblemKind::UpstreamInvalid));
    assert_eq!(rig.fake.count("POST /v1/responses"), 4);
    assert_eq!(view.error.expect("an error").instance(), Some(task_path(view.id).as_str()));
}

#[test]
fn each_failure_of_the_model_has_its_problem() {
    for (status, body, wanted) in [
        (401, json!({"error": {"message": "bad key sk-te"}}), ProblemKind::UpstreamRefused),
        (429, json!({"error": {"code": "rate_limit_exceeded"}}), ProblemKind::UpstreamLimited),
        (503, json!({}), ProblemKind::UpstreamUnavailable),
    ] {
        let rig = Rig::new();
        rig.fake.fault("POST /v1/responses", 9, Fault::Status(status, body));
        let view = rig.run();
        assert_eq!((view.state, kind(&view)), (TaskState::Failed, wanted));
        assert!(!view.answer.expect("an answer").contains("sk-te"), "the operator's key stays in the log");
    }
}

#[test]
fn each_failure_of_google_has_its_problem() {
    let limited = json!({"error": {"message": "slow down", "errors": [{"reason": "rateLimitExceeded"}]}});
    let scope =
        json!({"error": {"message": "x", "details": [{"reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT"}]}});
    for (fault, wanted) in [
        (Fault::Status(503, json!({})), ProblemKind::UpstreamUnavailable),
        (Fault::Break, ProblemKind::UpstreamUnavailable),
        (Fault::Status(429, limited), ProblemKind::UpstreamLimited),
        (Fault::Status(403, scope), ProblemKind::NeedsReauth),
        (Fault::Status(400, json!({"error": {"message": "Invalid query"}})), ProblemKind::UpstreamRefused),
        (Fault::Status(200, json!("<html>")), ProblemKind::UpstreamInvalid),
    ] {
        let rig = Rig::planning(json!([search("s1", "", 1), create("s2", &[])]));
        rig.fake.fault("GET /gmail", 9, fault);
        let view = rig.run();
        assert_eq!((states(&view), kind(&view)), (vec![Failed, Done], wanted));
    }
}

#[test]
fn a_passed_deadline_begins_nothing() {
    let rig = Rig::planning(json!([send("s1", &[], "a@example.com")]));
    let mut task = rig.accept(1);
    task.deadline_ms = NOW_MS;
    let view = view_of(&rig.run_after(task, Vec::new()));
    assert_eq!((view.state, kind(&view)), (TaskState::Failed, ProblemKind::DeadlineExceeded));
    let world = rig.fake.world();
    assert_eq!(world.drafts.len() + world.sent().len(), 0);
}

#[test]
fn a_stopping_process_leaves_the_task_to_the_next_start() {
    let rig = Rig::planning(json!([search("s1", "", 1)]));
    let task = rig.accept(1);
    rig.egress.shutdown(Duration::ZERO);
    let shard = rig.shard;
    let end =
        rig.on_core(async move |env| run(&env, shard, task, &Recent::default(), &Cancel::default()).await);
    let RunEnd::Interrupted(task, problem) = end else { panic!("it ended") };
    assert_eq!(problem.kind(), ProblemKind::ShuttingDown);
    assert!(!codes::task_state(task.state).is_final());
}

#[test]
fn who_looks_on_sees_a_step_end_while_others_still_run() {
    use marks::Mark::{Accepted, Answered, Planned, Started, Stepped};
    let rig = Rig::planning(json!([search("s1", "", 1), create("s2", &[])]));
    // Waits for a second request that never comes.
    rig.fake.fault("POST /calendar", 1, Fault::Together(2));
    let task = rig.accept(1);
    let (shard, store, key) = (rig.shard, rig.store.clone(), Key::task_pending(&task.user, &task.id));
    let (seen, answer) = rig.on_core(async move |env| {
        let mut watch = env.watches.watch(task.id);
        let cancel = Cancel::default();
        let recent = Recent::default();
        let mut run = std::pin::pin!(run(&env, shard, task, &recent, &cancel));
        loop {
            poll_fn(|cx| {
                assert!(run.as_mut().poll(cx).is_pending(), "the second step cannot end");
                std::pin::pin!(watch.changed()).poll(cx)
            })
            .await;
            let record = store.load_blocking::<TaskRecord>(shard, &key).expect("read").expect("there");
            let record = record.to_record();
            let seen: Vec<_> = marks::marks(&record).map(|(_, mark)| mark).collect();
            if seen.contains(&Answered) {
                return (seen, record.answer);
            }
        }
    });
    assert_eq!(seen, [Accepted, Planned, Started(0), Started(1), Stepped(0, Done), Answered]);
    assert!(answer.is_some_and(|answer| answer.contains("message") && !answer.contains("Meeting")));
}

//! What users prefer, as tasks obey it.

use super::*;
use sluice_store::record::PreferencesRecord;

impl Rig {
    fn prefer(&self, confirm: &[&str], language: Option<&str>) {
        let record = PreferencesRecord {
            user: self.user,
            updated_ms: NOW_MS,
            time_zone: None,
            language: language.map(str::to_owned),
            priority: 0,
            confirm: confirm.iter().map(|name| (*name).to_owned()).collect(),
            custom_json: "{}".to_owned(),
        };
        let mut batch = Batch::new(self.shard);
        batch.put_record(&Key::preferences(&self.user), &record).expect("encoded");
        self.store.write_blocking(vec![batch]).expect("written");
    }
}

#[test]
fn a_plan_waits_for_what_its_user_wants_to_confirm_and_for_nothing_else() {
    let plans = json!([search("s1", "", 1), send("s2", &["s1"], "kim@example.com")]);
    for (confirm, expected) in [
        (&["gmail.send"][..], TaskState::AwaitingConfirmation),
        (&["gmail.search"], TaskState::AwaitingConfirmation),
        (&["gmail.reply", "drive.trash"], TaskState::Done),
    ] {
        let rig = Rig::planning(plans.clone());
        rig.prefer(confirm, None);
        assert_eq!(rig.run().state, expected, "{confirm:?}");
        let sent = usize::from(expected == TaskState::Done);
        assert_eq!(rig.fake.world().sent().len(), sent, "{confirm:?}");
    }
}

#[test]
fn a_task_under_way_is_not_stopped_by_a_change_of_mind() {
    let rig = Rig::planning(json!([search("s1", "", 1), send("s2", &["s1"], "kim@example.com")]));
    rig.prefer(&["gmail.send"], None);
    let planned = rig.run_after(rig.accept(1), Vec::new());
    assert_eq!(codes::task_state(planned.state), TaskState::AwaitingConfirmation);
    let mut begun = planned;
    begun.steps[0].state = codes::of_step_state(StepState::Running);
    assert_eq!(view_of(&rig.run_after(begun, Vec::new())).state, TaskState::Done);
}

#[test]
fn when_it_cannot_be_read_what_to_confirm_nothing_is_changed_unasked() {
    for (step, expected) in [
        (send("s1", &[], "kim@example.com"), TaskState::AwaitingConfirmation),
        (search("s1", "", 1), TaskState::Done),
    ] {
        let rig = Rig::planning(json!([step]));
        let mut batch = Batch::new(rig.shard);
        batch.put(&Key::preferences(&rig.user), b"damaged\x01");
        rig.store.write_blocking(vec![batch]).expect("written");
        assert_eq!(rig.run().state, expected);
    }
}

/// Refuses the same words to users of one core, the first of whom has this language and says them in a second session as
/// well; gives what the model was asked and what they were answered: the other, and the first anew.
fn refused_to_others(language: Option<&str>) -> (Vec<Value>, Vec<String>) {
    let rig = Rig::new();
    rig.prefer(&[], language);
    let refusal = json!({"decision": "decline", "reason": "Das kann ich nicht.", "steps": []});
    rig.fake.world().plans = vec![refusal.clone(), refusal];
    let other = UserId::from_bytes([6; 16]);
    let task =
        |number, user| TaskRecord { command: "play some music".to_owned(), user, ..rig.accept(number) };
    let tasks = [task(1, rig.user), task(2, other), task(3, rig.user)];
    let count = rig.store.shard_count();
    let answers = rig.on_core(async move |env| {
        let mut answers = Vec::new();
        for task in tasks {
            let shard = ShardId::of(&task.user, count);
            let end = run(&env, shard, task, &Recent::default(), &Cancel::default()).await;
            let RunEnd::Final(task, _) = end else { panic!("{end:?}") };
            assert_eq!(codes::task_state(task.state), TaskState::Declined);
            answers.push(task.answer.expect("a refusal has words"));
        }
        answers
    });
    (std::mem::take(&mut rig.fake.world().plan_requests), answers)
}

#[test]
fn the_model_is_told_the_language_and_what_it_says_in_it_is_told_to_nobody_else() {
    let (asked, answers) = refused_to_others(Some("de"));
    assert_eq!(asked.len(), 2, "the other is refused by what was learned, the first asks anew");
    for request in asked {
        let context = request["input"][0]["content"].as_str().expect("a context");
        assert!(context.contains("\"language\":\"de\""), "{context}");
    }
    let is_quoted = |answer: &String| answer.contains("Das kann ich nicht.");
    assert_eq!(answers.iter().map(is_quoted).collect::<Vec<_>>(), [true, false, true], "{answers:?}");
    let (asked, answers) = refused_to_others(None);
    assert_eq!(asked.len(), 1, "without a language what was learned is enough");
    assert!(!asked[0]["input"][0]["content"].as_str().expect("a context").contains("language"));
    assert_eq!(answers.iter().map(is_quoted).collect::<Vec<_>>(), [true, false, false], "{answers:?}");
}

//! What stands between tasks and Google: remembered reads, budgets and breakers.

use bytes::Bytes;
use sluice_net::egress::Upstream;
use sluice_protocols::api::{Priority, Timing};
use sluice_protocols::google::gmail;
use sluice_protocols::plan::Service;

use super::*;
use crate::cache::{Read, ReadBody};
use crate::quota::{Ask, BreakerConfig, Class, Limits, Operation};

/// Runs these tasks one after another on one core.
fn run_all(rig: &Rig, count: u8) -> Vec<TaskView> {
    let tasks: Vec<TaskRecord> = (1..=count).map(|number| rig.accept(number)).collect();
    let shard = rig.shard;
    let ends = rig.on_core(async move |env| {
        let mut ends = Vec::new();
        for task in tasks {
            match run(&env, shard, task, &Recent::default(), &Cancel::default()).await {
                RunEnd::Final(task, _) | RunEnd::Unconfirmed(task) => ends.push(task),
                RunEnd::Interrupted(_, problem) => panic!("interrupted: {problem}"),
            }
        }
        ends
    });
    ends.iter().map(view_of).collect()
}

fn quotas(rig: &mut Rig, change: impl FnOnce(&mut QuotaConfig)) {
    let mut config = rig.config.quotas.config().clone();
    change(&mut config);
    rig.config.quotas = Quotas::new(config, 1);
}

#[test]
fn what_was_read_is_not_read_again_until_a_mail_of_ones_own_may_have_changed_it() {
    let rig = Rig::new();
    rig.fake.world().receive("Anna <anna@example.com>", "Budget", "x");
    let (find, write) = (json!([search("s1", "", 5)]), json!([send("s1", &[], "a@example.com")]));
    rig.fake.world().plans = vec![act(find.clone()), act(find.clone()), act(write), act(find)];
    let views = run_all(&rig, 4);
    assert!(views.iter().all(|view| view.state == TaskState::Done), "{views:?}");
    let found: Vec<usize> = views.iter().map(|view| view.steps[0].items.len()).collect();
    assert_eq!(found, [1, 1, 1, 2]);
    // The list anew, but of the messages only the new one.
    let lists = |log: &[String]| log.iter().filter(|line| *line == "GET /gmail/v1/users/me/messages").count();
    assert_eq!(lists(&rig.fake.world().log), 2);
    assert_eq!(rig.fake.count("GET /gmail/v1/users/me/messages/"), 2);
}

#[test]
fn a_failing_service_is_left_alone_and_the_others_go_on() {
    let mut rig = Rig::planning(json!([search("s1", "", 1), create("s2", &[])]));
    quotas(&mut rig, |config| {
        config.breaker = BreakerConfig { failures_in_a_row: 3, ..BreakerConfig::default() };
    });
    rig.fake.fault("GET /gmail", 1_000, Fault::Status(503, json!({})));
    let views = run_all(&rig, 3);
    assert_eq!(rig.fake.count("GET /gmail"), 3);
    for view in &views {
        assert_eq!(states(view), [StepState::Failed, StepState::Done]);
    }
    let problem = views[2].error.clone().expect("an error");
    assert_eq!(problem.kind(), ProblemKind::UpstreamUnavailable);
    assert!(problem.retry_after_s().is_some_and(|seconds| (1..=2).contains(&seconds)), "{problem}");
}

#[test]
fn what_the_users_minute_does_not_allow_is_not_sent_and_says_when_it_may_be() {
    let mut rig = Rig::planning(json!([send("s1", &[], "a@example.com")]));
    quotas(&mut rig, |config| config.gmail = Limits { user_per_minute: 150, ..config.gmail });
    let views = run_all(&rig, 2);
    assert_eq!((views[0].state, views[1].state), (TaskState::Done, TaskState::Failed));
    let problem = views[1].error.clone().expect("an error");
    assert_eq!(problem.kind(), ProblemKind::UpstreamLimited);
    assert!(problem.retry_after_s().is_some_and(|seconds| (50..=63).contains(&seconds)), "{problem}");
    assert_eq!(rig.fake.world().sent().len(), 1);
}

#[test]
fn a_limit_of_the_project_makes_everyone_wait_as_long_as_was_said() {
    let rig = Rig::planning(json!([search("s1", "", 1)]));
    let limited = json!({"error": {"message": "Retry after 2026-11-23T14:05:40Z",
                                   "errors": [{"reason": "rateLimitExceeded"}]}});
    rig.fake.fault("GET /gmail", 1, Fault::Status(429, limited));
    let views = run_all(&rig, 1);
    assert_eq!(views[0].error.as_ref().map(Problem::kind), Some(ProblemKind::UpstreamLimited));
    assert_eq!(rig.fake.count("GET /gmail"), 1, "it would not fit the call's time");
    // Another core shares the budgets, and so the wait.
    let views = run_all(&rig, 1);
    let problem = views[0].error.clone().expect("an error");
    assert_eq!(problem.kind(), ProblemKind::UpstreamLimited);
    assert!(problem.retry_after_s().is_some_and(|seconds| seconds > 20), "{problem}");
    assert_eq!(rig.fake.count("GET /gmail"), 1);
}

fn spawned(env: &Env, shard: ShardId, task: TaskRecord) -> sluice_core::JoinHandle<TaskRecord> {
    let env = env.clone();
    sluice_core::spawn(async move {
        match run(&env, shard, task, &Recent::default(), &Cancel::default()).await {
            RunEnd::Final(task, _) | RunEnd::Unconfirmed(task) => task,
            RunEnd::Interrupted(_, problem) => panic!("interrupted: {problem}"),
        }
    })
}

/// Waits until something is so, and a moment longer.
async fn until(is_so: impl Fn() -> bool) {
    for _ in 0..10_000 {
        let was_so = is_so();
        sluice_core::sleep(Duration::from_millis(2)).await;
        if was_so {
            return;
        }
    }
    panic!("it does not come to that");
}

/// The times of a task, which add up.
fn timing_of(view: &TaskView) -> Timing {
    let timing = view.timing.expect("times");
    let waits_us = timing.turn_us + timing.queue_us + timing.quota_us + timing.shared_us;
    assert_eq!(timing.total_us, timing.own_us + timing.openai_us + timing.google_us + waits_us, "{timing:?}");
    timing
}

#[test]
fn a_refresh_is_googles_time_for_all_who_wait_for_it() {
    let rig = Rig::new();
    rig.fake.world().plans = vec![act(json!([search("s1", "a", 1)])), act(json!([search("s1", "b", 1)]))];
    rig.fake.fault("POST /token", 1, Fault::Hold);
    let (tasks, shard, fake) = ([rig.accept(1), rig.accept(2)], rig.shard, rig.fake.clone());
    let ends = rig.on_core(async move |env| {
        let [first, second] = tasks.map(|task| spawned(&env, shard, task));
        until(|| env.tokens.waiting() == 2).await;
        fake.release();
        [first.await, second.await]
    });
    assert_eq!(rig.fake.world().refreshes, 1);
    for view in ends.iter().map(view_of) {
        assert_eq!(view.state, TaskState::Done, "{view:?}");
        let timing = timing_of(&view);
        assert!(timing.google_us > 0, "{timing:?}");
    }
}

#[test]
fn waiting_for_a_read_of_another_is_told_apart() {
    let rig = Rig::planning(json!([search("s1", "", 1)]));
    let (task, shard, user) = (rig.accept(1), rig.shard, rig.user);
    let view = rig.on_core(async move |env| {
        let list = gmail::list_messages("", 1);
        let Read::Make(ticket) = env.reads.read(user, &list, sluice_core::now()) else { panic!("it is new") };
        let running = spawned(&env, shard, task);
        until(|| env.reads.joined(Service::Gmail) > 0).await;
        let body = ReadBody::of(&list, Bytes::from_static(b"{}")).expect("a read");
        ticket.land(&Ok(body), sluice_core::now());
        view_of(&running.await)
    });
    let timing = timing_of(&view);
    assert_eq!((view.state, timing.google_us), (TaskState::Done, 0), "{view:?}");
    assert!(timing.shared_us > 0, "{timing:?}");
}

#[test]
fn waiting_for_a_place_among_the_calls_is_told_apart() {
    let mut rig = Rig::planning(json!([search("s1", "", 1)]));
    quotas(&mut rig, |config| config.google_concurrent_max = 1);
    let (task, shard) = (rig.accept(1), rig.shard);
    let view = rig.on_core(async move |env| {
        let ask = Ask { user: None, units: 0, tokens: 0, priority: Priority::Normal };
        let limit = sluice_core::now() + Duration::from_secs(30);
        let place = env.broker.enter(Upstream::Gmail, (Class::Read, Operation::ONLY), ask, limit).await;
        let place = place.expect("it is free");
        let running = spawned(&env, shard, task);
        until(|| env.broker.waiting(Upstream::Gmail) > 0).await;
        drop(place);
        view_of(&running.await)
    });
    let timing = timing_of(&view);
    assert_eq!(view.state, TaskState::Done, "{view:?}");
    assert!(timing.quota_us > 0, "{timing:?}");
}

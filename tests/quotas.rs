//! Google's quotas, through the real gateway against the simulator that keeps them: nothing costs more there than was counted
//! here, a load below them is never refused, and a burst beyond them is held back here.

mod common;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use common::scene::{Caller, SHARDS, Scene};
use common::{Gateway, Sim};
use serde_json::{Value, json};
use sluice_protocols::ids::{ApiKey, ShardCount};
use sluice_shard::Placement;
use tokio::task::JoinSet;

const SERVICES: [&str; 3] = ["gmail", "calendar", "drive"];

/// A simulator that keeps these quotas.
fn strict(quota: &str) -> Sim {
    let mut plan = tempfile::NamedTempFile::new().expect("a file");
    plan.write_all(quota.as_bytes()).expect("written");
    let path = plan.path().to_str().expect("UTF-8").to_owned();
    // Read before it says where it listens.
    Sim::start(&["--plan", &path])
}

async fn counted(gateway: &Gateway) -> BTreeMap<&'static str, u64> {
    let page = gateway.page().await;
    let units = |upstream| page.sum("sluice_quota_units_total", &[("upstream", upstream)]);
    SERVICES.into_iter().map(|service| (service, units(service))).collect()
}

async fn spent(sim: &Sim) -> BTreeMap<&'static str, u64> {
    let state = sim.state().await;
    let units = |service: &str| state["quota"][service]["units"].as_u64().expect("units");
    SERVICES.into_iter().map(|service| (service, units(service))).collect()
}

async fn ask(
    caller: &Caller,
    user: &str,
    (method, path, body): &(&str, String, Value),
) -> common::h3::Answer {
    let bearer = format!("Bearer {user}");
    let mut fields = vec![("authorization", bearer.as_str()), ("cache-control", "no-cache")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    if !body.is_empty() {
        fields.push(("content-type", "application/json"));
    }
    caller.send(method, &format!("/api/v1{path}"), &fields, body).await
}

fn event(hour: usize) -> Value {
    json!({
        "summary": format!("Meeting {hour}"),
        "start": {"dateTime": format!("2031-03-04T{:02}:00:00Z", hour % 20)},
        "end": {"dateTime": format!("2031-03-04T{:02}:30:00Z", hour % 20)},
    })
}

fn mail(number: usize) -> Value {
    json!({"to": ["carl@example.com"], "subject": format!("Number {number}"), "body": "Here."})
}

#[tokio::test]
async fn nothing_costs_more_at_google_than_was_counted() {
    let scene = Scene::with_sim(strict("[quota]\ngoogle = true\n"), 1, &[]);
    let user = scene.gateway.user("ada");
    let caller = scene.caller().await;
    let id_in = |list: &Value, member: &str| list[member][0]["id"].as_str().expect("an id").to_owned();
    let get = |path: &str| ("GET", path.to_owned(), Value::Null);
    let messages = ask(&caller, &user, &get("/gmail/messages?max_results=2")).await.value();
    let (message, thread) = (
        id_in(&messages, "messages"),
        messages["messages"][0]["threadId"].as_str().expect("a thread").to_owned(),
    );
    let made = ask(&caller, &user, &("POST", "/calendar/events".to_owned(), event(9))).await.value();
    let event_id = made["id"].as_str().expect("an id").to_owned();
    let own = json!({"name": "own.txt", "mimeType": "text/plain"});
    let own = ask(&caller, &user, &("POST", "/drive/files".to_owned(), own)).await.value();
    let file = own["id"].as_str().expect("an id").to_owned();
    let draft = ask(&caller, &user, &("POST", "/gmail/drafts".to_owned(), mail(0))).await.value();
    let draft = draft["id"].as_str().expect("an id").to_owned();
    let share = json!({"type": "user", "role": "reader", "emailAddress": "carl@example.com"});
    let all = [
        get("/gmail/messages?q=from%3Aanna"),
        get(&format!("/gmail/messages/{message}")),
        get("/gmail/threads"),
        get(&format!("/gmail/threads/{thread}")),
        get("/gmail/drafts"),
        get(&format!("/gmail/drafts/{draft}")),
        get("/gmail/labels"),
        ("POST", "/gmail/labels".to_owned(), json!({"name": "Counted"})),
        ("PATCH", format!("/gmail/messages/{message}/labels"), json!({"addLabelIds": ["STARRED"]})),
        ("POST", format!("/gmail/messages/{message}/trash"), Value::Null),
        ("POST", format!("/gmail/messages/{message}/untrash"), Value::Null),
        ("POST", "/gmail/messages".to_owned(), mail(1)),
        ("POST", format!("/gmail/messages/{message}/reply"), json!({"body": "Yes."})),
        ("POST", format!("/gmail/drafts/{draft}/send"), Value::Null),
        get("/calendar/calendars"),
        get("/calendar/events?max_results=5"),
        get(&format!("/calendar/events/{event_id}")),
        ("PATCH", format!("/calendar/events/{event_id}"), json!({"summary": "Other"})),
        ("DELETE", format!("/calendar/events/{event_id}"), Value::Null),
        ("POST", "/calendar/quick-add?text=Lunch%20tomorrow%20at%20noon".to_owned(), Value::Null),
        get("/drive/files?page_size=5"),
        get(&format!("/drive/files/{file}")),
        get(&format!("/drive/files/{file}/permissions")),
        ("PATCH", format!("/drive/files/{file}"), json!({"name": "new.txt"})),
        ("POST", format!("/drive/files/{file}/permissions?notify=false"), share),
        ("POST", "/command".to_owned(), json!({"command": "Show my mail from Anna"})),
        ("POST", "/command".to_owned(), json!({"command": "What is on my calendar tomorrow?"})),
        ("POST", "/command".to_owned(), json!({"command": "Find the file budget"})),
    ];
    let (mut before, mut spent_before) = (counted(&scene.gateway).await, spent(&scene.sim).await);
    for request in all {
        let answer = ask(&caller, &user, &request).await;
        assert!(answer.status.is_success(), "{} {}: {:?}", request.0, request.1, answer.body);
        let (now, spent_now) = (counted(&scene.gateway).await, spent(&scene.sim).await);
        for service in SERVICES {
            let (ours, theirs) = (now[service] - before[service], spent_now[service] - spent_before[service]);
            assert!(
                ours >= theirs,
                "{} {}: {ours} units of {service} counted, {theirs} spent",
                request.0,
                request.1
            );
        }
        (before, spent_before) = (now, spent_now);
    }
    assert!(SERVICES.iter().all(|service| spent_before[service] > 0), "{spent_before:?}");
}

/// One request of a mix of all services.
fn of_mix(number: usize) -> (&'static str, String, Value) {
    match number % 10 {
        0..=3 => ("GET", format!("/gmail/messages?max_results=2&q=number{number}"), Value::Null),
        4 => ("POST", "/gmail/messages".to_owned(), mail(number)),
        5 | 6 => ("GET", format!("/calendar/events?max_results={}", 1 + number % 50), Value::Null),
        7 => ("POST", "/calendar/events?send_updates=none".to_owned(), event(number)),
        _ => ("GET", format!("/drive/files?page_size={}", 1 + number % 50), Value::Null),
    }
}

/// Sends `requests` of the mix for each of `users`, `at_once` of a user at a time; the answers by status.
async fn mixed(scene: &Scene, users: &[String], requests: usize, at_once: usize) -> BTreeMap<u16, usize> {
    let mut calls = JoinSet::new();
    for (index, user) in users.iter().enumerate() {
        let caller = Arc::new(scene.caller().await);
        for lane in 0..at_once {
            let (caller, user) = (Arc::clone(&caller), user.clone());
            calls.spawn(async move {
                let mut statuses = Vec::new();
                for number in (lane..requests).step_by(at_once) {
                    let answer = ask(&caller, &user, &of_mix(number + index)).await;
                    if answer.status.as_u16() == 503 {
                        assert!(answer.field("retry-after").is_some(), "{:?}", answer.body);
                    }
                    statuses.push(answer.status.as_u16());
                }
                statuses
            });
        }
    }
    let mut by_status = BTreeMap::new();
    while let Some(statuses) = calls.join_next().await {
        for status in statuses.expect("a lane ends") {
            *by_status.entry(status).or_default() += 1;
        }
    }
    by_status
}

fn users(scene: &Scene) -> Vec<String> {
    ["ada", "bob", "cleo", "dan", "eve", "finn"].into_iter().map(|name| scene.gateway.user(name)).collect()
}

async fn assert_never_refused(scene: &Scene) -> Value {
    let quota = scene.sim.state().await["quota"].clone();
    for service in SERVICES {
        assert_eq!(quota[service]["refused"], json!({}), "{quota:#}");
    }
    quota
}

#[tokio::test]
async fn a_steady_load_below_the_quotas_is_never_refused() {
    // 6 users with 40 requests: 96 searches and 24 sends (at least 3,600 units), 72 of Calendar, 48 of Drive (4,800 units).
    let quota = "[quota]\ngoogle = true\n[quota.gmail]\nproject_units_per_minute = 5000\n[quota.calendar]\n\
        project_units_per_minute = 100\n[quota.drive]\nproject_units_per_minute = 6000\n";
    let own = [
        "quota.gmail_project_units_per_minute=5000",
        "quota.calendar_project_units_per_minute=100",
        "quota.drive_project_units_per_minute=6000",
    ];
    let scene = Scene::with_sim(strict(quota), 2, &own);
    let users = users(&scene);
    let answers = mixed(&scene, &users, 40, 4).await;
    let quota = assert_never_refused(&scene).await;
    assert_eq!(answers, BTreeMap::from([(200, 240)]), "{quota:#}");
}

/// Commands make batches, drafts and questions to the model, all of which count.
#[tokio::test]
async fn a_steady_load_of_commands_below_the_quotas_is_never_refused() {
    // 6 users with 20 commands: 120 questions; of Gmail at most 8 searches (205 units) and 4 mails (300 units) each.
    let plan = "[quota]\ngoogle = true\n[quota.gmail]\nproject_units_per_minute = 20000\n[quota.calendar]\n\
        project_units_per_minute = 100\n[openai]\nrequests_per_minute = 150\ntokens_per_minute = 1000000\n";
    let own = [
        "quota.gmail_project_units_per_minute=20000",
        "quota.calendar_project_units_per_minute=100",
        "quota.openai_requests_per_minute=150",
        "quota.openai_tokens_per_minute=1000000",
    ];
    let scene = Scene::with_sim(strict(plan), 2, &own);
    let mut calls = JoinSet::new();
    for user in users(&scene) {
        let caller = scene.caller().await;
        calls.spawn(async move {
            for number in 0..20 {
                let command = match number % 5 {
                    0 | 1 => format!("Find the mail from Anna about the budget {number}"),
                    2 => "What is on my calendar tomorrow?".to_owned(),
                    3 => format!("send an email to ben@x.example with subject Number {number} and body Here"),
                    _ => "find the file about the roadmap".to_owned(),
                };
                let body = json!({"command": command});
                let answer = ask(&caller, &user, &("POST", "/command".to_owned(), body)).await;
                assert_eq!(answer.status.as_u16(), 200, "{command}: {:?}", answer.body);
                assert_eq!(answer.value()["state"], "done", "{command}");
            }
        });
    }
    while let Some(ended) = calls.join_next().await {
        ended.expect("all are done");
    }
    assert_never_refused(&scene).await;
    let openai = scene.sim.state().await["openai"].clone();
    assert_eq!((&openai["limited"], &openai["requests"]), (&json!(0), &json!(120)), "{openai:#}");
}

/// One request of the plain surface, drafts and files among them.
fn of_surface(number: usize) -> (&'static str, String, Value) {
    match number % 6 {
        4 => ("POST", "/gmail/drafts".to_owned(), mail(number)),
        5 => {
            let file = json!({"name": format!("number{number}.txt"), "mimeType": "text/plain"});
            ("POST", "/drive/files".to_owned(), file)
        }
        _ => of_mix(number),
    }
}

/// One command of all kinds: searches whose mails are read by batches, drafts that are sent and that stay, changes.
fn of_commands(number: usize) -> String {
    match number % 10 {
        0 => format!("Find the mail from Anna about the budget {number}"),
        1 => format!("draft a mail to ben@x.example saying code q{number}x is kept"),
        2 => format!("send an email to ben@x.example with subject Number {number} and body Here"),
        3 => {
            format!("forward the mail from Anna about the budget to ben{number}@x.example saying have a look")
        }
        4 => format!("label the mail from Anna about the budget as Number{number}"),
        5 => format!("make a file called number{number} saying zebras are striped"),
        6 => format!("share the file about the roadmap workshop with ben{number}@x.example"),
        7 => "is kim@example.com free tomorrow".to_owned(),
        8 => format!("create an event called Review{number} tomorrow at ten"),
        _ => "Show my mail from Anna".to_owned(),
    }
}

/// Sends the plain surface and commands side by side, `at_once` of each kind and user; the answers by status. Of commands
/// that are answered with 200 all are done.
async fn everything(
    scene: &Scene,
    requests: usize,
    at_once: usize,
    deadline_ms: u32,
) -> BTreeMap<u16, usize> {
    let mut calls = JoinSet::new();
    for (index, user) in users(scene).into_iter().enumerate() {
        let caller = Arc::new(scene.caller().await);
        for lane in 0..2 * at_once {
            let (caller, user, is_plain) = (Arc::clone(&caller), user.clone(), lane < at_once);
            calls.spawn(async move {
                let mut statuses = Vec::new();
                for number in (lane % at_once..requests).step_by(at_once) {
                    let request = if is_plain {
                        of_surface(number + index)
                    } else {
                        let body =
                            json!({"command": of_commands(number + index), "deadline_ms": deadline_ms});
                        ("POST", "/command".to_owned(), body)
                    };
                    let answer = ask(&caller, &user, &request).await;
                    let status = answer.status.as_u16();
                    match status {
                        200 if !is_plain => assert_eq!(answer.value()["state"], "done", "{request:?}"),
                        503 => assert!(answer.field("retry-after").is_some(), "{:?}", answer.body),
                        _ => {}
                    }
                    statuses.push(status);
                }
                statuses
            });
        }
    }
    let mut by_status = BTreeMap::new();
    while let Some(statuses) = calls.join_next().await {
        for status in statuses.expect("a lane ends") {
            *by_status.entry(status).or_default() += 1;
        }
    }
    by_status
}

/// Neither Google nor OpenAI refused anything, and nothing cost more there than was counted here.
async fn assert_kept(scene: &Scene) -> Value {
    let quota = assert_never_refused(scene).await;
    let (ours, theirs) = (counted(&scene.gateway).await, spent(&scene.sim).await);
    for service in SERVICES {
        assert!(ours[service] >= theirs[service], "{service}: {ours:?} counted, {theirs:?} spent");
    }
    let state = scene.sim.state().await;
    assert_eq!(state["openai"]["limited"], 0, "{:#}", state["openai"]);
    assert_eq!(state["statuses"]["429"], Value::Null, "{:#}", state["statuses"]);
    quota
}

#[tokio::test]
async fn a_steady_load_of_commands_and_the_plain_surface_below_the_quotas_is_never_refused() {
    // Of a user some 3,500 units of Gmail at most (4 searches with 10 mails each, 12 mails sent or forwarded, 11 drafts), 20
    // requests of Calendar, 1,900 units of Drive (7 lists, 4 searches, 11 files); 20 questions.
    let plan = "[quota]\ngoogle = true\n[quota.gmail]\nproject_units_per_minute = 40000\n[quota.calendar]\n\
        project_units_per_minute = 200\n[quota.drive]\nproject_units_per_minute = 20000\n[openai]\n\
        requests_per_minute = 150\ntokens_per_minute = 1000000\n";
    let own = [
        "quota.gmail_project_units_per_minute=40000",
        "quota.calendar_project_units_per_minute=200",
        "quota.drive_project_units_per_minute=20000",
        "quota.openai_requests_per_minute=150",
        "quota.openai_tokens_per_minute=1000000",
    ];
    let scene = Scene::with_sim(strict(plan), 2, &own);
    let answers = everything(&scene, 20, 4, 60_000).await;
    let quota = assert_kept(&scene).await;
    assert_eq!(answers, BTreeMap::from([(200, 240)]), "{quota:#}");
    // What the test is about was there: mails read together, drafts, changes of files.
    for operation in [
        "gmail.messages.get",
        "gmail.drafts.create",
        "gmail.drafts.send",
        "gmail.messages.modify",
        "drive.permissions.create",
    ] {
        assert!(scene.sim.asked(operation).await > 0, "{operation}");
    }
}

#[tokio::test]
async fn a_burst_of_commands_and_the_plain_surface_beyond_the_quotas_is_held_back_here() {
    let plan = "[quota]\ngoogle = true\n[quota.gmail]\nproject_units_per_minute = 3000\nuser_units_per_minute = 800\n\
        [quota.calendar]\nproject_units_per_minute = 30\nuser_units_per_minute = 10\n[quota.drive]\n\
        project_units_per_minute = 4000\nuser_units_per_minute = 1000\n[openai]\nrequests_per_minute = 60\n\
        tokens_per_minute = 1000000\n";
    let own = [
        "quota.gmail_project_units_per_minute=3000",
        "quota.gmail_user_units_per_minute=800",
        "quota.calendar_project_units_per_minute=30",
        "quota.calendar_user_units_per_minute=10",
        "quota.drive_project_units_per_minute=4000",
        "quota.drive_user_units_per_minute=1000",
        "quota.openai_requests_per_minute=60",
        "quota.openai_tokens_per_minute=1000000",
    ];
    let scene = Scene::with_sim(strict(plan), 2, &own);
    let answers = everything(&scene, 40, 8, 2_000).await;
    assert_kept(&scene).await;
    // What was begun and not done in time is 504.
    assert!(answers.keys().all(|status| matches!(status, 200 | 503 | 504)), "{answers:?}");
    assert!(answers[&200] > 50 && answers[&503] > 50, "{answers:?}");
}

#[tokio::test]
async fn more_questions_than_the_model_may_be_asked_are_held_back_here() {
    // By requests, then by tokens: a question is counted as about four bytes a token and 500 for its answer.
    for (plan, own, least) in [
        ("requests_per_minute = 30", "quota.openai_requests_per_minute=30", 25),
        ("tokens_per_minute = 100000", "quota.openai_tokens_per_minute=100000", 10),
    ] {
        let scene = Scene::with_sim(strict(&format!("[openai]\n{plan}\n")), 2, &[own]);
        let mut calls = JoinSet::new();
        for user in users(&scene) {
            for number in 0..15 {
                let (caller, user) = (scene.caller().await, user.clone());
                calls.spawn(async move {
                    let body =
                        json!({"command": format!("tell me joke number {number}"), "deadline_ms": 2_000});
                    let answer = ask(&caller, &user, &("POST", "/command".to_owned(), body)).await;
                    if answer.status.as_u16() != 200 {
                        assert!(answer.field("retry-after").is_some(), "{:?}", answer.body);
                    }
                    answer.status.as_u16()
                });
            }
        }
        let mut by_status = BTreeMap::new();
        while let Some(status) = calls.join_next().await {
            *by_status.entry(status.expect("an answer")).or_insert(0) += 1;
        }
        assert_eq!(by_status.keys().copied().collect::<Vec<u16>>(), [200, 503], "{plan}: {by_status:?}");
        let openai = scene.sim.state().await["openai"].clone();
        assert_eq!(openai["limited"], 0, "{plan}: {openai:#}");
        assert!(openai["requests"].as_u64() >= Some(least), "{plan}: {openai:#}");
    }
}

/// What Google says to one of us is meant for all of us.
#[tokio::test]
async fn a_limit_that_one_core_is_told_of_keeps_all_cores_back() {
    let scene = Scene::start(2, &[]);
    let search = ("GET", "/drive/files?page_size=1".to_owned(), Value::Null);
    let caller = scene.caller().await;
    let owner = |key: &str| {
        let key = ApiKey::parse(key).expect("a key");
        let placement = Placement::dealt(ShardCount::new(SHARDS).expect("in bounds"), 2);
        placement.owner(placement.shard_of(&key.user())).index()
    };
    let first = scene.gateway.user("user0");
    let other = (1..100).map(|number| scene.gateway.user(&format!("user{number}")));
    let other = other.into_iter().find(|key| owner(key) != owner(&first)).expect("one on the other core");
    // Both have their tokens.
    for user in [&first, &other] {
        assert_eq!(ask(&caller, user, &search).await.status.as_u16(), 200);
    }
    let limit = json!({"service": "drive", "kind": "status", "status": 429, "reason": "rateLimitExceeded",
        "retry_after_s": 600, "count": 1});
    scene.sim.fault(limit).await;
    let asked = scene.sim.asked("drive.files.list").await;
    // Whoever met the limit is told what Google asks for; of that, half is believed, and then one is sent to see.
    for (user, told) in [(&first, 500..=600), (&other, 200..=300)] {
        let answer = ask(&caller, user, &search).await;
        answer.problem(503, "upstream-limited");
        let wait: u64 = answer.field("retry-after").expect("a time").parse().expect("seconds");
        assert!(told.contains(&wait), "{wait}");
    }
    // The one that was refused is not among those that were answered, and the other was not sent.
    let state = scene.sim.state().await;
    assert_eq!((&state["requests"]["drive.files.list"], &state["faults_fired"]), (&json!(asked), &json!(1)));
    // Others are not concerned.
    let events = ("GET", "/calendar/events?max_results=1".to_owned(), Value::Null);
    assert_eq!(ask(&caller, &other, &events).await.status.as_u16(), 200);
}

#[tokio::test]
async fn a_burst_beyond_the_quotas_is_held_back_before_google_sees_it() {
    let quota = "[quota]\ngoogle = true\n[quota.gmail]\nproject_units_per_minute = 2000\nuser_units_per_minute = 600\n\
        [quota.calendar]\nproject_units_per_minute = 60\nuser_units_per_minute = 20\n[quota.drive]\n\
        project_units_per_minute = 3000\nuser_units_per_minute = 900\n";
    let own = [
        "quota.gmail_project_units_per_minute=2000",
        "quota.gmail_user_units_per_minute=600",
        "quota.calendar_project_units_per_minute=60",
        "quota.calendar_user_units_per_minute=20",
        "quota.drive_project_units_per_minute=3000",
        "quota.drive_user_units_per_minute=900",
    ];
    let scene = Scene::with_sim(strict(quota), 2, &own);
    let users = users(&scene);
    let answers = mixed(&scene, &users, 80, 16).await;
    let quota = assert_never_refused(&scene).await;
    assert_eq!(answers.keys().copied().collect::<Vec<_>>(), [200, 503], "{answers:?}");
    // What there is is used: normal work leaves 5 % to urgent work, and one call fewer may fit.
    for (service, least) in [("gmail", 1_700), ("calendar", 55), ("drive", 2_700)] {
        let used = quota[service]["units"].as_u64().expect("units");
        assert!(used >= least, "{service}: {quota:#} {answers:?}");
    }
}

#[tokio::test]
async fn a_read_that_hangs_is_answered_by_its_second_copy_and_a_change_has_none() {
    let scene = Scene::start(1, &[]);
    let user = scene.gateway.user("ada");
    let caller = scene.caller().await;
    // What is usual is learned first.
    for number in 0..110 {
        let search = ("GET", format!("/gmail/messages?max_results=1&q=number{number}"), Value::Null);
        assert_eq!(ask(&caller, &user, &search).await.status.as_u16(), 200);
    }
    let hang =
        |operation: &str| json!({"service": "gmail", "kind": "hang", "operation": operation, "count": 1});
    scene.sim.fault(hang("gmail.messages.list")).await;
    let search = ("GET", "/gmail/messages?max_results=1&q=slow".to_owned(), Value::Null);
    let answer = ask(&caller, &user, &search).await;
    assert_eq!(answer.status.as_u16(), 200, "{:?}", answer.body);
    let page = scene.gateway.page().await;
    let gmail = [("upstream", "gmail")];
    let hedges = page.sum("sluice_quota_hedges_total", &gmail);
    assert!(hedges >= 1 && page.sum("sluice_quota_hedges_won_total", &gmail) >= 1, "{}", page.text);
    scene
        .sim
        .fault(json!({"service": "gmail", "kind": "slow", "ms": 400, "method": "POST", "count": 1}))
        .await;
    let label = ("POST", "/gmail/labels".to_owned(), json!({"name": "Slow"}));
    let made = ask(&caller, &user, &label).await;
    assert_eq!(made.status.as_u16(), 200, "{:?}", made.body);
    let page = scene.gateway.page().await;
    assert_eq!(page.sum("sluice_quota_hedges_total", &gmail), hedges);
    assert_eq!(scene.sim.asked("gmail.labels.create").await, 1);
}

#[tokio::test]
async fn while_one_operation_is_left_alone_the_others_are_used() {
    let scene = Scene::start(
        1,
        &[
            "egress.breaker_failures_in_a_row=4",
            "egress.breaker_open_ms=600000",
            "egress.breaker_open_max_ms=600000",
        ],
    );
    let user = scene.gateway.user("ada");
    let caller = scene.caller().await;
    let get = |path: String| ("GET", path, Value::Null);
    let list = ask(&caller, &user, &get("/gmail/messages?max_results=1".to_owned())).await.value();
    let message = list["messages"][0]["id"].as_str().expect("an id").to_owned();
    let fault =
        json!({"service": "gmail", "kind": "status", "status": 503, "operation": "gmail.messages.list"});
    scene.sim.fault(fault).await;
    let struck = async || scene.sim.state().await["faults_fired"].clone();
    let mut before = struck().await;
    for number in 0.. {
        assert!(number < 20, "it is never left alone");
        let search = get(format!("/gmail/messages?max_results=1&q=number{number}"));
        let answer = ask(&caller, &user, &search).await;
        answer.problem(502, "upstream-unavailable");
        let now = struck().await;
        if now == before {
            assert!(answer.field("retry-after").is_some(), "{:?}", answer.body);
            break;
        }
        before = now;
    }
    for path in
        [format!("/gmail/messages/{message}?format=minimal"), "/gmail/threads?max_results=1".to_owned()]
    {
        let answer = ask(&caller, &user, &get(path.clone())).await;
        assert_eq!(answer.status.as_u16(), 200, "{path}: {:?}", answer.body);
    }
    let sent = ask(&caller, &user, &("POST", "/gmail/messages".to_owned(), mail(1))).await;
    assert_eq!(sent.status.as_u16(), 200, "{:?}", sent.body);
    let page = scene.gateway.page().await;
    assert_eq!(page.sum("sluice_breaker_opened_total", &[("upstream", "gmail")]), 1);
    assert_eq!(page.sum("sluice_breaker_state", &[("upstream", "gmail"), ("class", "read")]), 2);
}

#[tokio::test]
async fn what_is_used_of_a_day_outlives_restarts_and_a_crash_costs_a_minute() {
    let scene = Scene::start(2, &[]);
    let user = scene.gateway.user("ada");
    let caller = scene.caller().await;
    let search = ("GET", "/calendar/events?max_results=1".to_owned(), Value::Null);
    for _ in 0..3 {
        assert_eq!(ask(&caller, &user, &search).await.status.as_u16(), 200);
    }
    let Scene { gateway, sim, directory } = scene;
    let day = [("upstream", "calendar"), ("budget", "units_day")];
    let used = async |gateway: &Gateway| gateway.page().await.sum("sluice_quota_used", &day);
    // What the cores hold for their next calls counts, too.
    let before = used(&gateway).await;
    assert!(before >= 3, "{before}");
    let gateway = gateway.stop_and_restart();
    assert_eq!(used(&gateway).await, before);
    let gateway = gateway.crash_and_restart();
    assert_eq!(used(&gateway).await, before + 10_000);
    let gateway = gateway.crash_and_restart();
    assert_eq!(used(&gateway).await, before + 10_000, "it is a minute's limit once a minute");
    drop((gateway, sim, directory));
}

#[tokio::test]
async fn a_minute_that_was_used_before_a_restart_or_a_kill_is_not_used_again() {
    // Eighty of a hundred units, forty of each user's fifty, then once more after each end of the process.
    let quota = "[quota]\ngoogle = true\n[quota.calendar]\nproject_units_per_minute = 100\nuser_units_per_minute = 50\n";
    let own = ["quota.calendar_project_units_per_minute=100", "quota.calendar_user_units_per_minute=50"];
    let scene = Scene::with_sim(strict(quota), 2, &own);
    let users = [scene.gateway.user("ada"), scene.gateway.user("bob")];
    let Scene { mut gateway, sim, directory } = scene;
    let mut answered = Vec::new();
    for end in ["none", "stop", "kill", "kill"] {
        gateway = match end {
            "stop" => gateway.stop_and_restart(),
            "kill" => gateway.crash_and_restart(),
            _ => gateway,
        };
        let mut calls = JoinSet::new();
        for user in &users {
            let (caller, user) = (Caller::of(&gateway).await, user.clone());
            calls.spawn(async move {
                let mut statuses = Vec::new();
                for number in 0..40 {
                    let search = ("GET", format!("/calendar/events?max_results={}", 1 + number), Value::Null);
                    let answer = ask(&caller, &user, &search).await;
                    if answer.status.as_u16() != 200 {
                        answer.problem(503, "upstream-limited");
                    }
                    statuses.push(answer.status.as_u16());
                }
                statuses
            });
        }
        let mut good = 0;
        while let Some(statuses) = calls.join_next().await {
            good += statuses.expect("a lane ends").into_iter().filter(|status| *status == 200).count();
        }
        answered.push(good);
        let state = sim.state().await;
        assert_eq!(
            state["quota"]["calendar"]["refused"],
            json!({}),
            "after {end}, {answered:?}: {:#}",
            state["quota"]
        );
    }
    assert_eq!(answered[0], 80, "{answered:?}");
    drop((gateway, sim, directory));
}

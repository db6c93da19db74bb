//! Limits on requests, through the real binary: by user, key, class and address, over every protocol, on two cores, over
//! restarts.
//!
//! Limits of the hour are used wherever something is counted: nothing comes back while a test runs.

mod common;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use common::asker::Asker;
use common::h3::Answer;
use common::scene::{Caller, SHARDS, Scene, guard};
use common::{Gateway, Sim};
use http::Request;
use reqwest::Version;
use serde_json::{Value, json};
use sluice_protocols::ids::{ApiKey, ShardCount};
use sluice_shard::Placement;
use tokio::task::JoinSet;

const TASKS: &str = "/api/v1/tasks";

/// A refusal by this limit, with all that goes with it.
fn assert_refused(answer: &Answer, limit: &str, count: u64, window_s: u64) {
    let problem = answer.problem(429, "rate-limited");
    assert_eq!((&problem["limit"], &problem["retryable"]), (&json!(limit), &json!(true)));
    let wait = problem["retry_after_s"].as_u64().expect("a wait");
    assert!((1..=window_s).contains(&wait), "{problem:#}");
    assert_eq!(answer.field("retry-after"), Some(&*wait.to_string()));
    let policy = format!("\"{limit}\";q={count};w={window_s}");
    assert_eq!(answer.field("ratelimit-policy"), Some(&*policy));
    assert_eq!(answer.field("ratelimit"), Some(&*format!("\"{limit}\";r=0;t={wait}")));
}

/// Asks over TCP.
async fn over_tcp(gateway: &Gateway, version: Version, path: &str, key: &str) -> Answer {
    let pem = std::fs::read(gateway.ca()).expect("the authority");
    let authority = reqwest::Certificate::from_pem(&pem).expect("PEM");
    let builder =
        reqwest::Client::builder().tls_certs_only([authority]).resolve("localhost", gateway.address);
    let builder = if version == Version::HTTP_11 { builder.http1_only() } else { builder };
    let url = format!("https://localhost:{}{path}", gateway.address.port());
    let request = builder.build().expect("a client").get(url).bearer_auth(key);
    let response = guard(request.send()).await.expect("an answer");
    assert_eq!(response.version(), version);
    let (status, fields) = (response.status(), response.headers().clone());
    Answer { status, fields, body: guard(response.bytes()).await.expect("a body") }
}

/// How many of `tries` reads are let in; the others are refused by this limit.
async fn let_in(caller: &Caller, key: &str, tries: usize, limit: &str) -> usize {
    let mut count = 0;
    for _ in 0..tries {
        let answer = caller.get(TASKS, key).await;
        match answer.status.as_u16() {
            200 => count += 1,
            _ => assert_eq!(answer.problem(429, "rate-limited")["limit"], limit),
        }
    }
    count
}

#[tokio::test]
async fn one_limit_holds_over_all_protocols_and_another_user_is_not_touched() {
    let scene = Scene::start(2, &["rate.user_per_hour=6"]);
    let gateway = &scene.gateway;
    let (ada, bob) = (gateway.user("ada"), gateway.user("bob"));
    let caller = scene.caller().await;
    let mut left = 6;
    for _ in 0..2 {
        for version in [Version::HTTP_3, Version::HTTP_2, Version::HTTP_11] {
            let answer = match version {
                Version::HTTP_3 => caller.get(TASKS, &ada).await,
                version => over_tcp(gateway, version, TASKS, &ada).await,
            };
            left -= 1;
            assert_eq!(answer.status.as_u16(), 200, "{version:?}");
            assert_eq!(answer.field("ratelimit-policy"), Some("\"user-hour\";q=6;w=3600"));
            let state = answer.field("ratelimit").expect("told");
            assert!(state.starts_with(&format!("\"user-hour\";r={left};t=")), "{version:?}: {state}");
        }
    }
    assert_refused(&caller.get(TASKS, &ada).await, "user-hour", 6, 3_600);
    for version in [Version::HTTP_2, Version::HTTP_11] {
        assert_refused(&over_tcp(gateway, version, TASKS, &ada).await, "user-hour", 6, 3_600);
    }
    let command = json!({"command": "find the mail from Anna about the budget"});
    assert_refused(&caller.post(&ada, &command).await, "user-hour", 6, 3_600);
    // What fails counts as well, and so do answers that are no tasks.
    assert_eq!(caller.get("/api/v1/tasks/tsk_00000000000000000000000000", &bob).await.status.as_u16(), 404);
    assert_eq!(let_in(&caller, &bob, 8, "user-hour").await, 5);
    for path in ["/livez", "/readyz", "/metrics", "/openapi.json"] {
        for _ in 0..10 {
            let answer = caller.send("GET", path, &[("authorization", &format!("Bearer {ada}"))], "").await;
            assert_eq!((answer.status.as_u16(), answer.field("ratelimit")), (200, None), "{path}");
        }
    }
    let page = gateway.page().await;
    assert_eq!(page.sum("sluice_limit_admitted_total", &[("class", "reads")]), 12);
    assert_eq!(page.sum("sluice_limit_refused_total", &[("limit", "user-hour"), ("class", "reads")]), 6);
    assert_eq!(page.sum("sluice_limit_refused_total", &[("limit", "user-hour"), ("class", "commands")]), 1);
    assert_eq!(page.sum("sluice_limit_rows", &[("table", "users")]), 2);
    assert_eq!(page.sum("sluice_problems_total", &[("kind", "rate-limited")]), 7);
}

#[tokio::test]
async fn a_user_has_a_hundred_requests_a_minute_when_nothing_else_is_said() {
    let scene = Scene::start(1, &["rate.user_per_minute=100", "rate.user_per_hour=1000"]);
    let ada = scene.gateway.user("ada");
    let caller = scene.caller().await;
    let began = Instant::now();
    let first = caller.get(TASKS, &ada).await;
    let policy = "\"user-minute\";q=100;w=60, \"user-hour\";q=1000;w=3600";
    assert_eq!(first.field("ratelimit-policy"), Some(policy));
    assert_eq!(first.field("ratelimit"), Some("\"user-minute\";r=99;t=1, \"user-hour\";r=999;t=4"));
    let count = 1 + let_in(&caller, &ada, 400, "user-minute").await;
    // One comes back in 600 ms; no stretch of time holds more than the model says.
    let model = 100 + usize::try_from(began.elapsed().as_millis() / 600).expect("a short test");
    assert!((100..=model).contains(&count), "{count} of {model}");
}

#[tokio::test]
async fn limits_of_keys_and_classes_hold_beside_that_of_the_user() {
    let options = ["rate.key_per_hour=4", "rate.commands_per_hour=1", "rate.google_per_hour=2"];
    let scene = Scene::start(1, &options);
    let ada = scene.gateway.user("ada");
    let other = scene.gateway.admin(&["key", "add", "ada"]);
    let asker = Asker::of(&scene.gateway, &ada).await;
    let search = json!({"command": "find the mail from Anna about the budget"});
    asker.expect(200, "POST", "/command", &search).await;
    assert_refused(&asker.ask("POST", "/command", &search).await, "commands-hour", 1, 3_600);
    for _ in 0..2 {
        asker.get("/gmail/labels").await;
    }
    assert_refused(&asker.ask("GET", "/calendar/events", &Value::Null).await, "google-hour", 2, 3_600);
    asker.get("/tasks").await;
    assert_refused(&asker.ask("GET", "/tasks", &Value::Null).await, "key-hour", 4, 3_600);
    // The user's other key has its own, but classes are the user's.
    let second = Asker { caller: scene.caller().await, key: other };
    second.get("/tasks").await;
    assert_refused(&second.ask("GET", "/gmail/labels", &Value::Null).await, "google-hour", 2, 3_600);
}

#[tokio::test]
async fn what_was_used_is_used_after_a_restart_and_after_a_kill() {
    let scene = Scene::start(2, &["rate.user_per_hour=12"]);
    let Scene { gateway, sim: _sim, directory: _directory } = scene;
    let (ada, bob) = (gateway.user("ada"), gateway.user("bob"));
    let caller = Caller::of(&gateway).await;
    assert_eq!(let_in(&caller, &ada, 5, "user-hour").await, 5);
    // An orderly end writes what is not written yet.
    // What holds a connection is waited for.
    drop(caller);
    let gateway = gateway.stop_and_restart();
    let caller = Caller::of(&gateway).await;
    assert_eq!(let_in(&caller, &ada, 4, "user-hour").await, 4);
    assert_eq!(let_in(&caller, &bob, 12, "user-hour").await, 12);
    // While it runs it is written within seconds.
    let is_written = |page: &common::metrics::Metrics| {
        page.sum("sluice_limit_saved_total", &[]) >= 2 && page.sum("sluice_limit_unsaved", &[]) == 0
    };
    let page = gateway.until("what was used is written", is_written).await;
    assert_eq!(page.sum("sluice_limit_recalled_total", &[]), 1);
    let gateway = gateway.crash_and_restart();
    let caller = Caller::of(&gateway).await;
    assert_eq!(let_in(&caller, &ada, 8, "user-hour").await, 3);
    assert_eq!(let_in(&caller, &bob, 2, "user-hour").await, 0);
    // What was used in the last seconds before a kill is given back, and that is no more than a minute lets in.
    let gateway = gateway.crash_and_restart();
    let caller = Caller::of(&gateway).await;
    assert!(let_in(&caller, &ada, 8, "user-hour").await <= 3);
    assert_eq!(let_in(&caller, &bob, 2, "user-hour").await, 0);
}

#[tokio::test]
async fn two_cores_and_one_address_keep_one_limit() {
    let cores = 2;
    let scene = Scene::start(cores, &["rate.address_per_hour=30"]);
    let owner = |key: &str| {
        let key = ApiKey::parse(key).expect("a key");
        let placement = Placement::dealt(ShardCount::new(SHARDS).expect("in bounds"), cores);
        placement.owner(placement.shard_of(&key.user())).index()
    };
    let mut keys: Vec<String> = Vec::new();
    for number in 0..100 {
        let key = scene.gateway.user(&format!("user{number}"));
        if keys.iter().all(|known| owner(known) != owner(&key)) {
            keys.push(key);
        }
        if keys.len() == cores {
            break;
        }
    }
    let mut callers = Vec::new();
    for core in 0..cores {
        callers.push(Caller::at(&scene.gateway, scene.gateway.core_address(core)).await);
    }
    let mut count = 0;
    for turn in 0..60 {
        // Every pair of a core where it comes in and one that owns the user, and TCP besides.
        let (caller, key) = (&callers[turn % cores], &keys[turn / cores % cores]);
        let answer = match turn % 5 {
            0 => over_tcp(&scene.gateway, Version::HTTP_2, TASKS, key).await,
            _ => caller.get(TASKS, key).await,
        };
        match answer.status.as_u16() {
            200 => count += 1,
            _ => assert_refused(&answer, "address-hour", 30, 3_600),
        }
    }
    assert_eq!(count, 30);
    let page = scene.gateway.page().await;
    let refused = page.by_core("sluice_limit_refused_total", &[("limit", "address-hour")], cores);
    assert!(refused.iter().sum::<u64>() == 30 && refused.iter().all(|core| *core > 0), "{refused:?}");
    assert_eq!(page.sum("sluice_limit_address_rows", &[("table", "addresses")]), 1);
    // Whether the server lives may always be asked, and administration does not come in here.
    assert_eq!(callers[0].send("GET", "/livez", &[], "").await.status.as_u16(), 200);
    assert_refused(&callers[1].send("GET", "/openapi.json", &[], "").await, "address-hour", 30, 3_600);
}

#[tokio::test]
async fn keys_cannot_be_guessed_by_force() {
    let scene = Scene::start(2, &["rate.unauthorized_per_hour=10"]);
    let (ada, bob) = (scene.gateway.user("ada"), scene.gateway.user("bob"));
    let caller = scene.caller().await;
    assert_eq!(caller.get(TASKS, &ada).await.status.as_u16(), 200);
    let user = ApiKey::parse(&bob).expect("a key").user();
    let guess = |number: u8| ApiKey::new(user, [number; 32]).expose();
    let (mut denied, mut refused) = (0, 0);
    for number in 0..40u8 {
        let answer = match number % 4 {
            0 => caller.get(TASKS, &guess(number)).await,
            1 => over_tcp(&scene.gateway, Version::HTTP_11, TASKS, &guess(number)).await,
            2 => caller.post("sk_short", &json!({"command": "x"})).await,
            _ => caller.post(&guess(number), &json!({"command": "x"})).await,
        };
        match answer.status.as_u16() {
            401 => denied += 1,
            _ => {
                assert_refused(&answer, "unauthorized-hour", 10, 3_600);
                refused += 1;
            }
        }
    }
    assert_eq!((denied, refused), (10, 30));
    // A key that was right before is still served; one that was not shown yet is not told from a guess.
    assert_eq!(caller.get(TASKS, &ada).await.status.as_u16(), 200);
    assert_refused(&caller.get(TASKS, &bob).await, "unauthorized-hour", 10, 3_600);
}

/// After a start nobody's key was shown yet.
#[tokio::test]
async fn everybody_behind_one_address_may_bring_their_key_at_once() {
    let scene = Scene::start(2, &["rate.unauthorized_per_hour=10"]);
    let file = scene.directory.path().join("many");
    let out = file.to_str().expect("UTF-8");
    scene.gateway.admin(&["user", "seed", "--count", "60", "--prefix", "many-", "--keys-out", out]);
    let keys = std::fs::read_to_string(&file).expect("the keys");
    let caller = Arc::new(scene.caller().await);
    let mut asking = JoinSet::new();
    for key in keys.lines().filter_map(|line| line.split('\t').nth(1)).map(str::to_owned) {
        let caller = Arc::clone(&caller);
        asking.spawn(async move { caller.get(TASKS, &key).await.status.as_u16() });
    }
    assert_eq!(asking.join_all().await, [200; 60]);
}

#[tokio::test]
async fn places_of_requests_under_way_come_back_when_their_client_goes() {
    let scene = Scene::start(2, &["rate.user_concurrent_max=2"]);
    let ada = scene.gateway.user("ada");
    scene.sim.fault(json!({"service": "openai", "kind": "hang", "count": -1})).await;
    let caller = scene.caller().await;
    let path = caller.queue(&ada, "find the mail from Anna about the budget").await;
    let gone = scene.caller().await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let request = Request::get(format!("https://localhost{path}/events"))
            .header("authorization", format!("Bearer {ada}"))
            .body(())
            .expect("a valid request");
        let (_, mut body) = guard(gone.http.open(request, Bytes::new())).await.expect("a stream");
        assert_eq!(guard(body.event()).await.expect("an event").1, "accepted");
        streams.push(body);
    }
    let answer = caller.get(&path, &ada).await;
    let problem = answer.problem(429, "rate-limited");
    assert_eq!((&problem["limit"], answer.field("retry-after")), (&json!("user-concurrent"), Some("1")));
    gone.http.close();
    drop(streams);
    scene.gateway.until("the streams are over", |page| page.sum("sluice_event_streams", &[]) == 0).await;
    assert_eq!(caller.get(&path, &ada).await.status.as_u16(), 200);
    scene.sim.clear_faults().await;
    caller.finished(&ada, &path).await;
}

#[tokio::test]
async fn an_operator_sets_the_limits_of_one_user() {
    let scene = Scene::start(1, &["rate.user_per_minute=100", "rate.user_per_hour=1000"]);
    let Scene { gateway, sim: _sim, directory: _directory } = scene;
    let (ada, bob) = (gateway.user("ada"), gateway.user("bob"));
    let said = gateway.admin(&["user", "limit", "ada", "--per-minute", "0", "--per-hour", "3"]);
    assert_eq!(said, "ada\tper minute: no limit (own)\tper hour: 3 (own)\tconcurrent: no limit (as all)");
    let caller = Caller::of(&gateway).await;
    assert_eq!(let_in(&caller, &ada, 5, "user-hour").await, 3);
    assert_refused(&caller.get(TASKS, &ada).await, "user-hour", 3, 3_600);
    assert_eq!(let_in(&caller, &bob, 5, "user-hour").await, 5);
    let said = gateway.admin(&["user", "limit", "ada", "--per-hour", "20"]);
    assert_eq!(said, "ada\tper minute: no limit (own)\tper hour: 20 (own)\tconcurrent: no limit (as all)");
    // At once, though the key is believed, and all of it: three of twenty are used, and this one.
    let answer = caller.get(TASKS, &ada).await;
    assert_eq!(answer.field("ratelimit-policy"), Some("\"user-hour\";q=20;w=3600"), "{:?}", answer.body);
    let state = answer.field("ratelimit").expect("told");
    assert!(state.starts_with("\"user-hour\";r=16;t="), "{state}");
    assert_eq!(let_in(&caller, &ada, 6, "user-hour").await, 6);
    let said = gateway.refused(&["user", "limit", "ada", "--per-hour", "10000001"]);
    assert!(said.contains("10,000,000"), "{said}");
    let said = gateway.refused(&["user", "limit", "nobody", "--per-hour", "1"]);
    assert!(said.contains("nobody"), "{said}");
    // A limit that is lowered holds at once as well, and a new process knows both.
    gateway.admin(&["user", "limit", "ada", "--per-hour", "10"]);
    assert_refused(&caller.get(TASKS, &ada).await, "user-hour", 10, 3_600);
    drop(caller);
    let gateway = gateway.stop_and_restart();
    let caller = Caller::of(&gateway).await;
    assert_refused(&caller.get(TASKS, &ada).await, "user-hour", 10, 3_600);
    gateway.admin(&["user", "limit", "bob", "--per-minute", "0", "--per-hour", "700"]);
    gateway.admin(&["user", "limit", "bob", "--default"]);
    drop(caller);
    let gateway = gateway.stop_and_restart();
    let answer = Caller::of(&gateway).await.get(TASKS, &bob).await;
    let policy = "\"user-minute\";q=100;w=60, \"user-hour\";q=1000;w=3600";
    assert_eq!(answer.field("ratelimit-policy"), Some(policy));
}

#[tokio::test]
async fn settings_out_of_bounds_are_refused() {
    let sim = Sim::start(&[]);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let check = |option: &str| {
        let mut command = Gateway::command(&sim, directory.path(), &[option]);
        let output = command.args(["config", "check"]).output().expect("the command line runs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (is_fine, said) = check("rate.user_per_minute=10000001");
    assert!(!is_fine && said.contains("rate.user_per_minute") && said.contains("10000000"), "{said}");
    let (is_fine, said) = check("rate.users_tracked_per_core=1");
    assert!(!is_fine && said.contains("rate.users_tracked_per_core"), "{said}");
    assert!(check("rate.user_per_minute=0").0);
}

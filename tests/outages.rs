//! Each upstream in turn dies, answers nonsense, slows down, limits us and hangs: the others are as they were, callers are
//! told what is wrong, its breaker opens and heals, and nothing queues up without a bound.
//!
//! One core, so that everything shares it. No step depends on how fast anything is: what must be over before something else
//! is held by the simulator for as long as that takes, or three seconds at least. `./dev bench upstreams` measures how far
//! the others' latencies move.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::asker::Asker;
use common::h3::Answer;
use common::metrics::Metrics;
use common::scene::{Caller, Scene, guard};
use common::{Gateway, PATIENT, Sim};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const UPSTREAMS: [&str; 4] = ["openai", "gmail", "calendar", "drive"];
/// Calls to an upstream at once, and those that may wait.
const PLACES: u64 = 8;
const LINE: u64 = 4;
/// Users, each with one request at a time: more than may be under way and wait.
const USERS: usize = 20;

struct Stage {
    gateway: Gateway,
    sim: Sim,
    users: Vec<Arc<Asker>>,
    failing: &'static str,
    /// What each upstream brought while all was well.
    usual: BTreeMap<&'static str, Value>,
    /// Kept, so that it is there while the gateway runs.
    _directory: tempfile::TempDir,
}

/// Asks for something that needs this upstream; commands that are none of its business need the model alone.
async fn ask(user: &Asker, upstream: &str) -> Answer {
    match upstream {
        "openai" => {
            user.ask("POST", "/command", &json!({"command": "turn on the lights in the kitchen"})).await
        }
        "gmail" => user.ask("GET", "/gmail/messages?max_results=2", &Value::Null).await,
        "calendar" => user.ask("GET", "/calendar/events?max_results=2", &Value::Null).await,
        _ => user.ask("GET", "/drive/files?page_size=2", &Value::Null).await,
    }
}

/// What an answer brought: ids of mails, events or files, or the plan of a command.
fn essence(answer: &Answer) -> Value {
    assert_eq!(answer.status.as_u16(), 200, "{:?}", answer.body);
    let value = answer.value();
    let list = ["messages", "items", "files"].into_iter().find_map(|member| value[member].as_array());
    match list {
        Some(list) => list.iter().map(|item| item["id"].clone()).collect(),
        None => json!([value["state"], value["plan"]]),
    }
}

fn breaker(page: &Metrics, upstream: &str) -> u64 {
    page.sum("sluice_breaker_state", &[("upstream", upstream)])
}

fn opened(page: &Metrics, upstream: &str) -> u64 {
    page.sum("sluice_breaker_opened_total", &[("upstream", upstream)])
}

fn waiting(page: &Metrics, upstream: &str) -> u64 {
    page.sum("sluice_quota_waiting", &[("upstream", upstream)])
}

fn under_way(page: &Metrics, upstream: &str) -> u64 {
    page.sum("sluice_quota_under_way", &[("upstream", upstream)])
}

/// Refused without being sent, since the breaker is open.
fn assert_left_alone(answer: &Answer) {
    let problem = answer.problem(502, "upstream-unavailable");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("left alone")), "{problem:#}");
    assert_eq!(
        (&problem["retryable"], answer.field("retry-after")),
        (&json!(true), Some("1")),
        "{problem:#}"
    );
}

fn is_left_alone(answer: &Answer) -> bool {
    answer.status.as_u16() == 502 && answer.field("retry-after").is_some()
}

impl Stage {
    async fn start(failing: &'static str) -> Self {
        let (places, line) =
            (format!("concurrency_max={PLACES}"), format!("quota.waiting_per_core_max={LINE}"));
        let (google, openai) = (format!("egress.google_{places}"), format!("egress.openai_{places}"));
        let scene = Scene::start(
            1,
            &[
                "cache.read_bytes_per_core=0",
                "egress.attempt_timeout_ms=3000",
                "egress.retry_attempts_max=1",
                "egress.breaker_failures_in_a_row=1",
                "egress.breaker_open_ms=1000",
                "egress.breaker_open_max_ms=1000",
                &google,
                &openai,
                &line,
            ],
        );
        let Scene { gateway, sim, directory } = scene;
        let keys = directory.path().join("keys");
        let (count, file) = (USERS.to_string(), keys.to_str().expect("UTF-8"));
        let prefix = ["--refresh-token-prefix", "sim-refresh-"];
        gateway.admin(&[&["user", "seed", "--count", &count, "--keys-out", file][..], &prefix].concat());
        let mut users = Vec::new();
        for line in std::fs::read_to_string(&keys).expect("the keys").lines() {
            let key = line.split('\t').next_back().expect("a key").to_owned();
            let user = Asker { caller: Caller::of(&gateway).await, key };
            // Each has a token from here on: fetching them is not what is tried here.
            essence(&ask(&user, "gmail").await);
            users.push(Arc::new(user));
        }
        assert_eq!(users.len(), USERS);
        let mut stage = Self { gateway, sim, users, failing, usual: BTreeMap::new(), _directory: directory };
        for upstream in UPSTREAMS {
            let usual = essence(&stage.ask(upstream).await);
            stage.usual.insert(upstream, usual);
        }
        stage
    }

    async fn ask(&self, upstream: &str) -> Answer {
        ask(&self.users[0], upstream).await
    }

    async fn fault(&self, mut fault: Value) {
        fault["service"] = json!(self.failing);
        self.sim.fault(fault).await;
    }

    async fn fired(&self) -> u64 {
        self.sim.state().await["faults_fired"].as_u64().expect("a number")
    }

    /// The other upstreams bring what they always do, at once, and nobody waits for them.
    async fn assert_others_unmoved(&self) {
        for upstream in UPSTREAMS.into_iter().filter(|upstream| *upstream != self.failing) {
            for _ in 0..3 {
                assert_eq!(essence(&self.ask(upstream).await), self.usual[upstream], "{upstream}");
            }
            let page = self.gateway.page().await;
            let state = (breaker(&page, upstream), opened(&page, upstream), waiting(&page, upstream));
            assert_eq!(state, (0, 0, 0), "{upstream}: breaker, times it opened, waiting");
        }
    }

    /// Asks until the breaker is open; until then callers are told `told`.
    async fn until_left_alone(&self, status: u16, told: &str) {
        for _ in 0..50 {
            let answer = self.ask(self.failing).await;
            if is_left_alone(&answer) {
                return assert_left_alone(&answer);
            }
            answer.problem(status, told);
        }
        panic!("the breaker of {} does not open", self.failing);
    }

    /// The fault is over: callers are refused a little while, then all is as it was.
    async fn heal(&self) {
        self.sim.clear_faults().await;
        for _ in 0..200 {
            let answer = self.ask(self.failing).await;
            if is_left_alone(&answer) {
                assert_left_alone(&answer);
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            assert_eq!(essence(&answer), self.usual[self.failing]);
            if breaker(&self.gateway.page().await, self.failing) == 0 {
                return;
            }
        }
        panic!("the breaker of {} does not close", self.failing);
    }

    /// It fails in a way that opens the breaker.
    async fn fails(&self, fault: Value, status: u16, told: &str) {
        let before = opened(&self.gateway.page().await, self.failing);
        self.fault(fault).await;
        self.until_left_alone(status, told).await;
        assert!(opened(&self.gateway.page().await, self.failing) > before);
        self.assert_others_unmoved().await;
        self.heal().await;
    }

    /// It takes far longer than usual: that is no failure.
    async fn slows_down(&self) {
        let before = opened(&self.gateway.page().await, self.failing);
        self.fault(json!({"kind": "slow", "ms": 150})).await;
        for _ in 0..6 {
            assert_eq!(essence(&self.ask(self.failing).await), self.usual[self.failing]);
        }
        self.assert_others_unmoved().await;
        self.sim.clear_faults().await;
        let page = self.gateway.page().await;
        assert_eq!((opened(&page, self.failing), breaker(&page, self.failing)), (before, 0));
    }

    /// It asks us to wait: nothing is sent for so long, and who cannot wait is told when to come again.
    async fn limits_us(&self) {
        let before = (opened(&self.gateway.page().await, self.failing), self.fired().await);
        let mut fault = json!({"kind": "status", "status": 429, "retry_after_s": 3});
        if self.failing != "openai" {
            fault["reason"] = json!("rateLimitExceeded");
        }
        self.fault(fault).await;
        let first = self.ask(self.failing).await;
        first.problem(503, "upstream-limited");
        assert_eq!(first.field("retry-after"), Some("3"));
        assert_eq!(self.fired().await, before.1 + 1);
        // Whoever is in no hurry waits in line.
        let command = match self.failing {
            "openai" => "turn on the lights in the kitchen",
            "gmail" => "find the mail from Anna about the budget",
            "calendar" => "what's on my calendar tomorrow",
            _ => "find the file about the roadmap",
        };
        let hurried = json!({"command": command, "deadline_ms": 1_000});
        for user in &self.users[..3] {
            let answer = user.ask("POST", "/command", &hurried).await;
            answer.problem(503, "upstream-limited");
            assert!(answer.field("retry-after").is_some());
        }
        assert_eq!(self.fired().await, before.1 + 1, "it was asked while it asked us to wait");
        self.assert_others_unmoved().await;
        self.heal().await;
        // To be limited is no failure.
        assert_eq!(opened(&self.gateway.page().await, self.failing), before.0);
    }

    /// It does not answer at all: so many calls are under way, so many wait, all others are refused at once.
    async fn hangs(&self) {
        self.fault(json!({"kind": "hang"})).await;
        let mut calls = JoinSet::new();
        for user in &self.users {
            let (user, failing) = (Arc::clone(user), self.failing);
            calls.spawn(async move { ask(&user, failing).await });
        }
        let refused = USERS - usize::try_from(PLACES + LINE).expect("few");
        for _ in 0..refused {
            let answer = calls.join_next().await.expect("a call").expect("it ends");
            answer.problem(503, "overloaded");
            assert_eq!(answer.field("retry-after"), Some("1"));
        }
        let page = self.gateway.page().await;
        assert_eq!((under_way(&page, self.failing), waiting(&page, self.failing)), (PLACES, LINE));
        self.assert_others_unmoved().await;
        assert!(calls.try_join_next().is_none(), "the others were answered while these hang");
        // Those that hang are given up in time, which opens the breaker for those that wait.
        let (mut late, mut left_alone) = (0, 0);
        while let Some(answer) = calls.join_next().await {
            let answer = answer.expect("it ends");
            if is_left_alone(&answer) {
                assert_left_alone(&answer);
                left_alone += 1;
            } else {
                answer.problem(504, "upstream-timeout");
                late += 1;
            }
        }
        assert_eq!((late, left_alone), (PLACES, LINE));
        self.heal().await;
    }

    /// Nothing is left over anywhere.
    async fn assert_empty(&self) {
        let is_empty = |page: &Metrics| {
            let gauges =
                ["tasks_queued", "tasks_running", "quota_waiting", "quota_under_way", "egress_queued"];
            gauges.into_iter().all(|gauge| page.sum(&format!("sluice_{gauge}"), &[]) == 0)
        };
        self.gateway.until("all queues are empty", is_empty).await;
        assert_eq!(self.sim.state().await["plans_unfit"], 0);
    }
}

async fn an_outage_of(failing: &'static str) {
    let stage = Stage::start(failing).await;
    stage.fails(json!({"kind": "down"}), 502, "upstream-unavailable").await;
    stage.fails(json!({"kind": "status", "status": 503}), 502, "upstream-unavailable").await;
    stage.fails(json!({"kind": "garbage"}), 502, "upstream-invalid").await;
    stage.slows_down().await;
    stage.limits_us().await;
    stage.hangs().await;
    stage.assert_empty().await;
    // On a thread of its own: the clients must hear of it.
    let gateway = stage.gateway;
    tokio::task::spawn_blocking(move || gateway.stop()).await.expect("it ends in good order");
}

#[tokio::test]
async fn without_the_model_mail_calendar_and_files_are_as_they_were() {
    an_outage_of("openai").await;
}

#[tokio::test]
async fn without_mail_the_others_are_as_they_were() {
    an_outage_of("gmail").await;
}

#[tokio::test]
async fn without_the_calendar_the_others_are_as_they_were() {
    an_outage_of("calendar").await;
}

#[tokio::test]
async fn without_files_the_others_are_as_they_were() {
    an_outage_of("drive").await;
}

/// Whoever has a token asks as ever while no new ones are to be had; the others are told why, and go on when it is over.
#[tokio::test]
async fn without_the_token_endpoint_whoever_has_a_token_goes_on() {
    let stage = Stage::start("oauth").await;
    let faults = [
        (json!({"kind": "down"}), 502, "upstream-unavailable"),
        (json!({"kind": "status", "status": 503}), 502, "upstream-unavailable"),
        (json!({"kind": "garbage"}), 502, "upstream-invalid"),
        (json!({"kind": "hang"}), 504, "upstream-timeout"),
    ];
    for (number, (fault, status, told)) in faults.into_iter().enumerate() {
        // One who has none yet.
        let stranger = Asker::of(&stage.gateway, &stage.gateway.user(&format!("stranger{number}"))).await;
        let before = opened(&stage.gateway.page().await, "oauth");
        stage.fault(fault).await;
        let failed = ask(&stranger, "gmail").await;
        failed.problem(status, told);
        assert_left_alone(&ask(&stranger, "gmail").await);
        stage.assert_others_unmoved().await;
        assert_eq!(opened(&stage.gateway.page().await, "oauth"), before + 1);
        stage.sim.clear_faults().await;
        let mut answer = ask(&stranger, "gmail").await;
        while is_left_alone(&answer) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            answer = ask(&stranger, "gmail").await;
        }
        assert_eq!(essence(&answer).as_array().map(Vec::len), Some(2));
        // One token is a probe; a few more, and it is trusted again.
        let mut others = 0;
        while breaker(&stage.gateway.page().await, "oauth") > 0 {
            others += 1;
            assert!(others <= 10, "the breaker does not close");
            let name = format!("other{number}-{others}");
            let other = Asker::of(&stage.gateway, &stage.gateway.user(&name)).await;
            essence(&ask(&other, "gmail").await);
        }
    }
    stage.assert_empty().await;
}

/// Commands that run at once on the core, and what one upstream may hold of them.
const COMMANDS: u64 = 8;
const HELD: u64 = 6;

/// As many commands as the core runs at once wait for one upstream that hangs: what asks another, and what asks nobody, is
/// carried out meanwhile.
async fn all_places_for(failing: &str, command: &str, knows_tokens: bool) {
    // By rules, so that the model is asked where a command needs it alone. Nothing is given up while the test looks.
    let commands = format!("limits.tasks_running_per_core_max={COMMANDS}");
    let settings = [&[&*commands, "intent.local=true", "cache.read_bytes_per_core=0"][..], &PATIENT].concat();
    let scene = Scene::start(1, &settings);
    let of = async |name: &str| Arc::new(Asker::of(&scene.gateway, &scene.gateway.user(name)).await);
    let other = of("other").await;
    // Whoever is not concerned has their token.
    essence(&ask(&other, "calendar").await);
    let mut users = Vec::new();
    for number in 0..COMMANDS {
        let user = of(&format!("user{number}")).await;
        if knows_tokens {
            essence(&ask(&user, "calendar").await);
        }
        users.push(user);
    }
    scene.sim.fault(json!({"service": failing, "kind": "hang"})).await;
    let mut commands = JoinSet::new();
    for user in &users {
        let (user, body) = (Arc::clone(user), json!({ "command": command }));
        commands.spawn(async move { user.ask("POST", "/command", &body).await });
    }
    // What is beyond its share is refused, and nothing of it was sent.
    for _ in HELD..COMMANDS {
        let answer = guard(commands.join_next()).await.expect("a command").expect("it ends");
        answer.problem(503, "upstream-limited");
        assert_eq!(answer.field("retry-after"), Some("5"));
    }
    let page = scene.gateway.page().await;
    let held = page.sum("sluice_quota_places", &[("upstream", failing)]);
    let refused = page.sum("sluice_quota_denied_total", &[("upstream", failing), ("reason", "crowded")]);
    assert_eq!((held, refused), (HELD, COMMANDS - HELD));
    // A request of the plain surface takes no place from others either.
    if !matches!(failing, "openai" | "oauth") {
        ask(&other, failing).await.problem(503, "upstream-limited");
    }
    // One that nobody waits for is put back.
    let later = of("later").await;
    let promised = later.queue(&json!({ "command": command })).await;
    for _ in 0..3 {
        let task = other
            .expect(200, "POST", "/command", &json!({"command": "what's on my calendar tomorrow"}))
            .await;
        assert_eq!(task["state"], "done", "{task:#}");
        essence(&ask(&other, "calendar").await);
    }
    let put_back = later.until(&promised["id"], "queued").await;
    let is_limited = |task: &Value| task["last_error"]["type"] == "/problems/upstream-limited";
    let mut put_back = put_back;
    while !is_limited(&put_back) {
        put_back = later.task(&promised["id"]).await;
        assert!(matches!(put_back["state"].as_str(), Some("queued" | "running")), "{put_back:#}");
    }
    assert!(commands.try_join_next().is_none(), "the others were answered while these hang");
    // Cut off, they are made again where they may be.
    scene.sim.clear_faults().await;
    while let Some(answer) = guard(commands.join_next()).await {
        answer.expect("it ends");
    }
    let task = later.ended(&promised["id"]).await;
    assert_eq!(task["state"], "done", "{task:#}");
    let is_empty = |page: &Metrics| page.sum("sluice_quota_places", &[]) == 0;
    scene.gateway.until("no place is held", is_empty).await;
}

#[tokio::test]
async fn mail_that_hangs_leaves_places_to_other_services() {
    all_places_for("gmail", "find the mail from Anna about the budget", true).await;
}

#[tokio::test]
async fn a_model_that_hangs_leaves_places_to_what_needs_none() {
    all_places_for("openai", "put a meeting with Anna on Tuesday at ten", true).await;
}

#[tokio::test]
async fn a_token_endpoint_that_hangs_leaves_places_to_those_who_have_a_token() {
    all_places_for("oauth", "find the mail from Anna about the budget", false).await;
}

//! A mixed load of all services, and a kill whenever chance has it: nothing acknowledged is lost, nothing is done twice,
//! the queues drain, and dead letters are those of the one user whom the fault plan dooms.
//!
//! `crash.rs` kills at every step of a command; here everything goes on at once: commands that wait, queued ones of all
//! priorities, batches, and mail, events and files without a command. A command whose answer was lost is sent again with its
//! `Idempotency-Key`, so that each must be done exactly once. What goes without a command is sent once: done if it was
//! acknowledged, and never twice.
//!
//! `SLUICE_TEST_KILLS` says how many kills, `SLUICE_TEST_SEED` from which seed: `./dev kills --count 200 --seed 1`.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use common::asker::{Asker, text};
use common::lot::Lot;
use common::scene::guard;
use common::{Gateway, Sim};
use http::Request;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Kills when nothing else is asked for.
const KILLS: usize = 25;
const USERS: usize = 6;
/// The user whose drive does not answer.
const DOOMED: usize = USERS;
/// The most that is sent between two kills.
const ACTS_MAX: u64 = 8;
/// A kill comes at most so long after the first request.
const LIFE_US_MAX: u64 = 120_000;

const SETTINGS: [&str; 5] = [
    "server.cores=2",
    "server.shards=16",
    "log.level=error",
    // Kills hold tasks up; what is tested is not how fast they are.
    "limits.command_timeout_ms=600000",
    // What one user does here in a minute is the work of a day.
    "quota.gmail_user_units_per_minute=1000000",
];

/// Latencies, errors before and after the effect, and the doomed user: what is asked to wait for longer than its deadline
/// is a dead letter at once.
const PLAN: &str = r#"
error_rate = 0.02
[latency]
openai = { median_ms = 6, sigma = 0.5 }
gmail = { median_ms = 8, sigma = 0.5 }
calendar = { median_ms = 6, sigma = 0.5 }
drive = { median_ms = 8, sigma = 0.5 }
[[fault]]
service = "drive"
kind = "status"
status = 503
user = "user-6"
retry_after_s = 300
"#;
const DOOMED_DEADLINE_MS: u64 = 20_000;

/// Sends and inserts, with `MARK` for the mark.
const COMMANDS: [(&str, usize, usize); 5] = [
    ("find the mail from Anna about the budget", 0, 0),
    ("send a mail to kim@example.com saying code MARK is valid", 1, 0),
    ("create an event called Review MARK tomorrow at ten", 0, 1),
    (
        "create an event called Slot MARK tomorrow at noon and send a mail to kim@example.com saying code MARK is free",
        1,
        1,
    ),
    (
        "find the file about the roadmap and find the mail from Anna about the budget and then \
         send a mail to kim@example.com saying code MARK is done",
        1,
        0,
    ),
];

/// How something is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Sync,
    Async,
    Batch,
    Mail,
    Event,
    File,
}

/// Something that was sent; by its mark its effects are told from all others.
#[derive(Clone, Debug)]
struct Act {
    way: Way,
    user: usize,
    mark: String,
    body: Value,
    sends: usize,
    inserts: usize,
    /// The task it was promised as, or that it was done, when there was no task.
    acknowledged: Option<Value>,
}

impl Act {
    fn is_command(&self) -> bool {
        matches!(self.way, Way::Sync | Way::Async | Way::Batch)
    }

    fn path(&self) -> &'static str {
        match self.way {
            Way::Sync | Way::Async => "/command",
            Way::Batch => "/commands",
            Way::Mail => "/gmail/messages",
            Way::Event => "/calendar/events?send_updates=none",
            Way::File => "/drive/files",
        }
    }

    /// What an answer promises, if anything.
    fn acknowledgement(&self, status: u16, answer: &Value) -> Option<Value> {
        match (self.way, status) {
            (Way::Async, 202) | (Way::Sync, 200) => Some(answer["id"].clone()),
            // It failed, and says as what task.
            (Way::Sync, _) => Some(answer["task"]["id"].clone()).filter(Value::is_string),
            (Way::Batch, 207) => Some(answer["items"][0]["task"]["id"].clone()).filter(Value::is_string),
            (Way::Mail | Way::Event | Way::File, 200) => Some(json!(true)),
            _ => None,
        }
    }
}

struct Trial {
    lot: Lot,
    sim: Sim,
    gateway: Gateway,
    keys: Vec<String>,
    acts: Vec<Act>,
    repeated: usize,
    recovered: usize,
}

impl Trial {
    fn draw(&mut self) -> Act {
        let mark = format!("q{:05}x", self.acts.len());
        if self.lot.below(12) == 0 {
            let body = json!({"command": "find the file about the roadmap", "mode": "async", "deadline_ms": DOOMED_DEADLINE_MS});
            return Act {
                way: Way::Async,
                user: DOOMED,
                mark,
                body,
                sends: 0,
                inserts: 0,
                acknowledged: None,
            };
        }
        let user = self.lot.index(USERS);
        let way = [Way::Sync, Way::Async, Way::Async, Way::Batch, Way::Mail, Way::Event, Way::File];
        let way = way[self.lot.index(way.len())];
        let (command, sends, inserts) = COMMANDS[self.lot.index(COMMANDS.len())];
        let priority = ["high", "normal", "batch"][self.lot.index(3)];
        let command = json!({"command": command.replace("MARK", &mark), "priority": priority});
        let (body, sends, inserts) = match way {
            Way::Batch => (json!({"commands": [command]}), sends, inserts),
            Way::Sync | Way::Async => {
                let mode = if way == Way::Sync { "sync" } else { "async" };
                let mut body = command;
                body["mode"] = json!(mode);
                (body, sends, inserts)
            }
            Way::Mail => (json!({"to": ["kim@example.com"], "subject": mark, "body": "Hello."}), 1, 0),
            Way::Event => {
                let time = |hour| json!({"dateTime": format!("2031-03-04T{hour}:00:00Z")});
                (json!({"summary": mark, "start": time(10), "end": time(11)}), 0, 1)
            }
            Way::File => (json!({"name": mark, "mimeType": "text/plain"}), 0, 0),
        };
        Act { way, user, mark, body, sends, inserts, acknowledged: None }
    }

    /// Sends these acts at once; gives what was acknowledged before `life` was over and the gateway killed.
    async fn round(mut self, acts: Vec<usize>, life: Duration) -> Self {
        let asker = Arc::new(Asker::of(&self.gateway, "").await);
        let mut calls = JoinSet::new();
        for index in acts {
            let act = self.acts[index].clone();
            let key = self.keys[act.user].clone();
            let asker = Arc::clone(&asker);
            calls.spawn(async move {
                let request = Request::post(format!("https://localhost/api/v1{}", act.path()))
                    .header("authorization", format!("Bearer {key}"))
                    .header("content-type", "application/json")
                    .header("idempotency-key", &act.mark);
                let request = request.body(()).expect("a valid request");
                let body = serde_json::to_vec(&act.body).expect("JSON");
                // An error is the kill.
                let answer = asker.caller.http.send(request, body.into()).await.ok()?;
                let value = answer.json().unwrap_or_default();
                let acknowledged = act.acknowledgement(answer.status.as_u16(), &value)?;
                Some((index, acknowledged))
            });
        }
        tokio::time::sleep(life).await;
        // SIGKILL first; what was answered before has been sent.
        let gateway = self.gateway;
        self.gateway = gateway.crash_and_restart();
        asker.caller.http.close();
        while let Some(answer) = guard(calls.join_next()).await {
            if let Some((index, acknowledged)) = answer.expect("no panic") {
                self.acts[index].acknowledged = Some(acknowledged);
            }
        }
        let recovered = self.gateway.page().await.sum("sluice_tasks_recovered_total", &[]);
        self.recovered += usize::try_from(recovered).expect("few");
        self
    }

    fn unanswered(&self) -> Vec<usize> {
        let is_open = |act: &Act| act.is_command() && act.acknowledged.is_none();
        (0..self.acts.len()).filter(|index| is_open(&self.acts[*index])).collect()
    }

    async fn askers(&self) -> Vec<Asker> {
        let mut askers = Vec::new();
        for key in &self.keys {
            askers.push(Asker::of(&self.gateway, key).await);
        }
        askers
    }

    /// Sends what has no answer yet until it has one.
    async fn answer_all(&mut self) {
        let askers = self.askers().await;
        for index in self.unanswered() {
            let act = self.acts[index].clone();
            for _ in 0..3_000 {
                let fields = [("idempotency-key", &*act.mark)];
                let answer = askers[act.user].with("POST", act.path(), &fields, &act.body).await;
                let acknowledged = act.acknowledgement(answer.status.as_u16(), &answer.value());
                if acknowledged.is_some() {
                    self.acts[index].acknowledged = acknowledged;
                    break;
                }
                // In flight: the first one goes on since the restart.
                assert!(matches!(answer.status.as_u16(), 409 | 503), "{act:?}: {:?}", answer.body);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(self.acts[index].acknowledged.is_some(), "never answered: {act:?}");
        }
    }

    async fn check(&mut self) -> Tally {
        self.answer_all().await;
        let askers = self.askers().await;
        let mut tally = Tally::default();
        let mut doomed = BTreeSet::new();
        let mut ends = Vec::new();
        for act in self.acts.iter().filter(|act| act.is_command()) {
            let id = act.acknowledged.as_ref().expect("all are answered");
            let task = askers[act.user].ended(id).await;
            if act.user == DOOMED {
                assert_eq!(task["state"], "failed", "{task:#}");
                doomed.insert(text(id).to_owned());
            }
            ends.push((act, task));
        }
        self.gateway
            .until("nothing is queued or runs", |page| {
                page.sum("sluice_tasks_queued", &[]) + page.sum("sluice_tasks_running", &[]) == 0
            })
            .await;
        let state = self.settled().await;
        assert_eq!(state["duplicates"], json!({"messages": [], "events": []}));
        for (act, task) in &ends {
            let (sends, inserts) = effects(&state, act);
            // One that waits for its answer is not tried again and again.
            let excused = act.user == DOOMED || act.way == Way::Sync && task["state"] == "failed";
            if excused {
                assert!(sends <= act.sends && inserts <= act.inserts, "{act:?}: {task:#}");
                tally.failed += usize::from(act.user != DOOMED);
                continue;
            }
            assert_eq!(task["state"], "done", "{act:?}: {task:#}");
            assert_eq!((sends, inserts), (act.sends, act.inserts), "{act:?}: {task:#}");
            tally.done += 1;
        }
        for act in self.acts.iter().filter(|act| !act.is_command()) {
            let (mut sends, inserts) = effects(&state, act);
            if act.way == Way::File {
                let path = format!("/drive/files?q=name%20%3D%20%27{}%27", act.mark);
                sends = askers[act.user].get(&path).await["files"].as_array().map_or(0, Vec::len);
            }
            let seen = sends + inserts;
            assert!(seen <= 1, "done twice: {act:?}");
            assert!(seen == 1 || act.acknowledged.is_none(), "acknowledged and lost: {act:?}");
            tally.plain += seen;
        }
        for (user, asker) in askers.iter().enumerate() {
            let (dead, _) = asker.pages("/dead-letters?limit=100", "dead_letters").await;
            let dead: BTreeSet<String> = dead.iter().map(|dead| text(&dead["id"]).to_owned()).collect();
            let expected = if user == DOOMED { doomed.clone() } else { BTreeSet::new() };
            assert_eq!(dead, expected, "dead letters of user-{user}");
        }
        tally.dead = doomed.len();
        tally
    }

    async fn settled(&self) -> Value {
        for _ in 0..3_000 {
            let state = self.sim.state().await;
            if state["under_way"] == 0 {
                return state;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the simulator is never idle");
    }
}

#[derive(Debug, Default)]
struct Tally {
    done: usize,
    failed: usize,
    plain: usize,
    dead: usize,
}

/// Mails sent and events made with this mark.
fn effects(state: &Value, act: &Act) -> (usize, usize) {
    let user = &state["users"][format!("user-{}", act.user)];
    let count = |kind: &str| {
        let all = user[kind].as_array().map(Vec::as_slice).unwrap_or_default();
        all.iter().filter(|effect| effect.to_string().contains(&act.mark)).count()
    };
    (count("sends"), count("inserts"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_done_twice_however_often_the_gateway_is_killed() {
    let kills = std::env::var("SLUICE_TEST_KILLS").map_or(KILLS, |kills| kills.parse().expect("a number"));
    let lot = Lot::new();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let plan = directory.path().join("plan.toml");
    std::fs::write(&plan, PLAN).expect("a file");
    let sim = Sim::start(&["--plan", plan.to_str().expect("UTF-8")]);
    let gateway = Gateway::start(&sim, &directory.path().join("data"), &SETTINGS);
    let keys = (0..=USERS).map(|number| gateway.user(&format!("user-{number}"))).collect();
    let mut trial = Trial { lot, sim, gateway, keys, acts: Vec::new(), repeated: 0, recovered: 0 };
    for _ in 0..kills {
        // What was lost in the round before is sent again now and then, beside what is new.
        let mut now = if trial.lot.below(2) == 0 { trial.unanswered() } else { Vec::new() };
        now.truncate(8);
        trial.repeated += now.len();
        for _ in 0..=trial.lot.below(ACTS_MAX) {
            let act = trial.draw();
            now.push(trial.acts.len());
            trial.acts.push(act);
        }
        let life = trial.lot.micros(LIFE_US_MAX);
        trial = trial.round(now, life).await;
    }
    let tally = trial.check().await;
    println!(
        "{kills} kills; {} requests, {} of them repeated with their key; {} tasks taken up again; {tally:?}",
        trial.acts.len(),
        trial.repeated,
        trial.recovered
    );
    // Otherwise the kills came too late or too early to mean anything.
    assert!(trial.recovered * 2 >= kills, "only {} tasks were taken up again", trial.recovered);
    trial.gateway.stop();
}

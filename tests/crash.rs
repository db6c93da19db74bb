//! What was promised with 202 is done exactly once, whenever the gateway is killed.
//!
//! The real binary serves real HTTP/3 and calls the simulator over real HTTP; the simulator lives through every
//! crash and counts what leaves the mailboxes and enters the calendars. Every command carries a mark of its own,
//! by which its effects are told from all others.

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use common::h3::{Client, Http};
use common::lot::Lot;
use common::scene::{Effects, SHARDS};
use common::{Gateway, Sim};
use serde_json::{Value, json};
use sluice_protocols::api::{AcceptedView, StepState, TaskState, TaskView};
use sluice_protocols::ids::{SessionId, ShardCount, ShardId, TaskId};
use sluice_protocols::problem::ProblemKind;
use sluice_store::record::TaskRecord;
use sluice_store::{Key, KeyRange, Kind as KeyKind, Store, StoreConfig};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// Kills of the random trial.
const KILLS: usize = 50;
/// Users of the random trial; each has its commands done one after the other.
const USERS: usize = 8;
/// The most commands sent between two kills.
const COMMANDS_MAX: u64 = 8;
/// A kill comes at most so long after the acknowledgement it waited for.
const LIFE_US_MAX: u64 = 60_000;
/// About as long as it takes to accept a command.
const ACCEPT_US_MAX: u64 = 4_000;
/// A process that is killed twice in a row lives at most so long: more than a start takes.
const SECOND_LIFE_US_MAX: u64 = 250_000;
/// How often a task is asked for, each time waiting up to [`POLL_WAIT_S`].
const POLLS_MAX: usize = 4;
const POLL_WAIT_S: u32 = 30;
/// How often the simulator is asked whether something has come about, and how long in between.
const LOOKS_MAX: usize = 3_000;
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How many turns a session shows.
const TURNS_MAX: u64 = 10;

const SETTINGS: [&str; 3] = ["server.cores=2", "server.shards=16", "log.level=error"];

const SEND: Effects = Effects { sends: 1, inserts: 0, patches: 0, deletes: 0 };
const INSERT: Effects = Effects { sends: 0, inserts: 1, patches: 0, deletes: 0 };
const PATCH: Effects = Effects { sends: 0, inserts: 0, patches: 1, deletes: 0 };
const DELETE: Effects = Effects { sends: 0, inserts: 0, patches: 0, deletes: 1 };

/// Commands of the random trial, with what each must do; `MARK` stands for the mark.
const COMMANDS: [(&str, Effects); 5] = [
    ("send a mail to kim@example.com saying code MARK is valid", SEND),
    ("reply to the mail from Anna about the budget saying code MARK is noted", SEND),
    ("create an event called Review MARK tomorrow at ten", INSERT),
    (
        "create an event called Slot MARK tomorrow at noon and send a mail to kim@example.com saying code MARK is free",
        Effects { sends: 1, inserts: 1, patches: 0, deletes: 0 },
    ),
    (
        "find the mail from Anna about the budget, create an event called Sync MARK on friday at nine, \
         reply to her saying code MARK is noted and send a mail to kim@example.com saying code MARK is done",
        Effects { sends: 2, inserts: 1, patches: 0, deletes: 0 },
    ),
];

/// Looks until `there` is true of the simulator's state, which is returned.
async fn until(sim: &Sim, what: &str, there: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    for _look in 0..LOOKS_MAX {
        let state = sim.state().await;
        if there(&state) {
            return Ok(state);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bail!("{what} did not come about: {:#}", sim.state().await)
}

/// The simulator's state once nothing that was sent there is still to take effect.
async fn settled(sim: &Sim) -> anyhow::Result<Value> {
    until(sim, "an idle simulator", |state| state["under_way"] == 0).await
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

/// What a user's `kind` of effects (`sends`, `inserts`, ..) says of things with this mark.
fn count(user: &Value, kind: &str, mark: &str) -> usize {
    let effects = user[kind].as_array().map(Vec::as_slice).unwrap_or_default();
    effects.iter().filter(|effect| effect.to_string().contains(mark)).count()
}

/// What happened in a user's accounts to things with this mark.
fn effects(state: &Value, user: &str, mark: &str) -> Effects {
    let user = &state["users"][user];
    Effects {
        sends: count(user, "sends", mark),
        inserts: count(user, "inserts", mark),
        patches: count(user, "patches", mark),
        deletes: count(user, "deletes", mark),
    }
}

fn assert_nothing_twice(state: &Value) {
    assert_eq!(state["duplicates"], json!({"messages": [], "events": []}));
}

async fn connect(gateway_ca: &Path, address: SocketAddr) -> anyhow::Result<Http> {
    Client::trusting(gateway_ca)?.connect(address).await
}

/// Sends a command to be queued; what came back is the promise.
async fn command(
    http: &Http,
    key: &str,
    text: &str,
    session: Option<SessionId>,
) -> anyhow::Result<AcceptedView> {
    let mut body = json!({"command": text, "mode": "async"});
    if let Some(session) = session {
        body["session"] = json!(session);
    }
    let answer = http.post("/api/v1/command", key, &body).await?;
    assert_eq!(answer.status, 202, "{:?}", answer.body);
    let accepted: AcceptedView = serde_json::from_slice(&answer.body)?;
    assert_eq!(answer.fields["location"], accepted.location);
    Ok(accepted)
}

/// A task as it is now; not to know it would break the promise.
async fn task(http: &Http, key: &str, id: TaskId) -> anyhow::Result<TaskView> {
    let answer = http.get(&format!("/api/v1/tasks/{id}"), key).await?;
    ensure!(answer.status == 200, "task {id}: {} {:?}", answer.status, answer.body);
    Ok(serde_json::from_slice(&answer.body)?)
}

/// A task once it has ended.
async fn ended(http: &Http, key: &str, id: TaskId) -> anyhow::Result<TaskView> {
    for _poll in 0..POLLS_MAX {
        let answer = http.get_waiting(&format!("/api/v1/tasks/{id}"), key, POLL_WAIT_S).await?;
        ensure!(answer.status == 200, "task {id}: {} {:?}", answer.status, answer.body);
        let task: TaskView = serde_json::from_slice(&answer.body)?;
        if task.state.is_final() {
            return Ok(task);
        }
    }
    bail!("task {id} does not end: {:#?}", task(http, key, id).await?)
}

fn assert_done(task: &TaskView) {
    assert_eq!(task.state, TaskState::Done, "{task:#?}");
    assert!(task.steps.iter().all(|step| step.state == StepState::Done), "{task:#?}");
}

struct User {
    name: String,
    key: String,
    /// The session of the latest promise.
    session: Option<SessionId>,
}

/// A command that was sent, whatever became of the answer.
struct Sent {
    user: usize,
    mark: String,
    must_do: Effects,
    promise: Option<AcceptedView>,
}

/// Many commands, many kills.
struct Trial {
    runtime: Runtime,
    lot: Lot,
    gateway: Gateway,
    users: Vec<User>,
    sent: Vec<Sent>,
    kills: usize,
    /// Tasks taken up again by all starts together, and starts that found any.
    recovered: u64,
    recoveries: usize,
    // Ended and removed last.
    sim: Sim,
    directory: tempfile::TempDir,
}

impl Trial {
    fn start() -> anyhow::Result<Self> {
        let lot = Lot::new();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let directory = tempfile::tempdir()?;
        let latencies =
            ["openai=5", "oauth=3", "gmail=8", "calendar=6"].map(|latency| latency.split_once('='));
        let mut options = vec!["--error-rate".to_owned(), "0.05".to_owned()];
        for (service, ms) in latencies.into_iter().flatten() {
            options.extend([format!("--{service}-latency-ms"), ms.to_owned()]);
        }
        let sim = Sim::start(&options.iter().map(String::as_str).collect::<Vec<_>>());
        let gateway = Gateway::start(&sim, directory.path(), &SETTINGS);
        let user = |index| {
            let name = format!("user-{index}");
            User { key: gateway.user(&name), name, session: None }
        };
        Ok(Self {
            users: (0..USERS).map(user).collect(),
            sent: Vec::new(),
            kills: 0,
            recovered: 0,
            recoveries: 0,
            runtime,
            lot,
            gateway,
            sim,
            directory,
        })
    }

    fn draw(&mut self) -> (Sent, String, Option<SessionId>) {
        let (text, must_do) = COMMANDS[self.lot.index(COMMANDS.len())];
        let mark = format!("q{:04}x", self.sent.len());
        let user = self.lot.index(self.users.len());
        // Now and then in words: that session; otherwise the user's newest, whichever that is.
        let session = self.users[user].session.filter(|_| self.lot.below(3) == 0);
        let text = text.replace("MARK", &mark);
        (Sent { user, mark, must_do, promise: None }, text, session)
    }

    fn address(&mut self) -> SocketAddr {
        let ports = &self.gateway.core_ports;
        let mut address = self.gateway.address;
        if let Some(port) = ports.get(self.lot.index(ports.len() + 1)) {
            address.set_port(*port);
        }
        address
    }

    /// Sends commands, kills the gateway at some moment, and starts it again.
    fn round(mut self) -> anyhow::Result<Self> {
        let address = self.address();
        let ca = self.gateway.ca();
        let first = self.sent.len();
        let number = self.lot.below(COMMANDS_MAX + 1);
        // Sometimes work is left to pile up, sometimes there is time to do it.
        let acknowledged = self.lot.below(number + 1);
        let patience = if self.lot.below(6) == 0 { Duration::from_millis(300) } else { Duration::ZERO };
        // The short ones are for the moments between a command's arrival and its promise.
        let life_us_max = if self.lot.below(3) == 0 { ACCEPT_US_MAX } else { LIFE_US_MAX };
        let life = self.lot.micros(life_us_max) + patience;
        let (tell, mut told) = mpsc::unbounded_channel();
        let mut orders = Vec::new();
        for _command in 0..number {
            let (sent, text, session) = self.draw();
            orders.push((self.sent.len(), self.users[sent.user].key.clone(), text, session));
            self.sent.push(sent);
        }
        let (http, mut promises) = self.runtime.block_on(async {
            let http = connect(&ca, address).await.context("the gateway is up")?;
            for (index, key, text, session) in orders {
                let (http, tell) = (http.clone(), tell.clone());
                tokio::spawn(async move {
                    let answer = command(&http, &key, &text, session).await;
                    let _ = tell.send((index, answer));
                });
            }
            drop(tell);
            let mut promises = Vec::new();
            for _ in 0..acknowledged {
                let (index, answer) = told.recv().await.context("a command was given up")?;
                promises.push((index, answer.context("nothing was killed yet")?));
            }
            tokio::time::sleep(life).await;
            anyhow::Ok((http, promises))
        })?;
        self = self.kill();
        http.close();
        self.runtime.block_on(async {
            while let Some((index, answer)) = told.recv().await {
                promises.extend(answer.ok().map(|promise| (index, promise)));
            }
        });
        ensure!(promises.iter().all(|(index, _)| *index >= first), "an answer to an earlier command");
        for (index, promise) in promises {
            let sent = &mut self.sent[index];
            self.users[sent.user].session = Some(promise.session);
            sent.promise = Some(promise);
        }
        self.look_at_some_promise()?;
        Ok(self)
    }

    fn kill(mut self) -> Self {
        self.kills += 1;
        self.gateway = if self.lot.below(5) == 0 {
            self.kills += 1;
            self.gateway.crash_twice_and_restart(self.lot.micros(SECOND_LIFE_US_MAX))
        } else {
            self.gateway.crash_and_restart()
        };
        let page = self.runtime.block_on(self.gateway.page());
        let recovered = page.sum("sluice_tasks_recovered_total", &[]);
        self.recovered += recovered;
        self.recoveries += usize::from(recovered > 0);
        self
    }

    fn promised(&self) -> Vec<(&Sent, &AcceptedView)> {
        self.sent.iter().filter_map(|sent| Some((sent, sent.promise.as_ref()?))).collect()
    }

    /// A promised task is known right after the restart, whatever its state.
    fn look_at_some_promise(&mut self) -> anyhow::Result<()> {
        let count = self.promised().len();
        if count == 0 {
            return Ok(());
        }
        let chosen = self.lot.index(count);
        let (sent, promise) = self.promised()[chosen];
        let key = &self.users[sent.user].key;
        let seen = self.runtime.block_on(async {
            let http = connect(&self.gateway.ca(), self.gateway.address).await?;
            task(&http, key, promise.id).await
        })?;
        assert_eq!((seen.id, seen.session), (promise.id, promise.session));
        Ok(())
    }

    /// Every promised task, once it has ended.
    fn ends(&self) -> anyhow::Result<Vec<TaskView>> {
        self.runtime.block_on(async {
            let http = connect(&self.gateway.ca(), self.gateway.address).await?;
            let mut tasks = Vec::new();
            for (sent, promise) in self.promised() {
                tasks.push(ended(&http, &self.users[sent.user].key, promise.id).await?);
            }
            Ok(tasks)
        })
    }

    fn check_effects(&self, tasks: &[TaskView]) -> anyhow::Result<()> {
        let state = self.runtime.block_on(settled(&self.sim))?;
        assert_nothing_twice(&state);
        let mut failed = Vec::new();
        for ((sent, _), task) in self.promised().into_iter().zip(tasks) {
            let seen = effects(&state, &self.users[sent.user].name, &sent.mark);
            if task.state == TaskState::Failed {
                assert_failed_upstream(task);
                assert!(at_most(seen, sent.must_do), "{seen:?} of {:?}: {task:#?}", sent.must_do);
                failed.push(task);
                continue;
            }
            assert_done(task);
            assert_eq!(seen, sent.must_do, "{}: {task:#?}", sent.mark);
        }
        // Three errors in a row are needed: one call in eight thousand.
        assert!(failed.len() * 20 <= tasks.len(), "too many failed: {failed:#?}");
        for sent in self.sent.iter().filter(|sent| sent.promise.is_none()) {
            let seen = effects(&state, &self.users[sent.user].name, &sent.mark);
            assert!(at_most(seen, sent.must_do), "{}, never promised: {seen:?}", sent.mark);
        }
        let drafts = number(&state["totals"]["drafts_left"]);
        let excused = failed.iter().map(|task| task.steps.len() as u64).sum::<u64>();
        assert!(drafts <= excused, "{drafts} drafts left: {:#}", state["users"]);
        Ok(())
    }

    /// The sessions tell of every task that ended, and are the same before and after a crash.
    fn sessions(&self) -> anyhow::Result<BTreeMap<String, Value>> {
        let ids: BTreeMap<String, &str> = self
            .promised()
            .into_iter()
            .map(|(sent, promise)| (promise.session.to_string(), self.users[sent.user].key.as_str()))
            .collect();
        self.runtime.block_on(async {
            let http = connect(&self.gateway.ca(), self.gateway.address).await?;
            let mut sessions = BTreeMap::new();
            for (id, key) in ids {
                let answer = http.get(&format!("/api/v1/sessions/{id}"), key).await?;
                ensure!(answer.status == 200, "session {id}: {:?}", answer.body);
                sessions.insert(id, answer.json()?);
            }
            Ok(sessions)
        })
    }

    fn finish(mut self) -> anyhow::Result<()> {
        let tasks = self.ends()?;
        self.check_effects(&tasks)?;
        let sessions = self.sessions()?;
        self.gateway = self.gateway.crash_and_restart();
        assert_eq!(self.ends()?, tasks, "a finished task changed by a crash");
        assert_eq!(self.sessions()?, sessions, "a session changed by a crash");
        self.gateway.stop();
        let promised: Vec<TaskId> = tasks.iter().map(|task| task.id).collect();
        check_disk(self.directory.path(), &promised, &sessions)?;
        let unanswered = self.sent.iter().filter(|sent| sent.promise.is_none()).count();
        eprintln!(
            "{} kills, {} of which left work; {} tasks taken up again; {} commands promised, {unanswered} not; {}",
            self.kills,
            self.recoveries,
            self.recovered,
            tasks.len(),
            how_recovered(&tasks)
        );
        // Otherwise the kills came too late or too early to mean anything.
        assert!(self.recoveries * 5 >= self.kills, "only {} kills left work", self.recoveries);
        Ok(())
    }
}

fn at_most(seen: Effects, must_do: Effects) -> bool {
    seen.sends <= must_do.sends
        && seen.inserts <= must_do.inserts
        && seen.patches <= must_do.patches
        && seen.deletes <= must_do.deletes
}

fn assert_failed_upstream(task: &TaskView) {
    let kind = task.error.as_ref().map(|error| error.kind());
    let excused =
        [ProblemKind::UpstreamUnavailable, ProblemKind::UpstreamLimited, ProblemKind::UpstreamTimeout];
    assert!(kind.is_some_and(|kind| excused.contains(&kind)), "{task:#?}");
}

/// Where the crashes caught the tasks, as far as the calls of their last process tell.
fn how_recovered(tasks: &[TaskView]) -> String {
    let calls = || tasks.iter().flat_map(|task| &task.steps).flat_map(|step| &step.calls);
    let drafts = "/gmail/v1/users/me/drafts";
    let asked =
        calls().filter(|call| call.method == "GET" && call.path.starts_with(&format!("{drafts}/"))).count();
    let sought = calls().filter(|call| call.method == "GET" && call.path == drafts).count();
    let there = calls().filter(|call| call.method == "POST" && call.status == Some(409)).count();
    format!("{asked} drafts asked for, {sought} sought, {there} events found made")
}

/// What the stopped gateway left on disk: every task finished, once in its session and once in the history.
fn check_disk(
    directory: &Path,
    promised: &[TaskId],
    sessions: &BTreeMap<String, Value>,
) -> anyhow::Result<()> {
    let shards = ShardCount::new(SHARDS).context("a count")?;
    let store = Store::open(StoreConfig::new(directory, shards))?;
    let (mut finished, mut remembered) = (BTreeMap::new(), BTreeMap::new());
    for shard in (0..SHARDS).filter_map(|index| ShardId::new(index, shards)) {
        let keys = |kind| -> anyhow::Result<Vec<Key>> {
            let page = store.scan_blocking(shard, KeyRange::kind(kind), usize::MAX, false)?;
            Ok(page.rows.into_iter().map(|(key, _)| key).collect())
        };
        let pending = keys(KeyKind::TaskPending)?;
        assert!(pending.is_empty(), "still pending: {pending:?}");
        for key in keys(KeyKind::TaskFinished)? {
            let record = store.load_blocking::<TaskRecord>(shard, &key)?.context("just listed")?.to_record();
            finished.insert(record.id, record.session);
        }
        for task in keys(KeyKind::History)?.iter().filter_map(Key::task_id) {
            *remembered.entry(task).or_insert(0) += 1;
        }
    }
    assert!(promised.iter().all(|task| finished.contains_key(task)), "a promised task is gone");
    assert_eq!(
        remembered,
        finished.keys().map(|task| (*task, 1)).collect(),
        "the history is not the finished tasks"
    );
    for (id, session) in sessions {
        let tasks = finished.values().filter(|of| of.to_string() == *id).count() as u64;
        let turns: Vec<u64> =
            session["turns"].as_array().into_iter().flatten().map(|turn| number(&turn["number"])).collect();
        let first = tasks.saturating_sub(TURNS_MAX) + 1;
        assert_eq!(
            turns,
            (first..=tasks).collect::<Vec<_>>(),
            "turns of session {id}, which had {tasks} tasks"
        );
    }
    Ok(())
}

#[test]
fn promised_commands_are_done_exactly_once_however_often_the_gateway_is_killed() -> anyhow::Result<()> {
    let mut trial = Trial::start()?;
    while trial.kills < KILLS {
        trial = trial.round()?;
    }
    trial.finish()
}

/// A moment at which a fault of the simulator holds a command fast until the gateway is dead.
struct Moment {
    name: String,
    /// Carried out undisturbed before.
    before: Option<&'static str>,
    command: &'static str,
    fault: Value,
    /// What has to have taken effect, beside the fault's striking: a list of the user's in the simulator's state.
    effect: Option<&'static str>,
    /// A fault that holds the next process fast while it takes the task up again; then that one is killed as well.
    again: Option<Value>,
    must_do: Effects,
    drafts_left_max: u64,
}

const SEND_MAIL: &str = "send a mail to kim@example.com saying code MARK is valid";
const REPLY: &str = "reply to the mail from Anna about the budget saying code MARK is noted";
const MAKE_EVENT: &str = "create an event called Review MARK tomorrow at ten";
/// How long after its sending the request of a dead process takes effect: while the next one starts, among its
/// calls, and after them.
const LATE_MS: [u64; 5] = [50, 150, 200, 250, 400];

fn hang(service: &str, method: &str, path: &str, after_effect: bool) -> Value {
    json!({"service": service, "kind": "hang", "method": method, "path_contains": path, "after_effect": after_effect,
        "count": 1})
}

fn late(service: &str, path: &str, ms: u64) -> Value {
    json!({"service": service, "kind": "slow", "method": "POST", "path_contains": path, "ms": ms, "count": 1})
}

fn moment(name: impl Into<String>, command: &'static str, fault: Value, must_do: Effects) -> Moment {
    let name = name.into();
    Moment { name, before: None, command, fault, effect: None, again: None, must_do, drafts_left_max: 0 }
}

const TOKEN: &str = "/token";
const DRAFTS: &str = "/drafts";
const SEND_DRAFT: &str = "/drafts/send";
const EVENTS: &str = "/events";

fn moments() -> Vec<Moment> {
    let mut all = vec![
        moment("accepted", SEND_MAIL, hang("openai", "POST", "", false), SEND),
        moment("plan on disk", SEND_MAIL, hang("oauth", "POST", TOKEN, false), SEND),
    ];
    all.extend(moments_of_mail());
    all.extend(moments_of_events());
    for ms in LATE_MS {
        let late = |path| late("gmail", path, ms);
        // A draft that comes when it is no longer looked for stays one.
        let draft = moment(format!("draft comes after {ms} ms"), SEND_MAIL, late(DRAFTS), SEND);
        all.push(Moment { drafts_left_max: 1, ..draft });
        all.push(moment(format!("mail leaves after {ms} ms"), SEND_MAIL, late(SEND_DRAFT), SEND));
        let event = self::late("calendar", EVENTS, ms);
        all.push(moment(format!("event comes after {ms} ms"), MAKE_EVENT, event, INSERT));
    }
    all
}

fn moments_of_mail() -> Vec<Moment> {
    let draft_made = |name| Moment {
        effect: Some("drafts"),
        ..moment(name, SEND_MAIL, hang("gmail", "POST", DRAFTS, true), SEND)
    };
    let draft_on_disk = |name| moment(name, SEND_MAIL, hang("gmail", "POST", SEND_DRAFT, false), SEND);
    let sent = |name, command| Moment {
        effect: Some("sends"),
        ..moment(name, command, hang("gmail", "POST", SEND_DRAFT, true), SEND)
    };
    let asking = hang("gmail", "GET", DRAFTS, false);
    vec![
        moment("draft asked for", SEND_MAIL, hang("gmail", "POST", DRAFTS, false), SEND),
        draft_made("draft made"),
        draft_on_disk("draft on disk"),
        sent("mail sent", SEND_MAIL),
        sent("reply sent", REPLY),
        Moment { again: Some(asking.clone()), ..draft_made("draft made, then while it is sought") },
        Moment {
            again: Some(hang("gmail", "POST", SEND_DRAFT, true)),
            ..draft_on_disk("draft on disk, then when it is sent")
        },
        Moment { again: Some(asking), ..sent("mail sent, then while the draft is asked for", SEND_MAIL) },
    ]
}

fn moments_of_events() -> Vec<Moment> {
    let after = |name, command, method, effect, must_do| Moment {
        before: (command != MAKE_EVENT).then_some(MAKE_EVENT),
        effect: Some(effect),
        ..moment(name, command, hang("calendar", method, EVENTS, true), must_do)
    };
    vec![
        moment("event asked for", MAKE_EVENT, hang("calendar", "POST", EVENTS, false), INSERT),
        after("event made", MAKE_EVENT, "POST", "inserts", INSERT),
        after("event changed", "move it to 3pm", "PATCH", "patches", PATCH),
        after("event cancelled", "cancel it", "DELETE", "deletes", DELETE),
    ]
}

/// The gateway and the simulator of the moments.
struct Stage {
    runtime: Runtime,
    sim: Sim,
    directory: tempfile::TempDir,
}

impl Stage {
    fn connect(&self, gateway: &Gateway) -> anyhow::Result<Http> {
        self.runtime.block_on(connect(&gateway.ca(), gateway.address))
    }

    /// Waits until the faults have struck so often, and until the user has `effect` when there is one.
    fn until_held(&self, user: &str, fired: u64, effect: Option<&str>) -> anyhow::Result<()> {
        let there = |state: &Value| {
            let has = |kind| state["users"][user][kind].as_array().is_some_and(|list| !list.is_empty());
            number(&state["faults_fired"]) >= fired && effect.is_none_or(has)
        };
        self.runtime.block_on(until(&self.sim, "the moment", there)).map(drop)
    }

    /// Kills the gateway at the moment, and sees the command done once.
    fn play(&self, mut gateway: Gateway, index: usize, moment: &Moment) -> anyhow::Result<Gateway> {
        let user = format!("user-{index}");
        let mark = format!("q{index:04x}");
        let key = gateway.user(&user);
        let http = self.connect(&gateway)?;
        let mut must_do = moment.must_do;
        if let Some(before) = moment.before {
            let text = before.replace("MARK", &mark);
            let done = self.runtime.block_on(async {
                let promise = command(&http, &key, &text, None).await?;
                ended(&http, &key, promise.id).await
            })?;
            assert_done(&done);
            must_do.inserts += 1;
        }
        let mut fired = number(&self.runtime.block_on(self.sim.state())["faults_fired"]) + 1;
        let promise = self.runtime.block_on(async {
            self.sim.fault(moment.fault.clone()).await;
            command(&http, &key, &moment.command.replace("MARK", &mark), None).await
        })?;
        self.until_held(&user, fired, moment.effect)?;
        if let Some(again) = &moment.again {
            self.runtime.block_on(self.sim.fault(again.clone()));
            gateway = gateway.crash_and_restart();
            fired += 1;
            self.until_held(&user, fired, None)?;
        }
        // The fault struck once and is used up; only who was held by it still hangs.
        let gateway = gateway.crash_and_restart();
        self.runtime.block_on(self.sim.clear_faults());
        http.close();
        let http = self.connect(&gateway)?;
        let done = self.runtime.block_on(ended(&http, &key, promise.id))?;
        assert_done(&done);
        let state = self.runtime.block_on(settled(&self.sim))?;
        assert_eq!(effects(&state, &user, &mark), must_do, "{done:#?}");
        assert_nothing_twice(&state);
        let drafts = number(&state["users"][&user]["drafts_left"]);
        assert!(drafts <= moment.drafts_left_max, "{:#}", state["users"][&user]);
        let session =
            self.runtime.block_on(http.get(&format!("/api/v1/sessions/{}", promise.session), &key))?;
        assert_eq!(session.status, 200);
        let turns = session.json()?["turns"].as_array().map_or(0, Vec::len);
        assert_eq!(turns, 1 + usize::from(moment.before.is_some()));
        Ok(gateway)
    }
}

#[test]
fn a_command_is_done_exactly_once_whichever_step_of_it_a_kill_falls_on() -> anyhow::Result<()> {
    let sim = Sim::start(&[]);
    let stage = Stage {
        runtime: tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?,
        sim,
        directory: tempfile::tempdir()?,
    };
    let mut gateway = Gateway::start(&stage.sim, stage.directory.path(), &SETTINGS);
    for (index, moment) in moments().iter().enumerate() {
        eprintln!("killed at: {}", moment.name);
        gateway = stage.play(gateway, index, moment).with_context(|| moment.name.clone())?;
    }
    gateway.stop();
    Ok(())
}

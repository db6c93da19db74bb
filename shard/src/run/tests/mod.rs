//! Tasks against the real egress pool, a real store and a real reactor, with a fake Google and OpenAI.

mod accounts;
mod fake;
mod journals;
mod once;
mod plans;
mod replays;
mod tokens;
mod upstream;
mod wishes;
mod workflows;

use std::rc::Rc;

use fake::{Fake, Fault};
use serde_json::{Value, json};
use sluice_core::{CoreId, Reactor, ReactorConfig};
use sluice_net::egress::{Egress, EgressConfig, PerUpstream, UpstreamConfig};
use sluice_protocols::api::{StepState, TaskState, TaskView};
use sluice_protocols::ids::{SessionId, ShardCount, ShardId, TaskId, UserId};
use sluice_protocols::problem::ProblemKind;
use sluice_store::record::{
    ConnectionRecord, ConnectionState, Provider, TaskRecord, TurnRecord, WaitsRecord, encode,
};
use sluice_store::vault::{Keyring, Place};
use sluice_store::{Batch, CoreStore, Key, Store, StoreConfig, Vault};

use super::*;
use crate::clock::Clock;
use crate::env::{Env, RunConfig};
use crate::quota::{QuotaConfig, Quotas, RetryLimits};

/// Monday, 23 November 2026, 15:05 in Berlin.
const NOW_MS: u64 = 1_795_442_700_000;

struct Rig {
    fake: Fake,
    store: Store,
    vault: Vault,
    egress: Egress,
    shard: ShardId,
    user: UserId,
    config: RunConfig,
    _directory: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let count = ShardCount::new(2).expect("a count");
        let store = Store::open(StoreConfig::new(directory.path().join("data"), count)).expect("a store");
        let vault = Vault::open(&store, Keyring::generate().expect("keys")).expect("a vault");
        let fake = Fake::start();
        let upstream = || UpstreamConfig::new(&fake.base_url);
        let mut egress = EgressConfig::new(PerUpstream {
            openai: upstream(),
            oauth: UpstreamConfig::new(format!("{}/token", fake.base_url)),
            gmail: upstream(),
            calendar: upstream(),
            drive: upstream(),
        });
        egress.retry.backoff_base = Duration::from_millis(1);
        egress.retry.backoff_max = Duration::from_millis(2);
        let user = UserId::from_bytes([5; 16]);
        let rig = Self {
            fake,
            store,
            vault,
            egress: Egress::start(egress).expect("the pool"),
            shard: ShardId::of(&user, count),
            user,
            config: quick(RunConfig::new("sk-test", "model", "client", "secret")),
            _directory: directory,
        };
        rig.connect("refresh-0", ConnectionState::Active);
        rig
    }

    /// A rig whose model answers with these steps.
    fn planning(steps: Value) -> Self {
        let rig = Self::new();
        rig.fake.world().plans = vec![act(steps)];
        rig
    }

    fn connect(&self, refresh_token: &str, state: ConnectionState) {
        let token = self.vault.seal_blocking(&self.place(), refresh_token).expect("sealed");
        let given = ConnectionRecord::given(self.user, "me@example.com", token, "all", 0);
        let record = ConnectionRecord { state, ..given };
        let mut batch = Batch::new(self.shard);
        batch.put(&self.connection_key(), encode(&record).expect("encoded").as_bytes());
        self.store.write_blocking(vec![batch]).expect("written");
    }

    fn place(&self) -> Place {
        Place::refresh_token(&self.user, Provider::Google)
    }

    fn connection_key(&self) -> Key {
        self.place().key().clone()
    }

    /// The refresh token on disk, opened.
    fn refresh_token(&self) -> String {
        let stored = self.connection().refresh_token;
        self.vault.open_blocking(&self.place(), &stored).expect("it opens").expose().to_owned()
    }

    fn connection(&self) -> ConnectionRecord {
        let loaded = self.store.load_blocking::<ConnectionRecord>(self.shard, &self.connection_key());
        loaded.expect("read").expect("there").to_record()
    }

    /// A task as it is accepted; on disk.
    fn accept(&self, number: u8) -> TaskRecord {
        let task = TaskRecord {
            id: TaskId::new(NOW_MS, [number; 10]),
            user: self.user,
            session: SessionId::from_bytes([9; 16]),
            command: "do it".to_owned(),
            mode: 1,
            state: codes::of_task_state(TaskState::Queued),
            priority: 2,
            time_zone: "Europe/Berlin".to_owned(),
            created_ms: NOW_MS,
            deadline_ms: NOW_MS + 60_000,
            finished_ms: None,
            deadline_asked: false,
            confirmed: false,
            attempts: 0,
            retries: 0,
            not_before_ms: 0,
            last_error_json: None,
            plan_json: None,
            steps: Vec::new(),
            answer: None,
            error_json: None,
            openai_us: 0,
            google_us: 0,
            total_us: 0,
            events: Vec::new(),
            account: None,
            waits: WaitsRecord::default(),
            cancel_asked: false,
        };
        let mut batch = Batch::new(self.shard);
        let key = Key::task_pending(&task.user, &task.id);
        batch.put(&key, encode(&task).expect("encoded").as_bytes());
        self.store.write_blocking(vec![batch]).expect("written");
        task
    }

    /// The task as the journal has it.
    fn journaled(&self, task: &TaskRecord) -> TaskRecord {
        let key = Key::task_pending(&task.user, &task.id);
        self.store.load_blocking::<TaskRecord>(self.shard, &key).expect("read").expect("there").to_record()
    }

    /// Runs something on a core of its own.
    fn on_core<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        body: impl FnOnce(Env) -> F + 'static,
    ) -> T {
        let (store, vault) = (self.store.clone(), self.vault.clone());
        let (egress, config) = (self.egress.clone(), self.config.clone());
        let reactor = Reactor::new(ReactorConfig::new(CoreId::new(0))).expect("a reactor");
        let run = async move {
            let env = Env::new(CoreStore::new(&store), vault, egress, config, Clock::manual(NOW_MS));
            body(env).await
        };
        reactor.block_on(run).expect("the ring works")
    }

    fn run_after(&self, task: TaskRecord, recent: Vec<TurnRecord>) -> TaskRecord {
        let (shard, recent) = (self.shard, Recent::from(recent));
        let end = self.on_core(async move |env| run(&env, shard, task, &recent, &Cancel::default()).await);
        match end {
            RunEnd::Final(task, brought) => {
                assert_told_alike(&task, &brought);
                task
            }
            RunEnd::Unconfirmed(task) => {
                assert_told_alike(&task, &Brought::default());
                task
            }
            RunEnd::Interrupted(_, problem) => panic!("interrupted: {problem}"),
        }
    }

    fn run(&self) -> TaskView {
        let task = self.accept(1);
        view_of(&self.run_after(task, Vec::new()))
    }

    /// Runs a task until it ends or the fake kills the process; whether it ended.
    fn run_until_killed(&self, task: TaskRecord) -> Option<TaskRecord> {
        let (shard, fake) = (self.shard, self.fake.clone());
        self.on_core(async move |env| {
            let cancel = Cancel::default();
            let recent = Recent::default();
            let mut run = std::pin::pin!(run(&env, shard, task, &recent, &cancel));
            let mut killed = std::pin::pin!(fake.killed());
            poll_fn(|cx| {
                if killed.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(None);
                }
                run.as_mut().poll(cx).map(|end| match end {
                    RunEnd::Final(task, _) => Some(task),
                    RunEnd::Unconfirmed(_) | RunEnd::Interrupted(..) => None,
                })
            })
            .await
        })
    }
}

/// What is written straight from a record, with or without what the run had at hand, is what its view says; and what the
/// session remembers is the same.
fn assert_told_alike(task: &TaskRecord, brought: &Brought) {
    let view = serde_json::to_string(&view_of(task)).expect("a view");
    let (at_hand, read) = (told(task, brought), told(task, &Brought::default()));
    assert_eq!(String::from_utf8_lossy(&at_hand.body), view);
    assert_eq!(String::from_utf8_lossy(&read.body), view);
    assert_eq!((at_hand.services, at_hand.operations), (read.services, read.operations));
    let turn = |brought| turn_of(task, brought, 1, &mut [0; 3]);
    assert_eq!(turn(brought), turn(&Brought::default()));
}

/// Waits that tests need not feel.
fn quick(mut config: RunConfig) -> RunConfig {
    let retry = RetryLimits {
        backoff_base: Duration::from_millis(1),
        backoff_max: Duration::from_millis(2),
        ..RetryLimits::default()
    };
    let quota = QuotaConfig { cool_down: Duration::from_millis(5), retry, ..QuotaConfig::default() };
    config.quotas = Quotas::new(quota, 1);
    config
}

fn act(steps: Value) -> Value {
    json!({"decision": "act", "reason": null, "steps": steps})
}

fn step(id: &str, after: &[&str], call: Value) -> Value {
    json!({"id": id, "after": after, "call": call})
}

fn search(id: &str, query: &str, limit: u8) -> Value {
    step(id, &[], json!({"operation": "gmail.search", "query": query, "limit": limit}))
}

fn send(id: &str, after: &[&str], to: &str) -> Value {
    step(id, after, json!({"operation": "gmail.send", "to": [to], "subject": "Hello", "body": "Hi there"}))
}

fn create(id: &str, after: &[&str]) -> Value {
    let call = json!({"operation": "calendar.create", "title": "Meeting", "start": "2026-11-24T10:00", "end": null,
                      "attendees": [], "location": null, "description": null});
    step(id, after, call)
}

fn states(view: &TaskView) -> Vec<StepState> {
    view.steps.iter().map(|step| step.state).collect()
}

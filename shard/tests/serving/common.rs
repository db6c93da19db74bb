//! A gateway core without a network: a real reactor and store, requests handed to the service, and a runner that
//! does what a command's first word says.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use sluice_core::{CoreId, Reactor, ReactorConfig};
use sluice_net::egress::{Egress, EgressConfig, PerUpstream, UpstreamConfig};
use sluice_net::{Admit, BodyReader, Request, Responder, Service};
use sluice_protocols::api::{Mode, TaskState};
use sluice_protocols::http::{RequestHead, Response};
use sluice_protocols::ids::{ApiKey, ShardCount, ShardId, UserId};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_shard::clock::Clock;
use sluice_shard::env::RunConfig;
use sluice_shard::limit::{LimitConfig, Limits};
use sluice_shard::run::{Brought, RunEnd, codes};
use sluice_shard::{
    Admin, Cancel, CoreParts, CoreService, Metrics, Recent, RunFuture, Runner, ShardConfig, peer,
};
use sluice_store::record::{TaskRecord, encode};
use sluice_store::vault::Keyring;
use sluice_store::{Batch, CoreStore, Key, KeyRange, Kind, Store, StoreConfig, Vault};

/// From where requests come.
pub(crate) const PEER: ([u8; 4], u16) = ([127, 0, 0, 1], 9);
/// 2026-11-19, far from any edge of the calendar.
pub(crate) const START_MS: u64 = 1_795_000_000_000;
pub(crate) const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// What outlives a core: the store, and everything shared.
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) vault: Vault,
    pub(crate) admin: Admin,
    pub(crate) egress: Egress,
    /// Removed with the world.
    _directory: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let shards = ShardCount::new(8).unwrap();
        let store = Store::open(StoreConfig::new(directory.path().join("data"), shards)).unwrap();
        let vault = Vault::open(&store, Keyring::generate().unwrap()).unwrap();
        let nowhere = || UpstreamConfig::new("http://127.0.0.1:9");
        let upstreams = PerUpstream {
            openai: nowhere(),
            oauth: nowhere(),
            gmail: nowhere(),
            calendar: nowhere(),
            drive: nowhere(),
        };
        let egress = Egress::start(EgressConfig::new(upstreams)).unwrap();
        let admin = Admin::new(store.clone(), vault.clone());
        Self { admin, store, vault, egress, _directory: directory }
    }

    pub(crate) fn metrics(&self, cores: usize) -> Arc<Metrics> {
        Metrics::new(cores, self.store.clone(), self.egress.clone(), Vec::new())
    }

    /// A user with a key.
    pub(crate) fn user(&self, name: &str) -> User {
        let email = format!("{name}@example.com");
        let id = self.admin.create_user(name, &email, "Europe/Berlin").unwrap().id;
        let key = self.admin.create_key(&id, "test").unwrap();
        User { id, key }
    }

    /// A user whose shard has this remainder by the number of cores.
    pub(crate) fn user_of_core(&self, core: u16, cores: u16) -> User {
        (0..)
            .map(|number| self.user(&format!("user-{core}-{number}")))
            .find(|user| ShardId::of(&user.id, self.store.shard_count()).index() % cores == core)
            .unwrap()
    }

    /// Task records of a kind on disk.
    pub(crate) fn tasks_on_disk(&self, kind: Kind) -> Vec<TaskRecord> {
        let shards = self.store.shard_count().shards();
        let rows = shards.flat_map(|shard| {
            self.store.scan_blocking(shard, KeyRange::kind(kind), 1_000, false).unwrap().rows
        });
        rows.map(|(_, value)| sluice_store::record::decode(value).unwrap()).collect()
    }

    /// Runs one core that owns everything, until the test is over; then it is dropped as it stands, as by a kill.
    pub(crate) fn run<F, Fut>(&self, config: ShardConfig, test: F)
    where
        F: FnOnce(Gateway) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.run_at(START_MS, config, test);
    }

    pub(crate) fn run_at<F, Fut>(&self, unix_ms: u64, config: ShardConfig, test: F)
    where
        F: FnOnce(Gateway) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.start(unix_ms, config, |gateway: Gateway| async move {
            gateway.service.ready().await;
            test(gateway).await;
        });
    }

    /// As [`Self::run`], but the test begins before the core has taken up what is pending.
    pub(crate) fn run_unready<F, Fut>(&self, config: ShardConfig, test: F)
    where
        F: FnOnce(Gateway) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.start(START_MS, config, test);
    }

    fn start<F, Fut>(&self, unix_ms: u64, config: ShardConfig, test: F)
    where
        F: FnOnce(Gateway) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let metrics = self.metrics(1);
        let parts = CoreParts {
            core: CoreId::new(0),
            cores: 1,
            store: self.store.clone(),
            vault: self.vault.clone(),
            egress: self.egress.clone(),
            admin: self.admin.clone(),
            config: Arc::new(config),
            peers: peer::mesh(1).pop().unwrap(),
            metrics: Arc::clone(&metrics),
            alt_svc_ports: vec![4434],
        };
        Reactor::new(ReactorConfig::new(CoreId::new(0)))
            .unwrap()
            .block_on(async move {
                let gateway = Gateway::start(parts, Clock::manual(unix_ms));
                test(gateway).await;
            })
            .unwrap();
    }
}

pub(crate) fn config() -> ShardConfig {
    let mut config = ShardConfig::new(RunConfig::new("key", "model", "client", "secret"));
    // Most tests ask more of a gateway than a user may; those of the limits say which.
    config.limits = Arc::new(Limits::new(LimitConfig::off()));
    config
}

pub(crate) struct User {
    pub(crate) id: UserId,
    pub(crate) key: ApiKey,
}

impl User {
    pub(crate) fn head(&self, method: &str, path: &str) -> RequestHead {
        let head = RequestHead::build(method, path, "localhost");
        head.with("authorization", &format!("Bearer {}", self.key.expose()))
    }
}

/// One core and the one test that talks to it.
#[derive(Clone)]
pub(crate) struct Gateway {
    pub(crate) service: Rc<CoreService>,
    pub(crate) script: Rc<Script>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
}

impl Gateway {
    pub(crate) fn start(parts: CoreParts, clock: Clock) -> Self {
        let script = Rc::new(Script::default());
        let metrics = Arc::clone(&parts.metrics);
        let store = CoreStore::new(&parts.store);
        let runner = Box::new(Scripted(Rc::clone(&script), store.clone()));
        let service = CoreService::start_with(parts, store, clock.clone(), runner);
        Self { service, script, clock, metrics }
    }

    /// Sends a request as the ingress would: admission first.
    pub(crate) fn send(&self, head: RequestHead, body: &str) -> Answer {
        let answer = Answer::default();
        match self.service.admit(&head, Some(PEER.0.into())) {
            Admit::Reply(response) => answer.set(response),
            Admit::Body { bytes_max } if body.len() > bytes_max => {
                answer.set(self.service.refuse(413, "too long"));
            }
            Admit::Body { .. } | Admit::Stream { .. } => self.call(head, body, false, &answer),
        }
        answer
    }

    pub(crate) fn call(&self, head: RequestHead, body: &str, early_data: bool, answer: &Answer) {
        let body = Bytes::from(body.to_owned());
        let request = Request { head, body, stream: None, peer: PEER.into(), early_data };
        let filled = answer.clone();
        self.service.call(request, Responder::from_fn(move |answer| filled.take_in(answer)));
    }

    pub(crate) fn get(&self, user: &User, path: &str) -> Answer {
        self.send(user.head("GET", path), "")
    }

    /// Posts a command with these fields.
    pub(crate) fn command(&self, user: &User, fields: Value) -> Answer {
        let head = user.head("POST", "/api/v1/command").with("content-type", "application/json");
        self.send(head, &fields.to_string())
    }

    /// Posts an asynchronous command, which must be accepted; gives task and session.
    pub(crate) async fn accepted(&self, user: &User, command: &str) -> (String, String) {
        let response = self.command(user, json!({"command": command, "mode": "async"})).await;
        assert_eq!(response.status, 202, "{response:?}");
        let body = body(&response);
        assert_eq!(response.header("location"), body["location"].as_str());
        (body["id"].as_str().unwrap().to_owned(), body["session"].as_str().unwrap().to_owned())
    }

    /// Waits for the end of a task.
    pub(crate) async fn finished(&self, user: &User, task: &str) -> Value {
        let head = user.head("GET", &format!("/api/v1/tasks/{task}")).with("prefer", "wait=30");
        let response = self.send(head, "").await;
        assert_eq!(response.status, 200, "{response:?}");
        body(&response)
    }

    /// Lets everything that can happen without a wait happen.
    pub(crate) async fn settle(&self) {
        for _ in 0..20 {
            sluice_core::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The value of a metric, given its line up to the value.
    pub(crate) fn metric(&self, series: &str) -> u64 {
        let page = self.metrics.render();
        let line =
            page.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        let line = line.unwrap_or_else(|| panic!("no {series} in\n{page}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

pub(crate) fn body(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap()
}

/// Everything a stream of events says from now on.
pub(crate) async fn read_all(mut body: BodyReader) -> String {
    let mut text = Vec::new();
    while let Some(piece) = body.next().await {
        text.extend_from_slice(&piece.unwrap());
    }
    String::from_utf8(text).unwrap()
}

/// The next piece of a stream of events.
pub(crate) async fn read_one(body: &mut BodyReader) -> String {
    String::from_utf8(body.next().await.unwrap().unwrap().to_vec()).unwrap()
}

pub(crate) fn problem(response: &Response) -> Problem {
    assert_eq!(response.header("content-type"), Some("application/problem+json"), "{response:?}");
    let problem: Problem = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(problem.status(), response.status);
    assert_eq!(problem.request_id(), response.header("x-request-id"));
    assert_eq!(problem.instance(), response.header("x-request-id"));
    problem
}

/// An answer that may still be on its way.
#[derive(Clone, Default)]
pub(crate) struct Answer(Rc<Slot>);

#[derive(Default)]
struct Slot {
    response: RefCell<Option<Response>>,
    stream: RefCell<Option<BodyReader>>,
    waker: RefCell<Option<Waker>>,
}

impl Answer {
    pub(crate) fn take_in(&self, answer: sluice_net::Answer) {
        match answer {
            sluice_net::Answer::Whole(response) => self.set(response),
            sluice_net::Answer::Streamed(head, body) => {
                *self.0.stream.borrow_mut() = Some(body);
                self.set(head);
            }
        }
    }

    /// Waits for the head and gives it with the body that is to come.
    pub(crate) async fn streamed(self) -> (Response, BodyReader) {
        let slot = Rc::clone(&self.0);
        let head = self.await;
        let body = slot.stream.borrow_mut().take();
        (head, body.expect("a body in pieces"))
    }

    fn set(&self, response: Response) {
        *self.0.response.borrow_mut() = Some(response);
        if let Some(waker) = self.0.waker.take() {
            waker.wake();
        }
    }

    pub(crate) fn is_there(&self) -> bool {
        self.0.response.borrow().is_some()
    }
}

impl Future for Answer {
    type Output = Response;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response> {
        match self.0.response.borrow_mut().take() {
            Some(response) => {
                assert!(response.header("x-request-id").is_some(), "{response:?}");
                Poll::Ready(response)
            }
            None => {
                *self.0.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// What the tests see of the runner, and how they hold it.
#[derive(Default)]
pub(crate) struct Script {
    /// `start x` and `end x`, in order.
    pub(crate) log: RefCell<Vec<String>>,
    /// Commands that begin with `hold` end once this is set.
    pub(crate) is_released: Cell<bool>,
    /// How often a command that begins with `stumble` is still interrupted.
    pub(crate) stumbles: Cell<u32>,
}

impl Script {
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.borrow().clone()
    }
}

/// Does what a command's first word says: `hold` waits to be released, `fail` and `decline` end so, `stumble` is
/// interrupted; all else is done. The answer tells what the session remembered.
pub(crate) struct Scripted(pub(crate) Rc<Script>, pub(crate) CoreStore);

impl Runner for Scripted {
    fn run<'a>(
        &'a self,
        shard: ShardId,
        mut task: TaskRecord,
        recent: &'a Recent,
        cancel: &'a Cancel,
    ) -> RunFuture<'a> {
        Box::pin(async move {
            task.attempts += 1;
            let command = task.command.clone();
            self.0.log.borrow_mut().push(format!("start {command}"));
            let first = command.split(' ').next().unwrap();
            if first == "stumble" && self.0.stumbles.get() > 0 {
                self.0.stumbles.set(self.0.stumbles.get() - 1);
                return RunEnd::Interrupted(task, Problem::new(ProblemKind::Storage, "stumbled"));
            }
            while first == "hold" && !self.0.is_released.get() && !cancel.is_set() {
                sluice_core::sleep(Duration::from_millis(1)).await;
            }
            if codes::mode(task.mode) == Mode::Preview && !task.confirmed {
                task.state = codes::of_task_state(TaskState::AwaitingConfirmation);
                let mut batch = Batch::new(shard);
                let value = encode(&task).unwrap();
                batch.put(&Key::task_pending(&task.user, &task.id), value.as_bytes());
                self.1.commit(batch).await.unwrap();
                return RunEnd::Unconfirmed(task);
            }
            sluice_core::yield_now().await;
            self.0.log.borrow_mut().push(format!("end {command}"));
            let mut task = ended(task, first, recent);
            if cancel.is_set() {
                task.state = codes::of_task_state(TaskState::Cancelled);
            }
            RunEnd::Final(task, Brought::default())
        })
    }
}

fn ended(mut task: TaskRecord, first: &str, recent: &Recent) -> TaskRecord {
    let state = match first {
        "fail" => TaskState::Failed,
        "wrong" => TaskState::Failed,
        "decline" => TaskState::Declined,
        _ => TaskState::Done,
    };
    let remembered: Vec<_> = recent.turns().iter().map(|turn| turn.command.as_str()).collect();
    task.state = codes::of_task_state(state);
    task.answer = Some(format!("after [{}]", remembered.join(", ")));
    task.finished_ms = Some(task.created_ms + 1);
    task.openai_us = 1_500;
    task.google_us = 2_500;
    task.total_us = 5_000;
    if first == "fail" {
        let problem = Problem::new(ProblemKind::UpstreamUnavailable, "Gmail is down");
        task.error_json = Some(serde_json::to_string(&problem).unwrap());
    }
    task
}

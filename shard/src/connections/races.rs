//! The classic races of refresh tokens, in every order that matters: two refreshes at once, a crash between a rotated token's
//! coming and its being stored, an account given up while it is refreshed, a consent that brings no refresh token of its own
//! ([`consents`]), accounts that change places while an operator connects one ([`places`]), and two cores that both take
//! themselves for the owner.
//!
//! No order here happens by chance. A provider of the test's own holds each request when it comes, carries it out when it is told
//! to, and holds the answer again; the core's commits wait at a gate. A schedule is a list of such steps, and a crash is
//! the end of the reactor with all that ran on it, after any step. Each schedule has a user of its own.
//!
//! What must hold after each of them, once the core lives (again) and nothing is held any more: an account that was not given up
//! works, or, where the provider ended the old token at once and the new one died with the process, says so and how it
//! is mended; one that was given up is revoked at the provider, whichever token that takes.

mod consents;
mod places;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use sluice_core::{CoreId, Reactor, ReactorConfig};
use sluice_net::egress::{Egress, EgressConfig, PerUpstream, UpstreamConfig};
use sluice_protocols::ids::{ShardCount, ShardId, UserId};
use sluice_protocols::problem::ProblemKind;
use sluice_store::record::{ConnectionRecord, ConnectionState};
use sluice_store::vault::Keyring;
use sluice_store::{Batch, CoreStore, Key, Store, StoreConfig, Vault};

use super::*;
use crate::audit::Author;
use crate::clock::Clock;
use crate::env::RunConfig;
use crate::test_http::{self, Request};

const NOW_MS: u64 = 1_795_442_700_000;

/// How a provider deals with refresh tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rotation {
    /// Each refresh brings a new one; the one before stays good until the new one is used.
    Overlapping,
    /// Each refresh brings a new one and ends the one before.
    Strict,
}

/// What a request came to.
#[derive(Clone, Debug)]
enum Stage {
    Arrived,
    Performed(u16, String),
    Delivered(u16, String),
    /// Whoever sent it is gone.
    Dead,
}

struct Held {
    path: String,
    form: BTreeMap<String, String>,
    stage: Stage,
}

#[derive(Default)]
struct Book {
    strict: bool,
    /// Requests in the order of arrival; those that are done with stay, so that numbers do.
    requests: Vec<Held>,
    /// What nobody holds back.
    is_open: bool,
    /// All it does is fail.
    is_down: bool,
    /// Tokens that are good, with whose they are.
    live: BTreeMap<String, String>,
    /// Of a token that replaced another, that other one.
    before: BTreeMap<String, String>,
    access: BTreeMap<String, String>,
    next: usize,
}

impl Book {
    fn perform(&mut self, number: usize) {
        let (path, form) = (self.requests[number].path.clone(), self.requests[number].form.clone());
        let (status, body) = match path.as_str() {
            _ if self.is_down => (503, "{}".to_owned()),
            "/token" => self.refresh(&form["refresh_token"]),
            "/revoke" => self.revoke(&form["token"]),
            _ => (404, "{}".to_owned()),
        };
        self.requests[number].stage = Stage::Performed(status, body);
    }

    fn refresh(&mut self, token: &str) -> (u16, String) {
        let Some(user) = self.live.get(token).cloned() else {
            return (400, r#"{"error":"invalid_grant"}"#.to_owned());
        };
        if let Some(old) = self.before.remove(token) {
            self.live.remove(&old);
        }
        self.next += 1;
        let (new, access) = (format!("{user}-{}", self.next), format!("access-{}", self.next));
        if self.strict {
            self.live.remove(token);
        } else {
            self.before.insert(new.clone(), token.to_owned());
        }
        self.live.insert(new.clone(), user.clone());
        self.access.insert(access.clone(), user);
        let body = format!(
            r#"{{"access_token":"{access}","expires_in":3600,"token_type":"Bearer","refresh_token":"{new}"}}"#
        );
        (200, body)
    }

    fn revoke(&mut self, token: &str) -> (u16, String) {
        let Some(user) = self.live.get(token).cloned() else {
            return (400, r#"{"error":"invalid_token"}"#.to_owned());
        };
        self.live.retain(|_, of| *of != user);
        self.access.retain(|_, of| *of != user);
        (200, "{}".to_owned())
    }
}

/// A provider that does nothing before it is told to.
#[derive(Clone)]
struct Provider {
    base_url: String,
    shared: Arc<(Mutex<Book>, Condvar)>,
}

impl Provider {
    fn start(rotation: Rotation) -> Self {
        let book = Book { strict: rotation == Rotation::Strict, ..Book::default() };
        let mut provider =
            Self { base_url: String::new(), shared: Arc::new((Mutex::new(book), Condvar::new())) };
        let server = provider.clone();
        provider.base_url = test_http::serve(move |request| server.answer(request));
        provider
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a request until it may be answered; nothing, where whoever sent it is gone.
    fn answer(&self, request: &Request) -> Option<(u16, String)> {
        let mut book = self.book();
        let number = book.requests.len();
        let (path, form) = (request.path.clone(), form_of(&request.body));
        book.requests.push(Held { path, form, stage: Stage::Arrived });
        loop {
            let is_open = book.is_open;
            match book.requests[number].stage.clone() {
                Stage::Dead => return None,
                Stage::Arrived if is_open => book.perform(number),
                Stage::Performed(status, body) if is_open => {
                    book.requests[number].stage = Stage::Delivered(status, body);
                }
                Stage::Delivered(status, body) => return Some((status, body)),
                Stage::Arrived | Stage::Performed(..) => {
                    book = self.shared.1.wait(book).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// The oldest request at a stage.
    fn oldest(&self, is_it: impl Fn(&Stage) -> bool) -> Option<usize> {
        self.book().requests.iter().position(|held| is_it(&held.stage))
    }

    /// Carries the oldest request out that waits for it.
    fn perform(&self) {
        if let Some(number) = self.oldest(|stage| matches!(stage, Stage::Arrived)) {
            self.book().perform(number);
        }
    }

    /// Lets the oldest answer go; whether there was one.
    fn deliver(&self) -> bool {
        let Some(number) = self.oldest(|stage| matches!(stage, Stage::Performed(..))) else { return false };
        let mut book = self.book();
        if let Stage::Performed(status, body) = book.requests[number].stage.clone() {
            book.requests[number].stage = Stage::Delivered(status, body);
        }
        self.shared.1.notify_all();
        true
    }

    /// Holds nothing back from now on.
    fn open(&self) {
        self.book().is_open = true;
        self.shared.1.notify_all();
    }

    /// A new schedule begins: what is left of the one before comes to nothing.
    fn begin(&self, user: &UserId, token: &str) {
        self.end();
        let mut book = self.book();
        book.is_open = false;
        book.requests.clear();
        book.live.insert(token.to_owned(), user.to_string());
    }

    /// Whoever sent something is gone: what was not carried out never will be.
    fn end(&self) {
        let mut book = self.book();
        for held in &mut book.requests {
            if !matches!(held.stage, Stage::Delivered(..)) {
                held.stage = Stage::Dead;
            }
        }
        drop(book);
        self.shared.1.notify_all();
    }

    /// Tokens of a user that are good.
    fn live(&self, user: &UserId) -> Vec<String> {
        let (book, user) = (self.book(), user.to_string());
        book.live.iter().filter(|(_, of)| **of == user).map(|(token, _)| token.clone()).collect()
    }
}

fn form_of(body: &[u8]) -> BTreeMap<String, String> {
    let body = String::from_utf8_lossy(body);
    let pairs = body.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Where a core's commits wait.
#[derive(Default)]
struct Gate {
    asked: Cell<usize>,
    let_through: Cell<usize>,
    /// Of those that were let through, those that have gone: their commits are handed over.
    gone: Cell<usize>,
    is_open: Cell<bool>,
    wakers: RefCell<Vec<Waker>>,
}

impl Gate {
    fn wake(&self) {
        self.wakers.take().into_iter().for_each(Waker::wake);
    }

    /// The end of a turn with commits.
    fn pass(self: &Rc<Self>) -> Pin<Box<dyn Future<Output = ()>>> {
        let number = self.asked.get() + 1;
        self.asked.set(number);
        self.wake();
        let gate = Rc::clone(self);
        Box::pin(async move {
            gate.until(|gate| gate.is_open.get() || gate.let_through.get() >= number).await;
            gate.gone.set(number);
        })
    }

    async fn until(&self, ready: impl Fn(&Self) -> bool) {
        poll_fn(|cx| {
            if ready(self) {
                return Poll::Ready(());
            }
            self.wakers.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Whether somebody stands there.
    fn is_waited_at(&self) -> bool {
        !self.is_open.get() && self.asked.get() > self.let_through.get()
    }

    fn let_one_through(&self) {
        self.let_through.set(self.let_through.get() + 1);
        self.wake();
    }

    fn open(&self) {
        self.is_open.set(true);
        self.wake();
    }
}

/// What all schedules have in common.
struct Rig {
    provider: Provider,
    store: Store,
    vault: Vault,
    egress: Egress,
    config: RunConfig,
    count: ShardCount,
    users: Cell<u32>,
    _directory: tempfile::TempDir,
}

impl Rig {
    fn new(rotation: Rotation) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let count = ShardCount::new(2).expect("a count");
        let store = Store::open(StoreConfig::new(directory.path().join("data"), count)).expect("a store");
        let vault = Vault::open(&store, Keyring::generate().expect("keys")).expect("a vault");
        let provider = Provider::start(rotation);
        let upstream = || UpstreamConfig::new(&provider.base_url);
        let mut egress = EgressConfig::new(PerUpstream {
            openai: upstream(),
            oauth: UpstreamConfig::new(format!("{}/token", provider.base_url)),
            gmail: upstream(),
            calendar: upstream(),
            drive: upstream(),
        });
        egress.retry.attempts_max = 1;
        let mut config = RunConfig::new("sk-test", "model", "client", "secret");
        config.connect.revoke_url = format!("{}/revoke", provider.base_url);
        let egress = Egress::start(egress).expect("the pool");
        Self { provider, store, vault, egress, config, count, users: Cell::new(0), _directory: directory }
    }

    /// A user who is connected, of whom nothing else was ever heard.
    fn account(&self) -> Account {
        self.users.set(self.users.get() + 1);
        let user = UserId::from_bytes(u128::from(self.users.get()).to_be_bytes());
        let account = Account { shard: ShardId::of(&user, self.count), user, slot: 0 };
        let token = format!("{user}-first");
        let sealed = self.vault.seal_blocking(&account.place(), &token).expect("sealed");
        let record = ConnectionRecord::given(user, "me@example.com", sealed, "", 0);
        let mut batch = Batch::new(account.shard);
        batch.put_record(&account.key(), &record).expect("encoded");
        self.store.write_blocking(vec![batch]).expect("written");
        self.provider.begin(&user, &token);
        account
    }

    /// Waits until all that was handed over to the log is written or never will be: a core that has died knows of neither.
    /// The log takes what comes in order, and the second of two writes begins when the first is over.
    fn settle(&self, account: &Account) {
        for _ in 0..2 {
            let mut batch = Batch::new(account.shard);
            // Nobody's.
            batch.delete(&Key::user(&UserId::from_bytes([0xff; 16])));
            self.store.write_blocking(vec![batch]).expect("written");
        }
    }

    fn record(&self, account: &Account) -> ConnectionRecord {
        let loaded = self.store.load_blocking::<ConnectionRecord>(account.shard, &account.key());
        loaded.expect("read").expect("there").to_record()
    }

    fn stored_token(&self, account: &Account) -> String {
        let record = self.record(account);
        self.vault
            .open_blocking(&account.place(), &record.refresh_token)
            .expect("it opens")
            .expose()
            .to_owned()
    }

    /// Runs something on a reactor; when that is over, everything else on it is as well.
    fn on_core<T: 'static, F: Future<Output = T> + 'static>(&self, body: F) -> T {
        let reactor = Reactor::new(ReactorConfig::new(CoreId::new(0))).expect("a reactor");
        reactor.block_on(body).expect("the ring works")
    }

    /// What a core has; to be called on its reactor.
    fn node(parts: (Store, Vault, Egress, RunConfig)) -> Node {
        let (store, vault, egress, config) = parts;
        let (core_store, driver) = CoreStore::detached(&store);
        let gate = Rc::new(Gate::default());
        let own = Rc::clone(&gate);
        sluice_core::spawn(driver.run(move || own.pass()));
        let env = Env::new(core_store, vault, egress, config, Clock::manual(NOW_MS));
        let limits = Arc::new(crate::limit::Limits::new(crate::limit::LimitConfig::default()));
        let limiter = Rc::new(Limiter::new(limits, Arc::default()));
        let (mint, metrics) = (Rc::new(Mint::new()), Arc::default());
        let connections = Connections::new(Means { env: env.clone(), mint, metrics, limiter });
        Node { env, connections, gate }
    }

    fn parts(&self) -> (Store, Vault, Egress, RunConfig) {
        (self.store.clone(), self.vault.clone(), self.egress.clone(), self.config.clone())
    }
}

/// One core.
struct Node {
    env: Env,
    connections: Rc<Connections>,
    gate: Rc<Gate>,
}

/// How somebody's wish ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Token(String),
    Refused(ProblemKind, bool),
    GivenUp,
    Changed,
}

/// A wish under way, with its end once it has one.
type Wish = Rc<RefCell<Option<End>>>;

impl Node {
    fn ask(&self, account: Account) -> Wish {
        let (env, wish) = (self.env.clone(), Wish::default());
        let (end, gate) = (Rc::clone(&wish), Rc::clone(&self.gate));
        sluice_core::spawn(async move {
            let limit = sluice_core::now() + Duration::from_secs(60);
            let token = env.tokens.get(&env, account, limit, limit).await.token;
            *end.borrow_mut() = Some(match token {
                Ok(token) => End::Token(token.expose().to_owned()),
                Err(problem) => End::Refused(problem.kind(), problem.link().is_some()),
            });
            gate.wake();
        });
        wish
    }

    fn give_up(&self, account: Account) -> Wish {
        let (connections, wish) = (Rc::clone(&self.connections), Wish::default());
        let (end, gate) = (Rc::clone(&wish), Rc::clone(&self.gate));
        sluice_core::spawn(async move {
            let id = ConnectionId::from_bytes(*account.user.as_bytes());
            let ended = connections.give_up(account.shard, account.user, Author::gateway(), id).await;
            *end.borrow_mut() = Some(match ended {
                Ok(_) => End::GivenUp,
                Err(problem) => End::Refused(problem.kind(), false),
            });
            gate.wake();
        });
        wish
    }

    async fn ended(&self, wish: &Wish) -> End {
        self.gate.until(|_| wish.borrow().is_some()).await;
        wish.borrow().clone().expect("it has ended")
    }
}

/// A step of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// Somebody needs a token: of the first core, or of the second.
    Ask(usize),
    /// The provider carries out what came first.
    Perform,
    /// The provider's first answer goes.
    Deliver,
    /// A commit that waits is made.
    Commit(usize),
    /// The user gives the account up.
    GiveUp,
    /// The user's consent to more comes back from the provider, without a refresh token.
    Consent,
}

/// Every order of these steps, each once.
fn orders(mut steps: Vec<Step>) -> Vec<Vec<Step>> {
    fn walk(left: &mut Vec<Step>, taken: &mut Vec<Step>, found: &mut BTreeSet<Vec<Step>>) {
        if left.is_empty() {
            found.insert(taken.clone());
        }
        for at in 0..left.len() {
            let step = left.remove(at);
            taken.push(step);
            walk(left, taken, found);
            taken.pop();
            left.insert(at, step);
        }
    }
    let mut found = BTreeSet::new();
    walk(&mut steps, &mut Vec::new(), &mut found);
    found.into_iter().collect()
}

/// Whether there is something for the first deed of the provider and for its first answer: what cannot be is not played.
fn is_possible(order: &[Step]) -> bool {
    let place = |step: Step| order.iter().position(|one| *one == step).unwrap_or(usize::MAX);
    place(Step::Ask(0)) < place(Step::Perform) && place(Step::Perform) < place(Step::Deliver)
}

/// What became of a schedule before it was cut off or let go.
struct Played {
    asked: Vec<Option<End>>,
    given_up: Option<End>,
    consented: Option<End>,
}

/// A schedule being played.
struct Play {
    nodes: [Node; 2],
    provider: Provider,
    account: Account,
    asked: Vec<(usize, Wish)>,
    given_up: Option<Wish>,
    consented: Option<Wish>,
    /// Moves that are sure to come, at once or as soon as the record is not held by another's commit.
    due: usize,
}

impl Play {
    /// How much has happened that can be seen: requests that came, commits that were asked for, wishes that ended.
    fn moves(&self) -> usize {
        let wishes = self.asked.iter().map(|(_, wish)| wish).chain(&self.given_up).chain(&self.consented);
        let ended = wishes.filter(|wish| wish.borrow().is_some()).count();
        let asked: usize = self.nodes.iter().map(|node| node.gate.asked.get()).sum();
        self.provider.book().requests.len() + ended + asked
    }

    fn is_commit_waiting(&self) -> bool {
        self.nodes.iter().any(|node| node.gate.is_waited_at())
    }

    /// Whether everybody has come as far as they can before the next step.
    fn is_quiet(&self) -> bool {
        if self.is_commit_waiting() {
            // Whoever is not at a gate, or held by the provider, waits for the record.
            return true;
        }
        let is_durable = self
            .nodes
            .iter()
            .all(|node| node.gate.gone.get() == node.gate.asked.get() && node.env.store.in_flight() == 0);
        if !is_durable || self.moves() < self.due {
            return false;
        }
        // Whoever gave it up waits for a refresh that is under way, and then turns to the provider.
        let refreshes = self.asked.iter().any(|(core, wish)| *core == 0 && wish.borrow().is_none());
        // So does a consent that is stored.
        if !refreshes && self.consented.as_ref().is_some_and(|wish| wish.borrow().is_none()) {
            return false;
        }
        match &self.given_up {
            Some(wish) if !refreshes => {
                wish.borrow().is_some()
                    || self.provider.book().requests.iter().any(|held| held.path == "/revoke")
            }
            _ => true,
        }
    }

    /// Looks again and again: what is waited for is sure to come.
    async fn until(&self, ready: impl Fn(&Self) -> bool) {
        while !ready(self) {
            sluice_core::sleep(Duration::from_micros(200)).await;
        }
    }

    async fn step(&mut self, step: Step) {
        let moves = self.moves();
        match step {
            Step::Ask(core) => {
                let joins = self.asked.iter().any(|(of, wish)| *of == core && wish.borrow().is_none());
                self.asked.push((core, self.nodes[core].ask(self.account)));
                if joins {
                    // It waits for the refresh that is under way, from when it was first looked at.
                    sluice_core::quiesce().await;
                } else {
                    self.due = moves.max(self.due) + 1;
                }
            }
            Step::Perform => self.provider.perform(),
            Step::Deliver => {
                if self.provider.deliver() {
                    self.due = moves.max(self.due) + 1;
                }
            }
            Step::Commit(core) => {
                let gate = &self.nodes[core].gate;
                if gate.is_waited_at() {
                    gate.let_one_through();
                }
            }
            Step::GiveUp => {
                self.due = moves.max(self.due) + 1;
                self.given_up = Some(self.nodes[0].give_up(self.account));
            }
            Step::Consent => {
                self.due = moves.max(self.due) + 1;
                self.consented = Some(self.nodes[0].consent(self.account));
            }
        }
        self.until(Self::is_quiet).await;
    }

    /// Holds nothing back any more, and waits for the end of all that was wished for.
    async fn let_go(&self) {
        self.provider.open();
        self.nodes.iter().for_each(|node| node.gate.open());
        for (core, wish) in &self.asked {
            self.nodes[*core].ended(wish).await;
        }
        for wish in self.given_up.iter().chain(&self.consented) {
            self.nodes[0].ended(wish).await;
        }
    }
}

/// Plays a schedule. Steps that there is nothing for, such as a commit when none waits, do nothing. A crash leaves everything as
/// it is then.
async fn play(
    parts: (Store, Vault, Egress, RunConfig),
    provider: Provider,
    account: Account,
    steps: Vec<Step>,
    crashes: bool,
) -> Played {
    let nodes = [Rig::node(parts.clone()), Rig::node(parts)];
    let mut play =
        Play { nodes, provider, account, asked: Vec::new(), given_up: None, consented: None, due: 0 };
    for step in steps {
        play.step(step).await;
    }
    if !crashes {
        play.let_go().await;
    }
    Played {
        asked: play.asked.iter().map(|(_, wish)| wish.borrow().clone()).collect(),
        given_up: play.given_up.as_ref().and_then(|wish| wish.borrow().clone()),
        consented: play.consented.as_ref().and_then(|wish| wish.borrow().clone()),
    }
}

/// How often each outcome was met.
#[derive(Debug, Default)]
struct Tally {
    schedules: usize,
    works: usize,
    revoked: usize,
    /// The provider ended the old token, and the new one died with the process.
    mendable: usize,
}

impl Rig {
    /// Plays a schedule, cut off by a crash or not, and looks at what is left of the account.
    fn check(&self, steps: &[Step], crashes: bool, tally: &mut Tally) {
        let account = self.account();
        let said = format!("{steps:?}{}", if crashes { ", crash" } else { "" });
        let (parts, provider) = (self.parts(), self.provider.clone());
        let played = self.on_core(play(parts, provider, account, steps.to_vec(), crashes));
        self.settle(&account);
        self.provider.end();
        let is_given_up = played.given_up.is_some();
        for end in played.asked.iter().flatten() {
            match end {
                End::Token(_) => {}
                End::Refused(ProblemKind::NotConnected, _) => {
                    assert!(steps.contains(&Step::GiveUp), "{said}: it was not given up");
                }
                // Of two cores, one may meet what the other has not written yet.
                End::Refused(ProblemKind::NeedsReauth, has_link) if steps.contains(&Step::Ask(1)) => {
                    assert!(has_link, "{said}: it does not say how it is mended");
                }
                other => panic!("{said}: {other:?}"),
            }
        }
        // The core lives (again), and nothing is held any more.
        self.provider.open();
        let before = self.record(&account);
        let was_marked = matches!(before.state, ConnectionState::Revoking | ConnectionState::Revoked);
        assert!(was_marked || !is_given_up, "{said}: the promise to give it up is forgotten");
        if let Some(end) = played.consented {
            assert_eq!(end, End::Changed, "{said}");
            consents::assert_stored(&before, &said);
        }
        let is_behind = before.state != ConnectionState::Revoked
            && !self.provider.live(&account.user).contains(&self.stored_token(&account));
        let parts = self.parts();
        let end = self.on_core(async move {
            let node = Self::node(parts);
            node.gate.open();
            node.connections.tell_all(&[account.shard]).await;
            let wish = node.ask(account);
            node.ended(&wish).await
        });
        let after = self.record(&account);
        tally.schedules += 1;
        match end {
            End::Token(token) => {
                assert!(!was_marked, "{said}: it was given up, and is used");
                assert!(
                    self.provider.book().access.contains_key(&token),
                    "{said}: the token is good for nothing"
                );
                assert_eq!(after.state, ConnectionState::Active, "{said}");
                tally.works += 1;
            }
            End::Refused(ProblemKind::NotConnected, _) => {
                assert!(was_marked, "{said}: the connection is lost");
                assert_eq!(after.state, ConnectionState::Revoked, "{said}");
                let live = self.provider.live(&account.user);
                assert!(live.is_empty() || is_behind, "{said}: {live:?} are still good");
                assert_eq!(self.stored_token(&account), "", "{said}: the token is kept");
                tally.revoked += 1;
            }
            End::Refused(ProblemKind::NeedsReauth, has_link) => {
                assert!(is_behind && crashes, "{said}: the connection is lost");
                assert!(has_link, "{said}: it does not say how it is mended");
                assert_eq!(after.state, ConnectionState::NeedsReauth, "{said}");
                tally.mendable += 1;
            }
            other => panic!("{said}: {other:?}"),
        }
    }

    /// Every order of the steps, whole and cut off by a crash after each of them; orders that begin alike up to
    /// the crash once.
    fn check_all(&self, steps: &[Step]) -> Tally {
        let mut tally = Tally::default();
        let mut cut = BTreeSet::new();
        for order in orders(steps.to_vec()).into_iter().filter(|order| is_possible(order)) {
            self.check(&order, false, &mut tally);
            for length in 1..=order.len() {
                if cut.insert(order[..length].to_vec()) {
                    self.check(&order[..length], true, &mut tally);
                }
            }
        }
        println!("{tally:?}");
        tally
    }
}

const REFRESH: [Step; 4] = [Step::Ask(0), Step::Perform, Step::Deliver, Step::Commit(0)];

#[test]
fn whoever_asks_again_to_give_an_account_up_has_google_asked_nothing_more() {
    let mut rig = Rig::new(Rotation::Overlapping);
    let patience = std::mem::replace(&mut rig.config.call_timeout, Duration::from_secs(1));
    let (account, provider) = (rig.account(), rig.provider.clone());
    provider.book().is_down = true;
    provider.open();
    let (parts, asked) = (rig.parts(), provider.clone());
    rig.on_core(async move {
        let node = Rig::node(parts);
        node.gate.open();
        assert_eq!(node.ended(&node.give_up(account)).await, End::GivenUp);
        let before = asked.book().requests.len();
        assert!(before > 0, "Google is told once");
        for _ in 0..3 {
            assert_eq!(node.ended(&node.give_up(account)).await, End::GivenUp);
        }
        assert_eq!(asked.book().requests.len(), before);
    });
    assert_eq!(rig.record(&account).state, ConnectionState::Revoking);
    // Who tells again and again tells it when it can be told.
    provider.book().is_down = false;
    rig.config.call_timeout = patience;
    let parts = rig.parts();
    rig.on_core(async move {
        let node = Rig::node(parts);
        node.gate.open();
        node.connections.tell_all(&[account.shard]).await;
    });
    assert_eq!(rig.record(&account).state, ConnectionState::Revoked);
}

/// Operators work on threads of their own, and have no turn.
#[test]
fn an_account_that_an_operator_connects_while_google_is_told_that_it_is_given_up_stays() {
    let rig = Rig::new(Rotation::Overlapping);
    let account = rig.account();
    let (parts, provider, store) = (rig.parts(), rig.provider.clone(), rig.store.clone());
    let sealed = rig.vault.seal_blocking(&account.place(), "given").expect("sealed");
    let ended = rig.on_core(async move {
        let node = Rig::node(parts);
        node.gate.open();
        let wish = node.give_up(account);
        while provider.oldest(|stage| matches!(stage, Stage::Arrived)).is_none() {
            sluice_core::sleep(Duration::from_micros(200)).await;
        }
        let record = ConnectionRecord::given(account.user, "me@example.com", sealed, "", NOW_MS);
        let mut batch = Batch::new(account.shard);
        batch.put_record(&account.key(), &record).expect("encoded");
        store.write_blocking(vec![batch]).expect("written");
        provider.open();
        node.ended(&wish).await
    });
    assert_eq!(ended, End::GivenUp);
    assert_eq!(
        (rig.record(&account).state, &*rig.stored_token(&account)),
        (ConnectionState::Active, "given")
    );
}

#[test]
fn two_who_need_a_token_at_once_cost_one_refresh_and_a_crash_at_any_point_loses_nothing() {
    let rig = Rig::new(Rotation::Overlapping);
    let mut steps = REFRESH.to_vec();
    steps.push(Step::Ask(0));
    let tally = rig.check_all(&steps);
    assert!(tally.works == tally.schedules && tally.schedules > 30, "{tally:?}");
}

#[test]
fn where_the_provider_ends_the_old_token_at_once_a_crash_in_between_is_told_and_can_be_mended() {
    let rig = Rig::new(Rotation::Strict);
    let tally = rig.check_all(&REFRESH);
    // Between the provider's deed and the commit nobody has the token but the process that dies.
    assert!(tally.mendable > 0 && tally.works > tally.mendable, "{tally:?}");
    assert_eq!(tally.works + tally.mendable, tally.schedules);
}

#[test]
fn an_account_given_up_while_it_is_refreshed_is_revoked_by_the_token_that_is_good_by_then() {
    for rotation in [Rotation::Overlapping, Rotation::Strict] {
        let rig = Rig::new(rotation);
        let mut steps = REFRESH.to_vec();
        // It takes a commit of its own.
        steps.extend([Step::GiveUp, Step::Commit(0)]);
        let tally = rig.check_all(&steps);
        assert!(tally.revoked > 20 && tally.works > 0, "{tally:?}");
        assert!(rotation == Rotation::Strict || tally.mendable == 0, "{tally:?}");
    }
}

#[test]
fn two_cores_that_both_refresh_an_account_end_with_one_that_works() {
    for rotation in [Rotation::Overlapping, Rotation::Strict] {
        let rig = Rig::new(rotation);
        let steps = [
            Step::Ask(0),
            Step::Ask(1),
            Step::Perform,
            Step::Perform,
            Step::Deliver,
            Step::Deliver,
            Step::Commit(0),
        ];
        let mut tally = Tally::default();
        for order in orders(steps.to_vec()).into_iter().filter(|order| is_possible(order)) {
            rig.check(&order, false, &mut tally);
        }
        println!("{rotation:?}: {tally:?}");
        assert!(tally.works == tally.schedules && tally.schedules > 50, "{tally:?}");
    }
}

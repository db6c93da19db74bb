//! One core's service: takes requests from the ingress and from the other cores, and answers them.
//!
//! ```text
//! admit: route and method -> take the body, or refuse at once
//! call:  whose key?   -> ours: believed key -> may they? -> answer
//!                              other key    -> check it in the store, then the same
//!                     -> another core's: one hop over the mailbox, and the answer back with Alt-Svc
//!        whose token? -> believed, or check it here; then as above, with what was proven
//! ```
//! Invariants:
//! - requests in a user's name are served by the core that owns the user's shard, and by no other;
//! - a core serves nobody before it has taken up its pending tasks, so that old commands come before new ones;
//! - nothing here blocks, and no borrow is held over a wait.

mod callers;

use std::cell::{OnceCell, RefCell};
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hashbrown::HashSet;
use sluice_core::CoreId;
use sluice_core::mailbox::Delivery;
use sluice_net::egress::Egress;
use sluice_net::{Admit, Answer, Request, Responder, Service};
use sluice_protocols::access::Access;
use sluice_protocols::api::{BATCH_BODY_BYTES_MAX, WAIT_MAX};
use sluice_protocols::google::rest::{self, Endpoint};
use sluice_protocols::http::{RequestHead, Response};
use sluice_protocols::ids::{ShardId, UserId};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_protocols::workflow::DEFINITION_BYTES_MAX;
use sluice_store::{CoreStore, ReadError, Store, Vault};

use crate::admin::{Admin, Forget, TASKS_MAX};
use crate::audit::refused::Refusals;
use crate::audit::{Actor, Author};
use crate::auth::activity::Activity;
use crate::auth::clerk::Clerk;
use crate::auth::{
    self, Browsers, Keys, Passed, Principal, Revocations, Standing, StandingMeans, Tokens, Welcomed,
};
use crate::clock::Clock;
use crate::config::ShardConfig;
use crate::connections::{self, Connections};
use crate::context::Shelves;
use crate::cursor::Cursors;
use crate::env::Env;
use crate::limit::{Class, Limiter, Refused};
use crate::metrics::{CoreMetrics, CoreState, Metrics, RouteLabel};
use crate::mint::Mint;
use crate::peer::{PeerEnd, PeerMesh, PeerRequest};
use crate::placement::Placement;
use crate::routes::exchange::{Context, Exchange};
use crate::routes::{
    self, Account, Action, BodyKind, Route, Target, batch, browser, cache, command, connection, context,
    dead, docs, events, export, google, health, history, intents, keyed, keys, preferences, session, task,
    users, webhook, workflow,
};
use crate::sessions::Sessions;
use crate::signal::Signal;
use crate::tasks::queue::{Queue, QueueLimits};
use crate::tasks::{Means, Runner, Tasks};
use crate::webhooks::{self, Webhooks};

/// What is asked for, and who may.
type Asked = (Access, Target);

/// How a request came to this core.
enum Way {
    /// From its client.
    Direct,
    /// From another core, which has checked nothing.
    Hopped,
    /// From another core, which has proven who asks.
    Proven(Box<Passed>),
}

/// How long clients may remember the owner's own port, in seconds.
const ALT_SVC_AGE_S: u32 = 3_600;

/// What a core's service is made of.
pub struct CoreParts {
    /// Which core this is.
    pub core: CoreId,
    /// How many there are.
    pub cores: usize,
    /// The store all cores share.
    pub store: Store,
    /// The vault of that store.
    pub vault: Vault,
    /// The egress pool; the service uses this core's mailbox to it.
    pub egress: Egress,
    /// Settings, the same for all cores.
    pub config: Arc<ShardConfig>,
    /// This core's ends of the mailboxes ([`crate::peer::mesh`]).
    pub peers: PeerEnd,
    /// Operations on accounts, the same for all cores.
    pub admin: Admin,
    /// Counters of the process.
    pub metrics: Arc<Metrics>,
    /// The own port of each core, for `Alt-Svc`; empty when cores have none.
    pub alt_svc_ports: Vec<u16>,
}

/// The service of one core. Lives on its reactor's thread.
pub struct CoreService {
    core: Rc<Core>,
}

/// What the routes of one core share.
pub(crate) struct Core {
    id: CoreId,
    pub(crate) config: Arc<ShardConfig>,
    placement: Placement,
    keys: Keys,
    tokens: Tokens,
    welcomed: Welcomed,
    pub(crate) browsers: Browsers,
    revocations: Arc<Revocations>,
    pub(crate) activity: Rc<Activity>,
    /// For operations on accounts, which block.
    pub(crate) clerk: Clerk,
    pub(crate) sessions: Rc<Sessions>,
    pub(crate) tasks: Rc<Tasks>,
    pub(crate) webhooks: Rc<Webhooks>,
    pub(crate) connections: Rc<Connections>,
    pub(crate) mint: Rc<Mint>,
    pub(crate) clock: Clock,
    /// For calls to Google that are no task's.
    pub(crate) env: Env,
    pub(crate) calls: Rc<google::Calls>,
    pub(crate) transfers: google::Transfers,
    pub(crate) shelves: Rc<Shelves>,
    pub(crate) store: CoreStore,
    pub(crate) limiter: Rc<Limiter>,
    /// Users whose workflows are being changed.
    pub(crate) workflows_held: RefCell<HashSet<UserId, foldhash::fast::RandomState>>,
    /// Which refused acts of administration are told.
    refusals: Refusals,
    mesh: OnceCell<PeerMesh>,
    all_metrics: Arc<Metrics>,
    metrics: Arc<CoreMetrics>,
    /// `Alt-Svc` values by core.
    alt_svc: Vec<String>,
    pub(crate) event_streams: events::Streams,
    recovered: Rc<Signal<()>>,
    pub(crate) cursors: Cursors,
}

impl CoreService {
    /// Starts the service on the calling thread's reactor: attaches the mailboxes and takes up the pending tasks
    /// of the shards this core owns.
    ///
    /// # Panics
    /// Outside a reactor, or when `parts` are of different cores.
    pub fn start(parts: CoreParts) -> Rc<Self> {
        let store = CoreStore::new(&parts.store);
        let clock = Clock::system();
        let egress = parts.egress.for_core(parts.core.index());
        let stats = parts.metrics.core(parts.core).env();
        parts.metrics.show_quotas(&parts.config.run.quotas);
        let env = Env::counting(store, parts.vault.clone(), egress, parts.config.run.clone(), clock, stats);
        let runner = Box::new(env.clone());
        Self::start_in(parts, env, runner)
    }

    /// As [`Self::start`], with a clock and a runner of the caller's.
    pub fn start_with(parts: CoreParts, store: CoreStore, clock: Clock, runner: Box<dyn Runner>) -> Rc<Self> {
        let egress = parts.egress.for_core(parts.core.index());
        let env = Env::new(store, parts.vault.clone(), egress, parts.config.run.clone(), clock);
        Self::start_in(parts, env, runner)
    }

    fn start_in(parts: CoreParts, env: Env, runner: Box<dyn Runner>) -> Rc<Self> {
        assert_eq!(parts.peers.core(), parts.core, "the mailboxes are another core's");
        parts.metrics.show_limits(&parts.config.limits);
        let core = Rc::new(Core::new(&parts, env, runner));
        let weak = Rc::downgrade(&core);
        let stats = Arc::clone(core.metrics.mailbox());
        let mesh = parts.peers.attach(stats, move |delivery| receive(&weak, delivery));
        assert!(core.mesh.set(mesh).is_ok(), "attached once");
        sluice_core::spawn(forget_when_asked(Rc::downgrade(&core), parts.admin.attach()));
        let recovering = Rc::clone(&core);
        sluice_core::spawn(async move { recovering.recover().await });
        Rc::new(Self { core })
    }

    /// Waits until the pending tasks are taken up and the core serves.
    pub async fn ready(&self) {
        self.core.recovered.wait().await;
    }

    /// Whether the core serves.
    pub fn is_ready(&self) -> bool {
        self.core.metrics.state() == CoreState::Ready
    }

    /// Refuses new commands from now on, starts no waiting task, and waits until `deadline` for those that run.
    /// What is left is on disk and is taken up by the next start. Gives the number of tasks that were still running.
    pub async fn drain(&self, deadline: Instant) -> usize {
        let core = &self.core;
        core.metrics.state.set_draining();
        let left = core.tasks.drain(deadline).await;
        core.webhooks.drain(deadline).await;
        core.limiter.save_all(&core.store, &core.clock).await;
        left
    }
}

impl Core {
    fn new(parts: &CoreParts, env: Env, runner: Box<dyn Runner>) -> Self {
        let (store, clock) = (env.store.clone(), env.clock.clone());
        let config = &parts.config;
        let metrics = Arc::clone(parts.metrics.core(parts.core));
        let limits = QueueLimits {
            queued_max: config.tasks_queued_max,
            running_max: config.tasks_running_max,
            running_per_user_max: config.tasks_running_per_user_max,
        };
        let queue = Rc::new(RefCell::new(Queue::new(limits)));
        let mint = Rc::new(Mint::new());
        let sessions = Rc::new(Sessions::new(
            config,
            store.clone(),
            clock.clone(),
            Rc::clone(&queue),
            Rc::clone(&mint),
            Arc::clone(&metrics),
        ));
        let webhooks = Webhooks::new(
            &config.webhooks,
            webhooks::Means {
                store: store.clone(),
                vault: env.vault.clone(),
                egress: env.egress.clone(),
                clock: clock.clone(),
                mint: Rc::clone(&mint),
                metrics: Arc::clone(&metrics),
            },
        );
        assert!(env.webhooks.set(Rc::downgrade(&webhooks)).is_ok(), "set once");
        let limiter = Rc::new(Limiter::new(Arc::clone(&config.limits), Arc::clone(metrics.limits())));
        let connections = Connections::new(connections::Means {
            env: env.clone(),
            mint: Rc::clone(&mint),
            metrics: Arc::clone(&metrics),
            limiter: Rc::clone(&limiter),
        });
        let means = Means {
            store: store.clone(),
            clock: clock.clone(),
            mint: Rc::clone(&mint),
            metrics: Arc::clone(&metrics),
            watches: Rc::clone(&env.watches),
            webhooks: Rc::clone(&webhooks),
        };
        let shelves = Shelves::new(store.clone(), clock.clone(), Arc::clone(&metrics), config.context);
        let tasks = Tasks::new(config, queue, Rc::clone(&sessions), runner, means);
        let alt_svc = parts.alt_svc_ports.iter().map(|port| format!("h3=\":{port}\"; ma={ALT_SVC_AGE_S}"));
        Self {
            id: parts.core,
            config: Arc::clone(config),
            placement: Placement::dealt(parts.store.shard_count(), parts.cores),
            keys: Keys::new(config),
            tokens: Tokens::new(config),
            welcomed: Welcomed::new(config),
            browsers: Browsers::new(config),
            revocations: Arc::clone(parts.admin.revocations()),
            activity: Activity::new(),
            clerk: Clerk::new(parts.admin.clone(), parts.egress.runtime()),
            sessions,
            tasks,
            webhooks,
            connections,
            mint,
            clock,
            env,
            calls: Rc::new(google::Calls::new(config.tasks_running_max, config.tasks_running_per_user_max)),
            transfers: google::Transfers::new(config.run.transfer.at_once_max),
            shelves: Rc::new(shelves),
            store,
            limiter,
            workflows_held: RefCell::default(),
            refusals: Refusals::default(),
            mesh: OnceCell::new(),
            all_metrics: Arc::clone(&parts.metrics),
            metrics,
            alt_svc: alt_svc.collect(),
            event_streams: events::Streams::new(config.waits_max),
            recovered: Signal::new(),
            cursors: Cursors::new(config.node_secret),
        }
    }

    async fn recover(&self) {
        let shards: Vec<_> = self.placement.owned_by(self.id).collect();
        // Before the tasks, whose ends are told.
        self.webhooks.recover(&shards).await;
        self.tasks.recover(shards.clone(), &self.mint).await;
        sluice_core::spawn(Rc::clone(&self.tasks).keep_swept(shards.clone()));
        sluice_core::spawn(Rc::clone(&self.connections).keep_telling(shards.clone()));
        sluice_core::spawn(Rc::clone(&self.shelves).keep_swept(shards));
        self.metrics.state.set_ready();
        self.recovered.set(());
    }

    /// Forgets a user who is being erased: their tasks end, and nothing of them is kept in memory.
    async fn forget(self: &Rc<Self>, user: UserId) {
        // A core that starts may still take up tasks of theirs.
        self.recovered.wait().await;
        let limit = sluice_core::now() + TASKS_MAX;
        let have_ended = self.tasks.end_all_of(user, limit).await;
        self.forget_at_once(user);
        if !have_ended {
            // A task that still runs brings things up again; when it has ended nothing does.
            let core = Rc::clone(self);
            sluice_core::spawn(async move {
                let limit = sluice_core::now() + core.hop_timeout();
                core.tasks.end_all_of(user, limit).await;
                core.forget_at_once(user);
            });
        }
    }

    fn forget_at_once(&self, user: UserId) {
        self.keys.forget(&user);
        self.tokens.forget(&user);
        self.welcomed.forget(&user);
        self.browsers.forget(&user);
        self.activity.forget_user(&user);
        self.sessions.forget_user(user);
        self.env.reads.forget(user);
        self.env.tokens.forget(&user);
        self.env.preferences.forget(user);
        self.env.vault.forget(&user);
        self.webhooks.forget_user(&user);
    }

    /// The shard that keeps a user.
    pub(crate) fn shard_of(&self, user: &UserId) -> ShardId {
        self.placement.shard_of(user)
    }

    /// Whether somebody may be told more of what they are told for long.
    ///
    /// # Errors
    /// The storage's: it cannot be told.
    pub(crate) async fn holds(&self, standing: &Standing<'_>) -> Result<bool, ReadError> {
        let means = StandingMeans { keys: self.key_means(), browsers: &self.browsers, tokens: &self.tokens };
        standing.holds(means).await
    }

    pub(crate) fn metrics(&self) -> &CoreMetrics {
        &self.metrics
    }

    fn context(&self, head: &RequestHead, route: RouteLabel, arrived: Instant) -> Context {
        Context::new(head, route, arrived, &self.mint, &self.metrics)
    }

    /// Answers a whole request, or passes it on.
    fn serve(self: &Rc<Self>, request: Request, responder: Responder, arrived: Instant, way: Way) {
        let head = &request.head;
        let action = find_action(head);
        let label = action.as_ref().map_or(RouteLabel::Other, |action| action.label());
        let mut exchange = Exchange::new(self.context(head, label, arrived), responder);
        let action = match action {
            Ok(action) => action,
            Err(refusal) => {
                let response = refusal.into_response(&exchange.context);
                return exchange.reply(response);
            }
        };
        if request.may_be_replay() && !(head.method().is_safe() && action.is_repeatable()) {
            let detail = "send the request again when the handshake is complete";
            return exchange.refuse(Problem::new(ProblemKind::TooEarly, detail));
        }
        match action {
            Action::Livez => exchange.reply(health::livez()),
            Action::Readyz => exchange.reply(health::readyz(&self.all_metrics, head)),
            Action::Metrics => exchange.reply(health::page(&self.all_metrics)),
            Action::OpenApi => exchange.reply(health::openapi()),
            Action::Docs => exchange.reply(docs::docs(head)),
            Action::Options => exchange.reply(options(head)),
            Action::Browser(browser::Ask::Page) => exchange.reply(browser::sign_in_page(200, None)),
            Action::Browser(browser::Ask::Form) => {
                exchange.context.answer_people();
                let asked = (action.access(), Target::Browser(browser::Wish::Form));
                match browser::signed(request) {
                    Ok(request) => self.serve_user(asked, request, exchange, way),
                    Err(problem) => exchange.refuse(problem),
                }
            }
            Action::Consent(visit) => {
                let checked = connection::check(&self.env.links, visit, head);
                self.serve_browser(checked, request, exchange, way);
            }
            _ => match action.target() {
                Some(target) => self.serve_user((action.access(), target), request, exchange, way),
                None => exchange.refuse(Problem::new(ProblemKind::NotFound, "this is no id")),
            },
        }
    }

    /// Answers a browser that comes by while its user connects an account, or passes it on to the user's core.
    fn serve_browser(
        self: &Rc<Self>,
        checked: connection::Checked,
        request: Request,
        exchange: Exchange,
        way: Way,
    ) {
        let (user, step) = match checked {
            connection::Checked::Of(user, step) => (user, step),
            connection::Checked::Wrong(why) => {
                return exchange.reply(self.connections.refused(400, "This link does not work", why));
            }
        };
        let shard = self.placement.shard_of(&user);
        let owner = self.placement.owner(shard);
        if owner != self.id {
            return self.pass_on(owner, request, exchange, way, None);
        }
        if self.metrics.state() == CoreState::Starting {
            let why = "The service is starting. Try it again in a moment.";
            return exchange.reply(self.connections.refused(503, "Not now", why));
        }
        let core = Rc::clone(self);
        sluice_core::spawn(async move {
            let (actor, request_id) = (Actor::User(user), exchange.context.request_id());
            let author = Author::of_request(actor, request.peer.ip(), request_id);
            let answer = core.connections.serve(shard, user, step, &request.head, author).await;
            exchange.reply(answer);
        });
    }

    /// Does what an authenticated user of this core asks for, if they may.
    fn perform(self: &Rc<Self>, asked: Asked, who: Rc<Principal>, request: Request, mut exchange: Exchange) {
        let (access, target) = asked;
        let now_ns = self.limiter.limits().ns(sluice_core::now());
        match self.limiter.enter(who.who(), target.class(), now_ns) {
            Ok(entered) => exchange.entered(entered),
            Err(refused) => {
                // What is used beyond a limit that was lowered may be new by it.
                self.keep_saved();
                return exchange.limited(&refused);
            }
        }
        self.keep_saved();
        if let Err(forbidden) = access.check(who.role, who.scopes) {
            self.metrics.requests_forbidden.add(1);
            let problem = Problem::new(ProblemKind::Forbidden, forbidden.to_string());
            return self.forbid(&asked, Actor::User(who.user), request.peer.ip(), exchange, problem);
        }
        if let Some(problem) = self.not_serving(target) {
            return exchange.refuse(problem);
        }
        if let Some(problem) = target.body().and_then(|kind| self.unfit_body(&request.head, kind)) {
            return exchange.refuse(problem);
        }
        if self.activity.note(&self.store, &who, self.clock.unix_ms()) {
            self.metrics.activity_skipped.add(1);
        }
        let core = Rc::clone(self);
        match target {
            Target::Command => {
                if cache::asks_anew(&request.head) {
                    // What is read for it from here on is newer than the wish.
                    self.env.reads.forget(who.user);
                }
                sluice_core::spawn(command::serve(core, exchange, who, request));
            }
            Target::Commands => {
                let key = keyed::key_of(&request.head);
                sluice_core::spawn(batch::serve(core, exchange, who, key, request.body));
            }
            Target::TaskList
            | Target::TaskCancel(_)
            | Target::TaskConfirm(_)
            | Target::DeadList
            | Target::DeadGet(_)
            | Target::DeadEdit(_)
            | Target::DeadPurge(_)
            | Target::DeadRedrive(_)
            | Target::SessionList
            | Target::SessionBegin
            | Target::PreferencesGet
            | Target::PreferencesPatch
            | Target::History => {
                sluice_core::spawn(async move {
                    let result = core.manage(target, &who, &request).await;
                    settle(exchange, result);
                });
            }
            Target::Workflows { .. } => {
                sluice_core::spawn(workflow::serve(core, exchange, who, request));
            }
            Target::Context { .. } => {
                sluice_core::spawn(context::serve(core, exchange, who, request));
            }
            Target::Webhooks { .. } => {
                sluice_core::spawn(async move {
                    let result = webhook::serve(&core, &who, &request).await;
                    settle(exchange, result);
                });
            }
            Target::Browser(wish) => {
                sluice_core::spawn(async move {
                    let context = &exchange.context;
                    let author =
                        Author::of_request(Actor::User(who.user), request.peer.ip(), context.request_id());
                    let result = browser::serve(&core, &who, author, wish, &request).await;
                    settle(exchange, result);
                });
            }
            Target::Connections { .. } => {
                sluice_core::spawn(async move {
                    let author = Author::of_request(
                        Actor::User(who.user),
                        request.peer.ip(),
                        exchange.context.request_id(),
                    );
                    let result = connection::serve(&core, &who, author, &request).await;
                    settle(exchange, result);
                });
            }
            Target::CacheInvalidate => {
                settle(exchange, cache::invalidate(&self.env.reads, &who, &request.body));
            }
            Target::Export(whose) => {
                let author = Author::of_request(
                    Actor::User(who.user),
                    request.peer.ip(),
                    exchange.context.request_id(),
                );
                sluice_core::spawn(export::serve(core, exchange, who, author, whose, request.head));
            }
            Target::Account(account) => {
                sluice_core::spawn(async move {
                    let author = Author::of_request(
                        Actor::User(who.user),
                        request.peer.ip(),
                        exchange.context.request_id(),
                    );
                    let result = core.keep(account, &who, author, &request).await;
                    settle(exchange, result);
                });
            }
            Target::IntentParse => {
                sluice_core::spawn(async move {
                    let result = intents::parse(&core, &who, &request.body).await;
                    settle(exchange, result);
                });
            }
            Target::TaskGet(id) => {
                let wait = task::wait_of(&request.head);
                if let Some(response) = task::get_recent(&self.tasks, &who, id, wait) {
                    return exchange.reply(response);
                }
                sluice_core::spawn(async move {
                    let result = task::get(&core, &who, id, wait).await;
                    settle(exchange, result);
                });
            }
            Target::TaskEvents(id) => {
                let seen = events::last_seen(&request.head);
                sluice_core::spawn(events::serve(core, exchange, who, id, seen));
            }
            Target::SessionGet(id) => {
                if let Some(response) = session::get_cached(&self.sessions, &who, id) {
                    return exchange.reply(response);
                }
                sluice_core::spawn(async move {
                    let result = session::get(&core.sessions, &who, id).await;
                    settle(exchange, result);
                });
            }
            Target::SessionDelete(id) => {
                sluice_core::spawn(async move {
                    let result = session::delete(&core.sessions, &who, id).await;
                    settle(exchange, result);
                });
            }
            Target::Google(endpoint) => {
                sluice_core::spawn(async move {
                    match google::serve(&core, &who, endpoint, request).await {
                        Ok(answer) => exchange.answer(answer),
                        Err(problem) => exchange.refuse(problem),
                    }
                });
            }
        }
    }

    /// Has what users have used written, where somebody has.
    fn keep_saved(&self) {
        if self.limiter.wants_saving() {
            let saving = Rc::clone(&self.limiter).keep_saved(self.store.clone(), self.clock.clone());
            sluice_core::spawn(saving);
        }
    }

    /// Lists and changes of what is kept of commands, and of preferences.
    async fn manage(&self, target: Target, who: &Principal, request: &Request) -> Result<Response, Problem> {
        let query = request.head.query();
        match target {
            Target::TaskList => task::list(&self.tasks, &self.cursors, who, query).await,
            Target::TaskCancel(id) => task::cancel(&self.tasks, who, id).await,
            Target::TaskConfirm(id) => task::confirm(&self.tasks, who, id).await,
            Target::DeadList => dead::list(&self.tasks, &self.cursors, who, query).await,
            Target::DeadGet(id) => dead::get(&self.tasks, who, id).await,
            Target::DeadEdit(id) => dead::edit(&self.tasks, who, id, &request.body).await,
            Target::DeadPurge(id) => dead::purge(&self.tasks, who, id).await,
            Target::DeadRedrive(id) => dead::redrive(&self.tasks, who, id).await,
            Target::SessionList => session::list(&self.sessions, &self.cursors, who, &request.head).await,
            Target::SessionBegin => session::begin(&self.sessions, who).await,
            Target::PreferencesGet => preferences::get(self, who, &request.head).await,
            Target::PreferencesPatch => preferences::patch(self, who, request).await,
            Target::History => history::list(self, who, &request.head).await,
            Target::Command
            | Target::Commands
            | Target::CacheInvalidate
            | Target::Workflows { .. }
            | Target::Context { .. }
            | Target::Webhooks { .. }
            | Target::Browser(_)
            | Target::Connections { .. }
            | Target::IntentParse
            | Target::Account(_)
            | Target::Export(_)
            | Target::TaskGet(_)
            | Target::TaskEvents(_)
            | Target::SessionGet(_)
            | Target::SessionDelete(_)
            | Target::Google(_) => Err(Problem::new(ProblemKind::Internal, "the request lost its way")),
        }
    }

    /// Keys and users.
    async fn keep(
        &self,
        account: Account,
        who: &Principal,
        author: Author,
        request: &Request,
    ) -> Result<Response, Problem> {
        let (body, query) = (&request.body, request.head.query());
        match account {
            Account::KeyList => keys::list(self, who).await,
            Account::KeyMake => keys::make(self, who, author, body).await,
            Account::KeyGet(id) => keys::get(self, who, id).await,
            Account::KeyEdit(id) => keys::edit(self, who, author, id, body).await,
            Account::KeyRevoke(id) => keys::revoke(self, who, author, id).await,
            Account::UserList => users::list(self, who, query).await,
            Account::UserMake => users::make(self, author, body).await,
            Account::Me => users::get(self, who.user).await,
            Account::UserGet(id) => users::get(self, id).await,
            Account::UserEdit(id) => users::edit(self, who, author, id, body).await,
            Account::UserDisable(id) => users::disable(self, who, author, id).await,
            Account::UserErase(id) => users::erase(self, who, author, id, body).await,
        }
    }

    /// Why this core does not do that now.
    fn not_serving(&self, target: Target) -> Option<Problem> {
        match self.metrics.state() {
            CoreState::Ready => None,
            CoreState::Starting => {
                let detail = "the server is starting and takes up earlier commands first";
                Some(Problem::new(ProblemKind::Overloaded, detail).with_retry_after_s(1))
            }
            CoreState::Draining if target.makes_work() => {
                let detail = "the server is shutting down and takes no new work";
                Some(Problem::new(ProblemKind::ShuttingDown, detail).with_retry_after_s(5))
            }
            CoreState::Draining => None,
        }
    }

    /// What can be told to be wrong with a command before its body is read.
    fn unfit_body(&self, head: &RequestHead, kind: BodyKind) -> Option<Problem> {
        let content_type = head.header("content-type");
        let is_patch = || kind == BodyKind::Edit && routes::is_merge_patch(content_type);
        if !routes::is_json(content_type) && !is_patch() {
            let detail = "the body of a command is JSON: send content-type: application/json";
            return Some(Problem::new(ProblemKind::UnsupportedMediaType, detail));
        }
        let bytes_max = self.body_bytes_max(kind);
        let announced = head.content_length().unwrap_or(0);
        (announced > bytes_max as u64).then(|| body_problem(bytes_max))
    }

    /// The most bytes a body of this kind may have.
    fn body_bytes_max(&self, kind: BodyKind) -> usize {
        match kind {
            BodyKind::Command | BodyKind::Edit => self.config.body_bytes_max,
            BodyKind::Workflow => self.config.body_bytes_max.max(2 * DEFINITION_BYTES_MAX),
            BodyKind::Batch => self.config.body_bytes_max.max(BATCH_BODY_BYTES_MAX),
        }
    }

    /// One hop to the core that owns the user.
    fn pass_on(
        self: &Rc<Self>,
        owner: CoreId,
        request: Request,
        exchange: Exchange,
        way: Way,
        proven: Option<Box<Passed>>,
    ) {
        if !matches!(way, Way::Direct) {
            tracing::error!(core = %self.id, %owner, "two cores disagree on who owns a shard");
            return exchange.refuse(Problem::new(ProblemKind::Internal, "the request lost its way"));
        }
        let timeout = match request.stream {
            // Content is answered when all of it is there.
            Some(_) => self.config.run.transfer.time_max + self.hop_timeout(),
            None => self.hop_timeout(),
        };
        let deadline = sluice_core::now() + timeout;
        let message = PeerRequest::new(request, exchange.context.arrived(), proven);
        let mesh = self.mesh.get().expect("attached when the service started");
        let Ok(call) = mesh.call(owner, deadline, message) else {
            self.metrics.hops_refused.add(1);
            let problem = Problem::new(ProblemKind::Overloaded, "too many requests wait for the user's core");
            return exchange.refuse(problem.with_retry_after_s(1));
        };
        self.metrics.hops_sent.add(1);
        let core = Rc::clone(self);
        sluice_core::spawn(async move {
            match sluice_core::timeout_at(deadline, call).await {
                Ok(Ok(answer)) => {
                    let answer = answer.map_head(|head| core.with_alt_svc(head, owner));
                    exchange.into_responder().answer(answer);
                }
                Ok(Err(_)) | Err(_) => {
                    core.metrics.hops_unanswered.add(1);
                    let detail = "the user's core did not answer; whether it acted is not known";
                    let problem = Problem::new(ProblemKind::ShuttingDown, detail).with_retryable(false);
                    exchange.refuse(problem);
                }
            }
        });
    }

    fn with_alt_svc(&self, response: Response, owner: CoreId) -> Response {
        match self.alt_svc.get(owner.index()) {
            Some(value) => response.with_field("alt-svc", value.clone()),
            None => response,
        }
    }

    /// Longer than the owner takes for anything.
    fn hop_timeout(&self) -> Duration {
        let longest = self.config.command_timeout + self.config.run.unknown_outcome_grace;
        longest.max(WAIT_MAX) + 2 * command::REPLY_GRACE
    }

    fn admit(&self, head: &RequestHead, from: Option<IpAddr>) -> Admit {
        let arrived = sluice_core::now();
        let action = find_action(head);
        if let Err((refused, label)) = self.admit_from(&action, from, arrived) {
            return Admit::Reply(self.context(head, label, arrived).refused(&refused));
        }
        let action = match action {
            Ok(action) => action,
            Err(refusal) => {
                let context = self.context(head, RouteLabel::Other, arrived);
                let response = refusal.into_response(&context);
                return Admit::Reply(context.finish(response));
            }
        };
        let target = match action {
            Action::Google(endpoint) if endpoint.body.is_some() => Target::Google(endpoint),
            Action::Google(_) => return Admit::Body { bytes_max: 0 },
            Action::Browser(browser::Ask::Form) => {
                return Admit::Body { bytes_max: browser::FORM_BYTES_MAX };
            }
            Action::Context { brings: context::Brings::Content, changes } => {
                Target::Context { brings: context::Brings::Content, changes }
            }
            _ => match action.target().filter(|target| target.body().is_some()) {
                Some(target) => target,
                None => return Admit::Body { bytes_max: 0 },
            },
        };
        let unfit = || match target {
            Target::Google(endpoint) => self.unfit_call(endpoint, head),
            _ => target.body().and_then(|kind| self.unfit_body(head, kind)),
        };
        let mut refused = self.not_serving(target).or_else(unfit);
        if let (None, Err(denied)) = (&refused, auth::shown(head)) {
            let now_ns = self.limiter.limits().ns(arrived);
            let noted = from.map(|from| self.limiter.note_unauthorized(from, target.class(), now_ns));
            if let Some(Err(limit)) = noted {
                return Admit::Reply(self.context(head, action.label(), arrived).refused(&limit));
            }
            self.metrics.keys_refused.add(1);
            refused = Some(Problem::new(ProblemKind::Unauthorized, denied.to_string()));
        }
        match refused {
            None => match target {
                Target::Context { brings: context::Brings::Content, .. } => Admit::Stream {
                    bytes_max: usize::try_from(self.config.context.bytes_max).unwrap_or(usize::MAX),
                },
                Target::Google(endpoint) if endpoint.body == rest::Body::Bytes => {
                    Admit::Stream { bytes_max: self.call_bytes_max(endpoint) }
                }
                _ => {
                    Admit::Body { bytes_max: self.body_bytes_max(target.body().unwrap_or(BodyKind::Command)) }
                }
            },
            Some(problem) => {
                let context = self.context(head, action.label(), arrived);
                let response = context.problem(problem);
                Admit::Reply(context.finish(response))
            }
        }
    }

    /// Whether the limits let a request in by its address, or why not and what it is counted as. Those that ask whether
    /// the server lives are always let in: nobody is helped by a server that is taken for dead.
    fn admit_from(
        &self,
        action: &Result<Action<'_>, Misdirected>,
        from: Option<IpAddr>,
        arrived: Instant,
    ) -> Result<(), (Refused, RouteLabel)> {
        let label = action.as_ref().map_or(RouteLabel::Other, |action| action.label());
        let Some(from) = from.filter(|_| label != RouteLabel::Health) else { return Ok(()) };
        let target = action.as_ref().ok().and_then(|action| action.target());
        let class = target.map_or(Class::Other, Target::class);
        let now_ns = self.limiter.limits().ns(arrived);
        self.limiter.enter_from(from, class, now_ns).map_err(|refused| (refused, label))
    }

    /// What can be told to be wrong with a call to Google before its body is read.
    fn unfit_call(&self, endpoint: &Endpoint, head: &RequestHead) -> Option<Problem> {
        let is_json = matches!(endpoint.body, rest::Body::Json | rest::Body::Mail(_));
        if is_json && !routes::is_json(head.header("content-type")) {
            let detail = "the body is JSON: send content-type: application/json";
            return Some(Problem::new(ProblemKind::UnsupportedMediaType, detail));
        }
        let bytes_max = self.call_bytes_max(endpoint);
        (head.content_length().unwrap_or(0) > bytes_max as u64).then(|| body_problem(bytes_max))
    }

    fn call_bytes_max(&self, endpoint: &Endpoint) -> usize {
        match endpoint.body {
            rest::Body::Bytes => usize::try_from(self.config.run.transfer.bytes_max).unwrap_or(usize::MAX),
            _ => self.config.body_bytes_max,
        }
    }
}

impl Service for CoreService {
    fn admit(&self, head: &RequestHead, from: Option<IpAddr>) -> Admit {
        self.core.admit(head, from)
    }

    fn call(&self, request: Request, respond: Responder) {
        self.core.serve(request, respond, sluice_core::now(), Way::Direct);
    }

    fn refuse(&self, status: u16, detail: &str) -> Response {
        // There is no head to speak of: it is what could not be read.
        let head = RequestHead::build("GET", "/", "unread");
        let context = self.core.context(&head, RouteLabel::Other, sluice_core::now());
        // Of those with the same status the one that says that trying again is no use; except that early data is
        // refused for no other reason than being early.
        let fits = |kind: &ProblemKind| {
            kind.status() == status && (*kind == ProblemKind::TooEarly || !kind.is_retryable())
        };
        let kind = ProblemKind::ALL.iter().copied().find(fits);
        let response = match kind {
            Some(kind) => context.problem(Problem::new(kind, detail)),
            None => bare_problem(status, detail),
        };
        context.finish(response)
    }
}

/// Forgets the users whom erasures name, and accounts that are not their users' any more, one after the other.
async fn forget_when_asked(core: Weak<Core>, mut asked: tokio::sync::mpsc::Receiver<Forget>) {
    while let Some(forget) = asked.recv().await {
        let Some(core) = core.upgrade() else { return };
        if forget.is_whole() {
            core.forget(forget.user).await;
        } else {
            core.env.tokens.forget(&forget.user);
            core.env.reads.forget(forget.user);
        }
        forget.done();
    }
}

/// A request from another core.
fn receive(core: &Weak<Core>, delivery: Delivery<PeerRequest, Answer>) {
    // Dropped unanswered, both tell the other core so.
    let (Some(core), Some(reply)) = (core.upgrade(), delivery.reply) else { return };
    core.metrics.hops_served.add(1);
    let (request, arrived, proven) = delivery.body.into_request();
    let way = proven.map_or(Way::Hopped, Way::Proven);
    core.serve(request, Responder::from_fn(move |answer| reply.send(answer)), arrived, way);
}

pub(crate) fn settle(exchange: Exchange, result: Result<Response, Problem>) {
    match result {
        Ok(response) => exchange.reply(response),
        Err(problem) => exchange.refuse(problem),
    }
}

/// Why a request asks for nothing there is.
enum Misdirected {
    NoRoute,
    NoMethod { allow: &'static str },
}

impl Misdirected {
    fn into_response(self, context: &Context) -> Response {
        match self {
            Self::NoRoute => context
                .problem(Problem::new(ProblemKind::NotFound, "there is no such path; see /api/v1/command")),
            Self::NoMethod { allow } => {
                let problem = Problem::new(ProblemKind::MethodNotAllowed, format!("this path takes {allow}"));
                context.problem(problem).with_field("allow", allow)
            }
        }
    }
}

fn find_action(head: &RequestHead) -> Result<Action<'_>, Misdirected> {
    let route = Route::of(head.path()).ok_or(Misdirected::NoRoute)?;
    route.action(head.method()).ok_or_else(|| Misdirected::NoMethod { allow: route.allow() })
}

fn options(head: &RequestHead) -> Response {
    let allow = Route::of(head.path()).map_or_else(|| Route::Server.allow(), Route::allow);
    Response::new(204).with_field("allow", allow)
}

fn body_problem(bytes_max: usize) -> Problem {
    Problem::new(ProblemKind::PayloadTooLarge, format!("a body has at most {bytes_max} bytes"))
}

/// A problem of no kind of ours (RFC 9457 section 4.2.1: `about:blank` means the status says it all).
fn bare_problem(status: u16, detail: &str) -> Response {
    let document = serde_json::json!({ "type": "about:blank", "status": status, "detail": detail });
    let body = Bytes::from(document.to_string());
    Response::new(status).with_body(sluice_protocols::problem::CONTENT_TYPE, body)
}

//! Wiring: what `sluice serve` starts, in which order, and how it stops.
//!
//! Order of the start: the sandbox, egress, storage, sockets, the TCP fallback, then a thread a core,
//! then administration, and what is left of the sandbox. A stop goes the other way round: no new requests,
//! commands under way finish or stay on disk, connections close (those over TCP
//! before the cores that answer them end), storage is flushed.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use sluice_core::{CoreId, IoBackend, IoChoice, Reactor, ReactorConfig, mailbox};
use sluice_net::egress::{
    CONCURRENCY_MAX, Egress, EgressConfig, OutwardConfig, OutwardPolicy, PerUpstream, RetryConfig,
    UpstreamConfig,
};
use sluice_net::entrance::{EntranceConfig, EntranceEnd, entrance};
use sluice_net::ingress::{self, ForwardEnd, IngressConfig, ServerIdentity};
use sluice_net::quic::listen::CoreListeners;
use sluice_net::tcp::{self, TcpConfig, TcpIngress, TcpStats};
use sluice_net::{CoreCount, ListenConfig, Listeners};
use sluice_protocols::ids::ShardCount;
use sluice_protocols::intent::Confidence;
use sluice_shard::cache::CacheConfig;
use sluice_shard::env::RunConfig;
use sluice_shard::intent::IntentConfig;
use sluice_shard::limit::{LimitConfig, Limits as RequestLimits, RatePair};
use sluice_shard::peer::PeerEnd;
use sluice_shard::quota::{
    Boot, BreakerConfig, HedgeConfig, Limits, QuotaConfig, Quotas, RetryLimits, Units,
};
use sluice_shard::webhooks::WebhookConfig;
use sluice_shard::{
    Admin, ConnectConfig, ContextConfig, CoreParts, CoreService, Metrics, Placement, RevocationClient,
    Revoker, ShardConfig, metrics,
};
use sluice_store::{OpenError, Store, StoreConfig, Vault};
use sluice_tuning::sandbox::Sandbox;
use sluice_tuning::{Severity, Topology};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::admin;
use crate::config::{Config, Durability, IoMode, LogFormat, Rate, Webhooks};
use crate::identity::Identity;
use crate::node_secret;
use crate::quota_file::{self, QuotaFile};
use crate::sandbox::{self, Confinement};
use crate::tls::{Hangups, Tls};
use crate::vault::{self, KeySource};

/// Datagrams that may be on their way from one core to another.
const FORWARD_LANE_MAX: usize = 1024;
/// At the end of the grace period: how long the last packets and answers may take, and what else ends with the process.
const SHUTDOWN_SLACK: Duration = Duration::from_secs(2);
const MIB: u64 = 1 << 20;
/// Handshakes that may be under way on a core however low `limits.handshakes_per_core_max` is: with 0 all of them are of
/// clients that have proven their address.
const HANDSHAKES_MOST_MIN: usize = 1024;

/// Serves until a signal asks to stop.
pub(crate) fn run(config: &Config) -> anyhow::Result<()> {
    start_log(config);
    config.check_credentials().map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow!("{}", lines.join("\n"))
    })?;
    warn_about_host();
    let cpus = cpus(config)?;
    let cores = CoreCount::new(cpus.len()).with_context(|| format!("{} cores are too many", cpus.len()))?;
    // First, so that a start without them makes no directory.
    let keyring = KeySource::of(config).read()?;
    let boot = quota_file::boot();
    let confinement = sandbox::enter(config)?;
    let egress = confinement.start("egress", || Egress::start(egress_config(config, cores.get())))??;
    // Before the start, which may take a while: whoever asks in its midst gets an orderly end, too, and SIGHUP is not
    // the end that it is by default.
    let outset = Outset { stop: listen_for_stop(&egress)?, hangups: Hangups::listen(&egress)?, boot };
    let store = confinement.start("storage", || open_store(config))??;
    let vault = vault::open(&store, keyring)?;
    let result = serve(config, &cpus, cores, &vault, &egress, outset, confinement);
    egress.shutdown(Grace::of(config.server.shutdown_grace_ms.duration()).egress);
    if let Err(error) = store.flush_blocking() {
        tracing::warn!(%error, "storage not flushed; the next start replays its log");
    }
    result
}

/// What of the grace period is for what. All of it ends within, but for the last write of the storage: whoever asked to stop
/// kills what is still there some time after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grace {
    /// Until then commands may finish, from the signal on.
    commands: Duration,
    /// Until then answers may arrive; then what is left of connections is closed.
    connections: Duration,
    /// How long calls to others may take that are under way when the cores have ended.
    egress: Duration,
}

impl Grace {
    fn of(whole: Duration) -> Self {
        let slack = SHUTDOWN_SLACK.min(whole / 2);
        let egress = slack / 4;
        Self { commands: whole - slack, connections: whole - egress, egress }
    }
}

/// What is there from the start on: signals, and which run of the machine this is, which the sandbox does not let be asked.
struct Outset {
    stop: mpsc::Receiver<&'static str>,
    hangups: Hangups,
    boot: Boot,
}

fn serve(
    config: &Config,
    cpus: &[Option<usize>],
    cores: CoreCount,
    vault: &Vault,
    egress: &Egress,
    outset: Outset,
    confinement: Confinement<Sandbox>,
) -> anyhow::Result<()> {
    let store = vault.store();
    let secret = node_secret::read_or_make(store.path())?;
    let tls = Tls::load(config, &secret)?;
    tls.follow(egress, outset.hangups);
    let server = tls.server()?;
    let tcp_tls = tls.tcp()?;
    let (listeners, tcp_listeners) = bind(config, cores)?;
    let admin_socket = admin::bind(config)?;
    let confinement = confinement.bound()?;
    let (addresses, core_ports) = (listeners.addresses.clone(), listeners.core_ports.clone());
    note_receive_buffer(config, listeners.receive_buffer_granted_bytes);
    let placement = Placement::dealt(store.shard_count(), cores.get());
    let owner = move |head: &_| sluice_shard::peer::owner_of(head, &placement);
    let (entrance, entrance_ends) = entrance(cores, EntranceConfig::default(), owner);
    let tcp_stats = Arc::new(TcpStats::default());
    let tcp_metrics = metrics::tcp(Arc::clone(&tcp_stats), entrance.clone());
    let identity = Identity::start(config, &egress.runtime())?;
    let mut shard = shard_config(config, cores.get())?;
    shard.node_secret = secret;
    shard.run.connect = ConnectConfig {
        auth_url: config.google.auth_url.clone(),
        revoke_url: config.google.revocation_url(),
        issuer: config.google.issuer.clone(),
        public_url: config.listen.public_origin(),
        return_origins: config.google.return_origins.clone(),
        node_secret: Zeroizing::new(shard.node_secret),
    };
    let accounts = Admin::new(store.clone(), vault.clone());
    let accounts = accounts
        .with_revoker(Revoker::new(egress.clone(), revocation_client(config)?))
        .with_browser_session_life(Duration::from_secs(config.identity.browser_session_life_s));
    let erasures = metrics::erasures(Arc::clone(accounts.revoker_stats()));
    let others =
        vec![tls.collector(), identity.collector(), tcp_metrics, metrics::vault(vault.clone()), erasures];
    let metrics = Metrics::new(cores.get(), store.clone(), egress.clone(), others);
    // Before the cores take up tasks: some may be of a user who is being erased.
    accounts.resume_erasures().context("an erasure of a user that broke off could not be done to its end")?;
    shard.providers = identity.providers;
    let grace = Grace::of(config.server.shutdown_grace_ms.duration());
    let shared = Arc::new(Shared {
        identity: server,
        ingress: ingress_config(config, cores),
        io: io_choice(config),
        shard: Arc::new(shard),
        accounts: accounts.clone(),
        grace,
        store: store.clone(),
        vault: vault.clone(),
        egress: egress.clone(),
        metrics: Arc::clone(&metrics),
        alt_svc_ports: config.listen.alt_svc_core_ports(&core_ports),
        cores,
    });
    let days = QuotaFile::open(store.path(), Arc::clone(&shared.shard.run.quotas), outset.boot);
    let _saving = days.save_now_and_then(&egress.runtime());
    let (stop, stopped) = watch::channel(Stop::Not);
    let (tell, told) = mpsc::channel();
    let forward = mailbox::mesh(cores.get(), FORWARD_LANE_MAX);
    let peers = sluice_shard::peer::mesh(cores.get());
    let runtime = egress.runtime();
    // Requests that come before the cores wait for them.
    let tcp = TcpIngress::start(&runtime, tcp_listeners, tcp_tls, tcp_config(config), entrance, tcp_stats)?;
    let mut threads = Vec::new();
    let ends = listeners.into_cores().into_iter().zip(forward).zip(peers).zip(entrance_ends).zip(cpus);
    for ((((listeners, forward), peers), entrance), &cpu) in ends {
        let (stopped, tell) = (stopped.clone(), tell.clone());
        let core = Core { listeners, forward, peers, entrance, cpu, stopped, tell };
        threads.push(core.start(Arc::clone(&shared))?);
    }
    drop(tell);
    let started = wait_until_ready(&told, cores).and_then(|io| {
        let admin = admin::serve(config, egress, admin_socket, accounts, Arc::clone(&metrics))?;
        runtime.spawn(sandbox::watch_resolver());
        confinement.seal()?;
        Ok((admin, io))
    });
    let served = started.and_then(|(admin, io)| {
        announce(&addresses, &core_ports, io, &admin);
        wait_for_stop(&outset.stop, &told)
    });
    let deadline = Instant::now() + grace.connections;
    let _ = stop.send(Stop::Draining);
    runtime.block_on(tcp.drain(deadline));
    let _ = stop.send(Stop::TcpOver);
    let ended = join(threads);
    days.close();
    let socket = config.admin.socket_path(&config.server);
    let _ = fs::remove_file(socket);
    match (served, ended) {
        // Why a core ended says more than that it did.
        (Err(served), Err(ended)) => Err(ended.context(served)),
        (served, ended) => served.and(ended),
    }
}

/// What every core's thread is given.
struct Shared {
    identity: ServerIdentity,
    ingress: IngressConfig,
    io: IoChoice,
    shard: Arc<ShardConfig>,
    accounts: Admin,
    grace: Grace,
    store: Store,
    vault: Vault,
    egress: Egress,
    metrics: Arc<Metrics>,
    alt_svc_ports: Vec<u16>,
    cores: CoreCount,
}

/// How far the end has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Stop {
    Not,
    /// No new requests.
    Draining,
    /// Nobody waits for an answer over TCP any more.
    TcpOver,
}

/// What one core's thread owns.
struct Core {
    listeners: CoreListeners,
    forward: ForwardEnd,
    peers: PeerEnd,
    entrance: EntranceEnd,
    cpu: Option<usize>,
    stopped: watch::Receiver<Stop>,
    tell: mpsc::Sender<Told>,
}

/// What a core's thread reports.
enum Told {
    Ready(IoBackend),
    Ended,
}

/// Says that the thread has ended, however it did.
struct TellEnd(mpsc::Sender<Told>);

impl Drop for TellEnd {
    fn drop(&mut self) {
        let _ = self.0.send(Told::Ended);
    }
}

impl Core {
    fn start(self, shared: Arc<Shared>) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
        let id = self.peers.core();
        thread::Builder::new()
            .name(format!("core-{id}"))
            .spawn(move || {
                let _end = TellEnd(self.tell.clone());
                self.run(id, &shared).with_context(|| format!("core {id}"))
            })
            .context("cannot start a thread")
    }

    fn run(self, id: CoreId, shared: &Arc<Shared>) -> anyhow::Result<()> {
        let stats = Arc::clone(shared.metrics.core(id).reactor());
        let reactor = Reactor::new(ReactorConfig { core: id, cpu: self.cpu, stats, io: Some(shared.io) })?;
        let shared = Arc::clone(shared);
        let io = reactor.io();
        reactor.block_on(async move { self.serve(id, io, &shared).await })?
    }

    async fn serve(mut self, id: CoreId, io: IoBackend, shared: &Shared) -> anyhow::Result<()> {
        let service = CoreService::start(CoreParts {
            core: id,
            cores: shared.cores.get(),
            store: shared.store.clone(),
            vault: shared.vault.clone(),
            egress: shared.egress.clone(),
            admin: shared.accounts.clone(),
            config: Arc::clone(&shared.shard),
            peers: self.peers,
            metrics: Arc::clone(&shared.metrics),
            alt_svc_ports: shared.alt_svc_ports.clone(),
        });
        let counters = shared.metrics.core(id);
        let ingress = ingress::start(
            self.listeners,
            &shared.identity,
            &shared.ingress,
            self.forward,
            Rc::clone(&service) as Rc<dyn sluice_net::Service>,
            Arc::clone(counters.ingress()),
            Arc::clone(counters.forward()),
        )?;
        let _entrance = self.entrance.attach(Rc::clone(&service) as Rc<dyn sluice_net::Service>);
        service.ready().await;
        let _ = self.tell.send(Told::Ready(io));
        // An error means that the sender is gone, which is a stop, too; here and below.
        let _ = self.stopped.wait_for(|stop| *stop >= Stop::Draining).await;
        let began = sluice_core::now();
        // Clients hear of the end at once; what is under way holds their connections open.
        let winding_up = sluice_core::spawn(ingress.drain(began + shared.grace.connections));
        let left = service.drain(began + shared.grace.commands).await;
        if left > 0 {
            tracing::info!(core = %id, tasks = left, "commands left for the next start");
        }
        winding_up.await;
        let _ = self.stopped.wait_for(|stop| *stop >= Stop::TcpOver).await;
        Ok(())
    }
}

/// Returns with the backend of the last core that got ready; the host treats all of them alike.
fn wait_until_ready(told: &mpsc::Receiver<Told>, cores: CoreCount) -> anyhow::Result<IoBackend> {
    let mut backend = None;
    for _ in 0..cores.get() {
        match told.recv() {
            Ok(Told::Ready(io)) => backend = Some(io),
            // Why shows when its thread is joined.
            Ok(Told::Ended) | Err(_) => bail!("a core did not start"),
        }
    }
    backend.context("there is at least one core")
}

/// Hears the signals that ask to stop, from now on. The first is told; the second does not wait for anything.
fn listen_for_stop(egress: &Egress) -> anyhow::Result<mpsc::Receiver<&'static str>> {
    let _runtime = egress.runtime().enter();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (tell, told) = mpsc::channel();
    egress.runtime().spawn(async move {
        let _ = tell.send(next_signal(&mut term, &mut int).await);
        next_signal(&mut term, &mut int).await;
        tracing::warn!("stopped at once by a second signal");
        std::process::exit(1);
    });
    Ok(told)
}

async fn next_signal(term: &mut Signal, int: &mut Signal) -> &'static str {
    tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    }
}

/// Returns when a signal asks to stop, or with an error when a core has died.
fn wait_for_stop(asked: &mpsc::Receiver<&'static str>, told: &mpsc::Receiver<Told>) -> anyhow::Result<()> {
    loop {
        if let Ok(signal) = asked.recv_timeout(Duration::from_millis(100)) {
            tracing::info!(signal, "stopping");
            return Ok(());
        }
        if matches!(told.try_recv(), Ok(Told::Ended)) {
            bail!("a core has died; the process stops, and the next start takes up its commands");
        }
    }
}

fn join(threads: Vec<JoinHandle<anyhow::Result<()>>>) -> anyhow::Result<()> {
    let mut result = Ok(());
    for thread in threads {
        let ended = thread.join().unwrap_or_else(|_| Err(anyhow!("a core's thread panicked")));
        result = result.and(ended);
    }
    result
}

/// One line for people and for programs that wait for the start.
fn announce(addresses: &[SocketAddr], core_ports: &[u16], io: IoBackend, admin: &admin::Bound) {
    let urls: Vec<String> = addresses.iter().map(|address| format!("https://{address}")).collect();
    let ports: Vec<String> = core_ports.iter().map(ToString::to_string).collect();
    // Whoever started the gateway may no longer read: that is no reason to stop.
    let _ = writeln!(
        std::io::stdout(),
        "sluice is ready: {} core-ports={} io={io} metrics=http://{} admin={}",
        urls.join(" "),
        ports.join(","),
        admin.address,
        admin.socket.display()
    );
}

fn start_log(config: &Config) {
    use tracing_subscriber::EnvFilter;
    // Libraries speak up only when something is wrong.
    let level = config.log.level.as_str();
    let filter = EnvFilter::new(format!(
        "warn,sluice={level},sluice_core={level},sluice_net={level},sluice_shard={level},sluice_store={level}"
    ));
    // What cannot be logged is lost. To complain of it, as is usual, takes standard error again, and panics where that
    // fails: a full disk below the log would end the process.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    // A second start in one process would keep the first's log, which is harmless.
    let _ = match config.log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

fn warn_about_host() {
    // What becomes of io_uring each core finds out, and says so where it matters.
    for finding in sluice_tuning::checks().into_iter().filter(|finding| finding.name != "io_uring") {
        match finding.severity {
            Severity::Error | Severity::Warning => tracing::warn!("{finding}"),
            Severity::Advice | Severity::Good => tracing::debug!("{finding}"),
        }
    }
}

fn io_choice(config: &Config) -> IoChoice {
    match config.server.io {
        IoMode::Auto => IoChoice::Auto,
        IoMode::Uring => IoChoice::Uring,
        IoMode::Epoll => IoChoice::Epoll,
    }
}

/// The CPU of each core, `None` where threads are not bound.
fn cpus(config: &Config) -> anyhow::Result<Vec<Option<usize>>> {
    let wanted = usize::try_from(config.server.cores)?;
    let topology = Topology::read()?;
    let available = topology.spread(0);
    let count = if wanted == 0 { available.len() } else { wanted };
    let shards = usize::try_from(config.server.shards)?;
    if count > shards {
        bail!("{count} cores cannot share {shards} shards; set server.cores to at most {shards}");
    }
    if !config.server.pin {
        return Ok(vec![None; count]);
    }
    if count > available.len() {
        bail!(
            "server.cores is {count}, but this process may use {} CPUs; lower it, or set server.pin to false",
            available.len()
        );
    }
    Ok(topology.spread(count).into_iter().map(Some).collect())
}

/// Opens the data directory. What is wrong is an [`OpenError`], with the key where a setting does not fit.
pub(crate) fn open_store(config: &Config) -> anyhow::Result<Store> {
    let count = u16::try_from(config.server.shards).ok().and_then(ShardCount::new);
    let count = count.with_context(|| format!("server.shards is {}", config.server.shards))?;
    match Store::open(store_config(config, count)?) {
        Err(error @ OpenError::ShardCount { made, .. }) => {
            Err(error).with_context(|| format!("server.shards must be {made}"))
        }
        opened => Ok(opened?),
    }
}

fn store_config(config: &Config, shards: ShardCount) -> anyhow::Result<StoreConfig> {
    let store = &config.store;
    let mut result = StoreConfig::new(&config.server.data_dir, shards);
    result.durability = match store.durability {
        Durability::Fsync => sluice_store::Durability::Fsync,
        Durability::Os => sluice_store::Durability::Os,
    };
    result.block_cache_bytes = usize::try_from(store.block_cache_mib * MIB)?;
    result.write_buffer_bytes = usize::try_from(store.write_buffer_mib * MIB)?;
    result.reader_threads = usize::try_from(store.reader_threads)?;
    Ok(result)
}

fn listen_config(config: &Config) -> ListenConfig {
    let listen = &config.listen;
    ListenConfig {
        addresses: listen.sockets().collect(),
        core_port_base: (listen.core_port_base != 0).then_some(listen.core_port_base),
        receive_buffer_bytes: usize::try_from(listen.socket_buffer_bytes).unwrap_or(usize::MAX),
    }
}

/// All sockets: without TCP there are none of that kind.
fn bind(config: &Config, cores: CoreCount) -> anyhow::Result<(Listeners, Vec<TcpListener>)> {
    let listen = listen_config(config);
    if config.listen.tcp {
        return Ok(tcp::bind(&listen, cores)?);
    }
    Ok((Listeners::bind(&listen, cores)?, Vec::new()))
}

fn note_receive_buffer(config: &Config, granted: usize) {
    let wanted = usize::try_from(config.listen.socket_buffer_bytes).unwrap_or(usize::MAX);
    // The kernel reports twice what it was asked for, to cover its own overhead.
    if granted / 2 < wanted {
        tracing::warn!(
            wanted_bytes = wanted,
            granted_bytes = granted / 2,
            "socket buffers are smaller than asked for; raise net.core.rmem_max"
        );
    }
}

/// A core's part of what one address may have of the whole process; 0 is no bound.
fn share_of(per_address: u64, cores: CoreCount) -> Option<NonZeroU32> {
    let cores = u64::try_from(cores.get()).unwrap_or(u64::MAX);
    NonZeroU32::new(u32::try_from(per_address.div_ceil(cores)).unwrap_or(u32::MAX))
}

fn ingress_config(config: &Config, cores: CoreCount) -> IngressConfig {
    let limits = &config.limits;
    let connections = usize::try_from(limits.connections_max).unwrap_or(usize::MAX);
    let handshakes = usize::try_from(limits.handshakes_per_core_max).unwrap_or(usize::MAX);
    IngressConfig {
        connections_max: connections.div_ceil(cores.get()),
        connections_per_address_max: share_of(limits.connections_per_address_max, cores),
        streams_max: u32::try_from(limits.streams_max).unwrap_or(u32::MAX),
        idle_timeout: limits.idle_timeout_ms.duration(),
        unused_timeout: Some(limits.unused_timeout_ms.duration()).filter(|timeout| !timeout.is_zero()),
        handshakes_max: handshakes,
        handshakes_most: handshakes.saturating_mul(2).max(HANDSHAKES_MOST_MIN),
        handshake_timeout: limits.handshake_timeout_ms.duration(),
        request_timeout: limits.request_timeout_ms.duration(),
    }
}

fn tcp_config(config: &Config) -> TcpConfig {
    let limits = &config.limits;
    let wanted = limits.tcp_connections_max;
    // Storage, upstreams and administration must have files left, however many clients come.
    let affordable = sluice_tuning::open_files_max().map_or(wanted, |files| wanted.min(files / 2));
    if config.listen.tcp && affordable < wanted {
        tracing::warn!(
            wanted,
            affordable,
            "fewer TCP connections than asked for; raise the limit of open files"
        );
    }
    TcpConfig {
        connections_max: usize::try_from(affordable).unwrap_or(usize::MAX),
        streams_max: u32::try_from(limits.streams_max).unwrap_or(u32::MAX),
        idle_timeout: limits.idle_timeout_ms.duration(),
        handshake_timeout: limits.handshake_timeout_ms.duration(),
        body_timeout: limits.request_timeout_ms.duration(),
        connections_per_address_max: NonZeroU32::new(
            u32::try_from(limits.connections_per_address_max).unwrap_or(u32::MAX),
        ),
        alt_svc: config.listen.alt_svc_shared(),
    }
}

fn shard_config(config: &Config, cores: usize) -> anyhow::Result<ShardConfig> {
    let openai_key = config.openai.resolve_key()?.unwrap_or_default();
    let secret = config.google.resolve_client_secret()?.unwrap_or_default();
    let mut run = RunConfig::new(openai_key, &config.openai.model, &config.google.client_id, secret);
    run.delegation = config.resolve_delegation(cores)?;
    run.cache = CacheConfig {
        bytes_max: usize::try_from(config.cache.read_bytes_per_core)?,
        fresh: config.cache.read_fresh_ms.duration(),
        stale: config.cache.read_stale_ms.duration(),
        settle: config.cache.settle_ms.duration(),
    };
    run.quotas = Quotas::new(quota_config(config, cores), cores);
    run.intent = IntentConfig {
        local: config.intent.local,
        confidence_min: Confidence::from_ratio(config.intent.confidence_min),
        pattern_ttl: Duration::from_secs(config.intent.pattern_ttl_s),
        pattern_cache_bytes_max: usize::try_from(config.intent.pattern_cache_bytes_per_core)?,
    };
    let (limits, tasks) = (&config.limits, &config.tasks);
    run.confirm.clone_from(&tasks.confirm);
    run.transfer.bytes_max = limits.transfer_bytes_max;
    run.transfer.at_once_max = usize::try_from(limits.transfers_per_core_max)?;
    let mut shard = ShardConfig::new(run);
    shard.limits = Arc::new(RequestLimits::new(limit_config(&config.rate)?));
    shard.task_attempts_max = u32::try_from(tasks.attempts_max)?;
    shard.task_retry_base = tasks.retry_base_ms.duration();
    shard.task_retry_max = tasks.retry_max_ms.duration();
    shard.unconfirmed_life = Duration::from_secs(tasks.unconfirmed_life_s);
    shard.idempotency_life = Duration::from_secs(tasks.idempotency_life_s);
    shard.context = ContextConfig {
        bytes_max: config.context.bytes_per_user_max,
        ttl: Duration::from_secs(config.context.ttl_s),
        ttl_max: Duration::from_secs(config.context.ttl_max_s),
    };
    shard.webhooks = webhook_config(&config.webhooks)?;
    shard.body_bytes_max = usize::try_from(limits.body_bytes_max)?;
    shard.command_timeout = limits.command_timeout_ms.duration();
    shard.tasks_queued_max = usize::try_from(limits.tasks_queued_per_core_max)?;
    shard.tasks_running_max = usize::try_from(limits.tasks_running_per_core_max)?;
    shard.tasks_running_per_user_max = usize::try_from(limits.tasks_running_per_user_max)?;
    Ok(shard)
}

fn webhook_config(webhooks: &Webhooks) -> anyhow::Result<WebhookConfig> {
    Ok(WebhookConfig {
        policy: outward_policy(webhooks),
        per_user_max: usize::try_from(webhooks.per_user_max)?,
        pending_per_user_max: usize::try_from(webhooks.pending_per_user_max)?,
        pending_max: usize::try_from(webhooks.pending_per_core_max)?,
        running_max: usize::try_from(webhooks.running_per_core_max)?,
        running_per_user_max: usize::try_from(webhooks.running_per_user_max)?,
        running_per_place_max: usize::try_from(webhooks.running_per_receiver_max)?,
        attempts_max: u32::try_from(webhooks.attempts_max)?,
        retry_base: webhooks.retry_base_ms.duration(),
        retry_max: webhooks.retry_max_ms.duration(),
        disable_after: u32::try_from(webhooks.disable_after)?,
        overlap: Duration::from_secs(webhooks.rotation_overlap_s),
    })
}

fn outward_policy(webhooks: &Webhooks) -> OutwardPolicy {
    OutwardPolicy {
        allow_http: webhooks.allow_http,
        ports: webhooks.ports.clone(),
        allow: webhooks.allow.clone(),
    }
}

fn limit_config(rate: &Rate) -> anyhow::Result<LimitConfig> {
    let pair = |per_minute: u64, per_hour: u64| -> anyhow::Result<RatePair> {
        Ok(RatePair::new(u32::try_from(per_minute)?, u32::try_from(per_hour)?))
    };
    Ok(LimitConfig {
        user: pair(rate.user_per_minute, rate.user_per_hour)?,
        user_concurrent_max: u32::try_from(rate.user_concurrent_max)?,
        key: pair(rate.key_per_minute, rate.key_per_hour)?,
        classes: [
            pair(rate.commands_per_minute, rate.commands_per_hour)?,
            pair(rate.reads_per_minute, rate.reads_per_hour)?,
            pair(rate.google_per_minute, rate.google_per_hour)?,
            pair(rate.administration_per_minute, rate.administration_per_hour)?,
        ],
        address: pair(rate.address_per_minute, rate.address_per_hour)?,
        unauthorized: pair(rate.unauthorized_per_minute, rate.unauthorized_per_hour)?,
        users_tracked_max: usize::try_from(rate.users_tracked_per_core)?,
        addresses_tracked_max: usize::try_from(rate.addresses_tracked)?,
        ..LimitConfig::default()
    })
}

fn quota_config(config: &Config, cores: usize) -> QuotaConfig {
    let (quota, egress) = (&config.quota, &config.egress);
    let count = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let whole = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let limits = |project_per_minute, user_per_minute, per_day| Limits {
        project_per_minute,
        user_per_minute,
        per_day,
    };
    QuotaConfig {
        gmail: limits(
            quota.gmail_project_units_per_minute,
            quota.gmail_user_units_per_minute,
            quota.gmail_units_per_day,
        ),
        calendar: limits(
            quota.calendar_project_units_per_minute,
            quota.calendar_user_units_per_minute,
            quota.calendar_units_per_day,
        ),
        drive: limits(
            quota.drive_project_units_per_minute,
            quota.drive_user_units_per_minute,
            quota.drive_units_per_day,
        ),
        units: Units {
            gmail_list: quota.gmail_list_units,
            gmail_get: quota.gmail_get_units,
            gmail_thread: quota.gmail_thread_units,
            gmail_history: quota.gmail_history_units,
            gmail_draft: quota.gmail_draft_units,
            gmail_send: quota.gmail_send_units,
            gmail_modify: quota.gmail_modify_units,
            drive_list: quota.drive_list_units,
            drive_get: quota.drive_get_units,
            drive_read: quota.drive_read_units,
            drive_write: quota.drive_write_units,
            calendar: quota.calendar_units,
        },
        openai_requests_per_minute: quota.openai_requests_per_minute,
        openai_tokens_per_minute: quota.openai_tokens_per_minute,
        openai_answer_tokens: quota.openai_answer_tokens,
        normal_percent: quota.normal_percent,
        batch_percent: quota.batch_percent,
        user_concurrent_max: count(quota.user_concurrent_max),
        // The cores' places together are those of the egress pool, so what has units does not wait there.
        openai_concurrent_max: count(egress.openai_concurrency_max).div_ceil(cores),
        google_concurrent_max: count(egress.google_concurrency_max).div_ceil(cores),
        waiting_max: count(quota.waiting_per_core_max),
        places: count(config.limits.tasks_running_per_core_max),
        places_percent: count(quota.places_percent),
        slack: quota.slack_ms.duration(),
        cool_down: quota.cool_down_ms.duration(),
        breaker: BreakerConfig {
            failures_in_a_row: whole(egress.breaker_failures_in_a_row),
            failure_percent: whole(egress.breaker_failure_percent),
            calls_min: whole(egress.breaker_calls_min),
            open: egress.breaker_open_ms.duration(),
            open_max: egress.breaker_open_max_ms.duration(),
        },
        retry: RetryLimits {
            attempts_max: whole(egress.retry_attempts_max),
            backoff_base: egress.retry_backoff_base_ms.duration(),
            backoff_max: egress.retry_backoff_max_ms.duration(),
            budget_percent: whole(egress.retry_budget_percent),
            budget_per_second: whole(egress.retry_budget_per_second),
        },
        hedge: HedgeConfig { is_on: egress.hedge_reads, after_min: egress.hedge_after_min_ms.duration() },
        ..QuotaConfig::default()
    }
}

/// As whom Google is told of what erased users had connected.
fn revocation_client(config: &Config) -> anyhow::Result<RevocationClient> {
    Ok(RevocationClient {
        url: config.google.revocation_url(),
        client_id: config.google.client_id.clone(),
        client_secret: Zeroizing::new(config.google.resolve_client_secret()?.unwrap_or_default()),
    })
}

/// Operations on accounts by a process that serves nobody, which gives back at Google what erased users had connected;
/// and the pool by which it does so, to be shut down behind it. Where the client's secret cannot be read, it does without.
pub(crate) fn with_revoker(config: &Config, admin: Admin) -> anyhow::Result<(Admin, Option<Egress>)> {
    match revocation_client(config) {
        Ok(client) if !client.client_id.is_empty() => {
            let egress = Egress::start(egress_config(config, 1))?;
            Ok((admin.with_revoker(Revoker::new(egress.clone(), client)), Some(egress)))
        }
        Ok(_) => Ok((admin, None)),
        Err(error) => {
            tracing::warn!(%error, "Google cannot be told of what the user had connected");
            Ok((admin, None))
        }
    }
}

fn egress_config(config: &Config, cores: usize) -> EgressConfig {
    let (egress, google) = (&config.egress, &config.google);
    let count = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let upstream = |url: &str, concurrency: u64| {
        let mut upstream = UpstreamConfig::new(url);
        upstream.concurrency_max = count(concurrency);
        upstream.connect_timeout = egress.connect_timeout_ms.duration();
        upstream.attempt_timeout = egress.attempt_timeout_ms.duration();
        upstream.idle_timeout = egress.idle_timeout_ms.duration();
        upstream
    };
    let mut result = EgressConfig::new(PerUpstream {
        openai: upstream(&config.openai.base_url, egress.openai_concurrency_max),
        oauth: upstream(&google.token_url, egress.google_concurrency_max),
        gmail: upstream(&google.gmail_url, egress.google_concurrency_max),
        calendar: upstream(&google.calendar_url, egress.google_concurrency_max),
        drive: upstream(&google.drive_url, egress.google_concurrency_max),
    });
    let webhooks = &config.webhooks;
    result.outward = OutwardConfig {
        policy: outward_policy(webhooks),
        // The cores' places together, so that nothing is postponed here.
        concurrency_max: count(webhooks.running_per_core_max).saturating_mul(cores).min(CONCURRENCY_MAX),
        connect_timeout: webhooks.connect_timeout_ms.duration(),
        attempt_timeout: webhooks.attempt_timeout_ms.duration(),
        ..OutwardConfig::default()
    };
    result.threads = count(egress.threads);
    // So that names do not wait for signatures.
    result.work_threads = google.signed_at_once(cores);
    result.cores = cores;
    result.queue_max = count(egress.queue_max);
    result.response_bytes_max = count(egress.response_bytes_max);
    let whole = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    result.retry = RetryConfig {
        attempts_max: whole(egress.retry_attempts_max),
        backoff_base: egress.retry_backoff_base_ms.duration(),
        backoff_max: egress.retry_backoff_max_ms.duration(),
        budget_percent: whole(egress.retry_budget_percent),
        budget_per_second: whole(egress.retry_budget_per_second),
    };
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_then_answers_then_calls_end_within_the_grace() {
        for ms in [0, 1, 500, 3_000, 8_000, 600_000] {
            let whole = Duration::from_millis(ms);
            let Grace { commands, connections, egress } = Grace::of(whole);
            assert_eq!(connections + egress, whole);
            assert!(commands >= whole / 2 && commands <= connections, "{ms}");
        }
        assert_eq!(Grace::of(Duration::from_secs(8)).commands, Duration::from_secs(6));
    }

    #[test]
    fn an_address_has_a_part_of_its_share_on_each_core() {
        let cores = |count| CoreCount::new(count).expect("cores");
        assert_eq!(share_of(0, cores(4)), None);
        assert_eq!(share_of(4_096, cores(4)), NonZeroU32::new(1_024));
        assert_eq!(share_of(1, cores(4)), NonZeroU32::new(1));
    }
}

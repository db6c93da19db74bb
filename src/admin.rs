//! Administration: users, connections and keys.
//!
//! While a gateway runs it owns the data directory, and administration goes through
//! its Unix socket, which only the owner of the directory may open. When none runs,
//! the directory is opened directly. Health and metrics are on a TCP address beside.

use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::Args;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sluice_net::egress::Egress;
use sluice_protocols::access::{Role, Scopes};
use sluice_protocols::api;
use sluice_protocols::ids::{KeyId, UserId};
use sluice_shard::clock::Clock;
use sluice_shard::metrics::{CONTENT_TYPE, CoreState};
use sluice_shard::{Admin, AdminError, KeyLimit, KeySpec, Metrics, SEEDED_AT_ONCE_MAX, Seed};
use sluice_store::OpenError;
use sluice_store::record::{KeyRecord, LimitRecord, UserRecord};
use tokio::net::TcpSocket;

use crate::audit::{self, PageWanted, ProofWanted};
use crate::config::Config;
use crate::farewell;
use crate::serve::open_store;
use crate::vault::{self, KeySource, Served};

/// Users that `user list` shows at most.
const USERS_LISTED_MAX: usize = 10_000;
/// Users that one `user seed` makes at most.
const SEED_USERS_MAX: usize = 1_000_000;
/// Users asked for at once.
const SEED_PART: usize = 2_000;
const _: () = assert!(SEED_PART <= SEEDED_AT_ONCE_MAX);
/// Connections to the TCP address that may wait to be taken.
const BACKLOG_MAX: u32 = 1_024;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Options of `sluice user add`.
#[derive(Debug, Args, Serialize, Deserialize)]
pub(crate) struct NewUser {
    /// Name, unique in this gateway
    name: String,
    /// Mail address
    #[arg(long)]
    email: String,
    /// Time zone that dates and times are meant in, such as Europe/Berlin
    #[arg(long, default_value = "UTC")]
    time_zone: String,
    /// user, operator or auditor
    #[arg(long, default_value = "user", value_parser = role)]
    role: String,
}

/// Options of `sluice user set`.
#[derive(Debug, Args, Serialize, Deserialize)]
pub(crate) struct UserChange {
    /// The user's name or mail address
    name: String,
    /// Another mail address, which nobody else has
    #[arg(long)]
    email: Option<String>,
    /// Another time zone, such as Europe/Berlin
    #[arg(long)]
    time_zone: Option<String>,
    /// user, operator or auditor
    #[arg(long, value_parser = role)]
    role: Option<String>,
    /// Whether the user is refused whatever they show
    #[arg(long, value_name = "BOOL")]
    disabled: Option<bool>,
    /// Refuse every token of an identity provider that was issued before now
    #[arg(long)]
    #[serde(default)]
    sign_out: bool,
    /// Accept tokens of this issuer for the user; needs --subject
    #[arg(long, requires = "subject")]
    issuer: Option<String>,
    /// The user as that issuer names them
    #[arg(long, requires = "issuer")]
    subject: Option<String>,
}

/// Options of `sluice user connect`.
#[derive(Debug, Args, Serialize, Deserialize)]
pub(crate) struct NewConnection {
    /// The user's name
    name: String,
    /// Refresh token that Google gave for the user's consent
    #[arg(long, env = "SLUICE_REFRESH_TOKEN", hide_env_values = true)]
    refresh_token: String,
    /// Scopes it covers, separated by spaces
    #[arg(long, default_value = "")]
    scope: String,
}

/// Options of `sluice user limit`.
#[derive(Debug, Args, Serialize, Deserialize)]
pub(crate) struct NewLimit {
    /// The user's name
    name: String,
    /// Requests a minute; 0 for no limit
    #[arg(long)]
    per_minute: Option<u32>,
    /// Requests an hour; 0 for no limit
    #[arg(long)]
    per_hour: Option<u32>,
    /// Requests at once; 0 for no limit
    #[arg(long)]
    concurrent: Option<u32>,
    /// Take back what was set before; what is set beside it holds
    #[arg(long)]
    default: bool,
}

/// Options of `sluice key add`.
#[derive(Debug, Args, Serialize, Deserialize)]
pub(crate) struct NewKey {
    /// The user's name
    name: String,
    /// What the key is for
    #[arg(long, default_value = "")]
    label: String,
    /// What it may be used for, with commas between: commands, mail, calendar, drive, account, admin, each also with :read;
    /// without it, everything but admin
    #[arg(long, value_name = "SCOPES", value_parser = scopes)]
    scopes: Option<String>,
    /// Days until it ends; without it, it does not
    #[arg(long, value_name = "DAYS")]
    days: Option<u32>,
}

/// Options of `sluice key list`.
#[derive(Debug, Args)]
pub(crate) struct KeyOwner {
    /// The user's name or mail address
    name: String,
}

/// Options of `sluice key revoke`.
#[derive(Debug, Args, Serialize, Deserialize)]
pub(crate) struct KeyRevocation {
    /// The user's name or mail address
    name: String,
    /// The key, as `key list` shows it: key_...
    key: KeyId,
}

fn role(text: &str) -> Result<String, &'static str> {
    text.parse::<Role>().map(|role| role.name().to_owned())
}

fn scopes(text: &str) -> Result<String, String> {
    text.parse::<Scopes>().map(|scopes| scopes.to_string()).map_err(|error| error.to_string())
}

/// Options of `sluice user seed`.
#[derive(Debug, Args)]
pub(crate) struct NewSeed {
    /// How many users, at most a million
    #[arg(long)]
    count: usize,
    /// File their keys are written to, a line a user: name, tab, key
    #[arg(long, value_name = "FILE")]
    keys_out: PathBuf,
    /// What their names begin with
    #[arg(long, default_value = "load-")]
    prefix: String,
    /// Number of the first
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Connect each by this text and its name as refresh token
    #[arg(long, value_name = "TEXT")]
    refresh_token_prefix: Option<String>,
}

/// Part of a seed, as the socket takes it.
#[derive(Debug, Serialize, Deserialize)]
struct SeedPart {
    prefix: String,
    first: u64,
    count: usize,
    refresh_token_prefix: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SeededView {
    name: String,
    key: String,
}

/// A user as shown.
#[derive(Debug, Serialize, Deserialize)]
struct UserView {
    id: UserId,
    name: String,
    email: String,
    time_zone: String,
    role: String,
    disabled: bool,
}

/// What a user is allowed, where that is not what all are.
#[derive(Debug, Serialize, Deserialize)]
struct LimitView {
    per_minute: Option<u32>,
    per_hour: Option<u32>,
    concurrent: Option<u32>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeyView {
    user: UserId,
    key: String,
}

/// A key as its owner's operator sees it.
#[derive(Debug, Serialize, Deserialize)]
struct ListedKey {
    id: KeyId,
    label: String,
    scopes: String,
    created_ms: u64,
    expires_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Done {}

/// What went wrong, as the socket says it.
#[derive(Debug, Serialize, Deserialize)]
struct Refusal {
    detail: String,
}

impl From<UserRecord> for UserView {
    fn from(user: UserRecord) -> Self {
        let UserRecord { id, name, email, time_zone, disabled, role, .. } = user;
        let role = Role::from_number(role).name().to_owned();
        Self { id, name, email, time_zone, role, disabled }
    }
}

// ---- what is done, wherever it is asked for ----

fn do_add_user(admin: &Admin, user: &NewUser) -> Result<UserView, AdminError> {
    let NewUser { name, email, time_zone, role } = user;
    let wanted = api::NewUser {
        name: name.clone(),
        email: email.clone(),
        time_zone: Some(time_zone.clone()),
        role: Role::from_name(role).unwrap_or_default(),
        identity: None,
    };
    Ok(admin.make_user(&wanted)?.into())
}

fn do_list_users(admin: &Admin) -> Result<Vec<UserView>, AdminError> {
    Ok(admin.list_users(USERS_LISTED_MAX)?.into_iter().map(UserView::from).collect())
}

pub(crate) fn find(admin: &Admin, name: &str) -> anyhow::Result<UserRecord> {
    admin.find_user(name)?.with_context(|| format!("there is no user called {name:?}; add it first"))
}

fn do_change_user(admin: &Admin, change: &UserChange) -> anyhow::Result<UserView> {
    let user = find(admin, &change.name)?;
    let identity = change.issuer.as_ref().zip(change.subject.as_ref());
    let edit = api::UserEdit {
        email: change.email.clone(),
        time_zone: change.time_zone.clone(),
        role: change.role.as_deref().and_then(Role::from_name),
        disabled: change.disabled,
        tokens_since: change.sign_out.then(|| Some(Clock::system().timestamp())),
        identity: identity
            .map(|(issuer, subject)| api::Identity { issuer: issuer.clone(), subject: subject.clone() }),
    };
    Ok(admin.edit_user(&user.id, &edit)?.into())
}

fn do_connect(admin: &Admin, connection: &NewConnection) -> anyhow::Result<Done> {
    let user = find(admin, &connection.name)?;
    admin.connect_google(&user.id, &connection.refresh_token, &user.email, &connection.scope)?;
    Ok(Done {})
}

fn do_add_key(admin: &Admin, key: &NewKey) -> anyhow::Result<KeyView> {
    let user = find(admin, &key.name)?;
    let scopes = key.scopes.as_deref().map(str::parse).transpose()?.unwrap_or(Scopes::USER);
    let life_ms = key.days.map(|days| u64::from(days) * 24 * 60 * 60 * 1_000);
    let spec = KeySpec {
        label: key.label.clone(),
        scopes,
        expires_ms: life_ms.map(|life| Clock::system().unix_ms() + life),
    };
    let (made, _) = admin.make_key(&user.id, &spec, &KeyLimit::NONE)?;
    Ok(KeyView { user: user.id, key: made.expose() })
}

/// Changes what is given and leaves the rest.
fn do_limit(admin: &Admin, wanted: &NewLimit) -> anyhow::Result<LimitView> {
    let user = find(admin, &wanted.name)?;
    let before = if wanted.default { LimitRecord::default() } else { admin.limit(&user.id)? };
    let limit = LimitRecord {
        per_minute: wanted.per_minute.or(before.per_minute),
        per_hour: wanted.per_hour.or(before.per_hour),
        concurrent_max: wanted.concurrent.or(before.concurrent_max),
    };
    if limit != before || wanted.default {
        admin.set_limit(&user.id, &limit)?;
    }
    let LimitRecord { per_minute, per_hour, concurrent_max: concurrent } = limit;
    Ok(LimitView { per_minute, per_hour, concurrent })
}

fn do_list_keys(admin: &Admin, name: &str) -> anyhow::Result<Vec<ListedKey>> {
    let user = find(admin, name)?;
    let listed = |key: KeyRecord| ListedKey {
        id: key.id,
        label: key.label,
        scopes: Scopes::from_bits(key.scopes).to_string(),
        created_ms: key.created_ms,
        expires_ms: key.expires_ms,
    };
    Ok(admin.keys_of(&user.id)?.into_iter().map(listed).collect())
}

fn do_revoke_key(admin: &Admin, revocation: &KeyRevocation) -> anyhow::Result<Done> {
    let user = find(admin, &revocation.name)?;
    admin.revoke_key(&user.id, &revocation.key)?;
    Ok(Done {})
}

fn do_seed(admin: &Admin, part: SeedPart) -> Result<Vec<SeededView>, AdminError> {
    let SeedPart { prefix, first, count, refresh_token_prefix } = part;
    let made = admin.seed_users(&Seed { name_prefix: prefix, first, count, refresh_token_prefix })?;
    Ok(made.into_iter().map(|(user, key)| SeededView { name: user.name, key: key.expose() }).collect())
}

// ---- the command line ----

pub(crate) fn seed_users(config: &Config, seed: &NewSeed) -> anyhow::Result<()> {
    if seed.count == 0 || seed.count > SEED_USERS_MAX {
        bail!("--count must be 1 to {SEED_USERS_MAX}");
    }
    let control = Control::open(config)?;
    // Whoever reads the keys is these users.
    let opened =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&seed.keys_out);
    let file = opened.with_context(|| format!("cannot write {}", seed.keys_out.display()))?;
    let mut out = io::BufWriter::new(file);
    let mut made = 0;
    while made < seed.count {
        let part = SeedPart {
            prefix: seed.prefix.clone(),
            first: seed.first + made as u64,
            count: (seed.count - made).min(SEED_PART),
            refresh_token_prefix: seed.refresh_token_prefix.clone(),
        };
        made += part.count;
        let users: Vec<SeededView> = match &control {
            Control::Running(socket) => socket.post("/seed", &part)?,
            Control::Direct(admin) => do_seed(admin, part)?,
        };
        for user in users {
            writeln!(out, "{}\t{}", user.name, user.key)?;
        }
    }
    out.flush()?;
    println!("{made} users, keys in {}", seed.keys_out.display());
    Ok(())
}

pub(crate) fn add_user(config: &Config, user: &NewUser) -> anyhow::Result<()> {
    let made: UserView = match Control::open(config)? {
        Control::Running(socket) => socket.post("/users", user)?,
        Control::Direct(admin) => do_add_user(&admin, user)?,
    };
    println!("{}", line_of(&made));
    Ok(())
}

pub(crate) fn list_users(config: &Config) -> anyhow::Result<()> {
    let users: Vec<UserView> = match Control::open(config)? {
        Control::Running(socket) => socket.get("/users")?,
        Control::Direct(admin) => do_list_users(&admin)?,
    };
    for user in users {
        println!("{}", line_of(&user));
    }
    Ok(())
}

/// A user in one line; what is as usual is not said.
fn line_of(user: &UserView) -> String {
    let mut line = format!("{}\t{}\t{}\t{}", user.id, user.name, user.email, user.time_zone);
    if user.role != Role::User.name() {
        line.push_str(&format!("\t{}", user.role));
    }
    if user.disabled {
        line.push_str("\tdisabled");
    }
    line
}

pub(crate) fn change_user(config: &Config, change: &UserChange) -> anyhow::Result<()> {
    let changed: UserView = match Control::open(config)? {
        Control::Running(socket) => socket.post("/users/change", change)?,
        Control::Direct(admin) => do_change_user(&admin, change)?,
    };
    println!("{}", line_of(&changed));
    Ok(())
}

pub(crate) fn list_keys(config: &Config, owner: &KeyOwner) -> anyhow::Result<()> {
    let keys: Vec<ListedKey> = match Control::open(config)? {
        Control::Running(socket) => socket.post("/keys/list", &owner.name)?,
        Control::Direct(admin) => do_list_keys(&admin, &owner.name)?,
    };
    for key in keys {
        let at = |ms| sluice_shard::clock::timestamp_of(ms);
        let expires = if key.expires_ms == 0 { "-".to_owned() } else { at(key.expires_ms).to_string() };
        println!("{}\t{}\t{}\t{}\t{expires}", key.id, key.label, key.scopes, at(key.created_ms));
    }
    Ok(())
}

pub(crate) fn revoke_key(config: &Config, revocation: &KeyRevocation) -> anyhow::Result<()> {
    let Done {} = match Control::open(config)? {
        Control::Running(socket) => socket.post("/keys/revoke", revocation)?,
        Control::Direct(admin) => do_revoke_key(&admin, revocation)?,
    };
    println!("{} is revoked", revocation.key);
    Ok(())
}

pub(crate) fn connect(config: &Config, connection: &NewConnection) -> anyhow::Result<()> {
    let Done {} = match Control::open(config)? {
        Control::Running(socket) => socket.post("/connections", connection)?,
        Control::Direct(admin) => do_connect(&admin, connection)?,
    };
    println!("{} is connected with Google", connection.name);
    Ok(())
}

/// Shows what holds from now on.
pub(crate) fn limit_user(config: &Config, limit: &NewLimit) -> anyhow::Result<()> {
    let set: LimitView = match Control::open(config)? {
        Control::Running(socket) => socket.post("/limits", limit)?,
        Control::Direct(admin) => do_limit(&admin, limit)?,
    };
    let shown = |own: Option<u32>, common: u64| {
        let (count, whose) = own.map_or((common, "as all"), |own| (u64::from(own), "own"));
        if count == 0 { format!("no limit ({whose})") } else { format!("{count} ({whose})") }
    };
    let rate = &config.rate;
    println!(
        "{}\tper minute: {}\tper hour: {}\tconcurrent: {}",
        limit.name,
        shown(set.per_minute, rate.user_per_minute),
        shown(set.per_hour, rate.user_per_hour),
        shown(set.concurrent, rate.user_concurrent_max)
    );
    Ok(())
}

pub(crate) fn add_key(config: &Config, key: &NewKey) -> anyhow::Result<()> {
    let made = match Control::open(config)? {
        Control::Running(socket) => socket.post("/keys", key)?,
        Control::Direct(admin) => do_add_key(&admin, key)?,
    };
    println!("{}", made.key);
    Ok(())
}

/// The way to the data.
pub(crate) enum Control {
    Running(Socket),
    Direct(Admin),
}

impl Control {
    pub(crate) fn open(config: &Config) -> anyhow::Result<Self> {
        let path = config.admin.socket_path(&config.server);
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            return Ok(Self::Running(Socket { path }));
        }
        match open_store(config) {
            Ok(store) => {
                let vault = vault::open(&store, KeySource::of(config).read()?)?;
                Ok(Self::Direct(Admin::new(store, vault)))
            }
            Err(error) if matches!(error.downcast_ref(), Some(OpenError::Locked { .. })) => {
                let path = path.display();
                let context =
                    format!("a gateway runs on this directory, but its socket {path} does not answer");
                Err(error.context(context))
            }
            Err(error) => Err(error),
        }
    }
}

pub(crate) struct Socket {
    path: PathBuf,
}

impl Socket {
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.call(path, REQUEST_TIMEOUT, |client, url| client.get(url))
    }

    pub(crate) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        self.post_within(REQUEST_TIMEOUT, path, body)
    }

    /// As [`Self::post`], for what may take longer than usual.
    pub(crate) fn post_within<T: DeserializeOwned>(
        &self,
        limit: Duration,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        self.call(path, limit, |client, url| client.post(url).json(body))
    }

    fn call<T: DeserializeOwned>(
        &self,
        path: &str,
        limit: Duration,
        build: impl FnOnce(&reqwest::Client, String) -> reqwest::RequestBuilder,
    ) -> anyhow::Result<T> {
        let client = reqwest::Client::builder().unix_socket(self.path.as_path()).timeout(limit).build()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let request = build(&client, format!("http://sluice{path}"));
            let response = request.send().await.context("the gateway's socket does not answer")?;
            if response.status().is_success() {
                return Ok(response.json().await?);
            }
            let status = response.status();
            let refusal: Result<Refusal, _> = response.json().await;
            bail!("{}", refusal.map_or_else(|_| format!("the gateway answered {status}"), |r| r.detail))
        })
    }
}

// ---- the server ----

/// Where administration listens.
pub(crate) struct Bound {
    pub(crate) address: SocketAddr,
    pub(crate) socket: PathBuf,
}

/// Binds the TCP address; nobody is let in before [`serve`].
pub(crate) fn bind(config: &Config) -> anyhow::Result<TcpSocket> {
    let wanted = config.admin.listen;
    let bound = || {
        let socket = if wanted.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(wanted)?;
        io::Result::Ok(socket)
    };
    bound().with_context(|| format!("cannot listen on admin.listen {wanted}"))
}

/// Starts both listeners on the shared runtime.
pub(crate) fn serve(
    config: &Config,
    egress: &Egress,
    socket: TcpSocket,
    admin: Admin,
    metrics: Arc<Metrics>,
) -> anyhow::Result<Bound> {
    let runtime = egress.runtime();
    let _runtime = runtime.enter();
    let wanted = config.admin.listen;
    let tcp =
        socket.listen(BACKLOG_MAX).with_context(|| format!("cannot listen on admin.listen {wanted}"))?;
    let address = tcp.local_addr()?;
    let path = config.admin.socket_path(&config.server);
    let unix = bind_socket(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let health = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(page))
        .with_state(metrics);
    let users = Router::new()
        .route("/users", get(handle_list_users).post(handle_add_user))
        .route("/connections", post(handle_connect))
        .route("/users/change", post(handle_change_user))
        .route("/keys", post(handle_add_key))
        .route("/limits", post(handle_limit))
        .route("/keys/list", post(handle_list_keys))
        .route("/keys/revoke", post(handle_revoke_key))
        .route("/seed", post(handle_seed))
        .route("/users/export", post(farewell::handle_export))
        .route("/users/erase", post(farewell::handle_erase))
        .route("/audit/page", post(handle_audit_page))
        .route("/audit/proof", post(handle_audit_proof))
        .with_state(admin.clone())
        .merge(vault::routes(Served::new(&admin, config)));
    runtime.spawn(async move { axum::serve(tcp, health).await });
    runtime.spawn(async move { axum::serve(unix, users).await });
    Ok(Bound { address, socket: path })
}

/// The data directory is locked by this process, so a socket that is there was
/// left by one that died.
fn bind_socket(path: &Path) -> io::Result<tokio::net::UnixListener> {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(listener)
}

#[derive(Deserialize)]
struct Verbose {
    verbose: Option<String>,
}

async fn readyz(State(metrics): State<Arc<Metrics>>, Query(query): Query<Verbose>) -> Response {
    let states: Vec<CoreState> = metrics.cores().collect();
    let stopped = metrics.store_stopped();
    let is_ready = stopped.is_none() && states.iter().all(|state| *state == CoreState::Ready);
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = String::from(if is_ready { "ready\n" } else { "not ready\n" });
    if query.verbose.is_some() {
        for (core, state) in states.iter().enumerate() {
            text.push_str(&format!("core {core}: {state:?}\n"));
        }
        text.push_str(&format!("store: {}\n", stopped.as_deref().unwrap_or("ok")));
    }
    (status, text).into_response()
}

async fn page(State(metrics): State<Arc<Metrics>>) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.render()).into_response()
}

async fn handle_list_users(State(admin): State<Admin>) -> Response {
    answer(move || Ok(do_list_users(&admin)?)).await
}

async fn handle_add_user(State(admin): State<Admin>, Json(user): Json<NewUser>) -> Response {
    answer(move || Ok(do_add_user(&admin, &user)?)).await
}

async fn handle_connect(State(admin): State<Admin>, Json(connection): Json<NewConnection>) -> Response {
    answer(move || do_connect(&admin, &connection)).await
}

async fn handle_add_key(State(admin): State<Admin>, Json(key): Json<NewKey>) -> Response {
    answer(move || do_add_key(&admin, &key)).await
}

async fn handle_limit(State(admin): State<Admin>, Json(limit): Json<NewLimit>) -> Response {
    answer(move || do_limit(&admin, &limit)).await
}

async fn handle_change_user(State(admin): State<Admin>, Json(change): Json<UserChange>) -> Response {
    answer(move || do_change_user(&admin, &change)).await
}

async fn handle_list_keys(State(admin): State<Admin>, Json(name): Json<String>) -> Response {
    answer(move || do_list_keys(&admin, &name)).await
}

async fn handle_revoke_key(State(admin): State<Admin>, Json(revocation): Json<KeyRevocation>) -> Response {
    answer(move || do_revoke_key(&admin, &revocation)).await
}

async fn handle_seed(State(admin): State<Admin>, Json(part): Json<SeedPart>) -> Response {
    answer(move || Ok(do_seed(&admin, part)?)).await
}

async fn handle_audit_page(State(admin): State<Admin>, Json(wanted): Json<PageWanted>) -> Response {
    answer(move || audit::do_page(&admin, &wanted)).await
}

async fn handle_audit_proof(State(admin): State<Admin>, Json(wanted): Json<ProofWanted>) -> Response {
    answer(move || audit::do_prove(&admin, &wanted)).await
}

/// Storage blocks, so it is asked on a thread where that is allowed.
pub(crate) async fn answer<T, F>(work: F) -> Response
where
    T: Serialize + Send + 'static,
    F: FnOnce() -> anyhow::Result<T> + Send + 'static,
{
    let result = tokio::task::spawn_blocking(work).await.map_err(anyhow::Error::from).flatten();
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => {
            let refusal = Refusal { detail: format!("{error:#}") };
            (StatusCode::UNPROCESSABLE_ENTITY, Json(refusal)).into_response()
        }
    }
}

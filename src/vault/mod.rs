//! `sluice vault`: master keys, and the users' keys under them. What it does to a store it does through the administration
//! of the gateway that runs on it, or by itself when none runs.

mod keys;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, bail};
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use sluice_shard::Admin;
use sluice_shard::audit::{self, Act};
use sluice_store::Store;
use sluice_store::vault::{Cursor, Keyring, MasterVersion, PART_ROWS_MAX, Survey, Vault, Work};

use crate::admin::{Control, Socket, answer};
use crate::config::Config;
pub(crate) use keys::KeySource;

#[derive(Debug, Subcommand)]
pub(crate) enum VaultCommand {
    /// Make a file with a new master key, or add a newer version to one
    Keygen(Keygen),
    /// Show the master key versions and what is under each
    Status,
    /// Wrap all users' keys under the newest master key, and seal what older versions left as it is
    Rotate(Rotate),
    /// Do without an old master key version that nothing is under any more
    Forget(Forget),
}

#[derive(Debug, Args)]
pub(crate) struct Keygen {
    /// The file, outside the data directory; only its owner may read it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Add a newer version to a file that is there
    #[arg(long)]
    add: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Rotate {
    /// Records looked at in one part, 1 to 10000; progress is told after each
    #[arg(long, default_value_t = PART_ROWS_MAX, value_name = "N")]
    rows: usize,
}

#[derive(Debug, Args, Serialize, Deserialize)]
pub(crate) struct Forget {
    /// The version
    version: u32,
}

/// What a store knows of its master keys.
#[derive(Debug, Serialize, Deserialize)]
struct Overview {
    store: String,
    /// Versions that may be in use, oldest first.
    versions: Vec<u32>,
    current: u32,
}

/// One part of a walk over all users, as the socket takes it.
#[derive(Debug, Serialize, Deserialize)]
struct PartWanted {
    cursor: Option<String>,
    rows: usize,
    rotate: bool,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
struct PartDone {
    next: Option<String>,
    shards_done: u16,
    shards: u16,
    under: BTreeMap<u32, u64>,
    destroyed: u64,
    plain: u64,
    wrapped: u64,
    sealed: u64,
    busy: u64,
    unreadable: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Done {}

/// Opens the vault of a store. What is wrong is said with what to do.
pub(crate) fn open(store: &Store, keyring: Keyring) -> anyhow::Result<Vault> {
    Vault::open(store, keyring).context("the vault cannot be opened")
}

// ---- what is done, wherever it is asked for ----

/// A vault, and where its master keys come from.
#[derive(Clone)]
pub(crate) struct Served {
    vault: Vault,
    source: KeySource,
    shards: u16,
}

impl Served {
    pub(crate) fn new(admin: &Admin, config: &Config) -> Self {
        let (vault, shards) = (admin.vault().clone(), admin.vault().store().shard_count().get());
        Self { vault, source: KeySource::of(config), shards }
    }

    fn overview(&self) -> Overview {
        Overview {
            store: self.vault.store_id().to_string(),
            versions: self.vault.versions().into_iter().map(MasterVersion::get).collect(),
            current: self.vault.current_version().get(),
        }
    }

    /// Takes the master keys anew.
    fn reload(&self) -> anyhow::Result<Overview> {
        self.vault.reload(self.source.read()?)?;
        Ok(self.overview())
    }

    fn part(&self, wanted: &PartWanted) -> anyhow::Result<PartDone> {
        let cursor = wanted.cursor.as_deref().map(str::parse::<Cursor>).transpose()?;
        let work = if wanted.rotate { Work::Rotate } else { Work::Count };
        if wanted.rotate && cursor.is_none() {
            self.tell(Act::VaultRotate, self.vault.current_version())?;
        }
        let part = self.vault.walk_blocking(cursor, wanted.rows, work)?;
        let Survey { under, destroyed, plain, wrapped, sealed, busy, unreadable } = part.survey;
        Ok(PartDone {
            next: part.next.map(|cursor| cursor.to_string()),
            shards_done: part.shards_done,
            shards: self.shards,
            under: under.into_iter().map(|(version, count)| (version.get(), count)).collect(),
            destroyed,
            plain,
            wrapped,
            sealed,
            busy,
            unreadable,
        })
    }

    fn forget(&self, forget: &Forget) -> anyhow::Result<Done> {
        let version = MasterVersion::new(forget.version).context("versions begin at 1")?;
        self.vault.forget_blocking(version)?;
        self.tell(Act::VaultForget, version)?;
        Ok(Done {})
    }

    fn tell(&self, act: Act, version: MasterVersion) -> anyhow::Result<()> {
        let name = format!("master key {}", version.get());
        Ok(audit::tell_blocking(self.vault.store(), act, &name)?)
    }
}

// ---- the command line ----

pub(crate) fn run(config: &Config, command: &VaultCommand) -> anyhow::Result<()> {
    match command {
        VaultCommand::Keygen(keygen) => {
            let version = keys::generate(&keygen.out, keygen.add, &config.server.data_dir)?;
            println!("master key version {version} is in {}", keygen.out.display());
            Ok(())
        }
        VaultCommand::Status => status(&Way::open(config)?),
        VaultCommand::Rotate(Rotate { rows }) => rotate(&Way::open(config)?, *rows),
        VaultCommand::Forget(forget) => {
            Way::open(config)?.forget(forget)?;
            let version = forget.version;
            println!("version {version} is forgotten: take it out of where the master keys are kept");
            Ok(())
        }
    }
}

fn status(way: &Way) -> anyhow::Result<()> {
    let overview = way.overview()?;
    let mut total = Total::default();
    while total.add(&way.part(&total.ask(PART_ROWS_MAX, false))?) {}
    let versions = overview.versions.iter().map(|version| {
        let note = if *version == overview.current { " (current)" } else { "" };
        format!("{version}{note}")
    });
    println!("store        {}", overview.store);
    println!("master keys  {}", versions.collect::<Vec<_>>().join(", "));
    println!("data keys    {}", total.under_each(&overview));
    println!("destroyed    {}", total.destroyed);
    println!("not sealed   {}", total.plain);
    if total.unreadable > 0 {
        println!("unreadable   {}; see the log", total.unreadable);
    }
    Ok(())
}

fn rotate(way: &Way, rows: usize) -> anyhow::Result<()> {
    if !(1..=PART_ROWS_MAX).contains(&rows) {
        bail!("--rows must be 1 to {PART_ROWS_MAX}");
    }
    let overview = way.reload()?;
    println!("wrapping under master key version {}", overview.current);
    let mut total = Total::default();
    loop {
        let part = way.part(&total.ask(rows, true))?;
        let is_over = !total.add(&part);
        println!(
            "shards {}/{}: {} keys wrapped anew, {} secrets sealed",
            part.shards_done, part.shards, total.wrapped, total.sealed
        );
        if is_over {
            break;
        }
    }
    println!("data keys: {}", total.under_each(&overview));
    if total.busy > 0 || total.unreadable > 0 {
        bail!(
            "{} records were busy (run it again), {} cannot be read (see the log); no master key may be given up",
            total.busy,
            total.unreadable
        );
    }
    for version in overview.versions.iter().filter(|version| **version != overview.current) {
        println!("nothing is under version {version} any more: `sluice vault forget {version}`");
    }
    Ok(())
}

/// What all parts of a walk found so far.
#[derive(Debug, Default)]
struct Total {
    next: Option<String>,
    under: BTreeMap<u32, u64>,
    destroyed: u64,
    plain: u64,
    wrapped: u64,
    sealed: u64,
    busy: u64,
    unreadable: u64,
}

impl Total {
    fn ask(&self, rows: usize, rotate: bool) -> PartWanted {
        PartWanted { cursor: self.next.clone(), rows, rotate }
    }

    /// Adds a part; whether there is more.
    fn add(&mut self, part: &PartDone) -> bool {
        for (version, count) in &part.under {
            *self.under.entry(*version).or_default() += count;
        }
        self.destroyed += part.destroyed;
        self.plain += part.plain;
        self.wrapped += part.wrapped;
        self.sealed += part.sealed;
        self.busy += part.busy;
        self.unreadable += part.unreadable;
        self.next.clone_from(&part.next);
        self.next.is_some()
    }

    /// Every version that is known or met, with its count.
    fn under_each(&self, overview: &Overview) -> String {
        let known = overview.versions.iter().map(|version| (*version, 0));
        let mut counts: BTreeMap<u32, u64> = known.collect();
        counts.extend(&self.under);
        let each = counts.iter().map(|(version, count)| format!("{count} under version {version}"));
        each.collect::<Vec<_>>().join(", ")
    }
}

/// The way to the vault.
enum Way {
    Running(Socket),
    Direct(Served),
}

impl Way {
    fn open(config: &Config) -> anyhow::Result<Self> {
        Ok(match Control::open(config)? {
            Control::Running(socket) => Self::Running(socket),
            Control::Direct(admin) => Self::Direct(Served::new(&admin, config)),
        })
    }

    fn overview(&self) -> anyhow::Result<Overview> {
        match self {
            Self::Running(socket) => socket.get("/vault"),
            Self::Direct(served) => Ok(served.overview()),
        }
    }

    fn reload(&self) -> anyhow::Result<Overview> {
        match self {
            Self::Running(socket) => socket.post("/vault/reload", &Done {}),
            Self::Direct(served) => served.reload(),
        }
    }

    fn part(&self, wanted: &PartWanted) -> anyhow::Result<PartDone> {
        match self {
            Self::Running(socket) => socket.post("/vault/part", wanted),
            Self::Direct(served) => served.part(wanted),
        }
    }

    fn forget(&self, forget: &Forget) -> anyhow::Result<Done> {
        match self {
            Self::Running(socket) => socket.post("/vault/forget", forget),
            Self::Direct(served) => served.forget(forget),
        }
    }
}

// ---- the server ----

/// What the administration's socket answers about the vault.
pub(crate) fn routes(served: Served) -> Router {
    Router::new()
        .route("/vault", get(handle_overview))
        .route("/vault/reload", post(handle_reload))
        .route("/vault/part", post(handle_part))
        .route("/vault/forget", post(handle_forget))
        .with_state(served)
}

async fn handle_overview(State(served): State<Served>) -> Response {
    answer(move || Ok(served.overview())).await
}

async fn handle_reload(State(served): State<Served>) -> Response {
    answer(move || served.reload()).await
}

async fn handle_part(State(served): State<Served>, Json(wanted): Json<PartWanted>) -> Response {
    answer(move || served.part(&wanted)).await
}

async fn handle_forget(State(served): State<Served>, Json(forget): Json<Forget>) -> Response {
    answer(move || served.forget(&forget)).await
}

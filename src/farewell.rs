//! `sluice user export` and `sluice user erase`: all of a user's data out, and all of it away.
//!
//! Both go by the socket of a running gateway or work on the directory. An export is read in pages, so that neither side
//! ever holds more than one.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use clap::Args;
use serde::{Deserialize, Serialize};
use sluice_protocols::ids::UserId;
use sluice_shard::{Admin, ExportPage, ExportPlace, Revoked};

use crate::admin::{Control, answer, find};
use crate::config::Config;
use crate::serve::with_revoker;

/// How long an erasure is waited for: tables are rewritten. It is done to its end whoever waits.
const ERASE_MAX: Duration = Duration::from_secs(60 * 60);

/// Options of `sluice user export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The user's name or mail address
    name: String,
    /// File to make; it must not be there
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Options of `sluice user erase`.
#[derive(Debug, Args)]
pub(crate) struct EraseArgs {
    /// The user's name
    name: String,
    /// Really: nothing brings the data back
    #[arg(long)]
    yes: bool,
}

/// Which part of whose export.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PartWanted {
    name: String,
    place: Option<ExportPlace>,
}

/// Whom to erase.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ErasureWanted {
    name: String,
}

/// What was erased.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ErasedView {
    user: UserId,
    removed: BTreeMap<String, u64>,
    #[serde(default)]
    revoked: u32,
    #[serde(default)]
    unrevoked: u32,
}

// ---- what is done, wherever it is asked for ----

fn do_export(admin: &Admin, wanted: PartWanted) -> anyhow::Result<ExportPage> {
    let user = find(admin, &wanted.name)?;
    Ok(admin.export_page(&user.id, wanted.place)?)
}

fn do_erase(admin: &Admin, wanted: &ErasureWanted) -> anyhow::Result<ErasedView> {
    let user = find(admin, &wanted.name)?;
    let erased = admin.erase_user(&user.id, &wanted.name)?;
    let removed = erased.removed.iter().map(|(kind, count)| (kind.word().to_owned(), *count)).collect();
    let Revoked { done, failed } = erased.revoked;
    Ok(ErasedView { user: erased.user, removed, revoked: done, unrevoked: failed })
}

pub(crate) async fn handle_export(State(admin): State<Admin>, Json(wanted): Json<PartWanted>) -> Response {
    answer(move || do_export(&admin, wanted)).await
}

pub(crate) async fn handle_erase(State(admin): State<Admin>, Json(wanted): Json<ErasureWanted>) -> Response {
    answer(move || do_erase(&admin, &wanted)).await
}

// ---- the command line ----

pub(crate) fn export(config: &Config, args: &ExportArgs) -> anyhow::Result<()> {
    let control = Control::open(config)?;
    // Whoever reads it knows all of the user.
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.out);
    let file = opened.with_context(|| format!("cannot make {}", args.out.display()))?;
    let mut out = io::BufWriter::new(file);
    match write_parts(&control, &args.name, &mut out) {
        Ok(lines) => {
            println!("{lines} lines in {}", args.out.display());
            Ok(())
        }
        Err(error) => {
            let _ = fs::remove_file(&args.out);
            Err(error)
        }
    }
}

/// Gives the number of lines.
fn write_parts(control: &Control, name: &str, out: &mut impl io::Write) -> anyhow::Result<usize> {
    let (mut place, mut lines) = (None, 0);
    loop {
        let wanted = PartWanted { name: name.to_owned(), place };
        let page = match control {
            Control::Running(socket) => socket.post("/users/export", &wanted)?,
            Control::Direct(admin) => do_export(admin, wanted)?,
        };
        lines += page.lines.lines().count();
        out.write_all(page.lines.as_bytes())?;
        match page.next {
            Some(next) => place = Some(next),
            None => {
                out.flush()?;
                return Ok(lines);
            }
        }
    }
}

pub(crate) fn erase(config: &Config, args: &EraseArgs) -> anyhow::Result<()> {
    if !args.yes {
        bail!(
            "nothing brings back what is erased: say --yes, and export the user before if anything is needed"
        );
    }
    let wanted = ErasureWanted { name: args.name.clone() };
    let erased: ErasedView = match Control::open(config)? {
        Control::Running(socket) => socket.post_within(ERASE_MAX, "/users/erase", &wanted)?,
        Control::Direct(admin) => {
            let (admin, egress) = with_revoker(config, admin)?;
            let erased = do_erase(&admin, &wanted);
            if let Some(egress) = egress {
                egress.shutdown(Duration::ZERO);
            }
            erased?
        }
    };
    let removed: Vec<String> = erased.removed.iter().map(|(kind, count)| format!("{kind}={count}")).collect();
    println!("{}\terased\t{}", erased.user, removed.join(" "));
    if erased.unrevoked > 0 {
        eprintln!(
            "Google could not be told of {} of the user's accounts: they can take the permission back at myaccount.google.com",
            erased.unrevoked
        );
    }
    Ok(())
}

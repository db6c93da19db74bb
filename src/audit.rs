//! `sluice audit`: reads the audit log, proves it, and tells its ends for keeping elsewhere.
//!
//! A log is read in pages, by the socket of a running gateway or from the directory, so that neither side ever holds more
//! than one. Chains are walked where the store is, a shard a request.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sluice_protocols::hex;
use sluice_protocols::ids::ShardId;
use sluice_shard::Admin;
use sluice_store::{AuditEntry, AuditHead, audit};

use crate::admin::Control;
use crate::config::Config;

/// What `sluice audit` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Print entries as JSON lines, by shard and number
    Export(ExportArgs),
    /// Walk all chains and tell the first entry of each that is not as it was written
    Verify(VerifyArgs),
    /// Print the end of each chain as JSON lines, to be kept elsewhere for `verify --anchor`
    Head,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// From this moment on, such as 2026-11-30T00:00:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<Timestamp>,
    /// Before this moment
    #[arg(long, value_name = "TIME")]
    to: Option<Timestamp>,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// File with what `sluice audit head` printed at some time: the chains must still pass through it
    #[arg(long, value_name = "FILE")]
    anchor: Option<PathBuf>,
}

/// An entry, as a line of an export. With the fields in this order its hash can be worked out anew (docs/security.md).
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EntryView {
    shard: u16,
    sequence: u64,
    at: String,
    at_ms: u64,
    actor: String,
    act: String,
    object: String,
    outcome: String,
    address: String,
    request: String,
    hash: String,
}

/// The end of a chain, as a line of an anchor file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeadView {
    shard: u16,
    sequence: u64,
    hash: String,
}

/// Which entries are asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PageWanted {
    shard: u16,
    after: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PageView {
    /// How many shards there are.
    shards: u16,
    entries: Vec<EntryView>,
    is_last: bool,
}

/// Which chain is to be proved, and through what it must pass.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ProofWanted {
    shard: u16,
    anchors: Vec<HeadView>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ProofView {
    shards: u16,
    head: HeadView,
    fault: Option<String>,
}

impl EntryView {
    fn of(shard: ShardId, entry: AuditEntry) -> Self {
        let AuditEntry { sequence, hash, event } = entry;
        let at = i64::try_from(event.at_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        Self {
            shard: shard.index(),
            sequence,
            at: at.map_or_else(String::new, |at| at.to_string()),
            at_ms: event.at_ms,
            actor: event.actor,
            act: event.act,
            object: event.object,
            outcome: event.outcome,
            address: event.address,
            request: event.request,
            hash: hex::encode(&hash),
        }
    }
}

impl HeadView {
    fn of(shard: ShardId, head: AuditHead) -> Self {
        Self { shard: shard.index(), sequence: head.sequence, hash: hex::encode(&head.hash) }
    }

    fn head(&self) -> anyhow::Result<AuditHead> {
        let hash = hex::decode(&self.hash).with_context(|| format!("{:?} is no hash", self.hash))?;
        Ok(AuditHead { sequence: self.sequence, hash })
    }
}

// ---- what is done, wherever it is asked for ----

fn shard_of(admin: &Admin, index: u16) -> anyhow::Result<ShardId> {
    let count = admin.store().shard_count();
    ShardId::new(index, count).with_context(|| format!("there is no shard {index}, only {}", count.get()))
}

pub(crate) fn do_page(admin: &Admin, wanted: &PageWanted) -> anyhow::Result<PageView> {
    let shard = shard_of(admin, wanted.shard)?;
    let page = audit::page(admin.store(), shard, wanted.after)?;
    let entries = page.entries.into_iter().map(|entry| EntryView::of(shard, entry)).collect();
    Ok(PageView { shards: admin.store().shard_count().get(), entries, is_last: page.is_last })
}

pub(crate) fn do_prove(admin: &Admin, wanted: &ProofWanted) -> anyhow::Result<ProofView> {
    let shard = shard_of(admin, wanted.shard)?;
    let of_shard = wanted.anchors.iter().filter(|anchor| anchor.shard == wanted.shard);
    let anchors = of_shard.map(HeadView::head).collect::<anyhow::Result<Vec<_>>>()?;
    let proof = audit::verify(admin.store(), shard, &anchors)?;
    Ok(ProofView {
        shards: admin.store().shard_count().get(),
        head: HeadView::of(shard, proof.head),
        fault: proof.fault.map(|fault| fault.to_string()),
    })
}

// ---- the command line ----

pub(crate) fn run(config: &Config, command: &AuditCommand) -> anyhow::Result<()> {
    let control = Control::open(config)?;
    match command {
        AuditCommand::Export(args) => export(&control, args),
        AuditCommand::Verify(args) => verify(&control, args),
        AuditCommand::Head => head(&control),
    }
}

fn page(control: &Control, wanted: &PageWanted) -> anyhow::Result<PageView> {
    match control {
        Control::Running(socket) => socket.post("/audit/page", wanted),
        Control::Direct(admin) => do_page(admin, wanted),
    }
}

fn prove(control: &Control, wanted: &ProofWanted) -> anyhow::Result<ProofView> {
    match control {
        Control::Running(socket) => socket.post("/audit/proof", wanted),
        Control::Direct(admin) => do_prove(admin, wanted),
    }
}

fn millisecond(time: Option<Timestamp>) -> Option<u64> {
    // What was before 1970 was before everything.
    time.map(|time| u64::try_from(time.as_millisecond()).unwrap_or(0))
}

fn export(control: &Control, args: &ExportArgs) -> anyhow::Result<()> {
    let from = millisecond(args.from).unwrap_or(0);
    let to = millisecond(args.to).unwrap_or(u64::MAX);
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut wanted = PageWanted { shard: 0, after: 0 };
    loop {
        let PageView { shards, entries, is_last } = page(control, &wanted)?;
        wanted.after = entries.last().map_or(wanted.after, |entry| entry.sequence);
        for entry in entries.iter().filter(|entry| (from..to).contains(&entry.at_ms)) {
            serde_json::to_writer(&mut out, entry)?;
            out.write_all(b"\n")?;
        }
        if is_last {
            wanted = PageWanted { shard: wanted.shard + 1, after: 0 };
            if wanted.shard == shards {
                break;
            }
        }
    }
    Ok(out.flush()?)
}

/// The proof of every shard in turn.
fn proofs(control: &Control, anchors: &[HeadView]) -> anyhow::Result<Vec<ProofView>> {
    let mut proofs = Vec::new();
    let mut shards = 1;
    for shard in 0.. {
        if shard == shards {
            break;
        }
        let anchors = anchors.iter().filter(|anchor| anchor.shard == shard).cloned().collect();
        let proof = prove(control, &ProofWanted { shard, anchors })?;
        shards = proof.shards;
        proofs.push(proof);
    }
    Ok(proofs)
}

fn verify(control: &Control, args: &VerifyArgs) -> anyhow::Result<()> {
    let anchors = args.anchor.as_ref().map_or(Ok(Vec::new()), read_anchors)?;
    let proofs = proofs(control, &anchors)?;
    if let Some(anchor) = anchors.iter().find(|anchor| usize::from(anchor.shard) >= proofs.len()) {
        bail!(
            "the anchor names shard {}, but there are {}: it is another directory's",
            anchor.shard,
            proofs.len()
        );
    }
    let mut broken = 0;
    for ProofView { head, fault, .. } in &proofs {
        if let Some(fault) = fault {
            broken += 1;
            println!("shard {}: {fault}", head.shard);
        }
    }
    if broken > 0 {
        bail!("the audit log is not as it was written: {broken} of {} chains are broken", proofs.len());
    }
    let entries: u64 = proofs.iter().map(|proof| proof.head.sequence).sum();
    println!("{entries} entries in {} chains are as they were written", proofs.len());
    Ok(())
}

fn read_anchors(path: &PathBuf) -> anyhow::Result<Vec<HeadView>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let anchors = lines.map(|(number, line)| {
        let anchor: HeadView = serde_json::from_str(line)
            .with_context(|| format!("{}, line {number} is no anchor", path.display()))?;
        anchor.head().with_context(|| format!("{}, line {number}", path.display()))?;
        Ok(anchor)
    });
    anchors.collect()
}

fn head(control: &Control) -> anyhow::Result<()> {
    for ProofView { head, fault, .. } in proofs(control, &[])? {
        if let Some(fault) = fault {
            bail!("shard {}: {fault}: a broken chain has no end to keep", head.shard);
        }
        if head.sequence > 0 {
            println!("{}", serde_json::to_string(&head)?);
        }
    }
    Ok(())
}

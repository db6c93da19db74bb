//! `sluice task`: a task as a gateway tells it, and a task run again from its record.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args, Subcommand};
use sluice_protocols::api::{TaskView, task_path};
use sluice_protocols::ids::{SessionId, ShardId, TaskId, UserId};
use sluice_shard::run::{Remembered, replay};
use sluice_store::key::name_shard;
use sluice_store::record::{NameRecord, SESSION_TURNS_MAX, TaskRecord, TurnRecord, first_turn};
use sluice_store::{Key, KeyRange, Kind, ReadOnlyStore};

use crate::config::Config;
use crate::remote::{Remote, read};
use crate::show::{self, ShowArgs};

const TIMEOUT: Duration = Duration::from_secs(60);

/// What to do with a task.
#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// Show one, with plan, calls and answer
    Show(ShowArgs),
    /// Run one again from its record, without any upstream, and compare; reads the data directory, also beside a gateway
    Replay(ReplayArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// Its id
    id: TaskId,
    /// Whose it is, by name
    #[arg(long)]
    user: String,
}

/// Does it.
pub(crate) fn run(config: &Config, command: TaskCommand) -> anyhow::Result<()> {
    match command {
        TaskCommand::Show(ShowArgs { id, target, json }) => {
            target.call(config, TIMEOUT, async move |remote: &Remote| {
                let view: TaskView = read(&remote.ask("GET", &task_path(id), &[], Bytes::new()).await?)?;
                if json {
                    println!("{}", serde_json::to_string_pretty(&view)?);
                } else {
                    print!("{}", show::task(&view));
                }
                Ok(())
            })
        }
        TaskCommand::Replay(args) => run_again(&config.server.data_dir, &args),
    }
}

fn run_again(directory: &Path, args: &ReplayArgs) -> anyhow::Result<()> {
    let store = ReadOnlyStore::open(directory)?;
    let user = user_of(&store, &args.user)?;
    let shard = ShardId::of(&user, store.shard_count());
    let record = record_of(&store, shard, &user, args.id)?
        .with_context(|| format!("{} has no task {}", args.user, args.id))?;
    let remembered = remembered(&store, shard, &user, &record)?;
    drop(store);
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let replayed = replay(record, remembered, scratch.path())?;
    print!("{}", replayed.text);
    match replayed.divergences.len() {
        0 => Ok(()),
        count => bail!("the replay diverges from the record in {count} places"),
    }
}

fn user_of(store: &ReadOnlyStore, name: &str) -> anyhow::Result<UserId> {
    let home = name_shard(name, store.shard_count());
    let record = store.load::<NameRecord>(home, &Key::name(name)?)?;
    Ok(record.with_context(|| format!("there is no user called {name:?}"))?.to_record().user)
}

fn record_of(
    store: &ReadOnlyStore,
    shard: ShardId,
    user: &UserId,
    id: TaskId,
) -> anyhow::Result<Option<TaskRecord>> {
    for kind in [Kind::TaskPending, Kind::TaskFinished, Kind::DeadLetter] {
        if let Some(record) = store.load::<TaskRecord>(shard, &Key::task_of(kind, user, &id))? {
            return Ok(Some(record.to_record()));
        }
    }
    Ok(None)
}

/// What the task's session remembered when the task ran, as far as it is still kept.
fn remembered(
    store: &ReadOnlyStore,
    shard: ShardId,
    user: &UserId,
    task: &TaskRecord,
) -> anyhow::Result<Remembered> {
    let mut turns = turns_of(store, shard, user, &task.session)?;
    let own = turns.iter().position(|turn| turn.task == task.id);
    let is_pending = task.finished_ms.is_none();
    let is_known = own.is_some() || is_pending;
    turns.truncate(own.unwrap_or(if is_pending { turns.len() } else { 0 }));
    // What it could see reached back further than what is kept now, unless that is where it began.
    let next = turns.last().map_or(1, |turn| turn.number + 1);
    let is_whole = is_known && turns.first().map_or(1, |turn| turn.number) == first_turn(next);
    Ok(Remembered { turns, is_whole })
}

fn turns_of(
    store: &ReadOnlyStore,
    shard: ShardId,
    user: &UserId,
    session: &SessionId,
) -> anyhow::Result<Vec<TurnRecord>> {
    let page = store.scan(shard, KeyRange::turns(user, session), SESSION_TURNS_MAX, true)?;
    let turns = page.rows.into_iter().map(|(_, value)| {
        Ok::<_, sluice_store::ReadError>(ReadOnlyStore::validate::<TurnRecord>(value)?.to_record())
    });
    let mut turns = turns.collect::<Result<Vec<_>, _>>()?;
    turns.sort_by_key(|turn| turn.number);
    Ok(turns)
}

//! `sluice deadletter`: a user's dead letters, through the API of a running gateway.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sluice_protocols::api::{
    AcceptedView, DeadLetterListView, DeadLetterView, LIST_LIMIT_MAX, dead_letter_path,
};
use sluice_protocols::ids::TaskId;

use crate::command::PriorityArg;
use crate::config::Config;
use crate::remote::{Remote, Target, read, refusal};
use crate::show::{self, ShowArgs};

/// For all that one run does.
const TIMEOUT: Duration = Duration::from_secs(600);
/// Pages of dead letters that one run takes at most.
const PAGES_MAX: usize = 1_000;

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetterCommand {
    /// List them, newest first
    List(ListArgs),
    /// Show one, with what was done and why it was given up
    Show(ShowArgs),
    /// Change the command, the plan or the priority of one before it is redriven
    Edit(EditArgs),
    /// Make them tasks again
    Redrive(ManyArgs),
    /// Throw them away
    Purge(ManyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    target: Target,
    /// Print one JSON document a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EditArgs {
    /// Its id
    id: TaskId,
    #[command(flatten)]
    target: Target,
    /// Another command, planned anew
    #[arg(long, value_name = "TEXT")]
    command: Option<String>,
    /// Another plan, as JSON; null to plan anew
    #[arg(long, value_name = "JSON")]
    plan: Option<String>,
    /// Another priority
    #[arg(long)]
    priority: Option<PriorityArg>,
}

#[derive(Debug, Args)]
pub(crate) struct ManyArgs {
    /// Their ids
    #[arg(required_unless_present = "all")]
    ids: Vec<TaskId>,
    /// All there are
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    #[command(flatten)]
    target: Target,
}

/// Does it, and says what was done.
pub(crate) fn run(config: &Config, command: DeadLetterCommand) -> anyhow::Result<()> {
    match command {
        DeadLetterCommand::List(ListArgs { target, json }) => {
            target.call(config, TIMEOUT, async move |remote: &Remote| {
                for page in pages(remote).await? {
                    for task in page.dead_letters {
                        if json {
                            println!("{}", serde_json::to_string(&task)?);
                        } else {
                            println!("{}", show::dead_letter_line(&task));
                        }
                    }
                }
                Ok(())
            })
        }
        DeadLetterCommand::Show(ShowArgs { id, target, json }) => {
            target.call(config, TIMEOUT, async move |remote: &Remote| {
                let answer = remote.ask("GET", &dead_letter_path(id), &[], Bytes::new()).await?;
                let letter: DeadLetterView = read(&answer)?;
                if json {
                    println!("{}", serde_json::to_string_pretty(&letter)?);
                } else {
                    print!("{}", show::dead_letter(&letter));
                }
                Ok(())
            })
        }
        DeadLetterCommand::Edit(args) => args.edit(config),
        DeadLetterCommand::Redrive(args) => args.each(config, async |remote: &Remote, id: TaskId| {
            let path = format!("{}/redrive", dead_letter_path(id));
            let accepted: AcceptedView = read(&remote.ask("POST", &path, &[], Bytes::new()).await?)?;
            println!("{id} goes on as {}", accepted.location);
            Ok(())
        }),
        DeadLetterCommand::Purge(args) => args.each(config, async |remote: &Remote, id: TaskId| {
            let answer = remote.ask("DELETE", &dead_letter_path(id), &[], Bytes::new()).await?;
            if answer.head.status() != 204 {
                bail!("{}", refusal(answer.head.status(), &answer.body));
            }
            println!("{id} is gone");
            Ok(())
        }),
    }
}

/// All pages there are, the newest first.
async fn pages(remote: &Remote) -> anyhow::Result<Vec<DeadLetterListView>> {
    let mut pages: Vec<DeadLetterListView> = Vec::new();
    while pages.len() < PAGES_MAX {
        let mut path = format!("/api/v1/dead-letters?limit={LIST_LIMIT_MAX}");
        match pages.last().map(|page| &page.next) {
            None => {}
            Some(None) => return Ok(pages),
            Some(Some(next)) => path.push_str(&format!("&cursor={next}")),
        }
        pages.push(read(&remote.ask("GET", &path, &[], Bytes::new()).await?)?);
    }
    bail!("there are more than {} dead letters; take them by id", PAGES_MAX * LIST_LIMIT_MAX)
}

impl EditArgs {
    fn edit(&self, config: &Config) -> anyhow::Result<()> {
        let mut patch = serde_json::Map::new();
        if let Some(command) = &self.command {
            patch.insert("command".to_owned(), json!(command));
        }
        if let Some(plan) = &self.plan {
            let plan: Value = serde_json::from_str(plan).context("--plan is not JSON")?;
            patch.insert("plan".to_owned(), plan);
        }
        if let Some(priority) = self.priority {
            patch.insert("priority".to_owned(), json!(priority.priority()));
        }
        if patch.is_empty() {
            bail!("say what to change: --command, --plan or --priority");
        }
        let (path, body) = (dead_letter_path(self.id), serde_json::to_vec(&patch)?);
        self.target.call(config, TIMEOUT, async move |remote: &Remote| {
            let fields = [("content-type", "application/merge-patch+json")];
            let answer = remote.ask("PATCH", &path, &fields, body.into()).await?;
            print!("{}", show::dead_letter(&read(&answer)?));
            Ok(())
        })
    }
}

impl ManyArgs {
    /// Does it to each; goes on after one that is refused, and fails in the end.
    fn each(
        self,
        config: &Config,
        work: impl AsyncFn(&Remote, TaskId) -> anyhow::Result<()> + 'static,
    ) -> anyhow::Result<()> {
        let Self { mut ids, all, target } = self;
        target.call(config, TIMEOUT, async move |remote: &Remote| {
            if all {
                let pages = pages(remote).await?;
                ids = pages.iter().flat_map(|page| page.dead_letters.iter().map(|task| task.id)).collect();
            }
            let mut refused = 0;
            for id in &ids {
                if let Err(error) = work(remote, *id).await {
                    eprintln!("{id}: {error:#}");
                    refused += 1;
                }
            }
            if refused > 0 {
                bail!("{refused} of {} were refused", ids.len());
            }
            Ok(())
        })
    }
}

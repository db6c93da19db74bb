//! `sluice command`: sends a command over HTTP/3 and shows what came of it.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use sluice_net::client::{ClientResponse, StreamedResponse};
use sluice_protocols::api::{
    CommandRequest, DEADLINE_MS_MAX, DEADLINE_MS_MIN, Mode, Priority, TaskState, TaskView,
};
use sluice_protocols::ids::{ConnectionId, SessionId};
use sluice_protocols::problem::Problem;

use crate::config::Config;
use crate::remote::{Remote, Target, refusal};
use crate::show;

/// The gateway's own bound for a command is two minutes; this leaves room for it.
const TIMEOUT: Duration = Duration::from_millis(DEADLINE_MS_MAX as u64 + 30_000);
/// What one poll of a queued command waits for at most (`Prefer: wait`), in seconds.
const POLL_WAIT_S: u64 = 30;
/// Longest event taken, in bytes: it holds a task at most.
const EVENT_BYTES_MAX: usize = 4 << 20;

/// Options of `sluice command`.
#[derive(Debug, Args)]
pub(crate) struct CommandArgs {
    /// The command in plain language
    text: String,
    #[command(flatten)]
    target: Target,
    /// Wait for the answer, queue the command and poll, print events as they happen, or only show what would be done
    #[arg(long, default_value = "sync")]
    mode: ModeArg,
    /// How urgent it is; by default as its user prefers
    #[arg(long)]
    priority: Option<PriorityArg>,
    /// How long it may take, in milliseconds
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(i64::from(DEADLINE_MS_MIN)..=i64::from(DEADLINE_MS_MAX)))]
    deadline: Option<u32>,
    /// Session to go on with; by default the newest
    #[arg(long)]
    session: Option<SessionId>,
    /// Connected account that it is for; by default the user's default one
    #[arg(long, value_name = "CONNECTION")]
    account: Option<ConnectionId>,
    /// Succeed only when the task ends in this state; without it, unless it failed
    #[arg(long)]
    expect: Option<Expect>,
    /// Print the task as JSON, and events as one JSON document a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeArg {
    Sync,
    Async,
    Stream,
    Preview,
}

impl ModeArg {
    fn mode(self) -> Mode {
        match self {
            Self::Sync => Mode::Sync,
            Self::Async => Mode::Async,
            Self::Stream => Mode::Stream,
            Self::Preview => Mode::Preview,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PriorityArg {
    High,
    Normal,
    Batch,
}

impl PriorityArg {
    pub(crate) fn priority(self) -> Priority {
        match self {
            Self::High => Priority::High,
            Self::Normal => Priority::Normal,
            Self::Batch => Priority::Batch,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Expect {
    Done,
    Declined,
    Failed,
}

impl Expect {
    fn state(self) -> TaskState {
        match self {
            Self::Done => TaskState::Done,
            Self::Declined => TaskState::Declined,
            Self::Failed => TaskState::Failed,
        }
    }
}

/// Runs the command; fails when it was not done.
pub(crate) fn run(config: &Config, args: &CommandArgs) -> anyhow::Result<()> {
    let mut request = CommandRequest::new(args.text.as_str());
    request.mode = args.mode.mode();
    request.priority = args.priority.map(PriorityArg::priority);
    request.deadline_ms = args.deadline;
    request.session = args.session;
    request.account = args.account;
    let body = Bytes::from(serde_json::to_vec(&request)?);
    let (mode, is_json) = (args.mode, args.json);
    let task = args.target.call(config, TIMEOUT, async move |remote: &Remote| match mode {
        ModeArg::Stream => follow(remote, body, is_json).await,
        ModeArg::Sync | ModeArg::Async | ModeArg::Preview => send(remote, body, is_json).await,
    })?;
    if !args.json {
        print!("{}", show::task(&task));
    } else if args.mode != ModeArg::Stream {
        println!("{}", serde_json::to_string_pretty(&task)?);
    }
    match args.expect {
        Some(expect) if task.state != expect.state() => {
            bail!("the command ended in another state than expected")
        }
        None if task.state == TaskState::Failed => bail!("the command failed"),
        _ => Ok(()),
    }
}

const JSON_BODY: [(&str, &str); 1] = [("content-type", "application/json")];

async fn send(remote: &Remote, body: Bytes, is_json: bool) -> anyhow::Result<TaskView> {
    let response = remote.ask("POST", "/api/v1/command", &JSON_BODY, body).await?;
    if response.head.status() != 202 {
        return read_task(&response);
    }
    let location = response.head.header("location").context("accepted, but without a location")?;
    if !is_json {
        println!("queued: {location}");
    }
    poll(remote, location).await
}

async fn poll(remote: &Remote, location: &str) -> anyhow::Result<TaskView> {
    let wait = format!("wait={POLL_WAIT_S}");
    loop {
        let response = remote.ask("GET", location, &[("prefer", &wait)], Bytes::new()).await?;
        let task = read_task(&response)?;
        if !matches!(task.state, TaskState::Queued | TaskState::Running) {
            return Ok(task);
        }
    }
}

/// Prints events as they come, until the task has ended or awaits to be confirmed.
async fn follow(remote: &Remote, body: Bytes, is_json: bool) -> anyhow::Result<TaskView> {
    let mut answer = remote.stream("POST", "/api/v1/command", &JSON_BODY, body).await?;
    let status = answer.head.status();
    let location = answer.head.header("location").map(str::to_owned);
    let mut events = Events::default();
    if status != 200 {
        while let Some(piece) = answer.next().await? {
            events.feed(&piece)?;
        }
        bail!("{}", refusal(status, &events.unread));
    }
    while let Some((name, event)) = events.next(&mut answer).await? {
        if is_json {
            println!("{event}");
        } else {
            println!("{}", show::event(&name, &event["data"]));
        }
        let ends = ["done", "failed", "declined", "cancelled", "awaiting_confirmation"];
        if ends.contains(&name.as_str()) {
            return serde_json::from_value(event["data"].clone()).context("the last event holds no task");
        }
    }
    // The process that told the events did not end the task.
    poll(remote, &location.context("the events ended, and no location was given")?).await
}

/// Server-sent events out of the pieces of an answer. Reads what our gateway writes: one line of data each.
#[derive(Default)]
struct Events {
    unread: Vec<u8>,
}

impl Events {
    fn feed(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        self.unread.extend_from_slice(piece);
        if self.unread.len() > EVENT_BYTES_MAX {
            bail!("an event is longer than {EVENT_BYTES_MAX} bytes");
        }
        Ok(())
    }

    /// The next event's name, and it as a document; none at the end.
    async fn next(&mut self, from: &mut StreamedResponse<'_>) -> anyhow::Result<Option<(String, Value)>> {
        loop {
            if let Some(event) = self.take()? {
                return Ok(Some(event));
            }
            match from.next().await? {
                Some(piece) => self.feed(&piece)?,
                None => return Ok(None),
            }
        }
    }

    /// The next event that is there whole.
    fn take(&mut self) -> anyhow::Result<Option<(String, Value)>> {
        while let Some(end) = self.unread.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = self.unread.drain(..end + 2).collect();
            let block = std::str::from_utf8(&block).context("an event is not UTF-8")?;
            let field = |name: &str| {
                block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
            };
            // A comment only shows that the stream is alive.
            let Some(name) = field("event") else { continue };
            let data: Value =
                serde_json::from_str(&field("data").unwrap_or_default()).context("an event without data")?;
            let event = json!({ "id": field("id"), "event": name, "data": data });
            return Ok(Some((name, event)));
        }
        Ok(None)
    }
}

/// The task in an answer; for a command that failed, the one in its problem.
fn read_task(response: &ClientResponse) -> anyhow::Result<TaskView> {
    let status = response.head.status();
    if (200..300).contains(&status) {
        return serde_json::from_slice(&response.body).context("the gateway's answer is not a task");
    }
    let problem = serde_json::from_slice::<Problem>(&response.body).ok();
    if let Some(task) = problem.as_ref().and_then(Problem::task) {
        return Ok(serde_json::from_value(task.clone())?);
    }
    bail!("{}", refusal(status, &response.body))
}

#[cfg(test)]
mod tests {
    use super::Events;

    #[test]
    fn events_are_read_from_pieces_cut_anywhere() {
        let text = b": alive\n\nid: 1\nevent: accepted\ndata: {\"id\":7}\n\nevent: left\ndata: {}\n\n";
        for cut in 0..text.len() {
            let mut events = Events::default();
            let mut seen = Vec::new();
            for piece in [&text[..cut], &text[cut..]] {
                events.feed(piece).unwrap();
                while let Some(event) = events.take().unwrap() {
                    seen.push(event);
                }
            }
            let names: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["accepted", "left"], "cut at {cut}");
            assert_eq!(seen[0].1["data"]["id"], 7);
            assert!(seen[1].1["id"].is_null());
        }
    }
}

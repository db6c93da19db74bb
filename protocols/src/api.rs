//! What callers send to the API and what they get: requests are checked here, field by field; views are what
//! tasks and sessions look like from outside.
//!
//! Invariant: a [`CommandRequest`] from [`CommandRequest::parse`] is within every bound stated on its fields.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ids::{ConnectionId, SessionId, TaskId};
use crate::intent::IntentSource;
use crate::plan::{Handle, Item, Plan, Service, StepId};
use crate::problem::{Problem, ProblemKind};

mod account;
mod connection;
pub mod context;
mod history;
mod preferences;
mod queue;
mod webhook;

pub use account::{
    BROWSER_SESSION_LIFE_DEFAULT, BROWSER_SESSIONS_PER_USER_MAX, BrowserSessionListView, BrowserSessionView,
    CurrentSessionView, ErasedView, Erasure, ISSUER_CHARS_MAX, Identity, KEY_NAME_CHARS_MAX,
    KEYS_PER_USER_MAX, KeyEdit, KeyListView, KeyView, NewBrowserSession, NewKey, NewUser, SUBJECT_CHARS_MAX,
    USER_NAME_CHARS_MAX, UserEdit, UserListView, UserView, browser_session_path, key_path, user_path,
};
pub use connection::{
    AuthorizationView, CONNECTIONS_PER_USER_MAX, ConnectRequest, ConnectionEdit, ConnectionListView,
    ConnectionReason, ConnectionStatus, ConnectionView, LOGIN_HINT_CHARS_MAX, RETURN_URL_CHARS_MAX,
    RevocationView, connection_path, service_names,
};
pub use history::{HistoryEntryView, HistoryQuery, HistoryView, TEXT_CHARS_MAX, TEXT_WORDS_MAX};
pub use preferences::{CUSTOM_BYTES_MAX, CUSTOM_DEPTH_MAX, LANGUAGE_CHARS_MAX, Preferences, PreferencesView};
pub use queue::{
    BATCH_BODY_BYTES_MAX, BATCH_COMMANDS_MAX, BatchItem, BatchRequest, BatchView, DeadLetterEdit,
    DeadLetterListView, DeadLetterView, IDEMPOTENCY_KEY_CHARS_MAX, LIST_LIMIT_DEFAULT, LIST_LIMIT_MAX,
    ListQuery, Priority, TaskListView, TaskSummary, dead_letter_path, is_idempotency_key,
};
pub use webhook::{
    AttemptListView, AttemptOutcome, AttemptView, ConnectionNotice, DisabledReason, EventSet, PingView,
    TaskNotice, WEBHOOK_DESCRIPTION_CHARS_MAX, WEBHOOK_URL_CHARS_MAX, WebhookEdit, WebhookEvent,
    WebhookListView, WebhookRequest, WebhookView, webhook_message, webhook_path,
};

/// The most characters in a command.
pub const COMMAND_CHARS_MAX: usize = 2_000;
/// The most bytes a command request may take: every character of the command escaped as `\uXXXX\uXXXX`, and
/// room for the other fields.
pub const COMMAND_BODY_BYTES_MAX: usize = 32 * 1024;
const _: () = assert!(COMMAND_CHARS_MAX * 12 + 4 * 1024 < COMMAND_BODY_BYTES_MAX);
/// The most characters in the name of a time zone; the longest of the IANA database has 32.
pub const TIME_ZONE_CHARS_MAX: usize = 64;
/// The shortest deadline a caller may set, in milliseconds.
pub const DEADLINE_MS_MIN: u32 = 100;
/// The longest deadline a caller may set, in milliseconds.
pub const DEADLINE_MS_MAX: u32 = 120_000;
/// The longest a request for a task may wait for its end.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// Whether the caller waits for the outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The reply is the finished task.
    #[default]
    Sync,
    /// The reply is 202 as soon as the task is on disk.
    Async,
    /// The reply is the task with its plan; nothing is carried out before it is confirmed.
    Preview,
    /// The reply is a stream of events that ends with the task, which goes on when nobody reads it.
    Stream,
}

/// The body of `POST /api/v1/command`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CommandRequest {
    /// What the user wants, in plain language: 1 to [`COMMAND_CHARS_MAX`] characters, not blank.
    pub command: String,
    /// Whether to wait; `sync` when not given.
    pub mode: Mode,
    /// The conversation to go on with; none goes on with the user's newest that is not over, or starts one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// The IANA name of the zone the user's times are meant in. Only its form is checked here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// How long the command may take, in milliseconds: [`DEADLINE_MS_MIN`] to [`DEADLINE_MS_MAX`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u32>,
    /// How urgent it is; when not given, as its user prefers, else `normal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// The connected account that it is for; when not given, the user's default one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<ConnectionId>,
}

impl CommandRequest {
    /// A request for this command with everything else left to the defaults. Bounds are not checked.
    #[must_use]
    pub fn new(command: impl Into<String>) -> Self {
        Self {
            command: command.into(),
            mode: Mode::Sync,
            session: None,
            time_zone: None,
            deadline_ms: None,
            priority: None,
            account: None,
        }
    }

    /// Reads and checks a body.
    ///
    /// # Errors
    /// `invalid-json` with line and column, or `invalid-field` with one entry for each field that is wrong,
    /// unknown ones included.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        Fields { fields: object_of(body)?, errors: Vec::new(), mode: Mode::Sync }.read()
    }
}

/// The members of a body.
fn object_of(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| Problem::new(ProblemKind::InvalidJson, format!("the body is not JSON: {error}")))?;
    let Value::Object(fields) = value else {
        let problem = Problem::new(ProblemKind::InvalidField, "the body must be a JSON object");
        return Err(problem.with_error("", "must be an object"));
    };
    Ok(fields)
}

/// A problem that names what is wrong with each field.
fn fields_problem(mut errors: Vec<(String, String)>) -> Problem {
    errors.sort();
    let count = errors.len();
    let detail = if count == 1 {
        "one field is not valid".to_owned()
    } else {
        format!("{count} fields are not valid")
    };
    let problem = Problem::new(ProblemKind::InvalidField, detail);
    errors.into_iter().fold(problem, |problem, (pointer, detail)| problem.with_error(pointer, detail))
}

/// Takes fields out of an object, noting what is wrong with each, so that a caller learns all at once.
struct Fields {
    fields: Map<String, Value>,
    errors: Vec<(String, String)>,
    /// The mode of a command that does not say.
    mode: Mode,
}

impl Fields {
    fn read(mut self) -> Result<CommandRequest, Problem> {
        let request = CommandRequest {
            command: self.command(),
            mode: self.mode(),
            session: self.session(),
            time_zone: self.time_zone(),
            deadline_ms: self.deadline_ms(),
            priority: self.priority(),
            account: self.account(),
        };
        let unknown: Vec<String> = self.fields.keys().map(|name| pointer(name)).collect();
        for pointer in unknown {
            self.errors.push((pointer, "there is no such field".to_owned()));
        }
        if self.errors.is_empty() { Ok(request) } else { Err(fields_problem(self.errors)) }
    }

    /// Takes a field that may be absent; `null` is absence.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.fields.remove(name).filter(|value| !value.is_null())
    }

    fn wrong(&mut self, name: &str, detail: impl Into<String>) {
        self.errors.push((pointer(name), detail.into()));
    }

    fn command(&mut self) -> String {
        let allowed = format!("must be a text of 1 to {COMMAND_CHARS_MAX} characters");
        let command = match self.take("command") {
            Some(Value::String(command)) => command,
            Some(_) => {
                self.wrong("command", allowed);
                return String::new();
            }
            None => {
                self.wrong("command", "is missing");
                return String::new();
            }
        };
        if command.trim().is_empty() {
            self.wrong("command", "must not be blank");
        } else if command.chars().count() > COMMAND_CHARS_MAX {
            self.wrong("command", allowed);
        }
        command
    }

    fn mode(&mut self) -> Mode {
        match self.take("mode") {
            None => self.mode,
            Some(Value::String(mode)) if mode == "sync" => Mode::Sync,
            Some(Value::String(mode)) if mode == "async" => Mode::Async,
            Some(Value::String(mode)) if mode == "preview" => Mode::Preview,
            Some(Value::String(mode)) if mode == "stream" => Mode::Stream,
            Some(_) => {
                self.wrong("mode", "must be `sync`, `async`, `stream` or `preview`");
                self.mode
            }
        }
    }

    fn priority(&mut self) -> Option<Priority> {
        let value = self.take("priority")?;
        let priority = value.as_str().and_then(Priority::from_name);
        if priority.is_none() {
            self.wrong("priority", "must be `high`, `normal` or `batch`");
        }
        priority
    }

    fn session(&mut self) -> Option<SessionId> {
        let session = self.take("session")?;
        let id = session.as_str().and_then(|text| text.parse().ok());
        if id.is_none() {
            self.wrong("session", "must be the id of a session: `ses_` and 26 characters");
        }
        id
    }

    fn account(&mut self) -> Option<ConnectionId> {
        let account = self.take("account")?;
        let id = account.as_str().and_then(|text| text.parse().ok());
        if id.is_none() {
            self.wrong("account", "must be the id of one of your connections: `con_` and 26 characters");
        }
        id
    }

    fn time_zone(&mut self) -> Option<String> {
        match self.take("time_zone")? {
            Value::String(name) if is_zone_name(&name) => Some(name),
            _ => {
                self.wrong("time_zone", "must be the name of an IANA time zone, such as `Europe/Berlin`");
                None
            }
        }
    }

    fn deadline_ms(&mut self) -> Option<u32> {
        let deadline = self.take("deadline_ms")?;
        let ms = deadline.as_u64().and_then(|ms| u32::try_from(ms).ok());
        let ms = ms.filter(|ms| (DEADLINE_MS_MIN..=DEADLINE_MS_MAX).contains(ms));
        if ms.is_none() {
            self.wrong(
                "deadline_ms",
                format!("must be a whole number from {DEADLINE_MS_MIN} to {DEADLINE_MS_MAX}"),
            );
        }
        ms
    }
}

/// The JSON pointer of a member of the root object (RFC 6901 section 3), of a length fit for a reply.
fn pointer(name: &str) -> String {
    let name: String = name.chars().take(64).collect();
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// Whether a text has the form of a zone's name. It must not be able to name a file outside a zone directory.
fn is_zone_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'+');
    name.len() <= TIME_ZONE_CHARS_MAX
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.split('/').all(|part| !part.is_empty() && part.bytes().all(letter))
}

/// How long a request wishes to wait, from a `Prefer` header (RFC 7240 section 4.3): its first `wait`, at most
/// [`WAIT_MAX`]. `None` when there is none or it is no number, which is then ignored as the RFC asks.
#[must_use]
pub fn prefer_wait(header: &str) -> Option<Duration> {
    let wait = split_outside_quotes(header).find_map(|preference| {
        let main = preference.split(';').next().unwrap_or_default();
        let (name, value) = main.split_once('=').unwrap_or((main, ""));
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim())
    })?;
    let digits = wait.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(wait);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // More digits than fit are a very long time.
    let seconds = digits.parse().unwrap_or(u64::MAX);
    Some(Duration::from_secs(seconds).min(WAIT_MAX))
}

/// The parts of a list header between the commas that stand outside quoted strings.
fn split_outside_quotes(header: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    header.split(move |letter: char| {
        let literal = escaped;
        escaped = quoted && !literal && letter == '\\';
        quoted ^= letter == '"' && !literal;
        letter == ',' && !quoted
    })
}

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// On disk, not begun.
    Queued,
    /// Being planned or carried out.
    Running,
    /// Every step is done.
    Done,
    /// Something went wrong; `error` says what, `steps` what was done all the same.
    Failed,
    /// Politely refused; `answer` says why.
    Declined,
    /// Given up at the user's wish; `steps` says what was done all the same.
    Cancelled,
    /// Planned; waits until its user confirms or cancels it.
    #[serde(rename = "awaiting_confirmation")]
    AwaitingConfirmation,
}

impl TaskState {
    /// Every state, in declaration order.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Running,
        Self::Done,
        Self::Failed,
        Self::Declined,
        Self::Cancelled,
        Self::AwaitingConfirmation,
    ];

    /// Whether nothing more will happen.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Declined | Self::Cancelled)
    }

    /// The name as it stands in JSON and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Declined => "declined",
            Self::Cancelled => "cancelled",
            Self::AwaitingConfirmation => "awaiting_confirmation",
        }
    }

    /// The state of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// How far a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    /// Waits for others.
    Pending,
    /// Under way.
    Running,
    /// Finished.
    Done,
    /// Went wrong.
    Failed,
    /// Not begun, because its condition did not hold, or one it depends on went wrong or was skipped.
    Skipped,
}

/// Whom a call went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallTarget {
    /// The language model.
    OpenAi,
    /// Google's token endpoint.
    OAuth,
    /// Mail.
    Gmail,
    /// Events.
    Calendar,
    /// Files.
    Drive,
}

impl From<Service> for CallTarget {
    fn from(service: Service) -> Self {
        match service {
            Service::Gmail => Self::Gmail,
            Service::Calendar => Self::Calendar,
            Service::Drive => Self::Drive,
        }
    }
}

/// One call that was made for a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallView {
    /// Whom it went to.
    pub service: CallTarget,
    /// The HTTP method.
    pub method: String,
    /// The path, without the query: that may hold what the user looks for.
    pub path: String,
    /// The status of the last attempt; none when no answer came.
    pub status: Option<u16>,
    /// From the first attempt to the last answer, in microseconds.
    pub duration_us: u64,
    /// How often it was tried.
    pub attempts: u32,
}

/// One step of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepView {
    /// Its number in the plan.
    pub id: StepId,
    /// What the workflow calls it; none in a plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The operation, such as `gmail.search`.
    pub operation: String,
    /// How far it is.
    pub state: StepState,
    /// The calls made for it.
    #[serde(default)]
    pub calls: Vec<CallView>,
    /// What it found or made.
    #[serde(default)]
    pub items: Vec<Item>,
    /// What it read.
    pub text: Option<String>,
    /// Why it failed.
    pub error: Option<Problem>,
    /// How often it was tried, once more than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tries: Option<u32>,
    /// How it was taken back, once that was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensation: Option<CompensationView>,
}

/// How far a step was taken back, after its workflow failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompensationView {
    /// `running`, `done` or `failed`.
    pub state: StepState,
    /// Why it could not be taken back.
    pub error: Option<Problem>,
}

/// The workflow that a task runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkflowRunView {
    /// Its name.
    pub name: String,
    /// Which version of it.
    pub version: u32,
    /// What it was given, and what was filled in.
    pub input: Value,
}

/// Where the time of a task went, in microseconds. No moment counts twice: what is under way at once counts for the first
/// of `openai_us`, `google_us`, `quota_us` and `shared_us` that it is; `own_us` is the rest of the whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// From the arrival of the command to its end.
    pub total_us: u64,
    /// While nobody else was waited for: the gateway's own work, and its disk.
    pub own_us: u64,
    /// While OpenAI was waited for.
    pub openai_us: u64,
    /// While Google was waited for, its token endpoint included.
    pub google_us: u64,
    /// While an earlier command of the same session was under way. This and what follows is 0 where it is not told.
    #[serde(default)]
    pub turn_us: u64,
    /// While there was no place among the commands that run.
    #[serde(default)]
    pub queue_us: u64,
    /// While units of a quota or a place among the calls under way were waited for.
    #[serde(default)]
    pub quota_us: u64,
    /// While a read that was on its way for another command was waited for.
    #[serde(default)]
    pub shared_us: u64,
}

impl Timing {
    /// These parts of so much time; what is left of it is our own.
    #[must_use]
    pub fn of_total(self, total_us: u64) -> Self {
        let Self { openai_us, google_us, turn_us, queue_us, quota_us, shared_us, .. } = self;
        let parts = [openai_us, google_us, turn_us, queue_us, quota_us, shared_us];
        let own_us = parts.into_iter().fold(total_us, u64::saturating_sub);
        Self { total_us, own_us, ..self }
    }
}

/// Who worked out what a command means.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct IntentView {
    /// The gateway's rules, a pattern it learned from the model, or the model.
    pub source: IntentSource,
    /// How sure that is, from 0 to 1; 1 for the model and its patterns, whose plans are taken as they are.
    pub confidence: f64,
}

/// The reply to `POST /api/v1/intents/parse`: what a command means, with nothing of it done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IntentPlanView {
    /// Who worked it out.
    pub intent: IntentView,
    /// What would be done; days and times are on the clock of `time_zone`.
    pub plan: Plan,
    /// What the plan refers to of earlier commands, each once.
    pub references: Vec<ReferenceView>,
    /// What would have to be known before the plan could be carried out whole; empty when nothing is missing.
    pub questions: Vec<String>,
    /// The IANA name of the zone that times are meant in.
    pub time_zone: String,
}

/// Something of an earlier command that a plan refers to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReferenceView {
    /// As it stands in the plan, such as `#m1`.
    pub reference: String,
    /// What it stands for.
    pub item: Item,
}

/// A task: the reply to a synchronous command and to `GET /api/v1/tasks/{id}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskView {
    /// Its name.
    pub id: TaskId,
    /// How far it is.
    pub state: TaskState,
    /// How it was asked for.
    pub mode: Mode,
    /// The conversation it belongs to.
    pub session: SessionId,
    /// The connected account that it is carried out with, once that is settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<ConnectionId>,
    /// What the user asked, word for word.
    pub command: String,
    /// Who worked out what it means, once known.
    #[serde(default)]
    pub intent: Option<IntentView>,
    /// What that was taken to mean, once known.
    pub plan: Option<Plan>,
    /// The workflow it runs; none for a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowRunView>,
    /// What was done, step by step.
    #[serde(default)]
    pub steps: Vec<StepView>,
    /// What would be changed, while that waits for a confirmation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<ChangeView>,
    /// What to tell the user, once final.
    pub answer: Option<String>,
    /// Why it failed.
    pub error: Option<Problem>,
    /// How urgent it is.
    #[serde(default)]
    pub priority: Priority,
    /// How often it was taken up.
    #[serde(default)]
    pub attempts: u32,
    /// When it is tried again, while it waits for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Timestamp>,
    /// What went wrong with the attempt before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<Problem>,
    /// Where the time went, once final.
    pub timing: Option<Timing>,
    /// When it was accepted (RFC 3339, UTC).
    pub created: Timestamp,
    /// When it became final.
    pub finished: Option<Timestamp>,
}

/// What a step would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeView {
    /// The step's name, or its id where it has none.
    pub step: String,
    /// Its operation.
    pub operation: String,
    /// In words, such as `send the mail “Hello” to kim@example.com`.
    pub what: String,
    /// Whether the API allows to take it back.
    pub reversible: bool,
}

/// The reply to an asynchronous command, with status 202: from here on the task survives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedView {
    /// The task.
    pub id: TaskId,
    /// How far it is: `queued`.
    pub state: TaskState,
    /// The conversation it belongs to.
    pub session: SessionId,
    /// Where to ask for it; the same as the `Location` header.
    pub location: String,
    /// When it was accepted (RFC 3339, UTC).
    pub created: Timestamp,
}

impl AcceptedView {
    /// The reply for a task that was accepted at `created`.
    #[must_use]
    pub fn new(id: TaskId, session: SessionId, created: Timestamp) -> Self {
        Self { id, state: TaskState::Queued, session, location: task_path(id), created }
    }
}

/// The path of a task.
#[must_use]
pub fn task_path(id: TaskId) -> String {
    format!("/api/v1/tasks/{id}")
}

/// The path of a session.
#[must_use]
pub fn session_path(id: SessionId) -> String {
    format!("/api/v1/sessions/{id}")
}

/// An item with the name later commands can call it by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandledItem {
    /// The name.
    pub handle: Handle,
    /// The item.
    #[serde(flatten)]
    pub item: Item,
}

/// One command of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnView {
    /// From 1, in order.
    pub number: u32,
    /// The task that carried it out.
    pub task: TaskId,
    /// What the user asked.
    pub command: String,
    /// What the user was told.
    pub answer: Option<String>,
    /// How it ended.
    pub state: TaskState,
    /// When it was accepted (RFC 3339, UTC).
    pub at: Timestamp,
    /// What it found or made.
    pub items: Vec<HandledItem>,
}

/// A session: the reply to `GET /api/v1/sessions/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// Its name.
    pub id: SessionId,
    /// When it began (RFC 3339, UTC).
    pub created: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// The last ten commands, oldest first.
    pub turns: Vec<TurnView>,
}

/// A session in a list: all but its turns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSummary {
    /// Its name.
    pub id: SessionId,
    /// When it began (RFC 3339, UTC).
    pub created: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// How many of its commands have ended.
    pub commands: u32,
}

/// The reply to `GET /api/v1/sessions`: those that are not over, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionListView {
    /// At most as many as were asked for.
    pub sessions: Vec<SessionSummary>,
    /// How to go on; none at the end.
    pub next: Option<String>,
}

/// The reply to `/livez` and `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthView {
    /// In one word.
    pub status: HealthStatus,
    /// What was looked at; empty unless asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckView>,
}

/// Health in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// All is well.
    Ok,
    /// Not ready yet.
    Starting,
    /// About to stop; takes no new work.
    Draining,
    /// Something it needs is broken.
    Failing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckView {
    /// What.
    pub name: String,
    /// Whether it is well.
    pub ok: bool,
    /// More about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse(body: Value) -> Result<CommandRequest, Problem> {
        CommandRequest::parse(body.to_string().as_bytes())
    }

    fn pointers(body: Value) -> Vec<String> {
        let problem = parse(body).expect_err("a problem");
        assert_eq!(problem.kind(), ProblemKind::InvalidField);
        problem.errors().iter().map(|error| error.pointer.clone()).collect()
    }

    #[test]
    fn a_bare_command_gets_the_defaults() {
        let request = parse(json!({"command": "find the mail from Anna"})).expect("valid");
        assert_eq!(request, CommandRequest::new("find the mail from Anna"));
        assert_eq!(request.mode, Mode::Sync);
    }

    #[test]
    fn a_full_command_is_read_whole() {
        let session = SessionId::from_bytes([3; 16]);
        let body = json!({
            "command": "x", "mode": "async", "session": session, "time_zone": "America/Argentina/Buenos_Aires",
            "deadline_ms": 100, "priority": "batch", "account": ConnectionId::from_bytes([4; 16]),
        });
        let request = parse(body.clone()).expect("valid");
        assert_eq!(
            (request.mode, request.session, request.deadline_ms),
            (Mode::Async, Some(session), Some(100))
        );
        assert_eq!(serde_json::to_value(&request).expect("serialises"), body);
    }

    #[test]
    fn broken_json_is_located() {
        let problem = CommandRequest::parse(b"{\n  \"command\": }").expect_err("a problem");
        assert_eq!(problem.kind(), ProblemKind::InvalidJson);
        assert!(problem.detail().contains("line 2 column 14"), "{}", problem.detail());
        let not_utf8 = CommandRequest::parse(b"{\"command\": \"\xff\"}").expect_err("a problem");
        assert_eq!(not_utf8.kind(), ProblemKind::InvalidJson);
        let empty = CommandRequest::parse(b"").expect_err("a problem");
        assert_eq!(empty.kind(), ProblemKind::InvalidJson);
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let body = json!({
            "command": " \n", "mode": "later", "session": "ses_1", "time_zone": "../etc/passwd",
            "deadline_ms": 99, "priority": "low", "account": "con_1", "a/b~c": 1,
        });
        let expected = [
            "/account",
            "/a~1b~0c",
            "/command",
            "/deadline_ms",
            "/mode",
            "/priority",
            "/session",
            "/time_zone",
        ];
        assert_eq!(pointers(body), expected);
    }

    #[test]
    fn bounds_are_exact() {
        assert!(parse(json!({"command": "\u{1f600}".repeat(2_000)})).is_ok());
        assert_eq!(pointers(json!({"command": "x".repeat(2_001)})), ["/command"]);
        assert!(parse(json!({"command": "x", "deadline_ms": 120_000})).is_ok());
        for deadline in [json!(120_001), json!(-1), json!(1.5), json!("500"), json!(1e30)] {
            assert_eq!(pointers(json!({"command": "x", "deadline_ms": deadline})), ["/deadline_ms"]);
        }
        assert_eq!(pointers(json!({})), ["/command"]);
        assert_eq!(pointers(json!({"command": 5})), ["/command"]);
        assert_eq!(pointers(json!([])), [""]);
    }

    #[test]
    fn zone_names_cannot_leave_the_zone_directory() {
        for name in
            ["", "/etc", "Europe//Berlin", "Europe/..", "Europe/Berlin\0", "Europe/Ber lin", "Europe/"]
        {
            assert_eq!(pointers(json!({"command": "x", "time_zone": name})), ["/time_zone"], "{name}");
        }
        for name in ["UTC", "Etc/GMT+5", "Europe/Berlin", "America/Port-au-Prince"] {
            assert!(parse(json!({"command": "x", "time_zone": name})).is_ok(), "{name}");
        }
    }

    #[test]
    fn thousands_of_unknown_fields_give_a_short_problem() {
        let fields: Map<String, Value> = (0..5_000).map(|number| (format!("f{number}"), json!(1))).collect();
        let problem = parse(Value::Object(fields)).expect_err("a problem");
        assert!(serde_json::to_string(&problem).expect("serialises").len() < 4_096);
        assert!(problem.detail().contains("5001"), "{}", problem.detail());
    }

    #[test]
    fn a_wish_to_wait_is_found_and_capped() {
        let seconds = |header| prefer_wait(header).map(|wait| wait.as_secs());
        assert_eq!(seconds("wait=10"), Some(10));
        assert_eq!(seconds("respond-async, Wait = \"5\"; x=y"), Some(5));
        assert_eq!(seconds("wait=3, wait=9"), Some(3));
        assert_eq!(seconds("wait=600"), Some(60));
        assert_eq!(seconds("wait=99999999999999999999999999"), Some(60));
        assert_eq!(seconds("foo=\"a, wait=7\", wait=8"), Some(8));
        assert_eq!(seconds("foo=\"a\\\", wait=7\", wait=8"), Some(8));
    }

    #[test]
    fn a_wish_that_is_no_number_is_ignored() {
        for header in ["", "wait", "wait=", "wait=-1", "wait=soon", "waiting=5", "respond-async", "wait=+5"] {
            assert_eq!(prefer_wait(header), None, "{header}");
        }
    }

    #[test]
    fn a_task_round_trips_through_json() {
        let created: Timestamp = "2026-11-23T14:04:05.123Z".parse().expect("a time");
        let task = TaskView {
            id: TaskId::new(1, [1; 10]),
            state: TaskState::Failed,
            mode: Mode::Async,
            session: SessionId::from_bytes([2; 16]),
            account: Some(ConnectionId::from_bytes([3; 16])),
            command: "read it".to_owned(),
            intent: Some(IntentView { source: IntentSource::Local, confidence: 0.97 }),
            plan: Some(Plan::decline("no")),
            steps: vec![StepView {
                id: StepId::new(1).expect("a step"),
                operation: "gmail.read".to_owned(),
                state: StepState::Failed,
                calls: vec![CallView {
                    service: CallTarget::OpenAi,
                    method: "POST".to_owned(),
                    path: "/v1/responses".to_owned(),
                    status: None,
                    duration_us: 5,
                    attempts: 2,
                }],
                items: Vec::new(),
                text: None,
                error: Some(Problem::new(ProblemKind::UpstreamTimeout, "Gmail did not answer")),
                name: None,
                tries: None,
                compensation: None,
            }],
            workflow: None,
            changes: vec![ChangeView {
                step: "s1".to_owned(),
                operation: "gmail.trash".to_owned(),
                what: "move the message #m1 to the trash".to_owned(),
                reversible: true,
            }],
            answer: None,
            error: None,
            priority: Priority::Batch,
            attempts: 3,
            next_attempt: None,
            last_error: Some(Problem::new(ProblemKind::UpstreamLimited, "slow down")),
            timing: Some(Timing::default()),
            created,
            finished: None,
        };
        let json = serde_json::to_value(&task).expect("serialises");
        assert_eq!(json["created"], "2026-11-23T14:04:05.123Z");
        assert_eq!(json["steps"][0]["calls"][0]["service"], "openai");
        assert_eq!(json["steps"][0]["error"]["type"], "/problems/upstream-timeout");
        assert_eq!(serde_json::from_value::<TaskView>(json).expect("parses"), task);
    }

    #[test]
    fn an_item_of_a_turn_carries_its_handle_beside_its_fields() {
        let item = Item {
            kind: crate::plan::ItemKind::Message,
            id: "18c".to_owned(),
            title: "Budget".to_owned(),
            person: None,
            when: None,
            thread_id: None,
            message_id_header: None,
            snippet: None,
        };
        let handled = HandledItem { handle: "m1".parse().expect("a handle"), item };
        let json = serde_json::to_value(&handled).expect("serialises");
        assert_eq!((&json["handle"], &json["title"]), (&json!("m1"), &json!("Budget")));
        assert_eq!(serde_json::from_value::<HandledItem>(json).expect("parses"), handled);
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = CommandRequest::parse(&body);
        }

        #[test]
        fn arbitrary_fields_never_panic(name in "\\PC{0,12}", text in "\\PC{0,30}", number: f64) {
            let _ = parse(json!({"command": text, name: number, "time_zone": text, "session": text}));
        }

        #[test]
        fn arbitrary_preferences_never_exceed_the_cap(header in "[wait=,;\"\\\\0-9 \u{e9}]{0,40}") {
            prop_assert!(prefer_wait(&header).is_none_or(|wait| wait <= WAIT_MAX));
        }
    }
}

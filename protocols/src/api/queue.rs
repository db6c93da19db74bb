//! What callers say of, and see in, the queue: priorities, batches of commands, lists of tasks, dead letters, and the
//! key that makes a command repeatable.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    AcceptedView, CommandRequest, Fields, Mode, TaskState, TaskView, fields_problem, object_of, pointer,
};
use crate::ids::{SessionId, TaskId};
use crate::plan::Plan;
use crate::problem::{Problem, ProblemKind};

/// The most commands in one batch.
pub const BATCH_COMMANDS_MAX: usize = 100;
/// The most bytes a batch may take: a hundred commands of the usual kind many times over.
pub const BATCH_BODY_BYTES_MAX: usize = 1024 * 1024;
/// The most characters in an `Idempotency-Key`.
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 255;
/// Entries of a page when the caller does not say.
pub const LIST_LIMIT_DEFAULT: usize = 20;
/// The most entries of a page.
pub const LIST_LIMIT_MAX: usize = 100;
/// The most characters of a cursor that are looked at.
const CURSOR_CHARS_MAX: usize = 256;

/// How urgent a command is. Ordered from the most urgent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Somebody waits for it right now.
    High,
    /// The usual.
    #[default]
    Normal,
    /// Whenever there is room.
    Batch,
}

impl Priority {
    /// Every priority, the most urgent first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Batch];

    /// The name as it stands in JSON and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Batch => "batch",
        }
    }

    /// The priority of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|priority| priority.name() == name)
    }
}

/// Whether a text may be an `Idempotency-Key`: 1 to [`IDEMPOTENCY_KEY_CHARS_MAX`] visible ASCII characters.
#[must_use]
pub fn is_idempotency_key(text: &str) -> bool {
    (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The body of `POST /api/v1/commands`: commands to be carried out some time, promised together.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchRequest {
    /// Each command, or what is wrong with it; 1 to [`BATCH_COMMANDS_MAX`]. Their mode is `async`.
    pub commands: Vec<Result<CommandRequest, Problem>>,
}

impl BatchRequest {
    /// Reads and checks a body.
    ///
    /// # Errors
    /// `invalid-json`, or `invalid-field` when the batch as a whole is not one.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let mut fields = object_of(body)?;
        let commands = fields.remove("commands");
        let mut errors: Vec<_> =
            fields.keys().map(|name| (pointer(name), "there is no such field".to_owned())).collect();
        let allowed =
            || ("/commands".to_owned(), format!("must be a list of 1 to {BATCH_COMMANDS_MAX} commands"));
        let commands = match commands {
            Some(Value::Array(commands)) if (1..=BATCH_COMMANDS_MAX).contains(&commands.len()) => commands,
            _ => {
                errors.push(allowed());
                Vec::new()
            }
        };
        if !errors.is_empty() {
            return Err(fields_problem(errors));
        }
        Ok(Self { commands: commands.into_iter().map(batched).collect() })
    }
}

fn batched(value: Value) -> Result<CommandRequest, Problem> {
    let Value::Object(fields) = value else {
        return Err(fields_problem(vec![(String::new(), "must be an object".to_owned())]));
    };
    let request = Fields { fields, errors: Vec::new(), mode: Mode::Async }.read()?;
    if request.mode != Mode::Async {
        return Err(fields_problem(vec![("/mode".to_owned(), "a batch takes `async` alone".to_owned())]));
    }
    Ok(request)
}

/// What became of one command of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchItem {
    /// The status it would have been answered with by itself.
    pub status: u16,
    /// The task, when it was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<AcceptedView>,
    /// Why it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

impl BatchItem {
    /// A command that was accepted.
    #[must_use]
    pub fn accepted(task: AcceptedView) -> Self {
        Self { status: 202, task: Some(task), problem: None }
    }

    /// A command that was not.
    #[must_use]
    pub fn refused(problem: Problem) -> Self {
        Self { status: problem.status(), task: None, problem: Some(problem) }
    }
}

/// The reply to a batch, with status 207: one entry for each command, in their order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchView {
    /// The entries.
    pub items: Vec<BatchItem>,
}

/// A task in a list: all but its plan and its steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskSummary {
    /// Its name.
    pub id: TaskId,
    /// How far it is.
    pub state: TaskState,
    /// How it was asked for.
    pub mode: Mode,
    /// How urgent it is.
    pub priority: Priority,
    /// The conversation it belongs to.
    pub session: SessionId,
    /// What the user asked, word for word.
    pub command: String,
    /// How often it was taken up.
    pub attempts: u32,
    /// When it is tried again, while it waits for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Timestamp>,
    /// Why it failed, or why its last attempt did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    /// When it was accepted (RFC 3339, UTC).
    pub created: Timestamp,
    /// When it became final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
}

impl From<TaskView> for TaskSummary {
    fn from(view: TaskView) -> Self {
        Self {
            id: view.id,
            state: view.state,
            mode: view.mode,
            priority: view.priority,
            session: view.session,
            command: view.command,
            attempts: view.attempts,
            next_attempt: view.next_attempt,
            error: view.error.or(view.last_error),
            created: view.created,
            finished: view.finished,
        }
    }
}

/// The reply to `GET /api/v1/tasks`, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskListView {
    /// At most as many as were asked for; a page may be short, even empty, before the end.
    pub tasks: Vec<TaskSummary>,
    /// How to go on; none at the end.
    pub next: Option<String>,
}

/// A command that failed for good although it might have worked, set aside with what is known of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetterView {
    /// The task.
    pub task: TaskView,
    /// Why it was given up.
    pub reason: Option<Problem>,
    /// When it was set aside.
    pub at: Option<Timestamp>,
    /// It was edited: redriven, it is a new task.
    pub edited: bool,
}

/// The reply to `GET /api/v1/dead-letters`, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetterListView {
    /// At most as many as were asked for.
    pub dead_letters: Vec<TaskSummary>,
    /// How to go on; none at the end.
    pub next: Option<String>,
}

/// The path of a dead letter.
#[must_use]
pub fn dead_letter_path(id: TaskId) -> String {
    format!("/api/v1/dead-letters/{id}")
}

/// The body of `PATCH /api/v1/dead-letters/{id}`, a merge patch (RFC 7396): what is absent stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeadLetterEdit {
    /// Another command, planned anew unless a plan comes with it.
    pub command: Option<String>,
    /// Another plan; `null` in the patch is `Some(None)`: plan anew.
    pub plan: Option<Option<Plan>>,
    /// Another urgency.
    pub priority: Option<Priority>,
}

impl DeadLetterEdit {
    /// Reads and checks a body.
    ///
    /// # Errors
    /// `invalid-json` or `invalid-field`.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let mut fields = object_of(body)?;
        let mut edit = Self::default();
        let mut errors = Vec::new();
        match fields.remove("plan") {
            None => {}
            Some(Value::Null) => edit.plan = Some(None),
            Some(plan) => match serde_json::from_value(plan) {
                Ok(plan) => edit.plan = Some(Some(plan)),
                Err(error) => errors.push(("/plan".to_owned(), format!("must be a plan: {error}"))),
            },
        }
        if let Some(priority) = fields.remove("priority") {
            edit.priority = priority.as_str().and_then(Priority::from_name);
            if edit.priority.is_none() {
                errors.push(("/priority".to_owned(), "must be `high`, `normal` or `batch`".to_owned()));
            }
        }
        if let Some(command) = fields.remove("command") {
            // The rules of a command are those of a request with nothing else in it.
            let alone = Map::from_iter([("command".to_owned(), command)]);
            match (Fields { fields: alone, errors: Vec::new(), mode: Mode::Async }).read() {
                Ok(request) => edit.command = Some(request.command),
                Err(problem) => errors.extend(
                    problem.errors().iter().map(|error| (error.pointer.clone(), error.detail.clone())),
                ),
            }
        }
        errors.extend(fields.keys().map(|name| (pointer(name), "there is no such field".to_owned())));
        if errors.is_empty() { Ok(edit) } else { Err(fields_problem(errors)) }
    }
}

/// What a list is asked for with: `?state=&limit=&cursor=`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Only tasks in this state.
    pub state: Option<TaskState>,
    /// Entries of a page: 1 to [`LIST_LIMIT_MAX`].
    pub limit: usize,
    /// Where to go on, as an earlier page said.
    pub cursor: Option<String>,
}

impl ListQuery {
    /// Reads the part of a path behind `?`. Values are plain: none that is allowed needs percent-encoding.
    ///
    /// # Errors
    /// `invalid-field`; unknown parameters included, pointers name the parameter.
    pub fn parse(query: &str) -> Result<Self, Problem> {
        let mut read = Self { limit: LIST_LIMIT_DEFAULT, ..Self::default() };
        let mut errors = Vec::new();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let fault = match name {
                "state" => {
                    read.state = TaskState::from_name(value);
                    read.state.is_none().then(|| "is no state of a task".to_owned())
                }
                "limit" => match value.parse::<usize>() {
                    Ok(limit) if (1..=LIST_LIMIT_MAX).contains(&limit) => {
                        read.limit = limit;
                        None
                    }
                    _ => Some(format!("must be a whole number from 1 to {LIST_LIMIT_MAX}")),
                },
                "cursor" if value.len() <= CURSOR_CHARS_MAX => {
                    read.cursor = Some(value.to_owned());
                    None
                }
                "cursor" => Some("is no cursor of this list".to_owned()),
                _ => Some("there is no such parameter".to_owned()),
            };
            errors.extend(fault.map(|fault| (pointer(name), fault)));
        }
        if errors.is_empty() { Ok(read) } else { Err(fields_problem(errors)) }
    }

    /// The problem of a cursor that is none.
    #[must_use]
    pub fn foreign_cursor() -> Problem {
        let problem = Problem::new(ProblemKind::InvalidField, "one field is not valid");
        problem.with_error("/cursor", "is no cursor of this list")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn batch(body: Value) -> Result<BatchRequest, Problem> {
        BatchRequest::parse(body.to_string().as_bytes())
    }

    #[test]
    fn a_batch_is_read_item_by_item() {
        let body = json!({"commands": [{"command": "a", "priority": "batch"}, {"command": ""}, {"command": "b", "mode": "sync"}, 7]});
        let read = batch(body).expect("a batch").commands;
        let first = read[0].as_ref().expect("valid");
        assert_eq!((first.mode, first.priority), (Mode::Async, Some(Priority::Batch)));
        let wrong: Vec<_> = read[1..]
            .iter()
            .map(|item| item.as_ref().expect_err("wrong").errors()[0].pointer.clone())
            .collect();
        assert_eq!(wrong, ["/command", "/mode", ""]);
    }

    #[test]
    fn a_batch_has_one_to_a_hundred_commands() {
        let many = |count| batch(json!({"commands": vec![json!({"command": "x"}); count]}));
        assert_eq!(many(100).expect("fits").commands.len(), 100);
        for wrong in
            [many(0), many(101), batch(json!({})), batch(json!({"commands": [{"command": "x"}], "x": 1}))]
        {
            assert_eq!(wrong.expect_err("refused").kind(), ProblemKind::InvalidField);
        }
    }

    #[test]
    fn an_edit_takes_what_a_command_takes() {
        let edit = |body: Value| DeadLetterEdit::parse(body.to_string().as_bytes());
        let read = edit(json!({"command": "send it", "plan": null, "priority": "high"})).expect("valid");
        assert_eq!(
            (read.command.as_deref(), read.plan, read.priority),
            (Some("send it"), Some(None), Some(Priority::High))
        );
        assert_eq!(edit(json!({})).expect("nothing"), DeadLetterEdit::default());
        let wrong = edit(json!({"command": " ", "plan": 5, "priority": 1, "x": 1})).expect_err("refused");
        let pointers: Vec<_> = wrong.errors().iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(pointers, ["/command", "/plan", "/priority", "/x"]);
    }

    #[test]
    fn a_query_is_read_and_its_bounds_are_exact() {
        let read = ListQuery::parse("state=done&limit=100&cursor=abc").expect("valid");
        assert_eq!(
            (read.state, read.limit, read.cursor.as_deref()),
            (Some(TaskState::Done), 100, Some("abc"))
        );
        assert_eq!(ListQuery::parse("").expect("valid").limit, LIST_LIMIT_DEFAULT);
        assert_eq!(
            ListQuery::parse("state=awaiting_confirmation").expect("valid").state,
            Some(TaskState::AwaitingConfirmation)
        );
        for wrong in ["limit=0", "limit=101", "limit=x", "limit=", "state=", "state=over", "colour=red"] {
            assert!(ListQuery::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_key_has_visible_characters_alone() {
        for yes in ["a", "8e03978e-40d5-43dd-bc93-6894a57f9324", "\"quoted\"", &"x".repeat(255)] {
            assert!(is_idempotency_key(yes), "{yes}");
        }
        for no in ["", "a b", "é", &"x".repeat(256)] {
            assert!(!is_idempotency_key(no), "{no}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_queries_and_bodies_never_panic(query in "\\PC{0,60}", body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = ListQuery::parse(&query);
            let _ = BatchRequest::parse(&body);
            let _ = DeadLetterEdit::parse(&body);
        }
    }
}

//! Webhooks: what users subscribe to, what they are shown of it, and what is sent.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    ConnectionReason, ConnectionStatus, Mode, Priority, TaskState, fields_problem, object_of, pointer,
};
use crate::ids::{ConnectionId, DeliveryId, SessionId, TaskId, WebhookId};
use crate::problem::{Problem, ProblemKind};

/// The most characters in the URL of a webhook.
pub const WEBHOOK_URL_CHARS_MAX: usize = 2_048;
/// The most characters in the description of a webhook.
pub const WEBHOOK_DESCRIPTION_CHARS_MAX: usize = 256;

/// What can be told. The number stands on disk and never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum WebhookEvent {
    /// A task has ended, everything done.
    TaskDone = 1,
    /// A task has ended with an error.
    TaskFailed = 2,
    /// A task has ended as nothing to act on.
    TaskDeclined = 3,
    /// A task was given up at its user's wish, or since nobody confirmed it.
    TaskCancelled = 4,
    /// Somebody tries the webhook. It is sent when asked for, whatever a webhook is subscribed to.
    Ping = 5,
    /// Google does not accept a connected account any more: its user must consent again.
    ConnectionFailed = 6,
    /// An account that Google did not accept works again.
    ConnectionRecovered = 7,
}

impl WebhookEvent {
    /// Every event, in the order of the numbers.
    pub const ALL: [Self; 7] = [
        Self::TaskDone,
        Self::TaskFailed,
        Self::TaskDeclined,
        Self::TaskCancelled,
        Self::Ping,
        Self::ConnectionFailed,
        Self::ConnectionRecovered,
    ];

    /// Those that can be subscribed to.
    pub fn subscribable() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|event| *event != Self::Ping)
    }

    /// The name, as it stands in `type`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TaskDone => "task.done",
            Self::TaskFailed => "task.failed",
            Self::TaskDeclined => "task.declined",
            Self::TaskCancelled => "task.cancelled",
            Self::Ping => "webhook.ping",
            Self::ConnectionFailed => "connection.failed",
            Self::ConnectionRecovered => "connection.recovered",
        }
    }

    /// The number on disk.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The event of this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.number() == number)
    }

    /// What the end of a task is told as; `None` when it has not ended.
    #[must_use]
    pub const fn of_end(state: TaskState) -> Option<Self> {
        match state {
            TaskState::Done => Some(Self::TaskDone),
            TaskState::Failed => Some(Self::TaskFailed),
            TaskState::Declined => Some(Self::TaskDeclined),
            TaskState::Cancelled => Some(Self::TaskCancelled),
            TaskState::Queued | TaskState::Running | TaskState::AwaitingConfirmation => None,
        }
    }
}

/// What a webhook is subscribed to: never nothing, never a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventSet(u32);

impl EventSet {
    /// The set of these numbers' bits, as it stands on disk. Bits that mean nothing (any more) stay without effect.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The bits, one for each event's number.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether an event is in it.
    #[must_use]
    pub const fn has(self, event: WebhookEvent) -> bool {
        self.0 & (1 << event.number()) != 0
    }

    /// The names of what is in it.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        WebhookEvent::subscribable().filter(|event| self.has(*event)).map(WebhookEvent::name).collect()
    }

    fn read(value: &Value) -> Option<Self> {
        let names = value.as_array().filter(|names| !names.is_empty())?;
        let mut bits = 0;
        for name in names {
            let name = name.as_str()?;
            let bit = 1 << WebhookEvent::subscribable().find(|event| event.name() == name)?.number();
            // Each once.
            if bits & bit != 0 {
                return None;
            }
            bits |= bit;
        }
        Some(Self(bits))
    }
}

/// The body of `POST /api/v1/webhooks`. Whether messages may go to the URL is not checked here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookRequest {
    /// Where to: 1 to [`WEBHOOK_URL_CHARS_MAX`] characters.
    pub url: String,
    /// What is told.
    pub events: EventSet,
    /// What the user calls it: at most [`WEBHOOK_DESCRIPTION_CHARS_MAX`] characters.
    pub description: Option<String>,
    /// Whether anything is sent; it is unless said otherwise.
    pub enabled: bool,
}

impl WebhookRequest {
    /// Reads and checks a body.
    ///
    /// # Errors
    /// `invalid-json`, or `invalid-field` with one entry for each field that is wrong, unknown ones included.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let mut fields = Fields::of(body)?;
        let (url, events) = (fields.url(), fields.events());
        let (description, enabled) = (fields.description(), fields.enabled());
        for (name, is_there) in [("/url", url.is_some()), ("/events", events.is_some())] {
            if !is_there {
                fields.miss(name);
            }
        }
        fields.close()?;
        let (Some(url), Some(events)) = (url, events) else { return Err(fields_problem(Vec::new())) };
        Ok(Self { url, events, description: description.flatten(), enabled: enabled.unwrap_or(true) })
    }
}

/// The body of `PATCH /api/v1/webhooks/{id}`, a merge patch (RFC 7396): what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhookEdit {
    /// Another place.
    pub url: Option<String>,
    /// Other events.
    pub events: Option<EventSet>,
    /// Another description; `null` in the patch is `Some(None)`: none any more.
    pub description: Option<Option<String>>,
    /// Whether anything is sent.
    pub enabled: Option<bool>,
}

impl WebhookEdit {
    /// Reads and checks a body.
    ///
    /// # Errors
    /// `invalid-json` or `invalid-field`.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let mut fields = Fields::of(body)?;
        let edit = Self {
            url: fields.url(),
            events: fields.events(),
            description: fields.description(),
            enabled: fields.enabled(),
        };
        fields.close()?;
        Ok(edit)
    }
}

/// Takes fields out of a body, noting what is wrong with each.
struct Fields {
    fields: Map<String, Value>,
    errors: Vec<(String, String)>,
}

impl Fields {
    fn of(body: &[u8]) -> Result<Self, Problem> {
        Ok(Self { fields: object_of(body)?, errors: Vec::new() })
    }

    fn refuse(&mut self, pointer: &str, detail: impl Into<String>) {
        self.errors.push((pointer.to_owned(), detail.into()));
    }

    /// A field that must be there, unless more is known to be wrong with it.
    fn miss(&mut self, pointer: &str) {
        if !self.errors.iter().any(|(named, _)| named == pointer) {
            self.refuse(pointer, "is missing");
        }
    }

    fn url(&mut self) -> Option<String> {
        let fits = |url: &String| (1..=WEBHOOK_URL_CHARS_MAX).contains(&url.chars().count());
        match self.fields.remove("url")? {
            Value::String(url) if fits(&url) => Some(url),
            _ => {
                let detail = format!("must be a URL of 1 to {WEBHOOK_URL_CHARS_MAX} characters");
                self.refuse("/url", detail);
                None
            }
        }
    }

    fn events(&mut self) -> Option<EventSet> {
        let value = self.fields.remove("events")?;
        let events = EventSet::read(&value);
        if events.is_none() {
            let names: Vec<_> = WebhookEvent::subscribable().map(WebhookEvent::name).collect();
            self.refuse("/events", format!("must be a list of some of {}, each once", names.join(", ")));
        }
        events
    }

    fn description(&mut self) -> Option<Option<String>> {
        match self.fields.remove("description")? {
            Value::Null => Some(None),
            Value::String(text) if text.chars().count() <= WEBHOOK_DESCRIPTION_CHARS_MAX => Some(Some(text)),
            _ => {
                let detail =
                    format!("must be a text of at most {WEBHOOK_DESCRIPTION_CHARS_MAX} characters, or null");
                self.refuse("/description", detail);
                None
            }
        }
    }

    fn enabled(&mut self) -> Option<bool> {
        let value = self.fields.remove("enabled")?;
        if !value.is_boolean() {
            self.refuse("/enabled", "must be true or false");
        }
        value.as_bool()
    }

    /// The end: whatever is left is unknown.
    fn close(mut self) -> Result<(), Problem> {
        let unknown = self.fields.keys().map(|name| (pointer(name), "there is no such field".to_owned()));
        self.errors.extend(unknown);
        if self.errors.is_empty() { Ok(()) } else { Err(fields_problem(self.errors)) }
    }
}

/// Why a webhook is disabled, where its user did not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DisabledReason {
    /// The receiver answered 410.
    Gone,
    /// Too many messages in a row were given up.
    Failing,
}

/// A webhook as its user sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WebhookView {
    /// Its name.
    pub id: WebhookId,
    /// Where to.
    pub url: String,
    /// What is told.
    pub events: Vec<String>,
    /// What the user calls it.
    pub description: Option<String>,
    /// Whether anything is sent.
    pub enabled: bool,
    /// Why not, where its user did not do it.
    pub disabled_reason: Option<DisabledReason>,
    /// When it was made.
    pub created: Timestamp,
    /// When it was changed last.
    pub updated: Timestamp,
    /// Until when the secret before signs beside the present one.
    pub previous_secret_until: Option<Timestamp>,
    /// The secret, when it is new; it is not shown again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// The reply to `GET /api/v1/webhooks`, in the order they were made in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WebhookListView {
    /// All of them: there are never many.
    pub webhooks: Vec<WebhookView>,
}

/// The reply to `POST /api/v1/webhooks/{id}/test`, with status 202.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingView {
    /// The `webhook-id` of what is sent.
    pub id: DeliveryId,
    /// `webhook.ping`.
    pub event: String,
    /// Where to see what came of it.
    pub location: String,
}

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// The receiver took it.
    Delivered,
    /// It is tried again.
    Retrying,
    /// It is not tried again.
    GivenUp,
}

/// One attempt at a delivery.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptView {
    /// The `webhook-id`, the same for every attempt at a message.
    pub id: DeliveryId,
    /// What was told.
    pub event: String,
    /// Which attempt it was, from 1; 0 when there was none.
    pub attempt: u32,
    /// When it ended.
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub took_ms: u32,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// What went wrong, if anything did.
    pub error: Option<String>,
    /// What it came to.
    pub outcome: AttemptOutcome,
}

/// The reply to `GET /api/v1/webhooks/{id}/deliveries`, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptListView {
    /// The last attempts.
    pub deliveries: Vec<AttemptView>,
}

/// The path of a webhook.
#[must_use]
pub fn webhook_path(id: WebhookId) -> String {
    format!("/api/v1/webhooks/{id}")
}

/// What is sent: `type`, `timestamp` and `data` of Standard Webhooks.
#[derive(Serialize)]
struct Message<'a, D> {
    r#type: &'a str,
    timestamp: Timestamp,
    data: D,
}

/// The body of a message about something that happened at `at`.
#[must_use]
pub fn webhook_message(event: WebhookEvent, at: Timestamp, data: &impl Serialize) -> String {
    let message = Message { r#type: event.name(), timestamp: at, data };
    serde_json::to_string(&message).expect("names are texts and nothing else can fail")
}

/// What a message tells of a task: its names and its state. What it says and what it found stays here, to be fetched with
/// the user's key.
#[derive(Serialize)]
pub struct TaskNotice {
    /// Its name.
    pub id: TaskId,
    /// How it ended.
    pub state: TaskState,
    /// How it was asked for.
    pub mode: Mode,
    /// How urgent it was.
    pub priority: Priority,
    /// The conversation it belongs to.
    pub session: SessionId,
    /// Where the whole task is.
    pub location: String,
    /// The kind of what went wrong.
    pub error: Option<ProblemKind>,
    /// When it was accepted.
    pub created: Timestamp,
    /// When it ended.
    pub finished: Option<Timestamp>,
}

/// What a message tells of a connected account: which it is, and how its user mends it. The account's address is neither in
/// it nor in the link; the page to which that leads shows it.
#[derive(Serialize)]
pub struct ConnectionNotice {
    /// Its name.
    pub id: ConnectionId,
    /// `google`.
    pub provider: &'static str,
    /// How it is.
    pub status: ConnectionStatus,
    /// Why, where it cannot be used.
    pub reason: Option<ConnectionReason>,
    /// Where the user consents again, while that is needed.
    pub link: Option<String>,
    /// Where all that is known of it is.
    pub location: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn pointers(result: Result<impl std::fmt::Debug, Problem>) -> Vec<String> {
        let problem = result.expect_err("refused");
        problem.errors().iter().map(|error| error.pointer.clone()).collect()
    }

    fn request(body: Value) -> Result<WebhookRequest, Problem> {
        WebhookRequest::parse(body.to_string().as_bytes())
    }

    fn edit(body: Value) -> Result<WebhookEdit, Problem> {
        WebhookEdit::parse(body.to_string().as_bytes())
    }

    #[test]
    fn a_request_is_read_and_its_bounds_are_exact() {
        let read =
            request(json!({"url": "https://x", "events": ["task.done", "task.failed"]})).expect("valid");
        assert_eq!((read.url.as_str(), read.description, read.enabled), ("https://x", None, true));
        assert_eq!(read.events.names(), ["task.done", "task.failed"]);
        let of = |url: String, description: String| {
            request(json!({"url": url, "events": ["task.done"], "description": description}))
        };
        assert!(of("x".repeat(2_048), "é".repeat(256)).is_ok());
        assert_eq!(pointers(of("x".repeat(2_049), "é".repeat(257))), ["/description", "/url"]);
        assert_eq!(pointers(request(json!({}))), ["/events", "/url"]);
        let wrong =
            json!({"url": 1, "events": "task.done", "description": 1, "enabled": "yes", "secret": "x"});
        assert_eq!(pointers(request(wrong)), ["/description", "/enabled", "/events", "/secret", "/url"]);
    }

    #[test]
    fn events_are_known_ones_each_once_and_no_ping() {
        for events in [
            json!([]),
            json!(["task.started"]),
            json!(["webhook.ping"]),
            json!(["task.done", "task.done"]),
            json!([1]),
            json!(null),
        ] {
            assert_eq!(pointers(request(json!({"url": "x", "events": events}))), ["/events"], "{events}");
        }
        let all: Vec<_> = WebhookEvent::subscribable().map(WebhookEvent::name).collect();
        let read = request(json!({"url": "x", "events": all})).expect("valid");
        assert_eq!(read.events.names(), all);
        assert!(!read.events.has(WebhookEvent::Ping));
    }

    #[test]
    fn a_patch_changes_what_it_names() {
        assert_eq!(edit(json!({})).expect("nothing"), WebhookEdit::default());
        let read = edit(json!({"description": null, "enabled": false})).expect("valid");
        assert_eq!((read.description, read.enabled, read.url), (Some(None), Some(false), None));
        let wrong = edit(json!({"url": null, "events": null, "enabled": null, "id": "x"}));
        assert_eq!(pointers(wrong), ["/enabled", "/events", "/id", "/url"]);
    }

    #[test]
    fn numbers_and_names_of_events_are_their_own() {
        for (index, event) in WebhookEvent::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(event.number()), index + 1);
            assert_eq!(WebhookEvent::from_number(event.number()), Some(event));
        }
        assert_eq!(WebhookEvent::from_number(0), None);
        assert_eq!(WebhookEvent::of_end(TaskState::Running), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = WebhookRequest::parse(&body);
            let _ = WebhookEdit::parse(&body);
        }
    }
}

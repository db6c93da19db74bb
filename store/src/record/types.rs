//! The records. Times are milliseconds since 1970 (`_ms`), durations microseconds (`_us`).
//!
//! Small numbers whose meaning belongs to the layer above (a task's mode and state, a step's state, an item's kind)
//! are `u8` here, so that this layer need not change when a state is added.

use rkyv::rancor;
use rkyv::rancor::Fallible;
use rkyv::with::{ArchiveWith, DeserializeWith, SerializeWith};
use rkyv::{Archive, Deserialize, Place, Serialize};
use sluice_protocols::ids::{
    BrowserSessionId, ConnectionId, DeliveryId, GenerationId, KeyId, SessionId, SnapshotId, TaskId, UserId,
    WebhookId,
};

use super::{ActingAccount, Record, Sealed};
use crate::key::Kind;

/// Most turns a session keeps; older ones are in the history.
pub const SESSION_TURNS_MAX: usize = 10;

/// Archives an id as its bytes.
pub(super) struct Raw;

macro_rules! raw_id {
    ($id:ty, $bytes:literal) => {
        impl ArchiveWith<$id> for Raw {
            type Archived = [u8; $bytes];
            type Resolver = ();

            fn resolve_with(id: &$id, (): (), out: Place<Self::Archived>) {
                out.write(*id.as_bytes());
            }
        }

        impl<S: Fallible + ?Sized> SerializeWith<$id, S> for Raw {
            fn serialize_with(_: &$id, _: &mut S) -> Result<(), S::Error> {
                Ok(())
            }
        }

        impl<D: Fallible + ?Sized> DeserializeWith<[u8; $bytes], $id, D> for Raw {
            fn deserialize_with(bytes: &[u8; $bytes], _: &mut D) -> Result<$id, D::Error> {
                Ok(<$id>::from_bytes(*bytes))
            }
        }
    };
}

raw_id!(UserId, 16);
raw_id!(SessionId, 16);
raw_id!(TaskId, 16);
raw_id!(WebhookId, 16);
raw_id!(DeliveryId, 16);
raw_id!(KeyId, 8);
raw_id!(GenerationId, 16);
raw_id!(SnapshotId, 16);
raw_id!(BrowserSessionId, 16);
raw_id!(ConnectionId, 16);

/// Whose name (or e-mail address) it is.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct NameRecord {
    #[rkyv(with = Raw)]
    pub user: UserId,
    pub created_ms: u64,
}

impl Record for NameRecord {
    const NAME: &'static str = "name";
    const KINDS: &'static [Kind] = &[Kind::Name];
    const SCHEMA: u8 = 1;
}

/// With whom a user is connected. The number is part of the key on disk and never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(compare(PartialEq), derive(Clone, Copy, Debug, PartialEq, Eq))]
#[repr(u8)]
pub enum Provider {
    Google = 1,
}

impl Provider {
    /// The stable number, for [`crate::key::Key::connection`].
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// What seals a user's secrets: their data key, itself sealed under a master key ([`crate::vault`]).
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct DataKeyRecord {
    #[rkyv(with = Raw)]
    pub user: UserId,
    /// From 1; a key made after the one before was destroyed has the next number.
    pub version: u32,
    /// `None` once it was destroyed.
    pub wrapped: Option<Sealed>,
    /// When the data key was made.
    pub created_ms: u64,
}

impl Record for DataKeyRecord {
    const NAME: &'static str = "data key";
    const KINDS: &'static [Kind] = &[Kind::DataKey];
    const SCHEMA: u8 = 1;
}

/// A conversation. Its last [`SESSION_TURNS_MAX`] turns have records of their own, so that a command writes one of
/// them and not all.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct SessionRecord {
    #[rkyv(with = Raw)]
    pub id: SessionId,
    #[rkyv(with = Raw)]
    pub user: UserId,
    pub created_ms: u64,
    pub expires_ms: u64,
    /// Number of the next turn, from 1: turns are numbered without gaps.
    pub next_turn: u32,
    /// The number last given to a handle, for messages, events and files.
    pub handles: [u16; 3],
    /// The turns of a record of schema 1, which held them itself; they move out with the next turn.
    pub turns: Vec<TurnRecordV1>,
}

impl SessionRecord {
    /// Number of the oldest turn that is remembered.
    pub fn first_turn(&self) -> u32 {
        first_turn(self.next_turn)
    }
}

/// Number of the oldest turn that a session remembers whose next turn is `next`.
pub fn first_turn(next: u32) -> u32 {
    #[allow(clippy::cast_possible_truncation, reason = "a small constant")]
    const TURNS_MAX: u32 = SESSION_TURNS_MAX as u32;
    next.saturating_sub(TURNS_MAX).max(1)
}

impl Record for SessionRecord {
    const NAME: &'static str = "session";
    const KINDS: &'static [Kind] = &[Kind::Session];
    const SCHEMA: u8 = 2;

    fn upgrade(schema: u8, archive: &[u8]) -> Option<Result<Self, rancor::Error>> {
        match schema {
            1 => Some(rkyv::from_bytes::<SessionRecordV1, rancor::Error>(archive).map(Self::from)),
            _ => None,
        }
    }
}

/// Schema 1: with its turns inside.
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub(super) struct SessionRecordV1 {
    #[rkyv(with = Raw)]
    pub(super) id: SessionId,
    #[rkyv(with = Raw)]
    pub(super) user: UserId,
    pub(super) created_ms: u64,
    pub(super) expires_ms: u64,
    pub(super) next_turn: u32,
    pub(super) turns: Vec<TurnRecordV1>,
}

impl From<SessionRecordV1> for SessionRecord {
    fn from(old: SessionRecordV1) -> Self {
        let mut handles = [0; 3];
        // The newest of a kind comes last.
        for item in old.turns.iter().flat_map(|turn| &turn.items) {
            let number = item.handle.get(1..).and_then(|number| number.parse().ok());
            if let (Some(last), Some(number)) =
                (handles.get_mut(usize::from(item.kind).wrapping_sub(1)), number)
            {
                *last = number;
            }
        }
        let SessionRecordV1 { id, user, created_ms, expires_ms, next_turn, turns } = old;
        Self { id, user, created_ms, expires_ms, next_turn, handles, turns }
    }
}

/// One command of a session.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TurnRecord {
    pub number: u32,
    #[rkyv(with = Raw)]
    pub task: TaskId,
    pub command: String,
    /// What the user was told; nothing while the task is pending.
    pub answer: Option<String>,
    pub state: u8,
    pub at_ms: u64,
    pub items: Vec<ItemRecord>,
    /// The account that the items are of; `None` where that is not known.
    pub account: Option<ActingAccount>,
}

impl Record for TurnRecord {
    const NAME: &'static str = "turn";
    const KINDS: &'static [Kind] = &[Kind::Turn];
    const SCHEMA: u8 = 2;

    fn upgrade(schema: u8, archive: &[u8]) -> Option<Result<Self, rancor::Error>> {
        match schema {
            1 => Some(rkyv::from_bytes::<TurnRecordV1, rancor::Error>(archive).map(Self::from)),
            _ => None,
        }
    }
}

/// Schema 1 of a turn, also as sessions of schema 1 held it: before it was kept of which account its items are.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TurnRecordV1 {
    pub number: u32,
    #[rkyv(with = Raw)]
    pub task: TaskId,
    pub command: String,
    pub answer: Option<String>,
    pub state: u8,
    pub at_ms: u64,
    pub items: Vec<ItemRecord>,
}

impl From<TurnRecordV1> for TurnRecord {
    fn from(old: TurnRecordV1) -> Self {
        let TurnRecordV1 { number, task, command, answer, state, at_ms, items } = old;
        Self { number, task, command, answer, state, at_ms, items, account: None }
    }
}

/// A message, event or file that a turn brought up and later commands may refer to.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ItemRecord {
    /// Name within the session, such as `m1`.
    pub handle: String,
    pub kind: u8,
    /// The provider's id.
    pub id: String,
    pub title: String,
    pub person_name: Option<String>,
    pub person_address: Option<String>,
    pub when: Option<String>,
    pub thread_id: Option<String>,
    pub message_id_header: Option<String>,
    pub snippet: Option<String>,
}

/// One step of a task's plan.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct StepRecord {
    pub id: String,
    pub state: u8,
    /// What was about to be done, written before it is done (the id of a draft, say), so that a restart can find
    /// out whether it was.
    pub intent: Option<String>,
    /// The operation with everything filled in, where the plan has places for what earlier steps bring.
    pub call_json: Option<String>,
    /// How often it was tried.
    pub tries: u32,
    pub outcome_json: Option<String>,
    pub text: Option<String>,
    pub error_json: Option<String>,
    pub calls_json: Option<String>,
    /// How far it is undone; 0 when nobody set out to.
    pub undo: u8,
    /// Why it could not be undone.
    pub undo_error_json: Option<String>,
}

impl StepRecord {
    /// A step in this state of which nothing is known.
    pub fn new(id: String, state: u8) -> Self {
        Self {
            id,
            state,
            intent: None,
            call_json: None,
            tries: 0,
            outcome_json: None,
            text: None,
            error_json: None,
            calls_json: None,
            undo: 0,
            undo_error_json: None,
        }
    }
}

/// A step in tasks of the schemas 1 and 2: before steps were filled in, tried again and undone.
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub(super) struct StepRecordV1 {
    pub(super) id: String,
    pub(super) state: u8,
    pub(super) intent: Option<String>,
    pub(super) outcome_json: Option<String>,
    pub(super) text: Option<String>,
    pub(super) error_json: Option<String>,
    pub(super) calls_json: Option<String>,
}

impl From<StepRecordV1> for StepRecord {
    fn from(old: StepRecordV1) -> Self {
        Self {
            intent: old.intent,
            outcome_json: old.outcome_json,
            text: old.text,
            error_json: old.error_json,
            calls_json: old.calls_json,
            ..Self::new(old.id, old.state)
        }
    }
}

/// One version of a workflow that a user stored.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct WorkflowRecord {
    #[rkyv(with = Raw)]
    pub user: UserId,
    pub name: String,
    /// From 1; a workflow that was deleted and made anew begins again.
    pub version: u32,
    /// When the first version was stored.
    pub created_ms: u64,
    /// When this version was stored.
    pub updated_ms: u64,
    /// What it does, as it was checked when it was stored.
    pub definition_json: String,
}

impl Record for WorkflowRecord {
    const NAME: &'static str = "workflow";
    const KINDS: &'static [Kind] = &[Kind::Workflow, Kind::WorkflowVersion];
    const SCHEMA: u8 = 1;
}

/// What a user has used of the limits on requests: when the buckets are full again, by the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct LimitStateRecord {
    pub minute_full_ms: u64,
    pub hour_full_ms: u64,
    /// Of how many requests a bucket is that is full; 0 when that is not known.
    pub minute_count: u32,
    pub hour_count: u32,
    /// How long what was used beyond the bucket, under a higher limit before, takes to come back once it is full.
    pub minute_over_ms: u64,
    pub hour_over_ms: u64,
}

impl Record for LimitStateRecord {
    const NAME: &'static str = "limit state";
    const KINDS: &'static [Kind] = &[Kind::Limit];
    const SCHEMA: u8 = 3;

    fn upgrade(schema: u8, archive: &[u8]) -> Option<Result<Self, rancor::Error>> {
        match schema {
            1 => Some(rkyv::from_bytes::<LimitStateRecordV1, rancor::Error>(archive).map(Self::from)),
            2 => Some(rkyv::from_bytes::<LimitStateRecordV2, rancor::Error>(archive).map(Self::from)),
            _ => None,
        }
    }
}

/// Schema 1: without the counts.
#[derive(Clone, Copy, Debug, Archive, Serialize, Deserialize)]
pub(super) struct LimitStateRecordV1 {
    pub(super) minute_full_ms: u64,
    pub(super) hour_full_ms: u64,
}

impl From<LimitStateRecordV1> for LimitStateRecord {
    fn from(old: LimitStateRecordV1) -> Self {
        let LimitStateRecordV1 { minute_full_ms, hour_full_ms } = old;
        LimitStateRecordV2 { minute_full_ms, hour_full_ms, minute_count: 0, hour_count: 0 }.into()
    }
}

/// Schema 2: without what was used beyond the buckets.
#[derive(Clone, Copy, Debug, Archive, Serialize, Deserialize)]
pub(super) struct LimitStateRecordV2 {
    pub(super) minute_full_ms: u64,
    pub(super) hour_full_ms: u64,
    pub(super) minute_count: u32,
    pub(super) hour_count: u32,
}

impl From<LimitStateRecordV2> for LimitStateRecord {
    fn from(old: LimitStateRecordV2) -> Self {
        let LimitStateRecordV2 { minute_full_ms, hour_full_ms, minute_count, hour_count } = old;
        Self { minute_full_ms, hour_full_ms, minute_count, hour_count, minute_over_ms: 0, hour_over_ms: 0 }
    }
}

/// What a user is allowed, where that is not what all are: `None` is what all are, 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct LimitRecord {
    pub per_minute: Option<u32>,
    pub per_hour: Option<u32>,
    /// Requests at once.
    pub concurrent_max: Option<u32>,
}

impl Record for LimitRecord {
    const NAME: &'static str = "limit";
    const KINDS: &'static [Kind] = &[Kind::Limit];
    const SCHEMA: u8 = 1;
}

/// What became of a command, for the list of past commands.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct HistoryRecord {
    #[rkyv(with = Raw)]
    pub task: TaskId,
    pub at_ms: u64,
    pub command: String,
    pub state: u8,
    pub answer: Option<String>,
    /// One bit for each service used.
    pub services: u8,
    /// The operations of its steps, each once, in the order of the plan; none of commands that ended before schema 2.
    pub operations: Vec<String>,
}

impl Record for HistoryRecord {
    const NAME: &'static str = "history";
    const KINDS: &'static [Kind] = &[Kind::History];
    const SCHEMA: u8 = 2;

    fn upgrade(schema: u8, archive: &[u8]) -> Option<Result<Self, rancor::Error>> {
        match schema {
            1 => Some(rkyv::from_bytes::<HistoryRecordV1, rancor::Error>(archive).map(Self::from)),
            _ => None,
        }
    }
}

/// Schema 1: before operations were kept.
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub(super) struct HistoryRecordV1 {
    #[rkyv(with = Raw)]
    pub(super) task: TaskId,
    pub(super) at_ms: u64,
    pub(super) command: String,
    pub(super) state: u8,
    pub(super) answer: Option<String>,
    pub(super) services: u8,
}

impl From<HistoryRecordV1> for HistoryRecord {
    fn from(old: HistoryRecordV1) -> Self {
        let HistoryRecordV1 { task, at_ms, command, state, answer, services } = old;
        Self { task, at_ms, command, state, answer, services, operations: Vec::new() }
    }
}

/// What a user prefers.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct PreferencesRecord {
    #[rkyv(with = Raw)]
    pub user: UserId,
    pub updated_ms: u64,
    /// IANA name.
    pub time_zone: Option<String>,
    /// Tag of a language.
    pub language: Option<String>,
    /// 0 for none.
    pub priority: u8,
    /// Operations that need a confirmation.
    pub confirm: Vec<String>,
    /// What programs of the user's keep: an object.
    pub custom_json: String,
}

impl Record for PreferencesRecord {
    const NAME: &'static str = "preferences";
    const KINDS: &'static [Kind] = &[Kind::Preferences];
    const SCHEMA: u8 = 1;
}

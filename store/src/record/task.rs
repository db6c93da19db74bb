//! Tasks, and what an idempotency key stands for.

use rkyv::{Archive, Deserialize, Serialize, rancor};
use sluice_protocols::ids::{ConnectionId, SessionId, TaskId, UserId};

use super::Record;
use super::types::{Raw, StepRecord, StepRecordV1};
use crate::key::Kind;

/// The number of the usual priority: what tasks of the first schema have.
const PRIORITY_NORMAL: u8 = 2;

/// Whose mail, calendar and files something is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum ActingAccount {
    /// An account that the user has connected.
    Connected(#[rkyv(with = Raw)] ConnectionId),
    /// The one of this address (a hash of it), for which the operator's service account acts.
    Delegated([u8; 16]),
}

impl ArchivedActingAccount {
    /// The account, owned.
    pub fn to_native(&self) -> ActingAccount {
        match self {
            Self::Connected(id) => ActingAccount::Connected(ConnectionId::from_bytes(*id)),
            Self::Delegated(hash) => ActingAccount::Delegated(*hash),
        }
    }
}

/// What a task waited for that is no upstream's answer, in microseconds. Apart from each other and from the answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct WaitsRecord {
    /// For the end of an earlier command of its session.
    pub turn_us: u64,
    /// For a place among the tasks that run.
    pub queue_us: u64,
    /// For units of a quota, or a place among the calls under way.
    pub quota_us: u64,
    /// For a read that was on its way for somebody else.
    pub shared_us: u64,
}

/// A command on its way, with everything needed to take it up again after a crash.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TaskRecord {
    #[rkyv(with = Raw)]
    pub id: TaskId,
    #[rkyv(with = Raw)]
    pub user: UserId,
    #[rkyv(with = Raw)]
    pub session: SessionId,
    pub command: String,
    pub mode: u8,
    pub state: u8,
    pub priority: u8,
    pub time_zone: String,
    pub created_ms: u64,
    pub deadline_ms: u64,
    /// The caller set the deadline, so a restart does not move it.
    pub deadline_asked: bool,
    /// The user saw the plan and agreed to it.
    pub confirmed: bool,
    pub finished_ms: Option<u64>,
    /// How often the task was taken up.
    pub attempts: u32,
    /// How often it was put back after a failure that might pass.
    pub retries: u32,
    /// It is not run before this moment; 0 when it was never put back.
    pub not_before_ms: u64,
    /// Why it was put back last.
    pub last_error_json: Option<String>,
    pub plan_json: Option<String>,
    pub steps: Vec<StepRecord>,
    pub answer: Option<String>,
    pub error_json: Option<String>,
    pub openai_us: u64,
    pub google_us: u64,
    pub total_us: u64,
    /// What has come of it so far, in order, one number an event; what they mean belongs to the layer above. The place
    /// in the list is the event's id, so the list only grows.
    pub events: Vec<u16>,
    /// The account it is carried out with, and no other; `None` until that is known: its first step settles it.
    pub account: Option<ActingAccount>,
    /// What else `total_us` went to.
    pub waits: WaitsRecord,
    /// Its user wishes it given up: whoever takes it up begins nothing more of it.
    pub cancel_asked: bool,
}

impl Record for TaskRecord {
    const NAME: &'static str = "task";
    const KINDS: &'static [Kind] = &[Kind::TaskPending, Kind::TaskFinished, Kind::DeadLetter];
    const SCHEMA: u8 = 7;

    fn upgrade(schema: u8, archive: &[u8]) -> Option<Result<Self, rancor::Error>> {
        match schema {
            1 => Some(rkyv::from_bytes::<TaskRecordV1, rancor::Error>(archive).map(Self::from)),
            2 => Some(rkyv::from_bytes::<TaskRecordV2, rancor::Error>(archive).map(Self::from)),
            3 => Some(rkyv::from_bytes::<TaskRecordV3, rancor::Error>(archive).map(Self::from)),
            4 => Some(rkyv::from_bytes::<TaskRecordV4, rancor::Error>(archive).map(Self::from)),
            5 => Some(rkyv::from_bytes::<TaskRecordV5, rancor::Error>(archive).map(Self::from)),
            6 => Some(rkyv::from_bytes::<TaskRecordV6, rancor::Error>(archive).map(Self::from)),
            _ => None,
        }
    }
}

/// Schema 6: before the wish to give a task up was kept with it.
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub(super) struct TaskRecordV6 {
    #[rkyv(with = Raw)]
    pub(super) id: TaskId,
    #[rkyv(with = Raw)]
    pub(super) user: UserId,
    #[rkyv(with = Raw)]
    pub(super) session: SessionId,
    pub(super) command: String,
    pub(super) mode: u8,
    pub(super) state: u8,
    pub(super) priority: u8,
    pub(super) time_zone: String,
    pub(super) created_ms: u64,
    pub(super) deadline_ms: u64,
    pub(super) deadline_asked: bool,
    pub(super) confirmed: bool,
    pub(super) finished_ms: Option<u64>,
    pub(super) attempts: u32,
    pub(super) retries: u32,
    pub(super) not_before_ms: u64,
    pub(super) last_error_json: Option<String>,
    pub(super) plan_json: Option<String>,
    pub(super) steps: Vec<StepRecord>,
    pub(super) answer: Option<String>,
    pub(super) error_json: Option<String>,
    pub(super) openai_us: u64,
    pub(super) google_us: u64,
    pub(super) total_us: u64,
    pub(super) events: Vec<u16>,
    pub(super) account: Option<ActingAccount>,
    pub(super) waits: WaitsRecord,
}

impl From<TaskRecordV6> for TaskRecord {
    fn from(old: TaskRecordV6) -> Self {
        Self {
            id: old.id,
            user: old.user,
            session: old.session,
            command: old.command,
            mode: old.mode,
            state: old.state,
            priority: old.priority,
            time_zone: old.time_zone,
            created_ms: old.created_ms,
            deadline_ms: old.deadline_ms,
            deadline_asked: old.deadline_asked,
            confirmed: old.confirmed,
            finished_ms: old.finished_ms,
            attempts: old.attempts,
            retries: old.retries,
            not_before_ms: old.not_before_ms,
            last_error_json: old.last_error_json,
            plan_json: old.plan_json,
            steps: old.steps,
            answer: old.answer,
            error_json: old.error_json,
            openai_us: old.openai_us,
            google_us: old.google_us,
            total_us: old.total_us,
            events: old.events,
            account: old.account,
            waits: old.waits,
            cancel_asked: false,
        }
    }
}

/// Schema 5: before it was kept what else than an upstream a task waited for.
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub(super) struct TaskRecordV5 {
    #[rkyv(with = Raw)]
    pub(super) id: TaskId,
    #[rkyv(with = Raw)]
    pub(super) user: UserId,
    #[rkyv(with = Raw)]
    pub(super) session: SessionId,
    pub(super) command: String,
    pub(super) mode: u8,
    pub(super) state: u8,
    pub(super) priority: u8,
    pub(super) time_zone: String,
    pub(super) created_ms: u64,
    pub(super) deadline_ms: u64,
    pub(super) deadline_asked: bool,
    pub(super) confirmed: bool,
    pub(super) finished_ms: Option<u64>,
    pub(super) attempts: u32,
    pub(super) retries: u32,
    pub(super) not_before_ms: u64,
    pub(super) last_error_json: Option<String>,
    pub(super) plan_json: Option<String>,
    pub(super) steps: Vec<StepRecord>,
    pub(super) answer: Option<String>,
    pub(super) error_json: Option<String>,
    pub(super) openai_us: u64,
    pub(super) google_us: u64,
    pub(super) total_us: u64,
    pub(super) events: Vec<u16>,
    pub(super) account: Option<ActingAccount>,
}

impl From<TaskRecordV5> for TaskRecord {
    fn from(old: TaskRecordV5) -> Self {
        Self {
            id: old.id,
            user: old.user,
            session: old.session,
            command: old.command,
            mode: old.mode,
            state: old.state,
            priority: old.priority,
            time_zone: old.time_zone,
            created_ms: old.created_ms,
            deadline_ms: old.deadline_ms,
            deadline_asked: old.deadline_asked,
            confirmed: old.confirmed,
            finished_ms: old.finished_ms,
            attempts: old.attempts,
            retries: old.retries,
            not_before_ms: old.not_before_ms,
            last_error_json: old.last_error_json,
            plan_json: old.plan_json,
            steps: old.steps,
            answer: old.answer,
            error_json: old.error_json,
            openai_us: old.openai_us,
            google_us: old.google_us,
            total_us: old.total_us,
            events: old.events,
            account: old.account,
            waits: WaitsRecord::default(),
            cancel_asked: false,
        }
    }
}

/// Schema 4: before a task kept to one account.
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub(super) struct TaskRecordV4 {
    #[rkyv(with = Raw)]
    pub(super) id: TaskId,
    #[rkyv(with = Raw)]
    pub(super) user: UserId,
    #[rkyv(with = Raw)]
    pub(super) session: SessionId,
    pub(super) command: String,
    pub(super) mode: u8,
    pub(super) state: u8,
    pub(super) priority: u8,
    pub(super) time_zone: String,
    pub(super) created_ms: u64,
    pub(super) deadline_ms: u64,
    pub(super) deadline_asked: bool,
    pub(super) confirmed: bool,
    pub(super) finished_ms: Option<u64>,
    pub(super) attempts: u32,
    pub(super) retries: u32,
    pub(super) not_before_ms: u64,
    pub(super) last_error_json: Option<String>,
    pub(super) plan_json: Option<String>,
    pub(super) steps: Vec<StepRecord>,
    pub(super) answer: Option<String>,
    pub(super) error_json: Option<String>,
    pub(super) openai_us: u64,
    pub(super) google_us: u64,
    pub(super) total_us: u64,
    pub(super) events: Vec<u16>,
}

impl From<TaskRecordV4> for TaskRecord {
    fn from(old: TaskRecordV4) -> Self {
        Self {
            id: old.id,
            user: old.user,
            session: old.session,
            command: old.command,
            mode: old.mode,
            state: old.state,
            priority: old.priority,
            time_zone: old.time_zone,
            created_ms: old.created_ms,
            deadline_ms: old.deadline_ms,
            deadline_asked: old.deadline_asked,
            confirmed: old.confirmed,
            finished_ms: old.finished_ms,
            attempts: old.attempts,
            retries: old.retries,
            not_before_ms: old.not_before_ms,
            last_error_json: old.last_error_json,
            plan_json: old.plan_json,
            steps: old.steps,
            answer: old.answer,
            error_json: old.error_json,
            openai_us: old.openai_us,
            google_us: old.google_us,
            total_us: old.total_us,
            events: old.events,
            account: None,
            waits: WaitsRecord::default(),
            cancel_asked: false,
        }
    }
}

/// Schema 3: before it was kept what was told of a task.
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub(super) struct TaskRecordV3 {
    #[rkyv(with = Raw)]
    pub(super) id: TaskId,
    #[rkyv(with = Raw)]
    pub(super) user: UserId,
    #[rkyv(with = Raw)]
    pub(super) session: SessionId,
    pub(super) command: String,
    pub(super) mode: u8,
    pub(super) state: u8,
    pub(super) priority: u8,
    pub(super) time_zone: String,
    pub(super) created_ms: u64,
    pub(super) deadline_ms: u64,
    pub(super) deadline_asked: bool,
    pub(super) confirmed: bool,
    pub(super) finished_ms: Option<u64>,
    pub(super) attempts: u32,
    pub(super) retries: u32,
    pub(super) not_before_ms: u64,
    pub(super) last_error_json: Option<String>,
    pub(super) plan_json: Option<String>,
    pub(super) steps: Vec<StepRecord>,
    pub(super) answer: Option<String>,
    pub(super) error_json: Option<String>,
    pub(super) openai_us: u64,
    pub(super) google_us: u64,
    pub(super) total_us: u64,
}

impl From<TaskRecordV3> for TaskRecord {
    fn from(old: TaskRecordV3) -> Self {
        Self {
            id: old.id,
            user: old.user,
            session: old.session,
            command: old.command,
            mode: old.mode,
            state: old.state,
            priority: old.priority,
            time_zone: old.time_zone,
            created_ms: old.created_ms,
            deadline_ms: old.deadline_ms,
            deadline_asked: old.deadline_asked,
            confirmed: old.confirmed,
            finished_ms: old.finished_ms,
            attempts: old.attempts,
            retries: old.retries,
            not_before_ms: old.not_before_ms,
            last_error_json: old.last_error_json,
            plan_json: old.plan_json,
            steps: old.steps,
            answer: old.answer,
            error_json: old.error_json,
            openai_us: old.openai_us,
            google_us: old.google_us,
            total_us: old.total_us,
            events: Vec::new(),
            account: None,
            waits: WaitsRecord::default(),
            cancel_asked: false,
        }
    }
}

/// Schema 2: before steps were filled in, tried again and undone.
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub(super) struct TaskRecordV2 {
    #[rkyv(with = Raw)]
    pub(super) id: TaskId,
    #[rkyv(with = Raw)]
    pub(super) user: UserId,
    #[rkyv(with = Raw)]
    pub(super) session: SessionId,
    pub(super) command: String,
    pub(super) mode: u8,
    pub(super) state: u8,
    pub(super) priority: u8,
    pub(super) time_zone: String,
    pub(super) created_ms: u64,
    pub(super) deadline_ms: u64,
    pub(super) deadline_asked: bool,
    pub(super) confirmed: bool,
    pub(super) finished_ms: Option<u64>,
    pub(super) attempts: u32,
    pub(super) retries: u32,
    pub(super) not_before_ms: u64,
    pub(super) last_error_json: Option<String>,
    pub(super) plan_json: Option<String>,
    pub(super) steps: Vec<StepRecordV1>,
    pub(super) answer: Option<String>,
    pub(super) error_json: Option<String>,
    pub(super) openai_us: u64,
    pub(super) google_us: u64,
    pub(super) total_us: u64,
}

impl From<TaskRecordV2> for TaskRecord {
    fn from(old: TaskRecordV2) -> Self {
        Self {
            id: old.id,
            user: old.user,
            session: old.session,
            command: old.command,
            mode: old.mode,
            state: old.state,
            priority: old.priority,
            time_zone: old.time_zone,
            created_ms: old.created_ms,
            deadline_ms: old.deadline_ms,
            deadline_asked: old.deadline_asked,
            confirmed: old.confirmed,
            finished_ms: old.finished_ms,
            attempts: old.attempts,
            retries: old.retries,
            not_before_ms: old.not_before_ms,
            last_error_json: old.last_error_json,
            plan_json: old.plan_json,
            steps: old.steps.into_iter().map(StepRecord::from).collect(),
            answer: old.answer,
            error_json: old.error_json,
            openai_us: old.openai_us,
            google_us: old.google_us,
            total_us: old.total_us,
            events: Vec::new(),
            account: None,
            waits: WaitsRecord::default(),
            cancel_asked: false,
        }
    }
}

/// Schema 1: before priorities, deadlines of the caller's, retries and confirmations.
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub(super) struct TaskRecordV1 {
    #[rkyv(with = Raw)]
    pub(super) id: TaskId,
    #[rkyv(with = Raw)]
    pub(super) user: UserId,
    #[rkyv(with = Raw)]
    pub(super) session: SessionId,
    pub(super) command: String,
    pub(super) mode: u8,
    pub(super) state: u8,
    pub(super) time_zone: String,
    pub(super) created_ms: u64,
    pub(super) deadline_ms: u64,
    pub(super) finished_ms: Option<u64>,
    pub(super) attempts: u32,
    pub(super) plan_json: Option<String>,
    pub(super) steps: Vec<StepRecordV1>,
    pub(super) answer: Option<String>,
    pub(super) error_json: Option<String>,
    pub(super) openai_us: u64,
    pub(super) google_us: u64,
    pub(super) total_us: u64,
}

impl From<TaskRecordV1> for TaskRecord {
    fn from(old: TaskRecordV1) -> Self {
        Self {
            id: old.id,
            user: old.user,
            session: old.session,
            command: old.command,
            mode: old.mode,
            state: old.state,
            priority: PRIORITY_NORMAL,
            time_zone: old.time_zone,
            created_ms: old.created_ms,
            deadline_ms: old.deadline_ms,
            deadline_asked: false,
            confirmed: false,
            finished_ms: old.finished_ms,
            attempts: old.attempts,
            retries: 0,
            not_before_ms: 0,
            last_error_json: None,
            plan_json: old.plan_json,
            steps: old.steps.into_iter().map(StepRecord::from).collect(),
            answer: old.answer,
            error_json: old.error_json,
            openai_us: old.openai_us,
            google_us: old.google_us,
            total_us: old.total_us,
            events: Vec::new(),
            account: None,
            waits: WaitsRecord::default(),
            cancel_asked: false,
        }
    }
}

/// What an idempotency key stands for: the tasks made when it was first used.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct IdempotencyRecord {
    #[rkyv(with = Raw)]
    pub user: UserId,
    /// SHA-256 of what was asked: the path and the body.
    pub request: [u8; 32],
    pub created_ms: u64,
    /// The answer to the request that used it first, for a batch; a single command's is made from its task. For a change
    /// at Google without a task, how far it has come, and its answer.
    pub answer_json: Option<String>,
    pub tasks: Vec<KeyedTask>,
}

/// A task that an idempotency key made.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct KeyedTask {
    #[rkyv(with = Raw)]
    pub id: TaskId,
    #[rkyv(with = Raw)]
    pub session: SessionId,
    pub mode: u8,
    pub created_ms: u64,
}

impl Record for IdempotencyRecord {
    const NAME: &'static str = "idempotency";
    const KINDS: &'static [Kind] = &[Kind::Idempotency];
    const SCHEMA: u8 = 1;
}

//! Every key in the store, drawn once.
//!
//! A key begins with its [`Kind`], then the user, then the rest, all numbers big-endian, so that byte order is
//! the order one wants to read in and one user's records of a kind lie together. A key lives in the column
//! family of its shard; the shard is therefore not part of it.
//!
//! ```text
//! kind  name              layout after the kind byte                                   value
//! 0x00  applied           -                                                            u64 sequence (8 bytes, BE)
//! 0x01  user              user[16]                                                     UserRecord
//! 0x02  API key           user[16] key[8]                                              KeyRecord
//! 0x03  connection        user[16] provider[1]                                         ConnectionRecord, the default account
//!                         user[16] provider[1] slot[1], from 1                         ConnectionRecord, a further one
//! 0x04  session           user[16] session[16]                                         SessionRecord
//! 0x05  task, pending     user[16] task[16]                                            TaskRecord
//! 0x06  task, finished    user[16] task[16]                                            TaskRecord
//! 0x07  history           user[16] month[4: year*100+month, UTC] unix_ms[8] task[16]   HistoryRecord
//! 0x08  name              the name, folded, 1..=254 bytes                              NameRecord
//! 0x09  dead letter       user[16] task[16]                                            TaskRecord
//! 0x0a  idempotency       user[16] SHA-256 of the key the caller gave[32]              IdempotencyRecord
//! 0x0b  workflow          user[16] name[1..=64]                                        WorkflowRecord, the newest
//! 0x0c  workflow version  user[16] name[1..=64] 0x00 version[4]                        WorkflowRecord
//! 0x0d  turn              user[16] session[16] number[4]                               TurnRecord
//! 0x0e  context document  user[16] key[1..=128]                                        ContextDocumentRecord
//! 0x0e  context orphan    user[16] 0x00 generation[16]                                 ContextOrphanRecord
//! 0x0f  context chunk     user[16] generation[16] index[4]                             ContextChunkRecord
//! 0x10  context snapshot  user[16] snapshot[16]                                        ContextSnapshotRecord
//! 0x11  preferences       user[16]                                                     PreferencesRecord
//! 0x12  webhook           user[16] webhook[16]                                         WebhookRecord
//!                         user[16] webhook[16] 0x00                                    AttemptsRecord
//! 0x13  delivery, pending user[16] webhook[16] message[16]                             DeliveryRecord
//! 0x14  data key          user[16]                                                     DataKeyRecord
//! 0x15  identity          SHA-256 of the issuer's length[4], the issuer and the subject[32]     IdentityRecord
//! 0x16  limit             user[16] part[1]: 0 what is used, 1 what is allowed          LimitStateRecord, LimitRecord
//! 0x17  audit entry       sequence[8]                                                  see [`crate::audit`]
//! 0x18  audit head        -                                                            see [`crate::audit`]
//! 0x28  consent           user[16]                                                     ConsentsRecord
//! 0x29  revocation        user[16] provider[1] slot[1]                                 RevocationRecord
//! 0x30  activity          user[16]                                                     ActivityRecord
//! 0x38  browser session   user[16] session[16]                                         BrowserSessionRecord
//! 0x3e  erasure           user[16]                                                     ErasureRecord
//! 0xf0  quarantine        xxh3_64 of the value[8] the whole original key               the bytes that failed
//! ```
//!
//! Invariants:
//! - pending tasks have a kind of their own, so what a restart must take up again is one prefix a shard;
//!   finishing a task deletes one key and puts the other in the same batch;
//! - so have pending deliveries; what came of the last attempts stands beside the webhook;
//! - no context document's key begins with a zero, so a user's orphans stand before their documents;
//! - a name lives in the shard that its own hash picks ([`name_shard`]), not in its user's; so does an identity
//!   ([`identity_shard`]);
//! - `applied`, audit entries and audit heads are written by the commit log alone; a batch that names one is refused.

use std::fmt;

use sluice_protocols::api::context::{CONTEXT_KEY_CHARS_MAX, is_context_key};
use sluice_protocols::ids::{
    BrowserSessionId, DeliveryId, GenerationId, KeyId, SessionId, ShardCount, ShardId, SnapshotId, TaskId,
    UserId, WebhookId,
};
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

/// Longest key in bytes: a quarantined key (kind, hash) around the longest other key (a name).
pub const KEY_BYTES_MAX: usize = 1 + 8 + 1 + NAME_BYTES_MAX;

/// Longest name in bytes: the longest e-mail address SMTP can carry (RFC 5321, 4.5.3.1.3, less the brackets).
pub const NAME_BYTES_MAX: usize = 254;

/// Longest name of a workflow in bytes.
pub const WORKFLOW_NAME_BYTES_MAX: usize = 64;

/// Fits every fixed-size layout above without an allocation; only names, workflows and quarantined keys can be longer.
const KEY_BYTES_INLINE: usize = 56;

const _: () = assert!(KEY_BYTES_INLINE >= 1 + 16 + 4 + 8 + 16);
const _: () = assert!(KEY_BYTES_INLINE >= 1 + 16 + 32);
const _: () = assert!(1 + 16 + CONTEXT_KEY_CHARS_MAX + 9 <= KEY_BYTES_MAX);
const _: () = assert!(1 + 16 + WORKFLOW_NAME_BYTES_MAX + 1 + 4 + 9 <= KEY_BYTES_MAX);

/// The first byte of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    Applied = 0x00,
    User = 0x01,
    ApiKey = 0x02,
    Connection = 0x03,
    Session = 0x04,
    TaskPending = 0x05,
    TaskFinished = 0x06,
    History = 0x07,
    Name = 0x08,
    DeadLetter = 0x09,
    Idempotency = 0x0a,
    Workflow = 0x0b,
    WorkflowVersion = 0x0c,
    Turn = 0x0d,
    ContextDocument = 0x0e,
    ContextChunk = 0x0f,
    ContextSnapshot = 0x10,
    Preferences = 0x11,
    Webhook = 0x12,
    Delivery = 0x13,
    DataKey = 0x14,
    Identity = 0x15,
    Limit = 0x16,
    AuditEntry = 0x17,
    AuditHead = 0x18,
    Consent = 0x28,
    Revocation = 0x29,
    Activity = 0x30,
    BrowserSession = 0x38,
    Erasure = 0x3e,
    Quarantine = 0xf0,
}

impl Kind {
    /// The kind that `byte` stands for, if any does.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x00 => Self::Applied,
            0x01 => Self::User,
            0x02 => Self::ApiKey,
            0x03 => Self::Connection,
            0x04 => Self::Session,
            0x05 => Self::TaskPending,
            0x06 => Self::TaskFinished,
            0x07 => Self::History,
            0x08 => Self::Name,
            0x09 => Self::DeadLetter,
            0x0a => Self::Idempotency,
            0x0b => Self::Workflow,
            0x0c => Self::WorkflowVersion,
            0x0d => Self::Turn,
            0x0e => Self::ContextDocument,
            0x0f => Self::ContextChunk,
            0x10 => Self::ContextSnapshot,
            0x11 => Self::Preferences,
            0x12 => Self::Webhook,
            0x13 => Self::Delivery,
            0x14 => Self::DataKey,
            0x15 => Self::Identity,
            0x16 => Self::Limit,
            0x17 => Self::AuditEntry,
            0x18 => Self::AuditHead,
            0x28 => Self::Consent,
            0x29 => Self::Revocation,
            0x30 => Self::Activity,
            0x38 => Self::BrowserSession,
            0x3e => Self::Erasure,
            0xf0 => Self::Quarantine,
            _ => return None,
        })
    }

    /// The byte on disk.
    pub fn byte(self) -> u8 {
        self as u8
    }

    /// Every kind, in the order of their bytes.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).filter_map(Self::from_byte)
    }

    /// Whose its records are, and so whether they go when a user is erased. Whoever adds a kind says it here.
    pub const fn belonging(self) -> Belonging {
        match self {
            Self::User
            | Self::ApiKey
            | Self::Connection
            | Self::Session
            | Self::TaskPending
            | Self::TaskFinished
            | Self::History
            | Self::DeadLetter
            | Self::Idempotency
            | Self::Workflow
            | Self::WorkflowVersion
            | Self::Turn
            | Self::ContextDocument
            | Self::ContextChunk
            | Self::ContextSnapshot
            | Self::Preferences
            | Self::Webhook
            | Self::Delivery
            | Self::DataKey
            | Self::Limit
            | Self::Consent
            | Self::Revocation
            | Self::Activity
            | Self::BrowserSession => Belonging::Keyed,
            Self::Name | Self::Identity => Belonging::Leading,
            Self::Quarantine => Belonging::Copied,
            // An erasure's mark outlives what it marks, and goes with the proof.
            Self::Applied | Self::AuditEntry | Self::AuditHead | Self::Erasure => Belonging::Nobodys,
        }
    }

    /// The word for it, in the audit log and in what is told of erasures.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::User => "user",
            Self::ApiKey => "key",
            Self::Connection => "connection",
            Self::Session => "session",
            Self::TaskPending => "task-pending",
            Self::TaskFinished => "task",
            Self::History => "history",
            Self::Name => "name",
            Self::DeadLetter => "dead-letter",
            Self::Idempotency => "idempotency",
            Self::Workflow => "workflow",
            Self::WorkflowVersion => "workflow-version",
            Self::Turn => "turn",
            Self::ContextDocument => "document",
            Self::ContextChunk => "chunk",
            Self::ContextSnapshot => "snapshot",
            Self::Preferences => "preferences",
            Self::Webhook => "webhook",
            Self::Delivery => "delivery",
            Self::DataKey => "data-key",
            Self::Identity => "identity",
            Self::Limit => "limit",
            Self::AuditEntry => "audit",
            Self::AuditHead => "audit-head",
            Self::Consent => "consent",
            Self::Revocation => "revocation",
            Self::Activity => "activity",
            Self::BrowserSession => "browser-session",
            Self::Erasure => "erasure",
            Self::Quarantine => "quarantine",
        }
    }
}

/// Whose the records of a kind are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belonging {
    /// The user's whom the key names behind the kind.
    Keyed,
    /// The user's whom the value names.
    Leading,
    /// Whose the record is that a copy was made of.
    Copied,
    /// No user's.
    Nobodys,
}

/// A whole key. Compares as its bytes do.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(SmallVec<[u8; KEY_BYTES_INLINE]>);

/// Why bytes or a name are not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Give a name of 1 to [`NAME_BYTES_MAX`] bytes.
    #[error("a name has 1 to {NAME_BYTES_MAX} bytes, this one has {bytes}")]
    NameLength { bytes: usize },
    /// The bytes are no key of this store: empty, too long, or of an unknown kind.
    #[error("not a key of this store: {bytes} bytes, kind {kind:?}")]
    Unknown { bytes: usize, kind: Option<u8> },
    /// Give a workflow a name of 1 to [`WORKFLOW_NAME_BYTES_MAX`] lower-case letters, digits, `-` and `_`.
    #[error("this is no name of a workflow")]
    WorkflowName,
    /// Give a context document a key that [`is_context_key`] takes.
    #[error("this is no key of a context document")]
    ContextKey,
    /// The bytes begin like a key of a known kind, but do not have its layout.
    #[error("a {kind:?} key cannot have {bytes} bytes")]
    Layout { kind: Kind, bytes: usize },
}

impl Key {
    fn of(kind: Kind, parts: &[&[u8]]) -> Self {
        let mut bytes = SmallVec::new();
        bytes.push(kind.byte());
        for part in parts {
            bytes.extend_from_slice(part);
        }
        assert!(bytes.len() <= KEY_BYTES_MAX, "a key layout is longer than its stated maximum");
        Self(bytes)
    }

    /// Where the commit log keeps the sequence of the last batch applied to the shard.
    pub(crate) fn applied() -> Self {
        Self::of(Kind::Applied, &[])
    }

    /// An entry of the shard's audit log, from 1.
    pub fn audit_entry(sequence: u64) -> Self {
        Self::of(Kind::AuditEntry, &[&sequence.to_be_bytes()])
    }

    /// The end of the shard's audit log.
    pub fn audit_head() -> Self {
        Self::of(Kind::AuditHead, &[])
    }

    /// A user's record.
    pub fn user(user: &UserId) -> Self {
        Self::of(Kind::User, &[user.as_bytes()])
    }

    /// What a user prefers.
    pub fn preferences(user: &UserId) -> Self {
        Self::of(Kind::Preferences, &[user.as_bytes()])
    }

    /// One API key of a user.
    pub fn api_key(user: &UserId, key: &KeyId) -> Self {
        Self::of(Kind::ApiKey, &[user.as_bytes(), key.as_bytes()])
    }

    /// A user's default connection to one provider; `provider` is the provider's stable number.
    pub fn connection(user: &UserId, provider: u8) -> Self {
        Self::connection_at(user, provider, 0)
    }

    /// A user's connection to one provider in a slot: 0 is the default one.
    pub fn connection_at(user: &UserId, provider: u8, slot: u8) -> Self {
        match slot {
            0 => Self::of(Kind::Connection, &[user.as_bytes(), &[provider]]),
            _ => Self::of(Kind::Connection, &[user.as_bytes(), &[provider, slot]]),
        }
    }

    /// What a user is about to consent to.
    pub fn consents(user: &UserId) -> Self {
        Self::of(Kind::Consent, &[user.as_bytes()])
    }

    /// The mark that a connection is given up and its provider is still to be told.
    pub fn revocation(user: &UserId, provider: u8, slot: u8) -> Self {
        Self::of(Kind::Revocation, &[user.as_bytes(), &[provider, slot]])
    }

    /// One session of a user.
    pub fn session(user: &UserId, session: &SessionId) -> Self {
        Self::of(Kind::Session, &[user.as_bytes(), session.as_bytes()])
    }

    /// One turn of a session, from 1.
    pub fn turn(user: &UserId, session: &SessionId, number: u32) -> Self {
        Self::of(Kind::Turn, &[user.as_bytes(), session.as_bytes(), &number.to_be_bytes()])
    }

    /// What seals a user's secrets, wrapped.
    pub fn data_key(user: &UserId) -> Self {
        Self::of(Kind::DataKey, &[user.as_bytes()])
    }

    /// A task that is not finished.
    pub fn task_pending(user: &UserId, task: &TaskId) -> Self {
        Self::of(Kind::TaskPending, &[user.as_bytes(), task.as_bytes()])
    }

    /// A task that is finished.
    pub fn task_finished(user: &UserId, task: &TaskId) -> Self {
        Self::of(Kind::TaskFinished, &[user.as_bytes(), task.as_bytes()])
    }

    /// A task that was given up although it might have worked.
    pub fn dead_letter(user: &UserId, task: &TaskId) -> Self {
        Self::of(Kind::DeadLetter, &[user.as_bytes(), task.as_bytes()])
    }

    /// A task under one of the kinds that tasks stand under.
    ///
    /// # Panics
    /// When tasks do not stand under `kind`.
    pub fn task_of(kind: Kind, user: &UserId, task: &TaskId) -> Self {
        assert!(
            matches!(kind, Kind::TaskPending | Kind::TaskFinished | Kind::DeadLetter),
            "{kind:?} keys lead to no tasks"
        );
        Self::of(kind, &[user.as_bytes(), task.as_bytes()])
    }

    /// What a user's idempotency key stands for; `hash` is the SHA-256 of the key.
    pub fn idempotency(user: &UserId, hash: &[u8; 32]) -> Self {
        Self::of(Kind::Idempotency, &[user.as_bytes(), hash])
    }

    /// What a user has used of their limits. The core that owns the user writes it.
    pub fn limit_state(user: &UserId) -> Self {
        Self::of(Kind::Limit, &[user.as_bytes(), &[0]])
    }

    /// What a user is allowed, where that is not what all are. Operators write it.
    pub fn limit(user: &UserId) -> Self {
        Self::of(Kind::Limit, &[user.as_bytes(), &[1]])
    }

    /// The history entry of `task`, under the month and millisecond it is filed by.
    pub fn history(user: &UserId, at_ms: u64, task: &TaskId) -> Self {
        let month = Month::of_unix_ms(at_ms);
        Self::of(
            Kind::History,
            &[user.as_bytes(), &month.number().to_be_bytes(), &at_ms.to_be_bytes(), task.as_bytes()],
        )
    }

    /// The directory entry of a name, in the shard [`name_shard`] tells. Folds the name as that does.
    ///
    /// # Errors
    /// [`KeyError::NameLength`] when the folded name is empty or too long.
    pub fn name(name: &str) -> Result<Self, KeyError> {
        let folded = fold_name(name);
        if folded.is_empty() || folded.len() > NAME_BYTES_MAX {
            return Err(KeyError::NameLength { bytes: folded.len() });
        }
        Ok(Self::of(Kind::Name, &[folded.as_bytes()]))
    }

    /// The directory entry of an identity, by the hash of it that [`identity_shard`] takes, too. The layer above hashes,
    /// for this one has no cryptography.
    pub fn identity(hash: &[u8; 32]) -> Self {
        Self::of(Kind::Identity, &[hash])
    }

    /// When a user was last here.
    pub fn activity(user: &UserId) -> Self {
        Self::of(Kind::Activity, &[user.as_bytes()])
    }

    /// One sign-in of a user with a browser.
    pub fn browser_session(user: &UserId, session: &BrowserSessionId) -> Self {
        Self::of(Kind::BrowserSession, &[user.as_bytes(), session.as_bytes()])
    }

    /// The mark that a user is being erased.
    pub fn erasure(user: &UserId) -> Self {
        Self::of(Kind::Erasure, &[user.as_bytes()])
    }

    /// The newest version of a user's workflow.
    ///
    /// # Errors
    /// [`KeyError::WorkflowName`].
    pub fn workflow(user: &UserId, name: &str) -> Result<Self, KeyError> {
        check_workflow_name(name.as_bytes())?;
        Ok(Self::of(Kind::Workflow, &[user.as_bytes(), name.as_bytes()]))
    }

    /// One version of a user's workflow, from 1.
    ///
    /// # Errors
    /// [`KeyError::WorkflowName`].
    pub fn workflow_version(user: &UserId, name: &str, version: u32) -> Result<Self, KeyError> {
        check_workflow_name(name.as_bytes())?;
        let parts: [&[u8]; 4] = [user.as_bytes(), name.as_bytes(), &[0], &version.to_be_bytes()];
        Ok(Self::of(Kind::WorkflowVersion, &parts))
    }

    /// A user's context document.
    ///
    /// # Errors
    /// [`KeyError::ContextKey`].
    pub fn context_document(user: &UserId, key: &str) -> Result<Self, KeyError> {
        if !is_context_key(key) {
            return Err(KeyError::ContextKey);
        }
        Ok(Self::of(Kind::ContextDocument, &[user.as_bytes(), key.as_bytes()]))
    }

    /// Where a generation stands that nothing refers to.
    pub fn context_orphan(user: &UserId, generation: &GenerationId) -> Self {
        Self::of(Kind::ContextDocument, &[user.as_bytes(), &[0], generation.as_bytes()])
    }

    /// One chunk of a generation, from 0.
    pub fn context_chunk(user: &UserId, generation: &GenerationId, index: u32) -> Self {
        Self::of(Kind::ContextChunk, &[user.as_bytes(), generation.as_bytes(), &index.to_be_bytes()])
    }

    /// A snapshot of a user's context documents.
    pub fn context_snapshot(user: &UserId, snapshot: &SnapshotId) -> Self {
        Self::of(Kind::ContextSnapshot, &[user.as_bytes(), snapshot.as_bytes()])
    }

    /// A user's webhook.
    pub fn webhook(user: &UserId, webhook: &WebhookId) -> Self {
        Self::of(Kind::Webhook, &[user.as_bytes(), webhook.as_bytes()])
    }

    /// What came of the last attempts at a webhook.
    pub fn webhook_attempts(user: &UserId, webhook: &WebhookId) -> Self {
        Self::of(Kind::Webhook, &[user.as_bytes(), webhook.as_bytes(), &[0]])
    }

    /// A message to a webhook that is still to be delivered.
    pub fn delivery(user: &UserId, webhook: &WebhookId, message: &DeliveryId) -> Self {
        Self::of(Kind::Delivery, &[user.as_bytes(), webhook.as_bytes(), message.as_bytes()])
    }

    /// Where a copy of `value`, found damaged under `original`, is kept. The same damage has the same key.
    pub(crate) fn quarantine(original: &Self, value: &[u8]) -> Self {
        Self::of(Kind::Quarantine, &[&xxh3_64(value).to_be_bytes(), original.as_bytes()])
    }

    /// Takes bytes that came from the store (or from a batch) as a key.
    ///
    /// # Errors
    /// [`KeyError`] when they have no layout drawn in the module's documentation.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let unknown = || KeyError::Unknown { bytes: bytes.len(), kind: bytes.first().copied() };
        let kind = bytes.first().copied().and_then(Kind::from_byte).ok_or_else(unknown)?;
        if bytes.len() > KEY_BYTES_MAX {
            return Err(unknown());
        }
        let fits = match kind {
            Kind::Applied | Kind::AuditHead => bytes.len() == 1,
            Kind::AuditEntry => bytes.len() == 9,
            Kind::User
            | Kind::Preferences
            | Kind::DataKey
            | Kind::Consent
            | Kind::Activity
            | Kind::Erasure => bytes.len() == 17,
            Kind::Identity => bytes.len() == 33,
            Kind::ApiKey => bytes.len() == 25,
            // The first slot is not written.
            Kind::Connection => bytes.len() == 18 || (bytes.len() == 19 && bytes[18] != 0),
            Kind::Revocation => bytes.len() == 19,
            Kind::Session | Kind::TaskPending | Kind::TaskFinished | Kind::DeadLetter => bytes.len() == 33,
            Kind::Turn | Kind::ContextChunk => bytes.len() == 37,
            Kind::ContextSnapshot | Kind::BrowserSession => bytes.len() == 33,
            Kind::ContextDocument => bytes.get(17..).is_some_and(|rest| match rest {
                [0, generation @ ..] => generation.len() == 16,
                key => std::str::from_utf8(key).is_ok_and(is_context_key),
            }),
            Kind::Limit => bytes.len() == 18 && bytes[17] <= 1,
            Kind::Idempotency => bytes.len() == 49,
            Kind::History => bytes.len() == 45,
            Kind::Name => (2..=1 + NAME_BYTES_MAX).contains(&bytes.len()),
            Kind::Workflow => bytes.len() > 17 && check_workflow_name(&bytes[17..]).is_ok(),
            Kind::WorkflowVersion => {
                bytes.len() > 22
                    && bytes[bytes.len() - 5] == 0
                    && check_workflow_name(&bytes[17..bytes.len() - 5]).is_ok()
            }
            Kind::Webhook => bytes.len() == 33 || (bytes.len() == 34 && bytes[33] == 0),
            Kind::Delivery => bytes.len() == 49,
            Kind::Quarantine => bytes.len() > 9,
        };
        if fits {
            Ok(Self(SmallVec::from_slice(bytes)))
        } else {
            Err(KeyError::Layout { kind, bytes: bytes.len() })
        }
    }

    /// What the key leads to.
    pub fn kind(&self) -> Kind {
        Kind::from_byte(self.0[0]).expect("every constructor writes a kind first")
    }

    /// The user the key belongs to; `None` for the kinds that belong to none.
    pub fn user_id(&self) -> Option<UserId> {
        match self.kind().belonging() {
            Belonging::Keyed => Some(UserId::from_bytes(self.array(1))),
            Belonging::Nobodys if self.kind() == Kind::Erasure => Some(UserId::from_bytes(self.array(1))),
            Belonging::Leading | Belonging::Copied | Belonging::Nobodys => None,
        }
    }

    /// The user whose record it leads to, as far as the key tells: also through a copy in quarantine.
    pub fn owner(&self) -> Option<UserId> {
        match self.kind().belonging() {
            Belonging::Keyed => Some(UserId::from_bytes(self.array(1))),
            Belonging::Copied => self.original()?.owner(),
            Belonging::Leading | Belonging::Nobodys => None,
        }
    }

    /// The key that a copy in quarantine was found under; `None` for other kinds.
    pub fn original(&self) -> Option<Self> {
        let original = || Self::from_bytes(&self.0[9..]).ok().filter(|key| key.kind() != Kind::Quarantine);
        (self.kind() == Kind::Quarantine).then(original).flatten()
    }

    /// The task of a task or history key; `None` for other kinds.
    pub fn task_id(&self) -> Option<TaskId> {
        match self.kind() {
            Kind::TaskPending | Kind::TaskFinished | Kind::DeadLetter => {
                Some(TaskId::from_bytes(self.array(17)))
            }
            Kind::History => Some(TaskId::from_bytes(self.array(29))),
            _ => None,
        }
    }

    /// When what a history key leads to was accepted, in milliseconds since 1970; `None` for other kinds.
    pub fn history_ms(&self) -> Option<u64> {
        (self.kind() == Kind::History).then(|| u64::from_be_bytes(self.array(21)))
    }

    /// The number of an audit entry's key; `None` for other kinds.
    pub fn audit_sequence(&self) -> Option<u64> {
        (self.kind() == Kind::AuditEntry).then(|| u64::from_be_bytes(self.array(1)))
    }

    /// The webhook of a webhook's own key; `None` for that of its attempts and for other kinds.
    pub fn webhook_id(&self) -> Option<WebhookId> {
        let is_own = self.kind() == Kind::Webhook && self.0.len() == 33;
        is_own.then(|| WebhookId::from_bytes(self.array(17)))
    }

    /// Webhook and message of a pending delivery's key; `None` for other kinds.
    pub fn delivery_id(&self) -> Option<(WebhookId, DeliveryId)> {
        let is_own = self.kind() == Kind::Delivery;
        is_own.then(|| (WebhookId::from_bytes(self.array(17)), DeliveryId::from_bytes(self.array(33))))
    }

    /// Slot of a connection's or revocation's key; `None` for other kinds.
    pub fn connection_slot(&self) -> Option<u8> {
        match self.kind() {
            Kind::Connection | Kind::Revocation => Some(self.0.get(18).copied().unwrap_or(0)),
            _ => None,
        }
    }

    /// The session of a session key; `None` for other kinds.
    pub fn session_id(&self) -> Option<SessionId> {
        (self.kind() == Kind::Session).then(|| SessionId::from_bytes(self.array(17)))
    }

    /// The name of a workflow's key, of either kind; `None` for other kinds.
    pub fn workflow_name(&self) -> Option<&str> {
        let name = match self.kind() {
            Kind::Workflow => &self.0[17..],
            Kind::WorkflowVersion => &self.0[17..self.0.len() - 5],
            _ => return None,
        };
        std::str::from_utf8(name).ok()
    }

    /// Whether it is an orphan's key, and not a document's, of the kind they share.
    pub fn is_context_orphan(&self) -> bool {
        self.kind() == Kind::ContextDocument && self.0[17] == 0
    }

    /// The bytes on disk.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn array<const N: usize>(&self, from: usize) -> [u8; N] {
        self.0[from..from + N].try_into().expect("the layout of the kind was checked when the key was made")
    }
}

/// Names sort as their bytes do, and none holds the zero that ends it in a version's key.
fn check_workflow_name(name: &[u8]) -> Result<(), KeyError> {
    let fits = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    let fits = (1..=WORKFLOW_NAME_BYTES_MAX).contains(&name.len()) && name.iter().all(fits);
    if fits { Ok(()) } else { Err(KeyError::WorkflowName) }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:", self.kind())?;
        self.0[1..].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A run of keys `[start, end)` within one shard; an `end` of `None` means to the end of the shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    start: Vec<u8>,
    end: Option<Vec<u8>>,
}

impl KeyRange {
    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        Self { start: prefix.to_vec(), end: after_prefix(prefix) }
    }

    /// All keys of a kind, of every user of the shard.
    pub fn kind(kind: Kind) -> Self {
        Self::prefix(&[kind.byte()])
    }

    /// All keys of a kind that belong to `user`.
    pub fn of_user(kind: Kind, user: &UserId) -> Self {
        Self::prefix(Key::of(kind, &[user.as_bytes()]).as_bytes())
    }

    /// One key alone.
    pub fn one(key: &Key) -> Self {
        let start = key.as_bytes().to_vec();
        let end = [key.as_bytes(), &[0]].concat();
        Self { start, end: Some(end) }
    }

    /// The shard's audit entries behind the one with this number.
    pub fn audit_after(sequence: u64) -> Self {
        let start = Key::audit_entry(sequence.saturating_add(1)).as_bytes().to_vec();
        Self { start, ..Self::kind(Kind::AuditEntry) }
    }

    /// The turns of a session, oldest first.
    pub fn turns(user: &UserId, session: &SessionId) -> Self {
        Self::prefix(Key::of(Kind::Turn, &[user.as_bytes(), session.as_bytes()]).as_bytes())
    }

    /// The pending deliveries of a webhook, oldest first.
    pub fn deliveries(user: &UserId, webhook: &WebhookId) -> Self {
        Self::prefix(Key::of(Kind::Delivery, &[user.as_bytes(), webhook.as_bytes()]).as_bytes())
    }

    /// A user's history entries of one month.
    pub fn history_month(user: &UserId, month: Month) -> Self {
        Self::prefix(Key::of(Kind::History, &[user.as_bytes(), &month.number().to_be_bytes()]).as_bytes())
    }

    /// A user's history entries filed at or after `from_ms` and before `to_ms`.
    pub fn history_between(user: &UserId, from_ms: u64, to_ms: u64) -> Self {
        let edge = |ms: u64| {
            let month = Month::of_unix_ms(ms).number().to_be_bytes();
            Key::of(Kind::History, &[user.as_bytes(), &month, &ms.to_be_bytes()]).as_bytes().to_vec()
        };
        Self { start: edge(from_ms), end: Some(edge(to_ms.max(from_ms))) }
    }

    /// The same range without `last` and what lies before it (or, read backwards, after it): how to go on after
    /// a scan that stopped at its limit.
    #[must_use]
    pub fn resume_after(mut self, last: &Key, reverse: bool) -> Self {
        if reverse {
            self.end = Some(last.as_bytes().to_vec());
        } else {
            self.start = last.as_bytes().to_vec();
            self.start.push(0);
        }
        self
    }

    /// First key of the range, inclusive.
    pub fn start(&self) -> &[u8] {
        &self.start
    }

    /// End of the range, exclusive.
    pub fn end(&self) -> Option<&[u8]> {
        self.end.as_deref()
    }

    /// Whether the range holds `key`.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start.as_slice() && self.end.as_deref().is_none_or(|end| key < end)
    }
}

/// The least byte string greater than everything that begins with `prefix`.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=keep].to_vec();
    end[keep] += 1;
    Some(end)
}

/// A calendar month in UTC, the unit history is filed and archived by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month(u32);

impl Month {
    /// The month `month` (1 to 12) of `year` (0 to 9999), or `None` when out of bounds.
    pub fn new(year: u32, month: u32) -> Option<Self> {
        (year <= 9999 && (1..=12).contains(&month)).then(|| Self(year * 100 + month))
    }

    /// The month that holds this moment; moments past the year 9999 count as its last month.
    pub fn of_unix_ms(unix_ms: u64) -> Self {
        // Days to civil date by eras of 400 years that begin on 1 March, so that the leap day comes last.
        let days = unix_ms / 86_400_000 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let (month, carry) =
            if month_from_march < 10 { (month_from_march + 3, 0) } else { (month_from_march - 9, 1) };
        let year = era * 400 + year_of_era + carry;
        match (u32::try_from(year), u32::try_from(month)) {
            (Ok(year), Ok(month)) => Self::new(year, month).unwrap_or(Self(999_912)),
            _ => Self(999_912),
        }
    }

    /// `year * 100 + month`, as in the key.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// A name as it is compared: without surrounding blanks, in lower case.
fn fold_name(name: &str) -> String {
    name.trim().to_lowercase()
}

/// The shard whose family holds the directory entry of `name`.
pub fn name_shard(name: &str, shards: ShardCount) -> ShardId {
    picked(xxh3_64(fold_name(name).as_bytes()), shards)
}

/// The shard whose family holds the directory entry of the identity of this hash.
pub fn identity_shard(hash: &[u8; 32], shards: ShardCount) -> ShardId {
    picked(xxh3_64(hash), shards)
}

fn picked(hash: u64, shards: ShardCount) -> ShardId {
    u16::try_from(hash % u64::from(shards.get()))
        .ok()
        .and_then(|index| ShardId::new(index, shards))
        .expect("a remainder is below the count it was taken by")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user(byte: u8) -> UserId {
        UserId::from_bytes([byte; 16])
    }

    fn task(ms: u64) -> TaskId {
        TaskId::new(ms, [7; 10])
    }

    #[test]
    fn keys_of_a_user_lie_together_and_in_order_of_time() {
        let keys = [
            Key::history(&user(1), 1_763_900_000_000, &task(1)),
            Key::history(&user(1), 1_763_900_000_001, &task(0)),
            Key::history(&user(1), 1_764_600_000_000, &task(0)),
            Key::history(&user(2), 5, &task(0)),
        ];
        assert!(keys.is_sorted());
    }

    #[test]
    fn month_changes_at_midnight_utc() {
        let number = |ms| Month::of_unix_ms(ms).number();
        assert_eq!(number(0), 197_001);
        assert_eq!(number(951_782_399_999), 200_002); // 2000-02-28T23:59:59.999
        assert_eq!(number(951_868_799_999), 200_002); // 2000-02-29T23:59:59.999
        assert_eq!(number(951_868_800_000), 200_003);
        assert_eq!(number(1_764_547_199_999), 202_511);
        assert_eq!(number(1_764_547_200_000), 202_512);
        assert_eq!(number(1_767_225_600_000), 202_601);
        assert_eq!(number(u64::MAX), 999_912);
    }

    #[test]
    fn names_fold_to_one_key_and_one_shard() {
        let shards = ShardCount::new(256).unwrap();
        assert_eq!(Key::name(" Anna@Example.com ").unwrap(), Key::name("anna@example.com").unwrap());
        assert_eq!(name_shard("ANNA@example.com", shards), name_shard("anna@example.com", shards));
        assert_eq!(Key::name("  "), Err(KeyError::NameLength { bytes: 0 }));
        assert!(Key::name(&"x".repeat(NAME_BYTES_MAX)).is_ok());
        assert!(Key::name(&"x".repeat(NAME_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn ids_come_back_out_of_their_keys() {
        let session = SessionId::from_bytes([9; 16]);
        assert_eq!(Key::session(&user(3), &session).session_id(), Some(session));
        let history = Key::history(&user(3), 77, &task(5));
        assert_eq!((history.task_id(), history.history_ms()), (Some(task(5)), Some(77)));
        assert_eq!(Key::task_pending(&user(3), &task(6)).task_id(), Some(task(6)));
        assert_eq!(Key::task_pending(&user(3), &task(6)).user_id(), Some(user(3)));
        assert_eq!(Key::applied().user_id(), None);
        let (webhook, message) = (WebhookId::from_bytes([5; 16]), DeliveryId::from_bytes([6; 16]));
        assert_eq!(Key::webhook(&user(3), &webhook).webhook_id(), Some(webhook));
        assert_eq!(Key::webhook_attempts(&user(3), &webhook).webhook_id(), None);
        let delivery = Key::delivery(&user(3), &webhook, &message);
        assert_eq!(delivery.delivery_id(), Some((webhook, message)));
        assert_eq!((delivery.user_id(), delivery.webhook_id()), (Some(user(3)), None));
        assert!(KeyRange::deliveries(&user(3), &webhook).contains(delivery.as_bytes()));
        assert!(!KeyRange::deliveries(&user(4), &webhook).contains(delivery.as_bytes()));
    }

    #[test]
    fn versions_of_a_workflow_lie_together_and_no_other_between() {
        let version = |name, number| Key::workflow_version(&user(1), name, number).unwrap();
        let keys = [version("a", 2), version("a", 256), version("a-b", 1), version("ab", 1)];
        assert!(keys.is_sorted());
        assert_eq!(keys[2].workflow_name(), Some("a-b"));
        assert_eq!(Key::workflow(&user(1), "a-b").unwrap().workflow_name(), Some("a-b"));
        for name in ["", "A", "a b", "a\0b", "\u{e9}", &"x".repeat(WORKFLOW_NAME_BYTES_MAX + 1)] {
            assert_eq!(Key::workflow(&user(1), name), Err(KeyError::WorkflowName), "{name:?}");
        }
    }

    #[test]
    fn orphans_stand_before_documents_and_are_told_from_them() {
        let orphan = Key::context_orphan(&user(1), &GenerationId::from_bytes([0xff; 16]));
        let document = Key::context_document(&user(1), "0").unwrap();
        assert!(orphan < document && orphan.is_context_orphan() && !document.is_context_orphan());
        for key in ["", ".a", "a/b", "snapshots", "a\0"] {
            assert_eq!(Key::context_document(&user(1), key), Err(KeyError::ContextKey), "{key:?}");
        }
    }

    #[test]
    fn a_range_goes_on_after_the_last_key_in_either_direction() {
        let range = KeyRange::of_user(Kind::Session, &user(4));
        let key = |byte| Key::session(&user(4), &SessionId::from_bytes([byte; 16]));
        let ahead = range.clone().resume_after(&key(5), false);
        assert!(!ahead.contains(key(5).as_bytes()) && ahead.contains(key(6).as_bytes()));
        let back = range.resume_after(&key(5), true);
        assert!(!back.contains(key(5).as_bytes()) && back.contains(key(4).as_bytes()));
    }

    proptest! {
        #[test]
        fn every_key_reads_back_as_itself(u in any::<[u8; 16]>(), t in any::<[u8; 16]>(), ms in any::<u64>(),
                                          provider in any::<u8>(), name in "[a-z@.]{1,254}",
                                          workflow in "[a-z0-9_-]{1,64}") {
            let (user, task, session) = (UserId::from_bytes(u), TaskId::from_bytes(t), SessionId::from_bytes(t));
            let keys = [
                Key::applied(), Key::user(&user), Key::connection(&user, provider), Key::session(&user, &session),
                Key::preferences(&user), Key::data_key(&user),
                Key::connection_at(&user, provider, provider), Key::consents(&user),
                Key::revocation(&user, provider, provider),
                Key::task_pending(&user, &task), Key::task_finished(&user, &task), Key::history(&user, ms, &task),
                Key::name(&name).unwrap(), Key::quarantine(&Key::name(&name).unwrap(), b"x"),
                Key::workflow(&user, &workflow).unwrap(),
                Key::workflow_version(&user, &workflow, 7).unwrap(), Key::limit_state(&user), Key::limit(&user),
                Key::context_document(&user, &format!("a{workflow}")).unwrap(),
                Key::context_orphan(&user, &GenerationId::from_bytes(t)),
                Key::context_chunk(&user, &GenerationId::from_bytes(t), 7),
                Key::context_snapshot(&user, &SnapshotId::from_bytes(t)),
                Key::activity(&user), Key::identity(&[provider; 32]),
                Key::browser_session(&user, &BrowserSessionId::from_bytes(t)),
                Key::webhook(&user, &WebhookId::from_bytes(t)),
                Key::webhook_attempts(&user, &WebhookId::from_bytes(t)),
                Key::delivery(&user, &WebhookId::from_bytes(t), &DeliveryId::from_bytes(u)),
            ];
            for key in keys {
                prop_assert_eq!(Key::from_bytes(key.as_bytes()).unwrap(), key);
            }
        }

        #[test]
        fn arbitrary_bytes_never_make_a_key_that_cannot_be_taken_apart(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(key) = Key::from_bytes(&bytes) {
                let _ = (key.user_id(), key.task_id(), key.session_id(), key.workflow_name(), format!("{key:?}"));
                let _ = (key.webhook_id(), key.delivery_id());
                prop_assert_eq!(key.as_bytes(), bytes.as_slice());
            }
        }

        #[test]
        fn history_sorts_by_time_within_a_user(a in any::<u32>(), b in any::<u32>(), t in any::<[u8; 16]>()) {
            let at = |s: u32| Key::history(&user(1), u64::from(s) * 1000, &TaskId::from_bytes(t));
            prop_assert_eq!(at(a).cmp(&at(b)), a.cmp(&b));
        }

        #[test]
        fn a_prefix_range_holds_exactly_what_begins_with_it(prefix in proptest::collection::vec(any::<u8>(), 0..4),
                                                            key in proptest::collection::vec(any::<u8>(), 0..6)) {
            prop_assert_eq!(KeyRange::prefix(&prefix).contains(&key), key.starts_with(&prefix));
        }

        #[test]
        fn history_between_holds_exactly_its_moments(from in 0u64..1 << 42, to in 0u64..1 << 42, at in 0u64..1 << 42) {
            let range = KeyRange::history_between(&user(1), from, to);
            let key = Key::history(&user(1), at, &task(at));
            prop_assert_eq!(range.contains(key.as_bytes()), at >= from && at < to.max(from));
        }
    }
}

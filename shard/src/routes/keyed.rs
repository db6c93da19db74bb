//! `Idempotency-Key`: the same key with the same request gives the same task, and with another one a refusal.

use std::borrow::Cow;

use sha2::{Digest, Sha256};
use sluice_protocols::api::is_idempotency_key;
use sluice_protocols::http::{RequestHead, Response};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::Key;
use sluice_store::record::{IdempotencyRecord, KeyedTask, TaskRecord};

use super::read_problem;
use crate::auth::Principal;
use crate::service::Core;
use crate::tasks::keyed::{HeldKey, KeyUse};

/// What a request's key tells.
pub(crate) enum Keyed<'a> {
    /// There is none.
    Unkeyed,
    /// It is new; it is held until this is dropped.
    First(Held<'a>),
    /// The same request was made before.
    Known(IdempotencyRecord),
}

/// A key that is held until this is dropped.
pub(crate) struct Held<'a> {
    key: HeldKey<'a>,
    request: [u8; 32],
}

impl Held<'_> {
    /// What is written of the key, beside the tasks it makes.
    pub(crate) fn record(
        &self,
        core: &Core,
        tasks: &[TaskRecord],
        answer_json: Option<String>,
    ) -> (Key, IdempotencyRecord) {
        let made = |task: &TaskRecord| KeyedTask {
            id: task.id,
            session: task.session,
            mode: task.mode,
            created_ms: task.created_ms,
        };
        let tasks = tasks.iter().map(made).collect();
        (self.key().clone(), self.record_of(core.clock.unix_ms(), answer_json, tasks))
    }

    /// What is written of the key of a request that makes no task.
    pub(crate) fn bare_record(&self, created_ms: u64, answer_json: String) -> IdempotencyRecord {
        self.record_of(created_ms, Some(answer_json), Vec::new())
    }

    /// Where it is written.
    pub(crate) fn key(&self) -> &Key {
        self.key.key()
    }

    fn record_of(
        &self,
        created_ms: u64,
        answer_json: Option<String>,
        tasks: Vec<KeyedTask>,
    ) -> IdempotencyRecord {
        let user = self.key().user_id().expect("a key of this kind has a user");
        IdempotencyRecord { user, request: self.request, created_ms, answer_json, tasks }
    }
}

/// The key a request carries.
pub(crate) fn key_of(head: &RequestHead) -> Option<String> {
    head.header("idempotency-key").map(str::to_owned)
}

/// Looks at a request's key.
///
/// # Errors
/// As of [`look`].
pub(crate) async fn begin<'a>(
    core: &'a Core,
    who: &Principal,
    key: Option<&str>,
    path: &str,
    body: &[u8],
) -> Result<Keyed<'a>, Problem> {
    let Some(key) = key else { return Ok(Keyed::Unkeyed) };
    let (held, known) = look(core, who, key, path, body).await?;
    Ok(known.map_or_else(|| Keyed::First(held), Keyed::Known))
}

/// Takes hold of a key; gives what is written of it.
///
/// # Errors
/// `bad-request` for what is no key, `idempotency-in-flight`, `idempotency-mismatch`, or a problem of the storage.
pub(crate) async fn look<'a>(
    core: &'a Core,
    who: &Principal,
    key: &str,
    path: &str,
    body: &[u8],
) -> Result<(Held<'a>, Option<IdempotencyRecord>), Problem> {
    if !is_idempotency_key(key) {
        let detail = "an Idempotency-Key has 1 to 255 visible ASCII characters";
        return Err(Problem::new(ProblemKind::BadRequest, detail));
    }
    let request: [u8; 32] =
        Sha256::new_with_prefix(path).chain_update([0]).chain_update(body).finalize().into();
    let hash: [u8; 32] = Sha256::digest(key).into();
    match core.tasks.key_use(who.user, who.shard, &hash).await.map_err(|error| read_problem(&error))? {
        KeyUse::InFlight => Err(in_flight()),
        KeyUse::Held(_, Some(record)) if record.request != request => {
            let detail = "the key was used for a request with another path or body";
            Err(Problem::new(ProblemKind::IdempotencyMismatch, detail))
        }
        KeyUse::Held(key, known) => Ok((Held { key, request }, known)),
    }
}

/// The first request with the key has no answer yet.
pub(crate) fn in_flight() -> Problem {
    let detail = "the first request with this key is still being carried out";
    Problem::new(ProblemKind::IdempotencyInFlight, detail).with_retry_after_s(1)
}

/// Marks an answer that was given before.
pub(crate) fn replayed(response: Response) -> Response {
    response.with_field("idempotency-replayed", Cow::from("true"))
}

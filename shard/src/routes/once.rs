//! `Idempotency-Key` of a change at Google that is no task: a repeat is given the first answer, and where there is none,
//! finds out what the first came to.
//!
//! ```text
//! key -> begun (the identity under which things are made) -> made (a draft's or file's id) -> answered
//! ```
//! Invariants:
//! - Each state is durable before what depends on it: nothing is asked of Google that changes anything before `begun`
//!   is written, and no draft is sent, and no file made, whose id is not written.
//! - A request that failed without having done anything gives its key back. One whose outcome is not known, or that left
//!   something behind, keeps it, and its repeat goes on from there, in this process or in a later one.
//! - A key is held while a request with it is under way.

use std::cell::{Cell, RefCell};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sluice_net::Request;
use sluice_protocols::google::ApiCall;
use sluice_protocols::google::rest::{Body, Endpoint};
use sluice_protocols::http::Response;
use sluice_protocols::ids::{ShardId, TaskId};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::Batch;
use sluice_store::record::encode;

use super::keyed::{self, Held};
use crate::auth::Principal;
use crate::clock::timestamp_of;
use crate::service::Core;
use crate::upstream::{CallError, Google, Reply};

/// The longest answer that is kept for a repeat; of a longer one it is told that it was done. Google's are a few KiB.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// What is written of a key.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Trace {
    /// Ids and names of what is made follow from it.
    identity: TaskId,
    /// The id of the draft or the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    made: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<Kept>,
}

/// An answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    status: u16,
    body: String,
}

/// A change that is done once for each key.
pub(crate) struct Once<'a> {
    core: &'a Core,
    shard: ShardId,
    held: Option<Held<'a>>,
    created_ms: u64,
    trace: RefCell<Trace>,
    is_resumed: bool,
    /// Whether something may have been done that is not known of.
    in_doubt: Cell<bool>,
}

/// How a change begins.
pub(crate) enum Begun<'a> {
    /// It is to be made.
    Go(Once<'a>),
    /// It was made before.
    Known(Response),
}

impl<'a> Once<'a> {
    /// Looks at the request's key, if it has one, and writes down that it is used.
    ///
    /// # Errors
    /// As of [`keyed::look`].
    pub(crate) async fn begin(
        core: &'a Core,
        who: &Principal,
        endpoint: &Endpoint,
        request: &Request,
    ) -> Result<Begun<'a>, Problem> {
        let created_ms = core.clock.unix_ms();
        let mut once = Self {
            core,
            shard: who.shard,
            held: None,
            created_ms,
            trace: RefCell::new(Trace { identity: core.mint.task(created_ms), made: None, answer: None }),
            is_resumed: false,
            in_doubt: Cell::new(false),
        };
        let Some(key) = keyed::key_of(&request.head) else { return Ok(Begun::Go(once)) };
        let head = &request.head;
        let path = format!("{} {}?{}", endpoint.name, head.path(), head.query().unwrap_or_default());
        let content;
        let body = if endpoint.body == Body::Bytes {
            // Content is not there yet: its type and length stand for it.
            content = format!("{:?} {:?}", head.header("content-type"), head.content_length());
            content.as_bytes()
        } else {
            &request.body
        };
        let (held, known) = keyed::look(core, who, &key, &path, body).await?;
        once.held = Some(held);
        match known {
            None => once.write().await?,
            Some(record) => {
                let trace = record.answer_json.as_deref().and_then(|json| serde_json::from_str(json).ok());
                let trace: Trace = trace.ok_or_else(|| {
                    Problem::new(ProblemKind::Internal, "what the key stands for cannot be understood")
                })?;
                if let Some(kept) = trace.answer {
                    return Ok(Begun::Known(keyed::replayed(kept.into_response())));
                }
                once.created_ms = record.created_ms;
                once.trace = RefCell::new(trace);
                once.is_resumed = true;
            }
        }
        Ok(Begun::Go(once))
    }

    /// What the ids and names of what is made follow from: the same for every request with the key.
    pub(crate) fn identity(&self) -> TaskId {
        self.trace.borrow().identity
    }

    /// When the key was used first; now, without one.
    pub(crate) fn created(&self) -> Timestamp {
        timestamp_of(self.created_ms)
    }

    pub(crate) fn is_keyed(&self) -> bool {
        self.held.is_some()
    }

    /// Whether an earlier request with the key may have done it.
    pub(crate) fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// The id of the draft or file that was noted.
    pub(crate) fn made(&self) -> Option<String> {
        self.trace.borrow().made.clone()
    }

    /// Writes down under which id something is made.
    ///
    /// # Errors
    /// It could not be written.
    pub(crate) async fn note(&self, id: &str) -> Result<(), Problem> {
        self.trace.borrow_mut().made = Some(id.to_owned());
        self.write().await
    }

    /// From here on it is not known what was done, unless an answer comes.
    pub(crate) fn doubt(&self) {
        self.in_doubt.set(true);
    }

    /// Makes a call with an effect, once.
    pub(crate) async fn act(&self, google: &Google<'_>, call: &ApiCall) -> Result<Reply, CallError> {
        let answer = google.act(call, google.deadline()).await;
        if answer.as_ref().is_err_and(CallError::outcome_unknown) {
            self.doubt();
        }
        answer
    }

    /// Keeps the answer, or gives the key back.
    pub(crate) async fn end(self, answer: Result<Response, Problem>) -> Result<Response, Problem> {
        let Some(held) = &self.held else { return answer };
        let written = match &answer {
            Ok(response) => {
                self.trace.borrow_mut().answer = Some(Kept::of(response));
                self.write().await
            }
            Err(_) if self.is_resumed || self.in_doubt.get() || self.trace.borrow().made.is_some() => Ok(()),
            Err(_) => {
                let mut batch = Batch::new(self.shard);
                batch.delete(held.key());
                self.core.store.commit(batch).await.map(drop).map_err(|error| unwritten(&error))
            }
        };
        if let Err(problem) = written {
            // What was done is done; a repeat finds out.
            tracing::warn!(%problem, "what became of a request with a key was not written down");
        }
        answer
    }

    async fn write(&self) -> Result<(), Problem> {
        let Some(held) = &self.held else { return Ok(()) };
        let json = serde_json::to_string(&*self.trace.borrow())
            .map_err(|_| Problem::new(ProblemKind::Internal, "the key cannot be written down"))?;
        let record = held.bare_record(self.created_ms, json);
        let value = encode(&record)
            .map_err(|_| Problem::new(ProblemKind::Internal, "the key's record is too large"))?;
        let mut batch = Batch::new(self.shard);
        batch.put(held.key(), value.as_bytes());
        self.core.store.commit(batch).await.map(drop).map_err(|error| unwritten(&error))
    }
}

impl Kept {
    fn of(response: &Response) -> Self {
        let body = match std::str::from_utf8(&response.body) {
            Ok(body) if body.len() <= ANSWER_BYTES_MAX => body.to_owned(),
            _ => "{}".to_owned(),
        };
        Self { status: response.status, body }
    }

    fn into_response(self) -> Response {
        let response = Response::new(self.status);
        if self.body.is_empty() {
            return response;
        }
        response.with_body("application/json", Bytes::from(self.body))
    }
}

fn unwritten(error: &sluice_store::CommitError) -> Problem {
    tracing::error!(%error, "a key was not stored");
    Problem::new(ProblemKind::Storage, "the key was not stored").with_retry_after_s(5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_given_again_as_it_was() {
        let made = Response::new(200).with_body("application/json", Bytes::from_static(b"{\"id\":\"1\"}"));
        let again = Kept::of(&made).into_response();
        assert_eq!((again.status, &again.body), (200, &made.body));
        assert_eq!(again.header("content-type"), Some("application/json"));
        let nothing = Kept::of(&Response::new(204)).into_response();
        assert_eq!((nothing.status, nothing.body.len()), (204, 0));
        let long = "x".repeat(ANSWER_BYTES_MAX + 1);
        let long = Response::new(200).with_body("application/json", Bytes::from(long));
        assert_eq!(&Kept::of(&long).into_response().body[..], b"{}");
    }
}

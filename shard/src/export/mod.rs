//! Everything of one user, as JSON lines: a record a line, in pages that a reader asks for one after the other.
//!
//! ```text
//! {"kind":"export","format":1,"user":"usr_...","at":"..."}
//! {"kind":"session","key":"<the record's key, in hexadecimal digits>", ...}      as [`line`] writes each kind
//! {"kind":"chunk","generation":"...","index":0,"content":"<base64>"}             of documents
//! {"kind":"end"}                                                                 only when all before it is there
//! ```
//! Invariants:
//! - never a secret: no refresh token, no hash of a key, no data key;
//! - a page reads one page of one shard, and is all that is held; where it goes on is a value of its own, so that the
//!   reader may be a connection, a socket or a file;
//! - which kinds are told is said for every kind ([`is_told`]), so none is forgotten;
//! - what cannot be read is a line that says so, and not left out.
//!
//! It is no snapshot: each record is as it was when its page was read. Contents stand before the documents that refer to
//! them, for a content goes when its document is written anew; a document that was written after the export began says
//! that it was (`"written_meanwhile": true`), for its content may not be there.

mod line;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use sluice_protocols::ids::{GenerationId, ShardCount, ShardId, UserId};
use sluice_store::key::Belonging;
use sluice_store::record::{ContextChunkRecord, Loaded};
use sluice_store::{CoreStore, Key, KeyRange, Kind, Page, ReadError, Store, Value};

use crate::clock::timestamp_of;
use crate::context::Codec;

/// The form of the lines.
const FORMAT: u32 = 1;
/// Records read for a page, besides what bounds every scan.
const PAGE_ROWS: usize = 64;

/// Where an export goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportPlace {
    /// When it began, in milliseconds since 1970.
    began_ms: u64,
    /// Which of the kinds that are told.
    part: usize,
    /// Of the kinds that stand in all shards: which shard.
    shard: u16,
    /// The key it has come to.
    after: Option<Vec<u8>>,
}

/// A part of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportPage {
    /// Lines, each with its end.
    pub lines: String,
    /// Where it goes on; `None` at the end.
    pub next: Option<ExportPlace>,
}

/// How a page is read: by the reader pool on a core, or at once on a thread that may block.
pub(crate) trait Reads {
    async fn page(&self, shard: ShardId, range: KeyRange) -> Result<Page, ReadError>;
    /// Lets others go on.
    async fn rest(&self);
    fn shards(&self) -> ShardCount;
}

impl Reads for CoreStore {
    async fn page(&self, shard: ShardId, range: KeyRange) -> Result<Page, ReadError> {
        self.scan(shard, range, PAGE_ROWS, false).await
    }

    async fn rest(&self) {
        sluice_core::yield_now().await;
    }

    fn shards(&self) -> ShardCount {
        self.store().shard_count()
    }
}

impl Reads for Store {
    async fn page(&self, shard: ShardId, range: KeyRange) -> Result<Page, ReadError> {
        self.scan_blocking(shard, range, PAGE_ROWS, false)
    }

    async fn rest(&self) {}

    fn shards(&self) -> ShardCount {
        self.shard_count()
    }
}

/// Whether records of a kind are in an export.
const fn is_told(kind: Kind) -> bool {
    match kind {
        Kind::User
        | Kind::ApiKey
        | Kind::Connection
        | Kind::Session
        | Kind::TaskPending
        | Kind::TaskFinished
        | Kind::History
        | Kind::DeadLetter
        | Kind::Idempotency
        | Kind::Workflow
        | Kind::WorkflowVersion
        | Kind::Turn
        | Kind::ContextDocument
        | Kind::ContextChunk
        | Kind::ContextSnapshot
        | Kind::Preferences
        | Kind::Webhook
        | Kind::Delivery
        | Kind::Revocation
        | Kind::Identity
        | Kind::Limit
        | Kind::Activity
        | Kind::BrowserSession => true,
        // What is gone in minutes, and of secrets and hashes; a secret; what the user's own record says; the operator's to read; what no release can read; and no user's.
        Kind::Consent
        | Kind::DataKey
        | Kind::Name
        | Kind::AuditEntry
        | Kind::AuditHead
        | Kind::Quarantine
        | Kind::Applied
        | Kind::Erasure => false,
    }
}

/// How much of a user is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    Everything,
    /// What belongs to the account itself: to a credential that may not read what came of commands.
    Account,
}

/// Whether records of a kind belong to the account itself.
const fn is_of_account(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::User
            | Kind::ApiKey
            | Kind::Connection
            | Kind::Revocation
            | Kind::Preferences
            | Kind::Webhook
            | Kind::Identity
            | Kind::Limit
            | Kind::Activity
            | Kind::BrowserSession
    )
}

/// The kinds in the order they are told: contents before what refers to them.
fn parts(extent: Extent) -> Vec<Kind> {
    let is_wanted = |kind: &Kind| is_told(*kind) && (extent == Extent::Everything || is_of_account(*kind));
    let mut parts: Vec<Kind> = Kind::all().filter(is_wanted).collect();
    parts.sort_by_key(|kind| match kind {
        Kind::ContextDocument => 1,
        Kind::ContextSnapshot => 2,
        _ => 0,
    });
    parts
}

/// The part of a user's export at a place; at its beginning without one.
///
/// # Errors
/// [`ReadError`]; it can be asked for again.
pub(crate) async fn page(
    reads: &impl Reads,
    user: &UserId,
    extent: Extent,
    place: Option<ExportPlace>,
    now_ms: u64,
) -> Result<ExportPage, ReadError> {
    let Some(mut place) = place else {
        let head = json!({"kind": "export", "format": FORMAT, "user": user, "at": timestamp_of(now_ms)});
        let next = ExportPlace { began_ms: now_ms, part: 0, shard: 0, after: None };
        return Ok(ExportPage { lines: format!("{head}\n"), next: Some(next) });
    };
    let Some(&kind) = parts(extent).get(place.part) else {
        let end = match extent {
            Extent::Everything => json!({"kind": "end"}),
            Extent::Account => json!({"kind": "end", "left_out": "what needs the scope commands:read"}),
        };
        return Ok(ExportPage { lines: format!("{end}\n"), next: None });
    };
    let is_everywhere = kind.belonging() == Belonging::Leading;
    let shard = match ShardId::new(place.shard, reads.shards()) {
        Some(shard) if is_everywhere => shard,
        _ => ShardId::of(user, reads.shards()),
    };
    let range = if is_everywhere { KeyRange::kind(kind) } else { KeyRange::of_user(kind, user) };
    let after = place.after.take().and_then(|after| Key::from_bytes(&after).ok());
    let range = match &after {
        Some(after) => range.resume_after(after, false),
        None => range,
    };
    let found = reads.page(shard, range).await?;
    let last = found.rows.last().map(|(key, _)| key.as_bytes().to_vec());
    let mut lines = String::new();
    let mut codec = None;
    for (key, value) in found.rows {
        let line = match kind {
            Kind::ContextChunk => {
                reads.rest().await;
                chunk(codec.get_or_insert_with(Codec::new), &key, value)
            }
            _ => line::of(&key, value, user, place.began_ms),
        };
        if let Some(line) = line {
            lines.push_str(&line.to_string());
            lines.push('\n');
        }
    }
    if found.next.is_some() {
        place.after = last.or_else(|| after.map(|after| after.as_bytes().to_vec()));
    } else if is_everywhere && place.shard + 1 < reads.shards().get() {
        place.shard += 1;
    } else {
        place = ExportPlace { part: place.part + 1, shard: 0, ..place };
    }
    Ok(ExportPage { lines, next: Some(place) })
}

/// A piece of a document's content.
fn chunk(codec: &mut Codec, key: &Key, value: Value) -> Option<Json> {
    let bytes = key.as_bytes();
    let generation = GenerationId::from_bytes(bytes.get(17..33)?.try_into().ok()?);
    let index = u32::from_be_bytes(bytes.get(33..)?.try_into().ok()?);
    let content = match Loaded::<ContextChunkRecord>::new(value) {
        Ok(chunk) => codec.open(&generation, index, chunk.get()).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let generation = sluice_protocols::hex::encode(generation.as_bytes());
    Some(match content {
        Ok(content) => json!({
            "kind": "chunk", "generation": generation, "index": index, "content": STANDARD.encode(&content),
        }),
        Err(error) => {
            json!({"kind": "chunk", "generation": generation, "index": index, "unreadable": error})
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_stand_before_what_refers_to_them() {
        let parts = parts(Extent::Everything);
        let at = |kind| parts.iter().position(|part| *part == kind).expect("it is told");
        assert!(at(Kind::ContextChunk) < at(Kind::ContextDocument));
        assert!(at(Kind::ContextDocument) < at(Kind::ContextSnapshot));
        assert!(!parts.contains(&Kind::DataKey));
    }

    #[test]
    fn all_that_is_erased_is_told_but_keys_copies_names_and_consents_under_way() {
        for kind in Kind::all().filter(|kind| kind.belonging() != Belonging::Nobodys) {
            let is_left_out = matches!(kind, Kind::DataKey | Kind::Quarantine | Kind::Name | Kind::Consent);
            assert_eq!(is_told(kind), !is_left_out, "{kind:?}");
        }
    }
}

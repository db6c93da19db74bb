//! Context documents, their chunks, and snapshots of them.
//!
//! A document's content is a generation: chunks under an id of their own that are written before anything refers to them
//! and never changed. A generation is referred to by the document's record or by snapshots; one that nothing refers to
//! has a [`ContextOrphanRecord`], from before its first chunk until after its last.

use rkyv::{Archive, Deserialize, Serialize};
use sluice_protocols::ids::{GenerationId, SnapshotId, UserId};

use super::Record;
use super::types::Raw;
use crate::key::Kind;

/// A document, or a snapshot's memory of one: everything but the content.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ContextDocumentRecord {
    #[rkyv(with = Raw)]
    pub user: UserId,
    /// What the user calls it.
    pub key: String,
    /// Where the content is.
    #[rkyv(with = Raw)]
    pub generation: GenerationId,
    /// Bytes of the content.
    pub bytes: u64,
    /// Bytes of its chunks as they are stored.
    pub stored_bytes: u64,
    /// Bytes of content in each chunk but the last, which has 1 to as many.
    pub chunk_bytes: u32,
    pub media_type: String,
    /// How long it lives from each time that it is written, in seconds.
    pub ttl_s: u64,
    pub created_ms: u64,
    /// When this content was written.
    pub changed_ms: u64,
    pub expires_ms: u64,
}

impl Record for ContextDocumentRecord {
    const NAME: &'static str = "context document";
    const KINDS: &'static [Kind] = &[Kind::ContextDocument];
    const SCHEMA: u8 = 1;
}

/// A generation that nothing refers to: one on its way in, or one to be removed.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ContextOrphanRecord {
    #[rkyv(with = Raw)]
    pub generation: GenerationId,
    /// No chunk of it has this index or a greater one.
    pub chunks_max: u32,
}

impl Record for ContextOrphanRecord {
    const NAME: &'static str = "context orphan";
    const KINDS: &'static [Kind] = &[Kind::ContextDocument];
    const SCHEMA: u8 = 1;
}

/// A piece of a generation's content.
#[derive(Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ContextChunkRecord {
    /// How the content is stored; what the numbers mean belongs to the layer above.
    pub form: u8,
    /// Bytes of content.
    pub bytes: u32,
    /// Of the content and its place.
    pub checksum: u64,
    /// The content in that form.
    pub data: Vec<u8>,
}

impl Record for ContextChunkRecord {
    const NAME: &'static str = "context chunk";
    const KINDS: &'static [Kind] = &[Kind::ContextChunk];
    const SCHEMA: u8 = 1;
}

impl std::fmt::Debug for ContextChunkRecord {
    /// Leaves the content out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { form, bytes, data, .. } = self;
        write!(f, "ContextChunkRecord(form {form}, {bytes} bytes, {} stored)", data.len())
    }
}

/// The state of all of a user's documents at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ContextSnapshotRecord {
    #[rkyv(with = Raw)]
    pub id: SnapshotId,
    #[rkyv(with = Raw)]
    pub user: UserId,
    /// What the user calls it.
    pub label: Option<String>,
    pub created_ms: u64,
    pub expires_ms: u64,
    /// By key.
    pub documents: Vec<ContextDocumentRecord>,
}

impl Record for ContextSnapshotRecord {
    const NAME: &'static str = "context snapshot";
    const KINDS: &'static [Kind] = &[Kind::ContextSnapshot];
    const SCHEMA: u8 = 1;
}

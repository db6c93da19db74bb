//! Context documents of a core's users, and snapshots of them: content that commands and clients keep for some days.
//!
//! ```text
//! written: orphan + chunks, batch by batch -> the document's record instead of the orphan, in one batch
//! removed: the orphan instead of what referred to it, in one batch -> chunks, then gone
//! ```
//! Invariants:
//! - A document appears, changes and goes by one batch, so it is whole at any moment, also after a crash; what a crash
//!   leaves of an upload has an orphan's record, and is swept.
//! - Chunks are removed only while their orphan is there and nothing has pinned it, seen in the order that
//!   [`Shelves::remove`] says.
//! - Content passes in pieces: an upload holds a chunk that fills and a batch of [`BATCH_BYTES`], which the last chunk of it
//!   may overstep, a download one chunk, besides what waits in its body. A core compresses or opens one chunk at a time and lets others run after each.
//! - Sweeps read at most [`SWEEP_ROWS`] records of documents and [`SWEEP_SNAPSHOTS`] of snapshots of each shard a minute.

mod chunk;
mod desk;
mod shelf;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sluice_net::BodyError;
use sluice_protocols::ids::{GenerationId, ShardId, UserId};
use sluice_store::record::{
    ContextChunkRecord, ContextDocumentRecord, ContextOrphanRecord, ContextSnapshotRecord,
};
use sluice_store::{Batch, CommitError, CoreStore, Key, KeyRange, Kind, ReadError, RecordError};

pub(crate) use chunk::{CHUNK_BYTES, ChunkError, Codec};
pub(crate) use desk::{Crowded, Desks, Pin, Transfer};
pub(crate) use shelf::{Change, DOCUMENTS_MAX, Refused, SNAPSHOTS_MAX, Shelf};

use crate::auth::Principal;
use crate::clock::Clock;
use crate::metrics::{CoreMetrics, CoreState};
use crate::upstream::Source;

/// Stored bytes of an upload that are written together, so that a sync is not paid for each chunk.
const BATCH_BYTES: usize = 128 << 10;
/// From one sweep to the next.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Records of documents and orphans read by a sweep of a shard.
const SWEEP_ROWS: usize = 256;
/// Snapshots read by a sweep of a shard.
const SWEEP_SNAPSHOTS: usize = 16;

/// Settings of context documents.
#[derive(Clone, Copy, Debug)]
pub struct ContextConfig {
    /// Most bytes of a user's documents, and of what snapshots keep besides. Default 10 MiB.
    pub bytes_max: u64,
    /// How long documents and snapshots live that do not say. Default 7 days.
    pub ttl: Duration,
    /// The longest life that may be asked for. Default 30 days.
    pub ttl_max: Duration,
}

impl Default for ContextConfig {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 60 * 60);
        Self { bytes_max: 10 << 20, ttl: 7 * day, ttl_max: 30 * day }
    }
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContextError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Crowded(#[from] Crowded),
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The state is not what the request asks for.
    #[error("a condition does not hold: {0}")]
    Condition(&'static str),
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Whose documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Owner {
    pub(crate) shard: ShardId,
    pub(crate) user: UserId,
}

impl From<&Principal> for Owner {
    fn from(who: &Principal) -> Self {
        Self { shard: who.shard, user: who.user }
    }
}

/// What was written of a content.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written {
    pub(crate) bytes: u64,
    pub(crate) stored_bytes: u64,
}

/// See the module.
pub(crate) struct Shelves {
    store: CoreStore,
    clock: Clock,
    metrics: Arc<CoreMetrics>,
    codec: RefCell<Codec>,
    pub(crate) desks: Rc<Desks>,
    pub(crate) config: ContextConfig,
}

impl Shelves {
    pub(crate) fn new(
        store: CoreStore,
        clock: Clock,
        metrics: Arc<CoreMetrics>,
        config: ContextConfig,
    ) -> Self {
        let (codec, desks) = (RefCell::new(Codec::new()), Rc::default());
        Self { store, clock, metrics, codec, desks, config }
    }

    /// Everything kept about a user's documents. Call it in a turn of theirs, if anything is to follow from it.
    pub(crate) async fn shelf(&self, owner: Owner) -> Result<Shelf, ReadError> {
        let mut shelf = Shelf::default();
        for kind in [Kind::ContextDocument, Kind::ContextSnapshot] {
            // Ends: changes remove what is over first, so there are never many.
            let mut next = Some(KeyRange::of_user(kind, &owner.user));
            while let Some(range) = next.take() {
                let page = self.store.scan(owner.shard, range, sluice_store::SCAN_ROWS_MAX, false).await?;
                for (key, value) in page.rows {
                    if key.is_context_orphan() {
                        let orphan = self.store.validate::<ContextOrphanRecord>(owner.shard, &key, value)?;
                        let orphan = orphan.to_record();
                        shelf.orphans.insert(orphan.generation, orphan.chunks_max);
                    } else if kind == Kind::ContextDocument {
                        let document =
                            self.store.validate::<ContextDocumentRecord>(owner.shard, &key, value)?;
                        let document = document.to_record();
                        shelf.documents.insert(document.key.clone(), document);
                    } else {
                        let snapshot =
                            self.store.validate::<ContextSnapshotRecord>(owner.shard, &key, value)?;
                        let snapshot = snapshot.to_record();
                        shelf.snapshots.insert(snapshot.id, snapshot);
                    }
                }
                next = page.next;
            }
        }
        Ok(shelf)
    }

    /// A document as it is now. Call it in a turn of its owner's.
    pub(crate) async fn document(
        &self,
        owner: Owner,
        key: &str,
    ) -> Result<ContextDocumentRecord, ContextError> {
        let Ok(key) = Key::context_document(&owner.user, key) else { return Err(Refused::NotFound.into()) };
        let document = self.store.load::<ContextDocumentRecord>(owner.shard, &key).await?;
        let document = document.map(|document| document.to_record());
        let now_ms = self.clock.unix_ms();
        document.filter(|document| now_ms < document.expires_ms).ok_or_else(|| Refused::NotFound.into())
    }

    /// Changes what is kept about a user's documents: what `act` makes of it, durable when this ends. What has had its
    /// time goes first.
    pub(crate) async fn change(
        self: &Rc<Self>,
        owner: Owner,
        act: impl FnOnce(&Shelf, u64) -> Result<Vec<Change>, ContextError>,
    ) -> Result<(), ContextError> {
        let turn = self.desks.turn(owner.user).await?;
        let now_ms = self.clock.unix_ms();
        let mut shelf = self.shelf(owner).await?;
        let over = shelf.expire(now_ms);
        if !over.is_empty() {
            self.count_expired(&over);
            self.write(owner, &over).await?;
            shelf = self.shelf(owner).await?;
        }
        let changes = act(&shelf, now_ms)?;
        self.write(owner, &changes).await?;
        drop(turn);
        Ok(())
    }

    fn count_expired(&self, over: &[Change]) {
        let documents = over.iter().filter(|change| matches!(change, Change::DeleteDocument(_))).count();
        let snapshots = over.iter().filter(|change| matches!(change, Change::DeleteSnapshot(_))).count();
        self.metrics.context_documents_expired.add(documents as u64);
        self.metrics.context_snapshots_expired.add(snapshots as u64);
    }

    /// Writes changes by one batch, and begins to remove what they made orphans.
    async fn write(self: &Rc<Self>, owner: Owner, changes: &[Change]) -> Result<(), ContextError> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new(owner.shard);
        let mut orphans = Vec::new();
        let document_key = |key: &str| {
            Key::context_document(&owner.user, key)
                .expect("what is on a shelf was stored under a key, or checked")
        };
        for change in changes {
            match change {
                Change::PutDocument(document) => {
                    batch.put_record(&document_key(&document.key), document)?;
                }
                Change::DeleteDocument(key) => {
                    batch.delete(&document_key(key));
                }
                Change::PutSnapshot(snapshot) => {
                    batch.put_record(&Key::context_snapshot(&owner.user, &snapshot.id), snapshot)?;
                }
                Change::DeleteSnapshot(id) => {
                    batch.delete(&Key::context_snapshot(&owner.user, id));
                }
                Change::PutOrphan { generation, chunks_max } => {
                    let orphan = ContextOrphanRecord { generation: *generation, chunks_max: *chunks_max };
                    batch.put_record(&Key::context_orphan(&owner.user, generation), &orphan)?;
                    orphans.push(*generation);
                }
                Change::DeleteOrphan(generation) => {
                    batch.delete(&Key::context_orphan(&owner.user, generation));
                }
            }
        }
        self.store.commit(batch).await?;
        if !orphans.is_empty() {
            let shelves = Rc::clone(self);
            sluice_core::spawn(async move {
                for generation in orphans {
                    shelves.remove(owner, &generation).await;
                }
            });
        }
        Ok(())
    }

    /// Removes the chunks of a generation if it is an orphan and no content of it passes. What fails is found again by a
    /// sweep.
    ///
    /// Pins come first and the record after them: an upload holds its pin until a document refers to its generation and the
    /// orphan is gone, and nobody pins what no document refers to. So what is not pinned now and an orphan afterwards is
    /// one for good, however long ago a sweep met it.
    pub(crate) async fn remove(&self, owner: Owner, generation: &GenerationId) {
        if self.desks.is_pinned(owner.user, generation) {
            return;
        }
        let key = Key::context_orphan(&owner.user, generation);
        let removed: Result<bool, ContextError> = async {
            let Some(orphan) = self.store.load::<ContextOrphanRecord>(owner.shard, &key).await? else {
                return Ok(false);
            };
            let mut batch = Batch::new(owner.shard);
            for index in 0..orphan.get().chunks_max.to_native() {
                batch.delete(&Key::context_chunk(&owner.user, generation, index));
            }
            batch.delete(&key);
            self.store.commit(batch).await?;
            Ok(true)
        }
        .await;
        match removed {
            Ok(true) => self.metrics.context_generations_removed.add(1),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "chunks of context documents wait for a sweep"),
        }
    }

    /// Writes content as the chunks of a generation that is pinned, and an orphan until a document refers to it. All of it
    /// is durable when this ends.
    pub(crate) async fn write_content(
        &self,
        owner: Owner,
        generation: GenerationId,
        source: &mut Source,
        bytes_max: u64,
    ) -> Result<Written, ContextError> {
        let chunks_max = u32::try_from(bytes_max.div_ceil(CHUNK_BYTES as u64)).unwrap_or(u32::MAX);
        let mut batch = Batch::new(owner.shard);
        let orphan = ContextOrphanRecord { generation, chunks_max };
        batch.put_record(&Key::context_orphan(&owner.user, &generation), &orphan)?;
        let mut content = BytesMut::with_capacity(CHUNK_BYTES);
        let mut written = Written::default();
        let mut index = 0;
        loop {
            let is_last = source.fill(&mut content, CHUNK_BYTES).await?;
            written.bytes += content.len() as u64;
            if written.bytes > bytes_max {
                return Err(BodyError::TooLong.into());
            }
            if !content.is_empty() {
                let chunk = self.codec.borrow_mut().seal(&generation, index, &content);
                written.stored_bytes += chunk.data.len() as u64;
                batch.put_record(&Key::context_chunk(&owner.user, &generation, index), &chunk)?;
                index += 1;
                content.clear();
                sluice_core::yield_now().await;
            }
            if is_last || batch.size() >= BATCH_BYTES {
                let full = std::mem::replace(&mut batch, Batch::new(owner.shard));
                if !full.is_empty() {
                    self.store.commit(full).await?;
                }
            }
            if is_last {
                self.metrics.context_bytes_received.add(written.bytes);
                self.metrics.context_bytes_stored.add(written.stored_bytes);
                return Ok(written);
            }
        }
    }

    /// The content of one chunk of a document whose generation is pinned.
    pub(crate) async fn read_chunk(
        &self,
        owner: Owner,
        document: &ContextDocumentRecord,
        index: u32,
    ) -> Result<Bytes, ContextError> {
        let generation = &document.generation;
        let key = Key::context_chunk(&owner.user, generation, index);
        let loaded = self.store.load::<ContextChunkRecord>(owner.shard, &key).await?;
        let content = match &loaded {
            None => Err(ChunkError::Missing),
            Some(chunk) => self.codec.borrow_mut().open(generation, index, chunk.get()),
        };
        let chunk_bytes = u64::from(document.chunk_bytes);
        let expected = document.bytes.saturating_sub(u64::from(index) * chunk_bytes).min(chunk_bytes);
        let content = content.and_then(|content| match content.len() as u64 == expected {
            true => Ok(content),
            false => Err(ChunkError::Malformed),
        });
        if let Err(error) = &content {
            self.metrics.context_chunks_damaged.add(1);
            tracing::error!(%error, ?key, "content of a context document is damaged");
        }
        Ok(content?)
    }

    /// Removes what has had its time and what crashes left, again and again.
    pub(crate) async fn keep_swept(self: Rc<Self>, shards: Vec<ShardId>) {
        let mut places: Vec<[Option<KeyRange>; 2]> = vec![[None, None]; shards.len()];
        while self.metrics.state() != CoreState::Draining {
            for (shard, [documents, snapshots]) in shards.iter().zip(&mut places) {
                *documents = self.sweep(*shard, Kind::ContextDocument, documents.take(), SWEEP_ROWS).await;
                *snapshots =
                    self.sweep(*shard, Kind::ContextSnapshot, snapshots.take(), SWEEP_SNAPSHOTS).await;
            }
            sluice_core::sleep(SWEEP_EVERY).await;
        }
    }

    /// One page; gives where to go on, nothing for the beginning.
    async fn sweep(
        self: &Rc<Self>,
        shard: ShardId,
        kind: Kind,
        place: Option<KeyRange>,
        rows: usize,
    ) -> Option<KeyRange> {
        let range = place.unwrap_or_else(|| KeyRange::kind(kind));
        let page = self.store.scan(shard, range, rows, false).await.ok()?;
        let now_ms = self.clock.unix_ms();
        let mut over = BTreeSet::new();
        for (key, value) in page.rows {
            let Some(user) = key.user_id() else { continue };
            let owner = Owner { shard, user };
            // One that is damaged stays; a copy is in quarantine.
            if key.is_context_orphan() {
                if let Ok(orphan) = self.store.validate::<ContextOrphanRecord>(shard, &key, value) {
                    self.remove(owner, &orphan.to_record().generation).await;
                }
                continue;
            }
            let expires_ms = if kind == Kind::ContextDocument {
                let document = self.store.validate::<ContextDocumentRecord>(shard, &key, value);
                document.map(|document| document.get().expires_ms.to_native())
            } else {
                let snapshot = self.store.validate::<ContextSnapshotRecord>(shard, &key, value);
                snapshot.map(|snapshot| snapshot.get().expires_ms.to_native())
            };
            if expires_ms.is_ok_and(|expires_ms| expires_ms <= now_ms) {
                over.insert(owner);
            }
        }
        for owner in over {
            // Every change removes what is over.
            if let Err(error) = self.change(owner, |_, _| Ok(Vec::new())).await {
                tracing::warn!(%error, "context documents that are over wait for the next sweep");
            }
        }
        page.next
    }
}

//! One user's documents, snapshots and orphans, and what each change of them comes to: without storage or clock.
//!
//! Invariants:
//! - A generation is referred to (by the document or by snapshots), or it is an orphan; never both, never neither.
//! - What counts against a user's bytes is each generation that is referred to, once, whoever refers to it.
//! - Documents and snapshots whose time is over are as if they were not there, also before they are removed.

use std::collections::{BTreeMap, BTreeSet};

use sluice_protocols::ids::{GenerationId, SnapshotId};
use sluice_store::record::{ContextDocumentRecord, ContextSnapshotRecord};

/// The most documents of a user.
pub(crate) const DOCUMENTS_MAX: usize = 256;
/// The most snapshots of a user.
pub(crate) const SNAPSHOTS_MAX: usize = 16;

/// What is to be written, all of it by one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    PutDocument(ContextDocumentRecord),
    DeleteDocument(String),
    PutSnapshot(ContextSnapshotRecord),
    DeleteSnapshot(SnapshotId),
    PutOrphan { generation: GenerationId, chunks_max: u32 },
    DeleteOrphan(GenerationId),
}

/// Why a change is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("there is no such thing")]
    NotFound,
    #[error("there would be {bytes} bytes")]
    Bytes { bytes: u64 },
    #[error("there are {DOCUMENTS_MAX} documents")]
    Documents,
    #[error("there are {SNAPSHOTS_MAX} snapshots")]
    Snapshots,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shelf {
    pub(crate) documents: BTreeMap<String, ContextDocumentRecord>,
    pub(crate) snapshots: BTreeMap<SnapshotId, ContextSnapshotRecord>,
    /// With the bound of their chunks.
    pub(crate) orphans: BTreeMap<GenerationId, u32>,
}

/// Chunks that a document's content has.
pub(crate) fn chunks_of(document: &ContextDocumentRecord) -> u32 {
    let chunk_bytes = u64::from(document.chunk_bytes.max(1));
    u32::try_from(document.bytes.div_ceil(chunk_bytes)).unwrap_or(u32::MAX)
}

impl Shelf {
    /// The document of this key, unless its time is over.
    pub(crate) fn document(&self, key: &str, now_ms: u64) -> Option<&ContextDocumentRecord> {
        self.documents.get(key).filter(|document| now_ms < document.expires_ms)
    }

    /// The documents that there are, by key.
    pub(crate) fn live(&self, now_ms: u64) -> impl Iterator<Item = &ContextDocumentRecord> {
        self.documents.values().filter(move |document| now_ms < document.expires_ms)
    }

    /// The snapshot of this id, unless its time is over.
    pub(crate) fn snapshot(&self, id: &SnapshotId, now_ms: u64) -> Option<&ContextSnapshotRecord> {
        self.snapshots.get(id).filter(|snapshot| now_ms < snapshot.expires_ms)
    }

    /// The snapshots that there are, oldest first.
    pub(crate) fn live_snapshots(
        &self,
        now_ms: u64,
    ) -> impl DoubleEndedIterator<Item = &ContextSnapshotRecord> {
        self.snapshots.values().filter(move |snapshot| now_ms < snapshot.expires_ms)
    }

    fn references(&self) -> impl Iterator<Item = &ContextDocumentRecord> {
        let kept = self.snapshots.values().flat_map(|snapshot| &snapshot.documents);
        self.documents.values().chain(kept)
    }

    /// Bytes that count, of what there is at this moment.
    pub(crate) fn bytes(&self, now_ms: u64) -> u64 {
        self.bytes_but(None, now_ms)
    }

    /// Bytes that count without the document of this key, which leaves what snapshots keep of it.
    pub(crate) fn bytes_but(&self, key: Option<&str>, now_ms: u64) -> u64 {
        let own = self.live(now_ms).filter(|document| Some(document.key.as_str()) != key);
        let kept = self.live_snapshots(now_ms).flat_map(|snapshot| &snapshot.documents);
        let mut seen = BTreeSet::new();
        own.chain(kept)
            .filter(|document| seen.insert(document.generation))
            .map(|document| document.bytes)
            .sum()
    }

    /// Puts a document whose chunks are written, over the one of its key.
    pub(crate) fn put(
        &self,
        document: ContextDocumentRecord,
        bytes_max: u64,
        now_ms: u64,
    ) -> Result<Vec<Change>, Refused> {
        let is_new = self.document(&document.key, now_ms).is_none();
        if is_new && self.live(now_ms).count() >= DOCUMENTS_MAX {
            return Err(Refused::Documents);
        }
        let bytes = self.bytes_but(Some(&document.key), now_ms) + document.bytes;
        if bytes > bytes_max {
            return Err(Refused::Bytes { bytes });
        }
        let mut after = self.clone();
        after.orphans.remove(&document.generation);
        after.documents.insert(document.key.clone(), document);
        Ok(self.changes_to(after))
    }

    /// Removes a document.
    pub(crate) fn remove(&self, key: &str, now_ms: u64) -> Result<Vec<Change>, Refused> {
        self.document(key, now_ms).ok_or(Refused::NotFound)?;
        let mut after = self.clone();
        after.documents.remove(key);
        Ok(self.changes_to(after))
    }

    /// Keeps the documents that there are; `snapshot` has none yet.
    pub(crate) fn keep(
        &self,
        mut snapshot: ContextSnapshotRecord,
        now_ms: u64,
    ) -> Result<Vec<Change>, Refused> {
        if self.live_snapshots(now_ms).count() >= SNAPSHOTS_MAX {
            return Err(Refused::Snapshots);
        }
        snapshot.documents = self.live(now_ms).cloned().collect();
        let mut after = self.clone();
        after.snapshots.insert(snapshot.id, snapshot);
        Ok(self.changes_to(after))
    }

    /// Brings back the documents of a snapshot and no others; they live as long from now as from a write.
    pub(crate) fn restore(&self, id: &SnapshotId, now_ms: u64) -> Result<Vec<Change>, Refused> {
        let snapshot = self.snapshot(id, now_ms).ok_or(Refused::NotFound)?;
        let mut after = self.clone();
        after.documents.clear();
        for document in &snapshot.documents {
            let expires_ms = now_ms.saturating_add(document.ttl_s.saturating_mul(1_000));
            let document = ContextDocumentRecord { expires_ms, ..document.clone() };
            after.documents.insert(document.key.clone(), document);
        }
        Ok(self.changes_to(after))
    }

    /// Removes a snapshot.
    pub(crate) fn forget(&self, id: &SnapshotId, now_ms: u64) -> Result<Vec<Change>, Refused> {
        self.snapshot(id, now_ms).ok_or(Refused::NotFound)?;
        let mut after = self.clone();
        after.snapshots.remove(id);
        Ok(self.changes_to(after))
    }

    /// Removes what has had its time.
    pub(crate) fn expire(&self, now_ms: u64) -> Vec<Change> {
        let mut after = self.clone();
        after.documents.retain(|_, document| now_ms < document.expires_ms);
        after.snapshots.retain(|_, snapshot| now_ms < snapshot.expires_ms);
        self.changes_to(after)
    }

    /// What leads from here to `after`. What is referred to no more becomes an orphan.
    fn changes_to(&self, mut after: Self) -> Vec<Change> {
        let kept: BTreeSet<_> = after.references().map(|document| document.generation).collect();
        for document in self.references().filter(|document| !kept.contains(&document.generation)) {
            after.orphans.insert(document.generation, chunks_of(document));
        }
        let mut changes = Vec::new();
        let was = |document: &&ContextDocumentRecord| self.documents.get(&document.key) == Some(*document);
        let put = after.documents.values().filter(|document| !was(document));
        changes.extend(put.cloned().map(Change::PutDocument));
        let gone = self.documents.keys().filter(|key| !after.documents.contains_key(*key));
        changes.extend(gone.cloned().map(Change::DeleteDocument));
        let put = after.snapshots.values().filter(|snapshot| !self.snapshots.contains_key(&snapshot.id));
        changes.extend(put.cloned().map(Change::PutSnapshot));
        let gone = self.snapshots.keys().filter(|id| !after.snapshots.contains_key(*id));
        changes.extend(gone.copied().map(Change::DeleteSnapshot));
        let put = after.orphans.iter().filter(|(generation, _)| !self.orphans.contains_key(*generation));
        let orphan = |(generation, chunks_max): (&GenerationId, &u32)| Change::PutOrphan {
            generation: *generation,
            chunks_max: *chunks_max,
        };
        changes.extend(put.map(orphan));
        let gone = self.orphans.keys().filter(|generation| !after.orphans.contains_key(*generation));
        changes.extend(gone.copied().map(Change::DeleteOrphan));
        changes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sluice_protocols::ids::UserId;

    use super::*;

    const TTL_S: u64 = 10;
    const BYTES_MAX: u64 = 50;

    fn document(key: u8, generation: u128, bytes: u64, now_ms: u64) -> ContextDocumentRecord {
        ContextDocumentRecord {
            user: UserId::from_bytes([1; 16]),
            key: format!("k{key}"),
            generation: GenerationId::from_bytes(generation.to_be_bytes()),
            bytes,
            stored_bytes: bytes,
            chunk_bytes: 4,
            media_type: String::new(),
            ttl_s: TTL_S,
            created_ms: now_ms,
            changed_ms: now_ms,
            expires_ms: now_ms + TTL_S * 1_000,
        }
    }

    fn snapshot(number: u128, now_ms: u64) -> ContextSnapshotRecord {
        ContextSnapshotRecord {
            id: SnapshotId::from_bytes(number.to_be_bytes()),
            user: UserId::from_bytes([1; 16]),
            label: None,
            created_ms: now_ms,
            expires_ms: now_ms + TTL_S * 1_000,
            documents: Vec::new(),
        }
    }

    /// The store, as far as a shelf goes.
    fn apply(shelf: &mut Shelf, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::PutDocument(document) => {
                    shelf.documents.insert(document.key.clone(), document);
                }
                Change::DeleteDocument(key) => assert!(shelf.documents.remove(&key).is_some()),
                Change::PutSnapshot(snapshot) => {
                    shelf.snapshots.insert(snapshot.id, snapshot);
                }
                Change::DeleteSnapshot(id) => assert!(shelf.snapshots.remove(&id).is_some()),
                Change::PutOrphan { generation, chunks_max } => {
                    assert!(shelf.orphans.insert(generation, chunks_max).is_none());
                }
                Change::DeleteOrphan(generation) => assert!(shelf.orphans.remove(&generation).is_some()),
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Act {
        Put { key: u8, bytes: u64 },
        Remove { key: u8 },
        Keep,
        Restore { which: usize },
        Forget { which: usize },
        Expire,
        Wait { ms: u64 },
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => (0u8..4, 0u64..30).prop_map(|(key, bytes)| Act::Put { key, bytes }),
            1 => (0u8..4).prop_map(|key| Act::Remove { key }),
            2 => Just(Act::Keep),
            2 => (0usize..8).prop_map(|which| Act::Restore { which }),
            1 => (0usize..8).prop_map(|which| Act::Forget { which }),
            1 => Just(Act::Expire),
            2 => (0u64..6_000).prop_map(|ms| Act::Wait { ms }),
        ]
    }

    /// Contents and their bytes, by key.
    type Kept = BTreeMap<u8, (u128, u64)>;

    /// What a user sees: contents by key, and of snapshots, with the ends of their times. It counts by content.
    #[derive(Default)]
    struct Model {
        documents: BTreeMap<u8, (u128, u64, u64)>,
        snapshots: BTreeMap<u128, (Kept, u64)>,
    }

    impl Model {
        fn expire(&mut self, now_ms: u64) {
            self.documents.retain(|_, (_, _, end)| now_ms < *end);
            self.snapshots.retain(|_, (_, end)| now_ms < *end);
        }

        fn contents(&self) -> BTreeMap<u128, u64> {
            let own = self.documents.values().map(|(content, bytes, _)| (*content, *bytes));
            own.chain(self.snapshots.values().flat_map(|(kept, _)| kept.values().copied())).collect()
        }
    }

    proptest! {
        #[test]
        fn a_shelf_is_what_its_user_expects_and_no_generation_is_lost(acts in proptest::collection::vec(act(), 1..80)) {
            let (mut shelf, mut model) = (Shelf::default(), Model::default());
            let (mut now_ms, mut written, mut taken) = (1_000u64, 0u128, 0u128);
            let mut all = BTreeSet::new();
            for act in acts {
                model.expire(now_ms);
                let end = now_ms + TTL_S * 1_000;
                let id = |which: usize, model: &Model| {
                    let count = model.snapshots.len().max(1);
                    model.snapshots.keys().nth(which % count).copied().unwrap_or(u128::MAX)
                };
                let changes = match act {
                    Act::Wait { ms } => { now_ms += ms; continue }
                    Act::Put { key, bytes } => {
                        written += 1;
                        let new = document(key, written, bytes, now_ms);
                        // Its chunks were written under an orphan.
                        shelf.orphans.insert(new.generation, chunks_of(&new));
                        all.insert(new.generation);
                        let before = model.documents.remove(&key);
                        let fits = model.contents().values().sum::<u64>() + bytes <= BYTES_MAX;
                        let found = shelf.put(new, BYTES_MAX, now_ms);
                        prop_assert_eq!(found.is_ok(), fits);
                        if fits {
                            model.documents.insert(key, (written, bytes, end));
                        } else if let Some(before) = before {
                            model.documents.insert(key, before);
                        }
                        found
                    }
                    Act::Remove { key } => {
                        let found = shelf.remove(&format!("k{key}"), now_ms);
                        prop_assert_eq!(found.is_ok(), model.documents.remove(&key).is_some());
                        found
                    }
                    Act::Keep => {
                        taken += 1;
                        let found = shelf.keep(snapshot(taken, now_ms), now_ms);
                        prop_assert_eq!(found.is_ok(), model.snapshots.len() < SNAPSHOTS_MAX);
                        if found.is_ok() {
                            let kept = model.documents.iter().map(|(key, (content, bytes, _))| (*key, (*content, *bytes)));
                            model.snapshots.insert(taken, (kept.collect(), end));
                        }
                        found
                    }
                    Act::Restore { which } => {
                        let id = id(which, &model);
                        let found = shelf.restore(&SnapshotId::from_bytes(id.to_be_bytes()), now_ms);
                        prop_assert_eq!(found.is_ok(), model.snapshots.contains_key(&id));
                        if let Some((kept, _)) = model.snapshots.get(&id) {
                            model.documents =
                                kept.iter().map(|(key, (content, bytes))| (*key, (*content, *bytes, end))).collect();
                        }
                        found
                    }
                    Act::Forget { which } => {
                        let id = id(which, &model);
                        let found = shelf.forget(&SnapshotId::from_bytes(id.to_be_bytes()), now_ms);
                        prop_assert_eq!(found.is_ok(), model.snapshots.remove(&id).is_some());
                        found
                    }
                    Act::Expire => Ok(shelf.expire(now_ms)),
                };
                apply(&mut shelf, changes.unwrap_or_default());
                // What is there is what the user expects.
                let seen: Vec<_> = shelf.live(now_ms).map(|d| (d.key.clone(), d.generation, d.expires_ms)).collect();
                let expected: Vec<_> = model.documents.iter()
                    .map(|(key, (content, _, end))| (format!("k{key}"), GenerationId::from_bytes(content.to_be_bytes()), *end))
                    .collect();
                prop_assert_eq!(seen, expected);
                prop_assert_eq!(shelf.bytes(now_ms), model.contents().values().sum::<u64>());
                prop_assert!(shelf.bytes(now_ms) <= BYTES_MAX);
                // Each generation ever written is referred to or an orphan, and not both.
                let referred: BTreeSet<_> = shelf.references().map(|document| document.generation).collect();
                for generation in &all {
                    prop_assert!(referred.contains(generation) != shelf.orphans.contains_key(generation));
                }
            }
            // When all time is over nothing is referred to.
            now_ms += TTL_S * 1_000;
            let changes = shelf.expire(now_ms);
            apply(&mut shelf, changes);
            prop_assert!(shelf.documents.is_empty() && shelf.snapshots.is_empty());
            prop_assert_eq!(shelf.orphans.len(), all.len());
        }
    }

    #[test]
    fn a_full_shelf_takes_no_new_document_and_a_new_state_of_an_old_one() {
        let mut shelf = Shelf::default();
        for number in 0..DOCUMENTS_MAX as u128 {
            let key = ContextDocumentRecord { key: format!("k{number}"), ..document(0, number, 0, 1) };
            shelf.orphans.insert(key.generation, 0);
            let changes = shelf.put(key, BYTES_MAX, 1).unwrap();
            apply(&mut shelf, changes);
        }
        let other = ContextDocumentRecord { key: "other".to_owned(), ..document(0, 9_000, 0, 1) };
        assert_eq!(shelf.put(other, BYTES_MAX, 1), Err(Refused::Documents));
        assert!(shelf.put(document(7, 9_001, 0, 1), BYTES_MAX, 1).is_ok());
    }
}

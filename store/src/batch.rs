//! A shard's changes as bytes: what the commit log carries, and all that it carries.
//!
//! ```text
//! batch  := version u8 (1) | shard u16 | count u32 | count * change
//! change := 0x01 put    | key_len u16 | value_len u32 | key | value
//!         | 0x02 delete | key_len u16 | key
//!         | 0x03 audit  | body_len u16 | body
//! ```
//! All numbers big-endian. The count makes a batch cut short at the edge of a change recognisable.
//!
//! Invariants:
//! - a batch is complete (it needs nothing but the shard's state before it), ordered (a later change to a key
//!   wins), and has the same effect wherever it is applied;
//! - changes touch keys of [`crate::key`] only, never those of the log itself: `applied` and the audit log's, to which a
//!   batch adds a body that gets its place there when it is applied ([`crate::audit`]);
//! - joining two batches of a shard is the first one's changes, then the second one's; what the first one sets anew and the
//!   second one removes for good is in neither.

use std::ops::Range;

use sluice_protocols::ids::ShardId;

use crate::audit::{AuditEvent, BODY_BYTES_MAX, is_the_logs};
use crate::key::{KEY_BYTES_MAX, Key};
use crate::record::{Record, RecordError, encode};

/// Version byte of the encoding above.
const BATCH_VERSION: u8 = 1;

/// version + shard + count.
const HEADER_BYTES: usize = 1 + 2 + 4;

const PUT: u8 = 0x01;
const DELETE: u8 = 0x02;
const AUDIT: u8 = 0x03;

/// Largest value in bytes. A session with ten turns of twenty items each stays below 256 KiB; the largest
/// record, a task with eight read steps of 64 KiB of text each, below 1 MiB. Room for two such.
pub const VALUE_BYTES_MAX: usize = 2 << 20;

/// Largest batch in bytes that the log takes, joined or not: four of the largest values.
pub const BATCH_BYTES_MAX: usize = 4 * VALUE_BYTES_MAX;

/// Largest batch in bytes that is looked through for what begins and ends in it, or a turn in which very much came for one
/// shard would look through all of it for each end. Beyond it both changes are written, which is right as well.
const LOOKED_THROUGH_BYTES_MAX: usize = 64 << 10;

const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(BODY_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(BATCH_BYTES_MAX <= u32::MAX as usize);

/// Changes to one shard that take effect together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    shard: ShardId,
    count: u32,
    bytes: Vec<u8>,
    /// Keys that were not there before this batch, see [`Self::put_new`].
    fresh: Vec<Key>,
    /// Keys that do not come again after this batch, see [`Self::delete_new`].
    gone: Vec<Key>,
}

/// One change, borrowed from an encoded batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    Put {
        key: &'a [u8],
        value: &'a [u8],
    },
    Delete {
        key: &'a [u8],
    },
    /// The body of an audit entry.
    Audit {
        body: &'a [u8],
    },
}

/// Why bytes are not a batch that may be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Written by a newer Sluice: upgrade before reading this log.
    #[error("batch encoding version {found} is not known here (this version reads {BATCH_VERSION})")]
    Version { found: u8 },
    /// The bytes end early, run on, or hold something that is no change: the log is damaged.
    #[error("batch is malformed at byte {at}: {what}")]
    Malformed { at: usize, what: &'static str },
    /// The log handed a batch to the wrong shard, or names a shard this directory does not have.
    #[error("batch is for shard {found}, not for shard {expected}")]
    Shard { found: u16, expected: u16 },
}

impl Batch {
    /// An empty batch for `shard`.
    pub fn new(shard: ShardId) -> Self {
        Self::with_capacity(shard, 512)
    }

    /// The same with room for changes of so many bytes, keys and all.
    pub fn with_capacity(shard: ShardId, capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + capacity);
        bytes.push(BATCH_VERSION);
        bytes.extend_from_slice(&shard.index().to_be_bytes());
        bytes.extend_from_slice(&0u32.to_be_bytes());
        Self { shard, count: 0, bytes, fresh: Vec::new(), gone: Vec::new() }
    }

    /// Sets `key` to `value`.
    ///
    /// # Panics
    /// When the value is longer than [`VALUE_BYTES_MAX`] or the key is the log's own: both are bounded where
    /// records are made, so either is a broken invariant.
    pub fn put(&mut self, key: &Key, value: &[u8]) -> &mut Self {
        assert!(value.len() <= VALUE_BYTES_MAX, "value of {} bytes under {key:?}", value.len());
        let value_len = u32::try_from(value.len()).expect("bounded above");
        self.begin(PUT, key);
        self.bytes.extend_from_slice(&value_len.to_be_bytes());
        self.bytes.extend_from_slice(key.as_bytes());
        self.bytes.extend_from_slice(value);
        self
    }

    /// Sets `key` to a record.
    ///
    /// # Errors
    /// [`RecordError::TooLarge`]; the batch is as it was.
    pub fn put_record<R: Record>(&mut self, key: &Key, record: &R) -> Result<&mut Self, RecordError> {
        debug_assert!(R::KINDS.contains(&key.kind()), "{key:?} leads to no {} record", R::NAME);
        let value = encode(record)?;
        Ok(self.put(key, value.as_bytes()))
    }

    /// Removes `key`; removing what is not there is no error.
    ///
    /// # Panics
    /// When the key is the log's own.
    pub fn delete(&mut self, key: &Key) -> &mut Self {
        self.begin(DELETE, key);
        self.bytes.extend_from_slice(key.as_bytes());
        self
    }

    /// Sets `key`, which has no value in the shard and never had one. When [`Self::delete_new`] removes it in a batch that is
    /// joined to this one, neither change is written, unless the batch is long: what begins and ends between two writes need
    /// not be told of to the disk.
    ///
    /// # Panics
    /// As [`Self::put`].
    pub fn put_new(&mut self, key: &Key, value: &[u8]) -> &mut Self {
        self.fresh.push(key.clone());
        self.put(key, value)
    }

    /// Removes `key`, which [`Self::put_new`] set, whenever that was.
    ///
    /// # Panics
    /// As [`Self::delete`].
    pub fn delete_new(&mut self, key: &Key) -> &mut Self {
        self.gone.push(key.clone());
        self.delete(key)
    }

    /// Adds an entry to the shard's audit log, in the same write as the other changes.
    pub fn audit(&mut self, event: &AuditEvent) -> &mut Self {
        let body = event.to_body();
        let length = u16::try_from(body.len()).expect("BODY_BYTES_MAX fits in 16 bits");
        self.count();
        self.bytes.push(AUDIT);
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(&body);
        self
    }

    fn count(&mut self) {
        self.count = self.count.checked_add(1).expect("BATCH_BYTES_MAX keeps the count far below 2^32");
    }

    fn begin(&mut self, op: u8, key: &Key) {
        assert!(!is_the_logs(key.kind()), "{:?} belongs to the commit log", key.kind());
        let key_len = u16::try_from(key.as_bytes().len()).expect("KEY_BYTES_MAX fits in 16 bits");
        self.count();
        self.bytes.push(op);
        self.bytes.extend_from_slice(&key_len.to_be_bytes());
    }

    /// Adds the changes of `later` behind those of this batch.
    ///
    /// # Errors
    /// Gives `later` back when it is for another shard or when both would exceed [`BATCH_BYTES_MAX`].
    pub fn join(&mut self, mut later: Self) -> Result<(), Self> {
        let bytes = self.bytes.len() + later.bytes.len() - HEADER_BYTES;
        if later.shard != self.shard || bytes > BATCH_BYTES_MAX {
            return Err(later);
        }
        for key in std::mem::take(&mut later.gone) {
            self.leave_out(&mut later, &key);
        }
        self.fresh.append(&mut later.fresh);
        self.count =
            self.count.checked_add(later.count).expect("BATCH_BYTES_MAX keeps the count far below 2^32");
        self.bytes.extend_from_slice(&later.bytes[HEADER_BYTES..]);
        Ok(())
    }

    /// Takes a key out of both batches that this one sets anew and the other removes, when they say nothing else of it and
    /// are not too long to tell.
    fn leave_out(&mut self, later: &mut Self, key: &Key) {
        if self.bytes.len().max(later.bytes.len()) > LOOKED_THROUGH_BYTES_MAX {
            return;
        }
        let Some(place) = self.fresh.iter().position(|fresh| fresh == key) else { return };
        if let (Some(put), Some(delete)) = (self.only_change_of(key), later.only_change_of(key)) {
            self.fresh.swap_remove(place);
            self.remove(put);
            later.remove(delete);
        }
    }

    /// Where a key's change stands; `None` when there is none, or more than one.
    fn only_change_of(&self, key: &Key) -> Option<Range<usize>> {
        let mut reader = Reader { bytes: &self.bytes, at: HEADER_BYTES };
        let mut found = None;
        while reader.at < self.bytes.len() {
            let start = reader.at;
            let is_its = match reader.change().expect("changes that were added here can be read") {
                Change::Put { key: of, .. } | Change::Delete { key: of } => of == key.as_bytes(),
                Change::Audit { .. } => false,
            };
            if is_its && found.replace(start..reader.at).is_some() {
                return None;
            }
        }
        found
    }

    fn remove(&mut self, change: Range<usize>) {
        self.bytes.drain(change);
        self.count -= 1;
    }

    /// The shard all changes are for.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Size of the encoding in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The encoding, finished.
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.bytes[3..HEADER_BYTES].copy_from_slice(&self.count.to_be_bytes());
        self.bytes
    }
}

/// Calls `apply` with every change of an encoded batch, in order, after checking that it is for `shard`.
/// Nothing may be kept of what `apply` did when this returns an error.
///
/// # Errors
/// [`BatchError`] when the bytes are not exactly one batch of that shard.
pub fn read_batch<'a>(
    bytes: &'a [u8],
    shard: ShardId,
    mut apply: impl FnMut(Change<'a>),
) -> Result<(), BatchError> {
    let mut reader = Reader { bytes, at: 0 };
    let version = reader.u8()?;
    if version != BATCH_VERSION {
        return Err(BatchError::Version { found: version });
    }
    let found = reader.u16()?;
    if found != shard.index() {
        return Err(BatchError::Shard { found, expected: shard.index() });
    }
    for _ in 0..reader.u32()? {
        apply(reader.change()?);
    }
    if reader.at == bytes.len() { Ok(()) } else { Err(reader.malformed("bytes behind the last change")) }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn malformed(&self, what: &'static str) -> BatchError {
        BatchError::Malformed { at: self.at, what }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], BatchError> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| self.malformed("ends early"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BatchError> {
        self.take(N).map(|bytes| bytes.try_into().expect("take gives what was asked for"))
    }

    fn u8(&mut self) -> Result<u8, BatchError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, BatchError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, BatchError> {
        self.array().map(u32::from_be_bytes)
    }

    fn key(&mut self, count: usize) -> Result<&'a [u8], BatchError> {
        let at = self.at;
        let key = self.take(count)?;
        match Key::from_bytes(key) {
            Ok(valid) if !is_the_logs(valid.kind()) => Ok(key),
            Ok(_) => Err(BatchError::Malformed { at, what: "names the log's own key" }),
            Err(_) => Err(BatchError::Malformed { at, what: "not a key" }),
        }
    }

    fn change(&mut self) -> Result<Change<'a>, BatchError> {
        match self.u8()? {
            PUT => {
                let key_len = usize::from(self.u16()?);
                let value_len = self.u32()? as usize;
                if value_len > VALUE_BYTES_MAX {
                    return Err(self.malformed("value too long"));
                }
                Ok(Change::Put { key: self.key(key_len)?, value: self.take(value_len)? })
            }
            DELETE => {
                let key_len = usize::from(self.u16()?);
                Ok(Change::Delete { key: self.key(key_len)? })
            }
            AUDIT => {
                let length = usize::from(self.u16()?);
                let at = self.at;
                let body = self.take(length)?;
                match AuditEvent::from_body(body) {
                    Some(_) => Ok(Change::Audit { body }),
                    None => Err(BatchError::Malformed { at, what: "not an audit entry" }),
                }
            }
            _ => {
                self.at -= 1;
                Err(self.malformed("not a change"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sluice_protocols::ids::{SessionId, ShardCount, UserId};

    fn shard(index: u16) -> ShardId {
        ShardId::new(index, ShardCount::new(16).unwrap()).unwrap()
    }

    fn key(byte: u8) -> Key {
        Key::session(&UserId::from_bytes([byte; 16]), &SessionId::from_bytes([byte; 16]))
    }

    type Owned = (Vec<u8>, Option<Vec<u8>>);

    fn read(bytes: &[u8], shard: ShardId) -> Result<Vec<Owned>, BatchError> {
        let mut changes = Vec::new();
        read_batch(bytes, shard, |change| {
            changes.push(match change {
                Change::Put { key, value } => (key.to_vec(), Some(value.to_vec())),
                Change::Delete { key } => (key.to_vec(), None),
                Change::Audit { body } => (Vec::new(), Some(body.to_vec())),
            });
        })?;
        Ok(changes)
    }

    fn batch_of(shard: ShardId, changes: &[(u8, Option<Vec<u8>>)]) -> Batch {
        let mut batch = Batch::new(shard);
        for (byte, value) in changes {
            match value {
                Some(value) => batch.put(&key(*byte), value),
                None => batch.delete(&key(*byte)),
            };
        }
        batch
    }

    #[test]
    fn the_encoding_is_the_one_drawn() {
        let user = UserId::from_bytes([0xaa; 16]);
        let mut batch = Batch::new(shard(3));
        batch.put(&Key::user(&user), b"hi").delete(&Key::user(&user));
        let mut expected = vec![1, 0, 3, 0, 0, 0, 2, 0x01, 0, 17, 0, 0, 0, 2, 0x01];
        expected.extend([0xaa; 16]);
        expected.extend(*b"hi");
        expected.extend([0x02, 0, 17, 0x01]);
        expected.extend([0xaa; 16]);
        assert_eq!(batch.into_bytes(), expected);
    }

    #[test]
    fn what_begins_and_ends_in_joined_batches_is_not_written() {
        let mut batch = Batch::new(shard(3));
        batch.put_new(&key(1), b"begun").put(&key(2), b"stays");
        let before = batch.len();
        let mut end = Batch::new(shard(3));
        end.delete_new(&key(1)).put(&key(3), b"ended");
        batch.join(end).unwrap();
        assert_eq!((before, batch.len()), (2, 2));
        let changes = read(&batch.into_bytes(), shard(3)).unwrap();
        let of = |byte, value: &[u8]| (key(byte).as_bytes().to_vec(), Some(value.to_vec()));
        assert_eq!(changes, [of(2, b"stays"), of(3, b"ended")]);
    }

    #[test]
    fn the_end_of_what_is_on_disk_is_written() {
        let ended = |begun: &Batch| {
            let (mut batch, mut end) = (begun.clone(), Batch::new(shard(3)));
            end.delete_new(&key(1));
            batch.join(end).unwrap();
            read(&batch.into_bytes(), shard(3)).unwrap().last().cloned()
        };
        let delete = Some((key(1).as_bytes().to_vec(), None));
        let mut batch = Batch::new(shard(3));
        assert_eq!(ended(batch.put_new(&key(1), b"x")), None);
        assert_eq!(ended(batch.put(&key(1), b"changed since")), delete);
        assert_eq!(ended(Batch::new(shard(3)).put(&key(1), b"without a word of its being new")), delete);
        assert_eq!(ended(Batch::new(shard(3)).put_new(&key(2), b"begun in an earlier write")), delete);
        let long = vec![0; LOOKED_THROUGH_BYTES_MAX];
        assert_eq!(ended(Batch::new(shard(3)).put_new(&key(1), b"x").put(&key(2), &long)), delete);
    }

    #[test]
    fn a_batch_of_another_shard_or_version_is_refused() {
        let mut bytes = batch_of(shard(3), &[(1, None)]).into_bytes();
        assert_eq!(read(&bytes, shard(4)), Err(BatchError::Shard { found: 3, expected: 4 }));
        bytes[0] = 2;
        assert_eq!(read(&bytes, shard(3)), Err(BatchError::Version { found: 2 }));
    }

    #[test]
    fn a_batch_that_names_the_logs_own_key_is_refused() {
        for key in [Key::applied(), Key::audit_head(), Key::audit_entry(1)] {
            let length = u8::try_from(key.as_bytes().len()).unwrap();
            let bytes = [&[1, 0, 3, 0, 0, 0, 1, DELETE, 0, length], key.as_bytes()].concat();
            assert!(matches!(read(&bytes, shard(3)), Err(BatchError::Malformed { .. })), "{key:?}");
        }
    }

    #[test]
    #[should_panic(expected = "belongs to the commit log")]
    fn putting_the_logs_own_key_is_a_broken_invariant() {
        Batch::new(shard(0)).put(&Key::applied(), b"");
    }

    #[test]
    #[should_panic(expected = "belongs to the commit log")]
    fn removing_an_audit_entry_is_a_broken_invariant() {
        Batch::new(shard(0)).delete(&Key::audit_entry(1));
    }

    #[test]
    fn an_audit_entry_that_cannot_be_read_is_refused() {
        let mut batch = Batch::new(shard(3));
        batch.audit(&AuditEvent::default());
        let mut bytes = batch.into_bytes();
        assert_eq!(read(&bytes, shard(3)).unwrap(), [(vec![], Some(AuditEvent::default().to_body()))]);
        *bytes.last_mut().unwrap() = 1;
        assert!(matches!(
            read(&bytes, shard(3)),
            Err(BatchError::Malformed { what: "not an audit entry", .. })
        ));
    }

    #[test]
    fn batches_of_different_shards_do_not_join_and_come_back() {
        let later = batch_of(shard(2), &[(1, None)]);
        assert_eq!(Batch::new(shard(1)).join(later.clone()), Err(later));
    }

    #[test]
    fn joining_stops_at_the_stated_maximum() {
        let large = batch_of(shard(1), &[(1, Some(vec![0; VALUE_BYTES_MAX]))]);
        let mut batch = Batch::new(shard(1));
        let joined = (0..5).take_while(|_| batch.join(large.clone()).is_ok()).count();
        assert_eq!(joined, 3);
        assert!(batch.size() <= BATCH_BYTES_MAX);
    }

    fn changes() -> impl Strategy<Value = Vec<(u8, Option<Vec<u8>>)>> {
        let value = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200));
        proptest::collection::vec((any::<u8>(), value), 0..20)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_in_order(first in changes(), second in changes()) {
            let mut batch = batch_of(shard(5), &first);
            batch.join(batch_of(shard(5), &second)).unwrap();
            let expected: Vec<Owned> =
                first.into_iter().chain(second).map(|(k, v)| (key(k).as_bytes().to_vec(), v)).collect();
            prop_assert_eq!(read(&batch.into_bytes(), shard(5)).unwrap(), expected);
        }

        #[test]
        fn a_batch_cut_anywhere_is_refused(changes in changes(), cut in any::<proptest::sample::Index>()) {
            let bytes = batch_of(shard(5), &changes).into_bytes();
            let cut = cut.index(bytes.len());
            prop_assert!(read(&bytes[..cut], shard(5)).is_err());
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let [version, high, low, ..] = bytes.as_mut_slice() {
                (*version, *high, *low) = (1, 0, 5);
            }
            let _ = read(&bytes, shard(5));
        }
    }
}

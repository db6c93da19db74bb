//! The audit log: who did what, in one chain of hashes a shard.
//!
//! ```text
//! body      := at_ms u64 | 6 * (length u16 | UTF-8): actor, act, object, outcome, address, request
//! canonical := version u8 (1) | shard u16 | sequence u64 | body
//! hash      := SHA-256(hash of the entry before, 32 zeros for the first | canonical)
//! entry     := hash[32] | canonical           under key 0x17 | sequence u64
//! head      := hash[32] | sequence u64        under key 0x18, of the last entry
//! ```
//! All numbers big-endian. These are bytes and no rkyv records since the very bytes are what is hashed, and whoever checks
//! an export must be able to make them without us.
//!
//! A batch carries a body alone ([`crate::Batch::audit`]). Number and hash are given where the order of a shard's batches is
//! fixed and applied: by the commit log ([`crate::writer`]), in the same write as the changes the entry tells of. So whoever
//! writes to a shard, its core or administration from another thread, adds to the same chain, and nobody can fork it; and
//! a log that is applied elsewhere makes the same chain there.
//!
//! Invariants:
//! - the entries of a shard are numbered 1, 2, 3, ... without a gap, and the head names the last;
//! - both kinds of key belong to the log: a batch that puts or deletes one is refused.

mod read;

pub use read::{AUDIT_PAGE_MAX, AuditPage, AuditProof, AuditReadError, page, verify};

use sha2::{Digest, Sha256};
use sluice_protocols::ids::ShardId;

use crate::key::{Key, Kind};

const VERSION: u8 = 1;
const HASH_BYTES: usize = 32;
/// version + shard + sequence.
const PREFIX_BYTES: usize = 1 + 2 + 8;
/// Texts of an entry.
const TEXTS: usize = 6;

/// Longest text of an entry in bytes; what is longer is cut, for an act is not to fail for its being told.
pub const AUDIT_TEXT_BYTES_MAX: usize = 256;

/// Longest body in bytes.
pub(crate) const BODY_BYTES_MAX: usize = 8 + TEXTS * (2 + AUDIT_TEXT_BYTES_MAX);

/// What is told of an act, before it has its place in a chain. Never a secret: no key, token, password or content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditEvent {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Who.
    pub actor: String,
    /// Did what.
    pub act: String,
    /// To what or whom.
    pub object: String,
    /// With which outcome.
    pub outcome: String,
    /// From which address; empty when there is none.
    pub address: String,
    /// By which request; empty when there is none.
    pub request: String,
}

/// Where in a shard's chain something stands: 1 is the first, 0 before it.
pub type AuditSequence = u64;

/// The end of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditHead {
    /// Number of the last entry; 0 when there is none.
    pub sequence: AuditSequence,
    /// Its hash; zeros when there is none.
    pub hash: [u8; HASH_BYTES],
}

/// An entry of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its number in its shard.
    pub sequence: AuditSequence,
    /// Over the entry before and this one.
    pub hash: [u8; HASH_BYTES],
    /// What was told.
    pub event: AuditEvent,
}

/// What is wrong with a chain. The first fault is told; what comes behind it proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditFault {
    /// An entry was removed, or entries were reordered.
    #[error("entry {sequence} is missing")]
    Missing { sequence: AuditSequence },
    /// An entry was changed, replaced or put in.
    #[error(
        "entry {sequence} is not what was written: its hash does not follow from it and the entry before"
    )]
    Changed { sequence: AuditSequence },
    /// The bytes are no entry.
    #[error("entry {sequence} cannot be read")]
    Unreadable { sequence: AuditSequence },
    /// Entries at the end were removed.
    #[error("the chain ends with entry {found}, but had {expected}")]
    Truncated { found: AuditSequence, expected: AuditSequence },
    /// The record of the chain's end is not that of its last entry.
    #[error("entry {sequence} is the last, but the head record names another end")]
    Head { sequence: AuditSequence },
    /// The chain was made anew from this entry on, or before it.
    #[error("entry {sequence} is not the one that the anchor names: the chain was written anew")]
    Anchor { sequence: AuditSequence },
}

impl AuditEvent {
    fn texts(&self) -> [&str; TEXTS] {
        [&self.actor, &self.act, &self.object, &self.outcome, &self.address, &self.request]
    }

    pub(crate) fn to_body(&self) -> Vec<u8> {
        let mut body = self.at_ms.to_be_bytes().to_vec();
        for text in self.texts() {
            let text = &text[..text.floor_char_boundary(AUDIT_TEXT_BYTES_MAX)];
            let length = u16::try_from(text.len()).expect("cut above");
            body.extend_from_slice(&length.to_be_bytes());
            body.extend_from_slice(text.as_bytes());
        }
        body
    }

    pub(crate) fn from_body(body: &[u8]) -> Option<Self> {
        let (at_ms, mut rest) = body.split_first_chunk::<8>()?;
        let mut next = || {
            let (length, behind) = rest.split_first_chunk::<2>()?;
            let length = usize::from(u16::from_be_bytes(*length));
            let text = behind.get(..length).filter(|_| length <= AUDIT_TEXT_BYTES_MAX)?;
            rest = &behind[length..];
            Some(std::str::from_utf8(text).ok()?.to_owned())
        };
        let event = Self {
            at_ms: u64::from_be_bytes(*at_ms),
            actor: next()?,
            act: next()?,
            object: next()?,
            outcome: next()?,
            address: next()?,
            request: next()?,
        };
        rest.is_empty().then_some(event)
    }
}

impl AuditHead {
    /// The head after one more entry, and that entry's key and value.
    pub(crate) fn append(&self, shard: ShardId, body: &[u8]) -> (Self, Key, Vec<u8>) {
        let sequence = self.sequence.checked_add(1).expect("a shard does not see 2^64 entries");
        let mut value = vec![0; HASH_BYTES];
        value.push(VERSION);
        value.extend_from_slice(&shard.index().to_be_bytes());
        value.extend_from_slice(&sequence.to_be_bytes());
        value.extend_from_slice(body);
        let hash = chained(&self.hash, &value[HASH_BYTES..]);
        value[..HASH_BYTES].copy_from_slice(&hash);
        (Self { sequence, hash }, Key::audit_entry(sequence), value)
    }

    pub(crate) fn to_value(self) -> [u8; HASH_BYTES + 8] {
        let mut value = [0; HASH_BYTES + 8];
        value[..HASH_BYTES].copy_from_slice(&self.hash);
        value[HASH_BYTES..].copy_from_slice(&self.sequence.to_be_bytes());
        value
    }

    /// The head that a value says; `None` when it says none.
    pub fn from_value(value: &[u8]) -> Option<Self> {
        let (hash, sequence) = value.split_first_chunk::<HASH_BYTES>()?;
        Some(Self { hash: *hash, sequence: u64::from_be_bytes(sequence.try_into().ok()?) })
    }
}

fn chained(before: &[u8; HASH_BYTES], canonical: &[u8]) -> [u8; HASH_BYTES] {
    let mut hasher = Sha256::new();
    hasher.update(before);
    hasher.update(canonical);
    hasher.finalize().into()
}

/// A walk along a shard's chain, from its first entry on, that proves each.
#[derive(Clone, Debug)]
pub struct AuditWalk {
    shard: ShardId,
    head: AuditHead,
}

impl AuditWalk {
    /// Before the first entry.
    pub fn new(shard: ShardId) -> Self {
        Self { shard, head: AuditHead::default() }
    }

    /// Takes the next row of the shard's entries, in the order of their keys.
    ///
    /// # Errors
    /// What is wrong with it; the walk is over then.
    pub fn step(&mut self, key: &Key, value: &[u8]) -> Result<AuditEntry, AuditFault> {
        let sequence = self.head.sequence + 1;
        match key.audit_sequence() {
            Some(found) if found == sequence => {}
            Some(_) => return Err(AuditFault::Missing { sequence }),
            None => return Err(AuditFault::Unreadable { sequence }),
        }
        let entry = read_entry(value).ok_or(AuditFault::Unreadable { sequence })?;
        let canonical = &value[HASH_BYTES..];
        let is_in_place = canonical[1..3] == self.shard.index().to_be_bytes() && entry.sequence == sequence;
        if !is_in_place || entry.hash != chained(&self.head.hash, canonical) {
            return Err(AuditFault::Changed { sequence });
        }
        self.head = AuditHead { sequence, hash: entry.hash };
        Ok(entry)
    }

    /// How far the walk has come.
    pub fn head(&self) -> AuditHead {
        self.head
    }

    /// All rows were taken: whether the head record tells the same end.
    ///
    /// # Errors
    /// [`AuditFault::Truncated`], [`AuditFault::Head`].
    pub fn end(&self, head: AuditHead) -> Result<(), AuditFault> {
        let (found, expected) = (self.head.sequence, head.sequence);
        if found < expected {
            return Err(AuditFault::Truncated { found, expected });
        }
        if self.head != head {
            return Err(AuditFault::Head { sequence: found });
        }
        Ok(())
    }
}

/// An entry from its value, without its proof; `None` when it is no entry.
pub fn read_entry(value: &[u8]) -> Option<AuditEntry> {
    let (hash, canonical) = value.split_first_chunk::<HASH_BYTES>()?;
    let (prefix, body) = canonical.split_first_chunk::<PREFIX_BYTES>()?;
    if prefix[0] != VERSION {
        return None;
    }
    let sequence = u64::from_be_bytes(prefix[3..].try_into().expect("eight bytes"));
    Some(AuditEntry { sequence, hash: *hash, event: AuditEvent::from_body(body)? })
}

/// Whether a key of this kind is written by the log alone.
pub(crate) fn is_the_logs(kind: Kind) -> bool {
    matches!(kind, Kind::Applied | Kind::AuditEntry | Kind::AuditHead)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;
    use sluice_protocols::ids::ShardCount;

    use super::*;

    fn shard(index: u16) -> ShardId {
        ShardId::new(index, ShardCount::new(16).unwrap()).unwrap()
    }

    fn event(number: u64) -> AuditEvent {
        let text = |name: &str| format!("{name} {number}");
        AuditEvent {
            at_ms: number,
            actor: text("actor"),
            act: text("act"),
            object: text("object"),
            outcome: "done".to_owned(),
            address: String::new(),
            request: text("request"),
        }
    }

    type Rows = Vec<(Key, Vec<u8>)>;

    fn chain(shard: ShardId, events: u64) -> (Rows, AuditHead) {
        let mut head = AuditHead::default();
        let rows = (1..=events).map(|number| {
            let (next, key, value) = head.append(shard, &event(number).to_body());
            head = next;
            (key, value)
        });
        (rows.collect(), head)
    }

    /// Walks rows as the store gives them: in the order of their keys.
    fn verify(shard: ShardId, rows: &[(Key, Vec<u8>)], head: AuditHead) -> Result<u64, AuditFault> {
        let mut walk = AuditWalk::new(shard);
        for (key, value) in rows {
            walk.step(key, value)?;
        }
        walk.end(head).map(|()| walk.head().sequence)
    }

    #[test]
    fn the_hash_is_the_one_drawn() {
        let event = AuditEvent { at_ms: 1, actor: "a".to_owned(), ..AuditEvent::default() };
        let (head, key, value) = AuditHead::default().append(shard(3), &event.to_body());
        let mut canonical = vec![1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1];
        canonical.extend([0, 0, 0, 0, 0, 0, 0, 1, 0, 1, b'a', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let hash: [u8; 32] = Sha256::digest([&[0; 32][..], &canonical].concat()).into();
        assert_eq!(head, AuditHead { sequence: 1, hash });
        assert_eq!(key.as_bytes(), [0x17, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(value, [&hash[..], &canonical].concat());
        assert_eq!(AuditHead::from_value(&head.to_value()), Some(head));
    }

    #[test]
    fn a_whole_chain_is_proved_and_an_empty_one_too() {
        let (rows, head) = chain(shard(1), 5);
        assert_eq!(verify(shard(1), &rows, head), Ok(5));
        assert_eq!(verify(shard(1), &[], AuditHead::default()), Ok(0));
    }

    #[test]
    fn a_chain_cut_at_its_end_is_found_by_its_head() {
        let (rows, head) = chain(shard(1), 5);
        assert_eq!(verify(shard(1), &rows[..3], head), Err(AuditFault::Truncated { found: 3, expected: 5 }));
        let (_, shorter) = chain(shard(1), 4);
        assert_eq!(verify(shard(1), &rows, shorter), Err(AuditFault::Head { sequence: 5 }));
    }

    #[test]
    fn a_chain_of_another_shard_is_refused() {
        let (rows, head) = chain(shard(1), 2);
        assert_eq!(verify(shard(2), &rows, head), Err(AuditFault::Changed { sequence: 1 }));
    }

    #[test]
    fn texts_are_cut_and_not_refused() {
        let long = AuditEvent { object: "ä".repeat(AUDIT_TEXT_BYTES_MAX), ..event(1) };
        let body = long.to_body();
        assert!(body.len() <= BODY_BYTES_MAX);
        assert_eq!(AuditEvent::from_body(&body).unwrap().object, "ä".repeat(AUDIT_TEXT_BYTES_MAX / 2));
    }

    /// What somebody does to the rows of a chain.
    #[derive(Clone, Debug)]
    enum Tampering {
        Change { entry: Index, byte: Index, bit: u8 },
        Remove { entry: Index },
        Swap { entry: Index, other: Index },
        Insert { entry: Index, other: Index },
        Cut { entry: Index },
    }

    fn tampering() -> impl Strategy<Value = Tampering> {
        let index = any::<Index>;
        prop_oneof![
            (index(), index(), 0..8u8).prop_map(|(entry, byte, bit)| Tampering::Change { entry, byte, bit }),
            index().prop_map(|entry| Tampering::Remove { entry }),
            (index(), index()).prop_map(|(entry, other)| Tampering::Swap { entry, other }),
            (index(), index()).prop_map(|(entry, other)| Tampering::Insert { entry, other }),
            index().prop_map(|entry| Tampering::Cut { entry }),
        ]
    }

    /// Does it, keeping keys in order as a store does, and tells the number of the first entry that is not as it was;
    /// `None` when nothing is changed by it.
    fn tamper(rows: &mut Rows, what: &Tampering) -> Option<u64> {
        let before = rows.clone();
        let length = rows.len();
        match what {
            Tampering::Change { entry, byte, bit } => {
                let value = &mut rows[entry.index(length)].1;
                let at = byte.index(value.len());
                value[at] ^= 1 << bit;
            }
            Tampering::Remove { entry } => {
                rows.remove(entry.index(length));
            }
            Tampering::Swap { entry, other } => {
                let (one, two) = (entry.index(length), other.index(length));
                let value = rows[one].1.clone();
                rows[one].1 = std::mem::replace(&mut rows[two].1, value);
            }
            // Every later entry moves on by one.
            Tampering::Insert { entry, other } => {
                let value = rows[other.index(length)].1.clone();
                let mut values: Vec<_> = rows.iter().map(|row| row.1.clone()).collect();
                values.insert(entry.index(length), value);
                *rows = (1..).map(Key::audit_entry).zip(values).collect();
            }
            Tampering::Cut { entry } => rows.truncate(entry.index(length)),
        }
        let differs = (0..).zip(rows.iter()).find(|(at, row)| before.get(*at) != Some(row)).map(|(at, _)| at);
        let first = differs.or_else(|| (rows.len() < length).then_some(rows.len()));
        first.map(|at| at as u64 + 1)
    }

    proptest! {
        #[test]
        fn whatever_is_done_to_a_chain_is_found_where_it_was_done(events in 1..20u64, what in tampering()) {
            let (mut rows, head) = chain(shard(7), events);
            match tamper(&mut rows, &what) {
                None => prop_assert_eq!(verify(shard(7), &rows, head), Ok(events)),
                Some(first) => {
                    let found = match verify(shard(7), &rows, head).expect_err("it is found") {
                        AuditFault::Missing { sequence }
                        | AuditFault::Changed { sequence }
                        | AuditFault::Unreadable { sequence }
                        | AuditFault::Head { sequence }
                        | AuditFault::Anchor { sequence } => sequence,
                        AuditFault::Truncated { found, .. } => found + 1,
                    };
                    prop_assert_eq!(found, first);
                }
            }
        }

        #[test]
        fn events_survive_being_written(at_ms in any::<u64>(), texts in proptest::array::uniform6("\\PC{0,60}")) {
            let [actor, act, object, outcome, address, request] = texts;
            let event = AuditEvent { at_ms, actor, act, object, outcome, address, request };
            prop_assume!(event.texts().iter().all(|text| text.len() <= AUDIT_TEXT_BYTES_MAX));
            prop_assert_eq!(AuditEvent::from_body(&event.to_body()), Some(event));
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = read_entry(&bytes);
            let _ = AuditEvent::from_body(&bytes);
            let _ = AuditWalk::new(shard(0)).step(&Key::audit_entry(1), &bytes);
        }
    }
}

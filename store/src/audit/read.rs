//! Reading and proving the audit log. For ordinary threads; everything here blocks.

use sluice_protocols::ids::ShardId;

use super::{AuditEntry, AuditFault, AuditHead, AuditWalk, read_entry};
use crate::database::ReadError;
use crate::key::KeyRange;
use crate::store::Store;

/// Entries read at once: some 150 bytes each, 1.6 KB at most.
pub const AUDIT_PAGE_MAX: usize = 500;
/// How often the end of a chain that is being written to is looked at anew.
const ENDS_LOOKED_AT_MAX: usize = 100;

/// Why the log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum AuditReadError {
    /// The store could not be read; see its message.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An entry is damaged; `sluice audit verify` tells where the chain breaks first.
    #[error("the audit log of shard {shard}: {fault}")]
    Fault {
        /// Which chain.
        shard: ShardId,
        /// What is wrong.
        fault: AuditFault,
    },
}

/// Some entries of a shard, oldest first.
#[derive(Clone, Debug)]
pub struct AuditPage {
    /// At most [`AUDIT_PAGE_MAX`].
    pub entries: Vec<AuditEntry>,
    /// Whether there were no more when it was read.
    pub is_last: bool,
}

/// The entries of a shard behind the one numbered `after`.
///
/// # Errors
/// [`AuditReadError`].
pub fn page(store: &Store, shard: ShardId, after: u64) -> Result<AuditPage, AuditReadError> {
    let page = store.scan_blocking(shard, KeyRange::audit_after(after), AUDIT_PAGE_MAX, false)?;
    let entries = page.rows.iter().map(|(key, value)| {
        let sequence = key.audit_sequence().unwrap_or_default();
        let fault = AuditFault::Unreadable { sequence };
        read_entry(value.as_bytes()).ok_or(AuditReadError::Fault { shard, fault })
    });
    Ok(AuditPage { entries: entries.collect::<Result<_, _>>()?, is_last: page.next.is_none() })
}

/// What came of proving a shard's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditProof {
    /// How far the chain is whole.
    pub head: AuditHead,
    /// The first thing that is wrong.
    pub fault: Option<AuditFault>,
}

/// Walks a shard's chain from its first entry to its end, also while it is written to. `anchors` are ends that the chain
/// had before, kept elsewhere: it must still pass through them.
///
/// # Errors
/// [`ReadError`]: nothing is proved then.
pub fn verify(store: &Store, shard: ShardId, anchors: &[AuditHead]) -> Result<AuditProof, ReadError> {
    let mut walk = AuditWalk::new(shard);
    let mut anchors = Anchors::new(anchors);
    let mut fault = None;
    for _ in 0..ENDS_LOOKED_AT_MAX {
        // First the end, then the entries: those up to it must be there.
        let head = store.audit_head_blocking(shard)?;
        fault = walk_on(store, shard, &mut walk, &mut anchors)?;
        if fault.is_none() {
            fault = walk.end(head).err();
        }
        // Only entries that came in between may be beyond the end that was read.
        if !matches!(fault, Some(AuditFault::Head { .. })) || walk.head().sequence == head.sequence {
            break;
        }
    }
    let fault = fault.or_else(|| anchors.left(walk.head().sequence));
    Ok(AuditProof { head: walk.head(), fault })
}

fn walk_on(
    store: &Store,
    shard: ShardId,
    walk: &mut AuditWalk,
    anchors: &mut Anchors,
) -> Result<Option<AuditFault>, ReadError> {
    let mut next = Some(KeyRange::audit_after(walk.head().sequence));
    while let Some(range) = next.take() {
        let page = store.scan_blocking(shard, range, AUDIT_PAGE_MAX, false)?;
        for (key, value) in &page.rows {
            let stepped = walk.step(key, value.as_bytes()).map(drop).and_then(|()| anchors.pass(walk.head()));
            if let Err(fault) = stepped {
                return Ok(Some(fault));
            }
        }
        next = page.next;
    }
    Ok(None)
}

/// Ends to pass through, the nearest last.
struct Anchors(Vec<AuditHead>);

impl Anchors {
    fn new(anchors: &[AuditHead]) -> Self {
        let mut anchors = anchors.to_vec();
        anchors.retain(|anchor| anchor.sequence > 0);
        anchors.sort_by_key(|anchor| std::cmp::Reverse(anchor.sequence));
        Self(anchors)
    }

    fn pass(&mut self, head: AuditHead) -> Result<(), AuditFault> {
        while self.0.last().is_some_and(|anchor| anchor.sequence == head.sequence) {
            if self.0.pop().is_some_and(|anchor| anchor.hash != head.hash) {
                return Err(AuditFault::Anchor { sequence: head.sequence });
            }
        }
        Ok(())
    }

    /// The chain ended before one of them.
    fn left(&self, found: u64) -> Option<AuditFault> {
        self.0.first().map(|anchor| AuditFault::Truncated { found, expected: anchor.sequence })
    }
}

//! Sessions that their users begin without a command, and the list of a user's sessions.
//!
//! A user has at most [`SESSIONS_MAX`] sessions that are not over before they may begin another; a command that names none
//! begins one only where there is none. So all of a user's sessions are read by a bounded scan.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use bytes::Bytes;
use sluice_protocols::api::SessionSummary;
use sluice_protocols::ids::SessionId;
use sluice_store::record::{Loaded, RecordError, SessionRecord};
use sluice_store::{Batch, CommitError, Key, KeyRange, Kind, ReadError, Session};

use super::{Sessions, expires_ms, fresh, json, remove};
use crate::auth::Principal;
use crate::clock::timestamp_of;
use crate::mint::session_began_ms;
use crate::tasks::queue::LaneId;

/// The most sessions of a user that are not over; beyond them none is begun on its own.
pub(crate) const SESSIONS_MAX: usize = 100;
/// Records read at once.
const PAGE_ROWS: usize = 128;
/// The most records looked at: those that are not over, and those that expired and were not removed yet, which each look
/// removes.
const ROWS_MAX: usize = 4 * SESSIONS_MAX;

/// Why a session was not begun.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BeginError {
    /// End one first.
    #[error("you have {SESSIONS_MAX} sessions; end one first")]
    TooMany,
    /// The store could not tell how many there are: try again.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It was not written: try again.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A fault of ours.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl Sessions {
    /// Begins a session, durably; the user's commands that name none go on with it. Gives its JSON.
    pub(crate) async fn begin(&self, who: &Principal) -> Result<(SessionId, Bytes), BeginError> {
        let _turn = self.beginning.take(who.user).await;
        if self.living(who).await?.len() >= SESSIONS_MAX {
            self.metrics.sessions_refused.add(1);
            return Err(BeginError::TooMany);
        }
        let session = self.mint.session(self.clock.unix_ms());
        let lane = LaneId { user: who.user, session };
        let record = Loaded::of(&fresh(lane, session_began_ms(&session)))?;
        let mut batch = Batch::new(who.shard);
        batch.put(&Key::session(&lane.user, &session), record.as_bytes());
        self.store.commit(batch).await?;
        self.metrics.sessions_created.add(1);
        let live = Session::new(record, [])?;
        let json = json::of(&live);
        self.keep(live);
        self.remember(who.user, session);
        Ok((session, json))
    }

    /// A user's sessions that are not over, newest first. Those that are over and have no task are removed on the way.
    pub(crate) async fn living(&self, who: &Principal) -> Result<Vec<SessionSummary>, ReadError> {
        let mut found = BTreeMap::new();
        let mut next = Some(KeyRange::of_user(Kind::Session, &who.user));
        let (mut removed, mut looked_at) = (Batch::new(who.shard), 0);
        while let Some(range) = next.take() {
            let page = self.store.scan(who.shard, range, PAGE_ROWS, true).await?;
            let now_ms = self.clock.unix_ms();
            for (key, value) in page.rows {
                looked_at += 1;
                let Some(session) = key.session_id() else { continue };
                // A damaged one is passed over; its bytes are kept in quarantine.
                let Ok(record) = self.store.validate::<SessionRecord>(who.shard, &key, value) else {
                    continue;
                };
                let (lane, record) = (LaneId { user: who.user, session }, record.get());
                if record.expires_ms.to_native() > now_ms {
                    let commands = record.next_turn.to_native().saturating_sub(1);
                    found.insert(Reverse(session), summary(session, record.expires_ms.to_native(), commands));
                } else if !self.queue.borrow().has_lane(lane) {
                    remove(&mut removed, lane, record.next_turn.to_native());
                }
            }
            next = page.next.filter(|_| looked_at < ROWS_MAX);
        }
        if !removed.is_empty() {
            // Nobody waits: what is not removed now is found again next time.
            drop(self.store.commit(removed));
        }
        let (queue, now_ms) = (self.queue.borrow(), self.clock.unix_ms());
        // One that was ended meanwhile is gone at once; one whose first command is on its way has no record yet.
        found.retain(|Reverse(session), _| !queue.is_ended(LaneId { user: who.user, session: *session }));
        for session in queue.sessions(&who.user) {
            let expires_ms = expires_ms(session_began_ms(&session));
            if expires_ms > now_ms {
                found.entry(Reverse(session)).or_insert_with(|| summary(session, expires_ms, 0));
            }
        }
        Ok(found.into_values().collect())
    }
}

fn summary(id: SessionId, expires_ms: u64, commands: u32) -> SessionSummary {
    let created = timestamp_of(session_began_ms(&id));
    SessionSummary { id, created, expires: timestamp_of(expires_ms), commands }
}

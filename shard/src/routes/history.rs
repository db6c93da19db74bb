//! `GET /api/v1/history`: past commands, newest first.
//!
//! Entries lie by month and moment, so a span of time is one run of keys that begins in the newest month asked for and
//! goes back to the oldest: no other month is touched, and months without entries cost nothing.
//!
//! Invariants: one page looks at no more than [`ROWS_MAX`] entries and holds no more than [`PAGE_BYTES_MAX`] bytes of
//! text beside its last entry; where it stopped short of the end there is a cursor.

use sluice_protocols::api::{HistoryEntryView, HistoryQuery, HistoryView, ListQuery};
use sluice_protocols::http::{RequestHead, Response};
use sluice_protocols::ids::TaskId;
use sluice_protocols::plan::Service;
use sluice_protocols::problem::Problem;
use sluice_store::record::{ArchivedHistoryRecord, HistoryRecord};
use sluice_store::{Key, KeyRange, ReadError};

use super::conditions::paged;
use super::read_problem;
use crate::auth::Principal;
use crate::clock::timestamp_of;
use crate::run::codes;
use crate::service::Core;

/// Entries read at once.
const PAGE_ROWS: usize = 64;
/// Most entries looked at for one page: a page of what is rare may be short, and is gone on from there.
pub(crate) const ROWS_MAX: usize = 1_024;
/// Most bytes of commands and answers on a page, but for its last entry.
const PAGE_BYTES_MAX: usize = 1 << 20;
/// The least bytes of a position in a list of this kind: moment, then task.
const POSITION_BYTES: usize = 8 + 16;

/// The bit of each service in a record.
const SERVICES: [(Service, u8); 3] = [(Service::Gmail, 1), (Service::Calendar, 2), (Service::Drive, 4)];

/// Where a page ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    at_ms: u64,
    task: TaskId,
}

impl Position {
    fn of(key: &Key) -> Option<Self> {
        Some(Self { at_ms: key.history_ms()?, task: key.task_id()? })
    }

    fn to_bytes(self) -> [u8; POSITION_BYTES] {
        let mut bytes = [0; POSITION_BYTES];
        bytes[..8].copy_from_slice(&self.at_ms.to_be_bytes());
        bytes[8..].copy_from_slice(self.task.as_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; POSITION_BYTES]) -> Self {
        let (at_ms, task) = bytes.split_first_chunk().expect("it is longer");
        let task = task.try_into().expect("the rest has the bytes of a task");
        Self { at_ms: u64::from_be_bytes(*at_ms), task: TaskId::from_bytes(task) }
    }
}

/// A page.
struct Found {
    entries: Vec<HistoryEntryView>,
    /// Everything up to here was looked at; none at the end.
    stopped: Option<Position>,
}

/// The answer to `GET`.
pub(crate) async fn list(core: &Core, who: &Principal, head: &RequestHead) -> Result<Response, Problem> {
    let query = HistoryQuery::parse(head.query().unwrap_or_default())?;
    // A cursor goes on with the list it was given for: the filter is part of that.
    let list = format!("history/{}", query.filter());
    let before = match &query.cursor {
        None => None,
        Some(cursor) => {
            let position =
                core.cursors.read(&who.user, &list, cursor).ok_or_else(ListQuery::foreign_cursor)?;
            Some(Position::from_bytes(position))
        }
    };
    let found = page(core, who, &query, before).await.map_err(|error| read_problem(&error))?;
    let next = found.stopped.map(|stopped| core.cursors.make(&who.user, &list, &stopped.to_bytes()));
    let view = HistoryView { entries: found.entries, next };
    let response = Response::new(200).json(&view).with_field("cache-control", "private, no-cache");
    Ok(paged(response, head, view.next.as_deref()))
}

async fn page(
    core: &Core,
    who: &Principal,
    query: &HistoryQuery,
    before: Option<Position>,
) -> Result<Found, ReadError> {
    let mut range = KeyRange::history_between(&who.user, query.from_ms, query.to_ms);
    if let Some(Position { at_ms, task }) = before {
        range = range.resume_after(&Key::history(&who.user, at_ms, &task), true);
    }
    let mut found = Found { entries: Vec::new(), stopped: None };
    let (mut next, mut looked_at, mut bytes) = (Some(range), 0, 0);
    while let Some(range) = next.take() {
        let rows = core.store.scan(who.shard, range, PAGE_ROWS, true).await?;
        for (key, value) in rows.rows {
            if found.entries.len() == query.limit || bytes >= PAGE_BYTES_MAX {
                return Ok(found);
            }
            looked_at += 1;
            core.metrics().history_read.add(1);
            found.stopped = Position::of(&key);
            // A damaged one is passed over; its bytes are kept in quarantine.
            let Ok(record) = core.store.validate::<HistoryRecord>(who.shard, &key, value) else { continue };
            let record = record.get();
            if is_wanted(record, query) {
                bytes += record.command.len() + record.answer.as_ref().map_or(0, |answer| answer.len());
                found.entries.push(view(record));
            }
        }
        match rows.next {
            None => found.stopped = None,
            Some(_) if looked_at >= ROWS_MAX => {}
            Some(rest) => next = Some(rest),
        }
    }
    Ok(found)
}

fn is_wanted(record: &ArchivedHistoryRecord, query: &HistoryQuery) -> bool {
    let has = |wanted: Service| {
        SERVICES.iter().any(|(service, bit)| *service == wanted && record.services & bit != 0)
    };
    query.service.is_none_or(has)
        && query.state.is_none_or(|state| codes::task_state(record.state) == state)
        && query.intent.is_none_or(|intent| record.operations.iter().any(|name| name.as_str() == intent))
        && query.has_words(&record.command)
}

fn view(record: &ArchivedHistoryRecord) -> HistoryEntryView {
    HistoryEntryView {
        task: TaskId::from_bytes(record.task),
        at: timestamp_of(record.at_ms.to_native()),
        command: record.command.as_str().to_owned(),
        state: codes::task_state(record.state),
        answer: record.answer.as_ref().map(|answer| answer.as_str().to_owned()),
        services: SERVICES
            .iter()
            .filter(|(_, bit)| record.services & bit != 0)
            .map(|(service, _)| *service)
            .collect(),
        operations: record.operations.iter().map(|name| name.as_str().to_owned()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_comes_back_out_of_its_bytes_and_of_a_key() {
        let position = Position { at_ms: 1_795_000_000_123, task: TaskId::new(7, [9; 10]) };
        assert_eq!(Position::from_bytes(position.to_bytes()), position);
        let user = sluice_protocols::ids::UserId::from_bytes([1; 16]);
        assert_eq!(Position::of(&Key::history(&user, position.at_ms, &position.task)), Some(position));
        assert_eq!(Position::of(&Key::user(&user)), None);
    }
}

//! A walk over all data keys, and all records that may hold a secret as it is: to count, or to bring them up to date.
//!
//! Goes shard by shard, in parts of a bounded number of rows, so that whoever asked hears of it and may stop. What is done
//! stays done: a walk that was cut short anywhere begins again and finds less to do. Changes go through the commit log
//! like all others, one batch for each page.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use sluice_protocols::ids::ShardId;

use super::data_key::master_of;
use super::{Hold, MasterVersion, Place, Vault, VaultError, hex};
use crate::batch::Batch;
use crate::database::ReadError;
use crate::key::{Key, KeyRange, Kind};
use crate::log::CommitError;
use crate::record::{ConnectionRecord, DataKeyRecord, Value, decode};

/// Most rows of one part.
pub const PART_ROWS_MAX: usize = 10_000;
/// Rows of one page, and so of one batch: some 150 KB.
const PAGE_ROWS: usize = 500;
/// While the commit queue is full: how often a batch is tried again, and after which pause.
const TRIES_MAX: usize = 100;
const PAUSE: Duration = Duration::from_millis(20);

/// What a shard is walked for, in this order.
const KINDS: [Kind; 2] = [Kind::DataKey, Kind::Connection];

/// What to do on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Look only.
    Count,
    /// Wrap data keys under the current master version, and seal what is plain.
    Rotate,
}

/// Where a walk goes on. As text for those who ask for one part after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    shard: u16,
    /// Index into `KINDS`.
    stage: usize,
    after: Option<Key>,
}

/// What a part of a walk found, and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Data keys by the master version they are under, after the work.
    pub under: BTreeMap<MasterVersion, u64>,
    /// Data keys that were destroyed.
    pub destroyed: u64,
    /// Secrets that are not sealed, after the work.
    pub plain: u64,
    /// Data keys that were wrapped anew.
    pub wrapped: u64,
    /// Secrets that were plain and are sealed now.
    pub sealed: u64,
    /// Records left as they were, since others wrote them all the time.
    pub busy: u64,
    /// Records that cannot be read; the log names them.
    pub unreadable: u64,
}

/// A part of a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub survey: Survey,
    /// Shards that are done.
    pub shards_done: u16,
    /// Where to go on; `None` at the end.
    pub next: Option<Cursor>,
}

impl Survey {
    /// Adds what another part found.
    pub fn add(&mut self, other: &Self) {
        for (version, count) in &other.under {
            *self.under.entry(*version).or_default() += count;
        }
        self.destroyed += other.destroyed;
        self.plain += other.plain;
        self.wrapped += other.wrapped;
        self.sealed += other.sealed;
        self.busy += other.busy;
        self.unreadable += other.unreadable;
    }
}

/// A record that is to be brought up to date.
struct Wanting {
    key: Key,
    /// The master version a data key was under; `None` for a record with a plain secret.
    from: Option<MasterVersion>,
}

/// What became of one.
enum Done {
    /// Another brought it up to date, or removed it, since it was looked at.
    Nothing,
    Wrapped,
    Sealed,
}

impl Vault {
    /// Walks from `cursor` (from the beginning without one) over at most `rows_max` records. Blocks: not for a reactor.
    ///
    /// # Errors
    /// [`VaultError::Read`] and [`VaultError::Commit`] as the store has them; [`VaultError::Busy`] when a walk that is to
    /// change something cannot begin, since data keys are being written all the time. What was done before stays done.
    pub fn walk_blocking(
        &self,
        cursor: Option<Cursor>,
        rows_max: usize,
        work: Work,
    ) -> Result<Part, VaultError> {
        if cursor.is_none() && work == Work::Rotate && !self.settled_blocking() {
            return Err(VaultError::Busy);
        }
        let mut at = cursor.unwrap_or(Cursor { shard: 0, stage: 0, after: None });
        let mut left = rows_max.clamp(1, PART_ROWS_MAX);
        let mut survey = Survey::default();
        let count = self.store().shard_count();
        while let Some(shard) = ShardId::new(at.shard, count) {
            if left == 0 {
                return Ok(Part { survey, shards_done: at.shard, next: Some(at) });
            }
            let kind = KINDS[at.stage];
            let mut range = KeyRange::kind(kind);
            if let Some(after) = &at.after {
                range = range.resume_after(after, false);
            }
            let page = self.store().scan_blocking(shard, range, PAGE_ROWS.min(left), false)?;
            left -= page.rows.len();
            let last = page.rows.last().map(|(key, _)| key.clone());
            self.page(shard, kind, page.rows, work, &mut survey)?;
            at = match (page.next, last) {
                (Some(_), Some(last)) => Cursor { after: Some(last), ..at },
                _ if at.stage + 1 < KINDS.len() => Cursor { stage: at.stage + 1, after: None, ..at },
                _ => Cursor { shard: at.shard + 1, stage: 0, after: None },
            };
        }
        Ok(Part { survey, shards_done: count.get(), next: None })
    }

    fn page(
        &self,
        shard: ShardId,
        kind: Kind,
        rows: Vec<(Key, Value)>,
        work: Work,
        survey: &mut Survey,
    ) -> Result<(), VaultError> {
        let current = self.current_version();
        let mut wanting = Vec::new();
        for (key, value) in rows {
            let found = match kind {
                Kind::DataKey => look_at_data_key(&key, value, current, survey).map(Some),
                _ => look_at_connection(&key, value, survey).then_some(None),
            };
            wanting.extend(found.map(|from| Wanting { key, from }));
        }
        if work == Work::Rotate { self.change_all(shard, wanting, current, survey) } else { Ok(()) }
    }

    /// Brings records up to date, in one batch; those that others hold come after it, one by one.
    fn change_all(
        &self,
        shard: ShardId,
        wanting: Vec<Wanting>,
        current: MasterVersion,
        survey: &mut Survey,
    ) -> Result<(), VaultError> {
        let mut batch = Batch::new(shard);
        let (mut holds, mut done, mut late) = (Vec::new(), Vec::new(), Vec::new());
        for one in wanting {
            let held = self.try_hold(&one.key).map(|hold| {
                holds.push(hold);
                self.change(shard, &one.key, &mut batch, &mut holds)
            });
            match held {
                Some(Ok(what)) => done.push((one, what)),
                None | Some(Err(VaultError::Busy)) => late.push(one),
                Some(Err(error)) => skip(&one.key, error, survey)?,
            }
        }
        self.write_patiently(batch)?;
        drop(holds);
        for one in late {
            let mut batch = Batch::new(shard);
            let mut holds = Vec::new();
            let changed = self.hold_blocking(&one.key).and_then(|hold| {
                holds.push(hold);
                self.change(shard, &one.key, &mut batch, &mut holds)
            });
            match changed {
                Ok(what) => {
                    self.write_patiently(batch)?;
                    done.push((one, what));
                }
                Err(VaultError::Busy) => survey.busy += 1,
                Err(error) => skip(&one.key, error, survey)?,
            }
        }
        for (one, what) in done {
            self.count(&one, &what, current, survey);
        }
        Ok(())
    }

    /// Puts the record under `key`, which is held, up to date in the batch. What is held for it besides joins `holds`.
    fn change(
        &self,
        shard: ShardId,
        key: &Key,
        batch: &mut Batch,
        holds: &mut Vec<Hold>,
    ) -> Result<Done, VaultError> {
        match key.kind() {
            Kind::DataKey => self.change_data_key(shard, key, batch),
            _ => self.change_connection(shard, key, batch, holds),
        }
    }

    fn change_data_key(&self, shard: ShardId, key: &Key, batch: &mut Batch) -> Result<Done, VaultError> {
        let (Some(loaded), Some(user)) =
            (self.store().load_blocking::<DataKeyRecord>(shard, key)?, key.user_id())
        else {
            return Ok(Done::Nothing);
        };
        let record = loaded.to_record();
        match master_of(&record)? {
            Some(version) if version != self.current_version() => {
                batch.put_record(key, &self.wrap_anew(&user, &record)?)?;
                Ok(Done::Wrapped)
            }
            _ => Ok(Done::Nothing),
        }
    }

    fn change_connection(
        &self,
        shard: ShardId,
        key: &Key,
        batch: &mut Batch,
        holds: &mut Vec<Hold>,
    ) -> Result<Done, VaultError> {
        let (Some(loaded), Some(user)) =
            (self.store().load_blocking::<ConnectionRecord>(shard, key)?, key.user_id())
        else {
            return Ok(Done::Nothing);
        };
        let record = loaded.to_record();
        if record.refresh_token.is_sealed() {
            return Ok(Done::Nothing);
        }
        // It may be made in this batch, and then it is held as long.
        holds.push(self.try_hold(&Key::data_key(&user)).ok_or(VaultError::Busy)?);
        let data_key = self.key_within(&user, batch)?;
        let slot = key.connection_slot().unwrap_or(0);
        let place = Place::refresh_token_at(&user, record.provider, slot);
        let token = self.open_blocking(&place, &record.refresh_token)?;
        let refresh_token = self.seal_with(&data_key, &place, token.expose())?;
        batch.put_record(key, &ConnectionRecord { refresh_token, ..record })?;
        Ok(Done::Sealed)
    }

    /// Counts a record as it is now.
    fn count(&self, one: &Wanting, what: &Done, current: MasterVersion, survey: &mut Survey) {
        match one.from {
            None => survey.plain -= 1,
            Some(from) => {
                let under = survey.under.entry(from).or_default();
                *under -= 1;
                if *under == 0 {
                    survey.under.remove(&from);
                }
                *survey.under.entry(current).or_default() += 1;
            }
        }
        match what {
            Done::Sealed => {
                survey.sealed += 1;
                self.inner.stats.sealed_late.add(1);
            }
            Done::Wrapped => {
                survey.wrapped += 1;
                self.inner.stats.keys_wrapped_anew.add(1);
            }
            Done::Nothing => tracing::debug!(key = ?one.key, "brought up to date by another"),
        }
    }

    fn write_patiently(&self, batch: Batch) -> Result<(), VaultError> {
        if batch.is_empty() {
            return Ok(());
        }
        for _ in 0..TRIES_MAX {
            match self.store().write_blocking(vec![batch.clone()]) {
                Err(CommitError::Overloaded) => thread::sleep(PAUSE),
                written => return Ok(written.map(drop)?),
            }
        }
        Err(CommitError::Overloaded.into())
    }
}

/// Counts a data key; the master version it is under when that is not the current one.
fn look_at_data_key(
    key: &Key,
    value: Value,
    current: MasterVersion,
    survey: &mut Survey,
) -> Option<MasterVersion> {
    let record = decode::<DataKeyRecord>(value).map_err(VaultError::from);
    match record.and_then(|record| master_of(&record)) {
        Ok(None) => survey.destroyed += 1,
        Ok(Some(version)) => {
            *survey.under.entry(version).or_default() += 1;
            return (version != current).then_some(version);
        }
        Err(error) => unreadable(key, &error, survey),
    }
    None
}

/// Counts what a connection holds; whether its secret is plain.
fn look_at_connection(key: &Key, value: Value, survey: &mut Survey) -> bool {
    match decode::<ConnectionRecord>(value) {
        Ok(record) if record.refresh_token.is_sealed() => false,
        Ok(_) => {
            survey.plain += 1;
            true
        }
        Err(error) => {
            unreadable(key, &error.into(), survey);
            false
        }
    }
}

/// Goes on without a record that cannot be read; other errors end the walk.
fn skip(key: &Key, error: VaultError, survey: &mut Survey) -> Result<(), VaultError> {
    match error {
        VaultError::Unreadable
        | VaultError::NoMaster { .. }
        | VaultError::Newer { .. }
        | VaultError::Record(_)
        | VaultError::Read(ReadError::Quarantined { .. } | ReadError::Newer { .. }) => {
            unreadable(key, &error, survey);
            Ok(())
        }
        error => Err(error),
    }
}

fn unreadable(key: &Key, error: &VaultError, survey: &mut Survey) {
    tracing::error!(?key, %error, "left as it is");
    survey.unreadable += 1;
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = self.after.as_ref().map_or_else(String::new, |key| hex::of(key.as_bytes()));
        write!(f, "{}.{}.{after}", self.shard, self.stage)
    }
}

/// The text is no [`Cursor`]: begin anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no place in a walk over the vault")]
pub struct UnknownCursor;

impl FromStr for Cursor {
    type Err = UnknownCursor;

    fn from_str(text: &str) -> Result<Self, UnknownCursor> {
        let mut parts = text.splitn(3, '.');
        let mut part = || parts.next().ok_or(UnknownCursor);
        let shard = part()?.parse().map_err(|_| UnknownCursor)?;
        let stage = part()?.parse().map_err(|_| UnknownCursor)?;
        let kind = *KINDS.get(stage).ok_or(UnknownCursor)?;
        let after = match part()? {
            "" => None,
            digits => {
                let mut bytes = vec![0; digits.len() / 2];
                let key = hex::read(digits, &mut bytes).then(|| Key::from_bytes(&bytes).ok()).flatten();
                Some(key.filter(|key| key.kind() == kind).ok_or(UnknownCursor)?)
            }
        };
        Ok(Self { shard, stage, after })
    }
}

#[cfg(test)]
mod tests {
    use sluice_protocols::ids::UserId;

    use super::*;

    #[test]
    fn a_cursor_reads_back_as_written_and_nothing_else_does() {
        let user = UserId::from_bytes([1; 16]);
        for cursor in [
            Cursor { shard: 0, stage: 0, after: None },
            Cursor { shard: 4095, stage: 0, after: Some(Key::data_key(&user)) },
            Cursor { shard: 7, stage: 1, after: Some(Key::connection(&user, 1)) },
        ] {
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for text in
            ["", "1", "1.0", "1.2.", "x.0.", "70000.0.", "1.0.zz", "1.0.0301", "1.1.14".to_owned().as_str()]
        {
            assert_eq!(text.parse::<Cursor>(), Err(UnknownCursor), "{text}");
        }
        // A key of another kind would begin elsewhere.
        let text = Cursor { shard: 1, stage: 1, after: Some(Key::data_key(&user)) }.to_string();
        assert_eq!(text.parse::<Cursor>(), Err(UnknownCursor));
    }
}

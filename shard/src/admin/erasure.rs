//! Erases users: everything of theirs, for good, whatever comes in between.
//!
//! ```text
//! mark      one write: the mark (Kind::Erasure), the user disabled, `user.erase begun` in the audit log
//! fence     nothing of the user is written from here on; every core forgets them, their tasks end
//! accounts  given back at Google, as far as it can be told within a bounded time
//! data key  deleted: what was sealed for them is noise, wherever copies of it are
//! names     and identities, which are free then
//! records   kind by kind, the user's own record last
//! files     the tables that held any of it are rewritten, the log is begun anew
//! proof     one write: `user.erase done` with what was removed, and the mark is gone
//! ```
//! Every step can be done again, and the mark stays until the proof: an erasure that broke off, at whatever moment, is
//! done to its end by [`Admin::resume_erasures`] before the next start serves anybody, or when it is asked for again.
//!
//! Invariants:
//! - what is counted is counted in the write that removes it;
//! - which kinds are a user's is said in one place, beside the kinds ([`Kind::belonging`]), and nothing is left out here;
//! - the proof names the user by their id alone.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use sluice_protocols::ids::{ShardId, UserId};
use sluice_store::key::Belonging;
use sluice_store::record::{ErasureRecord, IdentityRecord, NameRecord, UserRecord, decode};
use sluice_store::{Batch, Key, KeyRange, Kind, ReadError, Value};

use super::{Admin, AdminError, Revoked, now_ms, put};
use crate::audit::{Act, Author, Object, Outcome};
use crate::export::{self, ExportPage, ExportPlace, Extent};

/// Records removed in one write.
const PAGE_ROWS: usize = 256;
/// Bytes of an entry's object that counts may take, beside the user's id.
const PROOF_BYTES: usize = 200;

/// What was removed of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erased {
    /// Who.
    pub user: UserId,
    /// When it was asked for, in milliseconds since 1970.
    pub begun_ms: u64,
    /// How many records of which kinds.
    pub removed: Vec<(Kind, u64)>,
    /// What Google took back before.
    pub revoked: Revoked,
}

/// Up to where an erasure goes: tests break off behind each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Mark,
    GiveBack,
    DataKey,
    Names,
    /// All kinds up to the one of this byte.
    Records(u8),
    User,
    Files,
    Proof,
}

impl Admin {
    /// One core's way to hear whom to forget.
    pub(crate) fn attach(&self) -> tokio::sync::mpsc::Receiver<super::Forget> {
        self.memories.attach()
    }

    /// Everything of a user, part by part: the one at `place`, or the first, which the audit log is told of.
    ///
    /// # Errors
    /// [`AdminError::NoSuchUser`], [`AdminError::Read`], [`AdminError::Commit`].
    pub fn export_page(&self, user: &UserId, place: Option<ExportPlace>) -> Result<ExportPage, AdminError> {
        if place.is_none() {
            self.user(user)?.ok_or(AdminError::NoSuchUser { user: *user })?;
            let mut batch = Batch::new(self.shard_of(user));
            self.author.tell(&mut batch, Act::UserExport, Object::User(user), now_ms());
            self.store.write_blocking(vec![batch])?;
        }
        let page = pin!(export::page(&self.store, user, Extent::Everything, place, now_ms()));
        match page.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(page) => Ok(page?),
            Poll::Pending => {
                unreachable!("a store that is read by a thread that may block is never waited for")
            }
        }
    }

    /// Erases a user, who is called by their name as well, so that nobody is erased by a slip. Goes on with an erasure
    /// that broke off. Takes as long as the tables take to be rewritten that hold records of the user.
    ///
    /// # Errors
    /// [`AdminError`]; from the mark on it is done to its end by asking again, or by the next start.
    pub fn erase_user(&self, user: &UserId, name: &str) -> Result<Erased, AdminError> {
        self.erase_up_to(user, name, Step::Proof)
    }

    fn erase_up_to(&self, user: &UserId, name: &str, last: Step) -> Result<Erased, AdminError> {
        let _one = self.erasing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let guard = self.lock();
        let erasure = match self.erasure(user)? {
            Some(begun) => begun,
            None => self.begin(user, name)?,
        };
        drop(guard);
        self.carry_out(erasure, last)
    }

    /// Brings erasures to their end that an earlier process began. Call it before anybody is served. Gives their number.
    ///
    /// # Errors
    /// [`AdminError`]; those that are left are still marked.
    pub fn resume_erasures(&self) -> Result<usize, AdminError> {
        let gateway = self.on_word_of(Author::gateway());
        let _one = self.erasing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut users = Vec::new();
        for shard in self.store.shard_count().shards() {
            let mut next = Some(KeyRange::kind(Kind::Erasure));
            while let Some(range) = next.take() {
                let page = self.store.scan_blocking(shard, range, PAGE_ROWS, false)?;
                users.extend(page.rows.iter().filter_map(|(key, _)| key.user_id()));
                next = page.next;
            }
        }
        for user in &users {
            tracing::warn!(%user, "an erasure that broke off is resumed");
            if let Some(erasure) = self.erasure(user)? {
                gateway.carry_out(erasure, Step::Proof)?;
            }
        }
        Ok(users.len())
    }

    /// How far an erasure has come that is marked.
    fn erasure(&self, user: &UserId) -> Result<Option<ErasureRecord>, AdminError> {
        let found = self.store.load_blocking::<ErasureRecord>(self.shard_of(user), &Key::erasure(user));
        match found {
            Ok(found) => Ok(found.map(|found| found.to_record())),
            // That it is there is all that matters: the counts begin anew.
            Err(ReadError::Quarantined { .. }) => Ok(Some(unbegun(user))),
            Err(error) => Err(error.into()),
        }
    }

    fn begin(&self, user: &UserId, name: &str) -> Result<ErasureRecord, AdminError> {
        let record = self.require(user)?;
        if Key::name(name)? != Key::name(&record.name)? {
            return Err(AdminError::OtherName);
        }
        let erasure = unbegun(user);
        let mut batch = self.marked(&erasure)?;
        let disabled = UserRecord { disabled: true, ..record };
        if batch.join(put(self.shard_of(user), &Key::user(user), &disabled)?).is_err() {
            unreachable!("two small records of one shard fit into a batch");
        }
        let (act, object) = (Act::UserErase, Object::User(user));
        self.author.tell_that(&mut batch, act, object, Outcome::Begun, erasure.begun_ms);
        self.store.write_blocking(vec![batch])?;
        tracing::info!(%user, "a user is being erased");
        Ok(erasure)
    }

    fn carry_out(&self, mut erasure: ErasureRecord, last: Step) -> Result<Erased, AdminError> {
        let user = erasure.user;
        let shard = self.shard_of(&user);
        if last == Step::Mark {
            return Ok(erased(&erasure));
        }
        self.revocations.revoke(&user);
        self.store.fence(&user)?;
        let goes_on = |step: Step| step <= last;
        if !self.memories.forget_blocking(&user, super::forget::What::All) {
            tracing::warn!(%user, "a core still ends tasks of a user who is being erased");
        }
        // Behind whatever still got in before the fence: what follows finds all there is.
        self.store.write_blocking(vec![self.marked(&erasure)?])?;
        if goes_on(Step::GiveBack) && erasure.revoked.is_none() {
            let Revoked { done, failed } = self.give_back(&user)?;
            erasure.revoked = Some((done, failed));
            // Before the tokens are gone: who resumes this could not tell any more.
            self.store.write_blocking(vec![self.marked(&erasure)?])?;
        }
        if goes_on(Step::DataKey) {
            let hold = self.vault.hold_blocking(&Key::data_key(&user))?;
            self.remove(&mut erasure, KeyRange::of_user(Kind::DataKey, &user))?;
            self.vault.note_erased(&user);
            drop(hold);
        }
        if goes_on(Step::Names) {
            self.free_names(&mut erasure)?;
        }
        for kind in Kind::all().filter(|kind| kind.belonging() == Belonging::Keyed && *kind != Kind::User) {
            if goes_on(Step::Records(kind.byte())) {
                self.remove(&mut erasure, KeyRange::of_user(kind, &user))?;
            }
        }
        if goes_on(Step::User) {
            self.remove(&mut erasure, KeyRange::of_user(Kind::User, &user))?;
            // Whoever was looked up meanwhile was found disabled; now they are unknown.
            self.revocations.revoke(&user);
        }
        if goes_on(Step::Files) {
            self.store.purge_all_blocking(&self.ranges(&erasure))?;
        }
        let erased = erased(&erasure);
        if goes_on(Step::Proof) {
            let mut batch = Batch::new(shard);
            batch.delete(&Key::erasure(&user));
            for part in proof(&erased) {
                self.author.tell(&mut batch, Act::UserErase, Object::Erased(&user, &part), now_ms());
            }
            self.store.write_blocking(vec![batch])?;
            tracing::info!(%user, records = erased.removed.iter().map(|(_, count)| count).sum::<u64>(), "a user was erased");
        }
        Ok(erased)
    }

    /// A batch with the mark as it is now.
    fn marked(&self, erasure: &ErasureRecord) -> Result<Batch, AdminError> {
        Ok(put(self.shard_of(&erasure.user), &Key::erasure(&erasure.user), erasure)?)
    }

    /// Removes all records of a range of the user's shard.
    fn remove(&self, erasure: &mut ErasureRecord, range: KeyRange) -> Result<(), AdminError> {
        let shard = self.shard_of(&erasure.user);
        self.remove_where(erasure, shard, range, |_, _| true)
    }

    /// Removes the records of a range that are meant.
    fn remove_where(
        &self,
        erasure: &mut ErasureRecord,
        shard: ShardId,
        range: KeyRange,
        is_meant: impl Fn(&Key, Value) -> bool,
    ) -> Result<(), AdminError> {
        let mut next = Some(range);
        while let Some(range) = next.take() {
            let page = self.store.scan_blocking(shard, range, PAGE_ROWS, false)?;
            let meant = page.rows.into_iter().filter(|(key, value)| is_meant(key, value.clone()));
            let keys: Vec<Key> = meant.map(|(key, _)| key).collect();
            self.delete(erasure, shard, &keys)?;
            next = page.next;
        }
        Ok(())
    }

    /// Deletes records, and counts them in the same write.
    fn delete(&self, erasure: &mut ErasureRecord, shard: ShardId, keys: &[Key]) -> Result<(), AdminError> {
        if keys.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new(shard);
        for key in keys {
            batch.delete(key);
            count(erasure, key.kind());
        }
        if shard != self.shard_of(&erasure.user) && !erasure.homes.contains(&shard.index()) {
            erasure.homes.push(shard.index());
        }
        // The records first: what was counted and is there still would be proven to be gone.
        self.store.write_blocking(vec![batch, self.marked(erasure)?])?;
        Ok(())
    }

    /// Removes what leads to the user by another name than their id, and copies of damaged records of theirs. Such
    /// records stand in any shard, and name the user by their value alone, so all of them are looked at.
    fn free_names(&self, erasure: &mut ErasureRecord) -> Result<(), AdminError> {
        let user = erasure.user;
        // Where the record of a name is damaged, the user's own record still says whose it is.
        let own: Vec<Key> = match self.user(&user) {
            Ok(record) => {
                let texts = record.into_iter().flat_map(|record| [record.name, record.email]);
                texts.filter_map(|text| Key::name(&text).ok()).collect()
            }
            Err(AdminError::Read(ReadError::Quarantined { .. })) => Vec::new(),
            Err(error) => return Err(error),
        };
        let leads = |key: &Key, value: Value| match key.kind() {
            Kind::Name => match decode::<NameRecord>(value) {
                Ok(name) => name.user == user,
                Err(_) => own.contains(key),
            },
            Kind::Identity => decode::<IdentityRecord>(value).is_ok_and(|identity| identity.user == user),
            _ => false,
        };
        for shard in self.store.shard_count().shards() {
            let is_copy = |key: &Key, _| {
                key.owner() == Some(user) || key.original().is_some_and(|original| own.contains(&original))
            };
            self.remove_where(erasure, shard, KeyRange::kind(Kind::Quarantine), is_copy)?;
            for kind in [Kind::Name, Kind::Identity] {
                let mut next = Some(KeyRange::kind(kind));
                while let Some(range) = next.take() {
                    let page = self.store.scan_blocking(shard, range, PAGE_ROWS, false)?;
                    let found: Vec<Key> = page
                        .rows
                        .into_iter()
                        .filter_map(|(key, value)| leads(&key, value).then_some(key))
                        .collect();
                    next = page.next;
                    if found.is_empty() {
                        continue;
                    }
                    // All who write such records hold the lock: what is found once more under it is still the user's.
                    let _guard = self.lock();
                    let mut still = Vec::with_capacity(found.len());
                    for key in found {
                        if self.store.get_blocking(shard, &key)?.is_some_and(|value| leads(&key, value)) {
                            still.push(key);
                        }
                    }
                    self.delete(erasure, shard, &still)?;
                }
            }
        }
        Ok(())
    }

    /// Where anything of the user stood.
    fn ranges(&self, erasure: &ErasureRecord) -> Vec<(ShardId, KeyRange)> {
        let (user, own) = (&erasure.user, self.shard_of(&erasure.user));
        let keyed = Kind::all().filter(|kind| kind.belonging() == Belonging::Keyed);
        let mut ranges: Vec<_> = keyed.map(|kind| (own, KeyRange::of_user(kind, user))).collect();
        let homes = erasure.homes.iter().filter_map(|home| ShardId::new(*home, self.store.shard_count()));
        for home in homes.chain([own]) {
            // Names are not in the mark, so all of the shard's are rewritten.
            let elsewhere = [Kind::Name, Kind::Identity, Kind::Quarantine];
            ranges.extend(elsewhere.map(|kind| (home, KeyRange::kind(kind))));
        }
        ranges
    }
}

fn unbegun(user: &UserId) -> ErasureRecord {
    ErasureRecord { user: *user, begun_ms: now_ms(), removed: Vec::new(), homes: Vec::new(), revoked: None }
}

fn count(erasure: &mut ErasureRecord, kind: Kind) {
    match erasure.removed.iter_mut().find(|(byte, _)| *byte == kind.byte()) {
        Some((_, count)) => *count += 1,
        None => erasure.removed.push((kind.byte(), 1)),
    }
}

fn erased(erasure: &ErasureRecord) -> Erased {
    let (done, failed) = erasure.revoked.unwrap_or_default();
    let removed = counts(erasure);
    Erased { user: erasure.user, begun_ms: erasure.begun_ms, removed, revoked: Revoked { done, failed } }
}

fn counts(erasure: &ErasureRecord) -> Vec<(Kind, u64)> {
    let mut counts: Vec<_> = erasure
        .removed
        .iter()
        .filter_map(|(byte, count)| Kind::from_byte(*byte).map(|kind| (kind, *count)))
        .collect();
    counts.sort_unstable();
    counts
}

/// The counts in words, in as many parts as an entry of the audit log needs them in; at least one.
fn proof(erased: &Erased) -> Vec<String> {
    let mut parts = vec![String::new()];
    let Revoked { done, failed } = erased.revoked;
    let accounts = [("revoked", u64::from(done)), ("unrevoked", u64::from(failed))];
    let removed = erased.removed.iter().map(|(kind, count)| (kind.word(), *count));
    for (what, count) in removed.chain(accounts.into_iter().filter(|(_, count)| *count > 0)) {
        let word = format!("{what}={count}");
        let part = parts.last_mut().expect("it begins with one");
        if part.is_empty() {
            *part = word;
        } else if part.len() + 1 + word.len() <= PROOF_BYTES {
            *part = format!("{part} {word}");
        } else {
            parts.push(word);
        }
    }
    parts
}

#[cfg(test)]
#[path = "erasure_tests.rs"]
mod tests;

//! The simulated world: users with a mailbox, a calendar and a drive, made on
//! demand and kept until they are reset.
//!
//! Invariant: each of a user's three services is under one lock of its own, and a
//! request takes it once, so that every side effect is atomic.

mod calendar;
mod corpus;
mod drive;
mod mail;
mod seed;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use serde::Serialize;
use serde_json::{Value, json};

use super::chance::{Clock, hash, mix};

pub(crate) use calendar::{Attendee, Calendar, Event, Moment, Occurrence};
pub(crate) use drive::{
    Drive, File, Permission, ROOT, SHARED_DRIVE, kind as file_kind, md5_hex, pdf, permission_id,
};
pub(crate) use mail::{Attachment, Draft, HistoryKind, HistoryRecord, Label, MailBox, Message, index_text};

/// Pairs of a user who gave files and somebody who was given them.
const GIVERS_MAX: usize = 100_000;

/// Someone with an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Person {
    pub(crate) name: String,
    pub(crate) email: String,
}

impl Person {
    /// `Anna Berg <anna.berg@example.com>`.
    pub(crate) fn display(&self) -> String {
        if self.name.is_empty() { self.email.clone() } else { format!("{} <{}>", self.name, self.email) }
    }
}

/// One user.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) person: Person,
    /// Calls that changed something, by method.
    changes: Mutex<BTreeMap<&'static str, u64>>,
    seed: u64,
    clock: Clock,
    mail: OnceLock<Mutex<MailBox>>,
    calendar: OnceLock<Mutex<Calendar>>,
    drive: OnceLock<Mutex<Drive>>,
}

impl User {
    fn new(name: &str, seed: u64, clock: Clock) -> Self {
        let email = if name.contains('@') { name.to_owned() } else { format!("{name}@example.com") };
        let mut letters = name.split('@').next().unwrap_or(name).chars();
        let display = letters.next().map_or_else(String::new, |first| {
            first
                .to_uppercase()
                .chain(letters.map(|c| if matches!(c, '.' | '_') { ' ' } else { c }))
                .collect()
        });
        Self {
            name: name.to_owned(),
            person: Person { name: display, email },
            seed: mix(seed ^ hash(name)),
            clock,
            changes: Mutex::default(),
            mail: OnceLock::new(),
            calendar: OnceLock::new(),
            drive: OnceLock::new(),
        }
    }

    /// Counts a call that changed something.
    pub(crate) fn count_change(&self, method: &'static str) {
        *lock(&self.changes).entry(method).or_default() += 1;
    }

    pub(crate) fn mail(&self) -> MutexGuard<'_, MailBox> {
        lock(self.mail.get_or_init(|| Mutex::new(seed::mailbox(&self.person, self.seed, &self.clock))))
    }

    pub(crate) fn calendar(&self) -> MutexGuard<'_, Calendar> {
        lock(self.calendar.get_or_init(|| Mutex::new(seed::calendar(&self.person, self.seed, &self.clock))))
    }

    pub(crate) fn drive(&self) -> MutexGuard<'_, Drive> {
        lock(self.drive.get_or_init(|| Mutex::new(seed::drive(&self.person, self.seed, &self.clock))))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All users.
#[derive(Debug)]
pub(crate) struct World {
    seed: u64,
    clock: Clock,
    users: RwLock<HashMap<String, Arc<User>>>,
    /// Users that revoked, with the number of the last access token that ended by it.
    revoked: RwLock<HashMap<String, u64>>,
    /// To whom files are given, an address in lower case, and by whom, the name of a user; [`GIVERS_MAX`] of them. What they
    /// gave, their drives say.
    givers: RwLock<BTreeSet<(String, String)>>,
    /// Number of the next access token.
    sequence: AtomicU64,
}

/// Side effects, as `GET /_sim/state` shows them.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Only users with at least one effect.
    pub(crate) users: BTreeMap<String, Value>,
    pub(crate) totals: Totals,
    /// Calls that changed something, of all users, by method.
    pub(crate) changes: BTreeMap<&'static str, u64>,
    /// `Message-ID`s sent more than once by one user.
    pub(crate) duplicate_messages: Vec<Value>,
    /// Events of one user with the same summary and start inserted more than once.
    pub(crate) duplicate_events: Vec<Value>,
}

/// Side effects of all users together.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Totals {
    sends: usize,
    drafts_created: usize,
    drafts_left: usize,
    inserts: usize,
    patches: usize,
    deletes: usize,
}

impl World {
    pub(crate) fn new(seed: u64, clock: Clock) -> Self {
        Self {
            seed,
            clock,
            users: RwLock::default(),
            revoked: RwLock::default(),
            givers: RwLock::default(),
            sequence: AtomicU64::new(1),
        }
    }

    /// The user of that name, made when new.
    pub(crate) fn user(&self, name: &str) -> Arc<User> {
        if let Some(user) = self.users.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Arc::clone(user);
        }
        let mut users = self.users.write().unwrap_or_else(PoisonError::into_inner);
        let user = users
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(User::new(name, self.seed, self.clock.clone())));
        Arc::clone(user)
    }

    /// The number of a new access token.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    /// From now on the tokens that this user has are refused.
    pub(crate) fn revoke(&self, name: &str) {
        let mut revoked = self.revoked.write().unwrap_or_else(PoisonError::into_inner);
        revoked.insert(name.to_owned(), self.next_sequence());
    }

    pub(crate) fn is_revoked(&self, name: &str) -> bool {
        self.revoked.read().unwrap_or_else(PoisonError::into_inner).contains_key(name)
    }

    /// Whether the user revoked after the access token of this number was given.
    pub(crate) fn is_revoked_since(&self, name: &str, sequence: u64) -> bool {
        let revoked = self.revoked.read().unwrap_or_else(PoisonError::into_inner);
        revoked.get(name).is_some_and(|last| sequence <= *last)
    }

    pub(crate) fn reset(&self) {
        self.users.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.revoked.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.givers.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Notes that this user has given a file to somebody; whether there is room for that.
    #[must_use]
    pub(crate) fn gave(&self, giver: &User, address: &str) -> bool {
        let mut givers = self.givers.write().unwrap_or_else(PoisonError::into_inner);
        let pair = (address.to_lowercase(), giver.name.clone());
        if givers.len() >= GIVERS_MAX && !givers.contains(&pair) {
            return false;
        }
        givers.insert(pair);
        true
    }

    /// Notes that this user gives somebody nothing any more.
    pub(crate) fn took_back(&self, giver: &User, address: &str) {
        let mut givers = self.givers.write().unwrap_or_else(PoisonError::into_inner);
        givers.remove(&(address.to_lowercase(), giver.name.clone()));
    }

    /// The users who gave this one a file and did not take it back; they may have deleted it.
    pub(crate) fn givers(&self, user: &User) -> Vec<Arc<User>> {
        let address = user.person.email.to_lowercase();
        let givers = self.givers.read().unwrap_or_else(PoisonError::into_inner);
        let from = givers.range((address.clone(), String::new())..);
        let of = from.take_while(|(to, _)| *to == address);
        let names: Vec<String> = of.map(|(_, giver)| giver.clone()).collect();
        drop(givers);
        names.iter().filter(|name| **name != user.name).map(|name| self.user(name)).collect()
    }

    /// What has been done to the mailboxes, of all users or of one.
    pub(crate) fn effects(&self, only: Option<&str>) -> Effects {
        let users: Vec<Arc<User>> = self
            .users
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .filter(|user| only.is_none_or(|name| user.name == name))
            .map(Arc::clone)
            .collect();
        let mut effects = Effects::default();
        for user in users {
            add_effects(&user, &mut effects);
        }
        effects
    }
}

fn add_effects(user: &User, effects: &mut Effects) {
    // Services nobody has asked for are not made just to be counted.
    let (mut sends, mut drafts_created, mut drafts_left) = (Vec::new(), 0, Vec::new());
    if let Some(mail) = user.mail.get() {
        let mail = lock(mail);
        sends.clone_from(&mail.sends);
        drafts_created = mail.drafts_created;
        drafts_left = mail.drafts.iter().map(|draft| json!({"id": draft.id, "message_id": draft.message.message_id, "subject": draft.message.subject})).collect();
    }
    let (mut inserts, mut patches, mut deletes) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(calendar) = user.calendar.get() {
        let calendar = lock(calendar);
        inserts.clone_from(&calendar.inserts);
        patches.clone_from(&calendar.patches);
        deletes.clone_from(&calendar.deletes);
        for ((summary, start), count) in calendar.repeated_inserts() {
            effects
                .duplicate_events
                .push(json!({"user": user.name, "summary": summary, "start": start, "count": count}));
        }
    }
    let mut by_message_id: BTreeMap<&str, usize> = BTreeMap::new();
    for send in &sends {
        *by_message_id.entry(&send.message_id).or_default() += 1;
    }
    for (message_id, count) in by_message_id.into_iter().filter(|(_, count)| *count > 1) {
        effects.duplicate_messages.push(json!({"user": user.name, "message_id": message_id, "count": count}));
    }
    let totals = &mut effects.totals;
    totals.sends += sends.len();
    totals.drafts_created += drafts_created;
    totals.drafts_left += drafts_left.len();
    totals.inserts += inserts.len();
    totals.patches += patches.len();
    totals.deletes += deletes.len();
    let changes = lock(&user.changes).clone();
    for (method, count) in &changes {
        *effects.changes.entry(*method).or_default() += count;
    }
    if changes.len() + drafts_created + sends.len() + inserts.len() + patches.len() + deletes.len() > 0 {
        effects.users.insert(
            user.name.clone(),
            json!({"sends": sends, "drafts_created": drafts_created, "drafts_left": drafts_left.len(), "drafts": drafts_left,
                "inserts": inserts, "patches": patches, "deletes": deletes, "changes": changes}),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gives_to_whom_is_bounded_and_ends_with_what_is_given() {
        let world = World::new(1, Clock::new(None, "Europe/Berlin").expect("a clock"));
        let (ada, ben) = (world.user("ada"), world.user("ben"));
        let givers =
            |user: &User| world.givers(user).iter().map(|giver| giver.name.clone()).collect::<Vec<_>>();
        assert!(world.gave(&ada, "Ben@Example.com") && world.gave(&ben, "ada@example.com"));
        assert_eq!((givers(&ben), givers(&ada)), (vec!["ada".to_owned()], vec!["ben".to_owned()]));
        for number in 2..GIVERS_MAX {
            assert!(world.gave(&ada, &format!("{number}@example.com")));
        }
        assert!(!world.gave(&ada, "one.more@example.com") && world.gave(&ada, "ben@example.com"));
        world.took_back(&ada, "BEN@example.com");
        assert_eq!(givers(&ben), Vec::<String>::new());
        assert!(world.gave(&ada, "one.more@example.com"));
    }
}

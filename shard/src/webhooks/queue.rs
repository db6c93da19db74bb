//! Which message is sent next. Pure: time is handed in.
//!
//! ```text
//! due (by time) -> next: a place of the core and of the user -> enter: a place at the receiver -> leave or put back
//!       ^                        | user has enough                    | receiver has enough
//!       +--- one place is free --+---------- parked <-----------------+
//! ```
//! Invariants:
//! - no more run than the limits say, of the core, of a user, and at a receiver;
//! - what cannot run for the sake of its user or its receiver is parked with that one and holds up nobody else; each place
//!   that gets free lets one of those go on, the longest parked first;
//! - otherwise messages are begun in the order they are due in.

use std::borrow::Borrow;
use std::collections::{BTreeSet, VecDeque};
use std::hash::Hash;

use hashbrown::HashMap;
use sluice_protocols::ids::{DeliveryId, ShardId, UserId, WebhookId};

/// Bounds of a [`Queue`].
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueLimits {
    pub(super) running_max: usize,
    pub(super) running_per_user_max: usize,
    pub(super) running_per_place_max: usize,
}

/// A message that is to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) shard: ShardId,
    pub(super) user: UserId,
    pub(super) webhook: WebhookId,
}

#[derive(Debug)]
struct Waiting {
    entry: Entry,
    due_ms: u64,
    stage: Stage,
    /// The receiver it was parked with: whoever does not use the turn it was given there hands it on.
    parked_at: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Due,
    Parked,
    /// Begun; with the receiver once that is known.
    Running(Option<Box<str>>),
}

/// How much runs for one user or at one receiver, and what waits for that to end.
#[derive(Debug, Default)]
struct Busy {
    running: usize,
    parked: VecDeque<DeliveryId>,
}

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// See the module.
pub(super) struct Queue {
    limits: QueueLimits,
    all: Map<DeliveryId, Waiting>,
    due: BTreeSet<(u64, DeliveryId)>,
    running: usize,
    users: Map<UserId, Busy>,
    places: Map<Box<str>, Busy>,
}

impl Queue {
    pub(super) fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            all: Map::default(),
            due: BTreeSet::new(),
            running: 0,
            users: Map::default(),
            places: Map::default(),
        }
    }

    /// Messages that are not done with.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Messages begun.
    pub(super) fn running(&self) -> usize {
        self.running
    }

    /// Whether a message is still wanted.
    pub(super) fn has(&self, message: &DeliveryId) -> bool {
        self.all.contains_key(message)
    }

    /// Takes a message in, to be sent at `due_ms`.
    pub(super) fn push(&mut self, message: DeliveryId, entry: Entry, due_ms: u64) {
        let known = self.all.insert(message, Waiting { entry, due_ms, stage: Stage::Due, parked_at: None });
        assert!(known.is_none(), "a message is taken in once");
        self.due.insert((due_ms, message));
    }

    /// A user's messages. Walks all there are: for what happens once in a user's life.
    pub(super) fn of_user(&self, user: &UserId) -> Vec<DeliveryId> {
        let theirs = self.all.iter().filter(|(_, waiting)| waiting.entry.user == *user);
        theirs.map(|(message, _)| *message).collect()
    }

    /// When to look again: `None` when nothing is due some time or nothing more may run.
    pub(super) fn due_ms(&self) -> Option<u64> {
        if self.running >= self.limits.running_max {
            return None;
        }
        self.due.first().map(|(due_ms, _)| *due_ms)
    }

    /// Begins the next message that is due and may run.
    pub(super) fn next(&mut self, now_ms: u64) -> Option<(DeliveryId, Entry)> {
        while self.running < self.limits.running_max {
            let (due_ms, message) = *self.due.first().filter(|(due_ms, _)| *due_ms <= now_ms)?;
            self.due.remove(&(due_ms, message));
            let waiting = self.all.get_mut(&message).expect("what is due is known");
            let entry = waiting.entry;
            let user = self.users.entry(entry.user).or_default();
            if user.running >= self.limits.running_per_user_max {
                waiting.stage = Stage::Parked;
                user.parked.push_back(message);
                continue;
            }
            waiting.stage = Stage::Running(None);
            user.running += 1;
            self.running += 1;
            return Some((message, entry));
        }
        None
    }

    /// Takes a place at the receiver for a message that was begun. `false`: it has enough to do, and the message is parked
    /// until that changes, or it is not this attempt that is wanted any more.
    pub(super) fn enter(&mut self, message: DeliveryId, place: &str) -> bool {
        let Some(waiting) = self.all.get_mut(&message) else { return false };
        // It was forgotten meanwhile, and taken in again.
        if waiting.stage != Stage::Running(None) {
            return false;
        }
        let unused = waiting.parked_at.take().filter(|parked_at| **parked_at != *place);
        let user = waiting.entry.user;
        let busy = self.places.entry(place.into()).or_default();
        let has_place = busy.running < self.limits.running_per_place_max;
        if has_place {
            busy.running += 1;
            waiting.stage = Stage::Running(Some(place.into()));
        } else {
            busy.parked.push_back(message);
            waiting.stage = Stage::Parked;
            waiting.parked_at = Some(place.into());
            self.running -= 1;
            self.leave_user(&user);
        }
        self.hand_on(unused);
        has_place
    }

    /// Forgets a message, whatever it does.
    pub(super) fn remove(&mut self, message: DeliveryId) -> Option<Entry> {
        let waiting = self.all.remove(&message)?;
        let user = waiting.entry.user;
        match waiting.stage {
            // Where it is parked it is passed over when its turn comes.
            Stage::Parked => return Some(waiting.entry),
            Stage::Due => {
                self.due.remove(&(waiting.due_ms, message));
                let woken = wake_one(&mut self.users, &user, &self.all, self.limits.running_per_user_max);
                self.wake(woken);
            }
            Stage::Running(place) => self.stop(&user, place.as_deref()),
        }
        self.hand_on(waiting.parked_at);
        Some(waiting.entry)
    }

    /// Lets a message that was begun wait until `due_ms`. One that was forgotten meanwhile stays as it is.
    pub(super) fn put_back(&mut self, message: DeliveryId, due_ms: u64) {
        let Some(waiting) = self.all.get_mut(&message) else { return };
        // It was forgotten meanwhile, and taken in again.
        let Stage::Running(place) = waiting.stage.clone() else { return };
        (waiting.stage, waiting.due_ms) = (Stage::Due, due_ms);
        let (user, unused) = (waiting.entry.user, waiting.parked_at.take());
        self.due.insert((due_ms, message));
        self.stop(&user, place.as_deref());
        self.hand_on(unused);
    }

    fn stop(&mut self, user: &UserId, place: Option<&str>) {
        self.running -= 1;
        self.leave_user(user);
        if let Some(place) = place {
            self.places.get_mut(place).expect("it was entered").running -= 1;
            self.hand_on(Some(place.into()));
        }
    }

    fn leave_user(&mut self, user: &UserId) {
        self.users.get_mut(user).expect("it was entered").running -= 1;
        let woken = wake_one(&mut self.users, user, &self.all, self.limits.running_per_user_max);
        self.wake(woken);
    }

    /// Gives a place at a receiver that is not used to what is parked there.
    fn hand_on(&mut self, place: Option<Box<str>>) {
        let Some(place) = place else { return };
        let woken = wake_one(&mut self.places, &*place, &self.all, self.limits.running_per_place_max);
        self.wake(woken);
    }

    fn wake(&mut self, message: Option<DeliveryId>) {
        let Some(message) = message else { return };
        let waiting = self.all.get_mut(&message).expect("it was looked for");
        waiting.stage = Stage::Due;
        self.due.insert((waiting.due_ms, message));
    }
}

/// Which parked message may go on where there is a place.
fn wake_one<K, Q>(
    all: &mut Map<K, Busy>,
    key: &Q,
    known: &Map<DeliveryId, Waiting>,
    running_max: usize,
) -> Option<DeliveryId>
where
    K: Hash + Eq + Borrow<Q>,
    Q: Hash + Eq + ?Sized,
{
    let busy = all.get_mut(key).filter(|busy| busy.running < running_max)?;
    let woken = std::iter::from_fn(|| busy.parked.pop_front())
        .find(|message| known.get(message).is_some_and(|waiting| waiting.stage == Stage::Parked));
    if busy.running == 0 && busy.parked.is_empty() {
        all.remove(key);
    }
    woken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sluice_protocols::ids::ShardCount;

    use super::*;

    const LIMITS: QueueLimits =
        QueueLimits { running_max: 4, running_per_user_max: 2, running_per_place_max: 1 };

    fn message(number: u8) -> DeliveryId {
        DeliveryId::from_bytes([number; 16])
    }

    fn of(user: u8) -> Entry {
        let shard = ShardCount::new(1).expect("a count").shards().next().expect("a shard");
        let webhook = WebhookId::from_bytes([user; 16]);
        Entry { shard, user: UserId::from_bytes([user; 16]), webhook }
    }

    fn begun(queue: &mut Queue, now_ms: u64) -> Vec<u8> {
        std::iter::from_fn(|| queue.next(now_ms)).map(|(message, _)| message.as_bytes()[0]).collect()
    }

    #[test]
    fn messages_are_begun_in_the_order_they_are_due_in() {
        let mut queue = Queue::new(LIMITS);
        for (number, due_ms) in [(1, 30), (2, 10), (3, 20)] {
            queue.push(message(number), of(number), due_ms);
        }
        assert_eq!(queue.due_ms(), Some(10));
        assert_eq!(begun(&mut queue, 20), [2, 3]);
        assert_eq!(queue.due_ms(), Some(30));
        assert_eq!(begun(&mut queue, 30), [1]);
    }

    #[test]
    fn a_user_with_enough_to_do_holds_up_nobody_else() {
        let mut queue = Queue::new(LIMITS);
        (1..=3).for_each(|number| queue.push(message(number), of(1), 0));
        queue.push(message(4), of(2), 0);
        assert_eq!(begun(&mut queue, 0), [1, 2, 4]);
        queue.remove(message(1));
        assert_eq!(begun(&mut queue, 0), [3]);
    }

    #[test]
    fn a_receiver_with_enough_to_do_holds_up_nobody_else() {
        let mut queue = Queue::new(LIMITS);
        (1..=3).for_each(|number| queue.push(message(number), of(number), 0));
        assert_eq!(begun(&mut queue, 0), [1, 2, 3]);
        assert!(queue.enter(message(1), "slow"));
        assert!(!queue.enter(message(2), "slow"));
        assert!(queue.enter(message(3), "quick"));
        assert_eq!((queue.running(), begun(&mut queue, 0)), (2, vec![]));
        queue.put_back(message(1), 50);
        assert_eq!(begun(&mut queue, 0), [2]);
        assert!(queue.enter(message(2), "slow"));
    }

    #[test]
    fn one_that_is_forgotten_while_it_is_parked_takes_nobodys_turn() {
        let mut queue = Queue::new(LIMITS);
        (1..=4).for_each(|number| queue.push(message(number), of(1), 0));
        assert_eq!(begun(&mut queue, 0), [1, 2]);
        queue.remove(message(3));
        queue.remove(message(1));
        assert_eq!(begun(&mut queue, 0), [4]);
        assert!(!queue.enter(message(1), "x"), "it is forgotten");
        queue.put_back(message(1), 0);
        assert_eq!(queue.len(), 2);
    }

    proptest! {
        /// Whatever happens: limits hold, nothing is lost, and in the end everything was delivered.
        #[test]
        fn limits_hold_and_nothing_is_left(steps in proptest::collection::vec((0u8..5, 0u8..8), 0..200)) {
            let mut queue = Queue::new(LIMITS);
            let mut entered: Vec<(DeliveryId, u8)> = Vec::new();
            let mut number = 0u8;
            for (step, choice) in steps {
                match step {
                    0 if number < 250 => {
                        number += 1;
                        queue.push(message(number), of(choice % 3), 0);
                    }
                    1 => {
                        if let Some((begun, _)) = queue.next(0) {
                            let place = choice % 3;
                            if queue.enter(begun, &place.to_string()) {
                                entered.push((begun, place));
                            }
                        }
                    }
                    2 if !entered.is_empty() => {
                        let (ended, _) = entered.swap_remove(usize::from(choice) % entered.len());
                        queue.remove(ended);
                    }
                    3 if !entered.is_empty() => {
                        let (again, _) = entered.swap_remove(usize::from(choice) % entered.len());
                        queue.put_back(again, 0);
                    }
                    // Whatever it does: its webhook is gone.
                    4 if number > 0 => {
                        let gone = message(1 + choice % number);
                        queue.remove(gone);
                        entered.retain(|(ended, _)| *ended != gone);
                    }
                    _ => {}
                }
                prop_assert!(queue.running() <= 4);
                prop_assert_eq!(queue.running(), entered.len());
                for place in 0..3 {
                    prop_assert!(entered.iter().filter(|(_, at)| *at == place).count() <= 1);
                }
            }
            for (ended, _) in entered {
                queue.remove(ended);
            }
            for _ in 0..2_000 {
                let Some((begun, _)) = queue.next(0) else { break };
                if queue.enter(begun, "one") {
                    queue.remove(begun);
                }
            }
            prop_assert_eq!(queue.len(), 0);
            prop_assert!(queue.users.is_empty() && queue.places.is_empty() && queue.due.is_empty());
        }
    }
}

//! Who is to be told what, in memory: so that the end of a task finds its webhooks without a read.
//!
//! Only users with webhooks stand here: some 100 bytes, and 24 for each webhook.

use hashbrown::HashMap;
use sluice_protocols::api::{EventSet, WebhookEvent};
use sluice_protocols::ids::{UserId, WebhookId};
use smallvec::SmallVec;

/// What is known of a webhook without reading it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subscription {
    pub(super) id: WebhookId,
    pub(super) events: EventSet,
    pub(super) enabled: bool,
}

#[derive(Default)]
struct Subscriber {
    webhooks: SmallVec<[Subscription; 2]>,
    /// Messages that wait to be delivered, those being written included.
    pending: usize,
}

/// Whose bound is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    User,
    Core,
}

/// See the module. Invariant: `pending` is the sum of the users'.
pub(super) struct Index {
    users: HashMap<UserId, Subscriber, foldhash::fast::RandomState>,
    webhooks: usize,
    pending: usize,
    pending_max: usize,
    pending_per_user_max: usize,
}

impl Index {
    pub(super) fn new(pending_max: usize, pending_per_user_max: usize) -> Self {
        Self { users: HashMap::default(), webhooks: 0, pending: 0, pending_max, pending_per_user_max }
    }

    /// Webhooks of all users.
    pub(super) fn webhooks(&self) -> usize {
        self.webhooks
    }

    /// Webhooks of a user.
    pub(super) fn count(&self, user: &UserId) -> usize {
        self.users.get(user).map_or(0, |subscriber| subscriber.webhooks.len())
    }

    /// Whether a webhook is there.
    pub(super) fn has(&self, user: &UserId, webhook: &WebhookId) -> bool {
        self.users.get(user).is_some_and(|one| one.webhooks.iter().any(|known| known.id == *webhook))
    }

    /// Puts a webhook in, over what was known of it.
    pub(super) fn put(&mut self, user: UserId, subscription: Subscription) {
        let webhooks = &mut self.users.entry(user).or_default().webhooks;
        match webhooks.iter_mut().find(|known| known.id == subscription.id) {
            Some(known) => *known = subscription,
            None => {
                webhooks.push(subscription);
                self.webhooks += 1;
            }
        }
    }

    /// Takes a webhook out.
    pub(super) fn remove(&mut self, user: &UserId, webhook: &WebhookId) -> Option<Subscription> {
        let webhooks = &mut self.users.get_mut(user)?.webhooks;
        let at = webhooks.iter().position(|known| known.id == *webhook)?;
        let removed = webhooks.remove(at);
        self.webhooks -= 1;
        self.tidy(user);
        Some(removed)
    }

    /// Takes all webhooks of a user out. Their messages keep their places until each is released.
    pub(super) fn remove_all(&mut self, user: &UserId) {
        let Some(subscriber) = self.users.get_mut(user) else { return };
        self.webhooks -= subscriber.webhooks.len();
        subscriber.webhooks.clear();
        self.tidy(user);
    }

    /// The user's webhooks that are told of this event.
    pub(super) fn wanting(&self, user: &UserId, event: WebhookEvent) -> SmallVec<[WebhookId; 2]> {
        let Some(subscriber) = self.users.get(user) else { return SmallVec::new() };
        let wanting = subscriber.webhooks.iter().filter(|known| known.enabled && known.events.has(event));
        wanting.map(|known| known.id).collect()
    }

    /// Keeps a place for one more message.
    pub(super) fn reserve(&mut self, user: UserId) -> Result<(), Full> {
        if self.pending >= self.pending_max {
            return Err(Full::Core);
        }
        let subscriber = self.users.entry(user).or_default();
        if subscriber.pending >= self.pending_per_user_max {
            return Err(Full::User);
        }
        subscriber.pending += 1;
        self.pending += 1;
        Ok(())
    }

    /// Takes in a message that an earlier process made, whatever the bounds are now.
    pub(super) fn take_in(&mut self, user: UserId) {
        self.users.entry(user).or_default().pending += 1;
        self.pending += 1;
    }

    /// Gives the place of a message back.
    pub(super) fn release(&mut self, user: &UserId) {
        let subscriber = self.users.get_mut(user).expect("it has a place");
        subscriber.pending -= 1;
        self.pending -= 1;
        self.tidy(user);
    }

    fn tidy(&mut self, user: &UserId) {
        let is_over = self.users.get(user).is_some_and(|one| one.webhooks.is_empty() && one.pending == 0);
        if is_over {
            self.users.remove(user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(number: u8) -> UserId {
        UserId::from_bytes([number; 16])
    }

    fn subscription(number: u8, event: WebhookEvent, enabled: bool) -> Subscription {
        let events = EventSet::from_bits(1 << event.number());
        Subscription { id: WebhookId::from_bytes([number; 16]), events, enabled }
    }

    #[test]
    fn those_are_told_that_are_enabled_and_asked_for_it() {
        let mut index = Index::new(9, 9);
        index.put(user(1), subscription(1, WebhookEvent::TaskDone, true));
        index.put(user(1), subscription(2, WebhookEvent::TaskFailed, true));
        index.put(user(1), subscription(3, WebhookEvent::TaskDone, false));
        index.put(user(2), subscription(4, WebhookEvent::TaskDone, true));
        let told = |index: &Index, number| index.wanting(&user(number), WebhookEvent::TaskDone).len();
        assert_eq!((told(&index, 1), told(&index, 2), told(&index, 3)), (1, 1, 0));
        index.put(user(1), subscription(3, WebhookEvent::TaskDone, true));
        assert_eq!((told(&index, 1), index.count(&user(1)), index.webhooks()), (2, 3, 4));
        index.remove(&user(1), &WebhookId::from_bytes([1; 16]));
        assert_eq!((told(&index, 1), index.webhooks()), (1, 3));
        assert!(index.remove(&user(1), &WebhookId::from_bytes([4; 16])).is_none(), "it is another's");
        index.remove_all(&user(1));
        assert_eq!((told(&index, 1), index.count(&user(1)), told(&index, 2), index.webhooks()), (0, 0, 1, 1));
    }

    #[test]
    fn places_are_bounded_by_user_and_by_core_and_come_back() {
        let mut index = Index::new(3, 2);
        assert_eq!([(); 3].map(|()| index.reserve(user(1))), [Ok(()), Ok(()), Err(Full::User)]);
        assert_eq!([(); 2].map(|()| index.reserve(user(2))), [Ok(()), Err(Full::Core)]);
        index.release(&user(1));
        assert_eq!(index.reserve(user(2)), Ok(()));
        for number in [1, 2, 2] {
            index.release(&user(number));
        }
        assert!(index.users.is_empty() && index.pending == 0);
    }
}

//! Who may call one upstream now, and who waits in which order. Pure: the time is handed in.
//!
//! A call needs a place, units of its user and units of the project. Those who wait go by priority, and within one by
//! turns among users; a user whose own minute is spent is passed over, but where the project's units or the places are
//! short nobody less urgent overtakes.
//!
//! Invariants:
//! - At most `concurrent_max` calls are under way, at most `user_concurrent_max` of one user, and at most `waiting_max`
//!   wait.
//! - Units are taken for all budgets or for none.
//! - Every [`Grant`] is given back once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use sluice_protocols::api::Priority;
use sluice_protocols::ids::UserId;
use smallvec::SmallVec;

use super::BELIEVED_MAX;
use super::ledger::{Lease, Spent};
use super::minutes::Cells;
use super::window::{Slots, Window};

/// What one call needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    /// Whose it is; none for calls of the gateway itself.
    pub(crate) user: Option<UserId>,
    pub(crate) units: u64,
    pub(crate) tokens: u64,
    pub(crate) priority: Priority,
}

/// What a budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    Units,
    Tokens,
}

impl Measure {
    fn of(self, ask: &Ask) -> u64 {
        match self {
            Self::Units => ask.units,
            Self::Tokens => ask.tokens,
        }
    }
}

/// A budget of the project, as a core holds it.
pub(crate) struct Budget {
    pub(crate) measure: Measure,
    pub(crate) lease: Lease,
    /// By priority, what may be used at most.
    pub(crate) ceilings: [u64; 3],
}

/// The bounds of a gate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GateLimits {
    pub(crate) concurrent_max: usize,
    pub(crate) user_concurrent_max: usize,
    pub(crate) user_per_minute: u64,
    pub(crate) waiting_max: usize,
    pub(crate) users_max: usize,
}

/// What was taken for a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) ask_units: u64,
    ask_tokens: u64,
    user: Option<UserId>,
    at: Instant,
    spent: SmallVec<[Spent; 3]>,
}

/// Why a call may not be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// Its user has spent their minute, or must wait: so long.
    User(Duration),
    /// Its user has as many calls under way as they may.
    UserPlaces,
    /// The project's units are spent, or all must wait: so long.
    Project(Duration),
    /// There is no place.
    Places,
    /// It needs more than there ever is.
    Never,
    /// Too many users are remembered.
    Users,
}

#[derive(Default)]
struct User {
    window: Window,
    under_way: usize,
    cool_until: Option<Instant>,
    /// How long the last wait was that a refusal without a time brought.
    cool_last: Duration,
    /// By priority: those who wait.
    asks: [VecDeque<(u64, Ask)>; 3],
    /// By priority: whether they are in `turns`.
    in_turn: [bool; 3],
}

impl User {
    fn is_idle(&mut self, slots: Slots, now: Instant) -> bool {
        self.under_way == 0
            && self.asks.iter().all(VecDeque::is_empty)
            && self.cool_until.is_none_or(|until| until <= now)
            && self.window.is_empty(slots, now)
    }
}

/// Those let in, each by the id it lined up under.
pub(crate) type Admitted = SmallVec<[(u64, Grant); 4]>;

/// See the module. Calls without a user share one record that has no window.
pub(crate) struct Gate {
    limits: GateLimits,
    slots: Slots,
    budgets: Vec<Budget>,
    /// Where what users spend is written as well, for the next process.
    cells: Option<Cells>,
    under_way: usize,
    users: HashMap<Option<UserId>, User, RandomState>,
    turns: [VecDeque<Option<UserId>>; 3],
    waiting: usize,
    /// Units that wait, by priority: what a newcomer has before it.
    waiting_units: [u64; 3],
    next_id: u64,
}

impl Gate {
    pub(crate) fn new(limits: GateLimits, slots: Slots, budgets: Vec<Budget>) -> Self {
        Self {
            limits,
            slots,
            budgets,
            cells: None,
            under_way: 0,
            users: HashMap::default(),
            turns: Default::default(),
            waiting: 0,
            waiting_units: [0; 3],
            next_id: 0,
        }
    }

    /// The same, which goes on with what earlier processes let users spend, and writes what is spent.
    pub(crate) fn keeping(mut self, cells: Option<Cells>) -> Self {
        self.cells = cells;
        self
    }

    pub(crate) fn under_way(&self) -> usize {
        self.under_way
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Takes what `ask` needs, unless others wait who come before it.
    pub(crate) fn enter(&mut self, ask: &Ask, cool: Duration, now: Instant) -> Result<Grant, Block> {
        let before = |user: &User| user.asks[..=ask.priority as usize].iter().any(|asks| !asks.is_empty());
        if self.users.get(&ask.user).is_some_and(before) {
            return Err(self.block(ask, cool, now).unwrap_or(Block::UserPlaces));
        }
        if self.turns[..=ask.priority as usize].iter().any(|turns| !turns.is_empty()) {
            return Err(self.block(ask, cool, now).unwrap_or(Block::Places));
        }
        self.take(ask, cool, now)
    }

    fn take(&mut self, ask: &Ask, cool: Duration, now: Instant) -> Result<Grant, Block> {
        if let Some(block) = self.block(ask, cool, now) {
            return Err(block);
        }
        let class = ask.priority as usize;
        let mut spent = SmallVec::new();
        for index in 0..self.budgets.len() {
            let budget = &mut self.budgets[index];
            let need = budget.measure.of(ask);
            if let Some(slot) = budget.lease.take(need, budget.ceilings[class], now) {
                spent.push(slot);
                continue;
            }
            let wait = budget.lease.ledger().wait(need, budget.ceilings[class], now);
            self.put_back(ask.units, ask.tokens, &spent, now);
            // Other cores hold the rest as leases; what they do not need is there in the next slot.
            return Err(
                wait.map_or(Block::Never, |wait| Block::Project(wait.max(Duration::from_millis(100))))
            );
        }
        let user = self.users.entry(ask.user).or_default();
        user.under_way += 1;
        if let Some(id) = &ask.user {
            user.window.spend(ask.units, self.slots, now);
            if let Some(cells) = &self.cells {
                cells.add(id, ask.units, now);
            }
        }
        self.under_way += 1;
        Ok(Grant { ask_units: ask.units, ask_tokens: ask.tokens, user: ask.user, at: now, spent })
    }

    /// What stands in the way of `ask`, the project's units aside.
    fn block(&mut self, ask: &Ask, cool: Duration, now: Instant) -> Option<Block> {
        if !cool.is_zero() {
            return Some(Block::Project(cool));
        }
        if !self.users.contains_key(&ask.user) && self.users.len() >= self.limits.users_max {
            self.forget_idle(now);
            if self.users.len() >= self.limits.users_max {
                return Some(Block::Users);
            }
        }
        self.recall(ask.user, now);
        if ask.user.is_some()
            && let Some(user) = self.users.get_mut(&ask.user)
        {
            if let Some(until) = user.cool_until.filter(|until| *until > now) {
                return Some(Block::User(until - now));
            }
            if user.under_way >= self.limits.user_concurrent_max {
                return Some(Block::UserPlaces);
            }
            if self.limits.user_per_minute > 0 {
                match user.window.wait(ask.units, self.limits.user_per_minute, self.slots, now) {
                    None => return Some(Block::Never),
                    Some(wait) if !wait.is_zero() => return Some(Block::User(wait)),
                    Some(_) => {}
                }
            }
        } else if ask.user.is_some()
            && self.limits.user_per_minute > 0
            && ask.units > self.limits.user_per_minute
        {
            return Some(Block::Never);
        }
        (self.under_way >= self.limits.concurrent_max).then_some(Block::Places)
    }

    /// Begins the record of a user with what earlier processes left of them.
    fn recall(&mut self, user: Option<UserId>, now: Instant) {
        let (Some(id), Some(cells)) = (user, &self.cells) else { return };
        if self.users.contains_key(&user) {
            return;
        }
        let mut window = Window::default();
        for (ago, units) in cells.left(&id, now) {
            window.restore(units, ago, self.slots, now);
        }
        if !window.is_empty(self.slots, now) {
            self.users.insert(user, User { window, ..User::default() });
        }
    }

    fn forget_idle(&mut self, now: Instant) {
        let slots = self.slots;
        self.users.retain(|_, user| !user.is_idle(slots, now));
    }

    /// How long until the project's units last for `ask` and for what waits before it; `None` for never.
    pub(crate) fn project_wait(&self, ask: &Ask, now: Instant) -> Option<Duration> {
        let class = ask.priority as usize;
        let before: u64 = self.waiting_units[..=class].iter().sum();
        self.budgets.iter().try_fold(Duration::ZERO, |longest, budget| {
            let need = budget.measure.of(ask);
            let ceiling = budget.ceilings[class];
            let ahead = if budget.measure == Measure::Units { before } else { 0 };
            budget.lease.ledger().wait(need, ceiling, now)?;
            // What more than fills a window waits for at least one.
            let wait = budget.lease.ledger().wait((need + ahead).min(ceiling), ceiling, now)?;
            Some(longest.max(wait))
        })
    }

    /// Lines up; `None` when too many wait.
    pub(crate) fn line_up(&mut self, ask: Ask) -> Option<u64> {
        if self.waiting >= self.limits.waiting_max {
            return None;
        }
        let (id, class) = (self.next_id, ask.priority as usize);
        self.next_id += 1;
        self.waiting += 1;
        self.waiting_units[class] += ask.units;
        let user = self.users.entry(ask.user).or_default();
        user.asks[class].push_back((id, ask));
        if !user.in_turn[class] {
            user.in_turn[class] = true;
            self.turns[class].push_back(ask.user);
        }
        Some(id)
    }

    /// Goes away again.
    pub(crate) fn leave(&mut self, id: u64, ask: &Ask) {
        let class = ask.priority as usize;
        let Some(user) = self.users.get_mut(&ask.user) else { return };
        let Some(at) = user.asks[class].iter().position(|(other, _)| *other == id) else { return };
        user.asks[class].remove(at);
        self.waiting -= 1;
        self.waiting_units[class] -= ask.units;
    }

    /// Lets in whoever may go now, in their order. At most `looks` users are passed over, so that one call that ends
    /// costs little however many wait; the next goes on from there.
    pub(crate) fn admit(&mut self, looks: usize, cool: Duration, now: Instant) -> Admitted {
        self.admit_up_to(usize::MAX, looks, cool, now)
    }

    /// As [`Self::admit`], so many at most; `most` is not 0.
    pub(crate) fn admit_up_to(
        &mut self,
        most: usize,
        looks: usize,
        cool: Duration,
        now: Instant,
    ) -> Admitted {
        let (mut admitted, mut looks) = (Admitted::new(), looks);
        for class in 0..self.turns.len() {
            let mut passed_over = 0;
            while passed_over < self.turns[class].len() {
                let Some(turn) = self.turns[class].pop_front() else { break };
                let head = self.users.get(&turn).and_then(|user| user.asks[class].front().copied());
                let Some((id, ask)) = head else {
                    if let Some(user) = self.users.get_mut(&turn) {
                        user.in_turn[class] = false;
                    }
                    continue;
                };
                match self.take(&ask, cool, now) {
                    Ok(grant) => {
                        self.leave(id, &ask);
                        self.turns[class].push_back(turn);
                        passed_over = 0;
                        admitted.push((id, grant));
                        if admitted.len() >= most {
                            return admitted;
                        }
                    }
                    Err(Block::User(_) | Block::UserPlaces | Block::Never | Block::Users) => {
                        self.turns[class].push_back(turn);
                        passed_over += 1;
                        looks -= 1;
                        if looks == 0 {
                            return admitted;
                        }
                    }
                    Err(Block::Project(_) | Block::Places) => {
                        self.turns[class].push_front(turn);
                        return admitted;
                    }
                }
            }
        }
        admitted
    }

    /// A call ended. With `was_sent` false its units go back.
    pub(crate) fn give_back(&mut self, grant: &Grant, was_sent: bool, now: Instant) {
        self.under_way -= 1;
        if let Some(user) = self.users.get_mut(&grant.user) {
            user.under_way -= 1;
            if !was_sent && grant.user.is_some() {
                user.window.put_back(grant.ask_units, self.slots, grant.at);
                if let (Some(id), Some(cells)) = (&grant.user, &self.cells) {
                    cells.take_back(id, grant.ask_units, grant.at);
                }
            }
        }
        if !was_sent {
            self.put_back(grant.ask_units, grant.ask_tokens, &grant.spent, now);
        }
    }

    fn put_back(&mut self, units: u64, tokens: u64, spent: &[Spent], now: Instant) {
        for (budget, slot) in self.budgets.iter_mut().zip(spent) {
            let amount = if budget.measure == Measure::Units { units } else { tokens };
            budget.lease.put_back(amount, *slot, now);
        }
    }

    /// The tokens a call really took, now that they are known.
    pub(crate) fn correct_tokens(&mut self, grant: &Grant, used: u64, now: Instant) {
        for (budget, slot) in self.budgets.iter_mut().zip(&grant.spent) {
            if budget.measure != Measure::Tokens {
                continue;
            }
            match used.checked_sub(grant.ask_tokens) {
                Some(more) => budget.lease.ledger().charge(more, now),
                None => budget.lease.put_back(grant.ask_tokens - used, *slot, now),
            }
        }
    }

    /// Makes a user wait: as long as was said, or longer each time.
    /// No longer than is believed unasked: what then goes out of one user's is bounded by their places.
    pub(crate) fn cool_user(&mut self, user: UserId, said: Option<Duration>, first: Duration, now: Instant) {
        let said = said.map(|said| said.min(BELIEVED_MAX));
        let known = self.users.entry(Some(user)).or_default();
        let recent = known.cool_until.is_some_and(|until| now < until + known.cool_last);
        known.cool_last = match said {
            Some(said) => said,
            None if recent => (known.cool_last * 2).min(COOL_MAX),
            None => first,
        };
        let until = now + known.cool_last;
        known.cool_until = Some(known.cool_until.map_or(until, |before| before.max(until)));
    }
}

/// The longest wait after refusals that name none.
pub(crate) const COOL_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::sync::Arc;

    use super::super::ledger::{Ledger, Span};
    use super::*;

    const ALL: usize = usize::MAX;

    fn gate(start: Instant, project: u64, user: u64, places: usize) -> Gate {
        let span = Span::new(Duration::from_secs(60), Duration::from_secs(1), Duration::from_secs(1));
        let lease = Lease::new(Arc::new(Ledger::new(project, span, start)), 1);
        let ceilings = [project, project * 95 / 100, project * 75 / 100];
        let limits = GateLimits {
            concurrent_max: places,
            user_concurrent_max: 3,
            user_per_minute: user,
            waiting_max: 50,
            users_max: 100,
        };
        Gate::new(
            limits,
            Slots { span, epoch: start },
            vec![Budget { measure: Measure::Units, lease, ceilings }],
        )
    }

    fn ask(user: u8, units: u64, priority: Priority) -> Ask {
        Ask { user: Some(UserId::from_bytes([user; 16])), units, tokens: 0, priority }
    }

    fn enter(gate: &mut Gate, ask: &Ask, now: Instant) -> Result<Grant, Block> {
        gate.enter(ask, Duration::ZERO, now)
    }

    #[test]
    fn the_urgent_go_first_and_users_take_turns() {
        let now = Instant::now();
        let mut gate = gate(now, 1_000, 0, 1);
        let first = enter(&mut gate, &ask(9, 1, Priority::Normal), now).expect("a place");
        let mut line = |user, priority| gate.line_up(ask(user, 1, priority)).expect("room");
        let batch = line(1, Priority::Batch);
        let normal = [line(1, Priority::Normal), line(1, Priority::Normal), line(2, Priority::Normal)];
        let high = line(3, Priority::High);
        let mut order = Vec::new();
        let mut under_way = first;
        for _ in 0..5 {
            gate.give_back(&under_way, true, now);
            let mut admitted = gate.admit(ALL, Duration::ZERO, now);
            assert_eq!(admitted.len(), 1);
            let (id, grant) = admitted.remove(0);
            order.push(id);
            under_way = grant;
        }
        assert_eq!(order, [high, normal[0], normal[2], normal[1], batch]);
        assert_eq!(gate.waiting(), 0);
    }

    #[test]
    fn the_rest_of_a_minute_is_kept_for_what_is_more_urgent() {
        let now = Instant::now();
        let mut gate = gate(now, 100, 0, 100);
        assert!(enter(&mut gate, &ask(1, 75, Priority::Batch), now).is_ok());
        assert!(matches!(enter(&mut gate, &ask(2, 1, Priority::Batch), now), Err(Block::Project(_))));
        assert!(enter(&mut gate, &ask(3, 20, Priority::Normal), now).is_ok());
        assert!(enter(&mut gate, &ask(4, 1, Priority::Normal), now).is_err());
        assert!(enter(&mut gate, &ask(5, 5, Priority::High), now).is_ok());
        assert!(enter(&mut gate, &ask(6, 1, Priority::High), now).is_err());
    }

    #[test]
    fn a_user_who_has_spent_their_minute_holds_nobody_up() {
        let now = Instant::now();
        let mut gate = gate(now, 1_000, 10, 100);
        assert!(enter(&mut gate, &ask(1, 10, Priority::Normal), now).is_ok());
        assert_eq!(
            enter(&mut gate, &ask(1, 1, Priority::Normal), now),
            Err(Block::User(Duration::from_secs(62)))
        );
        assert_eq!(enter(&mut gate, &ask(1, 11, Priority::Normal), now), Err(Block::Never));
        gate.line_up(ask(1, 1, Priority::Normal)).expect("room");
        let second = gate.line_up(ask(2, 1, Priority::Batch)).expect("room");
        let admitted = gate.admit(ALL, Duration::ZERO, now);
        assert_eq!(admitted.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [second]);
        let later = now + Duration::from_secs(62);
        assert_eq!(gate.admit(ALL, Duration::ZERO, later).len(), 1);
    }

    #[test]
    fn what_was_not_sent_costs_nothing() {
        let now = Instant::now();
        let mut gate = gate(now, 100, 100, 10);
        let grant = enter(&mut gate, &ask(1, 100, Priority::High), now).expect("units");
        gate.give_back(&grant, false, now);
        let grant = enter(&mut gate, &ask(1, 100, Priority::High), now).expect("units");
        gate.give_back(&grant, true, now);
        assert!(enter(&mut gate, &ask(1, 1, Priority::High), now).is_err());
    }

    #[test]
    fn refusals_without_a_time_make_a_user_wait_longer_each_time() {
        let mut now = Instant::now();
        let mut gate = gate(now, 100, 100, 10);
        let user = UserId::from_bytes([1; 16]);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            gate.cool_user(user, None, Duration::from_secs(1), now);
            let wait = Duration::from_secs(seconds);
            assert_eq!(enter(&mut gate, &ask(1, 1, Priority::High), now), Err(Block::User(wait)));
            now += wait;
        }
        gate.cool_user(user, None, Duration::from_secs(1), now + Duration::from_secs(600));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Call { user: u8, units: u64, class: usize },
        End(usize, bool),
        Wait(u64),
        Leave(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0..5u8, 1..40u64, 0..3usize).prop_map(|(user, units, class)| Step::Call { user, units, class }),
            5 => (0..8usize, any::<bool>()).prop_map(|(at, sent)| Step::End(at, sent)),
            2 => (0..30_000u64).prop_map(Step::Wait),
            1 => (0..8usize).prop_map(Step::Leave),
        ];
        proptest::collection::vec(step, 0..300)
    }

    proptest! {
        /// The exact model again, through the whole gate: units by user and in all over any minute, places, and that
        /// nobody is lost: in the end everyone who waits gets in.
        #[test]
        fn bounds_hold_and_everyone_gets_in(steps in steps()) {
            const PROJECT: u64 = 200;
            const USER: u64 = 80;
            let mut now = Instant::now();
            let mut gate = gate(now, PROJECT, USER, 5);
            let mut spent: Vec<(Instant, Ask)> = Vec::new();
            let mut under_way: Vec<(usize, Grant)> = Vec::new();
            let mut waiting: Vec<(u64, Ask)> = Vec::new();
            let let_in = |gate: &mut Gate, waiting: &mut Vec<(u64, Ask)>, under_way: &mut Vec<(usize, Grant)>,
                              spent: &mut Vec<(Instant, Ask)>, now: Instant| {
                for (id, grant) in gate.admit(ALL, Duration::ZERO, now) {
                    let at = waiting.iter().position(|(other, _)| *other == id).expect("it waits");
                    let (_, ask) = waiting.remove(at);
                    under_way.push((spent.len(), grant));
                    spent.push((now, ask));
                }
            };
            for step in steps {
                match step {
                    Step::Call { user, units, class } => {
                        let ask = ask(user, units, Priority::ALL[class]);
                        match enter(&mut gate, &ask, now) {
                            Ok(grant) => {
                                under_way.push((spent.len(), grant));
                                spent.push((now, ask));
                            }
                            Err(_) => waiting.extend(gate.line_up(ask).map(|id| (id, ask))),
                        }
                    }
                    Step::End(at, was_sent) if !under_way.is_empty() => {
                        let (index, grant) = under_way.remove(at % under_way.len());
                        gate.give_back(&grant, was_sent, now);
                        if !was_sent {
                            spent[index].1.units = 0;
                        }
                    }
                    Step::Leave(at) if !waiting.is_empty() => {
                        let (id, ask) = waiting.remove(at % waiting.len());
                        gate.leave(id, &ask);
                    }
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                    Step::End(..) | Step::Leave(_) => {}
                }
                let_in(&mut gate, &mut waiting, &mut under_way, &mut spent, now);
                let minute: Vec<&Ask> = spent
                    .iter()
                    .filter(|(at, _)| now.duration_since(*at) <= Duration::from_secs(61))
                    .map(|(_, ask)| ask)
                    .collect();
                prop_assert!(minute.iter().map(|ask| ask.units).sum::<u64>() <= PROJECT);
                for user in 0..5u8 {
                    let user = Some(UserId::from_bytes([user; 16]));
                    let own = minute.iter().filter(|ask| ask.user == user).map(|ask| ask.units).sum::<u64>();
                    prop_assert!(own <= USER);
                    let calls = under_way.iter().filter(|(index, _)| spent[*index].1.user == user).count();
                    prop_assert!(calls <= 3);
                }
                prop_assert!(under_way.len() <= 5 && gate.under_way() == under_way.len());
                prop_assert!(waiting.len() <= 50 && gate.waiting() == waiting.len());
            }
            for _ in 0..200 {
                for (_, grant) in under_way.drain(..) {
                    gate.give_back(&grant, true, now);
                }
                now += Duration::from_secs(31);
                let_in(&mut gate, &mut waiting, &mut under_way, &mut spent, now);
            }
            prop_assert!(waiting.is_empty());
            for (_, grant) in under_way.drain(..) {
                gate.give_back(&grant, true, now);
            }
            gate.forget_idle(now + Duration::from_secs(600));
            prop_assert!(gate.users.is_empty());
        }
    }
}

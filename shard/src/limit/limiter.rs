//! The limits of one core.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use sluice_net::Network;
use sluice_protocols::ids::{KeyId, UserId};
use sluice_protocols::problem::{Problem, ProblemKind};

use super::addresses::{Addresses, Taken};
use super::fields::{LimitFields, seconds, state_text};
use super::gcra::Short;
use super::keep::Unsaved;
use super::places::{Place, Places};
use super::stats::LimitStats;
use super::table::{Pair, RowIndex, Table};
use super::{Allowance, Class, LimitKind, Limits, Rate, RatePair, Window};

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// The user.
    pub user: UserId,
    /// The key that was shown.
    pub key: KeyId,
    /// What the user may do.
    pub allowance: &'a Allowance,
}

/// The limits of one core. `!Send`.
pub struct Limiter {
    pub(super) limits: Arc<Limits>,
    pub(super) users: RefCell<Table<2>>,
    keys: Option<RefCell<Table<1>>>,
    /// A table for each class that has a limit.
    classes: [Option<RefCell<Table<2>>>; Class::OF_USERS],
    consents: RefCell<Table<2>>,
    places: Rc<Places>,
    /// What users have for whom nothing else was said.
    pub(super) allowance: Rc<Allowance>,
    pub(super) unsaved: RefCell<Unsaved>,
    pub(super) is_saving: Cell<bool>,
    pub(super) stats: Arc<LimitStats>,
}

/// Rows of a core's table of consents, of 40 bytes: 160 KiB. Users press a button now and then, and a row is free again within
/// an hour.
const CONSENTS_TRACKED_MAX: usize = 4_096;

/// What is looked for in a table.
#[derive(Clone, Copy)]
struct Asked {
    rates: RatePair,
    /// What most in the table have.
    common: RatePair,
    now_ns: u64,
    units: u32,
}

/// A request was let in.
#[derive(Debug)]
pub(crate) struct Entered {
    /// Held until the answer is there.
    pub(crate) place: Option<Place>,
    /// What the answer tells; nothing without limits.
    pub(crate) fields: Option<LimitFields>,
}

/// A request was not let in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    kind: LimitKind,
    class: Class,
    /// The limit, unless it is one of requests at once.
    rate: Option<Rate>,
    short: Short,
}

impl Refused {
    /// As it is answered, and the fields beside it.
    pub(crate) fn told(&self) -> (Problem, Option<LimitFields>) {
        let name = self.kind.policy(self.class);
        let whose = match self.kind {
            LimitKind::User(_) => Cow::Borrowed("of yours"),
            LimitKind::Key(_) => "with this API key".into(),
            LimitKind::Class(_) => format!("of yours of the class {}", self.class.name()).into(),
            LimitKind::Address(_) => "from your address".into(),
            LimitKind::Unauthorized(_) => "from your address without a valid API key".into(),
            LimitKind::Consent(_) => "to connect accounts of this user".into(),
            LimitKind::Concurrent => {
                let detail = "too many requests of yours are under way at once; wait for an answer";
                let problem = Problem::new(ProblemKind::RateLimited, detail);
                return (problem.with_limit(name).with_retry_after_s(1), None);
            }
        };
        let (count, window) = match self.rate {
            Some(rate) if rate.window_s() == 60 => (rate.count(), "minute"),
            Some(rate) => (rate.count(), "hour"),
            None => (0, "minute"),
        };
        let Some(wait_ns) = self.short.wait_ns else {
            // Time does not help.
            let detail =
                format!("each counts as a request, and {count} requests {whose} are taken a {window}");
            let problem =
                Problem::new(ProblemKind::InvalidField, "there are more than will ever be taken at once");
            return (problem.with_error("/commands", detail), None);
        };
        let wait_s = seconds(wait_ns);
        let detail = format!("{count} requests {whose} are taken a {window}; come again later");
        let problem =
            Problem::new(ProblemKind::RateLimited, detail).with_limit(name).with_retry_after_s(wait_s);
        (problem, self.rate.map(|rate| LimitFields::refused(name, rate, wait_s)))
    }
}

impl Limiter {
    /// The limits of a core that counts in `stats`.
    pub fn new(limits: Arc<Limits>, stats: Arc<LimitStats>) -> Self {
        let config = limits.config();
        let rows = config.users_tracked_max;
        let allowance = Rc::new(limits.allowance().clone());
        // Any user may be given a limit of their own.
        let users = RefCell::new(Table::new(rows));
        let keys = (!config.key.is_none()).then(|| RefCell::new(Table::new(rows)));
        let classes = config.classes.map(|rates| (!rates.is_none()).then(|| RefCell::new(Table::new(rows))));
        Self {
            limits,
            users,
            keys,
            classes,
            consents: RefCell::new(Table::new(CONSENTS_TRACKED_MAX.min(rows))),
            places: Rc::default(),
            unsaved: RefCell::new(Unsaved::new(rows)),
            allowance,
            is_saving: Cell::new(false),
            stats,
        }
    }

    /// What all cores share.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// What it counts.
    pub fn stats(&self) -> &LimitStats {
        &self.stats
    }

    /// Lets a request of a user in, or tells why not.
    pub(crate) fn enter(&self, who: Who<'_>, class: Class, now_ns: u64) -> Result<Entered, Refused> {
        let max = who.allowance.concurrent_max;
        let place = match max {
            0 => None,
            _ => match self.places.enter(who.user, max) {
                Some(place) => Some(place),
                None => {
                    let short = Short { wait_ns: Some(1) };
                    return Err(self.refuse(LimitKind::Concurrent, class, None, short));
                }
            },
        };
        let pair = self.take(who, class, now_ns, 1)?;
        self.stats.admit(class);
        let fields = pair.map(|pair| self.fields(who.allowance, pair, now_ns));
        Ok(Entered { place, fields })
    }

    /// Takes what a request counts for beyond the one it was let in with.
    pub(crate) fn take_more(
        &self,
        who: Who<'_>,
        class: Class,
        now_ns: u64,
        units: u32,
    ) -> Result<Option<LimitFields>, Refused> {
        let pair = self.take(who, class, now_ns, units)?;
        Ok(pair.map(|pair| self.fields(who.allowance, pair, now_ns)))
    }

    /// As [`Self::enter`] without a place and without fields, for measuring. Whether it was let in.
    pub fn check(&self, who: Who<'_>, class: Class, now_ns: u64) -> bool {
        self.take(who, class, now_ns, 1).is_ok()
    }

    /// As [`Self::check`], with the value of `RateLimit` as it would be told.
    pub fn check_and_tell(&self, who: Who<'_>, class: Class, now_ns: u64) -> Option<String> {
        let pair = self.take(who, class, now_ns, 1).ok()??;
        Some(state_text(who.allowance.rates, pair, now_ns))
    }

    /// Takes from all buckets or from none; gives the states of the user's.
    fn take(&self, who: Who<'_>, class: Class, now_ns: u64, units: u32) -> Result<Option<Pair>, Refused> {
        let config = self.limits.config();
        let of_class = (class as usize) < Class::OF_USERS;
        let (class_table, class_rates) = match of_class {
            true => (self.classes[class as usize].as_ref(), config.classes[class as usize]),
            false => (None, RatePair::default()),
        };
        let rates = who.allowance.rates;
        let short = |kind: fn(Window) -> LimitKind, rates: RatePair| {
            move |(window, short): (Window, Short)| (kind(window), rates.of(window), short)
        };
        let untracked = &self.stats.untracked_users;
        let asked = Asked { rates, common: self.allowance.rates, now_ns, units };
        let looked = self.look(&self.users, words(who.user), asked, untracked);
        let user = looked.map_err(short(LimitKind::User, rates));
        let key = self.keys.as_ref().map_or(Ok(None), |keys| {
            let key = [u64::from_be_bytes(*who.key.as_bytes())];
            let asked = Asked { rates: config.key, common: config.key, now_ns, units };
            self.look(keys, key, asked, &self.stats.untracked_keys).map_err(short(LimitKind::Key, config.key))
        });
        let class_row = class_table.map_or(Ok(None), |table| {
            let asked = Asked { rates: class_rates, common: class_rates, now_ns, units };
            self.look(table, words(who.user), asked, untracked).map_err(short(LimitKind::Class, class_rates))
        });
        match (user, key, class_row) {
            (Ok(user), Ok(key), Ok(of_class)) => {
                if let Some((row, pair)) = user {
                    let mut users = self.users.borrow_mut();
                    users.set(row, pair);
                    self.note_unsaved(&mut users, row, who.user, now_ns);
                    self.stats.users.set(users.used() as u64);
                }
                if let (Some((row, pair)), Some(keys)) = (key, &self.keys) {
                    keys.borrow_mut().set(row, pair);
                    self.stats.keys.set(keys.borrow().used() as u64);
                }
                if let (Some((row, pair)), Some(table)) = (of_class, class_table) {
                    table.borrow_mut().set(row, pair);
                }
                Ok(user.map(|(_, pair)| pair))
            }
            (user, key, of_class) => {
                self.note_over(who.user, now_ns);
                // Of several the one that lasts longest, so that nobody comes again in vain.
                let all = [user.err(), key.err(), of_class.err()].into_iter().flatten();
                let longest = all.max_by_key(|(.., short)| short.wait_ns.unwrap_or(u64::MAX));
                let (kind, rate, short) = longest.expect("one of them is short");
                Err(self.refuse(kind, class, rate, short))
            }
        }
    }

    /// Has it written what a user has used beyond a limit that was lowered: a request that is refused may be the first under it,
    /// and the only one before the end of the process.
    fn note_over(&self, user: UserId, now_ns: u64) {
        let mut users = self.users.borrow_mut();
        if let Some(row) = users.find(words(user))
            && users.over(row, now_ns).is_some_and(|over| over != [0; 2])
        {
            self.note_unsaved(&mut users, row, user, now_ns);
        }
    }

    /// The states there would be; none where there is no limit, or no row.
    fn look<const K: usize>(
        &self,
        table: &RefCell<Table<K>>,
        key: [u64; K],
        Asked { rates, common, now_ns, units }: Asked,
        untracked: &sluice_core::Counter,
    ) -> Result<Option<(RowIndex, Pair)>, (Window, Short)> {
        if rates.is_none() {
            return Ok(None);
        }
        let mut table = table.borrow_mut();
        let Some(row) = table.place(key, now_ns) else {
            untracked.add(1);
            return Ok(None);
        };
        let pair = table.get_under(row, rates, common, now_ns);
        Ok(Some((row, rates.take(pair, now_ns, units)?)))
    }

    fn fields(&self, allowance: &Allowance, pair: Pair, now_ns: u64) -> LimitFields {
        LimitFields {
            policy: allowance.policy.clone(),
            state: state_text(allowance.rates, pair, now_ns).into(),
        }
    }

    fn refuse(&self, kind: LimitKind, class: Class, rate: Option<Rate>, short: Short) -> Refused {
        self.stats.refuse(kind, class);
        Refused { kind, class, rate, short }
    }

    /// Lets a browser be sent to Google on behalf of a user. It shows no credential, so what the user may do with one is
    /// another's to use up; and this is not.
    pub(crate) fn enter_consent(&self, user: UserId, now_ns: u64) -> Result<(), Refused> {
        let rates = self.limits.config().consents;
        let asked = Asked { rates, common: rates, now_ns, units: 1 };
        match self.look(&self.consents, words(user), asked, &self.stats.untracked_users) {
            Ok(Some((row, pair))) => self.consents.borrow_mut().set(row, pair),
            Ok(None) => {}
            Err((window, short)) => {
                return Err(self.refuse(LimitKind::Consent(window), Class::Other, rates.of(window), short));
            }
        }
        Ok(())
    }

    /// Lets a request in by its address.
    pub(crate) fn enter_from(&self, address: IpAddr, class: Class, now_ns: u64) -> Result<(), Refused> {
        self.take_from(self.limits.addresses(), address, now_ns)
            .map_err(|error| self.refuse_address(self.limits.addresses(), LimitKind::Address, class, error))
    }

    /// Counts a credential that nobody has.
    pub(crate) fn note_unauthorized(
        &self,
        address: IpAddr,
        class: Class,
        now_ns: u64,
    ) -> Result<(), Refused> {
        let addresses = self.limits.unauthorized();
        self.take_from(addresses, address, now_ns)
            .map_err(|error| self.refuse_address(addresses, LimitKind::Unauthorized, class, error))
    }

    /// Whether another credential of this address may be looked at; nothing is counted.
    pub(crate) fn may_look_at(&self, address: IpAddr, class: Class, now_ns: u64) -> Result<(), Refused> {
        let addresses = self.limits.unauthorized();
        addresses
            .check(Network::of(address), now_ns)
            .map_err(|error| self.refuse_address(addresses, LimitKind::Unauthorized, class, error))
    }

    fn take_from(&self, addresses: &Addresses, address: IpAddr, now_ns: u64) -> Result<(), (Window, Short)> {
        if addresses.take(Network::of(address), now_ns)? == Taken::Untracked {
            self.stats.untracked_addresses.add(u64::from(!addresses.rates().is_none()));
        }
        Ok(())
    }

    fn refuse_address(
        &self,
        addresses: &Addresses,
        kind: fn(Window) -> LimitKind,
        class: Class,
        (window, short): (Window, Short),
    ) -> Refused {
        self.refuse(kind(window), class, addresses.rates().of(window), short)
    }
}

/// A user's id as a key of a table.
pub(super) fn words(user: UserId) -> [u64; 2] {
    let id = u128::from_be_bytes(*user.as_bytes());
    #[allow(clippy::cast_possible_truncation, reason = "the two halves of it")]
    let halves = [(id >> 64) as u64, id as u64];
    halves
}

#[cfg(test)]
mod tests {
    use super::super::LimitConfig;
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn limiter(config: LimitConfig) -> Limiter {
        Limiter::new(Arc::new(Limits::new(config)), Arc::default())
    }

    fn small() -> LimitConfig {
        let mut classes = [RatePair::default(); Class::OF_USERS];
        classes[Class::Google as usize] = RatePair::new(2, 0);
        LimitConfig {
            user: RatePair::new(5, 8),
            user_concurrent_max: 2,
            key: RatePair::new(3, 0),
            classes,
            users_tracked_max: 64,
            addresses_tracked_max: 64,
            ..LimitConfig::default()
        }
    }

    fn kind(result: Result<Entered, Refused>) -> Option<LimitKind> {
        result.err().map(|refused| refused.kind)
    }

    #[test]
    fn every_limit_holds_for_itself_and_a_refusal_takes_nothing() {
        let limiter = limiter(small());
        let allowance = limiter.limits().allowance().clone();
        let (ada, bob) = (UserId::from_bytes([1; 16]), UserId::from_bytes([2; 16]));
        let who = |user, key: u8| Who { user, key: KeyId::from_bytes([key; 8]), allowance: &allowance };
        let enter = |user, key, class, now| kind(limiter.enter(who(user, key), class, now * SECOND));
        assert_eq!(enter(ada, 1, Class::Google, 0), None);
        assert_eq!(enter(ada, 1, Class::Google, 0), None);
        assert_eq!(enter(ada, 1, Class::Google, 0), Some(LimitKind::Class(Window::Minute)));
        assert_eq!(enter(ada, 1, Class::Reads, 0), None);
        assert_eq!(enter(ada, 1, Class::Reads, 0), Some(LimitKind::Key(Window::Minute)));
        // The refused ones took nothing of what the user has in all.
        assert_eq!(enter(ada, 2, Class::Reads, 0), None);
        assert_eq!(enter(ada, 2, Class::Reads, 0), None);
        assert_eq!(enter(ada, 3, Class::Reads, 0), Some(LimitKind::User(Window::Minute)));
        assert_eq!(enter(bob, 4, Class::Reads, 0), None, "another user is not concerned");
        assert_eq!(enter(ada, 3, Class::Reads, 12), None);
        for (key, second) in [(5, 24), (6, 36)] {
            assert_eq!(enter(ada, key, Class::Reads, second), None);
        }
        assert_eq!(enter(ada, 9, Class::Reads, 48), Some(LimitKind::User(Window::Hour)));
        assert_eq!(limiter.stats.admitted(Class::Reads), 7);
        assert_eq!(limiter.stats.refused(LimitKind::Key(Window::Minute), Class::Reads), 1);
        assert_eq!(limiter.stats.users.get(), 2);
    }

    #[test]
    fn requests_at_once_are_counted_until_their_places_are_dropped() {
        let limiter = limiter(small());
        let allowance = limiter.limits().allowance().clone();
        let who = |key: u8| Who {
            user: UserId::from_bytes([1; 16]),
            key: KeyId::from_bytes([key; 8]),
            allowance: &allowance,
        };
        let first = limiter.enter(who(1), Class::Reads, 0).unwrap();
        let _second = limiter.enter(who(1), Class::Reads, 0).unwrap();
        assert_eq!(kind(limiter.enter(who(1), Class::Reads, 0)), Some(LimitKind::Concurrent));
        drop(first);
        assert_eq!(kind(limiter.enter(who(1), Class::Reads, 0)), None);
        // One that is refused for its rate leaves its place at once.
        for _ in 0..5 {
            assert_eq!(kind(limiter.enter(who(1), Class::Reads, 0)), Some(LimitKind::Key(Window::Minute)));
        }
    }

    #[test]
    fn an_allowance_of_ones_own_goes_over_the_common_one() {
        let limiter = limiter(LimitConfig { user: RatePair::default(), ..small() });
        let own = Allowance::new(RatePair::new(1, 0), 0);
        let who =
            |allowance| Who { user: UserId::from_bytes([1; 16]), key: KeyId::from_bytes([1; 8]), allowance };
        assert_eq!(kind(limiter.enter(who(&own), Class::Reads, 0)), None);
        let refused = limiter.enter(who(&own), Class::Reads, 0).unwrap_err();
        assert_eq!(refused.kind, LimitKind::User(Window::Minute));
        let (problem, fields) = refused.told();
        assert_eq!(
            (problem.status(), problem.retry_after_s(), problem.limit()),
            (429, Some(60), Some("user-minute"))
        );
        assert!(problem.is_retryable());
        assert_eq!(&*fields.unwrap().state, "\"user-minute\";r=0;t=60");
        let common = limiter.limits().allowance().clone();
        let entered = limiter.enter(who(&common), Class::Reads, 0).unwrap();
        assert!(entered.fields.is_none(), "without a limit nothing is told");
    }

    #[test]
    fn a_limit_that_is_raised_has_its_burst_at_once_and_of_one_that_is_lowered_no_more_is_used_than_it_has() {
        let limiter = limiter(LimitConfig { key: RatePair::default(), ..small() });
        let (common, more) = (limiter.limits().allowance().clone(), Allowance::new(RatePair::new(50, 60), 0));
        fn who(allowance: &Allowance) -> Who<'_> {
            Who { user: UserId::from_bytes([1; 16]), key: KeyId::from_bytes([1; 8]), allowance }
        }
        let let_in = |allowance: &Allowance, second: u64| {
            (0..100)
                .take_while(|_| kind(limiter.enter(who(allowance), Class::Reads, second * SECOND)).is_none())
                .count()
        };
        assert_eq!((let_in(&common, 0), let_in(&common, 0)), (5, 0));
        // Of fifty a minute five are used; the hour has sixty.
        assert_eq!((let_in(&more, 0), let_in(&more, 0)), (45, 0));
        // Five of a minute of fifty, which are more than the hour's ten that are left.
        assert_eq!(let_in(&more, 6), 5);
        // All of five are used, and stay so for twelve seconds.
        assert_eq!(let_in(&common, 6), 0);
        // All of fifty are, those beyond five among them: to lower a limit and raise it again gives nothing.
        assert_eq!(let_in(&more, 6), 0);
        // Ten of fifty a minute came back in twelve seconds, and of the hour's sixty there are five left.
        assert_eq!(let_in(&more, 18), 5);
    }

    #[test]
    fn consents_of_a_user_have_a_bucket_of_their_own() {
        let limiter = limiter(LimitConfig { consents: RatePair::new(2, 3), ..small() });
        let (ada, bob) = (UserId::from_bytes([1; 16]), UserId::from_bytes([2; 16]));
        let enter = |user, second: u64| limiter.enter_consent(user, second * SECOND).err();
        assert_eq!((enter(ada, 0), enter(ada, 0)), (None, None));
        let refused = enter(ada, 0).unwrap();
        assert_eq!(refused.kind, LimitKind::Consent(Window::Minute));
        let (problem, fields) = refused.told();
        assert_eq!(
            (problem.status(), problem.limit(), problem.retry_after_s()),
            (429, Some("consent-minute"), Some(30))
        );
        assert_eq!(&*fields.unwrap().policy, "\"consent-minute\";q=2;w=60");
        assert_eq!(enter(bob, 0), None, "another user is not concerned");
        assert_eq!(enter(ada, 30), None);
        assert_eq!(enter(ada, 60).unwrap().kind, LimitKind::Consent(Window::Hour));
        // What the user asks for with a credential is counted apart.
        let allowance = limiter.limits().allowance().clone();
        let who = Who { user: ada, key: KeyId::from_bytes([1; 8]), allowance: &allowance };
        assert_eq!(kind(limiter.enter(who, Class::Reads, 60 * SECOND)), None);
        assert_eq!(limiter.stats.refused(LimitKind::Consent(Window::Hour), Class::Other), 1);
    }

    #[test]
    fn what_never_fits_is_not_to_be_tried_again() {
        let limiter = limiter(small());
        let allowance = limiter.limits().allowance().clone();
        let who =
            Who { user: UserId::from_bytes([1; 16]), key: KeyId::from_bytes([1; 8]), allowance: &allowance };
        let refused = limiter.take_more(who, Class::Commands, 0, 9).unwrap_err();
        let (problem, _) = refused.told();
        assert_eq!((problem.status(), problem.is_retryable()), (422, false), "{problem:?}");
    }

    #[test]
    fn keys_that_nobody_has_are_counted_by_address_and_good_ones_are_not() {
        let limiter = limiter(small());
        let address: IpAddr = [192, 0, 2, 1].into();
        for _ in 0..1_000 {
            limiter.may_look_at(address, Class::Reads, 0).unwrap();
        }
        for _ in 0..20 {
            limiter.note_unauthorized(address, Class::Reads, 0).unwrap();
        }
        let refused = limiter.note_unauthorized(address, Class::Reads, 0).unwrap_err();
        assert_eq!(refused.kind, LimitKind::Unauthorized(Window::Minute));
        assert_eq!(limiter.may_look_at(address, Class::Reads, 0).unwrap_err().kind, refused.kind);
        assert!(limiter.note_unauthorized([192, 0, 2, 2].into(), Class::Reads, 0).is_ok());
        assert!(limiter.enter_from(address, Class::Reads, 0).is_ok(), "that is another limit");
    }
}

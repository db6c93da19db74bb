//! How many requests are taken: of a user, with a key, of a class of routes, from an address, and after failed
//! authentications.
//!
//! ```text
//! where a request enters:   its address            -> shared by all cores (Addresses)
//! on the core of its user:  requests at once       -> Places
//!                           user, key, class       -> tables of the core (Table), all or none taken from
//!                           a key nobody has       -> its address again, more tightly
//! ```
//! A user's requests all reach the core that owns the user, so their buckets are exact without a word to other cores.
//!
//! Invariants:
//! - a request takes one from each of its buckets or from none; one that is refused takes nothing;
//! - memory is bounded when the process starts; who finds no row is let in uncounted (a counter tells), for a table that
//!   is too small must not lock anybody out;
//! - nothing here waits, and a check allocates the text of its fields alone;
//! - what users have used survives the process, but for some seconds ([`keep`]).

mod addresses;
mod allowance;
mod fields;
mod gcra;
mod keep;
mod limiter;
mod places;
mod stats;
mod table;

use std::time::Instant;

pub use addresses::{Addresses, Taken};
pub use allowance::Allowance;
pub(crate) use fields::LimitFields;
pub use gcra::{COUNT_MAX, Rate, Short};
pub(crate) use limiter::{Entered, Refused};
pub use limiter::{Limiter, Who};
pub(crate) use places::Place;
pub use stats::LimitStats;
pub(crate) use table::Pair;

/// Over what time a limit holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// 60 s.
    Minute,
    /// 3,600 s.
    Hour,
}

/// A limit by the minute and one by the hour, or either, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RatePair {
    /// By the minute.
    pub minute: Option<Rate>,
    /// By the hour.
    pub hour: Option<Rate>,
}

impl RatePair {
    /// So many requests a minute and an hour; 0 is no limit.
    pub fn new(per_minute: u32, per_hour: u32) -> Self {
        Self { minute: Rate::per_minute(per_minute), hour: Rate::per_hour(per_hour) }
    }

    /// Whether there is no limit.
    pub fn is_none(self) -> bool {
        self.minute.is_none() && self.hour.is_none()
    }

    /// The limits there are.
    pub fn each(self) -> impl Iterator<Item = (Window, Rate)> {
        let both = [(Window::Minute, self.minute), (Window::Hour, self.hour)];
        both.into_iter().filter_map(|(window, rate)| Some((window, rate?)))
    }

    /// The limit of a window.
    pub fn of(self, window: Window) -> Option<Rate> {
        match window {
            Window::Minute => self.minute,
            Window::Hour => self.hour,
        }
    }

    /// The counts of both, 0 for none.
    pub(crate) fn counts(self) -> [u32; 2] {
        [self.minute, self.hour].map(|rate| rate.map_or(0, Rate::count))
    }

    /// The states of buckets that were of `before` until now, and what is used beyond them ([`Rate::take_over`]). Where
    /// there was no limit nothing was counted, so a bucket begins full.
    pub(crate) fn take_over(self, before: Self, pair: Pair, over: Pair, now_ns: u64) -> (Pair, Pair) {
        let [minute, hour] = [Window::Minute, Window::Hour].map(|window| {
            let of = window as usize;
            match (before.of(window), self.of(window)) {
                (Some(before), Some(after)) => after.take_over(before, pair[of], over[of], now_ns),
                _ => (0, 0),
            }
        });
        ([minute.0, hour.0], [minute.1, hour.1])
    }

    /// Takes `units` out of both buckets, and gives their states.
    ///
    /// # Errors
    /// The bucket that is short, and if both are the one that is so for longer.
    #[inline]
    pub(crate) fn take(self, pair: Pair, now_ns: u64, units: u32) -> Result<Pair, (Window, Short)> {
        let take = |window: Window| match self.of(window) {
            None => Ok(pair[window as usize]),
            Some(rate) => rate.take(pair[window as usize], now_ns, units).map_err(|short| (window, short)),
        };
        match (take(Window::Minute), take(Window::Hour)) {
            (Ok(minute), Ok(hour)) => Ok([minute, hour]),
            (Err(short), Ok(_)) | (Ok(_), Err(short)) => Err(short),
            (Err(minute), Err(hour)) => {
                let longest = |short: &(Window, Short)| short.1.wait_ns.unwrap_or(u64::MAX);
                Err(if longest(&minute) > longest(&hour) { minute } else { hour })
            }
        }
    }
}

/// What requests are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Commands, runs of workflows, and what has tasks carried out.
    Commands,
    /// Reads of what is kept here.
    Reads,
    /// Mail, calendar and files as they are.
    Google,
    /// Changes of what is kept here.
    Administration,
    /// In nobody's name.
    Other,
}

impl Class {
    /// Every class, in declaration order.
    pub const ALL: [Self; 5] = [Self::Commands, Self::Reads, Self::Google, Self::Administration, Self::Other];
    /// Those of requests in a user's name, which come first.
    pub(crate) const OF_USERS: usize = 4;

    /// The value of the label `class`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Commands => "commands",
            Self::Reads => "reads",
            Self::Google => "google",
            Self::Administration => "administration",
            Self::Other => "other",
        }
    }
}

/// A limit that a request may meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// All requests of a user.
    User(Window),
    /// Those with one key.
    Key(Window),
    /// A user's requests of one class.
    Class(Window),
    /// Those from one address.
    Address(Window),
    /// Those from one address whose key nobody has.
    Unauthorized(Window),
    /// A user's requests at once.
    Concurrent,
    /// Browsers sent to Google on behalf of a user, by whoever has a link of theirs.
    Consent(Window),
}

impl LimitKind {
    /// Every kind, in the order of [`Self::index`].
    pub const ALL: [Self; 13] = [
        Self::User(Window::Minute),
        Self::User(Window::Hour),
        Self::Key(Window::Minute),
        Self::Key(Window::Hour),
        Self::Class(Window::Minute),
        Self::Class(Window::Hour),
        Self::Address(Window::Minute),
        Self::Address(Window::Hour),
        Self::Unauthorized(Window::Minute),
        Self::Unauthorized(Window::Hour),
        Self::Concurrent,
        Self::Consent(Window::Minute),
        Self::Consent(Window::Hour),
    ];

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::User(window) => window as usize,
            Self::Key(window) => 2 + window as usize,
            Self::Class(window) => 4 + window as usize,
            Self::Address(window) => 6 + window as usize,
            Self::Unauthorized(window) => 8 + window as usize,
            Self::Concurrent => 10,
            Self::Consent(window) => 11 + window as usize,
        }
    }

    /// The value of the label `limit`.
    pub const fn name(self) -> &'static str {
        const NAMES: [&str; 13] = [
            "user-minute",
            "user-hour",
            "key-minute",
            "key-hour",
            "class-minute",
            "class-hour",
            "address-minute",
            "address-hour",
            "unauthorized-minute",
            "unauthorized-hour",
            "user-concurrent",
            "consent-minute",
            "consent-hour",
        ];
        NAMES[self.index()]
    }

    /// What callers are told it is called: limits of a class by their class.
    pub(crate) const fn policy(self, class: Class) -> &'static str {
        match (self, class) {
            (Self::Class(Window::Minute), Class::Commands) => "commands-minute",
            (Self::Class(Window::Hour), Class::Commands) => "commands-hour",
            (Self::Class(Window::Minute), Class::Reads) => "reads-minute",
            (Self::Class(Window::Hour), Class::Reads) => "reads-hour",
            (Self::Class(Window::Minute), Class::Google) => "google-minute",
            (Self::Class(Window::Hour), Class::Google) => "google-hour",
            (Self::Class(Window::Minute), Class::Administration) => "administration-minute",
            (Self::Class(Window::Hour), Class::Administration) => "administration-hour",
            _ => self.name(),
        }
    }
}

/// Limits and sizes, as they are configured. 0 is no limit.
#[derive(Clone, Debug)]
pub struct LimitConfig {
    /// Requests of a user, by minute and hour. Default 100 and 1,000.
    pub user: RatePair,
    /// Requests of a user at once. Default 128.
    pub user_concurrent_max: u32,
    /// Requests with one key. Default none: all of a user's keys share what the user has.
    pub key: RatePair,
    /// Requests of a user of each class, in the order of [`Class::ALL`]. Default none.
    pub classes: [RatePair; Class::OF_USERS],
    /// Requests from an address. Default 6,000 and 100,000.
    pub address: RatePair,
    /// Requests from an address with keys that nobody has. Default 20 and 200.
    pub unauthorized: RatePair,
    /// Browsers that are sent to Google on behalf of a user, each of which costs a synced write. 20 and 100: more than anybody
    /// presses a button, and no setting. Each core counts them in a table of 4,096 rows of 40 bytes; whoever finds no row is let in
    /// and counted in `limit_untracked`.
    pub consents: RatePair,
    /// Rows of each core's tables of users and of keys. Default 131,072, of 32 bytes for users and 24 for keys,
    /// and 8 more for those whose limit is not what all have.
    pub users_tracked_max: usize,
    /// Rows of the process's tables of addresses. Default 65,536, of 24 bytes.
    pub addresses_tracked_max: usize,
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self {
            user: RatePair::new(100, 1_000),
            user_concurrent_max: 128,
            key: RatePair::default(),
            classes: [RatePair::default(); Class::OF_USERS],
            address: RatePair::new(6_000, 100_000),
            unauthorized: RatePair::new(20, 200),
            consents: RatePair::new(20, 100),
            users_tracked_max: 1 << 17,
            addresses_tracked_max: 1 << 16,
        }
    }
}

impl LimitConfig {
    /// No limits at all.
    pub fn off() -> Self {
        Self {
            user: RatePair::default(),
            user_concurrent_max: 0,
            address: RatePair::default(),
            unauthorized: RatePair::default(),
            consents: RatePair::default(),
            ..Self::default()
        }
    }
}

/// What all cores share of the limits.
#[derive(Debug)]
pub struct Limits {
    config: LimitConfig,
    /// From which moments are counted.
    epoch: Instant,
    /// What users have for whom nothing else was said.
    allowance: Allowance,
    addresses: Addresses,
    unauthorized: Addresses,
}

impl Limits {
    /// One for the process.
    pub fn new(config: LimitConfig) -> Self {
        let allowance = Allowance::for_all(config.user, config.user_concurrent_max);
        let addresses = Addresses::new(config.addresses_tracked_max, config.address);
        let unauthorized = Addresses::new(config.addresses_tracked_max, config.unauthorized);
        Self { config, epoch: Instant::now(), allowance, addresses, unauthorized }
    }

    /// Settings.
    pub fn config(&self) -> &LimitConfig {
        &self.config
    }

    /// Nanoseconds from the start of the process to `now`.
    pub fn ns(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX >> 1)
    }

    /// What users have for whom nothing else was said.
    pub fn allowance(&self) -> &Allowance {
        &self.allowance
    }

    /// The buckets of addresses.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The buckets of addresses whose keys nobody has.
    pub fn unauthorized(&self) -> &Addresses {
        &self.unauthorized
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_stand_where_their_numbers_say() {
        for (index, kind) in LimitKind::ALL.into_iter().enumerate() {
            assert_eq!(kind.index(), index);
        }
        for (index, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, index);
        }
    }

    #[test]
    fn of_two_limits_that_are_short_the_longer_wait_is_told() {
        let rates = RatePair::new(1, 1);
        let pair = rates.take([0, 0], 0, 1).unwrap();
        let (window, short) = rates.take(pair, 0, 1).unwrap_err();
        assert_eq!((window, short.wait_ns), (Window::Hour, Some(3_600_000_000_000)));
        let (window, _) = RatePair::new(2, 1).take([0, 0], 0, 2).unwrap_err();
        assert_eq!(window, Window::Hour);
        let none = RatePair::default();
        assert_eq!((none.counts(), RatePair::new(2, 1).counts()), ([0, 0], [2, 1]));
        assert!(none.is_none() && none.take([7, 8], 0, u32::MAX) == Ok([7, 8]));
    }
}

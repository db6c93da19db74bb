//! What is used of the minutes' budgets, in words that outlive the process, so that the next one does not begin with a minute
//! that was spent already.
//!
//! ```text
//! words: head | a ring of seconds for each budget of the project | by service, cells of users, each a ring of tens of seconds
//! word:  which second, or ten of them, since 1970 (32 bits) | units (32 bits)
//! ```
//!
//! Invariants:
//! - Units stand here from the moment they are taken, before anything is sent, so a process that is killed has told of all it
//!   used. What a core has claimed and not spent yet counts as used.
//! - Units are never taken for older than they are: they count as of the end of their second, or ten seconds.
//! - Users share cells by a hash of their ids: a user's own units are all in the cell, beside others' perhaps. So no user is
//!   given back what they used.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use sluice_net::egress::Upstream;
use sluice_protocols::ids::UserId;
use xxhash_rust::xxh3::xxh3_64;

use super::gate::Measure;

/// The first word of a file that has this layout.
const MAGIC: u64 = u64::from_le_bytes(*b"slcqmin1");
const HEAD_WORDS: usize = 8;
/// Seconds of a budget: more than a minute and the largest slack.
const RING_WORDS: usize = 128;
const RINGS: usize = 5;
/// Cells by service. With so many users in one minute as there are cells, two of three share theirs with somebody.
const CELLS: usize = 8_192;
/// A cell's tens of seconds: more than a minute and the largest slack.
const CELL_WORDS: usize = 16;
const CELL_S: u64 = 10;
const SERVICES: usize = 3;
const UNITS: u64 = u32::MAX as u64;

/// How many words it takes.
pub const WORDS: usize = HEAD_WORDS + RINGS * RING_WORDS + SERVICES * CELLS * CELL_WORDS;

/// Which run of the machine this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Another number after each start of it.
    pub id: u64,
    /// How long ago that was.
    pub up: Duration,
}

/// What an earlier process has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// All it used, if there was one.
    Known,
    /// The machine was started since, and not long ago: words may be missing.
    Doubtful,
}

/// The words, and how their time relates to the clock that does not jump.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Minutes {
    words: &'static [AtomicU64],
    epoch: Instant,
    epoch_unix_ms: u64,
}

/// One budget's ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    words: &'static [AtomicU64],
    epoch: Instant,
    epoch_unix_ms: u64,
}

/// The cells of one service's users.
#[derive(Clone, Debug)]
pub(crate) struct Cells {
    words: &'static [AtomicU64],
    epoch: Instant,
    epoch_unix_ms: u64,
    /// What stood in them at the start, by cell, as words. What this process counts it knows itself, by user.
    earlier: Arc<HashMap<usize, Vec<u64>, RandomState>>,
}

/// Milliseconds since 1970 of a moment.
fn unix_ms(epoch: Instant, epoch_unix_ms: u64, at: Instant) -> u64 {
    let since = at.saturating_duration_since(epoch).as_millis();
    epoch_unix_ms.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
}

fn add(ring: &[AtomicU64], stamp: u64, units: u64) {
    let word = &ring[usize::try_from(stamp % ring.len() as u64).unwrap_or(0)];
    let stamp = stamp & UNITS;
    let raise = |old: u64| {
        let known = if old >> 32 == stamp { old & UNITS } else { 0 };
        Some(stamp << 32 | known.saturating_add(units).min(UNITS))
    };
    let _always = word.fetch_update(Relaxed, Relaxed, raise);
}

fn take_back(ring: &[AtomicU64], stamp: u64, units: u64) {
    let word = &ring[usize::try_from(stamp % ring.len() as u64).unwrap_or(0)];
    let stamp = stamp & UNITS;
    let lower = |old: u64| (old >> 32 == stamp).then(|| stamp << 32 | (old & UNITS).saturating_sub(units));
    // A ring that went round since has no more of it.
    let _known = word.fetch_update(Relaxed, Relaxed, lower);
}

/// What words of a ring say: how long ago it was used at the latest, oldest first.
fn read(words: impl Iterator<Item = u64>, stamp_ms: u64, now_unix_ms: u64) -> Vec<(Duration, u64)> {
    let of_word = |word: u64| {
        let end_ms = (word >> 32).saturating_add(1).saturating_mul(stamp_ms);
        // What is of a time to come, as after the clock was set back, was used just now.
        (Duration::from_millis(now_unix_ms.saturating_sub(end_ms)), word & UNITS)
    };
    let mut used: Vec<_> = words.map(of_word).filter(|(_, units)| *units > 0).collect();
    used.sort_unstable_by(|one, other| other.cmp(one));
    used
}

impl Minutes {
    /// Takes the words up; `None` where there are too few. `epoch` is any moment.
    pub(crate) fn open(words: &'static [AtomicU64], epoch: Instant, boot: Boot) -> Option<(Self, Left)> {
        if words.len() < WORDS {
            return None;
        }
        let (now, unix) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        let since = now.saturating_duration_since(epoch);
        let epoch_unix_ms = u64::try_from(unix.saturating_sub(since).as_millis()).unwrap_or(0);
        let (magic, of_boot) = (words[0].swap(MAGIC, Relaxed), words[1].swap(boot.id, Relaxed));
        if magic != MAGIC {
            words[2..WORDS].iter().for_each(|word| word.store(0, Relaxed));
        }
        let is_recent = boot.up < 2 * super::MINUTE;
        let left =
            if magic == MAGIC && of_boot != boot.id && is_recent { Left::Doubtful } else { Left::Known };
        Some((Self { words, epoch, epoch_unix_ms }, left))
    }

    /// The ring of a budget by the minute; `None` for one that has none.
    pub(crate) fn ring(&self, upstream: Upstream, measure: Measure) -> Option<Ring> {
        let index = match (upstream, measure) {
            (Upstream::Gmail, _) => 0,
            (Upstream::Calendar, _) => 1,
            (Upstream::Drive, _) => 2,
            (Upstream::OpenAi, Measure::Units) => 3,
            (Upstream::OpenAi, Measure::Tokens) => 4,
            (Upstream::OAuth, _) => return None,
        };
        let begin = HEAD_WORDS + index * RING_WORDS;
        let Self { words, epoch, epoch_unix_ms } = *self;
        Some(Ring { words: &words[begin..begin + RING_WORDS], epoch, epoch_unix_ms })
    }

    /// The cells of a service's users; `None` for an upstream that counts none. To be asked for before any of them is counted.
    pub(crate) fn cells(&self, upstream: Upstream) -> Option<Cells> {
        let index = match upstream {
            Upstream::Gmail => 0,
            Upstream::Calendar => 1,
            Upstream::Drive => 2,
            Upstream::OpenAi | Upstream::OAuth => return None,
        };
        let begin = HEAD_WORDS + RINGS * RING_WORDS + index * CELLS * CELL_WORDS;
        let Self { words, epoch, epoch_unix_ms } = *self;
        let words = &words[begin..begin + CELLS * CELL_WORDS];
        let stale_before = (epoch_unix_ms / 1_000 / CELL_S).saturating_sub(CELL_WORDS as u64) & UNITS;
        let of_cell = |(index, cell): (usize, &[AtomicU64])| {
            let words = cell.iter().map(|word| word.load(Relaxed));
            let recent: Vec<u64> =
                words.filter(|word| word & UNITS > 0 && word >> 32 >= stale_before).collect();
            (!recent.is_empty()).then_some((index, recent))
        };
        let earlier = Arc::new(words.chunks_exact(CELL_WORDS).enumerate().filter_map(of_cell).collect());
        Some(Cells { words, epoch, epoch_unix_ms, earlier })
    }
}

impl Ring {
    fn second(&self, at: Instant) -> u64 {
        unix_ms(self.epoch, self.epoch_unix_ms, at) / 1_000
    }

    /// Counts units taken at this moment.
    pub(crate) fn add(&self, units: u64, at: Instant) {
        add(self.words, self.second(at), units);
    }

    /// Takes units back that were taken then.
    pub(crate) fn take_back(&self, units: u64, then: Instant) {
        take_back(self.words, self.second(then), units);
    }

    /// What is used, oldest first, each with how long ago that was at the latest.
    pub(crate) fn used(&self, now: Instant) -> Vec<(Duration, u64)> {
        read(
            self.words.iter().map(|word| word.load(Relaxed)),
            1_000,
            unix_ms(self.epoch, self.epoch_unix_ms, now),
        )
    }
}

impl Cells {
    fn index(user: &UserId) -> usize {
        usize::try_from(xxh3_64(user.as_bytes()) % CELLS as u64).unwrap_or(0)
    }

    fn cell(&self, user: &UserId) -> &[AtomicU64] {
        let index = Self::index(user);
        &self.words[index * CELL_WORDS..(index + 1) * CELL_WORDS]
    }

    fn stamp(&self, at: Instant) -> u64 {
        unix_ms(self.epoch, self.epoch_unix_ms, at) / 1_000 / CELL_S
    }

    /// Counts a user's units.
    pub(crate) fn add(&self, user: &UserId, units: u64, at: Instant) {
        add(self.cell(user), self.stamp(at), units);
    }

    /// Takes units back that were taken then.
    pub(crate) fn take_back(&self, user: &UserId, units: u64, then: Instant) {
        take_back(self.cell(user), self.stamp(then), units);
    }

    /// What earlier processes left of a user and those who share their cell, oldest first.
    pub(crate) fn left(&self, user: &UserId, now: Instant) -> Vec<(Duration, u64)> {
        let Some(words) = self.earlier.get(&Self::index(user)) else { return Vec::new() };
        read(words.iter().copied(), CELL_S * 1_000, unix_ms(self.epoch, self.epoch_unix_ms, now))
    }
}

#[cfg(test)]
mod tests {
    use sluice_protocols::api::Priority;

    use super::super::{Ask, Limits, QuotaConfig, Quotas};
    use super::*;

    const HERE: Boot = Boot { id: 7, up: Duration::from_secs(10_000) };

    fn words() -> &'static [AtomicU64] {
        (0..WORDS).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().leak()
    }

    /// A process on these words: a project may spend 100 a minute, a user 50.
    fn process(words: &'static [AtomicU64], boot: Boot) -> Arc<Quotas> {
        let calendar = Limits { project_per_minute: 100, user_per_minute: 50, per_day: 0 };
        let quotas = Quotas::new(QuotaConfig { calendar, ..QuotaConfig::default() }, 1);
        quotas.keep_minutes(words, boot);
        quotas
    }

    fn ask(user: u8, units: u64) -> Ask {
        Ask { user: Some(UserId::from_bytes([user; 16])), units, tokens: 0, priority: Priority::High }
    }

    fn used(quotas: &Quotas, now: Instant) -> u64 {
        let budgets = quotas.budgets(Upstream::Calendar, now);
        budgets.into_iter().find(|(name, ..)| *name == "units_minute").map_or(0, |(.., used)| used)
    }

    #[test]
    fn a_process_goes_on_with_the_minute_of_the_one_before_for_the_project_and_its_users() {
        let (words, now) = (words(), Instant::now());
        let mut first = process(words, HERE).gate(Upstream::Calendar);
        assert!(first.enter(&ask(1, 40), Duration::ZERO, now).is_ok());
        let unsent = first.enter(&ask(2, 10), Duration::ZERO, now).expect("room");
        first.give_back(&unsent, false, now);
        // Whatever ends it: nothing more is written.
        std::mem::forget(first);
        let quotas = process(words, HERE);
        // What a core has at hand counts as used.
        assert!((40..=50).contains(&used(&quotas, now)), "{}", used(&quotas, now));
        let mut second = quotas.gate(Upstream::Calendar);
        assert!(second.enter(&ask(1, 11), Duration::ZERO, now).is_err(), "the user has 10 left");
        assert!(second.enter(&ask(1, 10), Duration::ZERO, now).is_ok());
        assert!(second.enter(&ask(3, 30), Duration::ZERO, now).is_ok());
        std::mem::forget(second);
        // The one after that knows of both.
        let quotas = process(words, HERE);
        assert!((80..=100).contains(&used(&quotas, now)), "{}", used(&quotas, now));
        let mut third = quotas.gate(Upstream::Calendar);
        assert!(third.enter(&ask(1, 1), Duration::ZERO, now).is_err(), "the user's minute is spent");
        assert!(third.enter(&ask(4, 21), Duration::ZERO, now).is_err(), "the project has 20 left at most");
        // Nothing is left of it after the minute, and the seconds that units are counted by.
        let later = now + Duration::from_secs(75);
        assert_eq!(used(&quotas, later), 0);
        assert!(third.enter(&ask(1, 50), Duration::ZERO, later).is_ok());
    }

    #[test]
    fn what_is_doubtful_after_a_start_of_the_machine_counts_as_used() {
        let (words, now) = (words(), Instant::now());
        drop(process(words, HERE));
        // Long ago, no minute of before it can matter.
        assert_eq!(used(&process(words, Boot { id: 8, ..HERE }), now), 0);
        assert_eq!(used(&process(words, Boot { id: 9, up: Duration::from_secs(20) }), now), 100);
        assert_eq!(
            used(&process(words, Boot { id: 9, up: Duration::from_secs(21) }), now),
            100,
            "it is written"
        );
    }

    #[test]
    fn other_words_than_these_are_no_record() {
        let words = words();
        words.iter().for_each(|word| word.store(u64::MAX / 3, Relaxed));
        assert_eq!(used(&process(words, HERE), Instant::now()), 0);
        let too_few = &words[..WORDS - 1];
        assert!(Minutes::open(too_few, Instant::now(), HERE).is_none());
    }

    #[test]
    fn a_ring_that_went_round_holds_nothing_of_before() {
        let ring: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
        add(&ring, 10, 5);
        add(&ring, 14, 3);
        take_back(&ring, 10, 5);
        let used = |now_ms| read(ring.iter().map(|word| word.load(Relaxed)), 1_000, now_ms);
        assert_eq!(used(15_500), [(Duration::from_millis(500), 3)]);
        add(&ring, 14, u64::MAX);
        take_back(&ring, 14, 1);
        // Of a time to come: just now.
        assert_eq!(used(12_000), [(Duration::ZERO, UNITS - 1)]);
    }
}

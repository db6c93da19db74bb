//! One limit: the generic cell rate algorithm (ITU-T I.371, annex A), in whole nanoseconds.
//!
//! **The model.** A bucket holds `count` requests and is full at first. Each request takes one out; one comes back each
//! *interval*, which is the window divided by `count`, rounded up to a nanosecond. Said without a bucket: a stretch of
//! time of length `d` holds at most `count + d / interval` requests, and a request is refused exactly when one stretch
//! that ends with it would hold more. So a minute that begins with a full bucket may see up to twice `count`, and every
//! longer time sees `count` a minute.
//!
//! **The state** is one number: the moment at which the bucket is full again. What lies in the past is a full bucket, so
//! a state of 0 is one, and whoever forgets a state that lies in the past has forgotten nothing.
//!
//! **Another limit** takes a bucket over with what is used of it: the first request that is decided by the new limit finds
//! as many more in the bucket as the limit is higher, at once, or as many fewer as it is lower, but never fewer than none.
//! What was used comes back at the new rate from then on. What was used *beyond* a lower limit keeps nobody from what that
//! limit gives, but is not forgotten: it comes back at its rate once the bucket is full, and what has not come back by
//! then is used when the limit is raised again. So whatever a limit is changed to and back, a stretch of time holds at
//! most the highest count of it and what came back in it.
//!
//! **No overflow.** Moments are nanoseconds since the start of the process; they reach 2^63 after 292 years. A bucket
//! refills in `count * interval < window + count` nanoseconds, below 2^42 for the bounds that [`Rate::new`] keeps, and
//! no state lies further ahead of the latest moment seen than that. So every sum stays below 2^64. What is used beyond a
//! bucket is cut to [`OVER_NS_MAX`], which takes 36 years to come back.
//!
//! **A clock that goes back** makes the state lie further ahead: requests wait until the clock is where it was, and none
//! is admitted that would not have been before. Nothing is divided by, or subtracted from, what may be smaller.

/// Most requests of a limit.
pub const COUNT_MAX: u32 = 10_000_000;
/// Longest window, in seconds.
const WINDOW_S_MAX: u32 = 3_600;
/// The longest time that what is used beyond a bucket is known to take.
pub(super) const OVER_NS_MAX: u64 = 1 << 60;
const SECOND_NS: u64 = 1_000_000_000;

const _: () = assert!(WINDOW_S_MAX as u64 * SECOND_NS + (COUNT_MAX as u64) < 1 << 42);
// The interval is never 0, and rounding it up makes a limit at most 0.02 % lower.
const _: () = assert!(60 * SECOND_NS / COUNT_MAX as u64 >= 5_000);

/// So many requests a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval_ns: u64,
    count: u32,
    window_s: u32,
}

/// The bucket does not hold that many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    /// How long until it does, if nothing else is taken, in nanoseconds; `None` when it never will.
    pub wait_ns: Option<u64>,
}

impl Rate {
    /// `count` requests a minute; none for 0, which is no limit. Counts above [`COUNT_MAX`] are cut to it.
    pub fn per_minute(count: u32) -> Option<Self> {
        Self::new(count, 60)
    }

    /// `count` requests an hour; as [`Self::per_minute`].
    pub fn per_hour(count: u32) -> Option<Self> {
        Self::new(count, WINDOW_S_MAX)
    }

    fn new(count: u32, window_s: u32) -> Option<Self> {
        let count = count.min(COUNT_MAX);
        let window_ns = u64::from(window_s) * SECOND_NS;
        (count > 0).then(|| Self { interval_ns: window_ns.div_ceil(u64::from(count)), count, window_s })
    }

    /// Requests in a full bucket.
    pub fn count(self) -> u32 {
        self.count
    }

    /// The window, in seconds.
    pub fn window_s(self) -> u32 {
        self.window_s
    }

    /// The time in which one request comes back, in nanoseconds.
    pub fn interval_ns(self) -> u64 {
        self.interval_ns
    }

    /// The time in which an empty bucket fills, in nanoseconds.
    pub fn depth_ns(self) -> u64 {
        self.interval_ns * u64::from(self.count)
    }

    /// Takes `units` out of a bucket that is full again at `full_at_ns`, and gives its new state.
    ///
    /// # Errors
    /// [`Short`]: nothing is taken.
    #[inline]
    pub fn take(self, full_at_ns: u64, now_ns: u64, units: u32) -> Result<u64, Short> {
        if units > self.count {
            return Err(Short { wait_ns: None });
        }
        // At most the depth, so it cannot overflow.
        let taken = full_at_ns.max(now_ns) + self.interval_ns * u64::from(units);
        let latest = now_ns + self.depth_ns();
        if taken > latest { Err(Short { wait_ns: Some(taken - latest) }) } else { Ok(taken) }
    }

    /// The state of a bucket to which `units` that were taken and not used go back.
    pub fn give_back(self, full_at_ns: u64, units: u32) -> u64 {
        full_at_ns.saturating_sub(self.interval_ns.saturating_mul(u64::from(units)))
    }

    /// The state of a bucket that was one of `before` until now, and what is used beyond it, in the time that it takes to
    /// come back: what was used, within the bucket or (`over_ns`) beyond it, stays used. Rounded up to a nanosecond, so never
    /// by so much that a whole request less is left.
    pub fn take_over(self, before: Self, full_at_ns: u64, over_ns: u64, now_ns: u64) -> (u64, u64) {
        let ahead_ns = u128::from(full_at_ns.saturating_sub(now_ns)) + u128::from(over_ns);
        let used_ns = (ahead_ns * u128::from(self.interval_ns)).div_ceil(u128::from(before.interval_ns));
        let used_ns = u64::try_from(used_ns).unwrap_or(u64::MAX);
        let within_ns = used_ns.min(self.depth_ns());
        (now_ns + within_ns, (used_ns - within_ns).min(OVER_NS_MAX))
    }

    /// Requests left in the bucket.
    pub fn left(self, full_at_ns: u64, now_ns: u64) -> u32 {
        let room_ns = self.depth_ns().saturating_sub(full_at_ns.saturating_sub(now_ns));
        // At most `count`.
        u32::try_from(room_ns / self.interval_ns).unwrap_or(self.count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The model as its definition says it: every request admitted so far, and no stretch that ends now may be too full.
    #[derive(Default)]
    struct Model {
        admitted: Vec<u64>,
    }

    impl Model {
        fn allows(&self, rate: Rate, now_ns: u64, units: u32) -> bool {
            // A stretch that begins between two requests holds no more than the one that begins with the later of them.
            let begins = self.admitted.iter().copied().chain([now_ns]);
            begins.enumerate().all(|(index, begin_ns)| {
                let held = (self.admitted.len() - index) as u128 + u128::from(units);
                // held <= count + d / interval, without a division.
                let (count, interval) = (u128::from(rate.count), u128::from(rate.interval_ns));
                held * interval <= count * interval + u128::from(now_ns - begin_ns)
            })
        }

        fn take(&mut self, now_ns: u64, units: u32) {
            self.admitted.extend((0..units).map(|_| now_ns));
        }
    }

    fn rates() -> impl Strategy<Value = Rate> {
        let count = prop_oneof![4 => 1..12u32, 2 => 1..200u32, 1 => 1..COUNT_MAX];
        (count, any::<bool>()).prop_map(|(count, hour)| {
            if hour { Rate::per_hour(count).unwrap() } else { Rate::per_minute(count).unwrap() }
        })
    }

    /// Waits around the interval, where admission turns, as well as none and long ones.
    fn wait(rate: Rate, kind: u8, part: u64) -> u64 {
        match kind % 6 {
            0 | 1 => 0,
            2 => rate.interval_ns,
            3 => rate.interval_ns - 1,
            4 => part % (2 * rate.interval_ns + 1),
            _ => part % (2 * rate.depth_ns() + 1),
        }
    }

    proptest! {
        #[test]
        fn what_is_admitted_is_what_the_model_admits(
            rate in rates(),
            steps in proptest::collection::vec((any::<u8>(), any::<u64>(), 1..4u32), 0..250),
        ) {
            let (mut model, mut full_at, mut now) = (Model::default(), 0, 0);
            for (kind, part, units) in steps {
                now += wait(rate, kind, part);
                let taken = rate.take(full_at, now, units);
                prop_assert_eq!(taken.is_ok(), units <= rate.count && model.allows(rate, now, units));
                match taken {
                    Ok(taken) => {
                        full_at = taken;
                        model.take(now, units);
                    }
                    Err(Short { wait_ns: None }) => prop_assert!(units > rate.count),
                    Err(Short { wait_ns: Some(wait_ns) }) => {
                        // The wait is true to the nanosecond.
                        prop_assert!(wait_ns > 0 && rate.take(full_at, now + wait_ns - 1, units).is_err());
                        prop_assert!(rate.take(full_at, now + wait_ns, units).is_ok());
                    }
                }
                // What is told to be left is what can be taken.
                let left = rate.left(full_at, now);
                prop_assert!(left == 0 || rate.take(full_at, now, left).is_ok());
                prop_assert!(rate.take(full_at, now, left + 1).is_err());
            }
        }

        #[test]
        fn a_clock_that_goes_back_admits_nothing_more_and_is_forgotten(
            rate in rates(),
            steps in proptest::collection::vec((any::<u8>(), any::<u64>(), any::<bool>()), 0..250),
        ) {
            let (mut model, mut full_at, mut now, mut latest) = (Model::default(), 0, 0u64, 0);
            for (kind, part, is_back) in steps {
                let by = wait(rate, kind, part);
                now = if is_back { now.saturating_sub(by) } else { now + by };
                latest = now.max(latest);
                if let Ok(taken) = rate.take(full_at, now, 1) {
                    prop_assert!(model.allows(rate, latest, 1));
                    full_at = taken;
                    model.take(latest, 1);
                }
            }
            // Once the clock is where it was, all is as if it had never gone back.
            prop_assert_eq!(rate.take(full_at, latest, 1).is_ok(), model.allows(rate, latest, 1));
            let full = rate.take(full_at, latest + rate.depth_ns(), rate.count);
            prop_assert!(full.is_ok());
        }

        #[test]
        fn nothing_overflows_after_292_years(rate in rates(), units in any::<u32>()) {
            let late = u64::MAX >> 1;
            let taken = rate.take(0, late, units.min(rate.count)).unwrap();
            prop_assert!(taken <= late + rate.depth_ns());
            prop_assert!(rate.take(taken, late, rate.count).is_err() || units == 0);
            prop_assert_eq!(rate.give_back(taken, units.min(rate.count)), late);
        }
    }

    /// Counts that divide 120, so that no interval is rounded.
    static COUNTS: [u32; 14] = [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 24, 30, 40];
    /// Parts of a request in [`Bucket`].
    const PARTS: u64 = 60 * SECOND_NS;

    /// The bucket as its definition says it, in whole parts of requests: `count` of them come back each nanosecond, first
    /// those within the bucket and then those beyond it.
    struct Bucket {
        count: u32,
        used: u64,
        over: u64,
    }

    impl Bucket {
        fn pass(&mut self, ns: u64) {
            let back = ns * u64::from(self.count);
            self.over = self.over.saturating_sub(back.saturating_sub(self.used));
            self.used = self.used.saturating_sub(back);
        }

        fn change(&mut self, count: u32) {
            let all = self.used + self.over;
            self.count = count;
            self.used = all.min(u64::from(count) * PARTS);
            self.over = all - self.used;
        }

        fn left(&self) -> u32 {
            self.count - u32::try_from(self.used.div_ceil(PARTS)).unwrap()
        }
    }

    proptest! {
        #[test]
        fn another_limit_holds_at_once_and_leaves_used_what_was(
            before in rates(),
            count in prop_oneof![3 => 1..200u32, 1 => 1..COUNT_MAX],
            used in any::<u32>(),
            part in any::<u64>(),
        ) {
            let after = Rate::new(count, before.window_s).unwrap();
            let now = 7_000_000_000_000;
            let full_at = before.take(0, now, used % (before.count + 1)).unwrap();
            let now = now + wait(before, 5, part);
            let left = before.left(full_at, now);
            let (taken_over, over) = after.take_over(before, full_at, 0, now);
            prop_assert_eq!(after.left(taken_over, now), (left + after.count).saturating_sub(before.count));
            // It is a state like any other of that limit.
            prop_assert!(taken_over <= now + after.depth_ns());
            // And back again nothing is forgotten, and nothing but roundings is used by it.
            let (back, beyond) = before.take_over(after, taken_over, over, now);
            if over < OVER_NS_MAX {
                let (was, is) = (full_at.max(now), back + beyond);
                prop_assert!(is >= was && is - was <= before.interval_ns.div_ceil(after.interval_ns));
            }
        }

        #[test]
        fn under_limits_that_change_what_is_admitted_is_what_the_bucket_holds(
            first in proptest::sample::select(&COUNTS[..]),
            steps in proptest::collection::vec(
                (any::<u8>(), any::<u64>(), 1..4u32, proptest::option::weighted(0.1, proptest::sample::select(&COUNTS[..]))),
                0..250,
            ),
        ) {
            let (mut rate, mut full_at, mut over, mut now) = (Rate::per_minute(first).unwrap(), 0u64, 0u64, 0);
            let mut bucket = Bucket { count: first, used: 0, over: 0 };
            // What was admitted, and what came back since the start, at each step; with the count by then.
            let mut admitted: Vec<(u64, u64, u32)> = vec![(0, 0, first)];
            let (mut taken_in_all, mut came_back) = (0u64, 0u64);
            for (kind, part, units, change) in steps {
                // In steps of 120 ns no change of the limit needs a rounding either.
                let ns = wait(rate, kind, part) / 120 * 120;
                over = over.saturating_sub((now + ns).saturating_sub(full_at.max(now)));
                now += ns;
                full_at = full_at.max(now);
                bucket.pass(ns);
                came_back += ns * u64::from(bucket.count);
                if let Some(count) = change {
                    let after = Rate::per_minute(count).unwrap();
                    (full_at, over) = after.take_over(rate, full_at, over, now);
                    rate = after;
                    bucket.change(count);
                }
                prop_assert_eq!(rate.left(full_at, now), bucket.left());
                let taken = rate.take(full_at, now, units);
                prop_assert_eq!(taken.is_ok(), units <= bucket.left());
                admitted.push((taken_in_all, came_back, bucket.count));
                if let Ok(taken) = taken {
                    full_at = taken;
                    bucket.used += u64::from(units) * PARTS;
                    taken_in_all += u64::from(units) * PARTS;
                    // No stretch that ends now holds more than the highest count in it and what came back in it.
                    let mut highest = 0;
                    for (before, back_before, count) in admitted.iter().rev() {
                        highest = highest.max(*count);
                        let held = taken_in_all - before;
                        prop_assert!(held <= u64::from(highest) * PARTS + (came_back - back_before));
                    }
                }
            }
        }
    }

    #[test]
    fn a_limit_of_a_hundred_a_minute_is_one_in_600_ms_after_a_burst_of_a_hundred() {
        let rate = Rate::per_minute(100).unwrap();
        assert_eq!((rate.interval_ns(), rate.depth_ns()), (600_000_000, 60_000_000_000));
        let mut full_at = 0;
        for _ in 0..100 {
            full_at = rate.take(full_at, 5, 1).unwrap();
        }
        assert_eq!(rate.take(full_at, 5, 1), Err(Short { wait_ns: Some(600_000_000) }));
        assert_eq!((rate.left(full_at, 5), rate.left(full_at, 600_000_005)), (0, 1));
        assert_eq!(rate.left(full_at, 60_000_000_005), 100);
        assert_eq!(Rate::per_minute(0), None);
        assert_eq!(Rate::per_hour(u32::MAX).unwrap().count(), COUNT_MAX);
    }
}

//! The wall clock of a core: what is written into records and shown to people.
//!
//! Deadlines and durations use [`sluice_core::now`] or `Instant`, never this: a wall clock may jump.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// A wall clock. Clones show the same time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Manual(Rc<Cell<u64>>),
}

impl Clock {
    /// The host's clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `unix_ms` until it is set, for tests.
    pub fn manual(unix_ms: u64) -> Self {
        Self(Source::Manual(Rc::new(Cell::new(unix_ms))))
    }

    /// Milliseconds since 1970; 0 on a host whose clock stands before that.
    pub fn unix_ms(&self) -> u64 {
        match &self.0 {
            Source::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }
            Source::Manual(now) => now.get(),
        }
    }

    /// The same moment as a timestamp.
    pub fn timestamp(&self) -> Timestamp {
        timestamp_of(self.unix_ms())
    }

    /// Moves a manual clock to `unix_ms`; the host's clock stays as it is.
    pub fn set(&self, unix_ms: u64) {
        if let Source::Manual(now) = &self.0 {
            now.set(unix_ms);
        }
    }
}

/// A recorded moment as a timestamp; moments past the year 9999 count as its end.
pub fn timestamp_of(unix_ms: u64) -> Timestamp {
    i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_of_a_manual_clock_show_the_same_time() {
        let clock = Clock::manual(1);
        let other = clock.clone();
        clock.set(1_795_000_000_123);
        assert_eq!(other.unix_ms(), 1_795_000_000_123);
        assert_eq!(other.timestamp().as_millisecond(), 1_795_000_000_123);
    }

    #[test]
    fn impossible_moments_do_not_panic() {
        assert_eq!(timestamp_of(u64::MAX), Timestamp::MAX);
        Clock::system().set(7);
        assert!(Clock::system().unix_ms() > 7);
    }
}

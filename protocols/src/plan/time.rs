//! Times as people say them: on the clock and calendar of the user's own zone.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, DateTime};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The years a plan may speak of: within them no later arithmetic can overflow.
const YEARS: std::ops::RangeInclusive<i16> = 1970..=2199;

/// Why a text is no time. The plan that holds it is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// Not of the form.
    #[error("a time is YYYY-MM-DDTHH:MM or YYYY-MM-DD")]
    Form,
    /// Of the form, but no day or hour of the calendar.
    #[error("there is no such time")]
    NoSuchTime,
    /// Outside 1970 to 2199.
    #[error("the year is not between 1970 and 2199")]
    Year,
}

/// A civil time without a zone: `YYYY-MM-DDTHH:MM`, or `YYYY-MM-DD` for a whole day. Years 1970 to 2199.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DateTimeLocal(Inner);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Inner {
    Day(Date),
    Minute(DateTime),
}

impl DateTimeLocal {
    /// A whole day; `None` when the year is out of bounds.
    #[must_use]
    pub fn day(date: Date) -> Option<Self> {
        YEARS.contains(&date.year()).then_some(Self(Inner::Day(date)))
    }

    /// A minute of a day, seconds cut off; `None` when the year is out of bounds.
    #[must_use]
    pub fn minute(at: DateTime) -> Option<Self> {
        let at = at.date().at(at.hour(), at.minute(), 0, 0);
        YEARS.contains(&at.year()).then_some(Self(Inner::Minute(at)))
    }

    /// Whether it means the whole day.
    #[must_use]
    pub const fn is_day(self) -> bool {
        matches!(self.0, Inner::Day(_))
    }

    /// The day it falls on.
    #[must_use]
    pub fn date(self) -> Date {
        match self.0 {
            Inner::Day(date) => date,
            Inner::Minute(at) => at.date(),
        }
    }

    /// The first moment: itself, or midnight at the start of the day.
    #[must_use]
    pub const fn start(self) -> DateTime {
        match self.0 {
            Inner::Day(date) => date.at(0, 0, 0, 0),
            Inner::Minute(at) => at,
        }
    }

    /// The first moment after it, when it is the end of a span: itself, or midnight at the end of the day.
    #[must_use]
    pub fn end(self) -> DateTime {
        match self.0 {
            // Within the years above every day has a next one.
            Inner::Day(date) => date.tomorrow().unwrap_or(date).at(0, 0, 0, 0),
            Inner::Minute(at) => at,
        }
    }
}

impl fmt::Display for DateTimeLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = self.date();
        write!(f, "{:04}-{:02}-{:02}", date.year(), date.month(), date.day())?;
        match self.0 {
            Inner::Day(_) => Ok(()),
            Inner::Minute(at) => write!(f, "T{:02}:{:02}", at.hour(), at.minute()),
        }
    }
}

impl FromStr for DateTimeLocal {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        // Models like to add seconds; when they are none they say nothing.
        let text = if text.len() == 19 { text.strip_suffix(":00").ok_or(TimeError::Form)? } else { text };
        let form: &[u8] = match text.len() {
            10 => b"0000-00-00",
            16 => b"0000-00-00T00:00",
            _ => return Err(TimeError::Form),
        };
        let fits = |(given, wanted): (u8, &u8)| {
            if *wanted == b'0' { given.is_ascii_digit() } else { given == *wanted }
        };
        if !text.bytes().zip(form).all(fits) {
            return Err(TimeError::Form);
        }
        let time = if form.len() == 10 {
            Self::day(text.parse().map_err(|_| TimeError::NoSuchTime)?)
        } else {
            Self::minute(text.parse().map_err(|_| TimeError::NoSuchTime)?)
        };
        time.ok_or(TimeError::Year)
    }
}

impl Serialize for DateTimeLocal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DateTimeLocal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn minutes_and_days_are_told_apart() {
        let minute: DateTimeLocal = "2026-11-24T10:05".parse().expect("a minute");
        assert!(!minute.is_day());
        assert_eq!(minute.start(), jiff::civil::date(2026, 11, 24).at(10, 5, 0, 0));
        assert_eq!(minute.end(), minute.start());
        let day: DateTimeLocal = "2026-12-31".parse().expect("a day");
        assert!(day.is_day());
        assert_eq!(day.start(), jiff::civil::date(2026, 12, 31).at(0, 0, 0, 0));
        assert_eq!(day.end(), jiff::civil::date(2027, 1, 1).at(0, 0, 0, 0));
    }

    #[test]
    fn zero_seconds_are_dropped_and_others_refused() {
        let minute: DateTimeLocal = "2026-11-24T10:05:00".parse().expect("a minute");
        assert_eq!(minute.to_string(), "2026-11-24T10:05");
        assert_eq!("2026-11-24T10:05:01".parse::<DateTimeLocal>(), Err(TimeError::Form));
    }

    #[test]
    fn zones_and_free_text_are_refused() {
        for text in [
            "",
            "tomorrow",
            "2026-11-24T10:05Z",
            "2026-11-24 10:05",
            "2026-1-24",
            "+002026-11-24",
            "24.11.2026",
        ] {
            assert_eq!(text.parse::<DateTimeLocal>(), Err(TimeError::Form), "{text}");
        }
    }

    #[test]
    fn days_that_never_come_are_refused() {
        for text in ["2026-02-29", "2026-13-01", "2026-11-31T10:00", "2026-11-24T24:00", "2026-11-24T10:60"] {
            assert_eq!(text.parse::<DateTimeLocal>(), Err(TimeError::NoSuchTime), "{text}");
        }
        assert_eq!("1969-12-31".parse::<DateTimeLocal>(), Err(TimeError::Year));
        assert_eq!("9999-12-31T23:59".parse::<DateTimeLocal>(), Err(TimeError::Year));
    }

    proptest! {
        #[test]
        fn times_round_trip(days in 0i32..80_000, minute in proptest::option::of(0i32..1440)) {
            let date = jiff::civil::date(1970, 1, 1).checked_add(jiff::Span::new().days(days)).expect("in range");
            let time = match minute {
                Some(minute) => {
                    let (hour, minute) = (i8::try_from(minute / 60).expect("small"), i8::try_from(minute % 60).expect("small"));
                    DateTimeLocal::minute(date.at(hour, minute, 0, 0))
                }
                None => DateTimeLocal::day(date),
            };
            let time = time.expect("within the years");
            prop_assert_eq!(time.to_string().parse::<DateTimeLocal>(), Ok(time));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "[0-9T:\u{e9}-]{0,20}") {
            let _ = text.parse::<DateTimeLocal>();
        }
    }
}

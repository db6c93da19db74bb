//! When to try again, as upstreams say it.
//!
//! No clock is read: a moment stays a moment, and the caller, who has a clock, turns it into a delay.

use std::time::Duration;

use jiff::Timestamp;

/// No upstream may keep us waiting longer than this: longer waits are cut to it.
pub const DELAY_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// When to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    /// After this long, counted from the answer; at most [`DELAY_MAX`].
    Delay(Duration),
    /// At this moment.
    At(Timestamp),
}

impl RetryAfter {
    /// Reads a `Retry-After` header (RFC 9110 section 10.2.3): whole seconds or a date.
    #[must_use]
    pub fn from_header(value: &str) -> Option<Self> {
        let value = value.trim();
        if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
            let seconds = value.parse().unwrap_or(u64::MAX);
            return Some(Self::Delay(Duration::from_secs(seconds).min(DELAY_MAX)));
        }
        let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value);
        date.ok().map(Self::At)
    }

    /// Finds `Retry after <RFC 3339 time>` in a message: Gmail says it nowhere else.
    #[must_use]
    pub fn from_message(message: &str) -> Option<Self> {
        const MARK: &str = "retry after ";
        let at = message.to_ascii_lowercase().find(MARK)?;
        let rest = &message[at + MARK.len()..];
        let text = rest.split([' ', ')', ',', ';', '"']).next()?.trim_end_matches('.');
        text.parse().ok().map(Self::At)
    }

    /// How long to wait when it is `now`; nothing when the moment has passed; at most [`DELAY_MAX`].
    #[must_use]
    pub fn delay(self, now: Timestamp) -> Duration {
        match self {
            Self::Delay(delay) => delay,
            Self::At(at) => {
                Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO).min(DELAY_MAX)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn seconds_and_dates_are_read() {
        assert_eq!(RetryAfter::from_header(" 30 "), Some(RetryAfter::Delay(Duration::from_secs(30))));
        let date = RetryAfter::from_header("Mon, 23 Nov 2026 14:04:05 GMT");
        assert_eq!(date, Some(RetryAfter::At(time("2026-11-23T14:04:05Z"))));
        for value in ["", "soon", "-1", "1.5", "Mon, 99 Nov 2026 14:04:05 GMT"] {
            assert_eq!(RetryAfter::from_header(value), None, "{value}");
        }
    }

    #[test]
    fn a_moment_hidden_in_a_message_is_found() {
        let at = Some(RetryAfter::At(time("2026-11-23T14:04:05.123Z")));
        let message = "User-rate limit exceeded.  Retry after 2026-11-23T14:04:05.123Z";
        assert_eq!(RetryAfter::from_message(message), at);
        assert_eq!(RetryAfter::from_message("(retry after 2026-11-23T14:04:05.123Z)."), at);
        assert_eq!(RetryAfter::from_message("Retry after 2026-11-23T14:04:05.123Z."), at);
        assert_eq!(RetryAfter::from_message("Retry after lunch"), None);
        assert_eq!(RetryAfter::from_message("Rate limit exceeded"), None);
    }

    #[test]
    fn waits_are_never_negative_and_never_endless() {
        let now = time("2026-11-23T14:00:00Z");
        assert_eq!(RetryAfter::At(time("2026-11-23T14:00:09Z")).delay(now), Duration::from_secs(9));
        assert_eq!(RetryAfter::At(time("2026-11-23T13:00:00Z")).delay(now), Duration::ZERO);
        assert_eq!(RetryAfter::At(time("2099-01-01T00:00:00Z")).delay(now), DELAY_MAX);
        let endless = RetryAfter::from_header("99999999999999999999999").expect("a delay");
        assert_eq!(endless.delay(now), DELAY_MAX);
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,40}") {
            let _ = RetryAfter::from_header(&text);
            let _ = RetryAfter::from_message(&text);
            let _ = RetryAfter::from_message(&format!("Retry after {text}"));
        }
    }
}

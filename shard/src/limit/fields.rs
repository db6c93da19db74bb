//! How limits are told: `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10 section 4), lists of
//! items with parameters as structured fields have them (RFC 9651).
//!
//! ```text
//! ratelimit-policy: "user-minute";q=100;w=60, "user-hour";q=1000;w=3600
//! ratelimit: "user-minute";r=99;t=1, "user-hour";r=999;t=4
//! ```
//! `q` requests in a window of `w` seconds; `r` are left, and in `t` seconds all of them are there again. On a refusal
//! only what refused is told, `r` is 0 and `t` is what `Retry-After` says.

use std::borrow::Cow;

use sluice_protocols::http::Response;

use super::table::Pair;
use super::{LimitKind, Rate, RatePair};

const SECOND_NS: u64 = 1_000_000_000;

/// The fields of one answer.
#[derive(Debug)]
pub(crate) struct LimitFields {
    pub(super) policy: Cow<'static, str>,
    pub(super) state: Cow<'static, str>,
}

impl LimitFields {
    /// Adds them to an answer.
    pub(crate) fn put_on(self, response: Response) -> Response {
        response.with_field("ratelimit-policy", self.policy).with_field("ratelimit", self.state)
    }

    /// Of a refusal.
    pub(super) fn refused(name: &str, rate: Rate, wait_s: u32) -> Self {
        let policy = format!("\"{name}\";q={};w={}", rate.count(), rate.window_s());
        Self { policy: policy.into(), state: format!("\"{name}\";r=0;t={wait_s}").into() }
    }
}

/// The value of `RateLimit-Policy` of a user.
pub(super) fn policy_text(rates: RatePair) -> String {
    let each = rates.each().map(|(window, rate)| {
        format!("\"{}\";q={};w={}", LimitKind::User(window).name(), rate.count(), rate.window_s())
    });
    each.collect::<Vec<_>>().join(", ")
}

/// The value of `RateLimit` of a user. Put together by hand: this is done for each request.
pub(super) fn state_text(rates: RatePair, pair: Pair, now_ns: u64) -> String {
    let mut text = String::with_capacity(64);
    for (window, rate) in rates.each() {
        let full_at = pair[window as usize];
        text.push_str(if text.is_empty() { "\"" } else { ", \"" });
        text.push_str(LimitKind::User(window).name());
        text.push_str("\";r=");
        push_number(&mut text, u64::from(rate.left(full_at, now_ns)));
        text.push_str(";t=");
        push_number(&mut text, full_at.saturating_sub(now_ns).div_ceil(SECOND_NS));
    }
    text
}

/// Whole seconds that are no shorter, one at least.
pub(super) fn seconds(wait_ns: u64) -> u32 {
    u32::try_from(wait_ns.div_ceil(SECOND_NS)).unwrap_or(u32::MAX).max(1)
}

fn push_number(text: &mut String, mut number: u64) {
    // 20 digits are enough for any.
    let mut digits = [b'0'; 20];
    let mut from = digits.len();
    loop {
        from -= 1;
        digits[from] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    text.extend(digits[from..].iter().map(|digit| char::from(*digit)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_lists_of_items_with_parameters() {
        let rates = RatePair::new(100, 1_000);
        assert_eq!(policy_text(rates), "\"user-minute\";q=100;w=60, \"user-hour\";q=1000;w=3600");
        let pair = rates.take([0, 0], 7, 1).unwrap();
        assert_eq!(state_text(rates, pair, 7), "\"user-minute\";r=99;t=1, \"user-hour\";r=999;t=4");
        assert_eq!(state_text(rates, [0, 0], 7), "\"user-minute\";r=100;t=0, \"user-hour\";r=1000;t=0");
        assert_eq!(policy_text(RatePair::new(0, 5)), "\"user-hour\";q=5;w=3600");
        assert_eq!(policy_text(RatePair::default()), "");
        let refused = LimitFields::refused("key-minute", Rate::per_minute(9).unwrap(), 7);
        assert_eq!(
            (&*refused.policy, &*refused.state),
            ("\"key-minute\";q=9;w=60", "\"key-minute\";r=0;t=7")
        );
    }

    #[test]
    fn numbers_and_waits_are_written_in_full() {
        let write = |number| {
            let mut text = String::new();
            push_number(&mut text, number);
            text
        };
        for number in [0, 9, 10, 1_234_567, u64::MAX] {
            assert_eq!(write(number), number.to_string());
        }
        assert_eq!((seconds(0), seconds(1), seconds(SECOND_NS), seconds(SECOND_NS + 1)), (1, 1, 1, 2));
    }
}

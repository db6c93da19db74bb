//! What one user may do.

use std::borrow::Cow;

use super::RatePair;
use super::fields::policy_text;

/// Limits of a user, and how they are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Requests by the minute and by the hour.
    pub rates: RatePair,
    /// Requests at once; 0 is no limit.
    pub concurrent_max: u32,
    /// The value of `RateLimit-Policy`; empty without a limit.
    pub(super) policy: Cow<'static, str>,
}

impl Allowance {
    /// Of one user.
    pub fn new(rates: RatePair, concurrent_max: u32) -> Self {
        Self { rates, concurrent_max, policy: policy_text(rates).into() }
    }

    /// Of all users for whom nothing else was said: each answer has its text, which is therefore kept for the life of
    /// the process and never copied. Made once.
    pub(super) fn for_all(rates: RatePair, concurrent_max: u32) -> Self {
        Self { rates, concurrent_max, policy: Cow::Borrowed(Box::leak(policy_text(rates).into_boxed_str())) }
    }
}

//! The account's limits: requests and tokens a minute, and credit.
//!
//! Buckets fill evenly over the minute. Tokens are taken when an answer is known, so that the bucket may go below
//! zero; nothing is admitted then until it is above again.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::sim::plan::OpenAiPlan;
use crate::sim::wire::{Reply, openai_error};

/// What headers say where no plan limits the account.
const REQUESTS_USUAL: u64 = 30_000;
const TOKENS_USUAL: u64 = 150_000_000;

/// What was used of a limit a minute, and when that was true.
#[derive(Debug, Default)]
struct Bucket {
    used: f64,
    at: Option<Instant>,
}

impl Bucket {
    #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^53")]
    fn drain(&mut self, limit: u64, now: Instant) {
        let passed = self.at.map_or(0.0, |at| now.duration_since(at).as_secs_f64());
        self.used = (self.used - passed * limit as f64 / 60.0).max(0.0);
        self.at = Some(now);
    }

    /// How long until `units` more fit.
    #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^53")]
    fn wait(&self, units: f64, limit: u64) -> Duration {
        let over = self.used + units - limit as f64;
        if over <= 0.0 || limit == 0 {
            Duration::ZERO
        } else {
            Duration::from_secs_f64(over * 60.0 / limit as f64)
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^53")]
    fn left(&self, limit: u64) -> u64 {
        let left = (limit as f64 - self.used).max(0.0);
        // It lies between 0 and the limit.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let left = left as u64;
        left
    }
}

#[derive(Debug, Default)]
struct Used {
    requests: Bucket,
    tokens: Bucket,
    requests_all: u64,
    tokens_all: u64,
    limited: u64,
}

/// The one account of the simulator.
#[derive(Debug, Default)]
pub(crate) struct Account(Mutex<Used>);

impl Account {
    fn lock(&self) -> std::sync::MutexGuard<'_, Used> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn reset(&self) {
        *self.lock() = Used::default();
    }

    /// Counts, as `GET /_sim/state` shows them.
    pub(crate) fn snapshot(&self) -> Value {
        let used = self.lock();
        json!({"requests": used.requests_all, "tokens": used.tokens_all, "limited": used.limited})
    }

    /// Takes one request from the buckets, or says how long to wait.
    pub(super) fn admit(&self, plan: &OpenAiPlan) -> Result<(), Reply> {
        let now = Instant::now();
        let mut used = self.lock();
        if plan.credit_tokens.is_some_and(|credit| used.tokens_all >= credit) {
            used.limited += 1;
            let message = "You exceeded your current quota, please check your plan and billing details.";
            return Err(openai_error(429, "insufficient_quota", Some("insufficient_quota"), None, message));
        }
        for (limit, kind) in [(plan.requests_per_minute, "requests"), (plan.tokens_per_minute, "tokens")] {
            let Some(limit) = limit else { continue };
            let bucket = if kind == "requests" { &mut used.requests } else { &mut used.tokens };
            bucket.drain(limit, now);
            let wait = bucket.wait(1.0, limit);
            if !wait.is_zero() {
                let used_up = limit - bucket.left(limit);
                used.limited += 1;
                let message = format!(
                    "Rate limit reached in organization simulated on {kind} per min: Limit {limit}, Used {used_up}. \
                     Please try again in {}.",
                    written(wait)
                );
                let wait_ms = wait.as_millis().max(1);
                let refusal = openai_error(429, kind, Some("rate_limit_exceeded"), None, &message);
                return Err(refusal
                    .with("retry-after-ms", wait_ms.to_string())
                    .with("retry-after", wait_ms.div_ceil(1_000).to_string()));
            }
        }
        used.requests.used += 1.0;
        used.requests_all += 1;
        Ok(())
    }

    /// Takes the tokens of an answer.
    #[expect(clippy::cast_precision_loss, reason = "no answer has 2^53 tokens")]
    pub(super) fn spend(&self, plan: &OpenAiPlan, tokens: u64) {
        let mut used = self.lock();
        used.tokens_all += tokens;
        if plan.tokens_per_minute.is_some() {
            used.tokens.used += tokens as f64;
        }
    }

    /// Adds the headers that say what is left.
    pub(super) fn headers(&self, plan: &OpenAiPlan, mut reply: Reply) -> Reply {
        let mut guard = self.lock();
        let used = &mut *guard;
        let now = Instant::now();
        let rows = [
            (
                plan.requests_per_minute,
                REQUESTS_USUAL,
                &mut used.requests,
                [
                    "x-ratelimit-limit-requests",
                    "x-ratelimit-remaining-requests",
                    "x-ratelimit-reset-requests",
                ],
            ),
            (
                plan.tokens_per_minute,
                TOKENS_USUAL,
                &mut used.tokens,
                ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
            ),
        ];
        for (limit, usual, bucket, [limit_name, remaining_name, reset_name]) in rows {
            let limit = limit.unwrap_or(usual);
            bucket.drain(limit, now);
            // Until the bucket is as full as at first.
            let reset = Duration::from_secs_f64(60.0 * bucket.used / per_minute(limit));
            reply = reply
                .with(limit_name, limit.to_string())
                .with(remaining_name, bucket.left(limit).to_string())
                .with(reset_name, written(reset));
        }
        reply
    }
}

#[expect(clippy::cast_precision_loss, reason = "limits are far below 2^53")]
fn per_minute(limit: u64) -> f64 {
    limit.max(1) as f64
}

/// A duration as the headers write it: `12ms`, `1.5s`, `6m0s`.
fn written(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{}.{:03}s", ms / 1_000, ms % 1_000),
        _ => format!("{}m{}s", ms / 60_000, ms % 60_000 / 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_in_the_headers() {
        let written = |ms| written(Duration::from_millis(ms));
        assert_eq!([written(12), written(1_500), written(360_000)], ["12ms", "1.500s", "6m0s"]);
    }

    #[test]
    fn a_bucket_says_when_there_is_room() {
        let now = Instant::now();
        let mut bucket = Bucket { used: 60.0, at: Some(now) };
        assert_eq!(bucket.wait(1.0, 60), Duration::from_secs(1));
        bucket.drain(60, now + Duration::from_secs(2));
        assert_eq!((bucket.wait(1.0, 60), bucket.left(60)), (Duration::ZERO, 2));
    }

    #[test]
    fn requests_tokens_and_credit_are_limited_apart() {
        let account = Account::default();
        let plan = OpenAiPlan { requests_per_minute: Some(2), ..OpenAiPlan::default() };
        assert!(account.admit(&plan).is_ok() && account.admit(&plan).is_ok());
        let refused = account.admit(&plan).unwrap_err();
        assert!(refused.status == 429 && refused.headers.iter().any(|(name, _)| *name == "retry-after-ms"));
        let account = Account::default();
        let plan =
            OpenAiPlan { tokens_per_minute: Some(100), credit_tokens: Some(500), ..OpenAiPlan::default() };
        assert!(account.admit(&plan).is_ok());
        account.spend(&plan, 400);
        assert!(String::from_utf8_lossy(&account.admit(&plan).unwrap_err().body).contains("tokens per min"));
        account.spend(&plan, 100);
        assert!(
            String::from_utf8_lossy(&account.admit(&plan).unwrap_err().body).contains("insufficient_quota")
        );
        assert_eq!(account.snapshot(), json!({"requests": 1, "tokens": 500, "limited": 2}));
    }
}

//! When a call is repeated, and how long it waits first. Pure: time and randomness are handed in.
//!
//! Invariants:
//! - A call that must not be done twice is repeated only when its request was provably not sent.
//! - Retries never exceed the budget, so a sick upstream sees at most `budget_percent` more load.
//! - A wait the upstream asked for is kept or the call ends; it is never cut short.

use std::time::{Duration, Instant, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};

use sluice_protocols::openai;
use sluice_protocols::retry::RetryAfter;

use super::config::{RetryConfig, Upstream};

/// Longest `Retry-After` read: one day. A larger figure is as good as "never". How much of it is believed without asking
/// again is its reader's business.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How many seconds of the per-second allowance may be saved up.
const BUDGET_WINDOW_S: u64 = 10;
/// Retries that may be saved up when the per-second allowance is small.
const BUDGET_SAVED_MIN: u64 = 100;
/// Budgets are counted in thousandths of a retry.
const ONE_RETRY: u64 = 1000;

impl RetryConfig {
    /// The wait before retry `retry_index` (from 0), drawn from `random` with full jitter.
    pub(super) fn backoff(&self, retry_index: u32, random: u64) -> Duration {
        let ceiling =
            self.backoff_base.saturating_mul(2u32.saturating_pow(retry_index.min(31))).min(self.backoff_max);
        let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(if nanos == u64::MAX { random } else { random % (nanos + 1) })
    }

    /// The whole wait: the jittered backoff, and no less than what the upstream asked for. When it
    /// asked, the jitter comes on top, so that callers who were told the same second spread out.
    pub(super) fn wait(&self, retry_index: u32, random: u64, asked: Option<Duration>) -> Duration {
        match asked {
            Some(asked) => asked.saturating_add(self.backoff(0, random)),
            None => self.backoff(retry_index, random),
        }
    }
}

/// A token bucket in retries: each request pays in a share, time pays in the rest.
#[derive(Debug)]
pub(super) struct RetryBudget {
    saved: u64,
    saved_max: u64,
    per_request: u64,
    per_second: u64,
    filled_at: Instant,
}

impl RetryBudget {
    pub(super) fn new(config: &RetryConfig, now: Instant) -> Self {
        let per_second = u64::from(config.budget_per_second) * ONE_RETRY;
        Self {
            saved: per_second,
            saved_max: (per_second * BUDGET_WINDOW_S).max(BUDGET_SAVED_MIN * ONE_RETRY),
            per_request: u64::from(config.budget_percent) * ONE_RETRY / 100,
            per_second,
            filled_at: now,
        }
    }

    /// Counts one request.
    pub(super) fn deposit(&mut self) {
        self.saved = (self.saved + self.per_request).min(self.saved_max);
    }

    /// Takes one retry; `false` when the budget is spent.
    pub(super) fn withdraw(&mut self, now: Instant) -> bool {
        self.refill(now);
        match self.saved.checked_sub(ONE_RETRY) {
            Some(rest) => {
                self.saved = rest;
                true
            }
            None => false,
        }
    }

    fn refill(&mut self, now: Instant) {
        // Whole milliseconds only, and the clock moves on by what was credited: nothing is lost to rounding.
        let elapsed_ms =
            u64::try_from(now.saturating_duration_since(self.filled_at).as_millis()).unwrap_or(u64::MAX);
        let earned = elapsed_ms.saturating_mul(self.per_second) / 1000;
        self.saved = self.saved.saturating_add(earned).min(self.saved_max);
        self.filled_at += Duration::from_millis(elapsed_ms);
    }
}

/// What the upstream asked for: `retry-after-ms` first (OpenAI), else `Retry-After` in seconds or as an
/// HTTP date (RFC 9110 10.2.3). A date in the past is no wait. OpenAI also says what is left and when there is more.
pub(super) fn retry_after(upstream: Upstream, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| text_of(headers, name);
    if upstream == Upstream::OpenAi
        && text("retry-after").is_none()
        && let Some(RetryAfter::Delay(delay)) = openai::retry_after(text)
    {
        return Some(delay);
    }
    if let Some(ms) = text("retry-after-ms").and_then(|value| value.parse::<f64>().ok()) {
        return seconds(ms / 1000.0);
    }
    asked_wait(headers, now)
}

fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// What `Retry-After` alone asks for.
pub(super) fn asked_wait(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = text_of(headers, RETRY_AFTER.as_str())?;
    if let Ok(figure) = value.parse::<f64>() {
        return seconds(figure);
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default().min(RETRY_AFTER_MAX))
}

fn seconds(figure: f64) -> Option<Duration> {
    let wait = Duration::try_from_secs_f64(figure).ok();
    // Too large for a Duration is still a clear "not now"; negative or NaN says nothing.
    let wait = if wait.is_none() && figure > 0.0 { Some(RETRY_AFTER_MAX) } else { wait };
    wait.map(|wait| wait.min(RETRY_AFTER_MAX))
}

/// Whether an answer means "try again later": 408, 429 and 5xx, and Google's 403 for rate limits.
///
/// An exhausted OpenAI account (`insufficient_quota`) answers 429 too, but waiting does not mend it.
pub(super) fn is_retryable_answer(upstream: Upstream, status: u16, body: &[u8]) -> bool {
    match status {
        429 => upstream != Upstream::OpenAi || !contains(body, b"insufficient_quota"),
        403 => is_google_api(upstream) && contains(body, b"ateLimitExceeded\""),
        _ => status == 408 || (500..600).contains(&status),
    }
}

fn is_google_api(upstream: Upstream) -> bool {
    matches!(upstream, Upstream::Gmail | Upstream::Calendar | Upstream::Drive)
}

/// Looks in the first [`PROBE_BYTES`] only: error bodies are short, and this runs on the shared threads.
fn contains(body: &[u8], needle: &[u8]) -> bool {
    const PROBE_BYTES: usize = 4096;
    let head = &body[..body.len().min(PROBE_BYTES)];
    head.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut map = HeaderMap::new();
        map.insert(name, value.parse().expect("header value"));
        map
    }

    #[test]
    fn backoff_doubles_up_to_its_ceiling_and_jitter_covers_the_whole_range() {
        let config = RetryConfig {
            backoff_base: Duration::from_nanos(99),
            backoff_max: Duration::from_nanos(500),
            ..RetryConfig::default()
        };
        assert_eq!(config.backoff(0, 99), Duration::from_nanos(99));
        assert_eq!(config.backoff(0, 100), Duration::ZERO);
        assert_eq!(config.backoff(1, 198), Duration::from_nanos(198));
        assert_eq!(config.backoff(9, 500), Duration::from_nanos(500));
        assert_eq!(config.backoff(u32::MAX, 501), Duration::ZERO);
    }

    #[test]
    fn a_wait_that_was_asked_for_is_never_cut_short() {
        let config = RetryConfig::default();
        for random in [0, 1, u64::MAX / 3, u64::MAX] {
            assert!(config.wait(0, random, Some(Duration::from_secs(30))) >= Duration::from_secs(30));
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_date_or_milliseconds() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(
            retry_after(Upstream::Gmail, &headers("retry-after", "7"), now),
            Some(Duration::from_secs(7))
        );
        assert_eq!(
            retry_after(Upstream::Gmail, &headers("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT"), now),
            Some(Duration::from_secs(30))
        );
        assert_eq!(
            retry_after(Upstream::Gmail, &headers("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT"), now),
            Some(Duration::ZERO)
        );
        let mut both = headers("retry-after", "7");
        both.insert("retry-after-ms", "250".parse().expect("header value"));
        assert_eq!(retry_after(Upstream::Gmail, &both, now), Some(Duration::from_millis(250)));
    }

    #[test]
    fn what_openai_has_left_is_read_from_its_headers() {
        let now = SystemTime::UNIX_EPOCH;
        let mut map = headers("x-ratelimit-remaining-requests", "0");
        map.insert("x-ratelimit-reset-requests", "1m30s".parse().expect("header value"));
        assert_eq!(retry_after(Upstream::OpenAi, &map, now), Some(Duration::from_secs(90)));
        assert_eq!(retry_after(Upstream::Gmail, &map, now), None);
        map.insert("x-ratelimit-remaining-requests", "7".parse().expect("header value"));
        assert_eq!(retry_after(Upstream::OpenAi, &map, now), None);
    }

    #[test]
    fn nonsense_in_retry_after_is_no_wait_and_huge_figures_are_capped() {
        let now = SystemTime::UNIX_EPOCH;
        for value in ["soon", "-1", "NaN", ""] {
            assert_eq!(retry_after(Upstream::Gmail, &headers("retry-after", value), now), None, "{value}");
        }
        for value in ["99999999999", "1e300"] {
            assert_eq!(
                retry_after(Upstream::Gmail, &headers("retry-after", value), now),
                Some(RETRY_AFTER_MAX),
                "{value}"
            );
        }
    }

    #[test]
    fn budget_allows_its_share_of_requests_and_no_more() {
        let now = Instant::now();
        let config = RetryConfig { budget_percent: 20, budget_per_second: 0, ..RetryConfig::default() };
        let mut budget = RetryBudget::new(&config, now);
        assert!(!budget.withdraw(now));
        for _ in 0..100 {
            budget.deposit();
        }
        assert_eq!((0..100).filter(|_| budget.withdraw(now)).count(), 20);
    }

    #[test]
    fn budget_refills_with_time_and_saves_a_bounded_amount() {
        let start = Instant::now();
        let config = RetryConfig { budget_percent: 0, budget_per_second: 20, ..RetryConfig::default() };
        let mut budget = RetryBudget::new(&config, start);
        let spend = |budget: &mut RetryBudget, now| (0..1000).filter(|_| budget.withdraw(now)).count();
        assert_eq!(spend(&mut budget, start), 20);
        assert_eq!(spend(&mut budget, start + Duration::from_millis(500)), 10);
        assert_eq!(spend(&mut budget, start + Duration::from_secs(3600)), 200);
    }

    #[test]
    fn only_answers_that_waiting_can_mend_are_retried() {
        for status in [408, 429, 500, 502, 503, 504] {
            assert!(is_retryable_answer(Upstream::Gmail, status, b""), "{status}");
        }
        for status in [200, 301, 400, 401, 403, 404, 409] {
            assert!(!is_retryable_answer(Upstream::Gmail, status, b""), "{status}");
        }
        let limited = br#"{"error":{"errors":[{"reason":"userRateLimitExceeded"}]}}"#;
        assert!(is_retryable_answer(Upstream::Drive, 403, limited));
        assert!(!is_retryable_answer(Upstream::OpenAi, 403, limited));
        let broke = br#"{"error":{"code":"insufficient_quota"}}"#;
        assert!(!is_retryable_answer(Upstream::OpenAi, 429, broke));
    }
}

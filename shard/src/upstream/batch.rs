//! Several reads of Gmail in one request.
//!
//! Invariants:
//! - Each part pays its units and is judged by itself; what a part says of a limit is learned as from a call of its own.
//! - What is remembered is not asked for, and what is answered is remembered, as for single reads.
//! - A part without an answer, or with one that a repeat may better, is left to a read of its own: its repeats are paid
//!   and waited for there.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use sluice_net::egress::{EgressResponse, Retry};
use sluice_protocols::google::batch::{self, PARTS_MAX, PartAnswer};
use sluice_protocols::google::{ApiCall, GoogleError, UpstreamFault};
use sluice_protocols::plan::Service;

use super::call::{Judged, Limited};
use super::google::{Answer, CallError, EXHAUSTED_WAIT, Extra, Google, concerns_user};
use crate::cache::{Read, ReadBody, Ticket};

/// Fewer reads than this save nothing by going together.
const PARTS_MIN: usize = 2;

impl Google<'_> {
    /// Makes as many of these reads as possible in few requests; `None` for what is to be read by itself.
    pub(crate) async fn read_together(&self, calls: &[ApiCall]) -> Vec<Option<Result<Answer, CallError>>> {
        let mut results: Vec<Option<Result<Answer, CallError>>> = calls.iter().map(|_| None).collect();
        let mut missing: Vec<(usize, Ticket)> = Vec::new();
        if !self.remembers() {
            return results;
        }
        for (index, call) in calls.iter().enumerate() {
            match self.remembered(call) {
                Read::Kept(body, refresh) => {
                    if let Some(ticket) = refresh {
                        self.read_anew(call, ticket);
                    }
                    results[index] = Some(Ok(Answer::Kept(body)));
                }
                Read::Make(ticket) => missing.push((index, ticket)),
                // Someone else makes it; waiting for that is a read's own business.
                Read::Join(_) => {}
            }
        }
        while missing.len() >= PARTS_MIN {
            let rest = missing.split_off(missing.len().min(PARTS_MAX));
            let together = std::mem::replace(&mut missing, rest);
            let parts: Vec<ApiCall> = together.iter().map(|(index, _)| calls[*index].clone()).collect();
            // A dropped ticket tells others to look again.
            let Some(answers) = Box::pin(self.batch(&parts)).await else { break };
            for ((index, ticket), answer) in together.into_iter().zip(answers) {
                let Some(result) = answer.and_then(|answer| settled(calls[index].service, answer)) else {
                    continue;
                };
                let kept = match &result {
                    Ok(body) => ReadBody::of(&calls[index], body.clone()).map(Ok),
                    Err(error) => Some(Err(error.clone())),
                };
                if let Some(kept) = kept {
                    ticket.land(&kept, sluice_core::now());
                }
                results[index] = Some(result.map(Answer::Fresh));
            }
        }
        results
    }

    async fn batch(&self, parts: &[ApiCall]) -> Option<Vec<Option<PartAnswer>>> {
        let call = batch::batch(parts)?;
        let units = self.units_of(parts);
        let extra = Extra { parts: parts.len(), units: Some(units), ..Extra::default() };
        match self.exchange(&call, Retry::Safe, self.deadline(), &extra).await {
            Ok(answered) => Some(batch::answers(&answered.response.body, parts.len())),
            Err(error) => {
                tracing::debug!(
                    ?error,
                    parts = parts.len(),
                    "a batch brought nothing; its reads are made one by one"
                );
                None
            }
        }
    }
}

/// What a part came to; `None` when a repeat may fare better.
fn settled(service: Service, answer: PartAnswer) -> Option<Result<Bytes, CallError>> {
    if (200..300).contains(&answer.status) {
        return Some(Ok(answer.body));
    }
    let error = GoogleError::classify(answer.status, &answer.body, None);
    // A refused token is renewed by a read of its own.
    if error.fault.is_retryable() || error.fault == UpstreamFault::Unauthorized {
        return None;
    }
    Some(Err(CallError::Refused { service, error, retry_after: None }))
}

/// What the parts say about calls to come: whom they limit, all of us if any does, and the longest wait that is named for
/// that; or that they limit nobody. `now` is the time of day, for waits that are told as a moment.
pub(super) fn judge_parts(response: &EgressResponse, parts: usize, now: Timestamp) -> Judged {
    let answers = batch::answers(&response.body, parts);
    let is_failure = answers.iter().all(Option::is_none);
    let good = Judged { is_failure, ..Judged::good() };
    answers.iter().flatten().filter_map(|answer| limit_of(answer, now)).fold(
        good,
        |known, (limited, wait)| match (known.limited, limited) {
            (Limited::Project, Limited::User) => known,
            (known_limited, _) if known_limited == limited => Judged { wait: known.wait.max(wait), ..known },
            _ => Judged { limited, wait, ..known },
        },
    )
}

/// Whom a part limits, and how long it says.
fn limit_of(answer: &PartAnswer, now: Timestamp) -> Option<(Limited, Option<Duration>)> {
    if (200..300).contains(&answer.status) {
        return None;
    }
    let error = GoogleError::classify(answer.status, &answer.body, None);
    // Gmail says the moment in its message.
    let wait = answer.retry_after.or_else(|| error.fault.retry_after()).map(|after| after.delay(now));
    match error.fault {
        UpstreamFault::RateLimited { .. } if concerns_user(&error) => Some((Limited::User, wait)),
        UpstreamFault::RateLimited { .. } => Some((Limited::Project, wait)),
        UpstreamFault::QuotaExhausted => Some((Limited::Project, wait.or(Some(EXHAUSTED_WAIT)))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(parts: &[(u16, &str)]) -> Judged {
        let part = |(index, (status, body)): (usize, &(u16, &str))| {
            format!("--b\r\nContent-ID: <response-part-{index}>\r\n\r\nHTTP/1.1 {status} x\r\n\r\n{body}\r\n")
        };
        let body: String = parts.iter().enumerate().map(part).collect();
        let response = EgressResponse {
            status: 200,
            retry_after: None,
            body: format!("{body}--b--\r\n").into(),
            pieces: None,
            fields: Default::default(),
            attempts: 1,
            elapsed: Duration::ZERO,
        };
        judge_parts(&response, parts.len(), "2026-11-23T14:00:00Z".parse().unwrap())
    }

    fn limit(reason: &str, message: &str) -> String {
        format!(r#"{{"error": {{"errors": [{{"reason": "{reason}"}}], "message": "{message}"}}}}"#)
    }

    #[test]
    fn what_a_part_says_of_a_wait_is_learned_as_from_a_call_of_its_own() {
        let of_user =
            limit("userRateLimitExceeded", "User-rate limit exceeded.  Retry after 2026-11-23T14:00:40Z");
        let learned = judged(&[(200, "{}"), (429, &of_user), (404, "{}")]);
        assert_eq!((learned.limited, learned.wait), (Limited::User, Some(Duration::from_secs(40))));
        // The longest one that is named counts.
        let later =
            limit("userRateLimitExceeded", "User-rate limit exceeded.  Retry after 2026-11-23T14:01:30Z");
        let unsaid = limit("userRateLimitExceeded", "User-rate limit exceeded.");
        let learned = judged(&[(429, &of_user), (429, &later), (429, &unsaid)]);
        assert_eq!((learned.limited, learned.wait), (Limited::User, Some(Duration::from_secs(90))));
    }

    #[test]
    fn a_limit_of_all_comes_before_one_of_the_user_and_has_its_own_wait() {
        let of_user =
            limit("userRateLimitExceeded", "User-rate limit exceeded.  Retry after 2026-11-23T15:00:00Z");
        let of_all = limit("rateLimitExceeded", "Too many requests.");
        for parts in [[(429, &*of_user), (403, &*of_all)], [(403, &*of_all), (429, &*of_user)]] {
            let learned = judged(&parts);
            assert_eq!((learned.limited, learned.wait), (Limited::Project, None));
        }
        let learned = judged(&[(403, &limit("dailyLimitExceeded", "Daily limit exceeded"))]);
        assert_eq!((learned.limited, learned.wait), (Limited::Project, Some(EXHAUSTED_WAIT)));
        assert_eq!(judged(&[(200, "{}"), (503, "{}")]).limited, Limited::Nobody);
    }
}

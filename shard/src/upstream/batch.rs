//! Several reads of Gmail in one request.
//!
//! Invariants:
//! - Each part pays its units and is judged by itself; what a part says of a limit is learned as from a call of its own.
//! - What is remembered is not asked for, and what is answered is remembered, as for single reads.
//! - A part without an answer, or with one that a repeat may better, is left to a read of its own: its repeats are paid
//!   and waited for there.

use bytes::Bytes;
use sluice_net::egress::{EgressResponse, Retry};
use sluice_protocols::google::batch::{self, PARTS_MAX, PartAnswer};
use sluice_protocols::google::{ApiCall, GoogleError, UpstreamFault};
use sluice_protocols::plan::Service;

use super::call::{Judged, Limited};
use super::google::{Answer, CallError, Extra, Google, concerns_user};
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

/// What the parts say about calls to come: the first that limits us, or that there is not one.
pub(super) fn judge_parts(response: &EgressResponse, parts: usize) -> Judged {
    let limits = |answer: PartAnswer| {
        if (200..300).contains(&answer.status) {
            return None;
        }
        let error = GoogleError::classify(answer.status, &answer.body, None);
        let limited = match error.fault {
            UpstreamFault::RateLimited { .. } if concerns_user(&error) => Limited::User,
            UpstreamFault::RateLimited { .. } | UpstreamFault::QuotaExhausted => Limited::Project,
            _ => return None,
        };
        Some(Judged { limited, ..Judged::good() })
    };
    let answers = batch::answers(&response.body, parts);
    let is_failure = answers.iter().all(Option::is_none);
    let limited = answers.into_iter().flatten().find_map(limits);
    limited.unwrap_or(Judged { is_failure, ..Judged::good() })
}

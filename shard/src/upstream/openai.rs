//! From a command to a plan: one question to the model, and a second one when the first answer is no plan.

use std::time::Instant;

use bytes::Bytes;
use serde::de::IgnoredAny;
use sha2::{Digest as _, Sha256};
use sluice_net::egress::{AnswerBody, EgressRequest, EgressResponse, Retry, Upstream};
use sluice_protocols::api::Priority;
use sluice_protocols::ids::UserId;
use sluice_protocols::openai::{
    Context, ModelAnswer, OpenAiError, OpenAiFault, PlanRequest, RESPONSES_PATH, parse_response, tokens_used,
};
use sluice_protocols::plan::{Plan, REASON_CHARS_MAX, REASON_DEFAULT};
use sluice_protocols::problem::{Problem, ProblemKind};

use super::call::{Judged, Limited, Outgoing, Unanswered};
use super::meter::{Meter, Wait};
use super::{denied, lost, with_wait};
use crate::env::Env;
use crate::quota::{Ask, Class, Operation};

/// What the model is asked, and until when an answer is of use.
pub(crate) struct Question<'a> {
    pub(crate) command: &'a str,
    pub(crate) context: &'a Context,
    pub(crate) user: &'a UserId,
    pub(crate) priority: Priority,
    pub(crate) deadline: Instant,
}

/// Questions asked for one command.
const ASKED_MAX: u32 = 2;

/// Why an answer brought no plan.
enum NoPlan {
    /// Asking once more may help; the text is for the log.
    Nonsense(String),
    /// It will not.
    Final(Problem),
}

/// Asks for a plan. A refusal of the model is a plan that declines.
pub(crate) async fn plan(env: &Env, meter: &Meter, question: &Question<'_>) -> Result<Plan, Problem> {
    let _place = match env.broker.occupy(Upstream::OpenAi) {
        Ok(place) => place,
        Err(why) => return no_plan(env, denied("OpenAI", why)),
    };
    let limit = question.deadline.min(sluice_core::now() + env.config.parse_timeout);
    let body = request_body(&env.config.openai_model, question);
    for asked in 1..=ASKED_MAX {
        env.stats.plans_asked.add(1);
        if asked > 1 {
            env.stats.plans_asked_again.add(1);
        }
        match ask(env, meter, body.clone(), limit, question).await {
            Ok(plan) => return Ok(plan),
            Err(NoPlan::Final(problem)) => return no_plan(env, problem),
            Err(NoPlan::Nonsense(why)) => {
                tracing::warn!(user = %question.user, asked, "the model's answer is no plan");
                // The words may quote what was commanded.
                tracing::debug!(user = %question.user, why, "why it is none");
            }
        }
        if sluice_core::now() >= limit {
            break;
        }
    }
    no_plan(env, Problem::new(ProblemKind::UpstreamInvalid, "the command could not be turned into a plan"))
}

fn no_plan(env: &Env, problem: Problem) -> Result<Plan, Problem> {
    env.stats.plans_missing.add(1);
    Err(problem)
}

fn request_body(model: &str, question: &Question<'_>) -> Bytes {
    let who = safety_identifier(question.user);
    PlanRequest::new(model, question.command, question.context, &who).to_json().into()
}

/// A stable name for the user that tells the provider nothing about them.
fn safety_identifier(user: &UserId) -> String {
    let mut hash = Sha256::new();
    hash.update(b"sluice-user-v1:");
    hash.update(user.as_bytes());
    sluice_protocols::hex::encode(&hash.finalize())
}

async fn ask(
    env: &Env,
    meter: &Meter,
    body: Bytes,
    limit: Instant,
    question: &Question<'_>,
) -> Result<Plan, NoPlan> {
    let request = EgressRequest {
        upstream: Upstream::OpenAi,
        method: "POST",
        url: RESPONSES_PATH.to_owned(),
        bearer: Some(env.config.openai_api_key.to_string()),
        content_type: Some("application/json"),
        body,
        fields: Vec::new(),
        answer: AnswerBody::Whole,
        deadline: limit,
        // Making a plan changes nothing.
        retry: Retry::Safe,
    };
    let config = env.broker.quotas().config();
    // About four bytes a token, in any language that matters here; the answer says what it was.
    let tokens = request.body.len() as u64 / 4 + config.openai_answer_tokens;
    let ask = Ask { user: None, units: 1, tokens, priority: question.priority };
    let counts_tokens = config.openai_tokens_per_minute > 0;
    let judge = |response: &EgressResponse| judge(response, counts_tokens);
    let (class, operation) = (Class::Read, Operation::ONLY);
    let told = Some((meter, Wait::OpenAi));
    let outgoing = Outgoing { env, request, class, operation, is_hedged: false, ask, judge: &judge, told };
    let answer = outgoing.run().await.answer;
    let response = answer.map_err(|error| {
        NoPlan::Final(match error {
            Unanswered::Lost(error) => lost("OpenAI", &error, question.deadline),
            Unanswered::Denied(why) => denied("OpenAI", why),
        })
    })?;
    read(&response)
}

/// What an answer says about calls to come: also a good one, when it was the last for now.
fn judge(response: &EgressResponse, counts_tokens: bool) -> Judged {
    let wait = response.retry_after;
    if (200..300).contains(&response.status) {
        let limited = if wait.is_some() { Limited::Project } else { Limited::Nobody };
        let tokens = if counts_tokens { tokens_used(&response.body) } else { None };
        // No repeat of this very call: whoever asks for a plan does so once more, as for any answer that is none.
        let is_failure = serde_json::from_slice::<IgnoredAny>(&response.body).is_err();
        return Judged { is_failure, limited, wait, tokens, ..Judged::good() };
    }
    let error = OpenAiError::classify(response.status, &response.body);
    let is_limit = matches!(error.fault, OpenAiFault::RateLimited);
    Judged {
        is_passing: error.retryable,
        is_failure: matches!(error.fault, OpenAiFault::Unavailable),
        limited: if is_limit { Limited::Project } else { Limited::Nobody },
        wait,
        tokens: None,
    }
}

fn read(response: &EgressResponse) -> Result<Plan, NoPlan> {
    if !(200..300).contains(&response.status) {
        return Err(NoPlan::Final(refused(response)));
    }
    match parse_response(&response.body) {
        Ok(ModelAnswer::Text(text)) => {
            Plan::from_model_json(&text).map_err(|error| NoPlan::Nonsense(error.to_string()))
        }
        Ok(ModelAnswer::Refusal(reason)) => Ok(Plan::decline(polite(&reason))),
        Err(error) => Err(NoPlan::Nonsense(error.to_string())),
    }
}

fn refused(response: &EgressResponse) -> Problem {
    let error = OpenAiError::classify(response.status, &response.body);
    // The message may quote a part of the operator's key: it is for the log alone.
    tracing::warn!(
        status = error.status,
        code = error.code.as_deref(),
        message = error.message,
        "OpenAI refused"
    );
    let (kind, detail) = match error.fault {
        OpenAiFault::Unauthorized => {
            (ProblemKind::UpstreamRefused, "OpenAI does not accept the gateway's key")
        }
        OpenAiFault::RateLimited => (ProblemKind::UpstreamLimited, "OpenAI is limiting requests"),
        OpenAiFault::QuotaExhausted => {
            (ProblemKind::UpstreamLimited, "the gateway's OpenAI quota is used up")
        }
        OpenAiFault::Invalid => (ProblemKind::UpstreamRefused, "OpenAI refused the gateway's request"),
        OpenAiFault::Unavailable => (ProblemKind::UpstreamUnavailable, "OpenAI is failing at the moment"),
    };
    let problem = Problem::new(kind, detail).with_retryable(error.retryable);
    if error.retryable { with_wait(problem, response.retry_after) } else { problem }
}

/// The reason of a refusal, fit to be shown.
fn polite(reason: &str) -> String {
    let shown = |letter: char| if letter.is_control() && letter != '\n' { ' ' } else { letter };
    let reason: String = reason.trim().chars().take(REASON_CHARS_MAX).map(shown).collect();
    if reason.is_empty() { REASON_DEFAULT.to_owned() } else { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_provider_learns_a_stable_hash_and_no_id() {
        let user = UserId::from_bytes([7; 16]);
        let name = safety_identifier(&user);
        assert_eq!(name.len(), 64);
        assert!(name.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(name, safety_identifier(&user));
        assert_ne!(name, safety_identifier(&UserId::from_bytes([8; 16])));
        assert!(!name.contains("07070707"));
    }

    #[test]
    fn a_refusal_is_a_valid_plan_whatever_its_words() {
        for reason in ["", "No.\u{1b}[2J", &"x".repeat(5_000)] {
            let plan = Plan::decline(polite(reason));
            plan.validate().expect("valid");
        }
    }
}

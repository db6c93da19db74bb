//! OpenAI's side: the Responses API, chat completions for clients that know only those, and the account's limits.

mod account;
mod chat;
mod responses;
mod stream;

use http::Method;

use super::chance::mix;
use super::plan::Plan;
use super::serve::State;
use super::wire::{Call, Reply, openai_error};

pub(crate) use account::Account;

/// The name a request is counted under.
pub(crate) fn operation(call: &Call) -> &'static str {
    match (&call.method, call.path.as_str()) {
        (&Method::POST, "/v1/responses") => "openai.responses",
        (&Method::POST, "/v1/chat/completions") => "openai.chat",
        (&Method::GET, "/v1/models") => "openai.models",
        _ => "unknown",
    }
}

/// Answers a request below `/v1/`.
pub(crate) fn serve(state: &State, plan: &Plan, call: &Call) -> Reply {
    let draw = state.luck.next();
    let reply = answer(state, plan, call, draw).unwrap_or_else(|refusal| refusal);
    state
        .account
        .headers(&plan.openai, reply)
        .with("x-request-id", format!("req_{:016x}{:016x}", draw, mix(draw)))
        .with("openai-version", "2020-10-01")
        .with("openai-organization", "simulated")
        .with(
            "openai-processing-ms",
            plan.latency(super::wire::Service::OpenAi, "").0.as_millis().to_string(),
        )
}

fn answer(state: &State, plan: &Plan, call: &Call, draw: u64) -> Result<Reply, Reply> {
    check_key(call)?;
    let operation = operation(call);
    if operation == "openai.models" {
        return Ok(chat::models());
    }
    if operation == "unknown" {
        let message = format!("Invalid URL ({} {})", call.method, call.path);
        return Err(openai_error(404, "invalid_request_error", None, None, &message));
    }
    // Whatever comes of it, a request counts; its tokens are known when it is answered.
    state.account.admit(&plan.openai)?;
    let (reply, tokens) = if operation == "openai.chat" {
        chat::complete(state, plan, call, draw)
    } else {
        responses::respond(state, plan, call, draw)
    }?;
    state.account.spend(&plan.openai, tokens);
    Ok(reply)
}

fn check_key(call: &Call) -> Result<(), Reply> {
    match call.bearer.as_deref() {
        Some(key) if key.starts_with("sk-") && key.len() > 3 => Ok(()),
        Some(_) => Err(openai_error(
            401,
            "invalid_request_error",
            Some("invalid_api_key"),
            None,
            "Incorrect API key provided.",
        )),
        None => {
            let message = "You didn't provide an API key. You need to provide your API key in an Authorization header \
                           using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).";
            Err(openai_error(401, "invalid_request_error", None, None, message))
        }
    }
}

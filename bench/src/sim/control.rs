//! The control surface for tests, under `/_sim/`.
//!
//! | request | does |
//! |---|---|
//! | `GET state` | every side effect by user (`?user=NAME` for one), totals, requests by endpoint and under way, duplicates, quota used |
//! | `POST faults` | sets a fault: `{service, kind, count, user, path_contains, method, operation, share, from_s, until_s, status, reason, retry_after_s, ms, events, after_effect}` |
//! | `POST expire` | `{user}`: the change logs of that user (Gmail's history, Calendar's and Drive's changes) forget what was; tokens from before are too old |
//! | `DELETE faults` | clears all faults and ends hanging requests |
//! | `POST plan` | a plan file (TOML) that takes the place of the one before |
//! | `POST revoke` | `{user}`: refresh and access tokens of that user stop working |
//! | `POST peaks` | begins anew to look for the most requests at once |
//! | `POST reset` | forgets users, effects, counts and faults |

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::fault::Fault;
use super::serve::State;
use super::wire::{Call, Reply};

/// Answers `METHOD /_sim/ACTION`.
pub(crate) fn serve(state: &State, action: &str, call: &Call) -> Reply {
    match (call.method.as_str(), action) {
        ("GET", "state") => Reply::json(200, &snapshot(state, call.query.get("user"))),
        ("POST", "faults") => match serde_json::from_slice::<Fault>(&call.body) {
            Ok(fault) => match state.faults.add(fault) {
                Ok(count) => Reply::json(200, &json!({"faults": count})),
                Err(reason) => Reply::json(400, &json!({"error": reason})),
            },
            Err(error) => Reply::json(400, &json!({"error": error.to_string()})),
        },
        ("DELETE", "faults") => {
            state.faults.clear();
            Reply::json(200, &json!({"faults": 0}))
        }
        ("POST", "revoke") => match user_of(call).as_deref() {
            Some(user) => {
                state.world.revoke(user);
                state.oauth.revoke(user);
                Reply::json(200, &json!({"revoked": user}))
            }
            None => Reply::json(400, &json!({"error": "a body {\"user\": NAME} is needed"})),
        },
        ("POST", "plan") => match state.set_plan(&String::from_utf8_lossy(&call.body)) {
            Ok(()) => Reply::json(200, &json!({"plan": true})),
            Err(error) => Reply::json(400, &json!({"error": format!("{error:#}")})),
        },
        ("POST", "expire") => match user_of(call).as_deref() {
            Some(user) => {
                let user = state.world.user(user);
                user.mail().forget_history();
                user.calendar().forget_changes();
                user.drive().forget_changes();
                Reply::json(200, &json!({"expired": user.name}))
            }
            None => Reply::json(400, &json!({"error": "a body {\"user\": NAME} is needed"})),
        },
        ("POST", "peaks") => {
            state.counts.forget_peaks();
            Reply::json(200, &json!({"peaks": 0}))
        }
        ("POST", "reset") => {
            state.quotas.reset();
            state.oauth.reset();
            state.uploads.reset();
            state.account.reset();
            state.faults.clear();
            state.faults.forget_fired();
            state.counts.reset();
            state.world.reset();
            Reply::json(200, &json!({"reset": true}))
        }
        _ => Reply::json(404, &json!({"error": format!("no {} /_sim/{action}", call.method)})),
    }
}

fn user_of(call: &Call) -> Option<String> {
    serde_json::from_slice::<Value>(&call.body).ok()?["user"].as_str().map(str::to_owned)
}

fn snapshot(state: &State, only: Option<&str>) -> Value {
    let effects = state.world.effects(only);
    let unfit = state.counts.answers_unfit();
    let mut oauth = state.oauth.snapshot();
    oauth["in_flight_peak"] = state.counts.tokens_peak().into();
    json!({
        "users": effects.users,
        "totals": effects.totals,
        "changes": effects.changes,
        "duplicates": {"messages": effects.duplicate_messages, "events": effects.duplicate_events},
        "requests": state.counts.endpoints(),
        "under_way": state.counts.under_way.load(Ordering::Relaxed),
        "statuses": state.counts.statuses().into_iter().map(|(code, n)| (code.to_string(), json!(n))).collect::<serde_json::Map<_, _>>(),
        "faults_fired": state.faults.fired(),
        "errors_injected": {
            "before_effect": state.counts.mishaps_before.load(Ordering::Relaxed),
            "after_effect": state.counts.mishaps_after.load(Ordering::Relaxed),
        },
        "abandoned": state.counts.abandoned.load(Ordering::Relaxed),
        "connections_cut": state.counts.connections_cut.load(Ordering::Relaxed),
        "quota": state.quotas.snapshot(),
        "openai": state.account.snapshot(),
        "oauth": oauth,
        "answers_unfit": {"count": unfit.0, "first": unfit.1},
        "plans_unfit": state.counts.plans_unfit.load(Ordering::Relaxed),
    })
}

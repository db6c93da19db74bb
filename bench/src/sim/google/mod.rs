//! Google's side: access tokens, and the three services behind them.

mod calendar;
mod drive;
mod drive_query;
mod gmail;
mod search;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::chance::{hash, mix};
use super::serve::State;
use super::wire::{Call, Params, Reply, Service, google_error};
use super::world::User;

/// Refresh tokens that work are this and a user's name.
const REFRESH_PREFIX: &str = "sim-refresh-";
/// Refresh tokens that were revoked are this and a user's name.
const REVOKED_PREFIX: &str = "sim-revoked-";
/// A name beyond this is no name.
const NAME_BYTES_MAX: usize = 128;

const SCOPE: &str = "https://www.googleapis.com/auth/gmail.modify https://www.googleapis.com/auth/calendar \
                     https://www.googleapis.com/auth/drive";

/// Who a request comes from.
#[derive(Debug)]
pub(crate) enum Identity {
    /// The service does not know users.
    Nobody,
    /// A name said, not proven (a refresh token).
    Said(String),
    /// A valid access token.
    Known(Arc<User>),
    /// No access token, or one that is not valid.
    Refused(&'static str),
}

impl Identity {
    /// The user's name, as faults match it.
    pub(crate) fn user(&self) -> Option<&str> {
        match self {
            Self::Said(name) => Some(name),
            Self::Known(user) => Some(&user.name),
            Self::Nobody | Self::Refused(_) => None,
        }
    }
}

/// Finds out who asks.
pub(crate) fn identify(state: &State, service: Service, call: &Call) -> Identity {
    match service {
        Service::OpenAi => Identity::Nobody,
        Service::OAuth => {
            let form = Params::parse(&String::from_utf8_lossy(&call.body));
            let token = form.get("refresh_token").unwrap_or_default();
            let name = token.strip_prefix(REFRESH_PREFIX).or_else(|| token.strip_prefix(REVOKED_PREFIX));
            name.map_or(Identity::Nobody, |name| Identity::Said(name.to_owned()))
        }
        Service::Gmail | Service::Calendar | Service::Drive => match call.bearer.as_deref() {
            None => Identity::Refused("required"),
            Some(token) => match read_token(token, state.config.seed, unix_ms()) {
                Some(name) if !state.world.is_revoked(&name) => Identity::Known(state.world.user(&name)),
                _ => Identity::Refused("authError"),
            },
        },
    }
}

/// Answers a request to the token endpoint or to one of the services, and names
/// the endpoint.
pub(crate) fn serve(
    state: &State,
    service: Service,
    identity: &Identity,
    call: &Call,
) -> (&'static str, Reply) {
    let user = match identity {
        Identity::Known(user) => user,
        Identity::Refused(reason) => return ("google.unauthorized", unauthorized(reason)),
        Identity::Nobody | Identity::Said(_) if service == Service::OAuth => {
            return ("oauth.token", token(state, call));
        }
        Identity::Nobody | Identity::Said(_) => return ("unknown", unknown_path(&call.path)),
    };
    match service {
        Service::Gmail => gmail::serve(state, user, call),
        Service::Calendar => calendar::serve(state, user, call),
        _ => drive::serve(user, call),
    }
}

/// The answer to a path no service has.
pub(crate) fn unknown_path(path: &str) -> Reply {
    google_error(404, "notFound", &format!("The requested URL {path} was not found on this server."))
}

fn unauthorized(reason: &str) -> Reply {
    let message = if reason == "required" {
        "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or \
         other valid authentication credential."
    } else {
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other \
         valid authentication credential."
    };
    google_error(401, reason, message)
        .with("www-authenticate", "Bearer realm=\"https://accounts.google.com/\"")
}

/// `POST /token`: only the refresh grant.
fn token(state: &State, call: &Call) -> Reply {
    let refuse = |error: &str, description: &str| {
        Reply::json(400, &json!({"error": error, "error_description": description}))
    };
    if call.method != http::Method::POST {
        return google_error(404, "notFound", "Not Found");
    }
    let form = Params::parse(&String::from_utf8_lossy(&call.body));
    match form.get("grant_type") {
        None | Some("") => return refuse("invalid_request", "Required parameter is missing: grant_type"),
        Some("refresh_token") => {}
        Some(other) => return refuse("unsupported_grant_type", &format!("Invalid grant_type: {other}")),
    }
    if form.get("client_id").unwrap_or_default().is_empty() {
        return refuse("invalid_request", "Could not determine client ID from request.");
    }
    if form.get("client_secret").unwrap_or_default().is_empty() {
        return refuse("invalid_request", "client_secret is missing.");
    }
    let refresh_token = form.get("refresh_token").unwrap_or_default();
    if refresh_token.is_empty() {
        return refuse("invalid_request", "Missing required parameter: refresh_token");
    }
    let name = match refresh_token.strip_prefix(REFRESH_PREFIX) {
        Some(name) if !name.is_empty() && name.len() <= NAME_BYTES_MAX && !state.world.is_revoked(name) => {
            name
        }
        _ => return refuse("invalid_grant", "Token has been expired or revoked."),
    };
    let lifetime = state.config.token_lifetime;
    let expires_ms = unix_ms() + u64::try_from(lifetime.as_millis()).unwrap_or(0);
    let access_token = write_token(name, expires_ms, state.luck.next(), state.config.seed);
    Reply::json(
        200,
        &json!({"access_token": access_token, "expires_in": lifetime.as_secs(), "scope": SCOPE, "token_type": "Bearer"}),
    )
    .with("cache-control", "no-cache, no-store, max-age=0, must-revalidate")
}

fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

/// An access token holds what it says, so that nothing need be remembered of it:
/// `ya29.sim.NAME.EXPIRY.NONCE.CHECK`.
fn write_token(name: &str, expires_ms: u64, nonce: u64, seed: u64) -> String {
    let said = format!("ya29.sim.{}.{expires_ms:x}.{nonce:x}", URL_SAFE_NO_PAD.encode(name));
    let check = mix(hash(&said) ^ seed);
    format!("{said}.{check:x}")
}

/// The name in a token that was issued here and has not expired.
fn read_token(token: &str, seed: u64, now_ms: u64) -> Option<String> {
    let (said, check) = token.rsplit_once('.')?;
    if format!("{:x}", mix(hash(said) ^ seed)) != check {
        return None;
    }
    let mut parts = said.strip_prefix("ya29.sim.")?.split('.');
    let name = URL_SAFE_NO_PAD.decode(parts.next()?).ok()?;
    let expires_ms = u64::from_str_radix(parts.next()?, 16).ok()?;
    (now_ms < expires_ms).then(|| String::from_utf8(name).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_user_until_it_expires() {
        let token = write_token("ada.l@x", 1_000, 5, 1);
        assert_eq!(read_token(&token, 1, 999), Some("ada.l@x".to_owned()));
        assert_eq!(read_token(&token, 1, 1_000), None);
        assert_eq!(read_token(&token, 2, 999), None);
        let forged = token.replacen(&URL_SAFE_NO_PAD.encode("ada.l@x"), &URL_SAFE_NO_PAD.encode("bob"), 1);
        assert_eq!(read_token(&forged, 1, 999), None);
        assert_eq!(read_token("sk-whatever", 1, 0), None);
    }
}

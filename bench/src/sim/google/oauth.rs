//! Google's OAuth 2.0: consent (given at once), codes with PKCE, refresh with or without rotation, revocation.
//!
//! Two kinds of refresh tokens work: `sim-refresh-NAME`, which needs no consent, and those that a code was exchanged
//! for. An assertion of the service account works without any ([`delegation`]). Who consents is `login_hint`; whether and to what they do, `sim_consent` (`deny`) and `sim_scope` say.
//!
//! Invariants:
//! - A code is good once, for ten minutes, for the client and the address it was made for.
//! - A refresh token that was rotated away, revoked, or pushed out by a hundred newer ones is refused.
//! - An access token holds what it says, so nothing is remembered of it but when its user revoked.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::delegation::{self, refusal};
use super::{Identity, Request, is_get, unknown_path};
use crate::sim::chance::{hash, mix};
use crate::sim::plan::Plan;
use crate::sim::serve::State;
use crate::sim::wire::{Call, Params, Reply};

/// Refresh tokens that work are this and a user's name.
const REFRESH_PREFIX: &str = "sim-refresh-";
/// Refresh tokens that were revoked are this and a user's name.
const REVOKED_PREFIX: &str = "sim-revoked-";
/// A name beyond this is no name.
pub(super) const NAME_BYTES_MAX: usize = 128;
/// Live refresh tokens of one user and client; the oldest ends when there are more.
const TOKENS_MAX: usize = 100;
/// How long a code is good.
const CODE_LIFE: Duration = Duration::from_secs(600);
/// Codes not yet exchanged.
const CODES_MAX: usize = 10_000;
/// Who consents when `login_hint` does not say.
const USER_DEFAULT: &str = "ada";

const SCOPE: &str = "https://www.googleapis.com/auth/gmail.modify https://www.googleapis.com/auth/calendar \
                     https://www.googleapis.com/auth/drive";

/// Who let whom do what.
#[derive(Debug, Clone)]
struct Grant {
    user: String,
    client: String,
    scopes: String,
}

#[derive(Debug)]
struct Code {
    grant: Grant,
    redirect_uri: String,
    /// Method and challenge, when the client uses PKCE.
    challenge: Option<(String, String)>,
    offline: bool,
    nonce: Option<String>,
    made: Instant,
}

#[derive(Debug, Default)]
struct Ledger {
    codes: HashMap<String, Code>,
    tokens: HashMap<String, Grant>,
    /// Live tokens by user and client, oldest first.
    live: HashMap<(String, String), VecDeque<String>>,
    /// What was granted, by user and client.
    consented: HashMap<(String, String), Vec<String>>,
    /// `sim-refresh-NAME` tokens that were rotated away.
    spent: HashSet<String>,
    rotated: u64,
    revoked: u64,
    refused: u64,
    /// Tokens that the service account got, by the user it acts for.
    delegated: BTreeMap<String, u64>,
}

/// Codes, refresh tokens and consents.
#[derive(Debug, Default)]
pub(crate) struct Grants(Mutex<Ledger>);

impl Grants {
    fn lock(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn reset(&self) {
        *self.lock() = Ledger::default();
    }

    /// Ends every grant of a user.
    pub(crate) fn revoke(&self, user: &str) {
        let mut ledger = self.lock();
        ledger.tokens.retain(|_, grant| grant.user != user);
        ledger.live.retain(|(of, _), _| of != user);
        ledger.consented.retain(|(of, _), _| of != user);
        ledger.revoked += 1;
    }

    /// Counts, as `GET /_sim/state` shows them.
    pub(crate) fn snapshot(&self) -> Value {
        let ledger = self.lock();
        json!({"refresh_tokens": ledger.tokens.len(), "rotated": ledger.rotated, "revoked": ledger.revoked,
            "invalid_grants": ledger.refused, "delegated": ledger.delegated})
    }
}

impl Ledger {
    fn issue(&mut self, grant: &Grant, draw: u64) -> String {
        let token = format!("1//sim{:016x}{:016x}", draw, mix(draw));
        self.tokens.insert(token.clone(), grant.clone());
        let live = self.live.entry((grant.user.clone(), grant.client.clone())).or_default();
        live.push_back(token.clone());
        if live.len() > TOKENS_MAX
            && let Some(oldest) = live.pop_front()
        {
            self.tokens.remove(&oldest);
        }
        token
    }
}

pub(super) fn operation(call: &Call) -> &'static str {
    match call.path.as_str() {
        "/token" => "oauth.token",
        "/revoke" => "oauth.revoke",
        "/o/oauth2/v2/auth" => "oauth.authorize",
        "/tokeninfo" => "oauth.tokeninfo",
        _ => "unknown",
    }
}

fn form(call: &Call) -> Params {
    Params::parse(&String::from_utf8_lossy(&call.body))
}

/// The name that a request to this side says it is about.
pub(super) fn said(state: &State, call: &Call) -> Identity {
    let form = form(call);
    if let Some(name) = form.get("assertion").and_then(delegation::said) {
        return Identity::Said(name);
    }
    let token = form.get("refresh_token").unwrap_or_default();
    let name = token.strip_prefix(REFRESH_PREFIX).or_else(|| token.strip_prefix(REVOKED_PREFIX));
    if let Some(name) = name {
        return Identity::Said(name.to_owned());
    }
    let ledger = state.oauth.lock();
    let of_token = ledger.tokens.get(token).map(|grant| &grant.user);
    let of_code = || ledger.codes.get(form.get("code")?).map(|code| &code.grant.user);
    of_token.or_else(of_code).map_or(Identity::Nobody, |name| Identity::Said(name.clone()))
}

/// Answers what needs no access token.
pub(super) fn serve(state: &State, plan: &Plan, call: &Call) -> Reply {
    match (call.method.as_str(), call.path.as_str()) {
        ("POST", "/token") => token(state, plan, call),
        ("GET", "/o/oauth2/v2/auth") => authorize(state, plan, call),
        ("POST" | "GET", "/revoke") => revoke(state, call),
        ("POST" | "GET", "/tokeninfo" | "/oauth2/v2/tokeninfo") => token_info(state, call),
        _ => unknown_path(&call.path),
    }
}

/// The consent page of somebody who agrees at once.
fn authorize(state: &State, plan: &Plan, call: &Call) -> Reply {
    let query = &call.query;
    let page = |status: u16, error: &str| {
        let text = format!("<!DOCTYPE html><title>Error {status}</title><p>Error {status}: {error}</p>");
        Reply { status, ..Reply::bytes("text/html; charset=utf-8", text) }
    };
    let (Some(client), Some(redirect_uri)) = (query.get("client_id"), query.get("redirect_uri")) else {
        return page(400, "invalid_request");
    };
    if query.get("response_type") != Some("code") || !redirect_uri.contains("://") {
        return page(400, "invalid_request");
    }
    let Some(asked) = query.get("scope").filter(|scope| !scope.trim().is_empty()) else {
        return page(400, "invalid_scope");
    };
    let challenge = match (query.get("code_challenge"), query.get("code_challenge_method").unwrap_or("plain"))
    {
        (None, _) => None,
        (Some(challenge), method @ ("S256" | "plain")) => Some((method.to_owned(), challenge.to_owned())),
        (Some(_), _) => return page(400, "invalid_request"),
    };
    let separator = if redirect_uri.contains('?') { '&' } else { '?' };
    let back = |answer: &str| {
        let state = query.get("state").map_or_else(String::new, |text| format!("state={}&", encoded(text)));
        Reply::empty(302).with("location", format!("{redirect_uri}{separator}{state}{answer}"))
    };
    if query.get("sim_consent") == Some("deny") {
        return back("error=access_denied");
    }
    let hint = query.get("login_hint").unwrap_or(USER_DEFAULT);
    let user = hint.strip_suffix("@example.com").unwrap_or(hint).to_owned();
    if user.is_empty() || user.len() > NAME_BYTES_MAX {
        return back("error=invalid_request");
    }
    let granted: Vec<&str> = match (query.get("sim_scope"), &plan.oauth.grant) {
        (Some(scopes), _) => {
            asked.split(' ').filter(|scope| scopes.split(' ').any(|s| s == *scope)).collect()
        }
        (None, Some(grant)) => asked.split(' ').filter(|scope| grant.iter().any(|s| s == scope)).collect(),
        (None, None) => asked.split(' ').collect(),
    };
    let mut ledger = state.oauth.lock();
    if ledger.codes.len() >= CODES_MAX {
        return page(503, "temporarily_unavailable");
    }
    // Who has consented before is given a refresh token only when asked again.
    let consented = ledger.consented.entry((user.clone(), client.to_owned()));
    let is_new = matches!(consented, Entry::Vacant(_));
    let before = consented.or_default();
    let granted: Vec<String> = granted.into_iter().map(str::to_owned).collect();
    before.retain(|scope| !granted.contains(scope));
    before.extend(granted.iter().cloned());
    let scopes = match query.get("include_granted_scopes") {
        Some("true") => before.join(" "),
        _ => granted.join(" "),
    };
    let grant = Grant { user, client: client.to_owned(), scopes: scopes.clone() };
    let again = query.get("prompt").is_some_and(|prompt| prompt.split(' ').any(|word| word == "consent"));
    let offline = query.get("access_type") == Some("offline") && (is_new || again);
    let code = format!("4/0A{:016x}{:016x}", state.luck.next(), state.luck.next());
    let redirect_uri = redirect_uri.to_owned();
    let nonce = query.get("nonce").map(str::to_owned);
    let made = Instant::now();
    ledger.codes.insert(code.clone(), Code { grant, redirect_uri, challenge, offline, nonce, made });
    back(&format!("code={}&scope={}", encoded(&code), encoded(&scopes)))
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn refuse(error: &str, description: &str) -> Reply {
    Reply::json(400, &json!({"error": error, "error_description": description}))
}

/// `POST /token`.
fn token(state: &State, plan: &Plan, call: &Call) -> Reply {
    let form = form(call);
    let kind = form.get("grant_type").unwrap_or_default();
    match kind {
        "" => return refuse("invalid_request", "Required parameter is missing: grant_type"),
        delegation::GRANT => return delegated(state, plan, &form),
        "refresh_token" | "authorization_code" => {}
        other => return refuse("unsupported_grant_type", &format!("Invalid grant_type: {other}")),
    }
    if form.get("client_id").unwrap_or_default().is_empty() {
        return refuse("invalid_request", "Could not determine client ID from request.");
    }
    if form.get("client_secret").unwrap_or_default().is_empty() {
        return refuse("invalid_request", "client_secret is missing.");
    }
    let is_code = kind == "authorization_code";
    let given = if is_code { exchange(state, &form) } else { refresh(state, plan, &form) };
    let Given { grant, refresh_token, nonce } = match given {
        Ok(given) => given,
        Err(refusal) => {
            state.oauth.lock().refused += u64::from(refusal.body.starts_with(b"{\"error\":\"invalid_grant"));
            return refusal;
        }
    };
    let (access_token, life_s) = access(state, plan, grant.user.clone(), grant.scopes.clone());
    let mut answer = json!({"access_token": access_token, "expires_in": life_s, "scope": grant.scopes, "token_type": "Bearer"});
    if let Some(token) = refresh_token {
        answer["refresh_token"] = token.into();
        if let Some(lifetime_s) = plan.oauth.refresh_token_lifetime_s {
            answer["refresh_token_expires_in"] = lifetime_s.into();
        }
    }
    if is_code && grant.scopes.split(' ').any(|scope| scope == "openid") {
        let client = form.get("client_id").unwrap_or_default();
        answer["id_token"] = id_token(state, &grant.user, client, nonce.as_deref()).into();
    }
    given_token(&answer)
}

/// A fresh access token, and for how many seconds it is good.
fn access(state: &State, plan: &Plan, name: String, scopes: String) -> (String, u64) {
    let lifetime = plan.oauth.token_lifetime_s.map_or(state.config.token_lifetime, Duration::from_secs);
    let expires_ms = unix_ms() + u64::try_from(lifetime.as_millis()).unwrap_or(0);
    let access = Access { name, scopes, sequence: state.world.next_sequence() };
    (access.write(expires_ms, state.config.seed), lifetime.as_secs())
}

fn given_token(answer: &Value) -> Reply {
    Reply::json(200, answer).with("cache-control", "no-cache, no-store, max-age=0, must-revalidate")
}

/// A token for an assertion of the service account; there is no refresh token with it, nor a scope.
fn delegated(state: &State, plan: &Plan, form: &Params) -> Reply {
    let assertion = form.get("assertion").unwrap_or_default();
    if assertion.is_empty() {
        return refuse("invalid_request", "Missing required parameter: assertion");
    }
    let accepted = match &state.service_account {
        Some(account) => account.accept(assertion, unix_ms() / 1_000),
        None => Err(refusal(400, "invalid_grant", "Invalid grant: account not found")),
    };
    let accepted = accepted.and_then(|accepted| {
        if state.world.is_revoked(&accepted.user) {
            return Err(refusal(400, "invalid_grant", "Invalid email or User ID"));
        }
        Ok(accepted)
    });
    let accepted = match accepted {
        Ok(accepted) => accepted,
        Err(refusal) => {
            state.oauth.lock().refused += 1;
            return refusal;
        }
    };
    *state.oauth.lock().delegated.entry(accepted.user.clone()).or_default() += 1;
    let (access_token, life_s) = access(state, plan, accepted.user, accepted.scopes);
    given_token(&json!({"access_token": access_token, "expires_in": life_s, "token_type": "Bearer"}))
}

/// What a refresh token or a code brings.
struct Given {
    grant: Grant,
    refresh_token: Option<String>,
    nonce: Option<String>,
}

/// Who consented, as a token whose signature is none: it came from the token endpoint itself.
fn id_token(state: &State, name: &str, client: &str, nonce: Option<&str>) -> String {
    let user = state.world.user(name);
    let now_s = unix_ms() / 1_000;
    let mut claims = json!({"iss": "https://accounts.google.com", "azp": client, "aud": client,
        "sub": account_id(name), "email": user.person.email, "email_verified": true, "iat": now_s,
        "exp": now_s + 3_600});
    if let Some(nonce) = nonce {
        claims["nonce"] = nonce.into();
    }
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{}", part(&json!({"alg": "RS256", "typ": "JWT"})), part(&claims), "c2ltdWxhdGVk")
}

fn refresh(state: &State, plan: &Plan, form: &Params) -> Result<Given, Reply> {
    let token = form.get("refresh_token").unwrap_or_default();
    if token.is_empty() {
        return Err(refuse("invalid_request", "Missing required parameter: refresh_token"));
    }
    let dead = || refuse("invalid_grant", "Token has been expired or revoked.");
    let client = form.get("client_id").unwrap_or_default();
    let mut ledger = state.oauth.lock();
    let grant = match token.strip_prefix(REFRESH_PREFIX) {
        Some(name) => {
            let good = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !state.world.is_revoked(name);
            if !good || ledger.spent.contains(token) {
                return Err(dead());
            }
            let scopes = plan.oauth.grant.as_ref().map_or_else(|| SCOPE.to_owned(), |grant| grant.join(" "));
            Grant { user: name.to_owned(), client: client.to_owned(), scopes }
        }
        None => ledger.tokens.get(token).cloned().ok_or_else(dead)?,
    };
    if grant.client != client {
        return Err(refuse("unauthorized_client", "Unauthorized"));
    }
    if !plan.oauth.rotate_refresh_tokens {
        return Ok(Given { grant, refresh_token: None, nonce: None });
    }
    if ledger.tokens.remove(token).is_none() {
        ledger.spent.insert(token.to_owned());
    }
    if let Some(live) = ledger.live.get_mut(&(grant.user.clone(), grant.client.clone())) {
        live.retain(|known| known != token);
    }
    ledger.rotated += 1;
    let new = ledger.issue(&grant, state.luck.next());
    Ok(Given { grant, refresh_token: Some(new), nonce: None })
}

fn exchange(state: &State, form: &Params) -> Result<Given, Reply> {
    let text = form.get("code").unwrap_or_default();
    if text.is_empty() {
        return Err(refuse("invalid_request", "Missing required parameter: code"));
    }
    let mut ledger = state.oauth.lock();
    let Some(code) = ledger.codes.remove(text).filter(|code| code.made.elapsed() < CODE_LIFE) else {
        return Err(refuse("invalid_grant", "Malformed auth code."));
    };
    if form.get("redirect_uri") != Some(code.redirect_uri.as_str()) {
        return Err(refuse("redirect_uri_mismatch", "Bad Request"));
    }
    if form.get("client_id") != Some(code.grant.client.as_str()) {
        return Err(refuse("invalid_grant", "Bad Request"));
    }
    let verifier = form.get("code_verifier").unwrap_or_default();
    match &code.challenge {
        None => {}
        Some(_) if verifier.is_empty() => return Err(refuse("invalid_grant", "Missing code verifier.")),
        Some((method, challenge)) => {
            let hashed = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
            let said = if method == "S256" { hashed.as_str() } else { verifier };
            if said != challenge {
                return Err(refuse("invalid_grant", "Invalid code verifier."));
            }
        }
    }
    let refresh_token = code.offline.then(|| ledger.issue(&code.grant, state.luck.next()));
    Ok(Given { grant: code.grant, refresh_token, nonce: code.nonce })
}

/// `/revoke`: a refresh or an access token ends everything its user granted.
fn revoke(state: &State, call: &Call) -> Reply {
    let form = form(call);
    let token = call.query.get("token").or_else(|| form.get("token")).unwrap_or_default();
    let of_refresh = || state.oauth.lock().tokens.get(token).map(|grant| grant.user.clone());
    let named = token.strip_prefix(REFRESH_PREFIX).filter(|name| !state.world.is_revoked(name));
    let user = named.map(str::to_owned).or_else(of_refresh);
    match user.or_else(|| read_access(state, token).map(|(name, _)| name)) {
        None => refuse("invalid_token", "Token expired or revoked"),
        Some(user) => {
            state.oauth.revoke(&user);
            state.world.revoke(&user);
            Reply::json(200, &json!({}))
        }
    }
}

fn token_info(state: &State, call: &Call) -> Reply {
    let form = form(call);
    let token = call.query.get("access_token").or_else(|| form.get("access_token"));
    let token = token.or(call.bearer.as_deref()).unwrap_or_default();
    let Some((access, expires_ms)) = Access::read(token, state.config.seed) else {
        return refuse("invalid_token", "Invalid Value");
    };
    let left_s = expires_ms.saturating_sub(unix_ms()) / 1_000;
    if left_s == 0 || state.world.is_revoked_since(&access.name, access.sequence) {
        return refuse("invalid_token", "Invalid Value");
    }
    let user = state.world.user(&access.name);
    Reply::json(
        200,
        &json!({"issued_to": "simulated", "audience": "simulated", "user_id": account_id(&user.name),
            "scope": access.scopes, "expires_in": left_s, "email": user.person.email, "verified_email": true}),
    )
}

/// `userinfo`: who the token is of.
pub(super) fn userinfo(request: &Request<'_>) -> Value {
    debug_assert!(is_get(request.call));
    let user = request.user;
    json!({"id": account_id(&user.name), "email": user.person.email, "verified_email": true,
        "name": user.person.name, "given_name": user.person.name, "picture": "https://lh3.googleusercontent.com/a/x"})
}

fn account_id(name: &str) -> String {
    format!("1{:020}", mix(hash(name)))
}

fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

/// User and scopes of an access token that is good now.
pub(super) fn read_access(state: &State, token: &str) -> Option<(String, String)> {
    let (access, expires_ms) = Access::read(token, state.config.seed)?;
    let good = unix_ms() < expires_ms && !state.world.is_revoked_since(&access.name, access.sequence);
    good.then_some((access.name, access.scopes))
}

/// What an access token says: `ya29.sim.NAME.EXPIRY.SEQUENCE.SCOPES.CHECK`.
#[derive(Debug, PartialEq, Eq)]
struct Access {
    name: String,
    scopes: String,
    /// Tokens are numbered; a revocation ends those before it.
    sequence: u64,
}

impl Access {
    fn write(&self, expires_ms: u64, seed: u64) -> String {
        let (name, scopes) = (URL_SAFE_NO_PAD.encode(&self.name), URL_SAFE_NO_PAD.encode(&self.scopes));
        let said = format!("ya29.sim.{name}.{expires_ms:x}.{:x}.{scopes}", self.sequence);
        let check = mix(hash(&said) ^ seed);
        format!("{said}.{check:x}")
    }

    /// A token that was issued here, and when it expires.
    fn read(token: &str, seed: u64) -> Option<(Self, u64)> {
        let (said, check) = token.rsplit_once('.')?;
        if format!("{:x}", mix(hash(said) ^ seed)) != check {
            return None;
        }
        let mut parts = said.strip_prefix("ya29.sim.")?.split('.');
        let mut text = || String::from_utf8(URL_SAFE_NO_PAD.decode(parts.next()?).ok()?).ok();
        let name = text()?;
        let expires_ms = u64::from_str_radix(parts.next()?, 16).ok()?;
        let sequence = u64::from_str_radix(parts.next()?, 16).ok()?;
        let scopes = String::from_utf8(URL_SAFE_NO_PAD.decode(parts.next()?).ok()?).ok()?;
        Some((Self { name, scopes, sequence }, expires_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_whose_it_is_and_cannot_be_forged() {
        let access = Access { name: "ada.l@x".to_owned(), scopes: "a b".to_owned(), sequence: 5 };
        let token = access.write(1_000, 1);
        assert_eq!(Access::read(&token, 2), None);
        let forged = token.replacen(&URL_SAFE_NO_PAD.encode("ada.l@x"), &URL_SAFE_NO_PAD.encode("bob"), 1);
        assert_eq!(Access::read(&forged, 1), None);
        assert_eq!(Access::read("sk-whatever", 1), None);
        assert_eq!(Access::read(&token, 1), Some((access, 1_000)));
    }

    #[test]
    fn the_hundred_and_first_token_ends_the_first() {
        let mut ledger = Ledger::default();
        let grant = Grant { user: "ada".to_owned(), client: "c".to_owned(), scopes: String::new() };
        let tokens: Vec<String> = (0..101).map(|draw| ledger.issue(&grant, draw)).collect();
        assert!(!ledger.tokens.contains_key(&tokens[0]) && ledger.tokens.contains_key(&tokens[1]));
        assert_eq!(ledger.tokens.len(), TOKENS_MAX);
    }
}

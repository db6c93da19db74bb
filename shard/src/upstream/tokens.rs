//! Access tokens for Google, by user.
//!
//! Invariants:
//! - At most one refresh of a user is under way on the core that owns the user; whoever needs the token meanwhile
//!   waits for it. It runs as a task of its own, so that a caller who goes away cannot tear it down between
//!   Google's answer and the store.
//! - A refresh token that Google replaced is on disk before the access token that came with it is handed out.
//! - What a connection's record says is overwritten only if it is still what the refresh began with: a user who
//!   connects anew meanwhile wins. The record is held from that look until the change is durable.
//! - Refresh tokens are written sealed. One that an older version left as it is, is sealed with the next refresh.
//! - At most `tokens_max` tokens are kept; the oldest goes first.
//! - For a user without a connection the operator's service account may get one, where that is configured ([`delegated`]).

mod delegated;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hashbrown::HashMap;
use sluice_net::egress::{AnswerBody, EgressRequest, EgressResponse, Retry, Upstream};
use sluice_protocols::api::{CallTarget, CallView, Priority};
use sluice_protocols::google::oauth::{FORM, OAuthError, TokenResponse, refresh_body};
use sluice_protocols::ids::{ShardId, UserId};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::record::{ConnectionRecord, ConnectionState, PlainText, Provider, StoredSecret};
use sluice_store::vault::{Place, VaultError};
use sluice_store::{Batch, Key};
use zeroize::Zeroizing;

use super::call::{Ended, Judged, Limited, Outgoing, Unanswered};
use super::meter::micros;
use super::{denied, lost};
use crate::env::Env;
use crate::quota::{Ask, Class, Operation};

/// A token is not used in its last seconds: a call may be under way that long.
const LAST_SECONDS: Duration = Duration::from_secs(30);
/// What the token endpoint is called in the list of a step's calls.
const TOKEN_PATH: &str = "/token";
/// What it is called to users.
const ENDPOINT: &str = "Google's token endpoint";

/// A bearer token. Wiped when the last clone goes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct AccessToken(Rc<Zeroizing<String>>);

impl AccessToken {
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken")
    }
}

struct Kept {
    token: AccessToken,
    /// From here on it is renewed, while it is still used.
    renew_at: Instant,
    /// From here on it is not used.
    ends_at: Instant,
    /// Which place in the order of age is this entry's; an older place of the same user is void.
    age: u64,
    /// The address it was given for by delegation; `None` for one of the user's own connection.
    address: Option<Rc<str>>,
}

#[derive(Default)]
struct State {
    kept: HashMap<UserId, Kept, foldhash::fast::RandomState>,
    by_age: VecDeque<(u64, UserId)>,
    next_age: u64,
    flights: HashMap<UserId, Rc<Flight>, foldhash::fast::RandomState>,
}

/// A refresh under way, for all who wait for it.
#[derive(Default)]
struct Flight {
    landed: RefCell<Option<Result<AccessToken, Problem>>>,
    calls: RefCell<Vec<CallView>>,
    waiting: RefCell<Vec<Waker>>,
}

/// Access tokens of one core's users. `!Send`.
pub struct TokenCache {
    state: RefCell<State>,
    tokens_max: usize,
    told: delegated::Told,
}

/// A token, and the calls made to get it when this caller was the one they are told to.
pub(crate) struct Granted {
    pub(crate) token: Result<AccessToken, Problem>,
    pub(crate) calls: Vec<CallView>,
}

impl TokenCache {
    /// Keeps at most `tokens_max` tokens.
    pub fn new(tokens_max: usize) -> Self {
        let tokens_max = tokens_max.max(1);
        Self { state: RefCell::default(), tokens_max, told: delegated::Told::new(tokens_max) }
    }

    /// Drops what is known of a user's tokens: call it when their connection changed.
    pub fn forget(&self, user: &UserId) {
        let mut state = self.state.borrow_mut();
        state.kept.remove(user);
        // A refresh under way goes on for those who wait, but nobody new joins it and nothing of it is kept.
        state.flights.remove(user);
        self.told.forget(user);
    }

    /// How many tokens are kept.
    pub fn len(&self) -> usize {
        self.state.borrow().kept.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops a token that Google refused; a newer one of the user stays.
    pub(crate) fn reject(&self, user: &UserId, token: &AccessToken) {
        let mut state = self.state.borrow_mut();
        if state.kept.get(user).is_some_and(|kept| kept.token == *token) {
            state.kept.remove(user);
        }
    }

    /// A token that is good for now: the kept one, or a fresh one. Waits until `limit` at most; `deadline` is the
    /// command's own.
    pub(crate) async fn get(
        &self,
        env: &Env,
        shard: ShardId,
        user: UserId,
        limit: Instant,
        deadline: Instant,
    ) -> Granted {
        let now = sluice_core::now();
        let kept = self
            .state
            .borrow()
            .kept
            .get(&user)
            .map(|kept| (kept.token.clone(), kept.renew_at, kept.ends_at, kept.address.clone()));
        let kept = match kept {
            Some((.., Some(address))) if !delegated::is_still_for(env, shard, &user, &address).await => {
                self.forget(&user);
                None
            }
            kept => kept,
        };
        if let Some((token, renew_at, ends_at, _)) = kept
            && now < ends_at
        {
            if now >= renew_at {
                let _renewed_meanwhile = self.flight(env, shard, user);
            }
            return Granted { token: Ok(token), calls: Vec::new() };
        }
        let flight = self.flight(env, shard, user);
        let late = |_| {
            Err(lost(
                "Google's token endpoint",
                &sluice_net::egress::EgressError::DeadlineExceeded { sent: true },
                deadline,
            ))
        };
        let token = sluice_core::timeout_at(limit, flight.land()).await.unwrap_or_else(late);
        Granted { token, calls: flight.calls.take() }
    }

    /// The refresh of this user that is under way, or a new one.
    fn flight(&self, env: &Env, shard: ShardId, user: UserId) -> Rc<Flight> {
        let mut state = self.state.borrow_mut();
        if let Some(flight) = state.flights.get(&user) {
            return Rc::clone(flight);
        }
        let flight = Rc::new(Flight::default());
        state.flights.insert(user, Rc::clone(&flight));
        drop(state);
        let refresh = Refresh { env: env.clone(), shard, user, flight: Rc::clone(&flight) };
        sluice_core::spawn(refresh.run());
        flight
    }

    /// Ends a refresh: keeps its token, unless the user's connection changed meanwhile.
    fn land(&self, env: &Env, user: UserId, flight: &Rc<Flight>, fresh: Option<Kept>) {
        let mut state = self.state.borrow_mut();
        if !state.flights.get(&user).is_some_and(|known| Rc::ptr_eq(known, flight)) {
            return;
        }
        state.flights.remove(&user);
        let Some(mut kept) = fresh else { return };
        while state.kept.len() >= self.tokens_max && !state.kept.contains_key(&user) {
            let Some((age, oldest)) = state.by_age.pop_front() else { break };
            if state.kept.get(&oldest).is_some_and(|kept| kept.age == age) {
                state.kept.remove(&oldest);
                env.stats.tokens_evicted.add(1);
            }
        }
        kept.age = state.next_age;
        state.next_age += 1;
        state.by_age.push_back((kept.age, user));
        state.kept.insert(user, kept);
        state.drop_void_places();
    }
}

impl State {
    /// Every renewal leaves a void place behind; the list is swept when most of it is void.
    fn drop_void_places(&mut self) {
        if self.by_age.len() > 2 * self.kept.len() + 16 {
            let kept = &self.kept;
            self.by_age.retain(|(age, user)| kept.get(user).is_some_and(|entry| entry.age == *age));
        }
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Flight {
    async fn land(&self) -> Result<AccessToken, Problem> {
        poll_fn(|cx| {
            if let Some(result) = &*self.landed.borrow() {
                return Poll::Ready(result.clone());
            }
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    fn finish(&self, result: Result<AccessToken, Problem>) {
        *self.landed.borrow_mut() = Some(result);
        self.waiting.take().into_iter().for_each(Waker::wake);
    }
}

/// A connection as a refresh found it.
struct Used {
    record: ConnectionRecord,
    token: PlainText,
}

/// One refresh.
struct Refresh {
    env: Env,
    shard: ShardId,
    user: UserId,
    flight: Rc<Flight>,
}

/// Why the token endpoint gave no token.
enum NoToken {
    /// The refresh token is dead, or the assertion not accepted.
    Dead,
    /// The operator's client or service account is not accepted, or may not do this.
    Client(String),
    Other(Problem),
}

impl Refresh {
    async fn run(self) {
        let outcome = self.fresh().await;
        match &outcome {
            Ok(_) => self.env.stats.token_refreshes.add(1),
            Err(problem) => {
                self.env.stats.token_refresh_failures.add(1);
                tracing::info!(user = %self.user, problem = %problem, "no access token");
            }
        }
        let result = outcome.as_ref().map(|kept| kept.token.clone()).map_err(Clone::clone);
        self.env.tokens.land(&self.env, self.user, &self.flight, outcome.ok());
        self.flight.finish(result);
    }

    async fn fresh(&self) -> Result<Kept, Problem> {
        let used = match self.connection().await {
            Err(problem) if problem.kind() == ProblemKind::NotConnected => {
                return self.delegated(problem).await;
            }
            found => found?,
        };
        match self.exchange(&used.token).await {
            Ok(answer) => self.keep(used, answer).await,
            Err(NoToken::Other(problem)) => Err(problem),
            Err(NoToken::Client(why)) => Err(unaccepted(&why)),
            Err(NoToken::Dead) => self.second_chance(used).await,
        }
    }

    /// The refresh token was refused. Another may have taken its place while it was used.
    async fn second_chance(&self, dead: Used) -> Result<Kept, Problem> {
        let now = self.connection().await?;
        if now.token == dead.token {
            return Err(self.give_up(now).await);
        }
        match self.exchange(&now.token).await {
            Ok(answer) => self.keep(now, answer).await,
            Err(NoToken::Other(problem)) => Err(problem),
            Err(NoToken::Client(why)) => Err(unaccepted(&why)),
            Err(NoToken::Dead) => Err(self.give_up(now).await),
        }
    }

    /// The connection as it is on disk, if it can be used.
    async fn connection(&self) -> Result<Used, Problem> {
        match self.stored().await? {
            None => Err(Problem::new(
                ProblemKind::NotConnected,
                "connect a Google account first: there is none for this user",
            )),
            Some(connection) if connection.state == ConnectionState::NeedsReauth => Err(needs_reauth()),
            Some(record) => {
                let token = self.opened(&record.refresh_token).await?;
                Ok(Used { record, token })
            }
        }
    }

    async fn opened(&self, secret: &StoredSecret) -> Result<PlainText, Problem> {
        self.env.vault.open(&self.place(), secret).await.map_err(|error| {
            tracing::error!(user = %self.user, %error, "a refresh token cannot be opened");
            match error {
                // It is gone for good, and a new one can be had.
                VaultError::Destroyed { .. } => needs_reauth(),
                _ => Problem::new(
                    ProblemKind::Storage,
                    "the connection to Google cannot be opened at the moment",
                ),
            }
        })
    }

    fn place(&self) -> Place {
        Place::refresh_token(&self.user, Provider::Google)
    }

    async fn stored(&self) -> Result<Option<ConnectionRecord>, Problem> {
        let loaded = self.env.store.load::<ConnectionRecord>(self.shard, &self.key()).await;
        loaded.map(|found| found.map(|loaded| loaded.to_record())).map_err(|error| {
            tracing::error!(user = %self.user, %error, "a connection cannot be read");
            Problem::new(ProblemKind::Storage, "the connection to Google cannot be read at the moment")
        })
    }

    fn key(&self) -> Key {
        Key::connection(&self.user, Provider::Google.number())
    }

    async fn exchange(&self, token: &PlainText) -> Result<TokenResponse, NoToken> {
        let config = &self.env.config;
        self.ask(refresh_body(&config.google_client_id, &config.google_client_secret, token.expose())).await
    }

    /// Asks the token endpoint for what a form says.
    async fn ask(&self, body: String) -> Result<TokenResponse, NoToken> {
        let limit = sluice_core::now() + self.env.config.call_timeout;
        let request = EgressRequest {
            upstream: Upstream::OAuth,
            method: "POST",
            // The upstream's base URL is the token endpoint itself.
            url: String::new(),
            bearer: None,
            content_type: Some(FORM),
            body: Bytes::from(body),
            fields: Vec::new(),
            answer: AnswerBody::Whole,
            deadline: limit,
            // A lost answer may have held a new refresh token; not asking again would not bring it back.
            retry: Retry::Safe,
        };
        let began = Instant::now();
        let ask = Ask { user: None, units: 0, tokens: 0, priority: Priority::High };
        let Ended { answer, attempts, .. } = {
            let class = Class::Read;
            let operation = Operation::ONLY;
            Outgoing { env: &self.env, request, class, operation, is_hedged: false, ask, judge: &judge }
                .run()
                .await
        };
        self.flight.calls.borrow_mut().push(CallView {
            service: CallTarget::OAuth,
            method: "POST".to_owned(),
            path: TOKEN_PATH.to_owned(),
            status: answer.as_ref().ok().map(|response| response.status),
            duration_us: micros(began.elapsed()),
            attempts: attempts.max(1),
        });
        match answer {
            // No command's deadline is known here: it is the endpoint that is late.
            Err(Unanswered::Lost(error)) => Err(NoToken::Other(lost(ENDPOINT, &error, far(limit)))),
            Err(Unanswered::Denied(why)) => Err(NoToken::Other(denied(ENDPOINT, why))),
            Ok(response) => read(&response),
        }
    }

    /// Stores what Google replaced, then lets the access token be used.
    async fn keep(&self, used: Used, answer: TokenResponse) -> Result<Kept, Problem> {
        let rotated = answer.refresh_token().filter(|token| *token != used.token.expose());
        let scope =
            Some(answer.scopes().join(" ")).filter(|scope| !scope.is_empty() && *scope != used.record.scope);
        if rotated.is_some() || scope.is_some() || !used.record.refresh_token.is_sealed() {
            let scope = scope.unwrap_or_else(|| used.record.scope.clone());
            let changed = ConnectionRecord { scope, ..used.record.clone() };
            self.replace(&used, changed, rotated).await?;
            if rotated.is_some() {
                self.env.stats.token_rotations.add(1);
            }
        }
        Ok(kept(&self.env, &answer))
    }

    async fn give_up(&self, dead: Used) -> Problem {
        self.env.stats.connections_lost.add(1);
        tracing::warn!(user = %self.user, "Google no longer accepts the refresh token; the user must connect again");
        let marked = ConnectionRecord { state: ConnectionState::NeedsReauth, ..dead.record.clone() };
        if let Err(problem) = self.replace(&dead, marked, None).await {
            // The next refresh finds out again.
            tracing::error!(user = %self.user, %problem, "the dead connection could not be marked");
        }
        needs_reauth()
    }

    /// Writes the record, with another refresh token if there is one, if the one on disk still has the refresh token that
    /// was used.
    async fn replace(
        &self,
        used: &Used,
        mut new: ConnectionRecord,
        token: Option<&str>,
    ) -> Result<(), Problem> {
        let unwritten = |reason: String| {
            tracing::error!(user = %self.user, reason, "a connection cannot be written");
            Problem::new(ProblemKind::Storage, "the connection to Google cannot be stored at the moment")
        };
        let vault = &self.env.vault;
        // Before it is held: a data key that must be made takes a commit of its own.
        if token.is_some() || !new.refresh_token.is_sealed() {
            let token = token.unwrap_or_else(|| used.token.expose());
            let sealed = vault.seal(&self.place(), token).await;
            new.refresh_token = sealed.map_err(|error| unwritten(error.to_string()))?;
        }
        let key = self.key();
        let _hold = vault.hold(&key).await.map_err(|error| unwritten(error.to_string()))?;
        let Some(stored) = self.stored().await? else { return Ok(()) };
        // The same token may have been sealed meanwhile.
        if stored.refresh_token != used.record.refresh_token
            && self.opened(&stored.refresh_token).await? != used.token
        {
            return Ok(());
        }
        new.updated_ms = self.env.clock.unix_ms();
        let mut batch = Batch::new(self.shard);
        batch.put_record(&key, &new).map_err(|error| unwritten(error.to_string()))?;
        self.env.store.commit(batch).await.map(|_| ()).map_err(|error| unwritten(error.to_string()))
    }
}

/// A fresh token as it is kept.
fn kept(env: &Env, answer: &TokenResponse) -> Kept {
    let now = sluice_core::now();
    let ends_at = now + answer.lifetime().saturating_sub(LAST_SECONDS);
    // Up to a quarter earlier, by lot: tokens that were fetched together are not renewed together.
    let lot = f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
    let ahead = env.config.token_refresh_ahead.mul_f64(1.0 + lot / 4.0);
    let renew_at = now + answer.lifetime().saturating_sub(ahead);
    let token = AccessToken(Rc::new(Zeroizing::new(answer.access_token().to_owned())));
    Kept { token, renew_at, ends_at, age: 0, address: None }
}

/// What an answer of the token endpoint says about calls to come.
fn judge(response: &EgressResponse) -> Judged {
    let is_failure = response.status == 408 || response.status >= 500;
    let is_limit = response.status == 429;
    Judged {
        is_passing: is_failure || is_limit,
        is_failure,
        limited: if is_limit { Limited::Project } else { Limited::Nobody },
        wait: response.retry_after,
        tokens: None,
    }
}

fn far(limit: Instant) -> Instant {
    limit + Duration::from_secs(3_600)
}

fn needs_reauth() -> Problem {
    Problem::new(
        ProblemKind::NeedsReauth,
        "Google no longer accepts the connection; connect the account again",
    )
}

fn unaccepted(why: &str) -> Problem {
    tracing::error!(why, "Google does not accept the gateway's OAuth client");
    Problem::new(ProblemKind::UpstreamRefused, "Google does not accept the gateway's OAuth client")
}

fn read(response: &EgressResponse) -> Result<TokenResponse, NoToken> {
    let answer = if (200..300).contains(&response.status) {
        TokenResponse::parse(&response.body)
    } else {
        Err(OAuthError::classify(response.status, &response.body))
    };
    answer.map_err(|error| match error {
        OAuthError::InvalidGrant => NoToken::Dead,
        OAuthError::InvalidClient(why) => NoToken::Client(why),
        OAuthError::RateLimited => {
            let problem =
                Problem::new(ProblemKind::UpstreamLimited, "Google's token endpoint is limiting requests");
            NoToken::Other(super::with_wait(problem, response.retry_after))
        }
        OAuthError::Unavailable(_) => NoToken::Other(Problem::new(
            ProblemKind::UpstreamUnavailable,
            "Google's token endpoint is failing at the moment",
        )),
        OAuthError::Malformed(why) => {
            tracing::warn!(why, "Google's token endpoint answered nonsense");
            NoToken::Other(Problem::new(
                ProblemKind::UpstreamInvalid,
                "Google's token endpoint answered something that cannot be understood",
            ))
        }
    })
}

//! Access tokens for Google, by account: a user may have connected several.
//!
//! Invariants:
//! - At most one refresh of an account is under way, on the core that owns its user; whoever needs the token meanwhile
//!   waits for it, and so does whoever gives the account up or moves it. It runs as a task of its own, so that a caller who goes away cannot tear
//!   it down between Google's answer and the store.
//! - A refresh that began before its user's accounts were forgotten brings its token to those who waited by then alone; others
//!   wait for its end and begin anew. Also then there is no second one beside it, and a seized account stays seized.
//! - A refresh token that Google replaced is on disk before the access token that came with it is handed out.
//! - A refresh changes of a connection's record what it learned, and only if the record still has the refresh token that
//!   was used: a user who connects anew meanwhile wins. The record is held from that look until the change is durable.
//! - A connection that its user has given up brings no token, not even to those who waited for one; a refresh token that
//!   replaced its own is kept all the same, for it is the one to be revoked.
//! - Refresh tokens are written sealed. One that an older version left as it is, is sealed with the next refresh.
//! - At most `tokens_max` tokens are kept; the oldest goes first.
//! - For a user without a connection the operator's service account may get one, where that is configured ([`delegated`]).

pub(super) mod delegated;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hashbrown::HashMap;
use sluice_net::egress::{AnswerBody, EgressRequest, EgressResponse, Retry, Upstream};
use sluice_protocols::api::{CallTarget, CallView, ConnectionReason, Priority, WebhookEvent};
use sluice_protocols::google::oauth::{FORM, OAuthError, TokenResponse, refresh_body};
use sluice_protocols::ids::{ShardId, UserId};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::record::{ActingAccount, ConnectionRecord, ConnectionState, PlainText, Provider};
use sluice_store::vault::{Place, VaultError};
use sluice_store::{Batch, Key};
use zeroize::Zeroizing;

use super::call::{Ended, Judged, Limited, Outgoing, Unanswered};
use super::meter::micros;
use super::{denied, given_up, lost};
use crate::env::Env;
use crate::quota::{Ask, Class, Operation};

/// A token is not used in its last seconds: a call may be under way that long.
const LAST_SECONDS: Duration = Duration::from_secs(30);
/// How often a refresh begins anew because another token has taken the place of the one that was refused.
const CHANCES: usize = 3;
/// What the token endpoint is called in the list of a step's calls.
const TOKEN_PATH: &str = "/token";
/// What it is called to users.
const ENDPOINT: &str = "Google's token endpoint";

/// One of a user's accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Account {
    pub(crate) shard: ShardId,
    pub(crate) user: UserId,
    /// Where its connection stands; 0 is the default account.
    pub(crate) slot: u8,
}

impl Account {
    /// Under which key its connection stands.
    pub(crate) fn key(&self) -> Key {
        Key::connection_at(&self.user, Provider::Google.number(), self.slot)
    }

    /// Where its refresh token belongs.
    pub(crate) fn place(&self) -> Place {
        Place::refresh_token_at(&self.user, Provider::Google, self.slot)
    }
}

/// A bearer token, and the account it is for. Wiped when the last clone goes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct AccessToken {
    text: Rc<Zeroizing<String>>,
    acting: ActingAccount,
}

impl AccessToken {
    pub(crate) fn expose(&self) -> &str {
        &self.text
    }

    pub(crate) const fn acting(&self) -> ActingAccount {
        self.acting
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
    /// Which place in the order of age is this entry's; an older place of the same account is void.
    age: u64,
    /// The address it was given for by delegation; `None` for one of the user's own connection.
    address: Option<Rc<str>>,
}

#[derive(Default)]
struct State {
    kept: HashMap<Account, Kept, foldhash::fast::RandomState>,
    by_age: VecDeque<(u64, Account)>,
    next_age: u64,
    flights: HashMap<Account, Rc<Flight>, foldhash::fast::RandomState>,
}

/// A refresh under way, for all who wait for it.
#[derive(Default)]
struct Flight {
    /// What came of it; nothing, where the account was seized meanwhile: ask again.
    landed: RefCell<Option<Option<Result<AccessToken, Problem>>>>,
    calls: RefCell<Vec<CallView>>,
    waiting: RefCell<Vec<Waker>>,
    /// What it brings is of accounts that were forgotten meanwhile: nothing of it is kept, and nobody new takes it.
    is_stale: Cell<bool>,
}

/// Access tokens of one core's users. `!Send`.
pub struct TokenCache {
    state: RefCell<State>,
    tokens_max: usize,
    told: delegated::Told,
    /// How often an account was connected, given up, moved or forgotten since the start.
    changes: Cell<u64>,
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
        let told = delegated::Told::new(tokens_max);
        Self { state: RefCell::default(), tokens_max, told, changes: Cell::new(0) }
    }

    /// A number that is another one once any user's account may have taken the place of another.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.get()
    }

    fn note_change(&self) {
        self.changes.set(self.changes.get().wrapping_add(1));
    }

    /// The connection in this place, where a token of it is at hand.
    pub(crate) fn connected(&self, account: &Account) -> Option<ActingAccount> {
        let state = self.state.borrow();
        let kept = state.kept.get(account).filter(|kept| sluice_core::now() < kept.ends_at)?;
        // Whom a user is acted for as is asked each time.
        Some(kept.token.acting()).filter(|acting| matches!(acting, ActingAccount::Connected(_)))
    }

    /// Drops what is known of a user's tokens, as nothing may be left of them. Walks all that are kept: for what happens
    /// once in a user's life.
    pub fn forget(&self, user: &UserId) {
        self.note_change();
        let mut state = self.state.borrow_mut();
        state.kept.retain(|account, _| account.user != *user);
        // They stay where they are until they end: who seizes an account, or gives it up, must still meet them.
        let of_user = state.flights.iter().filter(|(account, _)| account.user == *user);
        of_user.for_each(|(_, flight)| flight.is_stale.set(true));
        self.told.forget(user);
    }

    /// Drops the token of an account whose connection has changed, and waits until a refresh of it that is under way
    /// has come to its end, whatever that is.
    pub(crate) async fn settle(&self, account: &Account) {
        self.note_change();
        let flight = {
            let mut state = self.state.borrow_mut();
            state.kept.remove(account);
            state.flights.get(account).cloned()
        };
        if let Some(flight) = flight {
            let _whatever = flight.land().await;
        }
        // What that brought was of the connection as it was.
        self.state.borrow_mut().kept.remove(account);
    }

    /// How many tokens are kept.
    pub fn len(&self) -> usize {
        self.state.borrow().kept.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops a token that Google refused; a newer one of the account stays.
    pub(crate) fn reject(&self, account: &Account, token: &AccessToken) {
        let mut state = self.state.borrow_mut();
        if state.kept.get(account).is_some_and(|kept| kept.token == *token) {
            state.kept.remove(account);
        }
    }

    /// A token that is good for now: the kept one, or a fresh one. Waits until `limit` at most; `deadline` is the
    /// command's own.
    pub(crate) async fn get(
        &self,
        env: &Env,
        account: Account,
        limit: Instant,
        deadline: Instant,
    ) -> Granted {
        let now = sluice_core::now();
        let kept = {
            let state = self.state.borrow();
            state
                .kept
                .get(&account)
                .map(|kept| (kept.token.clone(), kept.renew_at, kept.ends_at, kept.address.clone()))
        };
        let kept = match kept {
            Some((.., Some(address))) if !delegated::is_still_for(env, &account, &address).await => {
                self.state.borrow_mut().kept.remove(&account);
                None
            }
            kept => kept,
        };
        if let Some((token, renew_at, ends_at, _)) = kept
            && now < ends_at
        {
            if now >= renew_at {
                let _renewed_meanwhile = self.flight(env, account);
            }
            env.stats.access_tokens_hits.add(1);
            return Granted { token: Ok(token), calls: Vec::new() };
        }
        env.stats.access_tokens_misses.add(1);
        let late = || {
            Err(lost(
                "Google's token endpoint",
                &sluice_net::egress::EgressError::DeadlineExceeded { sent: true },
                deadline,
            ))
        };
        // Whoever waits here has a place of the core's, also behind another's refresh.
        let _place = match env.broker.occupy(Upstream::OAuth) {
            Ok(place) => place,
            Err(why) => return Granted { token: Err(denied(ENDPOINT, why)), calls: Vec::new() },
        };
        loop {
            let flight = self.flight(env, account);
            let was_stale = flight.is_stale.get();
            let token = match sluice_core::timeout_at(limit, flight.land()).await {
                Ok(Some(token)) if !was_stale => token,
                Ok(_) => continue,
                Err(_) => late(),
            };
            return Granted { token, calls: flight.calls.take() };
        }
    }

    /// Takes an account away from refreshes, once the one under way has ended: whoever needs a token waits until it is
    /// given back.
    pub(crate) async fn seize(&self, account: Account) -> Seized<'_> {
        self.note_change();
        loop {
            let flight = {
                let mut state = self.state.borrow_mut();
                state.kept.remove(&account);
                match state.flights.get(&account) {
                    Some(flight) => Rc::clone(flight),
                    None => {
                        let flight = Rc::new(Flight::default());
                        state.flights.insert(account, Rc::clone(&flight));
                        return Seized { tokens: self, account, flight };
                    }
                }
            };
            let _whatever = flight.land().await;
        }
    }

    /// The refresh of this account that is under way, or a new one.
    fn flight(&self, env: &Env, account: Account) -> Rc<Flight> {
        let mut state = self.state.borrow_mut();
        if let Some(flight) = state.flights.get(&account) {
            return Rc::clone(flight);
        }
        let flight = Rc::new(Flight::default());
        state.flights.insert(account, Rc::clone(&flight));
        drop(state);
        let refresh = Refresh { env: env.clone(), account, flight: Rc::clone(&flight) };
        sluice_core::spawn(refresh.run());
        flight
    }

    /// How many wait for refreshes.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.state.borrow().flights.values().map(|flight| flight.waiting.borrow().len()).sum()
    }

    /// Ends a refresh: keeps its token, unless all of the user's was forgotten meanwhile.
    fn land(&self, env: &Env, account: Account, flight: &Rc<Flight>, fresh: Option<Kept>) {
        let mut state = self.state.borrow_mut();
        if !state.flights.get(&account).is_some_and(|known| Rc::ptr_eq(known, flight)) {
            return;
        }
        state.flights.remove(&account);
        let Some(mut kept) = fresh.filter(|_| !flight.is_stale.get()) else { return };
        while state.kept.len() >= self.tokens_max && !state.kept.contains_key(&account) {
            let Some((age, oldest)) = state.by_age.pop_front() else { break };
            if state.kept.get(&oldest).is_some_and(|kept| kept.age == age) {
                state.kept.remove(&oldest);
                env.stats.tokens_evicted.add(1);
            }
        }
        // An operator may have put another account in the place of the one whose reads are remembered.
        let is_another = |old: &Kept| old.token.acting() != kept.token.acting();
        if account.slot == 0 && state.kept.get(&account).is_some_and(is_another) {
            self.note_change();
            env.reads.forget(account.user);
        }
        kept.age = state.next_age;
        state.next_age += 1;
        state.by_age.push_back((kept.age, account));
        state.kept.insert(account, kept);
        state.drop_void_places();
    }
}

impl State {
    /// Every renewal leaves a void place behind; the list is swept when most of it is void.
    fn drop_void_places(&mut self) {
        if self.by_age.len() > 2 * self.kept.len() + 16 {
            let kept = &self.kept;
            self.by_age.retain(|(age, account)| kept.get(account).is_some_and(|entry| entry.age == *age));
        }
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Flight {
    async fn land(&self) -> Option<Result<AccessToken, Problem>> {
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

    fn finish(&self, result: Option<Result<AccessToken, Problem>>) {
        *self.landed.borrow_mut() = Some(result);
        self.waiting.take().into_iter().for_each(Waker::wake);
    }
}

/// An account that is not refreshed until this is dropped.
pub(crate) struct Seized<'a> {
    tokens: &'a TokenCache,
    account: Account,
    flight: Rc<Flight>,
}

impl Drop for Seized<'_> {
    fn drop(&mut self) {
        let mut state = self.tokens.state.borrow_mut();
        if state.flights.get(&self.account).is_some_and(|known| Rc::ptr_eq(known, &self.flight)) {
            state.flights.remove(&self.account);
        }
        drop(state);
        self.flight.finish(None);
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
    account: Account,
    flight: Rc<Flight>,
}

/// Why the token endpoint gave no token.
enum NoToken {
    /// The refresh token is dead, or the assertion not accepted.
    Dead(ConnectionReason),
    /// The operator's client or service account is not accepted, or may not do this.
    Client(String),
    Other(Problem),
}

/// What a refresh learned of a connection.
#[derive(Default)]
struct Learned<'a> {
    /// The refresh token that takes the place of the one that was used.
    token: Option<&'a str>,
    scope: Option<String>,
    expires_ms: Option<u64>,
    /// Why it cannot be used any more.
    dead: Option<ConnectionReason>,
}

/// What became of a record that a refresh would change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replaced {
    Written,
    /// It is another's now: the user has connected anew.
    Overtaken,
    /// Its user has given it up.
    GivenUp,
}

impl Refresh {
    async fn run(self) {
        let outcome = self.fresh().await;
        match &outcome {
            Ok(_) => self.env.stats.token_refreshes.add(1),
            Err(problem) => {
                self.env.stats.token_refresh_failures.add(1);
                // Its words are for the user, and name the account.
                tracing::info!(user = %self.account.user, kind = problem.kind().slug(), "no access token");
            }
        }
        let result = outcome.as_ref().map(|kept| kept.token.clone()).map_err(Clone::clone);
        self.env.tokens.land(&self.env, self.account, &self.flight, outcome.ok());
        self.flight.finish(Some(result));
    }

    async fn fresh(&self) -> Result<Kept, Problem> {
        let mut used = match self.connection().await {
            // Another of the user's accounts was asked for by name; none but the default one can be the domain's.
            Err(problem) if problem.kind() == ProblemKind::NotConnected && self.account.slot == 0 => {
                return self.delegated(problem).await;
            }
            found => found?,
        };
        for _ in 0..CHANCES {
            let reason = match self.exchange(&used.token).await {
                Ok(answer) => return self.keep(used, answer).await,
                Err(NoToken::Other(problem)) => return Err(problem),
                Err(NoToken::Client(why)) => return Err(unaccepted(&why)),
                Err(NoToken::Dead(reason)) => reason,
            };
            // Another may have taken its place while it was used.
            let now = self.connection().await?;
            if now.token == used.token
                && let Some(problem) = self.give_up(&now, reason).await
            {
                return Err(problem);
            }
            used = self.connection().await?;
        }
        let detail = "the connection to Google changes all the time; try again";
        Err(Problem::new(ProblemKind::UpstreamUnavailable, detail))
    }

    /// The connection as it is on disk, if it can be used.
    async fn connection(&self) -> Result<Used, Problem> {
        let Some(record) = self.stored().await? else { return Err(self.not_connected()) };
        match record.state {
            ConnectionState::Revoking | ConnectionState::Revoked => Err(self.not_connected()),
            ConnectionState::NeedsReauth => Err(self.needs_reauth(&record)),
            ConnectionState::Active => {
                let token = self.opened(&record).await?;
                Ok(Used { record, token })
            }
        }
    }

    fn not_connected(&self) -> Problem {
        if self.account.slot != 0 {
            return given_up();
        }
        let detail =
            "connect a Google account first, or make another the default one: there is none for this user";
        Problem::new(ProblemKind::NotConnected, detail)
    }

    fn needs_reauth(&self, record: &ConnectionRecord) -> Problem {
        self.env.links.needs_reauth(record, self.env.clock.unix_ms())
    }

    async fn opened(&self, record: &ConnectionRecord) -> Result<PlainText, Problem> {
        self.env.vault.open(&self.account.place(), &record.refresh_token).await.map_err(|error| {
            tracing::error!(user = %self.account.user, %error, "a refresh token cannot be opened");
            match error {
                // It is gone for good, and a new one can be had.
                VaultError::Destroyed { .. } => self.needs_reauth(record),
                _ => Problem::new(
                    ProblemKind::Storage,
                    "the connection to Google cannot be opened at the moment",
                ),
            }
        })
    }

    async fn stored(&self) -> Result<Option<ConnectionRecord>, Problem> {
        let loaded = self.env.store.load::<ConnectionRecord>(self.account.shard, &self.account.key()).await;
        loaded.map(|found| found.map(|loaded| loaded.to_record())).map_err(|error| {
            tracing::error!(user = %self.account.user, %error, "a connection cannot be read");
            Problem::new(ProblemKind::Storage, "the connection to Google cannot be read at the moment")
        })
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
            Outgoing {
                env: &self.env,
                request,
                class,
                operation,
                is_hedged: false,
                ask,
                judge: &judge_refresh,
                told: None,
            }
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
        let now_ms = self.env.clock.unix_ms();
        // With a new token comes a new end. One that stays may be told again each time, always a little later or earlier.
        let expires_ms = answer
            .refresh_token_lifetime()
            .filter(|_| rotated.is_some() || used.record.expires_ms == 0)
            .map(|lifetime| now_ms.saturating_add(u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX)));
        let is_news = rotated.is_some() || scope.is_some() || expires_ms.is_some() || used.record.reason != 0;
        if is_news || !used.record.refresh_token.is_sealed() {
            let learned = Learned { token: rotated, scope, expires_ms, dead: None };
            let replaced = self.replace(&used, learned).await?;
            if rotated.is_some() && replaced != Replaced::Overtaken {
                self.env.stats.token_rotations.add(1);
            }
            if replaced == Replaced::GivenUp {
                return Err(self.not_connected());
            }
        } else if self.is_given_up().await? {
            return Err(self.not_connected());
        }
        Ok(kept(&self.env, &answer, ActingAccount::Connected(used.record.id)))
    }

    /// Whether the user has given the account up since the refresh began.
    async fn is_given_up(&self) -> Result<bool, Problem> {
        let stored = self.stored().await?;
        Ok(stored.is_none_or(|record| {
            matches!(record.state, ConnectionState::Revoking | ConnectionState::Revoked)
        }))
    }

    /// Marks a connection as dead, unless another token has taken the place of its own: `None`.
    async fn give_up(&self, dead: &Used, reason: ConnectionReason) -> Option<Problem> {
        let user = self.account.user;
        match self.replace(dead, Learned { dead: Some(reason), ..Learned::default() }).await {
            Ok(Replaced::Written) => {
                self.env.stats.connections_lost.add(1);
                let reason = reason.name();
                tracing::warn!(%user, reason, "Google no longer accepts the refresh token; the user must connect again");
            }
            Ok(Replaced::GivenUp) => return Some(self.not_connected()),
            Ok(Replaced::Overtaken) => return None,
            // The next refresh finds out again.
            Err(problem) => tracing::error!(%user, %problem, "the dead connection could not be marked"),
        }
        Some(self.needs_reauth(&dead.record))
    }

    /// Writes what was learned into the record, if the one on disk still has the refresh token that was used.
    async fn replace(&self, used: &Used, learned: Learned<'_>) -> Result<Replaced, Problem> {
        let unwritten = |reason: String| {
            tracing::error!(user = %self.account.user, reason, "a connection cannot be written");
            Problem::new(ProblemKind::Storage, "the connection to Google cannot be stored at the moment")
        };
        let vault = &self.env.vault;
        // Before it is held: a data key that must be made takes a commit of its own.
        let sealed = if learned.token.is_some() || !used.record.refresh_token.is_sealed() {
            let token = learned.token.unwrap_or_else(|| used.token.expose());
            let sealed = vault.seal(&self.account.place(), token).await;
            Some(sealed.map_err(|error| unwritten(error.to_string()))?)
        } else {
            None
        };
        let key = self.account.key();
        let _hold = vault.hold(&key).await.map_err(|error| unwritten(error.to_string()))?;
        let Some(mut stored) = self.stored().await? else { return Ok(Replaced::GivenUp) };
        if stored.state == ConnectionState::Revoked {
            return Ok(Replaced::GivenUp);
        }
        // The same token may have been sealed meanwhile.
        if stored.refresh_token != used.record.refresh_token && self.opened(&stored).await? != used.token {
            return Ok(Replaced::Overtaken);
        }
        let is_given_up = stored.state == ConnectionState::Revoking;
        // One that an operator connected anew keeps the reason until it is seen to work.
        let was_dead = stored.state == ConnectionState::NeedsReauth || stored.reason != 0;
        stored.refresh_token = sealed.unwrap_or(stored.refresh_token);
        stored.scope = learned.scope.unwrap_or(stored.scope);
        stored.expires_ms = learned.expires_ms.unwrap_or(stored.expires_ms);
        match (learned.dead, stored.state) {
            (_, ConnectionState::Revoking | ConnectionState::Revoked) => {}
            (Some(reason), _) => {
                stored.state = ConnectionState::NeedsReauth;
                stored.reason = reason.number();
            }
            // It works. Whoever marked it has met what this refresh had not written yet.
            (None, _) => {
                stored.state = ConnectionState::Active;
                stored.reason = 0;
            }
        }
        stored.updated_ms = self.env.clock.unix_ms();
        let mut batch = Batch::new(self.account.shard);
        batch.put_record(&key, &stored).map_err(|error| unwritten(error.to_string()))?;
        let event = match (stored.state, was_dead) {
            (ConnectionState::NeedsReauth, false) => Some(WebhookEvent::ConnectionFailed),
            (ConnectionState::Active, true) => Some(WebhookEvent::ConnectionRecovered),
            _ => None,
        };
        let announced = event.and_then(|event| self.env.announce_connection(&mut batch, &stored, event));
        self.env.store.commit(batch).await.map_err(|error| unwritten(error.to_string()))?;
        if let Some(announced) = announced {
            announced.take_up();
        }
        Ok(if is_given_up { Replaced::GivenUp } else { Replaced::Written })
    }
}

/// A fresh token as it is kept.
fn kept(env: &Env, answer: &TokenResponse, acting: ActingAccount) -> Kept {
    let now = sluice_core::now();
    let ends_at = now + answer.lifetime().saturating_sub(LAST_SECONDS);
    // Up to a quarter earlier, by lot: tokens that were fetched together are not renewed together.
    let lot = f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
    let ahead = env.config.token_refresh_ahead.mul_f64(1.0 + lot / 4.0);
    let renew_at = now + answer.lifetime().saturating_sub(ahead);
    let token = AccessToken { text: Rc::new(Zeroizing::new(answer.access_token().to_owned())), acting };
    Kept { token, renew_at, ends_at, age: 0, address: None }
}

/// What an answer of the token endpoint says about calls to come.
pub(crate) fn judge(response: &EgressResponse) -> Judged {
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

/// The same of an answer that is to bring a token: one that brings none that can be understood is a failure, as it is of
/// every other upstream.
fn judge_refresh(response: &EgressResponse) -> Judged {
    let judged = judge(response);
    let is_good = (200..300).contains(&response.status);
    let is_nonsense = is_good && TokenResponse::parse(&response.body).is_err();
    Judged { is_failure: judged.is_failure || is_nonsense, ..judged }
}

fn far(limit: Instant) -> Instant {
    limit + Duration::from_secs(3_600)
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
        OAuthError::InvalidGrant { by_policy: true } => NoToken::Dead(ConnectionReason::Policy),
        OAuthError::InvalidGrant { by_policy: false } => NoToken::Dead(ConnectionReason::Refused),
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

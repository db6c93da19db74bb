//! A consent, from our page to the stored connection. What is told is told as a page, to a person.

#[cfg(test)]
mod life;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use sluice_net::egress::{AnswerBody, EgressRequest, EgressResponse, Retry, Upstream};
use sluice_protocols::access::Scopes;
use sluice_protocols::api::{Priority, WebhookEvent};
use sluice_protocols::google::consent::{
    self, Account as GoogleAccount, Authorization, Callback, Expected, account_of, code_body,
};
use sluice_protocols::google::oauth::{FORM, OAuthError, TokenResponse};
use sluice_protocols::http::{RequestHead, Response};
use sluice_protocols::ids::{ConnectionId, ShardId, UserId};
use sluice_protocols::problem::Problem;
use sluice_store::record::{
    ConnectionRecord, ConnectionState, ConsentRecord, ConsentsRecord, Provider, UserRecord,
};
use sluice_store::vault::Place;
use sluice_store::{Batch, Key, ReadError};
use zeroize::Zeroizing;

use super::page::{Onward, Page};
use super::{
    CONSENT_LIFE_MS, CONSENTS_MAX, Connections, Placed, Ticket, free_slot, links, origin_of, too_many,
};
use crate::audit::{Act, Author, Object};
use crate::auth::same;
use crate::limit::{LimitFields, Refused};
use crate::quota::{Ask, Class, Operation};
use crate::upstream::{Account, Outgoing, judge_tokens};

/// What the browser shows that it is the one whose button was pressed. The prefix has browsers take it from this very host
/// alone, over TLS, for the whole of it (RFC 6265bis section 4.1.3.2).
const COOKIE: &str = "__Host-sluice-consent";
/// Characters of 32 random bytes in base64url.
const COOKIE_CHARS: usize = 43;

/// Why a consent comes to nothing, for the person who sees it.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    title: &'static str,
    text: String,
    /// When to come again, where that is known, and the limit that says so.
    wait: Option<(u32, Option<LimitFields>)>,
}

impl Refusal {
    fn new(status: u16, title: &'static str, text: impl Into<String>) -> Self {
        Self { status, title, text: text.into(), wait: None }
    }

    /// The user's links were followed too often.
    fn limited(refused: &Refused) -> Self {
        let (problem, fields) = refused.told();
        let wait = problem.retry_after_s().map(|wait_s| (wait_s, fields));
        let text = "This user's links were followed too often. Try it again later.";
        Self { wait, ..Self::new(problem.status(), "Not now", text) }
    }

    /// Something that is none of the person's doing.
    fn of(problem: &Problem) -> Self {
        let status = if problem.status() == 504 { 502 } else { problem.status() };
        let status = if matches!(status, 409 | 500 | 502 | 503) { status } else { 503 };
        Self::new(
            status,
            "The account could not be connected",
            format!("{}. Try it again.", problem.detail()),
        )
    }
}

/// What a browser asks for.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// To see the page of a link.
    Look(Box<Ticket>),
    /// To go on from there.
    Go(Box<Ticket>),
    /// Back from Google.
    Back(Box<Callback>),
}

impl Connections {
    /// A page that says why nothing comes of it.
    pub(crate) fn refused(&self, status: u16, title: &'static str, text: &str) -> Response {
        let page = Page { status, title, text, facts: &[], onward: Onward::Nothing };
        page.answer(self.provider_origin())
    }

    /// Answers a browser, for a user of this core.
    pub(crate) async fn serve(
        &self,
        shard: ShardId,
        user: UserId,
        step: Step,
        head: &RequestHead,
        author: Author,
    ) -> Response {
        let answer = match &step {
            Step::Look(ticket) => self.look(shard, ticket).await,
            Step::Go(ticket) => self.go(shard, ticket, head).await,
            Step::Back(callback) => self.back(shard, user, callback, head, author).await,
        };
        answer.unwrap_or_else(|refusal| {
            self.metrics.consents_refused.add(1);
            // The text is for the person, and may name accounts.
            tracing::info!(%user, status = refusal.status, why = refusal.title, "a consent came to nothing");
            let response = self.refused(refusal.status, refusal.title, &refusal.text);
            let Some((wait_s, fields)) = refusal.wait else { return response };
            let response = response.with_field("retry-after", wait_s.to_string());
            match fields {
                Some(fields) => fields.put_on(response),
                None => response,
            }
        })
    }

    fn provider_origin(&self) -> &str {
        origin_of(&self.env.config.connect.auth_url).unwrap_or("'none'")
    }

    /// Who a ticket is for, if it is good.
    async fn holder(&self, shard: ShardId, ticket: &Ticket) -> Result<UserRecord, Refusal> {
        let title = "This link does not work";
        if ticket.expires_ms <= self.env.clock.unix_ms() {
            return Err(Refusal::new(400, title, links::TicketFault::Expired.to_string()));
        }
        let loaded = self.env.store.load::<UserRecord>(shard, &Key::user(&ticket.user)).await;
        let user = loaded.map_err(|error| unread(&error))?.map(|loaded| loaded.to_record());
        let user = user.filter(|user| !user.disabled);
        user.ok_or_else(|| Refusal::new(404, title, "There is no such user."))
    }

    /// The address of the account that a ticket means; empty where it means none, or one that is not there any more.
    async fn account_meant(&self, shard: ShardId, ticket: &Ticket) -> Result<String, Refusal> {
        let Some(id) = ticket.connection else { return Ok(ticket.login_hint.clone()) };
        let all = self.all(shard, &ticket.user).await.map_err(|problem| Refusal::of(&problem))?;
        let found = all.into_iter().find(|placed| placed.record.id == id);
        Ok(found.map(|placed| placed.record.email).unwrap_or_default())
    }

    async fn look(&self, shard: ShardId, ticket: &Ticket) -> Result<Response, Refusal> {
        let user = self.holder(shard, ticket).await?;
        let mut facts = vec![("User", user.name), ("Services", ticket.wanted().to_string())];
        let account = self.account_meant(shard, ticket).await?;
        if !account.is_empty() {
            facts.push(("Google account", account));
        }
        let page = Page {
            status: 200,
            title: "Connect a Google account",
            text: "Google will ask you to let this service use your account on behalf of the user below. Go on only if \
                   that is you, and if you have asked for it.",
            facts: &facts,
            onward: Onward::Button("Continue to Google"),
        };
        Ok(page.answer(self.provider_origin()))
    }

    /// Binds a consent to the browser and sends it to Google.
    async fn go(&self, shard: ShardId, ticket: &Ticket, head: &RequestHead) -> Result<Response, Refusal> {
        if !self.is_our_button(head) {
            let text = "The button was not pressed on a page of this service.";
            return Err(Refusal::new(403, "This link does not work", text));
        }
        self.holder(shard, ticket).await?;
        let login_hint = self.account_meant(shard, ticket).await?;
        // Only now: what would be refused all the same takes nothing of the user's.
        let now_ns = self.limiter.limits().ns(sluice_core::now());
        self.limiter.enter_consent(ticket.user, now_ns).map_err(|refused| Refusal::limited(&refused))?;
        let browser = cookie_of(head).unwrap_or_else(random_text::<32>);
        let state = self.env.links.state(&ticket.user, &random());
        let (verifier, nonce) = (random_text::<32>(), random_text::<32>());
        let place = Place::consent_secret(&ticket.user);
        let secret = Zeroizing::new(format!("{verifier} {nonce}"));
        let sealed = self.env.vault.seal(&place, &secret).await.map_err(|error| unkept(&error))?;
        let now_ms = self.env.clock.unix_ms();
        {
            let _turn = self.holds.take(ticket.user).await;
            let mut pending = self.pending(shard, &ticket.user).await?;
            let over = (pending.len() + 1).saturating_sub(CONSENTS_MAX);
            pending.drain(..over);
            self.metrics.consents_displaced.add(over as u64);
            pending.push(ConsentRecord {
                state_hash: hash(&state),
                browser_hash: hash(&browser),
                secret: sealed,
                wanted: ticket.wanted,
                connection: ticket.connection.map_or([0; 16], |id| *id.as_bytes()),
                return_url: ticket.return_url.clone(),
                created_ms: now_ms,
            });
            self.keep_pending(shard, &ticket.user, pending).await?;
        }
        self.metrics.consents_begun.add(1);
        let (config, challenge) = (&self.env.config, URL_SAFE_NO_PAD.encode(Sha256::digest(&verifier)));
        let url = Authorization {
            endpoint: &config.connect.auth_url,
            client_id: &config.google_client_id,
            redirect_uri: &self.env.links.callback(),
            wanted: ticket.wanted(),
            state: &state,
            nonce: &nonce,
            challenge: &challenge,
            login_hint: &login_hint,
        }
        .url();
        let age_s = CONSENT_LIFE_MS / 1_000;
        let cookie = format!("{COOKIE}={browser}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={age_s}");
        Ok(Response::new(303)
            .with_field("location", url)
            .with_field("set-cookie", cookie)
            .with_field("cache-control", "no-store")
            .with_field("referrer-policy", "no-referrer"))
    }

    /// Whether the request comes from our page: from elsewhere, a person would be sent on who never saw for whom it is.
    fn is_our_button(&self, head: &RequestHead) -> bool {
        match head.header("origin") {
            Some(origin) => origin == self.env.config.connect.public_url,
            // All browsers of these days send one of the two with a form.
            None => head.header("sec-fetch-site") == Some("same-origin"),
        }
    }

    /// The consents of a user that are under way and not too old.
    async fn pending(&self, shard: ShardId, user: &UserId) -> Result<Vec<ConsentRecord>, Refusal> {
        let loaded = match self.env.store.load::<ConsentsRecord>(shard, &Key::consents(user)).await {
            // A damaged one is minutes old: they begin anew.
            Err(ReadError::Quarantined { .. }) => None,
            loaded => loaded.map_err(|error| unread(&error))?,
        };
        let mut pending = loaded.map(|loaded| loaded.to_record().pending).unwrap_or_default();
        let now_ms = self.env.clock.unix_ms();
        pending.retain(|consent| now_ms < consent.created_ms.saturating_add(CONSENT_LIFE_MS));
        Ok(pending)
    }

    /// Whether a user is about to consent.
    pub(super) async fn is_consenting(&self, shard: ShardId, user: &UserId) -> bool {
        self.pending(shard, user).await.is_ok_and(|pending| !pending.is_empty())
    }

    async fn keep_pending(
        &self,
        shard: ShardId,
        user: &UserId,
        pending: Vec<ConsentRecord>,
    ) -> Result<(), Refusal> {
        let (mut batch, key) = (Batch::new(shard), Key::consents(user));
        if pending.is_empty() {
            batch.delete(&key);
        } else {
            batch.put_record(&key, &ConsentsRecord { pending }).map_err(|error| unkept(&error))?;
        }
        self.env.store.commit(batch).await.map(drop).map_err(|error| unkept(&error))
    }

    /// Takes a consent out of the store: it is good once.
    async fn take(
        &self,
        shard: ShardId,
        user: &UserId,
        state: &str,
        head: &RequestHead,
    ) -> Result<ConsentRecord, Refusal> {
        let mut pending = self.pending(shard, user).await?;
        let state_hash = hash(state);
        let Some(at) = pending.iter().position(|consent| same(&consent.state_hash, &state_hash)) else {
            let text = "This answer of Google's was used already, or came too late. Begin anew.";
            return Err(Refusal::new(400, "The account was not connected", text));
        };
        // Whoever is not the one that was sent leaves it to the one that was.
        if cookie_of(head).is_none_or(|browser| !same(&hash(&browser), &pending[at].browser_hash)) {
            let text = "This browser is not the one in which it was begun. Begin anew, in this one.";
            return Err(Refusal::new(400, "The account was not connected", text));
        }
        let consent = pending.remove(at);
        self.keep_pending(shard, user, pending).await?;
        Ok(consent)
    }

    /// What came of the user's visit to Google.
    async fn back(
        &self,
        shard: ShardId,
        user: UserId,
        callback: &Callback,
        head: &RequestHead,
        author: Author,
    ) -> Result<Response, Refusal> {
        // To the end: what is revoked at Google meanwhile would take the new permission along.
        let _turn = self.holds.take(user).await;
        let consent = self.take(shard, &user, &callback.state, head).await?;
        let not_connected = "The account was not connected";
        if let Some(error) = &callback.error {
            let text = match error.as_str() {
                "access_denied" => "You did not agree. Nothing was changed.".to_owned(),
                "admin_policy_enforced" => {
                    "Your organisation does not allow this. Ask its administrator.".to_owned()
                }
                _ => {
                    tracing::warn!(%user, error, "Google ended a consent with an error");
                    "Google ended it with an error. Nothing was changed.".to_owned()
                }
            };
            return Err(Refusal::new(400, not_connected, text));
        }
        let Some(code) = &callback.code else {
            return Err(Refusal::new(400, not_connected, "Google's answer is not complete. Begin anew."));
        };
        let opened = self.env.vault.open(&Place::consent_secret(&user), &consent.secret).await;
        let secret = opened.map_err(|error| unkept(&error))?;
        let (verifier, nonce) = secret.expose().split_once(' ').unwrap_or_default();
        let answer = self.exchange(code, verifier).await?;
        let account = self.account(&answer, nonce)?;
        let wanted = Scopes::from_bits(consent.wanted);
        let granted = answer.scopes().join(" ");
        let allowed = consent::allowed_by(&granted);
        if allowed.and(wanted) == Scopes::NONE {
            let text =
                "You granted none of the services that were asked for, so there is nothing to be used.";
            return Err(Refusal::new(409, not_connected, text));
        }
        let connected = self.store(shard, user, &consent, &answer, account, granted, author).await?;
        let missing = Scopes::from_bits(wanted.bits() & !allowed.bits());
        let mut facts = vec![("Google account", connected.email), ("Services", allowed.to_string())];
        if missing != Scopes::NONE {
            facts.push(("Not granted", missing.to_string()));
        }
        let onward = match consent.return_url.as_str() {
            "" => Onward::Nothing,
            url => Onward::Link { url, text: "Go on" },
        };
        let text =
            "You can close this page. The permission can be taken back at any time, here and at Google.";
        let page = Page { status: 200, title: "The account is connected", text, facts: &facts, onward };
        Ok(page.answer(self.provider_origin()))
    }

    /// Exchanges a code for tokens. Once: a code is good for no second try.
    async fn exchange(&self, code: &str, verifier: &str) -> Result<TokenResponse, Refusal> {
        let config = &self.env.config;
        let (id, secret) = (&config.google_client_id, &config.google_client_secret);
        let body = code_body(id, secret, &self.env.links.callback(), code, verifier);
        let answer = self.call(String::new(), body, Retry::Never).await.map_err(|why| {
            tracing::warn!(why, "a code could not be exchanged");
            Refusal::new(502, "The account could not be connected", "Google did not answer. Try it again.")
        })?;
        let read = match answer.status {
            200..=299 => TokenResponse::parse(&answer.body),
            status => Err(OAuthError::classify(status, &answer.body)),
        };
        read.map_err(|error| match error {
            OAuthError::InvalidGrant { .. } => {
                let text = "Google's answer was used already, or came too late. Begin anew.";
                Refusal::new(400, "The account was not connected", text)
            }
            error => {
                tracing::error!(%error, "a code was not exchanged");
                let text = "Google did not give a permission for its own answer. Try it again.";
                Refusal::new(502, "The account could not be connected", text)
            }
        })
    }

    /// Sends a form to the provider; an empty `url` is the token endpoint. An error is in words for the log.
    pub(super) async fn call(
        &self,
        url: String,
        body: String,
        retry: Retry,
    ) -> Result<EgressResponse, String> {
        let limit = sluice_core::now() + self.env.config.call_timeout;
        let request = EgressRequest {
            upstream: Upstream::OAuth,
            method: "POST",
            url,
            bearer: None,
            content_type: Some(FORM),
            body: Bytes::from(body),
            fields: Vec::new(),
            answer: AnswerBody::Whole,
            deadline: limit,
            retry,
        };
        let class = if retry == Retry::Never { Class::Write } else { Class::Read };
        let ask = Ask { user: None, units: 0, tokens: 0, priority: Priority::High };
        let judge = &judge_tokens;
        let operation = Operation::ONLY;
        let told = None;
        let outgoing =
            Outgoing { env: &self.env, request, class, operation, is_hedged: false, ask, judge, told };
        outgoing.run().await.answer.map_err(|unanswered| format!("{unanswered:?}"))
    }

    fn account(&self, answer: &TokenResponse, nonce: &str) -> Result<GoogleAccount, Refusal> {
        let config = &self.env.config;
        let expected = Expected {
            issuer: &config.connect.issuer,
            client_id: &config.google_client_id,
            nonce,
            now_s: self.env.clock.unix_ms() / 1_000,
        };
        let told = answer.id_token().ok_or_else(|| "there is no ID token".to_owned());
        told.and_then(|token| account_of(token, &expected).map_err(|error| error.to_string())).map_err(
            |why| {
                tracing::error!(why, "Google's word on whose account it is is not believed");
                let text = "It is not certain whose account it is. Try it again.";
                Refusal::new(502, "The account could not be connected", text)
            },
        )
    }

    /// Writes the connection, anew or for the first time.
    #[allow(clippy::too_many_arguments, reason = "they are what a consent brings, and there is one caller")]
    pub(super) async fn store(
        &self,
        shard: ShardId,
        user: UserId,
        consent: &ConsentRecord,
        answer: &TokenResponse,
        google: GoogleAccount,
        granted: String,
        author: Author,
    ) -> Result<ConnectionRecord, Refusal> {
        let all = self.all(shard, &user).await.map_err(|problem| Refusal::of(&problem))?;
        let (account, before) = place_for(shard, user, consent.connection, &google, &all)?;
        let key = account.key();
        // From here on nobody else changes it: a refresh before may have, and where Google gave no new refresh token the
        // one that is kept must be the last.
        let hold = self.env.vault.hold(&key).await.map_err(|error| unkept(&error))?;
        let current =
            self.env.store.load::<ConnectionRecord>(shard, &key).await.map_err(|error| unread(&error))?;
        let current = current.map(|loaded| loaded.to_record());
        let before = before.and(current.as_ref());
        let usable = before.filter(|record| record.state == ConnectionState::Active);
        let refresh_token = match (answer.refresh_token(), usable) {
            (Some(token), _) => {
                let sealed = self.env.vault.seal(&account.place(), token).await;
                sealed.map_err(|error| unkept(&error))?
            }
            // What was given for it before is still good.
            (None, Some(record)) => record.refresh_token.clone(),
            (None, None) => {
                let text = "Google gave no lasting permission. Remove this service from the connections of your Google \
                            account (myaccount.google.com), and begin anew.";
                return Err(Refusal::new(409, "The account was not connected", text));
            }
        };
        let now_ms = self.env.clock.unix_ms();
        let lifetime = answer.refresh_token_lifetime();
        let ends = |lifetime: std::time::Duration| {
            now_ms.saturating_add(u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX))
        };
        let kept = usable.filter(|_| answer.refresh_token().is_none());
        let email = if google.email.is_empty() { google.subject.clone() } else { google.email };
        let record = ConnectionRecord {
            id: before.map_or_else(|| self.mint.connection(now_ms), |record| record.id),
            user,
            provider: Provider::Google,
            subject: google.subject,
            email,
            refresh_token,
            scope: granted,
            wanted: consent.wanted,
            state: ConnectionState::Active,
            reason: 0,
            created_ms: before.map_or(now_ms, |record| record.created_ms),
            updated_ms: now_ms,
            expires_ms: lifetime.map_or_else(|| kept.map_or(0, |record| record.expires_ms), ends),
        };
        let mut batch = Batch::new(shard);
        batch.put_record(&key, &record).map_err(|error| unkept(&error))?;
        batch.delete(&Key::revocation(&user, Provider::Google.number(), account.slot));
        let object = Object::Account(&user, Provider::Google, &record.id);
        author.tell(&mut batch, Act::ConnectionCreate, object, now_ms);
        let was_dead = before.is_some_and(|record| record.state == ConnectionState::NeedsReauth);
        let recovered = WebhookEvent::ConnectionRecovered;
        let announced = was_dead.then(|| self.env.announce_connection(&mut batch, &record, recovered));
        self.env.store.commit(batch).await.map_err(|error| unkept(&error))?;
        drop(hold);
        if let Some(announced) = announced.flatten() {
            announced.take_up();
        }
        // Tokens and reads of before may be of less, or of another account.
        self.env.tokens.settle(&account).await;
        self.env.reads.forget(user);
        self.metrics.connections_made.add(1);
        Ok(record)
    }
}

/// Where the connection of an account goes, and what stands there of the same account.
fn place_for<'a>(
    shard: ShardId,
    user: UserId,
    wanted: [u8; 16],
    google: &GoogleAccount,
    all: &'a [Placed],
) -> Result<(Account, Option<&'a ConnectionRecord>), Refusal> {
    let is_same = |record: &ConnectionRecord| match record.subject.as_str() {
        // An operator connected it, and knew the address alone.
        "" => record.email.eq_ignore_ascii_case(&google.email),
        subject => subject == google.subject,
    };
    if wanted != [0; 16] {
        let wanted = ConnectionId::from_bytes(wanted);
        let Some(placed) = all.iter().find(|placed| placed.record.id == wanted) else {
            let text = "The connection that was to be made anew is not there any more. Begin anew.";
            return Err(Refusal::new(409, "The account was not connected", text));
        };
        if !is_same(&placed.record) {
            let text = format!(
                "You chose another account than {}. Follow the link again and choose that one, or connect this one as a \
                 further account.",
                placed.record.email
            );
            return Err(Refusal::new(409, "The account was not connected", text));
        }
        return Ok((placed.account, Some(&placed.record)));
    }
    // Its number says more than its address, which may have been another account's.
    let by_subject = all.iter().find(|placed| placed.record.subject == google.subject);
    if let Some(placed) = by_subject.or_else(|| all.iter().find(|placed| is_same(&placed.record))) {
        return Ok((placed.account, Some(&placed.record)));
    }
    match free_slot(all) {
        Some(slot) => Ok((Account { shard, user, slot }, None)),
        None => Err(Refusal::of(&too_many())),
    }
}

fn unread(error: &ReadError) -> Refusal {
    tracing::error!(%error, "what a consent needs cannot be read");
    Refusal::new(503, "Not now", "The storage could not be read. Try it again in a moment.")
}

fn unkept(error: &dyn std::error::Error) -> Refusal {
    tracing::error!(%error, "a consent cannot be kept");
    Refusal::new(503, "Not now", "The storage did not take it. Try it again in a moment.")
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// # Panics
/// When the host has no random source: nothing that must not be guessed can be made then.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the host has a random source");
    bytes
}

fn random_text<const N: usize>() -> String {
    URL_SAFE_NO_PAD.encode(random::<N>())
}

/// The value of our cookie, if it looks like one of ours. Browsers may send cookies in several fields over HTTP/3.
fn cookie_of(head: &RequestHead) -> Option<String> {
    let cookies =
        head.headers().filter(|(name, _)| *name == "cookie").flat_map(|(_, value)| value.split(';'));
    let mut values = cookies.filter_map(|cookie| cookie.trim().strip_prefix(COOKIE)?.strip_prefix('='));
    let is_ours = |value: &&str| {
        value.len() == COOKIE_CHARS
            && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    values.find(is_ours).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_protocols::ids::ShardCount;
    use sluice_store::record::{PlainText, StoredSecret};

    fn shard() -> ShardId {
        ShardCount::new(1).expect("a count").shards().next().expect("a shard")
    }

    const USER: UserId = UserId::from_bytes([1; 16]);

    fn placed(slot: u8, subject: &str, email: &str, state: ConnectionState) -> Placed {
        let token = StoredSecret::Plain(PlainText::from("token".to_owned()));
        let record = ConnectionRecord::given(USER, email, token, "", 0);
        let id = ConnectionId::from_bytes([slot + 1; 16]);
        let record = ConnectionRecord { id, subject: subject.to_owned(), state, ..record };
        Placed { account: Account { shard: shard(), user: USER, slot }, record }
    }

    fn google(subject: &str, email: &str) -> GoogleAccount {
        GoogleAccount { subject: subject.to_owned(), email: email.to_owned() }
    }

    #[test]
    fn an_account_comes_back_to_where_it_was_and_no_other_takes_its_place() {
        use ConnectionState::{Active, NeedsReauth, Revoked, Revoking};
        let all = [
            placed(0, "1", "old@x", NeedsReauth),
            placed(1, "", "Two@x", Active),
            placed(2, "3", "c@x", Revoking),
            placed(3, "4", "d@x", Revoked),
        ];
        let slot = |google: GoogleAccount| {
            let (account, before) = place_for(shard(), USER, [0; 16], &google, &all).expect("a place");
            (account.slot, before.is_some())
        };
        // By the number, whatever the address is by now; by the address where nothing else is known.
        assert_eq!(slot(google("1", "new@x")), (0, true));
        assert_eq!(slot(google("2", "two@X")), (1, true));
        assert_eq!(slot(google("3", "c@x")), (2, true));
        assert_eq!(slot(google("4", "d@x")), (3, true));
        // One that an operator connected by its address does not come before the one of that number.
        let by_both = [placed(0, "", "a@x", Active), placed(1, "1", "b@x", Active)];
        let found = place_for(shard(), USER, [0; 16], &google("1", "a@x"), &by_both).expect("a place");
        assert_eq!(found.0.slot, 1);
        // A further one takes what was given up and is done with, and not what is still to be revoked.
        assert_eq!(slot(google("9", "old@x")), (3, false));
    }

    #[test]
    fn a_link_for_one_account_takes_no_other() {
        let all = [placed(0, "1", "a@x", ConnectionState::NeedsReauth)];
        let of =
            |wanted, google| place_for(shard(), USER, wanted, &google, &all).map(|(account, _)| account.slot);
        assert_eq!(of([1; 16], google("1", "a@x")).expect("it is that one"), 0);
        assert_eq!(of([1; 16], google("2", "a@x")).expect_err("another").status, 409);
        assert_eq!(of([7; 16], google("1", "a@x")).expect_err("not there").status, 409);
    }

    #[test]
    fn the_cookie_is_found_among_others_and_nothing_else_is_taken_for_it() {
        let value = "a".repeat(COOKIE_CHARS);
        let head = |cookie: &str| RequestHead::build("GET", "/", "h").with("cookie", cookie);
        assert_eq!(cookie_of(&head(&format!("a=b; {COOKIE}={value}; c=d"))), Some(value.clone()));
        let two = head("a=b").with("cookie", &format!("{COOKIE}={value}"));
        assert_eq!(cookie_of(&two), Some(value.clone()));
        for wrong in
            [format!("{COOKIE}={value}a"), format!("x{COOKIE}={value}"), format!("{COOKIE}="), String::new()]
        {
            assert_eq!(cookie_of(&head(&wrong)), None, "{wrong}");
        }
    }
}

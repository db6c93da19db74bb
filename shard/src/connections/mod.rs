//! Accounts at Google that the users of a core have connected: by their consent, anew when Google does not accept a
//! connection any more, and given up.
//!
//! ```text
//! POST /api/v1/connections/google -> a link to a page of ours, signed
//! the page's button (POST)        -> state, PKCE verifier and nonce stored, the browser has a cookie -> Google
//! Google's redirect               -> state taken out of the store -> code for tokens -> the connection stored
//! DELETE /api/v1/connections/{id} -> marked as given up -> revoked at Google -> its token wiped; again until Google knows
//! ```
//! Invariants:
//! - a state is good once, for [`CONSENT_LIFE_MS`], and for the browser that pressed the button;
//! - a user has at most [`CONSENTS_MAX`] consents under way and [`CONNECTIONS_PER_USER_MAX`] accounts;
//! - whoever connects, gives up or revokes accounts of a user has their turn ([`Holds`]), so that a revocation on its way
//!   cannot meet a consent that came after it;
//! - a connection that is given up is not used from the moment that is durable, whatever Google says; its token stays, sealed,
//!   until Google knows, and no longer than [`REVOKING_MAX_MS`].

mod choose;
mod config;
mod consent;
mod links;
mod page;
#[cfg(test)]
mod races;
mod revoke;

use std::rc::Rc;
use std::sync::Arc;

use sluice_protocols::access::Scopes;
use sluice_protocols::api::{
    AuthorizationView, CONNECTIONS_PER_USER_MAX, ConnectRequest, ConnectionReason, ConnectionStatus,
    ConnectionView, RevocationView,
};
use sluice_protocols::google::consent::allowed_by;
use sluice_protocols::ids::{ConnectionId, ShardId, UserId};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::record::{ActingAccount, ConnectionRecord, ConnectionState};
use sluice_store::{KeyRange, Kind};

pub use config::ConnectConfig;
pub(crate) use consent::Step;
pub(crate) use links::{CALLBACK_PATH, Links, START_PATH, Ticket};

use crate::auth::Principal;
use crate::clock::timestamp_of;
use crate::env::Env;
use crate::holds::Holds;
use crate::limit::Limiter;
use crate::metrics::CoreMetrics;
use crate::mint::Mint;
use crate::routes::{not_found, read_problem};
use crate::upstream::{Account, given_up};

/// How long a consent may take, from our page to Google's redirect.
const CONSENT_LIFE_MS: u64 = 10 * 60 * 1_000;
/// Consents of one user under way; the oldest makes room.
const CONSENTS_MAX: usize = 5;
/// How long a link is good that is made for whoever asks to connect an account.
const LINK_LIFE_MS: u64 = 60 * 60 * 1_000;
/// A connection that ends within this is shown as expiring.
const EXPIRING_MS: u64 = 3 * 24 * 60 * 60 * 1_000;
/// How long Google is told of a connection that was given up, before its token is wiped all the same.
const REVOKING_MAX_MS: u64 = 30 * 24 * 60 * 60 * 1_000;
/// In the place of a reason: a connection that was given up of which Google never knew.
const REASON_UNTOLD: u8 = 255;

/// What connections are kept with.
pub(crate) struct Means {
    pub(crate) env: Env,
    pub(crate) mint: Rc<Mint>,
    pub(crate) metrics: Arc<CoreMetrics>,
    pub(crate) limiter: Rc<Limiter>,
}

/// The connections of one core's users.
pub(crate) struct Connections {
    env: Env,
    mint: Rc<Mint>,
    metrics: Arc<CoreMetrics>,
    limiter: Rc<Limiter>,
    /// Users whose accounts are being changed.
    holds: Holds,
    /// Wakes whoever tells Google what was given up.
    untold: revoke::Bell,
}

/// A connection with its place.
#[derive(Clone, Debug)]
struct Placed {
    account: Account,
    record: ConnectionRecord,
}

impl Connections {
    pub(crate) fn new(means: Means) -> Rc<Self> {
        let Means { env, mint, metrics, limiter } = means;
        let (holds, untold) = (Holds::default(), revoke::Bell::default());
        Rc::new(Self { env, mint, metrics, limiter, holds, untold })
    }

    /// A link by which the user connects an account.
    ///
    /// # Errors
    /// `not-found`, `conflict` when there are too many, `invalid-field`, or the storage's.
    pub(crate) async fn begin(
        &self,
        who: &Principal,
        request: ConnectRequest,
    ) -> Result<AuthorizationView, Problem> {
        if !request.return_url.is_empty() && !self.may_return_to(&request.return_url) {
            let detail = "is of no origin that the operator allows (google.return_origins)";
            return Err(Problem::new(ProblemKind::InvalidField, "one field is not valid")
                .with_error("/return_url", detail));
        }
        let known = self.all(who.shard, &who.user).await?;
        let mut ticket = Ticket {
            user: who.user,
            wanted: request.services.bits(),
            connection: request.connection,
            login_hint: request.login_hint,
            return_url: request.return_url,
            expires_ms: self.env.clock.unix_ms().saturating_add(LINK_LIFE_MS),
        };
        match request.connection {
            Some(id) => {
                let found = known.iter().find(|placed| placed.record.id == id);
                let record = &found.ok_or_else(|| not_found("connection"))?.record;
                // What it has it keeps.
                ticket.wanted |= links::wanted_of(record).bits();
                ticket.login_hint.clear();
                if ticket.wanted == 0 {
                    ticket.wanted = sluice_protocols::google::consent::wantable().bits();
                }
            }
            None if free_slot(&known).is_none() => return Err(too_many()),
            None => {}
        }
        let expires = timestamp_of(ticket.expires_ms);
        Ok(AuthorizationView { authorization_url: self.env.links.link(&ticket), expires })
    }

    /// A user's connections as they see them, the default one first.
    ///
    /// # Errors
    /// The storage's.
    pub(crate) async fn list(&self, who: &Principal) -> Result<Vec<ConnectionView>, Problem> {
        let all = self.all(who.shard, &who.user).await?;
        Ok(all.iter().map(|placed| self.view(placed)).collect())
    }

    /// One connection.
    ///
    /// # Errors
    /// `not-found`, or the storage's.
    pub(crate) async fn get(
        &self,
        shard: ShardId,
        user: &UserId,
        id: ConnectionId,
    ) -> Result<ConnectionView, Problem> {
        Ok(self.view(&self.find(shard, user, id).await?))
    }

    /// Where an account of a user stands.
    ///
    /// # Errors
    /// `not-found`, or the storage's.
    pub(crate) async fn slot_of(&self, who: &Principal, id: ConnectionId) -> Result<u8, Problem> {
        Ok(self.find(who.shard, &who.user, id).await?.account.slot)
    }

    /// An account of a user, for a command to be for.
    ///
    /// # Errors
    /// `not-found`, `not-connected` when it was given up, or the storage's.
    pub(crate) async fn usable(&self, who: &Principal, id: ConnectionId) -> Result<ActingAccount, Problem> {
        match self.find(who.shard, &who.user, id).await?.record.state {
            ConnectionState::Active | ConnectionState::NeedsReauth => Ok(ActingAccount::Connected(id)),
            ConnectionState::Revoking | ConnectionState::Revoked => Err(given_up()),
        }
    }

    async fn find(&self, shard: ShardId, user: &UserId, id: ConnectionId) -> Result<Placed, Problem> {
        let all = self.all(shard, user).await?;
        all.into_iter().find(|placed| placed.record.id == id).ok_or_else(|| not_found("connection"))
    }

    /// A user's connections in the order of their slots.
    async fn all(&self, shard: ShardId, user: &UserId) -> Result<Vec<Placed>, Problem> {
        let range = KeyRange::of_user(Kind::Connection, user);
        let page = self.env.store.scan(shard, range, 2 * usize::from(CONNECTIONS_PER_USER_MAX), false).await;
        let rows = page.map_err(|error| read_problem(&error))?.rows;
        // A damaged one is passed over; its bytes are kept in quarantine.
        Ok(rows
            .into_iter()
            .filter_map(|(key, value)| {
                let slot = key.connection_slot()?;
                let record = self.env.store.validate::<ConnectionRecord>(shard, &key, value).ok()?;
                Some(Placed { account: Account { shard, user: *user, slot }, record: record.to_record() })
            })
            .collect())
    }

    fn view(&self, placed: &Placed) -> ConnectionView {
        let Placed { account, record } = placed;
        let now_ms = self.env.clock.unix_ms();
        let ends_soon = record.expires_ms != 0 && record.expires_ms <= now_ms.saturating_add(EXPIRING_MS);
        let status = match record.state {
            ConnectionState::Active if record.expires_ms != 0 && record.expires_ms <= now_ms => {
                ConnectionStatus::NeedsReauth
            }
            ConnectionState::Active if ends_soon => ConnectionStatus::Expiring,
            ConnectionState::Active => ConnectionStatus::Connected,
            ConnectionState::NeedsReauth => ConnectionStatus::NeedsReauth,
            ConnectionState::Revoking | ConnectionState::Revoked => ConnectionStatus::Revoked,
        };
        let reason = match (status, record.state) {
            (ConnectionStatus::NeedsReauth, ConnectionState::Active) => Some(ConnectionReason::Expired),
            // Records of older versions do not say.
            (ConnectionStatus::NeedsReauth, _) => {
                Some(ConnectionReason::from_number(record.reason).unwrap_or(ConnectionReason::Refused))
            }
            _ => None,
        };
        let is_revoked = status == ConnectionStatus::Revoked;
        let granted = if is_revoked { Scopes::NONE } else { allowed_by(&record.scope) };
        let missing = Scopes::from_bits(if is_revoked { 0 } else { record.wanted & !granted.bits() });
        let names = |scopes: Scopes| scopes.names().map(str::to_owned).collect();
        let is_mendable = matches!(status, ConnectionStatus::NeedsReauth | ConnectionStatus::Expiring);
        ConnectionView {
            id: record.id,
            provider: "google".to_owned(),
            account: record.email.clone(),
            is_default: account.slot == 0,
            status,
            reason,
            services: names(granted),
            missing: names(missing),
            created: timestamp_of(record.created_ms),
            updated: timestamp_of(record.updated_ms),
            expires: (record.expires_ms != 0).then(|| timestamp_of(record.expires_ms)),
            link: is_mendable.then(|| self.env.links.mend(record, Scopes::NONE, now_ms)),
            revocation: match record.state {
                ConnectionState::Revoking => Some(RevocationView::Pending),
                ConnectionState::Revoked if record.reason == REASON_UNTOLD => Some(RevocationView::Failed),
                ConnectionState::Revoked => Some(RevocationView::Done),
                ConnectionState::Active | ConnectionState::NeedsReauth => None,
            },
        }
    }

    fn may_return_to(&self, url: &str) -> bool {
        let origins = &self.env.config.connect.return_origins;
        let is_plain = !url.contains(['\\', '@']) && !url.chars().any(char::is_whitespace);
        is_plain && origin_of(url).is_some_and(|origin| origins.iter().any(|allowed| allowed == origin))
    }
}

/// The origin that a URL begins with: scheme, host and port as they are written.
pub(super) fn origin_of(url: &str) -> Option<&str> {
    let host_at = url.find("://")? + 3;
    let end = url[host_at..].find(['/', '?', '#']).map_or(url.len(), |length| host_at + length);
    (end > host_at).then(|| &url[..end])
}

/// The slot that a further account takes: the first that nothing is in, or nothing but what was given up and is done with.
fn free_slot(known: &[Placed]) -> Option<u8> {
    (0..CONNECTIONS_PER_USER_MAX).find(|slot| {
        let taken = known.iter().find(|placed| placed.account.slot == *slot);
        taken.is_none_or(|placed| placed.record.state == ConnectionState::Revoked)
    })
}

fn too_many() -> Problem {
    let detail = format!("a user has at most {CONNECTIONS_PER_USER_MAX} accounts; give one up first");
    Problem::new(ProblemKind::Conflict, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_stands_before_the_path() {
        for (url, origin) in [
            ("https://app.example.com/a?b", Some("https://app.example.com")),
            ("https://app.example.com", Some("https://app.example.com")),
            ("https://app.example.com?x", Some("https://app.example.com")),
            ("https://app.example.com:8443#x", Some("https://app.example.com:8443")),
            ("https://app.example.com.evil/", Some("https://app.example.com.evil")),
            ("https:///x", None),
            ("/relative", None),
            ("javascript:alert(1)", None),
        ] {
            assert_eq!(origin_of(url), origin, "{url}");
        }
    }
}

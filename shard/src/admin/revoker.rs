//! Gives back at Google what a user who is being erased has connected, while the tokens that this takes can still be opened.
//!
//! Invariant: it ends within [`ALL_MAX`], whatever Google does, and an erasure goes on however it ends.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sluice_net::egress::{AnswerBody, Egress, EgressRequest, Retry, Upstream};
use sluice_protocols::api::CONNECTIONS_PER_USER_MAX;
use sluice_protocols::google::consent::{Revocation, revoke_body};
use sluice_protocols::google::oauth::FORM;
use sluice_protocols::ids::UserId;
use sluice_store::record::{ConnectionRecord, ConnectionState, Provider};
use sluice_store::vault::Place;
use sluice_store::{KeyRange, Kind};
use zeroize::Zeroizing;

use super::{Admin, AdminError};

/// How long one account may take.
const ONE_MAX: Duration = Duration::from_secs(5);
/// How long all accounts of a user may take together.
const ALL_MAX: Duration = Duration::from_secs(15);

/// Where Google is told, and as whom.
pub struct RevocationClient {
    /// The endpoint, of the same origin as the token endpoint.
    pub url: String,
    /// The operator's OAuth client.
    pub client_id: String,
    /// Its secret.
    pub client_secret: Zeroizing<String>,
}

/// The way to Google's revocation endpoint, for threads that may block.
pub struct Revoker {
    egress: Egress,
    client: RevocationClient,
}

impl fmt::Debug for Revoker {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revoker").field("url", &self.client.url).finish_non_exhaustive()
    }
}

/// Accounts of users who were erased.
#[derive(Debug, Default)]
pub struct RevokerStats {
    /// Google took them back.
    pub revoked: AtomicU64,
    /// Google was not told, or did not take it.
    pub unrevoked: AtomicU64,
}

/// What came of it for one user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Accounts that Google took back.
    pub done: u32,
    /// Accounts of which Google could not be told.
    pub failed: u32,
}

impl Revoker {
    /// By this pool, as this client.
    pub fn new(egress: Egress, client: RevocationClient) -> Self {
        // The mailbox that threads beside the cores share.
        Self { egress: egress.for_core(usize::MAX), client }
    }

    /// Tells Google of one token; whether it is good for nothing any more.
    fn revoke_blocking(&self, token: &str, deadline: Instant) -> bool {
        let RevocationClient { url, client_id, client_secret } = &self.client;
        let request = EgressRequest {
            upstream: Upstream::OAuth,
            method: "POST",
            url: url.clone(),
            bearer: None,
            content_type: Some(FORM),
            body: Bytes::from(revoke_body(client_id, client_secret, token)),
            fields: Vec::new(),
            answer: AnswerBody::Whole,
            deadline,
            retry: Retry::Safe,
        };
        match self.egress.runtime().block_on(self.egress.call(request)) {
            Ok(answer) => Revocation::of(answer.status, &answer.body) == Revocation::Done,
            Err(error) => {
                tracing::warn!(%error, "Google could not be told of an account of a user who is being erased");
                false
            }
        }
    }
}

impl Admin {
    /// The same operations, with erasures that give back at Google what their users connected.
    #[must_use]
    pub fn with_revoker(self, revoker: Revoker) -> Self {
        Self { revoker: Some(std::sync::Arc::new(revoker)), ..self }
    }

    /// What erasures gave back at Google.
    pub fn revoker_stats(&self) -> &std::sync::Arc<RevokerStats> {
        &self.revoked
    }

    /// Gives back all that a user has connected. For one whom the cores have forgotten, and whose data key is still there.
    pub(super) fn give_back(&self, user: &UserId) -> Result<Revoked, AdminError> {
        let shard = self.shard_of(user);
        let until = Instant::now() + ALL_MAX;
        let range = KeyRange::of_user(Kind::Connection, user);
        let page =
            self.store.scan_blocking(shard, range, 2 * usize::from(CONNECTIONS_PER_USER_MAX), false)?;
        let mut came = Revoked::default();
        for (key, value) in page.rows {
            let Some(slot) = key.connection_slot() else { continue };
            let is_revoked = match sluice_store::record::decode::<ConnectionRecord>(value) {
                Ok(record) if record.state == ConnectionState::Revoked => continue,
                Ok(record) => self.give_one_back(user, slot, &record, until),
                // Which it was, nobody can say.
                Err(_) => false,
            };
            let (here, all) = match is_revoked {
                true => (&mut came.done, &self.revoked.revoked),
                false => (&mut came.failed, &self.revoked.unrevoked),
            };
            *here = here.saturating_add(1);
            all.fetch_add(1, Relaxed);
        }
        if came.failed > 0 {
            let Revoked { done, failed } = came;
            tracing::warn!(%user, done, failed, "a user is erased of whose accounts Google does not know");
        }
        Ok(came)
    }

    fn give_one_back(&self, user: &UserId, slot: u8, record: &ConnectionRecord, until: Instant) -> bool {
        let Some(revoker) = &self.revoker else { return false };
        let now = Instant::now();
        if now >= until {
            return false;
        }
        let place = Place::refresh_token_at(user, Provider::Google, slot);
        match self.vault.open_blocking(&place, &record.refresh_token) {
            Ok(token) => revoker.revoke_blocking(token.expose(), until.min(now + ONE_MAX)),
            Err(error) => {
                tracing::warn!(%user, %error, "a token that is to be given back cannot be opened");
                false
            }
        }
    }
}

//! What the gateway hands to browsers and takes back from them: links to its own page, and states that Google carries.
//!
//! ```text
//! link  := PUBLIC_URL /oauth/google/start/ base64url(Ticket as JSON) . base64url(HMAC-SHA256(key, "link" 0 JSON))
//! state := base64url( user[16] | random[24] | HMAC-SHA256(key, "state" 0 user | random)[..16] )
//! ```
//! Both name their user, so that whichever core they land on finds the one that owns the user, and are signed, so that
//! nobody has another's looked at. Of a connection that is mended, a link has the id and no address. A link is good until its time is over, and makes nothing by itself; a state is good
//! once, and what belongs to it stands in the store.
//!
//! Invariant: the key follows from the node's secret and is used for nothing else.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sluice_protocols::access::Scopes;
use sluice_protocols::api::{
    ConnectionNotice, ConnectionReason, ConnectionStatus, WebhookEvent, connection_path,
};
use sluice_protocols::google::consent;
use sluice_protocols::ids::{ConnectionId, UserId};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::record::ConnectionRecord;

use super::ConnectConfig;

/// The page that a link leads to.
pub(crate) const START_PATH: &str = "/oauth/google/start/";
/// Where Google sends browsers back to.
pub(crate) const CALLBACK_PATH: &str = "/oauth/google/callback";
/// The longest ticket that is read: the longest that is made has some 2,600 characters.
const TICKET_CHARS_MAX: usize = 4_096;
/// How long a link stays good by which a user mends a connection. It leads nobody else anywhere: the account must be the
/// same.
const MEND_LIFE_MS: u64 = 7 * 24 * 60 * 60 * 1_000;
const STATE_RANDOM_BYTES: usize = 24;
const STATE_TAG_BYTES: usize = 16;
const STATE_BYTES: usize = 16 + STATE_RANDOM_BYTES + STATE_TAG_BYTES;

/// What a link says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ticket {
    #[serde(rename = "u")]
    pub(crate) user: UserId,
    /// What is wanted: bits of [`Scopes`].
    #[serde(rename = "w")]
    pub(crate) wanted: u16,
    /// The connection that is made anew; the account must be the same.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub(crate) connection: Option<ConnectionId>,
    /// The account that is likely meant, as whoever asked for the link named it. Of a connection its record tells: a link goes
    /// by webhooks and into answers, and no address with it.
    #[serde(rename = "h", default, skip_serializing_if = "String::is_empty")]
    pub(crate) login_hint: String,
    /// Where the user goes on.
    #[serde(rename = "r", default, skip_serializing_if = "String::is_empty")]
    pub(crate) return_url: String,
    #[serde(rename = "e")]
    pub(crate) expires_ms: u64,
}

impl Ticket {
    /// What is wanted.
    pub(crate) fn wanted(&self) -> Scopes {
        Scopes::from_bits(self.wanted)
    }
}

/// Why a link is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TicketFault {
    #[error("This link is not complete, or was not made here.")]
    Forged,
    #[error("This link is too old. Ask for a new one.")]
    Expired,
}

/// Makes and reads both.
pub(crate) struct Links {
    key: hmac::Key,
    public_url: String,
}

impl Links {
    /// Of a node with these settings.
    pub(crate) fn new(config: &ConnectConfig) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, config.node_secret.as_ref());
        let own = hmac::sign(&secret, b"links and states of connections");
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, own.as_ref()), public_url: config.public_url.clone() }
    }

    /// The link of a ticket.
    pub(crate) fn link(&self, ticket: &Ticket) -> String {
        let text = serde_json::to_string(ticket).expect("texts and numbers can be written");
        let tag = hmac::sign(&self.key, &[b"link\0", text.as_bytes()].concat());
        let (text, tag) = (URL_SAFE_NO_PAD.encode(text), URL_SAFE_NO_PAD.encode(tag.as_ref()));
        format!("{}{START_PATH}{text}.{tag}", self.public_url)
    }

    /// The ticket of a link's last part, whatever its age.
    pub(crate) fn ticket(&self, text: &str) -> Result<Ticket, TicketFault> {
        let forged = TicketFault::Forged;
        let (text, tag) = text.split_once('.').filter(|_| text.len() <= TICKET_CHARS_MAX).ok_or(forged)?;
        let text = URL_SAFE_NO_PAD.decode(text).map_err(|_| forged)?;
        let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| forged)?;
        // In constant time: how much of a forged tag is right does not show.
        hmac::verify(&self.key, &[b"link\0", text.as_slice()].concat(), &tag).map_err(|_| forged)?;
        serde_json::from_slice(&text).map_err(|_| forged)
    }

    /// A state for a user.
    pub(crate) fn state(&self, user: &UserId, random: &[u8; STATE_RANDOM_BYTES]) -> String {
        let said = [user.as_bytes().as_slice(), random].concat();
        let tag = hmac::sign(&self.key, &[b"state\0", said.as_slice()].concat());
        URL_SAFE_NO_PAD.encode([said.as_slice(), &tag.as_ref()[..STATE_TAG_BYTES]].concat())
    }

    /// Whose a state is.
    pub(crate) fn user_of_state(&self, state: &str) -> Option<UserId> {
        let bytes: [u8; STATE_BYTES] = URL_SAFE_NO_PAD.decode(state).ok()?.try_into().ok()?;
        let user: [u8; 16] = bytes.first_chunk().copied()?;
        let random = bytes[16..].first_chunk::<STATE_RANDOM_BYTES>()?;
        let user = UserId::from_bytes(user);
        let ours = self.state(&user, random);
        // In constant time, as above.
        aws_lc_rs::constant_time::verify_slices_are_equal(ours.as_bytes(), state.as_bytes()).ok()?;
        Some(user)
    }

    /// Where Google sends browsers back to.
    pub(crate) fn callback(&self) -> String {
        format!("{}{CALLBACK_PATH}", self.public_url)
    }

    /// The link by which a user mends a connection: the same account, and what it was used for.
    pub(crate) fn mend(&self, record: &ConnectionRecord, also: Scopes, now_ms: u64) -> String {
        let known = wanted_of(record);
        // Of one that nothing is known of, all that commands may use.
        let known = if known == Scopes::NONE { consent::wantable() } else { known };
        self.link(&Ticket {
            user: record.user,
            wanted: Scopes::from_bits(known.bits() | also.bits()).bits(),
            connection: Some(record.id),
            login_hint: String::new(),
            return_url: String::new(),
            expires_ms: now_ms.saturating_add(MEND_LIFE_MS),
        })
    }

    /// What a user is told whose connection Google does not accept any more.
    pub(crate) fn needs_reauth(&self, record: &ConnectionRecord, now_ms: u64) -> Problem {
        let detail =
            format!("Google no longer accepts the connection of {}; connect the account again", record.email);
        Problem::new(ProblemKind::NeedsReauth, detail).with_link(self.mend(record, Scopes::NONE, now_ms))
    }
}

/// What webhooks are told.
impl Links {
    pub(crate) fn notice(
        &self,
        record: &ConnectionRecord,
        event: WebhookEvent,
        now_ms: u64,
    ) -> ConnectionNotice {
        let is_failure = event == WebhookEvent::ConnectionFailed;
        ConnectionNotice {
            id: record.id,
            provider: "google",
            status: if is_failure { ConnectionStatus::NeedsReauth } else { ConnectionStatus::Connected },
            reason: ConnectionReason::from_number(record.reason).filter(|_| is_failure),
            link: is_failure.then(|| self.mend(record, Scopes::NONE, now_ms)),
            location: connection_path(record.id),
        }
    }
}

/// What a connection is used for: what was asked for, and what was granted.
pub(super) fn wanted_of(record: &ConnectionRecord) -> Scopes {
    Scopes::from_bits(record.wanted | consent::allowed_by(&record.scope).bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(secret: u8) -> Links {
        let node_secret = zeroize::Zeroizing::new([secret; 32]);
        Links::new(&ConnectConfig { node_secret, ..ConnectConfig::default() })
    }

    fn ticket() -> Ticket {
        Ticket {
            user: UserId::from_bytes([1; 16]),
            wanted: 4,
            connection: Some(ConnectionId::from_bytes([2; 16])),
            login_hint: "a@b.c".to_owned(),
            return_url: String::new(),
            expires_ms: 1_000,
        }
    }

    #[test]
    fn a_link_leads_back_to_its_ticket_and_nobody_can_make_one() {
        let link = links(7).link(&ticket());
        let text = link.strip_prefix("https://localhost/oauth/google/start/").expect("our page");
        assert_eq!(links(7).ticket(text), Ok(ticket()));
        assert_eq!(links(8).ticket(text), Err(TicketFault::Forged));
        let (said, tag) = text.split_once('.').expect("two parts");
        let other = Ticket { wanted: 5, ..ticket() };
        let other = URL_SAFE_NO_PAD.encode(serde_json::to_string(&other).expect("JSON"));
        for wrong in ["", ".", said, &text[1..], &format!("{said}."), &format!("{other}.{tag}")] {
            assert_eq!(links(7).ticket(wrong), Err(TicketFault::Forged), "{wrong}");
        }
    }

    #[test]
    fn the_longest_ticket_fits() {
        let long = Ticket {
            login_hint: "\u{10000}".repeat(sluice_protocols::api::LOGIN_HINT_CHARS_MAX),
            return_url: "x".repeat(sluice_protocols::api::RETURN_URL_CHARS_MAX),
            ..ticket()
        };
        let link = links(7).link(&long);
        assert_eq!(links(7).ticket(link.rsplit('/').next().expect("a part")), Ok(long));
    }

    #[test]
    fn a_state_names_its_user_and_nobody_can_make_one() {
        let user = UserId::from_bytes([3; 16]);
        let state = links(7).state(&user, &[4; STATE_RANDOM_BYTES]);
        assert_eq!(links(7).user_of_state(&state), Some(user));
        assert_eq!(links(8).user_of_state(&state), None);
        // A ticket's signature is none of a state.
        for wrong in ["", "AAAA", &state[1..], &format!("B{}", &state[1..])] {
            assert_eq!(links(7).user_of_state(wrong), None, "{wrong}");
        }
    }
}

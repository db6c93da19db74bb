//! Browsers: the cookie of a session that a user began with another credential, and where a request with it may come from.
//!
//! ```text
//! cookie := base64url( version 1 | user[16] | session[16] | end u64 ms BE | HMAC-SHA256(key, all before)[32] )
//! ```
//! The key follows from the node's secret, so whoever removes that ends every session. The cookie is proven where it lands;
//! whether the session still is, is looked up by the core that owns the user, and believed there for a while as an API key is.
//!
//! Invariants:
//! - a session allows no more than the credential it was made with does at the time of the request, and ends with it: with the key,
//!   once that is revoked or over, with the key of a provider that signed its token, once that is withdrawn, and with its user, once that is disabled or signed out ([`super::revoked`]);
//! - a request that may change something counts only when a page of this gateway made it, and one that reads never when
//!   another site's page did ([`is_from_here`]);
//! - what is signed here is signed by a key of its own.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sluice_protocols::access::{Role, Scopes};
use sluice_protocols::http::RequestHead;
use sluice_protocols::ids::{BrowserSessionId, KeyId, ShardId, UserId};
use sluice_store::Key;
use sluice_store::record::{BrowserSessionRecord, KeyRecord, UserRecord};

use super::beliefs::Beliefs;
use super::providers::{Providers, Signer};
use super::{Credential, Denied, KeyMeans, Principal, Revocations};
use crate::config::ShardConfig;

/// The cookie's name. Browsers take one with this prefix only from a secure origin, for the whole of it and for no other host
/// (RFC 6265bis section 4.1.3.2).
pub(crate) const COOKIE: &str = "__Host-sluice";

const VERSION: u8 = 1;
const SIGNED_BYTES: usize = 1 + 16 + 16 + 8;
const TAG_BYTES: usize = 32;
/// Base64 of both, without padding.
pub(crate) const COOKIE_CHARS: usize = (4 * (SIGNED_BYTES + TAG_BYTES)).div_ceil(3);

/// A cookie's value as it is sent.
pub(crate) type CookieText = [u8; COOKIE_CHARS];

/// What a proven cookie says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) user: UserId,
    pub(crate) session: BrowserSessionId,
    /// In milliseconds since 1970.
    pub(crate) expires_ms: u64,
}

/// The value of our cookie in a request.
///
/// # Errors
/// [`Denied::Missing`] without one; [`Denied::Session`] when it cannot be one of ours, or there are several.
pub(crate) fn shown(head: &RequestHead) -> Result<&CookieText, Denied> {
    let field = head.header("cookie").ok_or(Denied::Missing)?;
    let mut ours = field
        .split(';')
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(name, _)| *name == COOKIE)
        .map(|(_, value)| value);
    let value = ours.next().ok_or(Denied::Missing)?;
    match (value.as_bytes().try_into(), ours.next()) {
        (Ok(text), None) => Ok(text),
        _ => Err(Denied::Session),
    }
}

/// Whether a request that a browser sent with our cookie is one of this gateway's own pages, or the user's own doing where it only
/// reads. Browsers say so themselves (Fetch Metadata, `Sec-Fetch-Site`), older ones by `Origin` alone; a page can change
/// neither. `SameSite=Strict` keeps the cookie from other sites before this is asked.
pub(crate) fn is_from_here(head: &RequestHead) -> bool {
    let only_reads = head.method().is_safe();
    match (head.header("sec-fetch-site"), head.header("origin")) {
        (Some("same-origin"), _) => true,
        // An address that was typed, or a bookmark.
        (Some("none"), _) => only_reads,
        (Some(_), _) => false,
        (None, Some(origin)) => head.authority().is_some_and(|authority| is_origin_of(origin, authority)),
        (None, None) => only_reads,
    }
}

/// Whether this is the origin of an authority; everything here is https.
fn is_origin_of(origin: &str, authority: &str) -> bool {
    let host = |text: &str| text.strip_suffix(":443").unwrap_or(text).to_ascii_lowercase();
    origin.strip_prefix("https://").is_some_and(|found| host(found) == host(authority))
}

/// The field that gives a cookie to a browser: for this origin alone, over https alone, out of reach of scripts, and never sent
/// with what another site's page makes the browser ask for. No page needs it on the way in from another site.
pub(crate) fn set_cookie(value: &str, life: Duration) -> String {
    format!("{COOKIE}={value}; Path=/; Max-Age={}; Secure; HttpOnly; SameSite=Strict", life.as_secs())
}

/// The field that takes it away.
pub(crate) fn unset_cookie() -> String {
    set_cookie("", Duration::ZERO)
}

/// The sessions of browsers as one core knows them.
pub(crate) struct Browsers {
    key: hmac::Key,
    believed: Beliefs<COOKIE_CHARS>,
    providers: Arc<Providers>,
    /// The keys of providers that what is believed was looked up with ([`Providers::version`]).
    keys_version: Cell<u64>,
}

impl Browsers {
    pub(crate) fn new(config: &ShardConfig) -> Self {
        let own =
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &config.node_secret), b"sessions of browsers");
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, own.as_ref()),
            believed: Beliefs::new(config.keys_cached_max, config.key_life),
            providers: Arc::clone(&config.providers),
            keys_version: Cell::new(config.providers.version()),
        }
    }

    /// The cookie of a session.
    pub(crate) fn make(&self, session: &Opened) -> String {
        let mut bytes = [0; SIGNED_BYTES + TAG_BYTES];
        bytes[0] = VERSION;
        bytes[1..17].copy_from_slice(session.user.as_bytes());
        bytes[17..33].copy_from_slice(session.session.as_bytes());
        bytes[33..SIGNED_BYTES].copy_from_slice(&session.expires_ms.to_be_bytes());
        let tag = hmac::sign(&self.key, &bytes[..SIGNED_BYTES]);
        bytes[SIGNED_BYTES..].copy_from_slice(tag.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Proves that a cookie is ours.
    ///
    /// # Errors
    /// [`Denied::Session`].
    pub(crate) fn open(&self, text: &CookieText) -> Result<Opened, Denied> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Denied::Session)?;
        let (signed, tag) = bytes.split_first_chunk::<SIGNED_BYTES>().ok_or(Denied::Session)?;
        // In constant time.
        hmac::verify(&self.key, signed, tag).map_err(|_| Denied::Session)?;
        let [version, rest @ ..] = signed;
        let (user, rest) = rest.split_first_chunk().ok_or(Denied::Session)?;
        let (session, end) = rest.split_first_chunk().ok_or(Denied::Session)?;
        let end = end.try_into().map_err(|_| Denied::Session)?;
        if *version != VERSION {
            return Err(Denied::Session);
        }
        Ok(Opened {
            user: UserId::from_bytes(*user),
            session: BrowserSessionId::from_bytes(*session),
            expires_ms: u64::from_be_bytes(end),
        })
    }

    /// Whose cookie this is, when it was checked lately.
    pub(crate) fn believed(
        &self,
        text: &CookieText,
        revocations: &Revocations,
        now: Instant,
    ) -> Option<Rc<Principal>> {
        // Keys change now and then; which sessions that concerns is looked up, all of them being few.
        let version = self.providers.version();
        if self.keys_version.replace(version) != version {
            self.believed.clear();
        }
        self.believed.find(text, revocations, now)
    }

    /// Drops what is believed of a user who is erased.
    pub(crate) fn forget(&self, user: &UserId) {
        self.believed.forget(user);
    }

    /// Sessions that are believed.
    pub(crate) fn len(&self) -> usize {
        self.believed.len()
    }

    /// Whether a key of an identity provider was withdrawn. While that cannot be told it was not.
    pub(crate) fn is_withdrawn(&self, signer: Signer) -> bool {
        self.providers.has_signer(signer) == Some(false)
    }

    /// Looks again for the session that somebody was let in with.
    pub(super) async fn look_again(
        &self,
        means: KeyMeans<'_>,
        opened: &Opened,
        shard: ShardId,
    ) -> Result<Principal, Denied> {
        look_up(means, &self.providers, opened, shard, means.clock.unix_ms()).await
    }

    /// Looks whether the session of a proven cookie still is, by the store of the core that owns its user.
    pub(crate) async fn check(
        &self,
        means: KeyMeans<'_>,
        text: &CookieText,
        opened: &Opened,
        shard: ShardId,
        now: Instant,
    ) -> Result<Rc<Principal>, Denied> {
        let (unix_ms, version) = (means.clock.unix_ms(), self.providers.version());
        let principal = Rc::new(look_up(means, &self.providers, opened, shard, unix_ms).await?);
        let left = principal.expires_ms.map_or(0, |end| end.saturating_sub(unix_ms));
        // What changed while it was looked up may not be in it.
        if version == self.providers.version() {
            self.believed.keep(text, &principal, Duration::from_millis(left), means.revocations, now);
        }
        Ok(principal)
    }
}

async fn look_up(
    means: KeyMeans<'_>,
    providers: &Providers,
    opened: &Opened,
    shard: ShardId,
    unix_ms: u64,
) -> Result<Principal, Denied> {
    let KeyMeans { store, revocations, limiter, clock } = means;
    let user = opened.user;
    let stamp = revocations.stamp(&user);
    if opened.expires_ms <= unix_ms {
        return Err(Denied::SessionOver);
    }
    let key = Key::browser_session(&user, &opened.session);
    let session =
        store.load::<BrowserSessionRecord>(shard, &key).await?.ok_or(Denied::SessionOver)?.to_record();
    if session.user != user || session.ended_ms > 0 || session.expires_ms <= unix_ms {
        return Err(Denied::SessionOver);
    }
    let record = store.load::<UserRecord>(shard, &Key::user(&user)).await?.ok_or(Denied::SessionOver)?;
    let record = record.get();
    if record.disabled {
        return Err(Denied::Disabled(user));
    }
    if session.created_ms < record.tokens_since_ms.to_native() {
        return Err(Denied::SessionOver);
    }
    let (mut scopes, mut expires_ms) = (Scopes::from_bits(session.scopes), session.expires_ms);
    let mut role = Role::from_number(record.role);
    match session.key {
        Some(id) => {
            let id = KeyId::from_bytes(id);
            let key = store.load::<KeyRecord>(shard, &Key::api_key(&user, &id)).await?;
            let key = key.ok_or(Denied::SessionOver)?;
            let key = key.get();
            scopes = scopes.and(Scopes::from_bits(key.scopes.to_native()));
            if let Some(end) = Some(key.expires_ms.to_native()).filter(|end| *end > 0) {
                expires_ms = expires_ms.min(end);
            }
        }
        None => {
            match session.signer.map(|signer| providers.has_signer(Signer::from_bytes(signer))) {
                Some(Some(false)) => return Err(Denied::SessionOver),
                Some(None) => return Err(Denied::NoKeysYet),
                // One that an older version began does not say.
                Some(Some(true)) | None => {}
            }
            // A token's role may be the provider's word; here it counts no further than the user's own.
            role = role.min(Role::from_number(session.role));
        }
    }
    if expires_ms <= unix_ms {
        return Err(Denied::SessionOver);
    }
    let time_zone = record.time_zone.as_str().into();
    let allowance = limiter.recall(store, clock, shard, user).await?;
    Ok(Principal {
        user,
        shard,
        allowance,
        time_zone,
        role,
        scopes: scopes.and(role.scopes_max()),
        credential: Credential::Browser(opened.session),
        expires_ms: Some(expires_ms),
        stamp,
        // Where there is one it was begun with a token, and was looked at above.
        signer: session.signer.map(Signer::from_bytes),
        token: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::RunConfig;

    fn browsers(secret: u8) -> Browsers {
        let mut config = ShardConfig::new(RunConfig::new("", "", "", ""));
        config.node_secret = [secret; 32];
        Browsers::new(&config)
    }

    fn opened() -> Opened {
        Opened {
            user: UserId::from_bytes([1; 16]),
            session: BrowserSessionId::from_bytes([2; 16]),
            expires_ms: 1_800_000_000_000,
        }
    }

    fn text(cookie: &str) -> CookieText {
        cookie.as_bytes().try_into().unwrap()
    }

    #[test]
    fn a_cookie_says_what_was_signed_and_nothing_after_a_change_of_any_character() {
        let cookie = browsers(7).make(&opened());
        assert_eq!(browsers(7).open(&text(&cookie)), Ok(opened()));
        assert_eq!(browsers(8).open(&text(&cookie)), Err(Denied::Session));
        for at in 0..COOKIE_CHARS {
            for other in [b'A', b'B', b'_', b'=', b'.'] {
                let mut changed = text(&cookie);
                if changed[at] != other {
                    changed[at] = other;
                    assert_eq!(browsers(7).open(&changed), Err(Denied::Session), "{at} {other}");
                }
            }
        }
    }

    #[test]
    fn what_is_signed_for_another_purpose_is_no_cookie() {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
        let cookie = browsers(7).make(&opened());
        let mut bytes = URL_SAFE_NO_PAD.decode(&cookie).unwrap();
        let tag = hmac::sign(&secret, &bytes[..SIGNED_BYTES]);
        bytes[SIGNED_BYTES..].copy_from_slice(tag.as_ref());
        assert_eq!(browsers(7).open(&text(&URL_SAFE_NO_PAD.encode(bytes))), Err(Denied::Session));
    }

    #[test]
    fn our_cookie_is_found_among_others_and_two_of_it_are_none() {
        let cookie = browsers(7).make(&opened());
        let head = |field: &str| RequestHead::build("GET", "/", "localhost").with("cookie", field);
        for field in [
            format!("{COOKIE}={cookie}"),
            format!("a=b; {COOKIE}={cookie};c=d"),
            format!("sluice=x; {COOKIE}={cookie}; odd"),
        ] {
            assert_eq!(shown(&head(&field)), Ok(&text(&cookie)), "{field}");
        }
        for field in ["a=b", "odd", "", "__host-sluice=x", "x__Host-sluice=y"] {
            assert_eq!(shown(&head(field)), Err(Denied::Missing), "{field}");
        }
        assert_eq!(shown(&head(&format!("{COOKIE}={cookie}; {COOKIE}={cookie}"))), Err(Denied::Session));
        assert_eq!(shown(&head(&format!("{COOKIE}={cookie}x"))), Err(Denied::Session));
        assert_eq!(shown(&head(&format!("{COOKIE}="))), Err(Denied::Session));
    }

    #[test]
    fn another_sites_page_neither_changes_nor_reads_anything() {
        let head = |method: &str, fields: &[(&str, &str)]| {
            let head = RequestHead::build(method, "/api/v1/keys", "Example.com:8443");
            fields.iter().fold(head, |head, (name, value)| head.with(name, value))
        };
        let of = |value| [("sec-fetch-site", value)];
        for method in ["GET", "HEAD", "POST", "DELETE", "PATCH", "PUT"] {
            let reads = matches!(method, "GET" | "HEAD");
            assert!(is_from_here(&head(method, &of("same-origin"))));
            assert_eq!(is_from_here(&head(method, &of("none"))), reads, "{method}");
            assert_eq!(is_from_here(&head(method, &[])), reads, "{method}");
            for site in ["cross-site", "same-site", "Same-Origin", ""] {
                assert!(!is_from_here(&head(method, &of(site))), "{method} {site}");
                // What the newer field says is not outweighed by the older.
                let both = [("sec-fetch-site", site), ("origin", "https://example.com:8443")];
                assert!(!is_from_here(&head(method, &both)), "{method} {site}");
            }
            assert!(is_from_here(&head(method, &[("origin", "https://example.com:8443")])));
            for origin in [
                "null",
                "https://example.com",
                "http://example.com:8443",
                "https://example.com:8443.evil",
                "",
            ] {
                assert!(!is_from_here(&head(method, &[("origin", origin)])), "{method} {origin}");
            }
        }
        let plain = RequestHead::build("POST", "/", "example.com").with("origin", "https://example.com:443");
        assert!(is_from_here(&plain));
    }

    #[test]
    fn the_cookie_is_set_with_every_fence_there_is() {
        let field = set_cookie("x", Duration::from_secs(60));
        assert_eq!(field, "__Host-sluice=x; Path=/; Max-Age=60; Secure; HttpOnly; SameSite=Strict");
        assert!(unset_cookie().starts_with("__Host-sluice=; Path=/; Max-Age=0; Secure"));
    }
}

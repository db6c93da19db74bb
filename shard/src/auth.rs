//! Who is asking: what a request shows to prove it, and what is proven by it.
//!
//! ```text
//! Authorization: Bearer sk_...          an API key           keys      checked by the core that owns its user
//! Authorization: Bearer eyJ...          a provider's token   tokens    checked where it lands, then passed on as proven
//! Cookie: __Host-sluice=...             a browser's session  browser   proven where it lands, looked up by the core that owns its user
//! ```
//!
//! What is believed of a credential is taken back at once by [`revoked`]. What a route asks for is declared beside it
//! (`routes::Action::access`) and checked in one place, when the principal is known.
//!
//! Invariant: secrets and fingerprints of them are compared in constant time.

pub(crate) mod activity;
mod beliefs;
pub(crate) mod browser;
pub(crate) mod clerk;
mod keys;
pub mod providers;
mod revoked;
#[cfg(test)]
#[path = "auth/tests.rs"]
mod signed;
mod standing;
pub(crate) mod tokens;

use std::rc::Rc;
use std::sync::Arc;

use sluice_protocols::access::{Role, Scopes};
use sluice_protocols::http::RequestHead;
use sluice_protocols::ids::{BrowserSessionId, KeyId, ShardId, UserId};
use sluice_protocols::problem::Problem;
use sluice_store::ReadError;

use crate::limit::{Allowance, Who};

pub(crate) use browser::{Browsers, CookieText};
pub(crate) use keys::{KeyMeans, Keys, key_id, parse, secret_hash, shown_prefix};
pub(crate) use providers::Signer;
pub use revoked::Revocations;
pub(crate) use revoked::Stamp;
pub(crate) use standing::{Means as StandingMeans, Standing};
pub(crate) use tokens::{TokenFault, Tokens, Welcomed, fingerprint};

/// `sk_`, 26 characters of the user, `_`, 43 characters of the secret.
pub(crate) const KEY_CHARS: usize = 3 + 26 + 1 + SECRET_CHARS;
const SECRET_CHARS: usize = 43;

/// A key as it is sent.
pub(crate) type KeyText = [u8; KEY_CHARS];

/// Who asks, proven, on the core that owns the user.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Principal {
    pub(crate) user: UserId,
    pub(crate) shard: ShardId,
    /// How much the user may ask.
    pub(crate) allowance: Rc<Allowance>,
    /// The user's own time zone.
    pub(crate) time_zone: Box<str>,
    pub(crate) role: Role,
    /// What the credential is good for, and the role allows.
    pub(crate) scopes: Scopes,
    pub(crate) credential: Credential,
    /// When the credential ends, in milliseconds since 1970.
    pub(crate) expires_ms: Option<u64>,
    /// The state of revocations it was proven at.
    pub(crate) stamp: Stamp,
    /// The key of an identity provider that it rests on.
    pub(crate) signer: Option<Signer>,
    /// What a token proved, for its user to be looked up by again.
    token: Option<Arc<tokens::Proven>>,
}

/// The same, as it crosses from the core that has proven it: what limits allow the user is the owner's to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) user: UserId,
    pub(crate) shard: ShardId,
    pub(crate) time_zone: Box<str>,
    pub(crate) role: Role,
    pub(crate) scopes: Scopes,
    pub(crate) credential: Credential,
    pub(crate) expires_ms: Option<u64>,
    pub(crate) stamp: Stamp,
    token: Arc<tokens::Proven>,
}

/// By what it was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Credential {
    Key(KeyId),
    /// A token of this identity, by the beginning of its hash, that this key of its provider signed.
    Token(KeyId, Signer),
    /// The cookie of this session of a browser.
    Browser(BrowserSessionId),
}

impl Principal {
    /// The same, as the limits on requests know it.
    pub(crate) fn who(&self) -> Who<'_> {
        let key = match self.credential {
            Credential::Key(key) | Credential::Token(key, _) => key,
            Credential::Browser(session) => {
                let [first @ .., _, _, _, _, _, _, _, _] = session.as_bytes();
                KeyId::from_bytes(*first)
            }
        };
        Who { user: self.user, key, allowance: &self.allowance }
    }
}

impl Passed {
    /// The principal, with what the user's limits allow.
    pub(crate) fn with(&self, allowance: Rc<Allowance>) -> Principal {
        let Self { user, shard, time_zone, role, scopes, credential, expires_ms, stamp, token } =
            self.clone();
        let token = Some(token);
        let signer = match credential {
            Credential::Token(_, signer) => Some(signer),
            // Proven by the core that owns the user alone.
            Credential::Key(_) | Credential::Browser(_) => None,
        };
        Principal {
            user,
            shard,
            allowance,
            time_zone,
            role,
            scopes,
            credential,
            expires_ms,
            stamp,
            signer,
            token,
        }
    }
}

/// Why a request is not served in anybody's name.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Denied {
    /// Send a credential: answer 401.
    #[error(
        "a credential is needed: Authorization: Bearer, and an API key (sk_...) or a token of an identity provider"
    )]
    Missing,
    /// There is no such key: answer 401. Which part is wrong is not told.
    #[error("the API key is not valid")]
    Unknown,
    /// Make another key: answer 401.
    #[error("the API key has expired")]
    Expired,
    /// The cookie is none of ours: answer 401.
    #[error("the cookie of the browser's session is not valid: sign in again")]
    Session,
    /// The cookie is right, its session is over: answer 401.
    #[error("the browser's session is over: sign in again")]
    SessionOver,
    /// Another site's page may have sent it: answer 403.
    #[error(
        "with the cookie of a browser's session, requests that change something come from this gateway's own pages, and none from \
         other sites: send `Sec-Fetch-Site: same-origin` or this `Origin`, or use an API key"
    )]
    CrossSite,
    /// The token is not accepted: answer 401.
    #[error("the token is not accepted: {0}")]
    Token(#[from] TokenFault),
    /// The credential is right, its user is not to be served: answer 403.
    #[error("the user of this credential is disabled")]
    Disabled(UserId),
    /// The token is right and means nobody here: answer 403.
    #[error("no user here belongs to the identity of this token")]
    NoUser,
    /// The provider's keys could not be fetched yet: answer 503.
    #[error("the keys of the token's identity provider are not known yet")]
    NoKeysYet,
    /// Too many wait for keys: answer 503.
    #[error("too many requests wait for keys of identity providers")]
    Busy,
    /// The store could not tell: answer 503.
    #[error("the credential could not be checked: {0}")]
    Storage(#[from] ReadError),
    /// The user of a token could not be made or linked.
    #[error("the user of this token could not be made: {}", .0.detail())]
    Clerk(Problem),
}

/// What a request shows to prove who asks. Nothing is proven by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown<'a> {
    Key(&'a KeyText),
    Token(&'a str),
    /// Counts only where [`browser::is_from_here`] says so.
    Cookie(&'a CookieText),
}

/// The credential in a request's `Authorization` field, or where there is none in our cookie.
pub(crate) fn shown(head: &RequestHead) -> Result<Shown<'_>, Denied> {
    let Some(field) = head.header("authorization") else {
        return browser::shown(head).map(Shown::Cookie);
    };
    let (scheme, text) = field.split_once(' ').ok_or(Denied::Missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Denied::Missing);
    }
    let text = text.trim_start_matches(' ');
    // No token has an underscore before its first point and begins like a key: a header is the base64url of `{"`.
    if text.starts_with("sk_") || !text.contains('.') {
        return text.as_bytes().try_into().map(Shown::Key).map_err(|_| Denied::Unknown);
    }
    if is_token(text) { Ok(Shown::Token(text)) } else { Err(TokenFault::Shape.into()) }
}

/// Whether a text has the form of a signed token (RFC 7515 section 3.1): three parts of base64url, none of them empty.
fn is_token(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.len() <= tokens::TOKEN_BYTES_MAX && text.split('.').count() == 3 && text.split('.').all(is_part)
}

/// Whether two secrets are equal, in a time that does not depend on where they differ.
pub(crate) fn same<const N: usize>(a: &[u8; N], b: &[u8; N]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sluice_protocols::ids::ApiKey;

    fn head(authorization: &str) -> RequestHead {
        RequestHead::build("GET", "/", "localhost").with("authorization", authorization)
    }

    #[test]
    fn a_bearer_key_is_found_whatever_the_case_of_its_scheme() {
        let text = ApiKey::new(UserId::from_bytes([3; 16]), [9; 32]).expose();
        assert_eq!(text.len(), KEY_CHARS);
        for scheme in ["Bearer", "bearer", "BEARER "] {
            let head = head(&format!("{scheme} {text}"));
            assert_eq!(shown(&head), Ok(Shown::Key(text.as_bytes().try_into().unwrap())));
        }
    }

    #[test]
    fn what_is_no_bearer_credential_is_told_apart_from_a_wrong_one() {
        assert_eq!(shown(&RequestHead::build("GET", "/", "localhost")), Err(Denied::Missing));
        assert_eq!(shown(&head("Basic dTpw")), Err(Denied::Missing));
        assert_eq!(shown(&head("Bearer")), Err(Denied::Missing));
        assert_eq!(shown(&head("Bearer sk_short")), Err(Denied::Unknown));
        assert_eq!(shown(&head("Bearer sk_a.b.c")), Err(Denied::Unknown));
        assert_eq!(shown(&head("Bearer a.b.c")), Ok(Shown::Token("a.b.c")));
        let shape = || Err(Denied::Token(TokenFault::Shape));
        for wrong in ["a.b", "a.b.", "a..c", "a.b.c.d", "a.b.c=", "a.b.c d", "a.b.\u{e9}"] {
            assert_eq!(shown(&head(&format!("Bearer {wrong}"))), shape(), "{wrong}");
        }
        let long = format!("Bearer a.b.{}", "c".repeat(tokens::TOKEN_BYTES_MAX));
        assert_eq!(shown(&head(&long)), shape());
    }

    #[test]
    fn equal_means_every_byte() {
        assert!(same(&[1, 2, 3], &[1, 2, 3]));
        assert!(!same(&[1, 2, 3], &[0, 2, 3]) && !same(&[1, 2, 3], &[1, 2, 4]));
    }

    proptest! {
        #[test]
        fn any_field_is_one_credential_or_none(text in "(Bearer |bearer  )?[ -~]{0,100}|Bearer [a-z.]{0,20}") {
            match shown(&head(&text)) {
                Ok(Shown::Key(key)) => prop_assert!(text.as_bytes().ends_with(key)),
                Ok(Shown::Cookie(_)) => prop_assert!(false, "there is none"),
                Ok(Shown::Token(token)) => {
                    prop_assert!(text.ends_with(token) && !token.starts_with("sk_"));
                    prop_assert_eq!(token.matches('.').count(), 2);
                }
                Err(_) => {}
            }
        }
    }
}

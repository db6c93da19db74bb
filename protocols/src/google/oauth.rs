//! Google's token endpoint (OAuth 2.0): a fresh access token for a refresh token (RFC 6749 section 6) or for an assertion of a service
//! account (RFC 7523).
//!
//! Invariant: tokens and the client's secret stand in no `Debug` output.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::Encoded;

/// The media type of [`refresh_body`].
pub const FORM: &str = "application/x-www-form-urlencoded";
/// The longest token that is taken: Google's own stay below 2,048 bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// The longest lifetime that is believed.
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The body of a request for a fresh access token.
#[must_use]
pub fn refresh_body(client_id: &str, client_secret: &str, refresh_token: &str) -> String {
    format!(
        "grant_type=refresh_token&client_id={}&client_secret={}&refresh_token={}",
        Encoded(client_id),
        Encoded(client_secret),
        Encoded(refresh_token)
    )
}

/// The body of a request for an access token by an assertion (RFC 7523 section 2.1).
#[must_use]
pub fn delegated_body(assertion: &str) -> String {
    format!(
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={}",
        Encoded(assertion)
    )
}

/// A fresh access token.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenResponse {
    access_token: String,
    lifetime: Duration,
    scopes: Vec<String>,
    refresh_token: Option<String>,
    refresh_token_lifetime: Option<Duration>,
    id_token: Option<String>,
}

/// Why a refresh brought no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OAuthError {
    /// The refresh token is dead. Read the store again, for there may be a newer one; then the user must
    /// connect again.
    #[error("the connection was revoked or has expired")]
    InvalidGrant {
        /// Whether it is the account's organisation that wants the user to sign in again (`invalid_rapt`).
        by_policy: bool,
    },
    /// The operator's client id or secret is wrong, or may not do this.
    #[error("the client is not accepted: {0}")]
    InvalidClient(String),
    /// Too many requests; wait and try again.
    #[error("the token endpoint limits requests")]
    RateLimited,
    /// The endpoint fails; try again.
    #[error("the token endpoint answered {0}")]
    Unavailable(u16),
    /// The reply is not what the endpoint promises; something else answered.
    #[error("the token endpoint answered nonsense: {0}")]
    Malformed(String),
}

impl OAuthError {
    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::RateLimited | Self::Unavailable(_))
    }

    /// Reads the body of a reply with an error status (RFC 6749 section 5.2).
    #[must_use]
    pub fn classify(status: u16, body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Body {
            error: String,
            #[serde(default)]
            error_subtype: String,
        }
        match status {
            429 => return Self::RateLimited,
            408 | 500..=599 => return Self::Unavailable(status),
            _ => {}
        }
        match serde_json::from_slice::<Body>(body) {
            Ok(body) if body.error == "invalid_grant" => {
                Self::InvalidGrant { by_policy: body.error_subtype == "invalid_rapt" }
            }
            Ok(body) if body.error == "temporarily_unavailable" => Self::Unavailable(status),
            Ok(body) => Self::InvalidClient(crate::plan::clip(&body.error)),
            Err(_) => Self::Malformed(format!("status {status} without an error")),
        }
    }
}

impl TokenResponse {
    /// Reads the body of a successful reply (RFC 6749 section 5.1).
    ///
    /// # Errors
    /// [`OAuthError::Malformed`] when there is no bearer token in it that could stand in a header.
    pub fn parse(body: &[u8]) -> Result<Self, OAuthError> {
        #[derive(Deserialize)]
        struct Body {
            access_token: String,
            expires_in: u64,
            #[serde(default)]
            scope: String,
            token_type: String,
            refresh_token: Option<String>,
            refresh_token_expires_in: Option<u64>,
            id_token: Option<String>,
        }
        // The error of serde may quote the text, and with it the token: it is not passed on.
        let body: Body = serde_json::from_slice(body)
            .map_err(|_| OAuthError::Malformed("not a token response".to_owned()))?;
        if !body.token_type.eq_ignore_ascii_case("bearer") {
            return Err(OAuthError::Malformed("the token is not a bearer token".to_owned()));
        }
        let tokens = [Some(body.access_token.as_str()), body.refresh_token.as_deref()];
        if !tokens.into_iter().flatten().all(is_token) {
            return Err(OAuthError::Malformed("a token is empty, too long, or not printable".to_owned()));
        }
        Ok(Self {
            access_token: body.access_token,
            lifetime: Duration::from_secs(body.expires_in).min(LIFETIME_MAX),
            scopes: body.scope.split_ascii_whitespace().map(str::to_owned).collect(),
            refresh_token: body.refresh_token,
            refresh_token_lifetime: body.refresh_token_expires_in.map(Duration::from_secs),
            id_token: body.id_token,
        })
    }

    /// The token, to be sent as `Authorization: Bearer`.
    #[must_use]
    pub fn access_token(&self) -> &str {
        &self.access_token
    }

    /// How long it is good, from the moment it was given; at most a day.
    #[must_use]
    pub const fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// What the user granted; perhaps less than was asked for.
    #[must_use]
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// A new refresh token, where the old one was rotated: to be stored before the access token is used.
    #[must_use]
    pub fn refresh_token(&self) -> Option<&str> {
        self.refresh_token.as_deref()
    }

    /// How long the permission lasts, from the moment the answer was given, where Google says so: it was granted for a
    /// time, or the operator's client is still being tested.
    #[must_use]
    pub const fn refresh_token_lifetime(&self) -> Option<Duration> {
        self.refresh_token_lifetime
    }

    /// Who consented, in the answer to a code.
    #[must_use]
    pub fn id_token(&self) -> Option<&str> {
        self.id_token.as_deref()
    }
}

/// Whether a text can stand in a header as a token: visible ASCII, and not endless.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.len() <= TOKEN_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
}

impl fmt::Debug for TokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenResponse")
            .field("lifetime", &self.lifetime)
            .field("scopes", &self.scopes)
            .field("rotated", &self.refresh_token.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_form_is_encoded() {
        assert_eq!(
            refresh_body("id.apps", "s&cret=", "1//t ok"),
            "grant_type=refresh_token&client_id=id.apps&client_secret=s%26cret%3D&refresh_token=1%2F%2Ft%20ok"
        );
    }

    #[test]
    fn the_form_of_an_assertion_is_encoded() {
        let body = delegated_body("a-b.c_d.e+");
        let grant = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";
        assert_eq!(body, format!("grant_type={grant}&assertion=a-b.c_d.e%2B"));
    }

    fn token() -> serde_json::Value {
        json!({"access_token": "ya29.abc", "expires_in": 3599, "scope": "a b", "token_type": "Bearer", "id_token": "x"})
    }

    #[test]
    fn a_token_is_read_with_its_lifetime_and_scopes() {
        let response = TokenResponse::parse(token().to_string().as_bytes()).expect("a token");
        assert_eq!(response.access_token(), "ya29.abc");
        assert_eq!(response.lifetime(), Duration::from_secs(3_599));
        assert_eq!(response.scopes(), ["a", "b"]);
        assert_eq!(response.refresh_token(), None);
        assert!(!format!("{response:?}").contains("ya29"));
    }

    #[test]
    fn a_rotated_refresh_token_is_seen() {
        let mut body = token();
        body["refresh_token"] = json!("1//new");
        let response = TokenResponse::parse(body.to_string().as_bytes()).expect("a token");
        assert_eq!(response.refresh_token(), Some("1//new"));
        assert!(!format!("{response:?}").contains("1//new"));
    }

    #[test]
    fn a_token_that_would_break_a_header_is_refused() {
        for evil in ["", "a b", "a\r\nX: y", "a\u{e9}"] {
            let mut body = token();
            body["access_token"] = json!(evil);
            let error = TokenResponse::parse(body.to_string().as_bytes());
            assert!(matches!(error, Err(OAuthError::Malformed(_))), "{evil:?}");
        }
    }

    #[test]
    fn a_malformed_reply_does_not_leak_what_it_held() {
        let error = TokenResponse::parse(br#"{"access_token": "secret", "expires_in": "secret"}"#)
            .expect_err("malformed");
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn errors_mean_what_the_endpoint_means() {
        let of = |status, error: &str| {
            OAuthError::classify(status, json!({"error": error}).to_string().as_bytes())
        };
        assert_eq!(of(400, "invalid_grant"), OAuthError::InvalidGrant { by_policy: false });
        let policy = br#"{"error": "invalid_grant", "error_subtype": "invalid_rapt"}"#;
        assert_eq!(OAuthError::classify(400, policy), OAuthError::InvalidGrant { by_policy: true });
        assert_eq!(of(401, "invalid_client"), OAuthError::InvalidClient("invalid_client".to_owned()));
        assert_eq!(of(503, "invalid_grant"), OAuthError::Unavailable(503));
        assert_eq!(OAuthError::classify(429, b""), OAuthError::RateLimited);
        assert!(matches!(OAuthError::classify(400, b"<html>"), OAuthError::Malformed(_)));
        assert!(of(500, "x").is_retryable() && !of(400, "invalid_grant").is_retryable());
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(status: u16, body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = TokenResponse::parse(&body);
            let _ = OAuthError::classify(status, &body);
        }
    }
}

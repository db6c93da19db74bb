//! How a user lets the gateway use a Google account: OAuth 2.0's authorization code (RFC 6749 section 4.1) with PKCE
//! (RFC 7636), who it was by OpenID Connect's ID token, and how the permission is given back (RFC 7009).
//!
//! Invariants:
//! - only what the user wants is asked for ([`google_scopes`]); what was granted is read from the answer, not assumed;
//! - codes, verifiers and tokens stand in no `Debug` output.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::Encoded;
use crate::access::{Scope, Scopes};
use crate::http::query::decoded;

const PREFIX: &str = "https://www.googleapis.com/auth/";
/// All of a mailbox, which some clients ask for: it includes what is asked for here.
const ALL_MAIL: &str = "https://mail.google.com/";
/// The most bytes of a subject and of an address that are believed.
const CLAIM_BYTES_MAX: usize = 255;
/// How far Google's clock and ours may be apart, in seconds.
const SKEW_S: u64 = 300;

/// What can be wanted of Google, and the least that Google must be asked for so that it works here: the name of a scope
/// of ours, and Google's. A calendar is also listed and asked when somebody is free, which events alone do not allow.
const WANTED: [(Scope, &[&str]); 6] = [
    (Scope::MailRead, &["gmail.readonly"]),
    (Scope::Mail, &["gmail.modify"]),
    (Scope::CalendarRead, &["calendar.readonly"]),
    (Scope::Calendar, &["calendar.events", "calendar.readonly"]),
    (Scope::DriveRead, &["drive.readonly"]),
    (Scope::Drive, &["drive"]),
];

/// What may be wanted of Google.
#[must_use]
pub fn wantable() -> Scopes {
    WANTED.iter().fold(Scopes::NONE, |all, (scope, _)| all.with(*scope))
}

/// The scopes to ask Google for: who it is, and for each service what is wanted and no more.
#[must_use]
pub fn google_scopes(wanted: Scopes) -> String {
    let mut text = "openid email".to_owned();
    for (scope, names) in WANTED {
        // What changes includes what reads; that is not asked for beside it.
        let is_included = WANTED
            .iter()
            .any(|(other, _)| *other != scope && other.reading() == scope && wanted.allows(*other));
        if wanted.allows(scope) && !is_included {
            for name in names {
                text.push(' ');
                text.push_str(PREFIX);
                text.push_str(name);
            }
        }
    }
    text
}

/// What scopes that Google granted allow here.
#[must_use]
pub fn allowed_by(granted: &str) -> Scopes {
    let has = |name: &str| granted.split_ascii_whitespace().any(|one| one.strip_prefix(PREFIX) == Some(name));
    let all_mail = granted.split_ascii_whitespace().any(|one| one == ALL_MAIL);
    let changes_mail = all_mail || has("gmail.modify");
    let reads_calendar = has("calendar.readonly") || has("calendar");
    [
        (Scope::MailRead, changes_mail || has("gmail.readonly")),
        (Scope::Mail, changes_mail),
        (Scope::CalendarRead, reads_calendar),
        (Scope::Calendar, has("calendar") || (has("calendar.events") && reads_calendar)),
        (Scope::DriveRead, has("drive") || has("drive.readonly")),
        (Scope::Drive, has("drive")),
    ]
    .into_iter()
    .filter(|(_, is_allowed)| *is_allowed)
    .fold(Scopes::NONE, |all, (scope, _)| all.with(scope))
}

/// Where a user's browser goes to consent.
#[derive(Clone, Copy, Debug)]
pub struct Authorization<'a> {
    /// The authorization endpoint.
    pub endpoint: &'a str,
    /// The operator's client.
    pub client_id: &'a str,
    /// Where Google sends the browser back to.
    pub redirect_uri: &'a str,
    /// What is wanted.
    pub wanted: Scopes,
    /// What comes back with the code.
    pub state: &'a str,
    /// What comes back in the ID token.
    pub nonce: &'a str,
    /// SHA-256 of the verifier, in base64url without padding.
    pub challenge: &'a str,
    /// The account that is likely meant; empty for none.
    pub login_hint: &'a str,
}

impl Authorization<'_> {
    /// The URL. A refresh token is asked for (`access_type=offline`), which Google gives for sure only when the user is asked
    /// again (`prompt=consent`); what was granted before stays granted (`include_granted_scopes`).
    #[must_use]
    pub fn url(&self) -> String {
        let scopes = google_scopes(self.wanted);
        // Without a hint the user says which account is meant, however many they are signed in with.
        let prompt = if self.login_hint.is_empty() { "select_account consent" } else { "consent" };
        let mut url = format!(
            "{}?response_type=code&client_id={}&redirect_uri={}&scope={}&state={}&nonce={}&code_challenge={}\
             &code_challenge_method=S256&access_type=offline&include_granted_scopes=true&prompt={}",
            self.endpoint,
            Encoded(self.client_id),
            Encoded(self.redirect_uri),
            Encoded(&scopes),
            Encoded(self.state),
            Encoded(self.nonce),
            Encoded(self.challenge),
            Encoded(prompt),
        );
        if !self.login_hint.is_empty() {
            url.push_str(&format!("&login_hint={}", Encoded(self.login_hint)));
        }
        url
    }
}

/// What Google's redirect brings back (RFC 6749 section 4.1.2).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Callback {
    /// The state that was sent.
    pub state: String,
    /// What tokens are given for.
    pub code: Option<String>,
    /// Why there is no code.
    pub error: Option<String>,
}

impl Callback {
    /// Reads the part of the address behind `?`. What is not known is passed over; of what is there twice the first counts.
    #[must_use]
    pub fn parse(query: &str) -> Self {
        let mut found = Self::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(value) = decoded(value, true).filter(|value| !value.is_empty()) else { continue };
            match name {
                "state" if found.state.is_empty() => found.state = value,
                "code" => {
                    found.code.get_or_insert(value);
                }
                "error" => {
                    found.error.get_or_insert(value);
                }
                _ => {}
            }
        }
        found
    }
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callback").field("error", &self.error).finish_non_exhaustive()
    }
}

/// The body that exchanges a code for tokens.
#[must_use]
pub fn code_body(
    client_id: &str,
    client_secret: &str,
    redirect_uri: &str,
    code: &str,
    verifier: &str,
) -> String {
    format!(
        "grant_type=authorization_code&client_id={}&client_secret={}&redirect_uri={}&code={}&code_verifier={}",
        Encoded(client_id),
        Encoded(client_secret),
        Encoded(redirect_uri),
        Encoded(code),
        Encoded(verifier)
    )
}

/// The body that gives a token back, and with it all that its user granted this client. Google asks for the token alone;
/// others want to know the client.
#[must_use]
pub fn revoke_body(client_id: &str, client_secret: &str, token: &str) -> String {
    format!(
        "token={}&token_type_hint=refresh_token&client_id={}&client_secret={}",
        Encoded(token),
        Encoded(client_id),
        Encoded(client_secret)
    )
}

/// What came of giving a token back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// It is good for nothing any more, or never was.
    Done,
    /// Try again: the endpoint fails or limits.
    Passing,
    /// The endpoint does not take it, whatever is tried.
    Refused,
}

impl Revocation {
    /// Reads the status and body of an answer.
    #[must_use]
    pub fn of(status: u16, body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Body {
            error: String,
        }
        match status {
            200..=299 => Self::Done,
            408 | 429 | 500..=599 => Self::Passing,
            _ => match serde_json::from_slice::<Body>(body) {
                Ok(body) if matches!(body.error.as_str(), "invalid_token" | "invalid_grant") => Self::Done,
                _ => Self::Refused,
            },
        }
    }
}

/// What an ID token must say.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// Who may have made it.
    pub issuer: &'a str,
    /// For whom.
    pub client_id: &'a str,
    /// For which consent.
    pub nonce: &'a str,
    /// Now, in seconds since 1970.
    pub now_s: u64,
}

/// Whose account it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// As the provider numbers it: the one name that never becomes another's.
    pub subject: String,
    /// As people know it.
    pub email: String,
}

/// Why an ID token is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdTokenError {
    /// It is no JSON Web Token, or lacks a claim.
    #[error("it cannot be read")]
    Malformed,
    /// Somebody else made it.
    #[error("it is of another issuer")]
    Issuer,
    /// It is for another client.
    #[error("it is for another client")]
    Audience,
    /// It is of another consent.
    #[error("it belongs to another consent")]
    Nonce,
    /// Its time is over.
    #[error("it has ended")]
    Expired,
}

/// Reads an ID token that came from the token endpoint itself. TLS says who made it, so its signature is not looked at
/// (OpenID Connect Core 1.0, section 3.1.3.7, number 6); what it says is.
///
/// # Errors
/// [`IdTokenError`].
pub fn account_of(id_token: &str, expected: &Expected<'_>) -> Result<Account, IdTokenError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    #[derive(Deserialize)]
    struct Claims {
        iss: String,
        aud: Audience,
        exp: u64,
        sub: String,
        nonce: Option<String>,
        email: Option<String>,
    }
    let mut parts = id_token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(IdTokenError::Malformed);
    };
    let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| IdTokenError::Malformed)?;
    let claims: Claims = serde_json::from_slice(&payload).map_err(|_| IdTokenError::Malformed)?;
    // Google leaves the scheme out now and then.
    let bare = |issuer: &str| issuer.strip_prefix("https://").unwrap_or(issuer).to_owned();
    if bare(&claims.iss) != bare(expected.issuer) {
        return Err(IdTokenError::Issuer);
    }
    let is_ours = match &claims.aud {
        Audience::One(one) => one == expected.client_id,
        Audience::Many(many) => matches!(many.as_slice(), [one] if one == expected.client_id),
    };
    if !is_ours {
        return Err(IdTokenError::Audience);
    }
    if claims.nonce.as_deref() != Some(expected.nonce) {
        return Err(IdTokenError::Nonce);
    }
    if claims.exp.saturating_add(SKEW_S) <= expected.now_s {
        return Err(IdTokenError::Expired);
    }
    let (subject, email) = (claims.sub, claims.email.unwrap_or_default());
    let is_sound = |text: &str| text.len() <= CLAIM_BYTES_MAX && !text.chars().any(char::is_control);
    if subject.is_empty() || !is_sound(&subject) || !is_sound(&email) {
        return Err(IdTokenError::Malformed);
    }
    Ok(Account { subject, email })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const EXPECTED: Expected<'_> =
        Expected { issuer: "https://accounts.google.com", client_id: "c", nonce: "n", now_s: 1_000 };

    fn token(claims: &Value) -> String {
        format!("e30.{}.x", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    fn claims() -> Value {
        json!({"iss": "accounts.google.com", "aud": "c", "exp": 1_001, "sub": "1", "nonce": "n", "email": "a@b.c"})
    }

    #[test]
    fn no_more_is_asked_for_than_is_wanted() {
        let of = |names: &str| google_scopes(names.parse().expect("scopes"));
        assert_eq!(of("mail:read"), "openid email https://www.googleapis.com/auth/gmail.readonly");
        assert_eq!(
            of("mail calendar drive:read"),
            "openid email https://www.googleapis.com/auth/gmail.modify https://www.googleapis.com/auth/calendar.events \
             https://www.googleapis.com/auth/calendar.readonly https://www.googleapis.com/auth/drive.readonly"
        );
        assert_eq!(google_scopes(Scopes::NONE), "openid email");
    }

    #[test]
    fn what_is_asked_for_allows_what_is_wanted() {
        for (scope, _) in WANTED {
            let wanted = Scopes::NONE.with(scope);
            assert!(allowed_by(&google_scopes(wanted)).contains(wanted), "{scope:?}");
            assert!(wantable().contains(wanted));
        }
        assert_eq!(allowed_by("openid https://www.googleapis.com/auth/calendar.events"), Scopes::NONE);
        assert_eq!(allowed_by("https://mail.google.com/").to_string(), "mail");
    }

    #[test]
    fn the_url_asks_for_a_lasting_permission_by_a_code() {
        let mut asked = Authorization {
            endpoint: "https://accounts.google.com/o/oauth2/v2/auth",
            client_id: "id.apps",
            redirect_uri: "https://x/oauth/google/callback",
            wanted: "mail:read".parse().expect("scopes"),
            state: "s&t",
            nonce: "n",
            challenge: "h",
            login_hint: "",
        };
        assert_eq!(
            asked.url(),
            "https://accounts.google.com/o/oauth2/v2/auth?response_type=code&client_id=id.apps\
             &redirect_uri=https%3A%2F%2Fx%2Foauth%2Fgoogle%2Fcallback\
             &scope=openid%20email%20https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fgmail.readonly&state=s%26t&nonce=n\
             &code_challenge=h&code_challenge_method=S256&access_type=offline&include_granted_scopes=true\
             &prompt=select_account%20consent"
        );
        asked.login_hint = "a@b.c";
        assert!(asked.url().ends_with("&prompt=consent&login_hint=a%40b.c"));
    }

    #[test]
    fn an_id_token_is_believed_for_this_consent_alone() {
        let told = Account { subject: "1".to_owned(), email: "a@b.c".to_owned() };
        assert_eq!(account_of(&token(&claims()), &EXPECTED), Ok(told));
        for (name, value, error) in [
            ("iss", json!("https://accounts.google.com.evil"), IdTokenError::Issuer),
            ("aud", json!("d"), IdTokenError::Audience),
            ("aud", json!(["c", "d"]), IdTokenError::Audience),
            ("nonce", json!("m"), IdTokenError::Nonce),
            ("nonce", Value::Null, IdTokenError::Nonce),
            ("exp", json!(700), IdTokenError::Expired),
            ("sub", json!(""), IdTokenError::Malformed),
            ("email", json!("a\n"), IdTokenError::Malformed),
        ] {
            let mut wrong = claims();
            wrong[name] = value;
            assert_eq!(account_of(&token(&wrong), &EXPECTED), Err(error), "{wrong}");
        }
        for text in ["", "a.b", "a.e30.b.c", "a.!.b"] {
            assert_eq!(account_of(text, &EXPECTED), Err(IdTokenError::Malformed), "{text}");
        }
    }

    #[test]
    fn a_callback_is_read_whatever_else_comes_with_it() {
        let callback = Callback::parse("state=a%2Fb&iss=x&code=4%2F0A&scope=email+x&code=other&&=&error");
        assert_eq!((callback.state.as_str(), callback.code.as_deref()), ("a/b", Some("4/0A")));
        assert_eq!(callback.error, None);
        let refused = Callback::parse("error=access_denied&state=s");
        assert_eq!(refused.error.as_deref(), Some("access_denied"));
        assert_eq!(Callback::parse("state=%zz&code=a%0a"), Callback::default());
        assert!(!format!("{callback:?}").contains("4/0A"));
    }

    #[test]
    fn a_token_that_is_dead_already_counts_as_given_back() {
        assert_eq!(Revocation::of(200, b"{}"), Revocation::Done);
        assert_eq!(Revocation::of(400, br#"{"error": "invalid_token"}"#), Revocation::Done);
        assert_eq!(Revocation::of(503, b""), Revocation::Passing);
        assert_eq!(Revocation::of(400, br#"{"error": "invalid_request"}"#), Revocation::Refused);
        assert_eq!(Revocation::of(302, b""), Revocation::Refused);
    }

    proptest! {
        #[test]
        fn arbitrary_id_tokens_never_panic(text in "[A-Za-z0-9._-]{0,80}") {
            prop_assert!(account_of(&text, &EXPECTED).is_err());
        }
    }
}

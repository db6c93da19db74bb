//! Keys and users: what is asked of them, and how they look.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{fields_problem, is_zone_name, object_of, pointer};
use crate::access::{Role, Scopes};
use crate::ids::{BrowserSessionId, KeyId, UserId};
use crate::plan::EmailAddress;
use crate::problem::Problem;

/// The most characters in the name of a key.
pub const KEY_NAME_CHARS_MAX: usize = 100;
/// The most characters in the name of a user.
pub const USER_NAME_CHARS_MAX: usize = 100;
/// The most keys a user may have.
pub const KEYS_PER_USER_MAX: usize = 64;
/// The most characters of an issuer.
pub const ISSUER_CHARS_MAX: usize = 512;
/// The most characters of a subject.
pub const SUBJECT_CHARS_MAX: usize = 255;

/// The longest that a browser's session may last, unless the operator says otherwise: a working day and more.
pub const BROWSER_SESSION_LIFE_DEFAULT: Duration = Duration::from_secs(12 * 60 * 60);
/// The sessions of browsers that are kept of a user, those that are over included. One more takes the place of the oldest, unless
/// that is younger than an hour: so it is also how often a user may sign in within an hour.
pub const BROWSER_SESSIONS_PER_USER_MAX: usize = 16;

/// The path of a browser's session.
#[must_use]
pub fn browser_session_path(id: BrowserSessionId) -> String {
    format!("/api/v1/browser-sessions/{id}")
}

/// The path of a key.
#[must_use]
pub fn key_path(id: KeyId) -> String {
    format!("/api/v1/keys/{id}")
}

/// The path of a user.
#[must_use]
pub fn user_path(id: UserId) -> String {
    format!("/api/v1/users/{id}")
}

/// The body of `POST /api/v1/keys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// What its owner calls it.
    pub name: String,
    /// What it may be used for; without it, what the credential that makes it may, but for operators' work.
    pub scopes: Option<Scopes>,
    /// When it ends; without it, when the credential that makes it does if that is a key, else never.
    pub expires: Option<Timestamp>,
}

/// The body of `POST /api/v1/browser-sessions`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewBrowserSession {
    /// What it may be used for; without it, what the credential that begins it may.
    pub scopes: Option<Scopes>,
    /// When it ends; without it, as late as the operator lets it ([`BROWSER_SESSION_LIFE_DEFAULT`]), or with that credential.
    pub expires: Option<Timestamp>,
}

/// The body of `PATCH /api/v1/keys/{id}` (RFC 7396).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyEdit {
    /// Another name.
    pub name: Option<String>,
    /// Other scopes.
    pub scopes: Option<Scopes>,
    /// Another end, or none.
    pub expires: Option<Option<Timestamp>>,
}

/// Which user an identity provider means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The provider, as its tokens name it.
    pub issuer: String,
    /// The user, as the provider names them.
    pub subject: String,
}

/// The body of `POST /api/v1/users`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewUser {
    /// Unique, upper and lower case being the same.
    pub name: String,
    /// Unique as well.
    pub email: String,
    /// IANA name; UTC when not given.
    pub time_zone: Option<String>,
    /// `user` when not given.
    pub role: Role,
    /// Whose tokens are this user's.
    pub identity: Option<Identity>,
}

/// The body of `PATCH /api/v1/users/{id}` (RFC 7396).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserEdit {
    /// Another address.
    pub email: Option<String>,
    /// Another zone.
    pub time_zone: Option<String>,
    /// Another role.
    pub role: Option<Role>,
    /// Whether the user is served.
    pub disabled: Option<bool>,
    /// Tokens issued before this are refused; `null` accepts all.
    pub tokens_since: Option<Option<Timestamp>>,
    /// One more identity whose tokens are this user's.
    pub identity: Option<Identity>,
}

/// A key as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    /// Its public name.
    pub id: KeyId,
    /// What its owner calls it.
    pub name: String,
    /// How its text begins.
    pub prefix: String,
    /// What it may be used for.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends.
    pub expires: Option<Timestamp>,
    /// When it was last used.
    pub last_used: Option<Timestamp>,
    /// Its text: only in the answer to the request that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// A list of keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyListView {
    /// All of them, the oldest first.
    pub keys: Vec<KeyView>,
}

/// A browser's session as its user sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrowserSessionView {
    /// Which.
    pub id: BrowserSessionId,
    /// The API key it was begun with; nothing where that was a token.
    pub key: Option<KeyId>,
    /// What it may be used for, as far as its key may be.
    pub scopes: Vec<String>,
    /// When it was begun.
    pub created: Timestamp,
    /// When it ends at the latest.
    pub expires: Timestamp,
    /// When it was signed out.
    pub ended: Option<Timestamp>,
}

/// A list of sessions of browsers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrowserSessionListView {
    /// All that are kept, the newest first.
    pub sessions: Vec<BrowserSessionView>,
}

/// The session a request was made in, and in whose name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurrentSessionView {
    /// The session.
    pub session: BrowserSessionView,
    /// Its user.
    pub user: UserView,
}

/// A user as operators, and the user, see them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserView {
    /// The user.
    pub id: UserId,
    /// Unique name.
    pub name: String,
    /// Mail address.
    pub email: String,
    /// IANA name.
    pub time_zone: String,
    /// `user`, `operator` or `auditor`.
    pub role: String,
    /// Whether the user is not served.
    pub disabled: bool,
    /// When the user was made.
    pub created: Timestamp,
    /// When the user was last here, within a quarter of an hour.
    pub last_active: Option<Timestamp>,
    /// Tokens issued before this are refused.
    pub tokens_since: Option<Timestamp>,
}

/// A page of users.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserListView {
    /// The users of this page.
    pub users: Vec<UserView>,
    /// Where the next page begins; nothing at the end.
    pub next: Option<String>,
}

/// A wish to erase a user: their name, so that nobody is erased by a slip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erasure {
    /// The user's name, upper and lower case being the same.
    pub name: String,
}

/// What was erased of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasedView {
    /// The user there was.
    pub user: UserId,
    /// When it was asked for.
    pub begun: Timestamp,
    /// How many records of which kinds.
    pub removed: BTreeMap<String, u64>,
    /// Connected accounts that Google took back before.
    pub revoked: u32,
    /// Connected accounts of which Google could not be told.
    pub unrevoked: u32,
}

/// Takes members out of an object, noting what is wrong with each.
struct Members {
    fields: Map<String, Value>,
    errors: Vec<(String, String)>,
}

impl Members {
    fn of(body: &[u8]) -> Result<Self, Problem> {
        Ok(Self { fields: object_of(body)?, errors: Vec::new() })
    }

    fn wrong(&mut self, name: &str, detail: impl Into<String>) {
        self.errors.push((pointer(name), detail.into()));
    }

    /// A member that is there and fits; `null` counts as not there.
    fn take<T>(&mut self, name: &str, allowed: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        let value = self.fields.remove(name).filter(|value| !value.is_null())?;
        let fits = read(&value);
        if fits.is_none() {
            self.wrong(name, allowed);
        }
        fits
    }

    /// As [`Self::take`], but `null` says something.
    fn take_or_null<T>(
        &mut self,
        name: &str,
        allowed: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<Option<T>> {
        match self.fields.get(name) {
            None => None,
            Some(Value::Null) => {
                self.fields.remove(name);
                Some(None)
            }
            Some(_) => self.take(name, allowed, read).map(Some),
        }
    }

    fn text(&mut self, name: &str, chars_max: usize) -> Option<String> {
        let allowed = format!("must be a text of 1 to {chars_max} characters, without control characters");
        self.take(name, &allowed, |value| {
            let text = value.as_str()?.trim();
            let fits = (1..=chars_max).contains(&text.chars().count()) && !text.chars().any(char::is_control);
            fits.then(|| text.to_owned())
        })
    }

    fn email(&mut self) -> Option<String> {
        self.take("email", "must be an e-mail address such as anna@example.com", |value| {
            let text = value.as_str()?.trim();
            text.parse::<EmailAddress>().ok().map(|_| text.to_owned())
        })
    }

    fn time_zone(&mut self) -> Option<String> {
        let allowed = "must be the name of an IANA time zone, such as `Europe/Berlin`";
        self.take("time_zone", allowed, |value| {
            value.as_str().filter(|name| is_zone_name(name)).map(str::to_owned)
        })
    }

    fn role(&mut self) -> Option<Role> {
        self.take("role", "must be `user`, `operator` or `auditor`", |value| Role::from_name(value.as_str()?))
    }

    fn scopes(&mut self) -> Option<Scopes> {
        let names: Vec<&str> =
            crate::access::Scope::ALL.into_iter().map(crate::access::Scope::name).collect();
        let allowed = format!("must be a list of at least one of {}", names.join(", "));
        self.take("scopes", &allowed, |value| {
            let names: Option<Vec<&str>> = value.as_array()?.iter().map(Value::as_str).collect();
            Scopes::from_names(names?).ok()
        })
    }

    fn identity(&mut self) -> Option<Identity> {
        let allowed = "must be an object with `issuer` and `subject`, both texts that are not empty";
        self.take("identity", allowed, |value| {
            let members = value.as_object().filter(|members| members.len() == 2)?;
            let text = |name: &str, chars_max: usize| {
                let text = members.get(name)?.as_str()?;
                (1..=chars_max).contains(&text.chars().count()).then(|| text.to_owned())
            };
            let issuer = text("issuer", ISSUER_CHARS_MAX)?;
            Some(Identity { issuer, subject: text("subject", SUBJECT_CHARS_MAX)? })
        })
    }

    fn required<T: Default>(&mut self, name: &str, found: Option<T>) -> T {
        let pointer = pointer(name);
        if found.is_none() && !self.errors.iter().any(|(known, _)| *known == pointer) {
            self.wrong(name, "is missing");
        }
        found.unwrap_or_default()
    }

    fn end<T>(mut self, read: T) -> Result<T, Problem> {
        let unknown: Vec<String> = self.fields.keys().cloned().collect();
        for name in unknown {
            self.wrong(&name, "there is no such field");
        }
        if self.errors.is_empty() { Ok(read) } else { Err(fields_problem(self.errors)) }
    }
}

const TIME: &str = "must be a time with its offset, such as `2027-01-31T00:00:00Z`";

fn time(value: &Value) -> Option<Timestamp> {
    // Before 1970 nothing of ours happened.
    value.as_str()?.parse::<Timestamp>().ok().filter(|time| time.as_millisecond() > 0)
}

impl NewKey {
    /// Reads and checks a body.
    ///
    /// # Errors
    /// `invalid-json` or `invalid-field`, with an entry for each field that is wrong.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let mut members = Members::of(body)?;
        let name = members.text("name", KEY_NAME_CHARS_MAX);
        let name = members.required("name", name);
        let (scopes, expires) = (members.scopes(), members.take("expires", TIME, time));
        members.end(Self { name, scopes, expires })
    }
}

impl NewBrowserSession {
    /// Reads and checks a body.
    ///
    /// # Errors
    /// As [`NewKey::parse`].
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let mut members = Members::of(body)?;
        let (scopes, expires) = (members.scopes(), members.take("expires", TIME, time));
        members.end(Self { scopes, expires })
    }
}

impl KeyEdit {
    /// Reads and checks a body.
    ///
    /// # Errors
    /// As [`NewKey::parse`].
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let mut members = Members::of(body)?;
        let edit = Self {
            name: members.text("name", KEY_NAME_CHARS_MAX),
            scopes: members.scopes(),
            expires: members.take_or_null("expires", TIME, time),
        };
        members.end(edit)
    }
}

impl NewUser {
    /// Reads and checks a body.
    ///
    /// # Errors
    /// As [`NewKey::parse`].
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let mut members = Members::of(body)?;
        let (name, email) = (members.text("name", USER_NAME_CHARS_MAX), members.email());
        let user = Self {
            name: members.required("name", name),
            email: members.required("email", email),
            time_zone: members.time_zone(),
            role: members.role().unwrap_or_default(),
            identity: members.identity(),
        };
        members.end(user)
    }
}

impl Erasure {
    /// Reads and checks a body.
    ///
    /// # Errors
    /// As [`NewKey::parse`].
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let mut members = Members::of(body)?;
        let name = members.text("name", USER_NAME_CHARS_MAX);
        let name = members.required("name", name);
        members.end(Self { name })
    }
}

impl UserEdit {
    /// Reads and checks a body.
    ///
    /// # Errors
    /// As [`NewKey::parse`].
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let mut members = Members::of(body)?;
        let edit = Self {
            email: members.email(),
            time_zone: members.time_zone(),
            role: members.role(),
            disabled: members.take("disabled", "must be true or false", Value::as_bool),
            tokens_since: members.take_or_null("tokens_since", TIME, time),
            identity: members.identity(),
        };
        members.end(edit)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::problem::ProblemKind;

    fn pointers<T: std::fmt::Debug>(read: Result<T, Problem>) -> Vec<String> {
        read.expect_err("a problem").errors().iter().map(|error| error.pointer.clone()).collect()
    }

    #[test]
    fn a_key_is_read_with_everything_and_with_its_name_alone() {
        let parse = |body: Value| NewKey::parse(body.to_string().as_bytes());
        let key = parse(
            json!({"name": " ci ", "scopes": ["mail", "drive:read"], "expires": "2027-01-01T00:00:00+01:00"}),
        );
        let key = key.unwrap();
        assert_eq!((key.name.as_str(), key.scopes.unwrap().to_string().as_str()), ("ci", "mail drive:read"));
        assert_eq!(key.expires.unwrap().to_string(), "2026-12-31T23:00:00Z");
        assert_eq!(parse(json!({"name": "x"})).unwrap().scopes, None);
        let wrong = json!({"name": "a\nb", "scopes": [], "expires": "tomorrow", "extra": 1});
        assert_eq!(pointers(parse(wrong)), ["/expires", "/extra", "/name", "/scopes"]);
        assert_eq!(pointers(parse(json!({}))), ["/name"]);
        assert_eq!(NewKey::parse(b"[]").unwrap_err().kind(), ProblemKind::InvalidField);
    }

    #[test]
    fn an_edit_tells_null_from_nothing() {
        let parse = |body: Value| KeyEdit::parse(body.to_string().as_bytes()).unwrap();
        assert_eq!(parse(json!({})), KeyEdit::default());
        assert_eq!(parse(json!({"expires": null})).expires, Some(None));
        let user =
            UserEdit::parse(br#"{"disabled": true, "role": "auditor", "tokens_since": null}"#).unwrap();
        assert_eq!(
            (user.disabled, user.role, user.tokens_since),
            (Some(true), Some(Role::Auditor), Some(None))
        );
        assert_eq!(
            pointers(UserEdit::parse(br#"{"disabled": 1, "role": "root", "name": "x"}"#)),
            ["/disabled", "/name", "/role"]
        );
    }

    #[test]
    fn a_user_needs_a_name_and_an_address() {
        let parse = |body: Value| NewUser::parse(body.to_string().as_bytes());
        let user = json!({"name": "anna", "email": "anna@example.com", "identity": {"issuer": "https://id", "subject": "7"}});
        assert_eq!(parse(user).unwrap().identity.unwrap().subject, "7");
        assert_eq!(pointers(parse(json!({"email": "anna"}))), ["/email", "/name"]);
        assert_eq!(
            pointers(parse(json!({"name": "a", "email": "a@example.com", "identity": {"issuer": "x"}}))),
            ["/identity"]
        );
    }

    proptest! {
        #[test]
        fn no_body_breaks_a_reader(body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = (NewKey::parse(&body), KeyEdit::parse(&body), NewUser::parse(&body), UserEdit::parse(&body));
        }

        #[test]
        fn what_is_read_is_within_its_bounds(name in ".{0,120}", scope in "[a-z:]{0,12}", expires in ".{0,30}") {
            let body = json!({"name": name, "scopes": [scope], "expires": expires}).to_string();
            if let Ok(key) = NewKey::parse(body.as_bytes()) {
                prop_assert!((1..=KEY_NAME_CHARS_MAX).contains(&key.name.chars().count()));
                prop_assert!(key.scopes.is_some() && key.expires.is_some());
            }
        }
    }
}

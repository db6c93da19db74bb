//! Connected accounts: what is asked of them, and how they look.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{fields_problem, object_of, pointer};
use crate::access::Scopes;
use crate::google::consent;
use crate::ids::ConnectionId;
use crate::problem::Problem;

/// The most accounts of one user that are kept, those that were given up included.
pub const CONNECTIONS_PER_USER_MAX: u8 = 8;
/// The most characters of a hint at an account.
pub const LOGIN_HINT_CHARS_MAX: usize = 254;
/// The most characters of the address at which a user goes on.
pub const RETURN_URL_CHARS_MAX: usize = 1_024;

/// The path of a connection.
#[must_use]
pub fn connection_path(id: ConnectionId) -> String {
    format!("/api/v1/connections/{id}")
}

/// The body of `POST /api/v1/connections/google`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// What is wanted of the account; never nothing, unless it is an account that has been connected before.
    pub services: Scopes,
    /// The connection that is made anew or given more; without it, whichever account the user chooses.
    pub connection: Option<ConnectionId>,
    /// The account that is likely meant.
    pub login_hint: String,
    /// Where the user goes on; whether that is allowed is not checked here.
    pub return_url: String,
}

impl ConnectRequest {
    /// Reads and checks a body.
    ///
    /// # Errors
    /// `invalid-json`, or `invalid-field` with one entry for each field that is wrong, unknown ones included.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let mut fields = object_of(body)?;
        let mut errors: Vec<(String, String)> = Vec::new();
        let mut refuse = |pointer: &str, detail: String| errors.push((pointer.to_owned(), detail));
        let connection = match fields.remove("connection") {
            None => None,
            Some(value) => {
                let id = value.as_str().and_then(|text| text.parse::<ConnectionId>().ok());
                if id.is_none() {
                    refuse("/connection", "must be the id of one of your connections".to_owned());
                }
                id
            }
        };
        let services = match fields.remove("services") {
            None if connection.is_some() => Scopes::NONE,
            None => {
                refuse("/services", "is missing".to_owned());
                Scopes::NONE
            }
            Some(value) => services_of(&value).unwrap_or_else(|| {
                let names: Vec<_> = service_names().collect();
                refuse("/services", format!("must be a list of some of {}", names.join(", ")));
                Scopes::NONE
            }),
        };
        let mut text = |name: &str, chars_max: usize| match fields.remove(name) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text))
                if text.chars().count() <= chars_max && !text.chars().any(char::is_control) =>
            {
                text
            }
            Some(_) => {
                refuse(&format!("/{name}"), format!("must be a text of at most {chars_max} characters"));
                String::new()
            }
        };
        let login_hint = text("login_hint", LOGIN_HINT_CHARS_MAX);
        let return_url = text("return_url", RETURN_URL_CHARS_MAX);
        errors.extend(fields.keys().map(|name| (pointer(name), "there is no such field".to_owned())));
        if !errors.is_empty() {
            return Err(fields_problem(errors));
        }
        Ok(Self { services, connection, login_hint, return_url })
    }
}

/// The body of `PATCH /api/v1/connections/{id}`, a merge patch (RFC 7396): the one thing that can be changed is which
/// account is the default one, and that is said of the one that is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionEdit;

impl ConnectionEdit {
    /// Reads and checks a body.
    ///
    /// # Errors
    /// `invalid-json` or `invalid-field`.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let mut fields = object_of(body)?;
        let mut errors = Vec::new();
        if fields.remove("is_default") != Some(Value::Bool(true)) {
            let detail = "must be true: another account becomes the default one by saying so of it";
            errors.push(("/is_default".to_owned(), detail.to_owned()));
        }
        errors.extend(fields.keys().map(|name| (pointer(name), "there is no such field".to_owned())));
        if errors.is_empty() { Ok(Self) } else { Err(fields_problem(errors)) }
    }
}

/// The names that stand in `services`.
pub fn service_names() -> impl Iterator<Item = &'static str> {
    let wantable = consent::wantable();
    crate::access::Scope::ALL
        .into_iter()
        .filter(move |scope| wantable.allows(*scope))
        .map(|scope| scope.name())
}

fn services_of(value: &Value) -> Option<Scopes> {
    let names: Option<Vec<&str>> = value.as_array()?.iter().map(Value::as_str).collect();
    let services = Scopes::from_names(names?).ok()?;
    consent::wantable().contains(services).then_some(services)
}

/// The reply to `POST /api/v1/connections/google`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationView {
    /// Where the user's browser goes: a page of the gateway, which shows for whom it is, and from there to Google.
    pub authorization_url: String,
    /// Until when.
    pub expires: Timestamp,
}

/// How a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionStatus {
    /// It is used.
    Connected,
    /// It is used, and ends soon, for Google gave it for a time.
    Expiring,
    /// Google does not accept it any more; the user must consent again.
    NeedsReauth,
    /// Its user gave it up.
    Revoked,
}

impl ConnectionStatus {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Connected, Self::Expiring, Self::NeedsReauth, Self::Revoked];

    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Expiring => "expiring",
            Self::NeedsReauth => "needs_reauth",
            Self::Revoked => "revoked",
        }
    }
}

/// Why a connection cannot be used. The number stands on disk and never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum ConnectionReason {
    /// Google refused the refresh token: the user took the permission back, changed the password, or did not use it for
    /// half a year; Google does not say which.
    Refused = 1,
    /// The account's organisation wants the user to sign in again.
    Policy = 2,
    /// The time for which it was given is over.
    Expired = 3,
    /// What opens the stored token was destroyed.
    Sealed = 4,
}

impl ConnectionReason {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Refused, Self::Policy, Self::Expired, Self::Sealed];

    /// The number on disk.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The reason of this number; `None` for 0 and for those of newer versions.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.number() == number)
    }

    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Policy => "policy",
            Self::Expired => "expired",
            Self::Sealed => "sealed",
        }
    }
}

/// Whether Google knows that a connection was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationView {
    /// Not yet: it is told again and again until it does.
    Pending,
    /// Yes.
    Done,
    /// It was told for as long as there is sense in it, and never heard. The user can take the permission back there.
    Failed,
}

/// A connection as its user sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionView {
    /// Its name, the same when it is connected anew.
    pub id: ConnectionId,
    /// `google`.
    pub provider: String,
    /// The account, as people know it.
    pub account: String,
    /// Whether it is the account that is used when none is named.
    pub is_default: bool,
    /// How it is.
    pub status: ConnectionStatus,
    /// Why it needs a consent.
    pub reason: Option<ConnectionReason>,
    /// What was granted.
    pub services: Vec<String>,
    /// What was asked for and not granted.
    pub missing: Vec<String>,
    /// When it was first connected.
    pub created: Timestamp,
    /// When it was changed last.
    pub updated: Timestamp,
    /// When Google ends it, where it said so.
    pub expires: Option<Timestamp>,
    /// Where the user consents again, while that is needed.
    pub link: Option<String>,
    /// Of one that was given up: whether Google knows.
    pub revocation: Option<RevocationView>,
}

/// The reply to `GET /api/v1/connections`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionListView {
    /// All of them: there are never many. The default one comes first.
    pub connections: Vec<ConnectionView>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(body: &Value) -> Result<ConnectRequest, Problem> {
        ConnectRequest::parse(body.to_string().as_bytes())
    }

    #[test]
    fn services_are_named_by_scopes_of_ours() {
        let request = parse(&json!({"services": ["mail:read", "calendar"]})).expect("it is good");
        assert_eq!(request.services.to_string(), "mail:read calendar");
        let id = ConnectionId::from_bytes([3; 16]);
        let again = parse(&json!({"connection": id.to_string()})).expect("it is good");
        assert_eq!((again.services, again.connection), (Scopes::NONE, Some(id)));
        let names: Vec<_> = service_names().collect();
        assert_eq!(names, ["mail:read", "mail", "calendar:read", "calendar", "drive:read", "drive"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, at) in [
            (json!({}), "/services"),
            (json!({"services": []}), "/services"),
            (json!({"services": ["admin"]}), "/services"),
            (json!({"services": ["mail", 1]}), "/services"),
            (json!({"services": ["mail"], "connection": "con_1"}), "/connection"),
            (json!({"services": ["mail"], "login_hint": 5}), "/login_hint"),
            (json!({"services": ["mail"], "return_url": "a\nb"}), "/return_url"),
            (json!({"services": ["mail"], "more": 1}), "/more"),
        ] {
            let problem = parse(&body).expect_err("it is wrong");
            assert_eq!(problem.errors()[0].pointer, at, "{body}");
        }
    }

    #[test]
    fn a_patch_says_which_account_is_the_default_one_and_nothing_else() {
        assert_eq!(ConnectionEdit::parse(br#"{"is_default": true}"#), Ok(ConnectionEdit));
        for wrong in ["{}", r#"{"is_default": false}"#, r#"{"is_default": true, "status": "connected"}"#] {
            assert!(ConnectionEdit::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_and_names_lead_back() {
        for reason in ConnectionReason::ALL {
            assert_eq!(ConnectionReason::from_number(reason.number()), Some(reason));
            assert_eq!(serde_json::to_value(reason).expect("serialises"), reason.name());
        }
        assert_eq!(ConnectionReason::from_number(0), None);
        for status in ConnectionStatus::ALL {
            assert_eq!(serde_json::to_value(status).expect("serialises"), status.name());
        }
    }
}

//! What the services share of HTTP: a request taken apart, an answer to be
//! written, Google's error bodies and field masks.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde::Serialize;
use serde_json::{Value, json};

/// A service of the simulator, as named in faults and counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Service {
    OpenAi,
    OAuth,
    Gmail,
    Calendar,
    Drive,
}

impl Service {
    /// The service a path belongs to.
    pub(crate) fn of(path: &str) -> Option<Self> {
        let path = path.strip_prefix("/upload").unwrap_or(path);
        let begins = |prefix: &str| path.starts_with(prefix);
        match path {
            "/token" | "/revoke" | "/tokeninfo" => Some(Self::OAuth),
            _ if begins("/o/oauth2/") || begins("/oauth2/") || begins("/userinfo/") => Some(Self::OAuth),
            _ if begins("/v1/") => Some(Self::OpenAi),
            _ if begins("/gmail/v1/") => Some(Self::Gmail),
            _ if begins("/calendar/v3/") => Some(Self::Calendar),
            _ if begins("/drive/v3/") => Some(Self::Drive),
            _ => None,
        }
    }

    /// Its name in faults, counts and plan files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::OAuth => "oauth",
            Self::Gmail => "gmail",
            Self::Calendar => "calendar",
            Self::Drive => "drive",
        }
    }
}

/// Query or form parameters, decoded, in order.
#[derive(Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    pub(crate) fn parse(encoded: &str) -> Self {
        Self(
            encoded
                .split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    /// Names and values in the order they were sent.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Every value of a parameter that may repeat.
    pub(crate) fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    /// A page size: the default when absent, capped at `max`.
    pub(crate) fn size(&self, name: &str, default: usize, max: usize) -> Result<usize, Reply> {
        match self.get(name) {
            None => Ok(default),
            Some(text) => match text.parse::<usize>() {
                Ok(size) if size >= 1 => Ok(size.min(max)),
                _ => {
                    Err(google_error(400, "invalidParameter", &format!("Invalid value '{text}' for {name}.")))
                }
            },
        }
    }

    /// The offset hidden in `pageToken`.
    pub(crate) fn page_offset(&self) -> Result<usize, Reply> {
        match self.get("pageToken") {
            None | Some("") => Ok(0),
            Some(token) => token
                .strip_prefix("page-")
                .and_then(|offset| offset.parse().ok())
                .ok_or_else(|| google_error(400, "invalidArgument", "Invalid pageToken")),
        }
    }
}

/// The token of the page that starts at `offset`.
pub(crate) fn page_token(offset: usize) -> String {
    format!("page-{offset}")
}

/// One page of `all`, and the token of the next page when there is one.
pub(crate) fn page<T>(all: Vec<T>, offset: usize, size: usize) -> (Vec<T>, Option<String>) {
    let next = (offset.saturating_add(size) < all.len()).then(|| page_token(offset + size));
    (all.into_iter().skip(offset).take(size).collect(), next)
}

/// Percent-decodes one component of a form or query.
pub(crate) fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut ahead = rest.clone();
                match (ahead.next().and_then(hex), ahead.next().and_then(hex)) {
                    (Some(high), Some(low)) => {
                        rest = ahead;
                        high * 16 + low
                    }
                    _ => b'%',
                }
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// A request, received whole.
#[derive(Debug, Default)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Path as sent, without the query.
    pub(crate) path: String,
    pub(crate) query: Params,
    pub(crate) bearer: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Call {
    /// A header as text; empty when it is absent or no text.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// Bytes of a streamed answer, and how long they wait for after those before.
pub(crate) type Piece = (Duration, Bytes);

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) content_type: String,
    pub(crate) body: Bytes,
    /// What follows the body, piece by piece. Empty for an answer that is written at once.
    pub(crate) pieces: Vec<Piece>,
    /// The connection is cut after the last piece instead of the answer being ended.
    pub(crate) cut: bool,
}

impl Reply {
    pub(crate) fn json(status: u16, value: &impl Serialize) -> Self {
        let body = serde_json::to_vec(value).unwrap_or_default();
        Self {
            content_type: "application/json; charset=UTF-8".to_owned(),
            body: body.into(),
            ..Self::empty(status)
        }
    }

    pub(crate) fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            content_type: String::new(),
            body: Bytes::new(),
            pieces: Vec::new(),
            cut: false,
        }
    }

    pub(crate) fn bytes(content_type: &str, body: impl Into<Bytes>) -> Self {
        Self { content_type: content_type.to_owned(), body: body.into(), ..Self::empty(200) }
    }

    /// Server-sent events, written at their pace.
    pub(crate) fn stream(pieces: Vec<Piece>) -> Self {
        Self { content_type: "text/event-stream; charset=utf-8".to_owned(), pieces, ..Self::empty(200) }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn retry_after(self, after: Option<Duration>) -> Self {
        match after {
            None => self,
            Some(after) => self.with("retry-after", after.as_secs().to_string()),
        }
    }
}

/// An error as Google's APIs write it.
pub(crate) fn google_error(code: u16, reason: &str, message: &str) -> Reply {
    google_error_at(code, reason, message, None)
}

/// The same, pointing at the parameter that caused it.
pub(crate) fn google_error_at(code: u16, reason: &str, message: &str, parameter: Option<&str>) -> Reply {
    let mut detail = json!({"message": message, "domain": "global", "reason": reason});
    if let Some(parameter) = parameter {
        detail["locationType"] = "parameter".into();
        detail["location"] = parameter.into();
    }
    let status = match code {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        409 => "ALREADY_EXISTS",
        416 => "OUT_OF_RANGE",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        500..=599 => "INTERNAL",
        _ => "FAILED_PRECONDITION",
    };
    Reply::json(
        code,
        &json!({"error": {"code": code, "message": message, "errors": [detail], "status": status}}),
    )
}

/// An error as OpenAI's API writes it.
pub(crate) fn openai_error(
    status: u16,
    kind: &str,
    code: Option<&str>,
    param: Option<&str>,
    message: &str,
) -> Reply {
    Reply::json(status, &json!({"error": {"message": message, "type": kind, "param": param, "code": code}}))
}

/// A `fields` mask such as `nextPageToken,files(id,name)` or `files/id`.
/// An empty mask keeps everything below it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Mask(BTreeMap<String, Self>);

/// Nesting beyond this is refused, so that a mask cannot exhaust the stack.
const MASK_DEPTH_MAX: usize = 8;

impl Mask {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut chars = text.chars().filter(|c| !c.is_whitespace()).peekable();
        let mask = Self::list(&mut chars, 0)?;
        chars.next().is_none().then_some(mask)
    }

    fn list(chars: &mut std::iter::Peekable<impl Iterator<Item = char>>, depth: usize) -> Option<Self> {
        let mut mask = Self::default();
        loop {
            let (name, below) = Self::one(chars, depth)?;
            mask.0.insert(name, below);
            if chars.next_if_eq(&',').is_none() {
                return Some(mask);
            }
        }
    }

    fn one(
        chars: &mut std::iter::Peekable<impl Iterator<Item = char>>,
        depth: usize,
    ) -> Option<(String, Self)> {
        let mut name = String::new();
        while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || matches!(c, '*' | '_')) {
            name.push(c);
        }
        if name.is_empty() || depth >= MASK_DEPTH_MAX {
            return None;
        }
        let below = if chars.next_if_eq(&'(').is_some() {
            let list = Self::list(chars, depth + 1)?;
            chars.next_if_eq(&')')?;
            list
        } else if chars.next_if_eq(&'/').is_some() {
            let (inner, below) = Self::one(chars, depth + 1)?;
            Self(BTreeMap::from([(inner, below)]))
        } else {
            Self::default()
        };
        Some((name, below))
    }

    /// The names asked for, and the masks below them.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.0.iter().map(|(name, mask)| (name.as_str(), mask))
    }

    /// What of `value` the mask lets through.
    pub(crate) fn apply(&self, value: Value) -> Value {
        if self.0.is_empty() || self.0.contains_key("*") {
            return value;
        }
        match value {
            Value::Object(map) => Value::Object(
                map.into_iter()
                    .filter_map(|(name, value)| self.0.get(&name).map(|mask| (name, mask.apply(value))))
                    .collect(),
            ),
            Value::Array(list) => list.into_iter().map(|value| self.apply(value)).collect(),
            other => other,
        }
    }
}

pub(crate) fn invalid_fields(text: &str) -> Reply {
    google_error_at(400, "invalidParameter", &format!("Invalid field selection {text}"), Some("fields"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_may_repeat() {
        let params = Params::parse("q=from%3Aanna+budget&a=1&a=2&bad=%zz&empty");
        assert_eq!(params.get("q"), Some("from:anna budget"));
        assert_eq!(params.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(params.get("bad"), Some("%zz"));
        assert_eq!(params.get("empty"), Some(""));
        assert_eq!(params.get("none"), None);
    }

    #[test]
    fn a_mask_keeps_what_it_names() {
        let value = json!({"files": [{"id": 1, "name": "a", "size": 2}], "kind": "k", "nextPageToken": "t"});
        let mask = Mask::parse("nextPageToken, files(id,name)").unwrap();
        assert_eq!(
            mask.apply(value.clone()),
            json!({"files": [{"id": 1, "name": "a"}], "nextPageToken": "t"})
        );
        assert_eq!(Mask::parse("files/id").unwrap().apply(value.clone()), json!({"files": [{"id": 1}]}));
        assert_eq!(Mask::parse("*").unwrap().apply(value.clone()), value);
        assert!(["", "a(", "a(b", "a,,b", "a)"].iter().all(|text| Mask::parse(text).is_none()));
    }

    #[test]
    fn a_page_names_the_next_until_there_is_none() {
        assert_eq!(page(vec![1, 2, 3], 0, 2), (vec![1, 2], Some("page-2".to_owned())));
        assert_eq!(page(vec![1, 2, 3], 2, 2), (vec![3], None));
        assert_eq!(page(vec![1, 2, 3], 9, 2), (vec![], None));
        assert!(Params::parse("pageToken=bogus").page_offset().is_err());
    }
}

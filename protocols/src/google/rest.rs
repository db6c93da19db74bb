//! The plain REST surface over mail, calendar and files, as data: which routes there are, what each takes, and which
//! call to Google each becomes.
//!
//! Answers are Google's own documents, so that what callers know of Google's APIs holds here; field selection
//! (`fields`) and pagination (`page_token`) are Google's, too.
//!
//! Invariants:
//! - Only what stands in [`ENDPOINTS`] reaches Google: no parameter passes that is not named there, and every text from
//!   outside is percent-encoded into its place.
//! - An endpoint that is a [`Effect::Read`] changes nothing at Google.

use bytes::Bytes;

use super::{ApiCall, PathAndQuery, Segment};
use crate::http::Method;
use crate::http::query::decoded;
use crate::ids::ConnectionId;
use crate::plan::Service;
use crate::problem::{Problem, ProblemKind};

/// The longest text of a parameter, in bytes after decoding.
pub const PARAMETER_BYTES_MAX: usize = 2_048;
/// The longest id in a path, in bytes after decoding. Gmail's have 16 characters, Calendar's up to 1,024.
pub const ID_BYTES_MAX: usize = 1_024;
/// The most ids a path may have.
pub const IDS_MAX: usize = 2;

/// What a parameter may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text of at most [`PARAMETER_BYTES_MAX`] bytes.
    Text,
    /// A whole number within these bounds.
    Integer {
        /// The least.
        min: u32,
        /// The greatest.
        max: u32,
    },
    /// `true` or `false`.
    Boolean,
    /// A time with its offset (RFC 3339).
    Time,
    /// One of these texts.
    OneOf(&'static [&'static str]),
}

/// A parameter of the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// As our callers write it.
    pub name: &'static str,
    /// As Google calls it; empty when it fills a place in the path instead.
    pub upstream: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// Whether the request is refused without it.
    pub is_required: bool,
}

/// What a request carries behind its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing.
    None,
    /// A JSON object, which goes to Google as it is.
    Json,
    /// A mail to be written: see [`super::compose::MailDraft`].
    Mail(MailAct),
    /// Nothing: the draft that the path names is sent.
    SentDraft,
    /// Bytes of any kind, with their media type; they may come in pieces.
    Bytes,
}

/// What becomes of a mail that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailAct {
    /// It is sent.
    Send,
    /// It is sent as the answer to another.
    Reply,
    /// It is sent with another in it.
    Forward,
    /// It stays a draft.
    Draft,
}

impl Body {
    const SEND: Self = Self::Mail(MailAct::Send);
    const REPLY: Self = Self::Mail(MailAct::Reply);
    const FORWARD: Self = Self::Mail(MailAct::Forward);
    const DRAFT: Self = Self::Mail(MailAct::Draft);

    /// Whether a request has one.
    #[must_use]
    pub const fn is_some(self) -> bool {
        !matches!(self, Self::None | Self::SentDraft)
    }
}

/// What a call changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Read,
    /// A state that is set: to do it twice is to do it once.
    Set,
    /// Something that a repeat would do again, and that leaves nothing to tell it by. It is sent at most once.
    Once,
    /// The same, by way of a draft, which is sent once by Gmail.
    Mail,
    /// The same, under an id that we may choose.
    Event,
    /// The same, under an id that Google gives out before.
    File,
    /// The same, under a name that there is once.
    Label,
    /// The same, for somebody who has one of the kind.
    Permission,
}

impl Effect {
    /// Whether a repeat would do it again.
    #[must_use]
    pub const fn is_once(self) -> bool {
        !matches!(self, Self::Read | Self::Set)
    }

    /// Whether a repeat can tell what became of the first.
    #[must_use]
    pub const fn leaves_trace(self) -> bool {
        !matches!(self, Self::Once)
    }
}

/// What the answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A JSON document of Google's.
    Json,
    /// The bytes of a file.
    Bytes,
    /// Nothing (204).
    Empty,
}

/// One route of the surface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Stable name, for metrics and as OpenAPI's `operationId`.
    pub name: &'static str,
    /// Our method.
    pub method: Method,
    /// Our path, with `{id}` for what the caller fills in.
    pub path: &'static str,
    /// The service.
    pub service: Service,
    /// Google's method.
    pub upstream_method: &'static str,
    /// Google's path, with the same names in braces, and what is always asked for behind `?`.
    pub upstream: &'static str,
    /// The parameters it takes.
    pub parameters: &'static [Parameter],
    /// What it carries.
    pub body: Body,
    /// What it changes.
    pub effect: Effect,
    /// What it answers.
    pub answer: Answer,
    /// One line for people.
    pub summary: &'static str,
}

const fn text(name: &'static str, upstream: &'static str) -> Parameter {
    Parameter { name, upstream, kind: Kind::Text, is_required: false }
}

const fn needed(name: &'static str, upstream: &'static str) -> Parameter {
    Parameter { name, upstream, kind: Kind::Text, is_required: true }
}

const fn integer(name: &'static str, upstream: &'static str, min: u32, max: u32) -> Parameter {
    Parameter { name, upstream, kind: Kind::Integer { min, max }, is_required: false }
}

const fn boolean(name: &'static str, upstream: &'static str) -> Parameter {
    Parameter { name, upstream, kind: Kind::Boolean, is_required: false }
}

const fn time(name: &'static str, upstream: &'static str) -> Parameter {
    Parameter { name, upstream, kind: Kind::Time, is_required: false }
}

const fn one_of(name: &'static str, upstream: &'static str, of: &'static [&'static str]) -> Parameter {
    Parameter { name, upstream, kind: Kind::OneOf(of), is_required: false }
}

const FIELDS: Parameter = text("fields", "fields");
const PAGE: Parameter = text("page_token", "pageToken");
/// Fills `{calendar}` of the path; the user's own calendar when it is not given.
const CALENDAR: Parameter = text("calendar", "");
const SEND_UPDATES: Parameter = one_of("send_updates", "sendUpdates", &["all", "externalOnly", "none"]);

macro_rules! endpoints {
    ($($name:literal, $method:ident $path:literal => $service:ident $upstream_method:literal $upstream:literal,
       [$($parameter:expr),*], $body:ident, $effect:ident, $answer:ident, $summary:literal;)*) => {
        /// Every route of the surface.
        pub const ENDPOINTS: &[Endpoint] = &[$(Endpoint {
            name: $name,
            method: Method::$method,
            path: concat!("/api/v1/", $path),
            service: Service::$service,
            upstream_method: $upstream_method,
            upstream: $upstream,
            parameters: &[$($parameter),*],
            body: Body::$body,
            effect: Effect::$effect,
            answer: Answer::$answer,
            summary: $summary,
        },)*];
    };
}

endpoints! {
    "gmail.messages.list", Get "gmail/messages" => Gmail "GET" "/gmail/v1/users/me/messages",
        [text("q", "q"), text("label", "labelIds"), integer("max_results", "maxResults", 1, 500), PAGE,
         boolean("include_spam_trash", "includeSpamTrash"), FIELDS], None, Read, Json, "Search messages";
    "gmail.messages.get", Get "gmail/messages/{id}" => Gmail "GET" "/gmail/v1/users/me/messages/{id}",
        [one_of("format", "format", &["minimal", "full", "raw", "metadata"]), FIELDS], None, Read, Json, "Read a message";
    "gmail.messages.send", Post "gmail/messages" => Gmail "POST" "/gmail/v1/users/me/drafts/send",
        [], SEND, Mail, Json, "Send a message";
    "gmail.messages.reply", Post "gmail/messages/{id}/reply" => Gmail "POST" "/gmail/v1/users/me/drafts/send",
        [], REPLY, Mail, Json, "Answer a message in its thread";
    "gmail.messages.forward", Post "gmail/messages/{id}/forward" => Gmail "POST" "/gmail/v1/users/me/drafts/send",
        [], FORWARD, Mail, Json, "Forward a message";
    "gmail.messages.labels", Patch "gmail/messages/{id}/labels" => Gmail "POST" "/gmail/v1/users/me/messages/{id}/modify",
        [], Json, Set, Json, "Add and remove labels of a message";
    "gmail.messages.trash", Post "gmail/messages/{id}/trash" => Gmail "POST" "/gmail/v1/users/me/messages/{id}/trash",
        [], None, Set, Json, "Move a message to the trash";
    "gmail.messages.untrash", Post "gmail/messages/{id}/untrash" => Gmail "POST" "/gmail/v1/users/me/messages/{id}/untrash",
        [], None, Set, Json, "Take a message out of the trash";
    "gmail.threads.list", Get "gmail/threads" => Gmail "GET" "/gmail/v1/users/me/threads",
        [text("q", "q"), text("label", "labelIds"), integer("max_results", "maxResults", 1, 500), PAGE, FIELDS],
        None, Read, Json, "Search threads";
    "gmail.threads.get", Get "gmail/threads/{id}" => Gmail "GET" "/gmail/v1/users/me/threads/{id}",
        [one_of("format", "format", &["minimal", "full", "metadata"]), FIELDS], None, Read, Json, "Read a thread";
    "gmail.drafts.list", Get "gmail/drafts" => Gmail "GET" "/gmail/v1/users/me/drafts",
        [text("q", "q"), integer("max_results", "maxResults", 1, 500), PAGE, FIELDS], None, Read, Json, "List drafts";
    "gmail.drafts.create", Post "gmail/drafts" => Gmail "POST" "/gmail/v1/users/me/drafts",
        [], DRAFT, Mail, Json, "Write a draft";
    "gmail.drafts.get", Get "gmail/drafts/{id}" => Gmail "GET" "/gmail/v1/users/me/drafts/{id}",
        [one_of("format", "format", &["minimal", "full", "raw", "metadata"]), FIELDS], None, Read, Json, "Read a draft";
    "gmail.drafts.delete", Delete "gmail/drafts/{id}" => Gmail "DELETE" "/gmail/v1/users/me/drafts/{id}",
        [], None, Set, Empty, "Delete a draft";
    "gmail.drafts.send", Post "gmail/drafts/{id}/send" => Gmail "POST" "/gmail/v1/users/me/drafts/send",
        [], SentDraft, Mail, Json, "Send a draft";
    "gmail.labels.list", Get "gmail/labels" => Gmail "GET" "/gmail/v1/users/me/labels",
        [FIELDS], None, Read, Json, "List labels";
    "gmail.labels.create", Post "gmail/labels" => Gmail "POST" "/gmail/v1/users/me/labels",
        [], Json, Label, Json, "Make a label";
    "gmail.labels.change", Patch "gmail/labels/{id}" => Gmail "PATCH" "/gmail/v1/users/me/labels/{id}",
        [], Json, Set, Json, "Change a label";
    "gmail.labels.delete", Delete "gmail/labels/{id}" => Gmail "DELETE" "/gmail/v1/users/me/labels/{id}",
        [], None, Set, Empty, "Delete a label";

    "calendar.calendars.list", Get "calendar/calendars" => Calendar "GET" "/calendar/v3/users/me/calendarList",
        [integer("max_results", "maxResults", 1, 250), PAGE, FIELDS], None, Read, Json, "List calendars";
    "calendar.events.list", Get "calendar/events" => Calendar "GET" "/calendar/v3/calendars/{calendar}/events",
        [CALENDAR, time("from", "timeMin"), time("to", "timeMax"), text("q", "q"), boolean("single_events", "singleEvents"),
         one_of("order_by", "orderBy", &["startTime", "updated"]), integer("max_results", "maxResults", 1, 2_500),
         PAGE, text("sync_token", "syncToken"), text("time_zone", "timeZone"), FIELDS], None, Read, Json, "List events";
    "calendar.events.get", Get "calendar/events/{id}" => Calendar "GET" "/calendar/v3/calendars/{calendar}/events/{id}",
        [CALENDAR, text("time_zone", "timeZone"), FIELDS], None, Read, Json, "Read an event";
    "calendar.events.create", Post "calendar/events" => Calendar "POST" "/calendar/v3/calendars/{calendar}/events",
        [CALENDAR, SEND_UPDATES], Json, Event, Json, "Make an event";
    "calendar.events.change", Patch "calendar/events/{id}" => Calendar "PATCH" "/calendar/v3/calendars/{calendar}/events/{id}",
        [CALENDAR, SEND_UPDATES], Json, Set, Json, "Change an event";
    "calendar.events.delete", Delete "calendar/events/{id}" => Calendar "DELETE" "/calendar/v3/calendars/{calendar}/events/{id}",
        [CALENDAR, SEND_UPDATES], None, Set, Empty, "Delete an event";
    "calendar.quick-add", Post "calendar/quick-add" => Calendar "POST" "/calendar/v3/calendars/{calendar}/events/quickAdd",
        [CALENDAR, needed("text", "text"), SEND_UPDATES], None, Once, Json, "Make an event of a sentence";
    "calendar.free-busy", Post "calendar/free-busy" => Calendar "POST" "/calendar/v3/freeBusy",
        [], Json, Read, Json, "Tell when calendars are taken";

    "drive.files.list", Get "drive/files" => Drive "GET" "/drive/v3/files?supportsAllDrives=true",
        [text("q", "q"), integer("page_size", "pageSize", 1, 1_000), PAGE, text("order_by", "orderBy"), FIELDS,
         boolean("shared_drives", "includeItemsFromAllDrives"), one_of("corpora", "corpora", &["user", "drive", "domain", "allDrives"]),
         text("drive", "driveId")],
        None, Read, Json, "Search files";
    "drive.files.get", Get "drive/files/{id}" => Drive "GET" "/drive/v3/files/{id}?supportsAllDrives=true",
        [FIELDS], None, Read, Json, "Read what is known of a file";
    "drive.files.content", Get "drive/files/{id}/content" => Drive "GET" "/drive/v3/files/{id}?alt=media&supportsAllDrives=true",
        [], None, Read, Bytes, "Read a file";
    "drive.files.export", Get "drive/files/{id}/export" => Drive "GET" "/drive/v3/files/{id}/export",
        [needed("mime_type", "mimeType")], None, Read, Bytes, "Read a Google document in another format";
    "drive.files.create", Post "drive/files" => Drive "POST" "/drive/v3/files?supportsAllDrives=true",
        [FIELDS], Json, File, Json, "Make a file or a folder without content";
    "drive.uploads.create", Post "drive/uploads" => Drive "POST" "/upload/drive/v3/files?uploadType=resumable&supportsAllDrives=true",
        [needed("name", ""), text("parent", ""), text("description", ""), FIELDS], Bytes, File, Json,
        "Make a file with content of any length";
    "drive.files.upload", Put "drive/files/{id}/content"
        => Drive "PATCH" "/upload/drive/v3/files/{id}?uploadType=resumable&supportsAllDrives=true",
        [FIELDS], Bytes, Set, Json, "Write the content of a file";
    "drive.files.change", Patch "drive/files/{id}" => Drive "PATCH" "/drive/v3/files/{id}?supportsAllDrives=true",
        [text("add_parents", "addParents"), text("remove_parents", "removeParents"), FIELDS], Json, Set, Json,
        "Rename or move a file, or put it into the trash";
    "drive.permissions.list", Get "drive/files/{id}/permissions"
        => Drive "GET" "/drive/v3/files/{id}/permissions?supportsAllDrives=true",
        [PAGE, FIELDS], None, Read, Json, "Tell with whom a file is shared";
    "drive.permissions.create", Post "drive/files/{id}/permissions"
        => Drive "POST" "/drive/v3/files/{id}/permissions?supportsAllDrives=true",
        [boolean("notify", "sendNotificationEmail")], Json, Permission, Json, "Share a file";
    "drive.permissions.delete", Delete "drive/files/{id}/permissions/{permission}"
        => Drive "DELETE" "/drive/v3/files/{id}/permissions/{permission}?supportsAllDrives=true", [], None, Set, Empty, "Share a file no longer";
}

/// What a path fills in, decoded, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captures(Vec<(&'static str, String)>);

impl Captures {
    /// What stands in the place of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }
}

fn matches(template: &'static str, path: &str) -> Option<Captures> {
    let mut captures = Captures::default();
    let mut given = path.split('/');
    for wanted in template.split('/') {
        let part = given.next()?;
        match wanted.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
            Some(name) => {
                // No id of Google's has a slash; some servers undo its encoding and read two segments.
                let value = decoded(part, false)
                    .filter(|value| (1..=ID_BYTES_MAX).contains(&value.len()) && !value.contains('/'))?;
                captures.0.push((name, value));
            }
            None if wanted == part => {}
            None => return None,
        }
    }
    given.next().is_none().then_some(captures)
}

/// The token of the next page in a document of Google's, where there is one. Documents without one, which are most,
/// are looked through and not parsed.
#[must_use]
pub fn next_page_token(document: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Page {
        #[serde(rename = "nextPageToken")]
        next: Option<String>,
    }
    // These bytes are a whole name or the end of a text with a quotation mark in it; parsing tells which.
    if !contains(document, b"\"nextPageToken\"") {
        return None;
    }
    serde_json::from_slice::<Page>(document).ok()?.next
}

/// Looks for `needle`, which has less than 256 bytes, passing over as many bytes as the last one seen allows.
fn contains(text: &[u8], needle: &[u8]) -> bool {
    let Some(last) = needle.len().checked_sub(1) else { return true };
    let mut skip = [needle.len(); 256];
    for (at, byte) in needle[..last].iter().enumerate() {
        skip[usize::from(*byte)] = last - at;
    }
    let mut at = last;
    while let Some(byte) = text.get(at) {
        if text[at - last..=at] == *needle {
            return true;
        }
        at += skip[usize::from(*byte)];
    }
    false
}

/// Whether this is one JSON object; nothing is kept of it.
///
/// # Errors
/// What is wrong with it; [`serde_json::Error::is_data`] when it is JSON of another kind.
pub fn check_object(body: &[u8]) -> Result<(), serde_json::Error> {
    struct Object;
    impl<'de> serde::de::Visitor<'de> for Object {
        type Value = ();

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            use serde::de::IgnoredAny;
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(())
        }
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    serde::Deserializer::deserialize_map(&mut json, Object)?;
    json.end()
}

/// The parameter by which any request of the surface says which account it is for.
pub const ACCOUNT: &str = "account";

/// The account that a query names, if it names one; without one the default account is meant.
///
/// # Errors
/// `invalid-field` when it is no id of a connection, or there are two.
pub fn account_of(query: Option<&str>) -> Result<Option<ConnectionId>, Problem> {
    let mut found = None;
    for pair in query.unwrap_or_default().split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // Decoded as all parameters are: one that is only written otherwise would pass unheard, for the default account.
        if decoded(name, true).as_deref() != Some(ACCOUNT) {
            continue;
        }
        let id = decoded(value, true).and_then(|text| text.parse::<ConnectionId>().ok());
        let id = id.ok_or_else(|| wrong(ACCOUNT, "is the id of one of your connections"))?;
        if found.replace(id).is_some() {
            return Err(wrong(ACCOUNT, "given twice"));
        }
    }
    Ok(found)
}

/// The endpoints under a path, one for each method it takes.
pub fn at_path(path: &str) -> impl Iterator<Item = &'static Endpoint> {
    ENDPOINTS.iter().filter(move |endpoint| matches(endpoint.path, path).is_some())
}

impl Endpoint {
    /// What `path` fills in; `None` when it is not this endpoint's.
    #[must_use]
    pub fn captures(&self, path: &str) -> Option<Captures> {
        matches(self.path, path)
    }

    /// The call to Google. `query` is the request's, undecoded.
    ///
    /// # Errors
    /// `invalid-field` that names the parameter: unknown, given twice, missing, or out of its bounds.
    pub fn call(
        &self,
        captures: &Captures,
        query: Option<&str>,
        content_type: Option<&'static str>,
        body: Bytes,
    ) -> Result<ApiCall, Problem> {
        let given = self.parse_query(query.unwrap_or_default())?;
        let (template, fixed) = self.upstream.split_once('?').unwrap_or((self.upstream, ""));
        let mut path = String::with_capacity(128);
        for part in template.split('/').skip(1) {
            path.push('/');
            match part.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                Some(name) => {
                    let filled = given.iter().find(|(parameter, _)| parameter.name == name);
                    let value = captures.get(name).or_else(|| filled.map(|(_, value)| value.as_str()));
                    path.push_str(&Segment(value.unwrap_or("primary")).to_string());
                }
                None => path.push_str(part),
            }
        }
        let mut path = PathAndQuery::new(path);
        for (name, value) in fixed.split('&').filter_map(|pair| pair.split_once('=')) {
            path = path.with(name, value);
        }
        for (parameter, value) in given.iter().filter(|(parameter, _)| !parameter.upstream.is_empty()) {
            path = path.with(parameter.upstream, value);
        }
        Ok(ApiCall {
            service: self.service,
            method: self.upstream_method,
            path: path.finish(),
            content_type,
            body,
            if_match: None,
        })
    }

    /// Whether a change can be bound to what its caller has seen: Google heeds `If-Match` on events alone.
    #[must_use]
    pub fn heeds_if_match(&self) -> bool {
        self.service == Service::Calendar && self.effect == Effect::Set
    }

    /// Why a change cannot be bound to what its caller has seen; none where it can, and none for what only reads. To look before
    /// the change would not bind it: whatever happens in between would be lost all the same.
    #[must_use]
    pub fn why_unconditional(&self) -> Option<&'static str> {
        if self.effect == Effect::Read || self.heeds_if_match() {
            return None;
        }
        Some(match self.service {
            Service::Gmail => "Gmail makes no change on a condition",
            Service::Calendar => "Google Calendar heeds it only where an event is changed or deleted",
            Service::Drive => "Google Drive makes no change on a condition",
        })
    }

    /// Whether it can go on from where an earlier list ended, by a token that Google forgets after some time.
    #[must_use]
    pub fn takes_sync_token(&self) -> bool {
        self.parameters.iter().any(|parameter| parameter.upstream == "syncToken")
    }

    /// The values of parameters that are not Google's own, such as the name of a new file.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn given(&self, query: Option<&str>, name: &str) -> Result<Option<String>, Problem> {
        let given = self.parse_query(query.unwrap_or_default())?;
        Ok(given.into_iter().find(|(parameter, _)| parameter.name == name).map(|(_, value)| value))
    }

    /// Whether it answers page by page.
    #[must_use]
    pub fn is_paged(&self) -> bool {
        self.parameters.iter().any(|parameter| parameter.name == PAGE.name)
    }

    fn parse_query(&self, query: &str) -> Result<Vec<(&'static Parameter, String)>, Problem> {
        let mut given: Vec<(&'static Parameter, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(name) = decoded(name, true) else {
                return Err(wrong("", "the query is not well encoded"));
            };
            if name == ACCOUNT {
                continue;
            }
            let Some(parameter) = self.parameters.iter().find(|parameter| parameter.name == name) else {
                let known: Vec<&str> = self.parameters.iter().map(|parameter| parameter.name).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(wrong(&name, &format!("there is no such parameter here; there are: {known}")));
            };
            if given.iter().any(|(earlier, _)| earlier.name == name) {
                return Err(wrong(&name, "given twice"));
            }
            let value = decoded(value, true).ok_or_else(|| wrong(&name, "not well encoded"))?;
            parameter.kind.check(&value).map_err(|problem| wrong(&name, &problem))?;
            given.push((parameter, value));
        }
        match self
            .parameters
            .iter()
            .find(|one| one.is_required && !given.iter().any(|(had, _)| had.name == one.name))
        {
            Some(missing) => Err(wrong(missing.name, "must be given")),
            None => Ok(given),
        }
    }
}

impl Kind {
    fn check(self, value: &str) -> Result<(), String> {
        if value.len() > PARAMETER_BYTES_MAX {
            return Err(format!("has at most {PARAMETER_BYTES_MAX} bytes"));
        }
        match self {
            Self::Text => Ok(()),
            Self::Integer { min, max } => match value.parse::<u32>() {
                Ok(number) if (min..=max).contains(&number) => Ok(()),
                _ => Err(format!("is a whole number from {min} to {max}")),
            },
            Self::Boolean if matches!(value, "true" | "false") => Ok(()),
            Self::Boolean => Err("is true or false".to_owned()),
            Self::Time => match value.parse::<jiff::Timestamp>() {
                Ok(_) => Ok(()),
                Err(_) => Err("is a time with its offset, such as 2026-11-23T09:00:00Z".to_owned()),
            },
            Self::OneOf(texts) if texts.contains(&value) => Ok(()),
            Self::OneOf(texts) => Err(format!("is one of {}", texts.join(", "))),
        }
    }
}

fn wrong(name: &str, problem: &str) -> Problem {
    // A pointer into the query: there is no body to point into.
    let name: String = name.chars().take(64).collect();
    Problem::new(ProblemKind::InvalidField, "one parameter is not valid")
        .with_error(format!("?{name}"), problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str) -> &'static Endpoint {
        ENDPOINTS.iter().find(|endpoint| endpoint.name == name).unwrap()
    }

    fn call(name: &str, path: &str, query: &str) -> Result<ApiCall, Problem> {
        let endpoint = endpoint(name);
        endpoint.call(&endpoint.captures(path).unwrap(), Some(query), None, Bytes::new())
    }

    #[test]
    fn names_and_places_are_unique_and_every_place_is_filled() {
        for (index, one) in ENDPOINTS.iter().enumerate() {
            for other in &ENDPOINTS[index + 1..] {
                assert_ne!(one.name, other.name);
                assert!(one.method != other.method || one.path != other.path, "{} {}", one.name, other.name);
            }
            let places = |text: &'static str| {
                text.split('/')
                    .filter(|part| part.starts_with('{'))
                    .map(|part| part.split('?').next().unwrap())
            };
            assert!(places(one.path).count() <= IDS_MAX);
            for place in places(one.upstream) {
                let named = place.trim_matches(['{', '}']);
                let is_parameter =
                    one.parameters.iter().any(|had| had.name == named && had.upstream.is_empty());
                assert!(is_parameter || places(one.path).any(|own| own == place), "{}: {place}", one.name);
            }
        }
    }

    #[test]
    fn a_read_is_a_get_but_for_the_one_that_google_made_a_post() {
        for endpoint in ENDPOINTS {
            let is_read = endpoint.effect == Effect::Read;
            assert_eq!(
                is_read,
                endpoint.method == Method::Get || endpoint.name == "calendar.free-busy",
                "{}",
                endpoint.name
            );
        }
    }

    #[test]
    fn only_a_sentence_made_into_an_event_leaves_no_trace() {
        let traceless = ENDPOINTS.iter().filter(|endpoint| !endpoint.effect.leaves_trace());
        assert_eq!(traceless.map(|endpoint| endpoint.name).collect::<Vec<_>>(), ["calendar.quick-add"]);
    }

    #[test]
    fn an_account_is_named_beside_the_parameters_and_google_is_not_told() {
        let id = ConnectionId::from_bytes([7; 16]);
        let query = format!("q=x&account={id}");
        assert_eq!(account_of(Some(&query)), Ok(Some(id)));
        let encoded = format!("%61cc%6Funt={}", id.to_string().replace('_', "%5F"));
        assert_eq!(account_of(Some(&encoded)), Ok(Some(id)));
        assert_eq!(account_of(Some("q=account")), Ok(None));
        assert_eq!(account_of(None), Ok(None));
        for wrong in ["account=", "account=con_1", &format!("account={id}&account={id}")] {
            assert!(account_of(Some(wrong)).is_err(), "{wrong}");
        }
        let told = call("gmail.messages.list", "/api/v1/gmail/messages", &query).unwrap();
        assert!(!told.path.contains("account"), "{}", told.path);
    }

    #[test]
    fn parameters_reach_google_under_their_names_there() {
        let list =
            call("gmail.messages.list", "/api/v1/gmail/messages", "q=from%3Aanna+budget&max_results=5")
                .unwrap();
        assert_eq!(list.path, "/gmail/v1/users/me/messages?q=from%3Aanna%20budget&maxResults=5");
        let events = call("calendar.events.get", "/api/v1/calendar/events/e%401", "calendar=a@b.c").unwrap();
        assert_eq!(events.path, "/calendar/v3/calendars/a%40b.c/events/e%401");
        let own = call("calendar.events.list", "/api/v1/calendar/events", "").unwrap();
        assert_eq!(own.path, "/calendar/v3/calendars/primary/events");
        let content = call("drive.files.content", "/api/v1/drive/files/f1/content", "").unwrap();
        assert_eq!(content.path, "/drive/v3/files/f1?alt=media&supportsAllDrives=true");
        let permission =
            call("drive.permissions.delete", "/api/v1/drive/files/f1/permissions/p1", "").unwrap();
        assert_eq!(
            (permission.method, permission.path.as_str()),
            ("DELETE", "/drive/v3/files/f1/permissions/p1?supportsAllDrives=true")
        );
    }

    #[test]
    fn files_of_shared_drives_are_reached_by_every_route_but_the_export_which_needs_no_leave() {
        for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.service == Service::Drive) {
            let reaches = endpoint.upstream.ends_with("supportsAllDrives=true");
            assert_eq!(reaches, endpoint.name != "drive.files.export", "{}", endpoint.name);
        }
    }

    #[test]
    fn what_is_not_named_or_out_of_bounds_is_refused_by_name() {
        for (query, name) in [
            ("alt=media", "?alt"),
            ("max_results=0", "?max_results"),
            ("max_results=501", "?max_results"),
            ("max_results=-1", "?max_results"),
            ("q=a&q=b", "?q"),
            ("q=%zz", "?q"),
            ("q=%0d%0a", "?q"),
            ("include_spam_trash=yes", "?include_spam_trash"),
        ] {
            let problem = call("gmail.messages.list", "/api/v1/gmail/messages", query).unwrap_err();
            assert_eq!(problem.kind(), ProblemKind::InvalidField, "{query}");
            let json = serde_json::to_value(&problem).unwrap();
            assert_eq!(json["errors"][0]["pointer"], name, "{query}");
        }
        assert!(call("calendar.quick-add", "/api/v1/calendar/quick-add", "").is_err());
        assert!(call("calendar.events.list", "/api/v1/calendar/events", "from=tomorrow").is_err());
    }

    #[test]
    fn the_next_page_is_found_without_parsing_what_has_none() {
        let of = |text: &str| next_page_token(text.as_bytes());
        assert_eq!(of(r#"{"messages": [], "nextPageToken": "a\"b"}"#).as_deref(), Some("a\"b"));
        assert_eq!(of(r#"{"a": "\"nextPageToken\": 1", "b": {"nextPageToken": "x"}}"#), None);
        assert_eq!(of(r#"{"a": "nextPageToken"}"#), None);
        assert_eq!(of(""), None);
        assert!(contains(b"xxab", b"ab") && contains(b"ab", b"ab") && !contains(b"a", b"ab"));
        assert!(contains(b"aabaab", b"baab") && !contains(b"bbbb", b"ab"));
    }

    #[test]
    fn only_objects_are_objects() {
        for good in ["{}", r#" {"a": [1, {"b": null}], "c": "d"} "#] {
            assert!(check_object(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in ["[]", "1", "\"x\""] {
            assert!(check_object(bad.as_bytes()).is_err_and(|error| error.is_data()), "{bad}");
        }
        for bad in ["", "{", "{} {}", r#"{"a": }"#] {
            assert!(check_object(bad.as_bytes()).is_err_and(|error| !error.is_data()), "{bad}");
        }
    }

    #[test]
    fn paths_that_try_to_leave_their_place_do_not() {
        let endpoint = endpoint("gmail.messages.get");
        for path in [
            "/api/v1/gmail/messages/",
            "/api/v1/gmail/messages/a/b",
            "/api/v1/gmail/messages/%ff",
            "/api/v1/gmail/messages/%0a",
        ] {
            assert_eq!(endpoint.captures(path), None, "{path}");
        }
        assert_eq!(endpoint.captures("/api/v1/gmail/messages/..%2F..%2Fprofile"), None);
        let odd = call("gmail.messages.get", "/api/v1/gmail/messages/a%3Fb%23c", "").unwrap();
        assert_eq!(odd.path, "/gmail/v1/users/me/messages/a%3Fb%23c");
        let dots = call("gmail.messages.get", "/api/v1/gmail/messages/..", "").unwrap();
        assert_eq!(dots.path, "/gmail/v1/users/me/messages/_");
        assert!(
            endpoint.captures(&format!("/api/v1/gmail/messages/{}", "x".repeat(ID_BYTES_MAX + 1))).is_none()
        );
    }
}

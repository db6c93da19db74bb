//! Gmail v1: finding, reading, sending and answering messages.
//!
//! Sending is done in two calls, because there is no idempotency key: a draft with a `Message-ID` of our
//! choice, then, once its id is stored, the sending of that draft. When the outcome of the second is unknown,
//! [`get_draft`] tells: 404 means that it was sent. When the outcome of the first is unknown, [`find_draft`]
//! finds the draft by its `Message-ID`.

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD_INDIFFERENT};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::{ApiCall, PathAndQuery, Segment, TEXT_BYTES_MAX, html, text_of};
use crate::plan::{Item, ItemKind, Person, Service, clip};

mod outgoing;

pub use outgoing::{OutgoingMail, ReplyError, message_id};

const USER: &str = "/gmail/v1/users/me";
/// How deep parts within parts are looked into; real mail stays below six.
const PART_DEPTH_MAX: usize = 16;
/// How many parts are looked at in all.
const PARTS_MAX: usize = 200;
/// The headers that [`Format::Metadata`] asks for: what an [`Item`] and an answer need.
const METADATA_HEADERS: [&str; 7] = ["From", "To", "Subject", "Date", "Message-ID", "References", "Reply-To"];

/// How much of a message to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The headers that an item and an answer need.
    Metadata,
    /// All of it, bodies included.
    Full,
}

/// Finds messages, newest first. `query` is Gmail's search syntax; an empty one is left out.
#[must_use]
pub fn list_messages(query: &str, results_max: u8) -> ApiCall {
    let query = Some(query.trim()).filter(|query| !query.is_empty());
    let path =
        PathAndQuery::new(format!("{USER}/messages")).with_some("q", query).with("maxResults", results_max);
    ApiCall::bare(Service::Gmail, "GET", path.finish())
}

/// Gets one message.
#[must_use]
pub fn get_message(id: &str, format: Format) -> ApiCall {
    let path = PathAndQuery::new(format!("{USER}/messages/{}", Segment(id)));
    let path = match format {
        Format::Full => path.with("format", "full"),
        Format::Metadata => METADATA_HEADERS
            .iter()
            .fold(path.with("format", "metadata"), |path, header| path.with("metadataHeaders", header)),
    };
    ApiCall::bare(Service::Gmail, "GET", path.finish())
}

/// Makes a draft of `mail`. Not idempotent: see [`find_draft`].
#[must_use]
pub fn create_draft(mail: &OutgoingMail) -> ApiCall {
    let mut message = json!({"raw": URL_SAFE.encode(mail.to_mime())});
    if let Some(thread) = mail.thread_id() {
        message["threadId"] = json!(thread);
    }
    ApiCall::json(Service::Gmail, "POST", format!("{USER}/drafts"), &json!({"message": message}))
}

/// Sends a draft. The reply is the sent [`Message`]; 404 when it was sent before.
#[must_use]
pub fn send_draft(draft_id: &str) -> ApiCall {
    ApiCall::json(Service::Gmail, "POST", format!("{USER}/drafts/send"), &json!({"id": draft_id}))
}

/// Gets a draft without its content: 404 once it was sent.
#[must_use]
pub fn get_draft(draft_id: &str) -> ApiCall {
    let path = PathAndQuery::new(format!("{USER}/drafts/{}", Segment(draft_id))).with("format", "minimal");
    ApiCall::bare(Service::Gmail, "GET", path.finish())
}

/// Deletes a draft for good. 404 when it was deleted, or sent, before.
#[must_use]
pub fn delete_draft(draft_id: &str) -> ApiCall {
    ApiCall::bare(Service::Gmail, "DELETE", format!("{USER}/drafts/{}", Segment(draft_id)))
}

/// Moves a message to the trash, or takes it out again. To repeat it changes nothing.
#[must_use]
pub fn trash_message(id: &str, trashed: bool) -> ApiCall {
    let verb = if trashed { "trash" } else { "untrash" };
    ApiCall::bare(Service::Gmail, "POST", format!("{USER}/messages/{}/{verb}", Segment(id)))
}

/// Lists the labels there are, Gmail's own among them.
#[must_use]
pub fn list_labels() -> ApiCall {
    ApiCall::bare(Service::Gmail, "GET", format!("{USER}/labels"))
}

/// Makes a label. 409 when there is one of that name.
#[must_use]
pub fn create_label(name: &str) -> ApiCall {
    ApiCall::json(Service::Gmail, "POST", format!("{USER}/labels"), &json!({"name": name}))
}

/// Gets the labels of a message and nothing else of it.
#[must_use]
pub fn get_labels_of(id: &str) -> ApiCall {
    let path = PathAndQuery::new(format!("{USER}/messages/{}", Segment(id)))
        .with("format", "minimal")
        .with("fields", "id,labelIds");
    ApiCall::bare(Service::Gmail, "GET", path.finish())
}

/// Puts labels on a message and takes others off, all by their ids. To repeat it changes nothing.
#[must_use]
pub fn modify_labels(id: &str, add: &[String], remove: &[String]) -> ApiCall {
    let path = format!("{USER}/messages/{}/modify", Segment(id));
    ApiCall::json(Service::Gmail, "POST", path, &json!({"addLabelIds": add, "removeLabelIds": remove}))
}

/// The reply to [`list_labels`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct LabelList {
    /// The labels.
    #[serde(default)]
    pub labels: Vec<Label>,
}

/// A label; the reply to [`create_label`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Label {
    /// Its id.
    pub id: String,
    /// What people call it; of Gmail's own labels, their id.
    #[serde(default)]
    pub name: String,
}

/// Finds the draft with this `Message-ID` (without angle brackets).
#[must_use]
pub fn find_draft(message_id: &str) -> ApiCall {
    let path = PathAndQuery::new(format!("{USER}/drafts"))
        .with("q", by_message_id(message_id))
        .with("maxResults", 1);
    ApiCall::bare(Service::Gmail, "GET", path.finish())
}

/// Finds the message with this `Message-ID` (without angle brackets), such as one that was sent.
#[must_use]
pub fn find_message(message_id: &str) -> ApiCall {
    list_messages(&by_message_id(message_id), 1)
}

fn by_message_id(message_id: &str) -> String {
    format!("rfc822msgid:{message_id}")
}

/// The reply to [`list_messages`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageList {
    /// The messages, newest first; only their ids.
    #[serde(default)]
    pub messages: Vec<MessageRef>,
    /// Where to go on.
    pub next_page_token: Option<String>,
}

/// A message by its id.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageRef {
    /// Its id.
    pub id: String,
    /// The thread it belongs to.
    pub thread_id: Option<String>,
}

/// The reply to [`create_draft`] and [`get_draft`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Draft {
    /// Its id, which is not that of its message.
    pub id: String,
    /// Its message.
    pub message: Option<MessageRef>,
}

/// The reply to [`find_draft`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct DraftList {
    /// The drafts.
    #[serde(default)]
    pub drafts: Vec<Draft>,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// Its id.
    pub id: String,
    /// The thread it belongs to.
    pub thread_id: Option<String>,
    /// `INBOX`, `SENT`, `UNREAD` and the like.
    #[serde(default)]
    pub label_ids: Vec<String>,
    /// Its first words, with HTML entities.
    pub snippet: Option<String>,
    /// When it came, in milliseconds since 1970, as text.
    pub internal_date: Option<String>,
    /// Its headers and bodies.
    pub payload: Option<Part>,
}

/// A MIME part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// Its media type.
    #[serde(default)]
    pub mime_type: String,
    /// Its file name; empty when it is no attachment.
    #[serde(default)]
    pub filename: String,
    /// Its headers.
    #[serde(default)]
    pub headers: Vec<Header>,
    /// Its content.
    pub body: Option<PartBody>,
    /// The parts within it.
    #[serde(default)]
    pub parts: Vec<Self>,
}

/// A header of a message or part.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Header {
    /// Its name, in any case.
    pub name: String,
    /// Its value, decoded.
    pub value: String,
}

/// The content of a part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct PartBody {
    /// The bytes as base64url; none for attachments, which are got by a call of their own.
    pub data: Option<String>,
}

impl Message {
    /// The first header of this name, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let headers = self.payload.as_ref()?.headers.iter();
        headers
            .into_iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value.as_str())
    }

    /// Whether the user sent it.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.label_ids.iter().any(|label| label == "SENT")
    }

    /// Whom it concerns: the sender, or the first recipient when the user is the sender.
    #[must_use]
    pub fn person(&self) -> Option<Person> {
        let header = if self.is_sent() { "To" } else { "From" };
        self.header(header).and_then(Person::from_header)
    }

    /// When it came.
    #[must_use]
    pub fn received(&self) -> Option<Timestamp> {
        let ms = self.internal_date.as_deref()?.parse().ok()?;
        Timestamp::from_millisecond(ms).ok()
    }

    /// What later steps and turns need of it.
    #[must_use]
    pub fn to_item(&self) -> Item {
        Item {
            kind: ItemKind::Message,
            id: self.id.clone(),
            title: self.header("Subject").map(clip).unwrap_or_default(),
            person: self.person(),
            when: self.received().map(|at| at.to_string()),
            thread_id: self.thread_id.clone(),
            message_id_header: self.header("Message-ID").and_then(outgoing::first_message_id),
            snippet: self.snippet.as_deref().map(|snippet| clip(&html::unescape(snippet))),
        }
    }

    /// What it says: its plain text, else the words of its HTML, at most [`TEXT_BYTES_MAX`] bytes. Attached
    /// files are not looked into. `None` when there is no text.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        let payload = self.payload.as_ref()?;
        let plain = payload.find("text/plain", 0, &mut 0).and_then(Part::decoded);
        let words = || {
            let markup = payload.find("text/html", 0, &mut 0).and_then(Part::decoded)?;
            Some(html::to_text(&markup))
        };
        let text = plain.filter(|text| !text.trim().is_empty()).or_else(words)?;
        Some(text.replace("\r\n", "\n")).filter(|text| !text.trim().is_empty())
    }
}

impl Part {
    /// The first inline part of this type with content, depth first.
    fn find(&self, mime_type: &str, depth: usize, seen: &mut usize) -> Option<&Self> {
        *seen += 1;
        if depth > PART_DEPTH_MAX || *seen > PARTS_MAX {
            return None;
        }
        let has_data = self.body.as_ref().is_some_and(|body| body.data.is_some());
        if has_data && self.filename.is_empty() && self.mime_type.eq_ignore_ascii_case(mime_type) {
            return Some(self);
        }
        self.parts.iter().find_map(|part| part.find(mime_type, depth + 1, seen))
    }

    fn decoded(&self) -> Option<String> {
        // Markup is more than the words in it; four characters of base64 carry three bytes.
        const ENCODED_MAX: usize = TEXT_BYTES_MAX * 4 * 4 / 3 / 4 * 4;
        let data = self.body.as_ref()?.data.as_deref()?.as_bytes();
        let bytes = URL_SAFE_NO_PAD_INDIFFERENT.decode(&data[..data.len().min(ENCODED_MAX)]).ok()?;
        if self.mime_type.eq_ignore_ascii_case("text/html") {
            return Some(String::from_utf8_lossy(&bytes).into_owned());
        }
        Some(text_of(&bytes))
    }
}

#[cfg(test)]
mod tests;

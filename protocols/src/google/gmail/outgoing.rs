//! Mail that goes out: RFC 5322 messages with a `Message-ID` of our choice.
//!
//! Invariant: nothing that came from outside (addresses, subjects, the ids of the message that is answered)
//! can end its header line.

use jiff::Timestamp;
use mail_builder::MessageBuilder;
use mail_builder::headers::address::Address;
use mail_builder::headers::message_id::MessageId;

use super::Message;
use crate::ids::TaskId;
use crate::plan::{EmailAddress, Item, ItemKind, Person, StepId, TITLE_CHARS_MAX, clip};

/// The most ids in a `References` header; RFC 5322 section 3.6.4 lets old ones be left out, the first and the
/// last matter most.
const REFERENCES_MAX: usize = 20;
/// The longest id that is repeated: a header line has at most 998 characters (RFC 5322 section 2.1.1).
const MESSAGE_ID_BYTES_MAX: usize = 900;

/// The `Message-ID`, without angle brackets, of the mail that a step of a task sends: always the same one, so
/// that what became of it can be found out after a crash.
#[must_use]
pub fn message_id(task: TaskId, step: StepId) -> String {
    format!("{task}.{step}@sluice.invalid")
}

/// A mail to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingMail {
    message_id: String,
    date: Timestamp,
    to: Vec<EmailAddress>,
    cc: Vec<EmailAddress>,
    bcc: Vec<EmailAddress>,
    subject: String,
    body: String,
    thread_id: Option<String>,
    in_reply_to: Option<String>,
    references: Vec<String>,
}

/// Why a message cannot be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// It names no address that mail could go to; tell the user.
    #[error("the message has no address to reply to")]
    NoAddress,
}

impl OutgoingMail {
    /// A new mail, dated `date`, with the id of this step. The sender is left to Gmail, which knows it.
    #[must_use]
    pub fn new(
        (task, step): (TaskId, StepId),
        date: Timestamp,
        to: Vec<EmailAddress>,
        subject: &str,
        body: impl Into<String>,
    ) -> Self {
        Self {
            message_id: message_id(task, step),
            date,
            to,
            cc: Vec::new(),
            bcc: Vec::new(),
            subject: one_line(subject),
            body: body.into(),
            thread_id: None,
            in_reply_to: None,
            references: Vec::new(),
        }
    }

    /// An answer to `original`, in its thread: to its `Reply-To`, else its sender; to its recipient when the
    /// user sent it.
    ///
    /// # Errors
    /// When none of these is an address.
    pub fn reply(
        id: (TaskId, StepId),
        date: Timestamp,
        original: &Message,
        body: impl Into<String>,
    ) -> Result<Self, ReplyError> {
        let headers: &[&str] = if original.is_sent() { &["To"] } else { &["Reply-To", "From"] };
        let people = headers.iter().filter_map(|name| original.header(name).and_then(Person::from_header));
        let to =
            people.into_iter().find_map(|person| person.address.parse().ok()).ok_or(ReplyError::NoAddress)?;
        let subject = reply_subject(original.header("Subject").unwrap_or_default());
        let mut mail = Self::new(id, date, vec![to], &subject, body);
        mail.thread_id.clone_from(&original.thread_id);
        mail.in_reply_to = original.header("Message-ID").and_then(|value| message_ids(value).next());
        mail.references =
            references(original.header("References").unwrap_or_default(), mail.in_reply_to.as_deref());
        Ok(mail)
    }

    /// `original`, sent on to others: what is said of it, then its own text.
    #[must_use]
    pub fn forward(
        id: (TaskId, StepId),
        date: Timestamp,
        original: &Message,
        to: Vec<EmailAddress>,
        body: &str,
    ) -> Self {
        let mut text = format!("{body}\r\n\r\n---------- Forwarded message ----------\r\n");
        for name in ["From", "Date", "Subject", "To"] {
            if let Some(value) = original.header(name) {
                text.push_str(&format!("{name}: {}\r\n", one_line(value)));
            }
        }
        text.push_str("\r\n");
        text.push_str(original.text().as_deref().unwrap_or("(The message has no text.)"));
        let subject = format!("Fwd: {}", one_line(original.header("Subject").unwrap_or_default()).trim());
        Self::new(id, date, to, &subject, text)
    }

    /// The same with copies to others.
    #[must_use]
    pub fn with_copies(mut self, cc: Vec<EmailAddress>, bcc: Vec<EmailAddress>) -> Self {
        self.cc = cc;
        self.bcc = bcc;
        self
    }

    /// Its `Message-ID`, without angle brackets.
    #[must_use]
    pub fn message_id(&self) -> &str {
        &self.message_id
    }

    /// The thread it belongs to; none starts a new one.
    #[must_use]
    pub fn thread_id(&self) -> Option<&str> {
        self.thread_id.as_deref()
    }

    /// Whom it goes to.
    #[must_use]
    pub fn to(&self) -> &[EmailAddress] {
        &self.to
    }

    /// The subject.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The message as bytes (RFC 5322, MIME): always the same for the same mail.
    #[must_use]
    pub fn to_mime(&self) -> Vec<u8> {
        fn list(addresses: &[EmailAddress]) -> Address<'_> {
            Address::new_list(addresses.iter().map(|address| address.as_str().into()).collect())
        }
        let mut message = MessageBuilder::new()
            .message_id(self.message_id.as_str())
            .date(self.date.as_second())
            .to(list(&self.to))
            .subject(self.subject.as_str())
            .text_body(self.body.as_str());
        if !self.cc.is_empty() {
            message = message.cc(list(&self.cc));
        }
        if !self.bcc.is_empty() {
            message = message.bcc(list(&self.bcc));
        }
        if let Some(id) = &self.in_reply_to {
            message = message.in_reply_to(id.as_str());
        }
        if !self.references.is_empty() {
            message = message.references(MessageId::from(self.references.as_slice()));
        }
        let mut bytes = Vec::new();
        message.serialize(&mut bytes);
        bytes
    }

    /// What later steps and turns need of it, once Gmail has answered with `sent`, which has only the ids.
    #[must_use]
    pub fn to_item(&self, sent: &Message) -> Item {
        let first = self.to.first();
        Item {
            kind: ItemKind::Message,
            id: sent.id.clone(),
            title: clip(&self.subject),
            person: first.map(|address| Person { name: None, address: address.as_str().to_owned() }),
            when: Some(self.date.to_string()),
            thread_id: sent.thread_id.clone(),
            message_id_header: Some(format!("<{}>", self.message_id)),
            snippet: Some(clip(&self.body)),
        }
    }
}

/// The first message id of a header value, with its angle brackets.
pub(super) fn first_message_id(value: &str) -> Option<String> {
    message_ids(value).next().map(|id| format!("<{id}>"))
}

/// The subject of an answer: `Re: ` before it, unless it is there.
fn reply_subject(original: &str) -> String {
    let original = one_line(original);
    let original = original.trim();
    let marked = original.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("re:"));
    if marked { original.to_owned() } else { format!("Re: {original}") }
}

/// A subject on one line, of a length fit for a header.
fn one_line(text: &str) -> String {
    let plain = |letter: char| {
        if letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}') { ' ' } else { letter }
    };
    text.chars().map(plain).take(TITLE_CHARS_MAX).collect()
}

/// The ids of an id header (RFC 5322 section 3.6.4), without their angle brackets; what is none is left out.
fn message_ids(value: &str) -> impl Iterator<Item = String> + '_ {
    value.split('<').skip(1).filter_map(|rest| {
        let (id, _) = rest.split_once('>')?;
        let fits = id.contains('@')
            && id.len() <= MESSAGE_ID_BYTES_MAX
            && id.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| id.to_owned())
    })
}

/// The references of an answer: those of the message, then its own id. When they are too many, the first, which
/// names the thread, and the latest stay.
fn references(original: &str, own: Option<&str>) -> Vec<String> {
    let mut ids: Vec<String> = message_ids(original).filter(|id| Some(id.as_str()) != own).collect();
    ids.extend(own.map(str::to_owned));
    let too_many = ids.len().saturating_sub(REFERENCES_MAX);
    if too_many > 0 {
        ids.drain(1..=too_many);
    }
    ids
}

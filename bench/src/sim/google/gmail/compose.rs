//! What writes messages: sending, inserting, drafts.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD_INDIFFERENT, URL_SAFE_NO_PAD_INDIFFERENT};
use bytes::Bytes;
use mail_parser::{MessageParser, MimeHeaders as _};
use serde_json::Value;

use super::{Gmail, Outcome, done, not_found, show_draft_with_labels, show_sent};
use crate::sim::wire::{Reply, google_error};
use crate::sim::world::{Attachment, Draft, MailBox, Message, Person};

impl Gmail<'_> {
    pub(super) fn create_draft(&self) -> Outcome {
        let mut mail = self.mail();
        let mut message = self.written(&self.0.body["message"], &mut mail)?;
        message.labels = vec!["DRAFT".to_owned()];
        let id = mail.fresh_draft_id();
        mail.drafts_created += 1;
        let draft = mail.add_draft(Draft { id, message });
        Ok(show_draft_with_labels(draft).into())
    }

    /// The draft keeps its id; its message is another.
    pub(super) fn update_draft(&self, id: &str) -> Outcome {
        let mut mail = self.mail();
        let position = mail.draft(id).ok_or_else(not_found)?;
        let mut message = self.written(&self.0.body["message"], &mut mail)?;
        if self.0.body["message"]["threadId"].is_null() {
            message.thread_id.clone_from(&mail.drafts[position].message.thread_id);
        }
        message.labels = vec!["DRAFT".to_owned()];
        mail.remove_draft(position);
        let draft = mail.add_draft(Draft { id: id.to_owned(), message });
        Ok(show_draft_with_labels(draft).into())
    }

    /// Takes the draft and sends its message under one lock, so that of two such
    /// requests one finds no draft.
    pub(super) fn send_draft(&self) -> Outcome {
        let id = self.0.body["id"].as_str();
        let id = id.ok_or_else(|| google_error(400, "invalidArgument", "Missing draft id"))?;
        let now = self.0.state.clock.now();
        let mut mail = self.mail();
        let position = mail.draft(id).ok_or_else(not_found)?;
        require_recipient(&mail.drafts[position].message)?;
        let draft = mail.remove_draft(position);
        Ok(show_sent(mail.send(draft.message, now, "drafts.send")).into())
    }

    pub(super) fn delete_draft(&self, id: &str) -> Outcome {
        let mut mail = self.mail();
        let position = mail.draft(id).ok_or_else(not_found)?;
        mail.remove_draft(position);
        done()
    }

    pub(super) fn send_message(&self) -> Outcome {
        let now = self.0.state.clock.now();
        let mut mail = self.mail();
        let message = self.written(&self.0.body, &mut mail)?;
        require_recipient(&message)?;
        Ok(show_sent(mail.send(message, now, "messages.send")).into())
    }

    /// Puts a message into the mailbox as it is, as if it had come.
    pub(super) fn insert(&self) -> Outcome {
        let mut mail = self.mail();
        let labels = super::change::label_list(&self.0.body["labelIds"]);
        super::change::check_labels(&mail, &labels)?;
        let mut message = self.written(&self.0.body, &mut mail)?;
        message.labels = labels;
        Ok(show_sent(mail.add(message)).into())
    }

    /// The message in `raw` or in what was uploaded, with the ids it gets here.
    fn written(&self, resource: &Value, mail: &mut MailBox) -> Result<Message, Reply> {
        let bytes = match &self.0.media {
            Some(media) => media.bytes.clone(),
            None => raw_of(resource)?,
        };
        let id = mail.fresh_id();
        let thread_id = match resource["threadId"].as_str() {
            None => id.clone(),
            Some(thread_id) if mail.has_thread(thread_id) => thread_id.to_owned(),
            Some(_) => return Err(not_found()),
        };
        let parsed = MessageParser::default()
            .parse(&bytes[..])
            .ok_or_else(|| google_error(400, "invalidArgument", "Invalid RFC822 message"))?;
        let bracketed = |id: &str| format!("<{id}>");
        let references: Vec<String> =
            parsed.references().as_text_list().into_iter().flatten().map(|id| bracketed(id)).collect();
        let is_insert = self.0.method() == "messages.insert";
        let from = people(parsed.from()).pop().filter(|_| is_insert);
        let message = Message {
            thread_id,
            labels: Vec::new(),
            // Gmail sends under the account's own address whatever the header says.
            from: from.unwrap_or_else(|| self.0.user.person.clone()),
            to: people(parsed.to()),
            cc: people(parsed.cc()),
            bcc: people(parsed.bcc()),
            subject: parsed.subject().unwrap_or_default().to_owned(),
            date: self.0.state.clock.now(),
            body: parsed.body_text(0).unwrap_or_default().into_owned(),
            message_id: parsed.message_id().map_or_else(|| format!("<CA{id}@mail.gmail.com>"), bracketed),
            in_reply_to: parsed.in_reply_to().as_text().map(bracketed),
            references: (!references.is_empty()).then(|| references.join(" ")),
            attachments: attachments(&parsed),
            index: Default::default(),
            raw: Some(bytes.clone()),
            history_id: 0,
            id,
        };
        Ok(message.indexed())
    }
}

fn raw_of(resource: &Value) -> Result<Bytes, Reply> {
    let raw = resource["raw"].as_str().ok_or_else(|| {
        google_error(
            400,
            "invalidArgument",
            "'raw' RFC822 payload message string or uploading message via /upload/* URL required",
        )
    })?;
    URL_SAFE_NO_PAD_INDIFFERENT
        .decode(raw)
        .or_else(|_| STANDARD_NO_PAD_INDIFFERENT.decode(raw))
        .map(Bytes::from)
        .map_err(|_| google_error(400, "invalidArgument", "Invalid value for ByteString: raw"))
}

fn attachments(parsed: &mail_parser::Message<'_>) -> Vec<Attachment> {
    let kind = |part: &mail_parser::MessagePart<'_>| match part.content_type() {
        None => "application/octet-stream".to_owned(),
        Some(kind) => format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or("octet-stream")),
    };
    let parts = parsed.attachments();
    parts
        .map(|part| Attachment {
            filename: part.attachment_name().unwrap_or("attachment").to_owned(),
            mime_type: kind(part),
            size: part.len(),
            content: Some(Bytes::copy_from_slice(part.contents())),
        })
        .collect()
}

fn people(address: Option<&mail_parser::Address<'_>>) -> Vec<Person> {
    let list = address.into_iter().flat_map(|address| address.iter());
    list.filter_map(|addr| {
        let email = addr.address.as_deref().filter(|email| email.contains('@'))?;
        Some(Person { name: addr.name.as_deref().unwrap_or_default().to_owned(), email: email.to_owned() })
    })
    .collect()
}

fn require_recipient(message: &Message) -> Result<(), Reply> {
    if message.to.is_empty() && message.cc.is_empty() && message.bcc.is_empty() {
        return Err(google_error(400, "invalidArgument", "Recipient address required"));
    }
    Ok(())
}

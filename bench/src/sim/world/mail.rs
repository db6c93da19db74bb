//! A mailbox: messages, drafts, and what was sent from it.

use jiff::Timestamp;
use serde::Serialize;

use super::Person;
use crate::sim::chance::mix;

/// A file attached to a message; only its description is kept.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    pub(crate) filename: String,
    pub(crate) mime_type: String,
    pub(crate) size: usize,
}

/// A message, seeded or written.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) thread_id: String,
    pub(crate) labels: Vec<String>,
    pub(crate) from: Person,
    pub(crate) to: Vec<Person>,
    pub(crate) cc: Vec<Person>,
    pub(crate) bcc: Vec<Person>,
    pub(crate) subject: String,
    pub(crate) date: Timestamp,
    pub(crate) body: String,
    /// With angle brackets, as in the header.
    pub(crate) message_id: String,
    pub(crate) in_reply_to: Option<String>,
    pub(crate) references: Option<String>,
    pub(crate) attachments: Vec<Attachment>,
    pub(crate) index: Index,
}

/// The searchable words of a message, each field as ` one two three `.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) subject: String,
    pub(crate) body: String,
}

impl Message {
    /// Fills the index; to be called once the message is complete.
    pub(crate) fn indexed(mut self) -> Self {
        let people =
            |list: &[Person]| index_text(&list.iter().map(Person::display).collect::<Vec<_>>().join(" "));
        self.index = Index {
            from: index_text(&self.from.display()),
            to: people(&[self.to.as_slice(), &self.cc, &self.bcc].concat()),
            subject: index_text(&self.subject),
            body: index_text(&self.body),
        };
        self
    }

    pub(crate) fn has_label(&self, label: &str) -> bool {
        self.labels.iter().any(|l| l.eq_ignore_ascii_case(label))
    }

    /// The first characters of the text, as lists show them.
    pub(crate) fn snippet(&self) -> String {
        let flat: String =
            self.body.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(160).collect();
        flat.replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('\'', "&#39;")
            .replace('"', "&quot;")
    }
}

/// Lower-case words of `text` with one space around each, for whole-word search.
pub(crate) fn index_text(text: &str) -> String {
    let mut index = String::with_capacity(text.len() + 2);
    index.push(' ');
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        index.extend(word.chars().flat_map(char::to_lowercase));
        index.push(' ');
    }
    index
}

/// A draft and the message it would send.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) id: String,
    pub(crate) message: Message,
}

/// A message that left, as tests want to see it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SendRecord {
    /// The `Message-ID` header.
    pub(crate) message_id: String,
    pub(crate) to: Vec<String>,
    pub(crate) cc: Vec<String>,
    pub(crate) subject: String,
    pub(crate) body: String,
    pub(crate) thread_id: String,
    pub(crate) in_reply_to: Option<String>,
    /// Gmail's own id of the sent message.
    pub(crate) id: String,
    /// `drafts.send` or `messages.send`.
    pub(crate) via: &'static str,
}

/// One user's mail. Grows with what is sent until the simulator is reset.
#[derive(Debug)]
pub(crate) struct MailBox {
    /// Oldest first; drafts are kept apart.
    pub(crate) messages: Vec<Message>,
    pub(crate) drafts: Vec<Draft>,
    pub(crate) sends: Vec<SendRecord>,
    pub(crate) drafts_created: usize,
    seed: u64,
    next: u64,
}

impl MailBox {
    pub(crate) fn new(seed: u64) -> Self {
        Self { messages: Vec::new(), drafts: Vec::new(), sends: Vec::new(), drafts_created: 0, seed, next: 0 }
    }

    /// An id of 16 hexadecimal digits that no other message of this user has.
    pub(crate) fn fresh_id(&mut self) -> String {
        self.next += 1;
        format!("{:016x}", mix(self.seed.wrapping_add(self.next)))
    }

    pub(crate) fn fresh_draft_id(&mut self) -> String {
        self.next += 1;
        format!("r{}", mix(self.seed.wrapping_add(self.next)) >> 1)
    }

    /// A message by id, be it a draft's or not.
    pub(crate) fn message(&self, id: &str) -> Option<&Message> {
        // Recent messages are asked for most.
        self.messages
            .iter()
            .rev()
            .find(|message| message.id == id)
            .or_else(|| self.drafts.iter().map(|draft| &draft.message).find(|message| message.id == id))
    }

    pub(crate) fn has_thread(&self, thread_id: &str) -> bool {
        self.messages.iter().any(|message| message.thread_id == thread_id)
            || self.drafts.iter().any(|draft| draft.message.thread_id == thread_id)
    }

    /// Sends `message` at `now`: the one place where mail leaves.
    pub(crate) fn send(&mut self, mut message: Message, now: Timestamp, via: &'static str) -> &Message {
        message.id = self.fresh_id();
        message.date = now;
        message.labels = vec!["SENT".to_owned()];
        let owner = &message.from.email;
        if message.to.iter().any(|to| to.email.eq_ignore_ascii_case(owner)) {
            message.labels.extend(["INBOX".to_owned(), "UNREAD".to_owned()]);
        }
        self.sends.push(SendRecord {
            message_id: message.message_id.clone(),
            to: message.to.iter().map(|to| to.email.clone()).collect(),
            cc: message.cc.iter().map(|cc| cc.email.clone()).collect(),
            subject: message.subject.clone(),
            body: message.body.clone(),
            thread_id: message.thread_id.clone(),
            in_reply_to: message.in_reply_to.clone(),
            id: message.id.clone(),
            via,
        });
        let at = self.messages.len();
        self.messages.push(message);
        &self.messages[at]
    }
}

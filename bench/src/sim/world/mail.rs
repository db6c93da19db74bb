//! A mailbox: messages, drafts, labels, what was sent from it, and the history of its changes.
//!
//! Invariant: whatever changes a message also writes a record of history, under the same lock.

use std::collections::VecDeque;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::Person;
use crate::sim::chance::mix;

/// Labels that every mailbox has.
const SYSTEM_LABELS: [&str; 14] = [
    "INBOX",
    "SENT",
    "DRAFT",
    "UNREAD",
    "STARRED",
    "IMPORTANT",
    "TRASH",
    "SPAM",
    "CHAT",
    "CATEGORY_PERSONAL",
    "CATEGORY_SOCIAL",
    "CATEGORY_PROMOTIONS",
    "CATEGORY_UPDATES",
    "CATEGORY_FORUMS",
];
/// The history id of a new mailbox.
const HISTORY_FIRST: u64 = 100_000;
/// Records of history that are kept; older ones are too old to be asked for.
const HISTORY_MAX: usize = 20_000;

/// A file attached to a message.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    pub(crate) filename: String,
    pub(crate) mime_type: String,
    pub(crate) size: usize,
    /// The bytes, when somebody wrote them.
    pub(crate) content: Option<Bytes>,
}

impl Attachment {
    /// The content; of a seeded one filler of its size.
    pub(crate) fn bytes(&self) -> Bytes {
        let filler = || Bytes::from(self.filename.bytes().cycle().take(self.size).collect::<Vec<u8>>());
        self.content.clone().unwrap_or_else(filler)
    }
}

/// A label of a mailbox.
#[derive(Debug, Clone)]
pub(crate) struct Label {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) is_system: bool,
    /// Visibility and colour, as they were sent.
    pub(crate) rest: Value,
}

/// What happened to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HistoryKind {
    MessageAdded,
    MessageDeleted,
    LabelAdded,
    LabelRemoved,
}

impl HistoryKind {
    /// Its name as `historyTypes` has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::MessageAdded => "messageAdded",
            Self::MessageDeleted => "messageDeleted",
            Self::LabelAdded => "labelAdded",
            Self::LabelRemoved => "labelRemoved",
        }
    }
}

/// One change of a mailbox.
#[derive(Debug, Clone)]
pub(crate) struct HistoryRecord {
    pub(crate) id: u64,
    pub(crate) kind: HistoryKind,
    pub(crate) message_id: String,
    pub(crate) thread_id: String,
    /// The message's labels after it.
    pub(crate) labels: Vec<String>,
    /// The labels that came or went.
    pub(crate) changed: Vec<String>,
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
    /// The bytes of it, when it was written and not seeded.
    pub(crate) raw: Option<Bytes>,
    /// Its last change.
    pub(crate) history_id: u64,
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
    pub(crate) labels: Vec<Label>,
    /// Oldest first.
    pub(crate) history: VecDeque<HistoryRecord>,
    history_last: u64,
    /// Nothing before this is known any more.
    history_floor: u64,
    labels_made: u64,
    seed: u64,
    next: u64,
}

impl MailBox {
    pub(crate) fn new(seed: u64) -> Self {
        let system = |name: &&str| Label {
            id: (*name).to_owned(),
            name: (*name).to_owned(),
            is_system: true,
            rest: Value::Null,
        };
        Self {
            messages: Vec::new(),
            drafts: Vec::new(),
            sends: Vec::new(),
            drafts_created: 0,
            labels: SYSTEM_LABELS.iter().map(system).collect(),
            history: VecDeque::new(),
            history_last: HISTORY_FIRST,
            history_floor: HISTORY_FIRST,
            labels_made: 0,
            seed,
            next: 0,
        }
    }

    /// The id of the last change.
    pub(crate) fn history_id(&self) -> u64 {
        self.history_last
    }

    /// The oldest id from which history is known.
    pub(crate) fn history_floor(&self) -> u64 {
        self.history_floor
    }

    /// From now on what happened before is too old to be asked for.
    pub(crate) fn forget_history(&mut self) {
        self.history.clear();
        self.history_last += 1;
        self.history_floor = self.history_last;
    }

    fn record(&mut self, kind: HistoryKind, message: &Message, changed: Vec<String>) -> u64 {
        self.history_last += 1;
        self.history.push_back(HistoryRecord {
            id: self.history_last,
            kind,
            message_id: message.id.clone(),
            thread_id: message.thread_id.clone(),
            labels: message.labels.clone(),
            changed,
        });
        if self.history.len() > HISTORY_MAX
            && let Some(oldest) = self.history.pop_front()
        {
            self.history_floor = oldest.id;
        }
        self.history_last
    }

    /// Whether there is a label of this id.
    pub(crate) fn is_label(&self, id: &str) -> bool {
        self.labels.iter().any(|label| label.id == id)
    }

    /// The label of this name, as searches write it: in any case, and with hyphens for spaces.
    pub(crate) fn label_named(&self, name: &str) -> Option<&Label> {
        let plain = |name: &str| name.to_lowercase().replace([' ', '/'], "-");
        let wanted = plain(name);
        self.labels.iter().find(|label| plain(&label.name) == wanted)
    }

    pub(crate) fn fresh_label_id(&mut self) -> String {
        self.labels_made += 1;
        format!("Label_{}", self.labels_made)
    }

    /// Adds and removes labels of a message; `false` when there is no such message.
    pub(crate) fn relabel(&mut self, id: &str, add: &[String], remove: &[String]) -> bool {
        let drafts = self.drafts.iter_mut().map(|draft| &mut draft.message);
        let Some(message) = self.messages.iter_mut().chain(drafts).find(|message| message.id == id) else {
            return false;
        };
        let missing = |label: &&String| !message.has_label(label);
        let added: Vec<String> = add.iter().filter(missing).cloned().collect();
        message.labels.extend(added.iter().cloned());
        let (removed, kept): (Vec<String>, Vec<String>) =
            std::mem::take(&mut message.labels).into_iter().partition(|label| remove.contains(label));
        message.labels = kept;
        let mut changed = message.clone();
        for (kind, labels) in [(HistoryKind::LabelAdded, added), (HistoryKind::LabelRemoved, removed)] {
            if !labels.is_empty() {
                changed.history_id = self.record(kind, &changed, labels);
            }
        }
        let drafts = self.drafts.iter_mut().map(|draft| &mut draft.message);
        if let Some(message) = self.messages.iter_mut().chain(drafts).find(|message| message.id == id) {
            message.history_id = changed.history_id;
        }
        true
    }

    /// Deletes a message for good; `false` when there is none.
    pub(crate) fn delete(&mut self, id: &str) -> bool {
        if let Some(position) = self.messages.iter().position(|message| message.id == id) {
            let message = self.messages.remove(position);
            self.record(HistoryKind::MessageDeleted, &message, Vec::new());
            return true;
        }
        match self.drafts.iter().position(|draft| draft.message.id == id) {
            Some(position) => {
                self.remove_draft(position);
                true
            }
            None => false,
        }
    }

    /// Adds a message as it is.
    pub(crate) fn add(&mut self, mut message: Message) -> &Message {
        message.history_id = self.record(HistoryKind::MessageAdded, &message, Vec::new());
        let at = self.messages.len();
        self.messages.push(message);
        &self.messages[at]
    }

    /// The position of a draft.
    pub(crate) fn draft(&self, id: &str) -> Option<usize> {
        self.drafts.iter().position(|draft| draft.id == id)
    }

    pub(crate) fn add_draft(&mut self, mut draft: Draft) -> &Draft {
        draft.message.history_id = self.record(HistoryKind::MessageAdded, &draft.message, Vec::new());
        let at = self.drafts.len();
        self.drafts.push(draft);
        &self.drafts[at]
    }

    /// Takes the draft at `position`, which must exist, out.
    pub(crate) fn remove_draft(&mut self, position: usize) -> Draft {
        let draft = self.drafts.remove(position);
        self.record(HistoryKind::MessageDeleted, &draft.message, Vec::new());
        draft
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
        self.add(message)
    }
}

//! The typed plan: what a command means, as steps over mail, calendar and files.
//!
//! The same JSON is what the language model must answer (under [`Plan::json_schema`]) and what callers see.
//!
//! Invariants of a [`Plan`] that was read by [`Plan::from_model_json`] or by serde, or passed
//! [`Plan::validate`]:
//! - at most [`STEPS_MAX`] steps with distinct ids `s1` to `s8`; the dependencies form no cycle;
//! - every reference to a step names one whose results are of the kind that is needed, and an index it can have;
//! - no subject, title, place or address holds a control character, so none can smuggle a header into a mail;
//! - every text is within its limit, every time within 1970 to 2199, and nothing ends before it starts.

mod item;
mod reference;
mod schema;
mod time;
mod validate;

use serde::{Deserialize, Serialize};

pub(crate) use item::clip;
pub use item::{Item, ItemKind, Person};
pub use reference::{EmailAddress, Handle, ItemRef, Recipient, ReferenceError, StepId};
pub use time::{DateTimeLocal, TimeError};

/// The most steps a plan may have.
pub const STEPS_MAX: usize = 8;
/// The most items one search or list may ask for.
pub const LIMIT_MAX: u8 = 20;
/// The most characters in a subject or an event title.
pub const TITLE_CHARS_MAX: usize = 500;
/// The most characters in a search query or in words to search for.
pub const QUERY_CHARS_MAX: usize = 500;
/// The most characters in the body of a mail or the description of an event.
pub const BODY_CHARS_MAX: usize = 20_000;
/// The most characters in the place of an event.
pub const LOCATION_CHARS_MAX: usize = 500;
/// The most characters in the reason of a refusal.
pub const REASON_CHARS_MAX: usize = 1_000;
/// The most recipients or attendees in one step.
pub const RECIPIENTS_MAX: usize = 20;
/// The most labels one step may put on a message, and the most it may take off.
pub const LABELS_MAX: usize = 10;
/// The most characters in the name of a label, as Gmail has it.
pub const LABEL_CHARS_MAX: usize = 225;
/// The most bytes of plan JSON that are looked at: eight steps of the longest bodies, four bytes a character,
/// stay below it.
pub const MODEL_JSON_BYTES_MAX: usize = 1 << 20;
const _: () = assert!(STEPS_MAX * BODY_CHARS_MAX * 4 < MODEL_JSON_BYTES_MAX);

/// What the user hears when a refusal comes without a reason.
pub const REASON_DEFAULT: &str = "I can only help with your mail, your calendar and your files.";
/// What the user hears when the model has refused the same words before, whoever said them.
pub const REASON_LEARNED: &str = "I cannot do that. I help with your mail, your calendar and your files, if you tell me what to do with them.";

/// Why an answer is not a plan. The command fails as `upstream-invalid`; asking the model once more may help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Not JSON, or not of the schema.
    #[error("the plan is malformed: {0}")]
    Malformed(String),
    /// A refusal that has steps all the same: it is not clear which is meant.
    #[error("the plan declines and has steps")]
    DeclinedWithSteps,
    /// Nothing to do.
    #[error("the plan has no steps")]
    NoSteps,
    /// More than [`STEPS_MAX`] steps.
    #[error("the plan has {0} steps; at most {STEPS_MAX} are allowed")]
    TooManySteps(usize),
    /// A step whose number is beyond [`STEPS_MAX`].
    #[error("{0} is beyond s{STEPS_MAX}")]
    StepNumber(StepId),
    /// Two steps of one name.
    #[error("{0} occurs twice")]
    DuplicateStep(StepId),
    /// A step waits for, or refers to, one that is not there.
    #[error("{step} depends on {on}, which does not exist")]
    UnknownStep {
        /// The step at fault.
        step: StepId,
        /// What it names.
        on: StepId,
    },
    /// A step waits for itself, directly or through others.
    #[error("{0} depends on itself")]
    Cycle(StepId),
    /// A step uses results of a kind it cannot use, such as a file where a message is needed.
    #[error("{step} uses {reference} as a {wanted}, which it is not")]
    WrongKind {
        /// The step at fault.
        step: StepId,
        /// The reference as written.
        reference: ItemRef,
        /// What the step needs.
        wanted: ItemKind,
    },
    /// A step refers to the results of one that has none.
    #[error("{step} refers to {reference}, but that step has no results")]
    NoResults {
        /// The step at fault.
        step: StepId,
        /// The reference as written.
        reference: ItemRef,
    },
    /// A step refers to a result that can never be there.
    #[error("{step} refers to {reference}, but that step has at most {count_max} results")]
    IndexOutOfRange {
        /// The step at fault.
        step: StepId,
        /// The reference as written.
        reference: ItemRef,
        /// How many results there can be.
        count_max: u8,
    },
    /// A field breaks its bounds.
    #[error("{step}: {field} {problem}")]
    Field {
        /// The step at fault.
        step: StepId,
        /// The name of the field.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The reason of a refusal is too long or has control characters.
    #[error("the reason {0}")]
    Reason(&'static str),
}

/// What a command means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Plan {
    /// Whether to act, and how.
    pub decision: Decision,
}

/// Whether to act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Carry out these steps.
    Act(Vec<Step>),
    /// Do nothing and tell the user why.
    Decline {
        /// A polite sentence to the user.
        reason: String,
    },
}

/// One operation and what must be finished before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The name by which other steps refer to this one.
    pub id: StepId,
    /// Steps to wait for beyond those whose results are used.
    pub after: Vec<StepId>,
    /// What to do.
    pub call: Operation,
}

/// One call to mail, calendar or files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operation", deny_unknown_fields)]
pub enum Operation {
    /// Finds messages; results are messages, newest first.
    #[serde(rename = "gmail.search")]
    GmailSearch {
        /// In Gmail's search syntax; empty for the newest messages.
        query: String,
        /// 1 to [`LIMIT_MAX`].
        limit: u8,
    },
    /// Reads the text of a message; the result is that message.
    #[serde(rename = "gmail.read")]
    GmailRead {
        /// Which.
        message: ItemRef,
    },
    /// Sends a new message; the result is the message sent.
    #[serde(rename = "gmail.send")]
    GmailSend {
        /// At least one, at most [`RECIPIENTS_MAX`].
        to: Vec<Recipient>,
        /// One line.
        subject: String,
        /// Plain text.
        body: String,
    },
    /// Answers a message in its thread; the result is the message sent.
    #[serde(rename = "gmail.reply")]
    GmailReply {
        /// The message to answer.
        message: ItemRef,
        /// Plain text, without the quoted original.
        body: String,
    },
    /// Lists events in a span of time; results are events, earliest first.
    #[serde(rename = "calendar.list")]
    CalendarList {
        /// From when; `None` is from now.
        from: Option<DateTimeLocal>,
        /// Until when, a whole day included; `None` is open.
        to: Option<DateTimeLocal>,
        /// Words that must occur.
        query: Option<String>,
        /// 1 to [`LIMIT_MAX`].
        limit: u8,
    },
    /// Makes an event; the result is the event.
    #[serde(rename = "calendar.create")]
    CalendarCreate {
        /// What it is called.
        title: String,
        /// When it starts; a date makes an event of whole days.
        start: DateTimeLocal,
        /// When it ends (for whole days: the last day); `None` is one hour, or one day.
        end: Option<DateTimeLocal>,
        /// Who is invited.
        attendees: Vec<Recipient>,
        /// Where.
        location: Option<String>,
        /// More about it.
        description: Option<String>,
    },
    /// Changes an event; the result is the event. What is `None` stays as it is.
    #[serde(rename = "calendar.change")]
    CalendarChange {
        /// Which.
        event: ItemRef,
        /// The new title.
        title: Option<String>,
        /// The new start; without an end the duration stays.
        start: Option<DateTimeLocal>,
        /// The new end.
        end: Option<DateTimeLocal>,
        /// The new place.
        location: Option<String>,
        /// Whom to invite as well.
        add_attendees: Vec<Recipient>,
    },
    /// Cancels an event; there is no result.
    #[serde(rename = "calendar.delete")]
    CalendarDelete {
        /// Which.
        event: ItemRef,
    },
    /// Finds files by words in them or in their names; results are files.
    #[serde(rename = "drive.search")]
    DriveSearch {
        /// Plain words.
        text: String,
        /// 1 to [`LIMIT_MAX`].
        limit: u8,
    },
    /// Reads the text of a file; the result is that file.
    #[serde(rename = "drive.read")]
    DriveRead {
        /// Which.
        file: ItemRef,
    },
    /// Sends a message on to others; the result is the message sent.
    #[serde(rename = "gmail.forward")]
    GmailForward {
        /// Which.
        message: ItemRef,
        /// At least one, at most [`RECIPIENTS_MAX`].
        to: Vec<Recipient>,
        /// Plain text that stands before it; may be empty.
        body: String,
    },
    /// Puts labels on a message and takes others off; the result is that message.
    #[serde(rename = "gmail.label")]
    GmailLabel {
        /// Which.
        message: ItemRef,
        /// Names, `STARRED`, `UNREAD`, `IMPORTANT` and `INBOX` among them; a label that there is not yet is made.
        add: Vec<String>,
        /// Names; one that there is not is passed over.
        remove: Vec<String>,
    },
    /// Tells when people are busy; there is no result, but a text.
    #[serde(rename = "calendar.free_busy")]
    CalendarFreeBusy {
        /// From when.
        from: DateTimeLocal,
        /// Until when, a whole day included.
        to: DateTimeLocal,
        /// Whose calendars; the user's own when there is nobody.
        people: Vec<Recipient>,
    },
    /// Shares a file with people, who are told by mail; the result is that file.
    #[serde(rename = "drive.share")]
    DriveShare {
        /// Which.
        file: ItemRef,
        /// At least one, at most [`RECIPIENTS_MAX`].
        people: Vec<Recipient>,
        /// What they may do with it. Who may do more already keeps that.
        role: ShareRole,
    },
    /// Writes a draft and leaves it; the result is the message in it.
    #[serde(rename = "gmail.draft")]
    GmailDraft {
        /// At least one, at most [`RECIPIENTS_MAX`].
        to: Vec<Recipient>,
        /// One line.
        subject: String,
        /// Plain text.
        body: String,
    },
    /// Moves a message to the trash; the result is that message.
    #[serde(rename = "gmail.trash")]
    GmailTrash {
        /// Which.
        message: ItemRef,
    },
    /// Makes a file, or a folder; the result is the file.
    #[serde(rename = "drive.create")]
    DriveCreate {
        /// What it is called.
        name: String,
        /// Whether it is a folder.
        folder: bool,
        /// What stands in it, as plain text; `None` for a folder, and for a file without content.
        #[serde(default)]
        text: Option<String>,
    },
    /// Tells where a document of Google's can be had in another form; the result is that file, and the text is the path
    /// from which it is fetched.
    #[serde(rename = "drive.export")]
    DriveExport {
        /// Which.
        file: ItemRef,
        /// In which form.
        format: ExportFormat,
    },
    /// Moves a file into a folder, out of that in which it is; the result is that file.
    #[serde(rename = "drive.move")]
    DriveMove {
        /// Which; it may be a folder.
        file: ItemRef,
        /// Where to.
        folder: ItemRef,
    },
    /// Moves a file to the trash; the result is that file.
    #[serde(rename = "drive.trash")]
    DriveTrash {
        /// Which.
        file: ItemRef,
    },
}

/// What people may do with a file that is shared with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShareRole {
    /// Read it.
    Reader,
    /// Comment on it as well.
    Commenter,
    /// Change it as well.
    Writer,
}

impl ShareRole {
    /// Every role there is, the least first.
    pub const ALL: [Self; 3] = [Self::Reader, Self::Commenter, Self::Writer];

    /// The role that Drive and plans call so.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// As Drive and plans call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Commenter => "commenter",
            Self::Writer => "writer",
        }
    }
}

/// A form in which a document of Google's can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExportFormat {
    /// For documents, spreadsheets, presentations and drawings.
    Pdf,
    /// Word, for documents.
    Docx,
    /// Excel, for spreadsheets.
    Xlsx,
    /// PowerPoint, for presentations.
    Pptx,
    /// Plain text, for documents and presentations.
    Txt,
    /// Of spreadsheets the first sheet.
    Csv,
}

impl ExportFormat {
    /// Every form there is.
    pub const ALL: [Self; 6] = [Self::Pdf, Self::Docx, Self::Xlsx, Self::Pptx, Self::Txt, Self::Csv];

    /// As plans call it, which is how names of such files end.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pdf => "pdf",
            Self::Docx => "docx",
            Self::Xlsx => "xlsx",
            Self::Pptx => "pptx",
            Self::Txt => "txt",
            Self::Csv => "csv",
        }
    }

    /// Its media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Pdf => "application/pdf",
            Self::Docx => "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            Self::Xlsx => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
            Self::Pptx => "application/vnd.openxmlformats-officedocument.presentationml.presentation",
            Self::Txt => "text/plain",
            Self::Csv => "text/csv",
        }
    }
}

/// How something that was done is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undo {
    /// The event that was made is cancelled.
    CancelEvent,
    /// What was changed of the event is as it was.
    ChangeEventBack,
    /// The event that was cancelled takes place.
    RestoreEvent,
    /// The draft that was written is deleted.
    DeleteDraft,
    /// The message comes back out of the trash.
    RestoreMessage,
    /// The labels are as they were.
    RestoreLabels,
    /// Who was given the file has it no longer.
    Unshare,
    /// The file is in the folder again in which it was.
    MoveBack,
    /// The file that was made goes to the trash.
    TrashFile,
    /// The file comes back out of the trash.
    RestoreFile,
}

/// The service an operation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// Mail.
    Gmail,
    /// Events.
    Calendar,
    /// Files.
    Drive,
}

impl Service {
    /// The name as it stands in operations, logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gmail => "gmail",
            Self::Calendar => "calendar",
            Self::Drive => "drive",
        }
    }
}

/// What results a step has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Results {
    /// Their kind.
    pub kind: ItemKind,
    /// How many there can be.
    pub count_max: u8,
}

impl Operation {
    /// Every name there is.
    pub const NAMES: [&'static str; 20] = [
        "gmail.search",
        "gmail.read",
        "gmail.send",
        "gmail.reply",
        "gmail.forward",
        "gmail.draft",
        "gmail.label",
        "gmail.trash",
        "calendar.list",
        "calendar.create",
        "calendar.change",
        "calendar.delete",
        "calendar.free_busy",
        "drive.search",
        "drive.read",
        "drive.export",
        "drive.create",
        "drive.share",
        "drive.move",
        "drive.trash",
    ];

    /// The name, such as `gmail.search`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::GmailSearch { .. } => "gmail.search",
            Self::GmailRead { .. } => "gmail.read",
            Self::GmailSend { .. } => "gmail.send",
            Self::GmailReply { .. } => "gmail.reply",
            Self::CalendarList { .. } => "calendar.list",
            Self::CalendarCreate { .. } => "calendar.create",
            Self::CalendarChange { .. } => "calendar.change",
            Self::CalendarDelete { .. } => "calendar.delete",
            Self::DriveSearch { .. } => "drive.search",
            Self::DriveRead { .. } => "drive.read",
            Self::GmailForward { .. } => "gmail.forward",
            Self::GmailLabel { .. } => "gmail.label",
            Self::CalendarFreeBusy { .. } => "calendar.free_busy",
            Self::DriveShare { .. } => "drive.share",
            Self::GmailDraft { .. } => "gmail.draft",
            Self::GmailTrash { .. } => "gmail.trash",
            Self::DriveCreate { .. } => "drive.create",
            Self::DriveExport { .. } => "drive.export",
            Self::DriveMove { .. } => "drive.move",
            Self::DriveTrash { .. } => "drive.trash",
        }
    }

    /// The service that carries it out.
    #[must_use]
    pub const fn service(&self) -> Service {
        match self {
            Self::GmailSearch { .. }
            | Self::GmailRead { .. }
            | Self::GmailSend { .. }
            | Self::GmailReply { .. }
            | Self::GmailForward { .. }
            | Self::GmailLabel { .. }
            | Self::GmailDraft { .. }
            | Self::GmailTrash { .. } => Service::Gmail,
            Self::CalendarList { .. }
            | Self::CalendarCreate { .. }
            | Self::CalendarChange { .. }
            | Self::CalendarDelete { .. }
            | Self::CalendarFreeBusy { .. } => Service::Calendar,
            Self::DriveSearch { .. }
            | Self::DriveRead { .. }
            | Self::DriveCreate { .. }
            | Self::DriveShare { .. }
            | Self::DriveExport { .. }
            | Self::DriveMove { .. }
            | Self::DriveTrash { .. } => Service::Drive,
        }
    }

    /// Whether it changes something outside: such a step must happen exactly once.
    #[must_use]
    pub const fn is_side_effect(&self) -> bool {
        match self {
            Self::GmailSend { .. }
            | Self::GmailReply { .. }
            | Self::GmailForward { .. }
            | Self::GmailLabel { .. }
            | Self::CalendarCreate { .. }
            | Self::CalendarChange { .. }
            | Self::CalendarDelete { .. }
            | Self::GmailDraft { .. }
            | Self::GmailTrash { .. }
            | Self::DriveCreate { .. }
            | Self::DriveShare { .. }
            | Self::DriveMove { .. }
            | Self::DriveTrash { .. } => true,
            Self::GmailSearch { .. }
            | Self::GmailRead { .. }
            | Self::CalendarList { .. }
            | Self::CalendarFreeBusy { .. }
            | Self::DriveSearch { .. }
            | Self::DriveRead { .. }
            | Self::DriveExport { .. } => false,
        }
    }

    /// How it is taken back, where the API allows that: not what was sent to somebody.
    #[must_use]
    pub const fn undo(&self) -> Option<Undo> {
        match self {
            Self::CalendarCreate { .. } => Some(Undo::CancelEvent),
            Self::CalendarChange { .. } => Some(Undo::ChangeEventBack),
            Self::CalendarDelete { .. } => Some(Undo::RestoreEvent),
            Self::GmailDraft { .. } => Some(Undo::DeleteDraft),
            Self::GmailTrash { .. } => Some(Undo::RestoreMessage),
            Self::DriveCreate { .. } => Some(Undo::TrashFile),
            Self::DriveTrash { .. } => Some(Undo::RestoreFile),
            Self::GmailLabel { .. } => Some(Undo::RestoreLabels),
            Self::DriveShare { .. } => Some(Undo::Unshare),
            Self::DriveMove { .. } => Some(Undo::MoveBack),
            Self::GmailSearch { .. }
            | Self::GmailRead { .. }
            | Self::GmailSend { .. }
            | Self::GmailReply { .. }
            | Self::GmailForward { .. }
            | Self::CalendarFreeBusy { .. }
            | Self::CalendarList { .. }
            | Self::DriveSearch { .. }
            | Self::DriveRead { .. }
            | Self::DriveExport { .. } => None,
        }
    }

    /// Checks the bounds of its fields.
    ///
    /// # Errors
    /// The name of the field and what is wrong with it.
    pub fn check_fields(&self) -> Result<(), (&'static str, &'static str)> {
        validate::fields(self)
    }

    /// What other steps can refer to; `None` when there is nothing.
    #[must_use]
    pub const fn results(&self) -> Option<Results> {
        let (kind, count_max) = match self {
            Self::GmailSearch { limit, .. } => (ItemKind::Message, *limit),
            Self::GmailRead { .. }
            | Self::GmailSend { .. }
            | Self::GmailReply { .. }
            | Self::GmailForward { .. }
            | Self::GmailLabel { .. }
            | Self::GmailDraft { .. }
            | Self::GmailTrash { .. } => (ItemKind::Message, 1),
            Self::CalendarList { limit, .. } => (ItemKind::Event, *limit),
            Self::CalendarCreate { .. } | Self::CalendarChange { .. } => (ItemKind::Event, 1),
            Self::CalendarDelete { .. } | Self::CalendarFreeBusy { .. } => return None,
            Self::DriveSearch { limit, .. } => (ItemKind::File, *limit),
            Self::DriveRead { .. }
            | Self::DriveCreate { .. }
            | Self::DriveShare { .. }
            | Self::DriveExport { .. }
            | Self::DriveMove { .. }
            | Self::DriveTrash { .. } => (ItemKind::File, 1),
        };
        Some(Results { kind, count_max })
    }

    /// The item it works on, and the kind that must be.
    #[must_use]
    pub const fn target(&self) -> Option<(ItemRef, ItemKind)> {
        match self {
            Self::GmailRead { message }
            | Self::GmailReply { message, .. }
            | Self::GmailForward { message, .. }
            | Self::GmailLabel { message, .. }
            | Self::GmailTrash { message } => Some((*message, ItemKind::Message)),
            Self::CalendarChange { event, .. } | Self::CalendarDelete { event } => {
                Some((*event, ItemKind::Event))
            }
            Self::DriveRead { file }
            | Self::DriveExport { file, .. }
            | Self::DriveShare { file, .. }
            | Self::DriveMove { file, .. }
            | Self::DriveTrash { file } => Some((*file, ItemKind::File)),
            Self::GmailSearch { .. }
            | Self::GmailSend { .. }
            | Self::CalendarList { .. }
            | Self::CalendarCreate { .. }
            | Self::CalendarFreeBusy { .. }
            | Self::DriveSearch { .. }
            | Self::GmailDraft { .. }
            | Self::DriveCreate { .. } => None,
        }
    }

    /// The item into which it puts the other, and the kind that must be.
    #[must_use]
    pub const fn destination(&self) -> Option<(ItemRef, ItemKind)> {
        match self {
            Self::DriveMove { folder, .. } => Some((*folder, ItemKind::File)),
            _ => None,
        }
    }

    /// The people it writes to or invites, shares with, or asks after.
    #[must_use]
    pub fn recipients(&self) -> &[Recipient] {
        match self {
            Self::GmailSend { to, .. } | Self::GmailDraft { to, .. } | Self::GmailForward { to, .. } => to,
            Self::CalendarFreeBusy { people, .. } | Self::DriveShare { people, .. } => people,
            Self::CalendarCreate { attendees, .. } => attendees,
            Self::CalendarChange { add_attendees, .. } => add_attendees,
            _ => &[],
        }
    }

    /// Every reference in it: the item it works on, that into which it puts it, then the items whose people it uses.
    pub fn references(&self) -> impl Iterator<Item = ItemRef> + '_ {
        let people = self.recipients().iter().filter_map(Recipient::item);
        let items = self.target().into_iter().chain(self.destination());
        items.map(|(item, _)| item).chain(people)
    }
}

impl Step {
    /// The steps that must be finished before this one: `after` and every step referred to, each once,
    /// in order of their ids.
    #[must_use]
    pub fn dependencies(&self) -> Vec<StepId> {
        let used = self.call.references().filter_map(|item| item.step());
        let mut steps: Vec<StepId> = self.after.iter().copied().chain(used).collect();
        steps.sort_unstable();
        steps.dedup();
        steps
    }
}

impl Plan {
    /// A refusal with this reason.
    #[must_use]
    pub fn decline(reason: impl Into<String>) -> Self {
        Self { decision: Decision::Decline { reason: reason.into() } }
    }

    /// A plan of these steps; it must pass [`Self::validate`] before it is carried out.
    #[must_use]
    pub const fn act(steps: Vec<Step>) -> Self {
        Self { decision: Decision::Act(steps) }
    }

    /// Reads and checks what the model answered.
    ///
    /// # Errors
    /// When it is not JSON of the schema, or breaks a rule that the schema cannot state.
    pub fn from_model_json(text: &str) -> Result<Self, PlanError> {
        if text.len() > MODEL_JSON_BYTES_MAX {
            return Err(PlanError::Malformed(format!("{} bytes are too many", text.len())));
        }
        let wire: Wire =
            serde_json::from_str(text).map_err(|error| PlanError::Malformed(error.to_string()))?;
        Self::try_from(wire)
    }

    /// Checks everything the types do not already ensure. Plans that were read are checked already.
    ///
    /// # Errors
    /// Names the first step and rule that is broken.
    pub fn validate(&self) -> Result<(), PlanError> {
        validate::plan(self)
    }

    /// The JSON Schema of a plan, in the strict subset that OpenAI's structured outputs ask for: the root is
    /// an object, every object lists every property as required and allows no other, what may be absent is
    /// `null`.
    #[must_use]
    pub fn json_schema() -> serde_json::Value {
        schema::plan()
    }

    /// The steps; none when the plan declines.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        match &self.decision {
            Decision::Act(steps) => steps,
            Decision::Decline { .. } => &[],
        }
    }

    /// The step of this name.
    #[must_use]
    pub fn step(&self, id: StepId) -> Option<&Step> {
        self.steps().iter().find(|step| step.id == id)
    }
}

/// The JSON form of a plan.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    decision: WireDecision,
    reason: Option<String>,
    steps: Vec<Step>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WireDecision {
    Act,
    Decline,
}

impl TryFrom<Wire> for Plan {
    type Error = PlanError;

    fn try_from(wire: Wire) -> Result<Self, PlanError> {
        let decision = match wire.decision {
            WireDecision::Act => Decision::Act(wire.steps),
            WireDecision::Decline if !wire.steps.is_empty() => return Err(PlanError::DeclinedWithSteps),
            WireDecision::Decline => {
                let reason = wire.reason.filter(|reason| !reason.trim().is_empty());
                Decision::Decline { reason: reason.unwrap_or_else(|| REASON_DEFAULT.to_owned()) }
            }
        };
        let plan = Self { decision };
        plan.validate()?;
        Ok(plan)
    }
}

impl From<Plan> for Wire {
    fn from(plan: Plan) -> Self {
        match plan.decision {
            Decision::Act(steps) => Self { decision: WireDecision::Act, reason: None, steps },
            Decision::Decline { reason } => {
                Self { decision: WireDecision::Decline, reason: Some(reason), steps: Vec::new() }
            }
        }
    }
}

#[cfg(test)]
mod tests;

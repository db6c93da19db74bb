//! What the user is told, in words: what was found, read, sent and changed, and what went wrong.
//!
//! Lists are numbered, so that "the second one" means something. Times are on the user's clock.

use std::borrow::Cow;
use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use sluice_protocols::api::StepState;
use sluice_protocols::plan::{Item, ItemKind, Operation, Recipient, ShareRole};
use sluice_protocols::workflow::Graph;
use sluice_store::record::{StepRecord, TaskRecord};

use super::codes::{self, UndoState};
use super::execute::call_of;
use super::journal::{items_of, problem_of};
use super::known::{Known, sought};
use super::seen::Seen;

/// Longest answer in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// An answer that lists some things.
const ANSWER_BYTES_USUAL: usize = 1 << 10;
/// Most characters shown of a text that was read; the whole is with the step.
const TEXT_CHARS_SHOWN: usize = 1_500;
/// Most characters shown of an item's first words.
const SNIPPET_CHARS_SHOWN: usize = 100;

/// What the user is told about a plan that was carried out, as far as it was.
pub(super) fn compose(task: &TaskRecord, graph: &Graph, known: &Known<'_>, zone: &TimeZone) -> String {
    compose_of(task, graph, known, zone, |_| true)
}

/// What the steps that have ended by now brought; empty when there are none.
pub(super) fn compose_so_far(task: &TaskRecord, graph: &Graph, known: &Known<'_>, zone: &TimeZone) -> String {
    compose_of(task, graph, known, zone, |record| {
        matches!(codes::step_state(record.state), StepState::Done | StepState::Failed)
    })
}

fn compose_of(
    task: &TaskRecord,
    graph: &Graph,
    known: &Known<'_>,
    zone: &TimeZone,
    is_told: impl Fn(&StepRecord) -> bool,
) -> String {
    let calls: Vec<Operation> =
        graph.nodes().iter().zip(&task.steps).map(|(node, record)| call_of(node, record)).collect();
    let teller = Teller { graph, calls: &calls, known, zone };
    let told = (0..calls.len())
        .filter(|index| is_told(&task.steps[*index]) && !teller.is_only_a_means(*index, task));
    let mut told: Vec<String> = told.map(|index| teller.tell(index, &task.steps[index])).collect();
    let undone = graph.in_order().into_iter().rev().filter(|index| *index < calls.len());
    told.extend(undone.filter_map(|index| teller.undone(&calls[index], &task.steps[index])));
    let mut answer = told.join("\n\n");
    if answer.len() > ANSWER_BYTES_MAX {
        answer.truncate(answer.floor_char_boundary(ANSWER_BYTES_MAX - 4));
        answer.push('…');
    }
    answer
}

struct Teller<'a> {
    graph: &'a Graph,
    /// The operations as they were carried out.
    calls: &'a [Operation],
    known: &'a Known<'a>,
    zone: &'a TimeZone,
}

impl Teller<'_> {
    /// A search for one item that a later step then used: the user hears of that step.
    fn is_only_a_means(&self, index: usize, task: &TaskRecord) -> bool {
        let (call, record, id) = (&self.calls[index], &task.steps[index], self.graph.nodes()[index].id());
        let one = call.results().is_some_and(|results| results.count_max == 1) && !call.is_side_effect();
        let is_read = matches!(
            call,
            Operation::GmailRead { .. } | Operation::DriveRead { .. } | Operation::DriveExport { .. }
        );
        let done = |record: &StepRecord| codes::step_state(record.state) == StepState::Done;
        let used = || {
            let mut others = self.calls.iter().zip(&task.steps);
            others
                .any(|(other, record)| done(record) && other.references().any(|item| item.step() == Some(id)))
        };
        one && !is_read && done(record) && used()
    }

    /// How a step was taken back.
    fn undone(&self, call: &Operation, record: &StepRecord) -> Option<String> {
        if matches!(codes::undo_state(record.undo), UndoState::Untouched | UndoState::Running) {
            return None;
        }
        let what = match call {
            Operation::CalendarCreate { title, .. } => format!("the event “{title}”"),
            Operation::GmailDraft { subject, .. } => format!("the draft “{subject}”"),
            Operation::DriveCreate { name, .. } => format!("the file “{name}”"),
            Operation::GmailLabel { .. } => "the change of labels".to_owned(),
            Operation::CalendarChange { .. } => match items_of(record).first() {
                Some(item) => format!("the change of the event “{}”", title(item)),
                None => "the change of the event".to_owned(),
            },
            Operation::CalendarDelete { .. } => "the cancellation of the event".to_owned(),
            Operation::DriveShare { .. } => "the sharing of the file".to_owned(),
            _ => match items_of(record).first() {
                Some(item) => format!("the {} “{}”", item.kind, title(item)),
                None => "a step".to_owned(),
            },
        };
        match codes::undo_state(record.undo) {
            UndoState::Untouched | UndoState::Running => None,
            UndoState::Done => Some(format!("Took {what} back.")),
            UndoState::Failed => {
                let why = record.undo_error_json.as_deref().map(problem_of);
                let why = why.as_ref().map_or("for an unknown reason", |problem| problem.detail());
                Some(format!("I could not take {what} back: {why}."))
            }
        }
    }

    fn tell(&self, index: usize, record: &StepRecord) -> String {
        let call = &self.calls[index];
        match codes::step_state(record.state) {
            StepState::Done => self.done(index, record),
            StepState::Failed => {
                let problem = record.error_json.as_deref().map(problem_of);
                let why = problem.as_ref().map_or("for an unknown reason", |problem| problem.detail());
                let mend = problem.as_ref().and_then(|problem| problem.link());
                let mend =
                    mend.map_or_else(String::new, |link| format!(" This is where it is mended: {link}"));
                format!("I could not {}: {why}.{mend}", self.attempt(call))
            }
            StepState::Skipped => {
                // Of a workflow it may also be that its condition did not hold.
                if self.graph.stops_at_failure() {
                    return format!("I did not {}.", self.attempt(call));
                }
                format!("I did not {}, because something it depends on went wrong.", self.attempt(call))
            }
            StepState::Pending | StepState::Running => {
                format!("I did not come to {}.", self.attempt(call))
            }
        }
    }

    fn done(&self, index: usize, record: &StepRecord) -> String {
        let call = &self.calls[index];
        let items = match self.known.items(self.graph.nodes()[index].id()) {
            Some(items) => Cow::Borrowed(items),
            None => Cow::Owned(items_of(record).into_iter().map(Seen::from).collect()),
        };
        let first: Option<&Item> = items.first().map(|item| &**item);
        match call {
            Operation::GmailSearch { .. }
            | Operation::CalendarList { .. }
            | Operation::DriveSearch { .. } => self.list(call, &items),
            Operation::GmailRead { .. } | Operation::DriveRead { .. } => {
                self.read(first, record.text.as_deref())
            }
            Operation::GmailSend { to, subject, .. } => self.sent(first, to, subject),
            Operation::GmailReply { .. } => self.replied(first),
            Operation::CalendarCreate { title, start, attendees, location, .. } => {
                let when = first.and_then(|item| item.when.clone()).unwrap_or_else(|| start.to_string());
                let mut text = format!("Created “{title}” on {}", self.moment(&when));
                if let Some(place) = location {
                    let _ = write!(text, ", at {place}");
                }
                text + &self.inviting(attendees) + "."
            }
            Operation::CalendarChange { add_attendees, .. } => match first {
                Some(item) => format!(
                    "Changed “{}”: now {}{}.",
                    item.title,
                    self.when(item),
                    self.inviting(add_attendees)
                ),
                None => "Changed the event.".to_owned(),
            },
            Operation::GmailDraft { to, subject, .. } => {
                format!("Drafted “{subject}” to {}.", self.people(to))
            }
            Operation::GmailForward { to, .. } => match first {
                Some(item) => format!("Forwarded “{}” to {}.", title(item), self.people(to)),
                None => format!("Forwarded the message to {}.", self.people(to)),
            },
            Operation::GmailLabel { add, remove, .. } => {
                let what =
                    first.map_or_else(|| "the message".to_owned(), |item| format!("“{}”", title(item)));
                match (add.is_empty(), remove.is_empty()) {
                    (false, true) => format!("Labelled {what} {}.", joined(add.clone())),
                    (true, _) => format!("Took {} off {what}.", joined(remove.clone())),
                    (false, false) => {
                        let (add, remove) = (joined(add.clone()), joined(remove.clone()));
                        format!("Labelled {what} {add} and took {remove} off.")
                    }
                }
            }
            Operation::CalendarFreeBusy { .. } => record.text.clone().unwrap_or_default(),
            Operation::DriveShare { people, role, .. } => {
                let what = first.map_or_else(|| "the file".to_owned(), |item| format!("“{}”", title(item)));
                format!("Shared {what} with {}, who can {}.", self.people(people), may(*role))
            }
            Operation::DriveCreate { name, folder: true, .. } => format!("Made the folder “{name}”."),
            Operation::DriveCreate { name, folder: false, .. } => format!("Made the file “{name}”."),
            Operation::DriveExport { format, .. } => {
                let what = first.map_or_else(|| "The file".to_owned(), |item| format!("“{}”", title(item)));
                let path = record.text.as_deref().unwrap_or_default();
                format!("{what} as {} is to be had at {path}", format.name())
            }
            Operation::DriveMove { folder, .. } => {
                let what = first.map_or_else(|| "the file".to_owned(), |item| format!("“{}”", title(item)));
                match self.known.item(*folder) {
                    Ok(folder) => format!("Moved {what} to “{}”.", title(&folder)),
                    Err(_) => format!("Moved {what}."),
                }
            }
            Operation::GmailTrash { .. } | Operation::DriveTrash { .. } => match first {
                Some(item) => format!("Moved “{}” to the trash.", title(item)),
                None => "Moved it to the trash.".to_owned(),
            },
            Operation::CalendarDelete { event } => match self.known.item(*event) {
                Ok(item) => format!("Cancelled “{}” ({}).", item.title, self.when(&item)),
                Err(_) => "Cancelled the event.".to_owned(),
            },
        }
    }

    fn list(&self, call: &Operation, items: &[Seen]) -> String {
        if items.is_empty() {
            return format!("No {} was found.", sought(call));
        }
        let mut text = String::with_capacity(ANSWER_BYTES_USUAL);
        let _ = write!(text, "Found {}:", count(items.len(), items[0].kind));
        for (number, item) in (1..).zip(items) {
            let _ = write!(text, "\n{number}. ");
            match self.zone.iana_name() {
                Some(zone) => item.line(zone, &mut text, |out| self.line(item, out)),
                None => self.line(item, &mut text),
            }
        }
        text
    }

    /// One line of a list.
    fn line(&self, item: &Item, line: &mut String) {
        let _ = write!(line, "“{}”", title(item));
        if let Some(person) = &item.person {
            let who = person.name.as_deref().unwrap_or(&person.address);
            let _ = match item.kind {
                ItemKind::Message => write!(line, " from {who}"),
                ItemKind::Event => write!(line, " with {who}"),
                ItemKind::File => write!(line, ", owned by {who}"),
            };
        }
        if let Some(when) = &item.when {
            let _ = write!(line, ", {}", self.short(when));
        }
        let snippet = item.snippet.as_deref().map(str::trim).filter(|snippet| !snippet.is_empty());
        if let (ItemKind::Message, Some(snippet)) = (item.kind, snippet) {
            let _ = write!(line, ": {}", shortened(snippet, SNIPPET_CHARS_SHOWN));
        }
    }

    fn read(&self, item: Option<&Item>, text: Option<&str>) -> String {
        let text = shortened(text.unwrap_or_default().trim(), TEXT_CHARS_SHOWN);
        match item {
            Some(item) => {
                // Its first words follow in full.
                let mut read = String::new();
                self.line(&Item { snippet: None, ..item.clone() }, &mut read);
                read + ":\n" + &text
            }
            None => text,
        }
    }

    fn sent(&self, item: Option<&Item>, to: &[Recipient], subject: &str) -> String {
        let names = self.people(to);
        let subject = item.map_or(subject, |item| item.title.as_str());
        format!("Sent “{subject}” to {names}.")
    }

    fn replied(&self, item: Option<&Item>) -> String {
        match item.and_then(|item| item.person.as_ref().map(|person| (item, person))) {
            Some((item, person)) => format!("Replied to {person}: “{}”.", item.title),
            None => "Sent the reply.".to_owned(),
        }
    }

    /// The addresses of people, as they were resolved.
    fn people(&self, recipients: &[Recipient]) -> String {
        match self.known.addresses(recipients) {
            Ok(addresses) => joined(addresses.iter().map(ToString::to_string).collect()),
            Err(_) => joined(recipients.iter().map(ToString::to_string).collect()),
        }
    }

    fn inviting(&self, people: &[Recipient]) -> String {
        if people.is_empty() { String::new() } else { format!(", inviting {}", self.people(people)) }
    }

    /// What a step was to do, after "I could not".
    fn attempt(&self, call: &Operation) -> String {
        let about = |item: Result<Item, _>, kind: &str| match item {
            Ok(item) => format!("the {kind} “{}”", title(&item)),
            Err(_) => format!("the {kind}"),
        };
        match call {
            Operation::GmailSearch { .. } => "search your mail".to_owned(),
            Operation::GmailRead { message } => {
                format!("read {}", about(self.known.item(*message), "message"))
            }
            Operation::GmailSend { subject, .. } => format!("send the mail “{subject}”"),
            Operation::GmailReply { message, .. } => {
                format!("reply to {}", about(self.known.item(*message), "message"))
            }
            Operation::CalendarList { .. } => "list your events".to_owned(),
            Operation::CalendarCreate { title, .. } => format!("create the event “{title}”"),
            Operation::CalendarChange { event, .. } => {
                format!("change {}", about(self.known.item(*event), "event"))
            }
            Operation::CalendarDelete { event } => {
                format!("cancel {}", about(self.known.item(*event), "event"))
            }
            Operation::DriveSearch { .. } => "search your files".to_owned(),
            Operation::DriveRead { file } => format!("read {}", about(self.known.item(*file), "file")),
            Operation::GmailDraft { subject, .. } => format!("draft the mail “{subject}”"),
            Operation::GmailTrash { message } => {
                format!("move {} to the trash", about(self.known.item(*message), "message"))
            }
            Operation::GmailForward { message, .. } => {
                format!("forward {}", about(self.known.item(*message), "message"))
            }
            Operation::GmailLabel { message, .. } => {
                format!("change the labels of {}", about(self.known.item(*message), "message"))
            }
            Operation::CalendarFreeBusy { .. } => "look up who is busy when".to_owned(),
            Operation::DriveShare { file, .. } => {
                format!("share {}", about(self.known.item(*file), "file"))
            }
            Operation::DriveCreate { name, folder: true, .. } => format!("make the folder “{name}”"),
            Operation::DriveCreate { name, folder: false, .. } => format!("make the file “{name}”"),
            Operation::DriveExport { file, .. } => {
                format!("export {}", about(self.known.item(*file), "file"))
            }
            Operation::DriveMove { file, .. } => format!("move {}", about(self.known.item(*file), "file")),
            Operation::DriveTrash { file } => {
                format!("move {} to the trash", about(self.known.item(*file), "file"))
            }
        }
    }

    fn when(&self, item: &Item) -> String {
        item.when.as_deref().map_or_else(|| "time unknown".to_owned(), |when| self.moment(when))
    }

    /// `Tuesday, 24 November 2026 at 10:00`, or the day alone.
    fn moment(&self, when: &str) -> String {
        self.formatted(when, "%A, %-d %B %Y at %H:%M", "%A, %-d %B %Y")
    }

    /// `Tue 24 Nov 2026, 10:00`, or the day alone.
    fn short(&self, when: &str) -> String {
        self.formatted(when, "%a %-d %b %Y, %H:%M", "%a %-d %b %Y")
    }

    /// A moment, a civil time or a day, on the user's clock; anything else as it is.
    fn formatted(&self, when: &str, with_time: &str, day_only: &str) -> String {
        if let Ok(moment) = when.parse::<Timestamp>() {
            return moment.to_zoned_datetime(self.zone.clone()).strftime(with_time).to_string();
        }
        // A civil time would be read from a day as well, as its midnight.
        if when.len() == "0000-00-00".len()
            && let Ok(day) = when.parse::<Date>()
        {
            return day.strftime(day_only).to_string();
        }
        match when.parse::<DateTime>() {
            Ok(at) => at.strftime(with_time).to_string(),
            Err(_) => when.to_owned(),
        }
    }
}

/// What a role allows.
const fn may(role: ShareRole) -> &'static str {
    match role {
        ShareRole::Reader => "read it",
        ShareRole::Commenter => "comment on it",
        ShareRole::Writer => "change it",
    }
}

fn title(item: &Item) -> &str {
    if item.title.trim().is_empty() { "(untitled)" } else { &item.title }
}

fn count(number: usize, kind: ItemKind) -> String {
    format!("{number} {kind}{}", if number == 1 { "" } else { "s" })
}

fn joined(names: Vec<String>) -> String {
    match names.as_slice() {
        [] => "nobody".to_owned(),
        [one] => one.clone(),
        [all @ .., last] => format!("{} and {last}", all.join(", ")),
    }
}

fn shortened(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((at, _)) => format!("{}…", text[..at].trim_end()),
        None => text.to_owned(),
    }
}

//! Taking back what was done to things that others look after as well: changed and cancelled events, and what was thrown
//! away.
//!
//! What stood there before goes to the journal before anything is done to it, of steps that may have to be taken back alone;
//! or else that there is nothing to be taken back, or that it is too long. Nobody is told that something was taken back for
//! want of a note.
//! A way back looks at what is there now, asks for what is missing of it, and binds that to the state that it looked at
//! (`If-Match`) where Google heeds it. So what others did meanwhile stays, and a second way back finds nothing to do.

use serde::Deserialize;
use serde_json::Value;
use sluice_protocols::google::calendar::{self, Event, EventPatch, Reversal};
use sluice_protocols::google::gmail::{self, Message};
use sluice_protocols::google::{ApiCall, drive};
use sluice_protocols::plan::{Item, ItemKind};
use sluice_protocols::problem::{Problem, ProblemKind};

use super::known::unresolved;
use super::step::StepRun;
use crate::upstream::CallError;

/// What the intents of steps begin with: a change with what stood there before, the id of an event that is cancelled, the
/// labels of a message that is thrown away, and whether a file was.
const INTENT_CHANGE: &str = "change:";
const INTENT_CANCEL: &str = "cancel:";
const INTENT_TRASH: &str = "trash:";
/// What stands for something that was gone before the step: there is nothing to be taken back.
const GONE_BEFORE: &str = "gone";
/// What stands for something that was gone when the step was taken up again: the step itself may have done it.
const FOUND_SO: &str = "found-so";
/// What stands for more than is noted. None of the three is the id of an event, which has five letters up to `v` at least.
const TOO_LONG: &str = "too-long";
/// The most that is noted of one step: 64 such steps leave room in a record of a megabyte. What is longer is no place or
/// title that somebody typed.
const NOTED_BYTES_MAX: usize = 8 << 10;
/// How often something that others change at the same moment is looked at anew.
pub(super) const LOOKS_MAX: usize = 5;
/// Gmail's label of what was thrown away.
const TRASH: &str = "TRASH";

/// What the journal has of what stood there before a step.
enum Noted {
    Nothing,
    /// It was gone before the step.
    Gone,
    /// It was gone when the step was taken up again.
    FoundSo,
    TooLong,
    Before(String),
}

/// Whether a file was thrown away.
#[derive(Default, Deserialize)]
struct Trashed {
    #[serde(default)]
    trashed: bool,
}

impl StepRun<'_> {
    /// What the journal has of what stood there before, behind `prefix`.
    fn noted(&self, prefix: &str) -> Noted {
        let intent = self.shared.journal.read(|task| task.steps[self.index].intent.clone());
        match intent.as_deref().and_then(|intent| intent.strip_prefix(prefix)) {
            None => Noted::Nothing,
            Some(GONE_BEFORE) => Noted::Gone,
            Some(FOUND_SO) => Noted::FoundSo,
            Some(TOO_LONG) => Noted::TooLong,
            Some(before) => Noted::Before(before.to_owned()),
        }
    }

    /// What `thing` is given back: `None` where there is nothing to be taken back.
    fn before(&self, prefix: &str, thing: &str) -> Result<Option<String>, Problem> {
        let why = match self.noted(prefix) {
            Noted::Gone => return Ok(None),
            Noted::Before(before) => return Ok(Some(before)),
            Noted::Nothing => "what stood there before was not noted",
            Noted::FoundSo => "it was so already when the step was taken up again, whoever made it so",
            Noted::TooLong => "what stood there before is too long to be noted",
        };
        Err(unresolved(format!("{thing} stays as it is: {why}")))
    }

    /// Whether what stands there now is to be noted: it may have to be restored, and nothing was found there before.
    fn must_note(&self, prefix: &str) -> bool {
        self.is_undone && matches!(self.noted(prefix), Noted::Nothing | Noted::Gone)
    }

    /// Notes that it is so already. A step that is taken up again without a note may be one of a version that noted less, and
    /// have done it itself: what it found then is no reason to say that there is nothing to be taken back.
    async fn note_found_so(&self, prefix: &str) -> Result<(), Problem> {
        match self.noted(prefix) {
            Noted::Nothing if self.resumed => self.note_intent(format!("{prefix}{FOUND_SO}")).await,
            Noted::Nothing => self.note_intent(format!("{prefix}{GONE_BEFORE}")).await,
            _ => Ok(()),
        }
    }

    /// Notes what stands there, or that it is too long.
    async fn note_before(&self, prefix: &str, before: &str) -> Result<(), Problem> {
        let before = if before.len() > NOTED_BYTES_MAX { TOO_LONG } else { before };
        self.note_intent(format!("{prefix}{before}")).await
    }

    /// Notes what is about to be changed of an event. `is_in_doubt`: the change may have been made before, so that what
    /// is found may be our own work, and what was noted of it then stands where nobody has changed it since.
    pub(super) async fn note_event(
        &self,
        existing: &Event,
        patch: &EventPatch,
        is_in_doubt: bool,
    ) -> Result<(), Problem> {
        if !self.is_undone {
            return Ok(());
        }
        if patch.is_empty() {
            return self.note_found_so(INTENT_CHANGE).await;
        }
        let mut found = Reversal::of(existing, patch);
        match self.noted(INTENT_CHANGE) {
            Noted::Before(before) if is_in_doubt => {
                let before: Option<Reversal> = serde_json::from_str(&before).ok();
                let before = before.ok_or_else(|| unresolved("what the event was before cannot be read"))?;
                found = found.or(before.clone());
                if found == before {
                    return Ok(());
                }
            }
            Noted::TooLong if is_in_doubt => return Ok(()),
            Noted::FoundSo => return Ok(()),
            Noted::Nothing | Noted::Gone | Noted::TooLong | Noted::Before(_) => {}
        }
        let found = serde_json::to_string(&found).unwrap_or_default();
        self.note_before(INTENT_CHANGE, &found).await
    }

    /// Gives an event back what a change took from it.
    ///
    /// # Errors
    /// Why it did not, or why that is not known.
    pub(super) async fn change_event_back(&self, item: &Item) -> Result<(), Problem> {
        let thing = format!("the event “{}”", item.title);
        let Some(before) = self.before(INTENT_CHANGE, &thing)? else { return Ok(()) };
        let reversal: Option<Reversal> = serde_json::from_str(&before).ok();
        let reversal = reversal.ok_or_else(|| unresolved("what the event was before cannot be read"))?;
        let get = calendar::get_event(&item.id, self.shared.zone_name);
        for _look in 0..LOOKS_MAX {
            let event: Event = self
                .google
                .read_fresh(&get, self.limit())
                .await
                .map_err(|error| self.event_problem(item, &error))?;
            if event.is_cancelled() {
                return Err(unresolved(format!("the event “{}” was cancelled since", item.title)));
            }
            let patch = reversal
                .back(&event)
                .map_err(|error| unresolved(format!("the event “{}” stays: {error}", item.title)))?;
            if patch.is_empty() {
                return Ok(());
            }
            let call = calendar::patch_event(&event.id, &patch).only_if(event.etag.as_deref());
            if self.is_settled(item, &call).await? {
                return Ok(());
            }
        }
        Err(restless(item))
    }

    /// Notes which event is about to be cancelled, if it takes place.
    pub(super) async fn note_cancelling(&self, item: &Item) -> Result<(), Problem> {
        if !self.must_note(INTENT_CANCEL) {
            return Ok(());
        }
        let get = calendar::get_event(&item.id, self.shared.zone_name);
        match self.google.read_fresh::<Event>(&get, self.deadline()).await {
            Ok(event) if !event.is_cancelled() => self.note_before(INTENT_CANCEL, &event.id).await,
            Ok(_) => self.note_found_so(INTENT_CANCEL).await,
            Err(error) => Err(self.event_problem(item, &error)),
        }
    }

    /// Has the event that the step cancelled take place.
    ///
    /// # Errors
    /// Why it does not, or why that is not known.
    pub(super) async fn restore_event(&self) -> Result<(), Problem> {
        let Some(id) = self.before(INTENT_CANCEL, "the event")? else { return Ok(()) };
        let get = calendar::get_event(&id, self.shared.zone_name);
        for _look in 0..LOOKS_MAX {
            let shown: Value = self
                .google
                .read_fresh(&get, self.limit())
                .await
                .map_err(|error| self.event_problem(&named(&id), &error))?;
            // Our own work, or somebody else's.
            if shown["status"] != "cancelled" {
                return Ok(());
            }
            let item = Item { title: shown["summary"].as_str().unwrap_or(&id).to_owned(), ..named(&id) };
            let call = calendar::restore_event(&shown)
                .ok_or_else(|| unresolved("Google Calendar no longer shows what the event was"))?;
            if self.is_settled(&item, &call).await? {
                return Ok(());
            }
        }
        Err(restless(&named(&id)))
    }

    /// Makes a call that is bound to a state. `false` when it is another state by now; it may be this call that made it so.
    async fn is_settled(&self, item: &Item, call: &ApiCall) -> Result<bool, Problem> {
        match self.settle(call, "it was taken back").await?.0 {
            Ok(_) => Ok(true),
            Err(error) if error.is_other_state() => Ok(false),
            Err(error) => Err(self.event_problem(item, &error)),
        }
    }

    /// Notes the labels that a message has before it is thrown away: Gmail takes some off.
    pub(super) async fn note_message(&self, item: &Item) -> Result<(), Problem> {
        if !self.must_note(INTENT_TRASH) {
            return Ok(());
        }
        let labels = self.labels_of(item).await?;
        if labels.iter().any(|label| label == TRASH) {
            return self.note_found_so(INTENT_TRASH).await;
        }
        let labels = serde_json::to_string(&labels).unwrap_or_default();
        self.note_before(INTENT_TRASH, &labels).await
    }

    /// Takes a message out of the trash, and gives it the labels back that it lost on its way there.
    ///
    /// # Errors
    /// Why not, or why that is not known.
    pub(super) async fn restore_message(&self, item: &Item) -> Result<(), Problem> {
        let Some(noted) = self.trashed_before(item)? else { return Ok(()) };
        let before: Vec<String> = serde_json::from_str(&noted).unwrap_or_default();
        let untrash = gmail::trash_message(&item.id, false);
        self.settled(item, &untrash).await?;
        let now = self.labels_of(item).await?;
        let lost: Vec<String> = before.into_iter().filter(|label| !now.contains(label)).collect();
        if lost.is_empty() {
            return Ok(());
        }
        self.settled(item, &gmail::modify_labels(&item.id, &lost, &[])).await
    }

    /// What was noted of something before it was thrown away. Steps that older versions brought to their end have noted nothing,
    /// and are taken back without.
    fn trashed_before(&self, item: &Item) -> Result<Option<String>, Problem> {
        if matches!(self.noted(INTENT_TRASH), Noted::Nothing) {
            return Ok(Some(String::new()));
        }
        self.before(INTENT_TRASH, &format!("the {} “{}”", item.kind, item.title))
    }

    async fn settled(&self, item: &Item, call: &ApiCall) -> Result<(), Problem> {
        let answer = self.settle(call, "it was taken back").await?.0;
        answer.map(|_| ()).map_err(|error| self.no_longer(item, &error))
    }

    async fn labels_of(&self, item: &Item) -> Result<Vec<String>, Problem> {
        let message: Result<Message, _> =
            self.google.read_fresh(&gmail::get_labels_of(&item.id), self.limit()).await;
        message.map(|message| message.label_ids).map_err(|error| self.no_longer(item, &error))
    }

    /// Notes whether a file is in the trash already.
    pub(super) async fn note_file(&self, item: &Item) -> Result<(), Problem> {
        if !self.must_note(INTENT_TRASH) {
            return Ok(());
        }
        let file: Result<Trashed, _> =
            self.google.read_fresh(&drive::get_trashed(&item.id), self.deadline()).await;
        let is_trashed = file.map_err(|error| self.no_longer(item, &error))?.trashed;
        if is_trashed {
            return self.note_found_so(INTENT_TRASH).await;
        }
        self.note_before(INTENT_TRASH, "").await
    }

    /// Takes a file out of the trash, if the step put it there.
    ///
    /// # Errors
    /// Why not, or why that is not known.
    pub(super) async fn restore_file(&self, item: &Item) -> Result<(), Problem> {
        match self.trashed_before(item)? {
            None => Ok(()),
            Some(_) => self.settled(item, &drive::trash_file(&item.id, false)).await,
        }
    }

    fn no_longer(&self, item: &Item, error: &CallError) -> Problem {
        if error.is_not_found() {
            return unresolved(format!("the {} “{}” is not there any more", item.kind, item.title));
        }
        self.problem(error)
    }
}

/// An event of which the id is known alone.
fn named(id: &str) -> Item {
    Item {
        kind: ItemKind::Event,
        id: id.to_owned(),
        title: id.to_owned(),
        person: None,
        when: None,
        thread_id: None,
        message_id_header: None,
        snippet: None,
    }
}

pub(super) fn restless(item: &Item) -> Problem {
    let detail = format!("the event “{}” was changed by others each time it was looked at", item.title);
    Problem::new(ProblemKind::UpstreamRefused, detail)
}

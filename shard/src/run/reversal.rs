//! Taking back what was done to things that others look after as well: changed and cancelled events, and what was thrown
//! away.
//!
//! What stood there before goes to the journal before anything is done to it, of steps that may have to be taken back alone.
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
/// The most that is noted of one step: 64 such steps leave room in a record of a megabyte.
const NOTED_BYTES_MAX: usize = 8 << 10;
/// How often something that others change at the same moment is looked at anew.
const LOOKS_MAX: usize = 5;
/// Gmail's label of what was thrown away.
const TRASH: &str = "TRASH";

/// Whether a file was thrown away.
#[derive(Default, Deserialize)]
struct Trashed {
    #[serde(default)]
    trashed: bool,
}

impl StepRun<'_> {
    /// What the journal has of the step's intent behind `prefix`.
    fn noted(&self, prefix: &str) -> Option<String> {
        let intent = self.shared.journal.read(|task| task.steps[self.index].intent.clone())?;
        intent.strip_prefix(prefix).map(str::to_owned)
    }

    /// Whether what stands there now is to be noted: nobody did so before, and it may have to be restored.
    fn must_note(&self) -> bool {
        self.is_undone && self.shared.journal.read(|task| task.steps[self.index].intent.is_none())
    }

    /// Notes that there will be nothing to be taken back. Should that be lost, it is found again.
    fn note_nothing(&self, prefix: &str) {
        let intent = format!("{prefix}{GONE_BEFORE}");
        self.shared.journal.write_step(self.index, |step| step.intent = Some(intent));
    }

    /// Notes what is about to be changed of an event.
    pub(super) async fn note_event(&self, existing: &Event, patch: &EventPatch) -> Result<(), Problem> {
        if !self.must_note() {
            return Ok(());
        }
        if patch.is_empty() {
            self.note_nothing(INTENT_CHANGE);
            return Ok(());
        }
        let noted = serde_json::to_string(&Reversal::of(existing, patch)).unwrap_or_default();
        // What is longer is no place or title that somebody typed; without a note it stays as the step makes it.
        if noted.len() > NOTED_BYTES_MAX {
            return Ok(());
        }
        self.note_intent(format!("{INTENT_CHANGE}{noted}")).await
    }

    /// Gives an event back what a change took from it.
    ///
    /// # Errors
    /// Why it did not, or why that is not known.
    pub(super) async fn change_event_back(&self, item: &Item) -> Result<(), Problem> {
        let noted = self.noted(INTENT_CHANGE);
        if noted.as_deref() == Some(GONE_BEFORE) {
            return Ok(());
        }
        let reversal: Option<Reversal> = noted.and_then(|noted| serde_json::from_str(&noted).ok());
        let reversal = reversal.ok_or_else(|| unresolved("what the event was before was not noted"))?;
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
        if !self.must_note() {
            return Ok(());
        }
        let get = calendar::get_event(&item.id, self.shared.zone_name);
        match self.google.read_fresh::<Event>(&get, self.deadline()).await {
            Ok(event) if !event.is_cancelled() => {
                self.note_intent(format!("{INTENT_CANCEL}{}", event.id)).await
            }
            Ok(_) => {
                self.note_nothing(INTENT_CANCEL);
                Ok(())
            }
            Err(error) => Err(self.event_problem(item, &error)),
        }
    }

    /// Has the event that the step cancelled take place.
    ///
    /// # Errors
    /// Why it does not, or why that is not known.
    pub(super) async fn restore_event(&self) -> Result<(), Problem> {
        let id = self.noted(INTENT_CANCEL);
        let id = id.ok_or_else(|| unresolved("which event was cancelled was not noted"))?;
        if id == GONE_BEFORE {
            return Ok(());
        }
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
        if !self.must_note() {
            return Ok(());
        }
        let labels = self.labels_of(item).await?;
        if labels.iter().any(|label| label == TRASH) {
            self.note_nothing(INTENT_TRASH);
            return Ok(());
        }
        let labels = serde_json::to_string(&labels).unwrap_or_default();
        if labels.len() > NOTED_BYTES_MAX {
            return Ok(());
        }
        self.note_intent(format!("{INTENT_TRASH}{labels}")).await
    }

    /// Takes a message out of the trash, and gives it the labels back that it lost on its way there.
    ///
    /// # Errors
    /// Why not, or why that is not known.
    pub(super) async fn restore_message(&self, item: &Item) -> Result<(), Problem> {
        // Steps of older versions have noted nothing.
        let noted = self.noted(INTENT_TRASH).unwrap_or_else(|| "[]".to_owned());
        if noted == GONE_BEFORE {
            return Ok(());
        }
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
        if !self.must_note() {
            return Ok(());
        }
        let file: Result<Trashed, _> =
            self.google.read_fresh(&drive::get_trashed(&item.id), self.deadline()).await;
        let is_trashed = file.map_err(|error| self.no_longer(item, &error))?.trashed;
        if is_trashed {
            self.note_nothing(INTENT_TRASH);
            return Ok(());
        }
        self.note_intent(INTENT_TRASH.to_owned()).await
    }

    /// Takes a file out of the trash, if the step put it there.
    ///
    /// # Errors
    /// Why not, or why that is not known.
    pub(super) async fn restore_file(&self, item: &Item) -> Result<(), Problem> {
        if self.noted(INTENT_TRASH).as_deref() == Some(GONE_BEFORE) {
            return Ok(());
        }
        self.settled(item, &drive::trash_file(&item.id, false)).await
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

fn restless(item: &Item) -> Problem {
    let detail = format!("the event “{}” was changed by others each time it was looked at", item.title);
    Problem::new(ProblemKind::UpstreamRefused, detail)
}

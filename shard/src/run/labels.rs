//! Labels of messages.
//!
//! What a step is about to change of a message, and no more than that, goes to the journal first: so it can be taken
//! back, and a step that is taken up again does not mistake its own work for what was there before.

use serde::{Deserialize, Serialize};
use sluice_protocols::google::gmail::{self, Label, LabelList, Message};
use sluice_protocols::google::{ApiCall, UpstreamFault};
use sluice_protocols::plan::{Item, ItemRef, Service};
use sluice_protocols::problem::Problem;

use super::known::unresolved;
use super::step::{Done, StepRun};
use crate::upstream::CallError;

/// What the change of labels in a step's intent begins with.
const INTENT_LABELS: &str = "labels:";
/// The longest id of a label that is taken.
const LABEL_ID_BYTES_MAX: usize = 256;

/// Ids of labels that a message did not have, and of those that it had.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Change {
    add: Vec<String>,
    remove: Vec<String>,
}

impl Change {
    fn is_nothing(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

impl StepRun<'_> {
    pub(super) async fn gmail_label(
        &self,
        message: ItemRef,
        add: &[String],
        remove: &[String],
    ) -> Result<Done, Problem> {
        let item = self.shared.known.item(message)?;
        let change = match self.intended_labels() {
            Some(change) => change,
            None => {
                let change = self.missing_labels(&item, add, remove).await?;
                let intent = serde_json::to_string(&change).unwrap_or_default();
                self.note_intent(format!("{INTENT_LABELS}{intent}")).await?;
                change
            }
        };
        if !change.is_nothing() {
            let call = gmail::modify_labels(&item.id, &change.add, &change.remove);
            let changed = self.settle(&call, "the labels were changed").await?.0;
            changed.map_err(|error| self.message_problem(&item, &error))?;
        }
        Ok(Done::items([item]))
    }

    /// Makes the labels of a message what they were before the step; `None` when it changed none, for Gmail refuses a change
    /// of nothing.
    ///
    /// # Errors
    /// They were not noted.
    pub(super) fn labels_before(&self, id: &str) -> Result<Option<ApiCall>, Problem> {
        let change = self.intended_labels();
        let change = change.ok_or_else(|| unresolved("the labels before the step were not noted"))?;
        Ok((!change.is_nothing()).then(|| gmail::modify_labels(id, &change.remove, &change.add)))
    }

    fn intended_labels(&self) -> Option<Change> {
        let intent = self.shared.journal.read(|task| task.steps[self.index].intent.clone())?;
        serde_json::from_str(intent.strip_prefix(INTENT_LABELS)?).ok()
    }

    /// What is to be changed of the message as it is.
    async fn missing_labels(
        &self,
        item: &Item,
        add: &[String],
        remove: &[String],
    ) -> Result<Change, Problem> {
        let problem = |error: CallError| self.message_problem(item, &error);
        let message: Message = self
            .google
            .read_fresh(&gmail::get_labels_of(&item.id), self.deadline())
            .await
            .map_err(problem)?;
        let known = self.labels().await?;
        let find =
            |name: &str| known.iter().find(|label| is_called(label, name)).map(|label| label.id.clone());
        let has = |id: &String| message.label_ids.contains(id);
        let mut change = Change { add: Vec::new(), remove: Vec::new() };
        for name in add {
            let id = match find(name) {
                Some(id) => id,
                None => self.new_label(name).await?,
            };
            if !has(&id) && !change.add.contains(&id) {
                change.add.push(id);
            }
        }
        for id in remove.iter().filter_map(|name| find(name)).filter(has) {
            if !change.remove.contains(&id) && !change.add.contains(&id) {
                change.remove.push(id);
            }
        }
        Ok(change)
    }

    async fn labels(&self) -> Result<Vec<Label>, Problem> {
        let list = self.google.read_fresh::<LabelList>(&gmail::list_labels(), self.deadline()).await;
        let list = list.map_err(|error| self.problem(&error))?;
        Ok(list.labels.into_iter().filter(|label| is_fit(&label.id)).collect())
    }

    /// Makes a label; another may have made it meanwhile.
    async fn new_label(&self, name: &str) -> Result<String, Problem> {
        let error = match self.settle(&gmail::create_label(name), "the label was made").await?.0 {
            Ok(reply) => match serde_json::from_slice::<Label>(&reply.body) {
                Ok(label) if is_fit(&label.id) => return Ok(label.id),
                _ => CallError::Nonsense { service: Service::Gmail },
            },
            Err(error) => error,
        };
        if error.fault() == Some(UpstreamFault::Conflict)
            && let Some(label) = self.labels().await?.into_iter().find(|label| is_called(label, name))
        {
            return Ok(label.id);
        }
        Err(self.problem(&error))
    }

    fn message_problem(&self, item: &Item, error: &CallError) -> Problem {
        if error.is_not_found() {
            return unresolved(format!("the message “{}” is not there any more", item.title));
        }
        self.problem(error)
    }
}

/// Gmail tells labels apart whatever their case.
fn is_called(label: &Label, name: &str) -> bool {
    label.name.trim().to_lowercase() == name.trim().to_lowercase()
}

fn is_fit(id: &str) -> bool {
    (1..=LABEL_ID_BYTES_MAX).contains(&id.len())
}

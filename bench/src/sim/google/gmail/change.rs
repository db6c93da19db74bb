//! What changes messages: labels, the bin, deletion; and the history of it all.

use serde_json::{Value, json};

use super::{Gmail, Outcome, done, not_found, show_sent};
use crate::sim::wire::{Reply, google_error, page};
use crate::sim::world::{HistoryKind, HistoryRecord, MailBox};

/// Ids that one batch may name.
const IDS_MAX: usize = 1_000;

pub(super) fn label_list(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Refuses labels that there are not, and those that are not given by hand.
pub(super) fn check_labels(mail: &MailBox, labels: &[String]) -> Result<(), Reply> {
    match labels.iter().find(|label| !mail.is_label(label)) {
        Some(label) => Err(google_error(400, "invalidArgument", &format!("Invalid label: {label}"))),
        None => Ok(()),
    }
}

impl Gmail<'_> {
    /// What is to be added and removed, checked.
    pub(super) fn changes(&self, mail: &MailBox) -> Result<(Vec<String>, Vec<String>), Reply> {
        let body = &self.0.body;
        let (add, remove) = (label_list(&body["addLabelIds"]), label_list(&body["removeLabelIds"]));
        for labels in [&add, &remove] {
            check_labels(mail, labels)?;
            if let Some(label) = labels.iter().find(|label| matches!(label.as_str(), "SENT" | "DRAFT")) {
                return Err(google_error(400, "invalidArgument", &format!("Invalid label: {label}")));
            }
        }
        if add.is_empty() && remove.is_empty() {
            return Err(google_error(400, "invalidArgument", "No label add or removes specified"));
        }
        if let Some(both) = add.iter().find(|label| remove.contains(label)) {
            let message = format!("Cannot both add and remove the same label: {both}");
            return Err(google_error(400, "invalidArgument", &message));
        }
        Ok((add, remove))
    }

    pub(super) fn modify(&self, id: &str) -> Outcome {
        let mut mail = self.mail();
        let (add, remove) = self.changes(&mail)?;
        mail.relabel(id, &add, &remove).then_some(()).ok_or_else(not_found)?;
        Ok(show_sent(mail.message(id).ok_or_else(not_found)?).into())
    }

    pub(super) fn relabel(&self, id: &str, add: &[&str], remove: &[&str]) -> Outcome {
        let owned = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>();
        let mut mail = self.mail();
        mail.relabel(id, &owned(add), &owned(remove)).then_some(()).ok_or_else(not_found)?;
        Ok(show_sent(mail.message(id).ok_or_else(not_found)?).into())
    }

    /// The ids of a batch.
    pub(super) fn ids(&self) -> Result<Vec<String>, Reply> {
        let ids = label_list(&self.0.body["ids"]);
        if ids.is_empty() {
            return Err(google_error(400, "invalidArgument", "No message ids specified."));
        }
        if ids.len() > IDS_MAX {
            let message = format!("Cannot modify more than {IDS_MAX} messages at once.");
            return Err(google_error(400, "invalidArgument", &message));
        }
        Ok(ids)
    }

    /// Ids that there are not are passed over.
    pub(super) fn batch_modify(&self) -> Outcome {
        let ids = self.ids()?;
        let mut mail = self.mail();
        let (add, remove) = self.changes(&mail)?;
        for id in &ids {
            mail.relabel(id, &add, &remove);
        }
        done()
    }

    pub(super) fn delete(&self, ids: &[String], must_be: bool) -> Outcome {
        let mut mail = self.mail();
        for id in ids {
            if !mail.delete(id) && must_be {
                return Err(not_found());
            }
        }
        done()
    }

    pub(super) fn history(&self) -> Outcome {
        let (size, offset) = self.page_of()?;
        let start = self.0.param("startHistoryId").unwrap_or_default();
        let start: u64 = start
            .parse()
            .map_err(|_| google_error(400, "invalidArgument", "Missing or invalid startHistoryId"))?;
        let mail = self.mail();
        if start < mail.history_floor() || start > mail.history_id() {
            return Err(not_found());
        }
        let kinds: Vec<&str> = self.0.call.query.all("historyTypes").collect();
        let label = self.0.param("labelId");
        let found: Vec<&HistoryRecord> = mail
            .history
            .iter()
            .filter(|record| record.id > start)
            .filter(|record| kinds.is_empty() || kinds.contains(&record.kind.name()))
            .filter(|record| label.is_none_or(|label| record.labels.iter().any(|l| l == label)))
            .collect();
        let (found, next) = page(found, offset, size);
        let mut answer = json!({"historyId": mail.history_id().to_string()});
        if !found.is_empty() {
            answer["history"] = found.into_iter().map(show_record).collect();
        }
        if let Some(next) = next {
            answer["nextPageToken"] = next.into();
        }
        Ok(answer.into())
    }
}

fn show_record(record: &HistoryRecord) -> Value {
    let short = json!({"id": record.message_id, "threadId": record.thread_id});
    let mut message = short.clone();
    message["labelIds"] = json!(record.labels);
    let mut entry = json!({"message": message});
    if matches!(record.kind, HistoryKind::LabelAdded | HistoryKind::LabelRemoved) {
        entry["labelIds"] = json!(record.changed);
    }
    let mut shown = json!({"id": record.id.to_string(), "messages": [short]});
    let list = match record.kind {
        HistoryKind::MessageAdded => "messagesAdded",
        HistoryKind::MessageDeleted => "messagesDeleted",
        HistoryKind::LabelAdded => "labelsAdded",
        HistoryKind::LabelRemoved => "labelsRemoved",
    };
    shown[list] = json!([entry]);
    shown
}

//! Labels: those of the system, and those of the user.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{Answer, Gmail, Outcome, done, not_found};
use crate::sim::wire::{Reply, google_error};
use crate::sim::world::{Label, MailBox};

/// Labels of one mailbox, as Gmail limits them.
const LABELS_MAX: usize = 10_000;

impl Gmail<'_> {
    pub(super) fn list_labels(&self) -> Answer {
        let mail = self.mail();
        let labels: Vec<Value> = mail.labels.iter().map(show).collect();
        json!({"labels": labels}).into()
    }

    pub(super) fn get_label(&self, id: &str) -> Outcome {
        let mail = self.mail();
        let label = mail.labels.iter().find(|label| label.id == id).ok_or_else(not_found)?;
        let mut shown = show(label);
        let (mut messages, mut unread) = (0, 0);
        let (mut threads, mut threads_unread) = (HashSet::new(), HashSet::new());
        for message in mail.messages.iter().filter(|message| message.has_label(id)) {
            messages += 1;
            threads.insert(&message.thread_id);
            if message.has_label("UNREAD") {
                unread += 1;
                threads_unread.insert(&message.thread_id);
            }
        }
        shown["messagesTotal"] = json!(messages);
        shown["messagesUnread"] = json!(unread);
        shown["threadsTotal"] = json!(threads.len());
        shown["threadsUnread"] = json!(threads_unread.len());
        Ok(shown.into())
    }

    pub(super) fn create_label(&self) -> Outcome {
        let mut mail = self.mail();
        let mut label = Label { id: String::new(), name: String::new(), is_system: false, rest: Value::Null };
        change(&mut label, &self.0.body, true, &mail)?;
        if mail.labels.len() >= LABELS_MAX {
            return Err(google_error(400, "invalidArgument", "Too many labels"));
        }
        label.id = mail.fresh_label_id();
        let shown = show(&label);
        mail.labels.push(label);
        Ok(shown.into())
    }

    pub(super) fn change_label(&self, id: &str, whole: bool) -> Outcome {
        let mut mail = self.mail();
        let position = mail.labels.iter().position(|label| label.id == id).ok_or_else(not_found)?;
        let mut label = mail.labels[position].clone();
        if label.is_system {
            return Err(google_error(400, "invalidArgument", "Invalid update request"));
        }
        change(&mut label, &self.0.body, whole, &mail)?;
        let shown = show(&label);
        mail.labels[position] = label;
        Ok(shown.into())
    }

    pub(super) fn delete_label(&self, id: &str) -> Outcome {
        let mut mail = self.mail();
        let position = mail.labels.iter().position(|label| label.id == id).ok_or_else(not_found)?;
        if mail.labels[position].is_system {
            return Err(google_error(400, "invalidArgument", "Invalid delete request"));
        }
        mail.labels.remove(position);
        let carriers: Vec<String> =
            mail.messages.iter().filter(|message| message.has_label(id)).map(|m| m.id.clone()).collect();
        for message in carriers {
            mail.relabel(&message, &[], &[id.to_owned()]);
        }
        done()
    }
}

/// Takes over what the body says; a `whole` one must have a name.
fn change(label: &mut Label, body: &Value, whole: bool, mail: &MailBox) -> Result<(), Reply> {
    match body["name"].as_str().map(str::trim) {
        Some("") => return Err(google_error(400, "invalidArgument", "Invalid label name")),
        None if whole => return Err(google_error(400, "invalidArgument", "Invalid label name")),
        Some(name) => {
            let taken = mail.label_named(name).is_some_and(|other| other.id != label.id);
            if taken {
                return Err(google_error(409, "aborted", "Label name exists or conflicts"));
            }
            name.clone_into(&mut label.name);
        }
        None => {}
    }
    if whole {
        label.rest = json!({});
    }
    for name in ["messageListVisibility", "labelListVisibility", "color"] {
        if let Some(value) = body.get(name).filter(|value| !value.is_null()) {
            label.rest[name] = value.clone();
        }
    }
    Ok(())
}

fn show(label: &Label) -> Value {
    let mut shown =
        json!({"id": label.id, "name": label.name, "type": if label.is_system { "system" } else { "user" }});
    if let (Some(shown), Some(rest)) = (shown.as_object_mut(), label.rest.as_object()) {
        shown.extend(rest.clone());
    }
    shown
}

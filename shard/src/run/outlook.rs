//! What a task would change, in words, for whoever is asked to confirm it.
//!
//! Nothing was looked up yet: what earlier steps find, and what the session remembers, stands there as the plan has it
//! (`$s1[0]`, `#m1`). Of a workflow's step with places that are filled in when it begins, only the kind of change is told.

use sluice_protocols::api::ChangeView;
use sluice_protocols::plan::{Operation, Recipient};
use sluice_protocols::workflow::{Graph, Node};

/// Every change, in the order of the steps.
pub(super) fn changes(graph: &Graph) -> Vec<ChangeView> {
    let changing = graph.nodes().iter().filter(|node| node.call().is_side_effect());
    changing.map(change).collect()
}

fn change(node: &Node) -> ChangeView {
    let call = node.call();
    ChangeView {
        step: node.name().map_or_else(|| node.id().to_string(), str::to_owned),
        operation: call.name().to_owned(),
        what: if node.has_places() { in_general(call).to_owned() } else { exactly(call) },
        reversible: call.undo().is_some(),
    }
}

fn in_general(call: &Operation) -> &'static str {
    match call {
        Operation::GmailSend { .. } => "send a mail",
        Operation::GmailReply { .. } => "answer a message",
        Operation::GmailForward { .. } => "forward a message",
        Operation::GmailDraft { .. } => "write a draft",
        Operation::GmailLabel { .. } => "change the labels of a message",
        Operation::GmailTrash { .. } => "move a message to the trash",
        Operation::CalendarCreate { .. } => "make an event",
        Operation::CalendarChange { .. } => "change an event",
        Operation::CalendarDelete { .. } => "cancel an event",
        Operation::DriveCreate { folder: true, .. } => "make a folder",
        Operation::DriveCreate { .. } => "make a file",
        Operation::DriveShare { .. } => "share a file",
        Operation::DriveMove { .. } => "move a file to another folder",
        Operation::DriveTrash { .. } => "move a file to the trash",
        Operation::GmailSearch { .. }
        | Operation::GmailRead { .. }
        | Operation::CalendarList { .. }
        | Operation::CalendarFreeBusy { .. }
        | Operation::DriveSearch { .. }
        | Operation::DriveRead { .. }
        | Operation::DriveExport { .. } => "look something up",
    }
}

fn exactly(call: &Operation) -> String {
    match call {
        Operation::GmailSend { to, subject, .. } => format!("send the mail “{subject}” to {}", people(to)),
        Operation::GmailReply { message, .. } => format!("answer the message {message}"),
        Operation::GmailForward { message, to, .. } => {
            format!("forward the message {message} to {}", people(to))
        }
        Operation::GmailDraft { to, subject, .. } => format!("draft the mail “{subject}” to {}", people(to)),
        Operation::GmailLabel { message, add, remove } => {
            let signed = add.iter().map(|name| format!("+{name}"));
            let signed: Vec<String> = signed.chain(remove.iter().map(|name| format!("-{name}"))).collect();
            format!("label the message {message}: {}", signed.join(", "))
        }
        Operation::GmailTrash { message } => format!("move the message {message} to the trash"),
        Operation::CalendarCreate { title, start, attendees, .. } => {
            format!("make the event “{title}” on {start}{}", inviting(attendees))
        }
        Operation::CalendarChange { event, title, start, location, add_attendees, .. } => {
            let mut what = format!("change the event {event}");
            if let Some(title) = title {
                what += &format!(", call it “{title}”");
            }
            if let Some(start) = start {
                what += &format!(", begin it on {start}");
            }
            if let Some(location) = location {
                what += &format!(", have it at {location}");
            }
            what + &inviting(add_attendees)
        }
        Operation::CalendarDelete { event } => format!("cancel the event {event}"),
        Operation::DriveCreate { name, folder: true, .. } => format!("make the folder “{name}”"),
        Operation::DriveCreate { name, .. } => format!("make the file “{name}”"),
        Operation::DriveShare { file, people: with, role } => {
            format!("share the file {file} with {} ({})", people(with), role.name())
        }
        Operation::DriveMove { file, folder } => format!("move the file {file} to the folder {folder}"),
        Operation::DriveTrash { file } => format!("move the file {file} to the trash"),
        Operation::GmailSearch { .. }
        | Operation::GmailRead { .. }
        | Operation::CalendarList { .. }
        | Operation::CalendarFreeBusy { .. }
        | Operation::DriveSearch { .. }
        | Operation::DriveRead { .. }
        | Operation::DriveExport { .. } => in_general(call).to_owned(),
    }
}

fn people(all: &[Recipient]) -> String {
    let all: Vec<String> = all.iter().map(ToString::to_string).collect();
    all.join(", ")
}

fn inviting(all: &[Recipient]) -> String {
    if all.is_empty() { String::new() } else { format!(", inviting {}", people(all)) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sluice_protocols::plan::Plan;
    use sluice_protocols::workflow::Workflow;

    use super::*;

    fn of_plan(calls: &[Value]) -> Vec<ChangeView> {
        let steps: Vec<Value> = (1..)
            .zip(calls)
            .map(|(number, call)| json!({"id": format!("s{number}"), "after": [], "call": call}))
            .collect();
        let plan = json!({"decision": "act", "reason": null, "steps": steps}).to_string();
        changes(&Graph::of_plan(&Plan::from_model_json(&plan).unwrap()))
    }

    #[test]
    fn changes_are_told_in_words_and_what_only_reads_is_left_out() {
        let told = of_plan(&[
            json!({"operation": "gmail.search", "query": "from:anna", "limit": 1}),
            json!({"operation": "gmail.send", "to": ["kim@example.com", "$s1[0].from"], "subject": "Hi", "body": "x"}),
            json!({"operation": "gmail.label", "message": "#m2", "add": ["Trips"], "remove": ["UNREAD"]}),
            json!({"operation": "calendar.change", "event": "#e1", "title": null, "start": "2031-03-04T10:00",
                "end": null, "location": "Rome", "add_attendees": ["kim@example.com"]}),
            json!({"operation": "drive.share", "file": "#f1", "people": ["kim@example.com"], "role": "writer"}),
        ]);
        let told: Vec<(&str, &str, bool)> =
            told.iter().map(|one| (&*one.step, &*one.what, one.reversible)).collect();
        assert_eq!(
            told,
            [
                ("s2", "send the mail “Hi” to kim@example.com, $s1[0].from", false),
                ("s3", "label the message #m2: +Trips, -UNREAD", true),
                (
                    "s4",
                    "change the event #e1, begin it on 2031-03-04T10:00, have it at Rome, inviting kim@example.com",
                    true
                ),
                ("s5", "share the file #f1 with kim@example.com (writer)", true),
            ]
        );
    }

    #[test]
    fn of_what_is_filled_in_later_only_the_kind_is_told() {
        let definition = json!({"input": {"name": {"type": "text"}}, "steps": [
            {"id": "open", "operation": "drive.create", "with": {"name": "$input.name"}},
            {"id": "fixed", "operation": "drive.create", "with": {"name": "Trips", "folder": true}},
        ]});
        let told = changes(&Workflow::check(&definition).unwrap().graph);
        let told: Vec<(&str, &str)> = told.iter().map(|one| (&*one.step, &*one.what)).collect();
        assert_eq!(told, [("open", "make a file"), ("fixed", "make the folder “Trips”")]);
    }
}

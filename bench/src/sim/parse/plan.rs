//! Plans as they are written: steps that call operations, with references between
//! them; and the check that one is valid.

use std::fmt;

use serde_json::{Value, json};

use super::words::is_email;

/// A plan has at most this many steps.
pub(super) const STEPS_MAX: usize = 8;
/// A step returns at most this many items.
const LIMIT_MAX: u64 = 20;
/// A step writes to or invites at most this many.
const RECIPIENTS_MAX: usize = 20;
/// A step puts on a message, or takes off it, at most this many labels.
const LABELS_MAX: usize = 10;
/// One line of text has at most this many characters; a longer one is cut.
const LINE_CHARS_MAX: usize = 300;

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Message,
    Event,
    File,
}

impl Kind {
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "message" => Some(Self::Message),
            "event" => Some(Self::Event),
            "file" => Some(Self::File),
            _ => None,
        }
    }

    fn handle(self) -> char {
        match self {
            Self::Message => 'm',
            Self::Event => 'e',
            Self::File => 'f',
        }
    }
}

/// Points at an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ref {
    /// Item `.1` of the results of the step with index `.0`.
    Step(usize, usize),
    /// An item of the session by its handle.
    Item(String),
}

impl Ref {
    /// The person of the item.
    pub(super) fn person(&self) -> String {
        format!("{self}.from")
    }
}

impl fmt::Display for Ref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(step, item) => write!(f, "$s{}[{item}]", step + 1),
            Self::Item(handle) => write!(f, "#{handle}"),
        }
    }
}

/// One step.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(super) after: Vec<usize>,
    pub(super) call: Value,
}

impl Step {
    pub(super) fn operation(&self) -> &str {
        self.call["operation"].as_str().unwrap_or_default()
    }
}

/// What a command was taken to mean.
#[derive(Debug, Clone)]
pub(crate) enum Plan {
    Act(Vec<Step>),
    Decline(String),
}

impl Plan {
    /// The JSON the model's schema asks for.
    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::Decline(reason) => json!({"decision": "decline", "reason": reason, "steps": []}),
            Self::Act(steps) => {
                let id = |index: usize| format!("s{}", index + 1);
                let steps: Vec<Value> = steps
                    .iter()
                    .enumerate()
                    .map(|(index, step)| {
                        let after: Vec<String> = step.after.iter().map(|step| id(*step)).collect();
                        json!({"id": id(index), "after": after, "call": step.call})
                    })
                    .collect();
                json!({"decision": "act", "reason": null, "steps": steps})
            }
        }
    }
}

/// The members of an operation's call besides its name, and what it gives.
fn signature(operation: &str) -> Option<(&'static [&'static str], Option<Kind>)> {
    Some(match operation {
        "gmail.search" => (&["query", "limit"], Some(Kind::Message)),
        "gmail.read" => (&["message"], Some(Kind::Message)),
        "gmail.send" => (&["to", "subject", "body"], Some(Kind::Message)),
        "gmail.reply" => (&["message", "body"], Some(Kind::Message)),
        "calendar.list" => (&["from", "to", "query", "limit"], Some(Kind::Event)),
        "calendar.create" => {
            (&["title", "start", "end", "attendees", "location", "description"], Some(Kind::Event))
        }
        "calendar.change" => {
            (&["event", "title", "start", "end", "location", "add_attendees"], Some(Kind::Event))
        }
        "gmail.forward" => (&["message", "to", "body"], Some(Kind::Message)),
        "gmail.draft" => (&["to", "subject", "body"], Some(Kind::Message)),
        "gmail.label" => (&["message", "add", "remove"], Some(Kind::Message)),
        "gmail.trash" => (&["message"], Some(Kind::Message)),
        "calendar.delete" => (&["event"], None),
        "calendar.free_busy" => (&["from", "to", "people"], None),
        "drive.create" => (&["name", "folder", "text"], Some(Kind::File)),
        "drive.share" => (&["file", "people", "role"], Some(Kind::File)),
        "drive.export" => (&["file", "format"], Some(Kind::File)),
        "drive.move" => (&["file", "folder"], Some(Kind::File)),
        "drive.trash" => (&["file"], Some(Kind::File)),
        "drive.search" => (&["text", "limit"], Some(Kind::File)),
        "drive.read" => (&["file"], Some(Kind::File)),
        _ => return None,
    })
}

/// How many items a call gives at most.
pub(super) fn count_max(call: &Value) -> u64 {
    call["limit"].as_u64().unwrap_or(1)
}

/// `call` with every text on one line of bounded length, but for the body.
pub(super) fn tidy(mut call: Value) -> Value {
    for (name, value) in call.as_object_mut().into_iter().flatten() {
        if let Value::String(text) = value {
            *text = if name == "body" {
                text.chars().filter(|c| !c.is_control() || *c == '\n').collect()
            } else {
                let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).collect();
                let line = words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
                line.chars().take(LINE_CHARS_MAX).collect()
            };
        }
    }
    call
}

/// What the results of an operation are.
pub(super) fn produces(operation: &str) -> Option<Kind> {
    signature(operation).and_then(|(_, kind)| kind)
}

/// Says what is wrong with a plan, if anything is. References may only point back,
/// so that a valid plan has no cycles.
pub(crate) fn check(plan: &Value) -> Result<(), String> {
    let steps = plan["steps"].as_array().ok_or("steps is no list")?;
    match plan["decision"].as_str() {
        Some("decline")
            if steps.is_empty() && plan["reason"].as_str().is_some_and(|reason| !reason.is_empty()) =>
        {
            return Ok(());
        }
        Some("act") if (1..=STEPS_MAX).contains(&steps.len()) && plan["reason"].is_null() => {}
        _ => return Err("decision, reason and steps do not go together".to_owned()),
    }
    for (index, step) in steps.iter().enumerate() {
        check_step(steps, index, step).map_err(|reason| format!("step {}: {reason}", index + 1))?;
    }
    Ok(())
}

fn check_step(steps: &[Value], index: usize, step: &Value) -> Result<(), String> {
    if step["id"] != format!("s{}", index + 1) {
        return Err("has the wrong id".to_owned());
    }
    for earlier in step["after"].as_array().ok_or("after is no list")? {
        let known = (0..index).any(|step| *earlier == format!("s{}", step + 1));
        if !known {
            return Err(format!("comes after {earlier}"));
        }
    }
    let call = step["call"].as_object().ok_or("has no call")?;
    let operation = call.get("operation").and_then(Value::as_str).unwrap_or_default();
    let (members, _) = signature(operation).ok_or_else(|| format!("no operation {operation:?}"))?;
    if call.len() != members.len() + 1 {
        return Err(format!("{operation} does not have exactly {members:?}"));
    }
    for member in members {
        let value = call.get(*member).ok_or_else(|| format!("{operation} lacks {member}"))?;
        check_member(steps, index, operation, member, value)
            .map_err(|reason| format!("{member}: {reason}"))?;
    }
    Ok(())
}

fn check_member(
    steps: &[Value],
    index: usize,
    operation: &str,
    member: &str,
    value: &Value,
) -> Result<(), String> {
    let text = value.as_str();
    let fine = match (operation, member) {
        (_, "limit") => value.as_u64().is_some_and(|limit| (1..=LIMIT_MAX).contains(&limit)),
        (_, "message") => return check_ref(steps, index, text, Kind::Message, ""),
        (_, "event") => return check_ref(steps, index, text, Kind::Event, ""),
        (_, "file") | ("drive.move", "folder") => {
            return check_ref(steps, index, text, Kind::File, "");
        }
        (_, "to" | "attendees" | "add_attendees" | "people") if value.is_array() => {
            for one in value.as_array().into_iter().flatten() {
                let one = one.as_str();
                if !one.is_some_and(is_email) {
                    [Kind::Message, Kind::Event, Kind::File]
                        .into_iter()
                        .map(|kind| check_ref(steps, index, one, kind, ".from"))
                        .find(Result::is_ok)
                        .ok_or_else(|| format!("{one:?} is nobody"))??;
                }
            }
            let count = value.as_array().map_or(0, Vec::len);
            let may_be_none = operation.starts_with("calendar.");
            count <= RECIPIENTS_MAX && (count > 0 || may_be_none)
        }
        (_, "add" | "remove") => value.as_array().is_some_and(|names| {
            names.len() <= LABELS_MAX
                && names.iter().all(|name| name.as_str().is_some_and(|name| !name.is_empty()))
        }),
        (_, "role") => text.is_some_and(|role| matches!(role, "reader" | "commenter" | "writer")),
        (_, "format") => {
            text.is_some_and(|form| matches!(form, "pdf" | "docx" | "xlsx" | "pptx" | "txt" | "csv"))
        }
        (_, "folder") => value.is_boolean(),
        ("gmail.forward", "body") => text.is_some(),
        ("calendar.free_busy", "from" | "to") => text.is_some_and(is_moment),
        ("drive.create", "name") => text.is_some_and(|text| !text.trim().is_empty()),
        ("calendar.create", "start") => text.is_some_and(is_moment),
        (_, "from" | "to" | "start" | "end") => value.is_null() || text.is_some_and(is_moment),
        ("gmail.search", "query")
        | ("gmail.send" | "gmail.draft", "body")
        | ("gmail.reply", "body")
        | ("drive.search", "text") => text.is_some_and(|text| !text.trim().is_empty()),
        ("calendar.create", "title") => text.is_some_and(|text| !text.trim().is_empty()),
        ("gmail.send" | "gmail.draft", "subject") => text.is_some(),
        _ => value.is_null() || text.is_some(),
    };
    if fine { Ok(()) } else { Err(format!("{value} is not allowed")) }
}

fn is_moment(text: &str) -> bool {
    match text.len() {
        10 => text.parse::<jiff::civil::Date>().is_ok(),
        16 => format!("{text}:00").parse::<jiff::civil::DateTime>().is_ok() && text.as_bytes()[10] == b'T',
        _ => false,
    }
}

/// A reference of this kind, to an earlier step or to the session, ending in `suffix`.
fn check_ref(
    steps: &[Value],
    index: usize,
    text: Option<&str>,
    kind: Kind,
    suffix: &str,
) -> Result<(), String> {
    let whole = text.unwrap_or_default();
    let wrong = || format!("{whole:?} is no reference that fits");
    let text = whole.strip_suffix(suffix).ok_or_else(wrong)?;
    if let Some(handle) = text.strip_prefix('#') {
        let digits = handle.strip_prefix(kind.handle()).ok_or_else(wrong)?;
        let fine = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        return if fine { Ok(()) } else { Err(wrong()) };
    }
    let (step, item) = text
        .strip_prefix("$s")
        .and_then(|text| text.strip_suffix(']'))
        .and_then(|text| text.split_once('['))
        .ok_or_else(wrong)?;
    let step: usize = step.parse().map_err(|_| wrong())?;
    let item: u64 = item.parse().map_err(|_| wrong())?;
    let target = step
        .checked_sub(1)
        .filter(|step| *step < index)
        .and_then(|step| steps.get(step))
        .ok_or_else(wrong)?;
    let operation = target["call"]["operation"].as_str().unwrap_or_default();
    let exists = item < count_max(&target["call"]);
    if produces(operation) == Some(kind) && exists { Ok(()) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Value {
        json!({"decision": "act", "reason": null, "steps": [
            {"id": "s1", "after": [], "call": {"operation": "gmail.search", "query": "from:anna", "limit": 5}},
            {"id": "s2", "after": ["s1"], "call": {"operation": "calendar.create", "title": "T", "start": "2026-11-24T10:00",
                "end": null, "attendees": ["$s1[0].from", "a@b.example", "#e2.from"], "location": null, "description": null}},
            {"id": "s3", "after": [], "call": {"operation": "gmail.reply", "message": "#m1", "body": "Hi."}}]})
    }

    #[test]
    fn a_valid_plan_passes() {
        assert_eq!(check(&plan()), Ok(()));
        assert_eq!(check(&json!({"decision": "decline", "reason": "No.", "steps": []})), Ok(()));
    }

    #[test]
    fn each_fault_is_found() {
        for (pointer, value) in [
            ("/decision", json!("decline")),
            ("/steps", json!([])),
            ("/steps/0/id", json!("s2")),
            ("/steps/0/after", json!(["s2"])),
            ("/steps/0/call/limit", json!(21)),
            ("/steps/0/call/query", json!(" ")),
            ("/steps/0/call/operation", json!("gmail.erase")),
            ("/steps/1/call/start", json!("2026-11-24 10:00")),
            ("/steps/1/call/start", json!(null)),
            ("/steps/1/call/attendees/0", json!("$s3[0].from")),
            ("/steps/1/call/attendees/0", json!("$s1[0]")),
            ("/steps/1/call/attendees/0", json!("anna")),
            ("/steps/2/call/message", json!("#f1")),
            ("/steps/2/call/message", json!("$s2[0]")),
            ("/steps/2/call/message", json!("$s0[0]")),
            ("/steps/2/call/message", json!("$s1[5]")),
        ] {
            let mut plan = plan();
            *plan.pointer_mut(pointer).unwrap() = value.clone();
            assert!(check(&plan).is_err(), "{pointer} {value}");
        }
        let mut extra = plan();
        extra["steps"][0]["call"]["more"] = json!(1);
        assert!(check(&extra).is_err());
    }
}

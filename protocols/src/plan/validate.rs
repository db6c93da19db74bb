//! The rules of a plan that types and schema cannot state.

use super::{
    BODY_CHARS_MAX, DateTimeLocal, Decision, ItemKind, ItemRef, LABEL_CHARS_MAX, LABELS_MAX, LIMIT_MAX,
    LOCATION_CHARS_MAX, Operation, Plan, PlanError, QUERY_CHARS_MAX, REASON_CHARS_MAX, RECIPIENTS_MAX,
    STEPS_MAX, Step, StepId, TITLE_CHARS_MAX,
};

pub(super) fn plan(plan: &Plan) -> Result<(), PlanError> {
    match &plan.decision {
        Decision::Decline { reason } => {
            text(reason, REASON_CHARS_MAX, Lines::Many).map_err(PlanError::Reason)
        }
        Decision::Act(steps) => {
            count(steps)?;
            for step in steps {
                dependencies_exist(step, steps)?;
            }
            acyclic(steps)?;
            for step in steps {
                references(step, steps)?;
                fields(&step.call).map_err(|(field, problem)| PlanError::Field {
                    step: step.id,
                    field,
                    problem,
                })?;
            }
            Ok(())
        }
    }
}

fn count(steps: &[Step]) -> Result<(), PlanError> {
    match steps.len() {
        0 => return Err(PlanError::NoSteps),
        1..=STEPS_MAX => {}
        many => return Err(PlanError::TooManySteps(many)),
    }
    let mut seen = [false; STEPS_MAX];
    for step in steps {
        if step.id.index() >= STEPS_MAX {
            return Err(PlanError::StepNumber(step.id));
        }
        if std::mem::replace(&mut seen[step.id.index()], true) {
            return Err(PlanError::DuplicateStep(step.id));
        }
    }
    Ok(())
}

fn find(steps: &[Step], id: StepId) -> Option<&Step> {
    steps.iter().find(|step| step.id == id)
}

fn dependencies_exist(step: &Step, steps: &[Step]) -> Result<(), PlanError> {
    let unknown = step.dependencies().into_iter().find(|on| find(steps, *on).is_none());
    unknown.map_or(Ok(()), |on| Err(PlanError::UnknownStep { step: step.id, on }))
}

/// Finishes, round by round, the steps whose dependencies are finished; what is left waits for itself.
fn acyclic(steps: &[Step]) -> Result<(), PlanError> {
    let mut finished = [false; STEPS_MAX];
    for _round in 0..steps.len() {
        for step in steps {
            let ready = step.dependencies().iter().all(|on| finished[on.index()]);
            finished[step.id.index()] |= ready;
        }
    }
    let stuck = steps.iter().find(|step| !finished[step.id.index()] && reaches_itself(step, steps));
    stuck.map_or(Ok(()), |step| Err(PlanError::Cycle(step.id)))
}

/// Tells a step on a cycle from one that merely waits for a cycle, so that the error names a culprit.
fn reaches_itself(step: &Step, steps: &[Step]) -> bool {
    let mut reached = [false; STEPS_MAX];
    let mut open = step.dependencies();
    while let Some(on) = open.pop() {
        if !std::mem::replace(&mut reached[on.index()], true)
            && let Some(next) = find(steps, on)
        {
            open.extend(next.dependencies());
        }
    }
    reached[step.id.index()]
}

fn references(step: &Step, steps: &[Step]) -> Result<(), PlanError> {
    for (reference, wanted) in step.call.target().into_iter().chain(step.call.destination()) {
        let kind = kind_of(step.id, reference, steps)?;
        if kind != wanted {
            return Err(PlanError::WrongKind { step: step.id, reference, wanted });
        }
    }
    // Every kind of item has a person, so only the existence of the result matters here.
    for reference in step.call.references() {
        kind_of(step.id, reference, steps)?;
    }
    Ok(())
}

fn kind_of(step: StepId, reference: ItemRef, steps: &[Step]) -> Result<ItemKind, PlanError> {
    let (on, index) = match reference {
        ItemRef::Session(handle) => return Ok(handle.kind()),
        ItemRef::Result { step, index } => (step, index),
    };
    let source = find(steps, on).ok_or(PlanError::UnknownStep { step, on })?;
    let results = source.call.results().ok_or(PlanError::NoResults { step, reference })?;
    if index >= results.count_max {
        return Err(PlanError::IndexOutOfRange { step, reference, count_max: results.count_max });
    }
    Ok(results.kind)
}

type FieldResult = Result<(), (&'static str, &'static str)>;

pub(super) fn fields(call: &Operation) -> FieldResult {
    match call {
        Operation::GmailSearch { query, limit } => {
            line("query", query, QUERY_CHARS_MAX)?;
            limit_fits(*limit)
        }
        Operation::GmailSend { to, subject, body } | Operation::GmailDraft { to, subject, body } => {
            recipients("to", to.len(), 1)?;
            line("subject", subject, TITLE_CHARS_MAX)?;
            lines("body", body)
        }
        Operation::GmailReply { body, .. } => {
            lines("body", body)?;
            filled("body", body)
        }
        Operation::CalendarList { from, to, query, limit } => {
            if let (Some(from), Some(to)) = (from, to)
                && to.end() <= from.start()
            {
                return Err(("to", "is not after `from`"));
            }
            optional_line("query", query.as_deref(), QUERY_CHARS_MAX)?;
            limit_fits(*limit)
        }
        Operation::CalendarCreate { title, start, end, attendees, location, description } => {
            line("title", title, TITLE_CHARS_MAX)?;
            filled("title", title)?;
            span(Some(*start), *end)?;
            recipients("attendees", attendees.len(), 0)?;
            optional_line("location", location.as_deref(), LOCATION_CHARS_MAX)?;
            description.as_deref().map_or(Ok(()), |description| lines("description", description))
        }
        Operation::CalendarChange { title, start, end, location, add_attendees, .. } => {
            change(title.as_deref(), location.as_deref(), *start, *end)?;
            recipients("add_attendees", add_attendees.len(), 0)?;
            let nothing = title.is_none() && start.is_none() && end.is_none() && location.is_none();
            if nothing && add_attendees.is_empty() { Err(("call", "changes nothing")) } else { Ok(()) }
        }
        Operation::DriveSearch { text, limit } => {
            line("text", text, QUERY_CHARS_MAX)?;
            filled("text", text)?;
            limit_fits(*limit)
        }
        Operation::DriveCreate { name, folder, text } => {
            line("name", name, TITLE_CHARS_MAX)?;
            filled("name", name)?;
            if *folder && text.is_some() {
                return Err(("text", "stands in a file, not in a folder"));
            }
            text.as_deref().map_or(Ok(()), |text| lines("text", text))
        }
        Operation::GmailForward { to, body, .. } => {
            recipients("to", to.len(), 1)?;
            lines("body", body)
        }
        Operation::GmailLabel { add, remove, .. } => {
            labels("add", add)?;
            labels("remove", remove)?;
            if add.is_empty() && remove.is_empty() { Err(("call", "changes nothing")) } else { Ok(()) }
        }
        Operation::CalendarFreeBusy { from, to, people } => {
            if to.end() <= from.start() {
                return Err(("to", "is not after `from`"));
            }
            recipients("people", people.len(), 0)
        }
        Operation::DriveShare { people, .. } => recipients("people", people.len(), 1),
        Operation::GmailRead { .. }
        | Operation::GmailTrash { .. }
        | Operation::CalendarDelete { .. }
        | Operation::DriveRead { .. }
        | Operation::DriveExport { .. }
        | Operation::DriveMove { .. }
        | Operation::DriveTrash { .. } => Ok(()),
    }
}

fn change(
    title: Option<&str>,
    location: Option<&str>,
    start: Option<DateTimeLocal>,
    end: Option<DateTimeLocal>,
) -> FieldResult {
    optional_line("title", title, TITLE_CHARS_MAX)?;
    title.map_or(Ok(()), |title| filled("title", title))?;
    optional_line("location", location, LOCATION_CHARS_MAX)?;
    span(start, end)
}

fn span(start: Option<DateTimeLocal>, end: Option<DateTimeLocal>) -> FieldResult {
    let (Some(start), Some(end)) = (start, end) else { return Ok(()) };
    if start.is_day() != end.is_day() {
        return Err(("end", "must be a day when `start` is, and a time when `start` is"));
    }
    if end.end() <= start.start() { Err(("end", "is not after `start`")) } else { Ok(()) }
}

fn limit_fits(limit: u8) -> FieldResult {
    if (1..=LIMIT_MAX).contains(&limit) { Ok(()) } else { Err(("limit", "is not in 1 to 20")) }
}

fn recipients(field: &'static str, count: usize, count_min: usize) -> FieldResult {
    if count < count_min {
        return Err((field, "is empty"));
    }
    if count > RECIPIENTS_MAX { Err((field, "has more than 20 entries")) } else { Ok(()) }
}

fn labels(field: &'static str, names: &[String]) -> FieldResult {
    if names.len() > LABELS_MAX {
        return Err((field, "has more than 10 entries"));
    }
    names.iter().try_for_each(|name| {
        line(field, name, LABEL_CHARS_MAX)?;
        filled(field, name)
    })
}

fn filled(field: &'static str, value: &str) -> FieldResult {
    if value.trim().is_empty() { Err((field, "is empty")) } else { Ok(()) }
}

fn line(field: &'static str, value: &str, chars_max: usize) -> FieldResult {
    text(value, chars_max, Lines::One).map_err(|problem| (field, problem))
}

fn optional_line(field: &'static str, value: Option<&str>, chars_max: usize) -> FieldResult {
    value.map_or(Ok(()), |value| line(field, value, chars_max))
}

fn lines(field: &'static str, value: &str) -> FieldResult {
    text(value, BODY_CHARS_MAX, Lines::Many).map_err(|problem| (field, problem))
}

#[derive(PartialEq)]
enum Lines {
    One,
    Many,
}

fn text(value: &str, chars_max: usize, allowed: Lines) -> Result<(), &'static str> {
    if value.chars().count() > chars_max {
        return Err("is too long");
    }
    // The line and paragraph separators of Unicode are line breaks to some readers of headers.
    let breaks = |letter| matches!(letter, '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}');
    let forbidden = |letter: char| match allowed {
        Lines::One => letter.is_control() || breaks(letter),
        Lines::Many => letter.is_control() && !breaks(letter),
    };
    if value.chars().any(forbidden) { Err("has control characters") } else { Ok(()) }
}

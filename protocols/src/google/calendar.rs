//! Calendar v3: listing, making, changing and cancelling events of the user's primary calendar.
//!
//! Inserting is idempotent, because the id of an event is ours ([`event_id`]): a repeat is answered with 409.
//! Invited people are told of every change (`sendUpdates=all`).

use std::collections::BTreeMap;

use jiff::civil::{Date, DateTime};
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{ApiCall, PathAndQuery, Segment};
use crate::ids::TaskId;
use crate::plan::{DateTimeLocal, EmailAddress, Item, ItemKind, Person, Service, StepId, clip};

mod reversal;

pub use reversal::{Reversal, ReversalError, restore_event};

const EVENTS: &str = "/calendar/v3/calendars/primary/events";
/// How long an event lasts when nothing is said.
const DURATION_DEFAULT: SignedDuration = SignedDuration::from_hours(1);
/// The longest duration that is carried over to a new start.
const DURATION_MAX: SignedDuration = SignedDuration::from_hours(24 * 366);

/// The id of the event that a step of a task makes: base32hex (RFC 4648 section 7) in lower case of the task's
/// bytes, and the number of the step, which is of that alphabet too.
#[must_use]
pub fn event_id(task: TaskId, step: StepId) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    // 128 bits are 25 groups of five and three bits, which base32 puts into the high bits of a last group.
    let bits = u128::from_be_bytes(*task.as_bytes());
    let group = |index: u32| if index < 25 { (bits >> (123 - 5 * index)) & 31 } else { (bits << 2) & 31 };
    let mut id: String =
        (0..26).map(|index| char::from(ALPHABET[usize::try_from(group(index)).unwrap_or(0)])).collect();
    id.push_str(&step.number().to_string());
    id
}

/// What to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListEvents<'a> {
    /// Events that end after this.
    pub from: Option<Timestamp>,
    /// Events that start before this.
    pub to: Option<Timestamp>,
    /// Words that must occur.
    pub query: Option<&'a str>,
    /// At most so many.
    pub results_max: u8,
    /// The zone, by its IANA name, that times are answered in.
    pub time_zone: &'a str,
}

/// Lists events, earliest first; repeated ones one by one.
#[must_use]
pub fn list_events(list: &ListEvents<'_>) -> ApiCall {
    let path = PathAndQuery::new(EVENTS)
        .with("singleEvents", "true")
        .with("orderBy", "startTime")
        .with("maxResults", list.results_max)
        .with("timeZone", list.time_zone)
        .with_some("timeMin", list.from)
        .with_some("timeMax", list.to)
        .with_some("q", list.query.map(str::trim).filter(|query| !query.is_empty()));
    ApiCall::bare(Service::Calendar, "GET", path.finish())
}

/// Gets an event, its times in this zone.
#[must_use]
pub fn get_event(id: &str, time_zone: &str) -> ApiCall {
    let path = PathAndQuery::new(event_path(id)).with("timeZone", time_zone);
    ApiCall::bare(Service::Calendar, "GET", path.finish())
}

/// Makes an event. 409 when the id was used before: then it is there.
#[must_use]
pub fn insert_event(event: &NewEvent) -> ApiCall {
    ApiCall::json(Service::Calendar, "POST", with_updates(EVENTS), event)
}

/// Changes an event.
#[must_use]
pub fn patch_event(id: &str, patch: &EventPatch) -> ApiCall {
    ApiCall::json(Service::Calendar, "PATCH", with_updates(event_path(id)), patch)
}

/// Cancels an event. 410, and 404, when it was cancelled before.
#[must_use]
pub fn delete_event(id: &str) -> ApiCall {
    ApiCall::bare(Service::Calendar, "DELETE", with_updates(event_path(id)))
}

/// Asks when these calendars are taken; a person's main calendar goes by their address.
#[must_use]
pub fn free_busy(from: Timestamp, to: Timestamp, calendars: &[&str]) -> ApiCall {
    let items: Vec<Value> = calendars.iter().map(|id| json!({"id": id})).collect();
    let body = json!({"timeMin": from, "timeMax": to, "items": items});
    ApiCall::json(Service::Calendar, "POST", "/calendar/v3/freeBusy".to_owned(), &body)
}

/// The reply to [`free_busy`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct FreeBusy {
    /// By the id it was asked for under.
    #[serde(default)]
    pub calendars: BTreeMap<String, Busy>,
}

/// When a calendar is taken.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Busy {
    /// Earliest first.
    #[serde(default)]
    pub busy: Vec<BusySpan>,
    /// Why it cannot be told; none when it could.
    #[serde(default)]
    pub errors: Vec<Value>,
}

/// A stretch of time that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct BusySpan {
    /// Its first moment.
    pub start: Timestamp,
    /// The moment after its last.
    pub end: Timestamp,
}

fn event_path(id: &str) -> String {
    format!("{EVENTS}/{}", Segment(id))
}

fn with_updates(path: impl Into<String>) -> String {
    PathAndQuery::new(path).with("sendUpdates", "all").finish()
}

/// The reply to [`list_events`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventList {
    /// The events.
    #[serde(default)]
    pub items: Vec<Event>,
    /// Where to go on.
    pub next_page_token: Option<String>,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Event {
    /// Its id.
    pub id: String,
    /// Names the state it was read in.
    pub etag: Option<String>,
    /// `confirmed`, `tentative` or `cancelled`.
    pub status: Option<String>,
    /// What it is called.
    pub summary: Option<String>,
    /// More about it.
    pub description: Option<String>,
    /// Where.
    pub location: Option<String>,
    /// When it starts.
    pub start: Option<EventTime>,
    /// When it ends; for whole days the day after the last.
    pub end: Option<EventTime>,
    /// Who organises it.
    pub organizer: Option<Organizer>,
    /// Who is invited.
    #[serde(default)]
    pub attendees: Vec<Attendee>,
}

/// A time of an event: a moment with its offset, or a day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventTime {
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date_time: Option<String>,
    /// `YYYY-MM-DD`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// The zone it was given in, which need not be the one it is told in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
}

/// Who organises an event.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Organizer {
    /// The address.
    pub email: Option<String>,
    /// The name.
    pub display_name: Option<String>,
    /// Whether it is the user.
    #[serde(rename = "self", default)]
    pub is_self: bool,
}

/// Who is invited. A change must send every attendee back whole, so what is not known here is kept too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attendee {
    /// The address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// `needsAction`, `declined`, `tentative` or `accepted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_status: Option<String>,
    /// Whether it is the user.
    #[serde(rename = "self", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_self: bool,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl EventTime {
    /// The text of it, RFC 3339 or a date.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.date_time.as_deref().or(self.date.as_deref())
    }

    fn moment(&self) -> Option<Timestamp> {
        self.date_time.as_deref()?.parse().ok()
    }

    /// What the clock shows at the moment, in the zone that the event was read in.
    fn clock(&self) -> Option<DateTime> {
        let text = self.date_time.as_deref()?;
        // A civil time may be read from a text with an offset, but not from one with a `Z`.
        text.strip_suffix(['Z', 'z']).unwrap_or(text).parse().ok()
    }

    fn day(&self) -> Option<Date> {
        self.date.as_deref()?.parse().ok()
    }
}

impl Event {
    /// Whether it was cancelled: such an event may still be got.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.status.as_deref() == Some("cancelled")
    }

    /// Whom it is with: the organiser, or the first other attendee when the user organises it.
    #[must_use]
    pub fn person(&self) -> Option<Person> {
        let organizer = self.organizer.as_ref().filter(|organizer| !organizer.is_self);
        let organizer =
            organizer.map(|organizer| (organizer.email.as_deref(), organizer.display_name.as_deref()));
        let attendee = || {
            let other = self.attendees.iter().find(|attendee| !attendee.is_self)?;
            Some((other.email.as_deref(), other.display_name.as_deref()))
        };
        let (email, name) = organizer.or_else(attendee)?;
        Some(Person { name: name.map(clip), address: clip(email?) })
    }

    /// What later steps and turns need of it.
    #[must_use]
    pub fn to_item(&self) -> Item {
        Item {
            kind: ItemKind::Event,
            id: self.id.clone(),
            title: self.summary.as_deref().map(clip).unwrap_or_default(),
            person: self.person(),
            when: self.start.as_ref().and_then(EventTime::text).map(clip),
            thread_id: None,
            message_id_header: None,
            snippet: self.location.as_deref().or(self.description.as_deref()).map(clip),
        }
    }

    /// How long it lasts, when that is known and sensible.
    fn duration(&self) -> Option<SignedDuration> {
        let (start, end) = (self.start.as_ref()?, self.end.as_ref()?);
        let duration = match (start.moment(), end.moment()) {
            (Some(start), Some(end)) => end.duration_since(start),
            _ => end.day()?.duration_since(start.day()?),
        };
        (SignedDuration::ZERO < duration && duration <= DURATION_MAX).then_some(duration)
    }

    fn is_whole_days(&self) -> bool {
        self.start.as_ref().is_some_and(|start| start.date.is_some())
    }
}

/// A time to be written: with a zone by name, so that Google works out the offset.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NewTime {
    Day(Date),
    Moment { at: DateTime, time_zone: String },
}

impl NewTime {
    fn starting(at: DateTimeLocal, time_zone: &str) -> Self {
        if at.is_day() { Self::Day(at.date()) } else { Self::moment(at.start(), time_zone) }
    }

    /// The last day of whole days is the day after for Google.
    fn ending(at: DateTimeLocal, time_zone: &str) -> Self {
        if at.is_day() { Self::Day(at.end().date()) } else { Self::moment(at.end(), time_zone) }
    }

    fn moment(at: DateTime, time_zone: &str) -> Self {
        Self::Moment { at, time_zone: time_zone.to_owned() }
    }

    /// The end of what starts at `start` and lasts so long, or the default where that is of another kind.
    fn after(start: DateTimeLocal, duration: Option<SignedDuration>, time_zone: &str) -> Self {
        if start.is_day() {
            let days = duration.map_or(1, |duration| duration.as_hours() / 24).max(1);
            let end = start.date().checked_add(days.days());
            return Self::Day(end.unwrap_or_else(|_| start.end().date()));
        }
        let end = start.start().checked_add(duration.unwrap_or(DURATION_DEFAULT));
        Self::moment(end.unwrap_or_else(|_| start.start()), time_zone)
    }

    /// Whether an event read on the same clock has this time already. The hour that a clock shows twice counts as
    /// one.
    fn is(&self, time: &EventTime) -> bool {
        match self {
            Self::Day(date) => time.day() == Some(*date),
            Self::Moment { at, .. } => time.clock() == Some(*at),
        }
    }

    /// As JSON for a new event.
    fn to_json(&self) -> Value {
        match self {
            Self::Day(date) => json!({"date": date.to_string()}),
            Self::Moment { at, time_zone } => {
                json!({"dateTime": at.strftime("%Y-%m-%dT%H:%M:%S").to_string(), "timeZone": time_zone})
            }
        }
    }

    /// As JSON for a change: the other form is unset, or both would stand.
    fn to_patch(&self) -> Value {
        let mut time = self.to_json();
        match self {
            Self::Day(_) => {
                time["dateTime"] = Value::Null;
                time["timeZone"] = Value::Null;
            }
            Self::Moment { .. } => time["date"] = Value::Null,
        }
        time
    }
}

/// An event to be made.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct NewEvent(Value);

impl NewEvent {
    /// The event of this step, called `title`, on the clock of `time_zone`. Without an end it lasts an hour, or
    /// a day when it starts on a date.
    #[must_use]
    pub fn new(
        (task, step): (TaskId, StepId),
        title: &str,
        start: DateTimeLocal,
        end: Option<DateTimeLocal>,
        time_zone: &str,
    ) -> Self {
        let end = match end {
            Some(end) => NewTime::ending(end, time_zone),
            None => NewTime::after(start, None, time_zone),
        };
        Self(json!({
            "id": event_id(task, step),
            "summary": title,
            "start": NewTime::starting(start, time_zone).to_json(),
            "end": end.to_json(),
        }))
    }

    /// Invites people.
    #[must_use]
    pub fn with_attendees(mut self, attendees: &[EmailAddress]) -> Self {
        if !attendees.is_empty() {
            let attendees: Vec<Value> =
                attendees.iter().map(|address| json!({"email": address.as_str()})).collect();
            self.0["attendees"] = json!(attendees);
        }
        self
    }

    /// Says where.
    #[must_use]
    pub fn with_location(mut self, location: Option<&str>) -> Self {
        if let Some(location) = location {
            self.0["location"] = json!(location);
        }
        self
    }

    /// Says more about it.
    #[must_use]
    pub fn with_description(mut self, description: Option<&str>) -> Self {
        if let Some(description) = description {
            self.0["description"] = json!(description);
        }
        self
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.0["id"].as_str().unwrap_or_default()
    }
}

/// What to change about an event; what is none or empty stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventChange<'a> {
    /// The new title.
    pub title: Option<&'a str>,
    /// The new start; without an end the duration stays.
    pub start: Option<DateTimeLocal>,
    /// The new end.
    pub end: Option<DateTimeLocal>,
    /// The new place.
    pub location: Option<&'a str>,
    /// Whom to invite as well; those invited already are not invited twice.
    pub add_attendees: &'a [EmailAddress],
}

/// Why an event cannot be changed like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Only an end was given, and it is a day where the event starts at a time, or the other way round. Give a
    /// start as well.
    #[error("the new end does not fit the kind of the event; a new start is needed as well")]
    EndKind,
}

/// The body of a change: only what changes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct EventPatch(Value);

impl EventPatch {
    /// What to send so that `existing` becomes as `change` says, times on the clock of `time_zone`. What is so
    /// already is left out, so that nobody is told of it again. Doing it twice is as doing it once.
    ///
    /// `existing` must have been read on the same clock ([`get_event`]).
    ///
    /// # Errors
    /// When a new end alone does not fit the event.
    pub fn new(existing: &Event, change: &EventChange<'_>, time_zone: &str) -> Result<Self, ChangeError> {
        let mut patch = json!({});
        if let Some(title) = change.title.filter(|title| existing.summary.as_deref() != Some(*title)) {
            patch["summary"] = json!(title);
        }
        if let Some(location) = change.location.filter(|place| existing.location.as_deref() != Some(*place)) {
            patch["location"] = json!(location);
        }
        let (start, end) = new_times(existing, change, time_zone)?;
        let is_so = |new: &Option<NewTime>, old: &Option<EventTime>| {
            new.as_ref().is_none_or(|new| old.as_ref().is_some_and(|old| new.is(old)))
        };
        // Both or none: an event must not end before it starts in between.
        if !(is_so(&start, &existing.start) && is_so(&end, &existing.end)) {
            for (name, time) in [("start", start), ("end", end)] {
                if let Some(time) = time {
                    patch[name] = time.to_patch();
                }
            }
        }
        let added = added(existing, change.add_attendees);
        if !added.is_empty() {
            // A list is replaced whole, so those who are there are sent again.
            let all = existing.attendees.iter().map(|attendee| json!(attendee)).chain(added);
            patch["attendees"] = Value::Array(all.collect());
        }
        Ok(Self(patch))
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.as_object().is_none_or(Map::is_empty)
    }
}

/// The times to set, if any.
fn new_times(
    existing: &Event,
    change: &EventChange<'_>,
    time_zone: &str,
) -> Result<(Option<NewTime>, Option<NewTime>), ChangeError> {
    if let Some(start) = change.start {
        let kept = existing.duration().filter(|_| start.is_day() == existing.is_whole_days());
        let end = change
            .end
            .map_or_else(|| NewTime::after(start, kept, time_zone), |end| NewTime::ending(end, time_zone));
        return Ok((Some(NewTime::starting(start, time_zone)), Some(end)));
    }
    match change.end {
        Some(end) if end.is_day() != existing.is_whole_days() => Err(ChangeError::EndKind),
        end => Ok((None, end.map(|end| NewTime::ending(end, time_zone)))),
    }
}

fn added(existing: &Event, wanted: &[EmailAddress]) -> Vec<Value> {
    let invited = |address: &EmailAddress| {
        let mut known = existing.attendees.iter().filter_map(|attendee| attendee.email.as_deref());
        known.any(|email| email.eq_ignore_ascii_case(address.as_str()))
    };
    wanted
        .iter()
        .filter(|address| !invited(address))
        .map(|address| json!({"email": address.as_str()}))
        .collect()
}

#[cfg(test)]
mod tests;

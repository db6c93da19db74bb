//! A calendar: events and what was done to them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::{Map, Value};

/// When an event starts or ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Moment {
    /// An all-day event; the end is the day after the last.
    Day(Date),
    /// An instant, and the zone it was given in.
    At(Timestamp, Option<String>),
}

impl Moment {
    /// The instant, for an all-day event midnight in `zone`.
    pub(crate) fn instant(&self, zone: &TimeZone) -> Timestamp {
        match self {
            Self::At(at, _) => *at,
            Self::Day(date) => zone.to_timestamp(date.at(0, 0, 0, 0)).unwrap_or(Timestamp::MAX),
        }
    }
}

/// Somebody invited.
#[derive(Debug, Clone)]
pub(crate) struct Attendee {
    pub(crate) email: String,
    pub(crate) name: Option<String>,
    pub(crate) response: String,
    /// Other fields, as they were sent.
    pub(crate) rest: Map<String, Value>,
}

/// Which occurrence of a series an event is.
#[derive(Debug, Clone)]
pub(crate) struct Occurrence {
    /// The id of the series.
    pub(crate) series: String,
    /// When it starts by the rules of the series.
    pub(crate) original: Moment,
}

/// One event.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) summary: String,
    pub(crate) description: Option<String>,
    pub(crate) location: Option<String>,
    pub(crate) start: Moment,
    pub(crate) end: Moment,
    pub(crate) attendees: Vec<Attendee>,
    pub(crate) cancelled: bool,
    pub(crate) created: Timestamp,
    pub(crate) updated: Timestamp,
    pub(crate) sequence: u32,
    /// The calendar it is in; empty for the user's own.
    pub(crate) calendar: String,
    /// The number of its last change.
    pub(crate) changed: u64,
    /// Which occurrence of a series it is, when it is one.
    pub(crate) of: Option<Occurrence>,
    /// Fields the simulator has no use for, as they were sent.
    pub(crate) rest: Map<String, Value>,
}

impl Event {
    /// Its id outside of the calendar: occurrences have that of their series.
    pub(crate) fn uid(&self) -> &str {
        self.of.as_ref().map_or(&self.id, |of| &of.series)
    }

    /// Its `eventType`.
    pub(crate) fn kind(&self) -> &str {
        self.rest.get("eventType").and_then(Value::as_str).unwrap_or("default")
    }
}

/// An insert, patch or delete that took effect.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct EventRecord {
    pub(crate) id: String,
    pub(crate) summary: String,
    pub(crate) start: String,
    pub(crate) attendees: Vec<String>,
}

impl EventRecord {
    fn of(event: &Event) -> Self {
        Self {
            id: event.id.clone(),
            summary: event.summary.clone(),
            start: match &event.start {
                Moment::Day(date) => date.to_string(),
                Moment::At(at, _) => at.to_string(),
            },
            attendees: event.attendees.iter().map(|attendee| attendee.email.clone()).collect(),
        }
    }
}

/// One user's calendar. Grows with what is inserted until the simulator is reset.
#[derive(Debug, Default)]
pub(crate) struct Calendar {
    /// Cancelled events stay, so that their ids stay taken and gone.
    pub(crate) events: Vec<Event>,
    pub(crate) inserts: Vec<EventRecord>,
    pub(crate) patches: Vec<EventRecord>,
    pub(crate) deletes: Vec<EventRecord>,
    changes: u64,
    floor: u64,
}

impl Calendar {
    pub(crate) fn new(events: Vec<Event>) -> Self {
        Self { events, ..Self::default() }
    }

    pub(crate) fn position(&self, calendar: &str, id: &str) -> Option<usize> {
        self.events.iter().rposition(|event| event.id == id && event.calendar == calendar)
    }

    /// The number of the last change.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Changes up to this number are forgotten, but for their result.
    pub(crate) fn changes_floor(&self) -> u64 {
        self.floor
    }

    /// From now on tokens given before are too old.
    pub(crate) fn forget_changes(&mut self) {
        self.changes += 1;
        self.floor = self.changes;
    }

    fn next_change(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }

    pub(crate) fn insert(&mut self, mut event: Event) -> &Event {
        self.inserts.push(EventRecord::of(&event));
        event.changed = self.next_change();
        let at = self.events.len();
        self.events.push(event);
        &self.events[at]
    }

    /// Where an event stands: an occurrence that nobody has touched yet is put there.
    pub(crate) fn place(&mut self, event: &Event) -> usize {
        self.position(&event.calendar, &event.id).unwrap_or_else(|| {
            self.events.push(event.clone());
            self.events.len() - 1
        })
    }

    /// Forgets the occurrences of a series that were changed or cancelled by themselves.
    pub(crate) fn forget_occurrences(&mut self, calendar: &str, series: &str) {
        let is_of = |event: &Event| event.of.as_ref().is_some_and(|of| of.series == series);
        self.events.retain(|event| event.calendar != calendar || !is_of(event));
    }

    /// Replaces the event at `position`, which must exist.
    pub(crate) fn patch(&mut self, position: usize, mut event: Event) -> &Event {
        self.patches.push(EventRecord::of(&event));
        event.changed = self.next_change();
        self.events[position] = event;
        &self.events[position]
    }

    /// Cancels the event at `position`, which must exist.
    pub(crate) fn delete(&mut self, position: usize, now: Timestamp) {
        let changed = self.next_change();
        let event = &mut self.events[position];
        event.cancelled = true;
        event.updated = now;
        event.changed = changed;
        self.deletes.push(EventRecord::of(event));
    }

    /// Puts the event at `position`, which must exist, into another calendar. In the old one it is cancelled.
    pub(crate) fn move_to(&mut self, position: usize, calendar: String, now: Timestamp) -> &Event {
        let (left, came) = (self.next_change(), self.next_change());
        let gone = &mut self.events[position];
        let moved = Event { calendar, updated: now, changed: came, ..gone.clone() };
        (gone.cancelled, gone.updated, gone.changed) = (true, now, left);
        self.patches.push(EventRecord::of(&moved));
        // An event of that id which was cancelled there before makes room.
        self.events.retain(|event| event.id != moved.id || event.calendar != moved.calendar);
        let at = self.events.len();
        self.events.push(moved);
        &self.events[at]
    }

    /// Inserted events that are the same but for their id, with how many there are.
    pub(crate) fn repeated_inserts(&self) -> Vec<((String, String), usize)> {
        let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
        for insert in &self.inserts {
            *counts.entry((insert.summary.clone(), insert.start.clone())).or_default() += 1;
        }
        counts.into_iter().filter(|(_, count)| *count > 1).collect()
    }
}

//! A calendar: events and what was done to them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;

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
}

impl Calendar {
    pub(crate) fn position(&self, id: &str) -> Option<usize> {
        self.events.iter().rposition(|event| event.id == id)
    }

    pub(crate) fn insert(&mut self, event: Event) -> &Event {
        self.inserts.push(EventRecord::of(&event));
        let at = self.events.len();
        self.events.push(event);
        &self.events[at]
    }

    /// Replaces the event at `position`, which must exist.
    pub(crate) fn patch(&mut self, position: usize, event: Event) -> &Event {
        self.patches.push(EventRecord::of(&event));
        self.events[position] = event;
        &self.events[position]
    }

    /// Cancels the event at `position`, which must exist.
    pub(crate) fn delete(&mut self, position: usize, now: Timestamp) {
        let event = &mut self.events[position];
        event.cancelled = true;
        event.updated = now;
        self.deletes.push(EventRecord::of(event));
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

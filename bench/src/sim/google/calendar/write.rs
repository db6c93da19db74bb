//! Making and changing events.

use jiff::{Timestamp, ToSpan as _};
use serde_json::{Map, Value};

use super::{Outcome, Service, event_etag, is_event_id, not_found, series};
use crate::sim::parse::{self, Context};
use crate::sim::wire::{Reply, google_error, google_error_at};
use crate::sim::world::{Attendee, Event, Moment};

/// Fields that are the server's, or kept apart; what a body says of them is passed over.
const OWN_FIELDS: [&str; 22] = [
    "kind",
    "etag",
    "id",
    "htmlLink",
    "created",
    "updated",
    "creator",
    "organizer",
    "iCalUID",
    "sequence",
    "summary",
    "description",
    "location",
    "start",
    "end",
    "attendees",
    "recurringEventId",
    "originalStartTime",
    "hangoutLink",
    "locked",
    "privateCopy",
    "attendeesOmitted",
];
/// Fields of an attendee that are kept as they are sent.
const ATTENDEE_FIELDS: [&str; 4] = ["optional", "comment", "additionalGuests", "resource"];

impl Service<'_> {
    pub(super) fn insert(&self) -> Outcome {
        let calendar_id = self.calendar_id()?;
        let body = &self.request.body;
        let id = match body["id"].as_str() {
            Some(id) if is_event_id(id) => id.to_owned(),
            Some(_) => return Err(google_error(400, "invalid", "Invalid resource id value.")),
            None => super::super::fresh_id(self.request.state),
        };
        let event = self.made(calendar_id, id, body)?;
        self.put(event)
    }

    /// Adds an event whose id must be free.
    fn put(&self, event: Event) -> Outcome {
        let mut calendar = self.user.calendar();
        // A deleted event keeps its id, too.
        if calendar.position(&event.calendar, &event.id).is_some() {
            return Err(google_error(409, "duplicate", "The requested identifier already exists."));
        }
        Ok(self.show(calendar.insert(event), self.clock.zone()).into())
    }

    /// A new event as `body` says.
    fn made(&self, calendar: String, id: String, body: &Value) -> Result<Event, Reply> {
        let now = self.clock.now();
        let blank = Event {
            id,
            summary: String::new(),
            description: None,
            location: None,
            start: self.moment(&body["start"], "start")?,
            end: self.moment(&body["end"], "end")?,
            attendees: Vec::new(),
            cancelled: false,
            created: now,
            updated: now,
            sequence: 0,
            calendar,
            changed: 0,
            of: None,
            rest: Map::new(),
        };
        self.changed(blank, body, now)
    }

    /// Changes what the body names, or (`whole`) all of it.
    pub(super) fn change(&self, id: &str, whole: bool) -> Outcome {
        let calendar_id = self.calendar_id()?;
        let body = &self.request.body;
        let mut calendar = self.user.calendar();
        let known = self.find(&calendar, &calendar_id, id).ok_or_else(not_found)?;
        // An update brings a deleted event back; a patch does not find it, unless its series has a place for it.
        let is_brought_back = whole || (known.of.is_some() && body["status"] == "confirmed");
        if known.cancelled && !is_brought_back {
            return Err(not_found());
        }
        self.check_match(&known)?;
        let mut event = if whole {
            let made = self.made(calendar_id.clone(), known.id.clone(), body)?;
            Event { created: known.created, sequence: known.sequence, of: known.of.clone(), ..made }
        } else {
            self.changed(Event { cancelled: false, ..known.clone() }, body, self.clock.now())?
        };
        if event.of.is_some() {
            // It is one of a series, and none itself.
            event.rest.remove("recurrence");
        }
        event.sequence += 1;
        if body["status"] == "cancelled" {
            return Ok(self.show(&self.cancel(&mut calendar, &known), self.clock.zone()).into());
        }
        let other = |name: &str| event.rest.get(name) != known.rest.get(name);
        if series::is_series(&known) && (event.start != known.start || other("recurrence")) {
            calendar.forget_occurrences(&calendar_id, &known.id);
        }
        let position = calendar.place(&known);
        Ok(self.show(calendar.patch(position, event), self.clock.zone()).into())
    }

    /// An event out of one sentence.
    pub(super) fn quick_add(&self) -> Outcome {
        let calendar_id = self.calendar_id()?;
        let text = self.request.param("text").unwrap_or_default().trim();
        if text.is_empty() {
            return Err(google_error_at(400, "required", "Required parameter: text", Some("text")));
        }
        let now = self.clock.now();
        let context = Context::at(self.clock.now_civil().datetime());
        let plan = parse::plan(&format!("schedule {text}"), &context).to_json();
        let said = plan["steps"].as_array().into_iter().flatten().map(|step| &step["call"]);
        let said = said.filter(|call| call["operation"] == "calendar.create").find_map(|call| {
            let start = self.said(&call["start"])?;
            let end = self.said(&call["end"]);
            Some((call["title"].as_str().unwrap_or(text).to_owned(), start, end))
        });
        let zone = self.clock.zone();
        let (summary, start, end) = said.unwrap_or_else(|| (text.to_owned(), Moment::At(now, None), None));
        let end = end.filter(|end| end.instant(zone) > start.instant(zone)).unwrap_or_else(|| match &start {
            Moment::Day(date) => Moment::Day(date.tomorrow().unwrap_or(*date)),
            Moment::At(at, zone) => Moment::At(at.checked_add(1.hour()).unwrap_or(*at), zone.clone()),
        });
        self.put(Event {
            id: super::super::fresh_id(self.request.state),
            summary,
            description: None,
            location: None,
            start,
            end,
            attendees: Vec::new(),
            cancelled: false,
            created: now,
            updated: now,
            sequence: 0,
            calendar: calendar_id,
            changed: 0,
            of: None,
            rest: Map::new(),
        })
    }

    /// A time as plans write it.
    fn said(&self, value: &Value) -> Option<Moment> {
        let text = value.as_str()?;
        if let Ok(at) = text.parse::<jiff::civil::DateTime>()
            && text.contains('T')
        {
            let at = self.clock.zone().to_timestamp(at).ok()?;
            return Some(Moment::At(at, Some(self.clock.zone_name().to_owned())));
        }
        text.parse().ok().map(Moment::Day)
    }

    /// Puts an event into another calendar of the user.
    pub(super) fn move_event(&self, id: &str) -> Outcome {
        let source = self.calendar_id()?;
        let target = self.known_calendar(self.request.param("destination").unwrap_or_default())?;
        let mut calendar = self.user.calendar();
        let known = self.find(&calendar, &source, id);
        // An occurrence does not leave its series.
        let known = known.filter(|event| !event.cancelled && event.of.is_none()).ok_or_else(not_found)?;
        if source == target {
            return Err(google_error(
                400,
                "cannotChangeOrganizer",
                "Cannot change the organizer of the event.",
            ));
        }
        calendar.forget_occurrences(&source, id);
        let position = calendar.place(&known);
        let event = calendar.move_to(position, target, self.clock.now());
        Ok(self.show(event, self.clock.zone()).into())
    }

    /// Holds `If-Match` against the event.
    pub(super) fn check_match(&self, event: &Event) -> Result<(), Reply> {
        match self.request.call.header("if-match") {
            "" | "*" => Ok(()),
            tag if tag == event_etag(event) => Ok(()),
            _ => Err(google_error(412, "conditionNotMet", "Precondition Failed")),
        }
    }

    /// `event` with what `body` says about it.
    fn changed(&self, mut event: Event, body: &Value, now: Timestamp) -> Result<Event, Reply> {
        let text = |name: &str| body[name].as_str().map(str::to_owned);
        if body.get("summary").is_some() {
            event.summary = text("summary").unwrap_or_default();
        }
        for (name, field) in [("description", &mut event.description), ("location", &mut event.location)] {
            if body.get(name).is_some() {
                *field = text(name).filter(|text| !text.is_empty());
            }
        }
        for (name, field) in [("start", &mut event.start), ("end", &mut event.end)] {
            if body.get(name).is_some() {
                *field = self.moment(&body[name], name)?;
            }
        }
        let both_days = matches!((&event.start, &event.end), (Moment::Day(_), Moment::Day(_)));
        let neither = matches!((&event.start, &event.end), (Moment::At(..), Moment::At(..)));
        if !(both_days || neither) {
            let message = "Start and end times must either both be date or both be dateTime.";
            return Err(google_error(400, "invalid", message));
        }
        let (start, end) = (event.start.instant(self.clock.zone()), event.end.instant(self.clock.zone()));
        if end < start || (both_days && end == start) {
            return Err(google_error(400, "timeRangeEmpty", "The specified time range is empty."));
        }
        if let Some(list) = body.get("attendees") {
            event.attendees = attendees(list)?;
        }
        for (name, value) in body.as_object().into_iter().flatten() {
            if !OWN_FIELDS.contains(&name.as_str()) {
                merge(&mut event.rest, name, value);
            }
        }
        series::check(&event, self.clock.zone())?;
        event.updated = now;
        Ok(event)
    }
}

/// Takes a field over: objects field by field, null removes.
fn merge(into: &mut Map<String, Value>, name: &str, value: &Value) {
    match (into.get_mut(name), value) {
        (_, Value::Null) => {
            into.remove(name);
        }
        (Some(Value::Object(known)), Value::Object(fields)) => {
            for (name, value) in fields {
                merge(known, name, value);
            }
        }
        _ => {
            into.insert(name.to_owned(), value.clone());
        }
    }
}

fn attendees(list: &Value) -> Result<Vec<Attendee>, Reply> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .map(|attendee| match attendee["email"].as_str() {
            Some(email) if email.split_once('@').is_some_and(|(a, b)| !a.is_empty() && b.contains('.')) => {
                let kept = ATTENDEE_FIELDS.into_iter().filter_map(|name| {
                    let value = attendee.get(name).filter(|value| !value.is_null())?;
                    Some((name.to_owned(), value.clone()))
                });
                Ok(Attendee {
                    email: email.to_owned(),
                    name: attendee["displayName"].as_str().map(str::to_owned),
                    response: attendee["responseStatus"].as_str().unwrap_or("needsAction").to_owned(),
                    rest: kept.collect(),
                })
            }
            _ => Err(google_error(400, "invalid", "Invalid attendee email.")),
        })
        .collect()
}

//! Calendar v3: events, the list of calendars, free and busy times.
//! <https://developers.google.com/workspace/calendar/api/v3/reference>
//!
//! Every user has a calendar of their own and a second one, "Team". Recurring events: [`series`].

mod busy;
mod events;
mod series;
mod write;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::search::has_words;
use super::{Outcome, Request, unknown_path};
use crate::sim::chance::{Clock, hash, mix};
use crate::sim::wire::{Reply, google_error, google_error_at};
use crate::sim::world::{Attendee, Calendar, Event, Moment, User, index_text};

/// Answers a request below `/calendar/v3/`.
pub(super) fn serve(request: &Request<'_>) -> Outcome {
    let service = Service { request, clock: &request.state.clock, user: request.user };
    let id = request.route.id("eventId");
    match request.method() {
        "calendarList.list" => service.calendar_list(),
        "calendarList.get" => service.calendar_entry(),
        "calendars.get" => service.calendar(),
        "freebusy.query" => service.free_busy(),
        "events.list" => service.list(),
        "events.instances" => service.instances(id),
        "events.get" => service.get(id),
        "events.insert" => service.insert(),
        "events.patch" => service.change(id, false),
        "events.update" => service.change(id, true),
        "events.delete" => service.delete(id),
        "events.quickAdd" => service.quick_add(),
        "events.move" => service.move_event(id),
        _ => Err(unknown_path(&request.call.path)),
    }
}

struct Service<'a> {
    request: &'a Request<'a>,
    clock: &'a Clock,
    user: &'a User,
}

impl Service<'_> {
    /// The id of the calendar that the path names; that of the user's own is empty.
    fn calendar_id(&self) -> Result<String, Reply> {
        self.known_calendar(self.request.route.id("calendarId"))
    }

    fn known_calendar(&self, name: &str) -> Result<String, Reply> {
        if name == "primary" || name.eq_ignore_ascii_case(&self.user.person.email) {
            return Ok(String::new());
        }
        if name == team_id(self.user) { Ok(name.to_owned()) } else { Err(not_found()) }
    }

    /// The zone answers are written in.
    fn zone(&self) -> Result<(TimeZone, String), Reply> {
        match self.request.param("timeZone") {
            None => Ok((self.clock.zone().clone(), self.clock.zone_name().to_owned())),
            Some(name) => match TimeZone::get(name) {
                Ok(zone) => Ok((zone, name.to_owned())),
                Err(_) => Err(invalid("Invalid time zone", "timeZone")),
            },
        }
    }

    /// `{"date": ..}` or `{"dateTime": .., "timeZone": ..}`.
    fn moment(&self, value: &Value, name: &str) -> Result<Moment, Reply> {
        if let Some(date) = value["date"].as_str() {
            let date: Date = date.parse().map_err(|_| google_error(400, "badRequest", "Bad Request"))?;
            return Ok(Moment::Day(date));
        }
        let Some(text) = value["dateTime"].as_str() else {
            return Err(google_error(400, "required", &format!("Missing {name} time.")));
        };
        let zone_name = value["timeZone"].as_str();
        let zone = zone_name.map(TimeZone::get).transpose().map_err(|_| {
            google_error(400, "invalid", &format!("Invalid time zone definition for {name} time."))
        })?;
        if let Ok(at) = text.parse::<Timestamp>() {
            return Ok(Moment::At(at, zone_name.map(str::to_owned)));
        }
        let civil: DateTime = text.parse().map_err(|_| google_error(400, "badRequest", "Bad Request"))?;
        let zone = zone.ok_or_else(|| {
            google_error(400, "required", &format!("Missing time zone definition for {name} time."))
        })?;
        let at = zone.to_timestamp(civil).map_err(|_| google_error(400, "badRequest", "Bad Request"))?;
        Ok(Moment::At(at, zone_name.map(str::to_owned)))
    }

    /// The event of this id, cancelled or not.
    fn find(&self, calendar: &Calendar, calendar_id: &str, id: &str) -> Option<Event> {
        series::find(calendar, calendar_id, id, self.clock.zone())
    }

    fn show(&self, event: &Event, zone: &TimeZone) -> Value {
        // Google promises no more of an occurrence that was cancelled by itself.
        if let (true, Some(of)) = (event.cancelled, &event.of) {
            return json!({"kind": "calendar#event", "etag": event_etag(event), "id": event.id, "status": "cancelled",
                "recurringEventId": of.series, "originalStartTime": self.show_moment(&of.original, zone)});
        }
        let owner = &self.user.person;
        let link = format!("https://www.google.com/calendar/event?eid={}", event.id);
        let mut value = json!({
            "kind": "calendar#event", "etag": event_etag(event), "id": event.id,
            "status": if event.cancelled { "cancelled" } else { "confirmed" }, "htmlLink": link,
            "created": event.created.to_string(), "updated": event.updated.to_string(), "summary": event.summary,
            "creator": {"email": owner.email, "self": true},
            "organizer": {"email": owner.email, "displayName": owner.name, "self": true},
            "start": self.show_moment(&event.start, zone), "end": self.show_moment(&event.end, zone),
            "iCalUID": format!("{}@google.com", event.uid()), "sequence": event.sequence,
            "reminders": {"useDefault": true}, "eventType": "default",
        });
        if let Some(text) = &event.description {
            value["description"] = text.as_str().into();
        }
        if let Some(text) = &event.location {
            value["location"] = text.as_str().into();
        }
        if !event.attendees.is_empty() {
            value["attendees"] =
                event.attendees.iter().map(|attendee| show_attendee(attendee, &owner.email)).collect();
        }
        if let Some(of) = &event.of {
            value["recurringEventId"] = of.series.as_str().into();
            value["originalStartTime"] = self.show_moment(&of.original, zone);
        }
        for (name, given) in &event.rest {
            if !(event.cancelled && name == "status") {
                value[name] = given.clone();
            }
        }
        value
    }

    fn show_moment(&self, moment: &Moment, zone: &TimeZone) -> Value {
        match moment {
            Moment::Day(date) => json!({"date": date.to_string()}),
            Moment::At(at, zone_name) => {
                let text = at.to_zoned_datetime(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
                let text = text.replace("+00:00", "Z");
                json!({"dateTime": text, "timeZone": zone_name.as_deref().unwrap_or_else(|| self.clock.zone_name())})
            }
        }
    }
}

fn show_attendee(attendee: &Attendee, owner: &str) -> Value {
    let mut value = json!({"email": attendee.email, "responseStatus": attendee.response});
    if let Some(name) = &attendee.name {
        value["displayName"] = name.as_str().into();
    }
    if attendee.email == owner {
        value["self"] = true.into();
    }
    for (name, given) in &attendee.rest {
        value[name] = given.clone();
    }
    value
}

/// The id of a user's second calendar.
fn team_id(user: &User) -> String {
    format!("team{:016x}@group.calendar.google.com", mix(hash(&user.name)))
}

fn event_etag(event: &Event) -> String {
    etag(&format!("{}{}{}", event.id, event.updated, event.changed))
}

/// Whether every word of the query stands somewhere in the event.
fn mentions(event: &Event, words: &str) -> bool {
    let fields: Vec<String> =
        [Some(event.summary.as_str()), event.description.as_deref(), event.location.as_deref()]
            .into_iter()
            .flatten()
            .chain(
                event
                    .attendees
                    .iter()
                    .flat_map(|a| [a.email.as_str(), a.name.as_deref().unwrap_or_default()]),
            )
            .map(index_text)
            .collect();
    words.split_whitespace().all(|word| fields.iter().any(|field| has_words(field, &format!(" {word} "))))
}

/// Lower-case base32hex of RFC 2938: `a`-`v` and digits, 5 to 1024 of them.
fn is_event_id(id: &str) -> bool {
    (5..=1024).contains(&id.len()) && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'v'))
}

fn etag(text: &str) -> String {
    format!("\"{}\"", mix(hash(text)))
}

fn not_found() -> Reply {
    google_error(404, "notFound", "Not Found")
}

fn invalid(message: &str, parameter: &str) -> Reply {
    google_error_at(400, "invalidParameter", message, Some(parameter))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::ToSpan as _;

    #[test]
    fn event_ids_are_base32hex_of_the_right_length() {
        assert!(is_event_id("0123v") && is_event_id(&"a".repeat(1024)));
        for id in ["", "abcd", "abcdw", "ABCDE", "abc-de", &"a".repeat(1025)] {
            assert!(!is_event_id(id), "{id}");
        }
    }

    #[test]
    fn all_words_must_be_mentioned_but_anywhere() {
        let day = jiff::civil::date(2026, 11, 23);
        let event = Event {
            id: "abcde".to_owned(),
            summary: "Project sync".to_owned(),
            description: None,
            location: Some("Room 4".to_owned()),
            start: Moment::Day(day),
            end: Moment::Day(day.checked_add(1.day()).unwrap()),
            attendees: vec![Attendee {
                email: "ben@x.example".to_owned(),
                name: None,
                response: String::new(),
                rest: Default::default(),
            }],
            cancelled: false,
            created: Timestamp::UNIX_EPOCH,
            updated: Timestamp::UNIX_EPOCH,
            sequence: 0,
            calendar: String::new(),
            changed: 0,
            of: None,
            rest: Default::default(),
        };
        assert!(mentions(&event, " ben sync "));
        assert!(mentions(&event, " "));
        assert!(!mentions(&event, " ben budget "));
    }
}

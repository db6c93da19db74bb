//! Calendar v3: the events of the primary calendar.
//! <https://developers.google.com/workspace/calendar/api/v3/reference/events>
//!
//! Recurring events are not expanded; there are none in the seeded calendars.

use std::sync::Arc;

use http::Method;
use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::search::has_words;
use super::unknown_path;
use crate::sim::chance::{Clock, hash, mix};
use crate::sim::serve::State;
use crate::sim::wire::{Call, Reply, google_error, google_error_at, masked, page};
use crate::sim::world::{Attendee, Event, Moment, User, index_text};

/// Answers a request below `/calendar/v3/`.
pub(super) fn serve(state: &State, user: &Arc<User>, call: &Call) -> (&'static str, Reply) {
    let segments = call.segments("/calendar/v3/calendars/");
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let [calendar_id, rest @ ..] = segments.as_slice() else { return ("unknown", unknown_path(&call.path)) };
    if *calendar_id != "primary" && !calendar_id.eq_ignore_ascii_case(&user.person.email) {
        return ("calendar.unknown", not_found());
    }
    let service = Service { state, clock: &state.clock, user, call };
    let (endpoint, reply) = match (&call.method, rest) {
        (&Method::GET, ["events"]) => ("calendar.events.list", service.list()),
        (&Method::POST, ["events"]) => ("calendar.events.insert", service.insert()),
        (&Method::GET, ["events", id]) => ("calendar.events.get", service.get(id)),
        (&Method::PATCH, ["events", id]) => ("calendar.events.patch", service.patch(id)),
        (&Method::DELETE, ["events", id]) => ("calendar.events.delete", service.delete(id)),
        _ => ("unknown", Err(unknown_path(&call.path))),
    };
    (endpoint, reply.unwrap_or_else(|refusal| refusal))
}

/// `Err` is an answer too: a refusal.
type Outcome = Result<Reply, Reply>;

struct Service<'a> {
    state: &'a State,
    clock: &'a Clock,
    user: &'a User,
    call: &'a Call,
}

impl Service<'_> {
    fn answer(&self, value: Value) -> Outcome {
        Ok(Reply::json(200, &masked(&self.call.query, value)?))
    }

    /// The zone answers are written in.
    fn zone(&self) -> Result<(TimeZone, String), Reply> {
        match self.call.query.get("timeZone") {
            None => Ok((self.clock.zone().clone(), self.clock.zone_name().to_owned())),
            Some(name) => match TimeZone::get(name) {
                Ok(zone) => Ok((zone, name.to_owned())),
                Err(_) => Err(invalid("Invalid time zone", "timeZone")),
            },
        }
    }

    fn bound(&self, name: &'static str) -> Result<Option<Timestamp>, Reply> {
        match self.call.query.get(name) {
            None => Ok(None),
            // RFC 3339 with an offset is required.
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_| google_error_at(400, "badRequest", "Bad Request", Some(name))),
        }
    }

    fn list(&self) -> Outcome {
        let params = &self.call.query;
        let (size, offset) = (params.size("maxResults", 250, 2_500)?, params.page_offset()?);
        let (from, to) = (self.bound("timeMin")?, self.bound("timeMax")?);
        if let (Some(from), Some(to)) = (from, to)
            && from >= to
        {
            return Err(google_error_at(
                400,
                "timeRangeEmpty",
                "The specified time range is empty.",
                Some("timeMax"),
            ));
        }
        let (zone, zone_name) = self.zone()?;
        let by_start = match params.get("orderBy") {
            None => false,
            Some("startTime") if params.flag("singleEvents") => true,
            Some("startTime") => {
                let message = "The requested ordering is not available for the particular query.";
                return Err(google_error_at(400, "badRequest", message, Some("orderBy")));
            }
            Some("updated") => false,
            Some(_) => return Err(invalid("Invalid value for: orderBy", "orderBy")),
        };
        let words = index_text(params.get("q").unwrap_or_default());
        let calendar = self.user.calendar();
        let mut found: Vec<&Event> = calendar
            .events
            .iter()
            .filter(|event| params.flag("showDeleted") || !event.cancelled)
            .filter(|event| from.is_none_or(|from| event.end.instant(self.clock.zone()) > from))
            .filter(|event| to.is_none_or(|to| event.start.instant(self.clock.zone()) < to))
            .filter(|event| mentions(event, &words))
            .collect();
        if by_start {
            found.sort_by_key(|event| event.start.instant(self.clock.zone()));
        } else {
            found.sort_by_key(|event| event.updated);
        }
        let (found, next) = page(found, offset, size);
        let items: Vec<Value> = found.into_iter().map(|event| self.show(event, &zone)).collect();
        let updated = self.clock.now().to_string();
        let mut answer = json!({"kind": "calendar#events", "etag": etag(&updated), "summary": self.user.person.email,
            "updated": updated, "timeZone": zone_name, "accessRole": "owner", "defaultReminders": [], "items": items});
        match next {
            Some(next) => answer["nextPageToken"] = next.into(),
            None => answer["nextSyncToken"] = format!("sync-{}", calendar.events.len()).into(),
        }
        self.answer(answer)
    }

    fn get(&self, id: &str) -> Outcome {
        let (zone, _) = self.zone()?;
        let calendar = self.user.calendar();
        let position = calendar.position(id).ok_or_else(not_found)?;
        self.answer(self.show(&calendar.events[position], &zone))
    }

    fn insert(&self) -> Outcome {
        let body = self.call.json()?;
        self.check_send_updates()?;
        let now = self.clock.now();
        let id = match body["id"].as_str() {
            Some(id) if is_event_id(id) => id.to_owned(),
            Some(_) => return Err(google_error(400, "invalid", "Invalid resource id value.")),
            None => format!("{:013x}{:013x}", self.state.luck.next() >> 12, self.state.luck.next() >> 12),
        };
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
        };
        let event = self.changed(blank, &body, now)?;
        let mut calendar = self.user.calendar();
        // A deleted event keeps its id, too.
        if calendar.position(&event.id).is_some() {
            return Err(google_error(409, "duplicate", "The requested identifier already exists."));
        }
        let answer = self.show(calendar.insert(event), self.clock.zone());
        self.answer(answer)
    }

    fn patch(&self, id: &str) -> Outcome {
        let body = self.call.json()?;
        self.check_send_updates()?;
        let mut calendar = self.user.calendar();
        let position =
            calendar.position(id).filter(|at| !calendar.events[*at].cancelled).ok_or_else(not_found)?;
        let mut event = self.changed(calendar.events[position].clone(), &body, self.clock.now())?;
        event.sequence += 1;
        let answer = self.show(calendar.patch(position, event), self.clock.zone());
        self.answer(answer)
    }

    fn delete(&self, id: &str) -> Outcome {
        self.check_send_updates()?;
        let mut calendar = self.user.calendar();
        let position = calendar.position(id).ok_or_else(not_found)?;
        if calendar.events[position].cancelled {
            return Err(google_error(410, "deleted", "Resource has been deleted"));
        }
        calendar.delete(position, self.clock.now());
        Ok(Reply::empty(204))
    }

    fn check_send_updates(&self) -> Result<(), Reply> {
        match self.call.query.get("sendUpdates") {
            None | Some("all" | "externalOnly" | "none") => Ok(()),
            Some(_) => Err(invalid("Invalid value for: sendUpdates", "sendUpdates")),
        }
    }

    /// `event` with what `body` says about it.
    fn changed(&self, mut event: Event, body: &Value, now: Timestamp) -> Result<Event, Reply> {
        let text = |name: &str| body[name].as_str().map(str::to_owned);
        if let Some(summary) = text("summary") {
            event.summary = summary;
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
            return Err(google_error(
                400,
                "invalid",
                "Start and end times must either both be date or both be dateTime.",
            ));
        }
        let (start, end) = (event.start.instant(self.clock.zone()), event.end.instant(self.clock.zone()));
        if end < start || (both_days && end == start) {
            return Err(google_error(400, "timeRangeEmpty", "The specified time range is empty."));
        }
        if let Some(list) = body.get("attendees") {
            event.attendees = attendees(list)?;
        }
        event.updated = now;
        Ok(event)
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
        if let Ok(at) = text.parse::<Timestamp>() {
            return Ok(Moment::At(at, zone_name.map(str::to_owned)));
        }
        let civil: DateTime = text.parse().map_err(|_| google_error(400, "badRequest", "Bad Request"))?;
        let zone_name = zone_name.ok_or_else(|| {
            google_error(400, "required", &format!("Missing time zone definition for {name} time."))
        })?;
        let zone = TimeZone::get(zone_name).map_err(|_| {
            google_error(400, "invalid", &format!("Invalid time zone definition for {name} time."))
        })?;
        let at = zone.to_timestamp(civil).map_err(|_| google_error(400, "badRequest", "Bad Request"))?;
        Ok(Moment::At(at, Some(zone_name.to_owned())))
    }

    fn show(&self, event: &Event, zone: &TimeZone) -> Value {
        let owner = &self.user.person;
        let link = format!("https://www.google.com/calendar/event?eid={}", event.id);
        let mut value = json!({
            "kind": "calendar#event", "etag": etag(&format!("{}{}", event.id, event.updated)), "id": event.id,
            "status": if event.cancelled { "cancelled" } else { "confirmed" }, "htmlLink": link,
            "created": event.created.to_string(), "updated": event.updated.to_string(), "summary": event.summary,
            "creator": {"email": owner.email, "self": true},
            "organizer": {"email": owner.email, "displayName": owner.name, "self": true},
            "start": self.show_moment(&event.start, zone), "end": self.show_moment(&event.end, zone),
            "iCalUID": format!("{}@google.com", event.id), "sequence": event.sequence,
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
    value
}

fn attendees(list: &Value) -> Result<Vec<Attendee>, Reply> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .map(|attendee| match attendee["email"].as_str() {
            Some(email) if email.split_once('@').is_some_and(|(a, b)| !a.is_empty() && b.contains('.')) => {
                Ok(Attendee {
                    email: email.to_owned(),
                    name: attendee["displayName"].as_str().map(str::to_owned),
                    response: attendee["responseStatus"].as_str().unwrap_or("needsAction").to_owned(),
                })
            }
            _ => Err(google_error(400, "invalid", "Invalid attendee email.")),
        })
        .collect()
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
            }],
            cancelled: false,
            created: Timestamp::UNIX_EPOCH,
            updated: Timestamp::UNIX_EPOCH,
            sequence: 0,
        };
        assert!(mentions(&event, " ben sync "));
        assert!(mentions(&event, " "));
        assert!(!mentions(&event, " ben budget "));
    }
}

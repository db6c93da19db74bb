//! The list of calendars, and when they are busy.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::series::{Window, laid_out};
use super::{Outcome, Service, etag, team_id};
use crate::sim::wire::{Reply, google_error};

/// Calendars that one question may name.
const CALENDARS_MAX: usize = 50;

impl Service<'_> {
    pub(super) fn summary_of(&self, calendar_id: &str) -> String {
        if calendar_id.is_empty() { self.user.person.email.clone() } else { "Team".to_owned() }
    }

    fn entry(&self, calendar_id: &str) -> Value {
        let primary = calendar_id.is_empty();
        let id = if primary { self.user.person.email.clone() } else { calendar_id.to_owned() };
        let mut entry = json!({"kind": "calendar#calendarListEntry", "etag": etag(&id), "id": id,
            "summary": self.summary_of(calendar_id), "timeZone": self.clock.zone_name(), "colorId": "14",
            "backgroundColor": "#9fe1e7", "foregroundColor": "#000000", "selected": true, "accessRole": "owner",
            "defaultReminders": [], "conferenceProperties": {"allowedConferenceSolutionTypes": ["hangoutsMeet"]}});
        if primary {
            entry["primary"] = true.into();
        }
        entry
    }

    pub(super) fn calendar_list(&self) -> Outcome {
        let params = &self.request.call.query;
        let (size, offset) = (params.size("maxResults", 100, 250)?, params.page_offset()?);
        let all = vec![self.entry(""), self.entry(&team_id(self.user))];
        let (items, next) = crate::sim::wire::page(all, offset, size);
        let mut answer =
            json!({"kind": "calendar#calendarList", "etag": etag(&self.user.name), "items": items});
        match next {
            Some(next) => answer["nextPageToken"] = next.into(),
            None => answer["nextSyncToken"] = "calendars-1".into(),
        }
        Ok(answer.into())
    }

    pub(super) fn calendar_entry(&self) -> Outcome {
        Ok(self.entry(&self.calendar_id()?).into())
    }

    pub(super) fn calendar(&self) -> Outcome {
        let entry = self.entry(&self.calendar_id()?);
        let mut calendar = json!({"kind": "calendar#calendar"});
        for name in ["etag", "id", "summary", "timeZone", "conferenceProperties"] {
            calendar[name] = entry[name].clone();
        }
        Ok(calendar.into())
    }

    pub(super) fn free_busy(&self) -> Outcome {
        let body = &self.request.body;
        let bound = |name: &str| -> Result<Timestamp, Reply> {
            let text = body[name].as_str();
            let text =
                text.ok_or_else(|| google_error(400, "required", &format!("Missing {name} parameter.")))?;
            text.parse().map_err(|_| google_error(400, "badRequest", "Bad Request"))
        };
        let (from, to) = (bound("timeMin")?, bound("timeMax")?);
        if from >= to {
            return Err(google_error(400, "timeRangeEmpty", "The specified time range is empty."));
        }
        let items = body["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        if items.len() > CALENDARS_MAX {
            return Err(google_error(400, "tooManyCalendarsRequested", "Too many calendars requested."));
        }
        let mut calendars = Map::new();
        for name in items.iter().filter_map(|item| item["id"].as_str()) {
            let shown = match self.known_calendar(name) {
                Ok(id) => json!({"busy": self.busy(&id, from, to)}),
                Err(_) => json!({"errors": [{"domain": "global", "reason": "notFound"}], "busy": []}),
            };
            calendars.insert(name.to_owned(), shown);
        }
        Ok(json!({"kind": "calendar#freeBusy", "timeMin": from.to_string(), "timeMax": to.to_string(),
            "calendars": calendars})
        .into())
    }

    /// When the calendar is busy, overlaps joined and cut to the bounds.
    fn busy(&self, calendar_id: &str, from: Timestamp, to: Timestamp) -> Vec<Value> {
        let zone = self.clock.zone();
        let calendar = self.user.calendar();
        let window = Window { from: Some(from), to: Some(to) };
        let mut spans: Vec<(Timestamp, Timestamp)> = laid_out(&calendar, calendar_id, true, window, zone)
            .iter()
            .filter(|event| !event.cancelled)
            .filter(|event| event.rest.get("transparency") != Some(&json!("transparent")))
            .map(|event| (event.start.instant(zone).max(from), event.end.instant(zone).min(to)))
            .filter(|(start, end)| start < end)
            .collect();
        spans.sort();
        let mut joined: Vec<(Timestamp, Timestamp)> = Vec::new();
        for (start, end) in spans {
            match joined.last_mut() {
                Some((_, last)) if start <= *last => *last = end.max(*last),
                _ => joined.push((start, end)),
            }
        }
        joined
            .into_iter()
            .map(|(start, end)| json!({"start": start.to_string(), "end": end.to_string()}))
            .collect()
    }
}

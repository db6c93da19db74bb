//! Reading events, whole or what has changed.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::series::{Window, is_series, laid_out, occurrences};
use super::{Outcome, Service, etag, invalid, mentions, not_found};
use crate::sim::wire::{Reply, google_error, google_error_at, page};
use crate::sim::world::{Calendar, Event, index_text};

impl Service<'_> {
    fn bound(&self, name: &'static str) -> Result<Option<Timestamp>, Reply> {
        match self.request.param(name) {
            None => Ok(None),
            // RFC 3339 with an offset is required.
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_| google_error_at(400, "badRequest", "Bad Request", Some(name))),
        }
    }

    pub(super) fn list(&self) -> Outcome {
        let calendar_id = self.calendar_id()?;
        let params = &self.request.call.query;
        let (size, offset) = (params.size("maxResults", 250, 2_500)?, params.page_offset()?);
        let (from, to) = (self.bound("timeMin")?, self.bound("timeMax")?);
        let updated_min = self.bound("updatedMin")?;
        if let (Some(from), Some(to)) = (from, to)
            && from >= to
        {
            let message = "The specified time range is empty.";
            return Err(google_error_at(400, "timeRangeEmpty", message, Some("timeMax")));
        }
        let (zone, zone_name) = self.zone()?;
        let by_start = match params.get("orderBy") {
            None | Some("updated") => false,
            Some("startTime") if params.flag("singleEvents") => true,
            Some("startTime") => {
                let message = "The requested ordering is not available for the particular query.";
                return Err(google_error_at(400, "badRequest", message, Some("orderBy")));
            }
            Some(_) => return Err(invalid("Invalid value for: orderBy", "orderBy")),
        };
        let words = index_text(params.get("q").unwrap_or_default());
        let calendar = self.user.calendar();
        let since = self.synced(&calendar_id, calendar.changes_floor())?;
        let deleted = params.flag("showDeleted") || since.is_some() || updated_min.is_some();
        let uid = params.get("iCalUID");
        let types: Vec<&str> = params.all("eventTypes").collect();
        let singly = params.flag("singleEvents");
        // What was cancelled out of a series belongs to what the series is.
        let is_exception = |event: &Event| !singly && event.of.is_some();
        let window = Window { from, to };
        let mut found: Vec<Cow<'_, Event>> =
            laid_out(&calendar, &calendar_id, singly, window, self.clock.zone())
                .into_iter()
                .filter(|event| deleted || !event.cancelled || is_exception(event))
                .filter(|event| since.is_none_or(|since| event.changed > since))
                .filter(|event| updated_min.is_none_or(|at| event.updated >= at))
                .filter(|event| uid.is_none_or(|uid| uid.strip_suffix("@google.com") == Some(event.uid())))
                .filter(|event| types.is_empty() || types.contains(&event.kind()))
                .filter(|event| mentions(event, &words))
                .collect();
        if by_start {
            found.sort_by_key(|event| event.start.instant(self.clock.zone()));
        } else {
            found.sort_by_key(|event| event.updated);
        }
        let (found, next) = page(found, offset, size);
        let mut answer = self.events(&calendar_id, &found, (&zone, &zone_name));
        match next {
            Some(next) => answer["nextPageToken"] = next.into(),
            None => answer["nextSyncToken"] = format!("sync-{}-{calendar_id}", calendar.changes()).into(),
        }
        Ok(answer.into())
    }

    /// The occurrences of a series.
    pub(super) fn instances(&self, id: &str) -> Outcome {
        let calendar_id = self.calendar_id()?;
        let params = &self.request.call.query;
        let (size, offset) = (params.size("maxResults", 250, 2_500)?, params.page_offset()?);
        let window = Window { from: self.bound("timeMin")?, to: self.bound("timeMax")? };
        let (zone, zone_name) = self.zone()?;
        let calendar = self.user.calendar();
        let position = calendar.position(&calendar_id, id).ok_or_else(not_found)?;
        let event = &calendar.events[position];
        if event.cancelled || !is_series(event) {
            return Err(not_found());
        }
        let original = params.get("originalStart");
        let is_meant = |found: &Event| {
            let shown = found.of.as_ref().map(|of| self.show_moment(&of.original, &zone));
            original.is_none_or(|wanted| shown.is_some_and(|shown| is_time(&shown, wanted)))
        };
        let mut found = occurrences(&calendar, event, window, self.clock.zone());
        found.retain(|found| is_meant(found.as_ref()) && (params.flag("showDeleted") || !found.cancelled));
        let (found, next) = page(found, offset, size);
        let mut answer = self.events(&calendar_id, &found, (&zone, &zone_name));
        if let Some(next) = next {
            answer["nextPageToken"] = next.into();
        }
        Ok(answer.into())
    }

    fn events(
        &self,
        calendar_id: &str,
        found: &[Cow<'_, Event>],
        (zone, zone_name): (&TimeZone, &str),
    ) -> Value {
        let items: Vec<Value> = found.iter().map(|event| self.show(event, zone)).collect();
        let updated = self.clock.now().to_string();
        json!({"kind": "calendar#events", "etag": etag(&updated), "summary": self.summary_of(calendar_id),
            "updated": updated, "timeZone": zone_name, "accessRole": "owner", "defaultReminders": [], "items": items})
    }

    /// The change up to which the caller has seen everything, when a sync token says so.
    fn synced(&self, calendar_id: &str, floor: u64) -> Result<Option<u64>, Reply> {
        let Some(token) = self.request.param("syncToken") else { return Ok(None) };
        for name in ["iCalUID", "orderBy", "q", "timeMin", "timeMax", "updatedMin"] {
            if self.request.param(name).is_some() {
                let message = "Sync token cannot be combined with this request parameter.";
                return Err(google_error_at(400, "badRequest", message, Some(name)));
            }
        }
        let said = token.strip_prefix("sync-").and_then(|rest| rest.split_once('-'));
        let since =
            said.filter(|(_, of)| *of == calendar_id).and_then(|(since, _)| since.parse::<u64>().ok());
        match since.filter(|since| *since >= floor) {
            Some(since) => Ok(Some(since)),
            None => {
                let message = "Sync token is no longer valid, a full sync is required.";
                Err(google_error_at(410, "fullSyncRequired", message, Some("syncToken")))
            }
        }
    }

    pub(super) fn get(&self, id: &str) -> Outcome {
        let calendar_id = self.calendar_id()?;
        let (zone, _) = self.zone()?;
        let calendar = self.user.calendar();
        let found = self.find(&calendar, &calendar_id, id).ok_or_else(not_found)?;
        Ok(self.show(&found, &zone).into())
    }

    pub(super) fn delete(&self, id: &str) -> Outcome {
        let calendar_id = self.calendar_id()?;
        let mut calendar = self.user.calendar();
        let known = self.find(&calendar, &calendar_id, id).ok_or_else(not_found)?;
        if known.cancelled {
            return Err(google_error(410, "deleted", "Resource has been deleted"));
        }
        self.check_match(&known)?;
        self.cancel(&mut calendar, &known);
        super::super::done()
    }

    /// Cancels an event, and with a series its occurrences.
    pub(super) fn cancel(&self, calendar: &mut Calendar, event: &Event) -> Event {
        if event.of.is_none() {
            calendar.forget_occurrences(&event.calendar, &event.id);
        }
        let position = calendar.place(event);
        calendar.delete(position, self.clock.now());
        calendar.events[position].clone()
    }
}

/// Whether a time that is shown is this one, whatever the zone in which it is told.
fn is_time(shown: &Value, wanted: &str) -> bool {
    let moment = |text: &str| text.parse::<Timestamp>().ok();
    match shown["dateTime"].as_str() {
        Some(at) => moment(at) == moment(wanted),
        None => shown["date"] == wanted,
    }
}

//! Taking back what was done to events.
//!
//! A change is taken back field by field: what it set is set to what stood there before, and only where it still stands as
//! it was set. So whatever others changed since, answers of those invited among it, stays as they left it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Attendee, Event, EventPatch, EventTime, event_path, with_updates};
use crate::google::ApiCall;
use crate::plan::Service;

/// What a change of an event set, and what stood there before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reversal {
    /// Empty is as good as none, as it is for Google.
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<Swap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Swap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<Swap<EventTime, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<Swap<EventTime, String>>,
    /// The addresses of those who were invited.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    invited: Vec<String>,
}

/// One field: of a time, `after` is what the clock shows, as that is what a change says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Swap<Before, After> {
    before: Before,
    after: After,
}

/// Why a change is not taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReversalError {
    /// Somebody has changed the same field since: theirs stays.
    #[error("its {0} was changed again since")]
    Overtaken(&'static str),
}

impl Reversal {
    /// What takes `patch` back, which was made for `existing`.
    #[must_use]
    pub fn of(existing: &Event, patch: &EventPatch) -> Self {
        let text = |name: &str, before: &Option<String>| {
            let after = patch.0.get(name)?.as_str().unwrap_or_default().to_owned();
            Some(Swap { before: before.clone().unwrap_or_default(), after })
        };
        let time = |name: &str, before: &Option<EventTime>| {
            let new: EventTime = serde_json::from_value(patch.0.get(name)?.clone()).ok()?;
            Some(Swap { before: before.clone()?, after: new.shown()? })
        };
        let attendees = patch.0.get("attendees").and_then(Value::as_array);
        let address = |attendee: &Value| attendee["email"].as_str().map(str::to_owned);
        let is_new =
            |email: &String| !existing.attendees.iter().any(|one| is_of(one, std::slice::from_ref(email)));
        Self {
            summary: text("summary", &existing.summary),
            location: text("location", &existing.location),
            start: time("start", &existing.start),
            end: time("end", &existing.end),
            invited: attendees.into_iter().flatten().filter_map(address).filter(is_new).collect(),
        }
    }

    /// Both, where the change was made twice: what is found now of each field, and what was found `before` of those that are no
    /// longer to be set. Whether those are still as they were set is looked at on the way [`Self::back`].
    #[must_use]
    pub fn or(self, before: Self) -> Self {
        let mut invited = before.invited;
        for one in self.invited {
            if !invited.iter().any(|other| other.eq_ignore_ascii_case(&one)) {
                invited.push(one);
            }
        }
        Self {
            summary: self.summary.or(before.summary),
            location: self.location.or(before.location),
            start: self.start.or(before.start),
            end: self.end.or(before.end),
            invited,
        }
    }

    /// What to send so that the event, which is `now` as it is read on the same clock as before, is as it was. Nothing when it
    /// is so already.
    ///
    /// # Errors
    /// When somebody has changed one of the fields since.
    pub fn back(&self, now: &Event) -> Result<EventPatch, ReversalError> {
        let mut patch = Map::new();
        let texts = [("summary", &self.summary, &now.summary), ("location", &self.location, &now.location)];
        for (name, swap, now) in texts {
            let (Some(Swap { before, after }), now) = (swap, now.as_deref().unwrap_or_default()) else {
                continue;
            };
            if now == before {
                continue;
            }
            if now != after {
                return Err(ReversalError::Overtaken(name));
            }
            let before = Some(before).filter(|before| !before.is_empty());
            patch.insert(name.to_owned(), json!(before));
        }
        for (name, swap, now) in [("start", &self.start, &now.start), ("end", &self.end, &now.end)] {
            let (Some(Swap { before, after }), now) = (swap, now.as_ref().and_then(EventTime::shown)) else {
                continue;
            };
            if now == before.shown() {
                continue;
            }
            if now.as_ref() != Some(after) {
                return Err(ReversalError::Overtaken(name));
            }
            // All three: the form that is not wanted is unset.
            let EventTime { date_time, date, time_zone } = before;
            patch
                .insert(name.to_owned(), json!({"dateTime": date_time, "date": date, "timeZone": time_zone}));
        }
        if now.attendees.iter().any(|attendee| is_of(attendee, &self.invited)) {
            let rest = now.attendees.iter().filter(|attendee| !is_of(attendee, &self.invited));
            patch.insert("attendees".to_owned(), json!(rest.collect::<Vec<_>>()));
        }
        Ok(EventPatch(Value::Object(patch)))
    }
}

fn is_of(attendee: &Attendee, addresses: &[String]) -> bool {
    let email = attendee.email.as_deref().unwrap_or_default();
    addresses.iter().any(|address| address.eq_ignore_ascii_case(email))
}

impl EventTime {
    /// What the calendar shows: a day, or what the clock reads in the zone that the event was read in.
    fn shown(&self) -> Option<String> {
        let clock = || self.clock().map(|clock| clock.strftime("%Y-%m-%dT%H:%M:%S").to_string());
        self.day().map(|day| day.to_string()).or_else(clock)
    }
}

/// Brings back an event that was cancelled, out of what Google still shows of it; it must have that state yet. `None` when it
/// no longer shows enough. Google keeps what was deleted readable for that purpose for a while, on the calendar of whoever
/// organises it, or took it off their own; of one of a series it says only which that was, and the series knows the rest.
/// <https://developers.google.com/workspace/calendar/api/v3/reference/events#resource> (`status`)
#[must_use]
pub fn restore_event(cancelled: &Value) -> Option<ApiCall> {
    let id = cancelled["id"].as_str()?;
    let path = with_updates(event_path(id));
    let call = if cancelled["start"].is_object() && cancelled["end"].is_object() {
        let mut event = cancelled.clone();
        event["status"] = json!("confirmed");
        ApiCall::json(Service::Calendar, "PUT", path, &event)
    } else {
        cancelled["recurringEventId"].as_str()?;
        ApiCall::json(Service::Calendar, "PATCH", path, &json!({"status": "confirmed"}))
    };
    Some(call.only_if(cancelled["etag"].as_str()))
}

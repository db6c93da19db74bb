//! The calendar: listing, making, changing and cancelling events.
//!
//! All three effects may be repeated: an event that is made has an id that follows from task and step, a change
//! sets absolute values and only those that are not so yet, and cancelling what is cancelled is answered as such.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use sluice_protocols::google::UpstreamFault;
use sluice_protocols::google::calendar::{
    self, Busy, Event, EventChange, EventList, EventPatch, FreeBusy, ListEvents, NewEvent,
};
use sluice_protocols::plan::{DateTimeLocal, EmailAddress, Item, ItemKind, ItemRef, Operation, Recipient};
use sluice_protocols::problem::{Problem, ProblemKind};

use super::known::unresolved;
use super::reversal::{LOOKS_MAX, restless};
use super::seen::Listed;
use super::step::{Done, StepRun};
use crate::upstream::{CallError, Reply};

/// The user's own calendar, as Google calls it.
const OWN_CALENDAR: &str = "primary";
/// Most stretches of time that are told of one calendar.
const BUSY_SPANS_MAX: usize = 50;

impl StepRun<'_> {
    pub(super) async fn calendar_list(
        &self,
        from: Option<DateTimeLocal>,
        to: Option<DateTimeLocal>,
        query: Option<&str>,
        limit: u8,
    ) -> Result<Done, Problem> {
        let from = match from {
            Some(from) => self.moment(from.start())?,
            None => self.shared.env.clock.timestamp(),
        };
        let list = ListEvents {
            from: Some(from),
            to: to.map(|to| self.moment(to.end())).transpose()?,
            query,
            results_max: limit,
            time_zone: self.shared.zone_name,
        };
        let listed = |found: EventList| {
            let events = found.items.iter().filter(|event| !event.is_cancelled());
            Listed(events.map(|event| event.to_item().into()).collect())
        };
        let found = self.google.read_made(&calendar::list_events(&list), listed).await;
        let found = found.map_err(|error| self.problem(&error))?;
        Ok(Done::items(found.0.iter().take(usize::from(limit)).cloned()))
    }

    pub(super) async fn calendar_free_busy(
        &self,
        from: DateTimeLocal,
        to: DateTimeLocal,
        people: &[Recipient],
    ) -> Result<Done, Problem> {
        let addresses = self.shared.known.addresses(people)?;
        let mut calendars: Vec<&str> = addresses.iter().map(EmailAddress::as_str).collect();
        if calendars.is_empty() {
            calendars.push(OWN_CALENDAR);
        }
        let ask = calendar::free_busy(self.moment(from.start())?, self.moment(to.end())?, &calendars);
        let told: FreeBusy = self.google.read(&ask).await.map_err(|error| self.problem(&error))?;
        let lines: Vec<String> = calendars
            .iter()
            .map(|id| {
                let who = if *id == OWN_CALENDAR { "You" } else { *id };
                format!("{who}: {}", busy_times(told.calendars.get(*id), self.shared.zone))
            })
            .collect();
        Ok(Done { text: Some(lines.join("\n")), ..Done::default() })
    }

    /// A civil time on the user's clock. A time that the clock skips in spring means the one an hour later, one
    /// that it shows twice in autumn the first.
    fn moment(&self, at: DateTime) -> Result<Timestamp, Problem> {
        let zoned = at.to_zoned_datetime(self.shared.zone.clone());
        zoned.map(|zoned| zoned.timestamp()).map_err(|error| {
            tracing::error!(%error, "a time of a plan is out of bounds");
            Problem::new(ProblemKind::Internal, "a time is out of bounds")
        })
    }

    pub(super) async fn calendar_create(&self, call: &Operation) -> Result<Done, Problem> {
        let Operation::CalendarCreate { title, start, end, attendees, location, description } = call else {
            return Err(mistaken());
        };
        let attendees = self.shared.known.addresses(attendees)?;
        let event = NewEvent::new((self.shared.task, self.id), title, *start, *end, self.shared.zone_name)
            .with_attendees(&attendees)
            .with_location(location.as_deref())
            .with_description(description.as_deref());
        let insert = calendar::insert_event(&event);
        let (answer, _) = self.settle(&insert, "the event was created").await?;
        let made = match answer {
            Ok(reply) => parsed(&reply),
            // Ours: nobody else uses that id.
            Err(error) if error.fault() == Some(UpstreamFault::Conflict) => None,
            Err(error) => return Err(self.problem(&error)),
        };
        let item = match made {
            Some(event) => event.to_item(),
            None => self.event_by_id(event.id()).await.unwrap_or_else(|| planned(event.id(), title, *start)),
        };
        Ok(Done::items([item]))
    }

    /// An event that is known to be there, as far as it can be got.
    async fn event_by_id(&self, id: &str) -> Option<Item> {
        let get = calendar::get_event(id, self.shared.zone_name);
        self.google.read_fresh::<Event>(&get, self.limit()).await.ok().map(|event| event.to_item())
    }

    pub(super) async fn calendar_change(&self, call: &Operation) -> Result<Done, Problem> {
        let Operation::CalendarChange { event, title, start, end, location, add_attendees } = call else {
            return Err(mistaken());
        };
        let item = self.shared.known.item(*event)?;
        let add_attendees = self.shared.known.addresses(add_attendees)?;
        let change = EventChange {
            title: title.as_deref(),
            start: *start,
            end: *end,
            location: location.as_deref(),
            add_attendees: &add_attendees,
        };
        let mut is_in_doubt = self.resumed;
        for _look in 0..LOOKS_MAX {
            let existing = self.existing(&item).await?;
            let patch = EventPatch::new(&existing, &change, self.shared.zone_name)
                .map_err(|error| Problem::new(ProblemKind::InvalidField, error.to_string()))?;
            self.note_event(&existing, &patch, is_in_doubt).await?;
            if patch.is_empty() {
                return Ok(Done::items([existing.to_item()]));
            }
            // What is noted is what the change takes away: of another state it would be taken back to what nobody left.
            let state = existing.etag.as_deref().filter(|_| self.is_undone);
            let call = calendar::patch_event(&existing.id, &patch).only_if(state);
            // To repeat a change does no harm, but those who are invited would be told of it again.
            let is_done = async || self.is_so_already(&item.id, &change).await;
            let (answer, was_in_doubt) = self.settle_unless(&call, "the event was changed", is_done).await?;
            is_in_doubt |= was_in_doubt;
            match answer {
                Ok(reply) => {
                    let event = parsed(&reply).map(|event| event.to_item());
                    let event = match event {
                        Some(event) => event,
                        None => self.event_by_id(&item.id).await.unwrap_or(item),
                    };
                    return Ok(Done::items([event]));
                }
                Err(error) if state.is_some() && error.is_other_state() => {}
                Err(error) => return Err(self.event_problem(&item, &error)),
            }
        }
        let problem = restless(&item);
        Err(if is_in_doubt { self.unknown("the event was changed", &problem) } else { problem })
    }

    async fn is_so_already(&self, id: &str, change: &EventChange<'_>) -> bool {
        let get = calendar::get_event(id, self.shared.zone_name);
        let Ok(event) = self.google.read_fresh::<Event>(&get, self.limit()).await else { return false };
        EventPatch::new(&event, change, self.shared.zone_name).is_ok_and(|patch| patch.is_empty())
    }

    async fn existing(&self, item: &Item) -> Result<Event, Problem> {
        let get = calendar::get_event(&item.id, self.shared.zone_name);
        let event: Event = self
            .google
            .read_fresh(&get, self.deadline())
            .await
            .map_err(|error| self.event_problem(item, &error))?;
        if event.is_cancelled() { Err(no_event(item)) } else { Ok(event) }
    }

    pub(super) async fn calendar_delete(&self, event: ItemRef) -> Result<Done, Problem> {
        let item = self.shared.known.item(event)?;
        self.note_cancelling(&item).await?;
        let delete = calendar::delete_event(&item.id);
        let (answer, in_doubt) = self.settle(&delete, "the event was cancelled").await?;
        match answer {
            Ok(_) => Ok(Done::default()),
            // It is cancelled, which is what was asked for, by whomever.
            Err(error) if error.fault() == Some(UpstreamFault::Gone) => Ok(Done::default()),
            // An earlier attempt of ours did it.
            Err(error) if in_doubt && error.is_not_found() => Ok(Done::default()),
            Err(error) => Err(self.event_problem(&item, &error)),
        }
    }

    pub(super) fn event_problem(&self, item: &Item, error: &CallError) -> Problem {
        if error.is_not_found() { no_event(item) } else { self.problem(error) }
    }
}

/// When a calendar is taken, in words and on the user's clock.
fn busy_times(busy: Option<&Busy>, zone: &TimeZone) -> String {
    let Some(busy) = busy.filter(|busy| busy.errors.is_empty()) else {
        return "this calendar cannot be seen".to_owned();
    };
    let spans = busy.busy.iter().take(BUSY_SPANS_MAX).map(|span| {
        let (start, end) =
            (span.start.to_zoned_datetime(zone.clone()), span.end.to_zoned_datetime(zone.clone()));
        let until = if start.date() == end.date() { "%H:%M" } else { "%a %-d %b %Y, %H:%M" };
        format!("{} to {}", start.strftime("%a %-d %b %Y, %H:%M"), end.strftime(until))
    });
    let spans: Vec<String> = spans.collect();
    match busy.busy.len().checked_sub(BUSY_SPANS_MAX) {
        _ if spans.is_empty() => "free".to_owned(),
        Some(more) if more > 0 => format!("busy {}, and {more} times more", spans.join("; ")),
        _ => format!("busy {}", spans.join("; ")),
    }
}

fn no_event(item: &Item) -> Problem {
    unresolved(format!("the event “{}” is not there any more", item.title))
}

fn parsed(reply: &Reply) -> Option<Event> {
    serde_json::from_slice(&reply.body).ok()
}

/// An event that was made, in the words of the plan.
fn planned(id: &str, title: &str, start: DateTimeLocal) -> Item {
    Item {
        kind: ItemKind::Event,
        id: id.to_owned(),
        title: title.to_owned(),
        person: None,
        when: Some(start.to_string()),
        thread_id: None,
        message_id_header: None,
        snippet: None,
    }
}

/// The dispatcher gives each function its own operation.
fn mistaken() -> Problem {
    Problem::new(ProblemKind::Internal, "a step was given to the wrong operation")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_times_are_told_on_the_users_clock() {
        let zone = TimeZone::get("Europe/Berlin").expect("a zone");
        let told =
            |json: serde_json::Value| busy_times(Some(&serde_json::from_value(json).expect("times")), &zone);
        let span = |start: &str, end: &str| serde_json::json!({"start": start, "end": end});
        assert_eq!(told(serde_json::json!({"busy": []})), "free");
        assert_eq!(busy_times(None, &zone), "this calendar cannot be seen");
        let hidden = serde_json::json!({"busy": [], "errors": [{"reason": "notFound"}]});
        assert_eq!(told(hidden), "this calendar cannot be seen");
        let two = [
            span("2026-11-24T09:00:00Z", "2026-11-24T10:30:00Z"),
            span("2026-11-24T22:00:00Z", "2026-11-25T08:00:00+01:00"),
        ];
        let two = told(serde_json::json!({ "busy": two }));
        assert_eq!(
            two,
            "busy Tue 24 Nov 2026, 10:00 to 11:30; Tue 24 Nov 2026, 23:00 to Wed 25 Nov 2026, 08:00"
        );
        let many = vec![span("2026-11-24T09:00:00Z", "2026-11-24T10:30:00Z"); BUSY_SPANS_MAX + 2];
        assert!(told(serde_json::json!({ "busy": many })).ends_with(", and 2 times more"));
    }
}

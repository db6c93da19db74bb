//! Events that recur: the occurrences that their rules come to (RFC 5545 section 3.8.5).
//!
//! A series is kept as it was sent, and its occurrences are worked out whenever they are asked for. One that was changed or
//! cancelled by itself is an event of its own, which names its series and the moment it stands for.
//!
//! Rules are worked out on the clock of the series' own zone, and only what comes out is made a moment: so a talk at ten
//! stays at ten when the clocks change.

use std::borrow::Cow;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use rrule::RRuleSet;
use serde_json::Value;

use crate::sim::wire::{Reply, google_error};
use crate::sim::world::{Calendar, Event, Moment, Occurrence};

/// Occurrences of one series that one answer has at most. Google's answers end as well where a series does not.
const OCCURRENCES_MAX: usize = 1_000;
/// Occurrences that are passed over, from the first one on, to come to those that are asked for: 130 years of days.
const PASSED_MAX: usize = 50_000;

/// Whether it recurs.
pub(super) fn is_series(event: &Event) -> bool {
    event.of.is_none() && rules(event).next().is_some()
}

fn rules(event: &Event) -> impl Iterator<Item = &str> {
    let lines = event.rest.get("recurrence").and_then(Value::as_array);
    lines.into_iter().flatten().filter_map(Value::as_str)
}

/// Checks what an event says of its recurrence.
pub(super) fn check(event: &Event, zone: &TimeZone) -> Result<(), Reply> {
    if !is_series(event) {
        return Ok(());
    }
    if matches!(&event.start, Moment::At(_, None)) {
        return Err(google_error(400, "required", "Missing time zone definition for start time."));
    }
    match Series::new(event, zone) {
        Some(_) => Ok(()),
        None => Err(google_error(400, "invalid", "Invalid recurrence rule.")),
    }
}

/// A series, and the clock that it goes by.
struct Series<'a> {
    event: &'a Event,
    zone: TimeZone,
    /// On that clock, as if it were UTC.
    rules: RRuleSet,
}

impl<'a> Series<'a> {
    /// `None` when its rules cannot be understood; `EXRULE`, which RFC 5545 gave up, is not.
    fn new(event: &'a Event, calendar: &TimeZone) -> Option<Self> {
        let named = match &event.start {
            Moment::At(_, Some(name)) => TimeZone::get(name).ok(),
            Moment::At(_, None) | Moment::Day(_) => None,
        };
        let zone = named.unwrap_or_else(|| calendar.clone());
        let mut text = format!("DTSTART:{}", written(clock(&event.start, &zone)));
        for line in rules(event) {
            text.push('\n');
            text.push_str(&on_clock(line, &zone)?);
        }
        let rules: RRuleSet = text.parse().ok()?;
        Some(Self { event, rules: rules.limit(), zone })
    }

    /// When its occurrences start, earliest first.
    fn starts(&self) -> impl Iterator<Item = Moment> {
        let clock = |at: i64| Some(TimeZone::UTC.to_datetime(Timestamp::from_second(at).ok()?));
        let moment = move |at: DateTime| match &self.event.start {
            Moment::Day(_) => Some(Moment::Day(at.date())),
            Moment::At(_, name) => Some(Moment::At(self.zone.to_timestamp(at).ok()?, name.clone())),
        };
        self.rules.into_iter().take(PASSED_MAX).filter_map(move |at| moment(clock(at.timestamp())?))
    }

    fn occurrence(&self, start: Moment) -> Event {
        let series = self.event;
        let end = match (&start, &series.start, &series.end) {
            (Moment::Day(day), Moment::Day(first), Moment::Day(last)) => {
                let days = first.until(*last).map_or(1, |span| span.get_days());
                Moment::Day(day.checked_add(days.days()).unwrap_or(*day))
            }
            (Moment::At(at, _), first, last) => {
                let lasts = last.instant(&self.zone).duration_since(first.instant(&self.zone));
                let name = if let Moment::At(_, name) = last { name.clone() } else { None };
                Moment::At(at.checked_add(lasts).unwrap_or(*at), name)
            }
            (Moment::Day(day), ..) => Moment::Day(*day),
        };
        let mut event = Event {
            id: format!("{}_{}", series.id, stamp(&start)),
            of: Some(Occurrence { series: series.id.clone(), original: start.clone() }),
            start,
            end,
            ..series.clone()
        };
        event.rest.remove("recurrence");
        event
    }
}

/// What stands for the moment in the id of an occurrence.
fn stamp(start: &Moment) -> String {
    match start {
        Moment::Day(date) => date.strftime("%Y%m%d").to_string(),
        Moment::At(at, _) => at.strftime("%Y%m%dT%H%M%SZ").to_string(),
    }
}

fn clock(moment: &Moment, zone: &TimeZone) -> DateTime {
    match moment {
        Moment::Day(date) => date.at(0, 0, 0, 0),
        Moment::At(at, _) => zone.to_datetime(*at),
    }
}

fn written(at: DateTime) -> String {
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// A line of a recurrence with every time in it on the clock of the series.
fn on_clock(line: &str, zone: &TimeZone) -> Option<String> {
    let (head, value) = line.split_once(':')?;
    let mut words = head.split(';');
    let name = words.next()?.to_ascii_uppercase();
    match name.as_str() {
        "RRULE" => {
            let parts = value.split(';').map(|part| match part.split_once('=') {
                Some((name, until)) if name.eq_ignore_ascii_case("UNTIL") => {
                    // A day is over with its last second.
                    let until = time(until, zone, Time::constant(23, 59, 59, 0))?;
                    Some(format!("UNTIL={}", written(until)))
                }
                _ => Some(part.to_owned()),
            });
            Some(format!("RRULE:{}", parts.collect::<Option<Vec<_>>>()?.join(";")))
        }
        "EXDATE" | "RDATE" => {
            let of = words
                .find_map(|word| word.split_once('=').filter(|(name, _)| name.eq_ignore_ascii_case("TZID")));
            let given = of.map_or_else(|| Some(zone.clone()), |(_, name)| TimeZone::get(name).ok())?;
            let times = value.split(',').map(|text| {
                let at = time(text, &given, Time::midnight())?;
                let is_day = !text.contains('T');
                let at = if is_day { at } else { zone.to_datetime(given.to_timestamp(at).ok()?) };
                Some(written(at))
            });
            Some(format!("{name}:{}", times.collect::<Option<Vec<_>>>()?.join(",")))
        }
        _ => None,
    }
}

/// `20261124T090000Z`, a moment; `20261124T100000`, on the clock; or `20261124`, a day, with the time that stands for it.
fn time(text: &str, zone: &TimeZone, of_day: Time) -> Option<DateTime> {
    if let Some(utc) = text.strip_suffix('Z') {
        let at = DateTime::strptime("%Y%m%dT%H%M%S", utc).ok()?;
        return Some(zone.to_datetime(TimeZone::UTC.to_timestamp(at).ok()?));
    }
    if text.contains('T') {
        return DateTime::strptime("%Y%m%dT%H%M%S", text).ok();
    }
    Some(Date::strptime("%Y%m%d", text).ok()?.to_datetime(of_day))
}

/// What is looked at: what ends after the one bound and starts before the other.
#[derive(Clone, Copy, Default)]
pub(super) struct Window {
    pub(super) from: Option<Timestamp>,
    pub(super) to: Option<Timestamp>,
}

impl Window {
    fn has(self, event: &Event, zone: &TimeZone) -> bool {
        self.from.is_none_or(|from| event.end.instant(zone) > from) && !self.is_past(event, zone)
    }

    const fn is_open(self) -> bool {
        self.from.is_none() && self.to.is_none()
    }

    fn is_past(self, event: &Event, zone: &TimeZone) -> bool {
        self.to.is_some_and(|to| event.start.instant(zone) >= to)
    }
}

/// The occurrences of a series in the window that were neither changed nor cancelled by themselves.
fn regular(calendar: &Calendar, event: &Event, window: Window, zone: &TimeZone) -> Vec<Event> {
    let Some(series) = Series::new(event, zone) else { return Vec::new() };
    let is_own = |found: &Event| calendar.position(&event.calendar, &found.id).is_some();
    series
        .starts()
        .map(|start| series.occurrence(start))
        .take_while(|found| !window.is_past(found, zone))
        .filter(|found| window.has(found, zone) && !is_own(found))
        .take(OCCURRENCES_MAX)
        .collect()
}

/// What a calendar has in the window, cancelled events among it. `singly`: the occurrences in the place of their series.
pub(super) fn laid_out<'a>(
    calendar: &'a Calendar,
    id: &str,
    singly: bool,
    window: Window,
    zone: &TimeZone,
) -> Vec<Cow<'a, Event>> {
    let mut found = Vec::new();
    for event in calendar.events.iter().filter(|event| event.calendar == id) {
        if !is_series(event) || event.cancelled {
            found.extend(window.has(event, zone).then_some(Cow::Borrowed(event)));
        } else if singly {
            found.extend(regular(calendar, event, window, zone).into_iter().map(Cow::Owned));
        } else if window.is_open() || !regular(calendar, event, window, zone).is_empty() {
            found.push(Cow::Borrowed(event));
        }
    }
    found
}

/// The occurrences of one series, those that are events of their own among them, earliest first.
pub(super) fn occurrences<'a>(
    calendar: &'a Calendar,
    event: &Event,
    window: Window,
    zone: &TimeZone,
) -> Vec<Cow<'a, Event>> {
    let regular = regular(calendar, event, window, zone);
    let mut found: Vec<Cow<'_, Event>> = regular.into_iter().map(Cow::Owned).collect();
    let is_of = |other: &&Event| {
        other.calendar == event.calendar && other.of.as_ref().is_some_and(|of| of.series == event.id)
    };
    let others = calendar.events.iter().filter(is_of).filter(|other| window.has(other, zone));
    found.extend(others.map(Cow::Borrowed));
    found.sort_by_key(|found| found.start.instant(zone));
    found
}

/// The event of this id: one that is kept, or an occurrence that nobody has touched.
pub(super) fn find(calendar: &Calendar, calendar_id: &str, id: &str, zone: &TimeZone) -> Option<Event> {
    if let Some(at) = calendar.position(calendar_id, id) {
        return Some(calendar.events[at].clone());
    }
    let (series, wanted) = id.rsplit_once('_')?;
    let event = &calendar.events[calendar.position(calendar_id, series)?];
    if event.cancelled || !is_series(event) {
        return None;
    }
    let series = Series::new(event, zone)?;
    let start = series.starts().find(|start| stamp(start) == wanted)?;
    Some(series.occurrence(start))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn zone() -> TimeZone {
        TimeZone::get("Europe/Berlin").expect("a zone")
    }

    fn event(start: Moment, end: Moment, recurrence: &[&str]) -> Event {
        let now = Timestamp::UNIX_EPOCH;
        Event {
            id: "abcde".to_owned(),
            summary: "Talk".to_owned(),
            description: None,
            location: None,
            start,
            end,
            attendees: Vec::new(),
            cancelled: false,
            created: now,
            updated: now,
            sequence: 0,
            calendar: String::new(),
            changed: 0,
            of: None,
            rest: [("recurrence".to_owned(), json!(recurrence))].into_iter().collect(),
        }
    }

    fn timed(start: &str, recurrence: &[&str]) -> Event {
        let at: Timestamp = start.parse().expect("a time");
        let name = Some("Europe/Berlin".to_owned());
        event(Moment::At(at, name.clone()), Moment::At(at + 45.minutes(), name), recurrence)
    }

    fn starts(event: &Event, count: usize) -> Vec<String> {
        let series = Series::new(event, &zone()).expect("rules");
        let told = series.starts().take(count).map(|start| match start {
            Moment::Day(date) => date.to_string(),
            Moment::At(at, _) => at.to_string(),
        });
        told.collect()
    }

    #[test]
    fn ten_stays_ten_when_the_clocks_change() {
        let weekly = timed("2026-10-19T10:00:00+02:00", &["RRULE:FREQ=WEEKLY;BYDAY=MO,WE"]);
        let wanted = ["2026-10-19T08:00:00Z", "2026-10-21T08:00:00Z", "2026-10-26T09:00:00Z"];
        assert_eq!(starts(&weekly, 3), wanted);
    }

    #[test]
    fn rules_end_by_count_by_moment_and_by_day() {
        let daily = |rule: &str| starts(&timed("2026-11-23T10:00:00+01:00", &[rule]), 100).len();
        assert_eq!(daily("RRULE:FREQ=DAILY;COUNT=4"), 4);
        // 09:00 in UTC is ten in Berlin, and the last moment counts.
        assert_eq!(daily("RRULE:FREQ=DAILY;UNTIL=20261126T090000Z"), 4);
        assert_eq!(daily("RRULE:FREQ=DAILY;UNTIL=20261126T085959Z"), 3);
        assert_eq!(daily("RRULE:FREQ=DAILY;UNTIL=20261126"), 4);
        let day = |text: &str| Moment::Day(text.parse().expect("a day"));
        let monthly =
            event(day("2026-11-30"), day("2026-12-01"), &["RRULE:FREQ=MONTHLY;BYMONTHDAY=-1;UNTIL=20270131"]);
        assert_eq!(starts(&monthly, 9), ["2026-11-30", "2026-12-31", "2027-01-31"]);
    }

    #[test]
    fn single_days_are_left_out_and_added_in_any_zone() {
        let lines = [
            "RRULE:FREQ=DAILY;COUNT=4",
            "EXDATE;TZID=Europe/London:20261124T090000",
            "EXDATE:20261125T090000Z",
            "RDATE:20261201T120000",
        ];
        let all = starts(&timed("2026-11-23T10:00:00+01:00", &lines), 9);
        assert_eq!(all, ["2026-11-23T09:00:00Z", "2026-11-26T09:00:00Z", "2026-12-01T11:00:00Z"]);
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        for line in
            ["RRULE:FREQ=OFTEN", "RRULE", "EXRULE:FREQ=DAILY", "EXDATE:soon", "RRULE:FREQ=DAILY;UNTIL=2026"]
        {
            assert!(check(&timed("2026-11-23T10:00:00+01:00", &[line]), &zone()).is_err(), "{line}");
        }
        assert!(check(&timed("2026-11-23T10:00:00+01:00", &["RRULE:FREQ=YEARLY"]), &zone()).is_ok());
    }

    #[test]
    fn a_window_bounds_what_has_no_end() {
        let mut calendar = Calendar::new(Vec::new());
        calendar.insert(timed("2026-11-23T10:00:00+01:00", &["RRULE:FREQ=DAILY"]));
        let at = |text: &str| Some(text.parse().expect("a time"));
        let two = Window { from: at("2026-11-25T09:30:00Z"), to: at("2026-11-27T09:00:00Z") };
        let found = laid_out(&calendar, "", true, two, &zone());
        let ids: Vec<&str> = found.iter().map(|event| event.id.as_str()).collect();
        assert_eq!(ids, ["abcde_20261125T090000Z", "abcde_20261126T090000Z"]);
        assert_eq!(find(&calendar, "", ids[0], &zone()).expect("found").start, found[0].start);
        assert!(find(&calendar, "", "abcde_20261125T100000Z", &zone()).is_none());
        let open = laid_out(&calendar, "", true, Window::default(), &zone());
        assert_eq!(open.len(), OCCURRENCES_MAX);
        // Together it is one event, and none outside of its time.
        assert_eq!(laid_out(&calendar, "", false, two, &zone()).len(), 1);
        let before = Window { from: None, to: at("2026-11-23T09:00:00Z") };
        assert!(laid_out(&calendar, "", false, before, &zone()).is_empty());
    }
}

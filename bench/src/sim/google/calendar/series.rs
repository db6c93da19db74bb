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
/// Lines of one recurrence.
const LINES_MAX: usize = 64;
/// Bytes of all of them.
const BYTES_MAX: usize = 4_096;
/// `RRULE` among them: the work of each is bounded, and they are worked out side by side.
const RULES_MAX: usize = 4;

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
    let invalid = |message: &str| google_error(400, "invalid", message);
    if let Some(message) = refusal(event) {
        return Err(invalid(&message));
    }
    Series::new(event, zone).map(|_| ()).ok_or_else(|| invalid("Invalid recurrence rule."))
}

/// Why a recurrence is refused before anybody works it out. All the occurrences of one period, up to a year, are made at
/// once: so no day may have many of them.
fn refusal(event: &Event) -> Option<String> {
    let bytes: usize = rules(event).map(str::len).sum();
    let all = rules(event).filter(|line| is_rule(line)).count();
    if rules(event).count() > LINES_MAX || bytes > BYTES_MAX || all > RULES_MAX {
        return Some(format!(
            "A recurrence has at most {LINES_MAX} lines, {BYTES_MAX} bytes and {RULES_MAX} rules."
        ));
    }
    if rules(event).any(|line| line.contains(char::is_control)) {
        return Some("A line of a recurrence holds a control character.".to_owned());
    }
    let parts = rules(event).filter(|line| is_rule(line)).flat_map(|line| line.split([':', ';']));
    let mut parts = parts.filter_map(|part| part.split_once('='));
    let finer = parts.find(|(name, value)| match name.trim().to_ascii_uppercase().as_str() {
        "FREQ" => FINER.iter().any(|finer| value.trim().eq_ignore_ascii_case(finer)),
        "BYHOUR" | "BYMINUTE" | "BYSECOND" => true,
        _ => false,
    });
    finer.map(|(name, value)| format!("Recurrence within a day is not supported: {name}={value}."))
}

/// Frequencies of more than once a day.
const FINER: [&str; 3] = ["HOURLY", "MINUTELY", "SECONDLY"];

fn is_rule(line: &str) -> bool {
    is_line(line, "RRULE")
}

fn is_line(line: &str, name: &str) -> bool {
    line.split([':', ';']).next().is_some_and(|word| word.eq_ignore_ascii_case(name))
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
        let first = written(clock(&event.start, &zone));
        let mut text = format!("DTSTART:{first}");
        // Without a rule that has it, the first one counts all the same (RFC 5545 section 3.8.2.4).
        let is_any = |name: &str| rules(event).any(|line| is_line(line, name));
        if is_any("RDATE") && !is_any("RRULE") {
            text.push_str(&format!("\nRDATE:{first}"));
        }
        for line in rules(event) {
            text.push('\n');
            text.push_str(&on_clock(line, &zone)?);
        }
        let rules: RRuleSet = text.parse().ok()?;
        Some(Self { event, rules: rules.limit(), zone })
    }

    /// When its occurrences start, earliest first and each once, without the name of their zone.
    fn starts(&self) -> impl Iterator<Item = Moment> {
        let clock = |at: i64| Some(TimeZone::UTC.to_datetime(Timestamp::from_second(at).ok()?));
        let moment = move |at: DateTime| match &self.event.start {
            Moment::Day(_) => Some(Moment::Day(at.date())),
            Moment::At(..) => Some(Moment::At(self.zone.to_timestamp(at).ok()?, None)),
        };
        let all =
            self.rules.into_iter().take(PASSED_MAX).filter_map(move |at| moment(clock(at.timestamp())?));
        // Several lines may name the same moment.
        let mut last = None;
        all.filter(move |start| last.replace(start.clone()).as_ref() != Some(start))
    }

    /// When the occurrence that starts then ends, without the name of its zone.
    fn end(&self, start: &Moment) -> Moment {
        let series = self.event;
        match (start, &series.start, &series.end) {
            (Moment::Day(day), Moment::Day(first), Moment::Day(last)) => {
                let days = first.until(*last).map_or(1, |span| span.get_days());
                Moment::Day(day.checked_add(days.days()).unwrap_or(*day))
            }
            (Moment::At(at, _), first, last) => {
                let lasts = last.instant(&self.zone).duration_since(first.instant(&self.zone));
                Moment::At(at.checked_add(lasts).unwrap_or(*at), None)
            }
            (Moment::Day(day), ..) => Moment::Day(*day),
        }
    }

    /// The id of the occurrence that starts then.
    fn id(&self, start: &Moment) -> String {
        format!("{}_{}", self.event.id, stamp(start))
    }

    fn occurrence(&self, start: &Moment) -> Event {
        let series = self.event;
        let named = |moment: &Moment, like: &Moment| match (moment, like) {
            (Moment::At(at, _), Moment::At(_, name)) => Moment::At(*at, name.clone()),
            _ => moment.clone(),
        };
        let original = named(start, &series.start);
        let mut event = Event {
            id: self.id(start),
            start: original.clone(),
            end: named(&self.end(start), &series.end),
            of: Some(Occurrence { series: series.id.clone(), original }),
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

/// The moment that [`stamp`] writes so.
fn stamped(text: &str) -> Option<Moment> {
    let moment = match text.strip_suffix('Z') {
        Some(utc) => {
            let at = DateTime::strptime("%Y%m%dT%H%M%S", utc).ok()?;
            Moment::At(TimeZone::UTC.to_timestamp(at).ok()?, None)
        }
        None => Moment::Day(Date::strptime("%Y%m%d", text).ok()?),
    };
    (stamp(&moment) == text).then_some(moment)
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
    fn has(self, start: &Moment, end: &Moment, zone: &TimeZone) -> bool {
        self.from.is_none_or(|from| end.instant(zone) > from) && !self.is_past(start, zone)
    }

    const fn is_open(self) -> bool {
        self.from.is_none() && self.to.is_none()
    }

    fn is_past(self, start: &Moment, zone: &TimeZone) -> bool {
        self.to.is_some_and(|to| start.instant(zone) >= to)
    }
}

/// The occurrences of a series in the window that were neither changed nor cancelled by themselves.
fn regular<'s>(
    calendar: &'s Calendar,
    series: &'s Series<'_>,
    window: Window,
    zone: &'s TimeZone,
) -> impl Iterator<Item = Event> {
    let is_own = move |start: &Moment| calendar.position(&series.event.calendar, &series.id(start)).is_some();
    series
        .starts()
        .take_while(move |start| !window.is_past(start, zone))
        .filter(move |start| window.has(start, &series.end(start), zone) && !is_own(start))
        .take(OCCURRENCES_MAX)
        .map(move |start| series.occurrence(&start))
}

/// What a calendar has in the window, cancelled events among it. `singly`: the occurrences in the place of their series; of
/// a cancelled one they are cancelled.
pub(super) fn laid_out<'a>(
    calendar: &'a Calendar,
    id: &str,
    singly: bool,
    window: Window,
    zone: &TimeZone,
) -> Vec<Cow<'a, Event>> {
    let mut found = Vec::new();
    for event in calendar.events.iter().filter(|event| event.calendar == id) {
        if !is_series(event) || (event.cancelled && !singly) {
            found.extend(window.has(&event.start, &event.end, zone).then_some(Cow::Borrowed(event)));
            continue;
        }
        let series = Series::new(event, zone);
        let mut regular = series.iter().flat_map(|series| regular(calendar, series, window, zone));
        if singly {
            found.extend(regular.map(Cow::Owned));
        } else if window.is_open() || regular.next().is_some() {
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
    let series = Series::new(event, zone);
    let regular = series.iter().flat_map(|series| regular(calendar, series, window, zone));
    let mut found: Vec<Cow<'a, Event>> = regular.map(Cow::Owned).collect();
    let is_of = |other: &&Event| {
        other.calendar == event.calendar && other.of.as_ref().is_some_and(|of| of.series == event.id)
    };
    let others =
        calendar.events.iter().filter(is_of).filter(|other| window.has(&other.start, &other.end, zone));
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
    let wanted = stamped(wanted)?;
    let series = Series::new(event, zone)?;
    let last = wanted.instant(zone);
    let mut starts = series.starts().take_while(|start| start.instant(zone) <= last);
    starts.any(|start| start == wanted).then(|| series.occurrence(&wanted))
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

    fn is_taken(lines: &[&str]) -> bool {
        check(&timed("2026-11-23T10:00:00+01:00", lines), &zone()).is_ok()
    }

    #[test]
    fn what_would_recur_within_a_day_is_refused() {
        for part in [
            "FREQ=HOURLY",
            "FREQ=MINUTELY;COUNT=2",
            "freq=secondly",
            "FREQ=YEARLY;BYHOUR=1,2",
            "FREQ=DAILY;BYMINUTE=0",
            "FREQ=DAILY;bysecond=0",
        ] {
            for line in [format!("RRULE:{part}"), format!("rrule;X-A=B:{part}")] {
                let event = timed("2026-11-23T10:00:00+01:00", &[&line]);
                assert!(refusal(&event).is_some_and(|why| why.contains("within a day")), "{line}");
                assert!(check(&event, &zone()).is_err(), "{line}");
            }
        }
    }

    #[test]
    fn a_recurrence_is_bounded_in_lines_bytes_and_rules() {
        let rule = "RRULE:FREQ=DAILY;COUNT=2";
        let with = |count: usize, line: &'static str| [&[rule][..], &vec![line; count][..]].concat();
        assert!(is_taken(&with(LINES_MAX - 1, "RDATE:20261201T120000")));
        assert!(!is_taken(&with(LINES_MAX, "RDATE:20261201T120000")));
        assert!(is_taken(&with(RULES_MAX - 1, rule)) && !is_taken(&with(RULES_MAX, rule)));
        let dates = |count: usize| format!("RDATE:{}", vec!["20261201T120000"; count].join(","));
        // Sixteen bytes each.
        let most = (BYTES_MAX - rule.len() - "RDATE:".len()) / 16;
        assert!(is_taken(&[rule, &dates(most)]) && !is_taken(&[rule, &dates(most + 1)]));
    }

    #[test]
    fn a_line_is_one_line() {
        for line in
            ["RRULE:FREQ=DAILY\nRRULE:FREQ=SECONDLY", "RRULE:FREQ=DAILY;COUNT=2\r\n", "RRULE:FREQ=DAILY\t"]
        {
            let event = timed("2026-11-23T10:00:00+01:00", &[line]);
            assert!(refusal(&event).is_some_and(|why| why.contains("control character")), "{line:?}");
        }
    }

    #[test]
    fn a_moment_that_two_lines_name_counts_once() {
        let lines =
            ["RRULE:FREQ=DAILY;COUNT=3", "RDATE:20261124T100000,20261124T090000Z", "RDATE:20261124T110000"];
        let wanted =
            ["2026-11-23T09:00:00Z", "2026-11-24T09:00:00Z", "2026-11-24T10:00:00Z", "2026-11-25T09:00:00Z"];
        assert_eq!(starts(&timed("2026-11-23T10:00:00+01:00", &lines), 9), wanted);
    }

    #[test]
    fn a_series_of_single_days_has_its_start_as_well() {
        let lines = ["RDATE:20261124T100000", "RDATE:20261201T120000"];
        let wanted = ["2026-11-23T09:00:00Z", "2026-11-24T09:00:00Z", "2026-12-01T11:00:00Z"];
        assert_eq!(starts(&timed("2026-11-23T10:00:00+01:00", &lines), 9), wanted);
        let without = ["RDATE:20261124T100000", "EXDATE:20261123T100000"];
        assert_eq!(starts(&timed("2026-11-23T10:00:00+01:00", &without), 9), wanted[1..2]);
    }

    #[test]
    fn a_cancelled_series_is_laid_out_as_cancelled_occurrences() {
        let mut calendar = Calendar::new(Vec::new());
        calendar.insert(timed("2026-11-23T10:00:00+01:00", &["RRULE:FREQ=DAILY;COUNT=2"]));
        calendar.delete(0, Timestamp::UNIX_EPOCH);
        let found = laid_out(&calendar, "", true, Window::default(), &zone());
        let told: Vec<_> = found.iter().map(|event| (event.id.as_str(), event.cancelled)).collect();
        assert_eq!(told, [("abcde_20261123T090000Z", true), ("abcde_20261124T090000Z", true)]);
        assert!(found.iter().all(|event| event.of.is_some() && event.changed > 0));
        let whole = laid_out(&calendar, "", false, Window::default(), &zone());
        assert_eq!(whole.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), ["abcde"]);
        assert!(find(&calendar, "", told[0].0, &zone()).is_none());
    }

    #[test]
    fn an_occurrence_is_found_by_its_whole_stamp_and_keeps_its_zone() {
        let day = |text: &str| Moment::Day(text.parse().expect("a day"));
        let mut calendar = Calendar::new(Vec::new());
        calendar.insert(event(day("2026-11-23"), day("2026-11-25"), &["RRULE:FREQ=WEEKLY"]));
        let found = |id: &str| find(&calendar, "", id, &zone());
        assert_eq!(found("abcde_20261130").expect("found").end, day("2026-12-02"));
        for id in ["abcde_20261124", "abcde_20261130T000000Z", "abcde_2026113", "abcde_", "abcde_020261130"] {
            assert!(found(id).is_none(), "{id}");
        }
        let mut calendar = Calendar::new(Vec::new());
        calendar.insert(timed("2026-11-23T10:00:00+01:00", &["RRULE:FREQ=DAILY"]));
        let found = find(&calendar, "", "abcde_20261124T090000Z", &zone()).expect("found");
        let named = |moment: &Moment| matches!(moment, Moment::At(_, Some(name)) if name == "Europe/Berlin");
        assert!(named(&found.start) && named(&found.end));
        assert!(named(&found.of.expect("its series").original));
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

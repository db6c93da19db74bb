//! Days and times as people say them, on the user's clock.
//!
//! Invariant: what can be meant in two ways is [`Unclear`], never guessed: a bare seven o'clock, "next Friday" on a
//! Monday, a weekday on that very day, "5/4".

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::{Span, ToSpan as _};

use super::words::Scan;
use crate::plan::DateTimeLocal;

/// It could mean two things: leave it to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unclear;

/// A stretch of time on the user's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Whole days, both included.
    Days(Date, Date),
    /// From a minute to another, the end excluded.
    Minutes(DateTime, DateTime),
    /// A part of a day, such as the morning, from a minute to another.
    Part(DateTime, DateTime),
    /// One minute.
    At(DateTime),
}

/// How long after a day in this year has passed it is not taken to mean next year.
const PASSED_DAYS: i64 = 90;

impl When {
    /// The bounds for a list of events.
    pub(super) fn bounds(self) -> Option<(DateTimeLocal, DateTimeLocal)> {
        match self {
            Self::Days(from, to) => Some((DateTimeLocal::day(from)?, DateTimeLocal::day(to)?)),
            Self::Minutes(from, to) | Self::Part(from, to) => {
                Some((DateTimeLocal::minute(from)?, DateTimeLocal::minute(to)?))
            }
            Self::At(at) => {
                let end = at.checked_add(1.minute()).ok()?;
                Some((DateTimeLocal::minute(at)?, DateTimeLocal::minute(end)?))
            }
        }
    }

    /// Start and end of an event; `None` when it is no definite day or moment.
    pub(super) fn event(self) -> Option<(DateTimeLocal, Option<DateTimeLocal>)> {
        match self {
            Self::Days(from, to) if from == to => Some((DateTimeLocal::day(from)?, None)),
            Self::Days(..) | Self::Part(..) => None,
            Self::Minutes(from, to) => Some((DateTimeLocal::minute(from)?, Some(DateTimeLocal::minute(to)?))),
            Self::At(at) => Some((DateTimeLocal::minute(at)?, None)),
        }
    }

    /// The first moment.
    pub(super) fn start(self) -> DateTime {
        match self {
            Self::Days(from, _) => from.at(0, 0, 0, 0),
            Self::Minutes(from, _) | Self::Part(from, _) | Self::At(from) => from,
        }
    }

    /// The first moment after it.
    pub(super) fn end(self) -> Option<DateTime> {
        match self {
            Self::Days(_, to) => Some(to.tomorrow().ok()?.at(0, 0, 0, 0)),
            Self::Minutes(_, to) | Self::Part(_, to) => Some(to),
            Self::At(at) => at.checked_add(1.minute()).ok(),
        }
    }
}

/// Times of day that have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Morning,
    Afternoon,
    Evening,
}

impl Part {
    /// From and until which hour; 24 is the end of the day.
    const fn hours(self) -> (i8, i8) {
        match self {
            Self::Morning => (5, 12),
            Self::Afternoon => (12, 18),
            Self::Evening => (18, 24),
        }
    }
}

/// A time on a clock face.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Face {
    hour: i8,
    minute: i8,
    /// Whether the half of the day is known.
    definite: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clock {
    At(Face),
    Span(Face, Face),
    /// So many minutes from now.
    In(i64),
}

/// What was said, before it is put together.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    days: Option<(Date, Date)>,
    part: Option<Part>,
    clock: Option<Clock>,
}

/// Goes past everything that tells a time here, in any order: "tomorrow at three", "at three pm on Friday".
///
/// # Errors
/// When what is said has two meanings, or says the same thing twice.
pub(super) fn when(scan: &mut Scan<'_>, now: DateTime) -> Result<Option<When>, Unclear> {
    let mut said = Said::default();
    let before = scan.len();
    for _each in 0..4 {
        if !phrase(scan, now, &mut said)? {
            break;
        }
    }
    if scan.len() == before { Ok(None) } else { said.together(now).map(Some) }
}

fn phrase(scan: &mut Scan<'_>, now: DateTime, said: &mut Said) -> Result<bool, Unclear> {
    let mut ahead = *scan;
    if let Some((days, part)) = day_phrase(&mut ahead, now.date())? {
        set(&mut said.days, days)?;
        if let Some(part) = part {
            set(&mut said.part, part)?;
        }
    } else if let Some(part) = part_phrase(&mut ahead) {
        set(&mut said.part, part)?;
    } else if let Some(clock) = clock_phrase(&mut ahead)? {
        set(&mut said.clock, clock)?;
    } else {
        return Ok(false);
    }
    *scan = ahead;
    Ok(true)
}

fn set<T>(place: &mut Option<T>, value: T) -> Result<(), Unclear> {
    if place.replace(value).is_some() { Err(Unclear) } else { Ok(()) }
}

impl Said {
    fn together(self, now: DateTime) -> Result<When, Unclear> {
        let today = now.date();
        if let Some(Clock::In(minutes)) = self.clock {
            if self.days.is_some() || self.part.is_some() {
                return Err(Unclear);
            }
            let at = now.checked_add(Span::new().minutes(minutes)).map_err(|_| Unclear)?;
            return Ok(When::At(at.date().at(at.hour(), at.minute(), 0, 0)));
        }
        let Some(clock) = self.clock else {
            let Some(part) = self.part else {
                return self.days.map(|(a, b)| When::Days(a, b)).ok_or(Unclear);
            };
            let day = self.single_day(today)?;
            let (from, to) = part.hours();
            return Ok(When::Part(day.at(from, 0, 0, 0), hour_of(day, to)?));
        };
        let day = self.single_day(today)?;
        // Without a day, only a time that is still to come today is clear.
        let open = self.days.is_none();
        match clock {
            Clock::In(_) => Err(Unclear),
            Clock::At(face) => {
                let at = day.to_datetime(face.definite(self.part, open || day == today, now)?);
                if open && at <= now { Err(Unclear) } else { Ok(When::At(at)) }
            }
            Clock::Span(from, to) => {
                let to = to.definite(self.part, false, now)?;
                let from = from.before(to, self.part)?;
                let (from, to) = (day.to_datetime(from), day.to_datetime(to));
                if from >= to || (open && to <= now) { Err(Unclear) } else { Ok(When::Minutes(from, to)) }
            }
        }
    }

    fn single_day(&self, today: Date) -> Result<Date, Unclear> {
        match self.days {
            None => Ok(today),
            Some((from, to)) if from == to => Ok(from),
            Some(_) => Err(Unclear),
        }
    }
}

fn hour_of(day: Date, hour: i8) -> Result<DateTime, Unclear> {
    if hour < 24 {
        return Ok(day.at(hour, 0, 0, 0));
    }
    Ok(day.tomorrow().map_err(|_| Unclear)?.at(0, 0, 0, 0))
}

impl Face {
    fn time(self, hour: i8) -> Time {
        Time::constant(hour, self.minute, 0, 0)
    }

    /// Which half of the day is meant. `soon`: on this very day, so that the time may be past.
    fn definite(self, part: Option<Part>, soon: bool, now: DateTime) -> Result<Time, Unclear> {
        if self.definite {
            let fits = part.is_none_or(|part| {
                let (from, to) = part.hours();
                (from..to).contains(&self.hour)
            });
            return if fits { Ok(self.time(self.hour)) } else { Err(Unclear) };
        }
        let hour = match (part, self.hour) {
            (Some(Part::Morning), 5..=11) => self.hour,
            (Some(Part::Afternoon), 12) => 12,
            (Some(Part::Afternoon), 1..=5) => self.hour + 12,
            (Some(Part::Evening), 5..=11) => self.hour + 12,
            (Some(_), _) => return Err(Unclear),
            (None, 12) => 12,
            // Nobody meets at three in the night.
            (None, 1..=6) => self.hour + 12,
            (None, 9..=11) => self.hour,
            (None, _) => return Err(Unclear),
        };
        let time = self.time(hour);
        if soon && part.is_none() && time <= now.time() { Err(Unclear) } else { Ok(time) }
    }

    /// The start of a span that ends at `end`: in the same half of the day, or in the one before it.
    fn before(self, end: Time, part: Option<Part>) -> Result<Time, Unclear> {
        if self.definite {
            return self.definite(part, false, DateTime::ZERO);
        }
        let (early, late) = (self.hour % 12, self.hour % 12 + 12);
        let late_fits = self.time(late) < end;
        if late_fits { Ok(self.time(late)) } else { Ok(self.time(if self.hour == 12 { 12 } else { early })) }
    }
}

const WEEKDAYS: &[(&str, Weekday)] = &[
    ("monday", Weekday::Monday),
    ("tuesday", Weekday::Tuesday),
    ("wednesday", Weekday::Wednesday),
    ("thursday", Weekday::Thursday),
    ("friday", Weekday::Friday),
    ("saturday", Weekday::Saturday),
    ("sunday", Weekday::Sunday),
];

const MONTHS: &[(&str, i8)] = &[
    ("january", 1),
    ("jan", 1),
    ("february", 2),
    ("feb", 2),
    ("march", 3),
    ("april", 4),
    ("may", 5),
    ("june", 6),
    ("july", 7),
    ("august", 8),
    ("september", 9),
    ("sept", 9),
    ("october", 10),
    ("oct", 10),
    ("november", 11),
    ("nov", 11),
    ("december", 12),
    ("dec", 12),
];

type Days = ((Date, Date), Option<Part>);

fn day_phrase(scan: &mut Scan<'_>, today: Date) -> Result<Option<Days>, Unclear> {
    if let Some(days) = named_day(scan, today)? {
        return Ok(Some(days));
    }
    let mut ahead = *scan;
    if ahead.any(&["on", "for", "this", "in", "of", "during", "from"]).is_none() {
        return Ok(None);
    }
    let days = named_day(&mut ahead, today)?;
    if days.is_some() {
        *scan = ahead;
    }
    Ok(days)
}

fn named_day(scan: &mut Scan<'_>, today: Date) -> Result<Option<Days>, Unclear> {
    let mut ahead = *scan;
    let days = one_of_days(&mut ahead, today)?;
    if days.is_some() {
        *scan = ahead;
    }
    Ok(days)
}

fn one_of_days(scan: &mut Scan<'_>, today: Date) -> Result<Option<Days>, Unclear> {
    let plus = |days: i64| today.checked_add(Span::new().days(days)).map_err(|_| Unclear);
    let single = |date: Date| Ok(Some(((date, date), None)));
    if scan.phrase(&["the day after tomorrow", "day after tomorrow"]) {
        return single(plus(2)?);
    }
    if scan.eat("today") {
        return single(today);
    }
    if scan.eat("tomorrow") {
        return single(plus(1)?);
    }
    if scan.eat("yesterday") {
        return single(plus(-1)?);
    }
    if scan.phrase(&["tonight"]) {
        return Ok(Some(((today, today), Some(Part::Evening))));
    }
    for (phrase, part) in [
        ("this morning", Part::Morning),
        ("this afternoon", Part::Afternoon),
        ("this evening", Part::Evening),
    ] {
        if scan.phrase(&[phrase]) {
            return Ok(Some(((today, today), Some(part))));
        }
    }
    let weekday_number = i64::from(today.weekday().to_monday_zero_offset());
    if scan.phrase(&["this week"]) {
        return Ok(Some(((today, plus(6 - weekday_number)?), None)));
    }
    if scan.phrase(&["the next week"]) {
        return Err(Unclear);
    }
    if scan.phrase(&["next week", "the coming week"]) {
        return Ok(Some(((plus(7 - weekday_number)?, plus(13 - weekday_number)?), None)));
    }
    if scan.phrase(&["this weekend", "the weekend"]) {
        return Ok(Some(((plus((5 - weekday_number).max(0))?, plus(6 - weekday_number)?), None)));
    }
    if scan.phrase(&["this month"]) {
        return Ok(Some(((today, today.last_of_month()), None)));
    }
    if scan.phrase(&["next month"]) {
        let first = today.last_of_month().tomorrow().map_err(|_| Unclear)?;
        return Ok(Some(((first, first.last_of_month()), None)));
    }
    weekday(scan, today)?.map_or_else(|| calendar_day(scan, today), single)
}

fn weekday(scan: &mut Scan<'_>, today: Date) -> Result<Option<Date>, Unclear> {
    let mut ahead = *scan;
    let next = ahead.eat("next");
    if !next {
        ahead.any(&["this", "coming"]);
    }
    let Some(word) = ahead.peek() else { return Ok(None) };
    let Some((_, day)) = WEEKDAYS.iter().find(|(name, _)| *name == word.text) else { return Ok(None) };
    ahead.skip(1);
    *scan = ahead;
    let distance = day.since(today.weekday());
    let date = today.checked_add(Span::new().days(distance)).map_err(|_| Unclear)?;
    // On that very day it may be today or a week from now.
    if distance == 0 {
        return Err(Unclear);
    }
    // "Next Friday" is clear only when the first one to come is in the next week anyway.
    let this_week = i64::from(today.weekday().to_monday_zero_offset()) + i64::from(distance) < 7;
    if next && this_week { Err(Unclear) } else { Ok(Some(date)) }
}

/// `March 5`, `5th of March`, `the fifth`, `2026-03-05`, or a whole month.
fn calendar_day(scan: &mut Scan<'_>, today: Date) -> Result<Option<Days>, Unclear> {
    if let Some(date) = scan.peek().and_then(|word| iso(&word.text)) {
        scan.skip(1);
        return Ok(Some(((date, date), None)));
    }
    let mut ahead = *scan;
    let the = ahead.eat("the");
    if let Some(day) = ordinal(&mut ahead).or_else(|| digits_before_month(&mut ahead)) {
        ahead.eat("of");
        if let Some(month) = month(&mut ahead) {
            let date = dated(&mut ahead, today, month, day)?;
            *scan = ahead;
            return Ok(Some(((date, date), None)));
        }
        if !the {
            return Ok(None);
        }
        *scan = ahead;
        let date = day_of_month(today, day)?;
        return Ok(Some(((date, date), None)));
    }
    if the {
        return Ok(None);
    }
    let Some(number) = month(&mut ahead) else { return Ok(None) };
    let mut after = ahead;
    after.eat("the");
    if let Some(day) =
        ordinal(&mut after).or_else(|| cardinal(&mut after).filter(|day| (1..=31).contains(day)))
    {
        let date = dated(&mut after, today, number, day)?;
        *scan = after;
        return Ok(Some(((date, date), None)));
    }
    // "may" is a word of its own.
    if number == 5 || number == today.month() {
        return Err(Unclear);
    }
    *scan = ahead;
    let year = if number < today.month() { today.year() + 1 } else { today.year() };
    let first = Date::new(year, number, 1).map_err(|_| Unclear)?;
    Ok(Some(((first, first.last_of_month()), None)))
}

fn iso(text: &str) -> Option<Date> {
    let form = text.len() == 10 && text.bytes().filter(|byte| *byte == b'-').count() == 2;
    let date: DateTimeLocal = if form { text.parse().ok()? } else { return None };
    Some(date.date())
}

fn month(scan: &mut Scan<'_>) -> Option<i8> {
    let word = scan.peek().filter(|word| !word.quoted)?;
    let (_, month) = MONTHS.iter().find(|(name, _)| *name == word.text)?;
    scan.skip(1);
    Some(*month)
}

fn digits_before_month(scan: &mut Scan<'_>) -> Option<i8> {
    let mut ahead = *scan;
    let day = cardinal(&mut ahead).filter(|day| (1..=31).contains(day))?;
    let mut after = ahead;
    after.eat("of");
    month(&mut after)?;
    *scan = ahead;
    Some(day)
}

/// A day of a month, in the year that follows it if one does, or else the next one to come.
fn dated(scan: &mut Scan<'_>, today: Date, month: i8, day: i8) -> Result<Date, Unclear> {
    let year = scan.peek().filter(|word| word.text.len() == 4).and_then(|word| word.text.parse::<i16>().ok());
    if let Some(year) = year.filter(|year| (1970..=2199).contains(year)) {
        scan.skip(1);
        return Date::new(year, month, day).map_err(|_| Unclear);
    }
    let here = Date::new(today.year(), month, day).map_err(|_| Unclear)?;
    if here >= today {
        return Ok(here);
    }
    let passed = today.since(here).map_err(|_| Unclear)?.get_days();
    if i64::from(passed) < PASSED_DAYS {
        return Err(Unclear);
    }
    Date::new(today.year() + 1, month, day).map_err(|_| Unclear)
}

fn day_of_month(today: Date, day: i8) -> Result<Date, Unclear> {
    let here = if day >= today.day() {
        Date::new(today.year(), today.month(), day)
    } else {
        let next = today.last_of_month().tomorrow().map_err(|_| Unclear)?;
        Date::new(next.year(), next.month(), day)
    };
    here.map_err(|_| Unclear)
}

fn part_phrase(scan: &mut Scan<'_>) -> Option<Part> {
    let mut ahead = *scan;
    if ahead.any(&["in", "during"]).is_some() && !ahead.eat("the") {
        return None;
    }
    let mut at_night = *scan;
    if at_night.phrase(&["at night"]) {
        *scan = at_night;
        return Some(Part::Evening);
    }
    let word = ahead.any(&["morning", "afternoon", "evening", "night"])?;
    let part = match word.text.as_str() {
        "morning" => Part::Morning,
        "afternoon" => Part::Afternoon,
        _ => Part::Evening,
    };
    *scan = ahead;
    Some(part)
}

fn clock_phrase(scan: &mut Scan<'_>) -> Result<Option<Clock>, Unclear> {
    let mut ahead = *scan;
    if ahead.eat("in") {
        let Some(minutes) = duration(&mut ahead) else { return Ok(None) };
        *scan = ahead;
        return Ok(Some(Clock::In(minutes)));
    }
    if ahead.any(&["from", "between"]).is_some() {
        let Some(span) = span(&mut ahead, true)? else { return Ok(None) };
        *scan = ahead;
        return Ok(Some(span));
    }
    let preposition = ahead.any(&["at", "by", "for", "@"]).is_some();
    if let Some(span) = span(&mut ahead, false)? {
        *scan = ahead;
        return Ok(Some(span));
    }
    let Some(face) = face(&mut ahead) else { return Ok(None) };
    // A bare number without "at" may be anything.
    if !preposition && !face.1 {
        return Ok(None);
    }
    *scan = ahead;
    Ok(Some(Clock::At(face.0)))
}

/// `two to four pm`; without "from" or "between" the end must be a definite time.
fn span(scan: &mut Scan<'_>, introduced: bool) -> Result<Option<Clock>, Unclear> {
    let mut ahead = *scan;
    let Some((from, _)) = face(&mut ahead) else { return Ok(None) };
    if ahead.any(&["to", "and", "until", "till", "-"]).is_none() {
        return Ok(None);
    }
    let Some((to, marked)) = face(&mut ahead) else { return Ok(None) };
    if !introduced && !marked {
        return Ok(None);
    }
    *scan = ahead;
    Ok(Some(Clock::Span(from, to)))
}

fn duration(scan: &mut Scan<'_>) -> Option<i64> {
    let mut ahead = *scan;
    let count = if ahead.phrase(&["half an"]) {
        ahead.eat("hour").then_some(())?;
        *scan = ahead;
        return Some(30);
    } else if ahead.any(&["an", "a"]).is_some() {
        1
    } else {
        i64::from(cardinal(&mut ahead)?)
    };
    let unit = ahead.any(&["minute", "minutes", "hour", "hours"])?;
    *scan = ahead;
    Some(if unit.text.starts_with("minute") { count } else { count * 60 })
}

/// A time, and whether it is marked as one ("pm", "o'clock", "10:30").
fn face(scan: &mut Scan<'_>) -> Option<(Face, bool)> {
    if scan.phrase(&["twelve noon", "12 noon", "noon"]) {
        return Some((Face { hour: 12, minute: 0, definite: true }, true));
    }
    spoken_face(scan)
}

fn spoken_face(scan: &mut Scan<'_>) -> Option<(Face, bool)> {
    let mut ahead = *scan;
    for (phrase, minute, back) in
        [("half past", 30, 0), ("quarter past", 15, 0), ("a quarter past", 15, 0), ("quarter to", 45, 1)]
    {
        if ahead.phrase(&[phrase]) {
            let hour = cardinal(&mut ahead).filter(|hour| (1..=12).contains(hour))?;
            let hour = if back == 1 { (hour + 10) % 12 + 1 } else { hour };
            return half_of_day(scan, ahead, hour, minute, true);
        }
    }
    let word = ahead.peek().filter(|word| !word.quoted)?;
    if let Some((hour, minute, half)) = written(&word.text) {
        ahead.skip(1);
        return match half {
            Some(half) => {
                *scan = ahead;
                Some((Face { hour: on_24(hour, half)?, minute, definite: true }, true))
            }
            None if hour > 12 || (hour == 0 && word.text.contains(':')) => {
                *scan = ahead;
                Some((Face { hour, minute, definite: true }, true))
            }
            None => half_of_day(scan, ahead, hour, minute, word.text.contains(':')),
        };
    }
    let hour = small_word(&word.text).filter(|hour| (1..=12).contains(hour))?;
    ahead.skip(1);
    let mut with_minutes = ahead;
    if let Some(minute) = cardinal(&mut with_minutes).filter(|minute| (10..60).contains(minute)) {
        return half_of_day(scan, with_minutes, hour, minute, true);
    }
    half_of_day(scan, ahead, hour, 0, false)
}

fn half_of_day<'a>(
    scan: &mut Scan<'a>,
    mut ahead: Scan<'a>,
    hour: i8,
    minute: i8,
    marked: bool,
) -> Option<(Face, bool)> {
    let clock = ahead.phrase(&["o'clock", "oclock", "o clock"]);
    let half = if ahead.phrase(&["am", "a.m", "a m"]) {
        Some('a')
    } else if ahead.phrase(&["pm", "p.m", "p m"]) {
        Some('p')
    } else {
        None
    };
    let face = match half {
        Some(half) => Face { hour: on_24(hour, half)?, minute, definite: true },
        None => Face { hour, minute, definite: false },
    };
    *scan = ahead;
    Some((face, marked || clock || half.is_some()))
}

fn on_24(hour: i8, half: char) -> Option<i8> {
    match (hour, half) {
        (12, 'a') => Some(0),
        (12, _) => Some(12),
        (1..=11, 'a') => Some(hour),
        (1..=11, _) => Some(hour + 12),
        _ => None,
    }
}

/// `3`, `15:30`, `3pm`, `3:30pm`: hour, minute, and the half of the day.
fn written(text: &str) -> Option<(i8, i8, Option<char>)> {
    let (digits, half) = [("a.m", 'a'), ("p.m", 'p'), ("am", 'a'), ("pm", 'p')]
        .iter()
        .find_map(|(end, half)| text.strip_suffix(end).map(|digits| (digits, Some(*half))))
        .unwrap_or((text, None));
    let (hour, minute) = digits.split_once(':').unwrap_or((digits, "00"));
    let fits = |part: &str, len: std::ops::RangeInclusive<usize>| {
        len.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    if !fits(hour, 1..=2) || !fits(minute, 2..=2) {
        return None;
    }
    let (hour, minute) = (hour.parse::<i8>().ok()?, minute.parse::<i8>().ok()?);
    (hour < 24 && minute < 60).then_some((hour, minute, half))
}

const SMALL: &[&str] = &[
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: &[(&str, i8)] = &[("twenty", 20), ("thirty", 30), ("forty", 40), ("fifty", 50)];
const ORDINALS: &[&str] = &[
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
    "thirteenth",
    "fourteenth",
    "fifteenth",
    "sixteenth",
    "seventeenth",
    "eighteenth",
    "nineteenth",
];

fn small_word(text: &str) -> Option<i8> {
    let at = SMALL.iter().position(|word| *word == text)?;
    i8::try_from(at).ok()
}

/// 0 to 59, in digits or in words.
pub(super) fn cardinal(scan: &mut Scan<'_>) -> Option<i8> {
    let word = scan.peek().filter(|word| !word.quoted)?;
    if word.text.len() <= 2 && word.text.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = word.text.parse::<i8>().ok()?;
        scan.skip(1);
        return Some(number);
    }
    if let Some(number) = small_word(&word.text) {
        scan.skip(1);
        return Some(number);
    }
    let (first, rest) = word.text.split_once('-').unwrap_or((&word.text, ""));
    let (_, tens) = TENS.iter().find(|(name, _)| *name == first)?;
    scan.skip(1);
    if !rest.is_empty() {
        return small_word(rest).filter(|ones| (1..=9).contains(ones)).map(|ones| tens + ones);
    }
    let ones = scan.peek().and_then(|word| small_word(&word.text)).filter(|ones| (1..=9).contains(ones));
    scan.skip(usize::from(ones.is_some()));
    Some(tens + ones.unwrap_or(0))
}

/// 1 to 31, as "5th", "fifth" or "twenty fifth".
pub(super) fn ordinal(scan: &mut Scan<'_>) -> Option<i8> {
    let of_word =
        |text: &str| ORDINALS.iter().position(|word| *word == text).and_then(|at| i8::try_from(at + 1).ok());
    let mut ahead = *scan;
    let word = ahead.next().filter(|word| !word.quoted)?;
    let text = word.text.as_str();
    let number = if let Some(digits) = ["st", "nd", "rd", "th"].iter().find_map(|end| text.strip_suffix(end))
        && !digits.is_empty()
        && digits.len() <= 2
        && digits.bytes().all(|byte| byte.is_ascii_digit())
    {
        digits.parse().ok()?
    } else if let Some(number) = of_word(text) {
        number
    } else if text == "twentieth" {
        20
    } else if text == "thirtieth" {
        30
    } else {
        let (first, rest) = text.split_once('-').unwrap_or((text, ""));
        let (_, tens) = TENS.iter().take(2).find(|(name, _)| *name == first)?;
        let ones = if rest.is_empty() { of_word(&ahead.next()?.text)? } else { of_word(rest)? };
        if ones > 9 {
            return None;
        }
        tens + ones
    };
    if !(1..=31).contains(&number) {
        return None;
    }
    *scan = ahead;
    Some(number)
}

/// Words that tell a time or a repetition: where they are left over, something was not understood.
pub(super) fn is_time_word(text: &str) -> bool {
    const LOOSE: &[&str] = &[
        "today",
        "tomorrow",
        "yesterday",
        "tonight",
        "morning",
        "afternoon",
        "evening",
        "night",
        "noon",
        "midnight",
        "week",
        "weeks",
        "weekend",
        "month",
        "months",
        "year",
        "years",
        "day",
        "days",
        "hour",
        "hours",
        "minute",
        "minutes",
        "am",
        "pm",
        "o'clock",
        "oclock",
        "every",
        "everyday",
        "daily",
        "weekly",
        "monthly",
        "yearly",
        "each",
        "repeat",
        "repeating",
        "repeated",
        "recurring",
        "recurrent",
        "always",
        "until",
        "till",
        "before",
        "after",
        "later",
        "soon",
        "next",
        "last",
        "past",
        "previous",
        "weekday",
        "weekdays",
        "sundays",
        "mondays",
        "tuesdays",
        "wednesdays",
        "thursdays",
        "fridays",
        "saturdays",
        "half",
        "quarter",
        "once",
        "twice",
        "ago",
        "since",
        "now",
        "date",
        "time",
    ];
    LOOSE.contains(&text)
        || WEEKDAYS.iter().any(|(name, _)| *name == text)
        || MONTHS.iter().any(|(name, number)| *name == text && *number != 5)
        || text.bytes().any(|byte| byte.is_ascii_digit())
        || TENS.iter().any(|(name, _)| *name == text)
        || SMALL.contains(&text)
        || (ORDINALS.contains(&text) || matches!(text, "twentieth" | "thirtieth"))
}

//! Dates, times and durations as people say them, found among the words of a
//! command and taken out of them.

use jiff::civil::{Date, DateTime, Time, Weekday, date, time};
use jiff::{Span, ToSpan as _};

use super::words::{Word, low, number, ordinal};

/// Part of a day, when no clock time was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DayPart {
    Morning,
    Afternoon,
    Evening,
}

impl DayPart {
    /// Hours it lasts, the end exclusive; 24 is midnight.
    fn hours(self) -> (i8, i8) {
        match self {
            Self::Morning => (6, 12),
            Self::Afternoon => (12, 18),
            Self::Evening => (17, 24),
        }
    }

    /// When something in it starts that has no time of its own.
    fn start(self) -> Time {
        match self {
            Self::Morning => time(9, 0, 0, 0),
            Self::Afternoon => time(14, 0, 0, 0),
            Self::Evening => time(19, 0, 0, 0),
        }
    }
}

/// Days from the first to before the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Days {
    pub(super) from: Date,
    pub(super) to: Date,
}

impl Days {
    fn one(day: Date) -> Self {
        Self { from: day, to: plus(day, 1) }
    }

    pub(super) fn is_one(self) -> bool {
        plus(self.from, 1) == self.to
    }
}

/// What a stretch of words says about time.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) days: Option<Days>,
    pub(super) time: Option<Time>,
    pub(super) until: Option<Time>,
    pub(super) part: Option<DayPart>,
    pub(super) minutes: Option<i64>,
    /// `since` was said: there is no end.
    pub(super) open: bool,
    /// Per word, whether it was used up.
    pub(super) used: Vec<bool>,
}

impl Found {
    pub(super) fn is_empty(&self) -> bool {
        self.days.is_none() && self.time.is_none() && self.part.is_none()
    }

    /// The day and time something starts at; a day alone is all day.
    pub(super) fn start(&self, now: DateTime) -> Option<String> {
        let time = self.time.or_else(|| self.part.map(DayPart::start));
        match (self.days, time) {
            (Some(days), Some(time)) => Some(local(days.from.to_datetime(time))),
            (Some(days), None) => Some(days.from.to_string()),
            (None, Some(time)) => {
                let day = if time > now.time() { now.date() } else { plus(now.date(), 1) };
                Some(local(day.to_datetime(time)))
            }
            (None, None) => None,
        }
    }

    /// When it ends, if that was said.
    pub(super) fn end(&self, now: DateTime) -> Option<String> {
        let start: DateTime =
            format!("{}:00", self.start(now).filter(|start| start.len() > 10)?).parse().ok()?;
        if let Some(until) = self.until {
            let end = start.date().to_datetime(until);
            return Some(local(if end > start { end } else { end.checked_add(1.day()).ok()? }));
        }
        self.minutes.and_then(|minutes| start.checked_add(minutes.minutes()).ok()).map(local)
    }

    /// The stretch of time to look at; `None` where it is open.
    pub(super) fn range(&self, now: DateTime) -> (Option<String>, Option<String>) {
        let days = match (self.days, self.part, self.time) {
            (Some(days), ..) => days,
            (None, None, None) => return (None, None),
            _ => Days::one(now.date()),
        };
        let midnight = |day: Date| local(day.at(0, 0, 0, 0));
        let hour = |hour: i8| {
            if hour == 24 { midnight(plus(days.from, 1)) } else { local(days.from.at(hour, 0, 0, 0)) }
        };
        match (self.time, self.part) {
            (Some(time), _) if days.is_one() => {
                let from = days.from.to_datetime(time);
                let to = self
                    .until
                    .map_or_else(|| from.saturating_add(1.hour()), |until| days.from.to_datetime(until));
                (Some(local(from)), Some(local(to)).filter(|_| to > from))
            }
            (_, Some(part)) if days.is_one() => {
                let (from, to) = part.hours();
                (Some(hour(from)), Some(hour(to)))
            }
            _ if self.open => (Some(midnight(days.from)), None),
            _ => (Some(midnight(days.from)), Some(midnight(days.to))),
        }
    }
}

/// `YYYY-MM-DDTHH:MM`.
pub(super) fn local(at: DateTime) -> String {
    at.strftime("%Y-%m-%dT%H:%M").to_string()
}

/// `day` moved by `days`.
pub(super) fn plus(day: Date, days: i64) -> Date {
    day.saturating_add(days.clamp(-40_000, 40_000).days())
}

/// Finds what `words` say about time. With `bare`, they begin where a time is
/// expected, so that a number alone is one.
pub(super) fn find(words: &[Word], now: DateTime, bare: bool) -> Found {
    let mut scan = Scan { words, now, found: Found { used: vec![false; words.len()], ..Found::default() } };
    let mut index = 0;
    while index < words.len() {
        let taken = if words[index].quoted { 0 } else { scan.at(index, bare && index == 0) };
        scan.found.used[index..index + taken].fill(true);
        index += taken.max(1);
    }
    scan.found
}

struct Scan<'a> {
    words: &'a [Word],
    now: DateTime,
    found: Found,
}

/// The months in English, in lower case.
pub(crate) const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const ITEMS: [&str; 14] = [
    "one",
    "mail",
    "email",
    "message",
    "event",
    "meeting",
    "appointment",
    "file",
    "document",
    "doc",
    "result",
    "three",
    "two",
    "of",
];

impl Scan<'_> {
    fn word(&self, index: usize) -> &str {
        low(self.words, index)
    }

    fn is(&self, index: usize, words: &[&str]) -> bool {
        words.contains(&self.word(index))
    }

    /// Takes what stands at `index`; the number of words taken.
    fn at(&mut self, index: usize, bare: bool) -> usize {
        self.duration(index)
            .or_else(|| self.soon(index))
            .or_else(|| self.day(index))
            .or_else(|| self.clock(index, bare))
            .or_else(|| self.part(index))
            .unwrap_or(0)
    }

    /// `for 45 minutes`, `for an hour and a half`, `30 minute`.
    fn duration(&mut self, index: usize) -> Option<usize> {
        let said_for = self.is(index, &["for", "lasting"]);
        let start = index + usize::from(said_for);
        let (minutes, end) = self.amount(start)?;
        // `in two hours` and `last two hours` are no durations.
        if !said_for && index > 0 && self.is(index - 1, &["in", "last", "past", "next", "within", "by"]) {
            return None;
        }
        self.found.minutes = Some(minutes);
        Some(end - index)
    }

    /// Minutes of `two hours`, and the index after it.
    fn amount(&self, start: usize) -> Option<(i64, usize)> {
        let is_hour = |at: usize| self.is(at, &["hour", "hours", "h", "hr", "hrs"]);
        let is_minute = |at: usize| self.is(at, &["minute", "minutes", "min", "mins"]);
        let article = usize::from(self.is(start, &["a", "an", "one"]));
        if self.is(start, &["half"]) || (article == 1 && self.is(start + 1, &["half"])) {
            let at = start + article + 1 + usize::from(self.is(start + article + 1, &["a", "an"]));
            return is_hour(at).then_some((30, at + 1));
        }
        if article == 1 && is_hour(start + 1) {
            let half = self.word(start + 2) == "and"
                && self.word(start + 3) == "a"
                && self.word(start + 4) == "half";
            return Some(if half { (90, start + 5) } else { (60, start + 2) });
        }
        let (count, taken) = number(self.words, start)?;
        let mut at = start + taken;
        let half = self.word(at) == "and" && self.word(at + 1) == "a" && self.word(at + 2) == "half";
        at += if half { 3 } else { 0 };
        if is_hour(at) {
            return Some((count * 60 + if half { 30 } else { 0 }, at + 1));
        }
        is_minute(at).then_some((count, at + 1))
    }

    /// `in 20 minutes`, `in three days`.
    fn soon(&mut self, index: usize) -> Option<usize> {
        if self.word(index) != "in" {
            return None;
        }
        if let Some((minutes, end)) = self.amount(index + 1) {
            let at = self.now.checked_add(minutes.minutes()).ok()?;
            self.found.days = Some(Days::one(at.date()));
            self.found.time = Time::new(at.hour(), at.minute(), 0, 0).ok();
            return Some(end - index);
        }
        let article = self.is(index + 1, &["a", "an"]);
        let (count, taken) = if article { (1, 1) } else { number(self.words, index + 1)? };
        let days = match self.word(index + 1 + taken) {
            "day" | "days" => count,
            "week" | "weeks" => count * 7,
            _ => return None,
        };
        self.found.days = Some(Days::one(plus(self.now.date(), days)));
        Some(2 + taken)
    }

    /// A day or several.
    fn day(&mut self, index: usize) -> Option<usize> {
        let mut at = index;
        let mut open = false;
        if self.is(at, &["on", "for", "by", "from", "in", "of", "during", "over", "within", "since", "until"])
        {
            open = self.word(at) == "since";
            at += 1;
        }
        let preposition = at > index;
        let article = self.word(at) == "the";
        at += usize::from(article);
        let (days, end) = self
            .named_day(at)
            .or_else(|| self.stretch(at))
            .or_else(|| self.calendar_day(at, preposition || article))?;
        // The first day said wins: "move the meeting on Monday to Friday" is cut in two before.
        if self.found.days.is_none() {
            self.found.days = Some(days);
            self.found.open = open;
        }
        Some(end - index)
    }

    fn named_day(&mut self, at: usize) -> Option<(Days, usize)> {
        let today = self.now.date();
        let one = |days: i64, end: usize| Some((Days::one(plus(today, days)), end));
        match self.word(at) {
            "today" | "todays" => return one(0, at + 1),
            "tonight" => {
                self.found.part = Some(DayPart::Evening);
                return one(0, at + 1);
            }
            "tomorrow" | "tomorrows" => return one(1, at + 1),
            "yesterday" => return one(-1, at + 1),
            "day" if self.word(at + 1) == "after" && self.word(at + 2) == "tomorrow" => {
                return one(2, at + 3);
            }
            "day" if self.word(at + 1) == "before" && self.word(at + 2) == "yesterday" => {
                return one(-2, at + 3);
            }
            _ => {}
        }
        let modifier = self.word(at);
        let skip = usize::from(matches!(modifier, "this" | "next" | "coming" | "last" | "past"));
        let weekday = weekday(self.word(at + skip))?;
        let ahead = i64::from(today.weekday().until(weekday));
        let days = match modifier {
            "last" | "past" if ahead == 0 => -7,
            "last" | "past" => ahead - 7,
            // The week after this one.
            "next" => {
                7 - i64::from(today.weekday().since(Weekday::Monday))
                    + i64::from(weekday.since(Weekday::Monday))
            }
            "this" => ahead,
            _ if ahead == 0 => 7,
            _ => ahead,
        };
        one(days, at + skip + 1)
    }

    /// `this week`, `next month`, `the last 3 days`, `weekend`, `the rest of the week`.
    fn stretch(&self, at: usize) -> Option<(Days, usize)> {
        let today = self.now.date();
        if self.is(at, &["rest", "remainder"]) && self.word(at + 1) == "of" {
            let skip = 2 + usize::from(self.is(at + 2, &["the", "this"]));
            let (whole, end) = self.unit(self.word(at + skip), 0).map(|days| (days, at + skip + 1))?;
            return Some((Days { from: today, to: whole.to }, end));
        }
        let modifier = self.word(at);
        let step = match modifier {
            "this" | "current" => 0,
            "next" | "coming" | "upcoming" | "following" => 1,
            "last" | "past" | "previous" => -1,
            "weekend" => return Some((self.unit("weekend", 0)?, at + 1)),
            _ => return None,
        };
        if let Some((count, taken)) = number(self.words, at + 1) {
            let days = match self.word(at + 1 + taken) {
                "day" | "days" => count,
                "week" | "weeks" => count * 7,
                "month" | "months" => count * 30,
                "hour" | "hours" => 1,
                _ => return None,
            };
            let to = if step > 0 { plus(today, days) } else { plus(today, 1) };
            let from = if step > 0 { today } else { plus(today, -days) };
            return Some((Days { from, to }, at + 2 + taken));
        }
        if modifier == "past" && self.word(at + 1) == "week" {
            return Some((Days { from: plus(today, -7), to: plus(today, 1) }, at + 2));
        }
        Some((self.unit(self.word(at + 1), step)?, at + 2))
    }

    /// The week, month, year or weekend `step` away from this one.
    fn unit(&self, unit: &str, step: i64) -> Option<Days> {
        let today = self.now.date();
        let monday = plus(today, -i64::from(today.weekday().since(Weekday::Monday)));
        match unit {
            "day" => Some(Days::one(plus(today, step))),
            "week" => Some(Days { from: plus(monday, 7 * step), to: plus(monday, 7 * step + 7) }),
            "weekend" => Some(Days { from: plus(monday, 7 * step + 5), to: plus(monday, 7 * step + 7) }),
            "month" => {
                let first = today.first_of_month().saturating_add(step.months());
                Some(Days { from: first, to: first.saturating_add(1.month()) })
            }
            "year" => {
                let first = today.first_of_year().saturating_add(step.years());
                Some(Days { from: first, to: first.saturating_add(1.year()) })
            }
            "hour" => Some(Days::one(today)),
            _ => None,
        }
    }

    /// `2026-12-24`, `24.12.`, `december 5th`, `the third of march`, `the 22nd`.
    fn calendar_day(&self, at: usize, introduced: bool) -> Option<(Days, usize)> {
        let today = self.now.date();
        if let Ok(day) = self.word(at).parse::<Date>() {
            return Some((Days::one(day), at + 1));
        }
        if let Some(month) = self.month(at) {
            let (day, taken) =
                ordinal(self.words, at + 1).or_else(|| number(self.words, at + 1)).unwrap_or((0, 0));
            if day == 0 || day > 31 {
                // "march" alone is a month only where nothing else fits.
                let first = next_day(today.first_of_month(), month, 1)?;
                let days = Days { from: first, to: first.saturating_add(1.month()) };
                return introduced.then_some((days, at + 1));
            }
            let (year, end) = self.year(at + 1 + taken);
            return Some((Days::one(self.dated(year, month, day)?), end));
        }
        let (day, taken) = ordinal(self.words, at).or_else(|| number(self.words, at))?;
        let of = usize::from(self.word(at + taken) == "of");
        let after = at + taken + of;
        if let Some(month) = self.month(after) {
            let (year, end) = self.year(after + 1);
            return Some((Days::one(self.dated(year, month, day)?), end));
        }
        if of == 1 && self.is(after, &["this", "next"]) && self.word(after + 1) == "month" {
            let first = today.first_of_month().saturating_add(i64::from(self.word(after) == "next").months());
            return Some((Days::one(plus(first, day - 1)), after + 2));
        }
        // "the second" may be an item; "the 22nd" is a day.
        let is_ordinal = ordinal(self.words, at).is_some();
        if !introduced || !is_ordinal || self.is(at + taken, &ITEMS) || of == 1 {
            return None;
        }
        let this = today.first_of_month();
        let month = if day >= i64::from(today.day()) { this } else { this.saturating_add(1.month()) };
        Some((Days::one(plus(month, day - 1)), at + taken))
    }

    fn month(&self, at: usize) -> Option<i8> {
        let word = self.word(at);
        let index = MONTHS.iter().position(|month| {
            *month == word || (word.len() == 3 && word != "may" && month.starts_with(word) && word != "mar")
        })?;
        i8::try_from(index + 1).ok()
    }

    /// A year at `at`, if there is one, and the index after it.
    fn year(&self, at: usize) -> (Option<i16>, usize) {
        let at = at + usize::from(self.word(at) == "," && self.word(at + 1).len() == 4);
        if let Ok(year @ 1990..=2100) = self.word(at).parse::<i16>() {
            return (Some(year), at + 1);
        }
        if self.word(at) == "two" && self.word(at + 1) == "thousand" {
            let and = usize::from(self.word(at + 2) == "and");
            let (rest, taken) = number(self.words, at + 2 + and).unwrap_or((0, 0));
            return (i16::try_from(2_000 + rest).ok(), at + 2 + and + taken);
        }
        match (self.word(at), number(self.words, at + 1)) {
            ("twenty", Some((rest @ 10..=99, taken))) => (i16::try_from(2_000 + rest).ok(), at + 1 + taken),
            _ => (None, at),
        }
    }

    /// That day of the year said, or the next time it comes.
    fn dated(&self, year: Option<i16>, month: i8, day: i64) -> Option<Date> {
        let day = i8::try_from(day).ok()?;
        match year {
            Some(year) => Date::new(year, month, day).ok(),
            None => next_day(self.now.date(), month, day),
        }
    }

    /// `at ten`, `3 pm`, `10:30`, `half past four`, `noon`, `from 3 to 5`.
    fn clock(&mut self, index: usize, bare: bool) -> Option<usize> {
        let introduced = self.is(index, &["at", "around", "from", "between", "by", "before", "after", "@"]);
        let (time, end) = self.time(index + usize::from(introduced), introduced || bare)?;
        // A number after "by" or "before" is a time only with am, pm or a colon.
        if self.found.time.is_some() {
            return None;
        }
        self.found.time = Some(time);
        let joined = self.is(end, &["to", "till", "until", "-", "\u{2013}"])
            || (self.word(index) == "between" && self.word(end) == "and");
        if joined && let Some((until, after)) = self.time(end + 1, true) {
            // "from ten to two": the end comes after the start.
            let until = if until <= time && until.hour() < 12 { pm(until) } else { until };
            self.found.until = Some(until);
            return Some(after - index);
        }
        Some(end - index)
    }

    /// A time of day at `at` and the index after it.
    fn time(&self, at: usize, introduced: bool) -> Option<(Time, usize)> {
        match self.word(at) {
            "noon" | "midday" => return Some((time(12, 0, 0, 0), at + 1)),
            "midnight" => return Some((time(0, 0, 0, 0), at + 1)),
            "half" if self.word(at + 1) == "past" => return self.around(at + 2, 30, 0),
            "quarter" if self.word(at + 1) == "past" => return self.around(at + 2, 15, 0),
            "quarter" if self.word(at + 1) == "to" => return self.around(at + 2, 45, -1),
            "twelve" if self.is(at + 1, &["noon"]) => return Some((time(12, 0, 0, 0), at + 2)),
            _ => {}
        }
        let (hour, minute, mut end, exact) = self.hour_and_minute(at)?;
        let article = usize::from(self.is(end, &["o'clock", "oclock"]));
        let marker = article == 1;
        end += article;
        if self.word(end) == "o" && self.word(end + 1) == "clock" {
            end += 2;
        }
        let suffix = match self.word(end) {
            "am" => Some(false),
            "pm" => Some(true),
            _ => None,
        };
        if suffix.is_none() && !exact && !marker && !introduced {
            return None;
        }
        let time = Time::new(i8::try_from(hour).ok()?, i8::try_from(minute).ok()?, 0, 0).ok()?;
        match suffix {
            Some(true) => Some((if hour < 12 { pm(time) } else { time }, end + 1)),
            Some(false) => Some((if hour == 12 { time.with().hour(0).build().ok()? } else { time }, end + 1)),
            None if exact && self.word(at).starts_with('0') => Some((time, end)),
            None => Some((self.likely(time, end), end)),
        }
    }

    /// Hour and minute at `at`, the index after them, and whether they can be nothing else.
    fn hour_and_minute(&self, at: usize) -> Option<(i64, i64, usize, bool)> {
        if let Some((hour, minute)) = self.word(at).split_once([':', '.'])
            && let (Ok(hour @ 0..=23), Ok(minute @ 0..=59)) = (hour.parse(), minute.parse())
            && minute_has_two_digits(self.word(at))
        {
            return Some((hour, minute, at + 1, true));
        }
        let (hour, taken) = number(self.words, at).filter(|(hour, _)| (0..=23).contains(hour))?;
        let mut end = at + taken;
        if self.word(end) == "hundred" {
            end += 1 + usize::from(self.word(end + 1) == "and");
        }
        match number(self.words, end) {
            Some((minute @ 5..=59, more))
                if !self.is(end + more, &["minute", "minutes", "min", "mins", "people"]) =>
            {
                Some((hour, minute, end + more, false))
            }
            _ => Some((hour, 0, end, false)),
        }
    }

    fn around(&self, at: usize, minute: i8, hours: i8) -> Option<(Time, usize)> {
        let (hour, taken) = number(self.words, at).filter(|(hour, _)| (1..=12).contains(hour))?;
        let hour = (i8::try_from(hour).ok()? + hours + 24) % 24;
        let time = Time::new(hour, minute, 0, 0).ok()?;
        let end = at + taken;
        match self.word(end) {
            "am" => Some((time, end + 1)),
            "pm" => Some((if hour < 12 { pm(time) } else { time }, end + 1)),
            _ => Some((self.likely(time, end), end)),
        }
    }

    /// Which half of the day is meant when nobody says: by the part of the day
    /// said nearby, otherwise the waking one.
    fn likely(&self, time: Time, end: usize) -> Time {
        let near = |words: &[&str]| self.words.iter().any(|word| word.any(words)) && end <= self.words.len();
        let hour = time.hour();
        if hour >= 12 || hour == 0 || near(&["morning"]) {
            return time;
        }
        if near(&["evening", "tonight", "night", "afternoon", "dinner"]) || hour <= 7 {
            pm(time)
        } else {
            time
        }
    }

    fn part(&mut self, index: usize) -> Option<usize> {
        let mut at = index + usize::from(self.is(index, &["in", "at", "during", "this"]));
        at += usize::from(self.is(at, &["the"]));
        let part = match self.word(at) {
            "morning" => DayPart::Morning,
            "afternoon" => DayPart::Afternoon,
            "evening" | "night" => DayPart::Evening,
            _ => return None,
        };
        self.found.part = Some(part);
        if self.word(index) == "this" {
            let today = self.now.date();
            self.found.days.get_or_insert_with(|| Days::one(today));
        }
        Some(at + 1 - index)
    }
}

fn minute_has_two_digits(word: &str) -> bool {
    word.rsplit([':', '.']).next().is_some_and(|minute| minute.len() == 2)
}

fn pm(time: Time) -> Time {
    time.with().hour((time.hour() + 12) % 24).build().unwrap_or(time)
}

fn weekday(word: &str) -> Option<Weekday> {
    let singular = word.strip_suffix('s').filter(|word| word.ends_with("day")).unwrap_or(word);
    Some(match singular {
        "monday" | "mon" => Weekday::Monday,
        "tuesday" | "tue" | "tues" => Weekday::Tuesday,
        "wednesday" | "wed" => Weekday::Wednesday,
        "thursday" | "thu" | "thur" | "thurs" => Weekday::Thursday,
        "friday" | "fri" => Weekday::Friday,
        "saturday" => Weekday::Saturday,
        "sunday" => Weekday::Sunday,
        _ => return None,
    })
}

/// The first `month`/`day` not before `today`.
fn next_day(today: Date, month: i8, day: i8) -> Option<Date> {
    // A leap day may be up to eight years away.
    (0..=8).filter_map(|years| Date::new(today.year() + years, month, day).ok()).find(|day| *day >= today)
}

/// A date or a date and time, as items of the session show them.
pub(super) fn parse_when(text: &str) -> Option<(Date, Option<Time>)> {
    let day = text.get(..10)?.parse().ok()?;
    let time = text.get(11..16).and_then(|clock| format!("{clock}:00").parse().ok());
    Some((day, time))
}

/// A moment for contexts that say none.
pub(super) fn fallback_now() -> DateTime {
    date(2026, 1, 5).at(9, 0, 0, 0)
}

/// One day, as a span.
pub(super) fn one_day() -> Span {
    1.day()
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;

    fn now() -> DateTime {
        date(2026, 11, 23).at(15, 4, 0, 0)
    }

    fn start_end(text: &str) -> (Option<String>, Option<String>) {
        let found = find(&words(text), now(), false);
        (found.start(now()), found.end(now()))
    }

    fn start(text: &str) -> String {
        start_end(text).0.unwrap_or_default()
    }

    #[test]
    fn days_are_found_from_a_monday() {
        for (text, wanted) in [
            ("tomorrow", "2026-11-24"),
            ("the day after tomorrow", "2026-11-25"),
            ("on Friday", "2026-11-27"),
            ("on monday", "2026-11-30"),
            ("next Tuesday", "2026-12-01"),
            ("this thursday", "2026-11-26"),
            ("in three days", "2026-11-26"),
            ("on the third of december", "2026-12-03"),
            ("december 5th", "2026-12-05"),
            ("march third", "2027-03-03"),
            ("on the 22nd", "2026-12-22"),
            ("on the twenty fifth", "2026-11-25"),
            ("2026-12-24", "2026-12-24"),
            ("june fourteenth two thousand and thirty", "2030-06-14"),
        ] {
            assert_eq!(start(text), wanted, "{text}");
        }
    }

    #[test]
    fn times_take_the_likely_half_of_the_day() {
        for (text, wanted) in [
            ("tomorrow at ten", "2026-11-24T10:00"),
            ("tomorrow at three", "2026-11-24T15:00"),
            ("tomorrow 3pm", "2026-11-24T15:00"),
            ("tomorrow at three in the morning", "2026-11-24T03:00"),
            ("tomorrow at eight in the evening", "2026-11-24T20:00"),
            ("half past four", "2026-11-23T16:30"),
            ("quarter to nine", "2026-11-24T08:45"),
            ("noon", "2026-11-24T12:00"),
            ("tomorrow at twelve thirty", "2026-11-24T12:30"),
            ("tomorrow at 12:30", "2026-11-24T12:30"),
            ("friday ten o'clock", "2026-11-27T10:00"),
            ("tomorrow at six hundred and forty five am", "2026-11-24T06:45"),
            ("tomorrow afternoon", "2026-11-24T14:00"),
            ("in 20 minutes", "2026-11-23T15:24"),
            ("at 7.30 tomorrow", "2026-11-24T19:30"),
        ] {
            assert_eq!(start(text), wanted, "{text}");
        }
    }

    #[test]
    fn an_end_comes_from_a_duration_or_a_range() {
        let end = |text| start_end(text).1.unwrap_or_default();
        assert_eq!(end("tomorrow at 12:30 for 45 minutes"), "2026-11-24T13:15");
        assert_eq!(end("tomorrow at ten for an hour and a half"), "2026-11-24T11:30");
        assert_eq!(end("tomorrow at ten for half an hour"), "2026-11-24T10:30");
        assert_eq!(end("tomorrow from ten to two"), "2026-11-24T14:00");
        assert_eq!(end("tomorrow between three and four pm"), "2026-11-24T16:00");
        assert_eq!(end("a 30-minute call tomorrow at ten"), "2026-11-24T10:30");
        assert_eq!(end("tomorrow at ten"), "");
        assert_eq!(end("tomorrow"), "");
    }

    #[test]
    fn ranges_end_before_the_next_day() {
        let range = |text| {
            let (from, to) = find(&words(text), now(), false).range(now());
            format!("{} {}", from.unwrap_or_default(), to.unwrap_or_default())
        };
        assert_eq!(range("this week"), "2026-11-23T00:00 2026-11-30T00:00");
        assert_eq!(range("next month"), "2026-12-01T00:00 2027-01-01T00:00");
        assert_eq!(range("tomorrow morning"), "2026-11-24T06:00 2026-11-24T12:00");
        assert_eq!(range("tonight"), "2026-11-23T17:00 2026-11-24T00:00");
        assert_eq!(range("weekend"), "2026-11-28T00:00 2026-11-30T00:00");
        assert_eq!(range("the last 3 days"), "2026-11-20T00:00 2026-11-24T00:00");
        assert_eq!(range("the rest of the week"), "2026-11-23T00:00 2026-11-30T00:00");
        assert_eq!(range("since yesterday"), "2026-11-22T00:00 ");
        assert_eq!(range("nothing at all"), " ");
    }

    #[test]
    fn what_is_no_time_is_left_alone() {
        for text in [
            "the second one",
            "read the first mail",
            "one",
            "anna may come",
            "send 3 files",
            "march",
            "room 4",
            "this event",
        ] {
            let found = find(&words(text), now(), false);
            assert!(found.is_empty() && !found.used.contains(&true), "{text}");
        }
    }
}

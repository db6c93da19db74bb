//! Commands about the calendar: what is on it, making, changing and cancelling events.

use super::people::{Who, owner, titled, topic, who};
use super::when::{When, is_time_word, when};
use super::words::{Scan, Word};
use super::{Guess, Setting, reference};
use crate::plan::{DateTimeLocal, ItemKind, ItemRef, Operation, Recipient, StepId};

/// Events a list brings.
const EVENTS: u8 = 10;

/// The calendar itself.
const BOOKS: &[&str] = &["calendar", "calender", "schedule", "agenda", "diary"];
/// Any event at all: naming one so narrows nothing.
const ANY_EVENT: &[&str] = &[
    "event",
    "events",
    "meeting",
    "meetings",
    "appointment",
    "appointments",
    "reminder",
    "reminders",
    "engagement",
    "engagements",
];
/// What is an event by its nature: with a word like these at its end, a title is one.
const EVENT_HEADS: &[&str] = &[
    "event",
    "meeting",
    "appointment",
    "party",
    "interview",
    "lunch",
    "dinner",
    "breakfast",
    "brunch",
    "conference",
    "wedding",
    "standup",
    "sync",
    "review",
    "workshop",
    "seminar",
    "webinar",
    "training",
    "anniversary",
    "birthday",
    "reunion",
    "rehearsal",
    "practice",
    "lesson",
    "exam",
    "fundraiser",
    "call",
    "date",
    "visit",
    "checkup",
    "haircut",
    "retro",
    "demo",
];

pub(super) fn parse(scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    delete(scan, setting)
        .or_else(|| change(scan, setting))
        .or_else(|| create(scan, setting))
        .or_else(|| list(scan, setting))
}

/// What is looked for.
#[derive(Clone, Debug, Default)]
struct Wanted {
    query: Option<String>,
    when: Option<When>,
    next: bool,
    /// Named as a calendar, a meeting or an appointment, so that it cannot be anything else.
    anchored: bool,
}

impl Wanted {
    fn list(&self, limit: u8) -> Option<Operation> {
        let (from, to) = match self.when {
            Some(when) => when.bounds().map(|(from, to)| (Some(from), Some(to)))?,
            None => (None, None),
        };
        Some(Operation::CalendarList { from, to, query: self.query.clone(), limit })
    }
}

/// Goes past a time; `None` when one is said that is not clear. Time words that are not understood stay in front,
/// where nothing else takes them.
fn time(scan: &mut Scan<'_>, setting: &Setting<'_>) -> Option<Option<When>> {
    when(scan, setting.now.datetime()).ok()
}

/// Goes past what may follow the thing that is looked for, to the end.
fn narrowed(scan: &mut Scan<'_>, wanted: &mut Wanted, setting: &Setting<'_>) -> Option<()> {
    for _each in 0..6 {
        if scan.is_done() {
            return Some(());
        }
        if on_book(scan) {
            wanted.anchored = true;
        } else if scan.phrase(&[
            "do i have scheduled",
            "do i have planned",
            "do i have coming up",
            "do i have going on",
            "do i have",
            "have i got",
            "i have scheduled",
            "i have planned",
            "i have",
            "are scheduled",
            "is scheduled",
            "are planned",
            "are there",
            "are coming up",
            "coming up",
            "going on",
            "scheduled",
            "planned",
            "set",
            "set up",
            "booked",
        ]) {
        } else if wanted.query.is_none() && scan.phrase(&["with"]) {
            wanted.query = Some(person(scan)?);
        } else if wanted.query.is_none() && scan.phrase(&["about", "called", "named"]) {
            wanted.query = Some(topic(scan)?.search.trim_matches('"').to_owned());
        } else {
            let found = time(scan, setting)??;
            if wanted.when.replace(found).is_some() {
                return None;
            }
        }
    }
    scan.is_done().then_some(())
}

fn on_book(scan: &mut Scan<'_>) -> bool {
    let mut ahead = *scan;
    if ahead.any(&["on", "in", "from", "to", "off"]).is_none() {
        return false;
    }
    ahead.any(&["my", "the"]);
    ahead.any(&["google"]);
    let fits = ahead.any(BOOKS).is_some();
    if fits {
        *scan = ahead;
    }
    fits
}

fn person(scan: &mut Scan<'_>) -> Option<String> {
    match who(scan)? {
        Who::Address(address) => Some(address.to_string()),
        Who::Name(name) => Some(name.to_lowercase()),
        Who::Relation(relation) => Some(relation),
    }
}

fn list(scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    book(scan, setting)
        .or_else(|| day(scan, setting))
        .or_else(|| have(scan, setting))
        .or_else(|| busy(scan, setting))
        .or_else(|| which(scan, setting))
        .or_else(|| next(scan, setting))
        .or_else(|| shown(scan, setting))
        .or_else(|| when_is(scan, setting))
}

fn listed(pattern: &'static str, thousandths: u16, wanted: &Wanted, limit: u8) -> Option<Guess> {
    Guess::new(pattern, thousandths, vec![wanted.list(limit)?])
}

/// "What's on my calendar tomorrow", "show me today's schedule", "what does my schedule look like on Friday".
fn book(mut scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    let look = scan.phrase(&["what does", "how does"]);
    let asked = look
        || scan.phrase(&[
            "what else is on",
            "what is on",
            "what is in",
            "what on",
            "what are on",
            "what is scheduled on",
            "what do i have on",
            "what have i got on",
            "what is there on",
            "is there anything on",
            "do i have anything on",
            "anything on",
            "what is",
            "show me what is on",
            "tell me what is on",
            "show me",
            "show",
            "tell me",
            "check",
            "open",
            "read me",
            "read",
            "list",
            "give me",
            "display",
            "pull up",
            "bring up",
            "view",
            "see",
            "go over",
            "let me see",
        ]);
    let mut wanted = Wanted { anchored: true, ..Wanted::default() };
    // "Today's schedule", "my schedule", "the calendar for tomorrow".
    let mut ahead = scan;
    ahead.any(&["my", "the"]);
    let mut own = true;
    if let Some(found) = possessive_time(&mut ahead, setting)? {
        wanted.when = Some(found);
        scan = ahead;
    } else {
        own = scan.any(&["my", "the"])?.text == "my";
    }
    own |= scan.any(BOOKS)?.text.starts_with("calend");
    if look && !scan.phrase(&["look like", "look"]) {
        return None;
    }
    if !asked && wanted.when.is_none() && scan.is_done() {
        return None;
    }
    scan.phrase(&["look like", "like", "events"]);
    narrowed(&mut scan, &mut wanted, setting)?;
    // "The schedule" may be that of a train.
    listed(
        "calendar.book",
        if !own {
            890
        } else if asked {
            980
        } else {
            960
        },
        &wanted,
        EVENTS,
    )
}

/// A time in front of a noun: "tomorrow's", "Friday". Outer `None`: it is not clear.
fn possessive_time(scan: &mut Scan<'_>, setting: &Setting<'_>) -> Option<Option<When>> {
    let mut ahead = *scan;
    let found = time(&mut ahead, setting)?;
    if found.is_some() {
        *scan = ahead;
    }
    Some(found)
}

/// "What am I doing tomorrow", "what are my plans for Friday", "how does my day look tomorrow".
fn day(mut scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    scan.phrase(&["tell me", "show me", "let me know"]);
    let look = scan.phrase(&[
        "what does my day look like",
        "how does my day look",
        "how is my day",
        "what is my day like",
    ]);
    // That can be asked without a calendar in mind: what is to be done may stand on a list.
    let doing = !look && scan.phrase(&["what am i doing", "what do i have to do", "what have i got to do"]);
    let asked = look
        || doing
        || scan.phrase(&[
            "what are my plans",
            "what have i got planned",
            "what have i planned",
            "what do i have planned",
            "what do i have scheduled",
            "what do i have going on",
            "what do i have coming up",
            "what do i have",
            "what have i got",
            "what i have scheduled",
            "what is planned",
            "what is scheduled",
        ]);
    if !asked {
        return None;
    }
    let mut wanted = Wanted::default();
    narrowed(&mut scan, &mut wanted, setting)?;
    if wanted.when.is_none() && !look && !wanted.anchored {
        return None;
    }
    if look && wanted.when.is_none() {
        let today = setting.now.date();
        wanted.when = Some(When::Days(today, today));
    }
    listed("calendar.day", if doing { 890 } else { 960 }, &wanted, EVENTS)
}

/// "Do I have any meetings with Anna tomorrow", "am I having lunch with Ben".
fn have(mut scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    scan.phrase(&["tell me if", "let me know if", "see if", "check if", "check whether", "check to see if"]);
    let mine = scan.phrase(&["do i have", "have i got", "i have"]);
    let there = !mine && scan.phrase(&["are there", "is there", "there are", "there is"]);
    let bare = !mine && !there && scan.phrase(&["any"]);
    if !(mine || there || bare) {
        return None;
    }
    let mut wanted = Wanted::default();
    while scan.any(&["any", "a", "an", "the", "my"]).is_some() {}
    let upcoming = scan.any(&["upcoming", "pending"]).is_some();
    let mut ahead = scan;
    ahead.eat("calendar");
    if let Some(noun) = ahead.any(ANY_EVENT) {
        scan = ahead;
        wanted.anchored = !noun.text.starts_with("event") && !noun.text.starts_with("reminder");
    } else if mine && scan.any(&["anything", "something", "plans"]).is_some() {
    } else if mine {
        wanted.query = Some(event_title(&mut scan)?);
        wanted.anchored = true;
    } else {
        return None;
    }
    narrowed(&mut scan, &mut wanted, setting)?;
    // Events that are not said to be the user's may be a town's.
    if !mine && !wanted.anchored {
        return None;
    }
    if wanted.when.is_none() && wanted.query.is_none() && !wanted.anchored && !upcoming && !mine {
        return None;
    }
    if wanted.when.is_none() && wanted.query.is_some() {
        return listed("calendar.have", 940, &wanted, EVENTS);
    }
    listed("calendar.have", 970, &wanted, EVENTS)
}

/// A title that ends in what makes it an event, without that where it narrows nothing: "dentist appointment" is
/// searched for as "dentist".
fn event_title(scan: &mut Scan<'_>) -> Option<String> {
    let mut ahead = *scan;
    let mut words: Vec<String> = Vec::new();
    for word in ahead.rest() {
        if !title_word(word) || words.len() == 5 {
            break;
        }
        words.push(word.text.clone());
        if EVENT_HEADS.contains(&word.text.as_str()) {
            let more =
                ahead.rest().get(words.len()).is_some_and(|next| EVENT_HEADS.contains(&next.text.as_str()));
            if !more {
                break;
            }
        }
    }
    let head = words.last().filter(|last| EVENT_HEADS.contains(&last.as_str()))?.clone();
    ahead.skip(words.len());
    if ANY_EVENT.contains(&head.as_str()) && words.len() > 1 {
        words.pop();
    }
    if words.is_empty() || ANY_EVENT.contains(&words[0].as_str()) {
        return None;
    }
    *scan = ahead;
    Some(words.join(" "))
}

fn title_word(word: &Word<'_>) -> bool {
    const NOT: &[&str] = &[
        "i",
        "me",
        "my",
        "you",
        "it",
        "this",
        "that",
        "these",
        "those",
        "and",
        "or",
        "to",
        "from",
        "with",
        "for",
        "on",
        "in",
        "at",
        "of",
        "by",
        "about",
        "all",
        "any",
        "every",
        "each",
        "both",
        "is",
        "are",
        "was",
        "do",
        "does",
        "did",
        "have",
        "has",
        "the",
        "a",
        "an",
        "new",
        "not",
        "no",
        "scheduled",
        "only",
        "alarm",
        "alarms",
        "list",
        "lists",
        "order",
        "orders",
        "taxi",
        "uber",
        "ticket",
        "tickets",
        "subscription",
        "song",
        "playlist",
        "food",
        "timer",
        "upcoming",
        "first",
        "next",
        "last",
        "current",
        "her",
        "his",
        "him",
        "them",
        "their",
        "our",
        "us",
        "multiple",
        "some",
        "important",
        "call-in",
    ];
    let time = is_time_word(&word.text) && word.text != "date";
    let other = word.quoted || word.stop || time || NOT.contains(&word.text.as_str());
    !other && word.text.chars().all(|letter| letter.is_alphanumeric() || matches!(letter, '-' | '\''))
}

/// "Am I free tomorrow at three".
fn busy(mut scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    scan.phrase(&["tell me if", "let me know if", "see if", "check if", "check whether"]);
    if !scan.phrase(&["am i", "i am"]) || scan.any(&["free", "busy", "available", "booked", "open"]).is_none()
    {
        return None;
    }
    let mut wanted = Wanted::default();
    narrowed(&mut scan, &mut wanted, setting)?;
    if wanted.when.is_none() || wanted.query.is_some() {
        return None;
    }
    listed("calendar.busy", 970, &wanted, EVENTS)
}

/// "What meetings do I have this week", "how many appointments are there tomorrow".
fn which(mut scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    scan.phrase(&["tell me", "show me", "let me know"]);
    let counted = scan.phrase(&["how many"]);
    if !counted && !scan.phrase(&["what are the", "what are my", "what", "which", "the"]) {
        return None;
    }
    scan.any(&["upcoming", "pending"]);
    let mut wanted = Wanted::default();
    let noun = scan.any(ANY_EVENT)?;
    let mut mine = scan;
    wanted.anchored = !noun.text.starts_with("event")
        || mine.phrase(&[
            "do i have",
            "i have",
            "have i got",
            "are on my",
            "are in my",
            "on my",
            "in my",
            "are scheduled",
        ]);
    narrowed(&mut scan, &mut wanted, setting)?;
    if !wanted.anchored || (wanted.when.is_none() && wanted.query.is_none() && !counted && scan.len() > 0) {
        return None;
    }
    listed("calendar.which", 960, &wanted, if counted { crate::plan::LIMIT_MAX } else { EVENTS })
}

/// "What is my next meeting", "when is my next appointment with Anna".
fn next(mut scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    if !scan.phrase(&[
        "what time is",
        "what is",
        "when is",
        "where is",
        "who is",
        "show me",
        "tell me",
        "show",
        "check",
        "give me",
        "find",
    ]) {
        return None;
    }
    scan.any(&["my"])?;
    if !scan.phrase(&["next scheduled", "next upcoming", "next"]) {
        return None;
    }
    scan.eat("calendar");
    let mut wanted = Wanted { next: true, anchored: true, ..Wanted::default() };
    if scan.any(ANY_EVENT).is_none() {
        wanted.query = Some(event_title(&mut scan)?);
    }
    narrowed(&mut scan, &mut wanted, setting)?;
    listed("calendar.next", 960, &wanted, 1)
}

/// "Show me my meetings for tomorrow", "list upcoming appointments".
fn shown(mut scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    let asked = scan.phrase(&[
        "show me",
        "show",
        "list out",
        "list",
        "tell me about",
        "tell me",
        "give me",
        "read me",
        "read out",
        "read",
        "display",
        "pull up",
        "bring up",
        "check for",
        "check",
        "search for",
        "find",
        "get",
        "let me know about",
        "let me see",
        "see",
        "what are",
        "view",
        "open",
        "search",
    ]);
    let mut mine = false;
    let mut upcoming = false;
    let mut wanted = Wanted::default();
    for _each in 0..4 {
        if let Some(word) = scan.any(&["all", "of", "the", "my", "any"]) {
            mine |= word.text == "my";
        } else if scan.any(&["upcoming", "future", "pending", "scheduled"]).is_some()
            || scan.phrase(&["coming up", "up coming"])
        {
            upcoming = true;
        } else if wanted.when.is_none()
            && let Some(found) = possessive_time(&mut scan, setting)?
        {
            wanted.when = Some(found);
        } else {
            break;
        }
    }
    mine |= scan.eat("calendar");
    let noun = scan.any(ANY_EVENT)?;
    // Without a verb, one event may be one that is to be made.
    if !asked && (!noun.text.ends_with('s') || noun.text == "reminders") {
        return None;
    }
    narrowed(&mut scan, &mut wanted, setting)?;
    let private = !noun.text.starts_with("event");
    if !(mine || private || wanted.anchored) || !(asked || wanted.when.is_some() || upcoming && mine) {
        return None;
    }
    let thousandths = if asked { 960 } else { 940 };
    listed("calendar.shown", thousandths, &wanted, EVENTS)
}

/// "When is my dentist appointment", "what time is the meeting with Anna tomorrow".
fn when_is(mut scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    let own = scan.phrase(&["what time do i have", "when do i have"]);
    if !own
        && !scan.phrase(&[
            "tell me when is",
            "when is",
            "what time is",
            "at what time is",
            "what day is",
            "where is",
            "is",
            "tell me the time of",
            "how soon is",
        ])
    {
        return None;
    }
    let mine = scan.any(&["my"]).is_some();
    if !mine && scan.any(&["the", "a", "an"]).is_none() {
        return None;
    }
    let mut wanted = Wanted::default();
    let mut ahead = scan;
    if ahead.any(&["meeting", "appointment"]).is_some() {
        scan = ahead;
    } else {
        wanted.query = Some(event_title(&mut scan)?);
    }
    narrowed(&mut scan, &mut wanted, setting)?;
    if wanted.query.is_none() && wanted.when.is_none() {
        return None;
    }
    let thousandths = if mine || own { 950 } else { 920 };
    listed("calendar.when-is", thousandths, &wanted, EVENTS)
}

/// Whether a title is a word for any event, or for many.
fn is_any_event(title: &str) -> bool {
    let many = |word: &str| word.strip_suffix('s').is_some_and(|one| EVENT_HEADS.contains(&one));
    let title = title.to_lowercase();
    ANY_EVENT.contains(&title.as_str()) || title.split(' ').any(many)
}

/// The one event a change or a cancellation is about.
fn one(scan: &mut Scan<'_>, setting: &Setting<'_>) -> Option<(Wanted, u16)> {
    let mut wanted = Wanted::default();
    let definite = scan.any(&["my", "the"]).is_some();
    wanted.next = scan.phrase(&["next scheduled", "next upcoming", "next"]);
    if !wanted.next
        && let Some(found) = possessive_time(scan, setting)?
    {
        wanted.when = Some(found);
    }
    scan.any(&["scheduled"]);
    let mut ahead = *scan;
    ahead.eat("calendar");
    if ahead.any(&["event", "meeting", "appointment"]).is_some() {
        *scan = ahead;
        wanted.anchored = true;
    } else if let Some(who) = owner(scan) {
        let title = event_title(scan)?;
        let name = match who {
            Who::Name(name) | Who::Relation(name) => name.to_lowercase(),
            Who::Address(_) => return None,
        };
        wanted.query = Some(format!("{name} {title}"));
        scan.any(&["event", "meeting", "appointment"]);
    } else if let Some(title) = event_title(scan) {
        wanted.query = Some(title);
        scan.any(&["event", "meeting", "appointment"]);
    } else {
        // Anything can be on a calendar, if it is said to be.
        let title = topic(scan)?;
        if is_any_event(&title.search) {
            return None;
        }
        wanted.query = Some(title.search.trim_matches('"').to_owned());
        let mut book = *scan;
        if !on_book(&mut book) {
            return None;
        }
    }
    narrowed(scan, &mut wanted, setting)?;
    let thousandths = match (wanted.query.is_some(), wanted.when, wanted.next) {
        (true, ..) => 960,
        // Which of a day's events is not said.
        (false, _, true) => 920,
        (false, Some(When::At(_)), _) => 900,
        (false, Some(_), _) => 850,
        (false, None, _) => return None,
    };
    Some((wanted, if definite { thousandths } else { thousandths.min(950) }))
}

fn delete(mut scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    if !scan.phrase(&["delete", "cancel", "remove", "clear", "erase", "drop", "get rid of", "take off"]) {
        return None;
    }
    let mut ahead = scan;
    if let Some(meant) = reference::item(&mut ahead, ItemKind::Event, setting) {
        on_book(&mut ahead);
        if ahead.is_done() {
            let call = Operation::CalendarDelete { event: ItemRef::Session(meant.handle) };
            return Guess::new("calendar.delete-item", meant.thousandths, vec![call]);
        }
    }
    let (wanted, thousandths) = one(&mut scan, setting)?;
    let event = ItemRef::Result { step: StepId::new(1)?, index: 0 };
    Guess::new("calendar.delete", thousandths, vec![wanted.list(1)?, Operation::CalendarDelete { event }])
}

fn change(mut scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    let renames = scan.phrase(&["rename"]);
    if !renames && !scan.phrase(&["move", "reschedule", "postpone", "shift", "change"]) {
        return None;
    }
    let meant = reference::item(&mut scan, ItemKind::Event, setting)?;
    if !scan.eat("to") {
        return None;
    }
    let event = ItemRef::Session(meant.handle);
    let mut call = Operation::CalendarChange {
        event,
        title: None,
        start: None,
        end: None,
        location: None,
        add_attendees: Vec::new(),
    };
    let Operation::CalendarChange { title, start, end, .. } = &mut call else { return None };
    if renames {
        *title = Some(title_of(&mut scan)?);
    } else {
        // A day alone would turn it into an event of the whole day.
        match time(&mut scan, setting)?? {
            When::Days(..) => return None,
            found => (*start, *end) = found.event().map(|(start, end)| (Some(start), end))?,
        }
    }
    if !scan.is_done() {
        return None;
    }
    Guess::new("calendar.change-item", meant.thousandths.min(970), vec![call])
}

/// Everything that is left, as a title; quoted, or of plain words.
fn title_of(scan: &mut Scan<'_>) -> Option<String> {
    let mut ahead = *scan;
    if let Some(word) = ahead.next().filter(|word| word.quoted) {
        *scan = ahead;
        return Some(word.raw.trim().to_owned()).filter(|title| !title.is_empty());
    }
    let topic = topic(scan)?;
    titled(&topic.said)
}

/// A start, perhaps an end.
type Slot = (DateTimeLocal, Option<DateTimeLocal>);

fn create(scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    remind(scan, setting).or_else(|| schedule(scan, setting))
}

fn event(title: String, (start, end): Slot, attendees: Vec<Recipient>) -> Operation {
    Operation::CalendarCreate { title, start, end, attendees, location: None, description: None }
}

/// An event cannot begin in the past, and "this morning" is no beginning.
fn slot(found: When, setting: &Setting<'_>, part_allowed: bool) -> Option<Slot> {
    let now = setting.now.datetime();
    match found {
        When::Days(from, _) if from < now.date() => None,
        When::Minutes(from, _) | When::At(from) if from <= now => None,
        When::Minutes(..) if !part_allowed => None,
        found => found.event(),
    }
}

/// "Remind me to call the bank tomorrow at five pm".
fn remind(mut scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    let told = scan.phrase(&[
        "remind me",
        "set a reminder",
        "set me a reminder",
        "set up a reminder",
        "create a reminder",
        "add a reminder",
        "make a reminder",
        "set reminder",
    ]);
    if !told {
        return None;
    }
    let mut found = time_before(&mut scan, setting)?;
    if !scan.phrase(&["to", "about", "of", "for", "that i have"]) {
        return None;
    }
    scan.any(&["my", "the", "a", "an"]);
    let title = free_title(&mut scan, setting, &mut found)?;
    // "Remind me about the meeting in one hour": that may be when the meeting is, or the reminder.
    if is_any_event(&title) {
        return None;
    }
    let found = found?;
    Guess::new("calendar.remind", 950, vec![event(title, slot(found, setting, false)?, Vec::new())])
}

/// A time that may stand before the title.
fn time_before(scan: &mut Scan<'_>, setting: &Setting<'_>) -> Option<Option<When>> {
    let mut ahead = *scan;
    let found = time(&mut ahead, setting)?;
    if found.is_some() {
        *scan = ahead;
    }
    Some(found)
}

/// Words up to a time or the end; the time goes to `found`. `None` when words are left over or a time is unclear.
fn free_title(scan: &mut Scan<'_>, setting: &Setting<'_>, found: &mut Option<When>) -> Option<String> {
    const NO_TITLE: &[&str] = &[
        "i",
        "you",
        "he",
        "she",
        "they",
        "we",
        "it",
        "this",
        "these",
        "those",
        "and",
        "or",
        "but",
        "then",
        "if",
        "when",
        "which",
        "who",
        "everyone",
        "everybody",
        "invite",
        "inviting",
        "alarm",
        "alarms",
        "timer",
        "wake",
        "is",
        "are",
        "was",
        "were",
        "will",
        "every",
        "each",
        "all",
    ];
    if let Some(word) = scan.peek().filter(|word| word.quoted) {
        scan.skip(1);
        on_book(scan);
        if !scan.is_done() {
            let when = time(scan, setting)??;
            if found.replace(when).is_some() {
                return None;
            }
        }
        on_book(scan);
        return (scan.is_done() && !word.raw.trim().is_empty()).then(|| word.raw.trim().to_owned());
    }
    let from = *scan;
    let mut count = 0;
    loop {
        if scan.is_done() {
            break;
        }
        let mut ahead = *scan;
        if on_book(&mut ahead) {
            let title = from.take(count);
            if !ahead.is_done() {
                let when = time(&mut ahead, setting)??;
                if found.replace(when).is_some() {
                    return None;
                }
            }
            *scan = ahead;
            return finished_title(*scan, title);
        }
        if found.is_none()
            && let Some(when) = time(&mut ahead, setting)?
        {
            *found = Some(when);
            on_book(&mut ahead);
            let title = from.take(count);
            // "Tomorrow" in the middle of a title is no time of it.
            *scan = ahead;
            return finished_title(*scan, title);
        }
        let word = scan.next()?;
        if word.quoted || word.is_any(NO_TITLE) || is_time_word(&word.text) {
            return None;
        }
        count += 1;
    }
    finished_title(*scan, from.take(count))
}

fn finished_title(rest: Scan<'_>, title: Scan<'_>) -> Option<String> {
    if !rest.is_done() || title.is_done() || title.len() > 10 {
        return None;
    }
    titled(title.raw_span())
}

/// "Schedule a meeting tomorrow at three", "add the dentist to my calendar on Friday", "create an event called X on Y".
fn schedule(mut scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    let verb = scan.any(&["schedule", "create", "add", "make", "set", "put", "book", "plan"])?;
    if verb.text == "set" {
        scan.eat("up");
    }
    scan.any(&["a", "an", "my", "the"]);
    scan.any(&["new"]);
    let mut found = None;
    let mut ahead = scan;
    ahead.any(&["calendar"]);
    if ahead.any(&["event", "meeting", "appointment", "entry"]).is_some() {
        // "An event on Friday called X" and "an event called X on Friday".
        let mut named = ahead;
        let before = time_before(&mut named, setting)?;
        if named.phrase(&["called", "named", "titled", "with the title"]) {
            found = before;
            let title = free_title(&mut named, setting, &mut found)?;
            return Guess::new(
                "calendar.create-named",
                980,
                vec![event(title, slot(found?, setting, true)?, Vec::new())],
            );
        }
    }
    // The word that makes it an event must be there, or the calendar.
    let whole = scan;
    let book = has_book(whole);
    let heads =
        whole.rest().iter().any(|word| EVENT_HEADS.contains(&word.text.as_str()) && word.text != "date");
    if !book && !heads {
        return None;
    }
    if let Some(before) = time_before(&mut scan, setting)? {
        found = Some(before);
    }
    let whom = with_whom(scan);
    let title = free_title(&mut scan, setting, &mut found)?;
    let slot = slot(found?, setting, true)?;
    if on_book(&mut scan.clone()) || title_is_book(&title) {
        return None;
    }
    match whom {
        None => {
            Guess::new("calendar.create", if book { 970 } else { 960 }, vec![event(title, slot, Vec::new())])
        }
        // Whether to invite them, and at which address, is not said.
        Some(who @ Who::Name(_)) => {
            let search = Operation::GmailSearch { query: who.sender(), limit: 1 };
            let attendee = Recipient::PersonOf(ItemRef::Result { step: StepId::new(1)?, index: 0 });
            Guess::new("calendar.create-with-name", 860, vec![search, event(title, slot, vec![attendee])])
        }
        Some(Who::Address(address)) => {
            let title = title.split(" with ").next()?.to_owned();
            Guess::new(
                "calendar.create-with-address",
                960,
                vec![event(title, slot, vec![Recipient::Address(address)])],
            )
        }
        Some(Who::Relation(_)) => {
            Guess::new("calendar.create-with-relation", 840, vec![event(title, slot, Vec::new())])
        }
    }
}

fn title_is_book(title: &str) -> bool {
    BOOKS.contains(&title.to_lowercase().as_str())
}

fn has_book(mut scan: Scan<'_>) -> bool {
    while !scan.is_done() {
        if on_book(&mut scan.clone()) {
            return true;
        }
        scan.skip(1);
    }
    false
}

/// Whoever stands after "with".
fn with_whom(mut scan: Scan<'_>) -> Option<Who> {
    while let Some(word) = scan.next() {
        if word.is_any(&["with"]) {
            return Some(who(&mut scan).unwrap_or(Who::Relation(String::new())));
        }
    }
    None
}

//! Patterns learned from the model: a command without its names, days, numbers and quotations, and the plan it was
//! given, with places where those belong.
//!
//! Invariants:
//! - A [`PlanTemplate`] is made only when every such value of the command occurs in exactly one place of the plan, and
//!   everything else in the plan's texts is a word of the command or of the search syntax. So it holds nothing of the
//!   session or the user it was made for, and no day or time that was worked out: those are worked out anew.
//! - Of a refusal it is kept that it is one, and none of its words: those may quote whatever the model was shown.
//! - Commands that may speak of the session are not normalised, and a template that does more than search is used only
//!   where the session remembers nothing.
//! - Two commands of one [`PatternKey`] have the same kinds of values in the same places.

use jiff::ZonedDateTime;

use super::people::address;
use super::when::{When, is_time_word, when};
use super::words::{Scan, Word, words};
use crate::plan::{DateTimeLocal, Decision, ItemRef, Operation, Plan, REASON_LEARNED, Recipient, Step};

/// The most values of one command.
const SLOTS_MAX: usize = 8;
/// The longest command that is normalised, in bytes.
const COMMAND_BYTES_MAX: usize = 600;

/// A command without its values: `find the mail from <name1> about the budget`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PatternKey(String);

impl PatternKey {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One value of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Slot {
    /// Capitalised words, an address, a number or a quotation, as written.
    Text { said: String, quoted: bool },
    /// A day, a time or a span, worked out for this moment.
    Time(When),
}

/// A command, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normalised {
    key: PatternKey,
    slots: Vec<Slot>,
    /// The words that are no values, lower case.
    constants: Vec<String>,
}

impl Normalised {
    /// What it has in common with others.
    #[must_use]
    pub const fn key(&self) -> &PatternKey {
        &self.key
    }
}

/// Words that may mean something said or found before.
const REFERENCES: &[&str] = &[
    "it", "its", "her", "hers", "him", "his", "he", "she", "they", "them", "their", "theirs", "that", "this",
    "these", "those", "one", "ones", "same", "again", "another", "other", "others", "previous", "former",
    "latter", "above", "back", "there", "then", "more", "rest", "instead", "also", "too", "both", "who",
    "undo",
];
/// Capitalised words that name no value.
const NO_NAMES: &[&str] =
    &["gmail", "google", "drive", "calendar", "mail", "email", "inbox", "please", "re", "fwd"];

/// Takes a command apart; `None` when it cannot be a pattern: it may speak of the session, has a time that is not
/// clear, or too many values.
#[must_use]
pub fn normalise(command: &str, now: &ZonedDateTime) -> Option<Normalised> {
    if command.len() > COMMAND_BYTES_MAX || command.chars().any(char::is_control) {
        return None;
    }
    let words = words(command)?;
    let mut scan = Scan::new(command, &words);
    let mut key = String::new();
    let (mut slots, mut constants) = (Vec::new(), Vec::new());
    while let Some(word) = scan.peek() {
        if !key.is_empty() {
            key.push(' ');
        }
        let first = constants.is_empty() && slots.is_empty();
        if let Some((kind, slot)) = value(&mut scan, now, first)? {
            key.push_str(&kind);
            slots.push(slot);
            if slots.len() > SLOTS_MAX {
                return None;
            }
        } else {
            if REFERENCES.contains(&word.text.as_str())
                || word.text.contains(['<', '>'])
                || is_time_word(&word.text)
            {
                return None;
            }
            key.push_str(&word.text);
            if word.possessive {
                key.push_str("'s");
            }
            constants.push(word.text.clone());
            scan.skip(1);
        }
        // Clauses are part of the pattern.
        if scan_stopped(&words, &scan) {
            key.push(',');
        }
    }
    Some(Normalised { key: PatternKey(key), slots, constants })
}

/// Whether punctuation stands before the next word.
fn scan_stopped(words: &[Word<'_>], scan: &Scan<'_>) -> bool {
    let passed = words.len() - scan.len();
    passed > 0 && !scan.is_done() && words[passed - 1].stop
}

type Value = (String, Slot);

/// Goes past a value; inner `None` when the next word is none, outer when it is one that is not clear.
fn value(scan: &mut Scan<'_>, now: &ZonedDateTime, first: bool) -> Option<Option<Value>> {
    let word = scan.peek()?;
    let text = |said: &str, quoted: bool| Slot::Text { said: said.to_owned(), quoted };
    if word.quoted {
        scan.skip(1);
        let plain = |letter: char| {
            letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '\'' | '.' | ',' | '!' | '?')
        };
        let fits = !word.raw.trim().is_empty() && word.raw.chars().all(plain);
        return fits.then(|| Some(("<quote>".to_owned(), text(word.raw, true))));
    }
    if let Some(address) = address(scan) {
        return Some(Some(("<address>".to_owned(), text(address.as_str(), false))));
    }
    let mut ahead = *scan;
    if let Some(found) = when(&mut ahead, now.datetime()).ok()? {
        *scan = ahead;
        return Some(Some((time_kind(found, now).to_owned(), Slot::Time(found))));
    }
    if word.text.len() <= 4
        && word.text.bytes().all(|byte| byte.is_ascii_digit())
        && !word.text.starts_with('0')
    {
        scan.skip(1);
        return Some(Some(("<number>".to_owned(), text(&word.text, false))));
    }
    let names = if first { 0 } else { scan.rest().iter().take(3).take_while(|word| is_name(word)).count() };
    if names > 0 {
        let said: Vec<&str> = scan.rest()[..names].iter().map(Word::bare).collect();
        let last = &scan.rest()[names - 1];
        let kind = format!("<name{names}>{}", if last.possessive { "'s" } else { "" });
        // "Anna's" in the middle, or a comma, would part the name.
        if scan.rest()[..names - 1].iter().any(|word| word.possessive || word.stop) {
            return None;
        }
        scan.skip(names);
        return Some(Some((kind, text(&said.join(" "), false))));
    }
    Some(None)
}

fn is_name(word: &Word<'_>) -> bool {
    let mut letters = word.bare().chars();
    let capital = letters.next().is_some_and(char::is_uppercase);
    let rest = letters.as_str();
    capital
        && !word.quoted
        && !rest.is_empty()
        && rest.chars().all(|letter| letter.is_lowercase())
        && !NO_NAMES.contains(&word.text.as_str())
        && !is_time_word(&word.text)
}

/// What can be said of one such time can be said of all.
fn time_kind(found: When, now: &ZonedDateTime) -> &'static str {
    let past = found.end().is_none_or(|end| end <= now.datetime());
    match (found, past) {
        (When::Days(from, to), false) if from == to && from == now.date() => "<today>",
        (When::Days(from, to), false) if from == to => "<day>",
        (When::Days(..), false) => "<days>",
        (When::Minutes(..), false) => "<span>",
        (When::Part(..), false) => "<part>",
        (When::At(_), false) => "<moment>",
        (When::Days(from, to), true) if from == to => "<past day>",
        (_, true) => "<past>",
    }
}

/// A text with places for values.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Slot { slot: usize, lower: bool },
}

type Text = Vec<Part>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum To {
    Constant(Recipient),
    Slot(usize),
}

/// What differs in one step.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Places {
    texts: Vec<Option<Text>>,
    time: Option<usize>,
    limit: Option<usize>,
    to: Vec<To>,
}

/// A plan with places for values, or a refusal, which holds for the same words alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanTemplate(Shape);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Shape {
    Act { steps: Vec<(Step, Places)>, searches_only: bool },
    Decline,
}

/// Words of Gmail's search syntax that bring in nothing of their own.
const SYNTAX: &[&str] = &[
    "from",
    "to",
    "subject",
    "is",
    "in",
    "unread",
    "read",
    "starred",
    "important",
    "inbox",
    "sent",
    "has",
    "attachment",
    "or",
    "and",
    "not",
];

impl PlanTemplate {
    /// A template of the plan that was given to this command; `None` when it cannot be proved to hold for others.
    #[must_use]
    pub fn new(command: &Normalised, plan: &Plan) -> Option<Self> {
        let steps = match &plan.decision {
            // With other values it might be something that can be done.
            Decision::Decline { .. } => return command.slots.is_empty().then_some(Self(Shape::Decline)),
            Decision::Act(steps) if steps.is_empty() => return None,
            Decision::Act(steps) => steps,
        };
        let mut maker = Maker { command, uses: vec![0; command.slots.len()] };
        let mut places = Vec::with_capacity(steps.len());
        for step in steps {
            places.push((step.clone(), maker.places(&step.call)?));
        }
        let once = maker.uses.iter().all(|uses| *uses == 1);
        let searches_only = steps.iter().all(|step| is_search(&step.call));
        let template = Self(Shape::Act { steps: places, searches_only });
        // What it makes of its own command must be the plan itself.
        (once && template.fill(command).as_ref() == Some(plan)).then_some(template)
    }

    /// Whether it may be used although the session remembers items: a search is right whatever was found before.
    #[must_use]
    pub const fn is_free_of_context(&self) -> bool {
        matches!(self.0, Shape::Act { searches_only: true, .. })
    }

    /// The plan for a command of the same key; `None` when its values do not fit.
    #[must_use]
    pub fn fill(&self, command: &Normalised) -> Option<Plan> {
        let steps = match &self.0 {
            Shape::Act { steps, .. } => steps,
            Shape::Decline => return Some(Plan::decline(REASON_LEARNED)),
        };
        let steps: Option<Vec<Step>> =
            steps.iter().map(|(step, places)| filled(step, places, &command.slots)).collect();
        let plan = Plan::act(steps?);
        plan.validate().is_ok().then_some(plan)
    }

    /// About how many bytes it keeps.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let of_step = |(step, places): &(Step, Places)| {
            let texts = texts_of(&step.call).into_iter().flatten().flatten().map(str::len).sum::<usize>();
            let parts: usize = places.texts.iter().flatten().map(Vec::len).sum();
            size_of::<(Step, Places)>()
                + 2 * texts
                + parts * size_of::<Part>()
                + places.to.len() * 2 * size_of::<To>()
        };
        let kept = match &self.0 {
            Shape::Act { steps, .. } => steps.iter().map(of_step).sum::<usize>(),
            Shape::Decline => 0,
        };
        size_of::<Self>() + kept
    }
}

const fn is_search(call: &Operation) -> bool {
    matches!(
        call,
        Operation::GmailSearch { .. } | Operation::CalendarList { .. } | Operation::DriveSearch { .. }
    )
}

struct Maker<'a> {
    command: &'a Normalised,
    uses: Vec<usize>,
}

impl Maker<'_> {
    fn places(&mut self, call: &Operation) -> Option<Places> {
        let found = texts_of(call)?;
        // What is found in the session belongs to it.
        if call.references().any(|item| matches!(item, ItemRef::Session(_))) {
            return None;
        }
        let mut texts = Vec::new();
        for text in found {
            texts.push(match text {
                Some(text) => Some(self.text(text, is_search(call))?),
                None => None,
            });
        }
        let mut to = Vec::new();
        for recipient in call.recipients() {
            to.push(match recipient {
                Recipient::PersonOf(_) => To::Constant(recipient.clone()),
                Recipient::Address(address) => To::Slot(self.address(address.as_str())?),
            });
        }
        Some(Places { texts, to, time: self.time(call)?, limit: self.limit(call) })
    }

    fn use_slot(&mut self, slot: usize) -> usize {
        self.uses[slot] += 1;
        slot
    }

    fn address(&mut self, address: &str) -> Option<usize> {
        let said = |slot: &Slot| matches!(slot, Slot::Text { said, quoted: false } if said == address);
        let slot = self.command.slots.iter().position(said)?;
        Some(self.use_slot(slot))
    }

    /// Inner `None`: no time is in it.
    fn time(&mut self, call: &Operation) -> Option<Option<usize>> {
        let Some(times) = times_of(call) else { return Some(None) };
        let fits = |slot: &Slot| matches!(slot, Slot::Time(found) if times_for(call, *found) == Some(times));
        let slot = self.command.slots.iter().position(fits)?;
        Some(Some(self.use_slot(slot)))
    }

    fn limit(&mut self, call: &Operation) -> Option<usize> {
        let limit = call.results().filter(|_| is_search(call))?.count_max.to_string();
        let said = |slot: &Slot| matches!(slot, Slot::Text { said, quoted: false } if *said == limit);
        let slot = self.command.slots.iter().position(said)?;
        Some(self.use_slot(slot))
    }

    fn text(&mut self, text: &str, search: bool) -> Option<Text> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut at = 0;
        while at < text.len() {
            if let Some((slot, len, lower)) = self.slot_at(text, at) {
                let Slot::Text { quoted, .. } = &self.command.slots[slot] else { return None };
                // A phrase of any length stays one only between quotation marks.
                if search && *quoted && !(text[..at].ends_with('"') && text[at + len..].starts_with('"')) {
                    return None;
                }
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal)));
                }
                parts.push(Part::Slot { slot: self.use_slot(slot), lower });
                at += len;
            } else {
                let letter = text[at..].chars().next()?;
                literal.push(letter);
                at += letter.len_utf8();
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        parts.iter().all(|part| self.is_from_here(part, search)).then_some(parts)
    }

    /// A value that stands at this place as a word of its own.
    fn slot_at(&self, text: &str, at: usize) -> Option<(usize, usize, bool)> {
        let word = |letter: Option<char>| letter.is_some_and(char::is_alphanumeric);
        if word(text[..at].chars().next_back()) {
            return None;
        }
        self.command.slots.iter().enumerate().find_map(|(slot, value)| {
            let Slot::Text { said, .. } = value else { return None };
            let lower = said.to_lowercase();
            [(said.as_str(), false), (lower.as_str(), true)].into_iter().find_map(|(form, lower)| {
                let fits = text[at..].starts_with(form) && !word(text[at + form.len()..].chars().next());
                fits.then_some((slot, form.len(), lower))
            })
        })
    }

    /// Whether every word of a literal is one of the command or, in a search, of the syntax.
    fn is_from_here(&self, part: &Part, search: bool) -> bool {
        let Part::Literal(literal) = part else { return true };
        let mut words =
            literal.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
        words.all(|word| {
            let word = word.to_lowercase();
            (search && SYNTAX.contains(&word.as_str())) || self.command.constants.contains(&word)
        })
    }
}

/// The texts of an operation, in an order that [`put`] keeps; `None` for one of which no pattern is made: it is asked for too
/// seldom, and changes too much, to be taken from anything but the model.
fn texts_of(call: &Operation) -> Option<Vec<Option<&str>>> {
    Some(match call {
        Operation::GmailSearch { query, .. } => vec![Some(query)],
        Operation::GmailSend { subject, body, .. } => vec![Some(subject), Some(body)],
        Operation::GmailReply { body, .. } => vec![Some(body)],
        Operation::CalendarList { query, .. } => vec![query.as_deref()],
        Operation::CalendarCreate { title, location, description, .. } => {
            vec![Some(title), location.as_deref(), description.as_deref()]
        }
        Operation::CalendarChange { title, location, .. } => vec![title.as_deref(), location.as_deref()],
        Operation::DriveSearch { text, .. } => vec![Some(text)],
        Operation::GmailRead { .. } | Operation::CalendarDelete { .. } | Operation::DriveRead { .. } => {
            Vec::new()
        }
        Operation::GmailDraft { .. }
        | Operation::GmailForward { .. }
        | Operation::GmailLabel { .. }
        | Operation::GmailTrash { .. }
        | Operation::CalendarFreeBusy { .. }
        | Operation::DriveCreate { .. }
        | Operation::DriveShare { .. }
        | Operation::DriveExport { .. }
        | Operation::DriveMove { .. }
        | Operation::DriveTrash { .. } => return None,
    })
}

type Times = (Option<DateTimeLocal>, Option<DateTimeLocal>);

/// First and last time of an operation; `None` when it has neither.
fn times_of(call: &Operation) -> Option<Times> {
    let times = match call {
        Operation::CalendarList { from, to, .. } => (*from, *to),
        Operation::CalendarCreate { start, end, .. } => (Some(*start), *end),
        Operation::CalendarChange { start, end, .. } => (*start, *end),
        _ => (None, None),
    };
    (times != (None, None)).then_some(times)
}

/// The times an operation of this kind has, when this is what was said.
fn times_for(call: &Operation, found: When) -> Option<Times> {
    match call {
        Operation::CalendarList { .. } => found.bounds().map(|(from, to)| (Some(from), Some(to))),
        _ => found.event().map(|(start, end)| (Some(start), end)),
    }
}

fn filled(step: &Step, places: &Places, slots: &[Slot]) -> Option<Step> {
    let mut texts = Vec::with_capacity(places.texts.len());
    for text in &places.texts {
        texts.push(match text {
            Some(parts) => Some(joined(parts, slots)?),
            None => None,
        });
    }
    let times = match places.time {
        Some(slot) => match slots.get(slot)? {
            Slot::Time(found) => Some(times_for(&step.call, *found)?),
            Slot::Text { .. } => return None,
        },
        None => None,
    };
    let said = |slot: usize| match slots.get(slot) {
        Some(Slot::Text { said, .. }) => Some(said.as_str()),
        _ => None,
    };
    let limit = match places.limit {
        Some(slot) => Some(said(slot)?.parse::<u8>().ok()?),
        None => None,
    };
    let mut to = Vec::with_capacity(places.to.len());
    for recipient in &places.to {
        to.push(match recipient {
            To::Constant(recipient) => recipient.clone(),
            To::Slot(slot) => Recipient::Address(said(*slot)?.parse().ok()?),
        });
    }
    let mut call = step.call.clone();
    put(&mut call, texts, times, limit, to)?;
    Some(Step { id: step.id, after: step.after.clone(), call })
}

fn joined(parts: &[Part], slots: &[Slot]) -> Option<String> {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Literal(literal) => text.push_str(literal),
            Part::Slot { slot, lower } => match slots.get(*slot)? {
                Slot::Text { said, .. } if *lower => text.push_str(&said.to_lowercase()),
                Slot::Text { said, .. } => text.push_str(said),
                Slot::Time(_) => return None,
            },
        }
    }
    Some(text)
}

/// Puts values into an operation; texts in the order of [`texts_of`].
fn put(
    call: &mut Operation,
    texts: Vec<Option<String>>,
    times: Option<Times>,
    new_limit: Option<u8>,
    new_to: Vec<Recipient>,
) -> Option<()> {
    let mut texts = texts.into_iter();
    let mut next = || texts.next().flatten();
    match call {
        Operation::GmailSearch { query, limit } => {
            *query = next()?;
            *limit = new_limit.unwrap_or(*limit);
        }
        Operation::GmailSend { to, subject, body } => {
            (*subject, *body) = (next()?, next()?);
            *to = new_to;
        }
        Operation::GmailReply { body, .. } => *body = next()?,
        Operation::CalendarList { from, to, query, limit } => {
            *query = next();
            (*from, *to) = times.unwrap_or((*from, *to));
            *limit = new_limit.unwrap_or(*limit);
        }
        Operation::CalendarCreate { title, start, end, attendees, location, description } => {
            (*title, *location, *description) = (next()?, next(), next());
            if let Some((from, to)) = times {
                (*start, *end) = (from?, to);
            }
            *attendees = new_to;
        }
        Operation::CalendarChange { title, start, end, location, add_attendees, .. } => {
            (*title, *location) = (next(), next());
            (*start, *end) = times.unwrap_or((*start, *end));
            *add_attendees = new_to;
        }
        Operation::DriveSearch { text, limit } => {
            *text = next()?;
            *limit = new_limit.unwrap_or(*limit);
        }
        Operation::GmailRead { .. } | Operation::CalendarDelete { .. } | Operation::DriveRead { .. } => {}
        Operation::GmailDraft { .. }
        | Operation::GmailForward { .. }
        | Operation::GmailLabel { .. }
        | Operation::GmailTrash { .. }
        | Operation::CalendarFreeBusy { .. }
        | Operation::DriveCreate { .. }
        | Operation::DriveShare { .. }
        | Operation::DriveExport { .. }
        | Operation::DriveMove { .. }
        | Operation::DriveTrash { .. } => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> ZonedDateTime {
        text.parse().expect("a moment with a zone")
    }

    fn wednesday() -> ZonedDateTime {
        at("2026-11-25T09:40:00+01:00[Europe/Berlin]")
    }

    fn plan(steps: &serde_json::Value) -> Plan {
        let json = serde_json::json!({"decision": "act", "reason": null, "steps": steps});
        Plan::from_model_json(&json.to_string()).expect("a plan")
    }

    fn search(query: &str, limit: u8) -> Plan {
        plan(&serde_json::json!([{"id": "s1", "after": [],
            "call": {"operation": "gmail.search", "query": query, "limit": limit}}]))
    }

    fn list(from: &str, to: &str) -> Plan {
        plan(&serde_json::json!([{"id": "s1", "after": [],
            "call": {"operation": "calendar.list", "from": from, "to": to, "query": null, "limit": 10}}]))
    }

    fn template(command: &str, plan: &Plan) -> Option<PlanTemplate> {
        PlanTemplate::new(&normalise(command, &wednesday())?, plan)
    }

    fn refilled(first: &str, plan: &Plan, then: &str, now: &ZonedDateTime) -> Option<Plan> {
        let template = template(first, plan)?;
        let (old, new) = (normalise(first, &wednesday())?, normalise(then, now)?);
        assert_eq!(old.key(), new.key());
        template.fill(&new)
    }

    #[test]
    fn names_numbers_and_addresses_go_where_the_old_ones_stood() {
        let first = "look through the mail from Anna on invoices";
        let filled = refilled(
            first,
            &search("from:anna invoices", 10),
            "look through the mail from Ben on invoices",
            &wednesday(),
        );
        assert_eq!(filled, Some(search("from:ben invoices", 10)));
        let filled = refilled(
            "give the 5 top mails by Anna",
            &search("from:Anna", 5),
            "give the 7 top mails by Eve",
            &wednesday(),
        );
        assert_eq!(filled, Some(search("from:Eve", 7)));
    }

    #[test]
    fn a_day_is_worked_out_anew_wherever_and_whenever_it_is_said() {
        let first = "run me through what happens tomorrow";
        let plan = list("2026-11-26", "2026-11-26");
        let filled = refilled(first, &plan, "run me through what happens on Friday", &wednesday());
        assert_eq!(filled, Some(list("2026-11-27", "2026-11-27")));
        // The same words on another day, and east of the date line.
        let later = at("2026-12-31T23:30:00+13:00[Pacific/Auckland]");
        assert_eq!(refilled(first, &plan, first, &later), Some(list("2027-01-01", "2027-01-01")));
    }

    #[test]
    fn a_resolved_day_is_never_baked_in() {
        assert!(template("what happens tomorrow", &list("2026-11-27", "2026-11-27")).is_none());
        assert!(template("what happens around christmas", &list("2026-12-25", "2026-12-25")).is_none());
        assert!(template("mail since my holiday", &search("after:2026/11/01", 10)).is_none());
        assert!(template("mail from tomorrow", &search("after:2026/11/26", 10)).is_none());
    }

    #[test]
    fn what_was_not_said_is_not_kept() {
        // An address out of somebody's session, a word the model added, a handle.
        assert!(template("mail from Anna", &search("from:anna.berg@corp.example", 10)).is_none());
        assert!(template("mail from Anna", &search("from:anna budget", 10)).is_none());
        let reply = serde_json::json!([{"id": "s1", "after": [],
            "call": {"operation": "gmail.reply", "message": "#m1", "body": "yes"}}]);
        assert!(template("answer yes", &plan(&reply)).is_none());
    }

    #[test]
    fn a_refusal_holds_for_the_same_words_in_the_gateways_own_and_a_session_that_remembers_nothing() {
        let refusal = Plan::decline("You asked about a biopsy; this is not mine to do.");
        let learned = template("turn on the lights", &refusal).expect("a template");
        let again = normalise("Turn on the lights!", &at("2027-01-01T08:00:00+01:00[Europe/Berlin]"));
        assert_eq!(learned.fill(&again.expect("normalised")), Some(Plan::decline(REASON_LEARNED)));
        assert!(!learned.is_free_of_context());
        assert!(!format!("{learned:?}").contains("biopsy"), "{learned:?}");
        assert!(template("play songs by Anna", &refusal).is_none(), "another name may be a mail's");
        assert!(template("wake me tomorrow", &refusal).is_none());
    }

    #[test]
    fn a_value_must_occur_exactly_once() {
        assert!(template("mail from Anna about Budget", &search("from:anna", 10)).is_none());
        assert!(template("mail from Anna", &search("from:anna Anna", 10)).is_none());
        assert!(template("mail from Anna to Anna", &search("from:anna", 10)).is_none());
    }

    #[test]
    fn commands_that_may_mean_something_found_before_are_no_patterns() {
        for command in ["open it", "reply to her", "the second one", "show that again", "and the others"] {
            assert!(normalise(command, &wednesday()).is_none(), "{command}");
        }
    }

    #[test]
    fn different_kinds_of_values_make_different_keys() {
        let key = |command: &str| normalise(command, &wednesday()).expect("normalised").key().clone();
        assert_eq!(key("mail from Anna").as_str(), "mail from <name1>");
        assert_ne!(key("mail from Anna"), key("mail from Anna Berg"));
        assert_ne!(key("what is on tomorrow"), key("what is on today"));
        assert_ne!(key("what is on tomorrow"), key("what is on this week"));
        assert_ne!(key("mail from Anna"), key("mail from anna"));
    }

    #[test]
    fn more_than_a_search_needs_a_session_that_remembers_nothing() {
        let read = serde_json::json!([
            {"id": "s1", "after": [], "call": {"operation": "gmail.search", "query": "from:anna", "limit": 1}},
            {"id": "s2", "after": [], "call": {"operation": "gmail.read", "message": "$s1[0]"}},
        ]);
        assert!(
            !template("recite the mail from Anna", &plan(&read)).expect("a template").is_free_of_context()
        );
        assert!(
            template("mail from Anna", &search("from:anna", 10)).expect("a template").is_free_of_context()
        );
    }

    proptest! {
        #[test]
        fn any_text_is_taken_apart_without_panic_and_the_same_way(text in "(\\PC|[ \"'@]){0,60}") {
            let once = normalise(&text, &wednesday());
            prop_assert_eq!(&once, &normalise(&text, &wednesday()));
            if let Some(command) = once {
                let plan = search(&text.chars().filter(|letter| letter.is_alphanumeric() || *letter == ' ').take(100).collect::<String>(), 5);
                if let Some(template) = PlanTemplate::new(&command, &plan) {
                    prop_assert_eq!(template.fill(&command), Some(plan));
                }
            }
        }

        #[test]
        fn a_filled_template_is_valid_and_holds_the_new_name(old in "[A-Z][a-z]{2,8}", new in "[A-Z][a-z]{2,8}") {
            let (first, then) = (format!("mail by {old}"), format!("mail by {new}"));
            let plan = search(&format!("from:{}", old.to_lowercase()), 10);
            let (first, then) = (normalise(&first, &wednesday()), normalise(&then, &wednesday()));
            if let (Some(first), Some(then)) = (first, then)
                && first.key() == then.key()
                && let Some(template) = PlanTemplate::new(&first, &plan)
            {
                prop_assert_eq!(template.fill(&then), Some(search(&format!("from:{}", new.to_lowercase()), 10)));
            }
        }
    }
}

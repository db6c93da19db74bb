//! The calendar: what is in it, and changes to it.

use serde_json::json;

use super::build::{Builder, Refusal, Who, people};
use super::clause::VERBS;
use super::plan::{Kind, Ref};
use super::time::{self, Found};
use super::words::{
    CALENDAR_NOUNS, EVENT_NOUNS, FILE_NOUNS, MAIL_NOUNS, THINGS, Word, capitalised, is_foreign, is_noun, low,
};

/// Events asked for when nobody says how many.
const LIMIT: u64 = 10;

/// People invited in one step at most.
const ATTENDEES_MAX: usize = 20;

const WHICH: &str = "Which event do you mean?";
const WHEN: &str = "When should that be?";

/// "what meetings do I have with Anna this week"
pub(super) fn list(words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    push_list(words, builder, LIMIT);
    Ok(())
}

/// Whether a question that names events is about one's own: "when is the party",
/// "my lunch", "the workshop on Friday", but not "how many calories has a dinner".
pub(super) fn asked_for(words: &[Word], builder: &Builder<'_>) -> bool {
    let said = |list: &[&str]| words.iter().any(|word| word.any(list));
    !is_foreign(words)
        && (said(CALENDAR_NOUNS)
            || said(&["my", "when", "when's"])
            || !time::find(words, builder.now(), false).is_empty())
}

/// "what do I have tomorrow": without a noun, the time must tell that it is about
/// the calendar.
pub(super) fn list_without_noun(words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let found = time::find(words, builder.now(), false);
    let about_me = words.iter().any(|word| word.any(&["i", "i'm", "my", "on", "happening", "free", "busy"]));
    let rest = super::topic(words, &found.used, |word| word.any(&GENERIC));
    if found.is_empty() || !about_me || !rest.is_empty() || is_foreign(words) {
        return Err(super::not_ours());
    }
    list(words, builder)
}

/// Words that say nothing about which event.
const GENERIC: [&str; 21] = [
    "anything",
    "something",
    "things",
    "thing",
    "everything",
    "plans",
    "plan",
    "work",
    "doing",
    "supposed",
    "rest",
    "ahead",
    "details",
    "information",
    "info",
    "o'clock",
    "off",
    "rid",
    "between",
    "entry",
    "entries",
];

/// Adds a list step for the events a clause describes; its index.
fn push_list(words: &[Word], builder: &mut Builder<'_>, limit: u64) -> usize {
    let found = time::find(words, builder.now(), false);
    let (from, to) = range(&found, builder);
    let query = query(words, &found);
    let next = words.iter().any(|word| word.any(&["next", "upcoming"])) && found.days.is_none();
    let single = words
        .iter()
        .any(|word| word.any(&["meeting", "event", "appointment", "reminder"]) || word.any(EVENT_NOUNS));
    let limit = if next && single { 1 } else { limit };
    let call = json!({"operation": "calendar.list", "from": from, "to": to, "query": query, "limit": limit});
    builder.push_named(call, query)
}

/// The stretch to look at; from now on when none is said.
fn range(found: &Found, builder: &Builder<'_>) -> (Option<String>, Option<String>) {
    match found.range(builder.now()) {
        (None, None) => (Some(time::local(builder.now())), None),
        range => range,
    }
}

/// What to look for in the events: all but their generic names.
fn query(words: &[Word], found: &Found) -> Option<String> {
    let generic = |word: &Word| word.any(CALENDAR_NOUNS) || word.any(&VERBS) || word.any(&GENERIC);
    let topic = super::topic(words, &found.used, generic);
    (!topic.is_empty()).then(|| topic.join(" "))
}

/// "put a meeting with Anna on Tuesday at ten"
pub(super) fn create(source: &str, words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let found = time::find(words, builder.now(), false);
    let reminds = low(words, 0) == "remind";
    let scheduling = matches!(low(words, 0), "schedule" | "arrange") && !found.is_empty();
    // "make coffee at seven" is for the kitchen.
    let makes = matches!(low(words, 0), "make" | "get");
    let names_event = |word: &Word| is_noun(word) && !word.any(MAIL_NOUNS) && !word.any(FILE_NOUNS);
    let noun = words.iter().any(|word| names_event(word) && !(makes && word.is("coffee")));
    if is_foreign(words) {
        return Err(super::not_ours());
    }
    if !(noun || scheduling || (reminds && !found.is_empty())) {
        return Err(super::not_ours());
    }
    let draft = Draft::read(source, words, &found);
    let title = draft.title(builder).ok_or("What should the event be called?")?;
    let start = found.start(builder.now()).ok_or(WHEN)?;
    let attendees = attendees(&draft.people, builder)?;
    builder.push(json!({"operation": "calendar.create", "title": title, "start": start, "end": found.end(builder.now()),
        "attendees": attendees, "location": draft.location, "description": null}));
    Ok(())
}

/// Everybody named, once each and without the user.
fn attendees(people: &[Who], builder: &mut Builder<'_>) -> Result<Vec<String>, Refusal> {
    let mut attendees = Vec::new();
    for who in people.iter().filter(|who| **who != Who::Myself) {
        let attendee = builder.recipient(who)?;
        if !attendees.contains(&attendee) {
            attendees.push(attendee);
        }
    }
    if attendees.len() > ATTENDEES_MAX {
        Err("Those are too many people to invite.".to_owned())
    } else {
        Ok(attendees)
    }
}

/// The parts of an event as a clause names them.
#[derive(Debug, Default)]
struct Draft {
    /// "called X".
    called: Option<String>,
    /// What is left when everything else has been taken out.
    words: Vec<String>,
    about: Option<String>,
    people: Vec<Who>,
    location: Option<String>,
}

impl Draft {
    fn read(source: &str, words: &[Word], found: &Found) -> Self {
        let mut draft = Self::default();
        let mut at = first_word(words);
        while at < words.len() {
            at = draft.take(source, words, found, at);
        }
        while draft.words.last().is_some_and(|word| is_loose(word)) {
            draft.words.pop();
        }
        draft
    }

    /// Takes what stands at `at` and gives the index after it.
    fn take(&mut self, source: &str, words: &[Word], found: &Found, at: usize) -> usize {
        let used = &found.used;
        let word = &words[at];
        if used[at] || (word.is_punctuation() && !word.quoted) {
            return at + 1;
        }
        if word.any(&["called", "titled", "named"]) {
            let end =
                (at + 1..words.len()).find(|end| used[*end] || is_with(words, *end)).unwrap_or(words.len());
            self.called = slice(source, words, at + 1, end);
            return end;
        }
        if is_with(words, at)
            && let Some((people, end)) = people(words, used, at + 1)
        {
            self.people.extend(people);
            return end;
        }
        if word.any(&["about", "regarding"]) {
            let end =
                (at + 1..words.len()).find(|end| used[*end] || is_with(words, *end)).unwrap_or(words.len());
            self.about = slice(source, words, at + 1, end);
            return end;
        }
        if let Some(end) = calendar_phrase(words, at) {
            return end;
        }
        if word.any(&["at", "in"]) && !self.words.is_empty() {
            let stops =
                |end: &usize| used[*end] || is_with(words, *end) || words[*end].any(&["about", "for", "on"]);
            let end = (at + 1..words.len()).find(stops).unwrap_or(words.len());
            self.location = slice(source, words, at + 1, end);
            return end;
        }
        let article = word.any(&["a", "an", "the", "my", "new", "another", "up"]) && self.words.is_empty();
        let loose = self.words.is_empty() && is_loose(&word.low);
        if !(article || loose) {
            self.words.push(source[word.start..word.end].to_owned());
        }
        at + 1
    }

    fn title(&self, builder: &Builder<'_>) -> Option<String> {
        if let Some(called) = &self.called {
            return Some(capitalised(called));
        }
        let names: Vec<String> = self.people.iter().filter_map(|who| builder.display(who)).collect();
        let mut title = capitalised(&self.words.join(" "));
        if title.is_empty() {
            if self.people.is_empty() && self.about.is_none() {
                return None;
            }
            "Meeting".clone_into(&mut title);
        }
        if !names.is_empty() {
            title = format!("{title} with {}", names.join(" and "));
        }
        if let Some(about) = &self.about {
            title = format!("{title} about {about}");
        }
        Some(title)
    }
}

/// Where the description of the event begins: after the verb.
fn first_word(words: &[Word]) -> usize {
    match (low(words, 0), low(words, 1), low(words, 2)) {
        ("remind", "me", "to" | "about" | "of") => 3,
        ("remind", "me", _) | ("set", "up", _) => 2,
        _ => 1,
    }
}

/// Words a title does not begin or end with.
fn is_loose(word: &str) -> bool {
    matches!(
        word,
        "on" | "at"
            | "for"
            | "in"
            | "to"
            | "from"
            | "by"
            | "and"
            | "of"
            | "the"
            | "that"
            | "with"
            | "me"
            | "up"
            | "-"
            | ","
    )
}

fn is_with(words: &[Word], at: usize) -> bool {
    words[at].is("with") && !words[at].quoted
}

/// `in my calendar`, `to the agenda`: the index after it.
fn calendar_phrase(words: &[Word], at: usize) -> Option<usize> {
    if !words[at].any(&["in", "on", "to", "into", "onto"]) {
        return None;
    }
    let noun = at + 1 + usize::from(matches!(low(words, at + 1), "my" | "the" | "our"));
    matches!(low(words, noun), "calendar" | "diary" | "agenda" | "schedule").then_some(noun + 1)
}

fn slice(source: &str, words: &[Word], begin: usize, end: usize) -> Option<String> {
    if begin >= end {
        return None;
    }
    let text =
        source[words[begin].start..words[end - 1].end].trim_matches(['"', '\u{201c}', '\u{201d}', ',', ' ']);
    let text = text.strip_prefix("the ").unwrap_or(text).trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// "move it to 3pm", "reschedule the sync tomorrow to Friday at ten", "rename it to X"
pub(super) fn change(source: &str, words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    if words.iter().any(|word| word.any(MAIL_NOUNS) || word.any(FILE_NOUNS)) {
        return Err(super::not_ours());
    }
    let to = words
        .iter()
        .rposition(|word| word.any(&["to", "until", "for"]) && !word.quoted)
        .filter(|at| *at + 1 < words.len());
    let to = to.ok_or("To when should I move it?")?;
    let (target, new) = (&words[1..to], &words[to + 1..]);
    let renames = low(words, 0) == "rename" || target.iter().any(|word| word.any(&["title", "name"]));
    let found = time::find(new, builder.now(), true);
    if !renames && found.is_empty() {
        return Err(if points_or_names(target) {
            "To when should I move it?".to_owned()
        } else {
            super::not_ours()
        });
    }
    if !points_or_names(target) {
        return Err(super::not_ours());
    }
    let old = time::find(target, builder.now(), false);
    let event = resolve(target, builder)?;
    let mut call = json!({"operation": "calendar.change", "event": event.to_string(), "title": null, "start": null,
        "end": null, "location": null, "add_attendees": []});
    if renames {
        let title = slice(source, words, to + 1, words.len()).ok_or("What should it be called?")?;
        call["title"] = capitalised(&title).into();
    } else {
        let moved = moved(found, &old, &event, builder);
        call["start"] = moved
            .start(builder.now())
            .filter(|start| start.len() > 10)
            .ok_or("At what time should it start?")?
            .into();
        call["end"] = moved.end(builder.now()).into();
    }
    builder.push(call);
    Ok(())
}

/// The new time, with the day or hour it had where only the other was said.
fn moved(mut new: Found, old: &Found, event: &Ref, builder: &Builder<'_>) -> Found {
    let known = match event {
        Ref::Item(handle) => {
            builder.context.item(handle).and_then(|item| time::parse_when(item.when.as_deref()?))
        }
        Ref::Step(..) => None,
    };
    if new.days.is_none() {
        let day = known.map(|(day, _)| time::Days { from: day, to: day.saturating_add(time::one_day()) });
        new.days = old.days.or(day);
    }
    if new.time.is_none() && new.part.is_none() {
        new.time = old.time.or_else(|| known.and_then(|(_, time)| time));
    }
    new
}

/// Whether words point at an event or name one.
fn points_or_names(words: &[Word]) -> bool {
    words
        .iter()
        .any(|word| word.any(THINGS) || (is_noun(word) && !word.any(MAIL_NOUNS) && !word.any(FILE_NOUNS)))
}

/// The event meant: pointed at, or the first of a list.
fn resolve(words: &[Word], builder: &mut Builder<'_>) -> Result<Ref, Refusal> {
    if let Some((which, _)) = super::which(words) {
        return builder.nth(Some(Kind::Event), which).map(|(item, _)| item);
    }
    let found = time::find(words, builder.now(), false);
    let described = query(words, &found).is_some()
        || !found.is_empty()
        || words.iter().any(|word| word.any(&["next", "upcoming"]));
    if !described {
        return builder.newest(Kind::Event).ok_or_else(|| WHICH.to_owned());
    }
    Ok(Ref::Step(push_list(words, builder, LIMIT), 0))
}

/// "cancel my meeting with Ben tomorrow", "delete the second one"
pub(super) fn delete(words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let rest = &words[1..];
    if !points_or_names(rest) || is_foreign(rest) {
        return Err(super::not_ours());
    }
    delete_described(rest, builder)
}

/// Deletes the event that `words` describe.
pub(super) fn delete_described(words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let plural = words.iter().any(|word| {
        word.any(&["all", "everything", "every", "events", "meetings", "appointments", "reminders", "both"])
    });
    if plural && super::which(words).is_none() {
        return Err("I remove events one at a time; please say which one.".to_owned());
    }
    let event = resolve(words, builder)?;
    builder.push(json!({"operation": "calendar.delete", "event": event.to_string()}));
    Ok(())
}

/// Whether "add .. to .." adds people to an event.
pub(super) fn adds_people(words: &[Word]) -> bool {
    let used = vec![false; words.len()];
    people(words, &used, 1).is_some_and(|(_, end)| low(words, end) == "to" && points_or_names(&words[end..]))
        && calendar_phrase(words, words.iter().position(|word| word.is("to")).unwrap_or(0)).is_none()
}

/// "invite Anna to it", "add Ben to the meeting tomorrow"
pub(super) fn invite(words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let used = vec![false; words.len()];
    let (list, end) = people(words, &used, 1).ok_or("Whom should I invite?")?;
    if low(words, end) != "to" {
        return Err(WHICH.to_owned());
    }
    let target = &words[end + 1..];
    if !points_or_names(target) || is_foreign(words) {
        return Err(super::not_ours());
    }
    // "invite Anna to lunch tomorrow at noon" makes the lunch.
    let found = time::find(target, builder.now(), false);
    let article = matches!(low(target, 0), "the" | "my" | "that" | "this" | "it" | "our");
    if !article && found.time.is_some() {
        return create_with(target, &list, &found, builder);
    }
    let event = resolve(target, builder)?;
    let attendees = attendees(&list, builder)?;
    if attendees.is_empty() {
        return Err("You are in it already.".to_owned());
    }
    builder.push(
        json!({"operation": "calendar.change", "event": event.to_string(), "title": null, "start": null,
        "end": null, "location": null, "add_attendees": attendees}),
    );
    Ok(())
}

fn create_with(
    target: &[Word],
    list: &[Who],
    found: &Found,
    builder: &mut Builder<'_>,
) -> Result<(), Refusal> {
    let name = target
        .iter()
        .zip(&found.used)
        .find(|(word, used)| !**used && is_noun(word))
        .map_or_else(|| "Meeting".to_owned(), |(word, _)| capitalised(&word.low));
    let names: Vec<String> = list.iter().filter_map(|who| builder.display(who)).collect();
    let attendees = attendees(list, builder)?;
    builder.push(json!({"operation": "calendar.create", "title": format!("{name} with {}", names.join(" and ")),
        "start": found.start(builder.now()).ok_or(WHEN)?, "end": found.end(builder.now()), "attendees": attendees,
        "location": null, "description": null}));
    Ok(())
}

//! Rules in place of a model: a command and the session it belongs to become a
//! plan, or a polite refusal.
//!
//! The rules are meant for plain commands of the kind people give; they would
//! rather decline than guess. Every plan they make passes [`check`].

mod acts;
mod annotated;
mod build;
mod clause;
mod events;
mod files;
mod mail;
mod plan;
mod send;
mod time;
mod words;

pub(crate) use annotated::Annotations;
pub(crate) use build::Context;
pub(crate) use plan::{Plan, check};
pub(crate) use time::MONTHS;

use build::{Builder, Refusal, kind_of, which};
use clause::Clause;
use plan::{Kind, STEPS_MAX};
use words::{THINGS, Word, low};

/// What is said to everything else.
const NOT_OURS: &str =
    "I can help with your mail, your calendar and your files, but I do not know how to do that.";

/// The plan for `command`.
pub(crate) fn plan(command: &str, context: &Context) -> Plan {
    let words = words::words(command);
    let mut builder = Builder::new(context);
    for clause in clause::split(&words) {
        builder.begin_clause(clause.then);
        if let Err(reason) = carry_out(command, &clause, &mut builder) {
            return Plan::Decline(reason);
        }
    }
    finish(builder)
}

/// The first day and the time of day that a text names, if it names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NamedTime {
    /// The day.
    pub(crate) day: Option<jiff::civil::Date>,
    /// The last day, of several.
    pub(crate) last_day: Option<jiff::civil::Date>,
    /// Hour and minute.
    pub(crate) minute: Option<(i8, i8)>,
}

/// What a text that is nothing but a time means at `now`; `None` when it is not understood.
pub(crate) fn named_time(text: &str, now: jiff::civil::DateTime) -> Option<NamedTime> {
    let found = time::find(&words::words(text), now, true);
    let named = NamedTime {
        day: found.days.map(|days| days.from),
        last_day: found.days.map(|days| days.to),
        minute: found.time.map(|time| (time.hour(), time.minute())),
    };
    (named.day.is_some() || named.minute.is_some()).then_some(named)
}

fn finish(builder: Builder<'_>) -> Plan {
    match builder.steps.len() {
        0 => Plan::Decline(NOT_OURS.to_owned()),
        1..=STEPS_MAX => Plan::Act(builder.steps),
        _ => Plan::Decline("That is too much at once; please ask for fewer things in one go.".to_owned()),
    }
}

fn not_ours() -> Refusal {
    NOT_OURS.to_owned()
}

/// What a clause asks for.
#[derive(Debug, PartialEq, Eq)]
enum Intent {
    Reply,
    Send,
    Invite,
    Create,
    Change,
    Delete,
    Read,
    Forward,
    Share,
    Label,
    Draft,
    Keep,
    Put,
    Export,
    Busy,
    Query,
}

fn carry_out(source: &str, clause: &Clause, builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let words = clause.words.as_slice();
    match intent(words) {
        Intent::Reply => send::reply(source, words, builder),
        Intent::Send => send::send(source, words, builder),
        Intent::Invite => events::invite(words, builder),
        Intent::Create => events::create(source, words, builder),
        Intent::Change => events::change(source, words, builder),
        Intent::Delete if acts::is_thrown_away(words) => acts::throw_away(words, builder),
        Intent::Delete => events::delete(words, builder),
        Intent::Read => read(words, builder),
        Intent::Forward => acts::forward(source, words, builder),
        Intent::Share => acts::share(words, builder),
        Intent::Label => acts::label(source, words, builder),
        Intent::Draft => acts::draft(source, words, builder),
        Intent::Keep => acts::keep(source, words, builder),
        Intent::Put => acts::put(words, builder),
        Intent::Export => acts::export(words, builder),
        Intent::Busy => acts::busy(words, builder),
        Intent::Query => query(words, builder),
    }
}

fn intent(words: &[Word]) -> Intent {
    let has = |list: &[&str]| words.iter().any(|word| word.any(list));
    match (low(words, 0), low(words, 1)) {
        ("reply" | "respond", _) | ("write", "back") => Intent::Reply,
        ("answer", next) if !matches!(next, "the" | "my") || has(words::MAIL_NOUNS) => Intent::Reply,
        ("forward", _) => Intent::Forward,
        ("share", _) => Intent::Share,
        ("label" | "star" | "unstar" | "archive", _) => Intent::Label,
        ("mark", "it" | "that" | "the" | "this") => Intent::Label,
        ("draft", _) => Intent::Draft,
        ("create" | "make" | "save", _) if acts::is_kept(words) => Intent::Keep,
        ("is" | "are", _) if acts::asks_after(words) => Intent::Busy,
        ("when" | "when's", _) if acts::asks_after(words) => Intent::Busy,
        ("send" | "give" | "show", _) if low(words, 0) == "send" => Intent::Send,
        ("write" | "compose" | "tell" | "ask" | "inform" | "notify" | "message", _) => Intent::Send,
        ("let", _) if has(&["know"]) => Intent::Send,
        ("mail" | "email", next)
            if !next.is_empty() && !matches!(next, "from" | "about" | "of" | "on" | "with") =>
        {
            Intent::Send
        }
        ("invite", _) => Intent::Invite,
        ("add", _) if words.iter().any(|w| w.is("to")) && events::adds_people(words) => Intent::Invite,
        ("export" | "download", _) => Intent::Export,
        ("move" | "put", _) if acts::is_put(words) => Intent::Put,
        ("move" | "reschedule" | "postpone" | "shift" | "rename" | "change" | "push", _) => Intent::Change,
        ("cancel" | "delete" | "remove" | "erase" | "clear" | "drop" | "trash", _)
        | ("call", "off")
        | ("get", "rid") => Intent::Delete,
        (
            "put" | "schedule" | "create" | "add" | "book" | "plan" | "arrange" | "make" | "set" | "remind"
            | "block" | "organise" | "organize",
            _,
        ) => Intent::Create,
        ("read" | "open" | "summarise" | "summarize", _) => Intent::Read,
        ("what" | "what's", _) if has(&["say", "says", "said", "write", "wrote", "contain", "contains"]) => {
            Intent::Read
        }
        ("show" | "give", _) if which(words).is_some() => Intent::Read,
        ("show", _) if words.len() <= 3 && words.last().is_some_and(|word| word.any(THINGS)) => Intent::Read,
        _ => Intent::Query,
    }
}

/// What a clause is about: the first of mail and file named in it, or else events.
fn subject_kind(words: &[Word]) -> Option<Kind> {
    let kinds = || words.iter().filter(|word| !word.quoted).filter_map(kind_of);
    kinds().find(|kind| *kind != Kind::Event).or_else(|| kinds().next())
}

/// Finding things out.
fn query(words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let first = low(words, 0);
    match subject_kind(words) {
        Some(Kind::Message) => mail::search(words, builder),
        // "how long is the drive to work"
        Some(Kind::File) if first == "how" && low(words, 1) != "many" => Err(not_ours()),
        Some(Kind::File) => files::search(words, builder),
        Some(Kind::Event) if is_question(words) && events::asked_for(words, builder) => {
            events::list(words, builder)
        }
        // "what do I have tomorrow", "am I free on Friday"
        None if matches!(
            first,
            "what" | "what's" | "whats" | "do" | "am" | "anything" | "is" | "are" | "when"
        ) =>
        {
            events::list_without_noun(words, builder)
        }
        _ => Err(not_ours()),
    }
}

/// Whether a clause about events asks for them, rather than mentions one.
fn is_question(words: &[Word]) -> bool {
    const OPENINGS: [&str; 32] = [
        "what", "what's", "whats", "when", "when's", "which", "how", "do", "did", "is", "are", "am", "any",
        "show", "list", "find", "search", "look", "check", "get", "give", "who", "where", "my", "see",
        "have", "the", "fetch", "upcoming", "next", "will", "display",
    ];
    OPENINGS.contains(&low(words, 0))
}

/// Reading what was found.
fn read(words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let kind = subject_kind(words);
    if let Some((which, named)) = which(words) {
        let (item, kind) = builder.nth(named.or(kind), which)?;
        return read_item(item, kind, builder);
    }
    match kind {
        Some(Kind::Message) => mail::read(words, builder),
        Some(Kind::File) => files::read(words, builder),
        Some(Kind::Event) => events::list(words, builder),
        None if words.iter().any(|word| word.any(THINGS)) && words.len() <= 6 => {
            let (item, kind) = builder.newest_of_any().ok_or("I do not know what you mean.")?;
            read_item(item, kind, builder)
        }
        None if matches!(low(words, 0), "what" | "what's") => mail::read(words, builder),
        None => Err(not_ours()),
    }
}

fn read_item(item: plan::Ref, kind: Kind, builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let item = item.to_string();
    let call = match kind {
        Kind::Message => serde_json::json!({"operation": "gmail.read", "message": item}),
        Kind::File => serde_json::json!({"operation": "drive.read", "file": item}),
        Kind::Event => return Err("I have told you all I know about that event.".to_owned()),
    };
    builder.push(call);
    Ok(())
}

/// The words that carry the topic: neither used nor small nor `generic`.
fn topic(words: &[Word], used: &[bool], generic: impl Fn(&Word) -> bool) -> Vec<String> {
    words
        .iter()
        .zip(used)
        .filter(|(word, used)| {
            !**used
                && !word.is_punctuation()
                && !word.any(words::STOP_WORDS)
                && !word.is_email()
                && !generic(word)
        })
        .map(|(word, _)| {
            word.low
                .replace(['"', '(', ')', '{', '}', ':', '\\'], " ")
                .trim()
                .trim_start_matches('-')
                .to_owned()
        })
        .filter(|word| !word.is_empty())
        .collect()
}

#[cfg(test)]
mod tests;

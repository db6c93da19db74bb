//! A plan while it is made: steps so far, the session they may refer to, and how
//! pronouns, names and "the second one" find what they stand for.

use jiff::civil::DateTime;
use serde_json::{Value, json};

use super::plan::{Kind, Ref, Step, count_max, produces, tidy};
use super::time;
use super::words::{MAIL_NOUNS, PRONOUNS, STOP_WORDS, Word, capitalised, is_noun, low, ordinal};

/// An item of an earlier turn.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) handle: String,
    pub(super) kind: Kind,
    /// Name and address as shown, such as `Anna Berg <anna.berg@example.com>`.
    pub(super) person: Option<String>,
    pub(super) when: Option<String>,
}

/// What the gateway says about the session.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(super) now: DateTime,
    /// The items of each turn, newest turn last.
    pub(super) turns: Vec<Vec<Item>>,
}

impl Context {
    /// A session without history.
    pub(crate) fn at(now: DateTime) -> Self {
        Self { now, turns: Vec::new() }
    }

    /// Reads the JSON after `Context: `; what it does not say is taken as absent.
    pub(crate) fn from_json(json: &Value) -> Self {
        let now = json["now"].as_str().and_then(|now| match time::parse_when(now)? {
            (day, Some(time)) => Some(day.to_datetime(time)),
            (day, None) => Some(day.at(0, 0, 0, 0)),
        });
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let item = |item: &Value| {
            Some(Item {
                handle: text(&item["handle"])?,
                kind: Kind::from_name(item["kind"].as_str()?)?,
                person: text(&item["person"]).filter(|person| person.contains('@')),
                when: text(&item["when"]),
            })
        };
        let items = |turn: &Value| turn["items"].as_array().into_iter().flatten().filter_map(item).collect();
        Self {
            now: now.unwrap_or_else(time::fallback_now),
            turns: json["recent"].as_array().into_iter().flatten().map(items).collect(),
        }
    }

    pub(super) fn item(&self, handle: &str) -> Option<&Item> {
        self.turns.iter().rev().flatten().find(|item| item.handle == handle)
    }
}

/// Why a command cannot be carried out, as the user is told.
pub(super) type Refusal = String;

const TOO_FEW: &str = "There are not that many.";

/// Somebody as the command names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Who {
    Address(String),
    Name(String),
    Pronoun,
    Myself,
}

/// The plan so far.
pub(super) struct Builder<'a> {
    pub(super) context: &'a Context,
    pub(super) steps: Vec<Step>,
    /// For each step, the name it searched for.
    names: Vec<Option<String>>,
    /// The step that this clause was said to follow ("then").
    follows: Option<usize>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(context: &'a Context) -> Self {
        Self { context, steps: Vec::new(), names: Vec::new(), follows: None }
    }

    pub(super) fn now(&self) -> DateTime {
        self.context.now
    }

    /// Starts a clause; `then` makes it wait for what came before.
    pub(super) fn begin_clause(&mut self, then: bool) {
        self.follows = self.steps.len().checked_sub(1).filter(|_| then);
    }

    /// Adds a step and gives its index.
    pub(super) fn push(&mut self, call: Value) -> usize {
        self.push_named(call, None)
    }

    pub(super) fn push_named(&mut self, call: Value, name: Option<String>) -> usize {
        // A step that uses results waits for them anyway.
        let call = tidy(call);
        let waits = call.to_string().contains("\"$s");
        let after = self.follows.filter(|_| !waits).into_iter().collect();
        self.steps.push(Step { after, call });
        self.names.push(name);
        self.steps.len() - 1
    }

    fn last_step(&self, fits: impl Fn(&Step) -> bool) -> Option<usize> {
        self.steps.iter().rposition(fits)
    }

    /// The newest item of this kind: of this plan, or else of the session.
    pub(super) fn newest(&self, kind: Kind) -> Option<Ref> {
        if let Some(step) = self.last_step(|step| produces(step.operation()) == Some(kind)) {
            return Some(Ref::Step(step, 0));
        }
        let items =
            self.context.turns.iter().rev().find_map(|turn| turn.iter().find(|item| item.kind == kind));
        items.map(|item| Ref::Item(item.handle.clone()))
    }

    /// The newest item of any kind.
    pub(super) fn newest_of_any(&self) -> Option<(Ref, Kind)> {
        if let Some((step, kind)) =
            self.steps.iter().enumerate().rev().find_map(|(at, step)| Some((at, produces(step.operation())?)))
        {
            return Some((Ref::Step(step, 0), kind));
        }
        let item = self.context.turns.iter().rev().find_map(|turn| turn.first())?;
        Some((Ref::Item(item.handle.clone()), item.kind))
    }

    /// Item `index` (from 0, or the last) of the newest list, of this kind if one is said.
    pub(super) fn nth(&self, kind: Option<Kind>, which: Which) -> Result<(Ref, Kind), Refusal> {
        let listing =
            |step: &Step| step.operation().ends_with(".search") || step.operation() == "calendar.list";
        let fits = |step: &Step| {
            listing(step) && produces(step.operation()).is_some_and(|k| kind.is_none_or(|kind| kind == k))
        };
        if let (Some(step), Which::At(index)) = (self.last_step(fits), which)
            && let Some(kind) = produces(self.steps[step].operation())
        {
            let exists = u64::try_from(index).is_ok_and(|index| index < count_max(&self.steps[step].call));
            return if exists { Ok((Ref::Step(step, index), kind)) } else { Err(TOO_FEW.to_owned()) };
        }
        let of_kind = |turn: &'a Vec<Item>| -> Vec<&'a Item> {
            turn.iter().filter(|item| kind.is_none_or(|kind| kind == item.kind)).collect()
        };
        let lists = self.context.turns.iter().rev().map(of_kind);
        let list =
            lists.clone().find(|list| list.len() > 1).or_else(|| lists.clone().find(|list| !list.is_empty()));
        let list = list.ok_or("There is nothing here yet to choose from.")?;
        let item = match which {
            Which::At(index) => list.get(index),
            Which::Last => list.last(),
        };
        item.map(|item| (Ref::Item(item.handle.clone()), item.kind)).ok_or_else(|| TOO_FEW.to_owned())
    }

    /// Whoever was spoken of last: how to reach them, and their name when it is known.
    pub(super) fn last_person(&self) -> Option<(String, Option<String>)> {
        let with_person =
            |step: &Step| matches!(produces(step.operation()), Some(Kind::Message | Kind::Event));
        if let Some(step) = self.last_step(with_person) {
            return Some((Ref::Step(step, 0).person(), self.names[step].as_deref().map(title_case)));
        }
        let item = self.context.turns.iter().rev().flatten().find(|item| item.person.is_some())?;
        let name =
            item.person.as_deref().map(|person| person.split('<').next().unwrap_or(person).trim().to_owned());
        Some((Ref::Item(item.handle.clone()).person(), name.filter(|name| !name.is_empty())))
    }

    /// The address of whoever was spoken of last in the session, for a search.
    pub(super) fn last_address(&self) -> Option<String> {
        if let Some(name) = self.names.iter().rev().flatten().next() {
            return Some(name.clone());
        }
        let item = self.context.turns.iter().rev().flatten().find(|item| item.person.is_some())?;
        let person = item.person.as_deref()?;
        Some(person.rsplit('<').next()?.trim_end_matches('>').to_owned())
    }

    /// A recipient: an address, or a reference to the person of an item.
    pub(super) fn recipient(&mut self, who: &Who) -> Result<String, Refusal> {
        match who {
            Who::Address(address) => Ok(address.clone()),
            Who::Pronoun => self
                .last_person()
                .map(|(reference, _)| reference)
                .ok_or_else(|| "I do not know whom you mean.".to_owned()),
            Who::Myself => Ok(self.search_person("me")),
            Who::Name(name) => Ok(self.search_person(name)),
        }
    }

    /// The person of the newest mail from `name`, found by a step of its own unless
    /// one is there already.
    fn search_person(&mut self, name: &str) -> String {
        let known = self.names.iter().position(|known| known.as_deref() == Some(name));
        let step = known.unwrap_or_else(|| {
            let call = json!({"operation": "gmail.search", "query": format!("from:{}", search_value(name)), "limit": 1});
            self.push_named(call, Some(name.to_owned()))
        });
        Ref::Step(step, 0).person()
    }

    /// How the person is called in a title.
    pub(super) fn display(&self, who: &Who) -> Option<String> {
        match who {
            Who::Address(address) => Some(address.clone()),
            Who::Name(name) => Some(title_case(name)),
            Who::Pronoun => self
                .last_person()
                .and_then(|(_, name)| name)
                .map(|name| name.split(' ').next().unwrap_or(&name).to_owned()),
            Who::Myself => None,
        }
    }
}

/// Which of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// From 0.
    At(usize),
    Last,
}

/// "the second one", "the first mail", "number two", "the last one": which is meant,
/// and of what kind when that is said.
pub(super) fn which(words: &[Word]) -> Option<(Which, Option<Kind>)> {
    for index in 0..words.len() {
        let (which, at) = if let Some((number, taken)) = ordinal(words, index) {
            let number = usize::try_from(number).ok()?.checked_sub(1)?;
            (Which::At(number), index + taken)
        } else if words[index].is("last") {
            (Which::Last, index + 1)
        } else if words[index].is("number") {
            let (number, taken) = super::words::number(words, index + 1)?;
            return Some((Which::At(usize::try_from(number).ok()?.checked_sub(1)?), None))
                .filter(|_| taken > 0);
        } else {
            continue;
        };
        let rest = &words[at.min(words.len())..];
        let next = rest.first();
        if next.is_none_or(|word| word.is("one") || word.is_punctuation()) {
            return Some((which, None));
        }
        // "the last mail" is the newest, not the last of a list.
        if let Some(kind) = next.and_then(kind_of).filter(|_| which != Which::Last) {
            return Some((which, Some(kind)));
        }
    }
    None
}

/// The kind of thing a noun names.
pub(super) fn kind_of(word: &Word) -> Option<Kind> {
    if word.any(MAIL_NOUNS) {
        Some(Kind::Message)
    } else if word.any(super::words::FILE_NOUNS) {
        Some(Kind::File)
    } else {
        is_noun(word).then_some(Kind::Event)
    }
}

/// A value for `from:` and its like.
pub(super) fn search_value(name: &str) -> String {
    if name.contains(' ') { format!("({name})") } else { name.to_owned() }
}

/// `anna berg` as `Anna Berg`.
pub(super) fn title_case(name: &str) -> String {
    name.split(' ').map(capitalised).collect::<Vec<_>>().join(" ")
}

/// People at `index`: `anna`, `Anna Berg and ben`, `her`, an address; and the
/// index after them.
pub(super) fn people(words: &[Word], used: &[bool], index: usize) -> Option<(Vec<Who>, usize)> {
    let mut list = Vec::new();
    let mut at = index;
    loop {
        let begin = at + usize::from(matches!(low(words, at), "my" | "the" | "our" | "to"));
        let Some((who, end)) = person(words, used, begin) else { break };
        list.push(who);
        at = end;
        let joined = matches!(low(words, at), "and" | "," | "&");
        let comma_and = usize::from(low(words, at) == "," && low(words, at + 1) == "and");
        if !joined || person(words, used, at + 1 + comma_and).is_none() {
            break;
        }
        at += 1 + comma_and;
    }
    (!list.is_empty()).then_some((list, at))
}

fn person(words: &[Word], used: &[bool], at: usize) -> Option<(Who, usize)> {
    let word = words.get(at).filter(|_| !used.get(at).copied().unwrap_or(false))?;
    if word.is_email() {
        return Some((Who::Address(word.low.clone()), at + 1));
    }
    if word.any(PRONOUNS) {
        return Some((Who::Pronoun, at + 1));
    }
    if word.any(&["me", "myself"]) {
        return Some((Who::Myself, at + 1));
    }
    if !is_name(word) {
        return None;
    }
    let second = words.get(at + 1).filter(|second| {
        !word.possessive
            && is_name(second)
            && !used.get(at + 1).copied().unwrap_or(false)
            && if word.capital { second.capital } else { !second.capital && at_boundary(words, used, at + 2) }
    });
    Some(match second {
        Some(second) => (Who::Name(format!("{} {}", word.low, second.low)), at + 2),
        None => (Who::Name(word.low.clone()), at + 1),
    })
}

/// Whether a name may end before `at`.
fn at_boundary(words: &[Word], used: &[bool], at: usize) -> bool {
    let Some(word) = words.get(at) else { return true };
    used.get(at).copied().unwrap_or(false)
        || word.is_punctuation()
        || word.any(&[
            "about",
            "regarding",
            "saying",
            "that",
            "and",
            "to",
            "on",
            "from",
            "with",
            "subject",
            "telling",
            "at",
            "in",
            "for",
        ])
}

/// A word that can be a name: no noun, verb or small word that the rules know.
fn is_name(word: &Word) -> bool {
    let plain = word.low.chars().all(|c| c.is_alphabetic() || matches!(c, '.' | '-'))
        && word.low.chars().any(char::is_alphabetic);
    plain
        && !word.quoted
        && !word.any(STOP_WORDS)
        && !is_noun(word)
        && !word.any(&super::clause::VERBS)
        && !word.any(&NOT_NAMES)
}

const NOT_NAMES: [&str; 26] = [
    "saying", "telling", "asking", "i'll", "i'd", "we'll", "we're", "he's", "she's", "they're", "don't",
    "can't", "won't", "yes", "no", "ok", "okay", "thanks", "thank", "sorry", "whether", "body", "title",
    "phone", "everyone", "somebody",
];

//! Searching and reading mail.

use serde_json::json;

use super::build::{Builder, Refusal, Which, Who, people, search_value};
use super::clause::VERBS;
use super::plan::{Kind, Ref};
use super::time::{self, Days};
use super::words::{MAIL_NOUNS, Word, low, number};

/// Messages asked for when nobody says how many.
const LIMIT: u64 = 5;
/// A step gives at most this many.
const LIMIT_MAX: u64 = 20;

/// A search as it is put together.
#[derive(Debug, Default)]
pub(super) struct Search {
    terms: Vec<String>,
    topic: Vec<String>,
    pub(super) limit: u64,
    /// Whose mail it is, for "her" later on.
    pub(super) from: Option<String>,
}

impl Search {
    /// Gmail's syntax for it; what is not narrowed is the inbox.
    pub(super) fn query(&self) -> String {
        let terms: Vec<&str> = self.terms.iter().chain(&self.topic).map(String::as_str).collect();
        if terms.is_empty() { "in:inbox".to_owned() } else { terms.join(" ") }
    }

    pub(super) fn is_open(&self) -> bool {
        self.terms.is_empty() && self.topic.is_empty()
    }

    pub(super) fn push(&self, builder: &mut Builder<'_>) -> usize {
        let call = json!({"operation": "gmail.search", "query": self.query(), "limit": self.limit});
        builder.push_named(call, self.from.clone())
    }
}

/// "find the mail from Anna about the budget"
pub(super) fn search(words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let search = read_search(words, builder)?;
    search.push(builder);
    Ok(())
}

/// "read the mail from Anna", "open it", "what did Anna write"
pub(super) fn read(words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let search = read_search(words, builder)?;
    let pointing = words.iter().any(|word| word.any(&["that", "this", "it", "the", "her", "his", "their"]));
    let item = match builder.newest(Kind::Message) {
        Some(newest) if pointing && search.is_open() => newest,
        // "what did she say" without mail, and "what does a mayor say"
        _ if search.from.is_none() && !words.iter().any(|word| word.any(MAIL_NOUNS)) => {
            return Err(super::not_ours());
        }
        _ => Ref::Step(search.push(builder), 0),
    };
    builder.push(json!({"operation": "gmail.read", "message": item.to_string()}));
    Ok(())
}

/// Makes a search of what a clause says.
pub(super) fn read_search(words: &[Word], builder: &Builder<'_>) -> Result<Search, Refusal> {
    let found = time::find(words, builder.now(), false);
    let mut used = found.used.clone();
    let mut search = Search { limit: limit(words), ..Search::default() };
    for index in 0..words.len() {
        if !used[index] {
            take(words, index, &mut used, &mut search, builder)?;
        }
    }
    flags(words, &mut used, &mut search);
    counts(words, &mut used);
    if let Some(days) = found.days {
        search.terms.extend(dates(days, found.open, builder));
    }
    let generic = |word: &Word| word.any(MAIL_NOUNS) || word.any(&VERBS) || word.any(&GENERIC);
    search.topic = super::topic(words, &used, generic);
    Ok(search)
}

/// Words that carry no topic where mail is asked for.
const GENERIC: [&str; 13] = [
    "account",
    "box",
    "regards",
    "thread",
    "threads",
    "conversation",
    "sender",
    "people",
    "person",
    "folder",
    "everything",
    "text",
    "arrived",
];

/// Takes the operator that begins at `index`, if one does.
fn take(
    words: &[Word],
    index: usize,
    used: &mut [bool],
    search: &mut Search,
    builder: &Builder<'_>,
) -> Result<(), Refusal> {
    let word = &words[index];
    let near_mail = || words[index + 1..].iter().take(3).any(|word| word.any(MAIL_NOUNS));
    let wrote = |at: usize| matches!(low(words, at), "write" | "wrote" | "say" | "said" | "send" | "sent");
    let (name, begin) = if word.any(&["from", "by"]) {
        ("from", index + 1)
    } else if word.is("to") && !wrote(index + 1) {
        ("to", index + 1)
    } else if (word.possessive && near_mail()) || wrote(index + 1) {
        ("from", index)
    } else {
        return Ok(());
    };
    let Some((list, end)) = people(words, used, begin) else { return Ok(()) };
    let mut values = Vec::new();
    for who in &list {
        values.push(match who {
            Who::Address(address) => address.clone(),
            Who::Name(name) => name.clone(),
            Who::Myself => "me".to_owned(),
            Who::Pronoun => builder.last_address().ok_or("I do not know whom you mean.")?,
        });
    }
    used[index..end].fill(true);
    if name == "to" && values == ["me"] {
        // "read to me", "mail to me": that is what the inbox is.
        return Ok(());
    }
    if name == "from" && values.len() == 1 {
        search.from = values.first().cloned();
    }
    let value = match values.as_slice() {
        [one] => search_value(one),
        // "from Anna and Ben" is from either.
        several => {
            let several: Vec<String> = several
                .iter()
                .map(|v| if v.contains(' ') { format!("\"{v}\"") } else { v.clone() })
                .collect();
            format!("({})", several.join(" OR "))
        }
    };
    search.terms.push(format!("{name}:{value}"));
    Ok(())
}

fn flags(words: &[Word], used: &mut [bool], search: &mut Search) {
    let said = |list: &[&str]| words.iter().zip(used.iter()).any(|(word, used)| !used && word.any(list));
    let mut terms: Vec<&str> = Vec::new();
    if said(&["unread", "new"]) {
        terms.push("is:unread");
    }
    if said(&["starred"]) {
        terms.push("is:starred");
    }
    if said(&["important"]) {
        terms.push("is:important");
    }
    if said(&["attachment", "attachments", "attached"]) {
        terms.push("has:attachment");
    }
    let i_sent =
        words.windows(2).any(|pair| pair[0].is("i") && pair[1].any(&["sent", "send", "wrote", "mailed"]));
    if i_sent || words.windows(2).any(|pair| pair[0].is("sent") && pair[1].any(MAIL_NOUNS)) {
        terms.push("in:sent");
    }
    search.terms.extend(terms.into_iter().map(str::to_owned));
}

/// Uses up the numbers that say how many, as in "three mails".
fn counts(words: &[Word], used: &mut [bool]) {
    for index in 0..words.len() {
        if let Some((_, taken)) = number(words, index)
            && words
                .get(index + taken)
                .is_some_and(|word| word.any(MAIL_NOUNS) || word.any(&["unread", "new"]))
        {
            used[index..index + taken].fill(true);
        }
    }
}

/// `after:` and `before:` for a stretch of days.
fn dates(days: Days, open: bool, builder: &Builder<'_>) -> Vec<String> {
    let mut terms = vec![format!("after:{}", days.from.strftime("%Y/%m/%d"))];
    if !open && days.to <= builder.now().date() {
        terms.push(format!("before:{}", days.to.strftime("%Y/%m/%d")));
    }
    terms
}

/// How many are asked for: "the last mail" is one, "the last three mails" three.
fn limit(words: &[Word]) -> u64 {
    if words.iter().any(|word| word.any(&["all", "every"])) {
        return LIMIT_MAX;
    }
    for (index, word) in words.iter().enumerate() {
        if !word.any(&["last", "latest", "newest", "recent"]) {
            continue;
        }
        if let Some((count, taken)) = number(words, index + 1)
            && words.get(index + 1 + taken).is_some_and(|word| word.any(MAIL_NOUNS) || word.is("unread"))
        {
            return u64::try_from(count).unwrap_or(LIMIT).clamp(1, LIMIT_MAX);
        }
        if words.get(index + 1).is_some_and(|word| word.any(&["mail", "email", "e-mail", "message"])) {
            return 1;
        }
    }
    LIMIT
}

/// The message a reply goes to: the one pointed at, or the newest of a search.
pub(super) fn target(words: &[Word], builder: &mut Builder<'_>) -> Result<Ref, Refusal> {
    if let Some((which, _)) = super::which(words) {
        // "the latest one" is the newest.
        if !(which == Which::Last && builder.newest(Kind::Message).is_none()) {
            return builder.nth(Some(Kind::Message), which).map(|(item, _)| item);
        }
    }
    let found = time::find(words, builder.now(), false);
    let begin = words.iter().position(|word| word.is("to")).map_or(0, |at| at + 1);
    let describes = words.iter().any(|word| word.any(MAIL_NOUNS) || word.is("from"));
    let named = people(words, &found.used, begin);
    if let Some((list, _)) = named.filter(|_| !describes || !words.iter().any(|word| word.is("from")))
        && let [Who::Name(_) | Who::Address(_)] = list.as_slice()
        && let Some(Who::Name(name) | Who::Address(name)) = list.first()
    {
        let search = Search {
            terms: vec![format!("from:{}", search_value(name))],
            limit: 1,
            from: Some(name.clone()),
            ..Search::default()
        };
        return Ok(Ref::Step(search.push(builder), 0));
    }
    let search = read_search(words, builder)?;
    if search.is_open() {
        if let Some(newest) = builder.newest(Kind::Message) {
            return Ok(newest);
        }
        if !describes {
            return Err("I do not know which message you mean.".to_owned());
        }
    }
    let search = Search { limit: 1, ..search };
    Ok(Ref::Step(search.push(builder), 0))
}

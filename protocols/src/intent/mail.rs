//! Commands about mail: what came, reading one, sending and answering.
//!
//! Times in a search are seconds since 1970: Gmail takes a date as a midnight of its own, not of the user's.

use jiff::{Span, ToSpan as _, ZonedDateTime};

use super::people::{Who, owner, sentence, topic, who};
use super::when::{When, cardinal, when};
use super::words::Scan;
use super::{Guess, Setting, reference};
use crate::plan::{
    EmailAddress, ItemKind, ItemRef, LIMIT_MAX, Operation, Recipient, StepId, TITLE_CHARS_MAX,
};

/// Messages a search brings.
const MESSAGES: u8 = 10;
/// Words of a text that make its subject, when none is given.
const SUBJECT_WORDS: usize = 8;

const ONE: &[&str] = &["email", "e-mail", "mail", "message"];
const MANY: &[&str] = &["emails", "e-mails", "mails", "messages", "mail", "email"];

/// What is looked for.
#[derive(Clone, Debug, Default)]
struct Filter {
    unread: bool,
    important: bool,
    starred: bool,
    inbox: bool,
    /// The last one alone.
    newest: bool,
    /// Said of one: "the mail".
    single: bool,
    /// "messages", which need not be mail.
    vague: bool,
    count: Option<u8>,
    from: Option<Who>,
    topic: Option<String>,
    after: Option<i64>,
    before: Option<i64>,
}

impl Filter {
    fn query(&self) -> String {
        let mut terms = Vec::new();
        terms.extend(self.from.as_ref().map(Who::sender));
        terms.extend(self.topic.clone());
        for (wanted, term) in [
            (self.unread, "is:unread"),
            (self.important, "is:important"),
            (self.starred, "is:starred"),
            (self.inbox, "in:inbox"),
        ] {
            if wanted {
                terms.push(term.to_owned());
            }
        }
        terms.extend(self.after.map(|at| format!("after:{at}")));
        terms.extend(self.before.map(|at| format!("before:{at}")));
        terms.join(" ")
    }

    fn limit(&self) -> u8 {
        if self.newest && self.count.is_none() { 1 } else { self.count.unwrap_or(MESSAGES) }
    }

    fn search(&self) -> Operation {
        Operation::GmailSearch { query: self.query(), limit: self.limit() }
    }

    fn narrows(&self) -> bool {
        self.unread
            || self.important
            || self.starred
            || self.from.is_some()
            || self.topic.is_some()
            || self.after.is_some()
    }
}

pub(super) fn parse(scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    read_reference(scan, setting)
        .or_else(|| counted(scan, setting))
        .or_else(|| asked(scan, setting))
        .or_else(|| sent_by(scan, setting))
        .or_else(|| inbox(scan))
        .or_else(|| shown(scan, setting))
}

fn read_reference(mut scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    if !scan.phrase(&["read me", "show me", "read", "open", "show"]) {
        return None;
    }
    let meant = reference::item(&mut scan, ItemKind::Message, setting)?;
    let call = Operation::GmailRead { message: ItemRef::Session(meant.handle) };
    if scan.is_done() { Guess::new("mail.read", meant.thousandths, vec![call]) } else { None }
}

/// "How many unread emails do I have from Anna today".
fn counted(mut scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    if !scan.phrase(&["how many"]) {
        return None;
    }
    let mut filter = described(&mut scan)?;
    if filter.newest || filter.count.is_some() {
        return None;
    }
    scan.phrase(&[
        "do i have",
        "have i got",
        "have i received",
        "have i gotten",
        "did i get",
        "did i receive",
        "are there",
        "are",
    ]);
    narrowed(&mut scan, &mut filter, setting.now)?;
    filter.count = Some(LIMIT_MAX);
    listed("mail.count", 970, &filter)
}

/// "Do I have any new mail from Anna".
fn asked(mut scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    scan.phrase(&["tell me if", "let me know if", "see if", "check if", "check to see if", "check whether"]);
    let got = scan.phrase(&[
        "do i have",
        "have i got",
        "have i received",
        "have i gotten",
        "did i get",
        "did i receive",
        "are there",
        "is there",
        "i have",
        "i got",
        "there are",
        "there is",
    ]);
    if !got {
        return None;
    }
    let mut filter = described(&mut scan)?;
    narrowed(&mut scan, &mut filter, setting.now)?;
    listed("mail.asked", 970, &filter)
}

/// "Did Anna email me today", "who has emailed me".
fn sent_by(mut scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    scan.phrase(&["tell me if", "let me know if", "see if", "check if", "check to see if", "check whether"]);
    let asked = scan.any(&["did", "has", "have"]).is_some();
    let mut filter = Filter::default();
    if !asked {
        return None;
    }
    filter.from = Some(who(&mut scan)?);
    if scan.phrase(&["email me", "emailed me", "mailed me", "mail me"]) {
    } else if scan.any(&["send", "sent"]).is_some() {
        scan.eat("me");
        let described = described(&mut scan)?;
        filter = Filter { from: filter.from, ..described };
    } else {
        return None;
    }
    narrowed(&mut scan, &mut filter, setting.now)?;
    listed("mail.sent-by", 970, &filter)
}

/// "What is in my inbox", "check my inbox".
fn inbox(mut scan: Scan<'_>) -> Option<Guess> {
    let asked = scan.phrase(&[
        "what is new in",
        "what is in",
        "is there anything new in",
        "anything new in",
        "check",
        "show me",
        "show",
        "open",
        "go to",
        "see",
        "list",
        "read",
        "look at",
        "refresh",
    ]);
    if !asked {
        return None;
    }
    scan.any(&["my", "the"]);
    scan.any(&["email", "mail", "gmail"]);
    if !scan.eat("inbox") || !scan.is_done() {
        return None;
    }
    listed("mail.inbox", 970, &Filter { inbox: true, ..Filter::default() })
}

/// "Show me the new mails from Anna", "Anna's mails", "find the mail about the budget", "read the last mail".
fn shown(mut scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    let reads = scan.phrase(&["read out", "read me", "read", "open"]);
    let finds = !reads
        && scan.phrase(&[
            "search for",
            "look for",
            "look up",
            "search",
            "find me",
            "find",
            "show me",
            "show",
            "list",
            "get me",
            "get",
            "give me",
            "check for",
            "check on",
            "check",
            "see",
            "display",
            "pull up",
            "bring up",
            "tell me about",
            "tell me",
            "let me know about",
            "let me know",
            "let me see",
            "i want to see",
            "i need to see",
            "fetch",
            "scan",
            "review",
            "what are",
            "what is",
        ]);
    let mut filter = described(&mut scan)?;
    // "Charles's email" may be his address.
    if filter.from.is_some() && filter.single && !filter.newest && !filter.unread && !reads {
        return None;
    }
    let bare = !filter.narrows() && !filter.newest;
    narrowed(&mut scan, &mut filter, setting.now)?;
    if !reads && !finds && !filter.narrows() {
        // "Mail" alone may be an answer to a question.
        return None;
    }
    if reads && filter.single && (filter.newest || filter.from.is_some() || filter.topic.is_some()) {
        filter.newest = true;
        filter.count = None;
        let message = ItemRef::Result { step: StepId::new(1)?, index: 0 };
        return Guess::new(
            "mail.find-and-read",
            960,
            vec![filter.search(), Operation::GmailRead { message }],
        )
        .map(|guess| lowered(guess, &filter));
    }
    let thousandths = match (reads, finds, bare && !filter.narrows()) {
        (true, _, true) => 900,
        (true, ..) => 920,
        (_, true, true) => 950,
        (_, true, false) => 970,
        (_, false, _) => 940,
    };
    listed("mail.shown", thousandths, &filter)
}

fn listed(pattern: &'static str, thousandths: u16, filter: &Filter) -> Option<Guess> {
    Guess::new(pattern, thousandths, vec![filter.search()]).map(|guess| lowered(guess, filter))
}

/// Whom "my boss" is, the mailbox may not know; and messages need not be mail.
fn lowered(guess: Guess, filter: &Filter) -> Guess {
    let guess = if matches!(filter.from, Some(Who::Relation(_))) { guess.capped(930) } else { guess };
    if filter.vague { guess.capped(910) } else { guess }
}

/// Goes past the thing itself: "all my new mails", "Anna's last message".
fn described(scan: &mut Scan<'_>) -> Option<Filter> {
    let mut filter = Filter::default();
    let mut definite = false;
    for _each in 0..6 {
        if let Some(article) =
            scan.any(&["all", "of", "any", "some", "an", "a", "the", "my", "me", "up", "every"])
        {
            definite |= matches!(article.text.as_str(), "the" | "my");
        } else if scan.any(&["new", "unread", "unopened", "unseen", "unchecked"]).is_some() {
            filter.unread = true;
        } else if scan.any(&["recent", "received", "incoming"]).is_some() {
        } else if scan.any(&["important", "urgent"]).is_some() {
            filter.important = true;
        } else if scan.eat("starred") {
            filter.starred = true;
        } else if scan.any(&["last", "latest", "newest", "most recent"]).is_some() {
            filter.newest = true;
            let mut ahead = *scan;
            if let Some(count) = cardinal(&mut ahead).and_then(|count| u8::try_from(count).ok()) {
                filter.count = Some(count).filter(|count| (1..=LIMIT_MAX).contains(count));
                filter.count?;
                *scan = ahead;
            }
        } else if filter.from.is_none()
            && let Some(owner) = owner(scan)
        {
            filter.from = Some(owner);
            definite = true;
        } else {
            break;
        }
    }
    let single = scan.peek().is_some_and(|word| word.is_any(ONE));
    let noun = scan.any(MANY).or_else(|| scan.any(ONE))?;
    filter.vague = noun.text.starts_with("message");
    filter.single = single && definite;
    // "Mail", with "new" or "my" before it, is many.
    if noun.text == "mail" && !filter.newest && filter.from.is_none() && filter.unread {
        filter.single = false;
    }
    Some(filter)
}

/// Goes past what narrows a search, to the end; `None` when anything is left over.
fn narrowed(scan: &mut Scan<'_>, filter: &mut Filter, now: &ZonedDateTime) -> Option<()> {
    for _each in 0..6 {
        if scan.is_done() {
            return Some(());
        }
        if scan.phrase(&["in my inbox", "in the inbox", "in my mailbox", "in inbox"]) {
            filter.inbox = true;
        } else if scan.phrase(&[
            "that i received",
            "that i got",
            "i have received",
            "i have",
            "i received",
            "i got",
            "for me",
            "to me",
            "there",
        ]) {
        } else if scan.phrase(&["from", "by", "sent by", "that came from"]) {
            if filter.from.is_some() || filter.from.replace(who(scan)?).is_some() {
                return None;
            }
        } else if scan.phrase(&[
            "about",
            "regarding",
            "concerning",
            "with subject",
            "with the subject",
            "on the subject of",
        ]) {
            if filter.topic.replace(topic(scan)?.search).is_some() {
                return None;
            }
        } else {
            span(scan, filter, now)?;
        }
    }
    scan.is_done().then_some(())
}

/// Goes past a time in the past.
fn span(scan: &mut Scan<'_>, filter: &mut Filter, now: &ZonedDateTime) -> Option<()> {
    if filter.after.is_some() || filter.before.is_some() {
        return None;
    }
    let local = now.datetime();
    let seconds = |at: jiff::civil::DateTime| {
        at.to_zoned_datetime(now.time_zone().clone()).ok().map(|at| at.timestamp().as_second())
    };
    let mut ahead = *scan;
    ahead.any(&["in", "within", "during", "from", "over"]);
    if ahead.phrase(&["the last", "the past", "last"]) {
        let count = cardinal(&mut ahead).map_or(1, i64::from);
        let unit = ahead.any(&["minute", "minutes", "hour", "hours", "day", "days"])?;
        let span = match unit.text.as_str() {
            "minute" | "minutes" => Span::new().minutes(count),
            "hour" | "hours" => Span::new().hours(count),
            _ => Span::new().hours(count * 24),
        };
        filter.after = Some(now.checked_sub(span).ok()?.timestamp().as_second());
        *scan = ahead;
        return Some(());
    }
    let mut ahead = *scan;
    if ahead.phrase(&["this week", "from this week"]) {
        let back = i64::from(local.date().weekday().to_monday_zero_offset());
        let monday = local.date().checked_sub(back.days()).ok()?;
        filter.after = seconds(monday.at(0, 0, 0, 0));
        *scan = ahead;
        return filter.after.map(|_| ());
    }
    let since = ahead.any(&["since", "after"]).is_some();
    let when = when(&mut ahead, local).ok()??;
    let today = local.date();
    match when {
        // What is still to come has brought no mail.
        When::Days(from, to) if from <= today && to <= today => {
            filter.after = Some(seconds(when.start())?);
            if !since && to < today {
                filter.before = Some(seconds(when.end()?)?);
            }
        }
        When::Minutes(from, to) | When::Part(from, to) if from <= local => {
            filter.after = Some(seconds(from)?);
            if !since && to <= local {
                filter.before = Some(seconds(to)?);
            }
        }
        _ => return None,
    }
    *scan = ahead;
    Some(())
}

/// Mail with a text of the user's: everything after "saying".
pub(super) fn dictated(scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    reply(scan, setting).or_else(|| send(scan))
}

fn reply(mut scan: Scan<'_>, setting: &Setting<'_>) -> Option<Guess> {
    let answers = scan.phrase(&["reply to", "respond to", "answer", "write back to", "reply"]);
    if !answers {
        return None;
    }
    let meant = reference::message_of_person(&mut scan, setting)
        .or_else(|| reference::item(&mut scan, ItemKind::Message, setting))?;
    let (body, verbatim) = text(&mut scan)?;
    let message = ItemRef::Session(meant.handle);
    let thousandths = meant.thousandths.min(if verbatim { 1_000 } else { 960 });
    Guess::new("mail.reply", thousandths, vec![Operation::GmailReply { message, body }])
}

/// The text after "saying" or "that", and whether it is meant word for word.
fn text(scan: &mut Scan<'_>) -> Option<(String, bool)> {
    let verbatim = scan.phrase(&[
        "saying",
        "that says",
        "which says",
        "and say",
        "with the text",
        "with the message",
        "with text",
        "with",
    ]);
    // "That I will come" is said as "I will come" only in the first person.
    let that = scan.eat("that");
    let first_person = scan.peek().is_some_and(|word| word.is_any(&["i", "we", "the"]));
    let announced = verbatim || that;
    if !announced || (that && !first_person) {
        return None;
    }
    let text = scan.raw_rest();
    // Another command may follow.
    if text.is_empty() || goes_on(*scan) {
        return None;
    }
    Some((sentence(text)?, verbatim))
}

/// Whether a text may be followed by a command of its own: "saying hello and delete the meeting".
fn goes_on(mut scan: Scan<'_>) -> bool {
    const VERBS: &[&str] = &[
        "send", "delete", "cancel", "remove", "create", "add", "schedule", "put", "book", "remind",
        "forward", "reply", "invite", "find", "search", "show", "read", "open", "move", "copy", "cc", "bcc",
        "attach", "include", "set", "also", "tell", "email", "mail",
    ];
    while let Some(word) = scan.next() {
        let joins = word.is_any(&["and", "then"]) || (word.stop && !word.quoted);
        let mut ahead = scan;
        ahead.any(&["then", "also", "please", "and"]);
        if joins && ahead.any(VERBS).is_some() {
            return true;
        }
    }
    false
}

fn send(mut scan: Scan<'_>) -> Option<Guess> {
    let to = recipients(&mut scan)?;
    let (subject, body) = subject_and_body(&mut scan)?;
    match to {
        To::Addresses(to) => Guess::new("mail.send", 980, vec![Operation::GmailSend { to, subject, body }]),
        To::Name(who) => {
            // Who of that name wrote last need not be who is meant.
            let message = ItemRef::Result { step: StepId::new(1)?, index: 0 };
            let to = vec![Recipient::PersonOf(message)];
            let search = Operation::GmailSearch { query: who.sender(), limit: 1 };
            Guess::new("mail.send-by-name", 880, vec![search, Operation::GmailSend { to, subject, body }])
        }
    }
}

enum To {
    Addresses(Vec<Recipient>),
    Name(Who),
}

fn recipients(scan: &mut Scan<'_>) -> Option<To> {
    let mut ahead = *scan;
    let mail = ahead.phrase(&["send", "write", "compose and send"]) && {
        ahead.phrase(&["a new", "an", "a", "new"]);
        ahead.any(ONE).is_some() && ahead.eat("to")
    };
    if !mail {
        ahead = *scan;
        ahead.any(&["email", "e-mail", "mail"])?;
        ahead.eat("to");
    }
    let first = who(&mut ahead)?;
    let to = match first {
        Who::Relation(_) => return None,
        Who::Name(_) => To::Name(first),
        Who::Address(address) => To::Addresses(more(&mut ahead, address)?),
    };
    *scan = ahead;
    Some(to)
}

fn more(scan: &mut Scan<'_>, first: EmailAddress) -> Option<Vec<Recipient>> {
    let mut to = vec![Recipient::Address(first)];
    loop {
        let mut ahead = *scan;
        ahead.eat("and");
        let Some(address) = super::people::address(&mut ahead) else { break };
        *scan = ahead;
        to.push(Recipient::Address(address));
    }
    (to.len() <= crate::plan::RECIPIENTS_MAX).then_some(to)
}

fn subject_and_body(scan: &mut Scan<'_>) -> Option<(String, String)> {
    let named = scan.phrase(&["with the subject", "with subject", "subject", "titled"]);
    if !named {
        let (body, _) = text(scan)?;
        return Some((subject_of(&body), body));
    }
    // The subject ends where the body is announced.
    const BODY: &[&str] = &[
        "and the body",
        "and body",
        "and the text",
        "and text",
        "and the message",
        "and message",
        "and say",
        "body",
        "saying",
        "text",
        "message",
    ];
    let mut ahead = *scan;
    let mut count = 0;
    while !ahead.is_done() {
        let mut body = ahead;
        if count > 0 && body.phrase(BODY) {
            let subject = scan.take(count);
            let quoted = subject.peek().is_some_and(|word| word.quoted);
            let subject = if quoted && count == 1 { subject.peek()?.raw } else { subject.raw_span() };
            let body_text = body.raw_rest();
            // Two places where the body could begin are one too many.
            if body_text.is_empty() || goes_on(body) {
                return None;
            }
            let body_text = if body_text.ends_with(|letter: char| letter.is_alphanumeric()) {
                sentence(body_text)?
            } else {
                body_text.to_owned()
            };
            *scan = body;
            return Some((subject.trim().to_owned(), body_text));
        }
        ahead.skip(1);
        count += 1;
    }
    None
}

/// The first words of a text, as a subject.
fn subject_of(body: &str) -> String {
    let line = body.lines().next().unwrap_or_default();
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut subject = words.iter().take(SUBJECT_WORDS).copied().collect::<Vec<_>>().join(" ");
    if words.len() <= SUBJECT_WORDS {
        subject.truncate(subject.trim_end_matches(['.', ',', ';', ':']).len());
    } else {
        subject.truncate(subject.trim_end_matches(['.', ',', ';', ':', '!', '?']).len());
        subject.push('\u{2026}');
    }
    subject.chars().take(TITLE_CHARS_MAX).collect()
}

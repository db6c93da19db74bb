//! Writing mail: new messages and replies.

use serde_json::json;

use super::build::{Builder, Refusal, Who, people};
use super::mail;
use super::words::{FILE_NOUNS, MAIL_NOUNS, PRONOUNS, Word, capitalised, low};

/// Words of the body that become the subject when none is said.
const SUBJECT_WORDS: usize = 6;

/// People one message goes to at most.
const RECIPIENTS_MAX: usize = 20;

const NO_WORDS: &str = "What should the message say?";
const NOBODY: &str = "To whom should the message go?";

/// "send a mail to Ben saying ..", "tell Anna that ..", "email ben@x.example about .."
pub(super) fn send(source: &str, words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let verb = low(words, 0).to_owned();
    let addressed = addressee(words)?;
    let posts = words[..addressed.end.saturating_add(3).min(words.len())]
        .iter()
        .any(|word| word.any(&["tweet", "twitter", "facebook"]));
    let tells_me =
        addressed.who == [Who::Myself] && !matches!(verb.as_str(), "send" | "mail" | "email" | "write");
    if posts || tells_me {
        return Err(super::not_ours());
    }
    let content = Content::read(source, words, addressed.end, &verb);
    let (subject, body) = content.compose(&verb)?;
    let mut to = Vec::new();
    for who in &addressed.who {
        let recipient = builder.recipient(who)?;
        if to.len() >= RECIPIENTS_MAX {
            return Err("Those are too many people for one message.".to_owned());
        }
        if !to.contains(&recipient) {
            to.push(recipient);
        }
    }
    let operation = if verb == "draft" { "gmail.draft" } else { "gmail.send" };
    builder.push(json!({"operation": operation, "to": to, "subject": subject, "body": body}));
    Ok(())
}

/// What is said of something that is passed on, and where that begins.
pub(super) fn said_of(source: &str, words: &[Word]) -> (String, usize) {
    let begin = (1..words.len()).find(|at| introduces(words, *at) > 0).unwrap_or(words.len());
    let content = Content::read(source, words, begin, "forward");
    (content.body.map(|body| sentence(&body, '.')).unwrap_or_default(), begin)
}

/// "reply to her saying ..", "answer the second one with .."
pub(super) fn reply(source: &str, words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let begin = if low(words, 1) == "back" { 2 } else { 1 };
    let intro = (begin..words.len()).find(|at| introduces(words, *at) > 0);
    let Some(intro) = intro else { return Err(NO_WORDS.to_owned()) };
    let content = Content::read(source, words, intro, "reply");
    let body = sentence(&content.body.ok_or(NO_WORDS)?, '.');
    let target = &words[begin..intro];
    // "reply to her": whoever it was, the answer goes to the newest message.
    let message = if target.iter().all(|word| word.any(PRONOUNS) || word.any(&["to", "it", "that", "this"])) {
        builder.newest(super::Kind::Message).ok_or("I do not know which message you mean.")?
    } else {
        mail::target(target, builder)?
    };
    builder.push(json!({"operation": "gmail.reply", "message": message.to_string(), "body": body}));
    Ok(())
}

struct Addressed {
    who: Vec<Who>,
    /// Index after the people, where the content begins.
    end: usize,
}

/// Whom the message goes to, and where what it says begins.
fn addressee(words: &[Word]) -> Result<Addressed, Refusal> {
    let used = vec![false; words.len()];
    let verb = low(words, 0);
    let is_mail = |at: usize| {
        words.get(at).is_some_and(|word| word.any(MAIL_NOUNS) || word.any(&["note", "letter", "line"]))
    };
    let skip_articles = |mut at: usize| {
        while matches!(
            low(words, at),
            "a" | "an" | "the" | "short" | "quick" | "new" | "this" | "another" | "brief" | "friendly"
        ) {
            at += 1;
        }
        at
    };
    let content_start = (1..words.len()).find(|at| introduces(words, *at) > 0).unwrap_or(words.len());
    let shares = words[..content_start].iter().any(|word| word.any(FILE_NOUNS));
    if shares
        && matches!(verb, "send" | "mail" | "email")
        && !words[..content_start].iter().any(|word| word.any(MAIL_NOUNS) && !word.is(verb))
    {
        return Err("I cannot attach or share files yet.".to_owned());
    }
    let noun = skip_articles(1);
    if verb != "tell" && is_mail(noun) {
        // "send a mail to Ben", "write a mail about the trip to Ben"
        let at = (noun + 1..words.len())
            .find(|at| low(words, *at) == "to" && people(words, &used, at + 1).is_some());
        let (who, end) = at.and_then(|at| people(words, &used, at + 1)).ok_or(NOBODY)?;
        let before = noun + 1;
        // What was said before "to" is content, too.
        let end = if at.is_some_and(|at| at > before) && end >= words.len() { before } else { end };
        return Ok(Addressed { who, end });
    }
    let at = if matches!(low(words, 1), "to") { 2 } else { 1 };
    let (who, mut end) =
        people(words, &used, at).ok_or(if verb == "tell" { super::NOT_OURS } else { NOBODY })?;
    if matches!(verb, "send" | "write" | "compose") {
        let noun = skip_articles(end);
        if is_mail(noun) {
            end = noun + 1;
        } else if at == 1 && verb == "send" && introduces(words, end) == 0 {
            return Err(super::NOT_OURS.to_owned());
        }
    }
    if verb == "let" && low(words, end) == "know" {
        end += 1;
    }
    Ok(Addressed { who, end })
}

/// How many words at `at` introduce what is to be said; 0 when they do not.
fn introduces(words: &[Word], at: usize) -> usize {
    const INTRODUCTIONS: [&[&str]; 36] = [
        &["tell", "her"],
        &["tell", "him"],
        &["tell", "them"],
        &["and", "tell", "her", "that"],
        &["and", "tell", "him", "that"],
        &["and", "tell", "them", "that"],
        &["and", "tell", "her"],
        &["and", "tell", "him"],
        &["and", "tell", "them"],
        &["and", "say", "that"],
        &["telling", "her", "that"],
        &["telling", "him", "that"],
        &["telling", "them", "that"],
        &["telling", "her"],
        &["telling", "him"],
        &["telling", "them"],
        &["to", "tell", "her", "that"],
        &["to", "tell", "him", "that"],
        &["to", "let", "her", "know", "that"],
        &["to", "let", "him", "know", "that"],
        &["to", "let", "them", "know", "that"],
        &["to", "say", "that"],
        &["with", "the", "text"],
        &["with", "the", "message"],
        &["with", "the", "words"],
        &["saying", "that"],
        &["stating", "that"],
        &["and", "say"],
        &["to", "say"],
        &["with", "body"],
        &["and", "body"],
        &["saying"],
        &["stating"],
        &["that"],
        &["body"],
        &[":"],
    ];
    let fits = |intro: &&&[&str]| intro.iter().enumerate().all(|(i, word)| low(words, at + i) == *word);
    if words.get(at).is_none_or(|word| word.quoted && !word.is_punctuation()) {
        return 0;
    }
    // "that" points when it stands at the end: "reply to that".
    match INTRODUCTIONS.iter().find(fits) {
        Some(&["that"]) if points(words, at) => 0,
        Some(intro) if at + intro.len() < words.len() => intro.len(),
        _ if low(words, at) == "with"
            && words.get(at + 1).is_some_and(|w| !w.any(&["subject", "the", "a", "title"])) =>
        {
            1
        }
        _ if words.get(at).is_some_and(|word| word.is("\"")) && at + 1 < words.len() => 1,
        _ => 0,
    }
}

/// Whether "that" at `at` stands for a thing rather than beginning a sentence.
fn points(words: &[Word], at: usize) -> bool {
    let next = words.get(at + 1);
    next.is_none_or(|next| {
        next.any(MAIL_NOUNS)
            || next.any(&["saying", "with", "one", "to", "and", "telling", "stating"])
            || next.is_punctuation()
    })
}

/// What a message is to say, as far as the command tells.
#[derive(Debug, Default)]
struct Content {
    subject: Option<String>,
    about: Option<String>,
    body: Option<String>,
}

impl Content {
    fn read(source: &str, words: &[Word], begin: usize, verb: &str) -> Self {
        let mut content = Self::default();
        let mut at = begin;
        while at < words.len() {
            if low(words, at) == "to" && at > begin {
                // "about the trip to Ben": the people were read before.
                break;
            }
            let skip = usize::from(matches!(low(words, at), "with" | "and" | "," | "under"));
            let skip = skip + usize::from(skip > 0 && matches!(low(words, at + skip), "the" | "a"));
            if matches!(low(words, at + skip), "subject" | "title") {
                let from = at + skip + 1;
                let end = (from..words.len()).find(|at| ends_subject(words, *at)).unwrap_or(words.len());
                content.subject = text(source, words, from, end).map(|text| capitalised(&text));
                at = end;
            } else if matches!(low(words, at), "about" | "regarding" | "concerning") {
                let end = (at + 1..words.len()).find(|end| ends_topic(words, *end)).unwrap_or(words.len());
                content.about = text(source, words, at + 1, end);
                at = end;
            } else {
                let intro = introduces(words, at);
                let bare = matches!(
                    verb,
                    "tell" | "ask" | "let" | "inform" | "notify" | "message" | "mail" | "email" | "write"
                );
                if intro > 0 || bare {
                    content.body = text(source, words, at + intro, words.len());
                    break;
                }
                at += 1;
            }
        }
        content
    }

    /// Subject and body, each made from the other where only one was said.
    fn compose(self, verb: &str) -> Result<(String, String), Refusal> {
        let ending = if verb == "ask" { '?' } else { '.' };
        let body = match (self.body, &self.about, &self.subject) {
            (Some(body), ..) => sentence(&body, ending),
            (None, Some(about), _) => format!("Hello,\n\nI am writing to you about {about}."),
            (None, None, Some(_)) | (None, None, None) => return Err(NO_WORDS.to_owned()),
        };
        let subject =
            self.subject.or_else(|| self.about.map(|about| capitalised(&about))).unwrap_or_else(|| {
                let words: Vec<&str> = body.split_whitespace().take(SUBJECT_WORDS).collect();
                words.join(" ").trim_end_matches(['.', ',', '?', '!', ';', ':']).to_owned()
            });
        Ok((subject, body))
    }
}

/// Whether the subject said ends before `at`.
fn ends_subject(words: &[Word], at: usize) -> bool {
    let next = if matches!(low(words, at), "and" | "," | "with") { at + 1 } else { at };
    let next = next + usize::from(next > at && low(words, next) == "the");
    matches!(low(words, next), "body" | "text" | "saying" | "message" | "content" | "say" | "tell")
}

/// Whether what a message is about ends before `at`.
fn ends_topic(words: &[Word], at: usize) -> bool {
    matches!(low(words, at), "saying" | "stating" | "telling" | "to" | "subject")
        || (low(words, at) == "and" && matches!(low(words, at + 1), "say" | "tell" | "ask"))
        || (low(words, at) == "with" && matches!(low(words, at + 1), "subject" | "the"))
}

/// The words of the command from `begin` to `end`, as they were written.
fn text(source: &str, words: &[Word], begin: usize, end: usize) -> Option<String> {
    let first = words.get(begin).filter(|_| begin < end)?;
    let mut last = words[end.min(words.len()) - 1].end;
    // A question mark belongs to "can you tell ..?", an exclamation mark to what is told.
    last += usize::from(source[last..].starts_with('!'));
    let text = source[first.start..last].trim();
    let text = text.trim_matches(['"', '\u{201c}', '\u{201d}', ',', ';', ' ']);
    (!text.is_empty()).then(|| text.to_owned())
}

fn sentence(text: &str, ending: char) -> String {
    let mut sentence = capitalised(text);
    if !sentence.ends_with(['.', '!', '?']) {
        sentence.push(ending);
    }
    sentence
}

/// What a reply says, given only its words.
pub(super) fn body_of(text: &str) -> String {
    sentence(text, '.')
}

//! What is done to mail and files besides writing and reading them: passing on, sharing, labelling, throwing away,
//! making; and who is busy when.

use serde_json::json;

use super::build::{Builder, Refusal, Who, people};
use super::clause::VERBS;
use super::plan::{Kind, Ref};
use super::words::{FILE_NOUNS, MAIL_NOUNS, THINGS, Word, capitalised, low};
use super::{mail, send, time};

/// People in one step at most.
const PEOPLE_MAX: usize = 20;

const NOBODY: &str = "With whom?";
const WHICH: &str = "Which one do you mean?";

/// Everybody named behind `at`.
fn recipients(words: &[Word], at: usize, builder: &mut Builder<'_>) -> Result<(Vec<String>, usize), Refusal> {
    let used = vec![false; words.len()];
    let (list, end) = people(words, &used, at).ok_or(NOBODY)?;
    let mut all = Vec::new();
    for who in &list {
        let one = builder.recipient(who)?;
        if !all.contains(&one) {
            all.push(one);
        }
    }
    if all.len() > PEOPLE_MAX {
        return Err("Those are too many people.".to_owned());
    }
    Ok((all, end))
}

/// The last place where somebody is named behind one of these words.
fn named_behind(words: &[Word], behind: &[&str]) -> Option<usize> {
    let used = vec![false; words.len()];
    (1..words.len()).rev().find(|at| words[*at].any(behind) && people(words, &used, at + 1).is_some())
}

/// "forward it to Ben", "forward the mail from Anna about the budget to ben@x.example saying .."
pub(super) fn forward(source: &str, words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let (body, end) = send::said_of(source, words);
    let words = &words[..end];
    let to = named_behind(words, &["to"]).ok_or("To whom should it go?")?;
    let message = mail::target(&words[1..to], builder)?;
    let (to, _) = recipients(words, to + 1, builder)?;
    builder
        .push(json!({"operation": "gmail.forward", "message": message.to_string(), "to": to, "body": body}));
    Ok(())
}

/// The file that words point at or describe.
fn file(words: &[Word], builder: &mut Builder<'_>) -> Result<Ref, Refusal> {
    if let Some((which, _)) = super::which(words) {
        return builder.nth(Some(Kind::File), which).map(|(item, _)| item);
    }
    let found = time::find(words, builder.now(), false);
    let generic = |word: &Word| word.any(FILE_NOUNS) || word.any(&VERBS);
    let topic = super::topic(words, &found.used, generic);
    if topic.is_empty() {
        return builder.newest(Kind::File).ok_or_else(|| WHICH.to_owned());
    }
    let search = json!({"operation": "drive.search", "text": topic.join(" "), "limit": 1});
    Ok(Ref::Step(builder.push(search), 0))
}

/// "share the roadmap file with Anna", "share it with ben@x.example so that he can edit it"
pub(super) fn share(words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let with = named_behind(words, &["with"]).ok_or(NOBODY)?;
    let role =
        match words[with..].iter().find(|word| word.any(&["edit", "editor", "change", "write", "comment"])) {
            Some(word) if word.is("comment") => "commenter",
            Some(_) => "writer",
            None => "reader",
        };
    let file = file(&words[1..with], builder)?;
    let (people, _) = recipients(words, with + 1, builder)?;
    builder
        .push(json!({"operation": "drive.share", "file": file.to_string(), "people": people, "role": role}));
    Ok(())
}

/// "star it", "mark the mail from Anna as read", "label the second one as Travel", "archive it"
pub(super) fn label(source: &str, words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let at = words.iter().position(|word| word.is("as")).unwrap_or(words.len());
    let named = words.get(at + 1..).unwrap_or_default();
    let name = match (named.first(), named.last()) {
        (Some(first), Some(last)) => source[first.start..last.end].trim_matches(['"', '.']).to_owned(),
        _ => String::new(),
    };
    let (add, remove): (Vec<String>, Vec<String>) = match (low(words, 0), name.to_lowercase().as_str()) {
        ("star", _) | ("mark", "starred") => (vec!["STARRED".to_owned()], Vec::new()),
        ("unstar", _) => (Vec::new(), vec!["STARRED".to_owned()]),
        ("archive", _) => (Vec::new(), vec!["INBOX".to_owned()]),
        ("mark", "read") => (Vec::new(), vec!["UNREAD".to_owned()]),
        ("mark", "unread") => (vec!["UNREAD".to_owned()], Vec::new()),
        ("mark", "important") => (vec!["IMPORTANT".to_owned()], Vec::new()),
        ("label", name) if !name.is_empty() => (vec![capitalised(name)], Vec::new()),
        _ => return Err("What should it be labelled?".to_owned()),
    };
    let message = mail::target(&words[1..at], builder)?;
    builder.push(
        json!({"operation": "gmail.label", "message": message.to_string(), "add": add, "remove": remove}),
    );
    Ok(())
}

/// Whether what is to be deleted is a mail or a file.
pub(super) fn is_thrown_away(words: &[Word]) -> bool {
    low(words, 0) == "trash" || words.iter().any(|word| word.any(MAIL_NOUNS) || word.any(FILE_NOUNS))
}

/// "delete the mail from Anna", "trash that file"
pub(super) fn throw_away(words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    if words
        .iter()
        .any(|word| word.any(&["all", "every", "emails", "mails", "messages", "files", "documents"]))
    {
        return Err("I throw things away one at a time; please say which one.".to_owned());
    }
    let is_file = words.iter().any(|word| word.any(FILE_NOUNS));
    let kind = if is_file { Some(Kind::File) } else { super::subject_kind(words) };
    let points = words.len() <= 3 && words.iter().any(|word| word.any(THINGS));
    let (item, kind) = match kind {
        Some(Kind::File) => (file(&words[1..], builder)?, Kind::File),
        None if points => builder.newest_of_any().ok_or(WHICH)?,
        _ => (mail::target(&words[1..], builder)?, Kind::Message),
    };
    let item = item.to_string();
    builder.push(match kind {
        Kind::Message => json!({"operation": "gmail.trash", "message": item}),
        Kind::File => json!({"operation": "drive.trash", "file": item}),
        Kind::Event => json!({"operation": "calendar.delete", "event": item}),
    });
    Ok(())
}

/// "draft a mail to Ben saying .."
pub(super) fn draft(source: &str, words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    send::send(source, words, builder)
}

/// Whether a folder or a file is to be made, and it is said what it is called.
pub(super) fn is_kept(words: &[Word]) -> bool {
    let near = words.iter().skip(1).take(3);
    near.clone().any(|word| word.any(&["folder", "file", "document"])) && called(words).is_some()
}

fn called(words: &[Word]) -> Option<usize> {
    words.iter().position(|word| word.any(&["called", "named"])).filter(|at| at + 1 < words.len())
}

/// "create a folder called Trips", "make a file called ideas saying .."
pub(super) fn keep(source: &str, words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let (text, end) = send::said_of(source, words);
    let from = called(words).ok_or(WHICH)? + 1;
    let last = words.get(end.max(from + 1) - 1).ok_or(WHICH)?;
    let name = source[words[from].start..last.end].trim_matches(['"', '.', ' ']);
    if name.is_empty() {
        return Err("What should it be called?".to_owned());
    }
    let folder = words[..from].iter().any(|word| word.is("folder"));
    let text = (!folder && !text.is_empty()).then_some(text);
    builder.push(json!({"operation": "drive.create", "name": name, "folder": folder, "text": text}));
    Ok(())
}

/// Where a folder is named that something goes to.
fn destination(words: &[Word]) -> Option<usize> {
    let at = words.iter().rposition(|word| word.any(&["to", "into", "in"]))?;
    words[at..].iter().any(|word| word.is("folder")).then_some(at)
}

/// Whether a file is to go to a folder.
pub(super) fn is_put(words: &[Word]) -> bool {
    destination(words).is_some() && !words.iter().any(|word| word.any(MAIL_NOUNS))
}

/// "move the roadmap file to the folder Trips", "put it into the Trips folder"
pub(super) fn put(words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let at = destination(words).ok_or(WHICH)?;
    let what = file(&words[1..at], builder)?;
    let place = &words[at + 1..];
    let generic = |word: &Word| word.any(FILE_NOUNS) || word.is("folder");
    let name = super::topic(place, &vec![false; place.len()], generic);
    if name.is_empty() {
        return Err("To which folder?".to_owned());
    }
    let folder = builder.push(json!({"operation": "drive.search", "text": name.join(" "), "limit": 1}));
    let (file, folder) = (what.to_string(), Ref::Step(folder, 0).to_string());
    builder.push(json!({"operation": "drive.move", "file": file, "folder": folder}));
    Ok(())
}

/// "export the roadmap document as pdf", "download that file as Word"
pub(super) fn export(words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let at = words.iter().rposition(|word| word.any(&["as", "to"])).ok_or("In which form?")?;
    let form = words[at..].iter().find_map(|word| {
        Some(match word.low.as_str() {
            "pdf" => "pdf",
            "word" | "docx" => "docx",
            "excel" | "xlsx" => "xlsx",
            "powerpoint" | "pptx" => "pptx",
            "text" | "txt" => "txt",
            "csv" => "csv",
            _ => return None,
        })
    });
    let form = form.ok_or("In which form?")?;
    let file = file(&words[1..at], builder)?;
    builder.push(json!({"operation": "drive.export", "file": file.to_string(), "format": form}));
    Ok(())
}

/// Whether a question is about when somebody else is free or busy.
pub(super) fn asks_after(words: &[Word]) -> bool {
    let state = words.iter().position(|word| word.any(&["free", "busy", "available"]));
    state.is_some_and(|state| somebody(&words[..state]).is_some())
}

fn somebody(words: &[Word]) -> Option<Vec<Who>> {
    let used = vec![false; words.len()];
    let begin = if words.get(1).is_some_and(|word| word.any(&["is", "are"])) { 2 } else { 1 };
    let (list, end) = people(words, &used, begin)?;
    (end == words.len() && !list.contains(&Who::Myself)).then_some(list)
}

/// "is Anna free tomorrow", "when are Anna and Ben busy on Friday"
pub(super) fn busy(words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let state = words.iter().position(|word| word.any(&["free", "busy", "available"])).ok_or(WHICH)?;
    let list = somebody(&words[..state]).ok_or(NOBODY)?;
    if list.len() > PEOPLE_MAX {
        return Err("Those are too many people.".to_owned());
    }
    let found = time::find(words, builder.now(), false);
    let (Some(from), Some(to)) = found.range(builder.now()) else {
        return Err("On which day?".to_owned());
    };
    let mut people = Vec::new();
    for who in &list {
        people.push(builder.recipient(who)?);
    }
    builder.push(json!({"operation": "calendar.free_busy", "from": from, "to": to, "people": people}));
    Ok(())
}

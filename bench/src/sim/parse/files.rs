//! Finding and reading files.

use serde_json::json;

use super::build::{Builder, Refusal};
use super::clause::VERBS;
use super::plan::{Kind, Ref};
use super::time;
use super::words::{FILE_NOUNS, Word};

/// Files asked for when nobody says how many.
const LIMIT: u64 = 5;

/// "find the document about the roadmap"
pub(super) fn search(words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let text = text(words, builder).ok_or("Which file do you mean?")?;
    builder.push(json!({"operation": "drive.search", "text": text, "limit": LIMIT}));
    Ok(())
}

/// "open that file", "read the roadmap document"
pub(super) fn read(words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let file = match text(words, builder) {
        Some(text) => {
            Ref::Step(builder.push(json!({"operation": "drive.search", "text": text, "limit": LIMIT})), 0)
        }
        None => builder.newest(Kind::File).ok_or("Which file do you mean?")?,
    };
    builder.push(json!({"operation": "drive.read", "file": file.to_string()}));
    Ok(())
}

/// The words to look for. "Notes" and the like count when nothing else is said.
fn text(words: &[Word], builder: &Builder<'_>) -> Option<String> {
    let found = time::find(words, builder.now(), false);
    let generic = |word: &Word| word.any(FILE_NOUNS) || word.any(&VERBS) || word.is("google");
    let topic = super::topic(words, &found.used, generic);
    if !topic.is_empty() {
        return Some(topic.join(" "));
    }
    let telling = ["notes", "presentation", "presentations", "slides"];
    words.iter().find(|word| word.any(&telling)).map(|word| word.low.clone())
}

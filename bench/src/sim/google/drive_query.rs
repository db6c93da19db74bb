//! The `q` of Drive's files.list.
//! <https://developers.google.com/workspace/drive/api/guides/ref-search-terms>

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::search::has_words;
use crate::sim::world::{File, ROOT, index_text};

/// Nesting beyond this is refused, so that a query cannot exhaust the stack.
const DEPTH_MAX: usize = 16;

/// A parsed query.
#[derive(Debug, PartialEq)]
pub(super) enum Query {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Name(String),
    NameContains(String),
    FullText(String),
    Mime(String),
    MimeContains(String),
    Owner(String),
    /// Somebody may write (`true`) or read.
    May(bool, String),
    Parent(String),
    SharedWithMe,
    Trashed,
    Starred,
    /// Changed after (`true`) or before an instant.
    Modified(bool, Timestamp),
}

impl Query {
    /// Parses `text`; `None` when it is not a query. An empty one matches all.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.trim().is_empty() {
            return Some(Self::All(Vec::new()));
        }
        let tokens = tokens(text)?;
        let mut parser = Parser { tokens: &tokens, at: 0 };
        let query = parser.any(0)?;
        (parser.at == tokens.len()).then_some(query)
    }

    pub(super) fn matches(&self, file: &File, owner: &str) -> bool {
        match self {
            Self::All(list) => list.iter().all(|query| query.matches(file, owner)),
            Self::Any(list) => list.iter().any(|query| query.matches(file, owner)),
            Self::Not(query) => !query.matches(file, owner),
            Self::Name(name) => file.name == *name,
            // For a name, Drive matches the beginnings of words.
            Self::NameContains(text) => {
                let words = index_text(text);
                file.name_index.contains(words.trim_end())
            }
            Self::FullText(text) => full_text(file, text),
            Self::Mime(mime) => file.mime_type == *mime,
            Self::MimeContains(part) => file.mime_type.contains(part.as_str()),
            Self::Owner(email) => {
                let wanted = if email == "me" { owner } else { email };
                file.owner.email.eq_ignore_ascii_case(wanted)
            }
            Self::May(writes, email) => {
                let wanted = if email == "me" { owner } else { email };
                file.permissions.iter().any(|permission| {
                    let fits =
                        permission.email.as_deref().is_some_and(|email| email.eq_ignore_ascii_case(wanted));
                    fits && (!writes || matches!(permission.role.as_str(), "owner" | "writer"))
                })
            }
            Self::Parent(id) => {
                let id = if id == "root" { ROOT } else { id };
                file.parents.iter().any(|parent| parent == id)
            }
            Self::SharedWithMe => !file.owner.email.eq_ignore_ascii_case(owner),
            Self::Trashed => file.trashed,
            Self::Starred => file.starred,
            Self::Modified(after, at) => (file.modified > *at) == *after,
        }
    }
}

/// Every word must stand in the name or the text; `"in quotes"` as a phrase.
fn full_text(file: &File, text: &str) -> bool {
    let has = |words: &str| has_words(&file.name_index, words) || has_words(&file.text_index, words);
    match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(phrase) => has(&index_text(phrase)),
        None => index_text(text).split_whitespace().all(|word| has(&format!(" {word} "))),
    }
}

#[derive(Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Sign(&'static str),
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            c if c.is_whitespace() => continue,
            '(' => Token::Sign("("),
            ')' => Token::Sign(")"),
            '=' => Token::Sign("="),
            '!' => {
                chars.next_if_eq(&'=')?;
                Token::Sign("!=")
            }
            '<' => Token::Sign(if chars.next_if_eq(&'=').is_some() { "<=" } else { "<" }),
            '>' => Token::Sign(if chars.next_if_eq(&'=').is_some() { ">=" } else { ">" }),
            '\'' => {
                let mut value = String::new();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        '\\' => value.push(chars.next()?),
                        other => value.push(other),
                    }
                }
                Token::Text(value)
            }
            c if c.is_alphanumeric() => {
                let mut word = c.to_string();
                while let Some(c) = chars.next_if(|c| c.is_alphanumeric()) {
                    word.push(c);
                }
                Token::Word(word)
            }
            _ => return None,
        });
    }
    Some(tokens)
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl Parser<'_> {
    fn next(&mut self) -> Option<&Token> {
        self.at += 1;
        self.tokens.get(self.at - 1)
    }

    fn next_if_word(&mut self, word: &str) -> bool {
        let found = matches!(self.tokens.get(self.at), Some(Token::Word(w)) if w == word);
        self.at += usize::from(found);
        found
    }

    fn any(&mut self, depth: usize) -> Option<Query> {
        let mut list = vec![self.all(depth)?];
        while self.next_if_word("or") {
            list.push(self.all(depth)?);
        }
        Some(if list.len() == 1 { list.remove(0) } else { Query::Any(list) })
    }

    fn all(&mut self, depth: usize) -> Option<Query> {
        let mut list = vec![self.one(depth)?];
        while self.next_if_word("and") {
            list.push(self.one(depth)?);
        }
        Some(if list.len() == 1 { list.remove(0) } else { Query::All(list) })
    }

    fn one(&mut self, depth: usize) -> Option<Query> {
        if depth > DEPTH_MAX {
            return None;
        }
        if self.next_if_word("not") {
            return Some(Query::Not(Box::new(self.one(depth + 1)?)));
        }
        match self.next()? {
            Token::Sign("(") => {
                let inner = self.any(depth + 1)?;
                matches!(self.next()?, Token::Sign(")")).then_some(inner)
            }
            Token::Text(value) => {
                let value = value.clone();
                let list = self.next_if_word("in").then(|| self.next())??;
                match list {
                    Token::Word(list) if list == "owners" => Some(Query::Owner(value)),
                    Token::Word(list) if list == "writers" => Some(Query::May(true, value)),
                    Token::Word(list) if list == "readers" => Some(Query::May(false, value)),
                    Token::Word(list) if list == "parents" => Some(Query::Parent(value)),
                    _ => None,
                }
            }
            Token::Word(field) => {
                let field = field.clone();
                self.term(&field)
            }
            Token::Sign(_) => None,
        }
    }

    fn term(&mut self, field: &str) -> Option<Query> {
        // It may stand alone.
        if field == "sharedWithMe" && !matches!(self.tokens.get(self.at), Some(Token::Sign("=" | "!="))) {
            return Some(Query::SharedWithMe);
        }
        let operator = match self.next()? {
            Token::Sign(sign) => (*sign).to_owned(),
            Token::Word(word) => word.clone(),
            Token::Text(_) => return None,
        };
        let value = match self.next()? {
            Token::Text(text) => text.clone(),
            Token::Word(word) if matches!(field, "trashed" | "starred" | "sharedWithMe") => word.clone(),
            _ => return None,
        };
        let negate = |query: Query| Query::Not(Box::new(query));
        let is = |query: Query| match value.as_str() {
            "true" => Some(query),
            "false" => Some(negate(query)),
            _ => None,
        };
        match (field, operator.as_str()) {
            ("name", "=") => Some(Query::Name(value)),
            ("name", "!=") => Some(negate(Query::Name(value))),
            ("name", "contains") => Some(Query::NameContains(value)),
            ("fullText", "contains") => Some(Query::FullText(value)),
            ("mimeType", "=") => Some(Query::Mime(value)),
            ("mimeType", "!=") => Some(negate(Query::Mime(value))),
            ("mimeType", "contains") => Some(Query::MimeContains(value)),
            ("trashed", "=") => is(Query::Trashed),
            ("trashed", "!=") => is(Query::Trashed).map(negate),
            ("sharedWithMe", "=") => is(Query::SharedWithMe),
            ("starred", "=") => is(Query::Starred),
            ("modifiedTime", ">" | ">=") => Some(Query::Modified(true, instant(&value)?)),
            ("modifiedTime", "<" | "<=") => Some(Query::Modified(false, instant(&value)?)),
            _ => None,
        }
    }
}

/// RFC 3339; without an offset it is UTC.
fn instant(text: &str) -> Option<Timestamp> {
    text.parse().ok().or_else(|| TimeZone::UTC.to_timestamp(text.parse::<DateTime>().ok()?).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::chance::Clock;
    use crate::sim::world::World;

    fn names(q: &str) -> Vec<String> {
        let user = World::new(1, Clock::new(None, "UTC").unwrap()).user("ada");
        let query = Query::parse(q).unwrap_or_else(|| panic!("{q}"));
        let drive = user.drive();
        let mut names: Vec<_> = drive
            .files
            .iter()
            .filter(|f| query.matches(f, "ada@example.com"))
            .map(|f| f.name.clone())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn terms_match_names_texts_and_types() {
        assert_eq!(names("name contains 'roadm'"), ["Product roadmap", "Roadmap workshop notes"]);
        assert!(names("fullText contains 'roadm'").is_empty());
        assert!(
            names("fullText contains 'storage engines'").contains(&"Hiring: backend position".to_owned())
        );
        assert!(names("fullText contains '\"engines storage\"'").is_empty());
        assert_eq!(names("name = 'Q4 budget' and trashed = false"), ["Q4 budget"]);
        assert!(names("trashed = true").is_empty());
        assert_eq!(names("").len(), names("modifiedTime > '2000-01-01T00:00:00'").len());
    }

    #[test]
    fn terms_combine_with_the_usual_precedence() {
        let all = names("");
        let pdf = names("mimeType = 'application/pdf'");
        assert_eq!(names("not mimeType = 'application/pdf'").len() + pdf.len(), all.len());
        assert_eq!(names("mimeType != 'application/pdf'").len() + pdf.len(), all.len());
        let either =
            names("(name contains 'roadmap' or name contains 'budget') and mimeType contains 'spreadsheet'");
        assert_eq!(either, ["Budget of last year", "Q4 budget"]);
        assert!(names("'me' in owners").contains(&"Recipes".to_owned()));
    }

    #[test]
    fn quotes_are_escaped_and_nonsense_is_refused() {
        assert_eq!(Query::parse(r"name = 'it\'s'"), Some(Query::Name("it's".to_owned())));
        for q in [
            "name",
            "name contains",
            "name contains roadmap",
            "name ~ 'x'",
            "and",
            "(name = 'x'",
            "'x",
            "name = 'x' name = 'y'",
            "trashed = 'maybe'",
            &"(".repeat(99),
        ] {
            assert_eq!(Query::parse(q), None, "{q}");
        }
    }
}

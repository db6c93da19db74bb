//! What steps find and make: messages, events and files, in the one form that sessions remember.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The most characters a name, a title or a snippet keeps: a session holds a hundred items and more.
pub(crate) const ITEM_TEXT_CHARS_MAX: usize = 300;

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ItemKind {
    /// A mail message.
    Message,
    /// A calendar event.
    Event,
    /// A file.
    File,
}

impl ItemKind {
    /// The letter that starts a handle of this kind.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Message => 'm',
            Self::Event => 'e',
            Self::File => 'f',
        }
    }

    /// The kind whose handles start with this letter.
    #[must_use]
    pub const fn from_letter(letter: char) -> Option<Self> {
        match letter {
            'm' => Some(Self::Message),
            'e' => Some(Self::Event),
            'f' => Some(Self::File),
            _ => None,
        }
    }

    /// The name as it stands in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Event => "event",
            Self::File => "file",
        }
    }
}

impl fmt::Display for ItemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A message, an event or a file, as much of it as later steps and turns need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// What it is.
    pub kind: ItemKind,
    /// The id its service gave it.
    pub id: String,
    /// The subject, title or name; empty when there is none.
    pub title: String,
    /// Who sent, organises or owns it, or, for a message the user sent, its first recipient: the one a
    /// later "her" means.
    pub person: Option<Person>,
    /// When it was sent, starts, or was last changed: RFC 3339, or a date for whole days.
    pub when: Option<String>,
    /// For messages: the thread an answer belongs to.
    pub thread_id: Option<String>,
    /// For messages: the `Message-ID` an answer names, with its angle brackets.
    pub message_id_header: Option<String>,
    /// The first words of it.
    pub snippet: Option<String>,
}

/// Someone with an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The name, where one is known.
    pub name: Option<String>,
    /// The e-mail address, as the service gave it: to be checked before mail goes to it.
    pub address: String,
}

impl Person {
    /// Reads the first mailbox of an address header (RFC 5322 section 3.4), as Gmail gives it: decoded, perhaps
    /// with a quoted name, perhaps a list. `None` when there is no address in it.
    #[must_use]
    pub fn from_header(value: &str) -> Option<Self> {
        let mailbox = first_mailbox(value);
        let (name, address) = match mailbox.rfind('<') {
            Some(open) => {
                let rest = &mailbox[open + 1..];
                (&mailbox[..open], rest.split('>').next().unwrap_or(rest))
            }
            None => ("", mailbox),
        };
        let address = address.trim();
        if !address.contains('@') || address.contains(char::is_whitespace) {
            return None;
        }
        let name = unquote(name.trim());
        Some(Self { name: (!name.is_empty()).then(|| clip(&name)), address: clip(address) })
    }
}

impl fmt::Display for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} <{}>", self.address),
            None => f.write_str(&self.address),
        }
    }
}

/// The part before the first comma that stands outside quotes and angle brackets.
fn first_mailbox(value: &str) -> &str {
    let mut quoted = false;
    let mut escaped = false;
    let mut bracketed = false;
    for (at, letter) in value.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '<' if !quoted => bracketed = true,
            '>' if !quoted => bracketed = false,
            ',' if !quoted && !bracketed => return &value[..at],
            _ => {}
        }
    }
    value
}

/// A display name without its quotes and backslashes.
fn unquote(name: &str) -> String {
    let Some(inner) = name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return name.to_owned();
    };
    let mut text = String::with_capacity(inner.len());
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        text.extend(if letter == '\\' { letters.next() } else { Some(letter) });
    }
    text
}

/// At most [`ITEM_TEXT_CHARS_MAX`] characters, control characters turned to spaces: these texts go into the
/// model's context and onto terminals.
pub(crate) fn clip(text: &str) -> String {
    text.chars()
        .take(ITEM_TEXT_CHARS_MAX)
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn person(name: Option<&str>, address: &str) -> Option<Person> {
        Some(Person { name: name.map(str::to_owned), address: address.to_owned() })
    }

    #[test]
    fn the_usual_forms_of_a_mailbox_are_read() {
        let anna = "anna@example.com";
        assert_eq!(Person::from_header("anna@example.com"), person(None, anna));
        assert_eq!(Person::from_header("<anna@example.com>"), person(None, anna));
        assert_eq!(Person::from_header("Anna Berg <anna@example.com>"), person(Some("Anna Berg"), anna));
        assert_eq!(
            Person::from_header("\"Berg, Anna\" <anna@example.com>"),
            person(Some("Berg, Anna"), anna)
        );
        assert_eq!(
            Person::from_header("\"Anna \\\"A\\\" Berg\" <anna@example.com>"),
            person(Some("Anna \"A\" Berg"), anna)
        );
    }

    #[test]
    fn the_first_of_several_mailboxes_counts() {
        let list = "\"Berg, Anna\" <anna@example.com>, Bob <bob@example.com>";
        assert_eq!(Person::from_header(list), person(Some("Berg, Anna"), "anna@example.com"));
    }

    #[test]
    fn a_name_that_looks_like_an_address_is_not_taken_for_it() {
        let header = "\"ceo@example.com\" <other@example.net>";
        assert_eq!(Person::from_header(header), person(Some("ceo@example.com"), "other@example.net"));
    }

    #[test]
    fn a_header_without_an_address_names_nobody() {
        for header in ["", "Anna", "undisclosed-recipients:;", "Anna <>", "<an na@example.com>"] {
            assert_eq!(Person::from_header(header), None, "{header}");
        }
    }

    #[test]
    fn long_and_hostile_texts_are_clipped() {
        assert_eq!(clip(&"x".repeat(1_000)).len(), ITEM_TEXT_CHARS_MAX);
        assert_eq!(clip("a\r\nb\u{1b}[2J"), "a  b [2J");
    }

    proptest! {
        #[test]
        fn arbitrary_headers_never_panic(header in "[\\\\\"<>,@a-z \u{e9}]{0,40}") {
            let _ = Person::from_header(&header);
        }
    }
}

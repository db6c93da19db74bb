//! How one step, or one turn, speaks of what another found.
//!
//! | text | meaning |
//! |---|---|
//! | `$s2[0]` | the first result of step `s2` |
//! | `#m1` | the item of the session with the handle `m1` |
//! | `$s2[0].from`, `#m1.from` | the address of that item's person |
//!
//! Every reference has exactly one text.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::LIMIT_MAX;
use super::item::ItemKind;

/// Why a text is not what it should be. The plan that holds it is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Not `s1` to `s64`.
    #[error("a step is named s1 to s{}", StepId::NUMBER_MAX)]
    Step,
    /// Not `m`, `e` or `f` and a number from 1.
    #[error("a handle is m, e or f and a number from 1 to {}", Handle::NUMBER_MAX)]
    Handle,
    /// Neither `$s1[0]` nor `#m1`.
    #[error("an item is referred to as $s1[0] (index 0 to {}) or #m1", LIMIT_MAX - 1)]
    Item,
    /// Neither an address nor a reference to a person.
    #[error("a recipient is an e-mail address, $s1[0].from or #m1.from")]
    Recipient,
    /// Not an address that mail can safely be sent to.
    #[error("an e-mail address is local@domain, of at most {} characters", EmailAddress::CHARS_MAX)]
    Address,
}

macro_rules! text_serde {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

/// A number as it must be written: no sign, no leading zero, at most four digits.
fn number(text: &str) -> Option<u16> {
    let plain = !text.is_empty() && text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = plain && (text == "0" || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

/// The number of a step as plans write it: `s1` to `s8` in a plan of the model's, up to `s64` in a workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(u8);

impl StepId {
    /// The greatest number.
    pub const NUMBER_MAX: u8 = 64;

    /// The step of this number, from 1; `None` above [`Self::NUMBER_MAX`].
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number >= 1 && number <= Self::NUMBER_MAX { Some(Self(number)) } else { None }
    }

    /// 1 to [`Self::NUMBER_MAX`].
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// From 0, for tables.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize - 1
    }
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

impl FromStr for StepId {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let number = text.strip_prefix('s').and_then(number).and_then(|number| u8::try_from(number).ok());
        number.and_then(Self::new).ok_or(ReferenceError::Step)
    }
}

text_serde!(StepId);

/// The name of an item in a session, such as `m1`: a letter for its kind and a number that is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    kind: ItemKind,
    number: u16,
}

impl Handle {
    /// The greatest number. A session of 24 hours that reaches it starts again at 1; the ten turns it
    /// remembers hold far fewer items.
    pub const NUMBER_MAX: u16 = 9_999;

    /// `None` when the number is not in 1..=[`Self::NUMBER_MAX`].
    #[must_use]
    pub const fn new(kind: ItemKind, number: u16) -> Option<Self> {
        if number >= 1 && number <= Self::NUMBER_MAX { Some(Self { kind, number }) } else { None }
    }

    /// What it names.
    #[must_use]
    pub const fn kind(self) -> ItemKind {
        self.kind
    }

    /// From 1.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.number
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind.letter(), self.number)
    }
}

impl FromStr for Handle {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let mut letters = text.chars();
        let kind = letters.next().and_then(ItemKind::from_letter).ok_or(ReferenceError::Handle)?;
        number(letters.as_str()).and_then(|number| Self::new(kind, number)).ok_or(ReferenceError::Handle)
    }
}

text_serde!(Handle);

/// A reference to one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ItemRef {
    /// A result of a step of the same plan: `$s2[0]`.
    Result {
        /// The step.
        step: StepId,
        /// Which of its results, from 0, below [`LIMIT_MAX`].
        index: u8,
    },
    /// An item of the session: `#m1`.
    Session(Handle),
}

impl ItemRef {
    /// The step whose result it is.
    #[must_use]
    pub const fn step(self) -> Option<StepId> {
        match self {
            Self::Result { step, .. } => Some(step),
            Self::Session(_) => None,
        }
    }

    /// The handle, when it is an item of the session.
    #[must_use]
    pub const fn handle(self) -> Option<Handle> {
        match self {
            Self::Result { .. } => None,
            Self::Session(handle) => Some(handle),
        }
    }
}

impl fmt::Display for ItemRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Result { step, index } => write!(f, "${step}[{index}]"),
            Self::Session(handle) => write!(f, "#{handle}"),
        }
    }
}

impl FromStr for ItemRef {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if let Some(handle) = text.strip_prefix('#') {
            return handle.parse().map(Self::Session);
        }
        let rest = text.strip_prefix('$').and_then(|rest| rest.strip_suffix(']'));
        let (step, index) = rest.and_then(|rest| rest.split_once('[')).ok_or(ReferenceError::Item)?;
        let index = number(index).and_then(|index| u8::try_from(index).ok());
        let index = index.filter(|index| *index < LIMIT_MAX).ok_or(ReferenceError::Item)?;
        Ok(Self::Result { step: step.parse()?, index })
    }
}

text_serde!(ItemRef);

/// An address that mail can be sent to.
///
/// Checked to be one `local@domain` of printable characters, without spaces, brackets, quotes, commas or
/// control characters: it cannot leave the header it is written to. Whether it exists is not known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EmailAddress(String);

impl EmailAddress {
    /// The longest address (RFC 5321 section 4.5.3.1.3, without its angle brackets).
    pub const CHARS_MAX: usize = 254;
    /// The longest local part (RFC 5321 section 4.5.3.1.1).
    pub const LOCAL_CHARS_MAX: usize = 64;

    /// The text of the address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Characters that have a meaning in an address header and are refused even where RFC 5322 would let them be
/// quoted.
fn is_special(letter: char) -> bool {
    matches!(letter, '(' | ')' | '<' | '>' | '[' | ']' | ':' | ';' | '@' | '\\' | ',' | '"' | '$' | '#')
}

impl FromStr for EmailAddress {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (local, domain) = text.split_once('@').ok_or(ReferenceError::Address)?;
        // RFC 6532 allows letters beyond ASCII in both parts.
        let letter_fits = |letter: char| {
            !letter.is_control() && !letter.is_whitespace() && !is_special(letter) && !is_invisible(letter)
        };
        let local_fits = !local.is_empty()
            && local.len() <= Self::LOCAL_CHARS_MAX
            && local.split('.').all(|part| !part.is_empty())
            && local.chars().all(letter_fits);
        let domain_fits = domain.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.chars().all(|letter| letter == '-' || letter.is_alphanumeric())
        });
        if text.len() <= Self::CHARS_MAX && local_fits && domain_fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(ReferenceError::Address)
        }
    }
}

/// Characters that change how a line is shown without being seen: they only serve to mislead.
fn is_invisible(letter: char) -> bool {
    matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

impl fmt::Display for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_serde!(EmailAddress);

/// Someone to write to or invite.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Recipient {
    /// A known address.
    Address(EmailAddress),
    /// The person of an item, known when the item is.
    PersonOf(ItemRef),
}

impl Recipient {
    /// The item whose person is meant.
    #[must_use]
    pub const fn item(&self) -> Option<ItemRef> {
        match self {
            Self::Address(_) => None,
            Self::PersonOf(item) => Some(*item),
        }
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::PersonOf(item) => write!(f, "{item}.from"),
        }
    }
}

impl FromStr for Recipient {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        // No address starts with these, by `is_special`.
        if text.starts_with(['$', '#']) {
            let item = text.strip_suffix(".from").ok_or(ReferenceError::Recipient)?;
            return item.parse().map(Self::PersonOf);
        }
        text.parse().map(Self::Address).map_err(|_| ReferenceError::Recipient)
    }
}

text_serde!(Recipient);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn references_are_read_as_they_are_written() {
        let step = StepId::new(2).expect("a step");
        assert_eq!("$s2[0]".parse(), Ok(ItemRef::Result { step, index: 0 }));
        let handle = Handle::new(ItemKind::Message, 1).expect("a handle");
        assert_eq!("#m1".parse(), Ok(ItemRef::Session(handle)));
        assert_eq!("#m1.from".parse(), Ok(Recipient::PersonOf(ItemRef::Session(handle))));
        let anna = "anna@example.com".parse().expect("an address");
        assert_eq!("anna@example.com".parse(), Ok(Recipient::Address(anna)));
    }

    #[test]
    fn near_misses_are_refused() {
        for text in
            ["", "$s2", "$s2[]", "$s65[0]", "$s0[0]", "$s02[0]", "$s2[20]", "$s2[01]", "$s2[+1]", "s2[0]"]
        {
            assert!(text.parse::<ItemRef>().is_err(), "{text}");
        }
        for text in ["#", "#m", "#m0", "#x1", "#m01", "#m10000", "#m1.from", "m1", "#\u{e9}1"] {
            assert!(text.parse::<ItemRef>().is_err(), "{text}");
        }
        for text in ["#m1", "$s1[0]", "$s1[0].to", "#m1.from.from", "Anna <anna@example.com>", "anna"] {
            assert!(text.parse::<Recipient>().is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_cannot_carry_headers() {
        for text in [
            "anna@example.com\r\nBcc: all@example.com",
            "anna@example.com\nBcc:x",
            "an\0na@example.com",
            "anna@example.com,bob@example.com",
            "anna@@example.com",
            "\"anna\"@example.com",
            "anna @example.com",
            "anna@exam\u{202e}ple.com",
            "an\u{200b}na@example.com",
            "anna@example..com",
            "anna@-example.com",
            ".anna@example.com",
            "anna@",
            "@example.com",
            "$s1[0].from@example.com",
        ] {
            assert_eq!(text.parse::<EmailAddress>(), Err(ReferenceError::Address), "{text:?}");
        }
        let long = format!("{}@example.com", "a".repeat(65));
        assert!(long.parse::<EmailAddress>().is_err());
    }

    #[test]
    fn ordinary_addresses_are_taken() {
        for text in
            ["a@b", "anna.berg+x@mail.example.co.uk", "o'neil_1@example.com", "j\u{fc}rgen@b\u{fc}ro.example"]
        {
            assert!(text.parse::<EmailAddress>().is_ok(), "{text}");
        }
    }

    fn item_refs() -> impl Strategy<Value = ItemRef> {
        let kinds = prop_oneof![Just(ItemKind::Message), Just(ItemKind::Event), Just(ItemKind::File)];
        prop_oneof![
            (1u8..=StepId::NUMBER_MAX, 0u8..LIMIT_MAX).prop_filter_map("a step", |(step, index)| Some(
                ItemRef::Result { step: StepId::new(step)?, index }
            )),
            (kinds, 1u16..=9_999).prop_filter_map("a handle", |(kind, number)| Handle::new(kind, number)
                .map(ItemRef::Session)),
        ]
    }

    proptest! {
        #[test]
        fn references_round_trip(item in item_refs()) {
            prop_assert_eq!(item.to_string().parse::<ItemRef>(), Ok(item));
            let person = Recipient::PersonOf(item);
            prop_assert_eq!(person.to_string().parse::<Recipient>(), Ok(person));
        }

        #[test]
        fn whatever_parses_is_written_the_same(text in "[$#smef0-9\\[\\].@a-z]{0,12}") {
            if let Ok(item) = text.parse::<ItemRef>() {
                prop_assert_eq!(item.to_string(), text.clone());
            }
            if let Ok(recipient) = text.parse::<Recipient>() {
                prop_assert_eq!(recipient.to_string(), text);
            }
        }

        #[test]
        fn accepted_addresses_have_no_character_of_header_syntax(text in "\\PC{0,20}@\\PC{0,20}") {
            if let Ok(address) = text.parse::<EmailAddress>() {
                let clean = |letter: char| !letter.is_control() && !" <>,;:\"".contains(letter);
                prop_assert!(address.as_str().chars().all(clean));
            }
        }
    }
}

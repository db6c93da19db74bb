//! What each operation takes and brings, as data.

use super::input::Type;
use crate::plan::{
    BODY_CHARS_MAX, ExportFormat, ItemKind, LOCATION_CHARS_MAX, QUERY_CHARS_MAX, ShareRole, TITLE_CHARS_MAX,
};

/// What a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// One line of at most so many characters.
    Line(usize),
    /// Lines of at most so many characters.
    Lines(usize),
    /// A count of results.
    Limit,
    Boolean,
    Time,
    /// People to write to.
    People,
    /// What the operation works on.
    Item(ItemKind),
    /// Names of labels.
    Labels,
    /// What people may do with a file: the name of a [`ShareRole`].
    Role,
    /// A form of a document: the name of an [`ExportFormat`].
    Format,
}

impl Takes {
    /// The type of an input that may stand there.
    pub(super) const fn input(self) -> Option<Type> {
        match self {
            Self::Line(_) | Self::Lines(_) | Self::Labels | Self::Role | Self::Format => Some(Type::Text),
            Self::Limit => Some(Type::Integer),
            Self::Boolean => Some(Type::Boolean),
            Self::Time => Some(Type::Time),
            Self::People => Some(Type::Addresses),
            Self::Item(_) => None,
        }
    }

    /// The texts that it takes, where those are few and known.
    pub(super) fn names(self) -> Option<Vec<&'static str>> {
        match self {
            Self::Role => Some(ShareRole::ALL.map(ShareRole::name).to_vec()),
            Self::Format => Some(ExportFormat::ALL.map(ExportFormat::name).to_vec()),
            _ => None,
        }
    }
}

/// A parameter.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) takes: Takes,
    pub(super) is_required: bool,
}

/// An operation.
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) parameters: &'static [Parameter],
    /// The kind of its results; none for one that has none.
    pub(super) brings: Option<ItemKind>,
    /// Whether it brings as many as its limit says, and not just one.
    pub(super) is_list: bool,
    /// Whether it reads a text.
    pub(super) has_text: bool,
}

const fn needed(name: &'static str, takes: Takes) -> Parameter {
    Parameter { name, takes, is_required: true }
}

const fn maybe(name: &'static str, takes: Takes) -> Parameter {
    Parameter { name, takes, is_required: false }
}

const TITLE: Takes = Takes::Line(TITLE_CHARS_MAX);
const QUERY: Takes = Takes::Line(QUERY_CHARS_MAX);
const PLACE: Takes = Takes::Line(LOCATION_CHARS_MAX);
const BODY: Takes = Takes::Lines(BODY_CHARS_MAX);
const MESSAGE: Takes = Takes::Item(ItemKind::Message);
const EVENT: Takes = Takes::Item(ItemKind::Event);
const FILE: Takes = Takes::Item(ItemKind::File);

macro_rules! operations {
    ($($name:literal [$($parameter:expr),*] $brings:expr, $is_list:literal, $has_text:literal;)*) => {
        /// Every operation a step may be.
        pub(super) const OPERATIONS: &[Spec] = &[$(Spec {
            name: $name,
            parameters: &[$($parameter),*],
            brings: $brings,
            is_list: $is_list,
            has_text: $has_text,
        },)*];
    };
}

operations! {
    "gmail.search" [needed("query", QUERY), maybe("limit", Takes::Limit)] Some(ItemKind::Message), true, false;
    "gmail.read" [needed("message", MESSAGE)] Some(ItemKind::Message), false, true;
    "gmail.send" [needed("to", Takes::People), needed("subject", TITLE), needed("body", BODY)]
        Some(ItemKind::Message), false, false;
    "gmail.draft" [needed("to", Takes::People), needed("subject", TITLE), needed("body", BODY)]
        Some(ItemKind::Message), false, false;
    "gmail.reply" [needed("message", MESSAGE), needed("body", BODY)] Some(ItemKind::Message), false, false;
    "gmail.forward" [needed("message", MESSAGE), needed("to", Takes::People), needed("body", BODY)]
        Some(ItemKind::Message), false, false;
    "gmail.label" [needed("message", MESSAGE), maybe("add", Takes::Labels), maybe("remove", Takes::Labels)]
        Some(ItemKind::Message), false, false;
    "gmail.trash" [needed("message", MESSAGE)] Some(ItemKind::Message), false, false;
    "calendar.list" [maybe("from", Takes::Time), maybe("to", Takes::Time), maybe("query", QUERY), maybe("limit", Takes::Limit)]
        Some(ItemKind::Event), true, false;
    "calendar.create" [needed("title", TITLE), needed("start", Takes::Time), maybe("end", Takes::Time),
        maybe("attendees", Takes::People), maybe("location", PLACE), maybe("description", BODY)]
        Some(ItemKind::Event), false, false;
    "calendar.change" [needed("event", EVENT), maybe("title", TITLE), maybe("start", Takes::Time), maybe("end", Takes::Time),
        maybe("location", PLACE), maybe("add_attendees", Takes::People)] Some(ItemKind::Event), false, false;
    "calendar.delete" [needed("event", EVENT)] None, false, false;
    "calendar.free_busy" [needed("from", Takes::Time), needed("to", Takes::Time), maybe("people", Takes::People)]
        None, false, true;
    "drive.search" [needed("text", QUERY), maybe("limit", Takes::Limit)] Some(ItemKind::File), true, false;
    "drive.read" [needed("file", FILE)] Some(ItemKind::File), false, true;
    "drive.export" [needed("file", FILE), needed("format", Takes::Format)] Some(ItemKind::File), false, true;
    "drive.create" [needed("name", TITLE), maybe("folder", Takes::Boolean), maybe("text", BODY)] Some(ItemKind::File), false, false;
    "drive.share" [needed("file", FILE), needed("people", Takes::People), maybe("role", Takes::Role)]
        Some(ItemKind::File), false, false;
    "drive.move" [needed("file", FILE), needed("folder", FILE)] Some(ItemKind::File), false, false;
    "drive.trash" [needed("file", FILE)] Some(ItemKind::File), false, false;
}

/// The operation of this name.
pub(super) fn find(name: &str) -> Option<&'static Spec> {
    OPERATIONS.iter().find(|spec| spec.name == name)
}

/// The names of every operation a step may be, in a plan or in a workflow.
pub fn operation_names() -> impl Iterator<Item = &'static str> {
    OPERATIONS.iter().map(|spec| spec.name)
}

//! When a step is carried out.
//!
//! ```json
//! {"exists": "$steps.find.messages[0]"}      {"equals": ["$input.kind", "urgent"]}      {"contains": ["$steps.read.text", "invoice"]}
//! {"greater": ["$steps.find.count", 3]}      {"less": ["$steps.find.count", 3]}          {"not": ...}  {"all": [...]}  {"any": [...]}
//! ```
//! What is not there exists not, equals nothing, holds nothing, and is neither greater nor less.

use serde_json::Value;

use super::fill::Found;
use super::input::Input;
use super::reference::Reference;

/// A condition that was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition(pub(super) Test);

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Test {
    Exists(Reference),
    Compare(Comparison, Operand, Operand),
    Not(Box<Self>),
    All(Vec<Self>),
    Any(Vec<Self>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equals,
    Contains,
    Greater,
    Less,
}

impl Comparison {
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "equals" => Self::Equals,
            "contains" => Self::Contains,
            "greater" => Self::Greater,
            "less" => Self::Less,
            _ => return None,
        })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Operand {
    Constant(Value),
    Place(Reference),
}

impl Operand {
    fn value(&self, input: &Input, found: &dyn Found) -> Option<Value> {
        match self {
            Self::Constant(value) => Some(value.clone()),
            Self::Place(place) => place.value(input, found),
        }
    }
}

impl Condition {
    /// Whether the step is carried out.
    #[must_use]
    pub fn holds(&self, input: &Input, found: &dyn Found) -> bool {
        self.0.holds(input, found)
    }
}

impl Test {
    fn holds(&self, input: &Input, found: &dyn Found) -> bool {
        match self {
            Self::Exists(place) => match place.value(input, found) {
                None => false,
                Some(Value::String(text)) => !text.is_empty(),
                Some(Value::Array(all)) => !all.is_empty(),
                Some(_) => true,
            },
            Self::Not(test) => !test.holds(input, found),
            Self::All(tests) => tests.iter().all(|test| test.holds(input, found)),
            Self::Any(tests) => tests.iter().any(|test| test.holds(input, found)),
            Self::Compare(comparison, left, right) => {
                let (Some(left), Some(right)) = (left.value(input, found), right.value(input, found)) else {
                    return false;
                };
                compare(*comparison, &left, &right)
            }
        }
    }
}

fn compare(comparison: Comparison, left: &Value, right: &Value) -> bool {
    match (comparison, left, right) {
        // People write addresses and words in whatever case they like.
        (Comparison::Equals, Value::String(left), Value::String(right)) => {
            left.to_lowercase() == right.to_lowercase()
        }
        (Comparison::Equals, left, right) => left == right,
        (Comparison::Contains, Value::String(left), Value::String(right)) => {
            left.to_lowercase().contains(&right.to_lowercase())
        }
        (Comparison::Greater, left, right) => left.as_i64() > right.as_i64(),
        (Comparison::Less, left, right) => left.as_i64() < right.as_i64(),
        (Comparison::Contains, ..) => false,
    }
}

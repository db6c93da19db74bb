//! Fills the places of a step with what the run was given and what earlier steps brought.

use serde_json::{Map, Value};

use super::input::Input;
use super::operations::Takes;
use super::reference::{Part, Reference, What};
use crate::plan::{Item, Operation, clip};

/// What earlier steps brought. Steps are counted from 0, in the order of the definition.
pub trait Found {
    /// One of a step's results.
    fn item(&self, step: usize, index: u8) -> Option<Item>;
    /// How many results a step has.
    fn count(&self, step: usize) -> usize;
    /// What a step read.
    fn text(&self, step: usize) -> Option<String>;
}

/// Why the places of a step cannot be filled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    /// A step brought less than what is referred to.
    #[error("{parameter} refers to {wanted}, which is not there")]
    Missing {
        /// The parameter.
        parameter: &'static str,
        /// What is missing.
        wanted: String,
    },
    /// What came out is none that the operation takes.
    #[error("{field} {problem}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// What came out is none of the few texts that are taken there.
    #[error("{parameter} came out as “{text}”, which is none of {wanted}")]
    Unknown {
        /// The parameter.
        parameter: &'static str,
        /// What came out.
        text: String,
        /// What is taken there.
        wanted: String,
    },
}

/// An operation with places.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Template {
    pub(super) operation: &'static str,
    pub(super) parameters: Vec<(&'static str, Filling)>,
}

/// What stands for a parameter.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Filling {
    Constant(Value),
    Text {
        parts: Vec<TextPart>,
        takes: Takes,
    },
    /// An input as it is.
    Input(String),
    People(Vec<Addressee>),
    /// Constants and texts.
    Labels(Vec<Self>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum TextPart {
    Constant(String),
    Place(Reference),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Addressee {
    /// An address, or a reference as plans have them.
    Constant(String),
    Input(String),
}

impl Template {
    /// The operation with everything filled in.
    pub(super) fn fill(&self, input: &Input, found: &dyn Found) -> Result<Operation, FillError> {
        let mut call = Map::new();
        call.insert("operation".to_owned(), Value::from(self.operation));
        for (name, filling) in &self.parameters {
            call.insert((*name).to_owned(), filling.fill(name, input, found)?);
        }
        operation(call)
    }
}

/// An operation out of its fields, checked.
pub(super) fn operation(call: Map<String, Value>) -> Result<Operation, FillError> {
    let wrong = |problem: String| FillError::Field { field: "call", problem };
    let call: Operation = serde_json::from_value(call.into()).map_err(|error| wrong(error.to_string()))?;
    call.check_fields()
        .map_err(|(field, problem)| FillError::Field { field, problem: problem.to_owned() })?;
    Ok(call)
}

impl Filling {
    fn fill(&self, parameter: &'static str, input: &Input, found: &dyn Found) -> Result<Value, FillError> {
        let of_input = |name: &str| {
            let wanted = || FillError::Missing { parameter, wanted: format!("$input.{name}") };
            input.get(name).cloned().ok_or_else(wanted)
        };
        match self {
            Self::Constant(value) => Ok(value.clone()),
            Self::Input(name) => of_input(name),
            Self::People(people) => {
                let mut addresses = Vec::with_capacity(people.len());
                for person in people {
                    match person {
                        Addressee::Constant(text) => addresses.push(Value::from(text.as_str())),
                        Addressee::Input(name) => match of_input(name)? {
                            Value::Array(many) => addresses.extend(many),
                            one => addresses.push(one),
                        },
                    }
                }
                Ok(Value::Array(addresses))
            }
            Self::Labels(labels) => {
                let filled = labels.iter().map(|label| label.fill(parameter, input, found));
                filled.collect::<Result<Vec<Value>, _>>().map(Value::Array)
            }
            Self::Text { parts, takes } => {
                let mut text = String::new();
                for part in parts {
                    match part {
                        TextPart::Constant(constant) => text.push_str(constant),
                        TextPart::Place(place) => {
                            let missing = || FillError::Missing { parameter, wanted: place.told() };
                            let value = place.value(input, found).ok_or_else(missing)?;
                            match value {
                                Value::String(value) => text.push_str(&value),
                                value => text.push_str(&value.to_string()),
                            }
                        }
                    }
                }
                named(parameter, fitted(text, *takes), *takes).map(Value::from)
            }
        }
    }
}

/// A text that was put together, where only some are taken: whatever its case, and as those are written.
fn named(parameter: &'static str, text: String, takes: Takes) -> Result<String, FillError> {
    let Some(names) = takes.names() else { return Ok(text) };
    let wanted = text.trim().to_lowercase();
    if names.contains(&wanted.as_str()) {
        return Ok(wanted);
    }
    Err(FillError::Unknown { parameter, text: clip(&text), wanted: names.join(", ") })
}

/// A text that was put together, without what its place cannot hold and cut to what it may.
fn fitted(text: String, takes: Takes) -> String {
    let (chars_max, is_line) = match takes {
        Takes::Line(chars_max) => (chars_max, true),
        Takes::Lines(chars_max) => (chars_max, false),
        _ => return text,
    };
    let breaks = |letter| matches!(letter, '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}');
    let clean: String = text
        .chars()
        .filter_map(|letter| match letter {
            letter if breaks(letter) => Some(if is_line { ' ' } else { letter }),
            letter if letter.is_control() => None,
            letter => Some(letter),
        })
        .collect();
    match clean.char_indices().nth(chars_max) {
        None => clean,
        Some(_) => clean.chars().take(chars_max - 1).chain(['…']).collect(),
    }
}

impl Reference {
    /// What it stands for: a text, a number or a truth value, or a list of addresses; `None` when it is not there.
    pub(super) fn value(&self, input: &Input, found: &dyn Found) -> Option<Value> {
        let (step, what) = match self {
            Self::Input(name) => return input.get(name).cloned(),
            Self::Step { step, what } => (*step, *what),
        };
        Some(match what {
            What::Count => Value::from(found.count(step)),
            What::Text => Value::from(found.text(step)?),
            What::Item { index, part, .. } => {
                let item = found.item(step, index)?;
                Value::from(match part {
                    Part::Whole | Part::Id => item.id,
                    Part::Title => item.title,
                    Part::From => item.person?.address,
                    Part::When => item.when?,
                    Part::ThreadId => item.thread_id?,
                    Part::Snippet => item.snippet?,
                })
            }
        })
    }

    /// As people are told of it; steps by their number.
    fn told(&self) -> String {
        match self {
            Self::Input(name) => format!("$input.{name}"),
            Self::Step { step, what: What::Count } => format!("the count of step {}", step + 1),
            Self::Step { step, what: What::Text } => format!("the text of step {}", step + 1),
            Self::Step { step, what: What::Item { kind, index, part } } => {
                let of = match part {
                    Part::Whole | Part::Id => "",
                    Part::Title => "the title of ",
                    Part::From => "the person of ",
                    Part::When => "the time of ",
                    Part::ThreadId => "the thread of ",
                    Part::Snippet => "the first words of ",
                };
                format!("{of}{kind} {} of step {}", u16::from(*index) + 1, step + 1)
            }
        }
    }
}

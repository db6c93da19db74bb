//! What a run of a workflow is given.

use serde_json::{Map, Value};

use super::{FAULTS_MAX, Fault, Faults};
use crate::plan::{BODY_CHARS_MAX, DateTimeLocal, EmailAddress, RECIPIENTS_MAX};

/// What a value may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Integer,
    Boolean,
    /// A civil time, as plans have them.
    Time,
    /// One e-mail address.
    Address,
    /// A list of addresses.
    Addresses,
}

impl Type {
    pub(super) const ALL: [Self; 6] =
        [Self::Text, Self::Integer, Self::Boolean, Self::Time, Self::Address, Self::Addresses];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "integer",
            Self::Boolean => "boolean",
            Self::Time => "time",
            Self::Address => "address",
            Self::Addresses => "addresses",
        }
    }

    /// Whether a value of this type may stand where a text is wanted.
    pub(super) const fn is_textual(self) -> bool {
        matches!(self, Self::Text | Self::Time | Self::Address)
    }

    /// Why a value is none of this type.
    pub(super) fn refuse(self, value: &Value) -> Option<String> {
        let address = |value: &Value| value.as_str().is_some_and(|text| text.parse::<EmailAddress>().is_ok());
        let fits = match self {
            Self::Text => value.as_str().is_some_and(|text| text.chars().count() <= BODY_CHARS_MAX),
            Self::Integer => value.as_i64().is_some(),
            Self::Boolean => value.is_boolean(),
            Self::Time => value.as_str().is_some_and(|text| text.parse::<DateTimeLocal>().is_ok()),
            Self::Address => address(value),
            Self::Addresses => {
                value.as_array().is_some_and(|all| all.len() <= RECIPIENTS_MAX && all.iter().all(address))
            }
        };
        if fits {
            return None;
        }
        Some(match self {
            Self::Text => format!("must be a text of at most {BODY_CHARS_MAX} characters"),
            Self::Integer => "must be a whole number".to_owned(),
            Self::Boolean => "must be true or false".to_owned(),
            Self::Time => "must be a time YYYY-MM-DDTHH:MM or a day YYYY-MM-DD".to_owned(),
            Self::Address => "must be an e-mail address".to_owned(),
            Self::Addresses => format!("must be a list of at most {RECIPIENTS_MAX} e-mail addresses"),
        })
    }
}

/// A declared input.
#[derive(Clone, Debug, PartialEq)]
pub struct InputSpec {
    pub(super) name: String,
    pub(super) kind: Type,
    /// What it is when a run does not say; none makes it required.
    pub(super) default: Option<Value>,
}

impl InputSpec {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What a run is given, checked and whole: every declared input has a value of its type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Input(Map<String, Value>);

impl Input {
    pub(super) fn check(specs: &[InputSpec], given: &Value) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let mut fault = |pointer: String, detail: &str| {
            faults.push(Fault { step: None, pointer, detail: detail.to_owned() });
        };
        let nothing = Map::new();
        let given = match given {
            Value::Null => &nothing,
            Value::Object(given) => given,
            _ => {
                fault("/input".to_owned(), "must be an object");
                &nothing
            }
        };
        let mut values = Map::new();
        for spec in specs {
            let value = given.get(&spec.name).filter(|value| !value.is_null()).or(spec.default.as_ref());
            match value.map(|value| (value, spec.kind.refuse(value))) {
                None => fault(format!("/input/{}", spec.name), "is missing"),
                Some((_, Some(detail))) => fault(format!("/input/{}", spec.name), &detail),
                Some((value, None)) => {
                    values.insert(spec.name.clone(), value.clone());
                }
            }
        }
        for name in given.keys().filter(|name| specs.iter().all(|spec| spec.name != **name)) {
            fault(super::check::pointer("/input", name), "there is no such input");
        }
        faults.truncate(FAULTS_MAX);
        if faults.is_empty() { Ok(Self(values)) } else { Err(Faults(faults)) }
    }

    /// As JSON, for a task's record.
    #[must_use]
    pub fn to_value(&self) -> Value {
        Value::Object(self.0.clone())
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }
}

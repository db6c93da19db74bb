//! What a command means, worked out here: plain patterns for common commands, and patterns learned from the model.
//!
//! [`parse`] reads a command by rules; [`pattern`] turns a command that the model has planned into a template for
//! commands that differ from it in names, numbers and days alone.
//!
//! Invariants:
//! - Every word counts: what is left over, said twice or unclear makes the answer `None`, which means: ask the model.
//!   A wrong guess is worse than a call.
//! - A plan from here passes [`Plan::validate`]; the same command in the same setting gives the same plan.
//! - Words of a command reach a search only as words: no operator of a search syntax gets in.
//! - What changes something outside needs [`SIDE_EFFECT_CONFIDENCE_MIN`], whatever is enough for reading.

mod calendar;
mod files;
mod mail;
pub mod pattern;
mod people;
mod reference;
#[cfg(test)]
mod tests;
mod when;
mod words;

use std::fmt;

use jiff::ZonedDateTime;
use serde::{Deserialize, Serialize};

use crate::plan::{Handle, Item, Operation, Plan, Step, StepId};
use words::{Scan, polite, polite_end};

/// How sure a guess must be before anything is sent, made, changed or cancelled on the strength of it.
pub const SIDE_EFFECT_CONFIDENCE_MIN: Confidence = Confidence(950);
/// The longest command that is read by rules, in bytes; longer ones go to the model.
pub const COMMAND_BYTES_MAX: usize = 4 * 1024;

/// How sure a guess is, from 0 to 1 in steps of a thousandth.
///
/// It is a property of a pattern, set by what was measured on commands of real people
/// (`docs/intents.md`), not a probability worked out for one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Confidence(u16);

impl Confidence {
    /// Beyond doubt.
    pub const ONE: Self = Self(1_000);

    /// So many thousandths; more than 1,000 are 1,000.
    #[must_use]
    pub const fn per_mille(thousandths: u16) -> Self {
        Self(if thousandths > 1_000 { 1_000 } else { thousandths })
    }

    /// From 0 to 1; what is beyond, or no number, is the nearer end.
    #[must_use]
    pub fn from_ratio(ratio: f64) -> Self {
        let thousandths = (0..=1_000_u16).find(|step| f64::from(*step) >= ratio * 1_000.0 - 1e-6);
        thousandths.map_or(Self::ONE, Self)
    }

    /// In thousandths, 0 to 1,000.
    #[must_use]
    pub const fn thousandths(self) -> u16 {
        self.0
    }

    /// From 0 to 1.
    #[must_use]
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / 1_000.0
    }
}

impl fmt::Display for Confidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.ratio())
    }
}

/// Who made a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IntentSource {
    /// The rules of [`parse`].
    Local,
    /// A template of an earlier plan of the model.
    Pattern,
    /// The model.
    Model,
}

impl IntentSource {
    /// The name as it stands in JSON and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Pattern => "pattern",
            Self::Model => "model",
        }
    }
}

/// What a command is said against.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// The moment, on the user's clock.
    pub now: &'a ZonedDateTime,
    /// What the newest command of the session found or made.
    pub newest: &'a dyn Newest,
}

/// What the newest command of a session found or made. Most commands do not refer to it, so it is read when it is asked
/// for.
pub trait Newest: fmt::Debug {
    /// The items; none where it found nothing, or was the first.
    fn items(&self) -> &[Remembered];
}

impl Newest for Vec<Remembered> {
    fn items(&self) -> &[Remembered] {
        self
    }
}

/// An item of the session, by its name there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The name.
    pub handle: Handle,
    /// What it is.
    pub item: Item,
}

/// What a command was taken to mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guess {
    /// What to do.
    pub plan: Plan,
    /// How sure that is.
    pub confidence: Confidence,
    /// The pattern that fitted, for logs and measurements.
    pub pattern: &'static str,
}

impl Guess {
    /// Whether it is sure enough to act on, when `confidence_min` is enough for reading.
    #[must_use]
    pub fn is_enough(&self, confidence_min: Confidence) -> bool {
        let acts = self.plan.steps().iter().any(|step| step.call.is_side_effect());
        let needed = if acts { confidence_min.max(SIDE_EFFECT_CONFIDENCE_MIN) } else { confidence_min };
        self.confidence >= needed
    }

    fn new(pattern: &'static str, thousandths: u16, calls: Vec<Operation>) -> Option<Self> {
        let steps = calls.into_iter().zip(1u8..);
        let steps: Option<Vec<Step>> =
            steps.map(|(call, id)| Some(Step { id: StepId::new(id)?, after: Vec::new(), call })).collect();
        Some(Self { plan: Plan::act(steps?), confidence: Confidence(thousandths), pattern })
    }

    fn capped(mut self, thousandths: u16) -> Self {
        self.confidence = self.confidence.min(Confidence(thousandths));
        self
    }
}

/// What the command means, if the rules understand all of it; `None`: ask the model. Any confidence is returned:
/// see [`Guess::is_enough`].
#[must_use]
pub fn parse(command: &str, setting: &Setting<'_>) -> Option<Guess> {
    if command.len() > COMMAND_BYTES_MAX || command.chars().any(char::is_control) {
        return None;
    }
    let words = words::words(command)?;
    let whole = polite(Scan::new(command, &words));
    // What ends in a text of the user's comes first: its last words are not ours to leave out.
    let guess = mail::dictated(whole, setting).or_else(|| {
        let scan = polite_end(whole);
        if scan.rest().iter().rev().skip(1).any(|word| word.stop) {
            // Two sentences, or a list: more than these patterns say.
            return None;
        }
        mail::parse(scan, setting)
            .or_else(|| calendar::parse(scan, setting))
            .or_else(|| files::parse(scan, setting))
    })?;
    guess.plan.validate().ok()?;
    Some(guess)
}

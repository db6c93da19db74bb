//! From a command to a plan without the model, where that is certain: the rules first, then the patterns that this
//! core has learned from the model's plans.
//!
//! Invariant: a pattern is learned only from an answer that the model gave to a command alone, with no earlier turn of a
//! session in its view, for patterns serve all users of a core.

mod cache;

use std::time::Duration;

use jiff::ZonedDateTime;
use sluice_protocols::intent::pattern::{Normalised, PlanTemplate, normalise};
use sluice_protocols::intent::{Confidence, IntentSource, Newest, Setting, parse};
use sluice_protocols::plan::{Decision, Plan};

pub use cache::{CacheLimits, PatternCache, Stored};

use crate::env::Env;

/// What is understood without the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntentConfig {
    /// Whether common commands are read by rules. Default true.
    pub local: bool,
    /// How sure that must be for reading; what changes something needs 0.95 besides. Default 0.9.
    pub confidence_min: Confidence,
    /// How long a pattern learned from the model is used; zero learns none. Default 1 day.
    pub pattern_ttl: Duration,
    /// Bytes of patterns kept on a core; zero learns none. Default 4 MiB.
    pub pattern_cache_bytes_max: usize,
}

impl Default for IntentConfig {
    fn default() -> Self {
        Self {
            local: true,
            confidence_min: Confidence::per_mille(900),
            pattern_ttl: Duration::from_secs(24 * 60 * 60),
            pattern_cache_bytes_max: 4 << 20,
        }
    }
}

/// What a command was taken to mean, and by whom.
pub(crate) struct Understood {
    pub(crate) plan: Plan,
    pub(crate) source: IntentSource,
    pub(crate) confidence: Confidence,
}

/// What a session remembers, as far as it matters here.
pub(crate) struct Known<'a> {
    /// What its last command found or made.
    pub(crate) newest: &'a dyn Newest,
    /// Whether it remembers any command, which the model is then shown.
    pub(crate) has_turns: bool,
    /// Whether any of its commands found something.
    pub(crate) has_items: bool,
}

/// A command the model is asked about, ready to be learned from.
pub(crate) struct Question {
    normalised: Option<Normalised>,
    /// Whether the model sees the command alone.
    is_alone: bool,
}

/// The plan of a command that needs no model; else what to remember until the model has answered. A refusal that was
/// learned is not used for a user who `has_language`: it is told in the gateway's words.
pub(crate) fn understand(
    env: &Env,
    command: &str,
    now: &ZonedDateTime,
    known: &Known<'_>,
    has_language: bool,
) -> Result<Understood, Question> {
    let config = &env.config.intent;
    if config.local
        && let Some(guess) = parse(command, &Setting { now, newest: known.newest })
    {
        if guess.is_enough(config.confidence_min) {
            env.stats.intents_local.add(1);
            tracing::debug!(pattern = guess.pattern, confidence = %guess.confidence, "understood by rules");
            return Ok(Understood {
                plan: guess.plan,
                source: IntentSource::Local,
                confidence: guess.confidence,
            });
        }
        env.stats.intents_unsure.add(1);
    }
    let remembers = known.has_items;
    let question = Question {
        normalised: if env.patterns.is_off() { None } else { normalise(command, now) },
        is_alone: !known.has_turns,
    };
    let known = question.normalised.as_ref().and_then(|command| {
        let template = env.patterns.get(command.key(), env.clock.unix_ms())?;
        if remembers && !template.is_free_of_context() {
            return None;
        }
        template.fill(command).filter(|plan| !has_language || matches!(plan.decision, Decision::Act(_)))
    });
    match known {
        Some(plan) => {
            env.stats.intents_pattern.add(1);
            Ok(Understood { plan, source: IntentSource::Pattern, confidence: Confidence::ONE })
        }
        None => {
            if question.normalised.is_some() {
                env.stats.patterns_missed.add(1);
            }
            Err(question)
        }
    }
}

/// Learns a pattern from the model's plan, when the model was shown nothing but the command and the plan can be proved to
/// hold for other commands.
pub(crate) fn learn(env: &Env, question: Question, plan: Plan) -> Understood {
    env.stats.intents_model.add(1);
    if let Some(command) = question.normalised.filter(|_| question.is_alone) {
        match PlanTemplate::new(&command, &plan) {
            Some(template) => {
                let stored = env.patterns.put(command.key().clone(), template, env.clock.unix_ms());
                env.stats.patterns_learned.add(u64::from(stored.kept));
                env.stats.patterns_evicted.add(stored.evicted);
            }
            None => env.stats.patterns_unfit.add(1),
        }
    }
    Understood { plan, source: IntentSource::Model, confidence: Confidence::ONE }
}

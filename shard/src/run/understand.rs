//! From a command to its plan, as a run makes it, and as who only asks for the plan is told.

use std::cell::OnceCell;
use std::time::Instant;

use jiff::tz::TimeZone;
use sluice_protocols::api::{IntentPlanView, IntentView, Priority, ReferenceView};
use sluice_protocols::ids::UserId;
use sluice_protocols::intent::{Newest, Remembered};
use sluice_protocols::openai::{Context, ContextItem, ContextTurn};
use sluice_protocols::plan::{DateTimeLocal, Plan};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_protocols::workflow::Graph;
use sluice_store::record::ItemRecord;

use super::known::{self, Known};
use crate::env::Env;
use crate::intent::{self, Understood};
use crate::sessions::Recent;
use crate::upstream::meter::Meter;
use crate::upstream::openai;

/// A command, and what its meaning depends on.
pub(super) struct Asked<'a> {
    pub(super) command: &'a str,
    pub(super) user: &'a UserId,
    /// The turns of its session, oldest first.
    pub(super) recent: &'a Recent,
    pub(super) zone: &'a TimeZone,
    pub(super) zone_name: &'a str,
    /// The language that the model is to write to the user in, where they named one.
    pub(super) language: Option<&'a str>,
    pub(super) priority: Priority,
    pub(super) deadline: Instant,
}

impl Asked<'_> {
    /// What the command means: by rules, by a pattern, or by the model.
    ///
    /// # Errors
    /// What kept the model from answering.
    pub(super) async fn understand(&self, env: &Env, meter: &Meter) -> Result<Understood, Problem> {
        let now = env.clock.timestamp().to_zoned_datetime(self.zone.clone());
        let newest = Last { recent: self.recent, items: OnceCell::new() };
        let (has_turns, has_items) = (!self.recent.is_empty(), self.recent.has_items());
        let remembered = intent::Known { newest: &newest, has_turns, has_items };
        let unknown = match intent::understand(env, self.command, &now, &remembered, self.language.is_some())
        {
            Ok(understood) => return Ok(understood),
            Err(unknown) => unknown,
        };
        let context = self.context(env)?;
        let Self { command, user, priority, deadline, .. } = *self;
        let question = openai::Question { command, context: &context, user, priority, deadline };
        let plan = Box::pin(openai::plan(env, meter, &question)).await?;
        Ok(intent::learn(env, unknown, plan))
    }

    fn context(&self, env: &Env) -> Result<Context, Problem> {
        let now = env.clock.timestamp().to_zoned_datetime(self.zone.clone()).datetime();
        let now = DateTimeLocal::minute(now)
            .ok_or_else(|| Problem::new(ProblemKind::Internal, "the gateway's clock is out of bounds"))?;
        let turns = self.recent.turns().iter().map(|turn| ContextTurn {
            turn: turn.number,
            command: turn.command.clone(),
            items: turn.items.iter().filter_map(context_item).collect(),
        });
        Ok(Context::new(now, self.zone_name, turns.collect()).in_language(self.language))
    }
}

/// What the last command found, for references to it: rules look no further back.
#[derive(Debug)]
struct Last<'a> {
    recent: &'a Recent,
    items: OnceCell<Vec<Remembered>>,
}

impl Newest for Last<'_> {
    fn items(&self) -> &[Remembered] {
        let item = |record: &ItemRecord| {
            Some(Remembered { handle: record.handle.parse().ok()?, item: known::item_of(record)? })
        };
        let turn = || self.recent.last().iter().flat_map(|turn| &turn.items).filter_map(item).collect();
        self.items.get_or_init(turn)
    }
}

fn context_item(record: &ItemRecord) -> Option<ContextItem> {
    let handle = record.handle.parse().ok()?;
    Some(ContextItem::new(handle, &known::item_of(record)?))
}

/// The plan of a command that is not to be carried out. Stores nothing and asks no upstream but the model.
///
/// # Errors
/// As of a run whose plan cannot be made.
pub(crate) async fn plan_only(
    env: &Env,
    command: &str,
    user: &UserId,
    recent: &Recent,
    (time_zone, language): (&str, Option<&str>),
    deadline: Instant,
) -> Result<IntentPlanView, Problem> {
    let (zone, zone_name) = env.zones.get(time_zone);
    // Whoever asks waits for the answer.
    let priority = Priority::Normal;
    let zone_name_of = zone_name.as_str();
    let asked =
        Asked { command, user, recent, zone: &zone, zone_name: zone_name_of, language, priority, deadline };
    let understood = asked.understand(env, &Meter::default()).await?;
    let intent = IntentView { source: understood.source, confidence: understood.confidence.ratio() };
    let (references, questions) = references(&understood.plan, recent);
    Ok(IntentPlanView { intent, plan: understood.plan, references, questions, time_zone: zone_name })
}

/// What a plan refers to of earlier turns, each once, and what is left to ask where there is nothing of the kind.
fn references(plan: &Plan, recent: &Recent) -> (Vec<ReferenceView>, Vec<String>) {
    let graph = Graph::of_plan(plan);
    let known = Known::new(&graph, recent);
    let (mut found, mut questions) = (Vec::<ReferenceView>::new(), Vec::new());
    let earlier =
        plan.steps().iter().flat_map(|step| step.call.references()).filter(|item| item.step().is_none());
    for reference in earlier {
        let name = reference.to_string();
        if found.iter().any(|view| view.reference == name) {
            continue;
        }
        match known.item(reference) {
            Ok(item) => found.push(ReferenceView { reference: name, item }),
            Err(problem) if questions.iter().all(|known| known != problem.detail()) => {
                questions.push(problem.detail().to_owned());
            }
            Err(_) => {}
        }
    }
    (found, questions)
}

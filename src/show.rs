//! Tasks, their events and dead letters as people read them in a terminal.

use std::fmt::Write as _;

use clap::Args;
use serde_json::Value;
use sluice_protocols::api::{
    CallView, DeadLetterView, StepState, StepView, TaskState, TaskSummary, TaskView,
};
use sluice_protocols::ids::TaskId;
use sluice_protocols::plan::Decision;

use crate::remote::Target;

/// Waits shorter than this are not worth a word.
const SHOWN_US_MIN: u64 = 100;

/// Which task or dead letter is shown, and how.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Its id
    pub(crate) id: TaskId,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Command, plan, calls, answer, and where the time went.
pub(crate) fn task(task: &TaskView) -> String {
    let mut out = String::new();
    line(&mut out, "command", &task.command);
    plan(&mut out, task);
    for step in &task.steps {
        show_step(&mut out, step);
    }
    if let Some(answer) = &task.answer {
        let mut lines = answer.lines();
        line(&mut out, "answer", lines.next().unwrap_or_default());
        for rest in lines {
            line(&mut out, "", rest);
        }
    }
    if let Some(problem) = &task.error {
        line(&mut out, "problem", &format!("{}: {}", problem.kind().slug(), problem.detail()));
    }
    line(&mut out, "state", state(task.state));
    if let Some(timing) = &task.timing {
        let mut text = format!(
            "{} in all: ours {}, OpenAI {}, Google {}",
            millis(timing.total_us),
            millis(timing.own_us),
            millis(timing.openai_us),
            millis(timing.google_us)
        );
        let waits = [
            ("earlier commands", timing.turn_us),
            ("a place", timing.queue_us),
            ("quotas", timing.quota_us),
            ("reads of others", timing.shared_us),
        ];
        for (what, waited_us) in waits.into_iter().filter(|(_, us)| *us >= SHOWN_US_MIN) {
            let _ = write!(text, ", waited for {what} {}", millis(waited_us));
        }
        line(&mut out, "time", &text);
    }
    line(&mut out, "session", &task.session.to_string());
    out
}

/// A dead letter: the task, when it was given up and why.
pub(crate) fn dead_letter(letter: &DeadLetterView) -> String {
    let mut out = String::new();
    line(&mut out, "dead", &letter.task.id.to_string());
    if let Some(at) = &letter.at {
        line(&mut out, "since", &at.to_string());
    }
    if letter.edited {
        line(&mut out, "edited", "redriven, it is a new task");
    }
    out + &task(&letter.task)
}

/// A dead letter in a list.
pub(crate) fn dead_letter_line(task: &TaskSummary) -> String {
    let why = task.error.as_ref().map_or("", |problem| problem.kind().slug());
    format!("{}  {}  {why}  {}", task.id, task.created, task.command)
}

/// An event in one line.
pub(crate) fn event(name: &str, data: &Value) -> String {
    let step = &data["step"];
    let text = match name {
        "accepted" => data["id"].as_str().unwrap_or_default().to_owned(),
        "step.started" | "step.done" | "step.undone" => {
            let word = |name: &str| step[name].as_str().unwrap_or_default().to_owned();
            format!("{} {} {}", word("id"), word("operation"), word("state"))
        }
        "answer" => data["answer"].as_str().unwrap_or_default().replace('\n', " / "),
        _ => String::new(),
    };
    format!("{name:>21}  {text}").trim_end().to_owned()
}

fn line(out: &mut String, label: &str, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{label:>9}  {text}");
}

fn plan(out: &mut String, task: &TaskView) {
    let Some(plan) = &task.plan else { return };
    match &plan.decision {
        Decision::Act(steps) => {
            for (index, step) in steps.iter().enumerate() {
                let waits: Vec<String> = step.dependencies().iter().map(ToString::to_string).collect();
                let after =
                    if waits.is_empty() { String::new() } else { format!("  after {}", waits.join(", ")) };
                let call = serde_json::to_value(&step.call).unwrap_or_default();
                let text = format!("{} {}{}{after}", step.id, step.call.name(), arguments(&call));
                line(out, if index == 0 { "plan" } else { "" }, &text);
            }
        }
        Decision::Decline { reason } => line(out, "plan", &format!("decline: {reason}")),
    }
}

fn arguments(call: &Value) -> String {
    let fields = call.as_object().into_iter().flatten();
    fields
        .filter(|(name, value)| *name != "operation" && !value.is_null())
        .map(|(name, value)| format!(" {name}={value}"))
        .collect()
}

fn show_step(out: &mut String, step: &StepView) {
    let mark = match step.state {
        StepState::Done => "done",
        StepState::Failed => "failed",
        StepState::Skipped => "skipped",
        StepState::Running => "running",
        StepState::Pending => "pending",
    };
    line(out, &step.id.to_string(), mark);
    for call in &step.calls {
        line(out, "", &show_call(call));
    }
    if let Some(problem) = &step.error {
        line(out, "", &format!("{}: {}", problem.kind().slug(), problem.detail()));
    }
}

fn show_call(call: &CallView) -> String {
    let status = call.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
    let attempts = if call.attempts > 1 { format!("  ({} attempts)", call.attempts) } else { String::new() };
    format!("{} {} -> {status}  {}{attempts}", call.method, call.path, millis(call.duration_us))
}

fn state(state: TaskState) -> &'static str {
    match state {
        TaskState::Queued => "queued",
        TaskState::Running => "running",
        TaskState::Done => "done",
        TaskState::Failed => "failed",
        TaskState::Declined => "declined",
        TaskState::Cancelled => "cancelled",
        TaskState::AwaitingConfirmation => "awaiting confirmation",
    }
}

/// Microseconds as milliseconds, with the digits that matter.
fn millis(us: u64) -> String {
    if us < 10_000 { format!("{}.{:02} ms", us / 1000, us % 1000 / 10) } else { format!("{} ms", us / 1000) }
}

#[cfg(test)]
mod tests {
    use super::millis;

    #[test]
    fn times_keep_the_digits_that_matter() {
        assert_eq!(millis(0), "0.00 ms");
        assert_eq!(millis(1_234), "1.23 ms");
        assert_eq!(millis(123_456), "123 ms");
    }
}

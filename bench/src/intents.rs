//! Measures the local parser of commands on annotated ones: the share it answers, how often it is right, and how
//! often it acts on what is none of its business.
//!
//! Two halves, by a hash of the id: rules may be worked on with the first before one's eyes; the second is for
//! judging. What is measured, for each line:
//! - *intent*: the plan's operations are those of the annotated scenario and action;
//! - *slots*: every annotated entity is found again in the plan. Names, titles and addresses must occur in it word
//!   for word, but for words that the operation itself stands for ("meeting" in a list of events). Days and times are
//!   worked out from the entity's text, with the word before it where the annotation cut that off ("the tenth", "the last
//!   fifteen minutes"), by the simulator's parser, which shares no code with the one that is measured, and must agree with a
//!   time in the plan.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use jiff::ZonedDateTime;
use jiff::civil::DateTime;
use serde::Deserialize;
use sluice_protocols::intent::{Confidence, Guess, Setting, parse};
use sluice_protocols::plan::{Operation, Plan};

use crate::sim::parse::{MONTHS, NamedTime, named_time};

/// What is measured.
#[derive(Debug, clap::Args)]
pub struct IntentsArgs {
    /// Annotated commands about mail and calendar, one JSON object a line.
    #[arg(long, env = "SLUICE_TEST_COMMANDS")]
    commands: PathBuf,
    /// Commands about anything else: none may be acted on.
    #[arg(long, env = "SLUICE_TEST_OTHERS")]
    others: Option<PathBuf>,
    /// The moment the commands are said at.
    #[arg(long, default_value = "2026-11-25T09:40:00+01:00[Europe/Berlin]")]
    now: String,
    /// Fails when of what is answered as configured a smaller share has its intent right, or of its slots a smaller share is
    /// kept, of all commands or of the held-out half, in percent; or when another command is taken for one that changes
    /// something.
    #[arg(long, value_name = "PERCENT", default_value_t = 97.0)]
    precision_min: f64,
    /// Fails when more of the other commands than this are acted on, changing nothing.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    others_max: usize,
    /// Shows every command of the first half that was answered wrongly, and every other one acted on.
    #[arg(long)]
    verbose: bool,
    /// With `--verbose`: shows those of the first half that are right, or not answered, as well.
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Deserialize)]
struct Line {
    id: String,
    text: String,
    scenario: String,
    action: String,
    #[serde(default)]
    entities: Vec<Entity>,
}

#[derive(Debug, Deserialize)]
struct Entity {
    #[serde(rename = "type")]
    kind: String,
    text: String,
}

/// Confidences for which the measures are shown, in thousandths.
const STEPS: [u16; 9] = [0, 850, 880, 900, 910, 930, 950, 960, 970];
/// What the gateway asks for by default.
const DEFAULT: u16 = 900;

/// One line with what the parser made of it.
struct Judged<'a> {
    line: &'a Line,
    guess: Option<Guess>,
    intent: bool,
    slots: usize,
    slots_kept: usize,
}

/// Measures and prints.
///
/// # Errors
/// A file cannot be read or is not of the form.
pub fn run(args: &IntentsArgs) -> anyhow::Result<()> {
    let now: ZonedDateTime = args.now.parse().context("`--now` is no time with a zone")?;
    let setting = Setting { now: &now, newest: &Vec::new() };
    let lines = load(&args.commands)?;
    let judged: Vec<Judged<'_>> = lines.iter().map(|line| judge(line, &setting)).collect();
    for (name, first) in
        [("first half (rules were worked on with it)", true), ("second half (held out)", false)]
    {
        let half: Vec<&Judged<'_>> =
            judged.iter().filter(|judged| is_first(&judged.line.id) == first).collect();
        println!("{name}: {} commands", half.len());
        curve(&half);
    }
    let all: Vec<&Judged<'_>> = judged.iter().collect();
    println!("both: {} commands", all.len());
    curve(&all);
    by_action(&all);
    by_pattern(&all);
    let acted = match &args.others {
        Some(path) => others(&load(path)?, &setting, args.verbose),
        None => Acted::default(),
    };
    latency(&lines, &setting);
    if args.verbose {
        show(&judged, args.all);
    }
    let held_out = judged.iter().filter(|judged| !is_first(&judged.line.id));
    for (name, tally) in
        [("all commands", configured(judged.iter())), ("the held-out half", configured(held_out))]
    {
        for (what, right, of) in tally.shares() {
            let percent = 100.0 * right as f64 / of.max(1) as f64;
            ensure!(
                of == 0 || percent >= args.precision_min,
                "of {name}, {percent:.1} % of the {what} are right; asked are {} %",
                args.precision_min
            );
        }
    }
    ensure!(acted.with_effects == 0, "{} of the others would change something", acted.with_effects);
    ensure!(
        acted.all <= args.others_max,
        "{} of the others are acted on; {} may be",
        acted.all,
        args.others_max
    );
    Ok(())
}

/// What is answered as the gateway is configured by default.
fn configured<'a>(judged: impl Iterator<Item = &'a Judged<'a>>) -> Tally {
    let default = Confidence::per_mille(DEFAULT);
    Tally::of(judged, |guess| guess.is_enough(default))
}

fn load(path: &Path) -> anyhow::Result<Vec<Line>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(at, line)| {
            serde_json::from_str(line).with_context(|| format!("{} line {}", path.display(), at + 1))
        })
        .collect()
}

/// Whether a line belongs to the half that rules are worked on with: by FNV-1a of its id.
fn is_first(id: &str) -> bool {
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 32) & 1 == 0
}

fn judge<'a>(line: &'a Line, setting: &Setting<'_>) -> Judged<'a> {
    let guess = parse(&line.text, setting);
    let intent = guess.as_ref().is_some_and(|guess| is_meant(line, &guess.plan));
    let slots = line.entities.len();
    let kept = |guess: &Guess| {
        line.entities.iter().filter(|entity| is_kept(entity, line, guess, setting.now)).count()
    };
    let slots_kept = guess.as_ref().map_or(0, kept);
    Judged { line, guess, intent, slots, slots_kept }
}

/// Whether the last step, which is what the plan is for, is what the annotation says.
fn is_meant(line: &Line, plan: &Plan) -> bool {
    let Some(last) = plan.steps().last() else { return false };
    let wanted: &[&str] = match (line.scenario.as_str(), line.action.as_str()) {
        ("email", "query") => &["gmail.search", "gmail.read"],
        ("email", "sendemail") => &["gmail.send", "gmail.reply"],
        ("calendar", "query") => &["calendar.list"],
        ("calendar", "set") => &["calendar.create", "calendar.change"],
        ("calendar", "remove") => &["calendar.delete"],
        _ => &[],
    };
    wanted.contains(&last.call.name())
}

/// Words an operation stands for, or that only point.
const UNDERSTOOD: &[&str] = &[
    "meeting",
    "meetings",
    "event",
    "events",
    "appointment",
    "appointments",
    "reminder",
    "reminders",
    "calendar",
    "inbox",
    "my",
    "the",
    "a",
    "an",
    "next",
    "of",
    "scheduled",
    "upcoming",
    "up",
    "coming",
    "future",
    "unread",
    "new",
    "recent",
];

fn is_kept(entity: &Entity, line: &Line, guess: &Guess, now: &ZonedDateTime) -> bool {
    match entity.kind.as_str() {
        "date" | "time" | "timeofday" | "general_frequency" => time_is_kept(entity, line, guess, now),
        _ => words_are_kept(&entity.text, &guess.plan),
    }
}

fn words_are_kept(text: &str, plan: &Plan) -> bool {
    let json = serde_json::to_string(plan).unwrap_or_default().to_lowercase();
    let held: Vec<&str> = json.split(|letter: char| !letter.is_alphanumeric()).collect();
    let text = text.to_lowercase().replace(" dot ", ".").replace("'s", "");
    let mut words = text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
    words.all(|word| UNDERSTOOD.contains(&word) || held.contains(&word))
}

/// Whether the witness's reading of the entity agrees with a time in the plan: the same first day (of several days
/// the last will do: what is left of this week ends with it), and where it
/// names a time of day, the same hour and minute. What only the whole command tells (which half of the day a bare
/// hour is in) may differ by twelve hours. Names of parts of a day need a time within them.
fn time_is_kept(entity: &Entity, line: &Line, guess: &Guess, now: &ZonedDateTime) -> bool {
    let times = times_of(&guess.plan, now);
    let text = entity.text.to_lowercase();
    let part = [
        ("morning", 0..12),
        ("afternoon", 12..18),
        ("evening", 17..24),
        ("tonight", 17..24),
        ("night", 17..24),
    ];
    if let Some((_, hours)) = part.into_iter().find(|(name, _)| text.ends_with(name)) {
        return times.iter().any(|at| hours.contains(&at.hour()));
    }
    // What is left of this week or month ends with it.
    let today = now.date();
    let last = match text.as_str() {
        "this week" => Some(i64::from(6 - today.weekday().to_monday_zero_offset())),
        "this month" => Some(i64::from(today.days_in_month() - today.day())),
        _ => None,
    };
    if let Some(days) = last {
        let last = today.checked_add(jiff::Span::new().days(days)).ok();
        return times.iter().any(|at| Some(at.date()) == last);
    }
    if let Some(month) = MONTHS.iter().position(|name| *name == text) {
        return times.iter().any(|at| usize::try_from(at.month()) == Ok(month + 1));
    }
    let Some(found) = read(&text, &line.text.to_lowercase(), now.datetime()) else {
        return words_are_kept(&entity.text, &guess.plan);
    };
    let day = found.day.is_none_or(|day| {
        times.iter().any(|at| at.date() == day || found.last_day == Some(at.date()) && at.date() != day)
    });
    let minute = found.minute.is_none_or(|(hour, minute)| {
        times.iter().any(|at| at.hour() % 12 == hour % 12 && at.minute() == minute)
    });
    (found.day.is_some() || found.minute.is_some()) && day && minute
}

/// The witness's reading of an annotated time in its command.
fn read(text: &str, command: &str, now: DateTime) -> Option<NamedTime> {
    let is_behind = |word: &str| is_said(command, &format!("{word} {text}"));
    let passed = || {
        // A time that has passed is as long as one to come.
        let coming = named_time(&format!("in {text}"), now)?;
        let (hour, minute) = coming.minute?;
        let coming = coming.day?.at(hour, minute, 0, 0);
        let since = now.checked_sub(now.until(coming).ok()?).ok()?;
        let minute = Some((since.hour(), since.minute()));
        Some(NamedTime { day: Some(since.date()), last_day: None, minute })
    };
    let alone = named_time(text, now);
    let with_last = || ["last", "past"].into_iter().any(is_behind).then(passed).flatten();
    let with_the = || is_behind("the").then(|| named_time(&format!("on the {text}"), now)).flatten();
    alone.or_else(with_last).or_else(with_the)
}

/// Whether these words, and no parts of words, stand in a text one behind the other.
fn is_said(text: &str, words: &str) -> bool {
    fn bare(word: &str) -> &str {
        word.trim_matches(|letter: char| !letter.is_alphanumeric())
    }
    let wanted: Vec<&str> = words.split_whitespace().map(bare).collect();
    let said: Vec<&str> = text.split_whitespace().map(bare).collect();
    !wanted.is_empty() && said.windows(wanted.len()).any(|some| some == wanted)
}

/// Every time in a plan, on the clock of `now`.
fn times_of(plan: &Plan, now: &ZonedDateTime) -> Vec<DateTime> {
    let mut times = Vec::new();
    for step in plan.steps() {
        match &step.call {
            Operation::CalendarList { from, to, .. } => {
                times.extend([*from, *to].into_iter().flatten().map(|at| at.start()));
            }
            Operation::CalendarCreate { start, end, .. } => {
                times.extend([Some(*start), *end].into_iter().flatten().map(|at| at.start()));
            }
            Operation::CalendarChange { start, end, .. } => {
                times.extend([*start, *end].into_iter().flatten().map(|at| at.start()));
            }
            Operation::GmailSearch { query, .. } => {
                let terms = query.split(' ').filter_map(|term| term.split_once(':'));
                let seconds = terms.filter(|(name, _)| matches!(*name, "after" | "before"));
                let moments =
                    seconds.filter_map(|(_, at)| jiff::Timestamp::from_second(at.parse().ok()?).ok());
                times.extend(moments.map(|at| at.to_zoned_datetime(now.time_zone().clone()).datetime()));
            }
            _ => {}
        }
    }
    times
}

#[derive(Default)]
struct Tally {
    lines: usize,
    answered: usize,
    intent: usize,
    slots: usize,
    slots_kept: usize,
    whole: usize,
}

impl Tally {
    fn of<'a>(judged: impl Iterator<Item = &'a Judged<'a>>, enough: impl Fn(&Guess) -> bool) -> Self {
        let mut tally = Self::default();
        for judged in judged {
            tally.lines += 1;
            if judged.guess.as_ref().is_some_and(&enough) {
                tally.answered += 1;
                tally.intent += usize::from(judged.intent);
                tally.slots += judged.slots;
                tally.slots_kept += judged.slots_kept;
                tally.whole += usize::from(judged.intent && judged.slots == judged.slots_kept);
            }
        }
        tally
    }

    /// What is asked of it: how much was right of how much.
    fn shares(&self) -> [(&'static str, usize, usize); 2] {
        [("intents", self.intent, self.answered), ("slots", self.slots_kept, self.slots)]
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "answered {:>4} = {:>5}   intent {:>6}   slots {:>9} = {:>6}   both right {:>6}",
            self.answered,
            percent(self.answered, self.lines),
            percent(self.intent, self.answered),
            format!("{}/{}", self.slots_kept, self.slots),
            percent(self.slots_kept, self.slots),
            percent(self.whole, self.answered),
        )
    }
}

fn percent(part: usize, whole: usize) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    format!("{:.1}%", 100.0 * part as f64 / whole as f64)
}

fn curve(half: &[&Judged<'_>]) {
    for step in STEPS {
        let least = Confidence::per_mille(step);
        let tally = Tally::of(half.iter().copied(), |guess| guess.confidence >= least);
        println!("  confidence >= {least}   {tally}");
    }
    let default = Confidence::per_mille(DEFAULT);
    let tally = Tally::of(half.iter().copied(), |guess| guess.is_enough(default));
    println!("  as configured (reads {default}, effects 0.950)   {tally}");
}

fn by_action(judged: &[&Judged<'_>]) {
    let mut actions: BTreeMap<(&str, &str), Vec<&Judged<'_>>> = BTreeMap::new();
    for judged in judged {
        actions.entry((&judged.line.scenario, &judged.line.action)).or_default().push(judged);
    }
    println!("by what was meant, as configured:");
    let default = Confidence::per_mille(DEFAULT);
    for ((scenario, action), judged) in actions {
        let tally = Tally::of(judged.into_iter(), |guess| guess.is_enough(default));
        println!("  {:<24} {tally}", format!("{scenario} {action}"));
    }
}

fn by_pattern(judged: &[&Judged<'_>]) {
    let mut patterns: BTreeMap<&str, Vec<&Judged<'_>>> = BTreeMap::new();
    for judged in judged {
        if let Some(guess) = &judged.guess {
            patterns.entry(guess.pattern).or_default().push(judged);
        }
    }
    println!("by pattern, at any confidence:");
    for (pattern, judged) in patterns {
        let tally = Tally::of(judged.into_iter(), |_| true);
        println!("  {pattern:<30} {tally}");
    }
}

/// What was made of commands that are none of its business.
#[derive(Clone, Copy, Default)]
struct Acted {
    all: usize,
    with_effects: usize,
}

fn others(lines: &[Line], setting: &Setting<'_>, verbose: bool) -> Acted {
    let default = Confidence::per_mille(DEFAULT);
    let (mut acted, mut effects, mut any) = (0, 0, 0);
    for line in lines {
        let Some(guess) = parse(&line.text, setting) else { continue };
        any += 1;
        if guess.is_enough(default) {
            acted += 1;
            effects += usize::from(guess.plan.steps().iter().any(|step| step.call.is_side_effect()));
        }
        if verbose {
            println!(
                "  other ({} {}): {} -> {} {}",
                line.scenario, line.action, line.text, guess.pattern, guess.confidence
            );
        }
    }
    println!(
        "others: {} commands, acted on as configured {acted} (with effects {effects}), at any confidence {any}",
        lines.len()
    );
    Acted { all: acted, with_effects: effects }
}

fn latency(lines: &[Line], setting: &Setting<'_>) {
    const ROUNDS: u32 = 20;
    let began = Instant::now();
    for _round in 0..ROUNDS {
        for line in lines {
            black_box(parse(black_box(&line.text), setting));
        }
    }
    let parses = f64::from(ROUNDS) * lines.len().max(1) as f64;
    println!("latency: {:.0} ns per command", began.elapsed().as_nanos() as f64 / parses);
}

fn show(judged: &[Judged<'_>], all: bool) {
    for judged in judged.iter().filter(|judged| is_first(&judged.line.id)) {
        let right = judged.intent && judged.slots == judged.slots_kept;
        let (scenario, action) = (&judged.line.scenario, &judged.line.action);
        match &judged.guess {
            Some(guess) if !right || all => {
                let verdict = if right {
                    "right"
                } else if judged.intent {
                    "SLOTS"
                } else {
                    "INTENT"
                };
                let plan = serde_json::to_string(guess.plan.steps()).unwrap_or_default();
                println!(
                    "{verdict} ({scenario} {action}) {} -> {} {} {plan}",
                    judged.line.text, guess.pattern, guess.confidence
                );
            }
            None if all => println!("none ({scenario} {action}) {}", judged.line.text),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, scenario: &str, action: &str, entities: &[(&str, &str)]) -> Line {
        let entity =
            |(kind, text): &(&str, &str)| Entity { kind: (*kind).to_owned(), text: (*text).to_owned() };
        Line {
            id: "x".to_owned(),
            text: text.to_owned(),
            scenario: scenario.to_owned(),
            action: action.to_owned(),
            entities: entities.iter().map(entity).collect(),
        }
    }

    fn judged(line: &Line) -> (bool, usize) {
        let now: ZonedDateTime = "2026-11-25T09:40:00+01:00[Europe/Berlin]".parse().expect("a time");
        let judged = judge(line, &Setting { now: &now, newest: &Vec::new() });
        assert!(judged.guess.is_some(), "{} is not answered", line.text);
        (judged.intent, judged.slots_kept)
    }

    #[test]
    fn words_are_found_whole_and_in_order() {
        assert!(is_said("what came in the last fifteen minutes?", "last fifteen minutes"));
        assert!(is_said("move it to the tenth, please", "the tenth"));
        assert!(!is_said("blast fifteen minutes", "last fifteen minutes"));
        assert!(!is_said("bathe tenth", "the tenth") && !is_said("the tenths", "the tenth"));
        assert!(!is_said("tenth the", "the tenth") && !is_said("the tenth", ""));
    }

    #[test]
    fn a_right_answer_has_its_operation_and_all_entities() {
        let entities = [("event_name", "dentist appointment"), ("date", "tomorrow")];
        let right = line("do i have a dentist appointment tomorrow", "calendar", "query", &entities);
        assert_eq!(judged(&right), (true, 2));
    }

    #[test]
    fn a_wrong_action_or_a_lost_entity_is_seen() {
        let wrong = line("do i have a dentist appointment tomorrow", "calendar", "remove", &[]);
        assert!(!judged(&wrong).0);
        let lost = [("person", "claire"), ("date", "friday"), ("time", "three pm")];
        let lost = line("do i have a dentist appointment tomorrow", "calendar", "query", &lost);
        assert_eq!(judged(&lost), (true, 0));
    }

    #[test]
    fn times_are_read_with_the_word_that_the_annotation_cut_off() {
        let now: DateTime = "2026-11-25T09:40:00".parse().expect("a time");
        let day = |text: &str, command: &str| read(text, command, now).and_then(|found| found.day);
        assert_eq!(
            day("tenth", "delete the wedding on the tenth"),
            Some("2026-12-10".parse().expect("a day"))
        );
        assert_eq!(day("tenth", "delete my tenth wedding"), None);
        let span = read("fifteen minutes", "mails of the last fifteen minutes", now).expect("a time");
        assert_eq!(span.minute, Some((9, 25)));
    }
}

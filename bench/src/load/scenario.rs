//! What is asked for: a weighted mix of scenarios, each a request or a chain of them.
//!
//! Texts of paths, header values and bodies are templates. `{user}`, `{key}`, `{n}`
//! and `{text}` are known everywhere, and so is every name that an earlier request of
//! the chain captured; a brace that begins none of these stands for itself, so that
//! JSON needs no escaping.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::rng::Rng;

/// The mix that is used when no other is given.
const STANDARD: &str = include_str!("standard.toml");
const SCENARIOS_MAX: usize = 64;
const REQUESTS_MAX: usize = 16;
/// Most times one request of a chain is repeated.
const REPEATS_MAX: u32 = 10_000;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct MixFile {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    scenario: Vec<ScenarioFile>,
    /// Options of the run; read by [`super::args`].
    #[serde(default)]
    #[allow(dead_code, reason = "another reader's part of the file")]
    run: Option<toml::Table>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScenarioFile {
    name: String,
    weight: f64,
    #[serde(default)]
    texts: Vec<String>,
    /// Categories of a commands file that replace `texts`.
    #[serde(default)]
    commands: Vec<String>,
    request: Vec<RequestFile>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestFile {
    #[serde(default = "get")]
    method: String,
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default = "ok")]
    expect: Vec<u16>,
    #[serde(default)]
    capture: BTreeMap<String, String>,
    #[serde(default)]
    repeat: Option<Repeat>,
}

fn get() -> String {
    "GET".to_owned()
}

fn ok() -> Vec<u16> {
    vec![200]
}

/// Sends a request again while its answer says that something is not done yet.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Repeat {
    /// JSON pointer into the answer.
    #[serde(rename = "while")]
    pub(super) pointer: String,
    /// Texts found there that mean: again.
    #[serde(rename = "is")]
    pub(super) values: Vec<String>,
    /// Most repetitions; more make the scenario fail.
    #[serde(default = "hundred")]
    pub(super) max: u32,
    #[serde(default)]
    pub(super) pause_ms: u64,
}

fn hundred() -> u32 {
    100
}

/// Where a captured value is found in an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// JSON pointer (RFC 6901) into the body.
    Pointer(String),
    /// Header field, lower case.
    Header(String),
}

/// One part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    User,
    Key,
    Number,
    Text,
    Captured(usize),
}

/// A text with gaps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Template(Vec<Part>);

/// What fills the gaps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Values<'a> {
    pub(super) user: usize,
    pub(super) key: &'a str,
    pub(super) number: u64,
    /// A command, already escaped for JSON.
    pub(super) text: &'a str,
    pub(super) captured: &'a [String],
}

impl Template {
    fn parse(text: &str, captures: &[String]) -> Self {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            literal.push_str(&rest[..open]);
            let after = &rest[open + 1..];
            let name = after.split_once('}').map(|(name, _)| name);
            let part = name.and_then(|name| match name {
                "user" => Some(Part::User),
                "key" => Some(Part::Key),
                "n" => Some(Part::Number),
                "text" => Some(Part::Text),
                _ => captures.iter().position(|capture| capture == name).map(Part::Captured),
            });
            match (part, name) {
                (Some(part), Some(name)) => {
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    parts.push(part);
                    rest = &after[name.len() + 1..];
                }
                _ => {
                    literal.push('{');
                    rest = after;
                }
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Self(parts)
    }

    /// The text for these values.
    pub(super) fn render(&self, values: &Values<'_>) -> String {
        use std::fmt::Write as _;
        let mut text = String::with_capacity(128);
        for part in &self.0 {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Key => text.push_str(values.key),
                Part::Text => text.push_str(values.text),
                Part::Captured(index) => {
                    text.push_str(values.captured.get(*index).map_or("", String::as_str));
                }
                // Writing to a string does not fail.
                Part::User => drop(write!(text, "{}", values.user)),
                Part::Number => drop(write!(text, "{}", values.number)),
            }
        }
        text
    }

    /// Whether only the user decides what the text is.
    fn is_per_user(&self) -> bool {
        self.0.iter().all(|part| matches!(part, Part::Literal(_) | Part::User | Part::Key))
    }
}

/// One request of a scenario.
#[derive(Debug, Clone)]
pub(super) struct RequestPlan {
    pub(super) method: String,
    pub(super) path: Template,
    pub(super) headers: Vec<(String, Template)>,
    pub(super) body: Option<Template>,
    pub(super) expect: Vec<u16>,
    /// Where values are taken from, by their number.
    pub(super) captures: Vec<(usize, Source)>,
    pub(super) repeat: Option<Repeat>,
    /// Number over all requests of the mix.
    pub(super) index: usize,
    /// Whether the method may be sent as early data.
    pub(super) is_safe: bool,
    /// Whether the head is the same for every request of a user.
    pub(super) is_head_per_user: bool,
}

impl RequestPlan {
    fn new(file: &RequestFile, names: &[String], index: usize) -> anyhow::Result<Self> {
        ensure!(file.path.starts_with('/'), "path {:?} must begin with /", file.path);
        ensure!(!file.expect.is_empty(), "expect must name a status");
        if let Some(repeat) = &file.repeat {
            ensure!((1..=REPEATS_MAX).contains(&repeat.max), "repeat.max must be 1 to {REPEATS_MAX}");
        }
        let mut headers: Vec<_> = file
            .headers
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), Template::parse(value, names)))
            .collect();
        let has =
            |headers: &[(String, Template)], wanted: &str| headers.iter().any(|(name, _)| name == wanted);
        if file.body.is_some() && !has(&headers, "content-type") {
            headers.push(("content-type".to_owned(), Template::parse("application/json", &[])));
        }
        if !has(&headers, "user-agent") {
            headers.push(("user-agent".to_owned(), Template::parse("sluice-bench", &[])));
        }
        let captures = file
            .capture
            .iter()
            .map(|(name, from)| {
                let number = names.iter().position(|known| known == name).context("a captured name")?;
                let source = match from.strip_prefix("header:") {
                    Some(header) => Source::Header(header.trim().to_ascii_lowercase()),
                    None if from.starts_with('/') => Source::Pointer(from.clone()),
                    None => bail!("capture {name}: {from:?} is neither a JSON pointer nor header:NAME"),
                };
                Ok((number, source))
            })
            .collect::<anyhow::Result<_>>()?;
        let path = Template::parse(&file.path, names);
        let is_head_per_user = path.is_per_user() && headers.iter().all(|(_, value)| value.is_per_user());
        Ok(Self {
            method: file.method.clone(),
            path,
            headers,
            body: file.body.as_ref().map(|body| Template::parse(body, names)),
            expect: file.expect.clone(),
            captures,
            repeat: file.repeat.clone(),
            index,
            is_safe: matches!(file.method.as_str(), "GET" | "HEAD" | "OPTIONS"),
            is_head_per_user,
        })
    }
}

/// One kind of work.
#[derive(Debug, Clone)]
pub(super) struct Scenario {
    pub(super) name: String,
    pub(super) weight: f64,
    pub(super) requests: Vec<RequestPlan>,
    /// Commands for `{text}`, escaped for JSON; at least one, if only an empty one.
    pub(super) texts: Vec<String>,
    pub(super) captures_count: usize,
}

/// The whole mix.
#[derive(Debug, Clone)]
pub(super) struct Mix {
    pub(super) name: String,
    pub(super) scenarios: Vec<Scenario>,
    total_weight: f64,
}

/// A command of a file (JSON lines); other fields are of no concern here.
#[derive(Deserialize)]
struct CommandLine {
    text: String,
    #[serde(default)]
    scenario: String,
}

impl Mix {
    /// The built-in mix.
    pub(super) fn standard(commands: Option<&Path>) -> anyhow::Result<Self> {
        Self::parse(STANDARD, "standard", commands)
    }

    /// A mix from TOML; `name` is used when the text gives none.
    pub(super) fn parse(text: &str, name: &str, commands: Option<&Path>) -> anyhow::Result<Self> {
        let mut file: MixFile = toml::from_str(text)?;
        if let Some(path) = commands {
            replace_texts(&mut file, path)?;
        }
        let name = file.name.take().unwrap_or_else(|| name.to_owned());
        Self::build(name, &file.scenario)
    }

    /// Without commands that are made of these words.
    ///
    /// # Errors
    /// When a scenario has no other.
    pub(super) fn without(mut self, left_out: &[String]) -> anyhow::Result<Self> {
        let left_out = escape(left_out);
        for scenario in &mut self.scenarios {
            scenario.texts.retain(|text| !left_out.contains(text));
            ensure!(!scenario.texts.is_empty(), "--without leaves {:?} without a command", scenario.name);
        }
        Ok(self)
    }

    /// This scenario of it alone.
    pub(super) fn only(mut self, name: &str) -> anyhow::Result<Self> {
        let names: Vec<_> = self.scenarios.iter().map(|scenario| scenario.name.clone()).collect();
        self.scenarios.retain(|scenario| scenario.name == name);
        let Some(scenario) = self.scenarios.first_mut() else {
            bail!("--only {name}: the mix {:?} has {}", self.name, names.join(", "));
        };
        scenario.weight = 1.0;
        self.total_weight = 1.0;
        self.name = format!("{}/{name}", self.name);
        Ok(self)
    }

    /// One request and nothing else.
    pub(super) fn single(
        method: &str,
        path: &str,
        body: Option<&str>,
        expect: u16,
        with_key: bool,
    ) -> anyhow::Result<Self> {
        let mut headers = BTreeMap::new();
        if with_key {
            headers.insert("authorization".to_owned(), "Bearer {key}".to_owned());
        }
        let request = RequestFile {
            method: method.to_owned(),
            path: path.to_owned(),
            headers,
            body: body.map(str::to_owned),
            expect: vec![expect],
            capture: BTreeMap::new(),
            repeat: None,
        };
        let name = format!("{method} {path}");
        let scenario = ScenarioFile {
            name: name.clone(),
            weight: 1.0,
            texts: vec![],
            commands: vec![],
            request: vec![request],
        };
        Self::build(name, &[scenario])
    }

    fn build(name: String, files: &[ScenarioFile]) -> anyhow::Result<Self> {
        ensure!(!files.is_empty(), "the mix has no [[scenario]]");
        ensure!(files.len() <= SCENARIOS_MAX, "a mix has at most {SCENARIOS_MAX} scenarios");
        let mut scenarios = Vec::new();
        let mut requests_count = 0;
        for file in files {
            let scenario = build_scenario(file, &mut requests_count)
                .with_context(|| format!("scenario {:?}", file.name))?;
            if scenarios.iter().any(|other: &Scenario| other.name == scenario.name) {
                bail!("two scenarios are called {:?}", scenario.name);
            }
            scenarios.push(scenario);
        }
        let total_weight: f64 = scenarios.iter().map(|scenario| scenario.weight).sum();
        ensure!(total_weight > 0.0, "no scenario has a weight above 0");
        Ok(Self { name, scenarios, total_weight })
    }

    /// Draws a scenario's number by weight.
    pub(super) fn draw(&self, rng: &mut Rng) -> usize {
        if self.scenarios.len() == 1 {
            return 0;
        }
        let mut point = rng.unit() * self.total_weight;
        for (index, scenario) in self.scenarios.iter().enumerate() {
            point -= scenario.weight;
            if point < 0.0 {
                return index;
            }
        }
        // Rounding may leave a trace of the last one.
        self.scenarios.iter().rposition(|scenario| scenario.weight > 0.0).unwrap_or(0)
    }

    /// Whether any head or body speaks of a key.
    pub(super) fn needs_keys(&self) -> bool {
        let speaks = |template: &Template| template.0.contains(&Part::Key);
        self.scenarios.iter().flat_map(|scenario| &scenario.requests).any(|request| {
            speaks(&request.path)
                || request.headers.iter().any(|(_, value)| speaks(value))
                || request.body.as_ref().is_some_and(speaks)
        })
    }
}

fn build_scenario(file: &ScenarioFile, requests_count: &mut usize) -> anyhow::Result<Scenario> {
    ensure!(file.weight.is_finite() && file.weight >= 0.0, "weight must be 0 or more");
    ensure!((1..=REQUESTS_MAX).contains(&file.request.len()), "a scenario has 1 to {REQUESTS_MAX} requests");
    let mut names: Vec<String> = file.request.iter().flat_map(|r| r.capture.keys().cloned()).collect();
    names.sort();
    names.dedup();
    let mut requests = Vec::new();
    for request in &file.request {
        requests.push(RequestPlan::new(request, &names, *requests_count)?);
        *requests_count += 1;
    }
    let is_text_used = requests.iter().any(|request| {
        request.body.iter().chain([&request.path]).any(|template| template.0.contains(&Part::Text))
    });
    ensure!(!is_text_used || !file.texts.is_empty(), "{{text}} is used, but texts is empty");
    let texts = if file.texts.is_empty() { vec![String::new()] } else { escape(&file.texts) };
    Ok(Scenario {
        name: file.name.clone(),
        weight: file.weight,
        requests,
        texts,
        captures_count: names.len(),
    })
}

/// As they stand between the quotes of a JSON text.
fn escape(texts: &[String]) -> Vec<String> {
    texts
        .iter()
        .map(|text| {
            let quoted = Value::String(text.clone()).to_string();
            quoted[1..quoted.len() - 1].to_owned()
        })
        .collect()
}

fn replace_texts(file: &mut MixFile, path: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let command: CommandLine =
            serde_json::from_str(line).with_context(|| format!("{}, line {}", path.display(), number + 1))?;
        lines.push(command);
    }
    for scenario in &mut file.scenario {
        let found: Vec<String> = lines
            .iter()
            .filter(|line| scenario.commands.iter().any(|name| name == "*" || *name == line.scenario))
            .map(|line| line.text.clone())
            .collect();
        if !found.is_empty() {
            scenario.texts = found;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str, captures: &[&str]) -> String {
        let names: Vec<String> = captures.iter().map(|name| (*name).to_owned()).collect();
        let captured: Vec<String> = names.iter().map(|name| format!("<{name}>")).collect();
        let values = Values { user: 7, key: "sk_x", number: 42, text: "a \\\"b\\\"", captured: &captured };
        Template::parse(text, &names).render(&values)
    }

    #[test]
    fn known_names_are_filled_in_and_other_braces_stay() {
        assert_eq!(render("/u/{user}/{n}", &[]), "/u/7/42");
        assert_eq!(render("Bearer {key}", &[]), "Bearer sk_x");
        assert_eq!(render(r#"{"command":"{text}","a":{}}"#, &[]), r#"{"command":"a \"b\"","a":{}}"#);
        assert_eq!(render("/t/{task}", &["task"]), "/t/<task>");
        assert_eq!(render("/t/{task}", &[]), "/t/{task}");
        assert_eq!(render("{{user}", &[]), "{7");
        assert_eq!(render("{", &[]), "{");
        assert_eq!(render("", &[]), "");
    }

    #[test]
    fn the_standard_mix_has_the_stated_shares() {
        let mix = Mix::standard(None).unwrap();
        let shares: Vec<_> = mix.scenarios.iter().map(|s| (s.name.as_str(), s.weight)).collect();
        assert_eq!(shares, [("intent", 50.0), ("gmail", 30.0), ("calendar", 15.0), ("drive", 5.0)]);
        assert!(mix.needs_keys());
        let mut rng = Rng::new(5, 0);
        let mut counts = [0u32; 4];
        for _ in 0..100_000 {
            counts[mix.draw(&mut rng)] += 1;
        }
        for (count, share) in counts.iter().zip([0.50, 0.30, 0.15, 0.05]) {
            assert!((f64::from(*count) / 1e5 - share).abs() < 0.005, "{counts:?}");
        }
    }

    #[test]
    fn the_standard_commands_use_the_services_they_are_named_after() {
        let context = serde_json::json!({});
        for scenario in Mix::standard(None).unwrap().scenarios {
            for text in &scenario.texts {
                let plan = crate::sim::plan(text, &context);
                let steps = plan["steps"].as_array().cloned().unwrap_or_default();
                let services: Vec<_> = steps
                    .iter()
                    .filter_map(|step| {
                        step["call"]["operation"].as_str()?.split('.').next().map(str::to_owned)
                    })
                    .collect();
                match scenario.name.as_str() {
                    "intent" => assert!(plan["decision"].is_string(), "{text}: {plan}"),
                    service => {
                        assert!(!services.is_empty(), "{text}: {plan}");
                        assert!(services.iter().all(|s| s == service), "{text}: {services:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_chain_captures_and_repeats() {
        let mix = Mix::parse(
            r#"
            [[scenario]]
            name = "queued"
            weight = 1
            texts = ["x"]
            [[scenario.request]]
            method = "POST"
            path = "/api/v1/command"
            body = '{"command":"{text}"}'
            expect = [202]
            capture = { task = "header:Location", session = "/session" }
            [[scenario.request]]
            path = "{nothing}"
            "#,
            "mine",
            None,
        );
        assert!(format!("{:#}", mix.unwrap_err()).contains("must begin with /"));
        let mix = Mix::parse(
            r#"
            name = "polls"
            [[scenario]]
            name = "queued"
            weight = 1
            [[scenario.request]]
            method = "POST"
            path = "/x"
            capture = { task = "header:Location", session = "/session" }
            [[scenario.request]]
            path = "/{task}"
            repeat = { while = "/state", is = ["queued"], max = 3 }
            "#,
            "mine",
            None,
        )
        .unwrap();
        assert_eq!((mix.name.as_str(), mix.scenarios[0].requests.len()), ("polls", 2));
        let [first, second] = &mix.scenarios[0].requests[..] else { panic!("two requests") };
        assert_eq!(
            first.captures,
            [(0, Source::Pointer("/session".into())), (1, Source::Header("location".into()))]
        );
        assert!(first.is_head_per_user && !second.is_head_per_user);
        assert_eq!(second.repeat.as_ref().unwrap().max, 3);
        assert!(!mix.needs_keys());
    }

    #[test]
    fn a_mix_can_be_sent_in_part() {
        let mix = Mix::standard(None).unwrap().only("drive").unwrap();
        assert_eq!((mix.name.as_str(), mix.scenarios.len()), ("standard/drive", 1));
        assert_eq!(mix.draw(&mut Rng::new(1, 0)), 0);
        let left_out = ["find the file about the roadmap".to_owned()];
        let rest = Mix::standard(None).unwrap().without(&left_out).unwrap();
        assert!(rest.scenarios.iter().all(|scenario| !scenario.texts.contains(&left_out[0])));
        let refused = Mix::standard(None).unwrap().only("music").unwrap_err().to_string();
        assert!(refused.contains("intent, gmail, calendar, drive"), "{refused}");
    }

    #[test]
    fn mistakes_in_a_mix_are_named() {
        let refused = |text: &str, part: &str| {
            let message = format!("{:#}", Mix::parse(text, "x", None).unwrap_err());
            assert!(message.contains(part), "{message}");
        };
        refused("", "no [[scenario]]");
        refused("[[scenario]]\nname='a'\nweight=0\nrequest=[{path='/'}]", "no scenario has a weight");
        refused("[[scenario]]\nname='a'\nweight=-1\nrequest=[{path='/'}]", "weight must be");
        refused("[[scenario]]\nname='a'\nweight=1\nrequest=[]", "1 to 16 requests");
        refused("[[scenario]]\nname='a'\nweight=1\nrequest=[{path='/{text}'}]", "texts is empty");
        refused("[[scenario]]\nname='a'\nweight=1\nrequest=[{path='/', colour='red'}]", "colour");
        refused("[[scenario]]\nname='a'\nweight=1\nrequest=[{path='/',capture={s='x'}}]", "neither");
    }

    #[test]
    fn commands_of_a_file_replace_the_texts_by_category() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("commands.jsonl");
        std::fs::write(&path, "{\"text\":\"mail \\\"a\\\"\",\"scenario\":\"email\",\"x\":1}\n\n{\"text\":\"b\",\"scenario\":\"calendar\"}\n")
            .unwrap();
        let mix = Mix::standard(Some(&path)).unwrap();
        let texts = |name: &str| &mix.scenarios.iter().find(|s| s.name == name).unwrap().texts;
        assert_eq!(texts("gmail"), &["mail \\\"a\\\""]);
        assert_eq!(texts("calendar"), &["b"]);
        assert_eq!(texts("intent").len(), 2);
        assert!(texts("drive").len() > 1, "no drive command in the file, so its own stay");
    }
}

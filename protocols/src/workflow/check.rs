//! Reads a definition and says everything that is wrong with it.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::condition::{Comparison, Condition, Operand, Test};
use super::fill::{Addressee, Filling, Template, TextPart, operation};
use super::input::Type;
use super::operations::{self, Spec, Takes};
use super::reference::{Part, Piece, Reference, What, Written, is_identifier, parse, pieces};
use super::{
    CONDITION_PARTS_MAX, DEFINITION_BYTES_MAX, DEPTH_MAX, DESCRIPTION_CHARS_MAX, FAULTS_MAX, Fault, Faults,
    Graph, INPUTS_MAX, InputSpec, Node, STEPS_MAX, TIMEOUT_MS_MAX, TIMEOUT_MS_MIN, TRIES_DEFAULT, TRIES_MAX,
    Tries, WAIT_MS_DEFAULT, WAIT_MS_MAX, Workflow,
};
use crate::plan::{
    DateTimeLocal, ItemKind, LABELS_MAX, LIMIT_MAX, Operation, RECIPIENTS_MAX, Recipient, ShareRole, StepId,
};

/// How many results a search brings when nothing is said.
const LIMIT_DEFAULT: u8 = 10;
/// What stands for a person, a text and a time that are not known yet, where bounds are checked before a run.
const SOMEBODY: &str = "somebody@example.com";
const SOMETHING: &str = "something";
const SOMETIME: &str = "2026-01-01T00:00";
const SOMETIME_LATER: &str = "2026-01-02T00:00";

/// One token of a JSON pointer behind `base`, of a length fit for a reply.
pub(super) fn pointer(base: &str, name: &str) -> String {
    let name: String = name.chars().take(64).collect();
    format!("{base}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// `is_new`: what is stored already is read as it was understood when it was stored.
pub(super) fn workflow(definition: &Value, is_new: bool) -> Result<Workflow, Faults> {
    let mut check = Check { inputs: Vec::new(), steps: Vec::new(), faults: Vec::new(), is_new };
    let workflow = check.workflow(definition);
    check.faults.truncate(FAULTS_MAX);
    match workflow {
        Some(workflow) if check.faults.is_empty() => Ok(workflow),
        _ => Err(Faults(check.faults)),
    }
}

/// What is known of a step before its parameters are looked at.
struct Outline<'a> {
    name: &'a str,
    spec: &'static Spec,
    /// How many results it can have.
    count_max: u8,
}

/// Where something stands that is being checked.
struct Place<'a> {
    step: usize,
    pointer: &'a str,
}

struct Check<'a> {
    inputs: Vec<InputSpec>,
    /// In the order of the definition; `None` for one that is too wrong to be referred to.
    steps: Vec<Option<Outline<'a>>>,
    faults: Vec<Fault>,
    is_new: bool,
}

impl<'a> Check<'a> {
    fn fault(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.faults.push(Fault { step: None, pointer: pointer.into(), detail: detail.into() });
    }

    fn fault_of(&mut self, step: usize, pointer: impl Into<String>, detail: impl Into<String>) {
        let name = self.steps.get(step).and_then(Option::as_ref).map(|outline| outline.name.to_owned());
        self.faults.push(Fault { step: name, pointer: pointer.into(), detail: detail.into() });
    }

    fn workflow(&mut self, definition: &'a Value) -> Option<Workflow> {
        let Value::Object(fields) = definition else {
            self.fault("", "must be an object");
            return None;
        };
        if definition.to_string().len() > DEFINITION_BYTES_MAX {
            self.fault("", format!("has at most {DEFINITION_BYTES_MAX} bytes"));
            return None;
        }
        self.no_others("", fields, &["description", "input", "steps", "on_failure"]);
        let description = match fields.get("description") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.chars().count() <= DESCRIPTION_CHARS_MAX => Some(text.clone()),
            Some(_) => {
                let detail = format!("must be a text of at most {DESCRIPTION_CHARS_MAX} characters");
                self.fault("/description", detail);
                None
            }
        };
        let undoes = match fields.get("on_failure").map(|value| value.as_str().unwrap_or_default()) {
            None | Some("compensate") => true,
            Some("keep") => false,
            Some(_) => {
                self.fault("/on_failure", "must be `compensate` or `keep`");
                true
            }
        };
        self.declare(fields.get("input"));
        let steps = match fields.get("steps") {
            Some(Value::Array(steps)) if (1..=STEPS_MAX).contains(&steps.len()) => steps,
            _ => {
                self.fault("/steps", format!("must be a list of 1 to {STEPS_MAX} steps"));
                return None;
            }
        };
        for (index, step) in steps.iter().enumerate() {
            self.outline(index, step);
        }
        let nodes: Vec<Option<Node>> =
            steps.iter().enumerate().map(|(index, step)| self.node(index, step, undoes)).collect();
        let nodes: Vec<Node> = nodes.into_iter().collect::<Option<_>>()?;
        let graph = Graph { nodes, stops_at_failure: true };
        self.acyclic(&graph);
        Some(Workflow { description, inputs: std::mem::take(&mut self.inputs), graph })
    }

    fn no_others(&mut self, base: &str, fields: &Map<String, Value>, known: &[&str]) {
        for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
            let detail = format!("there is no such field; there are: {}", known.join(", "));
            self.fault(pointer(base, name), detail);
        }
    }

    fn declare(&mut self, inputs: Option<&Value>) {
        let inputs = match inputs {
            None | Some(Value::Null) => return,
            Some(Value::Object(inputs)) if inputs.len() <= INPUTS_MAX => inputs,
            Some(_) => {
                return self.fault("/input", format!("must be an object of at most {INPUTS_MAX} inputs"));
            }
        };
        let names: Vec<&str> = Type::ALL.iter().map(|kind| kind.name()).collect();
        for (name, spec) in inputs {
            let at = pointer("/input", name);
            if !is_identifier(name) {
                self.fault(at, "the name of an input is a letter, then letters, digits and _, in lower case");
                continue;
            }
            let Value::Object(spec) = spec else {
                self.fault(at, "must be an object such as {\"type\": \"text\"}");
                continue;
            };
            self.no_others(&at, spec, &["type", "default", "description"]);
            let kind = Type::ALL.into_iter().find(|kind| spec.get("type") == Some(&Value::from(kind.name())));
            let Some(kind) = kind else {
                self.fault(format!("{at}/type"), format!("must be one of {}", names.join(", ")));
                continue;
            };
            let default = spec.get("default").filter(|value| !value.is_null()).cloned();
            if let Some(detail) = default.as_ref().and_then(|value| kind.refuse(value)) {
                self.fault(format!("{at}/default"), detail);
            }
            self.inputs.push(InputSpec { name: name.clone(), kind, default });
        }
    }

    /// What others need to know of a step.
    fn outline(&mut self, index: usize, step: &'a Value) {
        let at = format!("/steps/{index}");
        let outline = self.outline_of(&at, step);
        self.steps.push(outline);
    }

    fn outline_of(&mut self, at: &str, step: &'a Value) -> Option<Outline<'a>> {
        let Value::Object(fields) = step else {
            self.fault(at, "must be an object");
            return None;
        };
        let name = match fields.get("id").and_then(Value::as_str) {
            Some(name) if is_identifier(name) => name,
            _ => {
                let detail = "must be the step's name: a letter, then letters, digits and _, in lower case";
                self.fault(format!("{at}/id"), detail);
                return None;
            }
        };
        if self.steps.iter().flatten().any(|earlier| earlier.name == name) {
            self.faults.push(Fault {
                step: Some(name.to_owned()),
                pointer: format!("{at}/id"),
                detail: "the name occurs twice".to_owned(),
            });
            return None;
        }
        let Some(spec) = fields.get("operation").and_then(Value::as_str).and_then(operations::find) else {
            let known: Vec<&str> = operations::OPERATIONS.iter().map(|spec| spec.name).collect();
            self.faults.push(Fault {
                step: Some(name.to_owned()),
                pointer: format!("{at}/operation"),
                detail: format!("there is no such operation; there are: {}", known.join(", ")),
            });
            return None;
        };
        let limit = fields.get("with").and_then(|with| with.get("limit"));
        let limit = match limit {
            None | Some(Value::Null) => LIMIT_DEFAULT,
            Some(value) => value.as_u64().and_then(|limit| u8::try_from(limit).ok()).unwrap_or(LIMIT_MAX),
        };
        Some(Outline { name, spec, count_max: if spec.is_list { limit.min(LIMIT_MAX) } else { 1 } })
    }

    fn node(&mut self, index: usize, step: &'a Value, undoes: bool) -> Option<Node> {
        let (fields, outline) = (step.as_object()?, self.steps[index].as_ref()?);
        let (name, spec) = (outline.name.to_owned(), outline.spec);
        let at = format!("/steps/{index}");
        let known = ["id", "operation", "with", "after", "when", "timeout_ms", "retry", "compensate"];
        for field in fields.keys().filter(|field| !known.contains(&field.as_str())) {
            let detail = format!("there is no such field; there are: {}", known.join(", "));
            self.fault_of(index, pointer(&at, field), detail);
        }
        let mut before = BTreeSet::new();
        self.after(index, fields.get("after"), &mut before);
        let nothing = Map::new();
        let with = match fields.get("with") {
            None | Some(Value::Null) => &nothing,
            Some(Value::Object(with)) => with,
            Some(_) => {
                self.fault_of(index, format!("{at}/with"), "must be an object of the operation's parameters");
                return None;
            }
        };
        let faults_before = self.faults.len();
        let parameters = self.parameters(index, spec, with, &mut before);
        let template = Template { operation: spec.name, parameters };
        let call =
            (self.faults.len() == faults_before).then(|| self.likeness(index, spec, &template)).flatten();
        let when = self.when(index, fields.get("when"), &mut before);
        let timeout_ms = self.whole(index, fields, "timeout_ms", TIMEOUT_MS_MIN, TIMEOUT_MS_MAX);
        let tries = self.tries(index, fields.get("retry"));
        let compensate = match fields.get("compensate") {
            None | Some(Value::Null) => true,
            Some(Value::Bool(compensate)) => *compensate,
            Some(_) => {
                self.fault_of(index, format!("{at}/compensate"), "must be true or false");
                true
            }
        };
        let call = call?;
        if self.is_new && fields.get("compensate") == Some(&Value::Bool(true)) && call.undo().is_none() {
            let why = if call.is_side_effect() { "cannot be taken back" } else { "changes nothing" };
            self.fault_of(index, format!("{at}/compensate"), format!("what {} does {why}", spec.name));
        }
        let has_places =
            template.parameters.iter().any(|(_, filling)| !matches!(filling, Filling::Constant(_)));
        let number = u8::try_from(index + 1).ok()?;
        Some(Node {
            id: StepId::new(number)?,
            name: Some(name),
            before: before.into_iter().collect(),
            is_undone: undoes && compensate && call.undo().is_some(),
            call,
            template: has_places.then_some(template),
            when,
            timeout_ms,
            tries,
        })
    }

    fn after(&mut self, index: usize, after: Option<&Value>, before: &mut BTreeSet<usize>) {
        let at = format!("/steps/{index}/after");
        let after = match after {
            None | Some(Value::Null) => return,
            Some(Value::Array(after)) => after,
            Some(_) => return self.fault_of(index, at, "must be a list of names of steps"),
        };
        for (entry, name) in after.iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            match self.find(name) {
                Some(on) => {
                    before.insert(on);
                }
                None => {
                    let name: String = name.chars().take(64).collect();
                    self.fault_of(index, format!("{at}/{entry}"), format!("there is no step `{name}`"));
                }
            }
        }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.steps.iter().position(|step| step.as_ref().is_some_and(|step| step.name == name))
    }

    fn whole(
        &mut self,
        index: usize,
        fields: &Map<String, Value>,
        name: &str,
        min: u32,
        max: u32,
    ) -> Option<u32> {
        let value = fields.get(name).filter(|value| !value.is_null())?;
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        let number = number.filter(|number| (min..=max).contains(number));
        if number.is_none() {
            let detail = format!("must be a whole number from {min} to {max}");
            self.fault_of(index, format!("/steps/{index}/{name}"), detail);
        }
        number
    }

    fn tries(&mut self, index: usize, retry: Option<&Value>) -> Tries {
        let default = Tries { max: TRIES_DEFAULT, wait_ms: WAIT_MS_DEFAULT };
        let at = format!("/steps/{index}/retry");
        let retry = match retry {
            None | Some(Value::Null) => return default,
            Some(Value::Object(retry)) => retry,
            Some(_) => {
                self.fault_of(index, at, "must be an object such as {\"attempts\": 3, \"wait_ms\": 200}");
                return default;
            }
        };
        for field in retry.keys().filter(|field| !matches!(field.as_str(), "attempts" | "wait_ms")) {
            self.fault_of(index, pointer(&at, field), "there is no such field; there are: attempts, wait_ms");
        }
        let mut number = |name: &str, default: u32, min: u32, max: u32| match retry.get(name) {
            None | Some(Value::Null) => default,
            Some(value) => match value.as_u64().and_then(|number| u32::try_from(number).ok()) {
                Some(number) if (min..=max).contains(&number) => number,
                _ => {
                    let detail = format!("must be a whole number from {min} to {max}");
                    self.fault_of(index, format!("{at}/{name}"), detail);
                    default
                }
            },
        };
        let attempts = number("attempts", u32::from(TRIES_DEFAULT), 1, u32::from(TRIES_MAX));
        let wait_ms = number("wait_ms", WAIT_MS_DEFAULT, 0, WAIT_MS_MAX);
        Tries { max: u8::try_from(attempts).unwrap_or(TRIES_MAX), wait_ms }
    }

    /// A reference, its step found and what it names there.
    fn reference(
        &mut self,
        place: &Place<'_>,
        text: &str,
        before: &mut BTreeSet<usize>,
    ) -> Option<Reference> {
        let refused = |check: &mut Self, detail: String| {
            check.fault_of(place.step, place.pointer, detail);
            None
        };
        let shown: String = text.chars().take(100).collect();
        let written = match parse(text) {
            Ok(written) => written,
            Err(detail) => return refused(self, format!("`{shown}`: {detail}")),
        };
        let (name, what) = match written {
            Written::Input(name) if self.input(name).is_some() => {
                return Some(Reference::Input(name.to_owned()));
            }
            Written::Input(name) => return refused(self, format!("`{shown}`: there is no input `{name}`")),
            Written::Step { name, what } => (name, what),
        };
        let Some(step) = self.find(name) else {
            return refused(self, format!("`{shown}`: there is no step `{name}`"));
        };
        let outline = self.steps[step].as_ref()?;
        let (spec, count_max) = (outline.spec, outline.count_max);
        let problem = match what {
            What::Text if !spec.has_text => Some(format!("{} reads no text", spec.name)),
            What::Text => None,
            What::Count if spec.brings.is_none() => Some(format!("{} has no results", spec.name)),
            What::Count => None,
            What::Item { kind, index, .. } => match spec.brings {
                None => Some(format!("{} has no results", spec.name)),
                Some(brings) if brings != kind => {
                    Some(format!("{} brings {brings}s, not {kind}s", spec.name))
                }
                Some(_) if index >= count_max => {
                    Some(format!("step `{name}` has at most {count_max} results"))
                }
                Some(_) => None,
            },
        };
        if let Some(problem) = problem {
            return refused(self, format!("`{shown}`: {problem}"));
        }
        before.insert(step);
        Some(Reference::Step { step, what })
    }

    fn input(&self, name: &str) -> Option<Type> {
        self.inputs.iter().find(|input| input.name == name).map(|input| input.kind)
    }

    /// What a reference gives; an item as a whole gives nothing that could be written down.
    fn type_of(&self, reference: &Reference) -> Option<Type> {
        Some(match reference {
            Reference::Input(name) => self.input(name)?,
            Reference::Step { what: What::Count, .. } => Type::Integer,
            Reference::Step { what: What::Text, .. } => Type::Text,
            Reference::Step { what: What::Item { part, .. }, .. } => match part {
                Part::Whole => return None,
                Part::From => Type::Address,
                Part::Id | Part::Title | Part::When | Part::ThreadId | Part::Snippet => Type::Text,
            },
        })
    }

    fn parameters(
        &mut self,
        index: usize,
        spec: &'static Spec,
        with: &Map<String, Value>,
        before: &mut BTreeSet<usize>,
    ) -> Vec<(&'static str, Filling)> {
        let at = format!("/steps/{index}/with");
        let known: Vec<&str> = spec.parameters.iter().map(|parameter| parameter.name).collect();
        for name in with.keys().filter(|name| !known.contains(&name.as_str())) {
            let detail = format!("{} takes no such parameter; it takes: {}", spec.name, known.join(", "));
            self.fault_of(index, pointer(&at, name), detail);
        }
        let mut fillings = Vec::with_capacity(spec.parameters.len());
        for parameter in spec.parameters {
            let place = format!("{at}/{}", parameter.name);
            let filling = match with.get(parameter.name).filter(|value| !value.is_null()) {
                Some(value) => {
                    let place = Place { step: index, pointer: &place };
                    self.filling(&place, parameter.takes, value, before)
                }
                None if parameter.is_required => {
                    self.fault_of(index, place, "is missing");
                    None
                }
                None => Some(Filling::Constant(match parameter.takes {
                    Takes::Limit => json!(LIMIT_DEFAULT),
                    Takes::Boolean => json!(false),
                    Takes::People | Takes::Labels => json!([]),
                    Takes::Role => json!(ShareRole::Reader),
                    _ => Value::Null,
                })),
            };
            if let Some(filling) = filling {
                fillings.push((parameter.name, filling));
            }
        }
        fillings
    }

    fn filling(
        &mut self,
        place: &Place<'_>,
        takes: Takes,
        value: &Value,
        before: &mut BTreeSet<usize>,
    ) -> Option<Filling> {
        match (takes, value) {
            (Takes::People, Value::Array(people)) => self.people(place, people, before),
            (Takes::People, Value::String(_)) => self.people(place, std::slice::from_ref(value), before),
            (Takes::Line(_) | Takes::Lines(_), Value::String(text)) => self.text(place, takes, text, before),
            (Takes::Item(kind), Value::String(text)) => self.item(place, kind, text, before),
            (Takes::Limit | Takes::Boolean | Takes::Time, Value::String(text)) if text.starts_with('$') => {
                let reference = self.reference(place, text, before)?;
                let Reference::Input(name) = reference else {
                    return self.mistyped(place, takes);
                };
                if self.input(&name) == takes.input() {
                    Some(Filling::Input(name))
                } else {
                    self.mistyped(place, takes)
                }
            }
            (Takes::Limit, value) => {
                let fits = value.as_u64().is_some_and(|limit| (1..=u64::from(LIMIT_MAX)).contains(&limit));
                if fits { Some(Filling::Constant(value.clone())) } else { self.mistyped(place, takes) }
            }
            (Takes::Boolean, Value::Bool(_)) => Some(Filling::Constant(value.clone())),
            (Takes::Labels, Value::Array(names)) => self.labels(place, names, before),
            (Takes::Labels, Value::String(_)) => self.labels(place, std::slice::from_ref(value), before),
            (Takes::Role | Takes::Format, Value::String(text)) => {
                let filling = self.text(place, takes, text, before)?;
                match &filling {
                    Filling::Constant(value) if !is_among(takes, value) => self.mistyped(place, takes),
                    _ => Some(filling),
                }
            }
            (Takes::Time, Value::String(text)) if text.parse::<DateTimeLocal>().is_ok() => {
                Some(Filling::Constant(value.clone()))
            }
            _ => self.mistyped(place, takes),
        }
    }

    fn mistyped(&mut self, place: &Place<'_>, takes: Takes) -> Option<Filling> {
        let wanted = match takes {
            Takes::Line(_) | Takes::Lines(_) => "must be a text".to_owned(),
            Takes::Limit => {
                format!("must be a whole number from 1 to {LIMIT_MAX}, or an input of type integer")
            }
            Takes::Boolean => "must be true or false, or an input of type boolean".to_owned(),
            Takes::Time => {
                "must be a time YYYY-MM-DDTHH:MM, a day YYYY-MM-DD, or an input of type time".to_owned()
            }
            Takes::People => {
                format!("must be a list of at most {RECIPIENTS_MAX} addresses, or an input of type addresses")
            }
            Takes::Labels => {
                format!("must be a list of at most {LABELS_MAX} names of labels")
            }
            Takes::Role | Takes::Format => {
                format!(
                    "must be one of {}, or a reference to a text",
                    takes.names().unwrap_or_default().join(", ")
                )
            }
            Takes::Item(kind) => format!("must be a reference to a {kind}, such as $steps.find.{kind}s[0]"),
        };
        self.fault_of(place.step, place.pointer, wanted);
        None
    }

    fn text(
        &mut self,
        place: &Place<'_>,
        takes: Takes,
        text: &str,
        before: &mut BTreeSet<usize>,
    ) -> Option<Filling> {
        let pieces = match pieces(text) {
            Ok(pieces) => pieces,
            Err(detail) => {
                self.fault_of(place.step, place.pointer, detail);
                return None;
            }
        };
        let mut parts = Vec::with_capacity(pieces.len());
        for piece in pieces {
            parts.push(match piece {
                Piece::Constant(text) => TextPart::Constant(text.to_owned()),
                Piece::Place(text) => {
                    let reference = self.reference(place, &text, before)?;
                    match self.type_of(&reference) {
                        None | Some(Type::Addresses) => {
                            let detail =
                                format!("`{text}` is no text; name one of its fields, such as .title");
                            self.fault_of(place.step, place.pointer, detail);
                            return None;
                        }
                        Some(_) => TextPart::Place(reference),
                    }
                }
            });
        }
        let is_constant = |part: &TextPart| matches!(part, TextPart::Constant(_));
        if parts.iter().all(is_constant) {
            let whole = parts.iter().map(|part| match part {
                TextPart::Constant(text) => text.as_str(),
                TextPart::Place(_) => "",
            });
            return Some(Filling::Constant(Value::from(whole.collect::<String>())));
        }
        Some(Filling::Text { parts, takes })
    }

    fn labels(
        &mut self,
        place: &Place<'_>,
        names: &[Value],
        before: &mut BTreeSet<usize>,
    ) -> Option<Filling> {
        let mut fillings = Vec::with_capacity(names.len().min(LABELS_MAX));
        for name in names {
            let Value::String(text) = name else { return self.mistyped(place, Takes::Labels) };
            fillings.push(self.label(place, text, before)?);
        }
        let constants: Option<Vec<&Value>> = fillings.iter().map(Filling::constant).collect();
        Some(match constants {
            Some(names) => Filling::Constant(json!(names)),
            None => Filling::Labels(fillings),
        })
    }

    /// One name of a label. Without a place it stands as it is written, `$$` included, as it always did; and where it was
    /// stored when names had no places, what reads like one and is none is part of the name.
    fn label(&mut self, place: &Place<'_>, text: &str, before: &mut BTreeSet<usize>) -> Option<Filling> {
        let (faults_before, mut needed) = (self.faults.len(), BTreeSet::new());
        match self.text(place, Takes::Labels, text, &mut needed) {
            Some(filling @ Filling::Text { .. }) => {
                before.append(&mut needed);
                return Some(filling);
            }
            None if self.is_new => return None,
            None => self.faults.truncate(faults_before),
            Some(_) => {}
        }
        Some(Filling::Constant(Value::from(text)))
    }

    fn item(
        &mut self,
        place: &Place<'_>,
        wanted: ItemKind,
        text: &str,
        before: &mut BTreeSet<usize>,
    ) -> Option<Filling> {
        if !text.starts_with('$') {
            return self.mistyped(place, Takes::Item(wanted));
        }
        match self.reference(place, text, before)? {
            Reference::Step { step, what: What::Item { kind, index, part: Part::Whole | Part::Id } }
                if kind == wanted =>
            {
                Some(Filling::Constant(Value::from(format!("$s{}[{index}]", step + 1))))
            }
            _ => self.mistyped(place, Takes::Item(wanted)),
        }
    }

    fn people(
        &mut self,
        place: &Place<'_>,
        people: &[Value],
        before: &mut BTreeSet<usize>,
    ) -> Option<Filling> {
        let mut addressees = Vec::with_capacity(people.len());
        let mut is_wrong = people.len() > RECIPIENTS_MAX;
        for person in people {
            let text = person.as_str().unwrap_or_default();
            if !text.starts_with('$') {
                is_wrong |= !matches!(text.parse::<Recipient>(), Ok(Recipient::Address(_)));
                addressees.push(Addressee::Constant(text.to_owned()));
                continue;
            }
            match self.reference(place, text, before)? {
                Reference::Input(name) => {
                    is_wrong |= !matches!(self.input(&name), Some(Type::Address | Type::Addresses));
                    addressees.push(Addressee::Input(name));
                }
                Reference::Step { step, what: What::Item { index, part: Part::From, .. } } => {
                    addressees.push(Addressee::Constant(format!("$s{}[{index}].from", step + 1)));
                }
                Reference::Step { .. } => is_wrong = true,
            }
        }
        if is_wrong {
            return self.mistyped(place, Takes::People);
        }
        let constants: Option<Vec<&str>> = addressees.iter().map(Addressee::constant).collect();
        Some(match constants {
            Some(texts) => Filling::Constant(json!(texts)),
            None => Filling::People(addressees),
        })
    }

    /// The operation with something harmless in its places, so that everything constant is checked now.
    fn likeness(&mut self, index: usize, spec: &'static Spec, template: &Template) -> Option<Operation> {
        let mut call = Map::new();
        call.insert("operation".to_owned(), Value::from(spec.name));
        let is_open = |filling: &Filling| matches!(filling, Filling::Input(_));
        let has_open_time = template
            .parameters
            .iter()
            .any(|(name, filling)| is_open(filling) && matches!(*name, "start" | "end" | "from" | "to"));
        for (name, filling) in &template.parameters {
            let parameter = spec.parameters.iter().find(|parameter| parameter.name == *name)?;
            let value = match (parameter.takes, filling) {
                // Whether an end fits a start that is not known yet is checked when it is.
                (Takes::Time, _) if has_open_time => match *name {
                    "to" if parameter.is_required => Value::from(SOMETIME_LATER),
                    _ if parameter.is_required => Value::from(SOMETIME),
                    _ => Value::Null,
                },
                (_, Filling::Constant(value)) => value.clone(),
                (Takes::Limit, _) => json!(LIMIT_MAX),
                (Takes::Boolean, _) => json!(false),
                (_, Filling::People(_)) => json!([SOMEBODY]),
                (_, Filling::Labels(labels)) => {
                    let likeness = |(at, label): (usize, &Filling)| {
                        label.constant().cloned().unwrap_or_else(|| json!(format!("{name} {at}")))
                    };
                    labels.iter().enumerate().map(likeness).collect()
                }
                (Takes::Role | Takes::Format, _) => json!(parameter.takes.names()?.first()),
                _ => Value::from(SOMETHING),
            };
            call.insert((*name).to_owned(), value);
        }
        match operation(call) {
            Ok(call) => Some(call),
            Err(error) => {
                self.fault_of(index, format!("/steps/{index}/with"), error.to_string());
                None
            }
        }
    }

    fn when(
        &mut self,
        index: usize,
        when: Option<&Value>,
        before: &mut BTreeSet<usize>,
    ) -> Option<Condition> {
        let when = when.filter(|when| !when.is_null())?;
        let mut parts = 0;
        self.test(index, &format!("/steps/{index}/when"), when, &mut parts, before).map(Condition)
    }

    fn test(
        &mut self,
        index: usize,
        at: &str,
        test: &Value,
        parts: &mut usize,
        before: &mut BTreeSet<usize>,
    ) -> Option<Test> {
        *parts += 1;
        if *parts > CONDITION_PARTS_MAX {
            let detail = format!("a condition has at most {CONDITION_PARTS_MAX} parts");
            self.fault_of(index, at, detail);
            return None;
        }
        let sole = test.as_object().filter(|test| test.len() == 1).and_then(|test| test.iter().next());
        let form = "must be an object with one of exists, equals, contains, greater, less, not, all, any";
        let Some((name, value)) = sole else {
            self.fault_of(index, at, form);
            return None;
        };
        let inner = pointer(at, name);
        match (name.as_str(), value) {
            ("exists", Value::String(text)) => {
                let place = Place { step: index, pointer: &inner };
                self.reference(&place, text, before).map(Test::Exists)
            }
            ("not", value) => {
                self.test(index, &inner, value, parts, before).map(|test| Test::Not(Box::new(test)))
            }
            ("all" | "any", Value::Array(tests)) => {
                let mut read = Vec::with_capacity(tests.len().min(CONDITION_PARTS_MAX));
                for (entry, test) in tests.iter().enumerate() {
                    read.push(self.test(index, &format!("{inner}/{entry}"), test, parts, before)?);
                }
                Some(if name == "all" { Test::All(read) } else { Test::Any(read) })
            }
            (name, Value::Array(pair)) if pair.len() == 2 => {
                let Some(comparison) = Comparison::from_name(name) else {
                    self.fault_of(index, at, form);
                    return None;
                };
                let left = self.operand(index, &format!("{inner}/0"), &pair[0], before)?;
                let right = self.operand(index, &format!("{inner}/1"), &pair[1], before)?;
                self.comparable(index, &inner, comparison, (&left, &right))?;
                Some(Test::Compare(comparison, left, right))
            }
            _ => {
                self.fault_of(index, at, form);
                None
            }
        }
    }

    fn operand(
        &mut self,
        index: usize,
        at: &str,
        operand: &Value,
        before: &mut BTreeSet<usize>,
    ) -> Option<Operand> {
        match operand {
            Value::String(text) if text.starts_with('$') && !text.starts_with("$$") => {
                let place = Place { step: index, pointer: at };
                self.reference(&place, text, before).map(Operand::Place)
            }
            Value::String(text) => {
                let text = text.strip_prefix('$').unwrap_or(text);
                Some(Operand::Constant(Value::from(text)))
            }
            Value::Bool(_) => Some(Operand::Constant(operand.clone())),
            Value::Number(number) if number.as_i64().is_some() => Some(Operand::Constant(operand.clone())),
            _ => {
                self.fault_of(index, at, "must be a text, a whole number, true, false, or a reference");
                None
            }
        }
    }

    fn comparable(
        &mut self,
        index: usize,
        at: &str,
        comparison: Comparison,
        (left, right): (&Operand, &Operand),
    ) -> Option<()> {
        let type_of = |operand: &Operand| match operand {
            Operand::Constant(Value::Bool(_)) => Some(Type::Boolean),
            Operand::Constant(Value::Number(_)) => Some(Type::Integer),
            Operand::Constant(_) => Some(Type::Text),
            Operand::Place(reference) => self.type_of(reference),
        };
        let (left, right) = (type_of(left), type_of(right));
        let texts = left.is_some_and(Type::is_textual) && right.is_some_and(Type::is_textual);
        let numbers = left == Some(Type::Integer) && right == Some(Type::Integer);
        let truths = left == Some(Type::Boolean) && right == Some(Type::Boolean);
        let (fits, wanted) = match comparison {
            Comparison::Equals => {
                (texts || numbers || truths, "two texts, two whole numbers or two truth values")
            }
            Comparison::Contains => (texts, "two texts"),
            Comparison::Greater | Comparison::Less => (numbers, "two whole numbers"),
        };
        if fits {
            return Some(());
        }
        self.fault_of(index, at, format!("compares {wanted}"));
        None
    }

    fn acyclic(&mut self, graph: &Graph) {
        let order = graph.in_order();
        let mut depth = vec![0usize; graph.nodes.len()];
        for index in &order {
            let before = graph.nodes[*index].before.iter().map(|before| depth[*before]).max().unwrap_or(0);
            depth[*index] = before + 1;
            if before >= DEPTH_MAX {
                let detail = format!("more than {DEPTH_MAX} steps stand one behind the other");
                return self.fault_of(*index, format!("/steps/{index}"), detail);
            }
        }
        let Some(cycle) = cycle(graph, &order) else { return };
        let name = |index: usize| graph.nodes[index].name().unwrap_or_default().to_owned();
        let path: Vec<String> = cycle.iter().chain(cycle.first()).map(|index| name(*index)).collect();
        let detail = format!("depends on itself: {}", path.join(" -> "));
        self.fault_of(cycle[0], format!("/steps/{}", cycle[0]), detail);
    }
}

/// Whether a text is one of those that are taken there.
fn is_among(takes: Takes, value: &Value) -> bool {
    let names = takes.names().unwrap_or_default();
    value.as_str().is_some_and(|text| names.contains(&text))
}

impl Filling {
    fn constant(&self) -> Option<&Value> {
        match self {
            Self::Constant(value) => Some(value),
            _ => None,
        }
    }
}

impl Addressee {
    fn constant(&self) -> Option<&str> {
        match self {
            Self::Constant(text) => Some(text),
            Self::Input(_) => None,
        }
    }
}

/// The steps of a cycle, each followed by one it depends on; `None` when everything could be put in order.
fn cycle(graph: &Graph, order: &[usize]) -> Option<Vec<usize>> {
    let is_stuck = |index: &usize| !order.contains(index);
    // A step that is stuck depends on one that is: following those must come back to where it was before.
    let mut path = vec![(0..graph.nodes.len()).find(is_stuck)?];
    for _step in 0..graph.nodes.len() {
        let here = *path.last()?;
        let next = graph.nodes[here].before.iter().copied().find(is_stuck)?;
        if let Some(at) = path.iter().position(|seen| *seen == next) {
            return Some(path.split_off(at));
        }
        path.push(next);
    }
    None
}

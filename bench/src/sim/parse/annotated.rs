//! Commands with annotations: what real people said, and what they meant by it.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::json;

use super::build::{Builder, Context, Refusal, search_value, title_case};
use super::plan::Plan;
use super::words::{MAIL_NOUNS, Word, is_email, words};
use super::{events, finish, not_ours, send, time, topic};

/// One line of an annotations file.
#[derive(Debug, Deserialize)]
struct Annotation {
    text: String,
    scenario: String,
    action: String,
    #[serde(default)]
    entities: Vec<Entity>,
    /// As typed, where that differs from `text`.
    raw: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Entity {
    #[serde(rename = "type")]
    kind: String,
    text: String,
}

impl Annotation {
    fn entity(&self, kinds: &[&str]) -> Option<&str> {
        self.entities
            .iter()
            .find(|entity| kinds.contains(&entity.kind.as_str()))
            .map(|entity| entity.text.as_str())
    }

    /// A person's name without title and possessive, in letters a search may hold.
    fn person(&self) -> Option<String> {
        let name = self.entity(&["person"])?.to_lowercase().replace("'s", "");
        let name: Vec<String> = name
            .split_whitespace()
            .map(|word| word.chars().filter(|c| c.is_alphanumeric() || *c == '-').collect::<String>())
            .filter(|word| !word.is_empty())
            .collect();
        (!name.is_empty()).then(|| name.join(" "))
    }

    /// An address as it was meant: "a@b dot com" is a@b.com.
    fn address(&self) -> Option<String> {
        let address = self.entity(&["email_address"])?.to_lowercase().replace(" dot ", ".").replace(' ', "");
        is_email(&address).then_some(address)
    }
}

/// Annotated commands by their normalised text.
#[derive(Debug, Default)]
pub(crate) struct Annotations(HashMap<String, Annotation>);

impl Annotations {
    /// Reads JSONL files; of two commands with one text the first counts.
    pub(crate) fn load(files: &[PathBuf]) -> anyhow::Result<Self> {
        let mut annotations = HashMap::new();
        for file in files {
            let text =
                std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
                let annotation: Annotation = serde_json::from_str(line)
                    .with_context(|| format!("{} line {}", file.display(), index + 1))?;
                let key = annotation.raw.as_deref().map(normalised);
                let annotation = Self::add(&mut annotations, normalised(&annotation.text), annotation);
                if let (Some(key), Some(annotation)) = (key, annotation) {
                    Self::add(&mut annotations, key, annotation);
                }
            }
        }
        Ok(Self(annotations))
    }

    /// Adds it under `key`; a copy for another key when it was added.
    fn add(map: &mut HashMap<String, Annotation>, key: String, annotation: Annotation) -> Option<Annotation> {
        if map.contains_key(&key) {
            return None;
        }
        let copy = Annotation {
            text: annotation.text.clone(),
            scenario: annotation.scenario.clone(),
            action: annotation.action.clone(),
            entities: annotation
                .entities
                .iter()
                .map(|entity| Entity { kind: entity.kind.clone(), text: entity.text.clone() })
                .collect(),
            raw: None,
        };
        map.insert(key, annotation);
        Some(copy)
    }

    /// The plan for a command that is annotated; `None` for others.
    pub(crate) fn plan(&self, command: &str, context: &Context) -> Option<Plan> {
        if self.0.is_empty() {
            return None;
        }
        let annotation = self.0.get(&normalised(command))?;
        let mut builder = Builder::new(context);
        let words = words(&annotation.text);
        let made = match (annotation.scenario.as_str(), annotation.action.as_str()) {
            ("email", "query") => email_query(annotation, &words, &mut builder),
            ("email", "querycontact") => contact_query(annotation, &mut builder),
            ("email", "sendemail") => return Some(send_email(annotation, &words, context)),
            ("email", "addcontact") => Err("I cannot keep contacts yet.".to_owned()),
            ("calendar", "set") => calendar_set(annotation, &words, &mut builder),
            ("calendar", "query") => events::list(&words, &mut builder),
            ("calendar", "remove") => calendar_remove(&words, &mut builder),
            _ => Err(not_ours()),
        };
        Some(match made {
            Ok(()) => finish(builder),
            Err(reason) => Plan::Decline(reason),
        })
    }
}

/// Lower case, without punctuation at the ends of words, single spaces.
fn normalised(text: &str) -> String {
    let text = text.to_lowercase().replace('\u{2019}', "'");
    let words =
        text.split_whitespace().map(|word| word.trim_matches(|c: char| !c.is_alphanumeric() && c != '@'));
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn email_query(annotation: &Annotation, words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let said = |list: &[&str]| words.iter().any(|word| word.any(list));
    let mut terms = Vec::new();
    if let Some(name) = annotation.person() {
        terms.push(format!("from:{}", search_value(&name)));
    } else if let Some(relation) = annotation.entity(&["relation", "business_name"]) {
        let used = vec![false; words.len()];
        let relation = topic(&super::words::words(relation), &used, |_| false).join(" ");
        if !relation.is_empty() {
            terms.push(format!("from:{}", search_value(&relation)));
        }
    }
    if said(&["new", "unread"]) {
        terms.push("is:unread".to_owned());
    }
    let found = time::find(words, builder.now(), false);
    if let Some(days) = found.days {
        terms.push(format!("after:{}", days.from.strftime("%Y/%m/%d")));
    }
    if let Some(name) = annotation.entity(&["event_name"]) {
        let used = vec![false; words.len()];
        terms.extend(topic(&super::words::words(name), &used, |word| word.any(MAIL_NOUNS)));
    }
    if terms.is_empty() {
        terms.push("in:inbox".to_owned());
    }
    let one = said(&["last", "latest"]);
    let call =
        json!({"operation": "gmail.search", "query": terms.join(" "), "limit": if one { 1 } else { 10 }});
    let step = builder.push(call);
    if said(&["read", "open"]) && one {
        builder.push(json!({"operation": "gmail.read", "message": format!("$s{}[0]", step + 1)}));
    }
    Ok(())
}

/// There are no contacts; whoever wrote shows their address.
fn contact_query(annotation: &Annotation, builder: &mut Builder<'_>) -> Result<(), Refusal> {
    let name = annotation.person().ok_or("I keep no contacts; whose mail should I look for?")?;
    builder.push(
        json!({"operation": "gmail.search", "query": format!("from:{}", search_value(&name)), "limit": 5}),
    );
    Ok(())
}

/// By the rules where they understand it; otherwise from the entities.
fn send_email(annotation: &Annotation, words: &[Word], context: &Context) -> Plan {
    let by_rules = super::plan(&annotation.text, context);
    if let Plan::Act(steps) = &by_rules
        && steps.iter().any(|step| matches!(step.operation(), "gmail.send" | "gmail.reply"))
    {
        return by_rules;
    }
    let mut builder = Builder::new(context);
    let entity = annotation.entity(&["person", "email_address"]).unwrap_or_default().to_lowercase();
    let text = annotation.text.to_lowercase();
    let rest = text.find(&entity).filter(|_| !entity.is_empty()).map(|at| text[at + entity.len()..].trim());
    let rest = rest.filter(|rest| rest.split_whitespace().count() >= 3);
    let recipient = match (annotation.address(), annotation.person()) {
        (Some(address), _) => Some(address),
        (None, Some(name)) if rest.is_some() => {
            let call = json!({"operation": "gmail.search", "query": format!("from:{}", search_value(&name)), "limit": 1});
            builder.push(call);
            Some("$s1[0].from".to_owned())
        }
        _ => None,
    };
    match (recipient, rest) {
        (Some(recipient), Some(rest)) => {
            let body = send::body_of(rest);
            let subject: Vec<&str> = body.split_whitespace().take(5).collect();
            builder.push(json!({"operation": "gmail.send", "to": [recipient], "body": body,
                "subject": subject.join(" ").trim_end_matches(['.', ','])}));
            finish(builder)
        }
        _ if words.iter().any(|word| word.any(&["reply", "answer", "respond"])) => {
            // What is to be answered can at least be shown.
            let query = annotation
                .person()
                .map_or_else(|| "in:inbox".to_owned(), |name| format!("from:{}", search_value(&name)));
            builder.push(json!({"operation": "gmail.search", "query": query, "limit": 1}));
            finish(builder)
        }
        _ => Plan::Decline("To whom should the message go, and what should it say?".to_owned()),
    }
}

fn calendar_set(annotation: &Annotation, words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    if annotation.entity(&["general_frequency"]).is_some() {
        return Err("I cannot make events that repeat yet.".to_owned());
    }
    let found = time::find(words, builder.now(), false);
    let start = found.start(builder.now()).ok_or("When should that be?")?;
    let name = annotation
        .entity(&["event_name", "meal_type"])
        .map_or_else(|| "Reminder".to_owned(), super::words::capitalised);
    let title = match annotation.person() {
        Some(person) if !name.to_lowercase().contains(&person) => {
            format!("{name} with {}", title_case(&person))
        }
        _ => name,
    };
    let location = annotation.entity(&["place_name", "business_name"]).map(title_case);
    builder.push(json!({"operation": "calendar.create", "title": title, "start": start, "end": found.end(builder.now()),
        "attendees": [], "location": location, "description": null}));
    Ok(())
}

fn calendar_remove(words: &[Word], builder: &mut Builder<'_>) -> Result<(), Refusal> {
    events::delete_described(words, builder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::parse::check;
    use jiff::civil::date;

    const LINES: &str = r#"{"id":"1","text":"did i get an email from mike today","scenario":"email","action":"query","entities":[{"type":"person","text":"mike"},{"type":"date","text":"today"}]}
{"id":"2","text":"lights off in the bedroom","scenario":"iot","action":"hue_lightoff","entities":[],"raw":"Olly, lights off in the bedroom!"}
{"id":"3","text":"remove standup on Friday at ten am","scenario":"calendar","action":"remove","entities":[{"type":"event_name","text":"standup"}]}
{"id":"4","text":"set meeting with joe tomorrow at two pm","scenario":"calendar","action":"set","entities":[{"type":"event_name","text":"meeting"},{"type":"person","text":"joe"}]}
{"id":"5","text":"send email to mom","scenario":"email","action":"sendemail","entities":[{"type":"relation","text":"mom"}]}
{"id":"6","text":"email hwu@gmail dot com that i am late today","scenario":"email","action":"sendemail","entities":[{"type":"email_address","text":"hwu@gmail dot com"}]}
"#;

    fn annotations() -> Annotations {
        let file = std::env::temp_dir().join(format!("annotations-{}.jsonl", std::process::id()));
        std::fs::write(&file, LINES).unwrap();
        let annotations = Annotations::load(std::slice::from_ref(&file)).unwrap();
        std::fs::remove_file(file).unwrap();
        annotations
    }

    #[test]
    fn an_annotated_command_means_what_its_annotation_says() {
        let annotations = annotations();
        let context = Context::at(date(2026, 11, 23).at(15, 4, 0, 0));
        let plan = |text: &str| {
            let plan = annotations.plan(text, &context).unwrap().to_json();
            check(&plan).unwrap_or_else(|reason| panic!("{text}: {reason}"));
            plan
        };
        let query = &plan("Did I get an email from Mike today?")["steps"][0]["call"]["query"];
        assert_eq!(*query, "from:mike after:2026/11/23");
        assert_eq!(plan("olly lights off in the bedroom")["decision"], "decline");
        let steps = &plan("remove standup on friday at ten am")["steps"];
        assert_eq!(steps[0]["call"]["query"], "standup");
        assert_eq!(steps[0]["call"]["from"], "2026-11-27T10:00");
        assert_eq!(steps[1]["call"]["event"], "$s1[0]");
        let call = &plan("set meeting with joe tomorrow at two pm")["steps"][0]["call"];
        assert_eq!(
            (&call["title"], &call["start"]),
            (
                &json!("meeting with Joe").as_str().map(super::super::words::capitalised).into(),
                &json!("2026-11-24T14:00")
            )
        );
        assert_eq!(plan("send email to mom")["decision"], "decline");
        let call = &plan("email hwu@gmail dot com that i am late today")["steps"][0]["call"];
        assert_eq!(call["to"], json!(["hwu@gmail.com"]));
        assert!(annotations.plan("something else", &context).is_none());
    }
}

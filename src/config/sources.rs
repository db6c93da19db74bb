//! Where values come from: the file, the environment, the command line; and what each of them got wrong.

use std::collections::BTreeMap;
use std::path::Path;

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::{Config, ConfigError, ENV_PREFIX, Origin, Problem, SECTIONS};

const ENV_NAME: &str = "environment";
pub(super) const FLAG_NAME: &str = "command line";
/// Keys whose values no message may quote.
pub(super) const SECRET_KEYS: [&str; 3] = ["vault.keys", "openai.api_key", "google.client_secret"];

/// Reads the file and makes sure that it is TOML, so that a slip is reported with its line.
pub(super) fn read_toml(path: &Path) -> Result<String, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    match text.parse::<toml::Table>() {
        Ok(_) => Ok(text),
        Err(error) => {
            // Not the library's own text: it quotes the line, which may hold a secret.
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let problem = format!("line {}: {}", before.matches('\n').count() + 1, error.message());
            Err(ConfigError::Syntax { path: path.to_owned(), problem })
        }
    }
}

/// Texts from environment or command line, as a source of values.
pub(super) struct Pairs {
    name: &'static str,
    /// The key with its section, and its text.
    entries: Vec<(String, String)>,
}

impl Pairs {
    pub(super) fn environment(variables: impl Iterator<Item = (String, String)>) -> Self {
        let entries = variables
            .filter_map(|(name, text)| {
                let key = name.strip_prefix(ENV_PREFIX)?.to_ascii_lowercase();
                let section = key.split('_').next().unwrap_or_default();
                // Other programs of ours have variables of the same prefix; a section's name makes it configuration.
                let ours = key.contains("__") || SECTIONS.iter().any(|known| known.name == section);
                ours.then(|| (key.replace("__", "."), text))
            })
            .collect();
        Self { name: ENV_NAME, entries }
    }

    pub(super) fn flags(flags: &[(String, String)]) -> Self {
        Self { name: FLAG_NAME, entries: flags.to_vec() }
    }

    /// Entries without a section: for a variable, one underscore too few.
    pub(super) fn misspelt(&self) -> Vec<Problem> {
        let without_section = self.entries.iter().filter(|(key, _)| !key.contains('.'));
        without_section.map(|(key, _)| self.without_section(key)).collect()
    }

    fn without_section(&self, key: &str) -> Problem {
        let (origin, text) = if self.name == ENV_NAME {
            let text = "section and key are parted by two underscores, as in SLUICE_LISTEN__PORT";
            (Origin::Environment(variable(key)), text)
        } else {
            (Origin::Flag, "section and key are parted by a point, as in listen.port")
        };
        Problem { origin, key: key.to_owned(), text: text.to_owned() }
    }
}

fn variable(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

impl Provider for Pairs {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let defaults = toml::Table::try_from(Config::default()).unwrap_or_default();
        let mut merged = Dict::new();
        for (path, text) in self.entries.iter().filter(|(path, _)| path.contains('.')) {
            let (section, key) = path.split_once('.').unwrap_or_default();
            let value = typed(text, defaults.get(section).and_then(|keys| keys.get(key)));
            let entry = merged.entry(section.to_owned()).or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, keys) = entry {
                keys.insert(key.to_owned(), value);
            }
        }
        Ok(Profile::Default.collect(merged))
    }
}

/// Reads a text as what the key's default is; so a secret of digits stays a text.
fn typed(text: &str, default: Option<&toml::Value>) -> Value {
    match default {
        Some(toml::Value::Integer(_)) => text.trim().parse::<u64>().map_or_else(|_| text.into(), Value::from),
        Some(toml::Value::Boolean(_)) => {
            text.trim().parse::<bool>().map_or_else(|_| text.into(), Value::from)
        }
        Some(toml::Value::Array(default)) => {
            let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
            let items = inner.split(',').map(|item| item.trim().trim_matches('"'));
            let first = default.first();
            Value::from(
                items.filter(|item| !item.is_empty()).map(|item| typed(item, first)).collect::<Vec<_>>(),
            )
        }
        _ => Value::from(text),
    }
}

/// The merged sources, to find out where things came from.
pub(super) struct Source<'a> {
    pub(super) figment: &'a Figment,
    pub(super) file: Option<&'a Path>,
}

impl Source<'_> {
    fn origin(&self, key: &str) -> Origin {
        let Some(metadata) = self.figment.find_metadata(key) else { return Origin::Default };
        match (&*metadata.name, self.file) {
            (ENV_NAME, _) => Origin::Environment(variable(key)),
            (FLAG_NAME, _) => Origin::Flag,
            (_, Some(file)) => Origin::File(file.to_owned()),
            (_, None) => Origin::Default,
        }
    }

    pub(super) fn origins(&self) -> BTreeMap<String, Origin> {
        let keys = SECTIONS
            .iter()
            .flat_map(|section| section.keys.iter().map(|text| format!("{}.{}", section.name, text.key)));
        keys.map(|key| (key.clone(), self.origin(&key)))
            .filter(|(_, found)| *found != Origin::Default)
            .collect()
    }

    /// Every key that does not exist, not just the first.
    pub(super) fn unknown_keys(&self) -> Vec<Problem> {
        let merged: Dict = self.figment.extract().unwrap_or_default();
        let mut problems = Vec::new();
        for (name, value) in &merged {
            let Some(section) = SECTIONS.iter().find(|section| section.name == name) else {
                let sections: Vec<_> = SECTIONS.iter().map(|section| section.name).collect();
                problems.push(self.unknown(name, "section", "sections", &sections));
                continue;
            };
            let allowed: Vec<_> = section.keys.iter().map(|text| text.key).collect();
            for key in value.as_dict().into_iter().flat_map(Dict::keys) {
                if !allowed.contains(&key.as_str()) {
                    let keys = format!("keys in [{name}]");
                    problems.push(self.unknown(&format!("{name}.{key}"), "key", &keys, &allowed));
                }
            }
        }
        problems
    }

    fn unknown(&self, path: &str, what: &str, plural: &str, allowed: &[&str]) -> Problem {
        let text = format!("unknown {what}; {plural} are {}", allowed.join(", "));
        Problem { origin: self.origin(path), key: path.to_owned(), text }
    }

    pub(super) fn refuse(&self, error: figment::Error) -> ConfigError {
        let problems = error
            .into_iter()
            .map(|error| {
                // A list's element is `listen.addresses.0`; the key is what the file has.
                let key = error.path.iter().take(2).map(String::as_str).collect::<Vec<_>>().join(".");
                Problem { origin: self.origin(&key), text: explain(&error, &key), key }
            })
            .collect();
        ConfigError::Refused(problems)
    }
}

/// What is wrong with a value, and the key's own text, which says what is allowed.
fn explain(error: &figment::Error, key: &str) -> String {
    // The library quotes the value it did not like.
    let problem = if SECRET_KEYS.contains(&key) { "not a text".to_owned() } else { error.kind.to_string() };
    let (section, name) = key.split_once('.').unwrap_or_default();
    let lines = SECTIONS
        .iter()
        .filter(|text| text.name == section)
        .flat_map(|text| text.keys)
        .find(|text| text.key == name)
        .map(|text| text.lines.concat());
    format!("{problem}; allowed:{}", lines.as_deref().unwrap_or(" see the reference"))
}

//! What users set once and for all, read and changed as one JSON document.
//!
//! A change is a merge patch (RFC 7396): a member that is absent stays, `null` takes it back to what holds without it.
//! Only `custom` is an object, so only there a patch reaches deeper.
//!
//! Invariant: [`Preferences`] that came from [`Preferences::patched`] are within every bound stated here.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Priority, fields_problem, is_zone_name, object_of, pointer};
use crate::problem::Problem;
use crate::workflow::operation_names;

/// The most bytes of `custom`, written as JSON without blanks.
pub const CUSTOM_BYTES_MAX: usize = 8 * 1024;
/// The most levels of `custom`: itself is the first, and an object or list in it the next.
pub const CUSTOM_DEPTH_MAX: usize = 8;
/// The most characters of a language tag (RFC 5646 section 4.4.1).
pub const LANGUAGE_CHARS_MAX: usize = 35;

/// What a user prefers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Preferences {
    /// The IANA name of the zone that times are meant in where a command names none; without it, that of the user's
    /// account. Only its form is checked here.
    pub time_zone: Option<String>,
    /// The language that the model is to write to the user in, as a tag (RFC 5646).
    pub language: Option<String>,
    /// How urgent commands are that do not say; `normal` without it.
    pub priority: Option<Priority>,
    /// Operations that are never carried out before the user has confirmed the plan, beside those that the operator
    /// names; each once, in the order of [`operation_names`].
    pub confirm: Vec<String>,
    /// Whatever programs of the user's keep here: at most [`CUSTOM_BYTES_MAX`] and [`CUSTOM_DEPTH_MAX`].
    pub custom: Map<String, Value>,
}

impl Preferences {
    /// These preferences after a merge patch.
    ///
    /// # Errors
    /// `invalid-json`, or `invalid-field` with one entry for each member that is wrong or unknown.
    pub fn patched(&self, patch: &[u8]) -> Result<Self, Problem> {
        let mut next = self.clone();
        let mut errors = Vec::new();
        for (name, value) in object_of(patch)? {
            if let Err((below, detail)) = next.set(&name, value) {
                errors.push((format!("{}{below}", pointer(&name)), detail));
            }
        }
        if errors.is_empty() { Ok(next) } else { Err(fields_problem(errors)) }
    }

    /// Sets one member; tells what is wrong with it, and where in it.
    fn set(&mut self, name: &str, value: Value) -> Result<(), (String, String)> {
        let wrong = |detail: &str| (String::new(), detail.to_owned());
        match (name, value) {
            ("time_zone", Value::Null) => self.time_zone = None,
            ("time_zone", Value::String(zone)) if is_zone_name(&zone) => self.time_zone = Some(zone),
            ("time_zone", _) => {
                return Err(wrong("must be the name of an IANA time zone, such as `Europe/Berlin`, or null"));
            }
            ("language", Value::Null) => self.language = None,
            ("language", Value::String(tag)) if is_language(&tag) => self.language = Some(tag),
            ("language", _) => return Err(wrong("must be the tag of a language, such as `de-AT`, or null")),
            ("priority", Value::Null) => self.priority = None,
            ("priority", value) => {
                let priority = value.as_str().and_then(Priority::from_name);
                let priority = priority.ok_or_else(|| wrong("must be `high`, `normal`, `batch` or null"))?;
                self.priority = Some(priority);
            }
            ("confirm", Value::Null) => self.confirm = Vec::new(),
            ("confirm", Value::Array(names)) => self.confirm = operations(&names)?,
            ("confirm", _) => {
                return Err(wrong("must be a list of operations, such as `gmail.send`, or null"));
            }
            ("custom", Value::Null) => self.custom = Map::new(),
            ("custom", Value::Object(patch)) => {
                let mut custom = self.custom.clone();
                merge(&mut custom, patch);
                check_custom(&custom).map_err(|detail| (String::new(), detail))?;
                self.custom = custom;
            }
            ("custom", _) => return Err(wrong("must be an object or null")),
            _ => return Err(wrong("there is no such field")),
        }
        Ok(())
    }
}

/// The reply to `GET` and `PATCH /api/v1/preferences`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PreferencesView {
    /// What is preferred; `null` for what is left to the account, the operator and the defaults.
    #[serde(flatten)]
    pub preferences: Preferences,
    /// When they were changed last (RFC 3339, UTC); none when never.
    pub updated: Option<Timestamp>,
}

/// Each operation named, once.
fn operations(names: &[Value]) -> Result<Vec<String>, (String, String)> {
    let is_known =
        |name: &Value| name.as_str().is_some_and(|name| operation_names().any(|known| known == name));
    if let Some(index) = names.iter().position(|name| !is_known(name)) {
        let known: Vec<&str> = operation_names().collect();
        return Err((format!("/{index}"), format!("must be one of {}", known.join(", "))));
    }
    let named = operation_names().filter(|known| names.iter().any(|name| name == known));
    Ok(named.map(str::to_owned).collect())
}

/// Whether a text has the form of a language tag: letters, then subtags of letters and digits (RFC 5646 section 2.1).
fn is_language(tag: &str) -> bool {
    let mut subtags = tag.split('-');
    let first = subtags.next().unwrap_or_default();
    tag.len() <= LANGUAGE_CHARS_MAX
        && (2..=8).contains(&first.len())
        && first.bytes().all(|byte| byte.is_ascii_alphabetic())
        && subtags.all(|subtag| {
            (1..=8).contains(&subtag.len()) && subtag.bytes().all(|byte| byte.is_ascii_alphanumeric())
        })
}

/// `MergePatch` of RFC 7396 section 2, for a target and a patch that are objects. Goes as deep as the patch, whose depth
/// the JSON parser bounds (128).
fn merge(target: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => drop(target.remove(&name)),
            Value::Object(patch) => {
                let member = target.entry(name).or_insert(Value::Null);
                if !member.is_object() {
                    *member = Value::Object(Map::new());
                }
                if let Value::Object(member) = member {
                    merge(member, patch);
                }
            }
            value => drop(target.insert(name, value)),
        }
    }
}

fn check_custom(custom: &Map<String, Value>) -> Result<(), String> {
    let depth = 1 + custom.values().map(depth).max().unwrap_or(0);
    if depth > CUSTOM_DEPTH_MAX {
        return Err(format!("has {depth} levels; {CUSTOM_DEPTH_MAX} are kept"));
    }
    let text = serde_json::to_string(custom).unwrap_or_default();
    if text.len() > CUSTOM_BYTES_MAX {
        return Err(format!("has {} bytes as JSON; {CUSTOM_BYTES_MAX} are kept", text.len()));
    }
    // A number that reads back as its neighbour would move with every change of another member.
    match serde_json::from_str::<Map<String, Value>>(&text) {
        Ok(again) if again == *custom => Ok(()),
        _ => Err("holds a number that cannot be kept as it is; write it as a text".to_owned()),
    }
}

/// How many levels a value has.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::problem::ProblemKind;

    fn patched(before: &Preferences, patch: &Value) -> Result<Preferences, Problem> {
        before.patched(patch.to_string().as_bytes())
    }

    fn pointers(patch: &Value) -> Vec<String> {
        let problem = patched(&Preferences::default(), patch).expect_err("a problem");
        assert_eq!(problem.kind(), ProblemKind::InvalidField);
        problem.errors().iter().map(|error| error.pointer.clone()).collect()
    }

    /// `custom` after these patches.
    fn custom(patches: &[Value]) -> Value {
        let patch = |before, patch: &Value| patched(&before, &json!({"custom": patch})).expect("valid");
        Value::Object(patches.iter().fold(Preferences::default(), patch).custom)
    }

    #[test]
    fn what_is_absent_stays_and_null_takes_it_back() {
        let all = json!({
            "time_zone": "Europe/Berlin", "language": "de-AT", "priority": "batch",
            "confirm": ["gmail.send", "calendar.delete", "gmail.send"], "custom": {"a": 1},
        });
        let set = patched(&Preferences::default(), &all).expect("valid");
        assert_eq!(set.confirm, ["gmail.send", "calendar.delete"]);
        assert_eq!(patched(&set, &json!({})).expect("valid"), set);
        let less = patched(&set, &json!({"time_zone": null, "confirm": []})).expect("valid");
        assert_eq!((less.time_zone, less.confirm, less.language.as_deref()), (None, vec![], Some("de-AT")));
        let none =
            json!({"time_zone": null, "language": null, "priority": null, "confirm": null, "custom": null});
        assert_eq!(patched(&set, &none).expect("valid"), Preferences::default());
    }

    #[test]
    fn every_wrong_and_unknown_member_is_named_at_once() {
        let patch = json!({
            "time_zone": "../etc/passwd", "language": "d", "priority": "low", "confirm": ["gmail.read", "gmail.sent"],
            "custom": [], "a/b~c": null, "updated": null,
        });
        let wrong = ["/a~1b~0c", "/confirm/1", "/custom", "/language", "/priority", "/time_zone", "/updated"];
        assert_eq!(pointers(&patch), wrong);
        assert_eq!(pointers(&json!({"confirm": "gmail.send"})), ["/confirm"]);
        assert_eq!(pointers(&json!("x")), [""]);
        let broken = Preferences::default().patched(b"{").expect_err("a problem");
        assert_eq!(broken.kind(), ProblemKind::InvalidJson);
    }

    #[test]
    fn the_examples_of_the_rfc_hold_within_custom() {
        // RFC 7396 appendix A, those whose target and patch are objects.
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (before, patch, after) in cases {
            assert_eq!(custom(&[before, patch.clone()]), after, "{patch}");
        }
    }

    #[test]
    fn bounds_of_custom_are_exact() {
        // {"a":"..."} takes eight bytes beside the text.
        let of_bytes = |bytes: usize| json!({"custom": {"a": "x".repeat(bytes - 8)}});
        assert!(patched(&Preferences::default(), &of_bytes(CUSTOM_BYTES_MAX)).is_ok());
        assert_eq!(pointers(&of_bytes(CUSTOM_BYTES_MAX + 1)), ["/custom"]);
        let nested = |levels: usize| (1..levels).fold(json!({}), |inner, _| json!({"a": inner}));
        assert!(patched(&Preferences::default(), &json!({"custom": nested(CUSTOM_DEPTH_MAX)})).is_ok());
        assert_eq!(pointers(&json!({"custom": nested(CUSTOM_DEPTH_MAX + 1)})), ["/custom"]);
        // Patch after patch reaches no further than one.
        let half = "x".repeat(CUSTOM_BYTES_MAX / 2);
        let before = patched(&Preferences::default(), &json!({"custom": {"a": half}})).expect("fits");
        assert!(patched(&before, &json!({"custom": {"b": half}})).is_err());
    }

    #[test]
    fn languages_have_the_form_of_tags() {
        for tag in ["de", "de-AT", "zh-Hant-TW", "sl-rozaj-biske", "es-419"] {
            assert!(is_language(tag), "{tag}");
        }
        for text in [
            "",
            "d",
            "de_AT",
            "de-",
            "-de",
            "deutschland-de",
            "d3",
            "de AT",
            "en-ignorepreviousorders",
            &"de-".repeat(13),
        ] {
            assert!(!is_language(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_patches_never_panic_and_keep_the_bounds(body in proptest::collection::vec(any::<u8>(), 0..200), number: f64, text in "\\PC{0,20}") {
            let _ = Preferences::default().patched(&body);
            let patch = json!({"custom": {"a": {"b": number, "c": text}}, "language": text, "time_zone": text});
            if let Ok(next) = patched(&Preferences::default(), &patch) {
                let text = serde_json::to_string(&next).expect("serialises");
                prop_assert_eq!(serde_json::from_str::<Preferences>(&text).expect("reads"), next);
            }
        }
    }
}

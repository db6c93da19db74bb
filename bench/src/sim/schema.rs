//! The part of JSON Schema that OpenAI's strict structured outputs allow: whether
//! a schema keeps to it, and whether a value fits a schema.
//! <https://platform.openai.com/docs/guides/structured-outputs#supported-schemas>

use serde_json::Value;

/// Limits that the real service sets.
const PROPERTIES_MAX: usize = 5_000;
const DEPTH_MAX: usize = 10;
const ENUM_VALUES_MAX: usize = 1_000;
/// References followed without a step down in the value; more is a loop.
const REFERENCES_MAX: usize = 32;

/// Keywords that strict mode refuses.
const REFUSED: [&str; 21] = [
    "allOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "default",
    "dependentRequired",
    "dependentSchemas",
    "patternProperties",
    "propertyNames",
    "unevaluatedProperties",
    "minProperties",
    "maxProperties",
    "unevaluatedItems",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "prefixItems",
    "additionalItems",
];

/// Says why strict mode would refuse this schema, if it would.
pub(crate) fn check_strict(schema: &Value) -> Result<(), String> {
    let mut check = Strict { root: schema, properties: 0, enum_values: 0 };
    if schema["type"] != "object" {
        let found = schema.get("type").map_or_else(|| "None".to_owned(), ToString::to_string);
        return Err(format!("schema must be a JSON Schema of 'type: \"object\"', got 'type: {found}'."));
    }
    if schema.get("anyOf").is_some() {
        return Err("In context=(), 'anyOf' is not permitted at the root.".to_owned());
    }
    check.node(schema, &mut Vec::new(), 0)
}

struct Strict<'a> {
    root: &'a Value,
    properties: usize,
    enum_values: usize,
}

impl Strict<'_> {
    fn node(&mut self, schema: &Value, path: &mut Vec<String>, depth: usize) -> Result<(), String> {
        let Some(map) = schema.as_object() else { return Err(at(path, "schema is not an object.")) };
        if depth > DEPTH_MAX {
            return Err(at(path, "the schema is nested too deeply."));
        }
        if let Some(keyword) = REFUSED.iter().find(|keyword| map.contains_key(**keyword)) {
            return Err(at(path, &format!("'{keyword}' is not permitted.")));
        }
        if let Some(reference) = map.get("$ref") {
            let target = reference.as_str().and_then(|reference| resolve(self.root, reference));
            return if target.is_some() {
                Ok(())
            } else {
                Err(at(path, &format!("reference {reference} has no target.")))
            };
        }
        self.enum_values += map.get("enum").and_then(Value::as_array).map_or(0, Vec::len);
        if self.enum_values > ENUM_VALUES_MAX {
            return Err(at(path, "too many enum values."));
        }
        for name in ["$defs", "definitions"] {
            for (key, definition) in map.get(name).and_then(Value::as_object).into_iter().flatten() {
                self.below(definition, path, &[name, key], 0)?;
            }
        }
        if let Some(list) = map.get("anyOf") {
            let list = list.as_array().filter(|list| !list.is_empty());
            for (index, choice) in list.ok_or_else(|| at(path, "'anyOf' is no list."))?.iter().enumerate() {
                // A choice between schemas is no level of the value.
                self.below(choice, path, &["anyOf", &index.to_string()], depth)?;
            }
            return Ok(());
        }
        if !["type", "enum", "const"].iter().any(|keyword| map.contains_key(*keyword)) {
            return Err(at(path, "schema must have a 'type' key."));
        }
        if is_type(schema, "object") {
            self.object(schema, path, depth)?;
        }
        if is_type(schema, "array") {
            match map.get("items") {
                Some(items) => self.below(items, path, &["items"], depth + 1)?,
                None => return Err(at(path, "array schema missing items.")),
            }
        }
        Ok(())
    }

    fn object(&mut self, schema: &Value, path: &mut Vec<String>, depth: usize) -> Result<(), String> {
        if schema["additionalProperties"] != Value::Bool(false) {
            return Err(at(path, "'additionalProperties' is required to be supplied and to be false."));
        }
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let properties = schema["properties"].as_object();
        for (name, property) in properties.into_iter().flatten() {
            if !required.contains(&name.as_str()) {
                let message = format!(
                    "'required' is required to be supplied and to be an array including every key in properties. \
                     Missing '{name}'."
                );
                return Err(at(path, &message));
            }
            self.properties += 1;
            if self.properties > PROPERTIES_MAX {
                return Err(at(path, "too many properties."));
            }
            self.below(property, path, &["properties", name], depth + 1)?;
        }
        match required.iter().find(|name| !properties.is_some_and(|p| p.contains_key(**name))) {
            Some(name) => Err(at(path, &format!("Extra required key '{name}' supplied."))),
            None => Ok(()),
        }
    }

    fn below(
        &mut self,
        schema: &Value,
        path: &mut Vec<String>,
        steps: &[&str],
        depth: usize,
    ) -> Result<(), String> {
        path.extend(steps.iter().map(|step| (*step).to_owned()));
        self.node(schema, path, depth)?;
        path.truncate(path.len() - steps.len());
        Ok(())
    }
}

fn at(path: &[String], message: &str) -> String {
    let path: Vec<String> = path.iter().map(|step| format!("'{step}'")).collect();
    format!("In context=({}), {message}", path.join(", "))
}

/// The schema that `#`, `#/$defs/x` and the like point at.
fn resolve<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    root.pointer(reference.strip_prefix('#')?)
}

fn is_type(schema: &Value, name: &str) -> bool {
    match &schema["type"] {
        Value::String(one) => one == name,
        Value::Array(several) => several.iter().any(|one| one == name),
        _ => false,
    }
}

/// Says where `value` does not fit `schema`, as a JSON pointer and a reason.
pub(crate) fn check_value(schema: &Value, value: &Value) -> Result<(), String> {
    fits(schema, schema, value, &mut String::new(), 0)
}

fn fits(
    root: &Value,
    schema: &Value,
    value: &Value,
    pointer: &mut String,
    references: usize,
) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = resolve(root, reference).filter(|_| references < REFERENCES_MAX);
        let target = target.ok_or_else(|| format!("{pointer}: reference {reference} leads nowhere"))?;
        return fits(root, target, value, pointer, references + 1);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        let mut reasons = Vec::new();
        for choice in choices {
            match fits(root, choice, value, &mut pointer.clone(), references) {
                Ok(()) => return Ok(()),
                Err(reason) => reasons.push(reason),
            }
        }
        return Err(format!("{pointer}: fits no choice of anyOf ({})", reasons.join("; ")));
    }
    if schema.get("const").is_some_and(|wanted| wanted != value) {
        return Err(format!("{pointer}: is not {}", schema["const"]));
    }
    if schema["enum"].as_array().is_some_and(|list| !list.contains(value)) {
        return Err(format!("{pointer}: {value} is none of {}", schema["enum"]));
    }
    if schema.get("type").is_some() && !type_names(value).iter().any(|name| is_type(schema, name)) {
        return Err(format!("{pointer}: {value} is not of type {}", schema["type"]));
    }
    match value {
        Value::Object(map) => {
            for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                if !map.contains_key(name) {
                    return Err(format!("{pointer}: {name} is missing"));
                }
            }
            for (name, member) in map {
                match schema["properties"].get(name) {
                    Some(property) => inside(root, property, member, pointer, name)?,
                    None if schema["additionalProperties"] == Value::Bool(false) => {
                        return Err(format!("{pointer}: {name} is not allowed"));
                    }
                    None => {}
                }
            }
        }
        Value::Array(list) => {
            let bound = |name: &str| schema[name].as_u64().and_then(|bound| usize::try_from(bound).ok());
            if bound("minItems").is_some_and(|min| list.len() < min)
                || bound("maxItems").is_some_and(|max| list.len() > max)
            {
                return Err(format!("{pointer}: {} items are too few or too many", list.len()));
            }
            if let Some(items) = schema.get("items") {
                for (index, item) in list.iter().enumerate() {
                    inside(root, items, item, pointer, &index.to_string())?;
                }
            }
        }
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or(0.0);
            if schema["minimum"].as_f64().is_some_and(|min| number < min)
                || schema["maximum"].as_f64().is_some_and(|max| number > max)
            {
                return Err(format!("{pointer}: {number} is out of range"));
            }
        }
        Value::String(text) => {
            let count = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
            if schema["minLength"].as_u64().is_some_and(|min| count < min)
                || schema["maxLength"].as_u64().is_some_and(|max| count > max)
            {
                return Err(format!("{pointer}: the text is too short or too long"));
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
    Ok(())
}

fn inside(
    root: &Value,
    schema: &Value,
    value: &Value,
    pointer: &mut String,
    name: &str,
) -> Result<(), String> {
    let length = pointer.len();
    pointer.push('/');
    pointer.push_str(name);
    fits(root, schema, value, pointer, 0)?;
    pointer.truncate(length);
    Ok(())
}

fn type_names(value: &Value) -> &'static [&'static str] {
    match value {
        Value::Null => &["null"],
        Value::Bool(_) => &["boolean"],
        Value::Number(number) if number.is_f64() => &["number"],
        Value::Number(_) => &["integer", "number"],
        Value::String(_) => &["string"],
        Value::Array(_) => &["array"],
        Value::Object(_) => &["object"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn strict() -> Value {
        json!({"type": "object", "additionalProperties": false, "required": ["n", "list"],
            "properties": {"n": {"type": ["integer", "null"], "minimum": 1},
                "list": {"type": "array", "maxItems": 2, "items": {"$ref": "#/$defs/item"}}},
            "$defs": {"item": {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "object", "additionalProperties": false,
                "required": ["sub"], "properties": {"sub": {"$ref": "#/$defs/item"}}}]}}})
    }

    #[test]
    fn a_strict_schema_passes_and_each_slip_is_named() {
        assert_eq!(check_strict(&strict()), Ok(()));
        let refused = |pointer: &str, value: Value, reason: &str| {
            let mut schema = strict();
            *schema.pointer_mut(pointer).unwrap() = value;
            let message = check_strict(&schema).unwrap_err();
            assert!(message.contains(reason), "{message}");
        };
        refused("/additionalProperties", json!(true), "'additionalProperties'");
        refused("/required", json!(["n"]), "Missing 'list'");
        refused("/required", json!(["n", "list", "x"]), "Extra required key 'x'");
        refused("/type", json!("array"), "type: \"object\"");
        refused("/properties/n", json!({"type": "integer", "default": 1}), "('properties', 'n'), 'default'");
        refused("/properties/n", json!({"oneOf": []}), "'oneOf'");
        refused("/properties/n", json!({"description": "?"}), "'type'");
        refused("/properties/list/items/$ref", json!("#/$defs/none"), "no target");
        refused("/$defs/item/anyOf/1/required", json!([]), "('$defs', 'item', 'anyOf', '1'), 'required'");
    }

    #[test]
    fn values_fit_or_the_place_is_named() {
        let schema = strict();
        assert_eq!(check_value(&schema, &json!({"n": null, "list": ["a", {"sub": {"sub": "a"}}]})), Ok(()));
        let refused = |value: Value, place: &str| {
            let message = check_value(&schema, &value).unwrap_err();
            assert!(message.starts_with(place), "{message}");
        };
        refused(json!({"n": 0, "list": []}), "/n");
        refused(json!({"n": 1.5, "list": []}), "/n");
        refused(json!({"n": 1, "list": ["b"]}), "/list/0");
        refused(json!({"n": 1, "list": ["a", "a", "a"]}), "/list");
        refused(json!({"n": 1}), ": list is missing");
        refused(json!({"n": 1, "list": [], "x": 1}), ": x is not allowed");
    }

    #[test]
    fn a_reference_to_itself_ends() {
        let schema = json!({"$ref": "#"});
        assert!(check_value(&schema, &json!(1)).is_err());
    }
}

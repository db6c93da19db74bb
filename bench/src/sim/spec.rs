//! What Google's discovery documents say of the methods that are simulated: paths, parameters, bodies.
//!
//! The tables in `spec/` are made by `tests/python/discovery.py`, and a test holds them against the documents again.
//! Requests are routed by them, refused by them, and answers are checked against them.
//!
//! Invariant: a method is claimed when it stands in a table; every claimed method has code behind it (a test asks
//! each).

use std::collections::BTreeMap;
use std::sync::LazyLock;

use http::Method as Http;
use serde::Deserialize;
use serde_json::Value;

use super::wire::{Mask, Params, Service, decode};

/// Nesting beyond this is refused, so that a body cannot exhaust the stack.
const DEPTH_MAX: usize = 32;
/// The whole grant of a Google account begins with it.
const SCOPE_PREFIX: &str = "https://www.googleapis.com/auth/";

static APIS: LazyLock<[Api; 4]> = LazyLock::new(|| {
    [
        Api::read(Service::Gmail, include_str!("spec/gmail.v1.json")),
        Api::read(Service::Calendar, include_str!("spec/calendar.v3.json")),
        Api::read(Service::Drive, include_str!("spec/drive.v3.json")),
        Api::read(Service::OAuth, include_str!("spec/oauth2.v2.json")),
    ]
});

/// A table as it stands in its file.
#[derive(Deserialize)]
struct Table {
    batch: String,
    parameters: BTreeMap<String, String>,
    methods: BTreeMap<String, MethodTable>,
    schemas: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct MethodTable {
    http: String,
    path: String,
    parameters: BTreeMap<String, String>,
    request: Option<String>,
    response: Option<String>,
    upload: Option<UploadTable>,
    #[serde(default)]
    scopes: Vec<String>,
}

#[derive(Deserialize)]
struct UploadTable {
    path: String,
}

/// One API.
#[derive(Debug)]
pub(crate) struct Api {
    batch: String,
    shared: BTreeMap<String, Parameter>,
    methods: Vec<Method>,
    schemas: BTreeMap<String, Shape>,
}

impl Api {
    fn read(service: Service, text: &str) -> Self {
        let table: Table = serde_json::from_str(text).expect("the tables are part of the program");
        let parameters = |all: BTreeMap<String, String>| -> BTreeMap<String, Parameter> {
            all.into_iter().map(|(name, words)| (name, Parameter::read(&words))).collect()
        };
        let methods = table.methods.into_iter().map(|(id, method)| Method {
            service,
            name: id.replacen("gmail.users.", "gmail.", 1),
            http: method.http.parse().expect("a method"),
            path: template(&method.path),
            upload: method.upload.map(|upload| template(&upload.path)),
            parameters: parameters(method.parameters),
            request: method.request,
            response: method.response,
            scopes: method.scopes,
        });
        Self {
            batch: table.batch,
            methods: methods.collect(),
            shared: parameters(table.parameters),
            schemas: table.schemas.iter().map(|(name, shape)| (name.clone(), Shape::read(shape))).collect(),
        }
    }
}

fn template(path: &str) -> Vec<String> {
    path.split('/').map(str::to_owned).collect()
}

/// A type, as the tables write it.
#[derive(Debug)]
enum Shape {
    /// A scalar: `string`, `boolean`, `integer`, `number`, `any`, with a format.
    Scalar(String, Option<String>),
    Enum(Vec<String>),
    Ref(String),
    List(Box<Self>),
    Map(Box<Self>),
    Object(BTreeMap<String, Self>),
}

impl Shape {
    fn read(value: &Value) -> Self {
        match value {
            Value::Array(list) => Self::List(Box::new(Self::read(&list[0]))),
            Value::Object(map) => match map.get("*") {
                Some(below) if map.len() == 1 => Self::Map(Box::new(Self::read(below))),
                _ => {
                    Self::Object(map.iter().map(|(name, shape)| (name.clone(), Self::read(shape))).collect())
                }
            },
            other => Self::scalar(other.as_str().unwrap_or("any")),
        }
    }

    fn scalar(word: &str) -> Self {
        if let Some(name) = word.strip_prefix('#') {
            return Self::Ref(name.to_owned());
        }
        if let Some((_, values)) = word.split_once('=') {
            return Self::Enum(values.split('|').map(str::to_owned).collect());
        }
        match word.split_once(':') {
            Some((kind, format)) => Self::Scalar(kind.to_owned(), Some(format.to_owned())),
            None => Self::Scalar(word.to_owned(), None),
        }
    }
}

/// One parameter of a method.
#[derive(Debug)]
struct Parameter {
    in_path: bool,
    required: bool,
    repeated: bool,
    kind: String,
    values: Vec<String>,
    range: (Option<i64>, Option<i64>),
}

impl Parameter {
    fn read(words: &str) -> Self {
        let mut parameter = Self {
            in_path: false,
            required: false,
            repeated: false,
            kind: String::new(),
            values: Vec::new(),
            range: (None, None),
        };
        for word in words.split(' ') {
            match word {
                "path" => parameter.in_path = true,
                "query" => {}
                "required" => parameter.required = true,
                "repeated" => parameter.repeated = true,
                _ if parameter.kind.is_empty() => parameter.kind = word.to_owned(),
                _ => match word.split_once("..") {
                    Some((low, high)) => parameter.range = (low.parse().ok(), high.parse().ok()),
                    None => parameter.values = word.split('|').map(str::to_owned).collect(),
                },
            }
        }
        parameter
    }

    /// Why the value is none of this parameter's, if it is none.
    fn refuses(&self, name: &str, value: &str) -> Option<Misfit> {
        let kind = self.kind.split(':').next().unwrap_or_default();
        let format = self.kind.split_once(':').map(|(_, format)| format);
        let misfit = |message: String| Some(Misfit { place: name.to_owned(), message, missing: false });
        match kind {
            "boolean" if !matches!(value, "true" | "false") => {
                misfit(format!("Invalid value at '{name}' (TYPE_BOOL), \"{value}\""))
            }
            "integer" => match value.parse::<i64>() {
                Err(_) => misfit(format!("Invalid value at '{name}' (TYPE_INT32), \"{value}\"")),
                Ok(number) if !within(number, format) => {
                    misfit(format!("Invalid value at '{name}' (TYPE_INT32), \"{value}\""))
                }
                Ok(number) => {
                    let (low, high) = self.range;
                    let outside =
                        low.is_some_and(|low| number < low) || high.is_some_and(|high| number > high);
                    if outside {
                        return misfit(format!(
                            "Invalid value '{value}'. Values must be within the range: [{}, {}]",
                            low.unwrap_or(i64::MIN),
                            high.unwrap_or(i64::MAX)
                        ));
                    }
                    None
                }
            },
            "string" if matches!(format, Some("int64" | "uint64")) && value.parse::<i64>().is_err() => {
                misfit(format!("Invalid value at '{name}' (TYPE_INT64), \"{value}\""))
            }
            "string"
                if !self.values.is_empty() && !self.values.iter().any(|v| v.eq_ignore_ascii_case(value)) =>
            {
                misfit(format!("Invalid value at '{name}' (TYPE_ENUM), \"{value}\""))
            }
            _ => None,
        }
    }
}

fn within(number: i64, format: Option<&str>) -> bool {
    match format {
        Some("int32") => i32::try_from(number).is_ok(),
        Some("uint32") => u32::try_from(number).is_ok(),
        _ => true,
    }
}

/// Why a request or an answer is not as its method says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Misfit {
    /// The parameter, or the field such as `message.payload.parts[0]`.
    pub(crate) place: String,
    pub(crate) message: String,
    /// A required parameter is absent.
    pub(crate) missing: bool,
}

/// One method that is simulated.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) service: Service,
    /// Its id, without `users.` in Gmail's: `gmail.messages.list`.
    pub(crate) name: String,
    http: Http,
    path: Vec<String>,
    upload: Option<Vec<String>>,
    parameters: BTreeMap<String, Parameter>,
    request: Option<String>,
    response: Option<String>,
    scopes: Vec<String>,
}

/// A method found by its path.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) method: &'static Method,
    /// The parameters in the path, decoded.
    ids: Vec<(&'static str, String)>,
    /// It was asked for under `/upload/`.
    pub(crate) upload: bool,
}

impl Route {
    /// A parameter of the path; empty when the method has none of that name.
    pub(crate) fn id(&self, name: &str) -> &str {
        self.ids.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }
}

/// Whether batches are posted to this path.
pub(crate) fn is_batch(path: &str) -> bool {
    path == "/batch"
        || APIS.iter().any(|api| api.batch == path)
        || matches!(path, "/batch/gmail/v1" | "/batch/calendar/v3" | "/batch/drive/v3")
}

/// The method at this path. Where several fit, the one with fewer parameters in its path.
pub(crate) fn route(http: &Http, path: &str) -> Option<Route> {
    let segments: Vec<&str> = path.split('/').collect();
    let methods = APIS.iter().flat_map(|api| &api.methods).filter(|method| method.http == *http);
    let found = methods.flat_map(|method| {
        let plain = fit(&method.path, &segments).map(|ids| Route { method, ids, upload: false });
        let upload = method.upload.as_ref().and_then(|path| fit(path, &segments));
        plain.into_iter().chain(upload.map(|ids| Route { method, ids, upload: true }))
    });
    found.min_by_key(|route| route.ids.len())
}

fn fit(template: &'static [String], segments: &[&str]) -> Option<Vec<(&'static str, String)>> {
    if template.len() != segments.len() {
        return None;
    }
    let mut ids = Vec::new();
    for (wanted, segment) in template.iter().zip(segments) {
        match wanted.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
            // A plus sign in a path is itself.
            Some(name) if !segment.is_empty() => ids.push((name, decode(&segment.replace('+', "%2B")))),
            None if wanted == segment => {}
            _ => return None,
        }
    }
    Some(ids)
}

fn api(service: Service) -> &'static Api {
    let index = match service {
        Service::Gmail => 0,
        Service::Calendar => 1,
        Service::Drive => 2,
        Service::OAuth | Service::OpenAi => 3,
    };
    &APIS[index]
}

impl Method {
    /// Whether one of these scopes lets it be called.
    pub(crate) fn is_granted<'a>(&self, mut granted: impl Iterator<Item = &'a str>) -> bool {
        self.scopes.is_empty()
            || granted.any(|scope| {
                let short = scope.strip_prefix(SCOPE_PREFIX).unwrap_or(scope);
                self.scopes.iter().any(|known| known == short)
            })
    }

    /// The scopes of which it needs one, whole.
    pub(crate) fn scopes(&self) -> String {
        let whole = |scope: &String| {
            if scope.contains("://") { scope.clone() } else { format!("{SCOPE_PREFIX}{scope}") }
        };
        self.scopes.iter().map(whole).collect::<Vec<_>>().join(" ")
    }

    /// Whether it changes something.
    pub(crate) fn changes(&self) -> bool {
        self.http != Http::GET && self.service != Service::OAuth && self.name != "calendar.freebusy.query"
    }

    /// Whether it takes a body.
    pub(crate) fn takes_body(&self) -> bool {
        self.request.is_some()
    }

    /// Checks names, types, ranges and presence of the parameters of the query.
    pub(crate) fn check_query(&self, query: &Params) -> Result<(), Misfit> {
        let shared = &api(self.service).shared;
        let mut seen: Vec<&str> = Vec::new();
        for (name, value) in query.iter() {
            let known = self.parameters.get(name).filter(|parameter| !parameter.in_path);
            let Some(parameter) = known.or_else(|| shared.get(name)) else {
                if matches!(name, "alt" | "uploadType" | "upload_id" | "access_token") {
                    continue;
                }
                let message = format!(
                    "Invalid JSON payload received. Unknown name \"{name}\": Cannot bind query parameter. Field \
                     '{name}' could not be found in request message."
                );
                return Err(Misfit { place: name.to_owned(), message, missing: false });
            };
            // What is downloaded is asked for with a value of `alt` that its list of values does not have.
            if name != "alt"
                && let Some(misfit) = parameter.refuses(name, value)
            {
                return Err(misfit);
            }
            if seen.contains(&name) && !parameter.repeated {
                let message = format!("Invalid value at '{name}': the parameter may not be repeated.");
                return Err(Misfit { place: name.to_owned(), message, missing: false });
            }
            seen.push(name);
        }
        let required =
            self.parameters.iter().filter(|(_, parameter)| parameter.required && !parameter.in_path);
        for (name, _) in required {
            if !seen.contains(&name.as_str()) {
                let message = format!("Required parameter: {name}");
                return Err(Misfit { place: name.clone(), message, missing: true });
            }
        }
        Ok(())
    }

    /// Checks the body of a request: unknown fields and wrong types are refused.
    pub(crate) fn check_body(&self, body: &Value) -> Result<(), Misfit> {
        match &self.request {
            None => Ok(()),
            Some(name) => Checker { api: api(self.service), lenient: true }.named(name, body, "", 0),
        }
    }

    /// The first name in the mask that its answer does not have.
    pub(crate) fn unknown_field(&self, mask: &Mask) -> Option<String> {
        let api = api(self.service);
        unknown_in(api, api.schemas.get(self.response.as_ref()?)?, mask)
    }

    /// Checks the body of an answer: as a request, but that numbers may not come as texts nor texts as numbers.
    pub(crate) fn check_answer(&self, body: &Value) -> Result<(), Misfit> {
        match &self.response {
            None => Ok(()),
            Some(name) => Checker { api: api(self.service), lenient: false }.named(name, body, "", 0),
        }
    }
}

fn unknown_in(api: &'static Api, shape: &Shape, mask: &Mask) -> Option<String> {
    match shape {
        Shape::Ref(name) => unknown_in(api, api.schemas.get(name)?, mask),
        Shape::List(item) => unknown_in(api, item, mask),
        Shape::Object(fields) => {
            mask.fields().filter(|(name, _)| *name != "*").find_map(|(name, below)| match fields.get(name) {
                None => Some(name.to_owned()),
                Some(shape) => unknown_in(api, shape, below),
            })
        }
        // The names of a map are whatever they are.
        Shape::Map(_) => None,
        Shape::Scalar(..) | Shape::Enum(_) => mask.fields().next().map(|(name, _)| name.to_owned()),
    }
}

struct Checker {
    api: &'static Api,
    /// What is sent may write numbers as texts, and unset things with null.
    lenient: bool,
}

impl Checker {
    fn named(&self, name: &str, value: &Value, place: &str, depth: usize) -> Result<(), Misfit> {
        match self.api.schemas.get(name) {
            Some(shape) => self.check(shape, value, place, depth),
            None => Ok(()),
        }
    }

    fn check(&self, shape: &Shape, value: &Value, place: &str, depth: usize) -> Result<(), Misfit> {
        if depth > DEPTH_MAX {
            return Err(misfit(place, "nested too deeply"));
        }
        if self.lenient && value.is_null() {
            return Ok(());
        }
        match (shape, value) {
            (Shape::Ref(name), _) => self.named(name, value, place, depth + 1),
            (Shape::List(item), Value::Array(list)) => {
                let mut items = list.iter().enumerate();
                items
                    .try_for_each(|(at, value)| self.check(item, value, &format!("{place}[{at}]"), depth + 1))
            }
            (Shape::Map(below), Value::Object(map)) => {
                let mut fields = map.iter();
                fields.try_for_each(|(name, value)| self.check(below, value, &join(place, name), depth + 1))
            }
            (Shape::Object(fields), Value::Object(map)) => map.iter().try_for_each(|(name, value)| {
                let Some(below) = fields.get(name) else {
                    let at = if place.is_empty() { String::new() } else { format!(" at '{place}'") };
                    let message = format!(
                        "Invalid JSON payload received. Unknown name \"{name}\"{at}: Cannot find field."
                    );
                    return Err(Misfit { place: join(place, name), message, missing: false });
                };
                self.check(below, value, &join(place, name), depth + 1)
            }),
            (Shape::Enum(values), Value::String(text)) if values.contains(text) => Ok(()),
            (Shape::Scalar(kind, format), _) if self.is_scalar(kind, format.as_deref(), value) => Ok(()),
            _ => Err(misfit(place, &format!("Invalid value at '{place}', {value}"))),
        }
    }

    fn is_scalar(&self, kind: &str, format: Option<&str>, value: &Value) -> bool {
        match (kind, value) {
            ("any", _) | ("boolean", Value::Bool(_)) => true,
            ("string", Value::String(text)) => is_format(format, text),
            ("string", Value::Number(_)) => self.lenient && matches!(format, Some("int64" | "uint64")),
            ("integer", Value::Number(number)) => {
                number.as_i64().is_some_and(|number| within(number, format))
            }
            ("integer", Value::String(text)) if self.lenient => {
                text.parse().is_ok_and(|number| within(number, format))
            }
            ("number", Value::Number(_)) => true,
            ("number", Value::String(text)) => self.lenient && text.parse::<f64>().is_ok(),
            _ => false,
        }
    }
}

fn misfit(place: &str, message: &str) -> Misfit {
    Misfit { place: place.to_owned(), message: message.to_owned(), missing: false }
}

fn join(place: &str, name: &str) -> String {
    if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") }
}

fn is_format(format: Option<&str>, text: &str) -> bool {
    match format {
        Some("int64") => text.parse::<i64>().is_ok(),
        Some("uint64") => text.parse::<u64>().is_ok(),
        Some("date") => text.parse::<jiff::civil::Date>().is_ok(),
        // Calendar takes a time without an offset beside a zone by name.
        Some("date-time") => {
            text.parse::<jiff::Timestamp>().is_ok() || text.parse::<jiff::civil::DateTime>().is_ok()
        }
        Some("byte") => text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'=' | b'+' | b'/')),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn method(http: Http, path: &str) -> &'static Method {
        route(&http, path).unwrap_or_else(|| panic!("{path}")).method
    }

    #[test]
    fn the_path_with_fewer_parameters_wins() {
        let name = |path| &*method(Http::GET, path).name;
        assert_eq!(name("/drive/v3/files/generateIds"), "drive.files.generateIds");
        assert_eq!(name("/drive/v3/files/abc"), "drive.files.get");
        assert_eq!(name("/gmail/v1/users/me/messages/17/attachments/x"), "gmail.messages.attachments.get");
        let upload = route(&Http::POST, "/upload/gmail/v1/users/a%40b/messages/send").expect("a route");
        assert!(upload.upload && upload.id("userId") == "a@b" && upload.id("none").is_empty());
        assert!(
            route(&Http::POST, "/drive/v3/files/").is_none()
                && route(&Http::PUT, "/drive/v3/files").is_none()
        );
    }

    #[test]
    fn parameters_are_held_to_name_type_and_range() {
        let list = method(Http::GET, "/drive/v3/files");
        let check =
            |method: &Method, query: &str| method.check_query(&Params::parse(query)).map_err(|m| m.place);
        assert_eq!(
            check(list, "q=x&pageSize=1000&supportsAllDrives=true&alt=json&prettyPrint=false"),
            Ok(())
        );
        for (query, place) in [
            ("pagesize=1", "pagesize"),
            ("pageSize=1001", "pageSize"),
            ("pageSize=x", "pageSize"),
            ("supportsAllDrives=yes", "supportsAllDrives"),
            ("q=a&q=b", "q"),
        ] {
            assert_eq!(check(list, query), Err(place.to_owned()), "{query}");
        }
        let get = method(Http::GET, "/gmail/v1/users/me/messages/1");
        assert_eq!(check(get, "metadataHeaders=a&metadataHeaders=b&format=FULL"), Ok(()));
        assert_eq!(check(get, "format=odd"), Err("format".to_owned()));
        let export = method(Http::GET, "/drive/v3/files/1/export");
        assert!(export.check_query(&Params::parse("")).is_err_and(|misfit| misfit.missing));
    }

    #[test]
    fn bodies_are_held_to_their_fields_and_types() {
        let insert = method(Http::POST, "/calendar/v3/calendars/primary/events");
        let event = json!({"summary": "x", "start": {"dateTime": "2026-11-23T10:00:00", "timeZone": "UTC"},
            "reminders": {"overrides": [{"method": "popup", "minutes": 10}]}, "location": null,
            "extendedProperties": {"private": {"a": "b"}}});
        assert_eq!(insert.check_body(&event), Ok(()));
        for (body, place) in [
            (json!({"sumary": "x"}), "sumary"),
            (json!({"summary": 7}), "summary"),
            (json!({"start": {"date": "tomorrow"}}), "start.date"),
            (json!({"attendees": [{"mail": "a@b"}]}), "attendees[0].mail"),
            (json!({"attendees": {}}), "attendees"),
        ] {
            assert_eq!(insert.check_body(&body).map_err(|misfit| misfit.place), Err(place.to_owned()));
        }
        assert!(insert.check_answer(&json!({"sequence": "1"})).is_err());
        assert!(insert.check_body(&json!({"sequence": "1"})).is_ok());
    }

    #[test]
    fn a_method_wants_one_of_its_scopes() {
        let delete = method(Http::DELETE, "/gmail/v1/users/me/messages/1");
        assert!(!delete.is_granted(["https://www.googleapis.com/auth/gmail.modify"].into_iter()));
        assert!(delete.is_granted(["https://mail.google.com/"].into_iter()));
    }
}

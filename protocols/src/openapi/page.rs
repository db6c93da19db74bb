//! The description of the API as a page for people: one document of HTML that needs nothing but itself.
//!
//! Invariants:
//! - it is made from [`document`](super::document) alone, so it cannot say anything else;
//! - no font and no address is loaded, every text is escaped, and the one script is ours, whole in the page, so that a policy names
//!   it by its hash.

use std::fmt::Write as _;

use serde_json::Value;

use crate::markup::escape;

/// The style; it stands in the page once, so that a policy can name it by its hash.
pub const STYLE: &str = include_str!("page.css");

/// The script: tells who is signed in by the cookie of a browser's session, and lets them try a GET. It stands in the page once.
pub const SCRIPT: &str = include_str!("page.js");

const METHODS: [&str; 6] = ["get", "head", "post", "put", "patch", "delete"];

/// The page of a description.
#[must_use]
pub fn page(document: &Value) -> String {
    let mut out = String::with_capacity(256 << 10);
    let info = &document["info"];
    let (title, version) = (text(&info["title"]), text(&info["version"]));
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} API</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\n\
         <header><h1>{title} API</h1><p>{}; version {version}. The same for machines: \
         <a href=\"/openapi.json\">/openapi.json</a>.</p>\n<p>Every request is made in a user’s name, with \
         <code>Authorization: Bearer sk_…</code>, unless it says that it needs no key. What goes wrong is told as a \
         <a href=\"#schema-Problem\">problem document</a>.</p></header>\n",
        text(&info["summary"])
    );
    out.push_str(SESSION);
    let tags: Vec<&Value> = document["tags"].as_array().into_iter().flatten().collect();
    out.push_str("<nav><ul>");
    for tag in &tags {
        let name = text(&tag["name"]);
        let _ = write!(out, "<li><a href=\"#{name}\">{name}</a></li>");
    }
    out.push_str("<li><a href=\"#schemas\">schemas</a></li></ul></nav>\n<main>\n");
    for tag in tags {
        section(&mut out, document, tag);
    }
    out.push_str("<section id=\"schemas\"><h2>schemas</h2>\n");
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        let name = escape(name);
        let _ = write!(out, "<details id=\"schema-{name}\"><summary><b>{name}</b></summary>");
        json(&mut out, schema);
        out.push_str("</details>\n");
    }
    let _ = write!(out, "</section>\n</main><script>{SCRIPT}</script></body></html>\n");
    out
}

/// Who is signed in, and the form to try a GET; both by the script.
const SESSION: &str = "<aside><p><span id=\"who\"></span> <a id=\"sign-in\" href=\"/sign-in\">Sign in</a> \
    <button id=\"sign-out\" hidden>Sign out</button></p><form id=\"try\" hidden><label>GET <input id=\"try-path\" \
    list=\"paths\" value=\"/api/v1/users/me\" size=\"48\" spellcheck=\"false\"></label> <button>Try</button></form>\
    <datalist id=\"paths\"></datalist><pre id=\"try-answer\" hidden></pre></aside>\n";

/// The page by which a browser signs in, and above its form what went wrong with the last one.
#[must_use]
pub fn sign_in(message: Option<&str>) -> String {
    let said = message.map(|text| format!("<p role=\"alert\">{}</p>", escape(text))).unwrap_or_default();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Sign in</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\n\
         <h1>Sign in</h1>{said}\n<form method=\"post\" action=\"/sign-in\">\
         <p><label>API key<br><input name=\"key\" type=\"password\" autocomplete=\"current-password\" size=\"60\" required autofocus></label></p>\
         <p><label><input name=\"changes\" type=\"checkbox\" value=\"1\"> also to change things, as far as the key may</label></p>\
         <p><button>Sign in</button></p></form>\n\
         <p>The session ends by itself within a day, with the key, or when you sign out. <a href=\"/docs\">The API</a></p></body></html>\n"
    )
}

fn section(out: &mut String, document: &Value, tag: &Value) {
    let name = text(&tag["name"]);
    let _ = writeln!(out, "<section id=\"{name}\"><h2>{name}</h2><p>{}</p>", text(&tag["description"]));
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for method in METHODS {
            let operation = &item[method];
            if operation["tags"][0] == tag["name"] {
                show(out, path, method, item, operation);
            }
        }
    }
    out.push_str("</section>\n");
}

fn show(out: &mut String, path: &str, method: &str, item: &Value, operation: &Value) {
    let (path, verb) = (escape(path), method.to_uppercase());
    let _ = write!(
        out,
        "<details id=\"{}\"><summary><code class=\"{method}\">{verb}</code> <code>{path}</code> <span>{}</span></summary>",
        text(&operation["operationId"]),
        text(&operation["summary"])
    );
    if operation["description"].is_string() {
        let _ = write!(out, "<p>{}</p>", text(&operation["description"]));
    }
    if operation["security"].as_array().is_some_and(Vec::is_empty) {
        out.push_str("<p>Needs no key.</p>");
    }
    let shared = item["parameters"].as_array().into_iter().flatten();
    let own = operation["parameters"].as_array().into_iter().flatten();
    let parameters: Vec<&Value> = shared.chain(own).collect();
    if !parameters.is_empty() {
        out.push_str("<h3>Parameters</h3><table><tr><th>name</th><th>in</th><th>what</th></tr>");
        for parameter in parameters {
            let must = if parameter["required"] == true { ", required" } else { "" };
            let _ = write!(
                out,
                "<tr><td><code>{}</code></td><td>{}{must}</td><td>{} {}</td></tr>",
                text(&parameter["name"]),
                text(&parameter["in"]),
                text(&parameter["description"]),
                kind(&parameter["schema"])
            );
        }
        out.push_str("</table>");
    }
    for (media, content) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
        let _ =
            write!(out, "<h3>Body</h3><p><code>{}</code> {}</p>", escape(media), kind(&content["schema"]));
        if content["schema"]["properties"].is_object() {
            json(out, &content["schema"]);
        }
    }
    out.push_str("<h3>Answers</h3><table><tr><th>status</th><th>what</th></tr>");
    for (status, answer) in operation["responses"].as_object().into_iter().flatten() {
        let status = escape(status);
        if answer["$ref"].is_string() {
            let _ = write!(out, "<tr><td>{status}</td><td>a {}</td></tr>", link("Problem"));
            continue;
        }
        let _ = write!(out, "<tr><td>{status}</td><td>{}", text(&answer["description"]));
        for (media, content) in answer["content"].as_object().into_iter().flatten() {
            let _ = write!(out, "<br><code>{}</code> {}", escape(media), kind(&content["schema"]));
        }
        out.push_str("</td></tr>");
    }
    out.push_str("</table></details>\n");
}

/// What a schema is, in a few words.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
        return link(name);
    }
    let mut words = match &schema["type"] {
        Value::String(name) => escape(name),
        Value::Array(names) => names.iter().map(text).collect::<Vec<_>>().join(" or "),
        _ => String::new(),
    };
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> =
            values.iter().map(|value| format!("<code>{}</code>", text(value))).collect();
        let _ = write!(words, ": {}", values.join(", "));
    }
    for (bound, word) in [("minimum", "at least"), ("maximum", "at most"), ("maxLength", "up to")] {
        if let Some(number) = schema[bound].as_number() {
            let unit = if bound == "maxLength" { " characters" } else { "" };
            let _ = write!(words, ", {word} {number}{unit}");
        }
    }
    words
}

fn link(name: &str) -> String {
    let name = escape(name);
    format!("<a href=\"#schema-{name}\">{name}</a>")
}

fn json(out: &mut String, schema: &Value) {
    let pretty = serde_json::to_string_pretty(schema).unwrap_or_default();
    let _ = write!(out, "<pre>{}</pre>", escape(&pretty));
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => escape(text),
        Value::Null => String::new(),
        other => escape(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::document;
    use super::*;

    #[test]
    fn every_operation_and_every_schema_stands_in_it_and_every_link_leads_somewhere() {
        let document = document("1.2.3");
        let page = page(&document);
        let mut operations = 0;
        for item in document["paths"].as_object().unwrap().values() {
            for method in METHODS.iter().filter(|method| item[**method].is_object()) {
                let id = item[*method]["operationId"].as_str().unwrap();
                assert_eq!(page.matches(&format!("<details id=\"{id}\">")).count(), 1, "{id}");
                operations += 1;
            }
        }
        assert!(operations > 60, "{operations}");
        for part in page.split("href=\"#").skip(1) {
            let target = part.split('"').next().unwrap();
            assert!(page.contains(&format!("id=\"{target}\"")), "#{target}");
        }
        for tag in ["details", "table", "section", "tr", "td", "pre", "code", "ul", "li"] {
            let (open, close) =
                (page.matches(&format!("<{tag}")).count(), page.matches(&format!("</{tag}>")).count());
            let open = if tag == "tr" { page.matches("<tr>").count() } else { open };
            assert_eq!(open, close, "{tag}");
        }
    }

    #[test]
    fn the_form_says_what_went_wrong_and_runs_nothing() {
        assert!(!sign_in(None).contains("alert"));
        let page = sign_in(Some("<img src=x>\"&"));
        assert!(page.contains("<p role=\"alert\">&lt;img src=x&gt;&quot;&amp;</p>"), "{page}");
        for part in ["<script", "src=", "<img", "http://", "https://", "onclick"] {
            assert_eq!(page.matches(part).count(), usize::from(part == "src="), "{part}");
        }
    }

    #[test]
    fn it_loads_nothing_runs_one_script_of_ours_and_texts_stay_texts() {
        assert!(!SCRIPT.contains("</") && !SCRIPT.contains("innerHTML") && !SCRIPT.contains("eval"));
        let page = page(&document("1.2.3"));
        assert_eq!(page.matches("<script").count(), 1);
        let page = page.replacen(&format!("<script>{SCRIPT}</script>"), "", 1);
        for part in ["<script", "src=", "@import", "url(", "javascript:", "http://", "onclick"] {
            assert!(!page.contains(part), "{part}");
        }
        let hostile = serde_json::json!({
            "info": {"title": "<script>alert(1)</script>", "version": "\"'&"},
            "tags": [{"name": "a\"b", "description": "<i>"}],
            "paths": {"/<x>": {"get": {"tags": ["a\"b"], "operationId": "\"><img>", "summary": "<b>", "description": "<i>", "responses": {}}}},
        });
        let page = super::page(&hostile).replacen(&format!("<script>{SCRIPT}</script>"), "", 1);
        for part in ["<script", "<img", "<i>", "<x>", "a\"b\""] {
            assert!(!page.contains(part), "{part}: {page}");
        }
    }
}

//! The pages that people see while they connect an account. They load and run nothing.

use std::fmt::Write as _;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use sluice_protocols::http::Response;
use sluice_protocols::markup::Escaped;

const STYLE: &str = include_str!("page.css");

/// What comes under the text of a page.
pub(super) enum Onward<'a> {
    Nothing,
    /// A button that sends the page's own address by `POST`.
    Button(&'a str),
    /// A link.
    Link {
        url: &'a str,
        text: &'a str,
    },
}

/// A page.
pub(super) struct Page<'a> {
    pub(super) status: u16,
    pub(super) title: &'a str,
    pub(super) text: &'a str,
    /// Names with what they are.
    pub(super) facts: &'a [(&'a str, String)],
    pub(super) onward: Onward<'a>,
}

impl Page<'_> {
    /// The answer. `goes_to` is the origin that the button leads on to.
    pub(super) fn answer(&self, goes_to: &str) -> Response {
        let form = match self.onward {
            Onward::Button(_) => format!("'self' {goes_to}"),
            Onward::Nothing | Onward::Link { .. } => "'none'".to_owned(),
        };
        let policy = format!(
            "default-src 'none'; style-src '{}'; base-uri 'none'; form-action {form}; frame-ancestors 'none'",
            style_hash()
        );
        Response::new(self.status)
            .with_body("text/html; charset=utf-8", Bytes::from(self.html()))
            .with_field("content-security-policy", policy)
            .with_field("cache-control", "no-store")
            .with_field("x-content-type-options", "nosniff")
            // Its own button must say where it was pressed, and nobody else learns this address.
            .with_field("referrer-policy", "same-origin")
            .with_field("cross-origin-opener-policy", "same-origin")
    }

    fn html(&self) -> String {
        let mut html = format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>{0}</title><style>{STYLE}</style></head>\n\
             <body><main><h1>{0}</h1>\n<p>{1}</p>\n",
            Escaped(self.title),
            Escaped(self.text)
        );
        if !self.facts.is_empty() {
            html.push_str("<dl>");
            for (name, value) in self.facts {
                // Writing to a String cannot fail.
                let _ = write!(html, "<dt>{}</dt><dd>{}</dd>", Escaped(name), Escaped(value));
            }
            html.push_str("</dl>\n");
        }
        let _ = match self.onward {
            Onward::Nothing => Ok(()),
            Onward::Button(text) => {
                writeln!(html, "<form method=\"post\"><button id=\"go\">{}</button></form>", Escaped(text))
            }
            Onward::Link { url, text } => writeln!(
                html,
                "<p><a class=\"go\" rel=\"noreferrer\" href=\"{}\">{}</a></p>",
                Escaped(url),
                Escaped(text)
            ),
        };
        html.push_str("</main></body></html>\n");
        html
    }
}

fn style_hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| format!("sha256-{}", STANDARD.encode(Sha256::digest(STYLE))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_text_and_nothing_else() {
        let evil = "<script>alert('x')</script>\"&";
        let page = Page {
            status: 200,
            title: evil,
            text: evil,
            facts: &[("a", evil.to_owned())],
            onward: Onward::Link { url: "https://x/\"><script>", text: evil },
        };
        let answer = page.answer("https://accounts.google.com");
        let html = String::from_utf8(answer.body.to_vec()).expect("UTF-8");
        assert!(!html.contains("<script") && !html.contains("\"&"), "{html}");
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(
            policy.starts_with("default-src 'none'; style-src 'sha256-")
                && policy.contains("form-action 'none'")
        );
    }

    #[test]
    fn a_button_leads_to_us_and_to_the_provider_alone() {
        let page = Page { status: 200, title: "t", text: "x", facts: &[], onward: Onward::Button("Go") };
        let answer = page.answer("https://accounts.google.com");
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(policy.contains("form-action 'self' https://accounts.google.com;"), "{policy}");
    }
}

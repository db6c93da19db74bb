//! `GET /docs`: the description of the API as a page, made once.

use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use sluice_protocols::http::{RequestHead, Response};
use sluice_protocols::openapi;

use super::described;

/// The page, and by what it is known again.
struct Made {
    body: Bytes,
    etag: String,
}

impl Made {
    fn new() -> Self {
        let body = openapi::page::page(&described::document());
        let hash = URL_SAFE_NO_PAD.encode(&Sha256::digest(&body)[..12]);
        Self { body: body.into(), etag: format!("\"{hash}\"") }
    }
}

/// A page with the fields that keep it to itself. The one style and the one script, where there is one, are named by their hashes; such a
/// script may ask this origin alone, and make no text a script or an element. Forms go where `forms` says.
pub(crate) fn fenced(response: Response, script: Option<&str>, forms: &str) -> Response {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    let mut policy = format!("default-src 'none'; style-src 'sha256-{}'; ", hash(openapi::page::STYLE));
    if let Some(script) = script {
        policy.push_str(&format!(
            "script-src 'sha256-{}'; connect-src 'self'; require-trusted-types-for 'script'; ",
            hash(script)
        ));
    }
    policy.push_str(&format!("base-uri 'none'; form-action {forms}; frame-ancestors 'none'"));
    response
        .with_field("content-security-policy", policy)
        .with_field("x-content-type-options", "nosniff")
        // Not `no-referrer`: browsers then hide even from us where a form comes from (`Origin: null`).
        .with_field("referrer-policy", "same-origin")
}

/// Answers with the page, or with 304 to whoever has it.
pub(crate) fn docs(head: &RequestHead) -> Response {
    static MADE: OnceLock<Made> = OnceLock::new();
    let made = MADE.get_or_init(Made::new);
    let known = head.header("if-none-match").unwrap_or_default();
    let is_known = known
        .split(',')
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == made.etag || tag == "*");
    let response = match is_known {
        true => Response::new(304),
        false => Response::new(200).with_body("text/html; charset=utf-8", made.body.clone()),
    };
    let response =
        response.with_field("etag", made.etag.as_str()).with_field("cache-control", "public, max-age=300");
    fenced(response, Some(openapi::page::SCRIPT), "'none'")
}

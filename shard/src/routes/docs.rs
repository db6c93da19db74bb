//! `GET /docs`: the description of the API as a page, made once.

use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use sluice_protocols::http::{RequestHead, Response};
use sluice_protocols::openapi;

use super::described;

/// The page with the fields that go with it.
struct Made {
    body: Bytes,
    etag: String,
    policy: String,
}

impl Made {
    fn new() -> Self {
        let body = openapi::page::page(&described::document());
        // The one style is named by its hash; nothing else is shown, sent or run.
        let style = STANDARD.encode(Sha256::digest(openapi::page::STYLE));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        let hash = URL_SAFE_NO_PAD.encode(&Sha256::digest(&body)[..12]);
        Self { body: body.into(), etag: format!("\"{hash}\""), policy }
    }
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
    response
        .with_field("etag", made.etag.as_str())
        .with_field("cache-control", "public, max-age=300")
        .with_field("content-security-policy", made.policy.as_str())
        .with_field("x-content-type-options", "nosniff")
        .with_field("referrer-policy", "no-referrer")
}

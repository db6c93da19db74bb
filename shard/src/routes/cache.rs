//! `POST /api/v1/cache/invalidate`: drops what is kept of a user's reads.

use serde::{Deserialize, Serialize};
use sluice_protocols::google::resource::{Tag, TagError};
use sluice_protocols::http::{RequestHead, Response};
use sluice_protocols::problem::{Problem, ProblemKind};

use crate::auth::Principal;
use crate::cache::ReadCache;

/// Tags in one request.
const TAGS_MAX: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    tags: Vec<String>,
}

#[derive(Serialize)]
struct Dropped {
    dropped: usize,
}

/// Answers a request: how many reads were dropped.
pub(crate) fn invalidate(reads: &ReadCache, who: &Principal, body: &[u8]) -> Result<Response, Problem> {
    let tags = parse(body)?;
    Ok(Response::new(200).json(&Dropped { dropped: reads.invalidate(who.user, &tags) }))
}

fn parse(body: &[u8]) -> Result<Vec<Tag>, Problem> {
    let body: Body = serde_json::from_slice(body).map_err(|error| {
        if error.is_data() {
            let problem = Problem::new(ProblemKind::InvalidField, "the body is an object with tags alone");
            return problem.with_error("", error.to_string());
        }
        Problem::new(ProblemKind::InvalidJson, format!("the body is not JSON: {error}"))
    })?;
    let wrong = |detail: &str| Problem::new(ProblemKind::InvalidField, detail);
    if !(1..=TAGS_MAX).contains(&body.tags.len()) {
        let text = format!("must be 1 to {TAGS_MAX} tags");
        return Err(wrong("one field is not valid").with_error("/tags", text));
    }
    let mut problem = None;
    let mut tags = Vec::with_capacity(body.tags.len());
    for (index, text) in body.tags.iter().enumerate() {
        match text.parse() {
            Ok(tag) => tags.push(tag),
            Err(error) => {
                let so_far = problem.take().unwrap_or_else(|| wrong("a tag is not valid"));
                problem = Some(so_far.with_error(format!("/tags/{index}"), TagError::to_string(&error)));
            }
        }
    }
    problem.map_or(Ok(tags), Err)
}

/// Whether a request asks for what is so now, not for what is kept (RFC 9111 section 5.2.1.4).
pub(crate) fn asks_anew(head: &RequestHead) -> bool {
    let value = head.header("cache-control").unwrap_or_default();
    value.split(',').any(|directive| directive.trim().eq_ignore_ascii_case("no-cache"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_and_each_wrong_one_is_named() {
        let tags = parse(br#"{"tags": ["gmail", "drive:files/f1"]}"#).expect("tags");
        assert_eq!(tags.iter().map(ToString::to_string).collect::<Vec<_>>(), ["gmail", "drive:files/f1"]);
        let problem = parse(br#"{"tags": ["gmail", "mail", "x:y"]}"#).expect_err("refused");
        let named: Vec<_> = problem.errors().iter().map(|error| error.pointer.clone()).collect();
        assert_eq!(named, ["/tags/1", "/tags/2"]);
        for (body, kind) in [
            ("{", ProblemKind::InvalidJson),
            ("{}", ProblemKind::InvalidField),
            (r#"{"tags": []}"#, ProblemKind::InvalidField),
            (r#"{"tags": "gmail"}"#, ProblemKind::InvalidField),
            (r#"{"tags": ["gmail"], "user": "x"}"#, ProblemKind::InvalidField),
        ] {
            assert_eq!(parse(body.as_bytes()).expect_err("refused").kind(), kind, "{body}");
        }
    }

    #[test]
    fn no_cache_is_found_among_other_directives() {
        let asks =
            |value: &str| asks_anew(&RequestHead::build("POST", "/", "h").with("cache-control", value));
        assert!(asks("no-cache") && asks("max-age=0, No-Cache"));
        assert!(
            !asks("no-store") && !asks("x-no-cache") && !asks_anew(&RequestHead::build("POST", "/", "h"))
        );
    }
}

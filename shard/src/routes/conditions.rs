//! Conditional requests (RFC 9110 section 13) and links to the next page (RFC 8288).

use sluice_protocols::http::conditional::{self, Condition};
use sluice_protocols::http::{RequestHead, Response};
use sluice_protocols::problem::{Problem, ProblemKind};

/// Whether a client that reads what has this strong tag has it already.
pub(crate) fn is_known(head: &RequestHead, tag: &str) -> bool {
    conditional::check(head, Some(tag)) == Condition::Match
}

/// Whether a change may be made of what has this strong tag, or of nothing.
///
/// # Errors
/// What does not hold.
pub(crate) fn hold(head: &RequestHead, tag: Option<&str>) -> Result<(), &'static str> {
    match (conditional::check(head, tag), tag) {
        (Condition::Holds, _) => Ok(()),
        (Condition::NoMatch, Some(_)) => {
            Err("it was changed since: read it again, `If-Match` names another version")
        }
        (Condition::NoMatch, None) => Err("there is nothing that `If-Match` could name"),
        (Condition::Match, _) => Err("there is what `If-None-Match` names"),
    }
}

/// As [`hold`], of what is there.
///
/// # Errors
/// `precondition-failed`.
pub(crate) fn check(head: &RequestHead, tag: &str) -> Result<(), Problem> {
    hold(head, Some(tag)).map_err(|detail| Problem::new(ProblemKind::PreconditionFailed, detail))
}

/// An answer with the address of the page behind it, which is the same request with another cursor.
pub(crate) fn paged(response: Response, head: &RequestHead, next: Option<&str>) -> Response {
    let Some(next) = next else { return response };
    let kept = head.query().unwrap_or_default().split('&');
    let kept = kept.filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
    let query: Vec<&str> = kept.collect();
    let rest = if query.is_empty() { String::new() } else { format!("{}&", query.join("&")) };
    response.with_field("link", format!("<{}?{rest}cursor={next}>; rel=\"next\"", head.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(name: &str, value: &str) -> RequestHead {
        RequestHead::build("PATCH", "/x?limit=2&cursor=old&text=a", "localhost").with(name, value)
    }

    #[test]
    fn a_change_is_made_of_the_version_that_was_seen_and_of_no_other() {
        for fits in ["\"a\"", "\"b\", \"a\"", "*"] {
            assert!(check(&head("if-match", fits), "\"a\"").is_ok(), "{fits}");
        }
        for other in ["\"b\"", "W/\"a\"", "a"] {
            let problem = check(&head("if-match", other), "\"a\"").unwrap_err();
            assert_eq!(problem.kind(), ProblemKind::PreconditionFailed, "{other}");
        }
        assert!(check(&head("if-none-match", "\"a\""), "\"a\"").is_err());
        assert!(check(&head("if-none-match", "\"b\""), "\"a\"").is_ok());
        assert!(is_known(&head("if-none-match", "\"b\", W/\"a\""), "\"a\""));
    }

    #[test]
    fn the_next_page_keeps_the_rest_of_the_query() {
        let response = paged(Response::new(200), &head("x", "y"), Some("new"));
        assert_eq!(response.header("link"), Some("</x?limit=2&text=a&cursor=new>; rel=\"next\""));
        assert_eq!(paged(Response::new(200), &head("x", "y"), None).header("link"), None);
    }
}

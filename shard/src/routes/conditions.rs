//! Conditional requests (RFC 9110 section 13) and links to the next page (RFC 8288).

use sluice_protocols::http::{RequestHead, Response};
use sluice_protocols::problem::{Problem, ProblemKind};

/// Whether `If-None-Match` names this tag, compared weakly (RFC 9110 section 13.1.2).
pub(crate) fn is_known(head: &RequestHead, tag: &str) -> bool {
    let names = |list: &str| {
        list.split(',').map(|one| one.trim().trim_start_matches("W/")).any(|one| one == "*" || one == tag)
    };
    head.header("if-none-match").is_some_and(names)
}

/// Whether a change may be made of what has this strong tag (RFC 9110 section 13.2.2).
///
/// # Errors
/// `precondition-failed`.
pub(crate) fn check(head: &RequestHead, tag: &str) -> Result<(), Problem> {
    let failed = |detail: &str| Err(Problem::new(ProblemKind::PreconditionFailed, detail));
    // Compared strongly: what is weak names nothing.
    let names = |list: &str| list.split(',').map(str::trim).any(|one| one == "*" || one == tag);
    if head.header("if-match").is_some_and(|wanted| !names(wanted)) {
        return failed("it was changed since: read it again, `If-Match` names another version");
    }
    if is_known(head, tag) {
        return failed("there is what `If-None-Match` names");
    }
    Ok(())
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

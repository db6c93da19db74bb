//! Conditions on the state of what a request is about: `If-Match` and `If-None-Match` (RFC 9110 section 13).

use super::RequestHead;

/// What the conditions of a request come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// They hold, or there are none.
    Holds,
    /// What is there is not what `If-Match` names: to be answered with status 412.
    NoMatch,
    /// What is there is what `If-None-Match` names: to be answered with status 304 to a read, else with 412.
    Match,
}

/// Checks a request's conditions, in the order of section 13.2.2, against the strong tag of what is there; `None` when
/// nothing is.
#[must_use]
pub fn check(head: &RequestHead, tag: Option<&str>) -> Condition {
    if let Some(wanted) = head.header("if-match")
        && !tag.is_some_and(|tag| names_strongly(wanted, tag))
    {
        return Condition::NoMatch;
    }
    match (head.header("if-none-match"), tag) {
        (Some(unwanted), Some(tag)) if names_weakly(unwanted, tag) => Condition::Match,
        _ => Condition::Holds,
    }
}

/// Whether `If-Range` lets a part be answered (section 13.1.5): there is none, or it is this strong tag.
#[must_use]
pub fn may_be_part(head: &RequestHead, tag: &str) -> bool {
    head.header("if-range").is_none_or(|known| known.trim() == tag)
}

/// `If-Match` compares strongly (section 8.8.3.2): a weak tag names nothing.
fn names_strongly(list: &str, tag: &str) -> bool {
    list.trim() == "*" || list.split(',').any(|one| one.trim() == tag)
}

fn names_weakly(list: &str, tag: &str) -> bool {
    list.trim() == "*" || list.split(',').any(|one| one.trim().trim_start_matches("W/") == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(fields: &[(&str, &str)], tag: Option<&str>) -> Condition {
        let head = RequestHead::build("PUT", "/", "h");
        check(&fields.iter().fold(head, |head, (name, value)| head.with(name, value)), tag)
    }

    #[test]
    fn writes_can_ask_for_what_is_there_or_for_nothing() {
        let (old, new) = (Some("\"a\""), None);
        assert_eq!(with(&[], new), Condition::Holds);
        assert_eq!(with(&[("if-none-match", "*")], new), Condition::Holds);
        assert_eq!(with(&[("if-none-match", "*")], old), Condition::Match);
        assert_eq!(with(&[("if-match", "*")], old), Condition::Holds);
        assert_eq!(with(&[("if-match", "*")], new), Condition::NoMatch);
        assert_eq!(with(&[("if-match", "\"x\", \"a\"")], old), Condition::Holds);
        assert_eq!(with(&[("if-match", "\"x\"")], old), Condition::NoMatch);
        assert_eq!(with(&[("if-match", "\"x\""), ("if-none-match", "\"a\"")], old), Condition::NoMatch);
    }

    #[test]
    fn a_weak_tag_is_good_for_reading_only() {
        assert_eq!(with(&[("if-match", "W/\"a\"")], Some("\"a\"")), Condition::NoMatch);
        assert_eq!(with(&[("if-none-match", "W/\"a\"")], Some("\"a\"")), Condition::Match);
    }

    #[test]
    fn a_part_is_of_what_the_client_has_the_rest_of() {
        let head = |value| RequestHead::build("GET", "/", "h").with("if-range", value);
        assert!(may_be_part(&RequestHead::build("GET", "/", "h"), "\"a\""));
        assert!(may_be_part(&head("\"a\""), "\"a\""));
        for other in ["\"b\"", "W/\"a\"", "Wed, 21 Oct 2026 07:28:00 GMT"] {
            assert!(!may_be_part(&head(other), "\"a\""), "{other}");
        }
    }
}

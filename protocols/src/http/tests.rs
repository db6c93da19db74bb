use bytes::Bytes;

use super::*;

fn assert_send<T: Send>(_: &T) {}

#[test]
fn heads_and_responses_can_move_to_another_core() {
    assert_send(&RequestHead::build("GET", "/", "a"));
    assert_send(&Response::new(200));
}

#[test]
fn built_requests_read_as_they_were_built() {
    let head = RequestHead::build("POST", "/api/v1/command?mode=async&x=?", "example.com:8443")
        .with("Authorization", "Bearer abc")
        .with("content-length", "12")
        .with("accept", "application/json")
        .with("accept", "text/plain");
    assert_eq!(head.method(), Method::Post);
    assert_eq!(head.method_str(), "POST");
    assert_eq!(head.scheme(), "https");
    assert_eq!(head.authority(), Some("example.com:8443"));
    assert_eq!(head.path(), "/api/v1/command");
    assert_eq!(head.query(), Some("mode=async&x=?"));
    assert_eq!(head.path_and_query(), "/api/v1/command?mode=async&x=?");
    assert_eq!(head.header("authorization"), Some("Bearer abc"));
    assert_eq!(head.header("accept"), Some("application/json"));
    assert_eq!(head.header("cookie"), None);
    assert_eq!(head.content_length(), Some(12));
    assert_eq!(head.headers().count(), 4);
}

#[test]
fn an_empty_query_is_told_apart_from_none() {
    assert_eq!(RequestHead::build("GET", "/a?", "b").query(), Some(""));
    assert_eq!(RequestHead::build("GET", "/a", "b").query(), None);
}

#[test]
fn methods_are_told_apart_by_case() {
    assert_eq!(RequestHead::build("get", "/", "a").method(), Method::Other);
    assert_eq!(RequestHead::build("get", "/", "a").method_str(), "get");
    assert!(Method::Get.is_safe() && !Method::Post.is_safe() && !Method::Other.is_safe());
}

#[test]
fn parts_from_outside_are_checked() {
    assert_eq!(RequestHead::try_build("GET", "no-slash", "a"), Err(HeadFault::Malformed(Malformed::Path)));
    let connect = RequestHead::try_build("CONNECT", "/", "a");
    assert_eq!(connect, Err(HeadFault::Malformed(Malformed::PseudoUnknown)));
    let head = RequestHead::build("GET", "/", "a");
    let newline = head.clone().try_with("authorization", "Bearer a\r\nb: c");
    assert_eq!(newline, Err(HeadFault::Malformed(Malformed::Value)));
    assert_eq!(head.clone().try_with(":path", "/b"), Err(HeadFault::Malformed(Malformed::PseudoTwice)));
    assert_eq!(head.try_with("host", "b"), Err(HeadFault::Malformed(Malformed::HostMismatch)));
}

#[test]
fn rules_hold_across_single_additions() {
    let head = RequestHead::build("GET", "/", "a").with("host", "a").with("content-length", "1");
    assert_eq!(head.clone().try_with("host", "a"), Err(HeadFault::Malformed(Malformed::HostMismatch)));
    assert_eq!(head.try_with("content-length", "1"), Err(HeadFault::Malformed(Malformed::ContentLength)));
}

#[test]
fn crumbs_of_a_cookie_are_put_together() {
    let head = RequestHead::build("GET", "/", "example.com")
        .with("accept", "a/b")
        .with("cookie", "a=1")
        .with("x", "y")
        .with("cookie", "b=2")
        .with("cookie", "c=3")
        .with("z", "");
    let expected = [("accept", "a/b"), ("cookie", "a=1; b=2; c=3"), ("x", "y"), ("z", "")];
    assert_eq!(head.headers().collect::<Vec<_>>(), expected);
    assert_eq!((head.path(), head.authority()), ("/", Some("example.com")));
}

#[test]
fn a_head_of_our_own_is_bounded_too() {
    let huge = "a".repeat(2 << 20);
    let head = RequestHead::build("GET", "/", "a").try_with("x", &huge);
    assert_eq!(head, Err(HeadFault::TooLarge(TooLarge::Decoded)));
}

#[test]
fn debug_output_leaves_credentials_out() {
    let head = RequestHead::build("GET", "/", "a")
        .with("authorization", "Bearer secret")
        .with("accept", "text/plain");
    let shown = format!("{head:?}");
    assert!(!shown.contains("secret") && shown.contains("text/plain"), "{shown}");
}

#[test]
fn responses_carry_json() {
    let response = Response::new(201).with_field("location", "/tasks/1").json(&serde_json::json!({"a": 1}));
    assert_eq!(response.body, Bytes::from_static(br#"{"a":1}"#));
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(response.header("location"), Some("/tasks/1"));
}

#[test]
fn a_second_body_replaces_the_first() {
    let response = Response::new(200).json(&1).with_body("text/plain", Bytes::from_static(b"x"));
    assert_eq!(response.headers().collect::<Vec<_>>(), [("content-type", "text/plain")]);
}

#[test]
fn a_body_that_cannot_be_written_becomes_a_500() {
    let no_json = std::collections::BTreeMap::from([((1, 2), 3)]);
    let response = Response::new(200).json(&no_json);
    assert_eq!(response.status, 500);
    let problem: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(problem["status"], 500);
}

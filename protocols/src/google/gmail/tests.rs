use proptest::prelude::*;

use super::*;
use crate::ids::TaskId;
use crate::plan::StepId;

fn encoded(text: &str) -> String {
    URL_SAFE.encode(text)
}

fn part(mime_type: &str, text: &str) -> serde_json::Value {
    json!({"mimeType": mime_type, "filename": "", "body": {"size": text.len(), "data": encoded(text)}})
}

fn message(payload: serde_json::Value) -> Message {
    serde_json::from_value(json!({
        "id": "18c", "threadId": "18a", "labelIds": ["INBOX", "UNREAD"], "snippet": "Don&#39;t forget",
        "historyId": "77", "internalDate": "1795000000123", "sizeEstimate": 500, "payload": payload,
    }))
    .expect("a message")
}

fn headers(pairs: &[(&str, &str)]) -> serde_json::Value {
    let headers: Vec<_> = pairs.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    json!({"mimeType": "text/plain", "headers": headers})
}

fn id() -> (TaskId, StepId) {
    (TaskId::new(1, [2; 10]), StepId::new(3).expect("a step"))
}

fn now() -> Timestamp {
    "2026-11-23T14:04:05Z".parse().expect("a time")
}

fn mime(mail: &OutgoingMail) -> String {
    String::from_utf8(mail.to_mime()).expect("text")
}

/// The header lines of a message, unfolded.
fn header_lines(mime: &str) -> Vec<String> {
    let head = mime.split("\r\n\r\n").next().expect("a head");
    head.replace("\r\n ", " ").replace("\r\n\t", " ").split("\r\n").map(str::to_owned).collect()
}

#[test]
fn searches_are_encoded_and_bounded() {
    let call = list_messages("from:anna \"budget & co\"", 5);
    assert_eq!(call.path, "/gmail/v1/users/me/messages?q=from%3Aanna%20%22budget%20%26%20co%22&maxResults=5");
    assert_eq!((call.method, call.content_type, call.body.len()), ("GET", None, 0));
    assert_eq!(call.path_only(), "/gmail/v1/users/me/messages");
    assert_eq!(list_messages(" ", 10).path, "/gmail/v1/users/me/messages?maxResults=10");
}

#[test]
fn ids_cannot_reach_other_endpoints() {
    let call = get_message("../drafts/send?x=", Format::Full);
    assert_eq!(call.path, "/gmail/v1/users/me/messages/..%2Fdrafts%2Fsend%3Fx%3D?format=full");
    assert_eq!(get_draft("..").path, "/gmail/v1/users/me/drafts/_?format=minimal");
}

#[test]
fn metadata_asks_for_what_an_answer_needs() {
    let path = get_message("18c", Format::Metadata).path;
    assert!(
        path.starts_with("/gmail/v1/users/me/messages/18c?format=metadata&metadataHeaders=From&"),
        "{path}"
    );
    for header in ["Message-ID", "References", "Reply-To", "Subject"] {
        assert!(path.contains(&format!("&metadataHeaders={header}")), "{header}");
    }
}

#[test]
fn drafts_are_made_found_and_sent() {
    let mail =
        OutgoingMail::new(id(), now(), vec!["anna@example.com".parse().expect("an address")], "Hi", "Text");
    let call = create_draft(&mail);
    assert_eq!((call.method, call.path.as_str()), ("POST", "/gmail/v1/users/me/drafts"));
    assert!(!call.is_idempotent());
    let body: serde_json::Value = serde_json::from_slice(&call.body).expect("json");
    let raw = URL_SAFE.decode(body["message"]["raw"].as_str().expect("raw")).expect("base64url");
    assert_eq!(raw, mail.to_mime());
    assert!(body["message"].get("threadId").is_none());
    assert_eq!(send_draft("r-1").body, r#"{"id":"r-1"}"#);
    assert_eq!(
        find_draft(mail.message_id()).path,
        format!("/gmail/v1/users/me/drafts?q=rfc822msgid%3A{}.s3%40sluice.invalid&maxResults=1", id().0)
    );
    assert!(find_message("a@b").path.starts_with("/gmail/v1/users/me/messages?q=rfc822msgid%3Aa%40b&"));
}

#[test]
fn an_empty_list_has_no_member_at_all() {
    let list: MessageList = serde_json::from_str(r#"{"resultSizeEstimate": 0}"#).expect("a list");
    assert_eq!(list, MessageList::default());
    let drafts: DraftList = serde_json::from_str("{}").expect("a list");
    assert!(drafts.drafts.is_empty());
}

#[test]
fn plain_text_is_preferred_wherever_it_stands() {
    let nested = json!({"mimeType": "multipart/mixed", "parts": [
        {"mimeType": "multipart/alternative", "parts": [part("text/html", "<p>html</p>"), part("text/plain", "plain\r\ntext")]},
    ]});
    assert_eq!(message(nested).text().as_deref(), Some("plain\ntext"));
}

#[test]
fn html_serves_when_there_is_no_plain_text() {
    let payload = json!({"mimeType": "multipart/alternative", "parts": [
        part("text/plain", " \r\n"), part("text/html", "<p>Hello &amp; bye</p>"),
    ]});
    assert_eq!(message(payload).text().as_deref(), Some("Hello & bye"));
}

#[test]
fn attached_texts_are_not_the_message() {
    let mut attached = part("text/plain", "attached");
    attached["filename"] = json!("notes.txt");
    assert_eq!(message(json!({"mimeType": "multipart/mixed", "parts": [attached]})).text(), None);
}

#[test]
fn depth_number_and_size_of_parts_are_bounded() {
    let mut deep = part("text/plain", "deep");
    for _ in 0..=PART_DEPTH_MAX {
        deep = json!({"mimeType": "multipart/mixed", "parts": [deep]});
    }
    assert_eq!(message(deep).text(), None);
    let mut many: Vec<_> = (0..PARTS_MAX).map(|_| json!({"mimeType": "image/png"})).collect();
    many.push(part("text/plain", "late"));
    assert_eq!(message(json!({"mimeType": "multipart/mixed", "parts": many})).text(), None);
    let long = message(part("text/plain", &"\u{20ac}".repeat(TEXT_BYTES_MAX))).text().expect("a text");
    assert!(long.len() <= TEXT_BYTES_MAX && long.chars().all(|letter| letter == '\u{20ac}'));
    let markup = format!("<p>{}</p>", "\u{20ac}".repeat(TEXT_BYTES_MAX));
    assert!(message(part("text/html", &markup)).text().expect("a text").len() <= TEXT_BYTES_MAX);
}

#[test]
fn base64url_is_read_with_and_without_padding() {
    for data in ["aGk_", "aGk=", "aGk"] {
        let payload = json!({"mimeType": "text/plain", "body": {"data": data}});
        assert!(message(payload).text().is_some_and(|text| text.starts_with("hi")), "{data}");
    }
    let broken = json!({"mimeType": "text/plain", "body": {"data": "*"}});
    assert_eq!(message(broken).text(), None);
}

#[test]
fn a_message_becomes_an_item() {
    let payload = headers(&[
        ("from", "\"Berg, Anna\" <anna@example.com>"),
        ("SUBJECT", "Budget"),
        ("Message-Id", " <abc@mail.example.com>"),
    ]);
    let item = message(payload).to_item();
    assert_eq!((item.kind, item.id.as_str(), item.title.as_str()), (ItemKind::Message, "18c", "Budget"));
    assert_eq!(item.person.expect("a person").to_string(), "Berg, Anna <anna@example.com>");
    assert_eq!(item.when.as_deref(), Some("2026-11-18T11:06:40.123Z"));
    assert_eq!(item.thread_id.as_deref(), Some("18a"));
    assert_eq!(item.message_id_header.as_deref(), Some("<abc@mail.example.com>"));
    assert_eq!(item.snippet.as_deref(), Some("Don't forget"));
}

#[test]
fn the_person_of_a_sent_message_is_its_recipient() {
    let mut sent = message(headers(&[("From", "me@example.com"), ("To", "Anna <anna@example.com>")]));
    assert_eq!(sent.person().expect("a person").address, "me@example.com");
    sent.label_ids.push("SENT".to_owned());
    assert_eq!(sent.person().expect("a person").address, "anna@example.com");
}

#[test]
fn a_new_mail_has_our_id_and_the_given_date() {
    let to = ["anna@example.com", "bob@example.com"].map(|address| address.parse().expect("an address"));
    let mail = OutgoingMail::new(id(), now(), to.to_vec(), "Gr\u{fc}\u{df}e", "Line one\nLine two");
    let lines = header_lines(&mime(&mail));
    assert!(lines.contains(&format!("Message-ID: <{}.s3@sluice.invalid>", id().0)), "{lines:?}");
    assert!(lines.contains(&"Date: Mon, 23 Nov 2026 14:04:05 +0000".to_owned()), "{lines:?}");
    assert!(lines.contains(&"To: <anna@example.com>, <bob@example.com>".to_owned()), "{lines:?}");
    assert!(
        !lines.iter().any(|line| line.starts_with("From:") || line.starts_with("In-Reply-To:")),
        "{lines:?}"
    );
    assert!(mime(&mail).ends_with("Line one\r\nLine two"), "{}", mime(&mail));
    assert_eq!(mail.to_mime(), mail.to_mime());
}

#[test]
fn an_answer_stays_in_its_thread() {
    let original = message(headers(&[
        ("From", "Anna <anna@example.com>"),
        ("Subject", "Budget"),
        ("Message-ID", "<b@x>"),
        ("References", "<a@x> <b@x>"),
    ]));
    let mail = OutgoingMail::reply(id(), now(), &original, "Yes.").expect("a reply");
    let lines = header_lines(&mime(&mail));
    for expected in
        ["To: <anna@example.com>", "Subject: Re: Budget", "In-Reply-To: <b@x>", "References: <a@x> <b@x>"]
    {
        assert!(lines.contains(&expected.to_owned()), "{expected} in {lines:?}");
    }
    let body: serde_json::Value = serde_json::from_slice(&create_draft(&mail).body).expect("json");
    assert_eq!(body["message"]["threadId"], "18a");
}

#[test]
fn an_answer_goes_where_it_is_wanted() {
    let to = |pairs: &[(&str, &str)], sent: bool| {
        let mut original = message(headers(pairs));
        original.label_ids = if sent { vec!["SENT".to_owned()] } else { Vec::new() };
        OutgoingMail::reply(id(), now(), &original, "x").map(|mail| mail.to()[0].to_string())
    };
    let from = ("From", "a@example.com");
    assert_eq!(to(&[from, ("Reply-To", "b@example.com")], false), Ok("b@example.com".to_owned()));
    assert_eq!(to(&[from, ("Reply-To", "nobody")], false), Ok("a@example.com".to_owned()));
    assert_eq!(to(&[from, ("To", "c@example.com")], true), Ok("c@example.com".to_owned()));
    assert_eq!(to(&[("From", "undisclosed")], false), Err(ReplyError::NoAddress));
}

#[test]
fn an_answer_is_marked_once() {
    let subject = |given: &str| {
        let original = message(headers(&[("From", "a@example.com"), ("Subject", given)]));
        OutgoingMail::reply(id(), now(), &original, "x").expect("a reply").subject().to_owned()
    };
    assert_eq!(subject("RE: Budget"), "RE: Budget");
    assert_eq!(subject("Report"), "Re: Report");
    assert_eq!(subject(""), "Re: ");
    assert_eq!(subject("\u{e9}t\u{e9}"), "Re: \u{e9}t\u{e9}");
}

#[test]
fn long_threads_keep_their_first_and_latest_ids() {
    let ids: Vec<String> = (0..50).map(|number| format!("<{number}@x>")).collect();
    let original = message(headers(&[
        ("From", "a@example.com"),
        ("Message-ID", "<own@x>"),
        ("References", &ids.join(" ")),
    ]));
    let mail = OutgoingMail::reply(id(), now(), &original, "x").expect("a reply");
    let lines = header_lines(&mime(&mail));
    let references = lines.iter().find(|line| line.starts_with("References:")).expect("references");
    assert!(references.starts_with("References: <0@x> <32@x> "), "{references}");
    assert!(references.ends_with(" <49@x> <own@x>"), "{references}");
}

#[test]
fn hostile_originals_cannot_add_headers_to_an_answer() {
    let original = message(headers(&[
        ("From", "a@example.com"),
        ("Subject", "Hi\r\nBcc: all@example.com"),
        ("Message-ID", "<x@y\r\nBcc: all@example.com>"),
        ("References", "<a@b>\r\nBcc: all@example.com\r\n<c\n@d>"),
    ]));
    let mail = OutgoingMail::reply(id(), now(), &original, "x").expect("a reply");
    let lines = header_lines(&mime(&mail));
    assert!(!lines.iter().any(|line| line.starts_with("Bcc")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.starts_with("In-Reply-To")), "{lines:?}");
    assert!(lines.contains(&"References: <a@b>".to_owned()), "{lines:?}");
}

#[test]
fn a_sent_mail_becomes_an_item_with_its_own_id() {
    let mail =
        OutgoingMail::new(id(), now(), vec!["anna@example.com".parse().expect("an address")], "Hi", "Text");
    let sent: Message =
        serde_json::from_str(r#"{"id": "18d", "threadId": "18d", "labelIds": ["SENT"]}"#).expect("sent");
    let item = mail.to_item(&sent);
    assert_eq!((item.id.as_str(), item.title.as_str()), ("18d", "Hi"));
    assert_eq!(item.message_id_header, Some(format!("<{}>", mail.message_id())));
    assert_eq!(item.person.expect("a person").address, "anna@example.com");
}

fn parts() -> impl Strategy<Value = serde_json::Value> {
    let leaf = ("(text/plain|text/html|image/png|)", "[A-Za-z0-9_=*-]{0,20}")
        .prop_map(|(mime_type, data)| json!({"mimeType": mime_type, "body": {"data": data}}));
    leaf.prop_recursive(5, 20, 4, |inner| {
        proptest::collection::vec(inner, 0..4)
            .prop_map(|parts| json!({"mimeType": "multipart/mixed", "parts": parts}))
    })
}

proptest! {
    #[test]
    fn arbitrary_messages_never_panic(payload in parts(), date in "\\PC{0,20}", value in "\\PC{0,30}") {
        let mut message = message(payload);
        message.internal_date = Some(date);
        message.snippet = Some(value.clone());
        if let Some(payload) = &mut message.payload {
            for name in ["From", "Subject", "Message-ID", "References"] {
                payload.headers.push(Header { name: name.to_owned(), value: value.clone() });
            }
        }
        let _ = (message.to_item(), message.text());
        let _ = OutgoingMail::reply(id(), now(), &message, value).map(|mail| mail.to_mime());
    }

    #[test]
    fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = serde_json::from_slice::<Message>(&body);
        let _ = serde_json::from_slice::<MessageList>(&body);
    }

    #[test]
    fn every_header_line_of_a_mail_is_one_of_ours(subject in ".{0,120}", value in "[<>@a-z\r\n: ]{0,60}") {
        let original = message(headers(&[
            ("From", "a@example.com"), ("Subject", &subject), ("Message-ID", &value), ("References", &value),
        ]));
        let mail = OutgoingMail::reply(id(), now(), &original, "x").expect("a reply");
        for line in header_lines(&String::from_utf8(mail.to_mime()).expect("text")) {
            let name = line.split(':').next().unwrap_or_default();
            let known = ["Message-ID", "Date", "To", "Subject", "In-Reply-To", "References", "MIME-Version",
                "Content-Type", "Content-Transfer-Encoding"];
            prop_assert!(known.contains(&name), "{line}");
        }
    }
}

//! What callers send besides commands: the bodies and queries of the other routes, as far as they are read without the
//! store. What is taken is within its bounds, and what is not is refused as the caller's fault.

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;
use sluice_protocols::api::context::{
    CONTEXT_TTL_S_MIN, LABEL_CHARS_MAX, SnapshotRequest, is_context_key, is_media_type, parse_put_query,
    refuse_query,
};
use sluice_protocols::api::{
    BATCH_COMMANDS_MAX, BatchRequest, CUSTOM_BYTES_MAX, DeadLetterEdit, Erasure, HistoryQuery,
    ISSUER_CHARS_MAX, Identity, KEY_NAME_CHARS_MAX, KeyEdit, LANGUAGE_CHARS_MAX, LIST_LIMIT_MAX, ListQuery,
    Mode, NewKey, NewUser, Preferences, SUBJECT_CHARS_MAX, StepState, TEXT_CHARS_MAX, TEXT_WORDS_MAX,
    TIME_ZONE_CHARS_MAX, USER_NAME_CHARS_MAX, UserEdit, WEBHOOK_DESCRIPTION_CHARS_MAX, WEBHOOK_URL_CHARS_MAX,
    WebhookEdit, WebhookRequest, is_idempotency_key,
};
use sluice_protocols::google::compose::{MailDraft, Purpose};
use sluice_protocols::google::gmail::Message;
use sluice_protocols::google::oauth::{OAuthError, TokenResponse};
use sluice_protocols::google::{batch, rest, upload};
use sluice_protocols::http::range::{Wanted, wanted};
use sluice_protocols::ids::{ApiKey, TaskId};
use sluice_protocols::plan::{EmailAddress, Item, ItemKind, Person, RECIPIENTS_MAX};
use sluice_protocols::problem::Problem;
use sluice_protocols::workflow::{self, Found, Graph, Turn, Workflow};

use crate::bodies::{check_problem_document, check_request, write};

/// The longest life of a context document or a snapshot, in seconds.
const TTL_S_MAX: u64 = 7 * 24 * 3_600;

/// How many kinds there are.
pub const KINDS: u8 = 16;

/// Reads one body of a kind below [`KINDS`].
pub fn check(kind: u8, body: &[u8]) {
    match kind {
        0 => check_batch(body),
        1 => check_dead_letter(body),
        2 => check_webhook(body),
        3 => check_webhook_edit(body),
        4 => check_new_key(body),
        5 => check_key_edit(body),
        6 => check_new_user(body),
        7 => check_user_edit(body),
        8 => check_erasure(body),
        9 => check_preferences(body),
        10 => check_snapshot(body),
        11 => check_workflow(body),
        12 => check_mail(body),
        13 => check_query(body),
        14 => check_plain_call(body),
        _ => check_texts(body),
    }
}

/// What was read; a refusal is a problem of the caller's that can be told.
fn read<T>(parsed: Result<T, Problem>) -> Option<T> {
    match parsed {
        Ok(parsed) => Some(parsed),
        Err(problem) => {
            assert_eq!(problem.status() / 100, 4, "what is wrong with a request is the caller's fault");
            assert!(!write(&problem).is_empty());
            check_problem_document(&problem);
            None
        }
    }
}

fn assert_name(name: &str, chars_max: usize) {
    assert!(
        (1..=chars_max).contains(&name.chars().count()) && !name.chars().any(char::is_control),
        "{name:?}"
    );
}

fn assert_address(address: &str) {
    assert!(address.parse::<EmailAddress>().is_ok(), "{address:?}");
}

fn assert_identity(identity: &Identity) {
    assert!((1..=ISSUER_CHARS_MAX).contains(&identity.issuer.chars().count()));
    assert!((1..=SUBJECT_CHARS_MAX).contains(&identity.subject.chars().count()));
}

fn assert_zone(zone: &str) {
    assert!((1..=TIME_ZONE_CHARS_MAX).contains(&zone.len()) && !zone.contains(".."), "{zone:?}");
}

fn assert_after_1970(time: &Timestamp) {
    assert!(time.as_millisecond() > 0, "{time}");
}

fn check_batch(body: &[u8]) {
    let Some(batch) = read(BatchRequest::parse(body)) else { return };
    assert!((1..=BATCH_COMMANDS_MAX).contains(&batch.commands.len()));
    for command in batch.commands.into_iter().filter_map(read) {
        assert_eq!(command.mode, Mode::Async);
        check_request(&command);
    }
}

fn check_dead_letter(body: &[u8]) {
    let Some(edit) = read(DeadLetterEdit::parse(body)) else { return };
    assert!(edit.command.is_none_or(|command| !command.trim().is_empty()));
    if let Some(Some(plan)) = edit.plan {
        // Whether the plan holds together is seen when it is looked at with the task.
        let _ = plan.validate();
        let _ = Graph::of_plan(&plan).in_order();
    }
}

fn check_webhook(body: &[u8]) {
    let Some(webhook) = read(WebhookRequest::parse(body)) else { return };
    assert!((1..=WEBHOOK_URL_CHARS_MAX).contains(&webhook.url.chars().count()));
    assert!(!webhook.events.names().is_empty());
    assert!(webhook.description.is_none_or(|text| text.chars().count() <= WEBHOOK_DESCRIPTION_CHARS_MAX));
}

fn check_webhook_edit(body: &[u8]) {
    let Some(edit) = read(WebhookEdit::parse(body)) else { return };
    assert!(edit.url.is_none_or(|url| (1..=WEBHOOK_URL_CHARS_MAX).contains(&url.chars().count())));
    assert!(edit.events.is_none_or(|events| !events.names().is_empty()));
    let description = edit.description.flatten();
    assert!(description.is_none_or(|text| text.chars().count() <= WEBHOOK_DESCRIPTION_CHARS_MAX));
}

fn check_new_key(body: &[u8]) {
    let Some(key) = read(NewKey::parse(body)) else { return };
    assert_name(&key.name, KEY_NAME_CHARS_MAX);
    assert!(key.scopes.is_none_or(|scopes| scopes.names().next().is_some()), "a key for nothing");
    key.expires.iter().for_each(assert_after_1970);
}

fn check_key_edit(body: &[u8]) {
    let Some(edit) = read(KeyEdit::parse(body)) else { return };
    edit.name.iter().for_each(|name| assert_name(name, KEY_NAME_CHARS_MAX));
    assert!(edit.scopes.is_none_or(|scopes| scopes.names().next().is_some()), "a key for nothing");
    edit.expires.flatten().iter().for_each(assert_after_1970);
}

fn check_new_user(body: &[u8]) {
    let Some(user) = read(NewUser::parse(body)) else { return };
    assert_name(&user.name, USER_NAME_CHARS_MAX);
    assert_address(&user.email);
    user.time_zone.iter().for_each(|zone| assert_zone(zone));
    user.identity.iter().for_each(assert_identity);
}

fn check_user_edit(body: &[u8]) {
    let Some(edit) = read(UserEdit::parse(body)) else { return };
    edit.email.iter().for_each(|email| assert_address(email));
    edit.time_zone.iter().for_each(|zone| assert_zone(zone));
    edit.tokens_since.flatten().iter().for_each(assert_after_1970);
    edit.identity.iter().for_each(assert_identity);
}

fn check_erasure(body: &[u8]) {
    let Some(erasure) = read(Erasure::parse(body)) else { return };
    assert_name(&erasure.name, USER_NAME_CHARS_MAX);
}

/// Input: lines, each a patch of what the one before left.
fn check_preferences(body: &[u8]) {
    let mut preferences = Preferences::default();
    for patch in body.split(|byte| *byte == b'\n') {
        let Some(next) = read(preferences.patched(patch)) else { continue };
        next.time_zone.iter().for_each(|zone| assert_zone(zone));
        assert!(next.language.as_ref().is_none_or(|tag| (2..=LANGUAGE_CHARS_MAX).contains(&tag.len())));
        assert!(write(&next.custom).len() <= CUSTOM_BYTES_MAX);
        let back: Preferences = serde_json::from_slice(&write(&next)).expect("what is kept can be read");
        assert_eq!(back, next);
        // A patch that takes nothing back may be sent twice.
        if !patch.windows(4).any(|part| part == b"null") {
            assert_eq!(next.patched(patch).as_ref(), Ok(&next));
        }
        preferences = next;
    }
}

fn check_snapshot(body: &[u8]) {
    let Some(snapshot) = read(SnapshotRequest::parse(body, TTL_S_MAX)) else { return };
    assert!(snapshot.label.is_none_or(|label| (1..=LABEL_CHARS_MAX).contains(&label.chars().count())));
    assert!(snapshot.ttl_s.is_none_or(|ttl_s| (CONTEXT_TTL_S_MIN..=TTL_S_MAX).contains(&ttl_s)));
}

/// What earlier steps brought: texts that no header, query or time may hold.
struct Hostile;

impl Found for Hostile {
    fn item(&self, step: usize, index: u8) -> Option<Item> {
        // Fewer than may be asked for.
        (index < 2).then(|| Item {
            kind: ItemKind::Message,
            id: format!("id{step}\r\n"),
            title: "\u{7}Budget\r\nBcc: all@example.com\u{2028}".repeat(20),
            person: Some(Person { name: None, address: "anna@example.com".to_owned() }),
            when: (index == 0).then(|| "2026-11-24T10:00:00Z".to_owned()),
            thread_id: None,
            message_id_header: None,
            snippet: Some("$input.x ${steps.a.text}".to_owned()),
        })
    }

    fn count(&self, _: usize) -> usize {
        2
    }

    fn text(&self, step: usize) -> Option<String> {
        step.is_multiple_of(2).then(|| "a text\n".repeat(5_000))
    }
}

/// Input: a definition, a line break, and what a run is given.
fn check_workflow(body: &[u8]) {
    let mut lines = body.splitn(2, |byte| *byte == b'\n');
    let Some(Ok(definition)) = lines.next().map(serde_json::from_slice::<Value>) else { return };
    let given = lines.next().and_then(|line| serde_json::from_slice(line).ok()).unwrap_or(Value::Null);
    let workflow = match Workflow::check(&definition) {
        Ok(workflow) => workflow,
        Err(faults) => {
            assert!((1..=workflow::FAULTS_MAX).contains(&faults.0.len()));
            check_problem_document(&faults.to_problem("the workflow"));
            return;
        }
    };
    let nodes = workflow.graph.nodes();
    assert!(
        (1..=workflow::STEPS_MAX).contains(&nodes.len()) && workflow.inputs.len() <= workflow::INPUTS_MAX
    );
    let order = workflow.graph.in_order();
    assert_eq!(order.len(), nodes.len(), "a circle");
    for (index, node) in nodes.iter().enumerate() {
        let place = |wanted: usize| order.iter().position(|placed| *placed == wanted);
        assert!(
            node.before().iter().all(|before| place(*before) < place(index)),
            "begun before what it needs"
        );
        assert!(node.tries().max >= 1 && node.tries().max <= workflow::TRIES_MAX);
        assert!(node.timeout_ms().is_none_or(|ms| ms <= workflow::TIMEOUT_MS_MAX));
        let state = |before| if before == index { StepState::Pending } else { StepState::Done };
        assert_eq!(workflow.graph.turn(index, state), Turn::MayBegin);
    }
    let Ok(input) = workflow.input(&given) else { return };
    assert_eq!(workflow.input(&input.to_value()), Ok(input.clone()), "what was filled in is an input");
    for node in nodes {
        let _ = node.is_wanted(&input, &Hostile);
        if let Ok(call) = node.fill(&input, &Hostile) {
            assert_eq!(call.check_fields(), Ok(()), "filled in beyond its bounds");
            assert_eq!(call.name(), node.call().name());
        }
    }
}

/// Names that header lines of our mails may begin with.
const MAIL_HEADERS: [&str; 12] = [
    "To",
    "Cc",
    "Bcc",
    "Subject",
    "Date",
    "Message-ID",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "From",
];

/// Input: a draft, a line break, and the message it answers or sends on.
fn check_mail(body: &[u8]) {
    let mut lines = body.splitn(2, |byte| *byte == b'\n');
    let Some(draft) = lines.next().map(MailDraft::parse).and_then(read) else { return };
    let original = lines.next().and_then(|line| serde_json::from_slice::<Message>(line).ok());
    let others = original.iter().flat_map(|message| [Purpose::Reply(message), Purpose::Forward(message)]);
    for purpose in others.chain([Purpose::New]) {
        let made = draft.clone().into_mail(purpose, TaskId::from_bytes([7; 16]), Timestamp::UNIX_EPOCH);
        let Some(mail) = read(made) else { continue };
        assert!((1..=RECIPIENTS_MAX).contains(&mail.to().len()));
        let mime = mail.to_mime();
        let end =
            mime.windows(4).position(|four| four == b"\r\n\r\n").expect("a mail has an end of its head");
        let head = std::str::from_utf8(&mime[..end]).expect("a head is text");
        for line in head.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)) {
            let is_ours = line.split_once(':').is_some_and(|(name, _)| MAIL_HEADERS.contains(&name));
            assert!(line.starts_with([' ', '\t']) || is_ours, "a header of somebody else's: {line:?}");
        }
    }
}

fn check_query(body: &[u8]) {
    let Ok(query) = std::str::from_utf8(body) else { return };
    if let Some(history) = read(HistoryQuery::parse(query)) {
        assert!(history.from_ms <= history.to_ms && (1..=LIST_LIMIT_MAX).contains(&history.limit));
        assert!(history.words.len() <= TEXT_WORDS_MAX);
        // Lower case may be longer than upper case, by two more characters for each.
        assert!(history.words.iter().all(|word| word.chars().count() <= 3 * TEXT_CHARS_MAX));
        let _ = (history.filter(), history.has_words(query));
    }
    if let Some(list) = read(ListQuery::parse(query)) {
        assert!((1..=LIST_LIMIT_MAX).contains(&list.limit));
    }
    if let Some(Some(ttl_s)) = read(parse_put_query(query, TTL_S_MAX)) {
        assert!((CONTEXT_TTL_S_MIN..=TTL_S_MAX).contains(&ttl_s));
    }
    let _ = read(refuse_query(query));
}

/// Input: path and query of a request to the plain surface, a line break, and its body.
fn check_plain_call(body: &[u8]) {
    let mut lines = body.splitn(2, |byte| *byte == b'\n');
    let Some(Ok(target)) = lines.next().map(std::str::from_utf8) else { return };
    let body = lines.next().unwrap_or_default();
    let is_object = serde_json::from_slice::<Value>(body).is_ok_and(|value| value.is_object());
    // What is not looked into may hold a number or a text that parsing would refuse.
    assert!(!is_object || rest::check_object(body).is_ok());
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    for endpoint in rest::at_path(path) {
        let captures = endpoint.captures(path).expect("it is at this path");
        let Some(call) = read(endpoint.call(&captures, query, None, Bytes::copy_from_slice(body))) else {
            continue;
        };
        assert!(
            call.path.starts_with('/') && call.path.bytes().all(|byte| byte.is_ascii_graphic()),
            "{}",
            call.path
        );
        let path = call.path.split('?').next().unwrap_or_default();
        let upward = |part: &str| part.bytes().all(|byte| byte == b'.');
        assert!(!path.split('/').skip(1).any(upward), "a path that leads elsewhere: {path}");
        assert_eq!(
            path.matches('/').count(),
            endpoint.upstream.split('?').next().unwrap_or_default().matches('/').count()
        );
    }
}

/// Texts in heads and paths, and what Google's other endpoints answer.
fn check_texts(body: &[u8]) {
    let _ = TokenResponse::parse(body).map(|token| {
        assert!(token.access_token().bytes().all(|byte| byte.is_ascii_graphic()), "it stands in a header");
    });
    assert!(OAuthError::classify(400, body).to_string().len() < 4_096);
    assert_eq!(batch::answers(&Bytes::copy_from_slice(body), 3).len(), 3);
    let _ = rest::next_page_token(body);
    let Ok(text) = std::str::from_utf8(body) else { return };
    if let Ok(key) = ApiKey::parse(text) {
        assert_eq!(key.expose(), text, "two texts of one key");
    }
    for length in [0, 1, 1_000, u64::MAX] {
        if let Wanted::Part(part) = wanted(text, length) {
            assert!(part.first <= part.last && part.last < length);
        }
    }
    let _ = upload::received(Some(text));
    assert!(!is_context_key(text) || text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'));
    assert!(!is_media_type(text) || text.is_ascii());
    assert!(!is_idempotency_key(text) || text.bytes().all(|byte| byte.is_ascii_graphic()));
    assert!(!workflow::is_name(text) || text.len() <= workflow::NAME_CHARS_MAX);
}

//! Gmail v1: messages, drafts, sending; labels, threads and history in modules of their own.
//! <https://developers.google.com/workspace/gmail/api/reference/rest>

mod change;
mod compose;
mod labels;
mod threads;

use serde_json::{Value, json};

use super::search::{Query, SearchContext};
use super::{Answer, Outcome, Request, done, unknown_path};
use crate::sim::wire::{Reply, google_error, page};
use crate::sim::world::{Draft, MailBox, Message, Person};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;

/// Answers a request below `/gmail/v1/users/{user}/`.
pub(super) fn serve(request: &Request<'_>) -> Outcome {
    let (who, gmail) = (request.route.id("userId"), Gmail(request));
    if who != "me" && !who.eq_ignore_ascii_case(&request.user.person.email) {
        return Err(google_error(403, "forbidden", &format!("Delegation denied for {who}")));
    }
    let id = request.route.id("id");
    match request.method() {
        "getProfile" => Ok(gmail.profile()),
        "messages.list" => gmail.list(),
        "messages.get" => gmail.get(id),
        "messages.attachments.get" => gmail.attachment(request.route.id("messageId"), id),
        "messages.send" => gmail.send_message(),
        "messages.insert" => gmail.insert(),
        "messages.modify" => gmail.modify(id),
        "messages.trash" => gmail.relabel(id, &["TRASH"], &["INBOX"]),
        "messages.untrash" => gmail.relabel(id, &[], &["TRASH"]),
        "messages.delete" => gmail.delete(&[id.to_owned()], true),
        "messages.batchModify" => gmail.batch_modify(),
        "messages.batchDelete" => gmail.delete(&gmail.ids()?, false),
        "drafts.list" => gmail.list_drafts(),
        "drafts.get" => gmail.get_draft(id),
        "drafts.create" => gmail.create_draft(),
        "drafts.update" => gmail.update_draft(id),
        "drafts.send" => gmail.send_draft(),
        "drafts.delete" => gmail.delete_draft(id),
        "history.list" => gmail.history(),
        "labels.list" => Ok(gmail.list_labels()),
        "labels.get" => gmail.get_label(id),
        "labels.create" => gmail.create_label(),
        "labels.patch" => gmail.change_label(id, false),
        "labels.update" => gmail.change_label(id, true),
        "labels.delete" => gmail.delete_label(id),
        "threads.list" => gmail.list_threads(),
        "threads.get" => gmail.get_thread(id),
        "threads.modify" => gmail.modify_thread(id),
        "threads.trash" => gmail.relabel_thread(id, &["TRASH".to_owned()], &["INBOX".to_owned()]),
        "threads.untrash" => gmail.relabel_thread(id, &[], &["TRASH".to_owned()]),
        "threads.delete" => gmail.delete_thread(id),
        _ => Err(unknown_path(&request.call.path)),
    }
}

struct Gmail<'a>(&'a Request<'a>);

impl Gmail<'_> {
    fn mail(&self) -> std::sync::MutexGuard<'_, MailBox> {
        self.0.user.mail()
    }

    fn profile(&self) -> Answer {
        let mail = self.mail();
        let threads: std::collections::HashSet<_> = mail.messages.iter().map(|m| &m.thread_id).collect();
        let answer = json!({"emailAddress": self.0.user.person.email, "messagesTotal": mail.messages.len(),
            "threadsTotal": threads.len(), "historyId": mail.history_id().to_string()});
        answer.into()
    }

    fn query(&self, mail: &MailBox) -> Result<Query, Reply> {
        let state = self.0.state;
        let context = SearchContext {
            now: state.clock.now(),
            zone: state.clock.zone(),
            owner: &self.0.user.person.email,
        };
        let mut query = Query::parse(self.0.param("q").unwrap_or_default(), &context)
            .ok_or_else(|| google_error(400, "invalidArgument", "Invalid query"))?;
        query.resolve_labels(&|name| mail.label_named(name).map(|label| label.id.clone()));
        Ok(query)
    }

    fn page_of(&self) -> Result<(usize, usize), Reply> {
        let params = &self.0.call.query;
        Ok((params.size("maxResults", 100, 500)?, params.page_offset()?))
    }

    /// Messages that fit `q` and `labelIds`, newest first.
    fn found<'m>(&self, mail: &'m MailBox) -> Result<Vec<&'m Message>, Reply> {
        let query = self.query(mail)?;
        let wanted: Vec<&str> = self.0.call.query.all("labelIds").collect();
        if let Some(unknown) = wanted.iter().find(|label| !mail.is_label(label)) {
            return Err(google_error(400, "invalidArgument", &format!("Invalid label: {unknown}")));
        }
        let binned = |label: &&str| matches!(*label, "TRASH" | "SPAM");
        let with_bin = self.0.flag("includeSpamTrash") || query.names_bin() || wanted.iter().any(binned);
        let mut found: Vec<&Message> = mail
            .messages
            .iter()
            .chain(mail.drafts.iter().map(|draft| &draft.message))
            .filter(|message| with_bin || !(message.has_label("TRASH") || message.has_label("SPAM")))
            .filter(|message| wanted.iter().all(|label| message.has_label(label)))
            .filter(|message| query.matches(message))
            .collect();
        found.sort_by_key(|message| std::cmp::Reverse(message.date));
        Ok(found)
    }

    fn list(&self) -> Outcome {
        let (size, offset) = self.page_of()?;
        let mail = self.mail();
        let found = self.found(&mail)?;
        let show = |message: &&Message| json!({"id": message.id, "threadId": message.thread_id});
        Ok(listed("messages", found, offset, size, show))
    }

    fn get(&self, id: &str) -> Outcome {
        let mail = self.mail();
        let message = mail.message(id).ok_or_else(not_found)?;
        Ok(self.show(message)?.into())
    }

    fn attachment(&self, message: &str, id: &str) -> Outcome {
        let mail = self.mail();
        let message = mail.message(message).ok_or_else(not_found)?;
        let index =
            id.strip_prefix(&format!("att-{}-", message.id)).and_then(|index| index.parse::<usize>().ok());
        let file = index.and_then(|index| message.attachments.get(index));
        let file = file.ok_or_else(|| google_error(400, "invalidArgument", "Invalid attachment token"))?;
        let content = file.bytes();
        Ok(json!({"size": content.len(), "data": URL_SAFE.encode(content)}).into())
    }

    /// A message in the `format` asked for.
    fn show(&self, message: &Message) -> Result<Value, Reply> {
        let mut value = json!({
            "id": message.id, "threadId": message.thread_id, "labelIds": message.labels,
            "snippet": message.snippet(), "historyId": message.history_id.to_string(),
            "internalDate": message.date.as_millisecond().to_string(),
            "sizeEstimate": message.body.len() + 900 + message.attachments.iter().map(|a| a.size).sum::<usize>(),
        });
        match self.0.param("format").unwrap_or("full") {
            "minimal" | "MINIMAL" => {}
            "full" | "FULL" => value["payload"] = payload(message, self.headers(message)),
            "metadata" | "METADATA" => {
                let wanted: Vec<&str> = self.0.call.query.all("metadataHeaders").collect();
                let mut headers = self.headers(message);
                if !wanted.is_empty() {
                    headers.retain(|(name, _)| wanted.iter().any(|w| w.eq_ignore_ascii_case(name)));
                }
                value["payload"] = json!({"mimeType": mime_type(message), "headers": show_headers(headers)});
            }
            "raw" | "RAW" => {
                if let Some(raw) = &message.raw {
                    value["raw"] = URL_SAFE.encode(raw).into();
                    return Ok(value);
                }
                let head: String = self
                    .headers(message)
                    .iter()
                    .map(|(name, value)| format!("{name}: {value}\r\n"))
                    .collect();
                value["raw"] = URL_SAFE.encode(format!("{head}\r\n{}", message.body)).into();
            }
            other => {
                return Err(google_error(
                    400,
                    "invalidArgument",
                    &format!("Invalid value at 'format': \"{other}\""),
                ));
            }
        }
        Ok(value)
    }

    fn headers(&self, message: &Message) -> Vec<(&'static str, String)> {
        let people = |list: &[Person]| list.iter().map(Person::display).collect::<Vec<_>>().join(", ");
        let date = message.date.to_zoned_datetime(self.0.state.clock.zone().clone());
        let mut headers = vec![
            ("MIME-Version", "1.0".to_owned()),
            ("Date", date.strftime("%a, %d %b %Y %H:%M:%S %z").to_string()),
            ("Message-ID", message.message_id.clone()),
            ("Subject", message.subject.clone()),
            ("From", message.from.display()),
            ("To", people(&message.to)),
        ];
        if !message.cc.is_empty() {
            headers.push(("Cc", people(&message.cc)));
        }
        if !message.bcc.is_empty() {
            headers.push(("Bcc", people(&message.bcc)));
        }
        if let Some(id) = &message.in_reply_to {
            headers.push(("In-Reply-To", id.clone()));
        }
        if let Some(ids) = &message.references {
            headers.push(("References", ids.clone()));
        }
        headers.push(("Content-Type", format!("{}; charset=\"UTF-8\"", mime_type(message))));
        headers
    }

    fn list_drafts(&self) -> Outcome {
        let (size, offset) = self.page_of()?;
        let mail = self.mail();
        let query = self.query(&mail)?;
        let found: Vec<&Draft> =
            mail.drafts.iter().rev().filter(|draft| query.matches(&draft.message)).collect();
        Ok(listed("drafts", found, offset, size, |draft| show_draft(draft)))
    }

    fn get_draft(&self, id: &str) -> Outcome {
        let mail = self.mail();
        let draft = &mail.drafts[mail.draft(id).ok_or_else(not_found)?];
        Ok(json!({"id": draft.id, "message": self.show(&draft.message)?}).into())
    }
}

/// A page of a list, with Gmail's estimate of the whole. An empty list is left out.
fn listed<T>(name: &str, found: Vec<T>, offset: usize, size: usize, show: impl Fn(&T) -> Value) -> Answer {
    let mut answer = json!({"resultSizeEstimate": found.len()});
    let (found, next) = page(found, offset, size);
    if !found.is_empty() {
        answer[name] = found.iter().map(show).collect();
    }
    if let Some(next) = next {
        answer["nextPageToken"] = next.into();
    }
    answer.into()
}

fn not_found() -> Reply {
    google_error(404, "notFound", "Requested entity was not found.")
}

fn mime_type(message: &Message) -> &'static str {
    if message.attachments.is_empty() { "text/plain" } else { "multipart/mixed" }
}

fn show_headers(headers: Vec<(&'static str, String)>) -> Value {
    headers.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
}

/// The MIME tree of a message: the text alone, or the text and what is attached.
fn payload(message: &Message, headers: Vec<(&'static str, String)>) -> Value {
    let text = json!({"size": message.body.len(), "data": URL_SAFE.encode(&message.body)});
    let mut payload = json!({"partId": "", "mimeType": mime_type(message), "filename": "", "headers": show_headers(headers)});
    if message.attachments.is_empty() {
        payload["body"] = text;
        return payload;
    }
    let mut parts = vec![json!({"partId": "0", "mimeType": "text/plain", "filename": "",
        "headers": [{"name": "Content-Type", "value": "text/plain; charset=\"UTF-8\""}], "body": text})];
    for (index, file) in message.attachments.iter().enumerate() {
        parts.push(json!({"partId": (index + 1).to_string(), "mimeType": file.mime_type, "filename": file.filename,
            "headers": [{"name": "Content-Type", "value": file.mime_type},
                {"name": "Content-Disposition", "value": format!("attachment; filename=\"{}\"", file.filename)}],
            "body": {"attachmentId": format!("att-{}-{index}", message.id), "size": file.size}}));
    }
    payload["body"] = json!({"size": 0});
    payload["parts"] = parts.into();
    payload
}

fn show_draft(draft: &Draft) -> Value {
    json!({"id": draft.id, "message": {"id": draft.message.id, "threadId": draft.message.thread_id}})
}

fn show_draft_with_labels(draft: &Draft) -> Value {
    json!({"id": draft.id, "message": show_sent(&draft.message)})
}

fn show_sent(message: &Message) -> Value {
    json!({"id": message.id, "threadId": message.thread_id, "labelIds": message.labels})
}

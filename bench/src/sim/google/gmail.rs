//! Gmail v1: messages, drafts, sending.
//! <https://developers.google.com/workspace/gmail/api/reference/rest>

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD_INDIFFERENT, URL_SAFE, URL_SAFE_NO_PAD_INDIFFERENT};
use http::Method;
use mail_parser::MessageParser;
use serde_json::{Value, json};

use super::search::{Query, SearchContext};
use super::unknown_path;
use crate::sim::serve::State;
use crate::sim::wire::{Call, Reply, google_error, masked, page};
use crate::sim::world::{Attachment, Draft, MailBox, Message, Person, User};

/// Answers a request below `/gmail/v1/users/{user}/`.
pub(super) fn serve(state: &State, user: &Arc<User>, call: &Call) -> (&'static str, Reply) {
    let segments = call.segments("/gmail/v1/users/");
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let [who, rest @ ..] = segments.as_slice() else { return ("unknown", unknown_path(&call.path)) };
    if *who != "me" && !who.eq_ignore_ascii_case(&user.person.email) {
        return ("gmail.denied", google_error(403, "forbidden", &format!("Delegation denied for {who}")));
    }
    let gmail = Gmail { state, user, call };
    let (endpoint, reply) = match (&call.method, rest) {
        (&Method::GET, ["profile"]) => ("gmail.profile", gmail.profile()),
        (&Method::GET, ["messages"]) => ("gmail.messages.list", gmail.list()),
        (&Method::POST, ["messages", "send"]) => ("gmail.messages.send", gmail.send_message()),
        (&Method::GET, ["messages", id]) => ("gmail.messages.get", gmail.get(id)),
        (&Method::GET, ["drafts"]) => ("gmail.drafts.list", gmail.list_drafts()),
        (&Method::POST, ["drafts"]) => ("gmail.drafts.create", gmail.create_draft()),
        (&Method::POST, ["drafts", "send"]) => ("gmail.drafts.send", gmail.send_draft()),
        (&Method::GET, ["drafts", id]) => ("gmail.drafts.get", gmail.get_draft(id)),
        (&Method::DELETE, ["drafts", id]) => ("gmail.drafts.delete", gmail.delete_draft(id)),
        _ => ("unknown", Err(unknown_path(&call.path))),
    };
    (endpoint, reply.unwrap_or_else(|refusal| refusal))
}

/// `Err` is an answer too: a refusal.
type Outcome = Result<Reply, Reply>;

struct Gmail<'a> {
    state: &'a State,
    user: &'a User,
    call: &'a Call,
}

impl Gmail<'_> {
    fn answer(&self, value: Value) -> Outcome {
        Ok(Reply::json(200, &masked(&self.call.query, value)?))
    }

    fn profile(&self) -> Outcome {
        let mail = self.user.mail();
        let threads: std::collections::HashSet<_> = mail.messages.iter().map(|m| &m.thread_id).collect();
        self.answer(json!({"emailAddress": self.user.person.email, "messagesTotal": mail.messages.len(),
            "threadsTotal": threads.len(), "historyId": history_id(&mail)}))
    }

    fn query(&self) -> Result<Query, Reply> {
        let context = SearchContext {
            now: self.state.clock.now(),
            zone: self.state.clock.zone(),
            owner: &self.user.person.email,
        };
        Query::parse(self.call.query.get("q").unwrap_or_default(), &context)
            .ok_or_else(|| google_error(400, "invalidArgument", "Invalid query"))
    }

    fn list(&self) -> Outcome {
        let params = &self.call.query;
        let (size, offset) = (params.size("maxResults", 100, 500)?, params.page_offset()?);
        let query = self.query()?;
        let with_bin = params.flag("includeSpamTrash") || query.names_bin();
        let mail = self.user.mail();
        let mut found: Vec<&Message> = mail
            .messages
            .iter()
            .chain(mail.drafts.iter().map(|draft| &draft.message))
            .filter(|message| with_bin || !(message.has_label("TRASH") || message.has_label("SPAM")))
            .filter(|message| params.all("labelIds").all(|label| message.has_label(label)))
            .filter(|message| query.matches(message))
            .collect();
        found.sort_by_key(|message| std::cmp::Reverse(message.date));
        let estimate = found.len();
        let (found, next) = page(found, offset, size);
        let mut answer = json!({"resultSizeEstimate": estimate});
        if !found.is_empty() {
            answer["messages"] = found
                .iter()
                .map(|message| json!({"id": message.id, "threadId": message.thread_id}))
                .collect();
        }
        if let Some(next) = next {
            answer["nextPageToken"] = next.into();
        }
        self.answer(answer)
    }

    fn get(&self, id: &str) -> Outcome {
        let mail = self.user.mail();
        let message = mail.message(id).ok_or_else(not_found)?;
        self.answer(self.show(message, history_id(&mail))?)
    }

    /// A message in the `format` asked for.
    fn show(&self, message: &Message, history_id: String) -> Result<Value, Reply> {
        let mut value = json!({
            "id": message.id, "threadId": message.thread_id, "labelIds": message.labels,
            "snippet": message.snippet(), "historyId": history_id,
            "internalDate": message.date.as_millisecond().to_string(),
            "sizeEstimate": message.body.len() + 900 + message.attachments.iter().map(|a| a.size).sum::<usize>(),
        });
        match self.call.query.get("format").unwrap_or("full") {
            "minimal" | "MINIMAL" => {}
            "full" | "FULL" => value["payload"] = payload(message, self.headers(message)),
            "metadata" | "METADATA" => {
                let wanted: Vec<&str> = self.call.query.all("metadataHeaders").collect();
                let mut headers = self.headers(message);
                if !wanted.is_empty() {
                    headers.retain(|(name, _)| wanted.iter().any(|w| w.eq_ignore_ascii_case(name)));
                }
                value["payload"] = json!({"mimeType": mime_type(message), "headers": show_headers(headers)});
            }
            "raw" | "RAW" => {
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
        let date = message.date.to_zoned_datetime(self.state.clock.zone().clone());
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
        let params = &self.call.query;
        let (size, offset) = (params.size("maxResults", 100, 500)?, params.page_offset()?);
        let query = self.query()?;
        let mail = self.user.mail();
        let found: Vec<&Draft> =
            mail.drafts.iter().rev().filter(|draft| query.matches(&draft.message)).collect();
        let estimate = found.len();
        let (found, next) = page(found, offset, size);
        let mut answer = json!({"resultSizeEstimate": estimate});
        if !found.is_empty() {
            answer["drafts"] = found.iter().map(|draft| show_draft(draft)).collect();
        }
        if let Some(next) = next {
            answer["nextPageToken"] = next.into();
        }
        self.answer(answer)
    }

    fn get_draft(&self, id: &str) -> Outcome {
        let mail = self.user.mail();
        let draft = mail.drafts.iter().find(|draft| draft.id == id).ok_or_else(not_found)?;
        let message = self.show(&draft.message, history_id(&mail))?;
        self.answer(json!({"id": draft.id, "message": message}))
    }

    fn create_draft(&self) -> Outcome {
        let body = self.call.json()?;
        let mut mail = self.user.mail();
        let mut message = self.written(&body["message"], &mut mail)?;
        message.labels = vec!["DRAFT".to_owned()];
        let draft = Draft { id: mail.fresh_draft_id(), message };
        mail.drafts_created += 1;
        let answer = show_draft_with_labels(&draft);
        mail.drafts.push(draft);
        self.answer(answer)
    }

    /// Takes the draft and sends its message under one lock, so that of two such
    /// requests one finds no draft.
    fn send_draft(&self) -> Outcome {
        let body = self.call.json()?;
        let id =
            body["id"].as_str().ok_or_else(|| google_error(400, "invalidArgument", "Missing draft id"))?;
        let now = self.state.clock.now();
        let mut mail = self.user.mail();
        let position = mail.drafts.iter().position(|draft| draft.id == id).ok_or_else(not_found)?;
        require_recipient(&mail.drafts[position].message)?;
        let draft = mail.drafts.remove(position);
        let sent = mail.send(draft.message, now, "drafts.send");
        let answer = show_sent(sent);
        self.answer(answer)
    }

    fn delete_draft(&self, id: &str) -> Outcome {
        let mut mail = self.user.mail();
        let position = mail.drafts.iter().position(|draft| draft.id == id).ok_or_else(not_found)?;
        mail.drafts.remove(position);
        Ok(Reply::empty(204))
    }

    fn send_message(&self) -> Outcome {
        let body = self.call.json()?;
        let now = self.state.clock.now();
        let mut mail = self.user.mail();
        let message = self.written(&body, &mut mail)?;
        require_recipient(&message)?;
        let answer = show_sent(mail.send(message, now, "messages.send"));
        self.answer(answer)
    }

    /// The message in `raw`, with the ids it gets here.
    fn written(&self, resource: &Value, mail: &mut MailBox) -> Result<Message, Reply> {
        let raw = resource["raw"].as_str().ok_or_else(|| {
            google_error(
                400,
                "invalidArgument",
                "'raw' RFC822 payload message string or uploading message via /upload/* URL required",
            )
        })?;
        let bytes = URL_SAFE_NO_PAD_INDIFFERENT
            .decode(raw)
            .or_else(|_| STANDARD_NO_PAD_INDIFFERENT.decode(raw))
            .map_err(|_| google_error(400, "invalidArgument", "Invalid value for ByteString: raw"))?;
        let id = mail.fresh_id();
        let thread_id = match resource["threadId"].as_str() {
            None => id.clone(),
            Some(thread_id) if mail.has_thread(thread_id) => thread_id.to_owned(),
            Some(_) => return Err(not_found()),
        };
        let parsed = MessageParser::default()
            .parse(&bytes)
            .ok_or_else(|| google_error(400, "invalidArgument", "Invalid RFC822 message"))?;
        let bracketed = |id: &str| format!("<{id}>");
        let references: Vec<String> =
            parsed.references().as_text_list().into_iter().flatten().map(|id| bracketed(id)).collect();
        let message = Message {
            thread_id,
            labels: Vec::new(),
            // Gmail sends under the account's own address whatever the header says.
            from: self.user.person.clone(),
            to: people(parsed.to()),
            cc: people(parsed.cc()),
            bcc: people(parsed.bcc()),
            subject: parsed.subject().unwrap_or_default().to_owned(),
            date: self.state.clock.now(),
            body: parsed.body_text(0).unwrap_or_default().into_owned(),
            message_id: parsed.message_id().map_or_else(|| format!("<CA{id}@mail.gmail.com>"), bracketed),
            in_reply_to: parsed.in_reply_to().as_text().map(bracketed),
            references: (!references.is_empty()).then(|| references.join(" ")),
            attachments: attachments(&parsed),
            index: Default::default(),
            id,
        };
        Ok(message.indexed())
    }
}

fn attachments(parsed: &mail_parser::Message<'_>) -> Vec<Attachment> {
    use mail_parser::MimeHeaders as _;
    parsed
        .attachments()
        .map(|part| Attachment {
            filename: part.attachment_name().unwrap_or("attachment").to_owned(),
            mime_type: part.content_type().map_or_else(
                || "application/octet-stream".to_owned(),
                |kind| format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or("octet-stream")),
            ),
            size: part.len(),
        })
        .collect()
}

fn people(address: Option<&mail_parser::Address<'_>>) -> Vec<Person> {
    address
        .into_iter()
        .flat_map(|address| address.iter())
        .filter_map(|addr| {
            let email = addr.address.as_deref().filter(|email| email.contains('@'))?;
            Some(Person {
                name: addr.name.as_deref().unwrap_or_default().to_owned(),
                email: email.to_owned(),
            })
        })
        .collect()
}

fn require_recipient(message: &Message) -> Result<(), Reply> {
    if message.to.is_empty() && message.cc.is_empty() && message.bcc.is_empty() {
        return Err(google_error(400, "invalidArgument", "Recipient address required"));
    }
    Ok(())
}

fn not_found() -> Reply {
    google_error(404, "notFound", "Requested entity was not found.")
}

fn history_id(mail: &MailBox) -> String {
    (100_000 + mail.messages.len() + mail.drafts_created).to_string()
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

//! Mails that callers write over the REST surface: what the body of such a request holds, and the mail it becomes.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::error::Category;

use super::gmail::{Message, OutgoingMail};
use crate::ids::TaskId;
use crate::plan::{BODY_CHARS_MAX, EmailAddress, RECIPIENTS_MAX, StepId, TITLE_CHARS_MAX};
use crate::problem::{Problem, ProblemKind};

/// What a mail is made for.
#[derive(Clone, Copy, Debug)]
pub enum Purpose<'a> {
    /// A mail of its own.
    New,
    /// An answer to this message.
    Reply(&'a Message),
    /// This message, sent on; it was read with its text.
    Forward(&'a Message),
}

/// The body of a request that writes a mail. Which fields it has depends on the purpose: an answer goes to whom it
/// answers, so it has neither `to` nor `subject`; what is forwarded has its subject.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MailDraft {
    /// Whom it goes to.
    pub to: Vec<String>,
    /// Who gets a copy.
    pub cc: Vec<String>,
    /// Who gets a copy unseen by the others.
    pub bcc: Vec<String>,
    /// One line.
    pub subject: Option<String>,
    /// Plain text.
    pub body: String,
}

impl MailDraft {
    /// Reads a body.
    ///
    /// # Errors
    /// `invalid-json`, or `invalid-field` with what is wrong.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        serde_json::from_slice(body).map_err(|error| match error.classify() {
            Category::Data => Problem::new(ProblemKind::InvalidField, error.to_string()),
            _ => Problem::new(ProblemKind::InvalidJson, format!("the body is not JSON: {error}")),
        })
    }

    /// The mail, with an id of its own.
    ///
    /// # Errors
    /// `invalid-field` that names the field: no address, too many, one that is none, a text that is too long, or a
    /// field that does not go with the purpose.
    pub fn into_mail(
        self,
        purpose: Purpose<'_>,
        id: TaskId,
        date: Timestamp,
    ) -> Result<OutgoingMail, Problem> {
        let id = (id, StepId::new(1).expect("1 is a step"));
        if self.to.len() + self.cc.len() + self.bcc.len() > RECIPIENTS_MAX {
            return Err(wrong("/to", format!("a mail has at most {RECIPIENTS_MAX} recipients in all")));
        }
        if self.body.chars().count() > BODY_CHARS_MAX {
            return Err(wrong("/body", format!("has at most {BODY_CHARS_MAX} characters")));
        }
        let (to, cc, bcc) =
            (addresses("to", &self.to)?, addresses("cc", &self.cc)?, addresses("bcc", &self.bcc)?);
        let mail = match purpose {
            Purpose::Reply(_) if !to.is_empty() => {
                return Err(wrong("/to", "an answer goes to whom it answers; use cc for others"));
            }
            Purpose::Reply(_) | Purpose::Forward(_) if self.subject.is_some() => {
                return Err(wrong("/subject", "follows from the message"));
            }
            Purpose::New | Purpose::Forward(_) if to.is_empty() => {
                return Err(wrong("/to", "must hold at least one address"));
            }
            Purpose::Reply(original) => OutgoingMail::reply(id, date, original, self.body)
                .map_err(|error| Problem::new(ProblemKind::UnresolvedReference, error.to_string()))?,
            Purpose::Forward(original) => OutgoingMail::forward(id, date, original, to, &self.body),
            Purpose::New => {
                let subject = self.subject.unwrap_or_default();
                if subject.chars().any(char::is_control) || subject.chars().count() > TITLE_CHARS_MAX {
                    return Err(wrong(
                        "/subject",
                        format!("is one line of at most {TITLE_CHARS_MAX} characters"),
                    ));
                }
                OutgoingMail::new(id, date, to, &subject, self.body)
            }
        };
        Ok(mail.with_copies(cc, bcc))
    }
}

fn addresses(field: &str, texts: &[String]) -> Result<Vec<EmailAddress>, Problem> {
    let parse = |(index, text): (usize, &String)| {
        text.parse().map_err(|_| wrong(&format!("/{field}/{index}"), "is no e-mail address (local@domain)"))
    };
    texts.iter().enumerate().map(parse).collect()
}

fn wrong(pointer: &str, detail: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::InvalidField, "one field is not valid").with_error(pointer, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &serde_json::Value) -> MailDraft {
        MailDraft::parse(json.to_string().as_bytes()).unwrap()
    }

    fn made(json: &serde_json::Value, purpose: Purpose<'_>) -> Result<String, Problem> {
        let mail = parse(json).into_mail(purpose, TaskId::from_bytes([7; 16]), Timestamp::UNIX_EPOCH)?;
        Ok(String::from_utf8(mail.to_mime()).unwrap())
    }

    fn original() -> Message {
        serde_json::from_value(serde_json::json!({
            "id": "m1", "threadId": "t1", "labelIds": ["INBOX"],
            "payload": {"mimeType": "text/plain", "headers": [
                {"name": "From", "value": "Anna <anna@example.com>"},
                {"name": "Subject", "value": "Budget"},
                {"name": "Message-ID", "value": "<1@example.com>"}],
                "body": {"data": "VGhlIGZpZ3VyZXM"}}
        }))
        .unwrap()
    }

    #[test]
    fn a_new_mail_goes_to_all_it_names() {
        let json = serde_json::json!({"to": ["a@b.c"], "cc": ["d@e.f"], "bcc": ["g@h.i"], "subject": "S", "body": "B"});
        let mime = made(&json, Purpose::New).unwrap();
        for part in ["To: <a@b.c>", "Cc: <d@e.f>", "Bcc: <g@h.i>", "Subject: S"] {
            assert!(mime.contains(part), "{part}: {mime}");
        }
    }

    #[test]
    fn what_is_forwarded_carries_the_original_and_its_subject() {
        let mime =
            made(&serde_json::json!({"to": ["a@b.c"], "body": "see below"}), Purpose::Forward(&original()))
                .unwrap();
        for part in ["Subject: Fwd: Budget", "see below", "The figures", "anna@example.com"] {
            assert!(mime.contains(part), "{part}: {mime}");
        }
        assert!(!mime.contains("In-Reply-To"), "{mime}");
    }

    #[test]
    fn an_answer_goes_back_in_its_thread() {
        let mime =
            made(&serde_json::json!({"body": "fine", "cc": ["x@y.z"]}), Purpose::Reply(&original())).unwrap();
        for part in
            ["To: <anna@example.com>", "Subject: Re: Budget", "In-Reply-To: <1@example.com>", "Cc: <x@y.z>"]
        {
            assert!(mime.contains(part), "{part}: {mime}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let many: Vec<String> = (0..=RECIPIENTS_MAX).map(|number| format!("u{number}@x.y")).collect();
        let original = original();
        for (json, purpose, pointer) in [
            (serde_json::json!({"body": "x"}), Purpose::New, "/to"),
            (serde_json::json!({"to": ["no"], "body": "x"}), Purpose::New, "/to/0"),
            (serde_json::json!({"to": ["a@b.c\r\nBcc: e@v.il"]}), Purpose::New, "/to/0"),
            (serde_json::json!({"to": ["a@b.c"], "subject": "a\r\nBcc: e@v.il"}), Purpose::New, "/subject"),
            (serde_json::json!({"to": many}), Purpose::New, "/to"),
            (serde_json::json!({"to": ["a@b.c"]}), Purpose::Reply(&original), "/to"),
            (serde_json::json!({"subject": "a"}), Purpose::Reply(&original), "/subject"),
            (serde_json::json!({"body": "x"}), Purpose::Forward(&original), "/to"),
        ] {
            let problem = made(&json, purpose).unwrap_err();
            let problem = serde_json::to_value(&problem).unwrap();
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{json}");
        }
        assert_eq!(MailDraft::parse(b"{").unwrap_err().kind(), ProblemKind::InvalidJson);
        assert_eq!(MailDraft::parse(br#"{"form":1}"#).unwrap_err().kind(), ProblemKind::InvalidField);
    }
}

//! Mail: searching, reading, and sending exactly once.
//!
//! How a mail is sent once, whatever is killed when:
//! 1. the step is in the journal as running;
//! 2. a draft is made, whose `Message-ID` follows from task and step;
//! 3. the draft's id goes to the journal, as the step's intent;
//! 4. the draft is sent. Gmail sends a draft once: afterwards it is not there any more.
//!
//! A step that is taken up again with an intent asks for the draft: if it is gone, it was sent. Without an intent
//! nothing was sent; a draft that was made already is found by its `Message-ID`.

use jiff::Timestamp;
use sluice_protocols::google::ApiCall;
use sluice_protocols::google::gmail::{
    self, Draft, DraftList, Format, Message, MessageList, MessageRef, OutgoingMail,
};
use sluice_protocols::plan::{Item, ItemKind, ItemRef, Recipient};
use sluice_protocols::problem::{Problem, ProblemKind};

use super::join::map_bounded;
use super::known::unresolved;
use super::seen::Seen;
use super::step::{Done, ROUNDS_MAX, StepRun, goes_on};
use crate::cache::Made;
use crate::clock::timestamp_of;
use crate::upstream::{Backoff, CallError};

/// What a draft's id in a step's intent begins with.
const INTENT_DRAFT: &str = "draft:";
/// How often the making of a draft is tried.
const DRAFTS_MAX: usize = 3;
/// How often a sent mail is looked for: the search may lag a little behind the sending.
const SEARCHES_MAX: usize = 4;
/// The longest draft id that is taken.
const DRAFT_ID_BYTES_MAX: usize = 256;

/// Where to look at each message that a list names.
struct Looks(Vec<ApiCall>);

impl Looks {
    fn of(list: MessageList) -> Self {
        let look = |message: MessageRef| gmail::get_message(&message.id, Format::Metadata);
        Self(list.messages.into_iter().map(look).collect())
    }
}

impl Made for Looks {
    fn bytes(&self) -> usize {
        self.0.iter().map(|call| size_of::<ApiCall>() + call.path.len()).sum()
    }
}

/// What an earlier run left behind.
enum Trace {
    Sent(Box<Message>),
    Draft(String),
    Nothing,
}

impl StepRun<'_> {
    pub(super) async fn gmail_search(&self, query: &str, limit: u8) -> Result<Done, Problem> {
        let looks = self.google.read_made(&gmail::list_messages(query, limit), Looks::of).await;
        let looks = looks.map_err(|error| self.problem(&error))?;
        let calls = &looks.0[..looks.0.len().min(usize::from(limit))];
        let together = self.google.read_together(calls).await;
        let seen = |message: Message| Seen::from(message.to_item());
        let brought = calls.iter().zip(together);
        let mut messages: Vec<_> = brought
            .map(|(call, brought)| Some(brought?.and_then(|answer| self.google.made(call, &answer, seen))))
            .collect();
        // What was not brought is read by itself.
        let missing = (0..calls.len()).filter(|place| messages[*place].is_none()).collect::<Vec<_>>();
        let read =
            map_bounded(missing.iter(), async |place| self.google.read_made(&calls[*place], seen).await);
        for (place, message) in missing.iter().zip(read.await) {
            messages[*place] = Some(message);
        }
        let mut items = Vec::with_capacity(calls.len());
        for message in messages.into_iter().flatten() {
            match message {
                Ok(message) => items.push((*message).clone()),
                // Deleted between the list and the look.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(self.problem(&error)),
            }
        }
        Ok(Done::items(items))
    }

    pub(super) async fn gmail_read(&self, message: ItemRef) -> Result<Done, Problem> {
        let item = self.shared.known.item(message)?;
        let message = self.message(&item, Format::Full).await?;
        let text = message.text().unwrap_or_else(|| "(The message has no text.)".to_owned());
        Ok(Done { text: Some(text), ..Done::items([message.to_item()]) })
    }

    pub(super) async fn gmail_draft(
        &self,
        to: &[Recipient],
        subject: &str,
        body: &str,
    ) -> Result<Done, Problem> {
        let to = self.shared.known.addresses(to)?;
        let mail = OutgoingMail::new((self.shared.task, self.id), self.date(), to, subject, body);
        let earlier = match self.intended_draft() {
            None if self.resumed => self.find_draft().await.map_err(|error| self.problem(&error))?,
            intended => intended,
        };
        let draft = match earlier {
            Some(draft) => draft,
            None => self.create_draft(&mail).await?,
        };
        self.note_intent(format!("{INTENT_DRAFT}{draft}")).await?;
        // It is there, even when its message cannot be told.
        let made = self.google.read_fresh::<Draft>(&gmail::get_draft(&draft), self.limit()).await;
        let message = made.ok().and_then(|draft| draft.message);
        let id = message.map_or(draft, |message| message.id);
        Ok(Done::items([Item {
            kind: ItemKind::Message,
            id,
            title: subject.to_owned(),
            person: None,
            when: None,
            thread_id: None,
            message_id_header: None,
            snippet: None,
        }]))
    }

    pub(super) async fn gmail_trash(&self, message: ItemRef) -> Result<Done, Problem> {
        let item = self.shared.known.item(message)?;
        self.note_message(&item).await?;
        let trash = gmail::trash_message(&item.id, true);
        match self.settle(&trash, "the message was moved to the trash").await?.0 {
            Ok(_) => Ok(Done::items([item])),
            Err(error) if error.is_not_found() => {
                Err(unresolved(format!("the message “{}” is not there any more", item.title)))
            }
            Err(error) => Err(self.problem(&error)),
        }
    }

    async fn message(&self, item: &Item, format: Format) -> Result<Message, Problem> {
        let message = self.google.read(&gmail::get_message(&item.id, format)).await;
        message.map_err(|error| {
            if error.is_not_found() {
                return unresolved(format!("the message “{}” is not there any more", item.title));
            }
            self.problem(&error)
        })
    }

    pub(super) async fn gmail_send(
        &self,
        to: &[Recipient],
        subject: &str,
        body: &str,
    ) -> Result<Done, Problem> {
        self.deliver(async || {
            let to = self.shared.known.addresses(to)?;
            Ok(OutgoingMail::new((self.shared.task, self.id), self.date(), to, subject, body))
        })
        .await
    }

    pub(super) async fn gmail_reply(&self, message: ItemRef, body: &str) -> Result<Done, Problem> {
        self.deliver(async || {
            let item = self.shared.known.item(message)?;
            let original = self.message(&item, Format::Metadata).await?;
            let reply = OutgoingMail::reply((self.shared.task, self.id), self.date(), &original, body);
            reply.map_err(|error| unresolved(error.to_string()))
        })
        .await
    }

    pub(super) async fn gmail_forward(
        &self,
        message: ItemRef,
        to: &[Recipient],
        body: &str,
    ) -> Result<Done, Problem> {
        self.deliver(async || {
            let item = self.shared.known.item(message)?;
            let to = self.shared.known.addresses(to)?;
            let original = self.message(&item, Format::Full).await?;
            Ok(OutgoingMail::forward((self.shared.task, self.id), self.date(), &original, to, body))
        })
        .await
    }

    /// The same in every run, so that the mail is.
    fn date(&self) -> Timestamp {
        timestamp_of(self.shared.created_ms)
    }

    fn message_id(&self) -> String {
        gmail::message_id(self.shared.task, self.id)
    }

    /// Sends what `compose` makes, unless an earlier run did.
    async fn deliver(
        &self,
        compose: impl AsyncFnOnce() -> Result<OutgoingMail, Problem>,
    ) -> Result<Done, Problem> {
        if let Some(draft) = self.intended_draft() {
            // Whether the earlier run came to send it is not known.
            let sent = self.send(&draft, true).await?;
            return self.sent_by_earlier_run(sent).await;
        }
        let mut mail = None;
        let trace = if self.resumed { self.trace().await? } else { Trace::Nothing };
        let draft = match trace {
            Trace::Sent(message) => return Ok(Done::items([message.to_item()])),
            Trace::Draft(draft) => draft,
            Trace::Nothing => self.create_draft(mail.insert(compose().await?)).await?,
        };
        self.note_intent(format!("{INTENT_DRAFT}{draft}")).await?;
        match (self.send(&draft, false).await?, mail) {
            (Some(sent), Some(mail)) => Ok(Done::items([mail.to_item(&sent)])),
            (sent, _) => self.sent_by_earlier_run(sent).await,
        }
    }

    pub(super) fn intended_draft(&self) -> Option<String> {
        let intent = self.shared.journal.read(|task| task.steps[self.index].intent.clone())?;
        intent.strip_prefix(INTENT_DRAFT).map(str::to_owned)
    }

    /// The item of a mail that was sent, but not put together, by this run.
    async fn sent_by_earlier_run(&self, sent: Option<Message>) -> Result<Done, Problem> {
        let message = match sent {
            Some(message) => {
                let whole = gmail::get_message(&message.id, Format::Metadata);
                self.google.read_fresh(&whole, self.limit()).await.ok().or(Some(message))
            }
            None => self.find_sent_patiently().await,
        };
        // It was sent, even when it cannot be found to be shown.
        Ok(Done::items(message.map(|message| message.to_item())))
    }

    /// Looks for what an earlier run, killed before it could note anything, may have left.
    async fn trace(&self) -> Result<Trace, Problem> {
        if let Some(message) = self.find_sent().await.map_err(|error| self.problem(&error))? {
            return Ok(Trace::Sent(Box::new(message)));
        }
        let draft = self.find_draft().await.map_err(|error| self.problem(&error))?;
        Ok(draft.map_or(Trace::Nothing, Trace::Draft))
    }

    async fn find_draft(&self) -> Result<Option<String>, CallError> {
        let list: DraftList =
            self.google.read_fresh(&gmail::find_draft(&self.message_id()), self.deadline()).await?;
        Ok(list.drafts.into_iter().map(|draft| draft.id).find(|id| is_draft_id(id)))
    }

    /// The mail of this step, if it was sent. A draft carries the same `Message-ID`, so the label decides.
    async fn find_sent(&self) -> Result<Option<Message>, CallError> {
        let query = format!("in:sent rfc822msgid:{}", self.message_id());
        let list: MessageList =
            self.google.read_fresh(&gmail::list_messages(&query, 1), self.limit()).await?;
        let Some(found) = list.messages.first() else { return Ok(None) };
        let whole = gmail::get_message(&found.id, Format::Metadata);
        let message: Message = self.google.read_fresh(&whole, self.limit()).await?;
        Ok(Some(message).filter(Message::is_sent))
    }

    async fn find_sent_patiently(&self) -> Option<Message> {
        let mut backoff = Backoff::new();
        for _search in 0..SEARCHES_MAX {
            if let Ok(Some(message)) = self.find_sent().await {
                return Some(message);
            }
            if !backoff.wait(None, self.limit()).await {
                break;
            }
        }
        None
    }

    /// Makes the draft. When it is not known whether that was done, the draft is looked for; should it show up
    /// later still, it stays a draft.
    async fn create_draft(&self, mail: &OutgoingMail) -> Result<String, Problem> {
        let call = gmail::create_draft(mail);
        let mut backoff = Backoff::new();
        for attempt in 1..=DRAFTS_MAX {
            let error = match self.google.act(&call, self.deadline()).await {
                Ok(reply) => match serde_json::from_slice::<Draft>(&reply.body) {
                    Ok(draft) if is_draft_id(&draft.id) => return Ok(draft.id),
                    _ => CallError::Nonsense { service: call.service },
                },
                Err(error) => error,
            };
            let again = error.outcome_unknown() || goes_on(&error, false);
            if attempt == DRAFTS_MAX || !again || !backoff.wait(error.retry_after(), self.deadline()).await {
                return Err(self.problem(&error));
            }
            if error.outcome_unknown()
                && let Ok(Some(draft)) = self.find_draft().await
            {
                return Ok(draft);
            }
        }
        Err(Problem::new(ProblemKind::Internal, "the draft was not made"))
    }

    /// Sends a draft that may have been sent before (`in_doubt`). What Gmail answers, if it did; `None` when the
    /// draft is known to be sent otherwise.
    async fn send(&self, draft: &str, mut in_doubt: bool) -> Result<Option<Message>, Problem> {
        let call = gmail::send_draft(draft);
        let mut backoff = Backoff::new();
        for _round in 0..ROUNDS_MAX {
            if in_doubt && self.is_gone(draft, &mut backoff).await? {
                return Ok(None);
            }
            // Here it is not sent, or not yet: then Gmail refuses to send it again.
            let error = match self.google.act(&call, self.deadline()).await {
                Ok(reply) => return Ok(serde_json::from_slice(&reply.body).ok()),
                Err(error) if error.is_not_found() => return self.vanished(in_doubt).await,
                Err(error) => error,
            };
            if error.outcome_unknown() {
                self.note_doubt();
                in_doubt = true;
            } else if !in_doubt && !goes_on(&error, false) {
                return Err(self.problem(&error));
            }
            let limit = if in_doubt { self.limit() } else { self.deadline() };
            if !backoff.wait(error.retry_after(), limit).await {
                let problem = self.problem(&error);
                return Err(if in_doubt { self.unknown_sending(&problem) } else { problem });
            }
        }
        Err(self.unknown_sending(&Problem::new(ProblemKind::UpstreamTimeout, "no clear answer came")))
    }

    /// Asks until it is known whether the draft is gone, which means that it was sent. `false` only while there is
    /// time to send it again.
    async fn is_gone(&self, draft: &str, backoff: &mut Backoff) -> Result<bool, Problem> {
        for _round in 0..ROUNDS_MAX {
            let asked = self.google.read_fresh::<Draft>(&gmail::get_draft(draft), self.limit()).await;
            let (problem, retry_after) = match asked {
                Ok(_) if sluice_core::now() < self.deadline() => return Ok(false),
                Ok(_) => (
                    Problem::new(ProblemKind::DeadlineExceeded, "it was still a draft when time was up"),
                    None,
                ),
                Err(error) if error.is_not_found() => return Ok(true),
                Err(error) if error.is_passing() => (self.problem(&error), error.retry_after()),
                Err(error) => return Err(self.unknown_sending(&error.to_problem(self.deadline()))),
            };
            if !backoff.wait(retry_after, self.limit()).await {
                return Err(self.unknown_sending(&problem));
            }
        }
        Err(self.unknown_sending(&Problem::new(ProblemKind::UpstreamTimeout, "no clear answer came")))
    }

    fn unknown_sending(&self, last: &Problem) -> Problem {
        self.unknown("the mail was sent", last)
    }

    /// The draft is not there any more. If nobody can have sent it but us, and we have not, someone deleted it.
    async fn vanished(&self, in_doubt: bool) -> Result<Option<Message>, Problem> {
        if in_doubt {
            return Ok(None);
        }
        match self.find_sent_patiently().await {
            Some(message) => Ok(Some(message)),
            None => Err(unresolved("the draft of the mail was deleted before it could be sent")),
        }
    }
}

fn is_draft_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= DRAFT_ID_BYTES_MAX
}

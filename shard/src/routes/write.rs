//! Changes at Google that are no tasks: mail is written and sent, things are made, states set, content uploaded.
//!
//! Invariants:
//! - A call that a repeat would do again is sent at most once. When its outcome is not known, the answer says so.
//! - With a key ([`Once`]), a repeat first looks for what the request before it left behind.

use std::time::{Duration, Instant};

use bytes::Bytes;
use sluice_net::{BodyReader, Request};
use sluice_protocols::google::compose::{MailDraft, Purpose};
use sluice_protocols::google::drive::{self, GeneratedIds};
use sluice_protocols::google::gmail::{self, Draft, DraftList, Format, Message, MessageList};
use sluice_protocols::google::rest::{self, Body, Captures, Effect, Endpoint, MailAct};
use sluice_protocols::google::{ApiCall, UpstreamFault, calendar, trace, upload};
use sluice_protocols::http::RequestHead;
use sluice_protocols::plan::{Service, StepId};
use sluice_protocols::problem::{Problem, ProblemKind};

use super::google::{BYTES_TYPE, problem_of};
use super::once::Once;
use crate::service::Core;
use crate::upstream::{CallError, Google, Source, Upload, UploadError};

/// How long the session of an upload is remembered. Google keeps it for a week.
const SESSION_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest id of Google's that is taken.
const ID_BYTES_MAX: usize = 256;

/// A change under way.
pub(super) struct Writing<'a> {
    pub(super) core: &'a Core,
    pub(super) google: &'a Google<'a>,
    pub(super) endpoint: &'static Endpoint,
    pub(super) captures: Captures,
    pub(super) once: &'a Once<'a>,
}

impl Writing<'_> {
    /// Makes the change; gives Google's document.
    pub(super) async fn run(&self, request: Request) -> Result<Bytes, Problem> {
        let query = request.head.query();
        let if_match = self.condition(&request.head)?;
        match self.endpoint.body {
            Body::Mail(act) => {
                // Refuses parameters that there are not.
                self.endpoint.call(&self.captures, query, None, Bytes::new())?;
                self.write_mail(act, &request.body).await
            }
            Body::SentDraft => {
                self.endpoint.call(&self.captures, query, None, Bytes::new())?;
                let draft = self.captures.get("id").unwrap_or_default();
                self.send_draft(draft, self.once.is_resumed(), None).await
            }
            Body::Bytes => self.upload(request).await,
            Body::None | Body::Json => {
                let (content_type, body) = checked_body(self.endpoint, &request)?;
                let mut call = self.endpoint.call(&self.captures, query, content_type, body)?;
                call.if_match = if_match;
                self.change(call).await
            }
        }
    }

    /// What the request asks of the present state of what it changes.
    ///
    /// # Errors
    /// `precondition-failed` where that cannot be known: to go on would be to pass over it.
    fn condition(&self, head: &RequestHead) -> Result<Option<String>, Problem> {
        match head.header("if-match") {
            Some(tags) if self.endpoint.heeds_if_match() => Ok(Some(tags.to_owned())),
            Some(_) => Err(unheeded(self.endpoint)),
            None => Ok(None),
        }
    }

    async fn seen(&self, call: &ApiCall) -> Result<Bytes, CallError> {
        self.google.bytes_fresh(call, self.google.deadline()).await
    }

    fn told(&self, error: &CallError) -> Problem {
        let problem = problem_of(error, self.google.deadline());
        let effect = self.endpoint.effect;
        let is_learned = self.once.is_keyed() && effect.leaves_trace();
        if effect.is_once() && error.outcome_unknown() && !is_learned {
            // A repeat might do it twice.
            return problem.with_retryable(false);
        }
        problem
    }

    async fn change(&self, call: ApiCall) -> Result<Bytes, Problem> {
        let is_resumed = self.once.is_resumed();
        match self.endpoint.effect {
            // A repeat would be refused for what the call before it did.
            Effect::Set if call.if_match.is_some() => {
                let deadline = self.google.deadline();
                let done = self.google.act(&call, deadline).await.map(|reply| reply.body);
                done.map_err(|error| if error.is_other_state() { changed() } else { self.told(&error) })
            }
            Effect::Read | Effect::Set => match self.google.bytes(&call).await {
                // The request before this one did it.
                Err(error) if is_resumed && call.method == "DELETE" && is_gone(&error) => Ok(Bytes::new()),
                answer => answer.map_err(|error| self.told(&error)),
            },
            Effect::Once if is_resumed => {
                let detail =
                    "it is not known whether the first request with this key did it; see for yourself";
                Err(Problem::new(ProblemKind::UpstreamTimeout, detail).with_retryable(false))
            }
            Effect::Event if self.once.is_keyed() => {
                let id = calendar::event_id(self.once.identity(), StepId::new(1).expect("1 is a step"));
                self.make_under(call, &id).await
            }
            Effect::File if self.once.is_keyed() => {
                let own = trace::id_of(&call.body);
                let id = self.file_id(own).await?;
                self.make_under(call, &id).await
            }
            Effect::Label if is_resumed => {
                let known = self.fresh(&trace::labels(&call)).await?;
                self.unless(trace::find_label(&known, &call.body), &call).await
            }
            Effect::Permission if is_resumed => {
                let known = self.fresh(&trace::permissions(&call)).await?;
                self.unless(trace::find_permission(&known, &call.body), &call).await
            }
            _ => self.act(&call).await,
        }
    }

    async fn act(&self, call: &ApiCall) -> Result<Bytes, Problem> {
        self.once.act(self.google, call).await.map(|reply| reply.body).map_err(|error| self.told(&error))
    }

    async fn fresh(&self, call: &ApiCall) -> Result<Bytes, Problem> {
        self.seen(call).await.map_err(|error| self.told(&error))
    }

    async fn unless(&self, made: Option<Bytes>, call: &ApiCall) -> Result<Bytes, Problem> {
        match made {
            Some(made) => Ok(made),
            None => self.act(call).await,
        }
    }

    /// Makes something under an id that nobody else uses, so that it is known whether it was made.
    async fn make_under(&self, mut call: ApiCall, id: &str) -> Result<Bytes, Problem> {
        let unfit = || Problem::new(ProblemKind::InvalidField, "one field is not valid");
        let (body, id) =
            trace::named(&call.body, id).ok_or_else(|| unfit().with_error("/id", "must be a text"))?;
        call.body = body;
        let error = match self.once.act(self.google, &call).await {
            Ok(reply) => return Ok(reply.body),
            Err(error) => error,
        };
        let is_there = error.fault() == Some(UpstreamFault::Conflict) && self.once.is_resumed();
        if is_there || error.outcome_unknown() {
            match self.seen(&trace::made(&call, &id)).await {
                Ok(made) => return Ok(made),
                Err(_) => return Err(self.told(&error)),
            }
        }
        Err(self.told(&error))
    }

    /// The id under which a file is made: the caller's, the one that is noted, or one that Google gives out.
    async fn file_id(&self, own: Option<String>) -> Result<String, Problem> {
        if let Some(id) = own.or_else(|| self.once.made()) {
            return Ok(id);
        }
        let given =
            self.google.read_fresh::<GeneratedIds>(&drive::generate_id(), self.google.deadline()).await;
        let given = given.map_err(|error| self.told(&error))?;
        let id = given.ids.into_iter().find(|id| is_fit(id));
        let id = id.ok_or_else(|| self.told(&CallError::Nonsense { service: Service::Drive }))?;
        self.once.note(&id).await?;
        Ok(id)
    }

    /// Writes a draft and, unless that was all, sends it. A draft is sent once by Gmail, however often it is asked to.
    async fn write_mail(&self, act: MailAct, body: &[u8]) -> Result<Bytes, Problem> {
        let draft = MailDraft::parse(body)?;
        let message_id = gmail::message_id(self.once.identity(), StepId::new(1).expect("1 is a step"));
        if let Some(id) = self.once.made() {
            return match act {
                MailAct::Draft => self.fresh(&gmail::get_draft(&id)).await,
                _ => self.send_draft(&id, true, Some(&message_id)).await,
            };
        }
        if self.once.is_resumed()
            && let Some(id) = self.find_draft(&message_id).await?
        {
            self.once.note(&id).await?;
            return match act {
                MailAct::Draft => self.fresh(&gmail::get_draft(&id)).await,
                _ => self.send_draft(&id, false, Some(&message_id)).await,
            };
        }
        let id = self.captures.get("id").unwrap_or_default();
        let told = |error: CallError| self.told(&error);
        let original: Option<Message> = match act {
            MailAct::Reply => {
                Some(self.google.read(&gmail::get_message(id, Format::Metadata)).await.map_err(told)?)
            }
            MailAct::Forward => {
                Some(self.google.read(&gmail::get_message(id, Format::Full)).await.map_err(told)?)
            }
            MailAct::Send | MailAct::Draft => None,
        };
        let purpose = match &original {
            None => Purpose::New,
            Some(original) if act == MailAct::Forward => Purpose::Forward(original),
            Some(original) => Purpose::Reply(original),
        };
        let mail = draft.into_mail(purpose, self.once.identity(), self.once.created())?;
        let made = self.once.act(self.google, &gmail::create_draft(&mail)).await.map_err(told)?;
        let draft: Option<Draft> = serde_json::from_slice(&made.body).ok();
        let Some(draft) = draft.filter(|draft| is_fit(&draft.id)) else {
            self.once.doubt();
            return Err(told(CallError::Nonsense { service: Service::Gmail }));
        };
        self.once.note(&draft.id).await?;
        if act == MailAct::Draft {
            return Ok(made.body);
        }
        self.send_draft(&draft.id, false, Some(&message_id)).await
    }

    async fn find_draft(&self, message_id: &str) -> Result<Option<String>, Problem> {
        let call = gmail::find_draft(message_id);
        let found = self.google.read_fresh::<DraftList>(&call, self.google.deadline()).await;
        let found = found.map_err(|error| self.told(&error))?;
        Ok(found.drafts.into_iter().map(|draft| draft.id).find(|id| is_fit(id)))
    }

    /// Sends a draft that may have been sent before (`in_doubt`).
    async fn send_draft(
        &self,
        draft: &str,
        in_doubt: bool,
        message_id: Option<&str>,
    ) -> Result<Bytes, Problem> {
        if in_doubt && self.was_sent(draft).await.map_err(|error| self.told(&error))? {
            return Ok(self.sent(message_id).await);
        }
        match self.once.act(self.google, &gmail::send_draft(draft)).await {
            Ok(sent) => Ok(sent.body),
            Err(error) if error.outcome_unknown() => match self.was_sent(draft).await {
                Ok(true) => Ok(self.sent(message_id).await),
                Ok(false) => Err(self.told(&error)),
                Err(_) if self.once.is_keyed() => Err(self.told(&error)),
                Err(_) => Err(self.told(&error).with_retryable(false)),
            },
            Err(error) => Err(self.told(&error)),
        }
    }

    /// Whether a draft was sent: then it is not there any more.
    async fn was_sent(&self, draft: &str) -> Result<bool, CallError> {
        match self.seen(&gmail::get_draft(draft)).await {
            Ok(_) => Ok(false),
            Err(error) if error.is_not_found() => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The mail that was sent, as far as it can be found: that it was sent is known.
    async fn sent(&self, message_id: Option<&str>) -> Bytes {
        let nothing = Bytes::from_static(b"{}");
        let Some(message_id) = message_id else { return nothing };
        let call = gmail::find_message(message_id);
        let found = self.google.read_fresh::<MessageList>(&call, self.google.deadline()).await;
        let Some(message) = found.ok().and_then(|list| list.messages.into_iter().next()) else {
            return nothing;
        };
        let whole = gmail::get_message(&message.id, Format::Metadata);
        self.seen(&whole).await.unwrap_or(nothing)
    }

    /// Takes content of any length to Drive. A repeat with the same key goes on where the first stopped.
    async fn upload(&self, request: Request) -> Result<Bytes, Problem> {
        let _transfer = self.core.transfers.begin()?;
        let Request { head, body, stream, .. } = request;
        let body = stream.unwrap_or_else(|| BodyReader::whole(body));
        let settings = self.core.config.run.transfer;
        let until = sluice_core::now() + settings.time_max;
        let begin = self.upload_call(&head).await?;
        let content_type = head.header("content-type").unwrap_or(BYTES_TYPE).to_owned();
        let sessions = &self.core.transfers.sessions;
        let identity = self.once.identity();
        let session = sessions.get(identity, sluice_core::now());
        let id = trace::id_of(&begin.body);
        if let (Some(id), true, None) = (&id, self.once.is_resumed(), &session) {
            // The last byte may have come to Google.
            match self.google.bytes_fresh(&trace::made(&begin, id), until).await {
                Ok(made) => return Ok(made),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(self.told(&error)),
            }
        }
        let opened = |session: &str| {
            if self.once.is_keyed() {
                self.once.doubt();
                sessions.keep(identity, session, sluice_core::now() + SESSION_LIFE);
            }
        };
        let length = head.content_length();
        let wanted = Upload { begin: &begin, content_type: &content_type, length, session, until };
        let mut source = Source::new(body, settings.idle);
        let uploaded = self.google.upload(wanted, &mut source, opened).await;
        let error = match uploaded {
            Ok(file) => {
                sessions.forget(identity);
                return Ok(file);
            }
            Err(error) => error,
        };
        if let (UploadError::Call(error), Some(id), true) = (&error, &id, self.once.is_resumed())
            && (error.is_not_found() || error.fault() == Some(UpstreamFault::Conflict))
            && let Ok(made) = self.google.bytes_fresh(&trace::made(&begin, id), until).await
        {
            return Ok(made);
        }
        Err(match error {
            UploadError::Call(error) => self.upload_problem(&error, until),
            UploadError::Body(error) => body_problem(error, settings.bytes_max),
            UploadError::Shorter => {
                let detail = "less was sent than the first request with this key had brought already";
                Problem::new(ProblemKind::IdempotencyMismatch, detail)
            }
        })
    }

    fn upload_problem(&self, error: &CallError, until: Instant) -> Problem {
        if error.outcome_unknown() {
            return self.told(error);
        }
        problem_of(error, until)
    }

    async fn upload_call(&self, head: &RequestHead) -> Result<ApiCall, Problem> {
        let given = |name| self.endpoint.given(head.query(), name);
        let resource = if self.endpoint.effect == Effect::File {
            let (name, parent, description) = (given("name")?, given("parent")?, given("description")?);
            upload::resource(name.as_deref(), parent.as_deref(), description.as_deref())
        } else {
            upload::resource(None, None, None)
        };
        let mut call =
            self.endpoint.call(&self.captures, head.query(), Some("application/json"), resource)?;
        if self.endpoint.effect == Effect::File && self.once.is_keyed() {
            let id = self.file_id(None).await?;
            call.body = trace::named(&call.body, &id).map_or(call.body, |(body, _)| body);
        }
        Ok(call)
    }
}

fn unheeded(endpoint: &Endpoint) -> Problem {
    let why = endpoint.why_unconditional().unwrap_or("it is not heeded");
    let detail = format!("{} takes no If-Match: {why}. Nothing was done; leave it out", endpoint.name);
    Problem::new(ProblemKind::PreconditionFailed, detail)
}

fn changed() -> Problem {
    Problem::new(ProblemKind::PreconditionFailed, "it is not what If-Match names any more; read it again")
}

fn is_gone(error: &CallError) -> bool {
    matches!(error.fault(), Some(UpstreamFault::NotFound | UpstreamFault::Gone))
}

fn is_fit(id: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&id.len())
}

fn body_problem(error: sluice_net::BodyError, bytes_max: u64) -> Problem {
    match error {
        sluice_net::BodyError::TooLong => {
            Problem::new(ProblemKind::PayloadTooLarge, format!("a body has at most {bytes_max} bytes"))
        }
        sluice_net::BodyError::TimedOut => {
            Problem::new(ProblemKind::BadRequest, "the body did not arrive in time")
        }
        sluice_net::BodyError::Broken => Problem::new(ProblemKind::BadRequest, "the body broke off"),
    }
}

/// The body as it goes to Google, with its media type.
pub(super) fn checked_body(
    endpoint: &Endpoint,
    request: &Request,
) -> Result<(Option<&'static str>, Bytes), Problem> {
    match endpoint.body {
        Body::None | Body::Mail(_) | Body::SentDraft | Body::Bytes => Ok((None, Bytes::new())),
        Body::Json => {
            rest::check_object(&request.body).map_err(|error| {
                if error.is_data() {
                    let problem = Problem::new(ProblemKind::InvalidField, "the body must be a JSON object");
                    return problem.with_error("", "must be an object");
                }
                Problem::new(ProblemKind::InvalidJson, format!("the body is not JSON: {error}"))
            })?;
            Ok((Some("application/json"), request.body.clone()))
        }
    }
}

//! Content of any length on its way to Drive: one chunk in memory, each sent until Google has it.
//!
//! ```text
//! open a session -> chunk -> how far? -> chunk ... -> last chunk -> the file
//!                     '-- no answer, or an error that passes: wait, ask how far it has come, go on from there
//! ```
//! Invariants:
//! - The file is made, or changed, once: Google does so with the last byte of the session, and what became of a last
//!   chunk without an answer is asked.
//! - What Google has is never sent again, and what it has not is still held: a chunk is let go of when it was taken.
//! - Rounds without progress are bounded ([`ROUNDS_MAX`]), and each is paid from the budget of repeats.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use sluice_net::egress::Retry;
use sluice_net::{BodyError, BodyReader};
use sluice_protocols::google::ApiCall;
use sluice_protocols::google::upload::{RESUME_INCOMPLETE, chunk, content_range, received};
use sluice_protocols::ids::TaskId;

use super::Backoff;
use super::google::{CallError, Extra, Google};

/// Rounds in a row in which an upload came no further.
const ROUNDS_MAX: u32 = 6;
/// Sessions of a core that are remembered; with more, the oldest is forgotten.
const SESSIONS_MAX: usize = 1_024;

/// Why content did not get there.
#[derive(Debug)]
pub(crate) enum UploadError {
    /// Google's side.
    Call(CallError),
    /// The client's.
    Body(BodyError),
    /// What the client sends again is shorter than what Google has of it already.
    Shorter,
}

impl From<CallError> for UploadError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

/// What is uploaded, as it comes from the client.
pub(crate) struct Source {
    body: BodyReader,
    /// Read, and not in a chunk yet.
    ahead: Bytes,
    is_over: bool,
    idle: Duration,
}

impl Source {
    pub(crate) fn new(body: BodyReader, idle: Duration) -> Self {
        Self { body, ahead: Bytes::new(), is_over: false, idle }
    }

    async fn pull(&mut self) -> Result<(), BodyError> {
        while self.ahead.is_empty() && !self.is_over {
            let until = sluice_core::now() + self.idle;
            match sluice_core::timeout_at(until, self.body.next()).await {
                Ok(Some(piece)) => self.ahead = piece?,
                Ok(None) => self.is_over = true,
                Err(_) => return Err(BodyError::TimedOut),
            }
        }
        Ok(())
    }

    /// Fills `chunk` up to `bytes_max`; whether that was all there is.
    pub(crate) async fn fill(&mut self, chunk: &mut BytesMut, bytes_max: usize) -> Result<bool, BodyError> {
        loop {
            // One piece ahead, so that the last chunk is known to be the last.
            self.pull().await?;
            let room = bytes_max - chunk.len();
            if self.is_over || room == 0 {
                return Ok(self.is_over && self.ahead.is_empty());
            }
            let taken = self.ahead.split_to(room.min(self.ahead.len()));
            chunk.extend_from_slice(&taken);
        }
    }

    /// Throws away what Google has already; `false` when there is less.
    async fn skip(&mut self, mut bytes: u64) -> Result<bool, BodyError> {
        while bytes > 0 {
            self.pull().await?;
            if self.is_over {
                return Ok(false);
            }
            let taken = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.ahead.len());
            self.ahead.advance(taken);
            bytes -= taken as u64;
        }
        Ok(true)
    }
}

/// An upload to be made.
pub(crate) struct Upload<'a> {
    /// Opens the session.
    pub(crate) begin: &'a ApiCall,
    /// The media type of the content.
    pub(crate) content_type: &'a str,
    /// Its length, where the client told it.
    pub(crate) length: Option<u64>,
    /// The session of an earlier attempt.
    pub(crate) session: Option<String>,
    /// When it must be over.
    pub(crate) until: Instant,
}

/// How far an upload has come.
enum Progress {
    At(u64),
    Done(Bytes),
}

impl Google<'_> {
    /// Uploads; gives what Google tells of the file. `opened` is told the session's address, which ends the upload of
    /// whoever has it.
    pub(crate) async fn upload(
        &self,
        upload: Upload<'_>,
        source: &mut Source,
        opened: impl Fn(&str),
    ) -> Result<Bytes, UploadError> {
        let _change = self.change(upload.begin);
        let mut at = 0;
        let mut known = None;
        if let Some(session) = &upload.session {
            match self.asked(session, upload.length, upload.until).await {
                Ok(Progress::Done(file)) => return Ok(file),
                Ok(Progress::At(has)) => {
                    if !source.skip(has).await.map_err(UploadError::Body)? {
                        return Err(UploadError::Shorter);
                    }
                    at = has;
                    known = Some(session.clone());
                }
                // It is over: a new one, since the client sends all of it.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let session = match known {
            Some(session) => session,
            None => self.opened(&upload).await?,
        };
        opened(&session);
        let bytes_max = self.transfer().chunk_bytes;
        let mut held = BytesMut::with_capacity(bytes_max);
        loop {
            let is_last = source.fill(&mut held, bytes_max).await.map_err(UploadError::Body)?;
            let total = if is_last { Some(at + held.len() as u64) } else { upload.length };
            match self.sent(&session, at, held.split().freeze(), total, upload.until).await? {
                (Progress::Done(file), _) => return Ok(file),
                (Progress::At(now), left) => {
                    at = now;
                    held.extend_from_slice(&left);
                }
            }
        }
    }

    async fn opened(&self, upload: &Upload<'_>) -> Result<String, CallError> {
        let mut fields = vec![("x-upload-content-type", upload.content_type.to_owned())];
        if let Some(length) = upload.length {
            fields.push(("x-upload-content-length", length.to_string()));
        }
        let extra = Extra { fields, ..Extra::default() };
        let limit = upload.until.min(sluice_core::now() + self.transfer().idle);
        // A session that nobody uses changes nothing, so opening one may be repeated.
        let answered = self.exchange(upload.begin, Retry::Safe, limit, &extra).await?;
        let nonsense = CallError::Nonsense { service: upload.begin.service };
        answered.response.fields.location.ok_or(nonsense)
    }

    /// Sends a chunk until Google has some of it; where the upload stands then, and what of the chunk is left.
    async fn sent(
        &self,
        session: &str,
        start: u64,
        bytes: Bytes,
        total: Option<u64>,
        until: Instant,
    ) -> Result<(Progress, Bytes), CallError> {
        let mut backoff = Backoff::new();
        let mut error = None;
        for round in 0..ROUNDS_MAX {
            let before = error.take();
            let told = match &before {
                None => self.put(session, start, bytes.clone(), total, until).await,
                Some(_) => self.asked(session, total, until).await,
            };
            match told {
                // A session without its upload: what the chunk came to is not known, and cannot be asked.
                Err(gone) if gone.is_not_found() => return Err(before.unwrap_or(gone)),
                Ok(Progress::At(has)) if has >= start && has - start <= bytes.len() as u64 => {
                    let taken = usize::try_from(has - start).unwrap_or(usize::MAX);
                    if taken > 0 {
                        return Ok((Progress::At(has), bytes.slice(taken..)));
                    }
                }
                Ok(Progress::Done(file)) => return Ok((Progress::Done(file), Bytes::new())),
                // It forgot what it had, or has what nobody sent.
                Ok(Progress::At(_)) => return Err(CallError::Nonsense { service: chunk_service() }),
                Err(failed) => {
                    let goes_on = failed.is_passing() || failed.outcome_unknown();
                    let waits = goes_on && round + 1 < ROUNDS_MAX && self.may_repeat(chunk_service());
                    if !waits || !backoff.wait(failed.retry_after(), until).await {
                        return Err(failed);
                    }
                    error = Some(failed);
                }
            }
        }
        Err(CallError::Nonsense { service: chunk_service() })
    }

    async fn put(
        &self,
        session: &str,
        start: u64,
        bytes: Bytes,
        total: Option<u64>,
        until: Instant,
    ) -> Result<Progress, CallError> {
        let range = content_range(start, bytes.len(), total);
        let extra = Extra {
            fields: vec![("content-range", range), ("content-length", bytes.len().to_string())],
            accepts: Some(RESUME_INCOMPLETE),
            ..Extra::default()
        };
        let limit = until.min(sluice_core::now() + self.transfer().idle);
        let call = chunk(session, bytes);
        let response = self.exchange(&call, Retry::Never, limit, &extra).await?.response;
        if response.status != RESUME_INCOMPLETE {
            return Ok(Progress::Done(response.body));
        }
        let has = received(response.fields.range.as_deref());
        has.map(Progress::At).ok_or(CallError::Nonsense { service: call.service })
    }

    /// How far it has come.
    async fn asked(&self, session: &str, total: Option<u64>, until: Instant) -> Result<Progress, CallError> {
        self.put(session, 0, Bytes::new(), total, until).await
    }
}

const fn chunk_service() -> sluice_protocols::plan::Service {
    sluice_protocols::plan::Service::Drive
}

/// The sessions of a core's uploads that may go on, by the identities of their requests. Lost with the process: then the
/// content is sent anew.
#[derive(Default)]
pub(crate) struct Sessions {
    kept: RefCell<HashMap<TaskId, (String, Instant), RandomState>>,
    order: RefCell<VecDeque<TaskId>>,
}

impl Sessions {
    /// The session of an upload.
    pub(crate) fn get(&self, upload: TaskId, now: Instant) -> Option<String> {
        let kept = self.kept.borrow();
        kept.get(&upload).filter(|(_, until)| *until > now).map(|(session, _)| session.clone())
    }

    /// Remembers a session.
    pub(crate) fn keep(&self, upload: TaskId, session: &str, until: Instant) {
        if self.kept.borrow_mut().insert(upload, (session.to_owned(), until)).is_none() {
            self.order.borrow_mut().push_back(upload);
        }
        while self.order.borrow().len() > SESSIONS_MAX {
            let Some(oldest) = self.order.borrow_mut().pop_front() else { break };
            self.kept.borrow_mut().remove(&oldest);
        }
    }

    /// The upload is over.
    pub(crate) fn forget(&self, upload: TaskId) {
        if self.kept.borrow_mut().remove(&upload).is_some() {
            self.order.borrow_mut().retain(|kept| *kept != upload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload(number: u128) -> TaskId {
        TaskId::from_bytes(number.to_be_bytes())
    }

    #[test]
    fn a_session_is_known_until_its_upload_or_its_time_is_over() {
        let sessions = Sessions::default();
        let (now, far) = (Instant::now(), Instant::now() + Duration::from_secs(9));
        assert_eq!(sessions.get(upload(1), now), None);
        sessions.keep(upload(1), "uri", far);
        sessions.keep(upload(1), "newer", far);
        assert_eq!(sessions.get(upload(1), now).as_deref(), Some("newer"));
        assert_eq!((sessions.get(upload(1), far), sessions.get(upload(2), now)), (None, None));
        sessions.forget(upload(1));
        assert_eq!(sessions.get(upload(1), now), None);
        assert!(sessions.order.borrow().is_empty());
    }

    #[test]
    fn remembered_sessions_are_bounded() {
        let sessions = Sessions::default();
        let far = Instant::now() + Duration::from_secs(9);
        for number in 0..=SESSIONS_MAX as u128 {
            sessions.keep(upload(number), "uri", far);
        }
        assert_eq!(sessions.kept.borrow().len(), SESSIONS_MAX);
        assert_eq!(sessions.order.borrow().len(), SESSIONS_MAX);
    }
}

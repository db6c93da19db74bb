//! An answer read as it comes.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;
use sluice_protocols::http::{RequestHead, ResponseHead};

use super::{Answer, ClientConnection, ClientError, ClientResponse};

/// An answer whose head is there and whose body comes piece by piece. What was not asked for yet is kept, at most
/// [`RESPONSE_BYTES_MAX`](super::RESPONSE_BYTES_MAX). Dropping it before its end cancels the request.
pub struct StreamedResponse<'a> {
    /// Status and fields.
    pub head: ResponseHead,
    answer: Answer<'a>,
    /// What was left when the stream ended.
    rest: Option<Bytes>,
}

impl ClientConnection {
    /// Sends a request and waits for the head of the answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn request_streamed(
        &self,
        head: &RequestHead,
        body: Bytes,
    ) -> Result<StreamedResponse<'_>, ClientError> {
        let mut answer = self.ask(head, body).await?;
        let (head, rest) = poll_fn(|cx| match answer.poll_stream(cx, |stream| stream.head.clone()) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(Begun::More(head))) => Poll::Ready(Ok((head, None))),
            Poll::Ready(Ok(Begun::Done(whole))) => Poll::Ready(Ok((whole.head, Some(whole.body)))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        })
        .await?;
        Ok(StreamedResponse { head, answer, rest })
    }
}

impl StreamedResponse<'_> {
    /// The next piece of the body; none at its end.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        if self.answer.is_done {
            return Ok(self.rest.take().filter(|rest| !rest.is_empty()));
        }
        let take = |stream: &mut super::Stream| {
            (!stream.body.is_empty()).then(|| Bytes::from(std::mem::take(&mut stream.body)))
        };
        match poll_fn(|cx| self.answer.poll_stream(cx, take)).await? {
            Begun::More(piece) => Ok(Some(piece)),
            Begun::Done(whole) => Ok(Some(whole.body).filter(|rest| !rest.is_empty())),
        }
    }
}

/// What there is of an answer.
enum Begun<T> {
    More(T),
    Done(Box<ClientResponse>),
}

impl Answer<'_> {
    /// Waits for the end, or before that for what `part` finds.
    fn poll_stream<T>(
        &mut self,
        cx: &Context<'_>,
        part: impl FnOnce(&mut super::Stream) -> Option<T>,
    ) -> Poll<Result<Begun<T>, ClientError>> {
        if let Poll::Ready(done) = self.poll(cx) {
            return Poll::Ready(done.map(|whole| Begun::Done(Box::new(whole))));
        }
        let found = self.connection.poll(|state| {
            let stream = state?.streams.get_mut(&self.id)?;
            stream.is_streamed = true;
            part(stream)
        });
        found.map_or(Poll::Pending, |part| Poll::Ready(Ok(Begun::More(part))))
    }
}

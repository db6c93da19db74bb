//! One TCP connection: its handshake, its requests, its end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::http::HeaderValue;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::graceful::GracefulConnection;
use sluice_core::CoreId;
use sluice_protocols::http::{RequestHead, Response};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio_rustls::server::TlsStream;

use super::closing::Closing;
use super::message::{self, BadHead};
use super::pieces::{self, AnswerBody, Streamed, Whole};
use super::stats::{Cut, Protocol, Refused};
use super::{HEAD_BYTES_MAX, Place, Server};
use crate::body::body as body_ends;
use crate::entrance::{Admission, Leash, Shed};
use crate::service::{self, Request};

/// Field lines that reach a core, which takes 128; a head of more ends the connection.
const HEAD_FIELDS_MAX: usize = 256;
/// Credit of an HTTP/2 stream and connection, as over QUIC.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// Of answers on their way in an HTTP/2 stream.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// Of answers that the kernel has and did not send yet, above which it takes no more; what is under way comes besides.
const UNSENT_BYTES: u32 = 128 << 10;
/// HTTP/2 streams reset before they were looked at, and by us over an error: beyond this the client attacks.
const RESETS_PENDING_MAX: usize = 20;
const RESETS_LOCAL_MAX: usize = 256;
/// How long a connection that winds up for want of requests may take, the idle timeout once more at most.
const WIND_UP_MAX: Duration = Duration::from_secs(5);
type Answer = hyper::Response<AnswerBody>;

/// What the tasks of a connection share.
pub(super) struct Conn {
    server: Arc<Server>,
    protocol: Protocol,
    peer: SocketAddr,
    alt_svc: Option<HeaderValue>,
    /// Requests between their head and their answer.
    pub(super) in_flight: AtomicUsize,
    /// When a request last began or ended, in milliseconds since the server began.
    last_event_ms: AtomicU64,
    /// Bytes of whole answers that hyper has not taken yet, which waits for the client.
    pub(super) unread_bytes: AtomicUsize,
    answered: AtomicUsize,
    abandoned: AtomicUsize,
    /// One more for each request the service has not let go of.
    leash: Leash,
    overload: Notify,
}

/// Serves one connection to its end.
pub(super) async fn serve(
    place: Place,
    stream: TcpStream,
    peer: SocketAddr,
    alt_svc: Option<HeaderValue>,
    mut winding: watch::Receiver<Option<Instant>>,
) {
    let server = &place.server;
    // Answers are written whole, so waiting for more would only delay them.
    let _ = stream.set_nodelay(true);
    // The kernel takes no more than it can soon send: what a client has taken shows in what the kernel asks for.
    let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES);
    let handshake = tokio::time::timeout(server.config.handshake_timeout, server.acceptor.accept(stream));
    let shaken = tokio::select! {
        // Nothing was asked yet.
        _ = winding.changed() => return,
        shaken = handshake => shaken,
    };
    let tls = match shaken {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            tracing::debug!(%error, %peer, "TLS handshake failed");
            return server.stats.note_cut(Cut::Handshake);
        }
        Err(_) => return server.stats.note_cut(Cut::HandshakeTimeout),
    };
    let protocol = protocol_of(&tls);
    let conn = Arc::new(Conn::new(Arc::clone(server), protocol, peer, alt_svc));
    let stats = server.stats.protocol(protocol);
    stats.connections_total.add(1);
    stats.connections.add(1);
    let cut = conn.run(tls, winding).await;
    stats.connections.sub(1);
    if let Some(cut) = cut {
        server.stats.note_cut(cut);
    }
}

fn protocol_of(tls: &TlsStream<TcpStream>) -> Protocol {
    match tls.get_ref().1.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        _ => Protocol::Http1,
    }
}

impl Conn {
    fn new(server: Arc<Server>, protocol: Protocol, peer: SocketAddr, alt_svc: Option<HeaderValue>) -> Self {
        let conn = Self {
            server,
            protocol,
            peer,
            alt_svc,
            in_flight: AtomicUsize::new(0),
            last_event_ms: AtomicU64::new(0),
            unread_bytes: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
            abandoned: AtomicUsize::new(0),
            leash: Leash::default(),
            overload: Notify::new(),
        };
        conn.touch();
        conn
    }

    async fn run(
        self: &Arc<Self>,
        tls: TlsStream<TcpStream>,
        winding: watch::Receiver<Option<Instant>>,
    ) -> Option<Cut> {
        if tls.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
            self.server.stats.resumed.add(1);
        }
        let io = TokioIo::new(Closing::new(tls));
        let requests = Requests(Arc::clone(self));
        match self.protocol {
            Protocol::Http1 => {
                let mut http = http1::Builder::new();
                // Time is kept below, for both protocols alike.
                http.header_read_timeout(None).max_buf_size(HEAD_BYTES_MAX).max_headers(HEAD_FIELDS_MAX);
                self.drive(http.serve_connection(io, requests), winding).await
            }
            Protocol::Http2 => {
                let mut http = http2::Builder::new(TokioExecutor::new());
                http.max_concurrent_streams(self.server.config.streams_max)
                    .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).expect("64 KiB"))
                    .initial_stream_window_size(STREAM_WINDOW_BYTES)
                    .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                    .max_send_buf_size(SEND_BUFFER_BYTES)
                    .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
                    .max_local_error_reset_streams(RESETS_LOCAL_MAX);
                self.drive(http.serve_connection(io, requests), winding).await
            }
        }
    }

    /// Drives the connection until it ends or must; the reason if we ended it or it broke.
    async fn drive<C>(&self, connection: C, mut winding: watch::Receiver<Option<Instant>>) -> Option<Cut>
    where
        C: GracefulConnection<Error = hyper::Error>,
    {
        let mut connection = pin!(connection);
        let mut end: Option<(Instant, Cut)> = None;
        let mut is_draining = false;
        loop {
            let wake = end.map_or_else(|| self.idle_at(), |(at, _)| at);
            tokio::select! {
                ended = connection.as_mut() => return self.ended(ended, end),
                () = self.overload.notified() => return Some(Cut::Load),
                () = tokio::time::sleep_until(wake.into()) => match end {
                    Some((_, cut)) => return Some(cut),
                    None if self.idle_at() <= Instant::now() => {
                        connection.as_mut().graceful_shutdown();
                        let time = self.server.config.idle_timeout.min(WIND_UP_MAX);
                        end = Some((Instant::now() + time, Cut::Idle));
                    }
                    None => {}
                },
                told = winding.changed(), if !is_draining => {
                    is_draining = true;
                    // Nobody left to tell means that the ingress was dropped.
                    let deadline = told.ok().and_then(|()| *winding.borrow()).unwrap_or_else(Instant::now);
                    connection.as_mut().graceful_shutdown();
                    end = Some((deadline, Cut::Drained));
                }
            }
        }
    }

    fn ended(&self, ended: Result<(), hyper::Error>, end: Option<(Instant, Cut)>) -> Option<Cut> {
        match (ended, end) {
            (_, Some((_, Cut::Idle))) => Some(Cut::Idle),
            // It ended as it was told to, or its client ended it.
            (Ok(()), _) | (Err(_), Some(_)) => None,
            (Err(error), None) => {
                tracing::debug!(%error, peer = %self.peer, "TCP connection broke");
                Some(Cut::Broken)
            }
        }
    }

    /// When the connection is idle, should nothing happen until then.
    fn idle_at(&self) -> Instant {
        let timeout = self.server.config.idle_timeout;
        if self.in_flight.load(Relaxed) > 0 {
            return Instant::now() + timeout;
        }
        let last = Duration::from_millis(self.last_event_ms.load(Relaxed));
        self.server.began + last + timeout
    }

    pub(super) fn touch(&self) {
        let now = self.server.began.elapsed().as_millis();
        self.last_event_ms.store(u64::try_from(now).unwrap_or(u64::MAX), Relaxed);
    }

    /// Whether the client gives up more than a client does: requests that the service still works on, or most of
    /// all it asked for.
    fn is_overload(&self) -> bool {
        let streams = self.server.config.streams_max as usize;
        let unanswered = Arc::strong_count(&self.leash) - 1;
        unanswered > 2 * streams || self.abandoned.load(Relaxed) > self.answered.load(Relaxed) + streams
    }

    async fn answer(self: Arc<Self>, request: hyper::Request<Incoming>) -> Answer {
        let mut turn = Turn::begin(Arc::clone(&self));
        if self.is_overload() {
            self.overload.notify_one();
            return self.whole(message::shed(Shed::Full), false);
        }
        let is_head = request.method() == hyper::Method::HEAD;
        let answered = self.ask(request).await;
        turn.is_answered = true;
        let answer = answered.unwrap_or_else(|shed| {
            let reason = if shed == Shed::Full { Refused::CoreFull } else { Refused::CoreClosed };
            self.server.stats.note_refused(reason);
            message::shed(shed).into()
        });
        let (head, body) = match answer {
            service::Answer::Whole(response) => return self.whole(response, is_head),
            service::Answer::Streamed(head, body) => (head, body),
        };
        let Some(answer) = message::streamed_head(&head, self.alt_svc.as_ref()) else {
            // A field that cannot be sent is a fault of ours, not of the client.
            tracing::error!(status = head.status, "answer with an invalid field");
            return self.whole(Response::new(500), is_head);
        };
        // RFC 9110 section 6.4.1: these have no content.
        let has_body = !is_head && !matches!(head.status, 204 | 304);
        let streamed = has_body.then(|| AnswerBody::Streamed(Streamed::new(body, Arc::clone(&self))));
        answer.map(|()| streamed.unwrap_or(AnswerBody::Left))
    }

    fn whole(self: &Arc<Self>, response: Response, is_head: bool) -> Answer {
        message::answer(response, is_head, self.alt_svc.as_ref()).map(|body| match Whole::new(body, self) {
            Some(whole) => AnswerBody::Whole(whole),
            None => {
                self.server.stats.over_bound.add(1);
                AnswerBody::OverBound
            }
        })
    }

    pub(super) fn note_broken(&self) {
        self.server.stats.broken.add(1);
    }

    pub(super) fn note_refused(&self, reason: Refused) {
        self.server.stats.note_refused(reason);
    }

    async fn ask(self: &Arc<Self>, request: hyper::Request<Incoming>) -> Result<service::Answer, Shed> {
        let entrance = &self.server.entrance;
        let (parts, body) = request.into_parts();
        let head = match message::request_head(&parts) {
            Ok(head) => head,
            Err(BadHead { status, detail, reason }) => {
                return self.refuse(reason, status, detail).await.map(Into::into);
            }
        };
        drop(parts);
        if !head.method().is_safe() && service::was_early(&head) {
            // As over HTTP/3, and where it matters most: these are the protocols that proxies speak to us.
            return self.refuse(Refused::TooEarly, 425, service::TOO_EARLY.to_owned()).await.map(Into::into);
        }
        let core = entrance.core_for(&head);
        if body.is_end_stream() {
            return entrance.ask(core, self.request(head, Bytes::new()), Arc::clone(&self.leash)).await;
        }
        match entrance.admit(core, head, self.peer.ip()).await? {
            Admission::Answer(response) => {
                self.server.stats.note_refused(Refused::Early);
                Ok(response.into())
            }
            Admission::Stream { head, bytes_max } => {
                let (writer, reader) = body_ends();
                let timeout = self.server.config.body_timeout;
                // It ends with the body, with its reader or with the connection.
                tokio::spawn(pieces::hand_on(Arc::clone(self), body, writer, bytes_max, timeout));
                let request = Request { stream: Some(reader), ..self.request(head, Bytes::new()) };
                entrance.call(core, request, Arc::clone(&self.leash)).await
            }
            Admission::Body { head, bytes_max } => self.read_and_call(core, head, body, bytes_max).await,
        }
    }

    async fn read_and_call(
        &self,
        core: CoreId,
        head: RequestHead,
        body: Incoming,
        bytes_max: usize,
    ) -> Result<service::Answer, Shed> {
        let timeout = self.server.config.body_timeout;
        let read = match tokio::time::timeout(timeout, read_body(body, bytes_max)).await {
            Ok(read) => read,
            Err(_) => {
                let detail = "the request did not arrive whole in time";
                return self.refuse(Refused::BodyTimeout, 408, detail.to_owned()).await.map(Into::into);
            }
        };
        match read {
            Ok(Some(body)) => {
                let request = self.request(head, body);
                self.server.entrance.call(core, request, Arc::clone(&self.leash)).await
            }
            Ok(None) => {
                let detail = "the body is longer than this resource takes";
                self.refuse(Refused::BodyTooLarge, 413, detail.to_owned()).await.map(Into::into)
            }
            Err(error) => {
                tracing::debug!(%error, peer = %self.peer, "request body broke off");
                let detail = "the body is malformed or broke off";
                self.refuse(Refused::Malformed, 400, detail.to_owned()).await.map(Into::into)
            }
        }
    }

    fn request(&self, head: RequestHead, body: Bytes) -> Request {
        Request { head, body, stream: None, peer: self.peer, early_data: false }
    }

    async fn refuse(&self, reason: Refused, status: u16, detail: String) -> Result<Response, Shed> {
        self.server.stats.note_refused(reason);
        self.server.entrance.refuse(status, detail).await
    }
}

/// The whole body, or none when it is too long. Trailers carry nothing we use.
async fn read_body(mut body: Incoming, bytes_max: usize) -> Result<Option<Bytes>, hyper::Error> {
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame?.into_data() else { continue };
        if first.len() + joined.len() + piece.len() > bytes_max {
            return Ok(None);
        }
        if joined.is_empty() && first.is_empty() {
            first = piece;
        } else {
            // The usual body is one piece and is not copied; `first` moves over with the second.
            joined.extend_from_slice(&std::mem::take(&mut first));
            joined.extend_from_slice(&piece);
        }
    }
    Ok(Some(if joined.is_empty() { first } else { joined.freeze() }))
}

/// A request between its head and its answer, on its connection's books.
struct Turn {
    conn: Arc<Conn>,
    is_answered: bool,
}

impl Turn {
    fn begin(conn: Arc<Conn>) -> Self {
        conn.in_flight.fetch_add(1, Relaxed);
        conn.server.stats.protocol(conn.protocol).requests.add(1);
        Self { conn, is_answered: false }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let conn = &self.conn;
        conn.touch();
        conn.in_flight.fetch_sub(1, Relaxed);
        if self.is_answered {
            conn.answered.fetch_add(1, Relaxed);
        } else {
            conn.abandoned.fetch_add(1, Relaxed);
            conn.server.stats.abandoned.add(1);
        }
    }
}

/// What hyper calls for each request.
struct Requests(Arc<Conn>);

impl hyper::service::Service<hyper::Request<Incoming>> for Requests {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        let conn = Arc::clone(&self.0);
        Box::pin(async move { Ok(conn.answer(request).await) })
    }
}

//! An HTTP/3 client on the reactor: for the command line and the load harness.
//!
//! It knows how connections are steered: given the number of cores, it picks its
//! first connection ID so that it lands on the core it wants.
//!
//! Invariants:
//! - One task drives every connection of a [`Client`]; calls only change state
//!   and wake it, so that requests made in one turn leave together.
//! - No borrow of the state is held across an `.await`.

#[cfg(test)]
mod sim;
mod streamed;
mod streams;
mod table;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hashbrown::HashMap;
use quinn_proto as qp;
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{Dir, StreamId, VarInt};
use rustls::client::Resumption;
use sluice_core::timer::Sleep;
use sluice_core::udp::UdpSocket;
use sluice_core::{CoreId, now, quiesce, sleep_until, spawn};
use sluice_protocols::h3::{
    self, ErrorCode, Event as FrameEvent, FIELD_SECTION_BYTES_MAX, FrameDecoder, H3Error, Role,
};
use sluice_protocols::http::{Limits, Method, RequestHead, ResponseHead};
use sluice_protocols::qpack;
use socket2::{Domain, Protocol, Socket, Type};

pub use self::streamed::StreamedResponse;
use self::streams::{News, ServerStreams};
use self::table::Table;
use crate::quic::driver::{AdmissionLimits, Driver};
use crate::quic::listen::{ListenerId, ask_for_buffers};
use crate::quic::outlet::Sockets;
use crate::quic::steering::{CoreCount, Port, initial_connection_id};
use crate::quic::transport;
use crate::tls::SharedKeys;
use crate::tls::handshake::{HandshakeFacts, ObservedClient};

/// Longest response body taken, in bytes.
pub const RESPONSE_BYTES_MAX: usize = 16 << 20;
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
const ARRIVALS_MAX: usize = 256;
const RETRY_DELAY: Duration = Duration::from_micros(100);
/// A server does not open bidirectional streams in HTTP/3 (RFC 9114 section
/// 6.1); the transport needs a number, and none is the right one.
const SERVER_STREAMS_MAX: u32 = 0;

type FastMap<K, V> = HashMap<K, V, foldhash::fast::FixedState>;

/// A request or connection failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The socket could not be made or used.
    #[error("cannot use a UDP socket: {0}")]
    Socket(Arc<io::Error>),
    /// The TLS settings do not fit QUIC.
    #[error("TLS settings lack the cipher that QUIC's first packets need")]
    Cipher,
    /// The connection could not be begun.
    #[error("cannot connect: {0}")]
    Connect(#[from] qp::ConnectError),
    /// The connection is gone.
    #[error("connection lost: {0}")]
    Lost(Arc<str>),
    /// The server ended the stream without an answer; with
    /// `H3_REQUEST_REJECTED` the request may be sent again.
    #[error("request refused by the server ({0})")]
    Reset(ErrorCode),
    /// The answer breaks the protocol.
    #[error("invalid answer: {0}")]
    Invalid(Arc<str>),
    /// The server did not take the request as early data; send it again, it was
    /// not looked at.
    #[error("the server did not take early data")]
    EarlyDataRejected,
    /// The server winds the connection up (GOAWAY) and did not look at the request;
    /// send it on another one.
    #[error("the server winds this connection up and did not take the request")]
    GoingAway,
    /// The answer is longer than [`RESPONSE_BYTES_MAX`].
    #[error("the answer is longer than {RESPONSE_BYTES_MAX} bytes")]
    TooLarge,
}

impl ClientError {
    /// Whether the server has certainly not looked at the request, so that it may
    /// be sent again, whatever it asks for.
    pub fn is_safe_to_repeat(&self) -> bool {
        matches!(
            self,
            Self::GoingAway | Self::EarlyDataRejected | Self::Reset(ErrorCode::H3_REQUEST_REJECTED)
        )
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct ClientResponse {
    /// Status and fields.
    pub head: ResponseHead,
    /// The body.
    pub body: Bytes,
}

struct Stream {
    decoder: FrameDecoder,
    head: Option<ResponseHead>,
    body: Vec<u8>,
    is_head_request: bool,
    unsent: Bytes,
    waker: Option<Waker>,
    /// Whoever waits is to be woken by each piece, not by the end alone.
    is_streamed: bool,
    done: Option<Result<ClientResponse, ClientError>>,
}

#[derive(Default)]
struct ConnectionState {
    is_connected: bool,
    is_resumed: bool,
    early_data_accepted: bool,
    /// Early data came to nothing: stream IDs begin again, and those of before
    /// mean nothing.
    has_begun_again: bool,
    lost: Option<ClientError>,
    waiting: Vec<Waker>,
    streams: FastMap<StreamId, Stream>,
    /// What the server says beside its answers.
    server: ServerStreams,
    /// The server has said that it ends the connection.
    is_going_away: bool,
    /// Where the client was told to use one.
    table: Option<Box<Table>>,
}

/// What is known of a connection that is gone.
struct Loss {
    error: ClientError,
    /// The server had said before that it would end it.
    was_announced: bool,
}

struct State {
    driver: Driver<ConnectionState>,
    /// Why each connection that went was lost, kept while its handle lives.
    lost: FastMap<(usize, u32), Loss>,
    waker: Option<Waker>,
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// How to connect.
#[derive(Debug, Clone, Copy)]
pub struct ConnectOptions {
    /// The core to land on, and how many the server has; any by default.
    pub core: Option<(CoreId, CoreCount)>,
    /// Whether to go on with an earlier session, if there is one; true by
    /// default. Without, the session that comes of it is not kept either.
    pub resume: bool,
    /// Whether requests may go out before the handshake ends (0-RTT), if there
    /// is a session that allows it; false by default. Such a request can be
    /// replayed by others: send safe ones only.
    pub early_data: bool,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self { core: None, resume: true, early_data: false }
    }
}

/// TLS for each way to connect. All but the first share their sessions.
#[derive(Clone)]
struct TlsChoices {
    full: Arc<ObservedClient>,
    resuming: Arc<ObservedClient>,
    early: Arc<ObservedClient>,
}

impl TlsChoices {
    fn new(tls: &rustls::ClientConfig) -> Result<Self, ClientError> {
        let choice = |change: &dyn Fn(&mut rustls::ClientConfig)| {
            let mut tls = tls.clone();
            change(&mut tls);
            let tls = QuicClientConfig::try_from(tls).map_err(|_| ClientError::Cipher)?;
            Ok::<_, ClientError>(Arc::new(ObservedClient(Arc::new(tls))))
        };
        Ok(Self {
            full: choice(&|tls| tls.resumption = Resumption::disabled())?,
            resuming: choice(&|tls| tls.enable_early_data = false)?,
            early: choice(&|tls| tls.enable_early_data = true)?,
        })
    }

    fn of(&self, options: &ConnectOptions) -> Arc<ObservedClient> {
        Arc::clone(match (options.resume, options.early_data) {
            (false, _) => &self.full,
            (true, false) => &self.resuming,
            (true, true) => &self.early,
        })
    }
}

/// Makes connections from one UDP socket on the current reactor.
#[derive(Clone)]
pub struct Client {
    state: Rc<RefCell<State>>,
    tls: TlsChoices,
    transport: Arc<qp::TransportConfig>,
    uses_table: bool,
}

impl Client {
    /// Binds a socket of `remote`'s family and starts the client's task. Clients
    /// that are given the same settings share the sessions they can resume.
    ///
    /// # Errors
    /// When the socket or the TLS settings cannot be used.
    ///
    /// # Panics
    /// Outside a reactor.
    pub fn start(
        tls: Arc<rustls::ClientConfig>,
        remote: SocketAddr,
        idle_timeout: Duration,
    ) -> Result<Self, ClientError> {
        let local: SocketAddr = match remote {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        Self::start_from(tls, local, idle_timeout)
    }

    /// Binds a socket to an address of this host, port 0 for any port, and starts
    /// the client's task. Connections go out from there.
    ///
    /// # Errors
    /// When the socket or the TLS settings cannot be used.
    ///
    /// # Panics
    /// Outside a reactor.
    pub fn start_from(
        tls: Arc<rustls::ClientConfig>,
        local: SocketAddr,
        idle_timeout: Duration,
    ) -> Result<Self, ClientError> {
        let tls = TlsChoices::new(&tls)?;
        let keys = SharedKeys::generate().map_err(|error| ClientError::Invalid(error.to_string().into()))?;
        let fd = bind(local).map_err(|error| ClientError::Socket(Arc::new(error)))?;
        let socket = UdpSocket::new(Arc::clone(&fd)).map_err(|error| ClientError::Socket(Arc::new(error)))?;
        let endpoint =
            qp::Endpoint::new(Arc::new(qp::EndpointConfig::new(keys.reset_key())), None, true, None);
        let limits = AdmissionLimits {
            connections_max: usize::MAX,
            handshakes_max: usize::MAX,
            handshakes_most: usize::MAX,
            per_network_max: None,
            handshake_timeout: None,
        };
        let state = Rc::new(RefCell::new(State {
            driver: Driver::new(endpoint, limits, now()),
            lost: FastMap::default(),
            waker: None,
        }));
        spawn(run(Rc::downgrade(&state), socket, fd));
        let transport = Arc::new(transport(SERVER_STREAMS_MAX, idle_timeout));
        Ok(Self { state, tls, transport, uses_table: false })
    }

    /// Whether further connections use QPACK's dynamic table where the server
    /// keeps one, so that fields which come again and again (a bearer token, the
    /// authority) are sent as a reference of a byte. Off at first: what is sent
    /// then depends on what was sent before.
    #[must_use]
    pub fn with_dynamic_table(mut self, uses_table: bool) -> Self {
        self.uses_table = uses_table;
        self
    }

    /// Connects; with `core`, to that one of the server's cores. Resumes a
    /// session if it can.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn connect(
        &self,
        remote: SocketAddr,
        server_name: &str,
        core: Option<(CoreId, CoreCount)>,
    ) -> Result<ClientConnection, ClientError> {
        self.connect_with(remote, server_name, &ConnectOptions { core, ..ConnectOptions::default() }).await
    }

    /// Connects as `options` say. Where early data is allowed and possible, the
    /// connection is there at once and the handshake goes on beside the first
    /// requests; see [`ClientConnection::established`].
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn connect_with(
        &self,
        remote: SocketAddr,
        server_name: &str,
        options: &ConnectOptions,
    ) -> Result<ClientConnection, ClientError> {
        let mut config = qp::ClientConfig::new(self.tls.of(options));
        config.transport_config(Arc::clone(&self.transport));
        if let Some((core, cores)) = options.core {
            config.initial_dst_cid_provider(Arc::new(move || initial_connection_id(core, cores)));
        }
        let connection = {
            let mut state = self.state.borrow_mut();
            let (index, generation) = state.driver.connect(now(), LISTENER, config, remote, server_name)?;
            if let Some(connection) = state.driver.get_mut(index) {
                connection.state.table = self.uses_table.then(|| Box::new(Table::new()));
            }
            state.wake();
            ClientConnection { state: Rc::clone(&self.state), index, generation }
        };
        let may_speak = connection.with_quic(|quic, _| quic.has_0rtt()).unwrap_or(false);
        if !may_speak {
            connection.established().await?;
        }
        Ok(connection)
    }
}

const LISTENER: ListenerId = ListenerId { address: 0, port: Port::Shared };

/// A connection to one server. Dropping it closes it.
pub struct ClientConnection {
    state: Rc<RefCell<State>>,
    index: usize,
    generation: u32,
}

impl ClientConnection {
    fn poll<R>(&self, f: impl FnOnce(Option<&mut ConnectionState>) -> R) -> R {
        let mut state = self.state.borrow_mut();
        f(state.driver.get_generation(self.index, self.generation).map(|c| &mut c.state))
    }

    fn with_quic<R>(&self, f: impl FnOnce(&qp::Connection, &ConnectionState) -> R) -> Option<R> {
        let mut state = self.state.borrow_mut();
        state.driver.get_generation(self.index, self.generation).map(|c| f(&c.quic, &c.state))
    }

    /// Waits for the end of the handshake.
    ///
    /// # Errors
    /// When it fails.
    pub async fn established(&self) -> Result<(), ClientError> {
        poll_fn(|cx| {
            self.poll(|state| match state {
                None => Poll::Ready(()),
                Some(state) if state.is_connected || state.lost.is_some() => Poll::Ready(()),
                Some(state) => {
                    state.waiting.push(cx.waker().clone());
                    Poll::Pending
                }
            })
        })
        .await;
        match self.state.borrow().lost.get(&(self.index, self.generation)) {
            Some(loss) => Err(loss.error.clone()),
            None => Ok(()),
        }
    }

    /// Whether the handshake went on with an earlier session; `None` before its
    /// end and when the connection is gone.
    pub fn was_resumed(&self) -> Option<bool> {
        self.with_quic(|_, state| state.is_connected.then_some(state.is_resumed))?
    }

    /// Whether the server took early data, false also when there was none; `None`
    /// before the end of the handshake and when the connection is gone.
    pub fn early_data_accepted(&self) -> Option<bool> {
        self.with_quic(|_, state| state.is_connected.then_some(state.early_data_accepted))?
    }

    /// Whether the server has said that it ends the connection: it takes no further
    /// requests, and those under way are answered or told
    /// [`GoingAway`](ClientError::GoingAway). True also when it is gone.
    pub fn is_going_away(&self) -> bool {
        self.with_quic(|_, state| state.is_going_away).unwrap_or(true)
    }

    fn lost(&self) -> ClientError {
        let gone = || ClientError::Lost("closed".into());
        let state = self.state.borrow();
        let loss = state.lost.get(&(self.index, self.generation));
        loss.map_or_else(gone, |loss| loss.error.clone())
    }

    /// What a request is told that never began.
    fn refusal(&self) -> ClientError {
        match self.state.borrow().lost.get(&(self.index, self.generation)) {
            Some(loss) if loss.was_announced => ClientError::GoingAway,
            _ => self.lost(),
        }
    }

    /// Sends a request and waits for the whole answer. Dropping the wait cancels
    /// the request. Waits first while the server allows no further stream.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn request(&self, head: &RequestHead, body: Bytes) -> Result<ClientResponse, ClientError> {
        let mut answer = self.ask(head, body).await?;
        poll_fn(|cx| answer.poll(cx)).await
    }

    /// Sends a request, as soon as the server allows a stream for it.
    async fn ask(&self, head: &RequestHead, body: Bytes) -> Result<Answer<'_>, ClientError> {
        let (id, is_second_try) = poll_fn(|cx| self.poll_open(cx, head, &body)).await?;
        Ok(Answer { connection: self, id, is_second_try, is_done: false })
    }

    fn poll_open(
        &self,
        cx: &Context<'_>,
        head: &RequestHead,
        body: &Bytes,
    ) -> Poll<Result<(StreamId, bool), ClientError>> {
        let mut state = self.state.borrow_mut();
        let Some(connection) = state.driver.get_generation(self.index, self.generation) else {
            drop(state);
            return Poll::Ready(Err(self.refusal()));
        };
        if connection.state.is_going_away {
            return Poll::Ready(Err(ClientError::GoingAway));
        }
        if let Some(error) = &connection.state.lost {
            return Poll::Ready(Err(error.clone()));
        }
        let Some(id) = connection.quic.streams().open(Dir::Bi) else {
            connection.state.waiting.push(cx.waker().clone());
            return Poll::Pending;
        };
        let message = encode(id, head, body, connection.state.table.as_deref_mut());
        if let Some(table) = &mut connection.state.table {
            table.flush(&mut connection.quic);
        }
        let unsent = write(&mut connection.quic, id, message);
        let stream = Stream {
            decoder: FrameDecoder::new(Role::Client, FIELD_SECTION_BYTES_MAX),
            head: None,
            body: Vec::new(),
            is_head_request: head.method() == Method::Head,
            unsent,
            waker: None,
            is_streamed: false,
            done: None,
        };
        connection.state.streams.insert(id, stream);
        let is_second_try = connection.state.has_begun_again;
        state.driver.mark(self.index);
        state.wake();
        Poll::Ready(Ok((id, is_second_try)))
    }

    /// Connection statistics as quinn-proto keeps them; `None` once it is gone.
    pub fn stats(&self) -> Option<qp::ConnectionStats> {
        let mut state = self.state.borrow_mut();
        state.driver.get_generation(self.index, self.generation).map(|c| c.quic.stats())
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        let mut state = self.state.borrow_mut();
        state.lost.remove(&(self.index, self.generation));
        if let Some(connection) = state.driver.get_generation(self.index, self.generation) {
            connection.quic.close(now(), code(ErrorCode::H3_NO_ERROR), Bytes::new());
            state.driver.mark(self.index);
            state.wake();
        }
    }
}

/// The wait for an answer; gives the stream up when dropped before its end.
struct Answer<'a> {
    connection: &'a ClientConnection,
    id: StreamId,
    /// Opened after early data came to nothing.
    is_second_try: bool,
    is_done: bool,
}

impl Answer<'_> {
    fn poll(&mut self, cx: &Context<'_>) -> Poll<Result<ClientResponse, ClientError>> {
        let found = self.connection.poll(|state| {
            let state = state?;
            if state.has_begun_again != self.is_second_try {
                self.is_done = true;
                return Some(Poll::Ready(Err(ClientError::EarlyDataRejected)));
            }
            let stream = state.streams.get_mut(&self.id)?;
            match stream.done.take() {
                Some(done) => Some(Poll::Ready(done)),
                None => {
                    stream.waker = Some(cx.waker().clone());
                    Some(Poll::Pending)
                }
            }
        });
        match found {
            Some(Poll::Pending) => Poll::Pending,
            Some(Poll::Ready(done)) if self.is_done => Poll::Ready(done),
            Some(Poll::Ready(done)) => {
                self.connection.poll(|state| state.map(|state| state.streams.remove(&self.id)));
                self.is_done = true;
                Poll::Ready(done)
            }
            None => {
                self.is_done = true;
                Poll::Ready(Err(self.connection.lost()))
            }
        }
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let (index, generation) = (self.connection.index, self.connection.generation);
        let mut state = self.connection.state.borrow_mut();
        let Some(connection) = state.driver.get_generation(index, generation) else { return };
        if connection.state.has_begun_again != self.is_second_try {
            return;
        }
        connection.state.streams.remove(&self.id);
        let cancelled = code(ErrorCode::H3_REQUEST_CANCELLED);
        let _ = connection.quic.send_stream(self.id).reset(cancelled);
        let _ = connection.quic.recv_stream(self.id).stop(cancelled);
        state.driver.mark(index);
        state.wake();
    }
}

fn code(code: ErrorCode) -> VarInt {
    VarInt::from_u64(code.value()).unwrap_or(VarInt::MAX)
}

fn bind(local: SocketAddr) -> io::Result<Arc<OwnedFd>> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    ask_for_buffers(&socket, RECEIVE_BUFFER_BYTES);
    socket.bind(&local.into())?;
    Ok(Arc::new(OwnedFd::from(socket)))
}

/// The frames of a request.
fn encode(id: StreamId, head: &RequestHead, body: &Bytes, table: Option<&mut Table>) -> Bytes {
    let mut message = Vec::with_capacity(256 + body.len());
    let Ok(()) = h3::write_headers(&mut message, |out| {
        match table {
            Some(table) => table.encode(out, id, head),
            None => qpack::encode_request(out, head),
        }
        Ok::<_, std::convert::Infallible>(())
    });
    if !body.is_empty() {
        h3::write_data_header(&mut message, body.len() as u64);
        message.extend_from_slice(body);
    }
    message.into()
}

/// Writes what fits and returns the rest; finishes the stream after the last.
fn write(quic: &mut qp::Connection, id: StreamId, mut bytes: Bytes) -> Bytes {
    let mut stream = quic.send_stream(id);
    while !bytes.is_empty() {
        // `write_chunks` cuts off what it took.
        match stream.write_chunks(std::slice::from_mut(&mut bytes)) {
            Ok(_) => {}
            Err(qp::WriteError::Blocked) => return bytes,
            // The server wants no more of it; its answer still counts.
            Err(_) => return Bytes::new(),
        }
    }
    let _ = stream.finish();
    bytes
}

async fn run(state: std::rc::Weak<RefCell<State>>, socket: UdpSocket, fd: Arc<OwnedFd>) {
    let mut sleep: Option<(Instant, Pin<Box<Sleep>>)> = None;
    let mut is_behind = false;
    loop {
        let alive = poll_fn(|cx| poll_wake(cx, &state, &socket, &mut sleep, is_behind)).await;
        if !alive {
            return;
        }
        let now = now();
        {
            let Some(state) = state.upgrade() else { return };
            let mut state = state.borrow_mut();
            for _ in 0..ARRIVALS_MAX {
                let arrived = socket.with_arrived(|meta, bytes| {
                    for datagram in bytes.chunks(meta.segment.max(1)) {
                        state.driver.receive(now, LISTENER, meta, datagram);
                    }
                });
                if arrived.is_none() {
                    break;
                }
            }
            state.driver.expire(now);
            take_events(&mut state, now);
        }
        quiesce().await;
        let Some(state) = state.upgrade() else { return };
        is_behind = state.borrow_mut().driver.transmit(now, &mut Sockets(|_| &fd));
    }
}

/// Resolves to whether anyone still needs the client.
fn poll_wake(
    cx: &mut Context<'_>,
    state: &std::rc::Weak<RefCell<State>>,
    socket: &UdpSocket,
    sleep: &mut Option<(Instant, Pin<Box<Sleep>>)>,
    is_behind: bool,
) -> Poll<bool> {
    let Some(state) = state.upgrade() else { return Poll::Ready(false) };
    let mut state = state.borrow_mut();
    let has_arrivals = socket.poll_arrived(cx).is_ready();
    if has_arrivals || (state.driver.has_dirty() && !is_behind) {
        return Poll::Ready(true);
    }
    let soon = is_behind.then(|| now() + RETRY_DELAY);
    let next = [state.driver.next_deadline(), soon].into_iter().flatten().min();
    match next {
        None => *sleep = None,
        Some(at) => {
            if sleep.as_ref().is_none_or(|(set, _)| *set != at) {
                *sleep = Some((at, Box::pin(sleep_until(at))));
            }
            if sleep.as_mut().is_some_and(|(_, sleep)| sleep.as_mut().poll(cx).is_ready()) {
                *sleep = None;
                return Poll::Ready(true);
            }
        }
    }
    state.waker = Some(cx.waker().clone());
    Poll::Pending
}

fn take_events(state: &mut State, now: Instant) {
    while let Some((index, event)) = state.driver.next_event() {
        let Some(connection) = state.driver.get_mut(index) else { continue };
        let (quic, inner) = (&mut connection.quic, &mut connection.state);
        match event {
            qp::Event::Connected => {
                if quic.has_0rtt() && !quic.accepted_0rtt() {
                    inner.has_begun_again = true;
                    inner.streams.drain().filter_map(|(_, stream)| stream.waker).for_each(Waker::wake);
                }
                open_control(quic);
                inner.is_connected = true;
                inner.is_resumed = HandshakeFacts::of(quic).is_resumed;
                inner.early_data_accepted = quic.accepted_0rtt();
                inner.waiting.drain(..).for_each(Waker::wake);
            }
            qp::Event::ConnectionLost { reason } => {
                let error = ClientError::Lost(reason.to_string().into());
                inner.lost = Some(error.clone());
                inner.waiting.drain(..).for_each(Waker::wake);
                for stream in inner.streams.values_mut() {
                    settle(stream, Err(error.clone()));
                }
                let key = (index, connection.generation);
                let was_announced = inner.is_going_away;
                state.lost.insert(key, Loss { error, was_announced });
            }
            qp::Event::Stream(event) => handle_stream(quic, inner, event, now),
            _ => {}
        }
    }
}

fn open_control(quic: &mut qp::Connection) {
    if let Some(id) = quic.streams().open(Dir::Uni) {
        let mut preamble = Vec::with_capacity(32);
        h3::write_control_preamble(&mut preamble, &h3::Settings::OURS);
        let _ = quic.send_stream(id).write(&preamble);
    }
}

fn handle_stream(
    quic: &mut qp::Connection,
    state: &mut ConnectionState,
    event: qp::StreamEvent,
    now: Instant,
) {
    match event {
        qp::StreamEvent::Opened { dir } => {
            while let Some(id) = quic.streams().accept(dir) {
                if dir == Dir::Bi {
                    let error = code(ErrorCode::H3_STREAM_CREATION_ERROR);
                    quic.close(now, error, Bytes::from_static(b"server-initiated request stream"));
                } else {
                    read_uni(quic, state, id, now);
                }
            }
        }
        qp::StreamEvent::Readable { id } if id.dir() == Dir::Uni => read_uni(quic, state, id, now),
        qp::StreamEvent::Readable { id } => {
            if let Some(stream) = state.streams.get_mut(&id) {
                read_response(quic, id, stream);
            }
        }
        qp::StreamEvent::Writable { id } => {
            if let Some(stream) = state.streams.get_mut(&id) {
                stream.unsent = write(quic, id, std::mem::take(&mut stream.unsent));
            } else if let Some(table) = &mut state.table {
                table.flush(quic);
            }
        }
        qp::StreamEvent::Available { dir: Dir::Bi } => state.waiting.drain(..).for_each(Waker::wake),
        _ => {}
    }
}

fn read_uni(quic: &mut qp::Connection, state: &mut ConnectionState, id: StreamId, now: Instant) {
    let ConnectionState { server, table, .. } = state;
    match server.read(quic, id, table.as_deref_mut()) {
        Ok(News { capacity_bytes, goaway }) => {
            if let (Some(table), Some(bytes)) = (table, capacity_bytes) {
                table.begin(quic, bytes);
            }
            if let Some(from) = goaway {
                go_away(quic, state, from);
            }
        }
        Err(error) => {
            let (error, reason) = match error {
                H3Error::Connection { code, reason } | H3Error::Stream { code, reason } => (code, reason),
                H3Error::HeadersTooLarge { .. } => (ErrorCode::H3_EXCESSIVE_LOAD, "too large"),
            };
            quic.close(now, code(error), Bytes::from_static(reason.as_bytes()));
        }
    }
}

/// RFC 9114 section 5.2: no further requests, and those on streams from `from` on
/// were not looked at.
fn go_away(quic: &mut qp::Connection, state: &mut ConnectionState, from: StreamId) {
    state.is_going_away = true;
    state.waiting.drain(..).for_each(Waker::wake);
    for (id, stream) in state.streams.iter_mut().filter(|(id, _)| **id >= from) {
        settle(stream, Err(ClientError::GoingAway));
        let cancelled = code(ErrorCode::H3_REQUEST_CANCELLED);
        let _ = quic.send_stream(*id).reset(cancelled);
        let _ = quic.recv_stream(*id).stop(cancelled);
    }
}

fn settle(stream: &mut Stream, result: Result<ClientResponse, ClientError>) {
    if stream.done.is_none() {
        stream.done = Some(result);
        if let Some(waker) = stream.waker.take() {
            waker.wake();
        }
    }
}

fn read_response(quic: &mut qp::Connection, id: StreamId, stream: &mut Stream) {
    let mut receive = quic.recv_stream(id);
    let Ok(mut chunks) = receive.read(true) else { return };
    let result = loop {
        match chunks.next(usize::MAX) {
            Ok(Some(chunk)) => {
                if let Err(error) = feed(stream, &chunk.bytes) {
                    break Some(Err(error));
                }
            }
            Ok(None) => break Some(finish(stream)),
            Err(qp::ReadError::Blocked) => break None,
            Err(qp::ReadError::Reset(error)) => {
                break Some(Err(ClientError::Reset(ErrorCode::from_value(error.into_inner()))));
            }
        }
    };
    let _ = chunks.finalize();
    if let Some(result) = result {
        settle(stream, result);
    } else if stream.is_streamed
        && let Some(waker) = stream.waker.take()
    {
        waker.wake();
    }
}

fn feed(stream: &mut Stream, bytes: &[u8]) -> Result<(), ClientError> {
    let mut chunk = bytes;
    loop {
        match stream.decoder.next(&mut chunk).map_err(invalid)? {
            None => return Ok(()),
            Some(FrameEvent::Headers(section)) => {
                let head = qpack::decode_response(section, &Limits::DEFAULT)
                    .map_err(|error| ClientError::Invalid(error.to_string().into()))?;
                if head.is_interim() {
                    stream.decoder.expect_another_head().map_err(invalid)?;
                    continue;
                }
                if let (Some(bytes), false) = (head.content_length(), stream.is_head_request) {
                    stream.decoder.expect_body(bytes);
                    stream.body.reserve(usize::try_from(bytes).unwrap_or(0).min(RESPONSE_BYTES_MAX));
                }
                stream.head = Some(head);
            }
            Some(FrameEvent::Data(piece)) => {
                if stream.body.len() + piece.len() > RESPONSE_BYTES_MAX {
                    return Err(ClientError::TooLarge);
                }
                stream.body.extend_from_slice(piece);
            }
            // Checked, since a second response in their place is malformed (RFC 9114 section 4.1), and let go of.
            Some(FrameEvent::Trailers(section)) => {
                qpack::decode_trailers(section, &Limits::DEFAULT)
                    .map_err(|error| ClientError::Invalid(error.to_string().into()))?;
            }
        }
    }
}

fn finish(stream: &mut Stream) -> Result<ClientResponse, ClientError> {
    stream.decoder.finish().map_err(invalid)?;
    let head = stream.head.take().ok_or_else(|| ClientError::Invalid("no final answer".into()))?;
    Ok(ClientResponse { head, body: std::mem::take(&mut stream.body).into() })
}

#[allow(clippy::needless_pass_by_value, reason = "shape wanted by map_err")]
fn invalid(error: H3Error) -> ClientError {
    ClientError::Invalid(error.to_string().into())
}

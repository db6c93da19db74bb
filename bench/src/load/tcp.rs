//! HTTP/2 and HTTP/1.1 over TLS, by hyper on a tokio runtime of one thread.

use std::cell::RefCell;
use std::future::Future;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::plan::{Plan, Protocol};
use super::transport::{Failure, Handshake, HeadParts, Reply, ReplyHead, Transport};

/// What HTTP/2 over TLS needs besides a connection.
pub(super) struct H2(Tls);

/// HTTP/1.1 carries one request at a time, so that it needs a connection for each.
pub(super) struct H1(Tls);

struct Tls {
    plan: Arc<Plan>,
    name: ServerName<'static>,
    full: TlsConnector,
    resuming: TlsConnector,
}

/// A head that can be sent again.
pub(super) struct Head {
    method: Method,
    uri: Uri,
    fields: HeaderMap,
}

impl Tls {
    fn new(plan: Arc<Plan>, tls: &ClientConfig, alpn: &[u8]) -> anyhow::Result<Self> {
        let mut resuming = tls.clone();
        resuming.alpn_protocols = vec![alpn.to_vec()];
        let mut full = resuming.clone();
        full.resumption = Resumption::disabled();
        let name = ServerName::try_from(plan.target.host.clone()).context("no name for TLS in --url")?;
        Ok(Self {
            plan,
            name,
            full: TlsConnector::from(Arc::new(full)),
            resuming: TlsConnector::from(Arc::new(resuming)),
        })
    }

    async fn connect(
        &self,
        wanted: Handshake,
    ) -> Result<(TokioIo<tokio_rustls::client::TlsStream<TcpStream>>, Handshake), Failure> {
        let tcp = TcpStream::connect(self.plan.target.address).await.map_err(|e| connect_failure(&e))?;
        tcp.set_nodelay(true).map_err(|error| connect_failure(&error))?;
        let connector = if wanted == Handshake::Full { &self.full } else { &self.resuming };
        let stream =
            connector.connect(self.name.clone(), tcp).await.map_err(|error| connect_failure(&error))?;
        let made = match stream.get_ref().1.handshake_kind() {
            Some(HandshakeKind::Resumed) => Handshake::Resumed,
            _ => Handshake::Full,
        };
        Ok((TokioIo::new(stream), made))
    }

    fn head(&self, parts: &HeadParts<'_>, protocol: Protocol) -> Result<Head, Failure> {
        let refused =
            |fault: &dyn std::fmt::Display| Failure::new("request", format!("cannot be sent: {fault}"));
        let authority = &self.plan.target.authority;
        let mut fields = HeaderMap::with_capacity(parts.headers.len() + 1);
        let uri = match protocol {
            Protocol::H1 => {
                let host = HeaderValue::from_str(authority).map_err(|fault| refused(&fault))?;
                fields.insert(http::header::HOST, host);
                Uri::try_from(parts.path)
            }
            Protocol::H2 | Protocol::H3 => Uri::try_from(format!("https://{authority}{}", parts.path)),
        };
        for (name, value) in parts.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|fault| refused(&fault))?;
            fields.append(name, HeaderValue::from_str(value).map_err(|fault| refused(&fault))?);
        }
        let method = Method::from_bytes(parts.method.as_bytes()).map_err(|fault| refused(&fault))?;
        Ok(Head { method, uri: uri.map_err(|fault| refused(&fault))?, fields })
    }
}

impl Head {
    fn request(&self, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.fields.clone();
        request
    }
}

/// Hyper's own tasks, on this thread.
#[derive(Clone)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

fn connect_failure(error: &std::io::Error) -> Failure {
    Failure::fatal("connect", format!("cannot connect: {error}"))
}

fn lost(error: &hyper::Error) -> Failure {
    let kind = if error.is_closed() || error.is_incomplete_message() { "lost" } else { "reset" };
    // Hyper does not tell a lost connection from a reset stream in all cases; a
    // connection given up too early costs a handshake, one kept too long every request.
    Failure::fatal(kind, error.to_string())
}

async fn collect(response: http::Response<hyper::body::Incoming>) -> Result<Reply, Failure> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| lost(&error))?.to_bytes();
    Ok(Reply { status: head.status.as_u16(), head: ReplyHead::Hyper(head.headers), body })
}

impl H2 {
    pub(super) fn new(plan: Arc<Plan>, tls: &ClientConfig) -> anyhow::Result<Self> {
        Ok(Self(Tls::new(plan, tls, b"h2")?))
    }
}

impl Transport for H2 {
    type Connection = http2::SendRequest<Full<Bytes>>;
    type Head = Head;

    const IS_EXCLUSIVE: bool = false;

    fn head(&self, parts: &HeadParts<'_>) -> Result<Head, Failure> {
        self.0.head(parts, Protocol::H2)
    }

    async fn connect(&self, wanted: Handshake, _: usize) -> Result<(Self::Connection, Handshake), Failure> {
        let (io, made) = self.0.connect(wanted).await?;
        let (sender, connection) = http2::handshake(Local, io).await.map_err(|error| lost(&error))?;
        // How it ends shows in the requests.
        tokio::task::spawn_local(async move { drop(connection.await) });
        Ok((sender, made))
    }

    fn settled(&self, _: &Self::Connection, begun: Handshake) -> Handshake {
        begun
    }

    async fn request(
        &self,
        connection: &Self::Connection,
        head: &Head,
        body: Bytes,
    ) -> Result<Reply, Failure> {
        let mut sender = connection.clone();
        sender.ready().await.map_err(|error| lost(&error))?;
        let response = sender.send_request(head.request(body)).await.map_err(|error| lost(&error))?;
        collect(response).await
    }
}

impl H1 {
    pub(super) fn new(plan: Arc<Plan>, tls: &ClientConfig) -> anyhow::Result<Self> {
        Ok(Self(Tls::new(plan, tls, b"http/1.1")?))
    }
}

impl Transport for H1 {
    /// Taken while a request is under way; not put back when that is given up, since
    /// the answer may still come.
    type Connection = RefCell<Option<http1::SendRequest<Full<Bytes>>>>;
    type Head = Head;

    const IS_EXCLUSIVE: bool = true;

    fn head(&self, parts: &HeadParts<'_>) -> Result<Head, Failure> {
        self.0.head(parts, Protocol::H1)
    }

    async fn connect(&self, wanted: Handshake, _: usize) -> Result<(Self::Connection, Handshake), Failure> {
        let (io, made) = self.0.connect(wanted).await?;
        let (sender, connection) = http1::handshake(io).await.map_err(|error| lost(&error))?;
        tokio::task::spawn_local(async move { drop(connection.await) });
        Ok((RefCell::new(Some(sender)), made))
    }

    fn settled(&self, _: &Self::Connection, begun: Handshake) -> Handshake {
        begun
    }

    async fn request(
        &self,
        connection: &Self::Connection,
        head: &Head,
        body: Bytes,
    ) -> Result<Reply, Failure> {
        let taken = connection.borrow_mut().take();
        let mut sender = taken.ok_or_else(|| Failure::fatal("lost", "the connection is in use"))?;
        sender.ready().await.map_err(|error| lost(&error))?;
        let response = sender.send_request(head.request(body)).await.map_err(|error| lost(&error))?;
        let reply = collect(response).await?;
        *connection.borrow_mut() = Some(sender);
        Ok(reply)
    }
}

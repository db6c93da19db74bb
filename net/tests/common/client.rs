//! An HTTP/3 client made of `quinn` and `h3`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use h3::client::{RequestStream, SendRequest};
use h3::error::{ConnectionError, StreamError};
use h3_quinn::OpenStreams;
use http::{HeaderMap, Method, Request};
use quinn::crypto::rustls::QuicClientConfig;
use quinn_proto::ConnectionId;
use serde_json::Value;
use sluice_core::CoreId;
use sluice_net::quic::steering::initial_connection_id;
use sluice_net::tls::{Trust, client_crypto};
use tokio::task::JoinHandle;

use super::server::Server;
use super::{digest, guard};

pub(crate) type Stream = RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

pub(crate) struct Client {
    pub(crate) endpoint: quinn::Endpoint,
    pub(crate) quic: quinn::Connection,
    pub(crate) driver: JoinHandle<ConnectionError>,
    send: SendRequest<OpenStreams, Bytes>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.status, 200);
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn core(&self) -> usize {
        usize::try_from(self.json()["core"].as_u64().unwrap()).unwrap()
    }

    /// Asserts that it echoes a request with this body.
    pub(crate) fn assert_echoes(&self, body: &[u8]) {
        let json = self.json();
        assert_eq!(json["length"], body.len());
        assert_eq!(json["digest"], digest(body));
    }
}

pub(crate) fn tls() -> Arc<QuicClientConfig> {
    Arc::new(QuicClientConfig::try_from(client_crypto(Trust::AnyServer).unwrap()).unwrap())
}

pub(crate) fn config() -> quinn::ClientConfig {
    quinn::ClientConfig::new(tls())
}

/// Picks its first destination ID for a core.
pub(crate) fn config_for(server: &Server, core: usize) -> quinn::ClientConfig {
    let (core, cores) = (CoreId::new(u16::try_from(core).unwrap()), server.cores);
    let mut config = config();
    config.initial_dst_cid_provider(Arc::new(move || -> ConnectionId { initial_connection_id(core, cores) }));
    config
}

pub(crate) fn endpoint(remote: SocketAddr) -> quinn::Endpoint {
    let local: SocketAddr = match remote {
        SocketAddr::V4(_) => (Ipv4Addr::LOCALHOST, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::LOCALHOST, 0).into(),
    };
    quinn::Endpoint::client(local).unwrap()
}

impl Client {
    pub(crate) async fn connect(remote: SocketAddr) -> Self {
        Self::connect_with(config(), remote).await.unwrap()
    }

    pub(crate) async fn connect_with(
        config: quinn::ClientConfig,
        remote: SocketAddr,
    ) -> Result<Self, quinn::ConnectionError> {
        let endpoint = endpoint(remote);
        let quic = guard(endpoint.connect_with(config, remote, "localhost").unwrap()).await?;
        Ok(Self::over(endpoint, quic).await)
    }

    /// HTTP/3 over a connection that stands.
    pub(crate) async fn over(endpoint: quinn::Endpoint, quic: quinn::Connection) -> Self {
        let (mut h3, send) = guard(h3::client::new(h3_quinn::Connection::new(quic.clone()))).await.unwrap();
        let driver = tokio::spawn(async move { h3.wait_idle().await });
        Self { endpoint, quic, driver, send }
    }

    /// Sends the head of a request.
    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        length: Option<usize>,
    ) -> Result<Stream, StreamError> {
        let mut request = Request::builder().method(method).uri(format!("https://localhost{path}"));
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        guard(self.send.clone().send_request(request.body(()).unwrap())).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, b"").await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &[u8]) -> Answer {
        self.request(Method::POST, path, body).await.unwrap()
    }

    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        body: &[u8],
    ) -> Result<Answer, StreamError> {
        let mut stream = self.open(method, path, None).await?;
        if !body.is_empty() {
            guard(stream.send_data(Bytes::copy_from_slice(body))).await?;
        }
        guard(stream.finish()).await?;
        receive(&mut stream).await
    }

    /// Closes at once, and waits until the server has been told.
    pub(crate) async fn close(self) {
        self.quic.close(0x100u32.into(), b"done");
        guard(self.endpoint.wait_idle()).await;
    }
}

/// The whole answer on a stream.
pub(crate) async fn receive(stream: &mut Stream) -> Result<Answer, StreamError> {
    let head = guard(stream.recv_response()).await?;
    let mut body = vec![];
    while let Some(mut piece) = guard(stream.recv_data()).await? {
        while piece.has_remaining() {
            body.extend_from_slice(piece.chunk());
            piece.advance(piece.chunk().len());
        }
    }
    Ok(Answer { status: head.status().as_u16(), headers: head.headers().clone(), body })
}

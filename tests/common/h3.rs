//! An HTTP/3 client on the `h3` and `quinn` crates: a client that shares nothing with the gateway's own stack.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use bytes::{Buf, Bytes};
use h3::client::{RequestStream, SendRequest};
use h3::error::{Code, StreamError};
use h3_quinn::{BidiStream, Connection as H3Connection, OpenStreams};
use http::{HeaderMap, Request, StatusCode};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig as QuinnConfig, Connection, Endpoint, VarInt};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;

/// The name in the development certificate.
const SERVER_NAME: &str = "localhost";

/// A QUIC endpoint that trusts one authority. Must be made inside a tokio runtime.
pub struct Client {
    pub endpoint: Endpoint,
}

impl Client {
    /// Trusts the authority in this PEM file and no other.
    pub fn trusting(ca: &Path) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca)? {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let mut endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        endpoint.set_default_client_config(QuinnConfig::new(Arc::new(QuicClientConfig::try_from(tls)?)));
        Ok(Self { endpoint })
    }

    /// Connects.
    pub async fn connect(&self, to: SocketAddr) -> anyhow::Result<Http> {
        Http::over(self.endpoint.connect(to, SERVER_NAME)?.await?).await
    }
}

/// A connection; clones share it.
#[derive(Clone)]
pub struct Http {
    pub quic: Connection,
    requests: SendRequest<OpenStreams, Bytes>,
}

/// An answer of server-sent events, as they come.
pub struct Body {
    stream: RequestStream<BidiStream<Bytes>, Bytes>,
    text: String,
}

impl Body {
    /// The next event's id (empty when it has none), name and data; `None` at the end of the stream or the connection.
    pub async fn event(&mut self) -> Option<(String, String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| {
                    let line = event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                    line.unwrap_or_default().to_owned()
                };
                if event.starts_with(':') {
                    continue;
                }
                let data = serde_json::from_str(&field("data")).expect("JSON");
                return Some((field("id"), field("event"), data));
            }
            let mut piece = self.stream.recv_data().await.ok()??;
            let piece = piece.copy_to_bytes(piece.remaining());
            self.text.push_str(std::str::from_utf8(&piece).expect("events are ASCII here"));
        }
    }
}

impl Body {
    /// All that is still to come, as it stands there. The body must come to its end.
    pub async fn rest(mut self) -> String {
        while let Some(mut piece) = self.stream.recv_data().await.expect("a whole body") {
            let piece = piece.copy_to_bytes(piece.remaining());
            self.text.push_str(std::str::from_utf8(&piece).expect("events are ASCII here"));
        }
        self.text
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub fields: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{}: {:?}", self.status, self.body))
    }
}

impl Http {
    /// HTTP/3 over a connection that stands.
    pub async fn over(quic: Connection) -> anyhow::Result<Self> {
        let (mut driver, requests) = h3::client::new(H3Connection::new(quic.clone())).await?;
        tokio::spawn(async move { poll_fn(|context| driver.poll_close(context)).await });
        Ok(Self { quic, requests })
    }

    /// Sends a request and reads its whole answer.
    pub async fn send(&self, request: Request<()>, body: Bytes) -> anyhow::Result<Answer> {
        let mut stream = self.requests.clone().send_request(request).await?;
        let sent = async {
            if !body.is_empty() {
                stream.send_data(body).await?;
            }
            stream.finish().await
        };
        match sent.await {
            // RFC 9114 section 4.1: the server has answered without the rest of the request.
            Err(StreamError::RemoteTerminate { code, .. }) if code == Code::H3_NO_ERROR => {}
            sent => sent?,
        }
        let response = stream.recv_response().await?;
        let mut whole = Vec::new();
        while let Some(mut part) = stream.recv_data().await? {
            whole.extend_from_slice(&part.copy_to_bytes(part.remaining()));
        }
        Ok(Answer { status: response.status(), fields: response.headers().clone(), body: whole.into() })
    }

    /// Sends a request and gives the head of its answer, and its body as it comes.
    pub async fn open(&self, request: Request<()>, body: Bytes) -> anyhow::Result<(HeaderMap, Body)> {
        let mut stream = self.requests.clone().send_request(request).await?;
        if !body.is_empty() {
            stream.send_data(body).await?;
        }
        stream.finish().await?;
        let response = stream.recv_response().await?;
        Ok((response.headers().clone(), Body { stream, text: String::new() }))
    }

    /// `GET`, with an API key.
    pub async fn get(&self, path: &str, key: &str) -> anyhow::Result<Answer> {
        let request = Request::get(url(path)).header("authorization", format!("Bearer {key}")).body(())?;
        self.send(request, Bytes::new()).await
    }

    /// `GET` that may wait for the end of a task, with an API key.
    pub async fn get_waiting(&self, path: &str, key: &str, wait_s: u32) -> anyhow::Result<Answer> {
        let request = Request::get(url(path))
            .header("authorization", format!("Bearer {key}"))
            .header("prefer", format!("wait={wait_s}"));
        self.send(request.body(())?, Bytes::new()).await
    }

    /// `POST` of JSON, with an API key.
    pub async fn post(&self, path: &str, key: &str, body: &Value) -> anyhow::Result<Answer> {
        let request = Request::post(url(path))
            .header("authorization", format!("Bearer {key}"))
            .header("content-type", "application/json");
        self.send(request.body(())?, serde_json::to_vec(body)?.into()).await
    }

    /// Gives the connection up; what is under way on it fails.
    pub fn close(&self) {
        self.quic.close(VarInt::from_u32(0x100), b"");
    }
}

fn url(path: &str) -> String {
    format!("https://{SERVER_NAME}{path}")
}

//! Clients: hyper's, and one that writes bytes.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper::http::{HeaderMap, Request, request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use serde_json::Value;
use sluice_net::tls::{Trust, client_crypto};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::server::guard;

/// A TLS connection that offers these protocols.
pub(crate) async fn tls(address: SocketAddr, alpn: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
    let mut config = (*client_crypto(Trust::AnyServer).unwrap()).clone();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let stream = guard(TcpStream::connect(address)).await?;
    let name = ServerName::try_from("localhost").unwrap();
    guard(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// hyper's client, with one connection.
pub(crate) struct Client(Sender);

impl Client {
    pub(crate) async fn http1(address: SocketAddr) -> Self {
        let io = TokioIo::new(tls(address, &[b"http/1.1"]).await.unwrap());
        let (sender, connection) = guard(http1::handshake(io)).await.unwrap();
        tokio::spawn(connection);
        Self(Sender::Http1(sender))
    }

    pub(crate) async fn http2(address: SocketAddr) -> Self {
        let io = TokioIo::new(tls(address, &[b"h2"]).await.unwrap());
        let (sender, connection) = guard(http2::handshake(TokioExecutor::new(), io)).await.unwrap();
        tokio::spawn(connection);
        Self(Sender::Http2(sender))
    }

    /// One of each protocol.
    pub(crate) async fn both(address: SocketAddr) -> [Self; 2] {
        [Self::http1(address).await, Self::http2(address).await]
    }

    pub(crate) async fn send(
        &mut self,
        builder: request::Builder,
        body: impl Into<Bytes>,
    ) -> Result<Answer, hyper::Error> {
        let body = Full::new(body.into());
        let response = match &mut self.0 {
            Sender::Http1(sender) => {
                guard(sender.ready()).await?;
                let request = builder.header("host", "localhost").body(body).unwrap();
                guard(sender.send_request(request)).await?
            }
            Sender::Http2(sender) => {
                guard(sender.ready()).await?;
                let mut request = builder.body(body).unwrap();
                let target = request.uri().to_string();
                *request.uri_mut() = format!("https://localhost{target}").parse().unwrap();
                guard(sender.send_request(request)).await?
            }
        };
        let (head, body) = response.into_parts();
        let body = guard(body.collect()).await?.to_bytes();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(Request::get(path), "").await.unwrap()
    }

    pub(crate) async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(Request::post(path), body).await.unwrap()
    }

    /// Whether the server has ended the connection.
    pub(crate) fn is_closed(&self) -> bool {
        match &self.0 {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }
}

/// Writes what it is told to.
pub(crate) struct Raw(pub(crate) TlsStream<TcpStream>);

impl Raw {
    pub(crate) async fn http1(address: SocketAddr) -> Self {
        Self(tls(address, &[b"http/1.1"]).await.unwrap())
    }

    /// With preface and SETTINGS sent.
    pub(crate) async fn http2(address: SocketAddr) -> Self {
        let mut raw = Self(tls(address, &[b"h2"]).await.unwrap());
        raw.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        raw.write(&frame(SETTINGS, 0, 0, &[])).await;
        raw
    }

    /// The server may have closed by now, which shows when the answer is read.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let _ = guard(self.0.write_all(bytes)).await;
        let _ = guard(self.0.flush()).await;
    }

    /// Everything up to the server's end of the connection. It must close in good order.
    pub(crate) async fn read_to_end(&mut self) -> Vec<u8> {
        let mut all = vec![];
        guard(self.0.read_to_end(&mut all)).await.expect("closed in good order");
        all
    }

    /// Everything up to the end, in order or not.
    pub(crate) async fn read_until_gone(&mut self) -> Vec<u8> {
        let mut all = vec![];
        let _ = guard(self.0.read_to_end(&mut all)).await;
        all
    }

    /// One answer of HTTP/1.1 with a `content-length`: its head and body.
    pub(crate) async fn answer(&mut self) -> (String, String) {
        let mut head = vec![];
        while !head.ends_with(b"\r\n\r\n") {
            head.push(guard(self.0.read_u8()).await.unwrap_or_else(|error| {
                panic!("{error} after {:?}", String::from_utf8_lossy(&head));
            }));
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        guard(self.0.read_exact(&mut body)).await.unwrap();
        (head, String::from_utf8(body).unwrap())
    }

    /// Sends bytes and reads one answer to them: status, head, body.
    pub(crate) async fn ask(&mut self, bytes: &str) -> (u16, String, String) {
        self.write(bytes.as_bytes()).await;
        let (head, body) = self.answer().await;
        (status(&head), head, body)
    }

    /// The next frame of HTTP/2: type, flags, stream, payload. None at the end.
    pub(crate) async fn frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        guard(self.0.read_exact(&mut head)).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        guard(self.0.read_exact(&mut payload)).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        Some((head[3], head[4], stream, payload))
    }

    /// The next frame of this type.
    pub(crate) async fn frame_of(&mut self, kind: u8) -> (u8, u32, Vec<u8>) {
        loop {
            let (found, flags, stream, payload) = self.frame().await.expect("not the end");
            if found == kind {
                return (flags, stream, payload);
            }
        }
    }
}

pub(crate) fn status(head: &str) -> u16 {
    head.split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or_else(|| panic!("no status in {head:?}"))
}

// ---- HTTP/2 by hand (RFC 9113) ----

pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const CANCEL: [u8; 4] = [0, 0, 0, 8];

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Field lines as literals that are not indexed (RFC 7541 section 6.2.2), each part below 127 bytes.
pub(crate) fn fields(lines: &[(&str, &str)]) -> Vec<u8> {
    let short = |text: &str| u8::try_from(text.len()).ok().filter(|len| *len < 127).unwrap();
    let line = |(name, value): &(&str, &str)| {
        [&[0, short(name)], name.as_bytes(), &[short(value)], value.as_bytes()].concat()
    };
    lines.iter().flat_map(line).collect()
}

/// A whole request without a body.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    let lines = [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", path)];
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields(&lines))
}

/// The code of a GOAWAY frame.
pub(crate) fn code(goaway: &[u8]) -> u32 {
    u32::from_be_bytes(goaway[4..8].try_into().unwrap())
}

//! HTTP/3 written by hand over `quinn`, so that it can be wrong.

use std::net::SocketAddr;

use quinn::{Connection, RecvStream, SendStream, VarInt};
use sluice_protocols::qpack::{self, Limits};

use super::Gateway;
use super::h3::Client;
use super::scene::guard;

/// Frame and stream types (RFC 9114 sections 6.2 and 7.2).
pub const DATA: u64 = 0x00;
pub const HEADERS: u64 = 0x01;
pub const SETTINGS: u64 = 0x04;
pub const CONTROL: u64 = 0x00;

/// A variable-length integer (RFC 9000 section 16), in four or eight bytes.
pub fn varint(value: u64) -> Vec<u8> {
    match u32::try_from(value) {
        Ok(value) if value < 1 << 30 => (value | 0x8000_0000).to_be_bytes().to_vec(),
        _ => (value | 0xc000_0000_0000_0000).to_be_bytes().to_vec(),
    }
}

/// A frame.
pub fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    [&varint(kind)[..], &varint(payload.len() as u64), payload].concat()
}

/// An integer of RFC 7541 section 5.1 below the upper bits of `first`.
fn prefixed(first: u8, bits: u32, value: usize) -> Vec<u8> {
    let full = (1 << bits) - 1;
    let byte = |value: usize| u8::try_from(value).expect("one byte");
    if value < full {
        return vec![first | byte(value)];
    }
    let mut out = vec![first | byte(full)];
    let mut rest = value - full;
    while rest >= 128 {
        out.push(byte(rest % 128) | 0x80);
        rest /= 128;
    }
    out.push(byte(rest));
    out
}

/// A HEADERS frame of literals (RFC 9204 section 4.5.6), nothing compressed.
pub fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut section = vec![0, 0];
    for (name, value) in fields {
        section.extend(prefixed(0x20, 3, name.len()));
        section.extend(name.as_bytes());
        section.extend(prefixed(0x00, 7, value.len()));
        section.extend(value.as_bytes());
    }
    frame(HEADERS, &section)
}

/// The head of a good request with these fields added.
pub fn head(method: &str, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)];
    headers(&[&pseudo[..], fields].concat())
}

/// A control stream's type and a good SETTINGS frame.
pub fn control() -> Vec<u8> {
    [varint(CONTROL), frame(SETTINGS, &[])].concat()
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// Status and body.
    Answer(u16, Vec<u8>),
    /// The server reset the stream with this code.
    Reset(u64),
    /// The server closed the connection with this code.
    Closed(u64),
}

/// A QUIC connection with ALPN `h3`, on which nothing has been said yet.
pub struct Raw {
    _client: Client,
    pub quic: Connection,
}

impl Raw {
    pub async fn connect(gateway: &Gateway) -> Self {
        Self::connect_to(gateway, gateway.address).await
    }

    pub async fn connect_to(gateway: &Gateway, to: SocketAddr) -> Self {
        let client = Client::trusting(&gateway.ca()).expect("a client");
        let connecting = client.endpoint.connect(to, "localhost").expect("valid");
        let quic = guard(connecting).await.expect("a connection");
        Self { _client: client, quic }
    }

    /// Opens a unidirectional stream and writes to it.
    pub async fn uni(&self, bytes: &[u8]) -> SendStream {
        let mut stream = guard(self.quic.open_uni()).await.expect("the connection stands");
        // The server may stop it in the middle.
        let _ = guard(stream.write_all(bytes)).await;
        stream
    }

    /// Sends these bytes as a whole request.
    pub async fn request(&self, bytes: &[u8]) -> End {
        let (mut send, receive) = guard(self.quic.open_bi()).await.expect("the connection stands");
        let _ = guard(send.write_all(bytes)).await;
        let _ = send.finish();
        self.end(receive).await
    }

    async fn end(&self, mut stream: RecvStream) -> End {
        match guard(stream.read_to_end(1 << 20)).await {
            Ok(bytes) => {
                let frames = frames(&bytes);
                let section = &frames.iter().find(|(kind, _)| *kind == HEADERS).expect("a head").1;
                let head = qpack::decode_response(section, &Limits::DEFAULT).expect("a good head");
                let body = frames.iter().filter(|(kind, _)| *kind == DATA).flat_map(|(_, part)| part.clone());
                End::Answer(head.status(), body.collect())
            }
            Err(quinn::ReadToEndError::Read(quinn::ReadError::Reset(code))) => {
                End::Reset(VarInt::into_inner(code))
            }
            Err(_) => self.closed().await,
        }
    }

    /// Waits until the server closes the connection.
    pub async fn closed(&self) -> End {
        match guard(self.quic.closed()).await {
            quinn::ConnectionError::ApplicationClosed(close) => End::Closed(close.error_code.into_inner()),
            other => panic!("not closed by HTTP/3: {other}"),
        }
    }
}

fn frames(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn integer(bytes: &mut &[u8]) -> u64 {
        let (head, rest) = bytes.split_at(1 << (bytes[0] >> 6));
        *bytes = rest;
        head[1..].iter().fold(u64::from(head[0] & 0x3f), |value, byte| value << 8 | u64::from(*byte))
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let kind = integer(&mut bytes);
        let length = usize::try_from(integer(&mut bytes)).expect("a length");
        let (payload, rest) = bytes.split_at(length);
        bytes = rest;
        found.push((kind, payload.to_vec()));
    }
    found
}

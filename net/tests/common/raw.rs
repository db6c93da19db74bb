//! HTTP/3 written by hand, byte by byte, so that it can be wrong.

use std::net::SocketAddr;

use quinn::{RecvStream, SendStream, VarInt};
use sluice_protocols::qpack::{self, Limits};

use super::client::{config, endpoint};
use super::guard;

pub(crate) const CONTROL: u64 = 0x00;
pub(crate) const DATA: u64 = 0x00;
pub(crate) const HEADERS: u64 = 0x01;
pub(crate) const SETTINGS: u64 = 0x04;

pub(crate) fn varint(value: u64) -> Vec<u8> {
    match value {
        0..=0x3f => vec![u8::try_from(value).unwrap()],
        0x40..=0x3fff => (u16::try_from(value).unwrap() | 0x4000).to_be_bytes().to_vec(),
        0x4000..=0x3fff_ffff => (u32::try_from(value).unwrap() | 0x8000_0000).to_be_bytes().to_vec(),
        _ => (value | 0xc000_0000_0000_0000).to_be_bytes().to_vec(),
    }
}

pub(crate) fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    [&varint(kind)[..], &varint(payload.len() as u64), payload].concat()
}

/// An integer of RFC 7541 section 5.1 under `first`'s upper bits.
fn prefixed(first: u8, bits: u32, value: usize) -> Vec<u8> {
    let max = (1 << bits) - 1;
    if value < max {
        return vec![first | u8::try_from(value).unwrap()];
    }
    let mut out = vec![first | u8::try_from(max).unwrap()];
    let mut rest = value - max;
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).unwrap() | 0x80);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap());
    out
}

/// A HEADERS frame of literals without Huffman code.
pub(crate) fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut section = vec![0, 0];
    for (name, value) in fields {
        section.extend(prefixed(0x20, 3, name.len()));
        section.extend(name.as_bytes());
        section.extend(prefixed(0x00, 7, value.len()));
        section.extend(value.as_bytes());
    }
    frame(HEADERS, &section)
}

pub(crate) const PSEUDO: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", "/raw")];

/// The head of a good request and these fields.
pub(crate) fn request(fields: &[(&str, &str)]) -> Vec<u8> {
    headers(&[&PSEUDO[..], fields].concat())
}

pub(crate) fn get(path: &str) -> Vec<u8> {
    headers(&[(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", path)])
}

/// A stream type and a good SETTINGS frame.
pub(crate) fn control() -> Vec<u8> {
    [varint(CONTROL), frame(SETTINGS, &[0x01, 0x00, 0x07, 0x00])].concat()
}

pub(crate) struct Raw {
    _endpoint: quinn::Endpoint,
    pub(crate) quic: quinn::Connection,
}

impl Raw {
    pub(crate) async fn connect(remote: SocketAddr) -> Self {
        Self::connect_with(config(), remote).await
    }

    pub(crate) async fn connect_with(config: quinn::ClientConfig, remote: SocketAddr) -> Self {
        let endpoint = endpoint(remote);
        let quic = guard(endpoint.connect_with(config, remote, "localhost").unwrap()).await.unwrap();
        Self::over(endpoint, quic)
    }

    /// Streams of a connection that stands.
    pub(crate) fn over(endpoint: quinn::Endpoint, quic: quinn::Connection) -> Self {
        Self { _endpoint: endpoint, quic }
    }

    pub(crate) async fn uni(&self, bytes: &[u8]) -> SendStream {
        let mut stream = guard(self.quic.open_uni()).await.unwrap();
        // The server may stop it in the middle.
        let _ = guard(stream.write_all(bytes)).await;
        stream
    }

    pub(crate) async fn bi(&self, bytes: &[u8]) -> (SendStream, RecvStream) {
        let (mut send, receive) = guard(self.quic.open_bi()).await.unwrap();
        let _ = guard(send.write_all(bytes)).await;
        (send, receive)
    }

    /// The code the server closes the connection with.
    pub(crate) async fn closed(&self) -> u64 {
        match guard(self.quic.closed()).await {
            quinn::ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
            other => panic!("not closed by HTTP/3: {other}"),
        }
    }
}

/// Everything the server sends on a stream, or the code it resets it with.
pub(crate) async fn read(stream: &mut RecvStream) -> Result<Vec<u8>, u64> {
    match guard(stream.read_to_end(4 << 20)).await {
        Ok(bytes) => Ok(bytes),
        Err(quinn::ReadToEndError::Read(quinn::ReadError::Reset(code))) => Err(VarInt::into_inner(code)),
        Err(other) => panic!("{other}"),
    }
}

/// Takes a number off these bytes.
pub(crate) fn read_varint(bytes: &mut &[u8]) -> u64 {
    let len = 1 << (bytes[0] >> 6);
    let (head, rest) = bytes.split_at(len);
    *bytes = rest;
    head[1..].iter().fold(u64::from(head[0] & 0x3f), |value, &byte| value << 8 | u64::from(byte))
}

/// The frames in these bytes.
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut out = vec![];
    while !bytes.is_empty() {
        let kind = read_varint(&mut bytes);
        let len = usize::try_from(read_varint(&mut bytes)).unwrap();
        let (payload, rest) = bytes.split_at(len);
        out.push((kind, payload.to_vec()));
        bytes = rest;
    }
    out
}

/// The status of an answer.
pub(crate) fn status(answer: &[u8]) -> u16 {
    let (kind, section) = &frames(answer)[0];
    assert_eq!(*kind, HEADERS);
    qpack::decode_response(section, &Limits::DEFAULT).unwrap().status()
}

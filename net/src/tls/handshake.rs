//! How a handshake went: resumed or not, and with or without early data; and how often the keys were changed since.
//!
//! quinn-proto does not tell what rustls knows about this, so both sides look on
//! as the hello messages pass by: a `ServerHello` that selects a pre-shared key
//! resumes a session (RFC 8446 section 4.2.11), a `ClientHello` that announces
//! early data wants to send some (section 4.2.10). On the way, keys that decrypt
//! learn to take padding off ([`crate::quic::padding`]).
//!
//! Invariants:
//! - Looking on changes nothing: every call goes on to the session behind.
//! - A server's connection hears of each hello of its client that is whole (`HandshakeDataReady`), hence of the one
//!   that brought the keys to send with. rustls would have it hear of the first alone.
//! - A hello is held until it is whole and no longer, at most
//!   [`HELLO_BYTES_MAX`]; what cannot be read counts as a full handshake without
//!   early data, and is for rustls to refuse.

use std::any::Any;
use std::sync::Arc;

use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::crypto::{
    ClientConfig, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig, Session,
    UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, Connection, ConnectionId, Side, TransportError};

use crate::quic::padding::{trimming, trimming_key, trimming_pair};

/// Longest hello looked at; rustls takes no longer handshake message either.
const HELLO_BYTES_MAX: usize = 0xffff;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const EXTENSION_PRE_SHARED_KEY: u16 = 41;
const EXTENSION_EARLY_DATA: u16 = 42;
/// The `random` by which a `ServerHello` asks for another hello (RFC 8446
/// section 4.1.3).
const RETRY_RANDOM: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2,
    0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// How a handshake went, and what came of its keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HandshakeFacts {
    /// It went on with an earlier session: no certificate, no signature.
    pub(crate) is_resumed: bool,
    /// The client announced early data. Whether it was taken, quinn-proto says.
    pub(crate) offers_early_data: bool,
    /// Times that the keys were changed for others since (RFC 9001 section 6), by whichever end.
    pub(crate) key_updates: u64,
}

impl HandshakeFacts {
    /// Those of a connection whose handshake has begun; nothing is known before.
    pub(crate) fn of(quic: &Connection) -> Self {
        let data = quic.crypto_session().handshake_data();
        data.and_then(|data| data.downcast::<Self>().ok()).map(|facts| *facts).unwrap_or_default()
    }
}

/// A server's TLS that tells [`HandshakeFacts`].
pub(crate) struct ObservedServer(pub(crate) Arc<QuicServerConfig>);

impl ServerConfig for ObservedServer {
    fn initial_keys(&self, version: u32, id: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        // They open the first packet of a connection alone, and by its length as they leave it quinn-proto counts what
        // may be sent before the address is proven (RFC 9000 section 8.1): without its padding that would be less than a
        // flight, and not enough to repeat one. So this one keeps it.
        self.0.initial_keys(version, id)
    }

    fn retry_tag(&self, version: u32, original: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.0.retry_tag(version, original, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, parameters: &TransportParameters) -> Box<dyn Session> {
        Observed::around(Arc::clone(&self.0).start_session(version, parameters))
    }
}

/// A client's TLS that tells [`HandshakeFacts`], and sends no reserved transport parameter.
pub(crate) struct ObservedClient(pub(crate) Arc<QuicClientConfig>);

impl ClientConfig for ObservedClient {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        parameters: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let lean = without_reserved(parameters);
        let parameters = lean.as_ref().unwrap_or(parameters);
        Ok(Observed::around(Arc::clone(&self.0).start_session(version, server_name, parameters)?))
    }
}

/// The parameters without the one that means nothing (RFC 9000 section 18.1), whose identifier quinn-proto draws anew
/// for each connection: nginx (1.28) looks at the lower 16 bits of an identifier alone, takes one in some thousands for a
/// parameter that it knows, and refuses the connection, so that a load of many connections would not come to its end.
fn without_reserved(parameters: &TransportParameters) -> Option<TransportParameters> {
    let mut sent = Vec::new();
    parameters.write(&mut sent);
    TransportParameters::read(Side::Server, &mut &sent[..]).ok()
}

struct Observed {
    session: Box<dyn Session>,
    facts: HandshakeFacts,
    /// The keys that follow the first are there: they are made ahead.
    has_next_keys: bool,
    sent: HelloReader,
    received: HelloReader,
}

impl Observed {
    fn around(session: Box<dyn Session>) -> Box<dyn Session> {
        Box::new(Self {
            session,
            facts: HandshakeFacts::default(),
            has_next_keys: false,
            sent: HelloReader::default(),
            received: HelloReader::default(),
        })
    }
}

impl Session for Observed {
    fn initial_keys(&self, id: &ConnectionId, side: Side) -> Keys {
        trimming(self.session.initial_keys(id, side))
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.session.handshake_data().map(|_| Box::new(self.facts) as Box<dyn Any>)
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.session.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        let (header, packet) = self.session.early_crypto()?;
        Some((header, trimming_key(packet)))
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.session.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        self.received.feed(bytes, &mut self.facts);
        let is_first = self.session.read_handshake(bytes)?;
        // A client has sent its hello by now, and a server its own once it has what it needs.
        let is_another = self.received.is_done && !self.sent.is_done;
        Ok(is_first || is_another)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.session.transport_parameters()
    }

    fn write_handshake(&mut self, buffer: &mut Vec<u8>) -> Option<Keys> {
        let before = buffer.len();
        let keys = self.session.write_handshake(buffer);
        self.sent.feed(&buffer[before..], &mut self.facts);
        keys.map(trimming)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        // Each change asks for those of the change after it.
        self.facts.key_updates += u64::from(self.has_next_keys);
        self.has_next_keys = true;
        self.session.next_1rtt_keys().map(trimming_pair)
    }

    fn is_valid_retry(&self, original: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.session.is_valid_retry(original, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.session.export_keying_material(output, label, context)
    }
}

/// Finds the hello in one direction of a handshake, whatever the pieces.
#[derive(Default)]
struct HelloReader {
    held: Vec<u8>,
    is_done: bool,
}

impl HelloReader {
    fn feed(&mut self, bytes: &[u8], facts: &mut HandshakeFacts) {
        if self.is_done || bytes.is_empty() {
            return;
        }
        self.held.extend_from_slice(bytes);
        while let Some(&[kind, a, b, c]) = self.held.first_chunk() {
            let len = 4 + u32::from_be_bytes([0, a, b, c]) as usize;
            if self.held.len() < len && len <= HELLO_BYTES_MAX {
                return;
            }
            let hello = self.held.get(4..len).unwrap_or_default();
            let asks_for_another = kind == SERVER_HELLO && hello.get(2..34) == Some(&RETRY_RANDOM);
            if asks_for_another {
                self.held.drain(..len);
                continue;
            }
            let has = |extension| extensions(kind, hello).is_some_and(|mut all| all.any(|x| x == extension));
            match kind {
                CLIENT_HELLO => facts.offers_early_data = has(EXTENSION_EARLY_DATA),
                SERVER_HELLO => facts.is_resumed = has(EXTENSION_PRE_SHARED_KEY),
                _ => {}
            }
            *self = Self { held: Vec::new(), is_done: true };
            return;
        }
    }
}

/// The types of a hello's extensions (RFC 8446 sections 4.1.2 and 4.1.3).
fn extensions(kind: u8, hello: &[u8]) -> Option<impl Iterator<Item = u16>> {
    let mut rest = hello.get(34..)?;
    skip_prefixed(&mut rest, 1)?;
    if kind == CLIENT_HELLO {
        skip_prefixed(&mut rest, 2)?;
        skip_prefixed(&mut rest, 1)?;
    } else {
        rest = rest.get(3..)?;
    }
    let mut all = skip_prefixed(&mut rest, 2)?;
    Some(std::iter::from_fn(move || {
        let (kind, after) = all.split_first_chunk()?;
        all = after;
        skip_prefixed(&mut all, 2)?;
        Some(u16::from_be_bytes(*kind))
    }))
}

/// Takes a vector whose length stands in its first `width` bytes.
fn skip_prefixed<'a>(rest: &mut &'a [u8], width: usize) -> Option<&'a [u8]> {
    let (length, after) = rest.split_at_checked(width)?;
    let length = length.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
    let (content, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(content)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Mutex;
    use std::time::Instant;

    use bytes::Buf as _;
    use quinn_proto::coding::Codec as _;
    use quinn_proto::{
        ClientConfig as ClientConfiguration, Endpoint, EndpointConfig, RandomConnectionIdGenerator, VarInt,
    };

    use super::*;

    fn message(kind: u8, random: [u8; 32], extensions: &[u16]) -> Vec<u8> {
        let mut body = [&[3, 3][..], &random].concat();
        body.extend([2, 7, 7]);
        if kind == CLIENT_HELLO {
            body.extend([0, 2, 0x13, 1, 1, 0]);
        } else {
            body.extend([0x13, 1, 0]);
        }
        let all: Vec<u8> =
            extensions.iter().flat_map(|x| [&x.to_be_bytes()[..], &[0, 1, 9]].concat()).collect();
        body.extend(u16::try_from(all.len()).unwrap().to_be_bytes());
        body.extend(all);
        let len = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[kind], &len[1..], &body].concat()
    }

    fn read(pieces: &[&[u8]]) -> (HandshakeFacts, HelloReader) {
        let (mut reader, mut facts) = (HelloReader::default(), HandshakeFacts::default());
        pieces.iter().for_each(|piece| reader.feed(piece, &mut facts));
        (facts, reader)
    }

    #[test]
    fn a_hello_is_read_in_whatever_pieces_it_comes() {
        for (kind, extension) in
            [(CLIENT_HELLO, EXTENSION_EARLY_DATA), (SERVER_HELLO, EXTENSION_PRE_SHARED_KEY)]
        {
            let with = message(kind, [1; 32], &[43, extension]);
            let without = message(kind, [1; 32], &[43, 51]);
            for at in 0..=with.len() {
                let (facts, reader) = read(&[&with[..at], &with[at..]]);
                assert_eq!((facts.offers_early_data, facts.is_resumed), (kind == 1, kind == 2), "{at}");
                assert!(reader.is_done && reader.held.capacity() == 0);
                assert_eq!(read(&[&without[..at], &without[at..]]).0, HandshakeFacts::default());
            }
        }
    }

    fn number(bytes: &mut &[u8]) -> u64 {
        VarInt::decode(bytes).unwrap().into_inner()
    }

    /// The transport parameters of a connection: identifiers and values, in the order of the former.
    fn parameters_of(
        seed: u8,
        shaped: fn(&TransportParameters) -> TransportParameters,
    ) -> Vec<(u64, Vec<u8>)> {
        type Sent = Arc<Mutex<Vec<u8>>>;
        struct Listening(Sent, fn(&TransportParameters) -> TransportParameters);

        impl ClientConfig for Listening {
            fn start_session(
                self: Arc<Self>,
                _: u32,
                _: &str,
                parameters: &TransportParameters,
            ) -> Result<Box<dyn Session>, ConnectError> {
                self.1(parameters).write(&mut *self.0.lock().unwrap());
                Err(ConnectError::EndpointStopping)
            }
        }

        let mut config = EndpointConfig::default();
        config.rng_seed(Some([seed; 32])).cid_generator(|| Box::new(RandomConnectionIdGenerator::new(0)));
        let mut endpoint = Endpoint::new(Arc::new(config), None, true, None);
        let sent = Sent::default();
        let crypto = ClientConfiguration::new(Arc::new(Listening(Arc::clone(&sent), shaped)));
        let to = (Ipv4Addr::LOCALHOST, 443).into();
        assert!(endpoint.connect(Instant::now(), crypto, to, "localhost").is_err());
        let sent = sent.lock().unwrap().clone();
        let mut rest = &sent[..];
        let mut all = Vec::new();
        while rest.has_remaining() {
            let (id, length) = (number(&mut rest), number(&mut rest));
            let length = usize::try_from(length).unwrap();
            all.push((id, rest.copy_to_bytes(length).to_vec()));
        }
        all.sort();
        all
    }

    #[test]
    fn a_client_sends_every_parameter_but_the_one_that_means_nothing() {
        for seed in 0..20 {
            let with = parameters_of(seed, |parameters| *parameters);
            let lean = parameters_of(seed, |parameters| without_reserved(parameters).unwrap());
            let (reserved, others): (Vec<_>, Vec<_>) = with.into_iter().partition(|(id, _)| id % 31 == 27);
            assert_eq!(reserved.len(), 1, "quinn-proto sends one: {reserved:x?}");
            assert_eq!(lean, others);
            // RFC 9000 section 18.2: what is less than 1200 is invalid, and no UDP payload is longer than 65527.
            let largest = lean.iter().find(|(id, _)| *id == 3).map(|(_, value)| number(&mut &value[..]));
            assert!(largest.is_none_or(|largest| (1_200..=65_527).contains(&largest)), "{largest:?}");
        }
    }

    #[test]
    fn a_request_for_another_hello_is_not_the_answer() {
        let retry = message(SERVER_HELLO, RETRY_RANDOM, &[43, EXTENSION_PRE_SHARED_KEY]);
        let hello = message(SERVER_HELLO, [2; 32], &[EXTENSION_PRE_SHARED_KEY]);
        assert!(!read(&[&retry]).0.is_resumed);
        assert!(read(&[&retry, &hello]).0.is_resumed);
    }

    #[test]
    fn nonsense_is_held_no_longer_than_a_hello() {
        let (_, reader) = read(&[&[1, 0xff, 0xff, 0xff], &[0; 100]]);
        assert!(reader.is_done && reader.held.is_empty());
        for cut in 0..60 {
            let mut torn = message(CLIENT_HELLO, [1; 32], &[EXTENSION_EARLY_DATA]);
            torn[3] = cut;
            read(&[&torn]);
        }
    }
}

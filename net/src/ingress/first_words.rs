//! What a server says first, and when: its settings, as soon as there are keys to say them with (RFC 9114 section
//! 7.2.4.2), in packets that are sent anyhow. In memory, with a client of quinn-proto whose datagrams are handed over
//! one by one, or not at all.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use quinn_proto as qp;
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{Dir, StreamId};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::kx_group::{MLKEM768, X25519};
use sluice_core::CoreId;
use sluice_core::udp::{ReceiveMeta, SendMeta};
use sluice_protocols::h3::{self, Settings};
use sluice_protocols::http::{RequestHead, Response};
use sluice_protocols::qpack;

use super::http3::Http3;
use super::{IngressConfig, ServerIdentity, endpoint};
use crate::quic::listen::ListenerId;
use crate::quic::outlet::Outlet;
use crate::quic::steering::{CoreCount, Port};
use crate::service::{Admit, Request, Responder, Service};
use crate::tls::{
    EarlyData, SharedKeys, TlsIdentity, Trust, client_crypto_by, crypto_provider, server_crypto,
};

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 443);
const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 1000);
const LISTENER: ListenerId = ListenerId { address: 0, port: Port::Shared };
/// Exchanges within which a handshake is over at both ends.
const EXCHANGES_MAX: usize = 5;
/// An answer that fills several datagrams.
const ANSWER_BYTES: usize = 4_000;

struct Answering;

impl Service for Answering {
    fn admit(&self, _: &RequestHead, _: Option<IpAddr>) -> Admit {
        Admit::Body { bytes_max: 0 }
    }

    fn call(&self, _: Request, respond: Responder) {
        respond.send(Response::new(200).with_body("text/plain", vec![b'x'; ANSWER_BYTES].into()));
    }

    fn refuse(&self, status: u16, detail: &str) -> Response {
        panic!("a good request was refused with {status}: {detail}");
    }
}

/// Datagrams in the order in which they left.
#[derive(Default)]
struct Wire(Vec<Vec<u8>>);

impl Outlet for Wire {
    type Buffer = Vec<u8>;

    fn acquire(&mut self) -> Option<Vec<u8>> {
        Some(Vec::new())
    }

    fn bytes(buffer: &mut Vec<u8>) -> &mut Vec<u8> {
        buffer
    }

    fn send(&mut self, _: ListenerId, meta: &SendMeta, buffer: Vec<u8>) {
        let segment = meta.segment.map_or(buffer.len(), usize::from).max(1);
        self.0.extend(buffer.chunks(segment).map(<[u8]>::to_vec));
    }
}

struct Room {
    server: Http3,
    now: Instant,
}

impl Room {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let identity = TlsIdentity::development(home.path()).unwrap();
        let keys = SharedKeys::generate().unwrap();
        let tls = server_crypto(&identity, &keys, EarlyData::On).unwrap();
        let (core, cores) = (CoreId::new(0), CoreCount::new(1).unwrap());
        let (identity, config, now) =
            (ServerIdentity { tls, keys }, IngressConfig::default(), Instant::now());
        let endpoint = endpoint(core, cores, &identity, &config).unwrap();
        Self { server: Http3::new(endpoint, &config, Rc::new(Answering), Arc::default(), now), now }
    }

    /// A turn that begins with these datagrams; what it sends.
    fn turn(&mut self, datagrams: &[Vec<u8>]) -> Vec<Vec<u8>> {
        for datagram in datagrams {
            let meta = ReceiveMeta {
                source: CLIENT,
                destination: Some(SERVER.ip()),
                ecn: 0,
                segment: datagram.len(),
            };
            self.server.driver.receive(self.now, LISTENER, &meta, datagram);
        }
        self.server.take_in(self.now);
        self.server.write_out(self.now);
        let mut wire = Wire::default();
        self.server.transmit(self.now, &mut wire);
        wire.0
    }

    /// Exchanges datagrams until both ends have nothing to say.
    fn settle(&mut self, client: &mut Client) {
        for _ in 0..EXCHANGES_MAX {
            for datagram in self.turn(&client.flight()) {
                client.take(&datagram);
            }
        }
    }

    fn finished_handshakes(&self) -> u64 {
        self.server.stats.handshakes_full.get() + self.server.stats.handshakes_resumed.get()
    }
}

struct Client {
    endpoint: qp::Endpoint,
    quic: qp::Connection,
    handle: qp::ConnectionHandle,
    now: Instant,
    is_connected: bool,
    /// The server's first stream, and what came on it.
    control: Option<StreamId>,
    told: Vec<u8>,
}

impl Client {
    fn new(room: &Room, crypto: &Arc<QuicClientConfig>) -> Self {
        let mut endpoint = qp::Endpoint::new(Arc::new(qp::EndpointConfig::default()), None, true, None);
        let config = qp::ClientConfig::new(Arc::clone(crypto) as _);
        let (handle, quic) = endpoint.connect(room.now, config, SERVER, "localhost").unwrap();
        let now = room.now;
        Self { endpoint, quic, handle, now, is_connected: false, control: None, told: vec![] }
    }

    /// All it has to send.
    fn flight(&mut self) -> Vec<Vec<u8>> {
        let mut datagrams = vec![];
        let mut buffer = Vec::new();
        while let Some(transmit) = self.quic.poll_transmit(self.now, 1, &mut buffer) {
            datagrams.push(buffer[..transmit.size].to_vec());
            buffer.clear();
        }
        datagrams
    }

    fn ask(&mut self) -> StreamId {
        let id = self.quic.streams().open(Dir::Bi).unwrap();
        let head = RequestHead::build("GET", "/", "localhost");
        let mut bytes = Vec::new();
        let written: Result<(), Infallible> = h3::write_headers(&mut bytes, |out| {
            qpack::encode_request(out, &head);
            Ok(())
        });
        written.unwrap();
        let mut stream = self.quic.send_stream(id);
        assert_eq!(stream.write(&bytes), Ok(bytes.len()));
        stream.finish().unwrap();
        id
    }

    fn take(&mut self, datagram: &[u8]) {
        let data = BytesMut::from(datagram);
        let event = self.endpoint.handle(self.now, SERVER, Some(CLIENT.ip()), None, data, &mut Vec::new());
        let Some(qp::DatagramEvent::ConnectionEvent(_, event)) = event else { panic!("not for this client") };
        self.quic.handle_event(event);
        while let Some(event) = self.quic.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.quic.handle_event(event);
            }
        }
        while let Some(event) = self.quic.poll() {
            match event {
                qp::Event::Connected => self.is_connected = true,
                qp::Event::ConnectionLost { reason } => panic!("lost: {reason}"),
                qp::Event::Stream(qp::StreamEvent::Opened { dir: Dir::Uni }) => {
                    assert_eq!(self.control, None, "a second stream of the server's");
                    self.control = self.quic.streams().accept(Dir::Uni);
                }
                _ => {}
            }
        }
        if let Some(control) = self.control {
            let told = self.read(control);
            self.told.extend(told);
        }
    }

    /// What has come on a stream since it was read last.
    fn read(&mut self, id: StreamId) -> Vec<u8> {
        let mut bytes = vec![];
        let mut stream = self.quic.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return bytes };
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            bytes.extend_from_slice(&chunk.bytes);
        }
        let _ = chunks.finalize();
        bytes
    }
}

fn settings() -> Vec<u8> {
    let mut preamble = Vec::new();
    h3::write_control_preamble(&mut preamble, &Settings::SERVER);
    preamble
}

/// Settings of a client that sends early data where it can.
fn crypto(provider: CryptoProvider) -> Arc<QuicClientConfig> {
    let mut config = (*client_crypto_by(provider, Trust::AnyServer).unwrap()).clone();
    config.enable_early_data = true;
    Arc::new(QuicClientConfig::try_from(config).unwrap())
}

#[test]
fn settings_do_not_wait_for_the_end_of_the_handshake() {
    let usual = crypto_provider();
    // Its first hello has a key for a group alone that the server does not know, so it is asked for another.
    let again = CryptoProvider { kx_groups: vec![MLKEM768, X25519], ..crypto_provider() };
    for crypto in [usual, again].map(crypto) {
        let mut room = Room::new();
        let mut client = Client::new(&room, &crypto);
        while !client.is_connected {
            for datagram in room.turn(&client.flight()) {
                client.take(&datagram);
            }
        }
        assert_eq!((client.told.clone(), room.finished_handshakes()), (settings(), 0));
        room.settle(&mut client);
        assert_eq!((client.told, room.finished_handshakes()), (settings(), 1), "they are said once");
    }
}

#[test]
fn answers_to_early_data_do_not_come_before_the_settings() {
    let mut room = Room::new();
    let crypto = crypto(crypto_provider());
    room.settle(&mut Client::new(&room, &crypto));
    assert_eq!(room.finished_handshakes(), 1);

    let mut client = Client::new(&room, &crypto);
    assert!(client.quic.has_0rtt());
    let request = client.ask();
    let flight = client.flight();
    let mut answered_bytes = 0;
    for datagram in room.turn(&flight) {
        client.take(&datagram);
        answered_bytes += client.read(request).len();
        assert!(answered_bytes == 0 || client.told == settings());
    }
    assert!(answered_bytes > 0, "nothing was answered early");
    assert_eq!(room.finished_handshakes(), 1, "the client has not ended its handshake");
}

/// The one datagram of the server's first flight is filled up to 1,200 bytes in any case (RFC 9000 section 14.1).
#[test]
fn settings_ride_in_packets_that_are_sent_anyhow() {
    let mut room = Room::new();
    let crypto = crypto(crypto_provider());
    for resumed in [0, 1] {
        let mut client = Client::new(&room, &crypto);
        let flight = room.turn(&client.flight());
        assert_eq!(flight.iter().map(Vec::len).collect::<Vec<_>>(), [1200]);
        client.take(&flight[0]);
        assert_eq!(client.told, settings());
        room.settle(&mut client);
        assert_eq!(room.server.stats.handshakes_resumed.get(), resumed);
    }
}

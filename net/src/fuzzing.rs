//! A server's endpoint in memory, for fuzzing: the real driver and HTTP/3 connections, a hostile client, and a
//! network and a clock that do what bytes say.
//!
//! [`run`] reads its input as a script: packets of a real client are delivered, lost, doubled, damaged, cut, spliced
//! and repeated, others are made up; the client writes what it likes on streams of its own, resets them, moves,
//! leaves and comes back; the server winds up or finds no send slot; time passes. Afterwards another client must be
//! served, and the server must let go of everything by its timers.
//!
//! Keys and connection IDs are random, so the same script has other ciphertext each time; no decision of ours
//! depends on its bits.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn_proto as qp;
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{Dir, StreamId, VarInt};
use rustls::client::Resumption;
use sluice_core::CoreId;
use sluice_core::udp::{ReceiveMeta, SendMeta};
use sluice_protocols::http::{RequestHead, Response};

use crate::ingress::http3::Http3;
use crate::ingress::{self, IngressConfig, ServerIdentity};
use crate::quic::listen::ListenerId;
use crate::quic::outlet::Outlet;
use crate::quic::steering::{self, CoreCount, Port};
use crate::quic::transport;
use crate::service::{Admit, Answer, Request, Responder, Service};
use crate::tls::{EarlyData, SharedKeys, TlsIdentity, Trust, client_crypto, server_crypto};

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 443);
const HOSTILE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const GOOD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 3));
const LISTENER: ListenerId = ListenerId { address: 0, port: Port::Shared };
const STREAMS_MAX: u32 = 4;
const BODY_BYTES_MAX: usize = 2_000;
/// The answer to `/large`: more than a client takes without making room.
const LARGE_BYTES: usize = 300_000;
const IDLE: Duration = Duration::from_secs(10);
const CONFIG: IngressConfig = IngressConfig {
    connections_max: 4,
    connections_per_address_max: None,
    handshakes_max: 2,
    handshakes_most: 3,
    streams_max: STREAMS_MAX,
    idle_timeout: IDLE,
    unused_timeout: Some(IDLE),
    handshake_timeout: Duration::from_secs(10),
    request_timeout: Duration::from_secs(8),
};
/// Steps of a script; the rest of the input is not read.
const STEPS_MAX: usize = 64;
/// Turns that a step may lead to before it counts as a busy loop.
const TURNS_MAX: usize = 400;
/// Rounds of packets in one exchange: the largest answer takes a quarter of them, and those who disagree about a
/// connection's end would go on for as long as they may.
const ROUNDS_MAX: usize = 64;
/// Timers that may fire after the script, before the server must have let go of everything.
const TIMERS_MAX: usize = 4_000;
/// Where a well-behaved client comes from, and then each time that it is refused: what holds the places is gone after at most
/// two timeouts, of handshakes or of idling, and their probes.
const GOOD_PORTS: std::ops::Range<u16> = 50_000..50_005;
/// Exchanges within which a well-behaved client must have its answer.
const EXCHANGES_MAX: usize = 200;
/// Packets of the client that can be sent again.
const HISTORY_MAX: usize = 32;
/// Packets under way in one direction; further ones are lost.
const QUEUE_MAX: usize = 1_000;

/// The server's side, made once: a certificate takes longer than a script.
static IDENTITY: LazyLock<ServerIdentity> = LazyLock::new(|| {
    let home = std::env::temp_dir().join(format!("sluice-fuzzing-{}", std::process::id()));
    let identity = TlsIdentity::development(&home).expect("a certificate");
    // It is in memory by now.
    let _ = std::fs::remove_dir_all(&home);
    let keys = SharedKeys::generate().expect("keys");
    ServerIdentity { tls: server_crypto(&identity, &keys, EarlyData::On).expect("TLS settings"), keys }
});

/// A client's side, made once; what it remembers of servers is each client's own.
static CLIENT: LazyLock<rustls::ClientConfig> = LazyLock::new(|| {
    let mut tls = Arc::unwrap_or_clone(client_crypto(Trust::AnyServer).expect("client settings"));
    tls.enable_early_data = true;
    tls
});

#[derive(Clone)]
struct Packet {
    listener: ListenerId,
    /// The client's end: whom it is from, or to.
    client: SocketAddr,
    bytes: Vec<u8>,
}

/// Packets to clients, oldest first.
#[derive(Default)]
struct Wire {
    packets: VecDeque<Packet>,
    /// Buffers that will be missing.
    starved: u8,
}

impl Outlet for Wire {
    type Buffer = Vec<u8>;

    fn acquire(&mut self) -> Option<Vec<u8>> {
        if self.starved > 0 {
            self.starved -= 1;
            return None;
        }
        Some(Vec::new())
    }

    fn bytes(buffer: &mut Vec<u8>) -> &mut Vec<u8> {
        buffer
    }

    fn send(&mut self, listener: ListenerId, meta: &SendMeta, buffer: Vec<u8>) {
        let segment = meta.segment.map_or(buffer.len(), usize::from).max(1);
        for bytes in buffer.chunks(segment) {
            if self.packets.len() < QUEUE_MAX {
                self.packets.push_back(Packet { listener, client: meta.destination, bytes: bytes.to_vec() });
            }
        }
    }
}

/// Answers at once, or when the script says so, or as the request comes.
#[derive(Default)]
struct Answering {
    held: RefCell<Vec<Responder>>,
}

impl Service for Answering {
    fn admit(&self, head: &RequestHead, _: Option<IpAddr>) -> Admit {
        match head.path() {
            "/early" => Admit::Reply(Response::new(404)),
            "/piped" => Admit::Stream { bytes_max: BODY_BYTES_MAX },
            _ => Admit::Body { bytes_max: BODY_BYTES_MAX },
        }
    }

    fn call(&self, request: Request, respond: Responder) {
        assert!(request.body.len() <= BODY_BYTES_MAX, "a body over its limit");
        if let Some(stream) = request.stream {
            return respond.answer(Answer::Streamed(Response::new(200), stream));
        }
        let body = match request.head.path() {
            "/held" => return self.held.borrow_mut().push(respond),
            "/large" => vec![b'x'; LARGE_BYTES].into(),
            _ => request.body,
        };
        respond.send(Response::new(200).with_body("text/plain", body));
    }

    fn refuse(&self, status: u16, _: &str) -> Response {
        Response::new(status)
    }
}

/// The bytes of a script; at its end everything reads as zero.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        byte
    }

    /// As many bytes as the next one says, or what is left.
    fn bytes(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte()).min(self.0.len());
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes
    }

    /// A place in a packet: mostly in what is not encrypted.
    fn place(&mut self) -> usize {
        let at = usize::from(self.byte());
        if at < 128 { at } else { (at - 128) * 12 }
    }
}

/// A client of quinn-proto's, driven by hand.
struct Client {
    endpoint: qp::Endpoint,
    config: qp::ClientConfig,
    connection: Option<(qp::ConnectionHandle, qp::Connection)>,
    address: SocketAddr,
    listener: ListenerId,
    to_server: VecDeque<Packet>,
    /// What it sent lately.
    history: VecDeque<Packet>,
    streams: Vec<StreamId>,
}

impl Client {
    fn new(address: SocketAddr) -> Self {
        let mut tls = CLIENT.clone();
        tls.resumption = Resumption::in_memory_sessions(2);
        let crypto = QuicClientConfig::try_from(tls).expect("a cipher for QUIC");
        let mut config = qp::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport(STREAMS_MAX, IDLE)));
        Self {
            endpoint: qp::Endpoint::new(Arc::default(), None, true, None),
            config,
            connection: None,
            address,
            listener: LISTENER,
            to_server: VecDeque::new(),
            history: VecDeque::new(),
            streams: Vec::new(),
        }
    }

    fn connect(&mut self, now: Instant) {
        if self.connection.is_none() {
            self.connection = self.endpoint.connect(now, self.config.clone(), SERVER, "localhost").ok();
            self.streams.clear();
        }
    }

    fn arrive(&mut self, now: Instant, packet: &Packet) {
        let mut scratch = Vec::new();
        let data = BytesMut::from(&packet.bytes[..]);
        let event = self.endpoint.handle(now, SERVER, None, None, data, &mut scratch);
        if let (Some(qp::DatagramEvent::ConnectionEvent(handle, event)), Some((ours, connection))) =
            (event, &mut self.connection)
            && handle == *ours
        {
            connection.handle_event(event);
        }
    }

    /// Whether the connection ended meanwhile.
    fn settle(&mut self, now: Instant) {
        let Self { endpoint, connection: place, to_server, history, address, listener, .. } = self;
        let Some((handle, connection)) = place else { return };
        let mut bytes = Vec::new();
        while let Some(transmit) = connection.poll_transmit(now, 1, &mut bytes) {
            let bytes: Vec<u8> = bytes.drain(..).take(transmit.size).collect();
            let packet = Packet { listener: *listener, client: *address, bytes };
            if history.len() == HISTORY_MAX {
                history.pop_front();
            }
            history.push_back(packet.clone());
            if to_server.len() < QUEUE_MAX {
                to_server.push_back(packet);
            }
        }
        while connection.poll().is_some() {}
        let mut is_drained = false;
        while let Some(event) = connection.poll_endpoint_events() {
            is_drained |= event.is_drained();
            if let Some(event) = endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        if is_drained {
            *place = None;
        }
    }

    fn expire(&mut self, now: Instant) {
        if let Some((_, connection)) = &mut self.connection
            && connection.poll_timeout().is_some_and(|at| at <= now)
        {
            connection.handle_timeout(now);
        }
    }

    /// Opens a stream, if it may, and writes on the latest.
    fn open(&mut self, dir: Dir, script: &mut Script<'_>) {
        let Some((_, connection)) = &mut self.connection else { return };
        if let Some(id) = connection.streams().open(dir) {
            self.streams.push(id);
        }
        self.write(self.streams.len().saturating_sub(1), script);
    }

    fn write(&mut self, index: usize, script: &mut Script<'_>) {
        let (Some((_, connection)), Some(&id)) = (&mut self.connection, self.streams.get(index)) else {
            return;
        };
        let is_last = script.byte() & 1 == 1;
        let mut stream = connection.send_stream(id);
        // What does not fit, or is refused, is left out.
        let _ = stream.write(script.bytes());
        if is_last {
            let _ = stream.finish();
        }
    }

    /// The same bytes again and again, as for a body over its limit.
    fn flood(&mut self, script: &mut Script<'_>) {
        let (index, times) = (usize::from(script.byte()), usize::from(script.byte()));
        let bytes = script.bytes();
        if let (Some((_, connection)), Some(&id)) = (&mut self.connection, self.streams.get(index)) {
            let _ = connection.send_stream(id).write(&bytes.repeat(times * 4));
        }
    }

    fn reset(&mut self, script: &mut Script<'_>) {
        let (index, code) = (usize::from(script.byte()), script.byte());
        let (Some((_, connection)), Some(&id)) = (&mut self.connection, self.streams.get(index)) else {
            return;
        };
        if code & 1 == 1 {
            let _ = connection.send_stream(id).reset(VarInt::from_u32(u32::from(code)));
        } else if id.dir() == Dir::Bi {
            let _ = connection.recv_stream(id).stop(VarInt::from_u32(u32::from(code)));
        }
    }

    /// Reads what has come on a stream, and so makes room for more.
    fn read(&mut self, index: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let (Some((_, connection)), Some(&id)) = (&mut self.connection, self.streams.get(index)) else {
            return bytes;
        };
        if id.dir() == Dir::Uni {
            return bytes;
        }
        let mut stream = connection.recv_stream(id);
        if let Ok(mut chunks) = stream.read(true) {
            while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
                bytes.extend_from_slice(&chunk.bytes);
            }
            let _ = chunks.finalize();
        }
        bytes
    }

    /// A packet it sent lately.
    fn sent(&self, place: u8) -> Option<Packet> {
        self.history.get(usize::from(place).checked_rem(self.history.len())?).cloned()
    }
}

struct World {
    now: Instant,
    cores: CoreCount,
    http3: Http3,
    service: Rc<Answering>,
    to_clients: Wire,
    client: Client,
}

/// Plays one script against a server, has another client served, and sees to it that the server ends what it began.
///
/// # Panics
/// When a promise is broken: that is what it is for.
pub fn run(script: &[u8]) {
    let mut world = World::new();
    world.play(script);
    if world.http3.driver.len() < CONFIG.connections_max {
        world.serve_good_client();
        world.end();
    } else {
        // There is no place left until the timers have made one.
        world.end();
        world.serve_good_client();
    }
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let cores = CoreCount::new(1).expect("one core");
        let endpoint = ingress::endpoint(CoreId::new(0), cores, &IDENTITY, &CONFIG).expect("an endpoint");
        let service = Rc::<Answering>::default();
        let answering = Rc::clone(&service) as Rc<dyn Service>;
        Self {
            now,
            cores,
            http3: Http3::new(endpoint, &CONFIG, answering, Arc::default(), now),
            service,
            to_clients: Wire::default(),
            client: Client::new(SocketAddr::new(HOSTILE, 40_000)),
        }
    }

    fn play(&mut self, script: &[u8]) {
        let mut script = Script(script);
        for _ in 0..STEPS_MAX {
            if script.0.is_empty() {
                break;
            }
            self.step(&mut script);
            self.settle();
        }
    }

    fn step(&mut self, script: &mut Script<'_>) {
        match script.byte() % 28 {
            0 => self.client.connect(self.now),
            1 => self.exchange(),
            2 => self.deliver_one(|_| {}),
            3 => {
                let (at, mask) = (script.place(), script.byte());
                self.deliver_one(|bytes| flip(bytes, at, mask));
            }
            4 => {
                let len = script.place();
                self.deliver_one(|bytes| bytes.truncate(len));
            }
            5 => _ = self.client.to_server.pop_front(),
            6 => {
                if let Some(packet) = self.client.to_server.front().cloned() {
                    self.client.to_server.push_back(packet);
                }
            }
            7 => {
                let queue = &mut self.client.to_server;
                queue.rotate_left(queue.len().min(1));
            }
            8 => {
                let bytes = script.bytes().to_vec();
                self.arrive(&self.made_up(bytes));
            }
            // A made-up Initial needs 1,200 bytes.
            9 => {
                let mut bytes = script.bytes().to_vec();
                bytes.resize(1_200, script.byte());
                self.arrive(&self.made_up(bytes));
            }
            10 => self.pass(Duration::from_millis(1 << (script.byte() % 14))),
            11 => self.client.open(Dir::Bi, script),
            12 => self.client.open(Dir::Uni, script),
            13 => {
                let index = usize::from(script.byte());
                self.client.write(index, script);
            }
            14 => self.client.reset(script),
            15 => {
                let port = script.byte();
                self.client.address.set_port(40_000 + u16::from(port % 4));
                self.client.listener.address = usize::from(port >> 7);
            }
            16 => {
                if let Some((_, connection)) = &mut self.client.connection
                    && !connection.is_handshaking()
                {
                    connection.force_key_update();
                }
            }
            17 => self.service.held.borrow_mut().drain(..).for_each(|held| held.send(Response::new(204))),
            18 => _ = self.to_clients.packets.pop_front(),
            19 => {
                if let Some((_, connection)) = &mut self.client.connection {
                    let code = VarInt::from_u32(u32::from(script.byte()));
                    connection.close(self.now, code, Bytes::copy_from_slice(script.bytes()));
                }
            }
            20 => {
                let (packet, at, mask) = (script.byte(), script.place(), script.byte());
                self.repeat(packet, |bytes| flip(bytes, at, mask));
            }
            21 => {
                let (packet, len) = (script.byte(), script.place());
                self.repeat(packet, |bytes| bytes.truncate(len));
            }
            22 => {
                let (packet, other, at) = (script.byte(), script.byte(), script.place());
                let tail = self.client.sent(other).map_or_else(Vec::new, |packet| packet.bytes);
                self.repeat(packet, |bytes| {
                    bytes.truncate(at);
                    bytes.extend(tail.iter().skip(at));
                });
            }
            // Bytes of the script's with the header of a packet, its connection ID included.
            23 => {
                let (packet, at, written) = (script.byte(), script.place(), script.bytes());
                self.repeat(packet, |bytes| {
                    let at = at.min(bytes.len());
                    let end = (at + written.len()).min(bytes.len());
                    bytes.splice(at..end, written.iter().copied());
                });
            }
            24 => _ = self.client.read(usize::from(script.byte())),
            25 => self.client.flood(script),
            26 => self.to_clients.starved = script.byte() % 8,
            // The client is gone without a word, or the server winds up what there is.
            _ if script.byte() & 1 == 0 => self.client.connection = None,
            _ => self.wind_up(),
        }
    }

    fn made_up(&self, bytes: Vec<u8>) -> Packet {
        Packet { listener: self.client.listener, client: self.client.address, bytes }
    }

    /// Everything arrives, both ways, until nothing is under way, or for long enough: a client that has closed says
    /// so again for each packet that comes, until its timers end it, and a server that does not know it any more
    /// asks it each time to prove its address.
    fn exchange(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let mut is_quiet = true;
            while let Some(packet) = self.client.to_server.pop_front() {
                self.arrive(&packet);
                is_quiet = false;
            }
            self.settle();
            while let Some(packet) = self.to_clients.packets.pop_front() {
                // An address that the client has left: nobody is there.
                if packet.client == self.client.address {
                    self.client.arrive(self.now, &packet);
                }
                is_quiet = false;
            }
            self.settle();
            if is_quiet {
                return;
            }
            self.pass(Duration::from_millis(1));
        }
    }

    fn deliver_one(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(mut packet) = self.client.to_server.pop_front() {
            change(&mut packet.bytes);
            self.arrive(&packet);
        }
    }

    /// Delivers a changed copy of what was sent lately, from where the client is now.
    fn repeat(&mut self, packet: u8, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(mut packet) = self.client.sent(packet) {
            change(&mut packet.bytes);
            self.arrive(&self.made_up(packet.bytes));
        }
    }

    fn arrive(&mut self, packet: &Packet) {
        let meta = ReceiveMeta {
            source: packet.client,
            destination: Some(SERVER.ip()),
            ecn: 0,
            segment: packet.bytes.len(),
        };
        if steering::owner(&packet.bytes, packet.listener.port, self.cores).is_some() {
            self.http3.driver.receive(self.now, packet.listener, &meta, &packet.bytes);
        }
    }

    /// Time passes; what is due on either side fires.
    fn pass(&mut self, duration: Duration) {
        self.now += duration;
        self.http3.driver.expire(self.now);
        self.client.expire(self.now);
    }

    /// The server tells those there are that they will end, and goes on with that each time.
    fn wind_up(&mut self) {
        for index in self.http3.driver.indices() {
            if let Some(connection) = self.http3.driver.get_mut(index) {
                connection.state.wind_up(&mut connection.quic, self.now);
                self.http3.driver.mark(index);
            }
        }
    }

    /// Both sides do all there is to do without another packet.
    fn settle(&mut self) {
        self.client.settle(self.now);
        for _ in 0..TURNS_MAX {
            self.http3.take_in(self.now);
            self.http3.write_out(self.now);
            self.http3.transmit(self.now, &mut self.to_clients);
            assert!(self.http3.driver.len() <= CONFIG.connections_max, "more connections than allowed");
            assert!(
                self.http3.watched() <= CONFIG.connections_max * 64,
                "a connection is looked at again and again"
            );
            if !self.http3.is_behind() && self.http3.is_quiet() {
                return;
            }
        }
        panic!("the server's turns do not end");
    }

    /// The next moment at which the server or the client has something to do.
    fn next(&mut self) -> Option<Instant> {
        let client = self.client.connection.as_mut().and_then(|(_, connection)| connection.poll_timeout());
        [self.http3.next_deadline(), client].into_iter().flatten().min()
    }

    /// A client that does nothing wrong connects from elsewhere and asks something, while the hostile one keeps
    /// what it has. Where that is all there is to have, it is refused and comes back.
    fn serve_good_client(&mut self) {
        self.to_clients = Wire::default();
        let (mut port, mut answer) = (GOOD_PORTS.start, Vec::new());
        self.client = Client::new(SocketAddr::new(GOOD, port));
        self.client.connect(self.now);
        self.settle();
        for _ in 0..EXCHANGES_MAX {
            self.exchange();
            let is_refused = self.client.connection.as_ref().is_none_or(|(_, c)| c.is_closed());
            if is_refused && port < GOOD_PORTS.end {
                assert!(self.refused() > 0, "closed without a reason that is counted");
                port += 1;
                // Those who say nothing more lose their places by then.
                self.pass(CONFIG.handshake_timeout);
                self.settle();
                self.client = Client::new(SocketAddr::new(GOOD, port));
                self.client.connect(self.now);
                self.settle();
                continue;
            }
            let is_connected = self.client.connection.as_ref().is_some_and(|(_, c)| !c.is_handshaking());
            if is_connected && self.client.streams.is_empty() {
                let message = [&REQUEST[..], b"hello"].concat();
                let script = [&[1, u8::try_from(message.len()).expect("short")], &message[..]].concat();
                self.client.open(Dir::Bi, &mut Script(&script));
                self.settle();
                continue;
            }
            answer.extend(self.client.read(0));
            if answer.ends_with(b"hello") {
                return;
            }
            if let Some(at) = self.next() {
                self.pass(at.saturating_duration_since(self.now));
                self.settle();
            }
        }
        panic!("a well-behaved client is not served: {answer:?}");
    }

    /// Connections that were not let in since there was no place.
    fn refused(&self) -> u64 {
        let stats = &self.http3.stats;
        stats.connections_refused.get() + stats.handshakes_refused.get()
    }

    /// Clients fall silent; the server must let go of everything by its timers alone.
    fn end(&mut self) {
        self.client.connection = None;
        self.service.held.borrow_mut().clear();
        self.settle();
        let silent_since = self.now;
        let rtts = self
            .http3
            .driver
            .indices()
            .into_iter()
            .filter_map(|index| Some(self.http3.driver.get_mut(index)?.quic.rtt()));
        let rtt = rtts.max().unwrap_or_default();
        for _ in 0..TIMERS_MAX {
            self.to_clients = Wire::default();
            if self.http3.driver.len() == 0 {
                break;
            }
            let Some(next) = self.next() else { break };
            self.now = self.now.max(next);
            self.http3.driver.expire(self.now);
            self.settle();
        }
        assert_eq!(self.http3.driver.len(), 0, "connections outlive their clients");
        assert_eq!(self.http3.in_flight(), 0, "requests were lost count of");
        // RFC 9000 section 10.1: the idle timeout is no less than three probe timeouts, which RFC 9002 section 6.2.1
        // puts at a round trip and four times its variation; that stays below two round trips. A connection that
        // sends sets its idle timer back once; then it may take three of its timeouts for the loss of packets to end.
        let longest = 4 * IDLE.max(3 * 9 * rtt) + CONFIG.request_timeout;
        let took = self.now - silent_since;
        assert!(took <= longest, "the last connection was let go of after {took:?}");
    }
}

fn flip(bytes: &mut [u8], at: usize, mask: u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= mask;
    }
}

/// `POST https://a/` with a body of five bytes to follow (RFC 9114 section 7.2, RFC 9204 section 4.5).
const REQUEST: [u8; 14] = [1, 10, 0, 0, 0xd4, 0xd7, 0x50, 1, b'a', 0x51, 1, b'/', 0, 5];

#[cfg(test)]
mod tests {
    use super::*;

    /// Connects, and asks for `/` with a body.
    fn asking() -> Vec<u8> {
        let message = [&REQUEST[..], b"hello"].concat();
        [&[0, 1, 11, 1, u8::try_from(message.len()).unwrap()], &message[..], &[1]].concat()
    }

    #[test]
    fn a_script_reaches_the_service_and_its_answer_comes_back() {
        let mut world = World::new();
        world.play(&asking());
        assert_eq!((world.http3.stats.requests.get(), world.http3.in_flight()), (1, 0));
        assert!(world.client.read(0).ends_with(b"hello"));
    }

    #[test]
    fn a_script_can_come_back_with_early_data() {
        let mut world = World::new();
        let mut script = asking();
        // Gone without a word, back, and a GET before anything has arrived.
        script.extend([27, 0, 0, 11, 1, 12, 1, 10, 0, 0, 0xd1, 0xd7, 0x50, 1, b'a', 0x51, 1, b'/', 1]);
        world.play(&script);
        assert_eq!(world.http3.stats.handshakes_resumed.get(), 1);
        assert_eq!((world.http3.stats.requests.get(), world.http3.stats.requests_early.get()), (2, 1));
    }

    #[test]
    fn the_corpus_breaks_no_promise() {
        let built_at = env!("CARGO_MANIFEST_DIR");
        let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| built_at.to_owned());
        let directory = std::path::Path::new(&root).join("../fuzz/corpus/datagrams");
        let mut count = 0;
        for entry in std::fs::read_dir(directory).unwrap() {
            run(&std::fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 10, "{count} scripts found");
    }
}

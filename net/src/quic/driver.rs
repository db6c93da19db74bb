//! Connections of one endpoint, driven a turn at a time.
//!
//! A turn: [`Driver::receive`] each arrival, [`Driver::expire`] timers, take
//! [`Driver::next_event`] until none is left, then [`Driver::transmit`] once, so
//! that acknowledgements ride on replies and packets leave in trains.
//!
//! Invariants:
//! - A connection with anything left to do is in `dirty`, once.
//! - A place is emptied in the same step in which quinn-proto frees its handle,
//!   so that a handle never names two connections.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn_proto as qp;
use sluice_core::timer::{TimerKey, TimerWheel};
use sluice_core::udp::{ReceiveMeta, SendMeta};
use sluice_protocols::h3::ErrorCode;

use super::listen::ListenerId;
use super::networks::Networks;
use super::outlet::Outlet;
use super::steering::LONG_HEADER;
use crate::Network;
use crate::tls::handshake::HandshakeFacts;

/// Datagrams in one train: at 1,452 bytes each within the 64 KiB of a UDP
/// length, and small enough to leave a send slot's memory modest.
const TRAIN_DATAGRAMS_MAX: usize = 16;
/// Trains one connection may send in a turn, so that one bulk download does not
/// hold up the rest; it goes on in the next turn.
const TRAINS_MAX: usize = 8;
/// Connection IDs of ours that may wait to be told to a peer, beside those it is
/// given at first. Each that it retires is replaced, as often as it likes, while
/// one that acknowledges nothing is sent nothing: quinn-proto would keep them all.
const IDS_UNSENT_MAX: u64 = 64;

/// What a server does with a new connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdmissionLimits {
    /// Connections of this core, above which new ones are refused.
    pub(crate) connections_max: usize,
    /// Unfinished handshakes, above which a client must prove its address first
    /// (RFC 9000 section 8.1.2).
    pub(crate) handshakes_max: usize,
    /// Unfinished handshakes above which nobody begins another, proven or not.
    pub(crate) handshakes_most: usize,
    /// Connections that clients of one network hold, above which theirs are refused; `None` for no bound.
    pub(crate) per_network_max: Option<NonZeroU32>,
    /// Time after which a handshake that is not done is ended. A client that
    /// keeps talking would never fall silent, and so keep its place for ever.
    pub(crate) handshake_timeout: Option<Duration>,
}

/// A handshake, and when it must be done.
struct Handshake {
    until: Instant,
    connection: usize,
    generation: u32,
}

pub(crate) struct Connection<S> {
    pub(crate) quic: qp::Connection,
    pub(crate) generation: u32,
    pub(crate) state: S,
    /// When the connection is looked at without a packet: at its deadline, or
    /// earlier when that has moved back since.
    timer: Option<(Instant, TimerKey)>,
    listener: ListenerId,
    /// Whose share it takes: known as soon as the client's address is proven, and the same from then on, wherever the
    /// client moves.
    network: Option<Network>,
    /// Connection IDs issued since the first.
    ids_replaced: u64,
    dirty: bool,
    drained: bool,
    handshaking: bool,
}

/// What the driver counts; the owner copies it to its statistics.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct DriverCounts {
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    pub(crate) handshakes_refused: u64,
    pub(crate) crowded: u64,
    pub(crate) retried: u64,
    pub(crate) rejected: u64,
    pub(crate) closed: u64,
    pub(crate) handshakes_timed_out: u64,
    pub(crate) ids_hoarded: u64,
    pub(crate) forged: u64,
    pub(crate) stateless_sent: u64,
    pub(crate) versions_told: u64,
    pub(crate) resets_sent: u64,
    pub(crate) stateless_lost: u64,
    pub(crate) key_updates: u64,
    pub(crate) path_challenges: u64,
    pub(crate) crypto_frames: u64,
}

/// How far sending for one connection came.
enum Progress {
    Done,
    /// It used up its share of the turn.
    More,
    /// No send slot was free.
    Starved,
}

pub(crate) struct Driver<S> {
    endpoint: qp::Endpoint,
    /// By quinn-proto's handle.
    connections: Vec<Option<Box<Connection<S>>>>,
    live: usize,
    handshaking: usize,
    /// In the order of their beginning, hence of their end; the foremost is under
    /// way. At most one a connection begun within the time limit.
    handshakes: VecDeque<Handshake>,
    timers: TimerWheel<usize>,
    /// Timers that came before their deadline.
    moved: Vec<usize>,
    dirty: Vec<usize>,
    /// How far `next_event` has come in `dirty`.
    cursor: usize,
    /// Packets that belong to no connection: refusals, retries, resets.
    loose: Vec<(ListenerId, qp::Transmit, Vec<u8>)>,
    /// Connections over [`IDS_UNSENT_MAX`], to be closed in this turn.
    hoarders: Vec<usize>,
    /// Who has connections, and how many of them.
    networks: Networks,
    /// Connections that turned out to be more than their network may have, to be closed in this turn.
    crowd: Vec<usize>,
    scratch: Vec<u8>,
    generation: u32,
    limits: AdmissionLimits,
    pub(crate) accepting: bool,
    pub(crate) counts: DriverCounts,
}

impl<S: Default> Driver<S> {
    pub(crate) fn new(endpoint: qp::Endpoint, limits: AdmissionLimits, now: Instant) -> Self {
        Self {
            endpoint,
            connections: Vec::new(),
            live: 0,
            handshaking: 0,
            handshakes: VecDeque::new(),
            timers: TimerWheel::new(now),
            moved: Vec::new(),
            dirty: Vec::new(),
            cursor: 0,
            loose: Vec::new(),
            hoarders: Vec::new(),
            networks: Networks::new(limits.per_network_max),
            crowd: Vec::new(),
            scratch: Vec::new(),
            generation: 0,
            limits,
            accepting: true,
            counts: DriverCounts::default(),
        }
    }

    /// Connections there are, closing ones included.
    pub(crate) fn len(&self) -> usize {
        self.live
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut Connection<S>> {
        self.connections.get_mut(index)?.as_deref_mut()
    }

    /// The connection, if the place has not passed to another.
    pub(crate) fn get_generation(&mut self, index: usize, generation: u32) -> Option<&mut Connection<S>> {
        self.get_mut(index).filter(|connection| connection.generation == generation)
    }

    /// Places for connections, free ones among them.
    pub(crate) fn places(&self) -> usize {
        self.connections.len()
    }

    pub(crate) fn indices(&self) -> Vec<usize> {
        (0..self.connections.len()).filter(|&i| self.connections[i].is_some()).collect()
    }

    /// Sees to it that the connection is looked at before the turn ends.
    pub(crate) fn mark(&mut self, index: usize) {
        if let Some(connection) = self.connections.get_mut(index).and_then(Option::as_deref_mut)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(index);
        }
    }

    /// Takes in one datagram. Does not touch the ring, so it may run within
    /// [`sluice_core::udp::UdpSocket::with_arrived`].
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        listener: ListenerId,
        meta: &ReceiveMeta,
        datagram: &[u8],
    ) {
        self.scratch.clear();
        let ecn = qp::EcnCodepoint::from_bits(meta.ecn);
        let data = BytesMut::from(datagram);
        let event = self.endpoint.handle(now, meta.source, meta.destination, ecn, data, &mut self.scratch);
        match event {
            Some(qp::DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(connection) = self.get_mut(handle.0) {
                    if connection.listener == listener {
                        connection.quic.handle_event(event);
                    } else if was_authentic(&mut connection.quic, event) {
                        // A client may move to another of our addresses.
                        connection.listener = listener;
                    } else {
                        self.counts.forged += 1;
                    }
                    self.mark(handle.0);
                }
            }
            Some(qp::DatagramEvent::NewConnection(incoming)) => self.admit(now, listener, incoming),
            Some(qp::DatagramEvent::Response(transmit)) => self.queue_loose(listener, transmit),
            None => {}
        }
    }

    fn admit(&mut self, now: Instant, listener: ListenerId, incoming: qp::Incoming) {
        self.scratch.clear();
        if let Some(reason) = self.refusal(&incoming) {
            *reason += 1;
            let transmit = self.endpoint.refuse(incoming, &mut self.scratch);
            self.queue_loose(listener, transmit);
            return;
        }
        if self.handshaking >= self.limits.handshakes_max && incoming.may_retry() {
            self.counts.retried += 1;
            if let Ok(transmit) = self.endpoint.retry(incoming, &mut self.scratch) {
                self.queue_loose(listener, transmit);
            }
            return;
        }
        let proven = incoming.remote_address_validated().then(|| incoming.remote_address().ip());
        match self.endpoint.accept(incoming, now, &mut self.scratch, None) {
            Ok((handle, quic)) => {
                self.counts.accepted += 1;
                self.insert(handle, quic, listener);
                if let Some(address) = proven {
                    self.take_share(handle.0, address);
                }
                if let Some(timeout) = self.limits.handshake_timeout {
                    let (connection, generation) = (handle.0, self.generation);
                    self.handshakes.push_back(Handshake { until: now + timeout, connection, generation });
                }
            }
            Err(error) => {
                self.counts.rejected += 1;
                tracing::debug!(error = %error.cause, "connection attempt rejected");
                if let Some(transmit) = error.response {
                    self.queue_loose(listener, transmit);
                }
            }
        }
    }

    /// Why a client is not let in, as the count of it.
    fn refusal(&mut self, incoming: &qp::Incoming) -> Option<&mut u64> {
        let Self { limits, counts, .. } = self;
        if !self.accepting || self.live >= limits.connections_max {
            return Some(&mut counts.refused);
        }
        // Whoever answers a Retry is let in above `handshakes_max`, and may say nothing more.
        if self.handshaking >= limits.handshakes_most {
            return Some(&mut counts.handshakes_refused);
        }
        let network = Network::of(incoming.remote_address().ip());
        (!self.networks.has_room(network)).then_some(&mut counts.crowded)
    }

    /// Counts a connection for the network it comes from, whose address is proven by now: before, anyone could use up
    /// the share of another. One that has no room is closed.
    fn take_share(&mut self, index: usize, address: IpAddr) {
        let Some(connection) = self.connections[index].as_deref_mut() else { return };
        let network = Network::of(address);
        if connection.network.is_some() {
            return;
        }
        if self.networks.enter(network) {
            connection.network = Some(network);
        } else {
            self.crowd.push(index);
        }
    }

    fn close_crowd(&mut self, now: Instant) {
        while let Some(index) = self.crowd.pop() {
            if let Some(connection) = self.connections[index].as_deref_mut()
                && !connection.quic.is_closed()
            {
                let excessive = qp::VarInt::from_u64(ErrorCode::H3_EXCESSIVE_LOAD.value());
                let reason = Bytes::from_static(b"too many connections from this address");
                connection.quic.close(now, excessive.unwrap_or(qp::VarInt::MAX), reason);
                self.counts.crowded += 1;
                self.mark(index);
            }
        }
    }

    /// Starts a connection as a client.
    pub(crate) fn connect(
        &mut self,
        now: Instant,
        listener: ListenerId,
        config: qp::ClientConfig,
        remote: SocketAddr,
        server_name: &str,
    ) -> Result<(usize, u32), qp::ConnectError> {
        let (handle, quic) = self.endpoint.connect(now, config, remote, server_name)?;
        self.insert(handle, quic, listener);
        Ok((handle.0, self.generation))
    }

    fn insert(&mut self, handle: qp::ConnectionHandle, quic: qp::Connection, listener: ListenerId) {
        self.generation = self.generation.wrapping_add(1);
        if self.connections.len() <= handle.0 {
            self.connections.resize_with(handle.0 + 1, || None);
        }
        self.connections[handle.0] = Some(Box::new(Connection {
            quic,
            generation: self.generation,
            state: S::default(),
            timer: None,
            listener,
            network: None,
            ids_replaced: 0,
            dirty: false,
            drained: false,
            handshaking: true,
        }));
        self.live += 1;
        self.handshaking += 1;
        self.mark(handle.0);
    }

    fn queue_loose(&mut self, listener: ListenerId, transmit: qp::Transmit) {
        let bytes = self.scratch[..transmit.size].to_vec();
        self.loose.push((listener, transmit, bytes));
    }

    /// Ends the handshakes that took too long.
    fn expire_handshakes(&mut self, now: Instant) {
        while let Some(&Handshake { until, connection: index, generation }) = self.handshakes.front() {
            if let Some(connection) = self.get_generation(index, generation)
                && connection.handshaking
            {
                if until > now {
                    return;
                }
                connection.quic.close(now, qp::VarInt::from_u32(0), Bytes::new());
                self.counts.handshakes_timed_out += 1;
                self.mark(index);
            }
            self.handshakes.pop_front();
        }
    }

    /// Fires the timers that are due.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.expire_handshakes(now);
        let Self { timers, connections, dirty, moved, .. } = self;
        timers.advance(now, |index| {
            let Some(connection) = connections[index].as_deref_mut() else { return };
            connection.timer = None;
            match connection.quic.poll_timeout() {
                Some(at) if at <= now => connection.quic.handle_timeout(now),
                Some(_) => return moved.push(index),
                None => return,
            }
            if !connection.dirty {
                connection.dirty = true;
                dirty.push(index);
            }
        });
        while let Some(index) = self.moved.pop() {
            self.set_timer(index);
        }
    }

    /// Whether a connection waits to be looked at.
    pub(crate) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// When [`expire`](Self::expire) is due next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let handshake = self.handshakes.front().map(|handshake| handshake.until);
        self.timers.next_deadline().into_iter().chain(handshake).min()
    }

    /// The next event of a connection that has any.
    pub(crate) fn next_event(&mut self) -> Option<(usize, qp::Event)> {
        while let Some(&index) = self.dirty.get(self.cursor) {
            self.pass_endpoint_events(index);
            if let Some(connection) = self.connections[index].as_deref_mut() {
                if let Some(event) = connection.quic.poll() {
                    if matches!(event, qp::Event::Connected) {
                        let address = connection.quic.remote_address().ip();
                        self.handshake_over(index);
                        self.take_share(index, address);
                    }
                    return Some((index, event));
                }
                if connection.drained {
                    self.remove(index);
                }
            }
            self.cursor += 1;
        }
        None
    }

    fn handshake_over(&mut self, index: usize) {
        if let Some(connection) = self.connections[index].as_deref_mut()
            && std::mem::take(&mut connection.handshaking)
        {
            self.handshaking -= 1;
        }
    }

    fn pass_endpoint_events(&mut self, index: usize) {
        let Some(connection) = self.connections[index].as_deref_mut() else { return };
        while let Some(event) = connection.quic.poll_endpoint_events() {
            connection.drained |= event.is_drained();
            // Its answer are new connection IDs: the first, and then one for each retired.
            if let Some(event) = self.endpoint.handle_event(qp::ConnectionHandle(index), event) {
                connection.quic.handle_event(event);
                connection.ids_replaced += 1;
                let sent = connection.quic.stats().frame_tx.new_connection_id;
                if connection.ids_replaced > sent + IDS_UNSENT_MAX {
                    self.hoarders.push(index);
                }
            }
        }
    }

    fn close_hoarders(&mut self, now: Instant) {
        while let Some(index) = self.hoarders.pop() {
            if let Some(connection) = self.connections[index].as_deref_mut()
                && !connection.quic.is_closed()
            {
                let excessive = qp::VarInt::from_u64(ErrorCode::H3_EXCESSIVE_LOAD.value());
                let reason = Bytes::from_static(b"connection IDs retired and not acknowledged");
                connection.quic.close(now, excessive.unwrap_or(qp::VarInt::MAX), reason);
                self.counts.ids_hoarded += 1;
                self.mark(index);
            }
        }
    }

    fn remove(&mut self, index: usize) {
        self.handshake_over(index);
        if let Some(connection) = self.connections[index].take() {
            if let Some((_, key)) = connection.timer {
                self.timers.cancel(key);
            }
            if let Some(network) = connection.network {
                self.networks.leave(network);
            }
            self.live -= 1;
            self.counts.closed += 1;
            let frames = connection.quic.stats().frame_rx;
            self.counts.path_challenges += frames.path_challenge;
            self.counts.crypto_frames += frames.crypto;
            self.counts.key_updates += HandshakeFacts::of(&connection.quic).key_updates;
        }
    }

    /// Sends what every dirty connection has to send, and sets its timer anew.
    /// Returns whether something had to stay behind, so that the caller comes
    /// back soon. Connections that found no slot then come first, those that
    /// used up their share last.
    pub(crate) fn transmit<O: Outlet>(&mut self, now: Instant, outlet: &mut O) -> bool {
        let mut spare = None;
        self.close_hoarders(now);
        self.close_crowd(now);
        self.send_loose(outlet, &mut spare);
        self.cursor = 0;
        let mut has_more = Vec::new();
        let mut starved = std::mem::take(&mut self.dirty);
        starved.retain(|&index| {
            let progress = self.transmit_connection(now, index, outlet, &mut spare);
            match (progress, self.get_mut(index)) {
                (Progress::Done, Some(connection)) => connection.dirty = false,
                (Progress::More, Some(_)) => has_more.push(index),
                (Progress::Starved, Some(_)) => return true,
                (_, None) => {}
            }
            false
        });
        self.dirty = starved;
        self.dirty.append(&mut has_more);
        !self.dirty.is_empty()
    }

    /// `spare` is a buffer that was acquired and not filled.
    fn transmit_connection<O: Outlet>(
        &mut self,
        now: Instant,
        index: usize,
        outlet: &mut O,
        spare: &mut Option<O::Buffer>,
    ) -> Progress {
        let mut progress = Progress::More;
        for _ in 0..TRAINS_MAX {
            let Some(connection) = self.connections[index].as_deref_mut() else { return Progress::Done };
            let Some(mut buffer) = spare.take().or_else(|| outlet.acquire()) else {
                progress = Progress::Starved;
                break;
            };
            match connection.quic.poll_transmit(now, TRAIN_DATAGRAMS_MAX, O::bytes(&mut buffer)) {
                Some(transmit) => outlet.send(connection.listener, &send_meta(&transmit), buffer),
                None => {
                    *spare = Some(buffer);
                    progress = Progress::Done;
                    break;
                }
            }
        }
        if self.get_mut(index).is_some_and(|connection| connection.quic.is_drained()) {
            // It ended while sending: its place is emptied once the owner has
            // taken the events that say so.
            return Progress::More;
        }
        self.pass_endpoint_events(index);
        self.set_timer(index);
        progress
    }

    fn set_timer(&mut self, index: usize) {
        let Some(connection) = self.connections[index].as_deref_mut() else { return };
        let Some(wanted) = connection.quic.poll_timeout() else { return };
        // Nearly every packet moves the deadline back: the timer stays, and is
        // set anew when it finds itself early.
        if connection.timer.as_ref().is_some_and(|(at, _)| *at <= wanted) {
            return;
        }
        if let Some((_, key)) = connection.timer.take() {
            self.timers.cancel(key);
        }
        connection.timer = Some((wanted, self.timers.insert(wanted, index)));
    }

    fn send_loose<O: Outlet>(&mut self, outlet: &mut O, spare: &mut Option<O::Buffer>) {
        for (listener, transmit, bytes) in self.loose.drain(..) {
            // Without a slot the packet is lost, as it may be on the wire.
            let Some(mut buffer) = spare.take().or_else(|| outlet.acquire()) else {
                self.counts.stateless_lost += 1;
                continue;
            };
            self.counts.stateless_sent += 1;
            match Stateless::of(&bytes) {
                Stateless::Versions => self.counts.versions_told += 1,
                Stateless::Reset => self.counts.resets_sent += 1,
                Stateless::Other => {}
            }
            O::bytes(&mut buffer).extend_from_slice(&bytes);
            outlet.send(listener, &send_meta(&transmit), buffer);
        }
    }
}

/// What a packet says that belongs to no connection (RFC 9000 sections 17.2.1 and 10.3).
enum Stateless {
    /// Which versions of QUIC there are.
    Versions,
    Reset,
    /// Retry, or a refusal: they are counted when they are decided on.
    Other,
}

impl Stateless {
    fn of(packet: &[u8]) -> Self {
        match packet {
            [first, ..] if first & LONG_HEADER == 0 => Self::Reset,
            [_, 0, 0, 0, 0, ..] => Self::Versions,
            _ => Self::Other,
        }
    }
}

/// Hands a datagram to a connection, and tells whether its peer made it. Anyone
/// who has seen a connection ID can send a datagram that bears it; only a packet
/// that authenticates, and is no repetition, has its frames counted.
fn was_authentic(quic: &mut qp::Connection, event: qp::ConnectionEvent) -> bool {
    let before = frames_received(quic);
    quic.handle_event(event);
    frames_received(quic) > before
}

/// Frames a connection has received, of the kinds that a peer may send. Padding
/// alone is not counted.
fn frames_received(quic: &qp::Connection) -> u64 {
    let frames = quic.stats().frame_rx;
    [
        frames.acks,
        frames.crypto,
        frames.connection_close,
        frames.data_blocked,
        frames.datagram,
        frames.max_data,
        frames.max_stream_data,
        frames.max_streams_bidi,
        frames.max_streams_uni,
        frames.new_connection_id,
        frames.new_token,
        frames.path_challenge,
        frames.path_response,
        frames.ping,
        frames.reset_stream,
        frames.retire_connection_id,
        frames.stream_data_blocked,
        frames.streams_blocked_bidi,
        frames.streams_blocked_uni,
        frames.stop_sending,
        frames.stream,
    ]
    .iter()
    .sum()
}

fn send_meta(transmit: &qp::Transmit) -> SendMeta {
    SendMeta {
        destination: transmit.destination,
        source: transmit.src_ip,
        ecn: transmit.ecn.map_or(0, |ecn| ecn as u8),
        segment: transmit.segment_size.and_then(|size| u16::try_from(size).ok()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use super::*;
    use crate::quic::steering::Port;

    /// So many send slots are free.
    struct Slots(usize);

    impl Outlet for Slots {
        type Buffer = Vec<u8>;

        fn acquire(&mut self) -> Option<Vec<u8>> {
            self.0 = self.0.checked_sub(1)?;
            Some(Vec::new())
        }

        fn bytes(buffer: &mut Vec<u8>) -> &mut Vec<u8> {
            buffer
        }

        fn send(&mut self, _: ListenerId, _: &SendMeta, _: Vec<u8>) {}
    }

    #[test]
    fn a_packet_without_a_connection_that_finds_no_send_slot_is_lost_and_counted() {
        let mut config = qp::EndpointConfig::default();
        config.cid_generator(|| Box::new(qp::RandomConnectionIdGenerator::new(8)));
        let endpoint = qp::Endpoint::new(Arc::new(config), None, true, None);
        let limits = AdmissionLimits {
            connections_max: 1,
            handshakes_max: 1,
            handshakes_most: 1,
            per_network_max: None,
            handshake_timeout: None,
        };
        let began = Instant::now();
        let mut driver = Driver::<()>::new(endpoint, limits, began);
        let listener = ListenerId { address: 0, port: Port::Shared };
        let source = SocketAddr::from((Ipv4Addr::LOCALHOST, 1000));
        let unknown = [0x40; 60];
        let meta = ReceiveMeta { source, destination: None, ecn: 0, segment: unknown.len() };
        for (second, slots, expected) in [(1, 0, (0, 0, 1)), (2, 1, (1, 1, 1)), (3, 0, (1, 1, 2))] {
            let now = began + Duration::from_secs(second);
            driver.receive(now, listener, &meta, &unknown);
            assert!(!driver.transmit(now, &mut Slots(slots)), "it is not kept for later");
            let DriverCounts { stateless_sent, resets_sent, stateless_lost, .. } = driver.counts;
            assert_eq!((stateless_sent, resets_sent, stateless_lost), expected);
        }
    }
}

//! A hop between client and server that can lead packets astray, and that keeps
//! an eye on their ECN marks.

use std::io::IoSliceMut;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

#[derive(Default)]
struct Shared {
    client: Mutex<Option<SocketAddr>>,
    /// Where the last short-header packet went: like a translator of addresses,
    /// the relay lets answers in from there alone.
    reached: Mutex<Option<SocketAddr>>,
    /// Where short-header packets go instead.
    astray: Mutex<Option<SocketAddr>>,
    marks_ce: AtomicU64,
    /// Nothing reaches the client.
    is_cut: AtomicBool,
    /// The client's last packet with a short header.
    last: Mutex<Vec<u8>>,
    /// Packets with a long header that came from the client.
    long_from_client: AtomicU64,
    counts: [Counts; 2],
}

/// Packets with a short header, of one direction.
#[derive(Default)]
struct Counts {
    capable: AtomicU64,
    other: AtomicU64,
}

#[derive(Clone, Copy)]
pub(crate) enum Direction {
    ToServer = 0,
    ToClient = 1,
}

pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    back: Arc<Socket>,
    _tasks: JoinSet<()>,
}

struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl Socket {
    async fn bind() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let state = UdpSocketState::new((&socket).into()).unwrap();
        Self { socket, state }
    }

    async fn receive(&self, buffer: &mut [u8]) -> RecvMeta {
        let mut meta = RecvMeta::default();
        let receive = || {
            let mut slices = [IoSliceMut::new(buffer)];
            self.state.recv((&self.socket).into(), &mut slices, std::slice::from_mut(&mut meta))
        };
        self.socket.async_io(Interest::READABLE, receive).await.unwrap();
        meta
    }

    async fn send(&self, destination: SocketAddr, ecn: Option<EcnCodepoint>, contents: &[u8]) {
        let transmit = Transmit { destination, ecn, contents, segment_size: None, src_ip: None };
        // As on the wire, a packet may be lost.
        let _ = self
            .socket
            .async_io(Interest::WRITABLE, || self.state.try_send((&self.socket).into(), &transmit))
            .await;
    }
}

impl Relay {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let (front, back) = (Arc::new(Socket::bind().await), Arc::new(Socket::bind().await));
        let address = front.socket.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        let (a, b, state) = (Arc::clone(&front), Arc::clone(&back), Arc::clone(&shared));
        tasks.spawn(async move { pass(&a, &b, &state, Direction::ToServer, server).await });
        let (a, b, state) = (Arc::clone(&back), front, Arc::clone(&shared));
        tasks.spawn(async move { pass(&a, &b, &state, Direction::ToClient, server).await });
        Self { address, shared, back, _tasks: tasks }
    }

    /// Sends a packet like the client's last, by the client's address, whose seal
    /// is broken.
    pub(crate) async fn forge(&self, to: SocketAddr) {
        let mut packet = self.shared.last.lock().unwrap().clone();
        *packet.last_mut().expect("the client has spoken") ^= 1;
        self.back.send(to, None, &packet).await;
    }

    /// Leads the client's short-header packets to another address, or home again.
    pub(crate) fn lead_astray(&self, to: Option<SocketAddr>) {
        *self.shared.astray.lock().unwrap() = to;
    }

    /// Loses every packet to the client, or no more.
    pub(crate) fn cut(&self, is_cut: bool) {
        self.shared.is_cut.store(is_cut, Ordering::SeqCst);
    }

    /// Handshake packets that the client has sent so far, the same ones again
    /// among them.
    pub(crate) fn handshake_packets(&self) -> u64 {
        self.shared.long_from_client.load(Ordering::SeqCst)
    }

    /// Marks the next packets to the server as having met congestion.
    pub(crate) fn mark_ce(&self, packets: u64) {
        self.shared.marks_ce.store(packets, Ordering::SeqCst);
    }

    /// Packets with and without an ECN mark since the last call.
    pub(crate) fn take_counts(&self, direction: Direction) -> (u64, u64) {
        let counts = &self.shared.counts[direction as usize];
        (counts.capable.swap(0, Ordering::SeqCst), counts.other.swap(0, Ordering::SeqCst))
    }
}

async fn pass(from: &Socket, to: &Socket, shared: &Shared, direction: Direction, server: SocketAddr) {
    let mut buffer = vec![0; 65_536];
    loop {
        let meta = from.receive(&mut buffer).await;
        if matches!(direction, Direction::ToClient) && shared.is_cut.load(Ordering::SeqCst) {
            continue;
        }
        if let Direction::ToServer = direction {
            *shared.client.lock().unwrap() = Some(meta.addr);
        }
        for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
            let is_short = datagram[0] & 0x80 == 0;
            if matches!(direction, Direction::ToServer) && !is_short {
                shared.long_from_client.fetch_add(1, Ordering::SeqCst);
            }
            let destination = match direction {
                Direction::ToServer if is_short => shared.astray.lock().unwrap().unwrap_or(server),
                Direction::ToServer => server,
                Direction::ToClient => shared.client.lock().unwrap().expect("the client speaks first"),
            };
            if is_short && !shared.lets_through(direction, meta.addr, destination) {
                continue;
            }
            if let (Direction::ToServer, true) = (direction, is_short) {
                *shared.last.lock().unwrap() = datagram.to_vec();
            }
            let ecn = if is_short { shared.look_at(direction, meta.ecn) } else { meta.ecn };
            to.send(destination, ecn, datagram).await;
        }
    }
}

impl Shared {
    fn lets_through(&self, direction: Direction, from: SocketAddr, to: SocketAddr) -> bool {
        let mut reached = self.reached.lock().unwrap();
        match direction {
            Direction::ToServer => *reached = Some(to),
            Direction::ToClient => return reached.is_none_or(|reached| reached == from),
        }
        true
    }

    fn look_at(&self, direction: Direction, ecn: Option<EcnCodepoint>) -> Option<EcnCodepoint> {
        let counts = &self.counts[direction as usize];
        let counter = if ecn == Some(EcnCodepoint::Ect0) { &counts.capable } else { &counts.other };
        counter.fetch_add(1, Ordering::SeqCst);
        let take = |left: u64| left.checked_sub(1);
        match direction {
            Direction::ToServer
                if self.marks_ce.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() =>
            {
                Some(EcnCodepoint::Ce)
            }
            _ => ecn,
        }
    }
}

//! A place where one client finds the gateway: its address stays the same over restarts, and what passes can be kept,
//! held back and sent again.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Longest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_536;

/// See the module. Ends when dropped.
pub struct Front {
    /// Where the client sends to.
    pub address: SocketAddr,
    gateway: watch::Sender<SocketAddr>,
    /// Whether answers get through; until then they are kept.
    answers: watch::Sender<bool>,
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
    _tasks: JoinSet<()>,
}

impl Front {
    /// Leads to a gateway; its answers get through.
    pub async fn start(gateway: SocketAddr) -> Self {
        let bind = async || Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket"));
        let (front, back) = (bind().await, bind().await);
        let address = front.local_addr().expect("bound");
        let (gateway, to) = watch::channel(gateway);
        let (answers, gate) = watch::channel(true);
        let (client, clients) = watch::channel(None);
        let sent = Arc::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(pass_on(Arc::clone(&front), Arc::clone(&back), to, client, Arc::clone(&sent)));
        tasks.spawn(pass_back(back, front, gate, clients));
        Self { address, gateway, answers, sent, _tasks: tasks }
    }

    /// Leads to another gateway from now on.
    pub fn lead_to(&self, gateway: SocketAddr) {
        self.gateway.send_replace(gateway);
    }

    /// Keeps the gateway's answers back, or lets them through.
    pub fn hold(&self, is_held: bool) {
        self.answers.send_replace(!is_held);
    }

    /// All datagrams of the client so far.
    pub fn sent(&self) -> Vec<Vec<u8>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn pass_on(
    front: Arc<UdpSocket>,
    back: Arc<UdpSocket>,
    to: watch::Receiver<SocketAddr>,
    client: watch::Sender<Option<SocketAddr>>,
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let (len, source) = front.recv_from(&mut buffer).await.expect("received");
        client.send_replace(Some(source));
        sent.lock().unwrap_or_else(PoisonError::into_inner).push(buffer[..len].to_vec());
        let to = *to.borrow();
        // Where nobody listens it is lost, as on the wire.
        let _ = back.send_to(&buffer[..len], to).await;
    }
}

async fn pass_back(
    back: Arc<UdpSocket>,
    front: Arc<UdpSocket>,
    mut gate: watch::Receiver<bool>,
    clients: watch::Receiver<Option<SocketAddr>>,
) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let mut held = Vec::new();
    loop {
        tokio::select! {
            received = back.recv(&mut buffer) => held.push(buffer[..received.expect("received")].to_vec()),
            changed = gate.changed() => if changed.is_err() { return },
        }
        let (client, is_open) = (*clients.borrow(), *gate.borrow());
        if let (true, Some(client)) = (is_open, client) {
            for datagram in held.drain(..) {
                let _ = front.send_to(&datagram, client).await;
            }
        }
    }
}

//! A client whose packets carry other frames than its transport put into them.
//!
//! The frames are replaced at the last moment, before they are sealed; so the
//! transport at hand sees to handshake, packet numbers and pace, and the server
//! gets, in valid packets, whatever a test makes up. Its acknowledgements are
//! replaced as well: the server hears of nothing that it sends.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use quinn::crypto::rustls::QuicClientConfig;
use quinn_proto::crypto::{
    ClientConfig, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, ConnectionId, Side, TransportError};
use sluice_net::tls::{Trust, client_crypto};

/// Writes frames in place of those of a packet, which it must fill; what it
/// leaves is zero, which is padding.
pub(crate) type Write = Box<dyn FnMut(&mut Frames<'_>) + Send>;

/// Room for frames in a packet.
pub(crate) struct Frames<'a> {
    room: &'a mut [u8],
    used: usize,
}

impl Frames<'_> {
    /// Whether the frame still fitted; if not, nothing was written.
    pub(crate) fn push(&mut self, frame: &[u8]) -> bool {
        let Some(room) = self.room.get_mut(self.used..self.used + frame.len()) else { return false };
        room.copy_from_slice(frame);
        self.used += frame.len();
        true
    }

    /// Puts a frame at the end, if it fits.
    fn push_last(&mut self, frame: &[u8]) -> bool {
        let Some(at) = self.room.len().checked_sub(frame.len()) else { return false };
        self.room[at..].copy_from_slice(frame);
        self.used = self.room.len();
        true
    }
}

/// The switch between a good client and a bad one.
#[derive(Clone, Default)]
struct Switch {
    write: Arc<Mutex<Option<Write>>>,
    is_deaf: Arc<AtomicBool>,
}

struct Config(Arc<QuicClientConfig>, Switch);

impl ClientConfig for Config {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let inner = Arc::clone(&self.0).start_session(version, server_name, params)?;
        Ok(Box::new(Tampering { inner, switch: self.1.clone() }))
    }
}

struct Tampering {
    inner: Box<dyn Session>,
    switch: Switch,
}

impl Tampering {
    fn tamper(&self, keys: KeyPair<Box<dyn PacketKey>>) -> KeyPair<Box<dyn PacketKey>> {
        let tamper = |inner| Box::new(TamperingKey { inner, switch: self.switch.clone() });
        KeyPair { local: tamper(keys.local), remote: tamper(keys.remote) }
    }
}

impl Session for Tampering {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.inner.read_handshake(buf)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let Keys { header, packet } = self.inner.write_handshake(buf)?;
        Some(Keys { header, packet: self.tamper(packet) })
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.inner.next_1rtt_keys().map(|keys| self.tamper(keys))
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}

struct TamperingKey {
    inner: Box<dyn PacketKey>,
    switch: Switch,
}

impl PacketKey for TamperingKey {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let is_short = buf[0] & 0x80 == 0;
        let end = buf.len() - self.inner.tag_len();
        if let (true, Some(write)) = (is_short, self.switch.write.lock().unwrap().as_mut()) {
            let room = &mut buf[header_len..end];
            room.fill(0);
            write(&mut Frames { room, used: 0 });
        }
        self.inner.encrypt(packet, buf, header_len);
    }

    fn decrypt(&self, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        if self.switch.is_deaf.load(Ordering::Relaxed) {
            return Err(CryptoError);
        }
        self.inner.decrypt(packet, header, payload)
    }

    fn tag_len(&self) -> usize {
        self.inner.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.inner.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.inner.integrity_limit()
    }
}

/// A connection that turns bad.
pub(crate) struct Client {
    switch: Switch,
    _endpoint: quinn::Endpoint,
    pub(crate) quic: quinn::Connection,
}

impl Client {
    pub(crate) async fn connect(remote: SocketAddr) -> Self {
        let tls = client_crypto(Trust::AnyServer).unwrap();
        let switch = Switch::default();
        let config = Config(Arc::new(QuicClientConfig::try_from(tls).unwrap()), switch.clone());
        let mut transport = quinn::TransportConfig::default();
        // Nothing is waited for: as many packets as there are bytes to send.
        let mut pace = quinn::congestion::NewRenoConfig::default();
        pace.initial_window(16 << 20);
        transport.congestion_controller_factory(Arc::new(pace));
        transport.send_window(64 << 20).mtu_discovery_config(None);
        let mut config = quinn::ClientConfig::new(Arc::new(config));
        config.transport_config(Arc::new(transport));
        let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
        let quic = endpoint.connect_with(config, remote, "localhost").unwrap().await.unwrap();
        Self { switch, _endpoint: endpoint, quic }
    }

    /// Makes a request and waits for its answer.
    pub(crate) async fn ask(&self) {
        let section = [&[0, 0, 0xd1, 0xd7, 0xc1, 0x50, 9][..], b"localhost"].concat();
        let (mut send, mut receive) = self.quic.open_bi().await.unwrap();
        let head = [&[1, u8::try_from(section.len()).unwrap()][..], &section].concat();
        send.write_all(&head).await.unwrap();
        send.finish().unwrap();
        assert!(!receive.read_to_end(1_000).await.unwrap().is_empty());
    }

    /// Loses what the server sends from now on, so that the transport at hand does
    /// not mind what comes of frames it knows nothing of.
    pub(crate) fn turn_deaf(&self) {
        self.switch.is_deaf.store(true, Ordering::Relaxed);
    }

    /// Sends one packet with frames of `write`; others that the transport sends of
    /// its own carry a PING. Bytes of `stream` are the occasion.
    pub(crate) async fn send_one(
        &self,
        stream: &mut quinn::SendStream,
        mut write: impl FnMut(&mut Frames<'_>) + Send + 'static,
    ) {
        let (sent, wait) = tokio::sync::oneshot::channel();
        let mut sent = Some(sent);
        *self.switch.write.lock().unwrap() = Some(Box::new(move |frames| match sent.take() {
            Some(sent) => {
                write(frames);
                let _ = sent.send(());
            }
            None => assert!(frames.push(&[1])),
        }));
        let _ = stream.write_all(&[0; 100]).await;
        let _ = wait.await;
    }

    /// Sends one small packet with a frame at its end; padding comes before it.
    pub(crate) async fn send_last(&self, stream: &mut quinn::SendStream, frame: Vec<u8>) {
        let (sent, wait) = tokio::sync::oneshot::channel();
        let mut sent = Some(sent);
        *self.switch.write.lock().unwrap() = Some(Box::new(move |frames| {
            if sent.is_some() && frames.push_last(&frame) {
                let _ = sent.take().map(|sent| sent.send(()));
            } else {
                assert!(frames.push(&[1]));
            }
        }));
        let _ = stream.write_all(&[0; 8]).await;
        tokio::select! {
            _ = wait => {}
            _ = self.quic.closed() => {}
        }
    }

    /// Sends this many packets with frames of `write`, or until the server has had
    /// enough.
    pub(crate) async fn flood(
        &self,
        packets: usize,
        mut write: impl FnMut(&mut Frames<'_>) + Send + 'static,
    ) {
        let (sent, mut wait) = tokio::sync::mpsc::unbounded_channel();
        *self.switch.write.lock().unwrap() = Some(Box::new(move |frames| {
            write(frames);
            let _ = sent.send(());
        }));
        // Bytes that never arrive: they only make the transport send packets.
        let mut streams = vec![];
        for _ in 0..4 {
            streams.push(self.quic.open_uni().await.unwrap());
        }
        for stream in &mut streams {
            // As far as credit goes.
            let writing = stream.write_all(&[0; 256 << 10]);
            let _ = tokio::time::timeout(std::time::Duration::from_millis(1), writing).await;
        }
        for _ in 0..packets {
            tokio::select! {
                _ = wait.recv() => {}
                _ = self.quic.closed() => return,
            }
        }
    }
}

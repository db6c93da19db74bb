//! UDP with everything QUIC wants: GRO and GSO, ECN, and the local address of
//! each datagram.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::task::Poll;

use crate::executor::{try_with_inner, with_inner};
use crate::io::{Arrival, Backend as _, CONTROL_BYTES, NAME_BYTES};

/// Send operations a core may have in flight; each holds one GSO train.
pub const SEND_SLOTS_MAX: usize = 1024;

const UDP_SEGMENT: libc::c_int = 103;
const UDP_GRO: libc::c_int = 104;

/// What came with a datagram (or a GRO train of equal ones).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveMeta {
    /// Who sent it.
    pub source: SocketAddr,
    /// Local address it was sent to, to answer from the same one.
    pub destination: Option<IpAddr>,
    /// The two ECN bits.
    pub ecn: u8,
    /// Length of each datagram of the train but the last, which may be shorter.
    pub segment: usize,
}

/// Where and how to send.
#[derive(Clone, Copy, Debug)]
pub struct SendMeta {
    /// To whom.
    pub destination: SocketAddr,
    /// Local address to send from; `None` leaves it to routing.
    pub source: Option<IpAddr>,
    /// The two ECN bits.
    pub ecn: u8,
    /// Split the buffer into datagrams of this length (GSO).
    pub segment: Option<u16>,
}

/// A UDP socket that receives on this core.
pub struct UdpSocket {
    fd: Arc<OwnedFd>,
    index: usize,
}

impl UdpSocket {
    /// Starts receiving on a bound, non-blocking socket. Turns on GRO, ECN and
    /// packet information; where the kernel has no GRO, datagrams come singly.
    ///
    /// # Errors
    /// When an option that every supported kernel has is refused, or the socket
    /// cannot be watched.
    ///
    /// # Panics
    /// Outside a reactor.
    pub fn new(fd: Arc<OwnedFd>) -> io::Result<Self> {
        set_options(fd.as_fd())?;
        let index = with_inner(|inner| inner.io.borrow_mut().attach(Arc::clone(&fd)))?;
        Ok(Self { fd, index })
    }

    /// The socket's address.
    ///
    /// # Errors
    /// As `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let socket = std::net::UdpSocket::from(self.fd.try_clone()?);
        socket.local_addr()
    }

    /// The descriptor, for sends that leave by this socket.
    pub fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    /// Ready when something has arrived.
    pub fn poll_arrived(&self, cx: &std::task::Context<'_>) -> Poll<()> {
        let ready = with_inner(|inner| inner.io.borrow_mut().poll_arrived(self.index, cx.waker()));
        if ready { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Hands the oldest arrival to `f`, in place: the bytes are the buffer the
    /// kernel wrote to, which goes back when `f` returns. `f` must not receive,
    /// send or spawn operations (the backend is borrowed).
    ///
    /// Returns `None` when nothing has arrived; `Some(None)` when the arrival
    /// was unreadable and dropped (counted).
    pub fn with_arrived<R>(&self, f: impl FnOnce(&ReceiveMeta, &mut [u8]) -> R) -> Option<Option<R>> {
        with_inner(|inner| {
            let stats = &inner.stats;
            inner.io.borrow_mut().with_arrived(self.index, |arrival| {
                let Some((meta, payload)) = arrival.and_then(parse) else {
                    stats.udp_receive_invalid.add(1);
                    return None;
                };
                stats.udp_receives.add(1);
                stats.udp_bytes_in.add(payload.len() as u64);
                stats.udp_datagrams_in.add(payload.len().div_ceil(meta.segment.max(1)) as u64);
                Some(f(&meta, payload))
            })
        })
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        // With the reactor gone, its backend has let go already.
        try_with_inner(|inner| inner.io.borrow_mut().detach(self.index));
    }
}

/// A send buffer from the core's pool. Its memory stays where it is until the
/// kernel has sent it.
pub struct SendBuffer(Option<Box<SendSlot>>);

impl SendBuffer {
    /// A buffer to fill; `None` when all of [`SEND_SLOTS_MAX`] are in flight.
    pub fn acquire() -> Option<Self> {
        with_inner(|inner| inner.io.borrow_mut().acquire_slot()).map(|slot| Self(Some(slot)))
    }

    /// The bytes to send; empty at first, its capacity kept from earlier use.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        self.0.as_mut().expect("present until sent").bytes()
    }

    /// Queues the buffer; it leaves with this turn's enter. A refusal by the
    /// kernel is counted and otherwise like a loss on the wire.
    pub fn send(mut self, fd: &Arc<OwnedFd>, meta: &SendMeta) {
        let mut slot = self.0.take().expect("present until sent");
        slot.address(meta);
        with_inner(|inner| inner.io.borrow_mut().send(slot, Arc::clone(fd)));
    }
}

impl Drop for SendBuffer {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take() {
            try_with_inner(|inner| inner.io.borrow_mut().release_slot(slot));
        }
    }
}

/// What one `sendmsg` points to. Lives in a box, so its address is stable.
pub(crate) struct SendSlot {
    bytes: Vec<u8>,
    /// A `sockaddr_in` or `sockaddr_in6`, aligned for either.
    name: [u64; 4],
    name_len: usize,
    /// Aligned for `cmsghdr`.
    control: [u64; CONTROL_BYTES / 8],
    control_len: usize,
    iov: libc::iovec,
    header: libc::msghdr,
}

impl Default for SendSlot {
    fn default() -> Self {
        // SAFETY: all-zero is a valid msghdr: null pointers and zero lengths.
        let header = unsafe { mem::zeroed() };
        Self {
            bytes: Vec::new(),
            name: [0; 4],
            name_len: 0,
            control: [0; CONTROL_BYTES / 8],
            control_len: 0,
            iov: libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 },
            header,
        }
    }
}

impl SendSlot {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
    }

    pub(crate) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    fn address(&mut self, meta: &SendMeta) {
        self.name_len = write_name(&meta.destination, &mut self.name);
        self.control_len = 0;
        if let Some(segment) = meta.segment {
            self.push_control(libc::SOL_UDP, UDP_SEGMENT, &segment.to_ne_bytes());
        }
        let is_v4 = matches!(meta.destination.ip().to_canonical(), IpAddr::V4(_));
        if meta.ecn != 0 {
            let ecn = libc::c_int::from(meta.ecn).to_ne_bytes();
            if is_v4 {
                self.push_control(libc::IPPROTO_IP, libc::IP_TOS, &ecn);
            } else {
                self.push_control(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &ecn);
            }
        }
        match meta.source {
            Some(IpAddr::V4(source)) => {
                // in_pktinfo: interface, address to send from, destination.
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&source.octets());
                self.push_control(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            Some(IpAddr::V6(source)) => {
                // in6_pktinfo: address, then interface.
                let mut info = [0; 20];
                info[..16].copy_from_slice(&source.octets());
                self.push_control(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
    }

    fn push_control(&mut self, level: libc::c_int, kind: libc::c_int, data: &[u8]) {
        const HEADER: usize = size_of::<libc::cmsghdr>();
        let space = HEADER + data.len().next_multiple_of(8);
        assert!(self.control_len + space <= CONTROL_BYTES, "control messages are few and small");
        // SAFETY: a cmsghdr has no invalid bit patterns and no padding on the
        // supported targets, so its bytes may be written.
        let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
        header.cmsg_level = level;
        header.cmsg_type = kind;
        header.cmsg_len = (HEADER + data.len()) as _;
        // SAFETY: `control` has room for `space` bytes at `control_len` (checked
        // above) and is aligned to eight; source and target do not overlap.
        unsafe {
            let at = self.control.as_mut_ptr().cast::<u8>().add(self.control_len);
            at.cast::<libc::cmsghdr>().write(header);
            std::ptr::copy_nonoverlapping(data.as_ptr(), at.add(HEADER), data.len());
        }
        self.control_len += space;
    }

    /// The header for `sendmsg`, pointing into this slot; the caller keeps the
    /// slot in its box until the operation has completed.
    pub(crate) fn header(&mut self) -> *const libc::msghdr {
        self.iov.iov_base = self.bytes.as_mut_ptr().cast();
        self.iov.iov_len = self.bytes.len();
        self.header.msg_name = (&raw mut self.name).cast();
        self.header.msg_namelen = libc::socklen_t::try_from(self.name_len).expect("at most 28");
        self.header.msg_iov = &raw mut self.iov;
        self.header.msg_iovlen = 1;
        self.header.msg_control =
            if self.control_len == 0 { std::ptr::null_mut() } else { self.control.as_mut_ptr().cast() };
        self.header.msg_controllen = self.control_len as _;
        &raw const self.header
    }
}

fn set_options(fd: BorrowedFd<'_>) -> io::Result<()> {
    let raw = fd.as_raw_fd();
    // GRO is a gain, not a need.
    let _ = set_flag(raw, libc::SOL_UDP, UDP_GRO, 1);
    if is_v4(raw)? {
        set_flag(raw, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
        set_flag(raw, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        // Path MTU discovery needs datagrams that are never fragmented.
        set_flag(raw, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
    } else {
        set_flag(raw, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        set_flag(raw, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        set_flag(raw, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
    }
}

fn is_v4(fd: RawFd) -> io::Result<bool> {
    let mut domain: libc::c_int = 0;
    let mut len = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("4");
    // SAFETY: writes at most `len` bytes into `domain`, both live here.
    let result = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_DOMAIN, (&raw mut domain).cast(), &raw mut len)
    };
    if result == 0 { Ok(domain == libc::AF_INET) } else { Err(io::Error::last_os_error()) }
}

fn set_flag(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("4");
    // SAFETY: reads `len` bytes from `value`, which lives here.
    let result = unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn parse(arrival: Arrival<'_>) -> Option<(ReceiveMeta, &mut [u8])> {
    let Arrival { name, control, payload } = arrival;
    let source = parse_name(name)?;
    let mut meta = ReceiveMeta { source, destination: None, ecn: 0, segment: payload.len() };
    parse_control(control, &mut meta);
    Some((meta, payload))
}

/// Lays an address out as the kernel reads it, and returns its length.
fn write_name(address: &SocketAddr, words: &mut [u64; 4]) -> usize {
    let mut name = [0u8; 32];
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    name[..2].copy_from_slice(&u16::try_from(family).expect("a small constant").to_ne_bytes());
    name[2..4].copy_from_slice(&address.port().to_be_bytes());
    let len = match address {
        SocketAddr::V4(v4) => {
            name[4..8].copy_from_slice(&v4.ip().octets());
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            name[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
            name[8..24].copy_from_slice(&v6.ip().octets());
            name[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            NAME_BYTES
        }
    };
    for (word, bytes) in words.iter_mut().zip(name.chunks_exact(8)) {
        *word = u64::from_ne_bytes(bytes.try_into().expect("chunks of eight"));
    }
    len
}

fn parse_name(name: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(name.get(..2)?.try_into().ok()?);
    let port = u16::from_be_bytes(name.get(2..4)?.try_into().ok()?);
    match libc::c_int::from(family) {
        libc::AF_INET => {
            let octets: [u8; 4] = name.get(4..8)?.try_into().ok()?;
            Some(SocketAddrV4::new(Ipv4Addr::from(octets), port).into())
        }
        libc::AF_INET6 => {
            let flow = u32::from_be_bytes(name.get(4..8)?.try_into().ok()?);
            let octets: [u8; 16] = name.get(8..24)?.try_into().ok()?;
            let scope = u32::from_ne_bytes(name.get(24..28)?.try_into().ok()?);
            Some(SocketAddrV6::new(Ipv6Addr::from(octets), port, flow, scope).into())
        }
        _ => None,
    }
}

fn parse_control(mut control: &[u8], meta: &mut ReceiveMeta) {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    while control.len() >= HEADER {
        // SAFETY: at least HEADER bytes are there, every bit pattern is a valid
        // cmsghdr, and the read does not ask for alignment.
        let header: libc::cmsghdr = unsafe { control.as_ptr().cast::<libc::cmsghdr>().read_unaligned() };
        #[allow(clippy::unnecessary_cast, reason = "the field's type differs between libcs")]
        let len = header.cmsg_len as usize;
        if len < HEADER || len > control.len() {
            return;
        }
        let data = &control[HEADER..len];
        match (header.cmsg_level, header.cmsg_type) {
            (libc::SOL_UDP, UDP_GRO) => {
                if let Some(size) = data.first_chunk().map(|b| i32::from_ne_bytes(*b)) {
                    meta.segment = usize::try_from(size).unwrap_or(meta.segment);
                }
            }
            // Linux gives the TOS as one byte, the traffic class as an int.
            (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                meta.ecn = data.first().map_or(0, |tos| tos & 0b11);
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // The second address: the one in the packet's header.
                let octets = data.get(8..12).and_then(|b| <[u8; 4]>::try_from(b).ok());
                meta.destination = octets.map(|o| Ipv4Addr::from(o).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let octets = data.get(..16).and_then(|b| <[u8; 16]>::try_from(b).ok());
                meta.destination = octets.map(|o| Ipv6Addr::from(o).into());
            }
            _ => {}
        }
        let next = len.next_multiple_of(8);
        if next >= control.len() {
            return;
        }
        control = &control[next..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CoreId, Reactor, ReactorConfig, sleep};
    use std::time::Duration;

    fn socket(address: &str) -> Arc<OwnedFd> {
        let socket = std::net::UdpSocket::bind(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        Arc::new(socket.into())
    }

    fn run<T: 'static>(future: impl Future<Output = T> + 'static) -> T {
        Reactor::new(ReactorConfig::new(CoreId::new(0))).unwrap().block_on(future).unwrap()
    }

    async fn receive(socket: &UdpSocket) -> (ReceiveMeta, Vec<u8>) {
        std::future::poll_fn(|cx| socket.poll_arrived(cx)).await;
        socket.with_arrived(|meta, bytes| (*meta, bytes.to_vec())).unwrap().unwrap()
    }

    fn pattern() -> Vec<u8> {
        (0..=u8::MAX).cycle().take(2500).collect()
    }

    fn check_train(address: &'static str) {
        run(async move {
            let from = UdpSocket::new(socket(address)).unwrap();
            let to = UdpSocket::new(socket(address)).unwrap();
            let mut buffer = SendBuffer::acquire().unwrap();
            buffer.bytes().extend(pattern());
            let destination = to.local_addr().unwrap();
            let source = Some(from.local_addr().unwrap().ip());
            buffer.send(from.fd(), &SendMeta { destination, source, ecn: 0b10, segment: Some(1000) });
            let mut bytes = vec![];
            while bytes.len() < 2500 {
                let (meta, part) = receive(&to).await;
                assert_eq!(meta.source, from.local_addr().unwrap());
                assert_eq!(meta.destination, Some(destination.ip()));
                assert_eq!(meta.ecn, 0b10);
                assert!(meta.segment <= 1000);
                bytes.extend(part);
            }
            assert_eq!(bytes, pattern());
        });
    }

    #[test]
    fn a_train_arrives_whole_with_address_and_ecn_over_ipv4() {
        check_train("127.0.0.1:0");
    }

    #[test]
    fn a_train_arrives_whole_with_address_and_ecn_over_ipv6() {
        check_train("[::1]:0");
    }

    /// Sends a datagram of two bytes for each number, from a socket of its own,
    /// so that GRO cannot join them, with turns in between that take none.
    async fn send_each(numbers: std::ops::Range<u16>, to: SocketAddr) {
        for n in numbers {
            let from = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            from.send_to(&n.to_be_bytes(), to).unwrap();
            if n % 20 == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        }
    }

    async fn take_each(count: u16, from: &UdpSocket) {
        let mut seen = vec![];
        while seen.len() < usize::from(count) {
            let (_, bytes) = receive(from).await;
            seen.push(u16::from_be_bytes(bytes.try_into().unwrap()));
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..count).collect::<Vec<_>>());
    }

    fn with_stats<F: Future<Output = ()> + 'static>(test: impl FnOnce(Arc<crate::CoreStats>) -> F) {
        let config = ReactorConfig::new(CoreId::new(0));
        let stats = Arc::clone(&config.stats);
        Reactor::new(config).unwrap().block_on(test(stats)).unwrap();
    }

    #[test]
    fn receiving_goes_on_after_buffers_ran_out() {
        with_stats(|stats| async move {
            let to = UdpSocket::new(socket("127.0.0.1:0")).unwrap();
            // More datagrams than there are buffers at first.
            send_each(0..200, to.local_addr().unwrap()).await;
            take_each(200, &to).await;
            assert!(stats.udp_receive_starved.get() > 0, "the pool never ran dry: nothing was tested");
        });
    }

    #[test]
    fn a_socket_waits_in_peace_when_every_buffer_is_taken() {
        with_stats(|stats| async move {
            let to = UdpSocket::new(socket("127.0.0.1:0")).unwrap();
            // More datagrams than there ever may be buffers; the rest waits in the socket.
            send_each(0..600, to.local_addr().unwrap()).await;
            let starved = stats.udp_receive_starved.get();
            assert!(starved > 0, "the pool never ran dry: nothing was tested");
            let turns = stats.turns.get();
            for _ in 0..20 {
                sleep(Duration::from_millis(1)).await;
            }
            assert!(stats.turns.get() >= turns + 20);
            assert_eq!(stats.udp_receive_starved.get(), starved, "tried again with no buffer given back");
            take_each(600, &to).await;
        });
    }

    #[test]
    fn send_slots_are_bounded_and_come_back() {
        with_stats(|stats| async move {
            let mut held: Vec<_> = (0..SEND_SLOTS_MAX).map(|_| SendBuffer::acquire().unwrap()).collect();
            assert_eq!(stats.udp_send_slots_exhausted.get(), 0);
            assert!(SendBuffer::acquire().is_none());
            assert_eq!(stats.udp_send_slots_exhausted.get(), 1);
            held.pop();
            assert!(SendBuffer::acquire().is_some());
        });
    }

    #[test]
    fn a_socket_can_be_dropped_while_receiving() {
        run(async {
            let fd = socket("127.0.0.1:0");
            let first = UdpSocket::new(Arc::clone(&fd)).unwrap();
            let address = first.local_addr().unwrap();
            std::net::UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"lost", address).unwrap();
            sleep(Duration::from_millis(1)).await;
            drop(first);
            sleep(Duration::from_millis(1)).await;
            let second = UdpSocket::new(fd).unwrap();
            std::net::UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"kept", address).unwrap();
            assert_eq!(receive(&second).await.1, b"kept");
        });
    }
}

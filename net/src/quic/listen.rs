//! The sockets of all cores.
//!
//! For every address, each core has a socket in the group that shares the port
//! and one on a port of its own. They are made together, before the cores start,
//! since the kernel numbers a group in the order of binding.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use sluice_core::CoreId;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::steering::{self, CoreCount, Port};

/// Where to listen.
#[derive(Debug, Clone)]
pub struct ListenConfig {
    /// Addresses with the shared port; all ports equal, at least one address.
    /// Port 0 lets the system choose.
    pub addresses: Vec<SocketAddr>,
    /// Port of core 0; core `i` takes this plus `i`. `None`: right after the
    /// shared port, or system-chosen where that is.
    pub core_port_base: Option<u16>,
    /// Receive buffer asked for, in bytes, for each socket. Many handshakes at
    /// once overflow the usual 208 KiB.
    pub receive_buffer_bytes: usize,
}

/// A socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// No address was given.
    #[error("no address to listen on; give at least one, such as 0.0.0.0:443")]
    NoAddress,
    /// Ports past 65535.
    #[error("core ports {base} and up run past 65535 with {cores} cores; choose a lower base")]
    PortRange {
        /// First of them.
        base: u16,
        /// How many are needed.
        cores: usize,
    },
    /// The kernel refused an address.
    #[error("cannot listen on {address} ({source}); is another program using it, or is the port below 1024?")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// The refusal.
        source: io::Error,
    },
    /// The steering program was refused.
    #[error("cannot attach the steering program on {address}: {source}")]
    Steering {
        /// Which group.
        address: SocketAddr,
        /// The refusal.
        source: io::Error,
    },
}

/// Names one of a core's sockets: which address, which of its two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListenerId {
    pub(crate) address: usize,
    pub(crate) port: Port,
}

/// One core's sockets, and the way to those of the others.
pub struct CoreListeners {
    pub(crate) core: CoreId,
    pub(crate) cores: CoreCount,
    /// By address, then by core: the group that shares a port. Every core holds
    /// all of it, so that none is closed, and the rest renumbered, before the
    /// last core has ended.
    pub(crate) shared: Arc<[Vec<Arc<OwnedFd>>]>,
    /// By address, then by core: the own ports of all cores. A packet that came
    /// in by another core's port is answered through that port.
    pub(crate) own: Arc<[Vec<Arc<OwnedFd>>]>,
}

impl CoreListeners {
    /// The socket to send by: of the shared group this core's, of the own ports
    /// the one that is meant.
    pub(crate) fn fd(&self, listener: ListenerId) -> &Arc<OwnedFd> {
        match listener.port {
            Port::Shared => &self.shared[listener.address][self.core.index()],
            Port::Own(core) => &self.own[listener.address][core.index()],
        }
    }
}

/// All sockets of the process, bound and steered.
pub struct Listeners {
    /// The addresses with the ports really used.
    pub addresses: Vec<SocketAddr>,
    /// Own port of each core (on the first address, where the system chose).
    pub core_ports: Vec<u16>,
    /// Receive buffer the kernel granted, in bytes.
    pub receive_buffer_granted_bytes: usize,
    cores: Vec<CoreListeners>,
}

impl Listeners {
    /// Binds everything.
    ///
    /// # Errors
    /// When an address cannot be had; nothing stays bound then.
    pub fn bind(config: &ListenConfig, cores: CoreCount) -> Result<Self, ListenError> {
        if config.addresses.is_empty() {
            return Err(ListenError::NoAddress);
        }
        let mut addresses = Vec::new();
        let mut groups = Vec::new();
        let mut own = Vec::new();
        let mut core_ports = Vec::new();
        let mut granted = usize::MAX;
        for &wanted in &config.addresses {
            let (address, group) = bind_group(wanted, cores, config.receive_buffer_bytes, &mut granted)?;
            let base = own_port_base(config, wanted, address, cores)?;
            let (ports, sockets) = bind_own(address, base, cores, config.receive_buffer_bytes)?;
            if core_ports.is_empty() {
                core_ports = ports;
            }
            addresses.push(address);
            groups.push(group);
            own.push(sockets);
        }
        let (shared, own): (Arc<[_]>, Arc<[_]>) = (groups.into(), own.into());
        let cores = (0..cores.get())
            .map(|index| CoreListeners {
                core: CoreId::new(u16::try_from(index).expect("at most 256")),
                cores,
                shared: Arc::clone(&shared),
                own: Arc::clone(&own),
            })
            .collect();
        Ok(Self { addresses, core_ports, receive_buffer_granted_bytes: granted, cores })
    }

    /// Takes the steering program off again. Everything still works, but most
    /// packets land on the wrong core and are forwarded: for tests of that, and
    /// to measure what steering is worth.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn without_steering(self) -> io::Result<Self> {
        for group in self.cores.first().into_iter().flat_map(|core| core.shared.iter()) {
            if let [first, _, ..] = &group[..] {
                steering::detach(first.as_fd())?;
            }
        }
        Ok(self)
    }

    /// Hands each core its sockets, in the order of their indices.
    pub fn into_cores(self) -> Vec<CoreListeners> {
        self.cores
    }
}

fn own_port_base(
    config: &ListenConfig,
    wanted: SocketAddr,
    bound: SocketAddr,
    cores: CoreCount,
) -> Result<Option<u16>, ListenError> {
    let base = match config.core_port_base {
        Some(base) => base,
        None if wanted.port() == 0 => return Ok(None),
        None => bound
            .port()
            .checked_add(1)
            .ok_or_else(|| ListenError::PortRange { base: bound.port(), cores: cores.get() })?,
    };
    if usize::from(base) + cores.get() > usize::from(u16::MAX) + 1 {
        return Err(ListenError::PortRange { base, cores: cores.get() });
    }
    Ok(Some(base))
}

fn bind_group(
    mut address: SocketAddr,
    cores: CoreCount,
    buffer_bytes: usize,
    granted: &mut usize,
) -> Result<(SocketAddr, Vec<Arc<OwnedFd>>), ListenError> {
    let mut group: Vec<Arc<OwnedFd>> = Vec::with_capacity(cores.get());
    for index in 0..cores.get() {
        // The first is bound for itself alone: a shared bind would silently join the group of another
        // gateway on this port and take its packets.
        let (fd, bound, size) = bind(address, index > 0, buffer_bytes)?;
        *granted = size.min(*granted);
        // The first may have been given a port; the rest join it.
        address = bound;
        if index == 0 {
            SockRef::from(&*fd)
                .set_reuse_port(true)
                .map_err(|source| ListenError::Bind { address, source })?;
        }
        group.push(fd);
    }
    // A socket that nobody joined is no group, and there is nothing to steer.
    if cores.get() > 1 {
        steering::attach(group[0].as_fd(), cores)
            .map_err(|source| ListenError::Steering { address, source })?;
    }
    Ok((address, group))
}

fn bind_own(
    address: SocketAddr,
    base: Option<u16>,
    cores: CoreCount,
    buffer_bytes: usize,
) -> Result<(Vec<u16>, Vec<Arc<OwnedFd>>), ListenError> {
    let mut ports = Vec::new();
    let mut sockets = Vec::new();
    for index in 0..cores.get() {
        let port = base.map_or(0, |base| base + u16::try_from(index).expect("at most 256"));
        let (fd, bound, _) = bind(SocketAddr::new(address.ip(), port), false, buffer_bytes)?;
        ports.push(bound.port());
        sockets.push(fd);
    }
    Ok((ports, sockets))
}

fn bind(
    address: SocketAddr,
    share: bool,
    buffer_bytes: usize,
) -> Result<(Arc<OwnedFd>, SocketAddr, usize), ListenError> {
    let make = || -> io::Result<(Arc<OwnedFd>, SocketAddr, usize)> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            // Each family has sockets of its own: control messages differ.
            socket.set_only_v6(true)?;
        }
        if share {
            socket.set_reuse_port(true)?;
        }
        socket.set_nonblocking(true)?;
        ask_for_buffers(&socket, buffer_bytes);
        socket.bind(&address.into())?;
        let granted = socket.recv_buffer_size()?;
        let socket = UdpSocket::from(socket);
        let bound = socket.local_addr()?;
        Ok((Arc::new(OwnedFd::from(socket)), bound, granted))
    };
    make().map_err(|source| ListenError::Bind { address, source })
}

/// Asks for large buffers: past the system's limit where we may, up to it
/// elsewhere. What was granted is reported, so a refusal is no error.
pub(crate) fn ask_for_buffers(socket: &Socket, bytes: usize) {
    if force_buffer(socket, libc::SO_RCVBUFFORCE, bytes).is_err() {
        let _ = socket.set_recv_buffer_size(bytes);
    }
    if force_buffer(socket, libc::SO_SNDBUFFORCE, bytes).is_err() {
        let _ = socket.set_send_buffer_size(bytes);
    }
}

fn force_buffer(socket: &Socket, option: libc::c_int, bytes: usize) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    let len = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("4");
    // SAFETY: reads `len` bytes from `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const value).cast(), len)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(address: &str) -> ListenConfig {
        ListenConfig {
            addresses: vec![address.parse().unwrap()],
            core_port_base: None,
            receive_buffer_bytes: 1 << 20,
        }
    }

    /// The kernel's program and our own reading of a packet must agree.
    #[test]
    fn the_kernel_steers_by_connection_id() {
        let cores = CoreCount::new(3).unwrap();
        let listeners = Listeners::bind(&config("127.0.0.1:0"), cores).unwrap();
        let to = listeners.addresses[0];
        let sockets: Vec<UdpSocket> = listeners
            .into_cores()
            .into_iter()
            .map(|core| {
                let id = ListenerId { address: 0, port: Port::Shared };
                UdpSocket::from(core.fd(id).try_clone().unwrap())
            })
            .collect();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for id in [0u16, 1, 2, 3, 500, 501, 502, 65_534, 65_535] {
            let [a, b] = id.to_be_bytes();
            for packet in [vec![0x40, a, b, 1], vec![0xc0, 0, 0, 0, 1, 8, a, b, 1, 1, 1, 1, 1, 1]] {
                client.send_to(&packet, to).unwrap();
                let expected = steering::owner(&packet, Port::Shared, cores).unwrap();
                let mut seen = vec![];
                for (index, socket) in sockets.iter().enumerate() {
                    let mut buffer = [0; 64];
                    while let Ok((len, _)) = socket.recv_from(&mut buffer) {
                        assert_eq!(&buffer[..len], packet);
                        seen.push(index);
                    }
                }
                assert_eq!(seen, [expected.index()]);
            }
        }
    }

    /// Closing one socket of a group makes the kernel number the rest anew.
    #[test]
    fn steering_holds_when_cores_end_one_by_one() {
        let count = CoreCount::new(4).unwrap();
        let listeners = Listeners::bind(&config("127.0.0.1:0"), count).unwrap();
        let to = listeners.addresses[0];
        let mut cores = listeners.into_cores();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        while cores.len() > 1 {
            cores.remove(0);
            for core in &cores {
                let socket = SockRef::from(&**core.fd(ListenerId { address: 0, port: Port::Shared }));
                for n in 0..8 {
                    client.send_to(&[0x40, 0, u8::try_from(core.core.index()).unwrap(), n], to).unwrap();
                    let mut buffer = [std::mem::MaybeUninit::uninit(); 8];
                    assert_eq!(socket.recv(&mut buffer).unwrap(), 4);
                }
            }
        }
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let error = Listeners::bind(&config(&address), CoreCount::new(1).unwrap()).err().unwrap();
        assert!(error.to_string().contains(&address), "{error}");
    }

    #[test]
    fn the_port_of_another_gateway_is_not_shared_with_it() {
        for count in [1, 2] {
            let cores = CoreCount::new(count).unwrap();
            let first = Listeners::bind(&config("127.0.0.1:0"), cores).unwrap();
            let address = first.addresses[0].to_string();
            for others in [1, 3] {
                let mut config = config(&address);
                config.core_port_base = Some(0);
                let error = Listeners::bind(&config, CoreCount::new(others).unwrap()).err().unwrap();
                assert!(error.to_string().contains(&address), "{error}");
            }
        }
    }

    #[test]
    fn core_ports_past_the_end_are_refused() {
        let mut config = config("127.0.0.1:0");
        config.core_port_base = Some(65_530);
        let error = Listeners::bind(&config, CoreCount::new(16).unwrap()).err().unwrap();
        assert!(matches!(error, ListenError::PortRange { base: 65_530, cores: 16 }));
    }
}

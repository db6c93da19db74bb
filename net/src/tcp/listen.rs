//! The TCP sockets, on the addresses and the port number of the UDP ones.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::quic::listen::{ListenConfig, ListenError, Listeners};
use crate::quic::steering::CoreCount;

/// Connections the kernel may have ready for us; its own limit (`net.core.somaxconn`) still holds.
const BACKLOG: i32 = 4_096;
/// When the system chooses the ports: how often it is asked for another, the first time included, because the one
/// it chose for UDP is taken for TCP.
const PORT_ATTEMPTS_MAX: usize = 16;

/// Why the sockets could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A UDP socket.
    #[error(transparent)]
    Udp(#[from] ListenError),
    /// A TCP socket on the port number that UDP has.
    #[error(
        "cannot listen on {address} over TCP ({source}); another program may be using it: stop that, choose another \
         listen.port, or set listen.tcp to false"
    )]
    Tcp {
        /// Which.
        address: SocketAddr,
        /// The refusal.
        source: io::Error,
    },
}

/// Binds the UDP sockets, and beside each shared one a TCP socket of the same address and port.
///
/// # Errors
/// When an address cannot be had; nothing stays bound then. Where the system chooses the port, another is tried.
pub fn bind(config: &ListenConfig, cores: CoreCount) -> Result<(Listeners, Vec<TcpListener>), BindError> {
    let is_chosen_for_us = config.addresses.iter().any(|address| address.port() == 0);
    let attempts = if is_chosen_for_us { PORT_ATTEMPTS_MAX } else { 1 };
    let mut attempt = 1;
    loop {
        let listeners = Listeners::bind(config, cores)?;
        match listeners.addresses.iter().map(|address| listen(*address)).collect() {
            Ok(tcp) => return Ok((listeners, tcp)),
            Err(BindError::Tcp { source, .. })
                if source.kind() == io::ErrorKind::AddrInUse && attempt < attempts =>
            {
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, BindError> {
    let make = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // Past connections in TIME_WAIT must not stand in the way of a restart; a listener still does.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    make().map_err(|source| BindError::Tcp { address, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(addresses: &[&str]) -> ListenConfig {
        ListenConfig {
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            core_port_base: None,
            receive_buffer_bytes: 1 << 20,
        }
    }

    #[test]
    fn tcp_has_the_addresses_and_ports_of_udp() {
        let cores = CoreCount::new(2).unwrap();
        let (udp, tcp) = bind(&config(&["127.0.0.1:0", "[::1]:0"]), cores).unwrap();
        let addresses: Vec<_> = tcp.iter().map(|listener| listener.local_addr().unwrap()).collect();
        assert_eq!(addresses, udp.addresses);
    }

    #[test]
    fn a_port_that_another_program_has_for_tcp_is_named_and_udp_let_go() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let mut config = config(&[&address.to_string()]);
        config.core_port_base = Some(0);
        let error = bind(&config, CoreCount::new(1).unwrap()).err().unwrap();
        assert!(error.to_string().contains(&format!("{address} over TCP")), "{error}");
        assert!(Listeners::bind(&config, CoreCount::new(1).unwrap()).is_ok());
    }
}

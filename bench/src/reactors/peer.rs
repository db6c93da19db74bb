//! The UDP echo: the client is the same for all, on our reactor and the other CPU, in a closed loop with a
//! window. The server's module answers until it gets a datagram of [`STOP_BYTES`].

use std::future::poll_fn;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use sluice_core::udp::{SendBuffer, SendMeta, UdpSocket};
use sluice_core::{CoreId, IoChoice, Reactor, ReactorConfig, timeout_at};

use super::work::{DATAGRAM_BYTES, Places, Spent, WINDOW, join};
use super::{Figures, Runtime, glommio, monoio, ours, tokio};

/// Length of the datagram that ends a server.
pub(super) const STOP_BYTES: usize = 1;
/// How long the client waits before it takes what is missing for lost.
const LOSS_AFTER: Duration = Duration::from_millis(20);
/// How long a server may take to start or to end.
const SERVER_WAIT_MAX: Duration = Duration::from_secs(5);

/// What a server is told.
pub(super) struct EchoJob {
    pub(super) cpu: Option<usize>,
    /// Whether datagrams come in trains, to be sent back as such.
    pub(super) trains: bool,
    /// Where it says its address once it is bound.
    pub(super) bound: mpsc::Sender<SocketAddr>,
}

#[derive(Debug, Default)]
struct Echoed {
    datagrams: u64,
    lost: u64,
    elapsed: Duration,
}

/// One server of a runtime, one client.
pub(super) fn measure_echo(
    runtime: Runtime,
    train: usize,
    duration: Duration,
    places: Places,
) -> anyhow::Result<Figures> {
    let (bound, address) = mpsc::channel();
    let job = EchoJob { cpu: places.tested, trains: train > 1, bound };
    let serve: fn(_) -> _ = match runtime {
        Runtime::SluiceUring => |job| ours::echo(IoChoice::Uring, job),
        Runtime::SluiceEpoll => |job| ours::echo(IoChoice::Epoll, job),
        Runtime::Tokio => tokio::echo,
        Runtime::Monoio => monoio::echo,
        Runtime::Glommio => glommio::echo,
    };
    let server = std::thread::spawn(move || serve(job));
    let address = match address.recv_timeout(SERVER_WAIT_MAX) {
        Ok(address) => address,
        // It gave its end of the channel up, so it ends, and says why.
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            join(server)?;
            bail!("the server ended at once");
        }
        Err(mpsc::RecvTimeoutError::Timeout) => bail!("the server did not start"),
    };
    let client = std::thread::spawn(move || load(address, train, duration, places.driver));
    let echoed = join(client);
    stop(address, || server.is_finished())?;
    let spent: Spent = join(server)?;
    let echoed = echoed?;
    let bounds = echoed.datagrams..=echoed.datagrams + echoed.lost + WINDOW as u64;
    ensure!(bounds.contains(&spent.units), "{} answers to {echoed:?}", spent.units);
    let mut figures = spent.figures(None)?;
    #[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    let per_s = echoed.datagrams as f64 / echoed.elapsed.as_secs_f64();
    figures.per_s = per_s;
    Ok(figures)
}

fn stop(address: SocketAddr, is_gone: impl Fn() -> bool) -> anyhow::Result<()> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let start = Instant::now();
    while !is_gone() {
        socket.send_to(&[0; STOP_BYTES], address)?;
        std::thread::sleep(Duration::from_millis(5));
        if start.elapsed() > SERVER_WAIT_MAX {
            bail!("the server did not end");
        }
    }
    Ok(())
}

fn load(address: SocketAddr, train: usize, duration: Duration, cpu: Option<usize>) -> anyhow::Result<Echoed> {
    let config = ReactorConfig { cpu, io: Some(IoChoice::Auto), ..ReactorConfig::new(CoreId::new(1)) };
    let reactor = Reactor::new(config)?;
    reactor.block_on(async move {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::new(Arc::new(OwnedFd::from(socket)))?;
        let mut credit = WINDOW;
        let mut echoed = Echoed::default();
        let start = Instant::now();
        while start.elapsed() < duration {
            while credit >= train {
                send_train(&socket, address, train)?;
                credit -= train;
            }
            let arrived = poll_fn(|cx| socket.poll_arrived(cx));
            if timeout_at(sluice_core::now() + LOSS_AFTER, arrived).await.is_err() {
                echoed.lost += (WINDOW - credit) as u64;
                credit = WINDOW;
            }
            while let Some(arrived) =
                socket.with_arrived(|meta, bytes| bytes.len().div_ceil(meta.segment.max(1)))
            {
                let count = arrived.context("an unreadable datagram")?;
                echoed.datagrams += count as u64;
                credit = (credit + count).min(WINDOW);
            }
        }
        echoed.elapsed = start.elapsed();
        Ok(echoed)
    })?
}

fn send_train(socket: &UdpSocket, destination: SocketAddr, train: usize) -> anyhow::Result<()> {
    let mut buffer = SendBuffer::acquire().context("no send buffer")?;
    buffer.bytes().resize(DATAGRAM_BYTES * train, 7);
    let segment = if train > 1 { Some(u16::try_from(DATAGRAM_BYTES)?) } else { None };
    buffer.send(socket.fd(), &SendMeta { destination, source: None, ecn: 0, segment });
    Ok(())
}

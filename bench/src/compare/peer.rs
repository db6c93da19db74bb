//! A server of the comparison, as a child process on the server's CPU.
//!
//! Invariant: every child and every temporary directory is in [`RUNNING`] until it is
//! gone, so that a signal that ends the comparison takes them along.

use std::fs::DirBuilder;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use sluice_net::tls::TlsIdentity;

use super::external::External;

/// CPU of the servers.
pub(super) const SERVER_CPU: usize = 0;
/// Longest a server may take to listen.
const START_MAX: Duration = Duration::from_secs(20);
const START_POLL: Duration = Duration::from_millis(20);
/// What is kept of a server's complaints.
const COMPLAINT_BYTES_MAX: u64 = 4096;

static RUNNING: Mutex<Vec<Running>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

struct Running {
    id: u64,
    child: Option<Child>,
    directory: Option<PathBuf>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(directory) = &self.directory {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

/// Ends what runs when this process is told to end.
pub(crate) fn end_with_signals() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        end_all();
        std::process::exit(130);
    });
    Ok(())
}

fn end_all() {
    running().clear();
}

fn running() -> std::sync::MutexGuard<'static, Vec<Running>> {
    // What a panicking thread left in it is still what must be ended.
    RUNNING.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A running server; ended when dropped.
pub(crate) struct Peer {
    id: u64,
    pid: u32,
    pub(crate) address: SocketAddr,
}

impl Peer {
    /// Starts this program again as the named server, and waits for the address it
    /// prints.
    pub(crate) fn start_own(stack: &str, options: &[&str]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.args(["serve-reply", "--stack", stack, "--cpu", &SERVER_CPU.to_string()]).args(options);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let (mut peer, stdout) = Self::spawn(&mut command, None, |child| child.stdout.take())?;
        let mut line = String::new();
        BufReader::new(stdout.context("its output was asked for")?).read_line(&mut line)?;
        peer.address = line
            .trim()
            .parse()
            .with_context(|| format!("the {stack} server did not say where it listens"))?;
        Ok(peer)
    }

    /// Starts another's server and waits until it listens.
    pub(super) fn start_external(external: &External) -> anyhow::Result<Self> {
        let name = external.kind.name();
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("sluice-compare-{}-{id}", std::process::id()));
        // It holds a key, and its name can be guessed: ours alone, or not at all.
        DirBuilder::new().mode(0o700).create(&directory)?;
        let hold = Running { id, child: None, directory: Some(directory.clone()) };
        TlsIdentity::development(&directory)?;
        let address = free_address()?;
        let mut command = external.command(&directory, address.port(), SERVER_CPU)?;
        let (mut peer, stderr) = Self::spawn(&mut command, Some(hold), |child| child.stderr.take())?;
        peer.address = address;
        let deadline = Instant::now() + START_MAX;
        // All of them listen on TCP too, by which it shows that they are there.
        while TcpStream::connect(address).is_err() {
            if let Some(status) = peer.ended()? {
                let mut said = String::new();
                if let Some(stderr) = stderr {
                    let _ = stderr.take(COMPLAINT_BYTES_MAX).read_to_string(&mut said);
                }
                bail!("{name} ended at once ({status}): {}", said.trim());
            }
            if Instant::now() > deadline {
                bail!("{name} did not listen within {} s", START_MAX.as_secs());
            }
            std::thread::sleep(START_POLL);
        }
        if let Some(stderr) = stderr {
            // Read on, so that it never waits for room to complain in.
            std::thread::spawn(move || std::io::copy(&mut { stderr }, &mut std::io::sink()));
        }
        Ok(peer)
    }

    fn spawn<T>(
        command: &mut Command,
        hold: Option<Running>,
        take: impl FnOnce(&mut Child) -> Option<T>,
    ) -> anyhow::Result<(Self, Option<T>)> {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut hold = hold.unwrap_or(Running { id, child: None, directory: None });
        // Locked meanwhile, so that a signal finds the child or comes before it is.
        let mut all = running();
        let program = command.get_program().to_os_string();
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let (taken, pid) = (take(&mut child), child.id());
        hold.child = Some(child);
        let peer = Self { id: hold.id, pid, address: (Ipv4Addr::UNSPECIFIED, 0).into() };
        all.push(hold);
        Ok((peer, taken))
    }

    fn ended(&self) -> anyhow::Result<Option<std::process::ExitStatus>> {
        let mut all = running();
        let entry = all.iter_mut().find(|entry| entry.id == self.id);
        let child = entry.and_then(|entry| entry.child.as_mut()).ok_or_else(|| anyhow!("it was ended"))?;
        Ok(child.try_wait()?)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        running().retain(|entry| entry.id != self.id);
    }
}

/// A port that is free for UDP and TCP at this moment.
fn free_address() -> anyhow::Result<SocketAddr> {
    const TRIES: usize = 100;
    for _ in 0..TRIES {
        let address = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        if std::net::TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port on the loopback address")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lives(pid: u32) -> bool {
        std::path::Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn a_dropped_peer_leaves_neither_process_nor_directory() {
        let directory = tempfile::tempdir().unwrap().keep();
        let hold = Running { id: u64::MAX, child: None, directory: Some(directory.clone()) };
        let mut command = Command::new("sleep");
        command.arg("600");
        let (peer, _) = Peer::spawn(&mut command, Some(hold), |_| None::<()>).unwrap();
        assert!(lives(peer.pid()) && peer.ended().unwrap().is_none());
        let pid = peer.pid();
        drop(peer);
        assert!(!lives(pid) && !directory.exists());
    }

    #[test]
    fn a_program_that_cannot_start_leaves_no_directory() {
        let directory = tempfile::tempdir().unwrap().keep();
        let hold = Running { id: u64::MAX - 1, child: None, directory: Some(directory.clone()) };
        let mut command = Command::new("/nowhere/at/all");
        assert!(Peer::spawn(&mut command, Some(hold), |_| None::<()>).is_err());
        assert!(!directory.exists());
    }
}

//! A server of the comparison, as a child process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::Context;

/// A running server; ended when dropped.
pub(super) struct Peer {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Peer {
    /// Starts this program again as the named server, on CPU 0, and waits for
    /// the address it prints.
    pub(super) fn start(stack: &str) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut child = Command::new(program)
            .args(["serve-reply", "--stack", stack, "--cpu", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start the {stack} server"))?;
        let stdout = child.stdout.take().context("its output was asked for")?;
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        let address = read.map_err(anyhow::Error::from).and_then(|_| Ok(line.trim().parse()?));
        match address {
            Ok(address) => Ok(Self { child, address }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error.context(format!("the {stack} server did not say where it listens")))
            }
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

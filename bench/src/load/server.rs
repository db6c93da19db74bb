//! A small server to try the harness on: a 200-byte reply to everything, in a process
//! of its own.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use sluice_net::tls::{EarlyData, SharedKeys, TlsIdentity, server_crypto};
use tokio_rustls::TlsAcceptor;

use super::plan::Protocol;
use crate::{compare, cpu};

const REPLY: [u8; 200] = [b'x'; 200];

/// Options of the hidden `serve-load` command.
#[derive(Debug, Clone, Args)]
pub struct ServeLoadArgs {
    /// Version of HTTP
    #[arg(long, default_value = "3")]
    pub http: Protocol,
    /// CPU to run on
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Take requests as early data (HTTP/3)
    #[arg(long)]
    pub early_data: bool,
}

/// A running server; ended when dropped.
pub(super) struct OwnServer {
    child: Child,
    pub(super) url: String,
}

impl OwnServer {
    /// Starts `program` (this one) again as a server and waits for its address.
    pub(super) fn start(program: &Path, protocol: Protocol, cpu: Option<usize>) -> anyhow::Result<Self> {
        let http = match protocol {
            Protocol::H3 => "3",
            Protocol::H2 => "2",
            Protocol::H1 => "1.1",
        };
        let mut command = Command::new(program);
        command.args(["serve-load", "--http", http]).stdin(Stdio::null()).stdout(Stdio::piped());
        if let Some(cpu) = cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        let child = command.spawn().context("cannot start a server of our own")?;
        let mut server = Self { child, url: String::new() };
        let stdout = server.child.stdout.take().context("its output was asked for")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address: SocketAddr =
            line.trim().parse().context("the server of our own did not say where it listens")?;
        server.url = format!("https://{address}");
        Ok(server)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves until killed; prints its address first.
pub fn serve(args: &ServeLoadArgs) -> anyhow::Result<()> {
    if args.http == Protocol::H3 {
        return compare::serve(&compare::ServeArgs {
            stack: compare::Stack::Sluice,
            cpu: args.cpu,
            idle_timeout_s: 30,
            early_data: args.early_data,
        });
    }
    if let Some(cpu) = args.cpu {
        cpu::pin_thread(cpu)?;
    }
    let directory = std::env::temp_dir().join(format!("sluice-bench-load-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let identity = TlsIdentity::development(&directory);
    let _ = std::fs::remove_dir_all(&directory);
    let mut tls = (*server_crypto(&identity?, &SharedKeys::generate()?, EarlyData::Off)?).clone();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    tls.max_early_data_size = 0;
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{}", listener.local_addr()?);
        loop {
            let (tcp, _) = listener.accept().await?;
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that goes away is the end of a run, not an error.
                let _ = serve_connection(tcp, &acceptor).await;
            });
        }
    })
}

async fn serve_connection(tcp: tokio::net::TcpStream, acceptor: &TlsAcceptor) -> anyhow::Result<()> {
    tcp.set_nodelay(true)?;
    let io = TokioIo::new(acceptor.accept(tcp).await?);
    let answer = hyper::service::service_fn(|_: http::Request<hyper::body::Incoming>| async {
        let response = http::Response::builder().header("content-type", "text/plain");
        response.body(Full::new(Bytes::from_static(&REPLY)))
    });
    auto::Builder::new(TokioExecutor::new())
        .serve_connection(io, answer)
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))
}

//! The servers under comparison: the same 200-byte reply to every request.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use quinn::crypto::rustls::QuicServerConfig;
use rustls::CipherSuite;
use rustls::server::ServerSessionMemoryCache;
use sluice_core::{CoreId, IoChoice, Reactor, ReactorConfig, mailbox};
use sluice_net::ingress::{self, IngressConfig, ServerIdentity};
use sluice_net::tls::{ALPN_H3, EarlyData, SharedKeys, TlsIdentity, server_crypto};
use sluice_net::{Admit, CoreCount, ListenConfig, Listeners, Request, Responder, Service};
use sluice_protocols::http::{RequestHead, Response};

/// Length of the reply's body, in bytes.
pub(super) const REPLY_BYTES: usize = 200;
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
/// What Sluice remembers, too.
const EARLY_DATA_SESSIONS_MAX: usize = 16_384;

static REPLY: [u8; REPLY_BYTES] = [b'x'; REPLY_BYTES];

/// Which server to be.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Stack {
    /// Sluice's ingress on its reactor, with io_uring where it is allowed.
    Sluice,
    /// The same with io_uring, or not at all.
    SluiceUring,
    /// The same with epoll.
    SluiceEpoll,
    /// The `quinn` and `h3` crates on a tokio current_thread runtime.
    QuinnH3,
}

/// Options of the hidden `serve-reply` command.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Which server to be
    #[arg(long)]
    pub stack: Stack,
    /// CPU to run on
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Silence after which Sluice closes a connection, in seconds
    #[arg(long, default_value_t = 30)]
    pub idle_timeout_s: u64,
    /// Take requests in early data (0-RTT)
    #[arg(long)]
    pub early_data: bool,
}

/// Serves until killed; prints its address first.
pub fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    let directory = std::env::temp_dir().join(format!("sluice-bench-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let identity = TlsIdentity::development(&directory);
    let _ = std::fs::remove_dir_all(&directory);
    let identity = identity?;
    let io = match args.stack {
        Stack::Sluice => IoChoice::Auto,
        Stack::SluiceUring => IoChoice::Uring,
        Stack::SluiceEpoll => IoChoice::Epoll,
        Stack::QuinnH3 => {
            return serve_quinn(args.cpu, stock_tls(identity, args.early_data)?, args.early_data);
        }
    };
    let keys = SharedKeys::generate()?;
    let early_data = if args.early_data { EarlyData::On } else { EarlyData::Off };
    let tls = server_crypto(&identity, &keys, early_data)?;
    serve_sluice(args, io, ServerIdentity { tls, keys })
}

/// TLS as users of quinn have it: rustls with aws-lc-rs as it comes. Only the certificate and the preference for
/// AES-128-GCM are ours, and as many sessions are remembered for early data.
fn stock_tls(identity: TlsIdentity, early_data: bool) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(identity));
    tls.alpn_protocols = vec![ALPN_H3.to_vec()];
    tls.ignore_client_order = true;
    if early_data {
        tls.session_storage = ServerSessionMemoryCache::new(EARLY_DATA_SESSIONS_MAX);
        tls.max_early_data_size = u32::MAX;
    } else {
        tls.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    }
    Ok(Arc::new(tls))
}

struct Reply;

impl Service for Reply {
    fn admit(&self, _: &RequestHead, _: Option<IpAddr>) -> Admit {
        Admit::Body { bytes_max: 65_536 }
    }

    fn call(&self, _: Request, respond: Responder) {
        respond.send(Response::new(200).with_body("text/plain", Bytes::from_static(&REPLY)));
    }

    fn refuse(&self, status: u16, _: &str) -> Response {
        Response::new(status)
    }
}

fn serve_sluice(args: &ServeArgs, io: IoChoice, identity: ServerIdentity) -> anyhow::Result<()> {
    let cores = CoreCount::new(1).context("one is a valid count")?;
    let listen = ListenConfig {
        addresses: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        core_port_base: None,
        receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
    };
    let listeners = Listeners::bind(&listen, cores)?;
    let address = listeners.addresses[0];
    let core = listeners.into_cores().pop().context("one core was asked for")?;
    let own = ReactorConfig::new(CoreId::new(0));
    let reactor = Reactor::new(ReactorConfig { cpu: args.cpu, io: Some(io), ..own })?;
    let config = IngressConfig {
        streams_max: 256,
        // All that load comes from a few addresses.
        connections_per_address_max: None,
        idle_timeout: Duration::from_secs(args.idle_timeout_s),
        ..IngressConfig::default()
    };
    reactor.block_on(async move {
        let forward = mailbox::mesh(1, 1).pop().context("one core")?;
        let _ingress = ingress::start(
            core,
            &identity,
            &config,
            forward,
            Rc::new(Reply),
            Arc::default(),
            Arc::default(),
        )?;
        println!("{address}");
        std::future::pending::<anyhow::Result<()>>().await
    })?
}

fn serve_quinn(cpu: Option<usize>, tls: Arc<rustls::ServerConfig>, early_data: bool) -> anyhow::Result<()> {
    if let Some(cpu) = cpu {
        pin(cpu)?;
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async move {
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
        let mut transport = quinn::TransportConfig::default();
        transport.max_concurrent_bidi_streams(256u32.into());
        config.transport_config(Arc::new(transport));
        let address: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let socket = std::net::UdpSocket::bind(address)?;
        let endpoint = quinn::Endpoint::new(
            quinn::EndpointConfig::default(),
            Some(config),
            socket,
            Arc::new(quinn::TokioRuntime),
        )?;
        println!("{}", endpoint.local_addr()?);
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                // A client that goes away is the end of a run, not an error.
                let _ = serve_quinn_connection(incoming, early_data).await;
            });
        }
        bail!("the endpoint closed")
    })
}

async fn serve_quinn_connection(incoming: quinn::Incoming, early_data: bool) -> anyhow::Result<()> {
    let connection = if early_data {
        // A server's connection can always begin before the handshake is over.
        match incoming.accept()?.into_0rtt() {
            Ok((connection, _)) => connection,
            Err(connecting) => connecting.await?,
        }
    } else {
        incoming.await?
    };
    let connection = h3_quinn::Connection::new(connection);
    let mut connection = h3::server::builder().build::<_, Bytes>(connection).await?;
    while let Some(resolver) = connection.accept().await? {
        tokio::spawn(async move {
            let (_, mut stream) = resolver.resolve_request().await?;
            let response = http::Response::builder()
                .status(200)
                .header("content-type", "text/plain")
                .header("content-length", REPLY_BYTES)
                .body(())?;
            stream.send_response(response).await?;
            stream.send_data(Bytes::from_static(&REPLY)).await?;
            stream.finish().await?;
            anyhow::Ok(())
        });
    }
    Ok(())
}

/// Pins this process by asking `taskset` (util-linux), which every supported
/// system has; a system call of our own would need unsafe code here.
fn pin(cpu: usize) -> anyhow::Result<()> {
    let status = std::process::Command::new("taskset")
        .args(["--all-tasks", "--cpu-list", "--pid", &cpu.to_string(), &std::process::id().to_string()])
        .stdout(std::process::Stdio::null())
        .status()
        .context("cannot run taskset")?;
    if status.success() { Ok(()) } else { bail!("taskset refused CPU {cpu}") }
}

//! What one trial is to do; made by [`super::args`] and the profiles, read by all threads.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use serde::Deserialize;

use super::scenario::Mix;
use super::schedule::Segment;
use super::users::{Users, Zipf};

/// Version of HTTP, and with it the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
pub enum Protocol {
    /// HTTP/3 over QUIC, by the project's own client
    #[value(name = "3", alias = "h3")]
    #[serde(rename = "3")]
    H3,
    /// HTTP/2 over TLS
    #[value(name = "2", alias = "h2")]
    #[serde(rename = "2")]
    H2,
    /// HTTP/1.1 over TLS
    #[value(name = "1.1", alias = "h1")]
    #[serde(rename = "1.1")]
    H1,
}

impl Protocol {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::H3 => "h3",
            Self::H2 => "h2",
            Self::H1 => "h1",
        }
    }
}

/// Where to send to, taken from a URL.
#[derive(Debug, Clone)]
pub struct Target {
    /// Resolved address.
    pub address: SocketAddr,
    /// Name for TLS.
    pub host: String,
    /// Host and port as given.
    pub authority: String,
}

impl Target {
    /// Reads `https://HOST:PORT`.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        let rest =
            url.strip_prefix("https://").with_context(|| format!("{url:?} must start with https://"))?;
        let authority = rest.trim_end_matches('/').to_owned();
        let (host, port) = authority.rsplit_once(':').unwrap_or((&authority, "443"));
        let port: u16 = port.parse().with_context(|| format!("odd port in {url:?}"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let address = (host.as_str(), port)
            .to_socket_addrs()
            .with_context(|| format!("cannot resolve {host}"))?
            .next()
            .with_context(|| format!("{host} has no address"))?;
        Ok(Self { address, host, authority })
    }
}

/// Who decides when requests start.
#[derive(Debug, Clone)]
pub(super) enum Load {
    /// The clock: starts at these rates after the warm-up, which runs at the first of
    /// them; at random moments when asked.
    Open { segments: Vec<Segment>, is_random: bool },
    /// The answers: `streams` requests are under way on each connection at all times.
    Closed,
}

/// How often a request brings a connection of its own, and of what kind.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Shares {
    /// Of all requests.
    pub(super) new_connection: f64,
    /// Of those, resumed from a ticket.
    pub(super) resumption: f64,
    /// Of those, with the request as early data.
    pub(super) early_data: f64,
}

/// One trial.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) target: Target,
    pub(super) protocol: Protocol,
    /// Authorities to trust; none trusts any server.
    pub(super) authorities: Vec<PathBuf>,
    pub(super) mix: Arc<Mix>,
    pub(super) users: Arc<Users>,
    pub(super) zipf: Zipf,
    /// Users come one after the other, not by `zipf`.
    pub(super) in_turn: bool,
    pub(super) load: Load,
    pub(super) warmup: Duration,
    pub(super) duration: Duration,
    pub(super) timeout: Duration,
    /// Connections of all threads.
    pub(super) clients: usize,
    /// Requests at once on a connection.
    pub(super) streams: usize,
    /// Requests at once in an open loop, waiting ones included.
    pub(super) in_flight_max: usize,
    pub(super) shares: Shares,
    /// Requests before a connection is replaced.
    pub(super) requests_per_connection: Option<u64>,
    pub(super) threads: usize,
    /// CPU of the first thread; the others follow.
    pub(super) cpu: Option<usize>,
    /// Cores of the server that connections are spread over by their first ID.
    pub(super) server_cores: Option<usize>,
    pub(super) seed: u64,
    /// Whether a thread looks at the clock instead of sleeping when a start is nearer
    /// than its timers are exact.
    pub(super) spin: bool,
    /// Process to observe.
    pub(super) pid: Option<u32>,
    pub(super) is_quiet: bool,
}

impl Plan {
    /// How much of `total` falls to thread `index`.
    pub(super) fn share(&self, total: usize, index: usize) -> usize {
        total / self.threads + usize::from(index < total % self.threads)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A plan for the tests: one thread, one connection, one request kind.
    pub(in super::super) fn plan() -> Plan {
        let users = Users::anonymous(1).unwrap();
        Plan {
            target: Target::parse("https://127.0.0.1:1").unwrap(),
            protocol: Protocol::H3,
            authorities: vec![],
            mix: Arc::new(Mix::single("GET", "/", None, 200, false).unwrap()),
            zipf: Zipf::new(users.count(), 0.0).unwrap(),
            users: Arc::new(users),
            in_turn: false,
            load: Load::Closed,
            warmup: Duration::ZERO,
            duration: Duration::from_secs(1),
            timeout: Duration::from_secs(10),
            clients: 1,
            streams: 1,
            in_flight_max: 1_000,
            shares: Shares::default(),
            requests_per_connection: None,
            threads: 1,
            cpu: None,
            server_cores: None,
            seed: 1,
            spin: true,
            pid: None,
            is_quiet: true,
        }
    }

    #[test]
    fn shares_add_up() {
        for (total, threads) in [(16, 1), (16, 3), (7, 7), (256, 5)] {
            let plan = Plan { threads, ..plan() };
            assert_eq!((0..threads).map(|index| plan.share(total, index)).sum::<usize>(), total);
        }
    }

    #[test]
    fn urls_give_address_and_names() {
        let target = Target::parse("https://127.0.0.1:4433/").unwrap();
        assert_eq!(target.address, "127.0.0.1:4433".parse::<SocketAddr>().unwrap());
        assert_eq!(target.authority, "127.0.0.1:4433");
        let target = Target::parse("https://[::1]:4433").unwrap();
        assert_eq!((target.host.as_str(), target.address.port()), ("::1", 4433));
        assert!(Target::parse("http://127.0.0.1:1").is_err());
        assert!(Target::parse("https://127.0.0.1:x").is_err());
    }
}

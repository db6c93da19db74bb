//! What the TCP ingress counts, on the page of metrics.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use sluice_net::entrance::Entrance;
use sluice_net::tcp::{Cut, Protocol, ProtocolStats, Refused, TcpStats};

/// The counters of the TCP ingress and of the way from it to the cores. Give it to [`super::Metrics::new`].
pub fn tcp(stats: Arc<TcpStats>, entrance: Entrance) -> Box<dyn Collector> {
    Box::new(Tcp { stats, entrance })
}

struct Tcp {
    stats: Arc<TcpStats>,
    entrance: Entrance,
}

impl std::fmt::Debug for Tcp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tcp").field("stats", &self.stats).finish_non_exhaustive()
    }
}

impl Collector for Tcp {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        self.protocols(&mut encoder)?;
        let Self { stats, entrance } = self;
        total(&mut encoder, "tcp_accepted", "TCP connections accepted", stats.accepted.get())?;
        let help = "Times the kernel gave no TCP connection: out of files or memory";
        total(&mut encoder, "tcp_accept_failures", help, stats.accept_failures.get())?;
        total(&mut encoder, "tcp_resumed", "TLS sessions resumed over TCP", stats.resumed.get())?;
        let help = "Requests over TCP whose client went away before the answer";
        total(&mut encoder, "tcp_abandoned", help, stats.abandoned.get())?;
        let help = "Answers over TCP given up since too much already waited for their client";
        total(&mut encoder, "tcp_over_bound", help, stats.over_bound.get())?;
        let help = "Answers over TCP with bodies in pieces that the service broke off";
        total(&mut encoder, "tcp_broken", help, stats.broken.get())?;
        let cut = Cut::ALL.iter().map(|reason| (reason.name(), stats.cut(*reason)));
        labelled(&mut encoder, "tcp_cut", "TCP connections ended by us, by reason", "reason", cut)?;
        let refused = Refused::ALL.iter().map(|reason| (reason.name(), stats.refused(*reason)));
        let help = "Requests over TCP answered without the service's call, by reason";
        labelled(&mut encoder, "tcp_refused", help, "reason", refused)?;
        let help = "Requests not let into a core, by reason";
        labelled(&mut encoder, "entrance_refused", help, "reason", entrance.stats().each())?;
        let help = "Requests that came over TCP and are with a core";
        let mut pending = encoder.encode_descriptor("entrance_pending", help, None, MetricType::Gauge)?;
        pending.encode_gauge(&(entrance.pending() as u64))
    }
}

impl Tcp {
    fn protocols(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let of = |read: fn(&ProtocolStats) -> u64| {
            Protocol::ALL.map(|protocol| (protocol.name(), read(self.stats.protocol(protocol))))
        };
        let help = "TCP connections open, by protocol";
        let mut open = encoder.encode_descriptor("tcp_connections", help, None, MetricType::Gauge)?;
        for (protocol, count) in of(|stats| stats.connections.get()) {
            open.encode_family(&[("protocol", protocol)])?.encode_gauge(&count)?;
        }
        let help = "TCP connections that came to speak HTTP, by protocol";
        let rows = of(|stats| stats.connections_total.get());
        labelled(encoder, "tcp_connections_made", help, "protocol", rows)?;
        let help = "Requests over TCP, by protocol";
        labelled(encoder, "tcp_requests", help, "protocol", of(|stats| stats.requests.get()))
    }
}

pub(super) fn total(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> Result<(), Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn labelled(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &'static str,
    rows: impl IntoIterator<Item = (&'static str, u64)>,
) -> Result<(), Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (value, count) in rows {
        metric.encode_family(&[(label, value)])?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
    }
    Ok(())
}

//! Ingress counters on the metrics page.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use sluice_core::mailbox::MailboxStats;
use sluice_net::ingress::IngressStats;

/// Values that rise and fall; all others only rise.
const GAUGES: [&str; 2] = ["connections", "requests_in_flight"];

/// The ingress counters of every core.
pub(crate) struct IngressCollector {
    pub(crate) cores: Vec<(Arc<IngressStats>, Arc<MailboxStats>)>,
}

impl fmt::Debug for IngressCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IngressCollector").field("cores", &self.cores.len()).finish()
    }
}

impl Collector for IngressCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some((first, _)) = self.cores.first() else { return Ok(()) };
        for (place, (name, _)) in first.each().enumerate() {
            let is_gauge = GAUGES.contains(&name);
            let values = self.cores.iter().map(|(stats, _)| stats.each().nth(place).map_or(0, |(_, value)| value));
            encode_family(&mut encoder, &format!("ingress_{name}"), is_gauge, values)?;
        }
        let full = self.cores.iter().map(|(_, mailbox)| mailbox.refused_full.get());
        encode_family(&mut encoder, "ingress_forward_lane_full", false, full)
    }
}

fn encode_family(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    is_gauge: bool,
    values: impl Iterator<Item = u64>,
) -> fmt::Result {
    let help = "HTTP/3 ingress, by core; see docs/metrics.md";
    let values: Vec<u64> = values.collect();
    let kind = if is_gauge { ConstGauge::new(0u64).metric_type() } else { ConstCounter::new(0u64).metric_type() };
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (core, value) in values.into_iter().enumerate() {
        let labels = [("core", core.to_string())];
        let metric = family.encode_family(&labels)?;
        if is_gauge {
            ConstGauge::new(value).encode(metric)?;
        } else {
            ConstCounter::new(value).encode(metric)?;
        }
    }
    Ok(())
}

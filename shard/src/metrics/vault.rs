//! What the vault counts, on the page of metrics.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use sluice_store::Vault;

use super::tcp::total;

/// The counters of the vault. Give it to [`super::Metrics::new`].
pub fn vault(vault: Vault) -> Box<dyn Collector> {
    Box::new(Page(vault))
}

#[derive(Debug)]
struct Page(Vault);

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let stats = self.0.stats();
        for (name, help, value) in [
            ("vault_sealed", "Secrets sealed", stats.sealed.get()),
            ("vault_opened", "Sealed secrets to be opened", stats.opened.get()),
            (
                "vault_opened_plain",
                "Secrets read that an older version had left unsealed",
                stats.opened_plain.get(),
            ),
            ("vault_refused", "Secrets and data keys that did not open", stats.refused.get()),
            ("vault_data_keys_made", "Data keys made", stats.keys_made.get()),
            ("vault_data_keys_unwrapped", "Data keys unwrapped", stats.keys_unwrapped.get()),
            ("vault_data_keys_evicted", "Data keys a core dropped for others", stats.keys_evicted.get()),
            (
                "vault_data_keys_rewrapped",
                "Data keys wrapped under a newer master key",
                stats.keys_wrapped_anew.get(),
            ),
            ("vault_sealed_late", "Secrets sealed by a rotation", stats.sealed_late.get()),
            ("vault_data_keys_destroyed", "Data keys destroyed", stats.keys_destroyed.get()),
            ("vault_busy", "Changes given up, for another wrote the same record", stats.busy.get()),
        ] {
            total(&mut encoder, name, help, value)?;
        }
        let help = "Version of the master key that wraps what is new";
        let mut gauge = encoder.encode_descriptor("vault_master_version", help, None, MetricType::Gauge)?;
        gauge.encode_gauge(&u64::from(self.0.current_version().get()))
    }
}

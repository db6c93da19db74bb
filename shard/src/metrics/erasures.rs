//! What erasures gave back at Google, on the page of metrics.

use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::tcp::total;
use crate::admin::RevokerStats;

/// The counters of erasures. Give it to [`super::Metrics::new`].
pub fn erasures(stats: Arc<RevokerStats>) -> Box<dyn Collector> {
    Box::new(Page(stats))
}

#[derive(Debug)]
struct Page(Arc<RevokerStats>);

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let RevokerStats { revoked, unrevoked } = &*self.0;
        let help = "Accounts of erased users that Google took back";
        total(&mut encoder, "erasure_accounts_revoked", help, revoked.load(Relaxed))?;
        let help = "Accounts of erased users of which Google could not be told";
        total(&mut encoder, "erasure_accounts_unrevoked", help, unrevoked.load(Relaxed))
    }
}

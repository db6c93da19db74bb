//! What the cores count, and the page operators read.
//!
//! Each core has a [`CoreMetrics`] that it alone writes, with plain loads and stores; [`Metrics::render`] reads all
//! of them from whatever thread asks. Names and labels are few and fixed.

mod cells;
mod erasures;
mod page;
mod tcp;
mod vault;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use sluice_core::mailbox::MailboxStats;
use sluice_core::{CoreId, CoreStats};
use sluice_net::egress::Egress;
use sluice_net::ingress::IngressStats;
use sluice_store::Store;

pub use cells::{CoreMetrics, EndState, RouteLabel};
pub use erasures::erasures;
pub use tcp::tcp;
pub use vault::vault;

use crate::env::EnvStats;
use crate::limit::{LimitStats, Limits};
use crate::quota::Quotas;

/// The media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything counted in this process. Holds the store open until it is dropped.
pub struct Metrics {
    cores: Arc<[Arc<CoreMetrics>]>,
    store: Store,
    quotas: Arc<OnceLock<Arc<Quotas>>>,
    limits: Arc<OnceLock<Arc<Limits>>>,
    registry: Registry,
}

impl Metrics {
    /// Counters for `cores` cores, together with those of the store, of the egress pool and of `others`.
    pub fn new(cores: usize, store: Store, egress: Egress, others: Vec<Box<dyn Collector>>) -> Arc<Self> {
        let cores: Arc<[Arc<CoreMetrics>]> = (0..cores).map(|_| Arc::default()).collect();
        let mut registry = Registry::with_prefix("sluice");
        let (quotas, limits) = (Arc::default(), Arc::default());
        let page = page::Page {
            cores: Arc::clone(&cores),
            store: store.clone(),
            egress,
            quotas: Arc::clone(&quotas),
            limits: Arc::clone(&limits),
        };
        registry.register_collector(Box::new(page));
        others.into_iter().for_each(|other| registry.register_collector(other));
        Arc::new(Self { cores, store, quotas, limits, registry })
    }

    /// Shows these budgets from now on; the first call counts.
    pub(crate) fn show_quotas(&self, quotas: &Arc<Quotas>) {
        let _first_wins = self.quotas.set(Arc::clone(quotas));
    }

    /// Shows the tables of these limits from now on; the first call counts.
    pub(crate) fn show_limits(&self, limits: &Arc<Limits>) {
        let _first_wins = self.limits.set(Arc::clone(limits));
    }

    /// The counters of one core. Give [`CoreMetrics::reactor`] to its reactor.
    pub fn core(&self, core: CoreId) -> &Arc<CoreMetrics> {
        &self.cores[core.index()]
    }

    /// The page, in the OpenMetrics text format. Takes no lock that a core takes.
    pub fn render(&self) -> String {
        let mut page = String::with_capacity(16 << 10);
        // Writing to a string fails only when a value refuses to be written, which none of ours does.
        if let Err(error) = text::encode(&mut page, &self.registry) {
            tracing::error!(%error, "the metrics page is incomplete");
        }
        page
    }

    /// How every core stands, in order.
    pub fn cores(&self) -> impl Iterator<Item = CoreState> + '_ {
        self.cores.iter().map(|core| core.state())
    }

    /// Why the store takes no more writes, if that is so.
    pub fn store_stopped(&self) -> Option<Arc<str>> {
        self.store.stopped()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").field("cores", &self.cores.len()).finish_non_exhaustive()
    }
}

/// How a core stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoreState {
    /// It has not taken up all its pending tasks yet.
    Starting,
    /// It serves.
    Ready,
    /// It takes no new work.
    Draining,
}

/// The two flags behind [`CoreState`], written by the core.
#[derive(Debug, Default)]
pub(crate) struct StateCell {
    is_ready: AtomicBool,
    is_draining: AtomicBool,
}

impl StateCell {
    pub(crate) fn set_ready(&self) {
        self.is_ready.store(true, Relaxed);
    }

    pub(crate) fn set_draining(&self) {
        self.is_draining.store(true, Relaxed);
    }

    pub(crate) fn get(&self) -> CoreState {
        match (self.is_draining.load(Relaxed), self.is_ready.load(Relaxed)) {
            (true, _) => CoreState::Draining,
            (false, true) => CoreState::Ready,
            (false, false) => CoreState::Starting,
        }
    }
}

/// The sets of counters that others own and a core's page shows.
#[derive(Debug, Default)]
pub(crate) struct Lent {
    pub(crate) reactor: Arc<CoreStats>,
    pub(crate) mailbox: Arc<MailboxStats>,
    pub(crate) forward: Arc<MailboxStats>,
    pub(crate) ingress: Arc<IngressStats>,
    pub(crate) env: EnvStats,
    pub(crate) limits: Arc<LimitStats>,
}

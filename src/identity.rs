//! The keys of identity providers: fetched, or read from a file, again and again, on the shared runtime.
//!
//! A core that meets a token with an unknown key asks for newer ones ([`Provider::wanted`]); how often that is heard is
//! bounded there. What cannot be fetched leaves the keys before in use, and is tried again after waits that double.
//!
//! Invariant: one fetch a provider at a time, at most [`BYTES_MAX`] bytes and [`FETCH_TIMEOUT`] long; addresses are those
//! of the configuration, or what the issuer's own discovery document names.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use serde::Deserialize;
use sluice_protocols::access::Scopes;
use sluice_shard::identity::{Provider, ProviderConfig, Providers, UserLink, algorithm};
use tokio::runtime::Handle;

use crate::config::{Config, IdentityProvider, UserBy, is_safe_url};

/// Longest document: 64 keys of 4,096 bits with their certificates.
const BYTES_MAX: usize = 1 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// The wait after the first failure; it doubles up to the wait between fetches.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// Where a provider's keys come from.
enum Source {
    File(PathBuf),
    Url(String),
    /// By the issuer's discovery document, which must name this issuer.
    Discovery {
        url: String,
        issuer: String,
    },
}

/// The identity providers of the configuration, and what is counted about their keys.
pub(crate) struct Identity {
    pub(crate) providers: Arc<Providers>,
    counts: Arc<Vec<Counts>>,
}

#[derive(Default)]
struct Counts {
    fetched: AtomicU64,
    failed: AtomicU64,
}

impl Identity {
    /// Reads what is in files, and has everything kept up to date on `runtime`.
    pub(crate) fn start(config: &Config, runtime: &Handle) -> anyhow::Result<Self> {
        let settings = &config.identity;
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(FETCH_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("sluice/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let counts: Arc<Vec<Counts>> =
            Arc::new(settings.providers.iter().map(|_| Counts::default()).collect());
        let mut providers = Vec::new();
        for (index, described) in settings.providers.iter().enumerate() {
            let provider = Arc::new(Provider::new(provider_config(config, described)));
            let source = source_of(described);
            if let Source::File(path) = &source {
                let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
                provider.install(&bytes).with_context(|| format!("{}", path.display()))?;
            }
            let keeper = Keeper {
                provider: Arc::clone(&provider),
                source,
                client: client.clone(),
                counts: Arc::clone(&counts),
                index,
                every: Duration::from_secs(settings.refresh_s),
            };
            runtime.spawn(keeper.keep());
            providers.push(provider);
        }
        Ok(Self { providers: Arc::new(Providers::new(providers)), counts })
    }

    /// The counters, for the page of metrics.
    pub(crate) fn collector(&self) -> Box<dyn Collector> {
        Box::new(Page { providers: Arc::clone(&self.providers), counts: Arc::clone(&self.counts) })
    }
}

fn source_of(described: &IdentityProvider) -> Source {
    if let Some(path) = described.keys_file.get() {
        return Source::File(path.to_owned());
    }
    if described.keys_url.is_empty() {
        return Source::Discovery { url: described.discovery_url(), issuer: described.issuer.clone() };
    }
    Source::Url(described.keys_url.clone())
}

fn provider_config(config: &Config, described: &IdentityProvider) -> ProviderConfig {
    let settings = &config.identity;
    ProviderConfig {
        issuer: described.issuer.clone(),
        audiences: described.audiences.clone(),
        algorithms: described.algorithms.iter().filter_map(|name| algorithm(name)).collect(),
        types: described.types.clone(),
        skew: Duration::from_secs(described.skew_s),
        link: match described.user_by {
            UserBy::Subject => UserLink::Subject,
            UserBy::Email => UserLink::Email,
        },
        email_claim: described.email_claim.clone(),
        verified_email: described.verified_email,
        create_users: described.create_users,
        roles_claim: Some(described.roles_claim.clone()).filter(|claim| !claim.is_empty()),
        operator_roles: described.operator_roles.clone(),
        auditor_roles: described.auditor_roles.clone(),
        // The configuration was checked.
        scopes: described.scopes().unwrap_or(Scopes::NONE),
        refetch_after: Duration::from_secs(settings.refetch_s),
        key_wait: settings.key_wait_ms.duration(),
    }
}

/// Keeps one provider's keys up to date.
struct Keeper {
    provider: Arc<Provider>,
    source: Source,
    client: reqwest::Client,
    counts: Arc<Vec<Counts>>,
    index: usize,
    every: Duration,
}

impl Keeper {
    async fn keep(self) {
        let mut retry = RETRY_FIRST;
        loop {
            let pause = match self.renew().await {
                Ok(()) => {
                    retry = RETRY_FIRST;
                    self.every
                }
                Err(error) => {
                    self.counts[self.index].failed.fetch_add(1, Relaxed);
                    let (issuer, error) = (&self.provider.config.issuer, format!("{error:#}"));
                    tracing::warn!(issuer, error, "keys not fetched; those before stay in use");
                    let pause = retry.min(self.every);
                    retry = (retry * 2).min(self.every);
                    pause
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.provider.wanted() => {}
            }
        }
    }

    async fn renew(&self) -> anyhow::Result<()> {
        let bytes = match &self.source {
            Source::File(path) => {
                let file = path.clone();
                let read = tokio::task::spawn_blocking(move || std::fs::read(file)).await?;
                read.with_context(|| format!("cannot read {}", path.display()))?
            }
            Source::Url(url) => self.fetch(url).await?,
            Source::Discovery { url, issuer } => {
                let found = self.fetch(url).await?;
                let found: Discovered = serde_json::from_slice(&found).context("no discovery document")?;
                // OpenID Connect Discovery 1.0 section 4.3: or another's keys would count as this one's.
                ensure!(found.issuer == *issuer, "the discovery document is that of {:?}", found.issuer);
                // What the document names must be as safe as what the operator may name.
                ensure!(
                    is_safe_url(&found.jwks_uri),
                    "the discovery document names keys at {:?}, where others could change them",
                    found.jwks_uri
                );
                self.fetch(&found.jwks_uri).await?
            }
        };
        let before = self.provider.version();
        let keys = self.provider.install(&bytes)?;
        self.counts[self.index].fetched.fetch_add(1, Relaxed);
        if self.provider.version() != before {
            tracing::info!(issuer = self.provider.config.issuer, keys, "keys of an identity provider");
        }
        Ok(())
    }

    async fn fetch(&self, url: &str) -> anyhow::Result<Vec<u8>> {
        let mut response =
            self.client.get(url).send().await.with_context(|| format!("cannot fetch {url}"))?;
        if response.status() != reqwest::StatusCode::OK {
            bail!("{url} answered {}", response.status());
        }
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await.with_context(|| format!("cannot fetch {url}"))? {
            bytes.extend_from_slice(&piece);
            ensure!(bytes.len() <= BYTES_MAX, "{url} answered more than {BYTES_MAX} bytes");
        }
        Ok(bytes)
    }
}

#[derive(Deserialize)]
struct Discovered {
    issuer: String,
    jwks_uri: String,
}

struct Page {
    providers: Arc<Providers>,
    counts: Arc<Vec<Counts>>,
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").field("providers", &self.counts.len()).finish()
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        type Value = fn(&Provider, &Counts) -> u64;
        let metrics: [(&str, &str, MetricType, Value); 4] = [
            (
                "identity_fetches",
                "Fetches of a provider's keys, by its place in the configuration",
                MetricType::Counter,
                |_, counts| counts.fetched.load(Relaxed),
            ),
            (
                "identity_fetches_failed",
                "Fetches that failed; the keys before stay in use",
                MetricType::Counter,
                |_, counts| counts.failed.load(Relaxed),
            ),
            (
                "identity_refetches",
                "Fetches that tokens with unknown keys caused",
                MetricType::Counter,
                |provider, _| provider.refetches.load(Relaxed),
            ),
            (
                "identity_keys_version",
                "How often a provider's keys have changed; 0 before the first",
                MetricType::Gauge,
                |provider, _| provider.version(),
            ),
        ];
        for (name, help, kind, value) in metrics {
            let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
            for (index, (provider, counts)) in self.providers.iter().zip(self.counts.iter()).enumerate() {
                let labels = [("provider", index.to_string())];
                let mut family = metric.encode_family(&labels)?;
                match kind {
                    MetricType::Counter => {
                        family.encode_counter::<prometheus_client::encoding::NoLabelSet, _, u64>(
                            &value(provider, counts),
                            None,
                        )?;
                    }
                    _ => family.encode_gauge(&i64::try_from(value(provider, counts)).unwrap_or(i64::MAX))?,
                }
            }
        }
        Ok(())
    }
}

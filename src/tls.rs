//! Who the gateway is: the certificates it starts with, and those that follow while it runs.
//!
//! Invariants:
//! - Certificates are good when the gateway starts, or it does not start; later ones are good, or the ones before stay.
//! - Files are read on a thread of their own: neither a core nor egress waits for a disk.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use sluice_net::egress::Egress;
use sluice_net::ingress::ServerIdentity;
use sluice_net::tls::{
    CertificateFacts, CertificateFiles, EarlyData, NODE_SECRET_BYTES, Reload, ReloadEvent, SharedKeys,
    TlsIdentity, server_crypto, tcp_server_crypto,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::config::Config;

/// Directory of the development authority, in the data directory.
pub(crate) const TLS_DIR: &str = "tls";

/// Certificates, keys, and how they are kept up to date. Clones share all of it.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) identity: TlsIdentity,
    pub(crate) keys: SharedKeys,
    early_data: EarlyData,
    watch_interval: Option<Duration>,
    secrets_refused: Arc<AtomicU64>,
}

/// SIGHUP, heard from now on and not the end of the process any more; one that comes before it is looked for is kept.
pub(crate) struct Hangups(Signal);

impl Hangups {
    pub(crate) fn listen(egress: &Egress) -> anyhow::Result<Self> {
        let _runtime = egress.runtime().enter();
        Ok(Self(signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?))
    }
}

impl Tls {
    /// Reads what the configuration names; what must survive a restart is derived from the node's secret.
    pub(crate) fn load(config: &Config, secret: &[u8; NODE_SECRET_BYTES]) -> anyhow::Result<Self> {
        let tls = &config.tls;
        let identity = match (tls.certificate.get(), tls.key.get()) {
            (Some(chain), Some(key)) => {
                let default = CertificateFiles { chain: chain.to_owned(), key: key.to_owned() };
                let others = tls
                    .certificates
                    .iter()
                    .map(|pair| CertificateFiles { chain: pair.chain.clone(), key: pair.key.clone() });
                TlsIdentity::from_list(std::iter::once(default).chain(others).collect())?
            }
            _ => development_identity(&config.server.data_dir.join(TLS_DIR))?,
        };
        for warning in identity.warnings() {
            tracing::warn!("{warning}");
        }
        let keys = match tls.ticket_key_file.get() {
            Some(file) => SharedKeys::with_ticket_file(file)?,
            None => SharedKeys::generate()?,
        }
        .with_node_secret(secret);
        warn_about_secrets(&keys);
        let seconds = tls.watch_interval_s;
        Ok(Self {
            identity,
            keys,
            early_data: if tls.early_data { EarlyData::On } else { EarlyData::Off },
            watch_interval: (seconds > 0).then(|| Duration::from_secs(seconds)),
            secrets_refused: Arc::default(),
        })
    }

    /// What the cores' ingress needs.
    pub(crate) fn server(&self) -> anyhow::Result<ServerIdentity> {
        let tls = server_crypto(&self.identity, &self.keys, self.early_data)?;
        Ok(ServerIdentity { tls, keys: self.keys.clone() })
    }

    /// What HTTP/2 and HTTP/1.1 over TCP need.
    pub(crate) fn tcp(&self) -> anyhow::Result<Arc<rustls::ServerConfig>> {
        Ok(tcp_server_crypto(&self.identity, &self.keys)?)
    }

    /// What the metrics page shows of it.
    pub(crate) fn collector(&self) -> Box<dyn Collector> {
        Box::new(Page(self.clone()))
    }

    /// From now on reloads on SIGHUP and, unless that is switched off, when files change.
    pub(crate) fn follow(&self, egress: &Egress, hangups: Hangups) {
        egress.runtime().spawn(follow(self.clone(), hangups.0));
    }

    fn reload(&self, reload: Reload) {
        if reload == Reload::All {
            tracing::info!("reloading certificates, as asked");
        }
        for event in self.identity.reload(reload) {
            match event {
                ReloadEvent::Renewed { facts, warnings } => {
                    let CertificateFacts { file, names, .. } = &facts;
                    let (names, days_left) = (names.join(", "), seconds_left(&facts) / 86_400.0);
                    tracing::info!(file = %file.display(), names, days_left = days_left.floor(), "certificate renewed");
                    for warning in warnings {
                        tracing::warn!("{warning}");
                    }
                }
                ReloadEvent::Refused { file, error } => {
                    let error = anyhow::Error::from(error);
                    tracing::error!(
                        file = %file.display(),
                        error = format!("{error:#}"),
                        "new certificate refused; the one before stays in use"
                    );
                }
            }
        }
        match self.keys.reload_tickets(reload) {
            None => {}
            Some(Ok(())) => {
                tracing::info!("ticket secrets renewed");
                warn_about_secrets(&self.keys);
            }
            Some(Err(error)) => {
                self.secrets_refused.fetch_add(1, Ordering::Relaxed);
                let error = anyhow::Error::from(error);
                tracing::error!(
                    error = format!("{error:#}"),
                    "new ticket secrets refused; those before stay in use"
                );
            }
        }
    }
}

fn warn_about_secrets(keys: &SharedKeys) {
    if keys.tickets_readable_by_all() {
        tracing::warn!("tls.ticket_key_file can be read by everyone on this host; chmod it to 600");
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("early_data", &self.early_data).finish_non_exhaustive()
    }
}

fn development_identity(directory: &Path) -> anyhow::Result<TlsIdentity> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let identity = TlsIdentity::development(directory)?;
    if let Some(authority) = identity.authority() {
        tracing::info!(authority = %authority.display(), "development certificate; clients must trust this authority");
    }
    Ok(identity)
}

async fn follow(tls: Tls, mut hangups: Signal) {
    let mut ticks = tls.watch_interval.map(|every| {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    });
    loop {
        let tick = async {
            match &mut ticks {
                Some(ticks) => {
                    ticks.tick().await;
                }
                None => std::future::pending().await,
            }
        };
        let reload = tokio::select! {
            Some(()) = hangups.recv() => Reload::All,
            () = tick => Reload::Changed,
        };
        let tls = tls.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || tls.reload(reload)).await {
            tracing::error!(%error, "a reload of certificates failed; the ones before stay in use");
        }
    }
}

/// Seconds until a certificate ends; below zero when it has.
fn seconds_left(facts: &CertificateFacts) -> f64 {
    match facts.ends.duration_since(SystemTime::now()) {
        Ok(left) => left.as_secs_f64(),
        Err(over) => -over.duration().as_secs_f64(),
    }
}

#[derive(Debug)]
struct Page(Tls);

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Until the certificate expires, by its place in the configuration";
        let mut metric =
            encoder.encode_descriptor("tls_certificate_left_seconds", help, None, MetricType::Gauge)?;
        for (index, facts) in self.0.identity.certificates().iter().enumerate() {
            let labels = [("certificate", index.to_string())];
            metric.encode_family(&labels)?.encode_gauge(&seconds_left(facts))?;
        }
        let stats = self.0.identity.stats();
        for (name, help, value) in [
            ("tls_certificates_renewed", "Certificates replaced while serving", stats.renewed()),
            ("tls_certificates_refused", "New certificates that could not be used", stats.refused()),
            (
                "tls_ticket_secrets_refused",
                "New ticket secrets that could not be used",
                self.0.secrets_refused.load(Ordering::Relaxed),
            ),
        ] {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }
}

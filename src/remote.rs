//! A gateway as the command line speaks to it: one HTTP/3 connection, one API key.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use serde::de::DeserializeOwned;
use sluice_core::{CoreId, Reactor, ReactorConfig, timeout_at};
use sluice_net::CoreCount;
use sluice_net::client::{Client, ClientConnection, ClientResponse, StreamedResponse};
use sluice_net::tls::{DEVELOPMENT_CA_FILE, Trust, client_crypto};
use sluice_protocols::http::RequestHead;
use sluice_protocols::ids::{ApiKey, ShardCount};
use sluice_protocols::problem::Problem;
use sluice_shard::Placement;

use crate::config::Config;
use crate::tls::TLS_DIR;

/// Silence that ends a connection. A stream of events is never quiet for so long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Which gateway, and as whom.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// API key
    #[arg(long, env = "SLUICE_API_KEY", hide_env_values = true)]
    key: String,
    /// Gateway; by default the first address of the configuration
    #[arg(long, env = "SLUICE_URL")]
    url: Option<String>,
    /// Certificate authority to trust (PEM); by default the one of the data directory, if it is there
    #[arg(long, env = "SLUICE_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl Target {
    /// Connects, and does what `work` says within `limit`.
    pub(crate) fn call<T: 'static>(
        &self,
        config: &Config,
        limit: Duration,
        work: impl AsyncFnOnce(&Remote) -> anyhow::Result<T> + 'static,
    ) -> anyhow::Result<T> {
        let key = ApiKey::parse(&self.key).context("the API key is not one; it looks like sk_...")?;
        let (authority, address) = self.address(config)?;
        let files = self.authorities(config)?;
        let tls = client_crypto(Trust::Files(&files))?;
        let (home, key) = (home(config, &key), self.key.clone());
        let reactor = Reactor::new(ReactorConfig::new(CoreId::new(0)))?;
        reactor.block_on(async move {
            let exchange = async move {
                let client = Client::start(tls, address, IDLE_TIMEOUT)?;
                let host = address.ip().to_string();
                let name = authority.rsplit_once(':').map_or(authority.as_str(), |(host, _)| host);
                let name = if name.starts_with('[') { host.as_str() } else { name };
                let connection = client.connect(address, name, home).await;
                let connection =
                    connection.with_context(|| format!("cannot reach the gateway at {authority}"))?;
                work(&Remote { connection, authority, key }).await
            };
            timeout_at(sluice_core::now() + limit, exchange).await.context("no answer in time")?
        })?
    }

    fn address(&self, config: &Config) -> anyhow::Result<(String, SocketAddr)> {
        let Some(url) = &self.url else {
            let address = config.listen.sockets().next().context("listen.addresses is empty")?;
            return Ok((address.to_string(), address));
        };
        let authority = url.strip_prefix("https://").context("--url must start with https://")?;
        let authority = authority.trim_end_matches('/');
        let with_port = if authority.rsplit(']').next().is_some_and(|end| end.contains(':')) {
            authority.to_owned()
        } else {
            format!("{authority}:443")
        };
        let mut addresses =
            with_port.to_socket_addrs().with_context(|| format!("cannot resolve {authority}"))?;
        let address = addresses.next().with_context(|| format!("{authority} has no address"))?;
        Ok((authority.to_owned(), address))
    }

    fn authorities(&self, config: &Config) -> anyhow::Result<Vec<PathBuf>> {
        if let Some(file) = &self.ca {
            return Ok(vec![file.clone()]);
        }
        let development = config.server.data_dir.join(TLS_DIR).join(DEVELOPMENT_CA_FILE);
        if development.exists() {
            return Ok(vec![development]);
        }
        // Where most systems keep the authorities they trust.
        let system = PathBuf::from("/etc/ssl/certs/ca-certificates.crt");
        if system.exists() {
            return Ok(vec![system]);
        }
        bail!("no certificate authority to trust; name one with --ca")
    }
}

/// The core that owns the key's user, when the configuration is the gateway's: the
/// connection then lands there. A wrong guess costs one hop, nothing else.
fn home(config: &Config, key: &ApiKey) -> Option<(CoreId, CoreCount)> {
    let cores = match usize::try_from(config.server.cores).ok()? {
        0 => sluice_tuning::allowed_cpus().ok()?.len(),
        count => count,
    };
    let shards = ShardCount::new(u16::try_from(config.server.shards).ok()?)?;
    let placement = Placement::dealt(shards, cores);
    let owner = placement.owner(placement.shard_of(&key.user()));
    Some((owner, CoreCount::new(cores)?))
}

/// A gateway that is connected to.
pub(crate) struct Remote {
    connection: ClientConnection,
    authority: String,
    key: String,
}

impl Remote {
    fn head(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> anyhow::Result<RequestHead> {
        let head = RequestHead::try_build(method, path, &self.authority)?;
        let mut head = head.try_with("authorization", &format!("Bearer {}", self.key))?;
        for (name, value) in fields {
            head = head.try_with(name, value)?;
        }
        Ok(head)
    }

    /// Sends a request and gives the whole answer, whatever its status.
    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: Bytes,
    ) -> anyhow::Result<ClientResponse> {
        Ok(self.connection.request(&self.head(method, path, fields)?, body).await?)
    }

    /// Sends a request and gives the answer as it comes, whatever its status.
    pub(crate) async fn stream(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: Bytes,
    ) -> anyhow::Result<StreamedResponse<'_>> {
        Ok(self.connection.request_streamed(&self.head(method, path, fields)?, body).await?)
    }
}

/// The document in an answer of success; of any other, what the problem says.
pub(crate) fn read<T: DeserializeOwned>(response: &ClientResponse) -> anyhow::Result<T> {
    let status = response.head.status();
    if !(200..300).contains(&status) {
        bail!("{}", refusal(status, &response.body));
    }
    serde_json::from_slice(&response.body).context("the gateway's answer is not what it should be")
}

/// What an answer that is no success says.
pub(crate) fn refusal(status: u16, body: &[u8]) -> String {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => format!("{} ({status}): {}", problem.kind().title(), problem.detail()),
        Err(_) => format!("status {status}: {}", String::from_utf8_lossy(body)),
    }
}

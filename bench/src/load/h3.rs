//! HTTP/3 by the project's own client, on its own reactor.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::client::Resumption;
use sluice_core::CoreId;
use sluice_net::CoreCount;
use sluice_net::client::{Client, ClientConnection, ClientError};
use sluice_protocols::http::RequestHead;

use super::plan::Plan;
use super::transport::{Failure, Handshake, HeadParts, Reply, ReplyHead, Transport};

/// An idle connection of a run is a mistake soon noticed; a slow ramp is none.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) struct H3 {
    plan: Arc<Plan>,
    /// Never resumes.
    full: Client,
    /// Keeps tickets and uses them.
    resuming: Client,
}

impl H3 {
    /// Two sockets on the current reactor.
    pub(super) fn start(plan: Arc<Plan>, tls: &rustls::ClientConfig) -> anyhow::Result<Self> {
        let start = |tls| Client::start(Arc::new(tls), plan.target.address, IDLE_TIMEOUT);
        let mut full = tls.clone();
        full.resumption = Resumption::disabled();
        let full = start(full)?;
        let resuming = start(tls.clone())?;
        Ok(Self { plan, full, resuming })
    }
}

impl Transport for H3 {
    type Connection = ClientConnection;
    type Head = RequestHead;

    const IS_EXCLUSIVE: bool = false;

    fn head(&self, parts: &HeadParts<'_>) -> Result<RequestHead, Failure> {
        let refused =
            |fault: &dyn std::fmt::Display| Failure::new("request", format!("cannot be sent: {fault}"));
        let mut head = RequestHead::try_build(parts.method, parts.path, &self.plan.target.authority)
            .map_err(|fault| refused(&fault))?;
        for (name, value) in parts.headers {
            head = head.try_with(name, value).map_err(|fault| refused(&fault))?;
        }
        Ok(head)
    }

    async fn connect(
        &self,
        wanted: Handshake,
        number: usize,
    ) -> Result<(ClientConnection, Handshake), Failure> {
        let core = self.plan.server_cores.and_then(CoreCount::new).and_then(|cores| {
            let core = u16::try_from(number % cores.get()).ok()?;
            Some((CoreId::new(core), cores))
        });
        let target = &self.plan.target;
        let client = if wanted == Handshake::Full { &self.full } else { &self.resuming };
        let connection = client.connect(target.address, &target.host, core).await.map_err(failure)?;
        // Whether the server took the ticket is not known here; that nothing was sent
        // before the handshake ended is.
        Ok((connection, if wanted == Handshake::Early { Handshake::Resumed } else { wanted }))
    }

    fn settled(&self, _: &ClientConnection, begun: Handshake) -> Handshake {
        begun
    }

    async fn request(
        &self,
        connection: &ClientConnection,
        head: &RequestHead,
        body: Bytes,
    ) -> Result<Reply, Failure> {
        let response = connection.request(head, body).await.map_err(failure)?;
        Ok(Reply {
            status: response.head.status(),
            head: ReplyHead::Ours(response.head),
            body: response.body,
        })
    }
}

#[allow(clippy::needless_pass_by_value, reason = "shape wanted by map_err")]
fn failure(error: ClientError) -> Failure {
    let detail = error.to_string();
    match error {
        ClientError::Lost(_) => Failure::fatal("lost", detail),
        ClientError::Reset(_) | ClientError::EarlyDataRejected => Failure::new("reset", detail),
        ClientError::Invalid(_) | ClientError::TooLarge => Failure::new("invalid", detail),
        ClientError::Socket(_) | ClientError::Cipher | ClientError::Connect(_) => {
            Failure::fatal("connect", detail)
        }
    }
}

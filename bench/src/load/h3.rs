//! HTTP/3 by the project's own client, on its own reactor.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_core::CoreId;
use sluice_net::CoreCount;
use sluice_net::client::{Client, ClientConnection, ClientError, ConnectOptions};
use sluice_protocols::http::RequestHead;

use super::plan::Plan;
use super::transport::{Failure, Handshake, HeadParts, Reply, ReplyHead, Transport};

/// An idle connection of a run is a mistake soon noticed; a slow ramp is none.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Tickets that are kept.
const SESSIONS_MAX: usize = 256;

pub(super) struct H3 {
    plan: Arc<Plan>,
    client: Client,
}

impl H3 {
    /// A socket on the current reactor.
    pub(super) fn start(plan: Arc<Plan>, tls: &rustls::ClientConfig) -> anyhow::Result<Self> {
        let mut tls = tls.clone();
        // Each thread keeps tickets of its own, so that threads share nothing.
        tls.resumption = rustls::client::Resumption::in_memory_sessions(SESSIONS_MAX);
        let client = Client::start(Arc::new(tls), plan.target.address, IDLE_TIMEOUT)?;
        Ok(Self { plan, client })
    }
}

/// How a connection stands: early data as long as its handshake goes on.
fn kind(connection: &ClientConnection) -> Handshake {
    match (connection.was_resumed(), connection.early_data_accepted()) {
        (None, _) | (_, Some(true)) => Handshake::Early,
        (Some(true), _) => Handshake::Resumed,
        (Some(false), _) => Handshake::Full,
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
        let options = ConnectOptions {
            core,
            resume: wanted != Handshake::Full,
            early_data: wanted == Handshake::Early,
        };
        let connection =
            self.client.connect_with(target.address, &target.host, &options).await.map_err(failure)?;
        let made = kind(&connection);
        Ok((connection, made))
    }

    fn settled(&self, connection: &ClientConnection, begun: Handshake) -> Handshake {
        // Lost in the meantime: what it began as is all that is known.
        if connection.was_resumed().is_none() { begun } else { kind(connection) }
    }

    async fn request(
        &self,
        connection: &ClientConnection,
        head: &RequestHead,
        body: Bytes,
    ) -> Result<Reply, Failure> {
        let response = match connection.request(head, body.clone()).await {
            // It was not looked at, so that it is the same request that goes again.
            Err(ClientError::EarlyDataRejected) => connection.request(head, body).await,
            other => other,
        };
        let response = response.map_err(failure)?;
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
        // No further request goes over this connection.
        ClientError::GoingAway => Failure::fatal("lost", detail),
        ClientError::Reset(_) | ClientError::EarlyDataRejected => Failure::new("reset", detail),
        ClientError::Invalid(_) | ClientError::TooLarge => Failure::new("invalid", detail),
        ClientError::Socket(_) | ClientError::Cipher | ClientError::Connect(_) => {
            Failure::fatal("connect", detail)
        }
    }
}

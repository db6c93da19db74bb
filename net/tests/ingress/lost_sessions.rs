//! A session goes on wherever its client lands, and the counters and the client
//! say so.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use sluice_core::{CoreId, Reactor, ReactorConfig};
use sluice_net::client::{Client as OurClient, ClientError, ConnectOptions};
use sluice_net::quic::steering::initial_connection_id;
use sluice_net::tls::{EarlyData, Trust, client_crypto};
use sluice_protocols::http::RequestHead;

use crate::common::client::Client;
use crate::common::server::{Server, Setup};

#[tokio::test]
async fn a_session_is_resumed_on_another_core_than_it_began_on() {
    for early_data in [EarlyData::Off, EarlyData::On] {
        let server = Server::start(Setup { cores: 2, early_data, ..Setup::default() });
        let crypto = QuicClientConfig::try_from(client_crypto(Trust::AnyServer).unwrap()).unwrap();
        let crypto = Arc::new(crypto);
        for core in [0, 1, 0] {
            let (id, cores) = (CoreId::new(core), server.cores);
            let mut config = quinn::ClientConfig::new(Arc::clone(&crypto) as _);
            config.initial_dst_cid_provider(Arc::new(move || initial_connection_id(id, cores)));
            let client = Client::connect_with(config, server.address()).await.unwrap();
            assert_eq!(client.get("/").await.core(), usize::from(core));
            client.close().await;
        }
        let counts = |core: usize| {
            let stats = &server.stats[core];
            (stats.handshakes_full.get(), stats.handshakes_resumed.get())
        };
        assert_eq!((counts(0), counts(1)), ((1, 1), (0, 1)), "{early_data:?}");
        assert_eq!((server.sum("early_data_accepted"), server.sum("early_data_rejected")), (0, 0));
    }
}

/// How a connection of our own client went: resumed, early data taken, and what `GET /` said of itself.
async fn visit(client: &OurClient, to: SocketAddr, options: ConnectOptions) -> (bool, bool, bool) {
    let connection = client.connect_with(to, "localhost", &options).await.unwrap();
    let head = RequestHead::build("GET", "/", "localhost");
    let answer = connection.request(&head, Bytes::new()).await.unwrap();
    let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    connection.established().await.unwrap();
    let (resumed, early) = (connection.was_resumed().unwrap(), connection.early_data_accepted().unwrap());
    (resumed, early, json["early_data"].as_bool().unwrap())
}

#[test]
fn our_client_resumes_and_speaks_early_when_it_is_told_to_and_can() {
    let server = Server::start(Setup { early_data: EarlyData::On, ..Setup::default() });
    let other = Server::start(Setup { early_data: EarlyData::On, ..Setup::default() });
    let (to, stranger) = (server.address(), other.address());
    let full = ConnectOptions { resume: false, ..ConnectOptions::default() };
    let resume = ConnectOptions::default();
    let early = ConnectOptions { early_data: true, ..resume };
    let client = async move {
        let tls = client_crypto(Trust::AnyServer).unwrap();
        let client = OurClient::start(Arc::clone(&tls), to, Duration::from_secs(10)).unwrap();
        assert_eq!(visit(&client, to, early).await, (false, false, false));
        assert_eq!(visit(&client, to, full).await, (false, false, false));
        assert_eq!(visit(&client, to, resume).await, (true, false, false));
        assert_eq!(visit(&client, to, early).await, (true, true, true));
        // Sessions are shared by the clients of one configuration.
        let second = OurClient::start(tls, to, Duration::from_secs(10)).unwrap();
        assert_eq!(visit(&second, to, early).await, (true, true, true));

        // Another server does not know the session: what was sent early is to be sent again, and then works.
        let connection = second.connect_with(stranger, "localhost", &early).await.unwrap();
        let head = RequestHead::build("GET", "/", "localhost");
        let (one, two) =
            tokio::join!(connection.request(&head, Bytes::new()), connection.request(&head, Bytes::new()));
        for lost in [one, two] {
            assert!(matches!(lost, Err(ClientError::EarlyDataRejected)), "{lost:?}");
        }
        assert_eq!((connection.was_resumed(), connection.early_data_accepted()), (Some(false), Some(false)));
        assert_eq!(connection.request(&head, Bytes::new()).await.unwrap().head.status(), 200);
    };
    let reactor = Reactor::new(ReactorConfig::new(CoreId::new(0))).unwrap();
    reactor.block_on(client).unwrap();
    assert_eq!((other.sum("early_data_rejected"), other.sum("requests_early")), (1, 0));
}

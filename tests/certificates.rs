//! Certificates that change while the gateway serves: by signal and by file, good ones and bad ones, several by name;
//! and sessions that go on, with early data and without.

mod common;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::front::Front;
use common::h3::{Client, Http};
use common::scene::{Caller, Scene, guard};
use common::{Gateway, Sim};
use quinn::crypto::rustls::QuicClientConfig;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::pki_types::CertificateDer;
use serde_json::json;
use sluice_net::tls::{Trust, client_crypto};
use tempfile::TempDir;

/// A certificate and its key, as PEM.
struct Issued {
    chain: String,
    key: String,
    der: Vec<u8>,
}

fn issue(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
    let key = KeyPair::generate().expect("a key");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    change(&mut params);
    let certificate = params.self_signed(&key).expect("signed");
    Issued { chain: certificate.pem(), key: key.serialize_pem(), der: certificate.der().to_vec() }
}

fn good(names: &[&str]) -> Issued {
    issue(names, |_| {})
}

/// Where the gateway looks for them.
struct Place(TempDir);

impl Place {
    fn new(first: &Issued) -> Self {
        let place = Self(tempfile::tempdir().expect("a directory"));
        place.put(first);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Puts both files in place as certificate tools do: written beside, then renamed.
    fn put(&self, issued: &Issued) {
        for (name, text) in [("key.pem", &issued.key), ("chain.pem", &issued.chain)] {
            fs::write(self.path("new"), text).expect("written");
            fs::rename(self.path("new"), self.path(name)).expect("renamed");
        }
    }

    fn settings(&self) -> Vec<String> {
        let path = |name: &str| self.path(name).display().to_string();
        vec![format!("tls.certificate={}", path("chain.pem")), format!("tls.key={}", path("key.pem"))]
    }
}

fn start(sim: Sim, place: &Place, others: &[&str]) -> Scene {
    let settings = place.settings();
    let settings: Vec<&str> = settings.iter().map(String::as_str).chain(others.iter().copied()).collect();
    Scene::with_sim(sim, 2, &settings)
}

/// A new connection, from an endpoint that remembers no session, and the certificate it was given.
async fn connect(to: SocketAddr, name: &str) -> (Client, quinn::Connection, Vec<u8>) {
    let tls = QuicClientConfig::try_from(client_crypto(Trust::AnyServer).expect("settings")).expect("QUIC");
    let mut endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("an endpoint");
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    let quic = guard(endpoint.connect(to, name).expect("begun")).await.expect("connected");
    let identity = quic.peer_identity().expect("a certificate");
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().expect("rustls");
    (Client { endpoint }, quic, chain[0].to_vec())
}

async fn shown(to: SocketAddr, name: &str) -> Vec<u8> {
    connect(to, name).await.2
}

/// Every core shows this certificate.
async fn assert_shown_everywhere(gateway: &Gateway, expected: &Issued) {
    for to in [gateway.address, gateway.core_address(0), gateway.core_address(1)] {
        assert!(shown(to, "one.example").await == expected.der, "{to} shows another certificate");
    }
}

fn hang_up(gateway: &Gateway) {
    let sent = Command::new("kill").args(["-HUP", &gateway.pid().to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()));
}

#[tokio::test]
async fn a_signal_brings_the_new_certificate_and_disturbs_nothing_that_is_open() {
    let (old, new) = (good(&["one.example"]), good(&["one.example"]));
    let place = Place::new(&old);
    let sim = Sim::start(&["--openai-latency-ms", "1500"]);
    let scene = start(sim, &place, &["tls.watch_interval_s=0"]);
    let key = scene.gateway.user("olivia");
    let (_client, quic, der) = connect(scene.gateway.address, "localhost").await;
    assert!(der == old.der);
    let http = Http::over(quic).await.expect("HTTP/3");
    let slow = {
        let (http, key) = (http.clone(), key.clone());
        let body = json!({"command": "Find the mail from Anna about the budget"});
        tokio::spawn(async move { http.post("/api/v1/command", &key, &body).await })
    };
    scene
        .gateway
        .until("the command is under way", |page| page.sum("sluice_ingress_requests_in_flight", &[]) == 1)
        .await;

    place.put(&new);
    hang_up(&scene.gateway);
    scene
        .gateway
        .until("the certificate is renewed", |page| {
            page.sum("sluice_tls_certificates_renewed_total", &[]) == 1
        })
        .await;
    assert_shown_everywhere(&scene.gateway, &new).await;

    let answer = guard(slow).await.expect("no panic").expect("an answer");
    assert_eq!(answer.status.as_u16(), 200, "{:?}", answer.body);
    assert_eq!(guard(http.get("/livez", &key)).await.expect("an answer").status.as_u16(), 200);

    // A bad one is refused, and the gateway goes on with the one it has.
    fs::write(place.path("chain.pem"), &old.chain).expect("written");
    hang_up(&scene.gateway);
    let refused =
        |page: &common::metrics::Metrics| page.sum("sluice_tls_certificates_refused_total", &[]) == 1;
    scene.gateway.until("the certificate is refused", refused).await;
    assert_shown_everywhere(&scene.gateway, &new).await;
    assert_eq!(guard(http.get("/livez", &key)).await.expect("an answer").status.as_u16(), 200);
    scene.gateway.stop();
}

#[tokio::test]
async fn a_changed_file_is_noticed_and_a_bad_one_is_refused_once() {
    let (old, new) = (good(&["one.example"]), good(&["one.example"]));
    let place = Place::new(&old);
    let scene = start(Sim::start(&[]), &place, &["tls.watch_interval_s=1"]);
    let page = scene.gateway.page().await;
    // Certificates of the generator last for ages.
    assert!(page.sum("sluice_tls_certificate_left_seconds", &[("certificate", "0")]) > 86_400);

    fs::write(place.path("chain.pem"), "-----BEGIN CERTIFICATE-----\nMIIB").expect("written");
    let refused = |page: &common::metrics::Metrics| page.sum("sluice_tls_certificates_refused_total", &[]);
    scene.gateway.until("the certificate is refused", |page| refused(page) == 1).await;
    assert_shown_everywhere(&scene.gateway, &old).await;

    place.put(&new);
    scene
        .gateway
        .until("the certificate is renewed", |page| {
            page.sum("sluice_tls_certificates_renewed_total", &[]) >= 1
        })
        .await;
    assert_shown_everywhere(&scene.gateway, &new).await;
    assert_eq!(refused(&scene.gateway.page().await), 1);
}

#[tokio::test]
async fn each_name_has_its_certificate_and_others_the_default() {
    let (first, second) = (good(&["one.example"]), good(&["two.example", "*.two.example"]));
    let (place, other) = (Place::new(&first), Place::new(&second));
    let list =
        format!("tls.certificates={}:{}", other.path("chain.pem").display(), other.path("key.pem").display());
    let scene = start(Sim::start(&[]), &place, &[&list]);
    let to = scene.gateway.address;
    for (name, expected) in [
        ("one.example", &first),
        ("two.example", &second),
        ("www.two.example", &second),
        ("three.example", &first),
        ("127.0.0.1", &first),
    ] {
        assert!(shown(to, name).await == expected.der, "{name}");
    }
}

/// What a start with this certificate is refused with.
fn start_refused(place: &Place) -> String {
    let data = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(common::SLUICE);
    command.env("SLUICE_VAULT__KEYS", common::MASTER_KEYS);
    command.args(["--data-dir", data.path().to_str().expect("UTF-8")]);
    for setting in [
        "listen.port=0",
        "listen.addresses=127.0.0.1",
        "admin.listen=127.0.0.1:0",
        "server.cores=1",
        "server.shards=16",
        "server.pin=false",
        "openai.api_key=x",
        "google.client_id=x",
        "google.client_secret=x",
    ]
    .into_iter()
    .chain(place.settings().iter().map(String::as_str))
    {
        command.args(["--set", setting]);
    }
    let output = command.arg("serve").output().expect("the binary runs");
    assert!(!output.status.success(), "it was not refused");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_start_with_a_certificate_that_clients_would_refuse_is_refused() {
    let over = issue(&["one.example"], |params| params.not_after = date_time_ymd(2020, 1, 1));
    let early = issue(&["one.example"], |params| params.not_before = date_time_ymd(4000, 1, 1));
    for (issued, says) in [(over, "expired at"), (early, "not valid before"), (good(&[]), "names no host")] {
        let place = Place::new(&issued);
        let said = start_refused(&place);
        let file = place.path("chain.pem");
        assert!(said.contains(says) && said.contains(file.to_str().expect("UTF-8")), "{said}");
    }
}

/// The file of secrets is a pipe, so that the start waits in its midst until the test has sent the signal, and the
/// reload that the signal asks for waits for more.
#[test]
fn a_signal_in_the_midst_of_the_start_does_not_end_it_and_is_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let pipe = directory.path().join("tickets");
    let lay = || {
        let new = directory.path().join("new");
        let made = Command::new("mkfifo").arg(&new).status();
        assert!(made.is_ok_and(|status| status.success()));
        fs::rename(new, &pipe).expect("renamed");
    };
    lay();
    let settings = [
        format!("tls.ticket_key_file={}", pipe.display()),
        "tls.watch_interval_s=0".to_owned(),
        "server.cores=1".to_owned(),
        "server.shards=8".to_owned(),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let sim = Sim::start(&[]);
    let mut command = Gateway::command(&sim, &directory.path().join("data"), &settings);
    let process = command.arg("serve").stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut process = process.expect("the gateway begins");
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &process.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "the gateway is gone before {name}");
    };
    let secret = "0f".repeat(32);
    for read in ["-HUP", "-TERM"] {
        // There once the other end is opened to be read.
        let mut end = OpenOptions::new().write(true).open(&pipe).expect("a reader");
        signal(read);
        end.write_all(secret.as_bytes()).expect("written");
        // The next reader waits for another writer.
        lay();
    }
    assert_eq!(process.wait().expect("it was started").code(), Some(0));
}

/// Settings apply to the second gateway as to the first, so the test is of what stands on disk alone.
#[tokio::test]
async fn sessions_outlive_a_restart_with_a_file_of_secrets() {
    let secrets = tempfile::tempdir().expect("a directory");
    let file = secrets.path().join("tickets");
    fs::write(&file, "0f".repeat(32)).expect("written");
    let setting = format!("tls.ticket_key_file={}", file.display());
    let Scene { gateway, sim: _sim, directory: _directory } = Scene::start(1, &[&setting]);
    let tls = QuicClientConfig::try_from(client_crypto(Trust::AnyServer).expect("settings")).expect("QUIC");
    let mut endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("an endpoint");
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    let visit = async |gateway: &Gateway| {
        let quic =
            guard(endpoint.connect(gateway.address, "localhost").expect("begun")).await.expect("connected");
        let http = Http::over(quic).await.expect("HTTP/3");
        assert_eq!(guard(http.get("/livez", "none")).await.expect("an answer").status.as_u16(), 200);
        http.close();
        tokio::time::timeout(Duration::from_secs(10), endpoint.wait_idle()).await.expect("closed");
    };
    let counts = |page: &common::metrics::Metrics| {
        (
            page.of_core("sluice_ingress_handshakes_full_total", 0),
            page.of_core("sluice_ingress_handshakes_resumed_total", 0),
        )
    };
    visit(&gateway).await;
    assert_eq!(counts(&gateway.page().await), (1, 0));
    let gateway = gateway.stop_and_restart();
    visit(&gateway).await;
    assert_eq!(counts(&gateway.page().await), (0, 1));
}

/// A first flight with early data is taken once, and nothing that changes anything is done for it (RFC 8446 section 8,
/// RFC 8470 section 4); a second copy of it, sent to whichever core, asks for nothing.
#[tokio::test]
async fn early_data_reads_and_changes_nothing_and_a_replay_of_it_does_nothing() {
    let Scene { gateway, sim, directory: _directory } = Scene::start(2, &["tls.early_data=true"]);
    let key = gateway.user("ada");
    let mut tls = (*client_crypto(Trust::AnyServer).expect("settings")).clone();
    tls.enable_early_data = true;
    let tls = QuicClientConfig::try_from(tls).expect("QUIC");
    let mut endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("an endpoint");
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    let front = Front::start(gateway.address).await;
    let first = guard(endpoint.connect(front.address, "localhost").expect("begun")).await.expect("connected");
    let first = Http::over(first).await.expect("HTTP/3");
    assert_eq!(guard(first.get("/api/v1/preferences", &key)).await.expect("an answer").status.as_u16(), 200);
    first.close();
    guard(endpoint.wait_idle()).await;

    let names = [
        "sluice_ingress_requests_early_total",
        "sluice_ingress_requests_too_early_total",
        "sluice_ingress_early_data_accepted_total",
        "sluice_ingress_requests_total",
        "sluice_ingress_connections_accepted_total",
    ];
    let counts = async || {
        let page = gateway.page().await;
        names.map(|name| page.sum(name, &[]))
    };
    let until = async |at: usize, count: u64| {
        while counts().await[at] < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let [.., requests, connections] = counts().await;
    front.hold(true);
    let before = front.sent().len();
    let (quic, accepted) = endpoint
        .connect(front.address, "localhost")
        .expect("begun")
        .into_0rtt()
        .unwrap_or_else(|_| panic!("no session to resume"));
    let http = Http::over(quic).await.expect("HTTP/3");
    let send = json!({ "command": "send a mail to kim@example.com saying code early is valid" });
    let flight = async {
        // The client knows of no answer yet, so all it has sent was early.
        guard(async { tokio::join!(until(0, 1), until(1, 1)) }).await;
        let flight = front.sent().split_off(before);
        front.hold(false);
        flight
    };
    let (read, changed, flight) = tokio::join!(
        http.get("/api/v1/preferences", &key),
        http.post("/api/v1/command", &key, &send),
        flight
    );
    assert_eq!(read.expect("an answer").status.as_u16(), 200);
    let refused = changed.expect("an answer");
    assert_eq!((refused.status.as_u16(), &refused.json().expect("JSON")["retryable"]), (425, &json!(true)));
    assert!(guard(accepted).await, "the early data was not taken");
    assert_eq!(sim.effects("ada").await.0.sends, 0);
    let again = guard(http.post("/api/v1/command", &key, &send)).await.expect("an answer");
    assert_eq!(again.status.as_u16(), 200, "{:?}", again.body);
    assert_eq!(counts().await, [1, 1, 1, requests + 2, connections + 1]);

    // While it lives, a copy of its first packets is its own.
    http.close();
    guard(endpoint.wait_idle()).await;
    while gateway.page().await.sum("sluice_ingress_connections", &[]) > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    // Where the original went, by the first bytes of the ID that its client chose, and the other core.
    let core = usize::from(u16::from_be_bytes([flight[0][6], flight[0][7]]) % 2);
    for (round, place, core) in [(1, gateway.address, core), (2, gateway.core_address(1 - core), 1 - core)] {
        for datagram in &flight {
            socket.send_to(datagram, place).expect("sent");
        }
        guard(until(4, connections + 2 * round)).await;
        // Comes behind the copy, and is answered when that has been looked at.
        let bystander = Caller::at(&gateway, gateway.core_address(core)).await;
        assert_eq!(bystander.get("/livez", "none").await.status.as_u16(), 200);
    }
    let after = counts().await;
    assert_eq!(after[..4], [1, 1, 1, requests + 2 + 2], "only the two bystanders asked for anything");
    assert_eq!(sim.effects("ada").await.0.sends, 1);
}

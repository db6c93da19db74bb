//! A Google account connected by a real browser at a real provider: Chromium, and oidc-provider, which is certified by the OpenID
//! Foundation. Neither knows anything of us; what they do not take, Google would hardly either.

mod common;

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::asker::{Asker, text};
use common::scene::Scene;
use common::{Sim, node, python};
use serde_json::{Value, json};

/// The provider's process.
struct Provider {
    child: Child,
    issuer: String,
    events: Arc<Mutex<Vec<Value>>>,
}

impl Provider {
    fn start(program: &PathBuf, modules: &PathBuf, redirect_uri: &str) -> Self {
        let mut command = Command::new(program);
        command.arg(node::program("provider")).arg(modules).arg(redirect_uri);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("node runs");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let ready = lines.find_map(|line| Some(line.ok()?.strip_prefix("ready ")?.to_owned()));
        let issuer = ready.expect("the provider starts");
        let events: Arc<Mutex<Vec<Value>>> = Arc::default();
        let told = Arc::clone(&events);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line) {
                    told.lock().expect("no thread has failed").push(event);
                }
            }
        });
        Self { child, issuer, events }
    }

    fn count(&self, event: &str) -> usize {
        let events = self.events.lock().expect("no thread has failed");
        events.iter().filter(|one| one["event"] == event).count()
    }

    /// Waits until something was told so often: it is told by another process.
    async fn until(&self, event: &str, count: usize) {
        for _ in 0..1_000 {
            if self.count(event) >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{event} is not told {count} times: {:?}", self.events.lock().expect("no thread has failed"));
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that is free on UDP and TCP, and the next one on UDP, for the core's own. It is below those that the system
/// gives to whoever asks for any (32768 and up), or another test could be given it before the gateway has it.
fn free_port() -> u16 {
    let first = u16::try_from(std::process::id() % 5_000).expect("at most 4999");
    let mut ports = (first..first + 100).map(|number| 20_000 + 2 * number);
    let is_free = |port: u16| {
        TcpListener::bind(("127.0.0.1", port)).is_ok()
            && UdpSocket::bind(("127.0.0.1", port)).is_ok()
            && UdpSocket::bind(("127.0.0.1", port + 1)).is_ok()
    };
    ports.find(|&port| is_free(port)).expect("two free ports in a row")
}

/// Lets the browser follow a link, and gives what it saw.
fn browse(interpreter: &PathBuf, scene: &Scene, port: u16, link: &str, more: &[&str]) -> Value {
    let certificate = scene.gateway.ca().with_file_name("server.pem");
    let mut command = Command::new(interpreter);
    command.arg(python::program("consent_browser"));
    command.args(["--port", &port.to_string(), "--origin", &format!("https://localhost:{port}")]);
    command.arg("--certificate").arg(certificate).args(["--link", link, "--account", "ada"]).args(more);
    let output = command.stdin(Stdio::null()).output().expect("the interpreter runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("a report")
}

#[tokio::test]
async fn a_browser_connects_an_account_at_a_certified_provider() {
    let (Some(interpreter), Some(_)) = (python::interpreter("cryptography"), python::chromium()) else {
        return;
    };
    let Some((program, modules)) = node::oidc_provider() else { return };
    let port = free_port();
    let origin = format!("https://localhost:{port}");
    let provider = Provider::start(&program, &modules, &format!("{origin}/oauth/google/callback"));
    let issuer = &provider.issuer;
    let settings = [
        format!("listen.port={port}"),
        format!("google.auth_url={issuer}/auth"),
        format!("google.token_url={issuer}/token"),
        format!("google.revoke_url={issuer}/token/revocation"),
        format!("google.issuer={issuer}"),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let scene = Scene::with_sim(Sim::start(&[]), 1, &settings);
    let ada = Asker::of(&scene.gateway, &scene.gateway.lone_user("ada")).await;
    let body = json!({"services": ["mail", "calendar:read"], "login_hint": "ada@example.com"});
    let link = async || {
        text(&ada.expect(200, "POST", "/connections/google", &body).await["authorization_url"]).to_owned()
    };

    // No is an answer, and changes nothing.
    let told = browse(&interpreter, &scene, port, &link().await, &["--deny"]);
    assert!(text(&told["pages"][1]).contains("You did not agree"), "{told:#}");
    assert_eq!(ada.get("/connections").await["connections"], json!([]));

    let told = browse(&interpreter, &scene, port, &link().await, &[]);
    assert!(text(&told["pages"][0]).contains("ada") && text(&told["pages"][0]).contains("mail"), "{told:#}");
    assert!(text(&told["pages"][1]).contains("The account is connected"), "{told:#}");
    assert_eq!((&told["path"], &told["scripts"]), (&json!("/oauth/google/callback"), &json!(0)));
    assert_eq!(told["blocked"], json!([]), "a policy of ours stopped the browser");
    let cookie = json!({"name": "__Host-sluice-consent", "httpOnly": true, "secure": true, "sameSite": "Lax", "path": "/"});
    assert_eq!(told["cookies"], json!([cookie]));
    let connection = ada.get("/connections").await["connections"][0].clone();
    assert_eq!(connection["account"], "ada@example.com", "{connection:#}");
    assert_eq!(
        (&connection["status"], &connection["services"]),
        (&json!("connected"), &json!(["mail", "calendar:read"]))
    );

    // Its tokens are renewed. The simulator, which is Gmail here, knows none of them, so each call costs two.
    let renewed = provider.count("refresh_token.consumed");
    for _ in 0..2 {
        ada.ask("GET", "/gmail/labels", &Value::Null).await.problem(409, "needs-reauth");
    }
    provider.until("refresh_token.consumed", renewed + 3).await;
    assert_eq!(provider.count("grant.error"), 0);
    assert_eq!(ada.get("/connections").await["connections"][0]["status"], "connected");

    // Given up, it is gone at the provider as well.
    let path = format!("/connections/{}", text(&connection["id"]));
    let gone = ada.expect(200, "DELETE", &path, &Value::Null).await;
    assert_eq!((&gone["status"], &gone["revocation"]), (&json!("revoked"), &json!("done")));
    provider.until("grant.revoked", 1).await;
}

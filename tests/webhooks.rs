//! Webhooks through the real binary: what receivers are told and how it is signed, that no end goes untold over kills, how
//! receivers that fail are given up, and that no message leads where it must not.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::asker::{Asker, text};
use common::h3::Answer;
use common::lot::Lot;
use common::python;
use common::receiver::{Message, Receiver, TAKEN, status};
use common::scene::{Caller, Scene, guard};
use common::{Gateway, Sim};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

const NONE: Value = Value::Null;
/// Receivers of these tests are on the loopback, where nothing may be sent by default.
const LOOPBACK: [&str; 3] = ["webhooks.allow_http=true", "webhooks.ports=", "webhooks.allow=127.0.0.1/32"];
const QUICK: [&str; 2] = ["webhooks.retry_base_ms=1", "webhooks.retry_max_ms=1"];
const SEARCH: &str = "find the mail from Anna about the budget";

fn options<'a>(parts: &[&[&'a str]]) -> Vec<&'a str> {
    parts.concat()
}

/// Makes a webhook and gives it with its secret.
async fn made(asker: &Asker, url: &str, events: &[&str]) -> Value {
    asker.expect(201, "POST", "/webhooks", &json!({"url": url, "events": events})).await
}

fn path(webhook: &Value) -> String {
    format!("/webhooks/{}", text(&webhook["id"]))
}

async fn patched(asker: &Asker, webhook: &Value, patch: &Value) -> Answer {
    asker.with("PATCH", &path(webhook), &[("content-type", "application/merge-patch+json")], patch).await
}

async fn done(asker: &Asker) -> Value {
    let task = asker.expect(200, "POST", "/command", &json!({"command": SEARCH})).await;
    assert_eq!(task["state"], "done", "{task:#}");
    task
}

/// Waits until the last attempt shown is so, and gives it.
async fn attempted(asker: &Asker, webhook: &Value, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let path = format!("{}/deliveries", path(webhook));
    for _ in 0..4_000 {
        let list = asker.get(&path).await;
        if is_so(&list["deliveries"][0]) {
            return list["deliveries"][0].clone();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come to this: {what}: {:#}", asker.get(&path).await);
}

/// Sends a ping and gives what came of it.
async fn pinged(asker: &Asker, webhook: &Value) -> Value {
    let ping = asker.expect(202, "POST", &format!("{}/test", path(webhook)), &NONE).await;
    attempted(asker, webhook, "an attempt at the ping", |attempt| attempt["id"] == ping["id"]).await
}

#[tokio::test]
async fn what_is_sent_verifies_by_implementations_that_are_not_ours_before_and_after_a_rotation() {
    let Some(python) = python::interpreter("openai") else { return };
    let receiver = Receiver::start(|_, _| TAKEN.to_owned());
    let scene = Scene::start(2, &LOOPBACK);
    let ada = Asker::of(&scene.gateway, &scene.gateway.user("ada")).await;
    let webhook = made(&ada, &receiver.url(), &["task.done", "task.failed"]).await;
    let first = text(&webhook["secret"]).to_owned();
    assert!(ada.get(&path(&webhook)).await.get("secret").is_none(), "it is shown once");

    let task = done(&ada).await;
    let told = &receiver.until(1).await[0];
    assert_eq!(told.fields["content-type"], "application/json");
    let event = told.event();
    assert_eq!((&event["type"], &event["data"]["id"]), (&json!("task.done"), &task["id"]));
    assert_eq!((&event["timestamp"], &event["data"]["state"]), (&task["finished"], &json!("done")));
    assert!(!told.body.contains("Anna"), "what was asked and found stays here: {}", told.body);

    // Nothing of one that was only planned; its cancelling is not asked for.
    let planned = ada.expect(200, "POST", "/command", &json!({"command": SEARCH, "mode": "preview"})).await;
    ada.expect(200, "POST", &format!("/tasks/{}/cancel", text(&planned["id"])), &NONE).await;
    let wait = json!({"service": "drive", "kind": "status", "status": 503, "retry_after_s": 30, "count": 1});
    scene.sim.fault(wait).await;
    let failed =
        ada.queue(&json!({"command": "find the file about the roadmap", "deadline_ms": 5_000})).await;
    assert_eq!(ada.ended(&failed["id"]).await["state"], "failed");
    let event = receiver.until(2).await[1].event();
    assert_eq!((&event["type"], &event["data"]["id"]), (&json!("task.failed"), &failed["id"]));
    assert!(event["data"]["error"].is_string(), "{event:#}");

    let rotated = ada.expect(200, "POST", &format!("{}/rotate", path(&webhook)), &NONE).await;
    let second = text(&rotated["secret"]).to_owned();
    assert!(second != first && rotated["previous_secret_until"].is_string(), "{rotated:#}");
    let attempt = pinged(&ada, &webhook).await;
    assert_eq!((&attempt["outcome"], &attempt["status"]), (&json!("delivered"), &json!(204)));
    let messages = receiver.until(3).await;
    assert_eq!(messages[2].event()["type"], "webhook.ping");

    let third = Asker::of(&scene.gateway, &ada.key).await;
    third.expect(200, "POST", &format!("{}/rotate", path(&webhook)), &NONE).await;
    pinged(&ada, &webhook).await;
    let messages = receiver.until(4).await;
    assert_eq!(messages.len(), 4);
    let case = |message: &Message, secrets: &[&str], strangers: &[&str]| json!({"fields": message.fields, "body": message.body, "secrets": secrets, "strangers": strangers});
    let cases = json!([
        case(&messages[0], &[&first], &[&second]),
        case(&messages[1], &[&first], &[&second]),
        // While one replaces the other, both sign; the one before that does not any more.
        case(&messages[2], &[&first, &second], &[]),
        case(&messages[3], &[&second], &[&first]),
    ]);
    let mut checker = Command::new(python);
    checker.arg(python::program("webhooks")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut checker = checker.spawn().expect("the interpreter runs");
    checker.stdin.take().expect("piped").write_all(cases.to_string().as_bytes()).expect("written");
    let output = checker.wait_with_output().expect("it ends");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    let mut judged = 0;
    for one in report.as_array().expect("a list") {
        for (verdicts, expected) in [(&one["good"], true), (&one["bad"], false)] {
            for verdict in verdicts.as_array().expect("a list") {
                assert_eq!(verdict, &json!([expected, expected]), "{report:#}");
                judged += 1;
            }
        }
    }
    assert_eq!(judged, 5 * 4 + 3);
    let page = scene.gateway.page().await;
    assert_eq!(page.sum("sluice_webhook_messages_delivered_total", &[]), 4);
    assert_eq!(page.sum("sluice_outward_answered_total", &[("status", "2xx")]), 4);
}

#[tokio::test]
async fn routes_over_tcp_are_those_of_http3_and_changes_are_there_after_a_kill() {
    let scene = Scene::start(2, &LOOPBACK);
    let key = scene.gateway.user("ada");
    let pem = std::fs::read(scene.gateway.ca()).expect("the authority");
    let authority = reqwest::Certificate::from_pem(&pem).expect("PEM");
    let client = reqwest::Client::builder().tls_certs_only([authority]);
    let client = client.resolve("localhost", scene.gateway.address).build().expect("a client");
    let port = scene.gateway.address.port();
    let request = async |method: &str, path: &str, kind: &str, body: &Value| {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let request = client.request(method, format!("https://localhost:{port}/api/v1/webhooks{path}"));
        let request = request.bearer_auth(&key);
        let request = if body.is_null() {
            request
        } else {
            request.header("content-type", kind).body(body.to_string())
        };
        let answer = guard(request.send()).await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.unwrap_or_default())
    };
    let body = json!({"url": "http://127.0.0.1:9/x", "events": ["task.done"], "description": "one"});
    let (status, webhook) = request("POST", "", "application/json", &body).await;
    assert_eq!(status, 201, "{webhook:#}");
    let id = text(&webhook["id"]);
    let patch = json!({"description": null, "enabled": false});
    let (status, changed) = request("PATCH", &format!("/{id}"), "application/merge-patch+json", &patch).await;
    assert_eq!((status, &changed["enabled"], &changed["description"]), (200, &json!(false), &NONE));
    let (_, list) = request("GET", "", "application/json", &NONE).await;
    assert_eq!(list["webhooks"], json!([changed]));

    let gateway = scene.gateway.crash_and_restart();
    let ada = Asker::of(&gateway, &key).await;
    assert_eq!(ada.get("/webhooks").await["webhooks"], json!([changed]));
    let refused = ada.ask("POST", &format!("/webhooks/{id}/test"), &NONE).await;
    refused.problem(409, "conflict");
    ada.expect(204, "DELETE", &format!("/webhooks/{id}"), &NONE).await;
    ada.ask("GET", &format!("/webhooks/{id}"), &NONE).await.problem(404, "not-found");
    for number in 0..11 {
        let answer = ada.ask("POST", "/webhooks", &body).await;
        match number {
            10 => drop(answer.problem(409, "conflict")),
            _ => assert_eq!(answer.status.as_u16(), 201),
        }
    }
}

/// Tasks end, receivers fail now and then, and the gateway is killed whenever chance has it.
#[tokio::test]
async fn no_end_goes_untold_and_no_message_changes_over_kills() {
    const KILLS: usize = 8;
    // Fails the first attempt at every other message.
    let receiver = Receiver::start(|number, _| if number % 3 == 1 { status(503) } else { TAKEN.to_owned() });
    let scene =
        Scene::start(2, &options(&[&LOOPBACK, &["webhooks.retry_base_ms=20", "webhooks.retry_max_ms=50"]]));
    let key = scene.gateway.user("ada");
    let mut lot = Lot::new();
    let mut gateway = scene.gateway;
    let ada = Asker::of(&gateway, &key).await;
    made(&ada, &receiver.url(), &["task.done"]).await;
    let mut tasks = Vec::new();
    for _ in 0..KILLS {
        let ada = Asker::of(&gateway, &key).await;
        for _ in 0..4 {
            tasks.push(ada.queue(&json!({"command": SEARCH})).await["id"].clone());
        }
        tokio::time::sleep(Duration::from_micros(lot.below(60_000))).await;
        gateway = gateway.crash_and_restart();
    }
    let ada = Asker::of(&gateway, &key).await;
    let mut ends = BTreeSet::new();
    for task in &tasks {
        assert_eq!(ada.ended(task).await["state"], "done");
        ends.insert(text(task).to_owned());
    }
    let told_of = |messages: &[Message]| -> BTreeMap<String, BTreeSet<(String, String)>> {
        let mut told = BTreeMap::<_, BTreeSet<_>>::new();
        for message in messages {
            let task = text(&message.event()["data"]["id"]).to_owned();
            told.entry(task).or_default().insert((message.id().to_owned(), message.body.clone()));
        }
        told
    };
    let messages =
        receiver.until_that("word of every task", |messages| told_of(messages).len() == ends.len()).await;
    gateway.until("nothing waits", |page| page.sum("sluice_webhook_messages_pending", &[]) == 0).await;
    let told = told_of(&receiver.messages());
    assert_eq!(told.keys().cloned().collect::<BTreeSet<_>>(), ends);
    for (task, message) in &told {
        assert_eq!(message.len(), 1, "{task} was told of under two ids or in two wordings: {message:#?}");
    }
    println!("{} tasks, {} messages at the first word of the last", tasks.len(), messages.len());
}

#[tokio::test]
async fn a_receiver_that_is_gone_or_fails_too_often_is_told_nothing_more_until_it_is_enabled() {
    let failing = Receiver::start(|number, _| if number < 4 { status(500) } else { TAKEN.to_owned() });
    let gone = Receiver::start(|_, _| status(410));
    let limits = ["webhooks.attempts_max=2", "webhooks.disable_after=2"];
    let scene = Scene::start(1, &options(&[&LOOPBACK, &QUICK, &limits]));
    let ada = Asker::of(&scene.gateway, &scene.gateway.user("ada")).await;
    let [failing_webhook, gone_webhook] =
        [made(&ada, &failing.url(), &["task.done"]).await, made(&ada, &gone.url(), &["task.done"]).await];
    // A ping that fails says nothing of the webhook... and is not repeated.
    done(&ada).await;
    let last =
        attempted(&ada, &failing_webhook, "the first given up", |one| one["outcome"] == "given_up").await;
    assert_eq!((&last["attempt"], &last["status"]), (&json!(2), &json!(500)), "{last:#}");
    assert_eq!(ada.get(&path(&failing_webhook)).await["enabled"], true);
    let last = attempted(&ada, &gone_webhook, "the only attempt", |one| one["outcome"] == "given_up").await;
    assert_eq!((&last["attempt"], &last["status"]), (&json!(1), &json!(410)), "{last:#}");
    let shown = ada.get(&path(&gone_webhook)).await;
    assert_eq!((&shown["enabled"], &shown["disabled_reason"]), (&json!(false), &json!("gone")));

    let first = failing.messages();
    assert_eq!((first.len(), first[0].id(), &first[0].body), (2, first[1].id(), &first[1].body));
    done(&ada).await;
    scene
        .gateway
        .until("both are disabled", |page| page.sum("sluice_webhooks_disabled_total", &[]) == 2)
        .await;
    let shown = ada.get(&path(&failing_webhook)).await;
    assert_eq!((&shown["enabled"], &shown["disabled_reason"]), (&json!(false), &json!("failing")));
    done(&ada).await;
    let enabled = patched(&ada, &failing_webhook, &json!({"enabled": true})).await.value();
    assert_eq!((&enabled["enabled"], &enabled["disabled_reason"]), (&json!(true), &NONE));
    let task = done(&ada).await;
    let messages = failing.until(5).await;
    assert_eq!(messages[4].event()["data"]["id"], task["id"], "what ended meanwhile is not told");
    assert_eq!((messages.len(), gone.messages().len()), (5, 1));
}

#[tokio::test]
async fn what_waits_is_bounded_and_a_slow_receiver_holds_up_nobody_else() {
    let silent = Receiver::start(|_, _| String::new());
    let quick = Receiver::start(|_, _| TAKEN.to_owned());
    let limits = [
        "webhooks.pending_per_user_max=3",
        "webhooks.running_per_core_max=2",
        "webhooks.running_per_user_max=1",
    ];
    let scene = Scene::start(1, &options(&[&LOOPBACK, &limits]));
    let ada = Asker::of(&scene.gateway, &scene.gateway.user("ada")).await;
    let bob = Asker::of(&scene.gateway, &scene.gateway.user("bob")).await;
    let webhook = made(&ada, &silent.url(), &["task.done"]).await;
    made(&bob, &quick.url(), &["task.done"]).await;
    for _ in 0..5 {
        done(&ada).await;
    }
    silent.until(1).await;
    let page = scene.gateway.page().await;
    assert_eq!(page.sum("sluice_webhook_messages_refused_user_total", &[]), 2);
    assert_eq!(page.sum("sluice_webhook_messages_pending", &[]), 3);
    let refused = ada.ask("POST", &format!("{}/test", path(&webhook)), &NONE).await;
    refused.problem(503, "overloaded");
    let task = done(&bob).await;
    assert_eq!(quick.until(1).await[0].event()["data"]["id"], task["id"]);
    // What waits goes with its webhook, and the places come back.
    ada.expect(204, "DELETE", &path(&webhook), &NONE).await;
    scene.gateway.until("nothing waits", |page| page.sum("sluice_webhook_messages_pending", &[]) == 0).await;
    assert_eq!(silent.messages().len(), 1);
}

/// Every spelling of an address that is not of the public Internet.
const FORBIDDEN: [&str; 30] = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "0x7f.0.0.1",
    "0x7f000001",
    "2130706433",
    "017700000001",
    "0177.0.0.1",
    "127.0.0.1.",
    "%31%32%37.0.0.1",
    "127%2E0%2E0%2E1",
    "0.0.0.0",
    "0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "2852039166",
    "0xa9.0xfe.0xa9.0xfe",
    "100.64.0.1",
    "198.18.0.1",
    "192.0.2.1",
    "224.0.0.1",
    "255.255.255.255",
    "[::]",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::a9fe:a9fe]",
    "[fd00::1]",
];

#[tokio::test]
async fn no_address_of_the_gateways_own_network_is_reached_by_any_spelling_or_name() {
    let receiver = Receiver::start(|_, _| TAKEN.to_owned());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let sim = Sim::start(&[]);
    let closed = ["webhooks.allow_http=true", "webhooks.ports="];
    let gateway = Scene::gateway(&sim, directory.path(), 1, &closed);
    let key = gateway.user("ada");
    let ada = Asker::of(&gateway, &key).await;
    let body = |url: &str| json!({"url": url, "events": ["task.done"], "enabled": true});
    let harmless = made(&ada, "https://example.com/", &["task.done"]).await;
    for host in FORBIDDEN.iter().copied().chain(["[fe80::1]", "[::127.0.0.1]", "[2002:7f00:1::]"]) {
        let url = receiver.at(host);
        let answer = ada.ask("POST", "/webhooks", &body(&url)).await;
        assert_eq!(answer.problem(422, "invalid-field")["errors"][0]["pointer"], "/url", "{url}");
        let answer = patched(&ada, &harmless, &json!({ "url": url })).await;
        assert_eq!(answer.problem(422, "invalid-field")["errors"][0]["pointer"], "/url", "{url}");
    }
    for url in [
        "ftp://example.com/",
        "file:///etc/passwd",
        "http:/x",
        "http://a@example.com/",
        "http://example.com/#x",
    ] {
        ada.ask("POST", "/webhooks", &body(url)).await.problem(422, "invalid-field");
    }
    // Names say nothing of where they lead: that is seen when they are asked for.
    for host in ["localhost", "LOCALHOST", "localhost.", "nowhere.invalid"] {
        let webhook = made(&ada, &receiver.at(host), &["task.done"]).await;
        let attempt = pinged(&ada, &webhook).await;
        assert_eq!(attempt["error"], "the URL leads to no address that messages may go to", "{host}");
        assert_eq!((&attempt["status"], &attempt["outcome"]), (&NONE, &json!("given_up")), "{host}");
        ada.expect(204, "DELETE", &path(&webhook), &NONE).await;
    }
    // Of these, the two that surely resolve; a resolver may know the others.
    assert!(gateway.page().await.sum("sluice_outward_failed_total", &[("reason", "forbidden")]) >= 2);
    gateway.stop();

    // What was allowed when a webhook was made, and is not any more.
    let open = options(&[&closed, &["webhooks.allow=127.0.0.0/8"]]);
    let gateway = Scene::gateway(&sim, directory.path(), 1, &open);
    let ada = Asker::of(&gateway, &key).await;
    let webhook = made(&ada, &receiver.url(), &["task.done"]).await;
    assert_eq!(pinged(&ada, &webhook).await["outcome"], "delivered");
    assert_eq!(receiver.connections(), 1);
    gateway.stop();
    let gateway = Scene::gateway(&sim, directory.path(), 1, &closed);
    let ada = Asker::of(&gateway, &key).await;
    let attempt = pinged(&ada, &webhook).await;
    assert_eq!(attempt["error"], "the URL leads to no address that messages may go to");
    gateway.stop();

    // Without a word of the operator's: https and its ports.
    let gateway = Scene::gateway(&sim, directory.path(), 1, &[]);
    let ada = Asker::of(&gateway, &key).await;
    for url in ["http://example.com/", "https://example.com:22/", "https://example.com:80/"] {
        let answer = ada.ask("POST", "/webhooks", &body(url)).await;
        assert_eq!(answer.problem(422, "invalid-field")["errors"][0]["pointer"], "/url", "{url}");
    }
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn redirects_lead_nowhere() {
    let inner = Receiver::start(|_, _| TAKEN.to_owned());
    let target = inner.url();
    let receiver = Receiver::start(move |number, _| {
        let code = [301, 302, 303, 307, 308][number % 5];
        format!("HTTP/1.1 {code} X\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n")
    });
    let scene = Scene::start(1, &LOOPBACK);
    let ada = Asker::of(&scene.gateway, &scene.gateway.user("ada")).await;
    let webhook = made(&ada, &receiver.url(), &["task.done"]).await;
    for code in [301, 302, 303, 307, 308] {
        let attempt = pinged(&ada, &webhook).await;
        assert_eq!(attempt["status"], code);
        assert_eq!(
            (&attempt["error"], &attempt["outcome"]),
            (&json!("redirects are not followed"), &json!("given_up"))
        );
    }
    assert_eq!((receiver.connections(), inner.connections()), (5, 0));
}

/// A certificate for `localhost` of an authority of its own, which stands in a file.
fn identity() -> (rustls::ServerConfig, tempfile::NamedTempFile) {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority =
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    let certificate = params.signed_by(&key, &authority).expect("a certificate");
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(authority.pem().as_bytes()).expect("written");
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let tls = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    (tls.expect("a configuration"), file)
}

#[tokio::test]
async fn receivers_prove_who_they_are_and_names_resolve_within_the_sandbox() {
    let (tls, authority) = identity();
    let receiver = Receiver::secure(tls, |_, _| TAKEN.to_owned());
    let (tls, _unknown) = identity();
    let stranger = Receiver::secure(tls, |_, _| TAKEN.to_owned());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let sim = Sim::start(&[]);
    let options = ["server.cores=1", "server.shards=16", "webhooks.ports=", "webhooks.allow=127.0.0.0/8"];
    let gateway = Gateway::start_with(&sim, directory.path(), &options, &[], |command| {
        command.env("SSL_CERT_FILE", authority.path());
    });
    let ada = Asker { caller: Caller::of(&gateway).await, key: gateway.user("ada") };
    let webhook = made(&ada, &receiver.at("localhost"), &["task.done"]).await;
    let task = done(&ada).await;
    assert_eq!(receiver.until(1).await[0].event()["data"]["id"], task["id"]);
    let attempt = attempted(&ada, &webhook, "delivered", |one| one["outcome"] == "delivered").await;
    assert_eq!(attempt["attempt"], 1);
    let unproven = made(&ada, &stranger.at("localhost"), &["task.done"]).await;
    let attempt = pinged(&ada, &unproven).await;
    assert!(text(&attempt["error"]).starts_with("no TLS connection"), "{attempt:#}");
    assert!(stranger.messages().is_empty());
}

//! Context documents through the real gateway: over every protocol, in bounded memory, and over a kill in the midst.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::asker::{Asker, text};
use common::h3::Answer;
use common::scene::{Scene, guard};
use serde_json::{Value, json};

const MB: usize = 1 << 20;
/// What the gateway may grow by while contents pass: chunks, batches, windows and write buffers of the storage.
const GROWTH_KB_MAX: u64 = 48 << 10;

/// Half of it compresses well, half of it not at all.
fn content(bytes: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut all = Vec::with_capacity(bytes + 64);
    while all.len() < bytes {
        let noise = next().to_le_bytes();
        all.extend_from_slice(&noise);
        all.extend_from_slice(b"the same ");
    }
    all.truncate(bytes);
    all.into()
}

async fn send(ada: &Asker, method: &str, path: &str, fields: &[(&str, &str)], body: Bytes) -> Answer {
    let bearer = format!("Bearer {}", ada.key);
    let mut all = vec![("authorization", bearer.as_str())];
    all.extend_from_slice(fields);
    ada.caller.send(method, &format!("/api/v1/context{path}"), &all, body).await
}

fn resident_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

#[tokio::test]
async fn ten_megabytes_go_in_and_out_whichever_core_they_land_on() {
    let scene = Scene::start(2, &[]);
    // Of two users on two cores some hop, whichever way the connection fell.
    for name in ["ada", "bob"] {
        let ada = Asker::of(&scene.gateway, &scene.gateway.user(name)).await;
        let small = send(&ada, "PUT", "/warm", &[], content(MB, 1)).await;
        assert_eq!(small.status.as_u16(), 201, "{:?}", small.body);
        assert_eq!(send(&ada, "DELETE", "/warm", &[], Bytes::new()).await.status.as_u16(), 204);
        let before_kb = resident_kb(scene.gateway.pid());
        for seed in 0..4 {
            let body = content(10 * MB, seed);
            let made = send(&ada, "PUT", "/notes", &[("content-type", "text/markdown")], body.clone()).await;
            assert_eq!(made.status.as_u16(), if seed == 0 { 201 } else { 200 }, "{:?}", made.body);
            assert!(made.value()["stored_bytes"].as_u64() < Some(8 * MB as u64), "{:?}", made.body);
            let back = send(&ada, "GET", "/notes", &[], Bytes::new()).await;
            assert_eq!(back.field("content-type"), Some("text/markdown"));
            assert!(back.body == body, "what came back is what went in");
        }
        let growth_kb = resident_kb(scene.gateway.pid()).saturating_sub(before_kb);
        println!("grown by {growth_kb} KiB");
        assert!(growth_kb < GROWTH_KB_MAX, "{growth_kb} KiB");
        let more = send(&ada, "PUT", "/more", &[], content(1, 9)).await;
        more.problem(413, "payload-too-large");
        let announced = send(&ada, "PUT", "/huge", &[], content(10 * MB + 1, 9)).await;
        announced.problem(413, "payload-too-large");
        let part = send(&ada, "GET", "/notes", &[("range", "bytes=5000000-5999999")], Bytes::new()).await;
        assert_eq!(part.field("content-range"), Some("bytes 5000000-5999999/10485760"));
        assert!(part.body == content(10 * MB, 3).slice(5_000_000..6_000_000));
    }
}

#[tokio::test]
async fn documents_are_the_same_over_tcp() {
    let scene = Scene::start(2, &[]);
    let ada = Asker::of(&scene.gateway, &scene.gateway.user("ada")).await;
    let body = content(3 * MB, 5);
    assert_eq!(
        send(&ada, "PUT", "/a", &[("content-type", "text/plain")], body.clone()).await.status.as_u16(),
        201
    );
    let pem = std::fs::read(scene.gateway.ca()).expect("the authority");
    let authority = reqwest::Certificate::from_pem(&pem).expect("PEM");
    for is_http1 in [true, false] {
        let builder = reqwest::Client::builder()
            .tls_certs_only([authority.clone()])
            .resolve("localhost", scene.gateway.address);
        let client = if is_http1 { builder.http1_only() } else { builder }.build().expect("a client");
        let url =
            |key: &str| format!("https://localhost:{}/api/v1/context/{key}", scene.gateway.address.port());
        let back = guard(client.get(url("a")).bearer_auth(&ada.key).send()).await.expect("an answer");
        assert_eq!(back.headers()["content-length"], (3 * MB).to_string().as_str());
        assert!(guard(back.bytes()).await.expect("a body") == body);
        let head = guard(client.head(url("a")).bearer_auth(&ada.key).send()).await.expect("an answer");
        assert_eq!(head.headers()["content-length"], (3 * MB).to_string().as_str());
        let made = client.put(url("b")).bearer_auth(&ada.key).body(content(2 * MB, 6));
        assert!(guard(made.send()).await.expect("an answer").status().is_success());
        assert!(send(&ada, "GET", "/b", &[], Bytes::new()).await.body == content(2 * MB, 6));
    }
}

#[tokio::test]
async fn a_kill_in_the_midst_of_an_upload_leaves_the_old_document_and_no_orphan() {
    let mut scene = Scene::start(1, &[]);
    let key = scene.gateway.user("ada");
    let old = content(2 * MB, 1);
    {
        let ada = Asker::of(&scene.gateway, &key).await;
        assert_eq!(send(&ada, "PUT", "/a", &[], old.clone()).await.status.as_u16(), 201);
    }
    for round in 0..3 {
        let ada = Asker::of(&scene.gateway, &key).await;
        let bytes = || async { scene.gateway.page().await.sum("sluice_commit_bytes_total", &[]) };
        let before = bytes().await;
        let upload = async { send(&ada, "PUT", "/a", &[], content(8 * MB, 7 + round)).await };
        let cut = async {
            // Chunks are on disk, and not all of them.
            while bytes().await < before + 1_000_000 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            biased;
            () = cut => {}
            made = upload => println!("round {round}: it was done before the kill: {:?}", made.status),
        }
        scene.gateway = scene.gateway.crash_and_restart();
        let ada = Asker::of(&scene.gateway, &key).await;
        let back = send(&ada, "GET", "/a", &[], Bytes::new()).await;
        let is_whole = back.body == old || (0..=round).any(|round| back.body == content(8 * MB, 7 + round));
        assert!(back.status.as_u16() == 200 && is_whole, "round {round}: {} bytes", back.body.len());
        if back.body == old {
            let removed = |page: &common::metrics::Metrics| {
                page.sum("sluice_context_generations_removed_total", &[]) > 0
            };
            scene.gateway.until("the orphan is removed", removed).await;
        }
    }
    let ada = Asker::of(&scene.gateway, &key).await;
    let new = content(9 * MB, 99);
    assert_eq!(send(&ada, "PUT", "/a", &[], new.clone()).await.status.as_u16(), 200);
    scene.gateway = scene.gateway.crash_and_restart();
    let ada = Asker::of(&scene.gateway, &key).await;
    assert!(send(&ada, "GET", "/a", &[], Bytes::new()).await.body == new, "what was acknowledged is there");
}

#[tokio::test]
async fn a_snapshot_outlives_a_kill_and_is_restored() {
    let mut scene = Scene::start(2, &[]);
    let key = scene.gateway.user("ada");
    let ada = Asker::of(&scene.gateway, &key).await;
    let (one, two) = (content(MB, 1), content(MB / 2, 2));
    for (name, body) in [("/one", &one), ("/two", &two)] {
        assert_eq!(send(&ada, "PUT", name, &[], body.clone()).await.status.as_u16(), 201);
    }
    let taken = ada.expect(201, "POST", "/context/snapshots", &json!({"label": "before"})).await;
    assert_eq!(send(&ada, "PUT", "/one", &[], content(100, 3)).await.status.as_u16(), 200);
    assert_eq!(send(&ada, "DELETE", "/two", &[], Bytes::new()).await.status.as_u16(), 204);
    scene.gateway = scene.gateway.crash_and_restart();
    let ada = Asker::of(&scene.gateway, &key).await;
    let path = format!("/context/snapshots/{}", text(&taken["id"]));
    ada.expect(200, "POST", &format!("{path}/restore"), &Value::Null).await;
    assert!(send(&ada, "GET", "/one", &[], Bytes::new()).await.body == one);
    assert!(send(&ada, "GET", "/two", &[], Bytes::new()).await.body == two);
    ada.expect(204, "DELETE", &path, &Value::Null).await;
    assert!(send(&ada, "GET", "/two", &[], Bytes::new()).await.body == two);
}

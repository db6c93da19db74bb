//! Large content up and down through the real gateway: with bounded memory, and over faults in the middle.

mod common;

use bytes::Bytes;
use common::scene::{Caller, Scene};
use serde_json::json;

const MB: usize = 1 << 20;
/// What the gateway may grow by while 50 MB pass: chunk, windows and allocator slack together stay far below the content.
const GROWTH_KB_MAX: u64 = 24 << 10;

fn content(bytes: usize) -> Bytes {
    (0..bytes).map(|at| (at * 31 + at / 4_093).to_le_bytes()[0]).collect::<Vec<_>>().into()
}

/// Resident memory of a process, in KiB.
fn resident_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

async fn upload(caller: &Caller, key: &str, extra: &[(&str, &str)], body: Bytes) -> common::h3::Answer {
    let bearer = format!("Bearer {key}");
    let mut fields = vec![("authorization", bearer.as_str()), ("content-type", "video/mp4")];
    fields.extend_from_slice(extra);
    caller.send("POST", "/api/v1/drive/uploads?name=film.mp4", &fields, body).await
}

#[tokio::test]
async fn fifty_megabytes_go_up_and_down_in_bounded_memory() {
    let scene = Scene::start(2, &[]);
    let key = scene.gateway.user("ada");
    let caller = scene.caller().await;
    // Warm: connections, pools and caches of a first transfer are no growth.
    let small = upload(&caller, &key, &[], content(2 * MB)).await;
    assert_eq!(small.status.as_u16(), 200, "{:?}", small.body);
    let before_kb = resident_kb(scene.gateway.pid());
    let body = content(50 * MB);
    let made = upload(&caller, &key, &[], body.clone()).await;
    assert_eq!(made.status.as_u16(), 200, "{:?}", made.body);
    let id = made.value()["id"].as_str().expect("an id").to_owned();
    assert_eq!(made.value()["mimeType"], "video/mp4");
    let path = format!("/api/v1/drive/files/{id}/content");
    let bearer = format!("Bearer {key}");
    let back = caller.send("GET", &path, &[("authorization", &bearer)], "").await;
    assert_eq!(back.status.as_u16(), 200);
    assert_eq!(back.field("content-length"), Some(&*body.len().to_string()));
    assert!(back.body == body, "what came back is what went up");
    let growth_kb = resident_kb(scene.gateway.pid()).saturating_sub(before_kb);
    println!("grown by {growth_kb} KiB");
    assert!(growth_kb < GROWTH_KB_MAX, "{growth_kb} KiB");
    let part = [("authorization", &*bearer), ("range", "bytes=1000000-1999999")];
    let part = caller.send("GET", &path, &part, "").await;
    assert_eq!(part.status.as_u16(), 206);
    assert_eq!(part.field("content-range"), Some("bytes 1000000-1999999/52428800"));
    assert!(part.body == body.slice(1_000_000..2_000_000));
}

#[tokio::test]
async fn an_upload_goes_on_after_faults_whether_or_not_the_chunk_was_taken() {
    let scene = Scene::start(1, &[]);
    let key = scene.gateway.user("ada");
    let caller = scene.caller().await;
    let chunk = |kind: &str, after: bool| json!({"service": "drive", "kind": kind, "status": 503, "operation": "upload.chunk", "count": 1, "after_effect": after});
    for (kind, after) in [("status", false), ("down", true), ("down", false), ("status", true)] {
        scene.sim.fault(chunk(kind, after)).await;
        let body = content(5 * MB + 17);
        let made = upload(&caller, &key, &[], body.clone()).await;
        assert_eq!(made.status.as_u16(), 200, "{kind} {after}: {:?}", made.body);
        let path = format!("/api/v1/drive/files/{}/content", made.value()["id"].as_str().expect("an id"));
        let bearer = format!("Bearer {key}");
        let back = caller.send("GET", &path, &[("authorization", &bearer)], "").await;
        assert!(back.body == body, "{kind} {after}");
    }
}

#[tokio::test]
async fn a_repeat_with_the_same_key_goes_on_where_the_first_stopped() {
    let scene = Scene::start(1, &["egress.retry_budget_percent=0", "egress.retry_budget_per_second=0"]);
    let key = scene.gateway.user("ada");
    let caller = scene.caller().await;
    let body = content(4 * MB);
    // A chunk is taken, but its answer is lost, and there is no budget to ask for it.
    let fault = json!({"service": "drive", "kind": "status", "status": 503, "operation": "upload.chunk", "count": 1,
        "after_effect": true});
    let keyed = [("idempotency-key", "film-1")];
    scene.sim.fault(fault).await;
    let failed = upload(&caller, &key, &keyed, body.clone()).await;
    failed.problem(502, "upstream-unavailable");
    let begun = scene.sim.asked("drive.files.create").await;
    let made = upload(&caller, &key, &keyed, body.clone()).await;
    assert_eq!(made.status.as_u16(), 200, "{:?}", made.body);
    assert_eq!(scene.sim.asked("drive.files.create").await, begun, "no second session was opened");
    let path = format!("/api/v1/drive/files/{}/content", made.value()["id"].as_str().expect("an id"));
    let bearer = format!("Bearer {key}");
    let back = caller.send("GET", &path, &[("authorization", &bearer)], "").await;
    assert!(back.body == body);
    let again = upload(&caller, &key, &keyed, body).await;
    assert_eq!(again.value()["id"], made.value()["id"], "the file that is there is told of again");
    let fields = [("authorization", &*bearer), ("content-type", "video/mp4"), keyed[0]];
    let other = caller.send("POST", "/api/v1/drive/uploads?name=other", &fields, content(10)).await;
    other.problem(422, "idempotency-mismatch");
}

#[tokio::test]
async fn an_upload_with_a_key_makes_one_file_over_a_crash() {
    for after_effect in [true, false] {
        let mut scene = Scene::start(1, &[]);
        let key = scene.gateway.user("ada");
        let caller = scene.caller().await;
        let body = content(3 * MB / 2);
        let keyed = [("idempotency-key", "film-2")];
        // The second and last chunk hangs, with the file made or not.
        scene
            .sim
            .fault(
                json!({"service": "drive", "kind": "slow", "ms": 1, "operation": "upload.chunk", "count": 1}),
            )
            .await;
        scene
            .sim
            .fault(json!({"service": "drive", "kind": "hang", "operation": "upload.chunk", "count": 1,
            "after_effect": after_effect}))
            .await;
        let upload_hangs = upload(&caller, &key, &keyed, body.clone());
        let crash = async {
            while scene.sim.asked("upload.chunk").await + scene.sim.asked("failed_before_effect").await < 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            answer = upload_hangs => panic!("it is answered: {:?}", answer.body),
            () = common::scene::guard(crash) => {}
        }
        let Scene { gateway, sim, directory } = scene;
        scene = Scene { gateway: gateway.crash_and_restart(), sim, directory };
        scene.sim.clear_faults().await;
        let caller = scene.caller().await;
        let made = upload(&caller, &key, &keyed, body.clone()).await;
        assert_eq!(made.status.as_u16(), 200, "{after_effect}: {:?}", made.body);
        let again = upload(&caller, &key, &keyed, body.clone()).await;
        assert_eq!(again.field("idempotency-replayed"), Some("true"), "{:?}", again.body);
        assert_eq!(again.body, made.body);
        let bearer = format!("Bearer {key}");
        let films = "/api/v1/drive/files?q=name%20%3D%20'film.mp4'";
        let films = caller.send("GET", films, &[("authorization", &bearer)], "").await.value();
        assert_eq!(films["files"].as_array().map(Vec::len), Some(1), "{after_effect}: {films:#}");
        assert_eq!(films["files"][0]["id"], made.value()["id"]);
    }
}

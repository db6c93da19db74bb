//! Context documents and snapshots, from the request to the disk and back.

use std::time::Duration;

use crate::common::{Answer, DAY_MS, Gateway, START_MS, User, World, body, config, problem};
use bytes::Bytes;
use serde_json::{Value, json};
use sluice_net::body::body as pieces;
use sluice_net::{Request, Responder, Service};
use sluice_protocols::http::Response;
use sluice_protocols::problem::ProblemKind;
use sluice_shard::{ContextConfig, ShardConfig};
use sluice_store::{Batch, Key, KeyRange, Kind};

const ROOT: &str = "/api/v1/context";

/// Text that compresses, and is nowhere the same.
fn content(bytes: usize, seed: usize) -> String {
    let line =
        |number: usize| format!("line {number} of {seed} says {:x}\n", (number + seed) * 2_654_435_761);
    let mut text: String = (0..bytes / 20 + 1).map(line).collect();
    text.truncate(bytes);
    text
}

fn small() -> ShardConfig {
    let context = ContextConfig { bytes_max: 300_000, ..ContextConfig::default() };
    ShardConfig { context, ..config() }
}

async fn put(gateway: &Gateway, user: &User, key: &str, content: &str) -> Response {
    let head = user.head("PUT", &format!("{ROOT}/{key}")).with("content-type", "text/plain");
    gateway.send(head, content).await
}

/// Reads an answer whose body comes in pieces.
async fn read(answer: Answer) -> (Response, Result<Vec<u8>, sluice_net::BodyError>) {
    let (head, mut body) = answer.streamed().await;
    let mut content = Vec::new();
    while let Some(piece) = body.next().await {
        match piece {
            Ok(piece) => content.extend_from_slice(&piece),
            Err(error) => return (head, Err(error)),
        }
    }
    (head, Ok(content))
}

async fn get(gateway: &Gateway, user: &User, key: &str) -> String {
    let (head, content) = read(gateway.get(user, &format!("{ROOT}/{key}"))).await;
    assert_eq!(head.status, 200, "{head:?}");
    String::from_utf8(content.unwrap()).unwrap()
}

async fn post(gateway: &Gateway, user: &User, path: &str, fields: Value) -> Response {
    let head = user.head("POST", &format!("{ROOT}/{path}")).with("content-type", "application/json");
    gateway.send(head, &fields.to_string()).await
}

/// Rows of a kind on disk; of documents those of orphans apart.
fn rows(world: &World, kind: Kind) -> (usize, usize) {
    let shards = world.store.shard_count().shards();
    let keys: Vec<Key> = shards
        .flat_map(|shard| world.store.scan_blocking(shard, KeyRange::kind(kind), 1_000, false).unwrap().rows)
        .map(|(key, _)| key)
        .collect();
    let orphans = keys.iter().filter(|key| key.is_context_orphan()).count();
    (keys.len() - orphans, orphans)
}

/// Waits until so many contents were removed.
async fn removed(gateway: &Gateway, count: u64) {
    while gateway.metric("sluice_context_generations_removed_total{core=\"0\"}") < count {
        sluice_core::sleep(Duration::from_millis(1)).await;
    }
}

fn copy(user: &User) -> User {
    User { id: user.id, key: user.key.clone() }
}

#[test]
fn a_document_comes_back_as_it_went_in_whole_and_in_part() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        for bytes in [0, 1, 32_767, 32_768, 32_769, 200_001] {
            let text = content(bytes, bytes);
            let made = put(&gateway, &anna, "notes.md", &text).await;
            assert!(matches!(made.status, 200 | 201), "{made:?}");
            assert_eq!(body(&made)["bytes"], bytes);
            let (head, back) = read(gateway.get(&anna, &format!("{ROOT}/notes.md"))).await;
            assert!(back.unwrap() == text.as_bytes(), "{bytes}");
            assert_eq!(head.header("content-type"), Some("text/plain"));
            assert_eq!(head.header("content-length"), Some(&*bytes.to_string()));
            assert_eq!(head.header("etag"), made.header("etag"));
            assert_eq!(head.header("content-disposition"), Some("attachment"));
            let head = anna.head("HEAD", &format!("{ROOT}/notes.md"));
            let (head, nothing) = read(gateway.send(head, "")).await;
            assert_eq!(
                (head.header("content-length"), nothing.unwrap().len()),
                (Some(&*bytes.to_string()), 0)
            );
        }
        let text = content(200_001, 200_001);
        for (range, first, last) in [
            ("bytes=0-0", 0, 0),
            ("bytes=32767-32768", 32_767, 32_768),
            ("bytes=40000-180000", 40_000, 180_000),
            ("bytes=-5", 199_996, 200_000),
        ] {
            let head = anna.head("GET", &format!("{ROOT}/notes.md")).with("range", range);
            let (head, part) = read(gateway.send(head, "")).await;
            assert_eq!(head.status, 206, "{range}");
            assert_eq!(head.header("content-range"), Some(&*format!("bytes {first}-{last}/200001")));
            assert!(part.unwrap() == text.as_bytes()[first..=last], "{range}");
        }
        let head = anna.head("GET", &format!("{ROOT}/notes.md")).with("range", "bytes=200001-");
        let refused = gateway.send(head, "").await;
        assert_eq!(problem(&refused).kind(), ProblemKind::RangeNotSatisfiable);
        assert_eq!(refused.header("content-range"), Some("bytes */200001"));
        let head = anna
            .head("GET", &format!("{ROOT}/notes.md"))
            .with("range", "bytes=0-0")
            .with("if-range", "\"x\"");
        assert_eq!(read(gateway.send(head, "")).await.0.status, 200);
        let seen = |name: &str| gateway.metric(&format!("sluice_context_{name}{{core=\"0\"}}"));
        assert!(seen("bytes_stored_total") < seen("bytes_received_total") / 2);
    });
}

#[test]
fn writes_and_reads_heed_their_conditions() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        let path = format!("{ROOT}/a");
        let write =
            |name: &str, value: &str| gateway.send(anna.head("PUT", &path).with(name, value), "content");
        assert_eq!(problem(&write("if-match", "*").await).kind(), ProblemKind::PreconditionFailed);
        let made = write("if-none-match", "*").await;
        assert_eq!((made.status, made.header("location")), (201, Some("/api/v1/context/a")));
        let tag = made.header("etag").unwrap().to_owned();
        assert_eq!(write("if-none-match", "*").await.status, 412);
        let changed = write("if-match", &tag).await;
        assert_eq!(changed.status, 200);
        assert_eq!(body(&changed)["created"], body(&made)["created"]);
        assert_eq!(write("if-match", &tag).await.status, 412);
        let tag = changed.header("etag").unwrap().to_owned();
        let known = gateway.send(anna.head("GET", &path).with("if-none-match", &tag), "").await;
        assert_eq!((known.status, known.header("etag")), (304, Some(&*tag)));
        assert_eq!(gateway.send(anna.head("DELETE", &path).with("if-match", "\"x\""), "").await.status, 412);
        assert_eq!(gateway.send(anna.head("DELETE", &path).with("if-match", &tag), "").await.status, 204);
        assert_eq!(gateway.send(anna.head("DELETE", &path), "").await.status, 404);
        for (name, value, status) in [
            ("content-type", "nonsense", 415),
            ("content-encoding", "gzip", 415),
            ("content-range", "bytes 0-1/2", 400),
        ] {
            assert_eq!(write(name, value).await.status, status, "{name}");
        }
        assert_eq!(put(&gateway, &anna, ".hidden", "x").await.status, 404);
        assert_eq!(put(&gateway, &anna, "a?ttl_s=59", "x").await.status, 422);
        assert_eq!(put(&gateway, &anna, "a?life=60", "x").await.status, 422);
    });
}

#[test]
fn all_documents_of_a_user_and_what_snapshots_keep_have_one_bound() {
    let world = World::new();
    let (anna, bert) = (world.user("anna"), world.user("bert"));
    world.run(small(), |gateway| async move {
        assert_eq!(put(&gateway, &anna, "a", &content(200_000, 1)).await.status, 201);
        let refused = put(&gateway, &anna, "b", &content(100_001, 2)).await;
        assert_eq!(problem(&refused).kind(), ProblemKind::PayloadTooLarge);
        assert_eq!(put(&gateway, &anna, "b", &content(100_000, 2)).await.status, 201);
        // The one that is replaced does not count.
        assert_eq!(put(&gateway, &anna, "a", &content(200_000, 3)).await.status, 200);
        assert_eq!(post(&gateway, &anna, "snapshots", json!({})).await.status, 201);
        let list = body(&gateway.get(&anna, ROOT).await);
        assert_eq!((&list["bytes"], &list["bytes_max"]), (&json!(300_000), &json!(300_000)));
        // What the snapshot keeps goes on counting.
        assert_eq!(put(&gateway, &anna, "a", "x").await.status, 413);
        assert_eq!(put(&gateway, &bert, "a", &content(300_000, 4)).await.status, 201);
        assert!(gateway.metric("sluice_context_refused_full_total{core=\"0\"}") >= 2);
        assert!(get(&gateway, &anna, "a").await == content(200_000, 3));
    });
}

#[test]
fn documents_are_listed_by_key_page_by_page() {
    let world = World::new();
    let (anna, bert) = (world.user("anna"), world.user("bert"));
    world.run(config(), |gateway| async move {
        for key in ["c", "a", "b.md", "B"] {
            assert_eq!(put(&gateway, &anna, key, key).await.status, 201);
        }
        let keys = |page: &Value| -> Vec<String> {
            let all = page["documents"].as_array().unwrap();
            all.iter().map(|document| document["key"].as_str().unwrap().to_owned()).collect()
        };
        let page = body(&gateway.get(&anna, &format!("{ROOT}?limit=2")).await);
        assert_eq!(keys(&page), ["B", "a"]);
        let next = page["next"].as_str().unwrap();
        // Also when the last of the page has gone.
        assert_eq!(gateway.send(anna.head("DELETE", &format!("{ROOT}/a")), "").await.status, 204);
        let page = body(&gateway.get(&anna, &format!("{ROOT}?limit=2&cursor={next}")).await);
        assert_eq!((keys(&page), &page["next"]), (vec!["b.md".to_owned(), "c".to_owned()], &Value::Null));
        assert_eq!(gateway.get(&bert, &format!("{ROOT}?cursor={next}")).await.status, 422);
        assert_eq!(keys(&body(&gateway.get(&bert, ROOT).await)), Vec::<String>::new());
        assert_eq!(problem(&gateway.get(&bert, &format!("{ROOT}/c")).await).kind(), ProblemKind::NotFound);
    });
}

#[test]
fn a_snapshot_brings_back_all_of_its_moment_and_nothing_else() {
    let world = World::new();
    let (anna, bert) = (world.user("anna"), world.user("bert"));
    world.run(config(), |gateway| async move {
        let (old, new) = (content(100_000, 1), content(90_000, 2));
        let first = put(&gateway, &anna, "a", &old).await;
        put(&gateway, &anna, "b", "kept").await;
        let taken = body(&post(&gateway, &anna, "snapshots", json!({"label": "before"})).await);
        assert_eq!((&taken["label"], &taken["count"]), (&json!("before"), &json!(2)));
        let id = taken["id"].as_str().unwrap();
        put(&gateway, &anna, "a", &new).await;
        put(&gateway, &anna, "c", "later").await;
        gateway.send(anna.head("DELETE", &format!("{ROOT}/b")), "").await;
        gateway.settle().await;
        let restore = || gateway.send(anna.head("POST", &format!("{ROOT}/snapshots/{id}/restore")), "");
        assert_eq!(restore().await.status, 200);
        assert!(get(&gateway, &anna, "a").await == old);
        assert_eq!(get(&gateway, &anna, "b").await, "kept");
        assert_eq!(gateway.get(&anna, &format!("{ROOT}/c")).await.status, 404);
        let head =
            anna.head("GET", &format!("{ROOT}/a")).with("if-none-match", first.header("etag").unwrap());
        assert_eq!(gateway.send(head, "").await.status, 304);
        let path = format!("{ROOT}/snapshots/{id}");
        assert_eq!(body(&gateway.get(&anna, &path).await)["documents"][1]["key"], "b");
        let list = body(&gateway.get(&anna, &format!("{ROOT}/snapshots")).await);
        assert_eq!(list["snapshots"][0]["id"], id);
        for (method, path) in
            [("GET", path.clone()), ("DELETE", path.clone()), ("POST", format!("{path}/restore"))]
        {
            assert_eq!(gateway.send(bert.head(method, &path), "").await.status, 404, "{method}");
        }
        assert_eq!(gateway.send(anna.head("DELETE", &path), "").await.status, 204);
        assert_eq!(restore().await.status, 404);
        assert!(get(&gateway, &anna, "a").await == old, "the document refers to what the snapshot did");
        // What was written between the snapshot and its return.
        removed(&gateway, 2).await;
    });
    assert_eq!(rows(&world, Kind::ContextDocument), (2, 0));
    // 100,000 bytes are four chunks, and "kept" is one.
    assert_eq!(rows(&world, Kind::ContextChunk).0, 5);
    assert_eq!(rows(&world, Kind::ContextSnapshot).0, 0);
}

#[test]
fn what_is_over_is_gone_at_once_and_removed_after_a_restart() {
    let world = World::new();
    let anna = world.user("anna");
    let again = copy(&anna);
    world.run(config(), |gateway| async move {
        put(&gateway, &anna, "short?ttl_s=60", &content(100_000, 1)).await;
        put(&gateway, &anna, "long", "x").await;
        post(&gateway, &anna, "snapshots", json!({"ttl_s": 120})).await;
        gateway.clock.set(START_MS + 59_999);
        assert_eq!(gateway.get(&anna, &format!("{ROOT}/short")).streamed().await.0.status, 200);
        gateway.clock.set(START_MS + 60_000);
        assert_eq!(gateway.get(&anna, &format!("{ROOT}/short")).await.status, 404);
        assert_eq!(body(&gateway.get(&anna, ROOT).await)["documents"].as_array().unwrap().len(), 1);
    });
    assert_eq!(rows(&world, Kind::ContextDocument), (2, 0));
    world.run_at(START_MS + 120_000, config(), |gateway| async move { removed(&gateway, 1).await });
    assert_eq!((rows(&world, Kind::ContextDocument), rows(&world, Kind::ContextSnapshot).0), ((1, 0), 0));
    assert_eq!(rows(&world, Kind::ContextChunk).0, 1);
    world.run_at(START_MS + 7 * DAY_MS, config(), |gateway| async move {
        assert_eq!(gateway.get(&again, &format!("{ROOT}/long")).await.status, 404);
        removed(&gateway, 1).await;
    });
    assert_eq!((rows(&world, Kind::ContextDocument), rows(&world, Kind::ContextChunk).0), ((0, 0), 0));
}

/// A request whose body the test writes.
fn upload(gateway: &Gateway, user: &User, key: &str) -> (sluice_net::BodyWriter, Answer) {
    let (writer, reader) = pieces();
    let head = user.head("PUT", &format!("{ROOT}/{key}"));
    let request = Request {
        head,
        body: Bytes::new(),
        stream: Some(reader),
        peer: ([127, 0, 0, 1], 9).into(),
        early_data: false,
    };
    let answer = Answer::default();
    let filled = answer.clone();
    gateway.service.call(request, Responder::from_fn(move |answer| filled.take_in(answer)));
    (writer, answer)
}

#[test]
fn what_a_broken_upload_left_is_removed() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        put(&gateway, &anna, "a", "old").await;
        let (mut writer, answer) = upload(&gateway, &anna, "a");
        writer.send(content(1_500_000, 1).into()).await.unwrap();
        drop(writer);
        assert_eq!(problem(&answer.await).kind(), ProblemKind::BadRequest);
        assert_eq!(get(&gateway, &anna, "a").await, "old");
    });
    assert_eq!((rows(&world, Kind::ContextDocument), rows(&world, Kind::ContextChunk).0), ((1, 0), 1));
}

#[test]
fn an_upload_that_shows_to_be_too_large_at_its_end_leaves_nothing_behind() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(small(), |gateway| async move {
        put(&gateway, &anna, "a", "old").await;
        put(&gateway, &anna, "b", &content(200_000, 2)).await;
        // The first is more than all may be, the other too much besides the rest.
        for bytes in [300_001, 100_001] {
            for key in ["a", "new"] {
                let (mut writer, answer) = upload(&gateway, &anna, key);
                // Who reads it may have gone before its end.
                if writer.send(content(bytes, 1).into()).await.is_ok() {
                    writer.finish();
                }
                assert_eq!(problem(&answer.await).kind(), ProblemKind::PayloadTooLarge, "{bytes} {key}");
            }
        }
        assert_eq!(get(&gateway, &anna, "a").await, "old");
        assert_eq!(gateway.get(&anna, &format!("{ROOT}/new")).await.status, 404);
    });
    assert_eq!(rows(&world, Kind::ContextDocument), (2, 0));
    assert_eq!(rows(&world, Kind::ContextChunk).0, 1 + 200_000usize.div_ceil(32 << 10));
}

#[test]
fn a_crash_in_the_midst_of_an_upload_leaves_the_old_document_and_is_swept() {
    let world = World::new();
    let anna = world.user("anna");
    let again = copy(&anna);
    world.run(config(), |gateway| async move {
        put(&gateway, &anna, "a", "old").await;
        let (mut writer, answer) = upload(&gateway, &anna, "a");
        writer.send(content(3_000_000, 1).into()).await.unwrap();
        sluice_core::sleep(Duration::from_millis(50)).await;
        assert!(!answer.is_there());
        std::mem::forget(writer);
    });
    let (documents, chunks) = (rows(&world, Kind::ContextDocument), rows(&world, Kind::ContextChunk).0);
    assert!(documents == (1, 1) && chunks > 10, "{documents:?} {chunks}");
    world.run(config(), |gateway| async move {
        assert_eq!(get(&gateway, &again, "a").await, "old");
        removed(&gateway, 1).await;
    });
    assert_eq!((rows(&world, Kind::ContextDocument), rows(&world, Kind::ContextChunk).0), ((1, 0), 1));
}

#[test]
fn who_reads_a_document_reads_it_to_its_end_while_it_is_replaced() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        let (old, new) = (content(900_000, 1), content(800_000, 2));
        put(&gateway, &anna, "a", &old).await;
        let (_, mut reader) = gateway.get(&anna, &format!("{ROOT}/a")).streamed().await;
        let mut seen = reader.next().await.unwrap().unwrap().to_vec();
        put(&gateway, &anna, "a", &new).await;
        gateway.settle().await;
        while let Some(piece) = reader.next().await {
            seen.extend_from_slice(&piece.unwrap());
        }
        assert!(seen == old.as_bytes());
        assert!(get(&gateway, &anna, "a").await == new);
        removed(&gateway, 1).await;
    });
    assert_eq!(rows(&world, Kind::ContextDocument), (1, 0));
    assert_eq!(rows(&world, Kind::ContextChunk).0, 800_000usize.div_ceil(32 << 10));
}

#[test]
fn who_reads_no_further_holds_a_content_for_no_longer_than_its_time() {
    let world = World::new();
    let anna = world.user("anna");
    let mut config = config();
    config.run.transfer.idle = Duration::from_millis(20);
    world.run(config, |gateway| async move {
        put(&gateway, &anna, "a", &content(900_000, 1)).await;
        let (_, mut reader) = gateway.get(&anna, &format!("{ROOT}/a")).streamed().await;
        let broken = || gateway.metric("sluice_context_downloads_broken_total{core=\"0\"}");
        while broken() == 0 {
            sluice_core::sleep(Duration::from_millis(5)).await;
        }
        let mut end = None;
        while let Some(piece) = reader.next().await {
            end = piece.err();
        }
        assert_eq!(end, Some(sluice_net::BodyError::Broken));
    });
}

#[test]
fn a_damaged_piece_is_never_taken_for_content() {
    let world = World::new();
    let anna = world.user("anna");
    let again = copy(&anna);
    world.run(config(), |gateway| async move {
        put(&gateway, &anna, "a", &content(200_000, 1)).await;
    });
    let shard = sluice_protocols::ids::ShardId::of(&again.id, world.store.shard_count());
    let range = KeyRange::of_user(Kind::ContextChunk, &again.id);
    let rows = world.store.scan_blocking(shard, range, 100, false).unwrap().rows;
    let damage = |index: usize| {
        let (key, value) = &rows[index];
        let mut bytes = value.as_bytes().to_vec();
        bytes[100] ^= 0x10;
        let mut batch = Batch::new(shard);
        batch.put(key, &bytes);
        world.store.write_blocking(vec![batch]).unwrap();
    };
    damage(3);
    let (first, last) = (copy(&again), copy(&again));
    world.run(config(), |gateway| async move {
        let (head, broken) = read(gateway.get(&first, &format!("{ROOT}/a"))).await;
        assert_eq!((head.status, broken), (200, Err(sluice_net::BodyError::Broken)));
        assert_eq!(gateway.metric("sluice_context_chunks_damaged_total{core=\"0\"}"), 1);
    });
    damage(0);
    world.run(config(), |gateway| async move {
        let refused = problem(&gateway.get(&last, &format!("{ROOT}/a")).await);
        assert_eq!((refused.kind(), refused.is_retryable()), (ProblemKind::Storage, false));
    });
}

//! Contents against a store, where the order of steps decides whether one is lost.

use sluice_core::{CoreId, Reactor, ReactorConfig};
use sluice_net::BodyReader;
use sluice_protocols::ids::ShardCount;
use sluice_store::{Store, StoreConfig};

use super::*;

const USER: UserId = UserId::from_bytes([1; 16]);
const GENERATION: GenerationId = GenerationId::from_bytes([7; 16]);
const BYTES_MAX: u64 = 1_000;

fn document(bytes: u64) -> ContextDocumentRecord {
    ContextDocumentRecord {
        user: USER,
        key: "notes".to_owned(),
        generation: GENERATION,
        bytes,
        stored_bytes: bytes,
        chunk_bytes: u32::try_from(CHUNK_BYTES).unwrap(),
        media_type: String::new(),
        ttl_s: 60,
        created_ms: 0,
        changed_ms: 0,
        expires_ms: u64::MAX,
    }
}

#[test]
fn a_sweep_that_met_an_upload_leaves_the_document_it_became() {
    let directory = tempfile::tempdir().unwrap();
    let shards = ShardCount::new(1).unwrap();
    let store = Store::open(StoreConfig::new(directory.path().join("data"), shards)).unwrap();
    let owner = Owner { shard: ShardId::of(&USER, shards), user: USER };
    let run = async move {
        let parts = (CoreStore::new(&store), Clock::manual(1_000), Arc::default());
        let shelves = Rc::new(Shelves::new(parts.0, parts.1, parts.2, ContextConfig::default()));
        let pin = shelves.desks.pin(USER, GENERATION);
        let mut source =
            Source::new(BodyReader::whole(Bytes::from_static(b"content")), Duration::from_secs(60));
        let written = shelves.write_content(owner, GENERATION, &mut source, BYTES_MAX).await.unwrap();
        // What a sweep does with a row it has read: while the content passes, and when its document has come meanwhile.
        shelves.remove(owner, &GENERATION).await;
        let document = document(written.bytes);
        let put = document.clone();
        shelves.change(owner, |shelf, now_ms| Ok(shelf.put(put, BYTES_MAX, now_ms)?)).await.unwrap();
        drop(pin);
        shelves.remove(owner, &GENERATION).await;
        assert_eq!(shelves.read_chunk(owner, &document, 0).await.unwrap(), "content");
        shelves.change(owner, |shelf, now_ms| Ok(shelf.remove("notes", now_ms)?)).await.unwrap();
        shelves.remove(owner, &GENERATION).await;
        let read = shelves.read_chunk(owner, &document, 0).await;
        assert!(matches!(read, Err(ContextError::Chunk(ChunkError::Missing))), "{read:?}");
    };
    Reactor::new(ReactorConfig::new(CoreId::new(0))).unwrap().block_on(run).unwrap();
}

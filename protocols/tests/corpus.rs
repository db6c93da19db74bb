//! The corpus of the fuzz targets, replayed: what was once interesting stays right.

#[allow(unreachable_pub, reason = "the fuzz targets use it as a library")]
#[path = "../../fuzz/src/bodies.rs"]
mod bodies;
#[allow(unreachable_pub, reason = "the fuzz targets use it as a library")]
#[path = "../../fuzz/src/frames.rs"]
mod frames;
#[allow(unreachable_pub, reason = "the fuzz targets use it as a library")]
#[path = "../../fuzz/src/qpack.rs"]
mod qpack;
#[allow(unreachable_pub, reason = "the fuzz targets use it as a library")]
#[path = "../../fuzz/src/requests.rs"]
mod requests;
#[allow(unreachable_pub, reason = "the fuzz targets use it as a library")]
#[path = "../../fuzz/src/tables.rs"]
mod tables;

use std::path::Path;

fn replay(target: &str, check: fn(&[u8])) {
    let built_at = env!("CARGO_MANIFEST_DIR");
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| built_at.to_owned());
    let directory = Path::new(&root).join("../fuzz/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        check(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 10, "{count} inputs found");
}

#[test]
fn the_corpus_of_frames_breaks_no_promise() {
    replay("frames", frames::check);
}

#[test]
fn the_corpus_of_field_sections_breaks_no_promise() {
    replay("qpack", qpack::check);
}

#[test]
fn the_corpus_of_dynamic_tables_breaks_no_promise() {
    replay("tables", tables::check);
}

#[test]
fn the_corpus_of_bodies_breaks_no_promise() {
    replay("bodies", bodies::check);
}

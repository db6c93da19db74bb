//! Chunks: pieces of a document's content as they are stored.
//!
//! Invariants:
//! - A chunk has at most [`CHUNK_BYTES`] of content, so that compressing one holds a core up for some 130 us and opening
//!   one for some 40 us, and a part of a document costs the chunks that it touches.
//! - What [`Codec::open`] gives is what [`Codec::seal`] was given for the same place, or an error.

use bytes::Bytes;
use sluice_protocols::ids::GenerationId;
use sluice_store::record::{ArchivedContextChunkRecord, ContextChunkRecord};
use xxhash_rust::xxh3::xxh3_64_with_seed;
use zstd_safe::{CCtx, DCtx, compress_bound};

/// Bytes of content of every chunk but a document's last.
pub(crate) const CHUNK_BYTES: usize = 32 << 10;
/// Level 1 of zstd. Level 3 makes prose 5 % smaller and takes 40 % longer.
const LEVEL: i32 = 1;

/// The content as it is: what does not become smaller.
const PLAIN: u8 = 0;
/// One frame of zstd.
const ZSTD: u8 = 1;

/// Why a chunk is not what was stored. The content is lost; restore it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChunkError {
    #[error("a chunk is missing")]
    Missing,
    #[error("a chunk is stored in form {0}, which this version does not know")]
    Form(u8),
    #[error("a chunk cannot be decompressed, or has another length than it says")]
    Malformed,
    #[error("a chunk does not have its checksum")]
    Checksum,
}

/// Compresses and decompresses for one core. Holds some 0.4 MB once both were used.
pub(crate) struct Codec {
    compress: CCtx<'static>,
    decompress: DCtx<'static>,
}

impl Codec {
    pub(crate) fn new() -> Self {
        Self { compress: CCtx::create(), decompress: DCtx::create() }
    }

    /// Makes a chunk of content.
    ///
    /// # Panics
    /// When the content has more than [`CHUNK_BYTES`].
    pub(crate) fn seal(
        &mut self,
        generation: &GenerationId,
        index: u32,
        content: &[u8],
    ) -> ContextChunkRecord {
        assert!(content.len() <= CHUNK_BYTES, "a chunk of {} bytes", content.len());
        let mut data = Vec::with_capacity(compress_bound(content.len()));
        let is_smaller =
            self.compress.compress(&mut data, content, LEVEL).is_ok_and(|bytes| bytes < content.len());
        let (form, data) = if is_smaller { (ZSTD, data) } else { (PLAIN, content.to_vec()) };
        let bytes = u32::try_from(content.len()).expect("bounded above");
        ContextChunkRecord { form, bytes, checksum: checksum(generation, index, content), data }
    }

    /// The content of a chunk.
    pub(crate) fn open(
        &mut self,
        generation: &GenerationId,
        index: u32,
        chunk: &ArchivedContextChunkRecord,
    ) -> Result<Bytes, ChunkError> {
        let bytes = chunk.bytes.to_native() as usize;
        if bytes > CHUNK_BYTES {
            return Err(ChunkError::Malformed);
        }
        let content = match chunk.form {
            PLAIN => chunk.data.to_vec(),
            ZSTD => {
                let mut content = Vec::with_capacity(bytes);
                let opened = self.decompress.decompress(&mut content, &chunk.data);
                opened.map_err(|_| ChunkError::Malformed)?;
                content
            }
            form => return Err(ChunkError::Form(form)),
        };
        if content.len() != bytes {
            return Err(ChunkError::Malformed);
        }
        if checksum(generation, index, &content) != chunk.checksum.to_native() {
            return Err(ChunkError::Checksum);
        }
        Ok(content.into())
    }
}

/// Of the content at its place, so that chunks that changed places are damaged as well.
fn checksum(generation: &GenerationId, index: u32, content: &[u8]) -> u64 {
    let low = u64::from_be_bytes(generation.as_bytes()[8..].try_into().expect("8 of 16 bytes"));
    xxh3_64_with_seed(content, low ^ u64::from(index))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sluice_store::record::Loaded;

    use super::*;

    const GENERATION: GenerationId = GenerationId::from_bytes([7; 16]);

    fn opened(codec: &mut Codec, index: u32, chunk: &ContextChunkRecord) -> Result<Bytes, ChunkError> {
        codec.open(&GENERATION, index, Loaded::of(chunk).unwrap().get())
    }

    #[test]
    fn text_becomes_smaller_and_noise_stays_as_it_is() {
        let mut codec = Codec::new();
        let text = "to be or not to be ".repeat(500);
        let chunk = codec.seal(&GENERATION, 0, text.as_bytes());
        assert!(chunk.form == ZSTD && chunk.data.len() < text.len() / 10);
        assert_eq!(opened(&mut codec, 0, &chunk).unwrap(), text);
        let mut noise = vec![0; CHUNK_BYTES];
        getrandom::fill(&mut noise).unwrap();
        let chunk = codec.seal(&GENERATION, 0, &noise);
        assert!(chunk.form == PLAIN && chunk.data.len() == noise.len());
        assert_eq!(opened(&mut codec, 0, &chunk).unwrap(), noise);
    }

    #[test]
    fn a_chunk_at_another_place_is_damaged() {
        let mut codec = Codec::new();
        let chunk = codec.seal(&GENERATION, 3, b"content");
        assert_eq!(opened(&mut codec, 4, &chunk), Err(ChunkError::Checksum));
        let other = GenerationId::from_bytes([8; 16]);
        let loaded = Loaded::of(&chunk).unwrap();
        assert_eq!(codec.open(&other, 3, loaded.get()), Err(ChunkError::Checksum));
        let unknown = ContextChunkRecord { form: 9, ..chunk };
        assert_eq!(opened(&mut codec, 3, &unknown), Err(ChunkError::Form(9)));
    }

    #[test]
    fn a_chunk_that_says_it_is_huge_costs_nothing() {
        let chunk = ContextChunkRecord { bytes: u32::MAX, ..Codec::new().seal(&GENERATION, 0, &[0; 100]) };
        assert_eq!(opened(&mut Codec::new(), 0, &chunk), Err(ChunkError::Malformed));
    }

    proptest! {
        #[test]
        fn damage_is_never_content(content in proptest::collection::vec(0u8..4, 0..2_000), index in any::<u32>(),
                                   at in any::<proptest::sample::Index>(), flip in 1u8..) {
            let mut codec = Codec::new();
            let mut chunk = codec.seal(&GENERATION, index, &content);
            prop_assert_eq!(&opened(&mut codec, index, &chunk).unwrap()[..], &content[..]);
            if !chunk.data.is_empty() {
                let at = at.index(chunk.data.len());
                chunk.data[at] ^= flip;
                // Some bits of a frame say nothing; content that comes out is the right one.
                if let Ok(found) = opened(&mut codec, index, &chunk) {
                    prop_assert_eq!(&found[..], &content[..]);
                }
            }
        }
    }
}

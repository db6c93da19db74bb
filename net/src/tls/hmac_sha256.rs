//! HMAC-SHA256 with keys kept ready, and what a handshake makes with it: the key derivation of TLS 1.3 (RFC 8446
//! section 7.1, RFC 5869) and stateless reset tokens (RFC 9000 section 10.3.2).
//!
//! A handshake over QUIC derives some fifty secrets, keys and tokens of 16 to 32 bytes. aws-lc-rs sets up a hash and an
//! HMAC in its C library for each; here a key's two inner states are computed once, and each derivation from it is two
//! or three rounds of the processor's own SHA-256 instructions, without an allocation. The rounds are those of `sha2`.
//! Its hashes, and `hmac`, which is made of them, carry a buffer each that is wiped byte for byte, which took as long
//! as the rounds; the padding around them is done here, by FIPS 180-4 section 5.1.1.
//!
//! Invariants:
//! - Every byte is what aws-lc-rs derives: nothing but the time differs, and tests compare the two.
//! - Everything else stays with aws-lc-rs: key exchange, signatures, AEAD, and the suite with SHA-384.
//! - Keys, the blocks that were hashed with them and what was derived are wiped when dropped; copies that the compiler makes
//!   of them on the stack are not.

use aws_lc_rs::constant_time;
use quinn_proto::crypto::{CryptoError, HmacKey};
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::crypto::hmac::Tag;
use rustls::crypto::tls13::{Hkdf, HkdfExpander, OkmBlock, OutputLengthError};
use rustls::{CipherSuiteCommon, SupportedCipherSuite, Tls13CipherSuite};
use sha2::block_api::compress256;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroize;

const SHA256_BYTES: usize = 32;
const BLOCK_BYTES: usize = 64;
/// Where the length of the message begins in its last block.
const LENGTH_START: usize = BLOCK_BYTES - size_of::<u64>();

/// AES-128-GCM with SHA-256; the packet protection is that of aws-lc-rs.
pub(super) static TLS13_AES_128_GCM_SHA256: SupportedCipherSuite = SupportedCipherSuite::Tls13(&AES_128);
/// ChaCha20-Poly1305 with SHA-256; likewise.
pub(super) static TLS13_CHACHA20_POLY1305_SHA256: SupportedCipherSuite =
    SupportedCipherSuite::Tls13(&CHACHA20);

static AES_128: Tls13CipherSuite = with_ready_keys(&cipher_suite::TLS13_AES_128_GCM_SHA256);
static CHACHA20: Tls13CipherSuite = with_ready_keys(&cipher_suite::TLS13_CHACHA20_POLY1305_SHA256);

/// The same suite but for its key derivation; its hash must be SHA-256.
const fn with_ready_keys(suite: &SupportedCipherSuite) -> Tls13CipherSuite {
    let SupportedCipherSuite::Tls13(suite) = suite else { panic!("a suite of TLS 1.3") };
    Tls13CipherSuite {
        common: CipherSuiteCommon {
            suite: suite.common.suite,
            hash_provider: suite.common.hash_provider,
            confidentiality_limit: suite.common.confidentiality_limit,
        },
        hkdf_provider: &HKDF_SHA256,
        aead_alg: suite.aead_alg,
        quic: suite.quic,
    }
}

/// HKDF with SHA-256.
pub(super) static HKDF_SHA256: HkdfSha256 = HkdfSha256;

/// rustls can make HKDF from an HMAC, too ([`rustls::crypto::tls13::HkdfUsingHmac`]), but wipes three buffers of 64 bytes
/// for each block, byte for byte, which takes as long as the hashing.
pub(super) struct HkdfSha256;

impl HkdfSha256 {
    fn extract(salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        // No salt is a salt of zeros, and HMAC fills up every key with those.
        let key = ReadyKey::new(salt.unwrap_or_default()).tag([secret]);
        Box::new(ReadyKey::new(&key.0))
    }
}

impl Hkdf for HkdfSha256 {
    fn extract_from_zero_ikm(&self, salt: Option<&[u8]>) -> Box<dyn HkdfExpander> {
        Self::extract(salt, &[0; SHA256_BYTES])
    }

    fn extract_from_secret(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        Self::extract(salt, secret)
    }

    fn expander_for_okm(&self, okm: &OkmBlock) -> Box<dyn HkdfExpander> {
        Box::new(ReadyKey::new(okm.as_ref()))
    }

    fn hmac_sign(&self, key: &OkmBlock, message: &[u8]) -> Tag {
        Tag::new(&ReadyKey::new(key.as_ref()).tag([message]).0)
    }
}

/// The state of SHA-256 behind a block. Wiped when dropped.
#[derive(Clone)]
struct State([u32; 8]);

impl State {
    /// FIPS 180-4 section 5.3.3.
    const FIRST: Self = Self([
        0x6a09_e667,
        0xbb67_ae85,
        0x3c6e_f372,
        0xa54f_f53a,
        0x510e_527f,
        0x9b05_688c,
        0x1f83_d9ab,
        0x5be0_cd19,
    ]);

    fn take(&mut self, block: &Block) {
        compress256(&mut self.0, std::slice::from_ref(&block.0));
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.0[..].zeroize();
    }
}

/// A block on its way into the hash. Wiped when dropped: as a slice, since arrays are wiped byte for byte.
struct Block([u8; BLOCK_BYTES]);

impl Drop for Block {
    fn drop(&mut self) {
        self.0[..].zeroize();
    }
}

/// What was derived. Wiped when dropped, likewise.
struct Digest([u8; SHA256_BYTES]);

impl Drop for Digest {
    fn drop(&mut self) {
        self.0[..].zeroize();
    }
}

/// A key whose inner and outer hash have taken it in already (RFC 2104 section 4): 64 bytes.
pub(super) struct ReadyKey {
    inner: State,
    outer: State,
}

impl ReadyKey {
    pub(super) fn new(key: &[u8]) -> Self {
        let mut block = Block([0; BLOCK_BYTES]);
        // RFC 2104 section 2: longer keys are hashed, shorter ones filled up with zeros.
        match block.0.get_mut(..key.len()) {
            Some(start) => start.copy_from_slice(key),
            None => block.0[..SHA256_BYTES].copy_from_slice(&Sha256::digest(key)),
        }
        let [inner, outer] = [0x36, 0x5c].map(|pad| {
            let mut state = State::FIRST;
            state.take(&Block(block.0.map(|byte| byte ^ pad)));
            state
        });
        Self { inner, outer }
    }

    fn tag<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> Digest {
        let inner = hash_behind_key(&self.inner, parts);
        hash_behind_key(&self.outer, [&inner.0[..]])
    }

    /// `T(number)` of RFC 5869 section 2.3.
    fn block(&self, before: Option<&Digest>, info: &[&[u8]], number: u8) -> Digest {
        let before = before.into_iter().map(|block| &block.0[..]);
        self.tag(before.chain(info.iter().copied()).chain([&[number][..]]))
    }
}

/// SHA-256 of these parts behind one block, which `key` has taken in.
fn hash_behind_key<'a>(key: &State, parts: impl IntoIterator<Item = &'a [u8]>) -> Digest {
    let (mut state, mut block) = (key.clone(), Block([0; BLOCK_BYTES]));
    let (mut filled, mut bytes) = (0, BLOCK_BYTES as u64);
    for mut part in parts {
        bytes += part.len() as u64;
        while !part.is_empty() {
            let (now, later) = part.split_at(part.len().min(BLOCK_BYTES - filled));
            block.0[filled..filled + now.len()].copy_from_slice(now);
            (filled, part) = (filled + now.len(), later);
            if filled == BLOCK_BYTES {
                state.take(&block);
                filled = 0;
            }
        }
    }
    // FIPS 180-4 section 5.1.1: a one, zeros, and the length in bits at the end of a block.
    block.0[filled] = 0x80;
    block.0[filled + 1..].fill(0);
    if filled >= LENGTH_START {
        state.take(&block);
        block.0.fill(0);
    }
    block.0[LENGTH_START..].copy_from_slice(&(bytes * 8).to_be_bytes());
    state.take(&block);
    let mut hash = Digest([0; SHA256_BYTES]);
    for (bytes, word) in hash.0.chunks_exact_mut(size_of::<u32>()).zip(&state.0) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    hash
}

/// Signs each connection ID that is issued: a connection has several.
impl HmacKey for ReadyKey {
    fn sign(&self, data: &[u8], signature: &mut [u8]) {
        signature.copy_from_slice(&self.tag([data]).0);
    }

    fn signature_len(&self) -> usize {
        SHA256_BYTES
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        constant_time::verify_slices_are_equal(&self.tag([data]).0, signature).map_err(|_| CryptoError)
    }
}

impl HkdfExpander for ReadyKey {
    fn expand_slice(&self, info: &[&[u8]], output: &mut [u8]) -> Result<(), OutputLengthError> {
        let mut before = None;
        for (index, piece) in output.chunks_mut(SHA256_BYTES).enumerate() {
            let number = u8::try_from(index + 1).map_err(|_| OutputLengthError)?;
            let block = self.block(before.as_ref(), info, number);
            piece.copy_from_slice(&block.0[..piece.len()]);
            before = Some(block);
        }
        Ok(())
    }

    fn expand_block(&self, info: &[&[u8]]) -> OkmBlock {
        OkmBlock::new(&self.block(None, info, 1).0)
    }

    fn hash_len(&self) -> usize {
        SHA256_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stock() -> &'static dyn Hkdf {
        let suite = cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().expect("TLS 1.3");
        suite.hkdf_provider
    }

    fn ours() -> &'static dyn Hkdf {
        AES_128.hkdf_provider
    }

    /// RFC 5869 appendix A, cases 1 and 3.
    #[test]
    fn derives_what_the_standard_does() {
        type Case<'a> = (Option<&'a [u8]>, &'a [u8], &'a [u8]);
        let cases: [Case<'_>; 2] = [
            (
                Some(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
                &[0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9],
                &[
                    0x3c, 0xb2, 0x5f, 0x25, 0xfa, 0xac, 0xd5, 0x7a, 0x90, 0x43, 0x4f, 0x64, 0xd0, 0x36, 0x2f,
                    0x2a, 0x2d, 0x2d, 0x0a, 0x90, 0xcf, 0x1a, 0x5a, 0x4c, 0x5d, 0xb0, 0x2d, 0x56, 0xec, 0xc4,
                    0xc5, 0xbf, 0x34, 0x00, 0x72, 0x08, 0xd5, 0xb8, 0x87, 0x18, 0x58, 0x65,
                ],
            ),
            (
                None,
                &[],
                &[
                    0x8d, 0xa4, 0xe7, 0x75, 0xa5, 0x63, 0xc1, 0x8f, 0x71, 0x5f, 0x80, 0x2a, 0x06, 0x3c, 0x5a,
                    0x31, 0xb8, 0xa1, 0x1f, 0x5c, 0x5e, 0xe1, 0x87, 0x9e, 0xc3, 0x45, 0x4e, 0x5f, 0x3c, 0x73,
                    0x8d, 0x2d, 0x9d, 0x20, 0x13, 0x95, 0xfa, 0xa4, 0xb6, 0x1a, 0x96, 0xc8,
                ],
            ),
        ];
        for (salt, info, expected) in cases {
            let mut out = [0; 42];
            ours().extract_from_secret(salt, &[0x0b; 22]).expand_slice(&[info], &mut out).expect("short");
            assert_eq!(out, expected);
        }
    }

    proptest! {
        #[test]
        fn derives_what_aws_lc_does(
            salt in prop::option::of(prop::collection::vec(any::<u8>(), 0..80)),
            secret in prop::collection::vec(any::<u8>(), 0..130),
            info in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4),
            len in 0_usize..100,
        ) {
            let info: Vec<&[u8]> = info.iter().map(Vec::as_slice).collect();
            let derive = |hkdf: &dyn Hkdf| {
                let mut out = vec![0; len];
                let expander = hkdf.extract_from_secret(salt.as_deref(), &secret);
                expander.expand_slice(&info, &mut out).expect("short");
                let block = expander.expand_block(&info);
                let again = hkdf.expander_for_okm(&block).expand_block(&info);
                let zero = hkdf.extract_from_zero_ikm(salt.as_deref()).expand_block(&info);
                let tag = hkdf.hmac_sign(&block, &secret);
                let bytes = |block: OkmBlock| block.as_ref().to_vec();
                (out, bytes(block), bytes(again), bytes(zero), tag.as_ref().to_vec())
            };
            prop_assert_eq!(derive(ours()), derive(stock()));
        }
    }

    /// Every place a message can end at in a block, and keys on either side of a block's length.
    #[test]
    fn messages_of_every_length_are_hashed_as_by_the_other() {
        let bytes: Vec<u8> = (0..=255).collect();
        for key_bytes in [0, 1, 32, 63, 64, 65, 128] {
            let key = ReadyKey::new(&bytes[..key_bytes]);
            let stock = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &bytes[..key_bytes]);
            for length in 0..=bytes.len() {
                let message = &bytes[..length];
                let tag = aws_lc_rs::hmac::sign(&stock, message);
                assert_eq!(key.tag([message]).0, tag.as_ref(), "{key_bytes}, {length}");
                let (head, tail) = message.split_at(length / 3);
                assert_eq!(key.tag([head, &[], tail]).0, tag.as_ref(), "{key_bytes}, {length} in parts");
            }
        }
    }

    #[test]
    fn signs_what_aws_lc_does_and_verifies_nothing_else() {
        let key = ReadyKey::new(&[7; 64]);
        let stock = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &[7; 64]);
        let (mut mine, mut theirs) = ([0; SHA256_BYTES], [0; SHA256_BYTES]);
        HmacKey::sign(&key, b"connection", &mut mine);
        HmacKey::sign(&stock, b"connection", &mut theirs);
        assert_eq!(mine, theirs);
        assert!(HmacKey::verify(&key, b"connection", &mine).is_ok());
        assert!(HmacKey::verify(&key, b"another", &mine).is_err());
        assert!(HmacKey::verify(&key, b"connection", &mine[1..]).is_err());
        mine[31] ^= 1;
        assert!(HmacKey::verify(&key, b"connection", &mine).is_err());
    }

    #[test]
    fn too_long_an_output_is_refused_as_by_the_other() {
        for hkdf in [ours(), stock()] {
            let expander = hkdf.extract_from_secret(None, b"secret");
            assert!(expander.expand_slice(&[], &mut vec![0; 255 * SHA256_BYTES]).is_ok());
            assert!(expander.expand_slice(&[], &mut vec![0; 255 * SHA256_BYTES + 1]).is_err());
        }
    }

    #[test]
    fn the_suites_differ_from_those_of_aws_lc_in_nothing_else() {
        for (ours, stock) in [
            (&TLS13_AES_128_GCM_SHA256, &cipher_suite::TLS13_AES_128_GCM_SHA256),
            (&TLS13_CHACHA20_POLY1305_SHA256, &cipher_suite::TLS13_CHACHA20_POLY1305_SHA256),
        ] {
            assert_eq!(ours, stock);
            let (ours, stock) = (ours.tls13().expect("TLS 1.3"), stock.tls13().expect("TLS 1.3"));
            assert_eq!(ours.common.hash_provider.output_len(), SHA256_BYTES);
            assert_eq!(ours.common.confidentiality_limit, stock.common.confidentiality_limit);
            assert!(ours.quic.is_some());
        }
    }
}

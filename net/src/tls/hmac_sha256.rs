//! HMAC-SHA256 with keys kept ready, and what a handshake makes with it: the key derivation of TLS 1.3 (RFC 8446
//! section 7.1, RFC 5869) and stateless reset tokens (RFC 9000 section 10.3.2).
//!
//! A handshake over QUIC derives some fifty secrets, keys and tokens of 16 to 32 bytes. aws-lc-rs sets up a hash and an
//! HMAC in its C library for each; here a key's two inner states are computed once, and each derivation from it is two
//! or three rounds of the processor's own SHA-256 instructions, without an allocation.
//!
//! Invariants:
//! - Every byte is what aws-lc-rs derives: nothing but the time differs, and tests compare the two.
//! - Everything else stays with aws-lc-rs: key exchange, signatures, AEAD, and the suite with SHA-384.
//! - Keys are wiped when dropped.

use hmac::{Hmac, KeyInit, Mac};
use quinn_proto::crypto::{CryptoError, HmacKey};
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::crypto::hmac::Tag;
use rustls::crypto::tls13::{Hkdf, HkdfExpander, OkmBlock, OutputLengthError};
use rustls::{CipherSuiteCommon, SupportedCipherSuite, Tls13CipherSuite};
use sha2::Sha256;
use zeroize::Zeroizing;

const SHA256_BYTES: usize = 32;

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
        let key = Zeroizing::new(ReadyKey::new(salt.unwrap_or_default()).tag(&[secret]));
        Box::new(ReadyKey::new(&*key))
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
        Tag::new(&ReadyKey::new(key.as_ref()).tag(&[message]))
    }
}

/// A key whose inner and outer hash have taken it in already.
pub(super) struct ReadyKey(Hmac<Sha256>);

impl ReadyKey {
    pub(super) fn new(key: &[u8]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes keys of any length"))
    }

    fn tag(&self, parts: &[&[u8]]) -> [u8; SHA256_BYTES] {
        let mut mac = self.0.clone();
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }

    /// `T(number)` of RFC 5869 section 2.3.
    fn block(&self, before: Option<&[u8; SHA256_BYTES]>, info: &[&[u8]], number: u8) -> [u8; SHA256_BYTES] {
        let mut mac = self.0.clone();
        if let Some(before) = before {
            mac.update(before);
        }
        info.iter().for_each(|part| mac.update(part));
        mac.update(&[number]);
        mac.finalize().into_bytes().into()
    }
}

/// Signs each connection ID that is issued: a connection has several.
impl HmacKey for ReadyKey {
    fn sign(&self, data: &[u8], signature: &mut [u8]) {
        signature.copy_from_slice(&self.tag(&[data]));
    }

    fn signature_len(&self) -> usize {
        SHA256_BYTES
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        self.0.clone().chain_update(data).verify_slice(signature).map_err(|_| CryptoError)
    }
}

impl HkdfExpander for ReadyKey {
    fn expand_slice(&self, info: &[&[u8]], output: &mut [u8]) -> Result<(), OutputLengthError> {
        let mut before = None;
        for (index, piece) in output.chunks_mut(SHA256_BYTES).enumerate() {
            let number = u8::try_from(index + 1).map_err(|_| OutputLengthError)?;
            let block = self.block(before.as_ref(), info, number);
            piece.copy_from_slice(&block[..piece.len()]);
            before = Some(block);
        }
        Ok(())
    }

    fn expand_block(&self, info: &[&[u8]]) -> OkmBlock {
        OkmBlock::new(&self.block(None, info, 1))
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

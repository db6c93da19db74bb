//! How one message is sealed.
//!
//! ```text
//! sealed   := format u8 (1) | key version u32 | salt[24] | ciphertext, as long as the plaintext | tag[16]
//! identity := "sluice vault" | format u8 | purpose u8 | store[16] | master version u32 | data-key version u32
//!             | field u8 | user[16] | record key, to the end
//! message key[32] | nonce[12] := HKDF-SHA256(salt, input key = the key, info = identity)
//! ciphertext | tag := AES-256-GCM(message key, nonce, plaintext, associated data = identity)
//! ```
//! All numbers big-endian. Only the last part of an identity has no fixed length, so no two identities have the same bytes.
//!
//! **Nonces.** A random nonce of 96 bits would bound a key to 2^32 messages (NIST SP 800-38D, 8.3), and nothing counts the
//! messages of a key: what is sealed is spread over records, cores and restarts, and a count that survives a crash costs a
//! write for each. So a key never meets the cipher. Each message has a key and a nonce of its own, which follow from 192
//! random bits; for two messages to share them, two salts must be equal, which after 2^64 messages under one key has a
//! chance of 2^-65. Nobody writes 2^64 messages: at a million a second that is half a million years. The identity goes
//! into the derivation as well, so even equal salts meet different keys in different records.
//!
//! **Why the data key is wrapped in the same way**, and not by AES-KWP (RFC 5649): key wrap takes no associated data, so a
//! wrapped key moved to another user's record would unwrap there. What it has instead, that it needs no nonce, the
//! derivation gives as well.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::rand;
use sluice_protocols::ids::UserId;
use zeroize::Zeroizing;

use super::state::StoreId;
use crate::key::Key;

/// The first byte of everything sealed.
pub(super) const FORMAT: u8 = 1;
/// Bytes of a master key and of a data key.
pub(super) const KEY_BYTES: usize = 32;

const SALT_BYTES: usize = 24;
const HEADER_BYTES: usize = 1 + 4 + SALT_BYTES;
const TAG_BYTES: usize = 16;
/// What sealing adds to a plaintext.
pub(super) const OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;
const MAGIC: &[u8] = b"sluice vault";

/// A key, wiped when dropped. It stays where it was made: only its box moves.
pub(super) struct KeyBytes(Box<Zeroizing<[u8; KEY_BYTES]>>);

impl KeyBytes {
    /// A new one.
    pub(super) fn random() -> Result<Self, CipherError> {
        let mut key = Self(Box::default());
        rand::fill(&mut key.0[..]).map_err(|_| CipherError::Random)?;
        Ok(key)
    }

    /// A copy of these bytes; `None` when they are too few or too many.
    pub(super) fn copy_of(bytes: &[u8]) -> Option<Self> {
        let mut key = Self(Box::default());
        if bytes.len() != KEY_BYTES {
            return None;
        }
        key.0.copy_from_slice(bytes);
        Some(key)
    }

    pub(super) fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

/// What a message is for. The numbers are bound into it and never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Purpose {
    /// A user's data key under a master key.
    DataKey = 1,
    /// A user's secret under the data key.
    Secret = 2,
}

/// Where a message belongs; it opens nowhere else.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity<'a> {
    pub(super) purpose: Purpose,
    pub(super) store: &'a StoreId,
    /// 0 for what is sealed under a data key, which outlives its wrapping.
    pub(super) master: u32,
    pub(super) data_key: u32,
    /// 0 for a data key.
    pub(super) field: u8,
    pub(super) user: &'a UserId,
    pub(super) record: &'a Key,
}

impl Identity<'_> {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[FORMAT, self.purpose as u8]);
        bytes.extend_from_slice(self.store.as_bytes());
        bytes.extend_from_slice(&self.master.to_be_bytes());
        bytes.extend_from_slice(&self.data_key.to_be_bytes());
        bytes.push(self.field);
        bytes.extend_from_slice(self.user.as_bytes());
        bytes.extend_from_slice(self.record.as_bytes());
        bytes
    }

    /// The version of the key the message is sealed under.
    fn key_version(&self) -> u32 {
        match self.purpose {
            Purpose::DataKey => self.master,
            Purpose::Secret => self.data_key,
        }
    }
}

/// Why a message was not sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CipherError {
    /// The host gives no random bytes.
    Random,
    /// Sealed by a newer version.
    Format { found: u8 },
    /// Cut short, changed, moved, or sealed under another key.
    Refused,
}

/// The key version in the header of something sealed.
pub(super) fn key_version(sealed: &[u8]) -> Result<u32, CipherError> {
    match sealed {
        [FORMAT, a, b, c, d, ..] => Ok(u32::from_be_bytes([*a, *b, *c, *d])),
        [found, ..] if *found > FORMAT => Err(CipherError::Format { found: *found }),
        _ => Err(CipherError::Refused),
    }
}

/// Seals a message.
pub(super) fn seal(key: &KeyBytes, identity: &Identity<'_>, plain: &[u8]) -> Result<Vec<u8>, CipherError> {
    let mut salt = [0; SALT_BYTES];
    rand::fill(&mut salt).map_err(|_| CipherError::Random)?;
    let identity_bytes = identity.bytes();
    let (message_key, nonce) = derive(key, &salt, &identity_bytes);
    // As long as it gets from the start: growing would leave a copy of the plaintext behind.
    let mut sealed = Vec::with_capacity(OVERHEAD_BYTES + plain.len());
    sealed.push(FORMAT);
    sealed.extend_from_slice(&identity.key_version().to_be_bytes());
    sealed.extend_from_slice(&salt);
    sealed.extend_from_slice(plain);
    let tag = message_key
        .seal_in_place_separate_tag(nonce, Aad::from(&identity_bytes), &mut sealed[HEADER_BYTES..])
        .expect("AES-GCM takes any message below 2^36 bytes");
    sealed.extend_from_slice(tag.as_ref());
    Ok(sealed)
}

/// Opens a message.
pub(super) fn open(
    key: &KeyBytes,
    identity: &Identity<'_>,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, CipherError> {
    if key_version(sealed)? != identity.key_version() || sealed.len() < OVERHEAD_BYTES {
        return Err(CipherError::Refused);
    }
    let (header, body) = sealed.split_at(HEADER_BYTES);
    let identity = identity.bytes();
    let (message_key, nonce) = derive(key, &header[HEADER_BYTES - SALT_BYTES..], &identity);
    let mut plain = Zeroizing::new(body.to_vec());
    let opened = message_key.open_in_place(nonce, Aad::from(&identity), &mut plain);
    let bytes = opened.map_err(|_| CipherError::Refused)?.len();
    plain.truncate(bytes);
    Ok(plain)
}

/// The key and nonce of one message.
fn derive(key: &KeyBytes, salt: &[u8], identity: &[u8]) -> (LessSafeKey, Nonce) {
    let mut material = Zeroizing::new([0; KEY_BYTES + NONCE_LEN]);
    expand(key, salt, &[identity], &mut material[..]);
    let (message_key, nonce) = material.split_at(KEY_BYTES);
    let message_key = UnboundKey::new(&AES_256_GCM, message_key).expect("an AES-256 key has 32 bytes");
    let nonce = Nonce::try_assume_unique_for_key(nonce).expect("what is left are the 12 bytes of a nonce");
    (LessSafeKey::new(message_key), nonce)
}

/// HKDF-SHA256 (RFC 5869).
pub(super) fn expand(key: &KeyBytes, salt: &[u8], info: &[&[u8]], out: &mut [u8]) {
    struct Length(usize);

    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }

    let prk = Salt::new(HKDF_SHA256, salt).extract(key.expose());
    let length = Length(out.len());
    prk.expand(info, length).and_then(|okm| okm.fill(out)).expect("far less than the 8,160 bytes HKDF gives");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STORE: StoreId = StoreId::from_bytes([7; 16]);
    const USER: UserId = UserId::from_bytes([1; 16]);

    fn key(byte: u8) -> KeyBytes {
        KeyBytes::copy_of(&[byte; KEY_BYTES]).unwrap()
    }

    fn identity(record: &Key) -> Identity<'_> {
        Identity {
            purpose: Purpose::Secret,
            store: &STORE,
            master: 0,
            data_key: 3,
            field: 1,
            user: &USER,
            record,
        }
    }

    #[test]
    fn a_message_sealed_twice_looks_different_and_reads_alike() {
        let record = Key::connection(&USER, 1);
        let [one, two] = [0; 2].map(|_| seal(&key(1), &identity(&record), b"1//token").unwrap());
        assert_ne!(one, two);
        assert_eq!(one.len(), b"1//token".len() + OVERHEAD_BYTES);
        assert_eq!(one[..5], [FORMAT, 0, 0, 0, 3]);
        for sealed in [one, two] {
            assert_eq!(&open(&key(1), &identity(&record), &sealed).unwrap()[..], b"1//token");
        }
    }

    /// Made by another implementation of the layout above: what is on disk must stay readable, and what is drawn must be true.
    #[test]
    fn what_was_sealed_before_still_opens() {
        let record = Key::connection(&USER, 1);
        let sealed = hex("0100000003000102030405060708090a0b0c0d0e0f1011121314151617\
             5f82e305fd98ff25b7cb72afd90214d65d200fef228049bc");
        assert_eq!(&open(&key(1), &identity(&record), &sealed).unwrap()[..], b"1//token");
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let record = Key::connection(&USER, 1);
        let mut sealed = seal(&key(1), &identity(&record), b"x").unwrap();
        sealed[0] = FORMAT + 1;
        let refused = open(&key(1), &identity(&record), &sealed).unwrap_err();
        assert_eq!(refused, CipherError::Format { found: 2 });
        sealed[0] = 0;
        assert_eq!(open(&key(1), &identity(&record), &sealed).unwrap_err(), CipherError::Refused);
    }

    #[test]
    fn a_message_opens_only_where_it_was_sealed() {
        let (record, other_record) = (Key::connection(&USER, 1), Key::connection(&USER, 2));
        let other_user = UserId::from_bytes([2; 16]);
        let other_store = StoreId::from_bytes([8; 16]);
        let home = identity(&record);
        let sealed = seal(&key(1), &home, b"1//token").unwrap();
        let moved = [
            Identity { purpose: Purpose::DataKey, master: 3, ..home },
            Identity { store: &other_store, ..home },
            Identity { master: 1, ..home },
            Identity { data_key: 4, ..home },
            Identity { field: 2, ..home },
            Identity { user: &other_user, ..home },
            Identity { record: &other_record, ..home },
        ];
        for place in moved {
            // Also when whoever moved it wrote the header that would be right there.
            let mut dressed = sealed.clone();
            dressed[1..5].copy_from_slice(&place.key_version().to_be_bytes());
            for sealed in [&sealed, &dressed] {
                assert_eq!(open(&key(1), &place, sealed).unwrap_err(), CipherError::Refused, "{place:?}");
            }
        }
        assert_eq!(open(&key(2), &home, &sealed).unwrap_err(), CipherError::Refused);
        assert!(open(&key(1), &home, &sealed).is_ok());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let record = Key::connection(&USER, 1);
        let sealed = seal(&key(1), &identity(&record), b"1//token").unwrap();
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut flipped = sealed.clone();
                flipped[at] ^= 1 << bit;
                assert!(open(&key(1), &identity(&record), &flipped).is_err(), "byte {at}, bit {bit}");
            }
            assert!(open(&key(1), &identity(&record), &sealed[..at]).is_err(), "cut at {at}");
        }
        assert!(open(&key(1), &identity(&record), &[&sealed[..], &[0]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn what_is_sealed_comes_back(plain in proptest::collection::vec(any::<u8>(), 0..400), bytes in any::<[u8; 32]>()) {
            let (key, record) = (KeyBytes::copy_of(&bytes).unwrap(), Key::connection(&USER, 1));
            let sealed = seal(&key, &identity(&record), &plain).unwrap();
            prop_assert_eq!(&open(&key, &identity(&record), &sealed).unwrap()[..], &plain[..]);
        }

        /// Any two places that are not the same: what is sealed in one does not open in the other.
        #[test]
        fn a_moved_message_never_opens(
            here in (any::<[u8; 16]>(), any::<u8>(), 0u32..3, 0u8..3, any::<[u8; 16]>()),
            there in (any::<[u8; 16]>(), any::<u8>(), 0u32..3, 0u8..3, any::<[u8; 16]>()),
            same_user in any::<bool>(), same_store in any::<bool>(),
        ) {
            let there = (
                if same_user { here.0 } else { there.0 }, there.1, there.2, there.3,
                if same_store { here.4 } else { there.4 },
            );
            prop_assume!(here != there);
            let seal_or_open = |(user, provider, data_key, field, store): ([u8; 16], u8, u32, u8, [u8; 16]), sealed: Option<&[u8]>| {
                let (user, store) = (UserId::from_bytes(user), StoreId::from_bytes(store));
                let record = Key::connection(&user, provider);
                let identity =
                    Identity { data_key, field, user: &user, store: &store, ..identity(&record) };
                match sealed {
                    None => seal(&key(1), &identity, b"1//token"),
                    Some(sealed) => open(&key(1), &identity, sealed).map(|plain| plain.to_vec()),
                }
            };
            let mut sealed = seal_or_open(here, None).unwrap();
            prop_assert_eq!(seal_or_open(here, Some(&sealed)).unwrap(), b"1//token");
            prop_assert!(seal_or_open(there, Some(&sealed)).is_err());
            sealed[1..5].copy_from_slice(&there.2.to_be_bytes());
            prop_assert!(seal_or_open(there, Some(&sealed)).is_err());
        }

        #[test]
        fn damaged_bytes_are_refused_and_never_a_panic(
            plain in proptest::collection::vec(any::<u8>(), 0..100), at in any::<proptest::sample::Index>(),
            flip in 1u8.., cut in any::<proptest::sample::Index>(), noise in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let record = Key::connection(&USER, 1);
            let sealed = seal(&key(1), &identity(&record), &plain).unwrap();
            let mut flipped = sealed.clone();
            flipped[at.index(sealed.len())] ^= flip;
            prop_assert!(open(&key(1), &identity(&record), &flipped).is_err());
            prop_assert!(open(&key(1), &identity(&record), &sealed[..cut.index(sealed.len())]).is_err());
            prop_assert!(open(&key(1), &identity(&record), &noise).is_err());
        }
    }
}

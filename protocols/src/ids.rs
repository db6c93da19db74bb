//! Names of things: users, sessions, tasks, webhooks and their messages, keys and shards.
//!
//! Invariants:
//! - An id has exactly one text: a prefix that tells its kind, `_`, and lower-case Crockford base32 without
//!   the letters `i l o u`. Anything else is refused, so equal texts and equal ids are the same thing.
//! - The order of texts is the order of the bytes, and for tasks it is the order of creation.
//! - Nothing here makes randomness or reads a clock: callers bring both.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use xxhash_rust::xxh3::xxh3_64;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 128 bits in groups of five: 26 characters, of which the first carries only three bits.
const ID_CHARS: usize = 26;
/// 64 bits in groups of five: 13 characters, of which the first carries only four bits.
const KEY_ID_CHARS: usize = 13;
/// 32 bytes of base64url without padding.
const SECRET_CHARS: usize = 43;

/// Why a text is not an id. The caller treats the thing it names as unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The prefix is missing or belongs to another kind of id; pass the id of the right kind.
    #[error("the id does not start with `{expected}_`")]
    Prefix {
        /// The prefix that was asked for, without the underscore.
        expected: &'static str,
    },
    /// The part after the prefix has the wrong length; the text was cut or padded on its way.
    #[error("the id has the wrong length")]
    Length,
    /// A character outside the alphabet, or bits beyond the value; the text was altered on its way.
    #[error("the id is not lower-case Crockford base32")]
    Alphabet,
}

/// Writes the low `5 * N` bits of `value`, highest group first.
fn encode<const N: usize>(value: u128) -> [u8; N] {
    let mut text = [b'0'; N];
    for (place, slot) in text.iter_mut().rev().enumerate() {
        let group = (value >> (5 * place)) & 31;
        *slot = ALPHABET[usize::try_from(group).unwrap_or(0)];
    }
    text
}

/// Reads what [`encode`] wrote for a value of `bits` bits.
fn decode<const N: usize>(text: &str, bits: u32) -> Result<u128, IdError> {
    let text = text.as_bytes();
    if text.len() != N {
        return Err(IdError::Length);
    }
    let mut value = 0u128;
    for (index, byte) in text.iter().enumerate() {
        let group = digit(*byte).ok_or(IdError::Alphabet)?;
        // The first group holds what is left over when the value is cut into fives from the right.
        if index == 0 && u32::from(group) >> (bits - 5 * (u32::try_from(N).unwrap_or(0) - 1)) != 0 {
            return Err(IdError::Alphabet);
        }
        value = (value << 5) | u128::from(group);
    }
    Ok(value)
}

/// The value of each byte as a base32 digit; 255 where it is none.
const DIGITS: [u8; 256] = {
    let mut digits = [255u8; 256];
    let mut value = 0u8;
    while value < 32 {
        digits[ALPHABET[value as usize] as usize] = value;
        value += 1;
    }
    digits
};

fn digit(byte: u8) -> Option<u8> {
    let value = DIGITS[usize::from(byte)];
    (value < 32).then_some(value)
}

fn strip<'a>(text: &'a str, prefix: &'static str) -> Result<&'a str, IdError> {
    text.strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('_'))
        .ok_or(IdError::Prefix { expected: prefix })
}

fn ascii(text: &[u8]) -> &str {
    std::str::from_utf8(text).unwrap_or_default()
}

macro_rules! text_serde {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// What every text of this kind starts with, before the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// The id with these bytes; every 16 bytes are one.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The bytes, as they stand in storage keys.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text = encode::<ID_CHARS>(u128::from_be_bytes(self.0));
                f.write_str(concat!($prefix, "_"))?;
                f.write_str(ascii(&text))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let value = decode::<ID_CHARS>(strip(text, $prefix)?, 128)?;
                Ok(Self(value.to_be_bytes()))
            }
        }

        text_serde!($name);
    };
}

id!(
    /// A person who has an account here: `usr_` and 26 characters.
    UserId,
    "usr"
);
id!(
    /// A conversation of one user, of at most 24 hours: `ses_` and 26 characters.
    SessionId,
    "ses"
);
id!(
    /// One command and what became of it: `tsk_` and 26 characters. Ordered by time of creation.
    TaskId,
    "tsk"
);
id!(
    /// One state of a context document's content, never used for another: `gen_` and 26 characters.
    GenerationId,
    "gen"
);
id!(
    /// A kept state of all context documents of a user: `snp_` and 26 characters. Ordered by time of creation.
    SnapshotId,
    "snp"
);

id!(
    /// A place where a user wants to be told what happens: `whk_` and 26 characters.
    WebhookId,
    "whk"
);
id!(
    /// One sign-in of a user with a browser: `bws_` and 26 characters. It proves nothing by itself.
    BrowserSessionId,
    "bws"
);
id!(
    /// One message to one webhook, however often it is sent: `msg_` and 26 characters. Ordered by time of creation.
    DeliveryId,
    "msg"
);

id!(
    /// One account at a provider that a user has connected, kept while it is connected anew: `con_` and 26 characters.
    ConnectionId,
    "con"
);

impl TaskId {
    /// A task made at `unix_ms` (milliseconds since 1970, of which the low 48 bits count: enough to the year
    /// 10889), told from others of that millisecond by `random`. The layout is that of UUIDv7 (RFC 9562 5.7)
    /// without its version bits.
    #[must_use]
    pub fn new(unix_ms: u64, random: [u8; 10]) -> Self {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&unix_ms.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&random);
        Self(bytes)
    }

    /// When the task was made, in milliseconds since 1970.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        self.0[..6].iter().fold(0, |ms, byte| (ms << 8) | u64::from(*byte))
    }
}

/// The public name of an API key: the first eight bytes of the SHA-256 of its secret, as `key_` and 13
/// characters. It may stand in logs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 8]);

impl KeyId {
    /// What every text of this kind starts with, before the underscore.
    pub const PREFIX: &'static str = "key";

    /// The key id with these bytes; every 8 bytes are one.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// The bytes, as they stand in storage keys.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = encode::<KEY_ID_CHARS>(u128::from(u64::from_be_bytes(self.0)));
        f.write_str("key_")?;
        f.write_str(ascii(&text))
    }
}

impl FromStr for KeyId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let value = decode::<KEY_ID_CHARS>(strip(text, Self::PREFIX)?, 64)?;
        let value = u64::try_from(value).map_err(|_| IdError::Alphabet)?;
        Ok(Self(value.to_be_bytes()))
    }
}

text_serde!(KeyId);

/// How many shards a data directory is cut into: 1 to 4,096, fixed when the directory is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShardCount(NonZeroU16);

impl ShardCount {
    /// The largest count there may be.
    pub const MAX: u16 = 4_096;

    /// `None` when `count` is not in 1..=4096.
    #[must_use]
    pub const fn new(count: u16) -> Option<Self> {
        match NonZeroU16::new(count) {
            Some(count) if count.get() <= Self::MAX => Some(Self(count)),
            _ => None,
        }
    }

    /// The count itself.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }

    /// Every shard there is, in order.
    pub fn shards(self) -> impl ExactSizeIterator<Item = ShardId> {
        (0..self.get()).map(ShardId)
    }
}

/// The index of one shard: always below the [`ShardCount`] it was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(u16);

impl ShardId {
    /// `None` when there is no such shard.
    #[must_use]
    pub const fn new(index: u16, count: ShardCount) -> Option<Self> {
        if index < count.get() { Some(Self(index)) } else { None }
    }

    /// The shard that keeps this user: `xxh3_64(user bytes) % count`. It never depends on the number of cores.
    #[must_use]
    pub fn of(user: &UserId, count: ShardCount) -> Self {
        let index = xxh3_64(user.as_bytes()) % u64::from(count.get());
        // A remainder of a 16-bit number fits into 16 bits.
        Self(u16::try_from(index).unwrap_or(0))
    }

    /// The index, from 0.
    #[must_use]
    pub const fn index(self) -> u16 {
        self.0
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a text is not an API key. The caller answers 401 and need not say which of these it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiKeyError {
    /// It is not `sk_`, 26 characters, `_`, 43 characters; the text was cut, or is not a key at all.
    #[error("an API key is `sk_`, 26 characters, `_` and 43 characters")]
    Shape,
    /// The user part is no id.
    #[error("the user part of the API key is malformed")]
    User,
    /// The secret part is not base64url.
    #[error("the secret part of the API key is malformed")]
    Secret,
}

/// An API key in the clear: `sk_<26 characters of the user's id>_<43 characters of secret>`.
///
/// It is shown once, when it is made, and never stored; `Debug` hides the secret. The user part routes a
/// request to its shard before the secret is checked.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    user: UserId,
    secret: [u8; 32],
}

impl ApiKey {
    /// The key of `user` with this secret, which must come from a cryptographic random source.
    #[must_use]
    pub const fn new(user: UserId, secret: [u8; 32]) -> Self {
        Self { user, secret }
    }

    /// Reads a key as [`Self::expose`] wrote it.
    ///
    /// # Errors
    /// When the text has not the exact shape; whether such a key exists is not known here.
    pub fn parse(text: &str) -> Result<Self, ApiKeyError> {
        let rest = text.strip_prefix("sk_").ok_or(ApiKeyError::Shape)?;
        if rest.len() != ID_CHARS + 1 + SECRET_CHARS || !rest.is_ascii() {
            return Err(ApiKeyError::Shape);
        }
        // The secret may hold underscores itself, so the parts are told by position.
        let (user, secret) = rest.split_at(ID_CHARS);
        let secret = secret.strip_prefix('_').ok_or(ApiKeyError::Shape)?;
        let user = decode::<ID_CHARS>(user, 128).map_err(|_| ApiKeyError::User)?;
        let secret = URL_SAFE_NO_PAD.decode(secret).map_err(|_| ApiKeyError::Secret)?;
        let secret = secret.try_into().map_err(|_| ApiKeyError::Secret)?;
        Ok(Self { user: UserId(user.to_be_bytes()), secret })
    }

    /// Whose key this claims to be. Nothing is proven until the secret is checked.
    #[must_use]
    pub const fn user(&self) -> UserId {
        self.user
    }

    /// The secret bytes, to be hashed and compared; never to be logged.
    #[must_use]
    pub const fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// The whole key as text, to be shown once to its owner.
    #[must_use]
    pub fn expose(&self) -> String {
        let user = encode::<ID_CHARS>(u128::from_be_bytes(self.user.0));
        format!("sk_{}_{}", ascii(&user), URL_SAFE_NO_PAD.encode(self.secret))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("user", &self.user).field("secret", &"hidden").finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_of_the_extremes_are_known() {
        assert_eq!(UserId::from_bytes([0; 16]).to_string(), "usr_00000000000000000000000000");
        assert_eq!(SessionId::from_bytes([255; 16]).to_string(), "ses_7zzzzzzzzzzzzzzzzzzzzzzzzz");
        assert_eq!(KeyId::from_bytes([255; 8]).to_string(), "key_fzzzzzzzzzzzz");
    }

    #[test]
    fn a_second_spelling_of_an_id_is_refused() {
        let text = UserId::from_bytes([0xAB; 16]).to_string();
        assert!(text.parse::<UserId>().is_ok());
        assert_eq!(text.to_uppercase().parse::<UserId>(), Err(IdError::Prefix { expected: "usr" }));
        let upper = format!("usr_{}", text[4..].to_uppercase());
        assert_eq!(upper.parse::<UserId>(), Err(IdError::Alphabet));
        // 130 bits where 128 are meant.
        assert_eq!("usr_80000000000000000000000000".parse::<UserId>(), Err(IdError::Alphabet));
        assert_eq!("key_g000000000000".parse::<KeyId>(), Err(IdError::Alphabet));
        assert_eq!(format!("{text}0").parse::<UserId>(), Err(IdError::Length));
    }

    #[test]
    fn an_id_of_another_kind_is_refused() {
        let user = UserId::from_bytes([1; 16]).to_string();
        assert_eq!(user.parse::<SessionId>(), Err(IdError::Prefix { expected: "ses" }));
    }

    #[test]
    fn letters_that_look_like_digits_are_refused() {
        for letter in ['i', 'l', 'o', 'u'] {
            let text = format!("tsk_0{letter}000000000000000000000000");
            assert_eq!(text.parse::<TaskId>(), Err(IdError::Alphabet), "{letter}");
        }
    }

    #[test]
    fn later_tasks_have_greater_ids_and_texts() {
        let early = TaskId::new(1_795_000_000_000, [255; 10]);
        let late = TaskId::new(1_795_000_000_001, [0; 10]);
        assert!(early < late);
        assert!(early.to_string() < late.to_string());
        assert_eq!(late.unix_ms(), 1_795_000_000_001);
    }

    #[test]
    fn shards_are_bounded_by_their_count() {
        assert!(ShardCount::new(0).is_none());
        assert!(ShardCount::new(4_097).is_none());
        let count = ShardCount::new(4_096).expect("the largest count");
        assert!(ShardId::new(4_096, count).is_none());
        assert_eq!(ShardId::new(4_095, count).map(ShardId::index), Some(4_095));
        assert_eq!(count.shards().len(), 4_096);
    }

    #[test]
    fn users_spread_over_all_shards() {
        let count = ShardCount::new(16).expect("a valid count");
        let mut seen = [0u32; 16];
        for number in 0..4_000u128 {
            let shard = ShardId::of(&UserId::from_bytes(number.to_be_bytes()), count);
            seen[usize::from(shard.index())] += 1;
        }
        assert!(seen.iter().all(|users| (150..350).contains(users)), "{seen:?}");
    }

    #[test]
    fn the_shard_of_a_user_never_moves_between_releases() {
        // Data on disk lies where this function put it: a change here loses users.
        let count = ShardCount::new(256).expect("the default count");
        let shard = |byte| ShardId::of(&UserId::from_bytes([byte; 16]), count).index();
        assert_eq!([shard(0), shard(1), shard(255)], SHARDS_OF_KNOWN_USERS);
    }

    // Computed with the reference implementation of XXH3.
    const SHARDS_OF_KNOWN_USERS: [u16; 3] = [104, 14, 19];

    #[test]
    fn a_key_whose_secret_has_underscores_is_read_by_position() {
        // Six one-bits are `_` in base64url.
        let key = ApiKey::new(UserId::from_bytes([7; 16]), [255; 32]);
        assert!(key.expose().matches('_').count() > 2);
        assert_eq!(ApiKey::parse(&key.expose()), Ok(key));
    }

    #[test]
    fn damaged_keys_are_refused() {
        let text = ApiKey::new(UserId::from_bytes([7; 16]), [9; 32]).expose();
        assert_eq!(ApiKey::parse(&text[1..]), Err(ApiKeyError::Shape));
        assert_eq!(ApiKey::parse(&text[..text.len() - 1]), Err(ApiKeyError::Shape));
        assert_eq!(ApiKey::parse(&text.replacen('_', "-", 2)), Err(ApiKeyError::Shape));
        let bad_secret = format!("{}!", &text[..text.len() - 1]);
        assert_eq!(ApiKey::parse(&bad_secret), Err(ApiKeyError::Secret));
        let bad_user = format!("sk_u{}", &text[4..]);
        assert_eq!(ApiKey::parse(&bad_user), Err(ApiKeyError::User));
    }

    #[test]
    fn the_secret_of_a_key_stays_out_of_debug_output() {
        let key = ApiKey::new(UserId::from_bytes([7; 16]), [9; 32]);
        let shown = format!("{key:?}");
        assert!(shown.contains("hidden") && !shown.contains("CQkJ") && !shown.contains("9, 9"), "{shown}");
    }

    #[test]
    fn ids_travel_through_json_as_text() {
        let id = TaskId::new(5, [1; 10]);
        let json = serde_json::to_string(&id).expect("serialises");
        assert_eq!(json, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<TaskId>(&json).expect("parses"), id);
        assert!(serde_json::from_str::<UserId>(&json).is_err());
    }

    proptest! {
        #[test]
        fn every_id_round_trips(bytes: [u8; 16], short: [u8; 8], secret: [u8; 32]) {
            let user = UserId::from_bytes(bytes);
            prop_assert_eq!(user.to_string().parse::<UserId>(), Ok(user));
            let key_id = KeyId::from_bytes(short);
            prop_assert_eq!(key_id.to_string().parse::<KeyId>(), Ok(key_id));
            let key = ApiKey::new(user, secret);
            prop_assert_eq!(ApiKey::parse(&key.expose()), Ok(key));
        }

        #[test]
        fn text_order_is_byte_order(a: [u8; 16], b: [u8; 16]) {
            let (a, b) = (UserId::from_bytes(a), UserId::from_bytes(b));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,80}") {
            let _ = text.parse::<UserId>();
            let _ = text.parse::<KeyId>();
            let _ = ApiKey::parse(&text);
            let _ = ApiKey::parse(&format!("sk_{text}"));
        }
    }
}

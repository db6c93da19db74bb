//! Secrets within records: sealed, but for what older records hold as it is.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};
use zeroize::Zeroize;

/// A secret as it can be used. Wiped when dropped, and shown by nothing but [`Self::expose`].
#[derive(Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct PlainText(String);

impl PlainText {
    /// The text. Hand it to the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for PlainText {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Drop for PlainText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for PlainText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainText")
    }
}

/// A secret that only [`crate::vault`] makes and opens; bytes to everybody else.
#[derive(Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Sealed(Vec<u8>);

impl Sealed {
    /// Takes what [`crate::vault`] made.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, as drawn in `vault/cipher.rs`. They tell nothing but the length of what is in them and the version
    /// of the key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

/// A secret as a record holds it.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum StoredSecret {
    /// As it is written.
    Sealed(Sealed),
    /// From a record of a schema that did not seal. It is read, but [`super::encode`] refuses to write it again.
    Plain(PlainText),
}

impl StoredSecret {
    /// Whether it may be written.
    pub fn is_sealed(&self) -> bool {
        matches!(self, Self::Sealed(_))
    }
}

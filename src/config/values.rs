//! The types of values in the configuration, beside the plain ones.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// When a promise is given to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Durability {
    /// On the disk.
    Fsync,
    /// With the operating system: survives our death, not the machine's.
    Os,
}

/// How the cores do I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum IoMode {
    /// io_uring where it is allowed.
    Auto,
    /// io_uring or no start.
    Uring,
    /// epoll.
    Epoll,
}

/// Whether the process gives up what it has no use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SandboxMode {
    /// As far as the host lets it.
    Auto,
    /// All of it or no start.
    Require,
    /// Not at all.
    Off,
}

/// Least level that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// As `tracing` filters spell it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A time in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub(crate) struct Milliseconds(pub(super) u64);

impl Milliseconds {
    /// The same as a duration.
    pub(crate) fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

/// A path, or none when the text is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub(crate) struct MaybePath(PathBuf);

impl MaybePath {
    /// The path, if there is one.
    pub(crate) fn get(&self) -> Option<&Path> {
        (!self.0.as_os_str().is_empty()).then_some(self.0.as_path())
    }
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "PairText")]
pub(crate) struct CertificatePair {
    /// PEM file with the chain.
    pub(crate) chain: PathBuf,
    /// PEM file with the key.
    pub(crate) key: PathBuf,
}

/// As it may be written.
#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum PairText {
    Text(String),
    Table { chain: PathBuf, key: PathBuf },
}

impl TryFrom<PairText> for CertificatePair {
    type Error = &'static str;

    fn try_from(text: PairText) -> Result<Self, Self::Error> {
        let (chain, key) = match text {
            PairText::Table { chain, key } => (chain, key),
            PairText::Text(text) => match text.split_once(':') {
                Some((chain, key)) => (chain.into(), key.into()),
                None => return Err("a certificate is written CHAIN:KEY"),
            },
        };
        if chain.as_os_str().is_empty() || key.as_os_str().is_empty() {
            return Err("a certificate needs both chain and key");
        }
        Ok(Self { chain, key })
    }
}

/// A text that is never shown. Wiped when dropped.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    /// The text, if there is one. Hand it to the one place that needs it.
    pub(crate) fn expose(&self) -> Option<&str> {
        (!self.0.is_empty()).then_some(self.0.as_str())
    }

    #[cfg(test)]
    pub(crate) fn from_text(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    fn shown(&self) -> &'static str {
        if self.0.is_empty() { "" } else { "(hidden)" }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

//! Certificates: reading, judging, and finding the one for a name.
//!
//! Invariants:
//! - What is in an [`Index`] was judged: chain and key belong together, the time
//!   of the first certificate has come and is not over, and it names someone.
//! - Every name leads to one certificate, and no name at all or an unknown one
//!   leads to the default, which is the first.

use std::borrow::Cow;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hashbrown::HashMap;
use rustls::InconsistentKeys;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{RENEW_BEFORE, TlsError, TlsWarning, crypto_provider, file_error, unusable};

/// Chains are a few KiB; a file of this length is something else.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where a certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM file with the chain, the server's own certificate first.
    pub chain: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// What an operator wants to know of a certificate in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The file its chain came from.
    pub file: PathBuf,
    /// DNS names, lower case, wildcards as they are, and addresses.
    pub names: Vec<String>,
    /// When it ends.
    pub ends: SystemTime,
}

/// A certificate that was judged good.
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) facts: CertificateFacts,
    pub(super) warnings: Vec<TlsWarning>,
}

impl Certificate {
    /// Reads and judges a chain and its key.
    pub(super) fn load(files: &CertificateFiles, now: SystemTime) -> Result<Self, TlsError> {
        let (chain, key) = (read(&files.chain)?, read(&files.key)?);
        let mut loaded = Self::judge(files, &chain, &key, now)?;
        if std::fs::metadata(&files.key).is_ok_and(|metadata| metadata.mode() & 0o004 != 0) {
            loaded.warnings.push(TlsWarning::KeyReadableByAll { file: files.key.clone() });
        }
        Ok(loaded)
    }

    /// Judges what stands in the two files, given the time.
    pub(super) fn judge(
        files: &CertificateFiles,
        chain: &[u8],
        key: &[u8],
        now: SystemTime,
    ) -> Result<Self, TlsError> {
        let CertificateFiles { chain: file, key: key_file } = files;
        let chain = parse_chain(file, chain)?;
        let private = parse_key(key_file, key)?;
        let certified =
            CertifiedKey::from_der(chain, private, &crypto_provider()).map_err(|error| match error {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    TlsError::KeyMismatch { certificate: file.clone(), key: key_file.clone() }
                }
                rustls::Error::InvalidCertificate(problem) => unusable(file, problem),
                other => unusable(key_file, other),
            })?;
        let parsed = certified.cert.iter().map(|one| parse(file, one)).collect::<Result<Vec<_>, _>>()?;
        let mut warnings = judge_time(file, &parsed[0], now)?;
        let names: Vec<String> = subject_names(&parsed[0]).collect();
        if names.is_empty() {
            return Err(TlsError::NoNames { file: file.clone() });
        }
        let is_broken = parsed.windows(2).any(|pair| pair[0].issuer() != pair[1].subject());
        if is_broken {
            warnings.push(TlsWarning::ChainBroken { file: file.clone() });
        }
        let ends = u64::try_from(parsed[0].validity().not_after.timestamp()).unwrap_or_default();
        let ends = SystemTime::UNIX_EPOCH + Duration::from_secs(ends);
        drop(parsed);
        let facts = CertificateFacts { file: file.clone(), names, ends };
        Ok(Self { key: Arc::new(certified), facts, warnings })
    }
}

/// Finds the certificate for a name.
#[derive(Debug)]
pub(super) struct Index {
    default: Arc<CertifiedKey>,
    exact: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, Arc<CertifiedKey>>,
}

impl Index {
    /// The first certificate is the default, and of two with the same name the first has it: what is said about
    /// such names is the second result. `None` without any certificate.
    pub(super) fn new(certificates: &[Arc<Certificate>]) -> Option<(Self, Vec<TlsWarning>)> {
        let default = Arc::clone(&certificates.first()?.key);
        let mut index = Self { default, exact: HashMap::new(), wildcard: HashMap::new() };
        let mut warnings = Vec::new();
        for certificate in certificates {
            for full in &certificate.facts.names {
                let (names, name) = match full.strip_prefix("*.") {
                    Some(rest) => (&mut index.wildcard, rest),
                    None => (&mut index.exact, full.as_str()),
                };
                match names.get(name) {
                    None => drop(names.insert(name.into(), Arc::clone(&certificate.key))),
                    Some(first) if Arc::ptr_eq(first, &certificate.key) => {}
                    Some(_) => warnings.push(TlsWarning::NameTaken {
                        file: certificate.facts.file.clone(),
                        name: full.clone(),
                    }),
                }
            }
        }
        Some((index, warnings))
    }

    /// The certificate for the name a client asked for: that of the very name before that of a wildcard for its
    /// first label (RFC 9525 section 6.3), before the default.
    pub(super) fn find(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let Some(name) = name else { return &self.default };
        let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(name)
        };
        let by_wildcard = || name.split_once('.').and_then(|(_, rest)| self.wildcard.get(rest));
        self.exact.get(&*name).or_else(by_wildcard).unwrap_or(&self.default)
    }
}

/// Reads a file whole, if it is of a sensible length.
pub(super) fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(file_error(file))?;
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(file_error(file))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(unusable(file, format!("it is longer than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

pub(super) fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    parse_chain(file, &read(file)?)
}

pub(super) fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    parse_key(file, &read(file)?)
}

fn parse_chain(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsError::Pem { file: file.to_owned(), problem: error.to_string() })?;
    if chain.is_empty() { Err(TlsError::NoCertificate { file: file.to_owned() }) } else { Ok(chain) }
}

fn parse_key(file: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    use rustls::pki_types::pem::Error;
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        Error::NoItemsFound => TlsError::NoKey { file: file.to_owned() },
        other => TlsError::Pem { file: file.to_owned(), problem: other.to_string() },
    })
}

pub(super) fn parse<'a>(
    file: &Path,
    certificate: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, TlsError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| unusable(file, error))?;
    Ok(parsed)
}

pub(super) fn unix_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Whether a certificate is still good for longer than [`RENEW_BEFORE`].
pub(super) fn lasts(certificate: &X509Certificate<'_>, now: SystemTime) -> bool {
    certificate.validity().not_after.timestamp() > unix_seconds(now + RENEW_BEFORE)
}

fn judge_time(
    file: &Path,
    certificate: &X509Certificate<'_>,
    now: SystemTime,
) -> Result<Vec<TlsWarning>, TlsError> {
    let validity = certificate.validity();
    let at = validity.not_after.to_string();
    if unix_seconds(now) > validity.not_after.timestamp() {
        return Err(TlsError::Expired { file: file.to_owned(), at });
    }
    if unix_seconds(now) < validity.not_before.timestamp() {
        return Err(TlsError::NotYetValid { file: file.to_owned(), at: validity.not_before.to_string() });
    }
    let is_near = !lasts(certificate, now);
    Ok(is_near.then(|| TlsWarning::ExpiresSoon { file: file.to_owned(), at }).into_iter().collect())
}

/// DNS names and addresses of a certificate's subject alternative name, the only place where clients look.
pub(super) fn subject_names<'a>(certificate: &'a X509Certificate<'_>) -> impl Iterator<Item = String> + 'a {
    let extension = certificate.subject_alternative_name().ok().flatten();
    extension.into_iter().flat_map(|extension| &extension.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
        _ => None,
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

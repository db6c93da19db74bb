//! TLS 1.3 for QUIC: who the server is, whom a client trusts, and the keys that all cores share.
//!
//! Invariants:
//! - TLS 1.3 only, AES-128-GCM first: QUIC knows no older version, and the packet cost is the cipher's.
//! - Cores share one [`SharedKeys`], so a ticket, a token or a stateless reset made by one is good at every other.
//! - Private keys are written readable by their owner alone, and a file is replaced whole or not at all.
//! - The development authority is made once; only its leaf is renewed, so clients that trust it go on trusting it.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::{hkdf, hmac};
use quinn_proto::crypto::{HandshakeTokenKey, HmacKey};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ProducesTickets, ServerSessionMemoryCache, StoresServerSessions};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, InconsistentKeys, RootCertStore, ServerConfig, SignatureScheme,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The ALPN name of HTTP/3 (RFC 9114 3.1).
pub const ALPN_H3: &[u8] = b"h3";
/// The file of the development authority that clients are to trust.
pub const DEVELOPMENT_CA_FILE: &str = "ca.pem";

const CA_KEY_FILE: &str = "ca-key.pem";
const LEAF_FILE: &str = "server.pem";
const LEAF_KEY_FILE: &str = "server-key.pem";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CA_LIFETIME: Duration = DAY.saturating_mul(3650);
const LEAF_LIFETIME: Duration = DAY.saturating_mul(365);
/// A certificate this close to its end is renewed (ours) or warned about (the operator's).
const RENEW_BEFORE: Duration = DAY.saturating_mul(30);
/// Certificates are valid from a day ago, for peers whose clocks are behind.
const CLOCK_SLACK: Duration = DAY;
/// QUIC allows no other figure but zero (RFC 9001 4.6.1).
const EARLY_DATA_SIZE_QUIC: u32 = u32::MAX;
/// Sessions remembered for 0-RTT: about 1 KB each, so 16 MB at most.
const EARLY_DATA_SESSIONS_MAX: usize = 16_384;

/// Why there is no TLS. Each names the file to look at.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read or written; check the path and its permissions.
    #[error("cannot access {}", file.display())]
    File {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not PEM.
    #[error("{} is not valid PEM: {problem}", file.display())]
    Pem {
        /// Which file.
        file: PathBuf,
        /// Where it fails.
        problem: String,
    },
    /// The file holds no `CERTIFICATE` section.
    #[error("{} holds no certificate (a PEM section CERTIFICATE)", file.display())]
    NoCertificate {
        /// Which file.
        file: PathBuf,
    },
    /// The file holds no private key.
    #[error("{} holds no private key (a PEM section PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY)", file.display())]
    NoKey {
        /// Which file.
        file: PathBuf,
    },
    /// The key belongs to another certificate.
    #[error("the private key in {} does not belong to the first certificate in {}", key.display(), certificate.display())]
    KeyMismatch {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// Certificate or key is of a kind that cannot be used.
    #[error("{} cannot be used: {problem}", file.display())]
    Unusable {
        /// Which file.
        file: PathBuf,
        /// Why.
        problem: String,
    },
    /// The development authority lost its key: put it back, or remove its certificate to make a new one.
    #[error("{} is missing; restore it, or remove {} and let clients trust the new one", key.display(), certificate.display())]
    AuthorityKeyMissing {
        /// The certificate that is still there.
        certificate: PathBuf,
        /// The key that is not.
        key: PathBuf,
    },
    /// The library refused; a defect or a broken random source.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// Something an operator should know about a certificate that is used all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsWarning {
    /// Its time is over: clients will refuse it.
    Expired {
        /// When it ended.
        at: String,
    },
    /// Its time ends within 30 days.
    ExpiresSoon {
        /// When it ends.
        at: String,
    },
    /// Its time has not begun: clients will refuse it.
    NotYetValid {
        /// When it begins.
        at: String,
    },
    /// The key file can be read by others than its owner and group.
    KeyReadableByAll,
}

impl fmt::Display for TlsWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired { at } => write!(f, "the certificate expired at {at}"),
            Self::ExpiresSoon { at } => write!(f, "the certificate expires at {at}"),
            Self::NotYetValid { at } => write!(f, "the certificate is not valid before {at}"),
            Self::KeyReadableByAll => {
                f.write_str("the private key file can be read by everyone on this host")
            }
        }
    }
}

/// A certificate chain with its private key.
#[derive(Clone, Debug)]
pub struct TlsIdentity {
    key: Arc<CertifiedKey>,
    warnings: Vec<TlsWarning>,
    authority: Option<PathBuf>,
}

impl TlsIdentity {
    /// Reads a certificate chain (leaf first) and its key from PEM files.
    ///
    /// A certificate outside its time is used, with a warning: a gateway that answers with an expired
    /// certificate is easier to mend than one that does not start.
    ///
    /// # Errors
    /// A file cannot be read, holds no certificate or key, or the two do not belong together.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = read_chain(certificate)?;
        let private = read_key(key)?;
        let certified =
            CertifiedKey::from_der(chain, private, &crypto_provider()).map_err(|error| match error {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    TlsError::KeyMismatch { certificate: certificate.to_owned(), key: key.to_owned() }
                }
                rustls::Error::InvalidCertificate(problem) => unusable(certificate, problem),
                other => unusable(key, other),
            })?;
        let mut warnings = validity_warnings(certificate, &certified.cert[0], SystemTime::now())?;
        if std::fs::metadata(key).is_ok_and(|metadata| metadata.mode() & 0o004 != 0) {
            warnings.push(TlsWarning::KeyReadableByAll);
        }
        Ok(Self { key: Arc::new(certified), warnings, authority: None })
    }

    /// An identity for this host from a development authority of its own, kept in `directory`.
    ///
    /// Makes the authority when there is none, and the leaf (localhost, 127.0.0.1, ::1 and the host's name) when
    /// there is none, when it ends within 30 days, or when the names or the authority changed. Clients trust
    /// [`TlsIdentity::authority`].
    ///
    /// # Errors
    /// The directory cannot be written, or the authority's files are damaged.
    pub fn development(directory: &Path) -> Result<Self, TlsError> {
        Self::development_for(directory, &host_names(), SystemTime::now())
    }

    fn development_for(
        directory: &Path,
        names: &BTreeSet<String>,
        now: SystemTime,
    ) -> Result<Self, TlsError> {
        std::fs::create_dir_all(directory).map_err(file_error(directory))?;
        let authority = directory.join(DEVELOPMENT_CA_FILE);
        let (leaf, leaf_key) = (directory.join(LEAF_FILE), directory.join(LEAF_KEY_FILE));
        let issuer = load_or_make_authority(directory, now)?;
        if !leaf_is_good(&leaf, &leaf_key, &authority, names, now) {
            make_leaf(&issuer, &leaf, &leaf_key, names, now)?;
        }
        Ok(Self { authority: Some(authority), ..Self::from_files(&leaf, &leaf_key)? })
    }

    /// What an operator should be told.
    pub fn warnings(&self) -> &[TlsWarning] {
        &self.warnings
    }

    /// The certificate file a client must trust, when the identity is a development one.
    pub fn authority(&self) -> Option<&Path> {
        self.authority.as_deref()
    }
}

/// What all cores must have in common, so that any of them can go on with what another began.
/// Made anew at each start; cheap to clone.
#[derive(Clone)]
pub struct SharedKeys {
    ticketer: Arc<dyn ProducesTickets>,
    sessions: Arc<dyn StoresServerSessions>,
    reset: Arc<hmac::Key>,
    token: Arc<hkdf::Prk>,
}

impl SharedKeys {
    /// Draws fresh keys from the system.
    ///
    /// # Errors
    /// The system's random source failed.
    pub fn generate() -> Result<Self, TlsError> {
        let mut reset_seed = [0; 64];
        let mut token_seed = [0; 64];
        for seed in [&mut reset_seed, &mut token_seed] {
            getrandom::fill(seed).map_err(setup)?;
        }
        Ok(Self {
            ticketer: provider::Ticketer::new().map_err(setup)?,
            sessions: ServerSessionMemoryCache::new(EARLY_DATA_SESSIONS_MAX),
            reset: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &reset_seed)),
            token: Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&token_seed)),
        })
    }

    /// Signs stateless reset tokens (RFC 9000 10.3): for `quinn_proto::EndpointConfig::new`.
    pub fn reset_key(&self) -> Arc<dyn HmacKey> {
        Arc::clone(&self.reset) as _
    }

    /// Seals address validation tokens (RFC 9000 8.1): for `quinn_proto::ServerConfig::new`.
    pub fn token_key(&self) -> Arc<dyn HandshakeTokenKey> {
        Arc::clone(&self.token) as _
    }
}

impl fmt::Debug for SharedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKeys").finish_non_exhaustive()
    }
}

/// Whether a returning client may send requests before the handshake ends (0-RTT).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyData {
    /// No. Sessions resume by tickets that hold all state, at no cost in memory.
    #[default]
    Off,
    /// Yes. A replayed first flight must be recognised (RFC 8446 8.1), so sessions are remembered in one shared,
    /// bounded store and each can be resumed once.
    On,
}

/// The server's side of TLS for HTTP/3, the same for all cores.
///
/// # Errors
/// Only when the cryptographic provider lacks TLS 1.3.
pub fn server_crypto(
    identity: &TlsIdentity,
    keys: &SharedKeys,
    early_data: EarlyData,
) -> Result<Arc<ServerConfig>, TlsError> {
    let resolver = SingleCertAndKey::from(CertifiedKey::clone(&identity.key));
    let mut config = ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(setup)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![ALPN_H3.to_vec()];
    config.ignore_client_order = true;
    match early_data {
        EarlyData::Off => config.ticketer = Arc::clone(&keys.ticketer),
        EarlyData::On => {
            config.session_storage = Arc::clone(&keys.sessions);
            config.max_early_data_size = EARLY_DATA_SIZE_QUIC;
        }
    }
    Ok(Arc::new(config))
}

/// The server's side of TLS for HTTP/2 and HTTP/1.1 over TCP. Sessions resume by the same tickets as over QUIC; there
/// is no 0-RTT.
///
/// # Errors
/// Only when the cryptographic provider lacks TLS 1.3.
pub fn tcp_server_crypto(identity: &TlsIdentity, keys: &SharedKeys) -> Result<Arc<ServerConfig>, TlsError> {
    let resolver = SingleCertAndKey::from(CertifiedKey::clone(&identity.key));
    let mut config = ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(setup)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = Arc::clone(&keys.ticketer);
    Ok(Arc::new(config))
}

/// Whom a client believes.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// Servers whose chain ends at a certificate in one of these files, and no others.
    Files(&'a [PathBuf]),
    /// Any server at all: no protection against anyone in between. For benches on one machine.
    AnyServer,
}

/// A client's side of TLS for HTTP/3.
///
/// # Errors
/// A file cannot be read or holds no certificate.
pub fn client_crypto(trust: Trust<'_>) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(setup)?;
    let mut config = match trust {
        Trust::Files(files) => builder.with_root_certificates(read_roots(files)?).with_no_client_auth(),
        Trust::AnyServer => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(BelieveAnyone(crypto_provider())))
            .with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN_H3.to_vec()];
    Ok(Arc::new(config))
}

/// aws-lc-rs with the TLS 1.3 suites only, the cheapest first.
fn crypto_provider() -> Arc<CryptoProvider> {
    use provider::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    let cipher_suites =
        vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    Arc::new(CryptoProvider { cipher_suites, ..provider::default_provider() })
}

/// Accepts every certificate, but still demands that the server holds its key.
#[derive(Debug)]
struct BelieveAnyone(Arc<CryptoProvider>);

impl ServerCertVerifier for BelieveAnyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn setup(error: impl fmt::Display) -> TlsError {
    TlsError::Setup(error.to_string())
}

fn unusable(file: &Path, problem: impl fmt::Display) -> TlsError {
    TlsError::Unusable { file: file.to_owned(), problem: problem.to_string() }
}

fn file_error(file: &Path) -> impl FnOnce(io::Error) -> TlsError {
    let file = file.to_owned();
    move |source| TlsError::File { file, source }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file).map_err(file_error(file))
}

fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(&read(file)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsError::Pem { file: file.to_owned(), problem: error.to_string() })?;
    if chain.is_empty() { Err(TlsError::NoCertificate { file: file.to_owned() }) } else { Ok(chain) }
}

fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    use rustls::pki_types::pem::Error;
    PrivateKeyDer::from_pem_slice(&read(file)?).map_err(|error| match error {
        Error::NoItemsFound => TlsError::NoKey { file: file.to_owned() },
        other => TlsError::Pem { file: file.to_owned(), problem: other.to_string() },
    })
}

fn read_roots(files: &[PathBuf]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for file in files {
        for certificate in read_chain(file)? {
            roots.add(certificate).map_err(|problem| unusable(file, problem))?;
        }
    }
    Ok(roots)
}

fn unix_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Whether a certificate that ends at `end` (Unix seconds) is still good for longer than [`RENEW_BEFORE`].
fn lasts(end: i64, now: SystemTime) -> bool {
    end > unix_seconds(now + RENEW_BEFORE)
}

fn validity_warnings(
    file: &Path,
    certificate: &CertificateDer<'_>,
    now: SystemTime,
) -> Result<Vec<TlsWarning>, TlsError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| unusable(file, error))?;
    let validity = parsed.validity();
    let at = validity.not_after.to_string();
    let mut warnings = Vec::new();
    if unix_seconds(now) > validity.not_after.timestamp() {
        warnings.push(TlsWarning::Expired { at });
    } else if !lasts(validity.not_after.timestamp(), now) {
        warnings.push(TlsWarning::ExpiresSoon { at });
    }
    if unix_seconds(now) < validity.not_before.timestamp() {
        warnings.push(TlsWarning::NotYetValid { at: validity.not_before.to_string() });
    }
    Ok(warnings)
}

type Authority = Issuer<'static, KeyPair>;

fn load_or_make_authority(directory: &Path, now: SystemTime) -> Result<Authority, TlsError> {
    let certificate_file = directory.join(DEVELOPMENT_CA_FILE);
    let key_file = directory.join(CA_KEY_FILE);
    // A key without a certificate was never trusted by anyone: it may be replaced.
    if !certificate_file.try_exists().map_err(file_error(&certificate_file))? {
        return make_authority(&certificate_file, &key_file, now);
    }
    if !key_file.try_exists().map_err(file_error(&key_file))? {
        return Err(TlsError::AuthorityKeyMissing { certificate: certificate_file, key: key_file });
    }
    let chain = read_chain(&certificate_file)?;
    let (_, parsed) =
        X509Certificate::from_der(&chain[0]).map_err(|error| unusable(&certificate_file, error))?;
    if !lasts(parsed.validity().not_after.timestamp(), now) {
        return make_authority(&certificate_file, &key_file, now);
    }
    let key = KeyPair::try_from(&read_key(&key_file)?).map_err(|error| unusable(&key_file, error))?;
    Issuer::from_ca_cert_der(&chain[0], key).map_err(|error| unusable(&certificate_file, error))
}

fn make_authority(certificate_file: &Path, key_file: &Path, now: SystemTime) -> Result<Authority, TlsError> {
    let key = KeyPair::generate().map_err(setup)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Sluice development authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - CLOCK_SLACK).into();
    params.not_after = (now + CA_LIFETIME).into();
    let certificate = params.self_signed(&key).map_err(setup)?;
    write_whole(key_file, &key.serialize_pem(), 0o600)?;
    write_whole(certificate_file, &certificate.pem(), 0o644)?;
    Ok(Issuer::new(params, key))
}

fn make_leaf(
    issuer: &Authority,
    leaf_file: &Path,
    key_file: &Path,
    names: &BTreeSet<String>,
    now: SystemTime,
) -> Result<(), TlsError> {
    let key = KeyPair::generate().map_err(setup)?;
    let mut params = CertificateParams::new(names.iter().cloned().collect::<Vec<_>>()).map_err(setup)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Sluice development server");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = (now - CLOCK_SLACK).into();
    params.not_after = (now + LEAF_LIFETIME).into();
    let certificate = params.signed_by(&key, issuer).map_err(setup)?;
    write_whole(key_file, &key.serialize_pem(), 0o600)?;
    write_whole(leaf_file, &certificate.pem(), 0o644)
}

/// Whether the leaf on disk can go on serving; any doubt means no, since a new one costs nothing.
fn leaf_is_good(
    leaf_file: &Path,
    key_file: &Path,
    authority_file: &Path,
    names: &BTreeSet<String>,
    now: SystemTime,
) -> bool {
    let Ok(identity) = TlsIdentity::from_files(leaf_file, key_file) else { return false };
    let leaf = &identity.key.cert[0];
    let Ok((_, parsed)) = X509Certificate::from_der(leaf) else { return false };
    lasts(parsed.validity().not_after.timestamp(), now)
        && subject_names(&parsed) == *names
        && is_signed_by(leaf, authority_file, now)
}

fn is_signed_by(leaf: &CertificateDer<'_>, authority_file: &Path, now: SystemTime) -> bool {
    let Ok(roots) = read_roots(&[authority_file.to_owned()]) else { return false };
    let Ok(verifier) =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), crypto_provider()).build()
    else {
        return false;
    };
    let Ok(name) = ServerName::try_from("localhost") else { return false };
    let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    verifier.verify_server_cert(leaf, &[], &name, &[], now).is_ok()
}

fn subject_names(certificate: &X509Certificate<'_>) -> BTreeSet<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return BTreeSet::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// The names a development server answers to.
fn host_names() -> BTreeSet<String> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    names_for(host.trim())
}

fn names_for(host: &str) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    let host = host.to_ascii_lowercase();
    let is_name = !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
        && host.split('.').all(|label| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-'));
    if is_name {
        names.insert(host);
    }
    names
}

/// Replaces a file whole: written beside its place with the final permissions, synced, then renamed.
fn write_whole(file: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    let beside = file.with_extension("new");
    let write = || -> io::Result<()> {
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        std::fs::rename(&beside, file)
    };
    write().map_err(file_error(file))
}

#[cfg(test)]
mod tests;

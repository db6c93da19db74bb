//! A development authority for one host, and a server certificate from it.
//!
//! Invariants:
//! - The authority is made once and renewed near its end only; its leaf is made
//!   anew whenever there is any doubt, so clients that trust the authority go on.
//! - Keys are written readable by their owner alone, and a file is replaced whole
//!   or not at all.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::certificate::{Certificate, lasts, parse, read_chain, read_key, subject_names};
use super::{
    CertificateFiles, DAY, DEVELOPMENT_CA_FILE, TlsError, crypto_provider, file_error, read_roots, setup,
    unusable,
};

pub(super) const CA_KEY_FILE: &str = "ca-key.pem";
pub(super) const LEAF_FILE: &str = "server.pem";
pub(super) const LEAF_KEY_FILE: &str = "server-key.pem";
const CA_LIFETIME: Duration = DAY.saturating_mul(3650);
pub(super) const LEAF_LIFETIME: Duration = DAY.saturating_mul(365);
/// Certificates are valid from a day ago, for peers whose clocks are behind.
const CLOCK_SLACK: Duration = DAY;

/// A development authority's directory and the names its server goes by.
#[derive(Clone, Debug)]
pub(super) struct Development {
    directory: PathBuf,
    names: BTreeSet<String>,
}

impl Development {
    pub(super) fn of_this_host(directory: &Path) -> Self {
        Self::new(directory, &host_names())
    }

    pub(super) fn new(directory: &Path, names: &BTreeSet<String>) -> Self {
        Self { directory: directory.to_owned(), names: names.clone() }
    }

    pub(super) fn authority(&self) -> PathBuf {
        self.directory.join(DEVELOPMENT_CA_FILE)
    }

    pub(super) fn files(&self) -> CertificateFiles {
        CertificateFiles { chain: self.directory.join(LEAF_FILE), key: self.directory.join(LEAF_KEY_FILE) }
    }

    /// The leaf; authority and leaf are made where they are missing or near their end.
    pub(super) fn load(&self, now: SystemTime) -> Result<Certificate, TlsError> {
        std::fs::create_dir_all(&self.directory).map_err(file_error(&self.directory))?;
        let files = self.files();
        let issuer = load_or_make_authority(&self.directory, now)?;
        if !leaf_is_good(&files, &self.authority(), &self.names, now) {
            make_leaf(&issuer, &files, &self.names, now)?;
        }
        Certificate::load(&files, now)
    }
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
    if !lasts(&parse(&certificate_file, &chain[0])?, now) {
        return make_authority(&certificate_file, &key_file, now);
    }
    let key = KeyPair::try_from(&read_key(&key_file)?).map_err(|error| unusable(&key_file, error))?;
    Issuer::from_ca_cert_der(&chain[0], key).map_err(|error| unusable(&certificate_file, error))
}

pub(super) fn make_authority(
    certificate_file: &Path,
    key_file: &Path,
    now: SystemTime,
) -> Result<Authority, TlsError> {
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

pub(super) fn make_leaf(
    issuer: &Authority,
    files: &CertificateFiles,
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
    write_whole(&files.key, &key.serialize_pem(), 0o600)?;
    write_whole(&files.chain, &certificate.pem(), 0o644)
}

/// Whether the leaf on disk can go on serving; any doubt means no, since a new one costs nothing.
fn leaf_is_good(
    files: &CertificateFiles,
    authority_file: &Path,
    names: &BTreeSet<String>,
    now: SystemTime,
) -> bool {
    let Ok(certificate) = Certificate::load(files, now) else { return false };
    let leaf = &certificate.key.cert[0];
    let Ok(parsed) = parse(&files.chain, leaf) else { return false };
    lasts(&parsed, now)
        && subject_names(&parsed).collect::<BTreeSet<_>>() == *names
        && is_signed_by(leaf, authority_file, now)
}

fn is_signed_by(leaf: &CertificateDer<'_>, authority_file: &Path, now: SystemTime) -> bool {
    let Ok(roots) = read_roots(&[authority_file.to_owned()]) else { return false };
    let Ok(verifier) =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(crypto_provider())).build()
    else {
        return false;
    };
    let Ok(name) = ServerName::try_from("localhost") else { return false };
    let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    verifier.verify_server_cert(leaf, &[], &name, &[], now).is_ok()
}

/// The names a development server answers to.
fn host_names() -> BTreeSet<String> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    names_for(host.trim())
}

pub(super) fn names_for(host: &str) -> BTreeSet<String> {
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

//! TLS 1.3 for QUIC: who the server is, whom a client trusts, and the keys that all cores share.
//!
//! Invariants:
//! - TLS 1.3 only, AES-128-GCM first: QUIC knows no older version, and the packet cost is the cipher's.
//! - Cores share one [`SharedKeys`], so a ticket, a token or a stateless reset made by one is good at every other.
//! - Certificates and ticket secrets can be replaced while connections go on; what cannot be used never replaces
//!   what can. The configurations made here stay the same: they ask the [`TlsIdentity`] at each handshake.

mod certificate;
mod development;
pub(crate) mod handshake;
mod hmac_sha256;
mod identity;
mod sessions;
mod ticket;
mod watch;

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use quinn_proto::crypto::{HandshakeTokenKey, HmacKey};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ServerSessionMemoryCache, StoresServerSessions};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

pub use self::certificate::{CertificateFacts, CertificateFiles};
pub use self::identity::{ReloadEvent, ReloadStats, TlsIdentity};
pub use self::watch::Reload;

use self::certificate::{read, read_chain};
use self::hmac_sha256::ReadyKey;
use self::sessions::Sessions;
use self::ticket::Ticketer;
use self::watch::Watched;

/// The ALPN name of HTTP/3 (RFC 9114 3.1).
pub const ALPN_H3: &[u8] = b"h3";
/// The ALPN names of what is spoken over TCP, the better one first (RFC 9113 3.1, RFC 7301 6).
pub const ALPN_TCP: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// The file of the development authority that clients are to trust.
pub const DEVELOPMENT_CA_FILE: &str = "ca.pem";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A certificate this close to its end is renewed (ours) or warned about (the operator's).
const RENEW_BEFORE: Duration = DAY.saturating_mul(30);
/// QUIC allows no other figure but zero (RFC 9001 4.6.1).
const EARLY_DATA_SIZE_QUIC: u32 = u32::MAX;
/// Length of the secret that a node keeps over its restarts.
pub const NODE_SECRET_BYTES: usize = 32;
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
    /// The certificate's time is over: clients would refuse it, so a new one must be put in place.
    #[error("the certificate in {} expired at {at}; put a renewed one in its place", file.display())]
    Expired {
        /// Which file.
        file: PathBuf,
        /// When it ended.
        at: String,
    },
    /// The certificate's time has not come: wait for it, or set the clock.
    #[error("the certificate in {} is not valid before {at}; wait for it, or check this host's clock", file.display())]
    NotYetValid {
        /// Which file.
        file: PathBuf,
        /// When it begins.
        at: String,
    },
    /// The certificate has no subject alternative name, so that no client would accept it.
    #[error(
        "the certificate in {} names no host (clients look at the subject alternative name only); have it issued anew \
         with the server's DNS names",
        file.display()
    )]
    NoNames {
        /// Which file.
        file: PathBuf,
    },
    /// The file with the secrets of session tickets holds something else.
    #[error(
        "{}: {problem}; it wants one secret a line, 64 hexadecimal digits each, as `openssl rand -hex 32` makes them",
        file.display()
    )]
    TicketSecrets {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
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
    /// Its time ends within 30 days.
    ExpiresSoon {
        /// Which file.
        file: PathBuf,
        /// When it ends.
        at: String,
    },
    /// A certificate of the chain was not issued by the one that follows: some clients will not find the way.
    ChainBroken {
        /// Which file.
        file: PathBuf,
    },
    /// A certificate before it in the list has this name, too, and is given to clients that ask for it.
    NameTaken {
        /// Which file.
        file: PathBuf,
        /// Which name.
        name: String,
    },
    /// The key file can be read by others than its owner and group.
    KeyReadableByAll {
        /// Which file.
        file: PathBuf,
    },
}

impl fmt::Display for TlsWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ExpiresSoon { file, at } => {
                write!(f, "the certificate in {} expires at {at}; renew it", file.display())
            }
            Self::ChainBroken { file } => write!(
                f,
                "the chain in {} is not in order: each certificate must be issued by the one after it",
                file.display()
            ),
            Self::NameTaken { file, name } => write!(
                f,
                "{name} in {} is served with a certificate that comes before it in the list",
                file.display()
            ),
            Self::KeyReadableByAll { file } => {
                write!(f, "{} can be read by everyone on this host; chmod it to 600", file.display())
            }
        }
    }
}

/// What all cores must have in common, so that any of them can go on with what another began.
/// Made anew at each start, but for what is derived from a secret ([`SharedKeys::with_node_secret`]); cheap to clone.
#[derive(Clone)]
pub struct SharedKeys {
    ticketer: Arc<Ticketer>,
    ticket_file: Option<Arc<TicketFile>>,
    sessions: Arc<dyn StoresServerSessions>,
    reset: Arc<ReadyKey>,
    token: Arc<Prk>,
}

/// Where the tickets' secrets come from.
#[derive(Debug)]
struct TicketFile {
    path: PathBuf,
    watched: Mutex<Watched>,
}

impl SharedKeys {
    /// Draws fresh keys from the system.
    ///
    /// # Errors
    /// The system's random source failed.
    pub fn generate() -> Result<Self, TlsError> {
        let mut secret = [0; NODE_SECRET_BYTES];
        getrandom::fill(&mut secret).map_err(setup)?;
        let (reset, token) = lasting_keys(&secret);
        Ok(Self {
            ticketer: Arc::new(Ticketer::random()?),
            ticket_file: None,
            sessions: ServerSessionMemoryCache::new(EARLY_DATA_SESSIONS_MAX),
            reset,
            token,
        })
    }

    /// With the keys for stateless resets and address validation tokens that this secret leads to, the same after each
    /// start. So a client of a process that was killed is told by the next one that its connection is gone
    /// (RFC 9000 section 10.3), and one that was asked to prove its address can still do so.
    ///
    /// Who has the secret can end the connections of others: it is the node's alone.
    #[must_use]
    pub fn with_node_secret(self, secret: &[u8; NODE_SECRET_BYTES]) -> Self {
        let (reset, token) = lasting_keys(secret);
        Self { reset, token, ..self }
    }

    /// As [`Self::generate`], but session tickets are sealed with secrets from a file, so that they survive a
    /// restart and other machines with the same file take them, too: 64 hexadecimal digits a line, the first for
    /// new tickets, up to three more for those sealed earlier.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn with_ticket_file(path: &Path) -> Result<Self, TlsError> {
        let watched = Watched::new(vec![path.to_owned()]);
        let ticketer = Arc::new(read_ticketer(path)?);
        let file = TicketFile { path: path.to_owned(), watched: Mutex::new(watched) };
        Ok(Self { ticketer, ticket_file: Some(Arc::new(file)), ..Self::generate()? })
    }

    /// Looks at the file with the tickets' secrets again; `None` when there is none or nothing is new. On an error
    /// the secrets before stay in use. Reads a file, so it is not for a reactor's thread.
    pub fn reload_tickets(&self, reload: Reload) -> Option<Result<(), TlsError>> {
        let TicketFile { path, watched } = &**self.ticket_file.as_ref()?;
        let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = watched.look(reload, false, || read_ticketer(path))?;
        Some(loaded.map(|loaded| self.ticketer.replace(&loaded)))
    }

    /// Whether others than the owner and the group of the file with the tickets' secrets can read it.
    pub fn tickets_readable_by_all(&self) -> bool {
        let path = self.ticket_file.as_ref().map(|file| &file.path);
        path.is_some_and(|path| std::fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o004 != 0))
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

/// The keys for stateless resets and for address validation tokens.
fn lasting_keys(secret: &[u8; NODE_SECRET_BYTES]) -> (Arc<ReadyKey>, Arc<Prk>) {
    let secret = ReadyKey::new(secret);
    let own = |purpose: &[u8]| {
        let mut key = [0; NODE_SECRET_BYTES];
        secret.sign(purpose, &mut key);
        key
    };
    let reset = ReadyKey::new(&own(b"stateless resets"));
    let token = Salt::new(HKDF_SHA256, &[]).extract(&own(b"address validation tokens"));
    (Arc::new(reset), Arc::new(token))
}

fn read_ticketer(path: &Path) -> Result<Ticketer, TlsError> {
    Ticketer::from_text(path, &String::from_utf8_lossy(&read(path)?))
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
    let mut config = server_config(identity, &[ALPN_H3])?;
    match early_data {
        EarlyData::Off => {
            config.ticketer = Arc::clone(&keys.ticketer) as _;
            // One connection carries all that a client has to ask, and brings a new ticket before its first answer. A
            // client that asks early may be gone before that one comes, and has the second of the time before.
            config.send_tls13_tickets = 1;
        }
        EarlyData::On => {
            config.session_storage = Arc::clone(&keys.sessions);
            config.max_early_data_size = EARLY_DATA_SIZE_QUIC;
        }
    }
    Ok(Arc::new(config))
}

/// The server's side of TLS for what is spoken over TCP: the same certificates, reloads included, and the same
/// tickets. There is no early data on TCP.
///
/// # Errors
/// Only when the cryptographic provider lacks TLS 1.3.
pub fn tcp_server_crypto(identity: &TlsIdentity, keys: &SharedKeys) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = server_config(identity, &ALPN_TCP)?;
    config.ticketer = Arc::clone(&keys.ticketer) as _;
    Ok(Arc::new(config))
}

fn server_config(identity: &TlsIdentity, protocols: &[&[u8]]) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(crypto_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(setup)?
        .with_no_client_auth()
        .with_cert_resolver(identity.resolver());
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    config.ignore_client_order = true;
    Ok(config)
}

/// Whom a client believes.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// Servers whose chain ends at a certificate in one of these files, and no others.
    Files(&'a [PathBuf]),
    /// Any server at all: no protection against anyone in between. For benches on one machine.
    AnyServer,
}

/// A client's side of TLS for HTTP/3. Clones share the sessions that can be resumed.
///
/// # Errors
/// A file cannot be read or holds no certificate.
pub fn client_crypto(trust: Trust<'_>) -> Result<Arc<ClientConfig>, TlsError> {
    client_crypto_by(crypto_provider(), trust)
}

pub(crate) fn client_crypto_by(
    provider: CryptoProvider,
    trust: Trust<'_>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(provider);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(setup)?;
    let mut config = match trust {
        Trust::Files(files) => builder.with_root_certificates(read_roots(files)?).with_no_client_auth(),
        Trust::AnyServer => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(BelieveAnyone(provider)))
            .with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN_H3.to_vec()];
    config.resumption = Resumption::store(Arc::new(Sessions::default()));
    Ok(Arc::new(config))
}

/// aws-lc-rs with the TLS 1.3 suites only, the cheapest first, and key derivation of our own choice ([`hmac_sha256`]).
pub(crate) fn crypto_provider() -> CryptoProvider {
    let cipher_suites = vec![
        hmac_sha256::TLS13_AES_128_GCM_SHA256,
        provider::cipher_suite::TLS13_AES_256_GCM_SHA384,
        hmac_sha256::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    CryptoProvider { cipher_suites, ..provider::default_provider() }
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

fn read_roots(files: &[PathBuf]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for file in files {
        for certificate in read_chain(file)? {
            roots.add(certificate).map_err(|problem| unusable(file, problem))?;
        }
    }
    Ok(roots)
}

#[cfg(test)]
mod tests;

//! Who the server is: certificates that can be replaced while it serves.
//!
//! Invariants:
//! - A handshake sees either all of what a reload brought or nothing of it.
//! - A certificate that cannot be used never replaces one that can, and does not
//!   hold up the others.
//! - Connections never look back: a reload concerns new handshakes only.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificate::{Certificate, CertificateFacts, CertificateFiles, Index};
use super::development::Development;
use super::watch::{Reload, Watched};
use super::{RENEW_BEFORE, TlsError, TlsWarning, setup};

/// The server's certificates with their keys. Clones share them, and what one reloads all have.
#[derive(Clone, Debug)]
pub struct TlsIdentity(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    index: RwLock<Arc<Index>>,
    slots: Mutex<Vec<Slot>>,
    warnings: Vec<TlsWarning>,
    authority: Option<PathBuf>,
    stats: ReloadStats,
}

/// How often certificates were replaced, and how often not.
#[derive(Debug, Default)]
pub struct ReloadStats {
    renewed: AtomicU64,
    refused: AtomicU64,
}

impl ReloadStats {
    /// Certificates taken over by a reload.
    pub fn renewed(&self) -> u64 {
        self.renewed.load(Ordering::Relaxed)
    }

    /// Certificates refused by a reload, once for each change of their files and for each request to reload.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// What a reload did to one certificate.
#[derive(Debug)]
pub enum ReloadEvent {
    /// New handshakes use it.
    Renewed {
        /// What it is.
        facts: CertificateFacts,
        /// What an operator should be told.
        warnings: Vec<TlsWarning>,
    },
    /// It cannot be used; the one before stays in use.
    Refused {
        /// The file it was to come from.
        file: PathBuf,
        /// Why.
        error: TlsError,
    },
}

#[derive(Debug)]
enum Source {
    Files(CertificateFiles),
    Development(Development),
}

impl Source {
    fn files(&self) -> CertificateFiles {
        match self {
            Self::Files(files) => files.clone(),
            Self::Development(development) => development.files(),
        }
    }

    fn load(&self, now: SystemTime) -> Result<Certificate, TlsError> {
        match self {
            Self::Files(files) => Certificate::load(files, now),
            Self::Development(development) => development.load(now),
        }
    }
}

#[derive(Debug)]
struct Slot {
    source: Source,
    watched: Watched,
    certificate: Arc<Certificate>,
}

impl Slot {
    fn load(source: Source, now: SystemTime) -> Result<Self, TlsError> {
        let CertificateFiles { chain, key } = source.files();
        let files = vec![chain, key];
        // Looked at before it is read, so that no change is missed.
        let before = Watched::new(files.clone());
        let certificate = Arc::new(source.load(now)?);
        let watched = match source {
            Source::Files(_) => before,
            // Loading may have written them.
            Source::Development(_) => Watched::new(files),
        };
        Ok(Self { source, watched, certificate })
    }

    fn reload(&mut self, reload: Reload, now: SystemTime) -> Option<Result<(), TlsError>> {
        // The development leaf is renewed by whoever looks, before its end comes near.
        let is_due = matches!(self.source, Source::Development(_))
            && self.certificate.facts.ends <= now + RENEW_BEFORE;
        let Self { source, watched, certificate } = self;
        let loaded = watched.look(reload, is_due, || source.load(now))?;
        Some(loaded.map(|loaded| *certificate = Arc::new(loaded)))
    }
}

impl TlsIdentity {
    /// Reads a certificate chain (leaf first) and its key from PEM files.
    ///
    /// # Errors
    /// A file cannot be read, holds no certificate or key, the two do not belong together, or the certificate names
    /// nobody or is outside its time.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Self::from_list(vec![CertificateFiles { chain: certificate.to_owned(), key: key.to_owned() }])
    }

    /// Reads several certificates. Clients are given the one that has the name they ask for; the first is for
    /// those that ask for none or for an unknown one, and of two with the same name the first has it.
    ///
    /// # Errors
    /// As for one; or the list is empty.
    pub fn from_list(files: Vec<CertificateFiles>) -> Result<Self, TlsError> {
        Self::load(files.into_iter().map(Source::Files).collect(), None, SystemTime::now())
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
        Self::development_for(Development::of_this_host(directory), SystemTime::now())
    }

    pub(super) fn development_for(development: Development, now: SystemTime) -> Result<Self, TlsError> {
        let authority = development.authority();
        Self::load(vec![Source::Development(development)], Some(authority), now)
    }

    fn load(sources: Vec<Source>, authority: Option<PathBuf>, now: SystemTime) -> Result<Self, TlsError> {
        let slots =
            sources.into_iter().map(|source| Slot::load(source, now)).collect::<Result<Vec<_>, _>>()?;
        let (index, taken) = index(&slots)?;
        let warnings = slots.iter().flat_map(|slot| slot.certificate.warnings.clone()).chain(taken).collect();
        Ok(Self(Arc::new(Shared {
            index: RwLock::new(Arc::new(index)),
            slots: Mutex::new(slots),
            warnings,
            authority,
            stats: ReloadStats::default(),
        })))
    }

    /// Looks at the files again: what changed is judged and, if good, used by every handshake from now on. Reads
    /// files, so it is not for a reactor's thread.
    pub fn reload(&self, reload: Reload) -> Vec<ReloadEvent> {
        self.reload_at(reload, SystemTime::now())
    }

    pub(super) fn reload_at(&self, reload: Reload, now: SystemTime) -> Vec<ReloadEvent> {
        let mut slots = self.0.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let mut events = Vec::new();
        for slot in &mut *slots {
            let Some(outcome) = slot.reload(reload, now) else { continue };
            let stats = &self.0.stats;
            events.push(match outcome {
                Ok(()) => {
                    stats.renewed.fetch_add(1, Ordering::Relaxed);
                    let Certificate { facts, warnings, .. } = &*slot.certificate;
                    ReloadEvent::Renewed { facts: facts.clone(), warnings: warnings.clone() }
                }
                Err(error) => {
                    stats.refused.fetch_add(1, Ordering::Relaxed);
                    ReloadEvent::Refused { file: slot.source.files().chain, error }
                }
            });
        }
        if events.iter().any(|event| matches!(event, ReloadEvent::Renewed { .. }))
            && let Ok((index, taken)) = index(&slots)
        {
            if let Some(ReloadEvent::Renewed { warnings, .. }) =
                events.iter_mut().find(|event| matches!(event, ReloadEvent::Renewed { .. }))
            {
                warnings.extend(taken);
            }
            *self.0.index.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(index);
        }
        events
    }

    /// The certificates in use, the default first.
    pub fn certificates(&self) -> Vec<CertificateFacts> {
        let slots = self.0.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.iter().map(|slot| slot.certificate.facts.clone()).collect()
    }

    /// How reloads went.
    pub fn stats(&self) -> &ReloadStats {
        &self.0.stats
    }

    /// What an operator should be told of the certificates that were loaded first.
    pub fn warnings(&self) -> &[TlsWarning] {
        &self.0.warnings
    }

    /// The certificate file a client must trust, when the identity is a development one.
    pub fn authority(&self) -> Option<&Path> {
        self.0.authority.as_deref()
    }

    /// Chooses a certificate for each handshake, from those in use at that moment.
    pub(super) fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::new(self.clone())
    }
}

impl ResolvesServerCert for TlsIdentity {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let index = self.0.index.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(index.find(hello.server_name())))
    }
}

fn index(slots: &[Slot]) -> Result<(Index, Vec<TlsWarning>), TlsError> {
    let certificates: Vec<_> = slots.iter().map(|slot| Arc::clone(&slot.certificate)).collect();
    Index::new(&certificates).ok_or_else(|| setup("no certificate is given"))
}

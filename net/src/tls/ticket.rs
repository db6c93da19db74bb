//! Session tickets (RFC 8446 section 4.6.1) that any core can open, and any
//! machine with the same secret.
//!
//! ```text
//! ticket = name (16) | salt (16) | AES-256-GCM(session) with tag
//! epoch key = HKDF(secret, number of the 12 hours); name and sealing key follow from it
//! ```
//! Invariants:
//! - Keys follow from a secret and the clock, so they change at the same time
//!   everywhere, and nobody has to tell anybody.
//! - A ticket opens for at least [`LIFETIME`] after it was made and at most twice
//!   that; with a margin of one epoch for machines whose clocks are ahead.
//! - Every ticket has a sealing key of its own, made from its salt, so no number
//!   of tickets brings a nonce back.
//! - A ticket's key opens no past traffic: resumption always includes a fresh
//!   key exchange (rustls speaks `psk_dhe_ke` only).

use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use aws_lc_rs::{aead, hkdf, rand};
use rustls::crypto::tls13::{Hkdf, HkdfExpander};
use rustls::server::ProducesTickets;
use sluice_protocols::hex;

use super::hmac_sha256::HKDF_SHA256;
use super::{TlsError, setup};

/// How long a client may keep a ticket, and how long a key seals.
const LIFETIME: Duration = Duration::from_secs(LIFETIME_SECONDS as u64);
const LIFETIME_SECONDS: u32 = 12 * 60 * 60;
/// The first secret of a file seals, the others open what it sealed earlier.
const SECRETS_MAX: usize = 4;
const SECRET_BYTES: usize = 32;
const NAME_BYTES: usize = 16;
const SALT_BYTES: usize = 16;
/// rustls' own sessions are a few hundred bytes.
const TICKET_BYTES_MAX: usize = 16 << 10;

struct EpochKey {
    name: [u8; NAME_BYTES],
    sealing: Box<dyn HkdfExpander>,
}

struct Keys {
    secrets: Vec<hkdf::Prk>,
    epoch: u64,
    /// The one that seals comes first.
    usable: Vec<EpochKey>,
}

/// Seals and opens tickets for all cores.
pub(super) struct Ticketer(RwLock<Arc<Keys>>);

impl Ticketer {
    /// With a secret of its own, which ends with the process.
    pub(super) fn random() -> Result<Self, TlsError> {
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret).map_err(setup)?;
        Self::with_secrets(&[secret])
    }

    fn with_secrets(secrets: &[[u8; SECRET_BYTES]]) -> Result<Self, TlsError> {
        Ok(Self(RwLock::new(Keys::new(secrets, epoch_of(SystemTime::now()))?)))
    }

    /// With the secrets of a file's text, the first of which seals.
    pub(super) fn from_text(file: &Path, text: &str) -> Result<Self, TlsError> {
        Self::with_secrets(&parse(file, text)?)
    }

    /// Goes over to the secrets of another ticketer.
    pub(super) fn replace(&self, other: &Self) {
        let keys = other.keys();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn keys_at(&self, now: SystemTime) -> Option<Arc<Keys>> {
        let epoch = epoch_of(now);
        let keys = self.keys();
        if keys.epoch == epoch {
            return Some(keys);
        }
        // Whoever comes first in an epoch makes its keys; two that do make the same.
        let keys = Keys::derived(keys.secrets.clone(), epoch).ok()?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&keys);
        Some(keys)
    }

    fn seal(&self, session: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        let keys = self.keys_at(now)?;
        let key = keys.usable.first()?;
        let mut salt = [0; SALT_BYTES];
        // Not from the system: that would be a call for each ticket.
        rand::fill(&mut salt).ok()?;
        let mut sealed = session.to_vec();
        key.cipher(&salt)?.seal_in_place_append_tag(nonce(), aead::Aad::from(key.name), &mut sealed).ok()?;
        Some([&key.name[..], &salt, &sealed].concat())
    }

    fn open(&self, ticket: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (salt, sealed) = rest.split_first_chunk::<SALT_BYTES>()?;
        let keys = self.keys_at(now)?;
        let key = keys.usable.iter().find(|key| key.name == *name)?;
        let mut session = sealed.to_vec();
        let opened =
            key.cipher(salt)?.open_in_place(nonce(), aead::Aad::from(*name), &mut session).ok()?.len();
        session.truncate(opened);
        Some(session)
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_SECONDS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, SystemTime::now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, SystemTime::now())
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticketer").finish_non_exhaustive()
    }
}

impl Keys {
    fn new(secrets: &[[u8; SECRET_BYTES]], epoch: u64) -> Result<Arc<Self>, TlsError> {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"sluice session tickets");
        Self::derived(secrets.iter().map(|secret| salt.extract(secret)).collect(), epoch)
    }

    fn derived(secrets: Vec<hkdf::Prk>, epoch: u64) -> Result<Arc<Self>, TlsError> {
        let epochs = [epoch, epoch.saturating_sub(1), epoch.saturating_add(1)];
        let pairs = epochs.iter().flat_map(|epoch| secrets.iter().map(move |secret| (secret, *epoch)));
        let usable = pairs.map(|(secret, epoch)| EpochKey::derive(secret, epoch)).collect::<Option<_>>();
        let usable = usable.ok_or_else(|| setup("a ticket key cannot be derived"))?;
        Ok(Arc::new(Self { secrets, epoch, usable }))
    }
}

impl EpochKey {
    fn derive(secret: &hkdf::Prk, epoch: u64) -> Option<Self> {
        let epoch = epoch.to_be_bytes();
        let name = expand(secret, &[b"name", &epoch])?;
        let key = expand(secret, &[b"key", &epoch])?;
        let sealing = HKDF_SHA256.extract_from_secret(Some(&epoch), &key);
        Some(Self { name: *name.first_chunk()?, sealing })
    }

    fn cipher(&self, salt: &[u8; SALT_BYTES]) -> Option<aead::LessSafeKey> {
        let mut key = [0; SECRET_BYTES];
        self.sealing.expand_slice(&[salt], &mut key).ok()?;
        aead::UnboundKey::new(&aead::AES_256_GCM, &key).ok().map(aead::LessSafeKey::new)
    }
}

fn expand(key: &hkdf::Prk, info: &[&[u8]]) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    key.expand(info, hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut out)).ok()?;
    Some(out)
}

/// The same for each: a ticket's key seals that ticket alone.
fn nonce() -> aead::Nonce {
    aead::Nonce::assume_unique_for_key([0; aead::NONCE_LEN])
}

fn epoch_of(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / LIFETIME.as_secs()
}

/// A secret a line, 64 hexadecimal digits each; empty lines and those that begin with `#` do not count.
fn parse(file: &Path, text: &str) -> Result<Vec<[u8; SECRET_BYTES]>, TlsError> {
    let refuse = |problem: String| TlsError::TicketSecrets { file: file.to_owned(), problem };
    let mut secrets = Vec::new();
    for (index, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let secret = hex::decode(line).ok_or_else(|| refuse(format!("line {} is no secret", index + 1)))?;
        secrets.push(secret);
    }
    match secrets.len() {
        0 => Err(refuse("there is no secret in it".to_owned())),
        1..=SECRETS_MAX => Ok(secrets),
        count => Err(refuse(format!("{count} secrets are in it, at most {SECRETS_MAX} are taken"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "0101010101010101010101010101010101010101010101010101010101010101";
    const TWO: &str = "02020202020202020202020202020202020202020202020202020202020202ff";

    fn ticketer(text: &str) -> Ticketer {
        Ticketer::from_text(Path::new("secrets"), text).expect("good secrets")
    }

    /// The beginning of an epoch.
    fn morning() -> SystemTime {
        SystemTime::UNIX_EPOCH + LIFETIME * 40_000
    }

    #[test]
    fn a_ticket_opens_for_its_lifetime_and_for_no_more_than_twice_that() {
        let keys = ticketer(ONE);
        let second = Duration::from_secs(1);
        for made in [morning(), morning() + LIFETIME - second] {
            let ticket = keys.seal(b"session", made).expect("sealed");
            let opens = |after| keys.open(&ticket, made + after).as_deref() == Some(b"session");
            assert!(opens(Duration::ZERO) && opens(LIFETIME));
            assert!(!opens(LIFETIME * 2));
        }
    }

    #[test]
    fn a_clock_that_is_behind_opens_what_one_ahead_has_sealed() {
        let ticket = ticketer(ONE).seal(b"session", morning() + Duration::from_secs(1)).expect("sealed");
        let behind = morning() - Duration::from_secs(5);
        assert_eq!(ticketer(ONE).open(&ticket, behind).as_deref(), Some(&b"session"[..]));
    }

    #[test]
    fn the_same_secret_opens_on_another_machine_and_another_secret_does_not() {
        let ticket = ticketer(ONE).seal(b"session", morning()).expect("sealed");
        assert!(ticketer(ONE).open(&ticket, morning()).is_some());
        assert!(ticketer(TWO).open(&ticket, morning()).is_none());
        assert!(Ticketer::random().expect("random").open(&ticket, morning()).is_none());
    }

    #[test]
    fn a_secret_can_be_replaced_while_its_tickets_go_on() {
        let keys = ticketer(ONE);
        let old = keys.seal(b"session", morning()).expect("sealed");
        keys.replace(&ticketer(&format!("# new\n{TWO}\n\n{ONE}\n")));
        let new = keys.seal(b"session", morning()).expect("sealed");
        assert!(keys.open(&old, morning()).is_some() && keys.open(&new, morning()).is_some());
        keys.replace(&ticketer(TWO));
        assert!(keys.open(&old, morning()).is_none() && keys.open(&new, morning()).is_some());
    }

    #[test]
    fn a_changed_ticket_does_not_open() {
        let keys = ticketer(ONE);
        let ticket = keys.seal(b"session", morning()).expect("sealed");
        assert_ne!(ticket, keys.seal(b"session", morning()).expect("sealed"));
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert!(keys.open(&changed, morning()).is_none(), "{at}");
            assert!(keys.open(&ticket[..at], morning()).is_none(), "{at}");
        }
        assert!(keys.open(&[0; TICKET_BYTES_MAX + 1], morning()).is_none());
    }

    #[test]
    fn a_file_without_good_secrets_is_refused_without_showing_them() {
        let short = &ONE[2..];
        for text in [
            "",
            "# nothing\n",
            short,
            &format!("{ONE}00"),
            &format!("{short}xy"),
            &format!("{ONE}\n").repeat(5),
        ] {
            let error =
                Ticketer::from_text(Path::new("/etc/secrets"), text).expect_err("refused").to_string();
            assert!(error.contains("/etc/secrets") && error.contains("openssl rand -hex 32"), "{error}");
            assert!(!error.contains("0101"), "{error}");
        }
    }
}

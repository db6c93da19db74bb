//! The operator's service account at Google, which may act for users of the operator's own domains (domain-wide delegation), and
//! the assertions it signs (RFC 7523 section 2.1).
//!
//! ```text
//! assertion := base64url(header) "." base64url(claims) "." base64url(RS256 over both)
//! claims    := iss the account, sub the user's address, scope, aud the token endpoint, iat now, exp iat + 10 min
//! ```
//! A signature costs about a millisecond of CPU, too long for a reactor: it is made on a thread of the shared runtime where
//! blocking is allowed. How many are made at once in the process, its configuration says: a core that signs makes some
//! thousand a second, and a million users whose tokens last an hour need three hundred; but after a start all of them come
//! at once, and who has to wait longer than a second is better told to come again.
//!
//! Invariants:
//! - the private key is in no text, log or answer; what it is read from is wiped, and AWS-LC wipes the key itself;
//! - an assertion is made for an address of an allowed domain alone;
//! - for each signature under way at most [`WAITING_PER_SIGNATURE_MAX`] wait.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use zeroize::{Zeroize, Zeroizing};

/// Signatures that may wait for each that is under way: about a second's.
const WAITING_PER_SIGNATURE_MAX: usize = 1_000;
/// How long an assertion is good. Google allows an hour; it is used at once.
const ASSERTION_LIFE: Duration = Duration::from_secs(600);
/// The least a key may have (Google's have 2,048).
const MODULUS_BYTES_MIN: usize = 256;

/// Why a key file is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// Give the file that Google's console gave for the service account.
    #[error("it is no key file of a service account: {0}")]
    Shape(&'static str),
    /// Give a key in the form that Google gives.
    #[error("its private key cannot be read: it must be RSA of at least 2,048 bits, as PKCS #8 in PEM")]
    Key,
}

/// Why there is no assertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAssertion {
    /// Come again in a second.
    #[error("too many signatures are waiting")]
    Busy,
    /// Nothing helps but another key.
    #[error("it cannot be signed")]
    Failed,
}

/// The service account, and for whom it may act. Clones share the key.
#[derive(Clone)]
pub struct Delegation(Arc<Inner>);

struct Inner {
    account: String,
    key_name: Option<String>,
    key: RsaKeyPair,
    token_uri: String,
    domains: Vec<String>,
    scopes: String,
    /// For those who wait and those whose turn it is.
    asked: Semaphore,
    /// For those whose turn it is.
    places: Semaphore,
}

/// What a key file says, as far as it matters.
#[derive(Deserialize)]
struct KeyFile {
    #[serde(rename = "type")]
    kind: String,
    client_email: String,
    private_key: String,
    #[serde(default)]
    private_key_id: Option<String>,
    token_uri: String,
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        self.private_key.zeroize();
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    scope: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
}

impl Delegation {
    /// The most signatures at once; each takes a CPU.
    pub const SIGNED_AT_ONCE_MAX: usize = 256;

    /// The account of a key file, acting for addresses of these domains (lower case) with these scopes, and signing so many
    /// assertions at once, [`Self::SIGNED_AT_ONCE_MAX`] at most.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn new(
        key_file: &str,
        domains: &[String],
        scopes: &[String],
        signed_at_once: NonZeroUsize,
    ) -> Result<Self, KeyFileError> {
        // The error of serde may quote the text, and with it the key: it is not passed on.
        let file: KeyFile = serde_json::from_str(key_file)
            .map_err(|_| KeyFileError::Shape("it lacks `client_email`, `private_key` or `token_uri`"))?;
        if file.kind != "service_account" {
            return Err(KeyFileError::Shape("its `type` is not `service_account`"));
        }
        let key = RsaKeyPair::from_pkcs8(&der_of(&file.private_key)?).map_err(|_| KeyFileError::Key)?;
        if key.public_modulus_len() < MODULUS_BYTES_MIN {
            return Err(KeyFileError::Key);
        }
        let places = signed_at_once.get().min(Self::SIGNED_AT_ONCE_MAX);
        Ok(Self(Arc::new(Inner {
            account: file.client_email.clone(),
            key_name: file.private_key_id.clone(),
            key,
            token_uri: file.token_uri.clone(),
            domains: domains.to_vec(),
            scopes: scopes.join(" "),
            asked: Semaphore::new(places * (1 + WAITING_PER_SIGNATURE_MAX)),
            places: Semaphore::new(places),
        })))
    }

    /// The token endpoint that assertions are for.
    pub fn token_uri(&self) -> &str {
        &self.0.token_uri
    }

    /// Whether it may act for this address: one of an allowed domain itself, not of one below it.
    pub(crate) fn is_for(&self, email: &str) -> bool {
        let domain = email.rsplit_once('@').map(|(_, domain)| domain);
        domain.is_some_and(|domain| self.0.domains.iter().any(|one| one.eq_ignore_ascii_case(domain)))
    }

    /// An assertion for a user, signed off the calling core.
    ///
    /// # Errors
    /// [`NoAssertion`].
    pub(crate) async fn assertion(
        &self,
        runtime: &Handle,
        email: &str,
        unix_ms: u64,
    ) -> Result<Zeroizing<String>, NoAssertion> {
        debug_assert!(self.is_for(email), "nobody asks for others");
        let _asked = self.0.asked.try_acquire().map_err(|_| NoAssertion::Busy)?;
        let _place = self.0.places.acquire().await.map_err(|_| NoAssertion::Failed)?;
        let (this, email) = (self.clone(), email.to_owned());
        // By way of a thread of the runtime: a thread that a core starts would be bound to the core's CPU.
        let signing = runtime.spawn(async move {
            tokio::task::spawn_blocking(move || this.0.sign(&email, unix_ms / 1_000)).await
        });
        let signed = signing.await.ok().and_then(Result::ok).flatten();
        signed.ok_or(NoAssertion::Failed)
    }
}

impl Inner {
    fn sign(&self, email: &str, now_s: u64) -> Option<Zeroizing<String>> {
        let mut header = serde_json::json!({"alg": "RS256", "typ": "JWT"});
        if let Some(name) = &self.key_name {
            header["kid"] = name.as_str().into();
        }
        let claims = Claims {
            iss: &self.account,
            sub: email,
            scope: &self.scopes,
            aud: &self.token_uri,
            iat: now_s,
            exp: now_s + ASSERTION_LIFE.as_secs(),
        };
        let claims = serde_json::to_vec(&claims).ok()?;
        let mut text = Zeroizing::new(URL_SAFE_NO_PAD.encode(header.to_string()));
        text.push('.');
        text.push_str(&URL_SAFE_NO_PAD.encode(claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).ok()?;
        text.push('.');
        text.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Some(text)
    }
}

/// The bytes of a key in PEM (RFC 7468), of the one kind that Google gives.
fn der_of(pem: &str) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let rest = pem.trim().strip_prefix("-----BEGIN PRIVATE KEY-----").ok_or(KeyFileError::Key)?;
    let inner = rest.strip_suffix("-----END PRIVATE KEY-----").ok_or(KeyFileError::Key)?;
    let mut text = Zeroizing::new(String::with_capacity(inner.len()));
    text.extend(inner.chars().filter(|character| !character.is_ascii_whitespace()));
    STANDARD.decode(text.as_bytes()).map(Zeroizing::new).map_err(|_| KeyFileError::Key)
}

impl fmt::Debug for Delegation {
    /// Leaves the key out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delegation")
            .field("account", &self.0.account)
            .field("domains", &self.0.domains)
            .field("scopes", &self.0.scopes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
    use serde_json::{Value, json};

    use super::*;

    fn pem_of(key: &KeyPair) -> String {
        let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
        let text = STANDARD.encode(der.as_ref());
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
    }

    fn file_with(changes: &Value) -> String {
        let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let mut file = json!({
            "type": "service_account", "project_id": "p", "private_key_id": "k1", "private_key": pem_of(&key),
            "client_email": "sluice@p.iam.gserviceaccount.com", "client_id": "1", "token_uri": "https://oauth2.googleapis.com/token",
        });
        for (name, value) in changes.as_object().unwrap() {
            file[name] = value.clone();
        }
        file.to_string()
    }

    fn delegation() -> Delegation {
        let domains = ["example.com".to_owned(), "example.org".to_owned()];
        let scopes = ["a".to_owned(), "b".to_owned()];
        Delegation::new(&file_with(&json!({})), &domains, &scopes, NonZeroUsize::MIN).unwrap()
    }

    #[test]
    fn an_assertion_says_who_acts_for_whom_and_is_signed() {
        let delegation = delegation();
        let text = delegation.0.sign("ada@example.com", 1_000).unwrap();
        let (signed, signature) = text.rsplit_once('.').unwrap();
        let public = UnparsedPublicKey::new(
            &RSA_PKCS1_2048_8192_SHA256,
            delegation.0.key.public_key().as_ref().to_vec(),
        );
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        public.verify(signed.as_bytes(), &signature).unwrap();
        let part = |index| {
            let part = URL_SAFE_NO_PAD.decode(signed.split('.').nth(index).unwrap()).unwrap();
            serde_json::from_slice::<Value>(&part).unwrap()
        };
        assert_eq!(part(0), json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}));
        let claims = json!({
            "iss": "sluice@p.iam.gserviceaccount.com", "sub": "ada@example.com", "scope": "a b",
            "aud": "https://oauth2.googleapis.com/token", "iat": 1_000, "exp": 1_600,
        });
        assert_eq!(part(1), claims);
    }

    #[tokio::test]
    async fn who_would_wait_too_long_for_a_signature_is_told_so_and_the_others_get_theirs() {
        let delegation = delegation();
        let runtime = Handle::current();
        let ask = || delegation.assertion(&runtime, "ada@example.com", 1_000_000);
        let asked = {
            let _turn = delegation.0.places.acquire().await.unwrap();
            let mut waiting: Vec<_> = (0..=WAITING_PER_SIGNATURE_MAX).map(|_| Box::pin(ask())).collect();
            let mut context = Context::from_waker(Waker::noop());
            for asked in &mut waiting {
                assert!(asked.as_mut().poll(&mut context).is_pending());
            }
            assert_eq!(ask().await, Err(NoAssertion::Busy));
            waiting.swap_remove(0)
        };
        assert!(asked.await.is_ok());
        assert!(ask().await.is_ok());
    }

    #[test]
    fn it_acts_for_its_own_domains_alone() {
        let delegation = delegation();
        for email in ["ada@example.com", "ada@EXAMPLE.org", "\"a@b\"@example.com"] {
            assert!(delegation.is_for(email), "{email}");
        }
        for email in [
            "ada@sub.example.com",
            "ada@example.com.evil",
            "ada@evilexample.com",
            "example.com",
            "ada@",
            "@",
            "",
        ] {
            assert!(!delegation.is_for(email), "{email}");
        }
    }

    #[test]
    fn what_is_no_key_file_is_refused_without_telling_what_is_in_it() {
        let read = |text: &str| Delegation::new(text, &[], &[], NonZeroUsize::MIN).map(|_| ());
        for changes in
            [json!({"type": "authorized_user"}), json!({"client_email": 5}), json!({"private_key": null})]
        {
            assert!(matches!(read(&file_with(&changes)), Err(KeyFileError::Shape(_))), "{changes}");
        }
        for key in [
            "",
            "secret-text",
            "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----",
            "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----",
        ] {
            let error = read(&file_with(&json!({"private_key": key}))).unwrap_err();
            assert_eq!(error, KeyFileError::Key);
            assert!(!error.to_string().contains("secret"));
        }
        assert!(matches!(read("{"), Err(KeyFileError::Shape(_))));
        assert!(!format!("{:?}", delegation()).contains("BEGIN"));
    }
}

//! A service account with domain-wide delegation: its key is made when the simulator starts, and assertions are held against it
//! (RFC 7523 section 3, and what Google says of service accounts).
//!
//! Invariant: the private key is in the file that was asked for alone; the simulator keeps the public one.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::sim::wire::Reply;

/// The grant type of an assertion.
pub(super) const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// Whom the account may act for: the users of the domain that all simulated users are of.
const DOMAIN: &str = "@example.com";
const ACCOUNT: &str = "sluice@simulated.iam.gserviceaccount.com";
/// How far clocks may be apart, in seconds.
const SKEW_S: u64 = 60;
/// The longest that an assertion may be good.
const LIFE_S_MAX: u64 = 3_600;

/// The account as the simulator knows it.
#[derive(Debug)]
pub(crate) struct ServiceAccount {
    public_key: Vec<u8>,
    token_uri: String,
}

/// Who is meant, and what may be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) user: String,
    pub(super) scopes: String,
}

impl ServiceAccount {
    /// Makes a key, and the file that Google's console would give for it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn make(path: &Path, token_uri: &str) -> anyhow::Result<Self> {
        let key = KeyPair::generate(KeySize::Rsa2048).context("no RSA key can be made")?;
        let der: Pkcs8V1Der<'_> = key.as_der().context("the RSA key cannot be written")?;
        let text = STANDARD.encode(der.as_ref());
        let lines: Vec<String> =
            text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"));
        let file = json!({
            "type": "service_account", "project_id": "simulated", "private_key_id": "sim1", "private_key": pem,
            "client_email": ACCOUNT, "client_id": "100000000000000000001", "token_uri": token_uri,
            "auth_uri": "https://accounts.google.com/o/oauth2/auth", "universe_domain": "googleapis.com",
        });
        let told = || format!("cannot write {}", path.display());
        let mut options = OpenOptions::new();
        let mut out =
            options.write(true).create(true).truncate(true).mode(0o600).open(path).with_context(told)?;
        out.write_all(file.to_string().as_bytes()).with_context(told)?;
        Ok(Self { public_key: key.public_key().as_ref().to_vec(), token_uri: token_uri.to_owned() })
    }

    /// Holds an assertion against the key and the rules.
    pub(super) fn accept(&self, assertion: &str, now_s: u64) -> Result<Accepted, Reply> {
        let refuse = |why: &str| Err(refusal(400, "invalid_grant", why));
        let Some(((header, claims), (signed, signature))) = parts(assertion) else {
            return refuse("Invalid JWT: Failed to parse.");
        };
        if claims["iss"] != ACCOUNT {
            return refuse("Invalid grant: account not found");
        }
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public_key);
        if header["alg"] != "RS256" || key.verify(signed.as_bytes(), &signature).is_err() {
            return refuse("Invalid JWT Signature.");
        }
        if claims["aud"] != self.token_uri.as_str() {
            return refuse("Invalid JWT: Failed audience check.");
        }
        let (issued, ends) = (claims["iat"].as_u64(), claims["exp"].as_u64());
        let is_timely = issued.zip(ends).is_some_and(|(issued, ends)| {
            issued <= now_s + SKEW_S && ends > now_s && ends > issued && ends - issued <= LIFE_S_MAX
        });
        if !is_timely {
            return refuse(
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.",
            );
        }
        let scopes = claims["scope"].as_str().map(str::trim).unwrap_or_default();
        if scopes.is_empty() {
            return Err(refusal(400, "invalid_scope", "Invalid OAuth scope or ID token audience provided."));
        }
        match user_of(&claims) {
            Some(user) => Ok(Accepted { user, scopes: scopes.to_owned() }),
            None => Err(refusal(
                401,
                "unauthorized_client",
                "Client is unauthorized to retrieve access tokens using this method, or client not authorized for any \
                 of the scopes requested.",
            )),
        }
    }
}

pub(super) fn refusal(status: u16, error: &str, description: &str) -> Reply {
    Reply::json(status, &json!({"error": error, "error_description": description}))
}

/// The user an assertion is about, whether or not it is good.
pub(super) fn said(assertion: &str) -> Option<String> {
    user_of(&parts(assertion)?.0.1)
}

fn user_of(claims: &Value) -> Option<String> {
    let user = claims["sub"].as_str()?.strip_suffix(DOMAIN)?;
    let is_name = !user.is_empty() && user.len() <= super::oauth::NAME_BYTES_MAX && !user.contains('@');
    is_name.then(|| user.to_owned())
}

type Parts<'a> = ((Value, Value), (&'a str, Vec<u8>));

fn parts(assertion: &str) -> Option<Parts<'_>> {
    let (signed, signature) = assertion.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    let json = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
    Some(((json(header)?, json(claims)?), (signed, URL_SAFE_NO_PAD.decode(signature).ok()?)))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};

    use super::*;

    const NOW_S: u64 = 1_800_000_000;

    struct Signer {
        key: RsaKeyPair,
        account: ServiceAccount,
    }

    fn signer() -> Signer {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.json");
        let account = ServiceAccount::make(&path, "http://127.0.0.1:1/token").unwrap();
        let file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let pem = file["private_key"].as_str().unwrap();
        let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        Signer { key: RsaKeyPair::from_pkcs8(&STANDARD.decode(text).unwrap()).unwrap(), account }
    }

    impl Signer {
        fn assertion(&self, changes: &Value) -> String {
            let mut claims = json!({
                "iss": ACCOUNT, "sub": "ada@example.com", "scope": "a b", "aud": "http://127.0.0.1:1/token",
                "iat": NOW_S, "exp": NOW_S + 600,
            });
            for (name, value) in changes.as_object().unwrap() {
                claims[name] = value.clone();
            }
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let signed = format!("{}.{}", part(&json!({"alg": "RS256"})), part(&claims));
            let mut signature = vec![0; self.key.public_modulus_len()];
            self.key
                .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
                .unwrap();
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
        }

        fn status(&self, assertion: &str) -> (u16, String) {
            match self.account.accept(assertion, NOW_S) {
                Ok(accepted) => (200, format!("{} {}", accepted.user, accepted.scopes)),
                Err(reply) => {
                    let body: Value = serde_json::from_slice(&reply.body).unwrap();
                    (reply.status, body["error"].as_str().unwrap().to_owned())
                }
            }
        }
    }

    #[test]
    fn a_good_assertion_is_taken_and_every_other_is_refused_for_its_reason() {
        let ours = signer();
        let status = |changes: Value| ours.status(&ours.assertion(&changes));
        let refused =
            |error: &str| (if error == "unauthorized_client" { 401 } else { 400 }, error.to_owned());
        assert_eq!(status(json!({})), (200, "ada a b".to_owned()));
        for changes in [
            json!({"iss": "other@simulated.iam.gserviceaccount.com"}),
            json!({"aud": "https://oauth2.googleapis.com/token"}),
            json!({"aud": null}),
            json!({"exp": NOW_S}),
            json!({"exp": NOW_S + 3_601}),
            json!({"iat": NOW_S + 61, "exp": NOW_S + 600}),
            json!({"iat": null}),
        ] {
            assert_eq!(status(changes.clone()), refused("invalid_grant"), "{changes}");
        }
        for sub in [json!("ada@other.example"), json!("@example.com"), json!("ada"), json!(null)] {
            assert_eq!(status(json!({"sub": sub})), refused("unauthorized_client"), "{sub}");
        }
        assert_eq!(status(json!({"scope": " "})), refused("invalid_scope"));
        let good = ours.assertion(&json!({}));
        let (signed, signature) = good.rsplit_once('.').unwrap();
        let forged = URL_SAFE_NO_PAD.encode(r#"{"iss":"sluice@simulated.iam.gserviceaccount.com"}"#);
        let forged = format!("{}.{forged}.{signature}", signed.split('.').next().unwrap());
        for wrong in [forged, format!("{signed}."), "a.b.c".to_owned(), String::new()] {
            assert_eq!(ours.status(&wrong), refused("invalid_grant"), "{wrong}");
        }
        // Another account's key.
        assert_eq!(signer().status(&good), refused("invalid_grant"));
    }
}

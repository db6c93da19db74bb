//! Identity providers as they are configured.

use serde::{Deserialize, Serialize};
use sluice_protocols::access::Scopes;
use sluice_protocols::api::ISSUER_CHARS_MAX;
use sluice_shard::identity::algorithm;

use super::MaybePath;
use super::checks::{Checks, is_base_url};

/// Each has keys that are fetched again and again.
const PROVIDERS_MAX: usize = 16;
const SKEW_S_MAX: u64 = 300;

/// By what a token names its user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum UserBy {
    /// By `sub` alone.
    Subject,
    /// By the address at first sight, then by `sub`.
    #[default]
    Email,
}

/// One table of `[[identity.providers]]`; docs/auth.md describes each key.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IdentityProvider {
    pub(crate) issuer: String,
    pub(crate) audiences: Vec<String>,
    #[serde(default)]
    pub(crate) keys_url: String,
    #[serde(default)]
    pub(crate) keys_file: MaybePath,
    #[serde(default = "default_algorithms")]
    pub(crate) algorithms: Vec<String>,
    #[serde(default = "default_types")]
    pub(crate) types: Vec<String>,
    #[serde(default = "default_skew_s")]
    pub(crate) skew_s: u64,
    #[serde(default)]
    pub(crate) user_by: UserBy,
    #[serde(default = "default_email_claim")]
    pub(crate) email_claim: String,
    #[serde(default = "yes")]
    pub(crate) verified_email: bool,
    #[serde(default)]
    pub(crate) create_users: bool,
    #[serde(default)]
    pub(crate) roles_claim: String,
    #[serde(default)]
    pub(crate) operator_roles: Vec<String>,
    #[serde(default)]
    pub(crate) auditor_roles: Vec<String>,
    #[serde(default)]
    pub(crate) scopes: Vec<String>,
}

fn default_algorithms() -> Vec<String> {
    vec!["RS256".to_owned(), "ES256".to_owned()]
}

fn default_types() -> Vec<String> {
    vec!["JWT".to_owned(), "at+jwt".to_owned()]
}

fn default_skew_s() -> u64 {
    30
}

fn default_email_claim() -> String {
    "email".to_owned()
}

fn yes() -> bool {
    true
}

impl IdentityProvider {
    /// Where the provider says what its keys' address is (OpenID Connect Discovery 1.0 section 4).
    pub(crate) fn discovery_url(&self) -> String {
        format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'))
    }

    /// What tokens may be used for; without a list, everything their users' roles allow.
    pub(crate) fn scopes(&self) -> Option<Scopes> {
        if self.scopes.is_empty() {
            return Some(Scopes::ALL);
        }
        Scopes::from_names(self.scopes.iter().map(String::as_str)).ok()
    }

    /// Everything that is wrong with it.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut refuse = |text: String| faults.push(text);
        if !(1..=ISSUER_CHARS_MAX).contains(&self.issuer.chars().count()) {
            refuse(format!("issuer has 1 to {ISSUER_CHARS_MAX} characters"));
        }
        if self.audiences.is_empty() || self.audiences.iter().any(String::is_empty) {
            refuse("audiences names at least one, none of them empty".to_owned());
        }
        let has_file = self.keys_file.get().is_some();
        match (self.keys_url.is_empty(), has_file) {
            (false, true) => refuse("keys_url and keys_file are both set; allowed is one of them".to_owned()),
            (false, false) if !is_safe_url(&self.keys_url) => {
                refuse(format!("keys_url is {:?}; {SAFE_URL}", self.keys_url));
            }
            (true, false) if !is_safe_url(&self.issuer) => {
                refuse(format!("its keys are looked for below the issuer {:?}; {SAFE_URL}", self.issuer));
            }
            _ => {}
        }
        for name in self.algorithms.iter().filter(|name| algorithm(name).is_none()) {
            refuse(format!(
                "{name:?} is no algorithm for tokens here; allowed are RS256, RS384, RS512, PS256, PS384, PS512, ES256, \
                 ES384 and EdDSA: those with a key that only the provider has"
            ));
        }
        if self.algorithms.is_empty() {
            refuse("algorithms names none; leave it out for RS256 and ES256".to_owned());
        }
        if self.types.is_empty() {
            refuse("types names none; an empty text allows tokens without a type".to_owned());
        }
        if self.email_claim.is_empty() {
            refuse("email_claim is empty; it names the claim with the user's address".to_owned());
        }
        if self.skew_s > SKEW_S_MAX {
            refuse(format!("skew_s is {}; allowed is 0 to {SKEW_S_MAX}", self.skew_s));
        }
        if self.roles_claim.is_empty() && !(self.operator_roles.is_empty() && self.auditor_roles.is_empty()) {
            refuse("operator_roles and auditor_roles need roles_claim".to_owned());
        }
        if self.scopes().is_none() {
            refuse(format!("scopes {:?} names something that is no scope", self.scopes));
        }
        faults
    }
}

const SAFE_URL: &str =
    "allowed is https://, or http:// on this machine alone, for whoever can change the keys is anybody";

/// Whether nobody on the way can give us other keys.
pub(crate) fn is_safe_url(text: &str) -> bool {
    let is_local = || {
        let host = text.strip_prefix("http://").and_then(|rest| rest.split('/').next()).unwrap_or_default();
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        // What stands before an `@` is a user, and the host comes after it.
        matches!(name, "127.0.0.1" | "localhost" | "[::1]") && !host.contains('@')
    };
    is_base_url(text) && (text.starts_with("https://") || is_local())
}

impl Checks<'_> {
    pub(super) fn identity(&mut self) {
        const KEY: &str = "identity.providers";
        let providers = &self.config.identity.providers;
        if providers.len() > PROVIDERS_MAX {
            self.refuse(KEY, format!("{} providers; allowed are {PROVIDERS_MAX}", providers.len()));
        }
        for (index, provider) in providers.iter().enumerate() {
            for fault in provider.faults() {
                self.refuse(KEY, format!("provider {}: {fault}", index + 1));
            }
            if providers[..index].iter().any(|other| other.issuer == provider.issuer) {
                self.refuse(KEY, format!("{:?} is there twice; each issuer may be once", provider.issuer));
            }
        }
    }
}

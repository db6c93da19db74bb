//! What messages are signed with, by Standard Webhooks 1.0.0.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sluice_protocols::ids::DeliveryId;
use zeroize::Zeroizing;

/// Bytes of a secret; the standard asks for 24 to 64.
const SECRET_BYTES: usize = 32;
/// What secrets begin with as texts.
const PREFIX: &str = "whsec_";

/// The secret of one webhook. Wiped when dropped, and shown by nothing but [`Self::expose`].
#[derive(PartialEq, Eq)]
pub(crate) struct Secret(Zeroizing<[u8; SECRET_BYTES]>);

impl Secret {
    /// A new one.
    ///
    /// # Panics
    /// When the host has no random source: no secret can be made then.
    pub(super) fn random() -> Self {
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        getrandom::fill(&mut *bytes).expect("the host has a random source");
        Self(bytes)
    }

    /// The one that [`Self::expose`] showed; `None` for any other text.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(STANDARD.decode(text.strip_prefix(PREFIX)?).ok()?);
        <[u8; SECRET_BYTES]>::try_from(&**bytes).ok().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// As its user is shown it, once, and as the vault seals it: `whsec_` and base64.
    pub(crate) fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{PREFIX}{}", STANDARD.encode(*self.0)))
    }

    /// One entry of `webhook-signature`: of id, time of the attempt in seconds since 1970, and body.
    pub(super) fn sign(&self, message: DeliveryId, unix_s: u64, body: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*self.0);
        let signed = format!("{message}.{unix_s}.{body}");
        format!("v1,{}", STANDARD.encode(hmac::sign(&key, signed.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_others_make_of_the_same() {
        // Computed by `openssl dgst -sha256 -mac HMAC -macopt hexkey:0707..07`.
        let secret = Secret(Zeroizing::new([7; SECRET_BYTES]));
        assert_eq!(*secret.expose(), "whsec_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=");
        let message = DeliveryId::from_bytes([0; 16]);
        assert_eq!(
            secret.sign(message, 1_795_000_000, r#"{"type":"task.done"}"#),
            "v1,Z5fJMMFwV8WhrtFEhgisyC+8FgIDY/cvoD2zM/hIgLo="
        );
    }

    #[test]
    fn a_secret_reads_back_as_shown_and_other_texts_are_none() {
        let secret = Secret::random();
        let text = secret.expose();
        assert!(Secret::parse(&text) == Some(secret));
        for other in ["", "whsec_", "whsec_AAAA", &text[1..], &text[..20], &format!("{}AAAA", *text)] {
            assert!(Secret::parse(other).is_none(), "{other}");
        }
    }
}

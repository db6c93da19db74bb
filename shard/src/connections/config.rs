//! Settings of connections.

use zeroize::Zeroizing;

/// Where accounts are connected, and as whom the gateway appears there.
#[derive(Clone)]
pub struct ConnectConfig {
    /// The provider's authorization endpoint. Default Google's.
    pub auth_url: String,
    /// The provider's revocation endpoint, of the origin of the token endpoint. Default Google's.
    pub revoke_url: String,
    /// Whose ID tokens are believed. Default Google's.
    pub issuer: String,
    /// Where browsers reach the gateway: an origin, without a slash at its end. Default `https://localhost`.
    pub public_url: String,
    /// Origins that a user may be led on to when an account is connected. Default none.
    pub return_origins: Vec<String>,
    /// What the node signs with: links and states. By default random, so that they end with the process.
    pub node_secret: Zeroizing<[u8; 32]>,
}

impl Default for ConnectConfig {
    /// # Panics
    /// When the host has no random source.
    fn default() -> Self {
        let mut node_secret = Zeroizing::new([0; 32]);
        getrandom::fill(node_secret.as_mut()).expect("the host has a random source");
        Self {
            auth_url: "https://accounts.google.com/o/oauth2/v2/auth".to_owned(),
            revoke_url: "https://oauth2.googleapis.com/revoke".to_owned(),
            issuer: "https://accounts.google.com".to_owned(),
            public_url: "https://localhost".to_owned(),
            return_origins: Vec::new(),
            node_secret,
        }
    }
}

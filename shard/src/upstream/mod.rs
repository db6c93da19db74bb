//! The upstreams as tasks use them: plans from OpenAI, access tokens, and calls to Google.

/// Access tokens of one core's users.
pub struct TokenCache {
    _max: usize,
}

impl TokenCache {
    /// Keeps at most `tokens_max` tokens.
    pub fn new(tokens_max: usize) -> Self {
        Self { _max: tokens_max }
    }

    /// Drops what is known of a user's tokens: their connection changed.
    pub fn forget(&self, user: &sluice_protocols::ids::UserId) {
        let _ = user;
    }
}

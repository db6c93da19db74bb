//! What one core does for its users: routing, keys, sessions, plans and tasks.
//!
//! ```text
//! ingress -> CoreService (routes, keys) -> Sessions, Tasks (queue, journal) -> run (plan, steps) -> egress
//!                 | another core's user
//!                 +-> mailbox -> CoreService of the owner
//! ```
//! Everything a core needs for its users is `!Send` and stays on its thread; what crosses threads is a
//! [`peer::PeerRequest`] and its answer, counters ([`metrics`]), and what the store and the egress pool share.

#![forbid(unsafe_code)]

pub mod admin;
pub mod audit;
mod auth;
pub mod cache;
mod cancel;
pub mod clock;
mod config;
mod connections;
mod context;
mod cursor;
pub mod env;
mod export;
mod generations;
mod holds;
pub mod intent;
pub mod limit;
pub mod metrics;
mod mint;
pub mod peer;
pub mod placement;
mod preferences;
pub mod quota;
mod routes;
pub mod run;
mod service;
mod sessions;
mod signal;
mod tasks;
#[cfg(test)]
mod test_http;
pub mod upstream;
pub mod watch;
pub mod webhooks;

pub use admin::{
    Admin, AdminError, Erased, KeyLimit, KeySpec, RevocationClient, Revoked, Revoker, RevokerStats,
    SEEDED_AT_ONCE_MAX, Seed,
};
pub use auth::Revocations;
pub use auth::providers as identity;
pub use cancel::Cancel;
pub use config::{SESSION_LIFE, ShardConfig};
pub use connections::ConnectConfig;
pub use context::ContextConfig;
pub use export::{ExportPage, ExportPlace};
pub use metrics::Metrics;
pub use placement::Placement;
pub use service::{CoreParts, CoreService};
pub use sessions::Recent;
pub use tasks::{RunFuture, Runner};

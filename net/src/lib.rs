//! What stands between Sluice and the network: ingress over QUIC and HTTP/3 with
//! connection steering and TLS, the TCP fallback for clients without HTTP/3, a
//! client on the same reactor, and the shared egress pool that calls upstreams.
//!
//! Ingress and the client run on a core's reactor and are `!Send`; egress runs on
//! a small runtime of its own and is called from any core. The TCP fallback runs
//! on that runtime, too, and enters the cores by their `entrance`.

pub mod body;
pub mod client;
pub mod egress;
pub mod entrance;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod ingress;
mod network;
pub mod quic;
pub mod service;
pub mod tcp;
pub mod tls;

pub use body::{BodyError, BodyReader, BodyWriter, Gone};
pub use network::Network;
pub use quic::listen::{ListenConfig, ListenError, Listeners};
pub use quic::steering::CoreCount;
pub use service::{Admit, Answer, Request, Responder, Service};

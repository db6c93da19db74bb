//! Everything that stands above the gateway to prove it: the simulator of its
//! upstreams, and the harness that loads it.
//!
//! Invariant: no other crate of the workspace depends on this one, except as a
//! dev-dependency of tests.
#![forbid(unsafe_code)]

pub mod compare;
pub mod connections;
pub mod cpu;
pub mod handshakes;
pub mod intents;
pub mod limiter;
pub mod load;
pub mod mix;
pub mod reactors;
pub mod refresh;
pub mod report;
pub mod sim;

//! What one core does for its users: routing, keys, sessions, plans and tasks

#![forbid(unsafe_code)]

pub mod clock;
pub mod env;
pub mod run;
pub mod upstream;

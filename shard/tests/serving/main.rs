//! A core serving: real reactor and store, no network. One binary, for linking the database takes long.

mod accounts;
mod commands;
mod common;
mod context;
mod cores;
mod events;
mod limits;
mod metrics;
mod queue;
mod records;
mod requests;
mod sessions;

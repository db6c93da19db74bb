//! HTTP/3 ingress, over real sockets and against an independent client. Each
//! module is named after the failure it rules out.

#[path = "../common/mod.rs"]
mod common;

mod broken_streams;
mod busy_loops;
mod forged_packets;
mod harmful_datagrams;
mod lost_bytes;
mod lost_requests_on_shutdown;
mod lost_sessions;
mod misread_answers;
mod misread_frames;
mod misread_messages;
mod misread_tables;
mod replayed_requests;
mod restless_clients;
mod slow_clients;
mod unbounded_admission;
mod wrong_core;
mod wrong_counts;

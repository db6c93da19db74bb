//! HTTP/2 and HTTP/1.1 ingress, over real sockets, against hyper's client and against bytes written by hand. Each
//! module is named after the failure it rules out.

mod broken_streams;
mod client;
#[path = "../common/routes.rs"]
mod routes;
mod server;

mod lost_answers;
mod misread_requests;
mod mixed_protocols;
mod unbounded_clients;

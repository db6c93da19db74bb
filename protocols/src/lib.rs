//! Bytes and types, without IO or a clock: HTTP/3, QPACK, our API, Google and OpenAI messages

#![forbid(unsafe_code)]

pub mod access;
pub mod api;
pub mod google;
pub mod h3;
pub mod hex;
pub mod http;
pub mod ids;
pub mod intent;
pub mod markup;
pub mod openai;
pub mod openapi;
pub mod plan;
pub mod problem;
pub mod qpack;
pub mod retry;
pub mod workflow;

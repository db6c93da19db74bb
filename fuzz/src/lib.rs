//! What the fuzz targets hold the code to: each module has one `check` that takes any bytes and panics when a
//! promise is broken.
//!
//! The modules use nothing of the fuzzer's, so that the tests of the crates replay the corpus with them.
#![forbid(unsafe_code)]

pub mod bodies;
pub mod frames;
pub mod qpack;
pub mod requests;
pub mod tables;

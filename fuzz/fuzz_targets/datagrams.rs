//! See `sluice_net::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluice_net::fuzzing::run(data));

//! See `sluice_fuzz::qpack`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluice_fuzz::qpack::check(data));
